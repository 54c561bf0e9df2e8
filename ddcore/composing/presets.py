"""Presets: a paper's settings for a data set and a number of images per class, with their source, kept in its plugin.

A table of the plugin's TOML resource is one:

    [cifar10-ipc10]
    dataset = "cifar10"
    ipc = 10
    plugins = ["ftd", "mtt"]                        # whose settings these are; default: the plugin that brings the file
    copy = "folder:PATH"                            # --dataset of a copy; default: parquet:PATH, of images
    also = ["dsa"]                                  # what the paper's runs use as well
    auto = false                                    # a variant of another row, taken by its name only; default: true
    source = "arXiv:2211.11004, table 7"
    published = { accuracy = 0.666, std = 0.003 }   # fractions; both, the first alone, or none

with ``[cifar10-ipc10.run]`` for shared options, ``[cifar10-ipc10.experts]`` and ``[cifar10-ipc10.plugin.NAME]``.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any

from attrs import field, frozen

from ddcore.composing.discovery import Offer, find, installed, load_class, matching
from ddcore.composing.source_text import UNREADABLE, class_named, literals, source_file
from ddcore.composing.tables import table
from ddcore.errors import DdcoreError, OptionError, PluginError, in_short, near

AUTO, NONE = "auto", "none"
IMAGES = "parquet:PATH"
"""What ``--dataset`` calls a copy of images."""


@frozen
class Preset:
    """One row of a settings table.

    Attributes:
        name: PLUGIN/NAME.
        plugins: whose settings these are; without all of them they fit nothing.
        also: plugins that the paper's runs use as well: the settings fit without them, the published figure does not.
        copy: what ``--dataset`` calls a copy of the data, for who has none by that name.
        source: where the settings stand.
        published: ``accuracy`` and ``std`` as fractions, if there are any; some come without ``std``.
        auto: whether ``--preset auto`` may take it; a variant of another row is taken by its name only.
        tables: shared options at the top, ``experts``, ``plugin``.
    """

    name: str
    dataset: str
    ipc: int
    plugins: tuple[str, ...]
    copy: str = IMAGES
    source: str = ""
    also: tuple[str, ...] = ()
    auto: bool = True
    published: Mapping[str, float] = field(factory=dict)
    tables: Mapping[str, Any] = field(factory=dict)

    @property
    def every_plugin(self) -> tuple[str, ...]:
        """What a reproduction runs."""
        return (*self.plugins, *self.also)

    def as_json(self) -> dict[str, Any]:
        """A row of ``ddcore presets``."""
        names = ("name", "dataset", "ipc", "plugins", "also", "published", "source")
        values = {name: getattr(self, name) for name in names}
        return {**values, "plugins": [*self.plugins], "also": [*self.also], "published": dict(self.published)}


def presets_of(name: str, cls: Any) -> dict[str, Preset]:
    """A plugin's presets by name; none when it brings none.

    Raises:
        PluginError: its resource is missing, no TOML, or has a table that is no preset.
    """
    if getattr(cls, "presets", None) is None:
        return {}
    return _presets_in(name, cls.presets, lambda: resources.files(cls.__module__.partition(".")[0]))


def _presets_in(name: str, resource: str, folder: Callable[[], Any]) -> dict[str, Preset]:
    """Presets in a plugin's folder, which may be in an archive."""
    try:
        document = tomllib.loads(folder().joinpath(resource).read_text("utf-8"))
    except (OSError, TypeError, ValueError) as error:
        raise PluginError(
            f"plugin {name!r} has presets {resource!r} that cannot be read ({error}): reinstall it"
        ) from error
    try:
        return {key: _preset(name, key, table) for key, table in document.items()}
    except (KeyError, AttributeError) as error:
        raise PluginError(
            f"plugin {name!r} has a preset without {error}: each is a table with dataset and ipc"
        ) from error


def _preset(owner: str, key: str, table: Mapping[str, Any]) -> Preset:
    tables = {**table.get("run", {}), **{k: table[k] for k in ("experts", "teachers", "views", "plugin") if k in table}}
    tables |= {"dataset": table["dataset"], "ipc": table["ipc"]}
    lists = {name: table.get(name, default) for name, default in (("plugins", [owner]), ("also", []))}
    if not all(isinstance(n, list) and all(isinstance(p, str) for p in n) for n in lists.values()):
        raise PluginError(
            f"plugin {owner!r} has a preset {key!r} whose plugins are no list of names: write [{owner!r}]"
        )
    if owner not in lists["plugins"]:
        raise PluginError(f"plugin {owner!r} has a preset {key!r} for other plugins only: list {owner!r} among them")
    return Preset(
        name=f"{owner}/{key}",
        dataset=table["dataset"],
        ipc=table["ipc"],
        plugins=tuple(lists["plugins"]),
        also=tuple(lists["also"]),
        auto=table.get("auto", True),
        copy=table.get("copy", IMAGES),
        source=table.get("source", ""),
        published=table.get("published", {}),
        tables=tables,
    )


def every_preset(unreadable: Callable[[str], None] = lambda sentence: None) -> list[Preset]:
    """The presets of all installed plugins, by plugin name; none is imported.

    Args:
        unreadable: is told, in a sentence, of each plugin whose presets cannot be read so.
    """
    found: list[Preset] = []
    for name in installed():
        try:
            found += _read_presets(find(name))
        except DdcoreError as error:
            unreadable(str(error))
    return found


def _read_presets(offer: Offer) -> list[Preset]:
    """The presets of an installed plugin, by what its source names, without importing it.

    Raises:
        PluginError: its source, or a preset, cannot be read; its class is made elsewhere.
    """
    file = resource_of(offer, "presets")
    return [] if file is None else [*_presets_in(offer.name, file.name, lambda: file.parent).values()]


