"""Real images of a set, stored as their data hold them: a byte a pixel instead of a float's four, and nothing is lost.

Which samples are rows of the source a set says of itself (``Synthetic.source_rows``); the operations ``normalise`` and
``sum`` of ``ddcore.sets.decoders`` give their normalised pixels back, bit for bit. Shape letters: N samples, C H W
pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from ddcore.api import services
from ddcore.api.types import Synthetic
from ddcore.data.normalisation import Identity, MeanStd
from ddcore.data.source import Source

REAL, AT = "real", "at"
AS_FLOATS = "float32"


def stored_exactly(
    synthetic: Synthetic, source: Source, normalisation: services.Normalisation, storage_dtype: str = AS_FLOATS
) -> Synthetic:
    """The same set, its real rows as the data hold them, wherever a decoder of the core reads them as they are.

    Args:
        source: whose train images they are.
        normalisation: one that is not channel by channel cannot be repeated bit for bit, and leaves the set as it is.
        storage_dtype: of everything else. Floats of the data are kept as they are only among floats.
    """
    rows, constants = synthetic.source_rows, _constants(normalisation, source)
    smaller = source.white is not None or storage_dtype == AS_FLOATS
    if rows is None or constants is None or not smaller or not bool((rows >= 0).any()) or len(synthetic.decoder) != 1:
        return synthetic
    (op,) = synthetic.decoder
    if op.get("op") == "rows" and len(rows) == len(synthetic.tensors.get(str(op.get("tensor")), ())):
        return _of_rows(synthetic, rows, source, constants)
    if op.get("op") == "sum" and "bases_scale" not in op:
        return _of_bases(synthetic, rows, source, constants)
    return synthetic


def _of_rows(synthetic: Synthetic, rows: Tensor, source: Source, constants: Mapping[str, Any]) -> Synthetic:
    """Samples that are rows of one tensor: the real ones in a tensor of their own, if there are others."""
    name = str(synthetic.decoder[0]["tensor"])
    real, tensors = rows >= 0, dict(synthetic.tensors)
    if not _are(synthetic.tensors[name][real], source.as_held(rows[real]), constants):
        return synthetic
    if bool(real.all()):
        decoder: list[Mapping[str, Any]] = [{"op": "normalise", "tensor": name, **constants}]
        return attrs.evolve(synthetic, tensors={**tensors, name: source.as_held(rows).clone()}, decoder=decoder)
    places = torch.where(real, real.cumsum(0) - 1, -(~real).cumsum(0))
    names = f"{name}.{REAL}", f"{name}.{AT}"
    tensors |= {
        name: tensors[name][~real],
        names[0]: source.as_held(rows[real]).clone(),
        names[1]: places.to(_type(len(rows))),
    }
    decoder = [synthetic.decoder[0], {"op": "normalise", "tensor": names[0], "at": names[1], **constants}]
    roles = {**synthetic.roles, **dict.fromkeys(names[:1], synthetic.roles.get(name, "pixels"))}
    return attrs.evolve(synthetic, tensors=tensors, decoder=decoder, roles=roles)


def _of_bases(synthetic: Synthetic, rows: Tensor, source: Source, constants: Mapping[str, Any]) -> Synthetic:
    """Samples that are sums: their bases, if every one of them is real."""
    (op,) = synthetic.decoder
    pairs, bases = synthetic.tensors[str(op["pairs"])].long(), synthetic.tensors[str(op["bases"])]
    own, bare = torch.full((len(bases),), -1), pairs[:, 1] < 0
    own[pairs[bare, 0]] = rows[bare]
    if bool((own < 0).any()) or not _are(bases, source.as_held(own), constants):
        return synthetic
    tensors = {**synthetic.tensors, str(op["bases"]): source.as_held(own).clone()}
    decoder = [{**op, **{f"bases_{name}": values for name, values in constants.items()}}]
    return attrs.evolve(synthetic, tensors=tensors, decoder=decoder)


def _constants(normalisation: services.Normalisation, source: Source) -> dict[str, Any] | None:
    white = {} if source.white in (None, 255) else {"white": source.white}
    if isinstance(normalisation, MeanStd):
        return {"mean": list(normalisation.mean), "std": list(normalisation.std), **white}
    if isinstance(normalisation, Identity):
        return {"mean": [0.0] * source.channels, "std": [1.0] * source.channels, **white}
    return None


def _are(images: Tensor, held: Tensor, constants: Mapping[str, Any]) -> bool:
    """Whether images are still what they came as, up to the rounding of another float type or device: who stores a set
    otherwise may have changed them."""
    unit = held.double() / (constants.get("white", 255) if held.dtype == torch.uint8 else 1)
    own = MeanStd(constants["mean"], constants["std"]).apply(unit)
    return images.is_floating_point() and bool((images.double() - own).abs().max() <= 1e-5)


def _type(count: int) -> torch.dtype:
    return next(t for t in (torch.int8, torch.int16, torch.int32, torch.int64) if count <= torch.iinfo(t).max)


def exact_only(decoder: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a decoder reads nothing but real rows as the data hold them."""
    return [op.get("op") for op in decoder] == ["normalise"] and "at" not in decoder[0]


def exact_tensors(decoder: Sequence[Mapping[str, Any]]) -> set[str]:
    """The tensors of a decoder that are as the data hold them, whatever everything else is stored in."""
    rows = {str(op.get("tensor")) for op in decoder if op.get("op") == "normalise"}
    return rows | {str(op.get("bases")) for op in decoder if op.get("op") == "sum" and "bases_mean" in op}
