"""Students that learn from teachers, each variant beside the plain student and `kd`: one table a data set, about the same steps for all.

``cifar10``: 5,000 images of the JPEG copy at 16x16, ConvNets of width 32 and 8; ``mnist``: 2,000 images, a ConvNet to an MLP; ``sst2``: 5,000 phrases,
a transformer of two layers to one of one. Teachers are trained first, by `ddcore train` itself, two of them for the variants that
have committees. Small networks, few epochs: directions, not the papers' figures. The record is ``kd_variants.json``. Call again to
go on where it stopped.

    python examples/benchmarks/kd_variants.py cifar10 mnist sst2
    python examples/benchmarks/kd_variants.py cifar10 --tiny
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from arms import Claim, judged, known, spread
from attrs import frozen
from flat_experts import subset
from records import RESULTS, machine, write

from ddcore.cli.app import invoke


@frozen
class Pair:
    """A data set with its teacher and student.

    Attributes:
        data: words that say which.
        counts: training and test images that are cut from it; none takes all.
        teacher, student: networks; epochs of their protocol.
        leaves_out: variants that these networks cannot have.
    """

    data: tuple[str, ...]
    counts: tuple[int, int] | None
    teacher: str
    student: str
    protocol: str
    teacher_epochs: int
    epochs: int
    leaves_out: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


KD = ("--plugin", "kd")
FEW = ("--plugin", "distill-weighted", "--distill-weighted.labelled", "20")
WEIGHTED = (*FEW, "--distill-weighted.every-view")
WEIGHTED += ("--distill-weighted.sources", "{s0}", "--distill-weighted.sources", "{s1}")
ONE, TWO = ("{t0}",), ("{t0}", "{t1}")
Words = tuple[str, ...]
ARMS: Mapping[str, tuple[Words, Words]] = {
    "plain": ((), ()),
    "kd": (KD, ONE),
    "kd, two teachers": (KD, TWO),
    "kd, weights 1 and 1": ((*KD, "--kd.label-weight", "1", "--kd.weight", "1"), ONE),
    "kd, decoupled": ((*KD, "--kd.dkd", "--kd.beta", "2", "--kd.label-weight", "1"), ONE),
    "attention": ((*KD, "--kd.feature", "at", "--kd.label-weight", "1", "--kd.weight", "0"), ONE),
    "nd": ((*KD, "--kd.label-weight", "1", "--kd.weight", "1", "--plugin", "nd"), ONE),
    "sinkd": ((*KD, "--plugin", "sinkd"), ONE),
    "mi-alpha": ((*KD, "--plugin", "mi-alpha", "--mi-alpha.logit-weight", "0"), ONE),
    "mixup-kd": (("--plugin", "mixup-kd"), ONE),
    "hard": ((*KD, "--plugin", "hard"), ONE),
    "ferkd": (("--plugin", "ferkd", "--labels", "ferkd", "--ferkd.crops", "20"), ONE),
    "reinforce": (("--plugin", "reinforce", "--labels", "reinforce", "--reinforce.samples", "10"), TWO),
    "plain, from trained": (("--from", "{plain}"), ()),
    "meal-v2": (("--plugin", "meal-v2", "--from", "{plain}"), TWO),
    "rs2": ((*KD, "--plugin", "rs2", "--rs2.share", "0.2"), ONE),
    "kd-pruning": (("--plugin", "kd-pruning", "--kd-pruning.share", "0.2"), ONE),
    "rad": (("--plugin", "rad"), ONE),
    "kd3": (("--plugin", "kd3", "--kd3.layer", "stage3"), ONE),
    "20 images a class": (("--per-class", "20"), ()),
    "20 labels a class": ((*FEW, "--distill-weighted.label-weight", "1"), ()),
    "distill-weighted": (WEIGHTED, ()),
    "distill-weighted, alike": ((*WEIGHTED, "--distill-weighted.power", "0"), ()),
}
FEW_LABELS = ("20 images a class", "20 labels a class", "distill-weighted", "distill-weighted, alike")
"""Students that see the labels of few images: their control is the first of them, not `kd`."""
FEW_IMAGES = 200
OF_FEATURES = ("attention",)
OF_TEXT = ("plain", "kd", "nd", "sinkd", "mi-alpha")
PAIRS = {
    "cifar10": Pair(
        ("../shared/data/cifar10-jpeg",),
        (5000, 2000),
        "convnet3-bn-w32",
        "convnet3-bn-w8",
        "kd",
        20,
        12,
        (),
        ("--resize", "16"),
    ),
    "mnist": Pair(
        ("../shared/data/mnist",),
        (2000, 2000),
        "convnet3-bn-w16",
        "mlp",
        "kd",
        10,
        20,
        (*OF_FEATURES, "mi-alpha", "kd3"),
    ),
    "sst2": Pair(
        ("../shared/data/sst2",),
        None,
        "transformer2-w128",
        "transformer1-w32",
        "text",
        3,
        4,
        tuple(arm for arm in ARMS if arm not in OF_TEXT),
        ("--plugin", "text", "--per-class", "2500"),
    ),
}
EPOCHS_TIMES = {"rs2": 5, "kd-pruning": 5, "rad": 5}
"""Epochs that visit a part of the rows are as many more, so that all make about the same steps."""
CONTROLS = (
    ("nd", "kd, weights 1 and 1"),
    ("meal-v2", "plain, from trained"),
    ("reinforce", "kd, two teachers"),
    ("distill-weighted", "20 images a class"),
    ("distill-weighted", "20 labels a class"),
    ("distill-weighted", "distill-weighted, alike"),
)
SOURCES = {"cifar10": ("tiny-imagenet-50", "mnist"), "mnist": ("tiny-imagenet-50", "cifar10-jpeg")}
"""Other tasks, whose networks distill-weighted learns from."""
ROW = "student"


def claims(chosen: Sequence[str]) -> list[Claim]:
    """Which variants beat the plain student, `kd`, and the control of their own that has the same weights, start or teachers."""
    others = [arm for arm in chosen if arm not in ("plain", "kd", *FEW_LABELS)]
    found = [Claim("kd beats the plain student", ("kd", ROW), ("plain", ROW))]
    found += [Claim(f"{arm} beats kd", (arm, ROW), ("kd", ROW)) for arm in others]
    return found + [
        Claim(f"{arm} beats {base}", (arm, ROW), (base, ROW)) for arm, base in CONTROLS if {arm, base} <= {*chosen}
    ]


def trained(words: Sequence[str], folder: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a `ddcore train`, and its student's row; one that was finished is read, one that was stopped goes on."""
    out = folder / sha256(" ".join(words).encode()).hexdigest()[:12]
    if not (out / "scores.json").exists():
        start = time.perf_counter()
        command = ["train", *words, "--no-plain", "--cache", str(folder / "cache"), "--out", str(out)]
        if invoke(["resume", str(out)] if (out / "run.json").exists() else command):
            raise SystemExit(f"failed: ddcore train {' '.join(words)}")
        (out / "seconds.json").write_text(json.dumps(round(time.perf_counter() - start, 1)))
    rows = json.loads((out / "scores.json").read_text())["rows"]
    return out, next(row for row in rows if row["set"] == ROW)


