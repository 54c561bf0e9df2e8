"""How ImageNet-1K recovery and 100 experts spread over up to 64 GPUs, by simulation from task times that are measured here.

What is measured: how far tasks of equal size differ in time, as ratios to their mean, for both kinds on this machine (small networks, CPU, a
thread, one task after the other). What is assumed, and nothing else: a task's mean seconds on a GPU (its floating-point operations over
``TERAFLOPS``), the store's bandwidth, seconds until a worker can begin, and how often a worker dies. The simulation draws each task's ratio
from the measured ones, shares the store's bandwidth among transfers in turn, and gives a free worker the next task.

    python examples/benchmarks/scale_out.py            # two minutes; writes results/scale_out.json and the table of plugins/ray/README.md
    python examples/benchmarks/scale_out.py --tiny     # seconds; prints only
"""

import argparse
import heapq
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, evolve, frozen
from records import machine, write

from ddcore.composing.selection import select, setup_from
from ddcore.runs.assembly import claim
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.record import write_record
from ddcore.runs.run import Run
from ddcore.storage import Place
from ddcore.training.experts import expert_task

README = Path(__file__).parents[2] / "plugins" / "ray" / "README.md"
MARKS = ("<!-- scale-out -->", "<!-- /scale-out -->")
TERAFLOPS = 10.0
"""Assumed: 10^12 operations that a GPU does a second, with everything between them."""
WORKERS = (1, 8, 16, 32, 50, 64)
ROUNDS = 20
SMALL = {"dataset": "digits", "threads": 1, "labels": "hard", "full_epochs": 1}


# ---- the simulation --------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Job:
    """A task of a kind.

    Attributes:
        mean: seconds that tasks like it take on average: what is known beforehand.
        seconds: that this one takes.
        bytes_out: that it writes when it is done.
        bytes_checkpoint: that it writes at each checkpoint.
    """

    mean: float
    seconds: float
    bytes_out: float = 0.0
    bytes_checkpoint: float = 0.0


@frozen(kw_only=True)
class Site:
    """Where jobs run; every number is an assumption.

    Attributes:
        workers: GPUs.
        start: seconds from being given a task until it begins: Python, torch, CUDA.
        bandwidth: bytes a second of the store, shared by all.
        deaths: of a worker, an hour; its task goes on from its last checkpoint, elsewhere.
        between: seconds between checkpoints.
    """

    workers: int
    start: float = 15.0
    bandwidth: float = 1e9
    deaths: float = 0.0
    between: float = 300.0


@define
class Worker:
    """What a worker is at.

    Attributes:
        todo: seconds of its job that are left; ``saved``: that would be left if it died.
        chunk: seconds that it works until its next checkpoint, or the end.
        dies: when.
    """

    job: Job | None = None
    todo: float = 0.0
    saved: float = 0.0
    chunk: float = 0.0
    dies: float = float("inf")


@define
class World:
    """A simulation at some moment.

    Attributes:
        queue: jobs to be taken, the next one last, each with the seconds that are left of it.
        store: when the store is done with what it was asked for.
    """

    site: Site
    queue: list[tuple[Job, float]]
    draws: random.Random
    store: float = 0.0
    moved: float = 0.0
    deaths: int = 0

    def put(self, now: float, size: float) -> float:
        """When a transfer that is asked for now has ended: the store serves one after the other, with all of its bandwidth."""
        self.moved += size
        self.store = max(self.store, now) + size / self.site.bandwidth if size else self.store
        return self.store if size else now

    def go_on(self, worker: Worker, now: float) -> float | None:
        """Let a worker do the next thing; when that has ended, or None if there is nothing left for it."""
        if worker.job is not None and now >= worker.dies:
            self.queue.append((worker.job, worker.saved))
            self.deaths += 1
            worker.job = None
        if worker.job is None:
            return self.begin(worker, now) if self.queue else None
        worker.todo -= worker.chunk
        if worker.todo <= 0:
            done, worker.job = worker.job, None
            return self.put(now, done.bytes_out)
        worker.saved = worker.todo
        return self.work(worker, self.put(now, worker.job.bytes_checkpoint))

    def begin(self, worker: Worker, now: float) -> float:
        """Give a worker the next job."""
        worker.job, worker.todo = self.queue.pop()
        worker.saved = worker.todo
        rate = self.site.deaths / 3600
        worker.dies = now + self.draws.expovariate(rate) if rate else float("inf")
        return self.work(worker, now + self.site.start)

    def work(self, worker: Worker, now: float) -> float:
        """When it reaches its next checkpoint, the end, or its own."""
        worker.chunk = min(worker.todo, self.site.between)
        return max(now, min(now + worker.chunk, worker.dies))


