"""``ddcore reproduce``: a preset as published, or shortened, beside its published figure."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ddcore.cli.app import invoke
from ddcore.commands.reproduce import Reproduction, comparison_text, find_preset, less, line_of
from ddcore.composing.discovery import FIRST_PARTY, load_class
from ddcore.composing.options import fields, preparse
from ddcore.composing.presets import every_preset
from ddcore.composing.selection import Selection, select
from ddcore.errors import OptionError
from ddcore.runs.assembly import begin
from ddcore.training.trajectory import UnrollOptions

FIRST = [preset for preset in every_preset() if preset.name.partition("/")[0] in FIRST_PARTY]
TINY = ["--threads", "1", "--eval-seeds", "1", "--network", "convnet2-w4"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def named(name: str):
    return next(preset for preset in FIRST if preset.name == name)


def prepared(name: str, scale: float, *arguments: str, **given) -> Reproduction:
    preset = named(name)
    return Reproduction.of(preset, select(line_of(preset, arguments), {}), given, {}, scale)


def npz(path: Path) -> str:
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return f"npz:{path}"


# ---- as published ----------------------------------------------------------------------------------------------------


def test_at_full_scale_every_value_is_the_presets():
    made = prepared("datm/cifar10-ipc50", 1.0)
    assert [*made.setup.offers] == ["datm", "ftd", "dsa"]
    assert (made.setup.config.steps, made.setup.config.protocol, made.changed) == (10000, ("datm",), {})
    datm, ftd, experts = (made.setup.options[name] for name in ("datm", "ftd", "experts"))
    assert (datm.start_epoch, datm.max_start_epoch, datm.expansion_end, datm.lr_img) == (20, 40, 2000, 1000.0)
    assert (ftd.rho, ftd.alpha, ftd.ema, experts.count, experts.epochs) == (0.01, 0.3, 0.0, 100, 100)
    assert made.setup.resolved.sources["steps"] == "preset datm/cifar10-ipc50"
    assert "note" not in made.as_json()


def test_the_preset_is_found_in_any_position_and_its_name_alone_suffices_where_only_one_has_it():
    assert find_preset(["--scale", "0.02", "fyi/dm-cifar10-ipc1", "--out", "x/y"]).name == "fyi/dm-cifar10-ipc1"
    assert find_preset(["tesla-cifar10-ipc1"]).name == "mtt/tesla-cifar10-ipc1"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dm/cifar11-ipc1"], "no installed plugin has a preset 'dm/cifar11-ipc1': did you mean 'dm/cifar10-ipc1'"),
        (["--scale", "0.5", "dm/cifar11-ipc1"], "no installed plugin has a preset 'dm/cifar11-ipc1'"),
        (["cifar10-ipc1"], "preset 'cifar10-ipc1' is ambiguous: .*datm/cifar10-ipc1 or dc/cifar10-ipc1"),
        ([], "no preset is named: write ddcore reproduce PLUGIN/NAME"),
    ],
)
def test_a_preset_that_is_not_there_is_refused(words, sentence):
    with pytest.raises(OptionError, match=sentence):
        find_preset(words)


# ---- shortened -------------------------------------------------------------------------------------------------------


def test_shortening_by_hand():
    made = prepared("datm/cifar10-ipc500", 0.02, "--threads", "1", threads="1")
    config, datm, experts = made.setup.config, made.setup.options["datm"], made.setup.options["experts"]
    assert (config.steps, config.protocol, config.full_epochs) == (200, ("datm-20",), 1)
    # 40 to 60 of 100 epochs become 0 to 2 (0.8 down, 1.2 up), so that 1 + 2 epochs ahead need 3
    assert (datm.min_start_epoch, datm.max_start_epoch, datm.expert_epochs) == (0, 2, 2)
    assert (experts.count, experts.epochs) == (2, 3)
    assert (datm.student_steps, datm.lr_img, datm.batch) == (40, 50.0, 1000)
    assert made.setup.resolved.sources["steps"] == "preset datm/cifar10-ipc500 at scale 0.02"


def test_a_dropped_rate_and_a_ramp_are_shortened_with_the_experts():
    made = prepared("smooth/cifar100-ipc10", 0.2)
    experts = made.setup.options["experts"]
    assert (experts.count, experts.epochs, experts.drop_epoch) == (20, 10, 6)
    assert made.setup.options["smooth"].ramp_epochs == 2


def test_rounding_is_up_and_exact_products_stay():
    assert [less(n, 0.07) for n in (5000, 100, 1, 0)] == [350, 7, 1, 0]


@cache
def loaded(name: str):
    return load_class(name)


@pytest.mark.parametrize("scale", [0.0001, 0.033, 0.5])
@pytest.mark.parametrize("plugin", sorted({preset.name.partition("/")[0] for preset in FIRST}))
def test_every_preset_can_be_shortened_so_that_a_segment_fits_and_the_method_stays(plugin, scale):
    for preset in (p for p in FIRST if p.name.startswith(f"{plugin}/")):
        classes, offers = ({n: loaded(n)[part] for n in preset.every_plugin} for part in (0, 1))
        selection = Selection(preparse([], {}), classes, offers)
        data = {"dataset": "digits"} if "protocol" not in preset.tables else {}
        whole, short = (Reproduction.of(preset, selection, data, {}, s).setup for s in (1.0, scale))
        check_shortened(short, whole)


def check_shortened(short, whole) -> None:
    if whole.config.steps is not None:
        assert 1 <= short.config.steps <= whole.config.steps
    assert all(name.rpartition("-")[2].isdecimal() for name in short.config.protocol)
    for name, plugin in short.plugins.items():
        if not isinstance(plugin, UnrollOptions):
            continue
        low, high = getattr(plugin, "min_start_epoch", 0), plugin.max_start_epoch
        begins = getattr(plugin, "start_epoch", None)
        assert 0 <= low < (begins or high) <= high
        assert high - 1 + plugin.expert_epochs <= short.options["experts"].epochs
        method = fields(UnrollOptions)
        assert all(getattr(plugin, n) == getattr(whole.plugins[name], n) for n in method)


def test_what_the_command_line_says_is_not_shortened():
    made = prepared("mtt/cifar10-ipc10", 0.02, "--steps", "77", steps="77", protocol=("mtt-5",))
    assert (made.setup.config.steps, made.setup.config.protocol) == (77, ("mtt-5",))
    assert made.changed == {"--steps": 77, "--protocol": ["mtt-5"]}


# ---- what differs ----------------------------------------------------------------------------------------------------


def test_changes_name_what_a_result_depends_on_and_no_more():
    given = {"seed": "4", "out": "x", "eval_seeds": "9", "ipc": "1", "dm__lr_img": "2", "dsa__flip_first": True}
    made = prepared("dm/cifar10-ipc1", 1.0, "--plugin", "fyi", **given)
    assert made.changed == {"--dm.lr-img": 2.0, "--dsa.flip-first": True, "--plugin": ["fyi"]}


def test_a_second_preset_is_refused():
    with pytest.raises(OptionError, match="dm/cifar10-ipc1 is named already"):
        line_of(named("dm/cifar10-ipc1"), ["--preset=none"])


# ---- the comparison --------------------------------------------------------------------------------------------------


def about(**published: float) -> dict:
    ours = {"accuracy": 0.5, "std": 0.02, "labels": "hard", "protocol": "dsa", "network": "convnet3", "students": 3}
    return {"preset": "p/x", "source": "table 1", "published": published, "ours": ours, "changed": {"--ipc": 3}}


def test_the_distance_is_said_in_points_and_published_deviations():
    found = about(accuracy=0.45, std=0.02) | {"distance": {"points": 5.0, "deviations": 2.5}}
    assert comparison_text(found).splitlines() == [
        "reproduced p/x",
        "  ours       0.500 ± 0.020  (3 students, hard labels, protocol dsa, convnet3)",
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
    line = ["reproduce", "dm/cifar10-ipc1", "--scale", "0.0002", "--dataset", data, *TINY, "--out", str(out)]
    assert invoke([*line, "--json"]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    found = answer["reproduction"]
    row = next(row for row in answer["rows"] if row["set"] == "distilled")
    assert (row["protocol"], row["labels"], row["steps"]) == ("dsa-1", "hard", 2)
    assert found["ours"]["accuracy"] == row["accuracy"]["mean"]
    assert found["distance"]["points"] == pytest.approx(100 * (row["accuracy"]["mean"] - 0.26))
    assert found["distance"]["deviations"] == pytest.approx((row["accuracy"]["mean"] - 0.26) / 0.008)
    assert found["data"] == {"preset": "cifar10", "used": data}
    assert found["changed"] == {"--dataset": data, "--network": "convnet2-w4"}
    assert json.loads((out / "reproduce.json").read_text()) == found
    record = json.loads((out / "run.json").read_text())
    assert {**record["reproduces"], "ours": found["ours"], "distance": found["distance"]} == found
    assert record["config"]["steps"] == 4 and record["sources"]["steps"] == "preset dm/cifar10-ipc1 at scale 0.0002"
    for text in (found["note"], captured.err, " ".join(json.loads((out / "scores.json").read_text())["warnings"])):
        assert "shortened to 0.0002" in text and "means nothing" in text


def test_learned_labels_are_compared_with_the_soft_row(tmp_path, capsys):
    line = ["reproduce", "datm/digits-ipc1", "--scale", "0.01", *TINY, "--datm.student-steps", "2", "--out", "run"]
    assert invoke(line) == 0
    captured = capsys.readouterr()
    assert "reproduced datm/digits-ipc1" in captured.out and "soft labels, protocol quick-3" in captured.out
    found = json.loads((tmp_path / "run" / "reproduce.json").read_text())
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    soft = next(row for row in rows if row["set"] == "distilled" and row["labels"] != "hard")
    assert found["ours"]["accuracy"] == soft["accuracy"]["mean"] and "distance" not in found


def test_a_reproduction_that_was_stopped_is_compared_when_it_is_resumed(tmp_path, capsys):
    given = {"threads": "1", "eval_seeds": "1", "network": "convnet2-w4", "out": "run"}
    made = prepared("dm/digits-ipc1", 0.01, **given)
    begin(made.setup, plan_only=False, command=["ddcore"], more=made.marks())
    assert invoke(["resume", "run"]) == 0
    assert "shortened to 0.01" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "reproduce.json").read_text())["ours"]["protocol"] == "quick-3"


def test_an_ordinary_run_reproduces_nothing(tmp_path, capsys):
    line = [
        "run",
        "--plugin",
        "dm",
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
    line = ["run", "--plugin", "dm", "--plugin", "dsa", "--steps", "2", "--protocol", "quick-1", *TINY]
    line += ["--full-epochs", "1", "--dm.batch-real", "16"]
    assert invoke([*line, "--dump-config"]) == 0
    (tmp_path / "again.toml").write_text(capsys.readouterr().out, "utf-8")
    assert invoke([*line, "--out", "one"]) == 0
    assert invoke(["run", "--config", "again.toml", "--out", "two"]) == 0
    one, two = ((tmp_path / name / "artifact" / "images.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dm/cifar10-ipc1"], ["dm/cifar10-ipc1 needs --dataset with a copy of cifar10", "--data-root"]),
        (
            ["mtt/tinyimagenet-ipc1"],
            ["mtt/tinyimagenet-ipc1 needs --dataset with a copy of tinyimagenet", "parquet:PATH"],
        ),
        (["coresets/cifar10-ipc1", "--scale", "0.1"], ["coresets/cifar10-ipc1 needs --dataset with a copy of cifar10"]),
        (["dm/cifar10-ipc1", "--dataset", "npz:nothing.npz"], ["nothing.npz"]),
        (["dm/cifar10-ipc1", "--scale", "0"], ["--scale"]),
        (["dm/cifar10-ipc1", "--scale", "2"], ["--scale"]),
        (["dm/cifar10-ipc1", "--preset", "none"], ["--preset", "leave it out"]),
        (["dm/cifar10-ipc1", "--plugin", "dm"], ["'dm'", "twice"]),
        (["dm/digits-ipc1", "--mtt.batch", "3"], ["add --plugin mtt"]),
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
    assert invoke(["reproduce", "dm/digits-ipc1", "--plan-only", "--threads", "1"]) == 0
    assert "estimate" in capsys.readouterr().out
    assert not [*tmp_path.glob("runs/*")]
