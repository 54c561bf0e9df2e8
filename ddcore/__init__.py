"""ddcore: dataset distillation with composable plugins. What authors and users import; nothing here imports torch early."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ddcore import _moved
from ddcore._version import __version__
from ddcore.api.hooks import hookimpl
from ddcore.api.plugin import Plugin, option

if TYPE_CHECKING:
    from ddcore.api.types import (
        Batch,
        Cost,
        Learn,
        Loss,
        Progress,
        Row,
        Segment,
        Sequential,
        Synthetic,
        Task,
        Term,
        Transform,
        Vote,
    )
    from ddcore.cli.app import invoke
    from ddcore.errors import DdcoreError, InputError, PluginError
    from ddcore.sets.artifact import Artifact, load_artifact


_LATER = {
    **dict.fromkeys(("Artifact", "load_artifact"), "ddcore.sets.artifact"),
    "invoke": "ddcore.cli",
    **dict.fromkeys(("DdcoreError", "InputError", "PluginError"), "ddcore.errors"),
    **dict.fromkeys(
        (
            "Batch",
            "Cost",
            "Learn",
            "Loss",
            "Progress",
            "Row",
            "Segment",
            "Sequential",
            "Synthetic",
            "Task",
            "Term",
            "Transform",
            "Vote",
        ),
        "ddcore.api.types",
    ),
}

__all__ = [
    "__version__",
    "Artifact",
    "Batch",
    "Cost",
    "DdcoreError",
    "InputError",
    "Learn",
    "Loss",
    "Plugin",
    "PluginError",
    "Progress",
    "Row",
    "Segment",
    "Sequential",
    "Synthetic",
    "Task",
    "Term",
    "Transform",
    "Vote",
    "hookimpl",
    "invoke",
    "load_artifact",
    "option",
]


_moved.watch()


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'ddcore' has no attribute {name!r}")
