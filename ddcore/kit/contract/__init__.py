"""The contract kit: what every plugin has to keep, as named checks.
``ddcore plugins check`` and ``ddcore.testing`` run it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from attrs import asdict, frozen

from ddcore.errors import near
from ddcore.kit.contract import behaviour  # noqa: F401  adds its checks to the list
from ddcore.kit.contract.checks import ENTRIES, Broken, Entry
from ddcore.kit.contract.stage import Skipped, find_subject


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


def _result(entry: object, subject: object) -> Result:
    assert isinstance(entry, Entry)
    began = time.perf_counter()
    status: Literal["passed", "failed", "skipped"] = "passed"
    try:
        detail = entry.function(subject) or ""  # type: ignore[arg-type]
    except Skipped as reason:
        status, detail = "skipped", str(reason)
    except Broken as reason:
        status, detail = "failed", str(reason)
    except (Exception, SystemExit) as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        status, detail = "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}{notes}"
    remedy = entry.remedy if status == "failed" else ""
    return Result(entry.name, status, detail, remedy, round(time.perf_counter() - began, 3))


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
