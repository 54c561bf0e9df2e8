"""Readers of the formats that real data come in, by the name before the colon of ``--dataset``.

How the two parts are found, for every reader: ``--split TRAIN:TEST`` names them; without it they are ``train`` and the
first of ``test``, ``validation``, ``valid``, ``val`` that is there. Data in one piece need ``--split SHARE``, such as
0.8: that share of each class, drawn once and for all, is for training, the rest for testing.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

import attrs
import numpy as np
import torch
from attrs import frozen

from ddcore.data import parquet_images
from ddcore.data.parts import TEST, TRAIN, Loaded, Wanted, into_source, whole_numbers
from ddcore.data.source import Source, Split
from ddcore.data.symmetry import KNOWN
from ddcore.errors import InputError, OptionError, in_short
from ddcore.images.framing import Resize
from ddcore.images.pictures import from_array, stack
from ddcore.storage.places import Place
from ddcore.storage.unpacking import check_growth

PICTURE_FILES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Ends of file names that count as pictures; all others in a class folder are left alone."""

GZIP = b"\x1f\x8b"
IDX_IMAGES, IDX_LABELS = 0x0803, 0x0801
"""Magic numbers: unsigned bytes (08) of rank 3 and of rank 1."""

DIGIT_NAMES = tuple(str(digit) for digit in range(10))
DIGITS_LICENCE = "CC BY 4.0 (Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998)"


def read_digits(wanted: Wanted) -> Source:
    """1,797 handwritten digits of 8x8 pixels with 17 grey levels, part of this package.

    The copy that scikit-learn ships of the UCI set's test part. Rows are sorted by class, keeping their order; every
    fifth, from the first on, is for testing: 1,437 train and 360 test, of each class a fifth to within one image.
    """
    if wanted.split is not None:
        raise OptionError("--split does not apply to digits, whose parts are fixed: leave it out")
    if wanted.rest:
        raise InputError(f"'digits' takes nothing after a colon, got {wanted.rest!r}: write --dataset digits")
    packed = resources.files("ddcore.data").joinpath("digits.csv.gz").read_bytes()
    rows = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)
    rows = rows[np.argsort(rows[:, -1], kind="stable")]
    grey = from_array(rows[:, :-1].reshape(-1, 8, 8).astype(np.float32) / 16, "digits", wanted.resize).values
    labels = torch.from_numpy(rows[:, -1].astype(np.int64))
    test = torch.arange(len(labels)) % 5 == 0
    return Source(
        name="digits",
        train=Split(grey[~test], labels[~test]),
        test=Split(grey[test], labels[test]),
        classes=DIGIT_NAMES,
        mirror_symmetric=False,
        mirror=KNOWN,
        resize_mode=None if wanted.resize is None else wanted.resize.mode,
        licence=DIGITS_LICENCE,
        origin="scikit-learn's digits.csv.gz, embedded",
        notes=("every fifth row of each class is the test part",),
    )


def read_parquet(wanted: Wanted) -> Source:
    """A folder of parquet files, or one file, in Hugging Face's image layout."""
    place = wanted.place()
    if place.name.endswith(".parquet") and (place.local_path() is None or not place.is_folder()):
        return into_source(wanted, {"": parquet_images.read([place], wanted.resize)})
    names = [name for name in place.files() if name.endswith(".parquet")]
    if not names:
        raise InputError(f"{place.url} holds no .parquet file: give a folder with train.parquet and test.parquet")
    words = {name: set(re.split(r"[-./]", name)) for name in names}
    known = set(wanted.named or (TRAIN, *TEST))
    parts = wanted.parts(set().union(*words.values()) & known)
    shards = {part: [place / name for name in names if part in words[name]] for part in parts}
    shards = shards or {"": [place / name for name in names]}
    return into_source(wanted, {part: parquet_images.read(files, wanted.resize) for part, files in shards.items()})


def read_hub(wanted: Wanted) -> Source:
    """A Hugging Face repository with parquet files, through fsspec's driver."""
    return read_parquet(attrs.evolve(wanted, name="parquet", rest=f"hf://datasets/{wanted.rest}"))


def read_folder(wanted: Wanted) -> Source:
    """Class folders of pictures, below ``train`` and ``test`` or on their own."""
    place = wanted.place()
    files = [name for name in place.files() if name.lower().endswith(PICTURE_FILES)]
    if not files:
        raise InputError(f"{place.url} holds no pictures: give a folder with one folder of pictures a class")
    parts = wanted.parts({name.partition("/")[0] for name in files})
    if not parts:
        return into_source(wanted, {"": _read_classes(place, files, wanted.resize)})
    below = {p: [name.partition("/")[2] for name in files if name.startswith(p + "/")] for p in parts}
    return into_source(wanted, {p: _read_classes(place / p, below[p], wanted.resize) for p in parts})


