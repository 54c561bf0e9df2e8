"""What a run keeps of its images on the way: strips of a few of them, at five moments of its first task.

They are for people and lie beside the run's result: nothing reads them but the report, and taking one draws no random
number and changes no tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddcore.errors import InputError
from ddcore.images.preview import sheet_png
from ddcore.pages.report import SNAPSHOTS

if TYPE_CHECKING:
    from ddcore.api.types import Learn, Task
    from ddcore.composing.host import Host as Run

QUARTERS = 4
MOST_IMAGES = 10
WIDEST = 64
"""Pixels of an image; larger ones are shrunk to it."""


def moments(steps: int) -> set[int]:
    """Numbers of finished steps at which a strip is kept; none of a task that makes no steps.

    >>> sorted(moments(10)), sorted(moments(1)), moments(0)
    ([0, 2, 5, 7, 10], [0, 1], set())
    """
    return {steps * n // QUARTERS for n in range(QUARTERS + 1)} if steps else set()


def shown(classes: Tensor, most: int = MOST_IMAGES) -> Tensor:
    """Which rows: the first of each class, then the second of each, and so on.

    Args:
        classes: (N,) int64.

    Returns:
        (min(N, most),) int64.

    >>> shown(torch.tensor([1, 1, 0, 0, 2]), most=4)
    tensor([2, 0, 4, 3])
    """
    seen: dict[int, int] = {}
    ranked = []
    for row, of in enumerate(classes.tolist()):
        ranked.append((seen.get(of, 0), of, row))
        seen[of] = seen.get(of, 0) + 1
    return torch.tensor([row for _, _, row in sorted(ranked)[:most]], dtype=torch.int64)


def keep_snapshot(task: Task, done: int, learn: Learn, run: Run) -> None:
    """Write a strip of the first task's images if ``done`` steps are one of the moments and its rows are images."""
    if task.index or task.classes is None or done not in moments(task.steps) or not run.of_images:
        return
    try:
        decoder = run.decoder(learn.decoder)
        if decoder.count(learn.tensors) != len(task.classes):
            return
        with torch.no_grad():
            images = decoder.sample(learn.tensors, shown(task.classes)).float().cpu()
    except InputError:  # tensors of one task that only make samples together with those of others
        return
    pixels = run.normalisation.inverse(images).nan_to_num().clamp(0, 1)
    side = min(WIDEST, int(pixels.shape[-1]))
    (run.place / SNAPSHOTS / f"{task.key}-{done:07d}.png").write_bytes(sheet_png(pixels, len(pixels), side))
