"""The honest rows: what a finished set is worth, beside what one gets for nothing at the same cost.

For every protocol, network and seed a fresh student is trained on the distilled set; on as many random real images; on
as many chosen by k-center; on as many random ones as fit the artifact's bytes; and on all real images. All but the last
make the same number of optimiser steps, in batches of the same size, under the same augmentation. Every row exists with
hard labels; a set with soft labels is also set beside real images with the same labeller's soft labels, and beside
itself with hard ones. Labels of views bring batches and views of their own: all rows then take those batches, and hard
labels the protocol's views. The last epoch counts, on the whole test set; nothing is chosen on it.

Seed k's students begin from one initial network whatever they train on, and random subsets are redrawn for each seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor
from torch.nn import Module

from ddcore import randomness
from ddcore.api.services import StudentData
from ddcore.api.types import Answers, Arm, Row, Task
from ddcore.composing.plan import student_shapers
from ddcore.labels import HardLabels, Labels, PerView
from ddcore.scoring.baselines import kcenter_index, random_index, real_bytes
from ddcore.sets.artifact import Artifact, load_artifact
from ddcore.storage.keeping import kept, machine
from ddcore.storage.places import canonical, sha256_of
from ddcore.training.loop import WARM
from ddcore.training.protocols import HARD, Protocol, Schedule, auto_of, protocol, resolved_protocols
from ddcore.training.scores import Arrival, arrival
from ddcore.training.shaping import taught, visited
from ddcore.training.students import Course, changes_batches, draw_of, strategy_of, student_rate, train_and_test, whole

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run

VERSION = 2
DISTILLED, RANDOM, KCENTER, RANDOM_BYTES, FULL = "distilled", "random", "kcenter", "random-bytes", "full"
CORE_SETS = (DISTILLED, RANDOM, KCENTER, RANDOM_BYTES, FULL)
SOFT = "soft"
SELECT = "select"
PARTS = ("images", "labels", "models", "total")
FULL_IMAGES = 150_000
EXAMINED = "examined."
Result = Mapping[str, Tensor]


# ---- the driver's side -----------------------------------------------------------------------------------------------


def evaluate_artifact(run: Run) -> list[Row]:
    """Train every student that has no result yet, and make the rows."""
    artifact = artifact_of(run)
    arms = arms_of(run, artifact)
    count = len(arms) * run.config.eval_seeds
    run.say(f"evaluation: {count} students; all of a protocol make the same number of steps, but full")
    return score(run, arms, run.config.eval_seeds)


def score(run: Run, arms: Sequence[Arm], seeds: int) -> list[Row]:
    """A row for each arm; its students are trained, unless their results are there."""
    artifact = artifact_of(run)
    identity = identify(artifact)
    run.map([selection_task(identity)] if any(arm.set == KCENTER for arm in arms) else [])
    tasks = [task_of(arm, student, identity) for arm in arms for student in range(seeds)]
    left = not all(run.checkpoints.finished(task.key) for task in tasks)
    results = run.map(tasks, *(("evaluate", "students") if left else ()))
    return [row_of(run, artifact, arm, results[at * seeds : (at + 1) * seeds]) for at, arm in enumerate(arms)]


def task_of(arm: Arm, student: int, artifact: str) -> Task:
    """The task of one seed of an arm; ``artifact`` tells its results from those for another artifact in the same
    folder."""
    options = {**attrs.asdict(arm), "student": student, "artifact": artifact}
    name = sha256_of(canonical(options))[:12]
    return Task("evaluate", f"evaluate-{arm.set}-{arm.labels}-{student}-{name}", 1, index=student, options=options)


def recipe_for(run: Run, labels: Labels, rate: float | None) -> dict[str, Any]:
    """How to train on the artifact: what its manifest says, as JSON values, for people without ddcore too."""
    name = (run.config.protocol or ("auto",))[0]
    recipe = fitted(protocol(auto_of(run, labels, rate) if name == "auto" else name, run.hooks), labels)
    return {
        "protocol": recipe.name,
        "network": run.network_name,
        "epochs": recipe.epochs_run,
        "optimizer": recipe.optimizer,
        "rate": student_rate(recipe, rate)[0],
        "learned_rate": rate,
        **({"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {"betas": [0.9, 0.999]}),
        **({"nesterov": True} if recipe.nesterov else {}),
        "weight_decay": recipe.weight_decay,
        **({} if recipe.decay_biases else {"weight_decay_of": "tensors of two axes and more"}),
        "batch": recipe.batch,
        **({} if recipe.group is None else {"batch_norm_group": recipe.group}),
        **_rates(recipe),
        **_changes(recipe, run, labels),
        "labels": dict(labels.recipe),
    }


def _rates(recipe: Protocol) -> dict[str, Any]:
    warm = {"warmup_epochs": recipe.warmup, "warmup_from": WARM} if recipe.warmup else {}
    if recipe.schedule_name == "steps":
        return {
            "drop_after_epochs": [round(recipe.epochs * share) for share in recipe.drops],
            "drop": recipe.drop,
            **warm,
        }
    if recipe.schedule_name == "cosine":
        of = "step" if recipe.each_step else "epoch"
        floor = {"rate_at_the_end": recipe.floor} if recipe.floor else {}
        return {"schedule": f"cosine of the {of}", "stretch": recipe.stretch, **floor, **warm}
    return {"drop_after_epoch": recipe.epochs // 2 + 1, "drop": recipe.drop, **warm}


def _changes(recipe: Protocol, run: Run, labels: Labels) -> dict[str, Any]:
    if labels.own_views:
        return {"augment": []}
    views = draw_of(recipe, run)
    return {
        "augment": list(strategy_of(recipe, run)),
        **({} if views is None else {"views": views.header()}),
    }


def fitted(recipe: Protocol, labels: Labels) -> Protocol:
    """The protocol with the batches of labels that have their own:
    every row of it makes the steps that they ask for."""
    return attrs.evolve(recipe, batch=labels.record.batch) if isinstance(labels, PerView) else recipe


def arms_of(run: Run, artifact: Artifact) -> list[Arm]:
    """The rows to be, in the order of the table."""
    more = [name for name in run.config.baseline if name not in CORE_SETS]
    pairs = [(name, HARD) for name in (DISTILLED, RANDOM, KCENTER, *more, RANDOM_BYTES, FULL)]
    if artifact.labels.kind != HARD:
        soft = [(DISTILLED, SOFT)]
        if run.labeller == HARD:
            run.warn("no rule gives real images the set's soft labels, so random and kcenter have hard labels only")
        else:
            soft += [(name, SOFT) for name in (RANDOM, KCENTER, *more)]
        pairs = [*soft, *pairs]
    networks = run.config.eval_network or (run.network_name,)
    return [Arm(*pair, p.name, network) for p in resolved_protocols(run) for network in networks for pair in pairs]


def row_of(run: Run, artifact: Artifact, arm: Arm, results: Sequence[Result]) -> Row:
    """One line of ``scores.json`` from its seeds' results."""
    labels = artifact.labels.kind if arm.labels == SOFT else HARD
    used = measured(
        results, ("images", "rate"), run, set=arm.set, protocol=arm.protocol, network=arm.network, labels=labels
    )
    return attrs.evolve(used, note="; ".join(notes_on(run, artifact, arm, results)))


