"""Where the parts of a data set lie among folders and files.

A part is told by a word of a name, in any case: ``Training/``, ``cifar_test.parquet`` (see ``part_names``); names that
``--split TRAIN:TEST`` gives come before that. Shards of a part are added up; configurations and copies never are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from attrs import frozen

from ddcore.data.part_names import OF, TEST, TRAIN, listed, part_of, stem, without_parts, words
from ddcore.data.parts import Wanted, two_parts
from ddcore.errors import InputError, OptionError
from ddcore.storage.places import Place

Fits = Callable[[str, str], bool]


@frozen
class Part:
    """One part as it lies there.

    Attributes:
        name: by which ``--split`` takes it.
        files: relative to the folder of the data.
        notes: what a reader of results should know.
    """

    name: str
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


def chosen(wanted: Wanted, there: Mapping[str, str], way_out: str = "") -> tuple[str, ...]:
    """Which of the parts to read: train and test, train alone (to be cut), or none (one piece).

    Args:
        there: parts that were found, and the names that ``--split`` takes them by.
        way_out: what else to do about a missing part, where that is known.

    Raises:
        InputError: a part that was named or is needed is not there.
        OptionError: one part was named twice, or there are two and a share.
    """
    if wanted.named and wanted.named[0] == wanted.named[1]:
        raise OptionError(f"--split {wanted.split} would test on the train part: name two different parts")
    train, *tests = wanted.named or (TRAIN, *TEST)
    test = next((name for name in tests if name in there), None)
    if train in there and test is not None:
        if wanted.share is not None:
            raise two_parts(wanted, (there[train], there[test]))
        return train, test
    if wanted.named:
        missing = f"{train!r} and {test or tests[0]!r}"
        raise InputError(
            f"{wanted.shown} has no parts {missing}, but {listed(there.values())}: correct --split {wanted.split}"
        )
    if train in there:
        if wanted.share is None:
            raise InputError(
                f"{wanted.shown} has no test part: {way_out or f'add one ({listed(TEST)}) or give --split 0.8'}"
            )
        return (train,)
    if test is not None:
        alone = (
            f"add it, or give the test part alone to be cut, {wanted.name}:{_below(wanted, there[test])} --split 0.8"
        )
        raise InputError(f"{wanted.shown} has the test part {there[test]} and no train part: {way_out or alone}")
    return ()


# ---- files that hold many images each -------------------------------------------------------------------------------


def of_files(wanted: Wanted, files: Sequence[str]) -> tuple[dict[str, Part], dict[str, str]]:
    """Train and test among files that hold many images each, or one piece of name ``""``; and all parts that are there,
    with the names that ``--split`` takes them by.

    Raises:
        InputError: several configurations or copies of a part, which are not added up; no such parts.
        OptionError: see ``chosen``.
    """
    spoken = _named_files(wanted.named, files) if wanted.named else {file: _spoken(file) for file in files}
    found: dict[str, list[str]] = defaultdict(list)
    places: dict[str, int] = {}
    for file in files:
        if (told := spoken[file]) is not None:
            found[told[0]].append(file)
            places[file] = told[1]
    there = {part: part if wanted.named else _split_name(of[0], places[of[0]]) for part, of in found.items()}
    if wanted.named:
        there |= {_shown_name(file): _shown_name(file) for file in files if spoken[file] is None}
    others = [file for file in files if spoken[file] is None]
    parts = chosen(wanted, there, _way_out(there, others))
    if not parts:
        _refuse_several(wanted, "", files, {file: (_folder(file), without_parts(stem(file))) for file in files})
        return {"": Part("", tuple(files), _shards(wanted, files))}, there
    keys = {file: _key(file, places[file]) for part in parts for file in found[part]}
    for part in parts:
        _refuse_several(wanted, part, found[part], keys)
    homes = {part: keys[found[part][0]][0] for part in parts}
    if len({_starred(home) for home in homes.values()}) > 1:
        lie = " and ".join(f"{part} in {home or 'the folder itself'}" for part, home in homes.items())
        raise InputError(f"the parts of {wanted.shown} lie apart, {lie}: {_choices(wanted, list(homes.values()))}")
    return {part: Part(there[part], tuple(found[part]), _shards(wanted, found[part])) for part in parts}, there


def _spoken(file: str) -> tuple[str, int] | None:
    """The part that a file's path speaks of, the innermost word first, and in which piece of the path."""
    pieces = file.split("/")
    for at in range(len(pieces) - 1, -1, -1):
        name = stem(pieces[at]) if at == len(pieces) - 1 else pieces[at]
        if (part := part_of(name)) is not None:
            return part, at
    return None


def _named_files(named: Sequence[str], files: Sequence[str]) -> dict[str, tuple[str, int] | None]:
    """The same for parts that were named: by whole names, if no file has one, by their words."""
    spoken: dict[str, tuple[str, int] | None] = dict.fromkeys(files)
    for name in named:
        for fits in FITS:
            fitting = {file: at for file in files if (at := _where(file, name, fits)) is not None}
            if fitting:
                spoken |= {file: (name, at) for file, at in fitting.items() if spoken[file] is None}
                break
    return spoken


