"""Pictures of graphs, a row for each class."""

from __future__ import annotations

import io
import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from attrs import frozen
from torch import Tensor

from ddcore_graphs.graphs import Graphs

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SHOWN, LARGEST = 5, 40
WIDTH, HEIGHT, MARGIN, ROUND = 200, 150, 16, 4
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (150, 150, 150)
COLOURS = ((59, 125, 216), (217, 141, 0), (46, 139, 87), (190, 60, 60), (120, 80, 180), (90, 90, 90))


@frozen
class Drawing:
    """A graph to be drawn.

    Attributes:
        points: across and down of each node, from 0 on, in any unit; the largest of each fill the place there is.
        edges: pairs of nodes.
        labels: of each node; equal ones get the same colour, and the first number of one is written beside the node.
        caption: below it.
    """

    points: Sequence[tuple[float, float]]
    edges: Sequence[tuple[int, int]]
    labels: Sequence[Hashable]
    caption: str = ""


def sheet(rows: Sequence[tuple[str, Sequence[Drawing]]], title: str) -> bytes:
    """A PNG: below the title a row for each heading, ``SHOWN`` drawings of it at most."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (2 * MARGIN + SHOWN * WIDTH, 3 * MARGIN + len(rows) * (HEIGHT + MARGIN)), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN // 2), title, INK)
    labels = sorted({label for _, row in rows for drawing in row for label in drawing.labels})  # type: ignore[type-var]
    colours = {label: COLOURS[at % len(COLOURS)] for at, label in enumerate(labels)}
    for at, (heading, row) in enumerate(rows):
        top = 2 * MARGIN + at * (HEIGHT + MARGIN)
        draw.text((MARGIN, top), heading, INK)
        for column, drawing in enumerate(row[:SHOWN]):
            corner = (MARGIN + column * WIDTH, top + MARGIN)
            _draw(draw, drawing, corner, colours)
            draw.text((corner[0], top + HEIGHT - MARGIN // 2), drawing.caption, FAINT)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def preview_png(graphs: Graphs, classes: Tensor, class_names: Sequence[str], title: str) -> bytes:
    """The first graphs of each class that are not too large to draw, nodes in a circle, as PNG."""
    rows = []
    for cls, name in enumerate(class_names):
        index = ((classes == cls) & (graphs.node_starts.diff() <= LARGEST)).nonzero()[:SHOWN, 0]
        rows.append((f"class {name}", [in_a_circle(graphs.select(one[None])) for one in index]))
    return sheet(rows, title)


def in_a_circle(graph: Graphs) -> Drawing:
    """A single graph, its nodes in order around a circle; numbers that are not whole are rounded to one place."""
    count = len(graph.nodes)
    angles = [2 * math.pi * at / max(1, count) for at in range(count)]
    points = [((1 + math.sin(angle)) / 2, (1 - math.cos(angle)) / 2) for angle in angles]
    edges = [(a, b) for a, b in graph.edges.T.tolist() if a <= b]
    decimals = 1 if graph.nodes.is_floating_point() else 0
    rows = graph.nodes.double().round(decimals=decimals).tolist()
    labels = [tuple(value if decimals else int(value) for value in row) for row in rows]
    return Drawing(points, edges, labels, f"{count:,} nodes, {len(edges):,} edges")


def _draw(
    draw: ImageDraw, drawing: Drawing, corner: tuple[int, int], colours: dict[Hashable, tuple[int, int, int]]
) -> None:
    across, deep = (max(1.0, *(point[axis] for point in drawing.points)) for axis in (0, 1))
    wide, high = WIDTH - 2 * MARGIN, HEIGHT - 3 * MARGIN
    points = [(corner[0] + ROUND + wide * x / across, corner[1] + ROUND + high * y / deep) for x, y in drawing.points]
    for one, other in drawing.edges:
        draw.line([points[one], points[other]], FAINT)
    for (x, y), label in zip(points, drawing.labels, strict=True):
        draw.ellipse([x - ROUND, y - ROUND, x + ROUND, y + ROUND], colours[label])
        draw.text((x + ROUND + 1, y - ROUND), str(label[0] if isinstance(label, tuple) else label), INK)
