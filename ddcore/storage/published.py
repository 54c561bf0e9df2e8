"""What may be handed on of a record: no path of the machine that made it.

Data, files and folders of this machine go by their last name; their hashes, where they are known, say which they were.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ddcore.storage.places import Place

PLACES = ("out", "cache", "data_root")
"""Shared options that only name places of one machine."""
LOCAL = re.compile(
    r"((?:file |--?[\w.-]+=)?(?:[\w.-]+[:=])?)((?:file://|local://)?(?:/(?!/)|~|\.\.?/|\.\.?\\|[A-Za-z]:[/\\]|\\\\).*)",
    re.DOTALL,
)
"""A text that is a local path, or a word and one: ``parquet:/home/me/x``, ``--out=/tmp/x``, ``resnet18=~/w.pth``."""
REPOSITORIES = ("hf",)
"""Data whose names have slashes and are no paths."""


def shortened(text: str) -> str:
    """A text without the folders of a local path in it.

    >>> shortened("parquet:/home/me/train.parquet"), shortened("s3://bucket/a/b"), shortened("zip://x.csv::/data/a.zip")
    ('parquet:train.parquet', 's3://bucket/a/b', 'zip://x.csv::a.zip')
    """
    return "::".join(map(_shortened, text.split("::")))


def _shortened(link: str) -> str:
    found = LOCAL.fullmatch(link)
    return link if found is None else found[1] + _last(found[2])


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def data_name(words: str) -> str:
    """What ``--dataset`` named, without the folders of a local path.

    >>> data_name("folder:data/flowers"), data_name("hf:org/set"), data_name("digits"), data_name("data/flowers/")
    ('folder:flowers', 'hf:org/set', 'digits', 'flowers')
    """
    name, colon, rest = words.partition(":")
    if not colon and not words.startswith(("~", ".", "/")) and "/" in words:
        return _last(words)
    if name in REPOSITORIES or "://" in rest or not colon:
        return shortened(words)
    return f"{name}:{_last(rest)}"


def published(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A record of how a set was made, as it is handed on with the set."""
    made: dict[str, Any] = _clean(provenance)
    config = made.get("config")
    if isinstance(config, dict):
        made["config"] = {n: _named(n, value) for n, value in config.items() if n not in PLACES}
    teachers = (made.get("options") or {}).get("teachers")
    if isinstance(teachers, dict) and "weights" in teachers:
        teachers["weights"] = _last_of(teachers["weights"])
    if isinstance(made.get("plugins"), list):
        made["plugins"] = [{n: _last_of(v) if n == "path" else v for n, v in p.items()} for p in made["plugins"]]
    if isinstance(made.get("relabelled"), list):
        made["relabelled"] = [published(one) for one in made["relabelled"]]
    return made


def _named(name: str, value: Any) -> Any:
    if name == "dataset" and isinstance(value, str):
        return data_name(value)
    if name == "evaluate_on" and isinstance(value, list):
        return [data_name(each) if isinstance(each, str) else each for each in value]
    return _last_of(value) if name == "plugin_path" else value


def _last_of(value: Any) -> Any:
    if isinstance(value, list):
        return [_last_of(each) for each in value]
    return _last(value) if isinstance(value, str) and "://" not in value else value


SAID_OF_DATA = ("name", "origin", "licence", "fingerprint", "train")
"""What a set says of its data, and their notes if there are any."""


def published_source(source: Mapping[str, Any]) -> dict[str, Any]:
    """What a set says of its data, class names as they are."""
    said = {name: source[name] for name in ("name", "origin") if isinstance(source.get(name), str)}
    return {**source, **{name: data_name(text) if ":" in text else shortened(text) for name, text in said.items()}}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return shortened(value)
    if isinstance(value, Mapping):
        return {name: _clean(each) for name, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, list | tuple) else value


def told(text: str) -> str:
    """A sentence without the folders of the local paths in it, for what is handed on.

    >>> told("/home/me/cache/full/a.safetensors is damaged; s3://bucket/a/b is not, and 1/2 is a half")
    'a.safetensors is damaged; s3://bucket/a/b is not, and 1/2 is a half'
    """
    return FOLDERS.sub("", text.replace(f"{_home()}/", "~/") if _home() else text)


FOLDERS = re.compile(
    r"""(?<![\w/.~])(?:file://(?=/)|local://(?=/))?(?:~|\.\.?)?/(?!/)(?:[^\s/'"<>|;,]+/)*(?=[^\s/'"<>|;,])"""
)
"""The folders of a local path within a sentence, all but its last name."""


def at_home(value: Any) -> Any:
    """JSON values whose local paths begin with ``~`` where they lie below the home folder of this user."""
    if isinstance(value, Mapping):
        return {name: at_home(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [at_home(each) for each in value]
    return _moved(value, f"{_home()}/", "~/") if isinstance(value, str) and _home() else value


def from_home(value: Any) -> Any:
    """The inverse of ``at_home``, for this user's home folder."""
    if isinstance(value, Mapping):
        return {name: from_home(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [from_home(each) for each in value]
    return _moved(value, "~/", f"{_home()}/") if isinstance(value, str) and _home() else value


def _moved(text: str, one: str, other: str) -> str:
    return "::".join(_moved_link(link, one, other) for link in text.split("::"))


def _moved_link(link: str, one: str, other: str) -> str:
    found = LOCAL.fullmatch(link)
    if found is None or not found[2].startswith(one):
        return link
    return f"{found[1]}{other}{found[2][len(one) :]}"


def _home() -> str:
    """The home folder; nothing where it is the root of all, or unknown."""
    found = os.path.expanduser("~").rstrip("/\\")
    return "" if found == "~" else found


def hashes(words: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the local files among some words, by their last names: which weights they were."""
    found: dict[str, str] = {}
    for word in words:
        path = None if "://" in word else Place.at(word).local_path()
        if path is not None and path.is_file():
            with path.open("rb") as opened:
                found[path.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found
