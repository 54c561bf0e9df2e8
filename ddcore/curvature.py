"""Second derivatives of a network's loss without double backward.

The Hessian of a loss times a vector w is the gradient of the slope s = <w, d loss/d theta>, and s is one forward-mode pass:
the loss's tangent when the weights move along w. Differentiating that pass backwards costs eight convolutions a layer (two
forward for the tangent, one for the value, five back) where double backward costs nine and keeps every intermediate of the
first gradient. What torch lacks is a normalisation that is cheap both ways: its group norm falls apart into some thirty
elementwise passes at second order, and its tangent has no gradient in channels-last. Here it has closed forms.

With means over each group, xh = (x - mean x) r, r = 1 / sqrt(variance + eps), the derivative of xh along d is

    P(d) = r (d - mean d - xh mean(xh d)),

which is symmetric, so it is the gradient too; and the derivative of <b, P(d)> in x is

    -r (xh mean(b P(d)) + P(d) mean(xh b) + P(b) mean(xh d)).

All are sums of whole tensors times one number a group, so every derivative is a few means and two or three passes.

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
from torch.autograd.function import once_differentiable
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
    if num_groups == inputs.shape[1]:
        shape = (-1, *[1] * (inputs.dim() - 2))
        scale, shift = (None if t is None else t.view(shape) for t in (weight, bias))
        return _normalise(inputs, tuple(range(2, inputs.dim())), eps, scale, shift)
    # splitting an axis is a view in channels-last too
    grouped = inputs.unflatten(1, (num_groups, -1))  # type: ignore[no-untyped-call]
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

_NAMES = (
    "conv1d conv2d conv3d linear matmul __matmul__ relu relu_ leaky_relu leaky_relu_ silu sigmoid tanh softplus exp log "
    "avg_pool2d max_pool2d adaptive_avg_pool2d flatten unflatten view reshape permute transpose contiguous squeeze unsqueeze "
    "add sub mul div neg pow square sum mean cat stack split chunk softmax log_softmax cross_entropy __getitem__ __add__ "
    "__radd__ __sub__ __mul__ __rmul__ __truediv__ __pow__ __get__ __len__ size dim numel"
)
BOTH_WAYS = frozenset(_NAMES.split())
"""Names of functions whose tangent, as torch writes it, has the right gradient. Not so, in torch 2.13, are the tangents of
layer and instance norm, which take the mean and deviation of the value for constants: hence a list, and not trust."""


def _normalise(x: Tensor, dims: Dims, eps: float, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """xh weight + bias; both constant over ``dims``."""
    weight = x.new_ones(()) if weight is None else weight
    bias = x.new_zeros(()) if bias is None else bias
    return _Normalise.apply(x, weight, bias, dims, eps)[0]  # type: ignore[no-any-return, no-untyped-call]


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Dims) -> Tensor:
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def _mean(x: Tensor, dims: Dims) -> Tensor:
    return x.mean(dims, keepdim=True)


def _summed(means: Tensor, count: int, like: Tensor) -> Tensor:
    """Sums over all groups' members, from means, in the shape of the parameter."""
    return (means * count).sum_to_size(like.shape)


def _project(along: Tensor, normalised: Tensor, scale: Tensor, dims: Dims) -> tuple[Tensor, Tensor, Tensor]:
    """``scale`` (along - mean along - xh mean(xh along)), and the two means."""
    mean, share = _mean(along, dims), _mean(normalised * along, dims)
    out = torch.addcmul(-scale * mean, along, scale)
    return out.addcmul_(normalised, -scale * share), mean, share


class _Normalise(Function):
    """(x, weight, bias) to xh weight + bias, with xh and r beside it for its derivatives."""

    @staticmethod
    def forward(  # type: ignore[override]
        x: Tensor, weight: Tensor, bias: Tensor, dims: Dims, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        normalised = x - _mean(x, dims)
        r = _mean(normalised * normalised, dims).add_(eps).rsqrt_()
        normalised.mul_(r)
        return torch.addcmul(bias, normalised, weight), normalised, r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, weight, bias, ctx.dims, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight, bias, *output[1:])
        ctx.save_for_forward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, bias, normalised, r = ctx.saved_tensors
        by_x, mean, share = _project(upstream, normalised, r * weight, ctx.dims)
        count = upstream.numel() // r.numel()
        return by_x, _summed(share, count, weight), _summed(mean, count, bias), None, None

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, weight_t: Tensor | None, bias_t: Tensor | None, *_: Any) -> tuple[Any, ...]:  # type: ignore[override]
        x, weight, normalised, r = ctx.saved_tensors
        x_t = torch.zeros_like(x) if x_t is None else x_t
        weight_t = torch.zeros_like(weight) if weight_t is None else weight_t
        bias_t = torch.zeros_like(weight) if bias_t is None else bias_t
        tangent = _NormaliseTangent.apply(x, weight, x_t, weight_t, bias_t, normalised, r, ctx.dims)[0]  # type: ignore[no-untyped-call]
        return tangent, None, None


class _NormaliseTangent(Function):
    """weight P(x_t) + xh weight_t + bias_t, differentiable once in x, weight and x_t; the other tangents are constants."""

    @staticmethod
    def forward(  # type: ignore[override]
        x: Tensor,
        weight: Tensor,
        x_t: Tensor,
        weight_t: Tensor,
        bias_t: Tensor,
        normalised: Tensor,
        r: Tensor,
        dims: Dims,
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, mean, share = _project(x_t, normalised, r * weight, dims)
        return out.addcmul_(normalised, weight_t).add_(bias_t), mean, share

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, weight, x_t, weight_t, _, normalised, r, ctx.dims = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(weight, x_t, weight_t, normalised, r, *output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, x_t, weight_t, normalised, r, mean_t, share_t = ctx.saved_tensors
        by_x_t, mean, share = _project(upstream, normalised, r * weight, ctx.dims)
        # mean(upstream P(x_t)) from means alone
        both = r * (_mean(upstream * x_t, ctx.dims) - share_t * share - mean_t * mean)
        # -r weight (xh both + P(x_t) share + P(upstream) share_t) + weight_t P(upstream), gathered by tensor
        along_x_t = -weight * share * r * r
        along_up = r * weight_t - weight * share_t * r * r
        along_normalised = -r * weight * both - along_x_t * share_t - along_up * share
        by_x = torch.addcmul(-along_x_t * mean_t - along_up * mean, x_t, along_x_t)
        by_x.addcmul_(upstream, along_up).addcmul_(normalised, along_normalised)
        return by_x, _summed(both, upstream.numel() // r.numel(), weight), by_x_t, None, None, None, None, None
