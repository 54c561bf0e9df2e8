"""Randomness is a function of (seed, key) and of nothing else."""

import torch
from torch import nn

from ddcore.randomness import drawing_from, generator, hash32


def test_the_same_key_draws_the_same_and_another_key_does_not():
    first, again, other = (torch.randn(4, generator=generator(0, "dm", step)) for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_hash_is_documented_by_value_so_that_old_runs_can_be_done_again():
    assert [hash32(0), hash32(0, "dm"), hash32(1, "dm"), hash32(0, "dm", 3)] == [
        1609362278,
        2524849214,
        1213192119,
        3040321168,
    ]


def test_names_and_numbers_are_different_keys_and_joints_do_not_run_together():
    assert len({hash32(0, "a", 1), hash32(0, "a", "1"), hash32(0, "a1"), hash32(0, "a", "b"), hash32(0, "ab")}) == 5


def test_borrowing_the_global_generator_leaves_it_as_it_was():
    before = torch.random.get_rng_state()
    with drawing_from(generator(0, "net")):
        first = nn.Linear(3, 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    with drawing_from(generator(0, "net")):
        torch.testing.assert_close(nn.Linear(3, 3).weight, first.weight, rtol=0, atol=0)


def test_a_borrowed_source_moves_on():
    source = generator(0, "net")
    with drawing_from(source):
        first = torch.rand(2)
    with drawing_from(source):
        assert not torch.equal(torch.rand(2), first)


def test_borrowing_twice_for_one_source_does_not_rewind_it():
    source = generator(0, "net")
    with drawing_from(source), drawing_from(source):
        first = torch.rand(2)
    with drawing_from(source):
        assert not torch.equal(torch.rand(2), first)
