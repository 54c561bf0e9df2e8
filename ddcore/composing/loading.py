"""Real data by name, asked of the core and of selected plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddcore.composing.asking import Hooks
from ddcore.data.source import Source, check_varied
from ddcore.data.sources import known_sources
from ddcore.data.symmetry import settled
from ddcore.errors import InputError, near


def load_source(hooks: Hooks, dataset: str, options: Mapping[str, Any]) -> Source:
    """Ask the plugins for the data of a name.

    Raises:
        InputError: nobody knows it; all of its train images are equal.
    """
    name, _, rest = dataset.partition(":")
    source = hooks.data(name, rest, options)
    if source is None:
        raise InputError(unknown_dataset(dataset))
    check_varied(source)
    mirror = options.get("mirror", "auto")
    return source if mirror == "auto" else settled(source, mirror)


def unknown_dataset(name: str) -> str:
    """One sentence for a data name that nobody answers."""
    return f"no data set is named {name!r}: {near(name.partition(':')[0], [known for known, _ in known_sources()])}"
