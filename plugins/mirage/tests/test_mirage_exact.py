"""When the root of a computation tree has the embedding of the node it was grown from."""

import pytest
import torch
from ddcore_graphs.graphs import Graphs, one_graph
from ddcore_graphs.students import NETWORKS, Form, Student
from ddcore_mirage.forest import Pattern, as_graphs
from ddcore_mirage.trees import Tree

NODES, EQUAL, APART = 8, 1e-10, 1e-3


def random_graph(seed=0):
    """Eight nodes, connected, every edge both ways, random features."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [(node, int(torch.randint(node, (), generator=generator))) for node in range(1, NODES)]
    pairs += [(0, 4), (2, 7), (3, 6)]
    pairs = sorted({(max(p), min(p)) for p in pairs})
    ends = torch.tensor(pairs).T
    bonds = torch.randint(3, (len(pairs), 2), generator=generator)
    nodes = torch.randint(4, (NODES, 3), generator=generator)
    return one_graph(nodes, torch.cat([ends, ends.flip(0)], 1), torch.cat([bonds, bonds]))


def tree_at(graph: Graphs, node: int, hops: int, row) -> Tree:
    """The definition of a computation tree, written out; ``row`` gives a node's label."""
    if hops == 0:
        return row(node), ()
    into = (graph.edges[1] == node).nonzero()[:, 0].tolist()
    below = [(tuple(graph.bonds[e].tolist()), tree_at(graph, int(graph.edges[0, e]), hops - 1, row)) for e in into]
    return row(node), tuple(sorted(below))


def trees_of(graph: Graphs, hops: int, degrees: bool) -> Graphs:
    def row(node):
        return (*graph.nodes[node].tolist(), *([int(graph.in_degrees[node])] if degrees else []))

    patterns = [Pattern(0, 1, (tree_at(graph, node, hops, row),)) for node in range(NODES)]
    return as_graphs(patterns, edge_features=2, degrees=degrees)


def undirected(trees: Graphs) -> Graphs:
    edges = torch.cat([trees.edges, trees.edges.flip(0)], 1)
    bonds = torch.cat([trees.bonds, trees.bonds])
    return Graphs(trees.nodes, edges, bonds, trees.node_starts, trees.edge_starts, trees.roots, trees.degrees)


def student(kind, layers, jump="last"):
    torch.manual_seed(0)
    net = Student(kind, features=3, edge_features=2, classes=2, layers=layers, width=8, form=Form(jump=jump)).double()
    with torch.no_grad():
        for norm in net.norms:  # running statistics that do something
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
    return net.eval()


def apart(net, graph, trees):
    """Largest difference between embeddings of nodes and of the roots of their trees."""
    with torch.no_grad():
        return float((net.nodes(graph) - net.nodes(trees)[trees.roots]).abs().max())


CASES = [(layers, hops) for layers in (1, 2, 3) for hops in (layers - 1, layers, layers + 1)]


@pytest.mark.parametrize(("layers", "hops"), CASES)
@pytest.mark.parametrize("kind", ["gin", "gat", "sage"])
def test_gin_gat_and_graphsage_are_exact_if_and_only_if_hops_reach_layers(kind, layers, hops):
    graph = random_graph()
    difference = apart(student(kind, layers), graph, trees_of(graph, hops, degrees=False))
    assert difference < EQUAL if hops >= layers else difference > APART


@pytest.mark.parametrize(("layers", "hops"), CASES)
def test_gcn_with_true_degrees_is_exact_if_and_only_if_hops_reach_layers(layers, hops):
    graph = random_graph()
    difference = apart(student("gcn", layers), graph, trees_of(graph, hops, degrees=True))
    assert difference < EQUAL if hops >= layers else difference > APART


@pytest.mark.parametrize(("layers", "hops"), CASES)
def test_gcn_with_in_degrees_is_exact_only_one_hop_beyond_layers(layers, hops):
    graph = random_graph()
    difference = apart(student("gcn", layers), graph, trees_of(graph, hops, degrees=False))
    assert difference < EQUAL if hops >= layers + 1 else difference > APART


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_undirected_tree_edges_are_exact_for_one_layer_only(kind, layers):
    graph = random_graph()
    difference = apart(student(kind, layers), graph, undirected(trees_of(graph, layers, degrees=True)))
    assert difference < EQUAL if layers == 1 else difference > APART


@pytest.mark.parametrize("kind", NETWORKS)
def test_jumping_knowledge_stays_exact(kind):
    graph = random_graph()
    assert apart(student(kind, 3, jump="sum"), graph, trees_of(graph, 3, degrees=True)) < EQUAL


@pytest.mark.parametrize("kind", NETWORKS)
def test_dropout_and_batch_norm_in_training_are_not_exact(kind):
    graph = random_graph()
    assert apart(student(kind, 2).train(), graph, trees_of(graph, 2, degrees=True)) > APART


def test_float32_is_exact_to_its_rounding():
    graph = random_graph()
    assert apart(student("gin", 3).float(), graph, trees_of(graph, 3, degrees=False)) < 1e-5


def test_only_roots_are_pooled():
    graph, net = random_graph(), student("gin", 2)
    trees = trees_of(graph, 2, degrees=False)
    with torch.no_grad():
        torch.testing.assert_close(net.embed(trees), net.nodes(graph))


@pytest.mark.parametrize("kind", NETWORKS)
def test_raw_layers_without_norm_stay_exact(kind):
    graph = random_graph()
    torch.manual_seed(0)
    form = Form(jump="sum", norm="none", raw=True)
    net = Student(kind, features=3, edge_features=2, classes=2, layers=3, width=8, form=form).double().eval()
    assert apart(net, graph, trees_of(graph, 3, degrees=True)) < EQUAL
    assert apart(net, graph, trees_of(graph, 2, degrees=True)) > APART / 10
