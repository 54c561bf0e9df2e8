"""The suite's leaderboard as a picture: a panel a column, methods from the best mean rank down, all real images as a line.

    ddcore bench examples/benchmarks/suite.toml --out runs/suite --jobs 2
    python examples/benchmarks/suite_picture.py runs/suite

copies the leaderboard and its records to ``results/suite`` and draws ``results/suite.svg``.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from records import RESULTS

from ddcore.pages.leaderboard import heading

ALL = "all real images"
BASELINES = ("random", "k-center")


def main() -> None:
    """Copy, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where ddcore bench wrote its leaderboard")
    folder = parser.parse_args().folder
    kept = RESULTS / "suite"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder / "records", kept / "records")
    for file in sorted(folder.glob("leaderboard.*")):
        shutil.copy(file, kept)
    draw(json.loads((kept / "leaderboard.json").read_text()), RESULTS / "suite.svg")


def draw(board: Mapping[str, Any], file: Path) -> None:
    """Accuracy with its deviation over seeds; a line for students on all real images."""
    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["svg.hashsalt"] = "suite"
    methods = [row for row in board["rows"] if not row["name"].startswith(ALL)][::-1]
    wholes = [row for row in board["rows"] if row["name"].startswith(ALL)]
    figure, axes = plt.subplots(1, len(board["columns"]), figsize=(12, 3.6), sharey=True)
    for number, (axis, column) in enumerate(zip(axes, board["columns"], strict=True)):
        for at, row in enumerate(methods):
            cell = row["cells"][str(number)]
            colour = "0.55" if row["name"].startswith(BASELINES) else "C0"
            axis.errorbar(100 * cell["mean"], at, xerr=100 * cell["std"], fmt="o", color=colour, capsize=3)
        for row in wholes:
            if str(number) in row["cells"]:
                axis.axvline(100 * row["cells"][str(number)]["mean"], color="C3", linestyle="--", linewidth=1)
        axis.set(title=heading(column).replace(", ", "\n"), xlabel="accuracy, %")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(methods)), [row["name"].partition(", 2")[0] for row in methods])
    figure.suptitle("dashed: all real images; grey: real images chosen at random and by k-center", fontsize=9)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
