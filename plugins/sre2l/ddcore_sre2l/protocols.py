"""How SRe2L's students are trained (arXiv:2306.13092): AdamW and a cosine on ImageNet, as DWA does on CIFAR; SGD on
Tiny-ImageNet."""

from collections.abc import Mapping

from attrs import evolve

from ddcore.images import RESIZED
from ddcore.training import PROTOCOLS as CORE
from ddcore.training import Protocol

IMAGENET = evolve(CORE["views"], name="sre2l", summary="SRe2L on ImageNet: AdamW, cosine, CutMix")
CIFAR = evolve(CORE["views-small"], name="sre2l-cifar", summary="SRe2L and DWA on CIFAR: AdamW, cosine, MixUp")
TINY = evolve(
    CORE["views"],
    name="sre2l-tiny",
    summary="SRe2L on Tiny-ImageNet: SGD, warm-up, cosine, no mix",
    epochs=100,
    optimizer="sgd",
    rate=0.2,
    momentum=0.9,
    weight_decay=1e-4,
    decay_biases=True,
    warmup=5,
    batch=256,
    views=evolve(RESIZED, mix="none"),
)

PROTOCOLS: Mapping[str, Protocol] = {p.name: p for p in (IMAGENET, CIFAR, TINY)}
