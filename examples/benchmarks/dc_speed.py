"""A DC step, alone and with DSA, beside the field's usual loop; and its time against images a class and classes.

A step here is one network: ``--loops`` matches (256 real and all synthetic images of every class) and ``--epochs`` of inner
training between two of them; the paper's step only has more of both. ConvNet-3 of width 128, 3x32x32. The slow twin is what the
field's code does: NCHW, a Python loop over classes, one pass of 256 real images and one of the synthetic ones a class with
the graph of its gradient, one backward of the summed distance. Both are timed alternately in this process.

    python examples/benchmarks/dc_speed.py [--rounds 5] [--threads 2] [--loops 2] [--epochs 10] [--no-curve]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from records import machine, write
from torch import Tensor
from torch.nn import functional as F

from ddcore.composing.selection import select, setup_from
from ddcore.images import DSA_COLOUR, draw
from ddcore.networks import build
from ddcore.runs.cutting import distillation_task
from ddcore.runs.loop import begin, outer_step
from ddcore.runs.run import Run
from ddcore.storage import Place

IPC, CLASSES = 10, 10
CURVE = [(1, 10), (10, 10), (50, 10), (10, 2), (10, 5), (10, 20)]
"""(images a class, classes)"""


def our_run(folder: Path, plugins: tuple[str, ...], ipc: int, classes: int, options: argparse.Namespace) -> Run:
    """On random colour images."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (300 * classes, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(len(images)) % classes
    np.savez(folder / "data.npz", x_train=images, y_train=labels, x_test=images[:100], y_test=labels[:100])
    words = [word for plugin in plugins for word in ("--plugin", plugin)]
    given = {
        "plugins": plugins,
        "dataset": f"npz:{folder / 'data.npz'}",
        "network": options.network,
        "ipc": ipc,
        "threads": options.threads,
        "dc__outer_loops": options.loops,
        "dc__inner_epochs": options.epochs,
    }
    return Run(setup_from(select([*words, "--preset", "none"], {}), given, {}), Place.at(folder / "run"))


def distance(real: list[Tensor], synthetic: tuple[Tensor, ...]) -> Tensor:
    """The authors' layer-wise distance."""
    total = torch.zeros(())
    for a, b in zip(real, synthetic, strict=True):
        if a.dim() > 1:
            a, b = a.flatten(1), b.flatten(1)
            total = total + (1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + 1e-6)).sum()
    return total


class Usual:
    """The field's loop."""

    def __init__(self, real: list[Tensor], synthetic: Tensor, augmented: bool, options: argparse.Namespace) -> None:
        self.real, self.augmented, self.options = real, augmented, options
        self.synthetic = synthetic.detach().clone().contiguous().requires_grad_()
        self.optimizer = torch.optim.SGD([self.synthetic], lr=0.1, momentum=0.5)
        self.labels = torch.arange(len(real)).repeat_interleave(len(synthetic) // len(real))

    def augment(self, images: Tensor, generator: torch.Generator, shared: bool) -> Any:
        """One operation, as DSA draws it."""
        count = 1 if shared else len(images)
        return draw(DSA_COLOUR, count, (32, 32), generator, shared=shared).images if self.augmented else lambda x: x

    def step(self, step: int) -> None:
        """One network."""
        generator = torch.Generator().manual_seed(step)
        network = build(self.options.network, 3, 32, len(self.real), generator)
        assert network is not None
        weights = list(network.parameters())
        sgd = torch.optim.SGD(weights, lr=0.01)
        for loop in range(self.options.loops):
            self.match(network, weights, generator)
            for _ in range(self.options.epochs if loop + 1 < self.options.loops else 0):
                images = self.synthetic.detach()
                for index in torch.randperm(len(images), generator=generator).split(256):
                    x = self.augment(images[index], generator, shared=False)(images[index])
                    sgd.zero_grad()
                    F.cross_entropy(network(x), self.labels[index]).backward()
                    sgd.step()

    def match(self, network: torch.nn.Module, weights: list[Tensor], generator: torch.Generator) -> None:
        """One move of the images."""
        loss = torch.zeros(())
        ipc = len(self.synthetic) // len(self.real)
        for cls, images in enumerate(self.real):
            chosen = images[torch.randperm(len(images), generator=generator)[:256]]
            own = self.synthetic[cls * ipc : (cls + 1) * ipc]
            augment = self.augment(chosen, generator, shared=True)
            value = F.cross_entropy(network(augment(chosen)), torch.full((len(chosen),), cls))
            target = [g.detach().clone() for g in torch.autograd.grad(value, weights)]
            value = F.cross_entropy(network(augment(own)), torch.full((ipc,), cls))
            loss = loss + distance(target, torch.autograd.grad(value, weights, create_graph=True))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def timed(plugins: tuple[str, ...], ipc: int, classes: int, rounds: int, options: argparse.Namespace) -> dict[str, Any]:
    """Both, alternately, after one step of each that does not count."""
    with tempfile.TemporaryDirectory() as folder:
        run = our_run(Path(folder), plugins, ipc, classes, options)
        task = distillation_task(run)
        learn = begin(task, run)
        real = [run.real.train.inputs(run.real.train.of_class(c)) for c in range(classes)]
        usual = Usual(real, learn.tensors["pixels"], "dsa" in plugins, options)
        both = {"ours": lambda step: outer_step(task, step, learn, run), "usual": usual.step}
        seconds: dict[str, list[float]] = {name: [] for name in both}
        for step in range(rounds + 1):
            for name, take in both.items():
                start = time.perf_counter()
                take(step)
                if step:
                    seconds[name].append(time.perf_counter() - start)
    return {
        "method": " + ".join(plugins),
        "ipc": ipc,
        "classes": classes,
        "seconds": seconds,
        "median": {name: median(values) for name, values in seconds.items()},
        "times_as_fast": median(u / o for u, o in zip(seconds["usual"], seconds["ours"], strict=True)),
    }


def main() -> None:
    """Time all cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loops", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--network", default="convnet3")
    parser.add_argument("--no-curve", action="store_true")
    parser.add_argument("--name", default="dc_speed")
    options = parser.parse_args()
    steps = [timed(plugins, IPC, CLASSES, options.rounds, options) for plugins in (("dc",), ("dc", "dsa"))]
    curve = [] if options.no_curve else [timed(("dc",), ipc, classes, 1, options) for ipc, classes in CURVE]
    inner = f"{options.epochs} epochs of inner training between two"
    record = {
        "what": f"one network of dc: {options.loops} matches with 256 real images a class, {inner}; {options.network}, 32x32",
        "unit": "seconds; usual: the field's loop in the same process, alternating",
        "steps": steps,
        "curve": curve,
        **machine(),
    }
    write(options.name, record)
    shown = ("method", "ipc", "classes", "median", "times_as_fast")
    print(json.dumps([{k: row[k] for k in shown} for row in steps + curve], indent=2))


if __name__ == "__main__":
    main()
