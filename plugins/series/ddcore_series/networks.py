"""Networks for series (B, C, L): the field's ConvNet in one dimension, and three of time series classification.

    convnet1d[DEPTH][-in|-bn|-nonorm][-wWIDTH][-kKERNEL]
    resnet1d[-wWIDTH]   fcn1d[-wWIDTH]      Wang et al., arXiv:1611.06455
    inception-time[DEPTH][-wFILTERS]        Ismail Fawaz et al., arXiv:1909.04939

Shape letters: B series, C channels, L values, D width of the embedding, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddcore import InputError

NAMES = ("convnet1d", "convnet1d3-w64", "resnet1d", "fcn1d", "inception-time", "inception-time3-w16")
GRAMMAR = re.compile(
    r"(?P<kind>convnet1d|resnet1d|fcn1d|inception-time)(?P<depth>[1-9]\d?)?(-(?P<norm>in|bn|nonorm))?"
    r"(-w(?P<width>[1-9]\d{0,3}))?(-k(?P<kernel>[1-9]\d?))?"
)
WIDTH, KERNEL = 128, 3
INCEPTION_DEPTH, FILTERS, BOTTLENECK = 6, 32, 32
INCEPTION_KERNELS = (10, 20, 40)
RESIDUAL_WIDTH = 64
LEFT = 16
"""Values of a series that the ConvNet's usual depth leaves at most."""


