"""Robust active distillation (RAD, Baykal et al., ICLR 2023, arXiv:2210.01213): which rows a costly teacher labels.

Rows that a student is unsure of teach it most, and on them the teacher errs most. A row's gain is g_i = 1 - margin_i if
the teacher is right and 0 if it is wrong; of n rows it is wrong on m that an adversary chooses, knowing with which
probabilities p rows are asked:

    max over p of  min over sets S of m rows of  sum over i not in S of p_i g_i

With g in descending order, H_t = sum over j <= t of 1 / g_j and V(t) = (t - m) / H_t, the best p is (1 / g_i) / H_t* on
the first t* = argmax V rows, and 0 on the others: p g is constant there, so that it does not matter where the teacher
errs. The paper's text was not at hand: this form was derived from its abstract, and is checked against the game's dual.

Shape letters: B rows of a batch, N rows of a pool, K classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import and_, ge, gt, le, lt, optional
from torch import Generator, Tensor, nn

from ddcore import Plugin, Progress, Term, Vote, hookimpl, option
from ddcore.labels import kl_divergence
from ddcore.networks import logits
from ddcore.training import Teaching

if TYPE_CHECKING:
    from ddcore import Run, Samples

Strategy = Literal["rad", "margin", "entropy", "random"]
LEAST = 1e-6
"""The gain of a row whose margin is 1, in the place of 0."""
TIED = 1e-12
"""Relative difference below which values count as equal."""
AT_ONCE = 1024


# ---- the game --------------------------------------------------------------------------------------------------------


def gains(logits_NK: Tensor) -> Tensor:
    """1 - (p_(1) - p_(2)) of the student's softmax, (N,) float64 in [1e-6, 1]: 1 where two classes are level."""
    best = logits_NK.double().softmax(1).topk(2, dim=1).values
    return (1 - best[:, 0] + best[:, 1]).clamp(LEAST, 1)


def robust(gains_N: Tensor, wrong: int) -> tuple[Tensor, float]:
    """The best probabilities against the worst set of m wrong rows, and the expected gain that they are good for.

    Args:
        gains_N: (N,) above 0, in any order and unit.
        wrong: m, 0 to N - 1. With 0 all probability lies on the largest gain.

    Returns:
        p (N,) float64, which adds up to 1 and does not depend on the unit of the gains; V(t*), in their unit. Of
        several best t the largest, so that equal gains get equal probabilities.

    Raises:
        ValueError: a gain that is not above 0; m out of range.
    """
    if not bool((gains_N > 0).all()) or not 0 <= wrong < len(gains_N):
        raise ValueError(f"{len(gains_N)} gains above 0 and 0 to {len(gains_N) - 1} wrong rows are due, not {wrong}")
    g, order = gains_N.double().sort(descending=True, stable=True)
    total = (1 / g).cumsum(0)
    values = (torch.arange(1, len(g) + 1, dtype=torch.float64) - wrong) / total
    # V rises to t as long as g_t is at least V(t - 1), and falls from then on; up to t = m it is at most 0
    more = torch.cat([torch.ones(1, dtype=torch.bool), g[1:] >= values[:-1] * (1 - TIED)])
    support = int(more.long().cumprod(0).sum())
    p = torch.zeros(len(g), dtype=torch.float64)
    p[order[:support]] = 1 / (g[:support] * total[support - 1])
    return p, float(values[support - 1])


def inclusion(p: Tensor, count: int) -> Tensor:
    """Probabilities (N,) with which b different rows are drawn: min(1, c p) with the c for which they add up to b.

    Args:
        p: (N,) that adds up to 1, with at least b rows above 0.

    Raises:
        ValueError: fewer rows above 0.

    >>> inclusion(torch.tensor([0.7, 0.2, 0.1, 0.0]), 2).tolist()
    [1.0, 0.6666666666666666, 0.3333333333333333, 0.0]
    """
    if int((p > 0).sum()) < count:
        raise ValueError(f"{count} different rows asked of {int((p > 0).sum())} with a probability")
    found, sure = count * p.double(), torch.zeros(len(p), dtype=torch.bool)
    while bool((more := (found >= 1) & ~sure).any()):
        sure |= more
        rest = p.double().masked_fill(sure, 0)
        left = count - int(sure.sum())
        found = torch.where(sure, 1.0, left * rest / rest.sum().clamp(min=torch.finfo(torch.float64).tiny))
    return found


