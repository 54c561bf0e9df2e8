"""Errors that a user can act on: one sentence that says what, where, and the way out.

The command line prints the sentence and exits with ``exit_code``; a traceback is for bugs only.
"""

import difflib
from collections.abc import Iterable


class DdcoreError(Exception):
    """What, where, the way out. Exit code 2: usage or bad input; nothing was lost."""

    exit_code = 2


class InputError(DdcoreError):
    """Data, an artifact, a file or a URL is not what it has to be."""


class OptionError(DdcoreError):
    """A value on the command line, in the environment, in a file or in a preset cannot be used."""


class PluginError(DdcoreError):
    """A plugin is missing, broken, clashes with another or breaks a hook's contract."""


class NonFiniteLoss(DdcoreError):
    """A loss became NaN or infinite: the last good checkpoint is kept."""


class Interrupted(DdcoreError):
    """The run was stopped and can be resumed."""

    exit_code = 3


def near(name: str, known: Iterable[str]) -> str:
    """A sentence's end that helps with a misspelt name: near matches, else what there is.

    >>> near("datn", ["datm", "dm"])
    "did you mean 'datm'?"
    >>> near("zzz", ["datm", "dm"])
    'choose one of datm, dm'
    """
    known = sorted(known)
    matches = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if matches:
        return "did you mean " + " or ".join(repr(m) for m in matches) + "?"
    return "choose one of " + ", ".join(known) if known else "there are none"
