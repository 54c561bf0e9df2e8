"""Readers of the formats that real data come in, by the name before the colon of ``--dataset``.

How the two parts are found, for every reader: ``--split TRAIN:TEST`` names them; without it they are told by a word of
their names, train and test, else train and validation, in the usual spellings and any case (see ``part_names``). Data
in one piece need ``--split SHARE``, such as 0.8: that share of each class, drawn once and for all, is for training, the
rest for testing. Hidden files and folders, and what systems leave behind, are left alone.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib import resources

import attrs
import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from ddcore.data import layout, listed, parquet_images
from ddcore.data.columns import classes_of, one_hot
from ddcore.data.layout import Part
from ddcore.data.part_names import TEST, TRAIN, part_of, visible, words
from ddcore.data.parts import Loaded, Wanted, into_source, labelled, two_parts
from ddcore.data.source import Source, Split
from ddcore.data.symmetry import KNOWN
from ddcore.errors import InputError, OptionError, in_short
from ddcore.images.pictures import from_array, stack
from ddcore.storage.places import Place
from ddcore.storage.unpacking import check_growth

PICTURE_FILES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Ends of file names that count as pictures; all others in a class folder are left alone."""

PARQUET = ".parquet"

GZIP = b"\x1f\x8b"
IDX_IMAGES, IDX_LABELS = 0x0803, 0x0801
"""Magic numbers: unsigned bytes (08) of rank 3 and of rank 1."""

IDX = re.compile(r"idx\d", re.IGNORECASE)
"""What the name of an IDX file has in it."""

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
    if place.name.lower().endswith(PARQUET) and (place.local_path() is None or not place.is_folder()):
        return into_source(wanted, {"": parquet_images.read([place], wanted.resize)})
    names = [name for name in visible(place.files()) if name.lower().endswith(PARQUET)]
    if not names:
        raise InputError(f"{place.url} holds no .parquet file: give a folder with train.parquet and test.parquet")
    parts, there = layout.of_files(wanted, names)
    return into_source(wanted, {name: _read_shards(place, part, wanted) for name, part in parts.items()}, there)


def _read_shards(place: Place, part: Part, wanted: Wanted) -> Loaded:
    shards = [place / name for name in part.files]
    loaded = parquet_images.read(shards, wanted.resize, names=part.files)
    return attrs.evolve(loaded, notes=(*part.notes, *loaded.notes))


def read_hub(wanted: Wanted) -> Source:
    """A Hugging Face repository with parquet files, through fsspec's driver."""
    return read_parquet(attrs.evolve(wanted, name="parquet", rest=f"hf://datasets/{wanted.rest}"))


def read_folder(wanted: Wanted) -> Source:
    """Class folders of pictures, below ``train`` and ``test`` or on their own; or pictures that a table beside them
    labels."""
    place = wanted.place()
    files = [name for name in visible(place.files()) if name.lower().endswith(PICTURE_FILES)]
    if not files:
        raise InputError(f"{place.url} holds no pictures: give a folder with one folder of pictures a class")
    source = listed.beside(wanted, place, files, in_classes=_in_class_folders(files, wanted))
    if source is not None:
        return source
    parts = layout.of_folders(wanted, files)
    return into_source(
        wanted, {name: _read_classes(place, folder, part, wanted) for name, (folder, part) in parts.items()}
    )


def _in_class_folders(files: Sequence[str], wanted: Wanted) -> bool:
    """Whether pictures, those of the train part if there is one, lie in two folders or more."""
    folders = {folder for file in files for folder in file.split("/")[:-1]}
    train = layout.told(wanted.named, folders).get((wanted.named or (TRAIN,))[0], ())
    below = [inside for file in files if (inside := _after(file, train)) is not None]
    return len({name.partition("/")[0] for name in below or files if "/" in name}) > 1


def _after(file: str, folders: Collection[str]) -> str | None:
    """A file's path from the innermost of some folders on; None if it lies in none of them."""
    pieces = file.split("/")
    at = max((at for at, piece in enumerate(pieces[:-1]) if piece in folders), default=None)
    return None if at is None else "/".join(pieces[at + 1 :])


