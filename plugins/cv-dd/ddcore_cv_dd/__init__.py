"""CV-DD: dataset distillation by committee voting (arXiv:2501.07575).

Images that are recovered from one teacher carry its bias. CV-DD gives each slot (one image of each class) a few
teachers of a committee, and lets their losses weigh as much as data that were distilled from each teacher alone are
worth to a student:

    L(x) = sum_j w_j L_j(x),    w_j = exp(alpha_j / T) / sum_k exp(alpha_k / T)

with L_j the matcher's loss under teacher j, alpha_j the accuracy in percent that a student reaches on teacher j's data
(its *prior*), T = 5. The whole committee labels, its logits weighted likewise with T = 10, and every teacher answers by
the batch statistics of the 8 images that it sees together, not by those that it remembers of the real data
(batch-specific soft labels). Slots begin at mosaics of real patches of medium difficulty. With one teacher it is the
baseline that the paper calls SRe2L++.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import attrs
import torch
from attrs import Attribute, frozen
from attrs.validators import ge, gt, in_, optional
from torch import Tensor

from ddcore import Plugin, Task, Vote, hookimpl, option
from ddcore.composing import PER_VIEW
from ddcore.errors import InputError, OptionError
from ddcore.images import MOSAICS, crop_boxes, of_slot, patches_a_side
from ddcore.labels import Labels
from ddcore.runs import for_each_class
from ddcore.storage import kept
from ddcore.training import Protocol, members_of
from ddcore.training import label_by_teachers as label
from ddcore_cv_dd.medium import SCALE, middle_patches, mosaics
from ddcore_cv_dd.protocols import PROTOCOLS
from ddcore_cv_dd.voting import Turns, drawn, groups_in_order, highest, vote_weights, way_of

if TYPE_CHECKING:
    from ddcore import Run

__all__ = ["CVDD", "drawn", "groups_in_order", "highest", "middle_patches", "mosaics", "vote_weights", "way_of"]

MEDIUM, BSSL = "medium", "bssl"
TURNS: tuple[Turns, ...] = ("auto", "fixed", "turns", "random")
Prior = Literal["auto", "given", "teacher", "equal"]


def percentages(instance: object, attribute: "Attribute[Any]", value: Sequence[float]) -> None:
    """Refuse what is no accuracy in percent.

    Raises:
        ValueError: outside 0 to 100, or fractions, whose votes would all weigh the same.
    """
    if not all(0 <= prior <= 100 for prior in value):
        raise ValueError("it must be accuracies from 0 to 100 percent")
    if value and max(value) <= 1:
        raise ValueError("these are fractions, whose votes would all weigh the same: give percent, 64 for 0.64")


@frozen(kw_only=True, eq=False)
class CVDD(Plugin):
    """Let a committee recover and label, each teacher as far as its data are worth something."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = (
        "teachers vote by how good their own data are, and label by the statistics of what they see"
    )
    paper: ClassVar[str] = "Dataset Distillation via Committee Voting, arXiv:2501.07575"
    role: ClassVar[str] = "enhancement"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    needs: ClassVar[tuple[str, ...]] = ("teachers",)
    initializers: ClassVar[tuple[str, ...]] = (MEDIUM,)
    of_real: ClassVar[Mapping[str, str]] = {MEDIUM: "patches cut out of real images, resized and stitched"}
    labellers: ClassVar[tuple[str, ...]] = (BSSL,)
    label_kinds: ClassVar[Mapping[str, str]] = {BSSL: PER_VIEW}
    neutral: ClassVar[Mapping[str, object]] = {"members": None, "prior": "equal"}
    tiny: ClassVar[Mapping[str, object]] = {"pool": 8, "crops": 2}
    presets: ClassVar[str | None] = "presets.toml"

    members: int | None = option(
        2,
        help="teachers that vote in a slot, or all where there are fewer; none: all",
        symbol="N",
        validator=optional(ge(1)),
    )
    turns: Turns = option(
        "auto",
        help="who votes in a slot: the same in all, each group of teachers in turn, or one at random; auto: by the number of slots",
        validator=in_(TURNS),
    )
    fixed: tuple[int, ...] = option(
        (),
        help="who votes in every slot, by number from 1 in the order of --teachers.networks; none: the highest priors",
    )
    prior: Prior = option(
        "auto", help="where votes' weights come from; auto: --cv-dd.priors if given, else how good the teachers are"
    )
    priors: tuple[float, ...] = option(
        (),
        help="for each teacher: accuracy of a student on data distilled with it alone, repeatable",
        symbol="alpha",
        unit="percent",
        validator=percentages,
    )
    temperature: float = option(
        5.0, help="of votes while images are recovered", symbol="T_v", unit="percent", validator=gt(0)
    )
    label_temperature: float = option(10.0, help="of votes for labels", unit="percent", validator=gt(0))
    factor: int | None = option(
        None,
        help=f"patches a side of an initial image; none: 1 for images below {MOSAICS} pixels, else 2",
        validator=optional(ge(1)),
    )
    pool: int = option(300, help="random images of a class that patches are cut from", unit="images", validator=ge(1))
    crops: int = option(5, help="random patches of each of them, the likeliest of which may be kept", validator=ge(1))

    def __attrs_post_init__(self) -> None:
        """Refuse to weigh by priors that are not there.

        Raises:
            ValueError: says what to give.
        """
        if self.prior == "given" and not self.priors:
            raise ValueError("--cv-dd.prior given needs --cv-dd.priors, one for each teacher")

    # ---- votes -------------------------------------------------------------------------------------------------------

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_teachers(self, purpose: str, task: Task | None, run: "Run") -> list[Vote]:
        """The slot's teachers; the whole committee for labels, and for whoever asks without a task."""
        priors = self._priors(run)
        if purpose != "match" or task is None:
            return self._votes(range(len(priors)), priors, self.label_temperature, run)
        if task.index == 0:
            self._tell(priors, run)
        return self._votes(self._voters(task.slot, priors, run), priors, self.temperature, run)

    def _votes(self, voters: Sequence[int], priors: Sequence[float], temperature: float, run: "Run") -> list[Vote]:
        own = torch.tensor([priors[j] for j in voters], dtype=torch.float64)
        weights, names = vote_weights(own, temperature).tolist(), run.teachers.names
        return [Vote(run.teachers.network(j), weight, names[j]) for j, weight in zip(voters, weights, strict=True)]

    def _voters(self, slot: int, priors: tuple[float, ...], run: "Run") -> tuple[int, ...]:
        """Which teachers vote in a slot, whatever block of classes is asked for."""
        count = len(priors)
        members = min(self.members or count, count)
        groups = groups_in_order(count, members)
        way = "fixed" if self.fixed and self.turns == "auto" else way_of(self.turns, run.config.ipc, len(groups))
        if way == "random":
            return drawn(count, members, run.generator("cv-dd", "voters", slot))
        if way == "turns":
            return groups[slot % len(groups)]
        return self._fixed(count) if self.fixed else highest(priors, members)

    def _fixed(self, count: int) -> tuple[int, ...]:
        if len(set(self.fixed)) < len(self.fixed) or not all(1 <= number <= count for number in self.fixed):
            raise OptionError(
                f"--cv-dd.fixed is {', '.join(map(str, self.fixed))}, and there are {count} teachers: give numbers from 1 to "
                f"{count}, each once"
            )
        return tuple(sorted(number - 1 for number in self.fixed))

    def _priors(self, run: "Run") -> tuple[float, ...]:
        """Of each teacher, in percent."""
        count = len(members_of(run))
        if self.prior == "equal":
            return (0.0,) * count
        if self.prior == "teacher" or not self.priors:
            return tuple(100 * accuracy for accuracy in run.teachers.accuracies)
        if len(self.priors) != count:
            raise OptionError(
                f"--cv-dd.priors are {len(self.priors)} and there are {count} teachers: give one for each of --teachers.networks, "
                "or --cv-dd.prior teacher or equal"
            )
        return self.priors

    def _tell(self, priors: Sequence[float], run: "Run") -> None:
        given = self.priors and self.prior != "teacher"
        if given or self.prior == "equal" or len(priors) == 1:
            return
        each = ", ".join(f"{name} {prior:.1f}" for name, prior in zip(run.teachers.names, priors, strict=True))
        run.say(
            f"cv-dd: the teachers' own accuracies on training images stand in for their students' ({each} percent): "
            "--cv-dd.priors gives those"
        )

    # ---- labels ------------------------------------------------------------------------------------------------------

    @hookimpl
    def ddcore_label(self, name: str, images: Tensor, classes: Tensor, run: "Run") -> Labels | None:
        """Labels of views, by the statistics of the images that teachers see together."""
        return label(PER_VIEW, images, classes, by_batch_statistics(run)) if name == BSSL else None

    # ---- initial images ----------------------------------------------------------------------------------------------

    @hookimpl
    def ddcore_initialize(self, name: str, classes: Tensor, task: Task, run: "Run") -> Tensor | None:
        """Mosaics; a task that asks for fewer than ``--ipc`` of a class gets those of its slot."""
        if name != MEDIUM:
            return None
        return for_each_class(classes, lambda cls, count: self._images(cls, count, task.slot, run))

    def _images(self, cls: int, count: int, slot: int, run: "Run") -> Tensor:
        total, which, _ = of_slot(count, slot, run.config.ipc)
        size = run.source.size
        side = size // self.patches_a_side(run)
        return mosaics(self._patches(cls, total, run), run.real.train.inputs, total, which, side=side, size=size)

    def _patches(self, cls: int, total: int, run: "Run") -> dict[str, Tensor]:
        """Those of ``total`` images of a class; kept in the run's folder, since slots share them."""
        key = {"class": cls, "images": total, "name": run.real.classes[cls], "seed": run.seed}
        name, made = f"class-{cls:04d}-{total}", partial(self._found, cls, total, run)
        return kept(run.place, "cv-dd", key, made, note=run.warn, name=name)

    def _found(self, cls: int, total: int, run: "Run") -> dict[str, Tensor]:
        size, factor, there = run.source.size, self.patches_a_side(run), run.real.counts()[cls]
        needed = total * factor**2
        pool = min(self.pool, max(there, needed))  # a class of fewer images gives several patches of each
        if pool < needed:
            raise InputError(
                f"{total} images of {factor} x {factor} patches take {needed} images of class {run.real.classes[cls]!r}, one a patch, "
                f"and {pool} of {there} are looked at: raise --cv-dd.pool, which is {self.pool}, or lower --ipc or "
                "--cv-dd.factor, or give --init real"
            )
        rows = run.real.choose(cls, pool, run.generator("cv-dd", "pool", cls))
        boxes = crop_boxes(pool, self.crops, (size, size), SCALE, run.generator("cv-dd", "crops", cls))
        look = {"side": size // factor, "size": size}
        return middle_patches(run.real.train.inputs, rows, boxes, cls, needed, run.votes("label"), **look)

    def patches_a_side(self, run: "Run") -> int:
        """For images of the run's size."""
        return patches_a_side(self.factor, run.source.size, "--cv-dd.factor")


def by_batch_statistics(run: "Run") -> "Run":
    """The run as one whose ``--labels`` are per-view and whose ``--views.statistics`` are the batch's;
    itself it stays as it is."""
    run.teachers  # noqa: B018  made once, for all copies
    asked: Any = copy(run)
    asked.config = attrs.evolve(run.config, labels=PER_VIEW)
    asked.options = {**run.options, "views": attrs.evolve(run.options["views"], statistics="batch")}
    return cast("Run", asked)
