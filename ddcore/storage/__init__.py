"""Bytes that survive: places on any file system, files that are whole or not there, checkpoints, locks, secrets.
Names listed here are public."""

from typing import TYPE_CHECKING

from ddcore._later import later

if TYPE_CHECKING:
    from ddcore.storage.checkpoints import Checkpoints, afresh
    from ddcore.storage.keeping import kept
    from ddcore.storage.places import (
        Place,
        canonical,
        default_cache,
        load_tensors,
        read_metadata,
        save_tensors,
        sha256_of,
    )
    from ddcore.storage.progress import Reporter
    from ddcore.storage.weights import load_weights, read_state, save_weights

__all__ = [
    "Checkpoints",
    "Place",
    "Reporter",
    "afresh",
    "canonical",
    "default_cache",
    "kept",
    "load_tensors",
    "load_weights",
    "read_metadata",
    "read_state",
    "save_tensors",
    "save_weights",
    "sha256_of",
]

__getattr__ = later(
    __name__,
    {
        "checkpoints": ("Checkpoints", "afresh"),
        "keeping": ("kept",),
        "places": ("Place", "canonical", "default_cache", "load_tensors", "read_metadata", "save_tensors", "sha256_of"),
        "progress": ("Reporter",),
        "weights": ("load_weights", "read_state", "save_weights"),
    },
    once="places",
)
