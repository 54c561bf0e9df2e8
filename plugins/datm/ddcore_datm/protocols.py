"""How DATM's students are trained (arXiv:2310.05773): MTT's recipe in batches of 128."""

from collections.abc import Mapping

from ddcore.training import Protocol

DATM = Protocol(name="datm", summary="D: DATM; the learned rate, smaller batches", learned_rate=True, batch=128)

PROTOCOLS: Mapping[str, Protocol] = {"datm": DATM, "D": DATM}
