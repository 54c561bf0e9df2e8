"""Class attributes in ``help``: what the comments beside them say."""

from __future__ import annotations

import inspect
import itertools
import linecache
import re
import sys
import textwrap
from typing import TypeVar

T = TypeVar("T", bound=type)
NAMED = re.compile(r"    (\w+): ClassVar\[.*?\] = (.*?)(?:  # (.*))?$")


def with_attributes(cls: T) -> T:
    """Add a class's attributes to its docstring: each with its value and the comment beside it or, alone, above it.

    Comments such as ``# ---- of a matcher ----`` are headings. Without its source a class stays as it is.
    """
    lines = linecache.getlines(str(sys.modules[cls.__module__].__file__))
    start = f"class {cls.__name__}"
    body = itertools.dropwhile(lambda line: not line.startswith(start), lines)
    own = itertools.takewhile(lambda line: line[:1].isspace(), itertools.islice(body, 1, None))
    if found := attributes([line.rstrip() for line in own]):
        cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), *found, ""])
    return cls


def attributes(lines: list[str]) -> list[str]:
    """The attributes that are declared in lines of source, for people.

    >>> attributes(["    # ---- sizes ----", "    width: ClassVar[int] = 3  # in pixels"])
    ['', 'sizes', '    width = 3', '        in pixels']
    """
    found, above = [""], ""
    for line in lines:
        text = line.strip()
        if text.startswith("# ----"):
            found += [*([""] if found[-1] else []), text.strip("#- ")]
        elif text.startswith("# "):
            above = text[2:]
        elif named := NAMED.fullmatch(line):
            name, value, beside = named.groups()
            found.append(f"    {name} = {value}")
            found += textwrap.wrap(beside or above, 110, initial_indent=" " * 8, subsequent_indent=" " * 8)
            above = ""
    return found if found[1:] else []
