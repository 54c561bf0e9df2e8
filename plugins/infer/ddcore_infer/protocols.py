"""How INFER's students are trained (arXiv:2408.06927): as SRe2L's on CIFAR, in batches of 64."""

from collections.abc import Mapping

from attrs import evolve

from ddcore.training import PROTOCOLS as CORE
from ddcore.training import Protocol

RECIPE = evolve(CORE["views-small"], name="infer", summary="INFER: sre2l-cifar in batches of 64", batch=64)

PROTOCOLS: Mapping[str, Protocol] = {"infer": RECIPE}
