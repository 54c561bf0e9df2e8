"""INFER (Zhang et al., ICLR 2025, arXiv:2408.06927): a few real images of each class, and fewer images that serve every
class.

A slot i is one real image x_c of each class, fixed. For each of M networks f_m one compensator u is learned, a single
additive image for all classes at once:

    L(u) = CE( f_m(x' + u'), 1..C ) + r_bn sum_l w_l ( ||v_l - var_l||_2 + ||mu_l - mean_l||_2 ),  u = 0 at first,

where x' + u' are the C sums x_c + u under one crop, mirror and roll, and v_l, mu_l what the l-th BatchNorm layer of f_m
remembers of the real data. Bases and compensators are stored; the set is every base, and every base plus every
compensator of its slot, within the pixels that exist. Because it varies so much, one label an image is enough, mixed
with the images.

Shape letters: K classes, C H W pixels.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from attrs import frozen
from attrs.validators import and_, ge, gt, le, optional
from torch import Tensor

from ddcore import Batch, Cost, Learn, Loss, Plugin, Progress, Subject, Synthetic, Task, Vote, hookimpl, option
from ddcore.errors import InputError
from ddcore.images import Cropping, ViewRule, seen_in_step
from ddcore.networks import FIRST, require_layers
from ddcore.networks import inversion_loss as matching_loss
from ddcore.sets import as_stored
from ddcore.training import Protocol, members_of, rate_at
from ddcore_infer.budget import base_count, decoded_classes, decoded_count, pairs, stored_bytes, stored_count
from ddcore_infer.protocols import PROTOCOLS

if TYPE_CHECKING:
    from ddcore import Normalisation, Run

__all__ = [
    "INFER",
    "base_count",
    "decoded_classes",
    "decoded_count",
    "matching_loss",
    "pairs",
    "stored_bytes",
    "stored_count",
    "stored_tensors",
]

DECODER = {"op": "sum", "bases": "bases", "added": "compensators", "pairs": "pairs", "least": "least", "most": "most"}


def stored_tensors(
    bases: Tensor, compensators: Tensor, pairs: Tensor, normalisation: "Normalisation"
) -> dict[str, Tensor]:
    """What the core's decoder ``sum`` reads: sample i is base ``pairs[i, 0]`` plus compensator ``pairs[i, 1]``, or the
    bare base.

    Args:
        bases: (N, C, H, W) float; compensators: (U, C, H, W).
        pairs: (S, 2) int, see ``ddcore_infer.budget.pairs``.
        normalisation: one that acts on each pixel alone; sums are kept between its black and white.
    """
    ends = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, bases.shape[1], 1, 1)
    least, most = normalisation.apply(ends.to(bases)).flatten(1)
    return {"bases": bases, "compensators": compensators, "pairs": pairs, "least": least, "most": most}


@frozen(kw_only=True, eq=False)
class INFER(Plugin):
    """Learn additive images that serve every class, one a network and slot."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "a few real images a class, and images added to those of every class"
    paper: ClassVar[str] = (
        "Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator, ICLR 2025, "
        "arXiv:2408.06927"
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
    suggests: ClassVar[str | None] = "real"
    suggests_labels: ClassVar[str | None] = "static-mixed"
    tiny: ClassVar[Mapping[str, object]] = {"crop": "resized"}
    presets: ClassVar[str | None] = "presets.toml"

    rate: float = option(0.25, help="learning rate of the compensators' Adam, cosine to 0", validator=gt(0))
    bn: float = option(
        1.0,
        help="weight of the batch statistics beside the cross entropy (0.01 on ImageNet)",
        symbol="r_bn",
        validator=ge(0),
    )
    first: float = option(FIRST, help="weight of the first BatchNorm layer among them", symbol="w_1", validator=ge(0))
    skip_efficientnet: bool = option(
        False,
        help="leave the second BatchNorm layer of an EfficientNet out of the statistics, as the authors' code does",
    )
    crop: Cropping = option(
        "auto", help="crop and mirror the batch in each step; auto: resized from 64 pixels on, below none"
    )
    scale: float = option(0.08, help="least area of a crop, a share of the image", validator=and_(gt(0), le(1)))
    roll: int | None = option(
        None, help="largest torus roll; none: 4, above 64 pixels 32", unit="pixels", validator=optional(ge(0))
    )

    def cost(self, run: "Run") -> Cost:
        """A base of every class for each compensator."""
        return Cost(backward=self.slots(run) * len(members_of(run)) * len(run.source.classes))

    def suggests_protocol(self, subject: Subject) -> str | None:
        """``infer`` for the one label a clean image that students mix."""
        return "infer" if subject.labels == "static-mixed" else None

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_tasks(self, run: "Run") -> list[Task]:
        """A task for each slot and network: one compensator.

        Raises:
            InputError: the budget buys no slot, or the set could not be stored as asked.
        """
        slots, networks = range(self.slots(run)), range(len(members_of(run)))
        image = torch.zeros(1, run.source.channels, 1, 1)
        storable = stored_tensors(image, image, pairs(1, 1, 1), run.normalisation)
        as_stored(storable, [DECODER], run.config.storage_dtype, run.normalisation)
        return [
            Task(
                "distil",
                f"compensate-{slot:03d}-{number}",
                run.plan.steps,
                index=at,
                slot=slot,
                options={"network": number},
            )
            for at, (slot, number) in enumerate(itertools.product(slots, networks))
        ]

    @hookimpl
    def ddcore_learn(self, task: Task, images: Tensor | None, run: "Run") -> Learn:
        """One image of zeros under Adam; beside it the slot's bases, or those given, and the network of the task."""
        if images is None or task.classes is None:
            images, classes = self.bases(run)[:, task.slot], torch.arange(len(run.source.classes))
        else:
            classes = task.classes
        classes = classes.to(images.device)
        compensator = torch.zeros_like(images[:1]).requires_grad_()
        optimizer = torch.optim.Adam([compensator], lr=self.rate, betas=(0.5, 0.9), eps=1e-8)
        votes = run.votes("match", task, self.viewed(images, classes, task, 0, run))
        vote = votes[task.options.get("network", 0) % len(votes)]
        require_layers(vote.network, vote.name)
        fixed = {"bases": images, "classes": classes, "vote": vote}
        return Learn({"compensator": compensator}, {"compensator": optimizer}, fixed=fixed)

    @hookimpl
    def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: "Run") -> Iterator[Loss]:
        """The loss above, of all classes in one batch."""
        progress, vote = Progress(step, task.steps), learn.fixed["vote"]
        for group in learn.optimizers["compensator"].param_groups:
            group["lr"] = rate_at(step, self.rate, task.steps, schedule="cosine")
        sums = learn.fixed["bases"] + learn.tensors["compensator"]
        batch = self.viewed(sums, learn.fixed["classes"], task, step, run)
        variance = run.setting("match.variance_weight", 1.0, progress)
        more = {"bn": self.bn, "first": self.first, "variance": variance, "skip": self.skipped(vote)}
        yield Loss(matching_loss(vote.network, batch.inputs, batch.targets["class"], **more))

    @hookimpl
    def ddcore_assemble(self, tasks: Sequence[Task], results: Sequence[Mapping[str, Tensor]], run: "Run") -> Synthetic:
        """Bases once, compensators once, and which of them make each image."""
        extent = self.slots(run), len(run.source.classes), len(members_of(run))
        compensators = torch.cat([result["compensator"] for result in results])
        tensors = stored_tensors(self.bases(run).flatten(0, 1).cpu(), compensators, pairs(*extent), run.normalisation)
        return Synthetic(tensors, {}, [DECODER], decoded_classes(*extent))

    def slots(self, run: "Run") -> int:
        """n0, base images of each class.

        Raises:
            InputError: the budget buys none, or sums of images have no bounds of their own.
        """
        classes, networks = len(run.source.classes), len(members_of(run))
        count = base_count(run.config.ipc, classes, networks)
        if not count:
            least = -(-(classes + networks) // classes)
            raise InputError(
                f"--ipc {run.config.ipc} buys infer no image a class beside {networks} that serve all {classes}: give --ipc {least} or more"
            )
        if not run.normalisation.pixelwise:
            raise InputError(
                f"infer keeps sums of images within [least, most] of each channel, which --normalise {run.config.normalise} has not: use mean-std"
            )
        return count

    def bases(self, run: "Run") -> Tensor:
        """Images (K, n0, C, H, W) by the run's initialiser, asked for all of them at once: the same for every task."""
        count = self.slots(run)
        classes = torch.arange(len(run.source.classes)).repeat_interleave(count)
        task = Task("distil", "bases", run.plan.steps, classes=classes)
        images = run.initialize(classes, task)
        return images.reshape(-1, count, *images.shape[1:])

    def skipped(self, vote: Vote) -> tuple[int, ...]:
        """BatchNorm layers of a network that its statistics leave out."""
        return (1,) if self.skip_efficientnet and "efficientnet" in vote.name else ()

    def viewed(self, images: Tensor, classes: Tensor, task: Task, step: int, run: "Run") -> Batch:
        """Images of these classes under the view of a step."""
        rule = ViewRule(self.crop, self.scale, self.roll)
        return seen_in_step(images, classes, task, step, run, of="infer", rule=rule)
