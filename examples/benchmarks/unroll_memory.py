"""Peak resident memory of an unrolled student, each way in a fresh process (whole process, torch included).

ConvNet-3 of width 128, 100 images of 3x32x32, 30 inner steps. Run: ``python unroll_memory.py [--steps 30] [--modes ...]``.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import records
import torch
from unroll_speed import Case


def peak_gb() -> float:
    """Most memory this process has held so far, 1 GB = 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(mode: Any, steps: int) -> dict[str, object]:
    """One gradient of one unroll, in this process."""
    case = Case(steps)
    before, began = peak_gb(), time.perf_counter()
    case.gradients(mode)
    seconds = (time.perf_counter() - began) / steps
    return {"mode": mode, "peak_resident_gb": peak_gb(), "before_gb": before, "seconds_per_step": seconds}


def main() -> None:
    """Measure each mode in a child, print the record and write it; ``--child`` is one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--modes", nargs="+", default=["adjoint", "tesla", "full"])
    parser.add_argument("--child", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.child:
        sys.stdout.write(json.dumps(measure(given.modes[0], given.steps)))
        return
    found = []
    for mode in given.modes:
        command = [sys.executable, __file__, "--child", "--modes", mode]
        command += ["--steps", str(given.steps), "--threads", str(given.threads)]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    record = {
        "setting": {"network": "convnet3 (width 128)", "images": 100, "size": "3x32x32", "inner_steps": given.steps},
        "unit": "GB (10^9 bytes) of the whole process, each mode in a fresh one; full is the usual graph, NCHW",
        **records.machine(),
        "modes": found,
    }
    records.write("unroll_memory", record)
    sys.stdout.write(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
