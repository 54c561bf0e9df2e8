"""Labels of a synthetic set: what is stored, in which order and under which changes it is visited, and what it costs.

A label kind answers ``views`` (which samples a batch holds, and what is done to them) and ``targets`` (what the student is
told about them, in the vocabulary of ``ddcore.types.TARGETS``). Kinds that store a label for each view own order, batches,
crops and mixes; hard and soft labels leave all of that to the protocol. Shape letters: N samples, B of a batch, K classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, final

import torch
from attrs import field, frozen
from torch import Tensor
from torch.nn import functional as F

from ddcore.errors import InputError, near


@frozen(eq=False)
class View:
    """One batch of a student's epoch.

    Attributes:
        index: (B,) int64, decoded samples.
        ops: (name, parameters) changes that the labels were made for, with names of the core only; empty leaves them to
            the protocol.
        mix: (partner (B,) int64 into the batch, share of the first (B,)) or None.
    """

    index: Tensor
    ops: tuple[tuple[str, Mapping[str, Tensor]], ...] = ()
    mix: tuple[Tensor, Tensor] | None = None


class Labels(ABC):
    """Labels of N decoded samples.

    Attributes:
        kind: its name in a manifest.
        classes: (N,) int64 on the CPU: the class each sample is of.
        class_count: K.
    """

    kind: ClassVar[str]
    classes: Tensor
    class_count: int

    def __len__(self) -> int:
        return len(self.classes)

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
        """What the student is told about a view; ``images`` are already decoded and changed, stored kinds ignore them."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that is stored in ``labels.safetensors``."""

    def header(self) -> dict[str, Any]:
        """All that is stored beside it, in the manifest."""
        return {"classes": self.class_count}

    @classmethod
    @abstractmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Labels:
        """The inverse of ``tensors`` and ``header``."""

    @property
    def payload_bytes(self) -> int:
        """Bytes of what is stored; the file adds its container's header."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())


def _ids(classes: Tensor) -> Tensor:
    if classes.is_floating_point() or classes.is_complex():
        raise InputError(f"class ids are {classes.dtype} where integers are due: number the classes from 0 on")
    return classes.detach().cpu().long()


def _float32_or_16(logits: Tensor) -> Tensor:
    logits = logits.detach().cpu()
    return logits if logits.dtype == torch.float16 else logits.float()


@final
@frozen(eq=False)
class HardLabels(Labels):
    """The class of each sample: N bytes for up to 256 classes, 2 N for up to 32,768.

    Raises:
        InputError: ids that are not of K classes.
    """

    kind: ClassVar[str] = "hard"
    classes: Tensor = field(converter=_ids)
    class_count: int

    def __attrs_post_init__(self) -> None:
        _check_ids(self.classes, self.class_count)

    @property
    def recipe(self) -> dict[str, Any]:
        """Cross entropy."""
        return {"loss": "cross-entropy"}

    def targets(self, view: View, images: Tensor | None = None) -> dict[str, Tensor]:
        """``class`` (B,) int64."""
        return {"class": self.classes[view.index]}

    def tensors(self) -> dict[str, Tensor]:
        """``class`` (N,) in the smallest type that holds K."""
        return {"class": self.classes.to(smallest_type(self.class_count))}

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> HardLabels:
        """From an artifact."""
        return cls(_stored(tensors, "class"), int(header["classes"]))


@final
@frozen(eq=False)
class SoftLabels(Labels):
    """One vector of logits a sample, learned or given by a teacher; a student matches their softmax.

    They cost N K bytes times 4 (float32) or 2 (float16), and as much as hard labels for the class each sample is of.

    Attributes:
        logits: (N, K) before the softmax; float16 is kept, everything else becomes float32.
        temperature: both distributions are softened by it.
        tau_squared: whether the loss is multiplied by its square.

    Raises:
        InputError: shapes that do not fit, or a temperature that is not above 0.
    """

    kind: ClassVar[str] = "soft"
    logits: Tensor = field(converter=_float32_or_16)
    classes: Tensor = field(converter=_ids)
    temperature: float = 1.0
    tau_squared: bool = False

    def __attrs_post_init__(self) -> None:
        if self.logits.dim() != 2 or len(self.logits) != len(self.classes):
            due = f"({self.classes.numel()} samples, classes)"
            raise InputError(
                f"soft labels have shape {tuple(self.logits.shape)} where {due} is due: give logits for each sample"
            )
        if not 0 < self.temperature < math.inf:
            raise InputError(f"soft labels have temperature {self.temperature}: it has to be above 0")
        _check_ids(self.classes, self.class_count)

    @property
    def class_count(self) -> int:  # type: ignore[override]
        """K."""
        return self.logits.shape[1]

    @property
    def recipe(self) -> dict[str, Any]:
        """Soft cross entropy."""
        return {"loss": "soft-cross-entropy", "temperature": self.temperature, "tau_squared": self.tau_squared}

    def targets(self, view: View, images: Tensor | None = None) -> dict[str, Tensor]:
        """``logits`` (B, K) float32 and ``class`` (B,) int64."""
        logits = self.logits[view.index]
        logits = logits.float() if logits.dtype == torch.float16 else logits
        return {"logits": logits, "class": self.classes[view.index]}

    def tensors(self) -> dict[str, Tensor]:
        """``logits`` (N, K) and ``class`` (N,)."""
        return {"logits": self.logits, "class": self.classes.to(smallest_type(self.class_count))}

    def header(self) -> dict[str, Any]:
        """K, temperature and whether its square multiplies the loss."""
        return {"classes": self.class_count, "temperature": self.temperature, "tau_squared": self.tau_squared}

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SoftLabels:
        """From an artifact."""
        temperature, tau_squared = float(header["temperature"]), bool(header["tau_squared"])
        return cls(_stored(tensors, "logits"), _stored(tensors, "class"), temperature, tau_squared)


KINDS: dict[str, type[Labels]] = {"hard": HardLabels, "soft": SoftLabels}


def smallest_type(classes: int) -> torch.dtype:
    """The type that class ids are stored in.

    >>> smallest_type(256), smallest_type(257)
    (torch.uint8, torch.int16)
    """
    return torch.uint8 if classes <= 256 else torch.int16 if classes <= 32768 else torch.int32


def soft_cross_entropy(
    logits: Tensor, target_logits: Tensor, temperature: float = 1.0, tau_squared: bool = False
) -> Tensor:
    """-sum_c softmax(z / tau)_c log softmax(f / tau)_c, mean over the batch.

    Args:
        logits: the student's f, (B, K) float.
        target_logits: z, (B, K) float.

    Returns:
        Scalar; the target's entropy where the two agree.

    >>> soft_cross_entropy(torch.zeros(1, 4), torch.zeros(1, 4)).exp()
    tensor(4.)
    """
    loss = F.cross_entropy(logits / temperature, (target_logits / temperature).softmax(1))
    return loss * temperature**2 if tau_squared else loss


def student_loss(logits: Tensor, targets: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> Tensor:
    """The label's own loss, mean over the batch.

    Args:
        logits: the student's, (B, K) float.
        targets: as a label kind gives them.
        recipe: that kind's.

    Raises:
        InputError: a loss that this version does not know.
    """
    if recipe["loss"] == "cross-entropy":
        return F.cross_entropy(logits, targets["class"])
    if recipe["loss"] == "soft-cross-entropy":
        return soft_cross_entropy(logits, targets["logits"].to(logits), recipe["temperature"], recipe["tau_squared"])
    raise InputError(
        f"labels ask for the loss {recipe['loss']!r}, which this ddcore does not know: upgrade ddcore-torch"
    )


def _check_ids(classes: Tensor, count: int) -> None:
    if classes.dim() != 1:
        raise InputError(
            f"class ids have shape {tuple(classes.shape)} where one number a sample is due: give them as a row"
        )
    wrong = classes[(classes < 0) | (classes >= count)]
    if len(wrong):
        raise InputError(
            f"labels name class {int(wrong[0])} where there are {count}: number the classes from 0 to {count - 1}"
        )


def _stored(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise InputError(f"the labels lack their tensor {name!r}: {near(name, tensors)}")
    return tensors[name]
