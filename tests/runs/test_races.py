"""Several processes at once in one run folder and one cache, files that vanish while a run works, and disks that fill up."""

import errno
import shutil
from pathlib import Path

import pytest
from reliability import disks, kills

from ddcore.cli.app import invoke
from ddcore.commands import relabelling
from ddcore.commands import train as training
from ddcore.runs import assembly
from ddcore.runs.run import Run
from ddcore.runs.tasks import Tasks
from ddcore.sets import exports

pytestmark = [
    pytest.mark.skipif(not kills.LINUX, reason="the harness forks and reads Linux's CPU clocks and /proc"),
    pytest.mark.usefixtures("probes"),
]


@pytest.fixture(scope="module")
def ground():
    with kills.ground(plots=False) as place:
        yield place


TOLD = ("is being worked on by", "not empty", "holds another run", "exists already")
"""What is said to a process that comes while another one works, and to one that comes after it."""


def racing(ground, name, count, shared):
    """A recipe in several processes at once that share their runs' folder or their cache: ends, and folders."""
    recipe = kills.RECIPES[name]
    folders = [ground.fresh(recipe) for _ in range(count)]
    for folder in folders[1:]:
        (folder / shared).symlink_to(folders[0] / shared)
    (folders[0] / shared).mkdir(exist_ok=True)
    return ground.parent.race([recipe.words] * count, folders), folders


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["experts", "teachers", pytest.param("train", marks=pytest.mark.slow)])
def test_processes_that_share_a_cache_all_end_with_the_same_bits(ground, name, count):
    ends, folders = racing(ground, name, count, "cache")
    assert [end.code for end in ends] == [0] * count, [end.said for end in ends]
    for folder in folders:
        (folder / "cache").unlink() if (folder / "cache").is_symlink() else None
        found = {n: v for n, v in ground.whole(name)[0].items() if n.startswith("run/")}
        assert kills.differing({n: v for n, v in kills.result(folder).items() if n.startswith("run/")}, found) == []
    assert kills.differing(kills.result(folders[0]), ground.whole(name)[0]) == []
    assert not any(end.traceback or "again" in end.said for end in ends)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", ["experts", pytest.param("train", marks=pytest.mark.slow), "evaluate", "bench"])
def test_of_processes_in_one_run_folder_one_works_and_the_others_are_told(ground, name, count):
    ends, folders = racing(ground, name, count, "run")
    assert sorted(end.code for end in ends) == [0] + [2] * (count - 1), [end.said for end in ends]
    for end in ends:
        assert not end.traceback and (end.code == 0 or any(words in end.said for words in TOLD)), end.said
    worked = [folder for folder, end in zip(folders, ends, strict=True) if end.code == 0]
    found, whole = kills.result(folders[0]), ground.whole(name)[0]
    assert kills.differing(*({n: v for n, v in f.items() if n.startswith("run/")} for f in (found, whole))) == []
    assert len(worked) == 1


@pytest.mark.parametrize("name", ["fit", "relabel", "export"])
def test_processes_that_write_one_set_write_the_same_bits_or_are_told(ground, name):
    ends, folders = racing(ground, name, 3, "run")
    assert 0 in [end.code for end in ends]
    for end in ends:
        assert not end.traceback and (end.code == 0 or any(words in end.said for words in TOLD)), end.said
    found = {n: v for n, v in kills.result(folders[0]).items() if n.startswith("run/")}
    assert kills.differing(found, {n: v for n, v in ground.whole(name)[0].items() if n.startswith("run/")}) == []


# ---- one process between the first look and the work of another ------------------------------------------------------

BETWEEN = [
    ("experts", Tasks, "at_work"),
    ("train", Tasks, "at_work"),
    ("evaluate", Tasks, "at_work"),
    ("bench", Tasks, "at_work"),
    ("relabel", relabelling, "relabelled"),
    ("fit", relabelling, "relabelled"),
    ("export", exports, "_pngs"),
    ("export-pt", exports, "_saved"),
    ("export-parquet", exports, "_pngs"),
]
"""A recipe; what is called between its first look at the folder and its first work in there."""


def coming_between(monkeypatch, where, name, come):
    """Call something once, before a function is called for the first time."""
    real = getattr(where, name)

    def called(*given, **named):
        if not came:
            came.append(come())
        return real(*given, **named)

    came: list[object] = []
    monkeypatch.setattr(where, name, called)
    return came


@pytest.mark.parametrize(("name", "where", "function"), BETWEEN, ids=[name for name, *_ in BETWEEN])
def test_who_comes_between_the_look_and_the_work_of_another_is_told(name, where, function, ground, monkeypatch, capsys):
    first, second = here_and_another(ground, name, monkeypatch)
    words = kills.RECIPES[name].words
    came = coming_between(monkeypatch, where, function, lambda: ground.parent.run(words, second))
    assert invoke(words) == 0, capsys.readouterr().err
    (end,) = came
    assert end.code == 2 and not end.traceback and (TOLD[0] in end.said or TOLD[2] in end.said), end.said
    assert kills.differing(of_run(kills.result(first)), of_run(ground.whole(name)[0])) == []
    assert (first / "run/.lock").exists() == (name in ("experts", "train", "evaluate", "bench"))
    assert not (first / "run/.holder.json").exists()


