"""Every data set that ``--dataset`` names without a plugin: files by a reader, and torchvision's."""

from __future__ import annotations

from typing import Any

import attrs

from ddcore.data.parts import Wanted
from ddcore.data.readers import PICTURE_FILES, READERS
from ddcore.data.recognise import taken_for, unknown
from ddcore.data.source import UNLABELLED, Source, check_varied
from ddcore.data.symmetry import Mirror, settled
from ddcore.data.torchvision_sets import SETS, find, read_torchvision
from ddcore.data.unlabelled import read_unlabelled
from ddcore.errors import InputError, OptionError, near
from ddcore.images.framing import WORDS, Mode, Resize


def open_source(
    name: str,
    *,
    data_root: str | None = None,
    split: str | None = None,
    resize: int | None = None,
    resize_mode: Mode = "crop",
    mirror: Mirror = "auto",
    skip_broken: bool = False,
) -> Source:
    """Load the real data that a ``--dataset`` name stands for.

    Args:
        name: a name that ``known_sources`` lists, in any case; ``reader:PATH_OR_URL``; or a path or URL alone, whose
            reader is told by what lies there.
        data_root: folder with data sets by name; relative paths are looked up there first.
        split: ``TRAIN:TEST`` names the two parts; a share such as ``0.8`` cuts data without parts (see ``readers``).
        resize: height and width to bring all images to, by Pillow's bicubic filter.
        resize_mode: how: ``crop``, ``pad`` or ``squash``; see ``ddcore.images.framing``.
        mirror: whether mirror images keep their class: ``yes``, ``no``, or ``auto``; see ``ddcore.data.symmetry``.
        skip_broken: leave out pictures that cannot be decoded, with a note of their names, instead of refusing.

    Raises:
        InputError: no data set has this name, or the data are missing or unfit, or all train images are equal.
        OptionError: a way to resize that there is not, or no size beside it.
    """
    known, _, rest = name.partition(":")
    known = known.lower() if known.lower() in READERS else known
    size = _resize(resize, resize_mode)
    if known.lower() == UNLABELLED:
        own: dict[str, Any] = {"split": split, "resize": resize, "resize_mode": resize_mode}

        def read(rest: str) -> Source:
            return open_source(rest, data_root=data_root, mirror=mirror, skip_broken=skip_broken, **own)

        wanted = Wanted(known, rest, data_root, split, size, skip_broken)
        source = read_unlabelled(wanted, PICTURE_FILES, read, named=knows(rest.partition(":")[0]))
    elif not knows(known):
        if (kind := taken_for(name, data_root)) is None:
            raise InputError(unknown(name, [n for n, _ in known_sources()]))
        source = READERS[kind].read(Wanted(kind, name, data_root, split, size, skip_broken))
        source = as_taken(source, kind)
    else:
        wanted = Wanted(known, rest, data_root, split, size, skip_broken)
        source = READERS[known].read(wanted) if known in READERS else read_torchvision(wanted)
    check_varied(source)
    return settled(source, mirror)


def _resize(size: int | None, mode: Mode) -> Resize | None:
    if mode not in WORDS:
        raise OptionError(f"--resize-mode {mode!r} is not known: {near(mode, WORDS)}")
    if size is None and mode != "crop":
        raise OptionError(f"--resize-mode {mode} says how images get a size and not which: give --resize N too")
    return None if size is None else Resize(size, mode)


def as_taken(source: Source, kind: str) -> Source:
    """A source with a note of which reader its path was taken for."""
    return attrs.evolve(source, notes=(f"taken for {kind}: by what lies there", *source.notes))


def knows(name: str) -> bool:
    """Whether ``open_source`` answers for a name (what stands before the first colon)."""
    return name.lower() in (*READERS, UNLABELLED) or find(name) is not None


def known_sources() -> list[tuple[str, str]]:
    """Every name that ``open_source`` takes, and what it is in one line."""
    without = (
        UNLABELLED,
        "unlabelled:FOLDER of pictures, or unlabelled:DATA whose labels are left out, for methods that need none",
    )
    return [(name, reader.what) for name, reader in READERS.items()] + [without] + [(s.name, s.what) for s in SETS]
