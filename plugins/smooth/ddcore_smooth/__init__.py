"""Smooth expert trajectories: AST, also known as IMTT (Shen et al., arXiv:2310.10541), in the form of the authors'
code.

Experts with momentum and weight decay are better classifiers and worse guides: their weights turn too fast to follow.
AST keeps the strong optimiser, smooths what it does early on, and steadies the student that follows. Parts, each with a
switch:

    experts      r_e CE + lambda mean_bhw (||d sum_c f_c / d x_bhw|| - 1)^2, r_e = 1/2 + e/20 up to 1: ramp and penalty
    images       those nearest to the k-means centres of an expert's logits, class by class
    start        W + a (d / ||d||) W for convolutions, d normal noise
    student      momentum, and a loss scaled by the start epoch
    targets      the expert's epochs on the way, not only the last one

Shape letters: B images of a batch, C H W pixels, K classes, N points, D features, P weights.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs
import torch
from attrs import frozen
from attrs.validators import and_, ge, lt
from torch import Generator, Tensor, nn

from ddcore import Batch, Plugin, Progress, Segment, Task, hookimpl, option
from ddcore.errors import OptionError
from ddcore.networks import logits, weights_view

if TYPE_CHECKING:
    from ddcore import Run, Unroll

Matching = Literal["agg", "adaptive", "none"]


def ramp(epoch: int, epochs: int = 10) -> float:
    """r_e, the factor of an expert's cross entropy ("clipping loss"): from 1/2 up in equal steps to 1.

    Args:
        epoch: 0-based.
        epochs: from this one on the factor is 1; 0 is 1 throughout.

    >>> [ramp(e) for e in (0, 1, 9, 10, 40)]
    [0.5, 0.55, 0.95, 1.0, 1.0]
    """
    return 1.0 if epoch >= epochs else 0.5 + 0.5 * epoch / epochs


def gradient_penalty(network: Callable[[Tensor], Tensor], images_BCHW: Tensor) -> Tensor:
    """How far the logits' slope in a pixel is from 1: mean over images and pixels of (||v_bhw|| - 1)^2.

    v is the gradient of the sum of all logits of all images in the pixels; its norm is over the channels of each pixel,
    not over the image.

    Args:
        network: images to logits (B, K), twice differentiable.
        images_BCHW: any float dtype; un-augmented in AST. No gradient comes back to them.

    Returns:
        Scalar >= 0, differentiable in the network's weights; 1 for logits that do not depend on the images.
    """
    images = images_BCHW.detach().requires_grad_()
    (slope_BCHW,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
    penalty: Tensor = (torch.linalg.vector_norm(slope_BCHW, dim=1) - 1).square().mean()
    return penalty


def perturbed(weights: Tensor, noise: Tensor, strength: float) -> Tensor:
    """A convolution's weights shaken in proportion to themselves: W + a (d / ||d||) W, one norm over the whole tensor.

    Args:
        weights: W, any shape and float dtype.
        noise: d, like W.
        strength: a; 0 gives W.

    >>> perturbed(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), 0.5)
    tensor([1.3000, 2.8000])
    """
    moved: Tensor = weights + strength * (noise / torch.linalg.vector_norm(noise)) * weights
    return moved


def balance(start_epoch: int, below: int) -> float:
    """Factor of the student's loss: above 1 in the later half of the start epochs, below 1 in the earlier.

        log_5(t - h + 8) for t >= h, else 1 / log_5(h - t + 8), with h = floor(T+ / 2)

    Args:
        start_epoch: t.
        below: T+, start epochs are drawn below it.

    >>> [round(balance(t, 40), 3) for t in (19, 20, 37)]
    [0.732, 1.292, 2.0]
    """
    half = below // 2
    if start_epoch >= half:
        return math.log(start_epoch - half + 8, 5)
    return 1 / math.log(half - start_epoch + 8, 5)


def on_the_way(steps: int, epochs: int, matching: Matching) -> list[tuple[int, int, float]]:
    """Where the student meets the expert before the last step: (epochs after the start m, inner step m floor(N / M),
    weight).

    Args:
        steps: N >= M of the student.
        epochs: M of the expert.
        matching: ``agg`` weighs each 1, ``adaptive`` m / M, ``none`` meets nowhere.

    >>> on_the_way(20, 3, "adaptive")
    [(1, 6, 0.3333333333333333), (2, 12, 0.6666666666666666)]
    """
    if matching == "none":
        return []
    return [(m, m * (steps // epochs), 1.0 if matching == "agg" else m / epochs) for m in range(1, epochs)]


def kmeans(points_ND: Tensor, count: int, generator: Generator, rounds: int = 100) -> Tensor:
    """Centres of ``count`` clusters: k-means++ starts, then Lloyd's rounds until no point changes its cluster.

    Args:
        points_ND: float, on the CPU.
        count: at most N.
        rounds: at most so many.

    Returns:
        (count, D): each the mean of the points nearest to it; one that has none stays where it was.

    References:
        Arthur and Vassilvitskii, SODA 2007 (the starts).
    """
    chosen = [int(torch.randint(len(points_ND), (), generator=generator))]
    far = _distances(points_ND, points_ND[chosen])[:, 0]
    while len(chosen) < count:
        odds = far if far.sum() > 0 else torch.ones_like(far)
        chosen.append(int(torch.multinomial(odds, 1, generator=generator)))
        far = torch.minimum(far, _distances(points_ND, points_ND[chosen[-1:]])[:, 0])
    found, before = points_ND[chosen], None
    for _ in range(rounds):
        nearest = _distances(points_ND, found).argmin(1)
        if before is not None and torch.equal(nearest, before):
            break
        sums = torch.zeros_like(found).index_add_(0, nearest, points_ND)
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        found, before = torch.where(sizes > 0, sums / sizes.clamp(min=1), found), nearest
    return found


def nearest_distinct(points_ND: Tensor, centres_ND: Tensor) -> Tensor:
    """For each centre in turn the nearest point that none before it took, (centres,) int64; ties go to the lowest
    index.

    Raises:
        ValueError: there are more centres than points.

    >>> nearest_distinct(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[0.2], [0.1], [5.0]]))
    tensor([0, 1, 2])
    """
    if len(centres_ND) > len(points_ND):
        raise ValueError(f"{len(centres_ND)} different points asked of {len(points_ND)}: ask for as many as there are")
    distances = _distances(points_ND, centres_ND)
    chosen: list[int] = []
    for column in range(len(centres_ND)):
        own = distances[:, column].clone()
        own[chosen] = torch.inf
        chosen.append(int(own.argmin()))
    return torch.tensor(chosen, dtype=torch.int64)


def _distances(points_ND: Tensor, centres_ND: Tensor) -> Tensor:
    """Squared, (N, centres); exactly 0 for equal points."""
    return torch.cdist(points_ND, centres_ND, compute_mode="donot_use_mm_for_euclid_dist").square()


@frozen(kw_only=True, eq=False)
class Smooth(Plugin):
    """Smooth experts, and a student that follows them steadily."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "smooth the experts' early training, and steady the student that follows them"
    paper: ClassVar[str] = (
        "AST: Effective Dataset Distillation through Alignment with Smooth and High-Quality Expert Trajectories, "
        "arXiv:2310.10541"
    )
    role: ClassVar[str] = "enhancement"
    needs: ClassVar[tuple[str, ...]] = ("segment", "expert_loss")
    initializers: ClassVar[tuple[str, ...]] = ("representative",)
    of_real: ClassVar[Mapping[str, str]] = {"representative": "unchanged"}
    presets: ClassVar[str | None] = "presets.toml"

    ramp_epochs: int = option(
        10, help="an expert's loss grows from half to whole over these epochs; 0: off", unit="epochs", validator=ge(0)
    )
    penalty: float = option(
        2.0, help="weight of the experts' gradient penalty; 0: off", symbol="lambda", validator=ge(0)
    )
    perturb: float = option(
        1.0, help="strength of the noise on the convolutions a student starts with; 0: off", symbol="a", validator=ge(0)
    )
    student_momentum: float = option(
        0.9, help="momentum of the student's SGD; 0: off", symbol="mu", validator=and_(ge(0), lt(1))
    )
    balance: bool = option(True, help="scale the student's loss by its start epoch")
    intermediate: Matching = option("agg", help="match the epochs on the way too, with weight 1 or m/M", symbol="beta")

    def expert_options(self) -> Mapping[str, object] | None:
        """Ramp and penalty; the rest is the student's."""
        if self.ramp_epochs == 0 and self.penalty == 0:
            return None
        return {"ramp_epochs": self.ramp_epochs, "penalty": self.penalty}

    @hookimpl
    def ddcore_expert_loss(self, value: Tensor, network: nn.Module, clean: Batch, progress: Progress) -> Tensor:
        """r_e CE + lambda penalty."""
        value = value * ramp(progress.step, self.ramp_epochs)
        return value + self.penalty * gradient_penalty(network, clean.inputs) if self.penalty > 0 else value

    @hookimpl
    def ddcore_initialize(self, name: str, classes: Tensor, generator: Generator, run: "Run") -> Tensor | None:
        """``representative``: the real images nearest to the k-means centres of a random expert's logits."""
        if name != "representative":
            return None
        experts = run.trajectories
        network = experts.network(run, int(torch.randint(experts.count, (), generator=generator)))
        chosen = torch.empty(len(classes), dtype=torch.int64)
        for cls in sorted(set(classes.tolist())):
            rows = classes == cls
            chosen[rows] = representative(run, network, cls, int(rows.sum()), generator)
        return run.real.train.inputs(chosen).cpu()

    @hookimpl
    def ddcore_segment(
        self, segment: Segment, unroll: "Unroll", network: nn.Module, task: Task, progress: Progress, run: "Run"
    ) -> Segment:
        """Another start, targets on the way, momentum and a scale."""
        start = segment.start
        if self.perturb > 0:
            start = shaken(start, network, self.perturb, run.generator("smooth", "perturb", task.slot, progress.step))
        return attrs.evolve(
            segment,
            start=start,
            targets={**self.way(segment, unroll, run), **segment.targets},
            momentum=self.student_momentum or segment.momentum,
            loss_scale=segment.loss_scale * self.scale(segment, unroll),
        )

    def way(self, segment: Segment, unroll: "Unroll", run: "Run") -> dict[int, tuple[Tensor, float]]:
        """The targets on the way by inner step.

        Raises:
            OptionError: fewer student steps than expert epochs.
        """
        if self.intermediate != "none" and unroll.steps < segment.ahead:
            raise OptionError(
                f"{unroll.steps} student steps cannot meet an expert after each of {segment.ahead} epochs: raise "
                f"--{unroll.owner}.student-steps to {segment.ahead} or give --smooth.intermediate none"
            )
        stops = on_the_way(unroll.steps, segment.ahead, self.intermediate)
        weights = run.trajectories.weights
        return {step: (weights(segment.expert, segment.epoch + m), weight) for m, step, weight in stops}

    def scale(self, segment: Segment, unroll: "Unroll") -> float:
        """The factor of the student's loss.

        Raises:
            OptionError: the matcher does not say how late it starts.
        """
        if not self.balance:
            return 1.0
        if unroll.below is None:
            raise OptionError(
                f"{unroll.owner} does not say below which epoch its stretches start, so that nothing can be balanced: "
                "give --smooth.no-balance"
            )
        return balance(segment.epoch, unroll.below)


