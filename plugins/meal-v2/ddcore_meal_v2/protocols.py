"""How MEAL V2 tunes a trained student (arXiv:2009.08453): a small rate without weight decay."""

from collections.abc import Mapping

from attrs import evolve

from ddcore.training import PROTOCOLS as CORE
from ddcore.training import Protocol

TUNING = evolve(
    CORE["stepwise"],
    name="meal-v2",
    summary="tuning a trained student: SGD 0.01 without weight decay, tenfold less after 100 of 180 epochs",
    epochs=180,
    rate=0.01,
    weight_decay=0.0,
    drops=(100 / 180,),
)

PROTOCOLS: Mapping[str, Protocol] = {"meal-v2": TUNING}