@pytest.mark.parametrize(("name", "where"), [("experts", assembly), ("train", training)])
def test_who_looked_before_another_began_cannot_take_its_folder_from_it(name, where, ground, monkeypatch, capsys):
    """Its hold, short as it is, would be what the other one is refused for: then nobody works."""
    here_and_another(ground, name, monkeypatch)
    words, real, looks = kills.RECIPES[name].words, where.claim, []

    def claim(place):
        looks.append(place.url)
        if len(looks) == 3:  # the other's two; this is the late one's first, which was before them
            return
        real(place)

    def late():
        assert len(looks) == 2
        return invoke(words), capsys.readouterr().err

    monkeypatch.setattr(where, "claim", claim)
    came = coming_between(monkeypatch, Tasks, "at_work", late)
    assert invoke(words) == 0, capsys.readouterr().err
    code, said = came[0]
    assert code == 2 and TOLD[0] in said and len(looks) == 3, said


def test_who_comes_between_the_look_and_the_work_of_a_resume_is_told(ground, monkeypatch, capsys):
    first, second = here_and_another(ground, "experts", monkeypatch)
    assert ground.parent.run(kills.RECIPES["experts"].words, first, kills.Fault(change=40)).code < 0
    resume = ["resume", "run"]
    came = coming_between(monkeypatch, Tasks, "at_work", lambda: ground.parent.run(resume, second))
    assert invoke(resume) == 0, capsys.readouterr().err
    assert came[0].code == 2 and TOLD[0] in came[0].said and not came[0].traceback, came[0].said
    assert kills.differing(of_run(kills.result(first)), of_run(ground.whole("experts")[0])) == []


@pytest.mark.parametrize("to", ["folder", "pt"])
def test_two_exports_of_one_set_under_different_labels_are_not_mixed(to, ground, monkeypatch, capsys):
    first, second = here_and_another(ground, "export", monkeypatch)
    words = ["export", "set", "--to", to, "--out", "run"]
    function = "_pngs" if to == "folder" else "_saved"
    came = coming_between(
        monkeypatch, exports, function, lambda: ground.parent.run([*words, "--labels", "hard"], second)
    )
    assert invoke(words) == 0, capsys.readouterr().err
    assert came[0].code == 2 and TOLD[0] in came[0].said, came[0].said
    alone = ground.fresh(kills.RECIPES["export"])
    assert ground.parent.run(words, alone).code == 0
    made = [
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (first / "run", alone / "run")
    ]
    assert made[0] == made[1]


def test_of_two_exports_to_one_file_the_first_stays(ground, monkeypatch, capsys):
    first, _ = here_and_another(ground, "export", monkeypatch)
    words = ["export", "set", "--to", "pt", "--out", "set.pt"]
    came = coming_between(monkeypatch, exports, "_saved", lambda: ground.parent.run(words, first).code)
    assert invoke(words) == 2 and came == [0]
    assert "set.pt was made by another process meanwhile: give --out a new place" in capsys.readouterr().err


def here_and_another(ground, name, monkeypatch):
    """Two folders with one run's folder: this process is in the first."""
    recipe = kills.RECIPES[name]
    ground.whole(name)
    first, second = ground.fresh(recipe), ground.fresh(recipe)
    (second / "run").symlink_to(first / "run")
    monkeypatch.chdir(first)
    monkeypatch.setenv("DDCORE_CHECKPOINT_SECONDS", "0")
    return first, second


def of_run(found):
    """Of a result what lies in the run's folder."""
    return {name: value for name, value in found.items() if name.startswith("run/")}


# ---- what vanishes while a run works ---------------------------------------------------------------------------------