def systematic(probabilities: Tensor, count: int, generator: Generator) -> Tensor:
    """b different rows, row i with exactly probability pi_i (Madow, 1949): one uniform number on a ruler of rows in
    random order.

    Args:
        probabilities: (N,) in [0, 1] that add up to b.

    Returns:
        (b,) int64, ascending.
    """
    order = torch.randperm(len(probabilities), generator=generator)
    order = order[probabilities[order] > 0]
    ends = probabilities[order].double().cumsum(0)
    marks = torch.rand((), generator=generator, dtype=torch.float64) + torch.arange(count)
    ends = ends * (count / ends[-1])
    return order[torch.searchsorted(ends, marks, right=True)].sort().values


def drawn(p: Tensor, order: Tensor, count: int, generator: Generator) -> Tensor:
    """b different rows by probabilities that add up to 1; where too few have one, all of these and the next of an
    order.

    Args:
        p: (N,).
        order: (N,) int64: all rows, those to be preferred first.
    """
    support = p > 0
    short = count - int(support.sum())
    if short < 0:
        return systematic(inclusion(p, count), count, generator)
    others = order[~support[order]][:short]
    return torch.cat([support.nonzero()[:, 0], others]).sort().values


def entropy(logits_NK: Tensor) -> Tensor:
    """Of the student's softmax, in nats, (N,) float64 in [0, log K]; 0 log 0 is 0."""
    return torch.special.entr(logits_NK.double().softmax(1)).sum(1)  # type: ignore[no-any-return]


def query(strategy: Strategy, logits_NK: Tensor, wrong: int, count: int, generator: Generator) -> Tensor:
    """Which b of N rows are asked about, (b,) int64, ascending.

    Args:
        logits_NK: the student's, of the pool.
        wrong: m of ``rad``.
    """
    if strategy == "random":
        return torch.randperm(len(logits_NK), generator=generator)[:count].sort().values
    if strategy == "entropy":
        return entropy(logits_NK).argsort(descending=True, stable=True)[:count].sort().values
    g = gains(logits_NK)
    order = g.argsort(descending=True, stable=True)
    if strategy == "margin":
        return order[:count].sort().values
    return drawn(robust(g, wrong)[0], order, count, generator)


# ---- the plugin ------------------------------------------------------------------------------------------------------


