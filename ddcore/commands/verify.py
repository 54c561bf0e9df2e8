"""``ddcore verify CELL``: make a published figure anew, as its cell says, and write down what came of it.

A cell's run is an ordinary one, in a folder of its own, which can be stopped and gone on with; the record is made of
what that folder says at its end, without paths, hosts or the like, so that it can be handed on.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from ddcore import devices
from ddcore.api.types import Row
from ddcore.commands import train as training
from ddcore.commands.evaluating import evaluate_folder, evaluate_on
from ddcore.composing.cells import EVALUATE, RUN, TRAIN, Cell, parsed
from ddcore.composing.options import SHARED, as_json, flag, resolve, variable
from ddcore.composing.selection import Selection, setup_from
from ddcore.config import VERIFYING
from ddcore.errors import InputError
from ddcore.pages.board import SCHEMA, distance
from ddcore.runs.assembly import begin
from ddcore.runs.distil import distil
from ddcore.runs.opening import reopen
from ddcore.runs.record import read_record
from ddcore.sets.packed import load_either
from ddcore.storage.documents import parse_json
from ddcore.storage.places import Place
from ddcore.storage.published import data_name, from_home, told

AGAIN = "what was finished is kept: give the same command again"
OF_A_MACHINE = ("out", "cache", "data_root", "device", "threads", "jobs", "executor", "skip_broken")
"""Options that may be others when a run is gone on with."""


@frozen(eq=False)
class Attempt:
    """A cell, ready to be run.

    Attributes:
        given: the options of the cell and of who verifies, ``group__name`` to value.
        said: those of who verifies.
        own: what ``train`` takes beside them.
        place: its folder.
        artifact: the set that is evaluated; "" where none is.
    """

    cell: Cell
    selection: Selection
    given: Mapping[str, Any]
    said: Mapping[str, Any]
    own: Mapping[str, Any]
    place: Place
    artifact: str = ""
    environment: Mapping[str, str] = field(factory=dict)

    @classmethod
    def of(cls, cell: Cell, said: Mapping[str, Any], environment: Mapping[str, str], artifact: str = "") -> Attempt:
        """Check a cell's command, and what is said beside it.

        Args:
            said: options of ``VERIFYING``.
            artifact: of a cell that evaluates, the set; default: that of its ``set_of``, where ``verify`` made it.

        Raises:
            InputError: no data are named, or there is no set.
            OptionError, PluginError: the command is refused, or a plugin is not installed.
        """
        selection, given, own = parsed(cell)
        if "dataset" not in said:
            raise InputError(
                f"cell {cell.name} is of {cell.data_text}: name a copy by --dataset, such as parquet:FOLDER"
            )
        if artifact and cell.words[0] != EVALUATE:
            raise InputError(f"--set is of cells that evaluate a set, and {cell.name} makes its own: leave it out")
        place = Place.at(said.get("out") or folder_of(cell.name))
        artifact = artifact or f"{folder_of(cell.set_of)}/artifact"
        if cell.words[0] == EVALUATE and not (Place.at(artifact) / "manifest.json").exists():
            raise InputError(
                f"cell {cell.name} is of the set of cell {cell.set_of}, and {artifact} holds none: verify that first, or name a set by --set"
            )
        taken = {name: environment[name] for name in map(_variable, VERIFYING) if name in environment}
        artifact = artifact if cell.words[0] == EVALUATE else ""
        return cls(cell, selection, {**given, **said, "out": place.address}, said, own, place, artifact, taken)

    def do(self, plan_only: bool = False) -> Any:
        """Do what is left of it, until its scores stand in its folder.

        Returns:
            With ``plan_only`` the run, of which nothing is done.

        Raises:
            Interrupted: it was stopped; the same command goes on.
            InputError: the folder holds another run.
        """
        kind = self.cell.words[0]
        if plan_only and kind != RUN:
            raise InputError(
                f"cell {self.cell.name} makes no plan, it is one of `ddcore {kind}`: leave out --plan-only"
            )
        if not plan_only and (self.place / "run.json").exists():
            return self._go_on()
        if kind == EVALUATE:
            return evaluate_folder(self.artifact, self.given, self.selection)
        if kind == TRAIN:
            lesson = training.Lesson(None, per_class=self.own["per_class"], plain=self.own["plain"])
            given = {**self.given, "network": self.own["student"]}
            teachers = [*self.own["teachers"]]
            return self._done(training.begin(self.selection, given, lesson, teachers, self._command()))
        setup = setup_from(self.selection, self.given, self.environment)
        made = begin(setup, plan_only=plan_only, command=self._command(), more={"verifies": self.cell.name})
        return made if plan_only else self._done(made)

    def _command(self) -> list[str]:
        return ["ddcore", *shlex.split(does(self.cell, self.said))]

    def _go_on(self) -> Sequence[Row]:
        record = from_home(read_record(self.place))
        self._refuse_others(record)
        return self._done(reopen(self.place.url))

    def _done(self, run: Any) -> Sequence[Row]:
        run.tasks.way_on = AGAIN
        with run.tasks.stoppable():
            if run.of_artifact is not None:
                return evaluate_on(run, load_either(run.of_artifact))
            return training.train(run) if isinstance(run, training.TrainingRun) else distil(run)

    def _refuse_others(self, record: Mapping[str, Any]) -> None:
        """Go on with no run of other options than are asked for."""
        asked = [name for name in self.given if name not in OF_A_MACHINE]
        plain = resolve(self.selection.groups, command_line=self.given, environment={})
        due = as_json(plain)
        if self.cell.words[0] == RUN:
            due = setup_from(self.selection, self.given, self.environment).as_json()
            asked = [*due["config"], *(f"{group}__{name}" for group, own in due["options"].items() for name in own)]
            asked = [name for name in asked if name not in (*OF_A_MACHINE, "plugins")]
        wrong = []
        for key in asked:
            group, _, name = key.rpartition("__")
            real = next((g for g in due["options"] if g.replace("-", "_") == group.replace("-", "_")), SHARED)
            wanted, has = (
                (each["options"].get(real, {}) if real else each["config"]).get(name) for each in (due, record)
            )
            if wanted != has and not (name == "ipc" and due["config"].get("bytes") is not None):
                wrong.append(flag(real, name))
        if self.artifact and Place.at(str(record.get("artifact"))).url != Place.at(self.artifact).url:
            wrong.append("--set")
        if wrong:
            raise InputError(
                f"{self.place.url} holds a run that differs from what is asked for in {', '.join(wrong)}: "
                f"say it as it was begun, or name a new folder by --out"
            )


def _variable(name: str) -> str:
    return variable(SHARED, name)


def folder_of(name: str) -> str:
    """Where a cell is run unless ``--out`` says otherwise."""
    return f"runs/verify-{name}"


def does(cell: Cell, said: Mapping[str, Any]) -> str:
    """What is run, as words of ``ddcore``, without paths of this machine."""
    kind, *words = cell.words
    data = data_name(str(said["dataset"]))
    names = {"--data" if kind == TRAIN else "--dataset": data}
    names |= {flag(SHARED, name): str(said[name]) for name in ("eval_seeds", "seed", "split") if name in said}
    kept = _without(words, names)
    of = [cell.set_of] if kind == EVALUATE else []
    return shlex.join([kind, *of, *kept, *(word for name, value in names.items() for word in (name, value))])


def _without(words: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Words without these options and their values."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif (option := word.partition("=")[0]) in names:
            skip = option == word
        else:
            kept.append(word)
    return kept


# ---- the record ------------------------------------------------------------------------------------------------------


def record_of(attempt: Attempt, differs: Sequence[str] = (), reason: str = "") -> dict[str, Any]:
    """What is written down of a cell that was run: nothing in it names a place or a host.

    Args:
        differs: what who verifies says is otherwise than in the paper, such as other copies of the data.
        reason: why the figure is missed, if that is known; else the cell's.

    Raises:
        InputError: the run has no row that the cell means, or measures something else.
    """
    cell, run = attempt.cell, read_record(attempt.place)
    row = row_of(cell, (attempt.place / "scores.json").read_json()["rows"])
    found = row["accuracy"]
    ours = {"mean": round(found["mean"], 6), "std": round(found["std"], 6)}
    ours["values"] = [round(value, 6) for value in found["values"]]
    ours |= {"students": [*range(len(found["values"]))], "seed": run.get("seed", 0)}
    ours |= {name: row[name] for name in ("set", "labels", "protocol", "network", "ipc", "steps") if name in row}
    said = [*cell.differs, *data_differs(cell, run["data"]), *_fewer(cell, attempt), *map(told, differs)]
    return {
        "schema": SCHEMA,
        "cell": cell.name,
        "owner": cell.owner,
        "published": dict(cell.published),
        "metric": cell.metric,
        "ours": ours,
        "distance": distance(found["mean"], cell.published),
        "differs": list(dict.fromkeys(said)),
        "reason": told(reason or cell.reason),
        "data": data_of(run),
        "machine": machine_of(run["environment"]),
        "seconds": seconds_of(attempt.place, row),
        "ddcore": run["environment"]["ddcore"],
        "plugins": [plugin["identity"] for plugin in run["plugins"]],
        "command": verified(attempt),
        "does": f"ddcore {does(cell, attempt.said)}",
    }


def verified(attempt: Attempt) -> str:
    """The command line, without places of this machine."""
    kept = {name: attempt.said[name] for name in ("dataset", "split", "seed", "eval_seeds") if name in attempt.said}
    kept["dataset"] = data_name(str(kept["dataset"]))
    words = [word for name, value in kept.items() for word in (flag(SHARED, name), str(value))]
    return shlex.join(["ddcore", "verify", attempt.cell.name, *words])


def row_of(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row of the scores that a cell means: the first that says all that the cell's ``row`` says.

    Raises:
        InputError: none does, or it measures something else.
    """
    for row in rows:
        if all(row.get(name) == value for name, value in cell.row.items()) and "on" not in row:
            if (metric := row.get("metric", "accuracy")) != cell.metric:
                raise InputError(f"cell {cell.name} is of {cell.metric}, and its run measured {metric}: mend the cell")
            return row
    wanted = ", ".join(f"{name} {value!r}" for name, value in cell.row.items())
    there = "; ".join(", ".join(str(row[name]) for name in cell.row) for row in rows)
    raise InputError(f"cell {cell.name} means the row of {wanted}, and its run has {there}: mend the cell's row")