def measured(results: Sequence[Result], more: Sequence[str], run: Run, **said: Any) -> Row:
    """The row of some students: their accuracies, and what the first one's data and training cost.

    Args:
        results: of each seed.
        more: names of further numbers of the first.
        said: the row's words.
    """
    first = {name: float(value) for name, value in results[0].items() if value.dim() == 0}
    first["images"] = int(first["images"])
    return Row(
        **said,
        ipc=first["images"] / len(run.source.classes),
        bytes={part: int(first[f"bytes.{part}"]) for part in PARTS},
        values=tuple(float(result["accuracy"]) for result in results),
        steps=int(first["steps"]),
        seconds=sum(float(result["seconds"]) for result in results) / len(results),
        extra={name: first[name] if math.isfinite(first[name]) else None for name in more} | extras(results),
    )


def extras(results: Sequence[Result]) -> dict[str, Any]:
    """What else is known of a row's students, as JSON values, seed by seed.

    ``calibration_error``; ``class_accuracy``, in the order of the classes; ``time_to_accuracy`` in ``steps`` and
    ``seconds``, where a validation part was watched; and what plugins found, as ``PLUGIN.NAME``.
    """
    names = dict.fromkeys(name for result in results for name in result)
    found: dict[str, Any] = {}
    for name in ("calibration_error", "class_accuracy", *(n for n in names if n.startswith(EXAMINED))):
        if name in names:
            found[name.removeprefix(EXAMINED)] = [_rounded(result[name].tolist()) for result in results]
    if "watched.steps" in names:
        arrived = [_arrived(result) for result in results]
        found["time_to_accuracy"] = {
            "steps": [int(one.steps) for one in arrived],
            "seconds": [round(one.seconds, 3) for one in arrived],
        }
    return found


