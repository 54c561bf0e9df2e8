"""Distiller's pipeline of losses, with MI-alpha for layers in between (He et al., SustaiNLP 2021, arXiv:2109.11105).

    L = w_hard L_labels + w_kd L_logits + w_inter sum over layer pairs L_inter + w_soft CE(teacher's classes)

MI-alpha is - I_alpha, a bound on the mutual information of student's and teacher's features that a critic f(s, t) =
<g(s), h(t)> and a baseline a(t), trained along with the student, make tight; alpha trades scatter for saturation.
Features are (B, D): of image stages the map's mean over places, of text stages the first place. Where words are edited,
all this is of a batch and its edited copy together. Shape letters: B rows, D width, K classes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import and_, ge, gt, le
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ddcore import Batch, InputError, Plugin, Seen, Term, hookimpl, option
from ddcore.data import TEXT
from ddcore.training import STAGES, Teaching, seen_of, tapped
from ddcore_mi_alpha.losses import (
    Intermediate,
    Map,
    earth_mover_flow,
    interpolated_bound,
    layer_map,
    logit_mse,
    of_features,
    others_log_mean,
    soft_cross_entropy,
)
from ddcore_mi_alpha.words import Edit, edited

if TYPE_CHECKING:
    from ddcore import Run

__all__ = ["Critic", "MIAlpha", "earth_mover_flow", "edited", "interpolated_bound", "layer_map", "logit_mse"]
__all__ += ["of_features", "others_log_mean", "pooled", "soft_cross_entropy", "stages"]

STAGE = re.compile(r"stage(\d+)")
LOGIT_LOSSES = {"ce": soft_cross_entropy, "mse": logit_mse}


def pooled(feature: Tensor) -> Tensor:
    """A feature (B, D): of maps (B, D, H, W) their mean, of sequences (B, L, D) the first place, of rows the rows."""
    if feature.dim() == 4:
        return feature.mean((2, 3))
    return feature[:, 0] if feature.dim() == 3 else feature


def stages(seen: Seen) -> list[Tensor]:
    """A network's features (B, D), first stage first."""
    numbered = [(int(found[1]), feature) for name, feature in seen.features.items() if (found := STAGE.fullmatch(name))]
    return [pooled(feature) for _, feature in sorted(numbered, key=lambda pair: pair[0])]


def perceptron(width: int, hidden: int, out: int) -> nn.Sequential:
    """Two hidden layers with ReLU."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, out)
    )


def projection(student: int, teacher: int) -> nn.Linear:
    """A linear layer that begins as TextBrewer's: weights of deviation 0.02, no bias."""
    made = nn.Linear(student, teacher)
    nn.init.normal_(made.weight, std=0.02)
    nn.init.zeros_(made.bias)
    return made


