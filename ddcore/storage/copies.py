"""Local copies of files that lie behind a network and are read again and again, as many as fit a bound.

For files that never change under their name, such as the weights of experts. The copies that were read longest ago go
first. ``DDCORE_COPIES`` is their folder (default: ``copies`` in the user's cache folder), ``DDCORE_COPIES_BYTES`` the
bound (default: 10GB).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ddcore.errors import InputError, OptionError, StoreError
from ddcore.storage.places import Place, load_tensors, sha256_of
from ddcore.storage.units import byte_count

if TYPE_CHECKING:
    from torch import Tensor

FOLDER, BOUND = "DDCORE_COPIES", "DDCORE_COPIES_BYTES"
MOST = "10GB"


def tensors_of(place: Place, load: Callable[[Place], dict[str, Tensor]] = load_tensors) -> dict[str, Tensor]:
    """The tensors of a safetensors file, from a local copy if it lies behind a network.

    Args:
        load: reads a file, or raises an InputError if it is not what it has to be.

    Raises:
        InputError: the file is missing, cut short, altered or no safetensors file.
    """
    if not place.is_remote():
        return load(place)
    copy = folder() / f"{sha256_of(place.address.encode())[:32]}.safetensors"
    if os.path.lexists(copy):
        with suppress(InputError):  # a damaged copy is made again
            found = load(Place.at(copy))
            with suppress(OSError):
                os.utime(copy)
            return found
    most = bound()
    if place.size() > most:
        return load(place)
    data = place.read_bytes()
    try:
        if copy.is_dir():
            Place.at(copy).set_aside()
        Place.at(copy).write_bytes(data)
    except StoreError:  # no room for copies is no reason to stop
        return load(place)
    Place.at(copy.parent).remove_abandoned()
    trim(copy.parent, most, but=copy)
    try:
        return load(Place.at(copy))
    except InputError:  # what lies behind the network is wrong, or somebody removed the copy at once
        return load(place)


def trim(place: Path, most: int, but: Path) -> None:
    """Remove the copies that were read longest ago until the rest fits, whatever other processes do meanwhile."""
    found = []
    for path in place.glob("*.safetensors"):
        with suppress(FileNotFoundError):
            facts = path.stat()
            found.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        if path != but:
            path.unlink(missing_ok=True)
            total -= size


def folder() -> Path:
    """Where copies lie."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get(FOLDER) or os.path.join(home, "ddcore", "copies"))


def bound() -> int:
    """How many bytes copies may take.

    Raises:
        OptionError: the environment says no number of bytes.
    """
    text = os.environ.get(BOUND, MOST)
    try:
        return byte_count(text)
    except ValueError as error:
        raise OptionError(f"{BOUND} is {text!r}: give a number of bytes, such as {MOST}") from error