def _arrived(result: Result) -> Arrival:
    accuracies, steps, seconds = (result[f"watched.{name}"].tolist() for name in ("accuracy", "steps", "seconds"))
    return arrival(accuracies, steps, seconds)


def _rounded(value: Any) -> Any:
    """Numbers with six digits after the point, None for what is no number."""
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 6) if math.isfinite(value) else None


def divergence(results: Sequence[Result]) -> str:
    """What is to be said about students whose weights are no numbers; usually nothing."""
    diverged = sum(int(result["diverged"]) for result in results)
    return f"{diverged} of {len(results)} students diverged (weights not finite)" if diverged else ""


def notes_on(run: Run, artifact: Artifact, arm: Arm, results: Sequence[Result]) -> list[str]:
    """What a reader of this row has to know."""
    recipe, notes = fitted(protocol(arm.protocol, run.hooks), artifact.labels), []
    samples = run.source.samples
    if arm.set == KCENTER:
        on_features = _flag(run, selection_task(identify(artifact)))
        notes.append(
            "chosen on features of expert 0"
            if on_features
            else f"chosen on normalised {'pixels' if run.of_images else run.source.samples}"
        )
    if arm.set in run.config.baseline and arm.set not in CORE_SETS:
        notes.append(f"{samples} of this initialiser, each counted as a real one{' of uint8' if run.of_images else ''}")
    if arm.set == RANDOM_BYTES:
        each = "uint8 images" if run.of_images else f"{samples} of {run.source.price} bytes"
        notes.append(f"as many {each} as fit the artifact's {artifact.nbytes['total']:,} bytes")
    if arm.set == FULL:
        epochs = full_epochs(run, recipe)
        notes.append(
            f"all real {samples}, {epochs} epochs or as many steps as the other rows, whichever is more (--full-epochs)"
        )
    own = (arm.set, arm.labels) == (DISTILLED, SOFT) and artifact.labels.own_views
    if own and changes_batches(recipe, run):
        notes.append("the labels' own crops, mirrors and mixes stand in for the protocol's augmentation")
    if arm.labels == SOFT and arm.set != DISTILLED:
        notes.append(f"labelled by the rule {run.labeller!r}")
    if arm.set == DISTILLED and (problem := student_rate(recipe, artifact.learned_rate)[1]):
        notes.append(problem)
    if problem := divergence(results):
        notes.append(problem)
    return notes


# ---- one task --------------------------------------------------------------------------------------------------------


