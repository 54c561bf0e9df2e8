"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def byte_count(text: str) -> int:
    """A number of bytes from text; 1 MB is 10^6 bytes, 1 MiB is 2^20.

    >>> byte_count("2MB"), byte_count("1.5 kB"), byte_count("3 MiB"), byte_count("12345")
    (2000000, 1500, 3145728, 12345)

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].lower() not in UNITS or not float(found[1]):
        raise ValueError("it must be a number of bytes above 0 such as 2MB, 500kB, 1.5GB or 3MiB")
    return int(float(found[1]) * UNITS[found[2].lower()])


def bytes_text(count: float) -> str:
    """Bytes as a person says them; 1 kB is 1000 bytes.

    >>> bytes_text(650), bytes_text(93_405), bytes_text(2e6)
    ('650 B', '93.4 kB', '2 MB')
    """
    power = max((n for n in range(5) if count >= 1000**n), default=0)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
