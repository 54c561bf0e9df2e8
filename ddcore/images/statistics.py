"""Means, deviations and covariances of stored images, in chunks: no float copy of the whole set is made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

VALUES_AT_ONCE = 2**20


PRODUCT_ROWS = 1024
"""Images whose outer products are added up at once."""


def scaled(stored: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Stored images as floats in [0, 1]: uint8 is divided by 255."""
    return stored.to(dtype) / 255 if stored.dtype == torch.uint8 else stored.to(dtype)


def mean_and_deviation(stored: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all images and pixels, in [0, 1].

    The deviation divides by the number of values (population). Many papers' constants are means of per-image
    deviations instead, which are smaller.

    Args:
        stored: (N, C, H, W), or another shape with channels second, uint8 or float32.

    Returns:
        Two tuples of C numbers.
    """
    values = stored.numel() / stored.shape[1]
    mean = _sum(stored, None) / values
    variance = _sum(stored, mean) / values
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())


def _sum(stored: Tensor, mean: Tensor | None) -> Tensor:
    """(C,) float64: the sum of values, or of squared deviations from ``mean`` (C,)."""
    total, over = torch.zeros(stored.shape[1], dtype=torch.float64), [0, *range(2, stored.ndim)]
    mean = None if mean is None else mean.reshape(-1, *[1] * (stored.ndim - 2))
    for chunk in _chunks(stored):
        values = scaled(chunk, torch.float64)
        total += (values if mean is None else (values - mean).square()).sum(over)
    return total


def mean_and_covariance(stored: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of flattened images in [0, 1], float64; D = C H W.

    Products are taken in float32 and added up in float64: exact to about 1e-6 of the largest variance.
    """
    mean = torch.zeros(stored[0].numel(), dtype=torch.float64)
    for chunk in _chunks(stored):
        mean += scaled(chunk, torch.float64).flatten(1).sum(0)
    mean /= len(stored)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for chunk in torch.split(stored, PRODUCT_ROWS):
        centred = (scaled(chunk, torch.float64).flatten(1) - mean).float()
        covariance += centred.T @ centred
    return mean, covariance / max(1, len(stored) - 1)


def _chunks(stored: Tensor) -> Sequence[Tensor]:
    return torch.split(stored, max(1, VALUES_AT_ONCE // stored[0].numel()))