def run_evaluation_task(task: Task, run: Run) -> dict[str, Tensor]:
    """Train and test one student, or choose the k-center images that students share.

    Returns:
        ``accuracy``, ``calibration_error``, ``loss``, ``rate``, ``seconds``, 0-d float64; ``class_accuracy`` (K,)
        float64; ``steps``, ``images``, ``diverged``, ``bytes.*``, 0-d int64; ``watched.*`` (E,) where a validation part
        is; ``examined.PLUGIN.NAME``. Of a selection: ``index`` (N,) int64 into the train split and ``on_features``.
    """
    options = dict(task.options)
    if options.get("what") == SELECT:
        index, on_features = kcenter_index(run, artifact_of(run))
        return {"index": index, **whole({"on_features": int(on_features)})}
    arm = Arm(*(options[name] for name in ("set", "labels", "protocol", "network")))
    student, artifact = int(options["student"]), artifact_of(run)
    recipe = fitted(protocol(arm.protocol, run.hooks), artifact.labels)
    schedule = recipe.schedule(visited(run.plugins, len(artifact)))
    if arm.set == FULL:
        return full(run, arm, student, recipe, schedule, task.key)
    data = data_for(run, arm, student, artifact, options["artifact"])
    rate = student_rate(recipe, artifact.learned_rate)[0] if arm.set == DISTILLED else recipe.rate
    generator = partial(run.generator, "evaluate", student)
    look = partial(examined, run, arm, student, data)
    result = train_and_test(run, Course(arm.network, recipe, schedule, rate), data, generator, task.key, examine=look)
    return {**result, **sizes_of(data)}


def examined(
    run: Run, arm: Arm, student: int, data: StudentData, network: Module, answered: Answers
) -> dict[str, Tensor]:
    """What plugins find in a trained student, by ``examined.PLUGIN.NAME``."""
    if not run.hooks.providers("ddcore_examine"):
        return {}
    with torch.no_grad():
        found = run.hooks.examine(network.eval(), arm, student, data, answered, run)
    return {f"{EXAMINED}{who}.{name}": value.cpu() for who, all_of in found.items() for name, value in all_of.items()}


# ---- what students are trained on ------------------------------------------------------------------------------------


def data_for(run: Run, arm: Arm, student: int, artifact: Artifact, identity: str) -> StudentData:
    """The images and labels of every set but ``full``."""
    if arm.set == DISTILLED:
        labels = artifact.labels if arm.labels == SOFT else hard_labels(artifact.labels.classes, run)
        sizes = dict(artifact.nbytes)
        if arm.labels != artifact.labels.kind and arm.labels == HARD:
            sizes["labels"], sizes["models"] = labels.payload_bytes, 0
            sizes["total"] = sizes["images"] + sizes["labels"]
        return StudentData(artifact.images().to(run.device, run.dtype), labels, sizes)
    if arm.set not in CORE_SETS and (given := offered(run, arm.set, student)) is not None:
        return attrs.evolve(given, bytes=given.bytes or real_bytes(run, len(given.images), given.labels))
    if arm.set not in CORE_SETS:
        classes = artifact.labels.classes.cpu()
        images = run.initialize(classes, Task("evaluate", arm.set, 1, slot=student, classes=classes), arm.set)
        labels = run.label(images, classes.to(run.device)) if arm.labels == SOFT else hard_labels(classes, run)
        return StudentData(images, labels, real_bytes(run, len(classes), labels))
    if arm.set == KCENTER:
        index = run.checkpoints.result(selection_task(identity).key)["index"]
    else:
        index = random_index(run, artifact, student, by_bytes=arm.set == RANDOM_BYTES)
    images, classes = run.real.train.inputs(index), run.real.train.labels[index]
    labels = run.label(images, classes) if arm.labels == SOFT else hard_labels(classes, run)
    return StudentData(images, labels, real_bytes(run, len(index), labels))


