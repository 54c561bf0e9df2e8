"""What a set is worth, in a sentence: what it beats, by how much, and what not."""

import json

import numpy as np
import pytest

from ddcore.cli.app import invoke
from ddcore.composing.verdict import difference, verdicts


def row(name, *values, labels="hard", **more):
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    accuracy = {"mean": float(np.mean(values)), "std": deviation, "values": list(values)}
    return {"set": name, "labels": labels, "network": "net", "protocol": "quick", "accuracy": accuracy, **more}


def test_by_hand():
    own, random, kcenter = row("distilled", 0.7, 0.8, 0.9), row("random", 0.4, 0.5, 0.6), row("kcenter", 0.8, 0.8, 0.8)
    assert difference(own, random) == (pytest.approx(0.3), pytest.approx(0.02**0.5))
    assert verdicts([own, random, kcenter, row("full", 1.0, 1.0, 1.0)]) == [
        "verdict on distilled (hard, net, quick): beats random by 0.300 ± 0.141; does not beat kcenter (+0.000 ± 0.100); ± is "
        "the deviation of the difference over 3 seeds"
    ]


@pytest.mark.parametrize(
    ("values", "chance"), [((0.5,), True), ((0.54,), True), ((0.3,), True), ((0.56,), False), ((0.9,), False)]
)
def test_a_score_that_guessing_gives_is_called_so(values, chance):
    (said,) = verdicts([row("distilled", *values, class_accuracy=[[1.0, 0.0]]), row("random", 0.95)])
    assert ("at chance (" in said) == chance and "guessing among 2 classes gives 0.500" in said or not chance
    assert "worse than random real ones; does not beat random (-" in said and said.endswith("one seed: no uncertainty")


def test_within_the_deviation_nothing_is_beaten_and_nothing_is_worse():
    for values in ((0.52, 0.58), (0.42, 0.48)):
        (said,) = verdicts([row("distilled", *values), row("random", 0.4, 0.6)])
        assert "does not beat random" in said and "beats" not in said and "worse" not in said


def test_soft_labels_are_set_beside_soft_ones_where_there_are():
    rows = [row("distilled", 0.6, labels="soft"), row("random", 0.7, labels="soft"), row("random", 0.5)]
    assert "does not beat random (-0.100)" in verdicts(rows)[0]
    assert "beats random by 0.100" in verdicts([rows[0], rows[2]])[0]


def test_rows_of_other_columns_are_no_rivals_and_smaller_may_be_better():
    assert not verdicts([row("distilled", 0.6), row("random", 0.7, protocol="other"), row("teacher", 0.9)])
    error = {"metric": "error", "better": "smaller"}
    assert "beats random by 0.100" in verdicts([row("distilled", 0.6, **error), row("random", 0.7, **error)])[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, probes):
    """A ruined set of two classes and one of real images, each beside random ones."""
    folder, draw = tmp_path_factory.mktemp("verdict"), np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 40), ("test", 20)):
        labels = np.repeat(np.arange(2), count)
        images = draw.integers(0, 100, (2 * count, 8, 8)) + 120 * labels[:, None, None]
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    np.savez(folder / "two.npz", **arrays)
    for name, words, seeds in (("ruined", ("--pull.rate", "1e9", "--steps", "2"), 1), ("well", ("--steps", "0"), 3)):
        quick = ["--threads", "1", "--protocol", "quick-20", "--network", "convnet1-w4", "--eval-seeds", str(seeds)]
        where = ["--dataset", f"npz:{folder}/two.npz", "--out", str(folder / name), "--cache", str(folder / "cache")]
        assert invoke(["run", "--plugin", "pull", *words, *quick, *where]) == 0
    return folder


def test_the_verdict_stands_under_the_table_in_the_report_and_in_comparisons(runs, capsys):
    assert (
        invoke(
            [
                "evaluate",
                str(runs / "ruined" / "artifact"),
                "--threads",
                "1",
                "--protocol",
                "quick-20",
                "--eval-seeds",
                "1",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "verdict on distilled (hard, " in out and "one seed: no uncertainty" in out
    assert "worse than random real ones" in out or "at chance" in out
    report = (runs / "ruined" / "report.html").read_text()
    assert "verdict on distilled (hard, " in report and "does not beat random (-" in report
    assert invoke(["compare", str(runs / "ruined"), str(runs / "well"), "--json"]) == 0
    ruined, well = json.loads(capsys.readouterr().out)["verdicts"]
    assert ruined.startswith("ruined: verdict on distilled") and "distilled (hard) of well (-" in ruined
    assert well.startswith("well: verdict on distilled") and "beats distilled (hard) of ruined by " in well
    assert "over 3 seeds" in well and "over" not in ruined
    assert invoke(["compare", str(runs / "ruined"), str(runs / "well")]) == 0
    assert "well: verdict on distilled" in capsys.readouterr().out
