"""Ranks, attacks, neighbours and gaps by hand and against slow twins; what a run says of a set of which the answer is known."""

import json
import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from ddcore_diagnose import halves, labels_at, losses, membership, read_groups, train_share
from ddcore_diagnose.measures import (
    accuracy_table,
    auc,
    caught,
    nearest,
    odds_gaps,
    rank_correlation,
    ranks,
    spread,
)

from ddcore import InputError
from ddcore.api.services import StudentData
from ddcore.labels import HardLabels, SoftLabels
from ddcore.scoring.evaluate import offered
from ddcore.testing import PROBE, check_plugin, ddcore_cli, tiny_run  # noqa: F401  fixtures

NAN = math.nan


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# ---- measures --------------------------------------------------------------------------------------------------------


def test_rank_correlation_by_hand():
    # ranks 1 2 3 4 and 2 1 4 3: rho = 1 - 6 (1 + 1 + 1 + 1) / (4 (16 - 1)) = 0.6
    assert rank_correlation(torch.tensor([1.0, 5, 7, 90]), torch.tensor([3.0, 2, 9, 8])) == pytest.approx(0.6)


def test_rank_correlation_in_its_limits():
    values = random(9)
    assert rank_correlation(values, values.exp()) == pytest.approx(1)
    assert rank_correlation(values, -values.log()) == pytest.approx(-1)
    assert math.isnan(rank_correlation(values, torch.ones(9)))


def test_ranks_are_their_slow_twin():
    values = torch.randint(0, 5, (20,), generator=torch.Generator().manual_seed(0)).float()
    due = [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]
    assert ranks(values).tolist() == pytest.approx([float(d) for d in due])


def test_the_area_is_its_slow_twin():
    one, other = (torch.randint(0, 6, (n,), generator=torch.Generator().manual_seed(n)).float() for n in (8, 11))
    due = sum(float(a > b) + 0.5 * float(a == b) for a, b in product(one, other)) / (8 * 11)
    assert auc(one, other) == pytest.approx(due)
    assert auc(other, one) == pytest.approx(1 - due)
    assert auc(one + 10, one) == 1 and auc(one, one) == 0.5
    assert auc(torch.full((2,), -math.inf), torch.full((3,), -math.inf)) == 0.5


def test_who_is_caught_at_one_percent_of_false_alarms():
    outside = torch.arange(200.0)  # 1 % of 200: two may be above the threshold, which so is 197
    assert caught(torch.tensor([197.0, 197.5, 300.0, 0.0]), outside) == 0.5
    assert caught(torch.tensor([9.0]), torch.tensor([9.0, 1.0])) == 0  # with two, none may be
    assert caught(torch.tensor([9.5]), torch.tensor([9.0, 1.0])) == 1


def test_as_many_false_alarms_as_are_allowed_are_taken_however_the_share_rounds():
    # 29 of 0 to 99 lie above 70; in floating point 0.29 * 100 is a little less than 29
    assert caught(torch.tensor([70.5, 70.0]), torch.arange(100.0), 0.29) == 0.5
    assert caught(torch.tensor([-9.0]), torch.arange(5.0), 1.0) == 1


def test_nearest_neighbours_are_their_slow_twin_in_any_number_of_parts(monkeypatch):
    images, real = random(4, 6), random(7, 6, seed=1)
    due = [min(float((a - b).norm()) for b in real) for a in images]
    assert nearest(images, real).tolist() == pytest.approx(due)
    monkeypatch.setattr("ddcore_diagnose.measures.AT_ONCE", 2)
    assert nearest(images, real).tolist() == pytest.approx(due)
    assert nearest(real[:2], real).tolist() == [0, 0]


def test_gaps_leave_out_what_has_no_samples():
    assert float(spread(torch.tensor([0.5, NAN, 0.25]))) == 0.25
    assert math.isnan(spread(torch.tensor([NAN, NAN])))
    assert spread(torch.tensor([[0.1, 0.4], [0.9, 0.4]]), 1).tolist() == pytest.approx([0.3, 0.5])