def selection_task(identity: str) -> Task:
    """Choosing the k-center images, once for all students."""
    return Task("evaluate", f"evaluate-{KCENTER}-{identity}", 1, options={"what": SELECT, "artifact": identity})


# ---- full data, cached between runs ----------------------------------------------------------------------------------


def offered(run: Run, name: str, student: int) -> StudentData | None:
    """What the student of a number is trained on in a plugin's set; None where no selected plugin offers such a set."""
    if not any(name in plugin.student_sets for plugin in run.plugins.values()):
        return None
    with torch.no_grad():
        found = run.hooks.student_data(name, student, run)
    if found is not None and isinstance(found.images, Tensor):
        return attrs.evolve(found, images=found.images.to(run.device))
    return found


def full_epochs(run: Run, recipe: Protocol) -> int:
    """``--full-epochs``, else the protocol's, but no more than make ``FULL_IMAGES`` images:
    big data take hours on a CPU."""
    within = FULL_IMAGES // max(1, len(run.real.train))
    return int(run.config.full_epochs or max(1, min(recipe.full_epochs, within)))


def full(run: Run, arm: Arm, student: int, recipe: Protocol, base: Schedule, key: str) -> dict[str, Tensor]:
    """All real images, for as many steps as the others make or ``full_epochs`` epochs, whichever is more."""
    count = len(run.real.train)
    schedule = base.stretched(recipe.steps_of(full_epochs(run, recipe), count))
    labels = hard_labels(run.real.train.labels, run)
    data = StudentData(run.real.train, labels, real_bytes(run, count, labels))
    who = [impl.plugin_name for impl in run.hooks.providers("ddcore_examine")]
    shaped = {
        "version": VERSION,
        "data": run.source.fingerprint,
        "normalisation": run.real.normalisation.header(),
        "protocol": recipe.as_json(),
        "schedule": attrs.asdict(schedule),
        "network": arm.network,
        "student": student,
        "machine": machine(run.device, run.dtype),
        "plugins": [[name, attrs.asdict(plugin), run.seed] for name, plugin in student_shapers(run.plugins)],
        **({"teachers": run.teachers.identity()} if taught(run) else {}),
        **({"examined": [[name, attrs.asdict(run.plugins[name]), run.seed] for name in who]} if who else {}),
    }

    def trained() -> dict[str, Tensor]:
        generator = partial(randomness.generator, student, "full")
        look = partial(examined, run, arm, student, data)
        course = Course(arm.network, recipe, schedule, recipe.rate)
        return train_and_test(run, course, data, generator, key, examine=look)

    def numbers() -> dict[str, Tensor]:
        return {name: value.to(torch.float64) for name, value in trained().items()}

    return {**kept(run.cache, "full", shaped, numbers, note=run.warn), **sizes_of(data)}


# ---- small things ----------------------------------------------------------------------------------------------------


def artifact_of(run: Run) -> Artifact:
    """The run's artifact, read from its folder, or from where an evaluation found it,
    if this process did not make it."""
    if run.artifact is None:
        run.artifact = load_artifact(run.of_artifact or run.place / "artifact")
    return run.artifact


def identify(artifact: Artifact) -> str:
    """Twelve letters that tell this artifact from others."""
    return sha256_of(canonical(artifact.manifest))[:12]


def _flag(run: Run, selected: Task) -> bool:
    return bool(run.checkpoints.result(selected.key)["on_features"])


def hard_labels(classes: Tensor, run: Run) -> HardLabels:
    """The classes themselves."""
    return HardLabels(classes.cpu(), len(run.real.classes))


def sizes_of(data: StudentData) -> dict[str, Tensor]:
    """``images`` and ``bytes.*`` of a student's data, 0-d int64."""
    sizes = {part: int(data.bytes.get(part, 0)) for part in PARTS}
    return whole({"images": len(data.images), **{f"bytes.{part}": n for part, n in sizes.items()}})
