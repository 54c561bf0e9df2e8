"""``ddcore reproduce``: a preset as published, or shortened, beside its published figure."""

import json
from pathlib import Path

import numpy as np
import pytest

from ddcore.cli.app import invoke
from ddcore.commands.reproduce import Reproduction, comparison_text, find_preset, less, line_of
from ddcore.composing.presets import every_preset
from ddcore.composing.selection import select
from ddcore.errors import OptionError
from ddcore.runs.assembly import begin

pytestmark = pytest.mark.usefixtures("probes")
TINY = ["--threads", "1", "--eval-seeds", "1", "--network", "convnet2-w4"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def named(name: str):
    return next(preset for preset in every_preset() if preset.name == name)


def prepared(name: str, scale: float, *arguments: str, **given) -> Reproduction:
    preset = named(name)
    return Reproduction.of(preset, select(line_of(preset, arguments), {}), given, {}, scale)


def npz(path: Path) -> str:
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return f"npz:{path}"


# ---- as published ----------------------------------------------------------------------------------------------------


def test_the_preset_is_found_in_any_position_and_its_name_alone_suffices_where_only_one_has_it():
    assert find_preset(["--scale", "0.02", "pull/cifar10-ipc1", "--out", "x/y"]).name == "pull/cifar10-ipc1"
    assert find_preset(["tiny-ipc1"]).name == "rival/tiny-ipc1"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["pull/cifar11-ipc1"],
            "no installed plugin has a preset 'pull/cifar11-ipc1': did you mean 'pull/cifar10-ipc1'",
        ),
        (["--scale", "0.5", "pull/cifar11-ipc1"], "no installed plugin has a preset 'pull/cifar11-ipc1'"),
        (["cifar10-ipc1"], "preset 'cifar10-ipc1' is ambiguous: .*pull/cifar10-ipc1 or .*rival/cifar10-ipc1"),
        ([], "no preset is named: write ddcore reproduce PLUGIN/NAME"),
    ],
)
def test_a_preset_that_is_not_there_is_refused(words, sentence):
    with pytest.raises(OptionError, match=sentence):
        find_preset(words)


# ---- shortened -------------------------------------------------------------------------------------------------------


def test_rounding_is_up_and_exact_products_stay():
    assert [less(n, 0.07) for n in (5000, 100, 1, 0)] == [350, 7, 1, 0]


def test_what_the_command_line_says_is_not_shortened():
    made = prepared("pull/cifar10-ipc1", 0.02, "--steps", "77", steps="77", protocol=("quick-5",))
    assert (made.setup.config.steps, made.setup.config.protocol) == (77, ("quick-5",))
    assert made.changed == {"--steps": 77, "--protocol": ["quick-5"]}


# ---- what differs ----------------------------------------------------------------------------------------------------


def test_changes_name_what_a_result_depends_on_and_no_more():
    given = {"seed": "4", "out": "x", "eval_seeds": "9", "ipc": "1", "pull__rate": "2", "shake__strength": "0.2"}
    made = prepared("pull/cifar10-ipc1", 1.0, "--plugin", "turn", **given)
    assert made.changed == {"--pull.rate": 2.0, "--shake.strength": 0.2, "--plugin": ["turn"]}


def test_a_second_preset_is_refused():
    with pytest.raises(OptionError, match="pull/cifar10-ipc1 is named already"):
        line_of(named("pull/cifar10-ipc1"), ["--preset=none"])


# ---- the comparison --------------------------------------------------------------------------------------------------


def about(**published: float) -> dict:
    ours = {"accuracy": 0.5, "std": 0.02, "labels": "hard", "protocol": "plain", "network": "convnet3", "students": 3}
    return {"preset": "p/x", "source": "table 1", "published": published, "ours": ours, "changed": {"--ipc": 3}}


def test_the_distance_is_said_in_points_and_published_deviations():
    found = about(accuracy=0.45, std=0.02) | {"distance": {"points": 5.0, "deviations": 2.5}}
    assert comparison_text(found).splitlines() == [
        "reproduced p/x",
        "  ours       0.500 ± 0.020  (3 students, hard labels, protocol plain, convnet3)",
        "  published  0.450 ± 0.020  (table 1)",
        "  distance   +5.0 points, +2.5 published standard deviations",
        "  changed    --ipc 3",
    ]


def test_without_a_deviation_there_are_points_only_and_without_a_figure_no_distance():
    assert "  distance   -5.0 points\n" in comparison_text(about(accuracy=0.55) | {"distance": {"points": -5.0}})
    assert "  published  -  (table 1)" in comparison_text(about()) and "distance" not in comparison_text(about())


# ---- whole runs ------------------------------------------------------------------------------------------------------


