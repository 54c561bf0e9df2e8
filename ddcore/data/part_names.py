"""What names of folders and files say: which part of a data set they hold, and which of them nobody meant."""

from __future__ import annotations

import re
from collections.abc import Iterable

TRAIN, TEST = "train", ("test", "validation")
"""The parts by the names that they go by here; of the test parts the first that is there counts."""
SPELLINGS = {
    TRAIN: r"train(?:ing)?|trn",
    TEST[0]: r"test(?:ing)?|tst|t10k",
    TEST[1]: r"valid(?:ation)?|val|dev|eval(?:uation)?",
}
"""How a part is called, in any case, as a word of a name; alone, or as in ``trainset``, ``test_data``, ``val2017``."""
_PARTS = {part: re.compile(rf"(?:{words})(?:set|data|images?|imgs?)?\d*") for part, words in SPELLINGS.items()}

LEFT_ALONE = frozenset(
    {
        *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__"),
        *("@eadir", "$recycle.bin", "system volume information", "lost+found"),
    }
)
"""What file managers, archivers and disks leave among data, in small letters."""

NUMBERED = re.compile(
    r"(?<![^-_. ])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=[a-f]*\d)[0-9a-f]{16,}|\d+-of-\d+|\d+)(?![^-_. ])",
    re.IGNORECASE,
)
"""What tells the shards of one part apart: numbers and hashes that stand alone."""
OF = re.compile(r"(?<!\d)(\d+)-of-(\d+)(?!\d)")
_END = re.compile(r"(?:\.(?:snappy|gz|gzip|zstd|zst|lz4|brotli|br))?\.[^.]+$", re.IGNORECASE)


def visible(names: Iterable[str]) -> list[str]:
    """Names of files, with or without folders, but for hidden ones and what systems leave behind.

    >>> visible(["a/0.png", "a/._0.png", ".cache/0.png", "__MACOSX/a/0.png", "a/Thumbs.db"])
    ['a/0.png']
    """
    return [name for name in names if not any(map(_is_left_alone, name.split("/")))]


def _is_left_alone(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_ALONE


def words(name: str) -> tuple[str, ...]:
    """The words of a name in small letters, parted by ``_``, ``-``, ``.``, a space or a capital.

    >>> words("Cifar_train-00 final"), words("ImagesTest")
    (('cifar', 'train', '00', 'final'), ('images', 'test'))
    """
    return tuple(word for word in re.split(r"[-_.\s]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()) if word)


def part_of(name: str) -> str | None:
    """Which part a name speaks of; None if of none, or of several.

    >>> part_of("seg_train"), part_of("Testing"), part_of("Valid-2"), part_of("trainer"), part_of("train_test")
    ('train', 'test', 'validation', None, None)
    """
    found = {part for word in words(name) for part, spelt in _PARTS.items() if spelt.fullmatch(word)}
    return found.pop() if len(found) == 1 else None


def without_parts(name: str) -> tuple[str, ...]:
    """The words of a name with a star for those that speak of a part: what the names of all parts have in common."""
    return tuple("*" if any(spelt.fullmatch(word) for spelt in _PARTS.values()) else word for word in words(name))


def stem(file: str) -> str:
    """A file's name without folders, its end, and what numbers it among shards.

    >>> stem("data/cifar_train-00000-of-00002-a09b74b3ef9c3b56.parquet"), stem("0001.snappy.parquet")
    ('cifar_train', '')
    """
    plain = NUMBERED.sub("", _END.sub("", file.rpartition("/")[2]))
    return re.sub(r"([-_. ])[-_. ]+", r"\1", plain).strip("-_. ")


def listed(names: Iterable[str], most: int = 5) -> str:
    """Some names in a sentence, sorted, the first few and how many more there are."""
    shown = sorted(names)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "") or "none"
