"""Sets of graphs as tensors, there and back, and what they cost."""

import pytest
import torch
from ddcore_graphs.graphs import Graphs, joined, one_graph
from ddcore_graphs.packing import PLAIN, StoredGraphs, file_bytes, pack_graphs, smallest, unpack_graphs
from ddcore_graphs.rings import rings
from ddcore_graphs.training import within_bytes

from ddcore import InputError


def test_real_graphs_are_packed_by_hand():
    bonds = torch.tensor([[0], [0], [1], [1]])
    graph = one_graph(torch.tensor([[6], [6], [8]]), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), bonds)
    held = {name: t.tolist() for name, t in pack_graphs(joined([graph, graph]), torch.tensor([0, 1])).items()}
    assert (held["node_rows"], held["node"]) == ([[6], [8]], [0, 0, 1, 0, 0, 1])
    assert (held["edge_rows"], held["bond"]) == ([[0], [1]], [0, 1, 0, 1])
    assert (held["end_a"], held["end_b"]) == ([0, 1, 0, 1], [1, 2, 1, 2])
    assert (held["node_count"], held["bond_count"], held["class"]) == ([3, 3], [2, 2], [0, 1])


def test_random_graphs_fit_the_budget_and_one_more_does_not():
    path = one_graph(torch.arange(20)[:, None], torch.stack([torch.arange(19), torch.arange(1, 20)]))
    graphs, classes = joined([path] * 40), torch.arange(40) % 2
    for budget in (1500, 1700, 1900):
        index = within_bytes(graphs, classes, budget, torch.Generator().manual_seed(0))
        cost = [file_bytes(pack_graphs(graphs.select(index[:n]), classes[index[:n]])) for n in range(1, len(index) + 1)]
        assert max(cost) <= budget
        assert budget - cost[-1] < 120
        assert len(index.unique()) == len(index)
        assert abs(int((classes[index] == 0).sum()) - int((classes[index] == 1).sum())) <= 1


def test_random_graphs_are_at_least_one_of_each_class():
    graph = one_graph(torch.tensor([[6]]), torch.zeros(2, 0, dtype=torch.int64))
    classes = torch.tensor([0, 0, 1, 2])
    index = within_bytes(joined([graph] * 4), classes, 0, torch.Generator().manual_seed(0))
    assert classes[index].tolist() == [0, 1, 2]


def test_selected_graphs_are_what_they_were():
    triangle = one_graph(torch.tensor([[0], [1], [2]]), torch.tensor([[0, 1, 2], [1, 2, 0]]))
    single = one_graph(torch.tensor([[9]]), torch.zeros(2, 0, dtype=torch.int64))
    chosen = joined([triangle, single, triangle]).select(torch.tensor([2, 1, 2]))
    assert chosen.nodes[:, 0].tolist() == [0, 1, 2, 9, 0, 1, 2]
    assert chosen.edges.tolist() == [[0, 1, 2, 4, 5, 6], [1, 2, 0, 5, 6, 4]]
    assert chosen.graph_of.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert isinstance(chosen, Graphs)


@pytest.mark.parametrize(("value", "dtype"), [(256, torch.int16), (40000, torch.int32), (2**40, torch.int64)])
def test_whole_numbers_take_the_smallest_type(value, dtype):
    assert smallest(torch.tensor([value])).dtype == dtype
    assert int(smallest(torch.tensor([value]))) == value


def bonded(graphs):
    """Of each graph: its rows of nodes, and its directed bonds as (source, target, row), sorted."""
    found = []
    for at in range(len(graphs)):
        one = graphs.select(torch.tensor([at]))
        ends = zip(one.edges.T.tolist(), one.bonds.tolist(), strict=True)
        found.append((one.nodes.tolist(), sorted((*pair, *row) for pair, row in ends)))
    return found


def a_loop_and_a_pair():
    """A node bonded to itself, a node alone, and two bonded ones."""
    loop = one_graph(torch.tensor([[5]]), torch.tensor([[0], [0]]), torch.tensor([[7]]))
    alone = one_graph(torch.tensor([[6]]), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 1, dtype=torch.int64))
    pair = one_graph(torch.tensor([[5], [6]]), torch.tensor([[0, 1], [1, 0]]), torch.tensor([[8], [8]]))
    return joined([loop, alone, pair])


def test_graphs_to_tensors_and_back():
    train = rings().train
    for graphs, classes in ((train.stored, train.labels), (a_loop_and_a_pair(), torch.tensor([1, 0, 1]))):
        again, own = unpack_graphs(pack_graphs(graphs, classes))
        assert bonded(again) == bonded(graphs) and torch.equal(own, classes)
        assert torch.equal(again.edge_starts, graphs.edge_starts)


def test_features_that_are_no_whole_numbers_keep_their_type():
    graphs = a_loop_and_a_pair()
    graphs = Graphs(graphs.nodes + 0.25, graphs.edges, graphs.bonds, graphs.node_starts, graphs.edge_starts)
    tensors = pack_graphs(graphs, torch.tensor([0, 0, 1]))
    assert tensors["node_rows"].dtype == torch.float32 and tensors["node_rows"].tolist() == [[5.25], [6.25]]
    assert bonded(unpack_graphs(tensors)[0]) == bonded(graphs)


def test_stored_graphs_are_samples_in_any_order():
    tensors = pack_graphs(a_loop_and_a_pair(), torch.tensor([1, 0, 1]))
    operation, index = StoredGraphs(), torch.tensor([2, 0, 2])
    assert operation.count(tensors, {}, None) == 3
    assert bonded(operation.sample(tensors, {}, index, None)) == bonded(a_loop_and_a_pair().select(index))


def packed():
    return pack_graphs(a_loop_and_a_pair(), torch.tensor([1, 0, 1]))


@pytest.mark.parametrize("name", PLAIN)
def test_tensors_that_are_no_graphs_are_refused(name):
    whole = packed()
    tensor = whole.pop(name)
    wrongs = [{}, *({name: wrong} for wrong in (-1 - tensor.long(), tensor.double(), tensor[None], tensor[1:]))]
    if name != "class":  # any number from 0 on may be a class
        wrongs.append({name: tensor + 200})
    for wrong in wrongs:
        with pytest.raises(InputError, match="no set of graphs"):
            unpack_graphs({**whole, **wrong})


@pytest.mark.parametrize("name", ["node_rows", "edge_rows"])
def test_rows_that_are_not_there_are_refused(name):
    for wrong in (packed()[name][:1], packed()[name][:, 0], packed()[name][None]):
        with pytest.raises(InputError, match="no set of graphs"):
            unpack_graphs({**packed(), name: wrong})


def test_what_a_set_costs_does_not_depend_on_both_directions():
    pair = one_graph(torch.tensor([[5], [6]]), torch.tensor([[0, 1], [1, 0]]))
    assert len(pack_graphs(pair, torch.tensor([0]))["bond"]) == 1
    assert file_bytes(pack_graphs(pair, torch.tensor([0]))) < 1000
