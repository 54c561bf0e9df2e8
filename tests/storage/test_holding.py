"""Who works in a folder: one process at a time, on local disks by a lock, elsewhere by a file that is renewed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

import pytest

from ddcore.cli.app import invoke
from ddcore.errors import InputError
from ddcore.storage import holding
from ddcore.storage.holding import HOLDER, held
from ddcore.storage.places import Place

pytestmark = pytest.mark.usefixtures("probes")

HOLD = """
import sys, time
from ddcore.storage.holding import held
from ddcore.storage import Place
with held(Place.at(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def remote():
    return Place.at(f"memory://{uuid.uuid4().hex}/run")


def test_the_second_is_told_who_holds_a_folder(holder, tmp_path):
    said = rf"run is being worked on by process {holder.pid} on {socket.gethostname()} since .*: wait for it or stop it"
    with pytest.raises(InputError, match=said), held(Place.at(tmp_path / "run")):
        pass


def test_a_killed_holder_holds_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / HOLDER).exists()
    with held(Place.at(tmp_path / "run")):
        assert json.loads((tmp_path / "run" / HOLDER).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / HOLDER).exists()


@pytest.mark.parametrize("command", [["resume"], ["run", "--plugin", "pull", "--dataset", "digits", "--out"]])
def test_commands_say_it_and_touch_nothing(holder, tmp_path, capsys, command):
    place = tmp_path / "run"
    if command == ["resume"]:
        words = [
            "run",
            "--plugin",
            "pull",
            "--dataset",
            "digits",
            "--network",
            "convnet2-w4",
            "--preset",
            "none",
            "--steps",
            "1",
            "--out",
        ]
        assert invoke([*words, str(tmp_path / "done"), "--protocol", "quick-1", "--full-epochs", "1"]) == 0
        (place / "run.json").write_bytes((tmp_path / "done" / "run.json").read_bytes())
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert invoke([*command, str(place)]) == 2
    assert f"is being worked on by process {holder.pid}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_folder_can_be_held_again_and_within_another(tmp_path):
    place = Place.at(tmp_path / "a")
    for _ in range(2):
        with held(place), held(place / "b"):
            assert (place / HOLDER).exists() and (place / "b" / HOLDER).exists()


def test_a_remote_folder_is_held_by_who_renews_it(remote, monkeypatch):
    monkeypatch.setattr(holding, "RENEWED", 0.01)
    with held(remote):
        first = (remote / HOLDER).read_json()["renewed"]
        with pytest.raises(InputError, match=f"process {os.getpid()} on"), held(remote):
            pass
        deadline = time.monotonic() + 10
        while (remote / HOLDER).read_json()["renewed"] == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (remote / HOLDER).read_json()["renewed"] > first
    assert not (remote / HOLDER).exists()


@pytest.mark.parametrize(
    ("change", "free"),
    [
        ({}, False),
        ({"renewed": 0}, True),
        ({"renewed": "soon"}, True),
        ({"host": "another machine"}, False),
        ({"pid": 2**22 + 7}, True),
        ({"pid": 2**22 + 7, "host": "another machine"}, False),
    ],
)
def test_a_remote_holder_counts_until_it_is_known_to_be_gone(remote, change, free):
    now = time.time()
    ours = {"host": socket.gethostname(), "pid": os.getppid(), "since": now, "renewed": now, "token": "t"}
    (remote / HOLDER).write_json({**ours, **change})
    if free:
        with held(remote):
            pass
        return
    with pytest.raises(InputError, match="is being worked on by"), held(remote):
        pass


def test_of_two_that_come_at_once_to_a_remote_folder_the_later_writer_has_it(remote, monkeypatch):
    write = Place.write_json

    def overtaken(place, content):
        write(place, content)
        monkeypatch.setattr(Place, "write_json", write)
        write(place, {**content, "token": "other", "pid": 7})

    monkeypatch.setattr(Place, "write_json", overtaken)
    with pytest.raises(InputError, match="process 7"), held(remote):
        pass


def test_a_damaged_note_of_a_holder_is_none(remote):
    (remote / HOLDER).write_bytes(b"[")
    with held(remote):
        assert (remote / HOLDER).read_json()["pid"] == os.getpid()


# ---- what a holder's file may say ------------------------------------------------------------------------------------

ABSURD = [1e300, -1e300, 10**18, -(10**18), 2**63, True, "soon", None, [], {"a": 1}]


@pytest.mark.parametrize("value", ABSURD, ids=str)
@pytest.mark.parametrize("name", ["since", "renewed", "pid", "host", "token"])
def test_a_holders_file_that_says_anything_is_one_sentence_or_none(remote, name, value):
    now = time.time()
    ours = {"host": "another machine", "pid": os.getppid(), "since": now, "renewed": now, "token": "t"}
    (remote / HOLDER).write_json({**ours, name: value})
    try:
        with held(remote):
            assert (remote / HOLDER).read_json()["token"] != ours["token"]
    except InputError as error:
        assert "is being worked on by process" in str(error) and (remote / HOLDER).url in str(error)


@pytest.mark.parametrize("pid", [2**63, -1, 0, 2**31, True, "7", None, 1.5])
def test_a_holder_of_this_machine_whose_process_cannot_be_is_gone(remote, pid):
    now = time.time()
    (remote / HOLDER).write_json({"host": socket.gethostname(), "pid": pid, "since": now, "renewed": now, "token": "t"})
    with held(remote):
        assert (remote / HOLDER).read_json()["token"] != "t"


def test_a_holder_of_the_future_holds_and_its_file_and_clock_are_named(remote):
    (remote / HOLDER).write_json({"host": "far away", "pid": 7, "since": 10**11, "renewed": 10**11, "token": "t"})
    said = (
        rf"process 7 on far away.*by a clock that is ahead of this one.*or remove {(remote / HOLDER).url} if it is not"
    )
    with pytest.raises(InputError, match=said), held(remote):
        pass
    (remote / HOLDER).remove()
    with held(remote):
        pass


def test_letters_that_move_a_cursor_reach_nobody(remote):
    now = time.time()
    (remote / HOLDER).write_json({"host": "\x1b[2J" * 50, "pid": "\n" * 99, "since": now, "renewed": now, "token": "t"})
    with pytest.raises(InputError) as raised, held(remote):
        pass
    assert "\x1b" not in str(raised.value) and "\n" not in str(raised.value) and len(str(raised.value)) < 1000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("elsewhere")], ids="pdl")
