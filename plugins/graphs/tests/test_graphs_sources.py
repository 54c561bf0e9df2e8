"""Molecules and graph files as data."""

from pathlib import Path

import pytest
import torch
from ddcore_graphs.molecules import as_graphs, parsed, scaffold, scaffold_split
from ddcore_graphs.sources import read, recognised

from ddcore import InputError
from ddcore.data.checking import examine
from ddcore.data.parts import Wanted
from ddcore.data.repeats import repeats
from ddcore.storage import Place

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"

LINES = """smiles,active
CCO,0
c1ccccc1C,1
c1ccccc1CC,0
not a molecule,1
[Na+].[Cl-],1
C,0
c1ccncc1,1
CCN,1
C1CCCCC1,0
C1CCCCC1O,1
CC(C)C,0
,1
"""


def wanted(path, name="smiles", **options):
    return Wanted(name, str(path), **options)


@pytest.fixture
def molecules(tmp_path):
    (tmp_path / "few.csv").write_text(LINES)
    return tmp_path / "few.csv"


def write_tu(folder, *, node_labels=True, edge_labels=True):
    """Six graphs, three paths of class -1 and three triangles of class 1."""
    folder.mkdir(exist_ok=True, parents=True)
    edges, of, at = [], [], 1
    for graph, pairs in enumerate([[(0, 1), (1, 2)], [(0, 1), (1, 2), (2, 0)]] * 3):
        edges += [(at + a, at + b) for pair in pairs for a, b in (pair, pair[::-1])]
        of += [graph + 1] * 3
        at += 3
    files = {"A": [f"{a}, {b}" for a, b in edges], "graph_indicator": of, "graph_labels": [-1, 1] * 3}
    files |= {"node_labels": [node % 3 for node in range(18)]} if node_labels else {}
    files |= {"edge_labels": [0] * len(edges)} if edge_labels else {}
    for name, lines in files.items():
        (folder / f"TOY_{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_ethanol_by_hand():
    graph = as_graphs([parsed("CCO")])
    assert graph.nodes[:, 0].tolist() == [6, 6, 8]
    assert graph.nodes[:, 2].tolist() == [4, 4, 2]  # degree with hydrogens
    assert graph.nodes[:, 4].tolist() == [3, 2, 1]  # hydrogens
    assert graph.edges.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert graph.bonds[:, 0].tolist() == [0, 0, 0, 0]


def test_kinds_of_bonds_are_told_apart():
    graph = as_graphs([parsed("C=C"), parsed("C#C"), parsed("c1ccccc1")])
    assert graph.bonds[:, 0].unique().tolist() == [1, 2, 3]


def test_a_single_atom_is_a_graph_of_one_node():
    graph = as_graphs([parsed("C"), parsed("CC")])
    assert graph.node_starts.tolist() == [0, 1, 3]
    assert graph.edge_starts.tolist() == [0, 0, 2]


def test_parts_of_a_disconnected_molecule_are_one_graph():
    graph = as_graphs([parsed("[Na+].[Cl-]")])
    assert (len(graph), len(graph.nodes), graph.edges.shape[1]) == (1, 2, 0)


def test_molecules_of_a_scaffold_stay_together():
    names = [scaffold(parsed(smiles)) for smiles in ("c1ccccc1C", "CCO", "c1ccccc1CC", "CC", "c1ccncc1")]
    assert names == ["c1ccccc1", "", "c1ccccc1", "", "c1ccncc1"]
    train, valid, test = scaffold_split(names, (0.4, 0.2))
    assert sorted(train + valid + test) == [0, 1, 2, 3, 4]
    for part in (train, valid, test):
        assert all(names[at] not in {names[other] for other in range(5) if other not in part} for at in part)


def test_unreadable_smiles_and_missing_labels_are_counted_and_left_out(molecules):
    source = read(wanted(molecules, split="0.6"))
    assert len(source.train) + len(source.test) == 10
    assert "2 of 12 lines have no label or SMILES that RDKit cannot read, and are left out" in source.notes
    assert source.classes == ("0", "1")
    assert source.modality == "graphs"


RINGS = [
    "C1CCC1",
    "C1CCCC1",
    "C1CCCCC1",
    "C1CCCCCC1",
    "c1ccccc1",
    "c1ccncc1",
    "c1ccsc1",
    "c1ccoc1",
    "C1CCOC1",
    "C1CCNCC1",
]


def test_the_validation_part_may_be_tested_on(tmp_path):
    molecules = tmp_path / "rings.csv"
    molecules.write_text("smiles,active\n" + "".join(f"{ring},0\nC{ring},1\n" for ring in RINGS))
    test, named, valid = (read(wanted(molecules, split=split)) for split in (None, "train:test", "train:validation"))
    assert test.fingerprint == named.fingerprint != valid.fingerprint
    assert torch.equal(test.train.labels, valid.train.labels)
    assert test.notes[0] == "split by Murcko scaffold: 16 train, 2 validation (kept apart), 2 test"
    assert valid.notes[0] == "split by Murcko scaffold: 16 train, 2 validation, 2 test (kept apart)"
    held = [tuple(source.test.stored.nodes.flatten().tolist()) for source in (test, valid)]
    assert held[0] != held[1]
    with pytest.raises(InputError, match="train:other names no parts of molecules: give train:validation"):
        read(wanted(molecules, split="train:other"))


def test_a_source_says_what_it_holds(molecules):
    source = read(wanted(molecules, split="0.6"))
    summary = source.summary()
    assert (summary["shape"], summary["train"]) == ([9, 3], len(source.train))
    assert summary["fingerprint"] == read(wanted(molecules, split="0.6")).fingerprint
    assert source.fingerprint != read(wanted(molecules, split="0.5")).fingerprint


def test_a_part_without_a_class_is_refused(molecules):
    with pytest.raises(InputError, match="the test part of .* has no graph of class '0'"):
        read(wanted(molecules))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("formula,active\nCCO,1\n", "no column 'smiles'"),
        ("smiles,a,b\nCCO,1,0\n", "say which is the label"),
        ("smiles,a\nxx,1\n", "no line of .* is a molecule"),
        ("smiles,a\nCCO,1\nCCC,1\n", "has no graph of class|one class only"),
        ("", "no column 'smiles' among none"),
    ],
)
def test_files_that_are_no_molecules_are_refused(tmp_path, text, words):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read(wanted(tmp_path / "bad.csv"))


