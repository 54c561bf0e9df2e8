"""A finished set on its way to disk: its labels, then the artifact; nothing is written twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ddcore.api.types import VECTORS, Synthetic
from ddcore.composing import answers
from ddcore.labels import Labels, SoftLabels, VectorLabels
from ddcore.runs.provenance import provenance
from ddcore.runs.refusals import warnings_of
from ddcore.runs.tracing import note_on_real, said_of_real
from ddcore.scoring.baselines import stored_as
from ddcore.scoring.evaluate import recipe_for
from ddcore.sets.artifact import Artifact, as_stored, load_artifact, save_artifact
from ddcore.sets.decoders import Decoder
from ddcore.sets.packed import Packed, load_packed, pixels_of, save_packed
from ddcore.storage.units import byte_count

if TYPE_CHECKING:
    from ddcore.runs.run import Run


def label(run: Run, synthetic: Synthetic) -> Labels:
    """Learned labels if there are, unless ``--labels`` asks for a rule; else the rule's, of the images as they will
    be stored."""
    learned = synthetic.of_role("labels")
    if learned is not None and run.config.labels is None:
        return SoftLabels(learned, synthetic.classes)
    vectors = synthetic.of_role(VECTORS)
    if vectors is not None and run.config.labels is None:
        return VectorLabels(vectors, synthetic.classes, len(run.source.classes))
    tensors, operations = as_stored(
        pixels_of(synthetic), synthetic.decoder, run.config.storage_dtype, run.normalisation
    )
    decoder = Decoder(operations)
    images = decoder.sample(tensors, torch.arange(decoder.count(tensors))).to(run.device, run.dtype)
    return run.label(images, synthetic.classes.to(run.device))


def save(run: Run, synthetic: Synthetic, labels: Labels, watched: Sequence[str] = ()) -> Artifact:
    """Write the artifact, unless an earlier part of this run did; ``watched`` is what its tasks were warned of."""
    place = run.place / "artifact"
    if (place / "manifest.json").exists():
        return load_artifact(place)
    rate = synthetic.of_role("rate")
    artifact = save_artifact(
        place,
        tensors=pixels_of(synthetic),
        decoder=synthetic.decoder,
        labels=labels,
        classes=run.source.classes,
        normalisation=run.normalisation,
        recipe=recipe_for(run, labels, None if rate is None else float(rate)),
        provenance=provenance(run),
        source={**run.source.summary(), "stored": stored_as(run)},
        notes=[*warnings_of(run), *watched, *synthetic.notes, *note_on_real(run)],
        storage_dtype=run.config.storage_dtype,
        real=said_of_real(run, synthetic),
        preview=lambda made: synthetic.preview or drawn(run, made),
    )
    run.say(f"artifact: {artifact.nbytes['total']:,} bytes in {place.url}")
    if (budget := bytes_allowed(run)) and artifact.nbytes["total"] > budget:
        run.warn(
            f"the set costs {artifact.nbytes['total']:,} bytes, more than --bytes {run.config.bytes}: a plugin stores more than was expected"
        )
    return artifact


def drawn(run: Run, artifact: Artifact) -> bytes:
    """The PNG of the first plugin that draws one of such data; empty where none does, or the data are images.

    Raises:
        PluginError: what it drew is no PNG.
    """
    if run.of_images:
        return b""
    for name, plugin in run.plugins.items():
        own = run.source.modality in plugin.modality
        if own and (found := plugin.preview(artifact.pixels(), artifact.labels.classes, run)):
            return answers.picture(found, f"preview of {run.hooks.who(name)}")
    return b""


def bytes_allowed(run: Run) -> int | None:
    """What ``--bytes`` says, if it was given."""
    return None if run.config.bytes is None else byte_count(run.config.bytes)


def pack(run: Run, synthetic: Synthetic, watched: Sequence[str] = ()) -> Packed:
    """Write the artifact of data that are not dense, unless an earlier part of this run did; see ``save``."""
    place = run.place / "artifact"
    if (place / "manifest.json").exists():
        return load_packed(place)
    packed = save_packed(
        place,
        synthetic,
        kind=run.source.modality,
        classes=run.source.classes,
        provenance=provenance(run),
        source=run.source.summary(),
        notes=(*warnings_of(run), *watched),
    )
    run.say(f"artifact: {packed.nbytes['total']:,} bytes in {place.url}")
    return packed
