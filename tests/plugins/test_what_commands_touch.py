"""The table of docs/security.md, row by row: what each command reads, writes, asks and executes, seen by Python and by the system."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from reliability import kills
from reliability.guard import Baits, Listener, of_the_system

from ddcore.composing.discovery import installed
from ddcore.data.sources import open_source

pytestmark = pytest.mark.skipif(not kills.LINUX, reason="the harness forks, and asks Linux who opened a file")

DOCUMENT = Path(__file__).parents[2] / "docs/security.md"
SMALL = " --threads 1 --protocol quick-1 --eval-seeds 1 --full-epochs 1"
NETWORK = " --network convnet2-w4"
STUDENT = " --student convnet2-w4 --threads 1 --protocol quick-1 --eval-seeds 1"
TEACHERS = " --teachers.networks convnet2-bn-w4 --teachers.epochs 1 --teachers.no-check"
DM = " --plugin dm --dm.batch-real 4 --steps 1 --ipc 1"
DATA = " --dataset npz:{house}/data.npz"


@dataclass(frozen=True)
class Row:
    """A row of the table, and a command line of it.

    Attributes:
        reads, writes: names of ``PLACES``.
        asks: whether it asks the server of its own address.
        executes: the plugins that it imports.
        before: folders of the house that it is given a copy of.
        code: its exit code.
    """

    what: str
    command: str
    line: str
    reads: str = ""
    writes: str = ""
    asks: bool = False
    executes: str = ""
    before: str = ""
    code: int = 0

    def __str__(self) -> str:
        return f"{self.command} of {self.what}" + " by address" * ("{url}" in self.line)


PLACES = {
    "cache": "{work}/cache",
    "scratch": "{work}/tmp",
    "out": "{work}/out",
    "runs": "{work}/runs",
    "own-copy": "{work}/own",
    "their-copy": "{work}/theirs",
    "set": "{house}/set",
    "own": "{house}/own",
    "own-cache": "{house}/own-cache",
    "data": "{house}/data.npz",
    "suite": "{house}/suite.toml",
    "file": "{house}/mine.py",
    "weights": "{house}/weights.safetensors",
}
ROWS = [
    Row(
        "data",
        "run",
        "run" + DM + DATA + NETWORK + SMALL + " --preset none --out out",
        "data",
        "cache out",
        executes="dm",
    ),
    Row("artifact", "inspect", "inspect {house}/set", "set"),
    Row("artifact", "inspect", "inspect {url}/set", asks=True),
    Row("artifact", "export", "export {house}/set --to folder --out out", "set", "out"),
    Row("artifact", "export", "export {url}/set --to pt --out out", "", "out", asks=True),
    Row("artifact", "evaluate", "evaluate {house}/set" + DATA + SMALL + " --out out", "set data", "cache scratch out"),
    Row(
        "artifact",
        "evaluate",
        "evaluate {house}/set --plugin dsa" + DATA + SMALL,
        "set data",
        "cache scratch",
        executes="dsa",
    ),
    Row(
        "artifact",
        "relabel",
        "relabel {house}/set --labels averaged --out out" + DATA + TEACHERS + " --teachers.weights train --threads 1",
        "set data",
        "cache scratch out",
    ),
    Row(
        "artifact", "train --data", "train --data {house}/set" + DATA + STUDENT + " --out out", "set data", "cache out"
    ),
    Row("artifact", "train --data", "train --data {house}/set" + DATA + STUDENT, "set data", "cache runs"),
    Row("run folder", "report", "report theirs", "", "their-copy", before="theirs"),
    Row("run folder", "compare", "compare theirs own --out out/page.html", "", "out", before="theirs own"),
    Row("run folder", "compare", "compare theirs own", "their-copy own-copy", before="theirs own"),
    Row(
        "run folder of one's own",
        "resume",
        "resume own",
        "data file",
        "own-copy own-cache",
        executes="dm file",
        before="own",
    ),
    Row("run folder of others", "resume", "resume theirs", "their-copy", before="theirs", code=2),
    Row(
        "run folder of others",
        "resume --trust",
        "resume theirs --trust",
        "data file",
        "their-copy own-cache",
        executes="dm file",
        before="theirs",
    ),
    Row(
        "run folder around a set",
        "evaluate",
        "evaluate {house}/own/artifact --full-epochs 1",
        "own data file",
        "own-cache scratch",
        executes="dm file",
    ),
    Row(
        "run folder around a set",
        "relabel",
        "relabel {house}/own/artifact --labels averaged --out out" + TEACHERS,
        "own data file",
        "cache scratch out",
        executes="dm file",
    ),
    Row(
        "run folder around a set",
        "train --data",
        "train --data {house}/own/artifact" + STUDENT + " --out out",
        "own data file",
        "own-cache out",
    ),
    Row("suite", "bench --plan-only", "bench {house}/suite.toml --plan-only", "suite", executes="dm"),
    Row("suite", "bench --plan-only", "bench {url}/suite.toml --plan-only", asks=True, executes="dm"),
    Row("suite", "bench", "bench {house}/suite.toml --out out", "suite data", "cache out", executes="dm"),
    Row("suite", "bench", "bench {house}/suite.toml", "suite data", "cache runs", executes="dm"),
    Row("suite", "bench", "bench {url}/suite.toml --out out", asks=True, code=2),
    Row(
        "suite",
        "bench --trust",
        "bench {url}/suite.toml --trust --out out",
        "data",
        "cache out",
        asks=True,
        executes="dm",
    ),
    Row("preset", "presets", "presets"),
    Row(
        "preset", "run --preset", "run --plugin coresets --preset coresets/digits-ipc1 --plan-only", executes="coresets"
    ),
    Row(
        "preset",
        "reproduce",
        "reproduce coresets/digits-ipc1 --scale 0.05 --out out" + NETWORK + SMALL,
        "",
        "cache out",
        executes="coresets",
    ),
    Row("plugin", "plugins", "plugins"),
    Row("plugin", "plugins show", "plugins show dm", executes="dm"),
    Row("plugin", "plugins matrix", "plugins matrix", executes="all"),
    Row("plugin", "run --plugin", "run --plugin dm --plan-only", executes="dm"),
    Row(
        "plugin",
        "run --plugin-path",
        "run --plugin dm --plugin-path {house}/mine.py --plan-only",
        "file",
        executes="dm file",
    ),
    Row(
        "weights",
        "run --teachers.weights",
        "run --labels averaged"
        + DM
        + DATA
        + NETWORK
        + SMALL
        + TEACHERS
        + " --teachers.weights {house}/weights.safetensors --preset none --out out",
        "data weights",
        "cache out",
        executes="dm",
    ),
    Row(
        "weights",
        "train --teacher",
        "train --plugin kd --teacher {house}/weights.safetensors --teachers.no-check --data"
        " npz:{house}/data.npz --out out" + STUDENT,
        "data weights",
        "cache out",
        executes="kd",
    ),
    Row(
        "weights",
        "train --from",
        "train --from {house}/weights.safetensors --no-plain --data npz:{house}/data.npz --out out"
        + STUDENT.replace("w4", "bn-w4"),
        "data weights",
        "cache out",
    ),
    Row(
        "weights",
        "run --teachers.weights",
        "run --labels averaged"
        + DM
        + DATA
        + NETWORK
        + SMALL
        + TEACHERS
        + " --teachers.weights {url}/weights.safetensors --preset none --out out",
        "data",
        "cache out",
        executes="dm",
        code=2,
    ),
    Row(
        "weights",
        "train --teacher",
        "train --plugin kd --teacher convnet2-bn-w4={url}/weights.safetensors --teachers.no-check"
        " --data npz:{house}/data.npz --out out" + STUDENT,
        "data",
        "cache out",
        executes="kd",
        code=2,
    ),
    Row(
        "weights",
        "train --from",
        "train --from {url}/weights.safetensors --no-plain --data npz:{house}/data.npz --out out" + STUDENT,
        "data",
        "cache out",
        code=2,
    ),
]


# ---- the house -------------------------------------------------------------------------------------------------------

SUITE = """
ipc = [1]
seeds = [0]
[run]
network = "convnet2-w4"
protocol = ["quick-1"]
eval_seeds = 1
full_epochs = 1
threads = 1
steps = 1
[[data]]
name = "d"
dataset = "npz:{house}/data.npz"
[[method]]
name = "dm"
plugins = ["dm"]
"""
PLUGIN = """
    from attrs import frozen
    from ddcore import Plugin, hookimpl

    @frozen(kw_only=True, eq=False)
    class Mine(Plugin):
        role = "tracker"
        summary = "does nothing"

        @hookimpl
        def ddcore_log(self, event, fields, run):
            return None
