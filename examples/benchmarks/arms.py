"""Runs of ``ddcore run`` that differ in a few words, on several seeds, and what their scores say about a claim.

A claim is that one row's accuracy is above another's. Its difference is taken seed by seed (the mean of a run's students each
time), so that what a seed does to both cancels. It *holds* when the mean is more than twice its standard error above 0 and no
seed disagrees in sign, it is *opposite* when the same is true below 0, and else *undecided*: fixed before anything was run.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from records import machine, write

from ddcore.cli.app import invoke

Row = tuple[str, str]
"""An arm and the name of a row of its scores; of several rows of that name, the first, which has the set's own labels."""

More = Callable[[Path], dict[str, Any]]


@frozen
class Claim:
    """``higher`` is above ``lower``."""

    text: str
    higher: Row
    lower: Row


@frozen
class Study:
    """Arms that belong together: what each adds to the common words of the command line."""

    what: str
    common: tuple[str, ...]
    arms: Mapping[str, tuple[str, ...]]
    claims: tuple[Claim, ...]


def measure(study: Study, record: str | None, seeds: int, folder: Path, more: More | None = None) -> None:
    """Run every arm on every seed, unless it was run before, and write the record after each run.

    Args:
        study: what to run.
        record: name of the record; none writes none.
        seeds: 0 and so on.
        folder: of the runs and of what they share.
        more: further facts of a run, by its folder; what they hold under ``accuracy`` joins the rows'.
    """
    torch.set_num_threads(1)
    done: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        for name, words in study.arms.items():
            found, out = one_run([*study.common, *words, "--seed", str(seed)], seed, folder)
            extra = more(out) if more else {}
            found["accuracy"] |= extra.pop("accuracy", {})
            done.setdefault(name, []).append({**found, **extra})
            if record:
                write(record, summary(study, done))
    for claim in summary(study, done)["claims"]:
        print(
            f"{claim['verdict']:<10} {100 * claim['mean']:+.1f} ± {100 * claim['standard_error']:.1f}  {claim['claim']}"
        )


def one_run(words: list[str], seed: int, folder: Path) -> tuple[dict[str, Any], Path]:
    """A run's rows, and its folder; one that was finished is read, one that was stopped goes on."""
    out = folder / sha256(" ".join(words).encode()).hexdigest()[:12]
    start = time.perf_counter()
    if not (out / "scores.json").exists():
        command = ["run", *words, "--cache", str(folder / "cache"), "--out", str(out)]
        if invoke(["resume", str(out)] if (out / "run.json").exists() else command):
            raise SystemExit(f"failed: ddcore {' '.join(words)}")
        (out / "seconds.json").write_text(json.dumps(round(time.perf_counter() - start, 1)))
    rows = json.loads((out / "scores.json").read_text())["rows"]
    run = json.loads((out / "run.json").read_text())
    found = {
        "seed": seed,
        "plan": {name: run["plan"][name] for name in ("matcher", "initializer", "labeller", "steps", "network")},
        "accuracy": {row["set"]: row["accuracy"]["mean"] for row in reversed(rows)},
        "loss": losses(out),
        "seconds": json.loads((out / "seconds.json").read_text()),
        "rows": rows,
        "environment": run["environment"],
    }
    return found, out


def losses(out: Path) -> dict[str, float | None]:
    """The matching loss, mean over the first and the last tenth of the steps, and the share of steps that a matcher skipped."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    found = [line["loss"] for line in lines if line["event"] == "step"]
    tenth = max(1, len(found) // 10)
    skipped = sum(value is None for value in found) / max(1, len(found))
    return {"first": mean_of_known(found[:tenth]), "last": mean_of_known(found[-tenth:]), "skipped": skipped}


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there; none of none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def summary(study: Study, done: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The record of what is done so far."""
    return {
        "what": study.what,
        "arms": {name: arm(study, name, runs) for name, runs in done.items()},
        "claims": [judged(claim, done) for claim in study.claims if known(claim, done)],
        **machine(),
    }


def arm(study: Study, name: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and deviation (n - 1) over seeds of every row, each seed's value a mean over students."""
    sets = runs[0]["accuracy"]
    return {
        "command": f"ddcore run {' '.join([*study.common, *study.arms[name]])} --seed SEED",
        "accuracy": {row: spread([run["accuracy"][row] for run in runs]) for row in sets},
        "runs": list(runs),
    }


def known(claim: Claim, done: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    """Whether both rows are there already, on some seed."""
    return all(arm in done and row in done[arm][0]["accuracy"] for arm, row in (claim.higher, claim.lower))


def judged(claim: Claim, done: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """A claim with its paired differences, as fractions, and what they say."""
    pairs = zip(done[claim.higher[0]], done[claim.lower[0]], strict=False)
    differences = [a["accuracy"][claim.higher[1]] - b["accuracy"][claim.lower[1]] for a, b in pairs]
    mean, error = statistics.fmean(differences), spread(differences)["std"] / len(differences) ** 0.5
    return {
        "claim": claim.text,
        "higher": claim.higher,
        "lower": claim.lower,
        "differences": differences,
        "mean": mean,
        "standard_error": error,
        "verdict": verdict(differences, mean, error),
    }


def verdict(differences: Sequence[float], mean: float, error: float) -> str:
    """``holds``, ``opposite`` or ``undecided``; one seed decides nothing."""
    clear = len(differences) > 1 and abs(mean) > 2 * error and all(d * mean > 0 for d in differences)
    return "undecided" if not clear else "holds" if mean > 0 else "opposite"


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, deviation (n - 1; 0 for one value) and the values."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": std, "values": list(values)}
