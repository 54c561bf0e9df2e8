"""The lines of ``scores.json``: a distilled set, random graphs in as many bytes and all graphs, each by each network.

A student a seed; finished students are kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddcore import InputError, PluginError, Row, randomness
from ddcore.storage import canonical, sha256_of
from ddcore_graphs import GraphPack
from ddcore_graphs.packing import file_bytes, pack_graphs, unpack_graphs
from ddcore_graphs.sources import GRAPHS
from ddcore_graphs.training import Descent, Samples, accuracy, auc, one_thread, train, within_bytes

if TYPE_CHECKING:
    from ddcore import Run

DISTILLED, RANDOM_BYTES, FULL = "distilled", "random-bytes", "full"
SETS = (DISTILLED, RANDOM_BYTES, FULL)
FULL_EPOCHS, FULL_GRAPHS = 30, 300_000
"""On all real graphs: epochs, unless that makes more graphs than these."""


def rows(run: Run, distilled: Samples, *, described: str) -> list[Row]:
    """Train every student that has no result yet, and make the rows: what a graph method's ``ddcore_evaluate`` returns.

    Students have the pack's options and the networks of ``--eval-network``, else those that the matcher's ``students``
    names, else all that the pack builds.

    Args:
        distilled: the run's set, as students are to see it.
        described: the set, for the note of its row.

    Raises:
        InputError: the test part has one class only, so that no ROC-AUC is defined; the set does not fit the data.
        PluginError: the matcher does not name the pack.
    """
    plugin = pack_of(run)
    networks: Sequence[str] = run.config.eval_network or run.matcher.students or plugin.networks
    assert run.packed is not None
    check_fits(distilled, run.source)
    identity = sha256_of(canonical([run.packed.manifest["files"], run.setup.as_json()]))[:12]
    whole = file_bytes(pack_graphs(run.source.train.stored, run.source.train.labels))
    made = []
    students = len(SETS) * len(networks) * run.config.eval_seeds
    with one_thread(), run.progress("evaluate", students, "students") as tick:
        for network in networks:
            for name in SETS:
                results = []
                for seed in range(run.config.eval_seeds):
                    key = f"evaluate-{name}-{network}-{seed}-{identity}"
                    if not run.checkpoints.finished(key):
                        run.checkpoints.finish(key, _student(plugin, run, name, network, seed, distilled), {})
                        run.check_stop()
                    results.append(run.checkpoints.result(key))
                    tick(1)
                note = _note(plugin, name, described, results)
                made.append(_row(plugin, run, name, network, results, whole, note))
    return made


def check_fits(samples: Samples, source: Any) -> None:
    """Refuse a set whose graphs have other features or classes than the data.

    Raises:
        InputError: naming both.
    """
    graphs, most = samples.graphs, int(samples.classes.max()) if len(samples.classes) else 0
    ours, theirs = (graphs.nodes.shape[1], graphs.bonds.shape[1]), (source.channels, source.size)
    if ours != theirs or not 0 <= most < len(source.classes):
        raise InputError(
            f"the set has graphs of {ours[0]}x{ours[1]} features and class {most}, and the data {theirs[0]}x{theirs[1]} and "
            f"{len(source.classes)} classes: restore a copy or distil again"
        )


def stored_samples(run: Run) -> Samples:
    """The run's finished set, stored by ``pack_graphs``, as students see it: all graphs alike."""
    assert run.packed is not None
    graphs, classes = unpack_graphs(run.packed.tensors)
    return Samples(graphs, classes, torch.ones(len(classes), dtype=torch.float64), run.packed.nbytes["total"])


def pack_of(run: Run) -> GraphPack:
    """The pack's instance in a run, which has its options.

    Raises:
        PluginError: the run has none.
    """
    for plugin in run.plugins.values():
        if isinstance(plugin, GraphPack):
            return plugin
    raise PluginError(
        f'{run.matcher_name} trains students of ddcore-graphs, which the run does not have: write packs = ("graphs",) in its class'
    )


def _samples(run: Run, name: str, seed: int, distilled: Samples) -> Samples:
    if name == DISTILLED:
        return distilled
    train_part = run.source.train
    graphs, labels = train_part.stored, train_part.labels
    if name == RANDOM_BYTES:
        index = within_bytes(graphs, labels, distilled.nbytes, run.generator(run.plan.matcher, "random", seed))
        graphs, labels = graphs.select(index), labels[index]
    nbytes = file_bytes(pack_graphs(graphs, labels))
    return Samples(graphs, labels, torch.ones(len(labels), dtype=torch.float64), nbytes)


def _student(plugin: GraphPack, run: Run, name: str, network: str, seed: int, distilled: Samples) -> dict[str, Tensor]:
    samples = _samples(run, name, seed, distilled)
    count = len(samples.classes)
    steps = _full_steps(plugin, run, count) if name == FULL else plugin.student_steps
    student = run.network(run.generator("evaluate", seed, "init"), network)
    began = time.perf_counter()
    with randomness.drawing_from(run.generator("evaluate", seed, "dropout"), run.device):
        descent = Descent(steps, plugin.batch, plugin.rate, plugin.weight_decay)
        train(student, samples, descent, run.generator("evaluate", seed, "order"))
    seconds = time.perf_counter() - began
    measure = {"roc-auc": auc, "accuracy": accuracy}[plugin.metric]
    score = measure(student, run.source.test.stored, run.source.test.labels)
    if score != score:
        raise InputError(
            f"the test part of {run.source.name} has one class only: ROC-AUC needs two, give another --split or "
            "--graphs.metric accuracy"
        )
    numbers = {"score": score, "seconds": seconds}
    counts = {"steps": steps, "samples": count, "bytes": samples.nbytes}
    return {n: torch.tensor(v, dtype=torch.float64) for n, v in numbers.items()} | {
        n: torch.tensor(v, dtype=torch.int64) for n, v in counts.items()
    }


def _full_steps(plugin: GraphPack, run: Run, count: int) -> int:
    if plugin.full_steps is not None:
        return plugin.full_steps
    epochs = run.config.full_epochs or max(1, min(FULL_EPOCHS, FULL_GRAPHS // count))
    return max(plugin.student_steps, epochs * -(-count // plugin.batch))


def _note(plugin: GraphPack, name: str, described: str, results: list[dict[str, Tensor]]) -> str:
    count, steps = int(results[0]["samples"]), int(results[0]["steps"])
    return {
        DISTILLED: described,
        RANDOM_BYTES: "real graphs of each class in turn, as many as fit the artifact's bytes, other ones for each student",
        FULL: f"all train graphs, {steps * plugin.batch / count:.2g} epochs",
    }[name]


def _row(
    plugin: GraphPack, run: Run, name: str, network: str, results: list[dict[str, Tensor]], whole: int, note: str
) -> Row:
    count, nbytes, steps = (int(results[0][what]) for what in ("samples", "bytes", "steps"))
    smaller = "" if name == FULL else f"; {whole / nbytes:,.1f} times smaller than all train graphs"
    return Row(
        set=name,
        protocol=f"adam-{steps}",
        network=network,
        labels="hard",
        ipc=count / len(run.source.classes),
        bytes={GRAPHS: nbytes, "total": nbytes},
        values=tuple(float(result["score"]) for result in results),
        steps=steps,
        seconds=sum(float(result["seconds"]) for result in results) / len(results),
        note=f"{note}{smaller}",
        metric=plugin.metric,
        extra={"samples": count, "compression": whole / nbytes},
    )
