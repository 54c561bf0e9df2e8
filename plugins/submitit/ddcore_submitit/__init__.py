"""Submitit: do a run's tasks as jobs of Slurm, where a cluster's own daemons are unwelcome
(github.com/facebookincubator/submitit).

A job does one task and leaves its result as a file in the run's folder. One that is preempted, or reaches its time
limit, is queued again by Slurm and goes on from its last checkpoint.
"""

import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from attrs import frozen
from attrs.validators import ge, gt, optional

from ddcore import DdcoreError, InputError, Plugin, hookimpl, option
from ddcore.errors import OptionError
from ddcore.runs import address_elsewhere, answer, check_stop, needs, raise_answer
from ddcore.storage import Place

Tasks = tuple[Mapping[str, Any], ...]
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_STOP = 10.0
"""In which cancelled jobs of this machine may end."""


@frozen(kw_only=True, eq=False)
class Submitit(Plugin):
    """Offer ``--executor submitit``."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "does tasks as jobs of Slurm"
    paper: ClassVar[str] = "none: software"
    role: ClassVar[str] = "executor"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "text", "graphs", "features", "dense"})
    executors: ClassVar[tuple[str, ...]] = ("submitit",)
    tiny: ClassVar[Mapping[str, object]] = {"cluster": "local", "together": 100}

    cluster: Literal["auto", "slurm", "local"] = option(
        "auto", help="slurm; local: processes of this machine; auto: slurm where there is one, else local"
    )
    partition: str | None = option(None, help="Slurm's; none: its default")
    account: str | None = option(None, help="whom Slurm charges; none: its default")
    together: int = option(
        1, help="tasks that a job does one after the other: short ones are not worth a start each", validator=ge(1)
    )
    minutes: int = option(
        60, help="time limit of a job, after which it is queued again", unit="minutes", validator=ge(1)
    )
    gpus: int | None = option(
        None, help="GPUs of a job; none: 1 where the run's device is cuda, else 0", validator=optional(ge(0))
    )
    cpus: int | None = option(
        None, help="CPUs of a job; none: as many as its task has threads", validator=optional(ge(1))
    )
    memory: float | None = option(
        None, help="memory of a job; none: Slurm's default", unit="GB", validator=optional(gt(0))
    )
    array: int = option(1000, help="most jobs of one array, Slurm's MaxArraySize - 1", unit="jobs", validator=ge(1))
    requeues: int = option(10, help="times that Slurm queues a job again after its time limit", validator=ge(0))
    retries: int = option(2, help="times a task is done again whose job died", validator=ge(0))
    folder: str | None = option(
        None, help="where submitit keeps jobs and logs, seen by every machine; none: beside the run's folder"
    )

    @hookimpl
    def ddcore_executor(self, name: str) -> "Jobs | None":
        """``submitit``."""
        return Jobs(self) if name == "submitit" else None


@frozen
class Job:
    """What a job calls: nothing but texts is kept in its file."""

    run_url: str
    call: str
    texts: tuple[str, ...]

    def __call__(self) -> str:
        """Do the tasks; empty, or why one of them has no result; see ``ddcore.runs.work.answer``."""
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":  # Slurm says SIGTERM before it queues a job again, too
            signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        said = (answer(self.run_url, self.call, text) for text in self.texts)
        return next(filter(None, said), "")

    def checkpoint(self) -> Any:
        """Asked before the job is queued again: it is the same, since its state lies in the run's folder."""
        return library().helpers.DelayedSubmission(self)


