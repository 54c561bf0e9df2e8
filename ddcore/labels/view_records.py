"""Which views a student sees, in which batches: stored, or drawn again from a seed.

E epochs over N samples in batches of B make V = E N views. ``StoredViews`` keep every parameter (FKD's record: crop 4
float32, mirror, index and partner, 25 bytes a view), ``DrawnViews`` none. Both number batches from 0 on and answers by
rows, and both may be pruned to a random share of whole batches (LPLD, arXiv:2410.15919). A student that trains for
longer than was stored goes through the batches again from the first. Shape letters: V views stored, M batches stored, B
of a batch.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

import attrs
import torch
from attrs import field, frozen
from attrs.validators import ge, instance_of
from torch import Tensor

from ddcore import randomness
from ddcore.errors import InputError
from ddcore.images.views import Draw, Drawn, View, drawn
from ddcore.labels.labels import smallest_type, stored
from ddcore.labels.per_image import two_counts

PREFIX = "view."
WHOLE = (instance_of(int), ge(1))


class ViewRecord(ABC):
    """The batches that labels were made for.

    Attributes:
        images: N.
        epochs: E that were made; of a pruned record, before pruning.
        batch: B that was asked for; a smaller set is one batch.
        size: (H, W) of the images.
        draw: what was done to them.
        pruned: whether only some whole batches are left.
        batches: M.
    """

    kind: ClassVar[str]
    images: int
    epochs: int
    batch: int
    size: tuple[int, int]
    draw: Draw
    pruned: bool

    @property
    @abstractmethod
    def batches(self) -> int: ...

    @abstractmethod
    def view(self, number: int) -> View:
        """The batch of this number, in [0, M), with the rows of its answers."""

    @abstractmethod
    def only(self, numbers: Tensor) -> ViewRecord:
        """A pruned record of these whole batches, (M,) int64."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What is stored, under names that begin with ``view.``."""

    def header(self) -> dict[str, Any]:
        """JSON values."""
        counts = {"epochs": self.epochs, "batch": self.batch, "size": list(self.size), "pruned": self.pruned}
        return {"kind": self.kind, **counts, "draw": self.draw.header()}

    @property
    def rows(self) -> int:
        """V."""
        return self.batches * min(self.batch, self.images) if self.pruned else self.epochs * self.images

    @property
    def per_epoch(self) -> int:
        """Batches of a student's epoch: those of the set, without a last short one if the record is pruned."""
        return batches_of(self.images, self.batch, whole=self.pruned)

    def extent(self, number: int) -> slice:
        """The rows of a batch."""
        most = min(self.batch, self.images)
        if self.pruned:
            return slice(number * most, (number + 1) * most)
        epoch, at = divmod(number, self.per_epoch)
        start, end = at * most, min(self.images, (at + 1) * most)
        return slice(epoch * self.images + start, epoch * self.images + end)

    def kept(self, share: float, generator: torch.Generator) -> Tensor:
        """A random choice of ``share`` of the whole batches, (M,) int64, in their order."""
        most = min(self.batch, self.images)
        whole = [m for m in range(self.batches) if self.extent(m).stop - self.extent(m).start == most]
        chosen = torch.randperm(len(whole), generator=generator)[: kept_batches(share, len(whole))]
        return torch.tensor(whole)[chosen.sort().values]

    def rows_of(self, numbers: Tensor) -> Tensor:
        """The rows of these batches, one after the other."""
        return torch.cat([_count(self.extent(int(m))) for m in numbers])


def batches_of(images: int, batch: int, *, whole: bool = False) -> int:
    """Batches of an epoch.

    >>> batches_of(50_000, 1024), batches_of(50_000, 1024, whole=True), batches_of(10, 64, whole=True)
    (49, 48, 1)
    """
    return images // min(batch, images) if whole else -(-images // batch)


def kept_batches(share: float, batches: int) -> int:
    """How many of the whole batches are kept, at least one.

    Raises:
        InputError: a share that is none.
    """
    if not 0 < share <= 1:
        raise InputError(f"labels are asked to keep {share} of their batches: give a share above 0 and up to 1")
    return max(1, round(share * batches))


