"""What the experts do for trajectory matching: datm on 5,000 MNIST images of 14x14 pixels, 1 image a class, three seeds.

``plain``: SGD. ``flat``: ftd's experts. ``average``: the same experts, and the running average of the pixels. ``strong``: SGD with
momentum and decay. ``smooth``: the same with smooth's ramp, penalty and student. Beside the scores stand how far an expert moves
in each epoch, and how much its loss grows under noise of length 1 (the mean of 10 draws). One to two minutes a run on one thread of
an AMD EPYC; call again to go on where it stopped.

    python examples/benchmarks/flat_experts.py --data ../shared/data/mnist
    python examples/benchmarks/flat_experts.py --arm plain --arm flat
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import Claim, Study, measure
from torch.nn import functional as F

from ddcore.data import open_source
from ddcore.runs.opening import open_run
from ddcore.runs.run import Run

TRAIN, TEST, NOISES = 5000, 2000, 10
COMMON = ["--ipc", "1", "--resize", "14", "--preset", "none", "--plugin", "datm", "--threads", "1"]
COMMON += ["--datm.student-steps", "20", "--datm.expert-epochs", "2", "--datm.max-start-epoch", "4"]
COMMON += ["--datm.lr-img", "100", "--datm.lr-y", "2", "--datm.lr-lr", "1e-5"]
SIZES = ["--network", "convnet2-w16", "--experts.count", "3", "--experts.epochs", "8", "--steps", "60"]
SIZES += ["--protocol", "datm-100", "--eval-seeds", "3", "--full-epochs", "3"]
TINY = ["--network", "convnet2-w4", "--experts.count", "1", "--experts.epochs", "6", "--steps", "1"]
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
PAIRS = (
    ("flat experts are better to match than plain ones", "flat", "plain"),
    ("the average of the pixels is better than the last ones", "average", "flat"),
    ("strong experts are better to match than plain ones", "strong", "plain"),
    ("smooth experts are better to match than strong ones", "smooth", "strong"),
    ("smooth experts are better to match than plain ones", "smooth", "plain"),
)


def main() -> None:
    """Run the arms that were asked for and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/mnist")
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="repeatable; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where the runs are kept")
    parser.add_argument("--tiny", action="store_true", help="just to see that it works; writes no record")
    options = parser.parse_args()
    chosen = options.arm or list(ARMS)
    counts = (300, 100) if options.tiny else (TRAIN, TEST)
    options.folder.mkdir(parents=True, exist_ok=True)
    data = subset(options.data, options.folder / f"experts-{counts[0]}.npz", *counts)
    os.chdir(options.folder)
    common = ["--dataset", f"npz:{data.name}", *COMMON, *(TINY if options.tiny else SIZES)]
    claims = [
        Claim(text, (high, "distilled"), (low, "distilled")) for text, high, low in PAIRS if {high, low} <= {*chosen}
    ]
    what = f"experts under datm, {counts[0]:,} MNIST images of 14x14 pixels, 1 image a class"
    study = Study(what, tuple(common), {name: tuple(ARMS[name]) for name in chosen}, tuple(claims))
    measure(study, None if options.tiny else "flat_experts", options.seeds, Path(), experts)


def subset(data: str, file: Path, train: int, test: int) -> Path:
    """The first images of the data as one .npz file."""
    whole = open_source(f"parquet:{data}")
    arrays = {}
    for name, split, count in (("train", whole.train, train), ("test", whole.test, test)):
        arrays[f"x_{name}"] = split.stored[:count].permute(0, 2, 3, 1).numpy()
        arrays[f"y_{name}"] = split.labels[:count].numpy()
    np.savez(file, **arrays)
    return file


def experts(out: Path) -> dict[str, Any]:
    """How quick and how flat the first expert is."""
    run = open_run(str(out))
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
