"""A run that distils, with all that a matcher asks it for. See ``distil.py`` for what it does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from ddcore import devices
from ddcore.api.types import Arm, Batch, Progress, Row, Segment, Task, Unroll
from ddcore.composing.plan import IMAGES, Choices, Plan, resolve
from ddcore.errors import PluginError
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.opened import Opened
from ddcore.runs.suggesting import known_matchers
from ddcore.scoring.evaluate import score
from ddcore.scoring.rows import check_rows, chosen_rows, initialisers_among
from ddcore.training.protocols import resolved_protocols

CPU_WIDTH = 32


class Run(Opened):
    """One run: its configuration, plugins, data, randomness and files."""

    @cached_property
    def plan(self) -> Plan:
        """Who does what."""
        config = self.config
        check_rows(config, self.plugins)
        rows = initialisers_among(chosen_rows(config), self.plugins)
        told = next(filter(None, map(suggested_network, self.plugins.values())), "auto")
        network = config.network if config.network != "auto" else told
        choices = Choices(config.steps, network, config.init, config.labels, rows)
        return resolve(self.hooks, self.plugins, choices, partial(known_matchers, self))

    @property
    def matcher_name(self) -> str:
        """The matcher as messages name it."""
        return self.hooks.who(self.plan.matcher)

    @property
    def matcher(self) -> Any:
        """The matcher's plugin instance."""
        return self.plugins[self.plan.matcher]

    @property
    def network_name(self) -> str:
        """``--network``; ``auto`` is the field's ConvNet, narrow on a CPU, where the papers' width takes hours; on
        other data what the first plugin of such data suggests, else ``mlp``."""
        if self.config.network != "auto":
            return str(self.config.network)
        for plugin in self.plugins.values():
            if (told := suggested_network(plugin)) and self.source.modality in plugin.modality:
                return told
        if self.dense and not self.of_images:
            return "mlp"
        return "convnet" if devices.is_cuda(self.device) else f"convnet-w{CPU_WIDTH}"

    @property
    def labeller(self) -> str:
        """Which rule labels images whose labels were not learned."""
        return self.config.labels or self.plan.labeller

    # ---- services that a matcher calls, each one line over a hook ----

    def initialize(self, classes: Tensor, task: Task, name: str | None = None) -> Tensor:
        """Images (N, C, H, W) for these classes by an initialiser, the plan's unless named, on the run's device."""
        name = name or self.plan.initializer
        with torch.no_grad():
            images = self.hooks.initialize(name, classes, task, self.generator("initialize", name, task.slot), self)
        if images is None:
            raise PluginError(f"no selected plugin answers to the initializer {name!r} that one of them lists: mend it")
        return images.detach().clone().to(device=self.device, dtype=self.dtype)

    def view(self, batch: Batch, phase: str) -> Batch:
        """The synthetic batch as enhancements show it to the matcher in this phase."""
        return self.hooks.view(batch, phase, self)

    def segment(self, segment: Segment, unroll: Unroll, network: nn.Module, task: Task, progress: Progress) -> Segment:
        """A stretch to imitate, as enhancements change it."""
        with torch.no_grad():
            return self.hooks.segment(segment, unroll, network, task, progress, self)

    def matching_loss(self, images: Tensor, classes: Tensor, step: int = 0) -> float | None:
        """The matcher's loss of given images as they stand; see ``loss_of``."""
        return loss_of(self, images, classes, step)

    def score(self, arms: Sequence[Arm], seeds: int | None = None) -> list[Row]:
        """A row for each arm, of students that the evaluation trains, or has trained: for a plugin's
        ``ddcore_evaluate``.

        Args:
            arms: sets of the core, or of a plugin's ``student_sets``.
            seeds: students of each; default: ``--eval-seeds``.
        """
        return score(self, arms, self.config.eval_seeds if seeds is None else seeds)

    def arm(self, set: str, labels: str = "hard") -> Arm:
        """An arm under the run's first protocol, in the first network that students are tested in."""
        networks = self.config.eval_network or (self.network_name,)
        return Arm(set, labels, resolved_protocols(self)[0].name, networks[0])


def suggested_network(plugin: Any) -> str | None:
    """What a plugin of other data than images has ``--network auto`` mean: one that it names, else its first."""
    if IMAGES in plugin.modality:
        return None
    return plugin.suggests_network or next(iter(plugin.networks), None)


def loss_of(run: Run, images: Tensor, classes: Tensor, step: int) -> float | None:
    """The matcher's loss of given images at a step, as they stand: nothing is moved.

    The sum over everything that it yields, in all tasks of the run; what a task draws depends on the step, not on the
    images.

    Args:
        images: (N, C, H, W) normalised, of each class at least as many as the run distils.
        classes: (N,) int64.

    Returns:
        None where the matcher yields nothing, or does not learn from so many images of given classes.
    """
    tasks = distillation_tasks(run)
    if not hasattr(run.matcher, "ddcore_matching_loss") or any(task.classes is None for task in tasks):
        return None
    left = {c: (classes == c).nonzero()[:, 0].tolist() for c in range(len(run.source.classes))}
    values: list[float] = []
    for task in tasks:
        wanted: list[int] = task.classes.tolist()  # type: ignore[union-attr]
        if any(wanted.count(c) > len(left[c]) for c in left):
            return None
        rows = torch.tensor([left[c].pop(0) for c in wanted])
        given = images[rows.to(images.device)].detach()
        learn = run.hooks.learn(task, given, run)
        values += [float(loss.value.detach()) for loss in run.hooks.matching_loss(task, step, learn, run)]
    return sum(values) if values else None
