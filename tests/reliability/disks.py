"""Commands on a disk that fills up, at every stage of their work: each says so, and goes on to the same bits once there is room.

The disk is a small tmpfs, which a file takes all the room of just before what a stage writes first; or, for who may not mount and for the
quick tests, nothing more can be written from there on (``kills.Saboteur``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reliability import kills

ROOM = "16m"
FILLER = "filler"
FULL = 3
"""The exit code."""


@dataclass(frozen=True)
class Stage:
    """Where a disk fills up.

    Attributes:
        recipe: of ``kills.RECIPES``.
        file: pattern of what is written there first.
    """

    recipe: str
    file: str


STAGES = {
    "the folder of a run": Stage("experts", "run/.lock"),
    "who works in it": Stage("experts", "^run/.*holder"),
    "the record of a run": Stage("experts", "^run/.*run.json"),
    "the log": Stage("experts", "^run/log.jsonl"),
    "data that were seen": Stage("experts", "^cache/data/"),
    "the folder of experts": Stage("experts", "^cache/experts/[^/]*/expert-000$"),
    "the first expert": Stage("experts", "^cache/experts/.*expert-000/.*epoch-001"),
    "an expert's last epoch": Stage("experts", "^cache/experts/.*expert-001/.*epoch-003"),
    "a finished expert": Stage("experts", "^cache/experts/.*expert-001/.*done"),
    "the folder of teachers": Stage("teachers", "^cache/teachers/[^/]*$"),
    "a teacher": Stage("teachers", "^cache/teachers/.*weights"),
    "a finished teacher": Stage("teachers", "^cache/teachers/.*done"),
    "a snapshot": Stage("experts", "^run/snapshots/"),
    "a state of distilling": Stage("experts", "^run/checkpoints/.*distil-"),
    "the distilled set": Stage("experts", "^run/checkpoints/.*distil-.*done"),
    "the artifact's images": Stage("experts", "^run/artifact/.*images"),
    "the artifact's labels": Stage("teachers", "^run/artifact/.*labels"),
    "the artifact's preview": Stage("experts", "^run/artifact/.*preview"),
    "the artifact's card": Stage("experts", "^run/artifact/.*README"),
    "the artifact's manifest": Stage("experts", "^run/artifact/.*manifest"),
    "a state of evaluating": Stage("experts", "^run/checkpoints/.*evaluate-distilled"),
    "a finished evaluation": Stage("experts", "^run/checkpoints/.*evaluate-distilled.*done"),
    "the full data's row": Stage("experts", "^cache/full/"),
    "the scores": Stage("experts", "^run/.*scores.json"),
    "the report": Stage("experts", "^run/.*report.html"),
    "a report made again": Stage("report", "^run/.*report.html"),
    "a comparison": Stage("compare", "^run/.*comparison.html"),
    "an export of pictures": Stage("export", "^run/.*png"),
    "an export's labels": Stage("export", "^run/.*labels.json"),
    "an export to pt": Stage("export-pt", r"^run/.*\.pt"),
    "an export to parquet": Stage("export-parquet", "^run/.*parquet"),
    "a scratch folder": Stage("relabel", "^tmp/[^/]*$"),
    "a record in a scratch folder": Stage("relabel", "^tmp/.*run.json"),
    "a result in a scratch folder": Stage("relabel", "^tmp/.*done"),
    "a relabelling's teacher": Stage("relabel", "^cache/teachers/.*weights"),
    "a relabelled set's images": Stage("relabel", "^run/.*images"),
    "a relabelled set's labels": Stage("relabel", "^run/.*labels"),
    "a relabelled set's manifest": Stage("relabel", "^run/.*manifest"),
    "a projector": Stage("fit", "^cache/projectors/.*safetensors"),
    "weights in a set": Stage("fit", "^run/.*models"),
    "an evaluation's record": Stage("evaluate", "^run/.*run.json"),
    "an evaluation's state": Stage("evaluate", "^run/checkpoints/.*distilled"),
    "an evaluation's scores": Stage("evaluate", "^run/.*scores.json"),
    "a training's record": Stage("train", "^run/.*run.json"),
    "a training's state": Stage("train", "^run/checkpoints/.*student"),
    "a student": Stage("train", "^run/students/.*student-0"),
    "the last student": Stage("train", "^run/students/.*plain-1"),
    "a training's report": Stage("train", "^run/.*report.html"),
    "data for workers": Stage("bench", "^cache/decoded/"),
    "a suite's first run": Stage("bench", "^run/runs/.*run.json"),
    "a suite's second run": Stage("bench", "^run/runs/noise.*checkpoints"),
    "a suite's records": Stage("bench", "^run/records/"),
    "a leaderboard": Stage("bench", "^run/.*leaderboard.json"),
    "a leaderboard's page": Stage("bench", "^run/.*leaderboard.html"),
}


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a tmpfs."""
    if not sys.platform.startswith("linux") or os.geteuid():
        return False
    try:
        with disk(folder):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """A tmpfs at a folder."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def simulated(ground: kills.Ground, name: str) -> dict[str, Any]:
    """Do a stage's recipe where nothing can be written from that stage on, then where it can; see ``fill``."""
    place = ground.fresh(kills.RECIPES[STAGES[name].recipe])
    return attempt(ground, name, place, place, kills.Fault(full=STAGES[name].file))


