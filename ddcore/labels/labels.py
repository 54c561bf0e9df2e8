"""What every kind of labels answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from attrs import field, frozen
from torch import Tensor

from ddcore.api.types import Batch
from ddcore.errors import InputError, near
from ddcore.images.views import View, changed
from ddcore.storage.places import size_of


@frozen(eq=False)
class Prospect:
    """Labels that are to be made, as far as their price depends on it.

    Attributes:
        ids: (N,) int64, the class of each sample.
        classes: K.
        how: what the plugin that makes them says of their size (``Plugin.label_sizes``), or the core of its own.
        run: that will make them: its data and options, for kinds that ask more; None: none is at hand.
    """

    ids: Tensor
    classes: int
    how: Mapping[str, Any] = field(factory=dict)
    run: Any = None

    def number(self, name: str, kind: str) -> int:
        """A whole number of ``how``, at least 1.

        Raises:
            InputError: nobody says it.
        """
        value = self.how.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(
                f"the price of {kind} labels depends on {name!r}, which nobody says before they are made: give --ipc instead of --bytes"
            )
        return value


class Labels(ABC):
    """Labels of N decoded samples.

    Attributes:
        kind: its name in a manifest.
        distribution: that reads this kind; empty for the core's. It has an entry point ``ddcore.labels`` of the kind's
            name.
        classes: (N,) int64 on the CPU: the class each sample is of.
        class_count: K.
        of_classes: whether a student that has learned them tells classes by its outputs.
        size: (H, W) of the images that its views are drawn for; None if it leaves crops, mirrors and mixes to the
            protocol.
    """

    kind: ClassVar[str]
    distribution: ClassVar[str] = ""
    of_classes: ClassVar[bool] = True
    classes: Tensor
    class_count: int
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def width(self) -> int:
        """Outputs that a student of theirs needs: K, unless a kind says otherwise."""
        return self.class_count

    @property
    def own_views(self) -> bool:
        """Whether it says how images are changed before a student sees them, so that nothing else may."""
        return self.size is not None

    @property
    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """How a student learns from them: ``loss`` and its numbers."""

    def views(self, epoch: int, count: int, batch_size: int, generator: torch.Generator) -> Iterator[View]:
        """The batches of an epoch: a permutation of all samples, the last batch possibly short."""
        for index in torch.split(torch.randperm(count, generator=generator), batch_size):
            yield View(index)

    @abstractmethod
    def targets(self, view: View, images: Tensor | None) -> dict[str, Tensor]:
        """What the student is told about a view; ``images`` are already decoded and changed,
        stored kinds ignore them."""

    def changed(self, view: View, images: Tensor) -> Tensor:
        """Images (B, C, H, W) of a view as it wants them, from those of ``view.fetched``: by the core's changes, unless
        a kind brings more."""
        return changed(view, images)

    @property
    def online(self) -> bool:
        """Whether ``answered`` has to be asked, because what is told depends on the images as a student sees them."""
        return False

    @property
    def elsewhere(self) -> bool:
        """Whether answers need files that are not part of the artifact."""
        return False

    def answered(self, batch: Batch) -> Batch:
        """A batch after all that changes it, with what can only be told of it then;
        stored labels have told all before."""
        return batch

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that is stored in ``labels.safetensors``."""

    def models(self) -> dict[str, Tensor]:
        """All that is stored in ``models.safetensors``: networks that compute labels."""
        return {}

    def header(self) -> dict[str, Any]:
        """All that is stored beside it, in the manifest."""
        return {"classes": self.class_count}

    @classmethod
    @abstractmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Labels:
        """The inverse of ``tensors``, ``models`` and ``header``."""

    @classmethod
    def blank(cls, prospect: Prospect) -> Labels:
        """Labels of the samples to be that say nothing yet, of the size that theirs will have: what ``price`` weighs.

        Raises:
            InputError: their size is not known before they are made, which is so unless a kind says otherwise.
        """
        raise InputError(f"what {cls.kind} labels cost does not follow the images alone: give --ipc instead of --bytes")

    @classmethod
    def price(cls, prospect: Prospect) -> int:
        """Bytes of the files that such labels will take, headers included: never less, for ``--bytes``.

        Raises:
            InputError: as ``blank``.
        """
        made = cls.blank(prospect)
        return sum(size_of(part) for part in (made.tensors(), made.models()) if part)

    @property
    def payload_bytes(self) -> int:
        """Bytes of what is stored; the file adds its container's header."""
        return bytes_in(self.tensors())

    @property
    def model_bytes(self) -> int:
        """Bytes of the networks among it, which are counted apart."""
        return bytes_in(self.models())


def bytes_in(tensors: Mapping[str, Tensor]) -> int:
    """What tensors take on storage, without the container's header."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def smallest_type(classes: int) -> torch.dtype:
    """The type that class ids are stored in.

    >>> smallest_type(256), smallest_type(257)
    (torch.uint8, torch.int16)
    """
    return torch.uint8 if classes <= 256 else torch.int16 if classes <= 32768 else torch.int32


def id_type(classes: int) -> torch.dtype:
    """The type of the kept classes' ids."""
    return torch.int16 if classes <= 32768 else torch.int32


def as_ids(classes: Tensor) -> Tensor:
    """Class ids on the CPU as int64."""
    if classes.is_floating_point() or classes.is_complex():
        raise InputError(f"class ids are {classes.dtype} where integers are due: number the classes from 0 on")
    return classes.detach().cpu().long()


def float32_or_16(values: Tensor) -> Tensor:
    """Values on the CPU; float16 is kept, everything else becomes float32."""
    values = values.detach().cpu()
    return values if values.dtype == torch.float16 else values.float()


def at_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Rows of stored values, as a student gets them: float16 as float32."""
    chosen = values[rows]
    return chosen.float() if chosen.dtype == torch.float16 else chosen


def check_ids(classes: Tensor, count: int) -> None:
    """Refuse what are no ids of ``count`` classes, one a sample."""
    if classes.dim() != 1:
        raise InputError(
            f"class ids have shape {tuple(classes.shape)} where one number a sample is due: give them as a row"
        )
    wrong = classes[(classes < 0) | (classes >= count)]
    if len(wrong):
        raise InputError(
            f"labels name class {int(wrong[0])} where there are {count}: number the classes from 0 to {count - 1}"
        )


def stored(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor by name."""
    if name not in tensors:
        raise InputError(f"the labels lack their tensor {name!r}: {near(name, tensors)}")
    return tensors[name]


def mixed_classes(classes: Tensor, view: View) -> dict[str, Tensor]:
    """``class`` (B,) of a view's samples; where it mixes also ``mixed`` (B,), the partner's, and ``lam`` (B,).

    Where nothing of the partner is seen (share 1: an empty box), the mixed-in class is the own one.
    """
    own = classes[view.index]
    if view.mix is None:
        return {"class": own}
    partner, share = view.mix
    return {"class": own, "mixed": torch.where(share < 1, own[partner], own), "lam": share}
