"""From words to a plan: options, presets, plugins found, hooks asked and their answers looked at.
Names listed here are public."""

from typing import TYPE_CHECKING

from ddcore._later import later

if TYPE_CHECKING:
    from ddcore.composing.recipes import PER_VIEW, RULES

__all__ = [
    "PER_VIEW",
    "RULES",
]

__getattr__ = later(
    __name__,
    {
        "recipes": ("PER_VIEW", "RULES"),
    },
)
