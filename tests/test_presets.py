"""Presets: a plugin's settings tables, and which one a run takes."""

import sys
from types import SimpleNamespace

import pytest

from ddcore.errors import OptionError, PluginError
from ddcore.options import resolve
from ddcore.plugins import Plugin
from ddcore.presets import choose_preset, presets_of

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


@pytest.mark.parametrize("text", ["[small\n", "[small]\nipc = 1\n", "small = 3\n"])
def test_a_damaged_table_is_refused_by_the_plugins_name(make, text):
    with pytest.raises(PluginError, match="plugin 'm' has"):
        presets_of("m", make("m", text))


def test_a_missing_table_is_refused_by_the_plugins_name():
    absent = SimpleNamespace(presets="absent.toml", __module__="ddcore.plugins")
    with pytest.raises(PluginError, match="plugin 'm' has presets 'absent.toml' that cannot be read"):
        presets_of("m", absent)
