"""A run as the core's own stages see it: what authors have (``ddcore.api.services.Run``), the hooks themselves, and how tasks are done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ddcore.api.services import Run, StudentData, Teaching
from ddcore.api.types import Batch, Progress, Seen, Task
from ddcore.composing.dispatch import NO_STATE, Hooks, PerPlugin
from ddcore.data.normalisation import Normalisation
from ddcore.data.source import Real, Source
from ddcore.labels import Labels
from ddcore.sets.artifact import Artifact
from ddcore.sets.decoders import Decoder


class Host(Run, Protocol):
    """What asks the hooks: a run that distils, one that trains students, or an evaluation.

    Attributes:
        artifact: the finished set of images, once there is one.
        stopping: whether SIGINT or SIGTERM came, or a worker was told so.
        of_artifact: where an evaluation found it, if no run of this folder made it.
    """

    artifact: Artifact | None
    of_artifact: str | None
    stopping: bool

    @property
    def hooks(self) -> Hooks:
        """The selected plugins' hooks."""

    @property
    def source(self) -> Source:
        """The real data as loaded."""

    @property
    def real(self) -> Real:
        """The real data, normalised, on the run's device."""

    @property
    def normalisation(self) -> Normalisation:
        """Fitted on the train split, or given by the source."""

    def decoder(self, spec: Sequence[Mapping[str, Any]]) -> Decoder:
        """How stored tensors become samples."""

    def label(self, images: Tensor, classes: Tensor) -> Labels:
        """Label any images (N, C, H, W) by the run's rule."""

    def label_kind(self, rule: str) -> str:
        """The kind of labels that a rule makes."""

    def map(self, tasks: Sequence[Task], label: str = "", unit: str = "tasks") -> list[dict[str, Tensor]]:
        """Do tasks where ``--executor`` says and return their results in the order given; finished ones are not redone."""

    @property
    def projects(self) -> bool:
        """Whether any selected plugin bounds learned tensors."""

    def project(
        self, after: Tensor, before: Tensor, name: str, role: str, task: Task, state: PerPlugin = NO_STATE
    ) -> Tensor:
        """A learned tensor as plugins put it back after its optimiser's step; the matcher's bounds last."""

    def refuse_idle_plugins(self) -> None:
        """Stop a run in which a selected plugin has not been asked anything by the end of its first step."""

    def augmenters(self, phase: str) -> list[tuple[str, Any]]:
        """The selected plugins that augment in a phase, in order: part of what shapes experts."""

    def expert_shapers(self, *hooks: str) -> list[tuple[str, Mapping[str, Any]]]:
        """The selected plugins that shape experts through one of these hooks, in order, with the options they do it by."""

    def expert_loss(self, value: Tensor, network: nn.Module, batch: Batch, clean: Batch, progress: Progress) -> Tensor:
        """An expert's loss (a mean over rows) as enhancements change it."""

    def expert_optimizer(self, base: Optimizer, progress: Progress) -> Optimizer:
        """An expert's optimiser: ``base``, or what an enhancement puts in its place."""

    def student_shapers(self) -> list[tuple[str, Any]]:
        """The selected plugins that shape how students are trained, in order."""

    def visited(self, count: int) -> int:
        """How many of ``count`` rows an epoch of a student visits, as far as plugins know beforehand."""

    def student_data(self, name: str, student: int) -> StudentData | None:
        """What the student of a number is trained on in a plugin's set; None where no selected plugin offers such a set."""

    def student_loss(
        self,
        value: Tensor,
        network: nn.Module,
        batch: Batch,
        progress: Progress,
        seen: Seen,
        teachers: Teaching,
        modules: Mapping[str, nn.Module],
        generator: Callable[[str], torch.Generator],
    ) -> Tensor:
        """The labels' own loss (a mean over rows), weighted, with the terms that plugins add."""
