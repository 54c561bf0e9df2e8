"""Labels from teachers: pure functions of images, frozen networks and a generator.

A teacher is any classifier in eval mode on the images' device; of several the logits are averaged. Images are normalised as
the teachers want them. Shape letters: N images, C H W pixels, K classes, V views.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddcore.errors import InputError
from ddcore.label_kinds.losses import LARGEST_HALF
from ddcore.label_kinds.per_image import SoftLabels, StaticMixedLabels
from ddcore.label_kinds.per_view import PerViewLabels, TopKLabels, TwoDistanceLabels, distances_of
from ddcore.label_kinds.view_records import DrawnViews, ViewRecord
from ddcore.passes import logits
from ddcore.views import INFER, SRE2L, Draw, changed

Teachers = nn.Module | Sequence[nn.Module]


def mean_logits(images: Tensor, teachers: Teachers) -> Tensor:
    """The mean of the teachers' logits for images (N, C, H, W): (N, K), without gradient.

    Raises:
        InputError: no teacher, or one in training mode: its answer would depend on the batch and change the teacher.
    """
    every = [teachers] if isinstance(teachers, nn.Module) else list(teachers)
    if not every:
        raise InputError("labels were asked of no teacher: give at least one network")
    if any(teacher.training for teacher in every):
        raise InputError("a teacher is in training mode, where its answers depend on the batch: call its eval() first")
    return torch.stack([logits(teacher, images) for teacher in every]).mean(0)


def make_averaged(
    images: Tensor,
    teachers: Teachers,
    *,
    classes: Tensor,
    temperature: float = 1.0,
    tau_squared: bool = False,
    half: bool = False,
) -> SoftLabels:
    """Soft labels of the clean images: one vector each, whatever the number of teachers; ``half`` stores float16."""
    found = mean_logits(images, teachers)
    return SoftLabels(_half(found) if half else found, classes, temperature, tau_squared)


def make_static_mixed(
    images: Tensor, teachers: Teachers, *, classes: Tensor, draw: Draw = INFER, temperature: float = 30.0
) -> StaticMixedLabels:
    """INFER's static labels: averaged logits of the clean images, mixed with them at training."""
    return StaticMixedLabels(mean_logits(images, teachers), classes, _size(images), draw, temperature)


def make_per_view(
    images: Tensor,
    teachers: Teachers,
    epochs: int,
    batch: int,
    generator: torch.Generator,
    *,
    classes: Tensor,
    draw: Draw = SRE2L,
    seeded: bool = False,
    compact: bool = False,
    temperature: float = 20.0,
    tau_squared: bool = False,
) -> PerViewLabels:
    """The teachers' logits, in float16, for every view of ``epochs`` epochs in batches of ``batch``.

    Args:
        generator: gives the seed that all views are drawn from.
        classes: (N,) int64.
        seeded: keep the seed only; else every parameter is stored.
        compact: stored in the smallest types.
    """
    record = draw_views(images, epochs, batch, generator, draw)
    found = _half(answers(images, teachers, record))
    labels = PerViewLabels(found, classes, record, temperature, tau_squared)
    return labels if seeded else labels.stored(compact=compact)


def make_top_k(
    images: Tensor,
    teachers: Teachers,
    epochs: int,
    batch: int,
    generator: torch.Generator,
    *,
    classes: Tensor,
    k: int,
    rest: str = "zero",
    draw: Draw = SRE2L,
    seeded: bool = False,
    compact: bool = False,
    temperature: float = 20.0,
    tau_squared: bool = False,
) -> TopKLabels:
    """The k largest of the logits that ``make_per_view`` stores."""
    record = draw_views(images, epochs, batch, generator, draw)
    found = _half(answers(images, teachers, record))
    labels = PerViewLabels(found, classes, record, temperature, tau_squared).top(k, rest)
    return labels if seeded else labels.stored(compact=compact)


def make_two_distances(
    images: Tensor,
    teachers: Teachers,
    epochs: int,
    batch: int,
    generator: torch.Generator,
    *,
    classes: Tensor,
    draw: Draw = SRE2L,
    seeded: bool = True,
    compact: bool = False,
    weight: float = 1.0,
    norm: str = "squared",
    temperature: float = 1.0,
) -> TwoDistanceLabels:
    """-log p of two classes of every view, in float16; seeded, because a view's parameters cost six times as much."""
    record = draw_views(images, epochs, batch, generator, draw)
    found = answers(images, teachers, record)
    distance = _half(distances_of(found, classes.cpu(), record, temperature))
    labels = TwoDistanceLabels(distance, classes, found.shape[1], record, weight, norm, temperature)
    return labels if seeded else labels.stored(compact=compact)


def draw_views(images: Tensor, epochs: int, batch: int, generator: torch.Generator, draw: Draw = SRE2L) -> DrawnViews:
    """Views of these images from a seed that the generator gives."""
    seed = int(torch.randint(2**31, (), generator=generator))
    return DrawnViews(images=len(images), epochs=epochs, batch=batch, size=_size(images), draw=draw, seed=seed)


def answers(images: Tensor, teachers: Teachers, record: ViewRecord) -> Tensor:
    """The teachers' mean logits for every view of a record, (V, K) on the CPU."""
    found = []
    for number in range(record.batches):
        view = record.view(number)
        found.append(mean_logits(changed(view, images[view.index.to(images.device)]), teachers).cpu())
    return torch.cat(found)


def _half(values: Tensor) -> Tensor:
    return values.clamp(-LARGEST_HALF, LARGEST_HALF).half()


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]
