"""KD3: distillation on images of another distribution than the task's (Tang et al., ICCV 2023, arXiv:2307.11469).

The images' labels are not looked at. Each epoch keeps those on which teacher and student together are sure enough,
class by class; the student ends in an adapter r and the teacher's own classifier; and a copy of the batch under other
channel statistics has to look alike:

    L = mean( w_i (f_s - f_t)^2 ) + c ( L_con(h_s(s(x)), h_s(s(x~))) + L_con(h_t(t(x)), h_t(t(x~))) )
    w_i = sigmoid(||z_s,i - z_t,i||)

with f_s = r(s(x)), z_s = W_t pool(f_s) + b_t and embedders h. The teacher's half trains h_t only.

Shape letters: B images, N images of an epoch, K classes, C H W of a feature map, D of an embedding.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import and_, ge, gt, lt
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ddcore import Batch, InputError, Plugin, Progress, Seen, Term, Vote, hookimpl, option
from ddcore.images import Draw, beta, transform
from ddcore.networks import channels_last, logits
from ddcore.training import Protocol, Teaching, last_linear, tapped
from ddcore_kd3.protocols import PROTOCOLS

if TYPE_CHECKING:
    from ddcore import Run, Samples

Select = Literal["balanced", "fixed", "none"]
EPOCHS = 240
"""The authors', in which the schedule of trust is written."""
AT_ONCE = 1024
EPSILON = 1e-6


# ---- selection -------------------------------------------------------------------------------------------------------


def trust(epoch: float) -> float:
    """The teacher's share a_e of the consensus in epoch e of 240, counted from 1: 1 - exp(-5 ((e + 1) / 160 - 1)^2), 0
    from 120 on.

    >>> [round(trust(e), 3) for e in (1, 60, 119, 120)]
    [0.992, 0.853, 0.268, 0.0]
    """
    return 1 - math.exp(-5 * ((epoch + 1) / 160 - 1) ** 2) if epoch < 120 else 0.0


def thresholds(counts_K: Tensor, cutoff: float = 0.95) -> Tensor:
    """How sure a class's images have to be, (K,) in [0, cutoff]: cutoff A / (2 - A), with A = n_c / max n.

    Args:
        counts_K: n, how many images were taken for each class; not all 0.

    >>> thresholds(torch.tensor([4, 2, 0])).tolist()
    [0.95, 0.31666666666666665, 0.0]
    """
    share = counts_K.double() / counts_K.max()
    return cutoff * share / (2 - share)


def sure(logits_NK: Tensor, cutoff: float = 0.95, *, balanced: bool = True) -> Tensor:
    """Which images are kept, (N,) bool: the largest probability is above its class's threshold,
    unbalanced the cutoff."""
    most, cls = logits_NK.double().softmax(1).max(1)
    if not balanced:
        return most > cutoff
    return most > thresholds(cls.bincount(minlength=logits_NK.shape[1]), cutoff)[cls]


# ---- losses ----------------------------------------------------------------------------------------------------------


def emphasis(student: Tensor, teacher: Tensor) -> Tensor:
    """w: the sigmoid of the distance of two rows of logits (B, K), in [0.5, 1), without gradient; (B,)."""
    weights: Tensor = (student - teacher).detach().norm(dim=1).sigmoid()
    return weights


