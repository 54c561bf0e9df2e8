"""Pictures in a folder whose labels stand in a table beside them: a line a picture, its file's name and its label.

The column of files is the one whose cells name pictures that are there, with or without their ending, in the table's
folder or in one below it. A table ``train.csv`` goes with files of ``train/``. Labels stand in the column ``label`` (or
another usual name), in the only other column, or in one column of zeros and ones for each class. A column ``split``
says each line's part.
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Mapping, Sequence

import attrs
import torch
from attrs import field, frozen

from ddcore.data.columns import Labelling, classes_of, name_of, one_hot_columns
from ddcore.data.parts import TEST, TRAIN, Loaded, Wanted, into_source, labelled
from ddcore.data.source import Source
from ddcore.errors import InputError, in_short
from ddcore.images.pictures import stack
from ddcore.storage.places import Place

TABLES = (".csv", ".tsv")
LABEL_NAMES = (
    *("label", "labels", "fine_label", "class", "target", "category", "classname", "labelname", "classid", "labelid"),
    *("species", "breed", "y"),
)
"""Names of the label column, of two that are there the earlier; capitals, spaces and ``_`` do not count."""
SPLIT_NAMES = ("split", "set", "subset", "part", "partition")
MOST_BYTES = 2**28
FOLDERS = 200
"""Folders of pictures that are tried as the one that file names are relative to."""
PROBED = 50


@frozen
class Table:
    """A table and what its columns hold, as text."""

    place: Place
    columns: Mapping[str, Sequence[str]]

    @property
    def lines(self) -> int:
        """Without the header."""
        return len(next(iter(self.columns.values()), ()))


@frozen
class Listed:
    """A table whose lines name pictures.

    Attributes:
        column: the column of files.
        found: the picture of each line, relative to the root; None: not there.
    """

    table: Table
    column: str
    found: Sequence[str | None]

    @property
    def share(self) -> float:
        """Of lines whose picture is there."""
        return sum(name is not None for name in self.found) / max(1, len(self.found))


@frozen
class _Pictures:
    """The pictures below a folder, by their path and by their path without its ending."""

    root: Place
    paths: Sequence[str]
    by_path: Mapping[str, str] = field(init=False)
    by_stem: Mapping[str, str] = field(init=False)
    folders: Sequence[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "by_path", {path: path for path in self.paths})
        object.__setattr__(self, "by_stem", {posixpath.splitext(path)[0]: path for path in self.paths})
        object.__setattr__(self, "folders", sorted({posixpath.dirname(path) for path in self.paths} | {""})[:FOLDERS])

    def find(self, folder: str, cell: str) -> str | None:
        path = posixpath.normpath(posixpath.join(folder, cell.strip().replace("\\", "/"))) if cell.strip() else ""
        return self.by_path.get(path) or self.by_stem.get(path)


def read_csv(wanted: Wanted, pictures: Sequence[str]) -> Source:
    """``csv:PATH``, a table of file names and labels, or a folder with such tables.

    Args:
        pictures: ends of file names that count as pictures.
    """
    place = wanted.place()
    if place.is_folder():
        files = [name for name in place.files() if name.lower().endswith(tuple(pictures))]
        tables = [name for name in place.names() if name.lower().endswith(TABLES)]
        if (source := beside(wanted, place, files)) is None:
            held = ", ".join(sorted(tables)[:5]) or "none"
            due = "give one with a column of file names and a column 'label'"
            raise InputError(f"no table of {place.url} names pictures beside it (tables: {held}): {due}")
        return source
    files = [name for name in place.parent.files() if name.lower().endswith(tuple(pictures))]
    known = _Pictures(place.parent, files)
    listed = _listed(_table(place, known), known)
    if listed is None:
        seen = ", ".join(_table(place, known).columns) or "none"
        way_out = "put it beside them, or write their paths relative to it"
        raise InputError(f"no column of {place.url} ({seen}) names pictures of {known.root.url}: {way_out}")
    return _source(wanted, known, {"": listed})


def beside(wanted: Wanted, place: Place, files: Sequence[str], *, in_classes: bool = False) -> Source | None:
    """The pictures of a folder by a table in it; None if no table names them.

    Args:
        files: paths of the pictures, relative to ``place``.
        in_classes: whether they lie in a folder for each class: then a table is only looked at to see that it agrees.

    Raises:
        InputError: several tables name the pictures, or one says other classes than their folders.
    """
    names = sorted(name for name in place.names() if name.lower().endswith(TABLES) and name[0] != ".")
    names = [name for name in names if "submission" not in name.lower()]
    known = _Pictures(place, files)
    if in_classes:
        for name in names:
            if {"labels", "label", TRAIN}.intersection(_words(name)):
                _refuse_other_classes(wanted, _try(place / name, known)[0])
        return None
    tried = {name: _try(place / name, known) for name in names}
    found = {name: listed for name, (listed, _) in tried.items() if listed and listed.share >= 0.5 and _others(listed)}
    train, *tests = wanted.named or (TRAIN, *TEST)
    of_parts = {part: name for part in (train, *tests) for name in reversed(names) if part in _words(name)}
    if (first := of_parts.get(train)) in found:
        due = {_label_column(_others(found[first]))} - {None} or {*_others(found[first])}
        fit = {part: found[name] for part, name in of_parts.items() if name in found}
        fit = {part: listed for part, listed in fit.items() if due <= {*listed.table.columns}}
        return _source(wanted, known, {part: fit[part] for part in wanted.parts(fit)}, [*fit])
    chosen = [name for name in found if _words(name) == ["labels"]] or _most(found)
    if len(chosen) > 1:
        raise InputError(f"{place.url} has several tables of its pictures, {', '.join(chosen)}: name one, csv:PATH")
    errors = [error for _, error in tried.values() if error]
    if errors and not chosen:
        raise errors[0]
    return _source(wanted, known, {"": found[chosen[0]]}) if chosen else None


def _most(found: Mapping[str, Listed]) -> list[str]:
    """The tables that name as many pictures as any."""
    counts = {name: len({*listed.found}) for name, listed in found.items()}
    return [name for name, count in counts.items() if count == max(counts.values())]


def _try(place: Place, known: _Pictures) -> tuple[Listed | None, InputError | None]:
    """A table that may be of something else than pictures, or damaged."""
    try:
        return _listed(_table(place, known), known), None
    except InputError as error:
        return None, error


def _source(wanted: Wanted, known: _Pictures, tables: Mapping[str, Listed], there: Sequence[str] = ()) -> Source:
    if len(tables) == 1 and (parts := _by_column(wanted, next(iter(tables.values())))):
        tables, there = parts
    loaded = {part: _loaded(known, listed, wanted) for part, listed in tables.items()}
    named = {name for listed in tables.values() for name in listed.found}
    if left := len(set(known.paths) - named):
        note = f"{left} of {len(known.paths)} pictures are in no table that was read: left out"
        first = next(iter(loaded))
        loaded[first] = attrs.evolve(loaded[first], notes=(*loaded[first].notes, note))
    return into_source(wanted, loaded, there)


def _by_column(wanted: Wanted, listed: Listed) -> tuple[dict[str, Listed], list[str]] | None:
    """The lines of each part by a column that says it, and the parts there are."""
    columns = listed.table.columns
    column = next((name for name in columns if _plain(name) in SPLIT_NAMES and name != listed.column), None)
    cells = [cell.strip() for cell in columns[column]] if column else []
    train = wanted.named[0] if wanted.named else TRAIN
    if train not in cells:
        return None
    parts = wanted.parts({*cells})
    return {part: _lines(listed, [cell == part for cell in cells]) for part in parts}, sorted({*cells})


def _lines(listed: Listed, chosen: Sequence[bool]) -> Listed:
    def those(cells: Sequence[object]) -> list:
        return [cell for cell, wanted in zip(cells, chosen, strict=True) if wanted]

    columns = {name: those(cells) for name, cells in listed.table.columns.items()}
    return attrs.evolve(listed, table=attrs.evolve(listed.table, columns=columns), found=those(listed.found))


def _loaded(known: _Pictures, listed: Listed, wanted: Wanted) -> Loaded:
    """The pictures that a table names, in its order, each once."""
    table = listed.table
    absent = [at for at, name in enumerate(listed.found) if name is None]
    if absent:
        cell = table.columns[listed.column][absent[0]]
        what = f"{len(absent)} of {table.lines} pictures that {table.place.url} names are not there"
        raise InputError(f"{what}, first {cell!r}: put them there or drop their lines")
    found = _labels(listed)
    rows, notes = _once(listed, found)
    names = [str(listed.found[at]) for at in rows]
    encoded = ((known.root / name).read_bytes() for name in names)
    images = stack(encoded, len(names), lambda at: (known.root / names[at]).url, wanted.resize)
    position = torch.cumsum(found.labelled, 0) - 1
    kept = torch.tensor([at for at in rows if found.labelled[at]], dtype=torch.int64)
    once = attrs.evolve(found, numbers=found.numbers[position[kept]], labelled=found.labelled[torch.tensor(rows)])
    part = labelled(images, once)
    return attrs.evolve(part, notes=(*notes, *part.notes))


def _once(listed: Listed, found: Labelling) -> tuple[list[int], list[str]]:
    """The lines that name a picture first, and what is said of the others.

    Raises:
        InputError: a picture has two labels.
    """
    numbers = iter(found.numbers.tolist())
    first: dict[str | None, int] = {}
    labels: dict[str | None, int | None] = {}
    for at, (name, has) in enumerate(zip(listed.found, found.labelled.tolist(), strict=True)):
        number = next(numbers) if has else None
        first.setdefault(name, at)
        if labels.setdefault(name, number) != number:
            where = f"{name} has two labels in {listed.table.place.url}"
            raise InputError(f"{where}, line {at + 2} and one before it: a picture has to have one class")
    again = listed.table.lines - len(first)
    return [*first.values()], [f"{again} lines name a picture once more and were left out"] if again else []


def _labels(listed: Listed) -> Labelling:
    """The classes of a table's lines."""
    table = listed.table
    others = _others(listed)
    column = _label_column(others)
    where = f"the labels in column {column!r} of {table.place.url}"
    if column is not None:
        return classes_of(table.columns[column], where)
    hot = one_hot_columns({name: table.columns[name] for name in others})
    if hot is None:
        seen = f"columns {', '.join(others)}" if others else "no column"
        way_out = "name the column of the labels 'label'"
        raise InputError(f"{table.place.url} has {seen} besides {listed.column!r}: {way_out}")
    return hot


