"""What 5,000 classes and 100,000 tiny images cost: time and memory of commands from end to end, each in a process of its own.

python examples/benchmarks/large_sets.py
python examples/benchmarks/large_sets.py --classes 50 --images 1000 --tiny
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from records import machine, write

SMALL = [
    "--network",
    "convnet2-w4",
    "--preset",
    "none",
    "--protocol",
    "quick-1",
    "--eval-seeds",
    "1",
    "--full-epochs",
    "1",
    "--threads",
    "1",
]


def make(file: Path, classes: int, images: int) -> None:
    """Images of 8x8 pixels, as many of each class, whose brightness tells classes apart a little."""
    generator = np.random.default_rng(0)
    labels = np.arange(images) % classes
    noise = generator.integers(0, 100, (images, 8, 8, 1), dtype=np.uint8)
    pixels = noise + (labels * 150 // classes).astype(np.uint8)[:, None, None, None]
    test = slice(0, max(classes, images // 10))
    np.savez(file, x_train=pixels, y_train=labels, x_test=pixels[test], y_test=labels[test])


def measured(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Do a command; its seconds, seconds of CPU time, and largest memory in bytes."""
    began = time.monotonic()
    command = [sys.executable, "-m", "ddcore", *words]
    with open(folder / "said.txt", "w") as said:
        process = subprocess.Popen(
            command, cwd=folder, stdout=said, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit((folder / "said.txt").read_text())
    return {
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }


def main() -> None:
    """Measure each command and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=5000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--tiny", action="store_true", help="just to see that it works; writes no record")
    given = parser.parse_args()
    run = ["run", "--plugin", "dm", "--dataset", "npz:data.npz", "--ipc", "1", "--steps", "1", "--dm.batch-real", "4"]
    commands = {
        "data show": ["data", "show", "npz:data.npz"],
        "run": [*run, *SMALL, "--cache", "cache", "--out", "run"],
        "inspect": ["inspect", "run/artifact"],
        "evaluate": ["evaluate", "run/artifact", "--dataset", "npz:data.npz", *SMALL[4:], "--cache", "cache"],
        "relabel": ["relabel", "run/artifact", "--dataset", "npz:data.npz", "--labels", "hard", "--out", "new"],
        "export": ["export", "run/artifact", "--to", "folder", "--out", "pictures"],
        "report": ["report", "run"],
    }
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch) / "data.npz", given.classes, given.images)
        for name, words in commands.items():
            found[name] = measured(words, Path(scratch))
            print(name, found[name], flush=True)
        page = (Path(scratch) / "run/report.html").stat().st_size
    if not given.tiny:
        facts = {"classes": given.classes, "images": given.images, "pixels": [8, 8, 1], "report_bytes": page}
        write("large_sets", {"what": "commands on many classes", **facts, "commands": found, **machine()})


if __name__ == "__main__":
    main()
