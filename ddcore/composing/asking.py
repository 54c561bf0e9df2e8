"""Asking each hook: one method a hook, in the order a run calls them, with what its answer has to be beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from ddcore.api.services import Executor, Run, Samples, StudentData, Teaching
from ddcore.api.types import (
    Answers,
    Arm,
    Batch,
    Companion,
    Learn,
    Loss,
    Progress,
    Row,
    Seen,
    Segment,
    Sequential,
    Synthetic,
    Task,
    Term,
    Transform,
    Unroll,
    Vote,
)
from ddcore.composing import answers
from ddcore.composing.dispatch import Dispatch, PerPlugin
from ddcore.data.source import Source
from ddcore.labels import Labels

GeneratorOf = Callable[[str], Generator]
"""From a plugin's name to a generator of its own."""


class Hooks(Dispatch):
    """The selected plugins' hooks. What a method takes and gives is the hook's own: see ``ddcore.api.hooks``."""

    # ---- by name ----

    def data(self, name: str, rest: str, options: Mapping[str, Any]) -> Source | None:
        """Real data."""
        given: dict[str, Any] = {"name": name, "rest": rest, "options": options}
        return self.by_name("ddcore_data", check=answers.source, **given)  # type: ignore[no-any-return]

    def network(self, name: str, of: Mapping[str, Any], generator: Generator) -> nn.Module | None:
        """A freshly initialised classifier; ``of`` says ``channels``, ``size``, ``classes`` and ``shape``."""
        found = self.by_name("ddcore_network", check=answers.network, name=name, **of, generator=generator)
        return found  # type: ignore[no-any-return]

    def executor(self, name: str) -> Executor | None:
        """Where tasks run."""
        return self.by_name("ddcore_executor", check=answers.executor, name=name)  # type: ignore[no-any-return]

    def initialize(self, name: str, classes: Tensor, task: Task, generator: Generator, run: Run) -> Tensor | None:
        """Images of classes."""
        source: Any = run.source
        due = (len(classes), *source.shape)
        given: dict[str, Any] = {"name": name, "classes": classes, "task": task, "generator": generator, "run": run}
        found = self.by_name("ddcore_initialize", check=lambda a, who: answers.images(a, who, due), **given)
        return found  # type: ignore[no-any-return]

    def label(self, name: str, images: Tensor, classes: Tensor, run: Run) -> Labels | None:
        """Labels of any images."""
        given: dict[str, Any] = {"name": name, "images": images, "classes": classes, "run": run}
        due = (len(classes), len(run.source.classes))
        found = self.by_name("ddcore_label", check=lambda a, who: answers.labels(a, who, *due), **given)
        return found  # type: ignore[no-any-return]

    def protocol(self, name: str) -> Any | None:
        """An evaluation recipe of the core or of a selected plugin."""
        return self.by_name("ddcore_protocol", check=answers.recipe, name=name)

    def protocols(self) -> list[str]:
        """Names of the recipes that selected plugins bring."""
        return [name for impl in self.providers("ddcore_protocol") for name in getattr(impl.plugin, "protocols", ())]

    def student_data(self, name: str, student: int, run: Run) -> StudentData | None:
        """What a student is trained on in a plugin's set."""
        given: dict[str, Any] = {"name": name, "student": student, "run": run}
        return self.by_name("ddcore_student_data", check=answers.student_data, **given)  # type: ignore[no-any-return]

    # ---- experts and teachers ----

    def expert_loss(self, value: Tensor, network: nn.Module, batch: Batch, clean: Batch, progress: Progress) -> Tensor:
        """An expert's loss (a mean over rows) as enhancements change it."""
        given: dict[str, Any] = {"network": network, "batch": batch, "clean": clean, "progress": progress}
        given |= {"only": lambda plugin: plugin.expert_options() is not None, "check": answers.expert_loss}
        return self.chain("ddcore_expert_loss", value, **given)  # type: ignore[no-any-return]

    def expert_optimizer(self, base: Optimizer, progress: Progress) -> Optimizer:
        """An expert's optimiser: ``base``, or what an enhancement puts in its place."""
        params = [p for group in base.param_groups for p in group["params"]]
        given: dict[str, Any] = {"params": params, "base": base, "progress": progress}
        chosen = self.one("ddcore_expert_optimizer", check=answers.optimizer, optional=True, **given)
        return base if chosen is None else chosen  # type: ignore[no-any-return]

    def teachers(self, purpose: str, task: Task | None, run: Run) -> list[Vote] | None:
        """Who votes; None leaves it to the core."""
        given: dict[str, Any] = {"purpose": purpose, "task": task, "run": run}
        check = partial(answers.votes, device=run.device)
        return self.one("ddcore_teachers", check=check, optional=True, **given)  # type: ignore[no-any-return]

    def adapt_teacher(self, network: nn.Module, batch: Batch, purpose: str, task: Task | None, run: Run) -> nn.Module:
        """A teacher as changed for a task."""
        given: dict[str, Any] = {"batch": batch, "purpose": purpose, "task": task, "run": run}
        return self.chain("ddcore_adapt_teacher", network, check=answers.teacher, **given)  # type: ignore[no-any-return]

    # ---- a task ----

    def tasks(self, run: Run) -> list[Task] | None:
        """Independent pieces of the distillation; None leaves it to the core."""
        return self.one("ddcore_tasks", check=answers.tasks, optional=True, run=run)  # type: ignore[no-any-return]

    def learn(self, task: Task, images: Tensor | None, run: Run) -> Learn:
        """What a task learns."""
        given: dict[str, Any] = {"task": task, "images": images, "run": run}
        return self.one("ddcore_learn", check=partial(answers.learn, device=run.device), **given)  # type: ignore[no-any-return]

    def companions(self, task: Task, learn: Learn, run: Run) -> dict[str, Companion]:
        """What goes with a task, by plugin."""
        return self.collect("ddcore_companion", check=answers.companion, task=task, learn=learn, run=run)

    def matching_loss(self, task: Task, step: int, learn: Learn, run: Run) -> Iterator[Loss]:
        """The losses of a step, as they are yielded."""
        return self.one("ddcore_matching_loss", task=task, step=step, learn=learn, run=run)  # type: ignore[no-any-return]

    def segment(
        self, segment: Segment, unroll: Unroll, network: nn.Module, task: Task, progress: Progress, run: Run
    ) -> Segment:
        """A stretch to imitate, as enhancements change it."""
        given: dict[str, Any] = {"unroll": unroll, "network": network, "task": task, "progress": progress, "run": run}
        return self.chain("ddcore_segment", segment, check=answers.segment, **given)  # type: ignore[no-any-return]

    def setting(self, name: str, value: Any, progress: Progress) -> Any:
        """A number of a stage, as enhancements change it."""
        given: dict[str, Any] = {"name": name, "progress": progress, "check": answers.setting}
        return self.chain("ddcore_setting", value, only=lambda plugin: name in plugin.settings, **given)

    def view(self, batch: Batch, phase: str, run: Run) -> Batch:
        """The synthetic batch as enhancements show it."""

        def check(answer: Any, before: Batch, who: str) -> Batch:
            return answers.batch(answer, before, who, same_rows=False)

        given: dict[str, Any] = {"phase": phase, "run": run, "check": check}
        return self.chain("ddcore_view", batch, only=lambda p: phase in p.view_phases, **given)  # type: ignore[no-any-return]

    def augment(self, phase: str, generator: GeneratorOf, **drawn_for: Any) -> Transform:
        """A drawn augmentation whose results are looked at.

        Args:
            drawn_for: ``count``, ``size``, ``shared``, ``symmetric`` and ``progress`` of the hook.
        """

        def check(answer: Any, before: Any, who: str) -> Transform:
            return _Checked(answers.transform(answer, who), who)

        given: dict[str, Any] = {"phase": phase, "generator": PerPlugin(generator), "check": check, **drawn_for}
        given["only"] = lambda plugin: phase in plugin.augment_phases
        return self.chain("ddcore_augment", Sequential(), **given)  # type: ignore[no-any-return]

    @property
    def projects(self) -> bool:
        """Whether any selected plugin bounds learned tensors."""
        return bool(self.providers("ddcore_project"))

    def project(self, after: Tensor, matcher: Any, **about: Any) -> Tensor:
        """A learned tensor as plugins put it back after its optimiser's step; the matcher's bounds last.

        Args:
            about: ``before``, ``name``, ``role``, ``task``, ``companion`` and ``run`` of the hook.
        """
        about["check"] = answers.projected
        after = self.chain("ddcore_project", after, only=lambda plugin: plugin is not matcher, **about)
        return self.chain("ddcore_project", after, only=lambda plugin: plugin is matcher, **about)  # type: ignore[no-any-return]

    def after_step(self, companions: Mapping[str, Companion], step: int, loss: float | None) -> None:
        """Companions look at what a step left, in command-line order."""
        for plugin, companion in companions.items():
            with self.noted("Companion.after_step", plugin):
                companion.after_step(step, loss)

    def finish(self, companions: Mapping[str, Companion], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a task hands on, as companions change it in command-line order."""
        for plugin, companion in companions.items():
            with self.noted("Companion.finish", plugin):
                changed = companion.finish(tensors)
            if changed is not None:
                tensors = answers.finished(changed, tensors, self.source("Companion.finish", plugin))
        return tensors

    # ---- the set ----

    def assemble(self, tasks: Sequence[Task], results: Sequence[Mapping[str, Tensor]], run: Run) -> Synthetic | None:
        """One set of the tasks' results; None leaves it to the core."""
        given: dict[str, Any] = {"tasks": tasks, "results": results, "run": run}
        return self.one("ddcore_assemble", check=answers.synthetic, optional=True, **given)  # type: ignore[no-any-return]

    def store(self, synthetic: Synthetic, run: Run) -> Synthetic:
        """The set as plugins store it."""
        return self.chain("ddcore_store", synthetic, check=answers.stored, run=run)  # type: ignore[no-any-return]

    # ---- students ----

    def adapt_student(self, network: nn.Module, seen: Seen, teachers: Teaching, run: Run) -> nn.Module:
        """A student with what plugins put around it."""
        given: dict[str, Any] = {"seen": seen, "teachers": teachers, "run": run, "check": answers.student}
        return self.chain("ddcore_adapt_student", network, **given)  # type: ignore[no-any-return]

    def student_modules(
        self, network: nn.Module, seen: Seen, teachers: Teaching, samples: Samples, run: Run
    ) -> dict[str, nn.Module]:
        """What plugins train beside a student, by plugin."""
        given: dict[str, Any] = {"network": network, "seen": seen, "teachers": teachers, "run": run, "samples": samples}
        return self.collect("ddcore_student_modules", check=answers.module, **given)

    def student_rows(self, samples: Samples, generator: GeneratorOf, **about: Any) -> Tensor:
        """(m,) int64, the rows that an epoch visits.

        Args:
            about: ``network``, ``teachers``, ``epoch``, ``progress``, ``state`` and ``run`` of the hook.
        """

        def check(answer: Any, before: Tensor, who: str) -> Tensor:
            return answers.rows_of(answer, before, who, len(samples))

        given: dict[str, Any] = {"samples": samples, "generator": PerPlugin(generator), "check": check, **about}
        return self.chain("ddcore_student_rows", torch.arange(len(samples)), **given)  # type: ignore[no-any-return]

    def student_loss(self, batch: Batch, seen: Seen, generator: GeneratorOf, **about: Any) -> list[Term]:
        """Terms that plugins add to a student's loss.

        Args:
            about: ``network``, ``progress``, ``run``, ``teachers`` and ``modules`` of the hook.
        """
        given: dict[str, Any] = {"batch": batch, "output": seen.logits, "seen": seen, **about}
        given["generator"] = PerPlugin(generator)
        return list(self.collect("ddcore_student_loss", check=answers.term, **given).values())

    def examine(self, network: nn.Module, arm: Arm, student: int, data: StudentData, found: Answers, run: Run) -> Any:
        """What plugins find in a trained student: numbers by name, by plugin."""
        given: dict[str, Any] = {"network": network, "arm": arm, "student": student, "data": data, "answers": found}
        return self.collect("ddcore_examine", check=answers.examined, **given, run=run)

    def evaluate(self, run: Run) -> dict[str, list[Row]]:
        """Rows of the finished artifact, by plugin; they are looked at when all names are known."""
        return self.collect("ddcore_evaluate", run=run)

    def log(self, event: str, fields: Mapping[str, Any], run: Run) -> Iterator[tuple[str, Exception]]:
        """Tell trackers; yields who failed, and how."""
        return self.tell("ddcore_log", event=event, fields=fields, run=run)


class _Checked:
    """A drawn transform whose results are looked at."""

    def __init__(self, transform: Transform, who: str) -> None:
        self._transform, self._who = transform, who

    def __call__(self, batch: Batch) -> Batch:
        return answers.batch(self._transform(batch), batch, self._who, same_rows=True)
