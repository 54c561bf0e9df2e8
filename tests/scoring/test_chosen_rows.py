"""What is scored is chosen: the rows, how long all real images are trained on, and on which other data students are tested."""

import json
import re

import attrs
import numpy as np
import pytest
import torch

from ddcore.cli.app import invoke
from ddcore.config import Config
from ddcore.data.elsewhere import matched
from ddcore.data.source import Split
from ddcore.data.sources import open_source
from ddcore.errors import InputError, OptionError
from ddcore.runs.opening import open_run
from ddcore.scoring import evaluate
from ddcore.scoring.rows import check_rows, chosen_rows

pytestmark = pytest.mark.usefixtures("probes")
QUICK = ("--network=convnet1-w4", "--eval-seeds=2", "--threads=1", "--full-epochs=1", "--preset=none")
RUN = ("run", "--plugin=pull", "--steps=1", "--protocol=quick-2", *QUICK)
PLUGIN = """
from typing import ClassVar

import attrs
import torch
from attrs import frozen

from ddcore import Plugin, StudentData, hookimpl

from ddcore.data import Source, Split
from ddcore.data.sources import open_source
from ddcore.labels import SoftLabels


@frozen(kw_only=True, eq=False)
class Brought(Plugin):
    summary: ClassVar[str] = "a set of its own, and digits under other names of their classes' positions"
    paper: ClassVar[str] = "none, arXiv:2401.00001"
    role: ClassVar[str] = "evaluator"
    student_sets: ClassVar[tuple[str, ...]] = ("first-images",)
    initializers: ClassVar[tuple[str, ...]] = ("grey",)

    @hookimpl
    def ddcore_initialize(self, name, classes, run):
        return torch.zeros(len(classes), 1, 8, 8) if name == "grey" else None

    @hookimpl
    def ddcore_student_data(self, name, student, run):
        if name != "first-images":
            return None
        rows = torch.cat([run.real.train.of_class(cls)[:2] for cls in range(10)])
        classes = run.real.train.labels[rows]
        soft = SoftLabels(9 * torch.eye(10)[classes], classes)
        return StudentData(run.real.train.inputs(rows), soft, {"images": 7, "labels": 5, "models": 0, "total": 12})

    @hookimpl
    def ddcore_data(self, name, rest, options):
        if name != "backwards":
            return None
        real = open_source("digits")
        parts = {n: Split(s.stored, 9 - s.labels) for n, s in real.parts.items()}
        return attrs.evolve(real, name=f"backwards {rest}".strip(), classes=real.classes[::-1], **parts)
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    file = tmp_path_factory.mktemp("plugin") / "brought.py"
    file.write_text(PLUGIN)
    return f"--plugin-path={file}"


@pytest.fixture
def did(tmp_path, plugin):
    def do(*words, out="run", code=0):
        asked = [*RUN, plugin, *words, f"--out={tmp_path / out}", f"--cache={tmp_path / 'cache'}"]
        assert invoke(asked) == code
        scores = tmp_path / out / "scores.json"
        return json.loads(scores.read_text()) if scores.exists() else None

    return do


def sets(scores):
    return [(row["set"], row["labels"]) for row in scores["rows"]]


# ---- which rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "due"),
    [
        ({}, "distilled random kcenter random-bytes full"),
        ({"rows": ("full,distilled", "random")}, "full distilled random"),
        ({"rows": (" default , noise,random",)}, "distilled random kcenter random-bytes full noise"),
        ({"baseline": ("noise", "random")}, "distilled random kcenter noise random-bytes full"),
        ({"rows": ("full,distilled",), "baseline": ("noise",)}, "distilled noise full"),
        ({"rows": (" , ",)}, "distilled random kcenter random-bytes full"),
    ],
)
def test_rows_are_those_named_in_their_order_and_baselines_beside_them(given, due):
    assert " ".join(chosen_rows(Config(**given))) == due
    if "default" in str(given) or not given:
        assert chosen_rows(Config(**given), probed=True) != chosen_rows(Config(**given))


@pytest.mark.parametrize(
    ("word", "way_out"),
    [
        ("--rows=distilled,randm", "--rows 'randm' is offered by none .*did you mean 'random'"),
        ("--rows=first-imges", "did you mean 'first-images'"),
        ("--baseline=gray", "--baseline 'gray' .*did you mean 'grey'"),
    ],
)
def test_rows_of_nobody_are_refused_with_the_nearest_before_the_plan(did, capsys, tmp_path, word, way_out):
    did(word, code=2)
    said = capsys.readouterr()
    assert "plan:" not in said.err + said.out and not (tmp_path / "run").exists()
    assert re.search(way_out, said.err)


def test_an_evaluation_refuses_rows_of_nobody_too(did, capsys, tmp_path):
    did("--rows=distilled")
    assert invoke(["evaluate", str(tmp_path / "run" / "artifact"), "--rows=distilld"]) == 2
    assert "did you mean 'distilled'" in capsys.readouterr().err
    assert invoke(["evaluate", str(tmp_path / "run" / "artifact"), "--rows=random", *QUICK[1:3]]) == 0


def test_initialisers_and_plugins_sets_are_rows_with_the_labels_that_they_have(did):
    scores = did("--rows=first-images,real,grey,distilled")
    assert sets(scores) == [("first-images", "soft"), ("real", "hard"), ("grey", "hard"), ("distilled", "hard")]
    own, real, grey, _ = scores["rows"]
    assert (own["images"], own["bytes"]["total"]) == (20, 12)
    assert real["images"] == grey["images"] == 10 and "images of this initialiser" in grey["note"] + real["note"]
    assert not any("initialiser" in row["note"] for row in (own, scores["rows"][3]))


def test_a_plugin_may_bring_a_set_and_nothing_else(tmp_path):
    own = PLUGIN[
        PLUGIN.index("    @hookimpl\n    def ddcore_student_data") : PLUGIN.index("    @hookimpl\n    def ddcore_data")
    ]
    head = PLUGIN[: PLUGIN.index("    @hookimpl")].replace('("grey",)', "()")
    (tmp_path / "alone.py").write_text(head + own)
    words = [*RUN, f"--plugin-path={tmp_path / 'alone.py'}", "--rows=first-images", f"--out={tmp_path / 'run'}"]
    assert invoke([*words, f"--cache={tmp_path / 'cache'}"]) == 0


def test_rows_are_checked_without_a_run():
    with pytest.raises(OptionError, match="--rows 'nothing'"):
        check_rows(Config(rows=("nothing",)), {})
    check_rows(Config(rows=("default", "untrained", "real")), {})


def test_a_preset_is_not_reproduced_without_the_row_that_it_is_about(tmp_path, capsys):
    assert invoke(["reproduce", "pull/digits-ipc1", "--rows=random", f"--out={tmp_path / 'r'}"]) == 2
    assert "--rows leaves out distilled" in capsys.readouterr().err


def test_leaderboards_have_the_rows_that_a_suite_names_and_a_column_for_each_test_part(tmp_path, plugin):
    path = plugin.partition("=")[2]
    (tmp_path / "suite.toml").write_text(
        'ipc = [1]\nseeds = [0]\n[run]\nnetwork = "convnet1-w4"\nprotocol = ["quick-2"]\neval_seeds = 1\nthreads = 1\n'
        f'cache = "{tmp_path / "cache"}"\nrows = ["distilled,random-bytes", "first-images"]\nevaluate_on = ["backwards"]\n'
        '[[data]]\nname = "digits"\ndataset = "digits"\n'
        f'[[method]]\nname = "pull"\nplugins = ["pull"]\nplugin_path = ["{path}"]\nsteps = 1\n'
    )
    assert invoke(["bench", str(tmp_path / "suite.toml"), "--out", str(tmp_path / "b")]) == 0
    made = json.loads((tmp_path / "b" / "leaderboard.json").read_text())
    assert {row["name"] for row in made["rows"]} == {"pull", "random-bytes, beside pull", "first-images, beside pull"}
    test, other = (column["on"] for column in made["columns"])
    assert test == "test" and other.startswith("backwards (")
    assert all(row["cells"]["0"]["mean"] == row["cells"]["1"]["mean"] for row in made["rows"])
    assert f"on {other}" in (tmp_path / "b" / "leaderboard.md").read_text()


# ---- all real images -------------------------------------------------------------------------------------------------


def test_all_real_images_take_epochs_of_their_own_whatever_the_others_make(did, tmp_path):
    more = {"ipc 1": ("--ipc=1",), "ipc 40": ("--ipc=40", "--protocol=augmented-2")}
    for name, words in more.items():
        rows = {
            row["set"]: row
            for row in did("--rows=random,full", *words, out=name)["rows"]
            if row["protocol"] == "quick-2"
        }
        # 1,437 images in batches of 256
        assert rows["full"]["steps"] == 6 and "1 epoch of its own (--full-epochs)" in rows["full"]["note"]
        assert rows["random"]["steps"] == {"ipc 1": 3, "ipc 40": 6}[name]
    assert len(list((tmp_path / "cache" / "full").iterdir())) == 4, "two protocols, two seeds: both runs share quick-2"


def test_a_protocol_says_how_many_epochs_and_big_data_take_fewer(did, monkeypatch):
    monkeypatch.setattr(evaluate, "FULL_IMAGES", 3 * 1437 + 5)
    (row,) = did("--rows=full", "--full-epochs=none")["rows"]
    assert row["steps"] == 18 and "3 epochs of its own, as many as 4,316 images make" in row["note"]


# ---- other data ------------------------------------------------------------------------------------------------------

DIGITS = open_source("digits")


def other(**changes):
    return attrs.evolve(DIGITS, **changes)


def test_classes_are_matched_by_name():
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    names = tuple(DIGITS.classes[c] for c in order)
    moved = torch.tensor([order.index(c) for c in range(10)])
    found = other(
        classes=names,
        train=Split(DIGITS.train.stored, moved[DIGITS.train.labels]),
        test=Split(DIGITS.test.stored, moved[DIGITS.test.labels]),
    )
    assert not torch.equal(found.test.labels, DIGITS.test.labels)
    assert torch.equal(matched(found, DIGITS, "x").labels, DIGITS.test.labels)
    assert matched(DIGITS, DIGITS, "x") is DIGITS.test


def few(classes):
    def cut(split):
        return Split(split.stored[split.labels < classes], split.labels[split.labels < classes])

    return other(train=cut(DIGITS.train), test=cut(DIGITS.test), classes=DIGITS.classes[:classes])


@pytest.mark.parametrize(
    ("data", "of", "why"),
    [
        (few(8), DIGITS, "has no class '8', '9' .*name data of the same classes"),
        (DIGITS, few(8), "has classes that students do not know, '8', '9'"),
        (other(classes=("0",) * 2 + DIGITS.classes[2:]), DIGITS, "has no class '1'"),
        (open_source("digits", resize=4), DIGITS, "holds images of 1x4x4, and students see images of 1x8x8"),
    ],
)
def test_data_that_students_cannot_be_tested_on_are_refused(data, of, why):
    with pytest.raises(InputError, match=f"--evaluate-on 'x' {why}"):
        matched(data, of, "x")


def test_every_row_is_of_each_test_part_whatever_does_the_tasks(did, tmp_path, capsys):
    words = ("--rows=distilled,random,full,first-images", "--evaluate-on=backwards", "--evaluate-on=digits")
    one = did(*words)
    with open(tmp_path / "run" / "report.html") as page:
        shown = page.read()
    two = did(*words, "--jobs=2", "--executor=processes", out="jobs")
    bare = [{k: v for k, v in row.items() if k != "seconds"} for row in one["rows"]]
    assert bare == [{k: v for k, v in row.items() if k != "seconds"} for row in two["rows"]]
    places = list(dict.fromkeys(row.get("on") for row in one["rows"]))
    assert places[0] is None and [name[:10] for name in places[1:]] == ["backwards ", "digits (81"]
    parts = [[row for row in one["rows"] if row.get("on") == place] for place in places]
    assert [[row["set"] for row in part] for part in parts] == [["distilled", "random", "full", "first-images"]] * 3
    for test, *others in zip(*parts, strict=True):
        assert all(row["accuracy"] == test["accuracy"] and row["steps"] == test["steps"] for row in others)
        assert all(row["class_accuracy"] == test["class_accuracy"] for row in others), (
            "the same images, classes matched"
        )
    assert [each["name"] for each in one["evaluated_on"]] == places[1:]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["evaluated_on"] == one["evaluated_on"]
    assert "<th>on</th>" in shown and places[1] in shown
    table = capsys.readouterr().out
    assert "  on" in table and "  test" in table and places[1] in table
    assert invoke(["compare", str(tmp_path / "run"), str(tmp_path / "jobs"), "--json"]) == 0
    columns = json.loads(capsys.readouterr().out)["columns"]
    assert [column["on"] for column in columns] == ["test", *places[1:]]


def npz(folder, seed):
    drawn = np.random.default_rng(seed)
    arrays = {f"x_{p}": drawn.integers(0, 256, (n, 8, 8), dtype=np.uint8) for p, n in (("train", 20), ("test", 10))}
    arrays |= {"y_train": np.arange(20) % 10, "y_test": np.arange(10)}
    np.savez(folder / "other.npz", **arrays)
    return f"npz:{folder / 'other.npz'}"


def test_other_data_are_part_of_the_run_they_may_not_change_and_have_a_full_row_of_their_own(did, tmp_path, capsys):
    words = ("--rows=full", f"--evaluate-on={npz(tmp_path, 0)}")
    rows = did(*words)["rows"]
    assert [row.get("on", "")[:6] for row in rows] == ["", "other "]
    did("--rows=full", out="alone")
    assert len(list((tmp_path / "cache" / "full").iterdir())) == 4
    npz(tmp_path, 1)
    assert did(*words, out="changed")["rows"][1]["on"] != rows[1]["on"]
    with pytest.raises(InputError, match="the data behind --evaluate-on changed"):
        open_run(str(tmp_path / "run"))


def test_an_evaluation_takes_other_data_too(did, tmp_path, capsys):
    did("--rows=distilled")
    words = ["evaluate", str(tmp_path / "run" / "artifact"), "--rows=distilled", "--evaluate-on=digits", *QUICK[1:3]]
    capsys.readouterr()
    assert invoke([*words, "--json"]) == 0
    test, again = json.loads(capsys.readouterr().out)["rows"]
    assert test["accuracy"] == again["accuracy"] and "on" not in test and again["on"].startswith("digits (")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--evaluate-on=digits", "--validation=0.2"), "leave one of them out"),
        (("--evaluate-on=digts",), "no data set is named 'digts'"),
        (("--evaluate-on=backwards", "--resize=4"), "holds images of 1x8x8, and students see images of 1x4x4"),
    ],
)
def test_other_data_are_refused_before_any_work(did, capsys, tmp_path, words, why):
    did(*words, code=2)
    assert why in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_test_images_elsewhere_that_students_were_trained_on_are_warned_of(did, tmp_path):
    arrays = {f"x_{p}": (16 * s.stored[:, 0]).round().numpy().astype(np.uint8) for p, s in DIGITS.parts.items()}
    arrays |= {f"y_{p}": s.labels.numpy() for p, s in DIGITS.parts.items()}
    np.savez(tmp_path / "mine.npz", **arrays)
    turned = {f"{a}_{p}": arrays[f"{a}_{'test' if p == 'train' else 'train'}"] for a in "xy" for p in ("train", "test")}
    np.savez(tmp_path / "turned.npz", **turned)
    words = (f"--dataset=npz:{tmp_path / 'mine.npz'}", f"--evaluate-on=npz:{tmp_path / 'turned.npz'}")
    warnings = did("--rows=distilled", *words)["warnings"]
    assert any("1437 test images of --evaluate-on turned" in text for text in warnings)
