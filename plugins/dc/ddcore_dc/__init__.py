"""Gradient matching (Zhao, Mopuri and Bilen, ICLR 2021, arXiv:2006.05929).

Images on which a network learns the same as on real ones give its loss the same gradients. So draw a network, and at
T_out points of its training on the synthetic set S move S along

    L = sum_c D(grad_theta l(S_c, theta), grad_theta l(B_c, theta))

for a batch B_c of real images of each class c, l the mean cross entropy; between two such points train the network on S
for T_in epochs. D adds up, layer by layer, the cosine distances of the gradients of each output's weights:

    D(a, b) = sum_layers sum_rows 1 - <a_i, b_i> / (|a_i| |b_i| + 1e-6)

Shape letters: B images, C H W pixels, K classes, P weights.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import ge, gt, in_, optional
from torch import Tensor, nn

from ddcore import Batch, Cost, Learn, Loss, Plugin, Progress, Task, hookimpl, option
from ddcore.networks import Crew, mixes_samples, wide, with_gradient
from ddcore.training import Protocol
from ddcore_dc.protocols import PROTOCOLS
from ddcore_dc.student import Student

if TYPE_CHECKING:
    from ddcore import Run

Distance = Literal["ours", "mse", "cos"]
DISTANCES: tuple[Distance, ...] = ("ours", "mse", "cos")
EPSILON = 1e-6

INNER_EPOCHS = {10: 50, 20: 25, 30: 20, 40: 15, 50: 10}
"""T_in by T_out; each T_out belongs to as many images a class."""
STATISTICS_ROWS = 16
"""Real images of a class that BatchNorm's statistics are taken from."""
ROWS_AT_ONCE = 2560
"""Real images in memory at once, in whole classes."""


def row_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """Cosine distances of the rows of one parameter's gradients, summed.

    Args:
        real: (out, ...) any float dtype, half precision compared in float32; a row is everything of one output.

    Returns:
        Scalar from 0 to twice the number of rows; 0 for a parameter of one axis (biases, norms' scales and shifts). A
        row of zeros is at distance 1 from any other: 1e-6 stands beside the product of norms.
    """
    if real.dim() < 2:
        return real.new_zeros(())
    real, synthetic = wide(real).flatten(1), wide(synthetic).flatten(1)
    norms = torch.linalg.vector_norm(real, dim=1) * torch.linalg.vector_norm(synthetic, dim=1)
    apart: Tensor = (1 - (real * synthetic).sum(1) / (norms + EPSILON)).sum()
    return apart


def gradient_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor], kind: Distance = "ours") -> Tensor:
    """How differently two batches move the same weights.

    Args:
        real: the gradient in each parameter, any float dtype; half precision is compared in float32.
        synthetic: likewise, in the same order.
        kind: ``ours``, ``row_distance`` summed over parameters; ``mse``, the squared length of the difference, summed
            over all weights, biases too; ``cos``, 1 minus the cosine of all weights as one vector.

    Returns:
        Scalar, differentiable in both. With ``ours`` and ``cos`` the length of a gradient does not matter, up to 1e-6.

    Raises:
        ValueError: the two differ in number or shapes, or there is no such distance.

    References:
        Zhao, Mopuri and Bilen, ICLR 2021, arXiv:2006.05929, as in their code, which also has ``mse`` and ``cos``.

    >>> a, b = [torch.tensor([[1.0, 0.0], [0.0, 2.0]])], [torch.tensor([[0.0, 3.0], [0.0, 1.0]])]
    >>> [round(float(gradient_distance(a, b, kind)), 4) for kind in ("ours", "mse", "cos")]
    [1.0, 11.0, 0.7172]
    """
    if [g.shape for g in real] != [g.shape for g in synthetic]:
        raise ValueError("gradients of different networks: give two of the same parameters in the same order")
    if kind not in DISTANCES:
        raise ValueError(f"no distance of gradients is named {kind!r}: choose one of {', '.join(DISTANCES)}")
    if kind == "ours":
        return torch.stack([row_distance(a, b) for a, b in zip(real, synthetic, strict=True)]).sum()
    one, other = (torch.cat([wide(g).reshape(-1) for g in gradient]) for gradient in (real, synthetic))
    if kind == "mse":
        return (one - other).square().sum()
    return row_distance(one[None], other[None])


