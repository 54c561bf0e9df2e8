"""MTT's own part: which rows an inner step sees, which segments it matches. The unrolled gradient is ``tests/test_unroll.py``'s."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from ddcore_mtt import MTT

from ddcore import DdcoreError, Task
from ddcore.randomness import generator
from ddcore.training.trajectory import choose_segment, inner_indices


def test_inner_steps_go_through_all_rows_before_any_repeats_and_a_short_batch_comes_first():
    rows = inner_indices(7, 3, 6, torch.Generator().manual_seed(0))
    assert [len(r) for r in rows] == [1, 3, 3, 1, 3, 3]
    for once in (rows[:3], rows[3:]):
        assert sorted(torch.cat(once).tolist()) == list(range(7))
    assert torch.cat(rows[:3]).tolist() != torch.cat(rows[3:]).tolist()


def test_a_batch_larger_than_the_set_is_all_of_it():
    assert [len(r) for r in inner_indices(4, 100, 3, torch.Generator())] == [4, 4, 4]


def fake_run(count: int, epochs: int) -> SimpleNamespace:
    experts = SimpleNamespace(count=count, epochs=epochs, segment=lambda expert, epoch, ahead: (expert, epoch, ahead))
    return SimpleNamespace(trajectories=experts, generator=lambda *key: generator(0, *key))


def test_every_expert_is_seen_once_before_any_is_seen_again():
    run, task = fake_run(5, 20), Task("distil", "t", 15)
    experts = [choose_segment(run, "mtt", task, step, 0, 3, 2)[0] for step in range(15)]
    for start in (0, 5, 10):
        assert sorted(experts[start : start + 5]) == [0, 1, 2, 3, 4]
    assert experts[:5] != experts[5:10] or experts[5:10] != experts[10:]


def test_start_epochs_are_uniform_over_the_range_and_never_at_its_end():
    run, task = fake_run(3, 20), Task("distil", "t", 600)
    starts = Counter(choose_segment(run, "mtt", task, step, 2, 5, 2)[1] for step in range(600))
    assert set(starts) == {2, 3, 4}
    assert min(starts.values()) > 150


def test_a_stretch_past_the_last_epoch_is_refused_with_the_way_out():
    with pytest.raises(DdcoreError, match=r"raise --experts.epochs to 6"):
        choose_segment(fake_run(3, 5), "mtt", Task("distil", "t", 1), 0, 0, 5, 2)
    choose_segment(fake_run(3, 6), "mtt", Task("distil", "t", 1), 0, 0, 5, 2)


def test_the_learned_rate_stays_above_its_floor_and_pixels_are_not_bounded():
    plugin = MTT(rate_floor=1e-3)
    assert plugin.ddcore_project(torch.tensor(-0.5), "rate") == pytest.approx(1e-3)
    assert plugin.ddcore_project(torch.tensor(0.02), "rate") == pytest.approx(0.02)
    assert plugin.ddcore_project(torch.tensor([-5.0]), "pixels") is None
