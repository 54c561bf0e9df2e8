"""Where independent tasks run. An executor sees tasks as JSON and results as files,
so every one gives the same bits."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from queue import Empty, SimpleQueue
from threading import Thread
from types import ModuleType
from typing import Any

from ddcore.errors import DdcoreError, Interrupted
from ddcore.runs.work import check_stop, stop, work

ATTEMPTS = 3
SECONDS_BETWEEN_LOOKS = 0.5
"""A driver that waits for its workers looks so often whether it was told to stop."""
STOPPED = Interrupted.exit_code
Description = Mapping[str, Any]
Done = Callable[[str], None]


class Here:
    """One task after the other, in this process."""

    def map(self, run_url: str, tasks: Sequence[Description], jobs: int, done: Done) -> None:
        """See ``Executor.map``; ``jobs`` does not matter."""
        for task in tasks:
            work(run_url, task)
            done(task["key"])


def leave_with_parent() -> None:
    """End this worker when the process that began it is gone, however that ended; Ctrl-C, which reaches both,
    is the driver's."""
    parent = parent_process()

    def leave() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=leave, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def work_in_pool(run_url: str, task: Description) -> None:
    """Do a task in a worker; after SIGTERM up to its next step, whose state is saved, and then the worker ends."""

    def told(number: int, frame: Any) -> None:
        if not stop(run_url):
            os._exit(STOPPED)

    before = signal.signal(signal.SIGTERM, told)
    try:
        work(run_url, task)
    except Interrupted:
        os._exit(STOPPED)
    finally:
        signal.signal(signal.SIGTERM, before)


def stop_all(workers: Iterable[BaseProcess]) -> None:
    """Have workers stop at their next step; at once, if Ctrl-C comes while they do."""
    workers = list(workers)
    for worker in workers:
        worker.terminate()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        for worker in workers:
            worker.kill()
        raise


@contextmanager
def without_main() -> Iterator[None]:
    """Let processes that are spawned here not run the program's main file again: they need nothing of it, and a script
    without ``if __name__ == "__main__"`` would begin anew in each of them."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class Processes:
    """Spawned worker processes; a worker that dies breaks its pool, so what has no result goes to a new one."""

    def map(self, run_url: str, tasks: Sequence[Description], jobs: int, done: Done) -> None:
        """See ``Executor.map``.

        Raises:
            DdcoreError: workers died ``ATTEMPTS`` times without a task being done in between.
        """
        left, broken = {task["key"]: task for task in tasks}, 0
        while left and broken < ATTEMPTS:
            before = len(left)
            try:
                self._pool(run_url, left, jobs, done)
                return
            except BrokenProcessPool:
                broken = broken + 1 if len(left) == before else 1
        if left:
            names = ", ".join(sorted(left)[:3])
            raise DdcoreError(
                f"worker processes died {ATTEMPTS} times on tasks {names}: give them more memory or fewer --jobs"
            )

    def _pool(self, run_url: str, left: dict[str, Description], jobs: int, done: Done) -> None:
        context, others = get_context("spawn"), {*active_children()}
        with ProcessPoolExecutor(
            max_workers=min(jobs, len(left)), mp_context=context, initializer=leave_with_parent
        ) as pool:
            try:
                with without_main():
                    futures = {pool.submit(work_in_pool, run_url, dict(task)): key for key, task in left.items()}
                ended: SimpleQueue[Future[None]] = SimpleQueue()
                for future in futures:
                    future.add_done_callback(ended.put)
                while left:
                    check_stop(run_url)
                    try:
                        future = ended.get(timeout=SECONDS_BETWEEN_LOOKS)
                    except Empty:
                        continue
                    future.result()
                    del left[futures[future]]
                    done(futures[future])
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                stop_all({*active_children()} - others)
                raise


EXECUTORS: dict[str, type[Here] | type[Processes]] = {"here": Here, "processes": Processes}
