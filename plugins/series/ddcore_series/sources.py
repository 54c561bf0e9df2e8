"""From files of series to a source: pairs of files found, gaps filled, lengths made equal, classes numbered."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from ddcore import InputError, randomness
from ddcore.data import Source, Split, Wanted, classes_of, part_of, visible
from ddcore.errors import OptionError, near
from ddcore.storage import Place
from ddcore_series.files import ENDS, TABLES, TS, Read, heads, read_file

SERIES = "series"
AEON = "aeon"
PARTS = ("TRAIN", "TEST")
NAMED = re.compile(r"(?P<set>.+)_(?P<part>[^_.]+)")
"""A file's name without its end."""
Lengths = Literal["pad", "cut", "resample"]
FLAT = 1e-8
"""Deviation at or below which a channel of a series is constant, and is not divided by it."""


@frozen
class Shape:
    """How series are brought to one shape.

    Attributes:
        lengths: what is done to those of another length than the others.
        length: that all are brought to; None: the longest train series' (``cut``: the shortest's).
        z_normalise: whether each channel of each series is brought to mean 0 and deviation 1.
    """

    lengths: Lengths = "pad"
    length: int | None = None
    z_normalise: bool = False


def read(wanted: Wanted, shape: Shape) -> Source:
    """The series that ``--dataset ts:PATH`` or ``aeon:NAME`` stand for.

    Raises:
        InputError: nothing there, or not what it has to be.
    """
    train, test = _aeon_files(wanted) if wanted.name == AEON else files_of(wanted)
    name = _stem(train.name)[0] if test is not None else train.name.rpartition(".")[0]
    first = read_file(train)
    if test is None:
        parts = _cut(first, wanted)
    elif wanted.share is not None:
        way_out = f"leave it out, or give --split {_stem(train.name)[1]}:{_stem(test.name)[1]}"
        raise OptionError(
            f"--split {wanted.split} cuts one file, but {wanted.shown} has a train and a test file: {way_out}"
        )
    else:
        parts = first, read_file(test)
    return source_of(name, wanted.shown, parts, shape)


def source_of(name: str, origin: str, parts: tuple[Read, Read], shape: Shape) -> Source:
    """Series with their classes, train and test, as a source of rows (C, L) float32.

    A real series costs 4 bytes a value, what fills it up not counted.

    Raises:
        InputError: channels differ, a channel has no value, a class has no train series.
    """
    train, test = parts
    labels, classes, notes = _classes(name, train, test)
    notes = [*dict.fromkeys([*train.notes, *test.notes]), *notes]
    kept = [
        [one for one, label in zip(p.series, of, strict=True) if label >= 0]
        for p, of in zip(parts, labels, strict=True)
    ]
    channels = [len(each[0]) for each in kept]
    if channels[0] != channels[1]:
        raise InputError(
            f"{name} has {channels[0]} channels in train series and {channels[1]} in test series: restore it"
        )
    filled = [
        [_filled(one, f"{name}, {part} series {at},") for at, one in enumerate(each)]
        for part, each in zip(("train", "test"), kept, strict=True)
    ]
    gaps = sum(int(np.isnan(one).sum()) for each in kept for one in each)
    if gaps:
        notes.append(f"{gaps} missing values are interpolated between their neighbours in time")
    lengths = [one.shape[1] for each in filled for one in each]
    length = _length([one.shape[1] for one in filled[0]], shape)
    rows = [torch.from_numpy(np.stack([_brought(one, length, shape.lengths) for one in each])) for each in filled]
    if other := sum(each != length for each in lengths):
        said = {"pad": "filled up by their last value", "cut": "cut", "resample": "resampled"}[shape.lengths]
        also = " (longer ones cut)" if shape.lengths == "pad" and max(lengths) > length else ""
        also = (
            " (shorter ones filled up by their last value)"
            if shape.lengths == "cut" and min(lengths) < length
            else also
        )
        notes.append(
            f"{other} of {len(lengths)} series, of {min(lengths)} to {max(lengths)} values, are {said} to {length}{also}"
        )
    if shape.z_normalise:
        rows = [z_normalised(each) for each in rows]
        notes.append("each channel of each series has mean 0 and deviation 1 (--series.z-normalise)")
    own = [min(one.shape[1], length) for one in filled[0]]
    return Source(
        name=name,
        train=Split(rows[0], torch.tensor([label for label in labels[0] if label >= 0])),
        test=Split(rows[1], torch.tensor([label for label in labels[1] if label >= 0])),
        classes=classes,
        modality=SERIES,
        dense=True,
        row_bytes=max(1, round(4 * channels[0] * sum(own) / len(own))),
        mirror_symmetric=False,
        origin=origin,
        notes=tuple(notes),
    )


