"""Computation trees: what an L-layer message-passing network sees from a node (Gupta et al., ICLR 2024,
arXiv:2310.09486).

The tree of H hops at node v has v at its root; every node at a depth below H has one child for each neighbour in the
graph, the one it came from included:

    T_0(v) = label(v),    T_H(v) = label(v) with the children { (label(v, w), T_{H-1}(w)) : w neighbour of v }

so that trees of all nodes grow together, a hop at a time, and equal trees get equal numbers without ever being written
out (one refinement of colours a hop): a hop costs the edges of the graphs, however large the trees are.

Shape letters: V nodes, E directed edges, T distinct trees.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

Tree = tuple[Any, tuple[tuple[Any, "Tree"], ...]]
"""A label and children, each an edge's label and a tree. Children are sorted, so that equal trees compare equal."""
Key = tuple[int, tuple[tuple[int, int], ...]]
"""A tree of some hop: its label and the sorted pairs (edge label, number of a tree one hop smaller)."""


@frozen(eq=False)
class Table:
    """Every distinct tree once, by hop; ``levels[k][i]`` is tree i of k hops, whose children are trees of k - 1 hops.

    Numbers are ranks among the sorted keys, so they depend on which trees there are, never on the order of nodes or
    graphs.
    """

    levels: tuple[tuple[Key, ...], ...]

    @property
    def hops(self) -> int:
        """Of the largest trees."""
        return len(self.levels) - 1

    def tree(self, number: int, hops: int | None = None) -> Tree:
        """A tree in full; equal subtrees are one object."""
        return self._tree(number, self.hops if hops is None else hops, {})

    def _tree(self, number: int, hops: int, made: dict[tuple[int, int], Tree]) -> Tree:
        if (hops, number) not in made:
            label, children = self.levels[hops][number]
            below = tuple(sorted((edge, self._tree(child, hops - 1, made)) for edge, child in children))
            made[hops, number] = (label, below)
        return made[hops, number]


def grow(
    labels_V: NDArray[np.int64], edges_2E: NDArray[np.int64], edge_labels_E: NDArray[np.int64], hops: int
) -> tuple[Table, NDArray[np.int64]]:
    """The computation trees of all nodes, by number.

    Args:
        labels_V: whole numbers >= 0; any number of graphs, end to end.
        edges_2E: source and target; the children of a node are the sources of the edges that end at it.
        edge_labels_E: whole numbers >= 0.
        hops: H >= 0.

    Returns:
        The table of distinct trees, and the number (V,) of each node's tree of H hops.

    >>> path = np.array([[0, 1, 1, 2], [1, 0, 2, 1]])
    >>> table, trees = grow(np.array([5, 6, 5]), path, np.zeros(4, int), 2)
    >>> trees.tolist(), text(table.tree(0))
    ([0, 1, 0], '5 0 6 0 5 $ 0 5 $ $ $')
    """
    keys: list[Key] = [(int(label), ()) for label in labels_V]
    level, trees = _numbered(keys)
    levels = [level]
    for _ in range(hops):
        level, trees = _numbered(_keys(labels_V, edges_2E, edge_labels_E, trees))
        levels.append(level)
    return Table(tuple(levels)), trees


def _keys(
    labels_V: NDArray[np.int64], edges_2E: NDArray[np.int64], edge_labels_E: NDArray[np.int64], trees: NDArray[np.int64]
) -> list[Key]:
    source, target = edges_2E
    order = np.lexsort((trees[source], edge_labels_E, target))
    children = list(zip(edge_labels_E[order].tolist(), trees[source][order].tolist(), strict=True))
    ends = np.bincount(target, minlength=len(labels_V)).cumsum().tolist()
    begins = [0, *ends[:-1]]
    return [(label, tuple(children[a:b])) for label, a, b in zip(labels_V.tolist(), begins, ends, strict=True)]


def _numbered(keys: list[Key]) -> tuple[tuple[Key, ...], NDArray[np.int64]]:
    level = tuple(sorted(set(keys)))
    rank = {key: number for number, key in enumerate(level)}
    return level, np.fromiter((rank[key] for key in keys), dtype=np.int64, count=len(keys))


def text(tree: Tree) -> str:
    """Canonical form: the label, for each child in sorted order the edge's label and the child's form, then ``$``.

    Tokens are separated by spaces, so that labels 1 and 12 are not 11 and 2. Two trees are isomorphic, as rooted trees
    with labels, if and only if their texts are equal.

    >>> text((3, ((0, (5, ())), (0, (4, ())))))
    '3 0 4 $ 0 5 $ $'
    """
    label, children = tree
    return " ".join([str(label), *sorted(f"{edge} {text(child)}" for edge, child in children), "$"])


def parse(form: str) -> Tree:
    """The tree of a canonical form with whole numbers as labels.

    Raises:
        ValueError: it is no such form.
    """
    tokens = iter(form.split(" "))
    try:
        tree = _parse(int(next(tokens)), tokens)
    except StopIteration as error:
        raise ValueError(f"{form!r} ends inside a tree: every node is closed by '$'") from error
    if (more := next(tokens, None)) is not None:
        raise ValueError(f"{form!r} goes on with {more!r} after its root is closed: give one tree")
    return tree


def _parse(label: int, tokens: Iterable[str]) -> Tree:
    tokens = iter(tokens)
    children: list[tuple[int, Tree]] = []
    while (token := next(tokens)) != "$":
        children.append((int(token), _parse(int(next(tokens)), tokens)))
    return label, tuple(sorted(children))


def size(tree: Tree) -> int:
    """Nodes of a tree in full; shared subtrees are gone through once.

    >>> size((0, ((0, (1, ())), (0, (1, ())))))
    3
    """
    return _size(tree, {})


def _size(tree: Tree, known: dict[int, int]) -> int:
    if id(tree) not in known:
        known[id(tree)] = 1 + sum(_size(child, known) for _, child in tree[1])
    return known[id(tree)]