def test_the_label_column_can_be_said(tmp_path):
    text = "smiles,weight,active\n" + "".join(f"{'C' * (i + 1)}O,{i},{i % 2}\n" for i in range(20))
    (tmp_path / "three.csv").write_text(text.replace("CO,", "C1CC1,"))
    with pytest.raises(InputError, match="did you mean 'active'"):
        read(wanted(tmp_path / "three.csv"), "activ")


def test_tu_files_by_hand(tmp_path):
    source = read(wanted(write_tu(tmp_path / "TOY"), "tu", split="0.67"))
    graphs = source.train.stored
    assert (source.classes, len(source.train), len(source.test)) == (("-1", "1"), 4, 2)
    assert graphs.nodes[:3, 0].tolist() == [0, 1, 2]
    assert sorted(graphs.edge_starts.diff().tolist()) == [4, 4, 6, 6]
    labels = torch.where(graphs.edge_starts.diff() == 6, 1, 0)
    assert torch.equal(labels, source.train.labels)


def test_leftovers_are_no_sets_and_two_sets_are_refused(tmp_path):
    folder = write_tu(tmp_path / "TOY")
    (folder / "._TOY_A.txt").write_bytes(b"\0\5\x16\7")
    assert len(read(wanted(folder, "tu")).train) == 4
    (folder / "AAA_A.txt").write_text("1, 2\n")
    with pytest.raises(InputError, match="holds 2 sets, AAA, TOY: give each a folder of its own"):
        read(wanted(folder, "tu"))


