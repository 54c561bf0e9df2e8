"""Sinkhorn distance between batches of distributions (SinKD: Cui et al., LREC-COLING 2024, arXiv:2402.17110).

The rows of a batch, softened to probabilities, are two clouds of points, the student's and the teacher's. What it costs
to move one cloud onto the other stays informative where the two hardly overlap and a KL divergence does not:

    W_ij = || softmax(z_s / T)_i - softmax(z_t / T)_j ||_1,    L = sum_ij P_ij W_ij

with the plan P that n rounds of Sinkhorn's iteration make of exp(-W / eps). Which row belongs to which is not asked:
the loss rides on labels or on Hinton's loss. Shape letters: B rows, K classes.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from attrs import frozen
from attrs.validators import ge, gt
from torch import Tensor

from ddcore import Plugin, Seen, Term, hookimpl, option
from ddcore.networks import wide
from ddcore.training import Teaching


def costs(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """W (B, B): sums over classes of absolute differences of softened probabilities, each in [0, 2].

    Args:
        student, teacher: logits (B, K), float; below float32 they are taken to float32.
    """
    p_s, p_t = ((wide(z) / temperature).softmax(1) for z in (student, teacher))
    return torch.cdist(p_s, p_t, p=1)


def plan(costs: Tensor, epsilon: float, iterations: int) -> Tensor:
    """P (B, B) >= 0: exp(-W / eps), its rows, then its columns divided by their sums, ``iterations`` times.

    Columns sum to 1, rows nearly, all to B. Made of logarithms, so that it is finite for every eps > 0; the gradient
    goes through all divisions. For large eps all entries are 1 / B; for eps towards 0 it is the cheapest assignment.

    References:
        arXiv:2402.17110; rows first, as in the authors' code.
    """
    log_plan = -costs / epsilon
    for _ in range(iterations):
        log_plan = log_plan.log_softmax(1)
        log_plan = log_plan.log_softmax(0)
    return log_plan.exp()


def sinkhorn(student: Tensor, teacher: Tensor, temperature: float, epsilon: float, iterations: int) -> Tensor:
    """L = sum_ij P_ij W_ij, a scalar in [0, 2 B], summed over rows; of one row the L1 distance of the two
    distributions.

    It stays above 0 for equal logits, since the plan is blurred, and does not change when rows of either side are
    permuted.

    Args:
        student, teacher: logits (B, K).
    """
    cost = costs(student, teacher, temperature)
    return (plan(cost, epsilon, iterations) * cost).sum()


def divergence(student: Tensor, teacher: Tensor, temperature: float, epsilon: float, iterations: int) -> Tensor:
    """``sinkhorn`` less the mean of what each side costs against itself, a scalar: 0 for equal logits."""

    def of(one: Tensor, other: Tensor) -> Tensor:
        return sinkhorn(one, other, temperature, epsilon, iterations)

    return of(student, teacher) - (of(student, student) + of(teacher, teacher)) / 2


@frozen(kw_only=True, eq=False)
class SinKD(Plugin):
    """Students move their batch of distributions onto their teachers'."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "Sinkhorn distance between batches of student and teacher distributions"
    paper: ClassVar[str] = "Sinkhorn Distance Minimization for Knowledge Distillation, arXiv:2402.17110"
    role: ClassVar[str] = "student"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "text", "dense"})
    needs: ClassVar[tuple[str, ...]] = ("teachers", "class_logits")
    whole_batches: ClassVar[bool] = True
    neutral: ClassVar[Mapping[str, object]] = {"weight": 0.0}

    weight: float = option(0.0008, help="weight of the distance, a sum over rows", symbol="lambda", validator=ge(0))
    temperature: float = option(2.0, help="both distributions are softened by it", symbol="T", validator=gt(0))
    epsilon: float = option(0.1, help="how blurred the plan is", symbol="eps", validator=gt(0))
    iterations: int = option(20, help="rounds of Sinkhorn's iteration", symbol="n", validator=ge(1))
    per_row: bool = option(False, help="divide by the batch's rows, so that the weight does not depend on them")
    debiased: bool = option(False, help="subtract what student and teacher cost against themselves")

    @hookimpl
    def ddcore_student_loss(self, seen: Seen, teachers: Teaching) -> Term | None:
        """The distance above, to the teachers' weighted logits."""
        if not self.weight:
            return None
        loss = divergence if self.debiased else sinkhorn
        value = loss(seen.logits, teachers.logits, self.temperature, self.epsilon, self.iterations)
        return Term("sinkd", value / len(seen.logits) if self.per_row else value, self.weight)
