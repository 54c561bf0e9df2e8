"""How CV-DD's students are trained (arXiv:2501.07575): batches of 16 in groups of 8, half a cosine, on CIFAR a whole
one."""

from collections.abc import Mapping

from attrs import evolve

from ddcore.training import PROTOCOLS as CORE
from ddcore.training import Protocol

CIFAR = evolve(CORE["views"], name="cv-dd-cifar", summary="CV-DD on CIFAR: a whole cosine", batch=16, group=8)
CV_DD = evolve(CIFAR, name="cv-dd", summary="CV-DD: batches of 16 in groups of 8, half a cosine", stretch=2.0)

PROTOCOLS: Mapping[str, Protocol] = {p.name: p for p in (CV_DD, CIFAR)}
