"""Records of augmentations with what teachers said to them, and how students draw from them: the label kind
``reinforce``.

Shape letters: N images, S records of each, K classes, k kept of them, B rows of a batch, D numbers of an image.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Self, final

import torch
from attrs import evolve, field, frozen
from attrs.validators import ge, instance_of, le
from torch import Tensor

from ddcore import InputError, Normalisation
from ddcore.data import Normalisation as Stored
from ddcore.labels import (
    Labels,
    View,
    as_ids,
    at_rows,
    check_ids,
    densified,
    float32_or_16,
    mixed_classes,
    smallest_type,
    stored,
)
from ddcore_reinforce.chain import Chain, draw_links, mixing, replay, still

REPLAY = "reinforce"
LINK = "link."
PERIOD = 65521
NUMBERS = 2
CLOSE = 1e-3
"""How far fingerprints of the same image lie apart at most: devices and types round."""


def densify(values: Tensor, ids: Tensor, classes: int) -> Tensor:
    """Probabilities (..., K): the stored ones, and what is missing to 1 shared out among the other classes; rows sum to
    1.

    Args:
        values: (..., k) probabilities; where rounding made them add up to more than 1, they are scaled to 1.
        ids: (..., k) the classes they are of.

    References:
        Dataset Reinforcement (arXiv:2303.08983), "smooth" in the authors' code, whose other mode takes a softmax of
        probabilities.
    """
    return densified(values, ids, classes, "shared")


def fingerprints(images: Tensor) -> Tensor:
    """Two numbers that tell an image from others, (B, 2) float32 on the CPU; rounding of the image hardly moves them.

    Projections on fixed weights in [-1, 1], over the root of D.

    Args:
        images: (B, C, H, W).
    """
    flat = images.flatten(1).double()
    return (flat @ _weights(flat.shape[1]).to(flat.device) / flat.shape[1] ** 0.5).float().cpu()  # type: ignore[no-any-return]


@lru_cache(maxsize=4)
def _weights(count: int) -> Tensor:
    """Quadratic chirps, which have as much of every frequency: smooth images and fine grain count alike."""
    place = torch.arange(count)[:, None]
    chirps = place * place * torch.tensor([7919, 5077]) + place * torch.tensor([31, 17])
    return (chirps % PERIOD).double() / (PERIOD // 2) - 1


@final
@frozen(eq=False, kw_only=True)
class ReinforcedLabels(Labels):
    """S records of each image: what is done to it, and the k largest of the teachers' mean probabilities for the
    outcome.

    A student sees every image once an epoch, by a random record of it; now and then plain, cropped and mirrored, with
    its class. Bytes by formula: ``record_bytes``.

    Attributes:
        chain: which links the records have.
        records: (N, S, ...) each, by the names of ``Chain.parameters``.
        ids: (N, S, k) classes.
        values: (N, S, k) probabilities, largest first; float16 is kept.
        prints: (N, 2) of ``fingerprints``: other images, or these in another order, are refused.
        normalisation: of the images; None where no link needs pixels.
        probability: that a student sees a record.

    Raises:
        InputError: shapes that do not fit.
    """

    kind: ClassVar[str] = "reinforce"
    distribution: ClassVar[str] = "ddcore-reinforce"
    classes: Tensor = field(converter=as_ids)
    class_count: int = field(validator=[instance_of(int), ge(1)])
    chain: Chain
    records: Mapping[str, Tensor]
    ids: Tensor
    values: Tensor = field(converter=float32_or_16)
    prints: Tensor
    normalisation: Normalisation | None = None
    probability: float = field(default=0.99, validator=[ge(0), le(1)])

    def __attrs_post_init__(self) -> None:
        check_ids(self.classes, self.class_count)
        each = len(self.classes), self.ids.shape[1]
        due = {name: (*each, *shape) for name, (shape, _) in self.chain.parameters(len(self.classes)).items()}
        due |= {"ids": (*each, self.ids.shape[-1]), "values": (*each, self.ids.shape[-1]), "prints": (each[0], NUMBERS)}
        held = {**self.records, "ids": self.ids, "values": self.values, "prints": self.prints}
        if (found := {name: tuple(tensor.shape) for name, tensor in held.items()}) != due:
            wrong = sorted(name for name in {*due, *found} if due.get(name) != found.get(name))
            raise InputError(
                f"stored records have {wrong[0]!r} of shape {found.get(wrong[0])} where {due.get(wrong[0])} is due: get them again"
            )
        check_ids(as_ids(torch.stack(self.ids.aminmax())), self.class_count)

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        """(H, W) of the images."""
        return self.chain.size

    @property
    def samples(self) -> int:
        """S."""
        return self.ids.shape[1]

    @property
    def recipe(self) -> dict[str, Any]:
        """KL(q || softmax(z)), mean over the rows; no other term."""
        return {"loss": "kl", "temperature": 1.0, "tau_squared": False}

    def views(self, epoch: int, count: int, batch_size: int, generator: torch.Generator) -> Iterator[View]:
        """A permutation of all images, each by one of its records."""
        for index in torch.randperm(count, generator=generator).split(batch_size):  # type: ignore[no-untyped-call]
            which = torch.randint(self.samples, (len(index),), generator=generator)
            plain = torch.rand(len(index), generator=generator) >= self.probability
            yield self.view(index, index * self.samples + which, plain, generator)

    def view(self, index: Tensor, rows: Tensor, plain: Tensor, generator: torch.Generator) -> View:
        """The batch of these records, (B,) int64, in which the ``plain`` images are cropped and mirrored afresh."""
        record = {name: values.flatten(0, 1)[rows] for name, values in self.records.items()}
        if bool(plain.any()):
            fresh = draw_links(self.chain, len(rows), generator)
            alone = still(self.chain, {**record, "box": fresh["box"], "flip": fresh["flip"]})
            record = {
                name: torch.where(_over(plain, values), alone[name].to(values.dtype), values)
                for name, values in record.items()
            }
        partners = record["partner"][mixing(record)].long() if self.chain.mixes else None
        return View(index, ((REPLAY, record),), None, torch.where(plain, -1, rows), partners)

    def changed(self, view: View, images: Tensor) -> Tensor:
        """Images by their records.

        Raises:
            InputError: they are not the images that the records were made for, or these in another order.
        """
        if not view.ops:
            return images
        found, due = fingerprints(images), self.prints[view.fetched]
        if bool((wrong := ((found - due).abs() > CLOSE).any(1)).any()):
            number = int(view.fetched[wrong][0])
            raise InputError(
                f"image {number} is not the one that was reinforced under this number: give the images in the order in which they were"
            )
        count = len(view.index)
        return replay(self.chain, images[:count], images[count:], dict(view.ops)[REPLAY], self.normalisation)

    def targets(self, view: View, images: Tensor | None = None) -> dict[str, Tensor]:
        """``logits`` (B, K), the logarithm of the labels, one-hot of plain images, and ``class``; of a view that is not
        the store's, ``class``."""
        told = mixed_classes(self.classes, view)
        if view.rows is None:
            return told
        rows = view.rows.clamp(min=0)
        label = densify(at_rows(self.values.flatten(0, 1), rows), self.ids.flatten(0, 1)[rows], self.class_count)
        own = torch.nn.functional.one_hot(told["class"], self.class_count).to(label)
        return {"logits": torch.where(view.rows[:, None] < 0, own, label).log(), **told}

    def tensors(self) -> dict[str, Tensor]:
        """``class``, ``id``, ``value``, ``print``, and each parameter as ``link.NAME``."""
        own = {"class": self.classes.to(smallest_type(self.class_count)), "id": self.ids, "value": self.values}
        return {**own, "print": self.prints, **{f"{LINK}{name}": values for name, values in self.records.items()}}

    def header(self) -> dict[str, Any]:
        """All that is no tensor."""
        normalisation = None if self.normalisation is None else self.normalisation.header()
        said = {"classes": self.class_count, "probability": self.probability}
        return {**said, "chain": self.chain.header(), "normalisation": normalisation}

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """From an artifact."""
        chain, normalisation = Chain(**header["chain"]), header["normalisation"]
        classes = stored(tensors, "class")
        return cls(
            classes=classes,
            class_count=header["classes"],
            chain=chain,
            records={name: stored(tensors, f"{LINK}{name}") for name in chain.parameters(len(classes))},
            ids=stored(tensors, "id"),
            values=stored(tensors, "value"),
            prints=stored(tensors, "print"),
            normalisation=None if normalisation is None else Stored.load(normalisation, {}),
            probability=float(header["probability"]),
        )


