"""Graphs that need no file: random trees with six more nodes in a ring (class ``ring``) or in a row (class ``chain``).

Both hang on the tree by one bond and hold the same labels, so that counting labels tells nothing: what tells is how the
six are bonded, which their computation trees see.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ddcore import randomness
from ddcore_graphs.graphs import Graphs, joined, one_graph
from ddcore_graphs.sources import RINGS, GraphSource, GraphSplit

CLASSES = ("chain", "ring")
TRAIN, TEST, VALIDATION, LABELS, AROUND = 100, 50, 25, 3, 6


def rings() -> GraphSource:
    """The data set: 100 training, 50 test and 25 validation graphs of each class, always the same."""
    counts = {"train": TRAIN, "test": TEST, "validation": VALIDATION}
    train, test, validation = (_split(part, count) for part, count in counts.items())
    return GraphSource(
        name=RINGS,
        train=train,
        test=test,
        validation=validation,
        classes=CLASSES,
        origin="computed",
        licence="none needed: computed",
        described="node labels",
    )


def hung_on_a_tree(closed: bool, generator: Generator) -> Graphs:
    """A random tree of 3 to 7 nodes labelled 1 or 2, and six nodes labelled 0 0 0 1 0 0,
    the first of them bonded to it."""
    size = int(torch.randint(3, 8, (), generator=generator))
    parents = [int(torch.randint(node, (), generator=generator)) for node in range(1, size)]
    pairs = list(enumerate(parents, 1))
    pairs += [(size, int(torch.randint(size, (), generator=generator)))]
    pairs += [(size + at, size + at + 1) for at in range(AROUND - 1)]
    pairs += [(size + AROUND - 1, size)] if closed else []
    labels = torch.cat([torch.randint(1, LABELS, (size,), generator=generator), torch.tensor([0, 0, 0, 1, 0, 0])])
    ends = torch.tensor(pairs).T
    return one_graph(labels[:, None], torch.cat([ends, ends.flip(0)], 1))


def _split(part: str, count: int) -> GraphSplit:
    labels: Tensor = torch.arange(len(CLASSES)).repeat(count)
    made = [
        hung_on_a_tree(cls == 1, randomness.generator(0, RINGS, part, at)) for at, cls in enumerate(labels.tolist())
    ]
    return GraphSplit(joined(made), labels)
