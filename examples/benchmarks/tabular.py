"""Tables: dm, herding, k-center and k-means beside random rows and all of them, for an MLP, trees and neighbours.

Two tables: scikit-learn's ``breast-cancer`` (569 rows of 30 numbers), and ``applicants``, 8,000 computed rows of numbers,
categories and missing values (``ddcore_tabular.builtin``), both cut 80 to 20 by class. A run for each table, number of
rows a class and seed; the seed moves the distillation, the draws and the students. Networks on all rows are the same in
every such run, so that their seeds come from a run of their own.

    python examples/benchmarks/tabular.py
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from records import machine, write

from ddcore.cli.app import invoke

ALL = ["--rows", "default,herding,k-means"]
PLUGINS = ["--plugin", "dm", "--plugin", "tabular", "--plugin", "coresets"]
SETTLED = ["--init", "real", "--coresets.features", "pixels", "--threads", "1", "--eval-seeds", "1", "--preset", "none"]


def main() -> None:
    """Run everything and write the record."""
    options = parsed()
    arms: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for data in options.dataset:
            for ipc in options.ipc:
                arms[f"{data}, {ipc} a class"] = arm(options, Path(folder), data, ipc)
    what = f"rows of tables, {options.steps} steps of dm, seeds {options.seeds}: mean and deviation over seeds"
    write(options.name, {"what": what, "arms": arms, **machine()})
    for name, found in arms.items():
        print(name)
        for row in found["rows"]:
            print(f"  {row['set']:<13}{row['network']:<20}{row['metric']:<18}{row['mean']:.3f} ± {row['std']:.3f}")


def arm(options: argparse.Namespace, folder: Path, data: str, ipc: int) -> dict[str, Any]:
    """One table and number of rows, all seeds."""
    size = ["--dataset", data, "--ipc", str(ipc), "--steps", str(options.steps)]
    command = ["run", *PLUGINS, *size, *SETTLED]
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    start = time.perf_counter()
    for seed in options.seeds:
        out = folder / f"{data}-{ipc}-{seed}"
        if invoke([*command, *ALL, "--seed", str(seed), "--cache", str(folder / f"cache-{seed}"), "--out", str(out)]):
            raise SystemExit(f"{data} at {ipc} rows a class, seed {seed}, failed")
        for row in json.loads((out / "scores.json").read_text())["rows"]:
            found[row["set"], row["network"], row.get("metric", "accuracy")].append(row)
    whole = [
        *command,
        "--steps",
        "1",
        "--rows",
        "full",
        "--eval-seeds",
        str(len(options.seeds)),
        "--tabular.fitted",
        "",
    ]
    out = folder / f"{data}-{ipc}-full"
    if invoke([*whole, "--cache", str(folder / "cache-full"), "--out", str(out)]):
        raise SystemExit(f"all rows of {data} failed")
    for row in json.loads((out / "scores.json").read_text())["rows"]:
        found[row["set"], row["network"], row.get("metric", "accuracy")] = [row]
    return {
        "command": f"ddcore {' '.join([*command, *ALL])} --seed SEED",
        "command of networks on all rows": f"ddcore {' '.join(whole)}",
        "seconds": round(time.perf_counter() - start, 1),
        "environment": json.loads((out / "run.json").read_text())["environment"],
        "rows": [summed(key, rows) for key, rows in found.items()],
    }


def summed(key: tuple[str, str, str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A row over its seeds."""
    values = [value for row in rows for value in row["accuracy"]["values"]]
    more = {name: [v for row in rows for v in row[name]] for name in rows[0] if name.startswith("tabular.")}
    said = dict(zip(("set", "network", "metric"), key, strict=True))
    each = {"values": values, "mean": statistics.mean(values), "std": statistics.stdev(values)}
    return {**said, "ipc": rows[0]["ipc"], "bytes": rows[0]["bytes"]["total"], **each, **more}


def parsed() -> argparse.Namespace:
    """The script's options; the defaults make the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["breast-cancer", "applicants"])
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--name", default="tabular", help="of the record")
    return parser.parse_args()


if __name__ == "__main__":
    main()
