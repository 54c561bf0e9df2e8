"""A run, its tasks, and where they are done. Names listed here are public."""

from typing import TYPE_CHECKING

from ddcore._later import later

if TYPE_CHECKING:
    from ddcore.runs.builtin import for_each_class
    from ddcore.runs.work import address_elsewhere, answer, check_stop, environment_elsewhere, needs, raise_answer, work

__all__ = [
    "address_elsewhere",
    "answer",
    "check_stop",
    "environment_elsewhere",
    "for_each_class",
    "needs",
    "raise_answer",
    "work",
]

__getattr__ = later(
    __name__,
    {
        "builtin": ("for_each_class",),
        "work": ("address_elsewhere", "answer", "check_stop", "environment_elsewhere", "needs", "raise_answer", "work"),
    },
)
