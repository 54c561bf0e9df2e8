"""The network of tables: a multi-layer perceptron.

The baseline of Gorishniy, Rubachev, Khrulkov and Babenko (NeurIPS 2021, arXiv:2106.11959), without dropout, so that
students of one seed are the same bits. Shape letters: B rows, D places, W width, K classes.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from ddcore import InputError

MLP = "tab-mlp"
NAME = re.compile(r"tab-mlp(-d(?P<depth>\d+))?(-w(?P<width>\d+))?")
DEPTH, WIDTH = 2, 128


class TabMLP(nn.Module):
    """``depth`` layers of ``width`` with ReLU, then a linear one."""

    def __init__(self, places: int, classes: int, depth: int = DEPTH, width: int = WIDTH) -> None:
        super().__init__()
        sizes = [places, *[width] * depth]
        layers = zip(sizes, sizes[1:], strict=False)
        self.body = nn.Sequential(*(part for one, next_ in layers for part in (nn.Linear(one, next_), nn.ReLU())))
        self.classifier = nn.Linear(width, classes)

    def embed(self, rows: Tensor) -> Tensor:
        """The classifier's input (B, W) of rows (B, D)."""
        return self.body(rows)  # type: ignore[no-any-return]

    def forward(self, rows: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.classifier(self.embed(rows))  # type: ignore[no-any-return]


def network(name: str, shape: tuple[int, ...], classes: int) -> nn.Module | None:
    """``tab-mlp-dDEPTH-wWIDTH``; None of another name.

    Raises:
        InputError: no layer, no width, or samples that are no rows (D,).
    """
    found = NAME.fullmatch(name)
    if found is None:
        return None
    depth, width = int(found["depth"] or DEPTH), int(found["width"] or WIDTH)
    if not depth or not width:
        raise InputError(f"network {name!r} has no layers or no width: give 1 at least, such as tab-mlp-d2-w128")
    if len(shape) != 1:
        raise InputError(f"network {name!r} is of table rows (D,), and samples here are {shape}: give another network")
    return TabMLP(shape[0], classes, depth, width)
