"""Students that no gradient trains: scikit-learn's trees and nearest neighbours, a row for each set that is scored.

They see what the run's networks see (encoded rows, hard classes) and are tested on the same rows; sets and seeds are
those of the core's rows, so that a row of trees stands beside the row of the network on the very same samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Generator, Tensor

from ddcore import Row, StudentData, Task
from ddcore.labels import HardLabels, smallest_type
from ddcore.storage import canonical, sha256_of
from ddcore_tabular.scores import area, balanced_accuracy

if TYPE_CHECKING:
    from ddcore import Run

TREE, FOREST, BOOSTING, NEIGHBOURS = "decision-tree", "random-forest", "gradient-boosting", "nearest-neighbours"
STUDENTS = (TREE, FOREST, BOOSTING, NEIGHBOURS)
PROTOCOL = "scikit-learn"
DISTILLED, RANDOM, RANDOM_BYTES, FULL = "distilled", "random", "random-bytes", "full"
UNTRAINED, KCENTER, DEFAULT = "untrained", "kcenter", "default"
KMEANS = "k-means"
USUAL = (DISTILLED, RANDOM, KCENTER, RANDOM_BYTES, FULL)
LEAST_LEAF = 20
"""Rows of a leaf of boosted trees, scikit-learn's; of sets under 400 rows a twentieth, one at least."""
NEAREST = 5
"""Neighbours that vote, at most."""


@frozen(eq=False)
class Rows:
    """What a student is fitted on: samples (N, D), classes (N,) int64, and what they cost by part."""

    samples: Tensor
    classes: Tensor
    bytes: Mapping[str, int]


def student(name: str, classes: Tensor, seed: int) -> Any:
    """An unfitted classifier of scikit-learn with its defaults, but for what small sets need.

    Args:
        classes: (N,) int64, of the rows that it will be fitted on.
        seed: of its own randomness.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.tree import DecisionTreeClassifier

    leaf = max(1, min(LEAST_LEAF, len(classes) // LEAST_LEAF))
    made: Mapping[str, Callable[[], Any]] = {
        TREE: lambda: DecisionTreeClassifier(random_state=seed),
        FOREST: lambda: RandomForestClassifier(random_state=seed),
        BOOSTING: lambda: HistGradientBoostingClassifier(
            min_samples_leaf=leaf, early_stopping=False, random_state=seed
        ),
        NEIGHBOURS: lambda: KNeighborsClassifier(neighbours(classes)),
    }
    return made[name]()


def neighbours(classes: Tensor) -> int:
    """How many neighbours vote: five, or as many as the smallest class has rows, an odd number.

    >>> neighbours(torch.tensor([0, 0, 1, 1])), neighbours(torch.arange(2).repeat(9))
    (1, 5)
    """
    counts = torch.bincount(classes)
    least = min(NEAREST, int(counts[counts > 0].min()))
    return least - (least % 2 == 0)


def answered(name: str, rows: Rows, test: Tensor, classes: int, seed: int) -> Tensor:
    """Probabilities (M, K) float64 for test rows (M, D), of a student fitted on ``rows``; classes that these lack get
    0."""
    from threadpoolctl import threadpool_limits

    fitted = student(name, rows.classes, seed)
    with threadpool_limits(limits=1):
        if len(rows.classes.unique()) == 1:
            told, known = np.ones((len(test), 1)), rows.classes[:1].numpy()
        else:
            fitted.fit(rows.samples.numpy(), rows.classes.numpy())
            told, known = fitted.predict_proba(test.numpy()), fitted.classes_
    found = torch.zeros(len(test), classes, dtype=torch.float64)
    found[:, torch.from_numpy(np.asarray(known, dtype=np.int64))] = torch.from_numpy(np.asarray(told, dtype=np.float64))
    return found


def centres(real: Any, cls: int, count: int, generator: Generator) -> Tensor:
    """Centres (count, D) of k-means among the real rows of a class, from scikit-learn's seeding; where it has fewer
    different rows than that, some come again."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    rows = samples_of(real.train, real.train.of_class(cls)).double()
    different = len(rows.unique(dim=0))
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    with threadpool_limits(limits=1):
        found = KMeans(min(count, different), n_init=4, random_state=seed).fit(rows.numpy()).cluster_centers_
    return torch.from_numpy(found).float()[torch.arange(count) % len(found)]


def rows_of(run: Run, names: Sequence[str]) -> list[Row]:
    """Fit every student of these names that has no result yet, on every set that is scored, and make the rows."""
    sets = scored_sets(run)
    if not names or not sets:
        return []
    assert run.artifact is not None
    identity = sha256_of(canonical([dict(run.artifact.manifest), run.setup.as_json()]))[:12]
    made, test = [], samples_of(run.real.test, torch.arange(len(run.source.test)))
    with run.progress("trees and neighbours", len(sets) * len(names) * run.config.eval_seeds, "students") as tick:
        for set_name in sets:
            of_seed = [set_of(run, set_name, seed) for seed in range(run.config.eval_seeds)]
            for name in names:
                results = []
                for seed, rows in enumerate(of_seed):
                    key = f"evaluate-tabular-{set_name}-{name}-{seed}-{identity}"
                    if not run.checkpoints.finished(key):
                        run.checkpoints.finish(key, measured(run, name, rows, test, seed), {})
                        run.check_stop()
                    results.append(run.checkpoints.result(key))
                    tick(1)
                made.append(row_of(run, set_name, name, of_seed[0], results))
    return made


