"""Commands on a disk that fills up: a small tmpfs, made larger after the command has said so, on which it then goes on to the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reliability import kills

ROOM = "64m"


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a tmpfs."""
    if not sys.platform.startswith("linux") or os.geteuid():
        return False
    try:
        with disk(folder, ROOM):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    """A tmpfs at a folder."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def needed(ground: kills.Ground, name: str) -> int:
    """Bytes that a recipe's files take in pages."""
    ground.whole(name)
    files = [p for top in ("run", "cache") for p in (ground.folder / f"whole-{name}" / top).rglob("*")]
    return sum(-(-max(1, p.lstat().st_size) // 4096) * 4096 for p in files)


def fill(ground: kills.Ground, name: str, size: int) -> dict[str, Any]:
    """Do a recipe on a disk of so many bytes, then make room and go on.

    Returns:
        ``full``: whether it did not fit; ``said`` of it; ``wrong``: what is, empty if nothing.
    """
    recipe = kills.RECIPES[name]
    place = ground.fresh(recipe)
    (place / "disk").mkdir()
    with disk(place / "disk", str(size)):
        for top in ("run", "cache"):
            (place / "disk" / top).mkdir()
            (place / top).symlink_to(place / "disk" / top)
        first = ground.parent.run(recipe.words, place)
        after, again = first, ""
        if first.code:
            subprocess.run(["mount", "-o", f"remount,size={ROOM}", str(place / "disk")], check=True)
            after = ground.parent.run(kills.following(recipe, place), place)
            again = after.said
        differing = kills.differing(kills.result(place / "disk"), ground.whole(name)[0]) if not after.code else []
    sentence = first.code == 0 or (first.code == 2 and "the disk is full" in first.said)
    wrong = [
        *([] if sentence else [f"no sentence, code {first.code}"]),
        *(["a traceback"] if first.traceback or after.traceback else []),
        *([] if after.code == 0 else [f"lost: {after.code}"]),
        *differing,
    ]
    return {
        "size": size,
        "full": first.code != 0,
        "said": first.said[-600:] + again[-600:] * bool(wrong),
        "wrong": wrong,
    }


def measure(
    sizes: int, folder: Path, names: tuple[str, ...] = ("experts", "teachers", "train", "relabel")
) -> dict[str, Any]:
    """Each recipe on disks of so many sizes, from nothing to what it needs."""
    if not can_mount(folder):
        return {"skipped": "this process may not mount"}
    with kills.ground() as ground:
        found = {
            name: [
                fill(ground, name, 4096 * max(1, needed(ground, name) * n // sizes // 4096)) for n in range(1, sizes)
            ]
            for name in names
        }
    ends = [end for each in found.values() for end in each]
    return {
        "disks": len(ends),
        "full": sum(end["full"] for end in ends),
        "wrong": sum(bool(end["wrong"]) for end in ends),
        "by_command": {name: sum(end["full"] for end in each) for name, each in found.items()},
        "stories": [end for end in ends if end["wrong"]],
    }
