"""Linear gradient matching (Cazenavette, Torralba and Sitzmann, NeurIPS 2025, arXiv:2511.16674).

Images for people who train no network but a linear probe on a frozen, pretrained encoder phi. In each step a random
linear classifier (W, b) is drawn, and the images are moved so that its gradient on them points where it does on real
ones:

    L = 1 - cos( grad l(W phi(A(x)) + b, y), grad l(W phi(A(s)) + b, y) )

with the cross entropy l, gradients with respect to W and b together, and random crops and mirrors A. The images are
sums of levels of 1, 2, 4, ... pixels that join the coarse ones one by one. Students are probes too: the encoder is
theirs, and a linear layer is trained. Pure pieces are in ``ddcore_lgm.matching``, encoders in ``ddcore_lgm.encoders``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from attrs import evolve, frozen
from attrs.validators import ge, gt, optional
from torch import Generator, Tensor, nn

from ddcore import Batch, Cost, Learn, Loss, Plugin, Progress, Seen, Subject, Task, hookimpl, option
from ddcore.images import Draw, kcenter, transform
from ddcore.runs import for_each_class
from ddcore.training import Protocol
from ddcore_lgm.encoders import TEACHER, Encoder, encoder_of, train_features
from ddcore_lgm.matching import LevelAdam, gradient_distance, latent, linear_gradient, shown, sides

if TYPE_CHECKING:
    from ddcore import Run

CENTROIDS, KCENTER = "centroids", "encoder-kcenter"
HEAD = 0.01
"""Deviation of a fresh classifier's weights, in a step and of a student; its biases are 0."""
VIEWS = Draw(crop="resized", mix="none")
PROBE = Protocol(
    name="frozen-probe",
    summary="a linear layer on a frozen encoder: Adam 0.001, cosine, 1000 epochs, no augmentation",
    epochs=1000,
    rate=0.001,
    batch=100,
    weight_decay=0.0,
    augment="none",
    extra_epoch=False,
    optimizer="adam",
    schedule_name="cosine",
)
PROTOCOLS: Mapping[str, Protocol] = {
    "frozen-probe": PROBE,
    "frozen-probe-views": evolve(
        PROBE,
        name="frozen-probe-views",
        summary="frozen-probe with crops of random area and mirrors, the paper's",
        views=VIEWS,
    ),
}


class Probe(nn.Module):
    """A linear layer on an encoder, which is shared and neither trained nor stored with it."""

    def __init__(self, student: nn.Module, encoder: Encoder, classes: int) -> None:
        """``student``: the network that it stands in for, out of use."""
        super().__init__()
        self.out_of_use = student.requires_grad_(False)
        self._encoder = [encoder]
        self.linear = nn.Linear(encoder.width, classes)
        nn.init.normal_(self.linear.weight, std=HEAD)
        nn.init.zeros_(self.linear.bias)

    def embed(self, images: Tensor) -> Tensor:
        """The encoder's features (B, D)."""
        encoder = self._encoder[0]
        return encoder.embed(images) if images.requires_grad else encoder.features(images)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.linear(self.embed(images))  # type: ignore[no-any-return]


