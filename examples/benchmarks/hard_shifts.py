"""What learned augmentations hand over: a student that saw centred digits only learns from a teacher that knows shifted ones.

2,000 MNIST digits as they are train a perceptron; the test digits are shifted by up to 6 pixels each way. The teacher is a small ResNet
(global pooling) trained on 20,000 shifted digits. ``plain``: labels alone. ``kd``: the teacher on the same digits. ``oracle``: kd on
digits that are shifted at random over the whole range. ``hard``: learned turns, shifts and scales. ``hard-shifts``: learned shifts alone.
Each student is tested on shifted and on centred digits. About four minutes a run on one thread, an hour in all; call again to go on where it stopped.

    python examples/benchmarks/hard_shifts.py --data ../shared/data/mnist
    python examples/benchmarks/hard_shifts.py --tiny
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import Claim, judged, known, spread
from records import machine, write
from torch import Tensor

from ddcore import randomness
from ddcore.cli.app import invoke
from ddcore.data import Split, open_source
from ddcore.images import crop_resize
from ddcore.networks import build, logits
from ddcore.storage import Place, load_weights

MOST = 6
STUDENT, TEACHER = "mlp", "resnet8"
COMMON = ["--normalise", "none", "--threads", "1", "--eval-seeds", "1"]
KD = ["--plugin", "kd", "--kd.weight", "1", "--kd.label-weight", "1"]
ORACLE = "examples/benchmarks/random_shifts.py"
HARD = ["--plugin", "hard", "--hard.spread", "0.5", "--no-plain"]
ARMS: Mapping[str, list[str]] = {
    "kd": KD,
    "oracle": [*KD, "--plugin-path", ORACLE, "--no-plain"],
    "hard": HARD,
    "hard-shifts": [*HARD, "--hard.rotation", "0", "--hard.scale", "1"],
}
SHIFTED, CENTRED = "shifted", "centred"
CLAIMS = (
    Claim("kd beats labels alone on shifted digits", ("kd", SHIFTED), ("plain", SHIFTED)),
    Claim("hard beats kd on shifted digits", ("hard", SHIFTED), ("kd", SHIFTED)),
    Claim("hard with shifts alone beats kd on shifted digits", ("hard-shifts", SHIFTED), ("kd", SHIFTED)),
    Claim("the oracle beats hard on shifted digits", ("oracle", SHIFTED), ("hard", SHIFTED)),
    Claim("hard beats kd on centred digits", ("hard", CENTRED), ("kd", CENTRED)),
)


def main() -> None:
    """Train the teacher and every student, and write the record after each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/benchmarks/hard-shifts"), help="where the runs are kept"
    )
    parser.add_argument("--tiny", action="store_true", help="just to see that it works; writes no record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.folder / ("tiny" if options.tiny else "whole")
    counts, epochs = ((20, 100, 100), (1, 1)) if options.tiny else ((200, 20_000, 10_000), (6, 200))
    centred, shifted, clean = data_sets(options.data, folder, *counts)
    teacher = trained(folder / "teacher", shifted, TEACHER, f"text-{epochs[0]}", [])
    weights = str(teacher / "students" / "student-0.safetensors")
    taught = ["--teacher", weights, "--teachers.no-check"]
    done: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1 if options.tiny else options.seeds):
        for name, words in ARMS.items():
            more = [*taught, *words, "--seed", str(seed)]
            out = trained(folder / f"{name}-{seed}", centred, STUDENT, f"dc-{epochs[1]}", more)
            for arm, row in (("plain", "plain"), (name, "student")) if name == "kd" else ((name, "student"),):
                done.setdefault(arm, []).append(
                    {"seed": seed, "accuracy": accuracies(out, row, clean), **hardness(out)}
                )
        record = summary(done, teacher, epochs)
        print(json.dumps({arm: found["accuracy"] for arm, found in record["arms"].items()}, indent=2))
        if not options.tiny:
            write("hard_shifts", record)
    for claim in record["claims"]:
        print(f"{claim['verdict']:<10} {100 * claim['mean']:+.1f}  {claim['claim']}")