def resource_of(offer: Offer, attribute: str) -> Any:
    """The file of an installed plugin that an attribute of its class names, by its source, without importing it; None
    if it names none.

    Raises:
        PluginError: its source cannot be read; its class is made elsewhere.
    """
    module, _, class_name = offer.value.partition(":")
    who = f"plugin {offer.name!r} ({offer.identity})"
    try:
        node = class_named(ast.parse(source_file(module).read_text("utf-8")), class_name)
    except (OSError, SyntaxError, ImportError, ValueError) as error:
        raise PluginError(
            f"{who} cannot be read ({in_short(error)}): upgrade or uninstall {offer.distribution}"
        ) from error
    resource = UNREADABLE if node is None else literals(node, {attribute: None})[attribute]
    if resource is None:
        return None
    if node is None or not isinstance(resource, str) or resource == UNREADABLE:
        raise PluginError(
            f"{who} is not asked for {attribute}, as its source does not name them: see `ddcore plugins show {offer.name}`"
        )
    return source_file(module.partition(".")[0]).parent / resource


def installed_presets(name: str) -> list[Preset]:
    """The presets of one installed plugin, which is imported.

    Raises:
        PluginError: there is no such plugin, or it or its presets cannot be loaded.
    """
    cls, offer = load_class(name)
    return [*presets_of(offer.name, cls).values()]


def listed(presets: Iterable[Preset], plugin: str | None, dataset: str | None) -> list[Preset]:
    """Those that name a plugin and are for a data set, in any case; None is any.

    Raises:
        PluginError: no such plugin is installed.
    """
    name = None if plugin is None else find(plugin).name
    return [
        p
        for p in presets
        if name in (None, *p.every_plugin) and (dataset is None or p.dataset.lower() == dataset.lower())
    ]


def listing_text(presets: Iterable[Preset]) -> str:
    """One preset a line."""
    headings = ["preset", "plugins", "data", "ipc", "published", "source"]
    cells = [[p.name, _plugins(p), p.dataset, str(p.ipc), published_text(p.published), p.source] for p in presets]
    return table(headings, cells)


def _plugins(preset: Preset) -> str:
    return " + ".join([*preset.plugins, *(f"({name})" for name in preset.also)])


def published_text(published: Mapping[str, float]) -> str:
    """A published accuracy for people.

    >>> published_text({"accuracy": 0.5, "std": 0.01}), published_text({"accuracy": 0.5}), published_text({})
    ('0.500 ± 0.010', '0.500', '-')
    """
    if not published:
        return "-"
    deviation = f" ± {published['std']:.3f}" if "std" in published else ""
    return f"{published['accuracy']:.3f}{deviation}"


def choose_preset(request: str, classes: Mapping[str, Any], dataset: str, ipc: int) -> Preset | None:
    """The preset that a run uses.

    Args:
        request: ``auto`` takes the one for this data set and number of images, the matcher and as many of the other
            selected plugins as possible, if there is one.
        classes: selected plugins.

    Raises:
        OptionError: no such preset, or one for plugins that are not selected; ``auto`` finds two that fit as well.
    """
    if request == NONE:
        return None
    known = [preset for name, cls in classes.items() for preset in presets_of(name, cls).values()]
    if request == AUTO:
        matcher = matcher_of(classes)
        mine = [p for p in known if p.auto and matcher in p.plugins and not _lacking(p, classes)]
        return _best([p for p in mine if (p.dataset.lower(), p.ipc) == (dataset.lower(), ipc)])
    named = named_preset(request, known)
    if not named:
        raise OptionError(_absent(request, classes, [p.name for p in known]))
    fitting = [p for p in named if not _lacking(p, classes)]
    if not fitting:
        raise OptionError(" or ".join(_for_more(p, classes) for p in named))
    if len(fitting) > 1:
        raise OptionError(f"--preset {request!r} is ambiguous: {' or '.join(p.name for p in fitting)}")
    return fitting[0]


def named_preset(request: str, known: Iterable[Preset]) -> list[Preset]:
    """Those that NAME or PLUGIN/NAME can mean."""
    return [p for p in known if request in (p.name, p.name.partition("/")[2])]


def matcher_of(classes: Mapping[str, Any]) -> str | None:
    """The one that matches; None where there is none, or several would."""
    matchers = matching(classes)
    return matchers[0] if len(matchers) == 1 else None


def _lacking(preset: Preset, classes: Mapping[str, Any]) -> list[str]:
    return [name for name in preset.plugins if name not in classes]


def _best(fits: list[Preset]) -> Preset | None:
    most = max((len(set(p.plugins)) for p in fits), default=0)
    best = [p for p in fits if len(set(p.plugins)) == most]
    if len(best) > 1:
        names = [p.name for p in best]
        raise OptionError(
            f"{' and '.join(names)} fit these plugins, data and images per class alike: choose with --preset {names[0]}"
        )
    return best[0] if best else None


def _for_more(preset: Preset, classes: Mapping[str, Any]) -> str:
    flags = " ".join(f"--plugin {name}" for name in _lacking(preset, classes))
    return f"preset {preset.name} is for {' and '.join(preset.plugins)}: add {flags}"


def _absent(request: str, classes: Mapping[str, Any], known: list[str]) -> str:
    """Why no selected plugin has this preset; an installed one that has it is named."""
    owner = request.partition("/")[0]
    if owner not in classes and owner in installed():
        for preset in named_preset(request, installed_presets(owner)):
            return _for_more(preset, classes)
    return f"--preset {request!r} is offered by no selected plugin: {near(request, known)}"
