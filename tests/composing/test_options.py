"""Values and their sources: precedence, refusals, click glue, round trips by command line, TOML and JSON."""

import json
import tomllib
from typing import Literal

import click
import pytest
from attrs import field, frozen
from attrs.validators import ge, le
from hypothesis import given, settings
from hypothesis import strategies as st

from ddcore.api.plugin import Plugin, option
from ddcore.cli.app import invoke
from ddcore.composing.options import (
    Resolved,
    as_json,
    click_options,
    explain,
    flag,
    from_json,
    preparse,
    resolve,
    to_toml,
    unknown,
    variable,
)
from ddcore.composing.recipes import Experts
from ddcore.config import Config
from ddcore.errors import DdcoreError, OptionError


@frozen(kw_only=True, eq=False)
class Flip(Plugin):
    flip_prob: float = option(0.5, help="chance of a flip", symbol="p", validator=[ge(0), le(1)])
    both: bool = option(True, help="both sides")
    count: int = option(3, help="how many", unit="images", validator=ge(1))
    name: str = option("plain", help="a word")
    mode: Literal["single", "all"] = option("single", help="which")
    limit: float | None = option(2.0, help="none: no limit")
    widths: tuple[int, ...] = option((1, 2), help="several")
    key: str = option("", help="a password", secret=True)


@frozen(kw_only=True, eq=False)
class Range(Plugin):
    low: int = option(0, help="lower end")
    high: int = field(default=5)

    @high.validator
    def _above(self, attribute, value):
        if value <= self.low:
            raise ValueError("high must be above low")


GROUPS = {"fyi": Flip}


def resolved(groups=GROUPS, files=(), environment=None, **command_line) -> Resolved:
    return resolve(groups, command_line=command_line, environment=environment or {}, files=[str(f) for f in files])


def parsed(arguments: list[str], groups=GROUPS) -> dict:
    """What a click command built from the glue really got on its line."""
    got = {}

    def take(**values):
        context = click.get_current_context()
        given = click.core.ParameterSource.COMMANDLINE
        got.update({n: v for n, v in values.items() if context.get_parameter_source(n) is given})

    click.Command("run", params=list(click_options(groups)), callback=take).main(arguments, standalone_mode=False)
    return got


@pytest.fixture
def toml(tmp_path):
    def write(text: str, name: str = "a.toml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_an_options_three_names():
    assert (flag("fyi", "flip_prob"), flag("", "data_root"), flag("", "plugins")) == (
        "--fyi.flip-prob",
        "--data-root",
        "--plugin",
    )
    assert (variable("fyi", "flip_prob"), variable("", "ipc")) == ("DDCORE_FYI__FLIP_PROB", "DDCORE_IPC")
    assert variable("to-be", "rate") == "DDCORE_TO_BE__RATE"


def test_each_source_gives_way_to_the_one_above_it(toml):
    first, later = (
        toml("[plugin.fyi]\ncount = 11\nname = 'first'\n", "1.toml"),
        toml("[plugin.fyi]\ncount = 12\n", "2.toml"),
    )
    seen = []
    for more in (
        {},
        {"files": [first]},
        {"files": [first, later]},
        {"files": [first, later], "environment": {"DDCORE_FYI__COUNT": "13"}},
        {"files": [first, later], "environment": {"DDCORE_FYI__COUNT": "13"}, "fyi__count": "14"},
    ):
        made = resolved(**more)
        seen.append((made.options["fyi"].count, made.sources["fyi.count"].partition(" ")[0]))
    assert seen == [(3, "default"), (11, "file"), (12, "file"), (13, "environment"), (14, "command")]
    assert resolved(files=[first, later]).options["fyi"].name == "first"


def test_shared_options_stand_at_the_top_of_a_file_and_core_groups_in_a_table(toml):
    file = toml("ipc = 10\nprotocol = ['plain', 'quick']\n[experts]\ncount = 5\n")
    made = resolved({"experts": Experts}, files=[file])
    assert (made.config.ipc, made.config.protocol, made.options["experts"].count) == (10, ("plain", "quick"), 5)


def test_the_defaults_of_a_run():
    config = resolved().config
    assert (config.eval_seeds, config.protocol, config.dataset, config.ipc) == (3, ("auto",), "digits", 1)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("fyi__count", "many", "--fyi.count (from command line) is 'many': give a whole number"),
        ("fyi__count", "0", "out of range"),
        ("fyi__count", 2.5, "give a whole number"),
        ("fyi__count", True, "give a whole number"),
        ("fyi__flip_prob", "1.5", "--fyi.flip-prob (from command line) is '1.5', out of range"),
        ("fyi__flip_prob", "nan", "not finite"),
        ("fyi__flip_prob", 10**400, "too large"),
        ("fyi__both", "perhaps", "give true or false"),
        ("fyi__mode", "singel", "did you mean 'single'"),
        ("fyi__name", 3, "give text"),
        ("fyi__widths", 3, "give a list"),
        ("fyi__widths", ("1", "x"), "give a whole number"),
        ("ipc", "0", "--ipc (from command line) is '0', out of range"),
        ("dtype", "float8", "--dtype"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_sentence_with_option_value_and_source(key, value, words):
    with pytest.raises(OptionError) as caught:
        resolved(**{key: value})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_source_of_a_bad_value_is_named(toml):
    with pytest.raises(OptionError, match=r"--fyi.count \(from file .*a.toml\)"):
        resolved(files=[toml("[plugin.fyi]\ncount = 'x'\n")])
    with pytest.raises(OptionError, match=r"--ipc \(from environment DDCORE_IPC\)"):
        resolved(environment={"DDCORE_IPC": "x"})


def test_values_that_do_not_go_together_are_refused_by_the_classs_own_rule():
    assert resolved({"r": Range}, r__low="6", r__high="7").options["r"].high == 7
    with pytest.raises(OptionError, match="options of r do not go together: high must be above low"):
        resolved({"r": Range}, r__low="9", r__high="7")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("icp = 1\n", "unknown key 'icp': did you mean 'ipc'"),
        ("plugin = ['fyi']\n", "unknown key 'plugin': did you mean 'plugins'"),
        ("[plugin.fyi]\nflip_porb = 1\n", "unknown key 'flip_porb': did you mean 'flip_prob'"),
        ("[plugin.datm]\nrate = 1\n", "plugin 'datm', which is not selected: add --plugin datm"),
        ("[experts]\ncount = 1\n", "no selected plugin needs experts"),
        ("[plugin]\nfyi = 3\n", "is not a table"),
        ("ipc = \n", "is not TOML"),
    ],
)
def test_a_file_with_what_nobody_knows_is_refused_with_the_remedy(toml, text, words):
    with pytest.raises(OptionError) as caught:
        resolved(files=[toml(text)])
    assert words in str(caught.value) and "a.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(DdcoreError, match="absent.toml"):
        resolved(files=[tmp_path / "absent.toml"])


