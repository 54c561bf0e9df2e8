"""The hook API keeps its promises: what was recorded of the last version is there, and its number says what changed."""

import json
import pydoc
from pathlib import Path

import pytest

from ddcore import Plugin, option
from ddcore.api import hooks as hookspecs
from ddcore.api.hooks import API_VERSION, KINDS
from ddcore.cli.app import invoke
from ddcore.composing.versions import DEPRECATED, Deprecation, arguments, changes, deprecations, record, surface
from ddcore.testing import PROBE, tiny_words

LAST = json.loads((Path(__file__).parents[1] / "hook_api.json").read_text())
AGAIN = (
    "bump API_VERSION, then write tests/hook_api.json again: python -m ddcore.composing.versions > tests/hook_api.json"
)


def test_the_version_is_the_one_that_changes_since_the_record_make_due():
    found = changes(LAST["hooks"], surface())
    assert found.version_due(LAST["version"]) == API_VERSION, (found, AGAIN)
    assert record() == LAST, AGAIN


def test_nothing_goes_that_was_not_deprecated_before():
    gone = [words.split()[0] for words in changes(LAST["hooks"], surface()).breaking]
    assert set(gone) <= set(LAST["deprecated"])


def test_every_hook_says_since_when_it_is_there():
    for name in KINDS:
        assert "New in" in getattr(hookspecs, name).__doc__, name


def test_deprecated_things_exist_and_go_in_a_later_major_version():
    for name, about in DEPRECATED.items():
        hook, _, argument = name.partition(".")
        assert hook in KINDS and (not argument or argument in arguments(hook))
        assert about.removed_in == f"{int(about.since.split('.')[0]) + 1}.0" and about.instead


@pytest.mark.parametrize(
    ("change", "due"),
    [
        (lambda s: s, "1.3"),
        (lambda s: {**s, "ddcore_new": {"kind": "one", "arguments": []}}, "1.4"),
        (lambda s: {**s, "a": {**s["a"], "arguments": ["x", "y", "z"]}}, "1.4"),
        (lambda s: {**s, "a": {**s["a"], "arguments": ["x"]}}, "2.0"),
        (lambda s: {**s, "a": {**s["a"], "kind": "chain"}}, "2.0"),
        (lambda s: {}, "2.0"),
    ],
)
def test_additions_are_minor_and_everything_else_is_major(change, due):
    before = {"a": {"kind": "one", "arguments": ["x", "y"]}}
    assert changes(before, change(before)).version_due("1.3") == due


BODY = "view_phases = ('match',)\n        @hookimpl\n        def ddcore_view(self, batch, phase): return None"


@pytest.mark.parametrize(
    ("name", "words"), [("ddcore_view", "uses ddcore_view,"), ("ddcore_view.phase", "argument 'phase',")]
)
def test_a_run_warns_of_what_is_on_its_way_out_and_works(name, words, site, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(DEPRECATED, name, Deprecation("1.0", "2.0", "write ddcore_look"))
    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))
    site.plugin("old", BODY)
    options = ["--steps", "1", "--out", str(tmp_path / "run")]
    assert invoke(["run", *PROBE, "--plugin", "old", *tiny_words(), *options]) == 0
    said = capsys.readouterr().err
    assert "warning: 'old' (ddcore-old 1.2)" in said and words in said
    assert "deprecated since hook API 1.0 and gone in 2.0: write ddcore_look" in said


def test_a_plugin_that_does_not_use_it_is_not_told(monkeypatch):
    monkeypatch.setitem(DEPRECATED, "ddcore_view.run", Deprecation("1.0", "2.0", "use it no more"))

    class View:
        def ddcore_view(self, batch):
            """Without run."""

    assert deprecations(View, "'v'") == [] and deprecations(object, "'o'") == []


def test_help_on_plugin_says_what_it_is_with_an_example_and_the_meaning_of_every_attribute():
    said = pydoc.plain(pydoc.render_doc(Plugin)).partition("Methods defined here")[0]
    lines = [line.removeprefix(" |").strip() for line in said.splitlines()]
    assert "What every plugin class is derived from" in said and "@hookimpl" in lines and "ddcore.api.hooks" in said
    for name in vars(Plugin)["__annotations__"]:
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"{name} = ")]
        assert lines[at + 1] and " = " not in lines[at + 1], f"no meaning beside {name}"
    assert "--my-plugin.name" in pydoc.render_doc(option)
