"""What a distilling run refuses of its data before it does any work, and what it warns of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import attrs
import torch

from ddcore.api.plugin import PACK
from ddcore.composing.plan import kinds_of, warnings
from ddcore.data.repeats import warnings_about
from ddcore.data.source import Source, constant_classes
from ddcore.errors import InputError, OptionError
from ddcore.runs.executors import EXECUTORS
from ddcore.storage.writable import unwritable
from ddcore.training.label_rules import refuse_views

if TYPE_CHECKING:
    from ddcore.data.source import Source
    from ddcore.runs.opened import Whole
    from ddcore.runs.run import Run

OF_DATA = (PACK, "executor", "tracker")
"""Roles that are not about samples."""
OF_IMAGES = ("resize", "resize_mode", "mirror")
OF_DENSE = (
    *("ipc", "bytes", *OF_IMAGES, "normalise", "init", "labels", "protocol", "storage_dtype"),
    *("rows", "baseline", "evaluate_on"),
)
"""Shared options that mean nothing for data that are not images, and not dense."""


def check_data(run: Run) -> None:
    """Refuse data that the plan cannot use.

    Raises:
        InputError: a modality that a plugin does not work on; labels of views of what has none; an empty class.
    """
    source = run.source
    for name, plugin in run.plugins.items():
        if plugin.role not in OF_DATA and not plugin.modality & kinds_of(source):
            works = f"{run.hooks.who(name)} works on {', '.join(sorted(plugin.modality))}"
            way_out = "" if name == run.plan.matcher else f": leave out --plugin {name}"
            raise InputError(f"{works}, and {run.config.dataset!r} holds {source.modality}{way_out}")
    if not source.labelled and run.matcher.of_classes:
        who, way_out = run.hooks.who(run.plan.matcher), "give labelled data, or a matcher that needs no classes"
        raise InputError(f"{who} learns from classes, and {run.config.dataset!r} has none: {way_out}")
    if not run.of_images:
        refuse_options_of_images(run)
        if run.dense:
            refuse_views(run)
    if not min(counts := class_counts(run)):
        name = source.classes[counts.index(0)]
        raise InputError(
            f"class {name!r} of {run.config.dataset!r} has no train {source.samples}: add some or drop the class"
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


def check_elsewhere(run: Whole) -> None:
    """Refuse data of ``--evaluate-on`` that students cannot be tested on, and warn of such test images that they may
    have been trained on.

    Raises:
        OptionError: a choice is made by the run's scores; InputError: see ``ddcore.data.elsewhere.matched``.
    """
    if run.config.evaluate_on and run.config.validation is not None:
        raise OptionError(
            "--evaluate-on measures on test images, and a run with --validation is to choose by: leave one of them out"
        )
    for other in run.elsewhere:
        if known := seen_of(other.source, run.source):
            run.warn(
                f"{known} test images of --evaluate-on {other.name} are among the train images of {run.source.name}"
            )


def seen_of(other: Source, source: Source) -> int:
    """How many test images of other data are train images of these, bit for bit."""
    if other.train.stored.dtype != source.train.stored.dtype:
        return 0
    there = set(source.digests["train"])
    return sum(digest in there for digest in other.digests["test"])


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


def warn_of_data(run: Run) -> None:
    """Warn of what the plugins assume and these data are not."""
    for warning in warnings_of(run):
        run.warn(warning)


def check_data_aloud(run: Run) -> None:
    """Refuse data that the plan cannot use, and warn of what else its plugins should not be given."""
    check_data(run)
    warn_of_data(run)


def warnings_of(run: Run) -> tuple[str, ...]:
    """What a person should know about the run's plugins on its data, and about the data."""
    about = (*constant_warnings(run.source), *warnings_about(run.source))
    found = (*warnings(run.hooks, run.plugins, run.source.mirror_symmetric), *about)
    return (*found, said) if (said := said_of_short_classes(run)) else found


def class_counts(run: Run) -> list[int]:
    """Train samples of each class."""
    counts: list[int] = torch.bincount(run.source.train.labels, minlength=len(run.source.classes)).tolist()
    return counts


def said_of_short_classes(run: Run) -> str:
    """A sentence on classes that have fewer train images than ``--ipc``; nothing where there are none."""
    counts, ipc, names = class_counts(run), run.config.ipc, run.source.classes
    short = sorted((count, cls) for cls, count in enumerate(counts) if count < ipc)
    if not short or not run.dense:
        return ""
    few = ", ".join(f"{str(names[cls])[:40]!r}: {count}" for count, cls in short[:5])
    more = f" and {len(short) - 5} more" if len(short) > 5 else ""
    samples = run.source.samples
    return (
        f"{len(short)} of {len(counts)} classes have fewer train {samples} than --ipc {ipc} ({few}{more}): {samples} that begin as "
        f"real ones begin with the same ones again there, and rows of real {samples} take what there is"
    )


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
    for name in OF_IMAGES if run.dense else OF_DENSE:
        if getattr(run.config, name) != defaults[name].default:
            raise InputError(
                f"--{name.replace('_', '-')} is of images, and {run.config.dataset!r} holds {run.source.modality}: leave it out "
                f"(`ddcore plugins show {run.plan.matcher}` lists what sets the size of the result and trains students)"
            )
