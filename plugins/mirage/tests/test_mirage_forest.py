"""The distilled format: round trips, bytes, roots."""

import pytest
import torch
from ddcore_graphs.packing import elements, file_bytes
from ddcore_mirage.forest import Pattern, as_graphs, pack, payload_bytes, unpack

from ddcore import InputError
from ddcore.storage.places import Place, save_tensors

LEAF = ((6, 1), ())
OXYGEN = ((8, 0), ())
CHAIN = ((6, 2), (((0, 1), ((6, 2), (((0, 1), LEAF),))), ((1, 0), OXYGEN)))
PATTERNS = (Pattern(0, 9, (LEAF,)), Pattern(0, 7, (LEAF, CHAIN)), Pattern(1, 300, (CHAIN, ((6, 2), (((0, 1), LEAF),)))))


def packed(patterns=PATTERNS, degrees=False):
    return pack(patterns, edge_features=2, degrees=degrees)


def test_tensors_to_patterns_and_back():
    assert unpack(packed()) == PATTERNS
    again = pack(unpack(packed()), edge_features=2, degrees=False)
    assert all(torch.equal(again[name], tensor) for name, tensor in packed().items())


def test_equal_subtrees_are_stored_once_and_read_as_one_object():
    assert len(packed()["child_count"]) == 4  # leaf, oxygen, leaf under a carbon, the chain
    first, second = unpack(packed())[1].trees
    assert second[1][0][1][1][0][1] is first


def test_bytes_by_hand():
    # rows: 3 node labels of 2, 2 edge labels of 2; subtrees 4 labels and 4 counts; 3 children, 3 edges of them;
    # 3 classes, 3 supports (300: two bytes each), 3 sizes, 5 trees of sets, 1 flag; all others a byte each
    assert payload_bytes(packed()) == 6 + 4 + 8 + 6 + (3 + 6 + 3 + 5) + 1


def test_one_root_a_tree_without_parent_and_edges_are_nodes_less_trees():
    graphs = as_graphs(PATTERNS, edge_features=2, degrees=False)
    for at, trees in enumerate((1, 1, 2)):  # the single node of the second pattern is dropped
        one = graphs.select(torch.tensor([at]))
        assert int(one.roots.sum()) == trees
        assert one.edges.shape[1] == len(one.nodes) - trees
        out_degree = torch.bincount(one.edges[0], minlength=len(one.nodes))
        assert torch.equal(out_degree, 1 - one.roots.long())


def test_edges_lead_from_child_to_parent_with_their_bond():
    graph = as_graphs(PATTERNS[1:2], edge_features=2, degrees=False)
    assert graph.nodes.tolist() == [[6, 2], [6, 2], [6, 1], [8, 0]]
    assert graph.edges.tolist() == [[1, 2, 3], [0, 1, 0]]
    assert graph.bonds.tolist() == [[0, 1], [0, 1], [1, 0]]


def test_degrees_are_the_last_number_of_a_row():
    graph = as_graphs(PATTERNS[1:2], edge_features=2, degrees=True)
    assert graph.nodes.tolist() == [[6], [6], [6], [8]]
    assert graph.degrees.tolist() == [2, 2, 1, 0]


def test_the_authors_count_of_numbers():
    graphs = as_graphs(PATTERNS[1:2], edge_features=2, degrees=False)
    assert elements(graphs) == 4 * 2 + 3 * 2


def test_a_set_of_single_nodes_keeps_one_and_has_its_edge_features():
    graphs = as_graphs(PATTERNS[:1], edge_features=2, degrees=False)
    assert (len(graphs.nodes), graphs.bonds.shape) == (1, (0, 2))


def test_no_patterns_make_empty_tensors():
    assert unpack(packed(())) == ()


@pytest.mark.parametrize("name", ["child", "set_tree", "child_count", "subtree_label"])
def test_tensors_that_are_no_trees_are_refused(name):
    wrong = packed() | {name: packed()[name] + 7}
    with pytest.raises(InputError, match="no set of trees"):
        unpack(wrong)


def test_trees_too_large_to_write_out_are_refused():
    tree = LEAF
    for _ in range(8):
        tree = ((6, 1), (((0, 0), tree),) * 8)
    with pytest.raises(InputError, match="lower --mirage.hops"):
        as_graphs([Pattern(0, 1, (tree,))], edge_features=2, degrees=False)


def test_bytes_of_a_file_are_those_on_storage(tmp_path):
    tensors = packed()
    assert file_bytes(tensors) == save_tensors(Place.at(tmp_path / "x.safetensors"), tensors)


def test_trees_too_deep_to_compare_or_pointing_backwards_are_refused():
    count = 200
    deep = {
        "node_rows": torch.tensor([[6]]),
        "edge_rows": torch.tensor([[1]]),
        "subtree_label": torch.zeros(count, dtype=torch.int64),
        "child_count": torch.tensor([0] + [1] * (count - 1)),
        "child": torch.arange(count - 1),
        "child_edge": torch.zeros(count - 1, dtype=torch.int64),
        "set_class": torch.tensor([0]),
        "set_support": torch.tensor([1]),
        "set_size": torch.tensor([1]),
        "set_tree": torch.tensor([count - 1]),
        "degrees": torch.tensor(0),
    }
    with pytest.raises(InputError, match="more than 100 hops"):
        unpack(deep)
    with pytest.raises(InputError, match="below 0"):
        unpack({**deep, "set_tree": torch.tensor([-1])})