def test_a_lock_that_is_no_file_is_named_and_stays(tmp_path, put):
    put(tmp_path / holding.LOCK)
    with pytest.raises(InputError, match=r"\.lock is no file.*: remove it"), held(Place.at(tmp_path)):
        pass
    assert not (tmp_path / "elsewhere").exists() and os.path.lexists(tmp_path / holding.LOCK)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_in_the_place_of_a_holders_file_hangs_nobody(tmp_path):
    os.mkfifo(tmp_path / HOLDER)
    with held(Place.at(tmp_path)):
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("what", ["run", f"run/{holding.LOCK}"])
def test_who_works_in_a_folder_that_was_removed_is_told(tmp_path, what):
    place = tmp_path / "run"
    with held(Place.at(place)) as hold:
        hold.check()
        shutil.rmtree(tmp_path / what) if what == "run" else (tmp_path / what).unlink()
        with pytest.raises(InputError, match="was removed while this process worked there"):
            hold.check()
        with held(Place.at(place)):
            with pytest.raises(InputError, match="was removed"):
                hold.check()
            theirs = (place / HOLDER).read_bytes()
        (place / HOLDER).write_bytes(theirs)
    assert (place / HOLDER).read_bytes() == theirs  # another process's by now


# ---- without a trace ---------------------------------------------------------------------------------------------------


def test_a_traceless_hold_leaves_what_was_written_and_nothing_of_its_own(tmp_path):
    place = Place.at(tmp_path / "set")
    with held(place, traceless=True):
        assert {*place.names()} == holding.MARKS
        (place / "a").write_bytes(b"a")
    assert place.names() == ["a"]
    with held(Place.at(tmp_path / "nothing"), traceless=True):
        pass
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "mine").mkdir()
    with held(Place.at(tmp_path / "mine"), traceless=True):
        pass
    assert (tmp_path / "mine").exists()


def test_who_opened_a_lock_that_its_holder_then_removed_has_nothing_by_it(tmp_path, monkeypatch):
    place, real, beside = Place.at(tmp_path / "set"), holding.acquired, []
    (tmp_path / "set").mkdir()

    def acquired(lock):
        taken = real(lock)
        if not beside:
            beside.append((tmp_path / "set" / holding.LOCK).stat().st_ino)
            os.link(tmp_path / "set" / holding.LOCK, tmp_path / "kept")  # so that its number is not given again
            (tmp_path / "set" / holding.LOCK).unlink()
        return taken

    monkeypatch.setattr(holding, "acquired", acquired)
    with held(place) as hold:
        assert (tmp_path / "set" / holding.LOCK).stat().st_ino not in beside
        hold.check()
        with pytest.raises(InputError, match="is being worked on by"), held(place):
            pass


def test_a_hold_that_ends_in_another_thread_ends(tmp_path):
    hold = held(Place.at(tmp_path))
    known = hold.__enter__()
    thread = threading.Thread(target=hold.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    with held(Place.at(tmp_path)):
        known.check()
