"""GSAM by hand, its limits and invariances, a slow twin of its step, and the running average."""

from copy import deepcopy

import pytest
import torch
from ddcore_ftd import FTD, GSAM, averaged, direction, inner, norm, orthogonal_part, perturbation
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore.api.types import Learn
from ddcore.networks.passes import lay_out
from ddcore.networks.zoo import build
from ddcore.randomness import drawing_from, generator

ADAPTIVE = pytest.mark.parametrize("adaptive", [True, False])


def pieces(seed: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((3, 2), (4,), ())]


def small_network(dtype: torch.dtype = torch.float64) -> nn.Module:
    with drawing_from(generator(0)):
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).to(dtype)


IMAGES = torch.randn(6, 1, 4, 4, generator=generator(1), dtype=torch.float64)
CLASSES = torch.arange(6) % 3


def closure_of(network: nn.Module, seen: list[float] | None = None):
    def closure() -> Tensor:
        for p in network.parameters():
            p.grad = None
        value = F.cross_entropy(network(IMAGES.to(next(network.parameters()))), CLASSES)
        value.backward()
        if seen is not None:
            seen.append(value.item())
        return value.detach()

    return closure


def weights_of(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def stepped(network: nn.Module, steps: int = 3, lr: float = 0.1, momentum: float = 0.0, **options) -> Tensor:
    base = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)
    optimizer = GSAM(base, **{"rho": 0.05, "alpha": 0.3, "adaptive": True, **options}) if options else base
    for _ in range(steps):
        optimizer.step(closure_of(network))
    return weights_of(network)


# By hand


def test_the_perturbation_by_hand():
    # w = (1, 2), g = (3, 2): |w| g = (3, 4) of norm 5; rho 0.5: e = 0.1 w^2 g = (0.3, 0.8); plain: 0.5 (3, 2) / sqrt 13
    w, g = [torch.tensor([1.0]), torch.tensor([2.0])], [torch.tensor([3.0]), torch.tensor([2.0])]
    e = torch.cat(perturbation(w, g, rho=0.5, adaptive=True))
    torch.testing.assert_close(e, torch.tensor([0.3, 0.8]))
    plain = torch.cat(perturbation(w, g, rho=0.5, adaptive=False))
    torch.testing.assert_close(plain, torch.tensor([1.5, 1.0]) / 13**0.5)


def test_the_direction_by_hand():
    # g = (1, 2), g_p = (0, 5): g_T = (1, 0), so g_p - 0.3 g_T = (-0.3, 5)
    found = direction([torch.tensor([1.0, 2.0])], [torch.tensor([0.0, 5.0])], alpha=0.3)
    torch.testing.assert_close(found[0], torch.tensor([-0.3, 5.0]))


# Limits and identities


@ADAPTIVE
def test_check_radius_zero_is_sgd(adaptive):
    assert all(not e.any() for e in perturbation(pieces(0), pieces(1), rho=0.0, adaptive=adaptive))
    plain = stepped(small_network())
    torch.testing.assert_close(
        stepped(small_network(), rho=0.0, alpha=1.0, adaptive=adaptive), plain, rtol=0, atol=1e-12
    )


