"""What a batch does to a network's BatchNorm layers, beside what the layers remember of the real data.

    L_bn = sum_l w_l ( b || v_l - var_l(x) ||_2 + a || mu_l - mean_l(x) ||_2 ),  w_1 = 10, else 1

(DeepInversion, Yin et al., CVPR 2020, arXiv:1912.08795; SRe2L, NeurIPS 2023, arXiv:2306.13092, equation 6; b > 1: DWA,
NeurIPS 2024, arXiv:2409.17612.) Norms are plain L2 over channels, neither squared nor divided by their number;
variances are the population's; what the layers remember are constants. Shape letters: B images, C channels of a layer,
H W its pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore.errors import InputError

FIRST = 10.0
"""Weight of the first layer in module order, in the authors' code."""


@frozen(eq=False)
class LayerStatistics:
    """One BatchNorm layer.

    Attributes:
        mean, variance: (C,) of its input over batch and pixels, without Bessel's correction.
        running_mean, running_variance: (C,) as the layer remembers them, without gradient.
    """

    mean: Tensor
    variance: Tensor
    running_mean: Tensor
    running_variance: Tensor

    def gaps(self) -> tuple[Tensor, Tensor]:
        """L2 distances over channels of the means and of the variances, two scalars."""
        return (self.running_mean - self.mean).norm(), (self.running_variance - self.variance).norm()


def layers_of(network: nn.Module) -> list[nn.BatchNorm2d]:
    """Its BatchNorm layers that remember statistics, in module order."""
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None]


def require_layers(network: nn.Module, name: str) -> None:
    """Refuse a teacher that remembers nothing to match.

    Raises:
        InputError: no BatchNorm layer.
    """
    if not layers_of(network):
        way_out = "choose one with batch norm, such as --teachers.networks convnet3-bn-w32"
        raise InputError(f"the teacher {name} has no BatchNorm layers, so there are no statistics to match: {way_out}")


@contextmanager
def capture(network: nn.Module) -> Iterator[list[LayerStatistics]]:
    """Statistics of the forward pass inside the block, by layer in module order, with their gradient.

    Of a layer that is passed twice the last pass counts. No hook stays behind, whatever happens in the block.

    >>> network = nn.Sequential(nn.BatchNorm2d(1)).eval()
    >>> with capture(network) as layers:
    ...     _ = network(torch.tensor([[[[1.0, 3.0]]]]))
    >>> [float(n) for n in (layers[0].mean, layers[0].variance, *layers[0].gaps())]
    [2.0, 1.0, 2.0, 0.0]
    """
    found: list[LayerStatistics] = []
    seen: dict[int, LayerStatistics] = {}
    layers = layers_of(network)

    def remember(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[id(layer)] = statistics(inputs[0], layer)  # type: ignore[arg-type]
        found[:] = [seen[id(one)] for one in layers if id(one) in seen]

    hooks = [layer.register_forward_pre_hook(remember) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def statistics(inputs: Tensor, layer: nn.BatchNorm2d) -> LayerStatistics:
    """Of one layer's input (B, C, H, W)."""
    assert layer.running_mean is not None and layer.running_var is not None
    variance, mean = torch.var_mean(inputs, (0, 2, 3), correction=0)
    return LayerStatistics(mean, variance, layer.running_mean.detach(), layer.running_var.detach())


def inversion_loss(
    network: nn.Module,
    images: Tensor,
    classes: Tensor,
    *,
    bn: float,
    first: float = FIRST,
    variance: float = 1.0,
    skip: Collection[int] = (),
) -> Tensor:
    """CE + r_bn L_bn of images under one network, a scalar.

    Args:
        network: in eval mode, its weights without gradient.
        images: (B, C, H, W) float, under their view.
        classes: (B,) int64; cross entropy is a mean over B.
        bn: r_bn; 0 leaves the statistics out.
        first, variance, skip: see ``statistics_loss``.

    References:
        Yin et al., NeurIPS 2023, arXiv:2306.13092, equations 4 to 6.
    """
    with capture(network) as layers:
        loss = F.cross_entropy(network(images), classes)
    if bn:
        loss = loss + bn * statistics_loss(layers, first=first, variance=variance, skip=skip)
    return loss


def statistics_loss(
    layers: Sequence[LayerStatistics], *, first: float = FIRST, variance: float = 1.0, skip: Collection[int] = ()
) -> Tensor:
    """L_bn of the formula above, a scalar.

    Args:
        layers: as ``capture`` gives them after a pass.
        first: w_1.
        variance: b; the means' a is 1.
        skip: layers that are left out, by position.

    Returns:
        At least 0; 0 where every statistic is what the layer remembers.
    """
    total = layers[0].mean.new_zeros(())
    for at, layer in enumerate(layers):
        if at not in skip:
            means, variances = layer.gaps()
            total = total + (first if at == 0 else 1.0) * (means + variance * variances)
    return total
