"""Rules by which the core labels images with the run's teachers: ``--labels averaged``, ``per-view``, ``top-k``,
``two-distances`` and ``static-mixed``, with their options ``--views.*``.

What is left open follows the evaluation protocol, so that labels fit the students that will learn from them: as many
epochs, in its batches, under its crops and mixes. Random real images are labelled by the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs
from torch import Tensor, nn

from ddcore.composing.recipes import AVERAGED, OF_VIEWS, PER_VIEW, STATIC_MIXED, TOP_K, TWO_DISTANCES, ViewOptions
from ddcore.errors import InputError
from ddcore.images.views import LARGE, RESIZED, SHIFTED, Draw
from ddcore.labels import Labels, PerView, StaticMixedLabels, ViewRecord, agreement, draw_views, make_per_view
from ddcore.labels.making import make_averaged, make_static_mixed, make_top_k, make_two_distances
from ddcore.training.protocols import Protocol, resolved_protocols

if TYPE_CHECKING:
    from ddcore.api.services import Run as Asked
    from ddcore.api.types import Vote
    from ddcore.composing.host import Host as Run
    from ddcore.data.source import Source

NEAR_CHANCE = 0.25
"""Teachers less than this far on the way from chance to always right do not know what they label."""
HOT = 3.0
"""From this temperature on, a student's steps by SGD are an order of magnitude shorter."""


def label(name: str, images: Tensor, classes: Tensor, run: Asked) -> Labels:
    """Labels of images (N, C, H, W) by one of ``RULES``, by the run's teachers and views.

    Args:
        images: normalised, on the run's device.
        classes: (N,) int64.
    """
    return _label(name, images, classes, cast("Run", run))


def refuse_views(run: Asked, name: str | None = None) -> None:
    """Stop where a rule, the run's own unless named, labels views or mixes of samples that are no images.

    Raises:
        InputError: naming the rule.
    """
    rule, kind = name or run.labeller, run.source.modality
    if kind != "images" and (rule in OF_VIEWS or rule == STATIC_MIXED):
        raise InputError(f"--labels {rule} is of views of images, and these are {kind}: take hard or {AVERAGED}")


def _label(name: str, images: Tensor, classes: Tensor, run: Run) -> Labels:
    refuse_views(run, name)
    options: ViewOptions = run.options["views"]
    protocols, votes = resolved_protocols(run), run.votes("label")
    draw = drawn_for(run) or draw_for(options, protocols[0].views, run.source)
    loss = {"temperature": temperature_for(name, options, draw), "tau_squared": options.tau_squared}
    how = answering(options, votes, protocols, run)
    given: dict[str, Any] = {"classes": classes, **loss, **how}
    teachers = [vote.network for vote in votes]
    if name in OF_VIEWS:
        at = extent(options, protocols, run)
        made = _of_views(name, images, teachers, at, draw, given, run)
    else:
        made = _of_images(name, images, teachers, draw, given, options)
    if run.artifact is None:
        if draw.flip and not run.source.mirror_symmetric and name != AVERAGED:
            run.warn(f"--views.flip {draw.flip:g} mirrors images whose mirror image is of another class: leave it out")
        if short := steps_shortened(loss["temperature"] if name != TWO_DISTANCES else 1.0, options, protocols):
            run.warn(short)
        report(run, made, images, classes, votes, how)
    return made


def steps_shortened(temperature: float, options: ViewOptions, protocols: list[Protocol]) -> str:
    """A warning, or nothing: AdamW does not mind the size of a loss, SGD does,
    which a temperature divides by its square."""
    plain = [protocol.name for protocol in protocols if protocol.optimizer == "sgd"]
    if options.tau_squared or temperature < HOT or not plain:
        return ""
    return (
        f"a temperature of {temperature:g} makes gradients about {temperature**2:,.0f} times smaller, and protocol "
        f"{plain[0]} descends by SGD: give --views.tau-squared, or a protocol with AdamW"
    )


def _of_images(
    name: str, images: Tensor, teachers: list[nn.Module], draw: Draw, given: Mapping[str, Any], options: ViewOptions
) -> Labels:
    if name == STATIC_MIXED:
        return make_static_mixed(images, teachers, draw=draw, half=options.half, **given)
    return make_averaged(images, teachers, half=options.half, **given)


def _of_views(
    name: str,
    images: Tensor,
    teachers: list[nn.Module],
    at: tuple[int, int],
    draw: Draw,
    given: Mapping[str, Any],
    run: Run,
) -> Labels:
    options: ViewOptions = run.options["views"]
    views = draw_views(images, *at, run.generator("label", "views"), draw, options.keep)
    own = {n: v for n, v in given.items() if n != "tau_squared"}
    made: PerView
    if name == TOP_K:
        k = kept_classes(options, run.source)
        top = make_top_k(images, teachers, views, k=k, rest=options.rest, **own)
        made = attrs.evolve(top, tau_squared=options.tau_squared)
    elif name == TWO_DISTANCES:
        made = make_two_distances(images, teachers, views, weight=options.weight, norm=options.norm, **own)
    else:
        made = make_per_view(images, teachers, views, **given)
    return made if options.seeded else made.stored(compact=options.compact)


