"""What a person sees while a run works: bars on a terminal, one plain line now and then elsewhere. Always on stderr."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TextIO, cast

import click

from ddcore.storage.printing import printable
from ddcore.storage.secrecy import hidden

Tick = Callable[..., None]
SECONDS_BETWEEN_LINES = 10.0


class Reporter:
    """Says what a run does. ``quiet`` keeps warnings only."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self.warnings: list[str] = []
        self._showing = False

    def say(self, text: str) -> None:
        """One line of information."""
        if not self._quiet:
            self._write(text)

    def warn(self, text: str) -> None:
        """One warning, shown once and kept for the report."""
        text = hidden(text)
        if text not in self.warnings:
            self.warnings.append(text)
            self._write(f"warning: {text}")

    def progress(self, label: str, total: int, unit: str = "steps") -> AbstractContextManager[Tick]:
        """A context manager that yields ``tick(n=1, note="")``; inside another one nothing is shown."""
        if self._quiet or total <= 0 or self._showing:
            return _silent()
        return self._outermost(_bar if self._stream.isatty() else self._lines, label, total, unit)

    @contextmanager
    def _outermost(self, show: Callable[..., AbstractContextManager[Tick]], *what: Any) -> Iterator[Tick]:
        self._showing = True
        try:
            with show(*what) as tick:
                yield tick
        finally:
            self._showing = False

    @contextmanager
    def _lines(self, label: str, total: int, unit: str) -> Iterator[Tick]:
        start = last = time.monotonic()
        done = shown = 0
        text = ""

        def line() -> None:
            nonlocal shown
            seconds = time.monotonic() - start
            left = seconds / done * (total - done) if done else 0.0
            rest = f", {duration(left)} left" if done < total else f" in {duration(seconds)}"
            self._write(f"{label}: {done}/{total} {unit}{rest}{', ' + text if text else ''}")
            shown = done

        def tick(n: int = 1, note: str = "") -> None:
            nonlocal done, last, text
            done, text = done + n, note or text
            if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                line()

        yield tick
        if shown < done:
            line()

    def _write(self, text: str) -> None:
        self._stream.write(printable(hidden(text)) + "\n")
        self._stream.flush()


@contextmanager
def _silent() -> Iterator[Tick]:
    yield lambda n=1, note="": None


@contextmanager
def _bar(label: str, total: int, unit: str) -> Iterator[Tick]:
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # an extra
    except ImportError:
        with click.progressbar(length=total, label=label, file=sys.stderr) as bar:
            yield lambda n=1, note="": bar.update(n)
        return
    from rich.console import Console

    text = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, TimeRemainingColumn(), text, console=Console(stderr=True)) as bars:
        task: Any = bars.add_task(label, total=total, note="")

        def tick(n: int = 1, note: str = "") -> None:
            bars.update(task, advance=n, **cast(Any, {"note": note} if note else {}))

        yield tick


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(0.34), duration(72), duration(7260)
    ('0.3 s', '1 min 12 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on SIGINT and SIGTERM, in the main thread; elsewhere nothing can, and nothing changes.

    One that is ignored stays ignored: that of a background job, or of a worker whose driver passes it on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, lambda number, frame: stop()) for s in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
