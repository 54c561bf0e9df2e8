"""Mirrored: every stored image is two samples, itself and its mirror image, so that the same bytes hold twice as many.

A step of storing that **changes the number of samples** (``ddcore.sets.several``): the core lets classes and learned
labels follow, and rows, card and manifest count samples and bytes both. The matcher sees what students will see, by
``ddcore_view``. For data where left and right do not matter.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import in_
from torch import Tensor

from ddcore import Batch, Plugin, Synthetic, hookimpl, option
from ddcore.sets import several

AXES = {"width": 3, "height": 2}


def with_mirrored(images: Tensor, axis: str = "width") -> Tensor:
    """Images (B, C, H, W) as (2 B, C, H, W): each followed by what a mirror makes of it."""
    return torch.stack((images, images.flip(AXES[axis])), 1).flatten(0, 1)


class Mirrors:
    """``{"op": "mirrored", "axis": "width"}``: sample 2 i is sample i before it, sample 2 i + 1 its mirror image."""

    def count(self, tensors: Mapping[str, Tensor], spec: Mapping[str, Any], before: int | None) -> int:
        """Twice as many."""
        assert before is not None
        return 2 * before

    def sample(
        self,
        tensors: Mapping[str, Tensor],
        spec: Mapping[str, Any],
        index: Tensor,
        before: Callable[[Tensor], Any] | None,
    ) -> Tensor:
        """Images (B, C, H, W) in the type of those before; differentiable in them."""
        assert before is not None
        images = before(index // 2)
        odd = (index % 2 == 1).to(images.device)[:, None, None, None]
        return torch.where(odd, images.flip(AXES[spec["axis"]]), images)


@frozen(kw_only=True, eq=False)
class Mirrored(Plugin):
    """Show and store two samples for each image."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "every stored image is two samples, itself and its mirror image"
    paper: ClassVar[str] = "none: an example of ddcore"
    view_phases: ClassVar[tuple[str, ...]] = ("match", "inner", "student_step")
    assumes: ClassVar[Mapping[str, str]] = {"mirror_symmetric": "mirror images are samples of the set"}

    axis: Literal["width", "height"] = option("width", help="what changes ends in the mirror", validator=in_([*AXES]))

    @hookimpl
    def ddcore_view(self, batch: Batch) -> Batch:
        """Both samples in the place of each image; targets and index repeat."""
        each = torch.arange(len(batch), device=batch.index.device).repeat_interleave(2)
        return batch.rows(each).with_inputs(with_mirrored(batch.inputs, self.axis))

    @hookimpl
    def ddcore_store(self, synthetic: Synthetic) -> Synthetic:
        """The decoder's last operation."""
        return several(synthetic, {"op": "mirrored", "axis": self.axis, "distribution": "mirrored"}, 2)
