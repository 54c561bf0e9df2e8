"""Rules by which the core labels images with the run's teachers: ``--labels averaged``, ``per-view``, ``top-k``, ``two-distances``
and ``static-mixed``, with their options ``--views.*``.

What is left open follows the evaluation protocol, so that labels fit the students that will learn from them: as many epochs, in
its batches, under its crops and mixes. Random real images are labelled by the same rule. Known to the command line without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs import frozen
from attrs.validators import and_, ge, gt, le, optional

from ddcore.plugins import option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ddcore.data import Source
    from ddcore.labels import Labels, ViewRecord
    from ddcore.protocols import Protocol
    from ddcore.run import Run
    from ddcore.types import Vote
    from ddcore.views import Draw

AVERAGED, PER_VIEW, TOP_K, TWO_DISTANCES, STATIC_MIXED = RULES = (
    "averaged",
    "per-view",
    "top-k",
    "two-distances",
    "static-mixed",
)
OF_VIEWS = (PER_VIEW, TOP_K, TWO_DISTANCES)
LARGE = 64
"""From this many pixels a side on, ImageNet's views and temperature; below, CIFAR's."""
NEAR_CHANCE = 0.25
"""Teachers less than this far on the way from chance to always right do not know what they label."""


@frozen(kw_only=True, eq=False)
class ViewOptions:
    """What teachers are shown, and what is kept of their answers: options ``--views.epochs`` and so on."""

    epochs: int | None = option(
        None, help="epochs of views that are labelled; none: the protocol's", unit="epochs", validator=optional(ge(1))
    )
    batch: int | None = option(
        None, help="images of a batch of views; none: the protocol's", unit="images", validator=optional(ge(1))
    )
    crop: Literal["auto", "resized", "shifted", "none"] = option(
        "auto", help="auto: the protocol's, else resized from 64 pixels on and shifted below"
    )
    scale: float | None = option(
        None,
        help="least area of a resized crop, a share of the image; none: the protocol's, else 0.08",
        validator=optional(and_(gt(0), le(1))),
    )
    ratio: float = option(4 / 3, help="most width over height of a resized crop; least is its inverse", validator=ge(1))
    pad: int | None = option(
        None,
        help="most shift each way of a shifted crop; none: 4, of images under 32 pixels an eighth of a side",
        unit="pixels",
        validator=optional(ge(0)),
    )
    flip: float | None = option(
        None,
        help="probability of a mirror image; none: the protocol's, else 0.5, and 0 where mirroring changes the class",
        validator=optional(and_(ge(0), le(1))),
    )
    mix: Literal["auto", "cutmix", "mixup", "none"] = option(
        "auto", help="auto: the protocol's, else CutMix from 64 pixels on and MixUp below"
    )
    beta: float | None = option(
        None,
        help="shares of a mix are drawn from Beta(beta, beta); none: 1 for CutMix, 0.8 for MixUp",
        validator=optional(and_(gt(0), le(10))),
    )
    temperature: float | None = option(
        None,
        help="both distributions are softened by it; none: of labels for views 20, under MixUp 30; static-mixed 30, else 1",
        symbol="tau",
        validator=optional(and_(ge(1e-6), le(1e6))),
    )
    tau_squared: bool = option(False, help="multiply the loss by the temperature's square")
    keep: float = option(
        1.0, help="share of whole batches that is labelled and kept, used in cycles", validator=and_(gt(0), le(1))
    )
    k: int | None = option(
        None, help="of top-k: classes kept; none: a tenth of them, at least 2", symbol="k", validator=optional(ge(1))
    )
    rest: Literal["zero", "least"] = option(
        "zero", help="of top-k: what other classes get, no probability or the least logit kept"
    )
    weight: float = option(
        1.0,
        help="of two-distances: weight of the gap beside the cross entropy; not published",
        symbol="alpha_dbr",
        validator=ge(0),
    )
    norm: Literal["squared", "absolute"] = option("squared", help="of two-distances: of the gap; not published")
    half: bool = option(False, help="of averaged and static-mixed: store float16, as labels of views always are")
    seeded: bool = option(True, help="draw views again from a seed; --views.no-seeded stores every parameter")
    compact: bool = option(False, help="stored views in the smallest types")
    statistics: Literal["running", "batch"] = option(
        "running",
        help="teachers' batch norms: as they remember the real data, or of the group that is labelled (CV-DD)",
    )
    group: int | None = option(
        None,
        help="images whose own statistics are taken together; none: the protocol's groups, else 8",
        unit="images",
        validator=optional(ge(2)),
    )
    dropout: bool = option(False, help="keep the teachers' dropout on, as CV-DD's code has it with batch statistics")


def label(name: str, images: Tensor, classes: Tensor, run: Run) -> Labels:
    """Labels of images (N, C, H, W) by one of ``RULES``, by the run's teachers and views.

    Args:
        images: normalised, on the run's device.
        classes: (N,) int64.
    """
    from ddcore.evaluate import resolved_protocols

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
        report(run, made, images, classes, votes, how)
    return made


def _of_images(
    name: str, images: Tensor, teachers: list[nn.Module], draw: Draw, given: Mapping[str, Any], options: ViewOptions
) -> Labels:
    from ddcore.labels import make_averaged, make_static_mixed

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
    from ddcore.labels import PerView, draw_views, make_per_view, make_top_k, make_two_distances

    options: ViewOptions = run.options["views"]
    views = draw_views(images, *at, run.generator("label", "views"), draw, options.keep)
    made: PerView
    if name == TOP_K:
        k = kept_classes(options, run.source)
        made = make_top_k(images, teachers, views, k=k, rest=options.rest, **given)
    elif name == TWO_DISTANCES:
        own = {n: v for n, v in given.items() if n != "tau_squared"}
        made = make_two_distances(images, teachers, views, weight=options.weight, norm=options.norm, **own)
    else:
        made = make_per_view(images, teachers, views, **given)
    return made if options.seeded else made.stored(compact=options.compact)


def answering(options: ViewOptions, votes: list[Vote], protocols: list[Protocol], run: Run) -> dict[str, Any]:
    """How the teachers answer, see ``ddcore.label_kinds.making.How``."""
    dropout = run.generator("label", "dropout") if options.dropout else None
    group = options.group or protocols[0].group or 8
    return {
        "weights": [vote.weight for vote in votes],
        "statistics": options.statistics,
        "group": group,
        "dropout": dropout,
    }


def drawn_for(run: Run) -> Draw | None:
    """What is drawn for the views of the set that is evaluated, whatever its protocol: real images beside it get the same."""
    from ddcore.labels import PerView, StaticMixedLabels

    held = None if run.artifact is None else run.artifact.labels
    if isinstance(held, PerView):
        return held.record.draw
    return held.draw if isinstance(held, StaticMixedLabels) else None


def draw_for(options: ViewOptions, base: Draw | None, source: Source) -> Draw:
    """What is drawn for a view.

    Args:
        base: the protocol's views, which options change; None where it has none.
    """
    from ddcore.views import INFER, SRE2L

    if base is None:
        base = SRE2L if source.size >= LARGE else INFER
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
    from ddcore.labels import PerView

    epochs, batch = max(recipe.epochs_run for recipe in protocols), protocols[0].batch
    held = None if run.artifact is None else run.artifact.labels
    if isinstance(held, PerView):
        epochs, batch = held.record.epochs, held.record.batch
    return options.epochs or epochs, options.batch or batch


def longest(run: Run) -> int:
    """Epochs of the run's protocol that has most of them."""
    from ddcore.evaluate import resolved_protocols

    return max(recipe.epochs_run for recipe in resolved_protocols(run))


def report(run: Run, made: Labels, images: Tensor, classes: Tensor, votes: list[Vote], how: Mapping[str, Any]) -> None:
    """Say what labels were made; warn where teachers do not know what they labelled, or students will see it twice."""
    from ddcore.labels import PerView, agreement

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


def shown_by(run: Run) -> Draw:
    """What teachers, and what stands in for them, are shown in this run: the protocol's views, changed by ``--views``."""
    from ddcore.evaluate import resolved_protocols

    return draw_for(run.options["views"], resolved_protocols(run)[0].views, run.source)
