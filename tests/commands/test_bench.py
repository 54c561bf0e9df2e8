"""A suite of runs: what it reads, what it does again and what not, and what the leaderboard makes of it."""

import json
import tomllib
from pathlib import Path

import pytest
import tomli_w

from ddcore.commands.bench import Cell, merged, read_suite, suite_of
from ddcore.errors import InputError
from ddcore.pages.leaderboard import board, html, markdown
from ddcore.storage.places import Place
from ddcore.testing import PROBE, ddcore_cli  # noqa: F401  fixture

pytestmark = pytest.mark.usefixtures("probes")
SUITE = """
name = "two on digits"
ipc = [1]
seeds = [0, 1]

[run]
network = "convnet2-w4"
protocol = ["quick-3"]
eval_seeds = 1
full_epochs = 1
threads = 1
plugin.pull.rate = 0.25

[[data]]
name = "digits"
dataset = "digits"

[[method]]
name = "pull"
plugins = ["pull"]
steps = 2

[[method]]
name = "pull, 4 bits"
plugins = ["pull", "coarse"]
steps = 2
plugin.coarse.bits = 4
"""


def changed(**changes):
    return {**tomllib.loads(SUITE), **changes}


def write(folder, text=SUITE):
    (folder / "suite.toml").write_text(text)
    return folder / "suite.toml"


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_a_suite_is_every_method_on_all_data_at_every_size_and_seed():
    suite = suite_of(changed(ipc=[1, 10], data=[{"name": "a"}, {"name": "b", "resize": 4}]), "s")
    cells = suite.cells()
    assert len(cells) == 2 * 2 * 2 * 2 and len({cell.key for cell in cells}) == len(cells)
    assert cells[0].plugins == ("pull",) and cells[0].tables["ipc"] == 1 and cells[0].tables["steps"] == 2
    assert {cell.tables.get("resize") for cell in cells if cell.data == "b"} == {4}


def test_what_a_method_says_counts_over_its_data_and_that_over_what_all_share():
    found = changed(run={"steps": 1, "threads": 1, "plugin": {"pull": {"rate": 5.0, "other": 8}}})
    found["data"] = [{"name": "d", "steps": 2, "threads": 2}]
    found["method"] = [{"name": "m", "plugins": ["pull"], "steps": 3, "plugin": {"pull": {"rate": 1.0}}}]
    tables = suite_of(found, "s").cells()[0].tables
    assert (tables["steps"], tables["threads"], tables["plugin"]) == (3, 2, {"pull": {"rate": 1.0, "other": 8}})
    assert merged({"a": {"b": 1}}, {"a": 2}) == {"a": 2} and merged({"a": 2}, {"a": {"b": 1}}) == {"a": {"b": 1}}


def test_a_run_is_named_by_all_its_options():
    one = Cell("m", "d", 1, 0, ("pull",), {"steps": 1})
    assert one.key.startswith("m-d-ipc1-seed0-") and one.key == Cell("m", "d", 1, 0, ("pull",), {"steps": 1}).key
    assert (
        one.key
        != Cell("m", "d", 1, 0, ("pull",), {"steps": 2}).key
        != Cell("m", "d", 1, 0, ("other",), {"steps": 2}).key
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": []}, "unknown key 'methods': did you mean 'method'"),
        ({"data": []}, r"no data: write a \[\[data\]\]"),
        ({"method": [{"name": "a"}]}, "'a' .* names no plugins"),
        ({"method": [{"name": "a b", "plugins": ["pull"]}, {"name": "A b", "plugins": ["pull"]}]}, "name of its own"),
        ({"seeds": [0, 0]}, "different whole numbers"),
        ({"ipc": 1}, "different whole numbers"),
        ({"run": {"plugin": {"shake": {"strength": 1.0}}}}, "options of plugin 'shake', which no method uses"),
    ],
)
def test_what_is_no_suite_is_refused_in_one_sentence(changes, words):
    with pytest.raises(InputError, match=words):
        suite_of(changed(**changes), "s")


