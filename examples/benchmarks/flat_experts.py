"""What the experts do for trajectory matching: datm on 5,000 MNIST images of 14x14 pixels, 1 image a class, three seeds.

``plain``: SGD. ``flat``: ftd's experts. ``average``: the same experts, and the running average of the pixels. ``strong``: SGD with
momentum and decay. ``smooth``: the same with smooth's ramp, penalty and student. Beside the scores stand the experts' own
accuracy, how far they move in each epoch, and how much their loss grows under noise of length 1 (the mean of 10 draws).

    python examples/benchmarks/flat_experts.py --data ../shared/data/mnist
    python examples/benchmarks/flat_experts.py --arm strong --arm smooth
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import machine, write
from torch.nn import functional as F

from ddcore.cli import invoke
from ddcore.data import open_source
from ddcore.run import Run

TRAIN, TEST, NOISES = 5000, 2000, 10
COMMON = ["--ipc", "1", "--resize", "14", "--preset", "none", "--plugin", "datm"]
COMMON += ["--datm.student-steps", "20", "--datm.expert-epochs", "2", "--datm.max-start-epoch", "4"]
COMMON += ["--datm.lr-img", "100", "--datm.lr-y", "2", "--datm.lr-lr", "1e-5"]
SIZES = ["--network", "convnet2-w16", "--experts.count", "3", "--experts.epochs", "8", "--steps", "100"]
SIZES += ["--protocol", "datm-200", "--eval-seeds", "2", "--full-epochs", "3"]
TINY = ["--network", "convnet2-w4", "--experts.count", "1", "--experts.epochs", "6", "--steps", "1", "--threads", "1"]
TINY += ["--protocol", "quick-1", "--eval-seeds", "1", "--full-epochs", "1"]
FLAT = ["--plugin", "ftd", "--ftd.rho", "0.01", "--ftd.alpha", "0.3"]
STRONG = ["--experts.momentum", "0.9", "--experts.weight-decay", "0.001", "--experts.lr", "0.003"]
ARMS = {
    "plain": [],
    "flat": [*FLAT, "--ftd.ema", "0"],
    "average": [*FLAT, "--ftd.ema", "0.98"],
    "strong": STRONG,
    "smooth": [*STRONG, "--plugin", "smooth", "--datm.rate", "0.003"],
}


def main() -> None:
    """Run the arms that were asked for and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/mnist")
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="repeatable; default: plain, flat, average")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="just to see that it works; writes no record")
    options = parser.parse_args()
    chosen = options.arm or ["plain", "flat", "average"]
    sizes = TINY if options.tiny else SIZES
    with tempfile.TemporaryDirectory() as folder:
        counts = (300, 100) if options.tiny else (TRAIN, TEST)
        data = subset(options.data, Path(folder) / "some.npz", *counts)
        words = ["--dataset", f"npz:{data}", *COMMON, *sizes]
        arms = {name: measured(words, name, options.seeds, Path(folder)) for name in chosen}
    record = {
        "what": f"experts under datm, {counts[0]} MNIST images of 14x14 pixels, 1 image a class",
        "command": f"ddcore run --dataset npz:... {' '.join([*COMMON, *sizes])} ARM",
        "arms": arms,
        **machine(),
    }
    if not options.tiny:
        write("smooth_experts" if "smooth" in chosen else "flat_experts", record)
    for name, arm in arms.items():
        shown = ", ".join(f"{100 * seed['accuracy']:.1f}" for seed in arm["seeds"])
        rise = sum(seed["loss_rise"] for seed in arm["seeds"]) / len(arm["seeds"])
        print(f"{name:<8} accuracy {shown} %   loss rises by {rise:.4f} under noise   {arm['seconds']:.0f} s")


def subset(data: str, file: Path, train: int, test: int) -> Path:
    """The first images of the data as one .npz file."""
    whole = open_source(f"parquet:{data}")
    arrays = {}
    for name, split, count in (("train", whole.train, train), ("test", whole.test, test)):
        arrays[f"x_{name}"] = split.stored[:count].permute(0, 2, 3, 1).numpy()
        arrays[f"y_{name}"] = split.labels[:count].numpy()
    np.savez(file, **arrays)
    return file


def measured(words: list[str], arm: str, seeds: int, folder: Path) -> dict[str, Any]:
    """One arm on every seed."""
    began, found = time.perf_counter(), []
    for seed in range(seeds):
        out = folder / f"{arm}-{seed}"
        given = [*words, *ARMS[arm], "--seed", str(seed), "--cache", str(folder / "cache"), "--out", str(out)]
        if invoke(["run", *given]):
            raise SystemExit(f"{arm} failed with seed {seed}")
        rows = json.loads((out / "scores.json").read_text())["rows"]
        accuracy = next(row["accuracy"]["mean"] for row in rows if row["set"] == "distilled")
        found.append({"seed": seed, "accuracy": accuracy, **experts(Run.open(str(out))), "rows": rows})
    return {"words": ARMS[arm], "seconds": round(time.perf_counter() - began, 1), "seeds": found}


def experts(run: Run) -> dict[str, Any]:
    """How good, how quick and how flat the first expert is."""
    there = run.trajectories
    path = [there.weights(0, epoch) for epoch in range(there.epochs + 1)]
    moves = [round((after - before).norm().item(), 4) for before, after in zip(path, path[1:], strict=False)]
    network, images, classes = there.network(run, 0), *some(run)
    return {"loss_rise": rise(network, images, classes, run), "moves": moves}


def some(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """Up to 1,000 training images and their classes."""
    index = torch.arange(min(1000, len(run.real.train)))
    return run.real.train.inputs(index), run.real.train.labels[index]


@torch.no_grad()
def rise(network: torch.nn.Module, images: torch.Tensor, classes: torch.Tensor, run: Run) -> float:
    """How much the loss grows when noise of length 1 is added to the weights."""
    start, grown = F.cross_entropy(network(images), classes).item(), 0.0
    kept = [p.clone() for p in network.parameters()]
    for number in range(NOISES):
        g = run.generator("noise", number)
        noise = [torch.randn(p.shape, generator=g) for p in kept]
        length = sum(float(n.square().sum()) for n in noise) ** 0.5
        for p, w, n in zip(network.parameters(), kept, noise, strict=True):
            p.copy_(w + n / length)
        grown += F.cross_entropy(network(images), classes).item() - start
    return round(grown / NOISES, 5)


if __name__ == "__main__":
    main()
