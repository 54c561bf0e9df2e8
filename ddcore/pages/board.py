"""The board: published figures beside what was measured here, from cells and records alone; no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ddcore.composing.cells import Cell
from ddcore.composing.tables import table
from ddcore.errors import InputError
from ddcore.storage.documents import is_count
from ddcore.storage.places import Place

SCHEMA = 1
IN_A_CHECKOUT = "examples/benchmarks/results"
"""Where ddcore's repository keeps what it measured, records in ``cells`` of it."""
REACHED, ABOVE, BELOW, OPEN = "reached", "above", "below", "open"
POINTS = 1.0
"""A figure is reached within one published deviation, or within so many points of a hundredth."""
NEEDED: dict[str, Any] = {
    "cell": str,
    "owner": str,
    "published": dict,
    "ours": dict,
    "distance": dict,
    "differs": list,
    "reason": str,
}
NEEDED |= {"data": dict, "machine": dict, "seconds": int | float, "ddcore": str, "command": str, "does": str}


def records_folder(asked: str | None) -> Place:
    """Where records are: ``--records``; else that of the working directory, if it is ddcore's repository; else the
    user's data folder."""
    if asked:
        return Place.at(asked)
    if os.path.isdir(IN_A_CHECKOUT):
        return Place.at(IN_A_CHECKOUT) / "cells"
    home = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return Place.at(os.path.join(home, "ddcore", "cells"))


def records_in(folder: Place, cells: Iterable[Cell]) -> dict[str, dict[str, Any]]:
    """The records of cells, by name.

    Raises:
        InputError: one is no record, or from a newer ddcore.
    """
    there = {*folder.names()} if folder.exists() else set()
    return {cell.name: _record(folder / f"{cell.name}.json", cell) for cell in cells if f"{cell.name}.json" in there}


def _record(place: Place, cell: Cell) -> dict[str, Any]:
    found = place.read_json()
    if isinstance(found, dict) and is_count(found.get("schema")) and found["schema"] > SCHEMA:
        raise InputError(f"{place.url} has schema {found['schema']}, this ddcore reads up to {SCHEMA}: upgrade it")
    right = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in NEEDED.items())
    right = right and found["cell"] == cell.name and all(isinstance(text, str) for text in found["differs"])
    for key, names in {"published": ("mean",), "ours": ("mean", "std", "seed"), "distance": ("points",)}.items():
        right = right and all(isinstance(found[key].get(name), int | float) for name in names)
    values = found["ours"].get("values") if right else None
    if not isinstance(values, list) or not values or not all(isinstance(value, int | float) for value in values):
        raise InputError(f"{place.url} is no record of cell {cell.name}: remove it, or verify the cell again")
    return dict(found)


def verdict(record: Mapping[str, Any] | None) -> str:
    """Whether a figure is reached: within one published deviation, or within a point.

    >>> verdict(None), verdict({"distance": {"points": -1.5}, "published": {"mean": 0.5, "std": 0.02}})
    ('open', 'reached')
    >>> verdict({"distance": {"points": -1.5}, "published": {"mean": 0.5}})
    'below'
    """
    if record is None:
        return OPEN
    points = record["distance"]["points"]
    if abs(points) <= max(POINTS, 100 * record["published"].get("std", 0)):
        return REACHED
    return ABOVE if points > 0 else BELOW


def distance(mean: float, published: Mapping[str, float]) -> dict[str, float]:
    """How far a mean is from a published figure: in points of a hundredth and, where there is one, in its deviations.

    >>> distance(0.134, {"mean": 0.144, "std": 0.02})
    {'points': -1.0, 'deviations': -0.5}
    """
    points, deviation = 100 * (mean - published["mean"]), published.get("std")
    return {"points": round(points, 2)} | ({"deviations": round(points / (100 * deviation), 2)} if deviation else {})


