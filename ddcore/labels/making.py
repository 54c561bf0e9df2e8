"""Labels from teachers: pure functions of images, frozen networks and a generator.

    z = sum_m w_m f_m(view) / sum_m w_m

A teacher is any classifier in eval mode on the images' device, and none is changed. Images are normalised as the
teachers want them. What is asked is never held whole: views are made, shown and reduced to what is stored batch by
batch. Shape letters: N images, C H W pixels, K classes, V views, M teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ddcore import devices
from ddcore.errors import InputError
from ddcore.images.views import RESIZED, SHIFTED, Draw, View, changed
from ddcore.labels.labels import mixed_classes
from ddcore.labels.losses import LARGEST_HALF, distances
from ddcore.labels.per_image import SoftLabels, StaticMixedLabels
from ddcore.labels.per_view import PerViewLabels, TopKLabels, TwoDistanceLabels, kept_logits
from ddcore.labels.view_records import DrawnViews, ViewRecord
from ddcore.networks.passes import groups, logits
from ddcore.randomness import drawing_from

Teachers = nn.Module | Sequence[nn.Module]
Ask = Callable[[Tensor], Tensor]
Statistics = Literal["running", "batch"]
GROUP = 8
"""Images of a group whose own statistics CV-DD's teachers use."""
PIXELS_AT_ONCE = 2**25
"""Of images that pass at once where the whole batch would: off the CPU."""
LOOKED_AT = 512
"""Views that tell how well teachers know what they label."""


class How(TypedDict, total=False):
    """How teachers answer.

    ``weights``: w, one a teacher, at least 0; default: equal ones. ``statistics``: ``running`` (default) is eval mode;
    with ``batch`` BatchNorm takes mean and biased variance of ``group`` (default 8) consecutive images at a time
    (CV-DD's batch-specific soft labels, arXiv:2501.07575); a lone last image joins the group before it. ``dropout``: a
    generator switches dropout on, as the authors' code has it there; default: off.
    """

    weights: Sequence[float] | None
    statistics: Statistics
    group: int
    dropout: torch.Generator | None


def mean_logits(images: Tensor, teachers: Teachers, **how: Unpack[How]) -> Tensor:
    """The teachers' weighted mean of logits for images (N, C, H, W): (N, K), without gradient.

    Raises:
        InputError: no teacher, one in training mode (its answer would depend on the batch and change the teacher),
            weights that do not fit, or a single image where groups are due.
    """
    return asking(teachers, **how)(images)


def asking(
    teachers: Teachers,
    *,
    weights: Sequence[float] | None = None,
    statistics: Statistics = "running",
    group: int = GROUP,
    dropout: torch.Generator | None = None,
) -> Ask:
    """A function from images (B, C, H, W) to the teachers' weighted mean of logits (B, K);
    see ``How`` and ``mean_logits``."""
    every = [teachers] if isinstance(teachers, nn.Module) else list(teachers)
    if not every:
        raise InputError("labels were asked of no teacher: give at least one network")
    if any(teacher.training for teacher in every):
        raise InputError("a teacher is in training mode, where its answers depend on the batch: call its eval() first")
    shares = _shares(weights, len(every))
    if statistics == "batch" or dropout is not None:
        every = [_switched(teacher, statistics == "batch", dropout is not None) for teacher in every]

    def ask(images: Tensor) -> Tensor:
        parts = [images] if statistics == "running" else images.split(groups(len(images), group))  # type: ignore[no-untyped-call]
        with nullcontext() if dropout is None else drawing_from(dropout, images.device):
            return torch.cat([_weighted(every, shares, part, statistics) for part in parts])

    return ask


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count or not all(0 <= weight < float("inf") for weight in given) or not sum(given):
        raise InputError(
            f"{count} teachers have weights {given}: give one of at least 0 for each, and one above 0 among them"
        )
    return [weight / sum(given) for weight in given]


