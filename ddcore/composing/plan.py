"""Decide, before torch does any work, who does what in a run; refuse what cannot work or would do nothing.

The plan is printed at the start, shown by ``--plan-only`` and kept in the run and in the artifact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from attrs import asdict, field, frozen

from ddcore.api.hooks import KINDS
from ddcore.api.plugin import DENSE, PACK
from ddcore.composing.discovery import matching, packs_among
from ddcore.composing.dispatch import CORE, Dispatch
from ddcore.composing.recipes import OF_VIEWS, RULES, STATIC_MIXED
from ddcore.composing.versions import deprecations
from ddcore.errors import PluginError, near

PROTOCOL = "protocol"
CLASS_LOGITS = "class_logits"
"""What a plugin needs whose student loss reads outputs as classes: nothing that learns vectors has them."""
CORE_ASKS = (
    "project",
    "evaluate",
    "data",
    "network",
    "executor",
    "augment:evaluate",
    "label",
    "teachers",
    "student_loss",
    "student_modules",
    "student_rows",
    "adapt_student",
    "student_data",
    "examine",
    "companion",
    "store",
    "log",
)
IMAGES = "images"


def kinds_of(source: Any) -> frozenset[str]:
    """What a plugin's ``modality`` may name so that it works on these data."""
    return frozenset({source.modality, *([DENSE] if getattr(source, "dense", False) else [])})


TRAJECTORIES, TEACHERS = "trajectories", "teachers"
BASELINES = ("kcenter",)
"""The core's initialisers whose images have a row beside every result; ``--baseline`` names more."""
INITIALIZERS = ("real", "noise", *BASELINES)
"""Of the core."""
EXPERT_ASKS = ("augment:expert", "expert_loss", "expert_optimizer")


@frozen
class Stage:
    """One line of the plan: who provides a stage, and who changes it, in order."""

    name: str
    what: str
    provider: str
    changed_by: tuple[str, ...] = ()


@frozen
class Plan:
    """Who does what.

    Attributes:
        matcher: plugin name.
        needs: assets to make first: ``trajectories``, ``teachers``.
        warnings: sentences a person should read; the run goes on.
    """

    matcher: str
    initializer: str
    labeller: str
    steps: int
    network: str
    needs: tuple[str, ...]
    stages: tuple[Stage, ...]
    warnings: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people, one stage a line."""
        width = max(len(stage.name) for stage in self.stages)
        return [f"  {s.name:<{width}}  {s.what} ({s.provider}){_then(s.changed_by)}" for s in self.stages]


def _then(plugins: Sequence[str]) -> str:
    return "" if not plugins else ", changed by " + " then ".join(plugins)


@frozen
class Choices:
    """What the user chose of what a plan decides; None leaves it to the plugins."""

    steps: int | None
    network: str
    init: str | None
    labels: str | None
    baselines: tuple[str, ...] = ()


def offers(plugin: Any) -> set[str]:
    """What a plugin can do for a run, in the words a matcher's ``asks`` uses; a protocol does nothing to a set."""
    named = {f"view:{p}" for p in plugin.view_phases} | {f"augment:{p}" for p in plugin.augment_phases}
    named |= {f"setting:{s}" for s in plugin.settings}
    named |= {"initialize"} if plugin.initializers else set()
    named |= {"label"} if plugin.labellers else set()
    plain = {h.removeprefix("ddcore_") for h in KINDS if hasattr(plugin, h)}
    return named | (plain - {"view", "augment", "setting", "initialize", "label", "learn", "matching_loss", PROTOCOL})


def only_protocols(plugin: Any) -> bool:
    """Whether a plugin brings evaluation protocols and nothing else."""
    return bool(plugin.protocols) and not offers(plugin)


def recorded_order(plugins: Mapping[str, Any], first: str = "") -> list[str]:
    """Names of plugins as records hold them: by name, unless two change the same thing, where the command line's order
    says which does first.

    Args:
        first: the one that stands before all others, the matcher.
    """
    shared = Counter(
        what for plugin in plugins.values() for what in offers(plugin) if KINDS.get(f"ddcore_{what}") != "observe"
    )
    others = [name for name in plugins if name != first]
    if max(shared.values(), default=0) > 1:
        return list(plugins)
    return [*([first] if first in plugins else []), *sorted(others)]


