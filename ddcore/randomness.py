"""Every random number of a run comes from a fresh generator made from (seed, key).

No generator lives long: resuming restores none, an exact recompute makes the same key again and draws the
same numbers, and adding a plugin cannot shift anybody else's draws.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from ddcore import devices

Key = str | int
"""Part of the name of a random stream."""
_lent: list[torch.Generator] = []


def hash32(seed: int, *key: Key) -> int:
    """A 32-bit number from a seed and a key, the same on every machine.

    32 bits because torch's CPU generator uses no more of its seed; two keys may collide by chance, which is harmless.

    >>> hash32(0, "dm", 1) == hash32(0, "dm", 1), hash32(0, "dm", 1) == hash32(0, "dm", "1")
    (True, False)
    """
    text = "\x1f".join([repr(int(seed)), *(repr(k) for k in key)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def generator(seed: int, *key: Key) -> torch.Generator:
    """A fresh CPU generator for this seed and key (names and whole numbers)."""
    fresh = torch.Generator()
    fresh.manual_seed(hash32(seed, *key))
    return fresh


@contextmanager
def drawing_from(source: torch.Generator, device: torch.device | None = None) -> Iterator[None]:
    """Let code that only knows torch's global generators (module constructors, dropout) draw from ``source``.

    The global generators' states are put back afterwards, so nobody else's draws move; ``source`` moves on. Borrowing
    again for the same source inside is no change.

    Args:
        device: where the code computes: a device other than the CPU has a generator of its own, which then gets its
            seed from ``source``. None: on the CPU alone.
    """
    with _lent_to_torch(source), nullcontext() if device is None else devices.seeded(device, _seed):
        yield


def _seed() -> int:
    return int(torch.randint(2**31, ()))


@contextmanager
def _lent_to_torch(source: torch.Generator) -> Iterator[None]:
    if source in _lent:
        yield
        return
    _lent.append(source)
    before = torch.random.get_rng_state()
    torch.random.set_rng_state(source.get_state())
    try:
        yield
    finally:
        _lent.remove(source)
        source.set_state(torch.random.get_rng_state())
        torch.random.set_rng_state(before)
