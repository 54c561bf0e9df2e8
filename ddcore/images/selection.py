"""Choosing real images by their features: k-center, as the field's baselines use it."""

from __future__ import annotations

import torch
from torch import Tensor


def kcenter(features_ND: Tensor, count: int) -> Tensor:
    """Start with the row nearest to the mean, then always add the row farthest from its nearest chosen one.

    Ties go to the lowest index. With ``count`` 1 this is herding's first choice too.

    Args:
        features_ND: float.
        count: at most N.

    Returns:
        (count,) int64, in the order chosen.

    Raises:
        ValueError: more rows asked for than there are.

    References:
        Sener and Savarese, ICLR 2018, arXiv:1708.00489; the start as described by DC's authors.

    >>> kcenter(torch.tensor([[0.0], [1.0], [2.0], [10.0]]), 3)
    tensor([2, 3, 0])
    """
    if count > len(features_ND):
        raise ValueError(f"{count} centers asked of {len(features_ND)} rows")
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    features = features_ND.detach().to(torch.promote_types(features_ND.dtype, torch.float32))
    chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
    nearest = (features - features[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        nearest[chosen[-1]] = -1.0
        chosen.append(int(nearest.argmax()))
        new = (features - features[chosen[-1]]).square().sum(1)
        nearest = torch.minimum(nearest, new)
    return torch.tensor(chosen, dtype=torch.int64)


def filled(chosen: Tensor, count: int) -> Tensor:
    """``count`` of some rows, in their order; where there are fewer they are gone through again.

    Raises:
        ValueError: none of which to take some.

    >>> filled(torch.tensor([7, 3]), 5), filled(torch.tensor([7, 3]), 1)
    (tensor([7, 3, 7, 3, 7]), tensor([7]))
    """
    if count and not len(chosen):
        raise ValueError(f"{count} rows asked of none")
    return chosen[torch.arange(count, device=chosen.device) % max(1, len(chosen))]


def random_choice(total: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` different numbers below ``total``, uniformly, (count,) int64.

    Raises:
        ValueError: more asked for than there are.
    """
    if count > total:
        raise ValueError(f"{count} different rows asked of {total}")
    return torch.randperm(total, generator=generator)[:count]
