"""Presets: a plugin's settings tables, and which one a run takes."""

import sys
from types import SimpleNamespace

import pytest

from ddcore.api.plugin import Plugin
from ddcore.cli.app import invoke
from ddcore.composing.options import resolve
from ddcore.composing.presets import choose_preset, presets_of
from ddcore.errors import OptionError, PluginError

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


def test_of_presets_of_one_name_the_one_whose_plugins_are_selected_is_meant(make):
    matcher, other = make("m", row("x")), make("e", row("x", 'plugins = ["e", "a"]'), role="enhancement")
    assert choose_preset("x", {"m": matcher, "e": other}, "digits", 1).name == "m/x"


@pytest.mark.parametrize("line", ['plugins = "m"', "plugins = [1]", 'also = "m"', 'plugins = ["other"]'])
def test_a_damaged_list_of_plugins_is_refused(make, line):
    with pytest.raises(PluginError, match="plugin 'm' has a preset 'x'"):
        presets_of("m", make("m", row("x", line)))


# ---- the list --------------------------------------------------------------------------------------------------------


def test_a_list_of_an_unknown_plugin_is_refused(capsys):
    assert invoke(["presets", "--plugin", "dmm"]) == 2
    assert "no plugin named 'dmm' is installed" in capsys.readouterr().err


# ---- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[small\n", "[small]\nipc = 1\n", "small = 3\n"])
def test_a_damaged_table_is_refused_by_the_plugins_name(make, text):
    with pytest.raises(PluginError, match="plugin 'm' has"):
        presets_of("m", make("m", text))


def test_a_missing_table_is_refused_by_the_plugins_name():
    absent = SimpleNamespace(presets="absent.toml", __module__="ddcore.api.plugin")
    with pytest.raises(PluginError, match="plugin 'm' has presets 'absent.toml' that cannot be read"):
        presets_of("m", absent)
