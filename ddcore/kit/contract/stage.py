"""Runs on tiny data in a scratch folder: what the checks and the composition matrix stand on."""

from __future__ import annotations

import inspect
import io
import itertools
import math
import random
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from ddcore.api.plugin import PACK
from ddcore.composing.discovery import FIRST_PARTY, Offer, installed, load_class, load_path
from ddcore.composing.plan import OF_STUDENTS, offers
from ddcore.composing.selection import select, setup_from
from ddcore.errors import DdcoreError, Interrupted, PluginError
from ddcore.runs.assembly import claim
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.distil import distil, joined
from ddcore.runs.opening import open_distillation
from ddcore.runs.record import write_record
from ddcore.runs.run import Run
from ddcore.scoring.rows import DISTILLED, RANDOM
from ddcore.storage.places import Place
from ddcore.storage.progress import Reporter
from ddcore.training.experts import EXPERT_HOOKS
from ddcore.training.protocols import PRETRAIN

HERE = Path(__file__).parent
IMAGES = "images"
TINY, PROBE = ("--plugin-path", str(HERE / "tiny.py")), ("--plugin-path", str(HERE / "probe.py"))
SHORT: Mapping[str, Any] = {"threads": 1, "eval_seeds": 1, "full_epochs": 1}
QUICK: Mapping[str, Any] = {
    **SHORT,
    "dataset": "tiny",
    "ipc": 2,
    "network": "convnet2-w4",
    "protocol": ("quick-1",),
}
"""Of images; other modalities bring data and networks of their own, so that they get ``SHORT`` only."""
MOST_STOPS = 100
EXPERTS: Mapping[str, Any] = {"experts__count": 2, "experts__epochs": 3, "experts__batch": 12, "experts__lr": 0.1}


class Skipped(Exception):
    """This part of the contract does not concern the plugin, or cannot be checked here."""


@frozen(eq=False)
class Subject:
    """The plugin under examination.

    Attributes:
        words: how a command line selects it.
        folder: scratch; runs of one subject share a cache in it.
        kept: what several checks look at.
    """

    cls: Any
    offer: Offer
    words: tuple[str, ...]
    folder: Path
    numbers: Iterator[int] = field(factory=itertools.count)
    kept: dict[str, Any] = field(factory=dict)

    @property
    def name(self) -> str:
        """On the command line."""
        return self.offer.name

    @property
    def is_matcher(self) -> bool:
        """Whether it can run alone."""
        return bool(self.cls.role == "matcher")

    @property
    def on_images(self) -> bool:
        """Whether the kit's tiny images are data for it; else the data are those that the matcher offers first."""
        return IMAGES in self.cls.modality

    @property
    def of_students(self) -> bool:
        """Whether it only shapes or labels for students, so that no step of a distillation asks it."""
        return offers(self.cls) <= OF_STUDENTS

    @property
    def wants_experts(self) -> bool:
        """Whether what it does shows in experts only, or needs them."""
        needs = (*self.cls.needs, *self.cls.may_need)
        return (
            "trajectories" in needs
            or "expert" in self.cls.augment_phases
            or any(hasattr(self.cls, hook) for hook in EXPERT_HOOKS)
        )

    def run(
        self,
        *others: str,
        included: bool = True,
        options: Mapping[str, Any] | None = None,
        kind: type[Run] = Run,
        **more: Any,
    ) -> Run:
        """A run of it on tiny data that has not begun; a plugin that is no matcher gets one to work on.

        Args:
            others: words that select more plugins; with a matcher among them none is added.
            included: False leaves the subject itself out.
            options: of the subject, over those its class calls ``tiny``.
            more: shared options and ``plugin__option`` values.
        """
        base = () if self.is_matcher or others else self._base()
        words = [*base, *others, *(self.words if included else ())]
        given = {
            "cache": str(self.folder / "cache"),
            **({"probe__experts": self.wants_experts} if base == PROBE else {}),
        }
        own = {f"{self.name}__{n}": v for n, v in (options or {}).items()} if included else {}
        used = offered_first(self.cls) if included else {}
        return staged(words, self.folder / f"run-{next(self.numbers)}", {**given, **used, **own, **more}, kind)

    def _base(self) -> tuple[str, ...]:
        """Words that select a matcher for a plugin that is none."""
        if self.on_images:
            return PROBE
        every = {self.name: self.cls, **first_party()}
        fitting = {name: cls for name, cls in every.items() if cls.modality & self.cls.modality}
        for cls in fitting.values():
            if cls.role == PACK and cls.probe_file:
                return ("--plugin-path", str(Path(inspect.getfile(cls)).parent / cls.probe_file))
        for name, cls in fitting.items():
            if cls.role == "matcher":
                return ("--plugin", name)
        works_on = ", ".join(sorted(self.cls.modality))
        if any(cls.role == PACK for cls in fitting.values()):
            raise Skipped(f"nothing distils {works_on}")
        raise PluginError(f"no first-party matcher of {works_on} is installed to try {self.name!r} with: install one")


def offered_first(cls: Any) -> dict[str, Any]:
    """What makes a run really use a plugin: for each option that it offers names for, the first of them."""
    chosen = {"datasets": "dataset", "networks": "network", "executors": "executor", "labellers": "labels"}
    found = {flag: getattr(cls, names)[0] for names, flag in chosen.items() if getattr(cls, names)}
    return {**found, **({"init": cls.initializers[0]} if cls.initializers else {})}


def has_matcher(words: Sequence[str]) -> bool:
    """Whether a command line selects a matcher that would not give way."""
    return any(cls.role == "matcher" and not cls.gives_way for cls in select(words, {}).classes.values())


