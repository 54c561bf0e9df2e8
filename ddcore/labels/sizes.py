"""What labels cost, by formula: bytes on storage without the container's header, the same as
``Labels.payload_bytes``."""

from __future__ import annotations

from typing import TypedDict, Unpack

import torch

from ddcore.errors import InputError, near
from ddcore.labels.labels import id_type, smallest_type
from ddcore.labels.view_records import batches_of, kept_batches

ALSO_CALLED = {"averaged": "soft", "pruned": "per-view", "seeded": "per-view"}
PER_IMAGE = ("hard", "soft", "static-mixed", "dense")
OF_VIEWS = ("per-view", "top-k", "two-distances")
KNOWN = (*PER_IMAGE, *OF_VIEWS)


class Storage(TypedDict, total=False):
    """How labels are stored.

    ``k``: classes kept by ``top-k``; sub-images a side of ``dense``. ``keep``: share of whole batches that is left, 1
    by default. ``seeded``: views are drawn again from a seed. ``compact``: stored views in the smallest types.
    ``float_bytes``: of a number; 4 by default, or 2 where there is a label for each view. ``shuffle``: f of views whose
    f x f patches are shuffled; 1 by default.
    """

    k: int | None
    keep: float
    seeded: bool
    compact: bool
    float_bytes: int | None
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
        kind: a label kind. Also ``averaged`` (soft, whatever the number of teachers), ``pruned`` and ``seeded``
            (per-view with ``keep`` or ``seeded``), and one of which only the cost is known here: ``dense``, k x k
            sub-images with a soft label each beside the image's own (LADD, arXiv:2409.16239).
        storage: see ``Storage``.

    Returns:
        ``classes``, one id a sample; ``answers``, what a teacher said; ``views``, crops, mirrors and partners;
        ``order``, which sample each view is of, or which seeded batches are left; ``mixes``, box and share of each
        batch. Published figures count ``answers`` and ``views``, FKD's record of 2 K + 25 bytes ``order`` too.

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
