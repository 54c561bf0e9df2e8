"""The means by hand, that each student's groups are others, a run with the row and the recipe, and the contract of every plugin."""

import torch
from group_means import PROTOCOLS, means_of_groups

from ddcore.testing import PROBE, check_plugin


def test_means_of_groups_by_hand():
    images = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0])[:, None, None, None]
    # groups of 3 and 2
    assert means_of_groups(images, 2).flatten().tolist() == [3, 8]
    assert torch.equal(means_of_groups(images, 5), images)


def test_the_recipe_ends_in_a_probe_on_a_tenth():
    probe = PROTOCOLS["group-means"].probe
    assert (probe.epochs, probe.share, probe.batch) == (200, 0.1, 256)


def test_the_set_is_a_row_that_is_chosen_and_scored_by_the_probe(ddcore_cli, tmp_path):
    words = [*PROBE, "--plugin", "group-means", "--group-means.groups", "2", "--protocol", "group-means-3"]
    done = ddcore_cli(
        "run", *ddcore_cli.tiny, *words, "--rows", "group-means,distilled", "--out", tmp_path / "run", "--json"
    )
    assert done.code == 0, done.err
    rows = [row for row in done.json["rows"] if row["protocol"] == "group-means-3"]
    assert [row["set"] for row in rows] == ["group-means", "distilled"]
    assert (
        rows[0]["ipc"] == 2
        and rows[0]["labels"] == "hard"
        and rows[0]["bytes"]["images"] == 4 * rows[0]["images"] * 192
    )
    assert all(row["probe"]["images"] < 12 and "linear probe" in row["note"] for row in rows)


def test_the_contract():
    check_plugin("group-means")
