"""An unrolled student: N steps of SGD on synthetic batches, and the exact gradient of where it lands.

From flat weights theta_0 the student makes N steps with momentum mu and a rate alpha that may be learned,

    g_i = c d/d theta loss(theta_i, batch_i)      u_i = mu u_{i-1} + g_i      theta_{i+1} = theta_i - alpha u_i

with c the segment's ``loss_scale``, usually 1, and is scored by how far it lands from an expert:
L = sum_k share_k |theta_k - target_k|^2 / |theta_0 - target_k|^2.

``full`` keeps the graph of all N steps. ``adjoint`` gives the same gradient and holds the graph of one micro-batch: the
forward sweep keeps the weights theta_i only, then, with v = w = 0 and for i = N-1 ... 0,

    v += dL_direct/d theta_{i+1}      w = v + mu w      s_i = <w, g_i>
    pixels and labels -= alpha ds_i/d batch_i      alpha -= s_i      v -= alpha ds_i/d theta_i

``tesla`` leaves out the last of these (Cui et al., ICML 2023, arXiv:2211.10586): its g_i know the batch but not the
weights before them, which is exact for the last step only. The momentum form is ours; mu = 0 gives ``specs/mtt.md``'s.

Shape letters: B images of a batch, C H W pixels, K classes, P weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from attrs import field, frozen
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from ddcore.api.types import Segment
from ddcore.errors import InputError
from ddcore.networks.curvature import slope
from ddcore.networks.passes import Crew, channels_last, chunk_of, quick_norms
from ddcore.networks.zoo import mixes_samples

Mode = Literal["adjoint", "tesla", "full"]
BatchAt = Callable[[int], tuple[Tensor, Tensor]]
BatchLoss = Callable[[Tensor, Tensor], Tensor]

MICRO_BATCH = 10
"""Images of 32x32 pixels whose second-order graph is alive at once:
see ``examples/benchmarks/results/unroll_speed.json``."""


def soft_cross_entropy(logits_BK: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy at temperature 1, mean over the batch.

    Args:
        logits_BK: float.
        targets: probabilities (B, K) in the logits' dtype, differentiable; or class ids (B,) int64.

    >>> soft_cross_entropy(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor(4.)
    """
    return F.cross_entropy(logits_BK, targets)


def trajectory_distance(student_P: Tensor, start_P: Tensor, target_P: Tensor) -> Tensor:
    """Squared distance still to go, as a fraction of the expert's own squared move.

    Returns:
        Scalar >= 0: 1 if the student has not moved, 0 if it has caught up, > 1 if it went astray.

    Raises:
        InputError: the expert did not move, so the fraction has no meaning.

    >>> trajectory_distance(torch.tensor([3.0, 0]), torch.zeros(2), torch.tensor([3.0, 4]))
    tensor(0.6400)
    """
    return (student_P - target_P).square().sum() / _travelled(start_P, target_P)


def flat_weights(network: nn.Module) -> Tensor:
    """All parameters in ``parameters()`` order as one detached vector (P,) of its own memory."""
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()])


def weights_view(network: nn.Module, flat_P: Tensor) -> dict[str, Tensor]:
    """``flat_P`` cut into the network's named parameters, for ``torch.func.functional_call``; views, differentiable.

    Raises:
        InputError: the vector belongs to another network.
    """
    named = dict(network.named_parameters())
    due = sum(p.numel() for p in named.values())
    if flat_P.shape != (due,):
        raise InputError(
            f"flat weights have shape {tuple(flat_P.shape)} but the network has {due} parameters: "
            "use weights that this network was trained to"
        )
    pieces = flat_P.split([p.numel() for p in named.values()])  # type: ignore[no-untyped-call]
    return {name: piece.view(p.shape) for (name, p), piece in zip(named.items(), pieces, strict=True)}


@frozen(eq=False)
class Batches:
    """What a student is trained on, made of tensors that learn from it.

    Attributes:
        at: inner step, counted from 0, to (inputs (B, C, H, W), targets), differentiable in ``leaves``. ``adjoint`` and
            ``tesla`` call it again in the backward sweep, where it must answer the same.
        leaves: tensors that ``at`` reads and that get a gradient; zero where no batch uses them.
    """

    at: BatchAt
    leaves: Sequence[Tensor]


