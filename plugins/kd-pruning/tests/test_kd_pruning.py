"""Pruned data with a teacher: the loss in closed form, scores by hand, what is kept, the arms that change nothing."""

import json
from types import SimpleNamespace

import pytest
import torch
from ddcore_kd_pruning import (
    KDPruning,
    alpha_of,
    distances_to_median,
    el2n,
    forgetting,
    hardest,
    middle,
    parts_of,
    scoring_descent,
    teacher_loss,
)
from torch.nn import functional as F

from ddcore import Vote
from ddcore.api.types import Seen
from ddcore.cli.app import invoke
from ddcore.commands.train import data_for
from ddcore.kit.contract import check_plugin
from ddcore.runs.opened import Opened
from ddcore.runs.opening import open_run
from ddcore.storage.places import Place, load_tensors
from ddcore.testing import resume_to_end, stop_often
from ddcore.training.teachers import state_hash
from ddcore.training.teaching import Teaching


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


S, T = seeded(6, 5), seeded(6, 5, seed=1)


def loss_of(plugin, student, teacher, classes):
    """All that a student descends under the plugin alone."""
    teaching = Teaching([Vote(torch.nn.Identity())], None)
    teaching.__dict__["seen"] = (Seen(teacher, {}),)
    term = plugin.ddcore_student_loss(student, teaching)
    own = plugin.label_factor() * F.cross_entropy(student, classes)
    return own if term is None else own + term.weight * term.value


# ---- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("squared", [True, False])
def test_the_teachers_part_equals_a_slow_twin(squared):
    total = 0.0
    for z_s, z_t in zip(S / 3, T / 3, strict=True):
        p_s, p_t = z_s.softmax(0), z_t.softmax(0)
        total = total + sum(p_t[c] * (p_t[c] / p_s[c]).log() for c in range(5))
    due = total / 6 * (9 if squared else 1)
    torch.testing.assert_close(teacher_loss(S, T, 3.0, squared=squared), due)


def test_check_with_alpha_one_labels_have_no_influence():
    plugin = KDPruning(alpha=1.0)
    classes = torch.tensor([0, 1, 2, 3, 4, 0])
    assert loss_of(plugin, S, T, classes) == loss_of(plugin, S, T, classes.flip(0))
    torch.testing.assert_close(loss_of(plugin, S, T, classes), teacher_loss(S, T, 4.0))


def test_check_a_student_with_the_teachers_answers_loses_nothing_and_does_not_move():
    student = T.clone().requires_grad_()
    loss = loss_of(KDPruning(alpha=1.0), student, T, torch.zeros(6, dtype=torch.int64))
    loss.backward()
    assert abs(float(loss.detach())) < 1e-12
    assert student.grad.abs().max() < 1e-12


def test_check_at_great_temperature_it_is_the_distance_of_centred_logits():
    gap = (S - S.mean(1, keepdim=True)) - (T - T.mean(1, keepdim=True))
    due = gap.square().sum(1).mean() / (2 * 5)
    torch.testing.assert_close(teacher_loss(S, T, 1e4), due, rtol=1e-3, atol=0)  # the next order is 1 / tau


@pytest.mark.parametrize(("squared", "factor"), [(True, 3.0), (False, 1 / 3.0)])
def test_check_the_gradient_is_the_gap_of_probabilities_times_or_over_the_temperature(squared, factor):
    student = S.clone().requires_grad_()
    teacher_loss(student, T, 3.0, squared=squared).backward()
    due = factor / 6 * ((S / 3).softmax(1) - (T / 3).softmax(1))
    torch.testing.assert_close(student.grad, due)


def test_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(lambda s: teacher_loss(s, T, 3.0), S.clone().requires_grad_())


def fitted(alpha: float) -> float:
    """How far a linear student of 12 noisy rows ends from the linear teacher of them, in logits up to a constant a row."""
    rows, truth = seeded(12, 3), seeded(3, 4, seed=1)
    labels = (rows @ truth + 3 * seeded(12, 4, seed=2)).argmax(1)
    weights = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    plugin = KDPruning(alpha=alpha, temperature=1.0)
    precise = {"max_iter": 400, "tolerance_grad": 1e-12, "tolerance_change": 1e-15, "line_search_fn": "strong_wolfe"}
    descent = torch.optim.LBFGS([weights], **precise)

    def closure():
        descent.zero_grad()
        loss = loss_of(plugin, rows @ weights, rows @ truth, labels)
        loss.backward()
        return loss

    descent.step(closure)
    gap = weights.detach() - truth
    return float((gap - gap.mean(1, keepdim=True)).norm())


