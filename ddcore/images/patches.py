"""Patches of real images: cut at random, judged by networks, the fittest kept, several stitched into one image.

The pieces of RDED (Sun et al., CVPR 2024, arXiv:2312.03526), which methods that start from stitched patches share. A
set is made in four moves, each a function: ``crop_boxes`` draws where to cut, ``patch_losses`` judges what is cut
there, ``ranked`` keeps some, ``stitch`` joins them. Boxes are numbers, so only what is kept need be cut twice and
nothing else held:

    boxes = crop_boxes(len(images), 5, (224, 224), (0.08, 1.0), generator)
    losses, best = fittest(patch_losses(cut(images, boxes, 112), classes, networks, size=224))
    kept = ranked(losses, 40, "lowest")
    mosaics = stitch(cut(images[kept], boxes[kept, best[kept]][:, None], 112)[:, 0], 10, 224)

Shape letters: N images, M crops of each, n patches that are kept, I stitched images, C H W pixels, S side of a patch, f
cells a side, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ddcore.errors import OptionError, near
from ddcore.images.views import ATTEMPTS, cells, resized_crops
from ddcore.networks.passes import logits

Ranks = Literal["lowest", "median", "highest"]
RANKS: tuple[Ranks, ...] = get_args(Ranks)
MOSAICS = 96
"""From this many pixels a side on, images are mosaics of 2 x 2 patches unless told otherwise."""


# ---- cutting ---------------------------------------------------------------------------------------------------------


def crop_boxes(
    count: int, crops: int, size: tuple[int, int], scale: tuple[float, float], generator: Generator
) -> Tensor:
    """Where to cut square patches: the boxes of torchvision's ``RandomResizedCrop`` with ratio (1, 1).

    Drawn crop by crop, so that of the same generator fewer crops are the first of more.

    Args:
        count: N.
        crops: M of each image.
        size: (H, W) of the images.
        scale: least and largest area of a box, as a share of the image.

    Returns:
        (N, M, 4) int64: top, left, height, width in pixels; all inside the image, height = width.
    """

    def one() -> Tensor:
        attempts = torch.rand(ATTEMPTS, count, 2, generator=generator, dtype=torch.float64)
        place = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        return resized_crops(attempts, place, size, scale, (1.0, 1.0))

    return torch.stack([one() for _ in range(crops)], 1)


def cut(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Cut boxes out of each image and resize them, bilinearly and antialiased, as torchvision's ``resized_crop``.

    Args:
        images: (N, C, H, W) float.
        boxes: (N, M, 4) int64: top, left, height, width in pixels, inside the image.
        side: S of a patch, in pixels.

    Returns:
        (N, M, C, S, S) of the images' type and device; a box of S x S pixels comes out as it is.
    """
    due = (side, side)
    found = []
    for image, own in zip(images.split(1), boxes.tolist(), strict=True):  # type: ignore[no-untyped-call]
        windows = [image[:, :, top : top + high, left : left + wide] for top, left, high, wide in own]
        resized = [w if w.shape[2:] == due else _resized(w, due) for w in windows]
        found.append(torch.cat(resized))
    return torch.stack(found)


