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
from collections.abc import Iterable, Mapping, Sequence

import attrs
from attrs import field, frozen

from ddcore.data import layout
from ddcore.data.columns import Labelling, classes_of, name_of, one_hot_columns
from ddcore.data.part_names import TRAIN, part_of, stem, visible, words
from ddcore.data.parts import Loaded, Wanted, into_source, labelled
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
MOST_OF = 0.5
"""Share of its lines whose pictures are there, from which on a table is of pictures."""


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
        files = _with_end(place.files(), pictures)
        tables = _with_end(place.names(), TABLES)
        if (source := beside(wanted, place, files)) is None:
            held = ", ".join(sorted(tables)[:5]) or "none"
            due = "give one with a column of file names and a column 'label'"
            raise InputError(f"no table of {place.url} names pictures beside it (tables: {held}): {due}")
        return source
    known = _Pictures(place.parent, _with_end(place.parent.files(), pictures))
    listed = _listed(_table(place, known), known)
    if listed is None:
        seen = ", ".join(_table(place, known).columns) or "none"
        way_out = "put it beside them, or write their paths relative to it"
        raise InputError(f"no column of {place.url} ({seen}) names pictures of {known.root.url}: {way_out}")
    return _source(wanted, known, {"": listed})


def _with_end(names: Iterable[str], ends: Sequence[str]) -> list[str]:
    return [name for name in visible(names) if name.lower().endswith(tuple(ends))]


def names_pictures(place: Place, pictures: Sequence[str]) -> bool:
    """Whether a table names pictures that lie beside it; of a folder, whether a table in it does.

    Args:
        pictures: ends of file names that count as pictures.
    """
    folder = place if place.is_folder() else place.parent
    tables = [place] if folder is not place else [place / name for name in _tables(place)]
    known = _Pictures(folder, _with_end(folder.files(), pictures) if tables else ())
    tried = [_try(table, known)[0] for table in tables if known.paths]
    return any(listed is not None and listed.share >= MOST_OF and bool(_others(listed)) for listed in tried)


def _tables(place: Place) -> list[str]:
    names = sorted(_with_end(place.names(), TABLES))
    return [name for name in names if "submission" not in name.lower()]


def beside(wanted: Wanted, place: Place, files: Sequence[str], *, in_classes: bool = False) -> Source | None:
    """The pictures of a folder by a table in it; None if no table names them.

    Args:
        files: paths of the pictures, relative to ``place``.
        in_classes: whether they lie in a folder for each class: then a table is only looked at to see that it agrees.

    Raises:
        InputError: several tables name the pictures, or one says other classes than their folders.
    """
    names = _tables(place)
    known = _Pictures(place, files)
    if in_classes:
        for name in names:
            if part_of(stem(name)) == TRAIN or {"labels", "label"}.intersection(words(stem(name))):
                _refuse_other_classes(wanted, _try(place / name, known)[0])
        return None
    tried = {name: _try(place / name, known) for name in names}
    found = {
        name: listed for name, (listed, _) in tried.items() if listed and listed.share >= MOST_OF and _others(listed)
    }
    if (parts := _of_parts(wanted, found)) is not None:
        return _source(wanted, known, *parts)
    chosen = [name for name in found if words(stem(name)) == ("labels",)] or _most(found)
    if len(chosen) > 1:
        raise InputError(f"{place.url} has several tables of its pictures, {', '.join(chosen)}: name one, csv:PATH")
    errors = [error for _, error in tried.values() if error]
    if errors and not chosen:
        raise errors[0]
    return _source(wanted, known, {"": found[chosen[0]]}) if chosen else None


def _of_parts(wanted: Wanted, found: Mapping[str, Listed]) -> tuple[dict[str, Listed], dict[str, str]] | None:
    """The tables of the parts to read, and the names that ``--split`` takes all by; None where no table is a part's.

    Raises:
        InputError: one part has several tables, or the train part none.
    """
    stems = {name: stem(name) or name for name in found}
    spoken = layout.told(wanted.named, {*stems.values()})
    tables = {part: [name for name in found if stems[name] in fitting] for part, fitting in spoken.items()}
    train = wanted.named[0] if wanted.named else TRAIN
    if train in tables:
        others = _others(found[tables[train][0]])
        due = {_label_column(others)} - {None} or {*others}
        tables = {part: [n for n in of if due <= {*found[n].table.columns}] for part, of in tables.items()}
        tables = {part: of for part, of in tables.items() if of}
    elif not tables or {*found} != {name for of in tables.values() for name in of}:
        return None
    for part, of in tables.items():
        if len(of) > 1:
            ways = "name one, csv:PATH, or say which by --split TRAIN:TEST"
            raise InputError(f"{wanted.shown} has several tables of its {part} part, {', '.join(of)}: {ways}")
    there = {part: stems[of[0]] for part, of in tables.items()}
    one = next(iter(found.values())).table.place.url
    alone = "" if train in tables else f"add its table, or give one alone to be cut, csv:{one} --split 0.8"
    return {part: found[tables[part][0]] for part in layout.chosen(wanted, there, alone)}, there


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


def _source(
    wanted: Wanted, known: _Pictures, tables: Mapping[str, Listed], there: Mapping[str, str] | None = None
) -> Source:
    if len(tables) == 1 and (parts := _by_column(wanted, next(iter(tables.values())))):
        tables, there = parts
    loaded = {part: _loaded(known, listed, wanted) for part, listed in tables.items()}
    named = {name for listed in tables.values() for name in listed.found}
    if left := len(set(known.paths) - named):
        note = f"{left} of {len(known.paths)} pictures are in no table that was read: left out"
        first = next(iter(loaded))
        loaded[first] = attrs.evolve(loaded[first], notes=(*loaded[first].notes, note))
    return into_source(wanted, loaded, there)


def _by_column(wanted: Wanted, listed: Listed) -> tuple[dict[str, Listed], dict[str, str]] | None:
    """The lines of each part by a column that says it, and all parts with the names that ``--split`` takes them by.

    Raises:
        InputError: the lines of a part are called by several names.
    """
    columns = listed.table.columns
    column = next((name for name in columns if _plain(name) in SPLIT_NAMES and name != listed.column), None)
    cells = [cell.strip() for cell in columns[column]] if column else []
    told = layout.told(wanted.named, {*cells})
    if (wanted.named[0] if wanted.named else TRAIN) not in told:
        return None
    for part, names in told.items():
        if len({words(name) for name in names}) > 1:
            what = f"column {column!r} of {listed.table.place.url} has several names of the {part} part"
            raise InputError(f"{what}, {', '.join(names)}: say which by --split TRAIN:TEST")
    there = {part: names[0] for part, names in told.items()}
    parts = layout.chosen(wanted, there)
    return {part: _lines(listed, [cell in told[part] for cell in cells]) for part in parts}, there


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
    broken: dict[int, str] = {}
    images = stack(encoded, len(names), lambda at: (known.root / names[at]).url, wanted.resize, broken=broken)
    part = labelled(images, found.of_rows([row for at, row in enumerate(rows) if at not in broken]))
    lost = tuple((names[at], why) for at, why in broken.items())
    return attrs.evolve(part, broken=lost, notes=(*notes, *part.notes))


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
    folders = sorted(known.folders, key=lambda folder: (not _goes_with(table, folder), folder != "", folder))
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


def _goes_with(table: Table, folder: str) -> bool:
    """Whether a folder is called as a table, or as the part that it is of."""
    name, pieces = stem(table.place.name), folder.split("/")
    part = part_of(name)
    return words(name) in map(words, pieces) or (part is not None and part in map(part_of, pieces))


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


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())
