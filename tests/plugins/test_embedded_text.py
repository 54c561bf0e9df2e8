"""Sentences as rows of word vectors go the way of images: distilled, labelled by teachers, scored, evaluated again."""

import json

import pytest
import torch

from ddcore import load_artifact
from ddcore.cli.app import invoke

DATA = (
    "--plugin",
    "text",
    "--dataset",
    "embedded-sentences",
    "--text.length",
    "8",
    "--text.dimensions",
    "4",
    "--threads",
    "1",
)
SMALL = ("--network", "textcnn-w8", "--eval-seeds", "1", "--full-epochs", "1", "--ipc", "2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    words = [
        "--plugin",
        "dm",
        *DATA,
        *SMALL,
        "--steps",
        "20",
        "--protocol",
        "plain-20",
        "--cache",
        str(folder / "cache"),
    ]
    labels = ["--labels", "averaged", "--teachers.epochs", "1", "--teachers.networks", "textcnn-w8"]
    assert invoke(["run", *words, *labels, "--out", str(folder / "run")]) == 0
    return folder


def test_rows_are_learned_and_every_baseline_stands_beside_them_at_the_price_of_ids(made):
    rows = {(row["set"], row["labels"]): row for row in json.loads((made / "run/scores.json").read_text())["rows"]}
    assert {name for name, _ in rows} == {"distilled", "random", "kcenter", "random-bytes", "full"}
    assert rows["random", "hard"]["bytes"]["images"] == 4 * 8 * 2
    artifact = load_artifact(made / "run/artifact")
    assert artifact.images().shape == (4, 4, 8) and artifact.labels.kind == "soft"
    assert artifact.manifest["kind"] == "embeddings" and bool(torch.isfinite(artifact.images()).all())


def test_the_set_is_evaluated_by_another_network(made, capsys):
    words = ["evaluate", str(made / "run/artifact"), *DATA, "--cache", str(made / "cache"), "--eval-seeds", "1"]
    assert invoke([*words, "--eval-network", "mlp", "--protocol", "plain-2", "--rows", "distilled"]) == 0
    assert "mlp" in capsys.readouterr().out


def test_images_networks_are_refused_by_name(tmp_path, capsys):
    assert invoke(["run", "--plugin", "dm", *DATA, "--network", "convnet3", "--out", str(tmp_path / "no")]) == 2
    assert "'convnet3' is of square images" in capsys.readouterr().err