def _where(file: str, name: str, fits: Fits) -> int | None:
    pieces = file.split("/")
    names = [*pieces[:-1], stem(file) or pieces[-1]]
    return next((at for at in range(len(names) - 1, -1, -1) if fits(name, names[at])), None)


def _key(file: str, at: int) -> tuple[str, tuple[str, ...]]:
    """Where a part's file lies, and what its shards are called: shards of one part have the same."""
    pieces = file.split("/")
    below = "/".join(pieces[at + 1 : -1])
    inner = tuple(re.sub(r"\d+", "", below).split("/")) if below else ()
    name = without_parts(stem(file)) if at == len(pieces) - 1 else tuple(words(stem(file)))
    return "/".join(pieces[:at]), (*inner, *name)


def _starred(folder: str) -> tuple[tuple[str, ...], ...]:
    return tuple(map(without_parts, folder.split("/")))


def _folder(file: str) -> str:
    return file.rpartition("/")[0]


def _refuse_several(
    wanted: Wanted, part: str, files: Sequence[str], keys: Mapping[str, tuple[str, tuple[str, ...]]]
) -> None:
    """Refuse files of one part that are of several configurations, or copies."""
    if len({keys[file] for file in files}) < 2:
        return
    what = f"the {part} part more than once" if part else "several sets"
    homes = sorted({keys[file][0] for file in files})
    if len(homes) > 1:
        apart = ", ".join(f"{home}/" if home else "the folder itself" for home in homes[:5])
        more = f" and {len(homes) - 5} more" if len(homes) > 5 else ""
        raise InputError(
            f"{wanted.shown} holds {what}, in {apart}{more}, which are not added up: {_choices(wanted, homes)}"
        )
    first = {keys[file]: file for file in reversed(files)}
    names = sorted(_shown_name(file) for file in first.values())
    way_out = f"name the two parts to read, such as --split {names[0]}:{names[1] if not part else 'TEST'}"
    one = f"or give one file, {wanted.name}:{_below(wanted, min(first.values()))}"
    raise InputError(f"{wanted.shown} holds {what}, {listed(names)}, which are not added up: {way_out}, {one}")


def _choices(wanted: Wanted, folders: Iterable[str]) -> str:
    """The way out of several folders: one of them."""
    inner = [f"{wanted.name}:{_below(wanted, folder)}" for folder in sorted(set(folders)) if folder]
    ways = " or ".join(inner[:3]) or "one of them"
    return f"give one of them, {ways}" + (", or move away what is not meant" if len(inner) == 1 else "")


def _below(wanted: Wanted, name: str) -> str:
    """What to write for something below the folder of the data, without credentials."""
    return f"{Place(wanted.rest).url.rstrip('/')}/{name}"


def _shown_name(file: str) -> str:
    """By which ``--split`` takes a file."""
    return stem(file) or _folder(file).rpartition("/")[2] or file


def _split_name(file: str, at: int) -> str:
    """The piece of a file's path that speaks of its part."""
    pieces = file.split("/")
    return _shown_name(file) if at == len(pieces) - 1 else pieces[at]


def _way_out(there: Mapping[str, str], others: Sequence[str]) -> str:
    """What to give where one part alone is told by its name, and another lies beside it."""
    names = sorted({_shown_name(file) for file in others})
    if not names or len(there) != 1:
        return ""
    ((part, name),) = there.items()
    both = f"{name}:{names[0]}" if part == TRAIN else f"{names[0]}:{name}"
    return f"beside {name} lies {listed(names)}, say which is which, such as --split {both}"


def _shards(wanted: Wanted, files: Sequence[str]) -> tuple[str, ...]:
    """Notes on shards that are missing by their own numbers.

    Raises:
        InputError: shards of two ways to divide the same.
    """
    due = {file: found for file in files if (found := OF.search(file.rpartition("/")[2]))}
    counts = sorted({int(found[2]) for found in due.values()})
    if len(counts) > 1:
        both = f"{counts[0]} and into {counts[-1]} shards"
        raise InputError(
            f"{wanted.shown} holds the same part divided into {both}, {listed(due)}: move those of one away"
        )
    if counts and len(due) < counts[0]:
        return (f"{len(due)} of {counts[0]} shards are there: {listed(due)}",)
    return ()


# ---- names that were given -------------------------------------------------------------------------------------------


def _same(name: str, there: str) -> bool:
    return name == there


def _alike(name: str, there: str) -> bool:
    return words(name) == words(there)


def _among(name: str, there: str) -> bool:
    due, found = words(name), words(there)
    return bool(due) and any(found[at : at + len(due)] == due for at in range(len(found) - len(due) + 1))


FITS = (_same, _alike, _among)
"""How a name that was given fits one that is there: as it is, in other case or with other marks, by words in it."""


def speaks_of(name: str, there: str) -> bool:
    """Whether words of a part's name, as it was given, stand in a name that is there."""
    return _among(name, there)


# ---- class folders ---------------------------------------------------------------------------------------------------


