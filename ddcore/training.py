"""The one loop that trains networks: students on a finished set, baselines on real images, experts on all of them.

    for each epoch: for each view of the labels: fetch, augment, loss, SGD

What differs between those is data: a ``Descent`` (steps, batch, rates), where images come from, an augmentation, and
what happens after an epoch. A training that was stopped goes on from its last saved epoch and ends in the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import torch
from attrs import field, frozen
from attrs.validators import ge, gt
from torch import Tensor, nn
from torch.optim import Optimizer

from ddcore.labels import student_loss
from ddcore.passes import TRAINING_CHUNK, backward_in_parts, channels_last, chunk_of, logits, quick_norms
from ddcore.types import Batch, Transform
from ddcore.views import View, changed

if TYPE_CHECKING:
    from ddcore.checkpoints import Checkpoints
    from ddcore.labels import Labels

FETCHED_AT_ONCE = 1024
Generators = Callable[..., torch.Generator]
"""From a key such as ("order", epoch) to a fresh generator."""
Augment = Callable[[int, int], Transform]
"""From (rows of the batch, step) to a drawn transform."""
Reshape = Callable[[Tensor, Tensor, nn.Module, Batch, Batch, int], Tensor]
"""From (mean loss of some rows, logits, network, those rows, the same rows before augmentation, step) to the loss to descend."""
Replace = Callable[[Optimizer, int], Optimizer]
"""From (the descent's SGD, step) to the optimiser that makes this step and those after it."""


class Samples(Protocol):
    """Labelled real images that are normalised as they are fetched: ``run.real.train``, ``run.real.test``."""

    @property
    def labels(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def inputs(self, index: Tensor) -> Tensor: ...


@frozen(kw_only=True)
class Descent:
    """SGD for a number of steps.

    Attributes:
        steps: batches in all; may end within an epoch.
        drop_at: from this step on a *new* optimiser, momentum at zero, goes on at ``rate * drop``; None: never.
    """

    steps: int = field(validator=ge(0))
    batch: int = field(validator=ge(1))
    rate: float = field(validator=gt(0))
    momentum: float = 0.0
    weight_decay: float = 0.0
    drop_at: int | None = None
    drop: float = 0.1

    def optimizer(self, network: nn.Module, step: int) -> Optimizer:
        """The optimiser that makes this step and those after it."""
        dropped = self.drop_at is not None and step >= self.drop_at
        rate = self.rate * self.drop if dropped else self.rate
        parameters = network.parameters()
        return torch.optim.SGD(parameters, rate, self.momentum, weight_decay=self.weight_decay, fused=True)


@frozen
class Epoch:
    """What is known after an epoch.

    Attributes:
        number: counted from 0.
        steps: made so far.
        rate: of its last step.
        loss: mean over its images, each as the network stood when it saw it.
    """

    number: int
    steps: int
    rate: float
    loss: float


@frozen(eq=False)
class Keeper:
    """Keeps an unfinished training.

    Attributes:
        stopping: whether the run was told to stop.
        check_stop: raises then.
    """

    checkpoints: Checkpoints
    key: str
    stopping: Callable[[], bool]
    check_stop: Callable[[], None]

    def begin(self, state: dict[str, Any]) -> int:
        """Fill ``state``; the epoch to begin with."""
        return self.checkpoints.load(self.key, state)

    def epoch_done(self, following: int, state: dict[str, Any]) -> None:
        """Save if it is time to, then stop if asked to."""
        if self.stopping() or self.checkpoints.due():
            self.checkpoints.save(self.key, following, state)
            self.check_stop()


def train_student(
    network: nn.Module,
    images: Tensor | Samples,
    labels: Labels,
    descent: Descent,
    *,
    generator: Generators,
    augment: Augment | None = None,
    reshape: Reshape | None = None,
    replace: Replace | None = None,
    keeper: Keeper | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> nn.Module:
    """Train ``network`` in place.

    Args:
        network: on the images' device; left in train mode.
        images: (N, C, H, W) normalised, or samples that are fetched batch by batch.
        labels: of the N images; they also say in which order and batches an epoch visits them.
        generator: all randomness: asked for ("order", epoch).
        augment: drawn anew for every batch.
        reshape: changes the loss that is descended; the one that is reported stays the labels' own.
        replace: changes the optimiser.
        on_epoch: told after every epoch, the last one possibly cut short by ``descent.steps``.

    Returns:
        The same network. One whose loss became NaN is trained to the end all the same: judge it by ``is_finite``.
    """

    def optimizer(step: int) -> Optimizer:
        plain = descent.optimizer(network, step)
        return plain if replace is None else replace(plain, step)

    state: dict[str, Any] = {"network": network, "optimizer": optimizer(0), "step": 0}
    epoch = keeper.begin(state) if keeper else 0
    network.train()
    while state["step"] < descent.steps:
        total, seen = torch.zeros((), device=next(network.parameters()).device), 0
        views = labels.views(epoch, len(images), descent.batch, generator("order", epoch))
        for view in islice(views, descent.steps - state["step"]):
            if state["step"] == descent.drop_at:
                state["optimizer"] = optimizer(state["step"])
            clean = batch = batch_of(images, labels, view)
            if augment is not None:
                batch = augment(len(batch), state["step"])(batch)
            own = None if reshape is None else partial(_reshaped, reshape, clean, state["step"])
            total = total + len(batch) * train_step(network, state["optimizer"], batch, labels.recipe, own)
            seen += len(batch)
            state["step"] += 1
        epoch += 1
        if on_epoch is not None:
            rate = state["optimizer"].param_groups[0]["lr"]
            on_epoch(Epoch(epoch - 1, state["step"], rate, float(total) / max(1, seen)))
        if keeper is not None:
            keeper.epoch_done(epoch, state)
    return network


def batch_of(images: Tensor | Samples, labels: Labels, view: View) -> Batch:
    """The rows a view of the labels names, changed and mixed as it says, with their targets, on the images' device."""
    fetch = _rows_of(images) if isinstance(images, Tensor) else images.inputs
    inputs = changed(view, fetch(view.index))
    targets = {name: value.to(inputs.device) for name, value in labels.targets(view, inputs).items()}
    return Batch(inputs, targets, view.index.to(inputs.device))


def _rows_of(images: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda index: images[index.to(images.device)]


Backward = Callable[[nn.Module, Batch, Any], Tensor]


def train_step(
    network: nn.Module, optimizer: Optimizer, batch: Batch, recipe: Any, backward: Backward | None = None
) -> Tensor:
    """One step on one batch; its mean loss before the step, detached.

    The optimiser is given a closure, as those that look twice at a batch (sharpness-aware ones) need: each call clears the
    gradients and makes new ones of the same batch. Only the first call moves batch statistics, and gives the loss.

    Args:
        backward: adds the gradient and returns the labels' own mean loss; None takes the labels' own.
    """
    first: list[Tensor] = []

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with _still_statistics(network) if first else nullcontext():
            value = (backward or _own_backward)(network, batch, recipe)
        first.append(value)
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    return first[0]


def _own_backward(network: nn.Module, batch: Batch, recipe: Any) -> Tensor:
    return backward_in_parts(network, batch.inputs, batch.targets, lambda out, own: student_loss(out, own, recipe))


def _reshaped(reshape: Reshape, clean: Batch, step: int, network: nn.Module, batch: Batch, recipe: Any) -> Tensor:
    """``_own_backward`` with another loss, in the same parts; what ``reshape`` calls finds torch's own norms."""
    size = chunk_of(network, batch.inputs, TRAINING_CHUNK)
    total = torch.zeros((), dtype=batch.inputs.dtype, device=batch.inputs.device)
    for rows in torch.arange(len(batch), device=batch.index.device).split(size):  # type: ignore[no-untyped-call]
        part, share = batch.rows(rows), len(rows) / len(batch)
        with quick_norms(part.inputs):
            output = network(channels_last(part.inputs))
            value = student_loss(output, part.targets, recipe)
        (reshape(value, output, network, part, clean.rows(rows), step) * share).backward()  # type: ignore[no-untyped-call]
        total += value.detach() * share
    return total


@contextmanager
def _still_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norms use their batch's statistics and do not remember them."""
    tracking = [m for m in network.modules() if getattr(m, "track_running_stats", False)]
    for module in tracking:
        module.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True  # type: ignore[assignment]


def is_finite(network: nn.Module) -> bool:
    """Whether every weight is a number."""
    return all(bool(torch.isfinite(p).all()) for p in network.parameters())


def accuracy(network: nn.Module, samples: Samples, *, index: Tensor | None = None) -> float:
    """Share of samples whose class has the highest logit, in [0, 1]; the network's train or eval mode stays.

    A network with NaN weights scores what its arbitrary answer scores: near chance.

    Args:
        index: (M,) which samples; all by default.
    """
    training = network.training
    network.eval()
    index = torch.arange(len(samples)) if index is None else index
    right = torch.zeros((), dtype=torch.int64)
    for rows in torch.split(index, FETCHED_AT_ONCE):
        answers = logits(network, samples.inputs(rows)).argmax(1)
        right += (answers.cpu() == samples.labels[rows].cpu()).sum()
    network.train(training)
    return int(right) / max(1, len(index))
