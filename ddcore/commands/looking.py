"""``ddcore data show`` and ``ddcore data check``: real data by name, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ddcore.data.checking import Finding, examine
from ddcore.runs.assembly import open_data


def look(
    name: str, plugins: Sequence[str], paths: Sequence[str], options: Mapping[str, Any], *, check: bool
) -> tuple[dict[str, Any], list[Finding]]:
    """A data set's summary, and with ``check`` what was found in it; what is broken is then a finding like others.

    Raises:
        InputError: the data cannot be read.
    """
    source = open_data(name, plugins, paths, {**options, "skip_broken": True} if check else options)
    return source.summary(), examine(source) if check else []
