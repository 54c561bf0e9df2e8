"""A student's accuracy along its training, where a part of the train images is kept to choose by."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from ddcore.api.services import Samples
from ddcore.training.loop import Epoch, accuracy

LOOKS = 50
"""Epochs of a student's training after which its validation accuracy is measured, about."""


class Watch:
    """A student's accuracy on the validation images along its training, with the steps and seconds that it took.

    Attributes:
        kept: plain values for a checkpoint; those of a training that goes on are put here.
    """

    def __init__(self, samples: Samples, steps: int) -> None:
        """``steps`` are those of the whole training, of whose epochs about ``LOOKS`` and the last are looked at."""
        self.kept: dict[str, Any] = {"steps": [], "seconds": [], "accuracy": [], "total": 0.0}
        self._samples, self._of, self._since = samples, steps, time.perf_counter()

    def look(self, network: nn.Module, epoch: Epoch) -> float | None:
        """What the network scores after an epoch; None where nobody looks."""
        now = time.perf_counter()
        self.kept["total"] += now - self._since
        score = accuracy(network, self._samples) if self._due(epoch.steps) else None
        if score is not None:
            for name, value in (("steps", epoch.steps), ("seconds", self.kept["total"]), ("accuracy", score)):
                self.kept[name].append(value)
        self._since = time.perf_counter()
        return score

    def _due(self, steps: int) -> bool:
        last = self.kept["steps"][-1] if self.kept["steps"] else 0
        return steps > last and (steps >= self._of or steps * LOOKS // self._of > last * LOOKS // self._of)

    def tensors(self) -> dict[str, Tensor]:
        """``watched.steps`` (E,) int64, ``watched.seconds`` and ``watched.accuracy`` (E,) float64."""
        steps = torch.tensor(self.kept["steps"], dtype=torch.int64)
        numbers = {f"watched.{n}": torch.tensor(self.kept[n], dtype=torch.float64) for n in ("seconds", "accuracy")}
        return {"watched.steps": steps, **numbers}
