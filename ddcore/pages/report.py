"""``report.html``: what a run did and what came of it, in one file that opens from disk and asks the network for
nothing."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import frozen

from ddcore.composing.verdict import verdicts
from ddcore.errors import DdcoreError, InputError
from ddcore.images.preview import sheet_png
from ddcore.pages.html import PLOTS_MISSING, page, png_url
from ddcore.pages.plots import Dot, Line, available, dots_svg, lines_svg
from ddcore.sets.artifact import Artifact, load_artifact
from ddcore.storage.places import Place
from ddcore.storage.published import published, published_source, told
from ddcore.storage.secrecy import redact

OWN = ("distilled", "student")
"""Sets that a run is about; the others stand beside them."""
TEACHER = "teacher"
KNOWN = (
    "set",
    "protocol",
    "network",
    "labels",
    "ipc",
    "steps",
    "seconds",
    "note",
    "bytes",
    "accuracy",
    "metric",
    "better",
    "on",
)
BY_CLASS = "class_accuracy"
"""Under which rows keep each seed's accuracy in each class."""
MOST_PIXELS = 2**21
"""Of the sheet that the page holds: some megabytes at most."""
SNAPSHOTS = "snapshots"
"""Folder of a run, with strips of its images on the way."""
MOST_IMAGES = 400
MOST_TASKS = 4
MOST_PLOTS = 12
Row = Mapping[str, Any]


# ---- from a folder to a page -----------------------------------------------------------------------------------------


@frozen
class Finished:
    """A run's records.

    Attributes:
        manifest: of the set it made; empty if it made none.
    """

    place: Place
    record: Mapping[str, Any]
    scores: Mapping[str, Any]
    manifest: Mapping[str, Any]

    @property
    def rows(self) -> Sequence[Row]:
        """Of ``scores.json``."""
        rows: Sequence[Row] = self.scores["rows"]
        return rows

    @property
    def kind(self) -> str:
        """``training``, ``evaluation`` or ``distillation``."""
        return "training" if "train" in self.record else "evaluation" if "artifact" in self.record else "distillation"

    @property
    def method(self) -> str:
        """The plugins that made the set, or the student and the plugins that shaped it."""
        if "provenance" in self.manifest:
            return str(self.manifest["provenance"].get("method", "an unnamed method"))
        plugins = " + ".join(plugin["name"] for plugin in self.record["plugins"])
        if self.kind == "training":
            return " + ".join(filter(None, [str(self.record["config"]["network"]), plugins]))
        return plugins or "an unnamed method"

    @property
    def title(self) -> str:
        """One line: what, on which data, how much of it."""
        data, ipc = self.record["data"]["name"], self.record["config"]["ipc"]
        if self.kind == "training":
            return f"{self.method}, trained on {redact(self.record['train'].get('artifact') or data)}"
        if self.kind == "evaluation":
            return f"{redact(self.record['artifact'])}, evaluated on {data}"
        if self.record["data"].get("modality", "images") != "images":
            return f"{self.method} on {data}" + (f", {ipc} per class" if self.record["data"].get("dense") else "")
        return f"{self.method} on {data}, {ipc} {'image' if ipc == 1 else 'images'} per class"


def open_finished(place: Place) -> Finished:
    """Read a finished run's records.

    Raises:
        InputError: no run, or one without scores yet; damaged files.
    """
    for name in ("run.json", "scores.json"):
        if not (place / name).exists():
            if name == "run.json":
                raise InputError(_no_run(place))
            raise InputError(f"{place.url} has no {name} yet: finish the run with `ddcore resume {place.url}` first")
    manifest = place / "artifact" / "manifest.json"
    record, scores = _without_paths((place / "run.json").read_json()), (place / "scores.json").read_json()
    found = Finished(place, record, scores, manifest.read_json() if manifest.exists() else {})
    try:
        _ = found.title, [(row["set"], row["protocol"], row["network"], row["accuracy"]["mean"]) for row in found.rows]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{place.url} is damaged, its run.json or scores.json lacks {error}: restore or remake them"
        ) from error
    return found


def _no_run(place: Place) -> str:
    """Why a folder is no run's, and what to name in its place."""
    if not (place / "manifest.json").exists():
        return f"{place.url} has no run.json, so it is no run: give the --out folder of `ddcore run`, `train` or `evaluate`"
    around = place.parent
    if (around / "run.json").exists():
        return f"{place.url} is a distilled set, and its run is the folder around it: give {around.url}"
    return (
        f"{place.url} is a distilled set without its run: score it first, `ddcore evaluate {place.url} --out FOLDER`, and "
        "give that folder, or look at it with `ddcore inspect`"
    )


def _without_paths(record: Any) -> Any:
    """A record as pages show it, which are handed on: local paths by their last names."""
    if not isinstance(record, dict):
        return record
    data = {"data": published_source(record["data"])} if isinstance(record.get("data"), dict) else {}
    return {**published(record), **data}


