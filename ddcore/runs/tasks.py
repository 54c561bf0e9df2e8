"""Doing tasks: where ``--executor`` says, stoppable, and with a word about each."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from torch import Tensor

from ddcore.api.services import Executor
from ddcore.api.types import Task
from ddcore.composing.asking import Hooks
from ddcore.composing.host import Host
from ddcore.config import Config
from ddcore.data.source import keep_decoded
from ddcore.errors import InputError, Interrupted, OptionError, StoreError, near
from ddcore.pages.report import events
from ddcore.runs.executors import EXECUTORS
from ddcore.runs.work import describe, forget, remember
from ddcore.storage.checkpoints import Checkpoints
from ddcore.storage.holding import Hold, held
from ddcore.storage.keeping import tidy
from ddcore.storage.places import Place
from ddcore.storage.progress import Reporter, Tick, on_signals
from ddcore.storage.published import told
from ddcore.storage.secrecy import hand_on, hidden

DECODED = ("images", "text")
"""What workers are handed decoded."""


class Tasks:
    """The tasks of one run, and all that is said while they are done.

    Attributes:
        way_on: how a person goes on after a stop.
        begun: whether the run has a record.
        stepping: whether tasks are being done: a stop then waits for the next step.
        stopping: whether SIGINT or SIGTERM came, or a worker was told so.
    """

    def __init__(self, place: Place, config: Config, hooks: Hooks, reporter: Reporter | None) -> None:
        self.place, self.config, self.hooks = place, config, hooks
        self.reporter = reporter or Reporter(quiet=True)
        self.checkpoints = Checkpoints(place / "checkpoints", _seconds_between_checkpoints())
        self.way_on = f"everything so far is kept: go on with `ddcore resume {place.url}`"
        self.begun = self.stepping = self.stopping = False
        self._logged: set[str] = set()
        self._hold: Hold | None = None
        self._claimed = ExitStack()

    # ---- doing ----

    def map(self, run: Host, tasks: Sequence[Task], label: str, unit: str) -> list[dict[str, Tensor]]:
        """Do tasks and return their results in the order given; finished ones are not redone."""
        left = [task for task in tasks if not self.checkpoints.finished(task.key)]
        executor = self.executor()
        remember(run)
        hand_on()
        if (
            left
            and self.executor_name != "here"
            and (run.source.modality in DECODED or getattr(run.source, "dense", False))
        ):
            keep_decoded(run.source, run.cache, run.warn)
        shown = self.progress(label, len(tasks), unit) if label else _nothing()
        within, self.stepping = self.stepping, True
        try:
            with shown as tick:
                tick(len(tasks) - len(left))
                done = partial(self._done, run, tick, {task.key: task.kind for task in left})
                executor.map(run.address, [describe(task) for task in left], self.config.jobs, done)
        finally:
            self.stepping = within
            forget(run)
        return [self.checkpoints.result(task.key) for task in tasks]

    def _done(self, run: Host, tick: Tick, kinds: Mapping[str, str], key: str) -> None:
        self.log(run, "task", {"key": key, "kind": kinds[key]})
        tick(1)
        self.check_stop()

    @property
    def executor_name(self) -> str:
        """``--executor``; more than one job means processes."""
        name = str(self.config.executor)
        return "processes" if name == "here" and self.config.jobs > 1 else name

    def executor(self) -> Executor:
        """What runs tasks.

        Raises:
            OptionError: no such executor.
        """
        executor = self.hooks.executor(self.executor_name)
        if executor is None:
            raise OptionError(f"no executor is named {self.executor_name!r}: {near(self.executor_name, EXECUTORS)}")
        return executor

    # ---- talking ----

    def progress(self, label: str, total: int, unit: str = "steps") -> AbstractContextManager[Tick]:
        """A context manager that yields ``tick(n=1, note="")``."""
        return self.reporter.progress(label, total, unit)

    def warn(self, run: Host, text: str) -> None:
        """One warning: shown, kept for the report and, once there is a run.json, logged."""
        self.reporter.warn(text)
        if self.begun and text not in self._logged:
            self._logged.add(text)
            self.log(run, "warning", {"text": text})

    def warned(self) -> list[str]:
        """All warnings of the run, each once: of the parts of it before a stop, and of its workers, too."""
        logged = [str(event["text"]) for event in events(self.place) if event.get("event") == "warning"]
        return list(dict.fromkeys(map(told, [*logged, *self.reporter.warnings])))

    def log(self, run: Host, event: str, fields: Mapping[str, Any]) -> None:
        """One line of ``log.jsonl``, which trackers are told of; numbers that are not finite become null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
        texts = {k: told(v) for k, v in finite.items() if isinstance(v, str)}
        finite |= texts
        line = json.dumps({"event": event, "time": round(time.time(), 3), **finite})
        (self.place / "log.jsonl").append_line(hidden(line))
        for who, error in self.hooks.log(event, finite, run):
            what = f"{type(error).__name__}: {' '.join(str(error).split())}" if str(error) else type(error).__name__
            self.warn(run, f"{who} failed ({what}) and is told nothing more; the run goes on without it")

    # ---- stopping ----

    def check_stop(self) -> None:
        """Call once a step or epoch, after saving.

        Raises:
            Interrupted: SIGINT or SIGTERM came.
            InputError: the run's folder was removed.
        """
        if self._hold is not None:
            self._hold.check()
        if self.stopping:
            raise self._stopped()

    def _stopped(self) -> Interrupted:
        begun = self.begun or (self.place / "run.json").exists()
        return Interrupted(
            f"stopped as asked; {self.way_on if begun else 'nothing was begun: give the same command again'}"
        )

    @contextmanager
    def claiming(self) -> Iterator[None]:
        """Hold the run's folder; where nothing fails, from now on to the end of ``at_work``, so that nobody can come
        between a run's record and its work. A run that is thrown away before lets go of it.

        Raises:
            InputError: another process holds it.
        """
        with ExitStack() as stack:
            hold = stack.enter_context(held(self.place))
            yield
            self._hold, self._claimed = hold, stack.pop_all()

    def under(self, hold: Hold) -> None:
        """Work in the run's folder under a hold of it that the caller has."""
        self._hold = hold

    @contextmanager
    def _holding(self) -> Iterator[Hold]:
        with self._claimed:
            hold = self._hold = self._hold or self._claimed.enter_context(held(self.place))
            try:
                yield hold
            finally:
                self._hold = None

    @contextmanager
    def at_work(self, cache: Place) -> Iterator[None]:
        """Work in the run's folder: alone, stoppable by SIGINT and SIGTERM, and with a word on how to go on where a
        store fails.

        Raises:
            InputError: another process works in it.
        """
        with self.stoppable(), self._with_way_on(), self._holding() as hold:
            self.place.remove_unfinished()
            tidy(cache)
            try:
                yield
                hold.check()
            except InputError:
                hold.check()
                raise

    @contextmanager
    def _with_way_on(self) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            raise type(error)(f"{error}; {self.way_on}") from error

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into ``Interrupted``: at the next step while tasks are done, elsewhere at once."""
        stopped_at_once = False

        def stop() -> None:
            nonlocal stopped_at_once
            stopped_at_once = self.stopping or not self.stepping
            self.stopping = True
            if stopped_at_once:
                raise KeyboardInterrupt
            with suppress(RuntimeError):  # the signal came in the middle of another line
                self.reporter.say("stopping at the next step (once more: at once)")

        try:
            with on_signals(stop):
                yield
        except KeyboardInterrupt as error:
            raise self._stopped() from error
        except Exception as error:  # compiled code that is stopped may raise an error of its own instead
            if not stopped_at_once or isinstance(error, Interrupted):
                raise
            raise self._stopped() from error


@contextmanager
def _nothing() -> Iterator[Tick]:
    yield lambda n=1, note="": None


def _seconds_between_checkpoints() -> float:
    text = os.environ.get("DDCORE_CHECKPOINT_SECONDS", "10")
    try:
        return float(text)
    except ValueError as error:
        raise OptionError(f"DDCORE_CHECKPOINT_SECONDS is {text!r}: give a number of seconds") from error
