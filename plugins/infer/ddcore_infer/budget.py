"""What fits a budget of IPC images a class, when some of what it buys belongs to all classes.

A slot is a base image of each of C classes and M compensators, one a network: C + M images. Of IPC C images

    n0 = floor( IPC / (1 + M / C) )

slots can be had; they are decoded to n0 (1 + M) images a class, the bases as they are and with each of the
compensators.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def base_count(ipc: int, classes: int, networks: int) -> int:
    """n0 of the formula above, in whole numbers: base images of a class, 0 where the budget buys none.

    >>> [base_count(ipc, 10, 4) for ipc in (1, 10, 50)]
    [0, 7, 35]

    References:
        Zhang et al., ICLR 2025, arXiv:2408.06927; its floor leaves up to a tenth of the budget.
    """
    return ipc * classes // (classes + networks)


def stored_count(bases: int, classes: int, networks: int) -> int:
    """Images that are stored, n0 (C + M), never more than IPC C.

    >>> stored_count(base_count(10, 1000, 3), 1000, 3)
    9027
    """
    return bases * (classes + networks)


def decoded_count(bases: int, classes: int, networks: int) -> int:
    """Images that are decoded, n0 (1 + M) C.

    >>> decoded_count(9, 1000, 3)
    36000
    """
    return bases * (1 + networks) * classes


def pairs(bases: int, classes: int, networks: int) -> Tensor:
    """Base and compensator of each decoded image, class by class, then slot by slot, the bare base before its sums.

    Returns:
        (N, 2) of the smallest signed type: rows of the bases, which lie class by class, and rows of the compensators,
        which lie slot by slot; -1 is none.

    >>> pairs(1, 2, 2).tolist()
    [[0, -1], [0, 0], [0, 1], [1, -1], [1, 0], [1, 1]]
    """
    cls, slot, added = torch.meshgrid(
        torch.arange(classes), torch.arange(bases), torch.arange(-1, networks), indexing="ij"
    )
    compensator = torch.where(added < 0, -1, slot * networks + added)
    found = torch.stack([cls * bases + slot, compensator], -1).reshape(-1, 2)
    return found.to(_type(bases, classes, networks))


def decoded_classes(bases: int, classes: int, networks: int) -> Tensor:
    """The class of each decoded image, (N,) int64, in the order of ``pairs``."""
    return torch.arange(classes).repeat_interleave(bases * (1 + networks))


def stored_bytes(
    bases: int, classes: int, networks: int, shape: Sequence[int], value: int = 4, base: int | None = None
) -> int:
    """Bytes that images are decoded from: stored images, pairs, and the least and largest value of each channel.

    Args:
        shape: (C, H, W) of an image.
        value: bytes of a number: 4 in float32, 2 in float16, 1 in uint8, whose levels have a scale and an offset for
            each channel.
        base: bytes of a number of a base that is a real image, stored as its data hold it; None: as the others.

    >>> stored_bytes(7, 10, 4, (3, 32, 32)) - 4 * 98 * 3 * 32 * 32
    724
    """
    each = classes * (value if base is None else base) + networks * value
    images = bases * each * math.prod(shape)
    index = 2 * decoded_count(bases, classes, networks) * _type(bases, classes, networks).itemsize
    limits = 2 * shape[0] * (value if value > 1 else 4)
    scales = 2 * shape[0] * 4 * (2 if base is None else 1)
    return images + index + limits + (scales if value == 1 else 0)


def _type(bases: int, classes: int, networks: int) -> torch.dtype:
    largest = bases * max(classes, networks) - 1
    types = (torch.int8, torch.int16, torch.int32)
    return next((t for t in types if largest <= torch.iinfo(t).max), torch.int64)
