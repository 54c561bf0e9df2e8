"""Labels that say something about each view of a sample: a batch of an epoch, cropped, mirrored and mixed.

They own order, batches and changes of images. Whatever is told about views, each kind takes views that are stored or
drawn again from a seed, and can be pruned. Shape letters: N samples, V views, B of a batch, K classes, k kept of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self, final

import attrs
import torch
from attrs import field, frozen
from attrs.validators import ge, in_, instance_of
from torch import Tensor

from ddcore.errors import InputError
from ddcore.images.views import View
from ddcore.labels.labels import (
    Labels,
    Prospect,
    as_ids,
    at_rows,
    check_ids,
    float32_or_16,
    id_type,
    mixed_classes,
    smallest_type,
    stored,
)
from ddcore.labels.losses import LARGEST_HALF
from ddcore.labels.per_image import check_temperature
from ddcore.labels.sizes import label_bytes
from ddcore.labels.view_records import DrawnViews, ViewRecord, load_record

Rest = ("zero", "least", "shared")
SHARED = "shared"
MOST_MASS = 1.25
"""Of kept probabilities, whose rounded sum may be somewhat above 1."""
LARGEST_HEADER = 2048
"""Bytes that the header of a file of labels of views may take; of other labels it is counted."""


class PerView(Labels):
    """What all kinds with a label for each view have in common.

    Attributes:
        record: the views, in batches.
        answers: names of the attributes with a row for each view.
    """

    answers: ClassVar[tuple[str, ...]]
    record: ViewRecord

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        """(H, W) of the images."""
        return self.record.size

    def views(self, epoch: int, count: int, batch_size: int, generator: torch.Generator) -> Iterator[View]:
        """The record's batches, as many as make an epoch, from the first again after the last; the arguments
        ``batch_size`` and ``generator`` are of no effect."""
        each = self.record.per_epoch
        for number in range(epoch * each, (epoch + 1) * each):
            yield self.record.view(number % self.record.batches)

    def targets(self, view: View, images: Tensor | None = None) -> dict[str, Tensor]:
        """What was stored for the view, with ``class``, ``mixed`` and ``lam``; of a view that is not the record's,
        ``class``."""
        classes = mixed_classes(self.classes, view)
        return classes if view.rows is None else {**self.told(view.rows), **classes}

    @classmethod
    def price(cls, prospect: Prospect) -> int:
        """By formula, with room for the header; ``how`` is in the words of ``label_bytes``."""
        return LARGEST_HEADER + label_bytes(cls.kind, len(prospect.ids), prospect.classes, **prospect.how)

    @abstractmethod
    def told(self, rows: Tensor) -> dict[str, Tensor]:
        """What is told about the views at these rows, (B,) int64."""

    def pruned(self, share: float, generator: torch.Generator) -> Self:
        """Labels of a random ``share`` of the whole batches; all of them, and these very labels, for 1.

        A short last batch is dropped with the rest. Students go through what is kept in cycles.
        """
        if share == 1:
            return self
        numbers = self.record.kept(share, generator)
        rows = self.record.rows_of(numbers)
        each = {name: getattr(self, name)[rows] for name in self.answers}
        return attrs.evolve(self, record=self.record.only(numbers), **each)  # type: ignore[misc]

    def stored(self, *, compact: bool = False) -> Self:
        """The same labels with every parameter of their views stored."""
        if not isinstance(self.record, DrawnViews):
            return self
        return attrs.evolve(self, record=self.record.store(compact=compact))  # type: ignore[misc]

    def tensors(self) -> dict[str, Tensor]:
        """The answers (V, ...), ``class`` (N,), and the record's."""
        own = {name: getattr(self, name) for name in self.answers}
        return {**own, "class": self.classes.to(smallest_type(self.class_count)), **self.record.tensors()}

    def header(self) -> dict[str, Any]:
        """K, the loss's numbers and the record's."""
        numbers = {name: value for name, value in self.recipe.items() if name != "loss"}
        return {"classes": self.class_count, **numbers, "views": self.record.header()}

    def check(self) -> None:
        """Refuse answers that are not one row a view, and class ids that are not one a sample."""
        for name in self.answers:
            shape = tuple(getattr(self, name).shape)
            if len(shape) != 2 or shape[0] != self.record.rows:
                due = f"({self.record.rows} views, numbers of each)"
                raise InputError(f"per-view labels have {name!r} of shape {shape} where {due} is due: label every view")
        check_ids(self.classes, self.class_count)
        if self.record.images != len(self.classes):
            got = f"views of {self.record.images} samples and classes of {len(self.classes)}"
            raise InputError(f"per-view labels have {got}: give the class of each sample")


