"""Computation trees: counts by hand, canonical forms, and a plain recursive twin."""

import numpy as np
import pytest
from ddcore_mirage.trees import grow, parse, size, text
from hypothesis import given, settings
from hypothesis import strategies as st


def both_ways(pairs):
    return np.array([*pairs, *((b, a) for a, b in pairs)], dtype=np.int64).reshape(-1, 2).T


def plain_bonds(edges):
    return np.zeros(edges.shape[1], dtype=np.int64)


def form_by_recursion(labels, edges, bonds, node, hops):
    """The definition, written out: one child for each neighbour, the parent included."""
    into = [(int(b), int(s)) for s, t, b in zip(*edges, bonds, strict=True) if t == node] if hops else []
    children = sorted(f"{bond} {form_by_recursion(labels, edges, bonds, w, hops - 1)}" for bond, w in into)
    return " ".join([str(labels[node]), *children, "$"])


@st.composite
def random_graphs(draw):
    nodes = draw(st.integers(1, 7))
    labels = draw(st.lists(st.integers(0, 2), min_size=nodes, max_size=nodes))
    possible = [(a, b) for a in range(nodes) for b in range(a)]
    chosen = draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    bonds = draw(st.lists(st.integers(0, 1), min_size=len(chosen), max_size=len(chosen)))
    return np.array(labels), both_ways(chosen), np.array([*bonds, *bonds], dtype=np.int64)


def renumbered(graph, order):
    labels, edges, bonds = graph
    place = np.argsort(order)
    shuffled = np.random.default_rng(0).permutation(len(bonds))
    return labels[order], place[edges][:, shuffled].reshape(2, -1), bonds[shuffled]


def forms(graph, hops):
    table, trees = grow(*graph, hops)
    return [text(table.tree(number)) for number in trees]


def test_a_triangle_node_sees_one_plus_two_plus_four_nodes():
    edges = both_ways([(0, 1), (1, 2), (2, 0)])
    table, trees = grow(np.array([0, 0, 0]), edges, plain_bonds(edges), 2)
    assert trees.tolist() == [0, 0, 0]
    assert size(table.tree(0)) == 1 + 2 + 4


def test_an_isolated_node_is_a_tree_of_one():
    table, trees = grow(np.array([7]), both_ways([]), plain_bonds(both_ways([])), 3)
    assert text(table.tree(int(trees[0]))) == "7 $"
    assert size(table.tree(0)) == 1


def test_paths_0_1_0_and_0_0_1_differ():
    edges = both_ways([(0, 1), (1, 2)])
    one, other = (forms((np.array(labels), edges, plain_bonds(edges)), 2) for labels in ([0, 1, 0], [0, 0, 1]))
    assert sorted(one) != sorted(other)


def test_a_star_of_equal_children_is_itself_in_all_orders():
    leaf = (4, ())
    assert text((1, ((0, leaf), (0, leaf), (0, leaf)))) == "1 0 4 $ 0 4 $ 0 4 $ $"
    children = [(0, (4, ())), (1, (4, ())), (0, (5, ()))]
    orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    assert len({text((1, tuple(children[at] for at in order))) for order in orders}) == 1


def test_labels_1_and_12_are_not_11_and_2():
    assert text((1, ((0, (12, ())),))) != text((11, ((0, (2, ())),)))
    edges = both_ways([(0, 1)])
    assert forms((np.array([1, 12]), edges, plain_bonds(edges)), 1) != forms(
        (np.array([11, 2]), edges, plain_bonds(edges)), 1
    )


def test_edge_labels_are_told_apart():
    edges = both_ways([(0, 1)])
    assert forms((np.array([0, 0]), edges, np.array([0, 0])), 1) != forms(
        (np.array([0, 0]), edges, np.array([1, 1])), 1
    )


@settings(max_examples=60, deadline=None)
@given(random_graphs(), st.integers(0, 3))
def test_trees_are_those_of_the_recursive_definition(graph, hops):
    labels, edges, bonds = graph
    assert forms(graph, hops) == [form_by_recursion(labels, edges, bonds, v, hops) for v in range(len(labels))]


@settings(max_examples=60, deadline=None)
@given(random_graphs(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_forms_do_not_change_when_nodes_are_renumbered(graph, hops, random):
    order = list(range(len(graph[0])))
    random.shuffle(order)
    order = np.array(order)
    table, trees = grow(*graph, hops)
    again, moved = grow(*renumbered(graph, order), hops)
    assert table.levels == again.levels
    assert trees[order].tolist() == moved.tolist()


@settings(max_examples=60, deadline=None)
@given(random_graphs(), st.data())
def test_forms_change_when_any_label_changes(graph, data):
    labels, edges, bonds = graph
    node = data.draw(st.integers(0, len(labels) - 1))
    other = labels.copy()
    other[node] += 7
    assert forms(graph, 2)[node] != forms((other, edges, bonds), 2)[node]
    for neighbour in edges[0][edges[1] == node]:
        assert forms(graph, 1)[neighbour] != forms((other, edges, bonds), 1)[neighbour]


@settings(max_examples=60, deadline=None)
@given(random_graphs(), st.integers(0, 3))
def test_string_to_tree_to_string_is_the_identity(graph, hops):
    for form in forms(graph, hops):
        assert text(parse(form)) == form


@pytest.mark.parametrize(("form", "words"), [("1 0 2 $", "ends inside a tree"), ("1 $ 2", "goes on with '2'")])
def test_what_is_no_form_is_refused(form, words):
    with pytest.raises(ValueError, match=words):
        parse(form)


def test_equal_subtrees_are_one_object():
    edges = both_ways([(0, 1), (0, 2)])
    table, trees = grow(np.array([0, 1, 1]), edges, plain_bonds(edges), 2)
    (_, one), (_, other) = table.tree(int(trees[0]))[1]
    assert one is other


def test_a_hub_costs_its_edges_not_its_tree():
    # a star of 400 leaves: at 5 hops the hub's tree has 1 + 400 + 400 + 400^2 + ... = 1 + 2 (400 + 400^2) + 400^3 nodes
    edges = both_ways([(0, leaf) for leaf in range(1, 401)])
    table, trees = grow(np.zeros(401, dtype=np.int64), edges, plain_bonds(edges), 5)
    assert [len(level) for level in table.levels] == [1, 2, 2, 2, 2, 2]
    assert size(table.tree(int(trees[0]))) == 1 + 400 + 400 + 400**2 + 400**2 + 400**3