def asked_by(matcher: Any) -> set[str]:
    """What a run with this matcher asks of enhancements."""
    expert = set(EXPERT_ASKS) if TRAJECTORIES in (*matcher.needs, *matcher.may_need) else set()
    return {*matcher.asks, *CORE_ASKS, *expert}


def refusal(plugin: Any, name: str, matcher: Any, matcher_name: str) -> str | None:
    """Why an enhancement does not go with a matcher; None when it does."""
    for one, other_name in ((plugin, matcher_name), (matcher, name)):
        if other_name in one.conflicts:
            return f"{name!r} does not go with {matcher_name!r}: {one.conflicts[other_name]}"
    if not plugin.modality & matcher.modality:
        return f"{name!r} works on {_words(plugin.modality)}, {matcher_name!r} on {_words(matcher.modality)}"
    asked = asked_by(matcher)
    there = {*asked, *matcher.needs, *matcher.may_need, TEACHERS, CLASS_LOGITS}
    missing = [need for need in plugin.needs if need not in there]
    if missing:
        return f"{name!r} needs {_words(missing)}, which {matcher_name!r} does not offer"
    if not offers(plugin) & asked and not only_protocols(plugin):
        return f"{name!r} changes {_words(sorted(offers(plugin)))}, none of which {matcher_name!r} asks for: it would do nothing"
    return None


def unlabelled(plugin: Any, name: str, kind: str) -> str | None:
    """Why a plugin does not go with labels of a kind; None when it does.

    Labels of views say what each epoch of a student looks at, so that nothing else may choose or change it.
    """
    if kind == VECTORS and CLASS_LOGITS in plugin.needs:
        return f"{name!r} reads what students answer as classes, and what learns vectors tells none: it goes with other labels"
    if kind not in (*OF_VIEWS, STATIC_MIXED):
        return None
    if "student_rows" in offers(plugin):
        return f"{name!r} chooses the rows of students' epochs, which labels of views say already: it goes with others"
    if "augment:evaluate" in offers(plugin):
        return f"{name!r} changes students' batches, and labels of views were made for these as they are: it goes with others"
    return None


def refusal_unasked(plugin: Any, name: str, matcher: Any, matcher_name: str) -> str | None:
    """Why a plugin does not go with a matcher and the labels that the two suggest; None when it does."""
    rule = _suggestion(plugin, "labellers") or _suggestion(matcher, "labellers") or "hard"
    kind = _kind(rule, (plugin, matcher), None if plugin.labellers else matcher)
    return refusal(plugin, name, matcher, matcher_name) or unlabelled(plugin, name, kind)


def _kind(rule: str, plugins: Iterable[Any], matcher: Any) -> str:
    """Of the labels that a rule makes, unless a matcher learns some."""
    kinds = {rule: kind for plugin in plugins for rule, kind in plugin.label_kinds.items()}
    learned = [role for role in LEARNED_LABELS if matcher and role in matcher.learns]
    return learned[0] if learned else kinds.get(rule, rule)


def resolve(
    hooks: Dispatch, plugins: Mapping[str, Any], choices: Choices, known_matchers: Callable[[], Sequence[str]]
) -> Plan:
    """The plan for the selected plugins (name to instance, in command-line order).

    Args:
        known_matchers: gives the installed ones that could do it, what to try first in front, where none is selected.

    Raises:
        PluginError: no matcher or two; a plugin that does not go with the matcher or conflicts with another; two
            plugins that suggest an initialiser or labels; a hook of which a run has one, twice.
    """
    for hook, kind in KINDS.items():
        if kind == "one":
            hooks.sole(hook)
    name = _matcher(hooks, plugins, known_matchers)
    matcher = plugins[name]
    _refuse_conflicts(plugins, hooks)
    for other, plugin in plugins.items():
        if other != name and (reason := refusal(plugin, other, matcher, name)):
            way_out = f"leave out --plugin {other}, or run `ddcore plugins show {other}` to see what it needs"
            if plugin.role == PACK and not plugin.modality & matcher.modality:
                way_out = f"choose a matcher of such data: `ddcore plugins` says what each works on, `plugins show {name}` more"
            raise PluginError(f"{reason}; {way_out}")
    for other, plugin in plugins.items():
        if taken := [choice for choice in plugin.initializers if choice in INITIALIZERS]:
            raise PluginError(f"{hooks.who(other)} offers the initialiser {taken[0]!r}, which is the core's: rename it")
    for baseline in choices.baselines:
        _chosen("initializers", baseline, plugins, name, "real", "--baseline", hooks)
    initializer, init_by = _chosen("initializers", choices.init, plugins, name, "real", "--init", hooks)
    labeller, label_by = _chosen("labellers", choices.labels, plugins, name, "hard", "--labels", hooks)
    learned = [said for role, said in LEARNED_LABELS.items() if role in matcher.learns and choices.labels is None]
    _refuse_unlabelled(plugins, labeller, matcher if choices.labels is None else None)
    steps = choices.steps if choices.steps is not None else matcher.steps
    if steps is None:
        raise PluginError(f"{hooks.who(name)} has no default number of steps: give --steps")
    if steps and not hasattr(matcher, "ddcore_matching_loss"):
        raise PluginError(f"{hooks.who(name)} learns nothing step by step, and --steps asks for {steps}: leave it out")
    needs = _assets(plugins, (initializer, *choices.baselines), labeller)
    if not matcher.modality & {IMAGES, DENSE}:
        stages = _stages_of_its_own(name, plugins, steps)
        return Plan(name, initializer, labeller, steps, choices.network, needs, tuple(stages))
    label = (learned[0], name) if learned else (labeller, label_by)
    stages = _stages_of_images(name, plugins, steps, needs, (initializer, init_by), label)
    return Plan(name, initializer, labeller, steps, choices.network, needs, tuple(stages))


