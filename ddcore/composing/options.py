"""Values and where they came from: command line > environment > config file > preset > default. No torch here.

Field ``flip_prob`` of plugin ``fyi`` is ``--fyi.flip-prob``, ``DDCORE_FYI__FLIP_PROB`` and ``[plugin.fyi] flip_prob``;
a shared option ``ipc`` is ``--ipc``, ``DDCORE_IPC`` and ``ipc`` at a file's top. Values are read by the type of their
field.
"""

from __future__ import annotations

import math
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import click
import tomli_w
from attrs import frozen

from ddcore.composing.discovery import FIRST_PARTY, installed
from ddcore.composing.presets import Preset
from ddcore.composing.recipes import RULES, Experts, Teachers, ViewOptions
from ddcore.config import Config
from ddcore.errors import OptionError, near
from ddcore.storage.documents import LONGEST_SETTINGS, parse_toml
from ddcore.storage.places import Place
from ddcore.storage.secrecy import keep, option, withhold

SHARED = ""
SHORT = {"plugins": "plugin"}
"""Shared options whose flag is not their field's name."""
CORE_GROUPS = ("experts", "teachers", "views")
Raw = tuple[Any, str]
MOST = 2**63
"""Larger numbers fit neither TOML nor a tensor."""


@frozen(eq=False)
class Resolved:
    """The outcome.

    Attributes:
        config: shared options.
        options: instances by group, plugins in command-line order.
        sources: "ipc" or "fyi.flip_prob" to where the value came from.
    """

    config: Config
    options: Mapping[str, Any]
    sources: Mapping[str, str]


@frozen
class First:
    """What has to be known before the rest of a command line can be parsed."""

    plugins: tuple[str, ...]
    plugin_paths: tuple[str, ...]
    files: tuple[str, ...]
    preset: str
    labels: str | None = None


def preparse(args: Sequence[str], environment: Mapping[str, str]) -> First:
    """``--plugin``, ``--plugin-path``, ``--config``, ``--preset`` and ``--labels``, in any position; files may name
    them too.

    Raises:
        OptionError: a flag without its value.
    """
    found: dict[str, list[str]] = {name: [] for name in ("plugin", "plugin-path", "config", "preset", "labels")}
    rest = iter(args)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name.startswith("--") and name[2:] in found:
            given = value if equals else next(rest, None)
            if given is None:
                raise OptionError(f"{name} has no value: write {name} VALUE")
            found[name[2:]].append(given)
    plugins, paths = found["plugin"], found["plugin-path"]
    plugins = plugins or _listed(environment.get("DDCORE_PLUGINS", ""))
    paths = paths or _listed(environment.get("DDCORE_PLUGIN_PATH", ""))
    tables = [read_toml(path) for path in found["config"]]
    for table in reversed(tables):
        plugins = plugins or _listed(table.get("plugins", []))
        paths = paths or _listed(table.get("plugin_path", []))
    preset = (found["preset"] or [str(t["preset"]) for t in tables if "preset" in t] or ["auto"])[-1]
    in_files = [str(t["labels"]) for t in tables if "labels" in t]
    labels = [*in_files, *filter(None, [environment.get("DDCORE_LABELS")]), *found["labels"]]
    return First(tuple(plugins), tuple(paths), tuple(found["config"]), preset, labels[-1] if labels else None)


def _listed(value: Any) -> list[str]:
    """Names from a list, or from text that a comma separates."""
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    return [str(item).strip() for item in items if str(item).strip()]


def read_toml(path: str) -> dict[str, Any]:
    """A config file, from a path or URL.

    Raises:
        OptionError: it is not TOML.
    """
    try:
        return parse_toml(Place.at(path).read_bytes(0, LONGEST_SETTINGS + 1))
    except ValueError as error:
        raise OptionError(f"config file {path} is not TOML ({error}): mend that place") from error


_fields: dict[type, Mapping[str, attrs.Attribute]] = {}