def fill(ground: kills.Ground, name: str) -> dict[str, Any]:
    """Do a stage's recipe on a disk that is full from that stage on, then make room and go on.

    Returns:
        ``full``: whether the command ended for it; ``said`` of it; ``wrong``: what is, empty if nothing.
    """
    place = ground.fresh(kills.RECIPES[STAGES[name].recipe])
    on_disk = place / "disk"
    on_disk.mkdir()
    with disk(on_disk):
        for top in ("run", "cache", "tmp"):
            shutil.move(place / top, on_disk / top) if (place / top).exists() else None
            (place / top).symlink_to(on_disk / top)
            (on_disk / top).mkdir(exist_ok=True)
        fault = kills.Fault(full=STAGES[name].file, filler=str(on_disk / FILLER))
        return attempt(ground, name, place, on_disk, fault)


def attempt(ground: kills.Ground, name: str, place: Path, written: Path, fault: kills.Fault) -> dict[str, Any]:
    """A command that a full disk ends, and what goes on with it."""
    recipe = kills.RECIPES[STAGES[name].recipe]
    first = ground.parent.run(recipe.words, place, fault)
    filled = not fault.filler or Path(fault.filler).exists()
    Path(fault.filler).unlink(missing_ok=True) if fault.filler else None
    words = kills.following(recipe, place)
    way_on = "ddcore resume run" if words[0] == "resume" else "same command"
    after = ground.parent.run(words, place) if first.code else first
    wrong = [
        *([] if filled else ["the stage was not reached"]),
        *([] if first.code == FULL else [f"exit code {first.code}"]),
        *([] if not first.code or "the disk is full" in first.said else ["no word of a full disk"]),
        *([] if not first.code or way_on in first.said else [f"no word of {way_on!r}"]),
        *([] if sum(line.startswith(("stopped:", "error:")) for line in first.said.splitlines()) <= 1 else ["words"]),
        *(["a traceback"] if first.traceback or after.traceback else []),
        *([] if after.code == 0 else [f"lost: {after.code}"]),
        *(kills.differing(kills.result(written), ground.whole(STAGES[name].recipe)[0]) if not after.code else []),
    ]
    again = after.said[-600:] if wrong else ""
    return {"full": first.code == FULL, "said": first.said[-600:] + again, "wrong": wrong}


def measure(folder: Path, names: Sequence[str] = tuple(STAGES)) -> dict[str, Any]:
    """Every stage on a disk that fills up there."""
    if not can_mount(folder):
        return {"skipped": "this process may not mount"}
    with kills.ground() as ground:
        found = {name: fill(ground, name) for name in names}
    return {
        "disks": len(found),
        "full": sum(end["full"] for end in found.values()),
        "wrong": sum(bool(end["wrong"]) for end in found.values()),
        "stages": {
            name: f"{STAGES[name].recipe}: {'went on' if not end['wrong'] else end['wrong']}"
            for name, end in found.items()
        },
        "stories": {name: end for name, end in found.items() if end["wrong"]},
    }
