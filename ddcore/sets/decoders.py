"""How stored tensors become samples, in the run, in the artifact and in everybody's loader, for ever.

A decoder is a list of operations, each a plain dict with its name under ``op``; the first makes images, the others
change them. An operation has no state, gives random access by sample, and is differentiable in the stored float
tensors. One that the core lacks has an entry point ``ddcore.decoders`` of its name, ``NAME = "module:Class"``, and its
``op`` says the ``distribution``. Shape letters: B samples asked for, C H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from ddcore.api.types import VECTORS, Synthetic
from ddcore.data.normalisation import MeanStd
from ddcore.errors import InputError, near
from ddcore.images.tiles import LARGEST_FACTOR, tile, tile_count
from ddcore.sets.brought import brought
from ddcore.sets.levels import by_channel, quantise, unpack
from ddcore.sets.manifest import AGAIN, provider
from ddcore.storage.documents import is_count

__all__ = [
    "DECODERS",
    "OPERATIONS",
    "Decoder",
    "Dequantise",
    "Operation",
    "Rows",
    "Sum",
    "Tiles",
    "quantise",
    "several",
    "stored",
]
DECODERS = "ddcore.decoders"
"""Entry points of operations that plugins bring, by name."""
Spec = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


class Operation(Protocol):
    """One kind of operation.

    ``before`` in its methods belongs to the operation before it in the list, None for the first: an operation that
    copies, cuts or combines samples asks it for whichever it needs.
    """

    def count(self, tensors: Tensors, spec: Spec, before: int | None) -> int:
        """How many samples there are after it; ``before`` is how many there were."""

    def sample(self, tensors: Tensors, spec: Spec, index: Tensor, before: Callable[[Tensor], Any] | None) -> Any:
        """Samples (B, ...) at ``index`` (B,) int64, of other data than images what its students take.

        ``before`` gives the samples it works on, at any index.
        """


class Rows:
    """``{"op": "rows", "tensor": NAME}``: sample i is row i."""

    def count(self, tensors: Tensors, spec: Spec, before: int | None) -> int:
        """Rows of the tensor."""
        return len(stored(tensors, spec, "tensor"))

    def sample(self, tensors: Tensors, spec: Spec, index: Tensor, before: Callable[[Tensor], Tensor] | None) -> Tensor:
        """The rows, in the stored type."""
        tensor = stored(tensors, spec, "tensor")
        return tensor[index.to(tensor.device)]


class Dequantise:
    """``{"op": "dequantise", "tensor": NAME, "scale": NAME, "offset": NAME}``: scale_c * row + offset_c in channel c.

    ``ddcore.sets.levels`` makes its tensors: rows (N, C, H, W) uint8, scale and offset (C,) float32. With ``"bits": 4``
    or 2 and ``"shape": [C, H, W]`` rows are packed levels (N, ceil(C H W bits / 8)) uint8.
    """

    def count(self, tensors: Tensors, spec: Spec, before: int | None) -> int:
        """Rows of the tensor."""
        return len(stored(tensors, spec, "tensor"))

    def sample(self, tensors: Tensors, spec: Spec, index: Tensor, before: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Images (B, C, H, W) in the type of ``scale``; differentiable in scale and offset."""
        tensor = stored(tensors, spec, "tensor")
        return _from_levels(tensor[index.to(tensor.device)], tensors, spec)


