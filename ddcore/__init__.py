"""ddcore: dataset distillation with composable plugins. What authors and users import;
nothing here imports torch early."""

from typing import TYPE_CHECKING

from ddcore import _moved
from ddcore._later import later
from ddcore._version import __version__
from ddcore.api.hooks import hookimpl
from ddcore.api.plugin import Plugin, option

if TYPE_CHECKING:
    from ddcore.api.services import (
        Committee,
        Decoder,
        Executor,
        FinishedSet,
        Normalisation,
        Run,
        Samples,
        StudentData,
        Teaching,
        Trajectories,
    )
    from ddcore.api.types import (
        Answers,
        Arm,
        Batch,
        Companion,
        Cost,
        Learn,
        Loss,
        Progress,
        Row,
        Seen,
        Segment,
        Sequential,
        Subject,
        Synthetic,
        Task,
        Term,
        Transform,
        Unroll,
        Vote,
    )
    from ddcore.cli.app import invoke
    from ddcore.errors import DdcoreError, InputError, PluginError
    from ddcore.images.views import View
    from ddcore.sets.artifact import Artifact, load_artifact

__all__ = [
    "Answers",
    "Arm",
    "Artifact",
    "Batch",
    "Committee",
    "Companion",
    "Cost",
    "DdcoreError",
    "Decoder",
    "Executor",
    "FinishedSet",
    "InputError",
    "Learn",
    "Loss",
    "Normalisation",
    "Plugin",
    "PluginError",
    "Progress",
    "Row",
    "Run",
    "Samples",
    "Seen",
    "Segment",
    "Sequential",
    "StudentData",
    "Subject",
    "Synthetic",
    "Task",
    "Teaching",
    "Term",
    "Trajectories",
    "Transform",
    "Unroll",
    "View",
    "Vote",
    "__version__",
    "hookimpl",
    "invoke",
    "load_artifact",
    "option",
]

_moved.watch()
__getattr__ = later(
    __name__,
    {
        "api.types": (
            "Answers",
            "Arm",
            "Batch",
            "Companion",
            "Cost",
            "Learn",
            "Loss",
            "Progress",
            "Row",
            "Seen",
            "Segment",
            "Sequential",
            "Subject",
            "Synthetic",
            "Task",
            "Term",
            "Transform",
            "Unroll",
            "Vote",
        ),
        "api.services": (
            "Committee",
            "Decoder",
            "Executor",
            "FinishedSet",
            "Normalisation",
            "Run",
            "Samples",
            "StudentData",
            "Teaching",
            "Trajectories",
        ),
        "cli": ("invoke",),
        "errors": ("DdcoreError", "InputError", "PluginError"),
        "images.views": ("View",),
        "sets.artifact": ("Artifact", "load_artifact"),
    },
)
