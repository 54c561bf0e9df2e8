"""The real data being distilled: what a source holds, and what a run's plugins see of it.

A ``Source`` keeps images as they were stored (uint8, or float32 in [0, 1]), checks them once, and knows their
fingerprint. ``Real`` is a source under a normalisation on a device. Shape letters: N images, C H W pixels, K classes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from attrs import field, fields, frozen
from torch import Generator, Tensor

from ddcore.data.normalisation import Normalisation
from ddcore.data.unchanged import rows_of, white_of
from ddcore.errors import MISFITS, InputError, in_short
from ddcore.images.statistics import mean_and_deviation, scaled
from ddcore.storage.documents import HALF, parse_json
from ddcore.storage.keeping import Found, Note, digest_of, facts_only, found, load, make_folder, save
from ddcore.storage.places import Place
from ddcore.storage.printing import printable

ON_DEVICE = 4 * 10**9
"""Bytes: a larger split stays in main memory and moves to the accelerator batch by batch."""

TRANSFORMED_AT_ONCE = 1024
COMPARED_AT_ONCE = 64
DECIDING = ("fingerprint", "modality", "mirror_symmetric", "mean", "std", "vocabulary")
"""What of a summary shapes what is made of a source: images, labels and class names stand in the fingerprint."""
OF_ROWS = ("dense", "row_bytes")
"""What else does, of dense samples that are no images."""
IMAGES, TEXT, FEATURES = "images", "text", "features"
UNLABELLED = "unlabelled"
"""The one class of data without labels."""


@frozen(eq=False)
class Split:
    """Images, or other samples, and their classes.

    Attributes:
        stored: (N, C, H, W) uint8 in 0..255 or float32 in [0, 1]; H = W. Other dense samples: (N, D), (N, C, L) or
            (N, C, H, W), uint8 or any finite float32.
        labels: (N,) int64, positions in the source's ``classes``.
    """

    stored: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def _names(names: Iterable[object]) -> tuple[str, ...]:
    texts = tuple(str(name) for name in names)
    if halves := [text for text in texts if HALF.search(text)]:
        raise InputError(f"class {printable(halves[0])!r} has a name that is no Unicode text: rename it")
    return texts


@frozen(eq=False, kw_only=True)
class Source:
    """A data set as loaded, train and test.

    Attributes:
        classes: names, in the order of the labels.
        modality: ``images``; ``text``: token ids (N, L) of any integer type, cut or filled up to one length;
            ``features``: rows (N, D) that no pack knows more of; a plugin's source may hold something else, which is
            then not checked here unless it is dense.
        dense: whether samples are rows of one shape, (D,), (C, L) or (C, H, W), in numbers that gradients can reach,
            which the core takes all the way from labels to scores; images are.
        row_bytes: what a real sample costs as it is stored, where that is not what its numbers take here.
        labelled: whether its samples have labels; those without are all of the class ``unlabelled``.
        vocabulary: of text: how many tokens there are.
        mirror_symmetric: whether an image's mirror image is a plausible member of its class (not so for digits).
        mirror: how that is known, for people.
        resize_mode: how images were brought to their size (see ``ddcore.images.framing``); None: they were not.
        mean: of each channel in [0, 1], where a published one has to be kept; None: computed from ``train``.
        std: likewise.
        licence: of the data, as far as known.
        origin: where it was read, without credentials.
        notes: what a reader of results should know (how a test part was cut, what was converted).
        broken: what could not be decoded and was left out, names relative to the data and reasons.
        carved: share and seed of ``--validation``, where the test part is train images (see
            ``ddcore.scoring.validation``).

    Raises:
        InputError: the images or labels are not what they have to be.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...] = field(converter=_names)
    modality: str = IMAGES
    dense: bool = None  # type: ignore[assignment]
    row_bytes: int | None = None
    labelled: bool = True
    vocabulary: int | None = None
    mirror_symmetric: bool = True
    mirror: str = ""
    resize_mode: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    licence: str = "unknown"
    origin: str = ""
    notes: tuple[str, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    carved: tuple[float, int] | None = None

    def __attrs_post_init__(self) -> None:
        if self.dense is None:
            object.__setattr__(self, "dense", self.modality == IMAGES)
        if self.modality == IMAGES:
            _check_images(self)
            _check_labels(self)
        elif self.dense:
            _check_rows(self)
            _check_labels(self)
        elif self.modality == TEXT:
            _check_tokens(self)
            _check_labels(self)

    @property
    def parts(self) -> Mapping[str, Split]:
        """``train`` and ``test``."""
        return {"train": self.train, "test": self.test}

    @property
    def samples(self) -> str:
        """What its samples are called, in the plural."""
        return {IMAGES: IMAGES, TEXT: "texts", FEATURES: "rows"}.get(
            self.modality, self.modality if self.modality[-1:] == "s" else "rows" if self.dense else "samples"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample; empty where it is no tensor."""
        return tuple(getattr(self.train.stored, "shape", ()))[1:]

    def bytes_of(self, split: Split) -> Iterable[bytes]:
        """The bytes of each sample of a split, the same for equal samples.

        Raises:
            InputError: the samples are no tensor, and the plugin that reads them does not say.
        """
        if not isinstance(split.stored, Tensor):
            raise InputError(f"{self.name} holds {self.modality}, whose reader does not say when two of them are equal")
        rows = split.stored.contiguous().flatten(1) if split.stored.ndim > 1 else split.stored[:, None].contiguous()
        for chunk in torch.split(rows, TRANSFORMED_AT_ONCE):
            for row in chunk.view(torch.uint8).numpy():
                yield row.tobytes()

    @cached_property
    def digests(self) -> Mapping[str, tuple[bytes, ...]]:
        """A hash of each sample of ``train`` and of ``test``, labels aside: equal for equal samples.

        Raises:
            InputError: see ``bytes_of``.
        """
        return {
            part: tuple(hashlib.blake2b(sample, digest_size=16).digest() for sample in self.bytes_of(split))
            for part, split in self.parts.items()
        }

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour; of other dense samples C, or D; of text the vocabulary's size."""
        return self.vocabulary or int(self.train.stored.shape[1])

    @property
    def size(self) -> int:
        """Height and width in pixels; of text and of (C, L) L; of rows (D,) 1."""
        return 1 if self.dense and len(self.shape) == 1 else int(self.train.stored.shape[-1])

    @property
    def price(self) -> int:
        """Bytes of a real sample, without its label: ``row_bytes``, or as its data hold it, an image's value one byte
        where all are levels of 8 bits or less."""
        if self.row_bytes is not None:
            return self.row_bytes
        return math.prod(self.shape) if self.white is not None else int(self.train.stored[0].nbytes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over type, shape and bytes of images and labels of both splits, and the class names."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for tensor in (split.stored, split.labels):
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        digest.update(json.dumps(self.classes).encode())
        return digest.hexdigest()

    @cached_property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel: the given ones, else over all pixels of ``train`` in [0, 1];
        none of text, and of other data that are no images unless they are given."""
        if self.modality == TEXT:
            return (), ()
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        if len(self.shape) != 3 and not self.dense:
            return (), ()
        return mean_and_deviation(self.train.stored)

    @cached_property
    def white(self) -> int | None:
        """The level that stands for 1, where every train pixel is a whole level of no more than a byte: 255 of uint8,
        16 of floats k / 16; None where floats are needed, and of other data than images."""
        return white_of(self.train.stored) if self.modality == "images" else None

    def as_held(self, index: Tensor) -> Tensor:
        """Train images (n, C, H, W) in the smallest type that holds them all exactly: uint8 levels if there is a
        ``white``, else float32 in [0, 1]."""
        rows = self.train.stored[index]
        return rows if self.white is None or rows.dtype == torch.uint8 else (rows * self.white).round().to(torch.uint8)

    def counts(self, split: Split | None = None) -> list[int]:
        """Images of each class (in ``train`` unless told)."""
        split = split or self.train
        counts: list[int] = torch.bincount(split.labels, minlength=len(self.classes)).tolist()
        return counts

    def summary(self) -> dict[str, Any]:
        """What records and ``ddcore data show`` say about the data, as plain JSON values."""
        mean, std = self.statistics
        return {
            "name": self.name,
            "origin": self.origin,
            "licence": self.licence,
            "modality": self.modality,
            **({"dense": True, "row_bytes": self.price} if self.dense and self.modality != IMAGES else {}),
            **({} if self.labelled else {"labelled": False}),
            **({} if self.vocabulary is None else {"vocabulary": self.vocabulary}),
            "shape": list(self.shape),
            "stored": str(getattr(self.train.stored, "dtype", "")).removeprefix("torch."),
            "train": len(self.train),
            "test": len(self.test),
            "classes": list(self.classes),
            "train_per_class": self.counts(),
            "test_per_class": self.counts(self.test),
            "mean": list(mean),
            "std": list(std),
            "mirror_symmetric": self.mirror_symmetric,
            **({"mirror": self.mirror} if self.mirror else {}),
            **({"resize_mode": self.resize_mode} if self.resize_mode else {}),
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }


def keep_decoded(source: Source, cache: Place, note: Note) -> None:
    """Write a source under its ``decoded_key``, so that other processes need not decode it again.

    Args:
        note: told of a file that is not what it has to be, which is written again.
    """
    if type(source) is not Source:
        return
    key = decoded_key(source.summary())
    place = _decoded(cache, key)
    if found(place, digest_of(key), note=note, read=facts_only) is not None:
        return
    make_folder(cache, "decoded", note=note)
    save(place, _by_name(source), key, facts={"source": json.dumps(_facts_of(source))})


def load_decoded(cache: Place, key: Mapping[str, Any], note: Note) -> Source | None:
    """What ``keep_decoded`` wrote, its pixels mapped from the file; None if it is not there,
    or not what it has to be."""
    there = found(_decoded(cache, key), digest_of(key), note=note, read=_read_source)
    return there.source if isinstance(there, _Decoded) else None


def decoded_key(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a ``Source.summary`` that shapes what is made of a source."""
    facts = {name: summary.get(name) for name in DECIDING}
    return facts | {name: summary[name] for name in OF_ROWS if name in summary}


@frozen(eq=False)
class _Decoded(Found):
    source: Source = field(kw_only=True)


def _read_source(place: Place, of: str, part: str, shapes: object) -> _Decoded:
    there = load(place, of, part)
    try:
        facts = parse_json(there.facts["source"])
        given: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in facts.items()}
        given |= {p: Split(*(there.tensors[f"{p}.{name}"] for name in ("stored", "labels"))) for p in ("train", "test")}
        source = Source(**given)
        wrong = digest_of(decoded_key(source.summary())) != of
    except MISFITS as error:
        raise InputError(f"{place.url} holds no data set ({in_short(error)}): remove it") from error
    if wrong:
        raise InputError(f"{place.url} holds another data set than its header says: remove it")
    return _Decoded(there.tensors, there.facts, source=source)


def _facts_of(source: Source) -> dict[str, Any]:
    return {a.name: getattr(source, a.name) for a in fields(Source) if a.name not in ("train", "test")}


def _decoded(cache: Place, key: Mapping[str, Any]) -> Place:
    return cache / "decoded" / f"{digest_of(key)}.safetensors"


def _by_name(source: Source) -> dict[str, Tensor]:
    parts = {"train": source.train, "test": source.test}
    return {f"{part}.{name}": getattr(s, name) for part, s in parts.items() for name in ("stored", "labels")}


class Part:
    """One split as plugins see it: normalised images, or token ids, by index."""

    def __init__(
        self,
        split: Split,
        normalisation: Normalisation,
        device: torch.device,
        dtype: torch.dtype,
        *,
        tokens: bool = False,
    ) -> None:
        self._normalisation, self._device, self._dtype = normalisation, device, dtype
        self._labels, self._source = split.labels, split.stored
        self._ready = tokens or not normalisation.pixelwise
        stored = self._transformed(split.stored) if self._ready and not tokens else split.stored
        self._stored = stored.to(device) if stored.nbytes <= ON_DEVICE else stored
        order = torch.argsort(self._labels, stable=True)
        self._of_class = torch.split(order, torch.bincount(self._labels).tolist()) if len(order) else ()

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> Tensor:
        """(N,) int64 on the CPU."""
        return self._labels

    def inputs(self, index: Tensor) -> Tensor:
        """The images (n, C, H, W) at ``index`` (n,), normalised, in the run's float type, or tokens (n, L);
        on its device."""
        rows = self._stored[index.to(self._stored.device)].to(self._device)
        if self._ready:
            return rows if rows.is_floating_point() else rows.long()
        return self._normalisation.apply(scaled(rows, self._dtype))

    @property
    def device(self) -> torch.device:
        """Where ``inputs`` are."""
        return self._device

    def inputs_at(self, index: Tensor, at: Tensor) -> Tensor:
        """The pixels (n, C, P) of ``inputs(index)`` at places ``at`` (P,) int64 of H W, or L, or 1, without making the
        others."""
        stored = self._stored[index.to(self._stored.device)]
        rows = stored.reshape(*stored.shape[:2], -1)[:, :, at.to(stored.device)].to(self._device)
        return rows if self._ready else self._normalisation.apply(scaled(rows, self._dtype))

    def maybe_unchanged(self, images: Tensor, off: float) -> Tensor:
        """Which images (N, C, H, W) have only levels of 8 bits, up to ``off`` of one, (N,) bool; all of them where the
        data have other values or a normalisation that mixes pixels."""
        if self._ready or self._source.dtype != torch.uint8:
            return torch.ones(len(images), dtype=torch.bool)
        levels = 255 * self._normalisation.inverse(images)
        return ((levels - levels.round()).abs() <= off).flatten(1).all(1)

    def rows_of(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """Which row each image (N, C, H, W) is, bit for bit, (N,) int64; -1 for none. See ``ddcore.data.unchanged``."""
        return rows_of(images, self, classes)

    def _transformed(self, stored: Tensor) -> Tensor:
        images = torch.empty(stored.shape, dtype=self._dtype)
        parts = zip(torch.split(images, TRANSFORMED_AT_ONCE), torch.split(stored, TRANSFORMED_AT_ONCE), strict=True)
        for image, part in parts:
            image.copy_(self._normalisation.apply(scaled(part.to(self._device), self._dtype)))
        return images

    def of_class(self, cls: int) -> Tensor:
        """(n,) int64 on the CPU: where the images of a class are, ascending."""
        return self._of_class[cls] if cls < len(self._of_class) else torch.empty(0, dtype=torch.int64)


class Real:
    """The real data of a run: ``run.real``.

    Attributes:
        source: as loaded.
        normalisation: what maps [0, 1] to the space in which everything is trained and distilled.
        train: the part that may be learned from.
        test: the part that only scores may touch.
    """

    def __init__(
        self,
        source: Source,
        normalisation: Normalisation,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.source, self.normalisation = source, normalisation
        self.device, self.dtype = torch.device(device), dtype

    @cached_property
    def train(self) -> Part:
        """The train split."""
        return self._part(self.source.train)

    @cached_property
    def test(self) -> Part:
        """The test split."""
        return self._part(self.source.test)

    def _part(self, split: Split) -> Part:
        tokens = self.source.modality == TEXT
        return Part(split, self.normalisation, self.device, self.dtype, tokens=tokens)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.source.classes

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.source.channels

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.source.size

    def counts(self) -> list[int]:
        """Train images of each class."""
        return self.source.counts()

    def choose(self, cls: int, count: int, generator: Generator) -> Tensor:
        """(count,) int64 on the CPU: distinct random train images of a class.

        A class with fewer images than ``count`` is gone through again, in a new random order each time.
        """
        rows = self.train.of_class(cls)
        drawn = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(max(1, -(-count // len(rows))))]
        return torch.cat(drawn)[:count]

    def sample(self, cls: int, count: int, generator: Generator) -> Tensor:
        """Random train images (count, C, H, W) of a class, normalised; see ``choose``."""
        return self.train.inputs(self.choose(cls, count, generator))


def _check_images(source: Source) -> None:
    shapes = {tuple(split.stored.shape[1:]) for split in (source.train, source.test)}
    for part, split in (("train", source.train), ("test", source.test)):
        images, what = split.stored, f"the {part} images of {source.name}"
        if images.ndim != 4 or len(images) == 0 or images.shape[2] != images.shape[3]:
            raise InputError(f"{what} have shape {tuple(images.shape)}: (N, C, H, W) with N > 0 and H = W is due")
        if images.dtype not in (torch.uint8, torch.float32):
            raise InputError(f"{what} are {images.dtype}: store uint8 in 0..255 or float32 in [0, 1]")
        if images.dtype == torch.float32:
            _check_range(images, what)
    if len(shapes) > 1:
        sizes = " and ".join(str(shape) for shape in sorted(shapes))
        raise InputError(f"train and test images of {source.name} differ in shape ({sizes}): give --resize N")


def check_varied(source: Source) -> None:
    """Refuse images that are all the same: nothing can be learned from them.

    Raises:
        InputError: saying so.
    """
    if source.modality == "images" and len(source.train) > 1 and _all_equal(source.train.stored):
        what = f"all {len(source.train):,} train images of {source.name} are equal, so nothing can be learned from them"
        why = f"; {'; '.join(source.notes)}" if source.notes else ""
        raise InputError(f"{what}{why}: look at the files, and at what was done to them")


def constant_classes(source: Source) -> tuple[str, ...]:
    """The classes of two or more train images, all equal, by name; none of other data than images."""
    if source.modality != "images":
        return ()
    rows = [(source.train.labels == cls).nonzero()[:, 0] for cls in range(len(source.classes))]
    same = (len(where) > 1 and _all_equal(source.train.stored, where) for where in rows)
    return tuple(name for name, constant in zip(source.classes, same, strict=True) if constant)


def _all_equal(images: Tensor, rows: Tensor | None = None) -> bool:
    rows = torch.arange(len(images)) if rows is None else rows
    return all(bool((images[part] == images[rows[0]]).all()) for part in torch.split(rows, COMPARED_AT_ONCE))


def _check_rows(source: Source) -> None:
    """Refuse dense samples that are not rows of one shape in finite numbers."""
    shape = source.shape
    for part, split in source.parts.items():
        rows, what = split.stored, f"the {part} rows of {source.name}"
        if not isinstance(rows, Tensor) or not 2 <= rows.ndim <= 4 or not rows.numel() or rows.shape[1:] != shape:
            due = "(N, D), (N, C, L) or (N, C, H, W), alike in train and test, is due"
            raise InputError(f"{what} have shape {tuple(getattr(rows, 'shape', ()))}: {due}")
        if rows.dtype not in (torch.uint8, torch.float32):
            raise InputError(f"{what} are {rows.dtype}: store float32, or uint8 in 0..255")
        if rows.is_floating_point() and not bool(torch.isfinite(rows).all()):
            raise InputError(f"{what} hold values that are not finite: fill them in, or drop those rows")


def _check_range(images: Tensor, what: str) -> None:
    for at, chunk in enumerate(torch.split(images, TRANSFORMED_AT_ONCE)):
        bad = ~torch.isfinite(chunk).flatten(1).all(1)
        if bad.any():
            first = at * TRANSFORMED_AT_ONCE + int(bad.nonzero()[0])
            raise InputError(f"{what} hold NaN or infinite pixels, first in image {first}: repair or drop it")
        low, high = float(chunk.min()), float(chunk.max())
        if low < 0 or high > 1:
            raise InputError(f"{what} reach from {low:g} to {high:g}: store uint8 in 0..255 or floats in [0, 1]")


def _check_tokens(source: Source) -> None:
    lengths = {tuple(split.stored.shape[1:]) for split in (source.train, source.test)}
    for part, split in (("train", source.train), ("test", source.test)):
        tokens, what = split.stored, f"the {part} texts of {source.name}"
        if tokens.ndim != 2 or tokens.numel() == 0 or tokens.is_floating_point():
            raise InputError(f"{what} are {tokens.dtype} of shape {tuple(tokens.shape)}: token ids (N, L) are due")
        if source.vocabulary is None or int(tokens.min()) < 0 or int(tokens.max()) >= source.vocabulary:
            raise InputError(
                f"{what} hold ids outside of 0 to vocabulary - 1: give the vocabulary's size, {source.vocabulary} is not it"
            )
    if len(lengths) > 1:
        raise InputError(f"train and test texts of {source.name} differ in length: cut or fill them up to one")


def _check_labels(source: Source) -> None:
    count = len(source.classes)
    for part, split in (("train", source.train), ("test", source.test)):
        labels, what = split.labels, f"the {part} labels of {source.name}"
        if labels.dtype != torch.int64 or labels.shape != (len(split.stored),):
            due = f"{len(split.stored)} whole numbers (int64)"
            raise InputError(f"{what} are {labels.dtype} of shape {tuple(labels.shape)}: {due} are due, one an image")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= count:
            first = int(((labels < 0) | (labels >= count)).nonzero()[0])
            bad = f"label {int(labels[first])} of image {first}"
            raise InputError(f"{bad} in the {part} part of {source.name} is out of range: 0 to {count - 1} are due")
    if count < 2 and source.labelled:
        raise InputError(f"{source.name} has {count} class ({', '.join(source.classes)}): at least 2 are needed")
    empty = [name for name, n in zip(source.classes, source.counts(), strict=True) if n == 0]
    if empty:
        names = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        raise InputError(f"{source.name} has no train images of class {names}: add some or drop the class")
