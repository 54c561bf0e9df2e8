"""A linear probe: what a network's frozen features are worth; see ``ddcore.training.protocols.Probe``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddcore import randomness
from ddcore.labels import HardLabels
from ddcore.networks.passes import features
from ddcore.training.loop import FETCHED_AT_ONCE, Descent, Generators, train_student
from ddcore.training.protocols import Probe

if TYPE_CHECKING:
    from ddcore.api.services import Samples

KEPT_BYTES = 2 * 10**9
"""Features of more bytes are not held in memory but made anew in every epoch."""
LEAST_DEVIATION = 1e-6
"""A feature that moves less is left at 0."""


class Probed(nn.Module):
    """A frozen network under a linear layer on its standardised features."""

    def __init__(self, network: nn.Module, samples: Standardised, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head = network, head
        self.register_buffer("mean", samples.mean)
        self.register_buffer("factor", samples.factor)

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, D), standardised."""
        return (self.network.embed(images) - self.mean) * self.factor  # type: ignore[operator, no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.head(self.embed(images))  # type: ignore[no-any-return]


class Standardised:
    """Features of some samples, each less its mean over its deviation: ``Samples`` without images.

    Attributes:
        mean, factor: (D,), of the network's own type: what is taken off, and what is multiplied with.
    """

    def __init__(self, network: nn.Module, samples: Samples, index: Tensor) -> None:
        self._network, self._samples, self._index = network, samples, index
        self._kept: Tensor | None = None
        parts, total, squares = [], torch.zeros(()), torch.zeros(())
        for rows in index.split(FETCHED_AT_ONCE):
            found = features(network, samples.inputs(rows))
            total, squares = (total + found.double().sum(0).cpu(), squares + found.double().square().sum(0).cpu())
            parts += [found] if found.nbytes // len(found) * len(index) <= KEPT_BYTES else []
        mean = total / len(index)
        deviation = (squares / len(index) - mean.square()).clamp(min=0).sqrt()
        factor = torch.where(deviation > LEAST_DEVIATION, 1 / deviation.clamp(min=LEAST_DEVIATION), 0.0)
        self.mean, self.factor = mean.to(found), factor.to(found)
        if parts:
            self._kept = (torch.cat(parts) - self.mean) * self.factor

    @property
    def labels(self) -> Tensor:
        """(n,) int64."""
        return self._samples.labels[self._index.to(self._samples.labels.device)].cpu()

    def __len__(self) -> int:
        return len(self._index)

    def inputs(self, index: Tensor) -> Tensor:
        """Features (n, D)."""
        if self._kept is not None:
            return self._kept[index.to(self._kept.device)]
        images = self._samples.inputs(self._index[index.to(self._index.device)])
        return (features(self._network, images) - self.mean) * self.factor


def probe_rows(labels: Tensor, classes: int, probe: Probe) -> Tensor:
    """Which train images a probe is trained on, (n,) int64: the same ones for all rows, seeds and runs."""
    rows = [(labels == cls).nonzero()[:, 0] for cls in range(classes)]
    counts = probe.images(len(of) for of in rows)
    drawn = [
        of[torch.randperm(len(of), generator=randomness.generator(0, "probe", cls))[:count]].sort().values
        for cls, (of, count) in enumerate(zip(rows, counts, strict=True))
    ]
    return torch.cat(drawn)


def probed(
    network: nn.Module,
    samples: Samples,
    classes: int,
    probe: Probe,
    generator: Generators,
    check_stop: Callable[[], None],
) -> tuple[Probed, dict[str, int]]:
    """Train a linear layer on the features of a network, which is frozen and put into eval mode.

    Args:
        samples: real train images with their classes.
        generator: all randomness: asked for ("probe", "order", epoch).
        check_stop: called after each epoch; raises where the run was told to stop.

    Returns:
        The network under that layer; ``images`` and ``steps`` of the probe.
    """
    network.eval().requires_grad_(False)
    found = Standardised(network, samples, probe_rows(samples.labels.cpu(), classes, probe))
    head = nn.Linear(len(found.mean), classes).to(device=found.mean.device, dtype=found.mean.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    steps = probe.steps(len(found))
    descent = Descent(
        steps=steps,
        batch=probe.batch,
        rate=probe.rate,
        weight_decay=probe.weight_decay,
        optimizer="adam",
        schedule="cosine",
    )

    def drawn(*key: object) -> torch.Generator:
        return generator("probe", *key)

    labels = HardLabels(found.labels, classes)
    train_student(head, found, labels, descent, generator=drawn, on_epoch=lambda _: check_stop())
    return Probed(network, found, head).eval(), {"images": len(found), "steps": steps}
