"""Tables as data of a run: which files, which rows train and test, which column is the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow
import torch
from attrs import field, frozen
from pyarrow import compute
from torch import Tensor

from ddcore import InputError, randomness
from ddcore.data import Source, Split, Wanted, classes_of, part_of, visible
from ddcore.errors import OptionError, near
from ddcore.storage import Place
from ddcore_tabular.columns import ENDINGS, Column, as_column, kind_of, plain, read_table
from ddcore_tabular.encoding import Encoding, Scale

TABLE = "table"
LABELS = ("label", "class", "target", "y")
"""Names that a column of labels has, in any case."""
SPLITS = ("split", "part", "subset")
"""Names that a column may have which says whether a row is for training."""
SHARE = 0.8
"""Of the rows of each class that train, where nobody says."""
SHOWN = 20
"""Names of columns in a sentence."""


@frozen(kw_only=True)
class Reading:
    """What the pack's options say about tables; see ``Tabular``."""

    label: str = ""
    test: str = ""
    categories: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    scale: Scale = "standard"
    most: int = 64


@frozen(eq=False, kw_only=True)
class TableSource(Source):
    """A data set of table rows, encoded.

    Attributes:
        encoding: what its numbers stand for; learned from the train rows.
        label: the name of the column of labels.
    """

    modality: str = TABLE
    dense: bool = True
    mirror_symmetric: bool = False
    encoding: Encoding = field(kw_only=True)
    label: str = "label"

    def summary(self) -> dict[str, Any]:
        """The usual facts, and the columns in words."""
        said = super().summary()
        about = {"label": self.label, "columns": [column.words for column in self.encoding.columns]}
        return {name: value for name, value in said.items() if name not in ("mean", "std")} | about


def read(wanted: Wanted, reading: Reading) -> TableSource:
    """``table:PATH``: a file, a folder with a file for each part, or the name of a built-in table.

    Raises:
        InputError: nothing there, or no table; no column of labels; parts that do not fit; nothing to learn from.
    """
    from ddcore_tabular.builtin import BUILTIN, builtin

    if wanted.rest in BUILTIN and wanted.found() is None:
        return from_tables(wanted, reading, {"": builtin(wanted.rest)}, text=False, name=wanted.rest)
    place = wanted.place()
    skipped: list[str] | None = [] if wanted.skip_broken else None
    files = _files(place, wanted, reading)
    tables = {part: read_table(file, skipped) for part, file in files.items()}
    notes = [f"{part} rows from {file.name}" for part, file in files.items() if part]
    text = all(not file.name.lower().endswith(".parquet") for file in files.values())
    stem = place.name if place.is_folder() else place.name.rpartition(".")[0]
    return from_tables(wanted, reading, tables, text=text, name=stem, notes=(*notes, *(skipped or ())))


def _files(place: Place, wanted: Wanted, reading: Reading) -> dict[str, Place]:
    """The files of ``train`` and ``test``, or the only one as ``""``."""
    if not place.is_folder():
        if not reading.test:
            return {"": place}
        other = Place.at(reading.test)
        if not other.exists():
            raise InputError(f"{other.nothing_there}: check --tabular.test")
        return {"train": place, "test": other}
    if reading.test:
        raise OptionError(f"--tabular.test goes with one train file, and {place.url} is a folder: give table:FILE")
    files = {n.rpartition(".")[0]: n for n in visible(place.names()) if n.lower().endswith(ENDINGS)}
    if len(files) == 1 and wanted.named is None:
        return {"": place / next(iter(files.values()))}
    train, *tests = wanted.named or ("train", "test", "validation")
    found: dict[str, Place] = {}
    for part, names in (("train", [train]), ("test", tests)):
        for name in names:
            fitting = [s for s in files if s == name or (wanted.named is None and part_of(s) == name)]
            if len(fitting) > 1:
                several = ", ".join(sorted(files[stem] for stem in fitting))
                raise InputError(f"{place.url} has several {part} tables, {several}: say which by --split TRAIN:TEST")
            if fitting:
                found.setdefault(part, place / files[fitting[0]])
    if len(found) < 2:
        raise InputError(
            f"{place.url} has no {' and '.join(p for p in ('train', 'test') if p not in found)} table among "
            f"{_listed(sorted(files.values()))}: name the two by --split TRAIN:TEST, or give one file, table:FILE"
        )
    if wanted.share is not None:
        raise OptionError(f"--split {wanted.split} cuts one table, and {place.url} has two parts: leave it out")
    return found


