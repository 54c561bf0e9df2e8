"""The maths: ranks, attacks, neighbours, gaps. Shape letters: N values, D pixels, M samples, K classes, G groups."""

import torch
from torch import Tensor

AT_ONCE = 1024
"""Real images whose distances are computed at a time."""


def ranks(values_N: Tensor) -> Tensor:
    """Ranks from 1, (N,) float64; equal values share the mean of theirs.

    >>> ranks(torch.tensor([3.0, 1.0, 3.0]))
    tensor([2.5000, 1.0000, 2.5000], dtype=torch.float64)
    """
    _, where, counts = values_N.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    shared: Tensor = (last - (counts - 1) / 2)[where]
    return shared


def rank_correlation(one_N: Tensor, other_N: Tensor) -> float:
    """Spearman's rho: Pearson's correlation of ranks, in [-1, 1]; NaN where all values of one are equal.

    References:
        Spearman, The Proof and Measurement of Association between Two Things, American Journal of Psychology 15, 1904.
    """
    one, other = (ranks(values) - ranks(values).mean() for values in (one_N, other_N))
    return float((one * other).sum() / (one.square().sum() * other.square().sum()).sqrt())


def auc(positive_N: Tensor, negative_M: Tensor) -> float:
    """The area under the ROC curve: how often a positive scores above a negative, ties counting half; in [0, 1].

    Mann and Whitney's U over N M, from ranks.

    >>> auc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 3.0]))
    0.625
    """
    count, other = len(positive_N), len(negative_M)
    of_positive = ranks(torch.cat([positive_N, negative_M]))[:count].sum()
    return float((of_positive - count * (count + 1) / 2) / (count * other))


def caught(positive_N: Tensor, negative_M: Tensor, alarms: float = 0.01) -> float:
    """The share of positives above a threshold that at most a share ``alarms`` of negatives is above; in [0, 1].

    References:
        Carlini et al., Membership Inference Attacks From First Principles, S&P 2022, arXiv:2112.03570: the figure to
        report, since an attack that is right about a few, and knows which, is a breach that an area hides.
    """
    allowed = int(alarms * len(negative_M) * (1 + 1e-12))  # 0.29 of 100 are 29, whatever the product rounds to
    if allowed >= len(negative_M):
        return 1.0
    threshold = negative_M.sort(descending=True).values[allowed]
    return float((positive_N > threshold).double().mean())


def nearest(images_ND: Tensor, real_MD: Tensor) -> Tensor:
    """The distance of each image to its nearest real one, (N,), in the space given."""
    found = images_ND.new_full((len(images_ND),), torch.inf)
    for part in real_MD.split(AT_ONCE):  # type: ignore[no-untyped-call]
        exact = torch.cdist(images_ND, part, compute_mode="donot_use_mm_for_euclid_dist")
        found = torch.minimum(found, exact.min(1).values)
    return found


def spread(values: Tensor, dim: int = 0) -> Tensor:
    """The largest less the smallest along an axis, NaNs left out; NaN where there is nothing else.

    >>> spread(torch.tensor([0.2, torch.nan, 0.9]))
    tensor(0.7000)
    """
    none = torch.isnan(values)
    gap = values.masked_fill(none, -torch.inf).amax(dim) - values.masked_fill(none, torch.inf).amin(dim)
    return gap.masked_fill(none.all(dim), torch.nan)


def accuracy_table(right_M: Tensor, labels_M: Tensor, groups_M: Tensor, classes: int, groups: int) -> Tensor:
    """The accuracy on each group and class, (G, K) float64; NaN where there are no samples."""
    cell = groups_M * classes + labels_M
    sums = torch.zeros(groups * classes, dtype=torch.float64).index_add_(0, cell, right_M.double())
    return (sums / torch.bincount(cell, minlength=groups * classes)).view(groups, classes)


def odds_gaps(right_M: Tensor, labels_M: Tensor, groups_M: Tensor, classes: int, groups: int) -> Tensor:
    """How far groups' true-positive rates are apart in each class, (K,) float64 in [0, 1].

    All 0: the answers have equal opportunity in every class, and, of more than two classes, what the field of fair
    distillation calls equalised odds; its figures are the maximum and the mean.

    References:
        Hardt, Price and Srebro, Equality of Opportunity in Supervised Learning, NeurIPS 2016, arXiv:1610.02413.
    """
    return spread(accuracy_table(right_M, labels_M, groups_M, classes, groups))
