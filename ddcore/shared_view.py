"""The view that recovered images are seen under: one crop, mirror and torus roll of a whole batch, so that its statistics mean something.

As SRe2L (arXiv:2306.13092) and those that build on it draw it; for views of single images see ``ddcore.views``.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Generator, Tensor
from torch.nn import functional as F

from ddcore.views import ATTEMPTS, resized_crops

LARGE = 64
"""From this many pixels a side on, the methods crop by default; above, they roll further."""
RATIO = (3 / 4, 4 / 3)


@frozen
class SharedView:
    """One crop (resized back, bilinear, not antialiased), mirror and torus roll of images (B, C, H, W).

    Attributes:
        roll: rows down, columns right.
        box: top, left, height, width in pixels; None leaves the whole.
    """

    roll: tuple[int, int] = (0, 0)
    box: tuple[int, int, int, int] | None = None
    mirrored: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """The images in the same shape; differentiable in them."""
        size = images.shape[2:]
        if self.box is not None:
            top, left, height, width = self.box
            images = images[:, :, top : top + height, left : left + width]
        if images.shape[2:] != size:
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        images = images.flip(3) if self.mirrored else images
        return images.roll(self.roll, (2, 3)) if any(self.roll) else images


def usual_reach(size: int) -> int:
    """Largest roll for images of so many pixels a side.

    >>> usual_reach(32), usual_reach(64), usual_reach(224)
    (4, 4, 32)
    """
    return 32 if size > LARGE else 4


def draw_view(
    size: int,
    reach: int,
    generator: Generator,
    *,
    least: float | None = None,
    mirror: float = 0.0,
    centred: bool = False,
) -> SharedView:
    """A roll by 0 to ``reach`` each way; with ``least`` also torchvision's RandomResizedCrop of area in [least, 1].

    Args:
        size: pixels a side.
        mirror: probability of a mirror image.
        centred: roll from -reach on.
    """
    down, right = torch.randint(-reach if centred else 0, reach + 1, (2,), generator=generator).tolist()
    mirrored = bool(torch.rand((), generator=generator) < mirror)
    if least is None:
        return SharedView((down, right), None, mirrored)
    attempts = torch.rand(ATTEMPTS, 1, 2, generator=generator, dtype=torch.float64)
    place = torch.rand(1, 2, generator=generator, dtype=torch.float64)
    top, left, height, width = resized_crops(attempts, place, (size, size), (least, 1.0), RATIO)[0].tolist()
    return SharedView((down, right), (top, left, height, width), mirrored)