def _refuse_unlabelled(plugins: Mapping[str, Any], labeller: str, matcher: Any = None) -> None:
    kind = _kind(labeller, plugins.values(), matcher)
    for name, plugin in plugins.items():
        if reason := unlabelled(plugin, name, kind):
            raise PluginError(f"{reason} (--labels hard, for one), or leave out --plugin {name}")


VECTORS = "vectors"
LEARNED_LABELS = {"labels": "learned, soft", VECTORS: "learned, vectors"}
"""Roles of learned labels, and what a plan says of them."""


def _stages_of_images(
    name: str,
    plugins: Mapping[str, Any],
    steps: int,
    needs: Collection[str],
    initializer: tuple[str, str],
    label: tuple[str, str],
) -> list[Stage]:
    """Of a matcher of images, in the order they are made in.

    Args:
        initializer, label: what, and whose.
    """
    matcher = plugins[name]
    stages = [
        Stage("initialize", *initializer),
        Stage("match", f"{steps} steps", name, _phased(plugins, "view", name)),
    ]
    if TRAJECTORIES in needs:
        shapers = tuple(p for p, plugin in plugins.items() if offers(plugin) & set(EXPERT_ASKS))
        stages.insert(0, Stage("experts", "trajectories", CORE, shapers))
    if TEACHERS in needs:
        choosing = tuple(p for p, plugin in plugins.items() if offers(plugin) & {"teachers", "adapt_teacher"})
        stages.insert(0, Stage("teachers", "committee", CORE, choosing))
    stages += (
        [Stage("augment", "identity", CORE, _phased(plugins, "augment", name))]
        if _phased(plugins, "augment", name)
        else []
    )
    stages += (
        [Stage("settings", "matcher's", name, _phased(plugins, "setting", name))]
        if _phased(plugins, "setting", name)
        else []
    )
    stages += [
        Stage(stage, what, name, changing)
        for stage, what in (("segment", "an expert's"), ("companion", "beside each task"), ("store", "as learned"))
        if (changing := tuple(p for p, plugin in plugins.items() if offers(plugin) & asked_by(matcher) & {stage}))
    ]
    stages.append(Stage("label", *label))
    stages.append(
        Stage("evaluate", "honest rows", CORE, tuple(p for p in plugins if hasattr(plugins[p], "ddcore_evaluate")))
    )
    return stages


def _stages_of_its_own(name: str, plugins: Mapping[str, Any], steps: int) -> list[Stage]:
    """Of a matcher of other data than images, which brings samples, labels and students itself."""
    matcher, packs = plugins[name], packs_among(plugins)
    others = [p for p in plugins if p != name and p not in packs]
    changing = tuple(p for p in others if offers(plugins[p]) & (asked_by(matcher) - {"evaluate"}))
    evaluating = tuple(p for p in others if "evaluate" in offers(plugins[p]))
    return [
        *(Stage("pack", _words(offers(plugins[pack])), pack) for pack in packs),
        Stage("distil", f"{_words(matcher.modality)}, {f'{steps} steps' if steps else 'no steps'}", name, changing),
        Stage("evaluate", ", ".join(students_of(matcher, plugins)) or "its own rows", name, evaluating),
    ]


