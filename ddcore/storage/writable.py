"""Whether a folder can be written to, asked before the work and not after it."""

from __future__ import annotations

import os
import tempfile

from ddcore.errors import DdcoreError
from ddcore.storage.places import Place, standing

PROBE = ".ddcore-probe"


def unwritable(place: Place, *, write: bool = False) -> str | None:
    """Why nothing can be written where a folder is, or will be; None: it can, as far as is known.

    Args:
        write: try it on this machine too, by a file that has no name; a remote store is always tried, by one that is
            removed.
    """
    path = place.local_path()
    if path is None:
        probe = place / f"{PROBE}-{os.getpid()}"
        try:
            probe.write_bytes(b"x")
            probe.remove()
        except DdcoreError as error:
            return str(error)
        return None
    there = standing(path)
    if not there.is_dir():
        return f"{there} is no folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written to (no permission, or a file system that is read only)"
    try:
        if write:
            with tempfile.TemporaryFile(dir=there):
                pass
    except OSError as error:
        return f"{there} cannot be written to ({error.strerror})"
    return None
