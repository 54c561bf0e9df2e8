"""JSON and TOML that anybody may have written: one way in, which refuses what later code would stumble over.

A document is refused if it is too long or nested too deeply, holds numbers that are not finite or beyond 64 bits, or
text that is no Unicode: half of a surrogate pair, which can be neither printed nor written. Of a key that is given
twice, JSON's last one counts; TOML has none.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from typing import Any, NoReturn, TypeGuard

LONGEST = 2**26
"""Bytes of a JSON document; the largest that ddcore writes, the scores of a thousand students,
take less than a hundredth."""
LONGEST_SETTINGS = 2**18
"""Bytes of a TOML document, which people write; parsing one takes quadratic time at worst."""
MOST_VALUES = 1_000_000
"""Values of a JSON document: each takes a hundred bytes of memory and more, however short it is written."""
DEEPEST = 100
"""Lists and tables inside each other."""
DOTTED = re.compile(rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{DEEPEST}}}""")
"""A key of so many parts, for which ``tomllib`` takes memory quadratic in their number."""
TOO_DEEP = "it is nested too deeply"
HALF = re.compile("[\ud800-\udfff]")


def parse_json(data: bytes | str) -> Any:
    """The content of a JSON document.

    Raises:
        ValueError: it is none, or one that is refused; says why.

    >>> parse_json('{"a": [1, null]}')
    {'a': [1, None]}
    >>> parse_json("[1, NaN]")
    Traceback (most recent call last):
    ValueError: NaN is no number of JSON
    """
    if len(data) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST:,} bytes")
    if sum(map(data.count, ",[{" if isinstance(data, str) else (b",", b"[", b"{"))) > MOST_VALUES:  # type: ignore[arg-type]
        raise ValueError(f"it holds more than {MOST_VALUES:,} values")
    try:
        content = json.loads(data, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    check(content)
    return content


def parse_toml(data: bytes) -> dict[str, Any]:
    """The content of a TOML document.

    Raises:
        ValueError: it is none, or one that is refused; says why.
    """
    if len(data) > LONGEST_SETTINGS:
        raise ValueError(f"it is longer than {LONGEST_SETTINGS:,} bytes")
    text = data.decode("utf-8")
    if DOTTED.search(text):
        raise ValueError(TOO_DEEP)
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    check(content)
    return content


def check(content: Any) -> None:
    """Refuse plain values that are nested too deeply, hold whole numbers beyond 64 bits, or text that is no Unicode.

    Raises:
        ValueError: which of them.
    """
    level = [content]
    for _ in range(DEEPEST + 1):
        if wrong := next(filter(None, map(_wrong, level)), ""):
            raise ValueError(wrong)
        level = [below for value in level for below in _below(value)]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _wrong(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 2**64:
        return "it holds a whole number beyond 64 bits"
    texts = value if isinstance(value, dict) else [value] if isinstance(value, str) else ()
    return "it holds text that is no Unicode" if any(HALF.search(text) for text in texts) else ""


def _below(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def is_count(value: object, least: int = 0) -> TypeGuard[int]:
    """Whether it is a whole number, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
