"""One process at a time works in a folder; another one is told who does.

On this machine's disks a lock says so, which ends with its process however that ends. Stores behind a network have no locks: there a
file that is renewed while its process works says so, and counts for nothing once it is old, or its process is known to be gone.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from ddcore.errors import DdcoreError, InputError
from ddcore.storage.places import Place

LOCK, HOLDER = ".lock", ".holder.json"
RENEWED, OLD = 15.0, 60.0
"""Seconds between renewals, and after which a holder that did not renew is believed to be gone."""


@contextmanager
def held(place: Place) -> Iterator[None]:
    """Hold a folder, which is made if it is not there.

    Raises:
        InputError: another process holds it.
    """
    local = place.local_path()
    with _locked(place, local) if local is not None else _renewed(place):
        yield


@contextmanager
def _locked(place: Place, folder: Path) -> Iterator[None]:
    place.make_folder()
    lock = FileLock(folder / LOCK)
    if not acquired(lock):
        raise InputError(_refusal(place, _holder(place)))
    try:
        (place / HOLDER).write_json(_me())
        yield
    finally:
        with suppress(DdcoreError):
            (place / HOLDER).remove()
        lock.release()


def acquired(lock: BaseFileLock) -> bool:
    """Take a lock without waiting; False: another process has it. A file system without locks lets everybody through."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except (NotImplementedError, OSError):
        return True
    return True


@contextmanager
def _renewed(place: Place) -> Iterator[None]:
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
        yield
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
    """Whether a holder can be known to have ended."""
    if not isinstance(renewed := holder.get("renewed"), int | float) or time.time() - renewed > OLD:
        return True
    return holder.get("host") == socket.gethostname() and not _lives(holder.get("pid"))


def _lives(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _refusal(place: Place, holder: Mapping[str, Any]) -> str:
    who = "another process"
    if holder:
        since = holder.get("since")
        when = f" since {datetime.fromtimestamp(since):%d %B %H:%M:%S}" if isinstance(since, int | float) else ""
        who = f"process {holder.get('pid')} on {holder.get('host')}{when}"
    return f"{place.url} is being worked on by {who}: wait for it or stop it"
