"""Selectors on toy clouds: by hand, against brute force, and the bounds that theory gives."""

import math
from itertools import combinations

import pytest
import torch
from ddcore_coresets import selectors
from ddcore_coresets.selectors import Similarity

from ddcore.images.selection import kcenter, random_choice


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def likeness(count: int, seed: int = 0) -> torch.Tensor:
    directions = torch.nn.functional.normalize(seeded(count, 3, seed=seed), dim=1)
    return 0.5 + 0.5 * directions @ directions.T


# ---- what every selector gives ---------------------------------------------------------------------------------------

EVERY = {
    "top": lambda n, m: selectors.top(seeded(n), m, drawn()),
    "bottom": lambda n, m: selectors.bottom(seeded(n), m),
    "middle": lambda n, m: selectors.middle(seeded(n), m),
    "coverage": lambda n, m: selectors.coverage(seeded(n), m, cut=0.3, strata=5, generator=drawn()),
    "herding": lambda n, m: selectors.herding(seeded(n, 3), m),
    "k_center": lambda n, m: selectors.k_center(seeded(n, 3), m),
    "k_center from a random one": lambda n, m: selectors.k_center(seeded(n, 3), m, first=n - 1),
    "graph_cut": lambda n, m: selectors.graph_cut(Similarity.of_matrix(likeness(n)), m),
    "facility_location": lambda n, m: selectors.facility_location(Similarity.of_matrix(likeness(n)), m),
    "naive facility_location": lambda n, m: selectors.facility_location(
        Similarity.of_matrix(likeness(n)), m, lazy=False
    ),
    "log_determinant": lambda n, m: selectors.log_determinant(Similarity.of_matrix(likeness(n)), m),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("size", "count"), [(1, 1), (7, 0), (7, 1), (7, 3), (7, 7)])
def test_the_selected_count_is_exact_and_the_picks_are_distinct_positions(name, size, count):
    found = EVERY[name](size, count)
    assert found.shape == (count,) and found.dtype == torch.int64
    assert len(set(found.tolist())) == count
    assert all(0 <= i < size for i in found.tolist())


@pytest.mark.parametrize("name", EVERY)
def test_more_than_there_are_is_refused(name):
    with pytest.raises(ValueError, match="8 .*asked of 7"):
        EVERY[name](7, 8)


@pytest.mark.parametrize("name", [n for n in EVERY if n not in ("middle", "coverage")])
def test_a_smaller_selection_is_the_beginning_of_a_larger_one(name):
    assert torch.equal(EVERY[name](12, 4), EVERY[name](12, 9)[:4])


# ---- by score --------------------------------------------------------------------------------------------------------


def test_equal_scores_are_shuffled_by_the_generator_and_unequal_ones_are_not():
    scores = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0, 0.0])
    found = [selectors.bottom(scores, 6, drawn(seed)).tolist() for seed in range(5)]
    assert all(sorted(order[:4]) == [0, 2, 4, 5] and order[4:] == [1, 3] for order in found)
    assert len({tuple(order) for order in found}) > 1
    assert selectors.top(scores, 2, drawn()).tolist() == [3, 1]


@pytest.mark.parametrize(("size", "share"), [(10, 0.2), (10, 0.4), (12, 0.5), (100, 0.1), (101, 1.0)])
def test_the_middle_window_keeps_the_ranks_that_the_authors_keep(size, share):
    # theirs: round(n (1/2 - f/2)) to round(n (1/2 + f/2)) of the ascending distances
    distance = seeded(size)
    order = distance.argsort()
    due = order[round(size * (0.5 - share / 2)) : round(size * (0.5 + share / 2))]
    assert torch.equal(selectors.middle(distance, round(share * size)), due)


# ---- CCS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16])
def test_the_highest_scores_are_the_highest_of_any_type(dtype):
    assert selectors.top(torch.tensor([0, 3, 1, 3], dtype=dtype), 3).tolist() == [1, 3, 2]
    assert selectors.top(torch.tensor([False, True]), 1).tolist() == [1]


def test_ccs_without_cut_and_with_one_stratum_is_random():
    found = selectors.coverage(seeded(30), 11, cut=0.0, strata=1, generator=drawn(3))
    assert torch.equal(found, random_choice(30, 11, drawn(3)))


