"""Tasks as jobs: of this machine, and of a Slurm that is played by a script."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ddcore_submitit import Job, Jobs, Submitit, library

from ddcore import DdcoreError, InputError
from ddcore.errors import OptionError
from ddcore.storage.ownership import signed
from ddcore.testing import check_plugin, ddcore_cli, distilled, tiny_run  # noqa: F401  fixtures

submitit = pytest.importorskip("submitit", reason="submitit is not installed: pip install 'ddcore-submitit[submitit]'")
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
LOCAL = ("--plugin", "submitit", "--submitit.cluster", "local")
SPY = """
import os, signal
from pathlib import Path
from typing import ClassVar
from attrs import frozen
from ddcore import Batch, InputError, Plugin, hookimpl, option


@frozen(kw_only=True, eq=False)
class Spy(Plugin):
    summary: ClassVar[str] = "does what it is told, in a job's first view"
    view_phases: ClassVar[tuple[str, ...]] = ("match", "inner", "student_step")
    neutral: ClassVar[dict] = {"told": ""}
    told: str = option("", help="what to do")
    notes: str = option("", help="folder")

    @hookimpl
    def ddcore_view(self, batch: Batch) -> Batch | None:
        notes = Path(self.notes)
        (notes / f"job-{os.getpid()}").touch()
        if self.told == "die" or (self.told == "die once" and not (notes / "died").exists()):
            (notes / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.told == "refuse":
            raise InputError("image 7 is cut short: fetch it again")
        if self.told == "break":
            raise ZeroDivisionError("a bug")
        return None
"""


@pytest.fixture
def spied(tiny_run, tmp_path):  # noqa: F811
    """A run of dm with a plugin that does what it is told; its cache is its own."""
    (tmp_path / "spy.py").write_text(SPY)

    def make(told, *more, executor="submitit", **given):
        notes = tmp_path / f"notes-{len(list(tmp_path.glob('notes-*')))}"
        notes.mkdir()
        words = ("--plugin", "dm", "--plugin", "submitit", "--plugin-path", str(tmp_path / "spy.py"), *more)
        given = {
            "steps": 2,
            "spy__told": told,
            "spy__notes": str(notes),
            "submitit__retries": 1,
            "submitit__cluster": "local",
            **given,
        }
        return tiny_run(*words, executor=executor, **given), notes

    return make


def test_experts_teachers_tasks_and_students_give_the_same_bits_as_here(ddcore_cli, tmp_path):  # noqa: F811
    words = ("--plugin", "mtt", "--labels", "averaged", "--steps", 2, "--experts.count", 2, "--experts.epochs", 3)
    words += ("--teachers.epochs", 1, "--teachers.no-check")
    words += ("--mtt.student-steps", 2, "--mtt.expert-epochs", 1, "--mtt.max-start-epoch", 1)
    found = []
    for name, more in (("here", ()), ("jobs", ("--executor", "submitit", "--jobs", 2, "--submitit.together", 4))):
        given = ("--cache", tmp_path / f"cache-{name}", "--out", tmp_path / name, *more)
        answer = ddcore_cli("run", *ddcore_cli.tiny, *words, *LOCAL, *given, "--json")
        assert answer.code == 0, answer.err
        artifact = tmp_path / name / "artifact"
        files = [(artifact / file).read_bytes() for file in ("images.safetensors", "labels.safetensors")]
        found.append((files, [(row["set"], row["labels"], row["accuracy"]) for row in answer.json["rows"]]))
    assert found[0] == found[1]
    assert not list(tmp_path.glob("*.submitit"))


def test_a_job_that_is_killed_is_done_again(spied):
    alone, _ = spied("", executor="here")
    run, notes = spied("die once")
    assert all(map(torch.equal, distilled(alone).values(), distilled(run).values()))
    assert (notes / "died").exists() and len(list(notes.glob("job-*"))) == 2


def test_a_task_whose_job_always_dies_ends_in_one_sentence_that_says_where_the_logs_are(spied):
    run, notes = spied("die")
    with pytest.raises(
        DdcoreError, match="jobs of submitit died 2 times on task distil-000 .* logs are in (.*)"
    ) as told:
        distilled(run)
    logs = Path(re.search("logs are in (.*)", str(told.value))[1])
    assert "\n" not in str(told.value) and len(list(notes.glob("job-*"))) == 2 and logs.is_dir()
    assert run.place.local_path() not in logs.parents  # pickles stay out of the run's folder


def test_what_a_user_can_mend_is_said_as_it_is_and_not_tried_again(spied):
    run, notes = spied("refuse")
    with pytest.raises(InputError) as told:
        distilled(run)
    assert str(told.value) == "image 7 is cut short: fetch it again" and len(list(notes.glob("job-*"))) == 1


def test_a_bug_keeps_its_remote_traceback(spied):
    run, notes = spied("break")
    with pytest.raises(submitit.core.utils.FailedJobError, match='(?s)spy.py", line .*ZeroDivisionError: a bug'):
        distilled(run)
    assert len(list(notes.glob("job-*"))) == 1


def test_a_job_with_another_torch_is_refused_by_name(tiny_run):  # noqa: F811
    run = tiny_run("--plugin", "dm", "--plugin", "submitit", executor="submitit", submitit__cluster="local", steps=1)
    record = (run.place / "run.json").read_json()
    record["environment"]["torch"] = "1.0"
    (run.place / "run.json").write_json(signed(record))
    with pytest.raises(InputError, match="worker .* has torch .*, and the run was begun with torch 1.0"):
        distilled(run)


def test_a_signal_ends_the_jobs_and_the_run_can_go_on(tmp_path):
    words = ("run", "--plugin", "dm", *LOCAL, "--executor", "submitit", "--dataset", "digits", "--ipc", "1")
    words += ("--network", "convnet2-w4", "--dm.batch-real", "4", "--threads", "1", "--steps", "100000", "--out", "run")
    known = {**os.environ, "DDCORE_CACHE": str(tmp_path / "cache"), "DDCORE_CHECKPOINT_SECONDS": "0.2"}
    call = (sys.executable, "-c", "import sys; from ddcore.cli import invoke; sys.exit(invoke(sys.argv[1:]))", *words)
    saved = tmp_path / "run" / "checkpoints" / "distil-000.safetensors"
    with subprocess.Popen(call, cwd=tmp_path, env=known, stderr=subprocess.PIPE, text=True) as driver:
        try:
            for _ in range(1200):
                if saved.exists():
                    break
                time.sleep(0.1)
            driver.send_signal(signal.SIGTERM)
            _, said = driver.communicate(timeout=60)
        finally:
            driver.kill()
    assert driver.returncode == 3 and "go on with `ddcore resume" in said and "Traceback" not in said, said
    before = saved.stat().st_mtime_ns
    time.sleep(1)
    assert saved.stat().st_mtime_ns == before  # nobody works on


# ---- Slurm -----------------------------------------------------------------------------------------------------------

SLURM = """#!{python}
import json, os, re, subprocess, sys
from pathlib import Path

state = Path({state!r})
name, words = Path(sys.argv[0]).name, sys.argv[1:]
with (state / "calls").open("a") as calls:
    calls.write(json.dumps([name, *words]) + "\\n")
if name == "sbatch":
    if (state / "refuse").exists():
        sys.exit("sbatch: error: invalid partition specified: " + (state / "refuse").read_text())
    script = Path(words[-1]).read_text()
    (state / "script").write_text(script)
    found = re.search(r"--array=0-(\\d+)%(\\d+)", script)
    number = 100 + len((state / "calls").read_text().splitlines())
    for task in range(int(found[1]) + 1 if found else 1):
        known = dict(os.environ, SLURM_JOB_ID=str(number), SLURM_NTASKS="1", SLURM_JOB_NUM_NODES="1", SLURM_PROCID="0")
        known |= dict(SLURM_NODEID="0", SLURM_LOCALID="0")
        if found:
            known |= dict(SLURM_ARRAY_JOB_ID=str(number), SLURM_ARRAY_TASK_ID=str(task))
        out = open(os.devnull, "w")
        subprocess.Popen(["bash", words[-1]], env=known, stdout=out, stderr=out, start_new_session=True)
    print("Submitted batch job", number)
elif name == "srun":
    start = next(n for n, word in enumerate(words) if not word.startswith("--") and words[n - 1] not in ("--output", "--error"))
    os.execv(words[start], words[start:])
elif name == "sacct":
    print("JobID|State|NodeList")
    for job in re.findall(r"-j (\\d+)", " ".join(words)):
        print(f"{{job}}|{{(state / 'state').read_text()}}|here")
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder that says what a script in Slurm's place was called with; it runs what is submitted, at once."""
    state, programs = tmp_path / "slurm", tmp_path / "bin"
    state.mkdir(), programs.mkdir()
    (state / "state").write_text("RUNNING")
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        (programs / name).write_text(SLURM.format(python=sys.executable, state=str(state)))
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    yield state
    submitit.SlurmJob.watcher.clear()


def calls(slurm, name):
    lines = (slurm / "calls").read_text().splitlines() if (slurm / "calls").exists() else []
    return [words for words in map(json.loads, lines) if words[0] == name]


def test_slurm_is_given_an_array_with_what_the_options_say(slurm, tiny_run, tmp_path):  # noqa: F811
    words = ("--plugin", "sre2l", "--plugin", "submitit", "--labels", "hard")
    small = {"network": "convnet2-bn-w4", "steps": 2, "ipc": 3, "teachers__epochs": 1, "teachers__check": False}
    options = {
        "cluster": "slurm",
        "together": 1,
        "partition": "gpu",
        "account": "lab",
        "minutes": 90,
        "gpus": 1,
        "memory": 12.0,
        "cpus": 3,
    }
    given = {f"submitit__{name}": value for name, value in options.items()}
    alone = tiny_run(*words, **small)
    run = tiny_run(*words, **small, executor="submitit", jobs=2, **given)
    _ = run.teachers
    assert all(map(torch.equal, distilled(alone).values(), distilled(run).values()))
    script = (slurm / "script").read_text()
    for line in (
        "array=0-2%2",
        "partition=gpu",
        "account=lab",
        "time=90",
        "gpus-per-node=1",
        "mem=12GB",
        "cpus-per-task=3",
    ):
        assert f"#SBATCH --{line}\n" in script, script
    assert not list(tmp_path.glob("**/*.submitit"))


def test_a_job_that_slurm_lost_is_submitted_again_and_then_given_up(slurm, spied, monkeypatch):
    run, notes = spied("die", submitit__cluster="slurm")
    monkeypatch.setattr(submitit.SlurmJob, "_results_timeout_s", 0)
    (slurm / "state").write_text("OUT_OF_MEMORY")
    with pytest.raises(DdcoreError, match=r"died 2 times on task distil-000 \(OUT_OF_MEMORY\): give them more memory"):
        distilled(run)
    assert len(calls(slurm, "sbatch")) == 2


def test_what_slurm_does_not_take_is_said_in_a_sentence(slurm, spied):
    run, _ = spied("", submitit__cluster="slurm", submitit__partition="nowhere")
    (slurm / "refuse").write_text("nowhere")
    with pytest.raises(InputError, match="Slurm did not take a job .*: look at --submitit.partition"):
        distilled(run)


def test_an_interrupted_run_cancels_its_jobs(slurm, spied, monkeypatch):
    run, _ = spied("", submitit__cluster="slurm")

    def stop(seconds):
        run.stopping = True

    monkeypatch.setattr("ddcore_submitit.time.sleep", stop)
    with pytest.raises(DdcoreError, match="go on with `ddcore resume"):
        distilled(run)
    ((_, number),) = calls(slurm, "scancel")
    assert number.isdigit()


def test_no_slurm_is_said_in_a_sentence(spied, monkeypatch):
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: -1))
    run, _ = spied("", submitit__cluster="slurm")
    with pytest.raises(OptionError, match="no Slurm here .*: give --submitit.cluster local"):
        distilled(run)


def test_a_job_that_is_queued_again_is_the_same_job():
    job = Job("runs/x", "call", ("{}",))
    assert job.checkpoint().function is job


def test_a_missing_submitit_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match="pip install 'ddcore-submitit\\[submitit\\]'"):
        library()


def test_files_lie_beside_the_run_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Jobs(Submitit()).place("runs/x") == tmp_path / "runs" / "x.submitit"
    assert Jobs(Submitit()).place("s3://bucket/x") == tmp_path / "submitit"
    assert Jobs(Submitit(folder="logs")).place("runs/x") == tmp_path / "logs"


QUICK = ("hooks", "declarations", "immutable", "public", "options", "seed")


def test_the_contract_as_far_as_few_jobs_show_it():
    check_plugin("submitit", only=QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_contract():
    check_plugin("submitit")
