"""From the graphs of a class to its frequent sets of trees, as the run's tasks do it,
and from all classes to one set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from ddcore_graphs.graphs import Graphs
from ddcore_graphs.packing import distinct
from ddcore_graphs.training import Samples
from torch import Tensor

from ddcore import InputError
from ddcore_mirage.forest import Pattern, as_graphs, pack, unpack
from ddcore_mirage.mining import TooManySets, TreeSet, frequent_sets, supports, threshold_count
from ddcore_mirage.trees import Table, Tree, grow

if TYPE_CHECKING:
    from ddcore.sets import Packed


@frozen(eq=False)
class Mined:
    """A class's frequent sets of trees.

    Attributes:
        graphs: of the class.
        asked: graphs that the threshold asked for.
        used: graphs that it was lowered to, because no tree is in as many; else as asked.
        patterns: the sets, the most frequent first.
    """

    graphs: int
    asked: int
    used: int
    patterns: tuple[Pattern, ...]


def mine(graphs: Graphs, cls: int, *, hops: int, threshold: float, most: int, degrees: bool) -> Mined:
    """The frequent sets of computation trees among graphs of one class.

    Args:
        hops: H of the trees.
        threshold: below 1 a share of the graphs, from 1 on a number of them.
        most: sets to stop at.
        degrees: whether a node's degree is part of its label.

    Raises:
        TooManySets: there are more.
    """
    rows = graphs.nodes.long()
    rows = torch.cat([rows, graphs.in_degrees[:, None]], 1) if degrees else rows
    node_rows, labels = rows.unique(dim=0, return_inverse=True)
    bond_rows, bonds = distinct(graphs.bonds.long())
    table, trees = grow(labels.numpy(), graphs.edges.numpy(), bonds.numpy(), hops)
    graph_of, asked = graphs.graph_of.numpy(), threshold_count(threshold, len(graphs))
    used = min(asked, max(supports(trees, graph_of).values()))
    found = frequent_sets(trees, graph_of, used, most)
    return Mined(len(graphs), asked, used, _patterns(found, cls, table, node_rows, bond_rows))


def mined_tensors(graphs: Graphs, cls: int, name: str, **how: float) -> tuple[dict[str, Tensor], str]:
    """What a class's task keeps, and what there is to say about its threshold.

    Raises:
        InputError: more sets than allowed.
    """
    try:
        mined = mine(graphs, cls, **how)  # type: ignore[arg-type]
    except TooManySets as error:
        raise InputError(
            f"class {name!r}: {error}; raise --mirage.threshold, or --mirage.most if that many are wanted"
        ) from error
    kept = pack(mined.patterns, edge_features=graphs.bonds.shape[1], degrees=bool(how["degrees"]))
    kept |= {"graphs": torch.tensor(mined.graphs), "asked": torch.tensor(mined.asked), "used": torch.tensor(mined.used)}
    return kept, lowered(kept, name)


def lowered(kept: Mapping[str, Tensor], name: str) -> str:
    """A sentence if a class's threshold had to be lowered, else nothing."""
    graphs, asked, used = (int(kept[key]) for key in ("graphs", "asked", "used"))
    if used == asked:
        return ""
    return f"class {name!r} has no tree in {asked} of its {graphs} graphs: its threshold was lowered to {used}"


def merged(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The classes' sets as one, in which what they share is stored once."""
    packed = [{k: v for k, v in part.items() if k not in ("graphs", "asked", "used")} for part in parts]
    patterns = [pattern for part in packed for pattern in unpack(part)]
    first = packed[0]
    return pack(patterns, edge_features=first["edge_rows"].shape[1], degrees=bool(first["degrees"]))


def training_graphs(tensors: Mapping[str, Tensor]) -> Graphs:
    """The stored sets as graphs to train on, one a set, roots marked."""
    edge_features, degrees = tensors["edge_rows"].shape[1], bool(tensors["degrees"])
    return as_graphs(unpack(tensors), edge_features=edge_features, degrees=degrees)


def samples(packed: Packed, sampling: str) -> Samples:
    """A finished set as students see it: a set of trees drawn in proportion to its support, or all alike (``even``,
    ``each``)."""
    tensors = packed.tensors
    support = tensors["set_support"].double()
    weights = support if sampling == "support" else torch.ones_like(support)
    return Samples(training_graphs(tensors), tensors["set_class"].long(), weights, packed.nbytes["total"])


class Forest:
    """The decoder operation ``{"op": "mirage-forest"}``: sample i is set i, written out as a graph."""

    def count(self, tensors: Mapping[str, Tensor], spec: Mapping[str, object], before: int | None) -> int:
        """Sets that are stored."""
        return len(tensors["set_class"])

    def sample(
        self, tensors: Mapping[str, Tensor], spec: Mapping[str, object], index: Tensor, before: object
    ) -> Graphs:
        """The sets at ``index`` as ``Graphs``."""
        return training_graphs(tensors).select(index)


def _patterns(
    found: Iterable[TreeSet], cls: int, table: Table, node_rows: Tensor, bond_rows: Tensor
) -> tuple[Pattern, ...]:
    nodes, bonds = [tuple(r) for r in node_rows.tolist()], [tuple(r) for r in bond_rows.tolist()]
    made: dict[Tree, Tree] = {}

    def with_rows(tree: Tree) -> Tree:
        if tree not in made:
            label, children = tree
            made[tree] = (nodes[label], tuple((bonds[edge], with_rows(child)) for edge, child in children))
        return made[tree]

    full: dict[int, Tree] = {}
    for number in {tree for one in found for tree in one.trees}:
        full[number] = with_rows(table.tree(number))
    return tuple(Pattern(cls, one.support, tuple(full[tree] for tree in one.trees)) for one in found)