def _switched(teacher: nn.Module, by_batch: bool, dropout: bool) -> nn.Module:
    """A copy that shares weights and buffers and moves neither: other modes, same numbers."""
    shared = {id(tensor): tensor for tensor in (*teacher.parameters(), *teacher.buffers())}
    copy = deepcopy(teacher, shared).train(dropout)
    for module in copy.modules():
        if isinstance(module, _BatchNorm):
            module.train(by_batch)
        if isinstance(module, _NormBase) and module.training:
            module.track_running_stats = False
    return copy


def _weighted(teachers: Sequence[nn.Module], shares: Sequence[float], images: Tensor, statistics: Statistics) -> Tensor:
    total = shares[0] * _logits(teachers[0], images, statistics)
    for teacher, share in zip(teachers[1:], shares[1:], strict=True):
        total += share * _logits(teacher, images, statistics)
    return total


def _logits(teacher: nn.Module, images: Tensor, statistics: Statistics) -> Tensor:
    if statistics == "batch":
        return logits(teacher, images, chunk=len(images))
    whole = max(1, PIXELS_AT_ONCE // images.shape[2:].numel())
    return logits(teacher, images, chunk=None if devices.in_cache(images.device) else whole)


# ---- one label a sample ----------------------------------------------------------------------------------------------


def make_averaged(
    images: Tensor,
    teachers: Teachers,
    *,
    classes: Tensor,
    temperature: float = 1.0,
    tau_squared: bool = False,
    half: bool = False,
    **how: Unpack[How],
) -> SoftLabels:
    """Soft labels of the clean images: one vector each, whatever the number of teachers; ``half`` stores float16."""
    return SoftLabels(_of_clean(images, teachers, half, how), classes, temperature, tau_squared)


def make_static_mixed(
    images: Tensor,
    teachers: Teachers,
    *,
    classes: Tensor,
    draw: Draw = SHIFTED,
    temperature: float = 30.0,
    tau_squared: bool = False,
    half: bool = False,
    **how: Unpack[How],
) -> StaticMixedLabels:
    """INFER's static labels: averaged logits of the clean images, mixed with them at training."""
    found = _of_clean(images, teachers, half, how)
    return StaticMixedLabels(found, classes, _size(images), draw, temperature, tau_squared)


def _of_clean(images: Tensor, teachers: Teachers, half: bool, how: How) -> Tensor:
    """Sets lie class by class: groups by whose statistics teachers answer take rows from all over the set."""
    if how.get("statistics", "running") == "batch":
        apart = max(1, len(images) // how.get("group", GROUP))
        order = torch.arange(len(images), device=images.device) % apart
        rows = order.argsort(stable=True)
        found = mean_logits(images[rows], teachers, **how)[rows.argsort()]
    else:
        found = mean_logits(images, teachers, **how)
    return _half(found) if half else found


# ---- one label a view ------------------------------------------------------------------------------------------------


def draw_views(
    images: Tensor, epochs: int, batch: int, generator: torch.Generator, draw: Draw = RESIZED, keep: float = 1.0
) -> DrawnViews:
    """Every view of these images in ``epochs`` epochs of batches.

    Args:
        generator: gives the seed that all views are drawn from, then which batches are kept.
        keep: share of the whole batches that is labelled and stored (LPLD, arXiv:2410.15919); the others cost nothing.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    record = DrawnViews(images=len(images), epochs=epochs, batch=batch, size=_size(images), draw=draw, seed=seed)
    return record if keep == 1 else record.only(record.kept(keep, generator))


def make_per_view(
    images: Tensor,
    teachers: Teachers,
    views: ViewRecord,
    *,
    classes: Tensor,
    temperature: float = 20.0,
    tau_squared: bool = False,
    **how: Unpack[How],
) -> PerViewLabels:
    """The teachers' logits, in float16, for each of the views; of drawn ones the seed is kept, until ``stored()``.

    Args:
        views: of these images, as ``draw_views`` gives them.
        classes: (N,) int64.
    """
    (found,) = _stacked(views.rows, ((_half(z),) for _, z in _asked(images, asking(teachers, **how), views)))
    return PerViewLabels(found, classes, views, temperature, tau_squared)


def make_top_k(
    images: Tensor,
    teachers: Teachers,
    views: ViewRecord,
    *,
    classes: Tensor,
    k: int,
    temperature: float = 20.0,
    rest: str = "zero",
    **how: Unpack[How],
) -> TopKLabels:
    """The k largest of the logits that ``make_per_view`` keeps, see ``TopKLabels``."""
    ask = asking(teachers, **how)
    count = ask(images[:2]).shape[1]
    kept = (kept_logits(_half(z), k, rest, temperature) for _, z in _asked(images, ask, views))
    values, ids = _stacked(views.rows, kept)
    return TopKLabels(values, ids, classes, count, views, temperature, rest=rest)


def make_two_distances(
    images: Tensor,
    teachers: Teachers,
    views: ViewRecord,
    *,
    classes: Tensor,
    weight: float = 1.0,
    norm: str = "squared",
    temperature: float = 1.0,
    **how: Unpack[How],
) -> TwoDistanceLabels:
    """-log p of two classes of every view, in float16; a view's parameters, if ``stored()``, cost six times as much."""
    ask = asking(teachers, **how)
    count = ask(images[:2]).shape[1]

    def told(view: View, z: Tensor) -> tuple[Tensor]:
        ids = mixed_classes(classes.cpu(), view)
        return (_half(distances(z, ids["class"], ids.get("mixed", ids["class"]), temperature)),)

    (distance,) = _stacked(views.rows, (told(view, z) for view, z in _asked(images, ask, views)))
    return TwoDistanceLabels(distance, classes, count, views, weight, norm, temperature)


def answers(images: Tensor, teachers: Teachers, record: ViewRecord, **how: Unpack[How]) -> Tensor:
    """The teachers' mean logits for every view of a record, (V, K) on the CPU."""
    (found,) = _stacked(record.rows, ((z,) for _, z in _asked(images, asking(teachers, **how), record)))
    return found


def _asked(images: Tensor, ask: Ask, record: ViewRecord) -> Iterator[tuple[View, Tensor]]:
    """Each batch of views, and what teachers say to it, (B, K) on the CPU."""
    for number in range(record.batches):
        view = record.view(number)
        yield view, ask(changed(view, images[view.index.to(images.device)])).cpu()


def _stacked(rows: int, parts: Iterator[tuple[Tensor, ...]]) -> list[Tensor]:
    """Parts one after the other in tensors of so many rows, none of which is held twice."""
    whole: list[Tensor] = []
    at = 0
    for part in parts:
        whole = whole or [tensor.new_empty(rows, *tensor.shape[1:]) for tensor in part]
        for tensor, own in zip(whole, part, strict=True):
            tensor[at : at + len(own)] = own
        at += len(part[0])
    return whole


# ---- how well teachers know what they label --------------------------------------------------------------------------


def agreement(
    images: Tensor,
    teachers: Teachers,
    classes: Tensor,
    record: ViewRecord | None = None,
    *,
    most: int = LOOKED_AT,
    **how: Unpack[How],
) -> float:
    """Share of views whose likeliest class is, to the teachers, the one that most of the view is of, in [0, 1].

    Args:
        classes: (N,) int64.
        record: the views, of which the first batches are looked at; None: the clean images, evenly from all over the
            set.
        most: views to look at, and as many more as fill the last batch.
    """
    ask, classes, right, seen = asking(teachers, **how), classes.cpu(), 0, 0
    if record is None:
        rows = torch.arange(len(images))[:: -(-len(images) // most)]
        batches: Iterator[tuple[View, Tensor]] = iter([(View(rows), ask(images[rows.to(images.device)]).cpu())])
    else:
        batches = _asked(images, ask, record)
    for view, found in batches:
        told = mixed_classes(classes, view)
        due = told["class"] if view.mix is None else torch.where(told["lam"] >= 0.5, told["class"], told["mixed"])
        right, seen = right + int((found.argmax(1) == due).sum()), seen + len(due)
        if seen >= most:
            break
    return right / seen


def _half(values: Tensor) -> Tensor:
    return values.clamp(-LARGEST_HALF, LARGEST_HALF).half()


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]