def _others(listed: Listed) -> list[str]:
    """Columns that may be labels: not those of files, parts or line numbers."""
    idle = {listed.column, "", "Unnamed: 0"}
    return [name for name in listed.table.columns if name not in idle and _plain(name) not in SPLIT_NAMES]


def _label_column(others: Sequence[str]) -> str | None:
    return _usual(others) or (others[0] if len(others) == 1 else None)


def _usual(others: Sequence[str]) -> str | None:
    plain = {_plain(name): name for name in reversed(others)}
    return next((plain[name] for name in LABEL_NAMES if name in plain), None)


def _listed(table: Table, known: _Pictures) -> Listed | None:
    """The table with the column, and the folder its cells are relative to, that name most pictures."""
    stem = table.place.name.rpartition(".")[0].lower()
    folders = sorted(known.folders, key=lambda folder: (stem not in _words(folder), folder != "", folder))
    best: tuple[int, int, int] = (0, 0, 0)
    chosen = None
    for column, cells in table.columns.items():
        few = list(dict.fromkeys(cells))[:PROBED]
        for number, folder in enumerate(folders):
            if not any(known.find(folder, cell) for cell in few):
                continue
            found = [known.find(folder, cell) for cell in cells]
            score = (sum(name is not None for name in found), len({*cells}), -number)
            if score > best:
                best, chosen = score, Listed(table, column, found)
    return chosen


