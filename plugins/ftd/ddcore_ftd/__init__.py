"""Flat trajectory distillation (Du et al., CVPR 2023, arXiv:2211.11004).

In trajectory matching every stretch begins at an expert's weights; a student that is trained on the finished set begins
its next stretch where the last one left it, a little beside the expert, and the errors add up. FTD trains the experts
so that a little beside makes little difference, with GSAM (Zhuang et al., ICLR 2022, arXiv:2203.08065), g the gradient
at the weights w and g_p the one of the same batch at w + e:

    e = rho w^2 g / || |w| g ||      g_T = g - cos(g, g_p) ||g|| g_p / ||g_p||      w <- w - lr (g_p - alpha g_T)

Matching itself is unchanged. What is handed on is the running average of the pixels, S_mean <- ema S_mean + (1 - ema)
S.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from attrs import frozen
from attrs.validators import and_, ge, le
from torch import Tensor
from torch.optim import Optimizer

from ddcore import Companion, Learn, Plugin, hookimpl, option

EPSILON = 1e-12
"""Added to every norm that divides, as in the authors' code."""


def perturbation(weights: Sequence[Tensor], gradients: Sequence[Tensor], *, rho: float, adaptive: bool) -> list[Tensor]:
    """The step e to the worst weights nearby, one norm over all tensors.

        adaptive: e = rho w^2 g / (|| |w| g || + 1e-12)        else: e = rho g / (||g|| + 1e-12)

    Args:
        weights, gradients: tensor by tensor, any shapes, same float dtype.
        rho: radius >= 0; 0 gives zeros.

    Returns:
        e, as the weights. Adaptive: || e / |w| || = rho, and a weight that is 0 stays.

    References:
        Kwon et al., ICML 2021, arXiv:2102.11600 (the adaptive form).

    >>> perturbation([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 2.0])], rho=0.5, adaptive=True)
    [tensor([0.3000, 0.8000])]
    """
    scaled = [w.abs() * g for w, g in zip(weights, gradients, strict=True)] if adaptive else gradients
    factor = rho / (norm(scaled) + EPSILON)
    steps = [g * factor for g in gradients]
    return [e * w.square() for e, w in zip(steps, weights, strict=True)] if adaptive else steps


def orthogonal_part(gradients: Sequence[Tensor], perturbed: Sequence[Tensor]) -> list[Tensor]:
    """g_T: what is left of g without its share along g_p; all tensors are one vector.

    Args:
        gradients: g at the weights.
        perturbed: g_p at the perturbed weights; as ``gradients``.

    Returns:
        As the gradients; orthogonal to g_p, zero where g and g_p are parallel.

    >>> orthogonal_part([torch.tensor([1.0, 2.0])], [torch.tensor([0.0, 5.0])])
    [tensor([1., 0.])]
    """
    of_g, of_p = norm(gradients), norm(perturbed)
    cosine = inner(gradients, perturbed) / (of_g * of_p + EPSILON)
    along = cosine * of_g / (of_p + EPSILON)
    return [g - along * p for g, p in zip(gradients, perturbed, strict=True)]


def direction(gradients: Sequence[Tensor], perturbed: Sequence[Tensor], *, alpha: float) -> list[Tensor]:
    """What an expert descends: g_p - alpha g_T, which also closes the gap between the two losses.

    Args:
        gradients, perturbed: g and g_p.
        alpha: >= 0; 0 is plain sharpness-aware minimisation.

    Returns:
        As the gradients; its inner product with g_p is ||g_p||^2.

    >>> direction([torch.tensor([1.0, 2.0])], [torch.tensor([0.0, 5.0])], alpha=0.3)
    [tensor([-0.3000,  5.0000])]
    """
    across = orthogonal_part(gradients, perturbed)
    return [p - alpha * o for p, o in zip(perturbed, across, strict=True)]


def averaged(mean: Tensor, value: Tensor, ema: float) -> Tensor:
    """The next running average, ema mean + (1 - ema) value: ``value`` for ema 0, ``mean`` for ema 1.

    >>> averaged(torch.tensor(1.0), torch.tensor(3.0), 0.75)
    tensor(1.5000)
    """
    return ema * mean + (1 - ema) * value


def inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Inner product of two vectors that lie in pieces; scalar."""
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


def norm(pieces: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of a vector that lies in pieces; scalar.

    >>> norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    tensor(5.)
    """
    return inner(pieces, pieces).sqrt()


class GSAM(Optimizer):
    """Gives ``base`` the direction above instead of the gradient; rate, momentum and decay stay its own.

    ``step`` calls the closure twice, at the weights and beside them, and puts the weights back as they were, to the
    bit.
    """

    def __init__(self, base: Optimizer, *, rho: float, alpha: float, adaptive: bool) -> None:
        super().__init__(base.param_groups, {})
        self.base, self.rho, self.alpha, self.adaptive = base, rho, alpha, adaptive

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """One step; the loss at the weights."""
        with torch.enable_grad():
            loss = closure()
        weights = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        start, gradients = [w.clone() for w in weights], [w.grad for w in weights]
        for w, e in zip(weights, perturbation(start, gradients, rho=self.rho, adaptive=self.adaptive), strict=True):
            w.add_(e)
        with torch.enable_grad():
            closure()
        descent = direction(gradients, [w.grad for w in weights], alpha=self.alpha)
        for w, before, d in zip(weights, start, descent, strict=True):
            w.copy_(before)
            w.grad = d
        self.base.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The base optimiser's: nothing else lasts from step to step."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.base.load_state_dict(state_dict)
        self.param_groups = self.base.param_groups


class Averages(Companion):
    """The running average of the pixels, which is handed on in their place; its state is the average of each tensor."""

    def __init__(self, learn: Learn, share: float) -> None:
        super().__init__(**{name: t.detach().clone() for name, t in learn.named("pixels").items()})
        self._learn, self._share = learn, share

    def after_step(self, step: int, loss: float | None) -> None:
        """Average, unless the step was skipped."""
        if loss is not None:
            for name, mean in self.state.items():
                mean.copy_(averaged(mean, self._learn.tensors[name].detach(), self._share))

    def finish(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The averages in place of the last pixels."""
        return tensors | {name: mean.cpu() for name, mean in self.state.items()}


@frozen(kw_only=True, eq=False)
class FTD(Plugin):
    """Flat experts, and the average of the pixels."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "train experts to flat minima, and hand on the running average of the pixels"
    paper: ClassVar[str] = (
        "Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation, CVPR 2023, arXiv:2211.11004"
    )
    role: ClassVar[str] = "enhancement"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "dense"})
    needs: ClassVar[tuple[str, ...]] = ("expert_optimizer",)
    neutral: ClassVar[Mapping[str, object]] = {"rho": 0.0, "ema": 0.0}
    presets: ClassVar[str | None] = "presets.toml"

    rho: float = option(
        0.01, help="radius within which the loss should be flat; 0: plain SGD", symbol="rho", validator=ge(0)
    )
    alpha: float = option(
        1.0, help="weight of the gradient's part across the perturbed one; 0: SAM", symbol="alpha", validator=ge(0)
    )
    adaptive: bool = option(True, help="measure the radius in units of each weight")
    ema: float = option(
        0.999,
        help="share that the pixels' average keeps at a step; 0: the last pixels",
        symbol="lambda",
        validator=and_(ge(0), le(1)),
    )

    def expert_options(self) -> Mapping[str, object] | None:
        """Radius, weight and unit; not the average, which experts know nothing of."""
        return {"rho": self.rho, "alpha": self.alpha, "adaptive": self.adaptive} if self.rho > 0 else None

    @hookimpl
    def ddcore_expert_optimizer(self, base: Optimizer) -> Optimizer:
        """GSAM around the core's SGD."""
        return GSAM(base, rho=self.rho, alpha=self.alpha, adaptive=self.adaptive)

    @hookimpl
    def ddcore_companion(self, learn: Learn) -> Companion | None:
        """The averages, which begin as the initial pixels."""
        return Averages(learn, self.ema) if self.ema > 0 else None
