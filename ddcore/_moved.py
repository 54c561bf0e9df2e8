"""Where modules stood up to version 0.1: importing one by its old name works, with a warning that names the new one,
until 1.0."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "ddcore.answers": "ddcore.composing.answers",
    "ddcore.artifact": "ddcore.sets.artifact",
    "ddcore.assembly": "ddcore.runs.assembly",
    "ddcore.augment": "ddcore.images.augment",
    "ddcore.baselines": "ddcore.scoring.baselines",
    "ddcore.batch_statistics": "ddcore.networks.batch_statistics",
    "ddcore.bench": "ddcore.commands.bench",
    "ddcore.budget": "ddcore.scoring.budget",
    "ddcore.builtin": "ddcore.runs.builtin",
    "ddcore.card": "ddcore.sets.card",
    "ddcore.checkpoints": "ddcore.storage.checkpoints",
    "ddcore.cifar_networks": "ddcore.networks.cifar_networks",
    "ddcore.cli_lists": "ddcore.cli.lists",
    "ddcore.compare": "ddcore.pages.compare",
    "ddcore.contract": "ddcore.kit.contract",
    "ddcore.contract.behaviour": "ddcore.kit.contract.behaviour",
    "ddcore.contract.checks": "ddcore.kit.contract.checks",
    "ddcore.contract.probe": "ddcore.kit.contract.probe",
    "ddcore.contract.public": "ddcore.kit.contract.public",
    "ddcore.contract.stage": "ddcore.kit.contract.stage",
    "ddcore.contract.tiny": "ddcore.kit.contract.tiny",
    "ddcore.copies": "ddcore.storage.copies",
    "ddcore.curvature": "ddcore.networks.curvature",
    "ddcore.decoders": "ddcore.sets.decoders",
    "ddcore.dispatch": "ddcore.composing.dispatch",
    "ddcore.distil": "ddcore.runs.distil",
    "ddcore.doctor": "ddcore.commands.doctor",
    "ddcore.documents": "ddcore.storage.documents",
    "ddcore.estimate": "ddcore.scoring.estimate",
    "ddcore.evaluate": "ddcore.scoring.evaluate",
    "ddcore.executors": "ddcore.runs.executors",
    "ddcore.experts": "ddcore.training.experts",
    "ddcore.exports": "ddcore.sets.exports",
    "ddcore.holding": "ddcore.storage.holding",
    "ddcore.hookspecs": "ddcore.api.hooks",
    "ddcore.inspection": "ddcore.composing.inspection",
    "ddcore.label_kinds": "ddcore.labels",
    "ddcore.label_kinds.encoders": "ddcore.labels.encoders",
    "ddcore.label_kinds.labels": "ddcore.labels.labels",
    "ddcore.label_kinds.losses": "ddcore.labels.losses",
    "ddcore.label_kinds.making": "ddcore.labels.making",
    "ddcore.label_kinds.per_image": "ddcore.labels.per_image",
    "ddcore.label_kinds.per_view": "ddcore.labels.per_view",
    "ddcore.label_kinds.sizes": "ddcore.labels.sizes",
    "ddcore.label_kinds.view_records": "ddcore.labels.view_records",
    "ddcore.label_rules": "ddcore.training.label_rules",
    "ddcore.leaderboard": "ddcore.pages.leaderboard",
    "ddcore.levels": "ddcore.sets.levels",
    "ddcore.loop": "ddcore.runs.loop",
    "ddcore.manifest": "ddcore.sets.manifest",
    "ddcore.matrix": "ddcore.kit.matrix",
    "ddcore.normalisation": "ddcore.data.normalisation",
    "ddcore.opening": "ddcore.runs.opening",
    "ddcore.options": "ddcore.composing.options",
    "ddcore.packed": "ddcore.sets.packed",
    "ddcore.parquet_images": "ddcore.data.parquet_images",
    "ddcore.parts": "ddcore.data.parts",
    "ddcore.parts_of_loss": "ddcore.networks.parts_of_loss",
    "ddcore.passes": "ddcore.networks.passes",
    "ddcore.patches": "ddcore.images.patches",
    "ddcore.pictures": "ddcore.images.pictures",
    "ddcore.plan": "ddcore.composing.plan",
    "ddcore.plots": "ddcore.pages.plots",
    "ddcore.plugins": "ddcore.api.plugin",
    "ddcore.precision": "ddcore.networks.precision",
    "ddcore.presets": "ddcore.composing.presets",
    "ddcore.preview": "ddcore.images.preview",
    "ddcore.printing": "ddcore.storage.printing",
    "ddcore.progress": "ddcore.storage.progress",
    "ddcore.protocols": "ddcore.training.protocols",
    "ddcore.readers": "ddcore.data.readers",
    "ddcore.recipes": "ddcore.composing.recipes",
    "ddcore.record": "ddcore.runs.record",
    "ddcore.reference": "ddcore.kit.reference",
    "ddcore.relabelling": "ddcore.commands.relabelling",
    "ddcore.report": "ddcore.pages.report",
    "ddcore.reproduce": "ddcore.commands.reproduce",
    "ddcore.run": "ddcore.runs.run",
    "ddcore.scaffold": "ddcore.kit.scaffold",
    "ddcore.scores": "ddcore.training.scores",
    "ddcore.secrecy": "ddcore.storage.secrecy",
    "ddcore.selection": "ddcore.images.selection",
    "ddcore.shaping": "ddcore.training.shaping",
    "ddcore.shared_view": "ddcore.images.shared_view",
    "ddcore.snapshots": "ddcore.runs.snapshots",
    "ddcore.sources": "ddcore.data.sources",
    "ddcore.statistics": "ddcore.images.statistics",
    "ddcore.students": "ddcore.training.students",
    "ddcore.tables": "ddcore.composing.tables",
    "ddcore.teachers": "ddcore.training.teachers",
    "ddcore.teaching": "ddcore.training.teaching",
    "ddcore.terminal": "ddcore.cli.terminal",
    "ddcore.torchvision_sets": "ddcore.data.torchvision_sets",
    "ddcore.tracking": "ddcore.pages.tracking",
    "ddcore.train": "ddcore.commands.train",
    "ddcore.trajectory": "ddcore.training.trajectory",
    "ddcore.types": "ddcore.api.types",
    "ddcore.units": "ddcore.storage.units",
    "ddcore.unpacking": "ddcore.storage.unpacking",
    "ddcore.unroll": "ddcore.networks.unroll",
    "ddcore.validation": "ddcore.scoring.validation",
    "ddcore.views": "ddcore.images.views",
    "ddcore.vision": "ddcore.networks.vision",
    "ddcore.weights": "ddcore.storage.weights",
    "ddcore.work": "ddcore.runs.work",
}


class Moved(MetaPathFinder, Loader):
    """Finds a module under its old name: the very one that the new name gives."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module, if it moved."""
        if fullname not in MOVED:
            return None
        warnings.warn(f"{fullname} is now {MOVED[fullname]}", DeprecationWarning, stacklevel=2)
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module under its new name."""
        module = import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already; it keeps the spec of its new name."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


def watch() -> None:
    """Let old names be found, once."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.insert(0, Moved())
