"""From a setup to a run: check it before any work, claim its folder, write its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ddcore.api.plugin import DENSE
from ddcore.composing.asking import Hooks
from ddcore.composing.discovery import packs_among
from ddcore.composing.loading import load_source
from ddcore.composing.plan import IMAGES, TEACHERS, students_of
from ddcore.composing.selection import Setup, select, setup_from
from ddcore.data.source import Source
from ddcore.errors import InputError
from ddcore.networks.outside import weights_url
from ddcore.runs.builtin import Core
from ddcore.runs.opened import Whole
from ddcore.runs.record import write_record
from ddcore.runs.refusals import (
    check_data,
    check_elsewhere,
    check_places,
    refuse_options_of_images,
    warn_of_data,
    warn_of_machine,
)
from ddcore.runs.run import Run
from ddcore.runs.saving import bytes_allowed
from ddcore.scoring.budget import Budget, budget_of
from ddcore.scoring.estimate import estimate
from ddcore.storage.holding import MARKS
from ddcore.storage.places import Place
from ddcore.storage.progress import Reporter
from ddcore.storage.secrecy import shown
from ddcore.training.protocols import resolved_protocols
from ddcore.training.teachers import TRAINED_HERE, members_of


def within_bytes(first: Run) -> tuple[Setup, Budget]:
    """The setup of a run with the images per class that its ``--bytes`` buy."""
    if not first.of_images:
        refuse_options_of_images(first)
    budget, resolved = budget_of(first, bytes_allowed(first) or 0), first.setup.resolved
    sources = {**resolved.sources, "ipc": f"--bytes {first.config.bytes}"}
    config = attrs.evolve(resolved.config, ipc=budget.ipc)
    return attrs.evolve(first.setup, resolved=attrs.evolve(resolved, config=config, sources=sources)), budget


def open_data(name: str, plugins: Sequence[str], paths: Sequence[str], options: Mapping[str, Any]) -> Source:
    """Real data by name, asked of the core and of these plugins under their defaults.

    Raises:
        InputError: nobody knows the name.
    """
    words = [*(w for p in plugins for w in ("--plugin", p)), *(w for p in paths for w in ("--plugin-path", p))]
    setup = setup_from(select([*words, "--preset", "none"], {}), {}, {})
    return load_source(Hooks(setup.manager(Core()), setup.described()), name, options)


def begin(
    setup: Setup,
    *,
    plan_only: bool,
    command: list[str],
    reporter: Reporter | None = None,
    source: Source | None = None,
    more: Mapping[str, Any] | None = None,
) -> Run:
    """Check a run without doing anything, then claim its folder and write ``run.json``.

    Args:
        command: for the record.
        reporter: none: one that says what the run does.
        source: the data, where they are loaded already.
        more: what else the record says.

    Raises:
        InputError: the folder holds another run or other files.
    """
    budget = None
    if setup.config.bytes is not None:
        first = Run(setup, Place.at(setup.config.out or "runs"), Reporter(quiet=True))
        if source is not None:
            first.take(source)
        (setup, budget), source = within_bytes(first), first.source
    place = Place.at(setup.config.out) if setup.config.out else free_folder(setup)
    run = Run(setup, place, reporter or Reporter(quiet=plan_only))
    if source is not None:
        run.take(source)
    check_names(run)
    check_data(run)
    check_elsewhere(run)
    if not plan_only:
        check_places(run)
        claim(place)
    size = f", {run.config.ipc} {run.source.samples} per class" if run.dense else ""
    packs = packs_among(run.plugins)
    named = " + ".join(name for name in run.plugins if name not in packs)
    run.say(f"plan: {named} on {run.config.dataset}{size}, seed {run.seed}")
    for line in (*run.plan.lines(), *chosen_lines(run)):
        run.say(line)
    if budget is not None:
        run.say(f"  {budget.sentence()}")
    for line in data_lines(run.source):
        run.say(line)
    warn_of_data(run)
    if plan_only:
        return run
    warn_of_machine(run)
    with run.tasks.stoppable(), run.tasks.claiming():
        claim(place)
        run.say(estimate(run).sentence())
        write_record(run, command, **({} if budget is None else {"budget": budget.as_json()}), **(more or {}))
    return run


def check_names(run: Whole) -> None:
    """Refuse unknown executors, protocols and networks, and teachers' files that are not there, before any work.

    Raises:
        OptionError, InputError: naming the nearest known one.
    """
    run.tasks.executor()
    resolved_protocols(run)
    members = members_of(run) if TEACHERS in run.plan.needs else ()
    for name in {run.network_name, *run.config.eval_network, *(member.network for member in members)}:
        run.network(run.generator("check"), name)
    for member in members:
        named = Place.at(member.weights)
        elsewhere = member.weights == TRAINED_HERE or weights_url(member.network, member.weights)
        if not elsewhere and named.local_path() is not None and not named.exists():
            raise InputError(f"--teachers.weights: there is nothing at {named.url}: check the path or URL")


def chosen_lines(run: Run) -> list[str]:
    """The network, and the preset if there is one, with what they mean."""
    presets = sorted({source for source in run.setup.resolved.sources.values() if source.startswith("preset ")})
    why = f"auto on {run.device.type}; the papers' is convnet3" if run.of_images else f"auto for {run.source.modality}"
    auto = f" ({why})" if run.config.network == "auto" else ""
    networks = f"network {run.network_name}{auto}"
    if not run.dense:
        students = run.config.eval_network or students_of(run.matcher, run.plugins)
        networks = f"students: {', '.join(students)}"
    switch_off = [f"  {preset} (--preset none switches it off, --explain shows what it sets)" for preset in presets]
    return [f"  {networks}, {run.device.type}, {run.config.threads} threads", *switch_off]


def of_data(source: Source) -> dict[str, Any]:
    """What ``data_lines`` say, as JSON values."""
    said = source.summary() if source.modality == "images" else {}
    names = ("mirror_symmetric", "mirror", "resize_mode", "notes")
    return {"data": {name: said[name] for name in names if name in said}} if said else {}


def data_lines(source: Source) -> list[str]:
    """What was done to the data, and whether mirror images keep their class; nothing of other data than images."""
    if source.modality != "images":
        return []
    kept = "keep" if source.mirror_symmetric else "change"
    why = f" ({source.mirror})" if source.mirror else ""
    return [f"  mirror images {kept} their class{why}", *(f"  data: {note}" for note in source.notes)]


def claim(place: Any) -> None:
    """Refuse a folder that is in use."""
    if (place / "run.json").exists():
        raise InputError(
            f"{place.url} holds another run: go on with it by `ddcore resume {place.url}`, or give another --out"
        )
    if place.exists() and {*place.names()} - MARKS:
        raise InputError(
            f"{place.url} is not empty and holds no run: give --out a new folder, so that nothing is overwritten"
        )


def free_folder(setup: Setup) -> Any:
    """``runs/NAME``, numbered if it is taken."""
    config = setup.config
    data = shown(config.dataset).rstrip("/").rpartition("/")[2].replace(":", "-") or "data"
    sized = any(plugin.modality & {IMAGES, DENSE} for plugin in setup.plugins.values())
    size = f"-ipc{config.ipc}" if sized else ""
    packs = packs_among(setup.plugins)
    stem = f"{'-'.join(name for name in setup.offers if name not in packs)}-{data}{size}-seed{config.seed}"
    place, number = Place.at("runs") / stem, 1
    while (place / "run.json").exists():
        number += 1
        place = Place.at("runs") / f"{stem}-{number}"
    return place
