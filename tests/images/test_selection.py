"""k-center against its definition in plain loops, and the checks of the coreset literature."""

from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from ddcore.images.selection import kcenter, random_choice


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(count: int, dimensions: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, dimensions, generator=seeded(seed), dtype=torch.float64)


def distance(a: list[float], b: list[float]) -> float:
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5


def by_definition(rows: list[list[float]], count: int) -> list[int]:
    """Nearest to the mean first, then the row farthest from its nearest chosen one; ties to the lowest index."""
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    chosen = [min(range(len(rows)), key=lambda i: distance(rows[i], mean))]
    while len(chosen) < count:
        left = [i for i in range(len(rows)) if i not in chosen]
        chosen.append(max(left, key=lambda i: min(distance(rows[i], rows[j]) for j in chosen)))
    return chosen


def radius(rows: Tensor, chosen: Tensor) -> float:
    return float(torch.cdist(rows, rows[chosen]).min(1).values.max())


def test_a_line_by_hand():
    # mean 3.25: nearest is 2; farthest from 2 is 10 (8 away); of 0 and 1, 0 is 2 away from 2 and 1 is 1 away
    assert kcenter(torch.tensor([[0.0], [1], [2], [10]]), 4).tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_against_the_definition_in_loops(seed):
    rows = cloud(25, seed=seed)
    assert kcenter(rows, 12).tolist() == by_definition(rows.tolist(), 12)


def test_ties_go_to_the_lowest_index():
    # mean 0, all four equally near; then its opposite alone is farthest; then the first of the two left
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert kcenter(square, 4).tolist() == [0, 2, 1, 3]


def test_one_center_is_the_row_nearest_to_the_mean():
    rows = cloud(30)
    assert kcenter(rows, 1).tolist() == [int((rows - rows.mean(0)).norm(dim=1).argmin())]


def test_all_rows_are_chosen_once_each():
    assert sorted(kcenter(cloud(20), 20).tolist()) == list(range(20))


def test_duplicates_come_after_everything_that_is_distinct_and_never_twice():
    distinct = cloud(4)
    rows = torch.cat([distinct, distinct, distinct])
    chosen = kcenter(rows, 12).tolist()
    assert len({i % 4 for i in chosen[:4]}) == 4
    assert sorted(chosen) == list(range(12))


def test_the_radius_never_grows_and_is_within_twice_the_best():
    rows = cloud(10, 2)
    chosen = kcenter(rows, 10)
    radii = [radius(rows, chosen[:count]) for count in range(1, 11)]
    assert all(later <= earlier for earlier, later in pairwise(radii)) and radii[-1] == 0
    best = min(radius(rows, torch.tensor(three)) for three in combinations(range(10), 3))
    assert radius(rows, chosen[:3]) <= 2 * best


def test_a_smaller_choice_begins_a_larger_one():
    rows = cloud(30)
    assert kcenter(rows, 5).tolist() == kcenter(rows, 15)[:5].tolist()


def test_the_choice_is_the_same_in_float32_and_after_a_shift():
    rows = cloud(30)
    assert kcenter(rows.float(), 8).tolist() == kcenter(rows + 3, 8).tolist() == kcenter(rows, 8).tolist()


def test_no_centers_and_too_many():
    assert kcenter(cloud(3), 0).shape == (0,)
    with pytest.raises(ValueError, match="4 centers asked of 3 rows"):
        kcenter(cloud(3), 4)


def test_the_features_are_left_alone_even_with_a_gradient():
    rows = cloud(6).requires_grad_()
    before = rows.detach().clone()
    chosen = kcenter(rows, 3)
    assert chosen.dtype == torch.int64 and not chosen.requires_grad
    assert torch.equal(rows.detach(), before)


def test_a_random_choice_is_different_rows_the_same_for_the_same_generator():
    chosen = random_choice(10, 6, seeded())
    assert len(set(chosen.tolist())) == 6 and set(chosen.tolist()) <= set(range(10))
    assert torch.equal(chosen, random_choice(10, 6, seeded()))
    assert not torch.equal(chosen, random_choice(10, 6, seeded(1)))


def test_a_random_choice_takes_every_row_equally_often():
    generator = seeded()
    counts = torch.cat([random_choice(5, 2, generator) for _ in range(1000)]).bincount(minlength=5)
    assert all(abs(count - 400) < 65 for count in counts.tolist())


def test_a_random_choice_of_more_than_there_is_is_refused():
    with pytest.raises(ValueError, match="4 different rows asked of 3"):
        random_choice(3, 4, seeded())


def test_kcenter_in_half_precision_chooses_as_in_float32():
    points = 300 * torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    assert kcenter(points.half(), 6).tolist() == kcenter(points.half().float(), 6).tolist()
