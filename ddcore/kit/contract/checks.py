"""The list that every check stands in, and the checks of what a plugin says: its class, its imports, its options.

A check is a function of the plugin: it returns what it saw, or None; it raises ``Broken`` or ``Skipped`` with the
reason.
"""

from __future__ import annotations

import ast
import inspect
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
import click

from ddcore.api import hooks as hookspecs
from ddcore.api.plugin import Plugin
from ddcore.api.types import PHASES, SETTINGS
from ddcore.api.types import Subject as OfStudents
from ddcore.composing.answers import recipe
from ddcore.composing.discovery import add_packs, check_hooks, installed
from ddcore.composing.options import as_json, click_options, fields, from_json, resolve, to_toml
from ddcore.composing.presets import presets_of
from ddcore.composing.recipes import OF_VIEWS, STATIC_MIXED
from ddcore.composing.versions import deprecations
from ddcore.kit.contract.public import is_public
from ddcore.kit.contract.stage import Subject
from ddcore.training.protocols import PROTOCOLS, Protocol, stem_of

VIEW_PHASES = PHASES[:3]
Check = Callable[[Subject], str | None]
MAY_OPT_OUT = ("row-order", "class-names")
"""Checks that do not hold for every method: a plugin's class says in ``exempt`` why one does not for it."""


class Broken(Exception):
    """The plugin breaks this part of the contract."""


@attrs.frozen
class Entry:
    """A check with its name and what to do when it fails; ``WORDS`` in that are those that select the plugin."""

    name: str
    remedy: str
    function: Check


ENTRIES: list[Entry] = []


def check(name: str, remedy: str) -> Callable[[Check], Check]:
    """Add a check to the list, in the order of this file."""

    def add(function: Check) -> Check:
        ENTRIES.append(Entry(name, remedy, function))
        return function

    return add


# ---- what the class says ---------------------------------------------------------------------------------------------


@check(
    "hooks",
    "annotate every argument and the result of each hook, and spell hook and arguments as CONTRIBUTING lists them",
)
def hooks_are_valid_and_typed(subject: Subject) -> str:
    check_hooks(subject.cls, repr(subject.name))
    found = [n for n in hookspecs.KINDS if hasattr(subject.cls, n)]
    if not found and not subject.cls.presets:
        raise Broken("it implements no hook, so it would do nothing")
    for name in found:
        signature = inspect.signature(getattr(subject.cls, name))
        parameters = list(signature.parameters.values())[1:]
        bare = [p.name for p in parameters if p.annotation is inspect.Parameter.empty]
        if signature.return_annotation is inspect.Signature.empty:
            bare.append("the result")
        if bare:
            raise Broken(f"{name} has no type for {', '.join(bare)}")
    old = deprecations(subject.cls, repr(subject.name))
    return "; ".join([", ".join(n.removeprefix("ddcore_") for n in found), *old])


@check(
    "api",
    f'write api: ClassVar[str] = "{hookspecs.API_VERSION}" into the class: an upgrade of ddcore must not change it',
)
def hook_api_is_pinned(subject: Subject) -> str:
    if "api" not in vars(subject.cls):
        raise Broken("its class does not say which hook API it was written for")
    return str(subject.cls.api)


@check("declarations", "make the class attributes say what the hooks do: see ddcore.Plugin")
def declarations_and_hooks_agree(subject: Subject) -> None:
    cls = subject.cls
    if not cls.summary:
        raise Broken("summary is empty: write one line")
    pairs: dict[str, tuple[Any, Any]] = {
        "ddcore_view": (cls.view_phases, VIEW_PHASES),
        "ddcore_augment": (cls.augment_phases, PHASES),
        "ddcore_setting": (cls.settings, SETTINGS),
        "ddcore_initialize": (cls.initializers, None),
        "ddcore_label": (cls.labellers, None),
        "ddcore_data": (cls.datasets, None),
        "ddcore_student_data": (cls.student_sets, None),
        "ddcore_protocol": (cls.protocols, None),
        "ddcore_network": (cls.networks, None),
        "ddcore_executor": (cls.executors, None),
    }
    for hook, (declared, known) in pairs.items():
        if hasattr(cls, hook) != bool(declared):
            raise Broken(f"{hook} and the class attribute that says where it applies: one is there without the other")
        wrong = set(declared) - set(known or declared)
        if wrong:
            raise Broken(f"{hook} is declared for {sorted(wrong)}, and there are only {sorted(known)}")
    if subject.is_matcher:
        stepwise = cls.steps != 0
        needed = ("ddcore_learn", *(("ddcore_matching_loss",) if stepwise else ()))
        missing = [hook for hook in needed if not hasattr(cls, hook)]
        if stepwise and not cls.learns:
            missing.append("the class attribute learns")
        if missing:
            raise Broken(f"a matcher needs {', '.join(missing)}")
    add_packs({subject.name: cls}, {})
    if cls.probe_file is not None and not (Path(inspect.getfile(cls)).parent / cls.probe_file).is_file():
        raise Broken(f"probe_file is {cls.probe_file!r}, and there is no such file beside its class")
    for attribute in ("neutral", "tiny"):
        strange = set(getattr(cls, attribute)) - set(fields(cls))
        if strange:
            raise Broken(f"{attribute} names {sorted(strange)}, which are no options of it")
    for preset in presets_of(subject.name, cls).values():
        if strange := set(preset.tables.get("plugin", {}).get(subject.name, {})) - set(fields(cls)):
            raise Broken(f"preset {preset.name} names {sorted(strange)}, which are no options of it")
    for name, why in cls.exempt.items():
        if name not in MAY_OPT_OUT or not why:
            raise Broken(f"exempt says {name!r}: {why!r}; give a reason, and only for {' or '.join(MAY_OPT_OUT)}")


