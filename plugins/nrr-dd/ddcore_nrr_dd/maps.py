"""Class activation maps: where in an image a network sees a class, and what may be changed of it.

    C_ij = sum_d w_dij A_dij

A: the last feature maps of the pass that have more than one pixel; z_c: the class's logit, before the softmax. With w =
dz_c/dA (``cam``) this is

* for a head of global average pooling and one linear layer: the class activation map of Zhou et al. (CVPR 2016,
  arXiv:1512.04150), whose w is the class's row of that layer, over h w, which a normalised map does not show;
* for one linear layer on the flattened maps, as in ConvNets: the exact share of each place in the logit less its bias;
* for other heads: HiResCAM (Draelos and Carin, arXiv:2011.08891).

With w_d = mean_ij dz_c/dA_dij, and what is below 0 cut off, it is Grad-CAM (Selvaraju et al., ICCV 2017,
arXiv:1610.02391).

Shape letters: B images, C H W pixels, D feature maps of h x w, K classes, M boxes of an image.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore import InputError, Vote
from ddcore.networks import CHUNK, channels_last, chunk_of

Kind = Literal["cam", "grad-cam"]
Span = Literal["range", "peak"]
Ratio = Literal["mean", "share"]


# ---- maps ------------------------------------------------------------------------------------------------------------


def cam(features: Tensor, weights: Tensor) -> Tensor:
    """sum_d w_d A_d, or with a weight for each place sum_d w_dij A_dij.

    Args:
        features: A, (B, D, h, w) float.
        weights: (B, D) or (B, D, h, w).

    Returns:
        (B, h, w), of any sign.
    """
    weights = weights[:, :, None, None] if weights.dim() == 2 else weights
    return (weights * features).sum(1)


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """max(0, sum_d (mean_ij dz_c/dA_dij) A_d).

    Args:
        features, gradients: (B, D, h, w) float.

    Returns:
        (B, h, w), at least 0.

    References:
        Selvaraju et al., ICCV 2017, equations 1 and 2.
    """
    return cam(features, gradients.mean((2, 3))).clamp(min=0)


def normalised(maps: Tensor, span: Span = "range") -> Tensor:
    """Each map brought to [0, 1]; one in which no place stands out becomes 0.

    Args:
        maps: (B, h, w) float.
        span: ``range``, (C - min C) / (max C - min C); ``peak``, max(0, C) / max C, which leaves out what speaks
            against the class.

    >>> normalised(torch.tensor([[[-1.0, 1.0, 3.0]], [[2.0, 2.0, 2.0]]]))[:, 0].tolist()
    [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]
    >>> normalised(torch.tensor([[[-1.0, 1.0, 2.0]], [[-3.0, -2.0, -1.0]]]), "peak")[:, 0].tolist()
    [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]
    """
    low = maps.amin((1, 2), keepdim=True) if span == "range" else maps.new_zeros(len(maps), 1, 1)
    reach = maps.amax((1, 2), keepdim=True) - low
    return torch.where(reach > 0, (maps - low).clamp(min=0) / reach, 0)


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, h, w) at the size of the images, (B, H, W), bilinearly, pixels as areas; nothing leaves their range."""
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def class_maps(
    network: nn.Module, images: Tensor, classes: Tensor, *, kind: Kind = "cam", span: Span = "range", name: str = ""
) -> Tensor:
    """Where a network sees the class of each image, in [0, 1].

    Args:
        network: a classifier in eval mode; only looked at.
        images: (B, C, H, W) float, normalised, on its device.
        classes: (B,) int64.
        kind: see the top of this file.
        span: how a map is brought to [0, 1], before it is enlarged.
        name: of the network, for the message.

    Returns:
        (B, H, W) without gradient; an image's map does not depend on the others.

    Raises:
        InputError: the network has no feature maps of more than one pixel.
    """
    layer = feature_layer(network, images[:1], name)
    of_kind, chunk = (cam if kind == "cam" else grad_cam), chunk_of(network, images, CHUNK)
    parts = zip(images.split(chunk), classes.to(images.device).split(chunk), strict=True)  # type: ignore[no-untyped-call]
    maps = torch.cat([of_kind(*features_and_gradients(network, layer, x, own)) for x, own in parts])
    return enlarged(normalised(maps, span), (images.shape[2], images.shape[3]))


