"""``ddcore compare``: what beats what, which figures share a column, and what cannot be compared."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddcore.cli.app import invoke
from ddcore.errors import InputError
from ddcore.pages.compare import beaten, compare, comparison_text, render_comparison

ENVIRONMENT = {"ddcore": "0.1.0", "torch": "2.13.0", "device": "cpu: x", "threads": 1, "python": "3.11"}


def row(name, mean, *, size=1000, protocol="augmented", network="convnet3", labels="hard", **more):
    known = {"set": name, "protocol": protocol, "network": network, "labels": labels, "ipc": 1.0, "steps": 10}
    accuracy = {"mean": mean, "std": 0.01, "values": [mean - 0.01, mean + 0.01]}
    return {**known, "seconds": 1.0, "note": "", "bytes": {"total": size}, "accuracy": accuracy, **more}


def put(folder, rows, *, fingerprint="f" * 64, **config):
    """A finished run's records, made by hand."""
    folder.mkdir(parents=True)
    data = {"name": "digits", "shape": [1, 8, 8], "test": 360, "fingerprint": fingerprint, "modality": "images"}
    record = {
        "seed": 0,
        "command": ["ddcore", "run", "--data-root", "s3://key:secret@bucket/x"],
        "config": {"ipc": 1, "network": "convnet3", **config},
        "sources": dict.fromkeys(config, "command line"),
        "options": {},
        "plugins": [{"name": "pull", "identity": "ddcore-pull 0.1.0"}],
        "environment": ENVIRONMENT,
        "data": data,
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "scores.json").write_text(json.dumps({"dataset": data, "rows": rows, "warnings": []}))
    return str(folder)


def test_a_point_is_beaten_by_one_that_costs_no_more_and_gains_no_less():
    # bytes 10, 20, 20, 30 and accuracies .5, .4, .6, .6: the second costs more and gains less than the first,
    # the fourth gains as much as the third and costs more
    assert beaten([10, 20, 20, 30], [0.5, 0.4, 0.6, 0.6]) == [False, True, False, True]
    assert beaten([], []) == [] and beaten([1], [0]) == [False]
    assert beaten([1, 1], [0.5, 0.5]) == [False, False]


def test_a_set_in_the_place_of_its_run_is_refused_with_what_to_name(tmp_path):
    run = put(tmp_path / "run", [row("distilled", 0.5)])
    for place in (tmp_path / "run" / "artifact", tmp_path / "alone"):
        place.mkdir()
        (place / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=rf"its run is the folder around it: give {run}$"):
        compare([str(tmp_path / "run" / "artifact"), run])
    with pytest.raises(InputError, match=r"without its run: score it first, `ddcore evaluate .*alone --out FOLDER`"):
        compare([str(tmp_path / "alone"), run])
    with pytest.raises(InputError, match="it is no run: give the --out folder"):
        compare([str(tmp_path), run])


POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8)


@given(POINTS)
def test_beaten_is_the_definition_as_loops(points):
    expected = []
    for cost, gain in points:
        found = False
        for other_cost, other_gain in points:
            if other_cost <= cost and other_gain >= gain and (other_cost < cost or other_gain > gain):
                found = True
        expected.append(found)
    costs, gains = [c for c, _ in points], [g for _, g in points]
    assert beaten(costs, gains) == expected
    assert not points or not all(expected), "somebody is always on the front"


def test_only_equal_protocols_networks_and_metrics_share_a_column(tmp_path):
    one = put(tmp_path / "a", [row("distilled", 0.5), row("distilled", 0.6, network="mlp")])
    two = put(tmp_path / "b", [row("distilled", 0.4, size=9), row("distilled", 0.9, size=9, protocol="plain")])
    three = put(tmp_path / "c", [row("distilled", 0.7, metric="roc-auc")])
    four = put(tmp_path / "d", [row("distilled", 0.8)], validation=0.1)
    found = compare([one, two, three, four])
    columns = [tuple(column.values()) for column in found["columns"]]
    assert {column[-1] for column in columns} == {"larger"}
    assert [column[:-1] for column in columns] == [
        ("augmented", "convnet3", "accuracy", "test", ""),
        ("augmented", "mlp", "accuracy", "test", ""),
        ("plain", "convnet3", "accuracy", "test", ""),
        ("augmented", "convnet3", "roc-auc", "test", ""),
        ("augmented", "convnet3", "accuracy", "validation, 0.1 of the train images", ""),
    ]
    means = [[cell and cell["mean"] for cell in entry["cells"]] for entry in found["entries"]]
    assert means == [
        [0.5, 0.6, *3 * [None]],
        [0.4, None, 0.9, None, None],
        [*3 * [None], 0.7, None],
        [*4 * [None], 0.8],
    ]
    assert not any(cell["beaten"] for entry in found["entries"] for cell in entry["cells"] if cell)
    assert "common to all" in found["notes"][0]