def fields(cls: type) -> Mapping[str, attrs.Attribute]:
    """The option fields of a class, with their types resolved; found once for each class."""
    if cls not in _fields:
        resolved = get_type_hints(cls)
        _fields[cls] = {a.name: a.evolve(type=resolved.get(a.name, a.type)) for a in attrs.fields(cls)}
    return _fields[cls]


def flag(group: str, name: str) -> str:
    """How an option is written on the command line."""
    word = SHORT.get(name, name).replace("_", "-") if group == SHARED else name.replace("_", "-")
    return f"--{word}" if group == SHARED else f"--{group}.{word}"


def variable(group: str, name: str) -> str:
    """How it is written in the environment."""
    parts = (group, name) if group else (name,)
    return "DDCORE_" + "__".join(p.upper().replace("-", "_") for p in parts)


def resolve(
    groups: Mapping[str, type],
    *,
    command_line: Mapping[str, Any],
    environment: Mapping[str, str],
    files: Sequence[str] = (),
    preset: Preset | None = None,
) -> Resolved:
    """Give every option its value.

    Args:
        groups: selected plugins and the core's groups, name to attrs class, in command-line order.
        command_line: what was really given, ``group__name`` (or ``name``) to value.

    Raises:
        OptionError: an unknown key, a value of the wrong type or out of range; names option, value and source.
    """
    classes: dict[str, type] = {SHARED: Config, **groups}
    values: dict[str, dict[str, Raw]] = {group: {} for group in classes}
    if preset is not None:
        _take(values, classes, preset.tables, f"preset {preset.name}", preset=True)
    for path in files:
        _take(values, classes, read_toml(path), f"file {path}")
    for group, cls in classes.items():
        for name in fields(cls):
            if (text := environment.get(variable(group, name))) is not None:
                values[group][name] = (text, f"environment {variable(group, name)}")
        for old in moved_of(cls):
            if variable(group, old) in environment:
                raise OptionError(f"{variable(group, old)} is set: {_now(cls, group, old)}")
    by_key = {group.replace("-", "_"): group for group in classes}
    for key, value in command_line.items():
        group, _, name = key.rpartition("__")
        values[by_key[group.replace("-", "_")]][name] = (value, "command line")
    sources: dict[str, str] = {}
    made = {group: _build(cls, group, values[group], sources) for group, cls in classes.items()}
    named = {SHARED: ("network", "eval_network"), "teachers": ("networks",)}
    for group, options in named.items():
        if group in made:
            changes = {name: _spelt_networks(getattr(made[group], name), classes) for name in options}
            made[group] = attrs.evolve(made[group], **changes)
    return Resolved(made.pop(SHARED), made, sources)


def _spelt_networks(given: Any, classes: Mapping[str, Any]) -> Any:
    """Names of networks, given in any case, as the core or the plugin that builds them spells them."""
    if not isinstance(given, str):
        return tuple(_spelt_networks(each, classes) for each in given) if given else given
    lists = [getattr(cls, "networks", ()) for cls in classes.values()]
    offered = [name for names in lists if isinstance(names, tuple) for name in names]
    spelt = given if given in offered else next((n for n in offered if n.lower() == given.lower()), None)
    capitals = any(name != name.lower() for name in offered)  # of a plugin whose variants are not all listed
    return spelt or (given if capitals else given.lower())


def _take(
    values: dict[str, dict[str, Raw]],
    classes: Mapping[str, type],
    tables: Mapping[str, Any],
    source: str,
    preset: bool = False,
) -> None:
    """Sort a TOML document's keys into groups; refuse those that nobody has."""
    for key, content in tables.items():
        if key == "plugin" and isinstance(content, Mapping):
            for group, table in content.items():
                if group not in classes or group in (SHARED, *CORE_GROUPS):
                    if preset:
                        continue
                    known = [g for g in classes if g not in (SHARED, *CORE_GROUPS)]
                    raise OptionError(
                        f"{source} has options of plugin {group!r}, which is not selected: add --plugin {group}, or {near(group, known)}"
                    )
                _take_table(values[group], classes[group], table, f"[plugin.{group}]", source)
        elif isinstance(content, Mapping) and key in CORE_GROUPS:
            if key in classes:
                _take_table(values[key], classes[key], content, f"[{key}]", source)
            elif not preset:
                raise OptionError(_unneeded(f"{source} has [{key}], and no selected plugin needs {key}", key))
        elif key in fields(Config):
            values[SHARED][key] = (content, source)
        elif key != "preset":
            known = [*fields(Config), *CORE_GROUPS]
            raise OptionError(f"{source} has an unknown key {key!r}: {near(key, known)}")