def test_what_is_not_toml_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not TOML"):
        read_suite(str(write(tmp_path, "name = ")))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"plugins": ["shake"]}, "no selected plugin is a matcher"),
        ({"plugins": ["nothing-like-it"]}, "no plugin named"),
        ({"plugins": ["pull"], "step": 1}, "unknown key 'step'"),
        ({"plugins": ["pull"], "plugin": {"pull": {"lr": 1.0}}}, "'pull' has no option 'lr'"),
        ({"plugins": ["pull"], "steps": -1}, "out of range"),
    ],
)
def test_a_method_that_cannot_be_run_is_found_before_any_work(method, words, ddcore_cli, tmp_path):  # noqa: F811
    text = tomli_w.dumps(changed(method=[{"name": "bad", **method}], run={}))
    answer = ddcore_cli("bench", write(tmp_path, text), "--out", tmp_path / "out")
    assert answer.code == 2 and "method 'bad' on 'digits' cannot be run: " in answer.err and words in answer.err
    assert not (tmp_path / "out").exists()


def test_a_method_and_data_that_cannot_be_run_do_not_hold_up_the_others(ddcore_cli, tmp_path):  # noqa: F811
    bad = {"name": "bad", "plugins": ["pull"], "plugin": {"pull": {"lr": 1.0}}}
    gone = {"name": "gone", "dataset": "npz:nowhere.npz"}
    found = changed(seeds=[0])
    document = {**found, "method": [found["method"][0], bad], "data": [*found["data"], gone]}
    suite, out = write(tmp_path, tomli_w.dumps(document)), tmp_path / "out"
    plan = ddcore_cli("bench", suite, "--plan-only", "--out", out, "--json")
    assert plan.code == 2 and len(plan.json["runs"]) == 2 and len(plan.json["refused"]) == 2
    answer = ddcore_cli("bench", suite, "--out", out, "--json")
    assert answer.code == 2 and answer.json["left"] == [] and len(results(out)) == 1, answer.err
    failed = {key.partition("-ipc")[0]: why for key, why in answer.json["failed"].items()}
    assert {*failed} == {"bad-digits", "bad-gone", "pull-gone"}
    assert "'pull' has no option 'lr'" in failed["bad-digits"] and "data 'gone' cannot be read" in failed["pull-gone"]