@frozen(kw_only=True, eq=False)
class LGM(Plugin):
    """Match gradients of random linear classifiers on a frozen encoder."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = (
        "images for linear probes on a frozen, pretrained encoder: match a linear layer's gradients"
    )
    paper: ClassVar[str] = (
        "Dataset Distillation for Pre-Trained Self-Supervised Vision Models, NeurIPS 2025, arXiv:2511.16674"
    )
    role: ClassVar[str] = "matcher"
    gives_way: ClassVar[bool] = True
    steps: ClassVar[int | None] = 5000
    learns: ClassVar[tuple[str, ...]] = ("pixels",)
    asks: ClassVar[tuple[str, ...]] = ("initialize", "view:match", "augment:match")
    may_need: ClassVar[tuple[str, ...]] = ("teachers",)
    initializers: ClassVar[tuple[str, ...]] = (CENTROIDS, KCENTER)
    of_real: ClassVar[Mapping[str, str]] = {CENTROIDS: "unchanged", KCENTER: "unchanged"}
    suggests: ClassVar[str | None] = "noise"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    # Each row of a step has a view of its own, drawn by place: where views are on, another order draws other ones.
    tiny: ClassVar[Mapping[str, object]] = {"copies": 2, "every": 2, "views": False, "real_views": False}
    presets: ClassVar[str | None] = "presets.toml"

    encoder: str = option(
        TEACHER,
        help="frozen network that makes features: teacher, the first of --teacher, or one of --network",
        symbol="phi",
    )
    weights: str | None = option(
        None, help="of any encoder but teacher: file, URL, torchvision's name, pretrained for timm's, or package:NAME"
    )
    classes: int = option(1000, help="that the encoder's own head tells apart, which is not used", validator=ge(1))
    normalise: Literal["data", "imagenet", "half", "clip"] = option(
        "data",
        help="how the encoder wants images: as the data's, by ImageNet's or CLIP's statistics, or within -1 and 1",
    )
    size: int | None = option(
        None,
        help="to which images are resized for the encoder; none: as they are",
        unit="pixels",
        validator=optional(ge(1)),
    )
    rate: float = option(0.002, help="learning rate of the levels' Adam", validator=gt(0))
    pyramid: bool = option(True, help="whether images begin as one pixel and get finer levels; not if from real images")
    every: int = option(200, help="until another level comes", unit="steps", validator=ge(1))
    copies: int = option(10, help="differently augmented copies of each image in a step", validator=ge(1))
    batch_real: int | None = option(
        None, help="real images of a step; none: as many as there are copies", unit="images", validator=optional(ge(1))
    )
    views: bool = option(True, help="whether copies are cropped and mirrored at random")
    real_views: bool = option(True, help="whether real images are too; else their features are made once and kept")

    def assets(self, initializer: str | None) -> tuple[str, ...]:
        """Teachers, where one is the encoder."""
        return ("teachers",) if self.encoder == TEACHER else ()

    def cost(self, run: "Run") -> Cost:
        """Copies with gradients, real images without, if they are passed."""
        count = self.copies * run.config.ipc * len(run.source.classes)
        return Cost(forward=(self.batch_real or count) if self.real_views else 0, backward=count)

    def student_identity(self, run: "Run") -> Mapping[str, object]:
        """The encoder and how it sees images; nothing of how the set is made."""
        found = encoder_of(self, run)
        seen = {"size": self.size, "normalise": self.normalise}
        return {"network": f"probe of {found.name}", "encoder": found.digest, **seen, "trained": "a linear layer"}

    def suggests_protocol(self, subject: Subject) -> str:
        """``frozen-probe``."""
        return "frozen-probe"

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe, with and without augmentation."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_adapt_student(self, network: nn.Module, seen: Seen, run: "Run") -> nn.Module:
        """A probe in the place of the network."""
        return Probe(network, encoder_of(self, run), seen.logits.shape[1])

    @hookimpl
    def ddcore_initialize(self, name: str, classes: Tensor, run: "Run") -> Tensor | None:
        """``centroids``: the real images nearest to their class's mean feature; ``encoder-kcenter``: k-center."""
        if name not in self.initializers:
            return None
        features, train = train_features(encoder_of(self, run), run).cpu(), run.real.train

        def chosen(cls: int, count: int) -> Tensor:
            rows = train.of_class(cls)
            picked = kcenter(features[rows], min(count, len(rows))) if name == KCENTER else nearest(features[rows])
            return train.inputs(rows[picked[torch.arange(count) % len(picked)]])

        return for_each_class(classes, chosen)

    @hookimpl
    def ddcore_learn(self, task: Task, images: Tensor, run: "Run") -> Learn:
        """The pixels, and the levels behind them."""
        size, normalised = images.shape[-1], run.normalisation
        fresh = run.plan.initializer == "noise"
        start = None if fresh else latent(normalised.inverse(images))
        levels = sides(size, self.pyramid and fresh)

        def noise(number: int) -> Tensor:
            if start is not None:
                return start.clone()
            return reshuffled(images, levels[number], run.generator("lgm", "level", number))

        def show(of: Sequence[Tensor]) -> Tensor:
            return normalised.apply(shown(of, size))

        pixels = images.detach().clone().requires_grad_()
        optimizer = LevelAdam(pixels, show, noise, len(levels), lr=self.rate, every=self.every)
        fixed = {"encoder": encoder_of(self, run), "ranks": appearance(run.real.train.labels, len(run.source.classes))}
        return Learn({"pixels": pixels}, {"pixels": optimizer}, roles={"pixels": "pixels"}, fixed=fixed)

    @hookimpl
    def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: "Run") -> Iterator[Loss]:
        """The distance above, of all classes at once."""
        assert task.classes is not None
        encoder, own = learn.fixed["encoder"], task.classes.to(run.device)
        index = torch.arange(len(own), device=run.device)
        batch = run.view(Batch(learn.tensors["pixels"], {"class": own}, index), "match")
        copies = batch.rows(torch.arange(len(batch), device=run.device).repeat(self.copies))
        shape, generator = (len(run.source.classes), encoder.width), run.generator("lgm", "head", task.slot, step)
        drawn = HEAD * torch.randn(shape, generator=generator)
        weight = drawn[learn.fixed["ranks"]].to(learn.tensors["pixels"])
        bias = weight.new_zeros(len(weight))
        features, classes = self._real(encoder, self.batch_real or len(copies), task, step, run)
        real = linear_gradient(features, classes, weight, bias)
        copies = self._changed(copies, "synthetic", task, step, run) if self.views else copies
        features = encoder.embed(copies.inputs)
        yield Loss(gradient_distance(real, linear_gradient(features, copies.targets["class"], weight, bias)))

    def _real(self, encoder: Encoder, count: int, task: Task, step: int, run: "Run") -> tuple[Tensor, Tensor]:
        """Features (B, D) and classes (B,) of random real images."""
        train = run.real.train
        rows = torch.randperm(len(train), generator=run.generator("lgm", "real", task.slot, step))[:count]
        classes = train.labels[rows].to(run.device)
        if not self.real_views:
            return train_features_of(encoder, run)[rows.to(run.device)], classes
        images = Batch(train.inputs(rows), {"class": classes}, torch.arange(len(rows), device=run.device))
        with torch.no_grad():
            return encoder.embed(self._changed(images, "real", task, step, run).inputs), classes

    def _changed(self, batch: Batch, of: str, task: Task, step: int, run: "Run") -> Batch:
        """Each row under a crop and mirror of its own, and what plugins draw."""
        size = (run.source.size, run.source.size)
        draw = VIEWS.fitting(run.source.size, run.source.mirror_symmetric)
        change = transform(draw, len(batch), size, run.generator("lgm", "view", of, task.slot, step))
        key, progress = ("lgm", "augment", of, task.slot, step), Progress(step, task.steps)
        return run.draw("match", key=key, count=len(batch), progress=progress)(change(batch))


