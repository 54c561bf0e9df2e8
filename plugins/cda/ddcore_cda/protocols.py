"""How CDA's students are trained (arXiv:2311.18838), and DWA's on ImageNet: as SRe2L's, in batches of 128."""

from collections.abc import Mapping

from attrs import evolve

from ddcore.training import PROTOCOLS as CORE
from ddcore.training import Protocol

CDA = evolve(CORE["views"], name="cda", summary="CDA and DWA on ImageNet: sre2l in batches of 128", batch=128)

PROTOCOLS: Mapping[str, Protocol] = {"cda": CDA}
