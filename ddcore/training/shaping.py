"""What plugins make of one student's training: the network around it, the rows it visits, its loss, what is trained
beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from ddcore import randomness
from ddcore.api.services import Samples
from ddcore.api.types import Batch, Progress, Seen, Vote
from ddcore.composing import answers
from ddcore.composing.dispatch import PerPlugin
from ddcore.composing.plan import CLASS_LOGITS, STUDENT_SHAPING, TEACHERS, offers, student_shapers
from ddcore.errors import InputError
from ddcore.storage.places import canonical, sha256_of
from ddcore.training.loop import Beside, Choose, Generators, Reshape
from ddcore.training.teaching import Found, Teaching, seen_of, tapped

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run
    from ddcore.labels import Labels

OF_TEACHERS = STUDENT_SHAPING - {"augment:evaluate"}
PROBED = 2
"""Rows that show plugins what networks make of the data."""


@frozen(eq=False)
class Shape:
    """How a student is trained.

    Attributes:
        network: the student, or what was put around it.
        reshape: changes its loss; None: the labels' own.
        choose: the rows of an epoch; None: all.
        beside: what is trained with it; None: nothing.
        whole: whether its loss wants whole batches.
    """

    network: Module
    reshape: Reshape | None = None
    choose: Choose | None = None
    beside: Beside | None = None
    whole: bool = False


@frozen(eq=False)
class Held:
    """Images in memory as ``Samples``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def inputs(self, index: Tensor) -> Tensor:
        """Images (n, C, H, W) at ``index``."""
        return self.images[index.to(self.images.device)]


def taught(run: Run) -> bool:
    """Whether teachers have a say in how students are trained."""
    return any(
        TEACHERS in plugin.assets(None) for _, plugin in student_shapers(run.plugins) if offers(plugin) & OF_TEACHERS
    )


def student_identity(run: Run) -> dict[str, Any]:
    """What plugins make of students, as JSON values: ``plugins``, what ``Plugin.student_identity`` says of each, and
    ``teachers``, hashes of their weights where they have a say; empty where students are plain."""
    said = {name: plugin.student_identity(run) for name, plugin in student_shapers(run.plugins) if not _neutral(plugin)}
    shaped = {name: dict(values) for name, values in said.items() if values is not None}
    if not shaped:
        return {}
    return {"plugins": shaped, **({"teachers": run.teachers.identity()} if taught(run) else {})}


def _neutral(plugin: Any) -> bool:
    return bool(plugin.neutral) and all(getattr(plugin, name) == value for name, value in plugin.neutral.items())


def student_name(identity: Mapping[str, Any]) -> str:
    """Whose students they are, in a word for columns: the plugins, and eight letters for all that they depend on; empty
    for plain ones.

    >>> student_name({}), student_name({"plugins": {"kd": {"temperature": 4.0}}})
    ('', 'kd #8fe288ab')
    """
    if not identity:
        return ""
    return f"{' + '.join(identity['plugins'])} #{sha256_of(canonical(identity))[:8]}"


def student_network(identity: Mapping[str, Any], network: str) -> str:
    """What is trained: ``network``, or what plugins train in its place."""
    named = [values["network"] for values in identity.get("plugins", {}).values() if values.get("network")]
    return str(named[-1]) if named else network


def visited(plugins: Mapping[str, Any], count: int) -> int:
    """How many of ``count`` rows an epoch of a student visits, as far as plugins know beforehand."""
    for _, plugin in student_shapers(plugins):
        count = plugin.visited(count) if "student_rows" in offers(plugin) else count
    return count


