"""Encoded pictures and pixel arrays of any common kind, brought to one stack of images (N, C, H, W).

Grey or colour is decided by how pictures are stored, not by their content: when all are grey the stack has one channel,
and as soon as one is in colour all have three (a grey one then has three equal channels). An animation gives its first
frame. A picture is turned as its EXIF orientation says, and put on white where it is transparent. Pixels of more than 8
bits, and floats, are kept as they are stored: what range they have, and whether white is the right ground, is decided
for a whole set (``ddcore.images.ranges``).
"""

from __future__ import annotations

import io
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from threading import Lock
from typing import Any

import attrs
import numpy as np
import torch
from attrs import frozen
from PIL import Image
from torch import Tensor

from ddcore.errors import InputError, in_short
from ddcore.images.framing import Resize
from ddcore.storage.unpacking import check_growth

GREY = frozenset({"1", "L", "LA", "La"})
TRANSPARENT = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
DEEP = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
"""Modes whose pixels are whole numbers of more than 8 bits, or floats."""
LOW_BYTES = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""Pillow reads the upper byte of 16-bit colours; in the other order of bytes it reads the lower one."""
ORIENTATION = 0x0112
TURNS = dict(
    enumerate(
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        start=2,
    )
)
"""What brings a picture of an EXIF orientation upright."""
TURNED, CLEAR, WIDE, FLOAT = 1, 2, 4, 8
"""Marks of a picture: turned by its EXIF orientation; transparent somewhere; whole numbers of more than 8 bits;
floats."""
AT_ONCE = 64
AHEAD = 8

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What is decoded. Pillow knows fifty more, some by other programs that it starts: PostScript is a language."""
MOST_PIXELS = 2**26
"""Of one picture, 8192 x 8192: a few kilobytes may unpack to any number."""
ALONE = 2**22
"""Pixels of a picture from which on no other is decoded beside it."""

LARGE = 16_384
"""Mean encoded bytes above which threads pay; below, they wait for each other (measured: half as fast at 1 kB)."""

JPEG = (b"\xff\xd8", b"\xff\xd9")
"""How a JPEG begins and ends."""

Picture = bytes | Image.Image
"""Encoded, or opened already."""

_one_large = Lock()

Where = Callable[[int], str]
"""What to call the picture of a number in a message: ``row 7 of x.parquet``."""


@frozen(eq=False)
class Pictures:
    """A stack as it was stored, before one range is found for all of it.

    Attributes:
        values: (N, C, H, W) uint8; float32 as soon as one picture has more than 8 bits, whose numbers are as stored.
        marks: (N,) uint8, a sum of ``TURNED``, ``CLEAR``, ``WIDE`` and ``FLOAT``.
        opaque: (N, 1, H, W) uint8, 255 where nothing shines through; None if that is everywhere.
    """

    values: Tensor
    marks: Tensor
    opaque: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Tensor) -> Pictures:
        """Some of them."""
        opaque = None if self.opaque is None else self.opaque[rows]
        return Pictures(self.values[rows], self.marks[rows], opaque)

    def marked(self, mark: int) -> Tensor:
        """(N,) bool: which bear a mark."""
        return (self.marks & mark) > 0


@frozen(eq=False)
class Decoded:
    """One picture.

    Attributes:
        pixels: (H, W) if it is stored as grey, else (H, W, 3); uint8, or float32 as stored.
        marks: see ``Pictures``.
        opaque: (H, W) uint8, if it is transparent somewhere.
    """

    pixels: np.ndarray
    marks: int = 0
    opaque: np.ndarray | None = None


