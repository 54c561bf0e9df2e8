"""Sinkhorn distance: closed forms, limits, marginals, the plain iteration as a slow twin, gradients, the plugin in training."""

from itertools import permutations

import pytest
import torch
from ddcore_sinkd import SinKD, costs, divergence, plan, sinkhorn
from torch import nn

from ddcore import Vote
from ddcore.api.types import Seen
from ddcore.cli.app import invoke
from ddcore.kit.contract import check_plugin
from ddcore.storage.places import Place, load_tensors
from ddcore.training.teaching import Teaching


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


S, T = seeded(16, 3), seeded(16, 3, seed=1)
USUAL = (2.0, 0.1, 20)


def plainly(student, teacher, temperature=2.0, epsilon=0.1, iterations=20):
    p_s, p_t = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    cost = torch.stack([torch.stack([(a - b).abs().sum() for b in p_t]) for a in p_s])
    made = torch.exp(-cost / epsilon)
    for _ in range(iterations):
        made = made / made.sum(1, keepdim=True)
        made = made / made.sum(0, keepdim=True)
    return cost, made


# ---- the loss --------------------------------------------------------------------------------------------------------


def test_by_hand():
    # p_s = (1, 0), (0, 1); p_t = (1, 0), (0.5, 0.5): W = ((0, 1), (2, 1)); eps so small that the plan is the diagonal: L = 0 + 1
    student, teacher = torch.tensor([[400.0, 0], [0, 400]]), torch.tensor([[400.0, 0], [0, 0]])
    torch.testing.assert_close(costs(student, teacher, 2.0), torch.tensor([[0.0, 1], [2, 1]]))
    torch.testing.assert_close(sinkhorn(student, teacher, 2.0, 0.01, 20), torch.tensor(1.0))


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_the_loss_and_its_gradient_are_those_of_the_plain_iteration(epsilon):
    one, other = S.clone().requires_grad_(), S.clone().requires_grad_()
    cost, made = plainly(one, T, epsilon=epsilon)
    (cost * made).sum().backward()
    got = sinkhorn(other, T, 2.0, epsilon, 20)
    got.backward()
    torch.testing.assert_close(got, (cost * made).sum(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other.grad, one.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(plan(costs(S, T, 2.0), epsilon, 20), made.detach(), rtol=1e-11, atol=1e-15)


def test_check_costs_lie_between_0_and_2():
    far = costs(30 * S, 30 * T, 2.0)
    assert far.min() >= 0 and far.max() <= 2 and far.max() > 1.9


def test_check_columns_sum_to_one_rows_nearly_and_all_to_the_rows():
    made = plan(costs(S, T, 2.0), 0.1, 20)
    assert made.min() >= 0
    torch.testing.assert_close(made.sum(0), torch.ones(16, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(made.sum(1), torch.ones(16, dtype=torch.float64), atol=1e-4, rtol=0)
    assert float(made.sum()) == pytest.approx(16)


def test_check_the_order_of_either_sides_rows_does_not_matter():
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(sinkhorn(S, T[order], *USUAL), sinkhorn(S, T, *USUAL))
    torch.testing.assert_close(sinkhorn(S[order], T, *USUAL), sinkhorn(S, T, *USUAL))


def test_check_equal_logits_cost_something_that_vanishes_with_epsilon():
    values = [float(sinkhorn(S, S, 2.0, epsilon, 200)) for epsilon in (0.1, 0.03, 0.01, 0.0003)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.1 and values[-1] < 1e-3


def test_check_a_debiased_divergence_is_0_for_equal_logits():
    assert float(divergence(S, S, *USUAL)) == 0
    due = sinkhorn(S, T, *USUAL) - sinkhorn(S, S, *USUAL) / 2 - sinkhorn(T, T, *USUAL) / 2
    torch.testing.assert_close(divergence(S, T, *USUAL), due)


@pytest.mark.parametrize("epsilon", [0.001, 0.1, 10.0])
def test_check_of_one_row_it_is_the_l1_distance(epsilon):
    due = ((S[:1] / 2).softmax(1) - (T[:1] / 2).softmax(1)).abs().sum()
    torch.testing.assert_close(sinkhorn(S[:1], T[:1], 2.0, epsilon, 20), due)


def test_check_a_large_epsilon_gives_the_mean_of_all_costs():
    cost = costs(S, T, 2.0)
    torch.testing.assert_close(
        plan(cost, 1e6, 20), torch.full((16, 16), 1 / 16, dtype=torch.float64), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(sinkhorn(S, T, 2.0, 1e6, 20), cost.sum() / 16, rtol=1e-5, atol=0)


def test_check_a_small_epsilon_gives_the_cheapest_assignment():
    cost = costs(S[:5], T[:5], 2.0)
    least = min(sum(float(cost[i, j]) for i, j in enumerate(order)) for order in permutations(range(5)))
    assert float(sinkhorn(S[:5], T[:5], 2.0, 1e-3, 2000)) == pytest.approx(least, abs=1e-3)


def test_check_gradients_are_those_of_finite_differences():
    small = T[:4]
    assert torch.autograd.gradcheck(lambda s: sinkhorn(s, small, *USUAL), S[:4].clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda s: divergence(s, small, *USUAL), S[:4].clone().requires_grad_(), atol=1e-4)


def test_check_half_precision_and_far_clouds_stay_finite():
    student, teacher = 60 * S.half(), 60 * T.half()
    student.requires_grad_()
    loss = sinkhorn(student, teacher, 2.0, 0.005, 20)
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss.detach()) and torch.isfinite(student.grad).all()
    exact = sinkhorn(student.detach().double(), teacher.double(), 2.0, 0.005, 20)
    torch.testing.assert_close(loss.detach().double(), exact, rtol=1e-3, atol=1e-3)


# ---- the plugin ------------------------------------------------------------------------------------------------------


def answered(*logits):
    teaching = Teaching([Vote(nn.Identity(), 1 / len(logits), f"t{n}") for n in range(len(logits))], None)
    teaching.__dict__["seen"] = tuple(Seen(z, {}) for z in logits)
    return teaching


def term(plugin, *teachers):
    return plugin.ddcore_student_loss(Seen(S, {}), answered(*teachers))


def test_the_term_is_the_papers_by_default():
    found = term(SinKD(), T)
    torch.testing.assert_close(found.weight * found.value, 0.8 * 0.001 * sinkhorn(S, T, *USUAL))
    assert SinKD.whole_batches


def test_check_dividing_by_rows_makes_a_repeated_batch_cost_the_same():
    def of(plugin, times):
        teaching = answered(T.repeat(times, 1))
        return plugin.ddcore_student_loss(Seen(S.repeat(times, 1), {}), teaching).value

    torch.testing.assert_close(of(SinKD(per_row=True), 3), of(SinKD(per_row=True), 1))
    torch.testing.assert_close(of(SinKD(), 3), 3 * of(SinKD(), 1))


def test_several_teachers_vote_by_their_mean_of_logits_and_options_reach_the_loss():
    other = seeded(16, 3, seed=5)
    plugin = SinKD(temperature=1.0, epsilon=0.3, iterations=2, debiased=True)
    torch.testing.assert_close(term(plugin, T, other).value, divergence(S, (T + other) / 2, 1.0, 0.3, 2))


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"epsilon": 0.0}, {"temperature": 0.0}, {"iterations": 0}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError):
        SinKD(**wrong)


def test_the_contract_is_kept():
    check_plugin("sinkd")


@pytest.mark.parametrize("passes", [[], ["--amp"]], ids=["single", "mixed"])
def test_students_learn_by_it_and_not_without_weight(tmp_path, passes):
    def trained(out, *words):
        quick = ["--data=digits", "--per-class=5", "--protocol=kd-3", "--student=resnet8", "--eval-seeds=1"]
        quick += ["--threads=1", "--no-plain", "--plugin=kd", "--teacher=resnet8", "--teachers.epochs=1"]
        quick += ["--teachers.no-check", f"--cache={tmp_path / 'cache'}", f"--out={tmp_path / out}", *passes]
        assert invoke(["train", *quick, *words]) == 0
        return load_tensors(Place.at(tmp_path / out / "students" / "student-0.safetensors"))

    on = ["--plugin=sinkd", "--sinkd.weight=0.1"]
    base, off = trained("base"), trained("off", "--plugin=sinkd", "--sinkd.weight=0")
    one, again = trained("one", *on), trained("again", *on)
    debiased = trained("debiased", *on, "--sinkd.per-row", "--sinkd.debiased")
    assert all(torch.equal(tensor, off[name]) for name, tensor in base.items())
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    for other in (base, debiased):
        assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_students_of_text_learn_too(tmp_path):
    words = ["--plugin=text", "--plugin=kd", "--plugin=sinkd", "--data=sentences", "--student=transformer1-w8-h2"]
    words += ["--teacher=transformer1-w16-h2", "--teachers.epochs=1", "--teachers.no-check", "--protocol=text-1"]
    words += ["--eval-seeds=1", "--threads=1", "--per-class=20", f"--cache={tmp_path / 'cache'}"]
    assert invoke(["train", *words, f"--out={tmp_path / 'out'}"]) == 0
