"""Time of one outer step against images a class and against classes, for dm, dc and mtt: a line, as the work is.

Random 3x32x32 images, ConvNet-3 of width 32; dc makes one match, mtt five inner steps on all synthetic images from an expert that
need not be any good. Each point is the median of some steps after one that does not count; ``fit`` is the least-squares line and
the share of variance that it explains.

    python examples/benchmarks/cost_curve.py [--rounds 5] [--threads 2]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from records import machine, write

from ddcore.composing.selection import select, setup_from
from ddcore.runs.cutting import distillation_task
from ddcore.runs.loop import begin, outer_step
from ddcore.runs.record import write_record
from ddcore.runs.run import Run
from ddcore.storage import Place

IPCS, CLASSES = (1, 10, 20, 30, 50), (2, 5, 10, 15, 20)
BASE = 10
METHODS: dict[str, dict[str, Any]] = {
    "dm": {"dm__batch_real": 64},
    "dc": {"dc__batch_real": 64, "dc__outer_loops": 1},
    "mtt": {
        **{"mtt__student_steps": 5, "mtt__expert_epochs": 1, "mtt__max_start_epoch": 1},
        **{"experts__count": 1, "experts__epochs": 1, "experts__batch": 64},
    },
}


def main() -> None:
    """Time every point, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    curves = {}
    for method in METHODS:
        by_ipc = {ipc: seconds(method, ipc, BASE, options) for ipc in IPCS}
        by_classes = {classes: seconds(method, BASE, classes, options) for classes in CLASSES}
        curves[method] = {
            "images a class": {"classes": BASE, "seconds": by_ipc, "fit": line(by_ipc)},
            "classes": {"images a class": BASE, "seconds": by_classes, "fit": line(by_classes)},
        }
        print(json.dumps({method: curves[method]}), flush=True)
    record = {
        "what": "seconds of an outer step; random 3x32x32 images, ConvNet-3 of width 32; dc one match, mtt five inner steps",
        "command": "python examples/benchmarks/cost_curve.py",
        "curves": curves,
        **machine(),
    }
    write("cost_curve", record)


def seconds(method: str, ipc: int, classes: int, options: argparse.Namespace) -> float:
    """Median time of a step."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (64 * classes, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(64 * classes) % classes
        np.savez(data, x_train=images, y_train=labels, x_test=images[: 4 * classes], y_test=labels[: 4 * classes])
        given = {"dataset": f"npz:{data}", "network": "convnet3-w32", "ipc": ipc, "threads": options.threads}
        given |= {"plugins": (method,), "cache": str(Path(folder) / "cache"), **METHODS[method]}
        words = ["--plugin", method, "--preset", "none"]
        run = Run(setup_from(select(words, {}), given, {}), Place.at(Path(folder) / "run"))
        write_record(run, ["ddcore", *words])
        task = distillation_task(run)
        learn = begin(task, run)
        taken = []
        for step in range(options.rounds + 1):
            start = time.perf_counter()
            outer_step(task, step, learn, run)
            taken.append(time.perf_counter() - start)
        return round(median(taken[1:]), 4)


def line(points: dict[int, float]) -> dict[str, float]:
    """Least squares, and the share of variance explained."""
    x, y = np.array(list(points)), np.array(list(points.values()))
    slope, offset = np.polyfit(x, y, 1)
    explained = 1 - np.square(y - slope * x - offset).sum() / np.square(y - y.mean()).sum()
    return {
        "seconds each": round(float(slope), 5),
        "offset": round(float(offset), 5),
        "explained": round(float(explained), 4),
    }


if __name__ == "__main__":
    main()