def from_tables(
    wanted: Wanted,
    reading: Reading,
    tables: Mapping[str, Any],
    *,
    text: bool,
    name: str,
    notes: Sequence[str] = (),
) -> TableSource:
    """A source of one arrow table, which is cut, or of two.

    Args:
        text: whether words in it may be numbers, as in a CSV file.
    """
    tables, said = _by_column(tables, wanted)
    if wanted.share is not None and len(tables) > 1:
        raise OptionError(f"--split {wanted.split} cuts one table, and {wanted.shown} has two parts: leave it out")
    first = next(iter(tables.values()))
    label = label_of(first.column_names, reading.label, wanted.shown)
    words = {part: _label_words(table, label, part, wanted) for part, table in tables.items()}
    found = classes_of([word for of in words.values() for word in of], f"the labels in column {label!r}")
    if len(found.names or ()) < 2:
        seen = f"one label only, {found.names[0]!r}" if found.names else "no labels"
        raise InputError(f"column {label!r} of {wanted.shown} has {seen}: name another by --tabular.label")
    numbers, at, labelled = iter(found.numbers.tolist()), 0, {}
    for part, of in words.items():
        kept = found.labelled[at : at + len(of)]
        labelled[part] = (kept, torch.tensor([next(numbers) for _ in range(int(kept.sum()))], dtype=torch.int64))
        at += len(of)
    rows = {p: table.filter(pyarrow.array(labelled[p][0].tolist())) for p, table in tables.items()}
    labels = {part: of for part, (_, of) in labelled.items()}
    classes = found.names or ()
    if len(tables) == 1:
        rows, labels, how = _cut(rows[""], labels[""], classes, wanted)
        said = [*said, how]
    _check_classes(labels, classes, wanted)
    return _encoded(
        wanted, reading, rows, labels, classes, label=label, text=text, name=name, notes=(*notes, *said, *found.notes)
    )


def _encoded(
    wanted: Wanted,
    reading: Reading,
    rows: Mapping[str, Any],
    labels: Mapping[str, Tensor],
    classes: tuple[str, ...],
    **named: Any,
) -> TableSource:
    train, test, read_as = features(rows["train"], rows["test"], reading, named["label"], wanted, text=named["text"])
    encoding, done = Encoding.of(train, scale=reading.scale, most=reading.most)
    notes = (*named["notes"], *read_as, *done, *encoding.unseen(test))
    parts = [Split(encoding.rows(columns), labels[part]) for part, columns in (("train", train), ("test", test))]
    return TableSource(
        name=named["name"],
        train=parts[0],
        test=parts[1],
        classes=classes,
        row_bytes=encoding.row_bytes,
        mean=(0.0,) * encoding.width,
        std=(1.0,) * encoding.width,
        origin=wanted.shown,
        notes=notes,
        encoding=encoding,
        label=named["label"],
    )


def _by_column(tables: Mapping[str, Any], wanted: Wanted) -> tuple[Mapping[str, Any], list[str]]:
    """Train and test rows of one table that has a column which says so, without it; others as they are."""
    if set(tables) != {""}:
        return tables, []
    table = tables[""]
    for column in table.column_names:
        if column.lower() not in SPLITS:
            continue
        words = compute.utf8_trim_whitespace(compute.cast(table[column], pyarrow.string()))
        there = [word for word in compute.unique(words).to_pylist() if word]
        train, test = wanted.named or (
            next((w for w in there if part_of(w) == "train"), ""),
            next((w for name in ("test", "validation") for w in there if part_of(w) == name), ""),
        )
        if train in there and test in there:
            of = {part: table.filter(compute.equal(words, word)) for part, word in (("train", train), ("test", test))}
            rest = table.num_rows - sum(part.num_rows for part in of.values())
            left = f"; {rest} other rows are left out" if rest else ""
            said = f"column {column!r} says which rows train ({train}) and test ({test}){left}"
            return {part: rows.drop_columns([column]) for part, rows in of.items()}, [said]
    if wanted.named:
        raise InputError(
            f"{wanted.shown} is one table, and no column {', '.join(SPLITS)} of it has the words {' and '.join(wanted.named)}: "
            "give --split a share such as 0.8, or a second file by --tabular.test"
        )
    return tables, []


def label_of(columns: Sequence[str], wanted: str, where: str) -> str:
    """Which column has the labels: the one named, else the only one called like ``LABELS``.

    >>> label_of(["age", "Class"], "", "x.csv"), label_of(["age", "label"], "age", "x.csv")
    ('Class', 'age')

    Raises:
        InputError: there is none, or there are several.
    """
    if wanted:
        if wanted not in columns:
            raise InputError(f"{where} has no column {wanted!r} (--tabular.label): {near(wanted, columns)}")
        return wanted
    found = [column for column in columns if column.strip().lower() in LABELS]
    if len(found) == 1:
        return found[0]
    what = f"several columns that may be the label, {_listed(found)}" if found else "no column of labels"
    raise InputError(f"{where} has {what}: name it by --tabular.label, one of {_listed(columns)}")


