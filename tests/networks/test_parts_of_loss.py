"""A loss that was worked out in parts: the same gradient as the sum with its graph, and only once."""

import pytest
import torch

from ddcore import Learn, Loss
from ddcore.networks.parts_of_loss import with_gradient
from ddcore.runs.loop import backward


def in_parts(x: torch.Tensor) -> torch.Tensor:
    """sum(x^3), an entry at a time."""
    total, gradient = x.new_zeros(()), torch.zeros_like(x)
    for i, entry in enumerate(x.detach()):
        leaf = entry.clone().requires_grad_()
        value = leaf**3
        (gradient[i],) = torch.autograd.grad(value, leaf)
        total += value.detach()
    return with_gradient(total, [x], [gradient])


def test_value_and_gradient_are_those_of_the_sum():
    x = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.equal(in_parts(x), (x**3).sum())
    assert torch.autograd.gradcheck(in_parts, x)


def test_further_operations_scale_the_gradient_and_others_add_to_it():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (found,) = torch.autograd.grad(4 * in_parts(x) + x.sum(), x)
    torch.testing.assert_close(found, 4 * 3 * x.detach() ** 2 + 1)


def test_several_tensors_get_each_their_own():
    x, y = (torch.tensor(v, requires_grad=True) for v in (1.0, 2.0))
    found = torch.autograd.grad(with_gradient(x * y, [x, y], [y.detach(), x.detach()]), [x, y])
    assert [float(g) for g in found] == [2.0, 1.0]


def test_the_loop_takes_it_as_any_loss():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    learn = Learn({"x": x}, {"x": torch.optim.SGD([x], lr=1.0)})
    backward(Loss(in_parts(x)).value, learn.optimizers.values())
    torch.testing.assert_close(x.grad, torch.tensor([3.0, 12.0]))


def test_a_second_derivative_is_refused():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (first,) = torch.autograd.grad(in_parts(x) ** 2, x, create_graph=True)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(first.sum(), x)