def unrolled_loss(
    network: nn.Module,
    segment: Segment,
    batches: Batches,
    rate: Tensor,
    steps: int,
    *,
    mode: Mode = "adjoint",
    micro_batch: int | None = None,
    loss: BatchLoss = soft_cross_entropy,
) -> Tensor:
    """How far ``steps`` of SGD on the synthetic batches land from the expert; the loss L at the top of this module.

    Args:
        network: gives the architecture; its own parameters and buffers are neither used as weights nor changed.
        segment: start and targets, flat (P,). A target's inner step counts from 1; -1 is the last one, whatever
            ``steps``.
        batches: of the inner steps 0 ... ``steps`` - 1, with targets as ``loss`` takes them.
        rate: the student's learning rate a step, scalar tensor.
        steps: N >= 0.
        mode: see the top of the module.
        micro_batch: images of one pass; None is ``MICRO_BATCH`` of 32x32 pixels and more of smaller ones. Networks that
            mix images (BatchNorm) and mode ``full`` take the whole batch.
        loss: (logits, targets) to a scalar that is a mean over the batch's images.

    Returns:
        Scalar; differentiable once in ``rate`` and the leaves (any number of times in mode ``full``). The sweep back
        runs when the gradient is asked for, so a loss that is thrown away costs the forward sweep only.

    Raises:
        InputError: the expert did not move, a target lies outside the unroll, or the network draws random numbers.
    """
    student = _Student(network, batches, steps, micro_batch, loss, segment)
    if mode == "full":
        return student.full(rate)
    return _Swept.apply(student, mode == "adjoint", rate, *batches.leaves)  # type: ignore[no-any-return, no-untyped-call]


def _travelled(start_P: Tensor, target_P: Tensor) -> Tensor:
    travelled = (start_P - target_P).square().sum()
    if travelled == 0:
        raise InputError(
            "expert start and target weights are identical, so a distance relative to the expert's move has no meaning: "
            "use one or more expert epochs and a positive expert learning rate"
        )
    return travelled


def _targets(segment: Segment, steps: int) -> dict[int, tuple[Tensor, float]]:
    """Targets by inner step 0 ... ``steps``, negative steps counted from the end."""
    found: dict[int, tuple[Tensor, float]] = {}
    for key, target in segment.targets.items():
        step = key if key >= 0 else steps + 1 + key
        if not min(1, steps) <= step <= steps or step in found:
            raise InputError(
                f"a segment's target stands at inner step {key} of an unroll of {steps} steps: use 1 to {steps}, each once"
            )
        found[step] = target
    if not found:
        raise InputError(
            "a segment has no target, so an unrolled student has nothing to match: give it one at the last step"
        )
    return found


