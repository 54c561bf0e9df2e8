"""A picture of the distilled set: each class's most frequent trees, with how many graphs they occur in."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ddcore_graphs.preview import LARGEST, SHOWN, Drawing, sheet

from ddcore_mirage.forest import Pattern
from ddcore_mirage.trees import Tree, size


def most_frequent(patterns: Sequence[Pattern], cls: int) -> list[tuple[Tree, int]]:
    """A class's trees of more than one node, the most frequent first, with their largest support."""
    support: dict[Tree, int] = {}
    for pattern in patterns:
        for tree in pattern.trees if pattern.cls == cls else ():
            support[tree] = max(support.get(tree, 0), pattern.support)
    shown = [(tree, n) for tree, n in support.items() if 1 < size(tree) <= LARGEST]
    return sorted(shown, key=lambda pair: -pair[1])[:SHOWN]


def positions(tree: Tree) -> list[tuple[float, int, int, Hashable]]:
    """Place across (leaves at 0, 1, 2, ..., others amid their children), depth,
    parent's number (-1) and label of each node."""
    nodes: list[tuple[float, int, int, Hashable]] = []
    leaves = 0

    def place(node: Tree, depth: int, parent: int) -> float:
        nonlocal leaves
        at = len(nodes)
        nodes.append((0.0, depth, parent, node[0]))
        below = [place(child, depth + 1, at) for _, child in node[1]]
        across = sum(below) / len(below) if below else float(leaves)
        leaves += not below
        nodes[at] = (across, depth, parent, node[0])
        return across

    place(tree, 0, -1)
    return nodes


def preview_png(patterns: Sequence[Pattern], class_names: Sequence[str], title: str) -> bytes:
    """The sheet as PNG, a row for each class; nodes of the same label have the same colour and first number."""
    rows = []
    for cls, name in enumerate(class_names):
        drawn = [_drawing(tree, support) for tree, support in most_frequent(patterns, cls)]
        rows.append((f"class {name}" if drawn else f"class {name}: single nodes only", drawn))
    return sheet(rows, title)


def _drawing(tree: Tree, support: int) -> Drawing:
    nodes = positions(tree)
    edges = [(at, parent) for at, (_, _, parent, _) in enumerate(nodes) if parent >= 0]
    return Drawing([(x, y) for x, y, _, _ in nodes], edges, [node[3] for node in nodes], f"in {support:,} graphs")
