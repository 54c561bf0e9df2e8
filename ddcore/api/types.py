"""The values that pass through hooks. Shape letters: B rows of a batch, N stored rows, C H W pixels, K classes, P weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import attrs
import torch
from attrs import field, frozen
from torch import Tensor, nn
from torch.optim import Optimizer

from ddcore.errors import InputError, near

MATCH, INNER, STUDENT_STEP = "match", "inner", "student_step"
EXPERT, LABEL, EVALUATE = "expert", "label", "evaluate"
PHASES = (MATCH, INNER, STUDENT_STEP, EXPERT, LABEL, EVALUATE)
"""Where batches are used: matched with real ones; inner training of a network on the synthetic set (dc); steps of an
unrolled student (mtt); training experts; labelling; training students on a finished set."""

SETTINGS = frozenset({"student_step.batch", "match.crop_scale", "match.variance_weight"})
"""Numbers of a stage that enhancements may change through ``ddcore_setting``; a matcher lists those it asks in ``asks``: rows of
an unrolled student's step; least area of a crop of synthetic images; weight of variances in the loss of batch statistics."""

TARGETS = ("class", "logits", "mixed", "lam", "distance", "embedding", "weight")
"""The vocabulary of ``Batch.targets``, each with leading axis B: class (B,) int64; logits (B, K) before the softmax;
mixed (B,) int64 second class and lam (B,) share of the first; distance (B, 2); embedding (B, D); weight (B,)."""

VECTORS = "vectors"
ROLES = ("pixels", "labels", "rate", VECTORS)
"""What a learned tensor is, whatever its name: enhancements address roles."""


@frozen(eq=False)
class Batch:
    """Rows that belong together.

    Attributes:
        inputs: images (B, C, H, W) float, normalised as the data set says; or a graph batch, or features (B, D).
        targets: tensors with leading axis B under the names of ``TARGETS``.
        index: (B,) int64, which stored row each row came from; repeats when a view copies rows.
    """

    inputs: Any
    targets: Mapping[str, Tensor]
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def with_inputs(self, inputs: Any) -> Batch:
        """The same rows with other inputs, row for row."""
        return attrs.evolve(self, inputs=inputs)

    def rows(self, where: Tensor | slice) -> Batch:
        """The rows at ``where`` (indices, a boolean mask or a slice); every target follows."""
        targets = {name: value[where] for name, value in self.targets.items()}
        return Batch(self.inputs[where], targets, self.index[where])

    def joined(self, other: Batch) -> Batch:
        """These rows, then the other's; both have the same targets."""
        targets = {name: torch.cat([value, other.targets[name]]) for name, value in self.targets.items()}
        return Batch(torch.cat([self.inputs, other.inputs]), targets, torch.cat([self.index, other.index]))


class Transform(Protocol):
    """A drawn change of a batch that can be replayed: same number of rows, same axes, differentiable in the inputs."""

    def __call__(self, batch: Batch) -> Batch: ...


@frozen(eq=False)
class Sequential:
    """Transforms one after the other; none is the identity."""

    transforms: tuple[Transform, ...] = ()

    def __call__(self, batch: Batch) -> Batch:
        for transform in self.transforms:
            batch = transform(batch)
        return batch


@frozen
class Progress:
    """How far a stage is: ``step`` of ``steps``, both counted from 0."""

    step: int
    steps: int

    @property
    def fraction(self) -> float:
        """In [0, 1)."""
        return self.step / max(1, self.steps)


@frozen(eq=False)
class Loss:
    """One loss that a matcher yields.

    Attributes:
        value: scalar with a gradient path to learned tensors. May be a sum that was already cut into parts.
        update: optimisers to step at once, on this loss alone. Empty: they step together when the matcher has yielded everything.
    """

    value: Tensor
    update: tuple[str, ...] = ()


@frozen(eq=False)
class Term:
    """A part of a student's loss.

    Attributes:
        name: for records.
        value: scalar with a gradient path to the student.
        weight: what it is multiplied by.
        labels: what the labels' own loss is multiplied by, for this term's sake; factors of several terms multiply.
    """

    name: str
    value: Tensor
    weight: float = 1.0
    labels: float = 1.0


@frozen(eq=False)
class Vote:
    """A teacher that has a say.

    Attributes:
        network: in eval mode, without gradients in its weights, on the run's device; shared, so never write to it.
        weight: what its loss, or its logits, are multiplied by.
        name: for messages and records.
    """

    network: nn.Module
    weight: float = 1.0
    name: str = "teacher"


