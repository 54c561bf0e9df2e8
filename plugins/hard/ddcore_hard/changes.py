"""Bounded, differentiable changes of images: affine maps, smooth flow, colour. Values in [-1, 1] say how far; 0 changes
nothing.

Shape letters: B images, C H W pixels, G places of a coarse grid each way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

AFFINE = 6
"""Values of an affine map: rotation, shift across and down, scale across and down, shear."""
GRID = 4
"""Places of a flow's coarse grid, each way."""


def affine_matrices(values: Tensor, rotation: float, shift: float, scale: float, shear: float) -> Tensor:
    """Maps from places of the changed image to places of the given one, in coordinates from -1 to 1: (B, 2, 3).

    Args:
        values: (B, 6) in [-1, 1]: rotation, shift across, shift down, scale across, scale down, shear.
        rotation: degrees that 1 stands for.
        shift: share of a side that 1 stands for.
        scale: factor of places that 1 stands for, and its inverse for -1.
        shear: tangent that 1 stands for.
    """
    angle = values[:, 0] * math.radians(rotation)
    across, down = 2 * shift * values[:, 1], 2 * shift * values[:, 2]
    wide, high = (math.log(scale) * values[:, 3:5]).exp().unbind(1)
    slant = shear * values[:, 5]
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack([cos * wide, (cos * slant - sin) * high, across], 1)
    second = torch.stack([sin * wide, (sin * slant + cos) * high, down], 1)
    return torch.stack([first, second], 1)


def flow_field(values: Tensor, size: tuple[int, int], most: float) -> Tensor:
    """Displacements (B, H, W, 2) in coordinates from -1 to 1, linear between the places of a coarse grid.

    Args:
        values: (B, 2 G G) in [-1, 1], across, then down.
        most: share of a side that 1 stands for.
    """
    coarse = values.view(len(values), 2, GRID, GRID)
    fine = F.interpolate(coarse, size, mode="bilinear", align_corners=True)
    return 2 * most * fine.movedim(1, 3)


def warped(images: Tensor, matrices: Tensor, flow: Tensor | None = None) -> Tensor:
    """Images (B, C, H, W) sampled bilinearly where the map, then the flow, says; what lies outside is the mirror image.

    Args:
        matrices: (B, 2, 3), see ``affine_matrices``.
        flow: (B, H, W, 2), see ``flow_field``; None: none.
    """
    places = F.affine_grid(matrices, list(images.shape), align_corners=False)
    places = places if flow is None else places + flow
    return F.grid_sample(images, places, mode="bilinear", padding_mode="reflection", align_corners=False)


def recoloured(images: Tensor, values: Tensor, gain: float, shift: float) -> Tensor:
    """Each channel of images (B, C, H, W) times up to ``gain``, or its inverse, plus up to ``shift``.

    Args:
        values: (B, 2 C) in [-1, 1]: of the factor, then of the sum, channel by channel.
    """
    factor, added = values.view(len(values), 2, images.shape[1], 1, 1).unbind(1)
    return images * (math.log(gain) * factor).exp() + shift * added
