"""``ddcore compare``: several runs on the same test images, equal protocols only in one column, accuracy against bytes.

A column is a protocol, a network, what was measured, on which images, and who shaped the students (their options,
teachers and encoders); nothing is ever compared across columns. In
each column a set is *beaten* if another one takes no more bytes and scores no less, and one of the two strictly so
(Pareto dominance); teachers are in the table but store no set, so they beat nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ddcore.composing.tables import table
from ddcore.composing.verdict import verdicts
from ddcore.errors import InputError
from ddcore.pages.html import PLOTS_MISSING, page
from ddcore.pages.plots import COLOURS, Mark, available, marks_svg
from ddcore.pages.report import OWN, Finished, command_text, metric_of, open_finished, options_of
from ddcore.storage.places import Place
from ddcore.storage.published import published_source, told
from ddcore.storage.secrecy import redact

NO_SET = ("teacher",)
INCIDENTAL = ("out", "cache", "jobs", "executor")
"""Options that say where and how, not what."""
MACHINE = ("ddcore", "torch", "device", "threads")
COLUMN = ("protocol", "network", "metric", "on", "student", "better")
Column = tuple[str, str, str, str, str, str]
LARGER = "larger"


def beaten(costs: Sequence[float], gains: Sequence[float]) -> list[bool]:
    """Which points another one dominates: it costs no more and gains no less, and is strictly better in one.

    Equal points do not beat each other.

    >>> beaten([1, 2, 2, 3], [0.5, 0.4, 0.6, 0.6])
    [False, True, False, True]
    """
    points = list(zip(costs, gains, strict=True))
    return [any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points) for cost, gain in points]


def open_runs(urls: Sequence[str]) -> list[Finished]:
    """Open the runs and see that they can be compared.

    Raises:
        InputError: fewer than two, one twice, an unfinished one, or some that were tested on other images.
    """
    if len(urls) < 2:
        raise InputError("a comparison needs two runs or more: add a RUN, or look at one with `ddcore report RUN`")
    places = [Place.at(url) for url in urls]
    addresses = [place.url.rstrip("/") for place in places]
    for address in addresses:
        if addresses.count(address) > 1:
            raise InputError(f"{address} is named twice: name each run once")
    runs = [open_finished(place) for place in places]
    for run in runs[1:]:
        if run.record["data"]["fingerprint"] != runs[0].record["data"]["fingerprint"]:
            raise InputError(
                f"{runs[0].place.url} and {run.place.url} were tested on other images ({_data(runs[0])} and {_data(run)}): "
                "compare runs on the same data, sizes and splits"
            )
    return runs


def _data(run: Finished) -> str:
    data = run.record["data"]
    shape = "x".join(map(str, data.get("shape", [])))
    return f"{data['name']} {shape}, {data.get('test', '?')} to test on, fingerprint {str(data['fingerprint'])[:8]}"


def compare(urls: Sequence[str]) -> dict[str, Any]:
    """The comparison as plain values: runs, columns, entries with a cell in each column that they have, and what
    differs.

    Raises:
        InputError: see ``open_runs``.
    """
    runs = open_runs(urls)
    names = names_of(runs)
    columns = list(dict.fromkeys(column_of(run, row) for run in runs for row in run.rows))
    entries = entries_of(runs, names, columns)
    for number in range(len(columns)):
        _mark_beaten([entry["cells"][number] for entry in entries if entry["set"] not in NO_SET], columns[number][-1])
    return {
        "data": published_source(
            {k: runs[0].record["data"].get(k) for k in ("name", "origin", "licence", "test", "fingerprint")}
        ),
        "runs": [
            {
                "name": name,
                "url": run.place.url,
                "title": run.title,
                "method": run.method,
                "seed": run.record["seed"],
                "command": command_text(run.record),
                "warnings": [told(str(text)) for text in run.scores.get("warnings", [])],
            }
            for name, run in zip(names, runs, strict=True)
        ],
        "columns": [dict(zip(COLUMN, column, strict=True)) for column in columns],
        "entries": entries,
        "differences": differences(runs, names),
        "verdicts": verdicts_on(runs, names),
        "notes": notes_on(runs, columns),
    }


def names_of(runs: Sequence[Finished]) -> list[str]:
    """Folder names, or whole addresses where two folders are named alike."""
    names = [run.place.name for run in runs]
    return [name if names.count(name) == 1 else run.place.url for name, run in zip(names, runs, strict=True)]


def column_of(run: Finished, row: Mapping[str, Any]) -> Column:
    """What must be equal for two figures to be set side by side."""
    share = run.record["config"].get("validation")
    on = str(row.get("on") or (f"validation, {share:g} of the train images" if share else "test"))
    student, better = str(row.get("student", "")), str(row.get("better", LARGER))
    return str(row["protocol"]), str(row["network"]), metric_of(row), on, student, better


def entries_of(runs: Sequence[Finished], names: Sequence[str], columns: Sequence[Column]) -> list[dict[str, Any]]:
    """A line for each run, set and kind of labels; what stands beside two runs and scores the same, value by value,
    is one."""
    every: list[dict[str, Any]] = []
    for name, run in zip(names, runs, strict=True):
        for entry in _entries_of_run(run, name, columns):
            known = None if entry["own"] else next((e for e in every if _same(e, entry)), None)
            if known is None:
                every.append(entry)
                continue
            known["runs"].append(name)
            known["cells"] = [a or b for a, b in zip(known["cells"], entry["cells"], strict=True)]
    return sorted(every, key=lambda entry: not entry["own"])


def _entries_of_run(run: Finished, name: str, columns: Sequence[Column]) -> list[dict[str, Any]]:
    entries: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in run.rows:
        key = row["set"], row["labels"], int(row["bytes"]["total"])
        about = {"runs": [name], **dict(zip(("set", "labels", "bytes"), key, strict=True)), "ipc": row["ipc"]}
        entry = entries.setdefault(key, {**about, "own": row["set"] in OWN, "cells": [None] * len(columns)})
        score = {k: row["accuracy"][k] for k in ("mean", "std", "values")}
        entry["cells"][columns.index(column_of(run, row))] = {**score, "bytes": key[2], "beaten": False}
    return list(entries.values())


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    both = [(a, b) for a, b in zip(one["cells"], other["cells"], strict=True) if a and b]
    same = all(one[k] == other[k] for k in ("own", "set", "labels", "bytes"))
    return same and bool(both) and all(a["values"] == b["values"] for a, b in both)


def _mark_beaten(cells: Sequence[dict[str, Any] | None], better: str) -> None:
    there = [cell for cell in cells if cell is not None]
    gains = [cell["mean"] if better == LARGER else -cell["mean"] for cell in there]
    for cell, is_beaten in zip(there, beaten([c["bytes"] for c in there], gains), strict=True):
        cell["beaten"] = is_beaten


def differences(runs: Sequence[Finished], names: Sequence[str]) -> list[dict[str, Any]]:
    """Options and facts of the machine in which the runs differ, with the values of those runs that have them."""
    facts = [_facts(run) for run in runs]
    found = []
    for fact in dict.fromkeys(name for of_run in facts for name in of_run):
        values = {name: of_run[fact] for name, of_run in zip(names, facts, strict=True) if fact in of_run}
        first = next(iter(values.values()))
        if len(values) < len(runs) or any(value != first for value in values.values()):
            found.append({"name": fact, "values": values})
    return found


def _facts(run: Finished) -> dict[str, Any]:
    options = [option for group in options_of(run.record).values() for option in group]
    said = {name: value for name, value, _ in options if name not in INCIDENTAL}
    return {**said, **{name: run.record["environment"].get(name) for name in MACHINE}}


def verdicts_on(runs: Sequence[Finished], names: Sequence[str]) -> list[str]:
    """What each run's sets beat and what not, the other runs' sets among it."""
    own = [(name, row) for name, run in zip(names, runs, strict=True) for row in run.rows if row["set"] in OWN]
    found = []
    for name, run in zip(names, runs, strict=True):
        others = [(f"{row['set']} ({row['labels']}) of {of}", row) for of, row in own if of != name]
        found += [f"{name}: {said}" for said in verdicts(run.rows, others)]
    return found


def notes_on(runs: Sequence[Finished], columns: Sequence[Column]) -> list[str]:
    """What a reader must know before comparing."""
    notes = []
    if not any(all(any(column_of(run, row) == c for row in run.rows) for run in runs) for c in columns):
        notes.append(
            "no protocol and network is common to all runs: figures in different columns say nothing about each other; "
            "evaluate all sets by one --protocol and --eval-network"
        )
    if len(students := dict.fromkeys(column[COLUMN.index("student")] for column in columns)) > 1:
        named = ", ".join(name or "no plugin" for name in students)
        notes.append(f"students were shaped by {named}: one trained otherwise is no measure of the set")
    counts = {len(row["accuracy"].get("values", ())) for run in runs for row in run.rows if row["set"] in OWN}
    if counts == {1}:
        notes.append("one seed each: differences of this size may be chance; --eval-seeds 5 says more")
    return notes


# ---- for people ------------------------------------------------------------------------------------------------------


def heading_of(column: Mapping[str, str]) -> str:
    """A column in a line.

    >>> heading_of({"protocol": "dsa", "network": "convnet3", "metric": "accuracy", "on": "test"})
    'convnet3, protocol dsa'
    """
    metric = "" if column["metric"] == "accuracy" else f"{column['metric']}: "
    on = "" if column["on"] == "test" else f", on {column['on']}"
    by = f", students of {column['student']}" if column.get("student") else ""
    return f"{metric}{column['network']}, protocol {column['protocol']}{by}{on}"


def comparison_text(comparison: Mapping[str, Any]) -> str:
    """The table for a terminal; a star marks what no set of its column beats at its bytes."""
    headings = ["run", "set", "labels", "bytes", *map(heading_of, comparison["columns"])]
    lines = [
        [" = ".join(e["runs"]), e["set"], e["labels"], f"{e['bytes']:,}", *(_cell(cell, e) for cell in e["cells"])]
        for e in comparison["entries"]
    ]
    foot = "*: no set of the column is as small and as good, one of them better"
    said = [*comparison["verdicts"], *(f"note: {note}" for note in comparison["notes"])]
    return "\n".join([table(headings, lines), foot, *said])


def _cell(cell: Mapping[str, Any] | None, entry: Mapping[str, Any]) -> str:
    if cell is None:
        return "-"
    star = "" if cell["beaten"] or entry["set"] in NO_SET else " *"
    return f"{cell['mean']:.3f} ± {cell['std']:.3f}{star}"


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """The page as text; every value from data is escaped."""
    return page(
        "compare.html.j2",
        title=f"{len(comparison['runs'])} runs on {comparison['data']['name']}",
        no_set=NO_SET,
        headings=[heading_of(column) for column in comparison["columns"]],
        plots=plots_of(comparison) if available() else [],
        plots_missing="" if available() else PLOTS_MISSING,
        **comparison,
    )


def plots_of(comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What each plot is of, and the plot; of columns that have a stored set."""
    drawn = [(heading_of(c), pareto_plot(comparison, n)) for n, c in enumerate(comparison["columns"])]
    return [(heading, svg) for heading, svg in drawn if svg]


