"""Mirage end to end: molecules and TU files through the command line, resuming, warnings, stops, order."""

import contextlib
import io
import json
from typing import NamedTuple

import pytest
import torch
from ddcore_mirage import Mirage
from ddcore_mirage.distilled import Forest, merged, mine, mined_tensors
from ddcore_mirage.forest import unpack
from ddcore_mirage.graphs import joined, one_graph
from ddcore_mirage.preview import most_frequent, positions

from ddcore import InputError, PluginError
from ddcore.assembly import reopen
from ddcore.cli import invoke as invoked
from ddcore.distil import distillation_tasks
from ddcore.packed import load_packed

ENDINGS = ("O", "N", "F", "Cl", "Br", "CO", "CN", "CF", "CC", "CCO")
QUICK = [
    "--mirage.width",
    "8",
    "--mirage.student-steps",
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


def test_graphs_are_no_images_to_inspect(molecules, tmp_path):
    run(molecules, tmp_path / "out", "--eval-network", "gin")
    result = invoke(["inspect", str(tmp_path / "out" / "artifact")])
    assert result.exit_code == 2
    assert "holds graphs" in result.output


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


def test_images_are_refused(tmp_path):
    result = invoke(["run", "--plugin", "mirage", "--dataset", "digits", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "images" in result.output


def test_plan_only_does_nothing(molecules, tmp_path):
    result = run(molecules, tmp_path / "out", "--plan-only")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("degrees", [True, False])
def test_the_summary_does_not_depend_on_the_order_of_nodes_and_graphs(degrees):
    parts, generator = random_graphs(), torch.Generator().manual_seed(5)
    shuffled = [renumbered(parts[at], generator) for at in torch.randperm(len(parts), generator=generator).tolist()]
    one, other = (mined_tensors(joined(p), 0, "a", **{**HOW, "degrees": degrees})[0] for p in (parts, shuffled))
    assert len(one["set_class"]) > 3
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
    """ddcore_decoder answers for what is stored; nobody answers for another name."""
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
