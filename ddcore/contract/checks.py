"""The checks, one function each. A check returns what it saw, or None; it raises ``Broken`` or ``Skipped`` with the reason."""

from __future__ import annotations

import ast
import inspect
import json
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
import click
import torch
from torch import Tensor, nn

from ddcore import hookspecs
from ddcore.contract.public import PUBLIC
from ddcore.contract.stage import (
    Subject,
    distilled,
    distilled_in_pieces,
    first_party,
    same_bits,
    untouched_randomness,
)
from ddcore.contract.tiny import CLASSES, RENAMED
from ddcore.distil import distil, distillation_task
from ddcore.errors import DdcoreError
from ddcore.experts import Trajectories
from ddcore.loop import begin, outer_step
from ddcore.options import as_json, click_options, fields, from_json, read_toml, resolve, to_toml
from ddcore.plan import refusal
from ddcore.plugins import check_hooks
from ddcore.run import Run
from ddcore.types import PHASES, SETTINGS, Batch, Learn, Task
from ddcore.unroll import flat_weights

STEPS = 2
VIEW_PHASES = PHASES[:3]
Check = Callable[[Subject], str | None]


class Broken(Exception):
    """The plugin breaks this part of the contract."""


class Skipped(Exception):
    """This part of the contract does not concern the plugin, or cannot be checked here."""


@attrs.frozen
class Entry:
    """A check with its name and what to do when it fails."""

    name: str
    remedy: str
    function: Check


ENTRIES: list[Entry] = []


def check(name: str, remedy: str) -> Callable[[Check], Check]:
    """Add a check to the list, in the order of this file."""

    def add(function: Check) -> Check:
        ENTRIES.append(Entry(name, remedy, function))
        return function

    return add


# ---- what the class says ---------------------------------------------------------------------------------------------


@check(
    "hooks",
    "annotate every argument and the result of each hook, and spell hook and arguments as CONTRIBUTING lists them",
)
def hooks_are_valid_and_typed(subject: Subject) -> str:
    check_hooks(subject.cls, repr(subject.name))
    found = [n for n in hookspecs.KINDS if hasattr(subject.cls, n)]
    if not found and not subject.cls.presets:
        raise Broken("it implements no hook, so it would do nothing")
    for name in found:
        signature = inspect.signature(getattr(subject.cls, name))
        parameters = list(signature.parameters.values())[1:]
        bare = [p.name for p in parameters if p.annotation is inspect.Parameter.empty]
        if signature.return_annotation is inspect.Signature.empty:
            bare.append("the result")
        if bare:
            raise Broken(f"{name} has no type for {', '.join(bare)}")
    return ", ".join(n.removeprefix("ddcore_") for n in found)


@check("declarations", "make the class attributes say what the hooks do: see ddcore.Plugin")
def declarations_and_hooks_agree(subject: Subject) -> None:
    cls = subject.cls
    if not cls.summary:
        raise Broken("summary is empty: write one line")
    pairs: dict[str, tuple[Any, Any]] = {
        "ddcore_view": (cls.view_phases, VIEW_PHASES),
        "ddcore_augment": (cls.augment_phases, PHASES),
        "ddcore_setting": (cls.settings, SETTINGS),
        "ddcore_initialize": (cls.initializers, None),
        "ddcore_label": (cls.labellers, None),
        "ddcore_data": (cls.datasets, None),
        "ddcore_network": (cls.networks, None),
        "ddcore_executor": (cls.executors, None),
    }
    for hook, (declared, known) in pairs.items():
        if hasattr(cls, hook) != bool(declared):
            raise Broken(f"{hook} and the class attribute that says where it applies: one is there without the other")
        wrong = set(declared) - set(known or declared)
        if wrong:
            raise Broken(f"{hook} is declared for {sorted(wrong)}, and there are only {sorted(known)}")
    if subject.is_matcher:
        missing = [h for h in ("ddcore_learn", "ddcore_matching_loss") if not hasattr(cls, h)]
        missing = [h for h in missing if not (h == "ddcore_matching_loss" and cls.steps == 0)]
        if missing or not cls.learns:
            raise Broken(f"a matcher needs {', '.join(missing) or 'the class attribute learns'}")
    for attribute in ("neutral", "tiny"):
        strange = set(getattr(cls, attribute)) - set(fields(cls))
        if strange:
            raise Broken(f"{attribute} names {sorted(strange)}, which are no options of it")


