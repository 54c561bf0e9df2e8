"""A picture of a set: images in class rows, titled, at their true colours."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

LEAST_SIDE = 48
MOST_COLUMNS = 20
MOST_ROWS = 40
GAP = 4
MARGIN = 12
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)


def preview_png(images: Tensor, classes: Tensor, names: Sequence[str], title: str) -> bytes:
    """PNG bytes.

    Args:
        images: (N, C, H, W) in [0, 1], 1 or 3 channels.
        classes: (N,) int64.
        names: of the classes.
        title: one line above the rows.

    At most ``MOST_COLUMNS`` images a class and ``MOST_ROWS`` classes are shown; the rest is counted.
    """
    from PIL import Image, ImageDraw, ImageFont

    shown = [c for c in range(len(names)) if bool((classes == c).any())]
    rows = {c: (classes == c).nonzero()[:, 0][:MOST_COLUMNS] for c in shown[:MOST_ROWS]}
    most = max((int((classes == c).sum()) for c in shown), default=0)
    zoom = max(1, -(-LEAST_SIDE // max(1, images.shape[-1])))
    side = zoom * images.shape[-1]
    font, bold = ImageFont.load_default(14), ImageFont.load_default(17)
    label_width = max([int(font.getlength(_short(names[c]))) for c in rows] or [0]) + MARGIN
    columns = max((len(index) for index in rows.values()), default=0)
    notes = _notes(len(shown), most)
    width = max(2 * MARGIN + label_width + columns * (side + GAP), 2 * MARGIN + int(bold.getlength(title)))
    top = MARGIN + 28
    height = top + len(rows) * (side + GAP) + MARGIN + 20 * len(notes)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 2), title, fill=INK, font=bold)
    for at, (cls, index) in enumerate(rows.items()):
        y = top + at * (side + GAP)
        pen.text((MARGIN, y + side // 2 - 8), _short(names[cls]), fill=INK, font=font)
        for column, row in enumerate(index.tolist()):
            sheet.paste(_picture(images[row], side), (MARGIN + label_width + column * (side + GAP), y))
    for at, note in enumerate(notes):
        pen.text((MARGIN, top + len(rows) * (side + GAP) + 2 + 20 * at), note, fill=FAINT, font=font)
    held = io.BytesIO()
    sheet.save(held, format="PNG")
    return held.getvalue()


def _picture(image: Tensor, side: int) -> Image:
    from PIL import Image

    levels: Any = (image.clamp(0, 1) * 255).round().byte().cpu()
    array = levels[0].numpy() if len(levels) == 1 else levels[:3].permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array).convert("RGB").resize((side, side), Image.Resampling.NEAREST)


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "\u2026"


def _notes(classes: int, most: int) -> list[str]:
    notes = []
    if most > MOST_COLUMNS:
        notes.append(f"the first {MOST_COLUMNS} of up to {most} images of each class")
    if classes > MOST_ROWS:
        notes.append(f"the first {MOST_ROWS} of {classes} classes")
    return notes
