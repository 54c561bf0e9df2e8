"""What a stopped task goes on from: one safetensors file, replaced atomically, with no pickle in it.

Tensors lie in the file, everything else as JSON in its header. A state is a nested dict of tensors, numbers, strings,
bools, None, lists, Modules and Optimizers; ``load`` fills modules, optimisers and tensors in place, so that a resumed
task goes on with the very objects that its start built.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ddcore.errors import MISFITS, InputError, in_short
from ddcore.storage.documents import parse_json
from ddcore.storage.places import Place, load_tensors, read_metadata, save_tensors

SECONDS_BETWEEN = 10.0


class Checkpoints:
    """Unfinished states and finished results of a run's tasks, by task key."""

    def __init__(self, place: Place, seconds_between: float = SECONDS_BETWEEN) -> None:
        self._place = place
        self._seconds_between = seconds_between
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether enough time has passed since the last save."""
        return time.monotonic() - self._last >= self._seconds_between

    def save(self, key: str, step: int, state: Mapping[str, Any]) -> None:
        """Keep ``state``; a resumed task begins at ``step``."""
        tensors, tree = flatten(state)
        save_tensors(self._unfinished(key), tensors, {"step": str(step), "state": json.dumps(tree)}, sealed=True)
        self._last = time.monotonic()

    def load(self, key: str, state: dict[str, Any]) -> int:
        """Fill ``state`` from the last save; the step to begin at, 0 if there is none.

        Raises:
            InputError: the file is damaged, or was saved by another configuration.
        """
        self._last = time.monotonic()
        place = self._unfinished(key)
        if not place.exists():
            return 0
        header, tensors = read_metadata(place), load_tensors(place, sealed=True)
        try:
            fill(state, parse_json(header["state"]), tensors)
            return whole_step(header["step"])
        except MISFITS as error:
            way_out = "remove the file to begin this task again"
            why = in_short(error)
            raise InputError(f"checkpoint {place.url} does not fit this run ({why}): {way_out}") from error

    def finish(self, key: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
        """Keep a finished task's result and drop its unfinished state."""
        save_tensors(self._finished(key), dict(tensors), {"header": json.dumps(dict(header))}, sealed=True)
        if self._unfinished(key).exists():
            self._unfinished(key).remove()

    def finished(self, key: str) -> bool:
        """Whether this task's result is there."""
        return self._finished(key).exists()

    def result(self, key: str) -> dict[str, Tensor]:
        """A finished task's tensors, on the CPU."""
        return load_tensors(self._finished(key), sealed=True)

    def header(self, key: str) -> dict[str, Any]:
        """What a finished task said beside its tensors."""
        try:
            return dict(parse_json(read_metadata(self._finished(key))["header"]))
        except MISFITS as error:
            url = self._finished(key).url
            raise InputError(f"{url} does not say what its task made: remove it to do the task again") from error

    def _unfinished(self, key: str) -> Place:
        return self._place / f"{key}.safetensors"

    def _finished(self, key: str) -> Place:
        return self._place / f"{key}.done.safetensors"


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
    """Momentum and its like in their parameters' memory layout, which files do not keep and fused optimisers rely on."""
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
