"""The honest rows: what a finished set is worth, beside what one gets for nothing at the same cost.

For every protocol, network and seed a fresh student is trained, by default (``--rows`` chooses), on the distilled set;
on as many random real images; on as many chosen by k-center; on as many random ones as fit the artifact's bytes; and on
all real images. All but the last, which takes epochs of its own, make the same number of optimiser steps, in batches of
the same size, under the same augmentation. Every row exists with hard labels; a set with soft labels is also set beside
real images with the same labeller's soft labels, and beside itself with hard ones. Labels of views bring batches and
views of their own: all rows then take those batches, and hard labels the protocol's views. A protocol with a probe also
says what that makes of an untrained network. The last epoch counts, on the whole test set, and on that of each of
``--evaluate-on``; nothing is chosen on it.

Seed k's students begin from one initial network whatever they train on, and random subsets are redrawn for each seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor
from torch.nn import Module

from ddcore import randomness
from ddcore.api.services import StudentData
from ddcore.api.types import Answers, Arm, Row, Task
from ddcore.composing.plan import BASELINES
from ddcore.errors import PluginError
from ddcore.labels import HardLabels, Labels, PerView
from ddcore.scoring.baselines import (
    NOISE,
    at_most,
    baseline_classes,
    bytes_of_a_pair,
    class_counts,
    random_index,
    real_bytes,
    sees_features,
    stored_as,
)
from ddcore.scoring.rows import (
    DISTILLED,
    FULL,
    RANDOM,
    RANDOM_BYTES,
    UNTRAINED,
    chosen_rows,
    initialisers_among,
    sets_of,
)
from ddcore.sets.artifact import Artifact, load_artifact
from ddcore.storage.keeping import kept, machine
from ddcore.storage.places import canonical, sha256_of
from ddcore.training.class_order import listed
from ddcore.training.loop import WARM
from ddcore.training.protocols import HARD, PRETRAIN, Protocol, Schedule, auto_of, protocol, resolved_protocols
from ddcore.training.scores import Arrival, arrival
from ddcore.training.shaping import student_identity, student_name, student_network, visited
from ddcore.training.students import (
    ELSEWHERE,
    PROBE,
    Course,
    changes_batches,
    draw_of,
    strategy_of,
    student_rate,
    tells,
    train_and_test,
    whole,
)

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run

VERSION = 2
SOFT = "soft"
PARTS = ("images", "labels", "models", "total")
FULL_IMAGES = 150_000
"""That students of all real images see at most, unless ``--full-epochs`` says how often they see each."""
EXAMINED = "examined."
KEPT = ("images", "rate", "probe", "student")
"""Extras of a row that hold whatever its students are measured by."""
LABELS = "labels"
"""In a result: the kind of labels that a plugin's set has, as the letters of its name."""
Result = Mapping[str, Tensor]
Look = Callable[[Module, Answers], Mapping[str, Tensor]]


# ---- the driver's side -----------------------------------------------------------------------------------------------


def evaluate_artifact(run: Run) -> list[Row]:
    """Train every student that has no result yet, and make the rows: of the test images, then of each of the run's
    other data."""
    artifact = artifact_of(run)
    arms = arms_of(run, artifact)
    count = len(arms) * run.config.eval_seeds
    but = ", but full" if any(arm.set == FULL for arm in arms) else ""
    run.say(f"evaluation: {count} students; all of a protocol make the same number of steps{but}")
    results = results_of(run, arms, run.config.eval_seeds)
    rows = rows_of(run, artifact, arms, results)
    others = [(number, other.name) for number, other in enumerate(run.elsewhere)]
    there = [elsewhere(row, found, *on) for on in others for row, found in zip(rows, results, strict=True)]
    return [*rows, *in_metrics(run, rows, results), *there]


def score(run: Run, arms: Sequence[Arm], seeds: int) -> list[Row]:
    """A row for each arm; its students are trained, unless their results are there."""
    artifact = artifact_of(run)
    results = results_of(run, arms, seeds)
    rows = rows_of(run, artifact, arms, results)
    return [*rows, *in_metrics(run, rows, results)]


