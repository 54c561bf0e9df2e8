"""What compressed data may grow to: a few kilobytes can unpack to any number of gigabytes.

Pixels and labels of real data shrink to a tenth or a fiftieth; only what was made to do harm shrinks to a thousandth.
So a file may grow without limit as long as it grows in proportion, and beyond that by a fixed number of bytes.
"""

from __future__ import annotations

from ddcore.errors import InputError

TIMES = 200
"""How many times its size anything may grow to."""
ANYHOW = 2**26
"""Bytes that anything may grow to, however small it is."""


def most(packed: int) -> int:
    """Bytes that ``packed`` bytes may unpack to.

    >>> most(1_000), most(10_000_000)
    (67108864, 2000000000)
    """
    return max(ANYHOW, TIMES * packed)


def check_growth(packed: int, unpacked: int, where: str, way_out: str = "get it from somebody you trust") -> None:
    """Refuse data that unpack to far more than they take.

    Raises:
        InputError: saying how much.
    """
    if unpacked > most(packed):
        raise InputError(f"{where} would unpack to {unpacked:,} bytes from {packed:,}: {way_out}")
