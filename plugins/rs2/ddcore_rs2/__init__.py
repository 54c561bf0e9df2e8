"""Repeated random sampling (RS2): a new random subset every epoch (Okanovic et al., ICLR 2024, arXiv:2305.18424).

Of n rows a round takes k = round(r n), passes over them once in a random order, and the next round takes others. The
rate's schedule is that of the steps which are left, X ceil(k / B) in X rounds of batches of B: compressed, not
stretched. Nothing is scored or stored.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from attrs import frozen
from attrs.validators import and_, gt, le
from torch import Generator, Tensor

from ddcore import Plugin, hookimpl, option
from ddcore.training import Protocol
from ddcore_rs2.protocols import PROTOCOLS

if TYPE_CHECKING:
    from ddcore import Samples


def taken(count: int, share: float) -> int:
    """k of n rows: the share, rounded to even at a half, and at least one.

    >>> taken(10, 0.25), taken(10, 0.35), taken(3, 0.01), taken(0, 0.5)
    (2, 4, 1, 0)
    """
    return min(count, max(1, round(share * count)))


def drawn(count: int, size: int, generator: Generator) -> Tensor:
    """A round *with replacement*: k different numbers below n, uniformly and whatever came before; (k,) int64."""
    return torch.randperm(count, generator=generator)[:size]


def dealt(order: Tensor, at: int, size: int, generator: Generator) -> tuple[Tensor, Tensor, int]:
    """A round *without replacement*: the next k places of a random order of all n rows; at its end they are shuffled
    again.

    Where k does not divide n, a round takes what is left of one order and begins the next, whose first places are then
    kept free of the rows that it already holds. So no round holds a row twice, and no row comes up again before every
    other has.

    Args:
        order: (n,) int64, a permutation.
        at: its first place that was not taken, 0 to n.
        size: k, at most n.

    Returns:
        The round's rows (k,) int64, the order to go on with and the place in it.
    """
    rows = order[at : at + size]
    if len(rows) == size:
        return rows, order, at + size
    fresh = order[torch.randperm(len(order), generator=generator)]
    held = torch.isin(fresh, rows)
    more = size - len(rows)
    first = fresh[~held][:more]
    rest = fresh[~torch.isin(fresh, first)]
    return torch.cat([rows, first]), torch.cat([first, rest]), more


@frozen(kw_only=True, eq=False)
class RS2(Plugin):
    """Another random subset every epoch, or, as its control, the same one."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "students visit a new random share of their rows every epoch"
    paper: ClassVar[str] = (
        "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning, ICLR 2024, arXiv:2305.18424"
    )
    role: ClassVar[str] = "student"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    modality: ClassVar[frozenset[str]] = frozenset({"images", "text", "dense"})
    neutral: ClassVar[Mapping[str, object]] = {"share": 1.0}

    share: float = option(0.1, help="of the rows in an epoch", symbol="r", validator=and_(gt(0), le(1)))
    replacement: bool = option(
        False, help="each epoch draws from all rows; else none comes again before all others have"
    )
    stratified: bool = option(False, help="the share of each class, at least a row of it")
    fixed: bool = option(False, help="the first epoch's subset in every epoch: the control")

    def visited(self, count: int) -> int:
        """k; where classes are rounded one by one, it may be a few more or less."""
        return taken(count, self.share)

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_student_rows(
        self, rows: Tensor, samples: "Samples", epoch: int, state: dict[str, Any], generator: Generator
    ) -> Tensor:
        """This epoch's subset, in ascending order: the epoch shuffles it."""
        if self.fixed and "fixed" in state:
            return state["fixed"]  # type: ignore[no-any-return]
        parts = self.parts(rows, samples.labels)
        chosen = [self.part(str(name), part, state, generator) for name, part in enumerate(parts)]
        found = torch.cat(chosen).sort().values
        if self.fixed:
            state["fixed"] = found
        return found

    def parts(self, rows: Tensor, classes: Tensor) -> list[Tensor]:
        """What shares are taken of: all rows, or each class's."""
        if not self.stratified:
            return [rows]
        own = classes.cpu()[rows]
        return [part for cls in range(int(own.max()) + 1) if len(part := rows[own == cls])]

    def part(self, name: str, rows: Tensor, state: dict[str, Any], generator: Generator) -> Tensor:
        """Some of these rows; where the order of an earlier epoch stands in ``state`` it goes on with that."""
        size = taken(len(rows), self.share)
        if self.replacement:
            return rows[drawn(len(rows), size, generator)]
        orders, places = (state.setdefault(kept, {}) for kept in ("order", "place"))
        if name not in orders or len(orders[name]) != len(rows):
            orders[name], places[name] = torch.randperm(len(rows), generator=generator), 0
        found, orders[name], places[name] = dealt(orders[name], places[name], size, generator)
        return rows[found]
