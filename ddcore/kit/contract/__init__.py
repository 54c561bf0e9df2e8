"""The contract kit: what every plugin has to keep, as named checks.
``ddcore plugins check`` and ``ddcore.testing`` run it."""

from __future__ import annotations

import inspect
import os
import tempfile
import time
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from attrs import asdict, frozen

from ddcore.errors import DdcoreError, near
from ddcore.kit.contract import behaviour  # noqa: F401  adds its checks to the list
from ddcore.kit.contract.checks import ENTRIES, MAY_OPT_OUT, Broken, Entry
from ddcore.kit.contract.stage import Skipped, Subject, find_subject
from ddcore.kit.contract.stand_in import Refused


@frozen
class Result:
    """What one check found.

    Attributes:
        detail: what it saw; of a failure: what is wrong.
        remedy: of a failure: what to do, in one line.
    """

    name: str
    status: Literal["passed", "failed", "skipped"]
    detail: str
    remedy: str
    seconds: float

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def examine(plugin: str | type, only: Collection[str] = ()) -> list[Result]:
    """Run the contract on a plugin.

    Args:
        plugin: name, path of a local file, or class.
        only: names of checks; empty runs all.

    Raises:
        PluginError: it cannot be loaded.
        ValueError: no check has such a name.
    """
    names = [entry.name for entry in ENTRIES]
    for name in only:
        if name not in names:
            raise ValueError(f"no check is named {name!r}: {near(name, names)}")
    with tempfile.TemporaryDirectory() as folder, _quick_checkpoints():
        subject = find_subject(plugin, Path(folder))
        return [_result(entry, subject) for entry in ENTRIES if not only or entry.name in only]


def check_plugin(plugin: str | type, only: Collection[str] = ()) -> list[Result]:
    """Run the contract on a plugin, for its tests.

    Args:
        plugin: name, path of a local file, or class.
        only: names of checks; empty runs all.

    Returns:
        What each check found.

    Raises:
        AssertionError: some failed; lists them with what to do.
        PluginError: the plugin cannot be loaded.
    """
    results = examine(plugin, only)
    failed = [r for r in results if r.status == "failed"]
    if failed:
        raise AssertionError("\n".join(f"{r.name}: {r.detail}\n    {r.remedy}" for r in failed))
    return results


def results_text(name: str, results: Sequence[Result]) -> str:
    """The list for people."""
    signs = {"passed": "ok", "failed": "FAILED", "skipped": "-"}
    width = max(len(r.name) for r in results)
    lines = []
    for r in results:
        lines.append(f"{signs[r.status]:<6} {r.name:<{width}}  {r.detail}".rstrip())
        if r.status == "failed":
            lines.append(f"{'':<6} {'':<{width}}  remedy: {r.remedy}")
    failed, passed = (sum(r.status == s for r in results) for s in ("failed", "passed"))
    skipped = len(results) - failed - passed
    return "\n".join([*lines, f"{name}: {passed} passed, {failed} failed, {skipped} do not concern it"])


def _result(entry: Entry, subject: Subject) -> Result:
    began = time.perf_counter()
    status: Literal["passed", "failed", "skipped"] = "failed"
    remedy = entry.remedy.replace("WORDS", _as_typed(subject))
    try:
        if entry.name in MAY_OPT_OUT and (why := subject.cls.exempt.get(entry.name)):
            raise Skipped(f"it opts out: {why}")
        detail, status = entry.function(subject) or "", "passed"
    except Skipped as reason:
        detail, status = str(reason), "skipped"
    except Broken as reason:
        detail = str(reason)
    except Refused as error:  # what the device check is there to find
        detail = f"{_said(error)}{_place(error, subject.cls)}"
    except DdcoreError as error:
        detail, remedy = _said(error), "do what the sentence says, or see where the plugin brings it about"
    except (Exception, SystemExit) as error:
        where = _place(error, subject.cls)
        detail = f"it crashed{where}: {type(error).__name__}: {_said(error)}"
        there = f"mend it{where}" if where else "read its traceback, from the same words in a run of your own"
        remedy = f"{there}; what this check looks at was not seen"
    left = remedy if status == "failed" else ""
    return Result(entry.name, status, detail, left, round(time.perf_counter() - began, 3))


def _said(error: BaseException) -> str:
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return f"{' '.join(str(error).split())[:500]}{notes}"


def _place(error: BaseException, cls: type) -> str:
    """Where in the plugin's own files an error came from: its last frame there, or nothing if there is none."""
    file = Path(inspect.getfile(cls)).resolve()
    home = file.parent if file.name == "__init__.py" else file
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        if path == file or home in path.parents:
            return f" in {path.name}:{frame.lineno}, {frame.name}"
    return ""


def _as_typed(subject: Subject) -> str:
    """How a run of one's own selects the plugin; one that is no matcher needs one beside it."""
    beside = () if subject.is_matcher else ("--plugin", "MATCHER")
    return " ".join((*beside, *subject.words))


@contextmanager
def _quick_checkpoints() -> Iterator[None]:
    """Save after every step, so that stopping anywhere is seen."""
    before = os.environ.get("DDCORE_CHECKPOINT_SECONDS")
    os.environ["DDCORE_CHECKPOINT_SECONDS"] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DDCORE_CHECKPOINT_SECONDS"]
        else:
            os.environ["DDCORE_CHECKPOINT_SECONDS"] = before
