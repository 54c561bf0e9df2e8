"""``ddcore verify``: cells are listed, run, stopped and gone on with, and set down; the page says what records say."""

import json
from pathlib import Path

import pytest

from ddcore.cli.app import invoke
from ddcore.testing import stop_often

pytestmark = pytest.mark.usefixtures("probes")
CELL = ["verify", "pulled-digits", "--dataset", "digits", "--threads", "1", "--records", "records"]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.chdir(tmp_path)


def record(name: str = "pulled-digits", folder: str = "records") -> dict:
    return json.loads((Path(folder) / f"{name}.json").read_text())


def listed(capsys, *words: str) -> dict[str, dict]:
    capsys.readouterr()
    assert invoke(["verify", "--json", *words]) == 0
    return {entry["cell"]: entry for entry in json.loads(capsys.readouterr().out)["cells"]}


def test_a_cell_is_run_listed_and_set_down_without_places(tmp_path, capsys):
    assert listed(capsys)["pulled-digits"]["outcome"] == "open"
    assert invoke([*CELL, "--differs", f"a copy in {tmp_path}/data", "--reason", "it is made up"]) == 0
    assert "pulled-digits" in capsys.readouterr().out
    made = record()
    assert len(made["ours"]["values"]) == 3 and made["ours"]["students"] == [0, 1, 2]
    assert made["differs"] == ["made up", "a copy in data"] and made["reason"] == "it is made up"
    assert made["data"]["said"] == "digits" and made["data"]["classes"] == 10
    assert made["machine"]["cores"] and made["machine"]["torch"] and made["seconds"] > 0
    assert made["command"] == "ddcore verify pulled-digits --dataset digits"
    assert made["does"].startswith("ddcore run --plugin pull --preset pull/digits-ipc1 --ipc 1")
    assert str(tmp_path) not in json.dumps(made)
    run = json.loads((tmp_path / "runs/verify-pulled-digits/run.json").read_text())
    assert run["config"]["steps"] == 7 and run["options"]["pull"]["rate"] == 0.25
    entry = listed(capsys, "--records", "records")["pulled-digits"]
    points = 100 * (made["ours"]["mean"] - 0.2)
    assert entry["record"]["distance"] == {"points": round(points, 2), "deviations": round(points / 5, 2)}
    assert entry["outcome"] == ("reached" if abs(points) <= 5 else "above" if points > 0 else "below")


def test_stopped_and_gone_on_with_it_makes_the_same_record(monkeypatch, capsys):
    assert invoke([*CELL, "--out", "whole"]) == 0
    whole = record()
    Path("records/pulled-digits.json").unlink()
    stop_often(monkeypatch, times=3)
    for _ in range(3):
        capsys.readouterr()
        assert invoke(CELL) == 3
        assert "give the same command again" in capsys.readouterr().err
        assert not Path("records/pulled-digits.json").exists()
    assert invoke(CELL) == 0
    assert {**record(), "seconds": 0} == {**whole, "seconds": 0}


def test_fewer_students_and_another_seed_are_said(capsys):
    assert invoke([*CELL, "--eval-seeds", "1", "--seed", "4"]) == 0
    assert record()["differs"] == ["made up", "1 of 3 students"]
    assert record()["ours"]["seed"] == 4
    assert record()["command"] == "ddcore verify pulled-digits --dataset digits --seed 4 --eval-seeds 1"


def test_a_folder_of_another_run_is_not_gone_on_with(capsys):
    assert invoke([*CELL, "--eval-seeds", "1"]) == 0
    capsys.readouterr()
    assert invoke([*CELL, "--eval-seeds", "2"]) == 2
    assert "differs from what is asked for in --eval-seeds" in capsys.readouterr().err


def test_a_cell_that_evaluates_takes_the_set_of_another(capsys):
    words = [word.replace("pulled-digits", "pulled-digits-mlp") for word in CELL]
    assert invoke(words) == 2
    assert "verify that first" in capsys.readouterr().err
    assert invoke(CELL) == 0
    assert invoke(words) == 0
    made = record("pulled-digits-mlp")
    assert made["ours"]["network"] == "mlp" and made["reason"] == "nobody ever saw it | or *did*"
    assert invoke(words) == 0
    assert {**record("pulled-digits-mlp"), "seconds": 0} == {**made, "seconds": 0}
    assert listed(capsys, "--records", "records")["pulled-digits-mlp"]["outcome"] == "below"


