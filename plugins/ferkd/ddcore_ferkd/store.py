"""Crops of every image with what teachers said to them, and how students draw from them: the label kind ``ferkd``.

Shape letters: N images, R crops of each, M teachers, K classes, k kept of them, B rows of a batch, m crops of an image
in a batch.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, final

import attrs
import torch
from attrs import asdict, evolve, field, frozen
from attrs.validators import and_, ge, gt, in_, instance_of, le, optional
from torch import Tensor

from ddcore.errors import InputError
from ddcore.images import beta, changed, crop_resize, cutmix_box, flip, mixup
from ddcore.labels import (
    Labels,
    View,
    as_ids,
    at_rows,
    check_ids,
    float32_or_16,
    mixed_classes,
    smallest_type,
    stored,
)
from ddcore.randomness import generator as keyed
from ddcore_ferkd.calibration import (
    COMPRESSIONS,
    HIGH,
    LOW,
    Calibration,
    Compression,
    calibrated,
    kept_classes,
    recovered,
    region_shares,
    regions,
    self_mixed,
)

Mix = Literal["none", "self", "self-box", "mixup", "cutmix", "both"]
MIXES: tuple[Mix, ...] = ("none", "self", "self-box", "mixup", "cutmix", "both")
Dropped = Literal["redrawn", "weighed"]
SELF_MIX = "self-mix"
BETA: Mapping[str, float] = {"mixup": 0.8}
"""The authors' of MixUp; 1 for every other mix."""


def _tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values)


@frozen(kw_only=True)
class Use:
    """How a student draws from the store.

    Attributes:
        together: m: crops of an image that lie side by side in a batch.
        single_from: first epoch in which it is one; None: none.
        dropped: whether dropped crops are never drawn, or drawn with weight 0.
        mix: ``self`` and ``self-box`` mix two crops of one image; ``mixup``, ``cutmix`` and ``both`` (one or the other,
            with equal probability) rows of a batch, once a batch and always.
        beta: shares are drawn from Beta(beta, beta); None: the mix's own.
        seed: of the order in which images come.
    """

    together: int = field(default=4, validator=[instance_of(int), ge(1)])
    single_from: int | None = field(default=None, validator=optional(ge(0)))
    dropped: Dropped = field(default="redrawn", validator=in_(("redrawn", "weighed")))
    mix: Mix = field(default="none", validator=in_(MIXES))
    beta: float | None = field(default=None, validator=optional(and_(gt(0), le(10))))
    seed: int = field(default=0, validator=[instance_of(int), ge(0)])

    def crops_in(self, epoch: int) -> int:
        """m of an epoch.

        >>> [Use(together=4, single_from=8).crops_in(epoch) for epoch in (7, 8)]
        [4, 1]
        """
        return 1 if self.single_from is not None and epoch >= self.single_from else self.together


@frozen
class Kept:
    """What is stored of teachers' answers.

    Attributes:
        k: classes of the marginal compressions.
        temperature: T of the teachers' softmax and the student's.
        half: float16 probabilities, else float32.
        calibration: None keeps every label as it is.
    """

    compression: Compression = "marginal-smoothing"
    k: int = 5
    temperature: float = 1.0
    half: bool = True
    calibration: Calibration | None = None