def test_the_pack_recognises_what_it_reads(tmp_path):
    folder = write_tu(tmp_path / "TOY")
    for name, text in {"a.csv": "id,SMILES,y\n", "b.csv": "id,text\n", "c.txt": "smiles\n", "d.csv": ""}.items():
        (tmp_path / name).write_text(text)
    found = [recognised(Place.at(tmp_path / name)) for name in ("TOY", "a.csv", "b.csv", "c.txt", "d.csv", ".")]
    assert found == ["tu", "smiles", None, None, None, None] and recognised(Place.at(folder / "TOY_A.txt")) is None


def test_tu_nodes_without_labels_are_labelled_by_degree(tmp_path):
    source = read(wanted(write_tu(tmp_path / "TOY", node_labels=False, edge_labels=False), "tu"))
    triangle = source.train.stored.select((source.train.labels == 1).nonzero()[:1, 0])
    assert triangle.nodes.tolist() == [[2], [2], [2]]
    assert source.size == 0


def test_tu_files_that_do_not_fit_are_refused(tmp_path):
    folder = write_tu(tmp_path / "TOY")
    (folder / "TOY_node_labels.txt").write_text("1\n2\n")
    with pytest.raises(InputError, match="differ in length"):
        read(wanted(folder, "tu"))
    (folder / "TOY_A.txt").write_text("1, 99\n")
    with pytest.raises(InputError, match="does not fit"):
        read(wanted(folder, "tu"))
    (folder / "TOY_A.txt").write_text("1, x\n")
    with pytest.raises(InputError, match="not rows of whole numbers"):
        read(wanted(folder, "tu"))
    (folder / "TOY_A.txt").unlink()
    with pytest.raises(InputError, match="no NAME_A.txt"):
        read(wanted(folder, "tu"))


def test_sets_that_torch_geometric_downloaded_are_found_by_name(tmp_path):
    write_tu(tmp_path / "TOY" / "raw")
    source = read(Wanted("pyg", "TOY", data_root=str(tmp_path)))
    assert len(source.train) == 4
    with pytest.raises(InputError, match="download it once"):
        read(Wanted("pyg", "MUTAG", data_root=str(tmp_path)))


@pytest.mark.parametrize("smiles", ["C" * 5000, "[CH99999999999]", "(" * 300])
def test_smiles_that_are_longer_than_molecules_or_absurd_are_unreadable(smiles):
    assert parsed(smiles) is None


@pytest.mark.parametrize("data", [b"smiles,active\n\xff,1\n", b'smiles,active\n"' + b"C" * 200_000])
def test_tables_that_are_no_csv_are_refused(tmp_path, data):
    (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.csv is no CSV file in UTF-8"):
        read(wanted(tmp_path / "x.csv"))


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("graph_indicator", "6", "2000000000", "does not fit X_graph_labels.txt"),
        ("graph_indicator", "1", "0", "does not fit X_graph_labels.txt"),
        ("graph_labels", "1", "9" * 30, "is not rows of whole numbers"),
        ("A", "1,", "18,", "has an edge from one graph to another"),
        ("A", "1,", "1,1,", "is not rows of whole numbers|does not fit"),
    ],
)
def test_tu_numbers_that_nobody_meant_are_refused(tmp_path, name, old, new, words):
    write_tu(tmp_path / "X")
    file = next((tmp_path / "X").glob(f"*_{name}.txt"))
    file.write_text(file.read_text().replace(old, new, 1 if name == "A" else -1))
    with pytest.raises(InputError, match=words.replace("X_", r"\w+_")):
        read(wanted(tmp_path / "X", "tu"))


