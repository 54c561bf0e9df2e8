"""Cells: single figures of papers' tables, each with the command that makes it anew; what ``ddcore verify`` works on.

A table of a TOML file is one, of a plugin's resource (``Plugin.cells``) or of a file that ``--cells`` names:

    [random-cifar10-ipc1]
    what = "random real images, CIFAR-10, 1 image a class"
    paper = "Dataset Condensation with Gradient Matching, ICLR 2021, arXiv:2006.05929"
    table = "table 1"
    setting = "ConvNet-3 of width 128, 301 epochs, batch 256, SGD 0.01, no augmentation"
    students = "20 networks on each of 5 sets"
    published = { mean = 0.144, std = 0.02 }        # fractions; std if there is one
    read = "DANCE's table 1, which quotes it"       # where the figure was read
    command = "run --plugin coresets --coresets.method random --protocol dc --rows random --eval-seeds 20"
    row = { set = "random" }                        # which row of the scores is meant; default: distilled, or student

and where needed ``unverified`` (true: the figure is from memory), ``metric``, ``data`` (name, shape, number of classes,
train, test), ``differs`` (what is known to be otherwise here), ``reason`` (why it is missed) and, of a command that
evaluates, ``set_of``: the cell whose set it is. A command is words for ``ddcore run``, ``evaluate`` or ``train``, of
options that say what is done; where, and on which files, says who verifies.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
from attrs import field, frozen

from ddcore import config
from ddcore.composing.discovery import find, installed
from ddcore.composing.options import SHARED, click_options, fields, flag, unknown
from ddcore.composing.presets import NONE, resource_of
from ddcore.composing.selection import Selection, select
from ddcore.errors import DdcoreError, InputError, OptionError, PluginError, near
from ddcore.storage.documents import LONGEST_SETTINGS, is_count, parse_toml
from ddcore.storage.places import Place

RUN, EVALUATE, TRAIN = COMMANDS = ("run", "evaluate", "train")
TAKEN = {RUN: tuple(fields(config.Config)), EVALUATE: config.EVALUATING, TRAIN: config.TRAINING}
OF_HIM_WHO_VERIFIES = {*config.VERIFYING, "plugin_path", "evaluate_on"} - {"eval_seeds", "seed"}
"""Shared options that no cell has: they name places, data and machines."""
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,78}[a-z0-9])?")
LIBRARIES = ("torchvision:", "timm:")
"""Before names of networks, the only colon that a command may hold."""
HERE = ("train", "pretrained")
"""What a command may say of teachers' weights."""
NEVER = ("executor", "tracker")
"""Roles of plugins that say where and for whom something is done."""
TEXTS = ("what", "paper", "table", "setting", "read")
OPTIONAL = ("students", "metric", "reason", "set_of")
SAID_OF_DATA = ("name", "shape", "classes", "train", "test")
KEYS = (*TEXTS, *OPTIONAL, "published", "command", "row", "unverified", "data", "differs")
OF_ROWS = ("set", "labels", "protocol", "network")


@frozen(eq=False)
class Cell:
    """One figure of a paper's table.

    Attributes:
        owner: the plugin that brings it, or the last name of its file.
        what: method, data and size in words; ``setting``: how it was measured.
        published: ``mean`` and, where there is one, ``std``, as fractions.
        read: where the figure was read; ``unverified`` if it was only remembered.
        words: of the command, its first one ``run``, ``evaluate`` or ``train``.
        row: what a row of the scores has to say to be the one.
        students: whose mean it is in the paper, in words.
        data: name, shape, number of classes, train and test samples, as far as they are said.
        differs: what is known to be otherwise here than in the paper.
        reason: why it is missed, where that is known.
        set_of: the cell whose set is evaluated.
    """

    name: str
    owner: str
    what: str
    paper: str
    table: str
    setting: str
    published: Mapping[str, float]
    read: str
    words: tuple[str, ...]
    row: Mapping[str, str]
    unverified: bool = False
    metric: str = "accuracy"
    students: str = ""
    data: Mapping[str, Any] = field(factory=dict)
    differs: tuple[str, ...] = ()
    reason: str = ""
    set_of: str = ""

    @property
    def command(self) -> str:
        """As it is written on a command line."""
        return shlex.join(self.words)

    @property
    def data_text(self) -> str:
        """The data in words, such as "CIFAR-10 (3x32x32, 10 classes)"."""
        shape = "x".join(map(str, self.data.get("shape", ())))
        count = self.data.get("classes")
        said = [*([shape] if shape else []), *([f"{count} classes"] if count else [])]
        return str(self.data.get("name", "its data")) + (f" ({', '.join(said)})" if said else "")


# ---- reading ---------------------------------------------------------------------------------------------------------