@frozen(eq=False)
class Learn:
    """What one task learns, made by the matcher at the task's start and again, identically, at each resume.

    Attributes:
        tensors: what is stored in the end, leaf tensors on the run's device; learned ones require a gradient.
        optimizers: by name; each holds some of ``tensors`` (or tensors of ``state``); the loop steps them.
        roles: tensor name to one of ``ROLES``; enhancements address tensors by role.
        state: what else the matcher keeps across steps (tensors, numbers, strings, Modules), saved in checkpoints.
        fixed: what this function can make again (initial networks, teachers), not saved.
        decoder: how stored tensors become samples, a list of operations (see ``ddcore.sets.decoders``).

    ``labels`` are logits (N, K), saved as soft labels; ``vectors`` (N, D), saved as that label kind; ``rate`` is the student's.
    """

    tensors: dict[str, Tensor]
    optimizers: dict[str, Optimizer]
    roles: Mapping[str, str] = field(factory=dict)
    state: dict[str, Any] = field(factory=dict)
    fixed: Mapping[str, Any] = field(factory=dict)
    decoder: Sequence[Mapping[str, Any]] = ({"op": "rows", "tensor": "pixels"},)

    def named(self, role: str) -> dict[str, Tensor]:
        """The tensors of one role."""
        return {name: self.tensors[name] for name, of in self.roles.items() if of == role}