class Critic(nn.Module):
    """How well a student's and a teacher's features go together, and the baseline of the teacher's."""

    def __init__(self, student: int, teacher: int, hidden: int, out: int) -> None:
        super().__init__()
        self.student, self.teacher = perceptron(student, hidden, out), perceptron(teacher, hidden, out)
        self.baseline = perceptron(teacher, hidden, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, B), the student along rows, and baseline (B,), of features (B, D) each."""
        return self.student(student) @ self.teacher(teacher).T, self.baseline(teacher)[:, 0]


@frozen(kw_only=True, eq=False)
class MIAlpha(Plugin):
    """Students learn from teachers by a pipeline: a loss of logits, one of layers in between, a map of layers."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "MI-alpha and other losses of layers in between, as a pipeline that a search may choose"
    paper: ClassVar[str] = "Distiller: A Systematic Study of Model Distillation Methods in NLP, arXiv:2109.11105"
    role: ClassVar[str] = "student"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "text", "dense"})
    needs: ClassVar[tuple[str, ...]] = ("teachers", "class_logits")
    whole_batches: ClassVar[bool] = True
    neutral: ClassVar[Mapping[str, object]] = {"weight": 0.0, "logit_weight": 0.0, "label_weight": 1.0}
    tiny: ClassVar[Mapping[str, object]] = {"hidden": 8}

    intermediate: Intermediate = option("mi", help="loss of layers in between")
    weight: float = option(1.0, help="its weight", symbol="w_inter", validator=ge(0))
    alpha: float = option(
        0.9, help="of mi: 1 is steady and saturates, 0 scatters and does not", symbol="alpha", validator=[ge(0), le(1)]
    )
    rows: Literal["student", "teacher"] = option(
        "student", help="of mi: whose features the rows of the bound are; student is the authors', teacher a true bound"
    )
    layers: Map = option(
        "skip", help="map of layers: evenly over the teacher's, its last ones, or all by an earth mover's flow"
    )
    critics: Literal["each", "one"] = option("each", help="of mi: one critic for each pair of layers, or one for all")
    hidden: int = option(512, help="of mi: units of each of a critic's hidden layers", validator=ge(1))
    out: int = option(16, help="of mi: units whose product is the score", validator=ge(1))
    logits: Literal["ce", "mse"] = option("mse", help="loss of logits: soft cross entropy or squared difference")
    logit_weight: float = option(1.0, help="its weight", symbol="w_kd", validator=ge(0))
    temperature: float = option(1.0, help="logits are divided by it", symbol="T", validator=gt(0))
    label_weight: float = option(0.0, help="weight of the labels' own loss", symbol="w_hard", validator=ge(0))
    pseudo_weight: float = option(
        0.0, help="weight of the cross entropy with the teachers' classes", symbol="w_soft", validator=ge(0)
    )

    edit_share: float = option(
        0.0,
        help="of text: share of a sentence's words that are edited in a copy of it, which is learned from too; 0: no copy",
        symbol="aug_p",
        validator=and_(ge(0), le(1)),
    )
    edit: Edit = option("swap", help="of text: what becomes of those words")

    def taps(self) -> tuple[str, ...]:
        """All stages."""
        return (STAGES,) if self.weight else ()

    def label_factor(self) -> float:
        """The labels' own weight; half of it is the copy's."""
        return self.label_weight * (0.5 if self.edit_share else 1.0)

    @hookimpl
    def ddcore_student_modules(self, seen: Seen, teachers: Teaching, run: "Run") -> nn.Module | None:
        """For each teacher and pair of layers a critic, or a projection where widths differ.

        Raises:
            InputError: words are to be edited, and there are none.
        """
        if self.edit_share and run.source.modality != TEXT:
            raise InputError(f"--mi-alpha.edit-share edits words, and these are {run.source.modality}: leave it out")
        if not self.weight:
            return None
        return nn.ModuleList(
            [
                self.bridges(pairs_of(seen, other, self.layers, vote.name))
                for vote, other in zip(teachers.votes, teachers.seen, strict=True)
            ]
        )

    def bridges(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> nn.ModuleList:
        """What stands between a student and one teacher, a module for each pair of features.

        Raises:
            InputError: one critic for pairs of different widths.
        """
        widths = [(s.shape[1], t.shape[1]) for s, t in pairs]
        if self.intermediate != "mi":
            return nn.ModuleList([nn.Identity() if s == t else projection(s, t) for s, t in widths])
        if self.critics == "each":
            return nn.ModuleList([Critic(s, t, self.hidden, self.out) for s, t in widths])
        if len(set(widths)) > 1:
            said = ", ".join(f"{s} and {t}" for s, t in widths)
            raise InputError(f"one critic cannot read layers of widths {said}: leave out --mi-alpha.critics one")
        return nn.ModuleList([Critic(*widths[0], self.hidden, self.out)] * len(widths))

    @hookimpl
    def ddcore_student_loss(
        self,
        batch: Batch,
        network: nn.Module,
        seen: Seen,
        teachers: Teaching,
        modules: nn.Module | None,
        generator: Generator,
    ) -> Term:
        """The teachers' part of the formula above; of several teachers layers are weighted by their votes."""
        parts = []
        asked: Teaching | Both = teachers
        if self.edit_share:
            copy = edited(batch.inputs, self.edit_share, self.edit, generator)
            with tapped(network, self.taps()) as found:
                own = seen_of(network(copy), found)
            if self.label_weight:
                wrong = F.cross_entropy(own.logits.to(seen.logits), batch.targets["class"])
                parts.append(self.label_weight / 2 * wrong)
            seen, asked = joined(seen, own), Both(teachers, Teaching(teachers.votes, copy, self.taps()))
        if self.logit_weight:
            loss = LOGIT_LOSSES[self.logits]
            parts.append(self.logit_weight * loss(seen.logits, asked.logits, self.temperature))
        if self.pseudo_weight:
            parts.append(self.pseudo_weight * F.cross_entropy(seen.logits, asked.logits.argmax(1)))
        if modules is not None and (len(seen.logits) > 1 or self.intermediate != "mi"):
            parts.append(self.weight * self.of_layers(seen, asked, modules))
        value = torch.stack(parts).sum() if parts else seen.logits.new_zeros(())
        return Term("mi-alpha", value, labels=self.label_factor())

    def of_layers(self, seen: Seen, teachers: "Teaching | Both", modules: nn.Module) -> Tensor:
        """The loss of layers in between: a sum over pairs, of all pairs by their flow;
        of several teachers by their votes."""
        total = seen.logits.new_zeros(())
        for vote, other, bridges in zip(teachers.votes, teachers.seen, modules.children(), strict=True):
            assert isinstance(bridges, nn.ModuleList)
            pairs = zip(pairs_of(seen, other, self.layers, vote.name), bridges, strict=True)
            losses = torch.stack([self.of_pair(one, two, bridge) for (one, two), bridge in pairs])
            if self.layers == "emd":
                losses = losses * earth_mover_flow(losses.detach().view(len(stages(seen)), -1)).flatten()
            total = total + vote.weight * losses.sum()
        return total

    def of_pair(self, student: Tensor, teacher: Tensor, bridge: nn.Module) -> Tensor:
        """The loss of one pair of features (B, D), with its critic or projection; a scalar."""
        if self.intermediate != "mi":
            return of_features(bridge(student), teacher, self.intermediate)
        scores, baseline = bridge(student, teacher)
        return -interpolated_bound(scores if self.rows == "student" else scores.T, baseline, self.alpha)


def joined(one: Seen, other: Seen) -> Seen:
    """What a network made of two batches, as if of one with the rows of both."""
    features = {
        name: torch.cat([tensor, other.features[name]])
        for name, tensor in one.features.items()
        if name in other.features
    }
    return Seen(torch.cat([one.logits, other.logits.to(one.logits)]), features)


class Both:
    """The teachers' answers to a batch and to its copy."""

    def __init__(self, batch: Teaching, copy: Teaching) -> None:
        self.votes = batch.votes
        self._parts = batch, copy

    @property
    def logits(self) -> Tensor:
        """(2 B, K), weighted and added up."""
        batch, copy = self._parts
        return torch.cat([batch.logits, copy.logits.to(batch.logits)])

    @property
    def seen(self) -> tuple[Seen, ...]:
        """What each makes of both."""
        batch, copy = self._parts
        return tuple(joined(one, other) for one, other in zip(batch.seen, copy.seen, strict=True))


def pairs_of(seen: Seen, other: Seen, how: Map, teacher: str) -> list[tuple[Tensor, Tensor]]:
    """The features of a student and of one of its teachers that are compared.

    Raises:
        InputError: ``last`` of a teacher with fewer layers than the student.
    """
    own, theirs = stages(seen), stages(other)
    if how == "last" and len(own) > len(theirs):
        have = f"the student has {len(own)} layers and its teacher {teacher} {len(theirs)}"
        raise InputError(f"{have}, so there are no last {len(own)}: leave out --mi-alpha.layers last")
    return [(own[i - 1], theirs[j - 1]) for i, j in layer_map(len(own), len(theirs), how)]
