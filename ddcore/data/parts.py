"""What a reader is asked for, and how the parts that it finds become a source with train and test."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import attrs
import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from ddcore import randomness
from ddcore.data.source import Source, Split
from ddcore.data.symmetry import GUESSED, written
from ddcore.errors import InputError, OptionError
from ddcore.images.framing import Resize
from ddcore.images.pictures import Pictures
from ddcore.images.ranges import one_range
from ddcore.storage.places import Place

TRAIN, TEST = "train", ("test", "validation", "valid", "val")
"""Names of the parts unless ``--split`` says otherwise; of the test names the first that is there."""


@frozen
class Wanted:
    """One ``--dataset`` with the options that go with it.

    Attributes:
        name: what stands before the first colon.
        rest: what follows it: path, URL or repository.
        data_root: folder with data sets by name.
        split: ``TRAIN:TEST`` names, or a share such as ``0.8``.
        resize: what brings all images to one size.
    """

    name: str
    rest: str = ""
    data_root: str | None = None
    split: str | None = None
    resize: Resize | None = None

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
        place = Place.at(self.rest)
        local = place.local_path()
        if self.data_root is not None and local is not None and not local.is_absolute():
            below = Place.at(self.data_root) / Path(self.rest).as_posix() if ".." not in local.parts else place
            place = below if below.exists() else place
        if not place.exists():
            raise InputError(f"there is nothing at {place.url}: check the path after '{self.name}:' or --data-root")
        return place

    def parts(self, there: Collection[str]) -> tuple[str, ...]:
        """Which of the parts ``there`` to read: train and test, train alone (to be cut), or none (one piece).

        Raises:
            InputError: a part that was named or is needed is not there.
            OptionError: one part was named twice.
        """
        if self.named and self.named[0] == self.named[1]:
            raise OptionError(f"--split {self.split} would test on the train part: name two different parts")
        train, *tests = (self.named[0], self.named[1]) if self.named else (TRAIN, *TEST)
        test = next((name for name in tests if name in there), None)
        if train in there and test is not None:
            return train, test
        if self.named:
            missing = f"{train!r} and {test or tests[0]!r}"
            raise InputError(f"{self.shown} has no parts {missing}, but {_listed(there)}: correct --split {self.split}")
        if set(there) == {train} and self.share is None:
            raise InputError(f"{self.shown} has no test part: add one ({', '.join(TEST)}) or give --split 0.8")
        return (train,) if set(there) == {train} else ()

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
        images: as ``ddcore.images.pictures`` gives them; or (N, C, H, W) uint8 or float32.
        labels: (N,) int64.
        classes: names, if the format has any.
        licence: if the format says it.
    """

    images: Pictures | Tensor
    labels: Tensor
    classes: tuple[str, ...] | None = None
    licence: str = ""


def into_source(wanted: Wanted, parts: Mapping[str, Loaded]) -> Source:
    """Train and test from one part, which is cut, or two.

    Raises:
        InputError: one part and no share to cut it by; class names that do not fit; whatever ``Source`` refuses.
        OptionError: two parts and a share.
    """
    loaded, notes = list(parts.values()), []
    classes = next((part.classes for part in loaded if part.classes), None)
    named = classes is not None
    classes = classes or _numbered(loaded[0].labels, wanted)
    if len(loaded) == 1:
        loaded = cut(loaded[0], wanted)
        notes.append(f"cut by --split {wanted.split}: that share of each class is for training, the rest for testing")
    elif wanted.share is not None:
        raise OptionError(f"--split {wanted.split} cuts data in one piece, but {wanted.shown} has two: leave it out")
    train, test = loaded
    train_images, test_images, said = one_range(train.images, test.images)
    notes += said
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
    )


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
        what = f"the test part of {wanted.shown} has classes without train images ({_listed(extra)})"
        raise InputError(f"{what}: drop them or add train images")
    if len(test.labels) and not 0 <= int(test.labels.min()) <= int(test.labels.max()) < len(test.classes):
        raise InputError(f"the test part of {wanted.shown} has labels of none of its classes: number them from 0 on")
    return torch.tensor([train.classes.index(name) for name in test.classes])[test.labels]


def _name(wanted: Wanted) -> str:
    """The last part of the path that says something."""
    path = Place(wanted.rest).url.partition("::")[0].partition("://")[2] or Place(wanted.rest).url
    words = [word for word in path.split("/") if word and re.sub(r"\.\w+$", "", word) not in (TRAIN, *TEST, "raw", ".")]
    return re.sub(r"\.(parquet|npz)$", "", words[-1]) if words else wanted.name


def _listed(names: Collection[str], most: int = 5) -> str:
    shown = sorted(names)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "") or "none"
