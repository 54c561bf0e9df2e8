"""A picture of a set: images in rows by class, with a title,
enlarged without smoothing so that pixels stay what they are."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import torch
from attrs import frozen
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

LEAST_SIDE = 56
"""Pixels of the sheet; smaller images are enlarged by a whole number to at least this."""
WIDEST = 1200
MOST_ROWS = 40
GAP, MARGIN, TITLE, NOTE = 4, 12, 20, 14
SIDE, MOST_LINES, DARK = 84, 6, 0.8
"""Of pictures of rows: pixels a side, channels that have lines, and how much darker than paper what is drawn is."""
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
MOST_LETTERS = 24


@frozen
class _Layout:
    """Where things are on the sheet, in its pixels."""

    side: int
    label: int
    columns: int

    @property
    def first_row(self) -> int:
        return MARGIN + TITLE + MARGIN

    def image(self, row: int, column: int) -> tuple[int, int]:
        return MARGIN + self.label + column * (self.side + GAP), self.first_row + row * (self.side + GAP)


def preview_png(images: Tensor, classes: Tensor, class_names: Sequence[str], title: str) -> bytes:
    """The sheet as PNG; equal arguments give equal bytes.

    Args:
        images: (N, C, H, W) in [0, 1]; of other than 1 or 3 channels the mean is shown.
        classes: (N,) int64.
        class_names: of all classes; those without images get no row.
        title: one line above the rows.

    What does not fit (``MOST_ROWS`` classes, as many images of each as are ``WIDEST`` pixels wide) is counted.
    """
    present = [c for c in range(len(class_names)) if bool((classes == c).any())]
    shown = present[:MOST_ROWS]
    small, large = ImageFont.load_default(NOTE), ImageFont.load_default(TITLE)
    label = max((int(small.getlength(_short(class_names[c]))) for c in shown), default=0) + MARGIN
    layout = _layout(images, classes, shown, label)
    left_out = [max(0, int((classes == c).sum()) - layout.columns) for c in shown]
    more = [f"+{n} more" if n else "" for n in left_out]
    right = layout.image(0, layout.columns)[0] + max((int(small.getlength(text)) for text in more), default=0)
    bottom = layout.image(len(shown), 0)[1] + (NOTE + MARGIN if len(present) > len(shown) else 0)
    size = max(right, MARGIN + int(large.getlength(title))) + MARGIN, bottom + MARGIN
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN + TITLE // 2), title, fill=INK, font=large, anchor="lm")
    for row, cls in enumerate(shown):
        of_class = images[(classes == cls).nonzero()[: layout.columns, 0]]
        for column, image in enumerate(of_class):
            sheet.paste(_picture(image, layout.side), layout.image(row, column))
        _write(pen, (MARGIN, layout.image(row, 0)[1] + layout.side // 2), _short(class_names[cls]), INK)
        _write(pen, (layout.image(0, layout.columns)[0], layout.image(row, 0)[1] + layout.side // 2), more[row], FAINT)
    if len(present) > len(shown):
        _write(pen, (MARGIN, bottom - NOTE // 2), f"+{len(present) - len(shown)} more classes", FAINT)
    return _png(sheet)


def pictures_of(rows: Tensor) -> Tensor:
    """Rows of any values as pictures (N, 1, S, S) in [0, 1]: (N, D) as D bars; (N, C, L) as a line for each channel,
    the first on top, or in grey levels where there are more than ``MOST_LINES``; (N, C, H, W) in grey.

    Each channel, or number of (D,), from its least to its largest value over all rows.
    """
    channels = rows.float().transpose(0, 1).flatten(1)
    low, high = channels.amin(1), channels.amax(1)
    shape = (-1, *[1] * (rows.ndim - 2))
    level = (rows.float() - low.reshape(shape)) / (high - low).clamp(min=1e-12).reshape(shape)
    if rows.ndim == 2:
        return _bars(level)
    if rows.ndim == 3:
        return _lines(level) if rows.shape[1] <= MOST_LINES else F.interpolate(level[:, None], (SIDE, SIDE))
    return _in_reading_order(level)


def _bars(level_ND: Tensor) -> Tensor:
    """(N, 1, S, S): a dark bar from the bottom up to each number in [0, 1]; of more numbers than columns, means."""
    columns = _to_columns(level_ND[:, None], "nearest")[:, 0]
    heights = 1 - (torch.arange(SIDE) + 0.5) / SIDE
    return 1 - DARK * (columns[:, None, None, :] >= heights[:, None]).float()


def _lines(level_NCL: Tensor) -> Tensor:
    """(N, 1, S, S): each channel's course in [0, 1] as a dark line in a strip of its own."""
    tall = SIDE // level_NCL.shape[1]
    at = ((1 - _to_columns(level_NCL, "linear")) * (tall - 1)).round()
    after = torch.cat([at[..., 1:], at[..., -1:]], 2)
    rows = torch.arange(tall)[:, None]
    drawn = (rows >= torch.minimum(at, after)[:, :, None]) & (rows <= torch.maximum(at, after)[:, :, None])
    sheet = 1 - DARK * drawn.float().flatten(1, 2)
    return F.pad(sheet, (0, 0, 0, SIDE - sheet.shape[1]), value=1.0)[:, None]


def _to_columns(level_NCL: Tensor, mode: str) -> Tensor:
    """(N, C, S)."""
    if level_NCL.shape[2] > SIDE:
        return F.adaptive_avg_pool1d(level_NCL, SIDE)
    return F.interpolate(level_NCL, SIDE, mode=mode)


def _in_reading_order(level: Tensor) -> Tensor:
    """Numbers (N, ...) in as small a square as holds them, (N, 1, S, S)."""
    flat = level.flatten(1)
    side = math.isqrt(flat.shape[1] - 1) + 1
    return F.pad(flat, (0, side * side - flat.shape[1])).reshape(-1, 1, side, side)


def sheet_png(images: Tensor, columns: int, side: int | None = None) -> bytes:
    """Images without gaps, titles or enlargement, row by row, as PNG; equal arguments give equal bytes.

    Args:
        images: (N, C, H, W) in [0, 1]; of other than 1 or 3 channels the mean is shown.
        columns: images of a row.
        side: pixels of each image; its own if None.
    """
    side = int(images.shape[-1]) if side is None else side
    sheet = Image.new("RGB", (columns * side, -(-len(images) // columns) * side), PAPER)
    for at, image in enumerate(images):
        sheet.paste(_picture(image, side), (at % columns * side, at // columns * side))
    return _png(sheet)


def _png(sheet: Image.Image) -> bytes:
    held = io.BytesIO()
    sheet.save(held, format="PNG", optimize=True)
    return held.getvalue()


def _layout(images: Tensor, classes: Tensor, shown: Sequence[int], label: int) -> _Layout:
    size = int(images.shape[-1])
    side = size * -(-LEAST_SIDE // size)
    most = max((int((classes == c).sum()) for c in shown), default=0)
    return _Layout(side, label, min(most, max(1, (WIDEST - label) // (side + GAP))))


def _picture(image: Tensor, side: int) -> Image.Image:
    image = image if len(image) in (1, 3) else image.mean(0, keepdim=True)
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    array = levels[0].numpy() if len(levels) == 1 else levels.permute(1, 2, 0).contiguous().numpy()
    smooth = side < array.shape[0]
    how = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
    return Image.fromarray(array).convert("RGB").resize((side, side), how)


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, colour: tuple[int, int, int]) -> None:
    pen.text(at, text, fill=colour, font=ImageFont.load_default(NOTE), anchor="lm")


def _short(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 3] + "..."
