"""Accuracy against bytes: methods that reach large data by teachers and their labels, each beside random images with the same labels.

``cifar10``: the JPEG copy, all classes, 10 images a class, ConvNet-3 with batch norm of width 16 for teachers and students.
``tiny``: Tiny-ImageNet's 50 classes at 32x32 pixels, the same.
One student recipe for all rows of a table (AdamW, batches of 16 that batch norm sees in groups of 8, CV-DD's); teachers are trained
once and given to every run as weights, those of hello again for its weak copies. Images, labels and models are counted as stored.
Not the papers' settings: minutes a run, so directions. The record is ``labels.json``, the picture ``labels.svg``. Call again to go
on where it stopped.

    python examples/benchmarks/labels.py cifar10 tiny
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arms import Claim, Study, judged, known, one_run, spread
from records import RESULTS, machine, write

from ddcore.composing.selection import select, setup_from
from ddcore.runs.run import Run
from ddcore.storage import Place
from ddcore.training import members_of
from ddcore.training.teachers import folder

DATA = {
    "cifar10": ("--dataset", "parquet:../shared/data/cifar10-jpeg"),
    "tiny": ("--dataset", "parquet:../shared/data/tiny-imagenet-50", "--resize", "32"),
}
NETWORK = "convnet3-bn-w16"
COMMITTEE = (NETWORK, "convnet3-bn-w12-max", "convnet2-bn-w16")
TEACHERS = {"cifar10": {"epochs": 4}, "tiny": {"epochs": 8}}
SQUEEZE = {"mix": "mixup", "batch": 64}
RECIPE = {"cifar10": ("cv-dd-cifar-60", "cv-dd-cifar-25"), "tiny": ("cv-dd-cifar-10", "cv-dd-cifar-4")}
"""Of sets of 10 images a class; of infer's decoded sets, which are larger, for about as many steps."""
STEPS = {"cifar10": 200, "tiny": 100}
"""Of recovery."""
CIFAR_ONLY = ("rded, distances", "rded, top-k", "rded, one vector")
SRE2L = ("--plugin", "sre2l", "--sre2l.crop", "resized")
RDED = ("--plugin", "rded", "--rded.pool", "100")
VIEWS = ("--labels", "per-view")
ARMS: Mapping[str, tuple[str, ...]] = {
    "sre2l": (*SRE2L, *VIEWS),
    "sre2l+cda": (*SRE2L, "--plugin", "cda", *VIEWS),
    "sre2l+dwa": (*SRE2L, "--plugin", "dwa", *VIEWS),
    "sre2l+cv-dd": (*SRE2L, "--plugin", "cv-dd"),
    "nrr-dd": (*SRE2L, "--plugin", "nrr-dd", *VIEWS),
    "nrr-dd, distances": (*SRE2L, "--plugin", "nrr-dd", "--labels", "two-distances"),
    "rded": (*RDED, *VIEWS),
    "rded, distances": (*RDED, "--labels", "two-distances"),
    "rded, top-k": (*RDED, "--labels", "top-k"),
    "rded, one vector": (*RDED, "--labels", "averaged"),
    "rded+hello": (*RDED, "--plugin", "hello"),
    "infer, static": ("--plugin", "infer"),
    "infer, dynamic": ("--plugin", "infer", *VIEWS),
    "sre2l, static": (*SRE2L, "--labels", "static-mixed"),
}
SEVERAL = {"sre2l+cv-dd": 3, "infer, static": 2, "infer, dynamic": 2}
"""How many teachers an arm has; one unless it says so."""
OWN, HARD = "own labels", "hard"


