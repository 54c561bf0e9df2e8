"""Experts: networks trained on the real data, with their weights kept after every epoch.

They are what trajectory matching imitates (MTT, Cazenavette et al., CVPR 2022, arXiv:2203.11932): plain SGD without
momentum or decay, because that is easier to imitate, not because it trains best. They lie in the cache under a digest
of everything that shaped them, so that runs share them and never mix two kinds:

    experts/<digest>/recipe.json, expert-000/epoch-000.safetensors (as initialised), epoch-001.safetensors, ...

An expert is a pure function of its number and that digest: two runs that train the same one write the same bytes. Every
file says in its header whose it is, under a seal; one that is missing, damaged or another's has its expert trained
again, with a warning.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import field, frozen
from filelock import BaseFileLock
from torch import Tensor, nn
from torch.optim import Optimizer

from ddcore.api.types import EXPERT, Batch, Progress, Segment, Task, Transform
from ddcore.composing.plan import augmenters
from ddcore.errors import InputError, NonFiniteLoss, StoreError
from ddcore.labels import HardLabels
from ddcore.networks.unroll import flat_weights, weights_view
from ddcore.storage.checkpoints import Checkpoints, afresh
from ddcore.storage.copies import tensors_of
from ddcore.storage.holding import acquired, lock_at
from ddcore.storage.keeping import Shapes, describe, digest_of, facts_of, load, machine, make_folder, save, wrong
from ddcore.storage.places import Place
from ddcore.training.loop import Changes, Descent, Epoch, Keeper, accuracy, is_finite, train_student

if TYPE_CHECKING:
    from ddcore.api.services import Run as Asked
    from ddcore.composing.host import Host as Run

RECIPE_VERSION = 1
EXPERT_HOOKS = ("ddcore_expert_loss", "ddcore_expert_optimizer")
DONE = "expert"
PROBE = 1000
"""Test images, evenly spaced, that score an expert after each epoch; after its last one all of them do."""


@frozen(eq=False)
class Trajectories:
    """Finished experts and their weights along the way.

    Attributes:
        place: the folder of this kind of experts.
        count: experts, numbered from 0.
        epochs: of each; weights are there for epochs 0 (as initialised) to ``epochs``.
        device, dtype: of the weights handed out.
        run: that trains an expert again whose file is missing, damaged or another's; without it that is an error.
    """

    place: Place
    count: int
    epochs: int
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    run: Run | None = field(default=None, repr=False)

    def weights(self, expert: int, epoch: int) -> Tensor:
        """Flat weights (P,) in ``parameters()`` order after so many epochs; -1 is the last.

        Raises:
            InputError: no such expert or epoch; the file is missing or damaged.
        """
        return self._snapshot(expert, epoch)["weights"].to(self.device, self.dtype)

    def segment(self, expert: int, epoch: int, ahead: int) -> Segment:
        """From ``epoch`` to ``epoch + ahead``, the target at the student's last step.

        Raises:
            InputError: the stretch leaves the trajectory.
        """
        if not 0 <= epoch <= epoch + ahead <= self.epochs:
            raise InputError(
                f"a stretch from expert epoch {epoch} to {epoch + ahead} leaves trajectories of {self.epochs} epochs: "
                f"raise --experts.epochs to {epoch + ahead} or lower the start epoch"
            )
        start, target = self.weights(expert, epoch), self.weights(expert, epoch + ahead)
        return Segment(start, {-1: (target, 1.0)}, expert=expert, epoch=epoch, ahead=ahead)

    def network(self, run: Run, expert: int, epoch: int = -1) -> nn.Module:
        """The expert itself, in eval mode, with its batch statistics if it has any."""
        snapshot = self._snapshot(expert, epoch)
        network = run.network(run.generator("expert", expert, "init"))
        buffers = dict(network.named_buffers())
        with torch.no_grad():
            for name, weight in weights_view(network, snapshot.pop("weights").to(self.device, self.dtype)).items():
                network.get_parameter(name).copy_(weight)
            for name, value in snapshot.items():
                buffers[name.removeprefix("buffer.")].copy_(value)
        return network.eval()

    def _snapshot(self, expert: int, epoch: int) -> dict[str, Tensor]:
        number = self.epochs if epoch == -1 else epoch
        if not (0 <= expert < self.count and 0 <= number <= self.epochs):
            known = f"{self.count} experts of {self.epochs} epochs are there"
            raise InputError(f"there is no epoch {epoch} of expert {expert}: {known}")
        read = partial(self._read, expert, number)
        if self.run is None:
            return read()
        try:
            return read()
        except InputError as error:
            if isinstance(error, StoreError) and self.place.local_path() is None:
                raise
            why = wrong(snapshot_place(self.place, expert, number), error)
        train_again(expert, self.run, why, read)
        return read()

    def _read(self, expert: int, epoch: int) -> dict[str, Tensor]:
        place, part = snapshot_place(self.place, expert, epoch), snapshot_part(expert, epoch)
        return tensors_of(place, lambda file: load(file, self.place.name, part, self._shapes).tensors)

    @cached_property
    def _shapes(self) -> Shapes | None:
        if self.run is None:
            return None
        tensors = snapshot_of(self.run.network(self.run.generator("expert", 0, "init")))
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def snapshot_place(experts: Place, expert: int, epoch: int) -> Place:
    """The file of an expert's weights after an epoch."""
    return experts / f"expert-{expert:03d}" / f"epoch-{epoch:03d}.safetensors"


