"""Images in parquet files, Hugging Face's layout: a column of encoded pictures beside one of labels.

The picture column is a struct ``{bytes, path}`` or plain binary; class names and licence come from the ``huggingface``
entry of the schema's metadata. Files are read batch by batch: what is held is the decoded stack and little else.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from ddcore.data.parts import Loaded, by_names, whole_numbers
from ddcore.errors import MISFITS, InputError, in_short
from ddcore.images.pictures import stack
from ddcore.storage.documents import parse_json
from ddcore.storage.places import Place
from ddcore.storage.unpacking import check_growth

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
ROWS_AT_ONCE = 64
"""A dictionary's picture is written out for each row that repeats it."""


@frozen(eq=False)
class _File:
    """One file, opened.

    Attributes:
        name: for messages, relative to the folder of the data.
        classes, licence: as the file describes itself.
        labels: of the rows that were read so far.
        digest: of their pictures.
    """

    place: Place
    name: str
    opened: Any
    image: str
    label: str
    rows: int
    size: int
    classes: tuple[str, ...] | None
    licence: str
    labels: list[np.ndarray] = field(factory=list)
    digest: Any = field(factory=lambda: hashlib.blake2b(digest_size=16))

    @property
    def numbers(self) -> np.ndarray:
        """All its labels."""
        return np.concatenate(self.labels) if self.labels else np.empty(0, np.int64)


def read(places: Sequence[Place], resize: int | None = None, names: Sequence[str] | None = None) -> Loaded:
    """The images and labels of some files, one after the other.

    Class numbers of each file are those of its own class names, and are put in the order of the first file's.

    Args:
        names: what to call the files; their own names unless told.

    Raises:
        InputError: pyarrow is missing; a file lacks its columns, or class names that others have; two hold the same
            rows; labels are no whole numbers.
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
    numbers, classes = _in_one_order(files)
    left = torch.ones(len(numbers), dtype=torch.bool)
    left[list(broken)] = False
    lost = (*unread, *((where(at), why) for at, why in broken.items()))
    return Loaded(images, numbers[left], classes, files[0].licence, lost)


def _refuse_copies(files: Sequence[_File]) -> None:
    """Refuse two files with the same rows: a backup, or a shard that came twice."""
    seen: dict[object, str] = {}
    for file in files:
        rows = (file.digest.digest(), file.numbers.tobytes(), file.classes)
        if file.rows and (other := seen.setdefault(rows, file.name)) != file.name:
            raise InputError(f"{other} and {file.name} of {file.place.url} hold the same rows: move one of them away")


def _in_one_order(files: Sequence[_File]) -> tuple[Tensor, tuple[str, ...] | None]:
    """The labels of all files in the order of the first file's class names, and the names of all."""
    labels = [whole_numbers(file.numbers, f"the labels in column {file.label!r} of {file.place.url}") for file in files]
    if len({file.classes for file in files}) == 1:
        return torch.cat(labels), files[0].classes
    if nameless := [file.name for file in files if file.classes is None]:
        named = next(file.name for file in files if file.classes is not None)
        what = f"{named} names its classes and {nameless[0]} does not, so that its numbers may mean others"
        raise InputError(f"{what}: write class names into all files of {files[0].place.parent.url}, or into none")
    due = tuple(dict.fromkeys(name for file in files for name in file.classes or ()))
    mapped = zip(labels, files, strict=True)
    return torch.cat([by_names(of, file.classes or (), due, file.place.url) for of, file in mapped]), due


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
        label = _column(opened.schema_arrow, LABEL_COLUMNS, "label", place)
        rows, size, unpacked = opened.metadata.num_rows, place.size(), _unpacked(opened.metadata, (image, label))
    except (pyarrow.ArrowException, OSError, *MISFITS):
        return name, "truncated or no parquet file"
    if not 0 <= rows <= size:
        raise InputError(f"{place.url} says that {size:,} bytes hold {rows:,} rows: get it again")
    check_growth(size, unpacked, place.url)
    return _File(place, name, opened, image, label, rows, size, *_described(opened.schema_arrow, label))


def _unpacked(metadata: Any, columns: Sequence[str]) -> int:
    """Bytes that the pages of these columns, or of what lies in them, unpack to, by the file's own account."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)


def _column(schema: Any, known: Sequence[str], what: str, place: Place) -> str:
    found = next((name for name in known if name in schema.names), None)
    if found is None:
        there, due = ", ".join(schema.names), " or ".join(map(repr, known))
        raise InputError(f"{place.url} has no {what} column among {there}: name it {due}")
    return found


def _pictures(file: _File) -> Iterator[bytes]:
    """Encoded pictures in order, nothing where a row holds none; the file takes down its labels on the way."""
    import pyarrow  # an extra

    row = written_out = 0
    try:
        for batch in file.opened.iter_batches(ROWS_AT_ONCE, columns=[file.image, file.label]):
            encoded, numbers = batch.column(file.image), batch.column(file.label)
            if pyarrow.types.is_struct(encoded.type) and encoded.type.get_field_index("bytes") >= 0:
                encoded = encoded.field("bytes")
            if not (pyarrow.types.is_binary(encoded.type) or pyarrow.types.is_large_binary(encoded.type)):
                due = "encoded pictures (binary, or a struct with 'bytes')"
                raise InputError(f"column {file.image!r} of {file.place.url} holds {encoded.type}: {due} are due")
            if not pyarrow.types.is_integer(numbers.type) or numbers.null_count:
                held = "empty values" if pyarrow.types.is_integer(numbers.type) else str(numbers.type)
                what = f"labels in column {file.label!r} of {file.place.url} are {held}, not integers"
                raise InputError(f"{what}: give each class a whole number from 0 on")
            file.labels.append(numbers.to_numpy(zero_copy_only=False))
            for at in range(len(encoded)):
                picture = encoded[at].as_py() or b""
                file.digest.update(len(picture).to_bytes(8, "little") + picture)
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
