"""The search space: ResNets of three stages of any depths and widths, and what they cost.

diswot-resnet:5-5-7              5, 5 and 7 blocks of 16, 32 and 64 channels
diswot-resnet:1-2-2:8-16-64      other widths; the stem is as wide as the first stage
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib import resources
from itertools import product

import torch
from attrs import evolve, frozen
from torch import Generator, Tensor, nn

from ddcore import InputError
from ddcore.networks import build, staged_resnet, unknown_network
from ddcore.randomness import drawing_from

PREFIX = "diswot-resnet"
THREE = r"([1-9]\d*)-([1-9]\d*)-([1-9]\d*)"
NAME = re.compile(rf"{PREFIX}:{THREE}(?::{THREE})?")
WIDTHS = (16, 32, 64)
NARROWEST = 8
"""Below it torch's backward pass of strided 1x1 convolutions in channels-last memory writes past its end on CPUs (seen
in 2.13)."""
Three = tuple[int, int, int]


@frozen
class Cost:
    """What a network costs.

    Attributes:
        parameters: numbers that are trained.
        multiply_adds: of convolutions and linear layers, for one image.
    """

    parameters: int
    multiply_adds: int


@frozen
class ResNet:
    """A point of the space.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage.

    Raises:
        InputError: a stage has fewer than 8 channels.
    """

    depths: Three
    widths: Three = WIDTHS

    def __attrs_post_init__(self) -> None:
        if min(self.widths) < NARROWEST:
            raise InputError(f"{self.name} has a stage of fewer than {NARROWEST} channels: make it wider")

    @classmethod
    def named(cls, name: str) -> ResNet | None:
        """The one that a name stands for; None if it is another network's.

        >>> ResNet.named("diswot-resnet:1-2-2:8-16-64").widths, ResNet.named("resnet20")
        ((8, 16, 64), None)
        """
        if not (match := NAME.fullmatch(name)):
            return None
        first = [int(number) for number in match.groups() if number is not None]
        depths, widths = first[:3], first[3:] or WIDTHS
        return cls((depths[0], depths[1], depths[2]), (widths[0], widths[1], widths[2]))

    @property
    def name(self) -> str:
        """To be given to ``--student``.

        >>> ResNet((5, 5, 7)).name
        'diswot-resnet:5-5-7'
        """
        widths = "" if self.widths == WIDTHS else ":" + "-".join(map(str, self.widths))
        return f"{PREFIX}:{'-'.join(map(str, self.depths))}{widths}"

    def cost(self, channels: int, size: int, classes: int) -> Cost:
        """What it costs on images of ``size`` pixels: each convolution has a norm and no bias."""
        convolutions = list(self._convolutions(channels, size))
        last = self.widths[2] * classes
        weights = [into * width * kernel**2 for into, width, kernel, _ in convolutions]
        norms = sum(2 * width for _, width, _, _ in convolutions)
        passes = sum(weight * side**2 for weight, (_, _, _, side) in zip(weights, convolutions, strict=True))
        return Cost(sum(weights) + norms + last + classes, passes + last)

    def _convolutions(self, channels: int, size: int) -> Iterator[tuple[int, int, int, int]]:
        """Channels in, channels out, kernel and height of the map of each."""
        into = self.widths[0]
        yield channels, into, 3, size
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            size = -(-size // 2) if stage else size
            if stage:
                yield into, width, 1, size
            for block in range(depth):
                yield width if block else into, width, 3, size
                yield width, width, 3, size
            into = width

    def built(self, channels: int, classes: int, generator: Generator) -> nn.Module:
        """A fresh network, on the CPU, in train mode."""
        with drawing_from(generator):
            return staged_resnet(channels, classes, self.widths[0], self.depths, self.widths)


@frozen
class Space:
    """Which depths each stage may have, and which widths.

    Attributes:
        widths: choices of the three stages.
    """

    depths: tuple[int, ...] = (1, 3, 5, 7)
    widths: tuple[tuple[int, ...], ...] = tuple((width,) for width in WIDTHS)

    def every(self) -> list[ResNet]:
        """All of them, in the order of depths, then widths."""
        pairs = product(product(self.depths, repeat=3), product(*self.widths))
        return [ResNet(depths, widths) for depths, widths in pairs]  # type: ignore[arg-type]

    def draw(self, generator: Generator) -> ResNet:
        """A random one."""
        choices = (*[self.depths] * 3, *self.widths)
        return _of([choice[_below(len(choice), generator)] for choice in choices])

    def mutated(self, parent: ResNet, generator: Generator) -> ResNet:
        """One or two of its six numbers drawn anew, each from its other choices.

        Raises:
            InputError: there is nothing to choose.
        """
        numbers = [*parent.depths, *parent.widths]
        choices = (*[self.depths] * 3, *self.widths)
        free = [at for at, choice in enumerate(choices) if len(choice) > 1]
        if not free:
            raise InputError("the space holds one network only: allow more depths or widths")
        count = min(len(free), 1 + _below(2, generator))
        for at in torch.randperm(len(free), generator=generator)[:count].tolist():
            others = [number for number in choices[free[at]] if number != numbers[free[at]]]
            numbers[free[at]] = others[_below(len(others), generator)]
        return _of(numbers)


def _of(numbers: list[int]) -> ResNet:
    return ResNet((numbers[0], numbers[1], numbers[2]), (numbers[3], numbers[4], numbers[5]))


def _below(count: int, generator: Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


# ---- by name ---------------------------------------------------------------------------------------------------------


def maker(name: str, channels: int, size: int, classes: int) -> Callable[[Generator], nn.Module]:
    """Makes fresh networks of a name, of this space or of the core's zoo.

    Raises:
        InputError: when it is called, where nobody knows the name.
    """

    def make(generator: Generator) -> nn.Module:
        if point := ResNet.named(name):
            return point.built(channels, classes, generator)
        network = build(name, channels, size, classes, generator)
        if network is None:
            raise InputError(unknown_network(name))
        return network

    return make


@lru_cache
def cost(name: str, channels: int, size: int, classes: int) -> Cost:
    """The costs of a network by name; of this space by counting, of others by looking at one.

    Raises:
        InputError: nobody knows the name.
    """
    if point := ResNet.named(name):
        return point.cost(channels, size, classes)
    return cost_of(maker(name, channels, size, classes)(Generator()), channels, size)


@torch.no_grad()
def cost_of(network: nn.Module, channels: int, size: int) -> Cost:
    """The costs of a network, which is left in eval mode."""
    counts: list[int] = []

    def note(module: nn.Module, _inputs: object, output: Tensor) -> None:
        weight = module.get_parameter("weight")
        counts.append(weight[0].numel() * output[0].numel())

    layers = [module for module in network.eval().modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    network(torch.zeros(1, channels, size, size))
    for hook in hooks:
        hook.remove()
    return Cost(sum(p.numel() for p in network.parameters()), sum(counts))


# ---- what the authors trained ----------------------------------------------------------------------------------------


@frozen
class Trained:
    """CIFAR-100 test accuracy in percent, with knowledge distillation and without."""

    kd: float
    plain: float


def published() -> Mapping[ResNet, Trained]:
    """The authors' 64 ResNets with depths in {1, 3, 5, 7}: exps/s1-gt-kd.txt and s1-gt-cls.txt of
    lilujunai/DisWOT-CVPR2023."""
    text = resources.files("ddcore_diswot").joinpath("resnets.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    found = {ResNet.named(f"{PREFIX}:{row['depths']}"): Trained(float(row["kd"]), float(row["plain"])) for row in rows}
    return {net: trained for net, trained in found.items() if net is not None}


def small() -> list[ResNet]:
    """Twenty networks of 0.03 to 0.3 million parameters, two widths of ten depths, that a laptop can train."""
    depths = (
        (1, 1, 1),
        (2, 1, 1),
        (1, 2, 1),
        (1, 1, 2),
        (2, 2, 1),
        (1, 2, 2),
        (2, 1, 2),
        (2, 2, 2),
        (3, 2, 1),
        (1, 3, 2),
    )
    base = [ResNet(d) for d in depths]
    return [*base, *(evolve(net, widths=(8, 16, 64)) for net in base)]
