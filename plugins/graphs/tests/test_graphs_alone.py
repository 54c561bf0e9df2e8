"""The pack with its probe, a method of one page, does all that a method on graphs does, and no other method is needed."""

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import attrs
import ddcore_graphs
import pytest
import torch
from ddcore_graphs.graphs import one_graph
from ddcore_graphs.preview import in_a_circle
from ddcore_graphs.probe import mean_features
from ddcore_graphs.rings import rings
from ddcore_graphs.rows import check_fits, pack_of
from ddcore_graphs.training import Samples

from ddcore import InputError, PluginError
from ddcore.sets.packed import load_packed
from ddcore.testing import check_plugin, ddcore_cli, examine  # noqa: F401  fixture

PROBE = str(Path(ddcore_graphs.__file__).with_name("probe.py"))
QUICK = [
    "--graphs.width",
    "4",
    "--graphs.student-steps",
    "2",
    "--eval-seeds",
    "1",
    "--full-epochs",
    "1",
    "--threads",
    "1",
]
WITHOUT = """
    import sys
    from importlib import metadata

    every = metadata.distributions
    metadata.distributions = lambda: [d for d in every() if not d.metadata["Name"].startswith("ddcore-") or "graphs" in d.metadata["Name"]]
    sys.modules["ddcore_mirage"] = None
    from ddcore.cli import invoke
    from ddcore.composing.discovery import installed

    assert [*installed()] == ["graphs"], installed()
    probe, *quick = sys.argv[1:]
    again = ["--eval-seeds", "1", "--full-epochs", "1", "--eval-network", "sage", "--plugin-path", probe]
    for words in (
        ["run", "--plugin-path", probe, "--dataset", "rings", "--steps", "30", "--out", "out", *quick],
        ["inspect", "out/artifact"],
        ["export", "out/artifact", "--to", "pt", "--out", "set.pt"],
        ["evaluate", "out/artifact", "--out", "again", *again],
        ["report", "out"],
        ["plugins", "check", probe, "--only", "composition", "--only", "whole-run"],
        ["plugins", "check", "graphs", "--only", "seed", "--only", "whole-run"],
    ):
        assert invoke(words) == 0, words
    assert not [name for name in sys.modules if name.startswith("ddcore_") and name.partition(".")[0] not in ("ddcore_graphs", "ddcore_mirage") and "local" not in name]
"""