def _classes(name: str, train: Read, test: Read) -> tuple[list[list[int]], tuple[str, ...], list[str]]:
    """Class numbers of train and test series, -1 where there is none, the classes' names in order, and notes.

    Raises:
        InputError: a part without labels, or a class of test series alone.
    """
    found = classes_of([*train.labels, *test.labels], f"the labels of {name}")
    names = found.names or ()
    numbers = iter(found.numbers.tolist())
    every = [next(numbers) if there else -1 for there in found.labelled.tolist()]
    labels = [every[: len(train.labels)], every[len(train.labels) :]]
    for part, of in zip(("train", "test"), labels, strict=True):
        if not any(label >= 0 for label in of):
            raise InputError(f"no {part} series of {name} has a class: give a file with classes")
    absent = [names[cls] for cls in sorted({*labels[1]} - {*labels[0], -1})]
    if absent:
        raise InputError(
            f"{name} has no train series of class {', '.join(absent[:5])}: add some, or drop its test series"
        )
    unused = [each for each in train.classes if each not in {*train.labels, *test.labels}]
    said = [f"declared and without series, so left out: class {', '.join(unused)}"] if unused else []
    return labels, names, [*found.notes, *said]


def _filled(one: np.ndarray, where: str) -> np.ndarray:
    """A series (C, L) whose gaps are filled linearly from both sides, at its ends by the nearest value.

    Raises:
        InputError: a channel has no value at all.
    """
    known = ~np.isnan(one)
    if known.all():
        return one
    if not known.any(1).all():
        raise InputError(f"{where} has no value in channel {int(np.flatnonzero(~known.any(1))[0])}: repair or drop it")
    at = np.arange(one.shape[1])
    return np.stack([np.interp(at, at[k], row[k]) for row, k in zip(one, known, strict=True)]).astype(np.float32)


def _length(train: Sequence[int], shape: Shape) -> int:
    if shape.length is not None:
        return shape.length
    return min(train) if shape.lengths == "cut" else max(train)


def _brought(one: np.ndarray, length: int, lengths: Lengths) -> np.ndarray:
    """A series (C, L) as (C, length).

    >>> _brought(np.array([[0.0, 1.0]], dtype=np.float32), 3, "pad").tolist()
    [[0.0, 1.0, 1.0]]
    >>> _brought(np.array([[0.0, 1.0]], dtype=np.float32), 3, "resample").tolist()
    [[0.0, 0.5, 1.0]]
    """
    own = one.shape[1]
    if own == length:
        return one
    if lengths == "resample":
        at = np.linspace(0, own - 1, length)
        return np.stack([np.interp(at, np.arange(own), row) for row in one]).astype(np.float32)
    return np.pad(one[:, :length], ((0, 0), (0, max(0, length - own))), mode="edge")


def z_normalised(rows: Tensor) -> Tensor:
    """Series (N, C, L) with mean 0 and deviation 1 (population) in each channel; constant ones become 0.

    >>> z_normalised(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]])).tolist()
    [[[-1.0, 1.0], [0.0, 0.0]]]
    """
    centred = rows.double() - rows.double().mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True).sqrt()
    return torch.where(spread > FLAT, centred / spread.clamp(min=FLAT), 0.0).float()


def _cut(whole: Read, wanted: Wanted) -> tuple[Read, Read]:
    """One file's series as two parts: of each class the share of ``--split`` (at least one series) first."""
    if wanted.share is None:
        raise InputError(
            f"{wanted.shown} is one file without its twin: give --split 0.8 to train on 80 % of each class"
        )
    found = classes_of(whole.labels, f"the labels of {wanted.shown}")
    rows = found.labelled.nonzero()[:, 0]
    trained = torch.zeros(len(whole.labels), dtype=torch.bool)
    for cls in found.numbers.unique().tolist():
        own = rows[found.numbers == cls]
        order = torch.randperm(len(own), generator=randomness.generator(0, "split", cls))
        trained[own[order[: max(1, round(wanted.share * len(own)))]]] = True
    if trained[rows].all():
        raise InputError(f"--split {wanted.split} leaves no series of {wanted.shown} to test on: give a smaller share")
    note = f"cut by --split {wanted.split}: that share of each class is for training, the rest for testing"
    first, second = (
        Read([whole.series[n] for n in at], [whole.labels[n] for n in at], whole.classes, (*whole.notes, note))
        for at in (trained.nonzero()[:, 0].tolist(), (~trained).nonzero()[:, 0].tolist())
    )
    return first, second


