"""Work on a finished set outside the run that made it: its evaluation,
and the run without distilling that it is done in."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from ddcore.api.types import Row
from ddcore.commands.taken import Taken, taken
from ddcore.composing.options import CORE_GROUPS, resolve
from ddcore.composing.presets import Preset
from ddcore.composing.selection import OF_A_SET, Selection, Setup, core_groups
from ddcore.errors import InputError, PluginError
from ddcore.runs.assembly import claim
from ddcore.runs.distil import evaluate
from ddcore.runs.record import write_artifact_record
from ddcore.runs.refusals import check_elsewhere, check_places, warn_of_machine
from ddcore.runs.run import Run
from ddcore.scoring.rows import check_rows
from ddcore.sets.artifact import Artifact
from ddcore.sets.packed import Packed, load_either
from ddcore.storage.holding import held
from ddcore.storage.places import Place, default_cache
from ddcore.storage.progress import Reporter

OF_IMAGES_ALONE = ("protocol", "rows", "baseline", "evaluate_on")
AGAIN = "what was trained on the real data is kept in the cache: give the same command again"
"""How to go on with what has no folder of its own."""


def evaluate_folder(
    artifact: str, options: Mapping[str, Any], selection: Selection | None = None, *, trust: bool = False
) -> list[Row]:
    """Evaluate an artifact outside the run that made it; results are kept only with ``out``.

    Args:
        options: from the command line, ``group__name`` to value.
        selection: plugins beside those that made it, where the run is this user's.
        trust: whether its manifest is followed in all that it says.

    Raises:
        InputError: the data that it is to be tested on are not known, have other classes or another shape; options of
            images for others.
        PluginError: it holds no images, and the plugin that made it and tests it is not here.
    """
    loaded = load_either(artifact)
    if isinstance(loaded, Packed) and (foreign := [n for n in OF_IMAGES_ALONE if options.get(n)]):
        raise InputError(
            f"{artifact} holds {loaded.kind}, and --{foreign[0].replace('_', '-')} is of images: leave it out"
        )
    given = {k: v for k, v in options.items() if k != "out"}
    source = taken(loaded.manifest, loaded.place, trust=trust)
    if "protocol" not in given:
        given["protocol"] = (source.protocol({} if selection is None else selection.classes),)
    setup = setup_on(loaded, given, selection, source=source, with_makers=True)
    with tempfile.TemporaryDirectory() as scratch:
        out = Place.at(options["out"]) if "out" in options else Place.at(scratch)
        claim(out)
        with held(out) as hold:
            claim(out)
            run = run_on(loaded, artifact, setup, out, kept="out" in options, source=source)
            run.tasks.under(hold)
            return evaluate_on(run, loaded)


def evaluate_on(run: Run, artifact: Artifact | Packed) -> list[Row]:
    """Do what is left of an evaluation outside the run that made an artifact."""
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
    """The options that an artifact's labels were made with, as far as they may be taken over, and what is given in
    their place.

    Args:
        given: from the command line, ``group__name`` to value.
        selection: plugins to ask; none: those the labels were made with, as far as they are here and the record is the
            user's.
        environment: of which options are read; none.
        source: what may be taken over from the artifact.
        with_makers: ask the plugins the labels were made with too.

    Raises:
        InputError: nobody says which data, and none of their fingerprint are known here.
        PluginError: it holds no images, and no plugin that tests it is selected.
    """
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
    run = Run(setup, place, Reporter())
    without = isinstance(artifact, Artifact) and not artifact.labelled
    if not without and tuple(run.source.classes) != tuple(artifact.classes):
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
    check_rows(run.config, run.plugins)
    check_elsewhere(run)
    check_places(run)
    warn_of_machine(run)
    for line in source.remarks(run):
        run.say(line)
    run.tasks.way_on = run.tasks.way_on if kept else AGAIN
    with run.tasks.stoppable():
        write_artifact_record(run, url)
    return run


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