def every_cell(files: Sequence[str] = (), unreadable: Callable[[str], None] = lambda sentence: None) -> list[Cell]:
    """The cells of all installed plugins, by plugin name, none of which is imported, then those of files.

    Args:
        files: paths or URLs.
        unreadable: is told, in a sentence, of each plugin whose cells cannot be read.

    Raises:
        InputError: a file of them is not there, no TOML, or has a table that is no cell.
    """
    found: list[Cell] = []
    for name in installed():
        try:
            found += cells_of_plugin(name)
        except DdcoreError as error:
            unreadable(str(error))
    return found + [cell for file in files for cell in cells_of_file(file)]


def cells_of_plugin(name: str) -> list[Cell]:
    """The cells that an installed plugin brings; it is not imported.

    Raises:
        PluginError: they cannot be read, or a table is no cell.
    """
    resource = resource_of(find(name), "cells")
    if resource is None:
        return []
    try:
        return cells_in(parse_toml(resource.read_bytes()), name, f"plugin {name!r}")
    except (OSError, ValueError) as error:
        raise PluginError(f"plugin {name!r} has cells that cannot be read ({error}): reinstall it") from error
    except InputError as error:
        raise PluginError(str(error)) from error


def cells_of_file(url: str) -> list[Cell]:
    """The cells of a file.

    Raises:
        InputError: it is not there, no TOML, or has a table that is no cell.
    """
    place = Place.at(url)
    try:
        document = parse_toml(place.read_bytes(0, LONGEST_SETTINGS + 1))
    except ValueError as error:
        raise InputError(f"file of cells {url} is not TOML ({error}): mend that place") from error
    return cells_in(document, place.name, f"file {place.name}")


def cells_in(document: Mapping[str, Any], owner: str, source: str) -> list[Cell]:
    """The cells of a document.

    Args:
        source: what messages call it.

    Raises:
        InputError: a table is no cell; says which and why.
    """
    return [_cell(key, value, owner, f"cell {key!r} of {source}") for key, value in document.items()]


def _cell(key: str, table: Any, owner: str, who: str) -> Cell:
    if wrong := next(filter(None, _wrongs(key, table)), ""):
        raise InputError(f"{who} {wrong}")
    words = table["command"]
    try:
        words = shlex.split(words) if isinstance(words, str) else words
    except ValueError as error:
        raise InputError(f"{who} has a command that ends within quotes: close them") from error
    if not words or words[0] not in COMMANDS:
        raise InputError(f"{who} has a command that begins with none of {', '.join(COMMANDS)}: write it so")
    if (words[0] == EVALUATE) != bool(table.get("set_of")):
        raise InputError(f"{who} has to name with set_of whose set it evaluates, and only then: add or remove set_of")
    check_words(words, who)
    row = {"set": "student" if words[0] == TRAIN else "distilled", **table.get("row", {})}
    texts = {name: table.get(name, "") for name in ("students", "reason", "set_of")}
    return Cell(
        name=key,
        owner=owner,
        published=table["published"],
        words=tuple(words),
        row=row,
        unverified=table.get("unverified", False),
        metric=table.get("metric", "accuracy"),
        data=table.get("data", {}),
        differs=tuple(table.get("differs", ())),
        **texts,
        **{name: table[name] for name in TEXTS},
    )


def _wrongs(key: str, table: Any) -> Iterable[str]:
    """What is wrong with a table, an empty text for all that is right."""
    yield "" if NAME.fullmatch(key) else "has a name that is no name of a file: use small letters, digits, - and ."
    if not isinstance(table, Mapping):
        yield "is no table: write [NAME] and its keys below"
        return
    yield next((f"has an unknown key {name!r}: {near(name, KEYS)}" for name in table if name not in KEYS), "")
    lacking = [name for name in (*TEXTS, "published", "command") if name not in table]
    yield f"has no {lacking[0]}: write it into its table" if lacking else ""
    texts = [name for name in (*TEXTS, *OPTIONAL) if not _is_text(table.get(name, "x"))]
    yield f"has {texts[0]} that is no text: write it in quotes" if texts else ""
    command = table.get("command")
    listed = isinstance(command, list) and all(_is_text(word) for word in command)
    yield "" if _is_text(command) or listed else "has a command that is neither text nor a list of words: write one"
    yield from _wrong_tables(table)


def _wrong_tables(table: Mapping[str, Any]) -> Iterable[str]:
    published = table.get("published")
    right = isinstance(published, Mapping) and "mean" in published and {*published} <= {"mean", "std"}
    right = right and all(isinstance(v, int | float) and not isinstance(v, bool) for v in published.values())  # type: ignore[union-attr]
    yield "" if right else "has a published figure that is none: write published = { mean = 0.5, std = 0.01 }"
    row = table.get("row", {})
    right = isinstance(row, Mapping) and {*row} <= {*OF_ROWS} and all(map(_is_text, row.values()))
    yield "" if right else f"has a row that is no table of {', '.join(OF_ROWS)}: write row = {{ set = 'random' }}"
    yield "" if isinstance(table.get("unverified", False), bool) else "has unverified that is neither true nor false"
    differs = table.get("differs", [])
    right = isinstance(differs, list) and all(map(_is_text, differs))
    yield "" if right else "has differs that is no list of texts: write differs = ['...']"
    data = table.get("data", {})
    right = isinstance(data, Mapping) and {*data} <= {*SAID_OF_DATA} and _is_text(data.get("name", "x"))
    counts = [data.get(name, 1) for name in ("classes", "train", "test")] if right else []
    shape = data.get("shape", [1]) if right else []
    right = right and isinstance(shape, list) and all(is_count(number, 1) for number in [*counts, *shape])
    yield "" if right else f"has data that are no table of {', '.join(SAID_OF_DATA)}, numbers whole: write it so"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value) and len(value) <= 2000