def snapshot_part(expert: int, epoch: int) -> str:
    """What that file says it is."""
    return f"expert-{expert:03d}/epoch-{epoch:03d}"


def snapshot_of(network: nn.Module) -> dict[str, Tensor]:
    """``weights`` (P,) float32, cloned, and buffers, on the CPU."""
    buffers = {f"buffer.{name}": value.detach().cpu().clone() for name, value in network.named_buffers()}
    return {"weights": flat_weights(network).float().cpu(), **buffers}


def recipe(run: Asked) -> dict[str, Any]:
    """Everything that shapes an expert, as JSON values; how many there are does not shape any of them."""
    options: Any = run.options["experts"]
    idle = {"count"} if options.drop_epoch is not None else {"count", "drop_epoch", "drop"}
    shapers = [[name, dict(own)] for name, own in expert_shapers(run.plugins)]
    return {
        "version": RECIPE_VERSION,
        "data": run.real.source.fingerprint,
        "normalisation": run.real.normalisation.header(),
        "network": run.network_name,
        "experts": {name: value for name, value in attrs.asdict(options).items() if name not in idle},
        "augment": [[name, attrs.asdict(plugin)] for name, plugin in augmenters(run.plugins, EXPERT)],
        "seed": run.seed,
        "machine": machine(run.device, run.config.dtype),
        **({"shaped_by": shapers} if shapers else {}),
    }


