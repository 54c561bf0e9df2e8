"""NRR-DD: keep what an image is recognised by, refine the rest (Tran et al., CVPR 2025, arXiv:2503.18267).

Start from real patches that hold the object and that teachers are least sure of (``cidd``, critical-based initial data
discovery); let the matcher move each pixel the less the more of its class is seen there, by class activation maps C in
[0, 1]:

    M = max(0, epsilon - C(x_0))        x <- x + M (what the matcher's step makes of x, less x)

so that pixels with C >= epsilon stay as they were photographed. What is left of the paper, two distances in the place
of a soft label, is the core's ``--labels two-distances``. The maps themselves are in ``ddcore_nrr_dd.maps``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import and_, ge, gt, le, optional
from torch import Tensor

from ddcore import Companion, InputError, Learn, Plugin, PluginError, Task, Vote, hookimpl, option
from ddcore.errors import OptionError
from ddcore.images import MOSAICS, Ranks, crop_boxes, cut, of_slot, patch_losses, patches_a_side, ranked, stitch
from ddcore.runs import for_each_class
from ddcore.storage import kept
from ddcore_nrr_dd.maps import Kind, Ratio, Span, activation_ratios, mean_maps, moved, non_critical

if TYPE_CHECKING:
    from ddcore import Run

NAME = "cidd"
FOLDER = "nrr-dd"
IMAGES_AT_ONCE = 64
"""Images whose patches are held at a time."""

Confidence = Literal["lowest", "median", "highest"]
RANKS: Mapping[Confidence, Ranks] = {"lowest": "highest", "median": "median", "highest": "lowest"}
"""Of the loss: who is confident loses little."""


def critical_boxes(maps: Tensor, boxes: Tensor, keep: int, ratio: Ratio = "share") -> Tensor:
    """Of each image the boxes that hold most of its class, best first; of equals those drawn first.

    Args:
        maps: (N, H, W) in [0, 1].
        boxes: (N, M, 4) int64, see ``ddcore.images.patches.crop_boxes``.
        keep: t, at most M.

    Returns:
        (N, t, 4) on the CPU.
    """
    order = activation_ratios(maps, boxes, ratio).cpu().argsort(dim=1, descending=True, stable=True)[:, :keep]
    return boxes.gather(1, order[:, :, None].expand(-1, -1, 4))


@frozen
class Look:
    """How patches are looked for.

    Attributes:
        keep: t, of each image.
        side: of a patch in pixels, as it is judged.
        size: H = W.
        kind, span: of the maps.
        ratio: by which a box holds much of its class.
        ranks: of the patches' losses; ``highest`` is the least confident.
    """

    keep: int
    side: int
    size: int
    kind: Kind = "cam"
    span: Span = "range"
    ratio: Ratio = "share"
    ranks: Ranks = "highest"


def discover(
    images: Callable[[Tensor], Tensor],
    rows: Tensor,
    boxes: Tensor,
    cls: int,
    count: int,
    votes: Sequence[Vote],
    look: Look,
) -> dict[str, Tensor]:
    """The patches of a class to start from: of each image those that hold most of the class, of these the least
    confident.

    Args:
        images: from rows (b,) to normalised images (b, C, H, W); asked for some at a time, so that no more are held.
        rows: (N,) int64, the pool.
        boxes: (N, M, 4) int64, candidates.
        cls: the class of them all.
        count: how many patches, at most N t.
        votes: teachers, whose maps and losses are averaged by their weights.

    Returns:
        By rank: ``rows`` (n,) int64, ``boxes`` (n, 4) int64 and ``losses`` (n,) of each.
    """
    kept, losses = [], []
    total = sum(vote.weight for vote in votes)
    judges = [vote.network for vote in votes], [vote.weight / total for vote in votes]
    for some, own in zip(rows.split(IMAGES_AT_ONCE), boxes.split(IMAGES_AT_ONCE), strict=True):  # type: ignore[no-untyped-call]
        shown, classes = images(some), torch.full((len(some),), cls)
        best = critical_boxes(
            mean_maps(votes, shown, classes, kind=look.kind, span=look.span), own, look.keep, look.ratio
        )
        losses.append(patch_losses(cut(shown, best, look.side), classes, *judges, size=look.size).cpu())
        kept.append(best)
    found = torch.cat(losses).flatten()
    order = ranked(found, count, look.ranks)
    of_image = rows.repeat_interleave(look.keep)
    return {"rows": of_image[order], "boxes": torch.cat(kept).flatten(0, 1)[order], "losses": found[order]}


class Masks(Companion):
    """How far pixels may move, made anew every ``refresh`` steps; 0 keeps the first."""

    def __init__(self, make: Callable[[], dict[str, Tensor]], refresh: int) -> None:
        super().__init__(masks=make())
        self._make, self._refresh = make, refresh

    @property
    def masks(self) -> dict[str, Tensor]:
        """By learned tensor."""
        made: dict[str, Tensor] = self.state["masks"]
        return made

    def after_step(self, step: int, loss: float | None) -> None:
        """New masks where they are due."""
        if self._refresh and (step + 1) % self._refresh == 0:
            self.masks.update(self._make())


@frozen(kw_only=True, eq=False)
class NRRDD(Plugin):
    """Start from patches that hold the object and are hard to tell;
    leave the pixels that the class is seen in as they are."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "start from hard real patches; only pixels that the class is not seen in are refined"
    paper: ClassVar[str] = (
        "Enhancing Dataset Distillation via Non-Critical Region Refinement, CVPR 2025, arXiv:2503.18267"
    )
    role: ClassVar[str] = "enhancement"
    may_need: ClassVar[tuple[str, ...]] = ("teachers",)
    initializers: ClassVar[tuple[str, ...]] = (NAME,)
    of_real: ClassVar[Mapping[str, str]] = {NAME: "patches cut out of real images and resized"}
    tiny: ClassVar[Mapping[str, object]] = {"pool": 8, "crops": 2}
    presets: ClassVar[str | None] = "presets.toml"

    threshold: float = option(
        0.5, help="activation from which on a pixel stays as it is", symbol="epsilon", validator=and_(ge(0), le(1))
    )
    masked: bool = option(True, help="keep critical pixels; off: only the initialiser is left")
    refresh: int = option(
        0,
        help="make the maps anew, of the images as they are, every so many steps; 0: once, of the initial ones",
        unit="steps",
        validator=ge(0),
    )
    map: Kind = option("cam", help="the class's gradient times features place by place, or Grad-CAM's mean gradient")
    span: Span = option("range", help="bring maps to [0, 1] by (C - min) / (max - min) or by max(0, C) / max")
    factor: int | None = option(
        None,
        help=f"patches a side of an initial image; none: 1 for images below {MOSAICS} pixels, else 2",
        symbol="beta^(1/2)",
        validator=optional(ge(1)),
    )
    pool: int = option(300, help="random images of a class that patches are cut from", unit="images", validator=ge(1))
    crops: int = option(5, help="random patches of each of them", validator=ge(1))
    scale: float = option(
        0.08,
        help="least area of a patch as a share of its image; the largest is all of it",
        validator=and_(gt(0), le(1)),
    )
    keep: int = option(
        1, help="patches of each image that go on: those of the highest activation ratio", symbol="t", validator=ge(1)
    )
    ratio: Ratio = option("share", help="a patch's activation over that of its image, or its mean activation")
    confidence: Confidence = option("lowest", help="which of them become images, by the teachers' loss")

    def assets(self, initializer: str | None) -> tuple[str, ...]:
        """Teachers, for maps."""
        return ("teachers",) if self.masked or initializer == NAME else ()

    @hookimpl
    def ddcore_initialize(self, name: str, classes: Tensor, task: Task, run: "Run") -> Tensor | None:
        """Stitched patches; a task that asks for fewer than ``--ipc`` of a class gets those of its slot."""
        if name != NAME:
            return None
        images = for_each_class(classes, lambda cls, count: self._images(cls, count, task.slot, run))
        return run.normalisation.clamped(images)  # resizing rounds, and the matcher's own clamp must find nothing to do

    @hookimpl
    def ddcore_companion(self, task: Task, learn: Learn, run: "Run") -> Companion | None:
        """The masks, of the initial images."""
        if not self.masked or task.steps == 0:
            return None
        companion = Masks(partial(self._masks, task, learn, run), self.refresh)
        if not companion.masks:
            self._nothing_to_mask(run)
        return companion

    @hookimpl
    def ddcore_project(self, after: Tensor, before: Tensor, name: str, companion: "Masks | None") -> Tensor | None:
        """A share M of the step."""
        masks = companion.masks if companion is not None else {}
        return moved(after, before, masks[name]) if name in masks else None

    def _masks(self, task: Task, learn: Learn, run: "Run") -> dict[str, Tensor]:
        """Of each learned tensor that holds an image for each class of the task."""
        if task.classes is None:
            return {}
        due = (len(task.classes), run.source.channels, run.source.size, run.source.size)
        pixels = {name: tensor.detach() for name, tensor in learn.named("pixels").items() if tensor.shape == due}
        look: dict[str, Any] = {"kind": self.map, "span": self.span}
        votes = run.votes("match", task) if pixels else []
        return {
            name: non_critical(mean_maps(votes, images, task.classes, **look), self.threshold)
            for name, images in pixels.items()
        }

    def _nothing_to_mask(self, run: "Run") -> None:
        why = f"nrr-dd keeps pixels of learned images as they are, and {run.matcher_name} learns no images"
        if run.plan.initializer != NAME:
            raise PluginError(f"{why}: leave out --plugin nrr-dd, or start from its patches by --init {NAME}")
        run.warn(f"{why}: only the initial patches are nrr-dd's; --nrr-dd.no-masked says so without this warning")

    def _images(self, cls: int, count: int, slot: int, run: "Run") -> Tensor:
        total, which, slot = of_slot(count, slot, run.config.ipc)
        factor, size = self.patches_a_side(run), run.source.size
        found = self._discovered(cls, total, slot, run)
        needed = torch.arange(total * factor**2).view(-1, total)[:, which].flatten()
        patches = cut(run.real.train.inputs(found["rows"][needed]), found["boxes"][needed][:, None], size // factor)
        return stitch(patches[:, 0], count, size)

    def _discovered(self, cls: int, total: int, slot: int, run: "Run") -> dict[str, Tensor]:
        """What ``discover`` finds for ``total`` images of a class; kept in the run's folder, since slots share it."""
        key = {"class": cls, "images": total, "slot": slot, "name": run.real.classes[cls], "seed": run.seed}
        name, made = f"class-{cls:04d}-{total}-{slot}", partial(self._discover, cls, total, slot, run)
        return kept(run.place, FOLDER, key, made, note=run.warn, name=name)

    def _discover(self, cls: int, total: int, slot: int, run: "Run") -> dict[str, Tensor]:
        factor, size = self.patches_a_side(run), run.source.size
        there, count = min(self.pool, run.real.counts()[cls]), total * factor**2
        least = -(-count // self.keep)
        there = max(there, min(least, self.pool))  # a class of fewer images gives more patches of each
        self._check(cls, there, total, factor, run)
        rows = run.real.choose(cls, there, run.generator(NAME, "pool", slot, cls))
        area = (self.scale, 1.0)
        boxes = crop_boxes(there, self.crops, (size, size), area, run.generator(NAME, "crops", slot, cls))
        ranks = RANKS[self.confidence]
        look = Look(self.keep, size // factor, size, self.map, self.span, self.ratio, ranks)
        return discover(run.real.train.inputs, rows, boxes, cls, count, run.votes("match"), look)

    def patches_a_side(self, run: "Run") -> int:
        """The root of beta for images of the run's size."""
        return patches_a_side(self.factor, run.source.size, "--nrr-dd.factor")

    def _check(self, cls: int, there: int, total: int, factor: int, run: "Run") -> None:
        if self.keep > self.crops:
            raise OptionError(
                f"--nrr-dd.keep {self.keep} is more than the --nrr-dd.crops {self.crops} that are cut of an image: keep fewer"
            )
        if there * self.keep < total * factor**2:
            needed, name = total * factor**2, run.real.classes[cls]
            raise InputError(
                f"{total} images of {factor} x {factor} patches take {needed} patches of class {name!r}, and {there} images give "
                f"{there * self.keep}: raise --nrr-dd.pool (the class has {run.real.counts()[cls]} images) or --nrr-dd.keep, or "
                "lower --ipc or --nrr-dd.factor"
            )
