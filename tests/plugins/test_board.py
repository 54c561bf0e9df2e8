"""This project's cells: their commands are ones that ddcore takes, and the page in docs is made of them and the records."""

import json
from pathlib import Path

import pytest

from ddcore.cli.app import invoke
from ddcore.commands.verify import Attempt
from ddcore.composing.cells import EVALUATE, RUN, every_cell, parsed
from ddcore.composing.presets import every_preset
from ddcore.composing.selection import setup_from

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "examples/benchmarks/results/cells"
OWNERS = {file.parents[1].name for file in ROOT.glob("plugins/*/ddcore_*/cells.toml")}
CELLS = [cell for cell in every_cell() if cell.owner in OWNERS]
PUBLISHED = {preset.name: dict(preset.published) for preset in every_preset()}


def test_every_plugin_that_has_cells_names_them():
    assert {cell.owner for cell in CELLS} == OWNERS
    names = [cell.name for cell in CELLS]
    assert len({*names}) == len(names)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_its_command_is_one_that_ddcore_takes_and_its_figure_is_the_presets(cell):
    selection, given, own = parsed(cell)
    assert int(given["eval_seeds"]) >= 3
    assert not cell.set_of or cell.set_of in {other.name for other in CELLS}
    if cell.words[0] != RUN:
        assert cell.words[0] == EVALUATE or own["student"]
        return
    setup = setup_from(selection, {**given, "dataset": "x"}, {})
    preset = selection.first.preset
    assert preset == "none" or any(value == f"preset {preset}" for value in setup.resolved.sources.values())
    if figure := PUBLISHED.get(preset):
        assert figure == {"accuracy": cell.published["mean"], "std": cell.published["std"]}
    if "experts" in setup.options and "experts__count" in given:
        assert setup.options["experts"].count == 1


@pytest.mark.parametrize("name", ["random-cifar10-ipc1", "herding-mnist-ipc1"])
def test_a_row_of_real_images_needs_no_more_than_its_own(name, tmp_path, monkeypatch):
    """Of eight-pixel digits, since the plan does not depend on the data."""
    monkeypatch.chdir(tmp_path)
    (cell,) = [cell for cell in CELLS if cell.name == name]
    attempt = Attempt.of(cell, {"dataset": "digits", "eval_seeds": "1"}, {})
    found = attempt.do(plan_only=True)
    needs = [] if name.startswith("random") else ["trajectories"]
    assert [*found.plan.needs] == needs
    assert not needs or (found.trajectories.count, found.trajectories.epochs) == (1, 10)


def test_records_are_of_cells_and_the_page_in_docs_is_made_of_both(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    names = {cell.name for cell in CELLS}
    for file in sorted(RECORDS.glob("*.json")):
        record = json.loads(file.read_text())
        assert record["cell"] == file.stem and file.stem in names
        assert "/" not in json.dumps([record["data"], record["machine"]])
    assert invoke(["verify", "--records", str(RECORDS), "--page", str(tmp_path / "board.md")]) == 0
    made, kept = (tmp_path / "board.md").read_text(), (ROOT / "docs/board.md").read_text()
    assert made == kept, "write it again: ddcore verify --page docs/board.md"