def expert_shapers(plugins: Mapping[str, Any], *hooks: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The plugins that shape experts through one of these hooks, in order, with the options they do it by.

    Args:
        hooks: ``ddcore_expert_loss``, ``ddcore_expert_optimizer``; none is both.
    """
    hooks = hooks or EXPERT_HOOKS
    shaping = [(name, plugin) for name, plugin in plugins.items() if any(hasattr(plugin, h) for h in hooks)]
    return [(name, own) for name, plugin in shaping if (own := plugin.expert_options()) is not None]


def digest(run: Asked) -> str:
    """Names this kind of experts: sha256 of its recipe."""
    return digest_of(recipe(run))


def folder(run: Run) -> Place:
    """Where this kind of experts lies."""
    return run.cache / "experts" / digest(run)


def missing(run: Run) -> list[int]:
    """The experts that this run still has to train."""
    options: Any = run.options["experts"]
    return [n for n in range(options.count) if not kept_of(n, run).is_sound(DONE)]


def kept_of(number: int, run: Run) -> Checkpoints:
    """What is kept of an expert's training."""
    return Checkpoints(folder(run) / f"expert-{number:03d}", of=f"{digest(run)}/expert-{number:03d}/")


def at_hand(run: Run) -> Trajectories | None:
    """The run's experts if all of them are trained already."""
    options: Any = run.options.get("experts")
    if options is None or missing(run):
        return None
    dtype = torch.float64 if run.config.dtype == "float64" else torch.float32
    return Trajectories(folder(run), options.count, options.epochs, run.device, dtype, run)


def trajectories(run: Run) -> Trajectories:
    """The run's experts; those that are missing are trained now, as tasks."""
    options: Any = run.options["experts"]
    if numbers := missing(run):
        describe(make_folder(run.cache, "experts", digest(run), note=run.warn), recipe(run))
        name = digest(run)[:12]
        run.map([expert_task(run, name, n, options.epochs) for n in numbers], "experts", "experts")
    found = at_hand(run)
    if found is None:
        raise InputError(f"experts vanished from {folder(run).url} while this run trained them: resume the run")
    return found


def expert_task(run: Run, name: str, number: int, epochs: int) -> Task:
    """The task that trains an expert; one that was done, and whose files then left the cache, is a new task."""
    key = f"expert-{name}-{number:03d}"
    while run.checkpoints.finished(key):
        key += "-again"
    return Task(kind="expert", key=key, steps=epochs, index=number, slot=number, options={"expert": number})


def train_expert(task: Task, run: Run) -> dict[str, Tensor]:
    """Train one expert to the end, from where it was left if it was stopped, and keep its weights after every epoch.

    Returns:
        ``accuracy`` on the test set and ``loss`` of the last epoch, 0-d float64; the weights are in the cache.

    Raises:
        NonFiniteLoss: it diverged.
        Interrupted: the run was told to stop; the expert so far is kept.
    """
    number = int(task.options["expert"])
    with sole_trainer(_folder_of(number, run), run):
        kept = kept_of(number, run)
        if not kept.is_sound(DONE):
            _train_to_end(number, kept, run)
        return kept.result(DONE)


def train_again(number: int, run: Run, why: str, read: Callable[[], object]) -> None:
    """Train an expert once more of which a file is missing, damaged or another's.

    Args:
        why: a line for people.
        read: reads that file; raises an InputError while it has to be made.
    """
    with sole_trainer(_folder_of(number, run), run):
        try:
            read()
        except InputError:
            run.warn(why)
            kept = kept_of(number, run)
            kept.drop(DONE)
            _train_to_end(number, kept, run)


def _folder_of(number: int, run: Run) -> Place:
    return make_folder(run.cache, "experts", digest(run), f"expert-{number:03d}", note=run.warn)


def _train_to_end(number: int, kept: Checkpoints, run: Run) -> None:
    options: Any = run.options["experts"]
    if kept.is_there(DONE):
        run.warn(f"expert {number} in {digest(run)} is damaged or another's: it is trained again")
        kept.drop(DONE)
    afresh(kept, DONE, partial(_train, number, kept, run), run.warn)
    place = snapshot_place(folder(run), number, options.epochs)
    kept.finish(DONE, last_scores(place, snapshot_part(number, options.epochs)), {})


def _train(number: int, kept: Checkpoints, run: Run) -> None:
    options: Any = run.options["experts"]
    real, key = run.real.train, ("expert", number)
    a_pass = -(-len(real) // options.batch)
    network = run.network(run.generator(*key, "init"))
    keep_snapshot = partial(save_snapshot, folder(run), number, network, recipe(run))
    keep_snapshot(0, {})

    def epoch_of(step: int) -> Progress:
        return Progress(step // a_pass, options.epochs)

    def draw(count: int, step: int) -> Transform:
        return run.draw(EXPERT, key=(*key, "augment", step), count=count, progress=epoch_of(step))

    def reshape(value: Tensor, output: Tensor, network: nn.Module, batch: Batch, clean: Batch, step: int) -> Tensor:
        return run.hooks.expert_loss(value, network, batch, clean, epoch_of(step))

    def replace(base: Optimizer, step: int) -> Optimizer:
        return run.hooks.expert_optimizer(base, epoch_of(step))

    def keep(epoch: Epoch) -> None:
        _refuse_divergence(number, epoch, network, options.lr)
        everything = epoch.number + 1 == options.epochs
        score = accuracy(network, run.real.test, index=None if everything else _probe(len(run.real.test)))
        facts = {"loss": epoch.loss, "accuracy": score}
        keep_snapshot(epoch.number + 1, facts)
        run.log("expert", expert=number, epoch=epoch.number + 1, **facts)

    descent = Descent(
        steps=options.epochs * a_pass,
        batch=options.batch,
        rate=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        drop_at=None if options.drop_epoch is None else options.drop_epoch * a_pass,
        drop=options.drop,
    )
    train_student(
        network,
        real,
        HardLabels(real.labels, len(run.real.classes)),
        descent,
        generator=partial(run.generator, *key),
        changes=Changes(
            augment=draw if augmenters(run.plugins, EXPERT) else None,
            reshape=reshape if expert_shapers(run.plugins, "ddcore_expert_loss") else None,
            replace=replace if expert_shapers(run.plugins, "ddcore_expert_optimizer") else None,
        ),
        keeper=Keeper(kept, DONE, lambda: run.stopping, run.check_stop),
        on_epoch=keep,
    )


def save_snapshot(
    experts: Place, number: int, network: nn.Module, key: Mapping[str, Any], epoch: int, facts: dict[str, float]
) -> None:
    """Write ``snapshot_of`` a network; ``facts`` and the epoch go to the file's header."""
    told = {"epoch": str(epoch), **{name: repr(value) for name, value in facts.items()}}
    save(snapshot_place(experts, number, epoch), snapshot_of(network), key, snapshot_part(number, epoch), told)


def last_scores(place: Place, part: str) -> dict[str, Tensor]:
    """``accuracy`` and ``loss`` that a snapshot was saved with, 0-d float64."""
    facts = facts_of(place, place.parent.parent.name, part)
    return {name: torch.tensor(float(facts[name]), dtype=torch.float64) for name in ("accuracy", "loss")}


@contextmanager
def sole_trainer(place: Place, run: Asked) -> Iterator[None]:
    """Wait while another process trains the same expert. The lock ends with its process, so none is ever stale.

    On storage that cannot lock (remote, or a file system without it) two runs may both train an expert, and both write
    the same bytes.
    """
    path = place.local_path()
    lock = None if path is None else _lock(place, path)
    said = False
    while lock is not None and not acquired(lock):
        if not said:
            run.say(f"waiting for another process that trains {place.url}")
        said = True
        run.check_stop()
        time.sleep(0.2)
    if lock is not None and lock.is_locked:
        place.remove_unfinished()
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _lock(place: Place, path: Path) -> BaseFileLock:
    try:
        return lock_at(path / "lock")
    except InputError:
        (place / "lock").put_away()
        return lock_at(path / "lock")


def _refuse_divergence(number: int, epoch: Epoch, network: nn.Module, lr: float) -> None:
    if not math.isfinite(epoch.loss) or not is_finite(network):
        raise NonFiniteLoss(
            f"expert {number} diverged in epoch {epoch.number + 1} (loss {epoch.loss}); the epochs before are kept: "
            f"lower --experts.lr, which is {lr:g}"
        )


def _probe(count: int) -> Tensor:
    return torch.arange(count) if count <= PROBE else torch.linspace(0, count - 1, PROBE).long()