@contextmanager
def shaped(
    run: Run, network: Module, images: Tensor | Samples, labels: Labels, generator: Generators, steps: int, rate: float
) -> Iterator[Shape]:
    """What the run's plugins make of it. Features are read by hooks that are gone after the block.

    Args:
        network: the student as initialised.
        images, labels: what it is trained on.
        steps, rate: of its training.

    Raises:
        InputError: rows are to be chosen of labels that say themselves which views an epoch visits; classes to be read
            from what learns none.
    """
    shaping = [p for _, p in student_shapers(run.plugins) if offers(p) & (STUDENT_SHAPING - {"augment:evaluate"})]
    if not shaping:
        yield Shape(network)
        return
    _refuse_vectors(run, labels)
    names = tuple(dict.fromkeys(name for plugin in shaping for name in plugin.taps()))
    votes = run.votes("student") if taught(run) else []
    samples = Held(images, labels.classes) if isinstance(images, Tensor) else images
    probe = samples.inputs(torch.arange(min(PROBED, len(samples))))
    teachers = Teaching(votes, probe, names)
    if run.hooks.providers("ddcore_adapt_student"):
        network = _adapted(run, network, probe, names, teachers, generator)
    with tapped(network, names) as features:
        modules = _modules(run, network, probe, features, teachers, samples, generator)
        optimizers = _optimizers(run, modules, rate)
        states: dict[str, dict[str, Any]] = {name: {} for name in run.hooks.names("ddcore_student_rows")}

        def reshape(value: Tensor, output: Tensor, network: Module, batch: Batch, clean: Batch, step: int) -> Tensor:
            seen, teachers = (
                seen_of(output, features),
                Teaching(votes, batch.inputs, names, batch.targets.get("logits")),
            )
            first = int(batch.index[0])

            def drawn(plugin: str) -> torch.Generator:
                return generator("loss", plugin, step, first)

            progress = Progress(step, steps)
            about = {"network": network, "progress": progress, "run": run, "teachers": teachers}
            terms = run.hooks.student_loss(batch, seen, drawn, modules=PerPlugin(modules.get), **about)
            value = math.prod((term.labels for term in terms), start=1.0) * value
            for term in terms:
                value = value + term.weight * term.value
            return value

        yield Shape(
            network,
            reshape,
            _choose(run, samples, labels, votes, states, generator, steps) if states else None,
            Beside(modules, optimizers, states) if modules or states else None,
            any(plugin.whole_batches for plugin in shaping),
        )


def _looked_at(network: Module, images: Tensor, features: Found) -> Seen:
    training = network.training
    seen = seen_of(network.eval()(images), features)
    network.train(training)
    return seen


def _adapted(
    run: Run, network: Module, probe: Tensor, names: Sequence[str], teachers: Teaching, generator: Generators
) -> Module:
    """The student with what plugins put around it."""
    with torch.no_grad(), randomness.drawing_from(generator("around")):
        with tapped(network, names) as features:
            seen = _looked_at(network, probe, features)
        adapted = run.hooks.adapt_student(network, seen, teachers, run)
    return adapted.to(run.device, run.dtype)


def _modules(
    run: Run,
    network: Module,
    probe: Tensor,
    features: Found,
    teachers: Teaching,
    samples: Samples,
    generator: Generators,
) -> dict[str, Module]:
    """What plugins train beside a student, made from what networks make of a few rows."""
    if not run.hooks.providers("ddcore_student_modules"):
        return {}
    with torch.no_grad(), randomness.drawing_from(generator("modules")):
        seen = _looked_at(network, probe, features)
        made = run.hooks.student_modules(network, seen, teachers, samples, run)
    return {plugin: module.to(run.device, run.dtype) for plugin, module in made.items()}


def _optimizers(run: Run, modules: Mapping[str, Module], rate: float) -> dict[str, Optimizer]:
    made = {name: run.plugins[name].module_optimizer(module, rate) for name, module in modules.items()}
    return {
        name: answers.optimizer(optimizer, f"module_optimizer of {run.hooks.who(name)}")
        for name, optimizer in made.items()
        if optimizer is not None
    }


def _refuse_vectors(run: Run, labels: Labels) -> None:
    for name, plugin in student_shapers(run.plugins):
        if not labels.of_classes and CLASS_LOGITS in plugin.needs:
            raise InputError(
                f"{name!r} reads what students answer as classes, and what learns {labels.kind} labels tells none: leave out "
                f"--plugin {name} or choose other --labels"
            )


def _choose(
    run: Run,
    samples: Samples,
    labels: Labels,
    votes: Sequence[Vote],
    states: Mapping[str, dict[str, Any]],
    generator: Generators,
    steps: int,
) -> Choose:
    if labels.own_views:
        remedy = f"leave out --plugin {next(iter(states))} or choose other --labels"
        raise InputError(
            f"{labels.kind} labels say which views an epoch visits, and a plugin would choose its rows: {remedy}"
        )

    def choose(network: Module, epoch: int, step: int) -> Tensor:
        about: dict[str, Any] = {"network": network, "teachers": votes, "epoch": epoch, "run": run}
        about |= {"progress": Progress(step, steps), "state": PerPlugin(states.__getitem__)}
        training = network.training
        network.eval()
        with torch.no_grad():
            rows = run.hooks.student_rows(samples, lambda plugin: generator("rows", plugin, epoch), **about)
        network.train(training)
        return rows

    return choose
