"""Commands that are killed or told to stop anywhere go on to the bits of those that nothing ended; their workers end with them."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from reliability import kills

from ddcore.cli.app import invoke
from ddcore.errors import Interrupted
from ddcore.runs.opening import open_run
from ddcore.sets.artifact import load_artifact
from ddcore.storage.places import Place
from ddcore.storage.progress import on_signals

pytestmark = [
    pytest.mark.skipif(not kills.LINUX, reason="the harness forks and reads Linux's CPU clocks and /proc"),
    pytest.mark.usefixtures("probes"),
]
TINY = [
    "--plugin-path",
    kills.TINY,
    "--dataset",
    "tiny",
    "--preset",
    "none",
    "--network",
    "convnet2-w4",
    "--threads",
    "1",
]
OTHERS = [name for name in kills.OTHERS if name != "fit"]
QUICK = ["--protocol", "quick-3", "--eval-seeds", "1", "--full-epochs", "1", "--cache", "cache"]


def assert_nothing_lost(found):
    assert found["survived"] == found["attempts"], "\n\n".join(found["stories"])
    assert (found["lost"], found["differing"], found["tracebacks"], found["unsaid"]) == (0, 0, 0, 0), found["stories"]


# ---- anywhere --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ground():
    with kills.ground(plots=False) as place:
        yield place


def test_commands_that_are_killed_twenty_times_give_the_same_bits(ground):
    found = kills.measure(20, seed=1, place=ground)
    assert_nothing_lost(found)
    assert found["kills"] >= 20


def test_commands_that_are_told_to_stop_say_how_to_go_on_and_do(ground):
    found = kills.measure_stops(6, seed=2, place=ground)
    assert_nothing_lost(found)
    assert found["stops"] >= 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_commands_that_are_killed_a_hundred_times_give_the_same_bits():
    assert_nothing_lost(kills.measure(100, seed=3))


def test_other_commands_that_are_killed_give_the_same_bits(ground):
    found = kills.measure(12, seed=5, place=ground, cycle=OTHERS)
    assert_nothing_lost(found)
    assert found["kills"] >= 12


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_other_commands_that_are_killed_a_hundred_times_give_the_same_bits():
    assert_nothing_lost(kills.measure(100, seed=6, cycle=OTHERS))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_runs_whose_workers_are_killed_ten_times_give_the_same_bits(tmp_path):
    found = kills.measure_workers(10, seed=7, folder=tmp_path)
    assert (found["differing"], found["lost"], found["tracebacks"]) == (0, 0, 0), found["stories"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_commands_that_are_told_to_stop_sixty_times_give_the_same_bits():
    assert_nothing_lost(kills.measure_stops(60, seed=4))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("recipe", "every"), [("experts", 9), ("teachers", 9), ("train", 5), ("relabel", 1)])
def test_a_command_that_ends_before_or_in_the_middle_of_a_change_of_a_file_gives_the_same_bits(recipe, every, ground):
    end = ground.whole(recipe)[1]
    faults = [kills.Fault(change=n) for n in range(1, end.changes + 1, every)]
    faults += [kills.Fault(change=n, torn=True) for n in range(1, len(end.writes) + 1, every)]
    assert_nothing_lost(kills.summary([ground.attempt(recipe, [fault]) for fault in faults]))


@pytest.mark.parametrize("fault", [kills.Fault(change=1), kills.Fault(change=9), kills.Fault(change=3, torn=True)])
def test_a_run_that_is_killed_while_it_begins_begins_again_by_the_same_command(fault, ground):
    attempt = ground.attempt("train", [fault])
    assert attempt.kills == 1 and not attempt.wrong, attempt.story


@pytest.mark.parametrize(("recipe", "kind"), [("train", "checkpoints/"), ("train", "students/"), ("relabel", "labels")])
def test_a_file_that_a_kill_leaves_half_written_is_never_read_as_whole(recipe, kind, ground):
    writes = [n for n, name in enumerate(ground.whole(recipe)[1].writes, 1) if kind in name]
    assert writes
    for number in {writes[len(writes) // 2], writes[-1]}:
        attempt = ground.attempt(recipe, [kills.Fault(change=number, torn=True)])
        assert attempt.kills == 1 and not attempt.wrong, attempt.story


# ---- the harness itself ----------------------------------------------------------------------------------------------


def test_the_harness_tears_a_file_in_its_middle_and_a_log_in_its_last_line(tmp_path):
    (tmp_path / "file").write_bytes(b"12345678")
    (tmp_path / "log").write_bytes(b"first line\nsecond\n")
    kills.tear(str(tmp_path / "file"), appended=False)
    kills.tear(str(tmp_path / "log"), appended=True)
    assert (tmp_path / "file").read_bytes() == b"1234"
    assert (tmp_path / "log").read_bytes() == b"first line\nsec"


def test_the_harness_counts_what_changes_files_of_its_folder_and_nothing_else(tmp_path):
    saboteur = kills.Saboteur(str(tmp_path), kills.Fault())
    inside, outside = str(tmp_path / "x"), "/elsewhere/x"
    for event, arguments in [
        ("open", (inside, "w", os.O_WRONLY)),
        ("open", (inside, "r", os.O_RDONLY)),
        ("open", (outside, "w", os.O_WRONLY)),
        ("open", (3, "w", os.O_WRONLY)),
        ("os.rename", (inside, inside + "y", -1, -1)),
        ("import", ("x",)),
    ]:
        saboteur.see(event, arguments)
    assert (saboteur.changes, saboteur.writes) == (2, ["x"])


# ---- what was mended, one by one -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C is heard, though what began the tests may have ignored it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def distilled(folder):
    assert invoke(["run", "--plugin", "pull", *TINY, *QUICK, "--steps", "1", "--out", "made"]) == 0
    return folder / "made/artifact"


def test_an_evaluation_that_was_stopped_is_gone_on_with(folder, distilled, capsys):
    assert invoke(["evaluate", str(distilled), *TINY[:2], *QUICK, "--out", "scored"]) == 0
    whole = json.loads((folder / "scored/scores.json").read_text())
    (folder / "scored/scores.json").unlink()
    (next((folder / "scored/checkpoints").glob("*.done.safetensors"))).unlink()
    capsys.readouterr()
    assert invoke(["resume", "scored"]) == 0
    assert kills.timeless(json.loads((folder / "scored/scores.json").read_text())) == kills.timeless(whole)
    assert not (folder / "scored/artifact").exists() and "distilled" in capsys.readouterr().out


def test_a_relabelling_that_was_stopped_while_it_wrote_writes_again_and_never_over_other_files(
    folder, distilled, capsys
):
    line = ["relabel", str(distilled), "--labels", "hard", *TINY[:2], "--out", "new"]
    (folder / "new").mkdir()
    (folder / "new/README.md").write_text("mine")
    assert invoke(line) == 2
    assert (folder / "new/README.md").read_text() == "mine"
    (folder / "new/images.safetensors").write_bytes(b"half")
    (folder / "new/.labels.safetensors.99999999-0123abcd.part").write_bytes(b"half")
    assert invoke(line) == 0
    assert invoke(line) == 2
    assert "is not empty" in capsys.readouterr().err
    assert not list((folder / "new").glob(".*"))


def test_a_stop_of_work_in_no_folder_says_to_give_the_command_again(folder, distilled, capsys, monkeypatch):
    def told(run, rows):
        os.kill(os.getpid(), signal.SIGTERM)
        return rows

    monkeypatch.setattr("ddcore.runs.distil.marked", told)
    assert invoke(["evaluate", str(distilled), *TINY[:2], *QUICK]) == 3
    said = capsys.readouterr().err
    assert "give the same command again" in said and "ddcore resume" not in said


def test_warnings_of_before_a_stop_are_in_the_scores(folder, monkeypatch):
    def warned(run, tasks):
        run.warn("of before")
        raise SystemExit(9)

    line = ["run", "--plugin", "pull", *TINY, *QUICK, "--steps", "1", "--out", "made"]
    with monkeypatch.context() as patched:
        patched.setattr("ddcore.runs.distil.assemble", warned)
        with pytest.raises(SystemExit):
            invoke(line)
    assert invoke(["resume", "made"]) == 0
    assert json.loads((folder / "made/scores.json").read_text())["warnings"] == ["of before"]


def test_what_killed_processes_had_begun_to_write_is_removed_when_the_run_goes_on(folder, distilled):
    left = folder / "made/checkpoints/.x.safetensors.77-0123abcd.part"
    left.write_bytes(b"half")
    (folder / "made/mine.part").write_text("not ours")
    assert invoke(["resume", "made"]) == 0
    assert not left.exists() and (folder / "made/mine.part").exists()


def test_unfinished_files_are_told_by_the_name_that_writing_gives_them(folder, monkeypatch):
    def cut(source, target):
        Path(source).rename(f"{source}.kept")
        raise OSError(5, "cut")

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(Exception, match="cut"):
        (Place.at(folder) / "a file.json").write_bytes(b"x")
    (name,) = (path.name for path in folder.glob(".*.kept"))
    (folder / name).rename(folder / name.removesuffix(".kept"))
    Place.at(folder).remove_unfinished()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_at_once_where_no_task_is_done_and_at_the_next_step_where_one_is(number, folder, distilled):
    run, reached = open_run("made"), []
    with pytest.raises(Exception, match="ddcore resume made"), run.tasks.stoppable():
        run.tasks.stepping = True
        os.kill(os.getpid(), number)
        reached.append("the next step")
        run.check_stop()
    run.tasks.stepping = run.stopping = False
    with pytest.raises(Exception, match="ddcore resume made"), run.tasks.stoppable():
        os.kill(os.getpid(), number)
        reached.append("more")
    assert reached == ["the next step"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_compiled_code_makes_of_a_stop_is_a_stop_and_a_fault_before_one_stays_a_fault(number, folder, distilled):
    run = open_run("made")
    with pytest.raises(Interrupted, match="ddcore resume made"), run.tasks.stoppable():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise TypeError("incompatible function arguments") from None
    run.stopping = False
    with pytest.raises(TypeError, match="of its own"), run.tasks.stoppable():
        raise TypeError("of its own")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_resume_that_is_stopped_before_it_has_begun_names_itself(number, folder, distilled, monkeypatch, capsys):
    monkeypatch.setattr("ddcore.runs.opening.reopen", lambda folder, **_: os.kill(os.getpid(), number))
    assert invoke(["resume", "my runs/made"]) == 3
    assert "go on with `ddcore resume 'my runs/made'`" in capsys.readouterr().err


RUN = ["run", "--plugin", "pull", *TINY, *QUICK, "--steps", "1"]
TRAIN = ["train", "--data", "tiny", "--student", "convnet2-w4", *TINY[:2], "--threads", "1", *QUICK[:4], *QUICK[6:]]
EVALUATE = ["evaluate", "made/artifact", *TINY[:2], *QUICK]


@pytest.mark.parametrize("command", [RUN, TRAIN, EVALUATE], ids=lambda words: words[0])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_stop_around_the_writing_of_a_record_says_how_to_go_on(command, late, folder, distilled, monkeypatch, capsys):
    write = Place.write_json

    def stopped(place, value):
        if late or place.name != "run.json":
            write(place, value)
        if place.name == "run.json":
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Place, "write_json", stopped)
    words = [*command, "--out", "other"]
    assert invoke(words) == 3
    said = capsys.readouterr().err
    assert ("go on with `ddcore resume other`" if late else "give the same command again") in said
    monkeypatch.setattr(Place, "write_json", write)
    assert invoke(["resume", "other"] if late else words) == 0
    assert (folder / "other/scores.json").exists()


@pytest.mark.parametrize("name", ["images.safetensors", "manifest.json"])
def test_a_relabelling_that_is_stopped_while_it_writes_is_done(name, folder, distilled, monkeypatch):
    write = Place.write_bytes

    def stopped(place, data):
        write(place, data)
        if place.name == name and "other" in place.url:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Place, "write_bytes", stopped)
    words = [
        "--labels",
        "averaged",
        "--teachers.networks",
        "convnet2-bn-w4",
        "--teachers.epochs",
        "1",
        "--teachers.no-check",
    ]
    assert invoke(["relabel", "made/artifact", *TINY[:2], *words, "--cache", "cache", "--out", "other"]) == 0
    assert load_artifact("other").labels.kind == "soft"


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with on_signals(lambda: pytest.fail("it was heard")):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


# ---- processes of their own ------------------------------------------------------------------------------------------

LESSON = kills.LONG_LESSON


@pytest.fixture(scope="module")
def lesson(tmp_path_factory, ground):
    """The same training in one process, which nothing ended."""
    place = tmp_path_factory.mktemp("lesson")
    assert ground.parent.run(LESSON, place).code == 0
    return kills.result(place)


def wait_for_event(place, event, process, count=1):
    deadline = time.monotonic() + kills.SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        log = place / "run/log.jsonl"
        if log.exists() and log.read_text().count(f'"event": "{event}"') >= count:
            return
        time.sleep(0.01)
    pytest.fail((place / "said.txt").read_text())


def wait_until_gone(pids):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
            return
        time.sleep(0.05)
    pytest.fail(f"workers {pids} outlived their driver")


def test_a_run_whose_worker_is_killed_goes_on_by_itself_to_the_same_bits(ground, tmp_path_factory):
    tmp_path, whole, words = (
        tmp_path_factory.mktemp("killed"),
        tmp_path_factory.mktemp("whole"),
        [*LESSON, "--eval-seeds", "1"],
    )
    assert ground.parent.run(words, whole).code == 0
    with kills.started([*words, "--jobs", "2"], tmp_path) as driver:
        wait_for_event(tmp_path, "epoch", driver)
        (worker,) = kills.workers_of(driver.pid)
        os.kill(worker, signal.SIGKILL)
        assert driver.wait(kills.SECONDS) == 0, (tmp_path / "said.txt").read_text()
    assert kills.differing(kills.result(tmp_path), kills.result(whole)) == []
    assert "Traceback" not in (tmp_path / "said.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_is_told_to_stop_has_its_workers_stop_at_their_next_steps(number, lesson, tmp_path):
    with kills.started([*LESSON, "--jobs", "2"], tmp_path) as driver:
        wait_for_event(tmp_path, "epoch", driver, 4)
        workers = kills.workers_of(driver.pid)
        os.killpg(driver.pid, number) if number == signal.SIGINT else driver.send_signal(number)
        assert driver.wait(60) == 3, (tmp_path / "said.txt").read_text()
    wait_until_gone(workers)
    said = (tmp_path / "said.txt").read_text()
    assert "ddcore resume run" in said and "Traceback" not in said
    assert list((tmp_path / "run/checkpoints").glob("*.safetensors"))
    with kills.started(["resume", "run"], tmp_path) as driver:
        assert driver.wait(kills.SECONDS) == 0, (tmp_path / "said.txt").read_text()
    assert kills.differing(kills.result(tmp_path), lesson) == []


@pytest.mark.slow
def test_no_worker_outlives_a_killed_driver_and_the_run_goes_on_to_the_same_bits(lesson, tmp_path):
    with kills.started([*LESSON, "--jobs", "2"], tmp_path) as driver:
        wait_for_event(tmp_path, "epoch", driver, 4)
        workers = kills.workers_of(driver.pid)
        driver.kill()
        driver.wait()
    assert workers
    wait_until_gone(workers)
    with kills.started(["resume", "run"], tmp_path) as driver:
        assert driver.wait(kills.SECONDS) == 0, (tmp_path / "said.txt").read_text()
    assert kills.differing(kills.result(tmp_path), lesson) == []


@pytest.mark.slow
def test_fresh_processes_that_are_killed_go_on_to_the_same_bits(tmp_path_factory):
    whole, killed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    words = kills.RECIPES["experts"].words
    with kills.started(words, whole) as process:
        assert process.wait(kills.SECONDS) == 0
    for event, line in (("expert", words), ("step", ["resume", "run"]), ("epoch", ["resume", "run"])):
        with kills.started(line, killed) as process:
            wait_for_event(killed, event, process)
            process.kill()
    with kills.started(["resume", "run"], killed) as process:
        assert process.wait(kills.SECONDS) == 0
    assert kills.differing(kills.result(killed), kills.result(whole)) == []
