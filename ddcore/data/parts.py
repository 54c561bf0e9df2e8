"""What a reader is asked for, and how the parts that it finds become a source with train and test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from ddcore import randomness
from ddcore.data.columns import Labelling, from_zero, numbers_and_names
from ddcore.data.part_names import TEST, listed, part_of, words
from ddcore.data.source import FEATURES, Source, Split
from ddcore.data.symmetry import GUESSED, written
from ddcore.errors import InputError, OptionError
from ddcore.images.framing import Resize
from ddcore.images.pictures import Pictures
from ddcore.images.ranges import one_range
from ddcore.storage.places import Place

MOST_BROKEN = 10
"""Names of broken pictures that a sentence has."""
LEFT_OUT = "left out as broken (--skip-broken)"
"""In notes of readers, after how many."""


@frozen
class Wanted:
    """One ``--dataset`` with the options that go with it.

    Attributes:
        name: what stands before the first colon.
        rest: what follows it: path, URL or repository.
        data_root: folder with data sets by name.
        split: ``TRAIN:TEST`` names, or a share such as ``0.8``.
        resize: what brings all images to one size.
        skip_broken: leave out what cannot be decoded, with a note, instead of refusing the data.
    """

    name: str
    rest: str = ""
    data_root: str | None = None
    split: str | None = None
    resize: Resize | None = None
    skip_broken: bool = False

    @property
    def named(self) -> tuple[str, str] | None:
        """Names of the train and test parts, if ``split`` gives any."""
        train, colon, test = (self.split or "").partition(":")
        return (train, test) if colon and train and test else None

    @property
    def share(self) -> float | None:
        """The share of data in one piece that is for training, if ``split`` gives one.

        Raises:
            OptionError: ``split`` is neither names nor a share.
        """
        if self.split is None or self.named is not None:
            return None
        try:
            share = float(self.split)
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            due = "TRAIN:TEST for the names of two parts, or a share between 0 and 1 such as 0.8"
            raise OptionError(f"--split {self.split!r} is neither: give {due}")
        return share

    def place(self) -> Place:
        """Where the data lie: a relative path is looked up in ``data_root`` first.

        Raises:
            InputError: nothing is there, or no path was given.
        """
        if not self.rest:
            raise InputError(f"--dataset {self.name}: needs a path or URL after the colon: {self.name}:PATH_OR_URL")
        place = self.found()
        if place is None:
            raise InputError(f"{Place.at(self.rest).nothing_there}: check the path after '{self.name}:' or --data-root")
        return place

    def found(self) -> Place | None:
        """The same, or None if nothing is there."""
        place = Place.at(self.rest)
        local = place.local_path()
        if self.data_root is not None and local is not None and not local.is_absolute() and ".." not in local.parts:
            below = Place.at(self.data_root) / Path(self.rest).as_posix()
            if below.exists():
                return below
        return place if place.exists() else None

    @property
    def shown(self) -> str:
        """The data set as messages and records name it, without credentials."""
        return self.name + (":" + Place(self.rest).url if self.rest else "")

    def at(self, url: str) -> Wanted:
        """The same at another place."""
        return attrs.evolve(self, rest=url)


@frozen(eq=False)
class Loaded:
    """One part as a reader found it.

    Attributes:
        images: as ``ddcore.images.pictures`` gives them; or (N, C, H, W) uint8 or float32; or features (N, D) likewise.
        labels: (N,) int64.
        classes: names, if the format has any.
        licence: if the format says it.
        worded: whether the labels were words, whose sorted names ``classes`` are.
        missing: how many images were left out because they have no label.
        broken: what could not be decoded and is not among the images: names, relative to the data, and reasons.
        notes: what was converted or left out, and what else a reader of results should know of the part.
    """

    images: Pictures | Tensor
    labels: Tensor
    classes: tuple[str, ...] | None = None
    licence: str = ""
    worded: bool = False
    missing: int = 0
    broken: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def labelled(
    images: Pictures | Tensor, labels: Labelling, classes: tuple[str, ...] | None = None, licence: str = ""
) -> Loaded:
    """The images (N, C, H, W) that have a label.

    Args:
        classes: names that the format has for labels that are numbers.
    """
    kept = images if labels.labelled.all() else images[labels.labelled]
    worded = labels.names is not None
    missing = int((~labels.labelled).sum())
    names = labels.names if worded else classes
    return Loaded(kept, labels.numbers, names, licence, worded, missing, notes=labels.notes)


def into_source(wanted: Wanted, parts: Mapping[str, Loaded], there: Mapping[str, str] | None = None) -> Source:
    """Train and test from one part, which is cut, or two.

    Args:
        there: all parts that the data have, and the names that ``--split`` takes them by.

    Raises:
        InputError: one part and no share to cut it by; class names that do not fit; whatever ``Source`` refuses.
        OptionError: two parts and a share.
    """
    _refuse_unlabelled(wanted, parts, there or {})
    said = _left_out(parts, wanted)
    loaded, counted = _counted_alike(list(parts.values()), wanted)
    notes = [*(note for part in loaded for note in part.notes), *counted, *said]
    classes = loaded[0].classes
    named = classes is not None
    classes = classes or _numbered(loaded[0].labels, wanted)
    if len(loaded) == 1:
        loaded = cut(loaded[0], wanted)
        notes.append(f"cut by --split {wanted.split}: that share of each class is for training, the rest for testing")
    elif wanted.share is not None:
        raise two_parts(wanted, list(parts))
    train, test = loaded
    features = [isinstance(part.images, Tensor) and part.images.ndim == 2 for part in loaded]
    if all(features):
        return _of_features(wanted, train, test, classes, notes)
    if any(features):
        raise InputError(f"one part of {wanted.shown} holds features (N, D) and the other images: store both alike")
    train_images, test_images, scaled = one_range(train.images, test.images)
    notes += scaled
    if wanted.resize is not None:
        notes.append(wanted.resize.words)
    name = _name(wanted)
    signs = written(name, classes if named else (), train_images)
    return Source(
        name=name,
        train=Split(train_images, train.labels),
        test=Split(test_images, _renumbered(test, train, wanted)),
        classes=classes,
        mirror_symmetric=not signs,
        mirror=f"{GUESSED}: {signs}" if signs else "",
        resize_mode=None if wanted.resize is None else wanted.resize.mode,
        licence=train.licence or test.licence or "unknown",
        origin=wanted.shown,
        notes=tuple(notes),
        broken=tuple(each for part in parts.values() for each in part.broken),
    )


def _of_features(wanted: Wanted, train: Loaded, test: Loaded, classes: tuple[str, ...], notes: Sequence[str]) -> Source:
    """Dense rows (N, D): their normalisation is the train part's, column by column."""
    rows: list[Any] = [train.images, test.images]
    if len({part.dtype for part in rows}) > 1:
        rows = [part.float() for part in rows]
    return Source(
        name=_name(wanted),
        train=Split(rows[0], train.labels),
        test=Split(rows[1], _renumbered(test, train, wanted)),
        classes=classes,
        modality=FEATURES,
        dense=True,
        mirror_symmetric=False,
        licence=train.licence or test.licence or "unknown",
        origin=wanted.shown,
        notes=tuple(notes),
    )


