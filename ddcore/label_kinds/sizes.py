"""What labels cost, by formula: bytes on storage without the container's header, the same as ``Labels.payload_bytes``."""

from __future__ import annotations

import torch

from ddcore.errors import InputError, near
from ddcore.label_kinds.labels import smallest_type
from ddcore.label_kinds.per_view import id_type
from ddcore.label_kinds.view_records import batches_of, kept_batches

ALSO_CALLED = {"averaged": "soft", "pruned": "per-view", "seeded": "per-view"}
PER_IMAGE = ("hard", "soft", "static-mixed", "dense")
PER_VIEW = ("per-view", "top-k", "two-distances")


def label_bytes(
    kind: str,
    images: int,
    classes: int,
    epochs: int = 1,
    batch: int = 1,
    *,
    k: int | None = None,
    keep: float = 1.0,
    seeded: bool = False,
    compact: bool = False,
    float_bytes: int | None = None,
) -> int:
    """Bytes of labels; see ``label_parts`` for what they consist of.

    SRe2L's store for ImageNet at 10 images a class, in GiB:

    >>> round(label_bytes("per-view", 10_000, 1000, epochs=300, batch=1024) / 2**30, 3)
    5.658
    """
    options = {"k": k, "keep": keep, "seeded": seeded, "compact": compact, "float_bytes": float_bytes}
    return sum(label_parts(kind, images, classes, epochs, batch, **options).values())  # type: ignore[arg-type]


def label_parts(
    kind: str,
    images: int,
    classes: int,
    epochs: int = 1,
    batch: int = 1,
    *,
    k: int | None = None,
    keep: float = 1.0,
    seeded: bool = False,
    compact: bool = False,
    float_bytes: int | None = None,
) -> dict[str, int]:
    """Bytes of each part of labels.

    Args:
        kind: a label kind. Also ``averaged`` (soft, whatever the number of teachers), ``pruned`` and ``seeded`` (per-view with
            ``keep`` or ``seeded``), and ``dense``, of which only the cost is known here: k x k sub-images with a soft label each
            beside the image's own (LADD, arXiv:2409.16239).
        k: classes kept by ``top-k``; sub-images a side of ``dense``.
        keep: share of whole batches that is left.
        seeded: views are drawn again from a seed.
        compact: stored views in the smallest types.
        float_bytes: of a number: 4, or 2 where there is a label for each view.

    Returns:
        ``classes``, one id a sample; ``answers``, what a teacher said; ``views``, crops, mirrors and partners; ``order``,
        which sample each view is of, or which seeded batches are left; ``mixes``, box and share of each batch. Published
        figures count ``answers`` and ``views``, FKD's record of 2 K + 25 bytes ``order`` too.

    Raises:
        InputError: an unknown kind, or no k where one is needed.
    """
    name = ALSO_CALLED.get(kind, kind)
    if name not in (*PER_IMAGE, *PER_VIEW):
        raise InputError(f"no label kind is named {kind!r}: {near(kind, (*PER_IMAGE, *PER_VIEW, *ALSO_CALLED))}")
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
    if seeded or kind == "seeded":
        return {**parts, "order": 4 * batches if keep < 1 else 0}
    index, partner = (smallest_type(n) if compact else torch.int32 for n in (images, batch))
    crop = 4 * 2 if compact else 4 * 4
    order = views * index.itemsize
    return {**parts, "views": views * (crop + 1 + partner.itemsize), "order": order, "mixes": 20 * batches}