"""
NOSY = (
    PLUGIN
    + """
    import os, pathlib, subprocess, urllib.request
    from safetensors import safe_open
    home = pathlib.Path(os.environ["HOME"])
    (home / "private.npz").read_text()
    (home / "left").touch()
    subprocess.run(["true"])
    urllib.request.urlopen({url!r} + "/suite.toml").read()
    try:
        safe_open(home / "w.safetensors", "pt")
    except Exception:
        pass
"""
)
"""What a plugin may do, being code, and the tests have to see."""
BAITS = ("private.npz", "private.parquet", "w.pt", "w.safetensors", "words.txt", "evil.py")


@dataclass(frozen=True)
class House:
    """A user's folders, a parent of commands, and a server of this machine that has the set and the suite."""

    folder: Path
    parent: kills.Parent
    listener: Listener
    baits: Baits

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    for name in ("home", "set", "first"):
        (folder / name).mkdir()
    for name in BAITS:
        (folder / "home" / name).write_text("nobody's business")
    made, served, baits = {}, Listener(folder), Baits([folder / "home" / name for name in BAITS])
    for part in ("train", "test"):
        split = getattr(open_source("digits"), part)
        made |= {f"x_{part}": split.stored[::4].numpy(), f"y_{part}": split.labels[::4].numpy()}
    np.savez(folder / "data.npz", **made)
    (folder / "suite.toml").write_text(SUITE.format(house=folder))
    (folder / "mine.py").write_text(dedent(PLUGIN))
    with kills.Parent() as parent:
        parent.learn([name for name in kills.LEARNT if not name.startswith("ddcore_")])
        here = House(folder, parent, served, baits)
        first = (
            "run --plugin-path {house}/mine.py"
            + DM
            + DATA
            + NETWORK
            + SMALL
            + " --preset none --cache {house}/own-cache --out {house}/own"
        )
        assert did(here, first, folder / "first")[0].code == 0
        teacher = "train --data npz:{house}/data.npz --no-plain --out t --student convnet2-bn-w4 --threads 1 --protocol quick-1"
        assert did(here, teacher, folder / "first")[0].code == 0
        shutil.copy(folder / "first/t/students/student-0.safetensors", folder / "weights.safetensors")
        shutil.rmtree(folder / "first")
        strangers(here)
        baits.taken()
        yield here
    served.close()
    baits.close()


