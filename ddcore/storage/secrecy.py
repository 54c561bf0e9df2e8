"""What records, logs, reports and screens never show: credentials in addresses, secret options, secrets of the
environment.

A record holds an address without its credentials and says that it does. Workers that this process begins, and a run
that is resumed later, get what was withheld through the environment: ``DDCORE_SECRETS`` holds whole addresses, or
``group.option=value`` of secret options, quoted and separated as a shell does.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import quote, unquote

from ddcore.errors import InputError

HANDED_ON = "DDCORE_SECRETS"
NAMES = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY", re.IGNORECASE)
"""Environment variables whose values are secrets."""
PART = 4
"""Letters of a secret that a driver's message may not hold."""
SHORTEST = 10
"""Characters; shorter values of the environment are words that a text may hold by chance."""
COVER = "***"
LINK = re.compile(r"(?<!\w)\w++://(?:[^\n/@:]*:(?!\d{0,5}(?:[/?#\s]|$))[^@\n]*@)?\S*")
"""An address in a text, with the spaces of a password in it."""
CHAINED = re.compile(r"((?:::|,)(?=[\w+.-]+(?:::|:\w+://|://)))")
"""What stands between addresses."""
HOST = re.compile("[/?#;]")
"""Where a host and its port end."""
CUT = re.compile("[?#;]")
WITH_PORT = re.compile(r"(?:\[[^\[\]@]*\]|[^:\[\]@]*)(?::\d{0,5})?")
WORDS = re.compile(r"""[:@/?#;&=,\s'"\\]+""")

_addresses: dict[str, str] = {}
_options: dict[str, str] = {}


def redact(text: str) -> str:
    """A text without the credentials, parameters, queries and fragments of addresses in it; plain paths stay as they
    are.

    >>> redact("GET s3://key:secret@bucket/a.npz?versionId=7 failed")
    'GET s3://bucket/a.npz failed'
    """
    return LINK.sub(lambda link: bare(link.group()), text)


def bare(address: str) -> str:
    """One address, or a chain of them, without credentials, parameters, query and fragment.

    People write what has to be percent-encoded as it is: ``@``, ``#``, ``?``, ``/`` and spaces in passwords. Where it
    cannot be told what is secret, all is.

    >>> bare("npz:https://me:p@ss w@host/a.npz;token=x"), bare("simplecache::s3://key:secret@bucket/a?v=1")
    ('npz:https://host/a.npz', 'simplecache::s3://bucket/a')
    >>> bare("https://host:80/me@x/y")
    'https://***'
    """
    return "".join(map(_bare, CHAINED.split(address)))


def _bare(link: str) -> str:
    scheme, mark, rest = link.partition("://")
    return scheme + mark + (CUT.split(_without_user(rest))[0] if mark else "")


def _without_user(rest: str) -> str:
    """What follows ``://``, from the host on."""
    authority = HOST.split(rest)[0]
    name = authority.partition("@")[0]
    doubtful = ":" in name and not WITH_PORT.fullmatch(name)
    many = rest.count("@")
    if many == authority.count("@"):
        return COVER if doubtful and not many else rest.rpartition("@")[2]
    if many == 1 and doubtful:
        return rest.rpartition("@")[2]
    return rest if ":" not in name and "@" not in authority else COVER


def shown(address: str) -> str:
    """An address as records show it; ``whole`` knows what was left out, here and in workers."""
    made = bare(address)
    if made != address:
        _addresses[made] = address
    return made


def without(text: str, address: str) -> str:
    """What a driver says of an address, which may hold pieces of it alone; nothing,
    if it holds any that records do not show."""
    kept = bare(address)
    text = redact(text.replace(address, kept))
    parts = {word[at : at + PART] for word in _pieces(address) for at in range(max(1, len(word) - PART + 1))}
    return "" if any(part in text and part not in kept for part in parts) else text


@cache
def _pieces(address: str) -> tuple[str, ...]:
    """The words of an address that are not in what is shown of it."""
    kept = {*WORDS.split(bare(address))}
    words = {word for word in (*WORDS.split(address), *WORDS.split(unquote(address))) if word and word not in kept}
    return tuple(sorted(words, key=lambda word: (-len(word), word)))


