"""A plugin's own protocol in a run: chosen by its suggestion, recorded, found again, refused where it is missing."""

import json
from pathlib import Path

import pytest

from ddcore.cli.app import invoke
from ddcore.kit.contract import probe

RECIPE = """
from typing import ClassVar
from attrs import frozen
from ddcore import Plugin, Subject, hookimpl
from ddcore.training import Protocol

@frozen(kw_only=True, eq=False)
class Mine(Plugin):
    summary: ClassVar[str] = "a recipe"
    role: ClassVar[str] = "student"
    protocols: ClassVar[tuple[str, ...]] = ("mine",)

    def suggests_protocol(self, subject: Subject) -> str | None:
        return SUGGESTED

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        return Protocol(name="mine", summary="", epochs=2, batch=7, augment="none") if name == "mine" else None
"""
FEW = ["--eval-seeds=1", "--full-epochs=1", "--threads=1"]
SET = ["--dataset=digits", "--ipc=1", "--steps=1", "--network=convnet2-w4", "--preset=none"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Distil with the probe and a plugin that brings a protocol; the protocols of the rows."""
    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def of(*words, suggested="mine"):
        Path("recipe.py").write_text(RECIPE.replace("SUGGESTED", repr(suggested)))
        paths = [f"--plugin-path={probe.__file__}", "--plugin-path=recipe.py"]
        return invoke(["run", *paths, *SET, *FEW, "--out=run", *words])

    return of


def protocols(folder):
    return {row["protocol"] for row in json.loads(Path(folder, "scores.json").read_text())["rows"]}


def test_what_a_plugin_suggests_is_what_students_are_trained_by_and_found_again(run, capsys):
    assert run() == 0
    assert protocols("run") == {"mine"}
    recipe = json.loads(Path("run/artifact/manifest.json").read_text())["recipe"]
    assert (recipe["protocol"], recipe["epochs"], recipe["batch"], recipe["augment"]) == ("mine", 3, 7, [])
    assert invoke(["evaluate", "run/artifact", *FEW, "--out=again"]) == 0 and protocols("again") == {"mine"}
    assert invoke(["evaluate", "run/artifact", *FEW, "--protocol=bare-mine-1", "--jobs=2", "--out=bare"]) == 0
    assert protocols("bare") == {"bare-mine-1"}
    Path("run/artifact").rename("alone")
    capsys.readouterr()
    assert invoke(["evaluate", "alone", *FEW, "--dataset=digits"]) == 2
    assert "asks for the protocol 'mine', which neither ddcore nor a selected plugin has" in capsys.readouterr().err
    assert invoke(["evaluate", "alone", *FEW, "--dataset=digits", "--plugin-path=recipe.py", "--out=own"]) == 0
    assert protocols("own") == {"mine"}


def test_without_a_suggestion_the_rule_is_the_cores(run):
    assert run("--full-epochs=1", suggested=None) == 0
    assert protocols("run") == {"quick"}


def test_a_suggestion_of_nothing_known_is_one_sentence_before_any_work(run, capsys):
    assert run(suggested="mime") == 2
    assert "no protocol is named 'mime': did you mean 'mine'?" in capsys.readouterr().err
