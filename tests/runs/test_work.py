"""What executors of other machines stand on: tasks as text, answers as text, and workers that refuse what they would get wrong."""

import json
import os
import signal
import socket

import pytest

from ddcore.errors import DdcoreError, InputError, Interrupted, PluginError
from ddcore.runs import opening
from ddcore.runs import work as tasks
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.opening import open_run
from ddcore.runs.work import address_elsewhere, answer, describe, environment_elsewhere, needs, raise_answer
from ddcore.storage.ownership import signed
from ddcore.testing import tiny_run  # noqa: F401  fixture

pytestmark = pytest.mark.usefixtures("probes")


@pytest.fixture(autouse=True)
def no_runs(monkeypatch):
    monkeypatch.setattr(tasks, "_runs", {})
    monkeypatch.setattr(tasks, "_call", "")


@pytest.fixture
def begun(tiny_run):  # noqa: F811
    """A run on disk, and its first task as text."""
    run = tiny_run("--plugin", "pull", steps=2)
    return run, json.dumps(describe(distillation_tasks(run)[0]))


def test_a_task_is_text_and_so_is_its_answer(begun):
    run, text = begun
    assert answer(run.address, "call", text) == ""
    assert run.checkpoints.finished("distil-000")
    raise_answer("")


def test_a_worker_opens_the_run_anew_for_each_call_of_map(begun, monkeypatch):
    run, text = begun
    opened = []
    monkeypatch.setattr(opening, "open_run", lambda *a, **k: opened.append(a) or open_run(*a, **k))
    for call in ("first", "first", "second"):
        assert answer(run.address, call, text) == ""
    assert len(opened) == 2


class OfAPlugin(PluginError):
    """A class that the driver may not have."""


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (InputError("no such file: look again"), InputError),
        (OfAPlugin("a sentence"), PluginError),
        (Interrupted("stopped"), Interrupted),
        (KeyboardInterrupt(), Interrupted),
    ],
)
def test_what_a_task_refuses_is_raised_in_the_driver_as_it_is(raised, kind, begun, monkeypatch):
    run, text = begun

    def fail(*_):
        raise raised

    monkeypatch.setattr(tasks, "work", fail)
    with pytest.raises(DdcoreError) as told:
        raise_answer(answer(run.address, "call", text))
    assert type(told.value) is kind and str(told.value) == (str(raised) or "stopped as asked")


def test_a_bug_is_no_answer(begun, monkeypatch):
    run, text = begun
    monkeypatch.setattr(tasks, "work", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        answer(run.address, "call", text)


def test_sigint_in_a_worker_stops_the_task_at_its_next_step_and_once_more_at_once(begun, monkeypatch):
    run, text = begun
    tasks.remember(run)
    monkeypatch.setattr(tasks, "_call", "call")
    monkeypatch.setattr(tasks, "work", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    assert answer(run.address, "call", text) == "" and run.stopping
    assert json.loads(answer(run.address, "call", text))["error"] == "Interrupted"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stopped_task_has_saved_its_state(begun):
    run, text = begun
    tasks.remember(run)
    tasks._call = "call"
    run.stopping = True
    assert json.loads(answer(run.address, "call", text))["error"] == "Interrupted"
    assert (run.place / "checkpoints" / "distil-000.safetensors").exists()


@pytest.mark.parametrize(
    ("what", "other", "words"),
    [
        ("ddcore", "9.9", "has ddcore .*, and the run was begun with ddcore 9.9"),
        ("torch", "1.0", "has torch .*, and the run was begun with torch 1.0: install that version there"),
        ("device", "cuda: a card", "computes on cpu, and the run was begun on cuda: give workers such a device"),
        ("kernels", "OTHER", "computes with .* kernels, and the run was begun with OTHER: set ATEN_CPU_CAPABILITY"),
    ],
)
def test_a_worker_with_other_software_or_another_device_refuses_by_name(what, other, words, begun):
    run, text = begun
    record = (run.place / "run.json").read_json()
    record["environment"][what] = other
    (run.place / "run.json").write_json(signed(record))
    with pytest.raises(InputError, match=f"worker {socket.gethostname()} {words}"):
        raise_answer(answer(run.address, "call", text))
    open_run(run.address)  # a driver may go on with it


def test_a_worker_that_does_not_see_the_run_says_so(begun, tmp_path):
    _, text = begun
    with pytest.raises(
        InputError, match="worker .* sees no run in .*nowhere: put --out and --cache where every worker"
    ):
        raise_answer(answer(str(tmp_path / "nowhere"), "call", text))


def test_addresses_travel_without_credentials_and_arrive_with_them(monkeypatch):
    address = "s3://key:hidden-secret@bucket/runs/x"
    assert "secret" not in address_elsewhere(address)
    seen = []
    monkeypatch.setattr(tasks, "_require_sight", lambda url, _: seen.append(url))
    monkeypatch.setattr(tasks, "work", lambda url, _: seen.append(url))
    assert answer(address_elsewhere(address), "call", "{}") == "" and seen == [address, address]


def test_workers_are_told_of_cache_checkpoints_and_secrets_and_nothing_else(monkeypatch):
    for name in ("DDCORE_CACHE", "DDCORE_CHECKPOINT_SECONDS", "DDCORE_SECRETS", "DDCORE_SIGNING_SECRET", "DDCORE_IPC"):
        monkeypatch.setenv(name, "7")
    known = {"DDCORE_CACHE": os.path.abspath("7"), "DDCORE_CHECKPOINT_SECONDS": "7", "DDCORE_SECRETS": "7"}
    known["DDCORE_SIGNING_SECRET"] = "7"
    assert environment_elsewhere() == known
    monkeypatch.setenv("DDCORE_CACHE", "s3://bucket/cache")
    assert environment_elsewhere()["DDCORE_CACHE"] == "s3://bucket/cache"


def test_what_tasks_need_is_said_by_the_run_or_by_the_runs_of_a_bench(begun, tmp_path):
    run, _ = begun
    assert needs(run.address, []) == (1, False)
    cells = [{"options": {"tables": {"threads": n, "device": "cpu"}}} for n in (1, 4)]
    assert needs(str(tmp_path / "bench"), cells) == (4, False)
    assert needs(str(tmp_path / "bench"), [{"options": {"tables": {"device": "cuda"}}}]) == (2, True)
