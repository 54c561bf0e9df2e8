"""A loss whose gradient was worked out on the way: cut into parts, in threads, or without a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def with_gradient(value: Tensor, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """``value`` as a scalar that hands ``gradients``, times what comes from above, back to ``tensors``.

    So a matcher goes through its classes one after the other, keeps the memory of one, and yields a single ``Loss``.

    Args:
        value: scalar; its own graph, if any, is left out.
        tensors: what the value depends on, each requiring a gradient.
        gradients: of the value, each of its tensor's shape and dtype.

    Returns:
        Scalar, differentiable once.

    >>> import torch
    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> torch.autograd.grad(2 * with_gradient(torch.tensor(5.0), [x], [2 * x.detach()]), x)
    (tensor([4., 8.]),)
    """
    return _Known.apply(value.detach(), tuple(gradients), *tensors)  # type: ignore[no-any-return, no-untyped-call]


class _Known(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *tensors: Tensor) -> Tensor:  # type: ignore[override]
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, None, *(upstream * gradient for gradient in ctx.gradients)
