"""What a plugin's answer has to be, and on which device it lies. Whatever it is not is one sentence that names hook,
plugin, distribution and version.

Each function takes an answer and ``who`` gave it, such as "ddcore_view of 'fyi' (ddcore-fyi 0.1.0)", and returns the
answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ddcore import devices
from ddcore.api.services import StudentData
from ddcore.api.types import (
    VECTORS,
    Batch,
    Companion,
    Learn,
    Loss,
    Row,
    Segment,
    Synthetic,
    Task,
    Term,
    Transform,
    Vote,
)
from ddcore.data.source import Source
from ddcore.errors import NonFiniteLoss, PluginError
from ddcore.labels import Labels
from ddcore.sets.decoders import is_operation

T = TypeVar("T")
MIX = {"mixed", "lam"}
"""Targets that a transform adds where it mixes rows."""


def source(answer: object, who: str) -> Source:
    """Real data, on the CPU."""
    found = _kind(answer, Source, who, "the data, a ddcore.data.Source")
    for split in (found.train, found.test):
        for tensor in (split.stored, split.labels):
            if isinstance(tensor, Tensor):
                _lies(tensor, devices.THE_CPU, who, "data")
    return found


def network(answer: object, who: str) -> nn.Module:
    """A classifier that says its features."""
    found = _kind(answer, nn.Module, who, "a torch Module")
    if not callable(getattr(found, "embed", None)):
        raise PluginError(
            f"{who} returned a network without embed(images): give the input (B, D) of its last linear layer"
        )
    return found


def executor(answer: object, who: str) -> Any:
    """Something that does tasks."""
    if not callable(getattr(answer, "map", None)):
        raise PluginError(
            f"{who} returned {_name(answer)} where an executor is due: give it map(run_url, tasks, jobs, done)"
        )
    return answer


def recipe(answer: object, who: str) -> Any:
    """An evaluation protocol."""
    if not (isinstance(getattr(answer, "name", None), str) and callable(getattr(answer, "schedule", None))):
        raise PluginError(
            f"{who} returned {_name(answer)} where an evaluation protocol is due: return a ddcore.training.Protocol"
        )
    return answer


def images(answer: object, who: str, shape: tuple[int, ...]) -> Tensor:
    """One finite image a class given."""
    found = _kind(answer, Tensor, who, f"images of shape {shape}")
    if tuple(found.shape) != shape:
        raise PluginError(
            f"{who} returned images of shape {tuple(found.shape)} where {shape} is due: one a class given"
        )
    return finite(found, who)


def setting(answer: object, before: object, who: str) -> object:
    """A number of the kind that came in."""
    kinds = (int, float) if isinstance(before, float) else type(before)
    if isinstance(answer, bool) or not isinstance(answer, kinds):
        raise PluginError(f"{who} turned {before!r} into {answer!r}: return a {_name(before)}, or None to leave it")
    return answer


def transform(answer: object, who: str) -> Transform:
    """Something that changes batches."""
    if not callable(answer):
        raise PluginError(f"{who} returned {_name(answer)} where a transform is due: return a function of a Batch")
    return answer


def projected(answer: object, before: Tensor, who: str) -> Tensor:
    """The learned tensor, in its shape and type."""
    found = _kind(answer, Tensor, who, "the learned tensor")
    _lies(found, before.device, who, "the learned tensor")
    if found.shape != before.shape or found.dtype != before.dtype:
        got, due = f"{tuple(found.shape)} {found.dtype}", f"{tuple(before.shape)} {before.dtype}"
        raise PluginError(f"{who} returned {got} where {due} is due: keep shape and type")
    return finite(found, who)


def labels(answer: object, who: str, count: int, classes: int) -> Labels:
    """A label for each image."""
    found = _kind(answer, Labels, who, "labels")  # type: ignore[type-abstract]
    if (len(found), found.class_count) != (count, classes):
        got = f"{len(found)} labels of {found.class_count} classes"
        raise PluginError(f"{who} returned {got} where {count} of {classes} are due: label every image given")
    for tensor in found.tensors().values():
        finite(_lies(tensor, devices.THE_CPU, who, "labels"), who)
    return found


def rows(answer: object, who: str, taken: Collection[tuple[str, str]]) -> Sequence[Row]:
    """Lines of scores, under sets' names and networks that nobody else uses together."""
    found = _kind(answer, list, who, "a list of rows")
    for row in found:
        _kind(row, Row, who, "a Row")
        if (row.set, row.network) in taken:
            raise PluginError(f"{who} calls a row {row.set!r}, which is the core's name for another: rename it")
        if "total" not in row.bytes:
            raise PluginError(f"{who} does not say what {row.set!r} costs: give its bytes with a 'total'")
        if not row.values or not all(0 <= value <= 1 for value in row.values):
            raise PluginError(f"{who} scores {row.set!r} by {row.values}: give accuracies as fractions in [0, 1]")
    return found


