"""A projector fitted to the real data: a head that is not trained, a scale, and factors that are.

    zero-shot   f_0(x) = s cos(E(x), v_c)                 v_c: prototype or sentence of class c
    fitted      min over A, B of  MSE(f(x), z(x)) + lambda CE(f(x), y)      z: logits of weak teachers

Shape letters: M images, B of a batch, D features, K classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ddcore import Batch, InputError
from ddcore.labels import Labels, View, mean_logits
from ddcore.networks import wide

Weak = Literal["mean", "each"]


def prototypes(features: Tensor, classes: Tensor, count: int) -> Tensor:
    """Head rows from real features: unit means of unit features, less their mean over the classes, which moves all
    logits of an image alike and so changes no decision.

    Args:
        features: (M, D).
        classes: (M,) int64, each class at least once.
        count: K.

    Returns:
        (K, D) of the features' type; columns sum to 0. Features that are 0 point nowhere and add nothing.
    """
    unit = F.normalize(wide(features), dim=1)
    sums = torch.zeros(count, features.shape[1], dtype=unit.dtype, device=features.device)
    means = F.normalize(sums.index_add_(0, classes.to(features.device), unit), dim=1)
    return (means - means.mean(0)).to(features.dtype)


def fitted_scale(logits: Tensor, wanted: Tensor) -> float:
    """s that brings s f closest to z in least squares, both (M, K) less their mean over the classes; 1 where that is
    not above 0.

    >>> fitted_scale(torch.tensor([[0.0, 1.0]]), torch.tensor([[5.0, 8.0]]))
    3.0
    """
    own, due = (wide(each) - wide(each).mean(1, keepdim=True) for each in (logits, wanted))
    found = float((own * due).sum() / own.square().sum().clamp(min=1e-30))
    return found if found > 0 else 1.0


class WeakAnswers(Labels):
    """What weak teachers say to a view of real images, and the class: what a projector learns.

    Attributes:
        teachers: in eval mode.
        weights: one a teacher, or None for equal ones.
        hard: lambda.
        weak: their mean of logits, or those of one, drawn anew for each batch.
    """

    kind: ClassVar[str] = "weak"

    def __init__(
        self,
        classes: Tensor,
        class_count: int,
        teachers: Sequence[nn.Module],
        *,
        weights: Sequence[float] | None = None,
        hard: float = 1.0,
        weak: Weak = "mean",
    ) -> None:
        self.classes, self.class_count = classes, class_count
        self.teachers, self.weights, self.hard, self.weak = list(teachers), weights, hard, weak
        self._turn = 0

    @property
    def recipe(self) -> dict[str, Any]:
        """MSE + lambda CE."""
        return {"loss": "mse", "hard": self.hard}

    @property
    def online(self) -> bool:
        """Asked for each batch as it is seen."""
        return True

    def views(self, epoch: int, count: int, batch_size: int, generator: Generator) -> Iterator[View]:
        """All images in a drawn order, each batch with the teacher whose turn it is."""
        for view in super().views(epoch, count, batch_size, generator):
            self._turn = int(torch.randint(len(self.teachers), (), generator=generator))
            yield view

    def targets(self, view: View, images: Tensor | None) -> dict[str, Tensor]:
        """``class`` (B,)."""
        return {"class": self.classes[view.index]}

    def answered(self, batch: Batch) -> Batch:
        """With ``logits`` (B, K) of the teachers for the inputs."""
        one = self.weak == "each"
        found = mean_logits(batch.inputs, self.teachers[self._turn]) if one else self.mean(batch.inputs)
        return Batch(batch.inputs, {**batch.targets, "logits": found}, batch.index)

    def mean(self, images: Tensor) -> Tensor:
        """All teachers' weighted mean of logits (B, K)."""
        return mean_logits(images, self.teachers, weights=self.weights)

    def tensors(self) -> dict[str, Tensor]:
        """None: they are never stored."""
        return {}

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "WeakAnswers":
        """They are never stored.

        Raises:
            InputError: always.
        """
        raise InputError("answers of weak teachers are never stored, so there is nothing to load: relabel the set")