class _Stack:
    """Room for a number of pictures, made as they come."""

    def __init__(self, count: int, where: Where) -> None:
        self.count, self.where = count, where
        self.marks = np.zeros(count, np.uint8)
        self.values: np.ndarray | None = None
        self.opaque: np.ndarray | None = None

    def put(self, number: int, picture: Decoded) -> None:
        """Take a picture in; sizes are checked, channels and types widened."""
        pixels = picture.pixels
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if self.values is None:
            self.values = self._blank(planes.shape, planes.dtype)
        if planes.shape[1:] != self.values.shape[2:]:
            raise InputError(_mixed(planes.shape[1:], self.values.shape[2:], self.where(number)))
        if len(planes) > self.values.shape[1]:
            self.values = np.repeat(self.values, 3, axis=1)
        if planes.dtype != np.uint8 and self.values.dtype == np.uint8:
            check_memory(self.count, self.values.shape[1:], 4, f"the pictures from {self.where(0)} on")
            self.values = self.values.astype(np.float32)
        self.values[number] = planes
        self.marks[number] = picture.marks
        if picture.opaque is not None:
            if self.opaque is None:
                self.opaque = self._blank((1, *planes.shape[1:]), np.dtype(np.uint8))
                self.opaque[:] = 255
            self.opaque[number] = picture.opaque

    def without(self, failed: Sequence[int]) -> Pictures:
        """All but those of these numbers."""
        if self.values is None:
            return Pictures(torch.empty((0, 1, 1, 1), dtype=torch.uint8), torch.empty(0, dtype=torch.uint8))
        kept = [self.values, self.marks, *([] if self.opaque is None else [self.opaque])]
        left = [torch.from_numpy(np.delete(each, failed, axis=0) if failed else each) for each in kept]
        return Pictures(*left)

    def _blank(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        check_memory(self.count, shape, dtype.itemsize, f"the pictures from {self.where(0)} on")
        return np.empty((self.count, *shape), dtype)


def stack(
    encoded: Iterable[Picture],
    count: int,
    where: Where,
    resize: Resize | None = None,
    packed: int | None = None,
    broken: dict[int, str] | None = None,
) -> Pictures:
    """Decode ``count`` pictures into one stack.

    Args:
        encoded: PNG, JPEG, or what else Pillow reads, in order; may be lazy.
        resize: what brings all to one size.
        packed: bytes that all of them are stored in, where that is less than the sum of theirs.
        broken: takes the numbers of those that cannot be decoded, with the reason; they are left out of the stack.

    Returns:
        Pictures of C = 1 or 3 channels, H = W; none where all are broken.

    Raises:
        InputError: one cannot be decoded and ``broken`` is None, sizes differ or are not square and ``resize`` is None;
            names the picture.
    """
    found, sizes, number = _Stack(count, where), list[int](), -1
    failed = {} if broken is None else broken
    for number, picture in enumerate(_decoded(_measured(encoded, sizes), resize)):
        if isinstance(picture, str):
            if broken is None:
                raise InputError(f"{where(number)} cannot be decoded ({picture}): replace or drop it")
            failed[number] = picture
            continue
        if found.values is None:
            _check_square(picture.pixels.shape[:2], where(number))
            if resize is None:
                stored = count * sizes[0] if packed is None else packed
                check_growth(stored, count * picture.pixels.nbytes, f"a set like {where(0)}", "give --resize")
        found.put(number, picture)
    if number < 0:
        raise InputError(f"{where(0)} is missing: there are no pictures to read")
    if number + 1 != count:
        raise InputError(f"{where(number)} is the last of {number + 1} pictures where {count} are due: get them again")
    return found.without(list(failed))


def _measured(encoded: Iterable[Picture], sizes: list[int]) -> Iterator[Picture]:
    """The same; bytes of the largest so far go into ``sizes``, of one that is opened already what its pixels take."""
    for picture in encoded:
        size = len(picture) if isinstance(picture, bytes) else picture.width * picture.height
        sizes[:] = [max(size, *sizes)] if sizes else [size]
        yield picture


def check_memory(count: int, shape: Sequence[int], width: int, what: str) -> None:
    """Refuse images that this machine's memory cannot hold, before any of it is taken.

    Args:
        width: bytes of a number.

    Raises:
        InputError: says how many bytes they take.
    """
    due = count * math.prod(shape) * width
    if due > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        sizes = f"{count:,} of {' x '.join(map(str, shape))}, {due:,} bytes"
        raise InputError(f"{what} do not fit the memory ({sizes}): give a smaller --resize")


def decode(data: Picture, resize: Resize | None = None) -> Decoded:
    """One encoded picture, upright, on white where it is transparent.

    Args:
        resize: what brings it to a size.

    Raises:
        OSError: this is no picture that Pillow reads, it is cut short, or its pixels have no range.
    """
    try:
        with data if isinstance(data, Image.Image) else Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            pixels = opened.width * opened.height
            if pixels > MOST_PIXELS:
                raise OSError(f"it has {pixels:,} pixels and {MOST_PIXELS:,} are the most")
            with _one_large if pixels >= ALONE else nullcontext():
                low = _low_bytes(data, opened)
                turned = _orientation(opened) in TURNS
                opened.load()
                turn = TURNS.get(_orientation(opened))  # a TIFF is turned by Pillow itself
                if low is not None:
                    found = _framed(_wide_colours(opened, low), None, turn, resize)
                elif opened.mode in DEEP:
                    found = _framed([_deep_plane(opened)], None, turn, resize)
                else:
                    found = _framed(*_eight_bit(opened), turn, resize)
                marks = TURNED * turned + (FLOAT if opened.mode == "F" else WIDE) * (found.pixels.dtype != np.uint8)
                return attrs.evolve(found, marks=found.marks | marks)
    except OSError:
        raise
    except Exception as error:  # Pillow's decoders raise anything
        raise OSError(in_short(error)) from error


def _orientation(picture: Image.Image) -> int:
    """EXIF's; 1, upright, where it says none or cannot be read."""
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever is written there: the pixels may be read without it
        return 1


def _framed(
    planes: Sequence[Image.Image], opaque: Image.Image | None, turn: Image.Transpose | None, resize: Resize | None
) -> Decoded:
    """Images of the same size, of one picture, upright and resized."""
    fill = 0 if opaque is None else 255

    def framed(plane: Image.Image, fill: int) -> np.ndarray:
        upright = plane if turn is None else plane.transpose(turn)
        if resize is None:
            return np.asarray(upright)
        pixels = np.asarray(resize.apply(upright, fill))
        return pixels.clip(0, max(1.0, plane.getextrema()[1])) if plane.mode == "F" else pixels

    found = [framed(plane, fill) for plane in planes]
    pixels = found[0] if len(found) == 1 else np.stack(found, axis=2)
    return Decoded(pixels) if opaque is None else Decoded(pixels, CLEAR, framed(opaque, 0))


def _eight_bit(picture: Image.Image) -> tuple[list[Image.Image], Image.Image | None]:
    """A picture of any mode of 8 bits as L or RGB, and how opaque it is, if that is not wholly."""
    bare = "L" if picture.mode in GREY else "RGB"
    if picture.mode not in TRANSPARENT and "transparency" not in picture.info:
        return [picture if picture.mode == bare else picture.convert(bare)], None
    picture = picture.convert({"La": "LA", "RGBa": "RGBA"}.get(picture.mode, picture.mode)).convert("RGBA")
    opaque, seen = picture.getchannel("A"), picture.convert(bare)
    if opaque.getextrema()[0] == 255:
        return [seen], None
    ground = Image.new(bare, picture.size, "white")
    ground.paste(seen, mask=opaque)
    return [ground], opaque


def _deep_plane(picture: Image.Image) -> Image.Image:
    """Pixels of more than 8 bits as floats, as stored."""
    if "transparency" in picture.info:
        raise OSError("it has 16-bit pixels and transparency, which are not read together")
    return Image.fromarray(_plausible(np.asarray(picture)).astype(np.float32))


def _plausible(pixels: np.ndarray) -> np.ndarray:
    if not np.isfinite(pixels).all():
        raise OSError("some of its pixels are NaN or infinite")
    if pixels.min() < 0:
        raise OSError(f"its pixels reach down to {pixels.min():g}, and black is 0")
    return pixels


def _low_bytes(data: Picture, opened: Image.Image) -> np.ndarray | None:
    """The lower bytes of 16-bit colours (H, W, C), which Pillow reads the upper ones of; None if they have 8 bits."""
    tiles = [] if opened.mode in DEEP else list(getattr(opened, "tile", []))
    stored = [tile[3][0] if isinstance(tile[3], tuple) else tile[3] for tile in tiles]
    wide = [name for name in stored if isinstance(name, str) and ";16" in name]
    wide += ["PPM" for tile in tiles if "ppm" in tile[0] and isinstance(tile[3], tuple) and tile[3][-1] > 255]
    if not wide:
        return None
    colours, _, order = wide[0].partition(";16")
    if colours not in ("RGB", "RGBA") or order not in LOW_BYTES or not isinstance(data, bytes):
        raise OSError(f"it has 16 bits a pixel as {wide[0]}, whose lower 8 would be lost: store it as 16-bit PNG")
    with Image.open(io.BytesIO(data), formats=FORMATS) as again:
        swapped = f"{colours};16{LOW_BYTES[order]}"
        again.tile = [_with_arguments(tile, swapped) for tile in tiles]  # type: ignore[attr-defined]
        return np.asarray(again)


def _with_arguments(tile: Any, first: str) -> Any:
    arguments = (first, *tile[3][1:]) if isinstance(tile[3], tuple) else first
    kind = type(tile)
    return kind._make((*tile[:3], arguments)) if hasattr(kind, "_make") else (*tile[:3], arguments)


def _wide_colours(picture: Image.Image, low: np.ndarray) -> list[Image.Image]:
    """Three planes of 16-bit colours as floats."""
    pixels = np.asarray(picture).astype(np.float32) * 256 + low
    if pixels.shape[2] == 4 and pixels[..., 3].min() < 65535:
        raise OSError("it has 16-bit colours and transparency, which are not read together")
    return [Image.fromarray(np.ascontiguousarray(pixels[..., channel])) for channel in range(3)]


def from_array(pixels: np.ndarray, where: str, resize: Resize | None = None) -> Pictures:
    """Pixels of many images in one array, whatever its layout.

    Args:
        pixels: (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3; whole numbers from 0 on, truth values, or
            floats.

    Returns:
        Pictures of C channels, uint8 for bytes and truth values, else float32.

    Raises:
        InputError: another shape or type, whole numbers below 0, or images that are not square.
    """
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[3] in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or 0 in pixels.shape:
        due = "(N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
        raise InputError(f"{where} has shape {pixels.shape} where images are due: store them as {due}")
    pixels, mark = _known_type(pixels, where)
    if resize is not None and pixels.shape[2:] != (resize.size, resize.size):
        check_memory(
            len(pixels), (pixels.shape[1], resize.size, resize.size), pixels.itemsize, f"the images of {where}"
        )
        pixels = np.stack([np.stack([_resized(plane, resize) for plane in image]) for image in pixels])
    _check_square(pixels.shape[2:], f"an image of {where}")
    values = torch.from_numpy(np.require(pixels, requirements=["C", "W", "O"]))
    return Pictures(values, torch.full((len(values),), mark, dtype=torch.uint8))


def same_channels(parts: Sequence[Tensor]) -> list[Tensor]:
    """Stacks with grey ones widened to three equal channels as soon as one of them is in colour."""
    most = max(part.shape[1] for part in parts)
    return [part if part.shape[1] == most else part.repeat(1, most, 1, 1) for part in parts]


def _decoded(encoded: Iterable[Picture], resize: Resize | None) -> Iterator[Decoded | str]:
    """Pixels of each picture, or why it has none."""

    def one(number: int, data: Picture) -> Decoded | str:
        if isinstance(data, bytes) and (why := _obviously_broken(data)):
            return why
        try:
            return decode(data, resize)
        except OSError as error:
            why = str(error).splitlines()[0] if str(error) else "no picture"
            return f"no picture in {', '.join(FORMATS)}" if "cannot identify" in why else why

    rest, number = iter(encoded), 0
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        while group := list(islice(rest, AT_ONCE)):
            numbers = range(number, number + len(group))
            large = sum(len(data) for data in group if isinstance(data, bytes)) > LARGE * len(group)
            yield from _few_at_a_time(threads, one, numbers, group) if large else map(one, numbers, group)
            number += len(group)


def _obviously_broken(data: bytes) -> str:
    """What Pillow does not say, or only of some formats: nothing there, or a JPEG whose end came as zeros."""
    if not data:
        return "it holds no image bytes"
    if data[:2] == JPEG[0] and data[-1:] == b"\0" and JPEG[1] not in data.rstrip(b"\0")[-2:]:
        return "image file is truncated, it ends in zeros"
    return ""


def _few_at_a_time(
    threads: ThreadPoolExecutor,
    one: Callable[[int, Picture], Decoded | str],
    numbers: range,
    group: Sequence[Picture],
) -> Iterator[Decoded | str]:
    """In order, by threads that are a few pictures ahead of what has been taken: all at once may not fit the memory."""
    waiting: deque[Future[Decoded | str]] = deque()
    for number, data in zip(numbers, group, strict=True):
        waiting.append(threads.submit(one, number, data))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _known_type(pixels: np.ndarray, where: str) -> tuple[np.ndarray, int]:
    """Pixels as uint8 or float32, and their mark."""
    if pixels.dtype == np.uint8:
        return pixels, 0
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255, 0
    if np.issubdtype(pixels.dtype, np.floating):
        with np.errstate(over="ignore"):
            return pixels.astype(np.float32), FLOAT
    if not np.issubdtype(pixels.dtype, np.integer) or pixels.min() < 0:
        what = f"{pixels.dtype} pixels" + (f" down to {pixels.min()}" if pixels.dtype.kind == "i" else "")
        raise InputError(f"{where} holds {what}: give whole numbers from 0 on or floats in [0, 1]")
    return pixels.astype(np.float32), WIDE


def _resized(plane: np.ndarray, resize: Resize) -> np.ndarray:
    resized = np.asarray(resize.apply(Image.fromarray(np.ascontiguousarray(plane))))
    return resized.clip(0, max(1.0, plane.max())) if plane.dtype == np.float32 else resized


def _check_square(shape: Sequence[int], where: str) -> None:
    height, width = shape
    if height != width:
        way_out = f"give --resize {min(height, width)}"
        raise InputError(f"{where} is {height}x{width} pixels (height x width) and images have to be square: {way_out}")


def _mixed(found: Sequence[int], before: Sequence[int], where: str) -> str:
    sizes = f"{found[0]}x{found[1]} pixels where {before[0]}x{before[1]} came before"
    return f"{where} is {sizes}: give --resize {before[0]} to bring all images to one size"
