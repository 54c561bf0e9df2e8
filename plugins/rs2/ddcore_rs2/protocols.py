"""How RS2's students are trained on CIFAR (arXiv:2305.18424): SGD 0.1 with Nesterov momentum under a cosine of each
step."""

from collections.abc import Mapping

from attrs import evolve

from ddcore.images import SHIFTED
from ddcore.training import Protocol

RS2 = Protocol(
    name="rs2",
    summary="RS2 on CIFAR: SGD 0.1 with Nesterov, a cosine of each step down to 1e-4",
    epochs=200,
    extra_epoch=False,
    rate=0.1,
    nesterov=True,
    batch=128,
    schedule_name="cosine",
    each_step=True,
    floor=1e-4,
    augment="none",
    views=evolve(SHIFTED, mix="none"),
)

PROTOCOLS: Mapping[str, Protocol] = {"rs2": RS2}