class Normalise:
    """``{"op": "normalise", "tensor": NAME, "mean": [...], "std": [...]}``: (row - mean_c) / std_c in channel c.

    Rows (N, C, H, W) are real ones as their data hold them: float32 in [0, 1], or uint8, which stands for row / 255,
    or with ``"white": 16`` for row / 16. So the images are those of the data, bit for bit. With ``"at": NAME`` behind
    another operation, for sets that are real in part: sample i is row ``at[i]`` of (N,) whole numbers, or where that
    is below 0 sample ``-1 - at[i]`` of the operation before.
    """

    def count(self, tensors: Tensors, spec: Spec, before: int | None) -> int:
        """Rows, or numbers in ``at``."""
        return len(stored(tensors, spec, "at" if "at" in spec else "tensor"))

    def sample(self, tensors: Tensors, spec: Spec, index: Tensor, before: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Images (B, C, H, W) float32."""
        if "at" not in spec:
            return _normalised(stored(tensors, spec, "tensor")[index], spec)
        if before is None:
            raise InputError("the decoder begins with real rows among others, and there are no others: " + AGAIN)
        at = stored(tensors, spec, "at")[index].long()
        real = _normalised(stored(tensors, spec, "tensor")[at.clamp(min=0)], spec)
        others = torch.where(at < 0, -1 - at, 0)
        learned = (at < 0).reshape(-1, *[1] * (real.dim() - 1))
        return torch.where(learned, before(others).to(real), real) if bool(learned.any()) else real


def _normalised(rows: Tensor, spec: Spec, of: str = "") -> Tensor:
    """Images (B, C, H, W), or other dense rows, float32, of rows as the data hold them; ``of`` begins the keys of mean
    and deviation."""
    if rows.dim() not in (2, 3, 4) or rows.dtype not in (torch.uint8, torch.float32):
        raise InputError(
            f"stored real rows are {rows.dtype} {_shape(rows)} where uint8 or float32 images are due: {AGAIN}"
        )
    white = spec.get(f"{of}white", 255)
    if not is_count(white, least=1) or white > 255:
        raise InputError(f"the decoder's {of}white is {white!r} where a whole number up to 255 is due: {AGAIN}")
    unit = rows.float() / white if rows.dtype == torch.uint8 else rows
    return MeanStd(spec[f"{of}mean"], spec[f"{of}std"]).apply(unit)


class Sum:
    """``{"op": "sum", "bases": NAME, "added": NAME, "pairs": NAME, "least": NAME, "most": NAME}``: base + added,
    clamped.

    Sample i is row ``pairs[i, 0]`` of bases (N, C, H, W) plus row ``pairs[i, 1]`` of added (M, C, H, W), or the base as
    it is where that is -1; pixels stay within ``least`` and ``most`` (C,). INFER's sets (arXiv:2408.06927), where a few
    additive images serve all classes. Bases and added may be levels, as of ``dequantise``: then ``bases_scale``,
    ``bases_offset``, ``added_scale`` and ``added_offset`` name their tensors, and ``bases_bits`` and the like say how
    they are packed; or real rows, as of ``normalise``: then ``bases_mean`` and ``bases_std`` are lists of numbers.
    """

    def count(self, tensors: Tensors, spec: Spec, before: int | None) -> int:
        """Pairs."""
        return len(stored(tensors, spec, "pairs"))

    def sample(self, tensors: Tensors, spec: Spec, index: Tensor, before: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Images (B, C, H, W) in the bases' type; differentiable in bases and added."""
        pairs, least, most = (stored(tensors, spec, name) for name in ("pairs", "least", "most"))
        base, other = pairs[index.to(pairs.device)].long().unbind(1)
        images = _rows(tensors, spec, "bases", base)
        added = _rows(tensors, spec, "added", other.clamp(min=0))
        if images.dim() != 4 or images.shape != added.shape:
            raise InputError(
                f"a sum of images {_shape(images)} and {_shape(added)} is stored: write the artifact again"
            )
        _check_channels(images, least, most)
        fused = (images + added).clamp(least[:, None, None], most[:, None, None])
        return torch.where((other < 0)[:, None, None, None], images, fused)


class Tiles:
    """``{"op": "tiles", "factors": [2], "fill": [0.0, ...]}``: every image before it holds several smaller ones.

    Sample i is tile i mod T of image i // T, brought to the image's size, T the sum of the factors' squares: see
    ``ddcore.images.tiles``. ``fill`` has a value a channel.
    """

    def count(self, tensors: Tensors, spec: Spec, before: int | None) -> int:
        """T times as many."""
        if before is None:
            raise InputError("a decoder begins with tiles, and they are of images: write the artifact again")
        return before * tile_count(_factors(spec))

    def sample(self, tensors: Tensors, spec: Spec, index: Tensor, before: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Images (B, C, H, W) in the type of those before; differentiable in them."""
        assert before is not None
        factors = _factors(spec)
        every = tile_count(factors)
        images = before(index // every)
        fill = torch.tensor(spec.get("fill", 0.0), dtype=images.dtype, device=images.device)
        if fill.dim() > 1 or (fill.dim() == 1 and len(fill) != images.shape[1]):
            raise InputError(
                f"tiles are filled up with {fill.tolist()}, and one value a channel is due: write the artifact again"
            )
        return tile(images, (index % every).to(images.device), factors, fill)


def _factors(spec: Spec) -> list[int]:
    found = spec.get("factors")
    whole = (
        isinstance(found, Sequence) and found and all(isinstance(f, int) and 1 <= f <= LARGEST_FACTOR for f in found)
    )
    if not whole or len(found) > LARGEST_FACTOR:  # type: ignore[arg-type]
        raise InputError(
            f"tiles have factors {str(found)[:60]}, and a list of whole numbers from 1 is due: write the artifact again"
        )
    return list(found)  # type: ignore[arg-type]


def several(synthetic: Synthetic, operation: Spec, count: int) -> Synthetic:
    """A set whose every sample becomes ``count`` consecutive ones by one more operation; classes and learned labels
    follow.

    Args:
        operation: added to the decoder's end; sample i has to come from sample i // count before it.
    """
    labels = {name for name, role in synthetic.roles.items() if role in ("labels", VECTORS)}
    tensors = {n: t.repeat_interleave(count, 0) if n in labels else t for n, t in synthetic.tensors.items()}
    decoder = [*synthetic.decoder, dict(operation)]
    classes = synthetic.classes.repeat_interleave(count)
    none = None if synthetic.source_rows is None else torch.full_like(classes, -1)
    return attrs.evolve(synthetic, tensors=tensors, decoder=decoder, classes=classes, source_rows=none)


def _rows(tensors: Tensors, spec: Spec, key: str, index: Tensor) -> Tensor:
    """Rows of a stored tensor, back from levels where they are such."""
    rows = stored(tensors, spec, key)[index]
    if f"{key}_mean" in spec:
        return _normalised(rows, spec, f"{key}_")
    return _from_levels(rows, tensors, spec, f"{key}_") if f"{key}_scale" in spec else rows


def _from_levels(rows: Tensor, tensors: Tensors, spec: Spec, of: str = "") -> Tensor:
    """Images (B, C, H, W) of levels, packed or not; ``of`` begins the keys that say what they stand for."""
    scale, offset = (stored(tensors, spec, f"{of}{part}") for part in ("scale", "offset"))
    levels = unpack(rows, spec[f"{of}bits"], spec.get(f"{of}shape", ())) if f"{of}bits" in spec else rows
    _check_channels(levels, scale, offset)
    return by_channel(scale, levels) * levels.to(scale.dtype) + by_channel(offset, levels)


def _check_channels(images: Tensor, *values: Tensor) -> None:
    """Refuse what is not one value a channel of images (B, C, H, W), or of other dense rows:
    it would be spread over sizes that nobody stored."""
    for value in values:
        if images.dim() not in (2, 3, 4) or value.shape != images.shape[1:2]:
            raise InputError(
                f"stored images {_shape(images)} have {_shape(value)} where (C,) is due: write the artifact again"
            )


def _shape(tensor: Tensor) -> str:
    return f"of shape {tuple(tensor.shape)}"


OPERATIONS: dict[str, Operation] = {
    "rows": Rows(),
    "dequantise": Dequantise(),
    "normalise": Normalise(),
    "sum": Sum(),
    "tiles": Tiles(),
}


class Decoder:
    """A list of operations, applied in order.

    >>> Decoder([{"op": "rows", "tensor": "pixels"}]).sample({"pixels": torch.tensor([5, 6, 7])}, torch.tensor([2, 0]))
    tensor([7, 5])
    """

    def __init__(self, spec: Sequence[Spec], given: Mapping[str, Operation] = MappingProxyType({})) -> None:
        """Look the operations up: the core's, then those ``given``, then those that installed distributions bring.

        Raises:
            InputError: an unknown operation; names the distribution that provides it, where the spec says so.
        """
        self.spec = [dict(s) for s in spec]
        if not self.spec:
            raise InputError("a decoder without operations makes no samples: write the artifact again")
        self._operations = [_known(s, {**given, **OPERATIONS}) for s in self.spec]

    def count(self, tensors: Tensors) -> int:
        """How many samples the stored tensors make."""
        count: int | None = None
        for operation, spec in zip(self._operations, self.spec, strict=True):
            count = operation.count(tensors, spec, count)
        assert count is not None
        return count

    def sample(self, tensors: Tensors, index: Tensor) -> Tensor:
        """Samples (B, ...) at ``index`` (B,) int64."""
        before: Callable[[Tensor], Tensor] | None = None
        for operation, spec in zip(self._operations, self.spec, strict=True):
            before = _bound(operation, tensors, spec, before)
        assert before is not None
        return before(index)


def _bound(
    operation: Operation, tensors: Tensors, spec: Spec, before: Callable[[Tensor], Tensor] | None
) -> Callable[[Tensor], Tensor]:
    return lambda index: operation.sample(tensors, spec, index, before)


def is_operation(found: object) -> bool:
    """Whether it has what an operation has."""
    return callable(getattr(found, "count", None)) and callable(getattr(found, "sample", None))


def _known(spec: Spec, operations: Mapping[str, Operation]) -> Operation:
    name = str(spec.get("op"))
    if name in operations:
        return operations[name]
    if (found := brought(DECODERS, name)) is not None:
        operation = found() if isinstance(found, type) else found
        if not is_operation(operation):
            raise InputError(
                f"decoder operation {name!r} is {found!r}, without count and sample: upgrade what brings it"
            )
        return operation  # type: ignore[no-any-return]
    if distribution := provider(spec):
        raise InputError(
            f"this set is decoded by {name!r} of {distribution}, which is not here: pip install {distribution}"
        )
    raise InputError(f"no decoder operation is named {name!r}: {near(name, operations)}")


def stored(tensors: Tensors, spec: Spec, key: str) -> Tensor:
    """The stored tensor that an operation names under ``key``.

    Raises:
        InputError: it names none, or one that is not there.
    """
    name = spec.get(key)
    if not isinstance(name, str):
        raise InputError(f"decoder operation {spec.get('op')!r} names no {key}: write {key!r} into its description")
    if name not in tensors:
        raise InputError(f"the decoder reads tensor {name!r}, which is not stored: {near(name, tensors)}")
    return tensors[name]
