"""Named evaluation recipes: how a fresh network is trained on a finished set before it is tested.

They differ, and the recipe alone moves random real images by ten points and more: a score means something only beside
the name of its protocol. The last epoch's accuracy counts; nothing is chosen on the test set. Two families share one loop,
in which an epoch is shuffled and its last short batch kept.

Of matched sets (DC, DSA and DM, MTT and its kin), as the field's code has it:

* E + 1 epochs are run, not E, because the usual code counts from 0 to E;
* the rate falls tenfold once, after epoch floor(E/2) + 1, by *building a new optimiser*: momentum starts again at zero;
* SGD, momentum 0.9, weight decay 5e-4.

Of sets whose images and labels come from teachers (SRe2L, RDED, CV-DD, INFER):

* E epochs are run; the rate follows a cosine from epoch to epoch, half of one for ``rded`` and ``cv-dd``;
* AdamW, betas (0.9, 0.999), weight decay 0.01 on tensors of two axes and more, but not on biases and norms;
* hard labels, and soft ones of the clean image, are cropped, mirrored and mixed as that paper's labels of views are, and
  follow the mix: lam CE(own) + (1 - lam) CE(mixed), or mixed logits. Labels of views bring their own views and batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import asdict, evolve, field, frozen
from attrs.validators import ge, gt, in_, instance_of, optional

from ddcore.composing.recipes import OF_VIEWS
from ddcore.errors import OptionError, near
from ddcore.images.patches import MOSAICS
from ddcore.images.views import INFER, LARGE, SRE2L, Draw
from ddcore.training.loop import OPTIMIZERS, SCHEDULES, OptimizerName, ScheduleName

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run
    from ddcore.data.source import Source
    from ddcore.labels import Labels

Augmentation = Literal["none", "dsa", "fyi", "mnist", "batchnorm"]
AUGMENTATIONS: tuple[Augmentation, ...] = ("none", "dsa", "fyi", "mnist", "batchnorm")
FIELD_RATE = 0.01
BARE = "bare-"
"""Before a protocol's name: the same without augmentation."""
HARD = "hard"
SMALL = 16
"""Below this many pixels a side, ``auto`` takes ``quick``: there is no published table to match."""


@frozen
class Schedule:
    """A protocol in optimiser steps, for a set of a given size.

    Attributes:
        steps: in all.
        drop_at: the first step of the second, tenfold lower rate; at or past ``steps``, or None, there is none.
        drops: of the schedule ``steps``: first steps at lower rates.
        epoch: steps of an epoch, within which a cosine stands still.
        warmup: in steps.
    """

    steps: int
    drop_at: int | None = None
    epoch: int | None = None
    warmup: int = 0
    drops: tuple[int, ...] = ()

    def stretched(self, steps: int) -> Schedule:
        """The same shape over at least ``steps`` steps."""
        if steps <= self.steps:
            return self
        drop_at, epoch = (None if n is None else round(n * steps / self.steps) for n in (self.drop_at, self.epoch))
        drops = tuple(round(n * steps / self.steps) for n in self.drops)
        return Schedule(steps, drop_at, epoch, round(self.warmup * steps / self.steps), drops)


