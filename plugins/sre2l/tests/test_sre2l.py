"""The maths of recovery: closed forms, limits, gradients, and what must not change."""

import hashlib

import pytest
import torch
from ddcore_sre2l import SRe2L, mean_norm, recovery_loss, total_variation
from torch import nn
from torch.nn import functional as F

from ddcore import Vote
from ddcore.composing.presets import presets_of
from ddcore.networks.batch_statistics import capture, layers_of, statistics_loss
from ddcore.networks.zoo import build


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def teacher(seed=0, width=4):
    """A small network whose BatchNorm layers remember something, in eval mode, float64."""
    network = build(f"convnet2-bn-w{width}", 3, 8, 3, generator(seed))
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(16, 3, 8, 8, generator=generator(seed + 1)))
    return network.eval().double().requires_grad_(False)


def digest(network):
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in network.state_dict().values())).hexdigest()


@torch.no_grad()
def remembering(images):
    """Two BatchNorm layers, one after the other, that remember exactly what these images do to them."""
    network = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4)).double().eval()
    for layer in network:
        layer.running_mean.copy_(images.mean((0, 2, 3)))
        layer.running_var.copy_(images.var((0, 2, 3), correction=0))
        images = layer(images)
    return network


@torch.no_grad()
def captured(network, images):
    with capture(network) as layers:
        network(images)
    return layers


def test_statistics_that_equal_the_remembered_ones_cost_nothing():
    images = torch.randn(6, 4, 5, 5, dtype=torch.float64, generator=generator())
    assert float(statistics_loss(captured(remembering(images), images))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("at", "weight"), [(0, 10.0), (1, 1.0)])
@torch.no_grad()
def test_a_shift_of_every_channel_adds_weight_times_shift_times_root_of_channels(at, weight):
    images = torch.randn(6, 4, 5, 5, dtype=torch.float64, generator=generator())
    network = remembering(images)
    network[at].running_mean.add_(0.3)
    layer = captured(network, images)[at]
    alone = statistics_loss([layer], first=weight)
    assert float(alone) == pytest.approx(weight * 0.3 * 4**0.5, abs=1e-12)
    if at == 1:
        assert float(statistics_loss(captured(network, images))) == pytest.approx(float(alone), abs=1e-12)


def slow_statistics(network, images, first, variance):
    """The layers' inputs, found by running the modules one after the other; population variance by hand."""
    total, x, at = 0.0, images, 0
    for module in network.features:
        if isinstance(module, nn.BatchNorm2d):
            channels = [x[:, c].flatten() for c in range(x.shape[1])]
            means = torch.stack([sum(v) / len(v) for v in channels])
            variances = torch.stack([((v - m) ** 2).sum() / len(v) for v, m in zip(channels, means, strict=True)])
            weight = first if at == 0 else 1.0
            mean_gap = ((module.running_mean - means) ** 2).sum().sqrt()
            variance_gap = ((module.running_var - variances) ** 2).sum().sqrt()
            total = total + weight * (mean_gap + variance * variance_gap)
            at += 1
        x = module(x)
    return total


@pytest.mark.parametrize(("first", "variance"), [(10.0, 1.0), (1.0, 11.0)])
def test_the_loss_equals_a_slow_twin(first, variance):
    network = teacher()
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=generator(3))
    classes = torch.tensor([0, 1, 2, 1, 0])
    got = recovery_loss(Vote(network, 0.7), images, classes, bn=0.1, first=first, variance=variance)
    logits = network(images)
    entropy = sum(-logits[i].log_softmax(0)[c] for i, c in enumerate(classes)) / 5
    due = 0.7 * (entropy + 0.1 * slow_statistics(network, images, first, variance))
    assert float(got) == pytest.approx(float(due), abs=1e-12)


def test_variance_weight_enters_the_variances_only():
    network = teacher()
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=generator(3))
    with capture(network) as layers:
        network(images)
    gaps = [layer.gaps() for layer in layers]
    due = sum((10.0 if at == 0 else 1.0) * gap[1] for at, gap in enumerate(gaps))
    assert torch.allclose(statistics_loss(layers, variance=3.0) - statistics_loss(layers, variance=2.0), due)


def test_without_statistics_only_the_cross_entropy_is_left():
    network = teacher()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=generator(5))
    classes = torch.tensor([0, 1, 2, 0])
    assert recovery_loss(Vote(network), images, classes, bn=0.0) == F.cross_entropy(network(images), classes)


def test_the_gradient_reaches_images_and_nothing_of_the_teacher_changes():
    network = teacher()
    before = digest(network)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=generator(5)).requires_grad_()
    recovery_loss(Vote(network), images, torch.tensor([0, 1, 2, 0]), bn=0.01).backward()
    assert images.grad.abs().flatten(1).sum(1).all()
    assert digest(network) == before
    assert all(p.grad is None for p in network.parameters())
    assert not any(layer._forward_pre_hooks for layer in layers_of(network))


def test_the_gradient_is_that_of_finite_differences():
    network = teacher(width=2)
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=generator(6)).requires_grad_()
    classes = torch.tensor([0, 1, 2])
    assert torch.autograd.gradcheck(
        lambda x: recovery_loss(Vote(network), x, classes, bn=0.5, variance=2.0), images, atol=1e-5
    )


def test_hooks_are_gone_even_when_the_pass_fails():
    network = teacher()
    with pytest.raises(RuntimeError), capture(network):
        network(torch.randn(1, 5, 8, 8, dtype=torch.float64))
    assert not any(layer._forward_pre_hooks for layer in layers_of(network))


def test_statistics_are_the_batchs_however_often_the_network_was_passed():
    network = teacher()
    one, other = (torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=generator(s)) for s in (7, 8))
    with capture(network) as layers:
        network(one)
        network(other)
    with capture(network) as alone:
        network(other)
    assert torch.equal(statistics_loss(layers), statistics_loss(alone))


def test_total_variation_in_closed_form():
    step = torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    step[:, :, :, 2] = 1.0
    right, below, diagonal = (2 * 3) ** 0.5, 0.0, (2 * 2) ** 0.5
    assert float(total_variation(step)) == pytest.approx(right + below + 2 * diagonal)
    assert total_variation(torch.ones(1, 3, 4, 4)) == 0


def test_total_variation_counts_each_diagonal_once():
    # 0 0 1 / 0 1 0 / 1 0 0: 4 pixels differ from the right neighbour, 4 from the one below, 2 falling, none rising
    rising = torch.eye(3, dtype=torch.float64).flip(1)[None, None]
    for image in (rising, rising.flip(3)):
        assert float(total_variation(image)) == pytest.approx(2.0 + 2.0 + 2**0.5)


def test_mean_norm_is_a_mean_over_images():
    images = torch.stack([torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), 3.0)])
    assert float(mean_norm(images)) == pytest.approx((2.0 + 6.0) / 2)


def test_of_the_presets_those_of_tiny_imagenet_alone_multiply_the_students_loss_by_the_squared_temperature():
    for key, preset in presets_of("sre2l", SRe2L).items():
        views = preset.tables.get("views", {})
        assert views == ({"temperature": 20.0, "tau_squared": True} if key.startswith("tinyimagenet") else {})
