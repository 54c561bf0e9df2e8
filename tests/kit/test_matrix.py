"""The composition matrix: what is declared is what happens, for every pair of first-party plugins, to the scores."""

import json
from pathlib import Path

import pytest

from ddcore.cli.app import invoke
from ddcore.composing.discovery import FIRST_PARTY, installed
from ddcore.kit.matrix import Pair, matrix, matrix_text, to_the_end

HERE = [name for name in FIRST_PARTY if name in installed()]
PAIRS = matrix(HERE)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A folder for all pairs, so that experts and teachers of a matcher are trained once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("pairs")
        patch.setenv("DDCORE_CACHE", str(folder / "cache"))
        yield folder


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.plugin}-{pair.matcher}")
def test_a_pair_runs_to_its_scores_or_is_refused_with_the_reason_it_declares(pair, scratch):
    problem = to_the_end(pair, scratch)
    if pair.reason:
        assert pair.reason in problem
    else:
        assert problem == ""


def test_every_matcher_meets_every_other_plugin():
    matchers = {pair.matcher for pair in PAIRS}
    assert matchers <= set(HERE) and len(PAIRS) >= len(matchers) * (len(HERE) - len(matchers) - 1)


@pytest.mark.skipif(
    len(HERE) < len(FIRST_PARTY), reason="the documents list all first-party plugins; some are not installed"
)
def test_the_matrix_in_the_readme_is_the_declared_one():
    written = (ROOT / "README.md").read_text().partition("<!-- matrix -->\n")[2].partition("\n<!-- /matrix -->")[0]
    assert written == matrix_text(PAIRS), "write it again: python -m ddcore.kit.matrix"


def test_reasons_stand_once_below_the_table_and_failures_in_it():
    pairs = [Pair("a", "m"), Pair("b", "m", "no view"), Pair("a", "n", "no view"), Pair("b", "n")]
    lines = matrix_text(pairs, {pairs[0]: "boom"}).splitlines()
    assert lines[0] == "| | m | n |"
    assert lines[2:4] == ["| a | no (1) | no (2) |", "| b | no (2) | yes |"]
    assert lines[-2:] == ["1. FAILED: boom", "2. no view"]
    assert "no pair" in matrix_text([])


def test_plugins_that_go_with_the_same_matchers_share_a_row():
    pairs = [Pair("a", "m"), Pair("b", "m", "no view"), Pair("c", "m")]
    assert matrix_text(pairs).splitlines()[2:4] == ["| a, c | yes |", "| b | no (1) |"]


def test_the_command_prints_json_for_machines(capsys):
    if not HERE:
        pytest.skip("no first-party plugin is installed")
    assert invoke(["plugins", "matrix", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"plugin", "matcher", "reason", "data", "composes", "failure"} == set(rows[0])
