"""From a run's real data and teachers to a projector, kept in the cache so that relabelling and other runs find it
again."""

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from ddcore import Transform
from ddcore.errors import NonFiniteLoss, OptionError
from ddcore.images import transform
from ddcore.labels import (
    CLIP_IMAGES,
    Encoder,
    Prompts,
    Public,
    feature_tensors,
    last_layer,
)
from ddcore.networks import lay_out, torchvision_url
from ddcore.storage import Checkpoints, Place, afresh
from ddcore.storage.keeping import digest_of, found, load, make_folder, save
from ddcore.training import (
    IMAGENET,
    NEAR_CHANCE,
    TRAINED_HERE,
    Changes,
    Descent,
    Epoch,
    Keeper,
    Renormalised,
    accuracy,
    is_finite,
    members_of,
    shown_by,
    sole_trainer,
    teacher_recipe,
    train_student,
)
from ddcore_hello.projecting import WeakAnswers, fitted_scale, prototypes
from ddcore_hello.projector import Projector, ProjectorLabels, adaptable, fresh_factors

if TYPE_CHECKING:
    from ddcore import Normalisation, Run
    from ddcore_hello import HeLlO

VERSION = 1
DONE, FILE = "fit", "projector.safetensors"
AT_ONCE = 64
"""Images of one pass."""
PROBE = 1000
"""Training images, evenly spaced, that the scale is fitted to and a projector is looked over with."""
CLIP, CLIP_SIZE = "open_clip:", 224
IDLE = ("student_loss", "temperature", "student_hard", "update", "update_rate", "factor", "crops", "pool", "scale")
"""Options that shape no projector."""


def projector_of(plugin: "HeLlO", run: "Run") -> ProjectorLabels:
    """The run's projector, as labels of one sample a class: fitted now, or found in the cache.

    Raises:
        OptionError, InputError: options that do not go together; weights that are not here.
        NonFiniteLoss: it diverged.
        Interrupted: the run was told to stop; the projector so far is kept.
    """
    encoder, theirs = encoder_of(plugin, run)
    key = recipe(plugin, encoder, run)
    place = make_folder(run.cache, "projectors", digest_of(key), note=run.warn)
    with sole_trainer(place, run):
        there = found(place / FILE, place.name, FILE, note=run.warn)
        if there is None:
            start = _unfitted(plugin, encoder, theirs, run)
            fitted = afresh(_kept(place), DONE, partial(_fitted, start, plugin, place, run), run.warn)
            save(place / FILE, fitted.tensors(), key, FILE, {"header": json.dumps(fitted.header())})
            there = load(place / FILE, place.name, FILE)
    tensors = {**there.tensors, **{f"encoder.{name}": t for name, t in encoder.weights.items()}}
    made = ProjectorLabels.load(json.loads(there.facts["header"]), tensors)
    return attrs.evolve(made, loss=plugin.student_loss, hard=plugin.student_hard, temperature=plugin.temperature)


def recipe(plugin: "HeLlO", encoder: Encoder, run: "Run") -> dict[str, Any]:
    """Everything that shapes a projector, as JSON values."""
    members = [
        teacher_recipe(member, run) if member.weights == TRAINED_HERE else [member.network, member.weights]
        for member in members_of(run)
    ]
    return {
        "version": VERSION,
        "data": run.source.fingerprint,
        "normalisation": run.normalisation.header(),
        "teachers": members,
        "encoder": encoder.header(),
        "views": shown_by(run).header(),
        "hello": {name: value for name, value in attrs.asdict(plugin).items() if name not in IDLE},
        "seed": run.seed,
        "machine": run.machine,
    }


# ---- before anything is fitted ---------------------------------------------------------------------------------------


def encoder_of(plugin: "HeLlO", run: "Run") -> "tuple[Encoder, Normalisation | None]":
    """The frozen encoder, and how it wants images if not as the run's are.

    Raises:
        OptionError: a network without weights, or weights without a network.
        InputError: weights that are nowhere a reader of the labels could find them.
    """
    if (plugin.encoder == "auto") != (plugin.weights is None):
        name = "NAME" if plugin.encoder == "auto" else plugin.encoder
        raise OptionError(
            f"an encoder other than the teacher is a network with public weights: give --hello.encoder {name} and --hello.weights FILE"
        )
    if plugin.weights is None:
        inner, theirs = _teacher(run)
        return Encoder.of(members_of(run)[0].network, inner, run.source.channels, run.source.size), theirs
    public = Public.at(torchvision_url(plugin.encoder, plugin.weights) or plugin.weights)
    public.place()
    clip = plugin.encoder.startswith(CLIP)
    channels, size = (3, CLIP_SIZE) if clip else (run.source.channels, run.source.size)
    if channels != run.source.channels:
        raise OptionError(
            f"--hello.encoder {plugin.encoder} wants {channels} channels, and these images have {run.source.channels}"
        )
    wanted = {"auto": CLIP_IMAGES if clip else None, "data": None, "imagenet": IMAGENET, "clip": CLIP_IMAGES}
    return Encoder(plugin.encoder, channels, size, public=public), wanted[plugin.normalise]


