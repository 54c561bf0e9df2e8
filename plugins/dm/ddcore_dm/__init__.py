"""Distribution matching (Zhao and Bilen, WACV 2023, arXiv:2110.04181).

Under a freshly drawn, never trained network with features psi, bring the mean feature of each class's synthetic images
to the mean feature of its real ones:

    L = sum_c || mean_{x in B_c} psi(A(x)) - mean_{s in S_c} psi(A(s)) ||^2

summed over features and classes, with the same augmentation A for the real and the synthetic images of a class.

Shape letters: B rows, D features, K classes.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from attrs import frozen
from attrs.validators import ge, gt
from torch import Tensor, nn

from ddcore import Batch, Cost, Learn, Loss, Plugin, Progress, Task, Transform, hookimpl, option
from ddcore.networks import embed, features, mixes_samples
from ddcore.randomness import drawing_from

if TYPE_CHECKING:
    from ddcore import Run

ROWS_A_PASS = 1024


def class_means(features_BD: Tensor, classes_B: Tensor, count: int) -> Tensor:
    """Mean feature of each class.

    Args:
        features_BD: any float dtype; half precision is added up in float32.
        classes_B: whole numbers in [0, count).

    Returns:
        (count, D), at least float32; zero for a class without rows.
    """
    wide = features_BD.to(torch.promote_types(features_BD.dtype, torch.float32))
    sums = wide.new_zeros(count, wide.shape[1]).index_add(0, classes_B.long(), wide)
    return sums / classes_B.bincount(minlength=count).clamp(min=1).to(wide)[:, None]


def distribution_distance(real_KD: Tensor, synthetic_KD: Tensor) -> Tensor:
    """Squared distance of mean features, summed over features and classes; 0 when equal.

    References:
        Zhao and Bilen, WACV 2023, arXiv:2110.04181, equation 4 (the printed loss of the authors' code divides by K; the
        optimised one, and this, do not).
    """
    return (real_KD - synthetic_KD).square().sum()


@frozen(kw_only=True, eq=False)
class DM(Plugin):
    """Match mean features under random networks."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "match class means of features under random networks"
    paper: ClassVar[str] = "Dataset Condensation with Distribution Matching, WACV 2023, arXiv:2110.04181"
    role: ClassVar[str] = "matcher"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "dense"})
    steps: ClassVar[int | None] = 20000
    learns: ClassVar[tuple[str, ...]] = ("pixels",)
    asks: ClassVar[tuple[str, ...]] = ("initialize", "view:match", "augment:match")
    tiny: ClassVar[Mapping[str, object]] = {"batch_real": 16}
    presets: ClassVar[str | None] = "presets.toml"

    lr_img: float = option(1.0, help="learning rate of the pixels", symbol="eta_S", validator=gt(0))
    momentum: float = option(0.5, help="momentum of the pixels' SGD", validator=ge(0))
    batch_real: int = option(
        256, help="real images of a class in a step", symbol="|B_c|", unit="images", validator=ge(1)
    )

    def cost(self, run: "Run") -> Cost:
        """Every class's real and synthetic images, once."""
        classes = len(run.source.classes)
        return Cost(forward=classes * self.batch_real, backward=classes * run.config.ipc)

    @hookimpl
    def ddcore_learn(self, images: Tensor) -> Learn:
        """The pixels."""
        pixels = images.requires_grad_()
        optimizer = torch.optim.SGD([pixels], lr=self.lr_img, momentum=self.momentum)
        return Learn({"pixels": pixels}, {"pixels": optimizer}, roles={"pixels": "pixels"})

    @hookimpl
    def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: "Run") -> Iterator[Loss]:
        """The distance above, a group of classes at a time."""
        assert task.classes is not None
        network = run.network(run.generator("dm", "network", task.slot, step)).requires_grad_(False)
        dropout = run.generator("dm", "dropout", task.slot, step)
        classes = task.classes.unique().tolist()
        together = len(classes) if mixes_samples(network) else max(1, ROWS_A_PASS // self.batch_real)
        for at in range(0, len(classes), together):
            group = classes[at : at + together]
            shared = {
                c: run.draw(
                    "match", key=("dm", "augment", task.slot, step, c), shared=True, progress=Progress(step, task.steps)
                )
                for c in group
            }
            with drawing_from(dropout, run.device):
                real = self._real_means(network, group, shared, task, step, run)
            where = torch.isin(task.classes, torch.tensor(group)).nonzero()[:, 0].to(run.device)
            own = task.classes.to(run.device)[where]
            batch = run.view(Batch(learn.tensors["pixels"][where], {"class": own}, where), "match")
            batch = by_class(batch, group, shared)
            position = torch.searchsorted(torch.tensor(group, device=run.device), batch.targets["class"])
            with drawing_from(dropout, run.device):
                means = class_means(embed(network, batch.inputs), position, len(group))
            yield Loss(distribution_distance(real, means))

    def _real_means(
        self, network: nn.Module, group: list[int], shared: dict[int, Transform], task: Task, step: int, run: "Run"
    ) -> Tensor:
        batches, position = [], []
        for place, c in enumerate(group):
            count = min(self.batch_real, len(run.real.train.of_class(c)))
            images = run.real.sample(c, count, run.generator("dm", "real", task.slot, step, c))
            index = torch.arange(count, device=images.device)
            batches.append(shared[c](Batch(images, {"class": torch.full_like(index, c)}, index)).inputs)
            position.append(torch.full_like(index, place))
        return class_means(features(network, torch.cat(batches)), torch.cat(position), len(group))


def by_class(batch: Batch, classes: list[int], transforms: dict[int, Transform]) -> Batch:
    """Each class's rows under its own transform, class by class."""
    parts = [transforms[c](batch.rows(batch.targets["class"] == c)) for c in classes]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.joined(part)
    return joined
