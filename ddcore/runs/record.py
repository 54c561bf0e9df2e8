"""``run.json``: everything that makes a run, so that it can be resumed, rebuilt in a worker, or done again."""

from __future__ import annotations

import platform
import socket
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ddcore import devices
from ddcore._version import __version__
from ddcore.api.hooks import API_VERSION
from ddcore.composing.host import Host
from ddcore.composing.options import CORE_GROUPS
from ddcore.composing.plan import Plan
from ddcore.composing.selection import OF_A_SET, Setup
from ddcore.errors import InputError
from ddcore.runs.tasks import Tasks
from ddcore.storage.documents import is_count
from ddcore.storage.known_data import WORDS, remember
from ddcore.storage.ownership import SIGNATURE, key_file, signed
from ddcore.storage.published import at_home, published_source, shortened
from ddcore.storage.secrecy import hidden, shown, withhold

if TYPE_CHECKING:
    from ddcore.storage.places import Place

SCHEMA = 1
ELSEWHERE = "evaluated_on"
"""Under which records list the data of ``--evaluate-on``."""


def read_record(place: Place) -> dict[str, Any]:
    """``run.json`` of a run's folder, as it was written, with all that ``Setup.from_json`` and ``open_run`` look for.

    Raises:
        InputError: none there, or one that is damaged or from a newer ddcore.
    """
    file = place / "run.json"
    if not file.exists():
        raise InputError(f"{place.url} holds no run.json, so it is no run: give the --out folder of `ddcore run`")
    record = file.read_json()
    if isinstance(record, dict) and is_count(record.get("schema")) and record["schema"] > SCHEMA:
        raise InputError(
            f"run.json has schema {record['schema']}, this ddcore reads up to {SCHEMA}: upgrade ddcore-torch"
        )
    if not isinstance(record, dict) or (wrong := next(filter(None, _wrongs(record)), "")):
        what = wrong if isinstance(record, dict) else "it is no table"
        raise InputError(f"{file.url} is damaged, {what}: restore a copy, or begin the run again")
    return record


OF_A_RUN = {"plugins": list, "config": dict, "options": dict, "sources": dict, "data": dict}
OF_A_PLUGIN = ("name", "identity", "request")