def _read_classes(place: Place, files: Sequence[str], resize: Resize | None) -> Loaded:
    files = [name for name in files if "/" in name]
    local = place.local_path()
    if local and (odd := next((name for name in files if not (local / name).is_file()), None)):
        raise InputError(f"{(place / odd).url} is no regular file: put a picture there or remove it")
    empty = {entry.name for entry in local.iterdir() if entry.is_dir() and entry.name[0] != "."} if local else set()
    classes = sorted(empty | {name.partition("/")[0] for name in files})
    if len(classes) < 2:
        found = f"{len(classes)} class folder{'' if len(classes) == 1 else 's'} ({', '.join(classes) or 'none'})"
        raise InputError(f"{place.url} has {found}: give a folder with one folder of pictures for each of 2 or more")
    position = {name: at for at, name in enumerate(classes)}
    encoded = ((place / name).read_bytes() for name in files)
    images = stack(encoded, len(files), lambda at: (place / files[at]).url, resize)
    return Loaded(images, torch.tensor([position[name.partition("/")[0]] for name in files]), tuple(classes))


def read_idx(wanted: Wanted) -> Source:
    """A folder with the four files of MNIST's format, gzip'd or plain."""
    place = wanted.place()
    names = [name for name in place.names() if re.search(r"idx\d", name)]
    usual = next((part for part in (*TEST, "t10k") if any(part in name for name in names)), "t10k")
    train, test = wanted.named or (TRAIN, usual)
    whole = wanted.share is not None and not any(test in name for name in names)
    parts = (train,) if whole else (train, test)
    return into_source(wanted, {part: _read_idx_part(place, names, part, wanted.resize) for part in parts})


def _read_idx_part(place: Place, names: Sequence[str], part: str, resize: Resize | None) -> Loaded:
    arrays = []
    for what, magic in (("images", IDX_IMAGES), ("labels", IDX_LABELS)):
        found = [name for name in names if part in name and what in name]
        if len({name.removesuffix(".gz") for name in found}) != 1:
            seen = f"found {', '.join(found) or 'none'}"
            due = f"exactly one file named like {part}-{what}-idx{magic & 255}-ubyte[.gz]"
            raise InputError(f"{place.url} has to hold {due}, {seen}: rename or add it, or give --split TRAIN:TEST")
        arrays.append(read_idx_file(place / found[0], magic))
    images, labels = arrays
    if len(images) != len(labels):
        raise InputError(f"{place.url} holds {len(images)} {part} images but {len(labels)} labels: get the files again")
    return Loaded(from_array(images, f"{place.url} ({part})", resize), torch.from_numpy(labels.astype(np.int64)))


def read_idx_file(place: Place, magic: int) -> np.ndarray:
    """The array of an IDX file of unsigned bytes: big-endian magic number, sizes, values; gzip'd or plain.

    Raises:
        InputError: another magic number, or not as long as its header says.
    """
    head = place.read_bytes(0, 4 + 4 * (magic & 255))
    packed = head[:2] == GZIP
    if not packed:
        _check_length(place.size() - len(head), _sizes(head, magic, place), place)
    data = place.read_bytes()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) if packed else io.BytesIO(data) as file:
            sizes = _sizes(file.read(4 + 4 * (magic & 255)), magic, place)
            check_growth(len(data), math.prod(sizes), place.url)
            values = np.frombuffer(file.read(math.prod(sizes) + 1), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{place.url} is a damaged or truncated gzip file ({error}): get it again") from error
    _check_length(len(values), sizes, place)
    return values.reshape(sizes)


def _check_length(found: int, sizes: Sequence[int], place: Place) -> None:
    if found != math.prod(sizes):
        got = f"{found} bytes of values where its header says {math.prod(sizes)}"
        raise InputError(f"{place.url} has {got}: it is truncated or altered, get it again")


def _sizes(head: bytes, magic: int, place: Place) -> list[int]:
    """The sizes in the header of an IDX file."""
    if int.from_bytes(head[:4], "big") != magic:
        raise InputError(f"{place.url} begins with {head[:4].hex()} where {magic:08x} is due: it is no such IDX file")
    if len(head) < 4 + 4 * (magic & 255):
        raise InputError(f"{place.url} ends in its header: it is truncated or altered, get it again")
    return [int.from_bytes(head[at : at + 4], "big") for at in range(4, len(head), 4)]


NPZ_NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("{}_x", "{}_y"), ("{}_data", "{}_labels"))
"""How arrays of a part are called in .npz files (Keras, MedMNIST, ...)."""

