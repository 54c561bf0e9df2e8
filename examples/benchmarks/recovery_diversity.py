"""What dwa and cda do to recovered images, in the eyes of the teacher they are recovered from: CIFAR-10 (JPEG copy), three seeds.

``alike``: mean cosine of the features of two images of a class; dwa should lower it. ``noise`` and ``real`` are sre2l from noise and
from real images; ``directed`` moves the teacher by rho, ``far`` by a hundred times that, ``variance`` weighs variances, ``dwa`` does both.
``entropy``: the teacher's cross entropy on the images as they are stored, not cropped; cda should lower it. ``cropped`` is sre2l with
crops, ``cda`` the same under the curriculum. Both are means over images. Students are not looked at: see ``results/labels.json``.
Differences are printed in hundredths. Call again to go on where it stopped.

    python examples/benchmarks/recovery_diversity.py --data ../shared/data/cifar10-jpeg
    python examples/benchmarks/recovery_diversity.py --tiny
"""

import argparse
import os
from pathlib import Path
from typing import Any

from arms import Claim, Study, measure
from flat_experts import subset
from torch import Tensor
from torch.nn import functional as F

from ddcore.networks import features, logits
from ddcore.runs.opening import open_run
from ddcore.sets import load_artifact

TRAIN, TEST = 10_000, 1000
ALIKE, ENTROPY = "alike", "entropy"
COMMON = ("--plugin", "sre2l", "--sre2l.block", "10", "--labels", "hard", "--preset", "none", "--threads", "1")
STUDENTS = ("--protocol", "quick-1", "--eval-seeds", "1", "--full-epochs", "1")
SIZES = ("--ipc", "10", "--steps", "300", "--network", "convnet3-bn-w32", "--teachers.epochs", "15")
TINY = ("--ipc", "2", "--steps", "3", "--network", "convnet2-bn-w8", "--teachers.epochs", "6")
DWA = ("--plugin", "dwa", "--init", "real")
CROPPED = ("--init", "noise", "--sre2l.crop", "resized")
ARMS = {
    "noise": ("--init", "noise"),
    "real": ("--init", "real"),
    "directed": (*DWA, "--dwa.variance", "1"),
    "far": (*DWA, "--dwa.variance", "1", "--dwa.rho", "1.5"),
    "variance": (*DWA, "--dwa.rho", "0"),
    "dwa": DWA,
    "cropped": CROPPED,
    "cda": (*CROPPED, "--plugin", "cda"),
}
CLAIMS = (
    Claim("real initial images make images of a class less alike", ("noise", ALIKE), ("real", ALIKE)),
    Claim("moving the teacher makes them less alike", ("real", ALIKE), ("directed", ALIKE)),
    Claim("moving it a hundred times as far makes them less alike", ("real", ALIKE), ("far", ALIKE)),
    Claim("weighing variances makes them less alike", ("real", ALIKE), ("variance", ALIKE)),
    Claim("dwa makes them less alike than sre2l from real images", ("real", ALIKE), ("dwa", ALIKE)),
    Claim("dwa makes them less alike than sre2l", ("noise", ALIKE), ("dwa", ALIKE)),
    Claim("cda lowers the teacher's cross entropy on whole images", ("cropped", ENTROPY), ("cda", ENTROPY)),
)


def main() -> None:
    """Run the arms and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cifar10-jpeg")
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="repeatable; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where the runs are kept")
    parser.add_argument("--tiny", action="store_true", help="just to see that it works; writes no record")
    given = parser.parse_args()
    counts = (500, 100) if given.tiny else (TRAIN, TEST)
    given.folder.mkdir(parents=True, exist_ok=True)
    data = subset(given.data, given.folder / f"diversity-{counts[0]}.npz", *counts)
    os.chdir(given.folder)
    common = ("--dataset", f"npz:{data.name}", *COMMON, *(TINY if given.tiny else SIZES), *STUDENTS)
    arms = {name: ARMS[name] for name in given.arm or ARMS}
    claims = tuple(claim for claim in CLAIMS if {claim.higher[0], claim.lower[0]} <= {*arms})
    what = f"recovered images of {counts[0]:,} CIFAR-10 images (JPEG copy) as their teacher sees them"
    record = None if given.tiny else "recovery_diversity"
    measure(Study(what, common, arms, claims), record, given.seeds, Path(), as_the_teacher_sees_them)


def as_the_teacher_sees_them(out: Path) -> dict[str, Any]:
    """How alike the images of a class are, and how far they are from their classes; under ``accuracy``, to be compared."""
    run, artifact = open_run(str(out)), load_artifact(out / "artifact")
    images, classes = artifact.images(), artifact.labels.classes.long()
    teacher = run.teachers.network(0)
    entropy = float(F.cross_entropy(logits(teacher, images), classes))
    return {"accuracy": {ALIKE: alike(features(teacher, images), classes), ENTROPY: entropy}}


def alike(features_ND: Tensor, classes_N: Tensor) -> float:
    """Mean cosine over all pairs of two different rows of a class.

    >>> from torch import tensor
    >>> alike(tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]), tensor([0, 0, 1]))
    0.0
    """
    directions = F.normalize(features_ND, dim=1)
    pairs = (classes_N[:, None] == classes_N).triu(1)
    return float((directions @ directions.T)[pairs].mean())


if __name__ == "__main__":
    main()