class Companion:
    """What a plugin has beside one task, from its first step to its last; write what is needed, the rest does nothing.

    Attributes:
        state: tensors, numbers, strings, lists, dicts, Modules and Optimizers by name, saved in checkpoints and filled at a resume.
    """

    def __init__(self, **state: Any) -> None:
        self.state = state

    def after_step(self, step: int, loss: float | None) -> None:
        """Look at what an outer step left; writing to learned tensors is ``ddcore_project``'s. Grad off.

        Args:
            step: 0-based.
            loss: the sum of the step's losses; None when the matcher skipped it and nothing moved.
        """

    def finish(self, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """Change what the task hands on when its last step is done; None leaves it. Grad off.

        Args:
            tensors: by name, as ``Learn.tensors``, detached copies on the CPU; of the same names and there has to be the answer.
        """
        return None


@frozen(eq=False)
class Task:
    """An independent piece of work: a pure function of (config, seed, kind, key, digests of assets and data).

    Attributes:
        kind: ``distil``, ``expert``, ``label`` or ``evaluate``.
        key: names the task's files and its random streams.
        index: position among its siblings; for order only, never for randomness.
        steps: outer steps (distillation), epochs (training).
        classes: (N,) int64, the class of each synthetic row; None when the task makes its own rows (mining).
        slot: what siblings share (for example one committee a slot); part of a random key where methods need it.
        options: plain JSON values that say what to do.
    """

    kind: str
    key: str
    steps: int
    index: int = 0
    slot: int = 0
    classes: Tensor | None = None
    options: Mapping[str, Any] = field(factory=dict)


SMALL = 16
"""Images of fewer pixels a side are for demonstrations: no table is published for them."""


@frozen
class Subject:
    """What students are trained on, as far as a protocol is chosen by it.

    Attributes:
        modality: of the data.
        size: pixels a side.
        labels: their kind.
        of_views: whether there is a label for each view.
        learned_rate: whether a learning rate was learned with the set.
        learned_labels: whether labels were.
    """

    modality: str
    size: int
    labels: str = "hard"
    of_views: bool = False
    learned_rate: bool = False
    learned_labels: bool = False

    @property
    def tiny(self) -> bool:
        """Whether no table is published for them: images under ``SMALL`` pixels a side, and what is no images."""
        return self.modality != "images" or self.size < SMALL


@frozen
class Arm:
    """One thing that students are trained on for a score: which set, under which labels, by which protocol, in which network.

    Attributes:
        set: ``distilled``, ``random``, ``kcenter``, ``random-bytes``, ``full``, an initialiser's, or one of a plugin's ``student_sets``.
        labels: ``hard``, or ``soft`` for the set's own kind and, of real images, the rule that made it.
    """

    set: str
    labels: str
    protocol: str
    network: str


@frozen(eq=False)
class Synthetic:
    """What distillation made, before it is saved.

    Attributes:
        tensors: by name.
        roles: tensor name to one of ``ROLES``; none for what is not images.
        decoder: how the tensors become samples, a list of operations (see ``ddcore.sets.decoders``).
        classes: (N,) int64, the class of each sample.
        preview: a PNG to be looked at, of what is not images.
        notes: what a reader of the artifact should know.
        source_rows: (N,) int64, the row of ``run.real.train`` that a sample is, unchanged, or -1; None: the core looks.
    """

    tensors: Mapping[str, Tensor]
    roles: Mapping[str, str]
    decoder: Sequence[Mapping[str, Any]]
    classes: Tensor
    preview: bytes = b""
    notes: tuple[str, ...] = ()
    source_rows: Tensor | None = None

    def of_role(self, role: str) -> Tensor | None:
        """The tensor of a role, if one was learned."""
        return next((self.tensors[name] for name, of in self.roles.items() if of == role), None)


@frozen(eq=False)
class Segment:
    """A stretch of an expert's training that an unrolled student has to imitate.

    Attributes:
        start: (P,) flat weights where the student begins.
        targets: (weights (P,), share) by inner step, counted from 1: usually one entry at the last step. The loss is
            the share-weighted sum of squared distances over the expert's own squared move to the same target.
        momentum: of the student's SGD.
        expert: which expert; ``epoch`` where the stretch starts, ``ahead`` how many epochs it lasts.
        loss_scale: factor of the student's training loss, and so of its steps.
    """

    start: Tensor
    targets: Mapping[int, tuple[Tensor, float]]
    momentum: float = 0.0
    expert: int = 0
    epoch: int = 0
    ahead: int = 0
    loss_scale: float = 1.0


@frozen
class Unroll:
    """How the student is unrolled.

    Attributes:
        owner: plugin name, the first part of every random key.
        steps: N, SGD steps of the student.
        batch: |b|, distinct images an inner step; None is all of them.
        mode: exact adjoint, TESLA's truncated gradient, or the full graph.
        micro_batch: images whose second-order graph is alive at once; None is what was measured best for their size.
        below: T+, the highest start epoch plus one that the matcher ever draws; None when it does not say.
    """

    owner: str
    steps: int
    batch: int | None
    mode: Literal["adjoint", "tesla", "full"]
    micro_batch: int | None
    below: int | None = None


@frozen
class Cost:
    """What one outer step of a matcher costs, for the estimate before a run.

    Attributes:
        forward: images passed without gradients.
        backward: images passed with gradients.
        second_order: images passed with second-order gradients.
        weights_kept: copies of the network's weights held at once.
    """

    forward: int = 0
    backward: int = 0
    second_order: int = 0
    weights_kept: int = 1


@frozen(eq=False)
class Seen:
    """What a network made of some rows.

    Attributes:
        logits: (B, K).
        features: by the names that were asked for; of a module that ran more than once in the pass, its last output.
        calls: all of its outputs, in order.
    """

    logits: Tensor
    features: Mapping[str, Tensor]
    calls: Mapping[str, Sequence[Tensor]] = field(factory=dict)

    def feature(self, name: str) -> Tensor:
        """A feature by name.

        Raises:
            InputError: it was not asked for.
        """
        if name not in self.features:
            raise InputError(
                f"no feature {name!r} was read: {near(name, self.features)}; name it in the plugin's taps()"
            )
        return self.features[name]


@frozen(eq=False)
class Answers:
    """What a network says about M samples.

    Attributes:
        classes: (M,) int64 on the CPU: those with the highest logit.
        confidence: (M,) float32 on the CPU: their probability.
        labels: (M,) int64 on the CPU: the right ones.
        logits: (M, K) float32 on the CPU, where ``ddcore_examine`` is handed them; else None.
    """

    classes: Tensor
    confidence: Tensor
    labels: Tensor
    logits: Tensor | None = None

    @property
    def right(self) -> Tensor:
        """(M,) bool."""
        return self.classes == self.labels

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return int(self.right.sum()) / max(1, len(self.labels))


@frozen(eq=False)
class Row:
    """One line of ``scores.json``; ``values`` are accuracies, or what ``metric`` says, in [0, 1], the ``better`` the larger or smaller."""

    set: str
    protocol: str
    network: str
    labels: str
    ipc: float
    bytes: Mapping[str, int]
    values: tuple[float, ...]
    steps: int
    seconds: float
    note: str = ""
    metric: str = "accuracy"
    better: Literal["larger", "smaller"] = "larger"
    extra: Mapping[str, Any] = field(factory=dict)
