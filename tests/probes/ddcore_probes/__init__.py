"""Plugins that core tests run on, as a distribution beside the core: two matchers and two enhancements of no method."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import attrs
import torch
from attrs import frozen
from attrs.validators import ge, gt

from ddcore import Batch, Learn, Loss, Plugin, Progress, Seen, Sequential, Term, Transform, hookimpl, option
from ddcore.images import Draw
from ddcore.kit.contract.probe import Probe
from ddcore.sets import to_levels
from ddcore.training import Protocol, Teaching

VIEWS = Draw(crop="resized", flip=0.5, mix="none", beta=1.0)
COSINE = {"extra_epoch": False, "schedule_name": "cosine", "augment": "none"}
SMALL = {**COSINE, "rate": 1e-3, "momentum": 0.0, "weight_decay": 0.01, "decay_biases": False, "optimizer": "adamw"}
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Protocol(name="turned", summary="a mirror image first", learned_rate=True, flip_first=True),
        Protocol(name="each-image", summary="each image moved on its own", augment="geometric"),
        Protocol(
            name="warm", summary="a warm-up", epochs=100, rate=0.2, weight_decay=1e-4, warmup=5, views=VIEWS, **COSINE
        ),
        Protocol(
            name="grouped", summary="rows in groups", epochs=300, batch=16, group=8, stretch=2.0, views=VIEWS, **SMALL
        ),
    )
}


@frozen(kw_only=True, eq=False)
class Pull(Plugin):
    """Pull the mean image of each class to that of the real data."""

    summary: ClassVar[str] = "mean images of classes, for tests"
    paper: ClassVar[str] = "none, arXiv:2401.00001"
    role: ClassVar[str] = "matcher"
    steps: ClassVar[int | None] = 4
    learns: ClassVar[tuple[str, ...]] = ("pixels",)
    asks: ClassVar[tuple[str, ...]] = ("initialize", "view:match", "augment:match")
    presets: ClassVar[str | None] = "presets.toml"
    cells: ClassVar[str | None] = "cells.toml"

    rate: float = option(0.5, help="learning rate of the pixels", validator=gt(0))

    @hookimpl
    def ddcore_learn(self, images) -> Learn:
        """The pixels."""
        pixels = images.requires_grad_()
        return Learn({"pixels": pixels}, {"pixels": torch.optim.SGD([pixels], lr=self.rate)}, {"pixels": "pixels"})

    @hookimpl
    def ddcore_matching_loss(self, task, step, learn, run) -> Iterator[Loss]:
        """Squared distance, a class at a time."""
        for cls in task.classes.unique().tolist():
            key = ("pull", step, cls)
            draw = run.draw("match", key=key, shared=True, progress=Progress(step, task.steps))
            images = run.real.sample(cls, 4, run.generator(*key))
            real = draw(Batch(images, {"class": torch.full((4,), cls)}, torch.arange(4)))
            where = (task.classes == cls).nonzero()[:, 0]
            own = draw(
                run.view(Batch(learn.tensors["pixels"][where], {"class": torch.full_like(where, cls)}, where), "match")
            )
            yield Loss((own.inputs.mean(0) - real.inputs.mean(0)).square().mean())


@frozen(kw_only=True, eq=False)
class Rival(Probe):
    """The contract kit's matcher, which trains experts unless told otherwise."""

    summary: ClassVar[str] = "asks enhancements for everything, for tests"
    paper: ClassVar[str] = "none, arXiv:2401.00002"
    presets: ClassVar[str | None] = "rival.toml"

    experts: bool = option(True, help="train experts, and let their weights shape the loss")


@frozen(kw_only=True, eq=False)
class Turn(Plugin):
    """Show each image together with its mirror image."""

    summary: ClassVar[str] = "mirror images beside images, for tests"
    paper: ClassVar[str] = "none, arXiv:2401.00003"
    view_phases: ClassVar[tuple[str, ...]] = ("match", "inner", "student_step")
    assumes: ClassVar[Mapping[str, str]] = {"mirror_symmetric": "a mirrored digit is often not of its class"}

    both: bool = option(True, help="both, not the mirror images alone")

    @hookimpl
    def ddcore_view(self, batch: Batch) -> Batch:
        """Twice the rows."""
        other = batch.with_inputs(batch.inputs.flip(-1))
        return batch.joined(other) if self.both else other


@frozen(kw_only=True, eq=False)
class Shake(Plugin):
    """Fresh noise on all that is compared."""

    summary: ClassVar[str] = "noise, for tests"
    paper: ClassVar[str] = "none, arXiv:2401.00004"
    augment_phases: ClassVar[tuple[str, ...]] = ("match", "inner", "student_step")

    strength: float = option(0.1, help="standard deviation of the noise", validator=gt(0))

    @hookimpl
    def ddcore_augment(self, transform: Transform, generator: torch.Generator) -> Transform:
        """The same for all rows."""
        seed = int(torch.randint(2**31, (), generator=generator))

        def noise(batch: Batch) -> Batch:
            own = torch.Generator().manual_seed(seed)
            drawn = torch.randn(batch.inputs.shape[1:], generator=own).to(batch.inputs)
            return batch.with_inputs(batch.inputs + self.strength * drawn)

        return Sequential((transform, noise))


@frozen(kw_only=True, eq=False)
class Coarse(Plugin):
    """Store pixels in few bits."""

    summary: ClassVar[str] = "fewer bits, for tests"
    paper: ClassVar[str] = "none, arXiv:2401.00005"

    bits: int = option(8, help="of a stored pixel")

    @hookimpl
    def ddcore_store(self, synthetic, run):
        """Levels instead of floats."""
        tensors, decoder = to_levels(synthetic.tensors, synthetic.decoder, run.normalisation, self.bits)
        return attrs.evolve(synthetic, tensors=tensors, decoder=decoder)


@frozen(kw_only=True, eq=False)
class Heed(Plugin):
    """Have students answer as teachers do."""

    summary: ClassVar[str] = "students near their teachers, for tests"
    paper: ClassVar[str] = "none, arXiv:2401.00007"
    role: ClassVar[str] = "student"
    needs: ClassVar[tuple[str, ...]] = ("teachers",)
    neutral: ClassVar[Mapping[str, object]] = {"weight": 0.0, "label_weight": 1.0}

    weight: float = option(0.9, help="of the distance to the teachers' logits", validator=ge(0))
    label_weight: float = option(0.1, help="of the labels' own loss", validator=ge(0))

    @hookimpl
    def ddcore_student_loss(self, seen: Seen, teachers: Teaching) -> Term:
        """Squared distance of logits."""
        return Term("heed", self.weight * (seen.logits - teachers.logits).square().mean(), labels=self.label_weight)


@frozen(kw_only=True, eq=False)
class Recipes(Plugin):
    """Bring recipes that use what the core's own do not."""

    summary: ClassVar[str] = "recipes of students, for tests"
    paper: ClassVar[str] = "none, arXiv:2401.00006"
    protocols: ClassVar[tuple[str, ...]] = tuple(RECIPES)

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """One of them."""
        return RECIPES.get(name)