def _record(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ViewRecord:
    return load_record(len(stored(tensors, "class")), header["views"], tensors)


@final
@frozen(eq=False)
class PerViewLabels(PerView):
    """A teacher's logits for each view: SRe2L's labels. 2 K bytes a view and the record's.

    Attributes:
        logits: (V, K); float16 is kept, everything else becomes float32.
        temperature: of the KL divergence: 20, 30 on CIFAR.
        tau_squared: whether the loss is multiplied by its square.
    """

    kind: ClassVar[str] = "per-view"
    answers: ClassVar[tuple[str, ...]] = ("logits",)
    logits: Tensor = field(converter=float32_or_16)
    classes: Tensor = field(converter=as_ids)
    record: ViewRecord
    temperature: float = 20.0
    tau_squared: bool = False

    def __attrs_post_init__(self) -> None:
        check_temperature(self.temperature)
        self.check()

    @property
    def class_count(self) -> int:  # type: ignore[override]
        """K."""
        return self.logits.shape[-1]

    @property
    def recipe(self) -> dict[str, Any]:
        """KL divergence."""
        return {"loss": "kl", "temperature": self.temperature, "tau_squared": self.tau_squared}

    def told(self, rows: Tensor) -> dict[str, Tensor]:
        """``logits`` (B, K) float32."""
        return {"logits": at_rows(self.logits, rows)}

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PerViewLabels:
        """From an artifact."""
        record, temperature = _record(header, tensors), float(header["temperature"])
        return cls(
            stored(tensors, "logits"), stored(tensors, "class"), record, temperature, bool(header["tau_squared"])
        )

    def top(self, k: int, rest: str = "zero") -> TopKLabels:
        """The k largest logits of each view; see ``TopKLabels`` for what the other classes get."""
        values, ids = kept_logits(self.logits, k, rest, self.temperature)
        return TopKLabels(
            values, ids, self.classes, self.class_count, self.record, self.temperature, self.tau_squared, rest
        )


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, largest first: values (V, k) and classes (V, k) in int16, above 32,768 classes int32.

    Raises:
        InputError: k is not between 1 and K.
    """
    if not 1 <= k <= logits.shape[1]:
        raise InputError(f"top-k labels keep {k} of {logits.shape[1]} classes: give k from 1 to {logits.shape[1]}")
    values, ids = logits.topk(k, dim=1)
    return values, ids.to(id_type(logits.shape[1]))


def kept_logits(logits: Tensor, k: int, rest: str, temperature: float) -> tuple[Tensor, Tensor]:
    """``top_k``; for ``shared`` with temperature times log-probabilities as values, which are the same logits less a
    constant of each row, so that the k say what the others make up."""
    values, ids = top_k(logits, k)
    if rest != SHARED:
        return values, ids
    whole = temperature * (logits.float() / temperature).log_softmax(1)
    return whole.gather(1, ids.long()).to(logits.dtype), ids


def spread(values: Tensor, ids: Tensor, classes: int, rest: str = "zero", temperature: float = 1.0) -> Tensor:
    """Logits (V, K) from the k kept ones: of all other classes -inf, probability 0, the least that was kept, or for
    ``shared`` that of an equal part of what the kept probabilities lack to 1, as FKD (arXiv:2112.01528) has it.

    Args:
        values, ids: (V, k); of ``shared`` as ``kept_logits`` makes them.
        rest: ``zero``, ``least`` or ``shared``.
        temperature: of ``shared``: at which they are probabilities.
    """
    other = torch.full_like(values[:, :1], -torch.inf)
    if rest == "least":
        other = values.amin(1, keepdim=True)
    elif rest == SHARED:
        kept = (values / temperature).logsumexp(1, keepdim=True)
        missing = -torch.expm1(kept.clamp(max=0)) / max(1, classes - values.shape[1])
        other = temperature * missing.log()
    return other.repeat(1, classes).scatter(1, ids.long(), values)


def densified(values: Tensor, ids: Tensor, classes: int, rest: str = "shared") -> Tensor:
    """Probabilities (..., K) from the k kept ones, in their float type; each row sums to 1.

    Args:
        values: (..., k) probabilities, distinct classes; rounded ones may add up to more than 1.
        ids: (..., k) the classes they are of, of any integer type.
        rest: ``shared`` shares what is missing to 1 out evenly among the other classes, ``zero`` gives them none.

    >>> densified(torch.tensor([0.5, 0.25]), torch.tensor([2, 0]), 4)
    tensor([0.2500, 0.1250, 0.5000, 0.1250])
    """
    missing = (1 - values.sum(-1, keepdim=True)).clamp(min=0) / max(1, classes - values.shape[-1])
    missing = missing if rest == "shared" else torch.zeros_like(missing)
    full = missing.repeat(*[1] * (values.dim() - 1), classes).scatter(-1, ids.long(), values)
    return full / full.sum(-1, keepdim=True)


@final
@frozen(eq=False)
class TopKLabels(PerView):
    """The k largest logits of each view and their classes (LPQLD, arXiv:2604.18135): 4 k bytes a view and the record's.

    Attributes:
        values: (V, k); float16 is kept, everything else becomes float32.
        ids: (V, k) int16, above 32,768 classes int32.
        rest: what the other classes get: ``zero`` probability, so that the softmax is over the k; the ``least``
            logit kept; or, ``shared``, equal parts of the probability that the k lack, for which values are
            ``temperature`` times log-probabilities (``kept_logits``): those of the k are then the teacher's own.
    """

    kind: ClassVar[str] = "top-k"
    answers: ClassVar[tuple[str, ...]] = ("values", "ids")
    values: Tensor = field(converter=float32_or_16)
    ids: Tensor
    classes: Tensor = field(converter=as_ids)
    class_count: int = field(validator=[instance_of(int), ge(1)])
    record: ViewRecord
    temperature: float = 20.0
    tau_squared: bool = False
    rest: str = field(default="zero", validator=in_(Rest))

    def __attrs_post_init__(self) -> None:
        check_temperature(self.temperature)
        self.check()
        check_ids(as_ids(torch.stack(self.ids.aminmax())), self.class_count)
        if self.ids.shape != self.values.shape:
            got = f"{tuple(self.values.shape)} logits and {tuple(self.ids.shape)} classes"
            raise InputError(f"top-k labels have {got}: give the class of each logit kept")
        if self.rest == SHARED and len(self.values):
            mass = float((self.values.float() / self.temperature).logsumexp(1).max().exp())
            if not mass <= MOST_MASS:
                raise InputError(
                    f"shared top-k labels keep probabilities that add up to {mass:.3g}: give temperature times logarithms of them"
                )

    @property
    def recipe(self) -> dict[str, Any]:
        """KL divergence."""
        return {"loss": "kl", "temperature": self.temperature, "tau_squared": self.tau_squared}

    def told(self, rows: Tensor) -> dict[str, Tensor]:
        """``logits`` (B, K) float32, see ``spread``."""
        values, ids = at_rows(self.values, rows), self.ids[rows]
        return {"logits": spread(values, ids, self.class_count, self.rest, self.temperature)}

    def header(self) -> dict[str, Any]:
        """Also what the other classes get."""
        return {**super().header(), "rest": self.rest}

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TopKLabels:
        """From an artifact."""
        values, ids, classes = (stored(tensors, name) for name in ("values", "ids", "class"))
        record, temperature = _record(header, tensors), float(header["temperature"])
        loss = temperature, bool(header["tau_squared"])
        return cls(values, ids, classes, header["classes"], record, *loss, header["rest"])


def _up_to_largest_half(values: Tensor) -> Tensor:
    kept = float32_or_16(values)
    return kept.clamp(max=LARGEST_HALF) if kept.numel() and kept.max() > LARGEST_HALF else kept


@final
@frozen(eq=False)
class TwoDistanceLabels(PerView):
    """Two numbers a view, -log p of its own and of its mixed-in class (NRR-DD, arXiv:2503.18267): 4 bytes and the
    record's.

    A student loses lam CE(own) + (1 - lam) CE(mixed) + weight times its distances' gap to the teacher's.

    Attributes:
        distance: (V, 2), at least 0; float16 is kept, everything else becomes float32; infinite ones become 65,504.
        class_count: K.
        weight: of the gap, alpha_dbr; not published.
        norm: of the gap, ``squared`` or ``absolute``; not published.
        temperature: of the student's distances, as of the teacher's.
    """

    kind: ClassVar[str] = "two-distances"
    answers: ClassVar[tuple[str, ...]] = ("distance",)
    distance: Tensor = field(converter=_up_to_largest_half)
    classes: Tensor = field(converter=as_ids)
    class_count: int = field(validator=[instance_of(int), ge(1)])
    record: ViewRecord
    weight: float = field(default=1.0, validator=ge(0))
    norm: str = field(default="squared", validator=in_(("squared", "absolute")))
    temperature: float = 1.0

    def __attrs_post_init__(self) -> None:
        check_temperature(self.temperature)
        self.check()
        if self.distance.shape[1] != 2 or not bool((self.distance >= 0).all()):
            raise InputError(
                "two-distance labels are not two numbers of at least 0: give -log p of two classes of each view"
            )

    @property
    def recipe(self) -> dict[str, Any]:
        """Mixed cross entropy, and the gap between distances."""
        numbers = {"weight": self.weight, "norm": self.norm, "temperature": self.temperature}
        return {"loss": "two-distances", **numbers}

    def told(self, rows: Tensor) -> dict[str, Tensor]:
        """``distance`` (B, 2) float32."""
        return {"distance": at_rows(self.distance, rows)}

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TwoDistanceLabels:
        """From an artifact."""
        distance, classes = stored(tensors, "distance"), stored(tensors, "class")
        numbers = float(header["weight"]), header["norm"], float(header["temperature"])
        return cls(distance, classes, header["classes"], _record(header, tensors), *numbers)
