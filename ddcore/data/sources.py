"""Every data set that ``--dataset`` names without a plugin: files by a reader, and torchvision's."""

from __future__ import annotations

from ddcore.data.parts import Wanted
from ddcore.data.readers import READERS
from ddcore.data.source import Source, check_varied
from ddcore.data.symmetry import Mirror, settled
from ddcore.data.torchvision_sets import SETS, find, read_torchvision
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
) -> Source:
    """Load the real data that a ``--dataset`` name stands for.

    Args:
        name: a name that ``known_sources`` lists, ``torchvision``'s in any case, or ``reader:PATH_OR_URL``.
        data_root: folder with data sets by name; relative paths are looked up there first.
        split: ``TRAIN:TEST`` names the two parts; a share such as ``0.8`` cuts data without parts (see ``readers``).
        resize: height and width to bring all images to, by Pillow's bicubic filter.
        resize_mode: how: ``crop``, ``pad`` or ``squash``; see ``ddcore.images.framing``.
        mirror: whether mirror images keep their class: ``yes``, ``no``, or ``auto``; see ``ddcore.data.symmetry``.

    Raises:
        InputError: no data set has this name, or the data are missing or unfit, or all train images are equal.
        OptionError: a way to resize that there is not, or no size beside it.
    """
    known, _, rest = name.partition(":")
    if not knows(known):
        raise InputError(f"no data set is named {known!r}: {near(known.lower(), [n for n, _ in known_sources()])}")
    wanted = Wanted(known, rest, data_root, split, _resize(resize, resize_mode))
    source = READERS[known].read(wanted) if known in READERS else read_torchvision(wanted)
    check_varied(source)
    return settled(source, mirror)


def _resize(size: int | None, mode: Mode) -> Resize | None:
    if mode not in WORDS:
        raise OptionError(f"--resize-mode {mode!r} is not known: {near(mode, WORDS)}")
    if size is None and mode != "crop":
        raise OptionError(f"--resize-mode {mode} says how images get a size and not which: give --resize N too")
    return None if size is None else Resize(size, mode)


def knows(name: str) -> bool:
    """Whether ``open_source`` answers for a name (what stands before the first colon)."""
    return name in READERS or find(name) is not None


def known_sources() -> list[tuple[str, str]]:
    """Every name that ``open_source`` takes, and what it is in one line."""
    return [(name, reader.what) for name, reader in READERS.items()] + [(s.name, s.what) for s in SETS]
