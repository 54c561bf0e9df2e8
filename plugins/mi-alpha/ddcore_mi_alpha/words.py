"""Random edits of sentences, as token ids: the first place stands for the sentence and stays, 0 fills up.
Shape letters: B rows, L places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

Edit = Literal["swap", "delete", "substitute"]
EMPTY = 0
FEWEST, MOST = 1, 10
"""Words of a sentence that are edited, whatever the share says: those of nlpaug, which the authors' code calls."""

Draw = Callable[[], float]
"""The next number in [0, 1)."""


def edited(tokens: Tensor, share: float, edit: Edit, generator: Generator) -> Tensor:
    """Sentences (B, L) with some of their words edited; a sentence of fewer than two words stays.

    Of n words the whole part of ``share`` n, but at least 1 and at most 10, are chosen without regard to order.
    ``swap``: each in turn changes places with the word before or after it. ``delete``: they go, one stays at least, and
    the rest moves up. ``substitute``: each becomes a word of the batch, as often as it occurs there.

    Args:
        tokens: ids of any integer type, nothing but 0 after a sentence's last word.
        share: in (0, 1].

    >>> edited(torch.tensor([[2, 5, 6, 0]]), 0.5, "swap", Generator()).tolist()
    [[2, 6, 5, 0]]
    """
    drawn = iter(torch.rand(len(tokens), 3 * MOST, generator=generator, dtype=torch.float64).tolist())
    rows = tokens.tolist()
    every = [word for row in rows for word in row[1:] if word != EMPTY]
    made = []
    for row in rows:
        words = [word for word in row[1:] if word != EMPTY]
        numbers = iter(next(drawn))
        if len(words) > 1:
            words = _edited(words, share, edit, every, lambda given=numbers: next(given))  # type: ignore[misc]
        made.append([row[0], *words, *[EMPTY] * (len(row) - 1 - len(words))])
    return torch.tensor(made, dtype=tokens.dtype, device=tokens.device)


def _edited(words: list[int], share: float, edit: Edit, every: Sequence[int], draw: Draw) -> list[int]:
    count = min(max(FEWEST, int(share * len(words))), MOST, len(words) - (edit == "delete"))
    left, chosen = list(range(len(words))), []
    for _ in range(count):
        chosen.append(left.pop(int(draw() * len(left))))
    if edit == "delete":
        return [word for at, word in enumerate(words) if at not in chosen]
    words = [*words]
    for at in chosen:
        if edit == "substitute":
            words[at] = every[int(draw() * len(every))]
        else:
            other = at + 1 if at == 0 or (at < len(words) - 1 and draw() < 0.5) else at - 1
            words[at], words[other] = words[other], words[at]
    return words
