"""Samples that come more than once in real data, and classes that are not tested: what makes scores mean less.

Equal is what has equal bytes as it is held here. Near are images whose thumbnails, 8 x 8 grey levels less their mean,
lie within a twentieth of the distance that is usual among the data's, and within a tenth of their own contrast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from attrs import frozen
from torch import Tensor

from ddcore.data.source import Source
from ddcore.errors import InputError
from ddcore.images.statistics import scaled

THUMBNAIL = 8
USUAL, CONTRAST = 0.05, 0.1
"""Near: within these shares of the usual distance between thumbnails, and of their own length."""
MOST_COMPARED = 100_000
AT_ONCE = 512
PAIRS = 2000
"""From which the usual distance is taken."""
SHOWN = 3


@frozen
class Repeats:
    """Equal samples of a data set; positions count from 0.

    Attributes:
        groups: train positions of each sample that comes more than once in train, ascending.
        within: train samples that are equal to an earlier one.
        across: (train, test) positions of each test sample that is a train sample too, the earliest of train.
        conflicts: (train, train) positions of equal train samples with two labels, the later beside the first.
        crossed: of ``across``, those with two labels.
    """

    groups: Sequence[tuple[int, ...]]
    within: int
    across: Sequence[tuple[int, int]]
    conflicts: Sequence[tuple[int, int]]
    crossed: Sequence[tuple[int, int]]


def repeats(source: Source) -> Repeats:
    """Equal samples within train, and across train and test."""
    digests = source.digests
    labels = source.train.labels.tolist()
    places: dict[bytes, list[int]] = {}
    for at, digest in enumerate(digests["train"]):
        places.setdefault(digest, []).append(at)
    groups = [tuple(at) for at in places.values() if len(at) > 1]
    across = [(places[digest][0], at) for at, digest in enumerate(digests["test"]) if digest in places]
    of_test = source.test.labels.tolist()
    crossed = [(a, b) for a, b in across if of_test[b] not in {labels[at] for at in places[digests["test"][b]]}]
    conflicts = [(group[0], at) for group in groups for at in group[1:] if labels[at] != labels[group[0]]]
    return Repeats(groups, sum(map(len, groups)) - len(groups), across, conflicts, crossed)


def warnings_about(source: Source) -> tuple[str, ...]:
    """What scores on these data do not say: classes without test samples, test samples that are train samples too
    (where the reader says when two of them are equal)."""
    try:
        leak = leaked(source, repeats(source))
    except InputError:
        leak = None
    found = [sentence for sentence in (untested(source), leak) if sentence]
    return tuple(f"{said}: {way_out}" for said, way_out in found)


def untested(source: Source) -> tuple[str, str] | None:
    """What is wrong and the way out, where classes have no test samples."""
    empty = [name for name, count in zip(source.classes, source.counts(source.test), strict=True) if not count]
    if not empty:
        return None
    said = f"{len(empty)} of {len(source.classes)} classes have no test {source.samples} ({listed(empty)})"
    return said, "accuracy says nothing of them; add some, or give another --split"


def leaked(source: Source, found: Repeats) -> tuple[str, str] | None:
    """What is wrong and the way out, where test samples are train samples too."""
    if not found.across:
        return None
    count, share = len(found.across), len(found.across) / len(source.test)
    examples = listed([f"test {b} = train {a}" for a, b in found.across])
    said = (
        f"{count} of {len(source.test)} test {source.samples} ({share:.1%}) are train {source.samples} too ({examples})"
    )
    return said, "accuracy counts what was learned by heart; drop them from one of the parts"


def listed(names: Sequence[object]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more


def near_images(source: Source) -> Mapping[str, list[tuple[int, int]]] | None:
    """``within`` train and ``across`` train and test: (train, train or test) positions of images that are near another
    and equal to none of those near them, each second one once; None where there are too many to compare."""
    count = len(source.train) + len(source.test)
    if count > MOST_COMPARED:
        return None
    thumbnails = {part: _thumbnails(split.stored) for part, split in source.parts.items()}
    number = {digest: at for at, digest in enumerate(Counter([*source.digests["train"], *source.digests["test"]]))}
    same = {part: torch.tensor([number[digest] for digest in source.digests[part]]) for part in thumbnails}
    usual = _usual_distance(thumbnails["train"])
    return {
        name: _near(thumbnails["train"], thumbnails[part], same["train"], same[part], usual, earlier=part == "train")
        for name, part in (("within", "train"), ("across", "test"))
    }


def _thumbnails(stored: Tensor) -> Tensor:
    """(N, D) float32 without their mean."""
    size = min(THUMBNAIL, stored.shape[-1])
    chunks = [
        torch.nn.functional.adaptive_avg_pool2d(scaled(chunk).mean(1, keepdim=True), size).flatten(1)
        for chunk in torch.split(stored, AT_ONCE)
    ]
    flat = torch.cat(chunks)
    return flat - flat.mean(1, keepdim=True)


def _usual_distance(rows: Tensor) -> float:
    """The median distance of rows to others, far from them in order."""
    at = torch.linspace(0, len(rows) - 1, min(PAIRS, len(rows))).long()
    other = (at * 7919 + len(rows) // 2 + 1) % len(rows)
    return float((rows[at] - rows[other]).norm(dim=1).median())


def _near(
    first: Tensor, second: Tensor, same_first: Tensor, same_second: Tensor, usual: float, *, earlier: bool
) -> list[tuple[int, int]]:
    """For rows of ``second`` that are near one of ``first``, the positions of both.

    Args:
        earlier: look among the rows before each only.
    """
    if usual == 0:
        return []
    padded = torch.cat([first, -first.square().sum(1, keepdim=True) / 2, torch.ones(len(first), 1)], 1)
    closest = -((USUAL * usual) ** 2) / 2
    pairs: list[tuple[int, int]] = []
    held = torch.empty(AT_ONCE * len(first))
    for start in range(0, len(second), AT_ONCE):
        rows = second[start : start + AT_ONCE]
        others = min(start + AT_ONCE, len(first)) if earlier else len(first)
        queries = torch.cat([rows, torch.ones(len(rows), 1), -rows.square().sum(1, keepdim=True) / 2], 1)
        products = torch.mm(queries, padded[:others].T, out=held[: len(rows) * others].view(len(rows), others))
        if earlier:
            products[:, start:].masked_fill_(torch.ones(len(rows), others - start, dtype=torch.bool).triu(), -torch.inf)
        for row in (products.amax(1) > closest).nonzero()[:, 0].tolist():
            at = start + row
            found = (products[row] > closest).nonzero()[:, 0]
            within = CONTRAST**2 * first[found].norm(dim=1) * rows[row].norm() > -2 * products[row][found]
            found = found[within & (same_first[found] != same_second[at])]
            pairs += [(int(found[0]), at)] if len(found) else []
    return pairs
