"""DistillNearest and DistillWeighted: students of networks of other tasks (ICCV 2023, arXiv:2304.12314).

Few images are labelled. Each source s (a network of another task) gets a score e_s, how similar its features are to the
labels, and a linear head h_s on its frozen features, fitted on the labelled images. The student f then descends

    L = lambda mean_labelled CE(f(x), y) + (1 - lambda) mean_all T^2 KL( sum_s alpha_s softmax(h_s(phi_s(x)) / T) ||
    softmax(f(x) / T) )

with alpha_s = max(e_s, 0)^p / sum: p = 0 is the plain ensemble, p large, or ``nearest``, the best source alone. The
metrics are in ``similarity``, the heads in ``heads``, the sources in ``sources``.

Shape letters: N images, B rows, C classes, S sources.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal
from weakref import WeakSet

import torch
from attrs import frozen
from attrs.validators import and_, deep_iterable, ge, gt, instance_of, le, optional
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore import Batch, InputError, Plugin, Samples, Term, hookimpl, option
from ddcore_distill_weighted.heads import Head, chosen_l2, head_on
from ddcore_distill_weighted.similarity import (
    cka,
    dds,
    h_score,
    leep,
    linear_probe,
    nce,
    nearest_neighbour,
    one_hot,
    parc,
    principal,
    rsa,
)
from ddcore_distill_weighted.sources import Source, fetched, opened

if TYPE_CHECKING:
    from ddcore import Run

NAME = "distill-weighted"
Metric = Literal["parc", "rsa", "cka", "dds", "leep", "nce", "hscore", "1nn", "logistic"]
OF_REFERENCE, OF_PROBABILITIES = ("rsa", "dds"), ("leep", "nce")
A_DIRECTION = 4
"""Images that a direction of PCA stands for, at least: n - 1 of them, standardised,
are equally far apart whatever the features."""
PROBE_L2 = 1e-2
_said: WeakSet["Run"] = WeakSet()


# ---- the maths -------------------------------------------------------------------------------------------------------


def source_weights(scores: Tensor, power: float, nearest: bool = False) -> Tensor:
    """alpha_s = r_s^p / sum r^p of r = max(e, 0) / max(e), so that they do not depend on the scores' unit; (S,), sum 1.

    All equal for p = 0, and where no score is above 0.

    Args:
        scores: (S,) float, finite, higher is better.
        power: p >= 0.
        nearest: all weight on the best, the first of equally good ones.

    >>> source_weights(torch.tensor([3.0, 1.0, -2.0]), 2.0)
    tensor([0.9000, 0.1000, 0.0000])
    """
    if nearest:
        return F.one_hot(scores.argmax(), len(scores)).to(scores)
    kept = scores.clamp(min=0)
    if not (kept > 0).any():
        return torch.full_like(scores, 1 / len(scores))
    raised = (kept / kept.max()) ** power
    return raised / raised.sum()


def mixture(logits: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """sum_s alpha_s softmax(z_s / T), (B, C), of logits (S, B, C) and weights (S,)."""
    return torch.einsum("s,sbc->bc", weights, (logits / temperature).softmax(2))


def mixture_kl(student: Tensor, answers: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 times the mean over rows of KL(answers || softmax(z / T)), a scalar >= 0.

    Its gradient is that of ``weighted_kl`` of the sources that make up ``answers``: the two differ by a constant.

    Args:
        student: logits (B, C).
        answers: probabilities (B, C), rows sum to 1; 0 log 0 is 0.
    """
    return temperature**2 * F.kl_div((student / temperature).log_softmax(1), answers, reduction="batchmean")


