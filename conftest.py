"""Tests sign run folders with a key of their own, so that none is made among the settings of whoever runs them.

``DDCORE_TEST_SEED_SHIFT=1`` moves every seed of every test and of every process that a test starts: none may hang on its luck.
Threads that wait for their turn sleep: where tests outnumber cores, those that look whether it has come (OpenMP's way) take ten
times as long as their work. No bit hangs on it.
"""

import gc
import os
import runpy
from multiprocessing import get_context
from pathlib import Path

import pytest

MOVED = Path(__file__).parent / "tests" / "moved_seeds"

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("DDCORE_SIGNING_SECRET", "a key for tests, of nobody's run folders")
if os.environ.get("DDCORE_TEST_SEED_SHIFT", "0") != "0":
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(MOVED), os.environ.get("PYTHONPATH"))))
    runpy.run_path(str(MOVED / "sitecustomize.py"))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Tests and what they import stay to the end: looking for garbage among them takes seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def workers_are_forked():
    """Workers of ``--executor processes`` begin with torch imported: see tests/warm.py."""
    from warm import context

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ddcore.runs.executors.get_context", context)
        yield


@pytest.fixture
def workers_are_spawned(monkeypatch):
    """Workers begin as a user's do."""
    monkeypatch.setattr("ddcore.runs.executors.get_context", get_context)


@pytest.fixture(scope="module", autouse=True)
def plots_are_drawn_where_they_are_looked_at(request):
    """In tests of pages, in modules that say ``PLOTS = True``, and by the contract kit's whole run of each plugin.

    Elsewhere pages are written as they are without matplotlib: drawing takes longer than a tiny run.
    """
    from ddcore.kit.contract import behaviour
    from ddcore.pages import compare, plots, report

    def drawn(run):
        with pytest.MonkeyPatch.context() as within:
            within.setattr(report, "available", plots.available)
            return distil(run)

    distil = behaviour.distil
    with pytest.MonkeyPatch.context() as patched:
        if not getattr(request.module, "PLOTS", request.path.parent.name == "pages"):
            patched.setattr(behaviour, "distil", drawn)
            for module in (compare, report):
                patched.setattr(module, "available", lambda: False)
        yield


@pytest.fixture(autouse=True)
def nobody_elses_secrets():
    """What a test's addresses withhold is hidden from its own texts only."""
    from ddcore.storage import secrecy

    held = (secrecy._addresses, secrecy._options)
    before, handed_on = [dict(each) for each in held], os.environ.get(secrecy.HANDED_ON)
    yield
    for each, known in zip(held, before, strict=True):
        each.clear()
        each.update(known)
    os.environ.pop(secrecy.HANDED_ON, None)
    if handed_on is not None:
        os.environ[secrecy.HANDED_ON] = handed_on