def results_of(run: Run, arms: Sequence[Arm], seeds: int) -> list[list[Result]]:
    """Of each arm what its students came to; they are trained, unless their results are there."""
    identity, shaped = identify(artifact_of(run)), student_name(student_identity(run))
    tasks = [task_of(arm, student, identity, shaped) for arm in arms for student in range(seeds)]
    left = not all(run.checkpoints.finished(task.key) for task in tasks)
    results = run.map(tasks, *(("evaluate", "students") if left else ()))
    return [list(results[at * seeds : (at + 1) * seeds]) for at in range(len(arms))]


def task_of(arm: Arm, student: int, artifact: str, shaped: str = "") -> Task:
    """The task of one seed of an arm; ``artifact`` and ``shaped`` tell its results from those for another artifact, and
    of students that other plugins shaped, in the same folder."""
    options = {**attrs.asdict(arm), "student": student, "artifact": artifact, **({"shaped": shaped} if shaped else {})}
    name = sha256_of(canonical(options))[:12]
    return Task("evaluate", f"evaluate-{arm.set}-{arm.labels}-{student}-{name}", 1, index=student, options=options)


def recipe_for(run: Run, labels: Labels, rate: float | None) -> dict[str, Any]:
    """How to train on the artifact: what its manifest says, as JSON values, for people without ddcore too."""
    name = (run.config.protocol or ("auto",))[0]
    recipe = fitted(protocol(auto_of(run, labels, rate) if name == "auto" else name, run.hooks), labels)
    shaped = student_identity(run)
    return {
        "protocol": recipe.name,
        "network": student_network(shaped, run.network_name),
        **({"students": {"name": student_name(shaped), **shaped}} if shaped else {}),
        "epochs": recipe.epochs_run,
        "optimizer": recipe.optimizer,
        "rate": student_rate(recipe, rate)[0],
        "learned_rate": rate,
        **({"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {"betas": [0.9, 0.999]}),
        **({"nesterov": True} if recipe.nesterov else {}),
        "weight_decay": recipe.weight_decay,
        **({} if recipe.decay_biases else {"weight_decay_of": "tensors of two axes and more"}),
        "batch": recipe.batch,
        **({} if recipe.probe is None else {"probe": attrs.asdict(recipe.probe)}),
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
    soft = artifact.labels.kind != HARD
    real = real_rows(run)
    if soft and run.labeller == HARD and real:
        few = " and ".join([", ".join(real[:-1]), real[-1]] if real[1:] else real)
        run.warn(f"no rule gives real images the set's soft labels, so {few} have hard labels only")
    networks, protocols = run.config.eval_network or (run.network_name,), resolved_protocols(run)
    scored = [
        pairs_of(run, recipe, soft=soft and tells(artifact.labels, recipe), labelled=artifact.labelled)
        for recipe in protocols
    ]
    for recipe in protocols:
        if not tells(artifact.labels, recipe):
            run.warn(
                f"students that learn {artifact.labels.kind} labels tell no classes, and protocol {recipe.name!r} tests them as "
                f"they are, so that its rows have hard labels only: choose one that goes on to a probe, such as {PRETRAIN}"
            )
    return [
        Arm(*pair, recipe.name, network)
        for recipe, pairs in zip(protocols, scored, strict=True)
        for network in networks
        for pair in pairs
    ]


def real_rows(run: Run) -> list[str]:
    """The chosen rows that a rule can label as it labels the set."""
    names = chosen_rows(run.config)
    return [name for name in names if name in (RANDOM, *BASELINES, *initialisers_among(names, run.plugins))]


def pairs_of(run: Run, recipe: Protocol, *, soft: bool, labelled: bool = True) -> list[tuple[str, str]]:
    """Sets and labels of the rows of a protocol and a network.

    Args:
        soft: whether the set's labels are other than hard ones: those that can have such come first under them.
        labelled: whether it knows classes; else it has no row with hard labels, nor has what stands beside it.
    """
    names = chosen_rows(run.config, probed=recipe.probe is not None)
    able = (DISTILLED, *(() if run.labeller == HARD else real_rows(run))) if soft else ()
    hard = names if labelled else [name for name in names if name in (FULL, UNTRAINED)]
    return [*((name, SOFT) for name in names if name in able), *((name, HARD) for name in hard)]


def row_of(run: Run, artifact: Artifact, arm: Arm, results: Sequence[Result]) -> Row:
    """One line of ``scores.json`` from its seeds' results."""
    labels = artifact.labels.kind if arm.labels == SOFT else HARD
    if LABELS in results[0]:
        labels = bytes(results[0][LABELS].tolist()).decode()
    shaped = student_identity(run)
    network = student_network(shaped, arm.network)
    used = measured(
        results, ("images", "rate"), run, set=arm.set, protocol=arm.protocol, network=network, labels=labels
    )
    said, more = "; ".join(notes_on(run, artifact, arm, results)), {**used.extra, **probe_of(run, results)}
    return by_student(attrs.evolve(used, note=said, extra=more), student_name(shaped))


def rows_of(run: Run, artifact: Artifact, arms: Sequence[Arm], results: Sequence[Sequence[Result]]) -> list[Row]:
    """A row of accuracies for each arm."""
    return [row_of(run, artifact, arm, found) for arm, found in zip(arms, results, strict=True)]


def in_metrics(run: Run, rows: Sequence[Row], results: Iterable[Sequence[Result]]) -> list[Row]:
    """The same rows in each of the ``metrics`` that selected plugins measure, where every student has a number."""
    scored, made = list(zip(rows, results, strict=True)), []
    for who, plugin in run.plugins.items():
        for name, better in plugin.metrics.items():
            for row, found in scored:
                values = tuple(float(result.get(f"{EXAMINED}{who}.{name}", math.nan)) for result in found)
                if not all(map(math.isfinite, values)):
                    continue
                if min(values) < 0 or max(values) > 1:
                    raise PluginError(f"{run.hooks.who(who)} measures {name!r} as {values}: give fractions in [0, 1]")
                said = {"metric": name, "better": better, "values": values, "extra": _of_any_metric(row)}
                made.append(attrs.evolve(row, **said))
    return made


def _of_any_metric(row: Row) -> dict[str, Any]:
    """What a row's extras say of its students, whatever is measured."""
    return {name: value for name, value in row.extra.items() if name in KEPT}


def by_student(row: Row, name: str) -> Row:
    """A row that says under ``student`` who shaped its students; of plain ones as it is."""
    return attrs.evolve(row, extra={**row.extra, "student": name}) if name else row


def probe_of(run: Run, results: Sequence[Result]) -> dict[str, Any]:
    """What a row's probe was trained on and for how long, which is part of no set; nothing where there was none."""
    if f"{PROBE}images" not in results[0]:
        return {}
    images, steps = (int(results[0][f"{PROBE}{name}"]) for name in ("images", "steps"))
    return {"probe": {"images": images, "steps": steps, "bytes": images * bytes_of_a_pair(run)}}


def elsewhere(row: Row, results: Sequence[Result], number: int, name: str) -> Row:
    """The same students' row on other test data: of the run's ``elsewhere`` the one of a number."""
    of = f"{ELSEWHERE}{number}."
    there = [{n.removeprefix(of): value for n, value in result.items() if n.startswith(of)} for result in results]
    kept = _of_any_metric(row) | extras(there) | {"on": name}
    return attrs.evolve(row, values=tuple(float(each["accuracy"]) for each in there), extra=kept)


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
    each = stored_as(run) if run.of_images else f"{run.source.price} bytes"
    real = f"{each} {samples}" if run.of_images else f"{samples} of {each}"
    if arm.set in BASELINES:
        values = "pixels" if run.of_images else samples
        notes.append(f"chosen on {'features of expert 0' if sees_features(run) else f'normalised {values}'}")
    if initialisers_among([arm.set], run.plugins):
        notes.append(f"{samples} of this initialiser, each counted as a real one of {each}")
    if arm.set == RANDOM_BYTES:
        notes.append(f"as many {real} as fit the artifact's {artifact.nbytes['total']:,} bytes")
    if arm.set == UNTRAINED:
        notes.append("the network as initialised, trained on nothing")
    if arm.set not in (DISTILLED, RANDOM_BYTES, FULL, UNTRAINED) and (taken := taken_of_short(run, artifact, results)):
        notes.append(taken)
    if arm.set == FULL:
        epochs = full_epochs(run, recipe)
        few = epochs < (run.config.full_epochs or recipe.full_epochs)
        less = f", as many as {FULL_IMAGES:,} images make" if few else ""
        notes.append(f"all real {samples}, {epochs} epoch{'s' * (epochs != 1)} of its own{less} (--full-epochs)")
    if recipe.probe is not None and (used := probe_of(run, results).get("probe")):
        notes.append(
            f"a linear probe on its frozen features answers, after {used['steps']:,} of the steps on {used['images']:,} real "
            f"images ({used['bytes']:,} bytes that are not the set's)"
        )
    if arm.set == DISTILLED and artifact.real_count:
        unchanged = ", unchanged" if artifact.manifest["real"]["unchanged"] else ""
        notes.append(
            f"{artifact.real_count} of its {len(artifact)} {samples} are real ones, chosen from the train part{unchanged}"
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


def taken_of_short(run: Run, artifact: Artifact, results: Sequence[Result]) -> str:
    """How many real images of each class a row has that has all there are of some; nothing where it has as many as the
    set."""
    wanted = class_counts(run, artifact)
    there = at_most(wanted, run.real.counts())
    if int(results[0]["images"]) != sum(there) or there == wanted:
        return ""
    return f"all there are of classes that have fewer than the set: {listed([str(count) for count in there])}"


# ---- one task --------------------------------------------------------------------------------------------------------


def run_evaluation_task(task: Task, run: Run) -> dict[str, Tensor]:
    """Train and test one student.

    Returns:
        ``accuracy``, ``calibration_error``, ``loss``, ``rate``, ``seconds``, 0-d float64; ``class_accuracy`` (K,)
        float64; ``steps``, ``images``, ``diverged``, ``bytes.*``, 0-d int64; ``watched.*`` (E,) where a validation part
        is; ``probe.*`` where a probe answers; ``elsewhere.N.*`` of other test data; ``examined.PLUGIN.NAME``; and of a
        plugin's set ``labels``, their kind's name in UTF-8, uint8.
    """
    options = dict(task.options)
    arm = Arm(*(options[name] for name in ("set", "labels", "protocol", "network")))
    student, artifact = int(options["student"]), artifact_of(run)
    recipe = fitted(protocol(arm.protocol, run.hooks), artifact.labels)
    schedule = recipe.schedule(visited(run.plugins, len(artifact)))
    if arm.set == FULL:
        return full(run, arm, student, recipe, task.key)
    if arm.set == UNTRAINED:
        return untrained(run, arm, student, recipe, task.key)
    data = data_for(run, arm, student, artifact)
    rate = student_rate(recipe, artifact.learned_rate)[0] if arm.set == DISTILLED else recipe.rate
    generator = partial(run.generator, "evaluate", student)
    look = examining(run, arm, student, data)
    result = train_and_test(run, Course(arm.network, recipe, schedule, rate), data, generator, task.key, examine=look)
    kind = {LABELS: torch.tensor(list(str(data.labels.kind).encode()), dtype=torch.uint8)}
    return {**result, **sizes_of(data), **(kind if arm.set in sets_of(run.plugins) else {})}


def untrained(run: Run, arm: Arm, student: int, recipe: Protocol, key: str) -> dict[str, Tensor]:
    """The network that all rows of a seed begin with, trained on no image; a probe is trained all the same."""
    none = run.real.train.inputs(torch.arange(1))[:0]
    data = StudentData(none, hard_labels(torch.zeros(0, dtype=torch.int64), run), dict.fromkeys(PARTS, 0))
    course = Course(arm.network, recipe, Schedule(0), recipe.rate, plain=True)
    generator = partial(run.generator, "evaluate", student)
    return {**train_and_test(run, course, data, generator, key), **sizes_of(data)}


def examining(run: Run, arm: Arm, student: int, data: StudentData) -> Look | None:
    """What looks at a trained student and its answers; None where no selected plugin does."""
    return partial(examined, run, arm, student, data) if run.hooks.providers("ddcore_examine") else None


def examined(
    run: Run, arm: Arm, student: int, data: StudentData, network: Module, answered: Answers
) -> dict[str, Tensor]:
    """What plugins find in a trained student, by ``examined.PLUGIN.NAME``."""
    with torch.no_grad():
        found = run.hooks.examine(network.eval(), arm, student, data, answered, run)
    return {f"{EXAMINED}{who}.{name}": value.cpu() for who, all_of in found.items() for name, value in all_of.items()}


# ---- what students are trained on ------------------------------------------------------------------------------------


def data_for(run: Run, arm: Arm, student: int, artifact: Artifact) -> StudentData:
    """The images and labels of every set but ``full``."""
    if arm.set == DISTILLED:
        labels = artifact.labels if arm.labels == SOFT else hard_labels(artifact.labels.classes, run)
        sizes = dict(artifact.nbytes)
        if arm.labels != artifact.labels.kind and arm.labels == HARD:
            sizes["labels"], sizes["models"] = labels.payload_bytes, 0
            sizes["total"] = sizes["images"] + sizes["labels"]
        return StudentData(artifact.images().to(run.device, run.dtype), labels, sizes)
    if arm.set in sets_of(run.plugins) and (given := offered(run, arm.set, student)) is not None:
        return attrs.evolve(given, bytes=given.bytes or real_bytes(run, len(given.images), given.labels))
    if arm.set in (RANDOM, RANDOM_BYTES):
        index = random_index(run, artifact, student, by_bytes=arm.set == RANDOM_BYTES)
        images, classes = run.real.train.inputs(index), run.real.train.labels[index]
    else:
        classes = artifact.labels.classes.cpu() if arm.set == NOISE else baseline_classes(run, artifact)
        images = run.initialize(classes, Task("evaluate", arm.set, 1, slot=student, classes=classes), arm.set)
        classes = classes.to(run.device)
    labels = run.label(images, classes) if arm.labels == SOFT else hard_labels(classes, run)
    return StudentData(images, labels, real_bytes(run, len(classes), labels))


# ---- full data, cached between runs ----------------------------------------------------------------------------------


def offered(run: Run, name: str, student: int) -> StudentData | None:
    """What the student of a number is trained on in a plugin's set; None where no selected plugin offers such a set."""
    if name not in sets_of(run.plugins):
        return None
    with torch.no_grad():
        found = run.hooks.student_data(name, student, run)
    if found is not None and isinstance(found.images, Tensor):
        return attrs.evolve(found, images=found.images.to(run.device))
    return found


def full_epochs(run: Run, recipe: Protocol) -> int:
    """``--full-epochs``, else the protocol's, but no more than make ``FULL_IMAGES`` images:
    big data take hours on a CPU."""
    within = FULL_IMAGES // max(1, len(run.source.train))
    return int(run.config.full_epochs or max(1, min(recipe.full_epochs, within)))


def full_schedule(run: Run, recipe: Protocol) -> Schedule:
    """The protocol's rates on all real images, over ``full_epochs`` epochs: a matter of data and protocol alone."""
    count = len(run.source.train)
    return recipe.schedule(count).scaled(recipe.steps_of(full_epochs(run, recipe), count))


def full(run: Run, arm: Arm, student: int, recipe: Protocol, key: str) -> dict[str, Tensor]:
    """All real images, for epochs of their own; see ``full_epochs``."""
    count = len(run.real.train)
    schedule = full_schedule(run, recipe)
    labels = hard_labels(run.real.train.labels, run)
    data = StudentData(run.real.train, labels, real_bytes(run, count, labels))
    identity = student_identity(run)
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
        "plugins": [[name, values, run.seed] for name, values in identity.get("plugins", {}).items()],
        **({"teachers": identity["teachers"]} if "teachers" in identity else {}),
        **({"elsewhere": [other.source.fingerprint for other in run.elsewhere]} if run.elsewhere else {}),
        **({"examined": [[name, attrs.asdict(run.plugins[name]), run.seed] for name in who]} if who else {}),
    }

    def trained() -> dict[str, Tensor]:
        generator = partial(randomness.generator, student, "full")
        look = examining(run, arm, student, data)
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


def hard_labels(classes: Tensor, run: Run) -> HardLabels:
    """The classes themselves."""
    return HardLabels(classes.cpu(), len(run.real.classes))


def sizes_of(data: StudentData) -> dict[str, Tensor]:
    """``images`` and ``bytes.*`` of a student's data, 0-d int64."""
    sizes = {part: int(data.bytes.get(part, 0)) for part in PARTS}
    return whole({"images": len(data.images), **{f"bytes.{part}": n for part, n in sizes.items()}})
