"""Workers end with the process that began them, however that ends."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
from warm import context

from ddcore.errors import DdcoreError
from ddcore.runs.executors import ATTEMPTS, Processes
from ddcore.testing import PROBE, tiny_words

DRIVER = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from ddcore.runs.executors import leave_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), leave_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="asks /proc who is alive")
def test_workers_of_a_killed_driver_are_gone_soon(tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    driver = subprocess.Popen([sys.executable, str(tmp_path / "driver.py")], stdout=subprocess.PIPE, text=True)
    worker = int(driver.stdout.readline())
    assert alive(worker)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    for _ in range(100):
        if not alive(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its driver")


SCRIPT = """
import sys
with open(sys.argv[1], "a") as file:
    file.write("begun ")
from ddcore.cli.app import invoke

raise SystemExit(invoke(sys.argv[2:]))
"""


def test_a_script_without_a_main_guard_is_not_run_again_in_workers(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [*PROBE, *tiny_words(), "--jobs=2", f"--out={tmp_path / 'run'}", f"--cache={tmp_path / 'cache'}"]
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", tmp_path / "begun", "run", *words], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "begun").read_text() == "begun " and (tmp_path / "run" / "scores.json").exists()


def dying(monkeypatch, finished):
    """Pools that break, each after so many tasks."""
    pools = iter(finished)

    def pool(self, run_url, left, jobs, done):
        for key in list(left)[: next(pools)]:
            del left[key]
            done(key)
        if left:
            raise BrokenProcessPool

    monkeypatch.setattr(Processes, "_pool", pool)
    done = []
    return done, lambda: Processes().map("run", [{"key": key} for key in "abcdefgh"], 2, done.append)


def test_workers_that_die_now_and_then_do_not_end_a_long_run(monkeypatch):
    done, run = dying(monkeypatch, [1, 0, 2, 0, 1, 0, 4])
    run()
    assert done == list("abcdefgh")


def test_a_task_whose_workers_always_die_is_named(monkeypatch):
    done, run = dying(monkeypatch, [2, 0, 0, 9])
    with pytest.raises(DdcoreError, match=f"died {ATTEMPTS} times on tasks c, d, e"):
        run()
    assert done == ["a", "b"]


def test_workers_of_tests_get_the_environment_and_folder_of_now_and_import_plugins_themselves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugins = "[name for name in __import__('sys').modules if name.startswith('ddcore_')]"
    for word in ("first", "second"):
        monkeypatch.setenv("DDCORE_WORD", word)
        with ProcessPoolExecutor(1, context("spawn")) as pool:
            assert pool.submit(os.getenv, "DDCORE_WORD").result() == word
            assert pool.submit(os.getcwd).result() == str(tmp_path)
            assert pool.submit(os.getpid).result() != os.getpid()
            assert pool.submit(eval, plugins).result() == []
