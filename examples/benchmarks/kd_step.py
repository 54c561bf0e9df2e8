"""A step of `kd` in ddcore beside the same step written by hand, and beside one whose teacher answers are stored.

Teacher resnet20, student resnet8, batches of 64 images of 32x32 pixels, SGD with momentum, T = 4. By hand: fetch rows, teacher
forward without gradient, student forward and backward, step; the teacher's and the student's passes are ddcore's own way of passing
images (channels-last), so that what is compared is the frame around them. ``stored`` has the teacher's logits among its labels. All
are timed alternately in this process.

    python examples/benchmarks/kd_step.py [--rounds 5] [--steps 20] [--threads 2]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from records import machine, write
from torch.nn import functional as F

from ddcore.composing.selection import select, setup_from
from ddcore.images import Draw
from ddcore.labels import HardLabels, Labels, PerViewLabels, draw_views, make_per_view
from ddcore.networks import channels_last, quick_norms
from ddcore.runs.run import Run
from ddcore.scoring.evaluate import hard_labels
from ddcore.storage import Place
from ddcore.training import Changes, Descent, train_student
from ddcore.training.shaping import shaped

TEACHER, STUDENT = "resnet20", "resnet8"
BATCH, RATE, TEMPERATURE, WEIGHT, LABEL_WEIGHT = 64, 0.05, 4.0, 0.9, 0.1


def run_of(folder: Path, threads: int, images: int) -> Run:
    """A student of random colour images with the kd plugin."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(images) % 10
    np.savez(folder / "data.npz", x_train=pixels, y_train=labels, x_test=pixels[:100], y_test=labels[:100])
    given = {
        "plugins": ("dm", "kd"),
        "dataset": f"npz:{folder / 'data.npz'}",
        "network": STUDENT,
        "threads": threads,
        "teachers__networks": (TEACHER,),
        "teachers__epochs": 1,
        "teachers__check": False,
        "cache": str(folder / "cache"),
    }
    return Run(
        setup_from(select(["--plugin", "dm", "--plugin", "kd", "--preset", "none"], {}), given, {}),
        Place.at(folder / "run"),
    )


def ours(run: Run, labels: Labels, steps: int) -> float:
    """Seconds of so many steps as ``ddcore train`` makes them."""
    network = run.network(run.generator("init"))
    images = run.real.train
    descent = Descent(steps=steps, batch=BATCH, rate=RATE, momentum=0.9, weight_decay=5e-4)
    with shaped(run, network, images, labels, run.generator, steps, RATE) as shape:
        start = time.perf_counter()
        train_student(
            network,
            images,
            labels,
            descent,
            generator=run.generator,
            changes=Changes(reshape=shape.reshape, also=shape.beside),
        )
        return time.perf_counter() - start


def by_hand(run: Run, steps: int) -> float:
    """Seconds of the same steps in a plain loop."""
    network, teacher = run.network(run.generator("init")), run.teachers.network(0)
    optimizer = torch.optim.SGD(network.parameters(), RATE, 0.9, weight_decay=5e-4, fused=True)
    network.train()
    start = time.perf_counter()
    for index in torch.randperm(len(run.real.train), generator=run.generator("order", 0)).split(BATCH)[:steps]:
        images, classes = channels_last(run.real.train.inputs(index)), run.real.train.labels[index]
        with torch.no_grad():
            told = teacher(images)
        with quick_norms(images):
            logits = network(images)
        soft = F.kl_div((logits / TEMPERATURE).log_softmax(1), (told / TEMPERATURE).softmax(1), reduction="batchmean")
        loss = LABEL_WEIGHT * F.cross_entropy(logits, classes) + WEIGHT * TEMPERATURE**2 * soft
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def stored(run: Run) -> PerViewLabels:
    """The teacher's logits for every image, unchanged, in batches of one epoch."""
    images = run.real.train.inputs(torch.arange(len(run.real.train)))
    draw, classes = Draw(crop="none", flip=0.0, mix="none"), run.real.train.labels
    views = draw_views(images, 1, BATCH, run.generator("views"), draw)
    return make_per_view(images, run.teachers.network(0), views, classes=classes).stored()


def main() -> None:
    """Time all three, alternately, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="just to see that it works; writes no record")
    given = parser.parse_args()
    rounds, steps = (1, 2) if given.tiny else (given.rounds, given.steps)
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(Path(folder), given.threads, BATCH * steps)
        hard: HardLabels = hard_labels(run.real.train.labels, run)
        kept = stored(run)
        seconds: dict[str, list[float]] = {"ours": [], "by hand": [], "stored": []}
        for number in range(rounds + 1):
            for name in seconds:
                took = (
                    by_hand(run, steps) if name == "by hand" else ours(run, kept if name == "stored" else hard, steps)
                )
                if number:
                    seconds[name].append(took / steps)
    hand = seconds["by hand"]
    ratios = {name: [a / b for a, b in zip(seconds[name], hand, strict=True)] for name in ("ours", "stored")}
    record = {
        "what": f"a kd step, {TEACHER} to {STUDENT}, {BATCH} images of 32x32: seconds over those of the same written by hand",
        "seconds": {name: median(found) for name, found in seconds.items()},
        "ratio": {name: {"median": median(found), "values": found} for name, found in ratios.items()},
        **machine(),
        "threads": given.threads,
    }
    if not given.tiny:
        write("kd_step", record)
    print(json.dumps(record["ratio"], indent=2))


if __name__ == "__main__":
    main()