def measured(name: str, arms: Sequence[str], seeds: int, folder: Path, tiny: bool) -> dict[str, Any]:
    """Every arm on every seed; the record so far."""
    pair = PAIRS[name]
    data = pair.data[0]
    if pair.counts:
        counts = (500, 200) if tiny else pair.counts
        file = folder / f"kd-{name}-{counts[0]}.npz"
        given = f"npz:{file if file.exists() else subset(data, file, *counts)}"
    else:
        given = f"text:{data}"
    common = ("--data", given, *pair.words, "--eval-seeds", "1", "--threads", "1")
    epochs = (1, 1) if tiny else (pair.teacher_epochs, pair.epochs)
    said = ["--student", pair.teacher, "--protocol", f"{pair.protocol}-{epochs[0]}"]
    teachers = []
    for seed in ("100", "101"):
        out, row = trained([*common, *said, "--seed", seed], folder)
        teachers.append((str(out / "students" / "student-0.safetensors"), row["accuracy"]["mean"]))
    sources = sources_of(name, pair, folder, tiny) if {*arms} & {*FEW_LABELS} else {}
    done: dict[str, list[dict[str, Any]]] = {}
    commands: dict[str, str] = {}
    for seed in range(seeds):
        base = (*common, "--student", pair.student, "--seed", str(seed))
        plain, _ = trained([*base, "--protocol", f"{pair.protocol}-{epochs[1]}"], folder)
        places = {
            "t0": teachers[0][0],
            "t1": teachers[1][0],
            "plain": str(plain / "students" / "student-0.safetensors"),
            **sources,
        }
        for arm in arms:
            extra, asked = ARMS[arm]
            times = EPOCHS_TIMES.get(arm, 1)
            if arm == FEW_LABELS[0]:
                times = (pair.counts or (FEW_IMAGES, 0))[0] // FEW_IMAGES
            words = [*base, "--protocol", f"{pair.protocol}-{times * epochs[1]}", *(w.format(**places) for w in extra)]
            words += [word for teacher in asked for word in ("--teacher", teacher.format(**places))]
            words += ["--teachers.no-check"] if tiny and asked else []
            out, row = trained(words, folder)
            commands.setdefault(arm, " ".join([*extra, *(w for t in asked for w in ("--teacher", t))]))
            found = {"accuracy": {ROW: row["accuracy"]["mean"]}, "steps": row["steps"], "bytes": row["bytes"]}
            found["seconds"] = json.loads((out / "seconds.json").read_text())
            done.setdefault(arm, []).append(found)
        if not tiny:
            keep(name, record(name, pair, common, teachers, done, commands))
    return record(name, pair, common, teachers, done, commands)