@frozen(kw_only=True)
class Protocol:
    """One recipe, fully written down.

    Attributes:
        name: as on the command line and in ``scores.json``.
        summary: one line for people: whose recipe it is.
        epochs: E.
        extra_epoch: whether E + 1 are run.
        rate: of the optimiser, a step; at the start.
        learned_rate: whether a rate that was learned with the set replaces ``rate`` for that set. Real images, whose
            rate nobody learned, keep ``rate``.
        batch: images a step; a smaller set is one batch.
        drop: what the rate is multiplied by, once, under the schedule ``drop``.
        drops: under the schedule ``steps``: after which shares of E it is.
        optimizer: ``sgd`` with ``momentum``, ``adam`` or ``adamw``.
        decay_biases: whether tensors of fewer than two axes decay too.
        schedule_name: ``drop`` or ``cosine``; see ``ddcore.training.loop.rate_at``.
        stretch: eta of the cosine: 1 ends at 0, 2 at half the rate.
        floor: what the cosine falls to in the place of 0.
        each_step: whether cosine and warm-up move every step; else from epoch to epoch.
        nesterov: whether SGD's momentum is Nesterov's.
        warmup: epochs of E, in which the rate rises linearly from a hundredth.
        group: rows that pass through the network at once, gradients averaged over the batch; see ``ddcore.training.loop.Descent``.
        augment: ``none``; ``dsa``, one differentiable operation a mini-batch, its parameters drawn for each image;
            ``fyi``, the same, with a mirror image (p = 0.5) always first; ``mnist``, one of shift by up to 4 px, scale
            by up to 0.2, rotate by up to 45 degrees, for each image; ``batchnorm``, that shift or noise of deviation 0.001.
            Mirroring is left out where it changes the class.
        views: crops, mirrors and mixes of each batch, after ``augment``; None: none.
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
    extra_epoch: bool = field(default=True, validator=instance_of(bool))
    optimizer: OptimizerName = field(default="sgd", validator=in_(OPTIMIZERS))
    decay_biases: bool = field(default=True, validator=instance_of(bool))
    schedule_name: ScheduleName = field(default="drop", validator=in_(SCHEDULES))
    stretch: float = field(default=1.0, validator=ge(1))
    warmup: int = field(default=0, validator=[instance_of(int), ge(0)])
    group: int | None = field(default=None, validator=optional([instance_of(int), ge(1)]))
    views: Draw | None = field(default=None, validator=optional(instance_of(Draw)))
    drops: tuple[float, ...] = ()
    floor: float = field(default=0.0, validator=ge(0))
    each_step: bool = field(default=False, validator=instance_of(bool))
    nesterov: bool = field(default=False, validator=instance_of(bool))

    @property
    def epochs_run(self) -> int:
        """E or E + 1."""
        return self.epochs + self.extra_epoch

    def schedule(self, images: int) -> Schedule:
        """The steps that a set of this many images gets.

        >>> protocol("dsa").schedule(100)
        Schedule(steps=1001, drop_at=502, epoch=None, warmup=0, drops=())
        >>> protocol("sre2l-tiny").schedule(10_000)
        Schedule(steps=4000, drop_at=None, epoch=40, warmup=200, drops=())
        """
        a_pass = self.steps_of(1, images)
        steps, warmup = self.epochs_run * a_pass, self.warmup * a_pass
        if self.schedule_name == "steps":
            drops = tuple(round(self.epochs * share) * a_pass for share in self.drops)
            return Schedule(steps, None, a_pass if warmup else None, warmup, drops)
        if self.schedule_name == "cosine":
            return Schedule(steps, None, None if self.each_step else a_pass, warmup)
        return Schedule(steps, (self.epochs // 2 + 2) * a_pass, a_pass if warmup else None, warmup)

    def steps_of(self, epochs: int, images: int) -> int:
        """Steps of so many passes, the last short batch of each included."""
        return epochs * -(-images // self.batch)

    def for_epochs(self, epochs: int) -> Protocol:
        """The same recipe for another E, its warm-up with it."""
        warmup = round(self.warmup * epochs / max(1, self.epochs))
        return evolve(self, name=f"{self.name}-{epochs}", epochs=epochs, warmup=warmup)

    def as_json(self) -> dict[str, Any]:
        """Every number, as plain values."""
        return asdict(self)


_DECOUPLED: Mapping[str, Any] = {
    "epochs": 300,
    "extra_epoch": False,
    "optimizer": "adamw",
    "rate": 1e-3,
    "momentum": 0.0,
    "weight_decay": 0.01,
    "decay_biases": False,
    "schedule_name": "cosine",
    "augment": "none",
    "views": SRE2L,
}
_CIFAR: Mapping[str, Any] = {**_DECOUPLED, "epochs": 400, "batch": 128, "views": INFER}
_TINY: Mapping[str, Any] = {
    **_DECOUPLED,
    "epochs": 100,
    "optimizer": "sgd",
    "rate": 0.2,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "decay_biases": True,
    "warmup": 5,
    "batch": 256,
    "views": evolve(SRE2L, mix="none"),
}
_GROUPS: Mapping[str, Any] = {**_DECOUPLED, "batch": 16, "group": 8}

_EVERY = (
    Protocol(name="dc", summary="A: DC; no augmentation", epochs=300, augment="none"),
    Protocol(name="dc-mnist", summary="A on MNIST: DC; shift, scale or rotate each image", augment="mnist"),
    Protocol(name="dc-bn", summary="A for BatchNorm: DC; shift each image or add a little noise", augment="batchnorm"),
    Protocol(name="dsa", summary="B: DSA and DM"),
    Protocol(name="mtt", summary="C: MTT, FTD, TESLA; the learned rate", learned_rate=True),
    Protocol(name="datm", summary="D: DATM; the learned rate, smaller batches", learned_rate=True, batch=128),
    Protocol(name="fyi", summary="FYI: mirrored with p = 0.5, then one operation", learned_rate=True, augment="fyi"),
    Protocol(name="sre2l", summary="SRe2L on ImageNet: AdamW, cosine, CutMix", batch=1024, **_DECOUPLED),
    Protocol(name="cda", summary="CDA and DWA on ImageNet: sre2l in batches of 128", batch=128, **_DECOUPLED),
    Protocol(name="sre2l-cifar", summary="SRe2L and DWA on CIFAR: AdamW, cosine, MixUp", **_CIFAR),
    Protocol(name="sre2l-tiny", summary="SRe2L on Tiny-ImageNet: SGD, warm-up, cosine, no mix", **_TINY),
    Protocol(
        name="rded",
        summary="RDED on mosaics of 2 x 2: AdamW, half a cosine, patch shuffle, CutMix",
        **{**_DECOUPLED, "batch": 100, "stretch": 2.0, "views": evolve(SRE2L, scale=(0.5, 1.0), shuffle=2)},
    ),
    Protocol(
        name="rded-small",
        summary="RDED up to 64 pixels: no crop, no patch shuffle",
        **{**_DECOUPLED, "batch": 100, "stretch": 2.0, "views": evolve(SRE2L, crop="none")},
    ),
    Protocol(name="cv-dd", summary="CV-DD: batches of 16 in groups of 8, half a cosine", stretch=2.0, **_GROUPS),
    Protocol(name="cv-dd-cifar", summary="CV-DD on CIFAR: a whole cosine", **_GROUPS),
    Protocol(name="infer", summary="INFER: sre2l-cifar in batches of 64", **{**_CIFAR, "batch": 64}),
    Protocol(
        name="hard",
        summary="hard labels under sre2l without mixes",
        batch=1024,
        **{**_DECOUPLED, "views": evolve(SRE2L, mix="none")},
    ),
    Protocol(
        name="hard-cifar",
        summary="hard labels under sre2l-cifar without mixes",
        **{**_CIFAR, "views": evolve(INFER, mix="none")},
    ),
    Protocol(
        name="kd",
        summary="knowledge distillation on CIFAR: SGD 0.05, tenfold less after 150, 180 and 210 of 240 epochs",
        epochs=240,
        extra_epoch=False,
        rate=0.05,
        batch=64,
        schedule_name="steps",
        drops=(150 / 240, 180 / 240, 210 / 240),
        augment="none",
        views=evolve(INFER, mix="none"),
    ),
    Protocol(
        name="meal-v2",
        summary="tuning a trained student: SGD 0.01 without weight decay, tenfold less after 100 of 180 epochs",
        epochs=180,
        extra_epoch=False,
        batch=64,
        weight_decay=0.0,
        schedule_name="steps",
        drops=(100 / 180,),
        augment="none",
        views=evolve(INFER, mix="none"),
    ),
    Protocol(
        name="kd3",
        summary="KD3 on foreign images: kd in batches of 1024, crops of random area",
        epochs=240,
        extra_epoch=False,
        rate=0.05,
        batch=1024,
        schedule_name="steps",
        drops=(150 / 240, 180 / 240, 210 / 240),
        augment="none",
        views=evolve(SRE2L, mix="none"),
    ),
    Protocol(
        name="rs2",
        summary="RS2 on CIFAR: SGD 0.1 with Nesterov, a cosine of each step down to 1e-4",
        epochs=200,
        extra_epoch=False,
        rate=0.1,
        nesterov=True,
        batch=128,
        schedule_name="cosine",
        each_step=True,
        floor=1e-4,
        augment="none",
        views=evolve(INFER, mix="none"),
    ),
    Protocol(
        name="text",
        summary="small transformers on sentences: AdamW 5e-4, warm-up, cosine",
        epochs=10,
        warmup=1,
        extra_epoch=False,
        optimizer="adamw",
        rate=5e-4,
        batch=64,
        weight_decay=0.01,
        decay_biases=False,
        schedule_name="cosine",
        augment="none",
    ),
    Protocol(name="quick", summary="ddcore's own, for demonstrations: B with E = 300", epochs=300, learned_rate=True),
)
PROTOCOLS: Mapping[str, Protocol] = {p.name: p for p in _EVERY}
ALIASES: Mapping[str, str] = {"A": "dc", "B": "dsa", "C": "mtt", "D": "datm"}


def protocol(name: str) -> Protocol:
    """A protocol by name or letter, ``NAME-EPOCHS`` for another E, ``bare-NAME`` without augmentation, views and mixes.

    >>> protocol("B").name, protocol("dsa-300").epochs, protocol("dsa-300").name
    ('dsa', 300, 'dsa-300')
    >>> protocol("bare-dsa-300").augment, protocol("bare-dsa-300").name
    ('none', 'bare-dsa-300')

    Raises:
        OptionError: no such protocol.
    """
    stem, _, number = name.rpartition("-")
    if number.isdecimal() and stem:
        return protocol(stem).for_epochs(int(number))
    if name.startswith(BARE):
        plain = protocol(name.removeprefix(BARE))
        return evolve(plain, name=f"{BARE}{plain.name}", augment="none", views=None)
    known = PROTOCOLS.get(ALIASES.get(name, name))
    if known is None:
        raise OptionError(f"no protocol is named {name!r}: {near(name, [*PROTOCOLS, *ALIASES, 'auto'])}")
    return known


def auto_protocol(source: Source, *, learned_rate: bool, learned_labels: bool, labels: str = "hard") -> str:
    """What ``--protocol auto`` means: the recipe under which such sets were published.

    Args:
        source: images under ``SMALL`` pixels a side get ``quick``, unless their labels are of views.
        learned_rate: whether the set brings a learned rate (mtt and its kin).
        learned_labels: whether it brings learned labels (datm).
        labels: their kind: those of views ask for ``sre2l``, on images under ``LARGE`` pixels ``sre2l-cifar``, and
            static ones that are mixed for ``infer``; those of a projector for ``rded``, under ``MOSAICS`` pixels ``rded-small``.
    """
    if source.modality == "text":
        return "text"
    if labels in OF_VIEWS:
        return "sre2l" if source.size >= LARGE else "sre2l-cifar"
    if labels == "static-mixed":
        return "infer"
    if labels == "projector":
        return "rded" if source.size >= MOSAICS else "rded-small"
    if source.size < SMALL:
        return "quick"
    if not learned_rate:
        return "dsa"
    return "datm" if learned_labels else "mtt"


def resolved_protocols(run: Run) -> list[Protocol]:
    """What ``--protocol`` means for this run: for the artifact once there is one, else for what will be learned."""
    return [protocol(_auto(run) if name == "auto" else name) for name in run.config.protocol or ("auto",)]


def _auto(run: Run) -> str:
    if run.artifact is not None:
        return auto_of(run, run.artifact.labels, run.artifact.learned_rate)
    learns = run.matcher.learns
    learned = "labels" in learns and run.config.labels is None
    kind = HARD if learned else run.label_kind(run.labeller)
    return auto_protocol(run.source, learned_rate="rate" in learns, learned_labels=learned, labels=kind)


def auto_of(run: Run, labels: Labels, rate: float | None) -> str:
    """What ``--protocol auto`` means for these labels, and a learned rate if there is one."""
    learned = {"learned_rate": rate is not None, "learned_labels": labels.kind != HARD}
    return auto_protocol(run.source, **learned, labels=labels.kind)
