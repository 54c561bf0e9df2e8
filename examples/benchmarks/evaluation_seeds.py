"""One evaluation with five seeds and ``--jobs 2`` against five evaluations of a seed each, one after another, on two cores.

Both are what a user types, ``ddcore evaluate ARTIFACT``, in processes of their own: reading the data, starting Python and worker
processes included. An evaluation trains students on the distilled set and on everything that it is set beside. Every arm begins with
an empty cache and one thread a process; the five also run with two threads, since a single evaluation has both cores to itself. All
five train the full-data row anew, as seed for seed the one evaluation does. The arms are timed alternately. MNIST, 14x14 pixels,
10 images a class, ConvNet-3 of width 16; about 25 minutes.

    python examples/benchmarks/evaluation_seeds.py
    python examples/benchmarks/evaluation_seeds.py --tiny    # digits, one round, no record: to see that it works
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from records import machine, write

SEEDS = 5
MADE = ("--plugin", "dm", "--steps", "20", "--threads", "1")
FULL = ("--dataset", "parquet:../shared/data/mnist", "--resize", "14", "--ipc", "10", "--network", "convnet3-w16")
TINY = ("--dataset", "digits", "--ipc", "1", "--network", "convnet2-w4")


def ddcore(folder: Path, *words: str) -> float:
    """Seconds of a command with an empty cache.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    cache = tempfile.mkdtemp(dir=folder)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "ddcore", *words, "--cache", cache],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    return time.perf_counter() - start


def together(folder: Path, artifact: str, words: Sequence[str]) -> float:
    """One evaluation, all seeds, two processes."""
    return ddcore(folder, "evaluate", artifact, *words, "--eval-seeds", str(SEEDS), "--jobs", "2", "--threads", "1")


def apart(folder: Path, artifact: str, words: Sequence[str], threads: int) -> float:
    """An evaluation a seed, one after another."""
    each = ("--eval-seeds", "1", "--threads", str(threads))
    return sum(ddcore(folder, "evaluate", artifact, *words, *each, "--seed", str(seed)) for seed in range(SEEDS))


def main() -> None:
    """Time the arms alternately, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--protocol", default="dsa-300")
    parser.add_argument("--full-epochs", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="just to see that it works; writes no record")
    given = parser.parse_args()
    protocol, rounds = ("quick-3", 1) if given.tiny else (given.protocol, given.rounds)
    words = ("--protocol", protocol, "--full-epochs", str(given.full_epochs))
    seconds: dict[str, list[float]] = {"together": [], "apart, 1 thread": [], "apart, 2 threads": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run = folder / "run"
        ddcore(folder, "run", *MADE, *(TINY if given.tiny else FULL), *words, "--eval-seeds", "1", "--out", str(run))
        artifact = str(run / "artifact")
        for _ in range(rounds):
            seconds["together"].append(together(folder, artifact, words))
            for threads, name in ((1, "apart, 1 thread"), (2, "apart, 2 threads")):
                seconds[name].append(apart(folder, artifact, words, threads))
    ratios = {
        name: [other / one for one, other in zip(seconds["together"], seconds[name], strict=True)]
        for name in seconds
        if name != "together"
    }
    record = {
        "what": f"one evaluation with {SEEDS} seeds and two processes, and {SEEDS} evaluations of a seed one after another",
        "protocol": protocol,
        "full_epochs": given.full_epochs,
        "data": FULL[1],
        "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
        "ratio": {name: {"median": statistics.median(values), "values": values} for name, values in ratios.items()},
        **machine(),
    }
    if not given.tiny:
        write("evaluation_seeds", record)
    print(json.dumps({name: record[name] for name in ("seconds", "ratio")}, indent=2))


if __name__ == "__main__":
    main()
