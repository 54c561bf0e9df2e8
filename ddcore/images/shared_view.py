"""The view that recovered images are seen under: one crop, mirror and torus roll of a whole batch, so that its
statistics mean something.

As SRe2L (arXiv:2306.13092) and those that build on it draw it; for views of single images see ``ddcore.images.views``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from attrs import frozen
from torch import Generator, Tensor
from torch.nn import functional as F

from ddcore.api.types import Batch, Progress, Task
from ddcore.images.views import ATTEMPTS, LARGE, resized_crops

if TYPE_CHECKING:
    from ddcore.api.services import Run

Cropping = Literal["auto", "resized", "none"]

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
    """Largest roll for images of so many pixels a side: further above ``LARGE``.

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


@frozen
class ViewRule:
    """How the shared view of a step of recovery is drawn.

    Attributes:
        crop: ``auto`` crops from ``LARGE`` pixels on. What is cropped is also mirrored, where that keeps the class.
        scale: least area of a crop before ``match.crop_scale`` changes it.
        roll: largest; None takes the usual.
        centred: whether rolls go both ways.
    """

    crop: Cropping = "auto"
    scale: float = 0.08
    roll: int | None = None
    centred: bool = False


def seen_in_step(images: Tensor, classes: Tensor, task: Task, step: int, run: Run, *, of: str, rule: ViewRule) -> Batch:
    """Images as a step of recovery sees them: what enhancements show of them, under the step's shared view and
    augmentation.

    Args:
        images: (B, C, H, W) normalised; classes: (B,) int64.
        of: the matcher, which names its draws.
        rule: of the view.
    """
    progress, size = Progress(step, task.steps), run.source.size
    cropped = rule.crop == "resized" or (rule.crop == "auto" and size >= LARGE)
    view = draw_view(
        size,
        usual_reach(size) if rule.roll is None else rule.roll,
        run.generator(of, "view", task.key, step),
        least=run.setting("match.crop_scale", rule.scale, progress) if cropped else None,
        mirror=0.5 if cropped and run.source.mirror_symmetric else 0.0,
        centred=rule.centred,
    )
    batch = Batch(images, {"class": classes}, torch.arange(len(classes), device=images.device))
    batch = run.view(batch, "match")
    batch = batch.with_inputs(view(batch.inputs))
    return run.draw("match", key=(of, task.key, step), shared=True, progress=progress)(batch)
