"""Learning that goes wrong without a NaN: seen while it happens, by what a matcher learns, whichever matcher it is.

Said once a run for each kind, with numbers and the option to lower, and kept with the set; a learned rate that stays on
its floor ends the task, the last state before that kept (``--no-stop-diverged`` goes on).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from ddcore.errors import Diverged, InputError
from ddcore.runs.snapshots import shown

if TYPE_CHECKING:
    from ddcore.api.types import Learn, Task
    from ddcore.composing.host import Host as Run

LEAST_RATE, MOST_RATE = 1e-6, 100.0
"""Between these a student's learning rate is one."""
SOON, MANY = 3, 30
"""Steps in a row on its floor after which a rate is warned of, and after which the task ends."""
MOST_RANGES = 100
"""Widths of the data's range that pixels may lie outside it."""
MOST_GROWTH = 1000
"""Times that other numbers may grow over what they began with, or over 1."""
MOST_IDLE = 0.5
"""Share of steps that may move nothing."""
LOOKS, IMAGES, NUMBERS = 100, 64, 16_384
"""Moments of a task at which pixels are looked at; how many images are; how many numbers of a tensor tell whether it
moved."""
Put = Callable[[str, str, Tensor, Tensor], None]
"""Is told name and role of a tensor that moved, where it came to, and what plugins put in its place."""
_said: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def unseen(name: str, role: str, moved: Tensor, kept: Tensor) -> None:
    """Nobody is told."""


