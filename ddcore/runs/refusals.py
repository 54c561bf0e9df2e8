"""What a distilling run refuses of its data before it does any work, and what it warns of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import attrs
import torch

from ddcore.api.plugin import PACK
from ddcore.composing.plan import kinds_of, warnings
from ddcore.data.repeats import warnings_about
from ddcore.errors import InputError
from ddcore.runs.executors import EXECUTORS
from ddcore.storage.writable import unwritable
from ddcore.training.label_rules import refuse_views

if TYPE_CHECKING:
    from ddcore.runs.opened import Whole
    from ddcore.runs.run import Run

OF_DATA = (PACK, "executor", "tracker")
"""Roles that are not about samples."""
OF_IMAGES = ("ipc", "bytes", "resize", "normalise", "init", "labels", "protocol", "baseline", "storage_dtype")
"""Shared options that mean nothing for data that are not dense."""


def check_data(run: Run) -> None:
    """Refuse data that the plan cannot use.

    Raises:
        InputError: a modality that a plugin does not work on; labels of views of what has none; more images a class
            asked for than there are; a class with none.
    """
    source, ipc = run.source, run.config.ipc
    for name, plugin in run.plugins.items():
        if plugin.role not in OF_DATA and not plugin.modality & kinds_of(source):
            works = f"{run.hooks.who(name)} works on {', '.join(sorted(plugin.modality))}"
            way_out = "" if name == run.plan.matcher else f": leave out --plugin {name}"
            raise InputError(f"{works}, and {run.config.dataset!r} holds {source.modality}{way_out}")
    if not run.of_images:
        refuse_options_of_images(run)
        if run.dense:
            refuse_views(run)
    counts = torch.bincount(source.train.labels, minlength=len(source.classes)).tolist()
    smallest = min(range(len(counts)), key=counts.__getitem__)
    if ipc > counts[smallest]:
        name = source.classes[smallest]
        raise InputError(
            f"--ipc {ipc} asks for more {source.samples} than class {name!r} of {run.config.dataset!r} has ({counts[smallest]}): lower --ipc"
        )


def check_places(run: Whole) -> None:
    """Refuse a run folder or a cache that cannot be written to, before the work whose results they are to keep.

    Raises:
        InputError: naming the place, why, and the option that gives another.
    """
    for what, place, way_out in (
        ("the run's folder", run.place, "give --out a folder that can be written to"),
        ("the cache", run.cache, "give --cache such a folder, or set DDCORE_CACHE"),
    ):
        if why := unwritable(place):
            raise InputError(f"{what} {place.url} cannot be used, {why}: {way_out}")


def warn_of_machine(run: Whole) -> None:
    """Warn of more threads than the machine has cores."""
    if crowded := more_than_cores(run):
        run.warn(crowded)


def more_than_cores(run: Whole) -> str | None:
    """What to say where a run's tasks here want more threads than there are cores, as somebody asked for."""
    sources, config, cores = run.setup.resolved.sources, run.config, _cores()
    jobs = config.jobs if run.tasks.executor_name in EXECUTORS else 1
    if jobs * config.threads <= cores or {sources["jobs"], sources["threads"]} == {"default"}:
        return None
    few = f"--threads {max(1, cores // jobs)}" if jobs <= cores else f"--jobs {cores} --threads 1"
    return (
        f"--jobs {jobs} with --threads {config.threads} want {jobs * config.threads} cores, and this machine has {cores}: "
        f"they wait for one another; {few} fits (the number of threads changes the bits)"
    )


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warnings_of(run: Run) -> tuple[str, ...]:
    """What a person should know about the run's plugins on its data, and about the data."""
    return (*warnings(run.hooks, run.plugins, run.source.mirror_symmetric), *warnings_about(run.source))


def warn_of_data(run: Run) -> None:
    """Warn of what the plugins assume and these data are not."""
    for warning in warnings_of(run):
        run.warn(warning)


def check_data_aloud(run: Run) -> None:
    """Both."""
    check_data(run)
    warn_of_data(run)


def refuse_options_of_images(run: Run) -> None:
    """Stop a run on other data in which something was asked for that only images have.

    Raises:
        InputError: naming the option.
    """
    defaults = attrs.fields_dict(type(run.config))
    for name in ("resize",) if run.dense else OF_IMAGES:
        if getattr(run.config, name) != defaults[name].default:
            raise InputError(
                f"--{name.replace('_', '-')} is of images, and {run.config.dataset!r} holds {run.source.modality}: leave it out "
                f"(`ddcore plugins show {run.plan.matcher}` lists what sets the size of the result and trains students)"
            )
