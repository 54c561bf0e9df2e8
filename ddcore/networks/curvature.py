"""Second derivatives of a network's loss without double backward.

The Hessian of a loss times a vector w is the gradient of the slope s = <w, d loss/d theta>, and s is one forward pass
that carries tangents: how each value changes when the weights move along w. Differentiating that pass backwards costs
eight convolutions a layer where double backward costs nine, keeps no first gradient, and needs no second derivative of
anything. torch's own forward mode would do, but is not safe for threads, and its tangents of layer and instance norm
have a wrong gradient (torch 2.13: mean and deviation count as constants). So the tangents that networks for images, and
their like for rows (B, D) and (B, C, L), need are written here; anything else is refused, and
``ddcore.networks.unroll`` then falls back on double backward.

Norms in closed form. With means over each group, xh = (x - mean x) r, r = 1 / sqrt(variance + eps), the derivative
along d is

    P(d) = r (d - mean d - xh mean(xh d)),

which is symmetric, so it is the gradient too; and the derivative of <b, P(d)> in x is

    -r (xh mean(b P(d)) + P(d) mean(xh b) + P(b) mean(xh d)).

All are sums of whole tensors times one number a group: every derivative is a few means and a few passes.

Shape letters: B images, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Dims = tuple[int, ...]
Pair = tuple[Tensor, Tensor | None]
"""A value and its tangent; None is a tangent of zero."""


def slope(function: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor) -> Tensor:
    """The derivative of a scalar ``function`` at ``point`` along ``direction``, itself differentiable once, backwards.

    Without a gradient where the derivative is constant.

    Args:
        point: requires a gradient, and is the only way into ``function`` for what depends on it.

    Raises:
        NotImplementedError: ``function`` uses an operation that has no tangent here.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> s = slope(lambda x: (x * x * x).sum(), x, torch.tensor([1.0, 0.0]))
    >>> s.item(), torch.autograd.grad(s, x)[0]
    (3.0, tensor([6., 0.]))
    """
    with Tangents(point, direction) as tangents:
        value = function(point)
    found = tangents.of(value)
    return torch.zeros_like(value) if found is None else found


class CheapNorms(TorchFunctionMode):
    """While active, group, layer and instance norms have the closed gradient above; the numbers are torch's."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Norms are replaced, other functions called as they are."""
        if func in NORMS:
            return NORMS[func](lambda _: None, *args, **(kwargs or {}))[0]
        return func(*args, **(kwargs or {}))


class Tangents(TorchFunctionMode):
    """While active, every value that depends on ``point`` has a tangent, or the operation that made it is refused."""

    def __init__(self, point: Tensor, direction: Tensor) -> None:
        super().__init__()
        self.known: dict[int, Pair] = {id(point): (point, direction)}

    def of(self, value: Any) -> Tensor | None:
        """The tangent of a value, None where it is zero."""
        if not isinstance(value, Tensor):
            return None
        if id(value) in self.known:
            return self.known[id(value)][1]
        if value.grad_fn is not None:
            raise NotImplementedError("a value was computed where tangents cannot follow")
        return None

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The function's own value; its tangent is remembered."""
        kwargs = kwargs or {}
        moved = any(self.of(value) is not None for value in (*args, *kwargs.values()))
        if not moved:
            return self._keep(func(*args, **kwargs), None)
        if func in RULES and torch.is_grad_enabled():
            return self._keep(*RULES[func](self.of, *args, **kwargs))
        out = func(*args, **kwargs)
        if _holds_tensor(out):
            raise NotImplementedError(
                f"{getattr(func, '__name__', func)} has no tangent here (or not without gradients)"
            )
        return out

    def _keep(self, out: Any, tangent: Any) -> Any:
        if isinstance(out, Tensor):
            self.known[id(out)] = (out, tangent)
        elif isinstance(out, tuple | list):
            for i, value in enumerate(out):
                self._keep(value, None if tangent is None else tangent[i])
        return out


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(map(_holds_tensor, value)))


# Norms

Of = Callable[[Any], Tensor | None]


