"""Norms with closed second derivatives, against torch's own, and Hessian-vector products, against double backward."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddcore.curvature import CheapNorms, group_norm, instance_norm, layer_norm, slope

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
        return NORMS[name](x, w, b).tanh().pow(2).sum()

    leaf = x.contiguous(memory_format=layout).requires_grad_()
    s = slope(loss, leaf, direction)
    got = s, torch.autograd.grad(s, leaf)[0]
    twin = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(twin), twin, create_graph=True)
    due = (g * direction).sum()
    torch.testing.assert_close(got, (due, torch.autograd.grad(due, twin)[0]))


def test_the_slope_of_a_cube_by_hand():
    # d/dx <w, grad sum x^3> = 6 x w
    x, w = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([1.0, -1.0])
    s = slope(lambda x: x.pow(3).sum(), x, w)
    assert s.item() == 3 - 12
    assert torch.autograd.grad(s, x)[0].tolist() == [6.0, -12.0]


def test_functions_of_unknown_second_order_are_refused():
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(NotImplementedError, match="cumsum"):
        slope(lambda x: x.cumsum(0).sum(), x, torch.ones(2))
    with pytest.raises(NotImplementedError, match="running statistics"):
        instance_norm(torch.ones(1, 2, 3, 3), running_mean=torch.zeros(2))


def test_norms_work_without_scale_and_shift():
    x = tensors()[0]
    torch.testing.assert_close(group_norm(x, 2), F.group_norm(x, 2))
    torch.testing.assert_close(layer_norm(x, [3]), F.layer_norm(x, [3]))
