"""Whether a folder can be written to, asked before the work and not after it."""

from __future__ import annotations

import os
import tempfile

from ddcore.errors import DdcoreError
from ddcore.storage.places import Place

PROBE = ".ddcore-probe"


def unwritable(place: Place) -> str | None:
    """Why nothing can be written where a folder is, or will be; None: it can. Nothing is left there."""
    path = place.local_path()
    if path is None:
        probe = place / f"{PROBE}-{os.getpid()}"
        try:
            probe.write_bytes(b"x")
            probe.remove()
        except DdcoreError as error:
            return str(error)
        return None
    there = path.absolute()
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return f"{there} cannot be written to ({error.strerror})"
    return None