@frozen(kw_only=True, eq=False)
class RAD(Plugin):
    """A teacher is asked about more rows in each round; the student sees no others."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "students learn from a teacher that is asked about few rows, chosen round by round"
    paper: ClassVar[str] = "Robust Active Distillation, ICLR 2023, arXiv:2210.01213"
    role: ClassVar[str] = "student"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "text", "dense"})
    needs: ClassVar[tuple[str, ...]] = ("teachers", "class_logits")
    neutral: ClassVar[Mapping[str, object]] = {
        "share": 1.0,
        "rounds": 1,
        "held": 0.0,
        "strategy": "random",
        "weight": 0.0,
        "label_weight": 1.0,
    }

    share: float = option(
        0.2, help="of the rows that are asked about in all rounds", symbol="b / n", validator=and_(gt(0), le(1))
    )
    rounds: int = option(5, help="in which rows are chosen; the first by chance", symbol="R", validator=ge(1))
    strategy: Strategy = option("rad", help="robust; or, to compare: the smallest margin, the largest entropy, chance")
    held: float = option(
        0.1,
        help="share of the rows kept apart, on whose labels the teacher's errors are counted",
        validator=and_(ge(0), lt(1)),
    )
    error: float | None = option(
        None,
        help="share of rows on which the teacher is wrong; none: as counted",
        symbol="m / n",
        validator=optional(and_(ge(0), le(1))),
    )
    temperature: float = option(1.0, help="of the teacher's labels", symbol="T", validator=gt(0))
    weight: float = option(1.0, help="weight of the teacher's labels, with the factor T^2", validator=ge(0))
    label_weight: float = option(0.0, help="weight of the labels' own loss", validator=ge(0))

    def __attrs_post_init__(self) -> None:
        if self.strategy == "rad" and self.error is None and not self.held:
            raise ValueError(
                "rad has to know how often the teacher is wrong, and held is 0: give error, or a share held"
            )

    def visited(self, count: int) -> int:
        """The rows of the last round: a student makes as many steps as on all of these from the start."""
        return self.budget(count)

    def budget(self, count: int) -> int:
        """b: the share of all rows, of which what is held apart cannot be asked about."""
        return max(1, min(round(self.share * count), count - self.apart(count)))

    def apart(self, count: int) -> int:
        """How many rows are held apart."""
        return min(count - 1, math.ceil(self.held * count))

    @hookimpl
    def ddcore_student_loss(self, output: Tensor, teachers: Teaching) -> Term:
        """The teacher's labels."""
        if not self.weight:
            return Term("rad", output.new_zeros(()), labels=self.label_weight)
        value = kl_divergence(output, teachers.logits, self.temperature, tau_squared=True).mean()
        return Term("rad", value, self.weight, self.label_weight)

    @hookimpl
    def ddcore_student_rows(
        self,
        rows: Tensor,
        samples: "Samples",
        network: nn.Module,
        teachers: Sequence[Vote],
        progress: Progress,
        state: dict[str, Any],
        generator: Generator,
        run: "Run",
    ) -> Tensor:
        """All rows that were asked about so far, after those of a new round, in ascending order."""
        if "pool" not in state:
            self.begin(rows, samples, teachers, state, generator)
        number = min(self.rounds - 1, int(progress.fraction * self.rounds))
        due = self.due(number, len(rows))
        if len(state["asked"]) < due:
            self.ask(network, samples, due - len(state["asked"]), state, generator)
            self.say(run, number, samples, teachers, state)
        return state["asked"]  # type: ignore[no-any-return]

    def due(self, number: int, count: int) -> int:
        """How many of ``count`` rows were asked about after a round, counted from 0.

        >>> [RAD(share=0.1, rounds=3).due(number, 100) for number in range(3)]
        [3, 7, 10]
        """
        return max(1, round(self.budget(count) * (number + 1) / self.rounds))

    def begin(
        self, rows: Tensor, samples: "Samples", teachers: Sequence[Vote], state: dict[str, Any], generator: Generator
    ) -> None:
        """Hold rows apart, and count on them how often the teachers are wrong."""
        apart = self.apart(len(rows))
        mixed = rows[torch.randperm(len(rows), generator=generator)]
        held, state["pool"] = mixed[:apart], mixed[apart:].sort().values
        state["asked"] = torch.empty(0, dtype=torch.int64)
        if self.error is not None:
            state["error"] = self.error
        else:
            state["error"] = wrong_share(held, samples, teachers) if self.strategy == "rad" else 0.0

    def ask(
        self, network: nn.Module, samples: "Samples", count: int, state: dict[str, Any], generator: Generator
    ) -> None:
        """Move rows from the pool to those that were asked about; the first time by chance:
        the student knows nothing."""
        pool, asked = state["pool"], state["asked"]
        first = not len(asked)
        state["wrong"] = min(len(pool) - 1, round(state["error"] * len(pool)))
        if first or self.strategy == "random":
            new = torch.randperm(len(pool), generator=generator)[:count]
        else:
            new = query(self.strategy, seen_by(network, samples, pool), state["wrong"], count, generator)
        left = torch.ones(len(pool), dtype=torch.bool)
        left[new] = False
        state["pool"], state["asked"] = pool[left], torch.cat([asked, pool[new]]).sort().values
        state["new"] = pool[new]

    def say(self, run: "Run", number: int, samples: "Samples", teachers: Sequence[Vote], state: dict[str, Any]) -> None:
        """A line of the log: what was asked, of which classes, and how often the teachers' best class was right."""
        new = state["new"]
        classes = samples.labels.cpu()[new].bincount(minlength=len(run.source.classes)).tolist()
        right = 1 - wrong_share(new, samples, teachers)
        facts = {"round": number, "rows": new.tolist(), "classes": classes, "right": right}
        run.log("rad", strategy=self.strategy, wrong=state["wrong"], asked=len(state["asked"]), **facts)


def seen_by(network: nn.Module, samples: "Samples", rows: Tensor) -> Tensor:
    """Logits of rows, (n, K) on the CPU."""
    parts: Sequence[Tensor] = rows.split(AT_ONCE)  # type: ignore[no-untyped-call]
    return torch.cat([logits(network, samples.inputs(part)).cpu() for part in parts])


def wrong_share(rows: Tensor, samples: "Samples", teachers: Sequence[Vote]) -> float:
    """On how many of these rows the teachers' weighted logits are highest at a class that is not the label's, in [0,
    1]."""
    found = torch.stack([vote.weight * seen_by(vote.network, samples, rows) for vote in teachers]).sum(0)
    return float((found.argmax(1) != samples.labels.cpu()[rows]).double().mean())
