"""Moves every seed of this process by ``DDCORE_TEST_SEED_SHIFT``, so that luck shows: no test may hang on one seed.

Python runs this file in each process that has its folder in ``PYTHONPATH``; the tests put it there, for themselves and for all that
they start, where the variable is set. Moved are the seeds given to ``torch.Generator().manual_seed``, so every draw of a run too,
``torch.manual_seed`` and ``numpy.random.default_rng``.
"""

import os

import numpy
import torch

SHIFT = int(os.environ.get("DDCORE_TEST_SEED_SHIFT", "0"))


class Shifted(torch.Generator):
    """A generator whose seeds are moved."""

    def manual_seed(self, seed: int) -> torch.Generator:
        return super().manual_seed(seed + SHIFT)


def moved(seeded):
    """``seeded`` with its first argument moved where it is a whole number."""
    return lambda seed=None, *more: seeded(seed + SHIFT if isinstance(seed, int) else seed, *more)


if SHIFT and torch.Generator.__name__ != "Shifted":  # once a process, whoever runs this file again
    torch.Generator = Shifted
    torch.manual_seed = moved(torch.manual_seed)
    numpy.random.default_rng = moved(numpy.random.default_rng)
