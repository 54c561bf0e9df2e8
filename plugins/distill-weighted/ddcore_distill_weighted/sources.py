"""Networks of other tasks as files of students that ``ddcore train`` kept, and what they see in the target's images."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore import InputError, Samples
from ddcore.data import Normalisation as Stored
from ddcore.storage import Place, load_weights, read_metadata
from ddcore.training import frozen_network

if TYPE_CHECKING:
    from ddcore import Normalisation, Run

AT_ONCE = 256
WHITENED = "zca"


@frozen(eq=False)
class Source:
    """A network of another task.

    Attributes:
        name: of its network and data, for people.
        network: frozen; takes the target's images.
    """

    name: str
    network: nn.Module

    def features(self, samples: Samples, rows: Tensor) -> Tensor:
        """Its pooled features (n, d) of some images."""
        return torch.cat([self.network.embed(images) for images in fetched(samples, rows)])  # type: ignore[operator]

    def probabilities(self, samples: Samples, rows: Tensor) -> Tensor:
        """Its own classes' probabilities (n, Z) of some images."""
        return torch.cat([self.network(images).softmax(1) for images in fetched(samples, rows)])


def fetched(samples: Samples, rows: Tensor) -> Iterator[Tensor]:
    """Images of some rows, a few at a time."""
    return (samples.inputs(part) for part in rows.split(AT_ONCE))


class Fitting(nn.Module):
    """A network behind what makes the target's images its own: normalisation, channels, size.

    Grey images become colour ones by repetition, colour ones grey by their mean; sizes change bilinearly.
    """

    def __init__(
        self, network: nn.Module, ours: "Normalisation", theirs: "Normalisation", channels: int, size: int
    ) -> None:
        super().__init__()
        self.network, self._ours, self._theirs = network, ours, theirs
        self._channels, self._size = channels, size

    def embed(self, images: Tensor) -> Tensor:
        """The input (B, D) of its last linear layer."""
        return self.network.embed(self.fitted(images))  # type: ignore[no-any-return, operator]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, Z)."""
        return self.network(self.fitted(images))  # type: ignore[no-any-return]

    def fitted(self, images: Tensor) -> Tensor:
        """Images as it was trained on."""
        pixels = self._ours.inverse(images)
        if pixels.shape[1] != self._channels:
            pixels = pixels.mean(1, keepdim=True).expand(-1, self._channels, -1, -1)
        if pixels.shape[-1] != self._size:
            pixels = F.interpolate(pixels, (self._size, self._size), mode="bilinear", antialias=True)
        return self._theirs.apply(pixels)


def opened(file: str, run: "Run") -> Source:
    """The network of a file, frozen, on the run's device.

    Raises:
        InputError: the file does not say what it holds, or holds something else; its data were whitened.
    """
    facts = read_metadata(Place.at(file))
    if not {"network", "classes"} <= set(facts):
        remedy = "give students/*.safetensors of a folder that `ddcore train` made"
        raise InputError(f"{file} does not say of which network and of how many classes it is: {remedy}")
    channels = int(facts.get("channels", run.source.channels))
    size = int(facts.get("size", run.source.size))
    shape = {"channels": channels, "size": size, "classes": int(facts["classes"])}
    network = run.network(run.generator("distill-weighted", "source"), facts["network"], **shape)
    load_weights(Place.at(file), network)
    theirs = _normalisation(file, facts.get("normalisation"), run.normalisation)
    if (channels, size, theirs) != (run.source.channels, run.source.size, run.normalisation):
        network = Fitting(network, run.normalisation, theirs, channels, size)
    return Source(f"{facts['network']} of {facts.get('dataset', 'unknown data')}", frozen_network(network))


def _normalisation(file: str, header: str | None, ours: "Normalisation") -> "Normalisation":
    """The one that a source's images were under; the target's where its file does not say."""
    if header is None:
        return ours
    found = json.loads(header)
    if found["kind"] != WHITENED:
        return Stored.load(found, {})
    raise InputError(
        f"{file} was trained on whitened images, whose whitening is not kept: train it with --normalise mean-std"
    )