@final
@frozen(eq=False, kw_only=True)
class DrawnViews(ViewRecord):
    """Views that are drawn again whenever they are needed: batch m from (seed, "view", m), its epoch's order from
    (seed, "order", epoch). Costs nothing; pruned, 4 bytes a batch.

    Attributes:
        numbers: of a pruned record: (M,) int64, which batches are left; else None.
    """

    kind: ClassVar[str] = "drawn"
    images: int = field(validator=WHOLE)
    epochs: int = field(validator=WHOLE)
    batch: int = field(validator=WHOLE)
    size: tuple[int, int] = field(validator=two_counts)
    draw: Draw
    seed: int = field(validator=[instance_of(int), ge(0)])
    numbers: Tensor | None = None

    @property
    def pruned(self) -> bool:  # type: ignore[override]
        """Whether batches were left out."""
        return self.numbers is not None

    @property
    def batches(self) -> int:
        """M."""
        full = self.epochs * batches_of(self.images, self.batch)
        return full if self.numbers is None else len(self.numbers)

    def view(self, number: int) -> View:
        """Drawn anew."""
        index, parameters = self.drawn(number)
        return parameters.view(self.draw, index, _count(self.extent(number)))

    def drawn(self, number: int) -> tuple[Tensor, Drawn]:
        """The samples (B,) int64 and the parameters of a batch."""
        number = number if self.numbers is None else int(self.numbers[number])
        epoch, at = divmod(number, batches_of(self.images, self.batch))
        order = torch.randperm(self.images, generator=randomness.generator(self.seed, "order", epoch))
        index = order[at * self.batch : (at + 1) * self.batch]
        parameters = drawn(self.draw, len(index), self.size, randomness.generator(self.seed, "view", number))
        return index, parameters

    def only(self, numbers: Tensor) -> DrawnViews:
        """These batches' numbers."""
        return attrs.evolve(self, numbers=numbers if self.numbers is None else self.numbers[numbers])

    def tensors(self) -> dict[str, Tensor]:
        """``view.number`` (M,) int32 of a pruned record."""
        return {} if self.numbers is None else {f"{PREFIX}number": self.numbers.int()}

    def header(self) -> dict[str, Any]:
        """The seed, and what the first batch's parameters hash to: another torch may draw otherwise."""
        return {**super().header(), "seed": self.seed, "torch": str(torch.__version__), "first": self.digest()}

    def digest(self) -> str:
        """Sixteen letters that tell the first batch's samples and parameters from others."""
        index, parameters = self.drawn(0)
        tensors = [index, *attrs.astuple(parameters, recurse=False)]
        return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()[:16]

    @classmethod
    def load(cls, images: int, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> DrawnViews:
        """From an artifact.

        Raises:
            InputError: this torch draws other views from the seed.
        """
        numbers = stored(tensors, f"{PREFIX}number").long() if header["pruned"] else None
        record = cls(**_common(images, header), seed=header["seed"], numbers=numbers)
        most = record.epochs * batches_of(images, record.batch)
        if numbers is not None and (numbers.dim() != 1 or not _within(numbers, most)):
            raise InputError(
                f"the labels' views name batches that are not among the {most} made: get the artifact again"
            )
        if record.digest() != header["first"]:
            made = f"torch {header['torch']}, this is {torch.__version__}"
            way_out = "install that torch, or get labels with stored views"
            raise InputError(
                f"the labels' views, drawn again from their seed, are other ones (made by {made}): {way_out}"
            )
        return record

    def store(self, *, compact: bool = False) -> StoredViews:
        """The same views with every parameter stored; ``compact`` in the smallest types."""
        every = [self.drawn(m) for m in range(self.batches)]
        crop = torch.cat([p.crop for _, p in every])
        return StoredViews(
            images=self.images,
            epochs=self.epochs,
            batch=self.batch,
            size=self.size,
            draw=self.draw,
            pruned=self.pruned,
            index=torch.cat([index for index, _ in every]).to(_type(self.images, compact)),
            partner=torch.cat([p.partner for _, p in every]).to(_type(self.batch, compact)),
            crop=crop.half() if compact else crop,
            flip=torch.cat([p.flip for _, p in every]),
            share=torch.stack([p.share for _, p in every]),
            box=torch.stack([p.box for _, p in every]).int(),
            strips=torch.cat([p.strips for _, p in every]).to(torch.uint8),
        )


@final
@frozen(eq=False, kw_only=True)
class StoredViews(ViewRecord):
    """Views with every parameter stored: 25 bytes a view and 20 a batch, or 10, an index in the smallest type, and 20.

    Where patches are shuffled, f x f of them, 2 f bytes a view more.

    Attributes:
        index: (V,) int32, samples; compact: the smallest type.
        partner: (V,) int32, into the batch; compact: the smallest type.
        crop: (V, 4) float32; compact: float16, which gives back whole pixels of images up to 1,024 a side.
        flip: (V,) bool.
        share: (M,) float32.
        box: (M, 4) int32.
        strips: (V, 2, f) uint8, stored where patches are shuffled.
    """

    kind: ClassVar[str] = "stored"
    images: int = field(validator=WHOLE)
    epochs: int = field(validator=WHOLE)
    batch: int = field(validator=WHOLE)
    size: tuple[int, int] = field(validator=two_counts)
    draw: Draw
    pruned: bool = field(validator=instance_of(bool))
    index: Tensor
    partner: Tensor
    crop: Tensor
    flip: Tensor
    share: Tensor
    box: Tensor
    strips: Tensor = field(factory=lambda: torch.empty(0, 2, 0, dtype=torch.uint8))

    @property
    def batches(self) -> int:
        """M."""
        return len(self.share)

    def view(self, number: int) -> View:
        """As stored."""
        at = self.extent(number)
        box, partner = self.box[number].long(), self.partner[at].long()
        strips = self.strips[at].long()
        parameters = Drawn(self.crop[at].float(), self.flip[at], partner, self.share[number], box, strips)
        return parameters.view(self.draw, self.index[at].long(), _count(at))

    def only(self, numbers: Tensor) -> StoredViews:
        """These batches' parameters."""
        rows = self.rows_of(numbers)
        each = {name: getattr(self, name)[rows] for name in parameters_of(self.draw) if name in EACH}
        return attrs.evolve(self, pruned=True, share=self.share[numbers], box=self.box[numbers], **each)

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter."""
        return {f"{PREFIX}{name}": getattr(self, name) for name in parameters_of(self.draw)}

    @classmethod
    def load(cls, images: int, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> StoredViews:
        """From an artifact.

        Raises:
            InputError: parameters that are not of such views.
        """
        common = _common(images, header)
        held: dict[str, Any] = {name: stored(tensors, f"{PREFIX}{name}") for name in parameters_of(common["draw"])}
        record = cls(**common, pruned=header["pruned"], **held)
        if wrong := record.wrong():
            raise InputError(f"the labels' views {wrong}: get the artifact again")
        return record

    def wrong(self) -> str:
        """What does not fit, or nothing."""
        if not self.pruned and self.batches != self.epochs * self.per_epoch:
            return f"are {self.batches} batches where {self.epochs * self.per_epoch} are due"
        for name, shape in parameters_of(self.draw).items():
            due = (self.rows if name in EACH else self.batches, *shape)
            if tuple(getattr(self, name).shape) != due:
                return f"have {name!r} of shape {tuple(getattr(self, name).shape)} where {due} is due"
        if not (_within(self.index, self.images) and self.flip.dtype == torch.bool):
            return f"name samples that are not among the {self.images}, or mirrors that are no truth values"
        if not all(_within(self.partner[at], at.stop - at.start) for at in map(self.extent, range(self.batches))):
            return "mix with rows that are not in their batch"
        if STRIPS in parameters_of(self.draw) and not bool(
            (self.strips.sort(2).values == torch.arange(self.draw.shuffle)).all()
        ):
            return "shuffle patches by what is no order of them"
        boxed = ((self.crop[:, 2:] > 0) & (self.crop.abs() <= 1).all(1, keepdim=True)).all()
        limits = torch.tensor([*self.size, *self.size])
        inside = ((self.box >= 0) & (self.box <= limits)).all() and ((self.share >= 0) & (self.share <= 1)).all()
        return "" if boxed and inside else "have crops or boxes that lie outside the images, or shares outside [0, 1]"


STRIPS = "strips"
EACH = ("index", "partner", "crop", "flip", STRIPS)
PARAMETERS: Mapping[str, tuple[int, ...]] = {
    "index": (),
    "partner": (),
    "crop": (4,),
    "flip": (),
    "share": (),
    "box": (4,),
}


def parameters_of(draw: Draw) -> dict[str, tuple[int, ...]]:
    """What is stored of such views, with the shape of each view's or batch's."""
    return {**PARAMETERS, **({STRIPS: (2, draw.shuffle)} if draw.shuffle > 1 else {})}


RECORDS: Mapping[str, type[DrawnViews] | type[StoredViews]] = {"drawn": DrawnViews, "stored": StoredViews}


def load_record(images: int, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ViewRecord:
    """The views of an artifact's labels.

    Raises:
        InputError: of a kind that this version does not know, or damaged.
    """
    if header["kind"] not in RECORDS:
        raise InputError(
            f"the labels' views are {header['kind']!r}, which this ddcore does not read: upgrade ddcore-torch"
        )
    return RECORDS[header["kind"]].load(images, header, tensors)


def _common(images: int, header: Mapping[str, Any]) -> dict[str, Any]:
    counts = {"images": images, "epochs": header["epochs"], "batch": header["batch"]}
    return {**counts, "size": tuple(header["size"]), "draw": Draw(**header["draw"])}


def _type(count: int, compact: bool) -> torch.dtype:
    return smallest_type(count) if compact else torch.int32


def _count(extent: slice) -> Tensor:
    return torch.arange(extent.start, extent.stop)


def _within(numbers: Tensor, count: int) -> bool:
    """Whether all are whole numbers from 0 to below ``count``, which their own type may not hold."""
    whole = not (numbers.is_floating_point() or numbers.is_complex())
    return whole and (not numbers.numel() or 0 <= int(numbers.min()) <= int(numbers.max()) < count)