def _teacher(run: "Run") -> "tuple[nn.Module, Normalisation | None]":
    network = run.teachers.network(0)
    return (network.network, IMAGENET) if isinstance(network, Renormalised) else (network, None)


def _unfitted(plugin: "HeLlO", encoder: Encoder, theirs: "Normalisation | None", run: "Run") -> ProjectorLabels:
    """Rank 0: the zero-shot projector, its scale fitted to the weak teachers."""
    ours = None if theirs is None else run.normalisation
    count = len(run.source.classes)
    plain = partial(ProjectorLabels, classes=torch.arange(count), encoder=encoder, ours=ours, theirs=theirs)
    if head_kind(plugin) == "teacher":
        inner, _ = _teacher(run)
        weight, bias = last_layer(inner, encoder.channels, encoder.size)
        return plain(head=weight, bias=bias, unit=False)
    if head_kind(plugin) == "text":
        return _scaled(plain(head=Prompts(run.source.classes, plugin.template)), plugin, run)
    rows = torch.cat([run.real.choose(c, n, run.generator("hello", "prototypes", c)) for c, n in _shares(plugin, run)])
    found = answers_of(sight(encoder, theirs, run).features, rows, run)
    return _scaled(plain(head=prototypes(found, run.real.train.labels[rows], count)), plugin, run)


def head_kind(plugin: "HeLlO") -> str:
    """Where the head comes from.

    Raises:
        OptionError: a teacher's head on another encoder.
    """
    if plugin.head == "teacher" and plugin.encoder != "auto":
        raise OptionError("--hello.head teacher belongs to the teacher as the encoder: leave out --hello.encoder")
    return ("text" if plugin.encoder.startswith(CLIP) else "prototypes") if plugin.head == "auto" else plugin.head


def _shares(plugin: "HeLlO", run: "Run") -> list[tuple[int, int]]:
    return [(cls, min(there, plugin.prototypes)) for cls, there in enumerate(run.real.counts())]


def sight(encoder: Encoder, theirs: "Normalisation | None", run: "Run") -> Projector:
    """The frozen encoder behind what brings the run's images to it: ask for its ``features``."""
    ours = None if theirs is None else run.normalisation
    none: dict[str, Any] = {"classes": torch.zeros(1, dtype=torch.int64), "head": torch.zeros(1, 1), "unit": False}
    return ProjectorLabels(encoder=encoder, ours=ours, theirs=theirs, **none).network(run.device, run.dtype)


def _scaled(labels: ProjectorLabels, plugin: "HeLlO", run: "Run") -> ProjectorLabels:
    rows, (teachers, weights) = probe(run), weak_teachers(run)
    answers = WeakAnswers(run.real.train.labels, labels.class_count, teachers, weights=weights)
    wanted = answers_of(answers.mean, rows, run)
    found = answers_of(labels.network(run.device, run.dtype), rows, run)
    return attrs.evolve(labels, scale=fitted_scale(found, wanted))


def answers_of(function: Callable[[Tensor], Tensor], rows: Tensor, run: "Run") -> Tensor:
    """What a function of images makes of real training images, without gradient, on the CPU."""
    with torch.no_grad():
        return torch.cat([function(run.real.train.inputs(part)).cpu() for part in rows.split(AT_ONCE)])


def probe(run: "Run") -> Tensor:
    """Rows of training images, evenly spaced."""
    count = len(run.real.train)
    return torch.arange(count) if count <= PROBE else torch.linspace(0, count - 1, PROBE).long()


def weak_teachers(run: "Run") -> tuple[list[nn.Module], list[float] | None]:
    """Snapshots of teacher 0 if there are any, else whoever labels; with their weights."""
    if members_of(run)[0].weights == TRAINED_HERE and run.options["teachers"].snapshots:
        return run.teachers.snapshots(0), None
    votes = run.votes("label")
    return [vote.network for vote in votes], [vote.weight for vote in votes]