def test_odds_gaps_by_hand():
    # group 0: class 0 right 2 of 2, class 1 right 0 of 1; group 1: class 0 right 1 of 2, class 1 right 1 of 1
    right = torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    labels, groups = torch.tensor([0, 0, 1, 0, 0, 1]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert accuracy_table(right, labels, groups, 2, 2).tolist() == [[1, 0], [0.5, 1]]
    assert odds_gaps(right, labels, groups, 2, 2).tolist() == [0.5, 1]


# ---- what is asked of data -------------------------------------------------------------------------------------------


def test_an_attack_on_a_network_that_knows_its_members_by_heart_and_on_one_that_does_not():
    inside, outside = torch.full((5,), 0.01), torch.full((5,), 2.0)
    assert {k: float(v) for k, v in membership(inside, outside).items()} == {
        "membership_auc": 1,
        "membership_caught": 1,
    }
    assert float(membership(outside, outside)["membership_auc"]) == 0.5
    assert float(membership(outside, inside)["membership_auc"]) == 0


class ByHeart(torch.nn.Module):
    """Knows the classes of some images, and nothing else."""

    def __init__(self, images, classes):
        super().__init__()
        self.images, self.classes = images.flatten(1), classes

    def forward(self, images):
        same = torch.cdist(images.flatten(1), self.images) < 1e-3
        return 9 * same.float() @ torch.nn.functional.one_hot(self.classes, 3).float()


def test_members_are_a_students_own_images_or_all_train_images_of_sets_made_from_all(tiny_run):  # noqa: F811
    run = tiny_run("--plugin", "diagnose")
    own = torch.arange(0, 36, 6)
    data = StudentData(run.real.train.inputs(own), HardLabels(run.real.train.labels[own], 3))
    network, look = ByHeart(data.images, data.labels.classes).eval(), run.plugins["diagnose"].ddcore_examine
    found = {name: look(network, run.arm(name), data, None, run)["membership_auc"] for name in ("random", "distilled")}
    # of the six drawn of 36 train images some are known by heart; each that is beats all others, the rest are even
    drawn = torch.randperm(36, generator=run.generator("diagnose", "members", "inside"))[:6]
    known = torch.isin(drawn, own).double().mean()
    assert float(found["random"]) == 1 and float(found["distilled"]) == pytest.approx(float(0.5 + known / 2))
    assert look(network, run.arm("first-half"), data, None, run) is None


def test_losses_are_cross_entropies_and_nonsense_is_the_largest():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()
    images, classes = random(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    due = -network(images).log_softmax(1)[torch.arange(5), classes]
    torch.testing.assert_close(losses(network, images, classes), due.detach().double())
    assert losses(network, images * NAN, classes).tolist() == [math.inf] * 5


def test_losses_of_what_is_known_by_heart_are_small_but_told_apart():
    # two classes, logits 0 and -gap: the loss is log(1 + e^-gap), all but e^-gap
    gaps = torch.tensor([20.0, 30.0])
    found = losses(torch.nn.Flatten().eval(), torch.stack([0 * gaps, -gaps], 1)[:, :, None, None], torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([math.exp(-20), math.exp(-30)], rel=1e-2)


def test_halves_are_disjoint_and_have_as_many_of_each_class():
    classes = torch.tensor([1, 0, 1, 1, 0, 0, 0, 2, 2])
    first, second = halves(classes)
    assert not set(first.tolist()) & set(second.tolist())
    assert classes[first].bincount().tolist() == classes[second].bincount().tolist() == [2, 1, 1]


def test_labels_of_half_a_set_are_those_rows():
    logits, rows = random(4, 3), torch.tensor([3, 1])
    soft = labels_at(SoftLabels(logits, torch.tensor([0, 1, 2, 0])), rows)
    assert torch.equal(soft.logits, logits[rows]) and soft.classes.tolist() == [0, 1]
    assert labels_at(HardLabels(torch.tensor([0, 1, 2, 0]), 3), rows).classes.tolist() == [0, 1]


def test_copies_of_train_images_leak_those_of_held_out_ones_do_not_and_chance_is_in_between(tiny_run):  # noqa: F811
    run = tiny_run()
    train, held = run.real.train, run.real.test
    every = torch.arange(len(train))
    # 12 train and 6 held-out images of each class
    assert train_share(train.inputs(every), train.labels, run) == (1, pytest.approx(2 / 3))
    assert train_share(held.inputs(torch.arange(len(held))), held.labels, run)[0] == 0
    fresh = run.real.train.inputs(every) * 0 + 3 * torch.randn(36, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert 0.4 < train_share(fresh, train.labels, run)[0] < 0.9


def test_groups_are_names_a_line_for_each_test_image(tmp_path):
    (tmp_path / "groups.txt").write_text("night\nday\nnight\n")
    found, names = read_groups(str(tmp_path / "groups.txt"), 3)
    assert (found.tolist(), names) == ([1, 0, 1], ["day", "night"])
    with pytest.raises(InputError, match="names the groups of 3 images where 4 are scored"):
        read_groups(str(tmp_path / "groups.txt"), 4)


# ---- in a run --------------------------------------------------------------------------------------------------------

QUICK = ["--diagnose.subsets", 4, "--diagnose.draws", 1, "--diagnose.members", 12]


def rows_of(ddcore_cli, out, *words, matcher=("--plugin", "dm")):  # noqa: F811
    base = ["run", *ddcore_cli.tiny, *matcher, "--plugin", "diagnose", *QUICK, "--steps", 1, "--eval-seeds", 2]
    answer = ddcore_cli(*base, *words, "--out", out)
    assert answer.code == 0, answer.err
    found = json.loads((out / "scores.json").read_text())["rows"]
    return {row["set"]: row for row in found if row["set"] != "distilled" or row["labels"] == "hard"}


def test_every_diagnostic_is_a_row_of_the_honest_students(ddcore_cli, tmp_path):  # noqa: F811
    (tmp_path / "groups.txt").write_text("\n".join("ab"[n % 2] for n in range(18)))
    rows = rows_of(ddcore_cli, tmp_path / "run", "--diagnose.groups", tmp_path / "groups.txt")
    for name in ("distilled", "random", "full"):
        row = rows[name]
        assert rows[f"calibration of {name}"]["accuracy"]["values"] == row["calibration_error"]
        gaps = [max(seed) - min(seed) for seed in row["class_accuracy"]]
        assert rows[f"classes of {name}"]["accuracy"]["values"] == pytest.approx(gaps)
        assert rows[f"membership of {name}"]["accuracy"]["values"] == row["diagnose.membership_auc"]
        of_groups = [max(seed) - min(seed) for seed in row["diagnose.group_accuracy"]]
        assert rows[f"groups of {name}"]["accuracy"]["values"] == pytest.approx(of_groups)
        assert set(rows[f"groups of {name}"]["groups"]) == {"a", "b"}
        by_group = [sum(seed) / 2 for seed in row["diagnose.group_accuracy"]]
        assert by_group == pytest.approx(row["accuracy"]["values"], abs=1e-5)  # nine images in each
    assert rows["leakage of distilled"]["expected"] == pytest.approx(2 / 3, abs=1e-6)
    assert rows["first-half"]["images"] == rows["random-half"]["images"] == 3
    share = sum(rows["first-half"]["accuracy"]["values"]) / sum(rows["distilled"]["accuracy"]["values"])
    assert rows["first-half"]["share_of_whole"] == pytest.approx(share, abs=1e-5)
    ranking = rows["ranking by loss"]
    rho = rank_correlation(torch.tensor(ranking["losses"]), torch.tensor(ranking["accuracies"]))
    due = 0.5 if math.isnan(rho) else (1 - rho) / 2
    assert len(set(ranking["losses"])) == 4 and ranking["accuracy"]["mean"] == pytest.approx(due)


def test_losses_are_those_of_the_matcher_on_the_images_that_students_saw(tiny_run):  # noqa: F811
    from ddcore.api.types import Task
    from ddcore.runs.loop import begin, outer_step

    run = tiny_run("--plugin", "dm", "--plugin", "diagnose", ipc=2, diagnose__subsets=2)
    data = offered(run, "subset", 1)
    classes = data.labels.classes
    assert classes.tolist() == [0, 0, 1, 1, 2, 2]
    before = data.images.clone()
    found = run.matching_loss(data.images, classes, 3)
    assert torch.equal(data.images, before) and run.matching_loss(data.images, classes, 3) == found
    run.initialize = lambda classes, task: data.images.clone()
    task = Task("distil", "distil-000", 1, classes=classes)
    assert outer_step(task, 3, begin(task, run), run) == pytest.approx(found)
    assert not torch.equal(offered(run, "subset", 0).images, data.images)


def test_a_subset_that_is_too_small_for_the_matcher_has_no_loss(tiny_run):  # noqa: F811
    run = tiny_run("--plugin", "dm", ipc=2)
    images = run.real.train.inputs(torch.tensor([0, 12, 24]))
    assert run.matching_loss(images, torch.tensor([0, 1, 2])) is None


def test_what_cannot_be_told_is_left_out_and_said(ddcore_cli, tmp_path):  # noqa: F811
    quick = ["--no-halves", "--no-leakage", "--members=0", "--subsets=0"]
    rows = rows_of(ddcore_cli, tmp_path / "a", *(word.replace("--", "--diagnose.", 1) for word in quick), matcher=PROBE)
    more = {name for name in rows if " of " in name or "half" in name or "rank" in name}
    assert more == {
        f"{what} of {name}" for what in ("calibration", "classes") for name in ("distilled", "random", "full")
    }
    rows = rows_of(ddcore_cli, tmp_path / "b", "--ipc", 1, matcher=PROBE)
    assert "first-half" not in rows


def test_a_missing_line_among_groups_is_one_sentence(ddcore_cli, tmp_path):  # noqa: F811
    (tmp_path / "groups.txt").write_text("a\nb\n")
    words = ["run", *ddcore_cli.tiny, *PROBE, "--plugin", "diagnose", "--diagnose.groups", tmp_path / "groups.txt"]
    answer = ddcore_cli(*words, "--steps", 0, "--out", tmp_path / "run")
    assert answer.code == 2 and "groups of 2 images where 18 are scored" in answer.err


def test_a_student_is_a_function_of_its_task_and_the_run_so_that_any_process_finds_the_same(ddcore_cli, tmp_path):  # noqa: F811
    from ddcore.runs.opening import open_run
    from ddcore.scoring.evaluate import artifact_of, identify, run_evaluation_task, task_of

    rows_of(ddcore_cli, tmp_path / "run")
    run = open_run(str(tmp_path / "run"), worker=True)
    for name, number in (("subset", 3), ("second-half", 1), ("distilled", 0)):
        task = task_of(run.arm(name), number, identify(artifact_of(run)))
        kept, again = run.checkpoints.result(task.key), run_evaluation_task(task, run)
        assert kept.keys() == again.keys()
        assert all(torch.equal(kept[n], again[n]) for n in kept if n != "seconds"), name
        assert ("examined.diagnose.loss" in kept) == (name == "subset")


def test_named_hooks_answer_for_their_own_names_only():
    from ddcore_diagnose import Diagnose

    run = SimpleNamespace(artifact=None)
    assert Diagnose().ddcore_student_data("random", 0, run) is None
    assert {"ddcore_student_data", "ddcore_examine"} <= set(dir(Diagnose))


def test_the_contract():
    check_plugin("diagnose")