def test_ccs_with_equal_strata_has_equal_budgets():
    assert selectors.allocate(torch.tensor([6, 6, 6, 6]), 12) == [3, 3, 3, 3]
    scores = torch.arange(40.0).double()
    found = selectors.coverage(scores, 8, cut=0.0, strata=4, generator=drawn())
    assert torch.equal(found.div(10, rounding_mode="floor").bincount(), torch.tensor([2, 2, 2, 2]))


def test_ccs_budgets_sum_to_the_target_when_there_are_enough_samples_and_never_exceed_a_stratum():
    generator = drawn(1)
    for _ in range(200):
        populations = torch.randint(0, 9, (7,), generator=generator)
        count = int(torch.randint(0, int(populations.sum()) + 1, (1,), generator=generator))
        budgets = selectors.allocate(populations, count)
        assert sum(budgets) == count
        assert all(b <= p for b, p in zip(budgets, populations.tolist(), strict=True))


def test_ccs_drops_the_hardest_beta_n_samples_first():
    scores = torch.arange(20.0)
    found = selectors.coverage(scores, 14, cut=0.3, strata=3, generator=drawn())
    assert sorted(found.tolist()) == list(range(6, 20))
    more = selectors.coverage(scores, 18, cut=0.3, strata=3, generator=drawn())
    assert sorted(more.tolist()) == list(range(2, 20))


def test_ccs_strata_are_of_equal_width_not_of_equal_population():
    scores = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 10.0])
    assert selectors.levels_of(scores, 2).tolist() == [0, 0, 0, 0, 0, 1]
    assert 5 in selectors.coverage(scores, 2, cut=0.0, strata=2, generator=drawn()).tolist()


@pytest.mark.parametrize("shift", [0.0, -100.0, 100.0])
def test_ccs_loses_no_sample_whatever_the_sign_of_the_highest_score(shift):
    levels = selectors.levels_of(seeded(40) + shift, 5)
    assert levels.min() == 0 and levels.max() == 4
    assert len(selectors.coverage(seeded(40) + shift, 40, cut=0.0, strata=5, generator=drawn())) == 40


def test_ccs_levels_exist_for_negative_scores_that_lie_close_together():
    # 1.0001 times the highest score is below the lowest here
    scores = 1e-3 * seeded(40) - 100
    levels = selectors.levels_of(scores, 5)
    assert levels.min() == 0 and 0 < levels.max() < 5
    assert torch.equal(levels[scores.argsort()], levels.sort().values)


def test_ccs_levels_are_the_authors_for_positive_scores():
    scores = seeded(500).abs()
    low, high = scores.min(), scores.max() * 1.0001
    step = (high - low) / 50
    found = selectors.levels_of(scores, 50)
    for k in range(50):
        inside = (scores >= low + k * step) & (scores < low + (k + 1) * step)
        assert torch.equal(inside, found == k)


def test_ccs_of_equal_scores_is_random():
    found = selectors.coverage(torch.ones(9), 4, cut=0.0, strata=50, generator=drawn(2))
    assert torch.equal(found, random_choice(9, 4, drawn(2)))


# ---- herding ---------------------------------------------------------------------------------------------------------


def test_herding_by_hand():
    # 0, 1, 5, 6: the mean is 3, both 1 and 5 are 2 away; after 1 the sum is due to be 6, so 5
    assert selectors.herding(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), 2).tolist() == [1, 2]
    # after 1 and 5 the sum is due to be 9, so 3 is wanted: 0 and 6 are as far, 0 stands first; then 12 wants 6
    assert selectors.herding(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), 4).tolist() == [1, 2, 0, 3]


def test_herding_picks_the_nearest_to_the_mean_first_and_not_the_farthest():
    cloud = seeded(40, 5)
    distances = (cloud - cloud.mean(0)).norm(dim=1)
    first = int(selectors.herding(cloud, 1))
    assert first == int(distances.argmin()) != int(distances.argmax())
    assert first == int(kcenter(cloud, 1))


def test_herding_all_samples_is_a_permutation_whose_mean_is_the_mean():
    cloud = seeded(25, 4)
    order = selectors.herding(cloud, 25)
    assert sorted(order.tolist()) == list(range(25))
    torch.testing.assert_close(cloud[order].mean(0), cloud.mean(0))


