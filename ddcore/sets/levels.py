"""Pixels as few levels, evenly spaced in each channel: 8, 4 or 2 bits a pixel, packed into bytes, and back.

    image = scale_c * level + offset_c,  level in 0 .. 2^bits - 1

Levels of 8 bits lie in the images' own shape; fewer are packed, the first pixel in the lowest bits, and each sample
begins at a byte, so that any sample can be read alone. ``ddcore.sets.decoders`` decodes both. Shape letters: N images,
C H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from ddcore.api.services import Normalisation
from ddcore.data.normalisation import black_and_white
from ddcore.errors import InputError

BITS = (8, 4, 2)
OF = {"rows": ("tensor",), "sum": ("bases", "added")}
"""What of a decoder's operation can be levels."""


def quantise(images: Tensor, low: Tensor, high: Tensor, bits: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Images as 2^bits levels a channel, evenly from ``low`` to ``high``; each is off by at most half a level.

    Args:
        images: (N, C, H, W) float.
        low: (C,), what level 0 stands for; values below become level 0.
        high: (C,), what the last level stands for; values above become the last level.

    Returns:
        Levels (N, C, H, W) uint8, scale (C,) and offset (C,) float32: image = scale * level + offset.
    """
    last = 2**bits - 1
    low, high = low.double(), high.double()
    scale = (high - low) / last
    steps = torch.where(scale > 0, scale, 1.0)
    levels = ((images.double() - by_channel(low, images)) / by_channel(steps, images)).round().clamp(0, last)
    return levels.to(torch.uint8), scale.float(), low.float()


def by_channel(values: Tensor, images: Tensor) -> Tensor:
    """(C,) values as (C, 1, ...) beside images (N, C, ...)."""
    return values.reshape(-1, *[1] * (images.ndim - 2))


def pack(levels: Tensor, bits: int) -> Tensor:
    """Levels (N, ...) uint8 as bytes (N, ceil(pixels * bits / 8)) uint8.

    >>> pack(torch.tensor([[1, 2, 3, 0, 1]], dtype=torch.uint8), 2).tolist()
    [[57, 1]]
    """
    each = 8 // bits
    flat = levels.flatten(1)
    filled = torch.nn.functional.pad(flat, (0, -flat.shape[1] % each)).reshape(len(flat), -1, each)
    places = 2 ** (bits * torch.arange(each, device=levels.device))
    return (filled.int() * places).sum(2).to(torch.uint8)


def unpack(packed: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    """The inverse of ``pack``: levels (N, *shape) uint8.

    Raises:
        InputError: another number of bits; bytes that are not those of such samples.
    """
    _check_bits(bits)
    if not isinstance(shape, Sequence) or isinstance(shape, str) or not all(isinstance(n, int) for n in shape):
        raise InputError(f"packed levels have the shape {shape!r}: write three whole numbers")
    count, each = math.prod(shape), 8 // bits
    if packed.dim() != 2 or packed.shape[1] != -(-count // each):
        raise InputError(
            f"packed levels of shape {tuple(shape)} take {-(-count // each)} bytes a sample, not {tuple(packed.shape[1:])}"
        )
    shifts = bits * torch.arange(each, device=packed.device)
    levels = packed[:, :, None].int().bitwise_right_shift(shifts).bitwise_and(2**bits - 1)
    return levels.flatten(1)[:, :count].reshape(len(packed), *shape).to(torch.uint8)


def to_levels(
    tensors: Mapping[str, Tensor],
    decoder: Sequence[Mapping[str, Any]],
    normalisation: Normalisation,
    bits: int = 8,
    clip: float = 0.0,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Stored images as levels, and the decoder that gives them back.

    What ``rows`` and ``sum`` read becomes levels; everything else stays. Levels span each channel's values, from the
    least to the largest or without a share of them at each end. Only 256 levels go from black to white where a channel
    stays within [0, 1], so that real 8-bit images lose nothing; ZCA, what is added to images, and rows (N, D) or
    (N, C, L) have no such ends.

    Args:
        tensors: on the CPU, finite.
        normalisation: of the images.
        clip: share of a channel's values at each end that may become the end.

    Raises:
        InputError: another number of bits, or nothing that could be levels.
    """
    _check_bits(bits)
    kept, operations = dict(tensors), [dict(op) for op in decoder]
    for at, op in enumerate(decoder):
        for key in OF.get(str(op.get("op")), ()):
            name = op.get(key)
            if name not in kept or kept[name].dim() not in (2, 3, 4) or not kept[name].is_floating_point():
                continue
            images, scale, offset = kept[name], f"{name}.scale", f"{name}.offset"
            to_white = bits == 8 and not clip and key != "added" and images.dim() == 4
            ends = _black_to_white(images, normalisation) if to_white else clipped_ends(images, clip)
            levels, kept[scale], kept[offset] = quantise(images, *ends, bits)
            kept[name] = levels if bits == 8 else pack(levels, bits)
            packed = {} if bits == 8 else {"bits": bits, "shape": list(images.shape[1:])}
            said = {"scale": scale, "offset": offset, **packed}
            if op.get("op") == "rows":
                operations[at] = {"op": "dequantise", "tensor": name, **said}
            else:
                operations[at] |= {f"{key}_{part}": value for part, value in said.items()}
    if not are_levels(operations):
        names = " and ".join(repr(str(op.get("op"))) for op in decoder)
        raise InputError(f"levels are of images that a decoder reads as rows or sums, and this one decodes by {names}")
    return {name: t.float() if t.dtype == torch.float64 else t for name, t in kept.items()}, operations


def are_levels(decoder: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some of what a decoder reads is levels."""
    return bool(exact_names(decoder))


def exact_names(decoder: Sequence[Mapping[str, Any]]) -> set[str]:
    """The tensors that say what levels stand for: they are never stored in a smaller type."""
    return {str(value) for op in decoder for key, value in op.items() if key.rpartition("_")[2] in ("scale", "offset")}


def stored_type(decoder: Sequence[Mapping[str, Any]], otherwise: str) -> str:
    """The name of the type that pixels are stored in: ``uint8``, ``uint4``, ``uint2``,
    or the one of what is no levels."""
    bits = [int(value) for op in decoder for key, value in op.items() if key.rpartition("_")[2] == "bits"]
    return f"uint{min(bits, default=8)}" if are_levels(decoder) else otherwise


def clipped_ends(images: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Least and largest value (C,) of each channel of (N, C, H, W),
    without a share ``clip`` of its values at each end."""
    values = images.transpose(0, 1).flatten(1)
    if not clip:
        return values.amin(1), values.amax(1)
    count = values.shape[1]
    left_out = min(int(clip * count), (count - 1) // 2)
    return values.kthvalue(left_out + 1, 1).values, values.kthvalue(count - left_out, 1).values


def _black_to_white(images: Tensor, normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    low, high = clipped_ends(images, 0.0)
    if not normalisation.pixelwise:
        return low, high
    black, white = normalisation.apply(black_and_white(images)).flatten(1)
    inside = (low >= black - 1e-5) & (high <= white + 1e-5)
    return torch.where(inside, black, low), torch.where(inside, white, high)


def _check_bits(bits: int) -> None:
    if bits not in BITS:
        raise InputError(f"levels of {bits} bits are not stored here: take 8, 4 or 2 bits")


@frozen
class Quality:
    """How far stored pixels are from exact ones, where real pixels span 0 to 1.

    Attributes:
        psnr: peak signal-to-noise ratio, 10 log10(1 / mean squared error), in dB; None without any error.
        largest: largest error of a pixel.
    """

    psnr: float | None
    largest: float

    def __str__(self) -> str:
        """For people."""
        return "no error" if self.psnr is None else f"PSNR {self.psnr:.1f} dB, at most {self.largest:.3g} off"


def quality(pairs: Iterable[tuple[Tensor, Tensor]]) -> Quality:
    """How far pixels are off.

    Args:
        pairs: of exact and of stored pixels of any shape, in units in which real ones span 0 to 1.
    """
    squares, count, largest = 0.0, 0, 0.0
    for exact, stored in pairs:
        off = (stored - exact).double()
        squares, count = squares + float(off.square().sum()), count + off.numel()
        largest = max(largest, float(off.abs().max()))
    return Quality(10 * math.log10(count / squares) if squares else None, largest)
