"""A chain of augmentations whose draw is recorded and replayed.

    crop and resize, mirror, RandAugment, erasing; then MixUp and CutMix with one partner, that went through the same
    links itself

in the fixed order of Dataset Reinforcement (ICCV 2023, arXiv:2303.08983). A record is a dictionary of tensors with
leading axis V, one row an image; links that are not in the chain leave nothing in it. Shape letters: V records, N
images, A operations, C H W pixels.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from attrs import asdict, field, frozen
from attrs.validators import and_, ge, gt, instance_of, le
from torch import Tensor

from ddcore import InputError, Normalisation
from ddcore.images import ATTEMPTS, Draw, crop_resize, drawn, flip, mixup
from ddcore.labels import smallest_type
from ddcore_reinforce import randaugment

Record = Mapping[str, Tensor]
PARTNER = "partner."
"""Before the names of the partner's own parameters."""
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
"""torchvision's."""
SHARE: Any = and_(ge(0), le(1))


def _tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values)


@frozen(kw_only=True)
class Chain:
    """Which links there are.

    Attributes:
        size: (H, W) of the images, before and after.
        scale: least and largest area of a crop; (1, 1) with ratio (1, 1) crops nothing.
        ratio: least and largest width over height of a crop.
        flip: probability of a mirror image.
        operations: A of RandAugment; 0: it is not in the chain.
        level: its magnitude, of 31.
        erase: probability that a box is made black; 0: not in the chain.
        mixup, cutmix: probabilities, independent of each other; both 0: not in the chain.
        alpha: shares of both are drawn from Beta(alpha, alpha); MixUp's partner gets half of it, so that the image
            itself dominates.
    """

    size: tuple[int, int] = field(converter=_tuple)
    scale: tuple[float, float] = field(default=(0.08, 1.0), converter=_tuple)
    ratio: tuple[float, float] = field(default=(3 / 4, 4 / 3), converter=_tuple)
    flip: float = field(default=0.5, validator=SHARE)
    operations: int = field(default=0, validator=[instance_of(int), ge(0)])
    level: int = field(default=9, validator=[instance_of(int), ge(0), le(randaugment.BINS - 1)])
    erase: float = field(default=0.0, validator=SHARE)
    mixup: float = field(default=0.0, validator=SHARE)
    cutmix: float = field(default=0.0, validator=SHARE)
    alpha: float = field(default=1.0, validator=[gt(0), le(10)])

    @property
    def mixes(self) -> bool:
        """Whether images have partners."""
        return self.mixup + self.cutmix > 0

    @property
    def of_pixels(self) -> bool:
        """Whether some link works on pixels in [0, 1] instead of normalised ones."""
        return self.operations > 0 or self.erase > 0

    def header(self) -> dict[str, Any]:
        """JSON values; ``Chain(**header)`` is the inverse."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def links(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of what a record holds of one image, without its partner's."""
        whole = smallest_type(max(self.size) + 1)
        found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"box": ((4,), whole), "flip": ((), torch.bool)}
        if self.operations:
            found |= {"operation": ((self.operations,), torch.uint8), "magnitude": ((self.operations,), torch.float32)}
        return found | ({"erased": ((4,), whole)} if self.erase else {})

    def parameters(self, images: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of all that a record holds, of one of so many images."""
        own = self.links()
        if not self.mixes:
            return own
        partner = {f"{PARTNER}{name}": about for name, about in own.items()}
        mixed = {"partner": ((), smallest_type(images)), "share": ((), torch.float32), "cut": own["box"]}
        return {**own, **partner, **mixed}


# ---- draw ------------------------------------------------------------------------------------------------------------


def draw(chain: Chain, index: Tensor, images: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Records for these images, (V,) int64 of ``images``, in the types in which they are stored.

    ``box`` and ``erased`` (V, 4) are top, left, height, width in pixels, ``cut`` (V, 4) is top, left, bottom, right; of
    no height where there is none. ``share`` (V,) is the image's own in MixUp: from 1/2 on, and 1 without.
    """
    count = len(index)
    found = draw_links(chain, count, generator)
    if chain.mixes:
        found |= {f"{PARTNER}{name}": values for name, values in draw_links(chain, count, generator).items()}
        found["partner"] = (index + torch.randint(1, max(2, images), (count,), generator=generator)) % images
        found["share"], found["cut"] = draw_mixes(chain, count, generator)
    types = chain.parameters(images)
    return {name: values.to(types[name][1]) for name, values in found.items()}


def draw_links(chain: Chain, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Parameters of every link but the mixes."""
    sides = torch.tensor([*chain.size, *chain.size])
    views = drawn(Draw(scale=chain.scale, ratio=chain.ratio, flip=chain.flip, mix="none"), count, chain.size, generator)
    found = {"box": (views.crop.double() * sides).round().long(), "flip": views.flip}
    if chain.operations:
        which, strength = randaugment.draw(count, chain.operations, chain.level, chain.size, generator)
        found |= {"operation": which, "magnitude": strength}
    if chain.erase:
        found["erased"] = erased_boxes(count, chain.size, chain.erase, generator)
    return found


def erased_boxes(count: int, size: tuple[int, int], probability: float, generator: torch.Generator) -> Tensor:
    """Boxes (V, 4) int64 top, left, height, width, by torchvision's ``RandomErasing``; all 0 where nothing is erased.

    Area uniform in [0.02, 0.33] of the image, logarithm of height over width uniform in that of [0.3, 3.3]; the first
    of ten that is smaller than the image on both sides. Where none is, nothing is erased.
    """
    rows, columns = size
    area = rows * columns * uniform(ERASED_AREA, (ATTEMPTS, count), generator)
    aspect = uniform((math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1])), (ATTEMPTS, count), generator).exp()
    height, width = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (height < rows) & (width < columns)
    first = fits.long().argmax(0, keepdim=True)
    height, width = height.gather(0, first)[0], width.gather(0, first)[0]
    place = torch.rand(2, count, generator=generator, dtype=torch.float64)
    top, left = (place[0] * (rows - height + 1)).long(), (place[1] * (columns - width + 1)).long()
    erased = fits.any(0) & (torch.rand(count, generator=generator, dtype=torch.float64) < probability)
    return torch.stack([top, left, height, width], 1) * erased[:, None]


def draw_mixes(chain: Chain, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """MixUp's share of the image itself (V,), and CutMix's box (V, 4) int64 top, left, bottom,
    right of the partner's pixels."""
    mixed, cut = (
        torch.rand(2, count, generator=generator, dtype=torch.float64) < torch.tensor([[chain.mixup], [chain.cutmix]])
    ).unbind()
    partners = betas(chain.alpha, count, generator) / 2
    boxes = cut_boxes(
        betas(chain.alpha, count, generator), chain.size, torch.rand(2, count, generator=generator, dtype=torch.float64)
    )
    return torch.where(mixed, 1 - partners, 1.0), boxes * cut[:, None]


def cut_boxes(share: Tensor, size: tuple[int, int], centre: Tensor) -> Tensor:
    """CutMix's boxes, as ``ddcore.images.views.cutmix_box`` one by one: (V, 4) int64.

    Args:
        share: (V,) of the image that is cut into.
        centre: (2, V) in [0, 1), for row and column.
    """
    sides, root = torch.tensor(size)[:, None], (1 - share).sqrt()
    half = (sides * root).long() // 2
    middle = (centre * sides).long()
    return torch.cat([(middle - half).clamp(min=0), torch.minimum(middle + half, sides)]).T


def betas(shape: float, count: int, generator: torch.Generator) -> Tensor:
    """Numbers from Beta(shape, shape), (count,) float64, by Johnk's rejection: for shapes up to 10."""
    found = torch.empty(0, dtype=torch.float64)
    while len(found) < count:
        x, y = (torch.rand(2, count, generator=generator, dtype=torch.float64) ** (1 / shape)).unbind()
        fits = (x + y > 0) & (x + y <= 1)
        found = torch.cat([found, (x / (x + y))[fits]])
    return found[:count]


def uniform(within: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers between two, float64."""
    return within[0] + (within[1] - within[0]) * torch.rand(shape, generator=generator, dtype=torch.float64)


# ---- replay ----------------------------------------------------------------------------------------------------------


def still(chain: Chain, record: Record) -> dict[str, Tensor]:
    """The same record without anything but its crop and mirror."""
    kept = {name: values for name, values in record.items() if name in ("box", "flip")}
    ends = {"share": 1.0}
    return {name: kept.get(name, torch.full_like(values, ends.get(name, 0))) for name, values in record.items()}


def mixing(record: Record) -> Tensor:
    """Which of the records have a partner that is seen, (V,) bool."""
    if "share" not in record:
        return torch.zeros(len(record["flip"]), dtype=torch.bool)
    return (record["share"] < 1) | (record["cut"][:, 2] > record["cut"][:, 0]) & (
        record["cut"][:, 3] > record["cut"][:, 1]
    )


def replay(
    chain: Chain, images: Tensor, partners: Tensor, record: Record, normalisation: Normalisation | None
) -> Tensor:
    """Apply records to images; the same bits in whatever batch.

    Args:
        images: (V, C, H, W) normalised.
        partners: (P, C, H, W), of the records that ``mixing`` names, in their order.
        normalisation: of the images; None will do for a chain that is not ``of_pixels``.
    """
    changed = replay_links(chain, images, record, normalisation)
    where = mixing(record)
    if not bool(where.any()):
        return changed
    theirs = {name.removeprefix(PARTNER): values[where] for name, values in record.items() if name.startswith(PARTNER)}
    others = replay_links(chain, partners, theirs, normalisation)
    changed[where.to(changed.device)] = mixed(
        changed[where.to(changed.device)], others, record["share"][where], record["cut"][where]
    )
    return changed


def replay_links(chain: Chain, images: Tensor, record: Record, normalisation: Normalisation | None) -> Tensor:
    """Every link but the mixes."""
    sides = torch.tensor([*chain.size, *chain.size], dtype=torch.float64)
    images = flip(crop_resize(images, record["box"] / sides), record["flip"])
    if not chain.of_pixels:
        return images
    if normalisation is None:
        raise InputError("RandAugment and erasing need to know pixels: give the images' normalisation")
    if chain.operations and bool(record["operation"].any()):
        images = augmented(images, record, normalisation)
    if chain.erase:
        top, left, high, wide = record["erased"].long().unbind(1)
        black = normalisation.apply(torch.zeros_like(images[:1]))
        images = torch.where(inside(torch.stack([top, left, top + high, left + wide], 1), images), black, images)
    return images


def augmented(images: Tensor, record: Record, normalisation: Normalisation) -> Tensor:
    """RandAugment, on pixels rounded to 8 bits, of the images that it changes."""
    rows = record["operation"].any(1).nonzero()[:, 0]
    own = images[rows.to(images.device)]
    pixels = (normalisation.inverse(own).clamp(0, 1) * 255).round().to(torch.uint8)
    found = randaugment.replay(pixels, record["operation"][rows], record["magnitude"][rows])
    images = images.clone()
    images[rows.to(images.device)] = normalisation.apply(found.to(images.dtype) / 255)
    return images


def mixed(images: Tensor, partners: Tensor, share: Tensor, cut: Tensor) -> Tensor:
    """share x + (1 - share) partner, then the partner's own pixels inside the boxes: both mixes have the same partner.

    Args:
        images, partners: (V, C, H, W).
        share: (V,) of the images.
        cut: (V, 4) top, left, bottom, right.
    """
    both, rows = torch.cat([images, partners]), torch.arange(2 * len(images)).roll(len(images))
    blend = mixup(both, rows, share.repeat(2))[: len(images)]
    return torch.where(inside(cut.long(), images), partners, blend)


def inside(boxes: Tensor, images: Tensor) -> Tensor:
    """Pixels within boxes (V, 4) top, left, bottom, right, the last two excluded: (V, 1, H, W) bool."""
    top, left, bottom, right = boxes.to(images.device)[:, :, None].unbind(1)
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    down, across = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (down[:, :, None] & across[:, None, :])[:, None]
