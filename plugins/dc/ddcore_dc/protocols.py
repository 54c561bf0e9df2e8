"""How DC's students are trained (arXiv:2006.05929 and its published code): 300 epochs, and augmentation of digits and
for BatchNorm only."""

from collections.abc import Mapping

from ddcore.training import Protocol

DC = Protocol(name="dc", summary="A: DC; no augmentation", epochs=300, augment="none")
MNIST = Protocol(name="dc-mnist", summary="A on MNIST: DC; shift, scale or rotate each image", augment="geometric")
BATCHNORM = Protocol(
    name="dc-bn", summary="A for BatchNorm: DC; shift each image or add a little noise", augment="jitter"
)

PROTOCOLS: Mapping[str, Protocol] = {**{p.name: p for p in (DC, MNIST, BATCHNORM)}, "A": DC}
