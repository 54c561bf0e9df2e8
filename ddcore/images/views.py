"""What is done to a batch that labels were made for: drawn first and applied then, so that it can be stored or drawn
again.

    shuffle patches; crop and resize, or shift; mirror; then CutMix or MixUp with another row of the batch

as SRe2L stores them (Yin, Xing and Shen, NeurIPS 2023, arXiv:2306.13092; the store is FKD's, Shen and Xing, ECCV 2022,
arXiv:2112.01528) and INFER draws them (arXiv:2408.06927). Nothing here knows labels. Operations keep dtype and device
and are differentiable in the images. Shape letters: B images of a batch, C H W pixels, A attempts at a crop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from attrs import asdict, evolve, field, frozen
from attrs.validators import and_, deep_iterable, ge, gt, in_, instance_of, le, max_len, min_len
from torch import Tensor
from torch.nn import functional as F

from ddcore.api.types import Batch, Transform
from ddcore.errors import InputError, near
from ddcore.images.augment import flip

LARGE = 64
"""From this many pixels a side on, ImageNet's views and temperature; below, CIFAR's."""
ATTEMPTS = 10
"""At a crop of the drawn area and aspect that fits, as torchvision's; then the centre is taken."""
ANTIALIAS = True
"""Of crops that shrink: what Pillow always does. torchvision's default for tensors changed in 0.17,
so it is said here."""

Crop = Literal["resized", "shifted", "none"]
Mix = Literal["cutmix", "mixup", "none"]
Ops = tuple[tuple[str, Mapping[str, Tensor]], ...]


@frozen(eq=False)
class View:
    """One batch of a student's epoch.

    Attributes:
        index: (B,) int64, decoded samples.
        ops: (name, parameters) changes that the labels were made for, with names of the core only (``OPS``), in the
        order
            they are applied; empty leaves them to the protocol.
        mix: (partner (B,) int64 into the batch, share of the first (B,) float) or None. Labels mix by it, and
        ``changed``
            mixes the images: by the box of the op ``cutmix`` if there is one, else pixel by pixel with the share.
        rows: (B,) int64, which of the labels' own stored answers belong to it; None for a view that they did not make.
        also: (E,) int64, further samples that a kind's own ``changed`` needs, after the batch's: partners from all
        over the set.
    """

    index: Tensor
    ops: Ops = ()
    mix: tuple[Tensor, Tensor] | None = None
    rows: Tensor | None = None
    also: Tensor | None = None

    @property
    def fetched(self) -> Tensor:
        """(B + E,) int64, the samples whose images ``Labels.changed`` is given; it gives back B."""
        return self.index if self.also is None else torch.cat([self.index, self.also])


def changed(view: View, images: Tensor) -> Tensor:
    """Images (B, C, H, W) of ``view.index`` under the view's operations, then mixed; without any, the images
    themselves.

    Raises:
        InputError: an operation that this version does not know.
    """
    cut = False
    for name, parameters in view.ops:
        if name not in OPS:
            raise InputError(
                f"labels ask for the change {name!r} of images: {near(name, OPS)}; or upgrade ddcore-torch"
            )
        if name == "shuffle-patches":
            images = shuffled(images, parameters["orders"])
        elif name == "cutmix" and view.mix is not None:
            images, cut = cutmix(images, view.mix[0], parameters["box"]), True
        elif name == "crop-resize":
            images = crop_resize(images, parameters["box"], bool(parameters.get("antialias", ANTIALIAS)))
        elif name == "flip":
            images = flip(images, parameters["where"])
    return images if view.mix is None or cut else mixup(images, *view.mix)


OPS = ("shuffle-patches", "crop-resize", "flip", "cutmix")


def crop_resize(images: Tensor, boxes: Tensor, antialias: bool = ANTIALIAS) -> Tensor:
    """Cut a box out of each image and resize it to the image's size, bilinearly, as torchvision's ``resized_crop``.

    Args:
        images: (B, C, H, W) float.
        boxes: (B, 4) top, left, height, width as fractions of H and W, of any float type: rounded to whole pixels. What
            lies outside the image is zero, so a full-sized box that begins outside is a shift.
    """
    height, width = images.shape[2:]
    pixels = (boxes.double().cpu() * torch.tensor([height, width, height, width])).round().long().tolist()
    cut = []
    for image, (top, left, high, wide) in zip(images.split(1), pixels, strict=True):  # type: ignore[no-untyped-call]
        window = F.pad(image, (-left, left + wide - width, -top, top + high - height))
        same = (high, wide) == (height, width)
        cut.append(window if same else _resized(window, (height, width), antialias))
    return torch.cat(cut)


