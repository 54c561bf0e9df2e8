"""Named evaluation recipes: how a fresh network is trained on a finished set before it is tested.

They differ, and the recipe alone moves random real images by ten points and more: a score means something only beside
the name of its protocol. The last epoch's accuracy counts; nothing is chosen on the test set. Two families share one
loop, in which an epoch is shuffled and its last short batch kept.

Of matched sets (DC, DSA and DM, MTT and its kin), as the field's code has it:

* E + 1 epochs are run, not E, because the usual code counts from 0 to E;
* the rate falls tenfold once, after epoch floor(E/2) + 1, by *building a new optimiser*: momentum starts again at zero;
* SGD, momentum 0.9, weight decay 5e-4.

Of sets whose images and labels come from teachers (SRe2L, RDED, CV-DD, INFER):

* E epochs are run; the rate follows a cosine from epoch to epoch, half of one in some papers;
* AdamW, betas (0.9, 0.999), weight decay 0.01 on tensors of two axes and more, but not on biases and norms;
* hard labels, and soft ones of the clean image, are cropped, mirrored and mixed as that paper's labels of views are,
  and follow the mix: lam CE(own) + (1 - lam) CE(mixed), or mixed logits. Labels of views bring their own views and
  batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import asdict, evolve, field, frozen
from attrs.validators import ge, gt, in_, instance_of, le, optional

from ddcore.api.types import VECTORS, Subject
from ddcore.composing import answers, discovery
from ddcore.composing.recipes import OF_VIEWS
from ddcore.errors import OptionError, PluginError, near
from ddcore.images.views import LARGE, RESIZED, SHIFTED, Draw
from ddcore.training.loop import OPTIMIZERS, SCHEDULES, OptimizerName, ScheduleName

if TYPE_CHECKING:
    from ddcore.api.plugin import Plugin
    from ddcore.composing.asking import Hooks
    from ddcore.composing.host import Host as Run
    from ddcore.labels import Labels

Augmentation = Literal["none", "operation", "geometric", "jitter"]
AUGMENTATIONS: tuple[Augmentation, ...] = ("none", "operation", "geometric", "jitter")
FIELD_RATE = 0.01
BARE = "bare-"
"""Before a protocol's name: the same without augmentation."""
PROBED = "probed-"
"""Before a protocol's name: the same, and then a linear probe."""
FEW_FULL = 20
"""Epochs on all real images of a protocol that was cut short."""
HARD, MIXED = "hard", "static-mixed"
PRETRAIN = "pretrain-probe"


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

    def scaled(self, steps: int) -> Schedule:
        """The same shape over ``steps`` steps."""
        if steps == self.steps or not self.steps:
            return evolve(self, steps=steps)
        share = steps / self.steps
        drop_at = None if self.drop_at is None else round(self.drop_at * share)
        epoch = None if self.epoch is None else max(1, round(self.epoch * share))
        return Schedule(steps, drop_at, epoch, round(self.warmup * share), tuple(round(n * share) for n in self.drops))


