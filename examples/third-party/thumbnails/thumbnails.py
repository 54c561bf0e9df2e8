"""Thumbnails: students pretrain by saying what an image looks like when it is shrunk to a few pixels.

A label kind that is no class, stores a byte a number, and says what it will cost before it is made, so that ``--bytes`` works.
Shape letters: N samples, B of a batch, C channels, D = C s s numbers of a thumbnail.
"""

from typing import Any, ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor
from torch.nn import functional as F

from ddcore import Plugin, View, hookimpl, option
from ddcore.labels import Labels, Prospect, as_ids, smallest_type, stored


@frozen(eq=False)
class ThumbnailLabels(Labels):
    """A thumbnail a sample: ``levels`` (N, D) uint8, pixels in [0, 1] times 255."""

    kind: ClassVar[str] = "thumbnails"
    distribution: ClassVar[str] = "thumbnails"
    of_classes: ClassVar[bool] = False
    levels: Tensor
    classes: Tensor = field(converter=as_ids)
    class_count: int

    @property
    def width(self) -> int:
        """D."""
        return int(self.levels.shape[1])

    @property
    def recipe(self) -> dict[str, Any]:
        """Mean squared error."""
        return {"loss": "mse", "of": "embedding"}

    def targets(self, view: View, images: Tensor | None = None) -> dict[str, Tensor]:
        """``embedding`` (B, D) in [0, 1], and ``class``."""
        return {"embedding": self.levels[view.index] / 255, "class": self.classes[view.index]}

    def tensors(self) -> dict[str, Tensor]:
        """Levels and classes."""
        return {"levels": self.levels, "class": self.classes.to(smallest_type(self.class_count))}

    @classmethod
    def blank(cls, prospect: Prospect) -> "ThumbnailLabels":
        """Black ones: they weigh as much as any."""
        levels = torch.zeros(len(prospect.ids), prospect.number("width", cls.kind), dtype=torch.uint8)
        return cls(levels, prospect.ids, prospect.classes)

    @classmethod
    def load(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> "ThumbnailLabels":
        """From an artifact."""
        return cls(stored(tensors, "levels"), stored(tensors, "class"), int(header["classes"]))


@frozen(kw_only=True, eq=False)
class Thumbnails(Plugin):
    """Offer the rule ``thumbnails`` for ``--labels``."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "labels that are the image itself, shrunk: for pretraining"
    paper: ClassVar[str] = "none: an example of a label kind"
    role: ClassVar[str] = "labels"
    labellers: ClassVar[tuple[str, ...]] = ("thumbnails",)
    side: int = option(2, help="height and width of a thumbnail", unit="pixels", validator=ge(1))

    def label_sizes(self, run: Any) -> dict[str, int]:
        """D, so that labels have a price before they are made."""
        return {"width": run.source.channels * self.side**2}

    @hookimpl
    def ddcore_label(self, name: str, images: Tensor, classes: Tensor, run: Any) -> Labels | None:
        """Means of pixels."""
        if name != "thumbnails":
            return None
        small = F.adaptive_avg_pool2d(run.normalisation.inverse(images).clamp(0, 1), self.side)
        return ThumbnailLabels((255 * small).round().flatten(1).byte().cpu(), classes, len(run.source.classes))
