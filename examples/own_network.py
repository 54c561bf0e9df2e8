"""A network and a teacher of one's own: a file with a plugin, tried without packaging it.

ddcore train --data digits --student mine-8 --teacher mine-32 --plugin kd --plugin-path examples/own_network.py
"""

from typing import ClassVar

from attrs import frozen
from torch import Generator, Tensor, nn

from ddcore import Plugin, hookimpl


class Mine(nn.Module):
    """Two convolutions, batch norm, a mean over places, a linear layer."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        layers = [
            nn.Conv2d(channels, width, 3),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3),
            nn.ReLU(),
        ]
        self.body, self.classifier = nn.Sequential(*layers), nn.Linear(width, classes)

    def embed(self, images: Tensor) -> Tensor:
        """The classifier's input."""
        return self.body(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.classifier(self.embed(images))


@frozen(kw_only=True, eq=False)
class OwnNetwork(Plugin):
    """Offer ``mine-8`` and ``mine-32``."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "a small network in two widths"
    networks: ClassVar[tuple[str, ...]] = ("mine-8", "mine-32")

    @hookimpl
    def ddcore_network(
        self, name: str, channels: int, size: int, classes: int, generator: Generator
    ) -> nn.Module | None:
        """The network of a name."""
        return Mine(channels, int(name.partition("-")[2]), classes) if name in self.networks else None
