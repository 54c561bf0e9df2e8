"""Tasks on a ray cluster of two CPUs: the same bits, whatever dies; and a cluster that is left as it was found."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from ddcore_ray import OnRay, Ray, Share, cancel, cluster, do, packed

from ddcore import DdcoreError, InputError
from ddcore.errors import OptionError
from ddcore.storage.ownership import signed
from ddcore.testing import check_plugin, ddcore_cli, distilled, tiny_run  # noqa: F401  fixtures

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'ddcore-ray[ray]'")
pytestmark = [
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*override accelerator visible devices:FutureWarning"),
]
ON_RAY = ("--plugin", "ray")
SPY = """
import os, signal
from pathlib import Path
from typing import ClassVar
import torch
from attrs import frozen
from ddcore import Batch, InputError, Plugin, hookimpl, option


@frozen(kw_only=True, eq=False)
class Spy(Plugin):
    summary: ClassVar[str] = "does what it is told, in a worker's third view"
    view_phases: ClassVar[tuple[str, ...]] = ("match", "inner", "student_step")
    neutral: ClassVar[dict] = {"told": ""}
    told: str = option("", help="what to do")
    notes: str = option("", help="folder")

    @hookimpl
    def ddcore_view(self, batch: Batch) -> Batch | None:
        notes = Path(self.notes)
        with (notes / f"views-{os.getpid()}").open("a") as views:
            views.write(f"{torch.get_num_threads()} ")
        if len((notes / f"views-{os.getpid()}").read_text().split()) == (1 if self.told == "die" else 3):
            self.act(notes)
        return None

    def act(self, notes):
        if self.told == "die" or (self.told == "die once" and not (notes / "died").exists()):
            (notes / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.told == "refuse":
            raise InputError("image 7 is cut short: fetch it again")
        if self.told == "break":
            raise ZeroDivisionError("a bug")
"""


@pytest.fixture(scope="module", autouse=True)
def one_cluster():
    yield
    cluster.leave()


@pytest.fixture
def spied(tiny_run, tmp_path, monkeypatch):  # noqa: F811
    """A run of dm with a plugin that does what it is told; its cache is its own."""
    monkeypatch.setenv("DDCORE_CHECKPOINT_SECONDS", "0")
    (tmp_path / "spy.py").write_text(SPY)

    def make(told, *more, executor="ray", **given):
        notes = tmp_path / f"notes-{len(list(tmp_path.glob('notes-*')))}"
        notes.mkdir()
        words = ("--plugin", "dm", *ON_RAY, "--plugin-path", str(tmp_path / "spy.py"), *more)
        given = {"steps": 4, "spy__told": told, "spy__notes": str(notes), "ray__retries": 1, **given}
        return tiny_run(*words, executor=executor, **given), notes

    return make


def bits(folder):
    scores = json.loads((folder / "scores.json").read_text())["rows"]
    files = {name: (folder / "artifact" / name).read_bytes() for name in ("images.safetensors", "labels.safetensors")}
    return {**files, "scores": [(row["set"], row["labels"], row["accuracy"]) for row in scores]}


def test_experts_teachers_tasks_and_students_give_the_same_bits_as_here(ddcore_cli, tmp_path):  # noqa: F811
    words = ("--plugin", "mtt", "--labels", "averaged", "--steps", 2, "--experts.count", 2, "--experts.epochs", 3)
    words += ("--teachers.snapshots", 1, "--teachers.epochs", 2, "--teachers.no-check")
    words += ("--mtt.student-steps", 2, "--mtt.expert-epochs", 1, "--mtt.max-start-epoch", 1)
    for name, more in (("here", ()), ("ray", ("--executor", "ray", "--jobs", 2))):
        given = ("--cache", tmp_path / f"cache-{name}", "--out", tmp_path / name, *more)
        answer = ddcore_cli("run", *ddcore_cli.tiny, *words, *ON_RAY, *given)
        assert answer.code == 0, answer.err
    assert bits(tmp_path / "here") == bits(tmp_path / "ray")


def test_a_worker_that_is_killed_in_the_middle_costs_nothing(spied, capsys):
    alone, _ = spied("", executor="here")
    run, notes = spied("die once")
    assert all(map(torch.equal, distilled(alone).values(), distilled(run).values()))
    assert (notes / "died").exists() and len(list(notes.glob("views-*"))) == 2
    assert capsys.readouterr().out == ""  # ray says that it died, but not where programs read


def test_a_task_whose_worker_always_dies_ends_in_one_sentence(spied):
    run, notes = spied("die")
    with pytest.raises(
        DdcoreError, match="ray workers died 2 times on task distil-000 .*: give tasks more memory"
    ) as told:
        distilled(run)
    assert "\n" not in str(told.value) and len(list(notes.glob("views-*"))) == 2


def test_what_a_user_can_mend_is_said_as_it_is_and_not_tried_again(spied):
    run, notes = spied("refuse")
    with pytest.raises(InputError) as told:
        distilled(run)
    assert str(told.value) == "image 7 is cut short: fetch it again"
    assert type(told.value) is InputError and len(list(notes.glob("views-*"))) == 1


def test_a_bug_keeps_its_remote_traceback(spied):
    run, notes = spied("break")
    with pytest.raises(ZeroDivisionError, match='(?s)spy.py", line .* in act.*ZeroDivisionError: a bug'):
        distilled(run)
    assert len(list(notes.glob("views-*"))) == 1


def test_threads_are_those_of_the_task_and_not_of_ray(spied):
    run, notes = spied("", threads=2, ray__cpus=1.0)
    distilled(run)
    (views,) = notes.glob("views-*")
    assert views.read_text().split() == ["2"] * 4


@pytest.mark.parametrize(
    ("what", "other", "words"),
    [
        ("ddcore", "9.9", "has ddcore .*, and the run was begun with ddcore 9.9"),
        ("torch", "1.0", "has torch .*, and the run was begun with torch 1.0: install that version there"),
        ("device", "cuda: a card", "computes on cpu, and the run was begun on cuda"),
    ],
)
def test_a_worker_with_other_software_is_refused_by_name(what, other, words, tiny_run):  # noqa: F811
    run = tiny_run("--plugin", "dm", *ON_RAY, executor="ray", steps=1, ray__gpus=0.0)
    record = (run.place / "run.json").read_json()
    record["environment"][what] = other
    (run.place / "run.json").write_json(signed(record))
    with pytest.raises(InputError, match=f"worker {socket.gethostname()} {words}"):
        distilled(run)


def test_a_worker_with_another_plugin_version_is_refused_by_name(tiny_run):  # noqa: F811
    run = tiny_run("--plugin", "dm", *ON_RAY, executor="ray", steps=1)
    record = (run.place / "run.json").read_json()
    record["plugins"][0]["identity"] = "ddcore-dm 9.9"
    (run.place / "run.json").write_json(signed(record))
    with pytest.raises(DdcoreError, match="begun with plugin 'dm' ddcore-dm 9.9, and ddcore-dm .* is here"):
        distilled(run)


def test_a_run_that_workers_do_not_see_is_refused(tmp_path):
    engine = cluster.connect(cluster.LOCAL, 2, 1)
    text = packed({"kind": "distil", "key": "a"})
    said = engine.get(engine.remote(do).remote(str(tmp_path / "elsewhere"), "call", text))
    assert "sees no run in" in said and "shared file system" in said


def test_jobs_bounds_how_many_tasks_run_at_a_time(tmp_path, monkeypatch):
    seen = []

    class Engine:
        exceptions = ray.exceptions

        def remote(self, **options):
            return lambda function: self.Function()

        class Function:
            def remote(self, *arguments):
                seen.append(1)
                return object()

        def wait(self, running, timeout):
            assert len(running) <= 2
            return running[:1], running[1:]

        def get(self, reference):
            return ""

        def cancel(self, reference, force):
            raise AssertionError("nothing to cancel")

    monkeypatch.setattr(cluster, "connect", lambda *_: Engine())
    done = []
    tasks = [{"kind": "bench", "key": str(n), "options": {"tables": {"threads": 1}}} for n in range(5)]
    OnRay(Ray()).map(str(tmp_path), tasks, 2, done.append)
    assert done == list("01234") and len(seen) == 5


@pytest.mark.parametrize("mine", [True, False], ids=["own cluster", "theirs"])
def test_only_tasks_that_do_not_stop_are_ended_by_force_and_in_our_own_cluster_with_it(mine, monkeypatch, tmp_path):
    calls = []

    class Engine:
        def cancel(self, reference, force):
            calls.append((reference, force))

        def wait(self, references, timeout, num_returns=1):
            return [r for r in references if r != "stuck"], [r for r in references if r == "stuck"]

        def shutdown(self):
            calls.append("shutdown")

    monkeypatch.setattr(cluster, "_mine", cluster.Mine("local", 2, tmp_path) if mine else cluster.Mine("host:1"))
    monkeypatch.setattr(cluster, "library", Engine)
    cancel(Engine(), ["quick", "stuck"])
    assert calls == [("quick", False), ("stuck", False), "shutdown" if mine else ("stuck", True)]
    cancel(Engine(), [])


def test_a_task_that_has_ended_is_never_ended_by_force(monkeypatch):
    # Ctrl-C while tasks stop: those that have stopped by then are let be, or ray takes the driver down
    calls = []

    class Engine:
        def cancel(self, reference, force):
            calls.append((reference, force))

        def wait(self, references, timeout, num_returns=1):
            if timeout:
                raise KeyboardInterrupt
            return [r for r in references if r == "ended"], []

    monkeypatch.setattr(cluster, "_mine", None)
    with pytest.raises(KeyboardInterrupt):
        cancel(Engine(), ["ended", "stuck"])
    assert [call for call in calls if call[1]] == [("stuck", True)]


def test_a_share_that_no_machine_has_is_refused_in_a_sentence(spied):
    run, _ = spied("", ray__gpus=1.0)
    with pytest.raises(OptionError, match="a task takes 1 GPUs, and the largest machine .* has 0: lower --ray.gpus"):
        distilled(run)


def test_a_task_takes_its_threads_and_a_gpu_where_the_run_is_on_one(tmp_path):
    (tmp_path / "run.json").write_text(
        json.dumps({"config": {"threads": 3}, "environment": {"device": "cuda: a card"}})
    )
    assert OnRay(Ray()).share(str(tmp_path), []) == Share(3, 1)
    assert OnRay(Ray(gpus=0.25, cpus=1.5)).share(str(tmp_path), []) == Share(1.5, 0.25)
    cells = [{"options": {"tables": {"threads": n, "device": "cpu"}}} for n in (1, 4)]
    assert OnRay(Ray()).share(str(tmp_path / "bench"), cells) == Share(4, 0)


def test_which_cluster_is_said_by_the_option_then_by_the_environment(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster.resolved(None) == "local"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster.resolved(None) == "10.0.0.1:6379" and cluster.resolved("local") == "local"
    with pytest.raises(OptionError, match="Ray Client"):
        cluster.resolved("ray://host:10001")


def test_a_cluster_that_is_not_there_is_said_in_a_sentence():
    cluster.leave()
    with pytest.raises(InputError, match="a ray cluster at nowhere cannot be joined .*HOST:PORT"):
        cluster.connect("nowhere", 1, 1)


def test_a_missing_ray_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="pip install 'ddcore-ray\\[ray\\]'"):
        cluster.library()


def test_relative_paths_mean_the_same_in_workers(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDCORE_CACHE", "kept")
    found = json.loads(packed({"key": "a"}))
    assert found["folder"] == str(tmp_path) and found["environment"]["DDCORE_CACHE"] == str(tmp_path / "kept")


# ---- whole processes -------------------------------------------------------------------------------------------------

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "1" * 64}
DRIVER = "import sys; from ddcore.cli import invoke; sys.exit(invoke(sys.argv[1:]))"


@pytest.fixture
def short():
    """A folder with so short a name that sockets fit in it."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def started(short):
    """``ddcore run`` of dm on digits as a process of its own, in a folder of its own."""
    words = ("run", "--plugin", "dm", "--plugin", "ray", "--executor", "ray", "--dataset", "digits", "--ipc", "1")
    words += ("--network", "convnet2-w4", "--protocol", "quick-1", "--eval-seeds", "1", "--full-epochs", "1")
    words += ("--dm.batch-real", "4", "--threads", "1", "--out", "run")
    drivers = []

    def start(folder, *more, steps=100_000, **environment):
        known = {"DDCORE_CACHE": str(folder / "cache"), "DDCORE_CHECKPOINT_SECONDS": "0.2", "TMPDIR": str(short)}
        known |= {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
        folder.mkdir(exist_ok=True)
        call = (sys.executable, "-c", DRIVER, *words, "--steps", str(steps), *more)
        made = subprocess.Popen(call, cwd=folder, env=known | environment, stderr=subprocess.PIPE, text=True)
        drivers.append(made)
        return made

    yield start
    for driver in drivers:
        driver.kill()
        driver.wait()
        driver.stderr.close()


def until(happened, seconds=120.0):
    for _ in range(int(seconds * 10)):
        if happened():
            return
        time.sleep(0.1)
    pytest.fail("it did not happen in time")


def processes_of(folder):
    """Processes that know a cluster's folder."""
    found = []
    for about in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [about.parent.name] if str(folder).encode() in about.read_bytes() else []
        except OSError:  # it ended just now
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="asks /proc who is alive")
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_ends_the_tasks_and_the_cluster_and_the_run_can_go_on(number, started, short, tmp_path):
    driver = started(tmp_path)
    saved = tmp_path / "run" / "checkpoints" / "distil-000.safetensors"
    until(saved.exists)
    (own,) = short.glob("ddcore-ray-*")
    assert processes_of(own)
    before = saved.stat().st_mtime_ns
    driver.send_signal(number)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 3 and "go on with `ddcore resume" in said, said
    assert "Traceback" not in said and not own.exists()
    assert saved.stat().st_mtime_ns > before
    until(lambda: not processes_of(own))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="asks /proc who is alive")