def outer_inner_loops(ipc: int) -> tuple[int, int]:
    """T_out, how often a network's gradients are matched, and T_in, the epochs it is trained for in between.

    The authors' table at 1, 10, 20, 30, 40 and 50 images a class. Elsewhere, where their code refuses, ours: the row
    below, and from 2 to 9 images T_in of 10 images with T_out the number of images.

    >>> [outer_inner_loops(ipc) for ipc in (1, 10, 20, 30, 40, 50)]
    [(1, 1), (10, 50), (20, 25), (30, 20), (40, 15), (50, 10)]
    >>> [outer_inner_loops(ipc) for ipc in (2, 25, 100)]
    [(2, 50), (20, 25), (50, 10)]
    """
    if ipc == 1:
        return 1, 1
    row = max((known for known in INNER_EPOCHS if known <= ipc), default=10)
    return min(ipc, row), INNER_EPOCHS[row]


@frozen(kw_only=True, eq=False)
class DC(Plugin):
    """Match class gradients along the training of random networks."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "match gradients class by class, while networks train on the synthetic set"
    paper: ClassVar[str] = "Dataset Condensation with Gradient Matching, ICLR 2021, arXiv:2006.05929"
    role: ClassVar[str] = "matcher"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "dense"})
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    steps: ClassVar[int | None] = 1000
    learns: ClassVar[tuple[str, ...]] = ("pixels",)
    asks: ClassVar[tuple[str, ...]] = ("initialize", "view:match", "augment:match", "view:inner", "augment:inner")
    suggests: ClassVar[str | None] = "noise"
    presets: ClassVar[str | None] = "presets.toml"
    cells: ClassVar[str | None] = "cells.toml"

    outer_loops: int | None = option(
        None,
        help="times a network's gradients are matched; none: the paper's for this number of images",
        symbol="T_out",
        validator=optional(ge(1)),
    )
    inner_epochs: int | None = option(
        None,
        help="epochs a network trains on the synthetic set between two matches; none: the paper's",
        symbol="T_in",
        unit="epochs",
        validator=optional(ge(0)),
    )
    lr_img: float = option(0.1, help="learning rate of the pixels", symbol="eta_S", validator=gt(0))
    momentum: float = option(0.5, help="momentum of the pixels' SGD", validator=ge(0))
    lr_net: float = option(
        0.01, help="learning rate of a network's inner training", symbol="eta_theta", unit="a step", validator=gt(0)
    )
    batch_real: int = option(
        256, help="real images of a class in a match", symbol="|B_c|", unit="images", validator=ge(1)
    )
    batch_train: int = option(256, help="synthetic images of an inner step", unit="images", validator=ge(1))
    distance: Distance = option(
        "ours",
        help="of gradients: ours, the cosine by output and layer; mse or cos, of all weights as one vector",
        symbol="D",
        validator=in_(DISTANCES),
    )

    def loops(self, ipc: int) -> tuple[int, int]:
        """T_out and T_in of this run."""
        outer, inner = outer_inner_loops(ipc)
        return (
            outer if self.outer_loops is None else self.outer_loops,
            inner if self.inner_epochs is None else self.inner_epochs,
        )

    def cost(self, run: "Run") -> Cost:
        """T_out times every class's real and synthetic images, and the inner training between."""
        outer, inner = self.loops(run.config.ipc)
        classes = len(run.source.classes)
        rows = classes * run.config.ipc
        real = outer * classes * self.batch_real
        return Cost(backward=real + (outer - 1) * inner * rows, second_order=outer * rows)

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_learn(self, images: Tensor) -> Learn:
        """The pixels."""
        pixels = images.requires_grad_()
        optimizer = torch.optim.SGD([pixels], lr=self.lr_img, momentum=self.momentum)
        return Learn({"pixels": pixels}, {"pixels": optimizer}, roles={"pixels": "pixels"})

    @hookimpl
    def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: "Run") -> Iterator[Loss]:
        """One network: T_out times the distance of all classes, its training on the moved images between."""
        assert task.classes is not None
        student = Student.of(run.network(run.generator("dc", "network", task.slot, step)))
        outer, inner = self.loops(int(task.classes.bincount().max()))
        pixels = learn.tensors["pixels"]
        for o in range(outer):
            draws = Draws(run, task, step, o)
            if mixes_samples(student.network):
                student.freeze_statistics(draws.statistics_images())
            yield Loss(self.distance_of_all(student, pixels, draws), update=("pixels",))
            if o + 1 < outer:
                self.train(student, pixels.detach(), draws, inner)

    def distance_of_all(self, student: Student, pixels: Tensor, draws: "Draws") -> Tensor:
        """The loss L, its gradient in the pixels already worked out, class by class."""
        total, gradient = pixels.new_zeros(()), torch.zeros_like(pixels)

        def match(network: nn.Module, real: Batch, shown: Batch) -> tuple[Tensor, Tensor]:
            return matched(student, network, real, shown, self.distance)

        with Crew(student.network, pixels.device) as crew:
            together = max(crew.threads, ROWS_AT_ONCE // self.batch_real)
            for classes in draws.classes.split(together):
                pairs = [draws.pair(c, pixels, self.batch_real) for c in classes.tolist()]
                detached = [(real, shown.with_inputs(shown.inputs.detach())) for _, real, shown in pairs]
                for (rows, _, shown), (value, by_shown) in zip(pairs, crew.each(match, detached), strict=True):
                    total += value
                    gradient[rows.index] = torch.autograd.grad(shown.inputs, rows.inputs, by_shown)[0]
        return with_gradient(total, [pixels], [gradient])

    def train(self, student: Student, pixels: Tensor, draws: "Draws", epochs: int) -> None:
        """Plain SGD on the synthetic set, shuffled anew every epoch."""
        student.network.train()
        with Crew(student.network, pixels.device) as crew:
            for epoch in range(epochs):
                for batch in draws.inner_batches(pixels, epoch, self.batch_train):
                    student.descend(crew, batch, self.lr_net)


def matched(student: Student, network: nn.Module, real: Batch, shown: Batch, kind: Distance) -> tuple[Tensor, Tensor]:
    """The distance of one class, and its gradient in the synthetic images (B, C, H, W), by a slope.

    Args:
        network: the student's, or a thread's copy of it.
        real: images of a class, augmented; the gradient's target.
        shown: the synthetic ones, as the network sees them.
    """
    target, own = student.gradient(network, real), student.gradient(network, shown).requires_grad_()
    value = gradient_distance(student.layers(target), student.layers(own), kind)
    (direction,) = torch.autograd.grad(value, own)
    return value.detach(), student.slope_gradient(network, direction, shown)


@frozen(eq=False)
class Draws:
    """What one match, number ``loop`` of the network of this step, and the training after it draw at random."""

    run: "Run"
    task: Task
    step: int
    loop: int

    @property
    def classes(self) -> Tensor:
        """The synthetic set's classes, ascending."""
        assert self.task.classes is not None
        found: Tensor = self.task.classes.unique()
        return found

    def real(self, cls: int, most: int, what: str) -> Batch:
        """Random real images of a class, all of them if there are fewer."""
        count = min(most, len(self.run.real.train.of_class(cls)))
        images = self.run.real.sample(cls, count, self.generator(what, cls))
        index = torch.arange(count, device=images.device)
        return Batch(images, {"class": torch.full_like(index, cls)}, index)

    def statistics_images(self) -> Tensor:
        """For BatchNorm: some of every class, not augmented."""
        return torch.cat([self.real(c, STATISTICS_ROWS, "statistics").inputs for c in self.classes.tolist()])

    def pair(self, cls: int, pixels: Tensor, batch_real: int) -> tuple[Batch, Batch, Batch]:
        """A class's synthetic images as stored; its real ones and the stored as shown, under one transform."""
        assert self.task.classes is not None
        where = (self.task.classes == cls).nonzero()[:, 0].to(pixels.device)
        rows = Batch(pixels.detach()[where].requires_grad_(), {"class": torch.full_like(where, cls)}, where)
        key = self.key("augment", cls)
        transform = self.run.draw("match", key=key, shared=True, progress=self.progress)
        real = transform(self.real(cls, batch_real, "real"))
        return rows, real, transform(self.run.view(rows, "match"))

    def inner_batches(self, pixels: Tensor, epoch: int, size: int) -> Iterator[Batch]:
        """The synthetic set once, shuffled, viewed and augmented."""
        assert self.task.classes is not None
        order = torch.randperm(len(pixels), generator=self.generator("order", epoch))
        for number, index in enumerate(order.split(size)):
            targets = {"class": self.task.classes[index].to(pixels.device)}
            index = index.to(pixels.device)
            shown = self.run.view(Batch(pixels[index], targets, index), "inner")
            key = self.key("inner", epoch, number)
            yield self.run.draw("inner", key=key, count=len(shown), progress=self.progress)(shown)

    @property
    def progress(self) -> Progress:
        """Of the task, in networks."""
        return Progress(self.step, self.task.steps)

    def key(self, what: str, *more: int) -> tuple[str | int, ...]:
        """The name of a draw."""
        return ("dc", what, self.task.slot, self.step, self.loop, *more)

    def generator(self, what: str, *more: int) -> torch.Generator:
        """For a draw."""
        return self.run.generator(*self.key(what, *more))
