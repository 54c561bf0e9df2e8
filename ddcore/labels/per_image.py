"""Labels that say one thing about each sample, whatever is done to it. Shape letters: N samples, B of a batch,
K classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, final

import torch
from attrs import field, frozen
from torch import Tensor

from ddcore.errors import InputError
from ddcore.images.views import SHIFTED, Draw, View, drawn, mixup
from ddcore.labels.labels import (
    Labels,
    Prospect,
    as_ids,
    at_rows,
    check_ids,
    float32_or_16,
    mixed_classes,
    smallest_type,
    stored,
)
from ddcore.storage.documents import is_count


def two_counts(_: object, attribute: Any, value: tuple[int, int]) -> None:
    """An attrs validator: (H, W) in pixels."""
    if not (isinstance(value, tuple) and len(value) == 2 and all(is_count(n, least=1) for n in value)):
        raise ValueError(f"{attribute.name} is {value!r} where height and width are due")


@final
@frozen(eq=False)
class HardLabels(Labels):
    """The class of each sample: N bytes for up to 256 classes, 2 N for up to 32,768.

    Raises:
        InputError: ids that are not of K classes.
    """

    kind: ClassVar[str] = "hard"
    classes: Tensor = field(converter=as_ids)
    class_count: int

    def __attrs_post_init__(self) -> None:
        check_ids(self.classes, self.class_count)

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
    def blank(cls, prospect: Prospect) -> HardLabels:
        """The classes themselves."""
        return cls(prospect.ids, prospect.classes)

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> HardLabels:
        """From an artifact."""
        return cls(stored(tensors, "class"), int(header["classes"]))


class OneVector(Labels):
    """What all kinds with one vector of logits a sample have in common.

    Attributes:
        logits: (N, K) before the softmax.
        temperature: both distributions are softened by it.
        tau_squared: whether the loss is multiplied by its square.
    """

    loss: ClassVar[str]
    logits: Tensor
    temperature: float
    tau_squared: bool

    def __attrs_post_init__(self) -> None:
        check_logits(self.logits, self.classes, self.temperature)

    @property
    def class_count(self) -> int:  # type: ignore[override]
        """K."""
        return self.logits.shape[1]

    @property
    def recipe(self) -> dict[str, Any]:
        """The loss and its numbers."""
        return {"loss": self.loss, "temperature": self.temperature, "tau_squared": self.tau_squared}

    def tensors(self) -> dict[str, Tensor]:
        """``logits`` (N, K) and ``class`` (N,)."""
        return {"logits": self.logits, "class": self.classes.to(smallest_type(self.class_count))}

    def header(self) -> dict[str, Any]:
        """K, temperature and whether its square multiplies the loss."""
        return {"classes": self.class_count, "temperature": self.temperature, "tau_squared": self.tau_squared}


@final
@frozen(eq=False)
class SoftLabels(OneVector):
    """One vector of logits a sample, learned or given by a teacher; a student matches their softmax.

    They cost N K bytes times 4 (float32) or 2 (float16), and as much as hard labels for the class each sample is of.

    Attributes:
        logits: (N, K) before the softmax; float16 is kept, everything else becomes float32.

    Raises:
        InputError: shapes that do not fit, or a temperature that is not above 0.
    """

    kind: ClassVar[str] = "soft"
    loss: ClassVar[str] = "soft-cross-entropy"
    logits: Tensor = field(converter=float32_or_16)
    classes: Tensor = field(converter=as_ids)
    temperature: float = 1.0
    tau_squared: bool = False

    def targets(self, view: View, images: Tensor | None = None) -> dict[str, Tensor]:
        """``logits`` (B, K) float32 and ``class`` (B,) int64."""
        return {"logits": at_rows(self.logits, view.index), "class": self.classes[view.index]}

    @classmethod
    def blank(cls, prospect: Prospect) -> SoftLabels:
        """Logits of 0."""
        return cls(_no_logits(prospect), prospect.ids)

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SoftLabels:
        """From an artifact."""
        temperature, tau_squared = float(header["temperature"]), bool(header["tau_squared"])
        return cls(stored(tensors, "logits"), stored(tensors, "class"), temperature, tau_squared)


@final
@frozen(eq=False)
class StaticMixedLabels(OneVector):
    """One vector of logits a sample, of the clean image, which students get mixed (INFER, arXiv:2408.06927).

    A batch's views are drawn as it comes up and cost nothing. The label ignores crop and mirror and follows the mix in
    logit space, before the softmax: lam z + (1 - lam) z[partner].

    Attributes:
        logits: (N, K) before the softmax; float16 is kept, everything else becomes float32.
        size: (H, W) of the images.
        draw: what is done to them.
        temperature: of the KL divergence, 30 in the paper.
    """

    kind: ClassVar[str] = "static-mixed"
    loss: ClassVar[str] = "kl"
    logits: Tensor = field(converter=float32_or_16)
    classes: Tensor = field(converter=as_ids)
    size: tuple[int, int] = field(validator=two_counts)
    draw: Draw = SHIFTED
    temperature: float = 30.0
    tau_squared: bool = False

    def views(self, epoch: int, count: int, batch_size: int, generator: torch.Generator) -> Iterator[View]:
        """A permutation of all samples, each batch under a fresh draw of the same generator."""
        for index in torch.split(torch.randperm(count, generator=generator), batch_size):
            yield drawn(self.draw, len(index), self.size, generator).view(self.draw, index)

    def targets(self, view: View, images: Tensor | None = None) -> dict[str, Tensor]:
        """``logits`` (B, K) float32, mixed as the images are; ``class``, and where it mixes ``mixed`` and ``lam``."""
        logits = at_rows(self.logits, view.index)
        logits = logits if view.mix is None else mixup(logits, *view.mix)
        return {"logits": logits, **mixed_classes(self.classes, view)}

    def header(self) -> dict[str, Any]:
        """Also what is drawn."""
        return {**super().header(), "size": list(self.size), "draw": self.draw.header()}

    @classmethod
    def blank(cls, prospect: Prospect) -> StaticMixedLabels:
        """Logits of 0."""
        return cls(_no_logits(prospect), prospect.ids, (1, 1))

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> StaticMixedLabels:
        """From an artifact."""
        return cls(
            stored(tensors, "logits"),
            stored(tensors, "class"),
            tuple(header["size"]),
            Draw(**header["draw"]),
            float(header["temperature"]),
            bool(header["tau_squared"]),
        )


def _no_logits(prospect: Prospect) -> Tensor:
    dtype = torch.float16 if prospect.how.get("float_bytes") == 2 else torch.float32
    return torch.zeros(len(prospect.ids), prospect.classes, dtype=dtype)


def check_logits(logits: Tensor, classes: Tensor, temperature: float) -> None:
    """Refuse logits that are not one row a sample, classes that are not theirs,
    and a temperature that is not above 0."""
    if logits.dim() != 2 or len(logits) != len(classes):
        due = f"({classes.numel()} samples, classes)"
        raise InputError(
            f"soft labels have shape {tuple(logits.shape)} where {due} is due: give logits for each sample"
        )
    check_temperature(temperature)
    check_ids(classes, logits.shape[1])


def check_temperature(temperature: float) -> None:
    """Refuse what float32 logits cannot be divided by."""
    if not 1e-6 <= temperature <= 1e6:
        raise InputError(f"soft labels have temperature {temperature}: it has to be above 0, from 1e-6 to 1e6")
