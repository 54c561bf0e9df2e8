"""Presets: a paper's settings for a data set and a number of images per class, with their source, kept in its plugin."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from attrs import field, frozen

from ddcore.errors import OptionError, PluginError, near

AUTO, NONE = "auto", "none"


@frozen
class Preset:
    """One row of a settings table.

    Attributes:
        name: PLUGIN/NAME.
        source: where the settings stand.
        published: ``accuracy`` and ``std`` as fractions, if there are any.
        tables: shared options at the top, ``experts``, ``plugin``.
    """

    name: str
    dataset: str
    ipc: int
    source: str
    published: Mapping[str, float] = field(factory=dict)
    tables: Mapping[str, Any] = field(factory=dict)


def presets_of(name: str, cls: Any) -> dict[str, Preset]:
    """A plugin's presets by name; none when it brings none.

    Raises:
        PluginError: its resource is missing or no TOML.
    """
    if getattr(cls, "presets", None) is None:
        return {}
    try:
        text = resources.files(cls.__module__.partition(".")[0]).joinpath(cls.presets).read_text("utf-8")
        document = tomllib.loads(text)
    except (OSError, TypeError, tomllib.TOMLDecodeError) as error:
        raise PluginError(
            f"plugin {name!r} has presets {cls.presets!r} that cannot be read ({error}): reinstall it"
        ) from error
    try:
        return {key: _preset(f"{name}/{key}", table) for key, table in document.items()}
    except (KeyError, AttributeError) as error:
        raise PluginError(
            f"plugin {name!r} has a preset without {error}: each is a table with dataset and ipc"
        ) from error


def _preset(name: str, table: Mapping[str, Any]) -> Preset:
    tables = {**table.get("run", {}), **{k: table[k] for k in ("experts", "plugin") if k in table}}
    tables |= {"dataset": table["dataset"], "ipc": table["ipc"]}
    return Preset(name, table["dataset"], table["ipc"], table.get("source", ""), table.get("published", {}), tables)


def choose_preset(request: str, classes: Mapping[str, Any], dataset: str, ipc: int) -> Preset | None:
    """The preset that a run uses.

    Args:
        request: ``auto`` takes the matcher's for this data set and number of images, if there is one.
        classes: selected plugins.

    Raises:
        OptionError: no such preset.
    """
    if request == NONE:
        return None
    known = {preset.name: preset for name, cls in classes.items() for preset in presets_of(name, cls).values()}
    if request == AUTO:
        matchers = {name for name, cls in classes.items() if getattr(cls, "role", None) == "matcher"}
        ours = [p for p in known.values() if p.name.partition("/")[0] in matchers]
        fits = [p for p in ours if (p.dataset.lower(), p.ipc) == (dataset.lower(), ipc)]
        return fits[0] if fits else None
    named = [p for p in known.values() if request in (p.name, p.name.partition("/")[2])]
    if len(named) != 1:
        shown = " or ".join(p.name for p in named) if named else near(request, known)
        raise OptionError(
            f"--preset {request!r} is {'ambiguous' if named else 'offered by no selected plugin'}: {shown}"
        )
    return named[0]