def _take_table(values: dict[str, Raw], cls: type, table: Any, shown: str, source: str) -> None:
    if not isinstance(table, Mapping):
        raise OptionError(f"{source}: {shown} is not a table: write it as {shown} followed by name = value lines")
    for name, value in table.items():
        if name in moved_of(cls):
            raise OptionError(
                f"{source}: {shown} has {name!r}: {_now(cls, shown.strip('[]').rpartition('.')[2], name)}"
            )
        if name not in fields(cls):
            raise OptionError(f"{source}: {shown} has an unknown key {name!r}: {near(name, fields(cls))}")
        values[name] = (value, source)


def _build(cls: type, group: str, given: Mapping[str, Raw], sources: dict[str, str]) -> Any:
    arguments = {}
    for name, attribute in fields(cls).items():
        key = f"{group}.{name}" if group else name
        if name not in given:
            sources[key] = "default"
            continue
        value, source = given[name]
        sources[key] = source
        arguments[name] = _checked(value, attribute, f"{flag(group, name)} (from {source})")
        if attribute.metadata.get("secret"):
            keep(key, arguments[name])
    try:
        return cls(**arguments)
    except (ValueError, TypeError) as error:
        raise OptionError(f"options of {group or 'the run'} do not go together: {_reason(error, '')}") from error


def _checked(value: Any, attribute: attrs.Attribute, shown: str) -> Any:
    """One value, converted and in range; a secret one is not repeated in messages."""
    secret = attribute.metadata.get("secret", False)
    try:
        converted = convert(value, attribute.type, shown)
    except OptionError:
        if secret:
            raise OptionError(f"{shown} cannot be used: give {_word(attribute.type)}") from None
        raise
    try:
        if attribute.validator is not None:
            attribute.validator(None, attribute, converted)
    except AttributeError:  # it looks at other fields too: the constructor asks it again, with all of them
        return converted
    except (ValueError, TypeError) as error:
        if secret:
            raise OptionError(f"{shown} is out of range: see --help") from None
        raise OptionError(f"{shown} is {value!r}, out of range: {_reason(error, attribute.name)}") from error
    return converted


def _reason(error: Exception, name: str) -> str:
    text = str(error.args[0] if error.args else error)
    return text.replace(f"'{name}' must be", "it must be").splitlines()[0]


