"""Finding plugins: by entry point, one by one, and only those that were named. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pluggy
from attrs import frozen

from ddcore.api import hooks as hookspecs
from ddcore.api.plugin import CORE_DISTRIBUTION, DENSE, GROUP, PACK, ROLES, Plugin
from ddcore.errors import PluginError, near

FIRST_PARTY: tuple[str, ...] = (
    "cda",
    "coresets",
    "cv-dd",
    "datm",
    "dc",
    "diagnose",
    "distill-weighted",
    "diswot",
    "dm",
    "dsa",
    "dwa",
)
FIRST_PARTY += (
    "ferkd",
    "ftd",
    "fyi",
    "graphs",
    "hard",
    "hello",
    "idc",
    "infer",
    "kd",
    "kd-pruning",
    "kd3",
    "krr-st",
    "lgm",
    "meal-v2",
    "mi-alpha",
    "mirage",
)
FIRST_PARTY += (
    "mixup-kd",
    "mlflow",
    "mtt",
    "nd",
    "nrr-dd",
    "quantize",
    "rad",
    "ray",
    "rded",
    "reinforce",
    "robust",
    "rs2",
    "sinkd",
    "smooth",
    "sre2l",
    "series",
    "submitit",
    "tabular",
    "tensorboard",
    "text",
)


LIKE, ONE_MORE = 0.6, 0.25
"""How alike a misspelt name is, from 0 to 1, and how much more one of another length has to be."""
PROTOCOLS = "ddcore.protocols"
"""The group of entry points by which a protocol is found where its plugin is not selected: its name, and the plugin's
class."""


@frozen
class Offer:
    """Where a plugin comes from.

    Attributes:
        name: on the command line.
        distribution, version: of the package; of a local file: its name and the first letters of its hash.
        value: the entry point, ``module:Class``.
        path: of a local file (``--plugin-path``), else empty.
        sha256: of that file.
    """

    name: str
    distribution: str
    version: str
    value: str
    path: str = ""
    sha256: str = ""

    @property
    def identity(self) -> str:
        """Distribution and version, for records and messages."""
        return f"{self.distribution} {self.version}"

    @property
    def request(self) -> str:
        """What ``load_class`` finds exactly this plugin by."""
        return f"{self.distribution}/{self.name}"

    def as_json(self) -> dict[str, str]:
        """Plain values."""
        return {**attrs.asdict(self), "identity": self.identity, "request": self.request}


def installed() -> dict[str, list[Offer]]:
    """All installed plugins by name, from metadata alone: nothing is imported.

    Read again when a folder on the path changes.
    """
    return _offered(GROUP)


def _offered(group: str) -> dict[str, list[Offer]]:
    found = _installed(group, tuple((path, _changed(path)) for path in sys.path))
    return {name: list(offers) for name, offers in found.items()}


@lru_cache(maxsize=16)
def _installed(group: str, where: tuple[tuple[str, int], ...]) -> dict[str, list[Offer]]:
    found: dict[str, dict[str, Offer]] = {}
    for distribution in metadata.distributions():
        for point in distribution.entry_points:
            if point.group == group:
                about = distribution.metadata  # one that was half uninstalled has neither name nor version
                origin = about["Name"] if "Name" in about else "a distribution without a name"  # noqa: SIM401
                version = about["Version"] if "Version" in about else "of no version"  # noqa: SIM401
                offer = Offer(point.name, origin, version, point.value)
                found.setdefault(point.name, {}).setdefault(origin, offer)
    return {name: [found[name][d] for d in sorted(found[name])] for name in sorted(found)}


def _changed(path: str) -> int:
    """When a folder's or an archive's list of files changed, in nanoseconds; 0 for none."""
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return 0


def find(request: str) -> Offer:
    """The installed plugin ``NAME`` or ``DISTRIBUTION/NAME``.

    Raises:
        PluginError: there is none, or two distributions offer the name.
    """
    distribution, _, name = request.rpartition("/")
    known = installed()
    offers = [o for o in known.get(name, []) if not distribution or _normal(distribution) == _normal(o.distribution)]
    if len(offers) > 1:
        both = " and ".join(f"{o.distribution} {o.version}" for o in offers)
        raise PluginError(
            f"{both} both offer a plugin named {name!r}: uninstall one, or say --plugin {offers[0].request}"
        )
    if offers:
        return offers[0]
    if name in FIRST_PARTY:
        raise PluginError(f"plugin {name!r} is not installed: pip install ddcore-{name}")
    meant = slip(name, {*known, *FIRST_PARTY})
    way_out = f"did you mean {meant!r}?" if meant else "`ddcore plugins` lists what is here"
    raise PluginError(f"no plugin named {request!r} is installed, and none of this project is: {way_out}")


def slip(name: str, known: Iterable[str]) -> str | None:
    """The name that a slip of the keyboard would turn into this one; methods have short names, which are alike without
    being meant.

    >>> slip("datn", ["datm", "dm"]), slip("sre2", ["sre2l"]), slip("idc", ["dc"]), slip("dream", ["dm"])
    ('datm', 'sre2l', None, None)
    """
    likeness = {
        word: SequenceMatcher(None, name, word).ratio() - (0 if len(word) == len(name) else ONE_MORE) for word in known
    }
    best = max(sorted(likeness), key=likeness.__getitem__, default="")
    return best if best and likeness[best] >= LIKE else None


def load_class(request: str) -> tuple[type, Offer]:
    """Import one plugin, and no other.

    Raises:
        PluginError: not found, or broken: the sentence names plugin, distribution, version and cause.
    """
    offer = find(request)
    return _class_of(offer, f"plugin {offer.name!r} ({offer.identity})"), offer


def installed_protocols() -> list[str]:
    """Names of the evaluation protocols that installed plugins bring; nothing is imported."""
    return [*_offered(PROTOCOLS)]


def protocol_class(name: str) -> tuple[Any, Offer] | None:
    """The installed plugin that brings an evaluation protocol, imported; None: none does.

    Raises:
        PluginError: two distributions bring it, or the plugin is broken.
    """
    offers = _offered(PROTOCOLS).get(name, [])
    if len(offers) > 1:
        both = " and ".join(offer.identity for offer in offers)
        raise PluginError(
            f"{both} both bring a protocol named {name!r}: uninstall one, or select the plugin that is meant"
        )
    if not offers:
        return None
    return _class_of(offers[0], f"the plugin of protocol {name!r} ({offers[0].identity})"), offers[0]


def bringer(protocol: str) -> str | None:
    """The plugin of this project that brings a protocol of such a name and is not installed, as far as names tell.

    >>> bringer("of-nobody")
    """
    likely = [name for name in FIRST_PARTY if protocol == name or protocol.startswith(f"{name}-")]
    return next((name for name in sorted(likely, key=len, reverse=True) if name not in installed()), None)


def _class_of(offer: Offer, who: str) -> type:
    module, _, attribute = offer.value.partition(":")
    try:
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{who} cannot be imported ({type(error).__name__}: {_one_line(error)}): upgrade or uninstall {offer.distribution}"
        ) from error
    if not hasattr(imported, attribute):
        there = [
            n for n, c in vars(imported).items() if isinstance(c, type) and issubclass(c, Plugin) and c is not Plugin
        ]
        raise PluginError(
            f"{who} points to {offer.value}, and {module} has {' and '.join(there) or 'no plugin class'}: correct the entry point in "
            f"the pyproject.toml of {offer.distribution} and install it again, or upgrade it"
        )
    return checked(getattr(imported, attribute), who)


def add_packs(classes: dict[str, Any], offers: dict[str, Offer], *, strict: bool = True) -> None:
    """Load the modality packs that these plugins stand on, and those that packs stand on, and put them behind.

    Args:
        classes, offers: by name; changed in place. A pack that is there already stays where it is.
        strict: False leaves out what cannot be loaded.

    Raises:
        PluginError: a pack is not installed or broken; what is named as one is none.
    """
    waiting = list(classes)
    for name in waiting:
        for pack in classes[name].packs:
            if pack not in classes:
                try:
                    classes[pack], offers[pack] = load_class(pack)
                except PluginError as error:
                    if not strict:
                        continue
                    raise PluginError(f"plugin {name!r} stands on the modality pack {pack!r}: {error}") from error
                waiting.append(pack)
            if (role := classes[pack].role) != PACK:
                raise PluginError(
                    f"plugin {name!r} names {pack!r} among its packs, which has role {role!r}: a plugin stands on ddcore and "
                    f"modality packs, of role {PACK!r}, and on no other plugin"
                )


def packs_among(plugins: Mapping[str, Any]) -> list[str]:
    """Names of the plugins (classes or instances) that another of them stands on, and of packs of dense modalities."""
    named = {pack for plugin in plugins.values() for pack in plugin.packs}
    named |= {name for name, plugin in plugins.items() if plugin.role == PACK and DENSE in plugin.modality}
    return [name for name in plugins if name in named]


def name_of_file(path: str) -> str:
    """What the plugin in a local file is called.

    >>> name_of_file("ideas/ddcore_my_idea.py")
    'my-idea'
    """
    return Path(path).stem.removeprefix("ddcore_").replace("_", "-")


def load_path(path: str, sha256: str = "") -> tuple[type, Offer]:
    """Import a plugin from one local file: the only class in it derived from ``Plugin``; its name is the file's.

    Args:
        sha256: of the file that is wanted; another one is refused before anything in it runs.

    Raises:
        PluginError: no such file, another one than wanted, it cannot be imported, or it holds no plugin or several.
    """
    file = Path(path)
    who = f"plugin file {path}"
    if not file.is_file():
        raise PluginError(f"{who} does not exist: give --plugin-path the path of a .py file")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if sha256 not in ("", digest):
        raise PluginError(f"{who} is another one than the run was begun with: restore that, or begin a new run")
    name = name_of_file(path)
    try:
        module = _import_file(file, f"ddcore_local_{digest[:12]}")
    except (Exception, SystemExit) as error:
        raise PluginError(f"{who} cannot be imported ({type(error).__name__}: {_one_line(error)}): mend it") from error
    classes = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Plugin) and c.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise PluginError(
            f"{who} holds {len(classes)} plugin classes: define exactly one class derived from ddcore.Plugin"
        )
    offer = Offer(name, file.name, digest[:12], classes[0].__name__, str(file.resolve()), digest)
    return checked(classes[0], who), offer


def checked(cls: object, who: str) -> type:
    """Refuse what is no plugin class, or one for a newer hook API.

    Raises:
        PluginError: what is wrong and how it should be.
    """
    if not isinstance(cls, type) or not issubclass(cls, Plugin) or "__attrs_attrs__" not in vars(cls):
        raise PluginError(
            f"{who} is not an attrs class derived from ddcore.Plugin: write @frozen(kw_only=True, eq=False) class X(Plugin)"
        )
    if cls.__eq__ is not object.__eq__:
        raise PluginError(
            f"{who} compares by value, so two runs' instances collide: write @frozen(kw_only=True, eq=False)"
        )
    if not re.fullmatch(r"\d+\.\d+", str(cls.api)):
        raise PluginError(
            f"{who} has api {cls.api!r}: write the hook API version it was written for, {hookspecs.API_VERSION!r}"
        )
    theirs, ours = (tuple(int(n) for n in version.split(".")) for version in (cls.api, hookspecs.API_VERSION))
    if theirs[0] != ours[0] or theirs > ours:
        of_its_own = "upgrade the plugin, or change it as CONTRIBUTING's hook reference says and then its api"
        way_out = f"upgrade {CORE_DISTRIBUTION}" if theirs > ours else of_its_own
        raise PluginError(
            f"{who} was written for hook API {cls.api}, this ddcore offers {hookspecs.API_VERSION}: {way_out}"
        )
    if cls.role not in ROLES:
        raise PluginError(f"{who} has role {cls.role!r}: {near(cls.role, ROLES)}")
    check_hooks(cls, who)
    return cls


def check_hooks(cls: type, who: str) -> None:
    """Refuse misspelt hooks, arguments that the spec does not have, defaults, and ordering marks.

    Raises:
        PluginError: naming hook and remedy.
    """
    for name, function in inspect.getmembers(cls, inspect.isfunction):
        marks = getattr(function, "ddcore_impl", None)
        if marks is None:
            if name.startswith("ddcore_"):
                raise PluginError(
                    f"{who} defines {name} without @hookimpl, so it would never be called: add the decorator"
                )
            continue
        spec = getattr(hookspecs, name, None)
        if name not in hookspecs.KINDS or spec is None:
            raise PluginError(f"{who} implements {name}, which is no hook: {near(name, hookspecs.KINDS)}")
        if any(marks.get(mark) for mark in ("tryfirst", "trylast", "wrapper", "hookwrapper")):
            raise PluginError(
                f"{who} marks {name} as tryfirst, trylast or wrapper: order is the command line's, use a plain @hookimpl"
            )
        due = list(inspect.signature(spec).parameters)
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            if parameter.name not in due:
                raise PluginError(
                    f"{who} asks {name} for {parameter.name!r}, which it does not get: take some of {', '.join(due)}"
                )
            if parameter.default is not inspect.Parameter.empty:
                raise PluginError(
                    f"{who} gives {name}'s argument {parameter.name!r} a default: remove it, the core always passes it"
                )


def manager(
    plugins: Mapping[str, object], offers: Mapping[str, Offer], core: object | None = None
) -> pluggy.PluginManager:
    """A plugin manager with the core first, then the plugins in the order given.

    Raises:
        PluginError: pluggy refuses one.
    """
    made = pluggy.PluginManager(GROUP)
    made.add_hookspecs(hookspecs)
    if core is not None:
        made.register(core, "core")
    for name, plugin in plugins.items():
        try:
            made.register(plugin, name)
        except (pluggy.PluginValidationError, ValueError) as error:
            who = offers[name].identity if name in offers else "no distribution"
            raise PluginError(f"plugin {name!r} ({who}) cannot be registered: {_one_line(error)}") from error
    try:
        made.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"a selected plugin implements an unknown hook: {_one_line(error)}") from error
    return made


def matching(plugins: Mapping[str, Any]) -> list[str]:
    """Names of the matchers among plugins (classes or instances); those that give way only where there is no other."""
    matchers = [name for name, plugin in plugins.items() if plugin.role == "matcher"]
    return [name for name in matchers if not plugins[name].gives_way] or matchers


def _import_file(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _normal(distribution: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
