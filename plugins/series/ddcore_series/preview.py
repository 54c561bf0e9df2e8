"""A picture of a set of series: a row of small line plots for each class, all on the same axes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

WIDE, TALL = 160, 72
"""Pixels of a plot."""
GAP, MARGIN, LETTERS = 6, 12, 14
MOST_COLUMNS, MOST_ROWS = 8, 40
PAPER, INK, FRAME = (255, 255, 255), (20, 20, 20), (215, 215, 215)
COLOURS = ((0, 90, 160), (215, 95, 0), (0, 140, 95), (150, 60, 150), (130, 110, 0), (85, 85, 85))
"""Of channels, the first again after the last."""
LONGEST_NAME = 24


def preview_png(rows: Tensor, classes: Tensor, names: Sequence[str], title: str) -> bytes:
    """The sheet as PNG; equal arguments give equal bytes.

    Args:
        rows: (N, C, L) of any finite values; each channel is drawn from its least to its largest value over all series.
        classes: (N,) int64.
        names: of all classes; those without series get no row.
        title: one line above the rows; below it stands what the axes are.

    What does not fit (8 series of a class, 40 classes) is counted.
    """
    present = [cls for cls in range(len(names)) if bool((classes == cls).any())]
    shown = present[:MOST_ROWS]
    font = ImageFont.load_default(LETTERS)
    left = MARGIN + max(int(font.getlength(_short(names[cls]))) for cls in shown) + MARGIN
    columns = min(MOST_COLUMNS, max(int((classes == cls).sum()) for cls in shown))
    said = [title, _axes(rows)]
    more = f"+{len(present) - len(shown)} more classes" if len(present) > len(shown) else ""
    top = MARGIN + len(said) * (LETTERS + GAP) + GAP
    right = left + columns * (WIDE + GAP) + int(font.getlength("+999 more"))
    size = (
        max(right, *(MARGIN + int(font.getlength(text)) for text in said)) + MARGIN,
        top + len(shown) * (TALL + GAP) + (LETTERS + GAP) * bool(more) + MARGIN,
    )
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for at, text in enumerate(said):
        pen.text((MARGIN, MARGIN + at * (LETTERS + GAP)), text, fill=INK, font=font)
    points = heights(rows)
    for row, cls in enumerate(shown):
        own = (classes == cls).nonzero()[:, 0]
        y = top + row * (TALL + GAP)
        pen.text((MARGIN, y + TALL // 2), _short(names[cls]), fill=INK, font=font, anchor="lm")
        for column, at in enumerate(own[:columns].tolist()):
            _plot(pen, (left + column * (WIDE + GAP), y), points[at])
        if len(own) > columns:
            pen.text(
                (left + columns * (WIDE + GAP), y + TALL // 2),
                f"+{len(own) - columns} more",
                fill=INK,
                font=font,
                anchor="lm",
            )
    pen.text((MARGIN, top + len(shown) * (TALL + GAP)), more, fill=INK, font=font)
    held = io.BytesIO()
    sheet.save(held, format="PNG", optimize=True)
    return held.getvalue()


def heights(rows: Tensor) -> Tensor:
    """Series (N, C, L) with each channel from 0, its least value over all series, to 1, its largest; constant ones 0.5.

    >>> heights(torch.tensor([[[0.0, 5.0]], [[10.0, 0.0]]])).tolist()
    [[[0.0, 0.5]], [[1.0, 0.0]]]
    """
    low, high = (getattr(rows, end)((0, 2), keepdim=True) for end in ("amin", "amax"))
    return torch.where(high > low, (rows - low) / (high - low).clamp(min=1e-30), 0.5)


def _plot(pen: ImageDraw.ImageDraw, corner: tuple[int, int], channels: Tensor) -> None:
    """Channels (C, L) in [0, 1] as lines in a frame, the first on top."""
    x, y = corner
    pen.rectangle((x, y, x + WIDE - 1, y + TALL - 1), outline=FRAME)
    count = channels.shape[1]
    for at in reversed(range(len(channels))):
        values = channels[at].tolist()
        line = [
            (x + 2 + n * (WIDE - 5) / max(1, count - 1), y + 2 + (1 - v) * (TALL - 5)) for n, v in enumerate(values)
        ]
        pen.line(line if count > 1 else line * 2, fill=COLOURS[at % len(COLOURS)], width=1)


def _axes(rows: Tensor) -> str:
    _, channels, length = rows.shape
    if channels == 1:
        return f"{length} values, from {float(rows.min()):.3g} to {float(rows.max()):.3g}"
    return f"{channels} channels of {length} values, each from its least to its largest"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
