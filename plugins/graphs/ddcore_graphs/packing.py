"""Sets of graphs as plain tensors, as an artifact keeps them, and what they cost.

Shape letters: G graphs, V nodes, F features of a node, U undirected edges, D features of an edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import Tensor

from ddcore import InputError, Synthetic
from ddcore_graphs import OPERATION
from ddcore_graphs.graphs import Graphs, starts_of
from ddcore_graphs.preview import preview_png

if TYPE_CHECKING:
    from ddcore import Run

DECODER = ({"op": OPERATION, "distribution": "ddcore-graphs"},)
"""How ``pack_graphs``'s tensors become samples, for ``Learn`` and ``Synthetic``."""
PLAIN = ("node", "end_a", "end_b", "bond", "node_count", "bond_count", "class")
"""Tensors of one axis: whole numbers from 0 on."""


def pack_graphs(graphs: Graphs, classes: Tensor) -> dict[str, Tensor]:
    """Undirected graphs as tensors, compactly: distinct rows once, each undirected bond once, whole numbers in the
    smallest type.

    Returns:
        ``node_rows`` (rows, F) and ``edge_rows`` (rows, D); ``node`` (V,), numbers of rows; ``end_a``, ``end_b`` (U,),
        within the graph, and ``bond`` (U,) of each bond; ``node_count``, ``bond_count`` and ``class`` (G,). Rows keep
        their type if it is floating.
    """
    once = graphs.edges[0] <= graphs.edges[1]
    graph_of = graphs.graph_of
    ends = (graphs.edges - graphs.node_starts[graph_of[graphs.edges[0]]])[:, once]
    node_rows, node = distinct(graphs.nodes)
    edge_rows, bond = distinct(graphs.bonds[once])
    held = {
        "node_rows": node_rows,
        "edge_rows": edge_rows,
        "node": node,
        "end_a": ends[0],
        "end_b": ends[1],
        "bond": bond,
    }
    held |= {"node_count": graphs.node_starts.diff(), "class": classes}
    held["bond_count"] = torch.bincount(graph_of[graphs.edges[0][once]], minlength=len(graphs))
    return {name: t.contiguous() if t.is_floating_point() else smallest(t.long()) for name, t in held.items()}


def unpack_graphs(tensors: Mapping[str, Tensor]) -> tuple[Graphs, Tensor]:
    """The graphs of ``pack_graphs``'s tensors, each bond in both directions, and their classes (G,) int64.

    Raises:
        InputError: the tensors do not describe graphs: one is missing, or points to what is not there.
    """
    try:
        held = {name: _whole(tensors[name], name) for name in PLAIN}
        nodes, bonds = _rows(tensors["node_rows"], held["node"]), _rows(tensors["edge_rows"], held["bond"])
        node_count, bond_count, count = held["node_count"], held["bond_count"], len(held["class"])
        if len(node_count) != count or len(bond_count) != count:
            raise ValueError(f"{count} classes, and counts of {len(node_count)} and {len(bond_count)} graphs")
        if int(node_count.sum()) != len(nodes) or int(bond_count.sum()) != len(bonds):
            raise ValueError("the counts do not add up to nodes and bonds")
        ends = torch.stack([held["end_a"], held["end_b"]])
        graph_of = torch.repeat_interleave(torch.arange(count), bond_count)
        if (ends >= node_count[graph_of]).any():
            raise ValueError("a bond ends outside its graph")
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise InputError(f"these tensors are no set of graphs ({error}): restore a copy or distil again") from error
    ends = ends + starts_of(node_count)[:-1][graph_of]
    apart = ends[0] != ends[1]
    edges = torch.cat([ends, ends[:, apart].flip(0)], 1)
    owner = torch.cat([graph_of, graph_of[apart]])
    order = owner.argsort(stable=True)
    edge_starts = starts_of(torch.bincount(owner, minlength=count))
    both = torch.cat([bonds, bonds[apart]])[order]
    return Graphs(nodes, edges[:, order], both, starts_of(node_count), edge_starts), held["class"]


def as_synthetic(tensors: Mapping[str, Tensor], run: Run, notes: tuple[str, ...] = ()) -> Synthetic:
    """A finished set of graphs, with its picture, for ``ddcore_assemble``.

    Args:
        tensors: as ``pack_graphs`` makes them.
    """
    graphs, classes = unpack_graphs(tensors)
    preview = preview_png(graphs, classes, run.source.classes, f"{run.source.name}: graphs of each class")
    return Synthetic(tensors, {}, DECODER, classes, preview=preview, notes=notes)


class StoredGraphs:
    """The decoder operation ``{"op": "graphs"}``: sample i is graph i."""

    def count(self, tensors: Mapping[str, Tensor], spec: Mapping[str, object], before: int | None) -> int:
        """Graphs that are stored."""
        return len(unpack_graphs(tensors)[1])

    def sample(
        self, tensors: Mapping[str, Tensor], spec: Mapping[str, object], index: Tensor, before: object
    ) -> Graphs:
        """The graphs at ``index`` as ``Graphs``."""
        return unpack_graphs(tensors)[0].select(index)


def elements(graphs: Graphs) -> int:
    """Numbers written out: nodes times features plus edges times their features."""
    return graphs.nodes.numel() + graphs.bonds.numel()


def smallest(tensor: Tensor) -> Tensor:
    """The same whole numbers in the smallest of uint8, int16, int32 and int64 that holds them.

    >>> smallest(torch.tensor([3, 255])).dtype, smallest(torch.tensor([-1, 255])).dtype
    (torch.uint8, torch.int16)
    """
    low, high = (int(tensor.min()), int(tensor.max())) if tensor.numel() else (0, 0)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return tensor.to(dtype)
    return tensor


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of a safetensors file, header and all."""
    return len(save({name: tensor.contiguous() for name, tensor in tensors.items()}, {}))  # as the core writes it


def distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``unique`` over rows, also where there are no columns or no rows: distinct ones and the number of each."""
    if rows.numel() == 0:
        return rows[:1], torch.zeros(len(rows), dtype=torch.int64)
    found: tuple[Tensor, Tensor] = rows.unique(dim=0, return_inverse=True)
    return found


def _whole(tensor: Tensor, name: str) -> Tensor:
    if tensor.dim() != 1 or tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"{name} is no row of whole numbers")
    if tensor.numel() and int(tensor.min()) < 0:
        raise ValueError(f"{name} has a number below 0")
    return tensor.long()


def _rows(rows: Tensor, index: Tensor) -> Tensor:
    if rows.dim() != 2 or (len(index) and int(index.max()) >= len(rows)):
        raise ValueError(f"{tuple(rows.shape)} rows, of which others are named")
    return rows[index]
