"""FerKD: stored teachers' labels of crops (FKD, ECCV 2022, arXiv:2112.01528), sorted by confidence (ICCV 2023,
arXiv:2312.17473).

Teachers are asked once: for R random crops of each image, what they say is compressed to k classes and stored with the
crop. FerKD drops crops of which they are too sure or too unsure and gives doubtful ones the smoothed class:

    y < T_L or y > T_T: dropped
    T_L <= y < T_M:     (1 - eps) on the class, eps / (K - 1) elsewhere
    else:               the teachers' label

with y the largest probability. Students draw from the store, and lose -sum_c y_c log softmax(z / T)_c. The formulas are
in ``ddcore_ferkd.calibration``, the label kind in ``ddcore_ferkd.store``; here is how a store is made.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from attrs import frozen
from attrs.validators import and_, ge, gt, le, lt, optional
from torch import Tensor, nn

from ddcore import Plugin, hookimpl, option
from ddcore.images import Draw, changed, drawn
from ddcore.labels import Labels, View, asking, smallest_type
from ddcore.training import longest
from ddcore_ferkd.calibration import Calibration, Compression, compressed
from ddcore_ferkd.store import CropLabels, Dropped, Kept, Mix, Use, store_bytes, together

if TYPE_CHECKING:
    from ddcore import Run

__all__ = ["CropLabels", "Crops", "FerKD", "Kept", "label_crops", "store_bytes", "together"]
NAME = "ferkd"
CROPS = 500
"""The authors' R, for 300 epochs."""
AT_ONCE = 512
"""Crops that are cut before teachers are asked about them."""


@frozen
class Crops:
    """Which crops are made of an image.

    Attributes:
        count: R.
        draw: their crop, mirror, scale and ratio; its mix is not looked at.
    """

    count: int
    draw: Draw


