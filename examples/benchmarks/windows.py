"""Which stretches of experts' training teach ten images? datm with an early and with a late window of start epochs, three seeds.

5,000 CIFAR-10 images (JPEG copy) of 16x16 pixels, one image a class. ``early`` draws start epochs 0 to 3, ``late`` 16 to 19 of the
same experts, which lie in the cache. The first losses of a late stretch are near 1, above which datm's threshold stops a step: with
it, ``late`` moved at one step of 150 on seed 0. So ``late`` lifts it; early stretches do not reach it. The record says how the
matching loss moved and how many steps were skipped. About 15 minutes on one thread of an AMD EPYC; call again to go on where it
stopped.

    python examples/benchmarks/windows.py --data ../shared/data/cifar10-jpeg
"""

import argparse
import os
from pathlib import Path

from arms import Claim, Study, measure
from flat_experts import subset

TRAIN, TEST = 5000, 2000
DATM = ("--plugin", "datm", "--datm.student-steps", "20", "--datm.expert-epochs", "2")
RATES = ("--datm.lr-img", "100", "--datm.lr-y", "2", "--datm.lr-lr", "1e-5")
EXPERTS = ("--experts.count", "3", "--experts.epochs", "22", "--experts.batch", "64")
SIZES = ("--ipc", "1", "--resize", "16", "--network", "convnet2-w16", "--steps", "150")
SCORES = ("--preset", "none", "--protocol", "datm-150", "--eval-seeds", "3", "--full-epochs", "5", "--threads", "1")
ARMS = {
    "early": ("--datm.min-start-epoch", "0", "--datm.max-start-epoch", "4"),
    "late": ("--datm.min-start-epoch", "16", "--datm.max-start-epoch", "20", "--datm.threshold", "100"),
}
CLAIMS = (
    Claim("late falls below early", ("early", "distilled"), ("late", "distilled")),
    Claim("early beats random images with experts' labels", ("early", "distilled"), ("early", "random")),
    Claim("early beats k-center with experts' labels", ("early", "distilled"), ("early", "kcenter")),
    Claim("late beats random images with experts' labels", ("late", "distilled"), ("late", "random")),
)


def main() -> None:
    """Make the subset and run both arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cifar10-jpeg")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where the runs are kept")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    subset(given.data, given.folder / "windows.npz", TRAIN, TEST)
    os.chdir(given.folder)
    common = ("--dataset", "npz:windows.npz", *SIZES, *DATM, *RATES, *EXPERTS, *SCORES)
    what = f"windows of start epochs under datm, {TRAIN:,} CIFAR-10 images (JPEG copy) of 16x16 pixels, 1 image a class"
    measure(Study(what, common, ARMS, CLAIMS), "windows", given.seeds, Path())


if __name__ == "__main__":
    main()
