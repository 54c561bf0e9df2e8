"""A column of labels, as tables and arrays hold it, becomes class numbers and names.

Whole numbers stay what they are, whole floats too. Words, categories and truth values are numbered by their sorted
names; names that are all whole numbers are sorted as numbers. Rows of zeros with a single one are one-hot. What tables
write where there is no value is a missing label.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import attrs
import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from ddcore.errors import InputError

MISSING = frozenset(
    {
        *("", "nan", "NaN", "-nan", "-NaN", "NA", "<NA>", "#NA", "N/A", "n/a", "#N/A", "#N/A N/A"),
        *("None", "NULL", "null", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
    }
)
"""What pandas, and what it reads, write where there is no value."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
MOST_WHOLE = 2**53
"""Beyond it floats skip whole numbers."""


@frozen(eq=False)
class Labelling:
    """Labels of N rows.

    Attributes:
        numbers: (n,) int64, of the rows that have a label.
        names: sorted class names that ``numbers`` count through; None: numbers as they stood in the data.
        labelled: (N,) bool: which rows have a label.
        notes: what was converted or left out, one sentence each.
    """

    numbers: Tensor
    names: tuple[str, ...] | None
    labelled: Tensor
    notes: tuple[str, ...] = ()

    def of_rows(self, rows: Sequence[int]) -> Labelling:
        """Those of some rows, in their order; names and notes stay."""
        at = torch.tensor(rows, dtype=torch.int64)
        labelled = self.labelled[at]
        position = torch.cumsum(self.labelled, 0) - 1
        return attrs.evolve(self, numbers=self.numbers[position[at[labelled]]], labelled=labelled)


def is_missing(value: object) -> bool:
    """Whether a cell of a table says that there is no value.

    >>> [is_missing(value) for value in (None, float("nan"), " ", "N/A", b"NaN", 0, "none")]
    [True, True, True, True, True, False, False]
    """
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() in MISSING


def name_of(value: object) -> str:
    """A cell as the name of a class: whole numbers without a fraction, text without the space around it.

    >>> [name_of(value) for value in ("cat ", 1.0, "1.0", "-0", "007", True, b"dog")]
    ['cat', '1', '1', '0', '007', 'True', 'dog']
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"label {value[:20]!r} is no UTF-8 text: write class names as text") from error
    word = str(value).strip()
    if word.isascii() and word.isdigit():
        return word
    number = _number(word)
    return str(int(number)) if number is not None and _is_whole(number) else word


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct names in order: of the numbers, where all are numbers, else of the letters.

    >>> sorted_names(["10", "9", "9"]), sorted_names(["10", "9", "cat"])
    (('9', '10'), ('10', '9', 'cat'))
    """
    distinct = sorted(set(names))
    numbers = {name: number for name in distinct if (number := _number(name)) is not None}
    return tuple(distinct if len(numbers) < len(distinct) else sorted(distinct, key=numbers.__getitem__))


def classes_of(values: np.ndarray | Sequence[object], where: str) -> Labelling:
    """The classes of a column.

    Args:
        values: (N,) whole numbers, floats, truth values or text; any of them, None among them, where it is a list.
        where: what to call the column in messages, a plural such as ``the labels in column 'y' of x.csv``.

    Raises:
        InputError: numbers that are not whole, or too large to be counted exactly.
    """
    if not isinstance(values, np.ndarray) and {*map(type, values)} == {int}:
        values = np.array(values)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return Labelling(_whole(values, where), None, torch.ones(len(values), dtype=torch.bool))
    cells: list[object] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    labelled = torch.tensor([not is_missing(cell) for cell in cells], dtype=torch.bool)
    there = [cell for cell in cells if not is_missing(cell)]
    if odd := next((cell for cell in there if isinstance(cell, dict | list | tuple)), None):
        raise InputError(
            f"{where} are of type {type(odd).__name__}: a sample has to have one class, a number or a name"
        )
    notes = left_out(len(cells) - len(there), len(cells))
    if all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in there):
        return Labelling(_whole(np.array(there), where) if there else _none(), None, labelled, notes)
    named = [name_of(cell) for cell in there]
    if are_numbers(named):
        _refuse_fractions([number for name in named if (number := _number(name)) is not None], where)
    return Labelling(*numbers_and_names(named), labelled, notes)


