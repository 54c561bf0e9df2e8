"""Several processes at once in one run folder and one cache, files that vanish while a run works, and disks that fill up."""

import shutil
from pathlib import Path

import pytest
from reliability import disks, kills

from ddcore.cli.app import invoke
from ddcore.runs.run import Run

pytestmark = [
    pytest.mark.skipif(not kills.LINUX, reason="the harness forks and reads Linux's CPU clocks and /proc"),
    pytest.mark.usefixtures("probes"),
]


@pytest.fixture(scope="module")
def ground():
    with kills.ground(plots=False) as place:
        yield place


def racing(ground, name, count, shared):
    """A recipe in several processes at once that share their runs' folder or their cache: ends, and folders."""
    recipe = kills.RECIPES[name]
    folders = [ground.fresh(recipe) for _ in range(count)]
    for folder in folders[1:]:
        (folder / shared).symlink_to(folders[0] / shared)
    (folders[0] / shared).mkdir()
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
def test_of_processes_in_one_run_folder_one_works_and_the_others_are_told(ground, count):
    ends, folders = racing(ground, "experts", count, "run")
    assert sorted(end.code for end in ends) == [0] + [2] * (count - 1), [end.said for end in ends]
    for end in ends:
        assert not end.traceback
        assert end.code == 0 or "is being worked on by" in end.said or "not empty" in end.said, end.said
    worked = [folder for folder, end in zip(folders, ends, strict=True) if end.code == 0]
    found, whole = kills.result(folders[0]), ground.whole("experts")[0]
    assert kills.differing(*({n: v for n, v in f.items() if n.startswith("run/")} for f in (found, whole))) == []
    assert len(worked) == 1


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


def only_sets(found):
    """Of a result the set and the scores; warnings of what vanished may stand beside."""
    scores = {n: v["rows"] if n.endswith("scores.json") else v for n, v in found.items()}
    return {n: v for n, v in scores.items() if n.startswith("run/artifact/") or n.endswith("scores.json")}


# ---- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    if not disks.can_mount(tmp_path_factory.mktemp("disk")):
        pytest.skip("this process may not mount a small disk")


@pytest.mark.parametrize("share", [0.05, 0.4, 0.7])
def test_a_run_on_a_full_disk_says_so_and_goes_on_to_the_same_bits_when_there_is_room(disk, ground, share):
    found = disks.fill(ground, "experts", int(share * disks.needed(ground, "experts")))
    assert found["full"] and not found["wrong"], found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_commands_on_full_disks_of_many_sizes_lose_nothing(disk, tmp_path):
    found = disks.measure(20, tmp_path)
    assert found["full"] and not found["wrong"], found["stories"]
