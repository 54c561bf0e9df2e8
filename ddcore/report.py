"""``report.html``: what a run did and what came of it, in one file that opens from disk and asks the network for nothing."""

from __future__ import annotations

import base64
import json
from importlib import resources
from typing import Any

from ddcore.errors import InputError
from ddcore.storage import Place


def write_report(run: Place) -> str:
    """Write ``report.html`` into a finished run's folder; returns its URL.

    Raises:
        InputError: no run, or one without scores yet.
    """
    for name in ("run.json", "scores.json"):
        if not (run / name).exists():
            raise InputError(f"{run.url} has no {name} yet: finish the run with `ddcore resume {run.url}` first")
    if "train" in (run / "run.json").read_json():
        raise InputError(f"{run.url} trained students and distilled nothing: its scores are in scores.json")
    (run / "report.html").write_bytes(render(run).encode())
    return (run / "report.html").url


def render(run: Place) -> str:
    """The page as text; every value from data is escaped."""
    from jinja2 import Environment, select_autoescape

    environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("ddcore").joinpath("report.html.j2").read_text("utf-8"))
    record, scores = (run / "run.json").read_json(), (run / "scores.json").read_json()
    manifest = (run / "artifact" / "manifest.json").read_json()
    preview = run / "artifact" / "preview.png"
    image = base64.b64encode(preview.read_bytes()).decode() if preview.exists() else ""
    losses = loss_points(run)
    return template.render(
        record=record, scores=scores, manifest=manifest, preview=image, losses=losses, rows=bars(scores["rows"])
    )


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the length of their bar and of its error whisker, in percent of accuracy 1."""
    return [{**r, "at": 100 * r["accuracy"]["mean"], "whisker": 100 * r["accuracy"]["std"]} for r in rows]


def loss_points(run: Place, most: int = 400) -> str:
    """The loss over the steps as the points of a 600 x 120 polyline; empty when there are fewer than two."""
    if not (run / "log.jsonl").exists():
        return ""
    lines = (
        json.loads(line) for line in (run / "log.jsonl").read_bytes().decode().splitlines() if line.startswith("{")
    )
    by_step = {
        line["step"]: line["loss"] for line in lines if line.get("event") == "step" and line.get("loss") is not None
    }
    steps = sorted(by_step)[:: max(1, len(by_step) // most)]
    if len(steps) < 2:
        return ""
    low, high = min(by_step[s] for s in steps), max(by_step[s] for s in steps)
    across, up = steps[-1] - steps[0], (high - low) or 1.0
    return " ".join(f"{600 * (s - steps[0]) / across:.1f},{115 - 110 * (by_step[s] - low) / up:.1f}" for s in steps)
