"""Kill a command anywhere, go on with it, and compare what comes of it with an uninterrupted one, bit for bit.

A *parent* process imports torch and ddcore once and forks a child for every command, so that an attempt costs about what its
command computes. A child is ended by SIGKILL in one of two ways: from outside, after so many seconds of its own CPU time; or by
itself, before its n-th change of a file (``Saboteur``), or after it with the file that was written last cut in the middle. Or it
lives, and has no room on its disk from the first file on whose name fits a pattern.

``measure`` is what benchmarks call; run as a script, this file is the parent.
"""

from __future__ import annotations

import errno
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import ddcore

ROOT = Path(__file__).parents[2]
TINY = str(Path(ddcore.__file__).parent / "kit/contract/tiny.py")
PROBES = str(ROOT / "tests/probes")
SECONDS = 240.0
"""No command of the harness takes so long, however busy the machine is."""
HOLDER = ".holder.json"
"""Who is killed after a run's last file leaves it behind; it says nothing without its lock."""
LINUX = sys.platform.startswith("linux")


# ---- what is killed --------------------------------------------------------------------------------------------------

HERE = f" --plugin-path {TINY} --threads 1 --cache cache --out run"
STUDENTS = " --protocol quick-3 --eval-seeds 1 --full-epochs 1"
DATA = " --dataset tiny --preset none --network convnet2-w4"
TEACHERS = " --teachers.networks convnet2-bn-w4 --teachers.epochs 3 --teachers.no-check"
RIVAL = " --plugin rival --plugin turn --plugin shake --steps 4"
EXPERTS = " --experts.count 2 --experts.epochs 3 --experts.batch 16"
PULL = " --plugin pull --plugin shake --steps 4 --labels per-view --views.epochs 3"
HEED = " --plugin heed --teacher convnet2-bn-w4 --teachers.epochs 3 --teachers.no-check"
PROJECTOR = " --plugin hello --hello.epochs 3 --hello.rank 1 --hello.head prototypes" + TEACHERS
LESSON = " --data tiny --student convnet2-w4 --protocol quick-3 --eval-seeds 2"
SUITE = """
ipc = [1]
seeds = [0]
[run]
network = "convnet2-w4"
protocol = ["quick-3"]
eval_seeds = 1
full_epochs = 1
threads = 1
cache = "cache"
steps = 2
[[data]]
name = "digits"
dataset = "digits"
[[method]]
name = "pull"
plugins = ["pull"]
[[method]]
name = "noise"
plugins = ["pull"]
init = "noise"
"""


@dataclass(frozen=True)
class Recipe:
    """A command that is killed.

    Attributes:
        line: the command line, in a folder of its own; its result is ``run``.
        resumes: whether `ddcore resume` goes on with it once run.json is there; else the same command does.
        again: whether what ended well may be asked for once more.
        needs: what is copied into its folder before.
    """

    line: str
    resumes: bool = True
    again: bool = True
    needs: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The command line's words."""
        return self.line.split()


RECIPES = {
    "experts": Recipe("run" + RIVAL + EXPERTS + DATA + STUDENTS + HERE),
    "teachers": Recipe("run" + PULL + TEACHERS + DATA + STUDENTS + HERE),
    "train": Recipe("train" + HEED + LESSON + HERE),
    "evaluate": Recipe("evaluate set --dataset tiny" + STUDENTS + HERE, needs=("set",)),
    "relabel": Recipe(
        "relabel set --dataset tiny --labels averaged" + TEACHERS + HERE, resumes=False, again=False, needs=("set",)
    ),
    "bench": Recipe("bench suite.toml --out run", resumes=False, needs=("suite.toml",)),
    "fit": Recipe(
        "relabel set --dataset tiny --labels projector" + PROJECTOR + HERE, resumes=False, again=False, needs=("set",)
    ),
    "export": Recipe("export set --to folder --out run", resumes=False, again=False, needs=("set",)),
    "export-pt": Recipe("export set --to pt --out run", resumes=False, needs=("set",)),
    "export-parquet": Recipe("export set --to parquet --out run", resumes=False, needs=("set",)),
    "compare": Recipe("compare run other --out run/comparison.html", resumes=False, needs=("run", "other")),
    "report": Recipe("report run", resumes=False, needs=("run",)),
}


