"""``ddcore train``: a student on real data or on a finished set, with the labels and losses that plugins bring.

What a student is worth is seen beside the same student without plugins, under the same protocol, steps, seeds and
initial weights; on a finished set also beside random real images, with and without; and beside its teachers. Weights
are kept, so that a student may be the next one's teacher (``--teacher FILE``).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import attrs
import torch
from attrs import field, frozen
from attrs.validators import instance_of, optional
from torch import Tensor, nn

from ddcore.api.plugin import Plugin
from ddcore.api.services import Samples, StudentData
from ddcore.api.types import Arm, Batch, Progress, Row, Segment, Task, Unroll
from ddcore.commands.taken import taken
from ddcore.composing.loading import load_source
from ddcore.composing.plan import Plan, kinds_of, resolve_training, student_shapers
from ddcore.composing.selection import Selection, Setup, setup_from
from ddcore.composing.tables import row_json
from ddcore.config import OF_DATA
from ddcore.data.repeats import warnings_about
from ddcore.data.source import Part, Source
from ddcore.errors import InputError, OptionError, PluginError
from ddcore.labels import HardLabels
from ddcore.pages.report import write_report
from ddcore.runs.assembly import check_names, claim, data_lines
from ddcore.runs.opened import Opened, Whole
from ddcore.runs.record import write_record
from ddcore.runs.refusals import check_places, constant_warnings, warn_of_machine
from ddcore.scoring.baselines import at_most, random_index, real_bytes
from ddcore.scoring.evaluate import by_student, divergence, fitted, hard_labels, measured, sizes_of
from ddcore.scoring.validation import marked, warn_of_set
from ddcore.sets.artifact import Artifact, load_artifact
from ddcore.sets.manifest import read_manifest
from ddcore.storage.places import Place, default_cache, read_metadata
from ddcore.storage.progress import Reporter
from ddcore.storage.published import published_source
from ddcore.storage.weights import load_weights, save_weights
from ddcore.training.class_order import facts_of, names_in, put_in_order, refuse_other_order
from ddcore.training.loop import accuracy
from ddcore.training.protocols import Protocol, protocol, resolved_protocols
from ddcore.training.shaping import student_identity, student_name, student_network, visited
from ddcore.training.students import Course, train_and_test

STUDENT, PLAIN, RANDOM, RANDOM_PLAIN = "student", "plain", "random", "random, plain"
ON_REAL = "stepwise"
"""The protocol of students unless another is asked for."""
KEPT = ("dataset", "data_root", "split", "validation", "resize", "resize_mode", "mirror", "skip_broken", "normalise")
"""Of a finished set's own run, what says which data it was distilled from."""


@frozen
class Lesson:
    """What is trained on, beside the shared options: part of ``run.json``.

    Attributes:
        artifact: URL of a finished set; None for real data.
        per_class: real images of each class, drawn anew for each seed; None for all.
        plain: whether the student without plugins is trained too.
        start: file with weights that students begin with; None: they are drawn.
        on: data whose train images take the place of the task's; their labels are not used. None: the task's own.
    """

    artifact: str | None = field(default=None, validator=optional(instance_of(str)))
    per_class: int | None = field(default=None, validator=optional(instance_of(int)))
    plain: bool = field(default=True, validator=instance_of(bool))
    start: str | None = field(default=None, validator=optional(instance_of(str)))
    on: str | None = field(default=None, validator=optional(instance_of(str)))