def convert(value: Any, kind: Any, shown: str) -> Any:
    """A value of any source as its field's type.

    Raises:
        OptionError: it cannot be one; says what it may be.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "")):
            return None
        return convert(value, next(a for a in arguments if a is not type(None)), shown)
    if origin is Literal:
        if value in arguments:
            return value
        raise OptionError(f"{shown} is {value!r}: {near(str(value), [str(a) for a in arguments])}")
    if origin is tuple:
        items = _listed(value) if isinstance(value, str) else value
        if not isinstance(items, Iterable):
            raise OptionError(f"{shown} is {value!r}: give a list")
        return tuple(convert(item, arguments[0], shown) for item in items)
    return _scalar(value, kind, shown)


def _scalar(value: Any, kind: Any, shown: str) -> Any:
    if kind is bool:
        words = {
            "true": True,
            "yes": True,
            "1": True,
            "on": True,
            "false": False,
            "no": False,
            "0": False,
            "off": False,
        }
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise OptionError(f"{shown} is {value!r}: give true or false")
    if kind in (int, float):
        word = "a whole number" if kind is int else "a number"
        try:
            number = kind(value) if isinstance(value, str) else value
        except ValueError as error:
            raise OptionError(f"{shown} is {value!r}: give {word}") from error
        if (
            isinstance(number, bool)
            or not isinstance(number, int | float)
            or (kind is int and not isinstance(number, int))
        ):
            raise OptionError(f"{shown} is {value!r}: give {word}")
        if abs(number) > MOST or not math.isfinite(number):
            raise OptionError(f"{shown} is not finite or too large for any use: give {word}")
        return kind(number)
    if kind is str and isinstance(value, str):
        if "\0" in value:
            raise OptionError(f"{shown} holds a NUL character: leave it out")
        return value
    raise OptionError(f"{shown} is {value!r}: give text")


# ---- the command line ------------------------------------------------------------------------------------------------


class Text(click.ParamType):
    """Whatever was written; it is converted with all other sources, so that messages are the same everywhere."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """As it is."""
        return value


def click_options(groups: Mapping[str, type]) -> list[click.Option]:
    """Options of the shared configuration and of every group."""
    made = [_click_option(group, a) for group, cls in {SHARED: Config, **groups}.items() for a in fields(cls).values()]
    extra = {
        "--config": ("config", "TOML file with options; repeatable, later ones win.", True),
        "--preset": ("preset", "Settings of a paper: auto, none, NAME or PLUGIN/NAME.", False),
    }
    for written, (name, text, multiple) in extra.items():
        made.append(click.Option([written, name], help=text, multiple=multiple, metavar="TEXT"))
    return made


def _click_option(group: str, attribute: attrs.Attribute) -> click.Option:
    written, key = (
        flag(group, attribute.name),
        f"{group.replace('-', '_')}__{attribute.name}" if group else attribute.name,
    )
    text = _help(attribute)
    origin = get_origin(attribute.type)
    if attribute.type is bool:
        negative = written.replace(f"{group}.", f"{group}.no-") if group else written.replace("--", "--no-")
        return click.Option([f"{written}/{negative}", key], default=None, help=text)
    return click.Option(
        [written, key],
        type=Text(_word(attribute.type)),
        metavar=_word(attribute.type),
        default=None,
        help=text,
        multiple=origin is tuple,
    )


def _help(attribute: attrs.Attribute) -> str:
    about = attribute.metadata
    symbol = f" ({about['symbol']})" if about.get("symbol") else ""
    unit = f", {about['unit']}" if about.get("unit") else ""
    default = attribute.default
    shown = "none" if default in (None, ()) else ",".join(map(str, default)) if isinstance(default, tuple) else default
    shown = {True: "yes", False: "no"}.get(shown, shown) if isinstance(shown, bool) else shown
    return f"{about.get('help', '')}{symbol}  [{shown}{unit}]"


def _word(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "|".join(str(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return _word(next(a for a in arguments if a is not type(None)))
    return _word(arguments[0]) if origin is tuple else {int: "integer", float: "number", str: "text"}.get(kind, "text")


def unknown(name: str, groups: Mapping[str, type]) -> str | None:
    """For an unknown ``--group.option``: what its plugin has instead, or which plugin to add, if it is a plugin's."""
    group, dot, word = name.lstrip("-").partition(".")
    if not dot:
        return None
    if group in groups:
        if (old := word.replace("-", "_")) in moved_of(groups[group]):
            return _now(groups[group], group, old)
        own = [flag(group, option).partition(".")[2] for option in fields(groups[group])]
        return f"{group} has no option {word!r}: {near(word, own)}"
    if group in CORE_GROUPS:
        return _unneeded(f"{name!r} configures {group}, which no selected plugin needs", group)
    known = {*installed(), *FIRST_PARTY}
    if group in known:
        return f"{name!r} belongs to plugin {group!r}, which is not selected: add --plugin {group}"
    return f"{name!r} belongs to no plugin: {near(group, known)}"


def moved_of(cls: type) -> Mapping[str, str]:
    """Options that a plugin had once, with where they are now; the core's own groups have none."""
    return getattr(cls, "moved", {})


