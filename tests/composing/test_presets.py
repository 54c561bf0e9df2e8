"""Presets: a plugin's settings tables, and which one a run takes."""

import json
import sys
from types import SimpleNamespace

import pytest

from ddcore.api.plugin import Plugin
from ddcore.cli.app import invoke
from ddcore.composing.discovery import FIRST_PARTY, add_packs, load_class
from ddcore.composing.options import core_group, preparse, resolve
from ddcore.composing.presets import choose_preset, every_preset, listed, presets_of, published_text
from ddcore.errors import OptionError, PluginError
from ddcore.training.protocols import protocol

TABLE = """
[small]
dataset = "digits"
ipc = 1
source = "table 3"
published = { accuracy = 0.469, std = 0.005 }

[small.run]
steps = 7

[small.plugin.PLUGIN]
rate = 0.25

[small.plugin.other]
rate = 9.0

[large]
dataset = "CIFAR10"
ipc = 50
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A plugin class in a package of its own, with the given presets."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def build(name: str, text: str = TABLE, role: str = "matcher"):
        package = tmp_path / f"presets_of_{name}"
        package.mkdir()
        (package / "presets.toml").write_text(text.replace("PLUGIN", name))
        (package / "__init__.py").write_text(
            "from attrs import frozen\nfrom ddcore import Plugin, option\n\n\n@frozen(kw_only=True, eq=False)\n"
            f"class X(Plugin):\n    role = {role!r}\n    presets = 'presets.toml'\n"
            "    rate: float = option(1.0, help='a rate')\n"
        )
        made.append(package.name)
        return getattr(__import__(package.name), "X")  # noqa: B009

    yield build
    for name in made:
        sys.modules.pop(name, None)


def test_a_preset_knows_its_data_source_and_published_figure(make):
    small = presets_of("m", make("m"))["small"]
    assert (small.name, small.dataset, small.ipc, small.source) == ("m/small", "digits", 1, "table 3")
    assert small.published == {"accuracy": 0.469, "std": 0.005}


def test_a_plugin_without_presets_has_none():
    assert presets_of("x", Plugin) == {}


def test_auto_takes_the_matchers_preset_for_this_data_and_count_whatever_the_order(make):
    enhancement, matcher = make("e", role="enhancement"), make("m")
    for classes in ({"e": enhancement, "m": matcher}, {"m": matcher, "e": enhancement}):
        chosen = choose_preset("auto", classes, "digits", 1)
        assert chosen is not None and chosen.name == "m/small"
    assert choose_preset("auto", {"m": matcher}, "digits", 2) is None
    assert choose_preset("auto", {"m": matcher}, "cifar10", 50).name == "m/large"
    assert choose_preset("auto", {"e": enhancement}, "digits", 1) is None


def test_none_takes_no_preset_and_a_name_takes_that_one(make):
    classes = {"m": make("m")}
    assert choose_preset("none", classes, "digits", 1) is None
    for request in ("large", "m/large"):
        assert choose_preset(request, classes, "digits", 1).name == "m/large"


def test_an_unknown_or_ambiguous_name_is_refused_with_what_there_is(make):
    classes = {"a": make("a"), "b": make("b")}
    with pytest.raises(OptionError, match="'a/smal' is offered by no selected plugin: did you mean 'a/small'"):
        choose_preset("a/smal", classes, "digits", 1)
    with pytest.raises(OptionError, match="'small' is ambiguous: a/small or b/small"):
        choose_preset("small", classes, "digits", 1)


def test_a_presets_values_are_below_all_others_and_name_it_as_their_source(make):
    classes = {"m": make("m")}
    preset = choose_preset("small", classes, "digits", 1)
    made = resolve(classes, command_line={}, environment={}, preset=preset)
    assert (made.config.steps, made.options["m"].rate, made.sources["m.rate"]) == (7, 0.25, "preset m/small")
    made = resolve(classes, command_line={}, environment={"DDCORE_STEPS": "3"}, preset=preset)
    assert (made.config.steps, made.options["m"].rate) == (3, 0.25)


# ---- presets of several plugins --------------------------------------------------------------------------------------


def row(name: str, *lines: str) -> str:
    return "\n".join([f"[{name}]", 'dataset = "digits"', "ipc = 1", *lines, ""])


def test_a_preset_is_for_the_plugin_that_brings_it_unless_it_names_others(make):
    cls = make("m", row("own") + row("both", 'plugins = ["e", "m"]', 'also = ["a"]'))
    presets = presets_of("m", cls)
    assert (presets["own"].plugins, presets["own"].every_plugin) == (("m",), ("m",))
    assert (presets["both"].plugins, presets["both"].every_plugin) == (("e", "m"), ("e", "m", "a"))


def test_auto_never_takes_a_preset_of_which_a_plugin_is_not_selected(make):
    matcher, enhancement = make("m", row("both", 'plugins = ["e", "m"]')), make("e", "", role="enhancement")
    assert choose_preset("auto", {"m": matcher}, "digits", 1) is None
    assert choose_preset("auto", {"m": matcher, "e": enhancement}, "digits", 1).name == "m/both"


def test_auto_prefers_the_preset_of_exactly_the_selected_plugins_then_the_one_of_most_of_them(make):
    matcher = make("m", row("alone"))
    one = make("e", row("with-m", 'plugins = ["e", "m"]'), role="enhancement")
    two = make("f", row("all", 'plugins = ["f", "e", "m"]'), role="enhancement")
    three = make("g", "", role="enhancement")
    assert choose_preset("auto", {"m": matcher}, "digits", 1).name == "m/alone"
    assert choose_preset("auto", {"g": three, "m": matcher}, "digits", 1).name == "m/alone"
    assert choose_preset("auto", {"e": one, "m": matcher}, "digits", 1).name == "e/with-m"
    assert choose_preset("auto", {"e": one, "g": three, "m": matcher}, "digits", 1).name == "e/with-m"
    assert choose_preset("auto", {"m": matcher, "f": two, "e": one}, "digits", 1).name == "f/all"


def test_auto_takes_no_preset_without_the_matcher_even_if_it_has_more_plugins(make):
    matcher, other = make("m", row("alone")), make("f", "", role="enhancement")
    pair = make("e", row("pair", 'plugins = ["e", "f"]'), role="enhancement")
    assert choose_preset("auto", {"e": pair, "f": other, "m": matcher}, "digits", 1).name == "m/alone"


def test_plugins_that_a_preset_only_also_names_change_nothing_on_auto(make):
    matcher = make("m", row("alone", 'also = ["e"]'))
    for classes in ({"m": matcher}, {"m": matcher, "e": make("e", "", role="enhancement")}):
        assert choose_preset("auto", classes, "digits", 1).name == "m/alone"


def test_auto_refuses_to_guess_between_two_that_fit_alike(make):
    matcher = make("m", row("one") + row("two"))
    with pytest.raises(OptionError, match="m/one and m/two fit .* alike: choose with --preset m/one"):
        choose_preset("auto", {"m": matcher}, "digits", 1)
    assert choose_preset("two", {"m": matcher}, "digits", 1).name == "m/two"


def test_auto_leaves_variants_to_their_names(make):
    matcher = make("m", row("one") + row("variant", "auto = false"))
    assert choose_preset("auto", {"m": matcher}, "digits", 1).name == "m/one"
    assert choose_preset("variant", {"m": matcher}, "digits", 1).name == "m/variant"


def test_a_named_preset_for_more_plugins_says_which_to_add(make):
    enhancement = make("e", row("x", 'plugins = ["e", "a", "m"]'), role="enhancement")
    with pytest.raises(OptionError, match="preset e/x is for e and a and m: add --plugin a --plugin m$"):
        choose_preset("e/x", {"e": enhancement}, "digits", 1)


def test_a_preset_of_an_installed_plugin_that_is_not_selected_says_which_to_add():
    with pytest.raises(OptionError, match="preset ftd/cifar10-ipc1 is for ftd and mtt: add --plugin ftd$"):
        choose_preset("ftd/cifar10-ipc1", {"mtt": load_class("mtt")[0]}, "cifar10", 1)


def test_of_presets_of_one_name_the_one_whose_plugins_are_selected_is_meant(make):
    matcher, other = make("m", row("x")), make("e", row("x", 'plugins = ["e", "a"]'), role="enhancement")
    assert choose_preset("x", {"m": matcher, "e": other}, "digits", 1).name == "m/x"


@pytest.mark.parametrize("line", ['plugins = "m"', "plugins = [1]", 'also = "m"', 'plugins = ["other"]'])
def test_a_damaged_list_of_plugins_is_refused(make, line):
    with pytest.raises(PluginError, match="plugin 'm' has a preset 'x'"):
        presets_of("m", make("m", row("x", line)))


# ---- what the first-party plugins bring ------------------------------------------------------------------------------


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


# ---- the list --------------------------------------------------------------------------------------------------------


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


def test_a_list_of_an_unknown_plugin_is_refused(capsys):
    assert invoke(["presets", "--plugin", "dmm"]) == 2
    assert "no plugin is named 'dmm': did you mean" in capsys.readouterr().err


def test_a_broken_plugin_leaves_the_list_of_the_others(monkeypatch):
    import ddcore.composing.presets as module

    def load(name: str):
        if name == "dm":
            raise PluginError("plugin 'dm' cannot be imported")
        return load_class(name)

    monkeypatch.setattr(module, "load_class", load)
    told: list[str] = []
    found = every_preset(told.append)
    assert told == ["plugin 'dm' cannot be imported"]
    assert listed(found, None, "cifar10") and not any(p.name.startswith("dm/") for p in found)


# ---- a file that repeats a run ---------------------------------------------------------------------------------------


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


# ---- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[small\n", "[small]\nipc = 1\n", "small = 3\n"])
def test_a_damaged_table_is_refused_by_the_plugins_name(make, text):
    with pytest.raises(PluginError, match="plugin 'm' has"):
        presets_of("m", make("m", text))


def test_a_missing_table_is_refused_by_the_plugins_name():
    absent = SimpleNamespace(presets="absent.toml", __module__="ddcore.api.plugin")
    with pytest.raises(PluginError, match="plugin 'm' has presets 'absent.toml' that cannot be read"):
        presets_of("m", absent)
