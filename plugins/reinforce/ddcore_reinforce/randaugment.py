"""RandAugment (Cubuk et al., 2020, arXiv:1909.13719) with its draw and its replay apart.

Operations, their order and their magnitudes are those of ``torchvision.transforms.v2.RandAugment``, on uint8 images
without interpolation; here they are named by number and magnitude, so that a record can be applied again. Shape
letters: V images, A operations of each, C H W pixels.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddcore import InputError
from ddcore.networks import import_torchvision

NAMES = (
    "identity",
    "shear-x",
    "shear-y",
    "translate-x",
    "translate-y",
    "rotate",
    "brightness",
    "colour",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
SIGNED = range(1, 10)
"""Numbers of the operations whose magnitude gets a random sign."""
BINS = 31
"""Levels of magnitude, of which the last is the strongest."""


def magnitudes(level: int, size: tuple[int, int]) -> Tensor:
    """The magnitude of each operation at a level of 31, (14,) float32; 0 of those that have none.

    Args:
        level: 0 to 30.
        size: (H, W), of which translations are shares.

    >>> magnitudes(30, (331, 331)).int().tolist()
    [0, 0, 0, 150, 150, 30, 0, 0, 0, 0, 4, 0, 0, 0]
    """
    height, width = size
    moved = [0.3, 0.3, 150 / 331 * width, 150 / 331 * height, 30.0, 0.9, 0.9, 0.9, 0.9]
    ends = [(0.0, 0.0), *[(0.0, most) for most in moved], (8.0, 4.0), (1.0, 0.0), (0.0, 0.0), (0.0, 0.0)]
    # torchvision's own rounding: a shear or shift that is off by the last bit takes other pixels
    found = torch.stack([torch.linspace(*pair, BINS, dtype=torch.float32)[level] for pair in ends])
    found[NAMES.index("posterize")].round_()
    return found


def draw(count: int, each: int, level: int, size: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Operations (V, A) uint8, all equally likely, and their magnitudes (V, A) float32, with random signs."""
    which = torch.randint(len(NAMES), (count, each), generator=generator)
    signed = (which >= SIGNED.start) & (which < SIGNED.stop)
    negative = torch.rand(count, each, generator=generator) < 0.5
    strength = magnitudes(level, size)[which]
    return which.to(torch.uint8), torch.where(signed & negative, -strength, strength)


def replay(images: Tensor, which: Tensor, strength: Tensor) -> Tensor:
    """Apply recorded operations to images (V, C, H, W) uint8, one after the other; the same bits in whatever batch.

    Raises:
        InputError: images of other than 1 or 3 channels, which have no colours to change.
    """
    if images.shape[1] not in (1, 3):
        raise InputError(
            f"RandAugment changes colours, and images have {images.shape[1]} channels: leave it out of the chain"
        )
    for number in range(which.shape[1]):
        pairs = torch.stack([which[:, number].double(), strength[:, number].double()], 1)
        kinds, of = pairs.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
        images = images.clone()
        for at, (name, magnitude) in enumerate(kinds.tolist()):
            rows = (of == at).nonzero()[:, 0].to(images.device)
            images[rows] = operation(int(name), magnitude)(images[rows])
    return images


def operation(number: int, magnitude: float) -> Callable[[Tensor], Tensor]:
    """One operation of ``NAMES`` at a magnitude."""
    import_torchvision()
    from torchvision.transforms.v2 import functional as tv

    def affine(**changes: Any) -> Callable[[Tensor], Tensor]:
        still: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
        return lambda images: tv.affine(images, **{**still, **changes})

    degrees = math.degrees(math.atan(magnitude))
    applied: dict[str, Callable[[Tensor], Tensor]] = {
        "identity": lambda images: images,
        "shear-x": affine(shear=[degrees, 0.0], center=[0, 0]),
        "shear-y": affine(shear=[0.0, degrees], center=[0, 0]),
        "translate-x": affine(translate=[int(magnitude), 0]),
        "translate-y": affine(translate=[0, int(magnitude)]),
        "rotate": lambda images: tv.rotate(images, angle=magnitude),
        "brightness": lambda images: tv.adjust_brightness(images, 1 + magnitude),
        "colour": lambda images: tv.adjust_saturation(images, 1 + magnitude),
        "contrast": lambda images: tv.adjust_contrast(images, 1 + magnitude),
        "sharpness": lambda images: tv.adjust_sharpness(images, 1 + magnitude),
        "posterize": lambda images: tv.posterize(images, int(magnitude)),
        "solarize": lambda images: tv.solarize(images, 255 * magnitude),
        "autocontrast": tv.autocontrast,
        "equalize": tv.equalize,
    }
    return applied[NAMES[number]]
