"""Scores of answers to test rows besides accuracy. Shape letters: M rows, K classes."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_accuracy(answers_M: Tensor, labels_M: Tensor) -> float:
    """The mean over classes of the share of their rows that are answered rightly; classes without rows do not count.

    >>> balanced_accuracy(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))
    0.5
    """
    right = (answers_M == labels_M).double()
    return float(torch.stack([right[labels_M == cls].mean() for cls in labels_M.unique()]).mean())


def ranked_above(scores_M: Tensor, positive_M: Tensor) -> float:
    """The chance that a positive row scores above a negative one, ties half: the area under the ROC curve; NaN where
    all rows are of one kind.

    >>> ranked_above(torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([True, True, False, False]))
    0.875
    """
    positives = int(positive_M.sum())
    negatives = len(positive_M) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, counts = scores_M.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0).double() - (counts - 1) / 2)[place]
    return float((ranks[positive_M].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def area(scores_MK: Tensor, labels_M: Tensor) -> float:
    """AUC of the second class where there are two, else the mean over classes, each against the rest.

    Args:
        scores_MK: probabilities, or logits whose row-wise softmax they are.
    """
    if scores_MK.shape[1] == 2:
        return ranked_above(scores_MK[:, 1] - scores_MK[:, 0], labels_M == 1)
    each = torch.tensor([ranked_above(scores_MK[:, k], labels_M == k) for k in range(scores_MK.shape[1])])
    return float(each[~each.isnan()].mean())
