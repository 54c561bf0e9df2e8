"""A finished set on disk: artifact, manifest, decoders, card, exports. Names listed here are public."""

from typing import TYPE_CHECKING

from ddcore._later import later

if TYPE_CHECKING:
    from ddcore.sets.artifact import Artifact, as_stored, load_artifact
    from ddcore.sets.decoders import Decoder, Operation, several
    from ddcore.sets.levels import BITS, Quality, quality, to_levels
    from ddcore.sets.packed import Packed, load_packed

__all__ = [
    "Artifact",
    "BITS",
    "Decoder",
    "Operation",
    "Packed",
    "Quality",
    "as_stored",
    "load_artifact",
    "load_packed",
    "quality",
    "several",
    "to_levels",
]

__getattr__ = later(
    __name__,
    {
        "artifact": ("Artifact", "as_stored", "load_artifact"),
        "decoders": ("Decoder", "Operation", "several"),
        "levels": ("BITS", "Quality", "quality", "to_levels"),
        "packed": ("Packed", "load_packed"),
    },
)
