"""Differentiable augmentations, drawn first and applied then, so that a draw can be replayed or shared.

The family of differentiable Siamese augmentation (Zhao and Bilen, ICML 2021, arXiv:2102.08259). It is the core's
because the field's evaluation protocols use it; plugin ``dsa`` brings it into matching. Images (B, C, H, W) are
normalised, so the zeros that move in from outside are the data's mean colour. All operations keep dtype and device and
are differentiable in the images; a parameter has one entry an image, or is a single number for all. Numbers and names
are the authors': ``dx`` and ``cx`` run down the rows, but ``sx`` runs across; geometry is that of
``align_corners=True``, which their PyTorch meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from attrs import frozen
from torch import Tensor
from torch.nn import functional as F

from ddcore.api.types import Batch
from ddcore.errors import OptionError, near

OPS = ("color", "crop", "cutout", "flip", "scale", "rotate")
DSA_COLOUR: tuple[str, ...] = OPS
DSA_DIGITS: tuple[str, ...] = tuple(op for op in OPS if op != "flip")
MNIST_OPS = ("crop", "scale", "rotate")
BATCHNORM_OPS = ("crop", "noise")

BRIGHTNESS = 1.0
SATURATION = 2.0
CONTRAST = 0.5
CROP = 0.125
CUTOUT = 0.5
FLIP = 0.5
SCALE = 1.2
DEGREES = 15.0
MNIST_SHIFT, MNIST_SCALE, MNIST_DEGREES, MNIST_NOISE = 4, 0.2, 45, 0.001

Numbers = Tensor | float
"""One entry an image, in any shape such as (B,) or (B, 1, 1, 1), or one for all images."""


def brightness(images: Tensor, b: Numbers) -> Tensor:
    """x + b, in normalised units."""
    return images + _column(b, images)


def saturation(images: Tensor, s: Numbers) -> Tensor:
    """m + s (x - m), m the mean over channels of each pixel: 0 is grey, 1 the identity; of no effect on grey images."""
    mean = images.mean(dim=1, keepdim=True)
    return mean + _column(s, images) * (images - mean)


def contrast(images: Tensor, k: Numbers) -> Tensor:
    """mu + k (x - mu), mu the mean of each image over channels and pixels: 1 is the identity."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + _column(k, images) * (images - mean)


def crop(images: Tensor, dx: Numbers, dy: Numbers) -> Tensor:
    """Shift by whole pixels: output pixel (i, j) is input pixel (i + dx, j + dy), zero outside.

    Args:
        dx, dy: whole numbers, along rows and along columns, as in the authors' code.
    """
    rows = torch.arange(images.shape[2], device=images.device) + _rows(dx, images).long()[:, None]
    columns = torch.arange(images.shape[3], device=images.device) + _rows(dy, images).long()[:, None]
    return _taken(images, rows, columns)


def cutout(images: Tensor, cx: Numbers, cy: Numbers, side: int, across: int | None = None) -> Tensor:
    """Zero a square of ``side`` pixels that begins at row cx - side // 2, column cy - side // 2; clipped at the border.

    Args:
        across: columns of the hole, if they are not ``side`` too.
    """
    height, width = images.shape[2:]
    across = side if across is None else across
    rows = torch.arange(height, device=images.device) - (_rows(cx, images).long() - side // 2)[:, None]
    columns = torch.arange(width, device=images.device) - (_rows(cy, images).long() - across // 2)[:, None]
    hole = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < across))[:, None, :]
    return images * (~hole)[:, None].to(images)


def flip(images: Tensor, where: Numbers) -> Tensor:
    """Mirror left to right the images where ``where`` (bool) is true."""
    return torch.where(_rows(where, images).bool()[:, None, None, None], images.flip(3), images)


def scale(images: Tensor, sx: Numbers, sy: Numbers) -> Tensor:
    """Resample at factors sx across and sy down: below 1 zooms in, above 1 out with a zero border."""
    zero = torch.zeros_like(_rows(sx, images))
    return _affine(images, _rows(sx, images), zero, zero, _rows(sy, images))


def rotate(images: Tensor, theta: Numbers) -> Tensor:
    """Resample under the matrix [[cos t, -sin t], [sin t, cos t]], t in radians, with a zero border."""
    theta = _rows(theta, images)
    return _affine(images, theta.cos(), -theta.sin(), theta.sin(), theta.cos())