def student_data(answer: object, who: str) -> StudentData:
    """What a student is trained on; images on any device."""
    found = _kind(answer, StudentData, who, "a StudentData")
    if len(found.images) != len(found.labels) or not len(found.images):
        got = f"{len(found.images)} images and {len(found.labels)} labels"
        raise PluginError(f"{who} returned {got}: give one of each for every row, and one row at least")
    return found


def examined(answer: object, who: str) -> dict[str, Tensor]:
    """Numbers by name."""
    found: dict[str, Tensor] = _kind(answer, dict, who, "a dict of tensors by name")
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.dim() > 1:
            raise PluginError(
                f"{who} found {name!r}, which is no number and no row of numbers: give 0-d or 1-d tensors"
            )
    return found


def term(answer: object, who: str) -> Term:
    """A finite part of a loss."""
    found = _kind(answer, Term, who, "a Term")
    if not isinstance(found.value, Tensor) or found.value.shape != ():
        raise PluginError(f"{who} returned a term that is no scalar tensor: take the mean over the rows")
    return found


def rows_of(answer: object, before: Tensor, who: str, count: int) -> Tensor:
    """Some of a set's rows, by number."""
    found = _kind(answer, Tensor, who, "row numbers")
    if found.dtype != torch.int64 or found.dim() != 1 or not len(found):
        raise PluginError(
            f"{who} returned {tuple(found.shape)} {found.dtype} where row numbers (m,) int64 are due, one or more"
        )
    if int(found.min()) < 0 or int(found.max()) >= count:
        raise PluginError(
            f"{who} returned rows {int(found.min())} to {int(found.max())} of {count}: number them from 0"
        )
    return found.cpu()


def student(answer: object, before: nn.Module, who: str) -> nn.Module:
    """A network around a student."""
    found = network(answer, who)
    if not any(part is before for part in found.modules()):
        raise PluginError(f"{who} returned a network that does not hold the student it was given: put it inside")
    return found


def batch(answer: object, before: Batch, who: str, *, same_rows: bool) -> Batch:
    """A batch of the same axes, whose targets and index follow its rows."""
    found = _kind(answer, Batch, who, "the batch it was given, changed,")
    lengths = {len(found.index), *(len(v) for v in found.targets.values())}
    if isinstance(found.inputs, Tensor):
        lengths.add(len(found.inputs))
        got, due = tuple(found.inputs.shape[1:]), tuple(before.inputs.shape[1:])
        if got != due:
            raise PluginError(
                f"{who} returned images of shape {got} where {due} is due: keep the axes of what comes in"
            )
        if not devices.is_cuda(found.inputs.device):  # a look at a device waits for all that it was asked
            finite(found.inputs.detach().sum(), who)
    added = set(found.targets) - set(before.targets)
    if len(lengths) != 1 or not set(found.targets) >= set(before.targets) or not added <= (MIX if same_rows else set()):
        raise PluginError(f"{who} changed rows without their targets or index: repeat or permute all of them alike")
    _lie_together(found, before, who)
    if same_rows and len(found) != len(before):
        raise PluginError(
            f"{who} turned {len(before)} rows into {len(found)}: only ddcore_view may change their number"
        )
    return found


def _lie_together(found: Batch, before: Batch, who: str) -> None:
    """What came in stays where it was; what is added to the targets lies beside the inputs."""
    given: Tensor = before.index
    if isinstance(found.inputs, Tensor) and isinstance(before.inputs, Tensor):
        given = before.inputs
        _lies(found.inputs, given.device, who, "images")
    _lies(found.index, before.index.device, who, "the index")
    for name, value in found.targets.items():
        _lies(value, before.targets.get(name, given).device, who, f"the target {name!r}")


