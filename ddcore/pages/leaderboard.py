"""What a bench came to: a row a method, a column for each data set, images a class, protocol, network, shapers of
students and test part; a cell links to its record.

Only equal protocols, networks and shapers of students stand in one column, and only students of one test part
(``--evaluate-on``). Real images under hard labels stand among the methods, as the runs trained on them, and so do the
other rows that a suite names, each beside the method whose run it is of. Accuracies are means over seeds of the mean of
a run's students, ± the standard deviation over seeds (n - 1). Students on all real images are the same whatever a run's
seed: there the deviation is over students.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Protocol

from ddcore.composing.tables import TEST, table
from ddcore.storage.places import Place
from ddcore.storage.published import published

RUNS, FAILED, RECORDS = "runs", "failed", "records"
DISTILLED, FULL = "distilled", "full"
BASELINES = {"random": "random real images", "kcenter": "k-center", FULL: "all real images"}
COLUMN = ("data", "ipc", "protocol", "network", "student", "on")
Column = tuple[str, int, str, str, str, str]


class Cell(Protocol):
    """One run of a suite: of which method, on which data, with how many images a class and which seed."""

    @property
    def method(self) -> str: ...

    @property
    def data(self) -> str: ...

    @property
    def ipc(self) -> int: ...

    @property
    def seed(self) -> int: ...

    @property
    def place(self) -> str:
        """Whose seeds belong together, as the name of a file."""

    @property
    def key(self) -> str:
        """The run's folder."""

    @property
    def rows(self) -> tuple[str, ...]:
        """The sets that its options name."""


def finished(place: Place, key: str) -> bool:
    """Whether a run is done."""
    return (place / RUNS / key / "report.html").exists()


def board(name: str, cells: Sequence[Cell], place: Place) -> dict[str, Any]:
    """The leaderboard, as JSON values.

    Returns:
        ``columns`` (data, ipc, protocol, network, student, on); ``rows``, methods and real images, best mean rank first
        and all real images last: ``name``, ``rank`` (mean over the columns, of methods and of as many real images),
        ``cells`` by column number, each with ``mean``, ``std`` and ``values`` (accuracy of each seed, or of each
        student where seeds share them), ``seeds``, ``bytes``, ``best``, ``runs`` and ``record``; ``failed``, sentences
        by run; ``left``, runs that are neither done nor failed.
    """
    scores = {cell.key: _scores(place, cell.key) for cell in cells if finished(place, cell.key)}
    entries: dict[str, dict[Column, list[tuple[Cell, Mapping[str, Any]]]]] = {}
    for cell in cells:
        for who, column, row in _rows_of(cell, scores.get(cell.key, [])):
            known = entries.setdefault(who, {}).setdefault(column, [])
            if cell.seed not in [other.seed for other, _ in known]:
                known.append((cell, row))
    columns = list(dict.fromkeys(column for by_column in entries.values() for column in by_column))
    rows = [
        {"name": who, "cells": {str(columns.index(column)): _cell(found) for column, found in by_column.items()}}
        for who, by_column in entries.items()
    ]
    _rank(rows, len(columns))
    failed = {cell.key: _failure(place, cell.key) for cell in cells if (place / FAILED / f"{cell.key}.json").exists()}
    return {
        "name": name,
        "columns": [dict(zip(COLUMN, column, strict=True)) for column in columns],
        "rows": sorted(rows, key=lambda row: (row["name"].startswith(BASELINES[FULL]), row["rank"])),
        "failed": failed,
        "left": [cell.key for cell in cells if cell.key not in scores and cell.key not in failed],
        "records": {cell.place: [c.key for c in cells if c.place == cell.place and c.key in scores] for cell in cells},
    }


def _rows_of(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Column, Mapping[str, Any]]]:
    """Whose row each is: the set with its own labels, others under hard ones where there are such, once a column."""
    found: dict[tuple[str, Column], Mapping[str, Any]] = {}
    of_hard = {row["set"] for row in rows if row["labels"] == "hard"}
    for row in rows:
        where = str(row.get("on") or TEST)
        column = (cell.data, cell.ipc, str(row["protocol"]), str(row["network"]), str(row.get("student", "")), where)
        if row["set"] == DISTILLED:
            found.setdefault((cell.method, column), row)
        elif row["set"] in BASELINES and row["labels"] == "hard":
            found.setdefault((f"{BASELINES[row['set']]}, {row['steps']} steps", column), row)
        elif row["set"] in cell.rows and (row["labels"] == "hard" or row["set"] not in of_hard):
            found.setdefault((f"{row['set']}, beside {cell.method}", column), row)
    return [(who, column, row) for (who, column), row in found.items()]


