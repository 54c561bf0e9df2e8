"""Several samples in one stored image: it holds f x f smaller ones, which are brought to its size on reading.

Multi-formation of IDC (Kim et al., ICML 2022, arXiv:2205.14959, section 3.2). Tiles of an image of H pixels have
s = ceil(H / f) pixels a side; where f does not divide H the image is filled up on the right and below. They are
up-sampled bilinearly, corners not aligned. Shape letters: B images, C channels, H height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ddcore.errors import InputError

LARGEST_FACTOR = 64
"""More tiles a side than that are not stored."""


def tile_count(factors: Sequence[int]) -> int:
    """How many samples one image holds, cut in each of these ways: the sum of f * f.

    >>> tile_count([2]), tile_count([1, 2, 3])
    (4, 14)
    """
    return sum(f * f for f in factors)


def tiled(images: Tensor, factors: Sequence[int], fill: Tensor | float = 0.0) -> Tensor:
    """Every sample that images hold, image by image.

    Args:
        images: (B, C, H, H), any float dtype; differentiable.
        factors: tiles a side, each at least 1 and at most H; of several the image is cut in each of these ways.
        fill: (C,) or a number: what fills an image up whose size a factor does not divide.

    Returns:
        (B * T, C, H, H), T = ``tile_count(factors)``: all of the first image, by factor and from top left to bottom
        right, then all of the second.

    Raises:
        InputError: a factor that the images are too small for.
    """
    found = torch.cat([_cut(images, factor, fill) for factor in factors], 1)
    return found.flatten(0, 1)


def tile(images: Tensor, which: Tensor, factors: Sequence[int], fill: Tensor | float = 0.0) -> Tensor:
    """One sample of each image.

    Args:
        images: (B, C, H, H), as for ``tiled``.
        which: (B,) int64, the number of the sample in its image, in the order of ``tiled``.

    Returns:
        (B, C, H, H).
    """
    made, first = torch.empty_like(images), 0
    parts: list[tuple[Tensor, Tensor]] = []
    for factor in factors:
        rows = ((which >= first) & (which < first + factor**2)).nonzero()[:, 0]
        if len(rows):
            parts.append((rows, _one(images[rows], which[rows] - first, factor, fill)))
        first += factor**2
    for rows, samples in parts:
        made = made.index_copy(0, rows, samples)
    return made


def formed(images: Tensor, factor: int) -> Tensor:
    """The reverse, for a start: f x f real images shrunk into one.

    Args:
        images: (B, f * f, C, H, H), in the order of ``tiled``.

    Returns:
        (B, C, H, H); the first of the tiles a side are a pixel larger where f does not divide H. Nearest neighbours, as
        in the authors' code.
    """
    size = images.shape[-1]
    sides = [size // factor + (k < size % factor) for k in range(factor)]
    rows = []
    for i in range(factor):
        parts = [F.interpolate(images[:, i * factor + j], size=(sides[i], sides[j])) for j in range(factor)]
        rows.append(torch.cat(parts, -1))
    return torch.cat(rows, -2)


def _cut(images: Tensor, factor: int, fill: Tensor | float) -> Tensor:
    """(B, f * f, C, H, H)."""
    if factor == 1:
        return images[:, None]
    grid = _grid(images, factor, fill)  # (B, f, f, C, s, s)
    return _enlarged(grid.flatten(0, 2), images.shape[-1]).unflatten(0, (len(images), factor**2))  # type: ignore[no-any-return]


def _one(images: Tensor, which: Tensor, factor: int, fill: Tensor | float) -> Tensor:
    if factor == 1:
        return images
    grid = _grid(images, factor, fill).flatten(1, 2)
    return _enlarged(grid[torch.arange(len(images), device=images.device), which], images.shape[-1])


def _enlarged(tiles: Tensor, size: int) -> Tensor:
    return F.interpolate(tiles, size=(size, size), mode="bilinear", align_corners=False)


def _grid(images: Tensor, factor: int, fill: Tensor | float) -> Tensor:
    """(B, f, f, C, s, s)."""
    if images.dim() != 4 or images.shape[-1] != images.shape[-2]:
        raise InputError(
            f"images of shape {tuple(images.shape)} are cut into tiles, and (B, C, H, H) is due: mend the decoder"
        )
    size = images.shape[-1]
    if not 1 <= factor <= min(size, LARGEST_FACTOR):
        raise InputError(f"{factor} x {factor} tiles do not fit into images of {size} pixels: take fewer")
    side = -(-size // factor)
    if side * factor > size:
        images = filled_up(images, side * factor, fill)
    cut = images.unflatten(-1, (factor, side)).unflatten(-3, (factor, side))  # (B, C, f, s, f, s)
    return cut.permute(0, 2, 4, 1, 3, 5)  # type: ignore[no-any-return]


def filled_up(images: Tensor, size: int, fill: Tensor | float) -> Tensor:
    """Images (B, C, H, H) with as many columns and rows more, on the right and below, as make (B, C, size, size)."""
    count, channels, height, width = images.shape
    value = torch.as_tensor(fill, dtype=images.dtype, device=images.device).expand(channels)[None, :, None, None]
    right = value.expand(count, channels, height, size - width)
    below = value.expand(count, channels, size - height, size)
    return torch.cat([torch.cat([images, right], -1), below], -2)