class TrainingRun(Opened):
    """A run that trains students and distils nothing."""

    lesson: Lesson

    @cached_property
    def plan(self) -> Plan:
        """Who labels, teaches and shapes students; there is no matcher."""
        return resolve_training(self.hooks, self.plugins, self.network_name, self.config.labels)

    @property
    def network_name(self) -> str:
        """The student."""
        return str(self.config.network)

    @property
    def matcher(self) -> Plugin:
        """None: a plugin that learns nothing stands for it."""
        return Plugin()

    @property
    def matcher_name(self) -> str:
        """As messages name it."""
        return "a training run"

    @property
    def labeller(self) -> str:
        """Which rule labels images that bring no labels."""
        return self.config.labels or self.plan.labeller

    def initialize(self, classes: Tensor, task: Task, name: str | None = None) -> Tensor:
        """There are no synthetic images to begin with."""
        raise _nothing_to_distil("initial images")

    def view(self, batch: Batch, phase: str) -> Batch:
        """There is no synthetic batch to show."""
        raise _nothing_to_distil("views")

    def segment(self, segment: Segment, unroll: Unroll, network: nn.Module, task: Task, progress: Progress) -> Segment:
        """Nothing is imitated."""
        raise _nothing_to_distil("stretches of experts")

    def matching_loss(self, images: Tensor, classes: Tensor, step: int = 0) -> float | None:
        """Nothing is matched."""
        return None

    def arm(self, set: str, labels: str = "hard") -> Arm:
        """Students of this run are no evaluation's."""
        raise _nothing_to_distil("arms of an evaluation")

    def score(self, arms: Sequence[Arm], seeds: int | None = None) -> list[Row]:
        """Students of this run are no evaluation's."""
        raise _nothing_to_distil("rows of an evaluation")

    @cached_property
    def taught_on(self) -> Artifact | None:
        """The finished set, if it is one.

        Raises:
            InputError: its classes are not the data's.
        """
        if self.lesson.artifact is None:
            return None
        loaded = load_artifact(self.lesson.artifact)
        if tuple(loaded.classes) != tuple(self.source.classes):
            raise InputError(
                f"{self.lesson.artifact} has other classes than {self.config.dataset!r}: give its own --dataset"
            )
        return loaded

    @cached_property
    def foreign(self) -> Source | None:
        """Where the images come from, if not from the task; of the task's size.

        Raises:
            InputError: they have other channels, or are no images.
        """
        if self.lesson.on is None:
            return None
        options = {name: getattr(self.config, name) for name in OF_DATA} | {"split": None, "resize": self.source.size}
        found = load_source(self.hooks, self.lesson.on, options)
        if not self.of_images or (found.modality, found.channels) != ("images", self.source.channels):
            has = f"{self.lesson.on!r} holds {found.modality} of {found.channels} channels"
            raise InputError(
                f"{has}, and {self.config.dataset!r} {self.source.modality} of {self.source.channels}: name others by --on"
            )
        return found


def _nothing_to_distil(what: str) -> PluginError:
    return PluginError(f"a plugin asks a training run for {what}, which only `ddcore run` has: leave that plugin out")


@frozen(eq=False)
class Chosen:
    """Some of the real images: ``Samples``."""

    part: Samples
    index: Tensor

    @property
    def labels(self) -> Tensor:
        """(n,) int64."""
        return self.part.labels[self.index]

    def __len__(self) -> int:
        return len(self.index)

    def inputs(self, index: Tensor) -> Tensor:
        """Images (n, C, H, W), normalised."""
        return self.part.inputs(self.index[index.to(self.index.device)])


@frozen(eq=False)
class Unlabelled:
    """Images whose own classes are nobody's business: ``Samples``."""

    part: Samples
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, index: Tensor) -> Tensor:
        """Images (n, C, H, W), normalised."""
        return self.part.inputs(index)


# ---- from a command line to a run ------------------------------------------------------------------------------------


def begin(
    selection: Selection, given: Mapping[str, Any], lesson: Lesson, teachers: Sequence[str], command: list[str]
) -> TrainingRun:
    """Check everything that can be checked without work, then claim a folder.

    Args:
        given: from the command line, ``group__name`` to value.
        teachers: NAME of a network to train here, FILE of a student's or NAME=FILE.

    Raises:
        OptionError: teachers that nobody asks; InputError: data or files that are not there.
    """
    selection = attrs.evolve(selection, first=attrs.evolve(selection.first, preset="none"))
    given = {"protocol": (ON_REAL,), **given}
    if teachers:
        if "teachers" not in selection.groups:
            raise OptionError("--teacher was given, and no plugin asks teachers: add --plugin kd, or --labels per-view")
        named = [teacher_of(word) for word in teachers]
        given |= {"teachers__networks": tuple(n for n, _ in named), "teachers__weights": tuple(w for _, w in named)}
    setup = setup_from(selection, given, dict(os.environ))
    place = Place.at(setup.config.out) if setup.config.out else _free_folder(setup.config.network, selection)
    run = TrainingRun(setup, place, Reporter())
    run.lesson = lesson
    plan = run.plan
    check_names(run)
    _check_modality(run)
    _ = run.taught_on
    _check_counts(run)
    _check_foreign(run)
    check_places(run)
    claim(place)
    run.say(f"train: {run.network_name} on {lesson.artifact or run.config.dataset}, seed {run.seed}")
    for line in plan.lines():
        run.say(line)
    for line in data_lines(run.source):
        run.say(line)
    for warning in constant_warnings(run.source):
        run.warn(warning)
    warn_of_machine(run)
    with run.tasks.stoppable(), run.tasks.claiming():
        claim(place)
        write_record(run, command, train=attrs.asdict(lesson))
    return run


