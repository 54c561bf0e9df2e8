"""How FYI's students are trained (arXiv:2407.08113): mirrored with p = 0.5 before the one operation of MTT's recipe."""

from collections.abc import Mapping

from ddcore.training import Protocol

FYI = Protocol(name="fyi", summary="FYI: mirrored with p = 0.5, then one operation", learned_rate=True, flip_first=True)

PROTOCOLS: Mapping[str, Protocol] = {"fyi": FYI}
