"""Which epoch of a student counts, and which students: the last and all, unless a method asks for choice by validation.

The test part is scored with weights that are chosen already, and never looked at before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from attrs import frozen
from torch import Tensor, nn

from ddcore import InputError

Average = Literal["all", "best-five-of-ten"]
KEPT, TRAINED = 5, 10
"""Students of the rule ``best-five-of-ten``."""


@frozen
class Regime:
    """How a method's students are trained and judged, beside the pack's options.

    Attributes:
        each: take every sample once an epoch, instead of drawing by weight.
        epochs: of students on the method's set, instead of ``--graphs.student-steps``; random graphs get as many steps.
        select: which weights are scored: after the ``last`` step, or after the epoch, none included, that does best on
            the ``validation`` part, the first of equals; then the untrained network has a row of its own.
        average: over ``all`` students, or ``best-five-of-ten``: those five of ten that do best on the validation part.
    """

    each: bool = False
    epochs: int | None = None
    select: Literal["last", "validation"] = "last"
    average: Average = "all"

    @property
    def chooses(self) -> bool:
        """Whether the validation part is looked at."""
        return self.select == "validation"

    def check(self, source: Any, students: int, option: str) -> None:
        """Refuse what cannot be done.

        Args:
            students: of each row.
            option: how the method's options begin, ``--NAME``.

        Raises:
            InputError: the data have no validation part; the rule for the average needs other options.
        """
        if self.average != "all" and not self.chooses:
            raise InputError(f"{option}.average {self.average} chooses by validation: add {option}.select validation")
        if self.average != "all" and students != TRAINED:
            raise InputError(
                f"{option}.average {self.average} is of {TRAINED} students, and --eval-seeds says {students}: "
                f"give --eval-seeds {TRAINED}"
            )
        if self.chooses and source.validation is None:
            raise InputError(
                f"{option}.select validation needs a validation part, and {source.name} has none under this --split: "
                f"give --split train:test, or {option}.select last"
            )

    def shown(self, protocol: str) -> str:
        """A protocol's name with what was chosen by validation."""
        return protocol + ("-validation" if self.chooses else "") + ("" if self.average == "all" else "-best5of10")

    def counted(self, results: Sequence[Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
        """The students whose scores are averaged, the best on the validation part first if only some are."""
        if self.average == "all":
            return list(results)
        return sorted(results, key=lambda result: -float(result["validation"]))[:KEPT]


def identity(regime: Regime, source: Any) -> str:
    """What a student's score depends on beside the set and the options: the validation part, if it is looked at."""
    if not regime.chooses:
        return ""
    digest = hashlib.sha256()
    source.validation.read_into(digest)
    return digest.hexdigest()


class BestEpoch:
    """Keeps the weights that score best so far, the first of equals; what ``train`` calls after every epoch.

    Attributes:
        score: of the best, on what ``measure`` looks at.
        step: that it was met at.
    """

    def __init__(self, network: nn.Module, measure: Callable[[nn.Module], float]) -> None:
        self.network, self.measure = network, measure
        self.score, self.step = -torch.inf, 0
        self._weights: dict[str, Tensor] = {}

    def __call__(self, step: int) -> None:
        """Score the network as it is."""
        score = self.measure(self.network)
        if score > self.score:
            self.score, self.step = score, step
            self._weights = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def restore(self) -> None:
        """Give the network its best weights back."""
        self.network.load_state_dict(self._weights)
