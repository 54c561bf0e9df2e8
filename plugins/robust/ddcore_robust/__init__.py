"""Label-robust and augmentation-robust scores (Li et al., DD-Ranking, 2025, arXiv:2505.13300).

How much of an accuracy is the images', once labels and augmentation are taken out of it? With accuracies as fractions,

    HLR = acc(all real images, hard labels) - acc(the set, hard labels)          hard-label recovery, missing still
    IOR = acc(the set, its own recipe) - acc(as many random ones, that recipe)   improvement over random
    LRS = s(w IOR - (1 - w) HLR)
    ARS = s(g (gain over random, augmented) + (1 - g) (gain over random, as they are)),
    s(x) = (e^x - e^-1) / (e - e^-1)

so that scores lie in [0, 1], and s(0) = 0.269 is a set that is worth as many random images and misses nothing.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import attrs
from attrs import frozen
from attrs.validators import and_, ge, le

from ddcore import Arm, Plugin, Row, hookimpl, option

if TYPE_CHECKING:
    from ddcore import FinishedSet, Run

HARD, SOFT, BARE = "hard", "soft", "bare-"
DISTILLED, RANDOM, FULL = "distilled", "random", "full"


def difference(one: float, other: float) -> float:
    """``one - other`` of two accuracies.

    Raises:
        ValueError: they are no fractions: in percent every score would be the same, since e^-27 and e^-40 are both 0.
    """
    if not (0 <= one <= 1 and 0 <= other <= 1):
        raise ValueError(f"accuracies {one:g} and {other:g} are no fractions in [0, 1]: divide percent by 100")
    return one - other


def score(x: float) -> float:
    """(e^x - e^-1) / (e - e^-1): from [-1, 1] onto [0, 1], rising.

    >>> [round(score(x), 5) for x in (-1, 0, 1)]
    [0.0, 0.26894, 1.0]
    """
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))


def label_robust_score(gain: float, missing: float, weight: float = 0.5) -> float:
    """LRS of IOR ``gain`` and HLR ``missing``, both in [-1, 1].

    Args:
        weight: w, of the gain.

    >>> round(label_robust_score(0.05, 0.60), 5), round(label_robust_score(0.1, 0.3), 5)
    (0.16665, 0.22845)
    """
    return score(weight * gain - (1 - weight) * missing)


def augmentation_robust_score(augmented: float, bare: float, weight: float = 0.5) -> float:
    """ARS of the gains over random with augmentation and without it, both in [-1, 1].

    Args:
        weight: gamma, of the first.
    """
    return score(weight * augmented + (1 - weight) * bare)


@frozen(kw_only=True, eq=False)
class Robust(Plugin):
    """Add the rows ``label-robust`` and ``augmentation-robust``, under the first protocol and in the first network."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = (
        "label-robust and augmentation-robust scores: what is left of a gain without labels and augmentation"
    )
    paper: ClassVar[str] = "DD-Ranking: Rethinking the Evaluation of Dataset Distillation, 2025, arXiv:2505.13300"
    role: ClassVar[str] = "evaluator"

    label_weight: float = option(
        0.5,
        help="weight of the gain over random in LRS; the rest is hard-label recovery's",
        symbol="w",
        validator=and_(ge(0), le(1)),
    )
    augment_weight: float = option(
        0.5,
        help="weight of the augmented gain in ARS; the rest is that without augmentation",
        symbol="gamma",
        validator=and_(ge(0), le(1)),
    )
    augment_hard: bool = option(
        True, help="augment students of hard labels in HLR as the protocol says; the authors' code does not"
    )

    @hookimpl
    def ddcore_evaluate(self, run: "Run") -> list[Row]:
        """Two rows, seed by seed from the accuracies of the honest rows and of the same without augmentation."""
        artifact = run.artifact
        assert artifact is not None
        own = HARD if artifact.labels.kind == HARD else SOFT
        rule = own if run.labeller != HARD else HARD
        return [self.label_row(run, artifact, own, rule), self.augmentation_row(run, artifact, own, rule)]

    def label_row(self, run: "Run", artifact: "FinishedSet", own: str, rule: str) -> Row:
        """LRS."""
        arm = run.arm
        full, hard = (a if self.augment_hard else bare(a) for a in (arm(FULL), arm(DISTILLED)))
        rows = run.score([arm(DISTILLED, own), arm(RANDOM, rule), full, hard])
        ours, random, whole, plain = (row.values for row in rows)
        gain, missing = differences(ours, random), differences(whole, plain)
        scores = [label_robust_score(g, m, self.label_weight) for g, m in zip(gain, missing, strict=True)]
        extra = {"gain_over_random": gain, "hard_label_recovery": missing, "label_weight": self.label_weight}
        notes = [] if self.augment_hard else ["students of hard labels see images as they are"]
        return self.row("label-robust", rows[0], scores, [*notes, *unlike(own, rule)], extra)

    def augmentation_row(self, run: "Run", artifact: "FinishedSet", own: str, rule: str) -> Row:
        """ARS; of hard labels where the set's own come with their views, which are an augmentation."""
        notes = unlike(own, rule)
        if artifact.labels.own_views:
            own = rule = HARD
            notes = [f"of hard labels: {artifact.labels.kind} ones are of augmented views and cannot do without"]
        pair = [run.arm(DISTILLED, own), run.arm(RANDOM, rule)]
        rows = run.score([*pair, *map(bare, pair)])
        ours, random, ours_bare, random_bare = (row.values for row in rows)
        augmented, plain = differences(ours, random), differences(ours_bare, random_bare)
        scores = [augmentation_robust_score(a, p, self.augment_weight) for a, p in zip(augmented, plain, strict=True)]
        extra = {"gain_augmented": augmented, "gain_bare": plain, "augment_weight": self.augment_weight}
        return self.row("augmentation-robust", rows[0], scores, notes, extra)

    @staticmethod
    def row(name: str, of: Row, scores: Sequence[float], notes: Sequence[str], extra: dict[str, object]) -> Row:
        """A score as a row, beside the students ``of`` whom it is; what it is made of to six digits."""
        shown = {k: [round(x, 6) for x in v] if isinstance(v, list) else v for k, v in extra.items()}
        metric, note = f"{name} score", "; ".join(notes)
        return attrs.evolve(of, set=name, metric=metric, values=tuple(scores), note=note, extra=shown)


def bare(arm: Arm) -> Arm:
    """The same without augmentation."""
    return arm if arm.protocol.startswith(BARE) else attrs.evolve(arm, protocol=BARE + arm.protocol)


def differences(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Seed by seed."""
    return [difference(a, b) for a, b in zip(one, other, strict=True)]


def unlike(own: str, rule: str) -> list[str]:
    """What is to be said where random images cannot have the set's labels."""
    return (
        []
        if own == rule
        else ["no rule gives random images the set's labels, so theirs are hard: the gain is the labels' too"]
    )
