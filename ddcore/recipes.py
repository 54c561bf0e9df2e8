"""Option groups of the core itself, beside the plugins': known to the command line without torch."""

from __future__ import annotations

from typing import Literal

from attrs import frozen
from attrs.validators import ge, gt, optional

from ddcore.plugins import option


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
        help="for each network, repeatable: file or URL of its state dict, torchvision's name of weights, or train; none: all are trained here",
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
