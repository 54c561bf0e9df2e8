"""Images in parquet files, Hugging Face's layout: a column of encoded pictures beside one of labels.

The picture column is a struct ``{bytes, path}`` or plain binary; class names and licence come from the ``huggingface``
entry of the schema's metadata. Files are read batch by batch: what is held is the decoded stack and little else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from attrs import frozen

from ddcore.data.parts import Loaded, whole_numbers
from ddcore.errors import MISFITS, InputError, in_short
from ddcore.images.framing import Resize
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
    place: Place
    opened: Any
    image: str
    label: str
    rows: int
    size: int


def read(places: Sequence[Place], resize: Resize | None = None) -> Loaded:
    """The images and labels of some files, one after the other.

    Raises:
        InputError: pyarrow is missing; a file is truncated or lacks its columns; a picture cannot be decoded (the
            message names file and row); labels are no whole numbers.
    """
    files = [_open(place) for place in places]
    ends = list(accumulate(file.rows for file in files))
    if not ends or ends[-1] == 0:
        raise InputError(f"{places[0].url} holds no rows: give a file with images in it")
    labels: list[np.ndarray] = []

    def where(at: int) -> str:
        number = bisect_right(ends, at) if at < ends[-1] else len(files) - 1
        return f"row {at - (ends[number - 1] if number else 0)} of {files[number].place.url}"

    def pictures() -> Iterator[bytes]:
        for file in files:
            yield from _pictures(file, labels)

    try:
        images = stack(pictures(), ends[-1], where, resize, sum(file.size for file in files))
    except MISFITS as error:
        raise InputError(f"{places[0].url} does not hold what it says ({in_short(error)}): get it again") from error
    classes, licence = _described(files[0].opened.schema_arrow, files[0].label)
    numbers = whole_numbers(np.concatenate(labels), f"the labels in column {files[0].label!r} of {places[0].url}")
    return Loaded(images, numbers, classes, licence)


def _open(place: Place) -> _File:
    try:
        import pyarrow  # an extra
        import pyarrow.parquet
    except ImportError as error:
        way_out = "pip install 'ddcore-torch[parquet]'"
        raise InputError(f"reading {place.url} needs pyarrow, which is not installed: {way_out}") from error
    try:
        opened = pyarrow.parquet.ParquetFile(place.open("rb"))
        image = _column(opened.schema_arrow, IMAGE_COLUMNS, "image", place)
        label = _column(opened.schema_arrow, LABEL_COLUMNS, "label", place)
        rows, size, unpacked = opened.metadata.num_rows, place.size(), _unpacked(opened.metadata, (image, label))
    except (pyarrow.ArrowException, OSError, *MISFITS) as error:
        raise InputError(f"{place.url} is truncated or no parquet file: get it again") from error
    if not 0 <= rows <= size:
        raise InputError(f"{place.url} says that {size:,} bytes hold {rows:,} rows: get it again")
    check_growth(size, unpacked, place.url)
    return _File(place, opened, image, label, rows, size)


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


def _pictures(file: _File, labels: list[np.ndarray]) -> Iterator[bytes]:
    """Encoded pictures in order; the labels of the same rows are appended to ``labels`` on the way."""
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
            labels.append(numbers.to_numpy(zero_copy_only=False))
            for at in range(len(encoded)):
                if not (picture := encoded[at].as_py()):
                    raise InputError(f"row {row + at} of {file.place.url} holds no image bytes: embed or drop it")
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
