"""Do one task, in whichever process it landed: a pure function of (run.json, task), whose result is a file."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import attrs
import torch

from ddcore import devices, errors
from ddcore.api.types import Task
from ddcore.config import Config
from ddcore.errors import DdcoreError, InputError, Interrupted
from ddcore.storage import ownership, secrecy
from ddcore.storage.places import Place, default_cache

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run

KINDS = {
    "distil": "ddcore.runs.loop:distil_task",
    "expert": "ddcore.training.experts:train_expert",
    "teacher": "ddcore.training.teachers:train_teacher",
    "evaluate": "ddcore.scoring.evaluate:run_evaluation_task",
    "train": "ddcore.commands.train:run_training_task",
}
"""What does a task of each kind: from (task, run) to the tensors of its result, or to those and a header."""
WHOLE_RUNS = {"bench": "ddcore.commands.bench:do_cell"}
"""What does a task that is a run of its own: from (the bench's address, description) to a folder."""
OPEN = "ddcore.runs.opening:open_run"
_runs: dict[str, Run] = {}
_call = ""
"""The call of ``Executor.map`` that the runs of this worker were opened for."""


def remember(run: Run) -> None:
    """Let tasks of this process use a run that is already open."""
    _runs[run.address] = run


def forget(run: Run) -> None:
    """The run is over."""
    _runs.pop(run.address, None)


def stop(run_url: str) -> bool:
    """Let a run that is open in this process stop at its next step; False if there is none."""
    if run_url in _runs:
        _runs[run_url].stopping = True
    return run_url in _runs


def work(run_url: str, description: Mapping[str, Any]) -> None:
    """Do a task and leave its result in the run's ``checkpoints`` folder, unless it is there already.

    A task that is a whole run (``ddcore.commands.bench``) leaves a run's folder in the bench's instead.
    """
    if description["kind"] in WHOLE_RUNS:
        named(WHOLE_RUNS[description["kind"]])(run_url, description)
        return
    if run_url not in _runs:
        _runs[run_url] = named(OPEN)(run_url, worker=True)
    run = _runs[run_url]
    task = task_from(description)
    if not run.checkpoints.finished(task.key):
        made = named(KINDS[task.kind])(task, run)
        run.checkpoints.finish(task.key, *(made if isinstance(made, tuple) else (made, {})))


def named(path: str) -> Any:
    """What stands under a dotted name, ``package.module:name``: tasks are done by modules that stand above this one."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


# ---- for executors whose workers are elsewhere -----------------------------------------------------------------------

THREADS = int(attrs.fields_dict(Config)["threads"].default or 1)
SENT = ("DDCORE_CHECKPOINT_SECONDS", secrecy.HANDED_ON, ownership.KEY)
"""Of the driver's environment, for workers."""


def address_elsewhere(run_url: str) -> str:
    """A run's address as workers on any machine are given it: whole from the root, and without credentials.

    >>> address_elsewhere("s3://key:secret@bucket/runs/x"), address_elsewhere("/runs/x")
    ('s3://bucket/runs/x', '/runs/x')
    """
    place = Place.at(run_url)
    local = place.local_path()
    return place.url if local is None else os.path.abspath(local)


def environment_elsewhere() -> dict[str, str]:
    """What workers have to know of the driver's environment; it may hold secrets, so send it, and write it nowhere."""
    known = {name: os.environ[name] for name in SENT if name in os.environ}
    return {**known, "DDCORE_CACHE": os.path.abspath(cache) if "://" not in (cache := default_cache()) else cache}


def needs(run_url: str, tasks: Sequence[Mapping[str, Any]]) -> tuple[int, bool]:
    """CPU threads of each of these tasks, and whether they compute on a GPU: what an engine makes room for."""
    record = Place.at(run_url) / "run.json"
    if record.exists():
        known = record.read_json()
        return int(known["config"]["threads"]), known["environment"]["device"].startswith("cuda")
    tables = [task["options"].get("tables", {}) for task in tasks]  # of a bench: whole runs, with options of their own
    wanted = {str(table.get("device", "auto")) for table in tables}
    return max(int(table.get("threads", THREADS)) for table in tables), devices.asked_for(wanted)


def answer(run_url: str, call: str, text: str) -> str:
    """``work`` with text in and text out: what any engine carries to any machine.

    SIGINT makes the task stop at its next step, with its state saved.

    Args:
        run_url: as ``address_elsewhere`` made it.
        call: a name that this call of ``map`` has alone: a worker that outlives it opens the run anew for the next one.
        text: the task's description as JSON.

    Returns:
        Nothing when the result is there; else an error for ``raise_answer``. A bug is raised as it is.
    """
    try:
        run_url = secrecy.whole(run_url) or run_url
        _only_for(call)
        description = json.loads(text)
        _require_sight(run_url, description)
        with _stopped_by_interrupt(run_url):
            work(run_url, description)
    except (DdcoreError, KeyboardInterrupt) as error:
        return json.dumps({"error": _kind(error), "text": str(error) or "stopped as asked"})
    return ""


def raise_answer(text: str) -> None:
    """Raise in the driver what ``answer`` says of a task: the same class, the same sentence.

    >>> raise_answer("")
    >>> raise_answer('{"error": "InputError", "text": "no such data: look again"}')
    Traceback (most recent call last):
    ddcore.errors.InputError: no such data: look again
    """
    if text:
        found = json.loads(text)
        raise getattr(errors, found["error"])(found["text"])


def check_stop(run_url: str) -> None:
    """Call in the driver every second or so while tasks run elsewhere.

    Raises:
        Interrupted: SIGINT or SIGTERM came; end the tasks first.
    """
    if run_url in _runs:
        _runs[run_url].check_stop()


def _only_for(call: str) -> None:
    global _call
    if call != _call:
        _runs.clear()
        _call = call


def _require_sight(run_url: str, description: Mapping[str, Any]) -> None:
    place = Place.at(run_url)
    if description["kind"] not in WHOLE_RUNS and not (place / "run.json").exists():
        raise InputError(
            f"worker {socket.gethostname()} sees no run in {place.url}: put --out and --cache where every worker sees them, on a shared file system or at a URL"
        )


@contextmanager
def _stopped_by_interrupt(run_url: str) -> Iterator[None]:
    """Turn SIGINT into a stop at the next step, where there is a run to stop; engines cancel tasks by it."""

    def stop(number: int, frame: Any) -> None:
        run = _runs.get(run_url)
        if run is None or run.stopping:
            raise KeyboardInterrupt
        run.stopping = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _kind(error: BaseException) -> str:
    """The nearest class of ``ddcore.errors``: the driver may not have a plugin's own."""
    known = (cls.__name__ for cls in type(error).__mro__ if cls.__module__ == errors.__name__)
    return next(known, Interrupted.__name__)


# ---- what tasks there are --------------------------------------------------------------------------------------------


def describe(task: Task) -> dict[str, Any]:
    """A task as JSON values."""
    classes = None if task.classes is None else task.classes.tolist()
    names = ("kind", "key", "steps", "index", "slot")
    return {**{n: getattr(task, n) for n in names}, "classes": classes, "options": dict(task.options)}


def task_from(description: Mapping[str, Any]) -> Task:
    """The inverse of ``describe``."""
    classes = description["classes"]
    return Task(**{**description, "classes": None if classes is None else torch.tensor(classes, dtype=torch.int64)})
