"""How students of MTT (arXiv:2203.11932), FTD and TESLA are trained: 1,000 epochs at the learned rate, one operation
a mini-batch."""

from collections.abc import Mapping

from ddcore.training import Protocol

MTT = Protocol(name="mtt", summary="C: MTT, FTD, TESLA; the learned rate", learned_rate=True)

PROTOCOLS: Mapping[str, Protocol] = {"mtt": MTT, "C": MTT}