def write_multigraph(folder, labels=(0, 1) * 6):
    """Paths of three nodes (class 0) and triangles (class 1); edges come twice in another order, with loops."""
    folder.mkdir(exist_ok=True, parents=True)
    edges, of, at = [], [], 1
    for graph in range(len(labels)):
        pairs = [(0, 1), (1, 2)] + [(2, 0)] * (graph % 2)
        both = [(at + a, at + b) for pair in pairs for a, b in (pair, pair[::-1])]
        edges += [*both, (at, at), *both[::-1], (at + 2, at + 2), (at, at)]
        of += [graph + 1] * 3
        at += 3
    files = {"A": [f"{a}, {b}" for a, b in edges], "graph_indicator": of, "graph_labels": labels}
    for name, lines in files.items():
        (folder / f"TOY_{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder, edges


def everything(source):
    """Nodes and directed edges of train and test together, and the degrees of all nodes."""
    parts = [source.train.stored, source.test.stored]
    degrees = torch.cat([part.in_degrees for part in parts])
    return sum(len(part.nodes) for part in parts), sum(part.edges.shape[1] for part in parts), degrees


@pytest.mark.parametrize("name", ["tu", "pyg"])
def test_loops_and_repeated_edges_are_dropped_as_torch_geometric_does(tmp_path, name):
    import ddcore_graphs.students  # noqa: F401  imports torch_geometric without its warnings
    from torch_geometric.io import read_tu_data

    folder, edges = write_multigraph(tmp_path / "TOY" / "raw")
    data, slices, _ = read_tu_data(str(folder), "TOY")
    theirs = data.edge_index + 3 * torch.repeat_interleave(torch.arange(12), slices["edge_index"].diff())
    source = read(Wanted(name, "TOY" if name == "pyg" else str(folder), data_root=str(tmp_path)))
    nodes, count, degrees = everything(source)
    assert (nodes, count) == (36, theirs.shape[1]) == (36, 6 * 4 + 6 * 6)
    assert sorted(degrees.tolist()) == sorted(torch.bincount(theirs[1]).tolist())
    assert torch.equal(source.train.stored.nodes[:, 0], source.train.stored.in_degrees)
    note = f"36 loops and 60 repetitions among {len(edges)} directed edges were dropped"
    assert any(note in said for said in source.notes)


def test_edges_of_a_simple_graph_stay_in_their_order_and_nothing_is_said(tmp_path):
    source = read(wanted(write_tu(tmp_path / "TOY"), "tu", split="0.67"))
    assert source.train.stored.edges[:, :4].tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert not any("dropped" in note for note in source.notes)


def test_a_repeated_edge_keeps_its_first_label_and_others_are_counted(tmp_path):
    folder, edges = write_multigraph(tmp_path / "TOY")
    (folder / "TOY_edge_labels.txt").write_text("".join(f"{at // 2 % 2}\n" for at in range(len(edges))))
    source = read(wanted(folder, "tu"))
    seen, other = {}, 0
    for at, pair in enumerate(edges):
        other += seen.setdefault(pair, at // 2 % 2) != at // 2 % 2 and pair[0] != pair[1]
    assert other and any(f"{other} of them had another label" in note for note in source.notes)
    graph = source.train.stored.select(torch.tensor([0]))
    assert [seen[a + 1, b + 1] for a, b in graph.edges.T.tolist()] == graph.bonds[:, 0].tolist()


def test_graphs_without_a_label_are_left_out_and_numbers_are_compared_as_numbers(tmp_path):
    labels = ["0", "1.0", "0.0", "1", "nan", "NA", "0", "1", "None", "1", "0", "N/A"]
    folder, _ = write_multigraph(tmp_path / "TOY", labels)
    source = read(wanted(folder, "tu", split="0.5"))
    assert source.classes == ("0", "1") and len(source.train) + len(source.test) == 8
    edges = source.train.stored.edge_starts.diff()
    assert torch.equal(source.train.labels, (edges == 6).long())
    assert any(note.startswith("4 of 12 labels are missing") for note in source.notes)
    (folder / "TOY_graph_labels.txt").write_text("nan\n" * 12)
    with pytest.raises(InputError, match="no graph of .* has a label"):
        read(wanted(folder, "tu"))


def test_molecules_labels_are_compared_as_numbers_and_missing_ones_left_out(tmp_path):
    cells = ["0", "1", "0.0", "1.0", "nan", "NaN", "NA", "N/A", "None", "", " 1", "1e0"]
    lines = [f"{ring}{'C' * (at // len(RINGS))},{cells[at % 12]}\n" for at, ring in enumerate(RINGS * 6)]
    (tmp_path / "m.csv").write_text("smiles,active\n" + "".join(lines))
    source = read(wanted(tmp_path / "m.csv", split="0.7"))
    assert source.classes == ("0", "1") and len(source.train) + len(source.test) == 30
    ones = int(source.train.labels.sum() + source.test.labels.sum())
    assert ones == 20 and any("30 of 60 lines have no label" in note for note in source.notes)
    (tmp_path / "m.csv").write_text("smiles,active\n" + "".join(f"{ring},{at / 4}\n" for at, ring in enumerate(RINGS)))
    with pytest.raises(InputError, match="are floats, not integers, with 0.25"):
        read(wanted(tmp_path / "m.csv"))


cases = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this repository")


@cases
@pytest.mark.parametrize("name", ["repeated", "loops"])
def test_the_case_of_repeated_edges(name):
    source = read(wanted(CASES / "graphs-repeated-edges" / name, "tu"))
    _, edges, degrees = everything(source)
    assert edges == 160 and degrees.unique().tolist() == [1, 2]


@cases
def test_the_case_of_missing_labels():
    source = read(wanted(CASES / "molecules-missing-labels" / "molecules.csv", split="0.7"))
    ones = int(source.train.labels.sum() + source.test.labels.sum())
    assert source.classes == ("0", "1") and (len(source.train) + len(source.test), ones) == (90, 43)
    assert any("30 of 120 lines" in note for note in source.notes)


def test_equal_graphs_are_found_and_checked(tmp_path):
    source = read(wanted(write_multigraph(tmp_path / "TOY")[0], "tu", split="0.5"))
    got = repeats(source)
    of_class = [
        tuple((source.train.labels == cls).nonzero()[:, 0].tolist()) for cls in source.train.labels[:2].tolist()
    ]
    assert sorted(got.groups) == sorted(of_class) and len(got.across) == 6 and not got.conflicts
    lines = [finding.line for finding in examine(source)]
    assert any("6 of 6 test graphs (100.0%) are train graphs too" in line for line in lines)


def test_named_parts_of_tu_files_are_tenths_and_a_share_leaves_the_rest_to_the_test(tmp_path):
    folder = tmp_path / "TOY"
    folder.mkdir()
    count = 40
    ends = [(2 * k + 1, 2 * k + 2) for k in range(count)]
    files = {
        "A": [f"{a}, {b}" for pair in ends for a, b in (pair, pair[::-1])],
        "graph_indicator": [k + 1 for k in range(count) for _ in range(2)],
        "graph_labels": [k % 2 for k in range(count)],
        "node_labels": list(range(2 * count)),
    }
    for name, lines in files.items():
        (folder / f"TOY_{name}.txt").write_text("".join(f"{line}\n" for line in lines))

    def parts(split):
        source = read(Wanted("tu", str(folder), None, split))
        held = (source.train, source.test, source.validation)
        return [None if part is None else {*part.stored.nodes.flatten().tolist()} for part in held]

    plain, test, valid = parts(None), parts("train:test"), parts("train:validation")
    assert [len(part) for part in test] == [64, 8, 8] and plain[2] is None
    assert plain[0] == test[0] == valid[0] and plain[1] == test[1] | test[2]
    assert valid[1] == test[2] and valid[2] is None and not test[1] & test[2]
    with pytest.raises(InputError, match="train:other names no parts of graphs"):
        parts("train:other")
