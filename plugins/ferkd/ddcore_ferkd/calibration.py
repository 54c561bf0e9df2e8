"""What is kept of a teacher's answer to a crop, and what FerKD makes of it by how sure the teacher was: pure functions.

Shape letters: V crops, K classes, k kept of them; ``...`` any leading axes.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from attrs import asdict, field, frozen
from attrs.validators import ge, le, lt
from torch import Tensor

from ddcore.errors import InputError
from ddcore.images import cutmix, mixup
from ddcore.labels import densified, top_k

Compression = Literal["hard", "smoothing", "marginal-smoothing", "marginal-renorm"]
COMPRESSIONS: tuple[Compression, ...] = ("hard", "smoothing", "marginal-smoothing", "marginal-renorm")
LOW, HARD, IMPORTANT, HIGH = range(4)
"""Regions: too unsure, doubtful, worth keeping, too sure."""
REGIONS = ("low", "hard", "important", "high")


def kept_classes(compression: Compression, k: int, classes: int) -> int:
    """k of a compression: 1 for ``hard`` and ``smoothing``, at most K for the marginal ones.

    Raises:
        InputError: no such compression.

    >>> [kept_classes(name, 5, 10) for name in COMPRESSIONS], kept_classes("marginal-renorm", 5, 3)
    ([1, 1, 5, 5], 3)
    """
    if compression not in COMPRESSIONS:
        raise InputError(f"crops have labels of type {compression!r}: choose one of {', '.join(COMPRESSIONS)}")
    return 1 if compression in ("hard", "smoothing") else min(k, classes)


def compressed(probabilities: Tensor, compression: Compression, k: int) -> tuple[Tensor, Tensor]:
    """The k largest probabilities, largest first: values (V, k) and classes (V, k), integers.

    Args:
        probabilities: (V, K), rows sum to 1.

    References:
        FKD (ECCV 2022, arXiv:2112.01528), section 3.3; the values are stored as they are, also where they are scaled
        afterwards.
    """
    return top_k(probabilities, kept_classes(compression, k, probabilities.shape[1]))


def recovered(values: Tensor, ids: Tensor, classes: int, compression: Compression) -> Tensor:
    """Probabilities (..., K) from what was kept; every row sums to 1.

    ``hard`` is one-hot. ``smoothing`` and ``marginal-smoothing`` share what is missing to 1 out evenly among the other
    classes; ``marginal-renorm`` scales the values to sum 1 and gives the others 0. Without any other class, k = K,
    nothing was lost.

    Args:
        values: (..., k) probabilities; those of ``hard`` are not looked at.
        ids: (..., k) the classes they are of.

    Raises:
        InputError: no such compression.
    """
    kept_classes(compression, 1, classes)
    if compression == "hard":
        return densified(torch.ones_like(values), ids, classes, "zero")
    return densified(values, ids, classes, "zero" if compression == "marginal-renorm" else "shared")


@frozen(kw_only=True)
class Calibration:
    """Thresholds of a teacher's confidence y in a crop, its largest probability.

    Attributes:
        low: T_L: crops of lower confidence are dropped.
        middle: T_M: crops from there up to it get the smoothed class of the image.
        high: T_T: crops of higher confidence are dropped; those between keep the teacher's label.
        smoothing: eps, of which every other class gets an equal part.

    Raises:
        InputError: thresholds that are not in this order.
    """

    low: float = field(default=0.15, validator=[ge(0), le(1)])
    middle: float = field(default=0.3, validator=[ge(0), le(1)])
    high: float = field(default=0.95, validator=[ge(0), le(1)])
    smoothing: float = field(default=0.1, validator=[ge(0), lt(1)])

    def __attrs_post_init__(self) -> None:
        if not self.low <= self.middle <= self.high:
            got = f"{self.low}, {self.middle} and {self.high}"
            raise InputError(f"the thresholds of confidence are {got}: give low <= middle <= high, within [0, 1]")

    def header(self) -> Mapping[str, Any]:
        """JSON values."""
        return asdict(self)


def regions(confidence: Tensor, calibration: Calibration) -> Tensor:
    """The region of each crop, (...) uint8: LOW for y < T_L, HIGH for y > T_T, else HARD for y < T_M, else IMPORTANT.

    Thresholds belong to the region above, T_T to the one below. Where T_M = T_T there is no important region: all that
    is not dropped is HARD.

    References:
        FerKD (ICCV 2023, arXiv:2312.17473), section 3.
    """
    doubtful = (confidence < calibration.middle) | (calibration.middle == calibration.high)
    found = torch.where(doubtful, HARD, IMPORTANT)
    found = torch.where(confidence < calibration.low, LOW, found)
    return torch.where(confidence > calibration.high, HIGH, found).to(torch.uint8)


def smoothed(own: Tensor, classes: int, smoothing: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """1 - eps on the class of each row, eps / (K - 1) on each other: (V, K) of a float type.

    >>> smoothed(torch.tensor([1]), 3, 0.5)
    tensor([[0.2500, 0.5000, 0.2500]])
    """
    full = torch.full((len(own), classes), smoothing / max(1, classes - 1), dtype=dtype)
    return full.scatter(1, own[:, None], 1 - smoothing)


def calibrated(soft: Tensor, region: Tensor, own: Tensor, smoothing: float) -> Tensor:
    """Labels (V, K): of HARD crops the smoothed class, of all others the teacher's ``soft``.

    Args:
        soft: (V, K) probabilities.
        region: (V,) of ``regions``.
        own: (V,) int64, the class of each crop's image.
    """
    return torch.where((region == HARD)[:, None], smoothed(own, soft.shape[1], smoothing, soft.dtype).to(soft), soft)


def region_shares(region: Tensor) -> dict[str, float]:
    """The fraction of crops in each region, by name; they sum to 1.

    >>> region_shares(torch.tensor([0, 2, 2, 3]))
    {'low': 0.25, 'hard': 0.0, 'important': 0.5, 'high': 0.25}
    """
    counts = torch.bincount(region.flatten().long(), minlength=len(REGIONS)).tolist()
    return {name: count / region.numel() for name, count in zip(REGIONS, counts, strict=True)}


def self_mixed(first: Tensor, second: Tensor, share: Tensor, box: Tensor) -> Tensor:
    """SelfMix: two crops of the same images as one, by a box or pixel by pixel.

    Args:
        first, second: (B, C, H, W).
        share: () of the first, in [0, 1], of no effect where there is a box.
        box: (4,) int64 top, left, bottom, right of the second's pixels in the first; no number at all: share x1 + (1 -
            share) x2.

    Returns:
        (B, C, H, W); for share 1, or an empty box, the first.
    """
    both, count = torch.cat([first, second]), len(first)
    partner = torch.arange(2 * count).roll(count)
    mixed = cutmix(both, partner, box) if box.numel() else mixup(both, partner, share.expand(2 * count))
    return mixed[:count]
