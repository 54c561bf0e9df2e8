"""What losses of students see: features of the student by name, and its teachers' answers, each asked at most once a
batch.

Features are read by hooks on modules that are there while a block runs and gone after it. A name is one of the
network's ``taps`` (``stem``, ``stage1`` and so on in the zoo; ``stage*`` are all stages that there are, ``unpooled*``
the same before their pooling, or the stages where none is pooled), ``embedding`` (the input of its last linear layer),
or a module's path. Shape letters: B rows, C H W of a feature map, D of an embedding, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ddcore.api.types import Seen, Vote
from ddcore.errors import InputError, near
from ddcore.networks.passes import channels_last

EMBEDDING, STAGES, UNPOOLED = "embedding", "stage*", "unpooled*"


class Found(dict[str, Tensor]):
    """Features by name, of the last pass.

    Attributes:
        calls: by name, every output that the pass made, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[Tensor]] = {}

    def begin(self) -> None:
        """A pass begins."""
        self.calls.clear()

    def add(self, name: str, output: Tensor) -> None:
        """A module has run."""
        self[name] = output
        self.calls.setdefault(name, []).append(output)


def seen_of(logits: Tensor, found: Found) -> Seen:
    """What was found in a pass, kept: a later pass does not change it."""
    return Seen(logits, dict(found), {name: tuple(outputs) for name, outputs in found.calls.items()})


def last_linear(network: nn.Module) -> str:
    """Path of the layer that gives the logits.

    Raises:
        InputError: it has no linear layer.
    """
    paths: list[str] = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not paths:
        raise InputError(
            f"{type(network).__name__} has no linear layer, so there is no embedding before it: name a module"
        )
    return paths[-1]


def path_of(network: nn.Module, name: str) -> str:
    """The module that a name stands for.

    Raises:
        InputError: there is no such tap or module; names the nearest.
    """
    taps: Mapping[str, str] = getattr(network, "taps", {})
    path = last_linear(network) if name == EMBEDDING else str(taps.get(name, name))
    known = {p for p, _ in network.named_modules() if p}
    if path not in known:
        choices = [EMBEDDING, *taps, *sorted(known)]
        raise InputError(f"{type(network).__name__} has no module or tap {name!r}: {near(name, choices)}")
    return path


def _each(network: nn.Module, names: Sequence[str]) -> list[str]:
    """The names, with all stages of this network, however many, in the place of ``stage*`` and ``unpooled*``."""
    taps = list(getattr(network, "taps", {}))
    stages = [tap for tap in taps if tap.startswith("stage")] or [STAGES]
    unpooled = [tap for tap in taps if tap.startswith("unpooled")] or stages
    many = {STAGES: stages, UNPOOLED: unpooled}
    return list(dict.fromkeys(tap for name in names for tap in many.get(name, [name])))


@contextmanager
def tapped(network: nn.Module, names: Sequence[str]) -> Iterator[Found]:
    """Features by name, as the last pass inside the block made them, with their graph.

    Raises:
        InputError: a name that the network does not have; before anything runs.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> with tapped(network, [EMBEDDING]) as features:
    ...     _ = network(torch.ones(3, 1, 2, 2))
    >>> features[EMBEDDING].shape, len(network[1]._forward_pre_hooks)
    (torch.Size([3, 4]), 0)
    """
    found = Found()
    paths = {name: path_of(network, name) for name in _each(network, names)}

    def after(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: found.add(name, output)

    def before(name: str) -> Callable[..., None]:
        return lambda _module, inputs: found.add(name, inputs[0])

    hooks = [network.register_forward_pre_hook(lambda _module, _inputs: found.begin())] if paths else []
    for name, path in paths.items():
        module = network.get_submodule(path)
        add: Any = module.register_forward_pre_hook if name == EMBEDDING else module.register_forward_hook
        hooks.append(add((before if name == EMBEDDING else after)(name)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class Teaching:
    """The teachers' answers to one batch, as the student sees it; nobody is asked before somebody looks.

    Attributes:
        votes: who answers, with which weight.
        told: logits (B, K) that the labels brought for these very rows, if any: then nobody is asked for them.
    """

    def __init__(
        self, votes: Sequence[Vote], inputs: Any, names: Sequence[str] = (), told: Tensor | None = None
    ) -> None:
        self.votes, self.told = tuple(votes), told
        self._inputs, self._names = inputs, tuple(names)

    def __len__(self) -> int:
        return len(self.votes)

    @cached_property
    def seen(self) -> tuple[Seen, ...]:
        """What each teacher makes of the batch, without gradient, in the order of the votes."""
        return tuple(self._seen(vote.network) for vote in self.votes)

    @cached_property
    def logits(self) -> Tensor:
        """The teachers' logits (B, K), weighted and added up; those that the labels brought, where they did."""
        if self.told is not None:
            return self.told
        return torch.stack([v.weight * s.logits for v, s in zip(self.votes, self.seen, strict=True)]).sum(0)

    @torch.no_grad()
    def _seen(self, network: nn.Module) -> Seen:
        inputs = channels_last(self._inputs) if isinstance(self._inputs, Tensor) else self._inputs
        if not self._names:
            return Seen(network(inputs), {})
        with tapped(network, self._names) as features:
            logits = network(inputs)
        return seen_of(logits, features)
