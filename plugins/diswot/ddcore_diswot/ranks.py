"""Rank correlations."""

from collections.abc import Sequence

import torch
from torch import Tensor


def kendall(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b, in [-1, 1]: pairs in the same order less those in the other, ties allowed for; nan if one is
    constant.

    >>> kendall([1, 2, 3], [1, 3, 2])
    0.3333333333333333
    """
    signs = [_column(values).sub(_column(values).T).sign().triu(1) for values in (one, other)]
    both = (signs[0] * signs[1]).sum()
    return float(both / (signs[0].square().sum() * signs[1].square().sum()).sqrt())


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Pearson's correlation of ranks, equal values sharing the mean of theirs; nan if one is constant.

    >>> spearman([1, 2, 3], [1, 3, 2])
    0.5
    """
    centred = []
    for values in (one, other):
        column = _column(values)
        rank = (column > column.T).double().sum(1) + ((column == column.T).double().sum(1) + 1) / 2
        centred.append(rank - rank.mean())
    return float((centred[0] @ centred[1]) / (centred[0].square().sum() * centred[1].square().sum()).sqrt())


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]
