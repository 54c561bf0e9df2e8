"""Passes of images through a network, cut so that what they touch stays in the processor's cache: the one place that
knows.

Images go channels-last, where convolutions reach the machine's matrix-product speed, a chunk at a time: the
memory-bound rest (norms, activations, pooling) then works in cache. Gradients of sums add up, so a training batch may
be cut too. Networks whose BatchNorm mixes a batch see it whole; so do devices other than the CPU, which want large
batches. Where many parts of one batch are due, threads that work on a part each (``Crew``) beat threads that share
every operation: nobody waits after each.

Measured: ``examples/benchmarks/results/pass_chunks.json``. Shape letters: B images, C H W pixels, D features, K
classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ddcore import devices
from ddcore.errors import InputError
from ddcore.networks.curvature import CheapNorms
from ddcore.networks.zoo import mixes_samples

CHUNK = 16
"""Images of 32x32 pixels in a pass without gradient."""
TRAINING_CHUNK = 16
"""Images of 32x32 pixels in a pass forward and backward."""
PIXELS = 32 * 32

Result = TypeVar("Result")
Targets = TypeVar("Targets", Tensor, Mapping[str, Tensor])


def features(network: nn.Module, images: Tensor, *, chunk: int | None = None) -> Tensor:
    """``network.embed`` of images (B, C, H, W): (B, D), without gradient.

    Args:
        chunk: images of one pass; None chooses by their size.
    """
    with torch.no_grad():
        return _passed(network, network.embed, images, chunk, CHUNK)  # type: ignore[arg-type]


def logits(network: nn.Module, images: Tensor, *, chunk: int | None = None) -> Tensor:
    """The network's output for images (B, C, H, W): (B, K), without gradient, in the network's present mode."""
    with torch.no_grad():
        return _passed(network, network, images, chunk, CHUNK)


def embed(network: nn.Module, images: Tensor, *, chunk: int | None = None) -> Tensor:
    """``network.embed`` of images (B, C, H, W): (B, D), differentiable once in the images."""
    return _passed(network, network.embed, images, chunk, TRAINING_CHUNK)  # type: ignore[arg-type]


def lay_out(network: nn.Module) -> nn.Module:
    """The same network with its convolutions' weights channels-last, in place; values unchanged."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def channels_last(images: Tensor) -> Tensor:
    """Images in channels-last memory; anything that is not (B, C, H, W) as it is."""
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


def quick_norms(images: Tensor) -> AbstractContextManager[Any]:
    """Norms that are cheaper than torch's in small channels-last chunks, on the CPU; the same numbers to rounding."""
    return CheapNorms() if devices.in_cache(images.device) else nullcontext()


def mixed_precision(device: torch.device, wanted: bool = True) -> AbstractContextManager[Any]:
    """Products and convolutions in bfloat16, sums and norms as they are; bfloat16 has float32's range,
    so no loss is scaled."""
    return devices.autocast(device) if wanted else nullcontext()


def chunk_of(network: nn.Module, images: Tensor, most: int) -> int:
    """How many of these images one pass takes: ``most`` of 32x32 pixels, more of smaller ones, fewer of larger, at
    least 1.

    All of them where BatchNorm in training mode mixes the batch, and off the CPU.
    """
    if not devices.in_cache(images.device) or images.dim() != 4 or (network.training and mixes_samples(network)):
        return max(1, len(images))
    return max(1, most * PIXELS // (images.shape[2] * images.shape[3]))


def groups(count: int, size: int) -> list[int]:
    """Images of each consecutive group whose statistics are taken together.

    Raises:
        InputError: a group of one image has no statistics.

    >>> groups(16, 8), groups(18, 8), groups(17, 8)
    ([8, 8], [8, 8, 2], [8, 9])
    """
    if min(count, size) < 2:
        raise InputError(
            f"statistics of {min(count, size)} image were asked for: give 2 or more, in groups of 2 or more"
        )
    sizes = [size] * (count // size) + ([count % size] if count % size else [])
    return [*sizes[:-2], sizes[-2] + 1] if sizes[-1] == 1 else sizes


class Crew:
    """One worker for each of torch's threads, each with a copy of the network and torch to itself: a context manager.

    A part's result does not depend on the number of workers, and results come in the order of the parts.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.threads = devices.threads(device)
        self.network = network
        self.copies: list[nn.Module] = []
        self.pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()
            torch.set_num_threads(self.threads)  # workers set the default of threads to come

    def each(self, function: Callable[..., Result], parts: Sequence[tuple[Any, ...]]) -> list[Result]:
        """``function(network, *part)`` of every part; in the caller's thread when there are fewer parts than
        workers."""
        if self.threads == 1 or len(parts) < self.threads:
            return [function(self.network, *part) for part in parts]
        if self.pool is None:
            self.copies = [deepcopy(self.network) for _ in range(self.threads)]
            self.pool = ThreadPoolExecutor(self.threads, "ddcore", torch.set_num_threads, (1,))

        def share(copy: nn.Module, mine: Sequence[tuple[Any, ...]]) -> list[Result]:
            return [function(copy, *part) for part in mine]

        shares = [self.pool.submit(share, copy, parts[k :: self.threads]) for k, copy in enumerate(self.copies)]
        done = [iter(s.result()) for s in shares]
        return [next(done[i % self.threads]) for i in range(len(parts))]


def backward_in_parts(
    network: nn.Module,
    images: Tensor,
    targets: Targets,
    loss: Callable[[Tensor, Targets], Tensor],
    *,
    chunk: int | Sequence[int] | None = None,
) -> Tensor:
    """Add the gradient of the batch's mean loss to the parameters' ``grad``, one part at a time.

    Args:
        images: (B, C, H, W).
        targets: a tensor, or tensors by name, with leading axis B.
        loss: (output, targets) of a part to a scalar that is a mean over its images, so that parts add up by their
            size.
        chunk: images of one part, or of each; None chooses by their size.

    Returns:
        The batch's mean loss, detached.
    """
    size = chunk or chunk_of(network, images, TRAINING_CHUNK)
    total = torch.zeros((), device=images.device)
    parts = images.split(size)  # type: ignore[no-untyped-call]
    for x, own in zip(parts, _split(targets, [len(part) for part in parts]), strict=True):
        with quick_norms(images):
            value = loss(network(channels_last(x)), own) * (len(x) / len(images))
        value.backward()  # type: ignore[no-untyped-call]
        total = total + value.detach()
    return total


def _split(targets: Any, sizes: Sequence[int]) -> Iterator[Any]:
    for last, size in zip(accumulate(sizes), sizes, strict=True):
        where = slice(last - size, last)
        yield targets[where] if isinstance(targets, Tensor) else {name: value[where] for name, value in targets.items()}


def _passed(
    network: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor, chunk: int | None, most: int
) -> Tensor:
    size = chunk or chunk_of(network, images, most)
    with quick_norms(images):
        return torch.cat([function(channels_last(x)) for x in images.split(size)])  # type: ignore[no-untyped-call]
