"""The two scores: published values, limits, refusals, and what a run makes of its own rows."""

import json
import math

import pytest
from ddcore_robust import augmentation_robust_score, difference, label_robust_score, score

from ddcore.testing import PROBE, check_plugin, ddcore_cli  # noqa: F401  a fixture


@pytest.mark.parametrize(("alpha", "due"), [(0, 0.26894), (1, 1), (-1, 0), (-0.275, 0.16665)])
def test_the_scale(alpha, due):
    assert score(alpha) == pytest.approx(due, abs=5e-6)


@pytest.mark.parametrize(
    ("gain", "missing", "due"), [(0.05, 0.60, 0.16665), (0.1, 0.3, 0.22845), (1, 0, 0.54495), (0, 0, 0.26894)]
)
def test_label_robust_scores_by_hand(gain, missing, due):
    # w = 1/2: alpha = (gain - missing) / 2; (e^alpha - 1/e) / (e - 1/e)
    assert label_robust_score(gain, missing) == pytest.approx(due, abs=5e-6)
    alpha = (gain - missing) / 2
    assert label_robust_score(gain, missing) == (math.exp(alpha) - 1 / math.e) / (math.e - 1 / math.e)


def test_the_ends_of_the_weights_leave_one_part():
    assert label_robust_score(0.3, 0.9, 1.0) == label_robust_score(0.3, 0.1, 1.0) == score(0.3)
    assert label_robust_score(0.3, 0.9, 0.0) == score(-0.9)
    assert augmentation_robust_score(0.2, -0.4, 1.0) == score(0.2)
    assert augmentation_robust_score(0.2, -0.4, 0.0) == score(-0.4)
    assert augmentation_robust_score(0.2, 0.4) == pytest.approx(score(0.3))


def test_more_gain_is_better_and_more_missing_is_worse():
    steps = [n / 10 for n in range(-10, 11)]
    assert [label_robust_score(g, 0.5) for g in steps] == sorted(label_robust_score(g, 0.5) for g in steps)
    falling = [label_robust_score(0.1, m) for m in steps]
    assert falling == sorted(falling, reverse=True)
    assert all(0 <= label_robust_score(g, m) <= 1 for g in steps for m in steps)


def test_percent_are_refused():
    with pytest.raises(ValueError, match="divide percent by 100"):
        difference(55.0, 30.0)


def rows_of(ddcore_cli, tmp_path, *words):  # noqa: F811
    out = tmp_path / "run"
    base = ["run", *ddcore_cli.tiny, *PROBE, "--plugin", "robust", "--steps", 1, "--eval-seeds", 2, "--out", out]
    answer = ddcore_cli(*base, *words)
    assert answer.code == 0, answer.err
    return json.loads((out / "scores.json").read_text())["rows"]


def of(rows, name, labels="hard"):
    (row,) = [row for row in rows if row["set"] == name and row["labels"] == labels]
    return row


def test_scores_are_of_the_rows_beside_them_seed_by_seed(ddcore_cli, tmp_path):  # noqa: F811
    rows = rows_of(ddcore_cli, tmp_path, "--robust.label-weight", 0.25)
    ours, random, full = (of(rows, name)["accuracy"]["values"] for name in ("distilled", "random", "full"))
    row = of(rows, "label-robust")
    assert row["gain_over_random"] == [round(a - b, 6) for a, b in zip(ours, random, strict=True)]
    assert row["hard_label_recovery"] == [round(a - b, 6) for a, b in zip(full, ours, strict=True)]
    due = [
        label_robust_score(g, m, 0.25) for g, m in zip(row["gain_over_random"], row["hard_label_recovery"], strict=True)
    ]
    assert row["accuracy"]["values"] == pytest.approx(due, abs=1e-5)
    assert row["metric"] == "label-robust score" and row["bytes"] == of(rows, "distilled")["bytes"]
    bare = of(rows, "augmentation-robust")
    assert bare["gain_augmented"] == row["gain_over_random"]
    due = [augmentation_robust_score(a, b) for a, b in zip(bare["gain_augmented"], bare["gain_bare"], strict=True)]
    assert bare["accuracy"]["values"] == pytest.approx(due, abs=1e-5)


def test_students_without_augmentation_are_trained_once_and_without_it(ddcore_cli, tmp_path):  # noqa: F811
    rows_of(ddcore_cli, tmp_path, "--robust.no-augment-hard")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    done = [line["key"] for line in log if line["event"] == "task" and line["kind"] == "evaluate"]
    # five honest rows; bare ones of full, distilled and random
    assert len(done) == len(set(done)) == 2 * 5 + 2 * 3
    assert {line["protocol"] for line in log if line["event"] == "epoch"} == {"quick-1", "bare-quick-1"}


def test_labels_with_views_of_their_own_are_taken_away_for_the_second_score(ddcore_cli, tmp_path):  # noqa: F811
    quick = [
        "--teachers.networks",
        "convnet2-bn-w4",
        "--teachers.epochs",
        2,
        "--teachers.no-check",
        "--views.epochs",
        2,
    ]
    rows = rows_of(ddcore_cli, tmp_path, "--labels", "per-view", *quick)
    first, second = of(rows, "label-robust", "per-view"), of(rows, "augmentation-robust")
    ours, random = (of(rows, name, "per-view")["accuracy"]["values"] for name in ("distilled", "random"))
    assert first["gain_over_random"] == [round(a - b, 6) for a, b in zip(ours, random, strict=True)]
    hard, whole = (of(rows, name)["accuracy"]["values"] for name in ("distilled", "full"))
    assert first["hard_label_recovery"] == [round(a - b, 6) for a, b in zip(whole, hard, strict=True)]
    assert "per-view ones are of augmented views" in second["note"]


def test_the_contract():
    check_plugin("robust")
