"""Whether a network's outputs stand in the order of the data's classes, and putting them into it.

A file of weights may list its classes (``class_names``, a JSON list in a safetensors file's metadata; the files that
ddcore writes do): outputs are then matched by name. For any other the training images tell: where accuracy under the
best one-to-one matching of outputs to classes lies far above plain accuracy, the order is another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor, nn

from ddcore.errors import InputError
from ddcore.networks.passes import logits
from ddcore.training.loop import answers_of
from ddcore.training.teaching import last_linear

if TYPE_CHECKING:
    from ddcore.api.services import Run

KEY = "class_names"
LEAST_PROBE, EACH = 1000, 20
"""Training images that an order is looked for with: so many, or so many of each class if that is more."""
DEVIATIONS = 4
"""Standard errors by which the matched accuracy has to lie above the plain one."""
MOST_NAMES, MOST_LETTERS = 20, 40


def facts_of(classes: Sequence[str]) -> dict[str, str]:
    """What a file of weights says in its metadata about its classes."""
    return {KEY: json.dumps(list(classes), ensure_ascii=False)}


def names_in(facts: Mapping[str, str]) -> tuple[str, ...] | None:
    """The classes that a file's metadata list, in the order of the outputs; None if they list none.

    >>> names_in({"class_names": '["cat", "dog"]'}), names_in({"class_names": "cat, dog"}), names_in({})
    (('cat', 'dog'), None, None)
    """
    try:
        found = json.loads(facts.get(KEY, ""))
    except (ValueError, RecursionError):
        return None
    right = isinstance(found, list) and found and all(isinstance(name, str) for name in found)
    return tuple(found) if right and len(set(found)) == len(found) else None


def put_in_order(network: nn.Module, theirs: Sequence[str], run: Run, who: str) -> bool:
    """Move the rows of a network's last layer so that its outputs stand in the order of the run's classes.

    Args:
        theirs: its classes by name, in the order of its outputs; where none of them is a class of the run, names tell
            nothing and nothing is done.
        who: for messages.

    Returns:
        Whether names told the order.

    Raises:
        InputError: some of the names are the run's and others are not; its last layer is not one whose rows can be
            moved.
    """
    ours = [str(name) for name in run.source.classes]
    if not set(theirs) & set(ours):
        return False
    if lacking := sorted(set(ours) - set(theirs)):
        raise InputError(
            f"{who} has classes {listed(theirs)} by its file, and {lacking[0]!r} of these data is not among them: give weights "
            "for these classes"
        )
    if list(theirs) != ours:
        _move_rows(network, [theirs.index(name) for name in ours], theirs, run, who)
    return True


@torch.no_grad()
def _move_rows(network: nn.Module, order: list[int], theirs: Sequence[str], run: Run, who: str) -> None:
    images, training = run.real.train.inputs(torch.arange(min(2, len(run.real.train)))), network.training
    network.eval()
    before = logits(network, images)
    own = list(network.get_submodule(last_linear(network)).parameters())
    fits = before.shape[1] == len(order) and all(len(tensor) == len(order) for tensor in own)
    if fits:
        for tensor in own:
            tensor.copy_(tensor[order])
    if not fits or not torch.allclose(logits(network, images), before[:, order], rtol=1e-4, atol=1e-5):
        raise InputError(
            f"{who} has its classes in the order {listed(theirs)} by its file, the data in the order "
            f"{listed(run.source.classes)}, and its last layer is not one whose rows can be moved: give it with its outputs in "
            "the data's order"
        )
    network.train(training)


@frozen
class Matching:
    """How outputs and classes go together.

    Attributes:
        order: the class that each output stands for under the best matching.
        plain: accuracy as the outputs stand, in [0, 1].
        best: accuracy under the matching, on images that it was not chosen with.
        moved: both, over the images of classes that another output than their own stands for.
        sureness: the gain over its standard error, image by image.
        images: how many were looked at.
    """

    order: tuple[int, ...]
    plain: float
    best: float
    moved: tuple[float, float]
    sureness: float
    images: int

    @property
    def is_other(self) -> bool:
        """Whether the matched accuracy lies far above the plain one: by more than chance, and to twice as much, to half
        the errors, or to twice as much and most for the classes that it moves."""
        if self.sureness <= DEVIATIONS:
            return False
        plain, best = self.moved
        return self.best > 2 * self.plain or 1 - self.best < (1 - self.plain) / 2 or best > max(2 * plain, 0.5)


def matching(answered: Tensor, due: Tensor, classes: int) -> Matching:
    """Match outputs to classes on one half of some images, and look at the other half.

    Args:
        answered: (N,) int64, the output that was highest.
        due: (N,) int64, the class.

    >>> due = torch.arange(3).repeat(40)
    >>> found = matching((due + 1) % 3, due, 3)
    >>> found.order, found.plain, found.best, found.moved, found.images
    ((2, 0, 1), 0.0, 1.0, (0.0, 1.0), 60)
    """
    by_class = due.argsort(stable=True)
    chosen, held = by_class[::2], by_class[1::2]
    confusion_KK = torch.zeros(classes, classes).index_put_(
        (answered[chosen], due[chosen]), torch.tensor(1.0), accumulate=True
    )
    order = torch.tensor(assignment(confusion_KK + 0.5 * torch.eye(classes)))  # who never answers stays where it is
    plain, best = (a == due[held] for a in (answered[held], order[answered[held]]))
    elsewhere = (order != torch.arange(classes))[due[held]]
    moved = _share(plain[elsewhere]), _share(best[elsewhere])
    gain, count = best.double() - plain.double(), max(1, len(held))
    spread = math.sqrt((float(gain.square().sum()) / count - _share(gain) ** 2 + 1 / count) / count)
    return Matching(tuple(order.tolist()), _share(plain), _share(best), moved, _share(gain) / spread, count)


def _share(of: Tensor) -> float:
    return float(of.double().mean()) if len(of) else 0.0


def assignment(gains_KK: Tensor) -> list[int]:
    """The column of each row, each taken once, with the largest sum; without SciPy the largest entries first."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        return _greedy(gains_KK)
    return [int(column) for column in linear_sum_assignment(gains_KK.numpy(), maximize=True)[1]]


