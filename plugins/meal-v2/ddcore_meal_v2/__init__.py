"""MEAL V2: a trained student is tuned on the mean probability of several teachers, without hard labels
(arXiv:2009.08453).

    p = sum_t v_t softmax(z_t),    L = w_sim mean_B ( -sum_K p log softmax(z_s) ) + w_d L_D,

    L_D = mean over 2B rows and 2 answers of BCE( D(z), (1, 0) for a student's row, (0, 1) for the teachers' )

with votes v_t that sum to 1. D is a small network on logits; the teachers' row is sum_t v_t z_t. In the authors' code
student and D descend the same L_D, so the student is drawn to where D can tell it from the teachers; ``discriminator``
says who descends what.

Shape letters: B rows, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import ge, gt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ddcore import Plugin, Seen, Term, hookimpl, option
from ddcore.training import Protocol, Teaching
from ddcore_meal_v2.protocols import PROTOCOLS

SHRINKS = 8
"""Each of the discriminator's two hidden layers is so many times narrower than what it reads."""
NARROWEST = 2
MOMENTUM = 0.9
Mode = Literal["off", "joint", "detached", "reversed"]


def averaged(logits: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """The weighted mean of softmax(z_t) over teachers.

    It is not the softmax of the mean of logits: a teacher that is surer does not count for more.

    Args:
        logits: of each teacher, (B, K) float.
        weights: of each, summing to 1; None: equal ones.

    Returns:
        (B, K), rows sum to 1.

    >>> averaged([torch.tensor([[0.0, 0.0]]), torch.tensor([[100.0, 0.0]])])
    tensor([[0.7500, 0.2500]])
    """
    weights = [1 / len(logits)] * len(logits) if weights is None else weights
    return torch.stack([w * z.softmax(1) for w, z in zip(weights, logits, strict=True)]).sum(0)


def similarity(student: Tensor, probabilities: Tensor) -> Tensor:
    """-sum_K p log softmax(z_s), mean over rows; a scalar.

    Args:
        student: logits (B, K).
        probabilities: p (B, K), rows sum to 1.

    Returns:
        At least the mean entropy of p, and that where softmax(z_s) = p; its gradient in z_s is (softmax(z_s) - p) / B.
    """
    return F.cross_entropy(student, probabilities)


class Discriminator(nn.Module):
    """Linear K -> K // 8 -> K // 64 -> 2, a ReLU after each: 1000, 125, 15 and 2 on ImageNet; no layer is narrower than
    2.

    The last ReLU keeps both answers at 0 or more, so that L_D is never under log(2) / 2, and a dead one has log 2 and
    no gradient.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        wide, narrow = (max(NARROWEST, width) for width in (classes // SHRINKS, classes // SHRINKS**2))
        sizes = [classes, wide, narrow, 2]
        layers = [(nn.Linear(into, out), nn.ReLU()) for into, out in zip(sizes, sizes[1:], strict=False)]
        self.layers = nn.Sequential(*(part for pair in layers for part in pair))

    def forward(self, logits: Tensor) -> Tensor:
        """(B, K) to (B, 2), at least 0."""
        return self.layers(logits)  # type: ignore[no-any-return]


def separation(student: Tensor, teacher: Tensor) -> Tensor:
    """L_D: how badly a discriminator tells the student's rows from the teachers', a scalar.

    Args:
        student, teacher: its answers (B, 2) before the sigmoid; due are (1, 0) and (0, 1).

    Returns:
        Mean over 2B rows and 2 answers of the binary cross entropy; log 2 where all answers are 0.

    >>> separation(torch.zeros(3, 2), torch.zeros(3, 2)).exp()
    tensor(2.)
    """
    due = torch.eye(2, dtype=student.dtype, device=student.device)
    targets = torch.cat([due[:1].expand_as(student), due[1:].expand_as(teacher)])
    return F.binary_cross_entropy_with_logits(torch.cat([student, teacher]), targets)


def shown(student: Tensor, mode: Mode) -> Tensor:
    """The student's logits as the discriminator gets them: the same numbers, with the gradient of the mode.

    Args:
        student: (B, K).
        mode: ``joint``: as it is; ``detached``: none; ``reversed``: times -1.
    """
    if mode == "detached":
        return student.detach()
    return 2 * student.detach() - student if mode == "reversed" else student


@frozen(kw_only=True, eq=False)
class MEALV2(Plugin):
    """Students match the mean probability of teachers, and nothing else."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "tunes a trained student on the mean probability of several teachers, without hard labels"
    paper: ClassVar[str] = (
        "MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks, arXiv:2009.08453"
    )
    role: ClassVar[str] = "student"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    modality: ClassVar[frozenset[str]] = frozenset({"images", "text", "dense"})
    needs: ClassVar[tuple[str, ...]] = ("teachers", "class_logits")
    neutral: ClassVar[Mapping[str, object]] = {"weight": 0.0, "label_weight": 1.0}

    weight: float = option(1.0, help="weight of the similarity loss", symbol="w_sim", validator=ge(0))
    label_weight: float = option(0.0, help="weight of the labels' own loss", validator=ge(0))
    discriminator: Mode = option("off", help="who descends its loss: off, joint, detached, reversed")
    discriminator_weight: float = option(1.0, help="weight of its loss", symbol="w_d", validator=ge(0))
    discriminator_rate: float = option(
        1e-4, help="its learning rate; falls as the student's does", unit="a step", validator=gt(0)
    )

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_student_modules(self, seen: Seen) -> nn.Module | None:
        """The discriminator, if there is one."""
        return None if self.discriminator == "off" else Discriminator(seen.logits.shape[1])

    def module_optimizer(self, modules: nn.Module, rate: float) -> Optimizer:
        """SGD with momentum, without weight decay, at a rate of its own."""
        return torch.optim.SGD(modules.parameters(), lr=self.discriminator_rate, momentum=MOMENTUM)

    @hookimpl
    def ddcore_student_loss(self, seen: Seen, teachers: Teaching, modules: nn.Module | None) -> Term:
        """The similarity loss and the discriminator's."""
        votes = [vote.weight for vote in teachers.votes]
        answers = [told] if (told := teachers.told) is not None else [other.logits for other in teachers.seen]
        weights = [1.0] if told is not None else votes
        value = self.weight * similarity(seen.logits, averaged(answers, weights))
        if modules is not None:
            mean = torch.stack([w * z for w, z in zip(weights, answers, strict=True)]).sum(0)
            gap = separation(modules(shown(seen.logits, self.discriminator)), modules(mean))
            value = value + self.discriminator_weight * gap
        return Term("meal-v2", value, labels=self.label_weight)