def reshuffled(noise_NCHW: Tensor, side: int, generator: Generator) -> Tensor:
    """Noise (N, C, side, side) out of each image's own: values at drawn places, under drawn signs, alike for all.

    So an image's noise follows it, wherever it stands among the others and whatever its class is called.
    """
    values = noise_NCHW.flatten(1)
    count = noise_NCHW.shape[1] * side * side
    places = torch.randperm(values.shape[1], generator=generator)[:count]
    signs = 2.0 * torch.randint(2, (count,), generator=generator) - 1
    mixed = values[:, places.to(values.device)] * signs.to(values)
    return mixed.reshape(len(values), -1, side, side)


def appearance(labels_N: Tensor, classes: int) -> Tensor:
    """(K,) int64: how many classes appear for the first time before each one does, so that a class's row of a drawn
    classifier is its own whatever its number is."""
    first = torch.full((classes,), len(labels_N)).scatter_reduce(0, labels_N, torch.arange(len(labels_N)), "amin")
    return first.argsort(stable=True).argsort(stable=True)


def nearest(features_ND: Tensor) -> Tensor:
    """(N,) int64: rows by their distance to the mean, the nearest first."""
    distance = (features_ND - features_ND.mean(0)).square().sum(1)
    return distance.argsort(stable=True)


_features: dict[tuple[str, str], Tensor] = {}


def train_features_of(encoder: Encoder, run: "Run") -> Tensor:
    """``train_features``, read once in a process."""
    key = run.address, encoder.digest
    if key not in _features:
        made = train_features(encoder, run)
        _features.clear()
        _features[key] = made
    return _features[key]
