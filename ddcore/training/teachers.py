"""Teachers: networks that were trained on the real data, or loaded, and that answer for it, frozen and in eval mode.

One that is trained here lies in the cache under a digest of everything that shaped it, so that runs and committees
share it:

    teachers/<digest>/recipe.json, weights.safetensors, snapshot-000.safetensors (weaker ones, by --teachers.snapshots)

Whatever its origin, a teacher that is right no more often than chance on training images is refused: its classes are in
another order than the data's, or it wants other images, the most reported failure of methods that need teachers.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import field, frozen
from torch import Tensor, nn

from ddcore.api.types import Task, Transform, Vote
from ddcore.data.normalisation import MeanStd
from ddcore.errors import InputError, NonFiniteLoss, StoreError
from ddcore.images.views import LARGE, Draw, transform
from ddcore.labels import HardLabels
from ddcore.networks.outside import weights_url
from ddcore.networks.passes import lay_out
from ddcore.networks.zoo import CONVNET
from ddcore.storage.checkpoints import Checkpoints, afresh
from ddcore.storage.keeping import Found, describe, digest_of, load, machine, make_folder, save, wrong
from ddcore.storage.places import Place, sha256_of
from ddcore.storage.weights import fill, hash_in_name, read_with_facts
from ddcore.training.class_order import facts_of, names_in, put_in_order, refuse_other_order
from ddcore.training.experts import sole_trainer
from ddcore.training.loop import Changes, Descent, Epoch, Keeper, accuracy, is_finite, train_student

if TYPE_CHECKING:
    from ddcore.api.services import Normalisation
    from ddcore.api.services import Run as Asked
    from ddcore.composing.host import Host as Run

RECIPE_VERSION = 1
DONE, WEIGHTS = "teacher", "weights"
TRAINED_HERE = "train"
PROBE = 1000
"""Training images, evenly spaced, that a teacher is looked over with."""
NO_CHECK = "; --teachers.no-check goes on all the same"
IMAGENET = MeanStd((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@frozen
class Member:
    """One teacher as the options name it.

    Attributes:
        network: architecture.
        weights: where they come from; ``train`` for here.
        replica: which of the teachers trained here with this architecture, counted from 0.
    """

    number: int
    network: str
    weights: str
    replica: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.network} ({self.weights})" if self.weights != TRAINED_HERE else self.network


@frozen(eq=False)
class Committee:
    """The run's teachers.

    Attributes:
        members: in the order of the options.
    """

    run: Run
    members: tuple[Member, ...]
    _networks: dict[int, nn.Module] = field(factory=dict)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def names(self) -> tuple[str, ...]:
        """Of each, for messages and records."""
        return tuple(member.name for member in self.members)

    @cached_property
    def accuracies(self) -> tuple[float, ...]:
        """Of each on training images, in [0, 1]."""
        return tuple(self._accuracy(number) for number in range(len(self)))

    def _accuracy(self, number: int) -> float:
        member = self.members[number]
        if member.weights == TRAINED_HERE:
            return float(_kept(member, WEIGHTS, self.run).facts["accuracy"])
        return _probed(self.network(number), self.run)

    @property
    def said(self) -> str:
        """One line for people."""
        each = zip(self.names, self.accuracies, strict=True)
        return ", ".join(f"{name} {score:.1%} on training images" for name, score in each)

    def network(self, number: int) -> nn.Module:
        """A teacher in eval mode, its weights without gradient, on the run's device; always the same object:
        never write to it."""
        if number not in self._networks:
            self._networks[number] = frozen_network(network_of(self.members[number], self.run))
        return self._networks[number]

    def snapshots(self, number: int) -> list[nn.Module]:
        """Weaker copies of a teacher from along its training, weakest first.

        Raises:
            InputError: none were kept.
        """
        member = self.members[number]
        count = self.run.options["teachers"].snapshots
        if member.weights != TRAINED_HERE or not count:
            why = "its weights were loaded" if member.weights != TRAINED_HERE else "--teachers.snapshots is 0"
            raise InputError(
                f"no weaker copies of teacher {member.name} were kept ({why}): train it here with snapshots"
            )
        return [frozen_network(_trained(member, f"snapshot-{n:03d}", self.run)) for n in range(count)]

    def nbytes(self, number: int) -> int:
        """What it costs to ship a teacher: its weights and buffers in float32."""
        return sum(4 * t.numel() for t in self.network(number).state_dict().values())

    def identity(self) -> list[str]:
        """The weights of each, as hashes: what depends on teachers is kept under them."""
        return [state_hash(self.network(number)) for number in range(len(self))]

    def votes(self) -> list[Vote]:
        """All of them, with equal weights that sum to 1."""
        return [Vote(self.network(n), 1 / len(self), name) for n, name in enumerate(self.names)]


def state_hash(network: nn.Module) -> str:
    """Sixteen letters that tell its weights and buffers from others."""
    state = [t.detach().cpu().contiguous() for t in network.state_dict().values()]
    return sha256_of(b"".join(t.numpy().tobytes() for t in state))[:16]


def frozen_network(network: nn.Module) -> nn.Module:
    """In eval mode, its weights without gradient."""
    return network.eval().requires_grad_(False)


def committee(run: Run) -> Committee:
    """The run's teachers; those that are missing are trained now, as tasks.

    Raises:
        InputError: weights that cannot be loaded; a teacher that is right no more often than chance.
    """
    members = members_of(run)
    if left := [member for member in members if missing(member, run)]:
        for member in left:
            describe(_folder_of(member, run), recipe(member, run))
        run.map([teacher_task(member, run) for member in left], "teachers", "teachers")
    found = Committee(run, members)
    if run.options["teachers"].check:
        for member, score in zip(members, found.accuracies, strict=True):
            if member.weights != TRAINED_HERE:
                refuse_other_order(found.network(member.number), run, f"the teacher {member.name}", NO_CHECK)
            refuse_chance(member.name, score, len(run.source.classes), min(PROBE, len(run.real.train)))
    return found


def members_of(run: Asked) -> tuple[Member, ...]:
    """Who the options name.

    Raises:
        InputError: weights for another number of networks than there are.
    """
    options: Any = run.options["teachers"]
    networks = options.networks or (with_batch_norm(run.network_name),)
    weights = options.weights or (TRAINED_HERE,) * len(networks)
    if len(weights) != len(networks):
        raise InputError(
            f"--teachers.weights names {len(weights)} files for {len(networks)} networks: give one for each, or train"
        )
    seen: Counter[str] = Counter()
    members = []
    for number, (network, where) in enumerate(zip(networks, weights, strict=True)):
        members.append(Member(number, network, where, seen[network]))
        seen[network] += where == TRAINED_HERE
    return tuple(members)


def with_batch_norm(name: str) -> str:
    """A network of the zoo with batch norm in the place of the field's instance norm; others as they are.

    >>> with_batch_norm("convnet3-w32"), with_batch_norm("resnet18"), with_batch_norm("convnet-gn")
    ('convnet3-bn-w32', 'resnet18-bn', 'convnet-bn')
    """
    if match := CONVNET.fullmatch(name):
        found = match.groupdict()
        width = [f"w{found['width']}"] if found["width"] else []
        return "-".join(
            [f"convnet{found['depth'] or ''}", "bn", *width, *(w for n in ("act", "pool") if (w := found[n]))]
        )
    return f"{name}-bn" if name in ("alexnet", "vgg11", "resnet18", "resnet18ap") else name


def refuse_chance(name: str, score: float, classes: int, images: int) -> None:
    """Refuse a teacher whose accuracy on so many images may be chance (three standard errors).

    Raises:
        InputError: says what to look at.
    """
    chance = 1 / classes
    if score <= chance + 3 * math.sqrt(chance * (1 - chance) / images):
        raise InputError(
            f"the teacher {name} is right on {score:.1%} of {images} training images, where chance is {chance:.1%}: its classes "
            "are in another order than the data's, or it wants images normalised otherwise (--teachers.normalise), or it "
            f"needs more --teachers.epochs{NO_CHECK}"
        )


def _probed(network: nn.Module, run: Run) -> float:
    count = len(run.real.train)
    index = torch.arange(count) if count <= PROBE else torch.linspace(0, count - 1, PROBE).long()
    return accuracy(network, run.real.train, index=index)


# ---- trained here ----------------------------------------------------------------------------------------------------


def recipe(member: Member, run: Asked) -> dict[str, Any]:
    """Everything that shapes a teacher trained here, as JSON values."""
    options = attrs.asdict(run.options["teachers"])
    chosen = {n: v for n, v in options.items() if n not in ("networks", "weights", "normalise", "check")}
    return {
        "version": RECIPE_VERSION,
        "data": run.real.source.fingerprint,
        "normalisation": run.real.normalisation.header(),
        "network": member.network,
        "replica": member.replica,
        "teachers": chosen,
        "seed": run.seed,
        "machine": machine(run.device, run.config.dtype),
    }


def folder(member: Member, run: Run) -> Place:
    """Where it lies."""
    return run.cache / "teachers" / digest_of(recipe(member, run))


def _folder_of(member: Member, run: Run) -> Place:
    """The same, made."""
    return make_folder(run.cache, "teachers", digest_of(recipe(member, run)), note=run.warn)


def kept_of(member: Member, run: Run) -> Checkpoints:
    """What is kept of its training."""
    place = folder(member, run)
    return Checkpoints(place, of=f"{place.name}/")


def missing(member: Member, run: Run) -> bool:
    """Whether it still has to be trained."""
    return member.weights == TRAINED_HERE and not kept_of(member, run).is_sound(DONE)


def teacher_task(member: Member, run: Run) -> Task:
    """The task that trains it; one that was done, and whose files then left the cache, is a new task."""
    key = f"teacher-{folder(member, run).name[:12]}"
    while run.checkpoints.finished(key):
        key += "-again"
    options = {"teacher": member.number}
    return Task("teacher", key, run.options["teachers"].epochs, index=member.number, options=options)


def train_teacher(task: Task, run: Run) -> dict[str, Tensor]:
    """Train one teacher to the end, from where it was left if it was stopped.

    Returns:
        ``accuracy`` on training images, 0-d float64; the weights are in the cache.

    Raises:
        NonFiniteLoss: it diverged.
        Interrupted: the run was told to stop; the teacher so far is kept.
    """
    member = members_of(run)[int(task.options["teacher"])]
    with sole_trainer(_folder_of(member, run), run):
        kept = kept_of(member, run)
        if not kept.is_sound(DONE):
            _train_to_end(member, kept, run)
        return kept.result(DONE)


def _train_to_end(member: Member, kept: Checkpoints, run: Run) -> None:
    if kept.is_there(DONE):
        run.warn(f"teacher {folder(member, run).name} is damaged or another's: it is trained again")
        kept.drop(DONE)
    score = afresh(kept, DONE, partial(_train, member, kept, run), run.warn)
    kept.finish(DONE, {"accuracy": torch.tensor(score, dtype=torch.float64)}, {})


def _kept(member: Member, part: str, run: Run) -> Found:
    """What is kept of a teacher; it is trained again if that is missing, damaged or another's."""
    place = folder(member, run) / f"{part}.safetensors"
    shapes = {name: tuple(t.shape) for name, t in _fresh(member, run).state_dict().items()}
    read = partial(load, place, folder(member, run).name, part, shapes)
    try:
        return read()
    except InputError as error:
        if isinstance(error, StoreError) and place.local_path() is None:
            raise
        why = wrong(place, error)
    with sole_trainer(_folder_of(member, run), run):
        try:
            return read()
        except InputError:
            run.warn(why)
            kept = kept_of(member, run)
            kept.drop(DONE)
            _train_to_end(member, kept, run)
        return read()


