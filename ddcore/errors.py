"""Errors that a user can act on: one sentence that says what, where, and the way out.

The command line prints the sentence and exits with ``exit_code``; a traceback is for bugs only.
"""

import difflib
import errno
from collections.abc import Iterable


class DdcoreError(Exception):
    """What, where, the way out. Exit code 2: usage or bad input; nothing was lost."""

    exit_code = 2


class InputError(DdcoreError):
    """Data, an artifact, a file or a URL is not what it has to be."""


class StoreError(InputError):
    """A disk or a remote store cannot give or take something, perhaps just now: what was there before is as it was."""


class NoSpace(StoreError):
    """A disk is full: once there is room, the same work goes on."""

    exit_code = 3


class OptionError(DdcoreError):
    """A value on the command line, in the environment, in a file or in a preset cannot be used."""


class PluginError(DdcoreError):
    """A plugin is missing, broken, clashes with another or breaks a hook's contract."""


class NonFiniteLoss(DdcoreError):
    """A loss became NaN or infinite: the last good checkpoint is kept."""


class Diverged(DdcoreError):
    """Learning came to nothing without a NaN: the last good state is kept."""


class Interrupted(DdcoreError):
    """The run was stopped and can be resumed."""

    exit_code = 3


MISFITS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError)
"""What code raises that is handed plain values or tensors from a file that are not what they have to be."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk, or a user's share of it, that is full."""
MOST_KNOWN, MOST_COMPARED = 100, 2000
"""Names that a sentence lists, and that it compares: a file may hold millions."""
MOST_LETTERS = 200


def in_short(error: BaseException) -> str:
    """What went wrong, on one line and not endless, for the middle of a sentence."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MOST_LETTERS]


def near(name: str, known: Iterable[str]) -> str:
    """A sentence's end that helps with a misspelt name: near matches, else what there is.

    >>> near("datn", ["datm", "dm"])
    "did you mean 'datm'?"
    >>> near("zzz", ["datm", "dm"])
    'choose one of datm, dm'
    """
    every = sorted(known)
    several = [word for word in every[:MOST_COMPARED] if len(word) <= MOST_LETTERS]
    matches = difflib.get_close_matches(name[:MOST_LETTERS], several, n=2, cutoff=0.6)
    if matches:
        return "did you mean " + " or ".join(repr(m) for m in matches) + "?"
    few = several[:MOST_KNOWN]
    more = f" and {len(every) - len(few)} more" if few and len(every) > len(few) else ""
    return "choose one of " + ", ".join(few) + more if few else "there are none"