def test_check_a_linear_student_of_few_rows_becomes_the_teacher_as_alpha_goes_to_one():
    gaps = [fitted(alpha) for alpha in (0.3, 0.6, 0.9, 1.0)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-5 < gaps[-2]


def test_check_ridge_the_same_in_squares():
    # the loss at great temperature is a square (the check above): its minimum is the least-squares fit of mixed targets
    rows, truth, labels = seeded(9, 3), seeded(3, 1, seed=1), seeded(9, 1, seed=2)
    own = torch.linalg.lstsq(rows, labels).solution
    for alpha in (0.0, 0.4, 1.0):
        mixed = torch.linalg.lstsq(rows, (1 - alpha) * labels + alpha * rows @ truth).solution
        torch.testing.assert_close(mixed, (1 - alpha) * own + alpha * truth)


def test_alpha_follows_the_share_only_if_asked():
    assert KDPruning(share=0.2).weight == 0.9
    assert KDPruning(share=0.2, alpha=None).weight == alpha_of(0.2) == pytest.approx(0.82)
    assert KDPruning(alpha=0.0).label_factor() == 1.0
    assert KDPruning(alpha=0.25).label_factor() == 0.75
    assert KDPruning(alpha=0.0).assets(None) == ()


# ---- scores and selection --------------------------------------------------------------------------------------------


def test_el2n_by_hand():
    # p = (1/2, 1/2): (1/2 - 1, 1/2) has length sqrt(1/2); a sure wrong answer sqrt 2, a sure right one 0
    z = torch.tensor([[0.0, 0.0], [0.0, 800.0], [800.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(el2n(z, torch.tensor([0, 0, 0])), torch.tensor([0.5, 2, 0], dtype=torch.float64).sqrt())


def test_forgetting_equals_a_loop():
    correct = torch.rand(6, 40, generator=gen()) < 0.5
    correct[:, 0] = False
    due = []
    for column in correct.T.tolist():
        falls = sum(a and not b for a, b in zip(column, column[1:], strict=False))
        due.append(falls if any(column) else 6)
    assert forgetting(correct).tolist() == due


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_distances_are_to_the_median_of_ones_class(kind):
    x = torch.tensor([[0.0, 0], [1, 0], [5, 0], [0, 2], [0, 4]], dtype=kind)
    found = distances_to_median(x, torch.tensor([7, 7, 7, 2, 2]))
    assert found.tolist() == [1, 0, 4, 1, 1]


def test_the_hardest_come_first_and_equals_by_chance():
    assert sorted(hardest(torch.tensor([0.1, 0.9, 0.5]), 2, gen()).tolist()) == [1, 2]
    first = {int(hardest(torch.zeros(5), 1, gen(seed))) for seed in range(40)}
    assert first == set(range(5))


def test_the_middle_leaves_out_both_ends():
    scores = torch.tensor([5.0, 1, 4, 2, 3, 0, 6])
    assert sorted(scores[middle(scores, 3, gen())].tolist()) == [2, 3, 4]
    assert sorted(scores[middle(scores, 4, gen())].tolist()) == [1, 2, 3, 4]
    assert len(middle(scores, 7, gen())) == 7


def test_balanced_parts_are_the_classes():
    classes = torch.tensor([2, 0, 2, 0, 0])
    assert [p.tolist() for p in parts_of(torch.arange(5), classes, True)] == [[1, 3, 4], [0, 2]]
    assert [p.tolist() for p in parts_of(torch.arange(5), classes, False)] == [[0, 1, 2, 3, 4]]


def held(counts=(40, 20, 10)):
    return SimpleNamespace(labels=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)))


@pytest.mark.parametrize("balanced", [True, False])
def test_check_a_share_of_one_keeps_all(balanced):
    plugin = KDPruning(share=1.0, balanced=balanced)
    assert plugin.kept(torch.arange(70), held(), gen(), None).tolist() == list(range(70))


def test_each_class_keeps_its_share_and_chance_none():
    plugin = KDPruning(share=0.1)
    kept = [plugin.kept(torch.arange(70), held(), gen(seed), None) for seed in range(3)]
    assert all(held().labels[rows].bincount().tolist() == [4, 2, 1] for rows in kept)
    assert kept[0].tolist() != kept[1].tolist()
    assert len(KDPruning(share=0.1, balanced=False).kept(torch.arange(70), held(), gen(), None)) == 7


def test_transformers_are_scored_with_another_optimiser():
    assert scoring_descent("images", 300, 2, None).steps == 6
    assert [scoring_descent(kind, 300, 2, None).optimizer for kind in ("images", "text")] == ["sgd", "adamw"]
    assert scoring_descent("text", 300, 2, 0.3).rate == 0.3


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"alpha": 1.1}, {"temperature": 0.0}, {"epochs": 0}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        KDPruning(**wrong)


# ---- in a run --------------------------------------------------------------------------------------------------------

QUICK = ["--student=convnet2-w4", "--protocol=kd-3", "--eval-seeds=1", "--threads=1", "--data=digits", "--per-class=10"]
TEACHER = ["--teacher=resnet8", "--teachers.epochs=2", "--teachers.no-check"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def train(cache, out, *words):
    return invoke(["train", "--plugin=kd-pruning", *QUICK, f"--cache={cache}", f"--out={out}", *words])


def weights(out, arm="student"):
    return load_tensors(Place.at(out / "students" / f"{arm}-0.safetensors"))


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def event(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return next(line for line in lines if line["event"] == "kd-pruning")


def test_the_contract_is_kept():
    check_plugin("kd-pruning")


def test_check_without_alpha_it_is_plain_training_on_what_is_kept_bit_for_bit(cache, tmp_path):
    half = """
from typing import ClassVar
import torch
from attrs import frozen
from ddcore import Plugin, hookimpl

@frozen(kw_only=True, eq=False)
class Kept(Plugin):
    summary: ClassVar[str] = "given rows, for tests"
    role: ClassVar[str] = "student"

    def visited(self, count):
        return len(ROWS)

    @hookimpl
    def ddcore_student_rows(self, rows):
        return torch.tensor(ROWS)
"""
    taught = ["--kd-pruning.share=0.4", "--kd-pruning.alpha=0"]
    assert train(cache, tmp_path / "a", *taught, "--no-plain") == 0
    assert '"teacher"' not in (tmp_path / "a" / "log.jsonl").read_text()
    kept = kept_in(tmp_path / "a")
    file = tmp_path / "kept.py"
    file.write_text(half.replace("ROWS", repr(kept)))
    words = ["train", "--plugin-path", str(file), *QUICK, f"--out={tmp_path / 'b'}", "--no-plain"]
    assert invoke(words) == 0
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def kept_in(out):
    """The kept rows once more, from the run's seed."""
    run = open_run(str(out))
    chosen = KDPruning(share=0.4, alpha=0.0)
    labels = data_for(run, "student", 0).labels.classes
    drawn = run.generator("train", 0, "rows", "kd-pruning", 0)
    return chosen.kept(torch.arange(len(labels)), SimpleNamespace(labels=labels), drawn, run).tolist()


def test_all_rows_without_alpha_are_the_plain_student(cache, tmp_path):
    assert train(cache, tmp_path / "a", "--kd-pruning.share=1", "--kd-pruning.alpha=0") == 0
    assert same(weights(tmp_path / "a"), weights(tmp_path / "a", "plain"))


@pytest.mark.parametrize("how", ["el2n", "forgetting", "moderate"])
def test_scores_choose_and_the_teacher_teaches(cache, tmp_path, how):
    words = [*TEACHER, f"--kd-pruning.select={how}", "--kd-pruning.epochs=2", "--kd-pruning.share=0.4"]
    assert train(cache, tmp_path / "a", *words) == 0
    assert event(tmp_path / "a")["classes"] == [4] * 10
    rows = json.loads((tmp_path / "a" / "scores.json").read_text())["rows"]
    assert {row["set"]: row["steps"] for row in rows} == {"teacher": 0, "student": 3, "plain": 3}


def test_check_the_teacher_gets_no_gradient_and_its_statistics_stay(cache, tmp_path, monkeypatch):
    seen, plain = [], Opened.votes

    def votes(run, *given, **more):
        found = plain(run, *given, **more)
        seen.append((found[0].network, state_hash(found[0].network)))
        return found

    monkeypatch.setattr(Opened, "votes", votes)
    assert train(cache, tmp_path / "a", *TEACHER, "--no-plain") == 0
    for network, before in seen:
        assert state_hash(network) == before
        assert not network.training and all(p.grad is None for p in network.parameters())
    assert seen


def test_a_stopped_student_keeps_its_rows(cache, tmp_path, monkeypatch):
    words = ["--kd-pruning.alpha=0", "--kd-pruning.select=el2n", "--kd-pruning.epochs=1", "--no-plain"]
    assert train(cache, tmp_path / "whole", *words) == 0
    stop_often(monkeypatch)
    assert train(cache, tmp_path / "cut", *words) == 3
    assert resume_to_end(tmp_path / "cut") == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert (tmp_path / "cut" / "log.jsonl").read_text().count('"kd-pruning"') == 1


def test_sentences_are_pruned_too(cache, tmp_path):
    pytest.importorskip("ddcore_text")
    words = ["--plugin=text", "--data=sentences", "--student=transformer1-w16", "--protocol=text-2", "--no-plain"]
    words += [
        "--eval-seeds=1",
        "--threads=1",
        f"--out={tmp_path / 'a'}",
        "--kd-pruning.alpha=0",
        "--kd-pruning.epochs=1",
    ]
    assert invoke(["train", "--plugin=kd-pruning", "--kd-pruning.select=el2n", *words]) == 0
    assert event(tmp_path / "a")["classes"] == [20, 20]
