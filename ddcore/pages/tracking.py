"""What trackers show of a run's events: numbers with a name and a place on an axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

AXES = ("step", "epoch")
WHO = ("task", "expert", "teacher", "student", "arm", "seed")
"""Fields of an event that say what a number is of."""
OF_A_ROW = ("set", "labels", "network", "protocol")


@frozen
class Number:
    """One point of a curve.

    Attributes:
        name: parts joined by slashes, what the event is of first.
        value: a finite number.
        step: where on the curve, from 0.
    """

    name: str
    value: float
    step: int


def numbers(event: str, fields: Mapping[str, Any]) -> list[Number]:
    """The numbers of an event, as ``ddcore_log`` gets it.

    >>> numbers("step", {"task": "distil-000", "step": 3, "loss": 0.5, "seconds": 0.1})
    [Number(name='step/distil-000/loss', value=0.5, step=3), Number(name='step/distil-000/seconds', value=0.1, step=3)]
    >>> numbers("step", {"task": "distil-000", "step": 4, "loss": None})
    []
    >>> row = {"set": "random", "labels": "hard", "network": "convnet", "protocol": "quick"}
    >>> numbers("row", {**row, "accuracy": {"mean": 0.5}})
    [Number(name='accuracy/random/hard/convnet/quick', value=0.5, step=0)]
    """
    if event == "row":
        name = "/".join([str(fields.get("metric", "accuracy")), *(_plain(str(fields[part])) for part in OF_A_ROW)])
        return [Number(name, float(fields["accuracy"]["mean"]), 0)]
    at = next((int(fields[axis]) for axis in AXES if axis in fields), 0)
    of = "/".join([event, *(_plain(str(fields[who])) for who in WHO if who in fields)])
    found = {name: value for name, value in fields.items() if name not in (*AXES, *WHO) and _is_number(value)}
    return [Number(f"{of}/{name}", float(value), at) for name, value in found.items()]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(text: str) -> str:
    """Letters that every tracker takes in a name."""
    return "".join(letter if letter.isalnum() or letter in "-_. " else "-" for letter in text)