def expert_loss(answer: object, before: Tensor, who: str) -> Tensor:
    """A loss to descend."""
    if not isinstance(answer, Tensor) or answer.shape != () or not answer.requires_grad:
        raise PluginError(f"{who} returned no scalar with a gradient: return the changed loss, or None to leave it")
    return _lies(answer, before.device, who, "a loss")


def optimizer(answer: object, who: str) -> Optimizer:
    """What makes a step with a closure."""
    return _kind(answer, Optimizer, who, "an optimiser")


def segment(answer: object, before: Segment, who: str) -> Segment:
    """A stretch of the same weights."""
    found = _kind(answer, Segment, who, "the segment it was given, changed by attrs.evolve,")
    due = before.start.shape, before.start.dtype
    if any((w.shape, w.dtype) != due for w in (found.start, *(w for w, _ in found.targets.values()))):
        raise PluginError(f"{who} returned weights of another shape or type than {tuple(due[0])} {due[1]}: keep them")
    for weights in (found.start, *(w for w, _ in found.targets.values())):
        _lies(weights, before.start.device, who, "weights")
    return found


def finished(answer: object, before: dict[str, Tensor], who: str) -> dict[str, Tensor]:
    """The learned tensors by the same names."""
    found = _kind(answer, dict, who, "the dict of learned tensors")
    if set(found) != set(before):
        raise PluginError(f"{who} returned other tensors than were learned: return {', '.join(sorted(before))}")
    for name, tensor in found.items():
        _lies(tensor, devices.THE_CPU, who, f"the tensor {name!r}")
    return found


def learn(answer: object, who: str, device: torch.device) -> Learn:
    """What a task learns: what optimisers move lies on the run's device."""
    found = _kind(answer, Learn, who, "Learn(tensors, optimizers)")
    for name, tensor in found.tensors.items():
        if tensor.requires_grad:
            _lies(tensor, device, who, f"the tensor {name!r}")
    return found


def tasks(answer: object, who: str) -> list[Task]:
    """Work of the kind ``distil``, each under a key of its own."""
    found: list[Task] = _kind(answer, list, who, "a list of tasks")
    for one in found:
        if (classes := _kind(one, Task, who, "a Task").classes) is not None:
            _lies(classes, devices.THE_CPU, who, "a task's classes")
    keys = {one.key for one in found}
    if not found or len(keys) != len(found) or any(one.kind != "distil" for one in found):
        raise PluginError(
            f"{who} returned {len(found)} tasks under {len(keys)} keys: give distil tasks, each its own key"
        )
    return found


def companion(answer: object, who: str) -> Companion:
    """What goes with a task."""
    found = _kind(answer, Companion, who, "a Companion")
    if not isinstance(getattr(found, "state", None), dict):
        raise PluginError(f"{who} returned a companion without a state: call super().__init__() in its own __init__")
    return found


def module(answer: object, who: str) -> nn.Module:
    """Something to train."""
    return _kind(answer, nn.Module, who, "a torch Module")


def votes(answer: object, who: str, device: torch.device) -> list[Vote]:
    """Teachers that answer alike for one image and for many."""
    found: list[Vote] = _kind(answer, list, who, "a list of votes")
    for vote in found:
        _knows(teacher(_kind(vote, Vote, who, "a Vote").network, None, who), device, who)
    if not sum(abs(vote.weight) for vote in found):
        raise PluginError(f"{who} returned {len(found)} votes that weigh nothing: give at least one teacher a say")
    return found


def teacher(answer: object, before: object, who: str) -> nn.Module:
    """A network in eval mode."""
    found = _kind(answer, nn.Module, who, "a torch Module")
    if found.training:
        raise PluginError(f"{who} returned a teacher in training mode, whose answers depend on the batch: call eval()")
    given = next(before.parameters(), None) if isinstance(before, nn.Module) else None
    return found if given is None else _knows(found, given.device, who)


def synthetic(answer: object, who: str) -> Synthetic:
    """A set to save."""
    return _kind(answer, Synthetic, who, "a Synthetic")


