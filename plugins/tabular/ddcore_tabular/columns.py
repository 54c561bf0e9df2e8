"""Columns of a table as they are read: numbers, truth values, dates and categories, with what is missing.

CSV and TSV files are text, and what a column holds is told by all of its train cells; Parquet files say it themselves.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
from attrs import frozen
from pyarrow import compute
from pyarrow import types as arrow_types

from ddcore import InputError
from ddcore.data import is_missing
from ddcore.storage import Place

Kind = Literal["number", "flag", "date", "category"]
ENDINGS = (".csv", ".tsv", ".parquet")
NUMBER = r"(?i)^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$|^[+-]?inf(inity)?$"
FLAG = r"(?i)^(true|false)$"
DATE = r"^\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?Z?$"
DAY = 86_400_000_000
"""Microseconds."""
QUESTION = "?"
"""What tables of the UCI collection write where there is no value."""
SHOWN = 20


@frozen(eq=False)
class Column:
    """One column of N cells.

    Attributes:
        values: of a category an arrow array of text, null where it is missing; else (N,) float64, NaN where it is: 0
            and 1 for truth values, days since 1970 for dates.
        odd: cells that are no such value, and count as missing.
        whole: whether all numbers are whole.
    """

    name: str
    kind: Kind
    values: Any
    odd: int = 0
    whole: bool = False

    def __len__(self) -> int:
        return len(self.values)


def read_table(place: Place, skipped: list[str] | None = None) -> pyarrow.Table:
    """The table in a file, by the end of its name; of CSV and TSV all columns are text.

    Args:
        skipped: takes a note of lines with too few or too many cells, which are left out; None: they are refused.

    Raises:
        InputError: no such file, or none that can be read; two columns of one name; no rows.
    """
    name = place.name.lower()
    if not name.endswith(ENDINGS):
        raise InputError(f"{place.url} is no table: give a file that ends in {', '.join(ENDINGS)}")
    content = place.read_bytes()
    table = _parquet(content, place) if name.endswith(".parquet") else _text(content, place, skipped)
    if len(set(table.column_names)) < table.num_columns:
        twice = next(n for n in table.column_names if table.column_names.count(n) > 1)
        raise InputError(f"{place.url} has two columns {twice!r}: give each a name of its own")
    if not table.num_rows:
        raise InputError(f"{place.url} has columns and no rows: add some")
    return table


def _parquet(content: bytes, place: Place) -> pyarrow.Table:
    try:
        return pyarrow.parquet.read_table(io.BytesIO(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{place.url} is no Parquet file ({_why(error)}): write it again") from error


def _text(content: bytes, place: Place, skipped: list[str] | None) -> pyarrow.Table:
    try:
        head = content.decode("utf-8-sig").lstrip("\r\n").partition("\n")[0].rstrip("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"{place.url} is not UTF-8 text ({error.reason} at byte {error.start}): convert it") from error
    if not head.strip():
        raise InputError(f"{place.url} is empty: it has to begin with a line of column names")
    tabs = place.name.lower().endswith(".tsv")
    delimiter = "\t" if tabs else max(",;\t", key=head.count)
    names = next(csv.reader([head], delimiter=delimiter))
    broken: list[int] = []

    def left_out(row: Any) -> str:
        broken.append(row.number or 0)
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(content),
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=None if skipped is None else left_out
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pyarrow.string()), strings_can_be_null=False
            ),
        )
    except pyarrow.ArrowException as error:
        way_out = "repair those lines, or leave them out by --skip-broken"
        raise InputError(f"{place.url} cannot be read as a table ({_why(error)}): {way_out}") from error
    if broken and skipped is not None:
        skipped.append(f"{len(broken)} lines of {place.name} with too few or too many cells left out (--skip-broken)")
    return table


def _why(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]


def is_text(column: Any) -> bool:
    """Whether an arrow column holds text."""
    return bool(arrow_types.is_string(column.type) or arrow_types.is_large_string(column.type))


def plain(column: Any, name: str, where: str) -> Any:
    """An arrow column in one piece, of text, numbers, truth values or dates; text trimmed, null where it says that
    there is nothing.

    Raises:
        InputError: it holds something else.
    """
    cells = column.combine_chunks() if isinstance(column, pyarrow.ChunkedArray) else column
    if arrow_types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    kind = cells.type
    if arrow_types.is_null(kind):
        return cells.cast(pyarrow.string())
    if is_text(cells):
        trimmed = compute.utf8_trim_whitespace(cells.cast(pyarrow.string()))
        nothing = [word for word in compute.unique(trimmed).to_pylist() if is_missing(word) or word == QUESTION]
        there = compute.invert(compute.is_in(trimmed, value_set=pyarrow.array(nothing, pyarrow.string())))
        return compute.if_else(there, trimmed, pyarrow.scalar(None, pyarrow.string()))
    if arrow_types.is_decimal(kind):
        return cells.cast(pyarrow.float64())
    known = (arrow_types.is_boolean, arrow_types.is_integer, arrow_types.is_floating)
    if any(test(kind) for test in (*known, arrow_types.is_date, arrow_types.is_timestamp)):
        return cells
    raise InputError(
        f"column {name!r} of {where} holds values of type {kind}, which are neither numbers nor words: drop it by "
        f"--tabular.drop {name}"
    )


def kind_of(cells: Any, *, text: bool) -> Kind:
    """What the cells of a train column are.

    Args:
        cells: as ``plain`` gives them.
        text: whether words may be numbers, as in a CSV file.
    """
    if arrow_types.is_boolean(cells.type):
        return "flag"
    if arrow_types.is_date(cells.type) or arrow_types.is_timestamp(cells.type):
        return "date"
    if not is_text(cells):
        return "number"
    if not text or cells.null_count == len(cells):
        return "category"
    patterns: Sequence[tuple[Kind, str]] = (("number", NUMBER), ("flag", FLAG), ("date", DATE))
    return next((kind for kind, pattern in patterns if _all(cells, pattern)), "category")


def _all(cells: Any, pattern: str) -> bool:
    return bool(compute.all(compute.match_substring_regex(cells, pattern)).as_py())


def as_column(cells: Any, name: str, kind: Kind) -> Column:
    """Cells, as ``plain`` gives them, as values of a kind; what is none is counted and missing."""
    if kind == "category":
        words = cells if is_text(cells) else compute.cast(cells, pyarrow.string())
        return Column(name, kind, words)
    there = len(cells) - cells.null_count
    if is_text(cells):
        pattern = {"number": NUMBER, "flag": FLAG, "date": DATE}[kind]
        fits = compute.match_substring_regex(cells, pattern)
        cells = compute.if_else(fits, cells, pyarrow.scalar(None, pyarrow.string()))
    numbers = np.asarray(_numbers(cells, kind).to_numpy(zero_copy_only=False), dtype=np.float64)
    numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    known = numbers[~np.isnan(numbers)]
    return Column(name, kind, numbers, there - len(known), bool((known == np.round(known)).all()))


def _numbers(cells: Any, kind: Kind) -> Any:
    float64 = pyarrow.float64()
    if kind == "date":
        if is_text(cells):
            cells = compute.replace_substring_regex(cells, "Z$", "")
            cells = _dates(cells)
        elif not (arrow_types.is_date(cells.type) or arrow_types.is_timestamp(cells.type)):
            return pyarrow.nulls(len(cells), float64)
        micro = compute.cast(cells, pyarrow.timestamp("us"), safe=False)
        return compute.divide(compute.cast(compute.cast(micro, pyarrow.int64()), float64, safe=False), float(DAY))
    if arrow_types.is_date(cells.type) or arrow_types.is_timestamp(cells.type):
        return pyarrow.nulls(len(cells), float64)
    if is_text(cells):
        if kind == "flag":
            cells = compute.equal(compute.utf8_lower(cells), "true")
        else:
            cells = compute.replace_substring_regex(cells, r"^\+", "")
    return compute.cast(cells, float64, safe=False)


def _dates(cells: Any) -> Any:
    """Text as timestamps; days that there are not are null."""
    micro = pyarrow.timestamp("us")
    try:
        return compute.cast(cells, micro)
    except pyarrow.ArrowInvalid:
        return pyarrow.array([_date(cell) for cell in cells.to_pylist()], micro)


def _date(cell: str | None) -> Any:
    try:
        return None if cell is None else compute.cast(pyarrow.scalar(cell), pyarrow.timestamp("us")).as_py()
    except pyarrow.ArrowInvalid:
        return None
