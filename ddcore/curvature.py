"""Second derivatives of a network's loss without double backward.

The Hessian of a loss times a vector w is the gradient of the slope s = <w, d loss/d theta>, and s is one forward-mode pass:
the loss's tangent when the weights move along w. Differentiating that pass backwards costs eight convolutions a layer (two
forward for the tangent, one for the value, five back) where double backward costs nine and keeps every intermediate of the
first gradient. What torch lacks is a normalisation that is cheap both ways: its group norm falls apart into some thirty
elementwise passes at second order, and its tangent has no gradient in channels-last. Here it has closed forms.

With mean zero and variance one over each group, xh = (x - mean) r, r = 1 / sqrt(variance + eps), the derivative along d is

    P(d) = r (d - mean d - xh mean(xh d)),

which is symmetric, so it is also the gradient; and the derivative of <b, P(d)> in x is

    -r (xh mean(b P(d)) + P(d) mean(xh b) + P(b) mean(xh d)).

Shape letters: B images, C channels, H W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.func import jvp
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Dims = tuple[int, ...]


def slope(function: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor) -> Tensor:
    """The derivative of a scalar ``function`` at ``point`` along ``direction``, itself differentiable once, backwards.

    Raises:
        NotImplementedError: the function uses an operation that is not known to be right both ways (see ``BOTH_WAYS``).

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> s = slope(lambda x: (x**3).sum(), x, torch.tensor([1.0, 0.0]))
    >>> s.item(), torch.autograd.grad(s, x)[0]
    (3.0, tensor([6., 0.]))
    """

    def quick(x: Tensor) -> Tensor:
        with CheapNorms(both_ways=True):
            return function(x)

    _start_forward_mode()
    return jvp(quick, (point,), (direction,))[1]  # type: ignore[no-any-return]


@cache
def _start_forward_mode() -> None:
    """The first use of forward mode makes torch compile its own formulas with ``torch.jit.script``, which warns since 2.12."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.neg, (torch.zeros(()),), (torch.ones(()),))


class CheapNorms(TorchFunctionMode):
    """While active, group, layer and instance norms have closed derivatives; the numbers are the same.

    Args:
        both_ways: refuse operations outside ``BOTH_WAYS``.
    """

    def __init__(self, *, both_ways: bool = False) -> None:
        super().__init__()
        self.both_ways = both_ways

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Norms are replaced, other functions called as they are."""
        quick = NORMS.get(func)
        if quick is not None:
            return quick(*args, **(kwargs or {}))
        if self.both_ways and func.__name__ not in BOTH_WAYS:
            raise NotImplementedError(
                f"{func.__name__} is not known to have a forward-mode derivative with a right gradient"
            )
        return func(*args, **(kwargs or {}))


def group_norm(
    inputs: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``torch.nn.functional.group_norm`` for any memory layout."""
    grouped = inputs.unflatten(1, (num_groups, -1))  # splitting an axis is a view in channels-last too
    out = _normalise(grouped, tuple(range(2, grouped.dim())), eps).flatten(1, 2)
    return _affine(out, weight, bias, (-1, *[1] * (inputs.dim() - 2)))


def layer_norm(
    inputs: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.layer_norm``."""
    out = _normalise(inputs, tuple(range(inputs.dim() - len(normalized_shape), inputs.dim())), eps)
    return _affine(out, weight, bias, tuple(normalized_shape))


def instance_norm(
    inputs: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.instance_norm`` without running statistics."""
    if running_mean is not None or not use_input_stats:
        raise NotImplementedError("instance norm with running statistics has no closed derivatives here")
    return group_norm(inputs, inputs.shape[1], weight, bias, eps)


NORMS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.group_norm: group_norm,
    F.layer_norm: layer_norm,
    F.instance_norm: instance_norm,
}

BOTH_WAYS = frozenset(
    "conv1d conv2d conv3d linear matmul __matmul__ relu relu_ leaky_relu leaky_relu_ silu sigmoid tanh softplus exp log "
    "avg_pool2d max_pool2d adaptive_avg_pool2d flatten unflatten view reshape permute transpose contiguous squeeze unsqueeze "
    "add sub mul div neg pow square sum mean cat stack split chunk softmax log_softmax cross_entropy __getitem__ __add__ "
    "__radd__ __sub__ __mul__ __rmul__ __truediv__ __pow__ __get__ __len__ size dim numel".split()
)
"""Names of functions whose tangent, as torch writes it, has the right gradient. Not so, in torch 2.13, are the tangents of
layer and instance norm, which take the mean and deviation of the value for constants: hence a list, and not trust."""


def _normalise(x: Tensor, dims: Dims, eps: float) -> Tensor:
    return _Normalise.apply(x, dims, eps)[0]  # type: ignore[no-any-return, no-untyped-call]


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Dims) -> Tensor:
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def _mean(x: Tensor, dims: Dims) -> Tensor:
    return x.mean(dims, keepdim=True)


def _derivative(normalised: Tensor, r: Tensor, along: Tensor, dims: Dims) -> tuple[Tensor, Tensor]:
    """P(along), and mean(xh along)."""
    share = _mean(normalised * along, dims)
    moved = along - _mean(along, dims)
    return moved.addcmul_(normalised, share, value=-1).mul_(r), share


class _Normalise(Function):
    """x to (xh, r); only xh is differentiable."""

    @staticmethod
    def forward(x: Tensor, dims: Dims, eps: float) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        centred = x - _mean(x, dims)
        r = _mean(centred * centred, dims).add_(eps).rsqrt_()
        return centred.mul_(r), r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Dims, float], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.dims, _ = inputs
        ctx.save_for_backward(*output)
        ctx.save_for_forward(x, *output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, along: Tensor, _: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        normalised, r = ctx.saved_tensors
        return _derivative(normalised, r, along, ctx.dims)[0], None, None

    @staticmethod
    def jvp(ctx: Any, along: Tensor, *_: Any) -> tuple[Tensor, None]:  # type: ignore[override]
        x, normalised, r = ctx.saved_tensors
        return _NormaliseTangent.apply(x, along, normalised, r, ctx.dims)[0], None  # type: ignore[no-untyped-call]


class _NormaliseTangent(Function):
    """(x, d) to (P(d), mean(xh d)); the first is differentiable once in x and d. xh and r are passed to save work."""

    @staticmethod
    def forward(x: Tensor, along: Tensor, normalised: Tensor, r: Tensor, dims: Dims) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return _derivative(normalised, r, along, dims)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, Dims], output: tuple[Tensor, Tensor]
    ) -> None:
        _, _, normalised, r, ctx.dims = inputs
        ctx.save_for_backward(normalised, r, *output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, along: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # type: ignore[override]
        normalised, r, tangent, share = ctx.saved_tensors
        back, share_back = _derivative(normalised, r, along, ctx.dims)
        slope_x = normalised * _mean(along * tangent, ctx.dims)
        slope_x.addcmul_(tangent, share_back).addcmul_(back, share).mul_(r)
        return slope_x.neg_(), back, None, None, None
