"""Choosing without the test set: a part of the train images takes its place, in everything that a run does.

``--validation SHARE`` carves it before anything else looks at the data, so that no expert, teacher, student, evaluator
or plugin of such a run ever holds a test image, and experts and cached students of other runs are not mistaken for this
one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from ddcore import randomness
from ddcore.api.types import Row
from ddcore.data.source import TEXT, Source, Split
from ddcore.errors import InputError

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run
    from ddcore.sets.artifact import Artifact


def carve(source: Source, share: float, seed: int) -> Source:
    """The same data with ``share`` of the train images of each class in the place of the test images.

    Of each class with n train images it is round(share n) of them, at least one and at most n - 1, drawn by the seed;
    both parts keep the order in which the images came.

    Raises:
        InputError: a class with one train image only; data that are neither images nor text.
    """
    if source.modality != TEXT and not source.dense:
        raise InputError(
            f"--validation is of images, text and other rows of one shape, and {source.name} holds {source.modality}: leave it out"
        )
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