def rows_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Accuracies by "set, own labels" and "set, hard"."""
    return {f"{r['set']}, {HARD if r['labels'] == HARD else OWN}": r["accuracy"]["mean"] for r in rows}


def claims(arms: Sequence[str]) -> list[Claim]:
    """What the papers say about these arms."""
    made = "distilled, own labels"
    pairs = [
        (f"{arm} beats random images with the same labels", (arm, made), (arm, "random, own labels")) for arm in arms
    ]
    pairs += [
        (f"soft labels beat hard ones on {arm}'s images", (arm, made), (arm, "distilled, hard"))
        for arm in ("sre2l", "rded")
    ]
    pairs += [
        (f"{arm} beats sre2l", (arm, made), ("sre2l", made))
        for arm in ("sre2l+cda", "sre2l+dwa", "sre2l+cv-dd", "nrr-dd")
    ]
    for base in ("rded", "nrr-dd"):
        pairs.append((f"{base}: all logits beat two distances", (base, made), (f"{base}, distances", made)))
        hard = (f"{base}, distances", "distilled, hard")
        pairs.append((f"{base}: two distances beat hard labels", (f"{base}, distances", made), hard))
    pairs.append(("rded: a projector's labels beat hard ones", ("rded+hello", made), ("rded+hello", "distilled, hard")))
    pairs.append(("rded: stored views beat a projector's", ("rded", made), ("rded+hello", made)))
    pairs.append(("static labels hurt sre2l", ("sre2l", made), ("sre2l, static", made)))
    pairs.append(("static labels hurt infer", ("infer, dynamic", made), ("infer, static", made)))
    return [Claim(*pair) for pair in pairs]


def trained(name: str, place: Path) -> list[str]:
    """Train the committee once; files of its weights."""
    given = {"network": NETWORK, "threads": 1, "labels": "hard", "cache": str(place / "cache")}
    words = [*DATA[name], "--plugin", "sre2l", "--preset", "none"]
    data = {key.removeprefix("--"): value for key, value in zip(DATA[name][::2], DATA[name][1::2], strict=True)}
    data = {key: int(value) if key == "resize" else value for key, value in data.items()}
    options = {f"teachers__{key}": value for key, value in {**TEACHERS[name], **SQUEEZE, "networks": COMMITTEE}.items()}
    run = Run(setup_from(select(words, {}), {**given, **data, **options}, {}), Place.at(place / f"teachers-{name}"))
    print(run.teachers.said, flush=True)
    return [(folder(member, run) / "weights.safetensors").url for member in members_of(run)]


def words_of(name: str, arm: str, weights: Sequence[str]) -> tuple[str, ...]:
    """What an arm adds to the common words."""
    squeeze = {**TEACHERS[name], **SQUEEZE}
    own = [word for key, value in squeeze.items() for word in (f"--teachers.{key}", str(value))]
    own += [] if "rded" in ARMS[arm] else ["--steps", str(STEPS[name])]
    if arm == "rded+hello":
        return (*ARMS[arm], *own, "--teachers.networks", NETWORK, "--teachers.snapshots", "3", "--hello.epochs", "2")
    count = SEVERAL.get(arm, 1)
    for network, file in zip(COMMITTEE[:count], weights, strict=False):
        own += ["--teachers.networks", network, "--teachers.weights", file]
    recipe = RECIPE[name][arm.startswith("infer")]
    return (*ARMS[arm], *own, "--protocol", recipe)


def study_of(name: str, weights: Sequence[str], chosen: Sequence[str]) -> Study:
    """The arms on one data set."""
    common = (*DATA[name], "--ipc", "10", "--network", NETWORK, "--preset", "none", "--eval-seeds", "1")
    common = (*common, "--full-epochs", "1", "--threads", "1")
    arms = {arm: words_of(name, arm, weights) for arm in chosen}
    if "rded+hello" in arms:
        arms["rded+hello"] = (*arms["rded+hello"], "--protocol", RECIPE[name][0])
    return Study(f"accuracy and bytes on {name}", common, arms, tuple(claims(chosen)))


def table(done: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """By arm: spread over seeds of each row, and the bytes of the distilled set with its own labels."""
    found = {}
    for arm, runs in done.items():
        names = runs[0]["accuracy"]
        stored = next(r for r in runs[0]["rows"] if r["set"] == "distilled" and r["labels"] != HARD)
        found[arm] = {
            "labels": stored["labels"],
            "bytes": stored["bytes"],
            "images": stored["images"],
            "steps": stored["steps"],
            "accuracy": {row: spread([run["accuracy"][row] for run in runs]) for row in names},
            "seconds": statistics.fmean(run["seconds"] for run in runs),
        }
    return found


def summary(
    study: Study, done: Mapping[str, Sequence[Mapping[str, Any]]], previous: Mapping[str, Any]
) -> dict[str, Any]:
    """The record of one data set so far."""
    return {
        "what": study.what,
        "commands": {arm: f"ddcore run {' '.join([*study.common, *study.arms[arm]])} --seed SEED" for arm in done},
        "table": table(done),
        "claims": [judged(claim, done) for claim in study.claims if claim.higher[0] in done and known(claim, done)],
        **previous,
    }


def picture(record: Mapping[str, Any]) -> None:
    """Accuracy against bytes, a panel a data set, if matplotlib is here."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: pip install matplotlib")
        return
    plt.rcParams["svg.fonttype"] = "none"
    figure, axes = plt.subplots(1, len(record["sets"]), figsize=(7 * len(record["sets"]), 5), squeeze=False)
    for axis, (name, found) in zip(axes[0], record["sets"].items(), strict=True):
        for arm, row in found["table"].items():
            for label, marker in (("distilled, own labels", "o"), ("random, own labels", "x")):
                if label in row["accuracy"]:
                    score = row["accuracy"][label]
                    at = (row["bytes"]["labels"] + row["bytes"].get("models", 0), 100 * score["mean"])
                    axis.errorbar(*at, yerr=100 * score["std"], marker=marker, color="C0" if marker == "o" else "0.6")
                    if marker == "o":
                        axis.annotate(arm, at, xytext=(5, 4), textcoords="offset points", fontsize=8)
        axis.margins(x=0.25)
        axis.set(xscale="log", xlabel="bytes of labels and models, beside the images", ylabel="accuracy, %", title=name)
    axes[0][0].plot([], [], "o", color="C0", label="distilled")
    axes[0][0].plot([], [], "x", color="0.6", label="random images, same labels")
    axes[0][0].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "labels.svg", metadata={"Date": None})


def main() -> None:
    """Run the arms that were asked for, seed by seed, and write the record after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=list(DATA))
    parser.add_argument("--arm", action="append", choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only-run", type=int, metavar="SEED", help="run this seed's arms, write no record")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where the runs are kept")
    given = parser.parse_args()
    for name in given.data:
        weights = trained(name, given.folder)
        study = study_of(name, weights, given.arm or [a for a in ARMS if name == "cifar10" or a not in CIFAR_ONLY])
        done: dict[str, list[dict[str, Any]]] = {}
        for seed in range(given.seeds) if given.only_run is None else [given.only_run]:
            for arm, words in study.arms.items():
                found, _ = one_run([*study.common, *words, "--seed", str(seed)], seed, given.folder)
                found["accuracy"] = rows_of(found["rows"])
                done.setdefault(arm, []).append(found)
                if given.only_run is not None:
                    continue
                keep(name, summary(study, done, {"seeds": seed + 1, **machine()}))
    if given.only_run is None:
        picture(json.loads((RESULTS / "labels.json").read_text()))


def keep(name: str, found: dict[str, Any]) -> None:
    """Put one data set's record beside the others'."""
    file = RESULTS / "labels.json"
    record = json.loads(file.read_text()) if file.exists() else {"what": "accuracy against bytes", "sets": {}}
    record["sets"][name] = found
    write("labels", record)


if __name__ == "__main__":
    main()
