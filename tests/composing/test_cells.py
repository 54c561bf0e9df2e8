"""Cells: what a table has to say, and what a command of strangers may."""

import pytest

from ddcore.composing.cells import cell_named, cells_in, cells_of_file, every_cell, parsed
from ddcore.errors import DdcoreError, InputError, OptionError

pytestmark = pytest.mark.usefixtures("probes")
COMMAND = "run --plugin pull --network convnet2-w4 --rows random"


def tables(**changes):
    table = dict.fromkeys(("what", "paper", "table", "setting", "read"), "words")
    table |= {"published": {"mean": 0.5, "std": 0.1}, "command": COMMAND}
    return {"mine": {name: value for name, value in {**table, **changes}.items() if value is not None}}


def one(**changes):
    (cell,) = cells_in(tables(**changes), "mine.toml", "file mine.toml")
    return cell


def test_a_plugin_brings_cells_which_are_read_without_importing_it():
    names = [cell.name for cell in every_cell() if cell.owner == "pull"]
    assert names == ["pulled-digits", "pulled-digits-mlp"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"published": None}, "has no published"),
        ({"what": None}, "has no what: write it into its table"),
        ({"paper": 3}, "has paper that is no text"),
        ({"colour": "red"}, "has an unknown key 'colour'"),
        ({"published": {"std": 0.1}}, "published figure that is none"),
        ({"published": {"mean": "high"}}, "published figure that is none"),
        ({"published": {"mean": True}}, "published figure that is none"),
        ({"row": {"colour": "red"}}, "row that is no table of set, labels"),
        ({"data": {"classes": 0}}, "data that are no table"),
        ({"data": {"shape": 3}}, "data that are no table"),
        ({"differs": "much"}, "differs that is no list"),
        ({"unverified": "yes"}, "neither true nor false"),
        ({"command": 3}, "neither text nor a list of words"),
        ({"command": "run --labels 'a"}, "ends within quotes"),
        ({"command": "rm -rf x"}, "begins with none of run, evaluate, train"),
        ({"command": "evaluate --rows random"}, "set_of"),
        ({"set_of": "other"}, "set_of"),
        ({"command": f"{COMMAND} --dataset digits"}, "has --dataset in its command, which only who verifies says"),
        ({"command": f"{COMMAND} --out=x"}, "has --out in its command"),
        ({"command": f"{COMMAND} --plugin-path x.py"}, "has --plugin-path in its command"),
        ({"command": f"{COMMAND} --config x.toml"}, "has --config in its command"),
        ({"command": f"{COMMAND} --executor processes"}, "has --executor in its command"),
        ({"command": f"{COMMAND} --init ../x"}, "looks like a place"),
        ({"command": f"{COMMAND} --network hub:o/r:n"}, "looks like a place"),
        ({"command": f"{COMMAND} --network hub:r:n"}, "looks like a place"),
        ({"command": f"{COMMAND} --teachers.weights w.pt"}, "a file: leave it out"),
        ({"command": f"{COMMAND} --teachers.weights=http://x.example/w"}, "looks like a place"),
        ({"command": ["run", "--init", "a b"]}, "looks like a place"),
    ],
)
def test_what_is_no_cell_is_refused_in_a_sentence(changes, sentence):
    with pytest.raises(InputError, match=f"cell 'mine' of file mine.toml .*{sentence}") as caught:
        one(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "A b", "a/b", "-", "x" * 100])
def test_a_name_is_one_of_a_file(name):
    with pytest.raises(InputError, match="no name of a file"):
        cells_in({name: tables()["mine"]}, "mine.toml", "file mine.toml")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("run --plugin pull --colour red", "refuses: No such option"),
        ("run --plugin pull --pull.colour red", "pull has no option 'colour'"),
        ("run --plugin pull --ipc", "refuses: Option '--ipc' requires an argument"),
        ("run --plugin pull word", "refuses: Got unexpected extra argument"),
        ("run --plugin pull --help", "refuses: No such option"),
        ("train --plugin pull", "refuses: Missing option '--student'"),
        ("train --student mlp --ipc 1", "refuses: No such option"),
        ("run --plugin nobody-has-it", "nobody-has-it"),
    ],
)
def test_a_command_that_ddcore_refuses_is_refused_in_a_sentence(command, sentence):
    with pytest.raises(DdcoreError, match=sentence) as caught:
        parsed(one(command=command))
    assert "\n" not in str(caught.value)


def test_the_environment_selects_nothing(monkeypatch):
    monkeypatch.setenv("DDCORE_PLUGINS", "rival")
    selection, given, own = parsed(one(command="train --student mlp --eval-seeds 2"))
    assert (selection.offers, given, own["student"]) == ({}, {"eval_seeds": "2"}, "mlp")


def test_a_preset_is_used_only_if_the_command_names_it():
    assert parsed(one())[0].first.preset == "none"
    assert parsed(one(command=f"{COMMAND} --preset pull/digits-ipc1"))[0].first.preset == "pull/digits-ipc1"


def test_a_cell_goes_by_its_name_or_its_owners_too_and_two_of_a_name_are_refused():
    known = every_cell()
    assert cell_named("pull/pulled-digits", known) is cell_named("pulled-digits", known)
    with pytest.raises(OptionError, match="did you mean 'pulled-digits'"):
        cell_named("puled-digits", known)
    (twin,) = cells_in({"pulled-digits": tables()["mine"]}, "mine.toml", "file mine.toml")
    with pytest.raises(OptionError, match="brought by pull and mine.toml"):
        cell_named("pulled-digits", [*known, twin])


@pytest.mark.parametrize("text", ["[a", "a = 1\n", "\xff"])
def test_a_file_that_is_none_of_cells_is_refused(tmp_path, text):
    (tmp_path / "mine.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"mine\.toml"):
        cells_of_file(str(tmp_path / "mine.toml"))
