"""Spectra: a modality that ddcore has never heard of, rows (1, L) of intensities, and a matcher of anything in rows.

A pack says what a sample is, what a real one costs, which network and recipe its students have and what else they are
scored by; ``ddcore run`` then labels, scores, compares and stores spectra as it does images. The matcher pulls the mean
row of each class to that of its real rows. Shape letters: N rows, L channels of a spectrum, K classes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from attrs import frozen
from torch import Generator, Tensor, nn

from ddcore import Learn, Loss, Plugin, Subject, Task, hookimpl
from ddcore.data import Source, Split


def spectra(count: int, length: int, generator: Generator) -> Split:
    """Rows (N, 1, L) in [0, 1] of three minerals in turn, each of two peaks of its own, with noise."""
    classes, at = torch.arange(count) % 3, torch.arange(length)
    peaks = length * torch.tensor([[0.2, 0.6], [0.3, 0.7], [0.4, 0.8]])[classes]
    rows = torch.exp(-((at - peaks[:, :, None]) ** 2) / length).sum(1)
    return Split((rows + 0.3 * torch.randn(rows.shape, generator=generator)).clamp(0, 1)[:, None], classes)


class Peaks(nn.Module):
    """A convolution over L, the largest value of each of its channels, a linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.filters, self.classifier = nn.Conv1d(1, 16, 9, padding=4), nn.Linear(16 * 4, classes)

    def embed(self, rows: Tensor) -> Tensor:
        """(B, 64) of rows (B, 1, L)."""
        return nn.functional.adaptive_max_pool1d(self.filters(rows).relu(), 4).flatten(1)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.classifier(self.embed(rows))


@frozen(kw_only=True, eq=False)
class Spectra(Plugin):
    """Reads spectra and says how they are learned."""

    api: ClassVar[str] = "2.1"
    summary: ClassVar[str] = "spectra of three minerals, as a modality of its own"
    role: ClassVar[str] = "data"
    modality: ClassVar[frozenset[str]] = frozenset({"spectra", "dense"})
    datasets: ClassVar[tuple[str, ...]] = ("minerals",)
    networks: ClassVar[tuple[str, ...]] = ("peaks",)
    metrics: ClassVar[Mapping[str, str]] = {"worst_class": "larger"}

    def suggests_protocol(self, subject: Subject) -> str | None:
        """A short recipe without augmentation."""
        return "plain-50" if subject.modality == "spectra" else None

    @hookimpl
    def ddcore_data(self, name: str, rest: str, options: Mapping[str, Any]) -> Source | None:
        """``minerals``: 150 spectra to learn from, 90 to test on; a real one costs a byte a channel."""
        if name != "minerals":
            return None
        train, test = (spectra(n, 48, torch.Generator().manual_seed(seed)) for seed, n in enumerate((150, 90)))
        said = {"modality": "spectra", "dense": True, "row_bytes": 48, "mirror_symmetric": False}
        return Source(name=name, train=train, test=test, classes=("calcite", "mica", "quartz"), **said)

    @hookimpl
    def ddcore_network(self, name: str, classes: int, generator: Generator) -> nn.Module | None:
        """``peaks``."""
        return Peaks(classes) if name == "peaks" else None

    @hookimpl
    def ddcore_examine(self, answers: Any) -> dict[str, Tensor]:
        """The accuracy of the class that is told worst."""
        right, labels = (answers.classes == answers.labels).double(), answers.labels
        return {"worst_class": torch.stack([right[labels == cls].mean() for cls in labels.unique()]).min()}


@frozen(kw_only=True, eq=False)
class RowMeans(Plugin):
    """Pull the mean row of each class to that of its real rows."""

    api: ClassVar[str] = "2.1"
    summary: ClassVar[str] = "mean rows of classes, of any samples of one shape"
    role: ClassVar[str] = "matcher"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "dense"})
    steps: ClassVar[int | None] = 100
    learns: ClassVar[tuple[str, ...]] = ("pixels",)
    asks: ClassVar[tuple[str, ...]] = ("initialize",)

    @hookimpl
    def ddcore_learn(self, task: Task, images: Tensor) -> Learn:
        """The rows themselves."""
        rows = images.requires_grad_()
        return Learn({"pixels": rows}, {"rows": torch.optim.SGD([rows], lr=1.0)})

    @hookimpl
    def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: Any) -> Iterator[Loss]:
        """Squared distance of the means, summed over the classes."""
        classes, rows = task.classes.unique().tolist(), learn.tensors["pixels"]
        real = [run.real.sample(cls, 32, run.generator("row-means", task.slot, step, cls)).mean(0) for cls in classes]
        ours = [rows[task.classes == cls].mean(0) for cls in classes]
        yield Loss((torch.stack(ours) - torch.stack(real)).square().sum(), update=("rows",))
