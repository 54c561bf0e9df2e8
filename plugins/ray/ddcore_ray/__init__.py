"""Ray: do a run's tasks on a ray cluster, of one machine or many (Moritz et al., OSDI 2018, arXiv:1712.05889).

What is sent is a line of JSON, to a function that workers import; what comes back is nothing, or why not. Results are
files in the run's folder, so that any worker may do any task, twice if it must.
"""

import json
import math
import os
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

from attrs import frozen
from attrs.validators import ge, gt, optional

from ddcore import DdcoreError, Plugin, hookimpl, option
from ddcore.errors import Interrupted, OptionError
from ddcore.runs import address_elsewhere, answer, check_stop, environment_elsewhere, needs, raise_answer
from ddcore_ray import cluster

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_STOP = 10.0
"""In which a cancelled task may save its state."""


@frozen(kw_only=True, eq=False)
class Ray(Plugin):
    """Offer ``--executor ray``."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "does tasks on a ray cluster"
    paper: ClassVar[str] = "Ray: A Distributed Framework for Emerging AI Applications, OSDI 2018, arXiv:1712.05889"
    role: ClassVar[str] = "executor"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "text", "graphs", "features", "dense"})
    executors: ClassVar[tuple[str, ...]] = ("ray",)

    address: str | None = option(
        None, help="HOST:PORT of a cluster, or local: one of its own; none: RAY_ADDRESS, else local"
    )
    gpus: float | None = option(
        None, help="a task's share of a GPU; none: 1 where the run's device is cuda, else 0", validator=optional(ge(0))
    )
    cpus: float | None = option(
        None, help="a task's CPUs, for placement; none: as many as it has threads", validator=optional(gt(0))
    )
    retries: int = option(2, help="times a task is done again whose worker died", validator=ge(0))
    patience: float = option(
        600.0, help="wait for a cluster to have room for one task, which may grow", unit="seconds", validator=ge(0)
    )

    @hookimpl
    def ddcore_executor(self, name: str) -> "OnRay | None":
        """``ray``."""
        return OnRay(self) if name == "ray" else None


@frozen
class Share:
    """What a task takes of a machine."""

    cpus: float
    gpus: float


@frozen(eq=False)
class OnRay:
    """An executor: ``map`` keeps at most ``jobs`` tasks in the cluster at a time."""

    options: Ray

    def map(self, run_url: str, tasks: Sequence[Mapping[str, Any]], jobs: int, done: Callable[[str], None]) -> None:
        """Do every task.

        Raises:
            DdcoreError: what a task failed with; or its worker died ``retries + 1`` times; or no machine has room for
                it.
            Interrupted: the run was asked to stop: what runs has been cancelled, and has saved its state if it could.
        """
        if not tasks:
            return
        with cluster.to_stderr():
            address = cluster.resolved(self.options.address)
            share = self.share(run_url, tasks)
            ray = cluster.connect(address, share.cpus * jobs, self.options.retries)
            room = Room(ray, share, 0.0 if address == cluster.LOCAL else self.options.patience)
            self._do(ray, share, room, run_url, tasks, jobs, done)

    def _do(
        self,
        ray: ModuleType,
        share: Share,
        room: "Room",
        run_url: str,
        tasks: Sequence[Mapping[str, Any]],
        jobs: int,
        done: Callable[[str], None],
    ) -> None:
        remote = ray.remote(
            num_cpus=share.cpus, num_gpus=share.gpus, max_retries=self.options.retries, retry_exceptions=False
        )(do)
        place, call = address_elsewhere(run_url), secrets.token_hex(8)
        waiting, running = deque(tasks), dict[Any, str]()
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    task = waiting.popleft()
                    running[remote.remote(place, call, packed(task))] = task["key"]
                finished, _ = ray.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS)
                for reference in finished:
                    self._take(ray, reference, running.pop(reference), done)
                check_stop(run_url)
                room.check(waited=not finished)
        except BaseException:
            cancel(ray, list(running))
            raise

    def _take(self, ray: ModuleType, reference: Any, key: str, done: Callable[[str], None]) -> None:
        """Take a task's answer; a bug in it comes with its remote traceback."""
        errors = ray.exceptions
        try:
            said = ray.get(reference)
        except errors.RayTaskError:
            raise
        except errors.TaskCancelledError as error:
            raise Interrupted(
                f"somebody cancelled task {key}: the same command, or `ddcore resume`, goes on"
            ) from error
        except errors.RayError as error:
            raise DdcoreError(
                f"ray workers died {self.options.retries + 1} times on task {key} ({type(error).__name__}): give tasks more memory, by fewer --jobs or a larger --ray.cpus or --ray.gpus"
            ) from error
        raise_answer(said)
        done(key)

    def share(self, run_url: str, tasks: Sequence[Mapping[str, Any]]) -> Share:
        """What each of these tasks takes."""
        threads, on_gpu = needs(run_url, tasks)
        cpus, gpus = self.options.cpus, self.options.gpus
        return Share(threads if cpus is None else cpus, float(on_gpu) if gpus is None else gpus)


class Room:
    """Whether the cluster could do one task at all: ray itself would wait for ever."""

    def __init__(self, ray: ModuleType, share: Share, patience: float) -> None:
        self._ray, self._share, self._left = ray, share, patience

    def check(self, waited: bool) -> None:
        """Call after each look at the tasks.

        Raises:
            OptionError: no machine is large enough, and none has come for as long as the user would wait.
        """
        if not waited or self._left == math.inf:
            return
        short = self._short()
        if not short:
            self._left = math.inf
            return
        self._left -= SECONDS_BETWEEN_LOOKS
        if self._left < 0:
            name, asked, most = short
            flag = f"--ray.{name.lower()}s"
            raise OptionError(
                f"a task takes {asked:g} {name}s, and the largest machine of the ray cluster has {most:g}: lower {flag}, or add machines"
            )

    def _short(self) -> tuple[str, float, float] | None:
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for name, asked in (("CPU", self._share.cpus), ("GPU", self._share.gpus)):
            most = max((node.get(name, 0.0) for node in alive), default=0.0)
            if asked > most:
                return name, asked, most
        return None


def cancel(ray: ModuleType, references: list[Any]) -> None:
    """Ask tasks to stop at their next step, and end those that have not when time is up, or SIGINT comes again."""
    left = references
    for reference in references:
        ray.cancel(reference, force=False)
    try:
        if references:
            _, left = ray.wait(references, num_returns=len(references), timeout=SECONDS_TO_STOP)
    finally:
        cluster.end(ray, left)


# ---- what travels ----------------------------------------------------------------------------------------------------


def packed(task: Mapping[str, Any]) -> str:
    """A task as text, with what a worker has to know of the driver's process."""
    return json.dumps({"folder": os.getcwd(), "environment": environment_elsewhere(), "task": dict(task)})


def do(run_url: str, call: str, text: str) -> str:
    """Do a task: what ray calls in a worker. Empty, or why there is no result; see ``ddcore.runs.work.answer``."""
    found = json.loads(text)
    if os.path.isdir(found["folder"]):
        os.chdir(found["folder"])
    os.environ.update(found["environment"])
    return answer(run_url, call, json.dumps(found["task"]))
