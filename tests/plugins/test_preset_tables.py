"""The presets that first-party plugins bring, and how they are listed."""

import json

import pytest

from ddcore.cli.app import invoke
from ddcore.composing.discovery import FIRST_PARTY, add_packs, load_class
from ddcore.composing.options import core_group, preparse, resolve
from ddcore.composing.presets import choose_preset, every_preset, listed, published_text
from ddcore.composing.source_text import source_file
from ddcore.errors import OptionError
from ddcore.training.protocols import protocol


def test_a_preset_of_an_installed_plugin_that_is_not_selected_says_which_to_add():
    with pytest.raises(OptionError, match="preset ftd/cifar10-ipc1 is for ftd and mtt: add --plugin ftd$"):
        choose_preset("ftd/cifar10-ipc1", {"mtt": load_class("mtt")[0]}, "cifar10", 1)


def classes_of(*names: str) -> dict:
    classes = {name: load_class(name)[0] for name in names}
    add_packs(classes, {})
    return classes


FIRST = [preset for preset in every_preset() if preset.name.partition("/")[0] in FIRST_PARTY]


@pytest.mark.parametrize("preset", FIRST, ids=lambda preset: preset.name)
def test_every_preset_resolves_with_its_plugins_and_says_where_it_stands(preset):
    classes = classes_of(*preset.every_plugin)
    assert set(preset.tables.get("plugin", {})) <= set(classes)
    needs_experts = any("trajectories" in (*cls.needs, *cls.may_need) for cls in classes.values())
    assert needs_experts or "experts" not in preset.tables
    groups = {**classes, **({"experts": core_group("experts")} if needs_experts else {})}
    made = resolve(groups, command_line={}, environment={}, preset=preset)
    assert (made.config.dataset, made.config.ipc) == (preset.dataset, preset.ipc)
    assert all(name == "auto" or protocol(name) for name in made.config.protocol)
    for name, plugin in made.options.items():
        if hasattr(plugin, "max_start_epoch"):
            assert plugin.max_start_epoch - 1 + plugin.expert_epochs <= made.options["experts"].epochs, name
    assert preset.source
    assert set(preset.published) in (set(), {"accuracy"}, {"accuracy", "std"})
    assert all(0 < value < 1 for value in preset.published.values())
    assert 0 <= preset.published.get("std", 0) < 0.05


@pytest.mark.parametrize("preset", [p for p in FIRST if p.auto], ids=lambda preset: preset.name)
def test_auto_takes_every_preset_for_exactly_its_plugins(preset):
    for selected in (preset.plugins, preset.every_plugin):
        assert choose_preset("auto", classes_of(*selected), preset.dataset, preset.ipc) == preset


CIFAR = [("cifar10", 1), ("cifar10", 10), ("cifar10", 50), ("cifar100", 1), ("cifar100", 10), ("cifar100", 50)]


TINY = [("tinyimagenet", 1), ("tinyimagenet", 10), ("tinyimagenet", 50)]


LARGE = [("cifar10", 500), ("cifar10", 1000)]


SMALL = [(name, ipc) for name in ("mnist", "fashionmnist", "svhn") for ipc in (1, 10, 50)]


TABLES = {
    ("dm",): [*SMALL[3:6], *CIFAR, *TINY, ("cifar10", 100), ("cifar10", 200), *LARGE, ("cifar10", 1250)],
    ("dc",): [*SMALL, *CIFAR, *TINY, *LARGE],
    ("dc", "dsa"): [*SMALL, *CIFAR, *TINY, ("cifar10", 100), *LARGE],
    ("mtt",): [*CIFAR, *TINY, ("imagenette", 1), ("imagenette", 10)],
    ("ftd", "mtt"): [*CIFAR, *TINY[:2]],
    ("datm",): [*CIFAR, *LARGE, ("cifar100", 100), *TINY],
    ("dc", "fyi"): CIFAR[:5],
    ("dc", "dsa", "fyi"): CIFAR,
    ("dm", "fyi"): [*CIFAR, *TINY],
    ("fyi", "mtt"): [*CIFAR, *TINY],
    ("ftd", "fyi", "mtt"): [*CIFAR, *TINY[:2]],
}


