"""Recovery through the executor: are the bits of ``--jobs 2`` those of one, and how much faster does it get?

SRe2L's slots and blocks are independent tasks. The same run (CIFAR-10's JPEG copy, ConvNet-3 with batch norm of width 16, teacher
from the cache) is made with one job and with two, alternately; each job has one thread. What is timed is the recovery alone, from
the first task's begin to the last one's end, starting of processes included; ``starting`` is what two jobs take for tasks of one
step, and ``ratio_without_start`` leaves it out. About 5 minutes on two cores.

    python examples/benchmarks/recovery_jobs.py
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from records import machine, write

from ddcore.composing.selection import select, setup_from
from ddcore.runs.assembly import claim
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.distil import assemble
from ddcore.runs.executors import EXECUTORS
from ddcore.runs.record import write_record
from ddcore.runs.run import Run
from ddcore.storage import Place, sha256_of

GIVEN = {
    "dataset": "parquet:../shared/data/cifar10-jpeg",
    "network": "convnet3-bn-w16",
    "labels": "hard",
    "threads": 1,
    "teachers__epochs": 1,
    "teachers__check": False,
}
CLASSES, BLOCK = 10, 100
"""Of the data, and in a task: so a task a slot."""


def recovered(
    folder: Path, jobs: int, ipc: int, steps: int, executor: str = "here", given: Mapping[str, Any] = GIVEN
) -> tuple[float, str]:
    """Seconds of the recovery and the digest of what it made.

    Args:
        executor: ``here`` with several jobs means processes, as everywhere; one of a plugin is selected with the plugin called like it.
    """
    place = Place.at(folder / f"{executor}-{jobs}-{time.time_ns()}")
    own = {"ipc": ipc, "steps": steps, "jobs": jobs, "executor": executor, "cache": str(folder / "cache")}
    words = [] if executor in EXECUTORS else ["--plugin", executor]
    run = Run(setup_from(select(["--plugin", "sre2l", *words, "--preset", "none"], {}), {**given, **own}, {}), place)
    claim(place)
    write_record(run, ["recovery_jobs"])
    _ = run.teachers
    tasks = distillation_tasks(run)
    start = time.perf_counter()
    run.map(tasks)
    seconds = time.perf_counter() - start
    return seconds, sha256_of(assemble(run, tasks).tensors["pixels"].numpy().tobytes())


def rates(
    executor: str, jobs: int, *, ipc: int = 6, steps: int = 1000, given: Mapping[str, Any] = GIVEN
) -> dict[str, Any]:
    """Recovery tasks a second by an executor with so many workers: ``recovered`` thrice.

    Returns:
        ``cold_start``: seconds of the first call, whose tasks have one step: engine and workers begin in it; ``start``: of such a call
        again; ``seconds``: of the call that counts; ``rate``: its tasks a second, and ``rate_without_start``: those with ``start`` left
        out; ``digest``: of what was made.
    """
    with tempfile.TemporaryDirectory() as folder:
        recovered(Path(folder), 1, ipc, 1, given=given)  # trains the teacher
        cold, _ = recovered(Path(folder), jobs, ipc, 1, executor, given)
        start, _ = recovered(Path(folder), jobs, ipc, 1, executor, given)
        seconds, digest = recovered(Path(folder), jobs, ipc, steps, executor, given)
    tasks = ipc * -(-CLASSES // BLOCK)
    found = {"cold_start": cold, "start": start, "seconds": seconds, "rate": tasks / seconds}
    return {**found, "rate_without_start": tasks / max(seconds - start, 1e-9), "tasks": tasks, "digest": digest}


def measure(
    executors: Sequence[str] = ("processes", "ray"), jobs: Sequence[int] = (1, 2), **more: Any
) -> dict[str, Any]:
    """``rates`` of executors at numbers of workers, one after the other, as JSON values; ``same_bits``: whether all made the same."""
    found = {executor: {str(n): rates(executor, n, **more) for n in jobs} for executor in executors}
    digests = {each["digest"] for by_jobs in found.values() for each in by_jobs.values()}
    return {"rates": found, "same_bits": len(digests) == 1}


def main() -> None:
    """Alternate one job and two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ipc", type=int, default=6)
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args()
    seconds: dict[int, list[float]] = {1: [], 2: []}
    digests = set()
    starting = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            for jobs, found in seconds.items():
                took, digest = recovered(Path(folder), jobs, given.ipc, given.steps)
                found.append(round(took, 2))
                digests.add(digest)
            starting.append(round(recovered(Path(folder), 2, given.ipc, 1)[0], 2))
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    bare = [one / (two - start) for one, two, start in zip(seconds[1], seconds[2], starting, strict=True)]
    record = {
        "what": "recovery of SRe2L's tasks with one job and with two, alternately; a thread each; processes started anew",
        "tasks": given.ipc,
        "steps": given.steps,
        "seconds": {str(jobs): found for jobs, found in seconds.items()},
        "starting": starting,
        "ratio": {"median": statistics.median(ratios), "values": ratios},
        "ratio_without_start": {"median": statistics.median(bare), "values": bare},
        "same_bits": len(digests) == 1,
        **machine(),
    }
    write("recovery_jobs", record)
    print(
        json.dumps(
            {name: record[name] for name in ("seconds", "starting", "ratio", "ratio_without_start", "same_bits")},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