def numbers_and_names(named: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers (N,) of rows that are called by the names of their classes, and those names, sorted.

    >>> numbers, names = numbers_and_names(["dog", "cat", "dog"])
    >>> numbers.tolist(), names
    ([1, 0, 1], ('cat', 'dog'))
    """
    spelt = _one_spelling(named)
    names = sorted_names(spelt)
    position = {name: at for at, name in enumerate(names)}
    return torch.tensor([position[name] for name in spelt], dtype=torch.int64), names


def are_numbers(names: Iterable[str]) -> bool:
    """Whether all of some names are numbers."""
    return all(_number(name) is not None for name in names)


def one_hot(rows: np.ndarray) -> np.ndarray | None:
    """(N,) which of K numbers is the one, in rows (N, K) of zeros with a single one, K > 1; None of other rows.

    >>> one_hot(np.eye(3)[[2, 0]]).tolist(), one_hot(np.array([[1, 1], [0, 1]]))
    ([2, 0], None)
    """
    if rows.ndim != 2 or rows.shape[1] < 2 or len(rows) == 0 or rows.dtype.kind not in "iufb":
        return None
    ones = rows == 1
    hot = (ones | (rows == 0)).all() and (ones.sum(1) == 1).all()
    return ones.argmax(1) if hot else None


def one_hot_columns(columns: Mapping[str, Sequence[object]]) -> Labelling | None:
    """The classes of one column of zeros and ones for each class, which are their names, sorted; None of other columns.

    >>> found = one_hot_columns({"owl": ["0", "1"], "cat": ["1", "0"]})
    >>> found.names, found.numbers.tolist()
    (('cat', 'owl'), [0, 1])
    """
    names = sorted_names(columns)
    cells = [[_number(str(cell)) if not isinstance(cell, bool) else float(cell) for cell in columns[n]] for n in names]
    if len(names) < 2 or any(cell is None for column in cells for cell in column):
        return None
    found = one_hot(np.array(cells, dtype=np.float64).T)
    if found is None:
        return None
    said = f"labels are one-hot in {len(names)} columns, whose names are those of the classes"
    return Labelling(torch.from_numpy(found), names, torch.ones(len(found), dtype=torch.bool), (said,))


def from_zero(parts: Sequence[Tensor], names: Sequence[str] | None) -> tuple[list[Tensor], tuple[str, ...], str] | None:
    """Labels that run from 1 on, counted from 0 instead; None where they do not, or it is not sure that they do.

    They do where the first part's are 1, 2, ..., K without gaps, no other part has another, and there are K class
    names or none.

    Args:
        parts: labels (N,) int64, those of the train part first.

    Returns:
        Labels, class names, and a sentence that says so.

    >>> from_zero([torch.tensor([2, 1]), torch.tensor([2])], None)[:2]
    ([tensor([1, 0]), tensor([1])], ('1', '2'))
    """
    found = parts[0].unique().tolist()
    count = len(found)
    fits = count > 1 and found == list(range(1, count + 1)) and (names is None or len(names) == count)
    if not fits or any(len(part) and not 1 <= int(part.min()) <= int(part.max()) <= count for part in parts):
        return None
    named = tuple(names) if names else tuple(map(str, found))
    said = f"labels run from 1 to {count} and are counted from 0 here, under the names {named[0]} to {named[-1]}"
    return [part - 1 for part in parts], named, said


def left_out(missing: int, count: int) -> tuple[str, ...]:
    """The sentence about rows without a label, if there are any."""
    return (f"{missing} of {count} labels are missing (empty, nan, NA, ...): left out",) if missing else ()


def _whole(values: np.ndarray, where: str) -> Tensor:
    if values.dtype.kind == "f":
        _refuse_fractions(values.tolist(), where)
    elif len(values) and not -MOST_WHOLE <= int(values.min()) <= int(values.max()) <= MOST_WHOLE:
        raise InputError(f"{where} reach from {values.min()} to {values.max()}: number the classes from 0 on")
    return torch.from_numpy(values.astype(np.int64))


def _is_whole(number: float) -> bool:
    return isinstance(number, int) or (number.is_integer() and abs(number) <= MOST_WHOLE)


def _refuse_fractions(values: Sequence[float], where: str) -> None:
    odd = next((value for value in values if not _is_whole(value)), None)
    if odd is not None:
        way_out = "give each class a whole number from 0 on, or a name"
        raise InputError(f"{where} are floats, not integers, with {odd:g} among them: {way_out}")


def _none() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


def _number(word: str) -> float | None:
    """What a word says as a number, exactly where it is digits; None of other words."""
    if len(word) >= 40 or not NUMBER.fullmatch(word):
        return None
    return int(word) if word.isdigit() else float(word)


def _one_spelling(names: Sequence[str]) -> list[str]:
    """``007`` and ``7`` are one class, called 7; ``007`` alone keeps its name."""
    numbers = {name: _number(name) for name in set(names)}
    if None in numbers.values() or len(set(numbers.values())) == len(numbers):
        return list(names)
    return [str(int(number)) if (number := numbers[name]) is not None else name for name in names]
