"""The one loop that trains networks: students on a finished set, baselines on real images, experts on all of them.

    for each epoch: for each view of the labels: fetch, augment, loss, step

What differs between those is data: a ``Descent`` (steps, batch, optimiser, rates), where images come from, an
augmentation, and what happens after an epoch. A training that was stopped goes on from its last saved epoch and ends in
the same bits: rates are a function of the step alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import torch
from attrs import astuple, evolve, field, frozen
from attrs.validators import and_, ge, gt, in_, instance_of, not_, optional
from torch import Tensor, nn
from torch.optim import Optimizer

from ddcore.api.types import Answers, Batch, Transform
from ddcore.images.views import View
from ddcore.labels import student_loss
from ddcore.networks.passes import (
    TRAINING_CHUNK,
    backward_in_parts,
    channels_last,
    chunk_of,
    groups,
    logits,
    mixed_precision,
    quick_norms,
)
from ddcore.randomness import drawing_from

if TYPE_CHECKING:
    from ddcore.api.services import Samples
    from ddcore.labels import Labels
    from ddcore.storage.checkpoints import Checkpoints

FETCHED_AT_ONCE = 1024
WARM = 0.01
"""The share of the rate that a warm-up begins with, as in torchvision's reference training."""

OptimizerName = Literal["sgd", "adam", "adamw"]
OPTIMIZERS: tuple[OptimizerName, ...] = ("sgd", "adam", "adamw")
ScheduleName = Literal["drop", "cosine", "steps"]
SCHEDULES: tuple[ScheduleName, ...] = ("drop", "cosine", "steps")
Backward = Callable[[nn.Module, Batch, Any], Tensor]
"""From (network, batch, the labels' recipe) to the labels' own mean loss,
after adding the gradient of what is descended."""
Generators = Callable[..., torch.Generator]
"""From a key such as ("order", epoch) to a fresh generator."""
Augment = Callable[[int, int], Transform]
"""From (rows of the batch, step) to a drawn transform."""
Reshape = Callable[[Tensor, Tensor, nn.Module, Batch, Batch, int], Tensor]
"""From (mean loss of some rows, logits, network, those rows, the same rows before augmentation, step) to the loss to
descend."""
Replace = Callable[[Optimizer, int], Optimizer]
"""From (the descent's optimiser, step) to the optimiser that makes this step and those after it."""
Choose = Callable[[nn.Module, int, int], Tensor]
"""From (network, epoch, step) to the rows (n,) int64 that this epoch visits, each as often as it is named."""


def rate_at(
    step: int,
    rate: float,
    steps: int,
    *,
    schedule: ScheduleName = "drop",
    stretch: float = 1.0,
    per_epoch: int | None = None,
    warmup: int = 0,
    drops: Sequence[int] = (),
) -> float:
    """``Descent.rate_at`` of a descent that has these and nothing else.

    >>> [rate_at(t, 1.0, 100, schedule="cosine") for t in (0, 50, 100)]
    [1.0, 0.5, 0.0]
    """
    descent = Descent(
        steps=steps,
        batch=1,
        rate=rate,
        schedule=schedule,
        stretch=stretch,
        per_epoch=per_epoch,
        warmup=warmup,
        drops=tuple(drops),
    )
    return descent.rate_at(step)


def _whole(least: int) -> Any:
    return and_(instance_of(int), not_(instance_of(bool)), ge(least))