def shaken(flat_P: Tensor, network: nn.Module, strength: float, generator: Generator) -> Tensor:
    """``perturbed`` for every weight of four axes in flat weights; biases, norms and linear layers stay, to the bit.

    Args:
        flat_P: in the network's ``parameters()`` order.
        network: gives the shapes.
        generator: CPU; drawn from once for each such weight, in order.

    Returns:
        (P,), of its own memory.
    """
    found = flat_P.clone()
    for weights in weights_view(network, found).values():
        if weights.dim() == 4:
            noise = torch.randn(weights.shape, generator=generator, dtype=weights.dtype).to(weights.device)
            weights.copy_(perturbed(weights, noise, strength))
    return found


def representative(run: "Run", network: nn.Module, cls: int, count: int, generator: Generator) -> Tensor:
    """The indices of ``count`` different images of a class: those nearest to the k-means centres of their logits; where
    the class has fewer the same ones again."""
    index = run.real.train.of_class(cls)
    if count > len(index):
        return index[torch.arange(count) % len(index)]
    points_NK = torch.cat([logits(network, run.real.train.inputs(rows)) for rows in index.split(BLOCK)]).cpu().double()
    return index[nearest_distinct(points_NK, kmeans(points_NK, count, generator))]


BLOCK = 1024
"""Images whose pixels are held at once."""