def data_sets(data: str, folder: Path, each: int, many: int, test: int) -> tuple[Path, Path, Split]:
    """Centred digits to learn from, shifted ones for the teacher, both with shifted test digits; and the test digits as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = open_source(f"parquet:{data}")
    few = torch.cat([(whole.train.labels == c).nonzero()[:each, 0] for c in range(len(whole.classes))])
    clean = Split(whole.test.stored[:test], whole.test.labels[:test])
    told = (shifted(clean.stored, "test"), clean.labels)
    files = []
    for name, images, labels in (
        ("centred", whole.train.stored[few], whole.train.labels[few]),
        ("shifted", shifted(whole.train.stored[-many:], "train"), whole.train.labels[-many:]),
    ):
        files.append(folder / f"{name}.npz")
        if not files[-1].exists():
            arrays = {"x_train": images, "y_train": labels, "x_test": told[0], "y_test": told[1]}
            np.savez(
                files[-1], **{n: t.movedim(1, 3).numpy() if t.dim() == 4 else t.numpy() for n, t in arrays.items()}
            )
    return files[0], files[1], clean


def shifted(images: Tensor, key: str) -> Tensor:
    """Images (N, C, H, W) uint8, each shifted by whole pixels; black comes in."""
    shift = torch.randint(-MOST, MOST + 1, (len(images), 2), generator=randomness.generator(0, "shifts", key))
    boxes = torch.cat([shift / images.shape[2], torch.ones(len(images), 2)], 1)
    return crop_resize(images.float(), boxes).to(torch.uint8)


def trained(out: Path, data: Path, student: str, protocol: str, words: list[str]) -> Path:
    """A run of ``ddcore train``; one that was finished is left, one that was stopped goes on."""
    if not (out / "scores.json").exists():
        start = time.perf_counter()
        line = ["train", "--data", f"npz:{data}", "--student", student, "--protocol", protocol, *COMMON, *words]
        if invoke(["resume", str(out)] if (out / "run.json").exists() else [*line, "--out", str(out)]):
            raise SystemExit(f"failed: ddcore {' '.join(line)}")
        (out / "seconds.json").write_text(json.dumps(round(time.perf_counter() - start, 1)))
    return out


def accuracies(out: Path, row: str, clean: Split) -> dict[str, float]:
    """Of a student, on the run's shifted digits and on the same ones as they are."""
    rows = {found["set"]: found for found in json.loads((out / "scores.json").read_text())["rows"]}
    network = build(STUDENT, clean.stored.shape[1], clean.stored.shape[2], 10, torch.Generator().manual_seed(0))
    assert network is not None
    load_weights(Place.at(out / "students" / f"{row}-0.safetensors"), network)
    right = logits(network.eval(), clean.stored / 255).argmax(1) == clean.labels
    return {SHIFTED: rows[row]["accuracy"]["mean"], CENTRED: float(right.double().mean())}


def hardness(out: Path) -> dict[str, Any]:
    """What hard wrote into the log on the way, and how long the run took."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    kept = ("step", "clean", "changed", "edit", "at_bound")
    found = [{name: line[name] for name in kept} for line in lines if line["event"] == "hard"]
    return {"seconds": json.loads((out / "seconds.json").read_text()), **({"augmentor": found} if found else {})}


def summary(done: Mapping[str, list[dict[str, Any]]], teacher: Path, epochs: tuple[int, int]) -> dict[str, Any]:
    """The record of what is done so far."""
    scores = json.loads((teacher / "scores.json").read_text())["rows"][0]["accuracy"]
    return {
        "what": "2,000 centred MNIST digits, a perceptron, a teacher that knows shifts; accuracy on 10,000 test digits",
        "commands": {name: " ".join(["ddcore train", *COMMON, *arm]) for name, arm in ARMS.items()},
        "protocols": {"teacher": f"text-{epochs[0]}", "students": f"dc-{epochs[1]}"},
        "teacher": {"network": TEACHER, SHIFTED: scores["mean"]},
        "arms": {
            name: {
                "accuracy": {test: spread([run["accuracy"][test] for run in runs]) for test in (SHIFTED, CENTRED)},
                "runs": runs,
            }
            for name, runs in done.items()
        },
        "claims": [judged(claim, done) for claim in CLAIMS if known(claim, done)],
        **machine(),
    }


if __name__ == "__main__":
    main()
