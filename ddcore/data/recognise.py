"""Which reader a path is for, by what lies there: ``--dataset photos/`` is read as ``folder:photos/``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from ddcore.data.listed import TABLES, names_pictures
from ddcore.data.part_names import visible
from ddcore.data.parts import Wanted
from ddcore.data.readers import IDX, NPZ, PARQUET, PICTURE_FILES
from ddcore.errors import InputError, near
from ddcore.storage.places import Place

Recognise = Callable[[Place], str | None]
"""Tells the name of the data that a place holds, or None."""

RECORDS = {"manifest.json": ("provenance", "a distilled set"), "run.json": ("config", "the folder of a run")}
"""What ddcore itself writes, which is no real data, by a key that its record has."""


def taken_for(dataset: str, data_root: str | None = None, others: Iterable[Recognise] = ()) -> str | None:
    """The reader's name for a path or URL that was given without one; None if nothing is there.

    Args:
        data_root: where relative paths are looked up first.
        others: what else knows kinds of data.

    Raises:
        InputError: what lies there is of several kinds, or of none.
    """
    place = Wanted("", dataset, data_root).found() if dataset else None
    if place is None:
        return None
    kinds = list(dict.fromkeys([*_kinds(place), *(kind for other in others if (kind := other(place)) is not None)]))
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        choices = " or ".join(f"{kind}:{place.url}" for kind in kinds)
        raise InputError(f"{place.url} holds data of {len(kinds)} kinds: say which, {choices}")
    what = f"{place.url} is there, and no data that ddcore reads unasked"
    if place.name.lower().endswith(".zip"):
        raise InputError(f"{what}: unpack it, and give the folder")
    raise InputError(
        f"{what}: write READER:PATH, see `ddcore data list`, and select the plugin that reads it, if it is one's"
    )


def _kinds(place: Place) -> list[str]:
    """The core's readers for what lies there."""
    name = place.name.lower()
    ends = {"parquet": name.endswith(PARQUET), "npz": name.endswith(NPZ)}
    if (any(ends.values()) and place.local_path() is None) or not place.is_folder():
        ends["csv"] = name.endswith(TABLES) and names_pictures(place, PICTURE_FILES)
        return [kind for kind, ending in ends.items() if ending]
    files = visible(place.files())
    for record, (key, what) in RECORDS.items():
        if record in files and _has(place / record, key):
            raise InputError(f"{place.url} is {what}: --dataset names real data, see `ddcore data list`")
    low = [name.lower() for name in files]
    classes = {name.rpartition("/")[0] for name in low if name.endswith(PICTURE_FILES)} - {""}
    there = {
        "folder": len(classes) > 1,
        "csv": len(classes) < 2 and names_pictures(place, PICTURE_FILES),
        "parquet": any(name.endswith(PARQUET) for name in low),
        "idx": len([name for name in low if "/" not in name and IDX.search(name)]) > 1,
        "npz": any(name.endswith(NPZ) for name in low if "/" not in name),
    }
    return [kind for kind, holds in there.items() if holds]


def _has(place: Place, key: str) -> bool:
    """Whether a file is a JSON object with a key."""
    with suppress(InputError):
        content = place.read_json()
        return isinstance(content, dict) and key in content
    return False


def unknown(name: str, known: Iterable[str]) -> str:
    """One sentence for a data name that nobody answers, or a path where nothing is."""
    if "/" in name:
        return f"{Place.at(name).nothing_there}, and no data set is called so: check the path or --data-root"
    return f"no data set is named {name!r}: {near(name.partition(':')[0].lower(), known)}"