def reopened(setup: Setup, place: Place, reporter: Reporter | None, lesson: Mapping[str, Any]) -> TrainingRun:
    """A training run from its record."""
    run = TrainingRun(setup, place, reporter)
    run.lesson = Lesson(**lesson)
    return run


def of_artifact(
    url: str, given: Mapping[str, Any], classes: Mapping[str, Any], *, trust: bool = False
) -> dict[str, Any]:
    """The data and the recipe of a finished set as options, as far as they may be taken over; see
    ``ddcore.commands.taken``.

    Args:
        given: from the command line, ``group__name`` to value: it counts before all that is taken.
        classes: of the selected plugins.
        trust: whether its manifest is followed in all that it says.

    Raises:
        InputError: no set; nobody says which data, and none of their fingerprint are known here.
    """
    place = Place.at(url)
    source = taken(read_manifest(place), place, trust=trust)
    config = source.config({})
    kept = KEPT if config.get("validation") is None else (*KEPT, "seed")  # the seed says which images it is
    found = {name: config[name] for name in kept if name in config}
    if "dataset" not in given:
        found |= source.data(given.get("cache") or default_cache())
        if "dataset" not in found:
            raise source.unknown_data()
    asked = {} if "protocol" in given else {"protocol": (source.protocol(classes),)}
    return {**found, **asked, **given}


def teacher_of(word: str) -> tuple[str, str]:
    """Network and weights of a ``--teacher``.

    >>> teacher_of("resnet56"), teacher_of("resnet56=w.pth")
    (('resnet56', 'train'), ('resnet56', 'w.pth'))

    Raises:
        InputError: a file that does not say which network it is of.
    """
    name, equals, file = word.partition("=")
    if equals:
        return name, file
    if not word.endswith(".safetensors"):
        return word, "train"
    network = read_metadata(Place.at(word)).get("network")
    if network is None:
        raise InputError(f"{word} does not say which network it is of: write --teacher NAME={word}")
    return network, word