@cache
def _spellings(address: str) -> tuple[str, ...]:
    """An address as texts write it: plain, in JSON, as Python does, percent-encoded."""
    quoted = (json.dumps(address)[1:-1], json.dumps(address, ensure_ascii=False)[1:-1], repr(address)[1:-1])
    return tuple(dict.fromkeys((address, *quoted, quote(address, safe=":/@?#;&=%"))))


def keep(option: str, value: Any) -> None:
    """Remember a secret option, "group.name": for workers, and so that no text shows it."""
    if value is not None:
        _options[option] = str(value)


def whole(address: str) -> str | None:
    """The address with what its record withholds; None where that is not known here."""
    _read_environment()
    return _addresses.get(address)


def option(name: str) -> str | None:
    """A secret option, "group.name"; None where it is not known here."""
    _read_environment()
    return _options.get(name)


def withhold(document: Mapping[str, Any], *branches: str) -> dict[str, Any]:
    """A JSON document whose addresses in some branches stand without credentials;
    ``withheld`` names those that had any."""
    made = {name: clean(value) if name in branches else value for name, value in document.items()}
    paths = [
        *document.get("withheld", ()),
        *(path for b in branches for path in _differing(document.get(b), made.get(b), b)),
    ]
    return {**made, "withheld": paths} if paths else made


def restore(document: Mapping[str, Any], *, strict: bool = True) -> dict[str, Any]:
    """A document with what it withholds.

    Args:
        strict: what is not known here is an error; else it stays as it is.

    Raises:
        InputError: naming the option, and the way to give the address again.
    """
    made: dict[str, Any] = dict(document)
    for path in document.get("withheld", ()):
        made = _with(made, str(path).split("/"), strict)
    return made


def _with(value: Any, path: list[str], strict: bool) -> Any:
    if path and isinstance(value, Mapping) and path[0] in value:
        return {**value, path[0]: _with(value[path[0]], path[1:], strict)}
    if path and isinstance(value, list) and path[0].isdigit() and int(path[0]) < len(value):
        at = int(path[0])
        return [*value[:at], _with(value[at], path[1:], strict), *value[at + 1 :]]
    if path or not isinstance(value, str):
        return value
    found = whole(value)
    if found is None and strict:
        raise InputError(
            f"{value} was recorded without its credentials: put the whole address into the environment variable {HANDED_ON}, quoted as for a shell"
        )
    return value if found is None else found


def _differing(one: Any, other: Any, path: str) -> list[str]:
    if isinstance(one, Mapping):
        return [found for name in one for found in _differing(one[name], other[name], f"{path}/{name}")]
    if isinstance(one, list | tuple):
        return [found for n, each in enumerate(one) for found in _differing(each, other[n], f"{path}/{n}")]
    return [path] if one != other else []


def hand_on() -> None:
    """Give processes that this one begins what records withhold."""
    words = [*_addresses.values(), *(f"{name}={value}" for name, value in _options.items())]
    if words:
        os.environ[HANDED_ON] = shlex.join(words)


def hidden(text: str) -> str:
    """A text for people or files, without any secret that this process knows."""
    for known, address in _addresses.items():
        for spelling in _spellings(address):
            text = text.replace(spelling, known)
    words = (word for address in _addresses.values() for word in _pieces(address) if not word.isdecimal())
    for secret in (*_options.values(), *_of_environment(), *words):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, COVER)
    return text


def clean(value: Any) -> Any:
    """JSON values with every address as records show it."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, Mapping):
        return {name: clean(each) for name, each in value.items()}
    return [clean(each) for each in value] if isinstance(value, list | tuple) else value


def _of_environment() -> list[str]:
    return [os.environ[name] for name in os.environ if _is_secret(name)]


@cache
def _is_secret(name: str) -> bool:
    """Whether a variable's value is a secret; asked for every line of a log."""
    return name != HANDED_ON and NAMES.search(name) is not None


def _read_environment() -> None:
    for word in shlex.split(os.environ.get(HANDED_ON, "")):
        name, equals, value = word.partition("=")
        if equals and "://" not in name:
            _options.setdefault(name, value)
        else:
            _addresses.setdefault(bare(word), word)
