"""Columns as rows of numbers (N, D) and back, by what the train part alone says.

A number takes one place, standardised over the train cells that have one, or as the normal quantile of its rank among
them; a missing one is 0 there, the mean or the median, and 1 in a place of its own where the train part has such cells.
A category takes a place for each of its words (one-hot), one for all rarer ones where there are too many, and one for
missing cells. Shape letters: N rows, D places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow
import torch
from attrs import asdict, evolve, field, frozen
from pyarrow import compute
from torch import Tensor

from ddcore import InputError
from ddcore_tabular.columns import Column, Kind

Scale = Literal["standard", "quantile"]
KNOTS = 1000
"""Levels between which ranks are interpolated."""
EDGE = 1e-3
"""Ranks nearer to 0 and 1 count as this, so that no normal quantile lies beyond 3.1."""
FARTHEST = 1e6
"""Deviations from the mean; numbers further away are taken for this far."""
OTHER = "(other)"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@frozen
class Number:
    """How numbers, truth values or dates become one place, and one more for missing ones.

    Attributes:
        mean: of the train cells; of ``quantile`` not used, nor is ``deviation``.
        knots: values at evenly spaced ranks, ascending, of ``quantile``; else none.
        missing: whether a place says that there is no value.
        whole: whether train values are whole, so that decoded ones are rounded.
    """

    name: str
    kind: Kind
    mean: float
    deviation: float
    missing: bool
    whole: bool = False
    knots: tuple[float, ...] = field(default=(), converter=tuple)

    @property
    def width(self) -> int:
        """Places."""
        return 1 + self.missing

    @property
    def bits(self) -> int:
        """Of a real cell as stored: a truth value one, others float32; and one that says whether it is missing."""
        return (1 if self.kind == "flag" else 32) + self.missing

    @property
    def words(self) -> str:
        """For people."""
        kind = {"flag": "true or false", "date": "date, as days"}.get(self.kind, "number")
        return f"{self.name}: {kind}{', missing values' if self.missing else ''}"

    def encode(self, column: Column) -> np.ndarray:
        """(N, width) float64."""
        gone = np.isnan(column.values)
        places = np.zeros((len(column), self.width))
        places[:, 0] = np.where(gone, 0.0, self._scaled(np.where(gone, self.mean, column.values)))
        if self.missing:
            places[:, 1] = gone
        return places

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        if not self.knots:
            return np.clip((values - self.mean) / self.deviation, -FARTHEST, FARTHEST)
        knots, levels = _middle(np.array(self.knots))
        rank = np.clip(np.interp(values, knots, levels), EDGE, 1 - EDGE)
        return np.asarray(torch.special.ndtri(torch.from_numpy(rank)).numpy())

    def decode(self, places: np.ndarray) -> list[Any]:
        """Values of (N, width), None where they are missing."""
        values = places[:, 0] * self.deviation + self.mean
        if self.knots:
            rank = torch.special.ndtr(torch.from_numpy(places[:, 0].astype(np.float64))).numpy()
            knots, levels = _middle(np.array(self.knots))
            values = np.interp(rank, levels, knots)
        gone = places[:, 1] > 0.5 if self.missing else np.zeros(len(places), dtype=bool)
        return [None if g else self._value(float(v)) for v, g in zip(values, gone, strict=True)]

    def _value(self, value: float) -> Any:
        if self.kind == "flag":
            return value > 0.5
        if self.kind == "date":
            try:
                when = EPOCH + timedelta(days=round(value) if self.whole else value)
            except OverflowError:
                return None
            return when.date().isoformat() if self.whole else when.isoformat(timespec="seconds")
        return round(value) if self.whole else float(f"{value:.6g}")


def _middle(knots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct knots and the middle of the ranks of each."""
    values, first, count = np.unique(knots, return_index=True, return_counts=True)
    return values, (first + (count - 1) / 2) / max(1, len(knots) - 1)


@frozen
class Category:
    """How words become places.

    Attributes:
        categories: those with a place of their own, in alphabetical order.
        other: whether rarer ones, and those that the train part has not, share a place.
        missing: whether a place says that there is none.
    """

    name: str
    categories: tuple[str, ...] = field(converter=tuple)
    other: bool
    missing: bool

    @property
    def width(self) -> int:
        """Places."""
        return len(self.categories) + self.other + self.missing

    @property
    def bits(self) -> int:
        """Of a real cell as stored: the smallest whole number that counts its words."""
        return 8 if self.width <= 2**8 else 16 if self.width <= 2**16 else 32

    @property
    def words(self) -> str:
        """For people."""
        more = f"{', rarer ones together' if self.other else ''}{', missing values' if self.missing else ''}"
        return f"{self.name}: {len(self.categories)} categories{more}"

    def encode(self, column: Column) -> np.ndarray:
        """(N, width) float64: all zeros for a word, or a missing one, that the train part has not."""
        places = np.zeros((len(column), self.width))
        at = self.codes(column)
        rows = np.nonzero(at >= 0)[0]
        places[rows, at[rows]] = 1
        return places

    def codes(self, column: Column) -> np.ndarray:
        """(N,) int64: the place of each cell; -1 where it has none."""
        known = compute.index_in(column.values, value_set=pyarrow.array(self.categories, pyarrow.string()))
        gone = np.asarray(column.values.is_null().to_numpy(zero_copy_only=False))
        at = np.asarray(compute.fill_null(known, -1).to_numpy(zero_copy_only=False)).astype(np.int64)
        if self.other:
            at[(at < 0) & ~gone] = len(self.categories)
        if self.missing:
            at[gone] = self.width - 1
        return at

    def decode(self, places: np.ndarray) -> list[Any]:
        """The word with the largest place of (N, width), None where that says that there is none."""
        names = [*self.categories, *([OTHER] if self.other else []), *([None] if self.missing else [])]
        return [names[at] for at in places.argmax(1)]


