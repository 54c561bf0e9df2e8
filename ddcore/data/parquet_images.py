"""Images in parquet files, Hugging Face's layout: a column of encoded pictures beside one of labels.

The picture column is a struct ``{bytes, path}`` or plain binary; class names and licence come from the ``huggingface``
entry of the schema's metadata. Files are read batch by batch: what is held is the decoded stack and little else.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NoReturn

import attrs
import numpy as np
import torch
from attrs import field, frozen

from ddcore.data.columns import (
    Labelling,
    are_numbers,
    classes_of,
    left_out,
    numbers_and_names,
    one_hot,
    one_hot_columns,
)
from ddcore.data.parts import Loaded, by_names, called, labelled
from ddcore.errors import MISFITS, InputError, in_short
from ddcore.images.framing import Resize
from ddcore.images.pictures import stack
from ddcore.storage.documents import parse_json
from ddcore.storage.places import Place
from ddcore.storage.unpacking import check_growth

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
NUMBER_TYPES = re.compile(r"u?int\d+|bool|halffloat|float|double")
ROWS_AT_ONCE = 64
"""A dictionary's picture is written out for each row that repeats it."""


@frozen(eq=False)
class _File:
    """One file, opened.

    Attributes:
        name: for messages, relative to the folder of the data.
        classes, licence: as the file describes itself.
        cells: labels of the rows that were read so far.
        widths: how many values these are each, where they are lists; 0 of others.
        digest: of pictures and labels.
    """

    place: Place
    name: str
    opened: Any
    image: str
    label: tuple[str, ...]
    rows: int
    size: int
    classes: tuple[str, ...] | None
    licence: str
    cells: list[Any] = field(factory=list)
    widths: set[int] = field(factory=set)
    digest: Any = field(factory=lambda: hashlib.blake2b(digest_size=16))


def read(places: Sequence[Place], resize: Resize | None = None, names: Sequence[str] | None = None) -> Loaded:
    """The images and labels of some files, one after the other.

    Class numbers of each file are those of its own class names, and are put in the order of the first file's; words are
    numbered by the sorted names of all files.

    Args:
        names: what to call the files; their own names unless told.

    Raises:
        InputError: pyarrow is missing; a file lacks its columns, or class names that others have; two hold the same
            rows; labels are no classes.
    """
    names = names or [place.name for place in places]
    opened = [_open(place, name) for place, name in zip(places, names, strict=True)]
    files = [file for file in opened if isinstance(file, _File)]
    unread = tuple(file for file in opened if isinstance(file, tuple))
    if not files:
        return Loaded(torch.empty((0, 1, 1, 1), dtype=torch.uint8), torch.empty(0, dtype=torch.int64), broken=unread)
    ends = list(accumulate(file.rows for file in files))
    if ends[-1] == 0:
        raise InputError(f"{places[0].url} holds no rows: give a file with images in it")
    broken: dict[int, str] = {}

    def where(at: int) -> str:
        number = bisect_right(ends, at) if at < ends[-1] else len(files) - 1
        return f"row {at - (ends[number - 1] if number else 0)} of {files[number].name}"

    def pictures() -> Iterator[bytes]:
        for file in files:
            yield from _pictures(file)

    try:
        images = stack(pictures(), ends[-1], where, resize, sum(file.size for file in files), broken)
    except MISFITS as error:
        raise InputError(f"{places[0].url} does not hold what it says ({in_short(error)}): get it again") from error
    _refuse_copies(files)
    labels, classes = _in_one_order(files)
    whole = [at for at in range(ends[-1]) if at not in broken]
    lost = (*unread, *((where(at), why) for at, why in broken.items()))
    return attrs.evolve(labelled(images, labels.of_rows(whole), classes, files[0].licence), broken=lost)


def _labels(file: _File) -> Labelling:
    """What the cells of a file say: one a row, or a tuple of them where there is a column a class."""
    if len(file.label) > 1 and file.cells:
        columns = dict(zip(file.label, zip(*file.cells, strict=True), strict=True))
        found = one_hot_columns(columns)
        return found or _no_column(file.opened.schema_arrow, LABEL_COLUMNS, "label", file.place)
    where = f"the labels in column {file.label[0]!r} of {file.place.url}"
    if any(isinstance(cell, list) for cell in file.cells):
        hot = one_hot(np.array(file.cells)) if len(file.widths) == 1 else None
        if hot is None:
            raise InputError(f"{where} are lists and not one-hot: an image has to have one class, a number or a name")
        return attrs.evolve(classes_of(hot, where), notes=("labels are one-hot",))
    return classes_of(file.cells, where)


def _refuse_copies(files: Sequence[_File]) -> None:
    """Refuse two files with the same rows: a backup, or a shard that came twice."""
    seen: dict[object, str] = {}
    for file in files:
        rows = (file.digest.digest(), file.classes)
        if file.rows and (other := seen.setdefault(rows, file.name)) != file.name:
            raise InputError(f"{other} and {file.name} of {file.place.url} hold the same rows: move one of them away")