@frozen(kw_only=True)
class Probe:
    """A linear classifier on a network's frozen features, as what scores the network.

    After a student was trained on a row's set it is frozen, in eval mode; its features (``embed``) of real train images
    are standardised, each by its mean and deviation over these images; a linear layer that begins at zero learns their
    classes by cross entropy, with Adam, the rate falling to 0 as a half cosine from step to step; and that answers for
    test images. All rows and seeds are probed on the same real images.

    Attributes:
        epochs: passes over those images.
        rate: of Adam, a step; at the start.
        batch: images a step.
        share: of the train images of each class, in (0, 1]: round(share n), at least one.
        weight_decay: added to the gradient.
    """

    epochs: int = field(default=100, validator=[instance_of(int), ge(1)])
    rate: float = field(default=1e-3, validator=gt(0))
    batch: int = field(default=256, validator=ge(1))
    share: float = field(default=1.0, validator=[gt(0), le(1)])
    weight_decay: float = field(default=0.0, validator=ge(0))

    def images(self, counts: Iterable[int]) -> list[int]:
        """Of each class how many train images it is trained on, of so many.

        >>> Probe(share=0.1).images([100, 4, 0])
        [10, 1, 0]
        """
        return [min(count, max(1, round(self.share * count))) for count in counts]

    def steps(self, images: int) -> int:
        """Of all epochs, the last short batch of each included."""
        return self.epochs * -(-images // self.batch)


def _probe(given: Any) -> Any:
    return Probe(**given) if isinstance(given, Mapping) else given


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
        group: rows that pass through the network at once, gradients averaged over the batch; see
            ``ddcore.training.loop.Descent``.
        augment: ``none``; ``operation``, one differentiable operation a mini-batch (colour, crop, cutout, mirror, scale
            or rotation), its parameters drawn for each image; ``geometric``, one of shift by up to 4 px, scale by up to
            0.2, rotate by up to 45 degrees, for each image; ``jitter``, that shift or noise of deviation 0.001.
            Mirroring is left out where it changes the class.
        flip_first: whether, under ``operation``, a mirror image (p = 0.5) always comes first.
        views: crops, mirrors and mixes of each batch, after ``augment``; None: none.
        full_epochs: epochs of the row ``full``, if they make no more images than ``evaluate.FULL_IMAGES``.
        probe: what scores students in the place of their own last layer, a ``Probe`` or its numbers by name, such as
            ``{"epochs": 20, "share": 0.5}``; None: nothing.
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
    augment: Augmentation = field(default="operation", validator=in_(AUGMENTATIONS))
    flip_first: bool = field(default=False, validator=instance_of(bool))
    full_epochs: int = field(default=100, validator=ge(1))
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
    probe: Probe | None = field(default=None, converter=_probe, validator=optional(instance_of(Probe)))

    @property
    def epochs_run(self) -> int:
        """E or E + 1."""
        return self.epochs + self.extra_epoch

    def schedule(self, images: int) -> Schedule:
        """The steps that a set of this many images gets.

        >>> protocol("augmented").schedule(100)
        Schedule(steps=1001, drop_at=502, epoch=None, warmup=0, drops=())
        >>> protocol("views-small").schedule(1000)
        Schedule(steps=3200, drop_at=None, epoch=8, warmup=0, drops=())
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
        """The same recipe for another E, its warm-up with it; all real images get no more epochs than that, or
        ``FEW_FULL``."""
        warmup, full = round(self.warmup * epochs / max(1, self.epochs)), min(self.full_epochs, max(FEW_FULL, epochs))
        return evolve(self, name=f"{self.name}-{epochs}", epochs=epochs, warmup=warmup, full_epochs=full)

    def as_json(self) -> dict[str, Any]:
        """Every number, as plain values."""
        return asdict(self)


_EVERY = (
    Protocol(name="plain", summary="no augmentation, 300 epochs", epochs=300, augment="none"),
    Protocol(name="augmented", summary="one differentiable operation a mini-batch, 1000 epochs"),
    Protocol(name="learned-rate", summary="augmented, at the rate that was learned with the set", learned_rate=True),
    Protocol(name="quick", summary="learned-rate with E = 300, for demonstrations", epochs=300, learned_rate=True),
    Protocol(
        name="views",
        summary="resized crops, mirrors and CutMix: AdamW, cosine",
        epochs=300,
        extra_epoch=False,
        optimizer="adamw",
        rate=1e-3,
        batch=1024,
        momentum=0.0,
        weight_decay=0.01,
        decay_biases=False,
        schedule_name="cosine",
        augment="none",
        views=RESIZED,
    ),
    Protocol(
        name="views-small",
        summary="shifts, mirrors and MixUp for small images: AdamW, cosine",
        epochs=400,
        extra_epoch=False,
        optimizer="adamw",
        rate=1e-3,
        batch=128,
        momentum=0.0,
        weight_decay=0.01,
        decay_biases=False,
        schedule_name="cosine",
        augment="none",
        views=SHIFTED,
    ),
    Protocol(
        name="stepwise",
        summary="shifts and mirrors: SGD 0.05, tenfold less after 150, 180 and 210 of 240 epochs",
        epochs=240,
        extra_epoch=False,
        rate=0.05,
        batch=64,
        schedule_name="steps",
        drops=(150 / 240, 180 / 240, 210 / 240),
        augment="none",
        views=evolve(SHIFTED, mix="none"),
    ),
    Protocol(
        name=PRETRAIN,
        summary="pretraining without augmentation, 300 epochs; then a linear probe on real images",
        epochs=300,
        extra_epoch=False,
        rate=0.1,
        weight_decay=1e-3,
        schedule_name="cosine",
        augment="none",
        probe=Probe(),
    ),
)
PROTOCOLS: Mapping[str, Protocol] = {p.name: p for p in _EVERY}
"""The core's own, named after what they do. Papers' protocols come with their plugins."""


def protocol(name: str, hooks: Hooks | None = None) -> Protocol:
    """A protocol by name, ``NAME-EPOCHS`` for another E, ``bare-NAME`` without augmentation, views and mixes,
    ``probed-NAME`` with a linear probe after it.

    The core's and those of selected plugins come first, then what an installed plugin brings by an entry point
    ``ddcore.protocols``; it need not be selected, and is asked with its defaults.

    >>> protocol("augmented-300").epochs, protocol("augmented-300").name
    (300, 'augmented-300')
    >>> protocol("bare-augmented-300").augment, protocol("bare-augmented-300").name
    ('none', 'bare-augmented-300')

    Args:
        hooks: of the selected plugins; None: none is.

    Raises:
        OptionError: no such protocol here; it says what brings it, if that is known.
        PluginError: the plugin that brings it is broken, or several bring it.
    """
    stem, _, number = name.rpartition("-")
    if number.isdecimal() and stem:
        return protocol(stem, hooks).for_epochs(int(number))
    if name.startswith(BARE):
        plain = protocol(name.removeprefix(BARE), hooks)
        return evolve(plain, name=f"{BARE}{plain.name}", augment="none", views=None)
    if name.startswith(PROBED):
        plain = protocol(name.removeprefix(PROBED), hooks)
        return evolve(plain, name=f"{PROBED}{plain.name}", probe=plain.probe or Probe())
    found = PROTOCOLS.get(name) if hooks is None else hooks.protocol(name)
    found = found or installed_protocol(name)
    if found is None:
        raise OptionError(_unknown(name, hooks))
    if not isinstance(found, Protocol):
        raise PluginError(
            f"the protocol {name!r} of a plugin is of type {type(found).__name__}: return a ddcore.training.Protocol"
        )
    return found


def stem_of(name: str) -> str:
    """The name that plugins are asked for.

    >>> stem_of("bare-views-small-20")
    'views-small'
    """
    while True:
        stem, _, number = name.rpartition("-")
        shorter = stem if number.isdecimal() and stem else name.removeprefix(BARE).removeprefix(PROBED)
        if shorter == name:
            return name
        name = shorter


def installed_protocol(name: str) -> Any:
    """What the installed plugin with an entry point of this name answers, by its defaults; None where there is none."""
    if (found := discovery.protocol_class(name)) is None:
        return None
    cls, offer = found
    answer = cls().ddcore_protocol(name) if hasattr(cls, "ddcore_protocol") else None
    who = f"{offer.value} of {offer.identity}"
    if answer is None:
        raise PluginError(
            f"{who} is to bring the protocol {name!r} and does not answer it: upgrade {offer.distribution}"
        )
    return answers.recipe(answer, who)


def _unknown(name: str, hooks: Hooks | None) -> str:
    if maker := discovery.bringer(name):
        here = f"no protocol is named {name!r} here, and plugin {maker!r}, which may bring it, is not installed"
        return f"{here}: pip install ddcore-{maker}"
    selected = () if hooks is None else hooks.protocols()
    known = {*PROTOCOLS, *selected, *discovery.installed_protocols(), "auto"}
    return f"no protocol is named {name!r}: {near(name, sorted(known))}"


def auto_protocol(subject: Subject, plugins: Iterable[Plugin] = ()) -> str:
    """What ``--protocol auto`` means: what the first of the selected plugins suggests, in command-line order; else

    * for samples that are no images, ``plain``, or ``bare-quick`` for a learned rate;
    * for labels of views, and static ones that are mixed, ``views``, or ``views-small`` under ``LARGE`` pixels;
    * for vectors ``pretrain-probe``;
    * for images under ``SMALL`` pixels ``quick``: there is no published table to match;
    * for a learned rate ``learned-rate``;
    * else ``augmented``.
    """
    for plugin in plugins:
        if (said := plugin.suggests_protocol(subject)) is not None:
            return said
    if subject.modality != "images":
        return f"{BARE}quick" if subject.learned_rate else "plain"
    if subject.of_views or subject.labels == MIXED:
        return "views" if subject.size >= LARGE else "views-small"
    if subject.labels == VECTORS:
        return PRETRAIN
    if subject.tiny:
        return "quick"
    return "learned-rate" if subject.learned_rate else "augmented"


def subject_of(run: Run, labels: str, *, learned_rate: bool, learned_labels: bool) -> Subject:
    """What students of a run are trained on, as far as a protocol depends on it; ``labels`` is their kind."""
    source = run.source
    return Subject(source.modality, source.size, labels, labels in OF_VIEWS, learned_rate, learned_labels)


def resolved_protocols(run: Run) -> list[Protocol]:
    """What ``--protocol`` means for this run: for the artifact once there is one, else for what will be learned."""
    names = run.config.protocol or ("auto",)
    return [protocol(_auto(run) if name == "auto" else name, run.hooks) for name in names]


def _auto(run: Run) -> str:
    if run.artifact is not None:
        return auto_of(run, run.artifact.labels, run.artifact.learned_rate)
    learns = run.matcher.learns
    learned = bool({"labels", VECTORS} & set(learns)) and run.config.labels is None
    kind = VECTORS if learned and VECTORS in learns else HARD if learned else run.label_kind(run.labeller)
    subject = subject_of(run, kind, learned_rate="rate" in learns, learned_labels=learned)
    return auto_protocol(subject, run.plugins.values())


def auto_of(run: Run, labels: Labels, rate: float | None) -> str:
    """What ``--protocol auto`` means for these labels, and a learned rate if there is one."""
    subject = subject_of(run, labels.kind, learned_rate=rate is not None, learned_labels=labels.kind != HARD)
    return auto_protocol(subject, run.plugins.values())
