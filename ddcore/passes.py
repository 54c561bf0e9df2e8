"""Passes of images through a network, cut so that what they touch stays in the processor's cache: the one place that knows.

Images go channels-last, where convolutions reach the machine's matrix-product speed, a chunk at a time: the memory-bound rest
(norms, activations, pooling) then works in cache. Gradients of sums add up, so a training batch may be cut too. Networks whose
BatchNorm mixes a batch see it whole; so do devices other than the CPU, which want large batches.

Measured: ``examples/benchmarks/results/pass_chunks.json``. Shape letters: B images, C H W pixels, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ddcore.curvature import CheapNorms
from ddcore.networks import mixes_samples

CHUNK = 16
"""Images of 32x32 pixels in a pass without gradient."""
TRAINING_CHUNK = 16
"""Images of 32x32 pixels in a pass forward and backward."""
PIXELS = 32 * 32

Targets = TypeVar("Targets", Tensor, Mapping[str, Tensor])


def features(network: nn.Module, images: Tensor, *, chunk: int | None = None) -> Tensor:
    """``network.embed`` of images (B, C, H, W): (B, D), without gradient.

    Args:
        chunk: images of one pass; None chooses by their size.
    """
    return _passed(network, network.embed, images, chunk)  # type: ignore[arg-type]


def logits(network: nn.Module, images: Tensor, *, chunk: int | None = None) -> Tensor:
    """The network's output for images (B, C, H, W): (B, K), without gradient, in the network's present mode."""
    return _passed(network, network, images, chunk)


def lay_out(network: nn.Module) -> nn.Module:
    """The same network with its convolutions' weights channels-last, in place; values unchanged."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def channels_last(images: Tensor) -> Tensor:
    """Images in channels-last memory; anything that is not (B, C, H, W) as it is."""
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


def quick_norms(images: Tensor) -> AbstractContextManager[Any]:
    """Norms that are cheaper than torch's in small channels-last chunks, on the CPU; the same numbers to rounding."""
    return CheapNorms() if images.device.type == "cpu" else nullcontext()


def chunk_of(network: nn.Module, images: Tensor, most: int) -> int:
    """How many of these images one pass takes: ``most`` of 32x32 pixels, more of smaller ones, fewer of larger, at least 1.

    All of them where BatchNorm in training mode mixes the batch, and off the CPU.
    """
    if images.device.type != "cpu" or images.dim() != 4 or (network.training and mixes_samples(network)):
        return max(1, len(images))
    return max(1, most * PIXELS // (images.shape[2] * images.shape[3]))


def backward_in_parts(
    network: nn.Module,
    images: Tensor,
    targets: Targets,
    loss: Callable[[Tensor, Targets], Tensor],
    *,
    chunk: int | None = None,
) -> Tensor:
    """Add the gradient of the batch's mean loss to the parameters' ``grad``, one part at a time.

    Args:
        images: (B, C, H, W).
        targets: a tensor, or tensors by name, with leading axis B.
        loss: (output, targets) of a part to a scalar that is a mean over its images, so that parts add up by their size.
        chunk: images of one part; None chooses by their size.

    Returns:
        The batch's mean loss, detached.
    """
    size = chunk or chunk_of(network, images, TRAINING_CHUNK)
    total = torch.zeros((), dtype=images.dtype, device=images.device)
    for x, own in zip(images.split(size), _split(targets, len(images), size), strict=True):  # type: ignore[no-untyped-call]
        with quick_norms(images):
            value = loss(network(channels_last(x)), own) * (len(x) / len(images))
        value.backward()  # type: ignore[no-untyped-call]
        total += value.detach()
    return total


def _split(targets: Any, count: int, size: int) -> Iterator[Any]:
    for first in range(0, count, size):
        where = slice(first, first + size)
        yield targets[where] if isinstance(targets, Tensor) else {name: value[where] for name, value in targets.items()}


def _passed(network: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor, chunk: int | None) -> Tensor:
    size = chunk or chunk_of(network, images, CHUNK)
    with torch.no_grad(), quick_norms(images):
        return torch.cat([function(channels_last(x)) for x in images.split(size)])  # type: ignore[no-untyped-call]