def read_csv(wanted: Wanted) -> Source:
    """A table of file names and labels beside a folder of pictures; see ``ddcore.data.listed``."""
    return listed.read_csv(wanted, PICTURE_FILES)


def _read_classes(whole: Place, folder: str, part: Part, wanted: Wanted) -> Loaded:
    place = whole / folder if folder else whole
    files = [name for name in part.files if "/" in name]
    local = place.local_path()
    if local and (odd := next((name for name in files if not (local / name).is_file()), None)):
        raise InputError(f"{(place / odd).url} is no regular file: put a picture there or remove it")
    empty = set(visible(entry.name for entry in local.iterdir() if entry.is_dir())) if local else set()
    classes = sorted(empty | {name.partition("/")[0] for name in files})
    if len(classes) < 2:
        found = f"{len(classes)} class folder{'' if len(classes) == 1 else 's'} ({', '.join(classes) or 'none'})"
        raise InputError(f"{place.url} has {found}: give a folder with one folder of pictures for each of 2 or more")
    _refuse_copies(place, files, classes)
    position = {name: at for at, name in enumerate(classes)}
    labels = torch.tensor([position[name.partition("/")[0]] for name in files])
    broken: dict[int, str] = {}
    encoded = ((place / name).read_bytes() for name in files)
    images = stack(encoded, len(files), lambda at: (place / files[at]).url, wanted.resize, broken=broken)
    names = tuple((f"{folder}/{files[at]}" if folder else files[at], why) for at, why in broken.items())
    return Loaded(images, without(labels, broken), tuple(classes), broken=names, notes=part.notes)


