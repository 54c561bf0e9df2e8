"""Norm and direction of embeddings (Wang et al., ECCV 2024, arXiv:2305.17007).

A student's embedding s shall point along its teacher's mean embedding m_y of the row's class, and be as long as the
teacher's t:

    ND = mean over rows of 1 - (s . e_y) / max(||s||, ||t||),    e_y = m_y / ||m_y||

Shape letters: B rows, K classes, D width of the teacher's embedding, d of the student's.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from attrs import frozen
from attrs.validators import ge, lt
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ddcore import Batch, Plugin, Samples, Seen, Term, hookimpl, option
from ddcore.networks import channels_last, unit_rows, wide
from ddcore.storage import kept, sha256_of
from ddcore.training import EMBEDDING, Teaching, state_hash, tapped

if TYPE_CHECKING:
    from ddcore import Run

VERSION = 1
AT_ONCE = 256
"""Rows of one pass of a teacher over the training set."""


def norm_and_direction(student: Tensor, teacher: Tensor, means: Tensor, classes: Tensor) -> Tensor:
    """Mean over rows of 1 - (s . e_y) / max(||s||, ||t||), a scalar in [0, 2]; 0 for s = t = k m_y with k > 0.

    While ||s|| < ||t|| the gradient in s is -e_y / ||t||, so that s grows along e_y; from there on the term is one
    minus the cosine, whose gradient is orthogonal to s. No row's own norm is detached.

    Args:
        student, teacher: embeddings (B, D), float; below float32 they are taken to float32.
        means: (K, D), the teacher's mean embedding of each class; a mean of length 0 has no direction, and its rows
            cost 1.
        classes: (B,) int64.

    References:
        arXiv:2305.17007; gradients as the authors' code has them.
    """
    return misses(student, teacher, means[classes]).mean()


def misses(student: Tensor, teacher: Tensor, means: Tensor) -> Tensor:
    """The same row by row, (B,); ``means`` (B, D) are those of the rows' classes."""
    student, teacher, means = (wide(x) for x in (student, teacher, means))
    along = (student * unit_rows(means)).sum(1)
    own, due = student.norm(dim=1), teacher.norm(dim=1)
    longest = torch.where(own >= due, own, due)  # where they are equal, the gradient is the cosine's
    return 1 - along / torch.where(longest == 0, 1, longest)


@torch.no_grad()
def class_means(network: nn.Module, samples: Samples, classes: int) -> Tensor:
    """Mean embedding (K, D) of each class over all samples, float64 on the CPU, in the network's present mode.

    Samples are taken as they are: neither cropped nor mirrored.
    """
    sums, counts = torch.zeros(()), torch.bincount(samples.labels, minlength=classes)
    for rows in torch.arange(len(samples)).split(AT_ONCE):
        with tapped(network, [EMBEDDING]) as features:
            network(channels_last(samples.inputs(rows)))
        own = F.one_hot(samples.labels[rows], classes).double()
        sums = sums + own.T @ features[EMBEDDING].cpu().double()
    return sums / counts.clamp(min=1)[:, None]


def kept_means(network: nn.Module, run: "Run") -> Tensor:
    """A teacher's ``class_means`` over the run's training data (K, D), from the cache if they are there."""
    recipe = {
        "version": VERSION,
        "teacher": [sha256_of(repr(network).encode()), state_hash(network)],
        "data": run.source.fingerprint,
        "normalisation": run.normalisation.header(),
        "machine": run.machine,
    }

    def made() -> dict[str, Tensor]:
        return {"means": class_means(network, run.real.train, len(run.source.classes))}

    return kept(run.cache, "nd", recipe, made, note=run.warn)["means"]


class Adapter(nn.Module):
    """Batch norm, dropout, a linear layer that begins without bias: a student's embedding at the teacher's width."""

    def __init__(self, width: int, due: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(width), nn.Linear(width, due)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embedding: Tensor, kept: Tensor) -> Tensor:
        """(B, d) to (B, D); ``kept`` (B, d) is what the normalised embedding is multiplied by: 0,
        or 1 over the share that stays."""
        norm = self.norm
        if len(embedding) > 1:
            return self.linear(norm(embedding) * kept)  # type: ignore[no-any-return]
        known = (norm.running_mean, norm.running_var, norm.weight, norm.bias)  # one row has no statistics of its own
        return self.linear(F.batch_norm(embedding, *known, eps=norm.eps) * kept)  # type: ignore[no-any-return]


class Directions(nn.Module):
    """Of one teacher: its class means (K, D), and the student's way to their width."""

    means: Tensor

    def __init__(self, means: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("means", means)
        self.adapter = None if width == means.shape[1] else Adapter(width, means.shape[1])

    def forward(self, embedding: Tensor, dropout: float, generator: Generator) -> Tensor:
        """The student's embedding (B, d) at the teacher's width (B, D)."""
        if self.adapter is None:
            return embedding
        stays = torch.rand(embedding.shape, generator=generator) >= dropout
        return self.adapter(embedding, stays.to(embedding) / (1 - dropout))  # type: ignore[no-any-return]


@frozen(kw_only=True, eq=False)
class ND(Plugin):
    """Students' embeddings point along their teachers' class means and grow as long as the teachers' are."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "students' embeddings take direction and norm from teachers' class means"
    paper: ClassVar[str] = (
        "Improving Knowledge Distillation via Regularizing Feature Direction and Norm, arXiv:2305.17007"
    )
    role: ClassVar[str] = "student"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "text", "dense"})
    needs: ClassVar[tuple[str, ...]] = ("teachers",)
    whole_batches: ClassVar[bool] = True  # for the adapter's batch norm
    neutral: ClassVar[Mapping[str, object]] = {"weight": 0.0}

    weight: float = option(2.0, help="weight of the term", symbol="w_nd", validator=ge(0))
    dropout: float = option(
        0.5,
        help="where widths differ: share of the student's embedding that its adapter does not see",
        validator=[ge(0), lt(1)],
    )

    def taps(self) -> tuple[str, ...]:
        """The embedding."""
        return (EMBEDDING,)

    @hookimpl
    def ddcore_student_modules(self, seen: Seen, teachers: Teaching, run: "Run") -> nn.Module | None:
        """Class means of each teacher, and an adapter where its embedding is wider or narrower than the student's."""
        if not self.weight:
            return None
        width = seen.feature(EMBEDDING).shape[1]
        return nn.ModuleList([Directions(kept_means(vote.network, run), width) for vote in teachers.votes])

    @hookimpl
    def ddcore_student_loss(
        self, batch: Batch, seen: Seen, teachers: Teaching, modules: nn.Module | None, generator: Generator
    ) -> Term | None:
        """The term above, of several teachers by their weights."""
        if modules is None:
            return None
        values = []
        for number, directions in enumerate(modules.children()):
            student = directions(seen.feature(EMBEDDING), self.dropout, generator)
            value = of_batch(batch, student, teachers.seen[number].feature(EMBEDDING), directions.get_buffer("means"))
            values.append(teachers.votes[number].weight * value)
        return Term("nd", torch.stack(values).sum(), self.weight)


def of_batch(batch: Batch, student: Tensor, teacher: Tensor, means: Tensor) -> Tensor:
    """``norm_and_direction`` of a batch; of mixed rows as much towards each class as there is of it."""
    value = misses(student, teacher, means[batch.targets["class"]])
    if "mixed" in batch.targets:
        share = batch.targets["lam"]
        value = share * value + (1 - share) * misses(student, teacher, means[batch.targets["mixed"]])
    return value.mean()