def sources_of(name: str, pair: Pair, folder: Path, tiny: bool) -> dict[str, str]:
    """Networks that were trained on other tasks: their files, by name of place."""
    beside = Path(pair.data[0]).parent
    common = ("--per-class", "20" if tiny else "200", "--eval-seeds", "1", "--threads", "1", "--resize", "16")
    said = ("--student", pair.teacher, "--protocol", "kd-1" if tiny else "kd-12", "--seed", "100")
    made = [trained(["--data", f"parquet:{beside / task}", *common, *said], folder)[0] for task in SOURCES[name]]
    return {f"s{number}": str(out / "students" / "student-0.safetensors") for number, out in enumerate(made)}


def record(
    name: str,
    pair: Pair,
    common: Sequence[str],
    teachers: Sequence[tuple[str, float]],
    done: Mapping[str, Sequence[Mapping[str, Any]]],
    commands: Mapping[str, str],
) -> dict[str, Any]:
    """One data set's, of what is done so far."""
    table = {
        arm: {
            "words": commands[arm],
            "accuracy": spread([run["accuracy"][ROW] for run in runs]),
            "steps": runs[0]["steps"],
            "bytes": runs[0]["bytes"],
            "seconds": statistics.fmean(run["seconds"] for run in runs),
        }
        for arm, runs in done.items()
    }
    return {
        "what": f"students on {name}: {pair.teacher} to {pair.student}",
        "command": f"ddcore train {' '.join(w if not w.startswith('npz:') else 'npz:SUBSET' for w in common)} --student {pair.student}",
        "teachers": [score for _, score in teachers],
        "table": table,
        "claims": [judged(claim, done) for claim in claims(list(done)) if known(claim, done)],
        **machine(),
    }


def keep(name: str, found: dict[str, Any]) -> None:
    """Put one data set's record beside the others'."""
    file = RESULTS / "kd_variants.json"
    whole = (
        json.loads(file.read_text()) if file.exists() else {"what": "variants of knowledge distillation", "sets": {}}
    )
    whole["sets"][name] = found
    write("kd_variants", whole)


def main() -> None:
    """Run the arms that were asked for, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--arm", action="append", choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/kd"), help="where the runs are kept")
    parser.add_argument("--tiny", action="store_true", help="just to see that it works; writes no record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.data:
        arms = [arm for arm in given.arm or ARMS if arm not in PAIRS[name].leaves_out]
        found = measured(name, arms, 1 if given.tiny else given.seeds, given.folder, given.tiny)
        for arm, row in found["table"].items():
            print(
                f"{arm:<22} {100 * row['accuracy']['mean']:.1f} ± {100 * row['accuracy']['std']:.1f}  {row['steps']} steps"
            )
        for claim in found["claims"]:
            print(
                f"{claim['verdict']:<10} {100 * claim['mean']:+.1f} ± {100 * claim['standard_error']:.1f}  {claim['claim']}"
            )


if __name__ == "__main__":
    main()
