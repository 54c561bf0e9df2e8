"""Whether the mirror image of an image keeps its class: one answer for whatever asks, and how it is known.

Of sets that are named, it is known. Of others it is measured on the train images: each is given the class of its
nearest neighbour among the others, and so is each one's mirror image. Digits and letters are then told apart far worse,
animals as well as before. Where too little can be told apart to measure anything, names decide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import product
from typing import Literal

import attrs
import torch
from torch import Tensor

from ddcore.data.source import Source
from ddcore.images.statistics import scaled

Mirror = Literal["yes", "no", "auto"]
WRITTEN = frozenset({"digits", "mnist", "emnist", "kmnist", "qmnist", "usps", "svhn", "gtsrb"})
"""Data of written signs, by the letters of their name: the mirror image of a sign is another sign or none."""
KNOWN, GUESSED, MEASURED = "known of this set", "guessed", "measured"
MOST = 1000
"""Images of a measurement."""
SIDE = 16
"""Pixels to which larger images are brought for it."""
LEAST = 8
"""Pixels from which on images are averaged and moved for it."""
KEPT = 0.7
"""Share of what is told apart, above chance, that mirror images have to keep."""
SURE = 3.0
"""Standard errors that a difference has to have."""


def settled(source: Source, mirror: Mirror = "auto") -> Source:
    """A source that says whether mirror images keep their class, and how it is known.

    Args:
        mirror: ``yes`` or ``no``: so it is; ``auto``: what is known of the set, else measured, else guessed by names.
    """
    if source.modality != "images":
        return source
    if mirror != "auto":
        return attrs.evolve(source, mirror_symmetric=mirror == "yes", mirror=f"as --mirror {mirror} says")
    if source.mirror == KNOWN or source.mirror.startswith(MEASURED):
        return source
    plain, mirrored, n = recognised(source.train.stored, source.train.labels, len(source.classes))
    answer = decided(plain, mirrored, n, len(source.classes))
    share = f"neighbours tell {plain:.0%} of {n:,} train images and {mirrored:.0%} of their mirror images right"
    if answer is not None:
        return attrs.evolve(source, mirror_symmetric=answer, mirror=f"{MEASURED}: {share}")
    if not n:
        share = "too few train images to measure it"
    guess = source.mirror or f"{GUESSED}: nothing in names says that they are written signs"
    return attrs.evolve(source, mirror=f"{guess} ({share})")


def written(name: str, classes: Sequence[str], images: Tensor) -> str:
    """Why data are taken for written signs by what they are called; empty: they are not.

    Args:
        name: of the set.
        classes: their names; empty if they are only numbered.
        images: (N, C, H, W) train images.
    """
    if re.sub("[^a-z]", "", name.lower()) in WRITTEN:
        return f"{name} is the name of written signs"
    signs = bool(classes) and all(re.fullmatch("[0-9A-Za-z]", each) for each in classes)
    if signs and ({*"0123456789"} <= {*classes} or any(each.isalpha() for each in classes)) and _is_grey(images):
        return "its classes are called by digits or letters and its images are grey"
    return ""


def recognised(stored: Tensor, labels: Tensor, classes: int) -> tuple[float, float, int]:
    """How often the nearest other train image is of an image's class, and how often of its mirror image's.

    Images are averaged over 3x3 pixels and brought to mean 0 and deviation 1; the nearest is sought among neighbours
    moved by up to a pixel each way. Images of fewer than ``LEAST`` pixels a side are neither averaged nor moved. Shares
    are means over the classes.

    Args:
        stored: (N, C, H, W) uint8 or float32.

    Returns:
        Both shares, and of how many images; classes of one image are left out.
    """
    of_class = [(labels == cls).nonzero()[:, 0] for cls in range(classes)]
    most = max(2, MOST // max(1, classes))
    rows = torch.cat([_spread(each, most) for each in of_class if len(each) > 1] or [torch.empty(0, dtype=torch.int64)])
    if len(rows) < 4:
        return 0.0, 0.0, 0
    images, labels = _comparable(scaled(stored[rows])), labels[rows]
    present = labels.unique().tolist()
    shares = []
    for seen in (images, images.flip(3)):
        right = labels[_likeness(seen, images).fill_diagonal_(-math.inf).argmax(1)] == labels
        shares.append(float(torch.stack([right[labels == cls].double().mean() for cls in present]).mean()))
    return shares[0], shares[1], len(rows)


def _comparable(images: Tensor) -> Tensor:
    if images.shape[-1] > SIDE:
        images = torch.nn.functional.adaptive_avg_pool2d(images, SIDE)
    if images.shape[-1] >= LEAST:
        images = torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    images = images - images.mean((1, 2, 3), keepdim=True)
    return images / images.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)


def _likeness(seen: Tensor, images: Tensor) -> Tensor:
    """(n, n): the largest product of an image, moved or not, with each of the others, all of one norm."""
    reach = range(-1, 2) if images.shape[-1] >= LEAST else (0,)
    likeness = torch.full((len(seen), len(images)), -math.inf)
    for down, right in product(reach, reach):
        moved = seen.roll((down, right), (2, 3)).flatten(1)
        likeness = torch.maximum(likeness, moved @ images.flatten(1).T)
    return likeness


def decided(plain: float, mirrored: float, n: int, classes: int) -> bool | None:
    """Whether classes survive mirroring; None where too little is recognised to say so.

    Args:
        plain, mirrored: shares that are recognised, of ``n`` images and of their mirror images.

    >>> decided(0.98, 0.3, 500, 10), decided(0.3, 0.31, 2000, 10), decided(0.12, 0.1, 100, 10)
    (False, True, None)
    """
    chance = 1 / classes
    if n == 0 or plain - chance <= SURE * _error(plain, n):
        return None
    if mirrored - chance >= KEPT * (plain - chance):
        return True
    return False if plain - mirrored > SURE * math.hypot(_error(plain, n), _error(mirrored, n)) else None


def _error(share: float, n: int) -> float:
    """Standard error of a share, by Laplace's rule away from 0 and 1."""
    likely = (share * n + 1) / (n + 2)
    return math.sqrt(likely * (1 - likely) / n)


def _spread(rows: Tensor, most: int) -> Tensor:
    """At most so many of them, evenly spread."""
    return rows if len(rows) <= most else rows[torch.arange(most) * len(rows) // most]


def _is_grey(images: Tensor) -> bool:
    return images.shape[1] == 1 or bool((images == images[:, :1]).all())
