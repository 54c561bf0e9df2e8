"""``--bytes``: the most images a class whose set, images and labels and models as stored, costs no more than so many
bytes.

Images are sized by writing blank ones the way the set will be stored (storage type, plugins that store otherwise),
headers included; labels by their kind's formula (``ddcore.labels.label_parts``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from attrs import asdict, frozen
from torch import Tensor

from ddcore.api.types import Synthetic
from ddcore.composing.recipes import OF_VIEWS
from ddcore.errors import InputError
from ddcore.labels import HardLabels, Labels, SoftLabels, label_bytes
from ddcore.sets.artifact import as_stored
from ddcore.sets.packed import pixels_of
from ddcore.storage.places import size_of
from ddcore.training.label_rules import draw_for, extent, kept_classes
from ddcore.training.protocols import resolved_protocols

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run

LARGEST_HEADER = 2048
"""Bytes that the header of a file of labels of views may take; of other labels it is counted."""
BITS_AT_LEAST = 2
"""Of a stored pixel, to know where to stop looking."""


@frozen
class Budget:
    """What a number of bytes buys.

    Attributes:
        bytes: that may be spent.
        ipc: images a class that fit.
        images, labels: what they are expected to cost.
        samples: a class that these images hold.
    """

    bytes: int
    ipc: int
    images: int
    labels: int
    samples: int

    @property
    def cost(self) -> int:
        """What the set is expected to cost."""
        return self.images + self.labels

    def as_json(self) -> dict[str, int]:
        """Plain values."""
        return asdict(self)

    def sentence(self) -> str:
        """For people."""
        held = f" that hold {self.samples} samples" if self.samples != self.ipc else ""
        return f"{self.bytes:,} bytes buy {self.ipc} images per class{held}: {self.images:,} of images, {self.labels:,} of labels"


def budget_of(run: Run, limit: int) -> Budget:
    """The most images a class that so many bytes buy, no more than the smallest class has.

    Raises:
        InputError: not even one image a class fits; what is stored does not follow ``--ipc``.
    """
    if hasattr(run.matcher, "ddcore_assemble"):
        raise InputError(
            f"what {run.matcher_name} stores is not --ipc images a class, which --bytes would choose: give --ipc instead"
        )
    labels = label_size(run)

    def cost(ipc: int) -> Budget:
        images, samples = image_bytes(run, ipc)
        return Budget(limit, ipc, images, labels(samples), samples)

    pixels = len(run.source.classes) * math.prod(run.source.shape)
    most = min(min(run.source.counts()), 1 + limit * 8 // (pixels * BITS_AT_LEAST))
    ipc = largest(lambda n: cost(n).cost <= limit, most)
    if not ipc:
        one = cost(1)
        raise InputError(
            f"--bytes {limit:,} buys no image a class: one of each costs {one.cost:,} bytes, {one.images:,} of images "
            f"and {one.labels:,} of labels; give more, or store less, by --plugin quantize, --storage-dtype or other --labels"
        )
    return cost(ipc)


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest n in 0 .. most that fits, where all smaller ones fit too; 0 is taken to fit.

    >>> largest(lambda n: n * n <= 50, 100), largest(lambda n: False, 100), largest(lambda n: True, 100)
    (7, 0, 100)
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def image_bytes(run: Run, ipc: int) -> tuple[int, int]:
    """Bytes of the file of so many images a class, as this run stores them, and the samples a class that they hold."""
    source = run.source
    classes = class_by_class(run, ipc)
    blank = torch.zeros(1, *source.shape).expand(len(classes), *source.shape)
    set_ = Synthetic({"pixels": blank}, {"pixels": "pixels"}, [{"op": "rows", "tensor": "pixels"}], classes)
    with torch.no_grad():
        set_ = stored(run, set_)
    tensors, _ = as_stored(pixels_of(set_), set_.decoder, run.config.storage_dtype, run.normalisation)
    return size_of(tensors), len(set_.classes) // len(source.classes)


def class_by_class(run: Run, ipc: int) -> Tensor:
    """(N,) int64, every class so often."""
    return torch.arange(len(run.source.classes)).repeat_interleave(ipc)


def label_size(run: Run) -> Callable[[int], int]:
    """From samples a class to the bytes of their labels' file.

    Raises:
        InputError: labels whose bytes do not follow the number of images, or are not known by formula.
    """
    classes = len(run.source.classes)
    kind, how = kind_and_storage(run)
    if kind in OF_VIEWS:
        return lambda ipc: LARGEST_HEADER + label_bytes(kind, classes * ipc, classes, **how)
    if kind not in ("hard", "soft", "averaged", "static-mixed"):
        raise InputError(
            f"what labels by {run.labeller!r} cost does not follow the images alone: give --ipc instead of --bytes"
        )

    def made(ipc: int) -> Labels:
        ids = class_by_class(run, ipc)
        dtype = torch.float16 if how.get("float_bytes") == 2 else torch.float32
        return (
            HardLabels(ids, classes) if kind == "hard" else SoftLabels(torch.zeros(len(ids), classes, dtype=dtype), ids)
        )

    return lambda ipc: size_of(made(ipc).tensors())


def kind_and_storage(run: Run) -> tuple[str, Mapping[str, Any]]:
    """The kind of labels that the run makes, and how they are stored, in the words of ``ddcore.labels.label_bytes``."""
    if "labels" in run.matcher.learns and run.config.labels is None:
        return "soft", {}
    kind, options = run.label_kind(run.labeller), run.options.get("views")
    if options is None or kind not in (*OF_VIEWS, "averaged", "static-mixed"):
        return kind, {}
    if kind not in OF_VIEWS:
        return kind, {"float_bytes": 2 if options.half else 4}
    protocols = resolved_protocols(run)
    epochs, batch = extent(options, protocols, run)
    return kind, {
        "epochs": epochs,
        "batch": batch,
        "keep": options.keep,
        "seeded": options.seeded,
        "compact": options.compact,
        "k": kept_classes(options, run.source),
        "shuffle": draw_for(options, protocols[0].views, run.source).shuffle,
    }


def stored(run: Run, synthetic: Synthetic) -> Synthetic:
    """A set as plugins store it."""
    return run.hooks.store(synthetic, run)
