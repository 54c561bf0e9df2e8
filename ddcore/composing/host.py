"""A run as the core's own stages see it: what authors have (``ddcore.api.services.Run``), the hooks themselves,
and how tasks are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ddcore.api.services import Run
from ddcore.api.types import Task
from ddcore.composing.asking import Hooks
from ddcore.data.elsewhere import Elsewhere
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
    def of_images(self) -> bool:
        """Whether the data are images."""

    @property
    def dense(self) -> bool:
        """Whether samples are rows of one shape, images among them."""

    @property
    def source(self) -> Source:
        """The real data as loaded."""

    @property
    def elsewhere(self) -> tuple[Elsewhere, ...]:
        """Test parts of other data, on which students are tested too."""

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
        """Do tasks where ``--executor`` says and return their results in the order given;
        finished ones are not redone."""
