"""Where independent tasks run. An executor sees tasks as JSON and results as files, so every one gives the same bits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, Protocol

from ddcore.errors import DdcoreError

ATTEMPTS = 3
Description = Mapping[str, Any]
Done = Callable[[str], None]


class Executor(Protocol):
    """Does tasks somewhere."""

    def map(self, run_url: str, tasks: Sequence[Description], jobs: int, done: Done) -> None:
        """Do every task; each leaves its result in the run's ``checkpoints`` folder.

        Args:
            run_url: the run directory, from whose ``run.json`` a worker rebuilds everything.
            tasks: descriptions, as ``ddcore.work`` reads them.
            jobs: how many at a time, at most.
            done: called in this process with each finished task's key.
        """


class Here:
    """One task after the other, in this process."""

    def map(self, run_url: str, tasks: Sequence[Description], jobs: int, done: Done) -> None:
        """See ``Executor.map``; ``jobs`` does not matter."""
        from ddcore.work import work

        for task in tasks:
            work(run_url, task)
            done(task["key"])


def leave_with_parent() -> None:
    """End this worker when the process that began it is gone, however that ended."""
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


class Processes:
    """Spawned worker processes; a worker that dies breaks its pool, so what has no result goes to a new one."""

    def map(self, run_url: str, tasks: Sequence[Description], jobs: int, done: Done) -> None:
        """See ``Executor.map``.

        Raises:
            DdcoreError: a task's worker died ``ATTEMPTS`` times.
        """
        left = {task["key"]: task for task in tasks}
        for _ in range(ATTEMPTS):
            try:
                self._pool(run_url, left, jobs, done)
                return
            except BrokenProcessPool:
                continue
        names = ", ".join(sorted(left)[:3])
        raise DdcoreError(
            f"worker processes died {ATTEMPTS} times on tasks {names}: give them more memory or fewer --jobs"
        )

    def _pool(self, run_url: str, left: dict[str, Description], jobs: int, done: Done) -> None:
        from ddcore.work import work

        context = get_context("spawn")
        with ProcessPoolExecutor(max_workers=jobs, mp_context=context, initializer=leave_with_parent) as pool:
            futures = {pool.submit(work, run_url, dict(task)): key for key, task in left.items()}
            try:
                for future in as_completed(futures):
                    future.result()
                    del left[futures[future]]
                    done(futures[future])
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


EXECUTORS: dict[str, type[Here] | type[Processes]] = {"here": Here, "processes": Processes}
