"""Knowledge distillation: students learn from teachers' logits (Hinton, Vinyals and Dean, arXiv:1503.02531) and, if
asked, features.

    L = w_ce L_labels + w_kd T^2 mean_B KL( softmax(z_t / T) || softmax(z_s / T) ) + w_f L_features

The first term is whatever the labels ask for. ``decoupled`` takes DKD's logit loss (CVPR 2022, arXiv:2203.08679)
instead; ``feature`` adds FitNets' hint (ICLR 2015, arXiv:1412.6550), attention transfer (ICLR 2017, arXiv:1612.03928)
or relations (RKD, CVPR 2019, arXiv:1904.05068), with the conventions of RepDistiller (arXiv:1910.10699) and mdistiller.

Shape letters: B rows, K classes, C H W of a feature map, D of an embedding.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import ge, gt, optional
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore import Batch, InputError, Plugin, Progress, Seen, Term, hookimpl, option
from ddcore.devices import autocast
from ddcore.labels import kl_divergence
from ddcore.networks import wide
from ddcore.training import EMBEDDING, STAGES, UNPOOLED, Protocol, Teaching
from ddcore_kd.protocols import PROTOCOLS

if TYPE_CHECKING:
    from ddcore import Run

STAGE, BEFORE = re.compile(r"stage(\d+)"), re.compile(r"(?:stage|unpooled)(\d+)")
Feature = Literal["none", "fitnet", "at", "rkd"]
Places = Literal["image", "stage", "own"]
TAPS: Mapping[Feature, tuple[str, ...]] = {
    "none": (),
    "fitnet": ("stage2",),
    "at": (STAGES,),
    "rkd": (EMBEDDING,),
}
WEIGHTS: Mapping[Feature, float] = {"none": 0.0, "fitnet": 100.0, "at": 1000.0, "rkd": 1.0}
"""RepDistiller's."""
SIDE = 32
"""Of the images whose weights are published, and of their ResNets' first maps; each further stage has half of it."""
LEAST = 1e-12
"""Of squared distances, as theirs: their root would have no gradient at 0."""