def test_the_cluster_of_a_killed_driver_is_gone_soon(started, short, tmp_path):
    driver = started(tmp_path)
    until((tmp_path / "run" / "checkpoints" / "distil-000.safetensors").exists)
    (own,) = short.glob("ddcore-ray-*")
    assert processes_of(own)
    driver.kill()
    driver.wait()
    until(lambda: not processes_of(own))


@pytest.fixture
def theirs(short):
    """A cluster that somebody else began: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false")
    words += (f"--temp-dir={short / 'theirs'}", "--node-ip-address=127.0.0.1", "--object-store-memory=100000000")
    known = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **TOKEN}
    ray_ = (sys.executable, "-c", "from ray.scripts.scripts import main; main()", *words)
    cluster_ = subprocess.Popen(ray_, env=known, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield f"127.0.0.1:{port}", cluster_
    cluster_.terminate()
    cluster_.wait(timeout=30)


def listens(address):
    host, _, port = address.partition(":")
    with socket.socket() as caller:
        return caller.connect_ex((host, int(port))) == 0


def test_somebody_elses_cluster_is_used_and_left_running(theirs, started, short, tmp_path):
    address, their_process = theirs
    until(lambda: listens(address))
    driver = started(tmp_path, "--jobs", "2", steps=2, RAY_ADDRESS=address, **TOKEN)
    _, said = driver.communicate(timeout=200)
    assert driver.returncode == 0 and (tmp_path / "run" / "report.html").exists(), said
    assert not list(short.glob("ddcore-ray-*")) and listens(address) and their_process.poll() is None


def test_the_contract():
    check_plugin("ray")
