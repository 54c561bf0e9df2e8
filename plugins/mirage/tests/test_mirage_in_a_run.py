"""Mirage end to end: molecules and TU files through the command line, resuming, warnings, stops, order."""

import contextlib
import io
import json
from typing import NamedTuple

import pytest
import torch
from ddcore_graphs import rows
from ddcore_graphs.graphs import joined, one_graph
from ddcore_mirage import Mirage
from ddcore_mirage.distilled import Forest, merged, mine, mined_tensors
from ddcore_mirage.forest import unpack
from ddcore_mirage.preview import most_frequent, positions
from hypothesis import given, settings
from hypothesis import strategies as st

from ddcore import InputError, PluginError
from ddcore.cli.app import invoke as invoked
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.opening import reopen
from ddcore.sets.packed import load_packed
from ddcore.storage.ownership import signed

ENDINGS = ("O", "N", "F", "Cl", "Br", "CO", "CN", "CF", "CC", "CCO")
QUICK = [
    "--graphs.width",
    "8",
    "--graphs.student-steps",
    "20",
    "--eval-seeds",
    "2",
    "--threads",
    "1",
    "--full-epochs",
    "1",
]


class Said(NamedTuple):
    exit_code: int
    output: str


def invoke(arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = invoked(arguments)
    return Said(code, out.getvalue())


@pytest.fixture
def molecules(tmp_path):
    """Forty molecules: rings with tails against chains, in four scaffolds."""
    rings = [f"{ring}{tail}" for ring in ("c1ccccc1", "c1ccncc1") for tail in ENDINGS]
    chains = [f"C{tail}" for tail in ENDINGS] + [f"C1CC1C{tail}" for tail in ENDINGS]
    lines = [f"{s},{int(s in rings)}" for pair in zip(rings, chains, strict=True) for s in pair]
    lines[1::4] = [line[:-1] + "1" for line in lines[1::4]]  # so that no scaffold tells the class
    (tmp_path / "toy.csv").write_text("\n".join(["smiles,active", *lines, "no molecule,1"]) + "\n")
    return tmp_path / "toy.csv"


def run(data, out, *more, plugin="mirage"):
    return invoke(
        ["run", "--plugin", plugin, "--dataset", f"smiles:{data}", "--split", "0.6", "--out", str(out), *QUICK, *more]
    )


def write_pairs(folder, count=8):
    """Graphs of two bonded nodes in the format of the TU collection, classes 0 and 1 in turn."""
    folder.mkdir()
    ends = [(2 * k + 1, 2 * k + 2) for k in range(count)]
    files = {
        "A": [f"{a}, {b}" for pair in ends for a, b in (pair, pair[::-1])],
        "graph_indicator": [k + 1 for k in range(count) for _ in range(2)],
        "graph_labels": [k % 2 for k in range(count)],
    }
    for name, lines in files.items():
        (folder / f"TOY_{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def random_graphs(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(count):
        nodes = int(torch.randint(3, 7, (), generator=generator))
        pairs = [(b, int(torch.randint(b, (), generator=generator))) for b in range(1, nodes)]
        ends = torch.tensor(pairs).T
        bonds = torch.randint(2, (len(pairs), 1), generator=generator)
        labels = torch.randint(2, (nodes, 2), generator=generator)
        parts.append(one_graph(labels, torch.cat([ends, ends.flip(0)], 1), torch.cat([bonds, bonds])))
    return parts


def renumbered(graph, generator):
    order = torch.randperm(len(graph.nodes), generator=generator)
    edges = torch.randperm(graph.edges.shape[1], generator=generator)
    return one_graph(graph.nodes[order], torch.argsort(order)[graph.edges][:, edges], graph.bonds[edges])


PLOTS = True
HOW = {"hops": 2, "threshold": 0.3, "most": 5000, "degrees": True}


def test_a_run_on_molecules_from_the_command_line(molecules, tmp_path):
    result = run(molecules, tmp_path / "out")
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    named = [(row["set"], row["network"]) for row in scores["rows"]]
    assert named == [(s, n) for n in ("gin", "gcn", "gat") for s in ("distilled", "random-bytes", "full")]
    assert all(row["metric"] == "roc-auc" and len(row["accuracy"]["values"]) == 2 for row in scores["rows"])
    assert "1 of 41 lines" in "".join(scores["dataset"]["notes"])
    assert "roc-auc" in result.output
    assert "roc-auc on the test set" in (tmp_path / "out" / "report.html").read_text()


def test_the_artifact_says_what_it_is_and_its_bytes_are_the_files(molecules, tmp_path):
    run(molecules, tmp_path / "out", "--eval-network", "gin")
    folder = tmp_path / "out" / "artifact"
    packed = load_packed(str(folder))
    assert packed.manifest["kind"] == "graphs"
    assert packed.nbytes["total"] == (folder / "graphs.safetensors").stat().st_size
    assert (folder / "preview.png").read_bytes()[:4] == b"\x89PNG"
    assert Forest().count(packed.tensors, {}, None) == len(unpack(packed.tensors)) > 2
    rows = json.loads((tmp_path / "out" / "scores.json").read_text())["rows"]
    assert rows[0]["bytes"]["total"] == packed.nbytes["total"]
    assert rows[1]["bytes"]["total"] <= packed.nbytes["total"] or rows[1]["samples"] == 2


def test_an_altered_artifact_is_refused(molecules, tmp_path):
    run(molecules, tmp_path / "out", "--eval-network", "gin")
    file = tmp_path / "out" / "artifact" / "graphs.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    with pytest.raises(InputError, match="altered"):
        load_packed(str(tmp_path / "out" / "artifact"))


def test_an_artifact_is_inspected_exported_and_evaluated_again(molecules, tmp_path):
    assert run(molecules, tmp_path / "out", "--eval-network", "gin").exit_code == 0
    artifact = str(tmp_path / "out" / "artifact")
    sizes = torch.bincount(load_packed(artifact).tensors["set_class"].long()).tolist()
    said = invoke(["inspect", artifact])
    assert said.exit_code == 0 and f"{sum(sizes)} samples as graphs, of 2 classes" in said.output
    assert json.loads(invoke(["inspect", artifact, "--json"]).output)["samples_per_class"] == sizes
    refused = invoke(["export", artifact, "--to", "folder", "--out", str(tmp_path / "pictures")])
    assert refused.exit_code == 2 and "holds graphs: export --to pt" in refused.output
    assert invoke(["export", artifact, "--to", "pt", "--out", str(tmp_path / "set.pt")]).exit_code == 0
    words = ["--eval-network", "gin", "--eval-seeds", "2", "--full-epochs", "1"]
    again = invoke(["evaluate", artifact, *words, "--out", str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    rows = [json.loads((tmp_path / name / "scores.json").read_text())["rows"] for name in ("out", "again")]
    assert [row["accuracy"] for row in rows[0]] == [row["accuracy"] for row in rows[1]]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--protocol", "dc"], "holds graphs, and --protocol is of images: leave it out"),
        (["--baseline", "noise"], "holds graphs, and --baseline is of images: leave it out"),
        (["--dataset", "rings"], "has classes 0, 1, and the test data chain, ring"),
        (["--dataset", "tu:{tu}"], "has graphs of 9x3, and the data graphs of 1x0"),
    ],
)
def test_what_an_artifact_of_graphs_cannot_be_evaluated_with_is_one_sentence(molecules, tmp_path, words, sentence):
    write_pairs(tmp_path / "TOY")
    assert run(molecules, tmp_path / "out", "--eval-network", "gin").exit_code == 0
    given = [word.format(tu=tmp_path / "TOY") for word in words]
    result = invoke(["evaluate", str(tmp_path / "out" / "artifact"), "--eval-seeds", "1", *given])
    assert result.exit_code == 2 and sentence in result.output, result.output


def test_students_stopped_anywhere_go_on_to_the_same_scores(molecules, tmp_path, monkeypatch):
    """The contract kit stops after every student; here the run is stopped once, amid a network's."""
    words = ("--eval-network", "gcn")
    assert run(molecules, tmp_path / "whole", *words).exit_code == 0
    made, taught = [], rows._student

    def stops_at_the_third(run, *arguments):
        made.append(arguments[:3])
        run.stopping = len(made) == 3
        return taught(run, *arguments)

    monkeypatch.setattr(rows, "_student", stops_at_the_third)
    assert run(molecules, tmp_path / "out", *words).exit_code == 3
    assert invoke(["resume", str(tmp_path / "out")]).exit_code == 0
    assert len(made) == len(set(made)) == 6
    scores = [json.loads((tmp_path / name / "scores.json").read_text())["rows"] for name in ("whole", "out")]
    assert [row["accuracy"] for row in scores[0]] == [row["accuracy"] for row in scores[1]]


def test_the_same_seed_gives_the_same_bits_and_a_worker_process_too(molecules, tmp_path):
    for name, more in (("a", []), ("b", []), ("c", ["--executor", "processes"])):
        assert run(molecules, tmp_path / name, "--eval-network", "gin", *more).exit_code == 0
    files = [(tmp_path / name / "artifact" / "graphs.safetensors").read_bytes() for name in "abc"]
    assert files[0] == files[1] == files[2]
    values = [json.loads((tmp_path / n / "scores.json").read_text())["rows"][0]["accuracy"] for n in "abc"]
    assert values[0] == values[1] == values[2]


def test_mining_resumes_class_by_class(molecules, tmp_path, monkeypatch):
    """ddcore_tasks gives a task a class; what is finished is not mined again, and ddcore_assemble joins them."""
    assert run(molecules, tmp_path / "out", "--eval-network", "gin").exit_code == 0
    whole = (tmp_path / "out" / "artifact" / "graphs.safetensors").read_bytes()
    tasks = distillation_tasks(reopen(str(tmp_path / "out")))
    assert [task.key for task in tasks] == ["mine-000", "mine-001"]
    (tmp_path / "out" / "checkpoints" / "mine-001.done.safetensors").unlink()
    (tmp_path / "out" / "artifact" / "manifest.json").unlink()
    mined = []
    monkeypatch.setattr("ddcore_mirage.distilled.mine", lambda *a, **k: mined.append(a[1]) or mine(*a, **k))
    assert invoke(["resume", str(tmp_path / "out")]).exit_code == 0
    assert mined == [1]
    assert (tmp_path / "out" / "artifact" / "graphs.safetensors").read_bytes() == whole


def test_a_class_without_a_frequent_set_has_its_threshold_lowered_and_is_told_so(molecules, tmp_path):
    result = run(molecules, tmp_path / "out", "--eval-network", "gin", "--mirage.threshold", "0.99")
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert any("its threshold was lowered to" in warning for warning in scores["warnings"])
    notes = load_packed(str(tmp_path / "out" / "artifact")).manifest["notes"]
    assert any("its threshold was lowered to" in note for note in notes)


def test_single_atoms_and_disconnected_molecules_go_through_a_run(molecules, tmp_path):
    """Five of each kind, so that trees of single nodes are frequent."""
    lines = [f"{atom},{at % 2}" for at, atom in enumerate(["[Na+].[Cl-]", "[K+].[Br-].O", "C", "N"] * 5)]
    molecules.write_text("\n".join([molecules.read_text().strip(), *lines]) + "\n")
    result = run(molecules, tmp_path / "out", "--eval-network", "gat", "--mirage.hops", "2")
    assert result.exit_code == 0, result.output
    sets = unpack(load_packed(str(tmp_path / "out" / "artifact")).tensors)
    assert any(not tree[1] for one in sets for tree in one.trees)


def test_too_many_sets_stop_the_run_with_one_sentence(molecules, tmp_path):
    result = run(molecules, tmp_path / "out", "--mirage.threshold", "1", "--mirage.most", "5")
    assert result.exit_code == 2
    assert "more than 5 sets of trees occur in 1 graphs or more; raise --mirage.threshold" in result.output
    assert "Traceback" not in result.output


def test_thresholds_are_one_or_one_for_each_class(molecules, tmp_path):
    assert Mirage(threshold=(0.1, 5)).threshold_of(1, ["a", "b"]) == 5
    assert Mirage(threshold=(0.1,)).threshold_of(1, ["a", "b"]) == 0.1
    result = run(molecules, tmp_path / "out", *["--mirage.threshold", "0.1"] * 3)
    assert result.exit_code == 2
    assert "gives 3 values for 2 classes" in result.output


def test_steps_on_all_graphs_are_epochs_or_as_many_as_said(molecules, tmp_path):
    """24 train graphs in batches of 32: an epoch is one step, so the 20 of the others count, unless fewer are asked for."""
    words = ("--eval-network", "gcn", "--eval-seeds", "1")
    for name, more, steps in (
        ("a", (), 20),
        ("b", ("--full-epochs", "25"), 25),
        ("c", ("--graphs.full-steps", "3"), 3),
    ):
        assert run(molecules, tmp_path / name, *words, *more).exit_code == 0
        row = json.loads((tmp_path / name / "scores.json").read_text())["rows"][2]
        assert (row["set"], row["steps"]) == ("full", steps)
        assert row["note"] == f"all train graphs, {steps * 32 / row['samples']:.2g} epochs"


def test_images_are_refused(tmp_path):
    result = invoke(["run", "--plugin", "mirage", "--dataset", "digits", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "images" in result.output


def test_plan_only_does_nothing_and_speaks_of_graphs(molecules, tmp_path):
    result = run(molecules, tmp_path / "out", "--plan-only")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out").exists()
    assert "graphs, no steps (mirage)" in result.output and "gin, gcn, gat (mirage)" in result.output
    assert "images" not in result.output.replace("passes are measured on images only", "")


@pytest.mark.parametrize("words", [("--ipc", "5"), ("--normalise", "none"), ("--protocol", "dc"), ("--init", "noise")])
def test_options_of_images_are_refused(molecules, tmp_path, words):
    result = run(molecules, tmp_path / "out", *words)
    assert result.exit_code == 2 and f"{words[0]} is of images" in result.output
    assert not (tmp_path / "out").exists()


def test_a_run_begins_by_saying_what_it_will_do_and_its_folder_has_no_images_per_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(["run", "--plugin", "mirage", "--dataset", "rings", *QUICK, "--mirage.hops", "1"])
    assert result.exit_code == 0, result.output
    assert "plan: mirage on rings, seed 0" in result.output and "students: gin, gcn, gat, cpu" in result.output
    assert "pack      data, network (graphs)" in result.output
    assert (tmp_path / "runs" / "mirage-rings-seed0" / "scores.json").exists()


OLD = {"width": 4, "student_steps": 2, "label_column": "active"}


@pytest.mark.parametrize("name", OLD)
def test_options_that_were_mirages_are_refused_with_what_they_are_called_now(name, molecules, tmp_path, monkeypatch):
    written, variable = f"--mirage.{name.replace('_', '-')}", f"DDCORE_MIRAGE__{name.upper()}"
    now = f"{written} is {written.replace('mirage', 'graphs')} now: write"
    result = run(molecules, tmp_path / "out", written, str(OLD[name]))
    assert result.exit_code == 2 and now in result.output, result.output
    (tmp_path / "c.toml").write_text(f"[plugin.mirage]\n{name} = {json.dumps(OLD[name])}\n")
    result = run(molecules, tmp_path / "out", "--config", str(tmp_path / "c.toml"))
    assert result.exit_code == 2 and now in result.output and "c.toml" in result.output, result.output
    monkeypatch.setenv(variable, str(OLD[name]))
    result = run(molecules, tmp_path / "out")
    assert result.exit_code == 2 and f"{variable} is set" in result.output and now in result.output, result.output


def as_it_was(record):
    """A record as a run of mirage wrote it when these options were its own."""
    record["plugins"] = [plugin for plugin in record["plugins"] if plugin["name"] != "graphs"]
    record["options"]["mirage"] |= record["options"].pop("graphs")
    record["sources"] = {name.replace("graphs.", "mirage."): said for name, said in record["sources"].items()}
    return record


def test_runs_and_sets_of_when_these_options_were_mirages_go_on_with_the_same_students(molecules, tmp_path):
    assert run(molecules, tmp_path / "out", "--eval-network", "gin").exit_code == 0
    file = tmp_path / "out" / "artifact" / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"provenance": as_it_was(manifest["provenance"])}))
    words = ["--eval-network", "gin", "--eval-seeds", "2", "--full-epochs", "1"]
    again = invoke(["evaluate", str(tmp_path / "out" / "artifact"), *words, "--out", str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    rows_of = [json.loads((tmp_path / name / "scores.json").read_text())["rows"] for name in ("out", "again")]
    assert [row["accuracy"] for row in rows_of[0]] == [row["accuracy"] for row in rows_of[1]]
    (tmp_path / "out" / "run.json").write_text(
        json.dumps(signed(as_it_was(json.loads((tmp_path / "out" / "run.json").read_text()))))
    )
    opened = reopen(str(tmp_path / "out"))
    assert (opened.plugins["graphs"].width, opened.plugins["graphs"].student_steps, [*opened.plugins]) == (
        8,
        20,
        ["mirage", "graphs"],
    )


def test_the_pack_may_be_named_too(molecules, tmp_path):
    for name, more in (("a", []), ("b", ["--plugin", "graphs"])):
        assert run(molecules, tmp_path / name, "--eval-network", "gin", *more).exit_code == 0
    files = [(tmp_path / name / "artifact" / "graphs.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]
    manifest = json.loads((tmp_path / "b" / "artifact" / "manifest.json").read_text())
    assert manifest["provenance"]["method"] == "mirage"


def test_data_are_shown(molecules):
    result = invoke(["data", "show", f"smiles:{molecules}", "--plugin", "mirage", "--split", "0.6"])
    assert result.exit_code == 0, result.output
    assert "graphs" in result.output and "nodes_per_graph" in result.output and "1 of 41 lines" in result.output


@pytest.mark.parametrize("degrees", [True, False])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_summary_does_not_depend_on_the_order_of_nodes_and_graphs(degrees, seed):
    parts, generator = random_graphs(seed=seed), torch.Generator().manual_seed(seed + 1)
    shuffled = [renumbered(parts[at], generator) for at in torch.randperm(len(parts), generator=generator).tolist()]
    one, other = (mined_tensors(joined(p), 0, "a", **{**HOW, "degrees": degrees})[0] for p in (parts, shuffled))
    assert len(one["set_class"]) > 0
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_supports_are_of_whole_graphs_and_single_atoms_count():
    single = one_graph(torch.tensor([[6]]), torch.zeros(2, 0, dtype=torch.int64))
    pair = one_graph(torch.tensor([[6], [6]]), torch.tensor([[0, 1], [1, 0]]))
    mined = mine(joined([single, pair, pair]), 1, hops=1, threshold=1, most=10, degrees=False)
    found = {(len(p.trees), p.trees[0]): p.support for p in mined.patterns}
    assert found == {(1, ((6,), ())): 1, (1, ((6,), (((), ((6,), ())),))): 2}


def test_merging_classes_stores_what_they_share_once():
    parts = [mined_tensors(joined(random_graphs()), cls, "a", **HOW)[0] for cls in (0, 1)]
    whole = merged(parts)
    assert len(whole["child_count"]) == len(parts[0]["child_count"])
    assert whole["set_class"].tolist() == [0] * len(parts[0]["set_class"]) + [1] * len(parts[1]["set_class"])


def test_a_run_decodes_by_the_plugins_operation(molecules, tmp_path):
    """Its entry point answers for what is stored; nobody answers for another name."""
    run(molecules, tmp_path / "out", "--eval-network", "gin")
    opened = reopen(str(tmp_path / "out"))
    packed = load_packed(str(tmp_path / "out" / "artifact"))
    graphs = opened.decoder(packed.manifest["decoder"]).sample(packed.tensors, torch.tensor([1, 0]))
    assert len(graphs) == 2
    with pytest.raises(InputError, match="pip install elsewhere"):
        opened.decoder([{"op": "unknown", "distribution": "elsewhere"}])


def test_the_preview_shows_each_trees_largest_support_leaves_apart():
    mined = mine(joined(random_graphs()), 0, **HOW)
    shown = most_frequent(mined.patterns, 0)
    assert [n for _, n in shown] == sorted((n for _, n in shown), reverse=True)
    tree = (0, ((0, (1, ())), (0, (2, ((0, (3, ())), (0, (4, ())))))))
    # leaves 1, 3, 4 at 0, 1, 2; node 2 amid its children at 1.5; the root amid its own at 0.75
    assert [(x, depth) for x, depth, _, _ in positions(tree)] == [(0.75, 0), (0.0, 1), (1.5, 1), (1.0, 2), (2.0, 2)]


ONE_SIDED = """
from attrs import frozen
from ddcore import Learn, Plugin, Task, hookimpl


@frozen(kw_only=True, eq=False)
class Halves(Plugin):
    role = "matcher"
    steps = 0

    @hookimpl
    def ddcore_tasks(self):
        return [Task("distil", "a", 0), Task("distil", "b", 0)]

    @hookimpl
    def ddcore_learn(self, images):
        return Learn({}, {})
"""


def test_several_tasks_without_an_assembler_are_refused(tmp_path):
    (tmp_path / "halves.py").write_text(ONE_SIDED)
    arguments = [
        "run",
        "--plugin-path",
        str(tmp_path / "halves.py"),
        "--dataset",
        "digits",
        "--out",
        str(tmp_path / "o"),
    ]
    result = invoke(arguments)
    assert result.exit_code == PluginError.exit_code
    assert "gives 2 tasks and does not assemble their results: implement ddcore_assemble" in result.output
