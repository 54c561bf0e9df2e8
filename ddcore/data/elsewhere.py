"""Other data of the same classes, on whose test parts students are tested too (``--evaluate-on``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import frozen

from ddcore.data.source import Part, Source, Split
from ddcore.errors import InputError
from ddcore.storage.printing import printable_line

FEW = 3


@frozen(eq=False)
class Elsewhere:
    """A test part of other data, its classes in the order of the run's.

    Attributes:
        name: what rows call it.
        source: as loaded.
        samples: its test images under the run's normalisation, labelled by the run's classes.
    """

    name: str
    source: Source
    samples: Part

    def as_json(self) -> dict[str, Any]:
        """What records say of it."""
        return {"name": self.name, "fingerprint": self.source.fingerprint, "test": len(self.samples)}


def matched(other: Source, of: Source, name: str) -> Split:
    """The test part of other data with its labels as positions in ``of.classes``; classes are matched by their names.

    Args:
        name: for messages.

    Raises:
        InputError: images of another kind or shape; a class that only one of both has.
    """
    flag = f"--evaluate-on {printable_line(name)!r}"
    if (other.modality, other.shape) != (of.modality, of.shape):
        due, found = ("x".join(map(str, each.shape)) for each in (of, other))
        raise InputError(
            f"{flag} holds {other.modality} of {found}, and students see {of.modality} of {due}: name others"
        )
    ours, theirs = list(of.classes), list(other.classes)
    if lacking := [c for c in ours if c not in theirs]:
        raise InputError(
            f"{flag} has no class {_few(lacking)} (its classes: {_few(theirs)}): name data of the same classes"
        )
    if more := [c for c in theirs if c not in ours]:
        raise InputError(f"{flag} has classes that students do not know, {_few(more)}: name data of the same classes")
    if theirs == ours:
        return other.test
    if len(set(theirs)) < len(theirs):
        raise InputError(f"{flag} has two classes of one name, so they cannot be matched: rename one")
    return Split(other.test.stored, torch.tensor([ours.index(c) for c in theirs])[other.test.labels])


def name_of(source: Source) -> str:
    """What rows call other data: by name and the beginning of their fingerprint, so that equal names are equal data."""
    return f"{source.name} ({source.fingerprint[:8]})"


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(printable_line(str(name))[:40]) for name in names[:FEW])
    return shown + (", ..." if len(names) > FEW else "")
