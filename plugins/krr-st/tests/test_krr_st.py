"""The closed form against primal and slow forms, its limits and gradients; the pool's ages; Barlow Twins by loops."""

import pytest
import torch
from ddcore_krr_st import PROTOCOLS, Member, regressed
from ddcore_krr_st.ridge import aged, krr_loss, predicted, predictor, ridge_of, twins_loss, with_ones


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


REAL, SYNTHETIC, TARGETS, TOLD = drawn(6, 9, seed=1), drawn(4, 9, seed=2), drawn(4, 3, seed=3), drawn(6, 3, seed=4)
NONE = torch.zeros((), dtype=torch.float64)


def test_without_a_ridge_and_with_enough_features_the_set_itself_is_fitted():
    torch.testing.assert_close(predicted(SYNTHETIC, SYNTHETIC, TARGETS, NONE), TARGETS)
    assert float(krr_loss(SYNTHETIC, TARGETS, SYNTHETIC, TARGETS)) < 1e-8


def test_the_dual_is_the_primal():
    one, two = with_ones(REAL), with_ones(SYNTHETIC)
    ridge = ridge_of(two @ two.T)
    primal = one @ torch.linalg.solve(two.T @ two + ridge * torch.eye(10, dtype=one.dtype), two.T @ TARGETS)
    torch.testing.assert_close(predicted(REAL, SYNTHETIC, TARGETS), primal, rtol=1e-6, atol=1e-8)


def test_both_forms_of_the_prediction_agree():
    torch.testing.assert_close(predictor(REAL, SYNTHETIC) @ TARGETS, predicted(REAL, SYNTHETIC, TARGETS))


@pytest.mark.parametrize("factor", [1e-2, 1e3])
def test_the_scale_of_all_features_does_not_matter(factor):
    # the column of ones is a feature too: scaled with the others nothing changes, since lambda follows the trace
    def solve(a, real, synthetic):
        real, synthetic = a * with_ones(real), a * with_ones(synthetic)
        kernel = synthetic @ synthetic.T
        damped = kernel + ridge_of(kernel) * torch.eye(len(kernel), dtype=kernel.dtype)
        return real @ synthetic.T @ torch.linalg.solve(damped, TARGETS)

    torch.testing.assert_close(solve(factor, REAL, SYNTHETIC), predicted(REAL, SYNTHETIC, TARGETS))


def test_constant_targets_are_fitted_thanks_to_the_ones():
    constant = torch.ones(4, 3, dtype=torch.float64)
    few, others = drawn(4, 1, seed=5), drawn(6, 1, seed=6)
    found = predicted(others, few, constant)
    torch.testing.assert_close(found, torch.ones_like(found), rtol=1e-4, atol=1e-4)


def test_rows_in_another_order_change_nothing():
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        predicted(REAL, SYNTHETIC[order], TARGETS[order]), predicted(REAL, SYNTHETIC, TARGETS), rtol=1e-7, atol=1e-9
    )


def test_the_gradient_of_the_vectors_is_the_closed_form():
    targets = TARGETS.clone().requires_grad_()
    (found,) = torch.autograd.grad(krr_loss(REAL, TOLD, SYNTHETIC, targets), targets)
    a = predictor(REAL, SYNTHETIC)
    torch.testing.assert_close(found, 2 / TOLD.numel() * a.T @ (a @ TARGETS - TOLD), rtol=1e-6, atol=1e-9)


def test_lambda_has_no_gradient_so_differences_hold_it_fixed():
    synthetic = SYNTHETIC.clone().requires_grad_()
    kernel = with_ones(SYNTHETIC) @ with_ones(SYNTHETIC).T
    big = ridge_of(kernel, 0.1)
    assert torch.autograd.gradcheck(
        lambda s, y: predicted(REAL, s, y, big), (synthetic, TARGETS.clone().requires_grad_())
    )
    assert not ridge_of(synthetic @ synthetic.T).requires_grad
    (own,) = torch.autograd.grad(krr_loss(REAL, TOLD, synthetic, TARGETS), synthetic)
    fixed = (predicted(REAL, synthetic, TARGETS, ridge_of(kernel)) - TOLD).square().mean()
    torch.testing.assert_close(own, torch.autograd.grad(fixed, synthetic)[0])


def test_the_mean_is_over_images_and_numbers():
    # no features but the ones: lambda is 1e-6 of trace 1, so that the prediction of target 3 is 3 / (1 + 1e-6)
    loss = krr_loss(
        torch.zeros(2, 1), torch.tensor([[1.0, 3.0], [3.0, 3.0]]), torch.zeros(1, 1), torch.full((1, 2), 3.0)
    )
    torch.testing.assert_close(loss, torch.tensor(4 / 4), rtol=1e-4, atol=1e-4)


def test_after_t_picks_an_age_returns_to_0_and_then_grows():
    age, seen, made = 1, [], []
    for _ in range(8):
        age, anew = aged(age, 3)
        seen.append(age)
        made.append(anew)
    assert seen == [2, 3, 0, 1, 2, 3, 0, 1] and made == [age == 0 for age in seen]
    assert [aged(3, 3, reset=False) for _ in range(3)] == [(3, True)] * 3


def test_barlow_twins_by_loops():
    one, two = drawn(7, 3, seed=7), drawn(7, 3, seed=8)
    z = [(each - each.mean(0)) / each.std(0, correction=0) for each in (one, two)]
    due = 0.0
    for i in range(3):
        for j in range(3):
            c = float(sum(z[0][b, i] * z[1][b, j] for b in range(7))) / 7
            due += (1 - c) ** 2 if i == j else 5e-3 * c**2
    assert float(twins_loss(one, two)) == pytest.approx(due)
    orthogonal = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert float(twins_loss(orthogonal, orthogonal)) == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(twins_loss, (one.requires_grad_(), two.requires_grad_()))


class Flat(torch.nn.Module):
    def embed(self, images):
        return images.flatten(1)


def test_a_pools_step_is_torchs_sgd_on_the_mean_squared_error():
    member = Member(Flat(), 4, 3).double()
    images, vectors = drawn(5, 1, 2, 2), drawn(5, 3)
    weight, bias = (p.detach().clone() for p in member.head.parameters())
    before = regressed(member, torch.optim.SGD(member.parameters(), 0.1), images, vectors)
    gap = images.flatten(1) @ weight.T + bias - vectors
    torch.testing.assert_close(before, gap.square().mean())
    torch.testing.assert_close(member.head.weight.detach(), weight - 0.1 * 2 / 15 * gap.T @ images.flatten(1))
    assert not any(p.requires_grad for p in member.parameters())


def test_the_papers_pretraining_and_a_probe_of_as_many_steps():
    recipe = PROTOCOLS["krr-st-probe"]
    schedule = recipe.schedule(1000)
    assert schedule.steps == 1000 * 4 and schedule.drops == () and schedule.drop_at is None
    assert recipe.probe.steps(50_000) == pytest.approx(5000, rel=0.01) and recipe.probe.share == 1