def _refuse_copies(place: Place, files: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse class folders that hold folders of the other classes: backups, or sets within the set."""
    nested = [name.split("/") for name in files if name.count("/") > 1]
    if inner := {(pieces[0], pieces[1]) for pieces in nested if pieces[1] in classes}:
        outer, name = min(inner)
        what = f"{outer}/ in {place.url} would be a class, and holds a folder {name!r}, which is a class itself"
        raise InputError(f"{what}: if it is a copy, move it away or let its name begin with a dot")


def without(labels: torch.Tensor, broken: Collection[int]) -> torch.Tensor:
    """Labels (N,) of all but these pictures."""
    left = torch.ones(len(labels), dtype=torch.bool)
    left[list(broken)] = False
    return labels[left]


def read_idx(wanted: Wanted) -> Source:
    """A folder with the four files of MNIST's format, gzip'd or plain."""
    place = wanted.place()
    names = [name for name in visible(place.names()) if IDX.search(name)]
    if wanted.named:
        layout.chosen(wanted, {part: part for part in wanted.named})
        parts = {part: [name for name in names if layout.speaks_of(part, name)] for part in wanted.named}
    else:
        spoken = {name: part_of(name) for name in names}
        of = next((part for part in TEST if part in spoken.values()), TEST[0])
        test = of if any(of in name.lower() for name in names) else "t10k"
        parts = {TRAIN: [n for n in names if spoken[n] == TRAIN], test: [n for n in names if spoken[n] == of]}
        if wanted.share is not None and parts[test]:
            raise two_parts(wanted, (TRAIN, test))
        if wanted.share is not None:
            del parts[test]
    return into_source(wanted, {part: _read_idx_part(place, of, part, wanted) for part, of in parts.items()})


def _read_idx_part(place: Place, names: Sequence[str], part: str, wanted: Wanted) -> Loaded:
    arrays = []
    for what, magic in (("images", IDX_IMAGES), ("labels", IDX_LABELS)):
        found = [name for name in names if what in name.lower()]
        if len({name.lower().removesuffix(".gz") for name in found}) != 1:
            seen = f"found {', '.join(found) or 'none'}"
            due = f"exactly one file named like {part}-{what}-idx{magic & 255}-ubyte[.gz]"
            raise InputError(f"{place.url} has to hold {due}, {seen}: rename or add it, or give --split TRAIN:TEST")
        arrays.append(read_idx_file(place / found[0], magic))
    images, labels = arrays
    if len(images) != len(labels):
        raise InputError(f"{place.url} holds {len(images)} {part} images but {len(labels)} labels: get the files again")
    return Loaded(from_array(images, f"{place.url} ({part})", wanted.resize), torch.from_numpy(labels.astype(np.int64)))


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


NPZ_KINDS = {
    "images": ("x", "images", "image", "imgs", "img", "data", "pixels", "inputs"),
    "labels": ("y", "labels", "label", "targets", "target"),
}
"""How arrays of images and of labels are called in .npz files, beside the word for the part (Keras, MedMNIST, ...)."""
NPZ = ".npz"


def read_npz(wanted: Wanted) -> Source:
    """One NumPy .npz file: ``x_train y_train x_test y_test`` or ``images labels``, class names in ``classes``; or a
    folder of such files, one a part. Arrays (N, D) are features, others images."""
    place = wanted.place()
    if place.local_path() is not None and place.is_folder():
        return _read_npz_files(place, wanted)
    arrays = read_arrays(place)
    pairs = _npz_parts(arrays, wanted)
    there = {part: _npz_word(pair[0], part) for part, pair in pairs.items() if part}
    parts = layout.chosen(wanted, there)
    if not parts and "" not in pairs:
        due = "x_train, y_train, x_test, y_test (or images, labels with --split 0.8)"
        raise InputError(f"{place.url} holds the arrays {', '.join(arrays) or 'none'}: name them {due}")
    loaded = {part: _npz_part(arrays, pairs[part], place, wanted) for part in parts or ("",)}
    return into_source(wanted, loaded, there)


def _read_npz_files(place: Place, wanted: Wanted) -> Source:
    """The parts in several files, each with one array of images and one of labels."""
    files = [name for name in visible(place.names()) if name.lower().endswith(NPZ)]
    if not files:
        raise InputError(f"{place.url} holds no .npz file: give a file, or a folder with train.npz and test.npz")
    loaded = {}
    parts, there = layout.of_files(wanted, files)
    for name, part in parts.items():
        if len(part.files) > 1:
            raise InputError(
                f"{place.url} holds {len(part.files)} files of one part, {', '.join(part.files[:5])}: give one file"
            )
        arrays = read_arrays(place / part.files[0])
        pairs = _npz_parts(arrays, Wanted(wanted.name))
        if len(pairs) != 1:
            due = "one array images and one labels"
            raise InputError(
                f"{(place / part.files[0]).url} holds the arrays {', '.join(arrays) or 'none'}: it has to hold {due}"
            )
        (pair,) = pairs.values()
        loaded[name] = _npz_part(arrays, pair, place / part.files[0], wanted)
    return into_source(wanted, loaded, there)


def _one_class_each(labels: np.ndarray, where: str, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels with one-hot rows as the numbers of their classes, and a sentence that says so.

    Raises:
        InputError: rows of several numbers that are not one-hot.
    """
    if labels.ndim < 2 or 1 in labels.shape:
        return labels, ()
    numbers = one_hot(labels)
    if numbers is None:
        way_out = "an image has to have one class: store (N,) whole numbers, or names"
        raise InputError(f"{where} has shape {labels.shape}, and its rows are not one-hot: {way_out}")
    return numbers, (f"{name} is one-hot",)


def _npz_part(arrays: Mapping[str, np.ndarray], pair: tuple[str, str], place: Place, wanted: Wanted) -> Loaded:
    classes = tuple(str(name) for name in np.atleast_1d(arrays["classes"]).tolist()) if "classes" in arrays else None
    images, labels = (arrays[name] for name in pair)
    where = f"{pair[0]} of {place.url}"
    labels, said = _one_class_each(labels, f"{pair[1]} of {place.url}", pair[1])
    if images.ndim == 0 or len(images) != labels.size:
        raise InputError(
            f"{where} holds {len(np.atleast_1d(images))} images but {labels.size} labels: give one label an image"
        )
    found = classes_of(labels.reshape(-1), f"the labels in {pair[1]} of {place.url}")
    samples = features_of(images, where, wanted) if images.ndim == 2 else from_array(images, where, wanted.resize)
    loaded = labelled(samples, found, classes)
    return attrs.evolve(loaded, notes=(*said, *loaded.notes))


def features_of(values: np.ndarray, where: str, wanted: Wanted) -> Tensor:
    """Numbers (N, D) as float32, or as the bytes that they are.

    Raises:
        InputError: no numbers, or values that are not finite in float32; ``--resize``, which is of images.
    """
    if wanted.resize is not None:
        raise InputError(f"--resize is of images, and {where} holds features (N, D): leave it out")
    if values.dtype.kind not in "biuf" or 0 in values.shape:
        raise InputError(f"{where} is {values.dtype} of shape {values.shape}: features (N, D) have to be numbers")
    if values.dtype == np.uint8:
        return torch.from_numpy(np.require(values, requirements=["C", "W", "O"]))
    with np.errstate(over="ignore"):
        small = np.require(values.astype(np.float32), requirements=["C", "W", "O"])
    finite = np.isfinite(small).reshape(len(small), -1).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InputError(
            f"{where} holds values that are not finite, first in row {row}: fill them in or drop such rows"
        )
    return torch.from_numpy(small)


def _npz_parts(arrays: Iterable[str], wanted: Wanted) -> dict[str, tuple[str, str]]:
    """Names of the images and labels of each part; of part ``""`` those that name none.

    Raises:
        InputError: two arrays that are both the images, or the labels, of one part.
    """
    found: dict[tuple[str, str], str] = {}
    for name in arrays:
        if (spoken := _npz_array(name, wanted.named)) is not None:
            if spoken in found:
                raise InputError(f"{wanted.shown} has {spoken[1]} in both {found[spoken]} and {name}: keep one of them")
            found[spoken] = name
    parts = {part for part, _ in found}
    pairs = {part: (found.get((part, "images")), found.get((part, "labels"))) for part in parts}
    return {part: (x, y) for part, (x, y) in pairs.items() if x is not None and y is not None}


def _npz_array(name: str, named: tuple[str, str] | None) -> tuple[str, str] | None:
    """Which part an array is of, and what of it; None if its name says something else."""
    said = _npz_words(name)
    if named is not None:
        part = next((n for n in named if layout.speaks_of(n, " ".join(said))), "")
        rest = [word for word in said if word not in words(part)]
    else:
        part = part_of(name) or part_of(" ".join(said)) or ""
        rest = [word for word in said if part_of(word) is None]
    kind = next((kind for kind, spelt in NPZ_KINDS.items() if rest and len(rest) == 1 and rest[0] in spelt), None)
    return None if kind is None else (part, kind)


def _npz_words(name: str) -> tuple[str, ...]:
    return words(re.sub(r"^([xyXY])(?=[a-zA-Z]{2})", r"\1 ", name))


def _npz_word(name: str, part: str) -> str:
    """The word of an array's name by which ``--split`` takes its part."""
    return next((word for word in _npz_words(name) if part_of(word) == part), part)


def read_arrays(place: Place) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, none of them pickled, each as large as its header says and the file's size allows.

    Raises:
        InputError: it is damaged, holds Python objects or something else than arrays, or would unpack to far too much.
    """
    try:
        local = place.local_path() is not None
        with place.open("rb") if local else io.BytesIO(place.read_bytes()) as file, zipfile.ZipFile(file) as packed:
            arrays = {*visible(entry.filename for entry in packed.infolist())}
            entries = [e for e in packed.infolist() if e.filename.endswith(".npy") and e.filename in arrays]
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
    "csv": Reader(
        read_csv, "csv:PATH_OR_URL, a table of file names and labels, or a folder with one, and the pictures"
    ),
    "idx": Reader(read_idx, "idx:PATH_OR_URL, a folder with the four files of MNIST's format, gzip'd or plain"),
    "npz": Reader(
        read_npz,
        "npz:PATH_OR_URL, arrays x_train y_train x_test y_test, or images labels with --split, or a file a part",
    ),
    "hf": Reader(read_hub, "hf:OWNER/NAME, a Hugging Face repository with parquet files"),
}
"""Formats by the name before the colon."""