def stored(answer: object, before: Synthetic, who: str) -> Synthetic:
    """The same samples stored otherwise, or several for each, one after the other."""
    found = synthetic(answer, who)
    _lies(found.classes, devices.THE_CPU, who, "classes")
    each, rest = divmod(len(found.classes), max(1, len(before.classes)))
    if rest or not each or not torch.equal(found.classes, before.classes.repeat_interleave(each)):
        raise PluginError(
            f"{who} returned samples of other classes than it was given: keep them and their order, and where one becomes "
            "several, let them follow each other (ddcore.sets.several)"
        )
    learned = [t for role in ("labels", VECTORS) if (t := found.of_role(role)) is not None]
    if labels := [each for each in learned if len(each) != len(found.classes)]:
        raise PluginError(
            f"{who} made {len(found.classes)} samples, and {len(labels[0])} have learned labels: repeat them alike (ddcore.sets.several)"
        )
    return found


def source_rows(found: Synthetic, there: int, who: str) -> None:
    """Rows of the train split, one a sample, or -1."""
    rows = found.source_rows
    whole = isinstance(rows, Tensor) and rows.dtype == torch.int64 and rows.shape == found.classes.shape
    if rows is None or not whole or bool(((rows < -1) | (rows >= there)).any()):
        raise PluginError(
            f"{who} gives source_rows that are not one row of the {there} train images a sample: give (N,) int64, -1 for none"
        )


def unchanged(images: Tensor, real: Tensor, who: str) -> None:
    """Images that are the real ones they are said to be, bit for bit."""
    if not torch.equal(images, real.to(images.dtype)):
        raise PluginError(f"{who} names source_rows that are other images: give -1 where an image was changed")


def picture(answer: object, who: str) -> bytes:
    """A PNG."""
    if not isinstance(answer, bytes) or not answer.startswith(b"\x89PNG\r\n\x1a\n"):
        raise PluginError(f"{who} returned {_name(answer)} that is no PNG: return the bytes of one, or none")
    return answer


def operation(answer: object, who: str) -> Any:
    """Something that decodes."""
    if not is_operation(answer):
        raise PluginError(f"{who} gives {_name(answer)} where an operation is due: give it count and sample")
    return answer


def finite(tensor: Tensor, who: str) -> Tensor:
    """No NaN, nothing infinite."""
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise PluginError(f"{who} returned NaN or infinite values: mend the plugin, or try milder options of it")
    return tensor


def yielded(answer: object, who: str, matcher: str, step: int, device: torch.device) -> float:
    """The value of a loss that a matcher yields at a step: a finite scalar with a graph, where its run computes.

    Raises:
        NonFiniteLoss: it is NaN or infinite.
    """
    if not torch.is_grad_enabled():
        raise PluginError(f"{who} yielded inside no_grad at step {step}: leave the block before you yield")
    if not isinstance(answer, Loss) or answer.value.numel() != 1:
        raise PluginError(f"{who} yielded {_name(answer)} at step {step}: yield Loss(scalar)")
    _lies(answer.value, device, who, "a loss")
    value = float(answer.value.detach())
    if not torch.isfinite(answer.value.detach()).all():
        raise NonFiniteLoss(
            f"the loss that {who} yields became {value} at step {step}; the last good checkpoint is kept: "
            f"try a smaller learning rate (`ddcore plugins show {matcher}` lists it), then run again into a new --out"
        )
    return value


def _knows(network: nn.Module, device: torch.device, who: str) -> nn.Module:
    for tensor in (*network.parameters(), *network.buffers()):
        _lies(tensor, device, who, "a network")
    return network


def _lies(tensor: Tensor, device: torch.device, who: str, what: str) -> Tensor:
    """The tensor, which lies where the hook's contract says."""
    if not devices.same(tensor, device):
        way_out = "call its cpu()" if device.type == devices.CPU else "move it by .to(run.device)"
        raise PluginError(f"{who} returned {what} on {tensor.device.type} where {device.type} is due: {way_out}")
    return tensor


def _kind(answer: object, kind: type[T], who: str, due: str) -> T:
    if not isinstance(answer, kind):
        raise PluginError(f"{who} returned {_name(answer)} where {due} is due: mend the plugin's return value")
    return answer


def _name(answer: object) -> str:
    return type(answer).__name__