def test_herding_error_of_the_running_mean_decays_like_one_over_t():
    cloud = seeded(2000, 3)
    order = selectors.herding(cloud, 200)
    steps = torch.arange(1, 201).double()
    error = (cloud[order].cumsum(0) / steps[:, None] - cloud.mean(0)).norm(dim=1)
    assert (error * steps).max() < 2 * cloud.norm(dim=1).median()
    random = (cloud[:200].mean(0) - cloud.mean(0)).norm()
    assert error[-1] < random / 10


def test_herding_equals_the_definition_as_a_loop():
    cloud = seeded(12, 3)
    chosen: list[int] = []
    for t in range(8):
        rest = [i for i in range(12) if i not in chosen]
        wanted = (t + 1) * cloud.mean(0) - cloud[chosen].sum(0)
        chosen.append(min(rest, key=lambda i: float((wanted - cloud[i]).norm())))
    assert selectors.herding(cloud, 8).tolist() == chosen


# ---- k-center --------------------------------------------------------------------------------------------------------


def radius(cloud: torch.Tensor, chosen: list[int]) -> float:
    return float(torch.cdist(cloud, cloud[chosen]).min(1).values.max())


@pytest.mark.parametrize("first", [None, 0, 4])
@pytest.mark.parametrize("seed", range(5))
def test_k_center_radius_is_at_most_twice_the_optimum(first, seed):
    cloud = seeded(10, 2, seed=seed)
    best = min(radius(cloud, list(three)) for three in combinations(range(10), 3))
    assert best <= radius(cloud, selectors.k_center(cloud, 3, first).tolist()) <= 2 * best


def test_k_center_distances_of_new_picks_never_grow():
    cloud = seeded(60, 4)
    order = selectors.k_center(cloud, 60, first=7)
    assert order[0] == 7
    gaps = [float(torch.cdist(cloud[order[t : t + 1]], cloud[order[:t]]).min()) for t in range(1, 60)]
    assert all(later <= earlier for earlier, later in zip(gaps, gaps[1:], strict=False))


def test_k_center_never_picks_a_duplicate_before_a_distinct_point():
    points = seeded(5, 3)
    cloud = points.repeat(3, 1)
    found = selectors.k_center(cloud, 5, first=6)
    assert sorted((found % 5).tolist()) == [0, 1, 2, 3, 4]
    assert sorted(selectors.k_center(cloud, 15, first=6).tolist()) == list(range(15))


def test_large_features_in_half_precision_are_told_apart():
    features = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)).half() * 60
    assert selectors.herding(features, 5).tolist() == selectors.herding(features.double(), 5).tolist()
    for first in (None, 3):
        assert (
            selectors.k_center(features, 5, first).tolist() == selectors.k_center(features.double(), 5, first).tolist()
        )


@pytest.mark.parametrize("first", [-1, 3])
def test_k_center_refuses_a_first_pick_that_is_not_there(first):
    with pytest.raises(ValueError, match="give a position from 0 on"):
        selectors.k_center(torch.eye(3), 2, first)


def test_k_center_from_the_mean_is_the_core_s():
    cloud = seeded(20, 3)
    assert torch.equal(selectors.k_center(cloud, 6), kcenter(cloud, 6))
    assert torch.equal(selectors.k_center(cloud, 6, first=int(kcenter(cloud, 1))), kcenter(cloud, 6))


# ---- similarities ----------------------------------------------------------------------------------------------------


def facility_value(matrix: torch.Tensor, chosen: list[int]) -> float:
    return float(matrix[:, chosen].max(1).values.sum()) if chosen else 0.0


def cut_value(matrix: torch.Tensor, chosen: list[int], weight: float) -> float:
    among = matrix[chosen][:, chosen]
    return float(weight * matrix[chosen].sum() - (among.sum() - among.diagonal().sum()))


def is_greedy(found: torch.Tensor, size: int, value) -> bool:
    """Whether no other sample would have been worth more than any pick at its turn; of equal ones, which there are, each will do."""
    picks = found.tolist()
    for turn in range(len(picks)):
        worth = {i: value([*picks[:turn], i]) for i in range(size) if i not in picks[:turn]}
        if worth[picks[turn]] < max(worth.values()) - 1e-9:
            return False
    return len(set(picks)) == len(picks)


