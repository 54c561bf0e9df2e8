"""`ddcore plugins new`: every kind installs, passes the contract and its own tests, unchanged, in a process of its own."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ddcore.cli.app import invoke
from ddcore.kit.scaffold import KINDS, create, render

ROOT = Path(__file__).parents[2]


EXAMINE = """
import json, sys
import warm
from ddcore.kit.contract import examine
from ddcore.runs import executors

if __name__ == "__main__":
    found = {}
    for name in sys.argv[1:]:
        found[name] = {result.name: result.status for result in examine(name)}
        executors.get_context = warm.context
    print(json.dumps(found))
"""
"""Workers of the first begin as a user's do, those of the others are forked."""


def run(arguments: list[str], site: Path, cwd: Path) -> subprocess.CompletedProcess:
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join((str(site), tests))
    environment = {**os.environ, "PYTHONPATH": path, "DDCORE_CACHE": str(cwd / "cache")}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=600
    )


@pytest.mark.timeout(1200)
def test_generated_packages_install_and_pass_the_contract_and_their_own_tests(tmp_path):
    names = [f"my-{kind}" for kind in KINDS]
    folders = [str(create(name, kind, str(tmp_path))[0]) for name, kind in zip(names, KINDS, strict=True)]
    site = tmp_path / "site"
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site), *folders]
    installed = run(pip, site, tmp_path)
    assert installed.returncode == 0, installed.stderr
    (tmp_path / "examined.py").write_text(EXAMINE)
    checked = run(["examined.py", *names], site, tmp_path)
    assert checked.returncode == 0, checked.stderr
    for name, results in json.loads(checked.stdout.splitlines()[-1]).items():
        assert "failed" not in results.values(), (name, results)
        concerned = {check for check, status in results.items() if status == "passed"}
        assert {"hooks", "declarations", "options", "seed", "resume", "whole-run", "public"} <= concerned, name
    listed = run(["-m", "ddcore", "presets", "--json"], site, tmp_path)
    assert listed.returncode == 0, listed.stderr
    shown = {preset["name"]: preset["plugins"][0] for preset in json.loads(listed.stdout)}
    with_presets = {
        name: f"{name}/digits-ipc1" for name, kind in zip(names, KINDS, strict=True) if not KINDS[kind].no_presets
    }
    assert {preset: shown.get(preset) for preset in with_presets.values()} == {p: n for n, p in with_presets.items()}
    own = ["-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "--import-mode=importlib", "-k", "not contract"]
    tested = run([*own, *folders], site, tmp_path)  # their contract has just been seen
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_preset_is_an_example_that_sets_every_option_to_its_default_or_the_readme_says_why_there_is_none(kind):
    files = render("an-idea", kind)
    module, text = files["ddcore_an_idea/__init__.py"], files.get("ddcore_an_idea/presets.toml")
    assert ('presets: ClassVar[str | None] = "presets.toml"' in module) is (text is not None)
    about = files["README.md"].partition("## Presets\n")[2].partition("\n## ")[0]
    if text is None:
        assert KINDS[kind].no_presets in about and KINDS[kind].no_presets.startswith("None: ")
        return
    assert "--preset an-idea/digits-ipc1" in about
    table = tomllib.loads(text)["digits-ipc1"]
    assert (table["dataset"], table["ipc"], table["auto"], table["plugins"][0]) == ("digits", 1, False, "an-idea")
    defaults = dict(re.findall(r"^    (\w+): \w+ = option\(\s*([\d.]+),", module, re.MULTILINE))
    assert {name: str(value) for name, value in table["plugin"]["an-idea"].items()} == defaults


def code_lines(text: str) -> int:
    """Lines that are neither blank, nor documentation, nor imports."""
    parsed = ast.parse(text)
    idle = {
        line
        for node in ast.walk(parsed)
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for line in range(node.lineno, node.end_lineno + 1)
    }
    return len([n for n, line in enumerate(text.splitlines(), 1) if line.strip() and n not in idle])


@pytest.mark.parametrize("kind", KINDS)
def test_generated_code_is_formatted_linted_and_short(kind, tmp_path):
    for path, text in render("an-idea", kind).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
        if path.startswith("ddcore_") and text:
            assert 10 <= code_lines(text) <= 42
    ruff = [sys.executable, "-m", "ruff", "--config", str(ROOT / "pyproject.toml")]
    for words in (["format", "--check"], ["check"]):
        done = subprocess.run([*ruff[:3], *words, *ruff[3:], str(tmp_path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_a_generated_readme_has_the_sections_and_every_option(tmp_path):
    for kind in KINDS:
        files = render("an-idea", kind)
        for section in ("## Install", "## Options", "## Composes with", "## Results", "## Where we differ"):
            assert section in files["README.md"], (kind, section)
        module = files["ddcore_an_idea/__init__.py"]
        options = [line.split(":")[0].strip() for line in module.splitlines() if " = option(" in line]
        for option in options:
            assert f"--an-idea.{option.replace('_', '-')}" in files["README.md"], (kind, option)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["My_Idea", "--kind", "matcher"], "cannot be named 'My_Idea': use small letters"),
        (["torch", "--kind", "matcher"], "cannot be named 'torch'"),
        (["dm", "--kind", "matcher"], "a plugin named 'dm' already: choose another name"),
        (["idea", "--kind", "macher"], "--kind 'macher' is no kind of plugin: did you mean 'matcher'"),
        (["taken", "--kind", "matcher"], "is there already: give another --out"),
    ],
)
def test_what_cannot_be_generated_is_one_sentence(arguments, words, tmp_path, capsys):
    (tmp_path / "ddcore-taken").mkdir()
    assert invoke(["plugins", "new", *arguments, "--out", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["ddcore-taken"]


def test_it_says_what_it_wrote_and_what_to_do_next(tmp_path, capsys):
    assert invoke(["plugins", "new", "idea", "--kind", "data", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "ddcore_idea/__init__.py" in said and "ddcore plugins check idea" in said