def check_words(words: Sequence[str], who: str) -> None:
    """Refuse a command that names a place or a machine, or holds more than options and their values.

    Raises:
        InputError: says which word.
    """
    refused = {flag(SHARED, name): name for name in OF_HIM_WHO_VERIFIES} | {"--config": "", "--data": "", "--trust": ""}
    option = ""
    for word in words[1:]:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            if option in refused:
                raise InputError(f"{who} has {option} in its command, which only who verifies says: leave it out")
            if not equals:
                continue
        else:
            value = word
        named = option in ("--preset", "--plugin")
        plain = not re.search(r"[\\~\s]|\.\.|^[./]|[:/]" if not named else r"[\\~\s:]|\.\.|^[./]", value)
        if not plain and not (value.startswith(LIBRARIES) and re.fullmatch(r"\w+:[\w.-]+", value)):
            raise InputError(f"{who} has {value!r} in its command, which looks like a place: a cell names none")
        if option in ("--teachers.weights", "--teacher") and (value not in HERE and "." in value):
            raise InputError(f"{who} has {value!r} for {option}, a file: leave it out")


def cell_named(request: str, known: Iterable[Cell]) -> Cell:
    """The cell that NAME or OWNER/NAME means.

    Raises:
        OptionError: none, or several of this name.
    """
    every = [*known]
    found = [cell for cell in every if request in (cell.name, f"{cell.owner}/{cell.name}")]
    if not found:
        raise OptionError(f"no cell is named {request!r}: {near(request, [cell.name for cell in every])}")
    if len({cell.name for cell in every if cell.name == found[0].name}) < sum(c.name == found[0].name for c in every):
        owners = " and ".join(cell.owner for cell in every if cell.name == found[0].name)
        raise OptionError(f"cell {found[0].name!r} is brought by {owners}: give each a name of its own")
    return found[0]


# ---- the command of a cell -------------------------------------------------------------------------------------------


OF_TRAINING = (
    click.Option(["--student"], required=True),
    click.Option(["--teacher", "teachers"], multiple=True),
    click.Option(["--per-class"], type=click.IntRange(min=1)),
    click.Option(["--plain/--no-plain"], default=True),
)
"""What ``ddcore train`` takes beside its options, as far as a cell may have it."""


def parsed(cell: Cell) -> tuple[Selection, dict[str, Any], dict[str, Any]]:
    """The plugins that a cell's command names, and its options, as ``ddcore`` itself would take them; the environment
    is not asked.

    Returns:
        The selection; what was given, ``group__name`` to value; and, of ``train``, its own options.

    Raises:
        OptionError: an option that there is not, or without its value.
        PluginError: a plugin that is not installed.
    """
    kind, *words = cell.words
    who = f"cell {cell.name!r} of {cell.owner}"
    preset = [] if any(word.partition("=")[0] == "--preset" for word in words) else ["--preset", NONE]
    selection = select([*words, *preset], {})
    for name, cls in selection.classes.items():
        if cls.role in NEVER:
            raise OptionError(f"{who} names plugin {name!r}, which says where runs are done or told of: leave it out")
    made = click_options(selection.groups)
    taken = [o for o in made if o.name not in fields(config.Config) or o.name in TAKEN[kind]]
    taken = [o for o in taken if o.name not in OF_HIM_WHO_VERIFIES and o.name != "config"]
    command = click.Command(kind, params=[*taken, *(OF_TRAINING if kind == TRAIN else ())], add_help_option=False)
    try:
        context = command.make_context(kind, [*words])
    except click.NoSuchOption as error:
        sentence = unknown(error.option_name, selection.groups) or error.format_message().rstrip(".")
        raise OptionError(f"{who} has a command that `ddcore {kind}` refuses: {sentence}") from error
    except click.ClickException as error:
        sentence = error.format_message().rstrip(".")
        raise OptionError(f"{who} has a command that `ddcore {kind}` refuses: {sentence}") from error
    own = {option.name for option in OF_TRAINING}
    asked = click.core.ParameterSource.COMMANDLINE
    given = {n: v for n, v in context.params.items() if context.get_parameter_source(n) is asked and n not in own}
    given.pop("preset", None)
    return selection, given, {str(n): context.params[str(n)] for n in own} if kind == TRAIN else {}
