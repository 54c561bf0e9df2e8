"""``ddcore bench SUITE.toml``: methods x data x images a class x seeds, each a run of its own, and a leaderboard of
them.

A suite is a TOML file:

    name = "small images"
    ipc = [1, 10]
    seeds = [0, 1, 2]

    [run]                                   # options of every run, as in a file for --config
    protocol = ["quick"]

    [[data]]
    name = "digits"
    dataset = "digits"                      # and any other option

    [[method]]
    name = "dm + dsa"
    plugins = ["dm", "dsa"]
    steps = 200
    plugin.dm.lr_img = 1.0

A method may name local plugin files beside its plugins, or in their place: plugin_path = ["mine.py"], found from the
suite's folder. What a method says counts over what its data say, and that over what all runs share; options of plugins
and teachers that a run has not are left out there. Runs lie under names that end in a digest of their options: a
changed suite does again what changed, a stopped one goes on.
"""

from __future__ import annotations

import io
import os
import re
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ddcore.composing.asking import Hooks
from ddcore.composing.discovery import installed, load_class, name_of_file
from ddcore.composing.options import fields, resolve
from ddcore.composing.presets import Preset
from ddcore.composing.selection import Setup, core_groups, select, setup_from
from ddcore.config import OF_DATA
from ddcore.data.source import decoded_key, keep_decoded, load_decoded
from ddcore.errors import DdcoreError, InputError, Interrupted, NoSpace, OptionError, PluginError, near
from ddcore.pages.leaderboard import FAILED, RUNS, board, finished, write_board
from ddcore.runs.assembly import begin
from ddcore.runs.builtin import Core
from ddcore.runs.distil import distil
from ddcore.runs.executors import EXECUTORS
from ddcore.runs.opening import open_distillation
from ddcore.runs.record import read_record
from ddcore.runs.run import Run
from ddcore.runs.tasks import DECODED
from ddcore.storage.documents import LONGEST_SETTINGS, parse_toml
from ddcore.storage.holding import held
from ddcore.storage.places import Place, canonical, sha256_of
from ddcore.storage.progress import Reporter
from ddcore.storage.published import from_home, told

if TYPE_CHECKING:
    from ddcore.api.services import Executor
    from ddcore.data.source import Source
    from ddcore.runs.executors import Description

BENCH = "bench"
"""The kind of a task that is a whole run."""
KEYS = ("name", "ipc", "seeds", "run", "data", "method")
FROM_THE_WEB = {"http", "https", "ftp", "github", "gist", "data"}
"""Protocols by which files of anybody are read."""
DATA_OPTIONS = ("dataset", *OF_DATA)


# ---- what is to be run -----------------------------------------------------------------------------------------------