def _cell(found: Sequence[tuple[Cell, Mapping[str, Any]]]) -> dict[str, Any]:
    values = [float(row["accuracy"]["mean"]) for _, row in found]
    students = [row["accuracy"].get("values") for _, row in found]
    if found[0][1]["set"] == FULL and students[0] and all(each == students[0] for each in students):
        values = [float(value) for value in students[0]]
    return {
        "mean": statistics.mean(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
        "values": values,
        "seeds": [cell.seed for cell, _ in found],
        "bytes": round(statistics.mean(int(row["bytes"]["total"]) for _, row in found)),
        "runs": [f"{RUNS}/{cell.key}" for cell, _ in found],
        "record": f"{RECORDS}/{found[0][0].place}.json",
        "best": False,
    }


def _rank(rows: list[dict[str, Any]], columns: int) -> None:
    """Mean rank of each row over the columns it stands in, and the best cell of each;
    all real images are out of competition."""
    ranks: dict[str, list[int]] = {row["name"]: [] for row in rows}
    for column in map(str, range(columns)):
        there = [row for row in rows if column in row["cells"] and not row["name"].startswith(BASELINES[FULL])]
        there.sort(key=lambda row: -row["cells"][column]["mean"])
        for row in there:
            better = sum(other["cells"][column]["mean"] > row["cells"][column]["mean"] for other in there)
            ranks[row["name"]].append(1 + better)
            row["cells"][column]["best"] = better == 0
    for row in rows:
        row["rank"] = statistics.mean(ranks[row["name"]]) if ranks[row["name"]] else 0.0


def _scores(place: Place, key: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = (place / RUNS / key / "scores.json").read_json()["rows"]
    return found


def _failure(place: Place, key: str) -> str:
    return str((place / FAILED / f"{key}.json").read_json()["error"])


# ---- writing it ------------------------------------------------------------------------------------------------------


def write_board(made: Mapping[str, Any], place: Place) -> None:
    """``leaderboard.json``, ``.md`` and ``.html``, and a record of each cell:
    what its runs were and all that they scored."""
    for name, keys in made["records"].items():
        if keys:
            (place / RECORDS / f"{name}.json").write_json({"runs": [_record(place, key) for key in keys]})
    (place / "leaderboard.json").write_json(made)
    (place / "leaderboard.md").write_bytes(markdown(made).encode())
    (place / "leaderboard.html").write_bytes(html(made).encode())


def _record(place: Place, key: str) -> dict[str, Any]:
    """Of one run: what makes it, and its scores; no paths of this machine."""
    record = (place / RUNS / key / "run.json").read_json()
    kept = published({name: record[name] for name in ("seed", "options", "config", "plan", "environment", "created")})
    data = {name: record["data"][name] for name in ("name", "fingerprint", "train", "test")}
    plugins = [{"name": plugin["name"], "identity": plugin["identity"]} for plugin in record["plugins"]]
    return {
        "run": f"{RUNS}/{key}",
        **kept,
        "plugins": plugins,
        "data": data,
        "rows": _scores(place, key),
    }


def heading(column: Mapping[str, Any]) -> str:
    """A column for people.

    >>> heading({"data": "mnist", "ipc": 1, "protocol": "quick", "network": "convnet"})
    'mnist, 1 image a class'
    """
    by = f", students of {column['student']}" if column.get("student") else ""
    on = f", on {column['on']}" if column.get("on", TEST) != TEST else ""
    return f"{column['data']}, {column['ipc']} image{'s' * (column['ipc'] != 1)} a class{by}{on}"


def markdown(made: Mapping[str, Any]) -> str:
    """For README files: accuracies in percent, the best of a column bold, each linked to its record; then bytes."""
    numbers = range(len(made["columns"]))
    heads = [heading(column) for column in made["columns"]]
    lines = [f"# {_cell_text(made['name'])}", "", _line(["%", *heads, "mean rank"]), _rule(len(heads) + 2)]
    for row in made["rows"]:
        cells = [_linked(row["cells"].get(str(n))) for n in numbers]
        rank = f"{row['rank']:.1f}" if row["rank"] else ""
        lines.append(_line([_cell_text(row["name"]), *cells, rank]))
    lines += ["", _line(["bytes", *heads]), _rule(len(heads) + 1)]
    for row in made["rows"]:
        found = [row["cells"].get(str(n)) for n in numbers]
        lines.append(_line([_cell_text(row["name"]), *(f"{c['bytes']:,}" if c else "" for c in found)]))
    return "\n".join([*lines, "", *notes(made)]) + "\n"


def notes(made: Mapping[str, Any]) -> list[str]:
    """What a reader has to know."""
    recipes = dict.fromkeys(f"protocol {c['protocol']}, network {c['network']}" for c in made["columns"])
    seeds = sorted({seed for row in made["rows"] for cell in row["cells"].values() for seed in cell["seeds"]})
    said = (
        [f"Mean over seeds {', '.join(map(str, seeds))} ± standard deviation; {'; '.join(recipes)}."] if seeds else []
    )
    if any(row["name"].startswith(BASELINES[FULL]) for row in made["rows"]):
        said += ["Students on all real images are the same for every seed: ± is over students there."]
    said += [f"Failed: {run}: {why}" for run, why in made["failed"].items()]
    return [*said, *([f"{len(made['left'])} runs are left to do."] if made["left"] else [])]


def _linked(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    text = f"{100 * cell['mean']:.1f} ± {100 * cell['std']:.1f}"
    return f"[{f'**{text}**' if cell['best'] else text}]({cell['record']})"


def _cell_text(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(count: int) -> str:
    return "|" + " --- |" * count


def html(made: Mapping[str, Any]) -> str:
    """One page that asks the network for nothing; names from data are shown, not executed."""
    from jinja2 import Environment, select_autoescape  # of pages and templates only

    environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        resources.files("ddcore.pages").joinpath("leaderboard.html.j2").read_text("utf-8")
    )
    heads = [heading(column) for column in made["columns"]]
    return template.render(board=made, heads=heads, notes=notes(made))


def terminal(made: Mapping[str, Any]) -> str:
    """For the end of the command."""
    numbers = range(len(made["columns"]))
    cells = [
        [row["name"], *(_plain(row["cells"].get(str(n))) for n in numbers), f"{row['rank']:.1f}"]
        for row in made["rows"]
    ]
    return "\n".join([table(["%", *map(heading, made["columns"]), "rank"], cells), *notes(made)])


def _plain(cell: Mapping[str, Any] | None) -> str:
    return "-" if cell is None else f"{100 * cell['mean']:.1f} ± {100 * cell['std']:.1f}"