def data_differs(cell: Cell, data: Mapping[str, Any]) -> list[str]:
    """Where data are not those that a cell says."""
    here = {**data, "classes": len(data["classes"]), "shape": list(data["shape"])}
    shown = {name: (cell.data[name], here[name]) for name in ("shape", "classes", "train", "test") if name in cell.data}
    return [
        f"data: {name} {_sized(ours)}, the paper's {_sized(theirs)}"
        for name, (theirs, ours) in shown.items()
        if ours != theirs
    ]


def _sized(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else f"{value:,}"


def _fewer(cell: Cell, attempt: Attempt) -> list[str]:
    """Where fewer students were trained than the cell's command says."""
    own = parsed(cell)[1].get("eval_seeds")
    here = attempt.given.get("eval_seeds")
    return [] if own is None or here is None or int(here) >= int(own) else [f"{here} of {own} students"]


def data_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Which data they were: as they were named, and what they are."""
    data = run["data"]
    said = data_name(str(from_home(run)["config"]["dataset"]))
    sizes = {name: data[name] for name in ("shape", "train", "test")}
    return {"said": said, **sizes, "classes": len(data["classes"]), "fingerprint": data["fingerprint"]}


def machine_of(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What the figure was made on, in words."""
    known = {name: environment[name] for name in ("device", "kernels", "threads", "torch", "python")}
    return {"processor": devices.processor(), "cores": os.cpu_count(), **known}


def seconds_of(place: Place, row: Mapping[str, Any]) -> float:
    """How long a run worked, its stops left out: within each session, from its first line of the log to its last."""
    log = place / "log.jsonl"
    lines = [parse_json(line) for line in log.read_bytes().decode("utf-8").splitlines()] if log.exists() else []
    sessions: list[list[float]] = []
    for line in lines:
        if not sessions or line["event"] in ("begin", "resume"):
            sessions.append([])
        sessions[-1].append(line["time"])
    worked = sum(times[-1] - times[0] for times in sessions)
    return round(max(worked, statistics.fmean([row["seconds"]]) * len(row["accuracy"]["values"])), 1)


def write_record(record: Mapping[str, Any], records: Place) -> Place:
    """Write it under its cell's name; returns where."""
    records.make_folder()
    place = records / f"{record['cell']}.json"
    place.write_json(json.loads(json.dumps(record)))
    return place