def _resized(window: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    return F.interpolate(window, size, mode="bilinear", align_corners=False, antialias=antialias)


def cells(size: int, factor: int) -> list[int]:
    """Sides of f cells that fill ``size`` pixels: where f does not divide it, the first are one pixel longer.

    Raises:
        ValueError: more cells than pixels.

    >>> cells(224, 2), cells(8, 3)
    ([112, 112], [3, 3, 2])
    """
    if not 1 <= factor <= size:
        raise ValueError(f"{size} pixels cannot be cut into {factor} cells: 1 to {size} are possible")
    least, longer = divmod(size, factor)
    return [least + (cell < longer) for cell in range(factor)]


def strip_orders(count: int, factor: int, generator: torch.Generator) -> Tensor:
    """Random orders for ``shuffled``, (count, 2, f) int64: of the columns' strips and of the rows',
    all equally likely."""
    return torch.rand(count, 2, factor, generator=generator, dtype=torch.float64).argsort(2)


def shuffled(images: Tensor, orders: Tensor) -> Tensor:
    """Each image with its f strips of columns, then its f strips of rows, in another order: a student's view of
    mosaics.

    Cells move whole where the image was stitched of f x f; with f = 2, 4 of the 24 arrangements can come out.

    Args:
        images: (B, C, H, W).
        orders: (B, 2, f) int64: which strip comes first, second, ...

    Returns:
        (B, C, H, W), differentiable in the images. Every pixel is kept, also where f does not divide H or W.
    """
    batch, channels, height, width = images.shape
    columns, rows = _positions(orders[:, 0], width), _positions(orders[:, 1], height)
    across = columns.to(images.device)[:, None, None, :].expand(batch, channels, height, width)
    down = rows.to(images.device)[:, None, :, None].expand(batch, channels, height, width)
    return images.gather(3, across).gather(2, down)


def _positions(orders: Tensor, size: int) -> Tensor:
    """Where each pixel of a side comes from, (B, size) int64."""
    strips = torch.arange(size).split(cells(size, orders.shape[1]))  # type: ignore[no-untyped-call]
    return torch.stack([torch.cat([strips[strip] for strip in order]) for order in orders.tolist()])


def cutmix(images: Tensor, partner: Tensor, box: Tensor) -> Tensor:
    """Each image with its partner's pixels inside one box (Yun et al., ICCV 2019, arXiv:1905.04899).

    Args:
        partner: (B,) int64 into the batch.
        box: (4,) int64 top, left, bottom, right in pixels, the last two excluded.
    """
    top, left, bottom, right = box.tolist()
    inside = torch.zeros(images.shape[2:], dtype=torch.bool, device=images.device)
    inside[top:bottom, left:right] = True
    return torch.where(inside, images[partner.to(images.device)], images)


def mixup(images: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """share x + (1 - share) x[partner] (Zhang et al., ICLR 2018, arXiv:1710.09412), along the first axis of anything.

    Args:
        images: (B, ...) float.
        partner: (B,) int64 into the batch.
        share: (B,) of the first, in [0, 1].

    >>> mixup(torch.tensor([[0.0], [4.0]]), torch.tensor([1, 0]), torch.tensor([0.75, 1.0])).flatten()
    tensor([1., 4.])
    """
    share = share.to(images).view(-1, *[1] * (images.dim() - 1))
    return share * images + (1 - share) * images[partner.to(images.device)]


# ---- draws -----------------------------------------------------------------------------------------------------------


def _range(least: float, most: float) -> Any:
    numbers = and_(instance_of((int, float)), ge(least), le(most))
    return deep_iterable(numbers, and_(min_len(2), max_len(2)))


def _tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values)


@frozen(kw_only=True)
class Draw:
    """What is drawn for a batch of views; a crop and a mirror for each image, one mix for the batch.

    Attributes:
        crop: ``resized``, a box of random area and aspect, brought back to full size; ``shifted`` by up to ``pad``
            pixels each way, with zeros from outside; ``none``.
        scale: least and largest area of a resized crop, a fraction of the image.
        ratio: least and largest width over height.
        pad: in pixels.
        flip: probability of a mirror image; 0 where it changes the class.
        mix: ``cutmix`` (a box), ``mixup`` (a share of each pixel) or ``none``.
        beta: the share of the first is drawn from Beta(beta, beta).
        antialias: whether crops that shrink are.
        shuffle: f: each image's f column strips, then its f row strips, change places before anything else (RDED,
            arXiv:2312.03526, for mosaics); 1: none do.
    """

    crop: Crop = field(default="resized", validator=in_(("resized", "shifted", "none")))
    scale: tuple[float, float] = field(default=(0.08, 1.0), converter=_tuple, validator=_range(1e-6, 1))
    ratio: tuple[float, float] = field(default=(3 / 4, 4 / 3), converter=_tuple, validator=_range(1e-3, 1e3))
    pad: int = field(default=4, validator=[instance_of(int), ge(0)])
    flip: float = field(default=0.5, validator=[instance_of((int, float)), ge(0), le(1)])
    mix: Mix = field(default="cutmix", validator=in_(("cutmix", "mixup", "none")))
    beta: float = field(default=1.0, validator=[instance_of((int, float)), gt(0), le(10)])
    antialias: bool = field(default=ANTIALIAS, validator=instance_of(bool))
    shuffle: int = field(default=1, validator=[instance_of(int), ge(1), le(16)])

    def fitting(self, size: int, symmetric: bool) -> Draw:
        """The same for images of ``size`` pixels: no shift by more than an eighth,
        and no mirror where it changes the class."""
        return evolve(self, pad=min(self.pad, size // 8), flip=self.flip if symmetric else 0.0)

    def header(self) -> dict[str, Any]:
        """JSON values; ``Draw(**header)`` is the inverse."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


RESIZED = Draw()
"""ImageNet's views: CutMix with beta 1."""
SHIFTED = Draw(crop="shifted", mix="mixup", beta=0.8)
"""CIFAR's: pad by 4, mirror, MixUp."""


@frozen(eq=False)
class Drawn:
    """One batch's parameters.

    Attributes:
        crop: (B, 4) float32, see ``crop_resize``.
        flip: (B,) bool.
        partner: (B,) int64, a permutation; of no effect where nothing is mixed.
        share: () float32 of the first in the mix: for ``cutmix`` of the pixels outside the box.
        box: (4,) int64 pixels, see ``cutmix``; empty for other mixes.
        strips: (B, 2, f) int64, see ``shuffled``; of no strips where nothing is shuffled.
    """

    crop: Tensor
    flip: Tensor
    partner: Tensor
    share: Tensor
    box: Tensor
    strips: Tensor = field(factory=lambda: torch.empty(0, 2, 0, dtype=torch.int64))

    def view(self, draw: Draw, index: Tensor, rows: Tensor | None = None) -> View:
        """The view that these parameters make of samples ``index``."""
        ops: list[tuple[str, Mapping[str, Tensor]]] = []
        if draw.shuffle > 1:
            ops.append(("shuffle-patches", {"orders": self.strips}))
        if draw.crop != "none":
            ops.append(("crop-resize", {"box": self.crop, "antialias": torch.tensor(draw.antialias)}))
        if draw.flip:
            ops.append(("flip", {"where": self.flip}))
        if draw.mix == "cutmix":
            ops.append(("cutmix", {"box": self.box}))
        mix = None if draw.mix == "none" else (self.partner, self.share.expand(len(index)))
        return View(index, tuple(ops), mix, rows)


def drawn(draw: Draw, count: int, size: tuple[int, int], generator: torch.Generator) -> Drawn:
    """Parameters for a batch of ``count`` images of ``size`` (H, W)."""
    height, width = size
    crop = torch.tensor([0, 0, height, width]).expand(count, 4)
    if draw.crop == "resized":
        attempts = torch.rand(ATTEMPTS, count, 2, generator=generator, dtype=torch.float64)
        place = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        crop = resized_crops(attempts, place, size, draw.scale, draw.ratio)
    if draw.crop == "shifted":
        shift = torch.randint(-draw.pad, draw.pad + 1, (count, 2), generator=generator)
        crop = torch.cat([shift, crop[:, 2:]], 1)
    mirrored = torch.rand(count, generator=generator, dtype=torch.float64) < draw.flip
    partner, share, box = torch.arange(count), torch.ones(()), torch.zeros(4, dtype=torch.int64)
    if draw.mix != "none":
        partner = torch.randperm(count, generator=generator)
        share = beta(draw.beta, generator).float()
    if draw.mix == "cutmix":
        box = cutmix_box(float(share), size, torch.rand(2, generator=generator, dtype=torch.float64))
        share = 1 - (box[2] - box[0]) * (box[3] - box[1]) / (height * width)
    parameters = crop / torch.tensor([height, width, height, width]), mirrored, partner, share, box
    return Drawn(*parameters, *([strip_orders(count, draw.shuffle, generator)] if draw.shuffle > 1 else []))


@frozen(eq=False)
class Mixed:
    """A drawn batch of views as a ``Transform``: images change, and what is told about them follows the mix.

    Classes become ``class``, ``mixed`` and ``lam``; targets ``logits`` are mixed by the share, before the softmax.
    """

    draw: Draw
    drawn: Drawn

    def __call__(self, batch: Batch) -> Batch:
        """The same rows in the same order."""
        view = self.drawn.view(self.draw, batch.index)
        batch = batch.with_inputs(changed(view, batch.inputs))
        if view.mix is None:
            return batch
        partner, share = (each.to(batch.index.device) for each in view.mix)
        own = batch.targets["class"]
        told = {"mixed": torch.where(share < 1, own[partner], own), "lam": share}
        if "logits" in batch.targets:
            told["logits"] = mixup(batch.targets["logits"], partner, share)
        return Batch(batch.inputs, {**batch.targets, **told}, batch.index)


def transform(draw: Draw, count: int, size: tuple[int, int], generator: torch.Generator) -> Transform:
    """Fresh views of a batch of ``count`` images of ``size`` (H, W), to be applied to the batch."""
    return Mixed(draw, drawn(draw, count, size, generator))


def resized_crops(
    attempts: Tensor, place: Tensor, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """The boxes of torchvision's ``RandomResizedCrop`` from uniform numbers.

    Area uniform in ``scale``, log aspect uniform in log ``ratio``; the first of the attempts that fits is placed
    uniformly; where none fits, the centre, as large as the ratio allows.

    Args:
        attempts: (A, B, 2) in [0, 1), for area and for aspect.
        place: (B, 2) in [0, 1), for top and left.

    Returns:
        (B, 4) int64 top, left, height, width in pixels.
    """
    rows, columns = size
    area = rows * columns * (scale[0] + (scale[1] - scale[0]) * attempts[..., 0])
    least, most = math.log(ratio[0]), math.log(ratio[1])
    aspect = (least + (most - least) * attempts[..., 1]).exp()
    width, height = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (width > 0) & (width <= columns) & (height > 0) & (height <= rows)
    first = fits.long().argmax(0, keepdim=True)
    height, width = height.gather(0, first)[0], width.gather(0, first)[0]
    top, left = (place[:, 0] * (rows - height + 1)).long(), (place[:, 1] * (columns - width + 1)).long()
    centre = torch.tensor(_centre(size, ratio))
    return torch.where(fits.any(0)[:, None], torch.stack([top, left, height, width], 1), centre)


def _centre(size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    rows, columns = size
    height, width = rows, columns
    if columns / rows < min(ratio):
        height = round(columns / min(ratio))
    elif columns / rows > max(ratio):
        width = round(rows * max(ratio))
    return (rows - height) // 2, (columns - width) // 2, height, width


def beta(shape: float, generator: torch.Generator) -> Tensor:
    """One number from Beta(shape, shape), () float64, by Johnk's rejection: for shapes up to 10."""
    while True:
        x, y = (torch.rand(2, generator=generator, dtype=torch.float64) ** (1 / shape)).unbind()
        if 0 < x + y <= 1:
            return x / (x + y)


def cutmix_box(share: float, size: tuple[int, int], centre: Tensor) -> Tensor:
    """The box that leaves about ``share`` of the image: sides int(side sqrt(1 - share)), clipped at the border.

    Args:
        centre: (2,) in [0, 1), for row and column.

    Returns:
        (4,) int64 top, left, bottom, right, as the authors' code has it: int(side / 2) to either side of the centre.

    >>> cutmix_box(0.75, (8, 8), torch.tensor([0.5, 0.0])).tolist()
    [2, 0, 6, 2]
    """
    sides, root = torch.tensor(size), math.sqrt(1 - share)
    half = torch.tensor([int(side * root) // 2 for side in size])
    middle = (centre * sides).long()
    return torch.cat([(middle - half).clamp(min=0), torch.minimum(middle + half, sides)])