def _free_folder(network: str, selection: Selection) -> Place:
    stem, number = "-".join(["train", network.replace(":", "-"), *selection.classes]), 1
    while (place := Place.at("runs") / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return place


def _check_modality(run: TrainingRun) -> None:
    if not run.source.labelled:
        raise InputError(f"students learn classes, and {run.config.dataset!r} has none: give labelled data")
    kind = run.source.modality
    for name, plugin in student_shapers(run.plugins):
        if not plugin.modality & kinds_of(run.source):
            held = f"{run.hooks.who(name)} works on {', '.join(sorted(plugin.modality))}, and {run.config.dataset!r} holds {kind}"
            raise PluginError(f"{held}: leave out --plugin {name}")
    if run.of_images:
        return
    try:
        with torch.no_grad():
            run.network(run.generator("check")).eval()(run.real.train.inputs(torch.arange(1)))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        what = f"network {run.network_name!r} cannot take {kind} ({type(error).__name__})"
        raise InputError(f"{what}: choose a --student that a plugin brings for it") from error


def _check_counts(run: TrainingRun) -> None:
    wanted, counts = run.lesson.per_class, run.source.counts()
    if wanted is None or wanted <= min(counts):
        return
    if wanted > max(counts):
        name = run.source.classes[counts.index(max(counts))]
        raise InputError(
            f"--per-class {wanted} asks for more images than class {name!r}, the largest, has ({max(counts)}): lower it"
        )
    short = [count for count in counts if count < wanted]
    run.warn(
        f"{len(short)} of {len(counts)} classes have fewer images than --per-class {wanted}: all of theirs are taken"
    )


def _check_foreign(run: TrainingRun) -> None:
    learned = math.prod(plugin.label_factor() for _, plugin in student_shapers(run.plugins))
    if run.foreign is not None and run.labeller == "hard" and learned:
        way_out = "add kd3, or kd with --kd.label-weight 0, or let teachers label them by --labels averaged"
        raise OptionError(
            f"labels of {run.lesson.on!r} are not those of {run.config.dataset!r}, and students would learn them: {way_out}"
        )


# ---- the driver's side -----------------------------------------------------------------------------------------------


def train(run: TrainingRun) -> list[Row]:
    """Train every student that has no result yet; writes ``scores.json`` and ``students/``."""
    with run.tasks.at_work(run.cache):
        return _train(run)


def _train(run: TrainingRun) -> list[Row]:
    began = time.time()
    run.log("begin", what="train", seed=run.seed)
    for warning in warnings_about(run.source):
        run.warn(warning)
    check_start(run)
    rows, arms, each = teacher_rows(run), arms_of(run), run.config.eval_seeds
    tasks = [task_of(name, arm, seed) for name in protocols(run) for arm in arms for seed in range(each)]
    results = run.map(tasks, "train", "students")
    for at in range(0, len(tasks), each):
        rows.append(row_of(run, tasks[at], results[at : at + each]))
    if run.taught_on is not None:
        warn_of_set(run, run.taught_on)
    rows = marked(run, rows)
    for row in rows:
        run.log("row", **row_json(row))
    scores = {"dataset": published_source(run.source.summary()), "rows": [row_json(r) for r in rows]}
    scores |= {"warnings": run.tasks.warned()}
    scores |= {} if run.foreign is None else {"on": published_source(run.foreign.summary())}
    (run.place / "scores.json").write_json(scores)
    write_report(run.place)
    run.log("done", seconds=round(time.time() - began, 3))
    return rows


def protocols(run: TrainingRun) -> list[str]:
    """Names of those asked for."""
    return [recipe.name for recipe in resolved_protocols(run)]


def arms_of(run: TrainingRun) -> list[str]:
    """Which students are trained."""
    untold = run.foreign is not None and run.labeller == "hard"
    plain = run.lesson.plain and bool(student_shapers(run.plugins)) and not untold
    arms = [STUDENT, *([PLAIN] if plain else [])]
    return arms if run.taught_on is None else [*arms, RANDOM, *([RANDOM_PLAIN] if plain else [])]


def task_of(protocol_name: str, arm: str, seed: int) -> Task:
    """The task of one student."""
    key = f"train-{protocol_name}-{arm.replace(', ', '-')}-{seed}"
    return Task("train", key, 1, index=seed, options={"protocol": protocol_name, "arm": arm, "student": seed})


def row_of(run: TrainingRun, task: Task, results: Sequence[Mapping[str, Tensor]]) -> Row:
    """One line of ``scores.json``."""
    arm, name = task.options["arm"], task.options["protocol"]
    words = {"set": arm, "protocol": name, "network": run.network_name, "labels": _label_kind(run, arm)}
    shaped = {} if arm in (PLAIN, RANDOM_PLAIN) else student_identity(run)
    words["network"] = student_network(shaped, run.network_name)
    row = attrs.evolve(measured(results, ("images", "loss"), run, **words), note=divergence(results))
    return by_student(row, student_name(shaped))


def _label_kind(run: TrainingRun, arm: str) -> str:
    if run.taught_on is not None and arm in (STUDENT, PLAIN) and run.config.labels is None:
        return run.taught_on.labels.kind
    if run.foreign is not None and run.labeller == "hard":
        return "none"
    return run.label_kind(run.labeller)


def teacher_rows(run: TrainingRun) -> list[Row]:
    """What the teachers score on the test set."""
    if "teachers" not in run.plan.needs:
        return []
    run.say(f"teachers: {run.teachers.said}")
    scores = [accuracy(run.teachers.network(n), run.real.test) for n in range(len(run.teachers))]
    return [
        Row("teacher", "its own", name, "hard", 0.0, {"total": run.teachers.nbytes(n)}, (score,), 0, 0.0)
        for n, (name, score) in enumerate(zip(run.teachers.names, scores, strict=True))
    ]


# ---- one task --------------------------------------------------------------------------------------------------------


def run_training_task(task: Task, run: Whole) -> dict[str, Tensor]:
    """Train and test one student; its weights are kept under ``students/``."""
    if not isinstance(run, TrainingRun):
        raise PluginError(f"{run.place.url} is no training run: begin one with `ddcore train`")
    arm, seed = str(task.options["arm"]), int(task.options["student"])
    data = data_for(run, arm, seed)
    recipe: Protocol = fitted(protocol(str(task.options["protocol"]), run.hooks), data.labels)
    schedule = recipe.schedule(visited(run.plugins, len(data.images)))
    result = train_and_test(
        run,
        Course(run.network_name, recipe, schedule, recipe.rate, plain=arm in (PLAIN, RANDOM_PLAIN)),
        data,
        partial(run.generator, "train", seed),
        task.key,
        start=None if run.lesson.start is None else partial(begin_with, run, run.lesson.start),
        keep=lambda network: keep(run, network, arm, seed),
    )
    return {**result, **sizes_of(data)}


def begin_with(run: TrainingRun, file: str, network: nn.Module) -> None:
    """Put the weights that students begin with into one, its outputs in the order of the data's classes.

    Raises:
        InputError: none there, or of another network; its classes are in another order and nobody can move them.
    """
    if (names := names_in(load_weights(Place.at(file), network))) is not None:
        put_in_order(network, names, run, f"the network of {file}")


def check_start(run: TrainingRun) -> None:
    """Refuse weights to begin with that are in another order of classes, before anybody is trained.

    Raises:
        InputError: see ``refuse_other_order`` and ``begin_with``.
    """
    if run.lesson.start is not None:
        network = run.network(run.generator("train", "start"))
        begin_with(run, run.lesson.start, network)
        refuse_other_order(network, run, f"the network of {run.lesson.start}")


def data_for(run: TrainingRun, arm: str, seed: int) -> StudentData:
    """Images and labels of an arm; the same for a student with and without plugins."""
    artifact, rule = run.taught_on, run.config.labels
    if artifact is not None and arm in (STUDENT, PLAIN):
        images = artifact.images().to(run.device, run.dtype)
        labels = artifact.labels if rule is None else run.label(images, artifact.labels.classes.to(run.device))
        return StudentData(images, labels, {**artifact.nbytes, "labels": labels.payload_bytes})
    if artifact is not None:
        index = random_index(run, artifact, seed, by_bytes=False)
    elif run.foreign is not None:
        return foreign_data(run, run.foreign)
    elif run.lesson.per_class is None:
        index = torch.arange(len(run.real.train))
    else:
        drawn = run.generator("train", "subset", seed)
        counts = at_most([run.lesson.per_class] * len(run.source.classes), run.source.counts())
        index = torch.cat([run.real.choose(cls, count, drawn) for cls, count in enumerate(counts)])
    chosen = Chosen(run.real.train, index)
    if run.labeller == "hard":
        hard: HardLabels = hard_labels(chosen.labels, run)
        return StudentData(chosen, hard, real_bytes(run, len(index), hard))
    images = chosen.inputs(torch.arange(len(index)))
    labels = run.label(images, chosen.labels)
    return StudentData(images, labels, real_bytes(run, len(index), labels))


def foreign_data(run: TrainingRun, foreign: Source) -> StudentData:
    """All train images of another source under the task's normalisation,
    with teachers' labels or none (class 0 stands for none)."""
    part = Part(foreign.train, run.normalisation, run.device, run.dtype)
    none = torch.zeros(len(part), dtype=torch.int64)
    hard: HardLabels = hard_labels(none, run)
    if run.labeller == "hard":
        images_alone = real_bytes(run, len(part), hard)["images"]
        return StudentData(Unlabelled(part, none), hard, {"images": images_alone, "total": images_alone})
    images = part.inputs(torch.arange(len(part)))
    labels = run.label(images, none)
    return StudentData(images, labels, real_bytes(run, len(part), labels))


def keep(run: TrainingRun, network: nn.Module, arm: str, seed: int) -> None:
    """Write a student's weights, with what is needed to use them as a teacher's."""
    source = run.source
    facts = {"network": run.network_name, "dataset": source.name, "classes": str(len(source.classes))}
    facts |= {"channels": str(source.channels), "size": str(source.size)}
    facts |= {"normalisation": json.dumps(run.normalisation.header()), **facts_of(source.classes)}
    save_weights(run.place / "students" / f"{arm.replace(', ', '-')}-{seed}.safetensors", network, facts)