def pareto_plot(comparison: Mapping[str, Any], number: int) -> str:
    """Accuracy against bytes in one column: runs in colours, sets beside them hollow, beaten ones dim."""
    colours = {run["name"]: n for n, run in enumerate(comparison["runs"])}
    beside = list(dict.fromkeys(entry["set"] for entry in comparison["entries"] if not entry["own"]))
    marks = []
    for entry in comparison["entries"]:
        cell = entry["cells"][number]
        if cell is None or entry["set"] in NO_SET or entry["bytes"] < 1:
            continue
        name = entry["runs"][0] if entry["own"] else entry["set"]
        marks.append(
            Mark(
                name=f"{name} ({entry['labels']})",
                across=entry["bytes"],
                up=cell["mean"],
                spread=cell["std"],
                colour=colours[entry["runs"][0]] if entry["own"] else -1,
                dim=cell["beaten"],
                shape=colours[entry["runs"][0]] // COLOURS if entry["own"] else 1 + beside.index(entry["set"]),
            )
        )
    if not marks:
        return ""
    front = sorted({(mark.across, mark.up) for mark in marks if not mark.dim})
    column = comparison["columns"][number]
    return marks_svg(marks, front, "bytes of the set", column["metric"], f"Bytes and {heading_of(column)}")


def write_comparison(comparison: Mapping[str, Any], out: str) -> str:
    """Write the page; returns its URL."""
    place = Place.at(out)
    place.write_bytes(render_comparison(comparison).encode())
    return redact(place.url)
