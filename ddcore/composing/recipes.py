"""Option groups of the core itself, beside the plugins': known to the command line without torch."""

from __future__ import annotations

from typing import Literal

from attrs import frozen
from attrs.validators import and_, ge, gt, le, optional

from ddcore.api.plugin import option

AVERAGED, PER_VIEW, TOP_K, TWO_DISTANCES, STATIC_MIXED = RULES = (
    "averaged",
    "per-view",
    "top-k",
    "two-distances",
    "static-mixed",
)
OF_VIEWS = (PER_VIEW, TOP_K, TWO_DISTANCES)
"""Rules by which the core labels images with teachers; those of views make a label for each."""


@frozen(kw_only=True, eq=False)
class Experts:
    """How experts are trained: options ``--experts.count`` and so on."""

    count: int = option(100, help="experts to train", symbol="R", validator=ge(1))
    epochs: int = option(50, help="epochs of each, its weights kept after every one", unit="epochs", validator=ge(1))
    lr: float = option(0.01, help="learning rate, constant until drop_epoch", validator=gt(0))
    momentum: float = option(0.0, help="momentum of the experts' SGD", validator=ge(0))
    weight_decay: float = option(0.0, help="weight decay of the experts' SGD", validator=ge(0))
    batch: int = option(256, help="real images a step", unit="images", validator=ge(1))
    drop_epoch: int | None = option(
        None,
        help="first epoch at the dropped rate, with a fresh optimiser; none: never",
        unit="epochs",
        validator=optional(ge(1)),
    )
    drop: float = option(0.1, help="factor of the learning rate from drop_epoch on", validator=gt(0))


@frozen(kw_only=True, eq=False)
class Teachers:
    """Who the teachers are and how they are trained: options ``--teachers.networks`` and so on."""

    networks: tuple[str, ...] = option(
        (), help="architecture of each teacher, repeatable; none: one, the run's network with batch norm"
    )
    weights: tuple[str, ...] = option(
        (),
        help="for each network, repeatable: file or URL of its state dict, torchvision's name of weights, pretrained for timm's, or train; none: all are trained here",
    )
    normalise: Literal["data", "imagenet"] = option(
        "data", help="what loaded weights expect: images as this run normalises them, or ImageNet's mean and deviation"
    )
    epochs: int = option(30, help="epochs of each teacher trained here", unit="epochs", validator=ge(1))
    batch: int = option(128, help="real images a step", unit="images", validator=ge(1))
    rate: float = option(0.1, help="learning rate of SGD at the start, cosine to 0", validator=gt(0))
    momentum: float = option(0.9, help="momentum of SGD", validator=ge(0))
    weight_decay: float = option(5e-4, help="weight decay of SGD", validator=ge(0))
    warmup: int = option(0, help="epochs in which the rate rises linearly", unit="epochs", validator=ge(0))
    crop: Literal["auto", "resized", "shifted", "none"] = option(
        "auto", help="crops of training images; auto: resized from 64 pixels on, below shifted by up to 4"
    )
    mix: Literal["none", "cutmix", "mixup"] = option(
        "none", help="mixes of training images: teachers that label mixed views do better if they saw some"
    )
    snapshots: int = option(
        0, help="weaker copies of each teacher trained here that are kept, evenly along its training", validator=ge(0)
    )
    check: bool = option(True, help="refuse teachers that do no better than chance on training images")


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
    rest: Literal["zero", "least", "shared"] = option(
        "zero",
        help="of top-k: what other classes get: no probability, the least logit kept, or equal parts of what the k lack",
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
