"""DWA's perturbation: by hand, against the paper's loop, its length and direction, and all that it must leave alone."""

from copy import deepcopy
from hashlib import sha256
from itertools import chain

import pytest
import torch
from ddcore_dwa import DWA, climb, directed
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore.api.types import Batch
from ddcore.composing.discovery import load_class
from ddcore.composing.plan import refusal
from ddcore.networks.batch_statistics import capture, statistics_loss
from ddcore.networks.unroll import flat_weights


def teacher(seed: int = 0) -> nn.Module:
    """Two convolutions, batch norm that has seen something, a linear layer; frozen, in eval mode, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)]
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * 4, 3)).double()
        network.train()(torch.randn(16, 2, 4, 4, dtype=torch.float64))
    return network.eval().requires_grad_(False)


def drawn_images(seed: int = 0, count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 4, 4, generator=generator, dtype=torch.float64), torch.arange(count) % 3


def entropy(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(network(images), classes)


def moved(network: nn.Module, *given, **options) -> Tensor:
    return flat_weights(directed(network, *given, **options)) - flat_weights(network)


def digest(network: nn.Module) -> str:
    return sha256(b"".join(t.numpy().tobytes() for t in network.state_dict().values())).hexdigest()


def test_by_hand():
    # logits (a x, b x) at a = b = 0, x = 2, class 0: p = (1/2, 1/2), g = x (p - (1, 0)) = (-1, 1), ||g|| = sqrt 2
    network = nn.Linear(1, 2, bias=False).double().eval()
    network.weight.data.zero_()
    found = directed(network, torch.tensor([[2.0]]).double(), torch.tensor([0]), rho=0.5, steps=1)
    due = 0.5 / 2**0.5 * torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(found.weight.detach(), due)


def slow(network: nn.Module, images: Tensor, classes: Tensor, rho: float, steps: int) -> nn.Module:
    """The paper's loop, a parameter at a time, on gradients that backward leaves."""
    network = deepcopy(network).requires_grad_(True)
    for _ in range(steps):
        network.zero_grad()
        entropy(network, images, classes).backward()
        square = sum(float(g) ** 2 for p in network.parameters() for g in p.grad.flatten())
        for parameter in network.parameters():
            parameter.data += rho / steps * parameter.grad / (square**0.5 + 1e-12)
    return network


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("rho", [0.015, 0.7])
def test_slow_twin(steps, rho):
    due = flat_weights(slow(teacher(), *drawn_images(), rho, steps))
    torch.testing.assert_close(flat_weights(directed(teacher(), *drawn_images(), rho=rho, steps=steps)), due)


@pytest.mark.parametrize("rho", [0.015, 0.5])
def test_check_one_step_goes_rho_far_and_several_no_farther(rho):
    assert float(moved(teacher(), *drawn_images(), rho=rho, steps=1).norm()) == pytest.approx(rho, rel=1e-9)
    for steps in (2, 5, 12):
        assert 0.5 * rho < float(moved(teacher(), *drawn_images(), rho=rho, steps=steps).norm()) <= rho * (1 + 1e-9)


def test_the_path_bends_because_the_gradient_is_taken_anew():
    assert float(moved(teacher(), *drawn_images(), rho=1.0, steps=8).norm()) < 0.9999
    straight, bent = (moved(teacher(), *drawn_images(), rho=1.0, steps=k) for k in (1, 8))
    assert not torch.allclose(straight, bent)


@pytest.mark.parametrize("steps", [1, 12])
def test_check_the_images_cross_entropy_rises(steps):
    images, classes = drawn_images()
    before = entropy(teacher(), images, classes)
    for rho in (1e-4, 0.015, 0.2):
        assert entropy(directed(teacher(), images, classes, rho=rho, steps=steps), images, classes) > before


def test_a_short_step_raises_it_by_the_gradients_norm_which_no_other_direction_does():
    images, classes = drawn_images()
    network = teacher().requires_grad_(True)
    gradients = torch.autograd.grad(entropy(network, images, classes), list(network.parameters()))
    steepest = float(torch.cat([g.flatten() for g in gradients]).norm())
    before, after = teacher(), directed(teacher(), images, classes, rho=1e-5, steps=1)
    rise = (entropy(after, images, classes) - entropy(before, images, classes)) / 1e-5
    assert float(rise) == pytest.approx(steepest, rel=1e-3)


def test_the_norm_is_taken_over_all_parameters_together():
    weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1, 1))]
    climb(weights, (torch.tensor([3.0]), torch.tensor([[4.0]])), 10.0)
    assert [float(w.detach()) for w in weights] == pytest.approx([6.0, 8.0])


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_check_a_factor_before_the_loss_moves_the_weights_no_differently(factor):
    gradients = tuple(torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (3, 5))
    plain, scaled = ([nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (3, 5)] for _ in range(2))
    climb(plain, gradients, 0.1)
    climb(scaled, tuple(factor * g for g in gradients), 0.1)
    torch.testing.assert_close(scaled, plain, rtol=1e-8, atol=0)


def test_without_a_gradient_nothing_moves():
    weights = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    climb(weights, (torch.zeros(2), None), 0.1)
    assert all(torch.equal(w.detach(), torch.ones_like(w)) for w in weights)