def test_a_file_of_anybodys_has_cells_that_train(capsys):
    Path("mine.toml").write_text("""
[taught]
what = "a student, digits"
paper = "none"
table = "none"
setting = "one epoch"
published = { mean = 0.1 }
read = "nowhere"
command = "train --student convnet2-w4 --per-class 2 --protocol quick-1 --eval-seeds 1"
data = { shape = [3, 8, 8], classes = 10 }
""")
    words = [
        "verify",
        "taught",
        "--cells",
        "mine.toml",
        "--dataset",
        "digits",
        "--threads",
        "1",
        "--records",
        "records",
    ]
    assert invoke(words) == 0
    made = record("taught")
    assert made["owner"] == "mine.toml" and made["ours"]["set"] == "student"
    assert made["differs"] == ["data: shape 1x8x8, the paper's 3x8x8"]
    assert "--data digits" in made["does"]
    assert invoke(words) == 0
    assert {**record("taught"), "seconds": 0} == {**made, "seconds": 0}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["verify", "pulled-digits"], "is of digits (1x8x8, 10 classes): name a copy by --dataset"),
        (["verify", "puled-digits"], "no cell is named 'puled-digits': did you mean 'pulled-digits'"),
        (["verify", "--dataset", "digits"], "--dataset is of one cell, and none is named"),
        (["verify", "--reason", "why"], "--reason is of one cell"),
        (["verify", "--cells", "nowhere.toml"], "nowhere.toml"),
        ([*CELL, "--set", "x"], "--set is of cells that evaluate a set"),
        ([*CELL, "--ipc", "2"], "No such option"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(words, sentence, capsys):
    assert invoke(words) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said and len(said.splitlines()) == 1


def test_a_row_that_the_run_does_not_have_is_said(capsys):
    text = (Path(__file__).parents[1] / "probes/ddcore_probes/cells.toml").read_text()
    first = text.partition("[pulled-digits-mlp]")[0].replace("pulled-digits]", "rowless]")
    Path("mine.toml").write_text(first + 'row = { set = "full" }\n')
    words = ["verify", "rowless", "--cells", "mine.toml", *CELL[2:], "--eval-seeds", "1"]
    assert invoke(words) == 2
    assert "means the row of set 'full', and its run has distilled: mend the cell's row" in capsys.readouterr().err


BROKEN = {
    "schema": 1,
    "cell": "pulled-digits",
    "owner": "pull",
    "published": {"mean": 0.2},
    "differs": [],
    "reason": "",
}
BROKEN |= {"ours": {"mean": 0.1, "std": 0.1, "seed": 0, "values": ["x"]}, "distance": {"points": 1}, "data": {}}
BROKEN |= {"machine": {}, "seconds": 1, "ddcore": "0", "command": "", "does": ""}


@pytest.mark.parametrize("content", [json.dumps(BROKEN), "{", "[]", '{"schema": 99}', '{"schema": 1, "cell": "other"}'])
def test_what_is_no_record_is_refused_in_a_sentence(content, capsys):
    Path("records").mkdir()
    Path("records/pulled-digits.json").write_text(content)
    assert invoke(["verify", "--records", "records"]) == 2
    said = capsys.readouterr().err
    assert "pulled-digits.json" in said and len(said.strip().splitlines()) == 1


def test_the_page_says_what_records_say_and_nothing_in_it_is_a_mark(capsys):
    assert invoke(CELL) == 0
    assert invoke(["verify", "--records", "records", "--page", "board.md"]) == 0
    page, made = Path("board.md").read_text(), record()
    assert f"{100 * made['ours']['mean']:.1f} ± {100 * made['ours']['std']:.1f}" in page
    assert "20.0 ± 5.0" in page and "99.0 (unverified)" in page
    assert made["does"] in page
    assert r"nobody ever saw it \| or \*did\*" in page
    assert invoke(["verify", "--records", "records", "--page", "again.md"]) == 0
    assert Path("again.md").read_text() == page


def test_records_are_the_checkouts_where_there_is_one_else_the_users(tmp_path, capsys):
    words = [*CELL[: CELL.index("--records")], "--eval-seeds", "1"]
    assert invoke(words) == 0
    assert record(folder="share/ddcore/cells")
    Path("examples/benchmarks/results").mkdir(parents=True)
    assert invoke(words) == 0
    assert record(folder="examples/benchmarks/results/cells")


def test_the_plan_of_a_cell_is_shown_and_nothing_done(capsys):
    assert invoke([*CELL, "--plan-only"]) == 0
    assert "estimate" in capsys.readouterr().out
    assert not Path("runs").exists() and not Path("records").exists()
