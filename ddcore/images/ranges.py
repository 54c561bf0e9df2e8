"""One rule for a whole set: by what its deep pixels are divided, and what lies behind transparent pictures.

What is found in the train part holds for both. Never picture by picture: brightness is part of what a class looks like.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ddcore.images.pictures import CLEAR, FLOAT, TURNED, WIDE, Pictures, same_channels

DEPTHS = (2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)
"""Largest whole numbers of the types that have more than 8 bits."""
HIDDEN = 0.1
"""What is seen of transparent pictures differs from a ground by less than this share of the range: it would be lost
there."""


def one_range(train: Pictures | Tensor, test: Pictures | Tensor) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Both parts as a source holds them.

    * Whole numbers of more than 8 bits are divided by their type's largest number or, where the train part has not even
      half of that, by the train part's own largest; 128 to 255 of them are bytes in a wider type and stay bytes.
    * Floats are divided by the train part's largest, if that is above 1.
    * Transparent pictures lie on white, or on black where white would hide what is seen of them.

    Returns:
        Train and test images (N, C, H, W), both uint8 or both float32, and what a reader should know, in sentences.
        Floats below 0, NaN and infinities are left to whoever refuses them.
    """
    parts = [_as_pictures(train), _as_pictures(test)]
    notes = [*_turned(parts)]
    parts, said = _on_one_ground(parts)
    notes += said
    values = same_channels([part.values for part in parts])
    if parts[0].shape[1] != parts[1].shape[1]:
        notes.append("grey images were widened to three equal channels")
    if all(part.dtype == torch.uint8 for part in values):
        return values[0], values[1], tuple(notes)
    scaled, said = _scaled([attrs.evolve(p, values=v) for p, v in zip(parts, values, strict=True)])
    return scaled[0], scaled[1], (*notes, *said)


def _as_pictures(part: Pictures | Tensor) -> Pictures:
    if isinstance(part, Pictures):
        return part
    mark = FLOAT if part.is_floating_point() else 0
    return Pictures(part, torch.full((len(part),), mark, dtype=torch.uint8))


def _turned(parts: list[Pictures]) -> list[str]:
    turned = sum(int(part.marked(TURNED).sum()) for part in parts)
    return [f"{_pictures(turned)} turned upright, as EXIF orientation says"] if turned else []


# ---- transparency ----------------------------------------------------------------------------------------------------


def _on_one_ground(parts: list[Pictures]) -> tuple[list[Pictures], list[str]]:
    clear = sum(int(part.marked(CLEAR).sum()) for part in parts)
    if not clear:
        return parts, []
    white = _contrast(parts[0] if parts[0].marked(CLEAR).any() else parts[1]) >= HIDDEN
    note = f"{_pictures(clear)} with transparency put on {'white' if white else 'black, since white would hide them'}"
    empty = sum(int((part.opaque == 0).flatten(1).all(1).sum()) for part in parts if part.opaque is not None)
    notes = [note, *([f"{_pictures(empty)} wholly transparent"] if empty else [])]
    return (parts if white else [_on_black(part) for part in parts]), notes


def _contrast(part: Pictures) -> float:
    """Mean difference from white of what is seen of transparent pictures, a share of the range; 1 of nothing."""
    rows = part.marked(CLEAR)
    assert part.opaque is not None
    seen = float(part.opaque[rows].sum(dtype=torch.float64))
    away = float((255 - part.values[rows].float()).mean(1).sum(dtype=torch.float64))
    return away / seen if seen else 1.0


def _on_black(part: Pictures) -> Pictures:
    """On white w = a c + (1 - a), so on black it is w - (1 - a)."""
    if part.opaque is None:
        return part
    values = part.values.clone()
    for row in part.marked(CLEAR).nonzero()[:, 0].tolist():
        ground = 255 - part.opaque[row].to(torch.int16)
        values[row] = (values[row] - ground).clamp(min=0).to(values.dtype)
    return attrs.evolve(part, values=values)


# ---- depth -----------------------------------------------------------------------------------------------------------


def _scaled(parts: list[Pictures]) -> tuple[list[Tensor], list[str]]:
    """Parts of which one is floats, both brought to [0, 1], or to bytes where they are bytes in a wider type."""
    wide, notes = _divisor(parts, WIDE), []
    own = _largest(parts[0], FLOAT)
    if _are_bytes(parts, wide):
        count = sum(int(part.marked(WIDE).sum()) for part in parts)
        return [part.values.round().to(torch.uint8) for part in parts], [
            f"{_pictures(count)} of more than 8 bits hold 0 to {wide:g} only: taken for 8-bit ones"
        ]
    if wide:
        whose = "the range of their type" if wide in DEPTHS else "the largest value of the train images"
        notes.append(f"pixels of more than 8 bits divided by {wide:,.0f}, {whose}")
    if own > 1:
        notes.append(f"float pixels divided by {own:g}, the largest value of the train images")
    found, cut = [], 0
    for part in parts:
        values = part.values.float()
        by = torch.full((len(part),), 255.0)
        by[part.marked(WIDE)] = wide or 1.0
        by[part.marked(FLOAT)] = own if own > 1 else 1.0
        values = values / by[:, None, None, None]
        above = (values > 1).flatten(1).any(1) & part.marked(WIDE | FLOAT) & (by > 1)
        values[above] = values[above].clamp(max=1)
        cut += int(above.sum())
        found.append(values)
    return found, [*notes, *([f"{_pictures(cut)} of the test part reach beyond that and are cut there"] if cut else [])]


def _divisor(parts: list[Pictures], mark: int) -> float:
    """By what whole numbers of more than 8 bits are divided; 0 if there are none."""
    both = [_largest(part, mark) for part in parts]
    if max(both) <= 0:
        return float(any(part.marked(mark).any() for part in parts))
    train = both[0] or both[1]
    depth = float(next(depth for depth in DEPTHS if max(both) <= float(depth) or depth == DEPTHS[-1]))
    return train if 2 * train < depth else depth


def _are_bytes(parts: list[Pictures], wide: float) -> bool:
    floats = any(part.marked(FLOAT).any() for part in parts)
    return not floats and 128 <= wide <= 255 and max(_largest(part, WIDE) for part in parts) <= 255


def _largest(part: Pictures, mark: int) -> float:
    rows = part.marked(mark)
    if not rows.any():
        return 0.0
    largest = float((part.values if rows.all() else part.values[rows]).max())
    return largest if largest < float("inf") else 0.0


def _pictures(count: int) -> str:
    return f"{count:,} picture{'' if count == 1 else 's'}"
