"""What a set is worth beside what stands for nothing, in a sentence: what was beaten, by how much, and what was not.

A row beats another where its mean is better by more than the deviation of their difference over seeds, the root of both
variances; of one seed there is no deviation, which is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

OWN = ("distilled", "student")
"""Rows that are judged."""
NO_RIVAL = ("teacher", "full")
"""Rows of another size, which nobody expects to beat."""
RANDOM = "random"
NEAR_CHANCE = 1.1
"""Times chance below which a score says nothing; so does one within a deviation of chance."""
Row = Mapping[str, Any]


def verdicts(rows: Sequence[Row], more: Sequence[tuple[str, Row]] = ()) -> list[str]:
    r"""A sentence on each judged row.

    Args:
        rows: as ``scores.json`` has them.
        more: names and rows of further rivals, of other runs.

    >>> row = {"labels": "hard", "network": "n", "protocol": "p"}
    >>> score = lambda mean, std=0.0, n=1: {"accuracy": {"mean": mean, "std": std, "values": [mean] * n}}
    >>> rows = [{**row, "set": "distilled", **score(0.5)}, {**row, "set": "random", **score(0.75)}]
    >>> print(*verdicts(rows)[0].split("; "), sep="\n")
    verdict on distilled (hard, n, p): worse than random real ones
    does not beat random (-0.250)
    one seed: no uncertainty
    """
    found = []
    for row in rows:
        if row["set"] in OWN:
            rivals = {**_rivals(row, rows), **{n: r for n, r in more if _comparable(row, r, SHAPED)}}
            found += [_sentence(row, rivals)] if rivals or _chance(row) else []
    return found


def _rivals(row: Row, rows: Sequence[Row]) -> dict[str, Row]:
    """One of each other set: with the same kind of labels, else with others."""
    found: dict[str, Row] = {}
    for other in rows:
        name = str(other["set"])
        if name in (*OWN, *NO_RIVAL) or not _comparable(row, other):
            continue
        if name not in found or other["labels"] == row["labels"]:
            found[name] = other
    return found


SHAPED = ("student",)
"""What rows of other runs have to have in common besides; within a run a row's name says whose students they are."""


def _comparable(row: Row, other: Row, besides: tuple[str, ...] = ()) -> bool:
    same = ("network", "protocol", "metric", "better", "on", *besides)
    return all(row.get(key) == other.get(key) for key in same)


def _sentence(row: Row, rivals: Mapping[str, Row]) -> str:
    beaten, others, below = [], [], False
    for name, rival in rivals.items():
        gain, spread = difference(row, rival)
        gain = round(gain, 3) + 0.0  # no -0
        by = f"{gain:.3f}" if spread is None else f"{gain:.3f} ± {spread:.3f}"
        if gain > (spread or 0.0):
            beaten.append(f"{name} by {by}")
        else:
            others.append(f"{name} ({'' if gain < 0 else '+'}{by})")
            below = below or (name == RANDOM and gain < -(spread or 0.0))
    parts = [_chance(row), "worse than random real ones" if below else ""]
    parts += [f"beats {', '.join(beaten)}" if beaten else "", f"does not beat {', '.join(others)}" if others else ""]
    seeds = len(row["accuracy"]["values"])
    parts.append(
        "one seed: no uncertainty" if seeds < 2 else f"± is the deviation of the difference over {seeds} seeds"
    )
    on = f", on {row['on']}" if row.get("on") else ""
    metric = f", {row['metric']}" if row.get("metric", "accuracy") != "accuracy" else ""
    about = f"{row['set']} ({row['labels']}, {row['network']}, {row['protocol']}{metric}{on})"
    return f"verdict on {about}: {'; '.join(part for part in parts if part)}"


def difference(row: Row, rival: Row) -> tuple[float, float | None]:
    """By how much a row is better than another, and the deviation of that over seeds; None for one seed."""
    one, other = row["accuracy"], rival["accuracy"]
    gain = float(one["mean"]) - float(other["mean"])
    gain = -gain if row.get("better") == "smaller" else gain
    if min(len(one["values"]), len(other["values"])) < 2:
        return gain, None
    return gain, math.hypot(float(one["std"]), float(other["std"]))


def _chance(row: Row) -> str:
    """What is to be said of a score that guessing gives too; nothing of others."""
    by_class = row.get("class_accuracy")
    if row.get("metric", "accuracy") != "accuracy" or not by_class:
        return ""
    chance, mean = 1 / len(by_class[0]), float(row["accuracy"]["mean"])
    if mean > max(chance * NEAR_CHANCE, chance + float(row["accuracy"]["std"])):
        return ""
    return f"at chance ({mean:.3f}, and guessing among {len(by_class[0])} classes gives {chance:.3f})"
