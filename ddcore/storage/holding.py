"""One process at a time works in a folder; another one is told who does.

On this machine's disks a lock says so, which ends with its process however that ends. Stores behind a network have no
locks: there a file that is renewed while its process works says so, and counts for nothing once it is old, or its
process is known to be gone.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from ddcore.errors import DdcoreError, InputError
from ddcore.storage.places import Place, lives
from ddcore.storage.printing import printable_line

LOCK, HOLDER = ".lock", ".holder.json"
MARKS = frozenset({LOCK, HOLDER})
"""What a holder puts into its folder."""
RENEWED, OLD = 15.0, 60.0
"""Seconds between renewals, and after which a holder that did not renew is believed to be gone."""


class Hold:
    """What a holder knows of its folder."""

    def __init__(self, place: Place, lock: BaseFileLock | None = None) -> None:
        self._place, self._lock = place, lock
        self._is = None if lock is None else _identity(lock.lock_file)

    def check(self) -> None:
        """Say so if the folder was removed, or another one was put into its place: somebody else may be working there
        by now.

        Raises:
            InputError: it was.
        """
        if self._lock is not None and self._is is not None and _identity(self._lock.lock_file) != self._is:
            raise InputError(
                f"{self._place.url}, or {LOCK} in it, was removed while this process worked there: give the command again"
            )


def _identity(path: str) -> tuple[int, int] | None:
    with suppress(OSError):
        found = os.lstat(path)
        return found.st_dev, found.st_ino
    return None


@contextmanager
def held(place: Place, *, traceless: bool = False) -> Iterator[Hold]:
    """Hold a folder, which is made if it is not there.

    Args:
        traceless: leave nothing of it in the folder, and no folder that was made for it and stayed empty: for sets,
            which are handed on.

    Raises:
        InputError: another process holds it.
    """
    local = place.local_path()
    with _locked(place, local, traceless) if local is not None else _renewed(place) as hold:
        yield hold


@contextmanager
def _locked(place: Place, folder: Path, traceless: bool) -> Iterator[Hold]:
    made = not os.path.lexists(folder)
    lock = _taken(place, folder)
    hold = Hold(place, lock if lock.is_locked else None)
    try:
        (place / HOLDER).write_json(_me())
        yield hold
    finally:
        with suppress(DdcoreError, OSError):
            hold.check()
            (place / HOLDER).remove()
            if traceless:
                (folder / LOCK).unlink(missing_ok=True)
                if made:
                    folder.rmdir()
        lock.release()


def _taken(place: Place, folder: Path) -> BaseFileLock:
    """The folder's lock, acquired, of the file that lies there: another holder may remove it before it lets go.

    Raises:
        InputError: another process has it, or something else lies there.
    """
    while True:
        place.make_folder()
        lock = lock_at(folder / LOCK)
        with suppress(OSError):
            (folder / LOCK).touch()
        before = _identity(lock.lock_file)
        if not acquired(lock):
            raise InputError(_refusal(place, _holder(place)))
        if not lock.is_locked or (before is not None and _identity(lock.lock_file) == before):
            return lock
        lock.release()


def lock_at(path: Path) -> BaseFileLock:
    """A file that locks.

    Raises:
        InputError: something else lies there.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise InputError(f"{path} is no file, and a lock has to be one: remove it")
    return FileLock(path, thread_local=False)  # whoever goes on with a run may do so in another thread


def acquired(lock: BaseFileLock) -> bool:
    """Take a lock without waiting; False: another process has it.
    A file system without locks lets everybody through."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except (NotImplementedError, OSError):
        return True
    return True


@contextmanager
def _renewed(place: Place) -> Iterator[Hold]:
    me, ended = _me(), threading.Event()

    def mine() -> bool:
        return bool(_holder(place).get("token") == me["token"])

    other = _holder(place)
    if other and not _gone(other):
        raise InputError(_refusal(place, other))
    (place / HOLDER).write_json(me)
    if not mine():
        raise InputError(_refusal(place, _holder(place)))

    def renew() -> None:
        while not ended.wait(RENEWED):
            with suppress(DdcoreError):
                (place / HOLDER).write_json({**me, "renewed": time.time()})

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield Hold(place)
    finally:
        ended.set()
        thread.join()
        with suppress(DdcoreError):
            (place / HOLDER).remove()


def _me() -> dict[str, Any]:
    now = time.time()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": now,
        "renewed": now,
        "token": secrets.token_hex(8),
    }


def _holder(place: Place) -> Mapping[str, Any]:
    """Who holds a folder, as far as it says so."""
    try:
        found = (place / HOLDER).read_json()
    except DdcoreError:
        return {}
    return found if isinstance(found, dict) else {}


def _gone(holder: Mapping[str, Any]) -> bool:
    """Whether a holder can be known to have ended. One that will renew in the future cannot:
    its clock may go otherwise."""
    renewed = _number(holder.get("renewed"))
    if renewed is None or time.time() - renewed > OLD:
        return True
    return holder.get("host") == socket.gethostname() and not lives(holder.get("pid"))


def _number(value: object) -> float | None:
    """A time as a file says it; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _refusal(place: Place, holder: Mapping[str, Any]) -> str:
    """Who holds a folder, and the way out; a holder's file may say anything."""
    who, file = "another process", ""
    if holder:
        who = printable_line(f"process {str(holder.get('pid'))[:30]} on {str(holder.get('host'))[:60]}{_since(holder)}")
    if place.local_path() is None:
        file = f", or remove {(place / HOLDER).url} if it is not running any more"
    return f"{place.url} is being worked on by {who}: wait for it or stop it{file}"


def _since(holder: Mapping[str, Any]) -> str:
    since, renewed = _number(holder.get("since")), _number(holder.get("renewed"))
    try:
        said = "" if since is None else f" since {datetime.fromtimestamp(since):%d %B %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        said = ""
    ahead = max(since or 0.0, renewed or 0.0) > time.time() + OLD
    return f"{said}, by a clock that is ahead of this one" if ahead else said
