"""Series in text files: ``.ts`` of UEA with a header, ``.tsv`` and ``.txt`` of the UCR archive with the label first.

Shape letters: N series, C channels (dimensions), L values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from attrs import frozen

from ddcore import InputError
from ddcore.errors import near
from ddcore.storage import Place

TS, TABLES = ".ts", (".tsv", ".txt")
ENDS = (TS, *TABLES)
"""Ends of files' names; of one set in several forms the first is read."""
MOST_BYTES = 2**31
TAGS = ("problemname", "univariate", "dimensions", "equallength", "serieslength", "classlabel", "missing", "timestamps")
TRUTH: Mapping[str, bool] = {"true": True, "false": False}
GAPS = frozenset({"?", "nan", "na", ""})
"""What stands where a value is missing, in any case."""
OUTSIDE = re.compile(r":(?![^(]*\))")
"""A colon that is not between brackets, where time stamps have theirs."""
STAMPED = re.compile(r"\(\s*([^()]*?)\s*,\s*([^,()]*?)\s*\)")


@frozen(eq=False)
class Read:
    """The series of one file.

    Attributes:
        series: N arrays (C, L) float32, each of its own length; NaN where a value is missing.
        labels: N words; empty where there is none.
        classes: what the header declares, in its order; empty if it has no list.
        notes: what was dropped or taken for granted.
    """

    series: Sequence[np.ndarray]
    labels: Sequence[str]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@frozen
class Header:
    """What the tags of a ``.ts`` file say; None where a tag is not there."""

    univariate: bool | None
    dimensions: int | None
    equal: bool | None
    length: int | None
    stamps: bool
    classes: tuple[str, ...]