@final
@frozen(eq=False, kw_only=True)
class CropLabels(Labels):
    """R crops of each image, whole pixels, with compressed labels of M teachers of each.

    They cost 5 bytes a crop (9 of images from 256 pixels on), and k (1 + 2) for each teacher with up to 256 classes in
    float16. The label of a crop is the weighted mean of the recovered ones, calibrated if there are thresholds. An
    epoch has as many rows as there are images: N / m images with m crops each, so that m epochs go through all images
    once.

    Attributes:
        size: (H, W) of the images.
        boxes: (N, R, 4) top, left, height, width in pixels.
        flips: (N, R) bool.
        ids: (N, R, M, k) classes.
        values: (N, R, M, k) probabilities; float16 is kept; None for ``hard``.
        weights: of the teachers, sum 1.
        confidence: (N, R), only where the values do not tell it: of ``hard`` labels and of several teachers; else None.
        temperature: T of the teachers' softmax and the student's.
        calibration: None keeps every label as it is.

    Raises:
        InputError: shapes that do not fit, fewer crops than m, thresholds without confidence or that drop every crop.
    """

    kind: ClassVar[str] = "ferkd"
    distribution: ClassVar[str] = "ddcore-ferkd"
    classes: Tensor = field(converter=as_ids)
    class_count: int = field(validator=[instance_of(int), ge(1)])
    size: tuple[int, int] = field(converter=_tuple)
    boxes: Tensor
    flips: Tensor
    ids: Tensor
    values: Tensor | None = field(default=None, converter=attrs.converters.optional(float32_or_16))
    weights: tuple[float, ...] = field(default=(1.0,), converter=_tuple)
    confidence: Tensor | None = field(default=None, converter=attrs.converters.optional(float32_or_16))
    compression: Compression = field(default="marginal-smoothing", validator=in_(COMPRESSIONS))
    temperature: float = field(default=1.0, validator=gt(0))
    calibration: Calibration | None = None
    use: Use = field(factory=Use)

    def __attrs_post_init__(self) -> None:
        check_ids(self.classes, self.class_count)
        self._check_shapes()
        if self.use.together > self.crops:
            raise InputError(
                f"{self.use.together} crops of an image are to lie in a batch and {self.crops} are stored: store more, or lower m"
            )
        if self.calibration is not None and not bool(self.kept.any()):
            raise InputError(
                "every stored crop lies outside the thresholds of confidence: widen them, or ask teachers that are less sure"
            )

    def _check_shapes(self) -> None:
        images, crops, teachers, kept = *self.ids.shape[:2], len(self.weights), self.ids.shape[-1]
        due: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
            "boxes": (self.boxes, (images, crops, 4)),
            "flips": (self.flips, (images, crops)),
            "ids": (self.ids, (len(self.classes), crops, teachers, kept)),
            "values": (self.values, (images, crops, teachers, kept)),
            "confidence": (self.confidence, (images, crops)),
        }
        for name, (tensor, shape) in due.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise InputError(f"stored crops have {name!r} of shape {tuple(tensor.shape)} where {shape} is due")
        if (self.values is None) != (self.compression == "hard"):
            raise InputError(
                f"stored crops of type {self.compression!r} have values or lack them: only hard ones have none"
            )
        check_ids(as_ids(torch.stack(self.ids.aminmax())), self.class_count)

    @property
    def crops(self) -> int:
        """R."""
        return self.ids.shape[1]

    @property
    def recipe(self) -> dict[str, Any]:
        """-sum_c y_c log softmax(z / T)_c, mean over the rows; no other term."""
        return {"loss": "soft-cross-entropy", "temperature": self.temperature, "tau_squared": False}

    # ---- labels ------------------------------------------------------------------------------------------------------

    @property
    def sureness(self) -> Tensor:
        """Confidence of each crop, (N, R) float32: the largest probability of the teachers' mean.

        Raises:
            InputError: it was not stored, and cannot be told from what was.
        """
        if self.confidence is not None:
            return self.confidence.float()
        if self.values is None or len(self.weights) > 1:
            raise InputError(
                "the teachers' confidence was not stored with these crops: make them once more, calibrated"
            )
        return self.values[:, :, 0, 0].float()

    @cached_property
    def region(self) -> Tensor | None:
        """Of each crop, (N, R) uint8; None where nothing is calibrated."""
        return None if self.calibration is None else regions(self.sureness, self.calibration)

    @cached_property
    def kept(self) -> Tensor:
        """Which crops are not dropped, (N, R) bool."""
        if self.region is None:
            return torch.ones(self.ids.shape[:2], dtype=torch.bool)
        return (self.region != LOW) & (self.region != HIGH)

    def shares(self) -> dict[str, float]:
        """The fraction of crops in each region; nothing where nothing is calibrated."""
        return {} if self.region is None else region_shares(self.region)

    def told(self, rows: Tensor) -> Tensor:
        """The label of each crop, (B, K) float32 probabilities.

        Args:
            rows: (B,) int64, n R + r for crop r of image n.
        """
        ids = self.ids.flatten(0, 1)[rows]
        values = torch.ones(ids.shape) if self.values is None else at_rows(self.values.flatten(0, 1), rows)
        each = recovered(values, ids, self.class_count, self.compression)
        soft = (each * torch.tensor(self.weights)[:, None]).sum(1)
        if self.region is None or self.calibration is None:
            return soft
        own = self.classes[rows // self.crops]
        return calibrated(soft, self.region.flatten()[rows], own, self.calibration.smoothing)

    def targets(self, view: View, images: Tensor | None = None) -> dict[str, Tensor]:
        """``logits`` (B, K), T times the logarithm of the labels, mixed as the images are, and ``class``; where dropped
        crops are weighed, ``weight``. Of a view that is not the store's, ``class``."""
        if view.rows is None:
            return mixed_classes(self.classes, view)
        told, weight, second = (
            self.told(view.rows),
            self.kept.flatten()[view.rows].float(),
            dict(view.ops).get(SELF_MIX),
        )
        if second is not None:
            other = second["rows"]
            told = second["share"] * told + (1 - second["share"]) * self.told(other)
            weight = weight * self.kept.flatten()[other]
        if view.mix is not None:
            told, weight = mixup(told, *view.mix), weight * weight[view.mix[0]]
        weights = {"weight": weight} if self.use.dropped == "weighed" and self.calibration is not None else {}
        return {"logits": self.temperature * told.log(), **mixed_classes(self.classes, view), **weights}

    # ---- what a student sees -----------------------------------------------------------------------------------------

    def views(self, epoch: int, count: int, batch_size: int, generator: torch.Generator) -> Iterator[View]:
        """The batches of an epoch: images in an order that m epochs go through,
        crops and mixes drawn by the student."""
        together = self.use.crops_in(epoch)
        images = self.turn(epoch, -(-count // together))
        crops = self.drawn(images, together, generator)
        rows = (images[:, None] * self.crops + crops).flatten()[:count]
        for part in rows.split(batch_size):  # type: ignore[no-untyped-call]
            yield self.view(part, generator)

    def turn(self, epoch: int, count: int) -> Tensor:
        """The images of an epoch, (count,) int64: one window after the other of endless permutations of those with a
        crop left."""
        left = self.drawable.any(1).nonzero()[:, 0]
        first, last = epoch * count // len(left), (epoch * count + count - 1) // len(left)
        turns = [keyed(self.use.seed, "ferkd", "turn", number) for number in range(first, last + 1)]
        order = torch.cat([torch.randperm(len(left), generator=turn) for turn in turns])
        return left[order[epoch * count - first * len(left) :][:count]]

    @cached_property
    def drawable(self) -> Tensor:
        """Which crops may be drawn, (N, R) bool."""
        return self.kept if self.use.dropped == "redrawn" else torch.ones_like(self.kept)

    def drawn(self, images: Tensor, together: int, generator: torch.Generator) -> Tensor:
        """Random crops of each image, (n, together) int64, distinct as long as there are so many;
        then again from the first."""
        may = self.drawable[images]
        noise = torch.rand(may.shape, generator=generator)
        order = torch.where(may, noise, 2.0).argsort(1)
        return order.gather(1, torch.arange(together) % may.sum(1, keepdim=True))

    def view(self, rows: Tensor, generator: torch.Generator) -> View:
        """The batch of these crops, (B,) int64, with a mix drawn for it."""
        index = rows // self.crops
        ops: list[tuple[str, Mapping[str, Tensor]]] = [*self.ops(rows)]
        if self.use.mix == "none":
            return View(index, tuple(ops), None, rows)
        share, box = self.mixing(generator)
        if self.use.mix in ("self", "self-box"):
            two = index[:, None] * self.crops + self.drawn(index, 2, generator)
            other = torch.where(two[:, 0] == rows, two[:, 1], two[:, 0])
            second = {"rows": other, "share": share, "cut": box}
            return View(index, (*ops, (SELF_MIX, second)), None, rows)
        partner = torch.randperm(len(rows), generator=generator)
        if box.numel():
            ops.append(("cutmix", {"box": box}))
        return View(index, tuple(ops), (partner, share.expand(len(rows))), rows)

    def ops(self, rows: Tensor) -> tuple[tuple[str, Mapping[str, Tensor]], ...]:
        """The changes that make these crops."""
        height, width = self.size
        boxes = self.boxes.flatten(0, 1)[rows] / torch.tensor([height, width, height, width], dtype=torch.float64)
        return ("crop-resize", {"box": boxes}), ("flip", {"where": self.flips.flatten()[rows]})

    def mixing(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One batch's share of the first, () float32, and box (4,) int64; without a box, no number."""
        mix: str = self.use.mix
        if mix == "both":
            mix = "mixup" if float(torch.rand((), generator=generator)) < 0.5 else "cutmix"
        share = beta(self.use.beta or BETA.get(mix, 1.0), generator).float()
        if mix not in ("cutmix", "self-box"):
            return share, torch.empty(0, dtype=torch.int64)
        box = cutmix_box(float(share), self.size, torch.rand(2, generator=generator, dtype=torch.float64))
        height, width = self.size
        return 1 - (box[2] - box[0]) * (box[3] - box[1]) / (height * width), box

    def changed(self, view: View, images: Tensor) -> Tensor:
        """Images of a view: cropped, mirrored, and mixed with another crop of the same images, or with each other."""
        second = dict(view.ops).get(SELF_MIX)
        if second is None:
            return changed(view, images)
        first = changed(evolve(view, ops=view.ops[:-1]), images)
        crop, mirror = (parameters for _, parameters in self.ops(second["rows"]))
        other = flip(crop_resize(images, crop["box"]), mirror["where"])
        return self_mixed(first, other, second["share"], second["cut"])

    # ---- storage -----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """``class``, ``box``, ``flip``, ``id``; ``value`` and ``confidence`` where there are any."""
        found = {"class": self.classes.to(smallest_type(self.class_count)), "box": self.boxes, "flip": self.flips}
        rest = {"id": self.ids, "value": self.values, "confidence": self.confidence}
        return {**found, **{name: tensor for name, tensor in rest.items() if tensor is not None}}

    def header(self) -> dict[str, Any]:
        """All that is no tensor."""
        calibration = None if self.calibration is None else self.calibration.header()
        said = {"classes": self.class_count, "size": list(self.size), "compression": self.compression}
        said |= {"temperature": self.temperature, "weights": list(self.weights)}
        return {**said, "calibration": calibration, "use": asdict(self.use)}

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """From an artifact."""
        calibration = header["calibration"]
        return cls(
            classes=stored(tensors, "class"),
            class_count=header["classes"],
            size=header["size"],
            boxes=stored(tensors, "box"),
            flips=stored(tensors, "flip"),
            ids=stored(tensors, "id"),
            values=tensors.get("value"),
            weights=header["weights"],
            confidence=tensors.get("confidence"),
            compression=header["compression"],
            temperature=float(header["temperature"]),
            calibration=None if calibration is None else Calibration(**calibration),
            use=Use(**header["use"]),
        )


def together(one: CropLabels, other: CropLabels) -> CropLabels:
    """Labels of both stores' teachers for the same crops; all count the same.

    Neither is calibrated any more, because their common confidence was not stored.

    Raises:
        InputError: they are not of the same crops, or not of the same kind.
    """
    same = all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("classes", "boxes", "flips"))
    if not same or one.size != other.size:
        raise InputError("two stores are not of the same crops: label the crops of the first by the other teachers too")
    if (one.compression, one.temperature, one.ids.shape[-1]) != (
        other.compression,
        other.temperature,
        other.ids.shape[-1],
    ):
        raise InputError(
            "two stores keep other labels: make both with the same --ferkd.compression, --ferkd.k and --ferkd.temperature"
        )
    counts = len(one.weights), len(other.weights)
    weights = [w * n / sum(counts) for store, n in zip((one, other), counts, strict=True) for w in store.weights]
    values = None if one.values is None or other.values is None else torch.cat([one.values, other.values], 2)
    ids = torch.cat([one.ids, other.ids], 2)
    return evolve(one, ids=ids, values=values, weights=weights, confidence=None, calibration=None)


def store_bytes(
    images: int,
    classes: int,
    crops: int,
    size: int,
    *,
    kept: Kept = Kept(),
    teachers: int = 1,
    confidence: bool = False,
) -> int:
    """Bytes of a store, the same as ``CropLabels.payload_bytes``.

    ImageNet's 500 crops with k = 5 in float16, in GB; in the authors' layout, all float16, they take 18.6:

    >>> store_bytes(1_281_167, 1000, 500, 224) / 1e9
    16.017149834
    """
    number, each = 2 if kept.half else 4, kept_classes(kept.compression, kept.k, classes)
    answer = each * (smallest_type(classes).itemsize + (0 if kept.compression == "hard" else number))
    a_crop = 4 * smallest_type(size + 1).itemsize + 1 + teachers * answer + number * confidence
    return images * (smallest_type(classes).itemsize + crops * a_crop)
