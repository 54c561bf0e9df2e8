"""What labels cost, by formula: bytes on storage without the container's header, the same as ``Labels.payload_bytes``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypedDict, Unpack

import torch

from ddcore.errors import InputError, near
from ddcore.labels.labels import smallest_type
from ddcore.labels.per_view import PerViewLabels, TopKLabels, TwoDistanceLabels, id_type
from ddcore.labels.view_records import batches_of, kept_batches

ALSO_CALLED = {"averaged": "soft", "pruned": "per-view", "seeded": "per-view"}
PER_IMAGE = ("hard", "soft", "static-mixed", "dense")
PROJECTOR = "projector"
OF_VIEWS = (PerViewLabels.kind, TopKLabels.kind, TwoDistanceLabels.kind)
KNOWN = (*PER_IMAGE, *OF_VIEWS, PROJECTOR)


class Storage(TypedDict, total=False):
    """How labels are stored.

    ``k``: classes kept by ``top-k``; sub-images a side of ``dense``. ``keep``: share of whole batches that is left, 1 by default.
    ``seeded``: views are drawn again from a seed. ``compact``: stored views in the smallest types. ``float_bytes``: of a number; 4 by
    default, or 2 where there is a label for each view and of a projector. ``numbers``: of a projector, see ``low_rank_numbers``.
    ``shuffle``: f of views whose f x f patches are shuffled; 1 by default.
    """

    k: int | None
    keep: float
    seeded: bool
    compact: bool
    float_bytes: int | None
    numbers: int
    shuffle: int


def label_bytes(
    kind: str, images: int, classes: int, epochs: int = 1, batch: int = 1, **storage: Unpack[Storage]
) -> int:
    """Bytes of labels; see ``label_parts`` for what they consist of.

    SRe2L's store for ImageNet at 10 images a class, in GiB:

    >>> round(label_bytes("per-view", 10_000, 1000, epochs=300, batch=1024) / 2**30, 3)
    5.658
    """
    return sum(label_parts(kind, images, classes, epochs, batch, **storage).values())


def label_parts(
    kind: str, images: int, classes: int, epochs: int = 1, batch: int = 1, **storage: Unpack[Storage]
) -> dict[str, int]:
    """Bytes of each part of labels.

    Args:
        kind: a label kind. Also ``averaged`` (soft, whatever the number of teachers), ``pruned`` and ``seeded`` (per-view with
            ``keep`` or ``seeded``), and two of which only the cost is known here: ``dense``, k x k sub-images with a soft label
            each beside the image's own (LADD, arXiv:2409.16239), and ``projector``, a network that makes the labels
            (HeLlO, arXiv:2408.08201).
        storage: see ``Storage``.

    Returns:
        ``classes``, one id a sample; ``answers``, what a teacher said; ``views``, crops, mirrors and partners; ``order``,
        which sample each view is of, or which seeded batches are left; ``mixes``, box and share of each batch. Published
        figures count ``answers`` and ``views``, FKD's record of 2 K + 25 bytes ``order`` too.

    Raises:
        InputError: an unknown kind, or no k where one is needed.
    """
    name = ALSO_CALLED.get(kind, kind)
    k, keep, float_bytes = storage.get("k"), storage.get("keep", 1.0), storage.get("float_bytes")
    if name not in KNOWN:
        raise InputError(f"no label kind is named {kind!r}: {near(kind, (*KNOWN, *ALSO_CALLED))}")
    if name in ("top-k", "dense") and k is None:
        raise InputError(f"the cost of {kind} labels depends on k: give it")
    parts = {"classes": images * smallest_type(classes).itemsize}
    if name == PROJECTOR:
        return {**parts, "answers": storage.get("numbers", 0) * (float_bytes or 2)}
    if name in PER_IMAGE:
        labels = {"hard": 0, "dense": 1 + (k or 0) ** 2}.get(name, 1)
        return {**parts, "answers": images * labels * classes * (float_bytes or 4)}
    batches, views = epochs * batches_of(images, batch), epochs * images
    if keep < 1:
        batches = kept_batches(keep, epochs * batches_of(images, batch, whole=True))
        views = batches * min(batch, images)
    numbers = {"per-view": classes, "two-distances": 2, "top-k": k or 0}[name] * (float_bytes or 2)
    ids = (k or 0) * id_type(classes).itemsize if name == "top-k" else 0
    parts["answers"] = views * (numbers + ids)
    if storage.get("seeded") or kind == "seeded":
        return {**parts, "order": 4 * batches if keep < 1 else 0}
    compact = storage.get("compact")
    index, partner = (smallest_type(n) if compact else torch.int32 for n in (images, batch))
    crop = 4 * 2 if compact else 4 * 4
    order, strips = views * index.itemsize, 2 * storage["shuffle"] if storage.get("shuffle", 1) > 1 else 0
    return {**parts, "views": views * (crop + 1 + partner.itemsize + strips), "order": order, "mixes": 20 * batches}


# ---- the papers' labels for ImageNet-1K ------------------------------------------------------------------------------

IMAGENET_CLASSES = 1000
CLIP_FEATURES = 1024
HEAD_RANK, ENCODER_RANK = 128, 8
INFER_NETWORKS = 3


def imagenet_parts(method: str, ipc: int) -> dict[str, int]:
    """Bytes of a paper's labels for ImageNet-1K at so many images a class, part by part as ``label_parts`` has them.

    Args:
        method: ``sre2l`` (300 epochs in batches of 1,024), ``cv-dd`` (of 16), ``nrr-dd`` (two distances, seeded), ``infer`` (one
            float32 vector for each image that the budget counts), ``infer-decoded`` (for each image that is trained on, which
            is what has to be there), ``hello`` (a projector of 0.78 million numbers in float16, beside the public CLIP).

    Raises:
        InputError: another method.

    >>> [sum(imagenet_parts("infer", ipc).values()) for ipc in (10, 50)]
    [40020000, 200100000]
    >>> imagenet_parts("hello", 10)["answers"] == imagenet_parts("hello", 50)["answers"] == 2 * 776_776
    True
    """
    images, classes = ipc * IMAGENET_CLASSES, IMAGENET_CLASSES
    if method in ("sre2l", "cv-dd"):
        return label_parts("per-view", images, classes, 300, 1024 if method == "sre2l" else 16)
    if method == "nrr-dd":
        return label_parts("two-distances", images, classes, 300, 1024, seeded=True)
    if method == "infer":
        return label_parts("static-mixed", images, classes)
    if method == "infer-decoded":
        return label_parts("static-mixed", decoded_images(ipc, classes, INFER_NETWORKS), classes)
    if method == "hello":
        return label_parts(PROJECTOR, images, classes, numbers=hello_numbers())
    known = ("sre2l", "cv-dd", "nrr-dd", "infer", "infer-decoded", "hello")
    raise InputError(f"the labels of {method!r} are not known here: {near(method, known)}")


def decoded_images(ipc: int, classes: int, networks: int) -> int:
    """Images that INFER's set decodes to: n0 (1 + M) K, with n0 = floor(ipc / (1 + M / K)) bases a class and M networks.

    >>> decoded_images(10, 1000, 3), decoded_images(50, 1000, 3), decoded_images(10, 100, 4)
    (36000, 196000, 4500)
    """
    bases = ipc * classes // (classes + networks)
    return bases * (1 + networks) * classes


def low_rank_numbers(layers: Iterable[tuple[int, int, int]]) -> int:
    """Numbers of low-rank updates A B: the sum over layers (rank, rows, columns) of r (d_in + d_out).

    >>> low_rank_numbers([(8, 64, 256), (128, 1024, 1000)])
    261632
    """
    return sum(rank * (rows + columns) for rank, rows, columns in layers)


def hello_numbers() -> int:
    """HeLlO's projector for ImageNet-1K: rank 8 on every convolution of CLIP's RN50, rank 128 on the head of 1,024 x 1,000.

    A k x k kernel is a matrix of (k out) x (k in), which gives the 0.8 million that the paper says; the paper does not say how.
    """
    encoder = ((ENCODER_RANK, kernel * out, kernel * into) for out, into, kernel in clip_convolutions())
    return low_rank_numbers([*encoder, (HEAD_RANK, CLIP_FEATURES, IMAGENET_CLASSES)])


def clip_convolutions() -> Iterator[tuple[int, int, int]]:
    """(out, in, kernel) of the convolutions of CLIP's RN50 image encoder, in order."""
    yield from ((32, 3, 3), (32, 32, 3), (64, 32, 3))
    into = 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            yield from ((planes, into, 1), (planes, planes, 3), (4 * planes, planes, 1))
            if block == 0:
                yield 4 * planes, into, 1
            into = 4 * planes