def test_facility_location_gains_equal_differences_of_the_value_by_brute_force():
    matrix = likeness(9)
    for chosen in ([], [4], [4, 0, 7]):
        best = matrix[:, chosen].max(1).values if chosen else torch.zeros(9, dtype=torch.float64)
        found = selectors.facility_gains(Similarity.of_matrix(matrix), best)
        due = [facility_value(matrix, [*chosen, i]) - facility_value(matrix, chosen) for i in range(9)]
        torch.testing.assert_close(found, torch.tensor(due, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(4))
def test_lazy_and_naive_facility_location_are_greedy_by_brute_force(seed):
    matrix = likeness(40, seed)
    similarity = Similarity.of_matrix(matrix)
    for lazy in (True, False):
        found = selectors.facility_location(similarity, 9, lazy=lazy)
        assert len(found) == 9 and is_greedy(found, 40, lambda chosen: facility_value(matrix, chosen))


def test_lazy_greedy_computes_fewer_gains():
    matrix, asked = likeness(60), {True: 0, False: 0}
    for lazy in asked:

        def columns(index: torch.Tensor, lazy: bool = lazy) -> torch.Tensor:
            asked[lazy] += len(index)
            return matrix[:, index]

        selectors.facility_location(Similarity(60, columns), 15, lazy=lazy)
    assert asked[True] < asked[False] / 2


@pytest.mark.parametrize("seed", range(4))
def test_facility_location_reaches_1_minus_1_over_e_of_the_optimum(seed):
    matrix = likeness(10, seed)
    best = max(facility_value(matrix, list(three)) for three in combinations(range(10), 3))
    found = facility_value(matrix, selectors.facility_location(Similarity.of_matrix(matrix), 3).tolist())
    assert (1 - 1 / math.e) * best <= found <= best + 1e-12


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_graph_cut_equals_brute_force_greedy(weight):
    matrix = likeness(15)
    found = selectors.graph_cut(Similarity.of_matrix(matrix), 6, weight)
    assert len(found) == 6 and is_greedy(found, 15, lambda chosen: cut_value(matrix, chosen, weight))


def test_log_determinant_equals_brute_force_greedy():
    matrix = likeness(12) + 0.1 * torch.eye(12, dtype=torch.float64)
    found = selectors.log_determinant(Similarity.of_matrix(matrix), 6)
    value = lambda chosen: float(torch.linalg.det(matrix[chosen][:, chosen]))  # noqa: E731
    assert len(found) == 6 and is_greedy(found, 12, value)


def test_log_determinant_picks_a_copy_only_when_nothing_else_is_left():
    similar = torch.eye(3, dtype=torch.float64) * 0.8 + 0.2
    twins = similar.repeat(2, 2)
    found = selectors.log_determinant(Similarity.of_matrix(twins), 6)
    assert sorted((found[:3] % 3).tolist()) == [0, 1, 2]
    assert sorted(found.tolist()) == list(range(6))


@pytest.mark.parametrize("select", [selectors.graph_cut, selectors.facility_location, selectors.log_determinant])
def test_a_matrix_will_do_for_similarities(select):
    points = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = torch.exp(-torch.cdist(points, points))
    assert torch.equal(select(matrix, 4), select(Similarity.of_matrix(matrix), 4))


def test_similarities_in_columns_equal_the_matrix_and_do_not_depend_on_their_number(monkeypatch):
    first, second = (torch.nn.functional.normalize(seeded(11, d, seed=d), dim=1) for d in (3, 5))
    written = torch.einsum("na,nb->nab", first, second).flatten(1)
    similarity = Similarity.of_directions(first, second)
    whole = 0.5 + 0.5 * written @ written.T
    torch.testing.assert_close(similarity.columns(torch.arange(11)), whole)
    for at_once in (2**22, 25):
        monkeypatch.setattr(selectors, "ENTRIES_AT_ONCE", at_once)
        torch.testing.assert_close(similarity.summed(), whole.sum(0))
        torch.testing.assert_close(similarity.diagonal(), torch.ones(11, dtype=torch.float64))