@ADAPTIVE
def test_check_alpha_zero_is_sam(adaptive):
    ours, twin = small_network(), small_network()
    found = stepped(ours, steps=1, rho=0.3, alpha=0.0, adaptive=adaptive)
    closure_of(twin)()
    w, g = weights_of(twin), torch.cat([p.grad.flatten() for p in twin.parameters()])
    e = 0.3 * w**2 * g / (w * g).norm() if adaptive else 0.3 * g / g.norm()
    nn.utils.vector_to_parameters(w + e, twin.parameters())
    closure_of(twin)()
    due = w - 0.1 * torch.cat([p.grad.flatten() for p in twin.parameters()])
    torch.testing.assert_close(found, due, rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_check_the_orthogonal_part_is_orthogonal_and_the_direction_has_the_perturbed_gradients_length(alpha):
    g, p = pieces(0), pieces(1)
    assert inner(orthogonal_part(g, p), p).item() == pytest.approx(0, abs=1e-10)
    assert inner(direction(g, p, alpha=alpha), p).item() == pytest.approx(norm(p).item() ** 2, rel=1e-10)


def test_the_orthogonal_part_of_parallel_gradients_is_zero():
    g = pieces(0)
    for factor in (1.0, -2.0, 30.0):
        across = orthogonal_part(g, [factor * t for t in g])
        torch.testing.assert_close(norm(across), torch.tensor(0.0, dtype=torch.float64), atol=1e-10, rtol=0)


def test_check_the_weights_move_by_exactly_the_rate_times_the_direction():
    network = small_network()
    start = weights_of(network)
    optimizer = GSAM(torch.optim.SGD(network.parameters(), lr=0.1), rho=0.5, alpha=0.3, adaptive=True)
    optimizer.step(closure_of(network))
    gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
    torch.testing.assert_close(weights_of(network), start - 0.1 * gradient, rtol=0, atol=1e-16)
    still = GSAM(torch.optim.SGD(network.parameters(), lr=0.0), rho=0.5, alpha=0.3, adaptive=True)
    before = weights_of(network)
    still.step(closure_of(network))
    assert torch.equal(weights_of(network), before)


def test_check_the_adaptive_perturbation_follows_a_rescaled_layer():
    w, g = pieces(0), pieces(1)
    e = perturbation(w, g, rho=0.1, adaptive=True)
    scales = (5.0, 0.1, 1.0)
    scaled = perturbation(
        [a * t for a, t in zip(scales, w, strict=True)],
        [t / a for a, t in zip(scales, g, strict=True)],
        rho=0.1,
        adaptive=True,
    )
    for a, one, other in zip(scales, e, scaled, strict=True):
        torch.testing.assert_close(other, a * one, rtol=1e-12, atol=0)
    assert norm([x / y for x, y in zip(e, w, strict=True)]).item() == pytest.approx(0.1)


def test_check_a_weight_of_zero_is_never_perturbed():
    w, g = pieces(0), pieces(1)
    w[0][1, 1] = w[1][2] = 0.0
    e = perturbation(w, g, rho=0.1, adaptive=True)
    assert e[0][1, 1] == 0 and e[1][2] == 0 and norm(e) > 0


def test_the_plain_perturbation_has_the_length_of_the_radius():
    assert norm(perturbation(pieces(0), pieces(1), rho=0.7, adaptive=False)).item() == pytest.approx(0.7)


@ADAPTIVE
def test_vanished_gradients_perturb_nothing_and_move_nothing(adaptive):
    zero = [torch.zeros_like(t) for t in pieces(0)]
    assert all(not e.any() for e in perturbation(pieces(0), zero, rho=0.1, adaptive=adaptive))
    assert all(not d.any() for d in direction(zero, zero, alpha=1.0))


def test_how_a_vector_is_cut_into_tensors_does_not_matter():
    w, g, p = pieces(0), pieces(1), pieces(2)
    whole = [torch.cat([t.flatten() for t in ts]) for ts in (w, g, p)]
    for cut, together in (
        (perturbation(w, g, rho=0.1, adaptive=True), perturbation([whole[0]], [whole[1]], rho=0.1, adaptive=True)),
        (direction(g, p, alpha=0.3), direction([whole[1]], [whole[2]], alpha=0.3)),
    ):
        torch.testing.assert_close(torch.cat([t.flatten() for t in cut]), together[0])


# The optimiser


@ADAPTIVE
def test_three_steps_are_those_of_the_plain_loop(adaptive):
    twin, rho, alpha, lr = small_network(), 0.2, 0.4, 0.1
    for _ in range(3):
        closure_of(twin)()
        w, g = weights_of(twin), torch.cat([p.grad.flatten() for p in twin.parameters()])
        e = rho * w * w * g / ((w.abs() * g).norm() + 1e-12) if adaptive else rho * g / (g.norm() + 1e-12)
        nn.utils.vector_to_parameters(w + e, twin.parameters())
        closure_of(twin)()
        p = torch.cat([p.grad.flatten() for p in twin.parameters()])
        c = (g @ p) / (g.norm() * p.norm() + 1e-12)
        across = g - c * g.norm() * p / (p.norm() + 1e-12)
        nn.utils.vector_to_parameters(w - lr * (p - alpha * across), twin.parameters())
    found = stepped(small_network(), rho=rho, alpha=alpha, adaptive=adaptive)
    torch.testing.assert_close(found, weights_of(twin), rtol=0, atol=1e-13)


def test_a_step_looks_twice_and_reports_the_loss_at_the_weights():
    network, seen = small_network(), []
    due = F.cross_entropy(network(IMAGES), CLASSES).item()
    optimizer = GSAM(torch.optim.SGD(network.parameters(), lr=0.1), rho=0.5, alpha=1.0, adaptive=True)
    assert optimizer.step(closure_of(network, seen)).item() == pytest.approx(due)
    assert len(seen) == 2 and seen[1] > seen[0]  # beside the weights, uphill


def test_momentum_and_decay_are_the_base_optimisers():
    network, twin = small_network(), small_network()
    base = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    ours = GSAM(torch.optim.SGD(network.parameters(), **base), rho=0.0, alpha=0.0, adaptive=True)
    plain = torch.optim.SGD(twin.parameters(), **base)
    for _ in range(3):
        ours.step(closure_of(network))
        plain.step(closure_of(twin))
    torch.testing.assert_close(weights_of(network), weights_of(twin), rtol=0, atol=1e-12)
    assert ours.param_groups[0]["lr"] == 0.1


def test_its_state_is_the_base_optimisers_and_comes_back():
    network = small_network()
    optimizer = GSAM(torch.optim.SGD(network.parameters(), 0.1, 0.9), rho=0.1, alpha=0.3, adaptive=True)
    optimizer.step(closure_of(network))
    kept, there = deepcopy(optimizer.state_dict()), weights_of(network)
    optimizer.step(closure_of(network))
    due = weights_of(network)
    again = small_network()
    nn.utils.vector_to_parameters(there, again.parameters())
    fresh = GSAM(torch.optim.SGD(again.parameters(), 0.1, 0.9), rho=0.1, alpha=0.3, adaptive=True)
    fresh.load_state_dict(kept)
    assert fresh.param_groups is fresh.base.param_groups
    fresh.step(closure_of(again))
    assert torch.equal(weights_of(again), due)


def test_channels_last_float32_weights_take_the_same_steps():
    moves = []
    for prepare in (lay_out, lambda n: n):
        network = prepare(small_network(torch.float32))
        start = weights_of(network)
        base = torch.optim.SGD(network.parameters(), lr=0.1, fused=True)
        GSAM(base, rho=0.1, alpha=0.5, adaptive=True).step(closure_of(network))
        moves.append(weights_of(network) - start)
    torch.testing.assert_close(moves[0], moves[1], rtol=1e-4, atol=1e-6)


def test_a_zoo_network_descends():
    network = build("convnet2-w8", 1, 8, 3, generator(2))
    images, classes = torch.randn(30, 1, 8, 8, generator=generator(3)), torch.arange(30) % 3
    optimizer = GSAM(torch.optim.SGD(network.parameters(), lr=0.05), rho=0.01, alpha=1.0, adaptive=True)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(network(images), classes)
        value.backward()
        return value.detach()

    losses = [optimizer.step(closure).item() for _ in range(200)]
    assert losses[-1] < 0.5 * losses[0], losses[::20]  # 0.05 of it, deviation 0.01 over seeds


# The average


def test_check_the_averages_limits_and_that_constant_pixels_are_approached_geometrically():
    start, value = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert torch.equal(averaged(start, value, 0.0), value)
    assert torch.equal(averaged(start, value, 1.0), start)
    mean = start
    for n in range(1, 6):
        mean = averaged(mean, value, 0.9)
        torch.testing.assert_close(mean - value, 0.9**n * (start - value))


def learn_of(pixels: Tensor) -> Learn:
    return Learn({"pixels": pixels, "rate": torch.tensor(0.1)}, {}, roles={"pixels": "pixels", "rate": "rate"})


def test_check_the_average_has_no_gradient_and_does_not_touch_the_pixels():
    plugin, pixels = FTD(ema=0.5), torch.ones(2, 3, requires_grad=True)
    learn = learn_of(pixels)
    average = plugin.ddcore_companion(learn)
    with torch.no_grad():
        pixels += 2
    average.after_step(0, 0.1)
    state = average.state
    assert not state["pixels"].requires_grad and set(state) == {"pixels"}
    torch.testing.assert_close(state["pixels"], torch.full((2, 3), 2.0))
    assert torch.equal(pixels.detach(), torch.full((2, 3), 3.0))
    handed_on = average.finish({"pixels": pixels.detach(), "rate": torch.tensor(0.1)})
    assert torch.equal(handed_on["pixels"], state["pixels"]) and float(handed_on["rate"]) == pytest.approx(0.1)


def test_a_skipped_step_leaves_the_average_alone():
    plugin, learn = FTD(ema=0.5), learn_of(torch.ones(2))
    average = plugin.ddcore_companion(learn)
    learn.tensors["pixels"] += 1
    average.after_step(0, None)
    assert torch.equal(average.state["pixels"], torch.ones(2))


def test_experts_know_the_radius_and_not_the_average():
    assert FTD(ema=0.5).expert_options() == FTD(ema=0.9).expert_options() is not None
    assert FTD(rho=0.02).expert_options() != FTD(rho=0.01).expert_options()
    assert FTD(rho=0.0).expert_options() is None


@pytest.mark.parametrize("wrong", [{"rho": -1}, {"alpha": -0.1}, {"ema": 1.1}, {"ema": -0.1}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FTD(**wrong)
