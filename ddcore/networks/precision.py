"""What half precision has no room for, and lengths that may be 0."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """The same numbers in float32 at least: sums of squares overflow in half precision, products of small numbers
    vanish.

    >>> wide(torch.ones(1, dtype=torch.float16)).dtype, wide(torch.ones(1, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_rows(rows: Tensor) -> Tensor:
    """Rows (B, D) scaled to length 1, however short they are; rows of length 0 stay 0, with finite gradients.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    length = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(length == 0, 1, length)
