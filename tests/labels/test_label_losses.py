"""What a student loses by labels: formulas, gradients and limits of the divergence and of the two distances."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddcore.labels import distance_gap, distances, kl_divergence, student_loss

KL = {"loss": "kl", "temperature": 20.0, "tau_squared": False}
DISTANCES = {"loss": "two-distances", "weight": 2.0, "norm": "squared", "temperature": 1.0}
OWN, MIXED, LAM = torch.tensor([0, 2, 1, 1]), torch.tensor([1, 0, 1, 2]), torch.tensor([0.25, 0.5, 1.0, 0.75])


def logits(seed: int, rows: int = 4, classes: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def told(teacher: Tensor) -> dict[str, Tensor]:
    return {"class": OWN, "mixed": MIXED, "lam": LAM, "distance": distances(teacher, OWN, MIXED)}


def grad(loss: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(loss, leaf)[0]


# ---- the divergence --------------------------------------------------------------------------------------------------


def test_sre2l_kl_gradient_is_the_difference_of_softmaxes_over_tau_b():
    student, teacher = logits(1).requires_grad_(), logits(2)
    due = ((student / 20).softmax(1) - (teacher / 20).softmax(1)) / (20 * 4)
    torch.testing.assert_close(grad(student_loss(student, {"logits": teacher}, KL), student), due.detach())


def test_sre2l_kl_is_zero_for_equal_logits_and_above_it_otherwise():
    assert float(student_loss(logits(1), {"logits": logits(1)}, KL)) == pytest.approx(0, abs=1e-15)
    assert (kl_divergence(logits(1), logits(2)) > 0).all()


@pytest.mark.parametrize("tau_squared", [False, True])
def test_kl_is_torchs_batchmean_and_tau_squared_multiplies_it(tau_squared):
    ours = student_loss(logits(1), {"logits": logits(2)}, {**KL, "tau_squared": tau_squared})
    theirs = F.kl_div((logits(1) / 20).log_softmax(1), (logits(2) / 20).softmax(1), reduction="batchmean")
    torch.testing.assert_close(ours, theirs * (400 if tau_squared else 1))


def test_kl_and_soft_cross_entropy_have_the_same_gradient():
    student, teacher = logits(1).requires_grad_(), {"logits": logits(2)}
    entropy = student_loss(student, teacher, {**KL, "loss": "soft-cross-entropy"})
    torch.testing.assert_close(grad(student_loss(student, teacher, KL), student), grad(entropy, student))


def test_classes_of_logit_minus_infinity_have_probability_zero_and_do_no_harm():
    student, teacher = logits(1).requires_grad_(), logits(2)
    teacher[:, 1] = -math.inf
    loss = student_loss(student, {"logits": teacher}, KL)
    # the sum over the two classes left, by hand
    p, q = (teacher[:, [0, 2]] / 20).softmax(1), (student / 20).log_softmax(1)[:, [0, 2]]
    torch.testing.assert_close(loss, (p * (p.log() - q)).sum(1).mean())
    assert grad(loss, student).isfinite().all()


# ---- mixes and weights -----------------------------------------------------------------------------------------------


def test_mixed_classes_share_the_cross_entropy():
    targets = {"class": OWN, "mixed": MIXED, "lam": LAM}
    rows = [LAM[i] * -logits(1)[i].log_softmax(0)[OWN[i]] for i in range(4)]
    rows = [r + (1 - LAM[i]) * -logits(1)[i].log_softmax(0)[MIXED[i]] for i, r in enumerate(rows)]
    torch.testing.assert_close(
        student_loss(logits(1), targets, {"loss": "cross-entropy"}), torch.stack(rows).mean(), check_dtype=False
    )


def test_a_share_of_one_is_the_plain_cross_entropy():
    targets = {"class": OWN, "mixed": MIXED, "lam": torch.ones(4)}
    plain = student_loss(logits(1), {"class": OWN}, {"loss": "cross-entropy"})
    torch.testing.assert_close(student_loss(logits(1), targets, {"loss": "cross-entropy"}), plain)


RECIPES = [{"loss": "cross-entropy"}, KL, {**KL, "loss": "soft-cross-entropy"}, DISTANCES]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r["loss"])
def test_weights_multiply_rows_and_the_mean_stays_over_the_batch(recipe):
    targets = {**told(logits(2)), "logits": logits(2)}
    each = [student_loss(logits(1)[i : i + 1], {n: t[i : i + 1] for n, t in targets.items()}, recipe) for i in range(4)]
    weight = torch.tensor([0.0, 1, 2, 0.5])
    loss = student_loss(logits(1), {**targets, "weight": weight}, recipe)
    torch.testing.assert_close(loss, (torch.stack(each) * weight).mean())
    ones = student_loss(logits(1), {**targets, "weight": torch.ones(4)}, recipe)
    torch.testing.assert_close(ones, student_loss(logits(1), targets, recipe))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r["loss"])
def test_losses_are_differentiable_and_add_up_over_parts_of_a_batch(recipe):
    targets = {**told(logits(2)), "logits": logits(2)}
    leaf = logits(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: student_loss(f, targets, recipe), (leaf,))
    parts = [student_loss(logits(1)[w], {n: t[w] for n, t in targets.items()}, recipe) for w in ([0], [1, 2, 3])]
    torch.testing.assert_close(parts[0] / 4 + parts[1] * 3 / 4, student_loss(logits(1), targets, recipe))


# ---- two distances ---------------------------------------------------------------------------------------------------


def test_nrr_dd_distances_are_minus_log_p_at_the_two_classes():
    p = logits(2).softmax(1)
    slow = [[-math.log(p[i, OWN[i]]), -math.log(p[i, MIXED[i]])] for i in range(4)]
    torch.testing.assert_close(distances(logits(2), OWN, MIXED), torch.tensor(slow, dtype=torch.float64))


def test_nrr_dd_distances_are_zero_for_a_perfect_teacher_log_k_for_a_uniform_one_and_never_below_zero():
    perfect = 1000 * F.one_hot(OWN, 3).double()
    assert (distances(perfect, OWN, OWN) == 0).all() and (distances(logits(1), OWN, MIXED) >= 0).all()
    torch.testing.assert_close(distances(torch.zeros(4, 3), OWN, MIXED), torch.full((4, 2), math.log(3)))


def test_nrr_dd_distance_term_is_zero_with_zero_gradient_where_the_student_is_the_teacher():
    student = logits(2).requires_grad_()
    gap = distance_gap(distances(student, OWN, MIXED), distances(logits(2), OWN, MIXED)).sum()
    assert float(gap.detach()) == 0 and (grad(gap, student) == 0).all()


def test_nrr_dd_gradient_of_a_distance_is_softmax_minus_one_hot_and_of_the_term_sums_to_zero():
    student = logits(1).requires_grad_()
    own = distances(student, OWN, MIXED)[:, 0].sum()
    torch.testing.assert_close(grad(own, student), (student.softmax(1) - F.one_hot(OWN, 3)).detach())
    for norm in ("squared", "absolute"):
        gap = distance_gap(distances(student, OWN, MIXED), distances(logits(2), OWN, MIXED), norm).sum()
        torch.testing.assert_close(grad(gap, student).sum(1), torch.zeros(4, dtype=torch.float64))


def test_the_gap_by_hand():
    # gaps 1 and -3: squares 1 and 9, mean 5; absolute values 1 and 3, mean 2
    pair = torch.tensor([[2.0, 1]]), torch.tensor([[1.0, 4]])
    assert float(distance_gap(*pair)) == 5 and float(distance_gap(*pair, "absolute")) == 2


def test_the_students_loss_is_mixed_cross_entropy_plus_the_weighted_gap():
    targets = told(logits(2))
    gap = distance_gap(distances(logits(1), OWN, MIXED), targets["distance"]).mean()
    entropy = student_loss(logits(1), targets, {"loss": "cross-entropy"})
    torch.testing.assert_close(student_loss(logits(1), targets, DISTANCES), entropy + 2 * gap)
    torch.testing.assert_close(student_loss(logits(1), targets, {**DISTANCES, "weight": 0.0}), entropy)