def _table(place: Place, known: _Pictures) -> Table:
    """A table's columns as text; without a header, which then names a picture, they are called column 1 and so on.

    Raises:
        InputError: it is too long, no UTF-8, or its lines differ in length.
    """
    data = place.read_bytes(0, MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InputError(f"{place.url} is longer than {MOST_BYTES:,} bytes: divide it")
    try:
        text = data.decode("utf-8-sig")
        head = text.partition("\n")[0]
        mark = "\t" if place.name.lower().endswith(".tsv") else max(",;\t", key=head.count)
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{place.url} is no table in UTF-8 ({in_short(error)}): write it again") from error
    if not rows:
        return Table(place, {})
    header, lines = rows[0], rows[1:]
    if any(known.find(folder, cell) for cell in header for folder in known.folders):
        header, lines = [f"column {at + 1}" for at in range(len(header))], rows
    odd = next((at for at, row in enumerate(lines) if len(row) != len(header)), None)
    if odd is not None:
        what = f"line {odd + 1 + len(rows) - len(lines)} of {place.url} has {len(lines[odd])} cells"
        raise InputError(f"{what} where the first has {len(header)}: repair it")
    named = [name.strip() for name in header]
    return Table(place, dict(zip(named, map(list, zip(*lines, strict=True)), strict=True)) if lines else {})


def _refuse_other_classes(wanted: Wanted, listed: Listed | None) -> None:
    """A table of labels beside class folders has to say the same classes as they do, by whatever names."""
    column = _usual(_others(listed)) if listed else None
    if listed is None or column is None:
        return
    named = zip(listed.found, listed.table.columns[column], strict=True)
    pairs = {(posixpath.dirname(name).rpartition("/")[2], name_of(cell)) for name, cell in named if name}
    if len({folder for folder, _ in pairs}) == len(pairs) == len({label for _, label in pairs}):
        return
    what = f"{wanted.shown} has a folder of pictures for each class, and {listed.table.place.name} says other classes"
    raise InputError(f"{what}: give csv:{wanted.rest} to take the table's, or move the table away")


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", re.sub(r"\.\w+$", "", name).lower()) if word]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())