def group_norm(
    of: Of, x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Pair:
    """``torch.nn.functional.group_norm`` for any memory layout."""
    shape = (-1, *[1] * (x.dim() - 2))
    if num_groups == x.shape[1] and x.dim() > 2:
        return _norm(of, x, tuple(range(2, x.dim())), eps, weight, bias, shape)
    # splitting an axis is a view in channels-last too; weights differ within a group, so they come after
    grouped = x.unflatten(1, (num_groups, -1))  # type: ignore[no-untyped-call]
    tangent = of(x)
    moved = None if tangent is None else tangent.unflatten(1, (num_groups, -1))  # type: ignore[no-untyped-call]
    out, out_t = _norm(
        lambda value: moved if value is grouped else None,
        grouped,
        tuple(range(2, grouped.dim())),
        eps,
        None,
        None,
        shape,
    )
    return _affine(of, out.flatten(1, 2), None if out_t is None else out_t.flatten(1, 2), weight, bias, shape)


def layer_norm(
    of: Of,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Pair:
    """``torch.nn.functional.layer_norm``."""
    shape = tuple(normalized_shape)
    out, out_t = _norm(of, x, tuple(range(x.dim() - len(shape), x.dim())), eps, None, None, shape)
    return _affine(of, out, out_t, weight, bias, shape)


@frozen(eq=False)
class _InstanceNorm:
    """What ``torch.nn.functional.instance_norm`` takes beside the images."""

    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    use_input_stats: bool = True
    momentum: float = 0.1
    eps: float = 1e-5


def instance_norm(of: Of, x: Tensor, *given: Any, **named: Any) -> Pair:
    """``torch.nn.functional.instance_norm``; with running statistics torch's own, which has no tangent."""
    how = _InstanceNorm(*given, **named)
    if how.running_mean is None and how.use_input_stats:
        return group_norm(of, x, x.shape[1], how.weight, how.bias, how.eps)
    if any(of(value) is not None for value in (x, how.weight, how.bias)):
        raise NotImplementedError("instance norm with running statistics has no tangent here")
    return F.instance_norm(x, *given, **named), None


def _norm(of: Of, x: Tensor, dims: Dims, eps: float, weight: Tensor | None, bias: Tensor | None, shape: Dims) -> Pair:
    """xh weight + bias, weight and bias constant over ``dims``."""
    scale = x.new_ones(()) if weight is None else weight.view(shape)
    shift = x.new_zeros(()) if bias is None else bias.view(shape)
    moved, scale_t, shift_t = of(x), of(weight), of(bias)
    if moved is None and scale_t is None and shift_t is None:
        return _Normalise.apply(x, scale, shift, dims, eps), None  # type: ignore[no-untyped-call]
    moved = torch.zeros_like(x) if moved is None else moved
    scale_t = torch.zeros_like(scale) if scale_t is None else scale_t.view(shape)
    shift_t = torch.zeros_like(shift) if shift_t is None else shift_t.view(shape)
    return _NormaliseBoth.apply(x, moved, scale, scale_t, shift, shift_t, dims, eps)  # type: ignore[no-any-return, no-untyped-call]


def _affine(of: Of, x: Tensor, x_t: Tensor | None, weight: Tensor | None, bias: Tensor | None, shape: Dims) -> Pair:
    out, out_t = x, x_t
    if weight is not None:
        weight_t = of(weight)
        out_t = _added(
            None if x_t is None else x_t * weight.view(shape), None if weight_t is None else x * weight_t.view(shape)
        )
        out = x * weight.view(shape)
    if bias is not None:
        bias_t = of(bias)
        out = out + bias.view(shape)
        out_t = _added(out_t, None if bias_t is None else bias_t.view(shape).expand_as(out))
    return out, out_t


def _added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other


def _mean(x: Tensor, dims: Dims) -> Tensor:
    return x.mean(dims, keepdim=True)


def _standardised(x: Tensor, dims: Dims, eps: float) -> tuple[Tensor, Tensor]:
    """xh and r."""
    centred = x - _mean(x, dims)
    r = _mean(centred * centred, dims).add_(eps).rsqrt_()
    return centred.mul_(r), r


def _project(along: Tensor, xh: Tensor, scale: Tensor, dims: Dims) -> tuple[Tensor, Tensor, Tensor]:
    """``scale`` (along - mean along - xh mean(xh along)), and the two means."""
    mean, share = _mean(along, dims), _mean(xh * along, dims)
    out = torch.addcmul(-scale * mean, along, scale)
    return out.addcmul_(xh, -scale * share), mean, share


class _Normalise(Function):
    """xh weight + bias, differentiable once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dims: Dims, eps: float) -> Tensor:  # type: ignore[override]
        xh, r = _standardised(x, dims, eps)
        ctx.dims = dims
        ctx.save_for_backward(xh, r, weight, bias)
        return torch.addcmul(bias, xh, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        xh, r, weight, bias = ctx.saved_tensors
        by_x, mean, share = _project(upstream, xh, r * weight, ctx.dims)
        count = upstream.numel() // r.numel()
        by_weight, by_bias = ((count * m).sum_to_size(p.shape) for m, p in ((share, weight), (mean, bias)))
        return by_x, by_weight, by_bias, None, None


class _NormaliseBoth(Function):
    """xh weight + bias and its tangent, weight P(x_t) + xh weight_t + bias_t; differentiable once,
    weight_t and bias_t constant."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        x_t: Tensor,
        weight: Tensor,
        weight_t: Tensor,
        bias: Tensor,
        bias_t: Tensor,
        dims: Dims,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        xh, r = _standardised(x, dims, eps)
        out_t, mean_t, share_t = _project(x_t, xh, r * weight, dims)
        ctx.dims = dims
        ctx.save_for_backward(xh, r, x_t, mean_t, share_t, weight, weight_t, bias)
        return torch.addcmul(bias, xh, weight), out_t.addcmul_(xh, weight_t).add_(bias_t)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up: Tensor, up_t: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        xh, r, x_t, mean_t, share_t, weight, weight_t, bias = ctx.saved_tensors
        by_x_t, mean_u, share_u = _project(up_t, xh, r * weight, ctx.dims)
        mean, share = _mean(up, ctx.dims), _mean(xh * up, ctx.dims)
        # mean(up_t P(x_t)), from means alone
        both = r * (_mean(up_t * x_t, ctx.dims) - share_t * share_u - mean_t * mean_u)
        # weight P(up) + weight_t P(up_t) - r weight (xh both + P(x_t) share_u + P(up_t) share_t), gathered by tensor
        of_up = r * weight
        of_x_t = -weight * share_u * r * r
        of_up_t = r * weight_t - weight * share_t * r * r
        of_xh = -of_up * (share + both) - of_x_t * share_t - of_up_t * share_u
        by_x = torch.addcmul(-of_up * mean - of_x_t * mean_t - of_up_t * mean_u, up, of_up)
        by_x.addcmul_(x_t, of_x_t).addcmul_(up_t, of_up_t).addcmul_(xh, of_xh)
        count = up.numel() // r.numel()
        by_weight = (count * (share + both)).sum_to_size(weight.shape)
        return by_x, by_x_t, by_weight, None, (count * mean).sum_to_size(bias.shape), None, None, None


# Other operations


def _product(function: Callable[..., Tensor]) -> Callable[..., Pair]:
    """Convolutions and linear layers: linear in the input and in the weights."""

    def rule(of: Of, x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **more: Any) -> Pair:
        x_t, weight_t, bias_t = of(x), of(weight), of(bias)
        if weight_t is None and bias_t is not None:
            weight_t = torch.zeros_like(weight)
        one = None if weight_t is None else function(x, weight_t, bias_t, *rest, **more)
        other = None if x_t is None else function(x_t, weight, None, *rest, **more)
        return function(x, weight, bias, *rest, **more), _added(one, other)

    return rule


def _linear(function: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """Linear in the first argument."""

    def rule(of: Of, x: Tensor, *rest: Any, **more: Any) -> tuple[Any, Any]:
        if any(of(value) is not None for value in (*rest, *more.values())):
            raise NotImplementedError(f"{function.__name__} has a tangent here in its first argument only")
        x_t = of(x)
        return function(x, *rest, **more), None if x_t is None else function(x_t, *rest, **more)

    return rule


def _activation(function: Callable[..., Tensor], derivative: Callable[..., Tensor]) -> Callable[..., Pair]:
    """Pointwise; ``derivative`` of (x, *arguments)."""

    def rule(of: Of, x: Tensor, *rest: Any, inplace: bool = False, **more: Any) -> Pair:
        x_t = of(x)
        return function(x, *rest, **more), None if x_t is None else x_t * derivative(x, *rest, **more)

    return rule


def _silu_derivative(x: Tensor) -> Tensor:
    gate = x.sigmoid()
    return gate * (1 + x * (1 - gate))


def _leaky_derivative(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    return torch.where(x > 0, x.new_ones(()), x.new_tensor(negative_slope)).to(x.dtype)


class _Gate(Function):
    """relu and its tangent."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        out = x.relu()
        ctx.save_for_backward(out)
        return out, torch.ops.aten.threshold_backward(x_t, out, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up: Tensor, up_t: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(up, out, 0), torch.ops.aten.threshold_backward(up_t, out, 0)


def _relu(of: Of, x: Tensor, inplace: bool = False) -> Pair:
    x_t = of(x)
    return (x.relu(), None) if x_t is None else _Gate.apply(x, x_t)  # type: ignore[return-value, no-untyped-call]


def _max_pool(with_indices: Callable[..., Pair]) -> Callable[..., Pair]:
    """Of (B, C, ...): the tangent comes from where the largest value lies."""

    def rule(of: Of, x: Tensor, *rest: Any, return_indices: bool = False, **more: Any) -> Pair:
        if return_indices:
            raise NotImplementedError("max pooling with indices has no tangent here")
        out, where = with_indices(x, *rest, **more)
        x_t = of(x)
        return out, None if x_t is None else x_t.flatten(2).gather(2, where.flatten(2)).view(out.shape)  # type: ignore[union-attr]

    return rule


def _add(of: Of, x: Any, y: Any) -> Pair:
    out = torch.add(x, y)
    one, other = of(x), of(y)
    return out, _added(one if one is None else one.expand_as(out), other if other is None else other.expand_as(out))


def _multiply(of: Of, x: Any, y: Any) -> Pair:
    x_t, y_t = of(x), of(y)
    return torch.mul(x, y), _added(None if x_t is None else x_t * y, None if y_t is None else x * y_t)


def _cross_entropy(of: Of, logits_BK: Tensor, targets: Tensor, **more: Any) -> Pair:
    """-mean_b <targets_b, log softmax(logits_b)>, targets as probabilities or class ids."""
    usual = {"weight": None, "size_average": None, "ignore_index": -100, "reduce": None, "reduction": "mean"}
    if any(value != (usual | {"label_smoothing": 0.0})[name] for name, value in more.items()) or logits_BK.dim() != 2:
        raise NotImplementedError("cross entropy with options has no tangent here")
    value, moved = F.cross_entropy(logits_BK, targets), of(logits_BK)
    if moved is None:
        return value, None
    expected_B = (logits_BK.softmax(1) * moved).sum(1)
    if targets.is_floating_point():
        return value, (targets.sum(1) * expected_B - (targets * moved).sum(1)).mean()
    return value, (expected_B - moved.gather(1, targets[:, None])[:, 0]).mean()


NORMS: dict[Any, Callable[..., Pair]] = {
    F.group_norm: group_norm,
    F.layer_norm: layer_norm,
    F.instance_norm: instance_norm,
}
_LINEAR = (
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    F.avg_pool1d,
    F.adaptive_avg_pool1d,
    torch.flatten,
    torch.mean,
    torch.sum,
    torch.neg,
)
_LINEAR_METHODS = ("flatten", "view", "reshape", "contiguous", "mean", "sum", "split", "neg", "squeeze", "unsqueeze")
RULES: dict[Any, Callable[..., tuple[Any, Any]]] = {
    **NORMS,
    **{f: _product(f) for f in (torch.conv2d, torch.conv1d, F.linear)},
    **{f: _linear(f) for f in (*_LINEAR, *(getattr(Tensor, name) for name in _LINEAR_METHODS))},
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), _relu),
    **{
        f: _activation(f, lambda x: x.sigmoid() * (1 - x.sigmoid())) for f in (torch.sigmoid, F.sigmoid, Tensor.sigmoid)
    },
    **{f: _activation(f, lambda x: 1 - x.tanh().square()) for f in (torch.tanh, F.tanh, Tensor.tanh)},
    F.silu: _activation(F.silu, _silu_derivative),
    F.leaky_relu: _activation(F.leaky_relu, _leaky_derivative),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool(F.max_pool2d_with_indices)),
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), _max_pool(F.max_pool1d_with_indices)),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), _add),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _multiply),
    F.cross_entropy: _cross_entropy,
}
"""What has a tangent: (tangents known, arguments of the function) to value and tangent."""