@frozen(kw_only=True)
class Descent:
    """How a network is trained for a number of steps.

    Attributes:
        steps: batches in all; may end within an epoch.
        momentum: of SGD; Adam and AdamW take betas (0.9, 0.999) and eps 1e-8.
        nesterov: whether SGD's momentum is Nesterov's.
        weight_decay: of SGD and Adam added to the gradient, of AdamW apart from it (Loshchilov and Hutter,
            arXiv:1711.05101).
        drop_at: from this step on a *new* optimiser, its state at zero, goes on at ``rate * drop``; None: never. Of the
            schedule ``drop`` alone.
        drops: steps from which on the rate is ``drop`` times what it was, with the same optimiser; of the schedule
            ``steps``.
        decay_biases: whether tensors of fewer than 2 axes (biases, norms) decay too.
        schedule: ``drop``, ``cosine`` or ``steps``; see ``rate_at``.
        stretch: eta of the cosine.
        floor: what the cosine falls to.
        per_epoch: steps of an epoch, within which the rate stands still; None: it changes every step.
        warmup: steps, linear.
        group: rows of a batch that pass at once, one group after the other, gradients averaged over the batch:
            BatchNorm sees exactly these groups (CV-DD, arXiv:2501.07575), a lone last row with those before it. None:
            BatchNorm sees whole batches.
        whole: whether a batch, or a group, passes at once whatever the network: for losses that compare rows.
        amp: whether passes are made in bfloat16 where torch's autocast says so; weights and their sums stay as they
            are.
    """

    steps: int = field(validator=ge(0))
    batch: int = field(validator=ge(1))
    rate: float = field(validator=gt(0))
    momentum: float = 0.0
    weight_decay: float = 0.0
    drop_at: int | None = None
    drop: float = 0.1
    drops: tuple[int, ...] = ()
    optimizer: OptimizerName = field(default="sgd", validator=in_(OPTIMIZERS))
    decay_biases: bool = field(default=True, validator=instance_of(bool))
    schedule: ScheduleName = field(default="drop", validator=in_(SCHEDULES))
    stretch: float = field(default=1.0, validator=ge(1))
    per_epoch: int | None = field(default=None, validator=optional(_whole(1)))
    warmup: int = field(default=0, validator=_whole(0))
    group: int | None = field(default=None, validator=optional(_whole(2)))
    whole: bool = field(default=False, validator=instance_of(bool))
    amp: bool = field(default=False, validator=instance_of(bool))
    nesterov: bool = field(default=False, validator=instance_of(bool))
    floor: float = field(default=0.0, validator=ge(0))

    def __attrs_post_init__(self) -> None:
        if self.schedule != "drop" and self.drop_at is not None:
            raise ValueError(
                f"the schedule {self.schedule!r} has no step drop_at, which is {self.drop_at}: leave it out"
            )

    @property
    def moves(self) -> bool:
        """Whether the rate changes between the optimisers that are made."""
        return self.schedule != "drop" or self.warmup > 0

    def rate_at(self, step: int) -> float:
        """The rate of step t, counted from 0, with T = ``steps`` and W = ``warmup``.

        For t < W it is rate (0.01 + 0.99 t / W). From then on ``cosine`` has rate / 2 (1 + cos(pi (t - W) / (eta (T -
        W)))), with eta = ``stretch``: the half cosine of RDED (arXiv:2312.03526) and CV-DD (arXiv:2501.07575) for 2,
        which ends at rate / 2; ``drop`` has the rate, times ``drop`` for t >= ``drop_at``; and ``steps`` has it times
        ``drop`` for each of ``drops`` that t has reached. Warm-up and cosine stand still within ``per_epoch`` steps, at
        the first one's value, and a cosine falls to ``floor`` in the place of 0.
        """
        rate, start, floor = self.rate, self.warmup, self.floor
        t = step - step % self.per_epoch if self.per_epoch else step
        if t < start:
            return rate * (WARM + (1 - WARM) * t / start)
        if self.schedule == "cosine":
            length = self.stretch * max(1, self.steps - start)
            return floor + (rate - floor) / 2 * (1 + math.cos(math.pi * (t - start) / length))
        if self.schedule == "steps":
            return rate * self.drop ** sum(step >= at for at in self.drops)
        return rate * self.drop if self.drop_at is not None and step >= self.drop_at else rate

    def build(self, network: nn.Module, step: int) -> Optimizer:
        """The optimiser that makes this step and those after it."""
        parameters, rate, decay = self._parameters(network), self.rate_at(step), self.weight_decay
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                parameters, rate, self.momentum, weight_decay=decay, nesterov=self.nesterov, fused=True
            )
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        return kind(parameters, rate, betas=(0.9, 0.999), weight_decay=decay, fused=True)

    def _parameters(self, network: nn.Module) -> Any:
        if self.decay_biases:
            return network.parameters()
        matrices = [p for p in network.parameters() if p.dim() >= 2]
        others = [p for p in network.parameters() if p.dim() < 2]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        return [settings for settings in groups if settings["params"]]


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
        more: what else is kept with the training, by name; filled in place when it goes on.
    """

    checkpoints: Checkpoints
    key: str
    stopping: Callable[[], bool]
    check_stop: Callable[[], None]
    more: Mapping[str, dict[str, Any]] = field(factory=dict)

    def begin(self, state: dict[str, Any]) -> int:
        """Fill ``state``; the epoch to begin with."""
        state.update(self.more)
        return self.checkpoints.load(self.key, state)

    def epoch_done(self, following: int, state: dict[str, Any]) -> None:
        """Save if it is time to, then stop if asked to."""
        if self.stopping() or self.checkpoints.due():
            self.checkpoints.save(self.key, following, state)
            self.check_stop()


@frozen(eq=False)
class Beside:
    """Modules that are trained with a network.

    Attributes:
        modules: by name.
        optimizers: of some of them, by the same names, each with a rate of its own that falls as the network's does;
            the others join the network's.
        state: what else is kept in checkpoints, by name.
    """

    modules: Mapping[str, nn.Module] = field(factory=dict)
    optimizers: Mapping[str, Optimizer] = field(factory=dict)
    state: Mapping[str, dict[str, Any]] = field(factory=dict)
    _rates: dict[str, list[float]] = field(factory=dict, init=False)

    def joined(self) -> list[nn.Module]:
        """Those that the network's optimiser trains."""
        return [module for name, module in self.modules.items() if name not in self.optimizers]

    def begin(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""
        for name, optimizer in self.optimizers.items():
            self._rates[name] = [group["lr"] for group in optimizer.param_groups]
        return {
            "beside": {name: module.train() for name, module in self.modules.items()},
            "optimizers": dict(self.optimizers),
            "plugins": dict(self.state),
        }

    def cleared(self, backward: Backward) -> Backward:
        """The same, after the gradients that are not the network's optimiser's were cleared too."""

        def clear(network: nn.Module, batch: Batch, recipe: Any) -> Tensor:
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            return backward(network, batch, recipe)

        return clear if self.optimizers else backward

    def step(self, share: float) -> None:
        """Move those with optimisers of their own, at ``share`` of their rates."""
        for name, optimizer in self.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self._rates[name], strict=True):
                group["lr"] = share * rate
            optimizer.step()