def strangers(house: House) -> None:
    """The run as somebody else hands it on: its record and its set name files of this user's, addresses and a plugin."""
    home, url = house / "home", house.listener.url
    shutil.copytree(house / "own/artifact", house / "set", dirs_exist_ok=True)
    shutil.copytree(house / "own", house / "theirs")
    record = json.loads((house / "theirs/run.json").read_text())
    (house / "theirs/run.json").write_text(json.dumps({**record, "signature": "0" * 64}))
    for made in (house / "set", house / "theirs/artifact"):
        manifest = json.loads((made / "manifest.json").read_text())
        config = {
            "cache": f"{url}/cache",
            "dataset": f"parquet:{home}/private.parquet",
            "out": f"{home}/out",
            "data_root": str(home),
        }
        plugins = [{"name": "dc", "request": "dc"}, {"name": "evil", "path": f"{home}/evil.py"}]
        options = {
            "teachers": {"networks": ["resnet18"], "weights": [f"{home}/w.pt"]},
            "text": {"words": f"{home}/words.txt"},
        }
        said = manifest["provenance"]
        said.update(config={**said["config"], **config}, plugins=plugins, options={**said["options"], **options})
        (made / "manifest.json").write_text(json.dumps(manifest))


def did(house: House, line: str, work: Path):
    """A command in a folder of its own, whose home is the house's."""
    names = {"HOME": "home", "XDG_CONFIG_HOME": "home", "XDG_CACHE_HOME": "home"}
    environment = {name: str(house / folder) for name, folder in names.items()} | {"DDCORE_CACHE": str(work / "cache")}
    words = line.format(house=house.folder, url=house.listener.url).split()
    return house.parent.watched(words, work, environment)


