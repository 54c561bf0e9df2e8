"""``--bytes``: the most images a class whose set, images and labels and models as stored, costs no more than so many
bytes.

Images are sized by writing blank ones the way the set will be stored (storage type, plugins that store otherwise),
headers included; labels by what their kind says that they cost (``ddcore.labels.Labels.price``), a plugin's kind too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import asdict, frozen
from torch import Tensor

from ddcore.api.types import VECTORS, Synthetic
from ddcore.composing.recipes import OF_VIEWS
from ddcore.errors import InputError
from ddcore.labels import Prospect
from ddcore.labels.sizes import ALSO_CALLED
from ddcore.sets.artifact import as_stored
from ddcore.sets.brought import label_class
from ddcore.sets.exact import stored_exactly
from ddcore.sets.packed import pixels_of
from ddcore.storage.places import size_of
from ddcore.training.label_rules import draw_for, extent, kept_classes
from ddcore.training.protocols import resolved_protocols

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run

UNCHANGED = "unchanged"
"""What ``Plugin.of_real`` says of initialisers whose images are real ones as they are."""
UNCHANGED_OF_CORE = ("real", "kcenter")
"""Initialisers of the core whose images are real ones, unchanged."""
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
    most = min(max(run.source.counts()), 1 + limit * 8 // (pixels * BITS_AT_LEAST))
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
    blank, rows = torch.zeros(1, *source.shape), None
    if of_real_images(run) == UNCHANGED:
        blank, rows = run.real.train.inputs(torch.zeros(1, dtype=torch.int64)).cpu(), torch.zeros_like(classes)
    tensors = {"pixels": blank.expand(len(classes), *source.shape)}
    set_ = Synthetic(tensors, {"pixels": "pixels"}, [{"op": "rows", "tensor": "pixels"}], classes, source_rows=rows)
    with torch.no_grad():
        set_ = stored(run, set_)
    tensors, _ = as_stored(pixels_of(set_), set_.decoder, run.config.storage_dtype, run.normalisation)
    return size_of(tensors), len(set_.classes) // len(source.classes)


def class_by_class(run: Run, ipc: int) -> Tensor:
    """(N,) int64, every class so often."""
    return torch.arange(len(run.source.classes)).repeat_interleave(ipc)


def label_size(run: Run) -> Callable[[int], int]:
    """From samples a class to the bytes of their labels' files, by what their kind says: ``Labels.price``.

    Raises:
        InputError: labels of no known kind, or of one whose bytes do not follow the number of images.
    """
    kind, how = kind_and_storage(run)
    found = label_class(kind)
    if found is None:
        raise InputError(
            f"what labels by {run.labeller!r} cost does not follow the images alone: give --ipc instead of --bytes"
        )
    classes = len(run.source.classes)
    return lambda ipc: found.price(Prospect(class_by_class(run, ipc), classes, how, run))


def kind_and_storage(run: Run) -> tuple[str, Mapping[str, Any]]:
    """The kind of labels that the run makes, and what is known of their size: of the core's rules in the words of
    ``ddcore.labels.label_bytes``, else what the plugin's ``label_sizes`` says."""
    if run.config.labels is None and VECTORS in run.matcher.learns:
        return VECTORS, run.matcher.label_sizes(run)
    if run.config.labels is None and "labels" in run.matcher.learns:
        return "soft", {}
    rule = run.labeller
    kind, options = run.label_kind(rule), run.options.get("views")
    makers = [plugin for plugin in run.plugins.values() if rule in plugin.labellers]
    if makers and kind not in OF_VIEWS:
        return kind, makers[0].label_sizes(run)
    if options is None or kind not in (*OF_VIEWS, "averaged", "static-mixed"):
        return ALSO_CALLED.get(kind, kind), {}
    if kind not in OF_VIEWS:
        return ALSO_CALLED.get(kind, kind), {"float_bytes": 2 if options.half else 4}
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
    """A set as plugins store it, and what of it is real as the data hold it."""
    found = run.hooks.store(synthetic, run)
    if not run.dense:
        return found
    if found.source_rows is None:
        found = attrs.evolve(found, source_rows=synthetic.source_rows)
    return stored_exactly(found, run.real.source, run.normalisation, run.config.storage_dtype)


def of_real_images(run: Run) -> str:
    """What a run's set is of real images where nothing is learned: ``UNCHANGED``, or words; empty where steps change
    it or its images do not come from real ones."""
    if run.plan.steps:
        return ""
    name = run.plan.initializer
    if name in UNCHANGED_OF_CORE:
        return UNCHANGED
    return next((plugin.of_real[name] for plugin in run.plugins.values() if name in plugin.of_real), "")
