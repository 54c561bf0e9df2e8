"""What every run has, whether it distils, trains students or evaluates: its identity, data, randomness,
words and teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, cast

import attrs
import torch
from torch import Tensor, nn

from ddcore import devices, randomness
from ddcore.api.types import SETTINGS, Batch, Progress, Task, Transform, Vote
from ddcore.composing import answers
from ddcore.composing.asking import Hooks
from ddcore.composing.host import Host
from ddcore.composing.loading import load_source
from ddcore.composing.selection import Setup
from ddcore.config import OF_DATA
from ddcore.data.elsewhere import Elsewhere, matched, name_of
from ddcore.data.normalisation import Normalisation, fit
from ddcore.data.source import Part, Real, Source, load_decoded
from ddcore.errors import InputError, PluginError
from ddcore.networks.passes import lay_out
from ddcore.networks.zoo import unknown_network
from ddcore.randomness import Key
from ddcore.runs.builtin import Core
from ddcore.runs.tasks import Tasks
from ddcore.scoring.validation import carve
from ddcore.sets.decoders import Decoder
from ddcore.storage.checkpoints import Checkpoints
from ddcore.storage.keeping import machine
from ddcore.storage.places import Place, default_cache
from ddcore.storage.progress import Reporter, Tick
from ddcore.training.experts import Trajectories, trajectories
from ddcore.training.teachers import Committee, committee

if TYPE_CHECKING:
    from ddcore.labels import Labels
    from ddcore.sets.artifact import Artifact
    from ddcore.sets.packed import Packed


class Whole(Host, Protocol):
    """An ``Opened`` with what its kind of run adds: plan, matcher, what a matcher asks for."""

    @property
    def tasks(self) -> Tasks:
        """How its tasks are done, talked about and stopped."""


class Opened:
    """A run that is open: the part of ``ddcore.api.services.Run`` that all kinds of runs share.

    Attributes:
        setup: configuration, plugin instances and where every value came from.
        place: the run directory.
        tasks: how its tasks are done, talked about and stopped.
        decoded: in a worker, the key of the data that its driver loaded.
    """

    def __init__(self, setup: Setup, place: Place, reporter: Reporter | None = None) -> None:
        """Open a run without doing anything yet."""
        self.setup, self.place = setup, place
        self.config, self.options, self.plugins = setup.config, setup.options, setup.plugins
        self.seed = int(setup.config.seed)
        self.address = place.address
        self.device = devices.chosen(setup.config.device)
        self.dtype = {"float32": torch.float32, "float64": torch.float64}[setup.config.dtype]
        torch.set_num_threads(setup.config.threads)
        self.hooks = Hooks(setup.manager(Core()), setup.described())
        self.tasks = Tasks(place, setup.config, self.hooks, reporter)
        self.cache = Place.at(setup.config.cache or default_cache())
        self.artifact: Artifact | None = None
        self.packed: Packed | None = None
        self.of_artifact: str | None = None
        self.decoded: dict[str, Any] | None = None

    @property
    def _whole(self) -> Whole:
        """Itself, as hooks see it."""
        return cast("Whole", self)

    # ---- data ----

    @cached_property
    def source(self) -> Source:
        """The real data as loaded; in a worker, as its driver loaded them."""
        if self.decoded and (kept := load_decoded(self.cache, self.decoded, self.warn)):
            self.take(kept)
            return kept
        options = {name: getattr(self.config, name) for name in OF_DATA}
        return self._carved(load_source(self.hooks, self.config.dataset, options))

    def take(self, source: Source) -> None:
        """Use data that are loaded already; those from which another run carved its validation part are loaded
        again."""
        if source.carved in (None, self._share_and_seed):
            self.source = self._carved(source)
            self.hooks.asked.update(self.hooks.names("ddcore_data"))

    def _carved(self, source: Source) -> Source:
        due = self._share_and_seed
        return source if due is None or source.carved == due else carve(source, *due)

    @property
    def _share_and_seed(self) -> tuple[float, int] | None:
        return None if self.config.validation is None else (float(self.config.validation), self.seed)

    @cached_property
    def elsewhere(self) -> tuple[Elsewhere, ...]:
        """The test parts of ``--evaluate-on``, brought to the run's size, classes in its order.

        Raises:
            InputError: data that students of this run cannot be tested on.
        """
        options = {"data_root": self.config.data_root, "split": None, "resize": self.source.size}
        found: dict[str, Elsewhere] = {}
        for word in self.config.evaluate_on:
            source = load_source(self.hooks, word, options)
            test = Part(matched(source, self.source, word), self.normalisation, self.device, self.dtype)
            found.setdefault(name := name_of(source), Elsewhere(name, source, test))
        return tuple(found.values())

    @property
    def machine(self) -> dict[str, Any]:
        """What computes, as JSON values: part of the key of whatever is kept between runs;
        see ``ddcore.storage.keeping``."""
        return machine(self.device, self.dtype)

    @property
    def of_images(self) -> bool:
        """Whether the data are images."""
        return self.source.modality == "images"

    @property
    def dense(self) -> bool:
        """Whether samples are rows of one shape, as images are: else the matcher brings artifact, students and rows."""
        return bool(getattr(self.source, "dense", False))

    @cached_property
    def normalisation(self) -> Normalisation:
        """Fitted on the train split, or given by the source."""
        return fit(self.config.normalise, self.source, self.cache, computed_by=self.machine, note=self.warn)

    @cached_property
    def real(self) -> Real:
        """The real data, normalised, on the run's device."""
        return Real(self.source, self.normalisation, self.device, self.dtype)

    # ---- services, each one line over a hook ----

    def generator(self, *key: Key) -> torch.Generator:
        """A fresh CPU generator for this run's seed and a key such as ("dm", "network", step)."""
        return randomness.generator(self.seed, *key)

    def network(self, generator: torch.Generator, name: str | None = None, **other: int) -> nn.Module:
        """A freshly initialised classifier for these data, on the run's device, in train mode.

        Args:
            other: ``channels``, ``size`` or ``classes`` of other data.
        """
        name = name or self._whole.network_name
        source, shape = self.source, self.source.shape
        of = {"channels": source.channels, "size": source.size, "classes": len(source.classes), **other}
        if len(shape) == 3:
            shape = (of["channels"], of["size"], of["size"])
        elif other and self.dense:
            shape = (of["channels"], of["size"])[: len(shape)]
        with randomness.drawing_from(generator):
            built = self.hooks.network(name, {**of, "shape": shape}, generator)
        if built is None:
            raise InputError(unknown_network(name))
        return lay_out(built.to(device=self.device, dtype=self.dtype))

    def draw(
        self,
        phase: str,
        *,
        key: Sequence[Key],
        count: int = 1,
        shared: bool = False,
        progress: Progress | None = None,
    ) -> Transform:
        """Draw an augmentation for one batch, or (``shared``) for any number of batches alike.

        Args:
            key: names this draw; the same key draws the same again.
            count: rows of the batch; 1 if shared.
        """
        return self.hooks.augment(
            phase,
            lambda plugin: self.generator(*key, phase, plugin),
            count=1 if shared else count,
            size=(self.source.size, self.source.size),
            shared=shared,
            symmetric=self.source.mirror_symmetric,
            progress=progress or Progress(0, 1),
        )

    def setting(self, name: str, value: Any, progress: Progress | None = None) -> Any:
        """A number of a stage, as enhancements change it; ``name`` is one of ``ddcore.api.types.SETTINGS``."""
        if name not in SETTINGS:
            raise ValueError(f"setting {name!r} is not one of {sorted(SETTINGS)}")
        return self.hooks.setting(name, value, progress or Progress(0, 1))

    def decoder(self, spec: Sequence[Mapping[str, Any]]) -> Decoder:
        """How stored tensors become samples, by operations of the core, of selected local files and of installed
        plugins.

        Raises:
            InputError: an operation that nobody has.
            PluginError: two selected plugins bring the same one, or something that is none.
        """
        given: dict[str, Any] = {}
        for name, plugin in self.plugins.items():
            for op, operation in plugin.decoders.items():
                if op in given:
                    raise PluginError(
                        f"{self.hooks.who(name)} and another plugin both bring decoder {op!r}: keep one of them"
                    )
                given[op] = answers.operation(operation(), f"decoders[{op!r}] of {self.hooks.who(name)}")
        return Decoder(spec, given)

    def label(self, images: Tensor, classes: Tensor) -> Labels:
        """Label any images (N, C, H, W) by the run's rule; they and their classes may lie on any device,
        the labels on the CPU."""
        images, classes = images.to(self.device), classes.to(self.device)
        with torch.no_grad():
            labels = self.hooks.label(self._whole.labeller, images, classes, self._whole)
        if labels is None:
            raise PluginError(f"no selected plugin labels by the rule {self._whole.labeller!r}: give --labels hard")
        return labels

    def label_kind(self, rule: str) -> str:
        """The kind of labels that a rule makes: its own name, unless its plugin says otherwise."""
        said = {name: kind for plugin in self.plugins.values() for name, kind in plugin.label_kinds.items()}
        return str(said.get(rule, rule))

    @cached_property
    def trajectories(self) -> Trajectories:
        """Experts trained on the real data, with their weights along the way; trained at the first use."""
        return trajectories(self._whole)

    @cached_property
    def teachers(self) -> Committee:
        """Networks trained on the real data that answer for it, in eval mode; trained, or loaded, at the first use."""
        return committee(self._whole)

    def votes(self, purpose: str, task: Task | None = None, batch: Batch | None = None) -> list[Vote]:
        """Who of the teachers has a say.

        Args:
            purpose: ``match``, ``label`` or ``student``.
            task: that asks, for ``match``.
            batch: a task's initial images under its first view: plugins then may change the teachers for the task.
        """
        with torch.no_grad():
            votes = self.hooks.teachers(purpose, task, self._whole)
            votes = self.teachers.votes() if votes is None else votes
            if batch is None:
                return votes
            return [
                attrs.evolve(vote, network=self.hooks.adapt_teacher(vote.network, batch, purpose, task, self._whole))
                for vote in votes
            ]

    # ---- tasks: see ``ddcore.runs.tasks`` ----

    @property
    def checkpoints(self) -> Checkpoints:
        """Results of finished tasks, and the state of unfinished ones."""
        return self.tasks.checkpoints

    @property
    def stopping(self) -> bool:
        """Whether SIGINT or SIGTERM came, or a worker was told so."""
        return self.tasks.stopping

    @stopping.setter
    def stopping(self, told: bool) -> None:
        self.tasks.stopping = told

    def map(self, tasks: Sequence[Task], label: str = "", unit: str = "tasks") -> list[dict[str, Tensor]]:
        """Do tasks where ``--executor`` says and return their results in the order given;
        finished ones are not redone."""
        return self.tasks.map(self._whole, tasks, label, unit)

    def check_stop(self) -> None:
        """Call once a step or epoch, after saving.

        Raises:
            Interrupted: SIGINT or SIGTERM came.
        """
        self.tasks.check_stop()

    def say(self, text: str) -> None:
        """One line of information."""
        self.tasks.reporter.say(text)

    def warn(self, text: str) -> None:
        """One warning: shown, kept for the report and, once there is a run.json, logged."""
        self.tasks.warn(self._whole, text)

    def progress(self, label: str, total: int, unit: str = "steps") -> AbstractContextManager[Tick]:
        """A context manager that yields ``tick(n=1, note="")``."""
        return self.tasks.progress(label, total, unit)

    def log(self, event: str, **fields: Any) -> None:
        """One line of ``log.jsonl``, which trackers are told of; numbers that are not finite become null."""
        self.tasks.log(self._whole, event, fields)