def entries(cells: Sequence[Cell], records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The board as JSON values: a cell each, with its record if there is one; distances are from the cell's figure."""
    found = {
        cell.name: {
            **record,
            "published": dict(cell.published),
            "distance": distance(record["ours"]["mean"], cell.published),
        }
        for cell in cells
        if (record := records.get(cell.name)) is not None
    }
    return [
        {
            "cell": cell.name,
            "owner": cell.owner,
            "what": cell.what,
            "paper": cell.paper,
            "table": cell.table,
            "setting": cell.setting,
            "students": cell.students,
            "published": dict(cell.published),
            "read": cell.read,
            "unverified": cell.unverified,
            "metric": cell.metric,
            "command": f"ddcore {cell.command}",
            "set_of": cell.set_of,
            "data": cell.data_text,
            "outcome": verdict(found.get(cell.name)),
            "differs": list(found.get(cell.name, {}).get("differs", cell.differs)),
            "reason": str(found.get(cell.name, {}).get("reason") or cell.reason),
            "record": found.get(cell.name),
        }
        for cell in cells
    ]


def figure(mean: float, std: float | None) -> str:
    """A figure in points of a hundredth.

    >>> figure(0.144, 0.02), figure(0.0912, None)
    ('14.4 ± 2.0', '9.1')
    """
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def columns(entry: Mapping[str, Any]) -> list[str]:
    """What a line of the board says after the cell's name and what it is."""
    published, record = entry["published"], entry["record"]
    shown = figure(published["mean"], published.get("std")) + (" (unverified)" if entry["unverified"] else "")
    if record is None:
        return [shown, "", "", "", entry["outcome"], "", "; ".join(entry["differs"])]
    ours, distance = record["ours"], record["distance"]
    far = f"{distance['points']:+.1f}"
    far += f" ({distance['deviations']:+.1f} dev.)" if "deviations" in distance else ""
    same = "; ".join(entry["differs"]) or "same"
    mean = figure(ours["mean"], ours["std"] if len(ours["values"]) > 1 else None)
    return [shown, mean, far, str(len(ours["values"])), entry["outcome"], f"{record['seconds'] / 3600:.2f}", same]


HEADINGS = ("cell", "published", "ours", "points", "students", "outcome", "hours", "setting")


def board_text(board: Sequence[Mapping[str, Any]]) -> str:
    """One cell a line, and the machines below."""
    lines = [table(HEADINGS, [[entry["cell"], *columns(entry)] for entry in board]), summary(board)]
    missed = [f"{e['cell']}: {e['reason']}" for e in board if e["reason"] and e["outcome"] != REACHED]
    return "\n".join([*lines, *missed, *(f"measured on {name}" for name in machines(board))])


def summary(board: Sequence[Mapping[str, Any]]) -> str:
    """How many are reached, in a sentence."""
    done = [entry for entry in board if entry["record"] is not None]
    reached = sum(entry["outcome"] == REACHED for entry in done)
    return f"{len(done)} of {len(board)} cells are on record, {reached} of them reached: within one published deviation, or one point."


def machines(board: Sequence[Mapping[str, Any]]) -> list[str]:
    """What records were made on, each once."""
    return list(dict.fromkeys(machine_text(e["record"]["machine"]) for e in board if e["record"] is not None))


def machine_text(machine: Mapping[str, Any]) -> str:
    """A machine in words."""
    device = str(machine.get("device", ""))
    where = f"{device.partition(': ')[2]}, " if device.startswith("cuda") else ""
    threads = machine.get("threads")
    return f"{where}{machine.get('processor')}, {machine.get('cores')} cores, {threads} threads, torch {machine.get('torch')}"


# ---- the page --------------------------------------------------------------------------------------------------------


def page(board: Sequence[Mapping[str, Any]]) -> str:
    """The board as Markdown."""
    head = ["cell", "what", *HEADINGS[1:]]
    rows = [[f"[{e['cell']}](#{_anchor(e['cell'])})", e["what"], *columns(e)] for e in board]
    lines = [
        "# Published figures, made anew",
        "",
        "Written by `ddcore verify --page docs/board.md`: a cell is one figure of a paper's table, ours is what the command below",
        "it gave here. Figures are percent, ± the deviation over students; `points` is ours less the published one, in percent",
        "and in published deviations. A cell that misses stays, with the reason where it is known.",
        "",
        summary(board),
        "",
        _line(head),
        _line(["---"] * len(head)),
        *(_line([row[0], *map(_safe, row[1:])]) for row in rows),
    ]
    for entry in board:
        lines += ["", *_section(entry)]
    return "\n".join(lines) + "\n"


def _section(entry: Mapping[str, Any]) -> list[str]:
    record = entry["record"] or {}
    students = f"; {entry['students']}" if entry["students"] else ""
    memory = " (unverified)" if entry["unverified"] else ""
    facts = {
        "paper": f"{entry['paper']}; {entry['table']}",
        "setting": f"{entry['data']}; {entry['setting']}{students}",
        "published figure read in": f"{entry['read']}{memory}",
        "of the set of": entry["set_of"],
        "differs": "; ".join(entry["differs"]),
        "reason": entry["reason"],
        "values": ", ".join(f"{100 * value:.2f}" for value in record["ours"]["values"]) if record else "",
        "data": f"{record['data'].get('said')}, {str(record['data'].get('fingerprint'))[:12]}" if record else "",
        "machine": f"{machine_text(record['machine'])}; {record['seconds']:,.0f} s; ddcore {record['ddcore']}"
        if record
        else "",
    }
    said = [f"- {name}: {_safe(text)}" for name, text in facts.items() if text]
    command = record.get("does") or entry["command"]
    return [f"### {entry['cell']}", "", _safe(entry["what"]), "", *said, f"- command: `{_code(command)}`"]


def _anchor(name: str) -> str:
    return name.replace(".", "")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _safe(text: str) -> str:
    """Words of strangers, within a line of Markdown: nothing in them is a mark of it."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


def _code(text: str) -> str:
    return " ".join(str(text).replace("`", "'").replace("|", "¦").split())
