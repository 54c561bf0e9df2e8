"""Runs on tiny data in a scratch folder: what the checks and the composition matrix stand on."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor

from ddcore.assembly import claim, select, setup_from
from ddcore.distil import distillation_task
from ddcore.errors import Interrupted, PluginError
from ddcore.plugins import FIRST_PARTY, Offer, installed, load_class, load_path
from ddcore.progress import Reporter
from ddcore.record import write_record
from ddcore.run import Run
from ddcore.storage import Place

HERE = Path(__file__).parent
TINY, PROBE = ("--plugin-path", str(HERE / "tiny.py")), ("--plugin-path", str(HERE / "probe.py"))
QUICK: Mapping[str, Any] = {
    "dataset": "tiny",
    "ipc": 2,
    "network": "convnet2-w4",
    "threads": 1,
    "eval_seeds": 1,
    "full_epochs": 1,
    "protocol": ("quick-1",),
}
EXPERTS: Mapping[str, Any] = {"experts__count": 2, "experts__epochs": 3, "experts__batch": 12, "experts__lr": 0.1}
EXPERT_HOOKS = ("ddcore_expert_loss", "ddcore_expert_optimizer")


@frozen(eq=False)
class Subject:
    """The plugin under examination.

    Attributes:
        words: how a command line selects it.
        folder: scratch; runs of one subject share a cache in it.
    """

    cls: Any
    offer: Offer
    words: tuple[str, ...]
    folder: Path
    count: list[int] = field(factory=lambda: [0])

    @property
    def name(self) -> str:
        """On the command line."""
        return self.offer.name

    @property
    def is_matcher(self) -> bool:
        """Whether it can run alone."""
        return bool(self.cls.role == "matcher")

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
        alone: bool = True,
        options: Mapping[str, Any] | None = None,
        kind: type[Run] = Run,
        **more: Any,
    ) -> Run:
        """A run of it on tiny data that has not begun; a plugin that is no matcher gets the probe to work on.

        Args:
            others: words that select more plugins; with a matcher among them the probe stays away.
            alone: False leaves the subject itself out.
            options: of the subject, over those its class calls ``tiny``.
            more: shared options and ``plugin__option`` values.
        """
        probe = () if self.is_matcher or others else PROBE
        words = [*probe, *others, *(self.words if alone else ()), *TINY]
        self.count[0] += 1
        given = {
            **QUICK,
            "cache": str(self.folder / "cache"),
            **({"probe__experts": self.wants_experts} if probe else {}),
        }
        own = {f"{self.name}__{n}": v for n, v in (options or {}).items()} if alone else {}
        if self.is_matcher and self.cls.steps == 0 and not has_matcher(others):
            more["steps"] = 0
        return staged(
            words, self.folder / f"run-{self.count[0]}", {**given, **self._choices(alone), **own, **more}, kind
        )

    def _choices(self, alone: bool) -> dict[str, Any]:
        """What makes a run really use a plugin that only offers names."""
        if not alone:
            return {}
        chosen = {"datasets": "dataset", "networks": "network", "executors": "executor", "labellers": "labels"}
        found = {flag: getattr(self.cls, names)[0] for names, flag in chosen.items() if getattr(self.cls, names)}
        return {**found, **({"init": self.cls.initializers[0]} if self.cls.initializers else {})}


def has_matcher(words: Sequence[str]) -> bool:
    """Whether a command line selects a matcher that would not give way."""
    return any(cls.role == "matcher" and not cls.gives_way for cls in select(words, {}).classes.values())


def staged(words: Sequence[str], folder: Path, given: Mapping[str, Any], kind: type[Run] = Run) -> Run:
    """A run of the plugins that ``words`` select, under their ``tiny`` options where ``given`` says nothing else."""
    selection = select([*words, "--preset", "none"], {})
    small = {f"{name}__{n}": v for name, cls in selection.classes.items() for n, v in cls.tiny.items()}
    experts = EXPERTS if "experts" in selection.groups else {}
    run = kind(setup_from(selection, {**experts, **small, **given}, {}), Place.at(folder), silent())
    claim(run.place)
    write_record(run, ["ddcore", "run", *words])
    return run


def silent() -> Reporter:
    """Warnings are kept, and shown to nobody."""
    return Reporter(io.StringIO(), quiet=True)


def distilled(run: Run) -> dict[str, Tensor]:
    """What its distillation task learned."""
    return run.map([distillation_task(run)])[0]


def distilled_in_pieces(run: Run) -> dict[str, Tensor]:
    """The same, stopped after every step and opened again from its folder."""
    for _ in range(run.plan.steps + 1):
        run.stopping = True
        try:
            return distilled(run)
        except Interrupted:
            run = type(run).open(run.place.url, silent())
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
    for offers in installed().values():
        for offer in offers:
            if offer.value == value:
                return offer.request
    return inspect.getfile(cls)


@contextmanager
def untouched_randomness() -> Iterator[list[str]]:
    """Names of global random generators that the block moved."""
    import random

    import numpy as np

    moved: list[str] = []
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index,union-attr]
    yield moved
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index,union-attr]
    moved += ["torch"] * (not torch.equal(before[0], after[0]))
    moved += ["random"] * (before[1] != after[1]) + ["numpy.random"] * (before[2] != after[2])
