"""Seconds per inner step of an unrolled student: the full graph as it is usually written, and ddcore's exact sweep.

Both ways alternate in one process and give the same gradient; a step is everything that one inner step costs, forward and
back. ConvNet-3 of width 128, 100 images of 3x32x32. Run: ``python unroll_speed.py [--steps 30] [--rounds 3] [--threads 2]``.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time

import records
import torch
from torch import Tensor

from ddcore import Segment
from ddcore.networks import build, flat_weights
from ddcore.networks.unroll import Batches, Mode, unrolled_loss


class Case:
    """One segment to match: random images and classes, weights of a fresh network and a point near them."""

    def __init__(
        self, steps: int, images: int = 100, network: str = "convnet3", dtype: torch.dtype = torch.float32
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.steps = steps
        self.network = build(network, 3, 32, 10, generator).to(dtype)
        self.pixels = torch.randn(images, 3, 32, 32, generator=generator).to(dtype).requires_grad_()
        self.classes = torch.arange(images) % 10
        self.rate = torch.tensor(0.01, dtype=dtype, requires_grad=True)
        start = flat_weights(self.network)
        moved = start + 0.01 * torch.randn(start.shape, generator=generator).to(dtype)
        self.segment = Segment(start, {-1: (moved, 1.0)})

    def gradients(self, mode: Mode) -> tuple[Tensor, Tensor]:
        """The loss's gradient in pixels and rate."""
        value = unrolled_loss(
            self.network,
            self.segment,
            Batches(lambda _: (self.pixels, self.classes), [self.pixels]),
            self.rate,
            self.steps,
            mode=mode,
        )
        pixels, rate = torch.autograd.grad(value, [self.pixels, self.rate])
        return pixels, rate


def timed(case: Case, mode: Mode) -> tuple[float, float]:
    """Wall and processor seconds per inner step."""
    wall, processor = time.perf_counter(), time.process_time()
    case.gradients(mode)
    return (time.perf_counter() - wall) / case.steps, (time.process_time() - processor) / case.steps


def differences() -> dict[str, float]:
    """Largest difference of the pixel gradients relative to the largest entry, two steps of ten images.

    In float32 with an activation that has no kink: near one, rounding decides which side of a ReLU a value falls, in any two
    programs that round differently.
    """
    found = {}
    for name, network, dtype in (("float64", "convnet3", torch.float64), ("float32", "convnet3-swish", torch.float32)):
        case = Case(2, 10, network, dtype)
        plain, swept = case.gradients("full")[0], case.gradients("adjoint")[0]
        found[name] = float((plain - swept).abs().max() / plain.abs().max())
    return found


def main() -> None:
    """Measure, print the record and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    case, rounds = Case(given.steps), []
    Case(1).gradients("full"), Case(1).gradients("adjoint")
    for _ in range(given.rounds):
        plain, swept = timed(case, "full"), timed(case, "adjoint")
        rounds.append(
            {
                "plain_seconds": plain[0],
                "adjoint_seconds": swept[0],
                "plain_processor_seconds": plain[1],
                "adjoint_processor_seconds": swept[1],
                "ratio": plain[0] / swept[0],
                "processor_ratio": plain[1] / swept[1],
                "load_average_1_min": os.getloadavg()[0],
            }
        )
    record = {
        "setting": {"network": "convnet3 (width 128)", "images": 100, "size": "3x32x32", "inner_steps": given.steps},
        "unit": "seconds per inner step; plain: full graph, NCHW; ratios of alternating runs in one process",
        **records.machine(),
        "median": {name: statistics.median(r[name] for r in rounds) for name in rounds[0]},
        "rounds": rounds,
        "relative_difference_of_pixel_gradients": differences(),
        "peak_resident_gb_of_both": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    records.write("unroll_speed", record)
    sys.stdout.write(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
