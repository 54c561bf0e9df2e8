"""What a stopped task goes on from: one safetensors file, replaced atomically, with no pickle in it.

Tensors lie in the file, everything else as JSON in its header. A state is a nested dict of tensors, numbers, strings,
bools, None, lists, Modules and Optimizers; ``load`` fills modules, optimisers and tensors in place, so that a resumed
task goes on with the very objects that its start built.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ddcore.errors import MISFITS, InputError, StoreError, in_short
from ddcore.storage.documents import parse_json
from ddcore.storage.places import Place, load_whole, read_metadata, save_tensors

SECONDS_BETWEEN = 10.0
TASK = "task"
T = TypeVar("T")


class Unfit(InputError):
    """An unfinished state is damaged, or of another task or configuration."""


class Checkpoints:
    """Unfinished states and finished results of a run's tasks, by task key.

    Args:
        of: what tells these tasks from others that have the same keys; a file says in its header which task's it is.
    """

    def __init__(self, place: Place, seconds_between: float = SECONDS_BETWEEN, of: str = "") -> None:
        self._place, self._of = place, of
        self._seconds_between = seconds_between
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether enough time has passed since the last save."""
        return time.monotonic() - self._last >= self._seconds_between

    def save(self, key: str, step: int, state: Mapping[str, Any]) -> None:
        """Keep ``state``; a resumed task begins at ``step``."""
        tensors, tree = flatten(state)
        about = {"step": str(step), "state": json.dumps(tree), TASK: self._of + key}
        save_tensors(self._unfinished(key), tensors, about, sealed=True)
        self._last = time.monotonic()

    def load(self, key: str, state: dict[str, Any]) -> int:
        """Fill ``state`` from the last save; the step to begin at, 0 if there is none.

        Raises:
            Unfit: the file is damaged, or was saved by another configuration or task.
        """
        self._last = time.monotonic()
        place, way_out = self._unfinished(key), "remove the file to begin this task again"
        if not place.is_there():
            return 0
        try:
            tensors, header = load_whole(place, sealed=True)
            self._check_task(place, header, key)
            fill(state, parse_json(header["state"]), tensors)
            return whole_step(header["step"])
        except MISFITS as error:
            why = in_short(error)
            raise Unfit(f"checkpoint {place.url} does not fit this run ({why}): {way_out}") from error
        except InputError as error:
            if isinstance(error, StoreError):
                raise
            raise Unfit(f"{str(error).rpartition(': ')[0] or error}: {way_out}") from error

    def drop(self, key: str) -> None:
        """Forget what is kept of a task, whatever it is."""
        for place in (self._unfinished(key), self._finished(key)):
            if place.is_there():
                place.put_away()

    def finish(self, key: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
        """Keep a finished task's result and drop its unfinished state."""
        about = {"header": json.dumps(dict(header)), TASK: self._of + key}
        save_tensors(self._finished(key), dict(tensors), about, sealed=True)
        if self._unfinished(key).exists():
            self._unfinished(key).remove()

    def finished(self, key: str) -> bool:
        """Whether this task's result is there."""
        return self._finished(key).exists()

    def is_sound(self, key: str) -> bool:
        """Whether this task's result is there, whole, and its own."""
        try:
            return self.is_there(key) and bool(self.result(key))
        except InputError as error:
            if isinstance(error, StoreError) and self._place.local_path() is None:
                raise
            return False

    def is_there(self, key: str) -> bool:
        """Whether anything is there in the place of this task's result."""
        return self._finished(key).is_there()

    def result(self, key: str) -> dict[str, Tensor]:
        """A finished task's tensors, on the CPU.

        Raises:
            InputError: the file is damaged, or another task's.
        """
        tensors, header = load_whole(self._finished(key), sealed=True)
        self._check_task(self._finished(key), header, key)
        return tensors

    def header(self, key: str) -> dict[str, Any]:
        """What a finished task said beside its tensors."""
        header = read_metadata(self._finished(key))
        self._check_task(self._finished(key), header, key)
        try:
            return dict(parse_json(header["header"]))
        except MISFITS as error:
            url = self._finished(key).url
            raise InputError(f"{url} does not say what its task made: remove it to do the task again") from error

    def _check_task(self, place: Place, header: Mapping[str, str], key: str) -> None:
        if (there := header.get(TASK)) != self._of + key:
            whose = "says of no task that it is its own" if there is None else f"is of task {there[:60]!r}"
            raise InputError(f"{place.url} {whose}, not of {key!r}: remove it to do the task again")

    def _unfinished(self, key: str) -> Place:
        return self._place / f"{key}.safetensors"

    def _finished(self, key: str) -> Place:
        return self._place / f"{key}.done.safetensors"


def afresh(kept: Checkpoints, key: str, do: Callable[[], T], note: Callable[[str], None]) -> T:
    """Do a task of the cache; what cannot be gone on with is dropped, and the task begun again."""
    try:
        return do()
    except Unfit as error:
        note(f"{str(error).rpartition(': ')[0]}: it is begun again")
        kept.drop(key)
        return do()


def whole_step(text: str) -> int:
    """The step that a file says.

    Raises:
        ValueError: that is none.
    """
    if not re.fullmatch(r"\d{1,18}", text):
        raise ValueError(f"step {text[:20]!r} is none")
    return int(text)


def flatten(state: Any, name: str = "") -> tuple[dict[str, Tensor], Any]:
    """Tensors by dotted name, and the rest as JSON in which ``{"tensor": name}`` marks their places."""
    if isinstance(state, Tensor):
        return {name: state.detach().cpu()}, {"tensor": name}
    if isinstance(state, nn.Module | Optimizer):
        tensors, tree = flatten(_stringed(state.state_dict()), name)
        return tensors, {"object": tree}
    if isinstance(state, Mapping):
        parts = {str(k): flatten(v, f"{name}.{k}" if name else str(k)) for k, v in state.items()}
        return _merged(part[0] for part in parts.values()), {"dict": {k: part[1] for k, part in parts.items()}}
    if isinstance(state, list | tuple):
        items = [flatten(v, f"{name}.{i}") for i, v in enumerate(state)]
        return _merged(item[0] for item in items), {"list": [item[1] for item in items]}
    if state is None or isinstance(state, bool | int | float | str):
        return {}, {"value": state}
    raise TypeError(
        f"state {name!r} is a {type(state).__name__}: keep tensors, numbers, strings, Modules and Optimizers"
    )


def restore(tree: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of ``flatten`` for plain values; modules and optimisers come back as their state dicts."""
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: restore(v, tensors) for k, v in content.items()}
    if kind == "list":
        return [restore(v, tensors) for v in content]
    return restore(content, tensors) if kind == "object" else content


def fill(state: dict[str, Any], tree: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Put a saved tree into ``state``: objects and tensors in place, everything else replaced."""
    saved = tree["dict"]
    for name in list(state):
        if name not in saved:
            raise KeyError(f"{name!r} was not saved")
    for name, branch in saved.items():
        state[name] = _filled(state.get(name), branch, tensors)


def _filled(value: Any, branch: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, nn.Module | Optimizer):
        value.load_state_dict(_numbered(restore(branch, tensors)))
        if isinstance(value, Optimizer):
            _lay_out_as_parameters(value)
    elif isinstance(value, dict):
        fill(value, branch, tensors)
    elif isinstance(value, Tensor):
        with torch.no_grad():
            value.copy_(restore(branch, tensors))
    else:
        return restore(branch, tensors)
    return value


def _lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Momentum and its like in their parameters' memory layout,
    which files do not keep and fused optimisers rely on."""
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _stringed(state: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(k): _stringed(v) if isinstance(v, Mapping) else v for k, v in state.items()}


def _numbered(state: Any) -> Any:
    """Optimisers key their state by parameter number; JSON made strings of them."""
    if isinstance(state, dict) and "state" in state and "param_groups" in state:
        return {**state, "state": {int(k): v for k, v in state["state"].items()}}
    return state


def _merged(parts: Any) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    for part in parts:
        merged.update(part)
    return merged
