"""CONTRIBUTING's tutorial does what it says: its code is written to the file it names, and its commands are run."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddcore import Batch
from ddcore.cli.app import invoke
from ddcore.composing.discovery import installed, load_path

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "CONTRIBUTING.md").read_text().partition("## Write a plugin\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", SECTION, flags=re.DOTALL)
CODE = next(text for kind, text in BLOCKS if kind == "python")
COMMANDS = [
    line[2:] for kind, text in BLOCKS if kind == "console" for line in text.splitlines() if line.startswith("$ ")
]


@pytest.mark.skipif("dm" not in installed(), reason="the tutorial runs on dm, which is not installed")
def test_whoever_types_the_tutorial_gets_a_working_enhancement(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "soften.py").write_text(CODE)
    assert [words.split()[0] for words in COMMANDS] == ["ddcore"] * 4 + ["pip", "pytest"]
    for words in (shlex.split(command)[1:] for command in COMMANDS[:4]):
        assert invoke(words) == 0, (words, capsys.readouterr().err)
    said = capsys.readouterr()
    assert "FAILED" not in said.out and "0 failed" in said.out
    assert (tmp_path / "trial" / "artifact" / "manifest.json").exists()
    # pip install -e, without touching this environment, then pytest on the package with the tutorial's class in it
    package = tmp_path / "ddcore-my-soften"
    assert (package / "ddcore_my_soften" / "__init__.py").exists()
    site = tmp_path / "site"
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site), str(package)]
    subprocess.run([sys.executable, *pip], check=True, cwd=tmp_path)
    test = ["-m", "pytest", "-p", "no:cacheprovider", str(package), "-k", "not contract"]
    done = subprocess.run(
        [sys.executable, *test], env={"PYTHONPATH": str(site)}, cwd=package, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_enhancement_is_at_most_25_lines_of_python():
    ast.parse(CODE)
    lines = [line for line in CODE.splitlines() if line.strip()]
    assert len(lines) <= 25, len(lines)


def test_its_softening_by_hand(tmp_path):
    (tmp_path / "soften.py").write_text(CODE)
    soften, _ = load_path(str(tmp_path / "soften.py"))
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 1, 1] = 9.0
    got = soften(share=0.5).ddcore_view(Batch(image, {}, torch.tensor([0]))).inputs[0, 0]
    assert got[1, 1] == 5.0  # half of 9 and half of the mean 1
    assert got[0, 0] == 9 / 4 / 2  # a corner's mean is over 4 pixels
