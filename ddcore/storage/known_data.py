"""Which words this user named data by: ``data/FINGERPRINT.json`` in the cache, signed, written when a run begins.

A finished set says the fingerprint of its data and not where they are. By these notes a command finds the user's own
copy of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ddcore.errors import InputError
from ddcore.storage.ownership import is_own, signed
from ddcore.storage.places import Place
from ddcore.storage.secrecy import clean

WORDS = ("dataset", "data_root", "split", "resize", "resize_mode", "skip_broken")
"""Shared options that say which data."""


def remember(cache: Place, fingerprint: str, words: Mapping[str, Any]) -> None:
    """Note that data of this fingerprint were loaded by these words;
    a cache that cannot be written to is left as it is."""
    note = signed(clean({"fingerprint": fingerprint, **{name: words.get(name) for name in WORDS}}))
    with suppress(InputError, OSError):
        file = _file(cache, fingerprint)
        if recall(cache, fingerprint) != _words(note):
            file.write_json(note)


def recall(cache: Place, fingerprint: object) -> dict[str, Any]:
    """The words for data of this fingerprint; none where this user noted none."""
    if not isinstance(fingerprint, str) or not fingerprint.isalnum() or len(fingerprint) > 64:
        return {}
    with suppress(InputError, OSError):
        file = _file(cache, fingerprint)
        note = file.read_json() if file.exists() else None
        if isinstance(note, dict) and note.get("fingerprint") == fingerprint and is_own(note):
            return _words(note)
    return {}


def _words(note: Mapping[str, Any]) -> dict[str, Any]:
    words = {name: note[name] for name in WORDS if note.get(name) is not None}
    mode = words.pop("resize_mode", "squash")  # which notes of before do not say
    return {**words, "resize_mode": mode} if "resize" in words else words


def _file(cache: Place, fingerprint: str) -> Place:
    return cache / "data" / f"{fingerprint}.json"
