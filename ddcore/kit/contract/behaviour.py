"""The checks of what a plugin does: to batches, to bits, beside others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from ddcore import devices
from ddcore.api.types import Batch, Learn, Progress, Row, Task
from ddcore.composing.plan import only_protocols, refusal_unasked
from ddcore.errors import near
from ddcore.kit.contract.checks import Broken, check
from ddcore.kit.contract.stage import (
    Skipped,
    Subject,
    distilled,
    first_party,
    outcome,
    outcome_in_pieces,
    same_bits,
    scored,
    to_the_end,
    untouched_randomness,
)
from ddcore.kit.contract.stand_in import cutting_alike, standing_in
from ddcore.kit.contract.tiny import CLASSES, RENAMED
from ddcore.networks.unroll import flat_weights
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.distil import distil
from ddcore.runs.loop import begin, outer_step
from ddcore.runs.run import Run
from ddcore.scoring.rows import CORE_SETS, DEFAULT, DISTILLED
from ddcore.sets.decoders import OPERATIONS
from ddcore.training.experts import Trajectories

STEPS = 2


# ---- what hooks do to batches ----------------------------------------------------------------------------------------


def _batch(run: Run, dtype: torch.dtype) -> Batch:
    index = torch.arange(6)
    images = run.real.train.inputs(index * 6).to(dtype).clone()
    classes = run.real.train.labels[index * 6]
    logits = torch.eye(len(run.real.classes), dtype=dtype)[classes]
    return Batch(images, {"class": classes, "logits": logits}, index)


def _changes(subject: Subject) -> list[tuple[str, Callable[[Run, Batch], Batch], bool]]:
    """Everything the plugin does to batches: what it is called, how to do it, and whether rows must stay."""

    def draw(phase: str, shared: bool) -> Callable[[Run, Batch], Batch]:
        return lambda run, batch: run.draw(phase, key=("contract",), count=len(batch), shared=shared)(batch)

    found: list[tuple[str, Callable[[Run, Batch], Batch], bool]] = []
    for phase in subject.cls.view_phases:
        found.append((f"ddcore_view in {phase}", lambda run, batch, phase=phase: run.view(batch, phase), False))  # type: ignore[misc]
    for phase in subject.cls.augment_phases:
        for shared in (False, True):
            found.append((f"ddcore_augment in {phase}, shared {shared}".lower(), draw(phase, shared), True))
    if not found:
        raise Skipped("it changes no batches")
    if not subject.on_images:
        raise Skipped("the kit has batches of images only")
    return found


@check("inputs", "return new tensors; never write into the ones you are given")
def inputs_are_not_modified(subject: Subject) -> None:
    changes, run = _changes(subject), subject.run()
    for what, change, _ in changes:
        batch = _batch(run, torch.float32)
        before = [t.clone() for t in (batch.inputs, batch.index, *batch.targets.values())]
        change(run, batch)
        after = (batch.inputs, batch.index, *batch.targets.values())
        if not all(torch.equal(x, y) for x, y in zip(before, after, strict=True)):
            raise Broken(f"{what} wrote into the batch it was given")


@check("shapes", "keep axes, dtype and device of the inputs; repeat or permute targets and index with the rows")
def shapes_dtype_and_device_are_kept(subject: Subject) -> None:
    changes, run = _changes(subject), subject.run()
    for what, change, same_rows in changes:
        for dtype in (torch.float32, torch.float64):
            batch = _batch(run, dtype)
            got = change(run, batch)
            if got.inputs.dtype != dtype or got.inputs.device != batch.inputs.device:
                raise Broken(f"{what} turned {dtype} into {got.inputs.dtype}")
            if got.targets["class"].dtype != torch.int64 or got.index.dtype != torch.int64:
                raise Broken(f"{what} changed the type of the class ids or the index")
            if same_rows and not torch.equal(got.index, batch.index):
                raise Broken(f"{what} moved rows, which only a view may")
            if not torch.equal(got.targets["class"], batch.targets["class"][got.index]):
                raise Broken(f"{what} gave rows that do not carry the class of the row they came from")


@check("gradient", "keep the graph: no detach, no .data, no numpy between what is learned and what is returned")
def gradient_reaches_everything_learnable(subject: Subject) -> str | None:
    if subject.is_matcher:
        return _every_tensor_moves(subject)
    changes, run = _changes(subject), subject.run()
    for what, change, _ in changes:
        batch = _batch(run, torch.float64)
        inputs = batch.inputs.requires_grad_()
        got = change(run, batch).inputs
        if not got.requires_grad:
            raise Broken(f"{what} cuts the gradient off")
        ramp = torch.linspace(0.5, 1.5, got.numel(), dtype=got.dtype).reshape(got.shape)
        (gradient,) = torch.autograd.grad((got * ramp).sum(), inputs, allow_unused=True)
        if gradient is None or not torch.isfinite(gradient).all() or not gradient.flatten(1).abs().sum(1).all():
            raise Broken(f"{what} gives no finite gradient to some images")
    return None


def _every_tensor_moves(subject: Subject) -> str:
    _stepwise(subject)
    run = subject.run(steps=3, dtype="float64")
    task = distillation_tasks(run)[0]
    learn = begin(task, run)
    before = {name: tensor.detach().clone() for name, tensor in learn.tensors.items()}
    for step in range(3):
        outer_step(task, step, learn, run)
    held = {id(p) for o in learn.optimizers.values() for group in o.param_groups for p in group["params"]}
    for name, tensor in learn.tensors.items():
        if tensor.requires_grad and id(tensor) not in held:
            raise Broken(f"tensor {name!r} asks for a gradient and no optimiser holds it")
        if tensor.requires_grad and torch.equal(tensor.detach(), before[name]):
            raise Broken(f"tensor {name!r} did not move in three steps")
    return f"{', '.join(learn.tensors)} moved"


# ---- the same bits ---------------------------------------------------------------------------------------------------


@check(
    "seed",
    "draw only from the generator argument or run.generator(...); keep nothing between calls outside learn.state",
)
def same_seed_gives_the_same_bits(subject: Subject) -> None:
    first = _first(subject)
    if why := same_bits({**first.scores, **first.tensors}, outcome(subject.run(steps=STEPS))):
        raise Broken(f"two runs of one seed differ: {why}")


@attrs.frozen(eq=False)
class _First:
    """What a run comes to, and which global generators it moved."""

    scores: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]
    moved: Sequence[str]


def _first(subject: Subject) -> _First:
    """One run, done once for all checks that compare with it or watch it."""
    if "first" not in subject.kept:
        if subject.cls.executors:
            distilled(
                subject.run(steps=1)
            )  # what an executor does to begin at all, such as drawing a port, is not watched
        run = subject.run(steps=STEPS)
        with untouched_randomness() as moved:
            scores = scored(run)
            tensors = distilled(run)
        subject.kept["first"] = _First(scores, tensors, moved)
    return subject.kept["first"]  # type: ignore[no-any-return]


@check(
    "global-randomness", "pass generator= to torch's random functions; never torch.manual_seed, random or numpy.random"
)
def global_generators_are_left_alone(subject: Subject) -> None:
    if moved := _first(subject).moved:
        raise Broken(f"a run with it moved the global generator of {', '.join(moved)}")


@check(
    "resume",
    "keep what changes between steps in learn.state, and build everything else in ddcore_learn from its arguments",
)
def kill_and_resume_equals_uninterrupted(subject: Subject) -> None:
    whole = outcome(subject.run(steps=STEPS + 1))
    # another process may be stopped before its first step
    stepwise: dict[str, Any] = {"executor": "here"} if subject.cls.executors else {}
    if why := same_bits(whole, outcome_in_pieces(subject.run(steps=STEPS + 1, **stepwise))):
        raise Broken(f"a run stopped after each step ends elsewhere: {why}")


@check(
    "workers",
    "make options plain values and put the class at the top of its module, so that another process can rebuild it",
)
def a_spawned_process_gives_the_same_bits(subject: Subject) -> None:
    if subject.cls.executors:
        raise Skipped("it is an executor itself")
    if why := same_bits(_first(subject).tensors, distilled(subject.run(steps=STEPS, executor="processes"))):
        raise Broken(f"a worker process ends elsewhere: {why}")


@check(
    "device",
    "put what you make beside what you are given, or on run.device; draw by generators on the CPU, then move what was drawn",
)
def a_gpu_gives_the_same_bits(subject: Subject) -> str:
    if subject.cls.executors:
        raise Skipped("it is an executor itself")
    if first_party().get(subject.name) is subject.cls:
        raise Skipped("a first-party plugin itself: tests/house/test_stand_in_device.py takes whole runs with each")
    with standing_in():
        there = outcome(subject.run(steps=STEPS, device="cuda"))
        drawn = devices.cuda.drawn  # type: ignore[attr-defined]
    with cutting_alike():
        here = outcome(subject.run(steps=STEPS, device="cpu"))
    if not drawn and (why := same_bits(here, there)):
        raise Broken(f"a device that stands in for a GPU ends elsewhere: {why}")
    return "on a device that stands in for a GPU"


# ---- what matchers must not look at ----------------------------------------------------------------------------------


class _Given(Run):
    """A run that starts from given images."""

    images: Tensor

    def initialize(self, classes: Tensor, task: Task, name: str | None = None) -> Tensor:
        return self.images.clone()


class _Renamed(_Given):
    """A run on the same data with classes renamed: the last layer of every network follows."""

    def network(self, generator: torch.Generator, name: str | None = None, **other: int) -> nn.Module:
        count, made = len(self.source.classes), super().network(generator, name, **other)
        return _renamed(made, count) if other.get("classes", count) == count else made


@attrs.frozen(eq=False)
class _RenamedTrajectories(Trajectories):
    order_P: Any = None

    def _snapshot(self, expert: int, epoch: int) -> dict[str, Tensor]:
        found = super()._snapshot(expert, epoch)
        return {**found, "weights": found["weights"][self.order_P]}


def _renamed(network: nn.Module, classes: int) -> nn.Module:
    linear = [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not linear:
        raise Skipped("its network has no linear layer of as many outputs as classes, to call them otherwise")
    last = linear[-1]
    order = torch.tensor(RENAMED).argsort()
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.copy_(parameter[order].clone())
    return network


def _learned(run: Run, classes: Tensor, images: Tensor) -> Learn:
    run.images = images  # type: ignore[attr-defined]
    task = Task("distil", "distil-000", STEPS, classes=classes)
    learn = begin(task, run)
    for step in range(STEPS):
        outer_step(task, step, learn, run)
    return learn


def _stepwise(subject: Subject) -> None:
    if not subject.is_matcher:
        raise Skipped("it is no matcher")
    if subject.cls.steps == 0:
        raise Skipped("it learns nothing step by step")


def _start(subject: Subject) -> tuple[Run, Tensor, Tensor]:
    if not subject.on_images:
        raise Skipped("the kit has images only to put in another order or class")
    run = subject.run(kind=_Given, dataset="tiny:copies", dtype="float64", steps=STEPS)
    classes = torch.arange(CLASSES).repeat_interleave(2)
    noise = torch.randn((len(classes), 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images = run.real.train.inputs(run.real.train.of_class(0)[:1]) + 0.5 * noise
    return run, classes, images


def _far(one: Tensor, other: Tensor) -> bool:
    return not torch.allclose(one.detach(), other.detach(), rtol=1e-6, atol=1e-8)


@check("row-order", "find rows by targets['class'], never by position; if the method has to, say why in exempt")
def the_order_of_rows_does_not_matter(subject: Subject) -> None:
    _stepwise(subject)
    run, classes, images = _start(subject)
    base = _learned(run, classes, images)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    turned = _learned(
        subject.run(kind=_Given, dataset="tiny:copies", dtype="float64", steps=STEPS), classes[order], images[order]
    )
    for name, tensor in base.tensors.items():
        due = tensor[order] if len(tensor.shape) and len(tensor) == len(order) else tensor
        if _far(due, turned.tensors[name]):
            raise Broken(f"tensor {name!r} depends on the order of the synthetic rows")


@check(
    "class-names",
    "treat classes alike: what a class is called, its number, must not change what is learned; if the method draws batches that "
    "mix classes by number, say so in exempt",
)
def renaming_classes_renames_the_result(subject: Subject) -> None:
    _stepwise(subject)
    run, classes, images = _start(subject)
    base = _learned(run, classes, images)
    other = subject.run(kind=_Renamed, dataset="tiny:renamed", dtype="float64", steps=STEPS)
    if "trajectories" in run.plan.needs:
        found = run.trajectories
        known = (found.place, found.count, found.epochs, found.device, found.dtype)
        other.__dict__["trajectories"] = _RenamedTrajectories(*known, order_P=_renamed_order(run))
    turned = _learned(other, torch.tensor(RENAMED)[classes], images)
    for name, tensor in base.tensors.items():
        due = tensor[:, torch.tensor(RENAMED).argsort()] if base.roles.get(name) == "labels" else tensor
        if _far(due, turned.tensors[name]):
            raise Broken(f"tensor {name!r} depends on which number a class has")


def _renamed_order(run: Run) -> Tensor:
    """Where each weight of a renamed network comes from, (P,) int64."""
    network = run.network(run.generator("contract", "order")).double()
    with torch.no_grad():
        vector_to_parameters(torch.arange(len(flat_weights(network)), dtype=torch.float64), network.parameters())
    return flat_weights(_renamed(network, len(run.source.classes))).detach().long()


# ---- what matchers ask for -------------------------------------------------------------------------------------------

TWO_VALUES: Mapping[str, tuple[float, float]] = {
    "student_step.batch": (1, 2),
    "match.crop_scale": (0.3, 1.0),
    "match.variance_weight": (1.0, 11.0),
}
"""For each setting that a step of a matcher can ask for, two values that must not come to the same."""


class _Set(Run):
    """A run in which a setting has a given value, whoever asks."""

    name: str
    value: float

    def setting(self, name: str, value: Any, progress: Progress | None = None) -> Any:
        return self.value if name == self.name else super().setting(name, value, progress)


@check("settings", "give what run.setting(...) returns to the maths, at each step; or take the setting out of asks")
def every_setting_asked_for_changes_what_is_done(subject: Subject) -> str:
    asked = [ask.removeprefix("setting:") for ask in subject.cls.asks if ask.startswith("setting:")]
    if not subject.is_matcher or not asked:
        raise Skipped("it asks for no setting")
    for name in asked:
        if name not in TWO_VALUES:
            raise Broken(f"it asks for setting:{name}, which is none of a matcher's steps: {near(name, TWO_VALUES)}")
        one, other = (_under(subject, name, value) for value in TWO_VALUES[name])
        if len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True)):
            raise Broken(
                f"it asks for setting:{name} and does the same under {' and '.join(map(str, TWO_VALUES[name]))}"
            )
    return ", ".join(asked)


def _under(subject: Subject, name: str, value: float) -> list[Tensor]:
    """Every loss and every learned tensor of a short run in which a setting has this value."""
    run: Any = subject.run(kind=_Set, dtype="float64", steps=STEPS)
    run.name, run.value = name, value
    found: list[Tensor] = []
    for task in distillation_tasks(run):
        learn = begin(task, run)
        for step in range(task.steps):
            found.append(torch.tensor(outer_step(task, step, learn, run) or 0.0))
        found += [tensor.detach() for tensor in learn.tensors.values()]
    return found


# ---- beside others ---------------------------------------------------------------------------------------------------


@check("neutral", "under the option values of the class attribute neutral, return None or exactly what came in")
def neutral_settings_equal_the_base(subject: Subject) -> str:
    if not subject.cls.neutral:
        raise Skipped("it declares no neutral settings")
    every = {} if subject.of_students and subject.on_images else first_party()
    matchers = {n: c for n, c in every.items() if c.role == "matcher" and _goes_with(subject, n, c)}
    bases: dict[str, tuple[str, ...]] = {"the probe": ()} if subject.on_images else {}
    bases |= {n: ("--plugin", n) for n in matchers}
    start: dict[str, Any] = (
        {"init": "real"} if subject.on_images else {}
    )  # a plugin may suggest another, whatever its options
    for base, words in bases.items():
        plain = distilled(subject.run(*words, included=False, steps=STEPS, **start))
        if why := same_bits(plain, distilled(subject.run(*words, options=subject.cls.neutral, steps=STEPS, **start))):
            raise Broken(f"on {base} with {dict(subject.cls.neutral)}: {why}")
    return f"on {', '.join(bases)}"


def _goes_with(subject: Subject, name: str, other: Any) -> bool:
    if name == subject.name or (other.role == "matcher") and other.gives_way:
        return False
    if other.role == "matcher":
        beside = subject.cls.gives_way or not subject.is_matcher
        return beside and refusal_unasked(subject.cls(), subject.name, other(), name) is None
    return subject.is_matcher and refusal_unasked(other(), name, subject.cls(), subject.name) is None


@check("composition", "see which plugin it fails with; what cannot work declares it in conflicts, needs or modality")
def composes_with_every_first_party_plugin_it_says(subject: Subject) -> str:
    every = first_party()
    partners = [name for name, other in every.items() if _goes_with(subject, name, other)]
    if not partners:
        raise Skipped("no first-party plugin that it goes with is installed")
    if every.get(subject.name) is subject.cls:
        raise Skipped("a first-party plugin itself: the matrix's tests take every pair of them to its scores")
    for name in partners:
        if problem := to_the_end(subject, name):
            raise Broken(f"with {name}: {problem}")
    return ", ".join(partners)


@check("whole-run", "run `ddcore run WORDS --dataset digits --steps 2` and read what it says")
def a_whole_run_ends_in_an_artifact_and_scores(subject: Subject) -> str:
    run, rows = _whole(subject)
    sets = {row.set for row in rows}
    more = sorted(sets - set(CORE_SETS))
    if hasattr(subject.cls, "ddcore_evaluate") and run.of_images and not more:
        raise Broken("it implements ddcore_evaluate and gave no row of its own")
    if subject.is_matcher and not run.of_images and (DISTILLED not in sets or len(sets) < 2):
        raise Broken(
            f"of {', '.join(run.matcher.modality)}, it gave no row {DISTILLED!r} with another to compare it with"
        )
    if not run.hooks.asked[subject.name] and not only_protocols(subject.cls):
        raise Broken("nothing in a whole run asked it anything")
    return f"{len(rows)} rows" + (f", its own: {', '.join(more)}" if more else "")


def _whole(subject: Subject) -> tuple[Run, Sequence[Row]]:
    """One run to its end, done once for all checks that look at one."""
    if "whole" not in subject.kept:
        brought = () if hasattr(subject.cls, "ddcore_evaluate") else subject.cls.student_sets
        given: dict[str, Any] = {"rows": (DEFAULT, *brought)} if brought else {}
        run = subject.run(steps=STEPS, **given)
        subject.kept["whole"] = run, distil(run)
    return subject.kept["whole"]  # type: ignore[no-any-return]


READ = """
import sys
from ddcore import load_artifact
from ddcore.cli import invoke
if sys.argv[2] == "images":
    load_artifact(sys.argv[1]).images()
sys.exit(invoke(["inspect", sys.argv[1]]))
"""


@check(
    "opens",
    "give every operation of a decoder and kind of labels of yours an entry point, ddcore.decoders or ddcore.labels, and install it; "
    "its description says your distribution",
)
def the_set_opens_in_a_process_that_selects_nothing(subject: Subject) -> str:
    run, _ = _whole(subject)
    place = run.place / "artifact"
    manifest = (place / "manifest.json").read_json()
    labels = manifest["labels"]
    foreign = [str(op.get("op")) for op in manifest["decoder"] if op.get("op") not in OPERATIONS]
    foreign += [labels["kind"]] * ("distribution" in labels)
    if not foreign:
        return "ddcore alone reads it"
    path, modality = place.local_path(), run.source.modality
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if os.path.isabs(p))}
    words = [sys.executable, "-c", READ, str(path), modality]
    done = subprocess.run(words, env=environment, cwd=subject.folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise Broken(f"a set with {', '.join(foreign)} does not open in a process that selects no plugin: {said[0]}")
    return f"{', '.join(foreign)} found by entry point"
