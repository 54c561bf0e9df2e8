"""One student by a protocol: its training, what changes its batches, its test.

Recipes are in ``ddcore.training.protocols``, the descent itself in ``ddcore.training.loop``; who is trained on what is
up to ``ddcore.scoring.evaluate`` and ``ddcore.commands.train``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

import attrs
import torch
from attrs import frozen
from torch import Tensor
from torch.nn import Module

from ddcore.api.services import StudentData
from ddcore.api.types import EVALUATE, Answers, Progress, Sequential, Transform
from ddcore.composing.plan import augmenters
from ddcore.errors import InputError
from ddcore.images import augment
from ddcore.images.views import Draw, transform
from ddcore.labels import Labels
from ddcore.training.loop import (
    Augment,
    Changes,
    Descent,
    Epoch,
    Generators,
    Keeper,
    answers_of,
    is_finite,
    train_student,
)
from ddcore.training.probing import probed
from ddcore.training.protocols import FIELD_RATE, PRETRAIN, Protocol, Schedule
from ddcore.training.scores import calibration_error, class_accuracy
from ddcore.training.shaping import Shape, shaped
from ddcore.training.watching import Watch

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run

CURVE = 50
"""Points of a student's curve in the log."""
PROBE, ELSEWHERE = "probe.", "elsewhere."
"""Before what a result says of a probe, and of the run's other test data by number: ``elsewhere.0.accuracy``."""


@frozen(eq=False)
class Course:
    """How a student is trained.

    Attributes:
        network: its name.
        rate: of its first steps.
        plain: without what plugins make of it.
    """

    network: str
    recipe: Protocol
    schedule: Schedule
    rate: float
    plain: bool = False