def _wrongs(record: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a record, an empty text for all that is right."""
    yield next((f"it has no {name}" for name, kind in OF_A_RUN.items() if not isinstance(record.get(name), kind)), "")
    plugins, options = record["plugins"], record["options"]
    named = all(isinstance(p, dict) and all(isinstance(p.get(n), str) for n in OF_A_PLUGIN) for p in plugins)
    yield "" if named else "it does not say which plugins it had"
    yield "" if all(isinstance(p.get("path", ""), str) for p in plugins) else "it has a plugin at no path"
    names = {plugin["name"] for plugin in plugins}
    fitting = names <= {*options} <= {*names, *CORE_GROUPS} and all(isinstance(o, dict) for o in options.values())
    yield "" if fitting and len(names) == len(plugins) else "its options are not those of its plugins"
    yield "" if isinstance(record["data"].get("fingerprint"), str) else "it does not say which data it had"
    yield "" if isinstance(record.get("artifact", ""), str) else "its artifact is no address"
    yield "" if isinstance(record.get("environment", {}), dict) else "its environment is no table"
    withheld = record.get("withheld", [])
    yield (
        ""
        if isinstance(withheld, list) and all(isinstance(path, str) for path in withheld)
        else "it does not say what it withholds"
    )


class Recorded(Host, Protocol):
    """A run that has a record."""

    @property
    def tasks(self) -> Tasks:
        """How its tasks are done; whether its record is written."""

    @property
    def plan(self) -> Plan:
        """Who does what."""

    @property
    def setup(self) -> Setup:
        """What makes it."""


def environment(run: Host) -> dict[str, Any]:
    """Facts of the machine and its software that a figure depends on."""
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "platform": system(),
        "device": devices.described(run.device),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "ddcore": __version__,
    }


def system() -> str:
    """The system, such as "Linux-6.1.0-x86_64-glibc2.35"; unlike ``platform.platform`` this begins no process."""
    return "-".join((platform.system(), platform.release(), platform.machine(), "".join(platform.libc_ver()))).strip(
        "-"
    )


def refuse_other_software(record: Mapping[str, Any]) -> None:
    """Let no worker with another ddcore or torch work for a run: its bits would differ.

    Raises:
        InputError: naming the worker's host, what it has and what the run has.
    """
    begun = record.get("environment", {})
    for name, here in (("ddcore", __version__), ("torch", torch.__version__)):
        if (then := begun.get(name, here)) != here:
            raise InputError(
                f"worker {socket.gethostname()} has {name} {here}, and the run was begun with {name} {then}: install that version there"
            )


def refuse_other_device(record: Mapping[str, Any], run: Host) -> None:
    """Let no worker compute on another kind of device than the run was begun on, nor on a CPU with kernels of another
    kind.

    Raises:
        InputError: naming the worker's host and both kinds.
    """
    here = run.device.type
    if (then := record.get("environment", {}).get("device", here).partition(":")[0]) != here:
        raise InputError(
            f"worker {socket.gethostname()} computes on {here}, and the run was begun on {then}: give workers such a device, or begin the run with --device {here}"
        )
    kernels = torch.backends.cpu.get_cpu_capability()
    if here == "cpu" and (then := record.get("environment", {}).get("kernels", kernels)) != kernels:
        raise InputError(
            f"worker {socket.gethostname()} computes with {kernels} kernels, and the run was begun with {then}: set ATEN_CPU_CAPABILITY to one kind everywhere (default, avx2)"
        )


def write_artifact_record(run: Recorded, artifact: str) -> None:
    """Write ``run.json`` of an evaluation that distils nothing, so that workers can rebuild it."""
    record = {"schema": SCHEMA, "api": API_VERSION, "artifact": artifact, "seed": run.seed, **run.setup.as_json()}
    record = withhold(record, "artifact")
    _write(run, {**record, "environment": environment(run), "data": run.source.summary(), **elsewhere_of(run)})


def write_record(run: Recorded, command: list[str], **more: Any) -> None:
    """Write ``run.json`` at a run's start; ``more`` says what kind of run it is, where it is none that distils."""
    record = {
        "schema": SCHEMA,
        "api": API_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [hidden(shown(word)) for word in command],
        "seed": run.seed,
        **run.setup.as_json(),
        "plan": run.plan.as_json(),
        "environment": environment(run),
        "data": run.source.summary(),
        **elsewhere_of(run),
        **more,
    }
    _write(run, withhold(record, "train"))


def scored_on(run: Host) -> dict[str, Any]:
    """What ``scores.json`` says of the data."""
    return {"dataset": published_source(run.source.summary()), **elsewhere_of(run)}


def elsewhere_of(run: Host) -> dict[str, Any]:
    """What records say of the data of ``--evaluate-on``; nothing where there are none."""
    return {ELSEWHERE: [other.as_json() for other in run.elsewhere]} if run.elsewhere else {}


def _write(run: Recorded, record: Mapping[str, Any]) -> None:
    """``run.json``, signed; and a note of where the user has these data, if the user said so."""
    source = {"data": published_source(record["data"])}
    command = {"command": [shortened(word) for word in record["command"]]} if "command" in record else {}
    written = signed({**at_home(record), **source, **command})
    if SIGNATURE not in written:
        run.warn(f"run.json is not signed, since no key can be kept at {key_file()}: to go on, give --trust")
    (run.place / "run.json").write_json(written)
    on_a_set = (record.get("train") or {}).get("artifact") is not None
    if not on_a_set and run.setup.resolved.sources["dataset"] != f"preset {OF_A_SET}":
        remember(run.cache, run.source.fingerprint, {name: getattr(run.config, name) for name in WORDS})
    run.tasks.begun = True