def scored_sets(run: Run) -> list[str]:
    """The sets of the core's rows: of ``--rows``, else the usual, and of ``--baseline``; not others' own."""
    named = [n for word in run.config.rows or (DEFAULT,) for n in (USUAL if word == DEFAULT else (word,))]
    brought = {name for plugin in run.plugins.values() for name in plugin.student_sets if name != KMEANS}
    names = dict.fromkeys([*named, *run.config.baseline])
    return [name for name in names if name not in brought and name != UNTRAINED]


def set_of(run: Run, name: str, seed: int) -> Rows:
    """The samples of a set for a seed: those that the core's student of that seed has."""
    made = run.artifact
    assert made is not None
    classes = made.labels.classes.cpu()
    if name == DISTILLED:
        labels = HardLabels(classes, len(run.real.classes))
        rows = _rows(made.images().float(), classes, made.nbytes["images"], labels)
        return evolve(rows, bytes=dict(made.nbytes)) if made.labels.kind == labels.kind else rows
    if name == FULL:
        return _real(run, torch.arange(len(run.source.train)))
    wanted = torch.bincount(classes, minlength=len(run.real.classes)).tolist()
    there = run.real.counts()
    if name in (RANDOM, RANDOM_BYTES):
        counts = [min(pair) for pair in zip(wanted, there, strict=True)]
        if name == RANDOM_BYTES:
            each = row_bytes(run) + smallest_type(len(there)).itemsize
            counts = shared_out(max(len(there), made.nbytes["total"] // each), there)
        generator = run.generator("evaluate", RANDOM, seed)
        chosen = [run.real.choose(cls, count, generator) for cls, count in enumerate(counts) if count]
        return _real(run, torch.cat(chosen))
    counts = [min(pair) for pair in zip(wanted, there, strict=True)]
    asked = classes if name == "noise" else torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    if name == KMEANS:
        generator = run.generator("tabular", KMEANS, seed)
        samples = torch.cat([centres(run.real, cls, count, generator) for cls, count in enumerate(counts) if count])
        return _rows(samples, asked, samples.nbytes, HardLabels(asked, len(there)))
    samples = run.initialize(asked, Task("evaluate", name, 1, slot=seed, classes=asked), name)
    return _priced(run, samples.float().cpu(), asked)


def shared_out(total: int, available: Sequence[int]) -> list[int]:
    """``total`` as evenly over the classes as ``available`` allows; what is left over goes to the first ones.

    >>> shared_out(8, [5, 1, 5])
    [4, 1, 3]
    """
    shares = [0] * len(available)
    for _ in range(min(total, sum(available))):
        room = [cls for cls, most in enumerate(available) if shares[cls] < most]
        shares[min(room, key=lambda cls: shares[cls])] += 1
    return shares


def samples_of(part: Any, index: Tensor) -> Tensor:
    """Rows (n, D) float32 of a part, as networks see them, on the CPU."""
    return part.inputs(index).float().cpu()  # type: ignore[no-any-return]


def row_bytes(run: Run) -> int:
    """What a real row costs as it is stored, without its label."""
    source: Any = run.source
    return int(source.price)


def _real(run: Run, index: Tensor) -> Rows:
    return _priced(run, samples_of(run.real.train, index), run.source.train.labels[index])


def _priced(run: Run, samples: Tensor, classes: Tensor) -> Rows:
    labels = HardLabels(classes, len(run.real.classes))
    return _rows(samples, classes, len(classes) * row_bytes(run), labels)


def _rows(samples: Tensor, classes: Tensor, nbytes: int, labels: HardLabels) -> Rows:
    parts = {"images": nbytes, "labels": labels.payload_bytes, "models": 0}
    return Rows(samples, classes, {**parts, "total": sum(parts.values())})


def as_data(run: Run, rows: Rows) -> StudentData:
    """The same for a network."""
    return StudentData(rows.samples, HardLabels(rows.classes, len(run.real.classes)), rows.bytes)


def measured(run: Run, name: str, rows: Rows, test: Tensor, seed: int) -> dict[str, Tensor]:
    """What one student comes to: ``accuracy``, ``balanced_accuracy``, ``auc``, ``seconds``, 0-d float64, and
    ``class_accuracy`` (K,)."""
    generator = run.generator("tabular", name, seed)
    began, count = time.perf_counter(), len(run.real.classes)
    told = answered(name, rows, test, count, int(torch.randint(2**31 - 1, (), generator=generator)))
    seconds, labels, answers = time.perf_counter() - began, run.source.test.labels, told.argmax(1)
    right = (answers == labels).double()
    numbers = {
        "accuracy": float(right.mean()),
        "balanced_accuracy": balanced_accuracy(answers, labels),
        "auc": area(told, labels),
        "seconds": seconds,
    }
    by_class = [right[labels == cls].mean() for cls in range(count)]
    return {n: torch.tensor(value, dtype=torch.float64) for n, value in numbers.items()} | {
        "class_accuracy": torch.stack(by_class)
    }


def row_of(run: Run, set_name: str, name: str, rows: Rows, results: Sequence[Mapping[str, Tensor]]) -> Row:
    """One line of ``scores.json``."""
    count = len(rows.classes)
    extra = {f"tabular.{n}": [_number(float(r[n])) for r in results] for n in ("balanced_accuracy", "auc")}
    by_class = [[_number(value) for value in result["class_accuracy"].tolist()] for result in results]
    return Row(
        set=set_name,
        protocol=PROTOCOL,
        network=name,
        labels="hard",
        ipc=count / len(run.real.classes),
        bytes=dict(rows.bytes),
        values=tuple(float(result["accuracy"]) for result in results),
        steps=0,
        seconds=sum(float(result["seconds"]) for result in results) / len(results),
        extra={"images": count, "class_accuracy": by_class, **extra},
    )


def _number(value: float) -> float | None:
    return round(value, 6) if value == value else None
