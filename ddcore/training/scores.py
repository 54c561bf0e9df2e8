"""What a student's answers are worth besides their accuracy: calibration, classes, the way to its last accuracy.

Pure functions of tensors, of any float dtype. Shape letters: M samples, K classes, E epochs that were looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

BINS = 15
"""Of the calibration error, as in its authors' tables."""
MARGIN = 0.01
"""How far below the last epoch's accuracy a student counts as having arrived: one point."""


def calibration_error(confidence_M: Tensor, right_M: Tensor, bins: int = BINS) -> float:
    """How far confidence is from accuracy: sum over bins of (share of samples) |accuracy - mean confidence|.

    Bin i of n holds confidences in ((i - 1) / n, i / n], and 0 is in the first; empty bins count nothing.

    Args:
        confidence_M: the probability of the class that was answered, in [0, 1].
        right_M: whether it was the right one.

    Returns:
        In [0, 1]: 0 when each bin is right as often as it is confident; NaN where a confidence is NaN.

    Raises:
        ValueError: no samples, or shapes that differ.

    References:
        Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599, equation
        3.

    >>> calibration_error(torch.tensor([0.5, 0.5]), torch.tensor([True, False]))
    0.0
    >>> round(calibration_error(torch.tensor([0.9, 0.9]), torch.tensor([True, False])), 6)
    0.4
    """
    if confidence_M.shape != right_M.shape or not len(confidence_M):
        raise ValueError(
            f"{tuple(confidence_M.shape)} confidences and {tuple(right_M.shape)} answers: give one of each"
        )
    confidence = confidence_M.double()
    if not torch.isfinite(confidence).all():
        return math.nan
    edges = (torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins).to(confidence_M.dtype)
    bin_M = torch.bucketize(confidence, edges.double())  # rounded as the confidences are: 1/3 is an edge in any type
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, bin_M, right_M.double() - confidence)
    return float(gaps.abs().sum() / len(confidence))


def class_accuracy(predicted_M: Tensor, labels_M: Tensor, classes: int) -> Tensor:
    """The accuracy on each class: (K,) float64 in [0, 1]; NaN for a class without samples.

    >>> class_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 3)
    tensor([0.5000, 1.0000,    nan], dtype=torch.float64)
    """
    right = (predicted_M == labels_M).double()
    sums = torch.zeros(classes, dtype=torch.float64, device=right.device).index_add_(0, labels_M, right)
    return sums / torch.bincount(labels_M, minlength=classes)


@frozen
class Arrival:
    """When a student was as good as in its last epoch, but for a margin.

    Attributes:
        steps: of training until then.
        seconds: of training until then, without the looking.
    """

    steps: int
    seconds: float


def arrival(
    accuracy_E: Sequence[float], steps_E: Sequence[int], seconds_E: Sequence[float], margin: float = MARGIN
) -> Arrival:
    """The first epoch that reached the last one's accuracy less ``margin``, of those that were looked at.

    Later ones may have fallen below it again. The last epoch always has reached it.

    Args:
        accuracy_E: in [0, 1], on images that nothing was trained on.
        steps_E: made by the end of each epoch; rising.

    Raises:
        ValueError: no epochs, or lists of different lengths.

    >>> arrival([0.2, 0.5, 0.495, 0.504], [10, 20, 30, 40], [1.0, 2.0, 3.0, 4.0])
    Arrival(steps=20, seconds=2.0)
    """
    if not accuracy_E:
        raise ValueError("no epoch was looked at: look at the last one at least")
    epochs = list(zip(accuracy_E, steps_E, seconds_E, strict=True))
    return next(Arrival(steps, at) for accuracy, steps, at in epochs if accuracy >= accuracy_E[-1] - margin)
