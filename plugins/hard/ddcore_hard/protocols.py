"""Students of hard labels under the recipes of SRe2L (arXiv:2306.13092) without their mixes: what soft labels are
compared with."""

from collections.abc import Mapping

from attrs import evolve

from ddcore.images import RESIZED, SHIFTED
from ddcore.training import PROTOCOLS as CORE
from ddcore.training import Protocol

HARD = evolve(
    CORE["views"],
    name="hard",
    summary="hard labels under sre2l without mixes",
    views=evolve(RESIZED, mix="none"),
)
CIFAR = evolve(
    CORE["views-small"],
    name="hard-cifar",
    summary="hard labels under sre2l-cifar without mixes",
    views=evolve(SHIFTED, mix="none"),
)

PROTOCOLS: Mapping[str, Protocol] = {p.name: p for p in (HARD, CIFAR)}
