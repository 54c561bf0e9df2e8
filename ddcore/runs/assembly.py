"""From a command line to a run: select plugins, resolve their options, claim a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from ddcore.api.plugin import ASSETS
from ddcore.composing.discovery import Offer, add_packs, load_class, load_path, packs_among
from ddcore.composing.options import CORE_GROUPS, First, Resolved, core_group, preparse, resolve
from ddcore.composing.plan import students_of
from ddcore.composing.presets import Preset, choose_preset
from ddcore.composing.recipes import RULES
from ddcore.errors import DdcoreError, InputError, OptionError, PluginError
from ddcore.storage.secrecy import shown

if TYPE_CHECKING:
    from ddcore.api.types import Row
    from ddcore.data.source import Source
    from ddcore.runs.opened import Whole
    from ddcore.runs.record import Setup
    from ddcore.runs.run import Run
    from ddcore.runs.taken import Taken
    from ddcore.scoring.budget import Budget
    from ddcore.sets.artifact import Artifact
    from ddcore.sets.packed import Packed
    from ddcore.storage.places import Place
    from ddcore.storage.progress import Reporter


AGAIN = "what was trained on the real data is kept in the cache: give the same command again"
"""How to go on with what has no folder of its own."""


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
    from ddcore.runs.record import Setup

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


def within_bytes(first: Run) -> tuple[Setup, Budget]:
    """The setup of a run with the images per class that its ``--bytes`` buy."""
    from ddcore.runs.refusals import refuse_options_of_images
    from ddcore.runs.saving import bytes_allowed
    from ddcore.scoring.budget import budget_of

    if not first.of_images:
        refuse_options_of_images(first)
    budget, resolved = budget_of(first, bytes_allowed(first) or 0), first.setup.resolved
    sources = {**resolved.sources, "ipc": f"--bytes {first.config.bytes}"}
    config = attrs.evolve(resolved.config, ipc=budget.ipc)
    return attrs.evolve(first.setup, resolved=attrs.evolve(resolved, config=config, sources=sources)), budget


def open_data(name: str, plugins: Sequence[str], paths: Sequence[str], options: Mapping[str, Any]) -> Source:
    """Real data by name, asked of the core and of these plugins under their defaults.

    Raises:
        InputError: nobody knows the name.
    """
    from ddcore.composing.asking import Hooks
    from ddcore.composing.loading import load_source

    words = [*(w for p in plugins for w in ("--plugin", p)), *(w for p in paths for w in ("--plugin-path", p))]
    setup = setup_from(select([*words, "--preset", "none"], {}), {}, {})
    return load_source(Hooks(setup.manager(), setup.described()), name, options)


def begin(
    setup: Setup,
    *,
    plan_only: bool,
    command: list[str],
    reporter: Reporter | None = None,
    source: Source | None = None,
    more: Mapping[str, Any] | None = None,
) -> Run:
    """Check a run without doing anything, then claim its folder and write ``run.json``.

    Args:
        command: for the record.
        reporter: none: one that says what the run does.
        source: the data, where they are loaded already.
        more: what else the record says.

    Raises:
        InputError: the folder holds another run or other files.
    """
    from ddcore.runs.record import write_record
    from ddcore.runs.refusals import check_data
    from ddcore.runs.run import Run
    from ddcore.scoring.estimate import estimate
    from ddcore.storage.holding import held
    from ddcore.storage.places import Place
    from ddcore.storage.progress import Reporter

    budget = None
    if setup.config.bytes is not None:
        first = Run(setup, Place.at(setup.config.out or "runs"), Reporter(quiet=True))
        if source is not None:
            first.take(source)
        (setup, budget), source = within_bytes(first), first.source
    place = Place.at(setup.config.out) if setup.config.out else free_folder(setup)
    run = Run(setup, place, reporter or Reporter(quiet=plan_only))
    if source is not None:
        run.take(source)
    size = f", {run.config.ipc} images per class" if run.of_images else ""
    packs = packs_among(run.plugins)
    named = " + ".join(name for name in run.plugins if name not in packs)
    run.say(f"plan: {named} on {run.config.dataset}{size}, seed {run.seed}")
    for line in (*run.plan.lines(), *chosen_lines(run)):
        run.say(line)
    if budget is not None:
        run.say(f"  {budget.sentence()}")
    check_names(run)
    check_data(run)
    if plan_only:
        return run
    with run.tasks.stoppable(), held(place):
        claim(place)
        run.say(estimate(run).sentence())
        write_record(run, command, **({} if budget is None else {"budget": budget.as_json()}), **(more or {}))
    return run


def check_names(run: Whole) -> None:
    """Refuse unknown executors, protocols and networks before any work.

    Raises:
        OptionError, InputError: naming the nearest known one.
    """
    from ddcore.training.protocols import resolved_protocols

    run.tasks.executor()
    resolved_protocols(run)
    for name in {run.network_name, *run.config.eval_network}:
        run.network(run.generator("check"), name)


def chosen_lines(run: Run) -> list[str]:
    """The network, and the preset if there is one, with what they mean."""
    presets = sorted({source for source in run.setup.resolved.sources.values() if source.startswith("preset ")})
    auto = f" (auto on {run.device.type}; the papers' is convnet3)" if run.config.network == "auto" else ""
    networks = f"network {run.network_name}{auto}"
    if not run.of_images:
        students = run.config.eval_network or students_of(run.matcher, run.plugins)
        networks = f"students: {', '.join(students)}"
    switch_off = [f"  {preset} (--preset none switches it off, --explain shows what it sets)" for preset in presets]
    return [f"  {networks}, {run.device.type}, {run.config.threads} threads", *switch_off]


def claim(place: Any) -> None:
    """Refuse a folder that is in use."""
    from ddcore.storage.holding import HOLDER, LOCK

    if (place / "run.json").exists():
        raise InputError(
            f"{place.url} holds another run: go on with it by `ddcore resume {place.url}`, or give another --out"
        )
    if place.exists() and {*place.names()} - {LOCK, HOLDER}:
        raise InputError(
            f"{place.url} is not empty and holds no run: give --out a new folder, so that nothing is overwritten"
        )


def free_folder(setup: Setup) -> Any:
    """``runs/NAME``, numbered if it is taken."""
    from ddcore.storage.places import Place

    config = setup.config
    data = shown(config.dataset).rstrip("/").rpartition("/")[2].replace(":", "-") or "data"
    of_images = any("images" in plugin.modality for plugin in setup.plugins.values())
    size = f"-ipc{config.ipc}" if of_images else ""
    packs = packs_among(setup.plugins)
    stem = f"{'-'.join(name for name in setup.offers if name not in packs)}-{data}{size}-seed{config.seed}"
    place, number = Place.at("runs") / stem, 1
    while (place / "run.json").exists():
        number += 1
        place = Place.at("runs") / f"{stem}-{number}"
    return place


def evaluate_folder(
    artifact: str, options: Mapping[str, Any], selection: Selection | None = None, *, trust: bool = False
) -> list[Row]:
    """Evaluate an artifact outside the run that made it; results are kept only with ``out``.

    Args:
        options: from the command line, ``group__name`` to value.
        selection: plugins beside those that made it, where the run is this user's.
        trust: whether its manifest is followed in all that it says.

    Raises:
        InputError: the data that it is to be tested on are not known, have other classes or another shape; options of images for others.
        PluginError: it holds no images, and the plugin that made it and tests it is not here.
    """
    import tempfile

    from ddcore.runs.taken import taken
    from ddcore.sets.packed import Packed, load_either
    from ddcore.storage.places import Place

    loaded = load_either(artifact)
    if isinstance(loaded, Packed) and (foreign := [n for n in ("protocol", "baseline") if options.get(n)]):
        raise InputError(f"{artifact} holds {loaded.kind}, and --{foreign[0]} is of images: leave it out")
    given = {k: v for k, v in options.items() if k != "out"}
    source = taken(loaded.manifest, loaded.place, trust=trust)
    if "protocol" not in given:
        given["protocol"] = (source.protocol(),)
    setup = setup_on(loaded, given, selection, source=source, with_makers=True)
    with tempfile.TemporaryDirectory() as scratch:
        out = Place.at(options["out"]) if "out" in options else Place.at(scratch)
        claim(out)
        run = run_on(loaded, artifact, setup, out, kept="out" in options, source=source)
        return evaluate_on(run, loaded)


def evaluate_on(run: Run, artifact: Artifact | Packed) -> list[Row]:
    """Do what is left of an evaluation outside the run that made an artifact."""
    from ddcore.runs.distil import evaluate
    from ddcore.sets.packed import Packed

    if isinstance(artifact, Packed):
        run.packed = artifact
    else:
        run.artifact = artifact
    with run.tasks.at_work(run.cache):
        return evaluate(run)


def setup_on(
    artifact: Artifact | Packed,
    given: Mapping[str, Any],
    selection: Selection | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    source: Taken,
    with_makers: bool = False,
) -> Setup:
    """The options that an artifact's labels were made with, as far as they may be taken over, and what is given in their place.

    Args:
        given: from the command line, ``group__name`` to value.
        selection: plugins to ask; none: those the labels were made with, as far as they are here and the record is the user's.
        environment: of which options are read; none.
        source: what may be taken over from the artifact.
        with_makers: ask the plugins the labels were made with too.

    Raises:
        InputError: nobody says which data, and none of their fingerprint are known here.
        PluginError: it holds no images, and no plugin that tests it is selected.
    """
    from ddcore.runs.record import OF_A_SET, Setup
    from ddcore.sets.packed import Packed
    from ddcore.storage.places import default_cache

    packed = isinstance(artifact, Packed)
    ask_makers = with_makers or selection is None or not selection.classes
    here = {} if selection is None else selection.classes
    offers, classes = source.makers(here, needed=packed) if ask_makers else ({}, {})
    if selection is not None:
        offers, classes = offers | dict(selection.offers), classes | dict(selection.classes)
    if packed and not classes:
        names = " ".join(f"--plugin {name}" for name in source.plugin_names()) or "the --plugin that reads it"
        raise PluginError(f"{source.url} holds {artifact.manifest['kind']}, which a plugin tests: add {names}")
    config = source.config(classes, None if packed else len(artifact))  # type: ignore[arg-type]
    config |= (
        {"dataset": given["dataset"]} if "dataset" in given else source.data(given.get("cache") or default_cache())
    )
    labels = given.get("labels") or (selection and selection.first.labels) or config.get("labels")
    groups = {**classes, **core_groups(classes, labels)}
    saved = source.options(groups)
    own = {group: saved[group] for group in groups if group in CORE_GROUPS}
    tables = {**config, **own, "plugin": {group: saved[group] for group in classes}}
    resolved = resolve(
        groups,
        command_line=given,
        environment=environment or {},
        files=selection.first.files if selection else (),
        preset=Preset(OF_A_SET, config.get("dataset", ""), 1, (), tables=tables),
    )
    if resolved.sources["dataset"] == "default":
        raise source.unknown_data()
    return Setup(resolved, offers)


def run_on(artifact: Artifact | Packed, url: str, setup: Setup, place: Place, *, kept: bool, source: Taken) -> Run:
    """A run that distils nothing, for work on an artifact, with its record.

    Args:
        kept: whether it can be gone on with after a stop.
        source: what was taken over from the artifact.

    Raises:
        InputError: the data have other classes or another shape than the artifact.
    """
    from ddcore.runs.record import write_artifact_record
    from ddcore.runs.run import Run
    from ddcore.storage.progress import Reporter

    run = Run(setup, place, Reporter())
    if tuple(run.source.classes) != tuple(artifact.classes):
        ours, theirs = _few(artifact.classes), _few(run.source.classes)
        raise InputError(f"{url} has classes {ours}, and the test data {theirs}: give matching --dataset")
    kind = artifact.manifest["kind"]
    shape = list(run.source.summary()["shape"])
    said = artifact.manifest.get("shape")
    if run.source.modality != kind or said != shape:
        ours, theirs = ("x".join(map(str, each)) for each in (said if isinstance(said, list) else ["?"], shape))
        raise InputError(
            f"{url} has {kind} of {ours}, and the data {run.source.modality} of {theirs}: give matching --dataset"
        )
    for line in source.remarks(run):
        run.say(line)
    run.tasks.way_on = run.tasks.way_on if kept else AGAIN
    with run.tasks.stoppable():
        write_artifact_record(run, url)
    return run


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
