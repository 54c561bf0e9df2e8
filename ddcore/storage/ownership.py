"""Whose a record is: ``run.json`` is signed with a key that lies among the user's own settings.

A run folder says which data are read, where files are kept and which plugin files are imported. What this user's
commands wrote there may be followed; what came from elsewhere only when the user says so (``--trust``).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ddcore.errors import InputError
from ddcore.storage.places import canonical

KEY = "DDCORE_SIGNING_SECRET"
"""Environment variable whose text signs in the place of the key file: for workers on other machines, and for tests."""
SIGNATURE = "signature"
OTHERS = 0o077
"""Permissions of other users."""
LENGTH = 32


def key_file() -> Path:
    """Where the user's key lies: ``ddcore/key`` in ``XDG_CONFIG_HOME``, or in ``~/.config``."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(home) / "ddcore" / "key"


def signed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with this user's signature; without one where the user has no key and none can be made."""
    bare = {name: value for name, value in record.items() if name != SIGNATURE}
    key = _key(make=True)
    return bare if key is None else {**bare, SIGNATURE: _signature(bare, key)}


def is_own(record: Mapping[str, Any]) -> bool:
    """Whether a record stands as this user signed it."""
    bare = {name: value for name, value in record.items() if name != SIGNATURE}
    key, found = _key(make=False), record.get(SIGNATURE)
    return (
        key is not None
        and isinstance(found, str)
        and hmac.compare_digest(_signature(bare, key).encode(), found.encode())
    )


def check_own(record: Mapping[str, Any], url: str) -> None:
    """Refuse the record of a run that somebody else began, or changed.

    Raises:
        InputError: naming the folder, and the way to take it all the same.
    """
    if not is_own(record):
        raise InputError(
            f"{url}/run.json was not written by you here (it is not signed with {key_file()}), and says what to read, write and "
            "import: look into it, then give --trust"
        )


def _signature(record: Mapping[str, Any], key: bytes) -> str:
    plain = json.loads(json.dumps(record, default=str))
    return hmac.new(key, canonical(plain), hashlib.sha256).hexdigest()


def _key(*, make: bool) -> bytes | None:
    """The user's key; None where there is none that only this user can read."""
    if given := os.environ.get(KEY):
        return given.encode()
    file = key_file()
    with suppress(OSError):
        if make and not file.exists():
            _make(file)
        with file.open("rb") as opened:
            about, key = os.fstat(opened.fileno()), opened.read(2 * LENGTH)
        private = os.name != "posix" or (about.st_mode & OTHERS == 0 and about.st_uid == os.geteuid())
        return key if private and len(key) >= LENGTH else None
    return None


def _make(file: Path) -> None:
    """Write a new key; where two processes do so at once, one of the keys is everybody's."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = file.with_name(f".key.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(secrets.token_bytes(LENGTH))
        try:
            os.link(part, file)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
