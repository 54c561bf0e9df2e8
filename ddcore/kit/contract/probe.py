"""A matcher that asks for everything, so that any enhancement can be checked without another plugin installed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
from attrs import frozen
from torch import Tensor

from ddcore.api.hooks import hookimpl
from ddcore.api.plugin import Plugin, option
from ddcore.api.types import INNER, MATCH, SETTINGS, STUDENT_STEP, Batch, Learn, Loss, Progress, Task, Unroll
from ddcore.composing.plan import TEACHERS
from ddcore.networks.unroll import flat_weights

if TYPE_CHECKING:
    from ddcore.runs.run import Run

VIEWED = (MATCH, INNER, STUDENT_STEP)


@frozen(kw_only=True, eq=False)
class Probe(Plugin):
    """Pull the mean image of each class to that of the real data, under every view and augmentation there is."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "asks every enhancement for everything, for tests"
    paper: ClassVar[str] = "none: part of the contract kit"
    role: ClassVar[str] = "matcher"
    steps: ClassVar[int | None] = 3
    learns: ClassVar[tuple[str, ...]] = ("pixels",)
    asks: ClassVar[tuple[str, ...]] = (
        "initialize",
        "segment",
        "adapt_teacher",
        *(f"{what}:{phase}" for what in ("view", "augment") for phase in VIEWED),
        *(f"setting:{name}" for name in sorted(SETTINGS)),
    )
    may_need: ClassVar[tuple[str, ...]] = ("trajectories",)

    experts: bool = option(False, help="train experts, and let their weights shape the loss")

    def assets(self, initializer: str | None) -> tuple[str, ...]:
        """Experts, if asked for."""
        return ("trajectories",) if self.experts else ()

    @hookimpl
    def ddcore_learn(self, task: Task, images: Tensor, run: "Run") -> Learn:
        """The pixels."""
        pixels = images.requires_grad_()
        fixed = {"adapted": self._adapted(pixels.detach(), task, run) if TEACHERS in run.plan.needs else 0.0}
        optimizer = torch.optim.SGD([pixels], lr=0.5)
        return Learn({"pixels": pixels}, {"pixels": optimizer}, roles={"pixels": "pixels"}, fixed=fixed)

    @hookimpl
    def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: "Run") -> Iterator[Loss]:
        """Squared distance of mean images, a class and a phase at a time."""
        assert task.classes is not None
        progress = Progress(step, task.steps)
        weight = run.setting("match.variance_weight", 1.0, progress) + run.setting("match.crop_scale", 0.5, progress)
        weight += learn.fixed["adapted"] + (self._weight_norm(task, progress, run) if self.experts else 0.0)
        rows = max(1, int(run.setting("student_step.batch", len(task.classes), progress)))
        for phase in VIEWED:
            index = torch.arange(len(task.classes) if phase == MATCH else rows, device=run.device)
            own = task.classes.to(run.device)[index]
            batch = run.view(Batch(learn.tensors["pixels"][index], {"class": own}, index), phase)
            shared = phase == MATCH
            draw = run.draw(phase, key=("probe", phase, step), count=len(batch), shared=shared, progress=progress)
            batch = draw(batch)
            distance = batch.inputs.new_zeros(())
            for cls in own.unique().tolist():  # type: ignore[no-untyped-call]
                images = run.real.sample(cls, 4, run.generator("probe", "real", step, cls))
                each = torch.arange(4, device=run.device)
                real = Batch(images, {"class": torch.full_like(each, cls)}, each)
                real = draw(real) if shared else real
                mean = batch.inputs[batch.targets["class"] == cls].mean(0)
                distance = distance + (mean - real.inputs.mean(0)).square().mean()
            yield Loss(weight * distance)

    def _weight_norm(self, task: Task, progress: Progress, run: "Run") -> float:
        """Norm of an expert's weights where a student would start, as enhancements change them."""
        last = run.trajectories.epochs
        network = run.network(run.generator("probe", "network"))
        segment = run.trajectories.segment(0, last - 1, 1)
        segment = run.segment(segment, Unroll("probe", 2, None, "full", None, last), network, task, progress)
        return float(segment.start.norm())

    def _adapted(self, images: Tensor, task: Task, run: "Run") -> float:
        """How much longer the weights of the voting teachers are than before enhancements changed them."""
        assert task.classes is not None
        index = torch.arange(len(images), device=images.device)
        batch = Batch(images, {"class": task.classes.to(images.device)}, index)
        pairs = zip(run.votes("match", task, batch), run.votes("match", task), strict=True)
        return sum(float(flat_weights(new.network).norm() - flat_weights(old.network).norm()) for new, old in pairs)