def read_file(place: Place) -> Read:
    """The series of a ``.ts``, ``.tsv`` or ``.txt`` file.

    Raises:
        InputError: it is empty or too large, its header or a line is not what it has to be; says where.
    """
    if place.size() > MOST_BYTES:
        raise InputError(f"{place.url} has {place.size():,} bytes, more than {MOST_BYTES:,}: keep fewer series in it")
    text = place.read_bytes().decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise InputError(f"{place.url} is empty: get it again, or give another file")
    lines = [(number, line.rstrip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    found = _read_ts(lines, place.url) if place.name.lower().endswith(TS) else _read_table(lines, place.url)
    if not found.series:
        raise InputError(f"{place.url} has a header and no series: get it again, or give another file")
    if odd := next((label for label in found.labels if "\ufffd" in label), None):
        raise InputError(f"{place.url} has a label that is not UTF-8 text, {odd!r}: convert the file")
    return found


def _read_ts(lines: Sequence[tuple[int, str]], url: str) -> Read:
    lines = [(number, line.lstrip()) for number, line in lines]
    begin = next((at for at, (_, line) in enumerate(lines) if line.lower() == "@data"), None)
    if begin is None:
        raise InputError(f"{url} has no line @data, which ends the header of a .ts file: give a .ts file of UCR or UEA")
    header = header_of([(number, line) for number, line in lines[:begin] if line[0] not in "#%"], url)
    series, labels = [], []
    for number, line in lines[begin + 1 :]:
        if line[0] in "#%":
            continue
        where = f"{url}, line {number},"
        *channels, label = OUTSIDE.split(line)
        if not channels:
            raise InputError(f"{where} has no colon, after which its class is due: restore the file")
        one = _channels([_unstamped(c, where) if header.stamps else c.split(",") for c in channels], where)
        _check_fits(one, label.strip(), header, where)
        series.append(one if header.equal else _ended(one, where))
        labels.append("" if label.strip().lower() in GAPS else label.strip())
    _check_alike(series, url)
    notes = ("time stamps are dropped: values count as evenly spaced",) if header.stamps else ()
    return Read(series, labels, header.classes, notes)


def header_of(lines: Sequence[tuple[int, str]], url: str) -> Header:
    """The tags ``@name value``, in any case; those that are not known here are passed over.

    Raises:
        InputError: a line is no tag, a value does not fit, or the file has no classes.
    """
    tags: dict[str, str] = {}
    for number, line in lines:
        name, value = (*line.split(None, 1), "")[:2]
        if not name.startswith("@"):
            raise InputError(
                f"{url}, line {number}, is no tag such as @univariate, and stands before @data: restore it"
            )
        if name[1:].lower() == "targetlabel" and value.split()[:1] != ["false"]:
            raise InputError(f"{url} has numbers to predict (@targetLabel), not classes: give data with @classLabel")
        if name[1:].lower() in TAGS and not value.strip():
            raise InputError(f"{url}, line {number}: tag {name} has no value: restore it")
        tags[name[1:].lower()] = value.strip()
    truth = {name: _truth(tags, name, url) for name in ("univariate", "equallength", "missing", "timestamps")}
    given, *classes = tags.get("classlabel", "true").split()
    if given.lower() not in TRUTH:
        raise InputError(f"{url} has @classLabel {given}: true and the names of the classes are due")
    if not TRUTH[given.lower()]:
        raise InputError(f"{url} has no classes (@classLabel false): give data with classes")
    return Header(
        univariate=truth["univariate"],
        dimensions=_whole(tags, "dimensions", url),
        equal=truth["equallength"],
        length=_whole(tags, "serieslength", url),
        stamps=bool(truth["timestamps"]),
        classes=tuple(classes),
    )


def _truth(tags: Mapping[str, str], name: str, url: str) -> bool | None:
    if name not in tags:
        return None
    word = tags[name].lower()
    if word not in TRUTH:
        raise InputError(f"{url} has @{name} {tags[name][:20]}: true or false is due")
    return TRUTH[word]


def _whole(tags: Mapping[str, str], name: str, url: str) -> int | None:
    if name not in tags:
        return None
    word = tags[name]
    if not (word.isascii() and word.isdigit() and 0 < len(word) < 10 and int(word)):
        raise InputError(f"{url} has @{name} {word[:20]}: a whole number above 0 is due")
    return int(word)


def _check_fits(one: np.ndarray, label: str, header: Header, where: str) -> None:
    """Refuse a series (C, L) that the header does not speak of."""
    count, length = one.shape
    due = 1 if header.univariate else header.dimensions
    if due is not None and count != due:
        tag = "@univariate true" if header.univariate else f"@dimensions {due}"
        raise InputError(f"{where} has {count} channels, and the header says {tag}: restore the file")
    if header.equal and header.length is not None and length != header.length:
        raise InputError(f"{where} has {length} values, and the header says @seriesLength {header.length}: restore it")
    if header.classes and label.lower() not in GAPS and label not in header.classes:
        raise InputError(f"{where} is of class {label[:40]!r}, which @classLabel lacks: {near(label, header.classes)}")


def _ended(one: np.ndarray, where: str) -> np.ndarray:
    """A series (C, L) without what is missing in all channels at its end, where shorter series are filled up so."""
    known = np.flatnonzero(~np.isnan(one).all(0))
    if not len(known):
        raise InputError(f"{where} has a class and no values: restore the file")
    return one[:, : known[-1] + 1]


def _unstamped(channel: str, where: str) -> list[str]:
    """The values of ``(time,value),(time,value)``, in their order."""
    if STAMPED.sub("", channel).strip(" ,"):
        raise InputError(f"{where} is not of pairs (time,value), and the header says @timestamps true: restore it")
    return [value for _, value in STAMPED.findall(channel)]


def _read_table(lines: Sequence[tuple[int, str]], url: str) -> Read:
    """Label first, then values, parted by tabs, commas or blanks; what is missing at a line's end ends its series."""
    series, labels = [], []
    for number, line in lines:
        part = next((sign for sign in "\t," if sign in line), None)
        label, *values = line.split(part)
        where = f"{url}, line {number},"
        series.append(_ended(_channels([values], where), where))
        labels.append("" if label.strip().lower() in GAPS else label.strip())
    return Read(series, labels)


def _channels(channels: Sequence[Sequence[str]], where: str) -> np.ndarray:
    """Words of each channel as (C, L) float32, NaN where there is no value; shorter channels end in NaN."""
    rows = [_numbers(words, where) for words in channels]
    length = max(len(row) for row in rows)
    if not length:
        raise InputError(f"{where} has a class and no values: restore the file")
    return np.stack([np.pad(row, (0, length - len(row)), constant_values=np.nan) for row in rows])


def _numbers(words: Sequence[str], where: str) -> np.ndarray:
    words = [] if list(words) == [""] else [word.strip() for word in words]
    values = ["nan" if word.lower() in GAPS else word for word in words]
    try:
        numbers = np.array(values, dtype=np.float64)
    except ValueError as error:
        odd = next(word for word in words if not _is_number(word))
        raise InputError(f"{where} has {odd[:40]!r} where a number is due: correct it, or write ? there") from error
    with np.errstate(over="ignore"):
        short = numbers.astype(np.float32)
    if np.isinf(short).any():
        odd = words[int(np.flatnonzero(np.isinf(short))[0])]
        raise InputError(f"{where} has {odd[:40]!r}, which is not finite in float32: correct it, or write ? there")
    return short


def _is_number(word: str) -> bool:
    try:
        return word.lower() in GAPS or not math.isnan(float(word))
    except ValueError:
        return False


def _check_alike(series: Sequence[np.ndarray], url: str) -> None:
    counts = sorted({len(one) for one in series})
    if len(counts) > 1:
        raise InputError(f"{url} has series of {counts[0]} and of {counts[-1]} channels: keep those of one kind")


def heads(place: Place) -> Iterator[str]:
    """Lines at the beginning of a file."""
    yield from place.read_bytes(0, 2**16).decode("utf-8-sig", errors="replace").splitlines()
