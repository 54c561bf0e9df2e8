"""How students of knowledge distillation are trained on CIFAR: SGD whose rate falls three times."""

from collections.abc import Mapping

from attrs import evolve

from ddcore.training import PROTOCOLS as CORE
from ddcore.training import Protocol

SUMMARY = "knowledge distillation on CIFAR: SGD 0.05, tenfold less after 150, 180 and 210 of 240 epochs"
KD = evolve(CORE["stepwise"], name="kd", summary=SUMMARY)

PROTOCOLS: Mapping[str, Protocol] = {"kd": KD}
