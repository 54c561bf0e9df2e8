"""Broken pictures that a table names are listed with the others, left out on request, and found by ``data check``."""

import json

import pytest
from data_trees import grey, tree

from ddcore.cli.app import invoke
from ddcore.data.sources import open_source
from ddcore.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Six pictures in a folder, two of them broken, and a table of their labels."""
    files = {f"train/{n}.png": grey(10 * n) for n in range(6)} | {"train/1.png": b"", "train/4.png": b"no picture"}
    lines = ["id,breed", *(f"{n},{'pug' if n % 2 else 'lab'}" for n in range(6))]
    return tree(tmp_path, {**files, "train.csv": "\n".join(lines).encode()})


@pytest.mark.parametrize("name", ["csv:{0}", "csv:{0}/train.csv", "folder:{0}", "{0}"])
def test_all_are_named_at_once_and_left_out_with_their_labels(name, folder):
    with pytest.raises(InputError, match=r"2 pictures or files .*1\.png .*4\.png .*--skip-broken"):
        open_source(name.format(folder), split="0.5")
    source = open_source(name.format(folder), split="0.5", skip_broken=True)
    counts = [part.labels.bincount(minlength=2).tolist() for part in (source.train, source.test)]
    assert source.classes == ("lab", "pug") and counts == [[1, 1], [1, 1]]
    values = {
        int(image.max()): cls
        for part in (source.train, source.test)
        for image, cls in zip(part.stored, part.labels.tolist(), strict=True)
    }
    assert values == {0: 0, 20: 0, 30: 1, 50: 1}
    assert len(source.broken) == 2 and any("2 left out as broken" in note for note in source.notes)


def test_a_check_lists_them_as_a_finding(folder, capsys):
    assert invoke(["data", "check", f"csv:{folder}", "--split", "0.5", "--json"]) == 0
    (found,) = [each for each in json.loads(capsys.readouterr().out)["findings"] if each["check"] == "broken files"]
    assert len(found["numbers"]["broken"]) == 2