def files_of(wanted: Wanted) -> tuple[Place, Place | None]:
    """The train and the test file of a folder, a prefix ``FOLDER/NAME`` or one of the two files; one file alone without
    its twin.

    Raises:
        InputError: nothing is there, several sets are, or a part is missing.
    """
    place = wanted.found()
    if place is None and wanted.rest:
        near_by = wanted.at(Place.at(wanted.rest).parent.address).found()
        if near_by is not None and near_by.is_folder():
            found = _pairs(near_by, _ends(wanted)).get(Place.at(wanted.rest).name)
            if found is not None:
                return _both(near_by, Place.at(wanted.rest).name, found, wanted)
    place = wanted.place()
    if place.is_folder():
        pairs = _pairs(place, _ends(wanted))
        if not pairs:
            raise InputError(
                f"{place.url} holds no NAME_TRAIN.ts (or .tsv, .txt): give a folder of UCR or UEA, or one such file"
            )
        if len(pairs) > 1:
            raise InputError(
                f"{place.url} holds {len(pairs)} sets, {', '.join(sorted(pairs)[:5])}: say which, {wanted.shown.rstrip('/')}/{min(pairs)}"
            )
        (name,) = pairs
        return _both(place, name, pairs[name], wanted)
    if not place.name.lower().endswith(ENDS):
        raise InputError(f"{place.url} is no .ts, .tsv or .txt file of series: give one, or a folder of UCR or UEA")
    name, part = _stem(place.name)
    if part.lower() not in _ends(wanted) or wanted.share is not None:
        return place, None
    there = _pairs(place.parent, _ends(wanted)).get(name, {})
    beside = _pairs(place.parent, _ends(wanted), (place.name[place.name.rindex(".") :].lower(),)).get(name, {})
    return _both(place.parent, name, {**there, **beside, part.lower(): place.name}, wanted)


def _ends(wanted: Wanted) -> tuple[str, str]:
    first, second = wanted.named or PARTS
    return first.lower(), second.lower()


def _stem(file: str) -> tuple[str, str]:
    """The set that a file is of, and the part, ``TRAIN``; both empty where the name does not say.

    >>> _stem("GunPoint_TRAIN.ts"), _stem("JapaneseVowels_eq_TEST.ts"), _stem("walks.ts")
    (('GunPoint', 'TRAIN'), ('JapaneseVowels_eq', 'TEST'), ('', ''))
    """
    found = NAMED.fullmatch(file.rpartition(".")[0])
    return (found["set"], found["part"]) if found else ("", "")


def _pairs(folder: Place, parts: tuple[str, str], ends: Sequence[str] = ENDS) -> dict[str, dict[str, str]]:
    """Name of a set to its files by part, of the first end that has most of them."""
    found: dict[str, dict[str, str]] = {}
    for end in reversed(ends):
        own: dict[str, dict[str, str]] = {}
        for file in visible(folder.names()):
            name, part = _stem(file)
            if file.lower().endswith(end) and part.lower() in parts:
                own.setdefault(name, {})[part.lower()] = file
        found |= {name: files for name, files in own.items() if len(files) >= len(found.get(name, ()))}
    return found


def _both(folder: Place, name: str, files: dict[str, str], wanted: Wanted) -> tuple[Place, Place]:
    lacking = [part for part in _ends(wanted) if part not in files]
    if lacking:
        there = next(iter(files.values()))
        raise InputError(
            f"{folder.url} has {there} and no {lacking[0].upper()} file beside it: add it, or give that file and --split 0.8"
        )
    train, test = _ends(wanted)
    return folder / files[train], folder / files[test]


def _aeon_files(wanted: Wanted) -> tuple[Place, Place]:
    """The pair of files of a set that ships inside the installed package ``aeon``, which is not imported.

    Raises:
        InputError: the package is not there, or has no such set.
    """
    spec = importlib.util.find_spec(AEON)
    where = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not where:
        raise InputError(
            "--dataset aeon:NAME needs the package aeon: pip install 'ddcore-series[aeon]', or give ts:PATH"
        )
    data = Place.at(where[0]) / "datasets/data"
    folders = data.names() if data.is_folder() else []
    known = {
        name: (folder, files)
        for folder in folders
        if (data / folder).is_folder()
        for name, files in _pairs(data / folder, _ends(wanted)).items()
        if len(files) == 2
    }
    if wanted.rest not in known:
        raise InputError(f"the installed package aeon has no set of series {wanted.rest!r}: {near(wanted.rest, known)}")
    folder, files = known[wanted.rest]
    return _both(data / folder, wanted.rest, files, wanted)


def recognised(place: Place) -> str | None:
    """``ts`` for a ``.ts`` file with a header, and for a folder with ``NAME_TRAIN.ts`` or a table of numbers."""
    if not place.is_folder():
        return "ts" if place.name.lower().endswith(TS) and _is_ts(place) else None
    for file in visible(place.names()):
        if part_of(_stem(file)[1]) is None:
            continue
        if file.lower().endswith(TS) and _is_ts(place / file):
            return "ts"
        if file.lower().endswith(TABLES) and _is_table(place / file):
            return "ts"
    return None


def _is_ts(place: Place) -> bool:
    return any(re.match(r"@(problemname|data)\b", line, re.IGNORECASE) for line in heads(place))


def _is_table(place: Place) -> bool:
    first = next(heads(place), "")
    words = first.split("\t" if "\t" in first else None)[1:]
    return len(words) > 1 and all(
        re.fullmatch(r"\s*[-+]?[\d.]+(e[-+]?\d+)?\s*|nan|\s*", w, re.IGNORECASE) for w in words
    )
