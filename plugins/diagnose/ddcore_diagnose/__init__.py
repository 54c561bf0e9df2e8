"""Diagnostics of a distilled set: what its accuracy does not say.

* *Does the loss rank sets as students do?* Spearman's rho of the matcher's loss and the trained accuracy, over random
  subsets of real images: a method whose loss does not rank sets optimises something else (Hard Truths about Soft
  Labels, CVPR 2026, arXiv:2604.18811).
* *Redundancy*: students of one half of the set, of the other, and of as many random images.
* *Leakage*: how often the nearest real image of a distilled one is a train image rather than a held-out one. Where the
  set holds nothing of its train images in particular, these and held-out ones of a class are exchangeable, and the
  share is n_train / (n_train + n_held_out), exactly.
* *Membership*: an attacker who sees a student's loss on an image says whether it was in the data; the loss against a
  threshold (Yeom, Giacomelli, Fredrikson and Jha, Privacy Risk in Machine Learning, CSF 2018, arXiv:1709.01604).
* *Gaps* between classes, and between groups that a file names; and *calibration*.

Each as a row beside the same of the honest rows. Shape letters: N images, M samples, D pixels, K classes, G groups.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
from attrs import frozen
from attrs.validators import ge
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore import Answers, Arm, InputError, Plugin, Row, Samples, StudentData, hookimpl, option
from ddcore.labels import HardLabels, Labels, SoftLabels
from ddcore.networks import logits
from ddcore.storage import Place
from ddcore.training import FETCHED_AT_ONCE
from ddcore_diagnose.measures import accuracy_table, auc, caught, nearest, odds_gaps, rank_correlation, spread

if TYPE_CHECKING:
    from ddcore import Run

HARD, SOFT = "hard", "soft"
DISTILLED, RANDOM, FULL = "distilled", "random", "full"
SUBSET, FIRST, SECOND, RANDOM_HALF = "subset", "first-half", "second-half", "random-half"
OF_TRAIN = (DISTILLED, FULL)
"""Sets that every train image has a part in: a membership attack asks about train images; of others about their own."""


# ---- what is asked of data -------------------------------------------------------------------------------------------


def losses(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy of each image's class, (M,) float64 on the CPU; infinite where the network answers nonsense.

    In float32 all losses below 1e-7 are 0, so that those who know their members best would seem to know them all alike.
    """
    output = logits(network, images).double().cpu()
    return F.cross_entropy(output, classes.cpu(), reduction="none").nan_to_num(nan=math.inf)


def losses_of(network: nn.Module, samples: Samples, index: Tensor) -> Tensor:
    """The same of some samples, a part at a time."""
    parts = index.split(FETCHED_AT_ONCE)  # type: ignore[no-untyped-call]
    return torch.cat([losses(network, samples.inputs(part), samples.labels[part]) for part in parts])


def membership(inside: Tensor, outside: Tensor) -> dict[str, Tensor]:
    """What the attack finds by the losses of members and of others: members are thought to have the smaller ones."""
    return {
        "membership_auc": torch.tensor(auc(-inside, -outside), dtype=torch.float64),
        "membership_caught": torch.tensor(caught(-inside, -outside), dtype=torch.float64),
    }


