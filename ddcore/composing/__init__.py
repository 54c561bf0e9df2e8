"""From words to a plan: options, presets, plugins found, hooks asked and their answers looked at.
Names listed here are public."""

from typing import TYPE_CHECKING

from ddcore._later import later

if TYPE_CHECKING:
    from ddcore.composing.recipes import AVERAGED, PER_VIEW, RULES, STATIC_MIXED, TOP_K, TWO_DISTANCES

__all__ = [
    "AVERAGED",
    "PER_VIEW",
    "RULES",
    "STATIC_MIXED",
    "TOP_K",
    "TWO_DISTANCES",
]

__getattr__ = later(
    __name__,
    {
        "recipes": ("AVERAGED", "PER_VIEW", "RULES", "STATIC_MIXED", "TOP_K", "TWO_DISTANCES"),
    },
)