def _resized(window: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(window, size, mode="bilinear", align_corners=False, antialias=True)


# ---- judging ---------------------------------------------------------------------------------------------------------


def padded(patches: Tensor, size: int) -> Tensor:
    """Patches (B, C, S, S) in the middle of zeros, (B, C, size, size): what a network made for whole images is shown.

    Of normalised images zero is the mean colour. Where size - S is odd, the extra row and column go to the bottom and
    right.

    >>> padded(torch.ones(1, 1, 1, 1), 3)[0, 0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    spare_rows, spare_columns = size - patches.shape[2], size - patches.shape[3]
    top, left = spare_rows // 2, spare_columns // 2
    return F.pad(patches, (left, spare_columns - left, top, spare_rows - top))


def patch_losses(
    patches: Tensor,
    classes: Tensor,
    networks: Sequence[nn.Module],
    weights: Sequence[float] | None = None,
    *,
    size: int,
    chunk: int | None = None,
) -> Tensor:
    """How unlikely networks find a patch to be of its class; minus this is RDED's realism score.

        l = sum_j w_j (-log softmax(network_j(padded patch))_class)

    Args:
        patches: (N, M, C, S, S) float, normalised.
        classes: (N,) int64.
        networks: in eval mode, on the patches' device; only looked at.
        weights: w_j, used as they are; None: equal ones that sum to 1.
        size: H = W that the networks expect.
        chunk: patches of one pass; None chooses by their size.

    Returns:
        (N, M), >= 0 for weights >= 0, of the patches' type and device, without gradient.
    """
    shares = [1 / len(networks)] * len(networks) if weights is None else weights
    own = classes.to(patches.device).repeat_interleave(patches.shape[1])
    with torch.no_grad():
        shown = padded(patches.flatten(0, 1), size)
        votes = [
            share * F.cross_entropy(logits(network, shown, chunk=chunk), own, reduction="none")
            for network, share in zip(networks, shares, strict=True)
        ]
        return torch.stack(votes).sum(0).view(patches.shape[:2])


# ---- choosing --------------------------------------------------------------------------------------------------------


def fittest(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image its crop of the lowest loss, so that no image gives two patches.

    Args:
        losses: (N, M).

    Returns:
        (N,) the lowest loss, and (N,) int64 which crop it is of: the first of equals.

    >>> fittest(torch.tensor([[3.0, 1.0], [2.0, 2.0]]))
    (tensor([1., 2.]), tensor([1, 0]))
    """
    best = losses.argsort(stable=True, dim=1)[:, 0]  # argmin does not say which of equals it names
    return losses.gather(1, best[:, None])[:, 0], best


def ranked(losses: Tensor, count: int, ranks: Ranks) -> Tensor:
    """Which images to keep, in rank order; equal losses in order of position.

    Args:
        losses: (N,), one an image.
        count: n, at most N.
        ranks: ``lowest`` (RDED: the most realistic), lowest first; ``highest`` (NRR-DD: the least confident), highest
            first; ``median`` (CV-DD: medium), (N - n) // 2 below them, lowest first.

    Returns:
        (n,) int64, distinct, on the CPU.

    Raises:
        ValueError: more asked for than there are, or unknown ranks.

    >>> scores = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    >>> [ranked(scores, 2, which).tolist() for which in ("lowest", "median", "highest")]
    [[1, 3], [3, 4], [0, 2]]
    """
    if count > len(losses):
        raise ValueError(
            f"{count} patches asked of {len(losses)} images, one of each: enlarge the pool or ask for fewer"
        )
    if ranks not in RANKS:
        raise ValueError(f"no ranks are called {ranks!r}: {near(ranks, RANKS)}")
    order = losses.cpu().argsort(stable=True, descending=ranks == "highest")
    first = (len(losses) - count) // 2 if ranks == "median" else 0
    return order[first : first + count]


# ---- stitching -------------------------------------------------------------------------------------------------------


def stitch(patches: Tensor, count: int, size: int) -> Tensor:
    """Images of f x f patches each: cell j (row by row) of image k holds patch j count + k.

    In rank order, then, every image mixes ranks, and its first cell holds one of the ``count`` best.

    Args:
        patches: (n, C, S, S), n = count f^2; resized by nearest neighbours where a cell is of another size.
        count: I.
        size: H = W of the images.

    Returns:
        (I, C, H, W) of the patches' type and device.

    Raises:
        ValueError: n is not count f^2 for any whole f.
    """
    factor = math.isqrt(len(patches) // count)
    if len(patches) != count * factor**2:
        raise ValueError(f"{len(patches)} patches do not fill {count} images of f x f: {count} times a square is due")
    sides, groups = cells(size, factor), patches.split(count)  # type: ignore[no-untyped-call]
    rows = [
        torch.cat([F.interpolate(groups[row * factor + column], (high, wide)) for column, wide in enumerate(sides)], 3)
        for row, high in enumerate(sides)
    ]
    return torch.cat(rows, 2)


def unstitch(images: Tensor, factor: int) -> Tensor:
    """The inverse of ``stitch`` for patches of side H // f: (I f^2, C, S, S) in the order in which they were given.

    Args:
        images: (I, C, H, H).
    """
    sides = cells(images.shape[2], factor)
    least = sides[-1]
    ends = [sum(sides[: cell + 1]) for cell in range(factor)]
    # nearest neighbours repeat the first row and column of a cell that is one pixel longer: what counts lies at its end
    return torch.cat([images[:, :, down - least : down, end - least : end] for down in ends for end in ends])


# ---- shuffling -------------------------------------------------------------------------------------------------------


def of_slot(count: int, slot: int, ipc: int) -> tuple[int, Tensor, int]:
    """Of which set a task gets which images of a class, where images are selected once and tasks ask for some of them.

    A task that asks for all images of a class gets a set of its slot's own. Slots that ask for fewer share one set and
    get different images of it, so that together they start from what one task would; draws and teachers are then slot
    0's.

    Args:
        count: images of the class that the task asks for.
        ipc: images a class of the run.

    Returns:
        How many images the set has, which of them (count,) int64, and the slot that its draws are keyed by.

    >>> of_slot(10, 3, 10)[0::2], of_slot(1, 3, 10), of_slot(2, 3, 10)[1].tolist()
    ((10, 3), (10, tensor([3]), 0), [6, 7])
    """
    if count >= ipc:
        return count, torch.arange(count), slot
    return ipc, (slot * count + torch.arange(count)) % ipc, 0


def patches_a_side(asked: int | None, size: int, flag: str) -> int:
    """f for images of ``size`` pixels: 1 below ``MOSAICS``, else 2, unless the option ``flag`` asks for another.

    Raises:
        OptionError: a patch would be smaller than a pixel.
    """
    factor = asked if asked is not None else (1 if size < MOSAICS else 2)
    if factor > size:
        raise OptionError(f"{flag} {factor} leaves no pixel to a patch of an image of {size}: give 1 to {size}")
    return factor