class SeriesNetwork(nn.Module):
    """Features, flattened, then one linear layer.

    Args:
        features: stages in a row, from (B, C, L) to what flattens to (B, D).
    """

    def __init__(self, features: nn.Sequential, width: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Linear(width, classes)

    @property
    def taps(self) -> dict[str, str]:
        """``stage1`` and so on: what each stage gives, (B, D, L')."""
        stages = [path for path, module in self.features.named_children() if isinstance(module, Stage)]
        return {f"stage{n}": f"features.{path}" for n, path in enumerate(stages, 1)}

    def embed(self, series: Tensor) -> Tensor:
        """The classifier's input (B, D)."""
        return torch.flatten(self.features(series), 1)

    def forward(self, series: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.classifier(self.embed(series))  # type: ignore[no-any-return]


class Stage(nn.Sequential):
    """Layers in a row whose result may be compared with another network's."""


class Residual(Stage):
    """ReLU of a body and a 1x1 convolution of what went into it."""

    def __init__(self, body: nn.Module, into: int, width: int) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Sequential(nn.Conv1d(into, width, 1, bias=False), nn.BatchNorm1d(width))

    def forward(self, series: Tensor) -> Tensor:
        """(B, C, L) to (B, D, L)."""
        return torch.relu(self.body(series) + self.shortcut(series))


class Inception(nn.Module):
    """A bottleneck, convolutions of three lengths beside a pooled 1x1 one, batch norm and ReLU: 4 F channels."""

    def __init__(self, into: int, filters: int) -> None:
        super().__init__()
        narrow = min(BOTTLENECK, filters) if into > 1 else into
        self.bottleneck = nn.Conv1d(into, narrow, 1, bias=False) if into > 1 else nn.Identity()
        self.branches = nn.ModuleList(_same(narrow, filters, kernel) for kernel in INCEPTION_KERNELS)
        self.pooled = nn.Sequential(nn.MaxPool1d(3, 1, 1), nn.Conv1d(into, filters, 1, bias=False))
        self.norm = nn.BatchNorm1d(4 * filters)

    def forward(self, series: Tensor) -> Tensor:
        """(B, C, L) to (B, 4 F, L)."""
        narrow = self.bottleneck(series)
        every = [*(branch(narrow) for branch in self.branches), self.pooled(series)]
        return torch.relu(self.norm(torch.cat(every, 1)))


def build(name: str, shape: tuple[int, ...], classes: int) -> nn.Module | None:
    """A network by the grammar at the top of this file, in any case; None if the name is not known here.

    Args:
        shape: (C, L).

    Raises:
        InputError: it cannot be built so, or not for series of that shape.
    """
    found = GRAMMAR.fullmatch(name.lower())
    if found is None:
        return None
    kind = found["kind"]
    if len(shape) != 2:
        raise InputError(f"network {name!r} is of series (C, L), and samples are of shape {shape}: choose another")
    parts = {"convnet1d": ("depth", "norm", "width", "kernel"), "inception-time": ("depth", "width")}
    if odd := [part for part in ("depth", "norm", "kernel") if found[part] and part not in parts.get(kind, ("width",))]:
        raise InputError(f"network {name!r}: a {kind} has no {odd[0]} to choose: leave it out")
    width = int(found["width"]) if found["width"] else None
    depth = int(found["depth"]) if found["depth"] else None
    if kind == "convnet1d":
        return _convnet(
            name, shape, classes, depth, found["norm"] or "in", width or WIDTH, int(found["kernel"] or KERNEL)
        )
    if kind == "inception-time":
        return _inception_time(shape, classes, depth or INCEPTION_DEPTH, width or FILTERS)
    return (_resnet if kind == "resnet1d" else _fcn)(shape, classes, width or RESIDUAL_WIDTH)


def usual_depth(length: int) -> int:
    """Halvings that leave at most 16 values; 2 to 7.

    >>> [usual_depth(n) for n in (24, 64, 100, 150, 1460)]
    [2, 2, 3, 4, 7]
    """
    halvings = 0
    while length // 2**halvings > LEFT:
        halvings += 1
    return min(7, max(2, halvings))


def _convnet(
    name: str, shape: tuple[int, ...], classes: int, depth: int | None, norm: str, width: int, kernel: int
) -> nn.Module:
    """``depth`` times a convolution, norm, ReLU and average pooling of 2; flattened, linear."""
    into, length = shape
    stages = []
    for _ in range(usual_depth(length) if depth is None else depth):
        made: dict[str, Callable[[], list[nn.Module]]] = {
            "in": lambda: [nn.GroupNorm(width, width)],
            "bn": lambda: [nn.BatchNorm1d(width)],
            "nonorm": lambda: [],
        }
        if norm == "in" and length < 2:
            length = 0
        stages.append(Stage(_same(into, width, kernel, bias=True), *made[norm](), nn.ReLU(), nn.AvgPool1d(2)))
        into, length = width, length // 2
    if length < 1:
        raise InputError(
            f"network {name!r} cannot take series of {shape[1]} values: give it fewer layers, or longer series"
        )
    return SeriesNetwork(nn.Sequential(*stages), width * length, classes)


def _block(into: int, widths: tuple[int, ...], last: bool) -> nn.Sequential:
    """Convolutions of 8, 5 and 3 with batch norm, ReLU between them and with ``last`` after them."""
    layers: list[nn.Module] = []
    for kernel, width in zip((8, 5, 3), widths, strict=True):
        layers += [_same(into, width, kernel), nn.BatchNorm1d(width), nn.ReLU()]
        into = width
    return nn.Sequential(*(layers if last else layers[:-1]))


def _fcn(shape: tuple[int, ...], classes: int, width: int) -> nn.Module:
    """Three convolutions, 2, 4 and 2 times as wide as ``width``, and the mean over time."""
    body = Stage(*_block(shape[0], (2 * width, 4 * width, 2 * width), last=True))
    return SeriesNetwork(nn.Sequential(body, nn.AdaptiveAvgPool1d(1)), 2 * width, classes)


def _resnet(shape: tuple[int, ...], classes: int, width: int) -> nn.Module:
    """Three residual blocks of ``width``, and twice as wide, and the mean over time."""
    blocks, into = [], shape[0]
    for own in (width, 2 * width, 2 * width):
        blocks.append(Residual(_block(into, (own, own, own), last=False), into, own))
        into = own
    return SeriesNetwork(nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1)), into, classes)


def _inception_time(shape: tuple[int, ...], classes: int, depth: int, filters: int) -> nn.Module:
    """Inception modules, a shortcut over each three of them, and the mean over time."""
    stages: list[nn.Module] = []
    into = shape[0]
    for first in range(0, depth, 3):
        count = min(3, depth - first)
        body = nn.Sequential(*(Inception(into if at == 0 else 4 * filters, filters) for at in range(count)))
        stages.append(Residual(body, into, 4 * filters) if count == 3 else Stage(*body))
        into = 4 * filters
    return SeriesNetwork(nn.Sequential(*stages, nn.AdaptiveAvgPool1d(1)), into, classes)


def _same(into: int, width: int, kernel: int, *, bias: bool = False) -> nn.Module:
    """A convolution that keeps the length; an even one sees one value more of the future than of the past."""
    before = (kernel - 1) // 2
    if kernel % 2:
        return nn.Conv1d(into, width, kernel, padding=before, bias=bias)
    pad = nn.ConstantPad1d((before, kernel - 1 - before), 0.0)
    return nn.Sequential(pad, nn.Conv1d(into, width, kernel, bias=bias))
