"""What people look at, made from folders alone: reports, comparisons, leaderboards, plots.
Names listed here are public."""

from typing import TYPE_CHECKING

from ddcore._later import later

if TYPE_CHECKING:
    from ddcore.pages.tracking import numbers

__all__ = [
    "numbers",
]

__getattr__ = later(
    __name__,
    {
        "tracking": ("numbers",),
    },
)
