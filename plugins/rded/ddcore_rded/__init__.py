"""RDED: images stitched from the real patches that a teacher finds most realistic (Sun et al., CVPR 2024,
arXiv:2312.03526).

Cut M random patches out of each image of a pool, keep the one of each image, then the n = IPC f^2 of a class, that the
teacher finds most likely to be of their class, and stitch f x f of them into each image:

    p_1, ..., p_n = the n patches of lowest -log softmax(teacher(patch))_class, at most one an image
    image k       = p_k in cell 0, p_{IPC + k} in cell 1, p_{2 IPC + k} in cell 2, ...

No pixel is optimised. Beside another matcher the same images are where it starts. The moves themselves are in
``ddcore.images.patches``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs
import torch
from attrs import frozen
from attrs.validators import ge, gt, in_, le, optional
from torch import Tensor, nn

from ddcore import InputError, Learn, Plugin, Task, hookimpl, option
from ddcore.images import (
    MOSAICS,
    Ranks,
    crop_boxes,
    cut,
    fittest,
    of_slot,
    patch_losses,
    patches_a_side,
    ranked,
    stitch,
)
from ddcore.runs import for_each_class
from ddcore.storage import kept
from ddcore.training import Protocol
from ddcore_rded.protocols import PROTOCOLS

if TYPE_CHECKING:
    from ddcore import Run

NAME = "rded"
IMAGES_AT_ONCE = 64
"""Images whose patches are held at a time."""

Pick = Literal["realistic", "medium", "unrealistic", "random"]
RANKS: Mapping[Pick, Ranks] = {"realistic": "lowest", "medium": "median", "unrealistic": "highest"}


@frozen(eq=False)
class Selection:
    """The patches that make a class's images, by rank.

    Attributes:
        rows: (n,) int64, which image each was cut out of.
        boxes: (n, 4) int64, where: top, left, height, width in pixels.
        losses: (n,) of each; zeros where patches were not judged.
    """

    rows: Tensor
    boxes: Tensor
    losses: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """What is stored."""
        return {"rows": self.rows, "boxes": self.boxes, "losses": self.losses}


@frozen
class Look:
    """How patches are looked at.

    Attributes:
        side: S of a patch in pixels.
        size: H = W that the networks expect.
        ranks: of the losses, which are kept.
    """

    side: int
    size: int
    ranks: Ranks = "lowest"


def select(
    images: Callable[[Tensor], Tensor],
    rows: Tensor,
    boxes: Tensor,
    cls: int,
    count: int,
    networks: Sequence[nn.Module],
    weights: Sequence[float] | None = None,
    *,
    look: Look,
) -> Selection:
    """The patches of a class to keep: of each image its crop of the lowest loss, of those the ``count`` of these ranks.

    Args:
        images: from rows (b,) to normalised images (b, C, H, W); asked for some at a time, so that no more are held.
        rows: (N,) int64, the pool.
        boxes: (N, M, 4) int64, see ``ddcore.images.patches.crop_boxes``.
        cls: the class of them all.
        count: n, at most N.
        networks: who judges, and with which ``weights``: see ``ddcore.images.patches.patch_losses``.

    References:
        Equations 5 to 7 of the paper, whose score is minus this loss; ``selector`` of the authors' code.
    """

    def judged(some: Tensor, own: Tensor) -> Tensor:
        patches = cut(images(some), own, look.side)
        classes = torch.full((len(some),), cls)
        return patch_losses(patches, classes, networks, weights, size=look.size).cpu()

    parts = zip(rows.split(IMAGES_AT_ONCE), boxes.split(IMAGES_AT_ONCE), strict=True)  # type: ignore[no-untyped-call]
    losses, best = fittest(torch.cat([judged(some, own) for some, own in parts]))
    kept = ranked(losses, count, look.ranks)
    return Selection(rows[kept], boxes[kept, best[kept]], losses[kept])


def images_of(
    selection: Selection, images: Callable[[Tensor], Tensor], total: int, which: Tensor, side: int, size: int
) -> Tensor:
    """Some of the ``total`` images that a selection makes, cut and stitched:
    (I, C, size, size) for ``which`` (I,) int64."""
    by_cell = torch.arange(len(selection.rows)).view(-1, total)
    needed = by_cell[:, which].flatten()
    patches = cut(images(selection.rows[needed]), selection.boxes[needed][:, None], side)[:, 0]
    return stitch(patches, len(which), size)


@frozen(kw_only=True, eq=False)
class RDED(Plugin):
    """Stitch the real patches that a teacher finds most realistic."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "stitch the real patches that a teacher finds most realistic; nothing is optimised"
    paper: ClassVar[str] = (
        "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm, CVPR 2024, arXiv:2312.03526"
    )
    role: ClassVar[str] = "matcher"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    gives_way: ClassVar[bool] = True
    steps: ClassVar[int | None] = 0
    learns: ClassVar[tuple[str, ...]] = ("pixels",)
    asks: ClassVar[tuple[str, ...]] = ("initialize",)
    may_need: ClassVar[tuple[str, ...]] = ("teachers",)
    initializers: ClassVar[tuple[str, ...]] = (NAME,)
    of_real: ClassVar[Mapping[str, str]] = {NAME: "patches cut out of real images, resized and stitched"}
    suggests_labels: ClassVar[str | None] = "per-view"
    tiny: ClassVar[Mapping[str, object]] = {"crops": 2, "pool": 12}
    presets: ClassVar[str | None] = "presets.toml"
    cells: ClassVar[str | None] = "cells.toml"

    factor: int | None = option(
        None,
        help=f"patches a side of an image; none: 1 for images below {MOSAICS} pixels, else 2",
        symbol="f",
        validator=optional(ge(1)),
    )
    crops: int = option(
        5, help="random patches of each image, the likeliest of which may be kept", symbol="M", validator=ge(1)
    )
    pool: int = option(
        300, help="random images of a class that patches are cut from", symbol="mipc", unit="images", validator=ge(1)
    )
    scale: float = option(
        0.08, help="least area of a patch as a share of its image; the largest is all of it", validator=[gt(0), le(1)]
    )
    pick: Pick = option(
        "realistic", help="which images' best patches are kept: by the teacher's loss, or without asking it"
    )
    observers: Literal["all", "first"] = option(
        "all",
        help="who judges: the mean loss of all teachers by their weights, or the first's",
        validator=in_(("all", "first")),
    )

    def assets(self, initializer: str | None) -> tuple[str, ...]:
        """Teachers, where they judge."""
        return ("teachers",) if initializer == NAME and self.pick != "random" else ()

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_tasks(self, run: "Run") -> list[Task] | None:
        """A task a class, so that they can be done side by side."""
        if run.plan.initializer != NAME:
            return None
        every, ipc = range(len(run.source.classes)), run.config.ipc
        self._refuse_small_pools(every, ipc, run)
        self._tell_of_short_classes(every, run)
        return [Task("distil", f"distil-{c:04d}", run.plan.steps, c, classes=torch.full((ipc,), c)) for c in every]

    @hookimpl
    def ddcore_initialize(self, name: str, classes: Tensor, task: Task, run: "Run") -> Tensor | None:
        """Stitched images; a task that asks for fewer than ``--ipc`` of a class gets those of its slot."""
        if name != NAME:
            return None
        if run.matcher is not self:
            asked = sorted(set(classes.tolist()))
            self._refuse_small_pools(asked, max(run.config.ipc, int(classes.bincount().max())), run)
            if task.slot == 0:
                self._tell_of_short_classes(asked, run)
        return for_each_class(classes, lambda cls, count: self._images(cls, count, task, run))

    @hookimpl
    def ddcore_learn(self, images: Tensor) -> Learn:
        """The images as they are; nothing moves them."""
        return Learn({"pixels": images}, {}, roles={"pixels": "pixels"})

    def patches_a_side(self, run: "Run") -> int:
        """f for images of the run's size."""
        return patches_a_side(self.factor, run.source.size, "--rded.factor")

    def selection(self, cls: int, total: int, task: Task, run: "Run") -> Selection:
        """Which patches make ``total`` images of a class; kept in the run's folder, so that slots do not judge them
        again.

        Args:
            task: of its slot's draws and teachers.
        """
        key = {"class": cls, "images": total, "slot": task.slot, "name": run.real.classes[cls], "seed": run.seed}

        def made() -> dict[str, Tensor]:
            return self._select(cls, total, task, run).tensors()

        name = f"class-{cls:04d}-{total}-{task.slot}"
        return Selection(**kept(run.place, NAME, key, made, note=run.warn, name=name))

    def _select(self, cls: int, total: int, task: Task, run: "Run") -> Selection:
        size, factor = run.source.size, self.patches_a_side(run)
        count, there = total * factor**2, min(self.pool, run.real.counts()[cls])
        drawn = {what: run.generator(NAME, what, task.slot, cls) for what in ("pool", "crops")}
        there = max(there, count)  # a class of fewer images gives several patches of each
        rows = run.real.choose(cls, there, drawn["pool"])
        boxes = crop_boxes(there, self.crops, (size, size), (self.scale, 1.0), drawn["crops"])
        if self.pick == "random":
            return Selection(rows[:count], boxes[:count, 0], torch.zeros(count))
        votes = run.votes("match", task)[: 1 if self.observers == "first" else None]
        networks, weights = [vote.network for vote in votes], [vote.weight for vote in votes]
        look = Look(size // factor, size, RANKS[self.pick])
        return select(run.real.train.inputs, rows, boxes, cls, count, networks, weights, look=look)

    def _images(self, cls: int, count: int, task: Task, run: "Run") -> Tensor:
        total, which, slot = of_slot(count, task.slot, run.config.ipc)
        found, size = self.selection(cls, total, attrs.evolve(task, slot=slot), run), run.source.size
        return images_of(found, run.real.train.inputs, total, which, size // self.patches_a_side(run), size)

    def _refuse_small_pools(self, classes: Sequence[int], total: int, run: "Run") -> None:
        factor = self.patches_a_side(run)
        needed = total * factor**2
        for cls in classes:
            if self.pool >= needed:
                continue
            raise InputError(
                f"{total} images of {factor} x {factor} patches take {needed} images of class {run.real.classes[cls]!r}, "
                f"one a patch, and the pool holds {self.pool}: raise --rded.pool to {needed} at least, or lower --ipc or "
                "--rded.factor"
            )

    def _tell_of_short_classes(self, classes: Sequence[int], run: "Run") -> None:
        counts = run.real.counts()
        short = [cls for cls in classes if counts[cls] < self.pool]
        if short:
            least = min(short, key=counts.__getitem__)
            run.say(
                f"rded: {len(short)} of {len(classes)} classes have fewer images than --rded.pool {self.pool} (the fewest: "
                f"{counts[least]} of {run.real.classes[least]!r}), so all of theirs are in the pool"
            )
