"""How HeLlO's students are trained (arXiv:2408.08201): by the recipe of RDED, on whose kind of images it shows them."""

from collections.abc import Mapping

from attrs import evolve

from ddcore.images import RESIZED
from ddcore.training import PROTOCOLS as CORE
from ddcore.training import Protocol

MOSAIC = evolve(
    CORE["views"],
    name="hello",
    summary="HeLlO on mosaics of 2 x 2: AdamW, half a cosine, patch shuffle, CutMix",
    batch=100,
    stretch=2.0,
    views=evolve(RESIZED, scale=(0.5, 1.0), shuffle=2),
)
SMALL = evolve(
    MOSAIC,
    name="hello-small",
    summary="HeLlO up to 64 pixels: no crop, no patch shuffle",
    views=evolve(RESIZED, crop="none"),
)

PROTOCOLS: Mapping[str, Protocol] = {p.name: p for p in (MOSAIC, SMALL)}
