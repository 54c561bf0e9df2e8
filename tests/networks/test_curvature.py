"""Norms with closed second derivatives, against torch's own, and Hessian-vector products, against double backward."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore.networks.curvature import CheapNorms, slope
from ddcore.networks.unroll import weights_view

NORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "one channel a group": lambda x, w, b: F.group_norm(x, 4, w[:, 0, 0], b[:, 0, 0]),
    "two channels a group": lambda x, w, b: F.group_norm(x, 2, w[:, 0, 0], b[:, 0, 0]),
    "one group": lambda x, w, b: F.group_norm(x, 1, w[:, 0, 0], b[:, 0, 0]),
    "layer": lambda x, w, b: F.layer_norm(x, [4, 3, 3], w, b),
    "instance": lambda x, w, b: F.instance_norm(x, weight=w[:, 0, 0], bias=b[:, 0, 0]),
}


def tensors(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Images (2, 4, 3, 3) with a mean that is not zero, scales, shifts, and a direction for the images."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 3, 3), (4, 3, 3), (4, 3, 3), (2, 4, 3, 3)]
    return [torch.randn(s, generator=generator).to(dtype) + 0.5 for s in shapes]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NORMS)
def test_values_and_first_derivatives_are_torchs(name: str, layout: torch.memory_format):
    x, w, b, upstream = (t.requires_grad_() for t in tensors())
    found = []
    for cheap in (True, False):
        if cheap:
            with CheapNorms():
                y = NORMS[name](x.contiguous(memory_format=layout), w, b)
        else:
            y = NORMS[name](x, w, b)
        found.append((y, *torch.autograd.grad(y, [x, w, b], upstream.detach())))
    for got, due in zip(*found, strict=True):
        torch.testing.assert_close(got, due)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NORMS)
def test_slopes_and_their_gradients_are_those_of_double_backward(name: str, layout: torch.memory_format):
    x, w, b, direction = tensors()

    def loss(x: Tensor) -> Tensor:
        return NORMS[name](x, w, b).tanh().mul(2).tanh().sum()

    leaf = x.contiguous(memory_format=layout).requires_grad_()
    s = slope(loss, leaf, direction)
    got = s, torch.autograd.grad(s, leaf)[0]
    twin = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(twin), twin, create_graph=True)
    due = (g * direction).sum()
    torch.testing.assert_close(got, (due, torch.autograd.grad(due, twin)[0]))


@pytest.mark.parametrize(("shape", "groups"), [((3, 4), 4), ((3, 4), 2), ((3, 4, 5), 4), ((3, 4, 5), 2)])
def test_norms_of_rows_are_torchs(shape: tuple[int, ...], groups: int):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with CheapNorms():
        found = F.group_norm(x, groups)
    torch.testing.assert_close(found, F.group_norm(x, groups))


def test_a_network_of_convolutions_along_one_axis_has_tangents_all_through():
    network = nn.Sequential(
        *(nn.Conv1d(2, 4, 3, padding=1), nn.GroupNorm(4, 4), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(4, 4, 3, stride=2), nn.InstanceNorm1d(4), nn.SiLU(), nn.AdaptiveAvgPool1d(1)),
        *(nn.Flatten(), nn.Linear(4, 3)),
    ).double()
    inputs = torch.randn(5, 2, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    flat = torch.cat([p.detach().reshape(-1) for p in network.parameters()]).requires_grad_()
    direction = torch.linspace(-1, 1, len(flat), dtype=torch.float64)

    def loss(theta: Tensor) -> Tensor:
        state = torch.func.functional_call(network, weights_view(network, theta), (inputs,))
        return F.cross_entropy(state, torch.tensor([0, 1, 2, 0, 1]))

    s = slope(loss, flat, direction)
    due = torch.autograd.grad(loss(flat), flat, create_graph=True)[0] @ direction
    wanted = [flat, inputs]
    torch.testing.assert_close((s, *torch.autograd.grad(s, wanted)), (due, *torch.autograd.grad(due, wanted)))


def test_the_slope_of_a_cube_by_hand():
    # d/dx <w, grad sum x^3> = 6 x w
    x, w = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([1.0, -1.0])
    s = slope(lambda x: (x * x * x).sum(), x, w)
    assert s.item() == 3 - 12
    assert torch.autograd.grad(s, x)[0].tolist() == [6.0, -12.0]


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "relu": lambda x: F.relu(x) * x,
    "leaky relu": lambda x: F.leaky_relu(x, 0.2) * x,
    "max pool": lambda x: F.max_pool2d(x, 2, stride=1, padding=1) * 2 * F.max_pool2d(x, 2, 1, 1),
    "average pool": lambda x: F.avg_pool2d(x, 2).tanh(),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, 2).tanh(),
    "sums": lambda x: (x + x.mean() + 2).tanh() + (1 + x * 3).tanh(),
    "linear": lambda x: F.linear(x, torch.arange(6, dtype=x.dtype).view(2, 3), torch.ones(2, dtype=x.dtype)).tanh(),
    "convolution of itself": lambda x: torch.conv2d(x, x, padding=1).tanh(),
    "average pool of (C, L)": lambda x: F.avg_pool1d(x.flatten(2), 2).tanh(),
    "adaptive pool of (C, L)": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 2).tanh(),
    "max pool of (C, L)": lambda x: F.max_pool1d(x.flatten(2), 2, stride=1) * F.max_pool1d(x.flatten(2), 2, 1),
    "convolution of (C, L)": lambda x: torch.conv1d(x.flatten(2), x.flatten(2), padding=3, dilation=1).tanh(),
    "norm of (C, L)": lambda x: F.group_norm(x.flatten(2), 4).tanh(),
    "norm of (C,)": lambda x: F.group_norm(x.flatten(1), 6).tanh(),
    "nothing": lambda x: torch.ones(3, dtype=x.dtype),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_tangent_has_the_gradient_of_double_backward(name: str):
    x, _, _, direction = tensors()
    x.requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return FUNCTIONS[name](x).sum() + (x * 0.5 * x).sum()

    s = slope(loss, x, direction)
    (g,) = torch.autograd.grad(loss(x), x, create_graph=True)
    due = (g * direction).sum()
    torch.testing.assert_close((s, *torch.autograd.grad(s, x)), (due, *torch.autograd.grad(due, x)))


@pytest.mark.parametrize("soft", [True, False])
def test_cross_entropy_is_differentiable_in_logits_and_targets(soft: bool):
    generator = torch.Generator().manual_seed(0)
    logits, targets, direction = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    targets = targets.abs().requires_grad_() if soft else torch.tensor([4, 0, 2, 2])
    logits.requires_grad_()
    wanted = [logits, targets] if soft else [logits]
    s = slope(lambda z: F.cross_entropy(z, targets), logits, direction)
    (g,) = torch.autograd.grad(F.cross_entropy(logits, targets), logits, create_graph=True)
    due = (g * direction).sum()
    torch.testing.assert_close((s, *torch.autograd.grad(s, wanted)), (due, *torch.autograd.grad(due, wanted)))


class Cubed(torch.autograd.Function):
    """An operation that modes do not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, up: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * up


REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "cumsum": lambda x: x.cumsum(0).sum(),
    "without gradients": lambda x: Cubed.apply(x).sum(),
    "pow": lambda x: (x**2).sum(),
    "options": lambda x: F.cross_entropy(x, torch.tensor([0, 1]), label_smoothing=0.1),
    "indices": lambda x: F.max_pool2d(x[None], 1, return_indices=True)[0].sum(),
    "running": lambda x: F.instance_norm(x[None], torch.zeros(2), torch.ones(2)).sum(),
    "getitem": lambda x: x[0].sum(),
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_has_no_tangent_is_refused_rather_than_guessed(word: str):
    x = torch.ones(2, 2, requires_grad=True)
    with pytest.raises(NotImplementedError, match="getitem" if word in ("indices", "running") else word):
        slope(REFUSED[word], x, torch.ones(2, 2))


def test_a_value_made_from_the_point_beforehand_is_refused():
    x = torch.ones(2, requires_grad=True)
    before = x * 2
    with pytest.raises(NotImplementedError, match="cannot follow"):
        slope(lambda x: (x * before).sum(), x, torch.ones(2))


def test_norms_work_without_scale_and_shift():
    x = tensors()[0]
    with CheapNorms():
        found = F.group_norm(x, 2), F.layer_norm(x, [3]), F.instance_norm(x)
    torch.testing.assert_close(found, (F.group_norm(x, 2), F.layer_norm(x, [3]), F.instance_norm(x)))


def test_instance_norm_with_running_statistics_stays_torchs():
    x, mean, var = tensors()[0], torch.full((4,), 0.3).double(), torch.full((4,), 2.0).double()
    with CheapNorms():
        found = F.instance_norm(x, mean, var, use_input_stats=False)
    torch.testing.assert_close(found, F.instance_norm(x, mean, var, use_input_stats=False))


def test_leaky_relus_slope_keeps_the_precision_of_float64():
    point = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    value = slope(lambda x: F.leaky_relu(x, 0.01).sum(), point, torch.ones_like(point))
    assert float(value) == 0.01
