"""Real colour images: dm on CIFAR-10 (a JPEG copy), 10 images a class, 200 steps, 300 epochs of protocol B, two seeds.

Three arms, so that FYI's augmentation is not mistaken for FYI (its code trains and evaluates with a mirror image drawn first):
dm + dsa; dm + dsa with flip first, evaluated so; and the same with fyi.

    python examples/benchmarks/colour.py --data ../shared/data/cifar10-jpeg
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from records import machine, write

from ddcore.cli.app import invoke

COMMON = ["--ipc", "10", "--steps", "200", "--eval-seeds", "2", "--plugin", "dm", "--plugin", "dsa"]
ARMS = {
    "dm+dsa": ["--protocol", "dsa-300"],
    "dm+dsa, flip first": ["--dsa.flip-first", "--protocol", "fyi-300"],
    "dm+dsa, flip first, fyi": ["--dsa.flip-first", "--protocol", "fyi-300", "--plugin", "fyi"],
}


def main() -> None:
    """Run every arm and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data/cifar10-jpeg")
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    arms: dict[str, Any] = {}
    for name, words in ARMS.items():
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            command = [
                "run",
                *COMMON,
                *words,
                "--seed",
                options.seed,
                "--dataset",
                f"parquet:{options.data}",
                "--out",
                str(run),
            ]
            start = time.perf_counter()
            if invoke(command):
                raise SystemExit(f"{name} failed")
            seconds = time.perf_counter() - start
            rows = json.loads((run / "scores.json").read_text())["rows"]
            environment = json.loads((run / "run.json").read_text())["environment"]
        shown = " ".join(word for word in command if not word.startswith(folder)).removesuffix(" --out")
        arms[name] = {
            "command": f"ddcore {shown}",
            "seconds": round(seconds, 1),
            "rows": rows,
            "environment": environment,
        }
    record = {"what": "dm on CIFAR-10 (JPEG copy), 10 images a class, 200 steps", "arms": arms, **machine()}
    write("colour", record)
    for name, arm in arms.items():
        means = {row["set"]: round(row["accuracy"]["mean"], 3) for row in arm["rows"]}
        print(f"{name:<26} {arm['seconds']:>6.0f} s  {means}")


if __name__ == "__main__":
    main()
