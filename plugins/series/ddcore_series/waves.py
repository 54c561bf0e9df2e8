"""Computed series, to try things: sines, squares and sawtooths of random pace and phase, with noise."""

from __future__ import annotations

import torch
from torch import Tensor

from ddcore.data import Source, Split
from ddcore_series.sources import SERIES

NAME = "waves"
CLASSES = ("sine", "square", "sawtooth")
LENGTH = 48
TRAIN, TEST = 90, 60
NOISE = 0.2


def waves() -> Source:
    """90 train and 60 test series (1, 48) of three classes; always the same."""
    parts = (_part(count, seed) for seed, count in enumerate((TRAIN, TEST)))
    return Source(
        name=NAME,
        train=next(parts),
        test=next(parts),
        classes=CLASSES,
        modality=SERIES,
        dense=True,
        mirror_symmetric=False,
        licence="CC0-1.0",
        origin=NAME,
        notes=("computed: sines, squares and sawtooths with noise",),
    )


def _part(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    pace = 2 + 2 * torch.rand(count, 1, generator=generator)
    turns = pace * torch.linspace(0, 1, LENGTH) + torch.rand(count, 1, generator=generator)
    noise = NOISE * torch.randn(count, LENGTH, generator=generator)
    return Split((_of(labels, turns) + noise)[:, None], labels)


def _of(labels: Tensor, turns: Tensor) -> Tensor:
    """Values (N, L) in [-1, 1] of each wave at its turns (N, L)."""
    sine = torch.sin(2 * torch.pi * turns)
    every = torch.stack([sine, torch.sign(sine), 2 * (turns % 1) - 1])
    return every[labels, torch.arange(len(labels))]