NPZ_WHOLE = (("images", "labels"), ("x", "y"), ("data", "labels"))
"""How they are called in a file without parts."""


def read_npz(wanted: Wanted) -> Source:
    """One NumPy .npz file: ``x_train y_train x_test y_test`` or ``images labels``; class names in ``classes``."""
    place = wanted.place()
    arrays = read_arrays(place)
    classes = tuple(str(name) for name in np.atleast_1d(arrays["classes"]).tolist()) if "classes" in arrays else None
    there = {part for part in wanted.named or (TRAIN, *TEST) if _npz_pair(arrays, part)}
    parts = {part: _npz_pair(arrays, part) for part in wanted.parts(there)}
    parts = parts or {"": next((pair for pair in NPZ_WHOLE if set(pair) <= set(arrays)), None)}
    loaded = {}
    for part, pair in parts.items():
        if pair is None:
            due = "x_train, y_train, x_test, y_test (or images, labels with --split 0.8)"
            raise InputError(f"{place.url} holds the arrays {', '.join(arrays) or 'none'}: name them {due}")
        images, labels = (arrays[name] for name in pair)
        where = f"{pair[0]} of {place.url}"
        if images.ndim == 0 or len(images) != labels.size:
            raise InputError(
                f"{where} holds {len(np.atleast_1d(images))} images but {labels.size} labels: give one label an image"
            )
        numbers = whole_numbers(labels.reshape(-1), f"{pair[1]} of {place.url}")
        loaded[part] = Loaded(from_array(images, where, wanted.resize), numbers, classes)
    return into_source(wanted, loaded)


def _npz_pair(arrays: Mapping[str, np.ndarray], part: str) -> tuple[str, str] | None:
    pairs = [(x.replace("{}", part), y.replace("{}", part)) for x, y in NPZ_NAMES]
    return next((pair for pair in pairs if set(pair) <= set(arrays)), None)


def read_arrays(place: Place) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, none of them pickled, each as large as its header says and the file's size allows.

    Raises:
        InputError: it is damaged, holds Python objects or something else than arrays, or would unpack to far too much.
    """
    try:
        local = place.local_path() is not None
        with place.open("rb") if local else io.BytesIO(place.read_bytes()) as file, zipfile.ZipFile(file) as packed:
            entries = [entry for entry in packed.infolist() if entry.filename.endswith(".npy")]
            check_growth(file.seek(0, io.SEEK_END), sum(entry.file_size for entry in entries), place.url)
            return {entry.filename.removesuffix(".npy"): _array(packed, entry) for entry in entries}
    except InputError:
        raise
    except Exception as error:  # headers are parsed as Python, which raises what tokenisers and parsers do
        why = in_short(error)
        raise InputError(f"{place.url} is no readable .npz file without pickles ({why}): write it again") from error


def _array(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array; its header is compared with its size before memory is taken for what the header says."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is compressed in a way that numpy does not write")
    with packed.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"{entry.filename} has version {version} of the format")
        shape, fortran, dtype = read_header[version](file)
        if dtype.hasobject:
            raise ValueError(f"{entry.filename} holds Python objects, which are pickled")
        if any(n < 0 for n in shape) or file.tell() + math.prod(shape) * dtype.itemsize != entry.file_size:
            raise ValueError(f"{entry.filename} is not as large as its shape {shape}")
        return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")


@frozen
class Reader:
    """A format: how it is read, and what it is in one line."""

    read: Callable[[Wanted], Source]
    what: str


READERS: Mapping[str, Reader] = {
    "digits": Reader(read_digits, "handwritten digits, 8x8 grey, 10 classes; embedded, needs no file"),
    "parquet": Reader(read_parquet, "parquet:PATH_OR_URL, Hugging Face's image layout; one file alone needs --split"),
    "folder": Reader(
        read_folder, "folder:PATH_OR_URL, class folders of pictures below train/ and test/, or with --split"
    ),
    "idx": Reader(read_idx, "idx:PATH_OR_URL, a folder with the four files of MNIST's format, gzip'd or plain"),
    "npz": Reader(read_npz, "npz:PATH_OR_URL, arrays x_train y_train x_test y_test, or images labels with --split"),
    "hf": Reader(read_hub, "hf:OWNER/NAME, a Hugging Face repository with parquet files"),
}
"""Formats by the name before the colon."""