def _taken(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Output pixel (i, j) of image n is input pixel (rows[n, i], columns[n, j]), zero where that lies outside."""
    count, channels, height, width = images.shape
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    down = rows.clamp(0, height - 1)[:, None, :, None].expand(count, channels, height, width)
    across = columns.clamp(0, width - 1)[:, None, None, :].expand(count, channels, height, width)
    return images.gather(2, down).gather(3, across) * inside.to(images)


def _affine(images: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    zero = torch.zeros_like(a)
    matrix = torch.stack([torch.stack([a, b, zero], 1), torch.stack([c, d, zero], 1)], 1).to(images)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def _rows(parameter: Numbers, images: Tensor) -> Tensor:
    """One entry an image, on the images' device."""
    numbers = parameter if isinstance(parameter, Tensor) else torch.tensor(parameter, dtype=torch.float64)
    if numbers.numel() not in (1, len(images)):
        raise ValueError(f"{numbers.numel()} parameters for {len(images)} images")
    return numbers.to(images.device).reshape(-1).expand(len(images))


def _column(parameter: Numbers, images: Tensor) -> Tensor:
    return _rows(parameter, images).to(images)[:, None, None, None]


Parameters = Mapping[str, Tensor]
_APPLY: dict[str, Callable[[Tensor, Parameters], Tensor]] = {
    "color": lambda x, p: contrast(saturation(brightness(x, p["b"]), p["s"]), p["k"]),
    "crop": lambda x, p: crop(x, p["dx"], p["dy"]),
    "cutout": lambda x, p: cutout(x, p["cx"], p["cy"], int(p["side"]), int(p["across"])),
    "flip": lambda x, p: flip(x, p["where"]),
    "scale": lambda x, p: scale(x, p["sx"], p["sy"]),
    "rotate": lambda x, p: rotate(x, p["theta"]),
}


@frozen(eq=False)
class Drawn:
    """Drawn operations and their parameters, in the order they are applied: a ``Transform`` that can be replayed.

    Attributes:
        operations: (name, parameters), each parameter with one entry a row, or one for all (``shared``).
    """

    operations: tuple[tuple[str, Parameters], ...]
    count: int
    shared: bool

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its images augmented; row i uses set i."""
        return batch.with_inputs(self.images(batch.inputs))

    def images(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) augmented.

        Raises:
            ValueError: more rows than were drawn for.
        """
        if not self.shared:
            check_rows(len(images), self.count)
        for name, parameters in self.operations:
            rows = {k: v if v.dim() == 0 or self.shared else v[: len(images)] for k, v in parameters.items()}
            images = _APPLY[name](images, rows)
        return images


def check_rows(rows: int, count: int) -> None:
    """A draw serves at most as many rows as it was made for.

    Raises:
        ValueError: there are more.
    """
    if rows > count:
        raise ValueError(f"an augmentation drawn for {count} rows cannot serve {rows}: draw for as many rows")


def parse_strategy(text: str) -> tuple[str, ...]:
    """Operations from a string such as ``color_crop_cutout_flip_scale_rotate``; ``none`` or nothing is no augmentation.

    Raises:
        OptionError: an unknown operation.

    >>> parse_strategy("color_crop"), parse_strategy("none")
    (('color', 'crop'), ())
    """
    names = [name for name in text.lower().split("_") if name and name != "none"]
    for name in names:
        if name not in OPS:
            raise OptionError(f"augmentation strategy {text!r} names {name!r}: {near(name, OPS)}")
    return tuple(names)


def draw(
    strategy: str | Sequence[str],
    count: int,
    size: tuple[int, int],
    generator: torch.Generator,
    *,
    shared: bool,
    mode: Literal["single", "all"] = "single",
    flip_first: bool = False,
) -> Drawn:
    """Draw once for a batch.

    Args:
        strategy: operations to choose from, or a string of them joined by ``_``; empty is the identity.
        count: rows; with ``shared`` one parameter set serves any number of rows (Siamese).
        size: height and width in pixels.
        mode: ``single`` chooses one operation for the whole batch, ``all`` applies each in order.
        flip_first: FYI's family: a mirror image first, with probability 0.5 at every call, then one of the others.
    """
    strategy = parse_strategy(strategy if isinstance(strategy, str) else "_".join(strategy))
    count = 1 if shared else count
    names = [name for name in strategy if not (flip_first and name == "flip")]
    chosen = list(names)
    if mode == "single" and names:
        chosen = [names[int(torch.randint(len(names), (), generator=generator))]]
    if flip_first and "flip" in strategy:
        chosen = ["flip", *chosen]
    return Drawn(tuple((name, _parameters(name, count, size, generator)) for name in chosen), count, shared)


def _parameters(name: str, count: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)

    def whole(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (count,), generator=generator)

    height, width = size
    if name == "color":
        return {
            "b": BRIGHTNESS * uniform(-0.5, 0.5),
            "s": SATURATION * uniform(0, 1),
            "k": CONTRAST + uniform(0, 1),
        }
    if name == "crop":
        down, across = int(CROP * height + 0.5), int(CROP * width + 0.5)
        return {"dx": whole(-down, down), "dy": whole(-across, across)}
    if name == "cutout":
        side, across = int(CUTOUT * height + 0.5), int(CUTOUT * width + 0.5)
        centre = {"cx": whole(0, height - side % 2), "cy": whole(0, width - across % 2)}
        return centre | {"side": torch.tensor(side), "across": torch.tensor(across)}
    if name == "flip":
        return {"where": uniform(0, 1) < FLIP}
    if name == "scale":
        return {"sx": uniform(1 / SCALE, SCALE), "sy": uniform(1 / SCALE, SCALE)}
    return {"theta": uniform(-math.radians(DEGREES), math.radians(DEGREES))}


@frozen(eq=False)
class DrawnOneEach:
    """DC's own augmentation of students: each image has one operation.

    Attributes:
        which: (count,) int64, an index into ``ops``.
        parameters: (count,) each: ``dx`` and ``dy`` of the crop; ``height`` and ``width`` to scale to, pixels;
            ``theta``; (count, C, H, W) ``noise``.
        ops: ``MNIST_OPS`` or ``BATCHNORM_OPS``.
    """

    which: Tensor
    parameters: Parameters
    ops: tuple[str, ...] = MNIST_OPS

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its images augmented."""
        return batch.with_inputs(self.images(batch.inputs))

    def images(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) augmented; a crop or a turn brings in the batch's mean colour, a scale zeros.

        Raises:
            ValueError: more rows than were drawn for.
        """
        check_rows(len(images), len(self.which))
        colour = images.mean(dim=(0, 2, 3), keepdim=True)
        augmented = images.clone()
        for number, name in enumerate(self.ops):
            rows = (self.which[: len(images)] == number).nonzero().flatten()
            if len(rows):
                own = {key: value[rows] for key, value in self.parameters.items()}
                at = rows.to(images.device)
                augmented[at] = _one(name, images[at], own, colour)
        return augmented


def _one(name: str, images: Tensor, own: Parameters, colour: Tensor) -> Tensor:
    if name == "noise":
        return images + own["noise"].to(images)
    if name == "crop":
        return crop(images - colour, own["dx"], own["dy"]) + colour
    if name == "scale":
        return resized(images, own["height"], own["width"])
    return rotate(images - colour.mean(), own["theta"]) + colour.mean()


def resized(images: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """Each image at its own height and width by nearest neighbour, centred on a black square, whose centre is cut out.

    The square is as large as the largest side, which decides where odd differences go: as in DC's code, to the pixel.

    Args:
        heights, widths: (B,) int64, pixels.
    """
    heights, widths = heights.to(images.device), widths.to(images.device)
    square = torch.maximum(heights, widths).clamp(min=max(images.shape[2:]))
    rows = _nearest(images.shape[2], heights, square)
    return _taken(images, rows, _nearest(images.shape[3], widths, square))


def _nearest(side: int, new: Tensor, square: Tensor) -> Tensor:
    """The pixel that each of ``side`` places shows when ``side`` pixels become ``new`` ones, (B, side); -1 for none."""
    offset = (square - side) // 2 - (square - new) // 2
    at = torch.arange(side, device=new.device) + offset[:, None]
    return torch.where((at >= 0) & (at < new[:, None]), at * side // new[:, None], -1)


def draw_mnist(count: int, size: tuple[int, int], generator: torch.Generator) -> DrawnOneEach:
    """Draw for each image a crop, a scale or a turn, in the ranges of DC's code.

    A crop moves by -4 to 3 pixels each way, a scale is to 0.8 to 1.2 of height and width each, truncated to whole
    pixels, a turn is by a whole number of degrees from -45 to 44. The authors turn by a cubic spline; here it is
    bilinear.
    """
    height, width = (
        (side * (1 + MNIST_SCALE * (2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1))).long()
        for side in size
    )
    turn = torch.randint(-MNIST_DEGREES, MNIST_DEGREES, (count,), generator=generator)
    parameters = {
        "dx": torch.randint(-MNIST_SHIFT, MNIST_SHIFT, (count,), generator=generator),
        "dy": torch.randint(-MNIST_SHIFT, MNIST_SHIFT, (count,), generator=generator),
        "height": height,
        "width": width,
        "theta": torch.deg2rad(turn.double()),
    }
    return DrawnOneEach(torch.randint(len(MNIST_OPS), (count,), generator=generator), parameters)


def draw_batchnorm(count: int, channels: int, size: tuple[int, int], generator: torch.Generator) -> DrawnOneEach:
    """Draw for each image a crop as above, or noise of deviation 0.001:
    what DC's code does to students with BatchNorm."""
    parameters = {
        "dx": torch.randint(-MNIST_SHIFT, MNIST_SHIFT, (count,), generator=generator),
        "dy": torch.randint(-MNIST_SHIFT, MNIST_SHIFT, (count,), generator=generator),
        "noise": MNIST_NOISE * torch.randn((count, channels, *size), generator=generator),
    }
    return DrawnOneEach(torch.randint(len(BATCHNORM_OPS), (count,), generator=generator), parameters, BATCHNORM_OPS)
