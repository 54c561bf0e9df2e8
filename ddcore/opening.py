"""A run from its ``run.json``, in another process or on another day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddcore.errors import InputError
from ddcore.holding import held
from ddcore.ownership import check_own
from ddcore.progress import Reporter
from ddcore.record import Setup, read_record, refuse_other_device, refuse_other_software
from ddcore.run import Run
from ddcore.secrecy import restore
from ddcore.storage import Place
from ddcore.train import Lesson, TrainingRun


def open_run(url: str, reporter: Reporter | None = None, *, worker: bool = False, trust: bool = False) -> Run:
    """Rebuild a run: one that distils, one that trains students, or an evaluation.

    Args:
        url: its folder.
        worker: for a task of it in another process, whose software and device have to be the run's; whose run it is, its driver asked.
        trust: take its record whoever wrote it.

    Raises:
        InputError: no run there, one that this user did not begin, or other data than it was begun with; in a worker, other software or
            another device.
        PluginError: other plugin versions.
    """
    place = Place.at(url)
    record = read_record(place)
    if not (worker or trust):
        check_own(record, place.url)
    record = restore(record)
    if worker:
        refuse_other_software(record)
    run = _of_kind(record, Setup.from_json(record), place, reporter)
    if worker:
        refuse_other_device(record, run)
    run.decoded = record["data"]["fingerprint"] if worker else None
    run.of_artifact = record.get("artifact")
    run.begun = True
    if run.source.fingerprint != record["data"]["fingerprint"]:
        raise InputError(f"the data behind {run.config.dataset!r} changed since {place.url} was begun: start a new run")
    return run


def reopen(url: str, *, trust: bool = False) -> Run:
    """A run to go on with.

    Args:
        trust: take its record whoever wrote it.

    Raises:
        InputError: there is none, this user did not begin it, or another process works on it.
    """
    run = open_run(url, Reporter(), trust=trust)
    with held(run.place):
        run.log("resume")
    return run


def _of_kind(record: Mapping[str, Any], setup: Setup, place: Place, reporter: Reporter | None) -> Run:
    if "train" not in record:
        return Run(setup, place, reporter)
    run = TrainingRun(setup, place, reporter)
    try:
        run.lesson = Lesson(**record["train"])
    except TypeError as error:
        raise InputError(f"{place.url}/run.json is damaged ({error}): begin the run again") from error
    return run
