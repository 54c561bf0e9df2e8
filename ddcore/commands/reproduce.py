"""Run a preset as its paper did, and set the result beside the published figure; or a shortened copy, to see it run.

What shortening means: outer steps, experts and their epochs, options of plugins that count epochs or steps of those,
and students' epochs, each times the scale and rounded up, at least 1. Lower bounds (``min_...``) are rounded down, so
that a window stays open; experts get epochs enough for one segment. How a student is unrolled (N, M) is the method
itself and stays. The row on all data gets one epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from ddcore.composing.asking import Hooks
from ddcore.composing.discovery import installed
from ddcore.composing.options import SHARED, Resolved, fields, flag, resolve
from ddcore.composing.presets import (
    IMAGES,
    Preset,
    every_preset,
    installed_presets,
    matcher_of,
    named_preset,
    published_text,
)
from ddcore.composing.selection import Setup
from ddcore.composing.tables import row_json
from ddcore.errors import InputError, OptionError, near
from ddcore.runs.builtin import Core
from ddcore.runs.run import Run
from ddcore.scoring.rows import DISTILLED, chosen_rows
from ddcore.storage.places import Place
from ddcore.training.protocols import protocol, resolved_protocols
from ddcore.training.trajectory import UnrollOptions

if TYPE_CHECKING:
    from ddcore.api.types import Row
    from ddcore.composing.selection import Selection

INDIFFERENT = {
    *("plugins", "plugin_path", "data_root", "seed", "device", "out", "eval_seeds", "full_epochs", "baseline", "rows"),
    "evaluate_on",
}
INDIFFERENT |= {"jobs", "executor", "threads", "cache"}
FILE = "reproduce.json"
SHORTENED = (
    "shortened to {scale:g} of its steps, experts and epochs, "
    "so that its distance from the published figure means nothing"
)


def find_preset(arguments: Sequence[str]) -> Preset:
    """The preset that a command line names, in any position; PLUGIN/NAME loads that plugin only.

    Raises:
        OptionError: none, or a name that several plugins have.
        PluginError: its plugin cannot be loaded.
    """
    words = sorted((a for a in arguments if not a.startswith("-")), key=lambda word: "/" not in word)
    plugins = installed()
    for word in words:
        owner, slash, _ = word.partition("/")
        known = installed_presets(owner) if slash and owner in plugins else every_preset()
        found = named_preset(word, known)
        if len(found) > 1:
            raise OptionError(f"preset {word!r} is ambiguous: {' or '.join(p.name for p in found)}")
        if found:
            return found[0]
    if not words:
        raise OptionError("no preset is named: write ddcore reproduce PLUGIN/NAME, as `ddcore presets` lists them")
    raise OptionError(
        f"no installed plugin has a preset {words[0]!r}: {near(words[0], [p.name for p in every_preset()])}"
    )


def line_of(preset: Preset, arguments: Sequence[str]) -> list[str]:
    """The words of ``ddcore run`` for a preset, with what else was given.

    Raises:
        OptionError: another preset is asked for too.
    """
    if any(a.partition("=")[0] == "--preset" for a in arguments):
        raise OptionError(
            f"--preset says again which preset to reproduce: leave it out, {preset.name} is named already"
        )
    return [*(w for name in preset.every_plugin for w in ("--plugin", name)), *arguments, "--preset", preset.name]


@frozen(eq=False)
class Reproduction:
    """A preset, ready to be run.

    Attributes:
        scale: 1 as published, less: shortened.
        changed: what was given otherwise than preset and defaults have it, by flag.
    """

    preset: Preset
    setup: Setup
    scale: float
    changed: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        preset: Preset,
        selection: Selection,
        given: Mapping[str, Any],
        environment: Mapping[str, str],
        scale: float,
    ) -> Reproduction:
        """Resolve every option; what is given on the command line is taken as it is, shortened or not."""

        def resolved(chosen: Preset) -> Resolved:
            files = selection.first.files
            return resolve(selection.groups, command_line=given, environment=environment, files=files, preset=chosen)

        made, used = resolved(preset), preset
        if scale < 1:
            used = shortened(preset, Setup(made, selection.offers), scale)
            made = resolved(used)
        plain = resolve(selection.groups, command_line={}, environment={}, preset=used)
        more = [name for name in selection.classes if name not in preset.every_plugin]
        if DISTILLED not in chosen_rows(made.config):
            raise OptionError("--rows leaves out distilled, whose figure is to be reproduced: name it too")
        found = {**differences(plain, made), **({"--plugin": more} if more else {})}
        return cls(preset, Setup(made, selection.offers), scale, found)

    def data_error(self) -> InputError | None:
        """A sentence if the data are not here."""
        try:
            Run(self.setup, Place.at(self.setup.config.out or "runs")).source  # noqa: B018
        except InputError as error:
            return missing_data(self.preset, self.setup, error)
        return None

    def as_json(self) -> dict[str, Any]:
        """What ``run.json`` says of it."""
        preset = self.preset
        about = {
            "preset": preset.name,
            "plugins": [*preset.every_plugin],
            "data": {"preset": preset.dataset, "used": self.setup.config.dataset},
            "source": preset.source,
            "published": dict(preset.published),
            "scale": self.scale,
            "changed": dict(self.changed),
        }
        return about if self.scale == 1 else {**about, "note": SHORTENED.format(scale=self.scale)}

    def marks(self) -> dict[str, Any]:
        """What it adds to ``run.json``."""
        return {"reproduces": self.as_json()}


def missing_data(preset: Preset, setup: Setup, error: InputError) -> InputError:
    """The sentence for a preset's data that are not here; that of data named otherwise stays as it is.

    What was looked for is told where it was images, which the core has by name.
    """
    if setup.config.dataset.lower() != preset.dataset.lower():
        return error
    copy = f"{preset.name} needs --dataset with a copy of {preset.dataset}, such as {preset.copy}"
    return InputError(f"{copy}, or its files: {error}" if preset.copy == IMAGES else copy)


def differences(plain: Resolved, made: Resolved) -> dict[str, Any]:
    """Options that differ, by flag, but for those that no distilled set depends on."""
    found: dict[str, Any] = {}
    for group, one in {SHARED: made.config, **made.options}.items():
        other = plain.options[group] if group else plain.config
        for name, attribute in fields(type(one)).items():
            value = getattr(one, name)
            if value == getattr(other, name) or attribute.metadata.get("secret") or (not group and name in INDIFFERENT):
                continue
            found[flag(group, name)] = list(value) if isinstance(value, tuple) else value
    return found


# ---- shortening ------------------------------------------------------------------------------------------------------


def less(value: float, scale: float) -> int:
    """``value`` times ``scale``, rounded up; 0 stays 0.

    >>> less(100, 0.02), less(30, 0.02), less(0, 0.02)
    (2, 1, 0)
    """
    return math.ceil(round(value * scale, 9))


def shortened(preset: Preset, whole: Setup, scale: float) -> Preset:
    """A preset with all that it and the defaults make long times ``scale``."""
    units = ("steps", "epochs") if "experts" in whole.options else ("steps",)
    own = {name: shorter_options(plugin, scale, units) for name, plugin in whole.plugins.items()}
    settings = preset.tables.get("plugin", {})
    hooks = Hooks(whole.manager(Core()), whole.described())
    tables: dict[str, Any] = {
        **preset.tables,
        "protocol": [shorter_protocol(name, scale, hooks) for name in protocol_names(preset, whole)],
        "full_epochs": 1,
        "plugin": {name: {**settings.get(name, {}), **own.get(name, {})} for name in {**settings, **own}},
    }
    matcher = matcher_of(whole.plugins)
    steps = whole.plugins[matcher].steps if matcher and whole.config.steps is None else whole.config.steps
    if steps is not None:
        tables["steps"] = less(steps, scale)
    if "experts" in whole.options:
        ahead = max(getattr(plugin, "expert_epochs", 1) for plugin in whole.plugins.values())
        latest = max((v for values in own.values() for n, v in values.items() if n.endswith("start_epoch")), default=1)
        experts = shorter_experts(whole.options["experts"], scale, least=ahead + latest - 1)
        tables["experts"] = {**preset.tables.get("experts", {}), **experts}
    return attrs.evolve(preset, name=f"{preset.name} at scale {scale:g}", tables=tables)


def protocol_names(preset: Preset, setup: Setup) -> tuple[str, ...]:
    """``--protocol``, with ``auto`` as what it means for these data."""
    names = tuple(setup.config.protocol)
    if names and "auto" not in names:
        return names
    try:
        protocols = resolved_protocols(Run(setup, Place.at(setup.config.out or "runs")))
    except InputError as error:
        raise missing_data(preset, setup, error) from error
    return tuple(protocol.name for protocol in protocols)


def shorter_protocol(name: str, scale: float, hooks: Hooks | None = None) -> str:
    """NAME-EPOCHS with fewer epochs.

    >>> shorter_protocol("augmented", 0.02), shorter_protocol("plain-300", 0.1)
    ('augmented-20', 'plain-30')
    """
    stem, _, number = name.rpartition("-")
    return f"{stem if number.isdecimal() and stem else name}-{less(protocol(name, hooks).epochs, scale)}"


def shorter_options(plugin: Any, scale: float, units: Sequence[str]) -> dict[str, int]:
    """The options of a plugin that count what is shortened: outer steps, experts' epochs."""
    method = fields(UnrollOptions)
    lengths = {
        name: value
        for name, attribute in fields(type(plugin)).items()
        if attribute.metadata.get("unit") in units and name not in method
        if isinstance(value := getattr(plugin, name), int) and value > 0
    }
    return {n: math.floor(v * scale) if n.startswith("min_") else less(v, scale) for n, v in lengths.items()}


