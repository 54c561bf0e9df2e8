"""Images of 8x8 pixels that need no file: three classes of stripes under noise.
``--plugin-path`` of this file offers ``tiny``."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from attrs import frozen

from ddcore.api.hooks import hookimpl
from ddcore.api.plugin import Plugin
from ddcore.data.source import Source, Split

CLASSES, SIZE, TRAIN, TEST = 3, 8, 12, 6
RENAMED = (1, 2, 0)
"""What ``tiny:renamed`` calls the classes 0, 1, 2 of ``tiny:copies``."""


def stripes(cls: int, count: int, channels: int, generator: torch.Generator, noise: float = 0.15) -> torch.Tensor:
    """Images (count, channels, 8, 8) uint8 of one class: stripes of its own width and tilt, fixed colours,
    and noise."""
    axis = torch.arange(SIZE, dtype=torch.float64)
    wave = torch.sin((cls + 1) * math.pi / 4 * axis[None, :] + cls * axis[:, None])
    colours = torch.linspace(0.4, 1.0, channels, dtype=torch.float64).roll(cls)
    clean = 0.5 + 0.35 * wave * colours[:, None, None]
    noisy = clean + noise * torch.randn(count, channels, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8)


def tiny_images(kind: str = "") -> Source:
    """The data set: 3 classes, 12 training and 6 test images of each, 3 channels.

    Args:
        kind: empty; ``grey``: one channel; ``copies``: all images of a class are the same; ``renamed``: those, with the
            classes called by ``RENAMED``.
    """
    channels = 1 if kind == "grey" else 3
    parts = []
    for number, count in enumerate((TRAIN, TEST)):
        generator = torch.Generator().manual_seed(number)
        images = [stripes(c, count, channels, generator) for c in range(CLASSES)]
        if kind in ("copies", "renamed"):
            images = [of_class[:1].expand_as(of_class) for of_class in images]
        labels = torch.arange(CLASSES).repeat_interleave(count)
        labels = torch.tensor(RENAMED)[labels] if kind == "renamed" else labels
        parts.append(Split(torch.cat(images).contiguous(), labels))
    name = f"tiny:{kind}" if kind else "tiny"
    return Source(name=name, train=parts[0], test=parts[1], classes=tuple("abc"), licence="none needed: computed")


@frozen(kw_only=True, eq=False)
class Tiny(Plugin):
    """Offer the images above as a data set."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "three classes of 8x8 stripes, for tests"
    paper: ClassVar[str] = "none: test data of the contract kit"
    role: ClassVar[str] = "data"
    datasets: ClassVar[tuple[str, ...]] = ("tiny", "tiny:grey", "tiny:copies", "tiny:renamed")

    @hookimpl
    def ddcore_data(self, name: str, rest: str, options: Mapping[str, Any]) -> Source | None:
        """``tiny`` and its kinds."""
        return tiny_images(rest) if name == "tiny" else None
