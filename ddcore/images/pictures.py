"""Encoded pictures and pixel arrays of any common kind, brought to one stack of images (N, C, H, W).

Grey or colour is decided by how pictures are stored, not by their content: when all are grey the stack has one channel,
and as soon as one is in colour all have three (a grey one then has three equal channels). Transparency is dropped, an
animation gives its first frame, 16-bit grey keeps its upper 8 bits.
"""

from __future__ import annotations

import io
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddcore.errors import InputError, in_short
from ddcore.storage.unpacking import check_growth

GREY = frozenset({"1", "L", "LA", "La"})
GREY_16_BIT = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
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


def stack(
    encoded: Iterable[Picture],
    count: int,
    where: Where,
    resize: int | None = None,
    packed: int | None = None,
    broken: dict[int, str] | None = None,
) -> Tensor:
    """Decode ``count`` pictures into one stack.

    Args:
        encoded: PNG, JPEG, or what else Pillow reads, in order; may be lazy.
        resize: height and width to bring all to.
        packed: bytes that all of them are stored in, where that is less than the sum of theirs.
        broken: takes the numbers of those that cannot be decoded, with the reason; they are left out of the stack.

    Returns:
        (N, C, H, W) uint8, C = 1 or 3, H = W; of size 1 x 1 where all are broken.

    Raises:
        InputError: one cannot be decoded and ``broken`` is None, sizes differ or are not square and ``resize`` is None;
            names the picture.
    """
    pixels: np.ndarray | None = None
    sizes: list[int] = []
    number, failed = -1, {} if broken is None else broken
    for number, picture in enumerate(_decoded(_measured(encoded, sizes), resize)):
        if isinstance(picture, str):
            if broken is None:
                raise InputError(f"{where(number)} cannot be decoded ({picture}): replace or drop it")
            failed[number] = picture
            continue
        planes = picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)
        if pixels is None:
            _check_square(planes.shape[1:], where(number))
            if resize is None:
                stored = count * sizes[0] if packed is None else packed
                check_growth(stored, count * planes.nbytes, f"a set like {where(0)}", "give --resize")
            pixels = _blank(count, planes.shape, where)
        if planes.shape[1:] != pixels.shape[2:]:
            raise InputError(_mixed(planes.shape[1:], pixels.shape[2:], where(number)))
        if len(planes) > pixels.shape[1]:
            pixels = np.repeat(pixels, 3, axis=1)
        pixels[number] = planes
    if number < 0:
        raise InputError(f"{where(0)} is missing: there are no pictures to read")
    if number + 1 != count:
        raise InputError(f"{where(number)} is the last of {number + 1} pictures where {count} are due: get them again")
    if pixels is None:
        return torch.empty((0, 1, 1, 1), dtype=torch.uint8)
    return torch.from_numpy(np.delete(pixels, list(failed), axis=0) if failed else pixels)


def _measured(encoded: Iterable[Picture], sizes: list[int]) -> Iterator[Picture]:
    """The same; bytes of the largest so far go into ``sizes``, of one that is opened already what its pixels take."""
    for picture in encoded:
        size = len(picture) if isinstance(picture, bytes) else picture.width * picture.height
        sizes[:] = [max(size, *sizes)] if sizes else [size]
        yield picture


def _blank(count: int, shape: Sequence[int], where: Where) -> np.ndarray:
    check_memory(count, shape, 1, f"the pictures from {where(0)} on")
    return np.empty((count, *shape), np.uint8)


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


def decode(data: Picture, resize: int | None = None) -> np.ndarray:
    """Pixels of one encoded picture: (H, W) if it is stored as grey, else (H, W, 3); uint8.

    Args:
        resize: height and width to bring it to (Pillow's bicubic filter, which antialiases when it shrinks).

    Raises:
        OSError: this is no picture that Pillow reads, or it is cut short.
    """
    try:
        with data if isinstance(data, Image.Image) else Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            pixels = opened.width * opened.height
            if pixels > MOST_PIXELS:
                raise OSError(f"it has {pixels:,} pixels and {MOST_PIXELS:,} are the most")
            with _one_large if pixels >= ALONE else nullcontext():
                opened.load()
                picture = opened if opened.mode in ("L", "RGB") else _eight_bit(opened)
                if resize is not None and picture.size != (resize, resize):
                    picture = picture.resize((resize, resize), Image.Resampling.BICUBIC)
                return np.asarray(picture)
    except OSError:
        raise
    except Exception as error:  # Pillow's decoders raise anything
        raise OSError(in_short(error)) from error


