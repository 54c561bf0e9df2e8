"""The services of one run, all that a plugin needs besides its arguments. See ``distil.py`` for what a run does."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ddcore import answers, devices, randomness
from ddcore.api import deprecations
from ddcore.checkpoints import Checkpoints
from ddcore.data import Real, Source, keep_decoded, load_decoded
from ddcore.decoders import OPERATIONS, Decoder
from ddcore.dispatch import NO_STATE, Hooks, PerPlugin
from ddcore.errors import InputError, Interrupted, OptionError, PluginError, StoreError, near
from ddcore.holding import held
from ddcore.inspection import installed_matchers
from ddcore.normalisation import Normalisation, fit
from ddcore.passes import lay_out
from ddcore.plan import OF_STUDENTS, STUDENT_SHAPING, Choices, Plan, data_warnings, offers, resolve
from ddcore.progress import Reporter, Tick, on_signals
from ddcore.protocols import resolved_protocols
from ddcore.secrecy import hand_on, hidden
from ddcore.storage import Place
from ddcore.types import SETTINGS, Arm, Batch, Progress, Segment, Sequential, Task, Transform, Vote

if TYPE_CHECKING:
    from ddcore.artifact import Artifact
    from ddcore.executors import Executor
    from ddcore.experts import Trajectories
    from ddcore.labels import Labels
    from ddcore.packed import Packed
    from ddcore.record import Setup
    from ddcore.teachers import Committee
    from ddcore.teaching import Seen, Teaching
    from ddcore.trajectory import Unroll
    from ddcore.types import Row, StudentData

CPU_WIDTH = 32
DECODED = ("images", "text")
"""What workers are handed decoded."""
EXPERT_HOOKS = ("ddcore_expert_loss", "ddcore_expert_optimizer")


class Run:
    """One run: its configuration, plugins, data, randomness and files."""

    def __init__(self, setup: Setup, place: Place, reporter: Reporter | None = None) -> None:
        """Open a run without doing anything yet.

        Args:
            setup: configuration, plugin instances and where every value came from.
            place: the run directory.
        """
        self.setup, self.place = setup, place
        self.config, self.options, self.plugins = setup.config, setup.options, setup.plugins
        self.seed = int(setup.config.seed)
        self.address = place.address
        self.device = devices.chosen(setup.config.device)
        self.dtype = {"float32": torch.float32, "float64": torch.float64}[setup.config.dtype]
        torch.set_num_threads(setup.config.threads)
        self.hooks = Hooks(setup.manager(), setup.described())
        self.reporter = reporter or Reporter(quiet=True)
        self.checkpoints = Checkpoints(place / "checkpoints", _seconds_between_checkpoints())
        self.cache = Place.at(setup.config.cache or default_cache())
        self.artifact: Artifact | None = None
        self.packed: Packed | None = None
        self.of_artifact: str | None = None
        self.way_on = f"everything so far is kept: go on with `ddcore resume {place.url}`"
        self.begun = self.stepping = self.stopping = False
        self._logged: set[str] = set()
        self.decoded: str | None = None

    # ---- what a run is about -------------------------------------------------------------------------------------

    @cached_property
    def source(self) -> Source:
        """The real data as loaded; in a worker, as its driver loaded them."""
        if self.decoded and (kept := load_decoded(self.cache, self.decoded)):
            self.take(kept)
            return kept
        options = {"data_root": self.config.data_root, "split": self.config.split, "resize": self.config.resize}
        return self._carved(load_source(self.hooks, self.config.dataset, options))

    def take(self, source: Source) -> None:
        """Use data that are loaded already; those from which another run carved its validation part are loaded again."""
        if source.carved in (None, self._share_and_seed):
            self.source = self._carved(source)
            self.hooks.asked.update(self.hooks.names("ddcore_data"))

    def _carved(self, source: Source) -> Source:
        from ddcore.validation import carve

        due = self._share_and_seed
        return source if due is None or source.carved == due else carve(source, *due)

    @property
    def _share_and_seed(self) -> tuple[float, int] | None:
        return None if self.config.validation is None else (float(self.config.validation), self.seed)

    @property
    def of_images(self) -> bool:
        """Whether the data are images: else the matcher brings artifact, students and rows."""
        return self.source.modality == "images"

    @cached_property
    def normalisation(self) -> Normalisation:
        """Fitted on the train split, or given by the source."""
        return fit(self.config.normalise, self.source, self.cache)

    @cached_property
    def real(self) -> Real:
        """The real data, normalised, on the run's device."""
        return Real(self.source, self.normalisation, self.device, self.dtype)

    @cached_property
    def plan(self) -> Plan:
        """Who does what."""
        config = self.config
        choices = Choices(config.steps, self.network_name, config.init, config.labels, config.baseline)
        return resolve(self.hooks, self.plugins, choices, installed_matchers)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know about these plugins on these data."""
        data = data_warnings(self.plugins, {"mirror_symmetric": self.source.mirror_symmetric})
        old = [line for n, plugin in self.plugins.items() for line in deprecations(type(plugin), self.hooks.who(n))]
        return (*data, *old)

    @property
    def matcher_name(self) -> str:
        """The matcher as messages name it."""
        return self.hooks.who(self.plan.matcher)

    @property
    def matcher(self) -> Any:
        """The matcher's plugin instance."""
        return self.plugins[self.plan.matcher]

    @property
    def network_name(self) -> str:
        """``--network``; ``auto`` is the field's ConvNet, narrow on a CPU, where the papers' width takes hours, or the first
        network of a matcher on other data than images."""
        if self.config.network != "auto":
            return str(self.config.network)
        own = [p.networks[0] for p in self.plugins.values() if p.networks and "images" not in p.modality]
        if own:
            return str(own[0])
        return "convnet" if devices.is_cuda(self.device) else f"convnet-w{CPU_WIDTH}"

    @property
    def labeller(self) -> str:
        """Which rule labels images whose labels were not learned."""
        return self.config.labels or self.plan.labeller

    def label_kind(self, rule: str) -> str:
        """The kind of labels that a rule makes: its own name, unless its plugin says otherwise."""
        said = {name: kind for plugin in self.plugins.values() for name, kind in plugin.label_kinds.items()}
        return str(said.get(rule, rule))

    # ---- randomness ----------------------------------------------------------------------------------------------

    def generator(self, *key: randomness.Key) -> torch.Generator:
        """A fresh CPU generator for this run's seed and a key such as ("dm", "network", step)."""
        return randomness.generator(self.seed, *key)

    # ---- services that a matcher calls ---------------------------------------------------------------------------

    def network(self, generator: torch.Generator, name: str | None = None, **other: int) -> nn.Module:
        """A freshly initialised classifier for these data, on the run's device, in train mode.

        Args:
            other: ``channels``, ``size`` or ``classes`` of other data.
        """
        name = name or self.network_name
        real = self.source
        with randomness.drawing_from(generator):
            built = self.hooks.by_name(
                "ddcore_network",
                check=answers.network,
                name=name,
                **{"channels": real.channels, "size": real.size, "classes": len(real.classes), **other},
                generator=generator,
            )
        if built is None:
            from ddcore.networks import unknown_network

            raise InputError(unknown_network(name))
        return lay_out(built.to(device=self.device, dtype=self.dtype))

    def initialize(self, classes: Tensor, task: Task, name: str | None = None) -> Tensor:
        """Images (N, C, H, W) for these classes by an initialiser, the plan's unless named, on the run's device."""
        name = name or self.plan.initializer
        given = {"name": name, "classes": classes, "task": task, "run": self}
        due = (len(classes), self.source.channels, self.source.size, self.source.size)
        with torch.no_grad():
            images: Tensor | None = self.hooks.by_name(
                "ddcore_initialize",
                check=lambda answer, who: answers.images(answer, who, due),
                generator=self.generator("initialize", name, task.slot),
                **given,
            )
        if images is None:
            raise PluginError(f"no selected plugin answers to the initializer {name!r} that one of them lists: mend it")
        return images.detach().clone().to(device=self.device, dtype=self.dtype)

    def view(self, batch: Batch, phase: str) -> Batch:
        """The synthetic batch as enhancements show it to the matcher in this phase."""

        def check(answer: Any, before: Batch, who: str) -> Batch:
            return answers.batch(answer, before, who, same_rows=False)

        shown: Batch = self.hooks.chain(
            "ddcore_view", batch, only=lambda plugin: phase in plugin.view_phases, check=check, phase=phase, run=self
        )
        return shown

    def draw(
        self,
        phase: str,
        *,
        key: Sequence[randomness.Key],
        count: int = 1,
        shared: bool = False,
        progress: Progress | None = None,
    ) -> Transform:
        """Draw an augmentation for one batch, or (``shared``) for any number of batches alike.

        Args:
            key: names this draw; the same key draws the same again.
            count: rows of the batch; 1 if shared.
        """
        drawn: Transform = self.hooks.chain(
            "ddcore_augment",
            Sequential(),
            only=lambda plugin: phase in plugin.augment_phases,
            check=lambda answer, before, who: _Checked(answers.transform(answer, who), who),
            phase=phase,
            count=1 if shared else count,
            size=(self.source.size, self.source.size),
            shared=shared,
            symmetric=self.source.mirror_symmetric,
            progress=progress or Progress(0, 1),
            generator=PerPlugin(lambda plugin: self.generator(*key, phase, plugin)),
        )
        return drawn

    @cached_property
    def projects(self) -> bool:
        """Whether any selected plugin bounds learned tensors."""
        return bool(self.hooks.providers("ddcore_project"))

    def project(
        self, after: Tensor, before: Tensor, name: str, role: str, task: Task, state: PerPlugin = NO_STATE
    ) -> Tensor:
        """A learned tensor as plugins put it back after its optimiser's step; the matcher's bounds last."""
        given: dict[str, Any] = {
            "before": before,
            "name": name,
            "role": role,
            "task": task,
            "state": state,
            "run": self,
        }
        given["check"] = answers.projected
        after = self.hooks.chain("ddcore_project", after, only=lambda plugin: plugin is not self.matcher, **given)
        after = self.hooks.chain("ddcore_project", after, only=lambda plugin: plugin is self.matcher, **given)
        return after

    def setting(self, name: str, value: Any, progress: Progress | None = None) -> Any:
        """A number of a stage, as enhancements change it; ``name`` is one of ``ddcore.types.SETTINGS``."""
        if name not in SETTINGS:
            raise ValueError(f"setting {name!r} is not one of {sorted(SETTINGS)}")
        progress = progress or Progress(0, 1)
        return self.hooks.chain(
            "ddcore_setting",
            value,
            only=lambda plugin: name in plugin.settings,
            check=answers.setting,
            name=name,
            progress=progress,
        )

    def augmenters(self, phase: str) -> list[tuple[str, Any]]:
        """The selected plugins that augment in a phase, in order: part of what shapes experts."""
        return [(name, plugin) for name, plugin in self.plugins.items() if f"augment:{phase}" in offers(plugin)]

    def expert_shapers(self, *hooks: str) -> list[tuple[str, Mapping[str, Any]]]:
        """The selected plugins that shape experts through one of these hooks, in order, with the options they do it by.

        Args:
            hooks: ``ddcore_expert_loss``, ``ddcore_expert_optimizer``; none is both.
        """
        hooks = hooks or EXPERT_HOOKS
        shaping = [(name, plugin) for name, plugin in self.plugins.items() if any(hasattr(plugin, h) for h in hooks)]
        return [(name, own) for name, plugin in shaping if (own := plugin.expert_options()) is not None]

    def expert_loss(self, value: Tensor, network: nn.Module, batch: Batch, clean: Batch, progress: Progress) -> Tensor:
        """An expert's loss (a mean over rows) as enhancements change it."""
        changed: Tensor = self.hooks.chain(
            "ddcore_expert_loss",
            value,
            only=lambda plugin: plugin.expert_options() is not None,
            check=answers.expert_loss,
            network=network,
            batch=batch,
            clean=clean,
            progress=progress,
        )
        return changed

    def expert_optimizer(self, base: Optimizer, progress: Progress) -> Optimizer:
        """An expert's optimiser: ``base``, or what an enhancement puts in its place."""
        params = [p for group in base.param_groups for p in group["params"]]
        given: dict[str, Any] = {"params": params, "base": base, "progress": progress}
        chosen: Optimizer | None = self.hooks.one(
            "ddcore_expert_optimizer", check=answers.optimizer, optional=True, **given
        )
        return base if chosen is None else chosen

    def segment(self, segment: Segment, unroll: Unroll, network: nn.Module, task: Task, progress: Progress) -> Segment:
        """A stretch to imitate, as enhancements change it."""
        given: dict[str, Any] = {"unroll": unroll, "network": network, "task": task, "progress": progress, "run": self}
        with torch.no_grad():
            changed: Segment = self.hooks.chain("ddcore_segment", segment, check=answers.segment, **given)
        return changed

    def student_shapers(self) -> list[tuple[str, Any]]:
        """The selected plugins that shape how students are trained, in order."""
        return [(name, plugin) for name, plugin in self.plugins.items() if offers(plugin) & STUDENT_SHAPING]

    def visited(self, count: int) -> int:
        """How many of ``count`` rows an epoch of a student visits, as far as plugins know beforehand."""
        for _, plugin in self.student_shapers():
            count = plugin.visited(count) if "student_rows" in offers(plugin) else count
        return count

    def student_loss(
        self,
        value: Tensor,
        network: nn.Module,
        batch: Batch,
        progress: Progress,
        seen: Seen,
        teachers: Teaching,
        modules: Mapping[str, nn.Module],
        generator: Callable[[str], torch.Generator],
    ) -> Tensor:
        """The labels' own loss (a mean over rows), weighted, with the terms that plugins add."""
        given: dict[str, Any] = {"network": network, "batch": batch, "progress": progress, "run": self}
        given |= {"output": seen.logits, "seen": seen, "teachers": teachers, "modules": PerPlugin(modules.get)}
        given["generator"] = PerPlugin(generator)
        value = self.setting("student.label_weight", 1.0, progress) * value
        for term in self.hooks.collect("ddcore_student_loss", check=answers.term, **given).values():
            value = value + term.weight * term.value
        return value

    def label(self, images: Tensor, classes: Tensor) -> Labels:
        """Label any images (N, C, H, W) by the run's rule; they and their classes may lie on any device, the labels on the CPU."""
        images, classes = images.to(self.device), classes.to(self.device)
        with torch.no_grad():
            labels = self.hooks.by_name(
                "ddcore_label",
                check=lambda answer, who: answers.labels(answer, who, len(classes), len(self.source.classes)),
                name=self.labeller,
                images=images,
                classes=classes,
                run=self,
            )
        if labels is None:
            raise PluginError(f"no selected plugin labels by the rule {self.labeller!r}: give --labels hard")
        return labels  # type: ignore[no-any-return]

    def student_data(self, name: str, student: int) -> StudentData | None:
        """What the student of a number is trained on in a plugin's set; None where no selected plugin offers such a set."""
        if not any(name in plugin.student_sets for plugin in self.plugins.values()):
            return None
        with torch.no_grad():
            found: StudentData | None = self.hooks.by_name(
                "ddcore_student_data", check=answers.student_data, name=name, student=student, run=self
            )
        if found is not None and isinstance(found.images, Tensor):
            return attrs.evolve(found, images=found.images.to(self.device))
        return found

    def score(self, arms: Sequence[Arm], seeds: int | None = None) -> list[Row]:
        """A row for each arm, of students that the evaluation trains, or has trained: for a plugin's ``ddcore_evaluate``.

        Args:
            arms: sets of the core, or of a plugin's ``student_sets``.
            seeds: students of each; default: ``--eval-seeds``.
        """
        from ddcore.evaluate import score

        return score(self, arms, self.config.eval_seeds if seeds is None else seeds)

    def arm(self, set: str, labels: str = "hard") -> Arm:
        """An arm under the run's first protocol, in the first network that students are tested in."""
        networks = self.config.eval_network or (self.network_name,)
        return Arm(set, labels, resolved_protocols(self)[0].name, networks[0])

    def matching_loss(self, images: Tensor, classes: Tensor, step: int = 0) -> float | None:
        """The matcher's loss of given images as they stand; see ``ddcore.loop.loss_of``."""
        from ddcore.loop import loss_of

        return loss_of(self, images, classes, step)

    @cached_property
    def trajectories(self) -> Trajectories:
        """Experts trained on the real data, with their weights along the way; trained at the first use."""
        from ddcore.experts import trajectories

        return trajectories(self)

    @cached_property
    def teachers(self) -> Committee:
        """Networks trained on the real data that answer for it, in eval mode; trained, or loaded, at the first use."""
        from ddcore.teachers import committee

        return committee(self)

    def votes(self, purpose: str, task: Task | None = None, batch: Batch | None = None) -> list[Vote]:
        """Who of the teachers has a say.

        Args:
            purpose: ``match``, ``label`` or ``student``.
            task: that asks, for ``match``.
            batch: a task's initial images under its first view: plugins then may change the teachers for the task.
        """
        check = partial(answers.votes, device=self.device)
        with torch.no_grad():
            votes: list[Vote] = self.hooks.one(
                "ddcore_teachers", check=check, optional=True, purpose=purpose, task=task, run=self
            )
            votes = self.teachers.votes() if votes is None else votes
            if batch is None:
                return votes
            given: dict[str, Any] = {"batch": batch, "purpose": purpose, "task": task, "run": self}
            given["check"] = answers.teacher
            adapted = [self.hooks.chain("ddcore_adapt_teacher", vote.network, **given) for vote in votes]
        return [attrs.evolve(vote, network=network) for vote, network in zip(votes, adapted, strict=True)]

    def decoder(self, spec: Sequence[Mapping[str, Any]]) -> Decoder:
        """How stored tensors become samples, by the core's operations and those of selected plugins.

        Raises:
            InputError: an operation that neither has.
        """
        known = dict(OPERATIONS)
        for name in {str(op.get("op")) for op in spec} - set(known):
            if found := self.hooks.by_name("ddcore_decoder", check=answers.operation, name=name):
                known[name] = found
        return Decoder(spec, known)

    # ---- tasks ---------------------------------------------------------------------------------------------------

    def map(self, tasks: Sequence[Task], label: str = "", unit: str = "tasks") -> list[dict[str, Tensor]]:
        """Do tasks where ``--executor`` says and return their results in the order given; finished ones are not redone."""
        from ddcore.work import describe, forget, remember

        left = [task for task in tasks if not self.checkpoints.finished(task.key)]
        executor = self.executor()
        remember(self)
        hand_on()
        if left and self.executor_name != "here" and self.source.modality in DECODED:
            keep_decoded(self.source, self.cache)
        shown = self.progress(label, len(tasks), unit) if label else _nothing()
        within, self.stepping = self.stepping, True
        try:
            with shown as tick:
                tick(len(tasks) - len(left))
                done = partial(self._done, tick, {task.key: task.kind for task in left})
                executor.map(self.address, [describe(task) for task in left], self.config.jobs, done)
        finally:
            self.stepping = within
            forget(self)
        return [self.checkpoints.result(task.key) for task in tasks]

    def _done(self, tick: Tick, kinds: Mapping[str, str], key: str) -> None:
        self.log("task", key=key, kind=kinds[key])
        tick(1)
        self.check_stop()

    @property
    def executor_name(self) -> str:
        """``--executor``; more than one job means processes."""
        name = str(self.config.executor)
        return "processes" if name == "here" and self.config.jobs > 1 else name

    def executor(self) -> Executor:
        """What runs tasks.

        Raises:
            OptionError: no such executor.
        """
        from ddcore.executors import EXECUTORS

        executor = self.hooks.by_name("ddcore_executor", check=answers.executor, name=self.executor_name)
        if executor is None:
            raise OptionError(f"no executor is named {self.executor_name!r}: {near(self.executor_name, EXECUTORS)}")
        return executor  # type: ignore[no-any-return]

    def check_names(self) -> None:
        """Refuse unknown executors, protocols and networks before any work.

        Raises:
            OptionError, InputError: naming the nearest known one.
        """
        self.executor()
        resolved_protocols(self)
        for name in {self.network_name, *self.config.eval_network}:
            self.network(self.generator("check"), name)

    def refuse_idle_plugins(self) -> None:
        """Stop a run in which a selected plugin has not been asked anything by the end of its first step.

        What is only asked later (labels, rows, student augmentation), or not when experts are cached, counts as asked.
        """
        later = OF_STUDENTS | {
            "evaluate",
            "network",
            "initialize",
            "finish",
            "store",
            "expert_loss",
            "expert_optimizer",
            "executor",
        }
        for name, plugin in self.plugins.items():
            if not self.hooks.asked[name] and not offers(plugin) & later and name != self.plan.matcher:
                raise PluginError(
                    f"{self.hooks.who(name)} was asked nothing in the first step: leave out --plugin {name}"
                )

    # ---- talking and stopping ------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """One line of information."""
        self.reporter.say(text)

    def warn(self, text: str) -> None:
        """One warning: shown, kept for the report and, once there is a run.json, logged."""
        self.reporter.warn(text)
        if self.begun and text not in self._logged:
            self._logged.add(text)
            self.log("warning", text=text)

    def warned(self) -> list[str]:
        """All warnings of the run, each once: of the parts of it before a stop, and of its workers, too."""
        from ddcore.report import events

        logged = [str(event["text"]) for event in events(self.place) if event.get("event") == "warning"]
        return list(dict.fromkeys([*logged, *self.reporter.warnings]))

    def progress(self, label: str, total: int, unit: str = "steps") -> AbstractContextManager[Tick]:
        """A context manager that yields ``tick(n=1, note="")``."""
        return self.reporter.progress(label, total, unit)

    def log(self, event: str, **fields: Any) -> None:
        """One line of ``log.jsonl``, which trackers are told of; numbers that are not finite become null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
        line = json.dumps({"event": event, "time": round(time.time(), 3), **finite})
        (self.place / "log.jsonl").append_line(hidden(line))
        for who, error in self.hooks.tell("ddcore_log", event=event, fields=finite, run=self):
            what = f"{type(error).__name__}: {' '.join(str(error).split())}" if str(error) else type(error).__name__
            self.warn(f"{who} failed ({what}) and is told nothing more; the run goes on without it")

    def check_stop(self) -> None:
        """Call once a step or epoch, after saving.

        Raises:
            Interrupted: SIGINT or SIGTERM came.
        """
        if self.stopping:
            raise self._stopped()

    def _stopped(self) -> Interrupted:
        begun = self.begun or (self.place / "run.json").exists()
        return Interrupted(
            f"stopped as asked; {self.way_on if begun else 'nothing was begun: give the same command again'}"
        )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Work in the run's folder: alone, stoppable by SIGINT and SIGTERM, and with a word on how to go on where a store fails.

        Raises:
            InputError: another process works in it.
        """
        with self.stoppable(), held(self.place):
            self.place.remove_unfinished()
            try:
                yield
            except StoreError as error:
                raise type(error)(f"{error}; {self.way_on}") from error

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into ``Interrupted``: at the next step while tasks are done, elsewhere at once."""

        stopped_at_once = False

        def stop() -> None:
            nonlocal stopped_at_once
            stopped_at_once = self.stopping or not self.stepping
            self.stopping = True
            if stopped_at_once:
                raise KeyboardInterrupt
            with suppress(RuntimeError):  # the signal came in the middle of another line
                self.say("stopping at the next step (once more: at once)")

        try:
            with on_signals(stop):
                yield
        except KeyboardInterrupt as error:
            raise self._stopped() from error
        except Exception as error:  # compiled code that is stopped may raise an error of its own instead
            if not stopped_at_once or isinstance(error, Interrupted):
                raise
            raise self._stopped() from error


class _Checked:
    """A drawn transform whose results are looked at."""

    def __init__(self, transform: Transform, who: str) -> None:
        self._transform, self._who = transform, who

    def __call__(self, batch: Batch) -> Batch:
        return answers.batch(self._transform(batch), batch, self._who, same_rows=True)


@contextmanager
def _nothing() -> Iterator[Tick]:
    yield lambda n=1, note="": None


def _seconds_between_checkpoints() -> float:
    text = os.environ.get("DDCORE_CHECKPOINT_SECONDS", "10")
    try:
        return float(text)
    except ValueError as error:
        raise OptionError(f"DDCORE_CHECKPOINT_SECONDS is {text!r}: give a number of seconds") from error


def default_cache() -> str:
    """Where experts and full-data rows are kept between runs: ``DDCORE_CACHE``, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("DDCORE_CACHE") or os.path.join(home, "ddcore")


def load_source(hooks: Hooks, dataset: str, options: Mapping[str, Any]) -> Source:
    """Ask the plugins for the data of a name.

    Raises:
        InputError: nobody knows it.
    """
    name, _, rest = dataset.partition(":")
    source: Source | None = hooks.by_name("ddcore_data", check=answers.source, name=name, rest=rest, options=options)
    if source is None:
        raise InputError(unknown_dataset(dataset))
    return source


def unknown_dataset(name: str) -> str:
    """One sentence for a data name that nobody answers."""
    from ddcore.sources import known_sources

    return f"no data set is named {name!r}: {near(name.partition(':')[0], [known for known, _ in known_sources()])}"
