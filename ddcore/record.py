"""``run.json``: everything that makes a run, so that it can be resumed, rebuilt in a worker, or done again."""

from __future__ import annotations

import platform
import socket
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pluggy
from attrs import field, frozen

import ddcore
from ddcore.errors import InputError, PluginError
from ddcore.hookspecs import API_VERSION
from ddcore.options import Resolved, as_json, from_json
from ddcore.plugins import Offer, load_class, load_path, manager

if TYPE_CHECKING:
    from ddcore.config import Config
    from ddcore.run import Run

SCHEMA = 1


@frozen(eq=False)
class Setup:
    """What makes a run.

    Attributes:
        resolved: configuration, option instances by group, and the source of every value.
        offers: where each selected plugin came from, by name, in command-line order.
    """

    resolved: Resolved
    offers: Mapping[str, Offer] = field(factory=dict)

    @property
    def config(self) -> Config:
        """The shared options."""
        return self.resolved.config

    @property
    def options(self) -> Mapping[str, Any]:
        """Option instances by group: plugins and the core's own groups."""
        return self.resolved.options

    @property
    def plugins(self) -> dict[str, Any]:
        """Plugin instances by name, in command-line order."""
        return {name: self.resolved.options[name] for name in self.offers}

    def manager(self) -> pluggy.PluginManager:
        """A plugin manager with the core first, then the selected plugins."""
        from ddcore.builtin import Core

        return manager(self.plugins, self.offers, core=Core())

    def described(self) -> dict[str, str]:
        """How messages name each plugin."""
        return {name: f"{name!r} ({offer.distribution} {offer.version})" for name, offer in self.offers.items()}

    def as_json(self) -> dict[str, Any]:
        """Plain values; secrets are left out."""
        return {**as_json(self.resolved), "plugins": [offer.as_json() for offer in self.offers.values()]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Setup:
        """Rebuild from ``run.json``.

        Raises:
            PluginError: a plugin is missing, or is installed in another version than the run was begun with.
            InputError: the record is damaged or from a newer ddcore.
        """
        if record.get("schema", 0) > SCHEMA:
            raise InputError(
                f"run.json has schema {record['schema']}, this ddcore reads up to {SCHEMA}: upgrade ddcore-torch"
            )
        offers: dict[str, Offer] = {}
        classes: dict[str, type] = {}
        for saved in record["plugins"]:
            name = saved["name"]
            classes[name], offers[name] = (
                load_path(saved["path"]) if saved.get("path") else load_class(saved["request"])
            )
            if (now := offers[name].identity) != (then := saved["identity"]):
                raise PluginError(
                    f"the run was begun with plugin {name!r} {then}, and {now} is here: install the one it had"
                )
        return cls(from_json(record, classes), offers)


def environment(run: Run) -> dict[str, Any]:
    """Facts of the machine and its software that a figure depends on."""
    import torch

    device = (
        torch.cuda.get_device_name(run.device)
        if run.device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": f"{run.device.type}: {device}",
        "threads": torch.get_num_threads(),
        "ddcore": ddcore.__version__,
    }


def refuse_other_software(record: Mapping[str, Any]) -> None:
    """Let no worker with another ddcore or torch work for a run: its bits would differ.

    Raises:
        InputError: naming the worker's host, what it has and what the run has.
    """
    import torch

    begun = record.get("environment", {})
    for name, here in (("ddcore", ddcore.__version__), ("torch", torch.__version__)):
        if (then := begun.get(name, here)) != here:
            raise InputError(
                f"worker {socket.gethostname()} has {name} {here}, and the run was begun with {name} {then}: install that version there"
            )


def refuse_other_device(record: Mapping[str, Any], run: Run) -> None:
    """Let no worker compute on another kind of device than the run was begun on.

    Raises:
        InputError: naming the worker's host and both kinds.
    """
    here = run.device.type
    if (then := record.get("environment", {}).get("device", here).partition(":")[0]) != here:
        raise InputError(
            f"worker {socket.gethostname()} computes on {here}, and the run was begun on {then}: give workers such a device, or begin the run with --device {here}"
        )


def write_artifact_record(run: Run, artifact: str) -> None:
    """Write ``run.json`` of an evaluation that distils nothing, so that workers can rebuild it."""
    record = {"schema": SCHEMA, "api": API_VERSION, "artifact": artifact, "seed": run.seed, **run.setup.as_json()}
    (run.place / "run.json").write_json({**record, "environment": environment(run), "data": run.source.summary()})
    run.begun = True


def write_record(run: Run, command: list[str], **more: Any) -> None:
    """Write ``run.json`` at a run's start; ``more`` says what kind of run it is, where it is none that distils."""
    record = {
        "schema": SCHEMA,
        "api": API_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "seed": run.seed,
        **run.setup.as_json(),
        "plan": run.plan.as_json(),
        "environment": environment(run),
        "data": run.source.summary(),
        **more,
    }
    (run.place / "run.json").write_json(record)
    run.begun = True
