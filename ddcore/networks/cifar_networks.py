"""The networks that knowledge distillation is compared on, for images of about 32 pixels, as in RepDistiller and
mdistiller.

    resnet{8,14,20,32,44,56,110}  resnet{8,14,32,110}x{2,4}  wrn-DEPTH-WIDTH  vgg8 vgg13  mobilenetv2  shufflenetv1
    shufflenetv2

All have batch norm, a stem, stages that end in ReLU (of a wide ResNet: in a sum) and global average pooling, so that
the size of images is free; parameter counts are those of the published code at 100 classes. ``taps`` names where
features are compared. Sources: He et al. (CVPR 2016, arXiv:1512.03385, section 4.2; shortcuts are 1x1 convolutions),
Zagoruyko and Komodakis (BMVC 2016, arXiv:1605.07146), Sandler et al. (CVPR 2018, arXiv:1801.04381), Zhang et al. (CVPR
2018, arXiv:1707.01083), Ma et al. (ECCV 2018, arXiv:1807.11164).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

RESNET = re.compile(r"resnet(?P<depth>8|14|20|32|44|56|110)(x(?P<times>[24]))?")
WIDE = re.compile(r"wrn-(?P<depth>\d{2,3})-(?P<times>\d{1,2})")
NAMES: tuple[str, ...] = (
    "resnet8",
    "resnet20",
    "resnet56",
    "resnet8x4",
    "resnet32x4",
    "wrn-16-2",
    "wrn-40-2",
    "vgg8",
    "vgg13",
)
NAMES += ("mobilenetv2", "shufflenetv1", "shufflenetv2")


class Staged(nn.Module):
    """A stem, stages, an end (batch norm or a wider convolution), global average pooling, a linear classifier.

    Attributes:
        taps: name to module path: ``stem``, ``stage1`` and so on.
    """

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], end: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.stem, self.stages, self.end = stem, nn.ModuleList(stages), end
        self.classifier = nn.Linear(width, classes)

    @property
    def taps(self) -> Mapping[str, str]:
        """Where features are compared."""
        return {"stem": "stem", **{f"stage{n + 1}": f"stages.{n}" for n in range(len(self.stages))}}

    def embed(self, images: Tensor) -> Tensor:
        """The classifier's input (B, D)."""
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return self.end(x).mean((2, 3))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.classifier(self.embed(images))  # type: ignore[no-any-return]


def maker(name: str) -> Callable[[int, int, int], nn.Module] | None:
    """From (channels, size, classes) to the network of a name; None if it is not one of these."""
    if match := RESNET.fullmatch(name):
        depth, times = int(match["depth"]), int(match["times"] or 1)
        return lambda channels, size, classes: resnet(channels, classes, depth, times)
    if match := WIDE.fullmatch(name):
        depth, times = int(match["depth"]), int(match["times"])
        if (depth - 4) % 6 == 0 and depth > 4 and times > 0:
            return lambda channels, size, classes: wide_resnet(channels, classes, depth, times)
    fixed: dict[str, Callable[[int, int, int], nn.Module]] = {
        "vgg8": lambda channels, size, classes: vgg(channels, size, classes, 1, (1, 1, 1, 1)),
        "vgg13": lambda channels, size, classes: vgg(channels, size, classes, 2, (2, 2, 2, 2)),
        "mobilenetv2": lambda channels, size, classes: mobilenet(channels, size, classes),
        "shufflenetv1": lambda channels, size, classes: shufflenet_v1(channels, classes),
        "shufflenetv2": lambda channels, size, classes: shufflenet_v2(channels, classes),
    }
    return fixed.get(name)


