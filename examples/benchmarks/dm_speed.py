"""A DM step with DSA (10 classes x 256 real + 10 synthetic images, ConvNet-3 of width 128), beside the field's usual loop.

The slow twin is what the field's code does: a Python loop over classes, NCHW, one forward of 256 real images and one of the
synthetic ones a class, DSA drawn a class, one backward of the summed loss. Both are timed alternately in this process.

    python examples/benchmarks/dm_speed.py [--rounds 5] [--threads 2]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from records import machine, write

from ddcore.composing.selection import select, setup_from
from ddcore.images import DSA_COLOUR, draw
from ddcore.networks import build
from ddcore.runs.cutting import distillation_task
from ddcore.runs.loop import begin, outer_step
from ddcore.runs.run import Run
from ddcore.storage import Place


def our_run(folder: Path, threads: int, ipc: int) -> Run:
    """dm + dsa on 10 classes of random colour images."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (3000, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(3000) % 10
    np.savez(folder / "data.npz", x_train=images, y_train=labels, x_test=images[:100], y_test=labels[:100])
    words = ["--plugin", "dm", "--plugin", "dsa"]
    given = {
        "plugins": ("dm", "dsa"),
        "dataset": f"npz:{folder / 'data.npz'}",
        "network": "convnet3",
        "ipc": ipc,
        "threads": threads,
        "out": str(folder / "run"),
    }
    return Run(setup_from(select(words, {}), given, {}), Place.at(folder / "run"))


def usual_step(real: list[torch.Tensor], synthetic: torch.Tensor, optimizer: torch.optim.SGD, step: int) -> float:
    """One step as the field's code takes it."""
    generator = torch.Generator().manual_seed(step)
    network = build("convnet3", 3, 32, 10, generator)
    assert network is not None
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    ipc = len(synthetic) // 10
    loss = torch.zeros(())
    for cls in range(10):
        chosen = real[cls][torch.randperm(len(real[cls]), generator=generator)[:256]]
        own = synthetic[cls * ipc : (cls + 1) * ipc]
        drawn = draw(DSA_COLOUR, 1, (32, 32), generator, shared=True)
        target = network.embed(drawn.images(chosen)).detach()
        loss = loss + (target.mean(0) - network.embed(drawn.images(own)).mean(0)).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def main() -> None:
    """Time both, alternately, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ipc", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = our_run(Path(folder), options.threads, options.ipc)
        task = distillation_task(run)
        learn = begin(task, run)
        real = [run.real.train.inputs(run.real.train.of_class(c)) for c in range(10)]
        synthetic = learn.tensors["pixels"].detach().clone().contiguous().requires_grad_()
        optimizer = torch.optim.SGD([synthetic], lr=1.0, momentum=0.5)
        seconds: dict[str, list[float]] = {"ours": [], "usual": []}
        for step in range(options.rounds + 1):
            for name in ("ours", "usual"):
                start = time.perf_counter()
                if name == "ours":
                    outer_step(task, step, learn, run)
                else:
                    usual_step(real, synthetic, optimizer, step)
                if step:
                    seconds[name].append(time.perf_counter() - start)
    record = {
        "what": f"dm + dsa step, 10 classes x (256 real + {options.ipc} synthetic), ConvNet-3 width 128, 32x32",
        "seconds": seconds,
        "median": {name: median(values) for name, values in seconds.items()},
        "times_as_fast": median(u / o for u, o in zip(seconds["usual"], seconds["ours"], strict=True)),
        **machine(),
    }
    write("dm_speed", record)
    print(json.dumps({k: record[k] for k in ("what", "median", "times_as_fast")}, indent=2))


if __name__ == "__main__":
    main()
