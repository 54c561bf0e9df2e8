"""Knowledge distillation on a distilled set: dm + dsa makes one, then students learn from it, with and without a teacher.

CIFAR-10 (JPEG copy), 10 images a class, ConvNet-3 of width 16, 200 steps of dm + dsa; a teacher of the same architecture, twice as wide and with
batch norm, trained on all images; three students a row under one protocol and with the same steps: on the distilled set and on as many
random images, with and without the teacher. The record is ``kd_on_distilled.json``. About 15 minutes on one core.

    python examples/benchmarks/kd_on_distilled.py
    python examples/benchmarks/kd_on_distilled.py --tiny
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from arms import spread
from records import machine, write

from ddcore.cli.app import invoke

TEACHER, NETWORK = "convnet3-bn-w32", "convnet3-w16"
WORDS = ("--plugin", "kd", "--kd.label-weight", "0.5", "--kd.weight", "0.5")


def done(folder: Path, *words: str) -> list[dict[str, Any]]:
    """Rows of a command; one that was finished is read, one that was stopped goes on."""
    if not (folder / "scores.json").exists():
        command = [*words, "--threads", "1", "--out", str(folder)]
        if invoke(["resume", str(folder)] if (folder / "run.json").exists() else command):
            raise SystemExit(f"failed: ddcore {' '.join(words)}")
    return list(json.loads((folder / "scores.json").read_text())["rows"])


def main() -> None:
    """Make the set, train the teacher and the students, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="parquet:../shared/data/cifar10-jpeg")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/kd-on-distilled"))
    parser.add_argument("--tiny", action="store_true", help="just to see that it works; writes no record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = given.folder / "tiny" if given.tiny else given.folder
    data, ipc, steps, epochs, protocol = given.data, "10", "200", "3", "dsa-300"
    if given.tiny:
        data, ipc, steps, epochs, protocol = "digits", "2", "3", "6", "dsa-3"
    cache = ("--cache", str(folder / "cache"))
    made = ("run", "--plugin", "dm", "--plugin", "dsa", "--preset", "none", "--dataset", data, "--ipc", ipc)
    quick = ("--network", NETWORK, "--protocol", protocol, "--eval-seeds", "1", "--full-epochs", "1")
    done(folder / "set", *made, "--steps", steps, *quick, *cache)
    taught = ("train", "--data", data, "--student", TEACHER, "--protocol", f"kd-{epochs}", "--eval-seeds", "1")
    teacher = done(folder / "teacher", *taught, "--no-plain", *cache)
    file = str(folder / "teacher" / "students" / "student-0.safetensors")
    students = ("train", "--data", str(folder / "set" / "artifact"), "--student", NETWORK, "--teacher", file, *WORDS)
    rows = done(
        folder / "students", *students, "--protocol", protocol, "--eval-seeds", str(given.seeds), "--jobs", "2", *cache
    )
    table = {
        row["set"]: {**spread(row["accuracy"]["values"]), "steps": row["steps"], "bytes": row["bytes"]} for row in rows
    }
    gains = {
        on: spread([a - b for a, b in zip(table[on]["values"], table[plain]["values"], strict=True)])
        for on, plain in (("student", "plain"), ("random", "random, plain"))
    }
    record = {
        "what": f"{TEACHER} to {NETWORK} on 10 images a class: a set made by dm + dsa, and random images",
        "commands": [" ".join(words) for words in (made, taught, students)],
        "teacher": teacher[0]["accuracy"]["mean"],
        "rows": table,
        "gains": gains,
        **machine(),
    }
    if not given.tiny:
        write("kd_on_distilled", record)
    for name, row in table.items():
        print(f"{name:<14} {100 * row['mean']:.1f} ± {100 * row['std']:.1f}")


if __name__ == "__main__":
    main()
