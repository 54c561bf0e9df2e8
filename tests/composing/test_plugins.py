"""Finding and loading plugins, with real distributions: dist-info folders with entry points on the path."""

import json
import sys
from textwrap import dedent

import pytest
from attrs import frozen

from ddcore import Plugin, hookimpl
from ddcore.composing.discovery import find, installed, load_class, load_path, manager
from ddcore.composing.inspection import listing, listing_text, show, show_text
from ddcore.errors import PluginError

SETTING = "@hookimpl\n        def ddcore_setting(self, value): return value"


def test_a_working_plugin_is_found_and_loaded_with_where_it_came_from(site):
    site.plugin("flop")
    cls, offer = load_class("flop")
    assert cls().both is True
    assert (offer.name, offer.identity, offer.request) == ("flop", "ddcore-flop 1.2", "ddcore-flop/flop")


def test_only_the_named_plugin_is_imported_and_a_broken_other_one_does_not_matter(site):
    site.plugin("flop")
    broken = site.put("boom", "raise RuntimeError('boom')")
    load_class("flop")
    assert "boom" in installed() and broken not in sys.modules


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("import foo_not_here", "No module named 'foo_not_here'"),
        ("import os\nos.nothing_here", "module 'os' has no attribute 'nothing_here'"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_plugin_that_fails_on_import_is_one_sentence_with_its_distribution_version_and_cause(site, source, cause):
    site.put("boom", source)
    with pytest.raises(PluginError) as caught:
        load_class("boom")
    sentence = str(caught.value)
    assert "plugin 'boom' (ddcore-boom 1.2) cannot be imported" in sentence and cause in sentence
    assert "\n" not in sentence and caught.value.exit_code == 2


def test_an_entry_point_to_nothing_says_so(site):
    site.put("void", "Y = 1")
    with pytest.raises(PluginError, match=r"'void' \(ddcore-void 1.2\) points to .*:X, and .* correct the entry point"):
        load_class("void")
    site.put("gone", "", value="module_not_here:X")
    with pytest.raises(PluginError, match="'gone'.*No module named 'module_not_here'"):
        load_class("gone")


def test_what_is_installed_is_read_again_when_a_folder_of_the_path_changes_and_only_then(site, monkeypatch):
    site.plugin("flop")
    before = installed()
    assert "later" not in before
    site.plugin("later")
    assert "later" in installed() and "later" not in before
    installed()["flop"].clear()
    monkeypatch.setattr("importlib.metadata.distributions", lambda: pytest.fail("read again"))
    assert installed()["flop"]


def test_names_of_two_distributions_clash_until_one_is_asked_by_its_distribution(site):
    site.plugin("flop", distribution="ddcore-flop")
    site.plugin("flop", distribution="other-flop", version="3.0")
    with pytest.raises(PluginError, match="ddcore-flop 1.2 and other-flop 3.0 both offer a plugin named 'flop'.*/flop"):
        load_class("flop")
    assert load_class("other-flop/flop")[1].identity == "other-flop 3.0"
    assert find("Other_Flop/flop").distribution == "other-flop"


def test_a_distribution_seen_twice_on_the_path_is_no_clash(site, tmp_path, monkeypatch):
    site.plugin("flop")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path[1:], str(tmp_path)])
    assert len(installed()["flop"]) == 1


def test_a_half_uninstalled_distribution_does_not_hurt_the_others(site, tmp_path):
    site.plugin("flop")
    site.plugin("half", distribution="ddcore-half")
    site.plugin("half", distribution="other-half")
    (tmp_path / "ddcore_half-1.2.dist-info" / "METADATA").unlink()
    assert load_class("flop")[1].name == "flop"
    assert len(installed()["half"]) == 2 and listing()


