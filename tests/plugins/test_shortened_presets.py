"""Presets of first-party plugins as published, and shortened so that what remains can be run."""

import json
from functools import cache

import pytest
from attrs import evolve

from ddcore.cli.app import invoke
from ddcore.commands.reproduce import Reproduction, line_of
from ddcore.composing.discovery import FIRST_PARTY, load_class
from ddcore.composing.options import fields, preparse
from ddcore.composing.presets import every_preset
from ddcore.composing.selection import Selection, select
from ddcore.training.trajectory import UnrollOptions

TINY = ["--threads", "1", "--eval-seeds", "1", "--network", "convnet2-w4"]
FIRST = [preset for preset in every_preset() if preset.name.partition("/")[0] in FIRST_PARTY]


def prepared(name: str, scale: float, *arguments: str, **given) -> Reproduction:
    preset = next(preset for preset in FIRST if preset.name == name)
    return Reproduction.of(preset, select(line_of(preset, arguments), {}), given, {}, scale)


def test_at_full_scale_every_value_is_the_presets():
    made = prepared("datm/cifar10-ipc50", 1.0)
    assert [*made.setup.offers] == ["datm", "ftd", "dsa"]
    assert (made.setup.config.steps, made.setup.config.protocol, made.changed) == (10000, ("datm",), {})
    datm, ftd, experts = (made.setup.options[name] for name in ("datm", "ftd", "experts"))
    assert (datm.start_epoch, datm.max_start_epoch, datm.expansion_end, datm.lr_img) == (20, 40, 2000, 1000.0)
    assert (ftd.rho, ftd.alpha, ftd.ema, experts.count, experts.epochs) == (0.01, 0.3, 0.0, 100, 100)
    assert made.setup.resolved.sources["steps"] == "preset datm/cifar10-ipc50"
    assert "note" not in made.as_json()


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


@cache
def loaded(name: str):
    return load_class(name)


@pytest.mark.parametrize("scale", [0.0001, 0.033, 0.5])
@pytest.mark.parametrize("plugin", sorted({preset.name.partition("/")[0] for preset in FIRST}))
def test_every_preset_can_be_shortened_so_that_a_segment_fits_and_the_method_stays(plugin, scale):
    for preset in (p for p in FIRST if p.name.startswith(f"{plugin}/")):
        classes, offers = ({n: loaded(n)[part] for n in preset.every_plugin} for part in (0, 1))
        selection = Selection(preparse([], {}), classes, offers)
        preset = evolve(preset, tables={name: value for name, value in preset.tables.items() if name != "split"})
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


def test_learned_labels_are_compared_with_the_soft_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    line = ["reproduce", "datm/digits-ipc1", "--scale", "0.01", *TINY, "--datm.student-steps", "2", "--out", "run"]
    assert invoke(line) == 0
    captured = capsys.readouterr()
    assert "reproduced datm/digits-ipc1" in captured.out and "soft labels, protocol quick-3" in captured.out
    found = json.loads((tmp_path / "run" / "reproduce.json").read_text())
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    soft = next(row for row in rows if row["set"] == "distilled" and row["labels"] != "hard")
    assert found["ours"]["accuracy"] == soft["accuracy"]["mean"] and "distance" not in found