def vanishing(monkeypatch, what, event, count=1):
    """Remove something when a run logs an event for the n-th time, once."""
    log, seen = Run.log, []

    def removing(run, name, **fields):
        log(run, name, **fields)
        seen.append(name)
        if name == event and seen.count(event) == count:
            for path in [Path(what)] if "*" not in what else list(Path().glob(what)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    monkeypatch.setattr(Run, "log", removing)


VANISHING = [
    ("cache", "expert", 2),
    ("cache", "step", 2),
    ("cache/experts/*/expert-001/epoch-00*", "step", 1),
    ("cache/full", "row", 1),
    ("run/checkpoints", "expert", 4),
    ("run/checkpoints", "step", 3),
    ("run/artifact", "epoch", 1),
    ("run/log.jsonl", "step", 2),
    ("run/run.json", "step", 2),
    ("run", "expert", 2),
    ("run", "step", 2),
    ("run", "row", 1),
]


@pytest.mark.parametrize(("what", "event", "count"), VANISHING)
def test_what_vanishes_while_a_run_works_is_made_again_or_named(
    what, event, count, ground, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDCORE_CHECKPOINT_SECONDS", "0")
    words = kills.RECIPES["experts"].words
    with monkeypatch.context() as patched:
        vanishing(patched, what, event, count)
        code = invoke(words)
    said = capsys.readouterr().err
    assert code in (0, 2) and (code == 0 or said.count("error:") == 1), said
    if what == "run":
        assert code == 2 and "was removed while this process worked there: give the command again" in said
        shutil.rmtree("run")
    if code:
        again = ["resume", "run"] if Path("run/run.json").exists() else words
        if again == words:
            shutil.rmtree("run", ignore_errors=True)
        assert invoke(again) == 0, capsys.readouterr().err
    if what.startswith("run") or code:
        assert kills.differing(only_sets(kills.result(tmp_path)), only_sets(ground.whole("experts")[0])) == []


GONE = [
    ("train", "^run/checkpoints/.*student", "run"),
    ("train", "^run/checkpoints/.*plain", "run/checkpoints"),
    ("train", "^run/checkpoints/.*plain", "cache"),
    ("evaluate", "^run/checkpoints/.*distilled", "run"),
    ("evaluate", "^run/checkpoints/.*random", "cache"),
    ("relabel", "^cache/teachers/.*weights", "cache"),
    ("relabel", "^tmp/.*done", "tmp"),
    ("relabel", "^run/.*labels", "run"),
    ("fit", "^cache/projectors/.*safetensors", "cache"),
    ("export", "^run/.*png", "run"),
    ("bench", "^run/runs/noise.*checkpoints", "run"),
    ("bench", "^run/runs/noise.*checkpoints", "run/runs"),
    ("bench", "^run/.*leaderboard.html", "run/leaderboard.json"),
]
"""A recipe; before the writing of which file; what is removed then."""


@pytest.mark.parametrize(("name", "at", "what"), GONE)
def test_what_vanishes_under_other_commands_is_one_sentence_and_the_next_one_is_whole(name, at, what, ground):
    recipe = kills.RECIPES[name]
    place = ground.fresh(recipe)
    end = ground.parent.run(recipe.words, place, kills.Fault(full=at, removes=what))
    said = [line for line in end.said.splitlines() if line.startswith("error:")]
    assert end.code in (0, 2) and not end.traceback and len(said) <= 1, end.said
    if end.code:
        shutil.rmtree(place / "run", ignore_errors=True)
        assert ground.parent.run(recipe.words, place).code == 0
        assert kills.differing(kills.result(place), ground.whole(name)[0]) == []


def only_sets(found):
    """Of a result the set and the scores; warnings of what vanished may stand beside."""
    scores = {n: v["rows"] if n.endswith("scores.json") else v for n, v in found.items()}
    return {n: v for n, v in scores.items() if n.startswith("run/artifact/") or n.endswith("scores.json")}


# ---- a full disk -----------------------------------------------------------------------------------------------------

QUICK = (
    *("the record of a run", "the log", "data that were seen", "the first expert", "a finished teacher", "a snapshot"),
    *("the artifact's labels", "a finished evaluation", "the full data's row", "the scores", "the report"),
    *("a report made again", "a comparison", "an export of pictures", "an export to parquet", "a scratch folder"),
    *("a relabelled set's labels", "an evaluation's scores", "a student", "a suite's second run", "a leaderboard"),
)


@pytest.mark.parametrize(
    "stage", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in disks.STAGES]
)
def test_a_command_without_room_says_so_and_goes_on_to_the_same_bits_when_there_is(stage, ground):
    found = disks.simulated(ground, stage)
    assert found["full"] and not found["wrong"], found


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    if not disks.can_mount(tmp_path_factory.mktemp("disk")):
        pytest.skip("this process may not mount a small disk")


@pytest.mark.parametrize("stage", ["an expert's last epoch", "the artifact's images", "a record in a scratch folder"])
def test_a_really_full_disk_is_the_same(stage, disk, ground):
    found = disks.fill(ground, stage)
    assert found["full"] and not found["wrong"], found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_really_full_disks_at_every_stage_lose_nothing(disk, tmp_path):
    found = disks.measure(tmp_path)
    assert found["full"] == found["disks"] and not found["wrong"], found["stories"]


def test_any_write_that_finds_a_disk_full_is_one_sentence(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/x")

    monkeypatch.setattr("ddcore.cli.app.every_preset", full)
    assert invoke(["presets", "--json"]) == 3
    said = capsys.readouterr()
    assert (
        said.err == "stopped: /tmp/x cannot be written, the disk is full: make room, then give the same command again\n"
    )
    assert '"exit_code": 3' in said.out
