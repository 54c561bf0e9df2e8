"""JSON with one thing wrong in it, for what reads manifests and headers."""

import copy
import random
from collections.abc import Sequence
from typing import Any


def mutated(value: Any, draw: random.Random, values: Sequence[Any], deeper: float, removed: float) -> Any:
    """A copy with one thing in it removed or replaced, at any depth.

    Args:
        value: what ``json`` reads.
        values: what stands in the place of what is replaced.
        deeper: how likely it is, at each depth, that something inside is changed and not the whole.
        removed: how likely it is, at each depth, that this is removed and not changed.
    """
    if isinstance(value, dict | list) and value and draw.random() < deeper:
        changed = copy.copy(value)
        key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
        if draw.random() < removed:
            del changed[key]
        else:
            changed[key] = mutated(value[key], draw, values, deeper, removed)
        return changed
    return draw.choice(values)
