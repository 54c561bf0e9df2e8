"""Other labels for a finished set: ``ddcore relabel``. Images are not touched; what was done, and to what,
is in the provenance."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ddcore.commands.evaluating import run_on, setup_on
from ddcore.commands.taken import taken
from ddcore.composing.recipes import RULES
from ddcore.errors import OptionError, near
from ddcore.runs import assembly
from ddcore.runs.provenance import weights_of
from ddcore.scoring.evaluate import recipe_for
from ddcore.sets.artifact import CARD, IMAGES, PARTS, PREVIEW, load_artifact, relabelled
from ddcore.sets.manifest import MANIFEST
from ddcore.storage.holding import MARKS, held
from ddcore.storage.places import Place, sha256_of
from ddcore.training.protocols import auto_protocol, subject_of

if TYPE_CHECKING:
    import torch

    from ddcore.composing.selection import Selection
    from ddcore.runs.run import Run
    from ddcore.sets.artifact import Artifact

HARD = "hard"


def relabel(
    url: str, selection: Selection, given: Mapping[str, Any], environment: Mapping[str, str], *, trust: bool = False
) -> Artifact:
    """Write an artifact once more, under other labels.

    Args:
        url: of the artifact.
        selection: plugins that answer; none: those the artifact was made with, where the run is this user's.
        given: what was on the command line, ``group__name`` to value; ``labels`` and ``out`` among it.
        trust: whether its manifest is followed in all that it says.

    Raises:
        OptionError: no such rule for labels, or none given.
        InputError: no artifact, other data than it was distilled from, or a folder that is in use.
    """
    artifact = load_artifact(url)
    source = taken(artifact.manifest, artifact.place, trust=trust)
    setup = setup_on(artifact, given, selection, environment, source=source)
    rule = _checked_rule(given.get("labels") or selection.first.labels, setup.plugins)
    if rule in RULES and source.weights and "teachers__weights" not in given:
        loaded = ", ".join(source.weights)
        raise OptionError(f"{url} was labelled by teachers with weights {loaded}: give --teachers.weights, or train")
    if not setup.config.out:
        raise OptionError("relabelling makes a new artifact and was not told where: give --out FOLDER")
    out = Place.at(setup.config.out)
    claim(out)
    with tempfile.TemporaryDirectory() as scratch, held(out, traceless=True) as hold:
        claim(out)
        run = run_on(artifact, url, setup, Place.at(scratch), kept=False, source=source)
        run.config = attrs.evolve(run.config, protocol=_protocols(run, artifact, rule))
        with run.tasks.stoppable():
            labels = run.label(_images(run, artifact), artifact.labels.classes.to(run.device))
            recipe = recipe_for(run, labels, artifact.learned_rate)
            run.tasks.stepping = (
                True  # a stop waits until all is written: the same command refuses a folder with a set in it
            )
            hold.check()
            return relabelled(artifact, out, labels, recipe=recipe, provenance=_provenance(artifact, run, rule))


def claim(out: Place) -> None:
    """Refuse a folder that is in use; what a relabelling left that was stopped in the middle of writing is written
    again."""
    if not (out.exists() and {IMAGES} <= {*out.names()} - MARKS <= {*PARTS, PREVIEW, CARD}):
        assembly.claim(out)


def _checked_rule(rule: str | None, plugins: Mapping[str, Any]) -> str:
    known = [HARD, *RULES, *(name for plugin in plugins.values() for name in plugin.labellers)]
    if rule is None:
        raise OptionError(f"relabelling was not told which labels to make: give --labels, one of {', '.join(known)}")
    if rule not in known:
        raise OptionError(f"--labels {rule!r} is offered by none of the selected plugins: {near(rule, known)}")
    return rule


def _protocols(run: Run, artifact: Artifact, rule: str) -> tuple[str, ...]:
    """Those asked for, else the recipe under which such labels were published."""
    rate, learned = artifact.learned_rate is not None, rule != HARD
    subject = subject_of(run, run.label_kind(rule), learned_rate=rate, learned_labels=learned)
    auto = auto_protocol(subject, run.plugins.values())
    return tuple(auto if name == "auto" else name for name in run.config.protocol or ("auto",))


def _images(run: Run, artifact: Artifact) -> torch.Tensor:
    """The decoded images as the run's teachers know images."""
    images = artifact.images().to(run.device, run.dtype)
    if run.normalisation.header() == artifact.normalisation.header():
        return images
    pixels: torch.Tensor = artifact.normalisation.inverse(images)
    return run.normalisation.apply(pixels)


def _provenance(artifact: Artifact, run: Run, rule: str) -> dict[str, Any]:
    made = artifact.manifest["provenance"]
    old = sha256_of((artifact.place / MANIFEST).read_bytes())
    done = {"labels": rule, "was": artifact.labels.kind, "manifest_sha256": old, "seed": run.seed}
    return {**made, "relabelled": [*made.get("relabelled", ()), {**done, **run.setup.as_json(), **weights_of(run)}]}
