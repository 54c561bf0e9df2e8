"""Encoded rows as a table again: CSV, and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddcore_tabular.encoding import Encoding

MOST_ROWS, MOST_COLUMNS, MOST_LETTERS = 24, 10, 16
LINE, MARGIN, LETTERS = 20, 12, 13
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (150, 150, 150)


def csv_text(encoding: Encoding, rows: Tensor, classes: Tensor, names: Sequence[str], label: str) -> str:
    """Rows (N, D) of classes (N,) as CSV: columns by their names, the label last, nothing where a cell is missing."""
    table = encoding.decoded(rows)
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    writer.writerow([*table, label])
    for at, cls in enumerate(classes.tolist()):
        writer.writerow([*("" if cells[at] is None else cells[at] for cells in table.values()), names[cls]])
    return held.getvalue()


def preview_png(encoding: Encoding, rows: Tensor, classes: Tensor, names: Sequence[str], label: str) -> bytes:
    """The first rows of each class, as a table, as PNG; what does not fit is counted."""
    shown = _first(classes)
    table = encoding.decoded(rows[shown])
    columns = list(table)[:MOST_COLUMNS]
    more = len(table) - len(columns)
    head = [label, *columns, *([f"+{more} columns"] if more else [])]
    cells = [
        [names[int(classes[row])], *(table[name][at] for name in columns), *([""] if more else [])]
        for at, row in enumerate(shown.tolist())
    ]
    lines = [[_short(cell) for cell in line] for line in (head, *cells)]
    font = ImageFont.load_default(LETTERS)
    widths = [max(int(font.getlength(line[at])) for line in lines) + MARGIN for at in range(len(head))]
    left = len(classes) - len(shown)
    size = sum(widths) + 2 * MARGIN, (len(lines) + bool(left)) * LINE + 2 * MARGIN
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        across = MARGIN
        for word, width in zip(line, widths, strict=True):
            pen.text((across, MARGIN + row * LINE), word, INK if row else FAINT, font=font)
            across += width
    if left:
        pen.text((MARGIN, MARGIN + len(lines) * LINE), f"+{left} rows", FAINT, font=font)
    held = io.BytesIO()
    sheet.save(held, "PNG", optimize=True)
    return held.getvalue()


def _first(classes: Tensor) -> Tensor:
    """Which rows are shown: as many of each class, of the first ones."""
    present = classes.unique().tolist()
    each = max(1, MOST_ROWS // max(1, len(present)))
    return torch.cat([(classes == cls).nonzero()[:each, 0] for cls in present])[:MOST_ROWS]


def _short(cell: Any) -> str:
    text = "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"
