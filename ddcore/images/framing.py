"""How a picture of any size becomes a square: cut, padded or squashed."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, in_
from PIL import Image

Mode = Literal["crop", "pad", "squash"]
WORDS = {
    "crop": "crop: the short side to {}, then the centre",
    "pad": "pad: the long side to {}, the rest black, or the ground that transparency is put on",
    "squash": "squash: both sides to {}, whatever their proportion",
}


@frozen
class Resize:
    """To ``size`` x ``size`` pixels, by Pillow's bicubic filter, which antialiases when it shrinks.

    Attributes:
        mode: ``crop``: the short side becomes ``size`` and the centre is kept, as torchvision's ``Resize`` and
            ``CenterCrop`` do; ``pad``: the long side does, and the rest is filled; ``squash``: both do, whatever their
            proportion.
    """

    size: int = field(validator=ge(1))
    mode: Mode = field(default="crop", validator=in_(WORDS))

    @property
    def words(self) -> str:
        """What was done, for records."""
        return f"resized to {self.size}x{self.size} ({WORDS[self.mode].format(self.size)}; bicubic)"

    def apply(self, picture: Image.Image, fill: int = 0) -> Image.Image:
        """The picture as a square.

        Args:
            fill: what padding holds.
        """
        size, (width, height) = self.size, picture.size
        if (width, height) == (size, size):
            return picture
        if self.mode == "squash" or width == height:
            return _scaled(picture, size, size)
        if self.mode == "crop":
            short = min(width, height)
            wide, high = int(size * width / short), int(size * height / short)
            left, top = round((wide - size) / 2), round((high - size) / 2)
            return _window(picture, (wide, high), (left, top, left + size, top + size))
        longest = max(width, height)
        wide, high = (max(1, round(size * side / longest)) for side in (width, height))
        ground = Image.new(picture.mode, (size, size), fill if len(picture.getbands()) == 1 else (fill,) * 3)
        ground.paste(_scaled(picture, wide, high), ((size - wide) // 2, (size - high) // 2))
        return ground


def _scaled(picture: Image.Image, width: int, height: int) -> Image.Image:
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _window(picture: Image.Image, scaled: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """A box of the scaled picture; of a very long one no more is scaled than is near the box."""
    (width, height), (wide, high) = picture.size, scaled
    if max(scaled) <= 4 * (box[2] - box[0]):
        return _scaled(picture, wide, high).crop(box)
    across, down = width / wide, height / high
    window = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    return picture.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC, box=window)
