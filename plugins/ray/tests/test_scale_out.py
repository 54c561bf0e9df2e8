"""The simulation behind the plan for many GPUs, against sums that can be done by hand; and its command at a tiny size."""

import importlib.util
import math
from pathlib import Path

import pytest
from ddcore_ray import cluster

BENCHMARKS = Path(__file__).parents[3] / "examples" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Load a benchmark's script by its name."""

    def load(name):
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def scale_out(benchmark):
    return benchmark("scale_out")


def equal(scale_out, count, seconds, **sizes):
    return [scale_out.Job(mean=seconds, seconds=seconds, **sizes)] * count


@pytest.mark.parametrize(("count", "workers"), [(1, 1), (10, 3), (100, 64), (64, 64), (5, 8)])
def test_equal_jobs_take_as_many_rounds_as_workers_fit_into_them(scale_out, count, workers):
    site = scale_out.Site(workers=workers, start=2.0)
    found = scale_out.simulate(equal(scale_out, count, 7.0), site)
    assert found["seconds"] == math.ceil(count / workers) * 9.0
    assert found["share"] == pytest.approx(count * 7 / (workers * found["seconds"]))


def test_longest_first_is_better_by_what_the_long_one_would_stick_out(scale_out):
    # two workers, jobs 1 1 1 1 4: in order 2 + 4 = 6; the long one first: 4
    jobs = [scale_out.Job(mean=s, seconds=s) for s in (1.0, 1.0, 1.0, 1.0, 4.0)]
    site = scale_out.Site(workers=2, start=0.0)
    assert scale_out.simulate(jobs, site)["seconds"] == 6.0
    assert scale_out.simulate(jobs, site, longest_first=True)["seconds"] == 4.0
    assert scale_out.simulate(jobs, site)["straggling"] == 4.0


def test_a_store_that_is_slower_than_the_work_decides(scale_out):
    # 6 jobs of 1 s and 10 bytes, 3 workers, 5 bytes/s: the first ends at 1 s, then a transfer every 2 s
    found = scale_out.simulate(
        equal(scale_out, 6, 1.0, bytes_out=10.0), scale_out.Site(workers=3, start=0, bandwidth=5)
    )
    assert found["seconds"] == 13.0 and found["gigabytes"] == 60e-9


def test_checkpoints_cost_their_bytes_and_the_last_one_is_the_result(scale_out):
    # 10 s in chunks of 4: checkpoints at 4 and 8, of 2 s each
    site = scale_out.Site(workers=1, start=0.0, between=4.0, bandwidth=1.0)
    found = scale_out.simulate(equal(scale_out, 1, 10.0, bytes_checkpoint=2.0), site)
    assert found["seconds"] == 14.0 and found["gigabytes"] == 4e-9


def test_checkpoints_of_many_workers_wait_for_each_other(scale_out):
    # two workers save at 4 s, 3 s each: one goes on at 7, the other at 10, for 1 s more
    site = scale_out.Site(workers=2, start=0.0, between=4.0, bandwidth=1.0)
    assert scale_out.simulate(equal(scale_out, 2, 5.0, bytes_checkpoint=3.0), site)["seconds"] == 11.0


def test_a_death_costs_what_was_done_since_the_last_checkpoint_and_a_start(scale_out):
    world = scale_out.World(scale_out.Site(workers=1, start=5.0, between=3.0), equal_queue(scale_out, 10.0), None)
    worker = scale_out.Worker()
    assert world.go_on(worker, 0.0) == 8.0  # started, and the first checkpoint is due
    worker.dies = 10.0
    assert world.go_on(worker, 8.0) == 10.0
    assert world.go_on(worker, 10.0) == 18.0 and world.deaths == 1  # again from 7 s left
    assert worker.todo == 7.0


def equal_queue(scale_out, seconds):
    return [(scale_out.Job(mean=seconds, seconds=seconds), seconds)]


def test_deaths_are_as_frequent_as_said_and_lose_no_job(scale_out):
    site = scale_out.Site(workers=4, start=0.0, deaths=2.0, between=60.0)
    found = scale_out.simulate(equal(scale_out, 400, 900.0), site, seed=1)
    hours = found["seconds"] * 4 / 3600
    assert found["deaths"] == pytest.approx(2 * hours, rel=0.2)
    assert 1 - found["share"] == pytest.approx(30 * found["deaths"] / (hours * 3600), rel=0.4)  # half a chunk each


def test_the_tasks_are_those_of_the_paper(scale_out):
    assert scale_out.RECOVERY["tasks"] == 500 and scale_out.EXPERTS["tasks"] == 100
    assert scale_out.RECOVERY["bytes_out"] * scale_out.RECOVERY["tasks"] == 50_000 * 3 * 224 * 224 * 4


def test_what_is_measured_and_simulated_is_a_record(scale_out):
    record = scale_out.measure(tiny=True, rounds=1)
    assert len(record["recovery"]["measured_seconds"]) == len(record["expert"]["measured_seconds"]) == 3
    lines = scale_out.table(record).splitlines()
    assert len(lines) == 2 + len(scale_out.WORKERS) + 4
    seconds = [record["recovery"]["by_workers"][str(n)]["seconds"] for n in scale_out.WORKERS]
    assert seconds == sorted(seconds, reverse=True)
    README = (BENCHMARKS.parents[1] / "plugins" / "ray" / "README.md").read_text()
    assert all(mark in README for mark in scale_out.MARKS)


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_rates_are_tasks_a_second_of_the_same_bits(executor, benchmark):
    if executor == "ray":
        pytest.importorskip("ray", reason="ray is not installed: pip install 'ddcore-ray[ray]'")
    recovery = benchmark("recovery_jobs")
    given = {**recovery.GIVEN, "dataset": "digits", "network": "convnet2-bn-w4"}
    try:
        found = recovery.measure(["here", executor], [1], ipc=2, steps=2, given=given)
    finally:
        cluster.leave()
    assert found["same_bits"] and found["rates"][executor]["1"]["tasks"] == 2
    one = found["rates"][executor]["1"]
    assert one["rate"] == 2 / one["seconds"]