def simulate(jobs: Sequence[Job], site: Site, *, longest_first: bool = False, seed: int = 0) -> dict[str, float]:
    """Seconds until the last job is done, each free worker taking the next one.

    Returns:
        ``seconds``; ``share``: of the workers' time that jobs needed; ``straggling``: seconds from the first idle worker to the end;
        ``gigabytes`` that were written; ``deaths``.
    """
    ordered = sorted(jobs, key=lambda job: -job.mean) if longest_first else jobs
    world = World(site, [(job, job.seconds) for job in reversed(ordered)], random.Random(seed))
    workers = [Worker() for _ in range(site.workers)]
    events = [(0.0, number) for number in range(site.workers)]
    idle: list[float] = []
    while events:
        now, number = heapq.heappop(events)
        ends = world.go_on(workers[number], now)
        if ends is None:
            idle.append(now)
        else:
            heapq.heappush(events, (ends, number))
    return {
        "seconds": max(idle),
        "share": sum(job.seconds for job in jobs) / (max(idle) * site.workers),
        "straggling": max(idle) - min(idle),
        "gigabytes": world.moved / 1e9,
        "deaths": float(world.deaths),
    }


def drawn(mean: float, count: int, ratios: Sequence[float], seed: int, **sizes: float) -> list[Job]:
    """Jobs of one kind, whose times are the mean times a measured ratio each."""
    draws = random.Random(seed)
    return [Job(mean=mean, seconds=mean * draws.choice(ratios), **sizes) for _ in range(count)]


def averaged(
    jobs_of: Callable[[int], Sequence[Job]], site: Site, *, longest_first: bool = False, rounds: int = ROUNDS
) -> dict[str, float]:
    """Means over drawn worlds, and the largest ``seconds`` of them."""
    found = [simulate(jobs_of(seed), site, longest_first=longest_first, seed=seed) for seed in range(rounds)]
    made = {name: statistics.fmean(each[name] for each in found) for name in found[0]}
    return {**{n: round(v, 4) for n, v in made.items()}, "slowest": round(max(each["seconds"] for each in found), 1)}


# ---- what is to be done ----------------------------------------------------------------------------------------------

PIXELS = 3 * 224 * 224
RECOVERY: Mapping[str, float] = {
    "tasks": 1000 // 100 * 50,  # blocks of 100 classes x slots of one image a class
    "steps": 4000,
    "images": 100,
    "operations": 4000
    * 100
    * 2
    * 2
    * 1.82e9,  # ResNet-18 forward, and back to the pixels: 2 x 1.82e9 multiply-adds x 2
    "bytes_out": 4 * 100 * PIXELS,
    "bytes_checkpoint": 3 * 4 * 100 * PIXELS,  # pixels and Adam's two moments
}
EXPERTS: Mapping[str, float] = {
    "tasks": 100,
    "operations": 50 * 50_000 * 3 * 0.10e9,  # 50 epochs of CIFAR-10; forward of ConvNet-3 0.10e9, backward twice that
    "bytes_out": 51 * 4 * 320_010,  # its weights after each epoch
    "bytes_checkpoint": 2 * 4 * 320_010,
}


def plan(kind: Mapping[str, float], ratios: Sequence[float]) -> Callable[[int], list[Job]]:
    """The jobs of a kind as they fall out in a world of a seed."""
    sizes = {name: kind[name] for name in ("bytes_out", "bytes_checkpoint")}
    mean = kind["operations"] / (TERAFLOPS * 1e12)
    return lambda seed: drawn(mean, int(kind["tasks"]), ratios, seed, **sizes)


# ---- what is measured ------------------------------------------------------------------------------------------------


def measured(run: Run, tasks: Sequence[Any]) -> list[float]:
    """Seconds of each task, done one after the other in this process; the first, which warms up, is left out."""
    marks = [time.perf_counter()]
    for task in tasks:
        run.map([task])
        marks.append(time.perf_counter())
    return [later - earlier for earlier, later in zip(marks[1:], marks[2:], strict=False)]


def begun(folder: Path, name: str, words: Sequence[str], given: Mapping[str, Any]) -> Run:
    """A run on digits whose tasks can be done."""
    place = Place.at(folder / name)
    run = Run(
        setup_from(select([*words, "--preset", "none"], {}), {**SMALL, **given, "cache": str(folder / "cache")}, {}),
        place,
    )
    claim(place)
    write_record(run, ["scale_out"])
    return run


def local_times(tiny: bool) -> dict[str, list[float]]:
    """Measured seconds of both kinds of tasks: as many as there are in a minute each, or a few."""
    count, steps, epochs = (4, 5, 1) if tiny else (31, 200, 3)
    with tempfile.TemporaryDirectory() as folder:
        teachers = {"teachers__epochs": 1, "teachers__check": False}
        given = {"network": "convnet2-bn-w4", "ipc": count, "steps": steps, **teachers}
        recovery = begun(Path(folder), "recovery", ["--plugin", "sre2l"], given)
        _ = recovery.teachers
        given = {"network": "convnet2-w4", "ipc": 1, "experts__epochs": epochs, "experts__count": count}
        experts = begun(Path(folder), "experts", ["--plugin", "mtt"], given)
        _ = experts.real
        tasks = [expert_task(experts, "scale-out", number, epochs) for number in range(count)]
        return {
            "recovery": measured(recovery, distillation_tasks(recovery)),
            "expert": measured(experts, tasks),
        }


