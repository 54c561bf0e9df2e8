"""The field's networks, in its own small-image variants, as in the code of DC, DSA, DM and MTT at 28 and 32 pixels.

Every network maps images (B, C, H, W) to logits (B, K), and ``embed`` gives the flattened input (B, D) of its last
linear layer. Instance normalisation is GroupNorm with as many groups as channels; initialisation is PyTorch's default.
From 64 pixels on, LeNet, AlexNet and the ResNets begin with stride 2 and VGG11 ends with every other pixel, as in
DATM's code.

    convnet[DEPTH][-bn|-ln|-in|-gn|-nonorm][-wWIDTH][-relu|-sigmoid|-leaky|-swish][-avg|-max|-nopool]
    mlp  lenet  alexnet[-bn]  vgg11[-bn]  resnet18[-bn]  resnet18ap[-bn]  those of ``cifar_networks``
    and, of ``outside``, torchvision:NAME  timm:NAME  hub:REPO:NAME
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddcore import randomness
from ddcore.errors import InputError, near
from ddcore.networks import cifar_networks, outside

CONVNET = re.compile(
    r"convnet(?P<depth>[1-9]\d?)?(-(?P<norm>bn|ln|in|gn|nonorm))?(-w(?P<width>[1-9]\d{0,4}))?"
    r"(-(?P<act>relu|sigmoid|leaky|swish))?(-(?P<pool>avg|max|nopool))?"
)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "leaky": lambda: nn.LeakyReLU(0.01),
    "swish": nn.SiLU,
}
WIDTH = 128
VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


class Classifier(nn.Module):
    """Features, flattened, then one linear layer."""

    def __init__(self, features: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Linear(width, classes)

    @property
    def taps(self) -> dict[str, str]:
        """Where features are compared, by name: ``stage1`` and so on, after each pooling,
        or each pair of residual blocks; ``unpooled1`` and so on, before each pooling."""
        named = list(self.features.named_children())
        blocks = [path for path, module in named if isinstance(module, Block)][1::2]
        pools = [path for path, module in named if isinstance(module, nn.AvgPool2d | nn.MaxPool2d)]
        before = dict(zip((path for path, _ in named[1:]), (path for path, _ in named), strict=False))
        unpooled = [] if blocks else [before[path] for path in pools]
        named_taps = (("stage", blocks or pools), ("unpooled", unpooled))
        return {f"{name}{n}": f"features.{path}" for name, paths in named_taps for n, path in enumerate(paths, 1)}

    def embed(self, images: Tensor) -> Tensor:
        """The classifier's input (B, D)."""
        return torch.flatten(self.features(images), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.classifier(self.embed(images))  # type: ignore[no-any-return]


def build(name: str, channels: int, size: int, classes: int, generator: torch.Generator) -> nn.Module | None:
    """A freshly initialised network on the CPU, float32, in train mode; None if the name is not known here.

    Args:
        name: by the grammar at the top of this file, in any case.
        generator: all randomness; torch's global generator is as it was afterwards.

    Raises:
        InputError: the images are too small for it.
    """
    maker = _maker(name)
    if maker is None:
        return None
    with randomness.drawing_from(generator):
        try:
            return maker(channels, size, classes)
        except ValueError as error:
            what = f"network {name!r} cannot take images of {size}x{size} pixels ({error})"
            raise InputError(f"{what}: choose another or --resize") from error


def network_names() -> list[str]:
    """Names for messages and completion; ConvNets have more variants."""
    convnets = ["convnet", "convnet2", "convnet3", "convnet4", "convnet3-bn", "convnet3-w32"]
    return [*convnets, *_FIXED, *cifar_networks.NAMES, *outside.NAMES]


def knows(name: str) -> bool:
    """Whether ``build`` answers for a name."""
    return _maker(name) is not None


def unknown_network(name: str) -> str:
    """One sentence for a name that nobody answers."""
    return f"no network is named {name!r}: {near(name, network_names())}"


def mixes_samples(network: nn.Module) -> bool:
    """Whether a sample's output depends on the others of its batch while training (BatchNorm)."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())


Maker = Callable[[int, int, int], nn.Module]


def _maker(name: str) -> Maker | None:
    name = name.lower()
    if match := CONVNET.fullmatch(name):
        return lambda channels, size, classes: convnet(channels, size, classes, **_convnet_options(match.groupdict()))
    if (elsewhere := outside.maker(name)) is not None:
        return elsewhere
    return _FIXED.get(name) or cifar_networks.maker(name)


def _convnet_options(found: dict[str, str | None]) -> dict[str, Any]:
    return {
        "depth": int(found["depth"]) if found["depth"] else None,
        "width": int(found["width"]) if found["width"] else WIDTH,
        "norm": found["norm"] or "in",
        "activation": found["act"] or "relu",
        "pool": found["pool"] or "avg",
    }


def usual_depth(size: int) -> int:
    """The field's depth for an image size: 3 at 28 and 32 pixels, 4 at 64, 5 at 128; 2 under 16.

    >>> [usual_depth(n) for n in (8, 16, 28, 32, 64, 128)]
    [2, 3, 3, 3, 4, 5]
    """
    if size < 16:
        return 2
    return 3 if size < 48 else 4 if size < 96 else 5 if size < 192 else 6


def convnet(
    channels: int, size: int, classes: int, *, depth: int | None, width: int, norm: str, activation: str, pool: str
) -> nn.Module:
    """``depth`` times a 3x3 convolution, norm, activation and 2x2 pooling; flattened, linear.

    Grey images of 28 pixels and more are padded by 3 instead of 1 at first, as in the authors' code, whose 28 pixels so
    become 32; smaller ones (digits, 8 pixels) are not, since half of the map would be frame.
    """
    depth = usual_depth(size) if depth is None else depth
    if norm == "gn" and width % 4:
        raise InputError(f"a convnet with group norm has 4 groups: make its width a multiple of 4, not {width}")
    layers: list[nn.Module] = []
    side = size + 4 if channels == 1 and size >= 28 else size
    into = channels
    for at in range(depth):
        padding = 3 if at == 0 and side != size else 1
        layers += [nn.Conv2d(into, width, 3, padding=padding), *_norm(norm, width, side), ACTIVATIONS[activation]()]
        if pool != "nopool":
            layers.append(nn.AvgPool2d(2, 2) if pool == "avg" else nn.MaxPool2d(2, 2))
            side //= 2
        into = width
    if side < 1:
        raise ValueError(f"{depth} poolings leave nothing of it")
    return Classifier(nn.Sequential(*layers), width * side * side, classes)


def _norm(name: str, width: int, side: int) -> list[nn.Module]:
    if name == "nonorm":
        return []
    made: dict[str, Callable[[], nn.Module]] = {
        "bn": lambda: nn.BatchNorm2d(width),
        "ln": lambda: nn.LayerNorm([width, side, side]),
        "in": lambda: nn.GroupNorm(width, width),
        "gn": lambda: nn.GroupNorm(4, width),
    }
    return [made[name]()]


class MLP(Classifier):
    """Flattened pixels, two hidden layers of 128."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        hidden = [nn.Flatten(), nn.Linear(channels * size * size, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
        super().__init__(nn.Sequential(*hidden), 128, classes)


def lenet(channels: int, size: int, classes: int) -> nn.Module:
    """LeNet without normalisation; ``embed`` is the last hidden layer (84); stride 2 first from 64 pixels on."""
    padding, stride = (2 if channels == 1 else 0), (2 if size >= 64 else 1)
    side = (((size + 2 * padding - 5) // stride + 1) // 2 - 4) // 2
    if side < 1:
        raise ValueError("two 5x5 convolutions and poolings leave nothing of it")
    layers = [
        *(nn.Conv2d(channels, 6, 5, stride=stride, padding=padding), nn.ReLU(), nn.MaxPool2d(2, 2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2, 2)),
        *(nn.Flatten(), nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
    ]
    return Classifier(nn.Sequential(*layers), 84, classes)


def alexnet(channels: int, size: int, classes: int, norm: str = "nonorm") -> nn.Module:
    """Five convolutions, no dropout; the first has stride 2 from 64 pixels on. The paper's has no normalisation."""
    padding, stride = (4 if channels == 1 else 2), (2 if size >= 64 else 1)
    side = ((size + 2 * padding - 5) // stride + 1) // 8

    def block(into: int, width: int, kernel: int, padding: int, stride: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(into, width, kernel, stride=stride, padding=padding)
        return [convolution, *_norm(norm, width, side), nn.ReLU()]

    layers = [
        *(*block(channels, 128, 5, padding, stride), nn.MaxPool2d(2, 2)),
        *(*block(128, 192, 5, 2), nn.MaxPool2d(2, 2)),
        *block(192, 256, 3, 1),
        *block(256, 192, 3, 1),
        *(*block(192, 192, 3, 1), nn.MaxPool2d(2, 2)),
    ]
    if side < 1:
        raise ValueError("three poolings leave nothing of it")
    return Classifier(nn.Sequential(*layers), 192 * side * side, classes)


def vgg11(channels: int, size: int, classes: int, norm: str = "in") -> nn.Module:
    """VGG11 with instance norm; from 64 pixels on it ends with every other pixel, as in DATM's code."""
    layers: list[nn.Module] = []
    into, side = channels, size + 4 if channels == 1 else size
    for entry in VGG11:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2, 2))
            side //= 2
            continue
        padding = 3 if into == channels and channels == 1 else 1
        layers += [nn.Conv2d(into, entry, 3, padding=padding), *_norm(norm, entry, side), nn.ReLU()]
        into = entry
    if size >= 64:
        layers.append(nn.AvgPool2d(1, 2))
        side = (side + 1) // 2
    if side < 1:
        raise ValueError("five poolings leave nothing of it")
    return Classifier(nn.Sequential(*layers), 512 * side * side, classes)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``pooled`` replaces a stride by an average pooling after the convolution."""

    def __init__(self, into: int, width: int, stride: int, norm: str, pooled: bool) -> None:
        super().__init__()
        own = 1 if pooled else stride
        halve: list[nn.Module] = [nn.AvgPool2d(2, 2)] if pooled and stride != 1 else []
        self.body = nn.Sequential(
            *(nn.Conv2d(into, width, 3, stride=own, padding=1, bias=False), *_norm(norm, width, 0), nn.ReLU(), *halve),
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), *_norm(norm, width, 0)),
        )
        same = stride == 1 and into == width
        short = [nn.Conv2d(into, width, 1, stride=own, bias=False), *halve, *_norm(norm, width, 0)]
        self.shortcut = nn.Sequential(*([] if same else short))

    def forward(self, images: Tensor) -> Tensor:
        """Body plus shortcut."""
        return torch.relu(self.body(images) + self.shortcut(images))


def resnet18(channels: int, size: int, classes: int, norm: str = "in", pooled: bool = False) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no max-pooling; the stem has stride 2 from 64 pixels on."""
    stride = 2 if size >= 64 else 1
    stem = nn.Conv2d(channels, 64, 3, stride=stride, padding=1, bias=False)
    layers: list[nn.Module] = [stem, *_norm(norm, 64, 0), nn.ReLU()]
    into = 64
    for width, first in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(into, width, first, norm, pooled), Block(width, width, 1, norm, pooled)]
        into = width
    side = -(-size // stride)
    side = side // 8 if pooled else -(-side // 8)
    if side < (2 if norm == "in" else 1):
        raise ValueError("three halvings leave a pixel or less, of which instance norm would make a constant")
    layers += [] if pooled else [nn.AdaptiveAvgPool2d(1)]
    return Classifier(nn.Sequential(*layers), 512 * (side * side if pooled else 1), classes)


_FIXED: dict[str, Maker] = {
    "mlp": MLP,
    "lenet": lenet,
    "alexnet": alexnet,
    "alexnet-bn": lambda c, s, k: alexnet(c, s, k, norm="bn"),
    "vgg11": vgg11,
    "vgg11-bn": lambda c, s, k: vgg11(c, s, k, norm="bn"),
    "resnet18": resnet18,
    "resnet18-bn": lambda c, s, k: resnet18(c, s, k, norm="bn"),
    "resnet18ap": lambda c, s, k: resnet18(c, s, k, pooled=True),
    "resnet18ap-bn": lambda c, s, k: resnet18(c, s, k, norm="bn", pooled=True),
}
