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
from ddcore.pages.report import write_report
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.divergence import notes_of
from ddcore.runs.record import scored_on
from ddcore.runs.refusals import check_data_aloud
from ddcore.runs.saving import bytes_allowed, label, pack, save
from ddcore.runs.tracing import traced
from ddcore.scoring.budget import stored
from ddcore.scoring.rows import CORE_SETS
from ddcore.scoring.validation import marked, warn_of_set

if TYPE_CHECKING:
    from ddcore.runs.run import Run


def distil(run: Run) -> list[Row]:
    """Do a run, or what is left of it; returns the rows of ``scores.json``."""
    with run.tasks.at_work(run.cache):
        return _distil(run)


def _distil(run: Run) -> list[Row]:
    began = time.time()
    check_data_aloud(run)
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
    watched = notes_of([run.checkpoints.header(task.key) for task in tasks])
    if run.dense:
        run.artifact = save(run, synthetic, label(run, synthetic), watched)
    else:
        run.packed = pack(run, synthetic, watched)
    rows = evaluate(run)
    if not (run.place / "artifact" / "manifest.json").exists():
        raise InputError(f"{(run.place / 'artifact').url} was removed while it was evaluated; {run.tasks.way_on}")
    write_report(run.place, run.artifact)
    run.log("done", seconds=round(time.time() - began, 3))
    return rows


def assemble(run: Run, tasks: Sequence[Task]) -> Synthetic:
    """The tasks' results as one set, as plugins store it: whoever assembles says how; else rows joined by class."""
    with torch.no_grad():
        return stored(run, traced(run, joined(run, tasks)))


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


def evaluate(run: Run) -> list[Row]:
    """Ask every evaluator, the core's honest rows first, and write ``scores.json``."""
    rows: list[Row] = []
    for plugin, answer in run.hooks.evaluate(run).items():
        taken = {(name, row.network) for name in CORE_SETS for row in rows if run.dense and plugin != CORE}
        rows += answers.rows(answer, run.hooks.source("ddcore_evaluate", plugin), taken)
    if run.artifact is not None:
        warn_of_set(run, run.artifact)
    rows = marked(run, rows)
    if (budget := bytes_allowed(run)) is not None:
        rows = [attrs.evolve(row, extra={**row.extra, "budget": budget}) for row in rows]
    for row in rows:
        run.log("row", **row_json(row))
    said = {"rows": [row_json(row) for row in rows], "warnings": run.tasks.warned()}
    (run.place / "scores.json").write_json({**scored_on(run), **said})
    return rows
