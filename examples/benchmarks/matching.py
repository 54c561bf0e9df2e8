"""Do dm and dc beat real images, and does fyi help them? Three seeds of distillation, three students each.

``mnist-ipc1``, ``mnist-ipc10``: dm (with dsa, as its paper has it) and dc against random images and k-center's.
``fyi-ipc1``, ``fyi-ipc10``: dm and dc, each with and without fyi, on CIFAR-10's JPEG copy, where mirror images keep their class.
No dsa and no augmentation of students there: fyi's own code mirrors more often than the code it compares with, and without
augmentation nothing of that can be mistaken for fyi.

Each writes the record ``matching-NAME.json``. ConvNet-3 of width 16, hundreds of steps: directions, not the papers' figures. On
one thread of an AMD EPYC the four take about 5, 20, 15 and 60 minutes. Call again to go on where it stopped.

    python examples/benchmarks/matching.py mnist-ipc1 fyi-ipc1
"""

import argparse
from pathlib import Path

from arms import Claim, Study, measure

COMMON = ("--network", "convnet3-w16", "--preset", "none", "--eval-seeds", "3", "--full-epochs", "1", "--threads", "1")
MNIST = ("--dataset", "parquet:../shared/data/mnist", *COMMON)
CIFAR = ("--dataset", "parquet:../shared/data/cifar10-jpeg", *COMMON, "--protocol", "dc-100")
DM = ("--plugin", "dm", "--dm.batch-real", "64")
DC = ("--plugin", "dc", "--dc.batch-real", "64")
SHORT = ("--dc.outer-loops", "5", "--dc.inner-epochs", "10")
FYI = ("--plugin", "fyi")


def against_real(ipc: int, dm: tuple[str, ...], dc: tuple[str, ...]) -> Study:
    """dm and dc on MNIST."""
    arms = {
        "dm": (*DM, "--plugin", "dsa", "--protocol", "dsa-100", *dm),
        "dc": (*DC, "--protocol", "dc-mnist-100", *dc),
    }
    pairs = [(arm, row) for arm in arms for row in ("random", "kcenter")]
    claims = tuple(Claim(f"{arm} beats {row}", (arm, "distilled"), (arm, row)) for arm, row in pairs)
    what = f"dm and dc against real images: MNIST, {ipc} a class, ConvNet-3 of width 16"
    return Study(what, (*MNIST, "--ipc", str(ipc)), arms, claims)


def mirrored(ipc: int, dm: tuple[str, ...], dc: tuple[str, ...]) -> Study:
    """fyi on dm and dc on CIFAR-10."""
    bases = {"dm": (*DM, *dm), "dc": (*DC, *dc)}
    arms = {name: words for base, own in bases.items() for name, words in ((base, own), (f"{base}+fyi", (*own, *FYI)))}
    claims = [Claim(f"fyi helps {base}", (f"{base}+fyi", "distilled"), (base, "distilled")) for base in bases]
    claims += [Claim(f"{base} beats random", (base, "distilled"), (base, "random")) for base in bases]
    what = f"fyi on dm and dc without dsa: CIFAR-10 (JPEG copy), {ipc} a class, ConvNet-3 of width 16"
    return Study(what, (*CIFAR, "--ipc", str(ipc)), arms, tuple(claims))


STUDIES = {
    "mnist-ipc1": against_real(1, ("--steps", "300"), ("--steps", "200")),
    "fyi-ipc1": mirrored(1, ("--steps", "300"), ("--steps", "200")),
    "mnist-ipc10": against_real(10, ("--steps", "200"), ("--steps", "30", *SHORT)),
    "fyi-ipc10": mirrored(10, ("--steps", "200"), ("--steps", "30", *SHORT)),
}


def main() -> None:
    """Run the studies that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="*", default=list(STUDIES), help=f"of {', '.join(STUDIES)}; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where the runs are kept")
    given = parser.parse_args()
    for name in given.study:
        measure(STUDIES[name], f"matching-{name}", given.seeds, given.folder)


if __name__ == "__main__":
    main()