def mean_maps(
    votes: Sequence[Vote], images: Tensor, classes: Tensor, *, kind: Kind = "cam", span: Span = "range"
) -> Tensor:
    """The teachers' maps, (B, H, W) in [0, 1], averaged by the weights of their votes."""
    total = sum(vote.weight for vote in votes)
    maps = [
        vote.weight / total * class_maps(vote.network, images, classes, kind=kind, span=span, name=vote.name)
        for vote in votes
    ]
    return torch.stack(maps).sum(0).clamp(0, 1)


# ---- what they are made of -------------------------------------------------------------------------------------------


def feature_layer(network: nn.Module, image: Tensor, name: str = "") -> nn.Module:
    """The last of a network's modules, in the order of its pass, that gives feature maps of more than one pixel.

    Args:
        image: (1, C, H, W), to try it on.
        name: of the network, for the message.

    Raises:
        InputError: there is none.
    """
    found: list[nn.Module] = []

    def look(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
            found[:] = [module]

    with hooked(network.modules(), look), torch.no_grad():
        network(image)
    if not found:
        raise InputError(
            f"the teacher {name or type(network).__name__} has no feature maps of more than one pixel, so it cannot say where it "
            "sees a class: choose one with convolutions, such as --teachers.networks convnet3-bn-w32"
        )
    return found[0]


def features_and_gradients(
    network: nn.Module, layer: nn.Module, images: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """A and dz_c/dA, both (B, D, h, w), A what ``layer`` gives and c the class of each image (B,)."""
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()  # what follows may work in place

    with hooked([layer], cut), torch.enable_grad():
        logits = network(channels_last(images))
        (gradients,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), leaves[-1])
    return leaves[-1].detach(), gradients


@contextmanager
def hooked(modules: Any, function: Any) -> Iterator[None]:
    """A forward hook on each of the modules inside the block, and none after it."""
    hooks = [module.register_forward_hook(function) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# ---- what they are for -----------------------------------------------------------------------------------------------


def non_critical(maps: Tensor, threshold: float) -> Tensor:
    """M = max(0, epsilon - C): how far each pixel may move, as a share of its update; 0 where the map reaches the
    threshold.

    Args:
        maps: C, (B, H, W) in [0, 1].
        threshold: epsilon, in [0, 1].

    Returns:
        (B, 1, H, W) in [0, epsilon], without gradient.

    References:
        Tran et al., CVPR 2025, arXiv:2503.18267, section 3.3.

    >>> non_critical(torch.tensor([[[0.0, 0.25, 0.5, 1.0]]]), 0.5).flatten().tolist()
    [0.5, 0.25, 0.0, 0.0]
    """
    return (threshold - maps.detach()).clamp(min=0)[:, None]


def moved(after: Tensor, before: Tensor, mask: Tensor) -> Tensor:
    """before + M (after - before): bit for bit ``before`` where the mask is 0 and ``after`` where it is 1.

    Of gradient descent, after = before - eta g, this is before - M eta g. Of Adam it is a share of what Adam does,
    which a mask on the gradient would not be: Adam divides a constant factor out again.

    Args:
        after, before: (B, C, H, W).
        mask: (B, 1, H, W) in [0, 1].
    """
    return torch.lerp(before, after, mask.to(before).expand_as(before))


def activation_ratios(maps: Tensor, boxes: Tensor, ratio: Ratio = "share") -> Tensor:
    """How much of a class lies in boxes of its map.

    Args:
        maps: (B, H, W) float, at least 0.
        boxes: (B, M, 4) int64: top, left, height, width in pixels, inside the image, not empty.
        ratio: ``share``, the activation in a box over that of the image: 1 where all of it lies inside, 0 for a map
            that is 0; ``mean``, the activation in a box over its area: 1 where all of the box is critical.

    Returns:
        (B, M) in [0, 1] for maps in [0, 1], of the maps' type and device.
    """
    sums = F.pad(maps.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    top, left, height, width = boxes.to(maps.device).unbind(2)
    image = torch.arange(len(maps), device=maps.device)[:, None]
    below, right = top + height, left + width
    inside = sums[image, below, right] - sums[image, top, right] - sums[image, below, left] + sums[image, top, left]
    whole = height * width if ratio == "mean" else sums[:, -1:, -1].clamp(min=torch.finfo(torch.float64).tiny)
    return (inside / whole).clamp(0, 1).to(maps.dtype)
