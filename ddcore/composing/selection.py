"""From a command line to what makes a run: the plugins it names, and every option with its value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pluggy
from attrs import field, frozen

from ddcore.api.plugin import ASSETS
from ddcore.composing.discovery import Offer, add_packs, load_class, load_path, manager
from ddcore.composing.options import First, Resolved, as_json, core_group, from_json, preparse, resolve
from ddcore.composing.presets import Preset, choose_preset
from ddcore.composing.recipes import RULES
from ddcore.config import Config
from ddcore.errors import DdcoreError, OptionError, PluginError

OF_A_SET = "of the artifact"
"""Name of the preset by which what is taken over from a finished set enters a command's options."""


@frozen(eq=False)
class Setup:
    """What makes a run.

    Attributes:
        resolved: configuration, option instances by group, and the source of every value.
        offers: where each selected plugin came from, by name, in command-line order.
    """

    resolved: Resolved
    offers: Mapping[str, Offer] = field(factory=dict)

    @property
    def config(self) -> Config:
        """The shared options."""
        return self.resolved.config

    @property
    def options(self) -> Mapping[str, Any]:
        """Option instances by group: plugins and the core's own groups."""
        return self.resolved.options

    @property
    def plugins(self) -> dict[str, Any]:
        """Plugin instances by name, in command-line order."""
        return {name: self.resolved.options[name] for name in self.offers}

    def manager(self, core: object) -> pluggy.PluginManager:
        """A plugin manager with the core's own hooks first, then the selected plugins."""
        return manager(self.plugins, self.offers, core=core)

    def described(self) -> dict[str, str]:
        """How messages name each plugin."""
        return {name: f"{name!r} ({offer.distribution} {offer.version})" for name, offer in self.offers.items()}

    def as_json(self) -> dict[str, Any]:
        """Plain values; secrets are left out."""
        return {**as_json(self.resolved), "plugins": [offer.as_json() for offer in self.offers.values()]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Setup:
        """Rebuild from ``run.json``.

        Raises:
            PluginError: a plugin is missing, or is installed in another version than the run was begun with.
            InputError: the record is damaged or from a newer ddcore.
        """
        offers: dict[str, Offer] = {}
        classes: dict[str, Any] = {}
        for saved in record["plugins"]:
            name = saved["name"]
            classes[name], offers[name] = (
                load_path(saved["path"], str(saved.get("sha256", "")))
                if saved.get("path")
                else load_class(saved["request"])
            )
            if (now := offers[name].identity) != (then := saved["identity"]):
                raise PluginError(
                    f"the run was begun with plugin {name!r} {then}, and {now} is here: install the one it had"
                )
        add_packs(classes, offers)
        return cls(from_json(record, classes), offers)


@frozen(eq=False)
class Selection:
    """The plugins a command line names.

    Attributes:
        groups: option classes by name, plugins in command-line order, then the core's own groups they need.
    """

    first: First
    classes: Mapping[str, Any]
    offers: Mapping[str, Offer]

    @property
    def groups(self) -> dict[str, type]:
        """Every option class of the run."""
        return {**self.classes, **core_groups(self.classes, self.first.labels)}


def core_groups(classes: Mapping[str, Any], labels: str | None = None) -> dict[str, type]:
    """The core's option groups for what these plugins, and this rule for labels, need or may need."""
    wanted = {asset for cls in classes.values() for asset in (*cls.needs, *cls.may_need)}
    if {labels, *(cls.suggests_labels for cls in classes.values())} & {*RULES}:
        wanted.add("teachers")
    groups = [group for asset, group in ASSETS.items() if asset in wanted]
    return {group: core_group(group) for group in (*groups, *(["views"] if "teachers" in wanted else []))}


def select(args: Sequence[str], environment: Mapping[str, str], *, strict: bool = True) -> Selection:
    """Load the plugins that a command line, the environment or config files name, and the packs they stand on.

    Args:
        strict: False leaves out plugins that cannot be loaded, for ``--help``.

    Raises:
        PluginError: unknown, broken, or selected twice.
    """
    first = preparse(args, environment)
    classes: dict[str, Any] = {}
    offers: dict[str, Offer] = {}
    loaders = [(load_class, p) for p in first.plugins] + [(load_path, p) for p in first.plugin_paths]
    for load, request in loaders:
        try:
            cls, offer = load(request)
        except DdcoreError:
            if strict:
                raise
            continue
        if offer.name in classes:
            raise PluginError(f"plugin {offer.name!r} is selected twice: name it once")
        classes[offer.name], offers[offer.name] = cls, offer
    add_packs(classes, offers, strict=strict)
    return Selection(first, classes, offers)


def setup_from(selection: Selection, given: Mapping[str, Any], environment: Mapping[str, str]) -> Setup:
    """Resolve every option of a selection.

    Args:
        given: what was on the command line, ``group__name`` to value.
    """
    given = {name: value for name, value in given.items() if name not in ("config", "preset")}

    def resolved(preset: Preset | None) -> Resolved:
        labels = given.get("labels") or selection.first.labels or (preset.tables.get("labels") if preset else None)
        groups = {**selection.classes, **core_groups(selection.classes, labels)}
        files = selection.first.files
        return resolve(groups, command_line=given, environment=environment, files=files, preset=preset)

    plain = resolved(None)
    by_bytes = plain.config.bytes is not None
    if by_bytes and (source := plain.sources["ipc"]) != "default":
        raise OptionError(
            f"--bytes {plain.config.bytes} chooses the images per class, which --ipc (from {source}) gives too: leave one of them out"
        )
    ipc = 0 if by_bytes else plain.config.ipc
    preset = choose_preset(selection.first.preset, selection.classes, plain.config.dataset, ipc)
    return Setup(resolved(preset), selection.offers)