def test_a_secret_stays_out_of_records_tables_and_messages():
    made = resolved(fyi__key="swordfish")
    assert made.options["fyi"].key == "swordfish"
    assert "swordfish" not in json.dumps(as_json(made)) + to_toml(made) + str(explain(made))
    with pytest.raises(OptionError) as caught:
        resolved(fyi__key=91827364)
    assert "91827364" not in str(caught.value)


def test_explain_has_a_row_for_every_option_with_its_source():
    found = {name: (value, source) for name, value, source in explain(resolved(fyi__count="4", ipc="2"))}
    assert found["--fyi.count"] == (4, "command line") and found["--ipc"] == (2, "command line")
    assert found["--fyi.both"] == (True, "default") and found["--fyi.key"][0] == "(secret)"


# ---- before and while click parses -----------------------------------------------------------------------------------


def test_preparse_finds_plugins_files_and_preset_in_any_position(toml):
    file = toml("ipc = 1\n")
    first = preparse(
        ["--ipc", "1", "--plugin", "fyi", "--preset=a/b", f"--config={file}", "--plugin=datm", "--plugin-path", "x.py"],
        {},
    )
    assert (first.plugins, first.plugin_paths, first.files, first.preset) == (
        ("fyi", "datm"),
        ("x.py",),
        (str(file),),
        "a/b",
    )


def test_preparse_takes_plugins_from_the_environment_before_files_and_later_files_first(toml):
    one, two = toml("plugins = ['a', 'b']\n", "1.toml"), toml("plugins = ['c']\nplugin_path = ['y.py']\n", "2.toml")
    arguments = ["--config", str(one), "--config", str(two)]
    assert (preparse(arguments, {}).plugins, preparse(arguments, {}).plugin_paths) == (("c",), ("y.py",))
    assert preparse(arguments[:2], {}).plugins == ("a", "b")
    environment = {"DDCORE_PLUGINS": "d, e", "DDCORE_PLUGIN_PATH": "z.py"}
    assert preparse(arguments, environment) == preparse(
        ["--plugin", "d", "--plugin", "e", "--plugin-path", "z.py", *arguments], {}
    )


def test_preparse_refuses_a_flag_without_its_value():
    with pytest.raises(OptionError, match="--plugin has no value"):
        preparse(["--plugin"], {})


