"""What other programs put around a network's state dict, taken off: dicts in dicts, and words before tensors' names.

Which words stand before the names is found out with the names that the network has itself, so that a trainer's prefix
need not be known. Where a file holds several networks that fit, the plain one counts; among averages, students and
teachers alone nobody guesses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from ddcore.errors import InputError

T = TypeVar("T")

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Words that torch's own wrappers put anywhere into names: of DataParallel, compile, FSDP, checkpointing, Fabric."""
PLAIN = (
    *("state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network_state_dict"),
    *("network", "weights", "params", "classifier", "backbone", "encoder"),
)
"""Where programs keep the network itself, the likelier first."""
ASIDE = ("ema", "average", "avg", "swa", "student", "teacher", "online", "target", "momentum")
"""Words in the names under which they keep another one beside it."""
COUNTS = ("n_averaged",)
"""What wrappers keep beside the network's tensors."""
COUNTER = "num_batches_tracked"
"""Files of before torch 0.4.1 have no such buffers."""
DEEPEST = 8


def is_state(held: Any, kind: type) -> bool:
    """Whether a dict holds tensors by name and nothing else."""
    return (
        isinstance(held, dict) and bool(held) and all(type(k) is str and isinstance(v, kind) for k, v in held.items())
    )


def state_within(held: Any, kind: type, name: str) -> Any:
    """The state dict in nested dicts; what was given, where there is none.

    Args:
        kind: of tensors.
        name: of the file, for messages.

    Raises:
        InputError: several, none of which is the plain network's by its name.
    """
    found: dict[tuple[str, ...], Any] = dict(_states(held, kind, ()))
    return found[_chosen(found, name)] if found else held


def _states(held: Any, kind: type, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if is_state(held, kind):
        yield path, held
    elif isinstance(held, dict) and len(path) < DEEPEST:
        for key, value in held.items():
            if type(key) is str and isinstance(value, dict):
                yield from _states(value, kind, (*path, key))


def _chosen(found: Collection[tuple[str, ...]], name: str) -> tuple[str, ...]:
    """One of several paths.

    Raises:
        InputError: two are as likely.
    """
    ranked = sorted(found, key=_rank)
    first, second = (*map(_rank, ranked), (3, ()))[:2]
    if first[0] == second[0] and (first[0] or first == second):
        both = " and ".join(repr(".".join(path)[:60] or "itself") for path in ranked[:2])
        raise InputError(f"{name} holds several networks, {both} among them: save the state_dict of the one you mean")
    return ranked[0]


def _rank(path: tuple[str, ...]) -> tuple[int, tuple[int, ...]]:
    """Smaller is likelier: the plain network, one under a name that says nothing, one that is kept beside it."""
    words = [word.lower() for word in path]
    if any(map(_is_aside, words)):
        return 2, ()
    known = tuple(PLAIN.index(word) if word in PLAIN else len(PLAIN) for word in words if word not in WRAPPERS)
    return int(len(PLAIN) in known), known


def _is_aside(word: str) -> bool:
    return any(part in word.split("_") or word.startswith(part) for part in ASIDE)


def without_heads(names: Collection[str]) -> dict[str, str]:
    """New name to old, without the words of torch's wrappers in front; as they are where two would be alike."""
    found = {_headless(name): name for name in names}
    return found if len(found) == len(names) else {name: name for name in names}


def _headless(name: str) -> str:
    while (parts := name.partition("."))[0] in WRAPPERS and parts[2]:
        name = parts[2]
    return name


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def fitted(state: Mapping[str, T], own: Collection[str], name: str) -> dict[str, T]:
    """A state dict by a network's own names, where other words before or within its names are all that differs.

    What a file holds beside the network under other words is left out. A state that does not fit comes back as it is.

    Args:
        own: names that the network has; counters of batches may be missing.
        name: of the file, for messages.

    Raises:
        InputError: several networks fit, and none is the plain one by its name.
    """
    due = [key for key in own if not key.endswith(COUNTER)]
    if set(due) <= set(state):
        return {key: value for key, value in state.items() if key in own or not _is_beside(key)}
    bare = {_bare(key): key for key in state}
    wanted = {_bare(key): key for key in own}
    if len(bare) < len(state) or len(wanted) < len(own):
        return dict(state)
    needed = [_bare(key) for key in due]
    longest = max(needed, key=len)
    heads = {key.removesuffix(longest) for key in bare if key.endswith(longest)}
    heads = {head for head in heads if (not head or head.endswith(".")) and all(head + n in bare for n in needed)}
    if not heads:
        return dict(state)
    paths = {tuple(head.split(".")[:-1]): head for head in heads}
    head = paths[_chosen(paths, name)]
    inside = {key.removeprefix(head): state[old] for key, old in bare.items() if key.startswith(head)}
    return {wanted.get(key, key): v for key, v in inside.items() if key in wanted or not _is_beside(key)}


def _is_beside(key: str) -> bool:
    """Whether what the network has not is of another one, or a count of a wrapper's."""
    return key in COUNTS or ("." in key and _is_aside(key.partition(".")[0].lower()))