def _conv(into: int, width: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(into, width, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)


def _unit(into: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution, batch norm, ReLU."""
    return [_conv(into, width, kernel, stride, groups), nn.BatchNorm2d(width), nn.ReLU()]


def _init(network: nn.Module, linear: float | None = None) -> nn.Module:
    """Normal weights of deviation sqrt(2 / fan out) in convolutions; ``linear`` is the deviation of linear ones,
    if given."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear is not None:
            nn.init.normal_(module.weight, 0, linear)
            nn.init.zeros_(module.bias)
    return network


# ---- ResNets ---------------------------------------------------------------------------------------------------------


class Basic(nn.Module):
    """ReLU of two 3x3 convolutions plus a shortcut."""

    def __init__(self, into: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_unit(into, width, 3, stride), _conv(width, width, 3), nn.BatchNorm2d(width))
        changes = stride != 1 or into != width
        short = [_conv(into, width, 1, stride), nn.BatchNorm2d(width)] if changes else []
        self.shortcut = nn.Sequential(*short)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        return (self.body(x) + self.shortcut(x)).relu()  # type: ignore[no-any-return]


def resnet(channels: int, classes: int, depth: int, times: int) -> nn.Module:
    """6 n + 2 layers, widths 16, 16, 32, 64; with ``times`` 2 or 4 a stem of 32 and the stages that much wider."""
    each, stem = (depth - 2) // 6, 16 if times == 1 else 32
    return staged_resnet(channels, classes, stem, (each, each, each), (16 * times, 32 * times, 64 * times))


def staged_resnet(channels: int, classes: int, stem: int, depths: Sequence[int], widths: Sequence[int]) -> nn.Module:
    """A ResNet of any stages: ``depths`` blocks of ``widths`` channels after a stem;
    all stages but the first halve the map."""
    first, into, stages = nn.Sequential(*_unit(channels, stem, 3)), stem, []
    for at, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        strides = (1 if at == 0 else 2, *[1] * (depth - 1))
        stages.append(nn.Sequential(*(Basic(width if n else into, width, s) for n, s in enumerate(strides))))
        into = width
    return _init(Staged(first, stages, nn.Identity(), into, classes))


class Before(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, plus a shortcut."""

    def __init__(self, into: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(into), nn.ReLU())
        self.body = nn.Sequential(
            _conv(into, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU(), _conv(width, width, 3)
        )
        self.shortcut = None if into == width else _conv(into, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        ready = self.first(x)
        return self.body(ready) + (x if self.shortcut is None else self.shortcut(ready))  # type: ignore[no-any-return]


def wide_resnet(channels: int, classes: int, depth: int, times: int) -> nn.Module:
    """6 n + 4 layers, widths 16 and ``times`` 16, 32, 64; batch norm and ReLU at the end."""
    each, into, stages = (depth - 4) // 6, 16, []
    for width, stride in ((16 * times, 1), (32 * times, 2), (64 * times, 2)):
        stages.append(nn.Sequential(*(Before(width if n else into, width, 1 if n else stride) for n in range(each))))
        into = width
    return _init(Staged(_conv(channels, 16, 3), stages, nn.Sequential(nn.BatchNorm2d(into), nn.ReLU()), into, classes))


# ---- the others ------------------------------------------------------------------------------------------------------


def vgg(channels: int, size: int, classes: int, first: int, each: Sequence[int]) -> nn.Module:
    """Stages of 3x3 convolutions of 64, 128, 256, 512, 512, max-pooled before each but the first and, below 64 pixels,
    the last."""

    def block(into: int, width: int, count: int, pooled: bool) -> nn.Sequential:
        units = []
        for n in range(count):
            units += [_conv(width if n else into, width, 3, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
        return nn.Sequential(*([nn.MaxPool2d(2)] if pooled else []), *units)

    if size < 8:
        raise ValueError("three poolings leave nothing of it")
    stages, into = [], 64
    for at, (width, count) in enumerate(zip((128, 256, 512, 512), each, strict=True)):
        stages.append(block(into, width, count, pooled=at < 3 or size >= 64))
        into = width
    return _init(Staged(block(channels, 64, first, pooled=False), stages, nn.Identity(), 512, classes), linear=0.01)


class Inverted(nn.Module):
    """Wider, depthwise 3x3, narrower; with a shortcut where nothing changes."""

    def __init__(self, into: int, width: int, stride: int, times: int) -> None:
        super().__init__()
        wide = into * times
        self.body = nn.Sequential(
            *_unit(into, wide, 1),
            *_unit(wide, wide, 3, stride, groups=wide),
            _conv(wide, width, 1),
            nn.BatchNorm2d(width),
        )
        self.shortcut = stride == 1 and into == width

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        return x + self.body(x) if self.shortcut else self.body(x)  # type: ignore[no-any-return]


def mobilenet(channels: int, size: int, classes: int) -> nn.Module:
    """MobileNetV2 of half width and expansion 6, whose stem and second stage have strides 2 and 1,
    as in the published comparison."""
    rows = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    into, groups = 16, []
    for times, full, count, stride in rows:
        width = full // 2
        layers = [Inverted(width if n else into, width, 1 if n else stride, times) for n in range(count)]
        groups.append(nn.Sequential(*layers))
        into = width
    stages = [nn.Sequential(*groups[a:b]) for a, b in ((0, 2), (2, 3), (3, 5), (5, 7))]
    if size < 16:
        raise ValueError("four halvings leave a pixel or less")
    stem, end = nn.Sequential(*_unit(channels, 16, 3, 2)), nn.Sequential(*_unit(into, 1280, 1))
    return _init(Staged(stem, stages, end, 1280, classes), linear=0.01)


class Shuffle(nn.Module):
    """Channels of g groups dealt out in turn."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        count, channels, height, width = x.shape
        dealt = x.reshape(count, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return dealt.reshape(count, channels, height, width)


class Grouped(nn.Module):
    """ShuffleNet's unit: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1;
    halving units join an average pooling instead of adding."""

    def __init__(self, into: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        own = width - into if stride == 2 else width
        middle, first = own // 4, 1 if into == 24 else groups
        self.body = nn.Sequential(
            *_unit(into, middle, 1, groups=first),
            Shuffle(first),
            *_unit(middle, middle, 3, stride, groups=middle),
            _conv(middle, own, 1, groups=groups),
            nn.BatchNorm2d(own),
        )
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        out = self.body(x)
        return (out + x if self.pool is None else torch.cat([out, self.pool(x)], 1)).relu()  # type: ignore[no-any-return]


def shufflenet_v1(channels: int, classes: int) -> nn.Module:
    """ShuffleNet, 3 groups, stages of 4, 8, 4 units and 240, 480, 960 channels; a 1x1 stem and no pooling after it."""
    into, stages = 24, []
    for width, count in ((240, 4), (480, 8), (960, 4)):
        stages.append(nn.Sequential(*(Grouped(width if n else into, width, 1 if n else 2, 3) for n in range(count))))
        into = width
    return Staged(nn.Sequential(*_unit(channels, 24, 1)), stages, nn.Identity(), 960, classes)


class Split(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass as they are, the rest by 1x1, depthwise 3x3, 1x1;
    then a shuffle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        middle = [_conv(half, half, 3, groups=half), nn.BatchNorm2d(half)]
        self.body = nn.Sequential(*_unit(half, half, 1), *middle, *_unit(half, half, 1))
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        kept, changed = x.chunk(2, 1)
        return self.shuffle(torch.cat([kept, self.body(changed)], 1))  # type: ignore[no-any-return]


class Down(nn.Module):
    """ShuffleNetV2's halving unit: both branches see all channels."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.left = nn.Sequential(_conv(into, into, 3, 2, into), nn.BatchNorm2d(into), *_unit(into, half, 1))
        middle = [_conv(half, half, 3, 2, half), nn.BatchNorm2d(half)]
        self.right = nn.Sequential(*_unit(into, half, 1), *middle, *_unit(half, half, 1))
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        return self.shuffle(torch.cat([self.left(x), self.right(x)], 1))  # type: ignore[no-any-return]


def shufflenet_v2(channels: int, classes: int) -> nn.Module:
    """ShuffleNetV2 of width 1: stages of 116, 232, 464 channels, 1024 at the end;
    a 1x1 stem and no pooling after it."""
    into, stages = 24, []
    for width, count in ((116, 3), (232, 7), (464, 3)):
        stages.append(nn.Sequential(Down(into, width), *(Split(width) for _ in range(count))))
        into = width
    end = nn.Sequential(*_unit(464, 1024, 1))
    return Staged(nn.Sequential(*_unit(channels, 24, 1)), stages, end, 1024, classes)
