"""The computed graphs."""

import torch
from ddcore_graphs.rings import AROUND, hung_on_a_tree, rings


def test_they_are_always_the_same_and_classes_differ_in_one_bond():
    source = rings()
    assert source.fingerprint == rings().fingerprint
    assert (source.counts(), source.counts(source.test)) == ([100, 100], [50, 50])
    graphs, labels = source.train.stored, source.train.labels
    bonds, nodes = graphs.edge_starts.diff() // 2, graphs.node_starts.diff()
    assert torch.equal(bonds, nodes - 1 + labels)


def test_a_ring_by_hand():
    open_, closed = (hung_on_a_tree(c, torch.Generator().manual_seed(3)) for c in (False, True))
    assert torch.equal(open_.nodes, closed.nodes)
    size = len(open_.nodes) - AROUND
    assert closed.nodes[size:, 0].tolist() == [0, 0, 0, 1, 0, 0]
    more = set(map(tuple, closed.edges.T.tolist())) - set(map(tuple, open_.edges.T.tolist()))
    assert more == {(size + AROUND - 1, size), (size, size + AROUND - 1)}
