"""Who of a committee votes in a slot, and what a vote weighs. Shape letter: M teachers."""

from itertools import combinations
from typing import Literal

import torch
from torch import Generator, Tensor

Turns = Literal["auto", "fixed", "turns", "random"]


def vote_weights(priors_M: Tensor, temperature: float) -> Tensor:
    """What each vote weighs: w_j = exp(alpha_j / T) / sum_k exp(alpha_k / T).

    Args:
        priors_M: (M,) float, accuracies in **percent**. Of fractions the exponents would differ by hundredths, and all
            votes weigh about 1/M.
        temperature: T > 0, in percent too; infinite: 1/M each.

    Returns:
        (M,) of the same type, > 0, summing to 1; the same when a constant is added to all priors.

    References:
        arXiv:2501.07575, section 3.3, and the authors' code: T = 5 in recovery, 10 for labels.

    >>> vote_weights(torch.tensor([64.0, 51.6], dtype=torch.float64), 5.0)
    tensor([0.9227, 0.0773], dtype=torch.float64)
    """
    return (priors_M / temperature).softmax(0)


def groups_in_order(count: int, members: int) -> list[tuple[int, ...]]:
    """The groups of so many of the teachers, those with the first teacher first: the order in which slots take turns.

    >>> groups_in_order(3, 2), len(groups_in_order(5, 2))
    ([(0, 1), (0, 2), (1, 2)], 10)
    """
    return list(combinations(range(count), members))


def highest(priors: tuple[float, ...], members: int) -> tuple[int, ...]:
    """The teachers of the highest priors, in the committee's order; of equal priors the first.

    >>> highest((56.4, 42.3, 52.5, 44.2, 40.6), 2)
    (0, 2)
    """
    return tuple(sorted(sorted(range(len(priors)), key=lambda j: -priors[j])[:members]))


def way_of(turns: Turns, slots: int, groups: int) -> Turns:
    """What ``auto`` means: fixed for one slot, turns while there is a group for each slot, else at random.

    With five teachers and pairs that is the paper's rule for 1, 10 and 50 images a class.

    >>> [way_of("auto", slots, 10) for slots in (1, 10, 50)]
    ['fixed', 'turns', 'random']
    """
    if turns != "auto":
        return turns
    return "fixed" if slots == 1 else "turns" if slots <= groups else "random"


def drawn(count: int, members: int, generator: Generator) -> tuple[int, ...]:
    """A random group, all equally likely, in the committee's order."""
    return tuple(sorted(torch.randperm(count, generator=generator)[:members].tolist()))
