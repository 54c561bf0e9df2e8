"""Tables through the whole of ddcore: distilled, scored, compared, evaluated again."""

import csv
import json
from pathlib import Path

import pytest
import torch
from ddcore_tabular import Tabular
from ddcore_tabular.encoding import Encoding
from ddcore_tabular.students import STUDENTS, set_of

from ddcore import Arm, load_artifact
from ddcore.cli.app import invoke
from ddcore.runs.opening import open_distillation
from ddcore.scoring.evaluate import data_for
from ddcore.testing import check_plugin

pytest.importorskip("ddcore_dm")
SETS = {"distilled", "random", "kcenter", "random-bytes", "full", "k-means"}


def table(path, rows=120):
    lines = ["age,town,owner,target"]
    for at in range(rows):
        town = "" if at % 11 == 0 else ("rome", "oslo", "bern")[at % 3]
        lines.append(f"{20 + at % 50 + 30 * (at % 2)},{town},{str(at % 4 < 2).lower()},{'ny'[at % 2]}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tabular")
    data = ["--plugin", "tabular", "--dataset", f"table:{table(folder / 'few.csv')}"]
    return [*data, "--cache", str(folder / "cache"), "--threads", "1"]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("tabular") / "run"
    small = ["--ipc", "2", "--steps", "3", "--protocol", "tabular-4", "--eval-seeds", "2", "--full-epochs", "1"]
    assert invoke(["run", "--plugin", "dm", *words, *small, "--rows", "default,k-means", "--out", str(out)]) == 0
    return out


def rows_of(place):
    return json.loads((Path(place) / "scores.json").read_text())["rows"]


def test_trees_and_neighbours_stand_beside_the_network_on_every_set(run):
    rows = rows_of(run)
    assert {row["set"] for row in rows if row["network"] == "tab-mlp"} == SETS
    for name in STUDENTS:
        assert {row["set"] for row in rows if row["network"] == name} == SETS
    forest = next(row for row in rows if row["network"] == "random-forest" and row["set"] == "distilled")
    assert len(forest["tabular.auc"]) == len(forest["accuracy"]["values"]) == 2
    metrics = {row.get("metric", "accuracy") for row in rows if row["network"] == "tab-mlp"}
    assert metrics == {"accuracy", "balanced_accuracy", "auc"}


def test_all_students_of_a_seed_see_the_same_rows_at_the_same_price(run):
    of = {(row["set"], row["network"]): row for row in rows_of(run) if row.get("metric", "accuracy") == "accuracy"}
    for name in SETS:
        sizes = {(row["bytes"]["total"], row["ipc"]) for (of_set, _), row in of.items() if of_set == name}
        assert len(sizes) == 1, name
    # age float32, town a byte, owner a bit; a byte for the label
    assert of["random", "tab-mlp"]["bytes"]["total"] == 4 * (6 + 1)
    # six places in float32, a byte for the label
    assert of["k-means", "tab-mlp"]["bytes"]["total"] == 4 * (6 * 4 + 1)


@pytest.mark.parametrize("name", ["random", "random-bytes", "kcenter", "k-means", "distilled"])
def test_trees_are_fitted_on_the_rows_of_the_network(name, run):
    opened = open_distillation(str(run))
    opened.artifact = load_artifact(run / "artifact")
    for seed in range(2):
        theirs = data_for(opened, Arm(name, "hard", "tabular-4", "tab-mlp"), seed, opened.artifact)
        ours = set_of(opened, name, seed)
        assert torch.equal(ours.samples, theirs.images) and torch.equal(ours.classes, theirs.labels.classes)
        assert ours.bytes["total"] == theirs.bytes["total"]


def test_the_set_is_a_table_again(run):
    with (run / "tabular" / "table.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["age", "town", "owner", "target"] and len(lines) == 5
    assert [line[3] for line in lines[1:]] == ["n", "n", "y", "y"]
    said = json.loads((run / "tabular" / "encoding.json").read_text())
    made = load_artifact(run / "artifact")
    table = Encoding.from_json(said).decoded(made.images())
    assert [str(age) for age in table["age"]] == [line[0] for line in lines[1:]]
    assert (run / "artifact" / "preview.png").read_bytes().startswith(b"\x89PNG")


def test_the_set_is_evaluated_resumed_reported_and_compared(run, words, tmp_path, capsys):
    few = ["--protocol", "tabular-2", "--eval-seeds", "1", "--full-epochs", "1", "--tabular.fitted", "decision-tree"]
    other = str(tmp_path / "other")
    assert invoke(["evaluate", str(run / "artifact"), *words, *few, "--out", other]) == 0
    assert {row["network"] for row in rows_of(other)} == {"tab-mlp", "decision-tree"}
    before = rows_of(run)
    (run / "scores.json").unlink()
    assert invoke(["resume", str(run)]) == 0
    key = lambda rows: [(row["set"], row["network"], row["accuracy"]) for row in rows]  # noqa: E731
    assert key(rows_of(run)) == key(before)
    assert invoke(["report", str(run)]) == 0 and invoke(["compare", str(run), other]) == 0
    assert invoke(["inspect", str(run / "artifact")]) == 0
    capsys.readouterr()


def test_coresets_distil_tables_too(words, tmp_path):
    pytest.importorskip("ddcore_coresets")
    out = tmp_path / "run"
    small = ["--ipc", "2", "--protocol", "tabular-2", "--eval-seeds", "1", "--full-epochs", "1", "--tabular.fitted", ""]
    chosen = ["--plugin", "coresets", "--coresets.method", "herding", "--coresets.features", "pixels"]
    assert invoke(["run", *chosen, *words, *small, "--out", str(out)]) == 0
    assert {row["network"] for row in rows_of(out)} == {"tab-mlp"}
    path = words[words.index("--dataset") + 1].partition(":")[2]
    source = Tabular().ddcore_data("table", path, {"data_root": None, "split": None})
    real = {tuple(row) for row in source.train.stored.tolist()}
    assert {tuple(row) for row in load_artifact(out / "artifact").images().tolist()} <= real


def test_data_are_shown_and_checked(words, capsys):
    name = words[words.index("--dataset") + 1]
    assert invoke(["data", "show", name, "--plugin", "tabular"]) == 0
    assert "town: 3 categories, missing values" in capsys.readouterr().out
    assert invoke(["data", "check", name, "--plugin", "tabular"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--dataset", "table:none.csv"], "there is nothing at"),
        (["--dataset", "iris:x.csv"], "iris is a built-in table and takes no path: give table:x.csv"),
        (["--tabular.label", "city"], "has no column 'city' (--tabular.label)"),
        (["--tabular.fitted", "oak"], "'oak' is none of"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(asked, said, words, tmp_path, capsys):
    small = ["--ipc", "1", "--steps", "1", "--out", str(tmp_path / "no")]
    assert invoke(["run", "--plugin", "dm", *words, *small, *asked]) == 2
    assert said in capsys.readouterr().err


def test_the_pack_passes_the_contract_kit():
    check_plugin("tabular")
