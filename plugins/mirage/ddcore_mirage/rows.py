"""The lines of ``scores.json``: each set of samples by each network, a student a seed; finished students are kept."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddcore import InputError, Row, randomness
from ddcore.storage import canonical, sha256_of
from ddcore_mirage.forest import elements, file_bytes, pack_graphs
from ddcore_mirage.graphs import Graphs
from ddcore_mirage.sources import GRAPHS
from ddcore_mirage.training import Descent, Samples, auc, one_thread, train, within_bytes

if TYPE_CHECKING:
    from ddcore.run import Run
    from ddcore_mirage import Mirage

DISTILLED, RANDOM_BYTES, FULL = "distilled", "random-bytes", "full"
SETS = (DISTILLED, RANDOM_BYTES, FULL)
FULL_EPOCHS, FULL_GRAPHS = 30, 300_000
"""On all real graphs: epochs, unless that makes more graphs than these."""


def rows(plugin: Mirage, run: Run) -> list[Row]:
    """Train every student that has no result yet, and make the rows.

    Raises:
        InputError: the test part has one class only, so that no ROC-AUC is defined.
    """
    networks = run.config.eval_network or plugin.networks
    packed = run.packed
    identity = sha256_of(canonical([packed.manifest["files"], run.setup.as_json()]))[:12]
    count = torch.arange(len(packed.tensors["set_class"]))
    graphs = run.decoder(packed.manifest["decoder"]).sample(packed.tensors, count)
    distilled = _distilled(plugin, graphs, packed.tensors, packed.nbytes["total"])  # type: ignore[arg-type]
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
                made.append(_row(plugin, run, name, network, results, distilled, whole))
    return made


def _distilled(plugin: Mirage, graphs: Graphs, tensors: Mapping[str, Tensor], nbytes: int) -> Samples:
    support = tensors["set_support"].double()
    weights = support if plugin.sampling == "support" else torch.ones_like(support)
    return Samples(graphs, tensors["set_class"].long(), weights, nbytes)


def _samples(run: Run, name: str, seed: int, distilled: Samples) -> Samples:
    if name == DISTILLED:
        return distilled
    train_part = run.source.train
    graphs, labels = train_part.stored, train_part.labels
    if name == RANDOM_BYTES:
        index = within_bytes(graphs, labels, distilled.nbytes, run.generator("mirage", "random", seed))
        graphs, labels = graphs.select(index), labels[index]
    nbytes = file_bytes(pack_graphs(graphs, labels))
    return Samples(graphs, labels, torch.ones(len(labels), dtype=torch.float64), nbytes)


def _student(plugin: Mirage, run: Run, name: str, network: str, seed: int, distilled: Samples) -> dict[str, Tensor]:
    samples = _samples(run, name, seed, distilled)
    count = len(samples.classes)
    steps = _full_steps(plugin, run, count) if name == FULL else plugin.student_steps
    student = run.network(run.generator("evaluate", seed, "init"), network)
    began = time.perf_counter()
    with randomness.drawing_from(run.generator("evaluate", seed, "dropout"), run.device):
        descent = Descent(steps, plugin.batch, plugin.rate, plugin.weight_decay)
        train(student, samples, descent, run.generator("evaluate", seed, "order"))
    seconds = time.perf_counter() - began
    score = auc(student, run.source.test.stored, run.source.test.labels)
    if score != score:
        raise InputError(
            f"the test part of {run.source.name} has one class only: ROC-AUC needs two, give another --split"
        )
    numbers = {"auc": score, "seconds": seconds}
    counts = {"steps": steps, "samples": count, "bytes": samples.nbytes}
    return {n: torch.tensor(v, dtype=torch.float64) for n, v in numbers.items()} | {
        n: torch.tensor(v, dtype=torch.int64) for n, v in counts.items()
    }


def _full_steps(plugin: Mirage, run: Run, count: int) -> int:
    if plugin.full_steps is not None:
        return plugin.full_steps
    epochs = run.config.full_epochs or max(1, min(FULL_EPOCHS, FULL_GRAPHS // count))
    return max(plugin.student_steps, epochs * -(-count // plugin.batch))


def _row(
    plugin: Mirage,
    run: Run,
    name: str,
    network: str,
    results: list[dict[str, Tensor]],
    distilled: Samples,
    whole: int,
) -> Row:
    count, nbytes, steps = (int(results[0][what]) for what in ("samples", "bytes", "steps"))
    notes = {
        DISTILLED: f"{count} sets of trees, {elements(distilled.graphs):,} numbers written out",
        RANDOM_BYTES: "real graphs of each class in turn, as many as fit the artifact's bytes, other ones for each student",
        FULL: f"all train graphs, {steps * plugin.batch / count:.2g} epochs",
    }
    smaller = "" if name == FULL else f"; {whole / nbytes:,.1f} times smaller than all train graphs"
    return Row(
        set=name,
        protocol=f"adam-{steps}",
        network=network,
        labels="hard",
        ipc=count / len(run.source.classes),
        bytes={GRAPHS: nbytes, "total": nbytes},
        values=tuple(float(result["auc"]) for result in results),
        steps=steps,
        seconds=sum(float(result["seconds"]) for result in results) / len(results),
        note=f"{notes[name]}{smaller}",
        metric="roc-auc",
        extra={"samples": count, "compression": whole / nbytes},
    )
