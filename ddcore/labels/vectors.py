"""Labels that are no classes: a vector a sample, which a student's outputs are to equal. Shape letters: N samples, B of
a batch, D numbers of a vector, K classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from attrs import field, frozen
from torch import Tensor

from ddcore.errors import InputError
from ddcore.images.views import View, mixup
from ddcore.labels.labels import (
    Labels,
    Prospect,
    as_ids,
    at_rows,
    check_ids,
    float32_or_16,
    mixed_classes,
    smallest_type,
    stored,
)


@final
@frozen(eq=False)
class VectorLabels(Labels):
    """One vector of any numbers a sample: a representation, a regression's targets.

    Students have D outputs and minimise their mean squared error: the mean over D, then over the batch. Where a view
    mixes two samples, its vector is their mean by the same share. They cost N D bytes times 4 (float32) or 2
    (float16), and as much as hard labels for the class each sample is of; data without labels have one class.

    Attributes:
        vectors: (N, D), D at least 1; float16 is kept, everything else becomes float32.
        classes: (N,) int64: what a sample was made from, for pictures and for arms with hard labels.

    Raises:
        InputError: shapes that do not fit, or ids that are not of K classes.
    """

    kind: ClassVar[str] = "vectors"
    of_classes: ClassVar[bool] = False
    vectors: Tensor = field(converter=float32_or_16)
    classes: Tensor = field(converter=as_ids)
    class_count: int

    def __attrs_post_init__(self) -> None:
        check_ids(self.classes, self.class_count)
        if self.vectors.dim() != 2 or len(self.vectors) != len(self.classes) or not self.vectors.shape[1]:
            due = f"({len(self.classes)} samples, numbers of each)"
            raise InputError(
                f"vectors have shape {tuple(self.vectors.shape)} where {due} is due: give one vector for each sample"
            )

    @property
    def width(self) -> int:
        """D."""
        return int(self.vectors.shape[1])

    @property
    def recipe(self) -> dict[str, Any]:
        """Mean squared error of the vectors."""
        return {"loss": "mse", "of": "embedding", "hard": 0.0}

    def targets(self, view: View, images: Tensor | None = None) -> dict[str, Tensor]:
        """``embedding`` (B, D) float32, mixed as the images are; ``class``, and where it mixes ``mixed`` and
        ``lam``."""
        vectors = at_rows(self.vectors, view.index)
        vectors = vectors if view.mix is None else mixup(vectors, *view.mix)
        return {"embedding": vectors, **mixed_classes(self.classes, view)}

    def tensors(self) -> dict[str, Tensor]:
        """``vectors`` (N, D) and ``class`` (N,)."""
        return {"vectors": self.vectors, "class": self.classes.to(smallest_type(self.class_count))}

    @classmethod
    def blank(cls, prospect: Prospect) -> VectorLabels:
        """Zeros; ``width`` says D, ``float_bytes`` (2 or 4, by default 4) how numbers are stored."""
        dtype = torch.float16 if prospect.how.get("float_bytes") == 2 else torch.float32
        vectors = torch.zeros(len(prospect.ids), prospect.number("width", cls.kind), dtype=dtype)
        return cls(vectors, prospect.ids, prospect.classes)

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> VectorLabels:
        """From an artifact."""
        return cls(stored(tensors, "vectors"), stored(tensors, "class"), int(header["classes"]))
