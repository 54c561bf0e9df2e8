"""Real data in: sources, readers, normalisation. Names listed here are public."""

from typing import TYPE_CHECKING

from ddcore._later import later

if TYPE_CHECKING:
    from ddcore.data.columns import classes_of, is_missing
    from ddcore.data.normalisation import Identity, MeanStd, Normalisation, fit
    from ddcore.data.part_names import part_of, visible
    from ddcore.data.parts import Wanted
    from ddcore.data.source import TEXT, Part, Real, Source, Split
    from ddcore.data.sources import open_source

__all__ = [
    "Identity",
    "MeanStd",
    "Normalisation",
    "Part",
    "Real",
    "Source",
    "Split",
    "TEXT",
    "Wanted",
    "classes_of",
    "fit",
    "is_missing",
    "open_source",
    "part_of",
    "visible",
]

__getattr__ = later(
    __name__,
    {
        "columns": ("classes_of", "is_missing"),
        "normalisation": ("Identity", "MeanStd", "Normalisation", "fit"),
        "part_names": ("part_of", "visible"),
        "parts": ("Wanted",),
        "source": ("Part", "Real", "Source", "Split", "TEXT"),
        "sources": ("open_source",),
    },
    once="source",
)
