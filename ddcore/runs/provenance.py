"""How a set came to be, as its manifest says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddcore._version import __version__
from ddcore.composing.discovery import packs_among
from ddcore.composing.plan import recorded_order
from ddcore.storage.published import hashes

if TYPE_CHECKING:
    from ddcore.runs.run import Run


def provenance(run: Run) -> dict[str, Any]:
    """How an artifact came to be; everything in it is the same whenever the same run is done again."""
    order, packs = recorded_order(run.plugins, run.plan.matcher), packs_among(run.plugins)
    return {
        "ddcore": __version__,
        "seed": run.seed,
        "ipc": run.config.ipc,
        "steps": run.plan.steps,
        "network": _network(run),
        **in_order(run.setup.as_json(), order),
        **weights_of(run),
        "plan": run.plan.as_json(),
        "method": " + ".join([run.plan.matcher, *(n for n in order if n not in (run.plan.matcher, *packs))]),
        "papers": [run.plugins[name].paper for name in order if run.plugins[name].paper],
    }


def _network(run: Run) -> str:
    """What the method passed images through; not ``--network`` where that is out of use."""
    own = run.plugins[run.plan.matcher].student_identity(run) or {}
    return str(own.get("network") or run.network_name)


def in_order(record: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """What ``Setup.as_json`` says, with plugins, their options and the sources of those in this order."""

    def rank(key: str) -> int:
        name, dot, _ = key.partition(".")
        return order.index(name) if name in order else len(order) if dot else -1

    asked = {name.rpartition("/")[2]: name for name in record["config"]["plugins"]}
    return {
        **record,
        "config": {**record["config"], "plugins": [asked[name] for name in order if name in asked]},
        "options": {name: record["options"][name] for name in sorted(record["options"], key=lambda n: rank(f"{n}."))},
        "sources": {key: record["sources"][key] for key in sorted(record["sources"], key=rank)},
        "plugins": sorted(record["plugins"], key=lambda plugin: order.index(plugin["name"])),
    }


def weights_of(run: Run) -> dict[str, Any]:
    """SHA-256 of the files that teachers' weights were loaded from, by name; nothing where there were none."""
    teachers = run.options.get("teachers")
    found = hashes(teachers.weights) if teachers is not None else {}
    return {"weights": found} if found else {}