def _over(where: Tensor, values: Tensor) -> Tensor:
    return where.view(-1, *[1] * (values.dim() - 1))


def merged(one: ReinforcedLabels, other: ReinforcedLabels) -> ReinforcedLabels:
    """The records of both stores for the same images.

    Raises:
        InputError: other images, another chain or k, or the same draws twice.
    """
    if one.prints.shape != other.prints.shape or bool(((one.prints - other.prints).abs() > CLOSE).any()):
        raise InputError("two stores are not of the same images in the same order: reinforce one set, with two --seed")
    if (one.chain, one.ids.shape[-1], one.class_count) != (other.chain, other.ids.shape[-1], other.class_count):
        raise InputError(
            "two stores have other links or keep other numbers of classes: make both with the same --reinforce options"
        )
    both = min(one.samples, other.samples)
    if all(torch.equal(values[:, :both], other.records[name][:, :both]) for name, values in one.records.items()):
        raise InputError("two stores hold the same records: make the second with another --seed")
    records = {name: torch.cat([values, other.records[name]], 1) for name, values in one.records.items()}
    return evolve(
        one, records=records, ids=torch.cat([one.ids, other.ids], 1), values=torch.cat([one.values, other.values], 1)
    )


def record_bytes(chain: Chain, images: int, classes: int, k: int, half: bool = True) -> int:
    """Bytes of a record: its parameters in their types, and k indices and values.

    ImageNet's with k = 10; the published stores take about 65, 73 and 104 bytes a record:

    >>> mixing = {"mixup": 0.5, "cutmix": 0.5}
    >>> chains = [Chain(size=(224, 224), **links) for links in ({}, {"operations": 2, "erase": 0.25}, mixing)]
    >>> [record_bytes(chain, 1_281_167, 1000, 10) for chain in chains]
    [45, 59, 62]
    """
    parameters = chain.parameters(images).values()
    own = sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in parameters)
    return own + k * (smallest_type(classes).itemsize + (2 if half else 4))
