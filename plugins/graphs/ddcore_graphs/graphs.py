"""Many graphs, or many sets of trees, laid end to end.

Shape letters: G graphs, V nodes, E directed edges, F features of a node, D features of an edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import astuple, frozen
from torch import Tensor


@frozen(eq=False)
class Graphs:
    """Graphs end to end; an undirected edge is two directed ones.

    Attributes:
        nodes: (V, F) whole numbers, graph by graph.
        edges: (2, E) int64, source and target among all V nodes, graph by graph.
        bonds: (E, D) whole numbers; D may be 0.
        node_starts: (G + 1,) int64, where each graph's nodes begin, and V.
        edge_starts: (G + 1,) int64, where its edges begin, and E.
        roots: (V,) bool: in a set of trees, which nodes are pooled; None pools all.
        degrees: (V,) int64: of nodes in the graphs that they come from, if ``edges`` does not tell; else None.
    """

    nodes: Tensor
    edges: Tensor
    bonds: Tensor
    node_starts: Tensor
    edge_starts: Tensor
    roots: Tensor | None = None
    degrees: Tensor | None = None

    def __len__(self) -> int:
        return len(self.node_starts) - 1

    @property
    def graph_of(self) -> Tensor:
        """(V,) int64: the graph of each node."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.nodes.device), self.node_starts.diff())

    @property
    def in_degrees(self) -> Tensor:
        """(V,) int64: edges that end at each node."""
        return torch.bincount(self.edges[1], minlength=len(self.nodes))

    def to(self, device: torch.device) -> Graphs:
        """The same graphs on a device."""
        parts: list[Any] = [None if part is None else part.to(device) for part in astuple(self, recurse=False)]
        return Graphs(*parts)

    def select(self, index: Tensor) -> Graphs:
        """The graphs at ``index`` (n,) int64, in that order; a graph may come twice."""
        nodes, edges = _ranges(self.node_starts, index), _ranges(self.edge_starts, index)
        starts = starts_of(self.node_starts.diff()[index])
        moved = torch.repeat_interleave(starts[:-1] - self.node_starts[index], self.edge_starts.diff()[index])
        return Graphs(
            self.nodes[nodes],
            self.edges[:, edges] + moved,
            self.bonds[edges],
            starts,
            starts_of(self.edge_starts.diff()[index]),
            None if self.roots is None else self.roots[nodes],
            None if self.degrees is None else self.degrees[nodes],
        )


def joined(parts: Sequence[Graphs]) -> Graphs:
    """All graphs of all parts, in order; either all parts have roots and degrees or none."""
    nodes = torch.tensor([0, *(len(part.nodes) for part in parts)]).cumsum(0)
    return Graphs(
        torch.cat([part.nodes for part in parts]),
        torch.cat([part.edges + at for part, at in zip(parts, nodes[:-1], strict=True)], 1),
        torch.cat([part.bonds for part in parts]),
        starts_of(torch.cat([part.node_starts.diff() for part in parts])),
        starts_of(torch.cat([part.edge_starts.diff() for part in parts])),
        None if parts[0].roots is None else torch.cat([part.roots for part in parts if part.roots is not None]),
        None if parts[0].degrees is None else torch.cat([part.degrees for part in parts if part.degrees is not None]),
    )


def one_graph(nodes: Tensor, edges: Tensor, bonds: Tensor | None = None) -> Graphs:
    """A single graph; without ``bonds`` its edges have no features.

    >>> len(one_graph(torch.tensor([[6], [8]]), torch.tensor([[0, 1], [1, 0]])))
    1
    """
    bonds = torch.zeros(edges.shape[1], 0, dtype=torch.int64) if bonds is None else bonds
    return Graphs(nodes, edges, bonds, torch.tensor([0, len(nodes)]), torch.tensor([0, edges.shape[1]]))


def starts_of(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _ranges(starts: Tensor, index: Tensor) -> Tensor:
    """``starts[i] .. starts[i + 1]`` for every i of ``index``, one after the other."""
    lengths = starts.diff()[index]
    begin = torch.repeat_interleave(starts[index] - starts_of(lengths)[:-1], lengths)
    return begin + torch.arange(len(begin))