def _train(member: Member, kept: Checkpoints, run: Run) -> float:
    options: Any = run.options["teachers"]
    real, key = run.real.train, ("teacher", member.network, member.replica)
    a_pass = -(-len(real) // options.batch)
    network = _fresh(member, run)
    draw, size = draw_for(options, run), (run.source.size, run.source.size)
    snapshots = list(enumerate(snapshot_epochs(options.epochs, options.snapshots)))

    def augment(count: int, step: int) -> Transform:
        return transform(draw, count, size, run.generator(*key, "view", step))

    def keep(epoch: Epoch) -> None:
        if not math.isfinite(epoch.loss) or not is_finite(network):
            raise NonFiniteLoss(
                f"teacher {member.network} diverged in epoch {epoch.number + 1} (loss {epoch.loss}): lower --teachers.rate, which is {options.rate:g}"
            )
        run.log("teacher", teacher=member.network, epoch=epoch.number + 1, loss=epoch.loss)
        for number in [n for n, after in snapshots if after == epoch.number + 1]:
            _keep(f"snapshot-{number:03d}", network, {"epoch": str(epoch.number + 1)}, member, run)

    train_student(
        network,
        real,
        HardLabels(real.labels, len(run.real.classes)),
        Descent(
            steps=options.epochs * a_pass,
            batch=options.batch,
            rate=options.rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            schedule="cosine",
            per_epoch=a_pass,
            warmup=options.warmup * a_pass,
        ),
        generator=partial(run.generator, *key),
        changes=Changes(augment=augment if run.of_images else None),
        keeper=Keeper(kept, DONE, lambda: run.stopping, run.check_stop),
        on_epoch=keep,
    )
    score = _probed(network, run)
    _keep(WEIGHTS, network, {"accuracy": repr(score)}, member, run)
    return score


def _fresh(member: Member, run: Run) -> nn.Module:
    """As it is initialised."""
    return run.network(run.generator("teacher", member.network, member.replica, "init"), member.network)


def _keep(part: str, network: nn.Module, facts: dict[str, str], member: Member, run: Run) -> None:
    place = folder(member, run) / f"{part}.safetensors"
    save(place, network.state_dict(), recipe(member, run), part, {**facts, **facts_of(run.source.classes)})


def draw_for(options: Any, run: Run) -> Draw:
    """How training images are changed: the crops and mixes of ``--teachers``, mirrored where that keeps the class."""
    crop = options.crop
    if crop == "auto":
        crop = "resized" if run.source.size >= LARGE else "shifted"
    draw = Draw(crop=crop, mix=options.mix, beta=0.8 if options.mix == "mixup" else 1.0)
    return draw.fitting(run.source.size, run.source.mirror_symmetric)


def snapshot_epochs(epochs: int, count: int) -> list[int]:
    """After which epochs weaker copies are kept: ``count`` of them, evenly, where there are enough epochs none at the
    end.

    >>> snapshot_epochs(30, 3), snapshot_epochs(2, 5)
    ([8, 15, 22], [1, 1, 1, 1, 2])
    """
    return [max(1, min(epochs, round(epochs * (n + 1) / (count + 1)))) for n in range(count)]


def network_of(member: Member, run: Run) -> nn.Module:
    """A teacher with its weights."""
    if member.weights == TRAINED_HERE:
        return _trained(member, WEIGHTS, run)
    return loaded(member, run)


def _trained(member: Member, part: str, run: Run) -> nn.Module:
    network = _fresh(member, run)
    network.load_state_dict(_kept(member, part, run).tensors)
    return network


# ---- loaded ----------------------------------------------------------------------------------------------------------


class Renormalised(nn.Module):
    """A network that wants images normalised otherwise than the run's are."""

    def __init__(self, network: nn.Module, ours: Normalisation, theirs: Normalisation) -> None:
        super().__init__()
        self.network, self._ours, self._theirs = network, ours, theirs

    def embed(self, images: Tensor) -> Tensor:
        """The input (B, D) of its last linear layer."""
        return self.network.embed(self._changed(images))  # type: ignore[no-any-return, operator]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(self._changed(images))  # type: ignore[no-any-return]

    def _changed(self, images: Tensor) -> Tensor:
        return self._theirs.apply(self._ours.inverse(images))


def loaded(member: Member, run: Run) -> nn.Module:
    """A network with weights from a file or URL.

    Raises:
        InputError: nothing there, no state dict, or one of another network.
    """
    network = run.network(run.generator("teacher", "loaded"), member.network)
    hub = weights_url(member.network, member.weights)
    place, due = Place.at(hub or member.weights), hash_in_name(hub) if hub else None
    state, facts = read_with_facts(place, trust=getattr(run, "trusted", False), sha256=due)
    fill(network, state, member.name)
    if (names := names_in(facts)) is not None:
        put_in_order(network, names, run, f"the teacher {member.name}")
    if run.options["teachers"].normalise == "imagenet":
        return Renormalised(lay_out(network), run.normalisation, IMAGENET)
    return network
