"""Text from data on its way to a terminal, where some characters are commands: they are shown as escapes instead.

Class names, file names and whatever a manifest says may hold them. Control characters move the cursor, set colours and
titles, and can rewrite what was printed before; others turn the direction of a text; halves of surrogate pairs, from
file names that are no UTF-8, cannot be printed at all.
"""

from __future__ import annotations

import re

COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
LONGEST_SENTENCE = 2000


def printable(text: str, keep: str = "\n") -> str:
    r"""A text whose characters are all letters to a terminal.

    Args:
        keep: those that stay as they are.

    >>> printable("\x1b[2Jcat\n")
    '\\x1b[2Jcat\n'
    """
    return COMMANDS.sub(lambda found: found.group() if found.group() in keep else _escaped(found.group()), text)


def printable_line(text: str) -> str:
    """The same on one line, and not endless: a sentence, or one cell of a table."""
    line = printable(text, keep="")
    return line if len(line) <= LONGEST_SENTENCE else f"{line[:LONGEST_SENTENCE]}..."


def printable_json(text: str) -> str:
    """A JSON document with the same characters as escapes of JSON's own: its content stays what it is."""
    return COMMANDS.sub(lambda found: found.group() if found.group() == "\n" else f"\\u{ord(found.group()):04x}", text)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
