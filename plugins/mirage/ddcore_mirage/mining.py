"""Frequent sets of trees: which distinct trees occur together in at least so many graphs of a class.

    support(P) = number of graphs whose set of distinct trees contains P

All sets with support >= threshold are found, subsets included, by intersecting one bit set of graphs for each tree,
depth first (Eclat: Zaki, TKDE 2000); the answer is that of FP-growth, which the paper uses.

Shape letters: V nodes, G graphs.
"""

from __future__ import annotations

import math

import numpy as np
from attrs import frozen
from numpy.typing import NDArray


class TooManySets(ValueError):
    """The threshold lets more sets through than were allowed; nothing is returned."""


@frozen(order=False)
class TreeSet:
    """Trees that occur together: their numbers, ascending, and in how many graphs."""

    trees: tuple[int, ...]
    support: int


def threshold_count(threshold: float, graphs: int) -> int:
    """A threshold as a number of graphs: below 1 it is a share of the class, rounded up; from 1 on it is the number.

    >>> threshold_count(0.25, 10), threshold_count(115, 1000), threshold_count(1, 7)
    (3, 115, 1)
    """
    return max(1, math.ceil(threshold * graphs)) if threshold < 1 else int(threshold)


def supports(trees_V: NDArray[np.int64], graph_V: NDArray[np.int64]) -> dict[int, int]:
    """In how many graphs each tree occurs; how often it does in one makes no difference."""
    trees, counts = np.unique(np.unique(np.stack([trees_V, graph_V]), axis=1)[0], return_counts=True)
    return dict(zip(trees.tolist(), counts.tolist(), strict=True))


def frequent_sets(
    trees_V: NDArray[np.int64], graph_V: NDArray[np.int64], threshold: int, most: int
) -> tuple[TreeSet, ...]:
    """Every set of trees that occurs in at least ``threshold`` graphs.

    Args:
        trees_V: number of each node's tree.
        graph_V: the graph of each node.
        threshold: graphs, >= 1.
        most: sets to stop at.

    Returns:
        The most frequent first, then the smaller sets, then by their trees' numbers; empty if no tree is frequent.

    Raises:
        TooManySets: there are more than ``most``. They are counted as candidates, before any is kept, so that memory
            stays below ``most`` bit sets of the graphs.

    >>> frequent_sets(np.array([0, 1, 0, 1, 0]), np.array([0, 0, 1, 1, 2]), 2, 10)
    (TreeSet(trees=(0,), support=3), TreeSet(trees=(1,), support=2), TreeSet(trees=(0, 1), support=2))
    """
    found: list[TreeSet] = []
    waiting: list[tuple[tuple[int, ...], list[tuple[int, int]]]] = [((), _bit_sets(trees_V, graph_V, threshold, most))]
    count = len(waiting[0][1])
    while waiting:
        before, candidates = waiting.pop()
        for at, (tree, graphs) in enumerate(candidates):
            found.append(TreeSet((*before, tree), graphs.bit_count()))
            both = [(other, graphs & others) for other, others in candidates[at + 1 :]]
            together = [(other, shared) for other, shared in both if shared.bit_count() >= threshold]
            count += len(together)
            _refuse_more(count, most, threshold)
            if together:
                waiting.append(((*before, tree), together))
    return tuple(sorted(found, key=lambda s: (-s.support, len(s.trees), s.trees)))


def _refuse_more(count: int, most: int, threshold: int) -> None:
    if count > most:
        raise TooManySets(f"more than {most} sets of trees occur in {threshold} graphs or more")


def _bit_sets(
    trees_V: NDArray[np.int64], graph_V: NDArray[np.int64], threshold: int, most: int
) -> list[tuple[int, int]]:
    """The frequent trees, ascending, each with the graphs that hold it as the bits of a whole number."""
    trees, graphs = np.unique(np.stack([trees_V, graph_V]), axis=1)
    distinct, begins, counts = np.unique(trees, return_index=True, return_counts=True)
    length = int(graphs.max()) + 1 if len(graphs) else 0
    frequent = (counts >= threshold).nonzero()[0]
    _refuse_more(len(frequent), most, threshold)
    sets = []
    for where in frequent:
        bits = np.zeros(length, dtype=bool)
        bits[graphs[begins[where] : begins[where] + counts[where]]] = True
        sets.append((int(distinct[where]), int.from_bytes(np.packbits(bits).tobytes(), "big")))
    return sets
