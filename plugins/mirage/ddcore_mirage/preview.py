"""A picture of the distilled set: each class's most frequent trees, with how many graphs they occur in."""

from __future__ import annotations

import io
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from ddcore_mirage.forest import Pattern
from ddcore_mirage.trees import Tree, size

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SHOWN, LARGEST = 5, 40
WIDTH, HEIGHT, MARGIN, ROUND = 200, 150, 16, 4
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (150, 150, 150)
COLOURS = ((59, 125, 216), (217, 141, 0), (46, 139, 87), (190, 60, 60), (120, 80, 180), (90, 90, 90))


def most_frequent(patterns: Sequence[Pattern], cls: int) -> list[tuple[Tree, int]]:
    """A class's trees of more than one node, the most frequent first, with their largest support."""
    support: dict[Tree, int] = {}
    for pattern in patterns:
        for tree in pattern.trees if pattern.cls == cls else ():
            support[tree] = max(support.get(tree, 0), pattern.support)
    shown = [(tree, n) for tree, n in support.items() if 1 < size(tree) <= LARGEST]
    return sorted(shown, key=lambda pair: -pair[1])[:SHOWN]


def positions(tree: Tree) -> list[tuple[float, int, int, Hashable]]:
    """Place across (leaves at 0, 1, 2, ..., others amid their children), depth, parent's number (-1) and label of each node."""
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
    from PIL import Image, ImageDraw

    rows = [most_frequent(patterns, cls) for cls in range(len(class_names))]
    image = Image.new("RGB", (2 * MARGIN + SHOWN * WIDTH, 3 * MARGIN + len(rows) * (HEIGHT + MARGIN)), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN // 2), title, INK)
    labels = sorted({node[3] for row in rows for tree, _ in row for node in positions(tree)})  # type: ignore[type-var]
    colours = {label: COLOURS[at % len(COLOURS)] for at, label in enumerate(labels)}
    for at, (name, row) in enumerate(zip(class_names, rows, strict=True)):
        top = 2 * MARGIN + at * (HEIGHT + MARGIN)
        draw.text((MARGIN, top), f"class {name}" if row else f"class {name}: single nodes only", INK)
        for column, (tree, support) in enumerate(row):
            corner = (MARGIN + column * WIDTH, top + MARGIN)
            _draw(draw, tree, corner, colours)
            draw.text((corner[0], top + HEIGHT - MARGIN // 2), f"in {support:,} graphs", FAINT)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _draw(draw: ImageDraw, tree: Tree, corner: tuple[int, int], colours: dict[Hashable, tuple[int, int, int]]) -> None:
    nodes = positions(tree)
    across, deep = max(1.0, max(n[0] for n in nodes)), max(n[1] for n in nodes)
    wide, high = WIDTH - 2 * MARGIN, HEIGHT - 3 * MARGIN
    points = [(corner[0] + ROUND + wide * x / across, corner[1] + ROUND + high * y / deep) for x, y, _, _ in nodes]
    for (x, y), (_, _, parent, _) in zip(points, nodes, strict=True):
        if parent >= 0:
            draw.line([(x, y), points[parent]], FAINT)
    for (x, y), (_, _, _, label) in zip(points, nodes, strict=True):
        draw.ellipse([x - ROUND, y - ROUND, x + ROUND, y + ROUND], colours[label])
        draw.text((x + ROUND + 1, y - ROUND), str(label[0] if isinstance(label, tuple) else label), INK)