def test_what_another_set_beats_is_marked_across_runs_and_baselines_and_teachers_beat_nobody(tmp_path):
    one = put(tmp_path / "a", [row("distilled", 0.5, size=2000), row("random", 0.55, size=900)])
    two = put(tmp_path / "b", [row("distilled", 0.6, size=1000), row("teacher", 0.99, size=1)])
    marked = {(e["runs"][0], e["set"]): e["cells"][0]["beaten"] for e in compare([one, two])["entries"]}
    expected = {("a", "distilled"): True, ("a", "random"): False, ("b", "distilled"): False, ("b", "teacher"): False}
    assert marked == expected
    text = comparison_text(compare([one, two]))
    assert "0.500 ± 0.010\n" in text and "0.600 ± 0.010 *" in text and "0.990 ± 0.010 *" not in text


def test_where_smaller_values_are_better_smaller_ones_beat(tmp_path):
    gaps = {"metric": "gap between classes", "better": "smaller"}
    runs = [put(tmp_path / n, [row("gap of distilled", mean, **gaps)]) for n, mean in (("a", 0.2), ("b", 0.3))]
    found = compare(runs)
    assert [entry["cells"][0]["beaten"] for entry in found["entries"]] == [False, True]
    assert found["columns"][0]["better"] == "smaller"
    assert "0.200 ± 0.010 *" in comparison_text(found) and "0.300 ± 0.010 *" not in comparison_text(found)


def test_baselines_that_two_runs_share_bit_for_bit_are_one_line(tmp_path):
    one = put(tmp_path / "a", [row("distilled", 0.5), row("full", 0.9)])
    two = put(tmp_path / "b", [row("distilled", 0.5), row("full", 0.9), row("full", 0.8, network="mlp")])
    entries = compare([one, two])["entries"]
    assert [(e["runs"], e["set"]) for e in entries] == [
        *((["a"], "distilled"), (["b"], "distilled"), (["a", "b"], "full"))
    ]
    assert [cell["mean"] for cell in entries[2]["cells"]] == [0.9, 0.8]
    three = put(tmp_path / "c", [row("distilled", 0.5), row("full", 0.91)])
    assert len(compare([one, three])["entries"]) == 4


def test_other_test_images_one_run_a_run_twice_and_an_unfinished_one_are_refused(tmp_path):
    one = put(tmp_path / "a", [row("distilled", 0.5)])
    two = put(tmp_path / "b", [row("distilled", 0.5)], fingerprint="0" * 64)
    with pytest.raises(InputError, match="tested on other images .*fingerprint ffffffff and .*fingerprint 00000000"):
        compare([one, two])
    with pytest.raises(InputError, match="two runs or more"):
        compare([one])
    with pytest.raises(InputError, match="named twice"):
        compare([one, one + "/"])
    (tmp_path / "b" / "scores.json").unlink()
    with pytest.raises(InputError, match="no scores.json yet"):
        compare([one, two])
    (tmp_path / "b" / "scores.json").write_text('{"rows": [{"set": "distilled"}]}')
    with pytest.raises(InputError, match="damaged"):
        compare([one, two])


def test_what_differs_is_listed_with_the_runs_that_have_it_but_not_where_results_lie(tmp_path):
    one = put(tmp_path / "a", [row("distilled", 0.5)], steps=10, out="x", dtype="float32")
    two = put(tmp_path / "b", [row("distilled", 0.5)], steps=20, out="y", dtype="float32", amp=True)
    assert compare([one, two])["differences"] == [
        {"name": "steps", "values": {"a": 10, "b": 20}},
        {"name": "amp", "values": {"b": True}},
    ]


def test_the_command_prints_a_table_or_json_and_writes_a_page_without_secrets(tmp_path, capsys):
    one = put(tmp_path / "a" / "run", [row("distilled", 0.5)])
    two = put(tmp_path / "b" / "run", [row("<script>alert(1)</script>", 0.6)])
    out = tmp_path / "c.html"
    assert invoke(["compare", one, two, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "convnet3, protocol augmented" in printed and str(out) in printed and one in printed
    page = out.read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "secret" not in page and "s3://bucket/x" in page
    assert invoke(["compare", one, two, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"][0]["protocol"] == "augmented"
    assert invoke(["compare", one]) == 2
    assert "two runs or more" in capsys.readouterr().err


def test_without_matplotlib_the_page_says_how_to_get_plots(tmp_path, monkeypatch):
    runs = [put(tmp_path / name, [row("distilled", 0.5)]) for name in ("a", "b")]
    monkeypatch.setattr("ddcore.pages.compare.available", lambda: False)
    page = render_comparison(compare(runs))
    assert "ddcore-torch[report]" in page and "<svg" not in page


def test_students_that_a_plugin_shaped_have_a_column_of_their_own_and_are_no_rivals_of_plain_ones(tmp_path):
    plain = put(tmp_path / "plain", [row("distilled", 0.5), row("random", 0.4)])
    taught = put(
        tmp_path / "taught", [row("distilled", 0.9, student="heed #0a0b"), row("random", 0.8, student="heed #0a0b")]
    )
    found = compare([plain, taught])
    assert [column["student"] for column in found["columns"]] == ["", "heed #0a0b"]
    assert not any(a and b for a, b in (entry["cells"] for entry in found["entries"]))
    text = comparison_text(found)
    assert "convnet3, protocol augmented, students of heed #0a0b" in text
    assert "students were shaped by no plugin, heed #0a0b: one trained otherwise is no measure of the set" in text
    assert not any("of taught" in said or "of plain" in said for said in found["verdicts"])