def _now(cls: type, group: str, old: str) -> str:
    other, _, name = moved_of(cls)[old].partition(".")
    written = f"{flag(other, name)}, [plugin.{other}] {name} or {variable(other, name)}"
    return f"{flag(group, old)} is {flag(other, name)} now: write {written}"


def at_their_place(saved: Mapping[str, Any], classes: Mapping[str, type]) -> dict[str, Any]:
    """Saved values by group and option, those of options that have moved under where they are now."""
    found = {group: dict(table) for group, table in saved.items()}
    for group, cls in classes.items():
        for old, new in moved_of(cls).items():
            if old in found.get(group, {}):
                other, _, name = new.partition(".")
                found.setdefault(other, {}).setdefault(name, found[group].pop(old))
    return found


def _unneeded(sentence: str, group: str) -> str:
    rules = f", or give --labels {', '.join(RULES[:-1])} or {RULES[-1]}" if group != "experts" else ""
    return f"{sentence}: leave it out{rules}"


# ---- records ---------------------------------------------------------------------------------------------------------


def explain(resolved: Resolved) -> list[tuple[str, Any, str]]:
    """Every option with its value and source, shared ones first."""
    rows: list[tuple[str, Any, str]] = []
    for group, instance in {SHARED: resolved.config, **resolved.options}.items():
        for name, attribute in fields(type(instance)).items():
            value = "(secret)" if attribute.metadata.get("secret") else getattr(instance, name)
            rows.append((flag(group, name), value, resolved.sources[f"{group}.{name}" if group else name]))
    return rows


def as_json(resolved: Resolved) -> dict[str, Any]:
    """Plain values for ``run.json``: without secret options, and addresses without credentials,
    named under ``withheld``."""
    options = {group: _plain(instance) for group, instance in resolved.options.items()}
    made = {"config": _plain(resolved.config), "options": options, "sources": dict(resolved.sources)}
    return withhold(made, "config", "options")


def from_json(record: Mapping[str, Any], groups: Mapping[str, type]) -> Resolved:
    """The inverse of ``as_json``; the core's groups find their classes themselves."""
    every = {**groups, **{g: core_group(g) for g in record["options"] if g in CORE_GROUPS}}
    options = at_their_place(record["options"], every)
    options |= {group: {} for group in groups if group not in options}
    made = {group: _rebuild(every[group], group, table) for group, table in options.items()}
    default = {f"{group}.{name}": "default" for group in options for name in fields(every[group])}
    return Resolved(_rebuild(Config, SHARED, record["config"]), made, {**default, **record["sources"]})


def to_toml(resolved: Resolved) -> str:
    """A config file that does the same run again."""
    document: dict[str, Any] = {"preset": "none", **_written(resolved.config)}
    if resolved.config.bytes is not None:
        del document["ipc"]
    for group, instance in resolved.options.items():
        table = _written(instance)
        (document if group in CORE_GROUPS else document.setdefault("plugin", {}))[group] = table
    return tomli_w.dumps(document)


def _written(instance: Any) -> dict[str, Any]:
    """Values as TOML has them, which knows no None: left out where it is the default, else the word."""
    default = {name: attribute.default for name, attribute in fields(type(instance)).items()}
    values = {
        n: "none" if v is None else v for n, v in _plain(instance).items() if v is not None or default[n] is not None
    }
    return values


def core_group(name: str) -> type:
    """The class of one of the core's own option groups."""
    return {"experts": Experts, "teachers": Teachers, "views": ViewOptions}[name]


def _rebuild(cls: type, group: str, values: Mapping[str, Any]) -> Any:
    given: dict[str, Raw] = {name: (value, "run.json") for name, value in values.items()}
    for name, attribute in fields(cls).items():
        if attribute.metadata.get("secret"):
            text = os.environ.get(variable(group, name)) or option(f"{group}.{name}")
            given |= {} if text is None else {name: (text, "the environment")}
    return _build(cls, group, given, {})


def _plain(instance: Any) -> dict[str, Any]:
    every = fields(type(instance))
    values = {n: getattr(instance, n) for n, a in every.items() if not a.metadata.get("secret")}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