def weighted_kl(student: Tensor, logits: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 sum_s alpha_s mean over rows of KL(softmax(z_s / T) || softmax(z / T)), a scalar >= 0; logits (S, B, C)."""
    each = [mixture_kl(student, (z / temperature).softmax(1), temperature) for z in logits]
    return (weights * torch.stack(each)).sum()


def labelled_cross_entropy(student: Tensor, batch: Batch, labelled: Tensor) -> Tensor:
    """(N / n) mean over rows of [row is labelled] CE(f(x), y): over an epoch the mean over the n labelled images; a
    scalar.

    Of a mixed image only the row's own class is told, by its share: the other image may be unlabelled.

    Args:
        student: logits (B, C).
        labelled: (N,) bool of all images, n of them.
    """
    own = labelled[batch.index].to(student) * batch.targets.get("lam", 1.0)
    losses = F.cross_entropy(student, batch.targets["class"], reduction="none")
    return (own * losses).mean() * len(labelled) / labelled.sum()


def similarity(metric: Metric, features: Tensor, classes: Tensor, reference: Tensor, probabilities: Tensor) -> float:
    """A source's score by name, higher is better; negative logarithms as the likelihood they stand for, in (0, 1].

    Args:
        features: (n, d) float64; classes: (n,) int64.
        reference: (n, any), of a network trained on the target; rsa and dds alone look at it.
        probabilities: (n, Z) of the source's own classes; leep and nce alone look at them.
    """
    scores = {
        "parc": lambda: parc(features, classes),
        "rsa": lambda: rsa(features, reference),
        "cka": lambda: cka(features, one_hot(classes, features)),
        "dds": lambda: dds(features, reference),
        "leep": lambda: math.exp(leep(probabilities, classes)),
        "nce": lambda: math.exp(nce(probabilities.argmax(1), classes)),
        "hscore": lambda: h_score(features, classes),
        "1nn": lambda: nearest_neighbour(features, classes),
        "logistic": lambda: linear_probe(features, classes, PROBE_L2),
    }
    return scores[metric]()


# ---- which images are labelled ---------------------------------------------------------------------------------------


def labelled_rows(classes: Tensor, each: int | None, generator: torch.Generator) -> Tensor:
    """Rows (n,) int64 of ``each`` random images of every class that is there (None: all), one of each class after the
    other.

    Raises:
        InputError: a class has fewer.
    """
    places, chosen = [], []
    for cls in classes.unique():
        rows = (classes == cls).nonzero()[:, 0]
        if each is not None and each > len(rows):
            asked = f"--{NAME}.labelled {each} asks for more labelled images than class {int(cls)} has ({len(rows)})"
            raise InputError(f"{asked}: lower it")
        rows = rows[torch.randperm(len(rows), generator=generator)][:each]
        places.append(torch.arange(len(rows)))
        chosen.append(rows)
    return torch.cat(chosen)[torch.cat(places).argsort(stable=True)]


# ---- what a student is told ------------------------------------------------------------------------------------------


class Bank(nn.Module):
    """Sources with their heads, one mixed answer; the networks are no part of its state."""

    def __init__(self, sources: Sequence[Source], heads: Sequence[Head], weights: Tensor, temperature: float) -> None:
        super().__init__()
        self._networks = [source.network for source in sources]
        self.heads, self.temperature = nn.ModuleList(heads), temperature
        self.register_buffer("weights", weights)

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities (B, C) of images (B, C, H, W) as the student sees them."""
        pairs = zip(self.heads, self._networks, strict=True)
        logits = torch.stack([head(network.embed(images)) for head, network in pairs])  # type: ignore[operator]
        return mixture(logits, self.get_buffer("weights").to(logits), self.temperature)


class Told(nn.Module):
    """Which images are labelled, and what the sources say of them: once of each, or of every view."""

    def __init__(self, labelled: Tensor, answers: Tensor | None = None, bank: Bank | None = None) -> None:
        super().__init__()
        self.register_buffer("labelled", labelled)
        self.register_buffer("answers", answers)
        self.bank = bank

    @torch.no_grad()
    def of(self, batch: Batch) -> Tensor:
        """The sources' answer (B, C).

        Raises:
            InputError: the batch is of mixed images, and they were asked about whole ones.
        """
        if self.bank is not None:
            return self.bank(batch.inputs)  # type: ignore[no-any-return]
        if "mixed" in batch.targets:
            raise InputError(f"sources answered once for each image, and batches mix images: --{NAME}.every-view")
        return self.get_buffer("answers")[batch.index]


# ---- the plugin ------------------------------------------------------------------------------------------------------


@frozen(kw_only=True, eq=False)
class DistillWeighted(Plugin):
    """Students of networks of other tasks, weighted by their similarity to the target."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "few labels, and networks of other tasks weighted by how similar these are"
    paper: ClassVar[str] = (
        "Distilling from Similar Tasks for Transfer Learning on a Budget, ICCV 2023, arXiv:2304.12314"
    )
    role: ClassVar[str] = "student"
    neutral: ClassVar[Mapping[str, object]] = {"label_weight": 1.0}
    tiny: ClassVar[Mapping[str, object]] = {"label_weight": 1.0, "labelled": 1}

    sources: tuple[str, ...] = option(
        (), help="file of a student that ddcore train kept, of any task", validator=deep_iterable(instance_of(str))
    )
    labelled: int | None = option(
        None,
        help="labelled images of each class, the others' labels are not looked at; none: all",
        validator=optional(ge(1)),
    )
    label_weight: float = option(
        0.2,
        help="weight of the labelled images' cross entropy, the sources have the rest",
        symbol="lambda",
        validator=and_(ge(0), le(1)),
    )
    metric: Metric = option("parc", help="how similarity is measured", symbol="e")
    power: float = option(2.0, help="of the scores in the sources' weights; 0: all alike", symbol="p", validator=ge(0))
    nearest: bool = option(False, help="the best source alone: DistillNearest")
    temperature: float = option(1.0, help="of both distributions", symbol="T", validator=gt(0))
    every_view: bool = option(
        False, help="ask the sources about every view that a student sees, not once for each image"
    )
    probe: int = option(  # type: ignore[assignment, misc]  # a modality pack's attribute has the same name
        500, help="labelled images that scores are measured on, at most", unit="images", validator=ge(2)
    )
    dimensions: int = option(
        32,
        help="directions that features are reduced to for scores, at most one for four images; 0: not reduced",
        validator=ge(0),
    )
    l2: float | None = option(
        None, help="penalty of the heads; none: cross-validated in 5 folds", validator=optional(gt(0))
    )
    reference: str | None = option(None, help="file of a student trained on the target, for rsa and dds")

    def label_factor(self) -> float:
        """The labels' own weight: none where most of them are not to be looked at."""
        return self.label_weight if self.labelled is None else 0.0

    @hookimpl
    def ddcore_student_modules(self, samples: Samples, run: "Run") -> nn.Module | None:
        """Choose labelled images, judge sources, fit heads."""
        if self.labelled is None and self.label_weight == 1:
            return None
        classes = samples.labels.cpu()
        rows = labelled_rows(classes, self.labelled, run.generator(NAME, "labelled"))
        labelled = torch.zeros(len(samples), dtype=torch.bool)
        labelled[rows] = True
        if self.label_weight == 1:
            return Told(labelled)
        bank = self.bank(samples, rows, run).to(run.device)
        if self.every_view:
            return Told(labelled, bank=bank)
        answers = [bank(images) for images in fetched(samples, torch.arange(len(samples)))]
        return Told(labelled, torch.cat(answers))

    @hookimpl
    def ddcore_student_loss(self, batch: Batch, output: Tensor, modules: nn.Module | None) -> Term | None:
        """The formula above, without what the labels' own loss has of it."""
        if modules is None:
            return None
        assert isinstance(modules, Told)
        value = output.new_zeros(())
        if self.labelled is not None:
            value = value + self.label_weight * labelled_cross_entropy(output, batch, modules.get_buffer("labelled"))
        if self.label_weight < 1:
            answers = modules.of(batch).to(output)
            value = value + (1 - self.label_weight) * mixture_kl(output, answers, self.temperature)
        return Term(NAME, value, labels=self.label_factor())

    def bank(self, samples: Samples, rows: Tensor, run: "Run") -> Bank:
        """Sources with heads fitted on labelled ``rows`` and weights by their scores; those without weight are left
        out.

        Raises:
            InputError: no source is named, or a file is none.
        """
        if not self.sources:
            remedy = f"name students' files by --{NAME}.sources, or say --{NAME}.label-weight 1"
            raise InputError(f"{NAME} has no source to distil from: {remedy}")
        sources = [opened(file, run) for file in self.sources]
        scores = torch.tensor(self.scores(sources, samples, rows[: self.probe], run), dtype=torch.float64)
        weights = source_weights(scores, self.power, self.nearest)
        report(self, sources, scores, weights, run)
        kept = [source for source, weight in zip(sources, weights, strict=True) if weight > 0]
        classes, count = samples.labels[rows].to(run.device), len(run.source.classes)
        heads = [self.head(source.features(samples, rows), classes, count) for source in kept]
        return Bank(kept, heads, weights[weights > 0], self.temperature)

    def scores(self, sources: Sequence[Source], samples: Samples, rows: Tensor, run: "Run") -> list[float]:
        """How similar each source is to the labels of ``rows``."""
        classes, none = samples.labels[rows].to(run.device), torch.empty(0)
        reference = none
        if self.metric in OF_REFERENCE:
            if self.reference is None:
                raise InputError(
                    f"{self.metric} compares with a network of the target: give its file, --{NAME}.reference"
                )
            reference = self.reduced(opened(self.reference, run).features(samples, rows))
        asked = self.metric in OF_PROBABILITIES
        return [
            similarity(
                self.metric,
                none if asked else self.reduced(source.features(samples, rows)),
                classes,
                reference,
                source.probabilities(samples, rows).double() if asked else none,
            )
            for source in sources
        ]

    def reduced(self, features: Tensor) -> Tensor:
        """Features (n, k) float64 for a score."""
        wide = features.double()
        return principal(wide, min(self.dimensions, max(2, len(wide) // A_DIRECTION))) if self.dimensions else wide

    def head(self, features: Tensor, classes: Tensor, count: int) -> Head:
        """A source's head for the target's classes."""
        l2 = self.l2 if self.l2 is not None else chosen_l2(features, classes, count)
        return head_on(features, classes, count, l2)


def report(plugin: DistillWeighted, sources: Sequence[Source], scores: Tensor, weights: Tensor, run: "Run") -> None:
    """Log scores and weights; say them for the first student of a run."""
    names, found = [source.name for source in sources], {"scores": scores.tolist(), "weights": weights.tolist()}
    run.log(NAME, metric=plugin.metric, sources=names, **found)
    if run in _said:
        return
    _said.add(run)
    told = [f"{n} {e:.3g} (weight {a:.2f})" for n, e, a in zip(names, *found.values(), strict=True)]
    run.say(f"{NAME}: {plugin.metric} {', '.join(told)}")
    if not (scores > 0).any() and len(scores) > 1 and not plugin.nearest:
        run.warn(f"{NAME}: no source is similar to the target by {plugin.metric}, so all have the same weight")