def halves(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of two disjoint parts with as many of each class, alternately; of an odd number the last is left out.

    >>> halves(torch.tensor([0, 0, 1, 1, 1]))
    (tensor([0, 2]), tensor([1, 3]))
    """
    rows = [(classes == c).nonzero()[:, 0] for c in classes.unique().tolist()]
    pairs = [of_class[: len(of_class) // 2 * 2] for of_class in rows]
    return torch.cat([pair[::2] for pair in pairs]), torch.cat([pair[1::2] for pair in pairs])


def labels_at(labels: Labels, rows: Tensor) -> Labels:
    """Labels of some rows; of kinds that are tied to whole sets the classes."""
    classes = labels.classes[rows]
    if isinstance(labels, SoftLabels):
        return attrs.evolve(labels, logits=labels.logits[rows], classes=classes)
    return HardLabels(classes, labels.class_count)


def kind_of_halves(labels: Labels) -> str:
    """Under which labels halves are trained on: the set's own where a row has its own."""
    return SOFT if isinstance(labels, SoftLabels) else HARD


def train_share(images: Tensor, classes: Tensor, run: "Run") -> tuple[float, float]:
    """The share of images whose nearest real image of their class is a train image, and what exchangeability makes it.

    Args:
        images: (N, C, H, W) normalised.
        classes: (N,) int64.

    Returns:
        Both in [0, 1]; images of a class without held-out ones are left out. Equal distances count half.
    """
    nearer, due, train, held = [], [], run.real.train, run.real.test
    for cls in classes.unique().tolist():
        inside, outside = train.of_class(cls), held.of_class(cls)
        if not len(outside):
            continue
        own = images[(classes == cls).to(images.device)].flatten(1)
        near, far = (nearest(own, part.inputs(rows).flatten(1)) for part, rows in ((train, inside), (held, outside)))
        nearer.append(((near < far).double() + 0.5 * (near == far).double()).cpu())
        due.append(torch.full((len(own),), len(inside) / (len(inside) + len(outside)), dtype=torch.float64))
    return float(torch.cat(nearer).mean()), float(torch.cat(due).mean())


def read_groups(file: str, count: int) -> tuple[Tensor, list[str]]:
    """The group of each test image, (M,) int64, and the groups' names, from a file with a name a line.

    Raises:
        InputError: it names another number of images.
    """
    words = [line.strip() for line in Place.at(file).read_bytes().decode().splitlines() if line.strip()]
    if len(words) != count:
        got = f"{file} names the groups of {len(words)} images where {count} are scored"
        raise InputError(f"{got}: write a line for each of them, in their order (--diagnose.groups)")
    names = sorted(set(words))
    return torch.tensor([names.index(word) for word in words]), names


# ---- the plugin ------------------------------------------------------------------------------------------------------


@frozen(kw_only=True, eq=False)
class Diagnose(Plugin):
    """Rows of diagnostics, under the first protocol and in the first network."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "does the loss rank sets, is half enough, what leaks, who is left behind, is it calibrated"
    paper: ClassVar[str] = "Hard Truths about Soft Labels, CVPR 2026, arXiv:2604.18811; and each measure's own"
    role: ClassVar[str] = "evaluator"
    student_sets: ClassVar[tuple[str, ...]] = (SUBSET, FIRST, SECOND, RANDOM_HALF)
    tiny: ClassVar[Mapping[str, object]] = {"subsets": 3, "draws": 1, "members": 6}

    subsets: int = option(
        20, help="random subsets on which losses and accuracies are ranked, a student each; 0: none", validator=ge(0)
    )
    draws: int = option(3, help="steps over which a subset's loss is averaged", unit="steps", validator=ge(1))
    halves: bool = option(True, help="train students on halves of the set")
    leakage: bool = option(True, help="look for the nearest real images")
    members: int = option(
        2000, help="images that a membership attack is tried on, of each side; 0: none", unit="images", validator=ge(0)
    )
    groups: str | None = option(
        None, help="file with the name of each test image's group, a line each: gaps between groups"
    )

    @hookimpl
    def ddcore_student_data(self, name: str, student: int, run: "Run") -> StudentData | None:
        """A random subset of real images, or half of the set."""
        if name == SUBSET:
            return self._random(run, "subset", student, [run.config.ipc] * len(run.source.classes))
        if name not in self.student_sets or run.artifact is None:
            return None
        labels, whole = run.artifact.labels, run.artifact.nbytes
        first, second = halves(labels.classes)
        if name == RANDOM_HALF:
            counts = labels.classes[first].bincount(minlength=len(run.source.classes)).tolist()
            return self._random(run, "half", student, counts, soft=kind_of_halves(labels) == SOFT)
        rows = first if name == FIRST else second
        own = labels_at(labels, rows)
        images = run.artifact.images(rows).to(run.device, run.dtype)
        sizes = {"images": whole["images"] * len(rows) // len(labels), "labels": own.payload_bytes, "models": 0}
        return StudentData(images, own, {**sizes, "total": sum(sizes.values())})

    @staticmethod
    def _random(run: "Run", what: str, student: int, counts: Sequence[int], soft: bool = False) -> StudentData:
        drawn = run.generator("diagnose", what, student)
        counts = [min(count, there) for count, there in zip(counts, run.real.counts(), strict=True)]
        index = torch.cat([run.real.choose(cls, count, drawn) for cls, count in enumerate(counts) if count])
        images, classes = run.real.train.inputs(index), run.real.train.labels[index]
        if soft and run.labeller != HARD:
            return StudentData(images, run.label(images, classes.to(run.device)))
        return StudentData(images, HardLabels(classes, len(run.source.classes)))

    @hookimpl
    def ddcore_examine(
        self, network: nn.Module, arm: Arm, data: StudentData, answers: Answers, run: "Run"
    ) -> dict[str, Tensor] | None:
        """Of subsets the matcher's loss; of sets what an attacker and groups see."""
        if arm.set == SUBSET:
            return self._loss_of(data, run)
        if arm.set in self.student_sets:
            return None
        found = self._membership(network, arm, data, run) if self.members else {}
        return found | (self._groups(answers, len(run.source.classes)) if self.groups else {})

    def _loss_of(self, data: StudentData, run: "Run") -> dict[str, Tensor]:
        images, classes = data.images, data.labels.classes
        assert isinstance(images, Tensor)
        with torch.enable_grad():
            values = [run.matching_loss(images, classes, step) for step in range(self.draws)]
        there = [value for value in values if value is not None]
        return {"loss": torch.tensor(there, dtype=torch.float64).mean()} if there else {}

    def _membership(self, network: nn.Module, arm: Arm, data: StudentData, run: "Run") -> dict[str, Tensor]:
        outside = losses_of(network, run.real.test, self._some(len(run.real.test), "outside", run))
        if arm.set in OF_TRAIN or not isinstance(data.images, Tensor):
            inside = losses_of(network, run.real.train, self._some(len(run.real.train), "inside", run))
        else:
            rows = self._some(len(data.images), "inside", run)
            inside = losses(network, data.images[rows.to(data.images.device)], data.labels.classes[rows])
        return membership(inside, outside)

    def _some(self, count: int, side: str, run: "Run") -> Tensor:
        return torch.randperm(count, generator=run.generator("diagnose", "members", side))[: self.members]

    def _groups(self, answers: Answers, classes: int) -> dict[str, Tensor]:
        assert self.groups is not None
        of, names = read_groups(self.groups, len(answers.labels))
        given = answers.right, answers.labels, of, classes, len(names)
        in_group = torch.stack([answers.right[of == g].double().mean() for g in range(len(names))])
        assert accuracy_table(*given).shape == (len(names), classes)
        return {"group_accuracy": in_group, "odds_gaps": odds_gaps(*given)}

    @hookimpl
    def ddcore_evaluate(self, run: "Run") -> list[Row]:
        """A row for each diagnostic and each of distilled, random and full that it is of."""
        assert run.artifact is not None
        own = HARD if run.artifact.labels.kind == HARD else SOFT
        rule = own if run.labeller != HARD else HARD
        honest = run.score([run.arm(DISTILLED, own), run.arm(RANDOM, rule), run.arm(FULL)])
        rows = [row for of in honest for row in self._rows_of(of, run)]
        rows += self._leakage(honest[0], run) if self.leakage else []
        rows += self._halves(honest[:2], run) if self.halves else []
        return rows + (self._ranking(run) if self.subsets > 1 else [])

    def _rows_of(self, of: Row, run: "Run") -> list[Row]:
        """Calibration, class gaps, membership and groups of one honest row."""
        classes = torch.tensor(_numbers(of.extra["class_accuracy"]), dtype=torch.float64)
        mean = classes.nanmean(0)
        worst = int(mean.nan_to_num(nan=math.inf).argmin())
        told = {"worst_class": run.source.classes[worst], "its_accuracy": round(float(mean[worst]), 6)}
        rows = [
            *measured(of, "calibration", "expected calibration error", of.extra["calibration_error"]),
            *measured(of, "classes", "gap between classes", spread(classes, 1).tolist(), **told),
        ]
        attack = of.extra.get("diagnose.membership_auc")
        if attack is not None:
            low = {"caught_at_1_percent_false_alarms": of.extra["diagnose.membership_caught"]}
            rows += measured(of, "membership", "membership attack's AUC", attack, **low)
        found = of.extra.get("diagnose.group_accuracy")
        if found is not None and self.groups is not None:
            names = read_groups(self.groups, len(run.source.test))[1]
            table, odds = (
                torch.tensor(_numbers(n), dtype=torch.float64) for n in (found, of.extra["diagnose.odds_gaps"])
            )
            means = {name: round(float(value), 6) for name, value in zip(names, table.mean(0), strict=True)}
            apart = {"odds_gap_max": _whole(odds.nan_to_num(nan=0).amax(1)), "odds_gap_mean": _whole(odds.nanmean(1))}
            rows += measured(of, "groups", "gap between groups", spread(table, 1).tolist(), groups=means, **apart)
        return rows

    def _leakage(self, of: Row, run: "Run") -> list[Row]:
        assert run.artifact is not None
        images = run.artifact.images().to(run.device, run.dtype)
        share, due = train_share(images, run.artifact.labels.classes, run)
        excess = (share - due) / (1 - due)
        note = f"{due:.3f} where the set holds nothing of its train images in particular; 1 where it is copies of them"
        extra = {"expected": round(due, 6), "excess": round(excess, 6)}
        rows = measured(of, "leakage", "share nearest to a train image", [share], **extra)
        return [attrs.evolve(row, note=note, seconds=0.0, steps=0) for row in rows]

    def _halves(self, wholes: Sequence[Row], run: "Run") -> list[Row]:
        assert run.artifact is not None
        labels = run.artifact.labels
        if int(labels.classes.bincount()[labels.classes.unique()].min()) < 2:
            run.say("diagnose: a class has one image, so the set has no halves")
            return []
        kind = kind_of_halves(labels)
        if kind == HARD:
            wholes = run.score([run.arm(DISTILLED), run.arm(RANDOM)])
        rule = kind if run.labeller != HARD else HARD
        rows = run.score([run.arm(FIRST, kind), run.arm(SECOND, kind), run.arm(RANDOM_HALF, rule)])
        against = [wholes[0], wholes[0], wholes[1]]
        shares = [_mean(row.values) / max(_mean(whole.values), 1e-12) for row, whole in zip(rows, against, strict=True)]
        return [
            attrs.evolve(row, extra={**row.extra, "share_of_whole": round(share, 6)})
            for row, share in zip(rows, shares, strict=True)
        ]

    def _ranking(self, run: "Run") -> list[Row]:
        matchers = [plugin for plugin in run.plugins.values() if hasattr(plugin, "ddcore_matching_loss")]
        if not matchers:
            run.say("diagnose: no matcher with a loss is selected, so nothing is ranked by one")
            return []
        (of,) = run.score([run.arm(SUBSET)], self.subsets)
        found = of.extra.get("diagnose.loss")
        if found is None or None in found:
            run.say("diagnose: the matcher has no loss of given images, so nothing is ranked by it")
            return []
        rho = rank_correlation(torch.tensor(found), torch.tensor(of.values))
        note = "1: the smaller loss always means the better students, 0.5: it says nothing, 0: it means the worse ones"
        extra = {
            "rank_correlation": None if math.isnan(rho) else round(rho, 6),
            "losses": found,
            "accuracies": [round(value, 6) for value in of.values],
        }
        agreement = 0.5 if math.isnan(rho) else (1 - rho) / 2
        metric = "agreement of loss and accuracy"
        return [attrs.evolve(of, set="ranking by loss", metric=metric, values=(agreement,), note=note, extra=extra)]


def measured(of: Row, what: str, metric: str, values: Sequence[float | None], **extra: Any) -> list[Row]:
    """A diagnostic of an honest row, of the seeds that have one, the smaller the better; none where none has."""
    known = tuple(value for value in values if value is not None and not math.isnan(value))
    row = attrs.evolve(
        of, set=f"{what} of {of.set}", metric=metric, better="smaller", values=known, note="", extra=extra
    )
    return [row] if known else []


def _numbers(rows: Sequence[Sequence[float | None]]) -> list[list[float]]:
    return [[math.nan if value is None else value for value in row] for row in rows]


def _whole(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
