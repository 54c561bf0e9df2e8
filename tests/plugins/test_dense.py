"""A modality of rows (D,) that the core has never heard of: the core's own path, from labels to comparison."""

import json
from pathlib import Path

import pytest
import torch

from ddcore import load_artifact
from ddcore.cli.app import invoke

PACK = """
import torch
from attrs import frozen
from ddcore import Plugin, hookimpl
from ddcore.data import Source, Split

@frozen(kw_only=True, eq=False)
class Rows(Plugin):
    role = "data"
    modality = frozenset({"probe", "dense"})
    datasets = ("blobs",)

    @hookimpl
    def ddcore_data(self, name, rest, options):
        if name != "blobs":
            return None
        generator = torch.Generator().manual_seed(0)
        centres = 3 * torch.randn(3, 6, generator=generator)
        def part(count):
            labels = torch.arange(count) % 3
            return Split(centres[labels] + torch.randn(count, 6, generator=generator), labels)
        return Source(name="blobs", train=part(60), test=part(30), classes=("a", "b", "c"), modality="probe",
                      dense=True, row_bytes=12, mirror_symmetric=False)
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    (folder / "probe.py").write_text(PACK)
    data = ["--plugin-path", str(folder / "probe.py"), "--dataset", "blobs", "--cache", str(folder / "cache")]
    return [*data, "--threads", "1"]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("dense") / "run")
    small = ["--ipc", "2", "--steps", "3", "--network", "mlp", "--protocol", "plain-2", "--eval-seeds", "1"]
    assert invoke(["run", "--plugin", "dm", *words, *small, "--full-epochs", "1", "--out", out]) == 0
    return Path(out)


def rows_of(place):
    return {row["set"]: row for row in json.loads((place / "scores.json").read_text())["rows"]}


def test_a_run_has_every_honest_row_each_at_its_price(run):
    rows = rows_of(run)
    assert set(rows) == {"distilled", "random", "kcenter", "random-bytes", "full"}
    assert rows["random"]["bytes"] == {"images": 6 * 12, "labels": 6, "models": 0, "total": 6 * 13}
    made = load_artifact(run / "artifact")
    assert made.images().shape == (6, 6) and made.labels.classes.tolist() == [0, 0, 1, 1, 2, 2]
    assert (made.manifest["kind"], made.manifest["dense"], made.manifest["row_bytes"]) == ("probe", True, 12)
    assert made.equivalent_ipc == pytest.approx(made.nbytes["total"] / 13 / 3)
    assert "method" in made.manifest["provenance"] and made.method == "dm"
    assert "probe-classification" in (run / "artifact" / "README.md").read_text()
    assert rows["random-bytes"]["ipc"] * 3 == made.nbytes["total"] // 13


def test_the_set_is_evaluated_labelled_again_trained_on_reported_and_compared(run, words, tmp_path, capsys):
    artifact, again, taught, other = (str(run / "artifact"), *(str(tmp_path / n) for n in ("again", "taught", "other")))
    assert invoke(["inspect", artifact]) == 0
    few = ["--protocol", "plain-1", "--eval-seeds", "1"]
    assert invoke(["evaluate", artifact, *words, *few, "--full-epochs", "1", "--out", other]) == 0
    teachers = ["--labels", "averaged", "--teachers.epochs", "1", "--teachers.networks", "mlp"]
    assert invoke(["relabel", artifact, *teachers, *words, "--out", again]) == 0
    made = load_artifact(again)
    assert made.labels.kind == "soft" and torch.equal(made.images(), load_artifact(artifact).images())
    assert invoke(["train", "--student", "mlp", "--data", again, "--trust", *words, *few, "--out", taught]) == 0
    assert invoke(["report", str(run)]) == 0
    assert invoke(["compare", str(run), other]) == 0
    capsys.readouterr()


def test_a_run_that_lost_its_scores_is_gone_on_with(run, capsys):
    before = rows_of(run)
    (run / "scores.json").unlink()
    assert invoke(["resume", str(run)]) == 0
    after = rows_of(run)
    assert {n: r["accuracy"] for n, r in after.items()} == {n: r["accuracy"] for n, r in before.items()}
    capsys.readouterr()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--plugin", "dsa"], "'dsa' (ddcore-dsa 0.1.0) works on images, and 'blobs' holds probe"),
        (["--labels", "per-view"], "--labels per-view is of views of images, and these are probe"),
        (["--network", "convnet"], "network 'convnet' is of square images"),
        (["--resize", "8"], "--resize is of images"),
    ],
)
def test_what_is_of_images_is_refused_by_name(asked, said, words, tmp_path, capsys):
    network = [] if "--network" in asked else ["--network", "mlp"]
    assert invoke(["run", "--plugin", "dm", *words, *network, *asked, "--out", str(tmp_path / "no")]) == 2
    assert said in capsys.readouterr().err