def hinton(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean over rows of KL(softmax(z_t / T) || softmax(z_s / T)), a scalar.

    Args:
        student, teacher: logits (B, K).

    References:
        arXiv:1503.02531, section 2; natural logarithm, sum over classes. Its gradient in z_s is (T / B) (p_s - p_t).
    """
    return kl_divergence(student, teacher, temperature, tau_squared=True).mean()


def decoupled(
    student: Tensor, teacher: Tensor, classes: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """DKD: alpha T^2 KL(b_t || b_s) + beta T^2 KL(q_t || q_s), means over rows; a scalar.

    b = (p_y, 1 - p_y) of the true class y, q the distribution over the other classes. With alpha 1 and beta = 1 - p_t,y
    row by row it is Hinton's loss.

    Args:
        student, teacher: logits (B, K), below float32 taken to float32; of the teacher -inf for classes of probability
            0.
        classes: (B,) int64.

    References:
        Zhao et al., CVPR 2022, arXiv:2203.08679, equation 7. Logarithms of 1 - p_y are taken by log-sum-exp over the
        other classes, where the authors' code adds probabilities and may take the logarithm of 0. For q the true class
        is left out, where they take 1000 from its logit: another number only where it leads by hundreds.
    """
    (b_s, q_s), (b_t, q_t) = (_split(wide(z) / temperature, classes) for z in (student, teacher))
    target = F.kl_div(b_s, b_t.exp(), reduction="none").sum(1).mean()
    other = F.kl_div(q_s, q_t.exp(), reduction="none").sum(1).mean()
    return temperature**2 * (alpha * target + beta * other)


def _split(z: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """log b (B, 2) and log q (B, K - 1)."""
    own = F.one_hot(classes, z.shape[1]).bool()
    log_p = z.log_softmax(1)
    others = log_p[~own].view(len(z), -1)
    rest = others.logsumexp(1)
    return torch.stack([log_p[own], rest], 1), others - rest[:, None]


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNets: mean squared error of a regressed feature map and the teacher's, over all elements."""
    return F.mse_loss(student, teacher)


def attention(features: Tensor) -> Tensor:
    """AT's map: mean over channels of squares, flattened and scaled to length 1, (B, H W)."""
    return F.normalize(features.square().mean(1).flatten(1), dim=1)


def attention_loss(student: Tensor, teacher: Tensor, places: int | None = None) -> Tensor:
    """Mean over rows and places of the squared difference of attention maps.

    Of two heights the greater map is average-pooled to a square of the smaller height.

    Args:
        places: divide the sum over places by so many, and not by as many as there are: maps have length 1, so that the
            loss is at most 2 / ``places`` whatever their size.

    References:
        Zagoruyko and Komodakis, ICLR 2017, arXiv:1612.03928, in RepDistiller's reduction (hence the large weight).
    """
    size = min(student.shape[2], teacher.shape[2])
    maps = [f if f.shape[2] == size else F.adaptive_avg_pool2d(f, size) for f in (student, teacher)]
    gaps = (attention(maps[0]) - attention(maps[1])).square()
    return gaps.mean() * (1.0 if places is None else gaps.shape[1] / places)


def published_places(stage: int) -> int:
    """Places of the map of the n-th stage, from 1, of a ResNet on images of 32 pixels.

    >>> [published_places(stage) for stage in (1, 2, 3, 4, 9)]
    [1024, 256, 64, 16, 1]
    """
    return max(SIDE >> (stage - 1), 1) ** 2


def relations(student: Tensor, teacher: Tensor, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """RKD: smooth L1 of pairwise distances, each over its own mean, and of the cosines at all triplets; 0 for one row.

    Args:
        student, teacher: embeddings (B, D), of any two widths; below float32 taken to float32. The teacher's get no
            gradient.

    References:
        Park et al., CVPR 2019, arXiv:1904.05068, in RepDistiller's form: the mean distance is over positive ones, the
        smooth L1 over all B^2 and B^3 entries.
    """
    student, teacher = wide(student), wide(teacher.detach())
    if len(student) < 2:
        return 0 * student.sum()
    with autocast(student.device, enabled=False):  # squares less products: bfloat16 has too few digits
        far = F.smooth_l1_loss(_distances(student), _distances(teacher))
        bent = F.smooth_l1_loss(_cosines(student), _cosines(teacher))
    return distance * far + angle * bent


def _distances(x: Tensor) -> Tensor:
    squares = x.square().sum(1)
    gaps = (squares[:, None] + squares[None, :] - 2 * x @ x.T).clamp(min=LEAST).sqrt()
    gaps = gaps * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    return gaps / gaps[gaps > 0].mean()


def _cosines(x: Tensor) -> Tensor:
    ways = F.normalize(x[None, :, :] - x[:, None, :], dim=2)
    return torch.bmm(ways, ways.transpose(1, 2)).flatten()


def stages(seen: Seen, unpooled: bool = False) -> list[Tensor]:
    """A network's feature maps (B, C, H, W), first stage first.

    Args:
        unpooled: before the pooling of each stage, where it has one.
    """
    named = BEFORE if unpooled else STAGE  # in the order of names ``unpooledN`` comes after ``stageN`` and counts
    numbered = {
        int(found[1]): seen.features[name] for name in sorted(seen.features) if (found := named.fullmatch(name))
    }
    return [maps for _, maps in sorted(numbered.items())]


class Regressor(nn.Module):
    """From a student's feature map to the teacher's shape: a strided, a transposed or a plain convolution, batch norm,
    ReLU."""

    def __init__(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
        super().__init__()
        into, out, size, due = student[1], teacher[1], student[2], teacher[2]
        if size == 2 * due:
            self.convolution: nn.Module = nn.Conv2d(into, out, 3, stride=2, padding=1)
        elif 2 * size == due:
            self.convolution = nn.ConvTranspose2d(into, out, 4, stride=2, padding=1)
        elif size >= due and student[3] >= teacher[3]:
            self.convolution = nn.Conv2d(into, out, (1 + size - due, 1 + student[3] - teacher[3]))
        else:
            raise InputError(
                f"a student's map of {size}x{student[3]} cannot be brought to the teacher's {due}x{teacher[3]}: name other features"
            )
        self.norm = nn.BatchNorm2d(out)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) of the student to (B, C, H, W) of the teacher."""
        return self.norm(self.convolution(features)).relu()  # type: ignore[no-any-return]


@frozen(kw_only=True, eq=False)
class KD(Plugin):
    """Students match teachers' logits, and features if asked."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "students learn from teachers: logits (Hinton, DKD), hints, attention or relations"
    paper: ClassVar[str] = "Distilling the Knowledge in a Neural Network, arXiv:1503.02531"
    role: ClassVar[str] = "student"
    cells: ClassVar[str | None] = "cells.toml"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    modality: ClassVar[frozenset[str]] = frozenset({"images", "text", "dense"})
    needs: ClassVar[tuple[str, ...]] = ("teachers", "class_logits")
    neutral: ClassVar[Mapping[str, object]] = {"weight": 0.0, "label_weight": 1.0}

    temperature: float = option(4.0, help="both distributions are softened by it", symbol="T", validator=gt(0))
    weight: float = option(0.9, help="weight of the teachers' logits", symbol="w_kd", validator=ge(0))
    label_weight: float = option(0.1, help="weight of the labels' own loss", symbol="w_ce", validator=ge(0))
    dkd: bool = option(False, help="decoupled logit loss, with alpha and beta in the place of one weight")
    alpha: float = option(1.0, help="of dkd: weight of the true class against the rest", validator=ge(0))
    beta: float = option(8.0, help="of dkd: weight of the distribution over the other classes", validator=ge(0))
    warmup: float = option(
        0.0,
        help="share of a student's steps in which the logits' weight rises from 0; DKD has 20 of 240 epochs",
        validator=ge(0),
    )
    feature: Feature = option("none", help="what of the features is compared: hints, attention, relations")
    feature_weight: float | None = option(
        None, help="its weight; none: 100 for fitnet, 1000 for at, 1 for rkd", symbol="w_f", validator=optional(ge(0))
    )
    at_places: Places = option(
        "image",
        help="of at: by how many places a map's sum is divided: as it has on 32 pixels, a ResNet's stage has, or it has",
    )
    at_unpooled: bool = option(False, help="of at: maps from before the pooling of each stage, where there is one")

    @property
    def whole_batches(self) -> bool:  # type: ignore[override]
        """Relations compare the rows of a batch, and regressors normalise over it."""
        return self.feature in ("fitnet", "rkd")

    def taps(self) -> tuple[str, ...]:
        """The stages or the embedding that the feature loss reads."""
        return (UNPOOLED,) if self.feature == "at" and self.at_unpooled else TAPS[self.feature]

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_student_modules(self, seen: Seen, teachers: Teaching) -> nn.Module | None:
        """Regressors of the student's hint layer, one for each teacher."""
        if self.feature != "fitnet":
            return None
        own = seen.feature("stage2").shape
        return nn.ModuleList([Regressor(own, other.feature("stage2").shape) for other in teachers.seen])

    @hookimpl
    def ddcore_student_loss(
        self, batch: Batch, progress: Progress, seen: Seen, teachers: Teaching, modules: nn.Module | None, run: "Run"
    ) -> Term:
        """The teachers' part of the formula above."""
        value = self.rising(progress) * self.of_logits(seen.logits, teachers.logits, batch.targets["class"])
        if self.feature != "none":
            weight = WEIGHTS[self.feature] if self.feature_weight is None else self.feature_weight
            value = value + weight * self.of_features(seen, teachers, modules, batch.inputs)
        return Term("kd", value, labels=self.label_weight)

    def rising(self, progress: Progress) -> float:
        """The share of the logits' weight at a step: from 0 to 1 over ``warmup`` of all steps.

        >>> [KD(warmup=0.5).rising(Progress(step, 4)) for step in range(4)]
        [0.0, 0.5, 1.0, 1.0]
        """
        return min(1.0, progress.fraction / self.warmup) if self.warmup else 1.0

    def of_logits(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        """The logits' loss, weighted."""
        if self.dkd:
            return decoupled(student, teacher, classes, self.temperature, self.alpha, self.beta)
        return self.weight * hinton(student, teacher, self.temperature)

    def of_features(self, seen: Seen, teachers: Teaching, modules: Any, images: Any) -> Tensor:
        """The features' loss, of several teachers by their weights."""
        total = seen.logits.new_zeros(())
        for number, (vote, other) in enumerate(zip(teachers.votes, teachers.seen, strict=True)):
            total = total + vote.weight * self._one(seen, other, None if modules is None else modules[number], images)
        return total

    def _one(self, seen: Seen, other: Seen, regressor: nn.Module | None, images: Any) -> Tensor:
        if self.feature == "fitnet":
            assert regressor is not None
            return hint(regressor(seen.feature("stage2")), other.feature("stage2"))
        if self.feature == "at":
            unpooled = self.at_unpooled
            both = zip(stages(seen, unpooled), stages(other, unpooled), strict=False)  # those that both networks have
            return torch.stack([self._attention(n, *pair, images) for n, pair in enumerate(both, 1)]).sum()
        return relations(seen.feature(EMBEDDING), other.feature(EMBEDDING))

    def _attention(self, stage: int, student: Tensor, teacher: Tensor, images: Tensor) -> Tensor:
        """The loss of one stage, by the places that ``at_places`` says."""
        if self.at_places == "stage":
            return attention_loss(student, teacher, published_places(stage))
        loss = attention_loss(student, teacher)
        return loss if self.at_places == "own" else loss * (images.shape[2] * images.shape[3] / SIDE**2)