def shorter_experts(experts: Any, scale: float, least: int) -> dict[str, int]:
    """Fewer experts of fewer epochs, ``least`` at least."""
    made = {"count": less(experts.count, scale), "epochs": max(least, less(experts.epochs, scale))}
    return made if experts.drop_epoch is None else {**made, "drop_epoch": less(experts.drop_epoch, scale)}


# ---- the comparison --------------------------------------------------------------------------------------------------


def reproduction_of(run: Run) -> dict[str, Any] | None:
    """What a run reproduces, as its ``run.json`` says; None for ordinary runs."""
    about: dict[str, Any] | None = (run.place / "run.json").read_json().get("reproduces")
    if about is not None and "note" in about:
        run.warn(f"this run of {about['preset']} is {about['note']}")
    return about


def compare(run: Run, about: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Set the distilled row beside the published figure, and write both into ``reproduce.json``.

    Returns:
        ``about`` with ``ours`` (accuracy, its deviation over students, what it was measured with) and, where there is
        a published figure, ``distance``: ours less it in ``points`` of a hundredth and in published ``deviations``.
    """
    row = distilled_row(run, rows)
    ours = row_json(row)["accuracy"]
    measured = {"labels": row.labels, "protocol": row.protocol, "network": row.network, "students": len(row.values)}
    found = {**about, "ours": {"accuracy": ours["mean"], "std": ours["std"], **measured}}
    published = about["published"]
    if published:
        difference = ours["mean"] - published["accuracy"]
        deviation = published.get("std")
        found["distance"] = {"points": 100 * difference} | ({"deviations": difference / deviation} if deviation else {})
    (run.place / FILE).write_json(found)
    return found


def distilled_row(run: Run, rows: Sequence[Row]) -> Row:
    """The distilled set under the first protocol and network, with its own labels if they are learned,
    else hard ones."""
    learned = "labels" in run.matcher.learns and run.config.labels is None
    return next(row for row in rows if row.set == "distilled" and (row.labels != "hard") == learned)


def comparison_text(found: Mapping[str, Any]) -> str:
    """The outcome for people."""
    ours, published, distance = found["ours"], found["published"], found.get("distance")
    students = f"{ours['students']} student{'s' if ours['students'] > 1 else ''}"
    measured = f"{students}, {ours['labels']} labels, protocol {ours['protocol']}, {ours['network']}"
    lines = [
        f"reproduced {found['preset']}",
        f"  ours       {published_text(ours)}  ({measured})",
        f"  published  {published_text(published)}  ({found['source']})",
    ]
    if distance:
        deviations = (
            f", {distance['deviations']:+.1f} published standard deviations" if "deviations" in distance else ""
        )
        lines.append(f"  distance   {distance['points']:+.1f} points{deviations}")
    if found["changed"]:
        lines.append("  changed    " + ", ".join(f"{name} {_shown(value)}" for name, value in found["changed"].items()))
    if "note" in found:
        lines.append(f"  {found['note']}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