def write_report(run: Place, artifact: Artifact | None = None) -> str:
    """Write ``report.html`` into a finished run's folder; returns its URL.

    Args:
        artifact: the run's, if it is at hand; else it is read.

    Raises:
        InputError: see ``open_finished``.
    """
    (run / "report.html").write_bytes(render(run, artifact).encode())
    run.remove_abandoned()
    return (run / "report.html").url


def render(run: Place, artifact: Artifact | None = None) -> str:
    """The page as text; every value from data is escaped."""
    found = open_finished(run)
    record, log = found.record, events(run)
    preview = run / "artifact" / "preview.png"
    shown = gallery(artifact or _artifact(run, found.manifest))
    return page(
        "report.html.j2",
        title=found.title,
        kind=found.kind,
        record=record,
        command=command_text(record),
        warnings=[told(str(text)) for text in found.scores.get("warnings", [])],
        options=options_of(record),
        gallery=shown,
        preview="" if shown or not preview.exists() else png_url(preview.read_bytes()),
        evolution=evolution(run),
        rows=found.rows,
        verdicts=verdicts(found.rows),
        own=OWN,
        measure=measure(found.rows),
        on=" and ".join(places_of(found.rows)),
        apart=len(places_of(found.rows)) > 1,
        by_class=by_class(found.rows, record["data"].get("classes", [])),
        scores=score_plots(found.rows),
        matrix=matrix(found.rows),
        notes=list(
            dict.fromkeys(f"{row['set']} ({row['labels']}): {row['note']}" for row in found.rows if row["note"])
        ),
        extras=extras(found.rows),
        losses=loss_plot(log),
        students=student_plots(log),
        stored=storage(found.manifest),
        provenance=found.manifest.get("provenance", {}),
        made=[(k, v) for k, v in record["train"].items() if v is not None] if found.kind == "training" else [],
        data=[(k, v) for k, v in record["data"].items() if k not in PER_CLASS and v not in (None, "", [])],
        classes=classes_of(record["data"]),
        plots_missing="" if available() else PLOTS_MISSING,
    )


def command_text(record: Mapping[str, Any]) -> str:
    """The command line as it can be pasted into a shell, addresses without credentials;
    empty where none is recorded."""
    return shlex.join(redact(word) for word in record.get("command", []))


def options_of(record: Mapping[str, Any]) -> dict[str, list[tuple[str, Any, str]]]:
    """Name, value and source of every option: those that somebody set under ``set``, the others under ``default``."""
    config, options = record["config"], record.get("options", {})
    every: dict[str, list[tuple[str, Any, str]]] = {"set": [], "default": []}
    for name, source in record.get("sources", {}).items():
        group, dot, key = name.partition(".")
        value = options.get(group, {}).get(key) if dot else config.get(name)
        value = redact(value) if isinstance(value, str) else value
        every["default" if source == "default" else "set"].append((name, value, source))
    return every


# ---- images ----------------------------------------------------------------------------------------------------------


def _artifact(run: Place, manifest: Mapping[str, Any]) -> Artifact | None:
    """The run's set if it is of images and can be opened here; its preview stands for others."""
    if manifest.get("kind") != "images":
        return None
    try:
        return load_artifact(run / "artifact")
    except DdcoreError:
        return None