def students_of(matcher: Any, plugins: Mapping[str, Any]) -> tuple[str, ...]:
    """Networks that score the sets of a matcher on other data than images, unless the user names others."""
    return matcher.students or tuple(network for plugin in plugins.values() for network in plugin.networks)


STUDENT_SHAPING = frozenset({"augment:evaluate", "student_loss", "student_rows", "adapt_student"})
"""By which plugins shape how students are trained."""
OF_STUDENTS = STUDENT_SHAPING | {"student_modules", "label"}
"""What no step of a distillation asks for, because it is about students."""
ASKED_LATER = OF_STUDENTS | {
    "evaluate",
    "student_data",
    "examine",
    "network",
    "initialize",
    "store",
    "expert_loss",
    "expert_optimizer",
    "executor",
}
"""What is asked after a first step, or not at all where something is cached."""
STUDENT_ASKS = OF_STUDENTS | {"teachers", "network", "data", "executor", "log"}
"""What plugins can do where students are trained and nothing is distilled."""


def resolve_training(hooks: Dispatch, plugins: Mapping[str, Any], network: str, labels: str | None) -> Plan:
    """The plan of a run that only trains students.

    Raises:
        PluginError: a plugin that would do nothing there; two that suggest labels, or answer what one answers.
    """
    for hook, kind in KINDS.items():
        if kind == "one":
            hooks.sole(hook)
    _refuse_conflicts(plugins, hooks)
    for name, plugin in plugins.items():
        if not offers(plugin) & STUDENT_ASKS and not only_protocols(plugin):
            raise PluginError(f"{hooks.who(name)} does nothing where a student is trained: leave out --plugin {name}")
    labeller, label_by = _chosen("labellers", labels, plugins, "", "hard", "--labels", hooks)
    _refuse_unlabelled(plugins, labeller)
    needs = _assets(plugins, (), labeller)
    shaping = tuple(p for p, plugin in plugins.items() if offers(plugin) & STUDENT_SHAPING)
    stages = [Stage("label", labeller, label_by), Stage("student", network, CORE, shaping)]
    if TEACHERS in needs:
        choosing = tuple(p for p, plugin in plugins.items() if "teachers" in offers(plugin))
        stages.insert(0, Stage("teachers", "committee", CORE, choosing))
    return Plan("", "", labeller, 0, network, needs, tuple(stages))


def refuse_idle(hooks: Dispatch, plugins: Mapping[str, Any], matcher: str) -> None:
    """Stop a run in which a selected plugin has not been asked anything by the end of its first step.

    What is only asked later (labels, rows, student augmentation), or not when experts are cached, counts as asked.

    Raises:
        PluginError: naming it.
    """
    for name, plugin in plugins.items():
        later = offers(plugin) & ASKED_LATER or only_protocols(plugin)
        if not hooks.asked[name] and not later and name != matcher:
            raise PluginError(f"{hooks.who(name)} was asked nothing in the first step: leave out --plugin {name}")


def augmenters(plugins: Mapping[str, Any], phase: str) -> list[tuple[str, Any]]:
    """The plugins that augment in a phase, in order: part of what shapes experts."""
    return [(name, plugin) for name, plugin in plugins.items() if f"augment:{phase}" in offers(plugin)]


