"""Does DisWOT's score tell which students a teacher will distil well into, better than their size does?

Two sets of networks. ``published``: the authors' 64 ResNets of depths in {1, 3, 5, 7}, whose CIFAR-100 accuracies with knowledge
distillation are known; here scored on images of CIFAR-10's JPEG copy. ``small``: twenty networks of 0.05 to 0.3 million parameters,
scored on the same images and, with ``--train``, trained with a smaller teacher on 3,000 of them at 16x16. Against accuracy stand the rank
correlations of the score, of its two parts, of parameters and of multiply-adds: over all networks, and within thirds of equal size,
where a score has to prove itself. The spread is over seeds of the score alone. The record is ``diswot_rank.json``.

    python examples/benchmarks/diswot_rank.py [--train] [--tiny]
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddcore_diswot.__main__ import Bench, drawn
from ddcore_diswot.ranks import kendall, spearman
from ddcore_diswot.scoring import Judge
from ddcore_diswot.space import ResNet, cost, maker, published, small
from records import machine, write

from ddcore.cli.app import invoke

CIFAR = "parquet:../shared/data/cifar10-jpeg"
TEACHER = "resnet56"
PREDICTORS = ("score", "relation", "semantic", "parameters", "multiply_adds")
TRAINED_BY = "convnet3-bn-w32"
"""Who teaches the small networks: a teacher that two cores can train."""
TRAINING = (
    *("--resize", "16", "--protocol", "kd-6", "--per-class", "300", "--eval-seeds", "2"),
    *("--no-plain", "--threads", "1"),
)
TRAINING_TEACHER = ("--teachers.epochs", "4")
TINY = ("--protocol", "kd-2", "--per-class", "5", "--eval-seeds", "1", "--no-plain", "--threads", "1")
TINY_TEACHER = ("--teachers.epochs", "1", "--teachers.no-check")


def scored(nets: Sequence[ResNet], data: str, seeds: int, batch: int) -> list[dict[str, Any]]:
    """A row a network and seed of the score."""
    bench, rows = Bench(data, TEACHER, seeds=1, batch=batch), []
    shape = (bench.source.channels, bench.source.size, len(bench.source.classes))
    for seed in range(seeds):
        judge = Judge(maker(TEACHER, *shape), [drawn(bench.source, batch, seed, "cpu")], first=seed)
        for net in nets:
            found = judge.score(maker(net.name, *shape))
            costs = cost(net.name, *shape)
            parts = {"score": found.value("both"), "relation": found.relation, "semantic": found.semantic}
            size = {"parameters": costs.parameters, "multiply_adds": costs.multiply_adds}
            rows.append({"network": net.name, "seed": seed, **parts, **size})
            print(f"seed {seed} {net.name:<30} {parts['score']:.4e}", flush=True)
    return rows


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By network: its predictors, means over seeds."""
    names = dict.fromkeys(row["network"] for row in rows)
    return {
        name: {p: statistics.fmean(row[p] for row in rows if row["network"] == name) for p in PREDICTORS}
        for name in names
    }


def agreement(predicted: Mapping[str, Mapping[str, float]], accuracy: Mapping[str, float]) -> dict[str, Any]:
    """Rank correlations of every predictor with accuracy, over all and within thirds by parameters."""
    names = sorted(accuracy, key=lambda name: predicted[name]["parameters"])
    cuts = [round(len(names) * part / 3) for part in range(4)]
    groups = {"all": names, **{f"third {n + 1}": names[cuts[n] : cuts[n + 1]] for n in range(3)}}
    found: dict[str, Any] = {}
    for group, members in groups.items():
        true = [accuracy[name] for name in members]
        for predictor in PREDICTORS:
            guess = [predicted[name][predictor] for name in members]
            both = {"spearman": spearman(guess, true), "kendall": kendall(guess, true)}
            kept = {n: None if v != v else round(v, 4) for n, v in both.items()}
            found.setdefault(group, {"networks": len(members)})[predictor] = kept
    return found


def over_seeds(rows: Sequence[Mapping[str, Any]], accuracy: Mapping[str, float]) -> dict[str, Any]:
    """Kendall's tau of one seed's score alone: mean and deviation over seeds; none where all accuracies are equal."""
    if len(set(accuracy.values())) == 1:
        return {"mean": None, "std": None}
    taus = []
    for seed in sorted({row["seed"] for row in rows}):
        own = {row["network"]: row["score"] for row in rows if row["seed"] == seed}
        taus.append(kendall([own[name] for name in accuracy], list(accuracy.values())))
    return {"mean": round(statistics.fmean(taus), 4), "std": round(statistics.stdev(taus), 4) if len(taus) > 1 else 0.0}


def trained(
    nets: Sequence[ResNet], data: str, folder: Path, words: Sequence[str], teacher: Sequence[str]
) -> dict[str, float]:
    """Test accuracy of each network with knowledge distillation; those that have a result are not trained again."""
    found = {}
    for net in nets:
        out = folder / net.name.replace(":", "-")
        if not (out / "scores.json").exists():
            command = ["train", "--plugin", "diswot", "--plugin", "kd", "--data", data, "--student", net.name]
            line = [*command, "--teacher", TRAINED_BY, *teacher, *words, "--out", str(out)]
            if invoke(["resume", str(out)] if (out / "run.json").exists() else line):
                raise SystemExit(f"{net.name} could not be trained")
        rows = json.loads((out / "scores.json").read_text())["rows"]
        found[net.name] = next(row["accuracy"]["mean"] for row in rows if row["set"] == "student")
    return found


def judged(rows: Sequence[Mapping[str, Any]], accuracy: Mapping[str, float]) -> dict[str, Any]:
    """What is kept of one set of networks."""
    predicted = means(rows)
    table = [{"network": name, **predicted[name], "accuracy": accuracy.get(name)} for name in predicted]
    if not accuracy:
        return {"table": table}
    return {
        "agreement": agreement(predicted, accuracy),
        "one seed's kendall": over_seeds(rows, accuracy),
        "table": table,
    }


def main() -> None:
    """Score, train if asked, compare, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=CIFAR)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--train", action="store_true", help="train the small networks too")
    parser.add_argument("--tiny", action="store_true", help="digits, a few networks, no record: does it run?")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/diswot"), help="where students are kept")
    given = parser.parse_args()
    data, seeds, batch = ("digits", 2, 8) if given.tiny else (given.data, given.seeds, given.batch)
    known, nets = published(), small()
    large = list(known)[::9] if given.tiny else list(known)
    nets = nets[:4] if given.tiny else nets
    known_accuracy = {net.name: known[net].kd for net in large}
    record: dict[str, Any] = {
        "what": f"rank correlations of DisWOT's score for {TEACHER} with accuracy after distillation",
        "data": data,
        "seeds": seeds,
        "batch": batch,
        "published": judged(scored(large, data, seeds, batch), known_accuracy),
    }
    words, teacher = (TINY, TINY_TEACHER) if given.tiny else (TRAINING, TRAINING_TEACHER)
    accuracy = trained(nets, data, given.folder, words, teacher) if given.train else {}
    record["small"] = judged(scored(nets, data, seeds, batch), accuracy)
    if given.train:
        record["training"] = " ".join([*words, *teacher])
    for part in ("published", "small"):
        print(part, json.dumps(record[part].get("agreement", {}), indent=1))
    if not given.tiny:
        write("diswot_rank", {**record, **machine()})


if __name__ == "__main__":
    main()
