"""The distilled set: frequent sets of trees with class and support, as plain tensors, and as graphs to train on.

Stored once are each distinct node label and edge label (a row of features), each distinct subtree (its label, its
children) and each set (its trees, class, support); all whole numbers, in the smallest type that holds them.

Shape letters: V nodes, E edges, F features of a node, D features of an edge, P sets, S distinct subtrees.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from ddcore_graphs.graphs import Graphs, joined, starts_of
from ddcore_graphs.packing import smallest
from torch import Tensor

from ddcore import InputError
from ddcore_mirage.trees import Tree, size

MOST_NODES = 2_000_000
"""Of a set of trees in full: more do not fit the memory of a small machine."""
ROWS = ("node_rows", "edge_rows")
MOST_OF_ALL = 4_000_000
"""Of all sets together, likewise."""
MOST_HOPS = 100
"""Of a stored tree: comparing trees goes down all of them at once."""


@frozen(order=False)
class Pattern:
    """Trees that occur together in ``support`` train graphs of a class.

    The labels of a tree's nodes and edges are tuples of whole numbers: rows of features. With ``degrees`` the last
    number of a node's row is its degree in the graphs.
    """

    cls: int
    support: int
    trees: tuple[Tree, ...]


def pack(patterns: Sequence[Pattern], *, edge_features: int, degrees: bool) -> dict[str, Tensor]:
    """The patterns as tensors.

    Args:
        edge_features: D, which trees of single nodes do not tell.
        degrees: whether node rows end with a degree.

    Returns:
        ``node_rows`` (labels, F) and ``edge_rows`` (labels, D); ``subtree_label`` (S,), ``child_count`` (S,), ``child``
        and ``child_edge`` (all children, subtree by subtree); ``set_class``, ``set_support``, ``set_size`` (P,),
        ``set_tree`` (all trees, set by set); ``degrees`` (), 1 or 0.
    """
    order: dict[Tree, int] = {}
    for pattern in patterns:
        for tree in pattern.trees:
            _below(tree, order)
    nodes = {row: at for at, row in enumerate(sorted({tree[0] for tree in order}))}
    edges = {row: at for at, row in enumerate(sorted({edge for _, children in order for edge, _ in children}))}
    whole = {
        "node_rows": list(nodes),
        "edge_rows": list(edges),
        "subtree_label": [nodes[label] for label, _ in order],
        "child_count": [len(children) for _, children in order],
        "child": [order[child] for _, children in order for _, child in children],
        "child_edge": [edges[edge] for _, children in order for edge, _ in children],
        "set_class": [p.cls for p in patterns],
        "set_support": [p.support for p in patterns],
        "set_size": [len(p.trees) for p in patterns],
        "set_tree": [order[tree] for p in patterns for tree in p.trees],
    }
    packed = {name: smallest(torch.tensor(values, dtype=torch.int64)) for name, values in whole.items()}
    packed["edge_rows"] = packed["edge_rows"].reshape(len(edges), edge_features)
    return packed | {"degrees": torch.tensor(int(degrees), dtype=torch.uint8)}


def unpack(tensors: Mapping[str, Tensor]) -> tuple[Pattern, ...]:
    """The patterns of ``pack``'s tensors; equal subtrees are one object.

    Raises:
        InputError: the tensors do not describe trees: a subtree below itself, or counts that do not fit.
    """
    flat = {name: tensor.tolist() for name, tensor in tensors.items()}
    try:
        if any(tensor.numel() and int(tensor.min()) < 0 for name, tensor in tensors.items() if name not in ROWS):
            raise ValueError("a number that counts or points is below 0")
        nodes, edges = ([tuple(row) for row in flat[name]] for name in ("node_rows", "edge_rows"))
        made: list[Tree] = []
        depths: list[int] = []
        children = _cut(list(zip(flat["child_edge"], flat["child"], strict=True)), flat["child_count"])
        for label, below in zip(flat["subtree_label"], children, strict=True):
            made.append((nodes[label], tuple((edges[edge], made[child]) for edge, child in below)))
            depths.append(1 + max((depths[child] for _, child in below), default=-1))
            if depths[-1] > MOST_HOPS:
                raise ValueError(f"a tree has more than {MOST_HOPS} hops")
        trees = _cut([made[at] for at in flat["set_tree"]], flat["set_size"])
        columns = (flat["set_class"], flat["set_support"], trees)
        return tuple(Pattern(cls, n, tuple(own)) for cls, n, own in zip(*columns, strict=True))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"these tensors are no set of trees ({error!r}): restore a copy or distil again") from error


def as_graphs(patterns: Sequence[Pattern], *, edge_features: int, degrees: bool) -> Graphs:
    """Each pattern as one graph, the disjoint union of its trees, with edges from child to parent and its roots marked.

    A tree of a single node is dropped, as in the paper, unless the pattern has no other: it tells nothing of its
    neighbours.

    Raises:
        InputError: a pattern has too many nodes to be written out.
    """
    parts, every = [], 0
    for pattern in patterns:
        nodes = sum(size(tree) for tree in pattern.trees)
        every += nodes
        if nodes > MOST_NODES:
            raise InputError(
                f"a set of trees has {_shown(nodes)} nodes in full, {MOST_NODES:,} at most: lower --mirage.hops"
            )
        if every > MOST_OF_ALL:
            raise InputError(
                f"{_shown(every)} nodes are in all sets of trees, {MOST_OF_ALL:,} at most: lower --mirage.hops"
            )
        trees = [tree for tree in pattern.trees if tree[1]] or list(pattern.trees[:1])
        parts.append(_as_graph(trees, edge_features, degrees))
    return joined(parts)


def _shown(count: int) -> str:
    return f"{count:,}" if count < 10**18 else "more than 10^18"


def payload_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of tensors without a file's header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _below(tree: Tree, order: dict[Tree, int]) -> None:
    """Number the subtrees of a tree and the tree, children first."""
    if tree not in order:
        for _, child in tree[1]:
            _below(child, order)
        order[tree] = len(order)


def _cut(values: list, counts: Iterable[int]) -> list[list]:
    ends, parts = 0, []
    for count in counts:
        parts.append(values[ends : ends + count])
        ends += count
    if ends != len(values):
        raise ValueError(f"{len(values)} entries where the counts add up to {ends}")
    return parts


def _as_graph(trees: Iterable[Tree], edge_features: int, degrees: bool) -> Graphs:
    rows: list[Any] = []
    parents: list[tuple[int, int]] = []
    bonds: list[Any] = []
    roots: list[bool] = []
    for tree in trees:
        waiting: list[tuple[Tree, int, Any]] = [(tree, -1, ())]
        while waiting:
            (row, children), parent, bond = waiting.pop()
            if parent >= 0:
                parents.append((len(rows), parent))
                bonds.append(bond)
            waiting.extend((child, len(rows), edge) for edge, child in reversed(children))
            rows.append(row)
            roots.append(parent < 0)
    nodes = torch.tensor(rows, dtype=torch.int64)
    edges = torch.tensor(parents, dtype=torch.int64).reshape(-1, 2).T
    return Graphs(
        nodes[:, :-1] if degrees else nodes,
        edges,
        torch.tensor(bonds, dtype=torch.int64).reshape(len(bonds), edge_features),
        starts_of(torch.tensor([len(nodes)])),
        starts_of(torch.tensor([len(bonds)])),
        torch.tensor(roots),
        nodes[:, -1] if degrees else None,
    )
