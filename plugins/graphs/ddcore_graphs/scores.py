"""The area under the receiver operating characteristic."""

import torch
from torch import Tensor


def roc_auc(scores_N: Tensor, positive_N: Tensor) -> float:
    """Probability that a random positive scores higher than a random negative, ties counted half.

        AUC = (sum of the positives' ranks - n+ (n+ + 1) / 2) / (n+ n-),    ties share the mean of their ranks

    Args:
        scores_N: any float dtype, finite.
        positive_N: bool.

    Returns:
        In [0, 1]: 1 if all positives score higher, 0.5 for equal scores, NaN if there are no positives or no negatives.

    >>> roc_auc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))
    0.75
    """
    positives = int(positive_N.sum())
    negatives = len(positive_N) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, counts = scores_N.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    rank = (last - (counts - 1) / 2)[place]
    return float((rank[positive_N].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def mean_auc(logits_NK: Tensor, classes_N: Tensor) -> float:
    """AUC of the second class's logit over the first's if there are two; else the mean over classes, each against the
    rest.

    Classes that the rows lack, or that all rows are of, do not count; NaN if none counts.
    """
    if logits_NK.shape[1] == 2:
        return roc_auc(logits_NK[:, 1] - logits_NK[:, 0], classes_N == 1)
    log_p = logits_NK.log_softmax(1)
    each = torch.tensor([roc_auc(log_p[:, k], classes_N == k) for k in range(logits_NK.shape[1])], dtype=torch.float64)
    return float(each[~each.isnan()].mean())
