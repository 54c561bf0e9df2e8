"""Every coreset method at 1, 10 and 50 images a class: accuracy of a fresh network under protocol ``quick``, three seeds.

Two runs a budget: ``hard`` keeps the hard end of scores of difficulty, as their papers do, and ``easy`` the easy end. A
seed has students, experts' features and random draws of its own; scores are means over the same experts.

    python examples/benchmarks/coresets.py
    python examples/benchmarks/coresets.py --dataset idx:../shared/data/mnist --experts 3 --epochs 10
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from ddcore_coresets import METHODS
from ddcore_coresets.dynamics import HARD_IS_HIGH
from records import machine, write

from ddcore.cli.app import invoke

CORE_ROWS = ("random", "kcenter", "random-bytes", "full")


def main() -> None:
    """Run every budget and write the record."""
    options = parsed()
    arms: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for ipc in options.ipc:
            arms[f"hard, {ipc} a class"] = run(options, Path(folder), ipc, "hard", METHODS)
            arms[f"easy, {ipc} a class"] = run(options, Path(folder), ipc, "easy", tuple(HARD_IS_HIGH))
    what = f"coreset methods on {options.dataset}, protocol {options.protocol}, {options.eval_seeds} seeds"
    write(options.name, {"what": what, "arms": arms, **machine()})
    for name, arm in arms.items():
        print(name, json.dumps({row: round(value, 3) for row, value in arm["means"].items()}))


def run(options: argparse.Namespace, folder: Path, ipc: int, keep: str, methods: tuple[str, ...]) -> dict[str, Any]:
    """All methods at one budget, a row each; scores and experts are shared through the cache."""
    out = folder / f"{keep}-{ipc}"
    others = [word for method in methods if method not in CORE_ROWS for word in ("--baseline", method)]
    command = ["run", "--plugin", "coresets", "--coresets.method", "random", "--coresets.keep", keep, *others]
    command += ["--dataset", options.dataset, "--ipc", str(ipc), "--network", options.network, "--preset", "none"]
    command += [
        "--experts.count",
        str(options.experts),
        "--experts.epochs",
        str(options.epochs),
        "--experts.batch",
        "64",
    ]
    command += ["--protocol", options.protocol, "--eval-seeds", str(options.eval_seeds), "--storage-dtype", "uint8"]
    start = time.perf_counter()
    if invoke([*command, "--cache", str(folder / "cache"), "--out", str(out)]):
        raise SystemExit(f"{keep} at {ipc} images a class failed")
    rows = json.loads((out / "scores.json").read_text())["rows"]
    return {
        "command": f"ddcore {' '.join(command)}",
        "seconds": round(time.perf_counter() - start, 1),
        "means": {row["set"]: row["accuracy"]["mean"] for row in rows},
        "rows": rows,
        "environment": json.loads((out / "run.json").read_text())["environment"],
    }


def parsed() -> argparse.Namespace:
    """The script's options; the defaults make the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--network", default="convnet2-w32")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--experts", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--protocol", default="quick")
    parser.add_argument("--eval-seeds", type=int, default=3)
    parser.add_argument("--name", default="coresets", help="of the record")
    return parser.parse_args()


if __name__ == "__main__":
    main()