def test_check_weights_and_buffers_of_the_teacher_stay_bit_for_bit():
    network = teacher()
    before = digest(network)
    copy = directed(network, *drawn_images(), rho=0.5, steps=5)
    assert digest(network) == before
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert copy is not network and not {id(t) for t in chain(copy.parameters(), copy.buffers())} & {
        id(t) for t in chain(network.parameters(), network.buffers())
    }


def test_check_the_copys_batch_norm_remembers_what_the_teachers_does():
    network = teacher()
    copy = directed(network, *drawn_images(), rho=0.5, steps=5)
    for (name, own), (_, buffer) in zip(copy.named_buffers(), network.named_buffers(), strict=True):
        assert torch.equal(own, buffer), name
    assert any(isinstance(m, nn.BatchNorm2d) for m in copy.modules())


def test_the_copy_is_in_eval_mode_frozen_and_without_gradients():
    copy = directed(teacher(), *drawn_images(), rho=0.5, steps=3)
    assert not any(m.training for m in copy.modules())
    assert all(not p.requires_grad and p.grad is None for p in copy.parameters())


def test_every_parameter_moves_the_batch_norms_too():
    network, copy = teacher(), directed(teacher(), *drawn_images(), rho=0.5, steps=1)
    for (name, p), q in zip(network.named_parameters(), copy.parameters(), strict=True):
        assert not torch.equal(p, q), name


def test_check_other_images_move_it_elsewhere_and_the_same_ones_to_the_same_bits():
    one, again, other = (moved(teacher(), *drawn_images(seed), rho=0.1, steps=4) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert float(F.cosine_similarity(one, other, 0)) < 0.99


def test_order_of_the_images_and_copies_of_all_of_them_do_not_matter():
    images, classes = drawn_images()
    due = moved(teacher(), images, classes, rho=0.1, steps=4)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(moved(teacher(), images[order], classes[order], rho=0.1, steps=4), due)
    twice = torch.cat([images, images]), torch.cat([classes, classes])
    torch.testing.assert_close(moved(teacher(), *twice, rho=0.1, steps=4), due)


def test_float32_agrees_with_float64():
    images, classes = drawn_images()
    exact = moved(teacher(), images, classes, rho=0.1, steps=4)
    single = directed(teacher().float(), images.float(), classes, rho=0.1, steps=4)
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    torch.testing.assert_close(flat_weights(single).double(), flat_weights(teacher()) + exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("given", [{"rho": 0.0, "steps": 5}, {"rho": 0.5, "steps": 0}])
def test_check_no_length_or_no_steps_leave_every_weight(given):
    copy = directed(teacher(), *drawn_images(), **given)
    assert digest(copy) == digest(teacher())


# ---- the plugin ------------------------------------------------------------------------------------------------------


def a_batch() -> Batch:
    images, classes = drawn_images()
    return Batch(images, {"class": classes}, torch.arange(len(classes)))


def test_the_hook_is_called_with_grad_off_and_moves_all_the_same():
    network = teacher()
    with torch.no_grad():
        found = DWA(rho=0.2, ascent_steps=3).ddcore_adapt_teacher(network=network, batch=a_batch())
    due = directed(network, *drawn_images(), rho=0.2, steps=3)
    assert torch.equal(flat_weights(found), flat_weights(due))


@pytest.mark.parametrize("options", [{"rho": 0.0}, {"ascent_steps": 0}])
def test_check_switched_off_the_teacher_itself_is_used(options):
    assert DWA(**options).ddcore_adapt_teacher(network=teacher(), batch=a_batch()) is None


def test_defaults_are_the_papers_not_the_codes():
    assert (DWA().rho, DWA().ascent_steps, DWA().variance) == (0.015, 12, 11.0)
    assert DWA.suggests == "real"


@pytest.mark.parametrize("options", [{"rho": -1.0}, {"ascent_steps": -1}, {"variance": -1.0}])
def test_negative_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DWA(**options)


def test_check_the_weight_is_of_variances_alone():
    network = nn.Sequential(nn.BatchNorm2d(2)).double().eval()
    matched = torch.tensor([[-3.0, 3.0], [-2.0, 2.0]], dtype=torch.float64).view(1, 2, 1, 2)  # means 0, variances 9, 4
    flat = torch.full((1, 2, 1, 2), 2.0, dtype=torch.float64)  # means 2 off
    flat[..., 1] = 4.0  # means 3, variances 1 as remembered
    weight = {factor: DWA(variance=factor).ddcore_setting(value=1.0) for factor in (1.0, 2.0, 11.0)}
    for images, ratio in ((matched, 2.0), (flat, 1.0)):
        with capture(network) as layers:
            network(images)
        one, two = (float(statistics_loss(layers, variance=weight[f])) for f in (1.0, 2.0))
        assert two == pytest.approx(ratio * one) and one > 0
    assert weight == {1.0: 1.0, 2.0: 2.0, 11.0: 11.0}


def test_matchers_without_teachers_to_adapt_are_refused():
    matcher = load_class("dm")[0]
    assert "needs adapt_teacher, which 'dm' does not offer" in (refusal(DWA(), "dwa", matcher(), "dm") or "")