def label_crops(
    images: Tensor,
    teachers: Sequence[nn.Module],
    generator: torch.Generator,
    *,
    classes: Tensor,
    crops: Crops,
    weights: Sequence[float] | None = None,
    kept: Kept = Kept(),  # noqa: B008
    use: Use | None = None,
) -> CropLabels:
    """Draw crops of each image and store what teachers say to them, all teachers to the same crops.

    Args:
        images: (N, C, H, W) normalised.
        teachers: in eval mode.
        generator: of boxes and mirrors, and of nothing else.
        classes: (N,) int64.
        weights: of the teachers; default: equal ones.
        kept: what is stored of their answers.
    """
    height, width = size = images.shape[2], images.shape[3]
    parameters = drawn(crops.draw, len(images) * crops.count, size, generator)
    boxes = (parameters.crop.double() * torch.tensor([height, width, height, width])).round()
    shares = torch.tensor([1.0] * len(teachers) if weights is None else list(weights), dtype=torch.float64)
    shares = shares / shares.sum()
    asked, ids, values, sure = [asking(teacher) for teacher in teachers], [], [], []
    for rows in torch.arange(len(boxes)).split(AT_ONCE):  # type: ignore[no-untyped-call]
        exact = boxes[rows] / torch.tensor([height, width, height, width])
        ops = ("crop-resize", {"box": exact}), ("flip", {"where": parameters.flip[rows]})
        view = View(rows // crops.count, ops)
        seen = changed(view, images[view.index.to(images.device)])
        each = torch.stack([(ask(seen).float() / kept.temperature).softmax(1).cpu() for ask in asked], 1)
        top, found = compressed(each.flatten(0, 1), kept.compression, kept.k)
        ids.append(found.view(len(rows), len(teachers), -1).to(smallest_type(each.shape[2])))
        values.append(top.view(len(rows), len(teachers), -1).to(torch.float16 if kept.half else torch.float32))
        sure.append((each * shares.float()[:, None]).sum(1).amax(1).to(values[-1].dtype))
    told = kept.compression != "hard" and len(teachers) == 1
    shape = len(images), crops.count
    return CropLabels(
        classes=classes,
        class_count=each.shape[2],
        size=size,
        boxes=boxes.to(smallest_type(max(size) + 1)).view(*shape, 4),
        flips=parameters.flip.view(shape),
        ids=torch.cat(ids).unflatten(0, shape),  # type: ignore[no-untyped-call]
        values=None if kept.compression == "hard" else torch.cat(values).unflatten(0, shape),  # type: ignore[no-untyped-call]
        weights=shares.tolist(),
        confidence=None if told or kept.calibration is None else torch.cat(sure).view(shape),
        compression=kept.compression,
        temperature=kept.temperature,
        calibration=kept.calibration,
        use=use or Use(together=min(4, crops.count)),
    )


@frozen(kw_only=True, eq=False)
class FerKD(Plugin):
    """Ask teachers about many crops once, and let students draw from what is worth it."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "stored labels of many crops of each image, dropped or adapted by the teachers' confidence"
    paper: ClassVar[str] = "FerKD: Surgical Label Adaptation for Efficient Distillation, ICCV 2023, arXiv:2312.17473"
    role: ClassVar[str] = "labels"
    needs: ClassVar[tuple[str, ...]] = ("teachers",)
    labellers: ClassVar[tuple[str, ...]] = (NAME,)
    tiny: ClassVar[Mapping[str, object]] = {"crops": 4, "together": 2, "calibrate": False}

    crops: int | None = option(
        None,
        help="stored of each image; none: as many as the protocol has epochs, at most 500, at least m",
        symbol="R",
        validator=optional(ge(1)),
    )
    together: int = option(4, help="crops of an image that lie side by side in a batch", symbol="m", validator=ge(1))
    tail: bool = option(True, help="one crop of an image in each of the protocol's last m epochs")
    compression: Compression = option("marginal-smoothing", help="what is kept of a label")
    k: int = option(5, help="of the marginal ones: classes kept", symbol="K", validator=ge(1))
    temperature: float = option(
        1.0, help="softens teachers and students", symbol="T", validator=and_(ge(1e-3), le(1e3))
    )
    half: bool = option(True, help="store probabilities in float16")
    scale: float = option(0.08, help="least area of a crop, a share of the image", validator=and_(gt(0), le(1)))
    least_pixels: int = option(128, help="least area of a crop in pixels; 0: only scale counts", validator=ge(0))
    calibrate: bool = option(True, help="drop and adapt by confidence; --ferkd.no-calibrate is FKD")
    low: float = option(0.15, help="crops of lower confidence are dropped", symbol="T_L", validator=and_(ge(0), le(1)))
    middle: float = option(
        0.3, help="crops of lower confidence get the smoothed class", symbol="T_M", validator=and_(ge(0), le(1))
    )
    high: float = option(
        0.95, help="crops of higher confidence are dropped", symbol="T_T", validator=and_(ge(0), le(1))
    )
    smoothing: float = option(
        0.1, help="what the other classes share of a smoothed class", symbol="eps", validator=and_(ge(0), lt(1))
    )
    dropped: Dropped = option("redrawn", help="dropped crops are never drawn, or drawn with weight 0")
    mix: Mix = option(
        "none", help="self, self-box: two crops of one image; mixup, cutmix, both: rows of a batch, always"
    )
    beta: float | None = option(
        None,
        help="shares are drawn from Beta(beta, beta); none: 0.8 of mixup, else 1",
        validator=optional(and_(gt(0), le(10))),
    )

    @hookimpl
    def ddcore_label(self, name: str, images: Tensor, classes: Tensor, run: "Run") -> Labels | None:
        """``ferkd``: a store for these images; the shares of its regions are logged."""
        if name != NAME:
            return None
        votes, epochs = run.votes("label"), longest(run)
        made = label_crops(
            images,
            [vote.network for vote in votes],
            run.generator("ferkd", "crops"),
            classes=classes,
            crops=Crops(
                self.crops or max(self.together, min(CROPS, epochs)),
                Draw(scale=(self.least_share(run.source.size), 1.0), mix="none").fitting(
                    run.source.size, run.source.mirror_symmetric
                ),
            ),
            weights=[vote.weight for vote in votes],
            kept=Kept(self.compression, self.k, self.temperature, self.half, self.thresholds()),
            use=self.use(epochs, run.seed),
        )
        self._say(made, run)
        return made

    def least_share(self, size: int) -> float:
        """The least area of a crop, a share of an image of ``size`` x ``size`` pixels: ``scale``, or more where that
        would be fewer than ``least_pixels``.

        >>> [FerKD().least_share(size) for size in (224, 40, 32, 16, 8)]
        [0.08, 0.08, 0.125, 0.5, 1.0]
        """
        return min(1.0, max(self.scale, self.least_pixels / size**2))

    def thresholds(self) -> Calibration | None:
        """FerKD's; None for FKD."""
        values = {"low": self.low, "middle": self.middle, "high": self.high, "smoothing": self.smoothing}
        return Calibration(**values) if self.calibrate else None

    def use(self, epochs: int, seed: int) -> Use:
        """How students draw, of which the longest trains for so many epochs."""
        return Use(
            together=self.together,
            single_from=max(0, epochs - self.together) if self.tail and self.together > 1 else None,
            dropped=self.dropped,
            mix=self.mix,
            beta=self.beta,
            seed=seed,
        )

    def _say(self, made: CropLabels, run: "Run") -> None:
        shares = made.shares()
        words = ", ".join(f"{share:.1%} {name}" for name, share in shares.items())
        run.say(
            f"labels: {made.crops} crops of {len(made)} images, {made.payload_bytes:,} bytes{': ' * bool(words)}{words}"
        )
        run.log("ferkd", crops=made.crops, bytes=made.payload_bytes, **shares)