def two_parts(wanted: Wanted, parts: Sequence[str]) -> OptionError:
    """The sentence for a share where there are two parts already, by the names that ``--split`` takes."""
    both = f"{parts[0]} and {parts[1]}"
    way_out = f"leave it out, or give --split {parts[0]}:{parts[1]}"
    return OptionError(
        f"--split {wanted.split} cuts data in one piece, but {wanted.shown} has two parts, {both}: {way_out}"
    )


def _left_out(parts: Mapping[str, Loaded], wanted: Wanted) -> list[str]:
    """The note of what is broken, if anything is.

    Raises:
        InputError: something is broken and may not be left out, or nothing is left.
    """
    broken = [each for part in parts.values() for each in part.broken]
    names = "; ".join(f"{name} ({why})" for name, why in broken[:MOST_BROKEN])
    names += f"; and {len(broken) - MOST_BROKEN} more" if len(broken) > MOST_BROKEN else ""
    if any(len(part.labels) == 0 and not part.missing for part in parts.values()):
        raise InputError(f"nothing of a part of {wanted.shown} can be decoded, {names}: get it again")
    if broken and not wanted.skip_broken:
        what = f"{len(broken)} pictures or files of {wanted.shown} cannot be decoded, {names}"
        if len(broken) == 1:
            what = f"{broken[0][0]} cannot be decoded ({broken[0][1]}), in {wanted.shown}"
        raise InputError(f"{what}: replace or drop what is broken, or leave it out by --skip-broken")
    return [f"{len(broken)} {LEFT_OUT}: {names}"] if broken else []


def _refuse_unlabelled(wanted: Wanted, parts: Mapping[str, Loaded], there: Mapping[str, str]) -> None:
    """A part whose labels are all missing or -1, as those of competitions are."""
    for name, part in parts.items():
        if len(part.labels) and (part.labels.unique() != -1).any() and part.classes != ("-1",):
            continue
        if len(part.labels) == 0 and not part.missing:
            continue
        what = f"the {there.get(name, name)} part of {wanted.shown}" if name else wanted.shown
        seen = f"all {len(part.labels)} are -1" if len(part.labels) else "all are missing"
        others = [there[other] for other in TEST if other in there and other not in parts]
        first = next(iter(parts))
        way_out = f"give --split {there.get(first, first)}:{others[0]} to test on that part" if others else ""
        if name == first or not way_out:
            way_out = "give labels, or name a file that has them alone, with --split 0.8"
        raise InputError(f"{what} has no labels ({seen}): {way_out}")