def student_shapers(plugins: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The plugins that shape how students are trained, in order."""
    return [(name, plugin) for name, plugin in plugins.items() if offers(plugin) & STUDENT_SHAPING]


def warnings(hooks: Dispatch, plugins: Mapping[str, Any], mirror_symmetric: bool) -> tuple[str, ...]:
    """What a person should know about these plugins on these data."""
    data = data_warnings(plugins, {"mirror_symmetric": mirror_symmetric})
    old = [line for name, plugin in plugins.items() for line in deprecations(type(plugin), hooks.who(name))]
    return (*data, *old)


def data_warnings(plugins: Mapping[str, Any], facts: Mapping[str, bool]) -> tuple[str, ...]:
    """What selected plugins assume of the data that these data are not, each with the plugin's own reason."""
    found = [
        (name, fact, why)
        for name, p in sorted(plugins.items())
        for fact, why in p.assumes.items()
        if not facts.get(fact, True)
    ]
    return tuple(
        f"{name} assumes that the data are {fact.replace('_', ' ')}, and these are not: {why}"
        for name, fact, why in found
    )


def _matcher(hooks: Dispatch, plugins: Mapping[str, Any], known_matchers: Callable[[], Sequence[str]]) -> str:
    matchers = matching(plugins)
    if len(matchers) > 1:
        both = " and ".join(hooks.who(m) for m in matchers)
        raise PluginError(f"{both} are both matchers, of which a run has one: keep one of them")
    if not matchers:
        known = known_matchers()
        chosen = "".join(f" --plugin {name}" for name in plugins)
        way_out = (
            f"try ddcore run{chosen} --plugin {known[0]} (for these data and plugins there are: {', '.join(known)})"
            if known
            else "none that is installed goes with these data and plugins (`ddcore plugins` lists what is here): "
            "pip install one, for example ddcore-dm for images"
        )
        raise PluginError(f"no selected plugin is a matcher, so there is nothing to distil with: {way_out}")
    return matchers[0]


def _refuse_conflicts(plugins: Mapping[str, Any], hooks: Dispatch) -> None:
    for name, plugin in plugins.items():
        for other, reason in plugin.conflicts.items():
            if other in plugins:
                raise PluginError(
                    f"{hooks.who(name)} does not go with {hooks.who(other)}: {reason}; leave one of them out"
                )


def _chosen(
    attribute: str,
    flag_value: str | None,
    plugins: Mapping[str, Any],
    matcher: str,
    default: str,
    flag: str,
    hooks: Dispatch,
) -> tuple[str, str]:
    """A ``by_name`` stage: the flag, else the only enhancement's suggestion, else the matcher's, else the core's."""
    offered = {choice: name for name, plugin in plugins.items() for choice in getattr(plugin, attribute)}
    core = {"initializers": INITIALIZERS, "labellers": ("hard", *RULES)}[attribute]
    known = {**dict.fromkeys(core, CORE), **offered}
    if flag_value is not None:
        if flag_value not in known:
            raise PluginError(
                f"{flag} {flag_value!r} is offered by none of the selected plugins: {near(flag_value, known)}"
            )
        return flag_value, known[flag_value]
    heard = [n for n, p in plugins.items() if n == matcher or attribute == "initializers" or not p.gives_way]
    suggestions = {name: value for name in heard if (value := _suggestion(plugins[name], attribute))}
    suggesting = [name for name in suggestions if name != matcher]
    if len(suggesting) > 1:
        both = " and ".join(hooks.who(s) for s in suggesting)
        values = " or ".join(suggestions[s] for s in suggesting)
        raise PluginError(f"{both} each suggest their own: choose with {flag} {values}")
    for name in (*suggesting, *({matcher} & {*suggestions})):
        value = suggestions[name]
        if value not in (*core, *getattr(plugins[name], attribute)):
            raise PluginError(
                f"{hooks.who(name)} suggests {value!r}, which neither it nor the core offers: choose with {flag} {next(iter(known))}"
            )
        return value, known[value]
    return default, CORE


def _suggestion(plugin: Any, attribute: str) -> str | None:
    own: Sequence[str] = getattr(plugin, attribute)
    suggested: str | None = plugin.suggests if attribute == "initializers" else plugin.suggests_labels
    return (own[0] if own else None) if suggested is None else suggested


def _assets(plugins: Mapping[str, Any], initializers: Sequence[str], labeller: str) -> tuple[str, ...]:
    """Every asset that some plugin needs, for itself or for an initialiser of its own that the run uses,
    or its labels need."""
    found = {TEACHERS} if labeller in RULES else set[str]()
    for plugin in plugins.values():
        used: list[str | None] = [name for name in initializers if name in plugin.initializers]
        for name in used or [None]:
            found.update(plugin.assets(name))
    return tuple(sorted(found))


def _phased(plugins: Mapping[str, Any], what: str, matcher: str, phase: str | None = None) -> tuple[str, ...]:
    asked = asked_by(plugins[matcher])
    wanted = {f"{what}:{phase}"} if phase else {a for a in asked if a.startswith(f"{what}:")}
    return tuple(p for p, plugin in plugins.items() if offers(plugin) & wanted)


def _words(things: Any) -> str:
    return ", ".join(sorted(things))
