"""Option groups of the core itself, beside the plugins': known to the command line without torch."""

from __future__ import annotations

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
