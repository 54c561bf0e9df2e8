"""Mixup in distillation: part of a batch is mixed, and each row's temperature is the deviation of its logits (WACV
2023, arXiv:2211.03946).

    x'_i = l_i x_a(i) + (1 - l_i) x_b(i),    y'_i the same mix of one-hot classes,

with two random orders a and b of the batch, l_i ~ Beta(beta, beta) for the rows that are mixed and 1 for the others;
teachers answer for x'. With s(z) = z over the deviation of a row's logits (divisor K - 1), the student's and the
teacher's each by its own,

    L = gamma mean_B ( -sum_K y' log softmax(s(z_s)) ) + alpha mean_B KL( softmax(s(z_t)) || softmax(s(z_s)) ).

Shape letters: B rows, K classes.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from attrs import frozen
from attrs.validators import and_, ge, gt, le
from torch import Generator, Tensor

from ddcore import Batch, InputError, Plugin, Seen, Sequential, Term, Transform, hookimpl, option
from ddcore.images import beta
from ddcore.labels import kl_divergence
from ddcore.training import Teaching

LEAST = 1e-6
"""Of a deviation: a row of equal logits has none, and would be divided by 0."""
BETWEEN = and_(ge(0), le(1))


def standardised(logits: Tensor) -> Tensor:
    """Each row over its own standard deviation, of divisor K - 1 and at least 1e-6; (B, K) to (B, K).

    The gradient flows through the deviation too. The largest number leads the others by at most sqrt(K), so that no
    softmax of it is above e^sqrt(K) / (e^sqrt(K) + K - 1): 0.724 for 10 classes, 0.9955 for 100.

    >>> standardised(torch.tensor([[0.0, 2.0, 4.0]])).tolist()
    [[0.0, 1.0, 2.0]]
    """
    return logits / logits.std(1, keepdim=True).clamp(min=LEAST)


def mixed_cross_entropy(student: Tensor, classes: Tensor, mixed: Tensor, share: Tensor) -> Tensor:
    """Mean over rows of -sum_K y' log softmax(s(z)), y' = share of ``classes``, the rest of ``mixed``; a scalar.

    Args:
        student: logits (B, K), not yet standardised.
        classes, mixed: (B,) int64.
        share: (B,) in [0, 1].
    """
    log_p = standardised(student).log_softmax(1)
    own, other = (log_p.gather(1, ids[:, None])[:, 0] for ids in (classes, mixed))
    return -(share * own + (1 - share) * other).mean()


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of KL(softmax(s(z_t)) || softmax(s(z_s))), without a factor of temperature; a scalar.

    Args:
        student, teacher: logits (B, K), not yet standardised.
    """
    return kl_divergence(standardised(student), standardised(teacher)).mean()


