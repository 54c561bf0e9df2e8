"""How KD3's students are trained on foreign images (arXiv:2307.11469): as in knowledge distillation, in batches of
1024, on crops of random area."""

from collections.abc import Mapping

from attrs import evolve

from ddcore.images import RESIZED
from ddcore.training import PROTOCOLS as CORE
from ddcore.training import Protocol

KD3 = evolve(
    CORE["stepwise"],
    name="kd3",
    summary="KD3 on foreign images: kd in batches of 1024, crops of random area",
    batch=1024,
    views=evolve(RESIZED, mix="none"),
)

PROTOCOLS: Mapping[str, Protocol] = {"kd3": KD3}
