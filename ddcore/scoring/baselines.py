"""Real images to set a distilled set beside: random ones, as many as its bytes buy, and those that k-center chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddcore.composing.discovery import matching
from ddcore.composing.plan import TRAJECTORIES
from ddcore.images.selection import kcenter
from ddcore.labels import smallest_type
from ddcore.networks.passes import features
from ddcore.training import experts

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run
    from ddcore.labels import Labels
    from ddcore.sets.artifact import Artifact


def random_index(run: Run, artifact: Artifact, student: int, *, by_bytes: bool) -> Tensor:
    """Rows of the train split, class by class; the smaller of two such sets of a seed is part of the larger one."""
    wanted = class_counts(run, artifact)
    if by_bytes:
        wanted = share_out(count_for_bytes(run, artifact.nbytes["total"]), run.real.counts())
    generator = run.generator("evaluate", "random", student)
    return torch.cat([run.real.choose(cls, count, generator) for cls, count in enumerate(wanted) if count])


def kcenter_index(run: Run, artifact: Artifact) -> tuple[Tensor, bool]:
    """What ``kcenter_chooser`` chooses: rows of the train split, class by class, as many of each as the artifact has, or all there are.

    Returns:
        The rows, and whether features were used.
    """
    choose, on_features = kcenter_chooser(run)
    there = run.real.counts()
    chosen = [choose(cls, min(count, there[cls])) for cls, count in enumerate(class_counts(run, artifact))]
    return torch.cat(chosen), on_features


def kcenter_chooser(run: Run) -> tuple[Callable[[int, int], Tensor], bool]:
    """What ``kcenter`` means, as a row and as an initialiser: k-center among the real images of a class, first nearest to their mean.

    Returns:
        From a class and a count to so many rows of the train split, in the order chosen; and whether distances are between features
        of expert 0, which is so if the run needs experts and has them, else between normalised pixels: what else lies in the cache is no
        matter.
    """
    needs = run.plan.needs if matching(run.plugins) else ()  # a set alone is evaluated without a matcher
    trained = experts.at_hand(run) if TRAJECTORIES in needs else None
    network = trained.network(run, 0) if trained else None

    def choose(cls: int, count: int) -> Tensor:
        rows = run.real.train.of_class(cls)
        images = run.real.train.inputs(rows)
        described = images.flatten(1) if network is None else features(network, images)
        return rows[kcenter(described.cpu(), count).cpu()]

    return choose, network is not None


def class_counts(run: Run, artifact: Artifact) -> list[int]:
    """Images of each class in the artifact."""
    counts: list[int] = torch.bincount(artifact.labels.classes.cpu(), minlength=len(run.real.classes)).tolist()
    return counts


def count_for_bytes(run: Run, total: int) -> int:
    """How many real samples, each at its price with a hard label, cost no more than ``total`` bytes; at least one a class."""
    classes = len(run.real.classes)
    return max(classes, total // (run.source.price + smallest_type(classes).itemsize))


def share_out(total: int, available: Sequence[int]) -> list[int]:
    """``total`` split as evenly over the classes as ``available`` allows; what is left over goes to the first classes.

    >>> share_out(8, [5, 1, 5])
    [4, 1, 3]
    """
    shares = [0] * len(available)
    left = min(total, sum(available))
    while left:
        room = [c for c, n in enumerate(available) if shares[c] < n]
        each = min(left // len(room), *(available[c] - shares[c] for c in room))
        for c in room if each else room[:left]:
            shares[c] += max(each, 1)
        left = min(total, sum(available)) - sum(shares)
    return shares


def real_bytes(run: Run, count: int, labels: Labels) -> dict[str, int]:
    """What real samples cost: each its price (of images uint8 pixels), and the payload of their labels and of networks that compute these."""
    parts = {"images": count * run.source.price, "labels": labels.payload_bytes, "models": labels.model_bytes}
    return {**parts, "total": sum(parts.values())}
