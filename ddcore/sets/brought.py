"""What installed distributions bring to read sets with: kinds of labels, operations of decoders.

One rule for all that a set on disk names: an entry point, ``NAME = "module:Class"`` in the group ``ddcore.labels`` or
``ddcore.decoders``. So a set opens wherever what made it is installed, without any plugin being selected; and since
names are only
compared with those of entry points, a manifest imports nothing else.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from ddcore.errors import InputError
from ddcore.labels import KINDS, LABEL_KINDS, Labels


def brought(group: str, name: str) -> Any | None:
    """What an installed distribution brings under this name; None: nobody brings it.

    Raises:
        InputError: two distributions do, or what they bring cannot be imported.
    """
    points = {(point.value, _owner(point)): point for point in metadata.entry_points(group=group, name=name)}
    if len(points) > 1:
        both = " and ".join(sorted({owner for _, owner in points}))
        raise InputError(f"{both} both bring {name!r} of {group}: uninstall one of them")
    for (value, owner), point in points.items():
        try:
            return point.load()
        except (Exception, SystemExit) as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(
                f"{name!r} of {group} is {value} of {owner}, which cannot be imported ({why}): upgrade or uninstall {owner}"
            ) from error
    return None


def label_class(kind: str) -> type[Labels] | None:
    """The class of a label kind: the core's, or what an installed distribution brings; None: nobody does.

    Raises:
        InputError: as ``brought``.
    """
    found = KINDS.get(kind) or brought(LABEL_KINDS, kind)
    return found if isinstance(found, type) and issubclass(found, Labels) and found.kind == kind else None


def _owner(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "a distribution without a name"