def answering(options: ViewOptions, votes: list[Vote], protocols: list[Protocol], run: Run) -> dict[str, Any]:
    """How the teachers answer, see ``ddcore.labels.making.How``."""
    dropout = run.generator("label", "dropout") if options.dropout else None
    group = options.group or protocols[0].group or 8
    return {
        "weights": [vote.weight for vote in votes],
        "statistics": options.statistics,
        "group": group,
        "dropout": dropout,
    }


def drawn_for(run: Run) -> Draw | None:
    """What is drawn for the views of the set that is evaluated, whatever its protocol:
    real images beside it get the same."""
    held = None if run.artifact is None else run.artifact.labels
    if isinstance(held, PerView):
        return held.record.draw
    return held.draw if isinstance(held, StaticMixedLabels) else None


def draw_for(options: ViewOptions, base: Draw | None, source: Source) -> Draw:
    """What is drawn for a view.

    Args:
        base: the protocol's views, which options change; None where it has none.
    """
    if base is None:
        base = RESIZED if source.size >= LARGE else SHIFTED
    mix = base.mix if options.mix == "auto" else options.mix
    beta = base.beta if mix == base.mix else {"mixup": 0.8}.get(mix, 1.0)
    base = base.fitting(source.size, source.mirror_symmetric)
    return attrs.evolve(
        base,
        crop=base.crop if options.crop == "auto" else options.crop,
        scale=base.scale if options.scale is None else (options.scale, 1.0),
        ratio=(1 / options.ratio, options.ratio),
        pad=base.pad if options.pad is None else options.pad,
        flip=base.flip if options.flip is None else options.flip,
        mix=mix,
        beta=beta if options.beta is None else options.beta,
    )


def temperature_for(name: str, options: ViewOptions, draw: Draw) -> float:
    """The papers' where none is given: of labels for views 30 under MixUp (CIFAR's recipe), else 20."""
    if options.temperature is not None:
        return options.temperature
    if name in (PER_VIEW, TOP_K):
        return 30.0 if draw.mix == "mixup" else 20.0
    return 30.0 if name == STATIC_MIXED else 1.0


def kept_classes(options: ViewOptions, source: Source) -> int:
    """k of top-k, as LPQLD's 100 of 1,000."""
    count = len(source.classes)
    return options.k or min(count, max(2, round(count / 10)))


def extent(options: ViewOptions, protocols: list[Protocol], run: Run) -> tuple[int, int]:
    """Epochs and batch of the views: those asked for, else those of the set that is evaluated, else the protocol's.

    Of several protocols the one with most epochs counts, so that none goes through the labels twice.
    """
    epochs, batch = max(recipe.epochs_run for recipe in protocols), protocols[0].batch
    held = None if run.artifact is None else run.artifact.labels
    if isinstance(held, PerView):
        epochs, batch = held.record.epochs, held.record.batch
    return options.epochs or epochs, options.batch or batch


def longest(run: Asked) -> int:
    """Epochs of the run's protocol that has most of them."""
    return max(recipe.epochs_run for recipe in resolved_protocols(cast("Run", run)))


def report(run: Run, made: Labels, images: Tensor, classes: Tensor, votes: list[Vote], how: Mapping[str, Any]) -> None:
    """Say what labels were made; warn where teachers do not know what they labelled, or students will see it twice."""
    record: ViewRecord | None = made.record if isinstance(made, PerView) else None
    by = ", ".join(f"{vote.name} ({vote.weight:.3g})" for vote in votes)
    span = "" if record is None else f" of {record.epochs} epochs in batches of {record.batch}"
    run.say(f"labels: {made.kind}{span}, {made.payload_bytes:,} bytes, by {by}")
    teachers, chance = [vote.network for vote in votes], 1 / made.class_count
    seen = agreement(images, teachers, classes, record, **how)
    run.log("labels", kind=made.kind, bytes=made.payload_bytes, agreement=seen)
    if seen - chance < NEAR_CHANCE * (1 - chance):
        clean = (
            "" if record is None else f", and in {agreement(images, teachers, classes, **how):.2f} of the clean images"
        )
        what = "views" if record is not None else "images"
        way_out = "milder --views.crop, --views.scale or --views.mix" if clean else "better teachers or other images"
        run.warn(
            f"the teachers find the right class in {seen:.2f} of the {what} that they label{clean} (chance is {chance:.2f}): "
            f"students will hardly learn it from them; try {way_out}"
        )
    if record is not None and (epochs := longest(run)) > record.epochs:
        run.say(f"labels: students train for {epochs} epochs and go through these {record.epochs} in cycles")


def shown_by(run: Asked) -> Draw:
    """What teachers, and what stands in for them, are shown in this run: the protocol's views,
    changed by ``--views``."""
    whole = cast("Run", run)
    return draw_for(run.options["views"], resolved_protocols(whole)[0].views, whole.source)
