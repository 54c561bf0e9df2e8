"""Where dc starts: from noise, as its paper does, or from real images; digits at 1 and 10 images a class, three seeds.

Small settings: width 16, 64 real images of a class, protocol ``quick-100``; 50 networks at 1 image a class, 4 networks of 10
matches with 10 epochs of training between them at 10. Under a minute a run on one thread of an AMD EPYC; call again to go on
where it stopped.

    python examples/benchmarks/dc_start.py
    python examples/benchmarks/dc_start.py --tiny
"""

import argparse
from pathlib import Path

from arms import Claim, Study, measure

COMMON = ["--plugin", "dc", "--dataset", "digits", "--preset", "none", "--threads", "1", "--full-epochs", "1"]
SIZES = ["--network", "convnet2-w16", "--dc.batch-real", "64", "--protocol", "quick-100", "--eval-seeds", "3"]
TINY = ["--network", "convnet2-w4", "--dc.batch-real", "8", "--protocol", "quick-1", "--eval-seeds", "1"]
LOOPS = {"1": ["--steps", "50"], "10": ["--steps", "4", "--dc.outer-loops", "10", "--dc.inner-epochs", "10"]}
SHORT = {"1": ["--steps", "1"], "10": ["--steps", "1", "--dc.outer-loops", "1"]}


def main() -> None:
    """Run every arm that has no result yet and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where the runs are kept")
    parser.add_argument("--tiny", action="store_true", help="just to see that it works; writes no record")
    options = parser.parse_args()
    loops = SHORT if options.tiny else LOOPS
    arms = {
        f"{start}, {ipc}": ("--ipc", ipc, "--init", start, *words)
        for ipc, words in loops.items()
        for start in ("noise", "real")
    }
    claims = [
        Claim(
            f"real images are a better start than noise at {ipc} a class",
            (f"real, {ipc}", "distilled"),
            (f"noise, {ipc}", "distilled"),
        )
        for ipc in loops
    ]
    what = "dc's start on digits, small settings"
    common = (*COMMON, *(TINY if options.tiny else SIZES))
    measure(
        Study(what, common, arms, tuple(claims)), None if options.tiny else "dc_start", options.seeds, options.folder
    )


if __name__ == "__main__":
    main()