@check("immutable", "write @frozen(kw_only=True, eq=False); what changes during a run belongs into learn.state")
def instances_are_immutable_and_not_equal(subject: Subject) -> None:
    one, other = subject.cls(), subject.cls()
    if one == other:
        raise Broken("two instances are equal, so two runs in one process would collide")
    for name in (*fields(subject.cls), "anything_new"):
        try:
            setattr(one, name, getattr(other, name, None))
        except AttributeError:
            continue
        raise Broken(f"its attribute {name!r} can be set")


@check(
    "public",
    "import from ddcore only names without a leading underscore, of the modules that CONTRIBUTING lists as public",
)
def only_public_names_are_imported(subject: Subject) -> str:
    files = _own_files(subject.cls)
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            for module, name in _imported(node):
                if module.partition(".")[0] != "ddcore":
                    continue
                if module not in PUBLIC or name.startswith("_"):
                    raise Broken(f"{file.name}, line {node.lineno} imports {module} {name}".rstrip())  # type: ignore[attr-defined]
    return f"{len(files)} file{'s' * (len(files) != 1)} read"


def _own_files(cls: type) -> list[Path]:
    file = Path(inspect.getfile(cls))
    return sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]


def _imported(node: ast.AST) -> list[tuple[str, str]]:
    if isinstance(node, ast.Import):
        return [(alias.name, "") for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [(node.module or "", alias.name) for alias in node.names]
    return []


# ---- options ---------------------------------------------------------------------------------------------------------


@check(
    "options",
    "use option() with a type of bool, int, float, str, Literal, tuple[X, ...] or X | None, and a validator for the range",
)
def options_round_trip(subject: Subject) -> str:
    every = {name: a for name, a in fields(subject.cls).items() if not a.metadata.get("secret")}
    without_help = [name for name, attribute in every.items() if not attribute.metadata.get("help")]
    if without_help:
        raise Broken(f"options without a line of help: {', '.join(without_help)}")
    _round_trip(subject, {})
    if not every:
        return "it has none"
    try:
        from hypothesis import HealthCheck, given, reject, settings
    except ImportError:
        return f"{len(every)} options, defaults only: pip install hypothesis tries many values"

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(_strategies(every))
    def many(values: dict[str, Any]) -> None:
        try:
            subject.cls(**values)
        except (ValueError, TypeError):
            reject()
        _round_trip(subject, values)

    many()
    return f"{len(every)} options, 40 sets of values"


def _strategies(every: Mapping[str, attrs.Attribute]) -> Any:
    from hypothesis import strategies as st

    def of(attribute: attrs.Attribute) -> Any:
        def fits(value: Any) -> bool:
            try:
                if attribute.validator is not None:
                    attribute.validator(None, attribute, value)  # type: ignore[arg-type]
            except (ValueError, TypeError):
                return False
            except AttributeError:
                return True
            return True

        return st.just(attribute.default) | _values(attribute.type, attribute.default).filter(fits)

    return st.fixed_dictionaries({}, optional={name: of(a) for name, a in every.items()})


def _values(kind: Any, default: Any) -> Any:
    from hypothesis import strategies as st

    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return st.sampled_from(arguments)
    if get_origin(kind) is tuple:
        return st.lists(_values(arguments[0], None), max_size=3).map(tuple)
    if arguments:
        return st.none() | _values(next(a for a in arguments if a is not type(None)), default)
    simple: dict[Any, Any] = {
        bool: st.booleans(),
        int: st.integers(-1, 10000),
        float: st.floats(-1, 1000, allow_nan=False),
    }
    return simple.get(kind, st.just(default))


def _round_trip(subject: Subject, values: Mapping[str, Any]) -> None:
    """The values through a command line, a TOML file and the run's JSON come out the same."""
    groups = {subject.name: subject.cls}
    made = subject.cls(**values)

    def compare(where: str, options: Mapping[str, Any]) -> None:
        got = options[subject.name]
        for name, attribute in fields(subject.cls).items():
            if not attribute.metadata.get("secret") and getattr(got, name) != getattr(made, name):
                raise Broken(f"{name} = {getattr(made, name)!r} comes back from {where} as {getattr(got, name)!r}")

    resolved = resolve(groups, command_line=_parsed(subject, values), environment={})
    compare("the command line", resolved.options)
    compare("JSON", from_json(json.loads(json.dumps(as_json(resolved))), groups).options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        text = to_toml(resolved)
        tomllib.loads(text)
        file.write_text(text, "utf-8")
        read_toml(str(file))
        compare("TOML", resolve(groups, command_line={}, environment={}, files=[str(file)]).options)


def _parsed(subject: Subject, values: Mapping[str, Any]) -> dict[str, Any]:
    words: list[str] = []
    for name, value in values.items():
        written = f"--{subject.name}.{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(written if value else written.replace(f"{subject.name}.", f"{subject.name}.no-"))
        elif isinstance(value, tuple):
            words += [word for item in value for word in (written, str(item))]
        else:
            words += [f"{written}={'none' if value is None else value}"]
    command = click.Command("run", params=list(click_options({subject.name: subject.cls})))
    with command.make_context("run", words) as context:
        source = click.core.ParameterSource.COMMANDLINE
        got = {n: v for n, v in context.params.items() if context.get_parameter_source(n) is source}
    empty = {n for n, v in values.items() if v == ()}
    return got | {f"{subject.name}__{n}": () for n in empty}


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
    return found


@check("inputs", "return new tensors; never write into the ones you are given")
def inputs_are_not_modified(subject: Subject) -> None:
    run = subject.run()
    for what, change, _ in _changes(subject):
        batch = _batch(run, torch.float32)
        before = [t.clone() for t in (batch.inputs, batch.index, *batch.targets.values())]
        change(run, batch)
        after = (batch.inputs, batch.index, *batch.targets.values())
        if not all(torch.equal(x, y) for x, y in zip(before, after, strict=True)):
            raise Broken(f"{what} wrote into the batch it was given")


@check("shapes", "keep axes, dtype and device of the inputs; repeat or permute targets and index with the rows")
def shapes_dtype_and_device_are_kept(subject: Subject) -> None:
    run = subject.run()
    for what, change, same_rows in _changes(subject):
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
    run = subject.run()
    for what, change, _ in _changes(subject):
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
    run = subject.run(steps=3, dtype="float64")
    if run.plan.steps == 0 or subject.cls.steps == 0:
        raise Skipped("it learns nothing step by step")
    task = distillation_task(run)
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
    first = distilled(subject.run(steps=STEPS))
    if why := same_bits(first, distilled(subject.run(steps=STEPS))):
        raise Broken(f"two runs of one seed differ: {why}")


@check(
    "global-randomness", "pass generator= to torch's random functions; never torch.manual_seed, random or numpy.random"
)
def global_generators_are_left_alone(subject: Subject) -> None:
    run = subject.run(steps=STEPS)
    with untouched_randomness() as moved:
        distilled(run)
    if moved:
        raise Broken(f"a run with it moved the global generator of {', '.join(moved)}")


@check(
    "resume",
    "keep what changes between steps in learn.state, and build everything else in ddcore_learn from its arguments",
)
def kill_and_resume_equals_uninterrupted(subject: Subject) -> None:
    whole = distilled(subject.run(steps=STEPS + 1))
    if why := same_bits(whole, distilled_in_pieces(subject.run(steps=STEPS + 1))):
        raise Broken(f"a run stopped after each step ends elsewhere: {why}")


@check(
    "workers",
    "make options plain values and put the class at the top of its module, so that another process can rebuild it",
)
def a_spawned_process_gives_the_same_bits(subject: Subject) -> None:
    if subject.cls.executors:
        raise Skipped("it is an executor itself")
    here = distilled(subject.run(steps=STEPS))
    if why := same_bits(here, distilled(subject.run(steps=STEPS, executor="processes"))):
        raise Broken(f"a worker process ends elsewhere: {why}")


# ---- what matchers must not look at ----------------------------------------------------------------------------------


class _Given(Run):
    """A run that starts from given images."""

    images: Tensor

    def initialize(self, classes: Tensor, task: Task, name: str | None = None) -> Tensor:
        return self.images.clone()


class _Renamed(_Given):
    """A run on the same data with classes renamed: the last layer of every network follows."""

    def network(self, generator: torch.Generator, name: str | None = None) -> nn.Module:
        return _renamed(super().network(generator, name), len(self.source.classes))


@attrs.frozen(eq=False)
class _RenamedTrajectories(Trajectories):
    order_P: Any = None

    def _snapshot(self, expert: int, epoch: int) -> dict[str, Tensor]:
        found = super()._snapshot(expert, epoch)
        return {**found, "weights": found["weights"][self.order_P]}


def _renamed(network: nn.Module, classes: int) -> nn.Module:
    last = [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == classes][-1]
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
    run = subject.run(kind=_Given, dataset="tiny:copies", dtype="float64", steps=STEPS)
    classes = torch.arange(CLASSES).repeat_interleave(2)
    noise = torch.randn((len(classes), 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images = run.real.train.inputs(run.real.train.of_class(0)[:1]) + 0.5 * noise
    return run, classes, images


def _far(one: Tensor, other: Tensor) -> bool:
    return not torch.allclose(one.detach(), other.detach(), rtol=1e-6, atol=1e-8)


@check("row-order", "find rows by targets['class'], never by position")
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


@check("class-names", "treat classes alike: what a class is called, its number, must not change what is learned")
def renaming_classes_renames_the_result(subject: Subject) -> None:
    _stepwise(subject)
    run, classes, images = _start(subject)
    base = _learned(run, classes, images)
    other = subject.run(kind=_Renamed, dataset="tiny:renamed", dtype="float64", steps=STEPS)
    if "trajectories" in run.plan.needs:
        count = torch.arange(len(flat_weights(_Given.network(run, run.generator("x")))), dtype=torch.float64)
        found = run.trajectories
        order = _renamed_order(run, count)
        known = (found.place, found.count, found.epochs, found.device, found.dtype)
        other.__dict__["trajectories"] = _RenamedTrajectories(*known, order_P=order)
    turned = _learned(other, torch.tensor(RENAMED)[classes], images)
    for name, tensor in base.tensors.items():
        due = tensor[:, torch.tensor(RENAMED).argsort()] if base.roles.get(name) == "labels" else tensor
        if _far(due, turned.tensors[name]):
            raise Broken(f"tensor {name!r} depends on which number a class has")


def _renamed_order(run: Run, count: Tensor) -> Tensor:
    network = run.network(run.generator("x")).double()
    with torch.no_grad():
        at = 0
        for parameter in network.parameters():
            parameter.copy_(count[at : at + parameter.numel()].reshape(parameter.shape))
            at += parameter.numel()
    return flat_weights(_renamed(network, len(run.source.classes))).detach().long()


# ---- beside others ---------------------------------------------------------------------------------------------------


@check("neutral", "under the option values of the class attribute neutral, return None or exactly what came in")
def neutral_settings_equal_the_base(subject: Subject) -> str:
    if not subject.cls.neutral:
        raise Skipped("it declares no neutral settings")
    matchers = {n: c for n, c in first_party().items() if c.role == "matcher" and _goes_with(subject, n, c)}
    bases: dict[str, tuple[str, ...]] = {"the probe": (), **{n: ("--plugin", n) for n in matchers}}
    shared = {"steps": STEPS}
    for base, words in bases.items():
        plain = distilled(subject.run(*words, alone=False, **shared))
        if why := same_bits(plain, distilled(subject.run(*words, options=subject.cls.neutral, **shared))):
            raise Broken(f"on {base} with {dict(subject.cls.neutral)}: {why}")
    return f"on {', '.join(bases)}"


def _goes_with(subject: Subject, name: str, other: Any) -> bool:
    if name == subject.name:
        return False
    if subject.is_matcher:
        return other.role != "matcher" and refusal(other(), name, subject.cls(), subject.name) is None
    return other.role == "matcher" and refusal(subject.cls(), subject.name, other(), name) is None


@check("composition", "see which plugin it fails with; what cannot work declares it in conflicts, needs or modality")
def composes_with_every_first_party_plugin_it_says(subject: Subject) -> str:
    partners = [name for name, other in first_party().items() if _goes_with(subject, name, other)]
    if not partners:
        raise Skipped("no first-party plugin that it goes with is installed")
    for name in partners:
        try:
            result = distilled(subject.run("--plugin", name, steps=1))
        except DdcoreError as error:
            raise Broken(f"with {name}: {error}") from error
        if not all(torch.isfinite(t).all() for t in result.values()):
            raise Broken(f"with {name}: not finite after one step")
    return ", ".join(partners)


@check("whole-run", "run `ddcore run --plugin-path FILE.py --steps 2` and read what it says")
def a_whole_run_ends_in_an_artifact_and_scores(subject: Subject) -> str:
    run = subject.run(steps=STEPS)
    rows = distil(run)
    core = {"distilled", "random", "kcenter", "random-bytes", "full"}
    more = sorted({row.set for row in rows} - core)
    if hasattr(subject.cls, "ddcore_evaluate") and not more:
        raise Broken("it implements ddcore_evaluate and gave no row of its own")
    if not run.hooks.asked[subject.name]:
        raise Broken("nothing in a whole run asked it anything")
    return f"{len(rows)} rows" + (f", its own: {', '.join(more)}" if more else "")