def test_unknown_names_get_near_matches_and_first_party_ones_the_pip_command(site, monkeypatch):
    site.plugin("flop")
    with pytest.raises(PluginError, match="no plugin named 'flpo' is installed.*did you mean 'flop'"):
        load_class("flpo")
    monkeypatch.setattr("ddcore.composing.discovery.installed", dict)
    with pytest.raises(PluginError, match="plugin 'datm' is not installed: pip install ddcore-datm"):
        load_class("datm")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "@hookimpl\n        def ddcore_veiw(self, batch): return batch",
            "ddcore_veiw, which is no hook: did you mean 'ddcore_view'",
        ),
        ("def ddcore_veiw(self, batch): return batch", "defines ddcore_veiw without @hookimpl"),
        ("def ddcore_view(self, batch): return batch", "defines ddcore_view without @hookimpl"),
        (
            "@hookimpl\n        def ddcore_view(self, batch, phase='match'): return batch",
            "argument 'phase' a default: remove it",
        ),
        (
            "@hookimpl\n        def ddcore_view(self, images): return images",
            "asks ddcore_view for 'images', which it does not get",
        ),
        (
            "@hookimpl(tryfirst=True)\n        def ddcore_view(self, batch): return batch",
            "tryfirst, trylast or wrapper",
        ),
        (
            "@hookimpl(wrapper=True)\n        def ddcore_view(self, batch): return (yield)",
            "tryfirst, trylast or wrapper",
        ),
        ("api = '1.2'", "written for hook API 1.2, this ddcore offers 2.1: upgrade the plugin, or change it"),
        (
            "api = '1.2'\n        @hookimpl\n        def ddcore_state(self, learn): return {}",
            "written for hook API 1.2",
        ),
        ("api = '2.7'", "written for hook API 2.7, this ddcore offers 2.1: upgrade ddcore-torch"),
        ("api = '3.0'", "written for hook API 3.0, this ddcore offers 2.1: upgrade ddcore-torch"),
        ("api = 'next'", "has api 'next'"),
        ("role = 'macher'", "did you mean 'matcher'"),
    ],
)
def test_a_class_that_breaks_the_contract_is_refused(site, body, words):
    site.plugin("flop", body)
    with pytest.raises(PluginError) as caught:
        load_class("flop")
    assert words in str(caught.value) and "(ddcore-flop 1.2)" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("X = 3", "not an attrs class derived from ddcore.Plugin"),
        ("from ddcore import Plugin\nclass X(Plugin): pass", "not an attrs class"),
        ("from attrs import frozen\nfrom ddcore import Plugin\n@frozen\nclass X(Plugin): pass", "compares by value"),
    ],
)
def test_a_thing_that_is_no_plugin_class_is_refused(site, source, words):
    site.put("odd", source)
    with pytest.raises(PluginError, match=words):
        load_class("odd")


def test_a_local_file_is_loaded_with_its_hash_and_the_hash_follows_the_content(tmp_path, site):
    file = tmp_path / "my_idea.py"
    file.write_text(dedent(site.source()))
    cls, offer = load_path(str(file))
    assert (offer.name, len(offer.sha256), cls().both) == ("my-idea", 64, True)
    file.write_text(file.read_text().replace("True", "False"))
    changed, other = load_path(str(file))
    assert changed().both is False and other.sha256 != offer.sha256


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "holds 0 plugin classes"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def", "SyntaxError"),
        (None, "does not exist"),
    ],
)
def test_a_local_file_without_a_usable_plugin_is_refused(tmp_path, source, words):
    file = tmp_path / "idea.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(PluginError, match=words):
        load_path(str(file))


@frozen(kw_only=True, eq=False)
class Doubles(Plugin):
    @hookimpl
    def ddcore_setting(self, value):
        return value * 2


def test_the_manager_keeps_the_core_first_and_then_the_order_given():
    made = manager({"b": Doubles(), "a": Doubles()}, {}, core=Doubles())
    assert [impl.plugin_name for impl in made.hook.ddcore_setting.get_hookimpls()] == ["core", "b", "a"]


def test_the_manager_refuses_one_instance_under_two_names_naming_the_plugin():
    same = Doubles()
    with pytest.raises(PluginError, match="plugin 'b'.*cannot be registered"):
        manager({"a": same, "b": same}, {})


def rows(name):
    return [row for row in listing() if row["name"] == name]


def test_the_listing_reads_role_hooks_and_paper_without_importing(site):
    module = site.plugin("flop", "role = 'matcher'\n        " + SETTING)
    (row,) = rows("flop")
    assert (row["role"], row["hooks"], row["status"]) == ("matcher", ["ddcore_setting"], "ok")
    assert (row["version"], row["summary"]) == ("1.2", "one line") and "arXiv" in row["paper"]
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("def", "broken: SyntaxError"),
        ("class Y: pass", "has no X"),
        ("import foo_not_here\nclass X: pass", "broken: no module named 'foo_not_here'"),
        (
            "from ddcore import hookimpl\nclass X:\n    @hookimpl\n    def ddcore_setings(self, value): ...",
            "broken: ddcore_setings is no hook: did you mean 'ddcore_setting'",
        ),
    ],
)
def test_a_broken_plugin_is_a_row_of_the_listing(site, source, status):
    site.put("odd", source)
    site.plugin("flop")
    (row,) = rows("odd")
    assert status in row["status"]
    assert rows("flop")[0]["status"] == "ok" and row["status"][:30] in listing_text(listing())


def test_a_clash_stands_in_both_rows_of_the_listing(site):
    site.plugin("flop")
    site.plugin("flop", distribution="other-flop")
    assert [row["status"].partition(":")[0] for row in rows("flop")] == ["clash", "clash"]


def test_show_tells_options_and_hooks_as_json_and_a_broken_plugins_reason(site):
    site.plugin("flop")
    found = show("flop")
    assert found["options"][0]["flag"] == "--flop.both" and found["options"][0]["default"] is True
    assert "--flop.both" in show_text(json.loads(json.dumps(found)))
    site.put("boom", "raise RuntimeError('boom')")
    assert "RuntimeError: boom" in show("boom")["status"]