def _counted_alike(loaded: Sequence[Loaded], wanted: Wanted) -> tuple[list[Loaded], list[str]]:
    """Parts whose labels are all words or all numbers from 0 on, and what was done to have them so.

    Raises:
        InputError: numbers that class names go with in one part, and none in the other.
    """
    if any(part.worded for part in loaded):
        return [part if part.worded else _in_words(part) for part in loaded], []
    if len({part.classes is None for part in loaded}) > 1:
        with_names = "train" if loaded[0].classes else "test"
        what = f"of {wanted.shown} the {with_names} part alone names its classes"
        way_out = "store class names in both parts, or in neither"
        raise InputError(f"{what}, so that the numbers of both may differ: {way_out}")
    names = loaded[0].classes
    alike = all(part.classes == names for part in loaded)
    found = from_zero([part.labels for part in loaded], names) if alike else None
    if found is None:
        return list(loaded), []
    labels, named, said = found
    pairs = zip(loaded, labels, strict=True)
    return [attrs.evolve(part, labels=numbers, classes=named) for part, numbers in pairs], [said]


def _in_words(part: Loaded) -> Loaded:
    """A part with numbers for labels beside one with words: each number is the name of a class, or has one."""
    numbers, names = numbers_and_names(called(part.labels, part.classes))
    return attrs.evolve(part, labels=numbers, classes=names, worded=True)


def called(labels: Tensor, classes: Sequence[str] | None) -> list[str]:
    """The names of the classes of labels (N,), which are their numbers where there are no names for all of them."""
    numbers = labels.tolist()
    known = classes and all(0 <= number < len(classes) for number in numbers)
    return [classes[number] if classes and known else str(number) for number in numbers]


def cut(whole: Loaded, wanted: Wanted) -> list[Loaded]:
    """Two parts of data in one piece: of each class the given share (at least one image) first.

    Which images is drawn once and for all: the same data are always cut alike.
    """
    if wanted.share is None:
        raise InputError(f"{wanted.shown} comes in one piece: give --split 0.8 to train on 80 % of each class")
    trained = torch.zeros(len(whole.labels), dtype=torch.bool)
    for cls in torch.unique(whole.labels).tolist():
        rows = (whole.labels == cls).nonzero().squeeze(1)
        order = torch.randperm(len(rows), generator=randomness.generator(0, "split", cls))
        trained[rows[order[: max(1, round(wanted.share * len(rows)))]]] = True
    if trained.all():
        raise InputError(f"--split {wanted.split} leaves no image of {wanted.shown} to test on: give a smaller share")
    both = (trained, ~trained)
    return [attrs.evolve(whole, images=whole.images[rows], labels=whole.labels[rows]) for rows in both]


def whole_numbers(labels: np.ndarray, where: str) -> Tensor:
    """Labels as (N,) int64.

    Raises:
        InputError: they are not stored as whole numbers.
    """
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where} are {labels.dtype}, not integers: give each class a whole number from 0 on")
    return torch.from_numpy(labels.astype(np.int64))


def _numbered(labels: Tensor, wanted: Wanted) -> tuple[str, ...]:
    """Class names for labels without any."""
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= max(2, len(labels)):
        what = f"label {least if least < 0 else most} in {wanted.shown} is out of range for {len(labels)} images"
        raise InputError(f"{what}: number the classes from 0 on, without gaps")
    return tuple(str(number) for number in range(most + 1))


def _renumbered(test: Loaded, train: Loaded, wanted: Wanted) -> Tensor:
    """The test labels in the order of the train part's class names."""
    if test.classes is None or train.classes is None or test.classes == train.classes:
        return test.labels
    extra = sorted(set(test.classes) - set(train.classes))
    if extra:
        what = f"the test part of {wanted.shown} has classes without train images ({listed(extra)})"
        raise InputError(f"{what}: drop them or add train images")
    return by_names(test.labels, test.classes, train.classes, f"the test part of {wanted.shown}")


def by_names(numbers: Tensor, own: Sequence[str], due: Sequence[str], where: str) -> Tensor:
    """Numbers of classes in the order of other names.

    Args:
        numbers: (N,) int64, positions in ``own``.
        due: names that all of ``own`` are among.

    Raises:
        InputError: two classes of one name, or a number of none.
    """
    if tuple(own) == tuple(due):
        return numbers
    if len(set(own)) < len(own):
        twice = next(name for name in own if list(own).count(name) > 1)
        raise InputError(f"{where} names two classes {twice!r}: give each a name of its own")
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(own):
        raise InputError(f"{where} has labels of none of its classes: number them from 0 on")
    position = {name: at for at, name in enumerate(due)}
    return torch.tensor([position[name] for name in own], dtype=torch.int64)[numbers]


def _says_nothing(word: str) -> bool:
    """Whether a part of a path names no data set, but a part of one."""
    plain = re.sub(r"\.\w+$", "", word)
    return plain in ("raw", ".") or (part_of(plain) is not None and len(words(plain)) == 1)


def _name(wanted: Wanted) -> str:
    """The last part of the path that says something."""
    path = Place(wanted.rest).url.partition("::")[0].partition("://")[2] or Place(wanted.rest).url
    said = [word for word in path.split("/") if word and not _says_nothing(word)]
    return re.sub(r"(?i)\.(parquet|npz|csv|tsv)$", "", said[-1]) if said else wanted.name
