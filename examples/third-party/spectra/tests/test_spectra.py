"""A modality from outside: distilled, priced, scored by its own metric, and refused where it is of images."""

import json

import torch
from spectra import RowMeans, spectra

from ddcore import load_artifact


def run(ddcore_cli, out, *more):
    words = ["run", "--plugin", "spectra", "--plugin", "row-means", "--dataset", "minerals", "--ipc=2", "--steps=50"]
    return ddcore_cli(*words, "--threads=1", "--eval-seeds=1", "--full-epochs=5", "--out", out, *more)


def test_means_are_met_and_every_baseline_has_a_row_at_its_price_and_metric(ddcore_cli, tmp_path):
    answer = run(ddcore_cli, tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    plain = {row["set"]: row for row in rows if row.get("metric") is None}
    assert set(plain) == {"distilled", "random", "kcenter", "random-bytes", "full"}
    assert plain["random"]["bytes"]["images"] == 6 * 48
    assert {row["set"] for row in rows if row.get("metric") == "worst_class"} == set(plain)
    made, real = load_artifact(tmp_path / "run" / "artifact"), spectra(150, 48, torch.Generator().manual_seed(0))
    for cls in range(3):
        mean = made.pixels()[made.labels.classes == cls].mean(0)
        assert (mean - real.stored[real.labels == cls].mean(0)).abs().max() < 0.15


def test_what_is_of_images_is_refused_by_name(ddcore_cli, tmp_path):
    answer = run(ddcore_cli, tmp_path / "no", "--network=convnet3")
    assert answer.code == 2 and "'convnet3' is of square images" in answer.err


def test_the_matcher_works_on_images_too(ddcore_cli, tmp_path):
    assert {"images", "dense"} == RowMeans.modality
    answer = ddcore_cli("run", *ddcore_cli.tiny, "--plugin", "row-means", "--steps=2", "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
