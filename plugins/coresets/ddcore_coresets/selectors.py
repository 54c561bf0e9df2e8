"""Selectors: from the scores, features or similarities of N samples to the positions of those to keep, in pick order.

All take ``count`` <= N and give (count,) int64, distinct, on the CPU. Apply them class by class for a balanced set.

Shape letters: N samples, D features, M some of the samples.
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush

import torch
from attrs import frozen
from torch import Generator, Tensor

from ddcore.images import kcenter, random_choice
from ddcore.networks import wide

ENTRIES_AT_ONCE = 2**22
"""Similarities that are held at once."""


# ---- by score --------------------------------------------------------------------------------------------------------


def top(scores_N: Tensor, count: int, generator: Generator | None = None) -> Tensor:
    """The samples of the highest scores, highest first.

    Args:
        generator: shuffles samples of equal score; without one the lower position goes first.

    >>> top(torch.tensor([1.0, 3.0, 2.0, 3.0]), 3)
    tensor([1, 3, 2])
    """
    return ranked(-scores_N.double(), generator)[: _checked(count, len(scores_N))]


def bottom(scores_N: Tensor, count: int, generator: Generator | None = None) -> Tensor:
    """The samples of the lowest scores, lowest first; see ``top``.

    >>> bottom(torch.tensor([1.0, 3.0, 2.0, 3.0]), 2)
    tensor([0, 2])
    """
    return ranked(scores_N, generator)[: _checked(count, len(scores_N))]


def middle(scores_N: Tensor, count: int, generator: Generator | None = None) -> Tensor:
    """The samples of the middle ranks, (N - count) / 2 left out on either side, lowest first.

    References:
        Xia et al., ICLR 2023, whose code rounds a half to even, as this does.

    >>> middle(torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 6.0]), 2)
    tensor([4, 2])
    """
    first = round((len(scores_N) - _checked(count, len(scores_N))) / 2)
    return ranked(scores_N, generator)[first : first + count]


def ranked(scores_N: Tensor, generator: Generator | None = None) -> Tensor:
    """All positions, (N,), by ascending score; equal scores shuffled by ``generator``, else in order of position."""
    scores = scores_N.cpu()
    if generator is None:
        return scores.argsort(stable=True)
    shuffled = torch.randperm(len(scores), generator=generator)
    return shuffled[scores[shuffled].argsort(stable=True)]


def coverage(scores_N: Tensor, count: int, *, cut: float, strata: int, generator: Generator) -> Tensor:
    """Coverage-centric selection: drop the hardest samples, then draw from all levels of the others' scores alike.

    Args:
        scores_N: low = hard, as ``aum``.
        cut: beta, the share of samples that are dropped for their lowest scores; fewer if ``count`` would not be left.
        strata: levels of equal width between the lowest and the highest score left.

    Returns:
        Stratum by stratum from hard to easy, in random order inside.

    References:
        Zheng et al., ICLR 2023, arXiv:2210.15809, algorithm 1.
    """
    dropped = min(int(cut * len(scores_N)), len(scores_N) - _checked(count, len(scores_N)))
    left = ranked(scores_N)[dropped:].sort().values
    levels = levels_of(scores_N.cpu()[left], strata)
    budgets = allocate(levels.bincount(minlength=strata), count)
    pools = (left[levels == level] for level in range(strata))
    return torch.cat([p[random_choice(len(p), b, generator)] for p, b in zip(pools, budgets, strict=True)])


def levels_of(scores_N: Tensor, strata: int) -> Tensor:
    """Which of ``strata`` levels of equal width each score is in, from 0 at the lowest; all in level 0 if all are
    equal.

    The upper end lies a ten-thousandth of the highest score above it, so that the highest is in the last level; the
    authors multiply by 1.0001, which for a negative highest score ends below it and loses samples.

    >>> levels_of(torch.tensor([0.0, 1.0, 4.9, 5.1, 10.0]), 2)
    tensor([0, 0, 0, 1, 1])
    """
    low, high = scores_N.min(), scores_N.max()
    width = (high + 1e-4 * high.abs() - low) / strata
    if high == low:
        return torch.zeros(len(scores_N), dtype=torch.int64)
    return ((scores_N - low) / width).long().clamp(max=strata - 1)


def allocate(populations: Tensor, count: int) -> list[int]:
    """How many to take from each stratum: the smallest strata first, each at most its even share of what is still due.

    >>> allocate(torch.tensor([10, 1, 10]), 9), allocate(torch.tensor([10, 0, 10]), 3)
    ([4, 1, 4], [1, 0, 2])
    """
    budgets, due = [0] * len(populations), count
    for visited, stratum in enumerate(populations.argsort(stable=True).tolist()):
        budgets[stratum] = min(int(populations[stratum]), due // (len(populations) - visited))
        due -= budgets[stratum]
    return budgets


# ---- by features -----------------------------------------------------------------------------------------------------


def herding(features_ND: Tensor, count: int) -> Tensor:
    """Keep the mean: pick t brings the sum of the picks nearest to t times the mean of all.

        argmin_{i not in S} || (t + 1) mu - sum_{j in S} h_j - h_i ||_2

    The first pick is the sample nearest to the mean. Ties go to the lowest position.

    References:
        Welling, ICML 2009; as in iCaRL, arXiv:1611.07725, algorithm 4. (DeepCore takes the farthest instead.)

    >>> herding(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), 2)
    tensor([1, 2])
    """
    chosen: list[int] = []
    features = wide(features_ND.detach())
    mean = features.mean(0)
    due = torch.zeros_like(mean)
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    for _ in range(_checked(count, len(features))):
        due = due + mean
        distances = (due - features).square().sum(1).masked_fill(taken, torch.inf)
        chosen.append(int(distances.argmin()))
        taken[chosen[-1]] = True
        due = due - features[chosen[-1]]
    return torch.tensor(chosen, dtype=torch.int64)


def k_center(features_ND: Tensor, count: int, first: int | None = None) -> Tensor:
    """Cover all samples: always add the one farthest from its nearest pick; at most twice the best possible radius.

    Args:
        first: the position to start with; None: the sample nearest to the mean (``ddcore.images.selection.kcenter``).

    Raises:
        ValueError: there is no such position, or more are asked for than there are.

    References:
        Sener and Savarese, ICLR 2018, arXiv:1708.00489, algorithm 1.

    >>> k_center(torch.tensor([[0.0], [1.0], [2.0], [10.0]]), 3, first=1)
    tensor([1, 3, 0])
    """
    features = wide(features_ND.detach())
    if first is None:
        return kcenter(features, count)
    if not 0 <= first < len(features):
        raise ValueError(f"the first of {len(features)} samples is to be at {first}: give a position from 0 on")
    chosen: list[int] = []
    nearest = torch.full((len(features),), torch.inf, dtype=features.dtype, device=features.device)
    for step in range(_checked(count, len(features))):
        chosen.append(int(nearest.argmax()) if step else first)
        nearest = torch.minimum(nearest, (features - features[chosen[-1]]).square().sum(1))
        nearest[chosen[-1]] = -1
    return torch.tensor(chosen, dtype=torch.int64)


# ---- by similarity ---------------------------------------------------------------------------------------------------


@frozen(eq=False)
class Similarity:
    """Symmetric similarities in [0, 1] of N samples, a few columns at a time, so that N x N numbers need not be held.

    Attributes:
        size: N.
        columns: from positions (M,) to similarities (N, M).
    """

    size: int
    columns: Callable[[Tensor], Tensor]

    @classmethod
    def of_matrix(cls, matrix_NN: Tensor) -> "Similarity":
        """Similarities that are known already."""
        return cls(len(matrix_NN), lambda index: matrix_NN[:, index])

    @classmethod
    def of_directions(cls, *factors_ND: Tensor) -> "Similarity":
        """1/2 + 1/2 cos of vectors that are outer products of these factors, whose rows have length 1."""

        def columns(index: Tensor) -> Tensor:
            cosines = torch.ones((), dtype=factors_ND[0].dtype, device=factors_ND[0].device)
            for factor in factors_ND:
                cosines = cosines * (factor @ factor[index].T)
            return 0.5 + 0.5 * cosines

        return cls(len(factors_ND[0]), columns)

    def column(self, position: int) -> Tensor:
        """(N,): the similarity of one sample to all."""
        return self.columns(torch.tensor([position]))[:, 0]

    def summed(self, change: Callable[[Tensor], Tensor] = lambda block_NM: block_NM) -> Tensor:
        """(N,): the sum of each column, after an elementwise change."""
        return torch.cat([change(self.columns(part)).sum(0) for part in self._parts()])

    def diagonal(self) -> Tensor:
        """(N,): the similarity of each sample to itself."""
        return torch.cat([self.columns(part)[part].diagonal() for part in self._parts()])

    def _parts(self) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = torch.arange(self.size).split(max(1, ENTRIES_AT_ONCE // max(1, self.size)))
        return parts


def _known(similarity: Similarity | Tensor) -> Similarity:
    return Similarity.of_matrix(similarity) if isinstance(similarity, Tensor) else similarity


def graph_cut(similarity: Similarity | Tensor, count: int, weight: float = 1.0) -> Tensor:
    """Greedily the samples most like all others and least like each other.

        gain(i | S) = lambda sum_{j in V} s_ij - 2 sum_{j in S} s_ij

    Args:
        similarity: of N samples; or their symmetric matrix (N, N).
        weight: lambda.

    References:
        Iyer et al., ALT 2021, arXiv:2006.15412, section 3; gains as in DeepCore.
    """
    similarity = _known(similarity)
    gains = weight * similarity.summed()
    chosen: list[int] = []
    for _ in range(_checked(count, similarity.size)):
        chosen.append(int(gains.argmax()))
        gains = gains - 2 * similarity.column(chosen[-1])
        gains[chosen] = -torch.inf
    return torch.tensor(chosen, dtype=torch.int64)


def facility_location(similarity: Similarity | Tensor, count: int, *, lazy: bool = True) -> Tensor:
    """Greedily the samples that leave every sample most like one of them; at least 1 - 1/e of the best possible value.

        gain(i | S) = sum_j max(0, s_ij - max_{k in S} s_jk)

    Args:
        similarity: of N samples; or their symmetric matrix (N, N).
        lazy: compute again only gains that may have become the largest: the same picks, faster, because gains never
            grow.
    """
    similarity, step = _known(similarity), _lazy if lazy else _naive
    return step(similarity, _checked(count, similarity.size))


def facility_gains(similarity: Similarity, best_N: Tensor) -> Tensor:
    """What each sample would add to ``sum_j max_{k in S} s_jk``, (N,) >= 0.

    Args:
        best_N: each sample's similarity to the pick most like it; 0 before the first pick.
    """
    return similarity.summed(lambda block_NM: (block_NM - best_N[:, None]).clamp(min=0))


def _naive(similarity: Similarity, count: int) -> Tensor:
    chosen: list[int] = []
    best = torch.zeros_like(similarity.column(0))
    for _ in range(count):
        gains = facility_gains(similarity, best)
        gains[chosen] = -torch.inf
        chosen.append(int(gains.argmax()))
        best = torch.maximum(best, similarity.column(chosen[-1]))
    return torch.tensor(chosen, dtype=torch.int64)


def _lazy(similarity: Similarity, count: int) -> Tensor:
    """A queue of (-gain, position, picks made when the gain was computed): the head counts once it is up to date."""
    chosen: list[int] = []
    best = torch.zeros_like(similarity.column(0))
    queue = [(-gain, i, 0) for i, gain in enumerate(similarity.summed().tolist())]
    heapify(queue)
    while len(chosen) < count:
        _, i, known = heappop(queue)
        column = similarity.column(i)
        if known < len(chosen):
            heappush(queue, (-float((column - best).clamp(min=0).sum()), i, len(chosen)))
            continue
        chosen.append(i)
        best = torch.maximum(best, column)
    return torch.tensor(chosen, dtype=torch.int64)


def log_determinant(similarity: Similarity | Tensor, count: int) -> Tensor:
    """Greedily the samples whose similarity matrix has the largest determinant, so that none repeats the others.

        gain(i | S) = log(s_ii - s_iS S_S^-1 s_Si)

    A sample whose gain is -inf (a copy of picked ones) comes only when nothing else is left.

    Args:
        similarity: of N samples; or their symmetric matrix (N, N).

    References:
        Chen et al., NeurIPS 2018, arXiv:1709.05135, algorithm 1 (a row of the Cholesky factor for each pick).
    """
    similarity = _known(similarity)
    chosen: list[int] = []
    left = similarity.diagonal()
    rows = left.new_zeros(_checked(count, similarity.size), similarity.size)
    for step in range(count):
        left[chosen] = -torch.inf
        pick = int(left.argmax())
        if left[pick] > 0:
            rows[step] = (similarity.column(pick) - rows[:step, pick] @ rows[:step]) / left[pick].sqrt()
            left = (left - rows[step].square()).clamp(min=0)
        chosen.append(pick)
    return torch.tensor(chosen, dtype=torch.int64)


def _checked(count: int, size: int) -> int:
    """``count``.

    Raises:
        ValueError: more than there are.
    """
    if not 0 <= count <= size:
        raise ValueError(f"{count} different samples asked of {size}: ask for 0 to {size}")
    return count