def mix(values: Tensor, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """share_i v_first(i) + (1 - share_i) v_second(i), along the first axis of anything.

    Args:
        values: (B, ...) float.
        first, second: (B,) int64, orders of the rows.
        share: (B,) of the first, in [0, 1].

    >>> values, first, second = torch.tensor([[0.0], [4.0]]), torch.tensor([1, 0]), torch.tensor([0, 1])
    >>> mix(values, first, second, torch.tensor([0.75, 1.0])).tolist()
    [[3.0], [0.0]]
    """
    share = share.to(values).view(-1, *[1] * (values.dim() - 1))
    return share * values[first] + (1 - share) * values[second]


def shares(count: int, fraction: float, shape: float, generator: Generator, *, legacy: bool = False) -> Tensor:
    """How much each row keeps of its first image, (count,) float64: 1 for the rows that are not mixed.

    Args:
        fraction: of the rows that are mixed, in expectation over batches; for ``legacy``: what the authors' code calls
            so.
        shape: of Beta(shape, shape).
        legacy: the floor(count (1 - fraction)) rows to be left alone are drawn with replacement, as in the authors'
            code, so that (1 - 1/count)^floor(...) of the rows are mixed: of 64 for 0.1 0.408, for 0.5 0.604.
    """
    drawn = torch.stack([beta(shape, generator) for _ in range(count)])
    if legacy:
        alone = torch.randint(count, (int(count * (1 - fraction) + LEAST),), generator=generator)
    else:
        least = count * fraction
        mixed = int(least + float(torch.rand((), generator=generator, dtype=torch.float64)))
        alone = torch.randperm(count, generator=generator)[mixed:]
    drawn[alone] = 1.0
    return drawn


@frozen(eq=False)
class PartialMixup:
    """A drawn mix, with each row put where its first image was: row a(i) of what comes out is x'_i.

    So rows keep their place, index and class, and only ``mixed`` and ``lam`` are new; a mean over rows is the same.

    Attributes:
        first, second: (B,) int64, orders of the rows.
        share: (B,) float64 of the first.
    """

    first: Tensor
    second: Tensor
    share: Tensor

    def __call__(self, batch: Batch) -> Batch:
        """The rows, mixed.

        Raises:
            InputError: they are mixed already.
        """
        if "mixed" in batch.targets:
            raise InputError(
                "mixup-kd mixes batches that the protocol or another plugin has mixed: choose a --protocol without mixes, such as kd"
            )
        device = batch.index.device
        place = self.first.argsort()
        second, share = self.second[place].to(device), self.share[place].to(device)
        own, rows = batch.targets["class"], torch.arange(len(batch), device=device)
        told = {"mixed": torch.where(share < 1, own[second], own), "lam": share.to(batch.inputs)}
        if "logits" in batch.targets:
            told["logits"] = mix(batch.targets["logits"], rows, second, share)
        return Batch(mix(batch.inputs, rows, second, share), {**batch.targets, **told}, batch.index)


@frozen(kw_only=True, eq=False)
class MixupKD(Plugin):
    """Students and teachers see partly mixed batches; logits are compared in units of their deviation."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "distils on partly mixed batches, with the deviation of each row's logits as temperature"
    paper: ClassVar[str] = (
        "Understanding the Role of Mixup in Knowledge Distillation: An Empirical Study, WACV 2023, arXiv:2211.03946"
    )
    role: ClassVar[str] = "student"
    needs: ClassVar[tuple[str, ...]] = ("teachers", "class_logits")
    augment_phases: ClassVar[tuple[str, ...]] = ("evaluate",)
    neutral: ClassVar[Mapping[str, object]] = {
        "mixed_fraction": 0.0,
        "weight": 0.0,
        "hard_weight": 0.0,
        "label_weight": 1.0,
    }

    weight: float = option(0.9, help="weight of the teachers' standardised logits", symbol="alpha", validator=ge(0))
    hard_weight: float = option(
        0.1, help="weight of the cross entropy of standardised logits", symbol="gamma", validator=ge(0)
    )
    label_weight: float = option(0.0, help="weight of the labels' own loss, not standardised", validator=ge(0))
    mixed_fraction: float = option(
        0.1, help="share of a batch's rows that are mixed; 0: no mixup, 1: all of them", validator=BETWEEN
    )
    beta: float = option(1.0, help="shares are drawn from Beta(beta, beta)", symbol="a", validator=and_(gt(0), le(10)))
    legacy: bool = option(False, help="draw the rows to leave alone with replacement: more are mixed than asked for")

    @hookimpl
    def ddcore_augment(self, transform: Transform, count: int, shared: bool, generator: Generator) -> Transform | None:
        """Mix some rows of a batch; nothing without any to be mixed, or where all rows are to get the same."""
        if shared or (self.mixed_fraction == 0 and not self.legacy):
            return None
        first, second = (torch.randperm(count, generator=generator) for _ in range(2))
        share = shares(count, self.mixed_fraction, self.beta, generator, legacy=self.legacy)
        return Sequential((transform, PartialMixup(first, second, share)))

    @hookimpl
    def ddcore_student_loss(self, batch: Batch, seen: Seen, teachers: Teaching) -> Term:
        """The cross entropy and the teachers' part of the formula above."""
        told, student = batch.targets, seen.logits
        mixed, share = told.get("mixed", told["class"]), told.get("lam", student.new_ones(len(student)))
        hard = mixed_cross_entropy(student, told["class"], mixed, share.to(student))
        answers = torch.stack([v.weight * s.logits for v, s in zip(teachers.votes, teachers.seen, strict=True)]).sum(0)
        value = self.weight * divergence(student, answers.to(student)) + self.hard_weight * hard
        return Term("mixup-kd", value, labels=self.label_weight)
