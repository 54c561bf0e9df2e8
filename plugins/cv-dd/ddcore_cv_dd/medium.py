"""Initial images of medium difficulty: RDED's mosaics, of the patches in the middle of the committee's ranking.

The authors start from such images and publish them, not the code that made them. Here each image of a pool gives its
likeliest crop, crops are ranked by the committee's loss, and the middle of the ranking is stitched; the moves are
``ddcore.images.patches``'.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddcore import Vote
from ddcore.images import cut, fittest, patch_losses, ranked, stitch

IMAGES_AT_ONCE = 64
"""Images whose patches are held at a time."""
SCALE = (0.08, 1.0)
"""Least and largest area of a patch, as a share of its image."""


def middle_patches(
    images: Callable[[Tensor], Tensor],
    rows: Tensor,
    boxes: Tensor,
    cls: int,
    count: int,
    votes: Sequence[Vote],
    *,
    side: int,
    size: int,
) -> dict[str, Tensor]:
    """The ``count`` patches of a class that lie in the middle of its ranking, at most one an image, lowest loss first.

    Args:
        images: from rows (b,) to normalised images (b, C, H, W).
        rows: (N,) int64, the pool.
        boxes: (N, crops, 4) int64, see ``ddcore.images.patches.crop_boxes``.
        cls: the class of them all.
        votes: who judges: the mean of their -log softmax at the class, by weight.
        side: of a patch in pixels.
        size: H = W that the networks expect.

    Returns:
        By rank: ``rows`` (n,) int64, ``boxes`` (n, 4) int64 and ``losses`` (n,) of each.
    """
    networks, weights = [vote.network for vote in votes], [vote.weight for vote in votes]
    found = []
    for some, own in zip(rows.split(IMAGES_AT_ONCE), boxes.split(IMAGES_AT_ONCE), strict=True):  # type: ignore[no-untyped-call]
        classes = torch.full((len(some),), cls)
        found.append(patch_losses(cut(images(some), own, side), classes, networks, weights, size=size).cpu())
    losses, best = fittest(torch.cat(found))
    kept = ranked(losses, count, "median")
    return {"rows": rows[kept], "boxes": boxes[kept, best[kept]], "losses": losses[kept]}


def mosaics(
    patches: dict[str, Tensor], images: Callable[[Tensor], Tensor], total: int, which: Tensor, *, side: int, size: int
) -> Tensor:
    """Some of the ``total`` images that patches make: (n, C, size, size) for ``which`` (n,) int64."""
    needed = torch.arange(len(patches["rows"])).view(-1, total)[:, which].flatten()
    cuts = cut(images(patches["rows"][needed]), patches["boxes"][needed][:, None], side)[:, 0]
    return stitch(cuts, len(which), size)
