"""Train a student on graphs or sets of trees, and score it on whole graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from attrs import frozen
from torch import Generator, Tensor, nn

from ddcore_graphs.graphs import Graphs
from ddcore_graphs.packing import file_bytes, pack_graphs
from ddcore_graphs.scores import mean_auc

TESTED_AT_ONCE = 512


@frozen(eq=False)
class Samples:
    """What a student is trained on.

    Attributes:
        weights: (G,) > 0: a sample is drawn in proportion to its weight.
        nbytes: what it costs to store.
    """

    graphs: Graphs
    classes: Tensor
    weights: Tensor
    nbytes: int


@frozen
class Descent:
    """Adam on the cross entropy: ``steps`` of ``batch`` samples.

    Attributes:
        each: take every sample once an epoch, in a random order, whatever its weight; the last batch of an epoch is
            what is left. Else samples are drawn by weight, with replacement.
    """

    steps: int
    batch: int
    rate: float
    weight_decay: float
    each: bool = False

    def epoch(self, samples: int) -> int:
        """Steps that see as many samples as there are."""
        return -(-samples // self.batch)

    def batches(self, weights: Tensor, generator: Generator) -> Iterator[Tensor]:
        """Numbers of the samples of each step, without end."""
        while self.each:
            yield from torch.randperm(len(weights), generator=generator).split(self.batch)
        while True:
            yield torch.multinomial(weights, self.batch, replacement=True, generator=generator)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one CPU thread: the many small operations of these networks gain nothing from more, and where other
    processes keep the cores busy they take a hundred times as long, waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(
    network: nn.Module,
    samples: Samples,
    descent: Descent,
    generator: Generator,
    watch: Callable[[int], None] | None = None,
) -> None:
    """Train in place, on the network's device; the graphs stay where they are, and each batch is moved there.

    Dropout draws from torch's global generator, so call this under ``randomness.drawing_from``.

    Args:
        watch: is called with the steps that were made, 0 at first, then after each epoch and the last step; it may look
            at the network, and put it into eval mode.
    """
    device = next(network.parameters()).device
    optimizer = torch.optim.Adam(network.parameters(), lr=descent.rate, weight_decay=descent.weight_decay)
    epoch, batches = descent.epoch(len(samples.classes)), descent.batches(samples.weights, generator)
    if watch:
        watch(0)
    for step, index in zip(range(1, descent.steps + 1), batches, strict=False):
        network.train()
        optimizer.zero_grad()
        logits = network(samples.graphs.select(index).to(device))
        nn.functional.cross_entropy(logits, samples.classes[index].to(device)).backward()
        optimizer.step()
        if watch and (step % epoch == 0 or step == descent.steps):
            watch(step)


@torch.no_grad()
def auc(network: nn.Module, graphs: Graphs, classes: Tensor) -> float:
    """ROC-AUC on whole graphs; see ``mean_auc``."""
    return mean_auc(logits(network, graphs).double(), classes)


@torch.no_grad()
def accuracy(network: nn.Module, graphs: Graphs, classes: Tensor) -> float:
    """Share of graphs whose class has the largest logit, in [0, 1]."""
    return float((logits(network, graphs).argmax(1) == classes).double().mean())


@torch.no_grad()
def logits(network: nn.Module, graphs: Graphs) -> Tensor:
    """Of every graph (G, K), the network in eval mode."""
    network.eval()
    device = next(network.parameters()).device
    parts = torch.arange(len(graphs)).split(TESTED_AT_ONCE)
    return torch.cat([network(graphs.select(part).to(device)).cpu() for part in parts])


def within_bytes(graphs: Graphs, classes: Tensor, budget: int, generator: Generator) -> Tensor:
    """Random graphs (n,) int64 that cost at most ``budget`` bytes: one of each class in turn, at least one of each.

    Graphs are taken in a random order of each class; as many as their file, packed by ``pack_graphs``, has room for.
    """
    count = int(classes.max()) + 1
    orders = []
    for cls in range(count):
        rows = (classes == cls).nonzero()[:, 0]
        orders.append(rows[torch.randperm(len(rows), generator=generator)].tolist())
    longest = max(map(len, orders))
    turns = [order[at] for at in range(longest) for order in orders if at < len(order)]
    fits, more = count, len(turns) + 1
    while more - fits > 1:
        some = min((fits + more) // 2, 2 * fits)
        index = torch.tensor(turns[:some])
        if file_bytes(pack_graphs(graphs.select(index), classes[index])) <= budget:
            fits = some
        else:
            more = some
    return torch.tensor(turns[:fits])