def test_click_gives_only_what_was_written():
    assert parsed([]) == {}
    assert parsed(["--fyi.no-both", "--fyi.widths", "4", "--fyi.widths", "5", "--ipc", "2"]) == {
        "fyi__both": False,
        "fyi__widths": ("4", "5"),
        "ipc": "2",
    }


def test_a_plugins_name_may_have_hyphens(toml):
    groups = {"to-be": Flip}
    given = parsed(["--to-be.flip-prob", "0.25", "--to-be.no-both"], groups)
    made = resolved(groups, **given)
    assert (made.options["to-be"].flip_prob, made.options["to-be"].both) == (0.25, False)
    assert resolved(groups, files=[toml("[plugin.to-be]\ncount = 7\n")]).options["to-be"].count == 7
    assert resolved(groups, environment={"DDCORE_TO_BE__COUNT": "8"}).options["to-be"].count == 8


def test_help_has_symbol_default_and_unit():
    texts = {o.name: o.help for o in click_options(GROUPS)}
    assert "(p)" in texts["fyi__flip_prob"] and "[0.5]" in texts["fyi__flip_prob"]
    assert "[3, images]" in texts["fyi__count"] and "[yes]" in texts["fyi__both"]


def test_an_option_of_a_plugin_that_is_not_selected_is_refused_with_the_remedy(capsys):
    sentence = "'--fyi.flip-prob' belongs to plugin 'fyi', which is not selected: add --plugin fyi"
    assert unknown("--fyi.flip-prob", {"datm": Range}) == sentence
    assert unknown("--range.hihg", {"range": Range}) == "range has no option 'hihg': did you mean 'high'?"
    assert unknown("--range.zzz", {"range": Range}) == "range has no option 'zzz': choose one of high, low"
    assert unknown("--ipcc", {}) is None
    assert "belongs to no plugin: did you mean 'fyi'" in str(unknown("--fiy.flip-prob", {}))
    assert "no selected plugin needs" in str(unknown("--experts.count", {}))
    assert invoke(["run", "--fyi.flip-prob", "0.5"]) == 2
    assert sentence in capsys.readouterr().err


# ---- round trips -----------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "flip_prob": st.floats(0, 1),
        "both": st.booleans(),
        "count": st.integers(1, 2**62),
        "name": WORDS,
        "mode": st.sampled_from(["single", "all"]),
        "limit": st.none() | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e18, max_value=1e18),
        "widths": st.lists(st.integers(-9, 9), min_size=1, max_size=3).map(tuple),
    },
)
SHARED = st.fixed_dictionaries(
    {},
    optional={
        "ipc": st.integers(1, 500),
        "steps": st.none() | st.integers(0, 9),
        "normalise": st.sampled_from(["zca", "none"]),
    },
)


def written(values: dict) -> list[str]:
    """The command line that says these values."""
    line = []
    for group, name, value in [(g, n, v) for g, table in values.items() for n, v in table.items()]:
        if isinstance(value, bool):
            line.append(flag(group, name if value else f"no_{name}"))
        else:
            items = value if isinstance(value, tuple) else (value,)
            line += [f"{flag(group, name)}={'none' if item is None else item}" for item in items]
    return line


def plain(made: Resolved) -> dict:
    record = as_json(made)
    return {"config": record["config"], "options": record["options"]}


@settings(max_examples=40, deadline=None)
@given(own=VALUES, shared=SHARED)
def test_a_run_is_the_same_from_command_line_toml_and_json(own, shared, tmp_path_factory):
    made = resolved(**parsed(written({"fyi": own, "": shared})))
    assert {name: getattr(made.options["fyi"], name) for name in own} == own
    assert {name: getattr(made.config, name) for name in shared} == shared
    file = tmp_path_factory.getbasetemp() / "again.toml"
    file.write_text(to_toml(made), encoding="utf-8")
    assert plain(resolved(files=[file])) == plain(made)
    again = from_json(json.loads(json.dumps(as_json(made), allow_nan=False)), GROUPS)
    assert as_json(again) == as_json(made)


def test_a_dumped_file_names_its_plugins_and_lets_no_preset_change_it(toml):
    text = to_toml(resolved(plugins=("fyi",), fyi__limit="none"))
    first = preparse(["--config", str(toml(text))], {})
    assert (first.plugins, first.preset) == (("fyi",), "none")
    assert tomllib.loads(text)["plugin"]["fyi"]["limit"] == "none"


def test_core_groups_and_plugins_keep_their_order_in_a_record():
    made = resolved({"b": Flip, "a": Flip, "experts": Experts})
    again = from_json(as_json(made), {"a": Flip, "b": Flip})
    assert list(again.options) == ["b", "a", "experts"] and isinstance(again.config, Config)
