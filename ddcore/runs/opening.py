"""A run from its ``run.json``, in another process or on another day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddcore.composing.selection import Setup
from ddcore.config import as_meant
from ddcore.data.source import decoded_key
from ddcore.errors import InputError
from ddcore.runs.opened import Whole
from ddcore.runs.record import ELSEWHERE, read_record, refuse_other_device, refuse_other_software
from ddcore.runs.run import Run
from ddcore.runs.work import named
from ddcore.storage.ownership import check_own
from ddcore.storage.places import Place
from ddcore.storage.progress import Reporter
from ddcore.storage.published import from_home
from ddcore.storage.secrecy import restore


def open_run(url: str, reporter: Reporter | None = None, *, worker: bool = False, trust: bool = False) -> Whole:
    """Rebuild a run: one that distils, one that trains students, or an evaluation.

    Args:
        url: its folder.
        worker: for a task of it in another process, whose software and device have to be the run's; whose run it is,
            its driver asked.
        trust: take its record whoever wrote it.

    Raises:
        InputError: no run there, one that this user did not begin, or other data than it was begun with; in a worker,
            other software or another device.
        PluginError: other plugin versions.
    """
    place = Place.at(url)
    record = read_record(place)
    if not (worker or trust):
        check_own(record, place.url)
    record = as_meant(from_home(restore(record)), record["data"])
    if worker:
        refuse_other_software(record)
    run: Any = _of_kind(record, Setup.from_json(record), place, reporter)
    if worker:
        refuse_other_device(record, run)
    run.decoded = decoded_key(record["data"]) if worker else None
    run.of_artifact = record.get("artifact")
    run.tasks.begun = True
    if run.source.fingerprint != record["data"]["fingerprint"]:
        raise InputError(f"the data behind {run.config.dataset!r} changed since {place.url} was begun: start a new run")
    if [other.as_json() for other in run.elsewhere] != record.get(ELSEWHERE, []):
        raise InputError(f"the data behind --evaluate-on changed since {place.url} was begun: start a new run")
    return run  # type: ignore[no-any-return]


def open_distillation(url: str, reporter: Reporter | None = None, *, trust: bool = False) -> Run:
    """Rebuild a run that distils; see ``open_run``.

    Raises:
        InputError: no run there, or one of another kind; as ``open_run``.
    """
    run = open_run(url, reporter, trust=trust)
    if not isinstance(run, Run):
        raise InputError(f"{url} holds a run that distils nothing: give the folder of a `ddcore run`")
    return run


def reopen(url: str, *, trust: bool = False) -> Whole:
    """A run to go on with.

    Args:
        trust: take its record whoever wrote it.

    Raises:
        InputError: there is none, this user did not begin it, or another process works on it.
    """
    run = open_run(url, Reporter(), trust=trust)
    with run.tasks.claiming():
        run.log("resume")
    return run


KINDS = {"train": "ddcore.commands.train:reopened"}
"""What makes a run of another kind again, by the entry of ``run.json`` that says so:
from (setup, place, reporter, entry)."""


def _of_kind(record: Mapping[str, Any], setup: Setup, place: Place, reporter: Reporter | None) -> Whole:
    for kind, maker in KINDS.items():
        if kind in record:
            try:
                return named(maker)(setup, place, reporter, record[kind])  # type: ignore[no-any-return]
            except TypeError as error:
                raise InputError(f"{place.url}/run.json is damaged ({error}): begin the run again") from error
    return Run(setup, place, reporter)
