"""The network that chooses changes for each image, from the image and noise.

Shape letters: B images, C H W pixels, D values of a change, E numbers of a code.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ddcore_hard.autoencoder import Autoencoder
from ddcore_hard.changes import AFFINE, GRID, affine_matrices, flow_field, recoloured, warped

NOISE = 8
SEEN = 7
"""Sides of the small picture that the augmentor sees of an image."""
WIDTH = 64


KINDS = ("affine", "flow", "colour", "latent")


@frozen(kw_only=True)
class Bounds:
    """How far changes may go; see ``ddcore_hard.changes`` and, for codes, ``ddcore_hard.autoencoder``.

    Attributes:
        kinds: which of ``KINDS`` are made.
    """

    kinds: frozenset[str]
    rotation: float
    shift: float
    scale: float
    shear: float
    flow_shift: float
    gain: float
    colour_shift: float
    code_shift: float = 0.0

    def counts(self, channels: int, codes: int = 0) -> list[int]:
        """How many values each kind of change takes, in the order of ``KINDS``; ``codes``: numbers of a code."""
        sizes = {"affine": AFFINE, "flow": 2 * GRID**2, "colour": 2 * channels, "latent": codes}
        return [sizes[kind] if kind in self.kinds else 0 for kind in KINDS]

    def changed(self, images: Tensor, values: Tensor) -> Tensor:
        """Images (B, C, H, W) under the changes of places and colours that values (B, D) in [-1, 1] say,
        in this order."""
        counts = self.counts(images.shape[1])[:3]
        affine, flow, colour = values[:, : sum(counts)].split(counts, 1)  # type: ignore[no-untyped-call]
        if self.kinds & {"affine", "flow"}:
            far = affine if "affine" in self.kinds else values.new_zeros(len(values), AFFINE)
            matrices = affine_matrices(far, self.rotation, self.shift, self.scale, self.shear)
            size = (images.shape[2], images.shape[3])
            images = warped(images, matrices, flow_field(flow, size, self.flow_shift) if "flow" in self.kinds else None)
        return recoloured(images, colour, self.gain, self.colour_shift) if "colour" in self.kinds else images


class Augmentor(nn.Module):
    """Two hidden layers on a small picture of the image and noise; tanh keeps what comes out in bounds, and it begins
    at no change.

    Args:
        spread: deviation of a noise that is added to each value before the tanh: then it begins with no change in the
            middle.
        autoencoder: whose codes of images are changed, and seen; its weights stay. None: no code.
    """

    def __init__(
        self, channels: int, bounds: Bounds, spread: float = 0.0, autoencoder: Autoencoder | None = None
    ) -> None:
        super().__init__()
        self.bounds, self.spread, self.autoencoder = bounds, spread, autoencoder
        self.codes = 0 if autoencoder is None else autoencoder.shape["latent"]
        count = sum(bounds.counts(channels, self.codes))
        self.body = nn.Sequential(
            nn.Linear(channels * SEEN**2 + NOISE + self.codes, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
        )
        self.last = nn.Linear(WIDTH, count)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def noise(self, images: Tensor, generator: Generator) -> Tensor:
        """A fresh draw for each image, (B, 8 + D)."""
        return torch.randn(len(images), NOISE + self.last.out_features, generator=generator, dtype=torch.float64).to(
            images
        )

    def values(self, images: Tensor, noise: Tensor) -> Tensor:
        """How far each change goes, (B, D) in [-1, 1], for images (B, C, H, W) in [0, 1] and noise (B, 8 + D)."""
        small = F.adaptive_avg_pool2d(images, SEEN).flatten(1)
        chosen = self.last(self.body(torch.cat([small, noise[:, :NOISE], self.code(images)], 1)))
        return (chosen + self.spread * noise[:, NOISE:]).tanh()  # type: ignore[no-any-return]

    @torch.no_grad()
    def code(self, images: Tensor) -> Tensor:
        """The autoencoder's codes (B, E) of images; E = 0 without one."""
        return images.new_zeros(len(images), 0) if self.autoencoder is None else self.autoencoder.encode(images)[0]

    def forward(self, images: Tensor, values: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] changed by values (B, D), in [0, 1]: what codes say first, then places,
        then colours."""
        if self.autoencoder is not None:
            shift = self.bounds.code_shift * values[:, -self.codes :]
            images = self.autoencoder.moved(images, self.code(images), shift).clamp(0, 1)
        return self.bounds.changed(images, values).clamp(0, 1)


class Clipped(torch.optim.Adam):
    """Adam whose gradient is cut to a length before each step."""

    def __init__(self, module: nn.Module, rate: float, length: float) -> None:
        super().__init__(module.parameters(), lr=rate)
        self.length = length

    def step(self, closure=None):  # type: ignore[no-untyped-def, override]
        """One step."""
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if moved:
            nn.utils.clip_grad_norm_(moved, self.length)
        return super().step(closure)