def staged(words: Sequence[str], folder: Path, given: Mapping[str, Any], kind: type[Run] = Run) -> Run:
    """A quick run of the plugins that ``words`` select, under their ``tiny`` options where ``given`` says nothing else.

    On the tiny images, unless none of the plugins works on images: then on the data that their matcher or a pack offers
    first. Without steps where no matcher makes any.
    """
    first = select([*words, "--preset", "none"], {}).classes
    matchers = [cls for cls in first.values() if cls.role == "matcher"]
    on_images = not first or any(IMAGES in cls.modality for cls in matchers or first.values())
    offering = [*matchers[:1], *(cls for cls in first.values() if cls.role == PACK)]
    quick = QUICK if on_images else {**SHORT, **dict(ChainMap(*map(offered_first, offering)))}
    selection = select([*words, *(TINY if on_images else ()), "--preset", "none"], {})
    given = {**given, "steps": 0} if matchers and all(cls.steps == 0 for cls in matchers) else given
    small = {f"{name}__{n}": v for name, cls in selection.classes.items() for n, v in cls.tiny.items()}
    if any("vectors" in cls.learns for cls in matchers):
        quick = {**quick, "protocol": (f"{PRETRAIN}-1",)}
    experts = EXPERTS if "experts" in selection.groups else {}
    run = kind(setup_from(selection, {**quick, **experts, **small, **given}, {}), Place.at(folder), silent())
    claim(run.place)
    write_record(run, ["ddcore", "run", *words])
    return run


def silent() -> Reporter:
    """Warnings are kept, and shown to nobody."""
    return Reporter(io.StringIO(), quiet=True)


def distilled(run: Run) -> dict[str, Tensor]:
    """What its distillation tasks learned, together and as plugins store it; real images among them as floats too."""
    tasks = distillation_tasks(run)
    run.map(tasks)
    with torch.no_grad():
        return dict(run.hooks.store(joined(run, tasks), run).tensors)


def scored(run: Run) -> dict[str, Tensor]:
    """On other data than images, where a plugin scores a run: its scores, by set and student; on images none."""
    rows = [] if run.of_images else distil(run)
    return {f"{row.set} by {row.network}": torch.tensor(row.values, dtype=torch.float64) for row in rows}


def outcome(run: Run) -> dict[str, Tensor]:
    """What a run comes to: its scores, where they are its own, and what was distilled."""
    return {**scored(run), **distilled(run)}


def to_the_end(subject: Subject, partner: str, **more: Any) -> str:
    """A run of one step with another installed plugin, from data to the scores of the set and of real images labelled
    like it; empty if all went well, else what went wrong.

    An executor sees tasks, not methods, and starting it takes longer than all of that: then the run is only planned.
    """
    both: tuple[Any, ...] = (subject.cls, load_class(partner)[0])
    rows = {"rows": (DISTILLED, RANDOM)} if all(IMAGES in cls.modality for cls in both) else {}
    try:
        run = subject.run("--plugin", partner, **{"steps": 1, **rows, **more})
        if subject.cls.executors:
            _ = run.plan
            return ""
        scores = distil(run)
        kept: Any = run.artifact or run.packed
    except DdcoreError as error:
        return str(error)
    bad = [name for name, tensor in kept.tensors.items() if not torch.isfinite(tensor).all()]
    bad += [f"the row {row.set!r}" for row in scores if not all(map(math.isfinite, row.values))]
    return f"{bad[0]} is not finite" if bad else "" if scores else "there are no rows"


def outcome_in_pieces(run: Run) -> dict[str, Tensor]:
    """The same, stopped wherever it looks and after each task, the last task first,
    and opened again from its folder."""
    tasks = distillation_tasks(run)
    for task in reversed(tasks):
        for _ in range(task.steps + 1):
            run.stopping = True
            with suppress(Interrupted):
                run.map([task])
            run = open_distillation(run.place.url, silent())
    for _ in range(MOST_STOPS):
        run.stopping = True
        try:
            return outcome(run)
        except Interrupted:
            run = open_distillation(run.place.url, silent())
    raise PluginError("a run that is stopped after every step never ends: each resume has to go on where it stopped")


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str | None:
    """None if equal, else what differs."""
    if set(one) != set(other):
        return f"tensors {sorted(one)} and {sorted(other)}"
    different = [name for name in sorted(one) if not torch.equal(one[name], other[name])]
    return f"tensor {different[0]!r} differs" if different else None


def first_party() -> dict[str, Any]:
    """Classes of the installed first-party plugins, by name."""
    here = installed()
    return {name: load_class(name)[0] for name in FIRST_PARTY if name in here}


def find_subject(plugin: str | type, folder: Path) -> Subject:
    """A plugin by name, by path of a local file, or by its class.

    Raises:
        PluginError: it cannot be loaded.
    """
    if isinstance(plugin, type):
        plugin = _request_of(plugin)
    if plugin.endswith(".py"):
        cls, offer = load_path(plugin)
        return Subject(cls, offer, ("--plugin-path", plugin), folder)
    cls, offer = load_class(plugin)
    return Subject(cls, offer, ("--plugin", plugin), folder)


def _request_of(cls: type) -> str:
    value = f"{cls.__module__}:{cls.__qualname__}"
    for offered in installed().values():
        for offer in offered:
            if offer.value == value:
                return offer.request
    return inspect.getfile(cls)


@contextmanager
def untouched_randomness() -> Iterator[list[str]]:
    """Names of global random generators that the block moved."""
    moved: list[str] = []
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index,union-attr]
    yield moved
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index,union-attr]
    moved += ["torch"] * (not torch.equal(before[0], after[0]))
    moved += ["random"] * (before[1] != after[1]) + ["numpy.random"] * (before[2] != after[2])