def ratios_of(seconds: Sequence[float]) -> list[float]:
    """Each time over the mean of all."""
    mean = statistics.fmean(seconds)
    return [each / mean for each in seconds]


# ---- the record ------------------------------------------------------------------------------------------------------


def measure(tiny: bool = False, rounds: int = ROUNDS) -> dict[str, Any]:
    """Times measured here, and what the simulation makes of them, as JSON values."""
    local = local_times(tiny)
    record: dict[str, Any] = {
        "what": "simulated spreading of ImageNet-1K IPC 50 recovery and of 100 experts over GPUs; ratios of task times are measured, means assumed",
        "assumed": {
            "teraflops": TERAFLOPS,
            **{n: getattr(Site(workers=1), n) for n in ("start", "bandwidth", "between")},
            "deaths": "0, or 1 a worker and day",
        },
        "rounds": rounds,
    }
    for name, kind in (("recovery", RECOVERY), ("expert", EXPERTS)):
        jobs_of = plan(kind, ratios_of(local[name]))
        seconds = kind["operations"] / (TERAFLOPS * 1e12)
        record[name] = {
            "tasks": kind["tasks"],
            "seconds_on_a_gpu": seconds,
            "measured_seconds": [round(each, 4) for each in local[name]],
            "scale": seconds / statistics.fmean(local[name]),
            "spread": statistics.stdev(ratios_of(local[name])),
            "by_workers": {str(n): averaged(jobs_of, Site(workers=n), rounds=rounds) for n in WORKERS},
            **at_most_workers(jobs_of, rounds),
        }
    record["both"] = both(local, rounds)
    return {**record, **machine()}


def at_most_workers(jobs_of: Callable[[int], Sequence[Job]], rounds: int) -> dict[str, dict[str, float]]:
    """What changes on all workers when they die, when the store is slow, and when checkpoints are as frequent as on one machine."""
    most = Site(workers=WORKERS[-1])
    return {
        "deaths_1_a_day": averaged(jobs_of, evolve(most, deaths=1 / 24), rounds=rounds),
        "deaths_1_an_hour": averaged(jobs_of, evolve(most, deaths=1.0), rounds=rounds),
        "store_100_megabytes_a_second": averaged(jobs_of, evolve(most, bandwidth=1e8), rounds=rounds),
        "checkpoints_every_10_s": averaged(jobs_of, evolve(most, between=10.0), rounds=rounds),
    }


def both(local: Mapping[str, Sequence[float]], rounds: int) -> dict[str, dict[str, float]]:
    """One queue of both kinds, experts last, as it stands and with the longer kind first."""
    parts = [plan(RECOVERY, ratios_of(local["recovery"])), plan(EXPERTS, ratios_of(local["expert"]))]
    mixed = sorted(parts, key=lambda jobs_of: jobs_of(0)[0].mean)
    site = Site(workers=WORKERS[-1])

    def jobs_of(seed: int) -> list[Job]:
        return [job for part in mixed for job in part(seed)]

    return {
        "shorter_first": averaged(jobs_of, site, rounds=rounds),
        "longest_first": averaged(jobs_of, site, longest_first=True, rounds=rounds),
    }


def table(record: Mapping[str, Any]) -> str:
    """The README's table."""
    recovery, expert = record["recovery"], record["expert"]
    lines = [
        "| | recovery: minutes | busy | stragglers | 100 experts: minutes | busy |",
        "| --- | --- | --- | --- | --- | --- |",
    ]

    def row(label: str, one: Mapping[str, float], other: Mapping[str, float]) -> str:
        cells = (
            one["seconds"] / 60,
            100 * one["share"],
            one["straggling"],
            other["seconds"] / 60,
            100 * other["share"],
        )
        return (
            f"| {label} | {cells[0]:,.1f} | {cells[1]:.0f} % | {cells[2]:.0f} s | {cells[3]:,.1f} | {cells[4]:.0f} % |"
        )

    for workers in recovery["by_workers"]:
        label = f"{workers} GPU{'s' if workers != '1' else ''}"
        lines.append(row(label, recovery["by_workers"][workers], expert["by_workers"][workers]))
    most = f"{WORKERS[-1]} GPUs, "
    for name, label in (
        ("deaths_1_a_day", "a worker dies once a day"),
        ("deaths_1_an_hour", "a worker dies once an hour"),
        ("store_100_megabytes_a_second", "the store takes 100 MB/s"),
        ("checkpoints_every_10_s", "checkpoints every 10 s"),
    ):
        lines.append(row(most + label, recovery[name], expert[name]))
    return "\n".join(lines)


def main() -> None:
    """Measure, simulate, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a few tasks and worlds; writes nothing")
    given = parser.parse_args()
    record = measure(given.tiny, 2 if given.tiny else ROUNDS)
    if not given.tiny:
        write("scale_out", record)
        before, _, rest = README.read_text().partition(MARKS[0])
        README.write_text(f"{before}{MARKS[0]}\n{table(record)}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    print(table(record))
    print(json.dumps({"spread": [record[n]["spread"] for n in ("recovery", "expert")], **record["both"]}, indent=2))


if __name__ == "__main__":
    main()
