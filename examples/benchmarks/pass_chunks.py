"""Images per second of passes cut to different chunks, with torch's norms and with ddcore's: where ``ddcore.networks.passes`` gets its
constants. Run: ``python pass_chunks.py [--threads 2]``.
"""

import argparse
import json
import sys
import time
from contextlib import nullcontext

import records
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore.networks import build, channels_last, lay_out
from ddcore.networks.curvature import CheapNorms

CASES = (("convnet3", 3, 32, 200, (10, 16, 25, 50, 100, 200)), ("convnet2", 1, 8, 1600, (100, 256, 400, 800, 1600)))


def one_pass(network: nn.Module, images: Tensor, classes: Tensor, chunk: int, train: bool, cheap: bool) -> float:
    """Images per second."""
    began = time.perf_counter()
    for x, y in zip(images.split(chunk), classes.split(chunk), strict=True):
        with torch.set_grad_enabled(train), CheapNorms() if cheap else nullcontext():
            loss = F.cross_entropy(network(channels_last(x)), y)
        if train:
            loss.backward()
    return len(images) / (time.perf_counter() - began)


def main() -> None:
    """Measure, alternating; print the record and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for name, channels, size, count, chunks in CASES:
        generator = torch.Generator().manual_seed(0)
        network = lay_out(build(name, channels, size, 10, generator))
        images = torch.randn(count, channels, size, size, generator=generator)
        classes = torch.arange(count) % 10
        ways = [(chunk, train, cheap) for chunk in chunks for train in (False, True) for cheap in (False, True)]
        best = dict.fromkeys(ways, 0.0)
        for _ in range(given.rounds):
            best = {way: max(speed, one_pass(network, images, classes, *way)) for way, speed in best.items()}
        for (chunk, train, cheap), speed in best.items():
            what, norms = "forward and backward" if train else "forward", "ddcore" if cheap else "torch"
            rows.append(
                {"network": name, "size": size, "pass": what, "norms": norms, "chunk": chunk, "images_per_s": speed}
            )
    record = {
        "unit": "images per second, best of alternating rounds, channels-last",
        **records.machine(),
        "rows": rows,
    }
    records.write("pass_chunks", record)
    sys.stdout.write(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