def _label_words(table: Any, label: str, part: str, wanted: Wanted) -> list[Any]:
    if label not in table.column_names:
        raise InputError(f"the {part} table of {wanted.shown} has no column {label!r}: name it there as in train")
    cells = plain(table[label], label, wanted.shown)
    return [None if cell is None else str(cell) for cell in cells.to_pylist()]


def features(
    train: Any, test: Any, reading: Reading, label: str, wanted: Wanted, *, text: bool
) -> tuple[list[Column], list[Column], list[str]]:
    """The columns of both parts but the label and those dropped, of the kinds that the train part's have, and notes.

    Raises:
        InputError: a column of train is missing in test; an option names a column that there is not.
    """
    for option, given in (("drop", reading.drop), ("categorical", reading.categories)):
        for name in given:
            if name not in train.column_names:
                raise InputError(
                    f"{wanted.shown} has no column {name!r} (--tabular.{option}): {near(name, train.column_names)}"
                )
    names = [name for name in train.column_names if name != label and name not in reading.drop]
    if missing := [name for name in names if name not in test.column_names]:
        raise InputError(
            f"the test table of {wanted.shown} has no column {missing[0]!r}, which the train table has: add it, or leave it "
            "out by --tabular.drop"
        )
    notes: list[str] = []
    columns: dict[str, list[Column]] = {"train": [], "test": []}
    if more := [n for n in test.column_names if n not in train.column_names]:
        notes.append(f"columns of the test table alone, left out: {_listed(more)}")
    kinds = {}
    for name in names:
        cells = plain(train[name], name, wanted.shown)
        kinds[name] = "category" if name in reading.categories else kind_of(cells, text=text)
        columns["train"].append(as_column(cells, name, kinds[name]))
        columns["test"].append(as_column(plain(test[name], name, wanted.shown), name, kinds[name]))
    for part, of in columns.items():
        notes += [
            f"{c.odd} {part} cells of column {c.name!r} are no {c.kind}s, or not finite: taken for missing"
            for c in of
            if c.odd
        ]
    if dates := [name for name, kind in kinds.items() if kind == "date"]:
        notes.append(f"dates are taken as numbers, days since 1970: {_listed(dates)}")
    return columns["train"], columns["test"], notes


def _cut(
    table: Any, labels: Tensor, classes: tuple[str, ...], wanted: Wanted
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Of each class a share of the rows to train on, drawn once and for all: the same table is always cut alike."""
    share = SHARE if wanted.share is None else wanted.share
    trained = torch.zeros(len(labels), dtype=torch.bool)
    for cls, name in enumerate(classes):
        rows = (labels == cls).nonzero()[:, 0]
        if len(rows) < 2:
            raise InputError(
                f"class {name!r} of {wanted.shown} has one row, which cannot both train and test: drop it, add rows, or give "
                "a second file by --tabular.test"
            )
        order = torch.randperm(len(rows), generator=randomness.generator(0, "split", cls))
        trained[rows[order[: min(len(rows) - 1, max(1, round(share * len(rows))))]]] = True
    which = {"train": trained, "test": ~trained}
    tables = {part: table.filter(pyarrow.array(of.tolist())) for part, of in which.items()}
    said = f"{share:g} of the rows of each class train and the others test, drawn once and for all"
    return tables, {part: labels[of] for part, of in which.items()}, said


def _check_classes(labels: Mapping[str, Tensor], classes: tuple[str, ...], wanted: Wanted) -> None:
    there = set(labels["train"].tolist())
    if strange := [name for at, name in enumerate(classes) if at not in there]:
        raise InputError(
            f"the test rows of {wanted.shown} have classes without train rows ({_listed(strange)}): drop them or add train rows"
        )
    if not len(labels["test"]):
        raise InputError(f"{wanted.shown} has no test rows with a label: give others by --tabular.test")


def recognised(place: Place) -> str | None:
    """``table`` for a Parquet, CSV or TSV file, or a folder of them, with a column that is called like a label.

    Parquet files are looked into; those with pictures are not tables.
    """
    if place.is_folder():
        files = sorted(n for n in visible(place.names()) if n.lower().endswith(ENDINGS))
        return recognised(place / files[0]) if files else None
    if not place.name.lower().endswith((".csv", ".tsv")):
        return None
    head = place.read_bytes(0, 2**16).decode("utf-8-sig", errors="replace").partition("\n")[0]
    delimiter = "\t" if place.name.lower().endswith(".tsv") else max(",;\t", key=head.count)
    columns = [word.strip().strip('"').lower() for word in head.split(delimiter)]
    texts = {"sentence", "text", "smiles", "file", "file_name", "filename", "image", "path"}
    return TABLE if len(columns) > 2 and set(columns) & set(LABELS) and not set(columns) & texts else None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more if names else "none"