@frozen(eq=False)
class Cell:
    """One run of a suite.

    Attributes:
        tables: its options, as a config file has them.
        paths: local plugin files, and ``digests`` the SHA-256 of each: a run is another one when its file changes.
    """

    method: str
    data: str
    ipc: int
    seed: int
    plugins: tuple[str, ...]
    tables: Mapping[str, Any]
    paths: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The cell of the leaderboard that it belongs to with other seeds, as the name of a file."""
        return f"{_slug(self.method)}-{_slug(self.data)}-ipc{self.ipc}"

    @property
    def key(self) -> str:
        """The run's folder."""
        files = {"files": self.digests} if self.digests else {}
        digest = sha256_of(canonical({"plugins": self.plugins, "tables": self.tables, **files}))[:8]
        return f"{self.place}-seed{self.seed}-{digest}"

    @property
    def rows(self) -> tuple[str, ...]:
        """The sets that its options name beside the usual ones."""
        named = [self.tables.get(option, ()) for option in ("rows", "baseline")]
        words = [word for words in named for word in ([words] if isinstance(words, str) else words)]
        return tuple(name.strip() for word in words for name in str(word).split(","))

    def describe(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The task of doing it, as JSON values.

        Args:
            data: the key under which they are kept decoded.
        """
        options = {
            "plugins": list(self.plugins),
            "tables": dict(self.tables),
            "data": dict(data),
            "paths": list(self.paths),
        }
        return {"kind": BENCH, "key": self.key, "options": options}

    def setup(self) -> Setup:
        """Its options; see ``setup_of``."""
        return setup_of(self.plugins, self.tables, self.paths)


@frozen(eq=False)
class Suite:
    """A table of runs.

    Attributes:
        common: options of all; ``data`` and ``methods`` by name, their own.
    """

    name: str
    ipc: tuple[int, ...]
    seeds: tuple[int, ...]
    common: Mapping[str, Any]
    data: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Mapping[str, Any]]

    def cells(self) -> list[Cell]:
        """Every run, seeds of a cell together, small sets first."""
        return [
            self._cell(method, data, ipc, seed)
            for ipc in self.ipc
            for data in self.data
            for method in self.methods
            for seed in self.seeds
        ]

    def _cell(self, method: str, data: str, ipc: int, seed: int) -> Cell:
        own = dict(self.methods[method])
        plugins, paths = (tuple(own.pop(key, ())) for key in ("plugins", "plugin_path"))
        tables = merged(merged(self.common, self.data[data]), own)
        digests = tuple(sha256_of(Path(path).read_bytes()) for path in paths)
        return Cell(method, data, ipc, seed, plugins, {**tables, "ipc": ipc, "seed": seed}, paths, digests)


def read_suite(url: str) -> Suite:
    """A suite from a path or URL.

    Raises:
        InputError: it is not TOML, or not what a suite has to be.
    """
    place = Place.at(url)
    try:
        found = parse_toml(place.read_bytes(0, LONGEST_SETTINGS + 1))
    except ValueError as error:
        raise InputError(f"suite {place.url} is not TOML ({error}): mend that place") from error
    return suite_of(found, place.url, place.local_path())


def refuse_from_the_web(url: str) -> None:
    """Refuse a suite that lies where anybody may have written it: it names data, caches and addresses.

    Raises:
        InputError: with the way to take it all the same.
    """
    links = {link.partition("://")[0].lower() for link in url.split("::") if "://" in link}
    if links & FROM_THE_WEB:
        raise InputError(
            f"suite {Place.at(url).url} is not a file of yours, and a suite says what is read, asked and written: look into it "
            "(--plan-only), then save it here, or add --trust"
        )


def suite_of(found: Mapping[str, Any], url: str, file: Path | None = None) -> Suite:
    """A suite from its document.

    Args:
        file: that it was read from, if it lies on this machine: plugin files are named from its folder.

    Raises:
        InputError: it is not what a suite has to be.
    """
    for key in found:
        if key not in KEYS:
            raise InputError(f"suite {url} has an unknown key {key!r}: {near(key, KEYS)}")
    if not all(
        isinstance(found.get(key, default), kind) for key, kind, default in (("run", dict, {}), ("name", str, ""))
    ):
        raise InputError(
            f"suite {url} has a name that is no text, or [run] that is no table: write name = TEXT and [run]"
        )
    data, methods = (_named(found.get(key), key, url) for key in ("data", "method"))
    for name, table in methods.items():
        lists = [table.get(key, []) for key in ("plugins", "plugin_path")]
        if not any(lists) or not all(isinstance(n, list) and all(isinstance(p, str) for p in n) for n in lists):
            raise InputError(
                f'method {name!r} of suite {url} names no plugins: write plugins = ["dm"] or plugin_path = ["mine.py"] into its table'
            )
        if lists[1]:
            table["plugin_path"] = [_plugin_file(path, name, url, file) for path in lists[1]]
    used = {plugin for table in methods.values() for plugin in table.get("plugins", [])}
    used |= {name_of_file(path) for table in methods.values() for path in table.get("plugin_path", [])}
    if any("plugin_path" in table for table in (found.get("run", {}), *data.values())):
        raise InputError(
            f"suite {url} names plugin files outside its methods: write plugin_path into a [[method]] table"
        )
    for table in (found.get("run", {}), *data.values(), *methods.values()):
        options = table.get("plugin", {})
        if not isinstance(options, dict) or not all(isinstance(own, dict) for own in options.values()):
            raise InputError(f"suite {url} has plugin options that are no tables: write plugin.NAME.OPTION = VALUE")
        if not isinstance(table.get("labels", ""), str):
            raise InputError(f"suite {url} has labels {table['labels']!r}: write their name")
        for plugin in options:
            if plugin not in used:
                raise InputError(
                    f"suite {url} has options of plugin {plugin!r}, which no method uses: {near(plugin, used)}"
                )
    ipc, seeds = (_whole(found.get(key), key, url) for key in ("ipc", "seeds"))
    return Suite(str(found.get("name", "benchmark")), ipc, seeds, found.get("run", {}), data, methods)


def _plugin_file(path: str, method: str, url: str, suite: Path | None) -> str:
    """A plugin file that a method names, whole from the root."""
    if suite is None:
        raise InputError(
            f"method {method!r} of suite {url} names the plugin file {path}, and the suite lies elsewhere: copy both to this machine"
        )
    file = (suite.parent / path).absolute()
    if not file.is_file():
        raise InputError(
            f"method {method!r} of suite {url} names the plugin file {path}, and there is no {file}: mend it"
        )
    return str(file)


def _named(tables: object, key: str, url: str) -> dict[str, dict[str, Any]]:
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise InputError(f"suite {url} has no {key}: write a [[{key}]] table for each, with its name")
    names = [table.get("name") for table in tables]
    if not all(isinstance(name, str) and name for name in names) or len({_slug(str(n)) for n in names}) < len(names):
        raise InputError(f"the [[{key}]] tables of suite {url} are named {names}: give each a name of its own")
    return {table["name"]: {n: v for n, v in table.items() if n != "name"} for table in tables}


def _whole(values: object, key: str, url: str) -> tuple[int, ...]:
    whole = isinstance(values, list) and values and all(isinstance(v, int) and v >= 0 for v in values)
    if not whole or len(set(values)) < len(values):  # type: ignore[call-overload, arg-type]
        raise InputError(f"{key} of suite {url} is {values!r}: give a list of different whole numbers")
    return tuple(values)  # type: ignore[arg-type]


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two documents as one, table by table; where both have a value the other's counts.

    >>> merged({"a": 1, "t": {"x": 1, "y": 2}}, {"t": {"y": 3}})
    {'a': 1, 't': {'x': 1, 'y': 3}}
    """
    both = {
        k: merged(one[k], v) if isinstance(v, dict) and isinstance(one.get(k), dict) else v for k, v in other.items()
    }
    return {**one, **both}


def _slug(name: str) -> str:
    return re.sub("[^a-z0-9.]+", "-", name.lower()).strip("-") or "x"


def setup_of(plugins: Sequence[str], tables: Mapping[str, Any], paths: Sequence[str] = ()) -> Setup:
    """The options of a run.

    Args:
        paths: local plugin files.

    Raises:
        DdcoreError: no such plugin or option, or a value out of range.
    """
    words = [*(w for name in plugins for w in ("--plugin", name)), *(w for p in paths for w in ("--plugin-path", p))]
    selection = select([*words, "--preset", "none"], {})
    groups = {**selection.classes, **core_groups(selection.classes, tables.get("labels"))}
    for name, table in tables.get("plugin", {}).items():
        if name in selection.classes and (wrong := set(table) - set(fields(selection.classes[name]))):
            option = sorted(wrong)[0]
            raise InputError(
                f"plugin {name!r} has no option {option!r}: {near(option, fields(selection.classes[name]))}"
            )
    preset = Preset(
        "of the suite",
        str(tables.get("dataset", "")),
        1,
        (),
        tables={**tables, "plugins": list(plugins), "plugin_path": list(paths)},
    )
    return Setup(resolve(groups, command_line={}, environment={}, preset=preset), selection.offers)


# ---- doing it --------------------------------------------------------------------------------------------------------


def chosen(suite: Suite, only: str, place: Place) -> tuple[list[Cell], dict[str, str]]:
    """The suite's runs whose name holds a text, and of those among them that cannot be run, by name, why.

    Raises:
        InputError: there is none, or none that can be run.
    """
    cells = [cell for cell in suite.cells() if only in cell.key]
    if not cells:
        raise InputError(f"no run of the suite has {only!r} in its name, such as {suite.cells()[0].key}: change --only")
    return cells, check(cells, place)


def bench(
    suite: Suite,
    cells: Sequence[Cell],
    place: Place,
    jobs: int,
    reporter: Reporter,
    executor: str | None = None,
    refused: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Do every run that is not done, so many at a time, and write the leaderboard, of what is finished if it is
    stopped.

    Args:
        cells: those to do; the leaderboard shows what is done of the whole suite.
        executor: where; none: processes if there are several jobs.
        refused: runs that cannot be done, with the reason: they are kept as failed.

    Returns:
        The leaderboard, see ``ddcore.pages.leaderboard.board``.

    Raises:
        Interrupted: it was stopped; the same command goes on.
        NoSpace: a disk is full; so does it then.
        InputError: another process works in the folder.
        OptionError: no such executor.
    """
    chosen = executor_of(executor or ("processes" if jobs > 1 else "here"), os.environ)
    with held(place):
        left = [cell for cell in cells if not finished(place, cell.key)]
        reporter.say(f"bench: {len(cells)} runs, {len(cells) - len(left)} of them done, in {place.url}")
        for key, why in (refused or {}).items():
            _keep_failure(place, key, {"error": why})
        able = [cell for cell in left if cell.key not in (refused or {})]
        return _benched(suite, cells, able, place, jobs, reporter, chosen)


def _benched(
    suite: Suite,
    cells: Sequence[Cell],
    left: Sequence[Cell],
    place: Place,
    jobs: int,
    reporter: Reporter,
    executor: Executor,
) -> dict[str, Any]:
    """The same, of those that are ``left``."""
    tasks = described(left, place, reporter)
    try:
        with reporter.progress("bench", len(cells), "runs") as tick:
            tick(len(cells) - len(tasks))
            executor.map(place.address, tasks, jobs, lambda key: tick(1, key))
    except (Interrupted, KeyboardInterrupt) as error:
        raise Interrupted(f"every finished run is kept in {place.url}: the same command goes on") from error
    finally:
        made = board(suite.name, suite.cells(), place)
        write_board(made, place)
    return made


def executor_of(name: str, environment: Mapping[str, str]) -> Executor:
    """What does tasks, of the core or of an installed plugin, whose options are read from the environment.

    Raises:
        OptionError: nobody offers the name.
    """
    plugins = [] if name in EXECUTORS else _offering(name)
    own = {n: v for n, v in environment.items() for p in plugins if n.startswith(f"DDCORE_{_variable(p)}__")}
    words = [word for plugin in plugins for word in ("--plugin", plugin)]
    setup = setup_from(select([*words, "--preset", "none"], {}), {}, own)
    hooks = Hooks(setup.manager(Core()), setup.described())
    found = hooks.executor(name)
    if found is None:
        raise OptionError(f"no executor is named {name!r}: {near(name, EXECUTORS)}")
    return found


def _offering(name: str) -> list[str]:
    """The installed plugins that offer an executor: first-party ones are called like it,
    others have to be loaded to know."""
    known = set(EXECUTORS)
    for plugin in sorted(installed(), key=lambda plugin: plugin != name):
        with suppress(PluginError):
            offered: tuple[str, ...] = load_class(plugin)[0].executors  # type: ignore[attr-defined]
            if name in offered:
                return [plugin]
            known.update(offered)
    raise OptionError(f"no executor is named {name!r}: {near(name, known)}, or install the plugin that offers it")


def _variable(plugin: str) -> str:
    return plugin.upper().replace("-", "_")


def check(cells: Sequence[Cell], place: Place) -> dict[str, str]:
    """Look at every method on every data set before anything is done; those that cannot be run, by name, with why.

    Raises:
        InputError: none can be run; says why of the first.
    """
    reasons: dict[tuple[str, str], str] = {}
    refused = {}
    for cell in cells:
        pair = (cell.method, cell.data)
        if pair not in reasons:
            try:
                _ = Run(cell.setup(), place).plan
                reasons[pair] = ""
            except DdcoreError as error:
                reasons[pair] = f"method {cell.method!r} on {cell.data!r} cannot be run: {error}"
        if reasons[pair]:
            refused[cell.key] = reasons[pair]
    if len(refused) == len(cells):
        raise InputError(next(iter(refused.values())))
    return refused


def described(cells: Sequence[Cell], place: Place, reporter: Reporter) -> list[dict[str, Any]]:
    """The tasks of cells; the data of each are read once, and kept decoded for all that use them. Runs on data that
    cannot be read are kept as failed."""
    known: dict[bytes, dict[str, Any] | str] = {}
    tasks = []
    for cell in cells:
        name = canonical([cell.tables.get(option) for option in (*DATA_OPTIONS, "cache")])
        if name not in known:
            reporter.say(f"data: {cell.data}")
            known[name] = _kept_data(cell, place)
        if isinstance(data := known[name], str):
            _keep_failure(place, cell.key, {"error": data})
        else:
            tasks.append(cell.describe(data))
    return tasks


def _kept_data(cell: Cell, place: Place) -> dict[str, Any] | str:
    """The key under which the data of a run are kept decoded; a sentence where they cannot be read."""
    run = Run(cell.setup(), place)
    try:
        source = run.source
    except DdcoreError as error:
        return f"data {cell.data!r} cannot be read: {error}"
    if source.modality in DECODED or getattr(source, "dense", False):
        keep_decoded(source, run.cache, run.warn)
    return decoded_key(source.summary())


def _keep_failure(place: Place, key: str, why: Mapping[str, str]) -> None:
    (place / FAILED / f"{key}.json").write_json(dict(why))


def do_cell(bench_url: str, task: Description) -> None:
    """Do one run, or what is left of it, in whichever process this is; why one failed is kept beside the runs.

    Raises:
        Interrupted: it was stopped.
        NoSpace: a disk is full.
    """
    place, key = Place.at(bench_url), str(task["key"])
    (place / FAILED / f"{key}.json").remove()
    if finished(place, key):
        return
    try:
        run = _opened(place / RUNS / key, task["options"])
        run.tasks.way_on = "every finished run is kept: the same command goes on"
        distil(run)
    except (Interrupted, NoSpace):
        raise
    except DdcoreError as error:
        _keep_failure(place, key, {"error": told(str(error))})
    except Exception as error:  # a bug in one method: the other runs of the night are worth having
        what = f"a bug, {type(error).__name__}: {told(' '.join(str(error).split()))}"
        _keep_failure(place, key, {"error": what, "traceback": told(traceback.format_exc())})


def _opened(place: Place, options: Mapping[str, Any]) -> Run:
    silent = Reporter(io.StringIO(), quiet=True)
    setup = setup_of(options["plugins"], {**options["tables"], "out": place.address}, options.get("paths", ()))
    if (place / "run.json").exists():
        return open_distillation(place.address, silent, trust=_is_of(setup, place))
    source = _data_of(Run(setup, place), options["data"])
    return begin(setup, plan_only=False, command=["ddcore", BENCH], reporter=silent, source=source)


def _is_of(setup: Setup, place: Place) -> bool:
    """Whether a run's record says what the suite says: then nobody else can have put anything into it,
    wherever it was begun."""
    record, due = from_home(read_record(place)), from_home(setup.as_json())
    settled = {"out", *(["ipc"] if setup.config.bytes is not None else ())}
    found, wanted = ({n: v for n, v in each["config"].items() if n not in settled} for each in (record, due))
    names = [[(p["name"], p["request"], p.get("path", "")) for p in each["plugins"]] for each in (record, due)]
    return found == wanted and record["options"] == due["options"] and names[0] == names[1]


def _data_of(run: Run, key: Mapping[str, Any]) -> Source | None:
    return load_decoded(run.cache, key, run.warn)