class Watcher:
    """Looks at one task's learned tensors after each step.

    Attributes:
        kept: plain values for a checkpoint: ``said`` by kind, steps counted, the rate's floor and its steps on it.
    """

    def __init__(self, task: Task, learn: Learn, run: Run) -> None:
        self._task, self._learn, self._run = task, learn, run
        began = {name: _reach(tensor) for name, tensor in self._numbers().items()}
        rates = {name: float(tensor) for name, tensor in self._rates().items()}
        zero = dict.fromkeys(rates, 0)
        self.kept: dict[str, Any] = {"said": {}, "done": 0, "still": 0, "skipped": 0, "floors": {}, "low": zero}
        self.kept |= {"began": {**began, **rates}}
        self._steps_of = {name: _options_of(self._optimizers_of(name), run) for name in learn.tensors}
        self._before = self._sample()
        self._floors: dict[str, float] = {}

    @property
    def is_good(self) -> bool:
        """Whether no rate lies on its floor: what is then saved is worth going back to."""
        return not any(self.kept["low"].values())

    @property
    def learns_rate(self) -> bool:
        """Whether there is a rate to watch."""
        return bool(self.kept["low"])

    @property
    def _stops(self) -> bool:
        return self.learns_rate and bool(self._run.config.stop_diverged)

    @property
    def may_keep(self) -> bool:
        """Whether what is now may stand in the place of the last checkpoint."""
        return self.is_good or not self._stops

    def keeps(self, step: int) -> bool:
        """Whether a state is kept after so many steps, to go back to: after 0, 1, 2, 4, 8 and so on."""
        return self._stops and bool(self._task.steps) and step & (step - 1) == 0

    def header(self) -> dict[str, Any]:
        """What was said, for the task's result."""
        return {"watched": self.kept["said"]} if self.kept["said"] else {}

    def warn_if_idle(self) -> None:
        """Say so where a task is over and nothing moved."""
        steps = self._task.steps
        if steps and self.kept["skipped"] == steps:
            self._run.warn(
                f"{self._run.matcher_name} skipped all of the {steps} steps, so nothing moved: try smaller learning rates"
            )

    def put(self, name: str, role: str, moved: Tensor, kept: Tensor) -> None:
        """Note a learned rate that plugins had to put back up."""
        if role == "rate" and moved.numel() == 1 and float(kept) > float(moved):
            self._floors[name] = float(kept)

    def after(self, step: int, loss: float | None) -> None:
        """Look at what a step left.

        Raises:
            Diverged: a rate has been on its floor for many steps, and ``--stop-diverged`` is on.
        """
        self.kept["done"] += 1
        after = self._sample()
        same = after.keys() == self._before.keys() and all(torch.equal(after[n], self._before[n]) for n in after)
        self.kept["skipped" if loss is None else "still"] += loss is None or (same and bool(after))
        self._before = after
        self._look_at_idleness()
        floors, self._floors = self._floors, {}
        self.kept["floors"] |= floors
        for name, tensor in self._rates().items():
            self._look_at_rate(name, float(tensor), step)
        if (step + 1) % max(1, self._task.steps // LOOKS) == 0 or step + 1 == self._task.steps:
            self._look_at_range(step)

    # ---- what is looked at ----

    def _look_at_rate(self, name: str, value: float, step: int) -> None:
        floor = max(self.kept["floors"].get(name, 0.0), LEAST_RATE)
        low = self.kept["low"]
        low[name] = low[name] + 1 if value <= floor * (1 + 1e-6) and value < self.kept["began"][name] else 0
        way_out, what = self._way_out(name), "the learned rate" if name == "rate" else f"the learned rate {name!r}"
        if value > MOST_RATE:
            self._say("rate high", f"{what} is {value:.4g} after step {step}, no rate to train with; {way_out}")
        if low[name] < SOON:
            return
        since = f"{what} has lain on its floor of {value:.3g} for {low[name]} steps by step {step}"
        began = f"it began as {self.kept['began'][name]:.3g}"
        self._say("rate low", f"{since} ({began}), and students learn nothing at such a rate; {way_out}")
        if low[name] >= MANY and self._run.config.stop_diverged:
            raise Diverged(
                f"{self._run.matcher_name}: {since} ({began}), so the run is ended; the state before that is kept as its "
                f"checkpoints/{self._task.key}.safetensors: {way_out}, and run again into a new --out, there with "
                "--no-stop-diverged to go on all the same"
            )

    def _look_at_range(self, step: int) -> None:
        images = self._images()
        names = [name for name, role in self._learn.roles.items() if role == "pixels"] or list(self._learn.tensors)
        if images is not None and images.numel():
            low, high = float(images.min()), float(images.max())
            if max(high - 1, -low) > MOST_RANGES:
                there = f"pixels lie between {low:,.4g} and {high:,.4g} after step {step}, those of the data between 0 and 1"
                self._say("range", f"{there}; {self._way_out(names[0])}")
        for name, tensor in self._numbers().items():
            began, reach = self.kept["began"][name], _reach(tensor)
            if (images is None or name not in names) and reach > MOST_GROWTH * max(1.0, began):
                there = f"{name} reaches {reach:,.4g} after step {step}, and began with {began:,.4g} at most"
                self._say("growth", f"{there}; {self._way_out(name)}")

    def _look_at_idleness(self) -> None:
        done, steps = self.kept["done"], self._task.steps
        idle = self.kept["still"] + self.kept["skipped"]
        if idle > MOST_IDLE * done and done >= max(4, min(20, steps // 4)):
            counts = f"{self.kept['skipped']} were skipped, {self.kept['still']} changed no number"
            others = self._way_out("").removeprefix("lower ")
            self._say(
                "idle", f"{idle} of {done} steps moved nothing ({counts}); give smaller or larger rates: {others}"
            )

    def _say(self, kind: str, text: str) -> None:
        if kind in self.kept["said"]:
            return
        self.kept["said"][kind] = f"{self._run.matcher_name}: {text}"
        told = _said.setdefault(self._run, set())
        if kind not in told:
            told.add(kind)
            self._run.warn(self.kept["said"][kind])

    def _way_out(self, name: str) -> str:
        options = self._steps_of.get(name) or [o for found in self._steps_of.values() for o in found]
        return f"lower {' or '.join(dict.fromkeys(options))}" if options else "lower its learning rates"

    # ---- what there is ----

    def _rates(self) -> dict[str, Tensor]:
        return {n: t.detach() for n, t in self._learn.named("rate").items() if t.numel() == 1}

    def _numbers(self) -> dict[str, Tensor]:
        rates = self._learn.named("rate")
        return {n: t.detach() for n, t in self._learn.tensors.items() if n not in rates and t.is_floating_point()}

    def _optimizers_of(self, name: str) -> list[Optimizer]:
        tensor = self._learn.tensors[name]
        every = self._learn.optimizers.values()
        return [o for o in every if any(p is tensor for group in o.param_groups for p in group["params"])]

    def _sample(self) -> dict[str, Tensor]:
        """Some numbers of all that is learned; nothing where optimisers move nothing."""
        groups = [group for optimizer in self._learn.optimizers.values() for group in optimizer.param_groups]
        moving = {f"{n}": p for n, p in enumerate(p for group in groups for p in group["params"])}
        if not moving:
            return {}
        return {name: _some(tensor.detach()) for name, tensor in {**self._learn.tensors, **moving}.items()}

    @torch.no_grad()
    def _images(self) -> Tensor | None:
        """Some of the images as pixels in the units of the data, whose range is 0 to 1."""
        run, learn, classes = self._run, self._learn, self._task.classes
        if classes is None or not run.of_images:
            return None
        try:
            decoder = run.decoder(learn.decoder)
            if decoder.count(learn.tensors) != len(classes):
                return None
            images = decoder.sample(learn.tensors, shown(classes, IMAGES)).float().cpu()
        except InputError:  # tensors of one task that only make samples together with those of others
            return None
        return run.normalisation.inverse(images)


def _reach(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def _some(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat[:: max(1, -(-len(flat) // NUMBERS))].clone()


def _options_of(optimizers: Sequence[Optimizer], run: Run) -> list[str]:
    """The matcher's options that these optimisers have their rates of, each with its value."""
    rates = {float(group["lr"]) for o in optimizers for group in o.param_groups if "lr" in group}
    found = []
    for field in attrs.fields(type(run.matcher)) if attrs.has(type(run.matcher)) else ():
        value = getattr(run.matcher, field.name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and any(math.isclose(value, rate) for rate in rates) and _is_of_rates(field.name):
            found.append(f"--{run.plan.matcher}.{field.name.replace('_', '-')}, which is {value:g}")
    return found


def _is_of_rates(name: str) -> bool:
    return bool({"lr", "rate", "step"} & set(name.split("_")))


def notes_of(headers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What finished tasks' headers say, the first of each kind.

    >>> notes_of([{"watched": {"idle": "a"}}, {}, {"watched": {"idle": "b"}}])
    ['a (and so in 1 more task)']
    """
    found: dict[str, list[str]] = {}
    for header in headers:
        for kind, text in header.get("watched", {}).items():
            found.setdefault(kind, []).append(text)
    more = {kind: f" (and so in {len(t) - 1} more task{'s' * (len(t) > 2)})" for kind, t in found.items() if len(t) > 1}
    return [texts[0] + more.get(kind, "") for kind, texts in found.items()]
