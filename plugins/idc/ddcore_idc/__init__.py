"""IDC's multi-formation (Kim et al., ICML 2022, arXiv:2205.14959): every stored image holds several samples.

Neighbouring pixels of images are alike, so a stored image of H x H pixels is better spent on f x f smaller ones, each
brought back to H x H by bilinear up-sampling when it is looked at:

    s = (x_1 .. x_ipc)  ->  D_f(s) = all f^2 tiles of every x, up-sampled

The matcher sees D_f(s), students train on D_f(s), and what is stored is s. ``formation="multi"`` shows every image at
all scales 1 .. f at once. The matcher, its networks and its loss stay as they are: IDC's own, which trains networks on
real images, is no part of this plugin.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs
import torch
from attrs import frozen
from attrs.validators import and_, ge, in_, le
from torch import Tensor

from ddcore import Batch, Plugin, Progress, Synthetic, Task, hookimpl, option
from ddcore.images import formed, tile_count, tiled
from ddcore.sets import several

if TYPE_CHECKING:
    from ddcore import Normalisation, Run

FORMED = "formed"
GREY = 0.5
"""What fills an image up whose size the factor does not divide, where pixels span 0 to 1."""


def decoded(images: Tensor, factor: int, formation: str = "single", fill: Tensor | float = GREY) -> Tensor:
    """D_f: every sample that images hold.

    Args:
        images: (B, C, H, H), any float dtype.
        formation: ``single``, f x f tiles; ``multi``, those of 1 x 1, 2 x 2 and so on to f x f.
        fill: (C,) or a number, in the images' units.

    Returns:
        (B * T, C, H, H), image by image, T = f * f or the sum of the squares up to it. The authors' code has the same
        samples tile by tile.
    """
    return tiled(images, scales(factor, formation), fill)


def scales(factor: int, formation: str) -> list[int]:
    """Tiles a side of every scale.

    >>> scales(3, "single"), scales(3, "multi")
    ([3], [1, 2, 3])
    """
    return list(range(1, factor + 1)) if formation == "multi" else [factor]


def shown(batch: Batch, factors: list[int], fill: Tensor | float) -> Batch:
    """A batch in which every row is replaced by its samples, one after the other; targets and index repeat."""
    each = torch.arange(len(batch), device=batch.index.device).repeat_interleave(tile_count(factors))
    return batch.rows(each).with_inputs(tiled(batch.inputs, factors, fill))


@frozen(kw_only=True, eq=False)
class IDC(Plugin):
    """Several samples in every stored image."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "several smaller samples in every stored image"
    paper: ClassVar[str] = (
        "Dataset Condensation via Efficient Synthetic-Data Parameterization, ICML 2022, arXiv:2205.14959"
    )
    role: ClassVar[str] = "enhancement"
    view_phases: ClassVar[tuple[str, ...]] = ("match", "inner", "student_step")
    settings: ClassVar[tuple[str, ...]] = ("student_step.batch",)
    initializers: ClassVar[tuple[str, ...]] = (FORMED,)
    presets: ClassVar[str | None] = "presets.toml"
    neutral: ClassVar[Mapping[str, object]] = {"factor": 1}

    factor: int = option(2, help="tiles a side of a stored image", symbol="f", validator=and_(ge(1), le(8)))
    formation: Literal["single", "multi"] = option(
        "single", help="single: all tiles of one size; multi: of all sizes up to it", validator=in_(("single", "multi"))
    )
    start: str = option("real", help="initialiser of the samples that are shrunk into a stored image at its start")
    divide_batch: bool = option(
        True, help="fewer stored images in an unrolled student step, so that as many samples are seen"
    )

    @property
    def factors(self) -> list[int]:
        """Tiles a side of every scale."""
        return scales(self.factor, self.formation)

    @hookimpl
    def ddcore_initialize(self, name: str, classes: Tensor, task: Task, run: "Run") -> Tensor | None:
        """f x f images of ``start`` shrunk into each."""
        if name != FORMED:
            return None
        count = self.factor**2
        images = run.initialize(classes.repeat_interleave(count), task, self.start)
        return formed(images.unflatten(0, (len(classes), count)), self.factor)

    @hookimpl
    def ddcore_view(self, batch: Batch, run: "Run") -> Batch | None:
        """The samples in the place of the stored images."""
        if self.factors == [1]:
            return None
        return shown(batch, self.factors, grey(run.normalisation, batch.inputs))

    @hookimpl
    def ddcore_setting(self, value: int, name: str, progress: Progress) -> int | None:
        """As many samples as the matcher asks for, at least those of one stored image."""
        return max(1, value // tile_count(self.factors)) if name == "student_step.batch" and self.divide_batch else None

    @hookimpl
    def ddcore_store(self, synthetic: Synthetic, run: "Run") -> Synthetic | None:
        """The decoder's last operation."""
        count = tile_count(self.factors)
        if self.factors == [1]:
            return None
        fill = grey(run.normalisation, torch.zeros(1, run.source.channels, 1, 1))
        found = several(synthetic, {"op": "tiles", "factors": self.factors, "fill": fill.tolist()}, count)
        rows = len(synthetic.classes)
        note = f"{rows:,} stored images hold {rows * count:,} samples, {count} each, up-sampled from tiles when they are read"
        return attrs.evolve(found, notes=(*found.notes, note))


def grey(normalisation: "Normalisation", like: Tensor) -> Tensor:
    """(C,) the value of middle grey in normalised images; 0 where channels are not normalised one by one."""
    channels = like.shape[1]
    if not normalisation.pixelwise:
        return like.new_zeros(channels)
    pixels = torch.full((1, channels, 1, 1), GREY, dtype=like.dtype, device=like.device)
    return normalisation.apply(pixels).flatten()