def _greedy(gains_KK: Tensor) -> list[int]:
    rows = len(gains_KK)
    found: dict[int, int] = {}
    taken: set[int] = set()
    for at in gains_KK.flatten().argsort(descending=True, stable=True).tolist():
        row, column = divmod(at, rows)
        if row not in found and column not in taken:
            found[row] = column
            taken.add(column)
    return [found[row] for row in range(rows)]


def refuse_other_order(network: nn.Module, run: Run, who: str, way_out: str = "") -> None:
    """Refuse a network whose outputs stand for the run's classes in another order.

    Args:
        way_out: a sentence's end beside the usual one.

    Raises:
        InputError: names the order.
    """
    real, classes = run.real.train, run.source.classes
    most = max(LEAST_PROBE, EACH * len(classes))
    index = torch.arange(len(real)) if len(real) <= most else torch.linspace(0, len(real) - 1, most).long()
    answers = answers_of(network, real, index=index)
    found = matching(answers.classes, answers.labels, len(classes))
    if found.is_other:
        raise InputError(
            f"{who} is right on {found.plain:.1%} of {found.images} training images, and on {found.best:.1%} if its outputs "
            f"stand for {listed([classes[c] for c in found.order])}: its classes are in another order than the data's "
            f"({listed(classes)}); give it with its outputs in the data's order, or as safetensors whose metadata list its "
            f"{KEY}{way_out}"
        )


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> listed(["a", "b"]), listed([str(n) for n in range(22)])[-17:]
    ('a, b', '18, 19 and 2 more')
    """
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(str(name)[:MOST_LETTERS] for name in names[:MOST_NAMES]) + more