def train_and_test(
    run: Run,
    course: Course,
    data: StudentData,
    generator: Generators,
    key: str,
    *,
    start: Callable[[Module], None] | None = None,
    keep: Callable[[Module], None] | None = None,
    examine: Callable[[Module, Answers], Mapping[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """One fresh student by the protocol.

    Args:
        generator: all randomness: asked for ("init"), ("order", epoch), ("augment", step).
        key: of its task, under which it is kept while it is trained.
        start: puts weights into the student as initialised.
        keep: handed the trained student.
        examine: handed it and its answers to the test images, for more of the result.
    """
    refuse_unscored(data.labels, course.recipe)
    wide = data.labels.width != len(run.source.classes)
    network = run.network(generator("init"), course.network, **({"classes": data.labels.width} if wide else {}))
    if start is not None:
        start(network)
    of_itself = run.source.carved and course.recipe.probe is None
    watched = Watch(run.real.test, course.schedule.steps) if of_itself else None
    began = time.perf_counter()
    network, last = _trained(run, course, data, generator, key, network, watched)
    if keep is not None:
        keep(network)
    counts = {"steps": course.schedule.steps, "diverged": int(not is_finite(network))}
    if course.recipe.probe is not None:
        given = len(run.source.classes), course.recipe.probe, generator, run.check_stop
        network, used = probed(network, run.real.train, *given)
        counts |= {"steps": counts["steps"] + used["steps"]} | {f"{PROBE}{name}": n for name, n in used.items()}
    seconds = watched.kept["total"] if watched else time.perf_counter() - began
    found = answers_of(network, run.real.test, with_logits=examine is not None)
    numbers = {"loss": last.loss if last else math.nan, "rate": course.rate, "seconds": seconds}
    result = {n: torch.tensor(v, dtype=torch.float64) for n, v in numbers.items()} | whole(counts)
    result |= scored(found, len(run.source.classes))
    result |= watched.tensors() if watched and watched.kept["steps"] else {}
    for number, other in enumerate(run.elsewhere):
        answered = scored(answers_of(network, other.samples), len(run.source.classes))
        result |= {f"{ELSEWHERE}{number}.{name}": value for name, value in answered.items()}
    return {**result, **(examine(network, found) if examine else {})}


def tells(labels: Labels, recipe: Protocol) -> bool:
    """Whether a student that was taught these labels tells classes in the end: of itself, or by a probe."""
    return labels.of_classes or recipe.probe is not None


def refuse_unscored(labels: Labels, recipe: Protocol) -> None:
    """Refuse to score by classes what was taught none.

    Raises:
        InputError: the labels are no classes, and the protocol ends with them.
    """
    if not tells(labels, recipe):
        raise InputError(
            f"students that learn {labels.kind} labels tell no classes, and protocol {recipe.name!r} tests them as they are: "
            f"choose one that goes on to a probe, such as --protocol {PRETRAIN}"
        )


def scored(found: Answers, classes: int) -> dict[str, Tensor]:
    """``accuracy`` and ``calibration_error``, 0-d float64, and ``class_accuracy`` (K,) float64 of some answers."""
    numbers = {"accuracy": found.accuracy, "calibration_error": calibration_error(found.confidence, found.right)}
    of_class = {"class_accuracy": class_accuracy(found.classes, found.labels, classes)}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()} | of_class


def _trained(
    run: Run,
    course: Course,
    data: StudentData,
    generator: Generators,
    key: str,
    network: Module,
    watched: Watch | None,
) -> tuple[Module, Epoch | None]:
    """The student, or what plugins put around it, trained to the end; and its last epoch."""
    recipe, schedule, rate, plain = course.recipe, course.schedule, course.rate, course.plain
    said = curve(run, task=key, protocol=recipe.name, network=course.network, of=schedule.steps)
    last: list[Epoch] = []

    def watch(epoch: Epoch) -> None:
        last[:] = [epoch]
        seen = watched.look(network, epoch) if watched else None
        said(epoch, **({} if seen is None else {"validation": seen}))

    lesson = shaped(run, network, data.images, data.labels, generator, schedule.steps, rate)
    with nullcontext(Shape(network)) if plain else lesson as shape:
        network = shape.network
        train_student(
            network,
            data.images,
            data.labels,
            attrs.evolve(descent_of(recipe, schedule, rate), whole=shape.whole, amp=run.config.amp),
            generator=generator,
            changes=Changes(
                augment=augmentation(recipe, run, generator, schedule.steps, data.labels, plain=plain),
                reshape=shape.reshape,
                choose=shape.choose,
                also=shape.beside,
            ),
            keeper=Keeper(
                run.checkpoints, key, lambda: run.stopping, run.check_stop, {"watched": watched.kept} if watched else {}
            ),
            on_epoch=watch,
        )
    return network, last[0] if last else None


def curve(run: Run, of: int, **words: str) -> Callable[..., None]:
    """What writes about ``CURVE`` epochs of a training to the run's log: their losses and what else is given, nothing
    of the test set.

    Args:
        of: steps in all.
        words: which training it is.
    """
    reached = -1

    def say(epoch: Epoch, **more: float) -> None:
        nonlocal reached
        if (mark := epoch.steps * CURVE // max(1, of)) > reached:
            reached = mark
            run.log("epoch", **words, epoch=epoch.number, steps=epoch.steps, loss=epoch.loss, **more)

    return say


def descent_of(recipe: Protocol, schedule: Schedule, rate: float) -> Descent:
    """A protocol's training at a rate."""
    return Descent(
        steps=schedule.steps,
        batch=recipe.batch,
        rate=rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        drop_at=schedule.drop_at,
        drops=schedule.drops,
        drop=recipe.drop,
        optimizer=recipe.optimizer,
        decay_biases=recipe.decay_biases,
        schedule=recipe.schedule_name,
        stretch=recipe.stretch,
        per_epoch=schedule.epoch,
        warmup=schedule.warmup,
        group=recipe.group,
        floor=recipe.floor,
        nesterov=recipe.nesterov,
    )


def student_rate(recipe: Protocol, learned: float | None) -> tuple[float, str]:
    """The distilled set's rate under a protocol, and what is to be said about it (usually nothing)."""
    if not recipe.learned_rate or learned is None:
        return recipe.rate, ""
    if not (math.isfinite(learned) and learned > 0):
        return FIELD_RATE, f"the learned rate {learned:g} cannot train anything, {FIELD_RATE:g} was used"
    return learned, ""


def strategy_of(recipe: Protocol, run: Run) -> tuple[str, ...]:
    """The protocol's augmentations for these data: mirroring is left out where it changes the class; none for other
    data than images."""
    if recipe.augment == "none" or not run.of_images:
        return ()
    if recipe.augment == "geometric":
        return augment.MNIST_OPS
    if recipe.augment == "jitter":
        return augment.BATCHNORM_OPS
    return augment.DSA_COLOUR if run.source.mirror_symmetric else augment.DSA_DIGITS


def draw_of(recipe: Protocol, run: Run) -> Draw | None:
    """The protocol's views for these data: no mirror where it changes the class, no shift by more than an eighth."""
    if recipe.views is None or not run.of_images:
        return None
    return recipe.views.fitting(run.source.size, run.source.mirror_symmetric)


def changes_batches(recipe: Protocol, run: Run) -> bool:
    """Whether the protocol augments, shuffles or mixes."""
    return bool(strategy_of(recipe, run)) or draw_of(recipe, run) is not None


def augmentation(
    recipe: Protocol, run: Run, generator: Generators, steps: int, labels: Labels, *, plain: bool = False
) -> Augment | None:
    """The protocol's augmentation of a mini-batch, then those of selected plugins for phase ``evaluate``.

    None where labels have views of their own: they were made for those, and would be wrong after another change.

    Raises:
        InputError: a selected plugin would change them.
    """
    own = not labels.own_views and changes_batches(recipe, run)
    plugins = bool(augmenters(run.plugins, EVALUATE)) and not plain
    if plugins and labels.own_views:
        remedy = "evaluate without plugins that augment students' batches"
        raise InputError(f"{labels.kind} labels were made for views that a plugin would change once more: {remedy}")
    if not own and not plugins:
        return None

    def draw(count: int, step: int) -> Transform:
        transforms: list[Transform] = []
        if own:
            transforms += _draws(recipe, run, count, generator("augment", step))
        if plugins:
            progress = Progress(step, steps)
            transforms.append(run.draw(EVALUATE, key=("evaluate", step), count=count, progress=progress))
        return transforms[0] if len(transforms) == 1 else Sequential(tuple(transforms))

    return draw


def _draws(recipe: Protocol, run: Run, count: int, generator: torch.Generator) -> list[Transform]:
    size, transforms = (run.source.size, run.source.size), []
    if strategy := strategy_of(recipe, run):
        transforms.append(_draw(recipe, run, strategy, count, generator))
    if (views := draw_of(recipe, run)) is not None:
        transforms.append(transform(views, count, size, generator))
    return transforms


def _draw(recipe: Protocol, run: Run, strategy: tuple[str, ...], count: int, generator: torch.Generator) -> Transform:
    size = (run.source.size, run.source.size)
    if recipe.augment == "geometric":
        return augment.draw_mnist(count, size, generator)
    if recipe.augment == "jitter":
        return augment.draw_batchnorm(count, run.source.channels, size, generator)
    first = recipe.flip_first and run.source.mirror_symmetric
    return augment.draw(strategy, count, size, generator, shared=False, flip_first=first)


def whole(counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Whole numbers as 0-d int64."""
    return {name: torch.tensor(count, dtype=torch.int64) for name, count in counts.items()}
