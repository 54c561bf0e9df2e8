"""Convolutions and pools by hand; the AUC."""

import math

import pytest
import torch
from ddcore_graphs.graphs import joined, one_graph
from ddcore_graphs.scores import mean_auc, roc_auc
from ddcore_graphs.students import NETWORKS, Form, Student, gcn_edges
from torch import nn

NODES = 8


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


def student(kind, layers, jump="last"):
    torch.manual_seed(0)
    net = Student(kind, features=3, edge_features=2, classes=2, layers=layers, width=8, form=Form(jump=jump)).double()
    with torch.no_grad():
        for norm in net.norms:  # running statistics that do something
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_the_order_of_nodes_and_edges_changes_nothing(kind, pool):
    graph, order = random_graph(), torch.randperm(NODES, generator=torch.Generator().manual_seed(3))
    net = student(kind, 2)
    net.pool = pool
    place = torch.argsort(order)
    shuffled = torch.randperm(graph.edges.shape[1], generator=torch.Generator().manual_seed(4))
    moved = one_graph(graph.nodes[order], place[graph.edges][:, shuffled], graph.bonds[shuffled])
    with torch.no_grad():
        torch.testing.assert_close(net(graph), net(moved))


@pytest.mark.parametrize("kind", NETWORKS)
def test_graphs_of_a_batch_do_not_touch_each_other(kind):
    one, other, net = random_graph(0), random_graph(1), student(kind, 2)
    with torch.no_grad():
        torch.testing.assert_close(net(joined([one, other, one])), torch.cat([net(one), net(other), net(one)]))


def test_weights_of_gcn_by_hand():
    # path 0 - 1: both have degree 1, so every weight is 1 / sqrt(2 * 2), self loops 1 / 2
    edges, weights = gcn_edges(one_graph(torch.zeros(2, 1), torch.tensor([[0, 1], [1, 0]])))
    assert edges.tolist() == [[0, 1, 0, 1], [1, 0, 0, 1]]
    torch.testing.assert_close(weights, torch.full((4,), 0.5, dtype=torch.float64))


def test_gcn_is_the_librarys_own_where_edges_tell_the_degrees():
    from torch_geometric.nn import GCNConv

    graph, net = random_graph(), student("gcn", 1)
    own = GCNConv(8, 8).double()
    own.load_state_dict(net.layers[0].state_dict())
    with torch.no_grad():
        x = net.encoder(graph.nodes.double())
        torch.testing.assert_close(net.nodes(graph), net.norms[0](own(x, graph.edges)))


def test_gat_attends_to_the_node_itself():
    # an isolated node has itself only, with a weight of 1: its mapped features and the bias
    net = student("gat", 1)
    alone = one_graph(
        torch.tensor([[1, 2, 3]]), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64)
    )
    layer = net.layers[0]
    with torch.no_grad():
        own = layer.lin(net.encoder(alone.nodes.double())) + layer.bias
        torch.testing.assert_close(net.nodes(alone), net.norms[0](own))


def test_graphsage_adds_the_mean_of_the_neighbours_to_the_node_and_sees_no_bonds():
    # 1 and 2 send to 0: W (x_1 + x_2) / 2 + b + R x_0, whatever the bonds
    net = student("sage", 1)
    nodes, edges = torch.tensor([[1, 2, 3], [4, 5, 6], [0, 1, 0]]), torch.tensor([[1, 2], [0, 0]])
    layer = net.layers[0]
    with torch.no_grad():
        x = net.encoder(nodes.double())
        own = layer.lin_l((x[1] + x[2]) / 2) + layer.lin_r(x[0])
        for bonds in (torch.zeros(2, 2), torch.ones(2, 2)):
            torch.testing.assert_close(net.nodes(one_graph(nodes, edges, bonds))[:1], net.norms[0](own[None]))


@pytest.mark.parametrize(("pool", "factor"), [("sum", 2.0), ("mean", 1.0)])
def test_pools_by_hand(pool, factor):
    # two equal nodes without edges: the sum is twice one node's embedding, the mean is it
    net = student("gin", 1)
    net.pool = pool
    empty, bonds = torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64)
    pair = one_graph(torch.tensor([[1, 2, 3], [1, 2, 3]]), empty, bonds)
    with torch.no_grad():
        torch.testing.assert_close(net.embed(pair)[0], factor * net.nodes(pair)[0])


@pytest.mark.parametrize("kind", NETWORKS)
def test_edges_without_features_and_a_single_node_are_fine_in_training(kind):
    net = Student(kind, features=1, edge_features=0, classes=3, layers=2, width=4)
    logits = net(one_graph(torch.tensor([[1]]), torch.zeros(2, 0, dtype=torch.int64)))
    assert logits.shape == (1, 3)
    assert torch.isfinite(logits).all()


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="no network is named 'mlp'"):
        Student("mlp", features=1, edge_features=0, classes=2)


def test_auc_by_hand():
    # pairs (positive, negative): 3 > 1, 3 > 2, 1 = 1, 1 < 2: (1 + 1 + 0.5 + 0) / 4
    scores, positive = torch.tensor([3.0, 1.0, 1.0, 2.0]), torch.tensor([True, True, False, False])
    assert roc_auc(scores, positive) == 2.5 / 4