def of_folders(wanted: Wanted, files: Sequence[str]) -> dict[str, tuple[str, Part]]:
    """Train and test among pictures in class folders: the folder of each part, and its pictures relative to that;
    or one piece of name ``""``.

    Raises:
        InputError: parts lie below several folders, or one part lies in several; no such parts.
        OptionError: see ``chosen``.
    """
    tops = _tops(files)
    root, found = _root(wanted, files)
    there = {part: names[0] for part, names in found.items()}
    if wanted.named:
        there |= {name: name for name in tops if name not in {n for names in found.values() for n in names}}
    flat = sorted(name for name in {f.partition("/")[0] for f in files if f.count("/") == 1} if part_of(name) in TEST)
    way_out = (
        f"{flat[0]} has no class folders, so give --split 0.8, or bring its pictures into class folders" if flat else ""
    )
    parts = chosen(wanted, there, way_out)
    for part in parts:
        if len(found[part]) > 1:
            names = ", ".join(found[part])
            raise InputError(
                f"{wanted.shown} has the {part} part more than once, {names}: say which, --split TRAIN:TEST"
            )
    if not parts:
        _refuse_parts(wanted, files, tops)
        return {"": ("", Part("", tuple(files)))}
    made = {}
    for part in parts:
        folder = f"{root}{found[part][0]}/"
        below = [name.removeprefix(folder) for name in files if name.startswith(folder)]
        while len(inner_folders := {name.partition("/")[0] for name in below}) == 1 and all(
            n.count("/") > 1 for n in below
        ):
            (inner,) = inner_folders
            if inner != found[part][0] and part_of(inner) != part:
                break
            folder, below = f"{folder}{inner}/", [name.removeprefix(f"{inner}/") for name in below]
        note = (f"its parts lie in {root.rstrip('/')}",) if root and part == parts[0] else ()
        made[part] = (folder.rstrip("/"), Part(found[part][0], tuple(below), note))
    return made


def _tops(files: Iterable[str]) -> dict[str, set[str]]:
    """Folders that hold folders of pictures, with the names of those."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in files:
        pieces = file.split("/")
        if len(pieces) > 2:
            found[pieces[0]].add(pieces[1])
    return dict(found)


def _root(wanted: Wanted, files: Sequence[str]) -> tuple[str, dict[str, list[str]]]:
    """The folder in which the parts lie, ``""`` or with a slash at its end, and the names of each part in it."""
    roots: dict[str, dict[str, list[str]]] = defaultdict(dict)
    folders: dict[str, set[str]] = defaultdict(set)
    for file in files:
        pieces = file.split("/")
        for at in range(len(pieces) - 2):
            folders["".join(f"{piece}/" for piece in pieces[:at])].add(pieces[at])
    for root, inside in folders.items():
        roots[root] |= told(wanted.named, inside)
    train, *tests = wanted.named or (TRAIN, *TEST)
    whole = [root for root in sorted(roots) if train in roots[root] and any(test in roots[root] for test in tests)]
    if "" in whole or not whole:
        return "", dict(roots[""])
    whole = [root for root in whole if not any(root != above and root.startswith(above) for above in whole)]
    if len(whole) == 1 and all(file.startswith(whole[0]) for file in files):
        return whole[0], dict(roots[whole[0]])
    names = ", ".join(whole)
    raise InputError(
        f"{wanted.shown} holds parts below {names}: {_choices(wanted, (root.rstrip('/') for root in whole))}"
    )


def told(named: Sequence[str] | None, names: Collection[str]) -> dict[str, list[str]]:
    """Which of some names are which part's: those that were given, else by the words in them.

    >>> told(None, ["Training", "dev", "cat"]), told(("a", "b"), ["A", "b", "b2"])
    ({'train': ['Training'], 'validation': ['dev']}, {'a': ['A'], 'b': ['b']})
    """
    if named is None:
        spoken = {name: part_of(name) for name in sorted(names)}
        return {part: [n for n in spoken if spoken[n] == part] for part in (TRAIN, *TEST) if part in spoken.values()}
    found = {}
    for name in named:
        for fits in FITS:
            if fitting := [there for there in sorted(names) if fits(name, there)]:
                found[name] = fitting
                break
    return found


def _refuse_parts(wanted: Wanted, files: Sequence[str], tops: Mapping[str, set[str]]) -> None:
    """Refuse folders that are plainly no classes: parts of other names, or parts without class folders."""
    alone = {file.partition("/")[0] for file in files if "/" in file}
    spoken = {part_of(name) for name in alone}
    if alone and None not in spoken and TRAIN in spoken and len(spoken) > 1:
        raise InputError(
            f"{listed(alone)} of {wanted.shown} hold no class folders: put a folder for each class into each"
        )
    common = [name for name in sorted(tops) if any(tops[name] & tops[other] for other in tops if other != name)]
    if len(common) > 1:
        classes = listed(set.intersection(*(tops[name] for name in common)) or tops[common[0]])
        way_out = f"say which is which, such as --split {common[0]}:{common[1]}, or {_choices(wanted, common)}"
        raise InputError(f"{', '.join(common)} of {wanted.shown} hold the same class folders ({classes}): {way_out}")
