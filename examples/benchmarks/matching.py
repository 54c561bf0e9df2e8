"""Do dm and dc beat real images, and does fyi help them? Three seeds of distillation, three students each.

``mnist-ipc1``, ``mnist-ipc10``: dm (with dsa, as its paper has it) and dc against random images and k-center's.
``fyi-ipc1``, ``fyi-ipc10``: dm and dc, each with and without fyi, on CIFAR-10's JPEG copy, where mirror images keep their class.
No dsa and no augmentation of students there: fyi's own code mirrors more often than the code it compares with, and without
augmentation nothing of that can be mistaken for fyi. ``--mirrored`` scores every such set also under ``fyi-100``, whose students
see mirror images too.

Each writes the record ``matching-NAME.json``. Networks of width 16, small images but for the first, up to hundreds of steps:
directions, not the papers' figures. Each takes 10 to 30 minutes on one thread of an AMD EPYC; call again to go on where it
stopped.

    python examples/benchmarks/matching.py mnist-ipc1 fyi-ipc1
"""

import argparse
import json
from pathlib import Path
from typing import Any

from arms import Claim, Study, measure

from ddcore.cli.app import invoke

COMMON = ("--preset", "none", "--eval-seeds", "3", "--full-epochs", "1", "--threads", "1")
WHOLE = ("--network", "convnet3-w16", *COMMON)
MNIST, CIFAR = ("--dataset", "parquet:../shared/data/mnist"), ("--dataset", "parquet:../shared/data/cifar10-jpeg")
DM = ("--plugin", "dm", "--dm.batch-real", "64")
DC = ("--plugin", "dc", "--dc.batch-real", "64")
SHORT = ("--dc.outer-loops", "5", "--dc.inner-epochs", "10")
FYI = ("--plugin", "fyi")
MIRRORING = "fyi-100"
MIRRORED = f"distilled, {MIRRORING}"


def small(size: int) -> tuple[str, ...]:
    """Images of fewer pixels, a shallower network."""
    return ("--resize", str(size), "--network", "convnet2-w16", *COMMON)


def against_real(what: str, common: tuple[str, ...], dm: tuple[str, ...], dc: tuple[str, ...]) -> Study:
    """dm and dc beside random images and k-center's."""
    arms = {"dm": (*DM, "--plugin", "dsa", *dm), "dc": (*DC, *dc)}
    pairs = [(arm, row) for arm in arms for row in ("random", "kcenter")]
    claims = tuple(Claim(f"{arm} beats {row}", (arm, "distilled"), (arm, row)) for arm, row in pairs)
    return Study(f"dm and dc against real images: {what}", common, arms, claims)


def mirrored(ipc: int, dm: tuple[str, ...], dc: tuple[str, ...]) -> Study:
    """fyi on dm and dc on CIFAR-10."""
    bases = {"dm": (*DM, *dm), "dc": (*DC, *dc)}
    arms = {name: words for base, own in bases.items() for name, words in ((base, own), (f"{base}+fyi", (*own, *FYI)))}
    claims = [Claim(f"fyi helps {base}", (f"{base}+fyi", "distilled"), (base, "distilled")) for base in bases]
    claims += [
        Claim(f"fyi helps {base}, students see mirror images", (f"{base}+fyi", MIRRORED), (base, MIRRORED))
        for base in bases
    ]
    claims += [Claim(f"{base} beats random", (base, "distilled"), (base, "random")) for base in bases]
    what = f"fyi on dm and dc without dsa: CIFAR-10 (JPEG copy) at 16x16 pixels, {ipc} a class, ConvNet-2 of width 16"
    return Study(what, (*CIFAR, *small(16), "--protocol", "dc-100", "--ipc", str(ipc)), arms, tuple(claims))


def under_mirroring(out: Path) -> dict[str, Any]:
    """The set's accuracy where students see mirror images, as under fyi's own protocol."""
    file = out / MIRRORING / "scores.json"
    if not file.exists():
        words = ["--protocol", MIRRORING, "--full-epochs", "1", "--threads", "1", "--seed", str(seed_of(out))]
        if invoke(["evaluate", str(out / "artifact"), *words, "--out", str(file.parent)]):
            raise SystemExit(f"failed: ddcore evaluate {' '.join(words)}")
    rows = json.loads(file.read_text())["rows"]
    own = next(row for row in rows if row["set"] == "distilled")
    return {"accuracy": {MIRRORED: own["accuracy"]["mean"]}, MIRRORING: rows}


def seed_of(out: Path) -> int:
    """A run's seed."""
    return int(json.loads((out / "run.json").read_text())["config"]["seed"])


STUDIES = {
    "mnist-ipc1": against_real(
        "MNIST, 1 a class, ConvNet-3 of width 16",
        (*MNIST, *WHOLE, "--ipc", "1"),
        ("--protocol", "dsa-100", "--steps", "300"),
        ("--protocol", "dc-mnist-100", "--steps", "200", "--init", "real"),
    ),
    "mnist-ipc10": against_real(
        "MNIST at 14x14 pixels, 10 a class, ConvNet-2 of width 16",
        (*MNIST, *small(14), "--ipc", "10"),
        ("--protocol", "dsa-60", "--steps", "100"),
        ("--protocol", "dc-60", "--steps", "8", *SHORT, "--init", "real"),
    ),
    "fyi-ipc1": mirrored(1, ("--steps", "200"), ("--steps", "150", "--init", "noise")),
    "fyi-ipc10": mirrored(10, ("--steps", "200"), ("--steps", "20", *SHORT, "--init", "real")),
}


def main() -> None:
    """Run the studies that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="*", default=list(STUDIES), help=f"of {', '.join(STUDIES)}; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where the runs are kept")
    parser.add_argument("--mirrored", action="store_true", help=f"score fyi's studies under {MIRRORING} too")
    given = parser.parse_args()
    for name in given.study:
        more = under_mirroring if given.mirrored and name.startswith("fyi") else None
        measure(STUDIES[name], f"matching-{name}", given.seeds, given.folder, more)


if __name__ == "__main__":
    main()
