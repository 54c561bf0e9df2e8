"""DWA: directed weight adjustment (Du et al., NeurIPS 2024, arXiv:2409.17612).

Every image of a class that is recovered from one and the same teacher tends to look alike. DWA lets each task begin at
real images, and moves the weights of its own copy of the teacher away from what these images already hold, K steps up
the cross entropy of the images x0 under their first view:

    theta <- theta + rho / K  g / ||g||_2,    g = grad_theta CE(f_theta(x0), y)

The copy then stays as it is. In the loss of the batch statistics, which stay those of the real data, variances weigh
more than means, because they carry the diversity. Nothing of a copy outlives its task, and the teacher itself is never
written to.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import ClassVar

import torch
from attrs import frozen
from attrs.validators import ge
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore import Batch, Plugin, hookimpl, option

EPSILON = 1e-12
"""Beside the norm, in the authors' code: where the gradient is zero nothing moves."""


def directed(network: nn.Module, images: Tensor, classes: Tensor, *, rho: float, steps: int) -> nn.Module:
    """A copy of a network, its weights moved up the cross entropy of some images.

    The gradient is taken anew after each step, at the same images, and normalised over all parameters together, so that
    the whole path is rho long, or shorter where a gradient is zero.

    Args:
        network: a classifier in eval mode, of any float dtype; it is left alone, buffers included.
        images: (B, C, H, W), of the network's dtype.
        classes: (B,) int64.
        rho: length of the path in weight space, >= 0.
        steps: K; 0 moves nothing.

    Returns:
        The copy in eval mode, its weights without gradient: the distance to the network's weights is at most rho, and
        rho for one step. Buffers are equal.

    References:
        Du et al., NeurIPS 2024, arXiv:2409.17612, and their code; cross entropy is a mean over B.
    """
    copy = deepcopy(network).eval().requires_grad_(True)
    weights = list(copy.parameters())
    for _ in range(steps):
        with torch.enable_grad():
            loss = F.cross_entropy(copy(images), classes)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        climb(weights, gradients, rho / steps)
    return copy.requires_grad_(False)


@torch.no_grad()
def climb(weights: list[nn.Parameter], gradients: tuple[Tensor | None, ...], length: float) -> None:
    """Move weights in place by ``length`` along their gradients; those without one stay."""
    known = [(w, g) for w, g in zip(weights, gradients, strict=True) if g is not None]
    norm = torch.stack([g.norm() for _, g in known]).norm()
    for weight, gradient in known:
        weight.add_(length * gradient / (norm + EPSILON))


@frozen(kw_only=True, eq=False)
class DWA(Plugin):
    """A teacher of its own for every task, and variances that weigh more."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = (
        "each task's teacher unlearns the real images that the task begins with; variances weigh more"
    )
    paper: ClassVar[str] = (
        "Diversity-Driven Synthesis: Enhancing Dataset Distillation through Directed Weight Adjustment, NeurIPS 2024, "
        "arXiv:2409.17612"
    )
    role: ClassVar[str] = "enhancement"
    settings: ClassVar[tuple[str, ...]] = ("match.variance_weight",)
    needs: ClassVar[tuple[str, ...]] = ("teachers", "adapt_teacher")
    suggests: ClassVar[str | None] = "real"
    neutral: ClassVar[Mapping[str, object]] = {"rho": 0.0, "variance": 1.0}
    presets: ClassVar[str | None] = "presets.toml"

    rho: float = option(
        0.015,
        help="how far a task's teacher moves, in the L2 norm of all its weights; 0: not at all",
        symbol="rho",
        validator=ge(0),
    )
    ascent_steps: int = option(
        12, help="steps of equal length in which it moves; 0: not at all", symbol="K", unit="steps", validator=ge(0)
    )
    variance: float = option(
        11.0, help="weight of the variances in the loss of batch statistics", symbol="lambda_var", validator=ge(0)
    )

    @hookimpl
    def ddcore_adapt_teacher(self, network: nn.Module, batch: Batch) -> nn.Module | None:
        """The copy that unlearned the task's initial images."""
        if not (self.rho and self.ascent_steps):
            return None
        return directed(network, batch.inputs, batch.targets["class"], rho=self.rho, steps=self.ascent_steps)

    @hookimpl
    def ddcore_setting(self, value: float) -> float:
        """The variances' weight, times lambda_var."""
        return self.variance * value