def test_a_shortened_run_on_other_data_says_both_everywhere(tmp_path, capsys):
    data, out = npz(tmp_path / "data.npz"), tmp_path / "run"
    line = ["reproduce", "pull/cifar10-ipc1", "--scale", "0.0002", "--dataset", data, *TINY, "--out", str(out)]
    assert invoke([*line, "--json"]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    found = answer["reproduction"]
    row = next(row for row in answer["rows"] if row["set"] == "distilled")
    assert (row["protocol"], row["labels"], row["steps"]) == ("plain-1", "hard", 2)
    assert found["ours"]["accuracy"] == row["accuracy"]["mean"]
    assert found["distance"]["points"] == pytest.approx(100 * (row["accuracy"]["mean"] - 0.26))
    assert found["distance"]["deviations"] == pytest.approx((row["accuracy"]["mean"] - 0.26) / 0.008)
    assert found["data"] == {"preset": "cifar10", "used": data}
    assert found["changed"] == {"--dataset": data, "--network": "convnet2-w4"}
    assert json.loads((out / "reproduce.json").read_text()) == found
    record = json.loads((out / "run.json").read_text())
    assert {**record["reproduces"], "ours": found["ours"], "distance": found["distance"]} == found
    assert record["config"]["steps"] == 4 and record["sources"]["steps"] == "preset pull/cifar10-ipc1 at scale 0.0002"
    for text in (found["note"], captured.err, " ".join(json.loads((out / "scores.json").read_text())["warnings"])):
        assert "shortened to 0.0002" in text and "means nothing" in text


def test_a_reproduction_that_was_stopped_is_compared_when_it_is_resumed(tmp_path, capsys):
    given = {"threads": "1", "eval_seeds": "1", "network": "convnet2-w4", "out": "run"}
    made = prepared("pull/digits-ipc1", 0.01, **given)
    begin(made.setup, plan_only=False, command=["ddcore"], more=made.marks())
    assert invoke(["resume", "run"]) == 0
    assert "shortened to 0.01" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "reproduce.json").read_text())["ours"]["protocol"] == "quick-3"


def test_an_ordinary_run_reproduces_nothing(tmp_path, capsys):
    line = [
        "run",
        "--plugin",
        "pull",
        "--steps",
        "1",
        "--protocol",
        "quick-1",
        *TINY,
        "--full-epochs",
        "1",
        "--out",
        "run",
    ]
    assert invoke(line) == 0
    assert "reproduced" not in capsys.readouterr().out
    assert not (tmp_path / "run" / "reproduce.json").exists()


def test_a_dumped_config_makes_the_same_bits(tmp_path, capsys):
    line = ["run", "--plugin", "pull", "--plugin", "shake", "--steps", "2", "--protocol", "quick-1", *TINY]
    line += ["--full-epochs", "1", "--pull.rate", "0.3"]
    assert invoke([*line, "--dump-config"]) == 0
    (tmp_path / "again.toml").write_text(capsys.readouterr().out, "utf-8")
    assert invoke([*line, "--out", "one"]) == 0
    assert invoke(["run", "--config", "again.toml", "--out", "two"]) == 0
    one, two = ((tmp_path / name / "artifact" / "images.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull/cifar10-ipc1"], ["pull/cifar10-ipc1 needs --dataset with a copy of cifar10", "--data-root"]),
        (
            ["pull/tinyimagenet-ipc1"],
            ["pull/tinyimagenet-ipc1 needs --dataset with a copy of tinyimagenet", "parquet:PATH"],
        ),
        (["pull/toy-ipc1"], ["pull/toy-ipc1 needs --dataset with a copy of toy, such as folder:PATH"]),
        (["rival/cifar10-ipc1", "--scale", "0.1"], ["rival/cifar10-ipc1 needs --dataset with a copy of cifar10"]),
        (["pull/cifar10-ipc1", "--dataset", "npz:nothing.npz"], ["nothing.npz"]),
        (["pull/cifar10-ipc1", "--scale", "0"], ["--scale"]),
        (["pull/cifar10-ipc1", "--scale", "2"], ["--scale"]),
        (["pull/cifar10-ipc1", "--preset", "none"], ["--preset", "leave it out"]),
        (["pull/cifar10-ipc1", "--plugin", "pull"], ["'pull'", "twice"]),
        (["pull/digits-ipc1", "--rival.experts"], ["add --plugin rival"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_words_are_refused_in_a_sentence(capsys, tmp_path, arguments, words):
    assert invoke(["reproduce", *arguments, "--out", "run"]) == 2
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in err
    assert all(word in last for word in words), last
    assert not (tmp_path / "run").exists()


def test_plan_only_estimates_and_writes_nothing(capsys, tmp_path):
    assert invoke(["reproduce", "pull/digits-ipc1", "--plan-only", "--threads", "1"]) == 0
    assert "estimate" in capsys.readouterr().out
    assert not [*tmp_path.glob("runs/*")]
