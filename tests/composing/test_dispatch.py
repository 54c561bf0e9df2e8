"""The five ways of asking a hook: order, single answers, folding, who was asked."""

import pluggy
import pytest

from ddcore import hookimpl
from ddcore.api import hooks as hookspecs
from ddcore.composing.dispatch import Dispatch, PerPlugin
from ddcore.errors import PluginError


class Doubles:
    @hookimpl
    def ddcore_setting(self, value):
        return value * 2


class AddsOne:
    @hookimpl
    def ddcore_setting(self, value, name):
        return value + 1 if name == "student_step.batch" else None


class Matcher:
    @hookimpl
    def ddcore_learn(self, images):
        return images


class Labels:
    @hookimpl
    def ddcore_label(self, name, images):
        return f"labels of {images}" if name == "hard" else None


def hooks(**plugins) -> Dispatch:
    manager = pluggy.PluginManager("ddcore")
    manager.add_hookspecs(hookspecs)
    for name, plugin in plugins.items():
        manager.register(plugin, name)
    return Dispatch(manager, {name: f"{name!r} (ddcore-{name} 1.0)" for name in plugins})


def test_a_chain_folds_in_command_line_order():
    setting = {"name": "student_step.batch", "progress": None}
    assert hooks(a=Doubles(), b=AddsOne()).chain("ddcore_setting", 10, **setting) == 21
    assert hooks(b=AddsOne(), a=Doubles()).chain("ddcore_setting", 10, **setting) == 22


def test_a_plugin_that_answers_none_leaves_the_value():
    assert hooks(b=AddsOne()).chain("ddcore_setting", 10, name="other", progress=None) == 10


def test_a_chain_asks_only_the_plugins_it_is_told_to_and_counts_them():
    both = hooks(a=Doubles(), b=AddsOne())
    only = lambda plugin: isinstance(plugin, AddsOne)  # noqa: E731
    assert both.chain("ddcore_setting", 10, only=only, name="student_step.batch", progress=None) == 11
    assert both.asked == {"b": 1}


def test_an_argument_of_its_own_for_each_plugin():
    both = hooks(b=AddsOne(), c=AddsOne())
    names = []
    made = PerPlugin(lambda plugin: names.append(plugin) or "student_step.batch")
    assert both.chain("ddcore_setting", 0, name=made, progress=None) == 2
    assert names == ["b", "c"]


def test_one_has_one_provider_and_a_second_is_refused_by_name():
    assert hooks(m=Matcher()).one("ddcore_learn", images=3, task=None, run=None) == 3
    assert hooks().one("ddcore_learn", images=3, task=None, run=None) is None
    with pytest.raises(PluginError, match=r"'m' \(ddcore-m 1.0\) and 'n' \(ddcore-n 1.0\) both provide ddcore_learn"):
        hooks(m=Matcher(), n=Matcher()).one("ddcore_learn", images=3, task=None, run=None)


def test_by_name_takes_the_only_answer_and_refuses_two():
    asked = {"images": 3, "classes": None, "run": None}
    assert hooks(a=Labels()).by_name("ddcore_label", name="hard", **asked) == "labels of 3"
    assert hooks(a=Labels()).by_name("ddcore_label", name="soft", **asked) is None
    with pytest.raises(PluginError, match="both answer ddcore_label for 'hard'"):
        hooks(a=Labels(), b=Labels()).by_name("ddcore_label", name="hard", **asked)


def test_a_hook_asked_in_another_way_than_its_kind_is_a_bug():
    with pytest.raises(TypeError, match="ddcore_learn is a one hook, asked as chain"):
        hooks(m=Matcher()).chain("ddcore_learn", 1)


def test_every_hook_has_a_kind_and_documents_what_it_returns_or_yields():
    specs = {name for name in vars(hookspecs) if name.startswith("ddcore_")}
    assert specs == set(hookspecs.KINDS)
    for name in specs:
        text = getattr(hookspecs, name).__doc__
        assert "called " in text.lower(), name
        assert "Returns:" in text or "Yields:" in text or "Implemented by" in text, name
        assert "New in" in text or "Implemented by" in text, name


class Recipe:
    @hookimpl
    def ddcore_protocol(self, name):
        return "recipe" if name == "mine" else None


def test_who_is_only_looked_up_for_a_protocol_does_not_count_as_asked():
    both = hooks(a=Recipe(), b=AddsOne())
    assert both.by_name("ddcore_protocol", name="other") is None and not any(both.asked.values())
    assert both.by_name("ddcore_protocol", name="mine") == "recipe" and both.asked["a"] == 1


def test_two_plugins_with_one_protocol_are_an_error_that_names_both():
    with pytest.raises(PluginError, match=r"'a' .* and 'b' .* both answer ddcore_protocol for 'mine'"):
        hooks(a=Recipe(), b=Recipe()).by_name("ddcore_protocol", name="mine")