@frozen(eq=False)
class Jobs:
    """An executor: ``map`` keeps at most ``jobs`` jobs running at a time."""

    options: Submitit

    def map(self, run_url: str, tasks: Sequence[Mapping[str, Any]], jobs: int, done: Callable[[str], None]) -> None:
        """Do every task.

        Raises:
            DdcoreError: what a task failed with; or its job died ``retries + 1`` times.
            Interrupted: the run was asked to stop: what runs has been cancelled.
        """
        if not tasks:
            return
        folder = self.place(run_url) / secrets.token_hex(4)
        engine = self.engine(folder, run_url, tasks, jobs)
        together = self.options.together
        waiting = deque(tuple(tasks[start : start + together]) for start in range(0, len(tasks), together))
        running: dict[Any, Tasks] = {}
        died: Counter[str] = Counter()
        try:
            while waiting or running:
                running |= self.submitted(engine, run_url, waiting, len(running), jobs)
                for job in [job for job in running if job.done()]:
                    self._take(job, running.pop(job), died, waiting, done)
                check_stop(run_url)
                if running:
                    time.sleep(SECONDS_BETWEEN_LOOKS)
        except BaseException:
            cancel(engine.cluster, list(running))
            raise
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another run's jobs lie there too
            folder.parent.rmdir()

    def submitted(self, engine: Any, run_url: str, waiting: deque[Tasks], running: int, jobs: int) -> dict[Any, Tasks]:
        """Submit what there is room for: on Slurm an array, which Slurm itself keeps to ``jobs`` at a time."""
        room = jobs - running if engine.cluster == "local" else self.options.array * (not running)
        chosen = [waiting.popleft() for _ in range(min(room, len(waiting)))]
        if not chosen:
            return {}
        place, call = address_elsewhere(run_url), secrets.token_hex(8)
        try:
            with engine.batch():
                made = [engine.submit(Job(place, call, tuple(json.dumps(dict(t)) for t in each))) for each in chosen]
        except (OSError, subprocess.CalledProcessError, library().core.utils.FailedJobError) as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise InputError(
                f"Slurm did not take a job ({why}): look at --submitit.partition, --submitit.account, --submitit.minutes and --submitit.gpus"
            ) from error
        return dict(zip(made, chosen, strict=True))

    def _take(
        self, job: Any, tasks: Tasks, died: Counter[str], waiting: deque[Tasks], done: Callable[[str], None]
    ) -> None:
        """Take a job's answer, or submit its tasks again; a bug in one comes with its remote traceback."""
        errors, first = library().core.utils, str(tasks[0]["key"])
        try:
            if isinstance(job, library().LocalJob) and not job.paths.result_pickle.exists():
                raise errors.UncompletedJobError("it ended without a result")
            said = job.result()
        except errors.FailedJobError:
            raise
        except errors.UncompletedJobError as error:
            died[first] += 1
            if died[first] > self.options.retries:
                raise DdcoreError(
                    f"jobs of submitit died {died[first]} times on task {first} ({job.state}): give them more memory or time (--submitit.memory, --submitit.minutes); their logs are in {job.paths.folder}"
                ) from error
            waiting.append(tasks)
            return
        raise_answer(said)
        for task in tasks:
            done(task["key"])

    def place(self, run_url: str) -> Path:
        """Where submitit keeps its files: beside the run's folder, never in it, since they are pickles."""
        local = Place.at(run_url).local_path()
        if self.options.folder is not None:
            return Path(self.options.folder).absolute()
        return Path("submitit").absolute() if local is None else local.absolute().with_name(f"{local.name}.submitit")

    def engine(self, folder: Path, run_url: str, tasks: Sequence[Mapping[str, Any]], jobs: int) -> Any:
        """Submitit's executor with these options."""
        options, (cpus, gpus) = self.options, self.share(run_url, tasks)
        engine = library()
        _out_of_stdout()
        cluster = None if options.cluster == "auto" else options.cluster
        try:
            made = engine.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=options.requeues)
        except RuntimeError as error:
            raise OptionError(
                "there is no Slurm here (no srun): give --submitit.cluster local, or log in where jobs are submitted"
            ) from error
        made.update_parameters(
            name="ddcore",
            timeout_min=options.minutes,
            cpus_per_task=cpus,
            gpus_per_node=gpus,
            mem_gb=options.memory,
            slurm_partition=options.partition,
            slurm_account=options.account,
            slurm_array_parallelism=jobs,
        )
        return made

    def share(self, run_url: str, tasks: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """CPUs and GPUs of a job."""
        threads, on_gpu = needs(run_url, tasks)
        cpus, gpus = self.options.cpus, self.options.gpus
        return threads if cpus is None else cpus, int(on_gpu) if gpus is None else gpus


def cancel(cluster: str, jobs: Iterable[Any]) -> None:
    """End jobs; those of this machine stop at their next step, with their state saved, if that comes in time."""
    jobs = list(jobs)
    if cluster != "local":
        if jobs:
            subprocess.call(["scancel", *sorted({job.job_id.partition("_")[0] for job in jobs})])
        return
    for job in jobs:
        with suppress(ProcessLookupError):
            os.kill(int(job.job_id), signal.SIGTERM)
    until = time.monotonic() + SECONDS_TO_STOP
    while time.monotonic() < until and not all(job.done() for job in jobs):
        time.sleep(0.1)
    for job in jobs:
        if not job.done():
            job.cancel(check=False)


def _out_of_stdout() -> None:
    """Keep submitit's log out of what ddcore prints for machines; warnings still go to stderr."""
    log = logging.getLogger("submitit")
    for handler in [h for h in log.handlers if getattr(h, "name", "") == "submitit_out"]:
        log.removeHandler(handler)


def library() -> ModuleType:
    """The engine.

    Raises:
        InputError: it is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError("submitit is not installed: pip install 'ddcore-submitit[submitit]'") from error
    return submitit
