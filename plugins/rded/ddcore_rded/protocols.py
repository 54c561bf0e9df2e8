"""How RDED's students are trained (arXiv:2312.03526): AdamW, half a cosine, shuffled patches of mosaics, CutMix."""

from collections.abc import Mapping

from attrs import evolve

from ddcore.images import RESIZED
from ddcore.training import PROTOCOLS as CORE
from ddcore.training import Protocol

MOSAIC = evolve(
    CORE["views"],
    name="rded",
    summary="RDED on mosaics of 2 x 2: AdamW, half a cosine, patch shuffle, CutMix",
    batch=100,
    stretch=2.0,
    views=evolve(RESIZED, scale=(0.5, 1.0), shuffle=2),
)
SMALL = evolve(
    MOSAIC,
    name="rded-small",
    summary="RDED up to 64 pixels: no crop, no patch shuffle",
    views=evolve(RESIZED, crop="none"),
)

PROTOCOLS: Mapping[str, Protocol] = {p.name: p for p in (MOSAIC, SMALL)}