@pytest.mark.parametrize("plugins", TABLES, ids=" ".join)
def test_every_published_cell_of_the_settings_tables_is_a_preset(plugins):
    found = [(p.dataset, p.ipc) for p in FIRST if tuple(sorted(p.plugins)) == plugins and p.auto and p.published]
    assert sorted(found) == sorted(TABLES[plugins])


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("dm/cifar10-ipc1250", "0.808 ± 0.003"),
        ("dc/mnist-ipc50", "0.988 ± 0.001"),
        ("dc/cifar100-ipc50", "0.306"),
        ("dc/dsa-cifar10-ipc100", "0.667"),
        ("dc/dsa-tinyimagenet-ipc50", "0.253"),
        ("mtt/imagenette-ipc10", "0.630 ± 0.013"),
        ("mtt/tesla-cifar10-ipc1", "0.485 ± 0.008"),
        ("ftd/tinyimagenet-ipc10", "0.245 ± 0.002"),
        ("datm/cifar10-ipc1000", "0.855 ± 0.004"),
        ("fyi/ftd-cifar10-ipc1", "0.495 ± 0.010"),
        ("fyi/dm-cifar10-ipc1", "0.287 ± 0.012"),
        ("smooth/cifar100-ipc1", "-"),
    ],
)
def test_published_figures_with_and_without_a_deviation(name, published):
    assert published_text(next(p for p in FIRST if p.name == name).published) == published


def test_the_list_names_plugins_data_figures_and_sources(capsys):
    assert invoke(["presets", "--plugin", "dsa", "--dataset", "CIFAR10", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert all(row["dataset"] == "cifar10" and "dsa" in (*row["plugins"], *row["also"]) for row in rows.values())
    assert rows["dc/dsa-cifar10-ipc10"]["plugins"] == ["dc", "dsa"]
    assert rows["mtt/cifar10-ipc10"] == {
        "name": "mtt/cifar10-ipc10",
        "dataset": "cifar10",
        "ipc": 10,
        "plugins": ["mtt"],
        "also": ["dsa"],
        "published": {"accuracy": 0.653, "std": 0.007},
        "source": "arXiv:2203.11932, authors' commands in DC-BENCH",
    }
    assert "dc/cifar10-ipc10" not in rows


def test_the_list_for_people(capsys):
    assert invoke(["presets", "--plugin", "ftd", "--dataset", "digits"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "preset           plugins    data    ipc  published  source",
        "ftd/digits-ipc1  ftd + mtt  digits    1          -  ours: small enough for two CPU cores in a minute",
    ]
    assert invoke(["plugins", "show", "dc"]) == 0
    assert "0.667" in capsys.readouterr().out


def test_a_broken_plugin_leaves_the_list_of_the_others(monkeypatch):
    import ddcore.composing.presets as module

    def source(name: str):
        if name == "ddcore_dm":
            raise ImportError("no module named 'ddcore_dm'")
        return source_file(name)

    monkeypatch.setattr(module, "source_file", source)
    told: list[str] = []
    found = every_preset(told.append)
    assert len(told) == 1 and "plugin 'dm' (ddcore-dm 0.1.0) cannot be read (ImportError: no module named" in told[0]
    assert listed(found, None, "cifar10") and not any(p.name.startswith("dm/") for p in found)


def test_a_dumped_config_repeats_the_run_with_its_preset_written_out(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["run", "--plugin", "fyi", "--plugin", "datm", "--seed", "3", "--datm.threshold", "1.5", "--init", "noise"]
    assert invoke([*line, "--explain", "--json"]) == 0
    values = {row["name"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert invoke([*line, "--dump-config"]) == 0
    (file := tmp_path / "again.toml").write_text(capsys.readouterr().out, "utf-8")
    assert not (tmp_path / "runs").exists()
    assert preparse(["--config", str(file)], {}).preset == "none"
    assert invoke(["run", "--config", str(file), "--explain", "--json"]) == 0
    again = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {name: row["value"] for name, row in again.items()} == values
    assert again["--steps"]["value"] == 100 and again["--steps"]["source"] == f"file {file}"
    assert invoke(["run", "--config", str(file), "--dump-config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"toml": file.read_text("utf-8")}
