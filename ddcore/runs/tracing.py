"""Which images of a set are real ones, unchanged, and what is said of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from ddcore.api.types import Synthetic
from ddcore.composing import answers
from ddcore.images.statistics import scaled
from ddcore.scoring.budget import UNCHANGED, of_real_images
from ddcore.sets.artifact import as_stored
from ddcore.sets.packed import pixels_of

if TYPE_CHECKING:
    from ddcore.runs.run import Run

AT_ONCE = 256
"""Images that are decoded and looked at together."""


def traced(run: Run, synthetic: Synthetic) -> Synthetic:
    """The set with the row of the train split that each image is: those its plugin says, looked at, or those found."""
    if not run.dense:
        return synthetic
    parts = torch.arange(len(synthetic.classes)).split(AT_ONCE)  # type: ignore[no-untyped-call]
    decoder, tensors = run.decoder(synthetic.decoder), pixels_of(synthetic)
    if synthetic.source_rows is not None:
        who = run.hooks.source("ddcore_assemble", run.plan.matcher)
        answers.source_rows(synthetic, len(run.real.train), who)
        for part in parts:
            rows = synthetic.source_rows[part]
            real = rows >= 0
            images = decoder.sample(tensors, part[real])
            answers.unchanged(images, run.real.train.inputs(rows[real]).cpu(), who)
        return synthetic
    found = [run.real.train.rows_of(decoder.sample(tensors, part), synthetic.classes[part]) for part in parts]
    return attrs.evolve(synthetic, source_rows=torch.cat(found))


def said_of_real(run: Run, synthetic: Synthetic) -> dict[str, Any] | None:
    """What the manifest says of a set's real images: their rows, and whether a reader gets their very pixels; None
    where there are none."""
    rows = synthetic.source_rows
    if rows is None or not bool((rows >= 0).any()):
        return None
    dtype = run.config.storage_dtype
    tensors, operations = as_stored(pixels_of(synthetic), synthetic.decoder, dtype, run.normalisation)
    decoder, unchanged = run.decoder(operations), True
    for part in (rows >= 0).nonzero()[:, 0].split(AT_ONCE):  # type: ignore[no-untyped-call]
        unchanged &= torch.equal(decoder.sample(tensors, part).float(), _normalised(run, rows[part]))
    return {"rows": rows.tolist(), "unchanged": unchanged}


def _normalised(run: Run, rows: Tensor) -> Tensor:
    if not run.normalisation.pixelwise:
        return run.real.train.inputs(rows).cpu().float()
    return run.normalisation.apply(scaled(run.source.train.stored[rows]))


def note_on_real(run: Run) -> tuple[str, ...]:
    """What a set is that is made of real images and is none itself."""
    words = of_real_images(run)
    return () if words in ("", UNCHANGED) else (f"nothing was learned: the {run.source.samples} are {words}",)
