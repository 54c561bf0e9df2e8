"""What a distilling run refuses of its data before it does any work, and what it warns of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch

from ddcore.composing.plan import warnings
from ddcore.data.source import Source, constant_classes
from ddcore.errors import InputError

if TYPE_CHECKING:
    from ddcore.runs.run import Run

OF_IMAGES = (
    "ipc",
    "bytes",
    "resize",
    "resize_mode",
    "mirror",
    "normalise",
    "init",
    "labels",
    "protocol",
    "baseline",
    "storage_dtype",
)
"""Shared options that mean nothing for other data."""


def check_data(run: Run) -> None:
    """Refuse data that the plan cannot use; warn of what the plugins assume and these data are not.

    Raises:
        InputError: a modality no plugin works on; more images a class asked for than there are; a class with none.
    """
    source, ipc = run.source, run.config.ipc
    if source.modality not in run.matcher.modality:
        raise InputError(
            f"{run.matcher_name} works on {', '.join(run.matcher.modality)}, and {run.config.dataset!r} holds {source.modality}"
        )
    if not run.of_images:
        refuse_options_of_images(run)
    counts = torch.bincount(source.train.labels, minlength=len(source.classes)).tolist()
    smallest = min(range(len(counts)), key=counts.__getitem__)
    if ipc > counts[smallest]:
        name = source.classes[smallest]
        raise InputError(
            f"--ipc {ipc} asks for more images than class {name!r} of {run.config.dataset!r} has ({counts[smallest]}): lower --ipc"
        )
    for warning in warnings_of(run):
        run.warn(warning)


def warnings_of(run: Run) -> tuple[str, ...]:
    """What a person should know about the run's plugins on its data."""
    return (*constant_warnings(run.source), *warnings(run.hooks, run.plugins, run.source.mirror_symmetric))


def constant_warnings(source: Source) -> tuple[str, ...]:
    """What a person should know of classes whose train images are all equal."""
    if not (names := constant_classes(source)):
        return ()
    few = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    which = f"class {few} are" if len(names) == 1 else f"each of the classes {few} are"
    return (f"all train images of {which} equal: look at the files",)


def refuse_options_of_images(run: Run) -> None:
    """Stop a run on other data in which something was asked for that only images have.

    Raises:
        InputError: naming the option.
    """
    defaults = attrs.fields_dict(type(run.config))
    for name in OF_IMAGES:
        if getattr(run.config, name) != defaults[name].default:
            raise InputError(
                f"--{name.replace('_', '-')} is of images, and {run.config.dataset!r} holds {run.source.modality}: leave it out "
                f"(`ddcore plugins show {run.plan.matcher}` lists what sets the size of the result and trains students)"
            )