@check("protocols", "answer every name of protocols, and suggest one of them or of the core's: see ddcore_protocol")
def protocols_are_answered_and_suggestions_are_known(subject: Subject) -> str:
    cls, plugin = subject.cls, subject.cls()
    if not cls.protocols and cls.suggests_protocol is Plugin.suggests_protocol:
        return "it brings none and suggests none"
    for name in cls.protocols:
        answer = recipe(plugin.ddcore_protocol(name), f"ddcore_protocol for {name!r}")
        if not isinstance(answer, Protocol):
            raise Broken(
                f"ddcore_protocol for {name!r} gives {type(answer).__name__}: return a ddcore.training.Protocol"
            )
        if answer.name not in cls.protocols:
            raise Broken(f"ddcore_protocol for {name!r} is named {answer.name!r}, which protocols does not list")
        if name in PROTOCOLS or stem_of(name) != name:
            raise Broken(f"the protocol {name!r} has a name that is the core's: name it after the plugin")
    if cls.protocols and plugin.ddcore_protocol("of-nobody") is not None:
        raise Broken("ddcore_protocol answers 'of-nobody', which protocols does not list")
    for asked in _subjects(cls.modality):
        said = plugin.suggests_protocol(asked)
        if said is not None and stem_of(said) not in (*cls.protocols, *PROTOCOLS):
            raise Broken(f"suggests_protocol of {asked} is {said!r}, which is neither its own nor the core's")
    return ", ".join(cls.protocols)


def _subjects(modalities: Collection[str]) -> Iterator[OfStudents]:
    """Sets of every kind that a protocol may be chosen for."""
    kinds = ("hard", "soft", STATIC_MIXED, *OF_VIEWS, "of-nobody")
    for modality, size, kind, rate, learned in product(
        modalities, (1, 8, 32, 224), kinds, (False, True), (False, True)
    ):
        yield OfStudents(modality, size, kind, kind in OF_VIEWS, rate, learned)


@check("immutable", "write @frozen(kw_only=True, eq=False); what changes during a run belongs into learn.state")
def instances_are_immutable_and_not_equal(subject: Subject) -> None:
    one, other = subject.cls(), subject.cls()
    if one == other:
        raise Broken("two instances are equal, so two runs in one process would collide")
    for name in (*fields(subject.cls), "anything_new"):
        try:
            setattr(one, name, getattr(other, name, None))
        except AttributeError:
            continue
        raise Broken(f"its attribute {name!r} can be set")


@check(
    "public",
    "import from ddcore only names without a leading underscore, of the packages that CONTRIBUTING lists as public, and from other "
    "plugins nothing but the modality packs that the class attribute packs names",
)
def only_public_names_are_imported(subject: Subject) -> str:
    files, others = _own_files(subject.cls), _packages_of_others(subject.cls)
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            for module, name in _imported(node):
                top = module.partition(".")[0]
                if top in others:
                    line = node.lineno  # type: ignore[attr-defined]
                    raise Broken(
                        f"{file.name}, line {line} imports {module} of plugin {others[top]!r}, which is none of its packs"
                    )
                if top != "ddcore":
                    continue
                if not is_public(module, name):
                    raise Broken(f"{file.name}, line {node.lineno} imports {module} {name}".rstrip())  # type: ignore[attr-defined]
    return f"{len(files)} file{'s' * (len(files) != 1)} read"