@frozen(eq=False)
class Changes:
    """What else than the labels and the descent has a say in a training; all of it may be left out.

    Attributes:
        augment: drawn anew for every batch.
        reshape: changes the loss that is descended; the one that is reported stays the labels' own.
        replace: changes the optimiser.
        choose: asked before each epoch which rows it visits; None: all. Labels with views of their own say that
            themselves.
        also: trained beside the network, for the loss that ``reshape`` makes.
    """

    augment: Augment | None = None
    reshape: Reshape | None = None
    replace: Replace | None = None
    choose: Choose | None = None
    also: Beside | None = None


def train_student(
    network: nn.Module,
    images: Tensor | Samples,
    labels: Labels,
    descent: Descent,
    *,
    generator: Generators,
    changes: Changes | None = None,
    keeper: Keeper | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> nn.Module:
    """Train ``network`` in place.

    Args:
        network: on the images' device; left in train mode.
        images: (N, C, H, W) normalised, or samples that are fetched batch by batch.
        labels: of the N images; they also say in which order and batches an epoch visits them.
        generator: all randomness: asked for ("order", epoch), and for ("dropout", step), from which torch's own
            generators draw.
        on_epoch: told after every epoch, the last one possibly cut short by ``descent.steps``; of a training that was
            stopped after its last epoch once more.

    Returns:
        The same network. One whose loss became NaN is trained to the end all the same: judge it by ``is_finite``.
    """
    training = _Training(network, images, labels, descent, generator, changes or Changes())
    state = training.state
    epoch = keeper.begin(state) if keeper else 0
    network.train()
    if state["last"] is not None and training.over and on_epoch is not None:
        on_epoch(Epoch(*state["last"]))
    while not training.over:
        done = training.epoch(epoch)
        epoch += 1
        state["last"] = list(astuple(done))
        if on_epoch is not None:
            on_epoch(done)
        if keeper is not None:
            keeper.epoch_done(epoch, state)
    return network


@frozen(eq=False)
class _Training:
    """One network's descent.

    Attributes:
        state: what a checkpoint holds of it: the network, its optimiser, steps made so far, the last epoch, what is
            beside it.
        shares: each group's rate, as a share of the descent's.
    """

    network: nn.Module
    images: Tensor | Samples
    labels: Labels
    descent: Descent
    generator: Generators
    changes: Changes
    state: dict[str, Any] = field(init=False)
    shares: list[float] = field(init=False)

    @state.default
    def _begun(self) -> dict[str, Any]:
        beside = self.changes.also.begin() if self.changes.also else {}
        return {"network": self.network, "optimizer": self._optimizer(0), "step": 0, "last": None, **beside}

    @shares.default
    def _of_groups(self) -> list[float]:
        return [group["lr"] / self.descent.rate_at(0) for group in self.state["optimizer"].param_groups]

    @property
    def over(self) -> bool:
        """Whether all steps are made."""
        return bool(self.state["step"] >= self.descent.steps)

    def epoch(self, number: int) -> Epoch:
        """Make an epoch's steps, or what is left of them."""
        state, steps, choose = self.state, self.descent.steps, self.changes.choose
        total, seen = torch.zeros((), device=next(self.network.parameters()).device), 0
        rows = None if choose is None else choose(self.network, number, state["step"])
        count = len(self.images) if rows is None else len(rows)
        views = self.labels.views(number, count, self.descent.batch, self.generator("order", number))
        for view in islice(views, steps - state["step"]):
            loss, size = self._step(view if rows is None else evolve(view, index=rows[view.index]))
            total, seen = total + size * loss, seen + size
        return Epoch(number, state["step"], state["optimizer"].param_groups[0]["lr"], float(total) / max(1, seen))

    def _step(self, view: View) -> tuple[Tensor, int]:
        """Make a step; the labels' own mean loss before it, and of how many rows."""
        step, descent, changes, labels = self.state["step"], self.descent, self.changes, self.labels
        self._set_rate(step)
        clean = batch = batch_of(self.images, labels, view)
        if changes.augment is not None:
            batch = changes.augment(len(batch), step)(batch)
        batch = labels.answered(batch)
        plain = _own_backward if changes.reshape is None else partial(_reshaped, changes.reshape, clean, step)
        own: Backward = partial(plain, how=descent)
        own = changes.also.cleared(own) if changes.also else own
        with drawing_from(self.generator("dropout", step), next(self.network.parameters()).device):
            loss = train_step(self.network, self.state["optimizer"], batch, labels.recipe, own)
        if changes.also:
            changes.also.step(descent.rate_at(step) / descent.rate)
        self.state["step"] = step + 1
        return loss, len(batch)

    def _set_rate(self, step: int) -> None:
        """Give the optimiser the step's rate; from ``drop_at`` on a new one."""
        if step == self.descent.drop_at:
            self.state["optimizer"] = self._optimizer(step)
        if self.descent.moves:
            for settings, share in zip(self.state["optimizer"].param_groups, self.shares, strict=True):
                settings["lr"] = share * self.descent.rate_at(step)

    def _optimizer(self, step: int) -> Optimizer:
        also, replace = self.changes.also, self.changes.replace
        plain = self.descent.build(nn.ModuleList([self.network, *also.joined()]) if also else self.network, step)
        return plain if replace is None else replace(plain, step)


def batch_of(images: Tensor | Samples, labels: Labels, view: View) -> Batch:
    """The rows a view of the labels names, changed and mixed as it says, with their targets, on the images' device.

    Labels that answer for finished images say here only what does not depend on them.
    """
    fetch = _rows_of(images) if isinstance(images, Tensor) else images.inputs
    inputs = labels.changed(view, fetch(view.fetched))
    targets = {
        name: value.to(inputs.device) for name, value in labels.targets(view, None if labels.online else inputs).items()
    }
    return Batch(inputs, targets, view.index.to(inputs.device))


def _rows_of(images: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda index: images[index.to(images.device)]


def train_step(
    network: nn.Module, optimizer: Optimizer, batch: Batch, recipe: Any, backward: Backward | None = None
) -> Tensor:
    """One step on one batch; its mean loss before the step, detached.

    The optimiser is given a closure, as those that look twice at a batch (sharpness-aware ones) need: each call clears
    the gradients and makes new ones of the same batch. Only the first call moves batch statistics, and gives the loss.

    Args:
        backward: adds the gradient and returns the labels' own mean loss; None takes the labels' own.
    """
    first: list[Tensor] = []

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with still_statistics(network) if first else nullcontext():
            value = (backward or _own_backward)(network, batch, recipe)
        first.append(value)
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    return first[0]


def _own_backward(network: nn.Module, batch: Batch, recipe: Any, how: Descent | None = None) -> Tensor:
    def loss(output: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        return student_loss(output.float() if amp else output, targets, recipe)

    amp = how is not None and how.amp
    with mixed_precision(batch.inputs.device, amp):
        return backward_in_parts(network, batch.inputs, batch.targets, loss, chunk=_parts(network, batch, how))


def _reshaped(
    reshape: Reshape, clean: Batch, step: int, network: nn.Module, batch: Batch, recipe: Any, how: Descent | None = None
) -> Tensor:
    """``_own_backward`` with another loss, in the same parts; what ``reshape`` calls finds torch's own norms."""
    sizes, amp = _parts(network, batch, how), how is not None and how.amp
    total = torch.zeros((), device=batch.index.device)
    for rows in torch.arange(len(batch), device=batch.index.device).split(sizes):  # type: ignore[no-untyped-call]
        part, share = batch.rows(rows), len(rows) / len(batch)
        with mixed_precision(part.inputs.device, amp):
            with quick_norms(part.inputs):
                output = network(channels_last(part.inputs))
            output = output.float() if amp else output
            value = student_loss(output, part.targets, recipe)
            reshaped = reshape(value, output, network, part, clean.rows(rows), step)
        (reshaped * share).backward()  # type: ignore[no-untyped-call]
        total = total + value.detach() * share
    return total


def _parts(network: nn.Module, batch: Batch, how: Descent | None) -> int | list[int]:
    """Rows of a batch that pass at once: groups, or as many as the network and the machine like; both give its mean."""
    if how is not None and how.group is not None and len(batch) > how.group:
        return groups(len(batch), how.group)
    whole = how is not None and how.whole
    return len(batch) if whole else chunk_of(network, batch.inputs, TRAINING_CHUNK)


@contextmanager
def still_statistics(network: nn.Module) -> Iterator[None]:
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


def answers_of(
    network: nn.Module, samples: Samples, *, index: Tensor | None = None, with_logits: bool = False
) -> Answers:
    """Ask a network in eval mode; its train or eval mode stays.

    Args:
        index: (M,) which samples; all by default.
        with_logits: whether the answers keep all logits, M K numbers.
    """
    training = network.training
    network.eval()
    index = torch.arange(len(samples)) if index is None else index
    answers, sure, kept = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)], []
    for rows in torch.split(index, FETCHED_AT_ONCE):
        output = logits(network, samples.inputs(rows))
        best = output.argmax(1)
        answers.append(best.cpu())
        sure.append(output.float().softmax(1).gather(1, best[:, None])[:, 0].cpu())
        if with_logits:
            kept.append(output.float().cpu())
    network.train(training)
    right = samples.labels[index.to(samples.labels.device)].cpu()
    return Answers(torch.cat(answers), torch.cat(sure), right, torch.cat(kept) if kept else None)


def accuracy(network: nn.Module, samples: Samples, *, index: Tensor | None = None) -> float:
    """Share of samples whose class has the highest logit, in [0, 1]; the network's train or eval mode stays.

    A network with NaN weights scores what its arbitrary answer scores: near chance.

    Args:
        index: (M,) which samples; all by default.
    """
    return answers_of(network, samples, index=index).accuracy
