"""Which images are rows of the real data, bit for bit: found by a few pixels of every row, then compared whole.

Shape letters: N images, M rows of a part, C H W pixels, P places that are looked at.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

PLACES = 32
"""Pixels of a row that make its key."""
LOOKED_AT = 2**14
"""Rows whose keys are made at a time."""
WHITES = (1, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255)
"""Levels that stand for 1 in images of few bits, which are often kept as floats."""
COMPARED = 64
"""Rows that are compared whole at a time."""
OFF_A_LEVEL = 0.02
"""How far from whole levels, of 255, pixels of 8 bits may be by the rounding of floats."""


class Rows(Protocol):
    """A part of the real data that is looked through: ``ddcore.data.Part``."""

    @property
    def labels(self) -> Tensor: ...

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def inputs(self, index: Tensor) -> Tensor: ...

    def inputs_at(self, index: Tensor, at: Tensor) -> Tensor: ...

    def maybe_unchanged(self, images: Tensor, off: float) -> Tensor: ...


def rows_of(images: Tensor, part: Rows, classes: Tensor | None = None) -> Tensor:
    """Which row of a part each image is, as ``Part.inputs`` gives it.

    Args:
        images: (N, C, H, W), or other dense rows, normalised, in the part's float type, on any device.
        classes: (N,) of the images; of equal rows the first of the same class is named, else the first.

    Returns:
        (N,) int64 on the CPU; -1 where no row has exactly these pixels.
    """
    found = torch.full((len(images),), -1)
    near = part.maybe_unchanged(images, OFF_A_LEVEL).nonzero()[:, 0].cpu()
    if not len(near) or not len(part):
        return found
    places = images[0, 0].numel()
    at = torch.linspace(0, places - 1, min(PLACES, places)).long().unique()
    looked_at = images[near.to(images.device)].reshape(len(near), images.shape[1], places)
    wanted = _keys(looked_at[:, :, at.to(images.device)]).cpu()
    candidates: dict[int, list[int]] = {}
    for rows in torch.arange(len(part)).split(LOOKED_AT):  # type: ignore[no-untyped-call]
        keys = _keys(part.inputs_at(rows, at)).cpu()
        for row in torch.isin(keys, wanted).nonzero()[:, 0].tolist():
            candidates.setdefault(int(keys[row]), []).append(int(rows[row]))
    for number, key in zip(near.tolist(), wanted.tolist(), strict=True):
        own = -1 if classes is None else int(classes[number])
        found[number] = _same(images[number], part, candidates.get(key, []), own)
    return found


def white_of(stored: Tensor) -> int | None:
    """The level that stands for 1 where images are whole levels of it, up to 255 of them; None where they are not.

    Args:
        stored: (N, C, H, W) uint8, or float32 in [0, 1].

    >>> white_of(torch.tensor([0.25, 1.0]).view(1, 1, 1, 2)), white_of(torch.tensor([0.3333, 0.1]).view(1, 1, 1, 2))
    (4, None)
    """
    if stored.dtype == torch.uint8:
        return 255
    for white in WHITES:
        if all(_are_levels(part, white) for part in stored.split(COMPARED)):  # type: ignore[no-untyped-call]
            return white
    return None


def _are_levels(images: Tensor, white: int) -> bool:
    return torch.equal((images * white).round() / white, images)


def _same(image: Tensor, part: Rows, rows: list[int], own: int) -> int:
    """The row among these that is the image, of the class ``own`` if there is one."""
    ordered = sorted(rows, key=lambda row: (int(part.labels[row]) != own, row))
    for some in torch.tensor(ordered, dtype=torch.int64).split(COMPARED):  # type: ignore[no-untyped-call]
        equal = (part.inputs(some) == image.to(part.device)).flatten(1).all(1)
        if bool(equal.any()):
            return int(some[equal.cpu()][0])
    return -1


def _keys(values: Tensor) -> Tensor:
    """A number (M,) for values (M, C, P), equal for equal ones: their bits, each times an odd number, added up."""
    bits = values.double().flatten(1).contiguous().view(torch.int64)
    factors = 2 * torch.arange(bits.shape[1], device=bits.device) * 0x9E3779B1 + 0x5851F42D
    return (bits * (factors | 1)).sum(1)
