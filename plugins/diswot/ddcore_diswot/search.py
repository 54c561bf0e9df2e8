"""Evolution on a score that is known at once: tournament, mutation, a budget, the oldest leaves.

The best of a random sample have a child; one over budget is drawn again; whoever is in the population longest leaves
it. What is returned is everything that was scored, so that the best is the best of all, not of the last population.
"""

from collections import deque
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from attrs import frozen
from torch import Generator

from ddcore import InputError

T = TypeVar("T", bound=Hashable)
TRIES = 1000


@frozen(kw_only=True)
class Evolution:
    """How long an evolution is, and how its parents are chosen.

    Attributes:
        population: candidates at the start, drawn one by one, and from then on.
        steps: children.
        sample: candidates of a tournament.
        parents: of its best, one of which has the child.
    """

    population: int
    steps: int
    sample: int
    parents: int


def evolve(
    score: Callable[[T], float],
    draw: Callable[[Generator], T],
    mutate: Callable[[T, Generator], T],
    fits: Callable[[T], bool],
    how: Evolution,
    *,
    generator: Generator,
) -> list[tuple[T, float]]:
    """Everything that was scored, first to last, a candidate once for each time it came up; all of it ``fits``.

    Args:
        score: higher is better; asked once for each candidate.
        fits: whether a candidate is within the budget.

    Raises:
        InputError: nothing that was drawn fits.
    """
    known: dict[T, float] = {}

    def scored(candidate: T) -> tuple[T, float]:
        if candidate not in known:
            known[candidate] = score(candidate)
        return candidate, known[candidate]

    def fitting(make: Callable[[], T]) -> T | None:
        return next((made for _ in range(TRIES) if fits(made := make())), None)

    history: list[tuple[T, float]] = []
    for _ in range(how.population):
        first = fitting(lambda: draw(generator))
        if first is None:
            raise InputError(f"none of {TRIES} random candidates is within the budget: raise it, or allow smaller ones")
        history.append(scored(first))
    living = deque(history)
    for _ in range(how.steps):
        chosen = [living[at] for at in torch.randperm(len(living), generator=generator)[: how.sample].tolist()]
        best = sorted(chosen, key=lambda pair: pair[1], reverse=True)[: how.parents]
        parent = best[int(torch.randint(len(best), (), generator=generator))][0]
        child = fitting(lambda parent=parent: mutate(parent, generator))  # type: ignore[misc]
        if child is None:
            continue
        history.append(scored(child))
        living.append(history[-1])
        living.popleft()
    return history


def best_of(history: list[tuple[T, float]]) -> tuple[T, float]:
    """The first of the best scores."""
    return max(history, key=lambda pair: pair[1])