def from_array(pixels: np.ndarray, where: str, resize: int | None = None) -> Tensor:
    """Pixels of many images in one array, whatever its layout.

    Args:
        pixels: (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3; whole numbers 0..255, or floats in [0, 1].

    Returns:
        (N, C, H, W) uint8, or float32 for floats.

    Raises:
        InputError: another shape or type, whole numbers outside 0..255, or images that are not square.
    """
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[3] in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or 0 in pixels.shape:
        due = "(N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
        raise InputError(f"{where} has shape {pixels.shape} where images are due: store them as {due}")
    pixels = _known_type(pixels, where)
    if resize is not None and pixels.shape[2:] != (resize, resize):
        check_memory(len(pixels), (pixels.shape[1], resize, resize), pixels.itemsize, f"the images of {where}")
        pixels = np.stack([np.stack([_resized(plane, resize) for plane in image]) for image in pixels])
    _check_square(pixels.shape[2:], f"an image of {where}")
    return torch.from_numpy(np.require(pixels, requirements=["C", "W", "O"]))


def same_channels(parts: Sequence[Tensor]) -> list[Tensor]:
    """Stacks with grey ones widened to three equal channels as soon as one of them is in colour."""
    most = max(part.shape[1] for part in parts)
    return [part if part.shape[1] == most else part.repeat(1, most, 1, 1) for part in parts]


def _decoded(encoded: Iterable[Picture], resize: int | None) -> Iterator[np.ndarray | str]:
    """Pixels of each picture, or why it has none."""

    def one(number: int, data: Picture) -> np.ndarray | str:
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
    one: Callable[[int, Picture], np.ndarray | str],
    numbers: range,
    group: Sequence[Picture],
) -> Iterator[np.ndarray | str]:
    """In order, by threads that are a few pictures ahead of what has been taken: all at once may not fit the memory."""
    waiting: deque[Future[np.ndarray | str]] = deque()
    for number, data in zip(numbers, group, strict=True):
        waiting.append(threads.submit(one, number, data))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _eight_bit(picture: Image.Image) -> Image.Image:
    """A picture of any mode as L or RGB."""
    if picture.mode == "F":
        raise OSError("its pixels are floats without a known range")
    if picture.mode in GREY_16_BIT:
        return Image.fromarray((np.asarray(picture).clip(0, 65535).astype(np.uint16) >> 8).astype(np.uint8))
    return picture.convert("L" if picture.mode in GREY else "RGB")


def _known_type(pixels: np.ndarray, where: str) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if np.issubdtype(pixels.dtype, np.floating):
        return pixels.astype(np.float32)
    if np.issubdtype(pixels.dtype, np.integer) and pixels.min() >= 0 and pixels.max() <= 255:
        return pixels.astype(np.uint8)
    raise InputError(f"{where} holds {pixels.dtype} pixels: give whole numbers 0..255 or floats in [0, 1]")


def _resized(plane: np.ndarray, size: int) -> np.ndarray:
    resized = np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((size, size), Image.Resampling.BICUBIC))
    return resized.clip(0, 1) if plane.dtype == np.float32 else resized


def _check_square(shape: Sequence[int], where: str) -> None:
    height, width = shape
    if height != width:
        way_out = f"give --resize {min(height, width)}"
        raise InputError(f"{where} is {height}x{width} pixels (height x width) and images have to be square: {way_out}")


def _mixed(found: Sequence[int], before: Sequence[int], where: str) -> str:
    sizes = f"{found[0]}x{found[1]} pixels where {before[0]}x{before[1]} came before"
    return f"{where} is {sizes}: give --resize {before[0]} to bring all images to one size"
