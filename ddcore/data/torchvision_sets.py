"""torchvision's classification data sets by name, from local files.

Nothing is downloaded unless the environment variable ``DDCORE_DOWNLOAD`` is 1. Under the data root, a folder of the
set's name with parquet, IDX or class folders in it comes before torchvision's own layout, so that ``--dataset cifar10
--data-root DATA`` also finds ``DATA/cifar10/train.parquet``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np
from attrs import frozen
from torch import Tensor

from ddcore.data.parts import Loaded, Wanted, into_source, whole_numbers
from ddcore.data.readers import READERS
from ddcore.data.source import Source
from ddcore.data.symmetry import KNOWN, WRITTEN
from ddcore.errors import InputError, OptionError
from ddcore.images.framing import Resize
from ddcore.images.pictures import from_array, stack
from ddcore.networks.vision import import_torchvision
from ddcore.storage.network import trouble
from ddcore.storage.places import Place

DOWNLOAD = "DDCORE_DOWNLOAD"
DEFAULT_ROOT = "data"

BY_FLAG: tuple[Mapping[str, Any], Mapping[str, Any]] = ({"train": True}, {"train": False})
BY_SPLIT: tuple[Mapping[str, Any], Mapping[str, Any]] = ({"split": "train"}, {"split": "test"})
TRAIN_VAL: tuple[Mapping[str, Any], Mapping[str, Any]] = ({"split": "train"}, {"split": "val"})
TRAINVAL_TEST: tuple[Mapping[str, Any], Mapping[str, Any]] = ({"split": "trainval"}, {"split": "test"})


@frozen
class TorchvisionSet:
    """How torchvision offers one data set.

    Attributes:
        cls: name of the class in ``torchvision.datasets``; in lower case it is the data set's name here.
        what: one line.
        parts: arguments that choose train and test.
        idx: its files have MNIST's format, which the core reads itself.
        licence: as far as the authors state one.
        classes: names for the formats that hold none.
        mean, std: the field's constants, of pixels in [0, 1], that published learning rates belong to. Those of CIFAR
            are not the deviation of all pixels (about 0.247) but the mean of each image's own. Empty: computed.
    """

    cls: str
    what: str
    parts: tuple[Mapping[str, Any], Mapping[str, Any]] = BY_FLAG
    idx: bool = False
    licence: str = "unknown: see the authors' page"
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """The name that ``--dataset`` takes, in any case."""
        return self.cls.lower()


SETS = (
    TorchvisionSet(
        "MNIST",
        "handwritten digits, 28x28 grey, 10 classes",
        idx=True,
        licence="CC BY-SA 3.0",
        mean=(0.1307,),
        std=(0.3081,),
    ),
    TorchvisionSet(
        "FashionMNIST",
        "articles of clothing, 28x28 grey, 10 classes",
        idx=True,
        licence="MIT",
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        mean=(0.2861,),
        std=(0.3530,),
    ),
    TorchvisionSet(
        "KMNIST",
        "cursive Japanese characters, 28x28 grey, 10 classes",
        idx=True,
        licence="CC BY-SA 4.0",
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
    TorchvisionSet("USPS", "handwritten digits, 16x16 grey, 10 classes"),
    TorchvisionSet(
        "CIFAR10", "objects, 32x32 colour, 10 classes", mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
    ),
    TorchvisionSet(
        "CIFAR100", "objects, 32x32 colour, 100 classes", mean=(0.5071, 0.4866, 0.4409), std=(0.2673, 0.2564, 0.2762)
    ),
    TorchvisionSet(
        "SVHN",
        "house numbers, 32x32 colour, 10 classes",
        BY_SPLIT,
        licence="non-commercial use only",
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
    ),
    TorchvisionSet("STL10", "objects, 96x96 colour, 10 classes", BY_SPLIT),
    TorchvisionSet("GTSRB", "traffic signs, colour, 43 classes; needs --resize", BY_SPLIT),
    TorchvisionSet("DTD", "textures, colour, 47 classes; needs --resize", BY_SPLIT),
    TorchvisionSet("Flowers102", "flowers, colour, 102 classes; needs --resize", BY_SPLIT),
    TorchvisionSet("Food101", "dishes, colour, 101 classes; needs --resize", BY_SPLIT),
    TorchvisionSet("OxfordIIITPet", "cats and dogs, colour, 37 classes; needs --resize", TRAINVAL_TEST),
    TorchvisionSet("Imagenette", "10 easy ImageNet classes, colour; needs --resize", TRAIN_VAL),
)


def find(name: str) -> TorchvisionSet | None:
    """The set of a name in any case; hyphens and underscores do not count."""
    plain = re.sub("[-_]", "", name.lower())
    return next((known for known in SETS if known.name == plain), None)


def read_torchvision(wanted: Wanted) -> Source:
    """Load a set by its name from ``data_root``.

    Raises:
        InputError: its files are not there; says where they belong.
    """
    known = find(wanted.name)
    if known is None:
        raise InputError(f"torchvision's sets do not include {wanted.name!r} here: see `ddcore data list`")
    if wanted.rest:
        raise InputError(f"{wanted.name!r} takes nothing after a colon, got {wanted.rest!r}: give --data-root FOLDER")
    root = wanted.data_root or DEFAULT_ROOT
    named = attrs.evolve(wanted, name=known.name)
    source = _other_layout(named, known, root) or _torchvision_layout(named, known, root)
    licence = source.licence if source.licence != "unknown" else known.licence
    unnamed = source.classes == tuple(map(str, range(len(known.classes))))
    classes = known.classes if unnamed and known.classes else source.classes
    fits = len(known.mean) == source.channels
    mean, std = (known.mean, known.std) if fits else (source.mean, source.std)
    origin = f"{known.cls}, {source.origin}"
    symmetric = known.name not in WRITTEN
    source = attrs.evolve(source, name=known.name, mirror_symmetric=symmetric, mirror=KNOWN)
    return attrs.evolve(source, classes=classes, licence=licence, origin=origin, mean=mean, std=std)


def _other_layout(wanted: Wanted, known: TorchvisionSet, root: str) -> Source | None:
    """The set as parquet, IDX or class folders in a folder of its name."""
    for name in (known.name, known.cls):
        place = Place.at(root) / name
        if not place.is_folder():
            continue
        names = place.names()
        if any(entry.endswith(".parquet") for entry in names):
            return READERS["parquet"].read(attrs.evolve(wanted, name="parquet", rest=place.address, data_root=None))
        for folder in (place, place / "raw"):
            if known.idx and folder.is_folder() and any(re.search(r"idx\d", entry) for entry in folder.names()):
                return READERS["idx"].read(attrs.evolve(wanted, name="idx", rest=folder.address, data_root=None))
    return None


def _torchvision_layout(wanted: Wanted, known: TorchvisionSet, root: str) -> Source:
    if wanted.split is not None:
        raise OptionError(f"--split does not apply to {known.name}, whose parts are its authors': leave it out")
    datasets = import_torchvision().datasets
    download = os.environ.get(DOWNLOAD) == "1"
    loaded = {}
    for part, arguments in zip(("train", "test"), known.parts, strict=True):
        try:
            found = getattr(datasets, known.cls)(root=root, download=download, **arguments)
        except (RuntimeError, OSError, ImportError) as error:
            raise InputError(_missing(known, root, download, error)) from error
        loaded[part] = _loaded(found, f"the {part} part of {known.name}", wanted.resize)
    return into_source(wanted, loaded)


def _missing(known: TorchvisionSet, root: str, download: bool, error: Exception) -> str:
    found = trouble(error)
    why = str(error).splitlines()[0] if found is None else found.why
    if download or isinstance(error, ImportError):
        return f"{known.cls} cannot be had ({why}): check the network, or put its files into {root}"
    folder = f"{root}/{known.cls}/raw" if known.idx else root
    way_out = f"put torchvision's files into {folder}, set {DOWNLOAD}=1 to fetch them, or give --data-root FOLDER"
    return f"the files of {known.cls} are not in {folder} (nothing is downloaded unasked): {way_out}"


def _loaded(found: Any, where: str, resize: Resize | None) -> Loaded:
    """Pixels and labels of a torchvision data set, from its arrays if it has them, else picture by picture."""
    classes = getattr(found, "classes", None)
    names = tuple(str(name) for name in classes) if classes else None
    labels = getattr(found, "targets", getattr(found, "labels", None))
    pixels = getattr(found, "data", None)
    if isinstance(pixels, np.ndarray | Tensor) and labels is not None:
        return Loaded(from_array(np.asarray(pixels), where, resize), whole_numbers(np.asarray(labels), where), names)
    numbers: list[int] = []
    broken: dict[int, str] = {}
    images = stack(_opened(found, numbers), len(found), lambda at: f"image {at} of {where}", resize, broken=broken)
    kept = np.delete(np.array(numbers), list(broken))
    lost = tuple((f"image {at} of {where}", why) for at, why in broken.items())
    return Loaded(images, whole_numbers(kept, where), names, broken=lost)


def _opened(found: Any, numbers: list[int]) -> Iterator[Any]:
    """Its pictures; no bytes in the place of one that cannot be opened."""
    for at in range(len(found)):
        try:
            picture, number = found[at]
        except OSError:
            picture, number = b"", 0
        numbers.append(int(number))
        yield picture
