"""Do one task, in whichever process it landed: a pure function of (run.json, task), whose result is a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ddcore.types import Task

if TYPE_CHECKING:
    from ddcore.run import Run

_runs: dict[str, Run] = {}


def remember(run: Run) -> None:
    """Let tasks of this process use a run that is already open."""
    _runs[run.address] = run


def forget(run: Run) -> None:
    """The run is over."""
    _runs.pop(run.address, None)


def work(run_url: str, description: Mapping[str, Any]) -> None:
    """Do a task and leave its result in the run's ``checkpoints`` folder, unless it is there already.

    A task that is a whole run (``ddcore.bench``) leaves a run's folder in the bench's instead.
    """
    from ddcore.bench import BENCH, do_cell
    from ddcore.run import Run

    if description["kind"] == BENCH:
        do_cell(run_url, description)
        return
    if run_url not in _runs:
        _runs[run_url] = Run.open(run_url, worker=True)
    run = _runs[run_url]
    task = task_from(description)
    if not run.checkpoints.finished(task.key):
        tensors, header = _KINDS[task.kind](task, run)
        run.checkpoints.finish(task.key, tensors, header)


def describe(task: Task) -> dict[str, Any]:
    """A task as JSON values."""
    classes = None if task.classes is None else task.classes.tolist()
    names = ("kind", "key", "steps", "index", "slot")
    return {**{n: getattr(task, n) for n in names}, "classes": classes, "options": dict(task.options)}


def task_from(description: Mapping[str, Any]) -> Task:
    """The inverse of ``describe``."""
    classes = description["classes"]
    return Task(**{**description, "classes": None if classes is None else torch.tensor(classes, dtype=torch.int64)})


def _distil(task: Task, run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    from ddcore.loop import distil_task

    return distil_task(task, run)


def _expert(task: Task, run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    from ddcore.experts import train_expert

    return train_expert(task, run), {}


def _evaluate(task: Task, run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    from ddcore.evaluate import run_evaluation_task

    return run_evaluation_task(task, run), {}


def _teacher(task: Task, run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    from ddcore.teachers import train_teacher

    return train_teacher(task, run), {}


def _train(task: Task, run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    from ddcore.train import run_training_task

    return run_training_task(task, run), {}


_KINDS = {"distil": _distil, "train": _train, "expert": _expert, "teacher": _teacher, "evaluate": _evaluate}
