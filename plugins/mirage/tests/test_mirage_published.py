"""Mirage as its authors judge it: the epoch and five of ten students by validation, beside what is not chosen."""

import contextlib
import io
import json
import tomllib
from pathlib import Path

import ddcore_mirage
import pytest
from ddcore_graphs.choosing import Regime
from ddcore_mirage import Mirage

from ddcore.cli.app import invoke as invoked

QUICK = ["--graphs.width", "4", "--graphs.layers", "1", "--threads", "1", "--eval-network", "gin", "--mirage.hops", "1"]
QUICK += ["--graphs.full-steps", "2", "--mirage.sampling", "each", "--mirage.epochs", "2", "--mirage.threshold", "0.5"]
PRESETS = tomllib.loads((Path(ddcore_mirage.__file__).parent / "presets.toml").read_text("utf-8"))


def invoke(*words):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = invoked([*words])
    return code, out.getvalue()


def rings(out, *more, data="rings"):
    return invoke("run", "--plugin", "mirage", "--dataset", data, "--out", str(out), *QUICK, *more)


def rows_of(out):
    return {row["set"]: row for row in json.loads((out / "scores.json").read_text())["rows"]}


def test_by_default_nothing_is_chosen_and_no_row_is_untrained(tmp_path):
    assert Mirage().regime() == Regime() == Regime(False, None, "last", "all")
    assert rings(tmp_path / "out", "--eval-seeds", "1")[0] == 0
    rows = rows_of(tmp_path / "out")
    assert [*rows] == ["distilled", "random-bytes", "full"]
    assert all("valid" not in row["protocol"] + row["note"] and "chosen" not in row for row in rows.values())


def test_rows_of_five_of_ten_say_so_and_the_untrained_have_one_of_their_own(tmp_path):
    rule = ("--mirage.select", "validation", "--mirage.average", "best-five-of-ten")
    code, said = rings(tmp_path / "out", "--eval-seeds", "10", *rule)
    assert code == 0, said
    rows = rows_of(tmp_path / "out")
    distilled, untrained = rows["distilled"], rows["untrained"]
    assert [*rows] == ["distilled", "random-bytes", "full", "untrained"]
    assert distilled["protocol"] == f"adam-{distilled['steps']}-validation-best5of10"
    assert "best on 50 validation graphs" in distilled["note"] and "the 5 of 10 students" in distilled["note"]
    chosen = distilled["chosen"]
    order = sorted(range(10), key=lambda at: -chosen["validation"][at])
    assert distilled["accuracy"]["values"] == [chosen["score"][at] for at in order[:5]]
    assert (untrained["protocol"], untrained["steps"], untrained["bytes"]["total"]) == ("adam-0", 0, 0)
    assert len(untrained["accuracy"]["values"]) == 10
    for at, step in enumerate(chosen["picked"]):
        if step == 0:
            assert chosen["score"][at] == untrained["accuracy"]["values"][at]
        if step == distilled["steps"]:
            assert chosen["score"][at] == chosen["last"][at]


def test_the_same_students_score_the_same_at_their_last_epoch_under_either_rule(tmp_path):
    assert rings(tmp_path / "last", "--eval-seeds", "2")[0] == 0
    assert rings(tmp_path / "chosen", "--eval-seeds", "2", "--mirage.select", "validation")[0] == 0
    last, chosen = rows_of(tmp_path / "last"), rows_of(tmp_path / "chosen")
    assert chosen["distilled"]["protocol"] == f"adam-{chosen['distilled']['steps']}-validation"
    assert last["distilled"]["steps"] == chosen["distilled"]["steps"]
    for name in ("distilled", "random-bytes"):
        assert last[name]["accuracy"]["values"] == chosen[name]["chosen"]["last"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--mirage.average", "best-five-of-ten"], "add --mirage.select validation"),
        (["--mirage.select", "validation", "--mirage.average", "best-five-of-ten"], "give --eval-seeds 10"),
        (["--mirage.epochs", "0"], "--mirage.epochs"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_mined(tmp_path, words, sentence):
    code, said = rings(tmp_path / "out", "--eval-seeds", "3", *words)
    assert code == 2 and sentence in said and "Traceback" not in said, said
    assert not (tmp_path / "out" / "artifact").exists()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_one_network_under_the_authors_rule(name):
    table = PRESETS[name]
    method, end = table["plugin"]["mirage"], name.rpartition("-")[2]
    assert table["run"]["eval_network"] == [end if end in ("gcn", "gat") else "gin"]
    assert table["copy"].startswith("smiles:" if table["dataset"].startswith("mol") else "pyg:")
    assert (method["sampling"], method["select"], method["average"]) == ("each", "validation", "best-five-of-ten")
    assert table["run"]["eval_seeds"] == 10 and table["plugin"]["graphs"]["raw"] is True
    assert ("published" in table) == name.startswith(("molbace", "molhiv"))


def test_gin_and_gat_of_hiv_have_their_own_layers_jump_norm_and_decay():
    gin, gcn, gat = (PRESETS[f"molhiv{end}"]["plugin"]["graphs"] for end in ("", "-gcn", "-gat"))
    for own in (gin, gat):
        assert (own["layers"], own["jump"], own["norm"]) == (2, "sum", "none")
    assert (gin["weight_decay"], gat["weight_decay"]) == (0.01, 1e-6)
    assert gcn["layers"] == 3 and "norm" not in gcn and "jump" not in gcn and gcn["batch"] == 64


@pytest.mark.parametrize(("name", "copy"), [("molbace", "smiles:bace.csv"), ("nci1", "pyg:NCI1")])
def test_reproduce_advises_the_form_that_graphs_are_read_in(name, copy, tmp_path):
    code, said = invoke("reproduce", f"mirage/{name}", "--out", str(tmp_path / "out"))
    assert code == 2 and said.endswith(f"such as {copy}\n") and "parquet" not in said


def test_a_choice_by_validation_needs_that_part_and_says_which_split_has_one(tmp_path):
    code, said = rings(tmp_path / "out", "--mirage.select", "validation", data=f"tu:{pairs(tmp_path / 'TOY')}")
    assert code == 2 and "give --split train:test" in said, said


def pairs(folder, count=40):
    """Graphs of two bonded nodes in the format of the TU collection, classes 0 and 1 in turn."""
    folder.mkdir()
    ends = [(2 * k + 1, 2 * k + 2) for k in range(count)]
    files = {
        "A": [f"{a}, {b}" for pair in ends for a, b in (pair, pair[::-1])],
        "graph_indicator": [k + 1 for k in range(count) for _ in range(2)],
        "graph_labels": [k % 2 for k in range(count)],
    }
    for name, lines in files.items():
        (folder / f"TOY_{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder
