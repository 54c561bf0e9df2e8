"""A run, its tasks, and where they are done. Names listed here are public."""

from typing import TYPE_CHECKING

from ddcore._later import later

if TYPE_CHECKING:
    from ddcore.runs.builtin import for_each_class
    from ddcore.runs.work import address_elsewhere, answer, check_stop, environment_elsewhere, needs, raise_answer
    from ddcore.runs.work import work as do_task

__all__ = [
    "address_elsewhere",
    "answer",
    "check_stop",
    "do_task",
    "environment_elsewhere",
    "for_each_class",
    "needs",
    "raise_answer",
]

__getattr__ = later(
    __name__,
    {
        "builtin": ("for_each_class",),
        "work": {
            **dict.fromkeys(
                ("address_elsewhere", "answer", "check_stop", "environment_elsewhere", "needs", "raise_answer"), ""
            ),
            "do_task": "work",  # a name lent under its module's would be hidden by it
        },
    },
)