def plugins_among(modules: list[str]) -> set[str]:
    """Installed plugins that are imported, and ``file`` for those of files."""
    of = {offers[0].value.partition(":")[0].partition(".")[0]: name for name, offers in installed().items()}
    tops = {module.partition(".")[0] for module in modules}
    return {of[top] for top in tops if top in of} | {"file" for top in tops if top.startswith("ddcore_local_")}


def below(path: str, roots: list[str]) -> bool:
    return any(path == root or path.startswith(root + os.sep) for root in roots)


# ---- the table -------------------------------------------------------------------------------------------------------


def table() -> dict[tuple[str, str], list[str]]:
    """Cells of the document's table by its first two columns."""
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(what, command.strip("`")): rest for what, command, *rest in cells}


def test_every_row_of_the_table_is_tested_and_nothing_means_nothing():
    assert {(row.what, row.command) for row in ROWS} == set(table())
    for row in ROWS:
        reads, writes, asks, executes = table()[row.what, row.command]
        for said, does in ((reads, row.reads), (writes, row.writes), (asks, row.asks), (executes, row.executes)):
            assert said != "nothing" or not does, row


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_command_does_what_its_row_says_and_nothing_else(row, house, tmp_path):
    for name in row.before.split():
        shutil.copytree(house / name, tmp_path / name)
    house.listener.requests.clear()
    home = sorted((house / "home").rglob("*"))
    end, events, modules = did(house, row.line, tmp_path)
    assert end.code == row.code, end.said
    named = {name: PLACES[name].format(house=house.folder, work=tmp_path) for name in PLACES}
    writes = [named[name] for name in row.writes.split()]
    copies = [str(tmp_path / name) for name in row.before.split()]
    reads = [*writes, *copies, *(named[name] for name in row.reads.split())]
    outside = [(what, path) for what, path in events if what == "reads" and not below(path, [*reads, *of_the_system()])]
    outside += [
        (what, path) for what, path in events if what == "writes" and not below(path, [*writes, "/dev", "/proc"])
    ]
    assert [one for one in outside if "__pycache__" not in one[1]] == []
    assert [one for one in events if one[0] == "begins"] == []
    port = house.listener.url.rpartition(":")[2]
    asked = [where for what, where in events if what == "asks"]
    assert all(where.startswith("127.0.0.1:" + port) or house.listener.url in where for where in asked), asked
    assert bool(asked) == bool(house.listener.requests) == row.asks, (asked, house.listener.requests)
    assert plugins_among(modules) == ({*installed()} if row.executes == "all" else {*row.executes.split()})
    assert house.baits.taken() == [] and sorted((house / "home").rglob("*")) == home


def test_what_the_rows_are_held_to_is_seen(house, tmp_path):
    home, url = house / "home", house.listener.url
    (tmp_path / "nosy.py").write_text(dedent(NOSY).replace("{url!r}", repr(url)))
    house.listener.requests.clear()
    end, events, modules = did(house, f"run --plugin dm --plugin-path {tmp_path}/nosy.py --plan-only", tmp_path)
    assert end.code == 0, end.said
    (home / "left").unlink()
    assert {("reads", f"{home}/private.npz"), ("writes", f"{home}/left"), ("asks", url.removeprefix("http://"))} <= {
        *events
    }
    assert any(what == "begins" and "true" in how for what, how in events)
    assert house.baits.taken() == ["private.npz", "w.safetensors"] and house.listener.requests == ["GET /suite.toml"]
    assert plugins_among(modules) == {"dm", "file"}
