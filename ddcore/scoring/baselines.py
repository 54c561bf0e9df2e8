"""Real images to set a distilled set beside: random ones, as many as its bytes buy, and those that k-center chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddcore.composing.discovery import matching
from ddcore.composing.plan import TRAJECTORIES
from ddcore.images.selection import filled, kcenter
from ddcore.labels import smallest_type
from ddcore.networks.passes import features
from ddcore.storage.keeping import kept, machine
from ddcore.training import experts

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run
    from ddcore.labels import Labels
    from ddcore.sets.artifact import Artifact

VERSION = 1
"""Raise it when ``kcenter`` chooses differently: kept choices are then not used again."""


NOISE = "noise"
"""The initialiser that begins with no real image."""


def random_index(run: Run, artifact: Artifact, student: int, *, by_bytes: bool) -> Tensor:
    """Rows of the train split, class by class, or all that a class has; the smaller of two such sets of a seed is part
    of the larger one."""
    wanted = at_most(class_counts(run, artifact), run.real.counts())
    if by_bytes:
        wanted = share_out(count_for_bytes(run, artifact.nbytes["total"]), run.real.counts())
    generator = run.generator("evaluate", "random", student)
    return torch.cat([run.real.choose(cls, count, generator) for cls, count in enumerate(wanted) if count])


def baseline_classes(run: Run, artifact: Artifact) -> Tensor:
    """Classes of an initialiser's row, (N,) int64 in their order: as many of each as the artifact has, or as there are
    real ones."""
    counts = at_most(class_counts(run, artifact), run.real.counts())
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def kcenter_index(run: Run, classes: Tensor) -> Tensor:
    """What the initialiser ``kcenter`` chooses: k-center among the real images of each class, first nearest to their
    mean.

    Distances are between features of expert 0 where ``sees_features``, else between normalised pixels. Choices are kept
    in the run's cache: students of every seed, and other runs, ask for the same.

    Args:
        classes: (N,) int64, of each image wanted, in any order.

    Returns:
        (N,) int64, rows of the train split; those of a class in the order chosen, and again where it has fewer.
    """
    counts, there = torch.bincount(classes, minlength=len(run.real.classes)).tolist(), run.real.counts()
    enough = at_most(counts, there)
    key = {
        "version": VERSION,
        "data": run.source.fingerprint,
        "normalisation": run.real.normalisation.header(),
        "features": experts.digest(run) if sees_features(run) else None,
        "counts": enough,
        "machine": machine(run.device, run.dtype),
    }
    chosen = kept(run.cache, "kcenter", key, lambda: {"index": _chosen(run, enough)}, note=run.warn)["index"]
    each = zip(chosen.split(enough), counts, strict=True)
    index = torch.empty(len(classes), dtype=torch.int64)
    index[classes.argsort(stable=True)] = torch.cat([filled(rows, count) for rows, count in each])
    return index


def sees_features(run: Run) -> bool:
    """Whether ``kcenter`` looks at expert 0: if the run needs experts and has them; what else lies in the cache is no
    matter."""
    needs = run.plan.needs if matching(run.plugins) else ()  # a set alone is evaluated without a matcher
    return TRAJECTORIES in needs and experts.at_hand(run) is not None


def _chosen(run: Run, counts: Sequence[int]) -> Tensor:
    trained = experts.at_hand(run) if sees_features(run) else None
    network = trained.network(run, 0) if trained else None
    chosen = [torch.empty(0, dtype=torch.int64)]
    for cls, count in enumerate(counts):
        if count:
            rows = run.real.train.of_class(cls)
            images = run.real.train.inputs(rows)
            described = images.flatten(1) if network is None else features(network, images)
            chosen.append(rows[kcenter(described.cpu(), count).cpu()])
    return torch.cat(chosen)


def class_counts(run: Run, artifact: Artifact) -> list[int]:
    """Images of each class in the artifact, or where it has none as many of each class as there can be."""
    if not artifact.labelled:
        return share_out(len(artifact), run.real.counts())
    counts: list[int] = torch.bincount(artifact.labels.classes.cpu(), minlength=len(run.real.classes)).tolist()
    return counts


def at_most(wanted: Sequence[int], there: Sequence[int]) -> list[int]:
    """Of each class what is wanted, or what there is.

    >>> at_most([5, 5], [9, 2])
    [5, 2]
    """
    return [min(pair) for pair in zip(wanted, there, strict=True)]


def of_those_there(run: Run, classes: Tensor) -> Tensor:
    """The rows of ``classes`` (N,) for which the train split has a different image each: of a class the first ones."""
    rank = torch.zeros_like(classes)
    for cls in classes.unique():
        of = classes == cls
        rank[of] = torch.arange(int(of.sum()))
    return classes[rank < torch.tensor(run.real.counts())[classes]]


def count_for_bytes(run: Run, total: int) -> int:
    """How many real images, as the data hold them with a hard label each, cost no more than ``total`` bytes; at least
    one a class."""
    return max(len(run.real.classes), total // bytes_of_a_pair(run))


def bytes_of_a_pair(run: Run) -> int:
    """What a real sample costs as its data hold it, with a hard label."""
    return bytes_of_one(run) + smallest_type(len(run.real.classes)).itemsize


def bytes_of_one(run: Run) -> int:
    """What a real sample costs as its data hold it, or as they say of themselves."""
    return run.source.price


def stored_as(run: Run) -> str:
    """The smallest type that holds all samples of the data exactly, by name."""
    levels = run.real.source.white is not None
    return "uint8" if levels else str(run.source.train.stored.dtype).removeprefix("torch.")


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
    """What real samples cost: themselves as their data hold them, and the payload of their labels and of networks that
    compute these."""
    parts = {"images": count * bytes_of_one(run), "labels": labels.payload_bytes, "models": labels.model_bytes}
    return {**parts, "total": sum(parts.values())}