def with_probes() -> dict[str, str]:
    """This process's environment, in which the tests' own plugins are installed."""
    there = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*({PROBES} - {*there}), *filter(None, there)])}


# ---- a process that forks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """How a command is ended.

    Attributes:
        after: seconds of its own CPU time after which it is sent ``number``; None: never.
        change: before which change of a file it ends itself, counted from 1; 0: never.
        torn: only files that are opened to be written are counted, and it ends itself after that, with the file cut in the middle.
        full: pattern of the file, within its folder, before whose writing the disk fills up; empty: it never does.
        removes: a file or folder that is removed then, instead.
        filler: a file on that disk that takes all its room; empty: nothing more can be written, as if the disk were full.
    """

    after: float | None = None
    change: int = 0
    torn: bool = False
    number: int = signal.SIGKILL
    full: str = ""
    filler: str = ""
    removes: str = ""


@dataclass(frozen=True)
class End:
    """How a command ended.

    Attributes:
        code: exit code; negative: the signal that ended it.
        seconds: of CPU time.
        changes: of files that it made, if it lived.
        writes: files that it opened to write, in order, without the folder.
    """

    code: int
    seconds: float
    changes: int
    writes: list[str]
    said: str

    @property
    def traceback(self) -> bool:
        """Whether a person saw one."""
        return "Traceback (most recent" in self.said or "Exception ignored" in self.said


@dataclass
class Parent:
    """The warm process, seen from outside."""

    plots: bool = False
    process: Any = None
    modules: list[str] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)

    def __enter__(self) -> Parent:
        words = [sys.executable, __file__, *(["--plots"] if self.plots else [])]
        environment = {**with_probes(), "OMP_NUM_THREADS": "1", "DDCORE_CHECKPOINT_SECONDS": "0", **self.environment}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(words, env=environment, start_new_session=True, **pipes)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(SECONDS)
        self.process.stdout.close()

    def run(self, words: Sequence[str], folder: Path, fault: Fault | None = None) -> End:
        """Do a command in a child, in a folder."""
        fault = fault or Fault()
        asked = {"words": list(words), "folder": str(folder), "fault": vars(fault) | {"number": int(fault.number)}}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return End(**json.loads(self.process.stdout.readline()))

    def watched(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> tuple[End, list[tuple[str, str]], list[str]]:
        """Do a command in a child with some variables: how it ended, all that it did (``guard.Watch``), modules that it imported."""
        asked = {"words": list(words), "folder": str(folder), "environment": dict(environment)}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        end, seen = End(**json.loads(self.process.stdout.readline())), folder / "seen.json"
        found = json.loads(seen.read_text()) if seen.exists() else {"events": [], "modules": []}
        return end, [tuple(event) for event in found["events"]], found["modules"]

    def race(self, lines: Sequence[Sequence[str]], folders: Sequence[Path]) -> list[End]:
        """Do commands at the same time, each in a folder of its own."""
        self.process.stdin.write(json.dumps({"race": [*map(list, lines)], "folders": [*map(str, folders)]}) + "\n")
        self.process.stdin.flush()
        return [End(**end) for end in json.loads(self.process.stdout.readline())]

    def learn(self, names: Sequence[str], values: Mapping[str, float] = {}) -> None:
        """Import modules, so that children need not, and give children other values of constants: ``module:NAME`` or ``module:Class.name``."""
        self.process.stdin.write(json.dumps({"modules": list(names), "values": dict(values)}) + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()


def serve() -> None:
    """Fork a child for each line of standard input."""
    import torch

    import ddcore.cli.app

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if "--plots" not in sys.argv:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]
    for line in sys.stdin:
        asked = json.loads(line)
        if "modules" in asked:
            for name in asked["modules"]:
                with suppress(ImportError):
                    __import__(name)
            for where, value in asked["values"].items():
                module, _, path = where.partition(":")
                holder, _, name = path.rpartition(".")
                if module in sys.modules:
                    setattr(getattr(sys.modules[module], holder) if holder else sys.modules[module], name, value)
            answer: Any = {}
        elif "race" in asked:
            answer = raced(asked["race"], [Path(folder) for folder in asked["folders"]], ddcore.cli.invoke)
        elif "environment" in asked:
            folder = Path(asked["folder"])
            answer = ended(
                begun(asked["words"], folder, Fault(), partial(overlooked, ddcore.cli.invoke, asked["environment"])),
                folder,
                Fault(),
            )
        else:
            answer = attended(asked["words"], Path(asked["folder"]), Fault(**asked["fault"]), ddcore.cli.invoke)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def attended(words: list[str], folder: Path, fault: Fault, invoke: Any) -> dict[str, Any]:
    """Fork a child that does a command; end it as told."""
    return ended(begun(words, folder, fault, invoke), folder, fault)


def raced(lines: list[list[str]], folders: list[Path], invoke: Any) -> list[dict[str, Any]]:
    """Fork children that do commands at the same time."""
    pids = [begun(words, folder, Fault(), invoke) for words, folder in zip(lines, folders, strict=True)]
    return [ended(pid, folder, Fault()) for pid, folder in zip(pids, folders, strict=True)]


def overlooked(invoke: Any, environment: Mapping[str, str], words: list[str]) -> int:
    """Do a command, and write down all that it does and imports."""
    from guard import Watch  # this file is run as a script

    os.environ.update(environment)
    before, watch = {*sys.modules}, Watch()
    sys.addaudithook(watch.see)
    try:
        return int(invoke(words))
    finally:
        watch.idle = True
        modules = sorted({*sys.modules} - before)
        Path("seen.json").write_text(json.dumps({"events": list(watch.events), "modules": modules}))


def begun(words: list[str], folder: Path, fault: Fault, invoke: Any) -> int:
    """Fork a child."""
    (folder / "changes.txt").unlink(missing_ok=True)
    pid = os.fork()
    if not pid:
        child(words, folder, fault, invoke)
    return pid


def ended(pid: int, folder: Path, fault: Fault) -> dict[str, Any]:
    """Wait for a child, or end it as told."""
    said, changes = folder / "said.txt", folder / "changes.txt"
    code, seconds = watched(pid, fault)
    made = json.loads(changes.read_text()) if changes.exists() else {"changes": 0, "writes": []}
    heard = said.read_text(errors="replace") if said.exists() else ""  # it may have ended before its first word
    return {"code": code, "seconds": seconds, **made, "said": heard}


def child(words: list[str], folder: Path, fault: Fault, invoke: Any) -> None:
    """The forked process: does the command and never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        (folder / "tmp").mkdir(exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        handle = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdin = io.StringIO()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        saboteur = Saboteur(str(folder), fault)
        sys.addaudithook(saboteur.see)
        code = invoke(words)
        sys.stdout.flush()
        saboteur.idle = True
        (folder / "changes.txt").write_text(json.dumps({"changes": saboteur.changes, "writes": saboteur.writes}))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def watched(pid: int, fault: Fault) -> tuple[int, float]:
    """Wait for a child, and send it a signal once it has used so much CPU time."""
    clock, began, sent = (~pid << 3) | 2, time.monotonic(), False
    while True:
        used = os.wait4(pid, os.WNOHANG)
        if used[0]:
            return os.waitstatus_to_exitcode(used[1]), used[2].ru_utime + used[2].ru_stime
        with suppress(OSError, ProcessLookupError):
            if not sent and fault.after is not None and time.clock_gettime(clock) >= fault.after:
                os.kill(pid, fault.number)
                sent = True
        if time.monotonic() - began > SECONDS:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


class Saboteur:
    """Counts what changes files of a folder, by Python's audit events, and ends the process at one of them."""

    def __init__(self, folder: str, fault: Fault) -> None:
        self.folder, self.fault, self.idle = folder + os.sep, fault, False
        self.changes, self.writes, self.appends, self.full = 0, [], False, False

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python calls this before whatever it is that happens."""
        if self.idle or (changed := self.changed(event, arguments)) is None:
            return
        if self.fault.full:
            self.fill(event, changed, arguments)
        if self.fault.torn and len(self.writes) == self.fault.change:
            self.idle = True
            tear(self.folder + self.writes[-1], self.appends)
            os.kill(os.getpid(), signal.SIGKILL)
        self.changes += 1
        if not self.fault.torn and self.changes == self.fault.change:
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "open":
            self.writes.append(changed.removeprefix(self.folder))
            self.appends = bool(arguments[2] & os.O_APPEND)

    def fill(self, event: str, path: str, arguments: tuple[Any, ...]) -> None:
        """Leave no room from the file on that the fault is about; what is there can still be removed and renamed."""
        if not self.full and re.search(self.fault.full, path.removeprefix(self.folder)):
            self.full = True
            if self.fault.removes:
                removed = Path(self.folder, self.fault.removes)
                shutil.rmtree(removed, ignore_errors=True) if removed.is_dir() else removed.unlink(missing_ok=True)
            if self.fault.filler:
                take_all(self.fault.filler)
        grows = event in ("os.mkdir", "os.link", "os.symlink") or (event == "open" and not os.path.exists(path))
        appends = event == "open" and arguments[2] & (os.O_APPEND | os.O_TRUNC)
        if self.full and not self.fault.filler and not self.fault.removes and (grows or appends):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def changed(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        """The path in the folder that an event changes, if it changes one."""
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return None
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"):
            return None
        if isinstance(arguments[0], int):
            return None
        path = os.path.abspath(os.fsdecode(arguments[0]))
        return path if path.startswith(self.folder) else None


def take_all(path: str) -> None:
    """Write a file until its disk is full, to the last byte."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    for piece in (bytes(2**20), bytes(4096), b"0"):
        with suppress(OSError):
            while os.write(handle, piece):
                pass
    os.close(handle)


def tear(path: str, appended: bool) -> None:
    """Leave the first half of a file, or of the last line of a log."""
    with suppress(FileNotFoundError):
        content = Path(path).read_bytes()
        last = content.rstrip(b"\n").rfind(b"\n") + 1 if appended else 0
        os.truncate(path, last + (len(content) - last) // 2)


# ---- what is compared -------------------------------------------------------------------------------------------------


def result(folder: Path) -> dict[str, Any]:
    """What a command left that has to be the same again: sets, weights of experts, teachers and students, scores."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] not in ("run", "cache") or path.name == HOLDER:
            continue
        if name.endswith(".part"):
            found |= {f"{name}, unfinished": True} if name.startswith("run/") else {}
        elif path.name in ("scores.json", "leaderboard.json") or "/records/" in name:
            found[name] = timeless(json.loads(path.read_text()))
        elif path.name == "report.html":
            found[name] = path.read_text().rstrip().endswith("</html>")
        elif is_bits(name):
            found[name] = sha256(path.read_bytes()).hexdigest()
    return found


def is_bits(name: str) -> bool:
    """Whether a file may not differ at all."""
    if name.startswith("cache/"):
        return name.endswith(".safetensors") and "/decoded/" not in name and "/full/" not in name
    made_of_set = "/checkpoints/" not in name and name.split("/")[-1] != "run.json"
    return made_of_set and name.endswith((".safetensors", ".json", ".png", ".md")) and "leaderboard" not in name


def timeless(value: Any) -> Any:
    """JSON without what depends on the clock."""
    if isinstance(value, Mapping):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "created", "time_to_accuracy")}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def phase(folder: Path) -> str:
    """What a run was at, by the last whole line of its log."""
    logs = sorted(folder.glob("run/**/log.jsonl"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return "begin" if not list(folder.glob("run/**/run.json")) else "begun"
    last = "begin"
    for line in logs[-1].read_text(errors="replace").splitlines():
        with suppress(ValueError):
            found = json.loads(line)
            last = found["event"] if found["event"] != "task" else f"{found['kind']} task"
    return last


# ---- attempts --------------------------------------------------------------------------------------------------------


@dataclass
class Attempt:
    """One command, ended some times and gone on with to its end."""

    recipe: str
    faults: list[Fault]
    ends: list[End] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def wrong(self) -> bool:
        """Whether anything about it is."""
        return self.lost or bool(self.differing or self.unsaid) or any(end.traceback for end in self.ends)

    @property
    def kills(self) -> int:
        """Commands that were ended by SIGKILL."""
        return sum(end.code == -signal.SIGKILL for end in self.ends)

    @property
    def lost(self) -> bool:
        """Whether it could not be brought to its end; it may have been killed after that, and refuse to write over what is whole."""
        return not self.ends or (self.ends[-1].code != 0 and not self.complete)

    @property
    def story(self) -> str:
        """For a person who has to find out why."""
        steps = [f"{e.code} in {p}: {e.said[-1500:]}" for e, p in zip(self.ends, self.phases, strict=True)]
        told = "\n".join([f"{self.recipe} {self.faults}", *steps, f"differing: {self.differing}, {self.unsaid}"])
        return told.replace(str(ROOT), "DDCORE").replace(sys.prefix, "PYTHON")


@dataclass
class Ground:
    """Where attempts are made: a warm parent, what commands need, and what they come to when nothing ends them."""

    parent: Parent
    folder: Path
    wholes: dict[str, tuple[dict[str, Any], End]] = field(default_factory=dict)
    number: int = 0

    def fresh(self, recipe: Recipe) -> Path:
        """An empty folder with what a command needs."""
        self.number += 1
        place = self.folder / f"attempt-{self.number:04d}"
        place.mkdir()
        for name in recipe.needs:
            if name in ("set", "run", "other"):
                whole = "teachers" if name == "other" else "experts"
                self.whole(whole)
                made = self.folder / f"whole-{whole}/run"
                shutil.copytree(made / "artifact" if name == "set" else made, place / name)
            else:
                (place / name).write_text(SUITE)
        return place

    def whole(self, name: str) -> tuple[dict[str, Any], End]:
        """The result of a recipe that nothing ends, and how it ended."""
        if name not in self.wholes:
            place, kept = self.fresh(RECIPES[name]), self.folder / f"whole-{name}"
            end = self.parent.run(RECIPES[name].words, place)
            assert end.code == 0, end.said
            place.rename(kept)
            self.wholes[name] = result(kept), end
        return self.wholes[name]

    def attempt(self, name: str, faults: Sequence[Fault]) -> Attempt:
        """Do a command, ended so often, until it ends by itself."""
        made, place = Attempt(name, list(faults)), self.fresh(RECIPES[name])
        for fault in (*faults, None):
            made.ends.append(self.parent.run(following(RECIPES[name], place), place, fault))
            made.phases.append(phase(place))
            made.unsaid += [] if fault is None else unsaid(RECIPES[name], place, fault, made.ends[-1])
            if made.ends[-1].code not in (0, 3, -signal.SIGKILL) or not (made.ends[-1].code or RECIPES[name].again):
                break
        if made.ends[-1].code == 2 and not RECIPES[name].again:
            made.complete = result(place) == self.whole(name)[0]
        if not made.lost:
            made.differing = differing(result(place), self.whole(name)[0])
        shutil.rmtree(place)
        return made

    def stops(self, name: str, generator: random.Random) -> list[Fault]:
        """Faults of one attempt: SIGTERM or Ctrl-C at a moment, and perhaps once more after going on."""
        _, end = self.whole(name)
        count, kinds = generator.choice((1, 1, 2)), (signal.SIGTERM, signal.SIGINT)
        return [Fault(after=generator.uniform(0.02, end.seconds), number=generator.choice(kinds)) for _ in range(count)]

    def moments(self, name: str, generator: random.Random) -> list[Fault]:
        """Faults of one attempt: at a moment or a change of a file, and once or twice more after going on."""
        _, end = self.whole(name)
        return [self.moment(end, generator, 1 if n == 0 else 0.8) for n in range(generator.choice((1, 1, 2, 3)))]

    @staticmethod
    def moment(end: End, generator: random.Random, share: float) -> Fault:
        """Half of all faults are after some time, half at a change of a file."""
        if generator.random() < 0.5:
            return Fault(after=generator.uniform(0, share * end.seconds))
        torn = generator.random() < 2 / 3
        return Fault(
            change=generator.randint(1, max(1, int(share * (len(end.writes) if torn else end.changes)))), torn=torn
        )


def following(recipe: Recipe, place: Path) -> Sequence[str]:
    """What a person types next."""
    if recipe.resumes and (place / "run/run.json").exists():
        return "resume", "run"
    return recipe.words


def unsaid(recipe: Recipe, place: Path, fault: Fault, end: End) -> list[str]:
    """What a command that was asked to stop did not do or say."""
    if fault.number == signal.SIGKILL or end.code == 0:
        return []
    begun = recipe.resumes and (place / "run/run.json").exists()
    way_on = "ddcore resume run" if begun else "same command"
    return [
        *([] if end.code == 3 else [f"exit code {end.code}"]),
        *([] if way_on in end.said else [f"no word of {way_on!r}"]),
    ]


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names under which two results differ."""
    return sorted(name for name in {**one, **other} if one.get(name) != other.get(name))


@contextmanager
def ground(folder: Path | None = None, plots: bool = True) -> Iterator[Ground]:
    """A warm parent and a folder for attempts; reports without plots take half the time."""
    with tempfile.TemporaryDirectory() as scratch, Parent(plots) as parent:
        parent.learn(LEARNT)
        yield Ground(parent, folder or Path(scratch))


LEARNT = (
    "torch._dynamo",
    "ddcore.commands.train",
    "ddcore.commands.bench",
    "ddcore.pages.report",
    "ddcore.pages.leaderboard",
    "ddcore.commands.relabelling",
    "ddcore.scoring.estimate",
    "ddcore.commands.reproduce",
    "ddcore.sets.exports",
    "ddcore.labels.making",
    "ddcore.runs.loop",
    "ddcore.runs.executors",
    "torch.nn.utils.parametrize",
    "ddcore.storage.keeping",
    "ddcore_hello.fitting",
)


CYCLE = ("experts", "teachers", "train", "experts", "relabel", "teachers", "evaluate", "experts", "teachers", "bench")
"""Recipes of attempts: mostly whole distillations."""
OTHERS = ("fit", "evaluate", "export", "relabel", "report", "bench", "fit", "export", "evaluate", "relabel")
"""Recipes of attempts: all that is no distillation and no training."""


def measure(
    kills: int = 100, seed: int = 0, place: Ground | None = None, cycle: Sequence[str] = CYCLE
) -> dict[str, Any]:
    """Attempts that are ended by SIGKILL, most once, some two or three times, and gone on with to their ends.

    Args:
        kills: how often in all, or once or twice more.
        seed: of recipes' moments.
        place: where attempts are made, if there is one already.
        cycle: recipes of attempts.

    Returns:
        ``attempts``; ``kills``; of attempts ``survived`` (the same bits), ``differing``, ``lost``; ``tracebacks``; ``resumes``: commands
        that went on; ``moments``: kills by command and by the last line of the log; ``stories`` of attempts that went wrong.
    """
    generator, attempts = random.Random(seed), []
    with ground() if place is None else nullcontext(place) as here:
        while sum(attempt.kills for attempt in attempts) < kills:
            name = cycle[len(attempts) % len(cycle)]
            attempts.append(here.attempt(name, here.moments(name, generator)))
    return summary(attempts)


def measure_stops(stops: int = 40, seed: int = 0, place: Ground | None = None) -> dict[str, Any]:
    """So many attempts that are asked to stop by SIGTERM or Ctrl-C, and gone on with; as ``measure``, and ``unsaid``."""
    generator, attempts = random.Random(seed), []
    with ground() if place is None else nullcontext(place) as here:
        for number in range(stops):
            name = CYCLE[number % len(CYCLE)]
            attempts.append(here.attempt(name, here.stops(name, generator)))
    return {**summary(attempts), "stops": sum(end.code == 3 for a in attempts for end in a.ends)}


# ---- workers ----------------------------------------------------------------------------------------------------------

LONG_LESSON = (
    f"train --data tiny --student convnet2-w4 --plugin-path {TINY} --protocol quick-120 --eval-seeds 2".split()
)
LONG_LESSON += ["--threads", "1", "--cache", "cache", "--out", "run"]


def started(words: Sequence[str], place: Path) -> subprocess.Popen[bytes]:
    """A command in a process of its own, which may have workers; what it says is in ``said.txt``."""
    environment = {**with_probes(), "OMP_NUM_THREADS": "1", "DDCORE_CHECKPOINT_SECONDS": "0.2"}
    with open(place / "said.txt", "a") as said:
        command = [sys.executable, "-m", "ddcore", *words]
        return subprocess.Popen(command, cwd=place, env=environment, stdout=said, stderr=said, start_new_session=True)


def workers_of(driver: int) -> list[int]:
    """Processes that a driver spawned for tasks."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == driver and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def measure_workers(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Runs with ``--jobs 2`` of which one worker is killed after some epochs; each goes on by itself."""
    generator, whole, ends = random.Random(seed), folder / "whole", []
    whole.mkdir()
    with started(LONG_LESSON, whole) as process:
        process.wait(SECONDS)
    due = result(whole)
    for number in range(kills):
        place = folder / f"killed-{number}"
        place.mkdir()
        with started([*LONG_LESSON, "--jobs", "2"], place) as process:
            killed = kill_a_worker(process, place, generator)
            code = process.wait(SECONDS)
        said = (place / "said.txt").read_text()
        ends.append((killed, code, differing(result(place), due) if code == 0 else [], said))
        shutil.rmtree(place)
    return {
        "runs": kills,
        "kills": sum(killed for killed, *_ in ends),
        "differing": sum(bool(names) for _, _, names, _ in ends),
        "lost": sum(code != 0 for _, code, *_ in ends),
        "tracebacks": sum("Traceback" in said for *_, said in ends),
        "stories": [f"{code} {names}: {said[-1500:]}" for _, code, names, said in ends if code or names],
    }


def kill_a_worker(driver: subprocess.Popen[bytes], place: Path, generator: random.Random) -> bool:
    """Kill one worker of a driver once some epochs are logged; False if the driver ended before."""
    epochs, log, deadline = generator.randint(1, 150), place / "run/log.jsonl", time.monotonic() + SECONDS
    while driver.poll() is None and time.monotonic() < deadline:
        workers = workers_of(driver.pid) if log.exists() and log.read_text().count('"epoch"') >= epochs else []
        if workers:
            with suppress(ProcessLookupError):
                os.kill(generator.choice(workers), signal.SIGKILL)
                return True
        time.sleep(0.02)
    return False


def summary(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """What attempts came to."""
    moments = Counter(
        f"{attempt.recipe}: {at}"
        for attempt in attempts
        for end, at in zip(attempt.ends, attempt.phases, strict=True)
        if end.code != 0
    )
    return {
        "attempts": len(attempts),
        "kills": sum(attempt.kills for attempt in attempts),
        "survived": sum(not a.lost and not a.differing for a in attempts),
        "differing": sum(bool(a.differing) for a in attempts),
        "lost": sum(a.lost for a in attempts),
        "tracebacks": sum(end.traceback for a in attempts for end in a.ends),
        "resumes": sum(len(a.ends) - 1 for a in attempts),
        "moments": dict(sorted(moments.items())),
        "unsaid": sum(len(a.unsaid) for a in attempts),
        "stories": [a.story for a in attempts if a.wrong],
    }


if __name__ == "__main__":
    serve()