# ---- fitting ---------------------------------------------------------------------------------------------------------


def _fitted(start: ProjectorLabels, plugin: "HeLlO", place: Place, run: "Run") -> ProjectorLabels:
    encoder = lay_out(start.encoder.built().to(device=run.device, dtype=run.dtype))
    head: Any = start.projector(encoder).head
    shapes = {**_convolutions(encoder, start.encoder), "head": tuple(head.shape)}
    ranks = {name: plugin.head_rank if name == "head" else plugin.rank for name in shapes}
    factors = fresh_factors(shapes, ranks, run.generator("hello", "factors"))
    made = start
    if factors:
        projector = attrs.evolve(start, factors=factors).projector(encoder).to(device=run.device, dtype=run.dtype)
        _descend(projector, start.class_count, plugin, place, run)
        kept = torch.float16 if plugin.half else torch.float32
        pairs = {name: (a.detach().to(kept), b.detach().to(kept)) for name, (a, b) in projector.factors.items()}
        made = attrs.evolve(start, factors=pairs)
    _say(start, made, run)
    return made


def _kept(place: Place) -> Checkpoints:
    """What is kept of a descent."""
    return Checkpoints(place, of=f"{place.name}/")


def _convolutions(encoder: nn.Module, described: Encoder) -> Mapping[str, tuple[int, ...]]:
    """Those that features depend on."""
    if described.network.startswith(CLIP):
        return adaptable(encoder)
    used = feature_tensors(encoder, described.channels, described.size)
    return {name: shape for name, shape in adaptable(encoder).items() if name in used}


def _descend(projector: Projector, classes: int, plugin: "HeLlO", place: Place, run: "Run") -> None:
    """Train the factors; an interrupted descent goes on from its last epoch."""
    real, (teachers, weights) = run.real.train, weak_teachers(run)
    answers = WeakAnswers(real.labels, classes, teachers, weights=weights, hard=plugin.hard, weak=plugin.weak)
    a_pass, draw = -(-len(real) // plugin.batch), shown_by(run)
    size = (run.source.size, run.source.size)

    def augment(count: int, step: int) -> Transform:
        return transform(draw, count, size, run.generator("hello", "view", step))

    def keep(epoch: Epoch) -> None:
        if not math.isfinite(epoch.loss) or not is_finite(projector):
            raise NonFiniteLoss(
                f"the projector diverged in epoch {epoch.number + 1} (loss {epoch.loss}): lower --hello.rate, which is {plugin.rate:g}"
            )
        run.log("projector", epoch=epoch.number + 1, loss=epoch.loss)
        tick(1)

    with run.progress("projector", plugin.epochs, "epochs") as tick:
        train_student(
            projector,
            real,
            answers,
            Descent(
                steps=plugin.epochs * a_pass,
                batch=plugin.batch,
                rate=plugin.rate,
                weight_decay=plugin.decay,
                optimizer="adamw",
                schedule="cosine",
                per_epoch=a_pass,
            ),
            generator=partial(run.generator, "hello", "fit"),
            changes=Changes(augment=augment),
            keeper=Keeper(_kept(place), DONE, lambda: run.stopping, run.check_stop),
            on_epoch=keep,
        )


def _say(start: ProjectorLabels, made: ProjectorLabels, run: "Run") -> None:
    rows, chance = probe(run), 1 / made.class_count
    before, after = (
        accuracy(each.network(run.device, run.dtype), run.real.train, index=rows) for each in (start, made)
    )
    public, weak = made.encoder.public, len(weak_teachers(run)[0])
    beside = f"beside {made.model_bytes:,} bytes of its encoder"
    if public is not None:
        beside = f"beside {public.nbytes:,} bytes of public weights, which are not counted"
    run.say(
        f"projector: right on {before:.1%} of training images before it was fitted to {weak} weak teachers, {after:.1%} after; "
        f"{made.payload_bytes - made.classes.numel():,} bytes {beside}"
    )
    run.log("projector", before=before, after=after, bytes=made.factor_bytes)
    if after - chance < NEAR_CHANCE * (1 - chance):
        run.warn(
            f"the projector is right on {after:.2f} of training images (chance is {chance:.2f}), so that students will hardly learn "
            "from its labels: raise --hello.epochs or --hello.rate, or take another --hello.encoder"
        )