def test_methods_of_plugin_files_are_found_from_the_suites_folder_and_done_again_when_the_file_changes(
    ddcore_cli,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    (tmp_path / "mine.py").write_text(Path(PROBE[1]).read_text())
    method = {"name": "mine", "plugin_path": ["mine.py"], "steps": 1, "plugin": {"mine": {"experts": False}}}
    run = {**changed()["run"], "plugin": {}}
    suite, out = write(tmp_path, tomli_w.dumps(changed(seeds=[0], method=[method], run=run))), tmp_path / "out"
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    answer = ddcore_cli("bench", suite, "--out", out, "--jobs", 2, "--json")
    assert answer.code == 0 and answer.json["left"] == [] and answer.json["rows"][0]["cells"]["0"]["mean"] > 0, (
        answer.err
    )
    (first,) = results(out)
    (record,) = json.loads((out / "runs" / first / "run.json").read_text())["plugins"]
    assert (record["name"], record["path"]) == ("mine", str(tmp_path / "mine.py"))
    with open(tmp_path / "mine.py", "a") as file:
        file.write("# another\n")
    assert ddcore_cli("bench", suite, "--out", out).code == 0 and len(results(out)) == 2


def test_plugin_files_of_a_suite_that_lies_elsewhere_are_refused():
    found = changed(method=[{"name": "mine", "plugin_path": ["mine.py"]}], run={})
    with pytest.raises(InputError, match="the suite lies elsewhere: copy both to this machine"):
        suite_of(found, "https://example.org/suite.toml")
    with pytest.raises(InputError, match="names the plugin file mine.py, and there is no"):
        suite_of(found, "s", Path("/nowhere/suite.toml"))


# ---- doing -----------------------------------------------------------------------------------------------------------


def results(folder):
    return {f.parent.name: f.stat().st_mtime_ns for f in folder.glob("runs/*/report.html")}


def test_a_suite_gives_a_leaderboard_and_goes_on_where_it_stopped(ddcore_cli, tmp_path):  # noqa: F811
    suite, out = write(tmp_path), tmp_path / "out"
    listed = ddcore_cli("bench", suite, "--plan-only", "--json").json["runs"]
    first = ddcore_cli("bench", suite, "--out", out, "--only", "seed0", "--json")
    assert first.code == 0 and len(first.json["left"]) == 2 and len(results(out)) == 2, first.err
    before = results(out)
    answer = ddcore_cli("bench", suite, "--out", out, "--json")
    assert answer.code == 0 and answer.json["left"] == [] and answer.json["failed"] == {}, answer.err
    assert set(results(out)) == set(listed) and before.items() <= results(out).items()
    names = [row["name"] for row in answer.json["rows"]]
    assert {"pull", "pull, 4 bits"} <= {*names} and names[-1].startswith("all real images, ")
    (column,) = answer.json["columns"]
    assert column == {
        "data": "digits",
        "ipc": 1,
        "protocol": "quick-3",
        "network": "convnet2-w4",
        "student": "",
        "on": "test",
    }
    for row in answer.json["rows"]:
        cell = row["cells"]["0"]
        assert cell["seeds"] == [0, 1] and cell["mean"] == pytest.approx(sum(cell["values"]) / len(cell["values"]))
        record = json.loads((out / cell["record"]).read_text())
        assert [r["run"] for r in record["runs"]] == cell["runs"] and all((out / r).is_dir() for r in cell["runs"])
        assert str(tmp_path) not in json.dumps(record)
    cost = {row["name"]: row["cells"]["0"]["bytes"] for row in answer.json["rows"]}
    assert cost["pull, 4 bits"] < cost["pull"]
    text = (out / "leaderboard.md").read_text()
    assert "](records/pull-digits-ipc1.json)" in text and "quick-3" in text
    assert json.loads((out / "leaderboard.json").read_text())["rows"] == answer.json["rows"]


def test_only_what_changed_is_done_again_and_a_run_that_was_cut_goes_on(ddcore_cli, tmp_path):  # noqa: F811
    one = SUITE.replace("seeds = [0, 1]", "seeds = [0]")
    out = tmp_path / "out"
    assert ddcore_cli("bench", write(tmp_path, one), "--out", out).code == 0
    before = results(out)
    cut = next(name for name in before if name.startswith("pull-digits"))
    (out / "runs" / cut / "report.html").unlink()
    other = one.replace("bits = 4", "bits = 2")
    answer = ddcore_cli("bench", write(tmp_path, other), "--out", out, "--json")
    assert answer.code == 0 and len(results(out)) == 3, answer.err
    assert all(results(out)[name] == time for name, time in before.items() if name != cut)
    assert {row["name"] for row in answer.json["rows"]} >= {"pull", "pull, 4 bits"}


EXECUTOR = """
    from pathlib import Path
    from attrs import frozen
    from ddcore import Plugin, hookimpl, option
    from ddcore.runs.work import work

    @frozen(kw_only=True, eq=False)
    class X(Plugin):
        summary, role, executors = "one line", "executor", ("noting",)
        notes: str = option("", help="file")

        @hookimpl
        def ddcore_executor(self, name: str) -> object:
            return self if name == "noting" else None

        def map(self, run_url, tasks, jobs, done):
            for task in tasks:
                Path(self.notes).write_text(f"{task['key']} {jobs}")
                work(run_url, task)
                done(task["key"])
"""


def test_the_executor_of_an_installed_plugin_does_the_runs_with_options_of_the_environment(
    site,
    ddcore_cli,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    site.put("not-called-like-it", EXECUTOR)
    monkeypatch.setenv("DDCORE_NOT_CALLED_LIKE_IT__NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("DDCORE_IPC", "7")
    words = (
        "--out",
        tmp_path / "out",
        "--only",
        "pull-digits-ipc1-seed0",
        "--jobs",
        3,
        "--executor",
        "noting",
        "--json",
    )
    answer = ddcore_cli("bench", write(tmp_path), *words)
    assert answer.code == 0 and len(results(tmp_path / "out")) == 1, answer.err
    assert (tmp_path / "notes").read_text().startswith("pull-digits-ipc1-seed0-") and " 3" in (
        tmp_path / "notes"
    ).read_text()


def test_an_executor_that_nobody_offers_is_refused(ddcore_cli, tmp_path):  # noqa: F811
    answer = ddcore_cli("bench", write(tmp_path), "--out", tmp_path / "out", "--executor", "proceses")
    assert answer.code == 2 and "no executor is named 'proceses': did you mean 'processes'" in answer.err


def test_worker_processes_give_the_same_scores(ddcore_cli, tmp_path):  # noqa: F811
    text = SUITE.replace("seeds = [0, 1]", "seeds = [0]")
    suite = write(tmp_path, text)
    one = ddcore_cli("bench", suite, "--out", tmp_path / "one", "--json").json
    two = ddcore_cli("bench", suite, "--out", tmp_path / "two", "--jobs", 2, "--json").json
    assert one["rows"] == two["rows"]


def test_a_run_that_is_refused_is_said_and_does_not_stop_the_others(ddcore_cli, tmp_path, monkeypatch):  # noqa: F811
    from ddcore.errors import InputError
    from ddcore.runs import distil

    real = distil.check_data_aloud

    def picky(run):
        if run.config.ipc == 2:
            raise InputError("--ipc 2 asks for more images than this test likes: lower it")
        real(run)

    monkeypatch.setattr(distil, "check_data_aloud", picky)
    suite, out = (
        write(tmp_path, SUITE.replace("ipc = [1]", "ipc = [1, 2]").replace("[0, 1]", "[0]")),
        tmp_path / "out",
    )
    answer = ddcore_cli("bench", suite, "--out", out, "--json")
    assert answer.code == 2 and len(answer.json["failed"]) == 2 and answer.json["left"] == []
    assert all("--ipc 2 asks for more images" in why for why in answer.json["failed"].values())
    assert len(results(out)) == 2 and "Failed: pull-digits-ipc2" in (out / "leaderboard.md").read_text()


def test_a_bug_in_one_run_is_kept_with_its_traceback_and_does_not_stop_the_others(ddcore_cli, tmp_path, monkeypatch):  # noqa: F811
    from ddcore.runs import distil

    real = distil.assemble

    def broken(run, tasks):
        if "coarse" in run.plugins:
            raise IndexError("seven")
        return real(run, tasks)

    monkeypatch.setattr(distil, "assemble", broken)
    suite, out = write(tmp_path, SUITE.replace("[0, 1]", "[0]")), tmp_path / "out"
    answer = ddcore_cli("bench", suite, "--out", out, "--json")
    ((run, why),) = answer.json["failed"].items()
    assert answer.code == 2 and why == "a bug, IndexError: seven" and len(results(out)) == 1
    assert "in broken" in json.loads((out / "failed" / f"{run}.json").read_text())["traceback"]
    monkeypatch.setattr(distil, "assemble", real)
    assert ddcore_cli("bench", suite, "--out", out, "--json").json["failed"] == {}


# ---- the leaderboard -------------------------------------------------------------------------------------------------


def row(set_, accuracy, **more):
    common = {"protocol": "p", "network": "n", "labels": "hard", "steps": 5, "bytes": {"total": 100}}
    return {"set": set_, "accuracy": {"mean": accuracy}, **common, **more}


@pytest.fixture
def put(tmp_path):
    """Writes the scores of a run and returns its cell."""

    def put(method, seed, *rows, data="d"):
        cell = Cell(method, data, 1, seed, ("pull",), {})
        folder = Place.at(tmp_path) / "runs" / cell.key
        (folder / "scores.json").write_json({"rows": list(rows)})
        (folder / "report.html").write_bytes(b"")
        return cell

    return put


def made(tmp_path, cells):
    return board("b", cells, Place.at(tmp_path))


def test_means_and_deviations_over_seeds_by_hand(put, tmp_path):
    found = made(tmp_path, [put("m", 0, row("distilled", 0.2)), put("m", 1, row("distilled", 0.4))])
    cell = found["rows"][0]["cells"]["0"]
    # mean 0.3; (0.01 + 0.01) / 1 = 0.02, its root 0.1414
    assert cell["mean"] == pytest.approx(0.3) and cell["std"] == pytest.approx(0.02**0.5)
    assert "[**30.0 ± 14.1**](records/m-d-ipc1.json)" in markdown(found)


def test_students_on_all_real_images_are_the_same_for_every_seed_and_their_deviation_is_over_students(put, tmp_path):
    whole = row("full", 0.6)
    whole["accuracy"]["values"] = [0.5, 0.7]
    other = row("full", 0.8)
    other["accuracy"]["values"] = [0.7, 0.9]
    shared = made(tmp_path, [put("m", seed, row("distilled", 0.2), whole) for seed in (0, 1, 2)])
    cell = shared["rows"][-1]["cells"]["0"]
    assert (
        cell["values"] == [0.5, 0.7] and cell["mean"] == pytest.approx(0.6) and cell["std"] == pytest.approx(0.02**0.5)
    )
    assert "± is over students there" in markdown(shared) and cell["seeds"] == [0, 1, 2]
    apart = made(tmp_path, [put("m", seed, row("distilled", 0.2), full) for seed, full in ((0, whole), (1, other))])
    assert apart["rows"][-1]["cells"]["0"]["values"] == [0.6, 0.8]


def test_ranks_are_means_over_columns_ties_share_one_and_full_data_is_out_of_competition(put, tmp_path):
    cells = [
        put("a", 0, row("distilled", 0.9), row("random", 0.5), row("full", 0.99)),
        put("b", 0, row("distilled", 0.9), row("random", 0.5), row("full", 0.99)),
        put("a", 0, row("distilled", 0.1), data="e"),
        put("b", 0, row("distilled", 0.3), data="e"),
    ]
    found = made(tmp_path, cells)
    ranks = {r["name"]: r["rank"] for r in found["rows"]}
    assert ranks == {"b": 1.0, "a": 1.5, "random real images, 5 steps": 3.0, "all real images, 5 steps": 0.0}
    assert [r["name"] for r in found["rows"]] == ["b", "a", "random real images, 5 steps", "all real images, 5 steps"]
    assert [r["cells"]["0"]["best"] for r in found["rows"]] == [True, True, False, False]


def test_other_protocols_and_networks_are_other_columns_and_other_steps_other_rows(put, tmp_path):
    cells = [
        put("a", 0, row("distilled", 0.9), row("random", 0.5)),
        put("b", 0, row("distilled", 0.8, protocol="q"), row("distilled", 0.7), row("random", 0.4, steps=9)),
    ]
    found = made(tmp_path, cells)
    assert [(c["protocol"], c["network"]) for c in found["columns"]] == [("p", "n"), ("q", "n")]
    by_name = {r["name"]: {n: c["mean"] for n, c in r["cells"].items()} for r in found["rows"]}
    assert by_name["b"] == {"1": 0.8, "0": 0.7} and by_name["a"] == {"0": 0.9}
    assert by_name["random real images, 5 steps"] == {"0": 0.5} and by_name["random real images, 9 steps"] == {"0": 0.4}


def test_students_that_plugins_shaped_stand_in_columns_of_their_own_and_are_named(put, tmp_path):
    taught = [row(name, 0.9, student="heed #0a0b") for name in ("distilled", "random")]
    found = made(tmp_path, [put("a", 0, row("distilled", 0.5), row("random", 0.4)), put("b", 0, *taught)])
    assert [c["student"] for c in found["columns"]] == ["", "heed #0a0b"]
    assert [len(r["cells"]) for r in found["rows"] if r["name"] in ("a", "b")] == [1, 1]
    assert "1 image a class, students of heed #0a0b" in markdown(found)


def test_a_set_counts_under_its_own_labels_and_real_images_under_hard_ones(put, tmp_path):
    rows = [
        row("distilled", 0.9, labels="soft"),
        row("random", 0.8, labels="soft"),
        row("distilled", 0.1),
        row("random", 0.2),
    ]
    by_name = {r["name"]: r["cells"]["0"]["mean"] for r in made(tmp_path, [put("a", 0, *rows)])["rows"]}
    assert by_name == {"a": 0.9, "random real images, 5 steps": 0.2}


def test_names_from_a_suite_are_shown_and_not_executed(put, tmp_path):
    name = '<script>alert("x")</script> | b'
    found = made(tmp_path, [put(name, 0, row("distilled", 0.9))])
    page = html(found)
    assert "<script>" not in page and "&lt;script&gt;" in page and "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "&lt;script>" in markdown(found) and "\\|" in markdown(found)