@frozen
class Encoding:
    """How a table becomes rows, learned from its train part.

    >>> from ddcore_tabular.columns import Column
    >>> learned, _ = Encoding.of([Column("x", "number", np.array([1.0, 3.0]), whole=True)])
    >>> learned.rows([Column("x", "number", np.array([5.0]))]).tolist(), learned.decoded(torch.tensor([[3.0]]))
    ([[3.0]], {'x': [5]})
    """

    columns: tuple[Number | Category, ...]

    @classmethod
    def of(
        cls, columns: Sequence[Column], *, scale: Scale = "standard", most: int = 64
    ) -> tuple[Encoding, tuple[str, ...]]:
        """What the train columns say, and what was done to some of them, a sentence each.

        Args:
            most: places for the words of a category; the rarer ones of more share one.

        Raises:
            InputError: no column is left.
        """
        learned: list[Number | Category] = []
        notes: dict[str, list[str]] = {}
        for column in columns:
            made = _category(column, most, notes) if column.kind == "category" else _number(column, scale)
            if made is None:
                empty = "empty" if _missing(column) == len(column) else "constant"
                notes.setdefault(f"of one value in all train rows ({empty}), left out", []).append(column.name)
            else:
                learned.append(made)
        said = tuple(f"columns {what}: {', '.join(names)}" for what, names in notes.items())
        if not learned:
            raise InputError(
                f"no column of the table tells rows apart ({'; '.join(said) or 'there is none but the label'}): add one"
            )
        return cls(tuple(learned)), said

    @property
    def width(self) -> int:
        """D."""
        return sum(column.width for column in self.columns)

    @property
    def row_bytes(self) -> int:
        """What a real row costs as it is stored, without its label: the bits of its columns, in whole bytes."""
        return -(-sum(column.bits for column in self.columns) // 8)

    def rows(self, columns: Sequence[Column]) -> Tensor:
        """(N, D) float32 of columns by name."""
        of = {column.name: column for column in columns}
        places = [learned.encode(of[learned.name]) for learned in self.columns]
        return torch.from_numpy(np.concatenate(places, 1).astype(np.float32))

    def unseen(self, columns: Sequence[Column]) -> tuple[str, ...]:
        """What other rows have that the train rows have not, a sentence a column."""
        of, said = {column.name: column for column in columns}, []
        for learned in self.columns:
            column = of[learned.name]
            gone = _missing(column)
            if isinstance(learned, Category):
                no_place = int((learned.codes(column) < 0).sum()) - (0 if learned.missing else gone)
                if no_place:
                    said.append(
                        f"{no_place} test cells of column {learned.name!r} are of categories without train rows"
                    )
            if gone and not learned.missing:
                said.append(f"{gone} test cells of column {learned.name!r} are missing, and no train cell is")
        return tuple(said)

    def decoded(self, rows: Tensor) -> dict[str, list[Any]]:
        """A table of rows (N, D), learned ones too: each category the nearest word, whole numbers rounded.

        Raises:
            InputError: rows of another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise InputError(
                f"rows of shape {tuple(rows.shape)} are not of this table, whose rows have {self.width} places: give the "
                "encoding that they were made with"
            )
        places, at, table = rows.detach().cpu().double().numpy(), 0, {}
        for column in self.columns:
            table[column.name] = column.decode(places[:, at : at + column.width])
            at += column.width
        return table

    def as_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` reads."""
        return {"columns": [{"what": type(column).__name__.lower(), **asdict(column)} for column in self.columns]}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Encoding:
        """What ``as_json`` wrote.

        Raises:
            InputError: it is not that.
        """
        made: list[Number | Category] = []
        try:
            for column in said["columns"]:
                of = {"number": Number, "category": Category}[column["what"]]
                made.append(of(**{name: value for name, value in column.items() if name != "what"}))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is no encoding of a table ({error}): restore encoding.json") from error
        return cls(tuple(made))


def _missing(column: Column) -> int:
    return int(column.values.null_count if column.kind == "category" else np.isnan(column.values).sum())


def _number(column: Column, scale: Scale) -> Number | None:
    known = column.values[~np.isnan(column.values)]
    gone = len(column) - len(known)
    if not len(known) or (known.min() == known.max() and not gone):
        return None
    deviation = float(known.std())
    made = Number(column.name, column.kind, float(known.mean()), deviation or 1.0, gone > 0, column.whole)
    if scale == "quantile" and column.kind != "flag" and known.min() < known.max():
        return evolve(made, knots=np.quantile(known, np.linspace(0, 1, min(KNOTS, len(known)))).tolist())
    return made


def _category(column: Column, most: int, notes: dict[str, list[str]]) -> Category | None:
    counts = {each["values"]: each["counts"] for each in compute.value_counts(column.values).to_pylist()}
    gone = counts.pop(None, 0)
    if not counts or (len(counts) == 1 and not gone):
        return None
    kept = sorted(counts, key=lambda word: (-counts[word], word))
    other = len(kept) > most
    if other:
        kept = kept[: most - 1]
        notes.setdefault(f"of more than {most} categories, the rarer of which count as one", []).append(
            f"{column.name} ({len(counts):,})"
        )
    return Category(column.name, tuple(sorted(kept)), other, gone > 0)