def _in_one_order(files: Sequence[_File]) -> tuple[Labelling, tuple[str, ...] | None]:
    """The labels of all files: of words by all their sorted names, of numbers in the order of the first file's class
    names; and those, of numbers."""
    files = [file for file in files if file.rows]
    if len(widths := set.union(*(file.widths for file in files))) > 1 and max(widths) > 0:
        raise InputError(
            f"rows of {files[0].place.parent.url} have one-hot labels of different lengths: write all alike"
        )
    of_file = {file: _labels(file) for file in files}
    labelled = torch.cat([labels.labelled for labels in of_file.values()])
    notes = dict.fromkeys(note for labels in of_file.values() if labels.labelled.all() for note in labels.notes)
    said = (*notes, *left_out(int((~labelled).sum()), len(labelled)))
    there = {file: labels for file, labels in of_file.items() if len(labels.numbers)} or of_file
    _refuse_nameless(there)
    if any(labels.names is not None for labels in there.values()):
        names = [
            name for file, labels in there.items() for name in called(labels.numbers, labels.names or file.classes)
        ]
        return Labelling(*numbers_and_names(names), labelled, said), None
    due = tuple(dict.fromkeys(name for file in there for name in file.classes or ())) or None
    if len({file.classes for file in there}) == 1:
        due = next(iter(there)).classes
    numbers = [
        labels.numbers if due is None else by_names(labels.numbers, file.classes or (), due, file.place.url)
        for file, labels in there.items()
    ]
    return Labelling(torch.cat(numbers), None, labelled, said), due


def _refuse_nameless(there: Mapping[_File, Labelling]) -> None:
    """Refuse numbers of a file without class names beside names, unless all of those are numbers too."""
    names = {file: labels.names or file.classes for file, labels in there.items()}
    nameless = [file.name for file, own in names.items() if own is None]
    words = any(labels.names is not None for labels in there.values())
    named = [file.name for file, own in names.items() if own is not None and not (words and are_numbers(own))]
    if nameless and named:
        what = f"{named[0]} names its classes and {nameless[0]} does not, so that its numbers may mean others"
        folder = next(iter(there)).place.parent.url
        raise InputError(f"{what}: write class names into all files of {folder}, or into none")


def _open(place: Place, name: str) -> _File | tuple[str, str]:
    """A file, or its name and why it cannot be read."""
    try:
        import pyarrow  # an extra
        import pyarrow.parquet
    except ImportError as error:
        way_out = "pip install 'ddcore-torch[parquet]'"
        raise InputError(f"reading {place.url} needs pyarrow, which is not installed: {way_out}") from error
    content = place.open("rb")
    try:
        opened = pyarrow.parquet.ParquetFile(content)
        image = _column(opened.schema_arrow, IMAGE_COLUMNS, "image", place)
        label = _label_columns(opened.schema_arrow, image, place)
        rows, size, unpacked = opened.metadata.num_rows, place.size(), _unpacked(opened.metadata, (image, *label))
    except (pyarrow.ArrowException, OSError, *MISFITS):
        return name, "truncated or no parquet file"
    if not 0 <= rows <= size:
        raise InputError(f"{place.url} says that {size:,} bytes hold {rows:,} rows: get it again")
    check_growth(size, unpacked, place.url)
    return _File(place, name, opened, image, label, rows, size, *_described(opened.schema_arrow, label[0]))


def _unpacked(metadata: Any, columns: Sequence[str]) -> int:
    """Bytes that the pages of these columns, or of what lies in them, unpack to, by the file's own account."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)


def _column(schema: Any, known: Sequence[str], what: str, place: Place) -> str:
    found = next((name for name in known if name in schema.names), None)
    return found or _no_column(schema, known, what, place)


def _no_column(schema: Any, known: Sequence[str], what: str, place: Place) -> NoReturn:
    there, due = ", ".join(schema.names), " or ".join(map(repr, known))
    raise InputError(f"{place.url} has no {what} column among {there}: name it {due}")


def _label_columns(schema: Any, image: str, place: Place) -> tuple[str, ...]:
    """The column of labels; without one, those that may be one-hot: all others, if they are numbers."""
    others = [name for name in schema.names if name != image]
    numbers = [NUMBER_TYPES.fullmatch(str(schema.field(name).type)) for name in others]
    if len(others) > 1 and all(numbers) and {*others}.isdisjoint(LABEL_COLUMNS):
        return tuple(others)
    return (_column(schema, LABEL_COLUMNS, "label", place),)


def _cells(batch: Any, label: Sequence[str]) -> list[Any]:
    """The labels of a batch's rows as Python values, categories as the names that they stand for."""
    columns = [batch.column(name).to_pylist() for name in label]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _pictures(file: _File) -> Iterator[bytes]:
    """Encoded pictures in order, nothing where a row holds none; the file takes down its labels on the way."""
    import pyarrow  # an extra

    row = written_out = 0
    try:
        for batch in file.opened.iter_batches(ROWS_AT_ONCE, columns=[file.image, *file.label]):
            encoded = batch.column(file.image)
            if pyarrow.types.is_struct(encoded.type) and encoded.type.get_field_index("bytes") >= 0:
                encoded = encoded.field("bytes")
            if not (pyarrow.types.is_binary(encoded.type) or pyarrow.types.is_large_binary(encoded.type)):
                due = "encoded pictures (binary, or a struct with 'bytes')"
                raise InputError(f"column {file.image!r} of {file.place.url} holds {encoded.type}: {due} are due")
            cells = _cells(batch, file.label)
            file.cells.extend(cells)
            file.widths.update(len(cell) if isinstance(cell, list) else 0 for cell in cells)
            for at, cell in enumerate(cells):
                picture = encoded[at].as_py() or b""
                file.digest.update(len(picture).to_bytes(8, "little") + picture + repr(cell).encode())
                written_out += len(picture)
                yield picture
            check_growth(file.size, written_out, file.place.url)
            row += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file.place.url} is damaged after row {row}: get it again") from error


def _described(schema: Any, label: str) -> tuple[tuple[str, ...] | None, str]:
    """Class names and licence in Hugging Face's metadata, where there are any."""
    try:
        info = parse_json((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
        names = info.get("features", {}).get(label, {}).get("names")
        return (tuple(map(str, names)) if names else None), str(info.get("license") or "")
    except (ValueError, AttributeError, TypeError):
        return None, ""
