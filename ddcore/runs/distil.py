"""A run, top to bottom: data, plan, experts, tasks, labels, artifact, scores. The whole of it is a function of
(configuration, seed); every part that takes long is a task whose result is a file, so that any of it can be resumed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import torch

from ddcore.api.types import Row, Synthetic, Task
from ddcore.composing import answers
from ddcore.composing.dispatch import CORE
from ddcore.composing.plan import TEACHERS, TRAJECTORIES
from ddcore.composing.tables import row_json
from ddcore.errors import InputError, PluginError
from ddcore.labels import Labels, SoftLabels
from ddcore.pages.report import write_report
from ddcore.runs.loop import distillation_tasks
from ddcore.runs.provenance import provenance
from ddcore.runs.refusals import check_data, warnings_of
from ddcore.scoring.budget import stored
from ddcore.scoring.evaluate import CORE_SETS, recipe_for
from ddcore.scoring.validation import marked, warn_of_set
from ddcore.sets.artifact import Artifact, as_stored, load_artifact, save_artifact
from ddcore.sets.decoders import Decoder
from ddcore.sets.packed import Packed, load_packed, pixels_of, save_packed
from ddcore.storage.units import byte_count

if TYPE_CHECKING:
    from ddcore.runs.run import Run


def distil(run: Run) -> list[Row]:
    """Do a run, or what is left of it; returns the rows of ``scores.json``."""
    with run.tasks.at_work(run.cache):
        return _distil(run)


def _distil(run: Run) -> list[Row]:
    began = time.time()
    check_data(run)
    run.log("begin", what="distil", steps=run.plan.steps, seed=run.seed)
    tasks = distillation_tasks(run)
    if TRAJECTORIES in run.plan.needs:
        run.say(f"experts: {run.trajectories.count} of {run.trajectories.epochs} epochs")
    if TEACHERS in run.plan.needs:
        run.say(f"teachers: {run.teachers.said}")
    run.map(tasks, *(("distil", "tasks") if len(tasks) > 1 else ()))
    synthetic = assemble(run, tasks)
    for note in synthetic.notes:
        run.say(note)
    if run.of_images:
        run.artifact = save(run, synthetic, label(run, synthetic))
    else:
        run.packed = pack(run, synthetic)
    rows = evaluate(run)
    if not (run.place / "artifact" / "manifest.json").exists():
        raise InputError(f"{(run.place / 'artifact').url} was removed while it was evaluated; {run.tasks.way_on}")
    write_report(run.place, run.artifact)
    run.log("done", seconds=round(time.time() - began, 3))
    return rows


def assemble(run: Run, tasks: Sequence[Task]) -> Synthetic:
    """The tasks' results as one set, as plugins store it: whoever assembles says how; else rows are joined, sorted by class."""
    with torch.no_grad():
        return stored(run, joined(run, tasks))


def joined(run: Run, tasks: Sequence[Task]) -> Synthetic:
    """The tasks' results as one set."""
    results = [run.checkpoints.result(task.key) for task in tasks]
    made = run.hooks.assemble(tasks, results, run)
    if made is not None:
        return made
    header = run.checkpoints.header(tasks[0].key)
    classes = [task.classes for task in tasks]
    if len(tasks) == 1:
        return Synthetic(results[0], header["roles"], header["decoder"], classes[0])  # type: ignore[arg-type]
    for task, result in zip(tasks, results, strict=True):
        if any(t.dim() == 0 or len(t) != len(task.classes) for t in result.values()):  # type: ignore[arg-type]
            raise PluginError(
                f"{run.matcher_name} learns tensors that are not rows, in several tasks: implement ddcore_assemble"
            )
    together = torch.cat(classes)  # type: ignore[arg-type]
    order = together.argsort(stable=True)
    tensors = {name: torch.cat([result[name] for result in results])[order] for name in results[0]}
    return Synthetic(tensors, header["roles"], header["decoder"], together[order])


def label(run: Run, synthetic: Synthetic) -> Labels:
    """Learned labels if there are, unless ``--labels`` asks for a rule; else the rule's, of the images as they will be stored."""
    learned = synthetic.of_role("labels")
    if learned is not None and run.config.labels is None:
        return SoftLabels(learned, synthetic.classes)
    tensors, operations = as_stored(
        pixels_of(synthetic), synthetic.decoder, run.config.storage_dtype, run.normalisation
    )
    decoder = Decoder(operations)
    images = decoder.sample(tensors, torch.arange(decoder.count(tensors))).to(run.device, run.dtype)
    return run.label(images, synthetic.classes.to(run.device))


def save(run: Run, synthetic: Synthetic, labels: Labels) -> Artifact:
    """Write the artifact, unless an earlier part of this run did."""
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
        source=run.source.summary(),
        notes=[*warnings_of(run), *synthetic.notes],
        storage_dtype=run.config.storage_dtype,
    )
    run.say(f"artifact: {artifact.nbytes['total']:,} bytes in {place.url}")
    if (budget := bytes_allowed(run)) and artifact.nbytes["total"] > budget:
        run.warn(
            f"the set costs {artifact.nbytes['total']:,} bytes, more than --bytes {run.config.bytes}: a plugin stores more than was expected"
        )
    return artifact


def bytes_allowed(run: Run) -> int | None:
    """What ``--bytes`` says, if it was given."""
    return None if run.config.bytes is None else byte_count(run.config.bytes)


def pack(run: Run, synthetic: Synthetic) -> Packed:
    """Write the artifact of data that are not images, unless an earlier part of this run did."""
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
        notes=warnings_of(run),
    )
    run.say(f"artifact: {packed.nbytes['total']:,} bytes in {place.url}")
    return packed


def evaluate(run: Run) -> list[Row]:
    """Ask every evaluator, the core's honest rows first, and write ``scores.json``."""
    rows: list[Row] = []
    for plugin, answer in run.hooks.evaluate(run).items():
        taken = CORE_SETS if run.of_images and plugin != CORE else ()
        rows += answers.rows(answer, run.hooks.source("ddcore_evaluate", plugin), taken)
    if run.artifact is not None:
        warn_of_set(run, run.artifact)
    rows = marked(run, rows)
    if (budget := bytes_allowed(run)) is not None:
        rows = [attrs.evolve(row, extra={**row.extra, "budget": budget}) for row in rows]
    for row in rows:
        run.log("row", **row_json(row))
    scores = {
        "dataset": run.source.summary(),
        "rows": [row_json(row) for row in rows],
        "warnings": run.tasks.warned(),
    }
    (run.place / "scores.json").write_json(scores)
    return rows
