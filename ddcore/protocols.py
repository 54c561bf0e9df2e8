"""Named evaluation recipes: how a fresh network is trained on a finished set before it is tested.

Three of them made the numbers that people compare, and they differ (``dc``, ``dsa`` and ``dm``'s, ``mtt``'s): a score
means something only beside the name of its protocol. All share one loop, taken as the field's code has it:

* E + 1 epochs are run, not E, because the usual code counts from 0 to E;
* the rate falls tenfold once, after epoch floor(E/2) + 1, by *building a new optimiser*: momentum starts again at zero;
* SGD, momentum 0.9, weight decay 5e-4, shuffled, the last short batch kept;
* the last epoch's accuracy counts; nothing is chosen on the test set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import asdict, evolve, field, frozen
from attrs.validators import ge, gt, in_, instance_of

from ddcore.errors import OptionError, near

if TYPE_CHECKING:
    from ddcore.data import Source

Augmentation = Literal["none", "dsa", "fyi", "mnist", "batchnorm"]
AUGMENTATIONS: tuple[Augmentation, ...] = ("none", "dsa", "fyi", "mnist", "batchnorm")
FIELD_RATE = 0.01
SMALL = 16
"""Below this many pixels a side, ``auto`` takes ``quick``: there is no published table to match."""


@frozen
class Schedule:
    """A protocol in optimiser steps, for a set of a given size.

    Attributes:
        steps: in all.
        drop_at: the first step of the second, tenfold lower rate; at or past ``steps`` there is none.
    """

    steps: int
    drop_at: int

    def stretched(self, steps: int) -> Schedule:
        """The same shape over at least ``steps`` steps."""
        if steps <= self.steps:
            return self
        return Schedule(steps, round(self.drop_at * steps / self.steps))


@frozen(kw_only=True)
class Protocol:
    """One recipe, fully written down.

    Attributes:
        name: as on the command line and in ``scores.json``.
        summary: one line for people: whose recipe it is.
        epochs: E; E + 1 are run.
        rate: of SGD, a step.
        learned_rate: whether a rate that was learned with the set replaces ``rate`` for that set. Real images, whose
            rate nobody learned, keep ``rate``.
        batch: images a step; a smaller set is one batch.
        drop: what the rate is multiplied by, once.
        augment: ``none``; ``dsa``, one differentiable operation a mini-batch, its parameters drawn for each image;
            ``fyi``, the same, with a mirror image (p = 0.5) always first; ``mnist``, one of shift by up to 4 px, scale
            by up to 0.2, rotate by up to 45 degrees, for each image; ``batchnorm``, that shift or noise of deviation 0.001. Mirroring is left out where it changes the class.
        full_epochs: epochs of the row ``full``, which gets at least as many steps as every other row; see ``evaluate.full_epochs``.
    """

    name: str
    summary: str
    epochs: int = field(default=1000, validator=[instance_of(int), ge(0)])
    rate: float = field(default=FIELD_RATE, validator=gt(0))
    learned_rate: bool = False
    batch: int = field(default=256, validator=ge(1))
    momentum: float = field(default=0.9, validator=ge(0))
    weight_decay: float = field(default=5e-4, validator=ge(0))
    drop: float = field(default=0.1, validator=gt(0))
    augment: Augmentation = field(default="dsa", validator=in_(AUGMENTATIONS))
    full_epochs: int = field(default=20, validator=ge(1))

    def schedule(self, images: int) -> Schedule:
        """The steps that a set of this many images gets.

        >>> protocol("dsa").schedule(100)
        Schedule(steps=1001, drop_at=502)
        """
        a_pass = self.steps_of(1, images)
        return Schedule((self.epochs + 1) * a_pass, (self.epochs // 2 + 2) * a_pass)

    def steps_of(self, epochs: int, images: int) -> int:
        """Steps of so many passes, the last short batch of each included."""
        return epochs * -(-images // self.batch)

    def as_json(self) -> dict[str, Any]:
        """Every number, as plain values."""
        return asdict(self)


_EVERY = (
    Protocol(name="dc", summary="A: DC; no augmentation", epochs=300, augment="none"),
    Protocol(name="dc-mnist", summary="A on MNIST: DC; shift, scale or rotate each image", augment="mnist"),
    Protocol(name="dc-bn", summary="A for BatchNorm: DC; shift each image or add a little noise", augment="batchnorm"),
    Protocol(name="dsa", summary="B: DSA and DM"),
    Protocol(name="mtt", summary="C: MTT, FTD, TESLA; the learned rate", learned_rate=True),
    Protocol(name="datm", summary="D: DATM; the learned rate, smaller batches", learned_rate=True, batch=128),
    Protocol(name="fyi", summary="FYI: mirrored with p = 0.5, then one operation", learned_rate=True, augment="fyi"),
    Protocol(name="quick", summary="ddcore's own, for demonstrations: B with E = 300", epochs=300, learned_rate=True),
)
PROTOCOLS: Mapping[str, Protocol] = {p.name: p for p in _EVERY}
ALIASES: Mapping[str, str] = {"A": "dc", "B": "dsa", "C": "mtt", "D": "datm"}


def protocol(name: str) -> Protocol:
    """A protocol by name or letter, ``NAME-EPOCHS`` for another E.

    >>> protocol("B").name, protocol("dsa-300").epochs, protocol("dsa-300").name
    ('dsa', 300, 'dsa-300')

    Raises:
        OptionError: no such protocol.
    """
    stem, _, number = name.rpartition("-")
    if number.isdecimal() and stem:
        base = protocol(stem)
        return evolve(base, name=f"{base.name}-{int(number)}", epochs=int(number))
    known = PROTOCOLS.get(ALIASES.get(name, name))
    if known is None:
        raise OptionError(f"no protocol is named {name!r}: {near(name, [*PROTOCOLS, *ALIASES, 'auto'])}")
    return known


def auto_protocol(source: Source, *, learned_rate: bool, learned_labels: bool) -> str:
    """What ``--protocol auto`` means: the recipe under which such sets were published.

    Args:
        source: images under ``SMALL`` pixels a side get ``quick``.
        learned_rate: whether the set brings a learned rate (mtt and its kin).
        learned_labels: whether it brings learned labels (datm).
    """
    if source.size < SMALL:
        return "quick"
    if not learned_rate:
        return "dsa"
    return "datm" if learned_labels else "mtt"
