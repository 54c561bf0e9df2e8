"""Finding plugins: by entry point, one by one, and only those that were named. Nothing here imports torch.

A plugin is an attrs class: its fields are the method's hyper-parameters, its ``@hookimpl`` methods are the method. What
else ddcore has to know about it before a run stands in class attributes of ``Plugin``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import pluggy
from attrs import field, frozen

from ddcore import hookspecs
from ddcore.errors import PluginError, near

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

GROUP = "ddcore"
CORE_DISTRIBUTION = "ddcore-torch"
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
    "infer",
    "kd",
    "kd-pruning",
    "kd3",
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
    "submitit",
    "tensorboard",
    "text",
)
ASSETS: Mapping[str, str] = {"trajectories": "experts", "teachers": "teachers"}
"""What a run makes before its tasks begin, for plugins that need it, with the group of options that says how."""
PACK = "data"
ROLES = ("matcher", "enhancement", "labels", "student", "evaluator", PACK, "executor", "tracker")


class Plugin:
    """What every plugin class is derived from; override what is not so.

    Attributes:
        role: one of ``ROLES``; a run has exactly one matcher.
        summary: one line.
        paper: title, venue, arXiv id.
        modality: what the data may be: images, text, graphs, features.
        view_phases, augment_phases, settings: where ``ddcore_view``, ``ddcore_augment``, ``ddcore_setting`` apply.
        initializers, labellers: names offered for ``--init`` and ``--labels``; the first is what the plugin suggests.
        suggests, suggests_labels: the initialiser that runs start from, and the rule that labels, unless told otherwise, if not
            the first offered; may be the core's; empty: it suggests none.
        label_kinds: the kind of labels that a labeller makes, where it is not called like that: it says which protocol is meant.
        student_sets: names that ``ddcore_student_data`` answers, for ``run.score``.
        datasets, networks, executors: names offered for ``--dataset``, ``--network``, ``--executor``.
        packs: modality packs that it stands on: plugins of role ``data``, selected with it, whose modules it may import.
        probe: of a modality pack: file in its package with a matcher that the contract kit tries plugins of the modality with.
        students: of a matcher on other data than images: networks that score its sets unless ``--eval-network`` names others; empty:
            all that the run's plugins offer.
        moved: option that it had once to where that is now, ``{"width": "graphs.width"}``: the old one is refused by name, and
            what was saved under it is read as the new.
        asks: of a matcher: what it asks of enhancements, for example ``view:match``; else it would be ignored.
        learns: of a matcher: roles of what it learns.
        steps: of a matcher: default outer steps.
        needs: what has to be there: ``trajectories``, ``teachers``, or words of a matcher's ``asks`` or ``provides``.
        may_need: assets that only some option values need: see ``assets``.
        gives_way: of a matcher: beside another matcher it is an enhancement; its ``ddcore_learn`` is not asked, and what it
            suggests for labels is not heard.
        provides: words that other plugins' ``needs`` may name.
        conflicts: plugin name to the reason why the two do not go together.
        assumes: fact about the data (``mirror_symmetric``) to the reason why the method needs it: a warning where not so.
        whole_batches: whether its student loss compares the rows of a batch, so that batches are not cut into parts.
        neutral: option values under which the plugin changes nothing.
        tiny: option values under which a step on a few 8x8 images is cheap, for the contract kit.
        presets: TOML resource in the plugin's package with settings per data set and images per class.
        api: hook API version it was written for.
    """

    role: ClassVar[str] = "enhancement"
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    modality: ClassVar[frozenset[str]] = frozenset({"images"})
    view_phases: ClassVar[tuple[str, ...]] = ()
    augment_phases: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[tuple[str, ...]] = ()
    initializers: ClassVar[tuple[str, ...]] = ()
    labellers: ClassVar[tuple[str, ...]] = ()
    suggests: ClassVar[str | None] = None
    suggests_labels: ClassVar[str | None] = None
    label_kinds: ClassVar[Mapping[str, str]] = {}
    student_sets: ClassVar[tuple[str, ...]] = ()
    datasets: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ()
    executors: ClassVar[tuple[str, ...]] = ()
    packs: ClassVar[tuple[str, ...]] = ()
    probe: ClassVar[str | None] = None
    students: ClassVar[tuple[str, ...]] = ()
    moved: ClassVar[Mapping[str, str]] = {}
    asks: ClassVar[tuple[str, ...]] = ()
    learns: ClassVar[tuple[str, ...]] = ()
    steps: ClassVar[int | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    may_need: ClassVar[tuple[str, ...]] = ()
    gives_way: ClassVar[bool] = False
    provides: ClassVar[tuple[str, ...]] = ()
    conflicts: ClassVar[Mapping[str, str]] = {}
    assumes: ClassVar[Mapping[str, str]] = {}
    whole_batches: ClassVar[bool] = False
    neutral: ClassVar[Mapping[str, object]] = {}
    tiny: ClassVar[Mapping[str, object]] = {}
    presets: ClassVar[str | None] = None
    api: ClassVar[str] = hookspecs.API_VERSION

    def cost(self, run: Any) -> Any:
        """Of a matcher: what an outer step costs (``ddcore.Cost``), for the estimate before a run."""
        from ddcore.types import Cost

        return Cost()

    def assets(self, initializer: str | None) -> tuple[str, ...]:
        """What the run has to make before its tasks begin, of ``trajectories`` and ``teachers``, under these option values.

        Args:
            initializer: one that the run uses and this plugin offers, else None.
        """
        return tuple(asset for asset in self.needs if asset in ASSETS)

    def taps(self) -> tuple[str, ...]:
        """Features that ``ddcore_student_loss`` reads of students and teachers: ``stage2``, ``embedding``, a module's path.

        ``stage*`` reads all stages that each of them has. See ``ddcore.teaching``.
        """
        return ()

    def visited(self, count: int) -> int:
        """How many of ``count`` rows an epoch of a student visits under ``ddcore_student_rows``, as far as known beforehand.

        A protocol's epochs become steps by it; where the rows turn out otherwise, the steps stay.
        """
        return count

    def module_optimizer(self, modules: nn.Module, rate: float) -> Optimizer | None:
        """The optimiser of what ``ddcore_student_modules`` made, made once when a student begins or goes on.

        Args:
            rate: the student's, at its start. The optimiser's own rates rise and fall as the student's does.

        Returns:
            One over some of the parameters of ``modules``, stepped after the student's; None: they join the student's.
        """
        return None

    def expert_options(self) -> Mapping[str, object] | None:
        """Which option values ``ddcore_expert_loss`` and ``ddcore_expert_optimizer`` depend on.

        Experts are kept, and found again, under these. None: with these values the experts come out as without the plugin,
        so that neither hook is asked.
        """
        return attrs.asdict(self)  # type: ignore[arg-type]


def option(
    default: Any,
    *,
    help: str,
    symbol: str = "",
    unit: str = "",
    validator: Callable[..., Any] | None = None,
    secret: bool = False,
) -> Any:
    """A hyper-parameter of a plugin: a field of its attrs class.

    Args:
        default: the paper's.
        help: one line for ``--help``.
        symbol: the paper's.
        unit: steps, epochs, images, pixels, a step.
        validator: attrs', for the range.
        secret: never written to a record.
    """
    metadata_ = {"help": help, "symbol": symbol, "unit": unit, "secret": secret}
    return field(default=default, validator=validator, metadata=metadata_)


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
    """All installed plugins by name, from metadata alone: nothing is imported. Read again when a folder on the path changes."""
    return {
        name: list(offers) for name, offers in _installed(tuple((path, _changed(path)) for path in sys.path)).items()
    }


@lru_cache(maxsize=8)
def _installed(where: tuple[tuple[str, int], ...]) -> dict[str, list[Offer]]:
    found: dict[str, dict[str, Offer]] = {}
    for distribution in metadata.distributions():
        for point in distribution.entry_points:
            if point.group == GROUP:
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
    raise PluginError(f"no plugin is named {request!r}: {near(name, {*known, *FIRST_PARTY})}")


def load_class(request: str) -> tuple[type, Offer]:
    """Import one plugin, and no other.

    Raises:
        PluginError: not found, or broken: the sentence names plugin, distribution, version and cause.
    """
    offer = find(request)
    module, _, attribute = offer.value.partition(":")
    who = f"plugin {offer.name!r} ({offer.identity})"
    try:
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{who} cannot be imported ({type(error).__name__}: {_one_line(error)}): upgrade or uninstall {offer.distribution}"
        ) from error
    if not hasattr(imported, attribute):
        raise PluginError(
            f"{who} points to {offer.value}, where there is no such thing: reinstall or upgrade {offer.distribution}"
        )
    return checked(getattr(imported, attribute), who), offer


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
    """Names of the plugins (classes or instances) that another of them stands on."""
    named = {pack for plugin in plugins.values() for pack in plugin.packs}
    return [name for name in plugins if name in named]


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
    name = file.stem.removeprefix("ddcore_").replace("_", "-")
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
        raise PluginError(
            f"{who} was written for hook API {cls.api}, this ddcore offers {hookspecs.API_VERSION}: upgrade {CORE_DISTRIBUTION}"
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