def _refuse_randomness(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise InputError(
                f"the network's {name} is a dropout, which draws anew when a step is replayed: unroll a network without it"
            )


@frozen(eq=False)
class _Student:
    """Everything about an unroll but the rate."""

    network: nn.Module
    batches: Batches
    steps: int
    micro_batch: int | None
    loss: BatchLoss
    segment: Segment
    targets: Mapping[int, tuple[Tensor, float]] = field(init=False)
    buffers: Mapping[str, Tensor] = field(init=False)

    @targets.default
    def _find_targets(self) -> dict[int, tuple[Tensor, float]]:
        return _targets(self.segment, self.steps)

    @buffers.default
    def _copy_buffers(self) -> dict[str, Tensor]:
        _refuse_randomness(self.network)
        return {name: b.clone() for name, b in self.network.named_buffers()}

    def batch_loss(self, network: nn.Module, theta_P: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """The training loss of one batch at these weights."""
        state = {**weights_view(network, theta_P), **self.buffers}
        value = self.loss(functional_call(network, state, (inputs,)), targets)
        return value if self.segment.loss_scale == 1 else value * self.segment.loss_scale

    def landing_loss(self, step: int, theta_P: Tensor) -> Tensor | float:
        """This step's term of L; 0 where no target stands."""
        if step not in self.targets:
            return 0.0
        target, share = self.targets[step]
        return share * trajectory_distance(theta_P, self.segment.start, target)

    def landing_slope(self, step: int, theta_P: Tensor) -> Tensor | float:
        """The derivative of ``landing_loss`` in the weights."""
        if step not in self.targets:
            return 0.0
        target, share = self.targets[step]
        return (2 * share / _travelled(self.segment.start, target)) * (theta_P - target)

    def full(self, rate: Tensor) -> Tensor:
        """L with the graph of all steps."""
        theta = self.segment.start.detach().clone().requires_grad_()
        velocity: Tensor | float = 0.0
        total: Any = self.landing_loss(0, theta)
        for i in range(self.steps):
            (gradient,) = torch.autograd.grad(
                self.batch_loss(self.network, theta, *self.batches.at(i)), theta, create_graph=True
            )
            velocity = self.segment.momentum * velocity + gradient
            theta = theta - rate * velocity
            total = total + self.landing_loss(i + 1, theta)
        return torch.as_tensor(total)

    def parts(self, inputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor, float]]:
        """Micro-batches with their share of the batch; all of it when the network mixes images."""
        size = self.micro_batch or chunk_of(self.network, inputs, MICRO_BATCH)
        size = len(inputs) if self.network.training and mixes_samples(self.network) else size
        pairs = zip(inputs.split(size), targets.split(size), strict=True)  # type: ignore[no-untyped-call]
        return [(x, t, len(x) / len(inputs)) for x, t in pairs]

    def gradient(self, crew: Crew, theta_P: Tensor, i: int) -> Tensor:
        """g_i (P,) at these weights, without a graph."""
        with torch.no_grad():
            inputs, targets = self.batches.at(i)

        def part(network: nn.Module, x: Tensor, t: Tensor, share: float) -> Tensor:
            theta = theta_P.detach().requires_grad_()
            with torch.enable_grad(), quick_norms(x):
                value = share * self.batch_loss(network, theta, channels_last(x), t)
            return torch.autograd.grad(value, theta)[0]

        return _sum(crew.each(part, self.parts(inputs.detach(), targets.detach())))

    def slope(self, network: nn.Module, theta_P: Tensor, w_P: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """<w, gradient of the batch loss>, differentiable once; by double backward for unknown operations."""
        try:
            return slope(lambda theta: self.batch_loss(network, theta, x, t), theta_P, w_P)
        except NotImplementedError:
            (gradient,) = torch.autograd.grad(self.batch_loss(network, theta_P, x, t), theta_P, create_graph=True)
            return gradient @ w_P

    def slope_gradients(
        self, crew: Crew, theta_P: Tensor, w_P: Tensor, inputs: Tensor, targets: Tensor
    ) -> _SlopeGradients:
        """s = <w, g> of a batch and what it depends on."""

        def part(network: nn.Module, x: Tensor, t: Tensor, share: float) -> tuple[Tensor, ...]:
            leaves = theta_P.detach(), channels_last(x).detach(), t.detach()
            wanted = [v.requires_grad_() for v, due in zip(leaves, learned, strict=True) if due]
            with torch.enable_grad():
                s = share * self.slope(network, leaves[0], w_P, *leaves[1:])
            if not s.requires_grad:  # a gradient that depends on nothing
                return s, *map(torch.zeros_like, wanted)
            return s.detach(), *torch.autograd.grad(s, wanted, materialize_grads=True)

        learned = (True, inputs.requires_grad, targets.requires_grad)
        parts = crew.each(part, self.parts(inputs.detach(), targets.detach()))
        value, by_theta, *by_batch = zip(*parts, strict=True)
        outputs = [v for v in (inputs, targets) if v.requires_grad]
        return _SlopeGradients(_sum(value), _sum(by_theta), outputs, [torch.cat(rows) for rows in by_batch])

    def forward_sweep(self, rate: Tensor) -> tuple[list[Tensor], Tensor]:
        """theta_0 ... theta_N, and L."""
        theta = self.segment.start.detach()
        path, velocity = [theta], torch.zeros_like(theta)
        total: Any = self.landing_loss(0, theta)
        with Crew(self.network, theta.device) as crew:
            for i in range(self.steps):
                velocity = self.segment.momentum * velocity + self.gradient(crew, theta, i)
                theta = theta - rate * velocity
                path.append(theta)
                total = total + self.landing_loss(i + 1, theta)
        return path, total

    def backward_sweep(self, path: list[Tensor], rate: Tensor, exact: bool) -> tuple[Tensor, list[Tensor]]:
        """The gradient in the rate and in each leaf: the recurrence at the top of the module."""
        by_rate, by_leaf = torch.zeros_like(rate), [torch.zeros_like(leaf) for leaf in self.batches.leaves]
        v, w = torch.zeros_like(path[0]), torch.zeros_like(path[0])
        with Crew(self.network, v.device) as crew:
            for i in reversed(range(self.steps)):
                v = v + self.landing_slope(i + 1, path[i + 1])
                w = v + self.segment.momentum * w
                with torch.enable_grad():
                    inputs, targets = self.batches.at(i)
                s = self.slope_gradients(crew, path[i], w, inputs, targets)
                by_rate -= s.value
                for total, part in zip(by_leaf, s.back_to(self.batches.leaves), strict=True):
                    if part is not None:
                        total.sub_(rate * part)
                if exact:
                    v = v - rate * s.by_theta
        return by_rate, by_leaf


@frozen(eq=False)
class _SlopeGradients:
    """s; its gradient in the weights; and those (``slopes``) in what the learned tensors were made into
    (``outputs``)."""

    value: Tensor
    by_theta: Tensor
    outputs: list[Tensor]
    slopes: list[Tensor]

    def back_to(self, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The gradient of s in the leaves, through views and augmentation."""
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        if not self.outputs or not wanted:
            return [None] * len(leaves)
        found = iter(torch.autograd.grad(self.outputs, wanted, self.slopes, allow_unused=True))
        return [next(found) if leaf.requires_grad else None for leaf in leaves]


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    """Added up in order, so that the sum does not depend on who made the terms."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total


class _Swept(Function):
    """L by a forward sweep; its gradient, when asked for, by a backward sweep."""

    @staticmethod
    def forward(ctx: Any, student: _Student, exact: bool, rate: Tensor, *leaves: Tensor) -> Tensor:  # type: ignore[override]
        ctx.student, ctx.exact, ctx.rate = student, exact, rate.detach().clone()
        ctx.path, total = student.forward_sweep(ctx.rate)
        ctx.versions = [leaf._version for leaf in student.batches.leaves]
        return torch.as_tensor(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.versions != [leaf._version for leaf in ctx.student.batches.leaves]:
            raise RuntimeError("a learned tensor was changed in place between an unrolled loss and its gradient")
        by_rate, by_leaf = ctx.student.backward_sweep(ctx.path, ctx.rate, ctx.exact)
        return None, None, upstream * by_rate, *(upstream * part for part in by_leaf)
