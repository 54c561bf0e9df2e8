"""The core's own answers to the hooks, registered as plugin ``core``: built-in pieces use what third parties use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from ddcore.api.hooks import hookimpl
from ddcore.composing.recipes import RULES
from ddcore.data.sources import knows, open_source
from ddcore.errors import InputError
from ddcore.labels import HardLabels
from ddcore.networks.zoo import build
from ddcore.networks.zoo import knows as knows_network
from ddcore.runs.executors import EXECUTORS
from ddcore.scoring.baselines import kcenter_index
from ddcore.scoring.evaluate import evaluate_artifact
from ddcore.training.label_rules import label
from ddcore.training.protocols import PROTOCOLS

if TYPE_CHECKING:
    from ddcore.api.services import Executor
    from ddcore.api.types import Row, Task
    from ddcore.composing.host import Host as Run
    from ddcore.data.source import Source
    from ddcore.labels import Labels
    from ddcore.training.protocols import Protocol


class Core:
    """Data sources, networks, executors, initialisers, labels, protocols and the honest rows."""

    @hookimpl
    def ddcore_data(self, name: str, rest: str, options: Mapping[str, Any]) -> Source | None:
        """``digits``, ``parquet:``, ``folder:``, ``idx:``, ``npz:``, ``hf:`` and torchvision's names."""
        return open_source(f"{name}:{rest}" if rest else name, **options) if knows(name) else None

    @hookimpl
    def ddcore_network(
        self, name: str, channels: int, size: int, classes: int, generator: Generator, shape: tuple[int, ...]
    ) -> nn.Module | None:
        """The field's zoo, networks of torchvision, timm and torch's hub, of images; ``mlp`` of rows of any shape."""
        if len(shape) == 3 and shape[1] == shape[2]:
            return build(name, channels, size, classes, generator)
        if knows_network(name) and name != "mlp":
            raise InputError(
                f"network {name!r} is of square images, and samples here are {shape}: give --network mlp or a plugin's"
            )
        return build(name, math.prod(shape), 1, classes, generator)

    @hookimpl
    def ddcore_executor(self, name: str) -> Executor | None:
        """``here`` and ``processes``."""
        return EXECUTORS[name]() if name in EXECUTORS else None

    @hookimpl
    def ddcore_initialize(
        self, name: str, classes: Tensor, task: Task, generator: Generator, run: Run
    ) -> Tensor | None:
        """``real``: random real images; ``noise``: normal noise; ``kcenter``: see ``kcenter_index``."""
        if name == "real":
            return for_each_class(classes, lambda c, n: run.real.sample(c, n, generator))
        if name == "noise":
            return torch.randn((len(classes), *run.source.shape), generator=generator)
        if name == "kcenter":
            return run.real.train.inputs(kcenter_index(run, classes))
        return None

    @hookimpl
    def ddcore_label(self, name: str, images: Tensor, classes: Tensor, run: Run) -> Labels | None:
        """``hard``: the class; the rules that ask the run's teachers."""
        if name in RULES:
            return label(name, images, classes, run)
        return HardLabels(classes.cpu(), len(run.real.classes)) if name == "hard" else None

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The recipes named after what they do."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_evaluate(self, run: Run) -> list[Row]:
        """Distilled, random, k-center, random at equal bytes, full; of images and other dense samples only."""
        if run.dense and not run.source.labelled:
            run.say(
                f"no row is scored, as these data have no classes: ddcore evaluate {run.place.url}/artifact --dataset LABELLED"
            )
            return []
        return evaluate_artifact(run) if run.dense else []


def for_each_class(classes: Tensor, images_of: Any) -> Tensor:
    """Images (N, C, H, W) in the order of ``classes``, made class by class by ``images_of(class, count)``."""
    made: dict[int, list[Tensor]] = {
        c: list(images_of(c, int((classes == c).sum())).cpu()) for c in sorted(set(classes.tolist()))
    }
    return torch.stack([made[c].pop(0) for c in classes.tolist()])