def gallery(artifact: Artifact | None) -> dict[str, Any] | None:
    """One sheet of images, and for each class where its images stand on it, as positions that CSS knows.

    As many images of each class as ``MOST_IMAGES`` and ``MOST_PIXELS`` allow, and as many classes; the rest is counted.
    """
    if artifact is None or not artifact.of_images:
        return None
    side, classes = int(artifact.manifest["shape"][-1]), artifact.labels.classes
    present = sorted(set(classes.tolist()))
    most = max(1, min(MOST_IMAGES, MOST_PIXELS // side**2))
    shown, each = present[:most], max(1, most // len(present))
    index = {of: (classes == of).nonzero()[:, 0] for of in shown}
    picked = torch.cat([rows[:each] for rows in index.values()])
    columns = min(len(picked), 20)
    lines = -(-len(picked) // columns)
    places = iter(range(len(picked)))
    real = artifact.real_count
    title = f"The images: {real} of {len(artifact)} are real ones" if real else "The synthetic images"
    return {
        "title": title,
        "sheet": png_url(sheet_png(artifact.pixels(picked), columns)),
        "size": f"{100 * columns}% {100 * lines}%",
        "side": side,
        "classes": [
            {
                "name": artifact.classes[of],
                "at": [_position(next(places), columns, lines) for _ in rows[:each]],
                "count": len(rows),
            }
            for of, rows in index.items()
        ],
        "left": len(present) - len(shown),
    }


def _position(number: int, columns: int, lines: int) -> str:
    line, column = divmod(number, columns)
    return f"{100 * column / max(1, columns - 1):.4f}% {100 * line / max(1, lines - 1):.4f}%"


def evolution(run: Place) -> list[tuple[int, str, float]]:
    """Steps, strips of images and how wide to show them, if any were kept; see ``ddcore.runs.snapshots``."""
    folder = run / SNAPSHOTS
    if not folder.exists():
        return []
    kept = [(re.fullmatch(r".+-(\d+)\.png", name), name) for name in folder.names()]
    found = [(int(match.group(1)), (folder / name).read_bytes()) for match, name in kept if match]
    return [(step, png_url(png), 3.4 * _images_of(png)) for step, png in sorted(found)] if len(found) > 1 else []


def _images_of(png: bytes) -> int:
    """How many square images lie side by side, by the width and height of the PNG's header."""
    width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
    return width // max(1, height)


# ---- scores ----------------------------------------------------------------------------------------------------------


def metric_of(row: Row) -> str:
    """What a row measured."""
    return str(row.get("metric", "accuracy"))


def on_of(row: Row) -> str:
    """Which images a row was measured on."""
    return str(row.get("on") or "the test set")


def places_of(rows: Sequence[Row]) -> list[str]:
    """All of those, each once."""
    return list(dict.fromkeys(map(on_of, rows))) or ["the test set"]


def measure(rows: Sequence[Row]) -> str:
    """What all rows measured, or ``scores``."""
    metrics = {metric_of(row) for row in rows} or {"accuracy"}
    return metrics.pop() if len(metrics) == 1 else "scores"


def score_plots(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """A plot for each protocol, network, metric and test part, with what it is of; none where none can be drawn."""
    if not available():
        return []
    plots = []
    for (protocol, network, metric, on), members in list(_columns(rows).items())[:MOST_PLOTS]:
        beside = [row for row in rows if row["set"] == TEACHER and (metric_of(row), on_of(row)) == (metric, on)]
        heading = f"{metric}: {network}, protocol {protocol}{_where(rows, on)}"
        plots.append((heading, dots_svg([_dot(row) for row in (*beside, *members)], metric, heading)))
    return plots


def _where(rows: Sequence[Row], on: str) -> str:
    return f", on {on}" if len(places_of(rows)) > 1 else ""


def _columns(rows: Sequence[Row]) -> dict[tuple[str, str, str, str], list[Row]]:
    """Rows that can be compared, by protocol, network, metric and test part; teachers, who have protocols of their own,
    stand beside all."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if row["set"] != TEACHER:
            groups.setdefault((row["protocol"], row["network"], metric_of(row), on_of(row)), []).append(row)
    return groups


def matrix(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Scores with a column for each protocol, network, metric and test part; None where there is one such column."""
    columns = _columns(rows)
    if len(columns) < 2:
        return None
    names = dict.fromkeys((row["set"], row["labels"]) for members in columns.values() for row in members)
    cells = [{(row["set"], row["labels"]): row["accuracy"] for row in members} for members in columns.values()]
    return {
        "headings": [
            f"{network}, {protocol}{'' if metric == 'accuracy' else f', {metric}'}{_where(rows, on)}"
            for protocol, network, metric, on in columns
        ],
        "lines": [
            {"name": f"{name[0]} ({name[1]})", "own": name[0] in OWN, "cells": [column.get(name) for column in cells]}
            for name in names
        ],
    }


def _dot(row: Row) -> Dot:
    score = row["accuracy"]
    name = f"{row['set']} ({row['network'] if row['set'] == TEACHER else row['labels']})"
    return Dot(name, score["mean"], score["std"], score.get("values", ()), dim=row["set"] not in OWN)


def extras(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """What rows say beyond the table."""
    every = []
    for row in rows:
        more = [(k, v) for k, v in row.items() if k not in (*KNOWN, BY_CLASS) and v not in (None, [], {})]
        heading = f"{row['set']} ({row['labels']}), {row['network']}, {row['protocol']}{_where(rows, on_of(row))}"
        every += [(heading, [("values", row["accuracy"].get("values", [])), *more])]
    return every


def by_class(rows: Sequence[Row], classes: Sequence[str]) -> dict[str, Any] | None:
    """Accuracy in each class, mean over seeds, of the rows of the first protocol and network that have it;
    None where none has."""
    told = [row for row in rows if row.get(BY_CLASS) and all(len(seed) == len(classes) for seed in row[BY_CLASS])]
    told = [row for row in told if all(row.get(key) == told[0].get(key) for key in ("protocol", "network", "on"))]
    if not told:
        return None
    return {
        "heading": f"{told[0]['network']}, protocol {told[0]['protocol']}",
        "headings": [f"{row['set']} ({row['labels']})" for row in told],
        "lines": [
            (name, [_mean([seed[n] for seed in row[BY_CLASS]]) for row in told]) for n, name in enumerate(classes)
        ],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


# ---- curves ----------------------------------------------------------------------------------------------------------


def events(run: Place) -> list[dict[str, Any]]:
    """The lines of the log; those cut short by a crash are left out."""
    if not (run / "log.jsonl").exists():
        return []
    found = []
    for line in (run / "log.jsonl").read_bytes().decode(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        found += [event] if isinstance(event, dict) else []
    return found


def loss_plot(log: Sequence[Mapping[str, Any]]) -> str:
    """The matching loss over the steps: of each task, or of many their mean and range;
    empty where there is none to draw."""
    by_task: dict[str, dict[int, float]] = {}
    for event in log:
        if event.get("event") == "step" and event.get("loss") is not None:
            by_task.setdefault(str(event.get("task")), {})[event["step"]] = event["loss"]
    curves = {task: dict(sorted(points.items())) for task, points in by_task.items() if len(points) > 1}
    if not curves or not available():
        return ""
    if len(curves) <= MOST_TASKS:
        lines = [Line(task, [*points], [*points.values()], colour=n) for n, (task, points) in enumerate(curves.items())]
    else:
        lines = [_together(list(curves.values()), f"mean of {len(curves)} tasks, least and most")]
    return lines_svg(lines, "step", "loss", "Matching loss over the steps")


def _together(curves: Sequence[Mapping[int, float]], name: str, colour: int = 0) -> Line:
    """The mean of curves where they have values, and their range."""
    across = sorted({at for points in curves for at in points})
    values = [[points[at] for points in curves if at in points] for at in across]
    mean = [sum(v) / len(v) for v in values]
    return Line(name, across, mean, [min(v) for v in values], [max(v) for v in values], colour)


def student_plots(log: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Plots of students along their training for each protocol and network, mean and range of a row's seeds: losses on
    the rows that they learn from, and accuracies on validation images where such were watched; never anything of the
    test set.
    """
    if not available():
        return []
    plots = []
    for measured, words in (("loss", "loss on the training rows"), ("validation", "validation accuracy")):
        for (protocol, network), named in list(_student_curves(log, measured).items())[:MOST_PLOTS]:
            lines = [_together(list(seeds.values()), name, n) for n, (name, seeds) in enumerate(named.items())]
            drawn = [line for line in lines if len(line.across) > 1]
            heading = f"{network}, protocol {protocol}{'' if measured == 'loss' else ', accuracy'}"
            if drawn:
                plots.append((heading, lines_svg(drawn, "step", words, f"Students: {heading}")))
    return plots


def _student_curves(
    log: Sequence[Mapping[str, Any]], measured: str
) -> dict[tuple[str, str], dict[str, dict[str, dict[int, float]]]]:
    """By protocol and network, by row, by student: what was measured after so many steps."""
    groups: dict[tuple[str, str], dict[str, dict[str, dict[int, float]]]] = {}
    for event in log:
        if event.get("event") == "epoch" and event.get(measured) is not None:
            name = row_name(event["task"], event["protocol"])
            row = groups.setdefault((event["protocol"], event["network"]), {}).setdefault(name, {})
            row.setdefault(event["task"], {})[event["steps"]] = event[measured]
    return groups


def row_name(key: str, protocol: str) -> str:
    """Of which row a student is, by its task's key.

    >>> row_name("evaluate-random-bytes-hard-1-edd251d472ab", "dsa"), row_name("train-kd-3-student-0", "kd-3")
    ('random-bytes (hard)', 'student')
    """
    if match := re.fullmatch(r"evaluate-(.+)-(\w+)-\d+-[0-9a-f]{12}", key):
        return f"{match.group(1)} ({match.group(2)})"
    return key.removeprefix(f"train-{protocol}-").rpartition("-")[0] or key


# ---- what it costs, and on what --------------------------------------------------------------------------------------

PER_CLASS = ("classes", "train_per_class", "test_per_class")


def storage(manifest: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """Parts of the set, their bytes, and their share of the total in percent; the total last."""
    sizes = {part: size for part, size in manifest.get("bytes", {}).items() if isinstance(size, int)}
    total = sizes.get("total", 0)
    ordered = sorted(sizes.items(), key=lambda item: item[0] == "total")
    return [(part, size, min(100.0, 100 * size / total) if total else 0.0) for part, size in ordered]


def classes_of(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Each class with its images to train and to test on, as far as they are counted."""
    names = data.get("classes", [])
    counts = [[str(n) for n in data.get(key, [])] for key in PER_CLASS[1:]]
    return [(str(name), *(c[n] if n < len(c) else "" for c in counts)) for n, name in enumerate(names)]  # type: ignore[misc]
