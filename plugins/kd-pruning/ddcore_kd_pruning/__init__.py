"""Distillation on pruned data (Ben-Baruch et al., ICML 2025, arXiv:2403.07854): few rows, and a teacher of all.

    L = (1 - alpha) L_labels + alpha tau^2 mean_B KL( softmax(z_t / tau) || softmax(z_s / tau) )

on a share f of the rows, chosen at random or by a score. The less is kept, the more the teacher is to be trusted: alpha
falls with f. Scores are those of a network of the student's architecture, trained anew for a few epochs on all rows,
hardest first.

Shape letters: B rows of a batch, N all rows, K classes, D of an embedding, T epochs.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import and_, ge, gt, le, optional
from torch import Generator, Tensor, nn

from ddcore import Plugin, Term, hookimpl, option
from ddcore.labels import HardLabels, kl_divergence
from ddcore.networks import features, logits
from ddcore.randomness import generator as generator_of
from ddcore.training import Descent, Teaching, train_student

if TYPE_CHECKING:
    from ddcore import Run, Samples

Select = Literal["random", "el2n", "forgetting", "moderate"]
AT_ONCE = 1024
BATCH = 128
RATES: Mapping[str, float] = {"images": 0.1, "text": 5e-4}
"""Of the network that scores: of SGD with momentum, and of AdamW, without which transformers learn little."""


# ---- the loss --------------------------------------------------------------------------------------------------------


def teacher_loss(student: Tensor, teacher: Tensor, temperature: float, *, squared: bool = True) -> Tensor:
    """Mean over rows of KL(softmax(z_t / tau) || softmax(z_s / tau)), times tau^2 unless ``squared`` is off; a scalar.

    Args:
        student, teacher: logits (B, K).

    Returns:
        At least 0, and 0 where the two agree. The gradient in z_s is (tau / B) (p_s - p_t), without the square (p_s -
        p_t) / (tau B).
    """
    return kl_divergence(student, teacher, temperature, tau_squared=squared).mean()


def alpha_of(share: float) -> float:
    """1 - 0.9 f: nearly all the teacher's where little is kept, a tenth where everything is. Inferred: no formula was
    published.

    >>> [round(alpha_of(f), 2) for f in (0.05, 0.5, 1.0)]
    [0.95, 0.55, 0.1]
    """
    return 1 - 0.9 * share


# ---- scores ----------------------------------------------------------------------------------------------------------


def el2n(logits_NK: Tensor, classes_N: Tensor) -> Tensor:
    """Length of softmax(z) - e_y, (N,) in [0, sqrt 2]; larger is harder (Paul et al., NeurIPS 2021,
    arXiv:2107.07075)."""
    own = torch.nn.functional.one_hot(classes_N, logits_NK.shape[1])
    return (logits_NK.softmax(1) - own).norm(dim=1)  # type: ignore[no-any-return]


def forgetting(correct_TN: Tensor) -> Tensor:
    """How often a row was right after an epoch and wrong after the next, (N,); T where it never was right: hardest of
    all.

    Args:
        correct_TN: (T, N) bool.

    References:
        Toneva et al., ICLR 2019, arXiv:1812.05159.

    >>> forgetting(torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 0]]).bool()).tolist()
    [1, 0, 3]
    """
    falls = (correct_TN[:-1] & ~correct_TN[1:]).sum(0)
    return torch.where(correct_TN.any(0), falls, len(correct_TN))


def distances_to_median(features_ND: Tensor, classes_N: Tensor) -> Tensor:
    """Euclidean distance to the median of one's class, feature by feature, (N,) (Xia et al., ICLR 2023).

    Of an even number of rows the median is the mean of the two in the middle.
    """
    found = features_ND.new_zeros(len(features_ND))
    for cls in classes_N.unique():  # type: ignore[no-untyped-call]
        own = features_ND[classes_N == cls]
        ranked = own.sort(dim=0).values
        median = (ranked[(len(own) - 1) // 2] + ranked[len(own) // 2]) / 2
        found[classes_N == cls] = (own - median).norm(dim=1)
    return found


# ---- selection -------------------------------------------------------------------------------------------------------


def kept_of(count: int, share: float) -> int:
    """How many of n rows: the share, rounded, and at least one."""
    return min(count, max(1, round(share * count)))


def hardest(scores: Tensor, count: int, generator: Generator) -> Tensor:
    """Places (count,) of the largest scores; equal ones in a random order."""
    order = torch.randperm(len(scores), generator=generator)
    return order[scores[order].argsort(descending=True, stable=True)][:count]


def middle(scores: Tensor, count: int, generator: Generator) -> Tensor:
    """Places (count,) around the median score: as many lower as higher ones are left out,
    else one more of the higher."""
    ranked = hardest(scores, len(scores), generator).flip(0)
    first = (len(scores) - count) // 2
    return ranked[first : first + count]


def parts_of(rows: Tensor, classes: Tensor, balanced: bool) -> list[Tensor]:
    """What a share is kept of: the rows of each class, or all together."""
    own = classes[rows]
    return [rows[own == cls] for cls in own.unique()] if balanced else [rows]  # type: ignore[no-untyped-call]


def scoring_descent(modality: str, count: int, epochs: int, rate: float | None) -> Descent:
    """How the network that scores is trained: batches of 128, a cosine; SGD of images, AdamW of text."""
    steps = epochs * -(-count // BATCH)
    rate = RATES.get(modality, RATES["images"]) if rate is None else rate
    if modality == "text":
        return Descent(steps=steps, batch=BATCH, rate=rate, weight_decay=0.01, optimizer="adamw", schedule="cosine")
    how = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True, "schedule": "cosine"}
    return Descent(steps=steps, batch=BATCH, rate=rate, **how)  # type: ignore[arg-type]


@frozen(kw_only=True, eq=False)
class KDPruning(Plugin):
    """Students see some rows and hear a teacher of all of them."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = (
        "students train on a share of the rows, chosen once, and learn from a teacher of all of them"
    )
    paper: ClassVar[str] = "Distilling the Knowledge in Data Pruning, ICML 2025, arXiv:2403.07854"
    role: ClassVar[str] = "student"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "text", "dense"})
    needs: ClassVar[tuple[str, ...]] = ("class_logits",)
    may_need: ClassVar[tuple[str, ...]] = ("teachers",)
    neutral: ClassVar[Mapping[str, object]] = {"share": 1.0, "alpha": 0.0}
    tiny: ClassVar[Mapping[str, object]] = {"epochs": 1, "rate": 0.01}

    share: float = option(0.1, help="of the rows that are kept", symbol="f", validator=and_(gt(0), le(1)))
    select: Select = option("random", help="which: random; the hardest by el2n or forgetting; the middle by moderate")
    balanced: bool = option(True, help="the share of each class, at least a row of it; else of all rows together")
    alpha: float | None = option(
        0.9,
        help="weight of the teacher's part, of the labels' 1 - alpha; none: 1 - 0.9 f, experimental",
        validator=optional(and_(ge(0), le(1))),
    )
    temperature: float = option(4.0, help="both distributions are softened by it", symbol="tau", validator=gt(0))
    squared: bool = option(True, help="the teacher's part is multiplied by the temperature's square")
    epochs: int = option(10, help="of the network that scores", unit="epochs", validator=ge(1))
    rate: float | None = option(
        None,
        help="of the network that scores; none: 0.1 of images, 5e-4 of text",
        unit="a step",
        validator=optional(gt(0)),
    )

    @property
    def weight(self) -> float:
        """alpha."""
        return alpha_of(self.share) if self.alpha is None else self.alpha

    def label_factor(self) -> float:
        """1 - alpha."""
        return 1 - self.weight

    def assets(self, initializer: str | None) -> tuple[str, ...]:
        """Teachers, where they have a weight."""
        return ("teachers",) if self.weight else ()

    def visited(self, count: int) -> int:
        """The share; where classes are rounded one by one, it may be a few more or less."""
        return kept_of(count, self.share)

    @hookimpl
    def ddcore_student_loss(self, output: Tensor, teachers: Teaching) -> Term | None:
        """The teacher's part of the formula above."""
        if not self.weight:
            return None
        value = teacher_loss(output, teachers.logits, self.temperature, squared=self.squared)
        return Term("kd-pruning", value, self.weight, 1 - self.weight)

    @hookimpl
    def ddcore_student_rows(
        self, rows: Tensor, samples: "Samples", state: dict[str, Any], generator: Generator, run: "Run"
    ) -> Tensor:
        """The rows that are kept, chosen before the first epoch."""
        if "kept" not in state:
            state["kept"] = self.kept(rows, samples, generator, run)
            run.log(
                "kd-pruning", kept=len(state["kept"]), classes=samples.labels.cpu()[state["kept"]].bincount().tolist()
            )
        return state["kept"]  # type: ignore[no-any-return]

    def kept(self, rows: Tensor, samples: "Samples", generator: Generator, run: "Run") -> Tensor:
        """Some of these rows, in ascending order."""
        scores = None if self.select == "random" else self.scores(samples, generator, run)
        parts = parts_of(rows, samples.labels.cpu(), self.balanced)
        return torch.cat([self.best(part, scores, generator) for part in parts]).sort().values

    def best(self, rows: Tensor, scores: Tensor | None, generator: Generator) -> Tensor:
        """The share of these rows that stands first."""
        count = kept_of(len(rows), self.share)
        if scores is None:
            return rows[torch.randperm(len(rows), generator=generator)[:count]]
        return rows[(middle if self.select == "moderate" else hardest)(scores[rows], count, generator)]

    def scores(self, samples: "Samples", generator: Generator, run: "Run") -> Tensor:
        """Of all rows, (N,), by a network trained for it on unchanged inputs."""
        drawn = partial(generator_of, int(torch.randint(2**31, (), generator=generator)))
        classes, correct = samples.labels.cpu(), list[Tensor]()
        network = run.network(drawn("init"))

        def look(_: object) -> None:
            if self.select == "forgetting":
                correct.append(seen_by(network, samples, logits).argmax(1) == classes)

        descent = scoring_descent(run.source.modality, len(samples), self.epochs, self.rate)
        labels = HardLabels(classes, len(run.source.classes))
        with torch.enable_grad():
            train_student(network, samples, labels, descent, generator=drawn, on_epoch=look)
        if self.select == "forgetting":
            return forgetting(torch.stack(correct))
        if self.select == "moderate":
            return distances_to_median(seen_by(network, samples, features), classes)
        return el2n(seen_by(network, samples, logits), classes)


def seen_by(network: nn.Module, samples: "Samples", function: Any) -> Tensor:
    """Logits or embeddings of all rows, on the CPU, in eval mode; the network's mode stays."""
    training = network.training
    network.eval()
    parts: Sequence[Tensor] = torch.arange(len(samples)).split(AT_ONCE)  # type: ignore[no-untyped-call]
    found = torch.cat([function(network, samples.inputs(part)).cpu() for part in parts])
    network.train(training)
    return found
