"""What is claimed of versions is what ``make versions`` tries: no range is wider, and the README says the same."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRIED = re.search(r"^TRIED \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
RANGES = dict(
    re.match(r"([\w-]+)(.*)", each).groups()
    for each in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
)


@pytest.mark.parametrize(("package", "column"), [("torch", 1), ("torchvision", 2), ("click", 3)])
def test_a_range_begins_and_ends_with_what_was_tried(package, column):
    first, last = (each.split(":")[column] for each in (TRIED[0], TRIED[-1]))
    major, minor, _ = last.split(".")
    lowest = first.removesuffix(".0")
    assert RANGES[package] == f">={lowest},<{major}.{int(minor) + 1}"
    assert f"{package} {first} to {last}" in (ROOT / "README.md").read_text()


def test_the_pinned_set_up_is_one_of_those_tried():
    pins = dict(re.findall(r"^([\w-]+)==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert [pins["torch"], pins["torchvision"]] in [each.split(":")[1:3] for each in TRIED]