def feature_loss(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Mean over all elements of w_i (f_s - f_t)^2, a scalar.

    Args:
        student, teacher: (B, C, H, W).
        weights: (B,).
    """
    return (weights[:, None, None, None] * (student - teacher).square()).mean()


def mix_statistics(images: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """MixDistribution: each image with the mean and deviation of each channel mixed with a partner's.

    Args:
        images: (B, C, H, W).
        partner: (B,) int64 into the batch.
        share: (B,) of the image's own, in [0, 1].

    Returns:
        (B, C, H, W). Variances divide by the pixels less one, as in the authors' code, and 1e-6 is added under the
        root. The statistics carry no gradient.
    """
    mean = images.mean((2, 3), keepdim=True).detach()
    spread = (images.var((2, 3), keepdim=True) + EPSILON).sqrt().detach()
    own = share.to(images)[:, None, None, None]
    partner = partner.to(images.device)
    new_mean = own * mean + (1 - own) * mean[partner]
    new_spread = own * spread + (1 - own) * spread[partner]
    return (images - mean) / spread * new_spread + new_mean


def contrast(one: Tensor, other: Tensor, temperature: float = 0.3) -> Tensor:
    """NT-Xent: every embedding has to find its counterpart among the 2 B - 1 others; a mean over all 2 B, a scalar.

    Args:
        one, other: (B, D), row i of one belongs to row i of the other; scaled to length 1 here.

    Returns:
        log(2 B - 1) where all are equal.
    """
    both = F.normalize(torch.cat([one, other]), dim=1)
    alike = both @ both.T / temperature
    alike = alike.masked_fill(torch.eye(len(both), dtype=torch.bool, device=both.device), -math.inf)
    partner = torch.arange(len(both), device=both.device).roll(len(one))
    return F.cross_entropy(alike, partner)


# ---- the network around a student ------------------------------------------------------------------------------------


def adapter(into: int, out: int) -> nn.Sequential:
    """r: 1x1 to half of the teacher's channels, 3x3, 1x1 to all; each with batch norm and ReLU,
    without a bias before."""
    half = max(1, out // 2)
    layers: list[nn.Module] = []
    for a, b, kernel in ((into, half, 1), (half, half, 3), (half, out, 1)):
        layers += [nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers)


def shrunk(features: Tensor, size: int) -> Tensor:
    """A map averaged to ``size`` pixels a side where it is larger."""
    return features if features.shape[2] <= size else F.adaptive_avg_pool2d(features, size)


class Shared(nn.Module):
    """A student's last map, an adapter, the teacher's frozen classifier: what is trained, tested and kept.

    The tap that is called like the layer gives two outputs a pass: the student's own map, and the adapted one.
    """

    def __init__(
        self, student: nn.Module, layer: str, into: int, shape: tuple[int, int], classifier: nn.Linear
    ) -> None:
        """``shape``: channels and size of the adapted map."""
        super().__init__()
        self.student, self.layer, (out, self.size) = student, layer, shape
        self.maps = nn.Identity()
        self.adapter = adapter(into, out)
        self.averaged = classifier.in_features == out
        self.classifier = deepcopy(classifier).requires_grad_(False)
        student.get_submodule(last_linear(student)).requires_grad_(False)  # it is out of use

    @property
    def taps(self) -> dict[str, str]:
        """The student's, and the layer."""
        own: Mapping[str, str] = getattr(self.student, "taps", {})
        return {**{name: f"student.{path}" for name, path in own.items()}, self.layer: "maps"}

    def embed(self, images: Tensor) -> Tensor:
        """The shared classifier's input (B, D): the adapted map, averaged or flattened as the teacher's is."""
        own = shrunk(self.maps(own_map(self.student, self.layer, images)), self.size)
        adapted: Tensor = self.maps(self.adapter(own))
        return adapted.mean((2, 3)) if self.averaged else adapted.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.classifier(self.embed(images))  # type: ignore[no-any-return]


def own_map(student: nn.Module, layer: str, images: Tensor) -> Tensor:
    """What a layer of the bare student makes of images."""
    with tapped(student, (layer,)) as found:
        student(images)
    return found[layer]


class Embedders(nn.Module):
    """h_s and h_t."""

    def __init__(self, student: int, teacher: int, width: int) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(student, width), nn.Linear(teacher, width)


def drawn_mix(count: int, shape: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Partners (count,), a permutation, and shares (count,) float64 from Beta(shape, shape)."""
    partner = torch.randperm(count, generator=generator)
    return partner, torch.stack([beta(shape, generator) for _ in range(count)])


@frozen(kw_only=True, eq=False)
class KD3(Plugin):
    """Students learn from a teacher on images that are not the teacher's."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "students learn from a teacher on foreign images: selection, a shared classifier, contrast"
    paper: ClassVar[str] = (
        "Distribution Shift Matters for Knowledge Distillation with Webly Collected Images, ICCV 2023, arXiv:2307.11469"
    )
    role: ClassVar[str] = "student"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    needs: ClassVar[tuple[str, ...]] = ("teachers", "class_logits")
    whole_batches: ClassVar[bool] = True
    tiny: ClassVar[Mapping[str, object]] = {"layer": "stage2"}

    select: Select = option("balanced", help="images of an epoch: by thresholds of classes, by one, or all")
    cutoff: float = option(0.95, help="threshold of the most frequent class, or of all", validator=and_(ge(0), lt(1)))
    views: bool = option(True, help="whether images are cropped and mirrored at random before they are judged")
    layer: str = option("end", help="the last feature map of student and teacher: a tap or a module's path")
    weighted: bool = option(True, help="whether images weigh more where student and teacher disagree", symbol="w")
    contrast: float = option(0.001, help="weight of the contrast; 0: none", symbol="c", validator=ge(0))
    temperature: float = option(0.3, help="of the contrast", validator=gt(0))
    width: int = option(128, help="of its embeddings", validator=ge(1))
    beta: float = option(
        0.1, help="shares of statistics are drawn from Beta(beta, beta)", validator=and_(gt(0), lt(10))
    )
    label_weight: float = option(0.0, help="weight of the labels' own loss", validator=ge(0))

    def taps(self) -> tuple[str, ...]:
        """The map that is compared."""
        return (self.layer,)

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_adapt_student(self, network: nn.Module, seen: Seen, teachers: Teaching, run: "Run") -> nn.Module:
        """The student, an adapter and the teacher's classifier."""
        teacher = sole(teachers.votes)
        own, other = seen.feature(self.layer), teachers.seen[0].feature(self.layer)
        classifier = teacher.get_submodule(last_linear(teacher))
        assert isinstance(classifier, nn.Linear)
        shape = fitting(own, other, classifier.in_features, self.layer)
        around = Shared(network, self.layer, own.shape[1], shape, classifier)
        run.log("kd3", student=size_of(network), adapter=size_of(around.adapter), classifier=size_of(around.classifier))
        return around

    @hookimpl
    def ddcore_student_modules(self, seen: Seen, teachers: Teaching) -> nn.Module | None:
        """The embedders."""
        if not self.contrast:
            return None
        own, other = seen.calls[self.layer][0], teachers.seen[0].feature(self.layer)
        return Embedders(own.shape[1], other.shape[1], self.width)

    @hookimpl
    def ddcore_student_rows(
        self,
        rows: Tensor,
        samples: "Samples",
        network: nn.Module,
        teachers: Sequence[Vote],
        epoch: int,
        progress: Progress,
        generator: Generator,
        run: "Run",
    ) -> Tensor | None:
        """The images on which teacher and student are sure; all of them where they are of none."""
        if self.select == "none":
            return None
        share = trust(1 + EPOCHS * progress.fraction)
        both = self.consensus(rows, samples, (sole(teachers), network), share, generator, run)
        keep = sure(both, self.cutoff, balanced=self.select == "balanced")
        kept = both.argmax(1)[keep].bincount(minlength=both.shape[1])
        run.log("kd3", epoch=epoch, teacher=share, kept=int(keep.sum()), classes=kept.tolist())
        return rows[keep] if bool(keep.any()) else rows

    def consensus(
        self,
        rows: Tensor,
        samples: "Samples",
        networks: Sequence[nn.Module],
        share: float,
        generator: Generator,
        run: "Run",
    ) -> Tensor:
        """``share`` of the teacher's logits and the rest of the student's, (N, K) on the CPU."""
        draw, found = Draw(mix="none").fitting(run.source.size, run.source.mirror_symmetric), list[Tensor]()
        parts: Sequence[Tensor] = rows.split(AT_ONCE)  # type: ignore[no-untyped-call]
        for part in parts:
            images = samples.inputs(part)
            if self.views:
                view = transform(draw, len(part), (run.source.size, run.source.size), generator)
                images = view(Batch(images, {"class": samples.labels[part]}, part)).inputs
            teacher, student = (logits(network, images) for network in networks)
            found.append((share * teacher + (1 - share) * student).cpu())
        return torch.cat(found)

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
        """The formula above."""
        own, adapted = seen.calls[self.layer]
        other = teachers.seen[0]
        weights = emphasis(seen.logits, other.logits) if self.weighted else own.new_ones(len(own))
        value = feature_loss(adapted, shrunk(other.feature(self.layer), adapted.shape[2]), weights)
        if isinstance(modules, Embedders):
            partner, share = drawn_mix(len(batch), self.beta, generator)
            mixed = channels_last(mix_statistics(batch.inputs, partner, share))
            again = own_map(shared_in(network).student, self.layer, mixed)
            theirs = Teaching(teachers.votes, mixed, (self.layer,)).seen[0].feature(self.layer)
            pairs = (modules.student, own, again), (modules.teacher, other.feature(self.layer), theirs)
            for embed, one, two in pairs:
                value = value + self.contrast * contrast(
                    embed(one.mean((2, 3))), embed(two.mean((2, 3))), self.temperature
                )
        return Term("kd3", value, labels=self.label_weight)


def sole(votes: Sequence[Vote]) -> nn.Module:
    """The one teacher.

    Raises:
        InputError: there are more.
    """
    if len(votes) != 1:
        raise InputError(f"kd3 shares the classifier of one teacher, and there are {len(votes)}: give one --teacher")
    return votes[0].network


def fitting(own: Tensor, other: Tensor, due: int, layer: str) -> tuple[int, int]:
    """Channels and size of a map that a classifier of the teacher takes, averaged (D = C) or flattened (D = C H W).

    Raises:
        InputError: it takes something else.
    """
    if own.dim() == other.dim() == 4:
        size = min(own.shape[2], other.shape[2])
        if due in (other.shape[1], other.shape[1] * size * size):
            return other.shape[1], size
    maps = f"{tuple(own.shape[1:])} of the student and {tuple(other.shape[1:])} of the teacher"
    raise InputError(
        f"no classifier of {due} inputs can be shared by layers {layer!r}, {maps}: name others by --kd3.layer"
    )


def shared_in(network: nn.Module) -> Shared:
    """The part of a network that this plugin made: others may have put more around it."""
    return next(part for part in network.modules() if isinstance(part, Shared))


def size_of(network: nn.Module) -> int:
    """Numbers in it."""
    return sum(p.numel() for p in network.parameters())
