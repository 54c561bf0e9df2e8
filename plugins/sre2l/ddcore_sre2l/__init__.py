"""SRe2L (Yin, Xing and Shen, NeurIPS 2023, arXiv:2306.13092): squeeze, recover, relabel.

Squeeze the data into a teacher with BatchNorm; recover images, a block of classes at a time, by descending

    L(x) = CE(f(x'), y) + r_bn sum_l w_l ( ||v_l - var_l(x')||_2 + ||mu_l - mean_l(x')||_2 )

in the pixels, where x' are the images under one crop, mirror and roll shared by the block, and mu_l, v_l what the l-th
BatchNorm layer remembers of the real data; then relabel every view by the teacher. With several teachers the loss is
their weighted sum.

Nothing couples one image a class ("slot") with the next, so slots and blocks are independent tasks.

Shape letters: B images of a block, C H W pixels, K classes.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from attrs import frozen
from attrs.validators import ge, gt, optional
from torch import Tensor

from ddcore import Batch, Cost, Learn, Loss, Plugin, Progress, Subject, Task, Vote, hookimpl, option
from ddcore.images import LARGE, Cropping, ViewRule, seen_in_step
from ddcore.networks import FIRST, inversion_loss, require_layers
from ddcore.training import Protocol, rate_at
from ddcore_sre2l.protocols import PROTOCOLS

if TYPE_CHECKING:
    from ddcore import Run


def total_variation(images: Tensor) -> Tensor:
    """Frobenius norms, over the whole batch, of the differences to the neighbours right, below, and on both diagonals;
    summed.

    References:
        Mahendran and Vedaldi, CVPR 2015, in DeepInversion's form (arXiv:1912.08795, equation 3); 0 in all published
        settings.
    """
    right = images[:, :, :, :-1] - images[:, :, :, 1:]
    below = images[:, :, :-1, :] - images[:, :, 1:, :]
    falling = images[:, :, :-1, :-1] - images[:, :, 1:, 1:]
    rising = images[:, :, 1:, :-1] - images[:, :, :-1, 1:]
    total: Tensor = right.norm() + below.norm() + falling.norm() + rising.norm()
    return total


def mean_norm(images: Tensor) -> Tensor:
    """Mean over images of the L2 norm of all their values."""
    mean: Tensor = images.flatten(1).norm(dim=1).mean()
    return mean


def recovery_loss(
    vote: Vote, images: Tensor, classes: Tensor, *, bn: float, first: float = FIRST, variance: float = 1.0
) -> Tensor:
    """CE + r_bn L_bn of images under one teacher, times its weight: a scalar.

    Args:
        images: (B, C, H, W) float, already under their view.
        classes: (B,) int64.
        bn: r_bn.
        first: weight of the first BatchNorm layer.
        variance: weight of the variances' part (1 here; DWA raises it).

    References:
        Yin et al., NeurIPS 2023, arXiv:2306.13092, equations 4 to 6; cross entropy is a mean over B.
    """
    return vote.weight * inversion_loss(vote.network, images, classes, bn=bn, first=first, variance=variance)


@frozen(kw_only=True, eq=False)
class SRe2L(Plugin):
    """Recover images whose classes and batch statistics teachers recognise."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "recover images from teachers' classes and BatchNorm statistics; label every view of them"
    paper: ClassVar[str] = (
        "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective, NeurIPS 2023, "
        "arXiv:2306.13092"
    )
    role: ClassVar[str] = "matcher"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    steps: ClassVar[int | None] = 1000
    learns: ClassVar[tuple[str, ...]] = ("pixels",)
    needs: ClassVar[tuple[str, ...]] = ("teachers",)
    asks: ClassVar[tuple[str, ...]] = (
        "initialize",
        "adapt_teacher",
        "view:match",
        "augment:match",
        "setting:match.crop_scale",
        "setting:match.variance_weight",
    )
    suggests: ClassVar[str | None] = "noise"
    suggests_labels: ClassVar[str | None] = "per-view"
    tiny: ClassVar[Mapping[str, object]] = {"block": 3, "crop": "resized"}
    presets: ClassVar[str | None] = "presets.toml"

    rate: float = option(0.25, help="learning rate of the pixels' Adam, cosine to 0", validator=gt(0))
    bn: float = option(
        0.01, help="weight of the batch statistics beside the cross entropy", symbol="r_bn", validator=ge(0)
    )
    first: float = option(FIRST, help="weight of the first BatchNorm layer among them", symbol="w_1", validator=ge(0))
    block: int = option(
        100,
        help="classes recovered together, an image each: statistics are taken over them",
        unit="classes",
        validator=ge(2),
    )
    crop: Cropping = option(
        "auto", help="crop and mirror the block in each step; auto: resized from 64 pixels on, below none"
    )
    scale: float = option(0.08, help="least area of a crop", validator=[gt(0)])
    roll: int | None = option(
        None, help="largest torus roll; none: 4, above 64 pixels 32", unit="pixels", validator=optional(ge(0))
    )
    centred: bool = option(False, help="roll from -roll to roll instead of from 0 (Tiny-ImageNet's script)")
    tv: float = option(0.0, help="weight of the total variation; 0 in all published settings", validator=ge(0))
    l2: float = option(0.0, help="weight of the images' norm; 0 in all published settings", validator=ge(0))

    def cost(self, run: "Run") -> Cost:
        """Every image of every slot and block, once for each teacher."""
        teachers = max(1, len(run.options["teachers"].networks))
        return Cost(backward=run.config.ipc * len(run.source.classes) * teachers)

    def suggests_protocol(self, subject: Subject) -> str | None:
        """For labels of views ``sre2l``, of small images ``sre2l-cifar``."""
        if not subject.of_views:
            return None
        return "sre2l" if subject.size >= LARGE else "sre2l-cifar"

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_tasks(self, run: "Run") -> list[Task]:
        """A task for each slot and block of classes: one image of each of them."""
        blocks = torch.arange(len(run.source.classes)).split(self.block)  # type: ignore[no-untyped-call]
        pairs = [(slot, number, block) for slot in range(run.config.ipc) for number, block in enumerate(blocks)]
        return [
            Task("distil", f"recover-{slot:03d}-{number:03d}", run.plan.steps, index=at, slot=slot, classes=block)
            for at, (slot, number, block) in enumerate(pairs)
        ]

    @hookimpl
    def ddcore_learn(self, task: Task, images: Tensor, run: "Run") -> Learn:
        """The pixels under Adam; the teachers that vote on this task, as the initial images' first view makes them."""
        pixels = images.requires_grad_()
        optimizer = torch.optim.Adam([pixels], lr=self.rate, betas=(0.5, 0.9), eps=1e-8)
        votes = run.votes("match", task, self.viewed(pixels.detach(), task, 0, run))
        for vote in votes:
            require_layers(vote.network, vote.name)
        return Learn({"pixels": pixels}, {"pixels": optimizer}, roles={"pixels": "pixels"}, fixed={"votes": votes})

    @hookimpl
    def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: "Run") -> Iterator[Loss]:
        """The loss above, a teacher at a time, all under the same view."""
        progress = Progress(step, task.steps)
        for group in learn.optimizers["pixels"].param_groups:
            group["lr"] = rate_at(step, self.rate, task.steps, schedule="cosine")
        variance = run.setting("match.variance_weight", 1.0, progress)
        for vote in learn.fixed["votes"]:
            batch = self.viewed(learn.tensors["pixels"], task, step, run)
            classes = batch.targets["class"]
            yield Loss(recovery_loss(vote, batch.inputs, classes, bn=self.bn, first=self.first, variance=variance))
        if self.tv or self.l2:
            images = self.viewed(learn.tensors["pixels"], task, step, run).inputs
            yield Loss(self.tv * total_variation(images) + self.l2 * mean_norm(images))

    @hookimpl
    def ddcore_project(self, after: Tensor, role: str, run: "Run") -> Tensor | None:
        """Pixels stay within those that exist."""
        return run.normalisation.clamped(after) if role == "pixels" else None

    def viewed(self, pixels: Tensor, task: Task, step: int, run: "Run") -> Batch:
        """A task's images under the view of a step."""
        assert task.classes is not None
        classes = task.classes.to(pixels.device)
        rule = ViewRule(self.crop, self.scale, self.roll, self.centred)
        return seen_in_step(pixels, classes, task, step, run, of="sre2l", rule=rule)