def test_with_no_other_plugin_a_method_runs_is_inspected_exported_evaluated_and_checked(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", dedent(WITHOUT), PROBE, *QUICK], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 samples as graphs, of 2 classes" in done.stdout
    rows = json.loads((tmp_path / "out" / "scores.json").read_text())["rows"]
    networks = ("gin", "gcn", "gat", "sage")
    assert [(r["network"], r["set"]) for r in rows] == [
        (n, s) for n in networks for s in ("distilled", "random-bytes", "full")
    ]
    again = json.loads((tmp_path / "again" / "scores.json").read_text())["rows"]
    assert [r["set"] for r in again] == ["distilled", "random-bytes", "full"] and again[0]["metric"] == "roc-auc"
    assert "roc-auc on the test set" in (tmp_path / "out" / "report.html").read_text()
    packed = load_packed(str(tmp_path / "out" / "artifact"))
    assert packed.method == "probe" and packed.samples_per_class == [5, 5]
    assert (tmp_path / "out" / "artifact" / "preview.png").read_bytes()[:4] == b"\x89PNG"
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [plugin["name"] for plugin in record["plugins"]] == ["probe", "graphs"]


def test_the_pack_keeps_the_contract():
    found = {result.name: result.status for result in check_plugin("graphs")}
    assert {
        found[name] for name in ("declarations", "public", "options", "seed", "resume", "workers", "whole-run")
    } == {"passed"}


def test_the_probe_keeps_the_contract_and_its_features_move():
    found = {result.name: result for result in check_plugin(PROBE)}
    for name in ("public", "gradient", "seed", "global-randomness", "resume", "workers", "composition", "whole-run"):
        assert found[name].status == "passed", found[name]


def test_a_method_that_imports_another_method_or_a_pack_it_does_not_name_fails_the_check(tmp_path):
    text = Path(PROBE).read_text()
    changes = {
        "another": (
            "import torch\n",
            "import torch\nimport ddcore_mirage\n",
            "imports ddcore_mirage of plugin 'mirage'",
        ),
        "unnamed": (
            'packs: ClassVar[tuple[str, ...]] = ("graphs",)',
            "",
            "imports ddcore_graphs.graphs of plugin 'graphs'",
        ),
    }
    pytest.importorskip("ddcore_mirage")
    for name, (old, new, words) in changes.items():
        assert old in text
        (tmp_path / f"{name}.py").write_text(text.replace(old, new, 1))
        (result,) = examine(str(tmp_path / f"{name}.py"), only=["public"])
        assert result.status == "failed" and words in result.detail, result


def test_a_method_that_does_not_name_the_pack_is_told_so():
    run = SimpleNamespace(plugins={"mine": object()}, matcher_name="'mine'")
    with pytest.raises(PluginError, match=r"which the run does not have: write packs = \(\"graphs\",\) in its class"):
        pack_of(run)


def test_a_set_that_does_not_fit_the_data_is_refused():
    source = rings()
    graphs, labels = source.train.stored, source.train.labels
    fits = Samples(graphs, labels, torch.ones(len(labels)), 1)
    check_fits(fits, source)
    wide = attrs.evolve(graphs, nodes=graphs.nodes.repeat(1, 2))
    for other in (attrs.evolve(fits, classes=labels + 1), attrs.evolve(fits, graphs=wide)):
        with pytest.raises(InputError, match="restore a copy or distil again"):
            check_fits(other, source)


def test_a_set_of_a_local_file_is_evaluated_with_that_file(ddcore_cli, tmp_path):  # noqa: F811
    words = ["--dataset", "rings", "--eval-network", "gcn", *QUICK]
    assert ddcore_cli("run", "--plugin-path", PROBE, *words, "--out", tmp_path / "out").code == 0
    assert (
        ddcore_cli("evaluate", tmp_path / "out" / "artifact").code == 0
    )  # one's own run folder says which file it was
    (tmp_path / "out" / "artifact").rename(tmp_path / "set")
    said = ddcore_cli("evaluate", tmp_path / "set", "--dataset", "rings")
    assert said.code == 2 and "holds graphs, which a plugin tests: add --plugin probe" in said.err


def test_rows_of_accuracy(ddcore_cli, tmp_path):  # noqa: F811
    words = ["--dataset", "rings", "--eval-network", "sage", "--graphs.metric", "accuracy", *QUICK]
    said = ddcore_cli("run", "--plugin-path", PROBE, *words, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    rows = json.loads((tmp_path / "out" / "scores.json").read_text())["rows"]
    assert "metric" not in rows[0] and all((100 * r["accuracy"]["mean"]) % 1 < 1e-9 for r in rows)  # of 100 graphs


def test_mean_features_by_hand():
    # path 0 - 1 - 2 with features 1, 2, 6: their mean is 3; the middle receives 1 + 6, the ends 2 each: 11 / 3
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    torch.testing.assert_close(mean_features(torch.tensor([[1.0], [2.0], [6.0]]), edges), torch.tensor([3.0, 11 / 3]))


def test_a_drawing_by_hand():
    # three nodes: the first on top, the others at 120 and 240 degrees clockwise, so at 3/4 of the height
    nodes, edges = torch.tensor([[6.04], [7.0], [8.0]]), torch.tensor([[0, 1, 2], [1, 0, 2]])
    drawn = in_a_circle(one_graph(nodes, edges))
    assert drawn.points[0] == (0.5, 0.0) and drawn.points[1][1] == pytest.approx(0.75) == drawn.points[2][1]
    assert (drawn.edges, drawn.labels) == ([(0, 1), (2, 2)], [(6.0,), (7.0,), (8.0,)])
    assert drawn.caption == "3 nodes, 2 edges"