def test_auc_counts_pairs():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(6, (40,), generator=generator).double()
    positive = torch.rand(40, generator=generator) < 0.4
    pairs = scores[positive][:, None] - scores[~positive]
    assert roc_auc(scores, positive) == pytest.approx(
        float(((pairs > 0) + 0.5 * (pairs == 0)).mean(dtype=torch.float64))
    )


def test_auc_of_one_class_is_no_number():
    assert math.isnan(roc_auc(torch.tensor([1.0, 2.0]), torch.tensor([True, True])))


def test_auc_of_several_classes_is_the_mean_of_each_against_the_rest():
    logits = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 2.0, 0], [0, 0, 2.0]])
    classes = torch.tensor([0, 1, 2, 2])
    each = [roc_auc(logits.log_softmax(1)[:, k], classes == k) for k in range(3)]
    assert mean_auc(logits, classes) == pytest.approx(sum(each) / 3)
    assert each == [1.0, pytest.approx(5 / 6), pytest.approx(0.75)]


def formed(kind, form, layers=3):
    torch.manual_seed(0)
    return Student(kind, features=3, edge_features=2, classes=2, layers=layers, width=4, form=form).double().eval()


def lines(linear, rows):
    return rows @ linear.weight.T + (0 if linear.bias is None else linear.bias)


def slow_gin(layer, x, graph, bonds):
    """One node after the other: what it says, what it hears."""
    made = []
    for node in range(len(x)):
        heard = torch.zeros(4, dtype=torch.float64)
        for edge in (graph.edges[1] == node).nonzero()[:, 0].tolist():
            sender = x[graph.edges[0, edge]]
            heard += lines(layer.message, torch.cat([sender, lines(layer.bond, bonds[edge])])).clamp(min=0)
        own = (1 + layer.eps) * lines(layer.own, x[node]) + heard
        first, last = layer.inner[0], layer.inner[-1]
        made.append(lines(last, lines(first, own).clamp(min=0)))
    return torch.stack(made)


def slow_gat(layer, x, graph, bonds):
    """Attention over the neighbours and the node itself, by the softmax of LeakyReLU(a_u + a_v)."""
    mapped = lines(layer.lin, x)
    source, target = mapped @ layer.att_src[0, 0], mapped @ layer.att_dst[0, 0]
    made = []
    for node in range(len(x)):
        heard = [*graph.edges[0, graph.edges[1] == node].tolist(), node]
        logits = torch.stack([nn.functional.leaky_relu(source[u] + target[node], 0.2) for u in heard])
        made.append(logits.softmax(0) @ mapped[heard] + layer.bias)
    return torch.stack(made)


@pytest.mark.parametrize(("kind", "slow"), [("gin", slow_gin), ("gat", slow_gat)])
@pytest.mark.parametrize("jump", ["last", "sum"])
def test_raw_layers_without_norm_and_jumping_knowledge_are_a_slow_twins(kind, slow, jump):
    graph = random_graph()
    net = formed(kind, Form(jump=jump, norm="none", raw=True))
    x, states = graph.nodes.double(), []
    with torch.no_grad():
        for at, layer in enumerate(net.layers):
            x = slow(layer, x, graph, graph.bonds.double())
            x = x if at == 2 else x.clamp(min=0)
            states.append(x)
        embedded = sum(states) if jump == "sum" else states[-1]
        torch.testing.assert_close(net.nodes(graph), embedded, rtol=1e-12, atol=1e-12)
        logits = lines(net.head, embedded.sum(0))
        torch.testing.assert_close(net(graph)[0], logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_norm_is_the_network_with_its_norms_taken_out(kind):
    graph, bare = random_graph(), formed(kind, Form(norm="none"))
    normed = formed(kind, Form())
    found = normed.load_state_dict(bare.state_dict(), strict=False) if kind != "gin" else None
    assert not any(isinstance(part, nn.BatchNorm1d) for part in bare.modules())
    if found is None:
        return
    assert not found.unexpected_keys and all(key.startswith("norms.") for key in found.missing_keys)
    for norm in normed.norms:  # as made, a norm divides by sqrt(1 + eps) and nothing else
        norm.eps = 0.0
    with torch.no_grad():
        torch.testing.assert_close(bare(graph), normed(graph), rtol=1e-12, atol=1e-12)


def test_the_pooled_embedding_of_a_raw_student_is_dropped_out_too():
    torch.manual_seed(0)
    wanted = [
        Student(
            "gcn", features=3, edge_features=2, classes=2, width=4, dropout=0.5, form=Form(raw=raw)
        ).pooled_dropout.p
        for raw in (True, False)
    ]
    assert wanted == [0.5, 0.0]


@pytest.mark.parametrize("kind", NETWORKS)
def test_raw_students_are_fine_without_bonds(kind):
    net = Student(kind, features=1, edge_features=0, classes=2, layers=2, width=4, form=Form(norm="none", raw=True))
    pair = one_graph(torch.tensor([[1], [2]]), torch.tensor([[0, 1], [1, 0]]))
    assert torch.isfinite(net(pair)).all()
