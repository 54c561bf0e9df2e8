"""Choosing without the test set: a part of the train images takes its place, in everything that a run does.

``--validation SHARE`` carves it before anything else looks at the data, so that no expert, teacher, student, evaluator or plugin of
such a run ever holds a test image, and experts and cached students of other runs are not mistaken for this one's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from ddcore import randomness
from ddcore.data import TEXT, Source, Split
from ddcore.errors import InputError
from ddcore.training import Epoch, Samples, accuracy
from ddcore.types import Row

if TYPE_CHECKING:
    from ddcore.artifact import Artifact
    from ddcore.run import Run

LOOKS = 50
"""Epochs of a student's training after which its validation accuracy is measured, about."""


def carve(source: Source, share: float, seed: int) -> Source:
    """The same data with ``share`` of the train images of each class in the place of the test images.

    Of each class with n train images it is round(share n) of them, at least one and at most n - 1, drawn by the seed; both parts keep
    the order in which the images came.

    Raises:
        InputError: a class with one train image only; data that are neither images nor text.
    """
    if source.modality not in ("images", TEXT):
        raise InputError(f"--validation is of images and text, and {source.name} holds {source.modality}: leave it out")
    held = torch.zeros(len(source.train), dtype=torch.bool)
    for cls, name in enumerate(source.classes):
        rows = (source.train.labels == cls).nonzero().squeeze(1)
        if len(rows) < 2:
            raise InputError(
                f"class {name!r} has {len(rows)} train image, which --validation cannot share: leave it out"
            )
        order = torch.randperm(len(rows), generator=randomness.generator(seed, "validation", cls))
        held[rows[order[: min(len(rows) - 1, max(1, round(share * len(rows))))]]] = True
    note = f"{share:g} of the train images of each class, drawn by seed {seed}, take the test images' place"
    return attrs.evolve(
        source,
        train=_rows(source.train, ~held),
        test=_rows(source.train, held),
        carved=(share, seed),
        notes=(*source.notes, note),
    )


def _rows(split: Split, where: Tensor) -> Split:
    return Split(split.stored[where], split.labels[where])


def on(source: Source) -> str:
    """Which images scores are of, as rows say it.

    Empty for the test set.
    """
    return f"validation, {source.carved[0]:g} of the train images" if source.carved else ""


def marked(run: Run, rows: Sequence[Row]) -> list[Row]:
    """Rows that say which images they are of, where it is not the test set; the run warns of it once."""
    if not (said := on(run.source)):
        return list(rows)
    run.warn(f"scores are of the {said}, not of the test set: choose by them, then measure once without --validation")
    return [attrs.evolve(row, extra={**row.extra, "on": said}) for row in rows]


def warn_of_set(run: Run, artifact: Artifact) -> None:
    """Say where a set was made from images that it is now validated on."""
    made_from = artifact.manifest["source"].get("fingerprint")
    if run.source.carved and made_from != run.source.fingerprint:
        run.warn(
            "the set was made from other train images than this split leaves, so it may hold what it is validated on: "
            "make it with the same --validation and --seed, or expect too high a score"
        )


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
