"""Real data by name, asked of the core and of selected plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ddcore.api.plugin import Plugin
from ddcore.composing.asking import Hooks
from ddcore.data.recognise import taken_for, unknown
from ddcore.data.source import Source, check_varied
from ddcore.data.sources import as_taken, known_sources
from ddcore.data.symmetry import settled
from ddcore.errors import InputError


def load_source(hooks: Hooks, dataset: str, options: Mapping[str, Any]) -> Source:
    """Ask the plugins for the data of a name, in any case, or of a path, by what lies there.

    Raises:
        InputError: nobody knows it; a path that holds no data, or of several kinds; all train images are equal.
    """
    name, _, rest = dataset.partition(":")
    plugins = [impl.plugin for impl in hooks.providers("ddcore_data")]
    source = hooks.data(_spelt(name, plugins), rest, options)
    if source is not None:
        return _settled(source, options)
    others = [plugin.recognises for plugin in plugins if isinstance(plugin, Plugin)]
    kind = taken_for(dataset, options.get("data_root"), others)
    source = None if kind is None else hooks.data(kind, dataset, options)
    if source is None or kind is None:
        raise InputError(unknown(dataset, _names(plugins)))
    return _settled(as_taken(source, kind), options)


def _settled(source: Source, options: Mapping[str, Any]) -> Source:
    """The source with what ``--mirror`` says; refused if its train images are all equal."""
    check_varied(source)
    mirror = options.get("mirror", "auto")
    return source if mirror == "auto" else settled(source, mirror)


def _spelt(name: str, plugins: Sequence[Any]) -> str:
    """A name of data as its reader spells it."""
    known = _names(plugins)
    return name if name in known else next((n for n in known if n.lower() == name.lower()), name)


def _names(plugins: Sequence[Any]) -> list[str]:
    """Every name of data that the core or one of these plugins answers."""
    return [n for p in plugins for n in getattr(p, "datasets", ())] + [n for n, _ in known_sources()]
