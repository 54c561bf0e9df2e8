"""From a command line to a run: select plugins, resolve their options, claim a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ddcore.errors import DdcoreError, InputError, PluginError
from ddcore.options import First, Resolved, core_group, preparse, resolve
from ddcore.plugins import Offer, load_class, load_path
from ddcore.presets import Preset, choose_preset

if TYPE_CHECKING:
    from ddcore.data import Source
    from ddcore.record import Setup
    from ddcore.run import Run
    from ddcore.types import Row


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
        own = {"experts": core_group("experts")} if wants_experts(self.classes) else {}
        return {**self.classes, **own}


def wants_experts(classes: Mapping[str, Any]) -> bool:
    """Whether any of these plugins needs, or under some options may need, experts."""
    return any("trajectories" in (*cls.needs, *cls.may_need) for cls in classes.values())


def select(args: Sequence[str], environment: Mapping[str, str], *, strict: bool = True) -> Selection:
    """Load the plugins that a command line, the environment or config files name.

    Args:
        strict: False leaves out plugins that cannot be loaded, for ``--help``.

    Raises:
        PluginError: unknown, broken, or selected twice.
    """
    first = preparse(args, environment)
    classes: dict[str, type] = {}
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
    return Selection(first, classes, offers)


def setup_from(selection: Selection, given: Mapping[str, Any], environment: Mapping[str, str]) -> Setup:
    """Resolve every option of a selection.

    Args:
        given: what was on the command line, ``group__name`` to value.
    """
    from ddcore.record import Setup

    given = {name: value for name, value in given.items() if name not in ("config", "preset")}

    def resolved(preset: Preset | None) -> Resolved:
        files = selection.first.files
        return resolve(selection.groups, command_line=given, environment=environment, files=files, preset=preset)

    plain = resolved(None)
    preset = choose_preset(selection.first.preset, selection.classes, plain.config.dataset, plain.config.ipc)
    return Setup(resolved(preset), selection.offers)


def open_data(name: str, plugins: Sequence[str], paths: Sequence[str], options: Mapping[str, Any]) -> Source:
    """Real data by name, asked of the core and of these plugins under their defaults.

    Raises:
        InputError: nobody knows the name.
    """
    from ddcore import answers
    from ddcore.dispatch import Hooks
    from ddcore.run import unknown_dataset

    words = [*(w for p in plugins for w in ("--plugin", p)), *(w for p in paths for w in ("--plugin-path", p))]
    setup = setup_from(select([*words, "--preset", "none"], {}), {}, {})
    hooks = Hooks(setup.manager(), setup.described())
    first, _, rest = name.partition(":")
    source: Source | None = hooks.by_name("ddcore_data", check=answers.source, name=first, rest=rest, options=options)
    if source is None:
        raise InputError(unknown_dataset(name))
    return source


def begin(setup: Setup, *, plan_only: bool, command: list[str]) -> Run:
    """Check a run without doing anything, then claim its folder and write ``run.json``.

    Raises:
        InputError: the folder holds another run or other files.
    """
    from ddcore.distil import check_data
    from ddcore.estimate import estimate
    from ddcore.progress import Reporter
    from ddcore.record import write_record
    from ddcore.run import Run
    from ddcore.storage import Place

    place = Place.at(setup.config.out) if setup.config.out else free_folder(setup)
    run = Run(setup, place, Reporter(quiet=plan_only))
    run.say(
        f"plan: {' + '.join(run.plugins)} on {run.config.dataset}, {run.config.ipc} images per class, seed {run.seed}"
    )
    for line in (*run.plan.lines(), *chosen_lines(run)):
        run.say(line)
    run.check_names()
    check_data(run)
    if plan_only:
        return run
    claim(place)
    run.say(estimate(run).sentence())
    write_record(run, command)
    return run


def chosen_lines(run: Run) -> list[str]:
    """The network, and the preset if there is one, with what they mean."""
    presets = sorted({source for source in run.setup.resolved.sources.values() if source.startswith("preset ")})
    auto = f" (auto on {run.device.type}; the papers' is convnet3)" if run.config.network == "auto" else ""
    switch_off = [f"  {preset} (--preset none switches it off, --explain shows what it sets)" for preset in presets]
    return [f"  network {run.network_name}{auto}, {run.device.type}, {run.config.threads} threads", *switch_off]


def claim(place: Any) -> None:
    """Refuse a folder that is in use."""
    if (place / "run.json").exists():
        raise InputError(
            f"{place.url} holds another run: go on with it by `ddcore resume {place.url}`, or give another --out"
        )
    if place.exists() and place.names():
        raise InputError(
            f"{place.url} is not empty and holds no run: give --out a new folder, so that nothing is overwritten"
        )


def free_folder(setup: Setup) -> Any:
    """``runs/NAME``, numbered if it is taken."""
    from ddcore.storage import Place

    config = setup.config
    data = config.dataset.rstrip("/").rpartition("/")[2].replace(":", "-") or "data"
    stem = f"{'-'.join(setup.offers)}-{data}-ipc{config.ipc}-seed{config.seed}"
    place, number = Place.at("runs") / stem, 1
    while (place / "run.json").exists():
        number += 1
        place = Place.at("runs") / f"{stem}-{number}"
    return place


def reopen(folder: str) -> Run:
    """A run to go on with."""
    from ddcore.progress import Reporter
    from ddcore.run import Run

    run = Run.open(folder, Reporter())
    run.log("resume")
    return run


def evaluate_folder(artifact: str, options: Mapping[str, Any]) -> list[Row]:
    """Evaluate an artifact outside the run that made it; results are kept only with ``out``.

    Raises:
        InputError: the data that it is to be tested on have other classes or another shape.
    """
    import tempfile

    from ddcore.artifact import load_artifact
    from ddcore.distil import evaluate
    from ddcore.progress import Reporter
    from ddcore.record import Setup, write_artifact_record
    from ddcore.run import Run
    from ddcore.storage import Place

    loaded = load_artifact(artifact)
    made = loaded.manifest["provenance"]
    given = {**_evaluation_config(made["config"], loaded), **{k: v for k, v in options.items() if k != "out"}}
    offers, classes = _labellers(made)
    resolved = resolve(
        {**classes, **_experts(made, classes)}, command_line=_with_options(given, made, classes), environment={}
    )
    with tempfile.TemporaryDirectory() as scratch:
        out = Place.at(options["out"]) if "out" in options else Place.at(scratch)
        claim(out)
        run = Run(Setup(resolved, offers), out, Reporter())
        run.artifact = loaded
        if tuple(run.source.classes) != tuple(loaded.classes):
            raise InputError(
                f"{artifact} has classes {_few(loaded.classes)}, and the test data {_few(run.source.classes)}: give matching --dataset"
            )
        write_artifact_record(run, artifact)
        with run.stoppable():
            return evaluate(run)


def _evaluation_config(config: Mapping[str, Any], artifact: Any) -> dict[str, Any]:
    kept = ("dataset", "data_root", "split", "resize", "normalise", "ipc", "network", "threads", "dtype", "cache")
    given = {name: config[name] for name in kept if config.get(name) is not None}
    return {**given, "protocol": (artifact.manifest["recipe"].get("protocol", "auto"),)}


def _labellers(made: Mapping[str, Any]) -> tuple[dict[str, Offer], dict[str, type]]:
    """The plugins that made an artifact, as far as they are here: they label the baselines."""
    offers: dict[str, Offer] = {}
    classes: dict[str, type] = {}
    for saved in made.get("plugins", []):
        try:
            cls, offer = load_class(saved["name"])
        except PluginError:
            continue
        offers[offer.name], classes[offer.name] = offer, cls
    return offers, classes


def _experts(made: Mapping[str, Any], classes: Mapping[str, type]) -> dict[str, type]:
    return {"experts": core_group("experts")} if wants_experts(classes) and "experts" in made["options"] else {}


def _with_options(given: Mapping[str, Any], made: Mapping[str, Any], classes: Mapping[str, type]) -> dict[str, Any]:
    groups = [g for g in made["options"] if g in classes or g == "experts" and _experts(made, classes)]
    own = {f"{g}__{n}": v for g in groups for n, v in made["options"][g].items() if v is not None}
    return {**given, **own}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
