"""The lines of ``scores.json``: a distilled set, random graphs in as many bytes and all graphs, each by each network.

A student a seed; finished students are kept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ddcore import InputError, PluginError, Row, randomness
from ddcore.storage import canonical, sha256_of
from ddcore_graphs import GraphPack
from ddcore_graphs.choosing import KEPT, TRAINED, BestEpoch, Regime
from ddcore_graphs.choosing import identity as identity_of
from ddcore_graphs.packing import file_bytes, pack_graphs, unpack_graphs
from ddcore_graphs.sources import GRAPHS
from ddcore_graphs.training import Descent, Samples, accuracy, auc, one_thread, train, within_bytes

if TYPE_CHECKING:
    from ddcore import Run

DISTILLED, RANDOM_BYTES, FULL, UNTRAINED = "distilled", "random-bytes", "full", "untrained"
SETS = (DISTILLED, RANDOM_BYTES, FULL)
PLAIN = Regime()
"""Samples drawn by weight, students scored after the last step, rows of all of them."""
FULL_EPOCHS, FULL_GRAPHS = 30, 300_000
"""On all real graphs: epochs, unless that makes more graphs than these."""


def rows(run: Run, distilled: Samples, *, described: str, regime: Regime = PLAIN) -> list[Row]:
    """Train every student that has no result yet, and make the rows: what a graph method's ``ddcore_evaluate`` returns.

    Students have the pack's options and the networks of ``--eval-network``, else those that the matcher's ``students``
    names, else all that the pack builds.

    Args:
        distilled: the run's set, as students are to see it.
        described: the set, for the note of its row.
        regime: what the method's options say of its students; ``check`` it at the start of a run too.

    Raises:
        InputError: the test part has one class only, so that no ROC-AUC is defined; the set does not fit the data,
            or the regime the options.
        PluginError: the matcher does not name the pack.
    """
    plugin = pack_of(run)
    networks: Sequence[str] = run.config.eval_network or run.matcher.students or plugin.networks
    assert run.packed is not None
    check_fits(distilled, run.source)
    regime.check(run.source, run.config.eval_seeds, f"--{run.plan.matcher}")
    known = [run.packed.manifest["files"], run.setup.as_json()]
    identity = sha256_of(canonical([*known, chosen] if (chosen := identity_of(regime, run.source)) else known))[:12]
    whole = file_bytes(pack_graphs(run.source.train.stored, run.source.train.labels))
    made = []
    sets = (*SETS, UNTRAINED) if regime.chooses else SETS
    students = len(sets) * len(networks) * run.config.eval_seeds
    with one_thread(), run.progress("evaluate", students, "students") as tick:
        for network in networks:
            for name in sets:
                results = []
                for seed in range(run.config.eval_seeds):
                    key = f"evaluate-{name}-{network}-{seed}-{identity}"
                    if not run.checkpoints.finished(key):
                        run.checkpoints.finish(key, _student(run, name, network, seed, distilled, regime), {})
                        run.check_stop()
                    results.append(run.checkpoints.result(key))
                    tick(1)
                note = _note(plugin, name, described, results)
                made.append(_row(run, name, network, results, whole, note, regime))
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


def _student(run: Run, name: str, network: str, seed: int, distilled: Samples, regime: Regime) -> dict[str, Tensor]:
    plugin = pack_of(run)
    samples = _samples(run, name, seed, distilled)
    steps = _steps(plugin, run, name, len(distilled.classes), regime)
    student = run.network(run.generator("evaluate", seed, "init"), network)
    best = BestEpoch(student, partial(_score, plugin, run, "validation")) if regime.chooses else None
    began = time.perf_counter()
    with randomness.drawing_from(run.generator("evaluate", seed, "dropout"), run.device):
        descent = Descent(steps, plugin.batch, plugin.rate, plugin.weight_decay, regime.each)
        train(student, samples, descent, run.generator("evaluate", seed, "order"), best)
    seconds = time.perf_counter() - began
    last = score = _score(plugin, run, "test", student)
    numbers, empty = {"seconds": seconds}, name == UNTRAINED
    counts = {"steps": steps, "samples": 0 if empty else len(samples.classes), "bytes": 0 if empty else samples.nbytes}
    if best is not None:
        best.restore()
        score = _score(plugin, run, "test", student)
        numbers |= {"validation": best.score, "last": last}
        counts["picked"] = best.step
    numbers["score"] = score
    return {n: torch.tensor(v, dtype=torch.float64) for n, v in numbers.items()} | {
        n: torch.tensor(v, dtype=torch.int64) for n, v in counts.items()
    }


def _score(plugin: GraphPack, run: Run, part: str, student: nn.Module) -> float:
    split = getattr(run.source, part)
    score = {"roc-auc": auc, "accuracy": accuracy}[plugin.metric](student, split.stored, split.labels)
    if score != score:
        raise InputError(
            f"the {part} part of {run.source.name} has one class only: ROC-AUC needs two, give another --split or "
            "--graphs.metric accuracy"
        )
    return score


def _steps(plugin: GraphPack, run: Run, name: str, distilled: int, regime: Regime) -> int:
    """Steps of a student on one of the sets; on all graphs at least those on the distilled ones."""
    if name == UNTRAINED:
        return 0
    steps = plugin.student_steps if regime.epochs is None else regime.epochs * -(-distilled // plugin.batch)
    if name != FULL:
        return steps
    if plugin.full_steps is not None:
        return plugin.full_steps
    count = len(run.source.train.labels)
    epochs = run.config.full_epochs or max(1, min(FULL_EPOCHS, FULL_GRAPHS // count))
    return max(steps, epochs * -(-count // plugin.batch))


def _note(plugin: GraphPack, name: str, described: str, results: list[dict[str, Tensor]]) -> str:
    count, steps = int(results[0]["samples"]), int(results[0]["steps"])
    return {
        DISTILLED: described,
        RANDOM_BYTES: "real graphs of each class in turn, as many as fit the artifact's bytes, other ones for each student",
        FULL: f"all train graphs, {steps * plugin.batch / count:.2g} epochs" if count else "",
        UNTRAINED: "the networks as they begin, trained on nothing",
    }[name]


def _row(
    run: Run, name: str, network: str, results: list[dict[str, Tensor]], whole: int, note: str, regime: Regime
) -> Row:
    count, nbytes, steps = (int(results[0][what]) for what in ("samples", "bytes", "steps"))
    smaller = "" if name in (FULL, UNTRAINED) else f"; {whole / nbytes:,.1f} times smaller than all train graphs"
    extra: dict[str, Any] = {"samples": count} | ({"compression": whole / nbytes} if nbytes else {})
    protocol = f"adam-{steps}"
    counted: Sequence[Mapping[str, Tensor]] = results
    if regime.chooses and name != UNTRAINED:
        extra["chosen"] = {
            what: [float(r[what]) for r in results] for what in ("score", "validation", "picked", "last")
        }
        protocol, counted = regime.shown(protocol), regime.counted(results)
        note += f"; {_chosen(run, regime, extra['chosen'])}"
    return Row(
        set=name,
        protocol=protocol,
        network=network,
        labels="hard",
        ipc=count / len(run.source.classes),
        bytes={GRAPHS: nbytes, "total": nbytes},
        values=tuple(float(result["score"]) for result in counted),
        steps=steps,
        seconds=sum(float(result["seconds"]) for result in results) / len(results),
        note=f"{note}{smaller}",
        metric=pack_of(run).metric,
        extra=extra,
    )


def _chosen(run: Run, regime: Regime, chosen: Mapping[str, Sequence[float]]) -> str:
    """What was chosen by validation, and what it would have been without."""
    steps = ", ".join(f"{step:.0f}" for step in chosen["picked"])
    said = f"scored at the epoch that is best on {len(run.source.validation)} validation graphs, after {steps} steps"  # type: ignore[attr-defined]
    every, last = (sum(chosen[what]) / len(chosen[what]) for what in ("score", "last"))
    if regime.average != "all":
        said += f"; the {KEPT} of {TRAINED} students that are best there, all of them {every:.3f}"
    return f"{said}; after the last step {last:.3f}"
