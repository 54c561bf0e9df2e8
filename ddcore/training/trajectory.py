"""Matching one stretch of an expert's training with an unrolled student: what mtt, datm and their kin share.

    L = ||student_N - expert_{t+M}||^2 / ||expert_t - expert_{t+M}||^2

(Cazenavette et al., CVPR 2022, arXiv:2203.11932). Which stretch, which labels and whether the step counts is the
method's own affair. Every draw is keyed by (owner, slot, step, inner step), so an exact recompute draws the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import ge, gt, optional
from torch import Tensor

from ddcore.api.plugin import Plugin, option
from ddcore.api.types import STUDENT_STEP, Batch, Cost, Learn, Progress, Segment, Task, Unroll
from ddcore.errors import OptionError
from ddcore.networks.unroll import Batches, unrolled_loss

if TYPE_CHECKING:
    from ddcore.api.services import Run

Mode = Literal["adjoint", "tesla", "full"]
BatchAt = Callable[[int], tuple[Tensor, Tensor]]


@frozen(kw_only=True, eq=False)
class UnrollOptions(Plugin):
    """The options that matchers of trajectories share, and what follows from them."""

    needs: ClassVar[tuple[str, ...]] = ("trajectories",)
    tiny: ClassVar[Mapping[str, object]] = {"student_steps": 2, "expert_epochs": 1, "max_start_epoch": 2}
    asks: ClassVar[tuple[str, ...]] = (
        "initialize",
        "view:student_step",
        "augment:student_step",
        "setting:student_step.batch",
        "segment",
    )

    student_steps: int = option(50, help="SGD steps of the student", symbol="N", unit="steps", validator=ge(1))
    expert_epochs: int = option(2, help="epochs the expert is ahead", symbol="M", unit="epochs", validator=ge(1))
    batch: int | None = option(
        None,
        help="distinct images of an inner step; none is all",
        symbol="|b|",
        unit="images",
        validator=optional(ge(1)),
    )
    lr_img: float = option(100.0, help="learning rate of the pixels", validator=gt(0))
    lr_lr: float = option(1e-7, help="learning rate of the student's learning rate", validator=ge(0))
    rate: float = option(
        0.01, help="the student's learning rate to begin with", symbol="alpha_0", unit="a step", validator=gt(0)
    )
    rate_floor: float = option(1e-6, help="the learned rate never falls below this", unit="a step", validator=ge(0))
    momentum: float = option(0.5, help="momentum of the SGD on pixels and rate", validator=ge(0))
    unroll: Mode = option(
        "adjoint",
        help="gradient of the unrolled student: exact in one step's memory, TESLA's truncated, or the full graph",
    )
    micro_batch: int | None = option(
        None,
        help="images whose second-order graph is alive at once; none: what was measured best for their size",
        unit="images",
        validator=optional(ge(1)),
    )

    def cost(self, run: Run) -> Cost:
        """N inner steps, each once forward and once in the sweep back."""
        return unroll_cost(run, self.student_steps, self.batch)

    def unrolled(self, owner: str, below: int) -> Unroll:
        """The student under these options; start epochs are drawn below ``below``."""
        return Unroll(owner, self.student_steps, self.batch, self.unroll, self.micro_batch, below)


def choose_segment(run: Run, owner: str, task: Task, step: int, low: int, high: int, ahead: int) -> Segment:
    """The next expert of a shuffled pass over all of them, from a start epoch drawn uniformly from ``low`` to ``high``
    - 1.

    Raises:
        OptionError: the stretch would read past the last epoch of the experts.
    """
    experts = run.trajectories
    if not 0 <= low < high or high - 1 + ahead > experts.epochs:
        raise OptionError(
            f"{owner}: start epochs {low} to {high - 1} plus {ahead} expert epochs do not fit in trajectories of "
            f"{experts.epochs} epochs: raise --experts.epochs to {high - 1 + ahead} or lower the start epochs"
        )
    round_, place = divmod(step, experts.count)
    order = torch.randperm(experts.count, generator=run.generator(owner, "experts", task.slot, round_))
    epoch = torch.randint(low, high, (), generator=run.generator(owner, "start", task.slot, step))
    return experts.segment(int(order[place]), int(epoch), ahead)


def inner_indices(count: int, batch: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Which rows each inner step sees: permutations of all rows cut into batches, a short remainder first.

    >>> [len(i) for i in inner_indices(5, 2, 4, torch.Generator())]
    [1, 2, 2, 1]
    """
    chunks: list[Tensor] = []
    chosen = []
    for _ in range(steps):
        if not chunks:
            chunks = list(torch.split(torch.randperm(count, generator=generator), batch))
        chosen.append(chunks.pop())
    return chosen


def student_batches(run: Run, unroll: Unroll, task: Task, step: int, learn: Learn) -> BatchAt:
    """A function from the inner step to its images and targets, differentiable in the learned tensors.

    Targets are probabilities (B, K) when the labels are learned, class ids (B,) otherwise.
    """
    progress = Progress(step, task.steps)
    pixels = learn.tensors["pixels"]
    assert task.classes is not None
    classes = task.classes.to(pixels.device)
    logits = learn.tensors.get("labels")
    batch = unroll.batch or len(pixels)
    batch = max(1, int(run.setting("student_step.batch", batch, progress)))
    rows = inner_indices(len(pixels), batch, unroll.steps, run.generator(unroll.owner, "batches", task.slot, step))

    def batch_at(inner: int) -> tuple[Tensor, Tensor]:
        index = rows[inner].to(pixels.device)
        targets = {"class": classes[index]} | ({} if logits is None else {"logits": logits[index]})
        shown = run.view(Batch(pixels[index], targets, index), STUDENT_STEP)
        key = (unroll.owner, "augment", task.slot, step, inner)
        shown = run.draw(STUDENT_STEP, key=key, count=len(shown), progress=progress)(shown)
        soft = shown.targets.get("logits")
        return shown.inputs, shown.targets["class"] if soft is None else soft.softmax(1)

    return batch_at


def unroll_cost(run: Run, steps: int, batch: int | None) -> Cost:
    """N inner steps of |b| images, each once forward and once in the sweep back; all N weights are kept."""
    rows = len(run.source.classes) * run.config.ipc
    images = steps * min(batch or rows, rows)
    return Cost(backward=images, second_order=images, weights_kept=steps + 4)


def trajectory_loss(run: Run, unroll: Unroll, task: Task, step: int, learn: Learn, segment: Segment) -> Tensor:
    """The loss above for one segment; its gradient reaches pixels, learned labels and the learned rate."""
    network = learn.fixed["network"]
    segment = run.segment(segment, unroll, network, task, Progress(step, task.steps))
    leaves = [learn.tensors[name] for name in ("pixels", "labels") if name in learn.tensors]
    batches = Batches(student_batches(run, unroll, task, step, learn), leaves)
    return unrolled_loss(
        network,
        segment,
        batches,
        learn.tensors["rate"],
        unroll.steps,
        mode=unroll.mode,
        micro_batch=unroll.micro_batch,
    )
