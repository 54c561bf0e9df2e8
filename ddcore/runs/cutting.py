"""Into which tasks a distillation is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ddcore.api.types import Task
from ddcore.errors import PluginError
from ddcore.scoring.baselines import NOISE, of_those_there

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run


def distillation_tasks(run: Run) -> list[Task]:
    """The work to do: the matcher's tasks, else one that holds every class ``ipc`` times, class by class.

    Raises:
        PluginError: several tasks that do not say the class of each row, and nobody to assemble their results.
    """
    tasks = run.hooks.tasks(run)
    if tasks is None:
        return [distillation_task(run)]
    rows = [len(task.classes) if task.classes is not None else 0 for task in tasks]
    if len(tasks) > 1 and not all(rows) and not run.hooks.providers("ddcore_assemble"):
        raise PluginError(
            f"{run.matcher_name} gives {len(tasks)} tasks and does not assemble their results: implement ddcore_assemble, or say the classes of each task's rows"
        )
    return tasks


def distillation_task(run: Run) -> Task:
    """One task that holds every class ``ipc`` times, class by class; where nothing is learned from real images, those
    of a class that there are."""
    classes = torch.arange(len(run.source.classes)).repeat_interleave(run.config.ipc)
    if run.dense and not run.plan.steps and run.plan.initializer != NOISE:
        classes = of_those_there(run, classes)
    return Task(kind="distil", key="distil-000", steps=run.plan.steps, classes=classes)
