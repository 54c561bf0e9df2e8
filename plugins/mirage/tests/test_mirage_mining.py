"""Frequent sets of trees: brute force, limits, order."""

from itertools import chain, combinations

import numpy as np
import pytest
from ddcore_mirage import mining
from ddcore_mirage.mining import TooManySets, TreeSet, frequent_sets, supports, threshold_count
from hypothesis import given, settings
from hypothesis import strategies as st

SIX = [{0, 1, 2}, {0, 1}, {0, 2, 3}, {1}, {0, 1, 2, 3}, {4}]


def columns(transactions):
    pairs = [(tree, graph) for graph, trees in enumerate(transactions) for tree in trees]
    return tuple(np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))


def subsets(trees):
    trees = sorted(trees)
    return chain.from_iterable(combinations(trees, n) for n in range(1, len(trees) + 1))


def by_brute_force(transactions, threshold):
    counts = {s: sum(set(s) <= t for t in transactions) for s in subsets(set().union(*transactions))}
    return {s: n for s, n in counts.items() if n >= threshold}


def mined(transactions, threshold, most=1000):
    return {s.trees: s.support for s in frequent_sets(*columns(transactions), threshold, most)}


@pytest.mark.parametrize("threshold", range(1, 8))
def test_six_transactions_by_brute_force(threshold):
    assert mined(SIX, threshold) == by_brute_force(SIX, threshold)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sets(st.integers(0, 6), min_size=1), min_size=1, max_size=8), st.integers(1, 5))
def test_any_transactions_by_brute_force(transactions, threshold):
    assert mined(transactions, threshold) == by_brute_force(transactions, threshold)


def test_support_never_rises_when_a_set_grows():
    found = mined(SIX, 1)
    for small, large in combinations(found, 2):
        if set(small) < set(large):
            assert found[small] >= found[large]


def test_a_threshold_above_the_class_leaves_nothing():
    assert frequent_sets(*columns(SIX), len(SIX) + 1, 1000) == ()


def test_a_threshold_of_one_gives_all_subsets():
    assert set(mined(SIX, 1)) == {s for t in SIX for s in subsets(t)}


def test_identical_graphs_have_one_largest_set_their_distinct_trees():
    found = frequent_sets(*columns([{3, 5, 9}] * 4), 4, 1000)
    largest = max(found, key=lambda s: len(s.trees))
    assert largest == TreeSet((3, 5, 9), 4)
    assert sum(len(s.trees) == 3 for s in found) == 1
    assert len(found) == 2**3 - 1


def test_multiplicity_within_a_graph_does_not_count():
    trees, graphs = np.array([0, 0, 0, 1, 0]), np.array([0, 0, 0, 0, 1])
    assert supports(trees, graphs) == {0: 2, 1: 1}
    assert mined([{0, 1}, {0}], 1) == {s.trees: s.support for s in frequent_sets(trees, graphs, 1, 10)}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_graphs_changes_nothing(transactions, random):
    shuffled = random.sample(transactions, len(transactions))
    assert frequent_sets(*columns(transactions), 2, 1000) == frequent_sets(*columns(shuffled), 2, 1000)


def test_sets_come_most_frequent_first():
    found = frequent_sets(*columns(SIX), 2, 1000)
    keys = [(-s.support, len(s.trees), s.trees) for s in found]
    assert keys == sorted(keys)


def test_too_many_sets_stop_early():
    # 40 trees that always occur together have 2^40 - 1 subsets
    with pytest.raises(TooManySets, match="more than 1000 sets of trees occur in 2 graphs or more"):
        frequent_sets(*columns([set(range(40))] * 2), 2, 1000)


def test_too_many_trees_stop_before_their_graphs_are_gathered(monkeypatch):
    monkeypatch.setattr(np, "packbits", lambda bits: pytest.fail("a bit set was made"))
    with pytest.raises(TooManySets, match="more than 50 sets"):
        frequent_sets(*columns([set(range(51))]), 1, 50)


def test_candidates_count_before_they_are_gone_through(monkeypatch):
    # 200 trees that occur together: after the pairs with trees 0 and 1, 200 + 199 + 198 sets are known
    gone_through = []
    monkeypatch.setattr(mining, "TreeSet", lambda trees, support: gone_through.append(trees))
    with pytest.raises(TooManySets):
        frequent_sets(*columns([set(range(200))] * 3), 3, 500)
    assert gone_through == [(0,), (1,)]


def test_as_many_sets_as_allowed_are_no_error():
    assert len(frequent_sets(*columns([{0, 1, 2}]), 1, 7)) == 7
    with pytest.raises(TooManySets):
        frequent_sets(*columns([{0, 1, 2}]), 1, 6)


@pytest.mark.parametrize(
    ("threshold", "graphs", "count"), [(0.1, 25, 3), (0.999, 1000, 999), (1, 9, 1), (4, 9, 4), (0.01, 5, 1)]
)
def test_thresholds_are_counts_or_shares(threshold, graphs, count):
    assert threshold_count(threshold, graphs) == count