def _packages_of_others(cls: Any) -> dict[str, str]:
    """Top packages of installed plugins that this one may not import, with the plugin of each."""
    allowed = {cls.__module__.partition(".")[0], "ddcore"}
    packages: dict[str, str] = {}
    for name, offers in installed().items():
        tops = {offer.value.partition(":")[0].partition(".")[0] for offer in offers}
        packages |= dict.fromkeys(tops, name)
        allowed |= tops if name in cls.packs else set()
    return {top: name for top, name in packages.items() if top not in allowed}


def _own_files(cls: type) -> list[Path]:
    file = Path(inspect.getfile(cls))
    return sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]


def _imported(node: ast.AST) -> list[tuple[str, str]]:
    if isinstance(node, ast.Import):
        return [(alias.name, "") for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [(node.module or "", alias.name) for alias in node.names]
    return []


# ---- options ---------------------------------------------------------------------------------------------------------


@check(
    "options",
    "use option() with a type of bool, int, float, str, Literal, tuple[X, ...] or X | None, and a validator for the range",
)
def options_round_trip(subject: Subject) -> str:
    every = {name: a for name, a in fields(subject.cls).items() if not a.metadata.get("secret")}
    without_help = [name for name, attribute in every.items() if not attribute.metadata.get("help")]
    if without_help:
        raise Broken(f"options without a line of help: {', '.join(without_help)}")
    _round_trip(subject, {})
    if not every:
        return "it has none"
    try:
        from hypothesis import HealthCheck, given, reject, settings  # of tests only
    except ImportError:
        return f"{len(every)} options, defaults only: pip install hypothesis tries many values"

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(_strategies(every))
    def many(values: dict[str, Any]) -> None:
        try:
            subject.cls(**values)
        except (ValueError, TypeError):
            reject()
        _round_trip(subject, values)

    many()
    return f"{len(every)} options, 40 sets of values"


def _strategies(every: Mapping[str, attrs.Attribute]) -> Any:
    from hypothesis import strategies as st  # of tests only

    def of(attribute: attrs.Attribute) -> Any:
        def fits(value: Any) -> bool:
            try:
                if attribute.validator is not None:
                    attribute.validator(None, attribute, value)  # type: ignore[arg-type]
            except (ValueError, TypeError):
                return False
            except AttributeError:
                return True
            return True

        return st.just(attribute.default) | _values(attribute.type, attribute.default).filter(fits)

    return st.fixed_dictionaries({}, optional={name: of(a) for name, a in every.items()})


def _values(kind: Any, default: Any) -> Any:
    from hypothesis import strategies as st  # of tests only

    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return st.sampled_from(arguments)
    if get_origin(kind) is tuple:
        return st.lists(_values(arguments[0], None), max_size=3).map(tuple)
    if arguments:
        return st.none() | _values(next(a for a in arguments if a is not type(None)), default)
    simple: dict[Any, Any] = {
        bool: st.booleans(),
        int: st.integers(-1, 10000),
        float: st.floats(-1, 1000, allow_nan=False),
    }
    return simple.get(kind, st.just(default))


def _round_trip(subject: Subject, values: Mapping[str, Any]) -> None:
    """The values through a command line, a TOML file and the run's JSON come out the same."""
    groups = {subject.name: subject.cls}
    made = subject.cls(**values)

    def compare(where: str, options: Mapping[str, Any]) -> None:
        got = options[subject.name]
        for name, attribute in fields(subject.cls).items():
            if not attribute.metadata.get("secret") and getattr(got, name) != getattr(made, name):
                raise Broken(f"{name} = {getattr(made, name)!r} comes back from {where} as {getattr(got, name)!r}")

    resolved = resolve(groups, command_line=_parsed(subject, values), environment={})
    compare("the command line", resolved.options)
    compare("JSON", from_json(json.loads(json.dumps(as_json(resolved))), groups).options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        file.write_text(to_toml(resolved), "utf-8")
        compare("TOML", resolve(groups, command_line={}, environment={}, files=[str(file)]).options)


def _parsed(subject: Subject, values: Mapping[str, Any]) -> dict[str, Any]:
    words: list[str] = []
    for name, value in values.items():
        written = f"--{subject.name}.{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(written if value else written.replace(f"{subject.name}.", f"{subject.name}.no-"))
        elif isinstance(value, tuple):
            words += [word for item in value for word in (written, str(item))]
        else:
            words += [f"{written}={'none' if value is None else value}"]
    command = click.Command("run", params=list(click_options({subject.name: subject.cls})))
    with command.make_context("run", words) as context:
        source = click.core.ParameterSource.COMMANDLINE
        got = {n: v for n, v in context.params.items() if context.get_parameter_source(n) is source}
    empty = {n for n, v in values.items() if v == ()}
    return got | {f"{subject.name}__{n}": () for n in empty}
