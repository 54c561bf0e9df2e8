"""What a student loses by labels: pure functions of its logits and of what it was told, every one a mean over the
batch.

``LOSSES`` lists what a recipe may ask for. A recipe is a mapping of JSON values: ``loss``, a name of these, and its
numbers. Shape letters: B of a batch, K classes, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddcore.errors import InputError

LARGEST_HALF = 65504.0
LOSSES: Mapping[str, str] = {
    "cross-entropy": "cross entropy with ``class``; where samples are mixed, of both classes by their shares",
    "soft-cross-entropy": "cross entropy with softmax(``logits`` / temperature); times its square if tau_squared",
    "kl": "KL divergence from softmax(``logits`` / temperature); times its square if tau_squared",
    "mse": "mean squared gap to the target that ``of`` names (``logits`` unless it says ``embedding``), plus ``hard`` "
    "times the cross entropy where that is not 0",
    "two-distances": "cross entropy, plus ``weight`` times the gap of two ``distance`` values under ``norm``",
}
"""Every loss that a label kind's ``recipe`` may name, and what it computes: mean over the batch."""
NEEDED: Mapping[str, str] = {
    "cross-entropy": "class",
    "soft-cross-entropy": "logits",
    "kl": "logits",
    "mse": "logits",
    "two-distances": "distance",
}
"""The target that each loss cannot do without, unless the recipe's ``of`` names another."""


def needed(recipe: Mapping[str, Any]) -> str:
    """The target that a recipe's loss cannot do without.

    >>> needed({"loss": "kl"}), needed({"loss": "mse", "of": "embedding"})
    ('logits', 'embedding')
    """
    return str(recipe.get("of", NEEDED.get(str(recipe["loss"]), "class")))


def student_loss(logits: Tensor, targets: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> Tensor:
    """The label's own loss, mean over the batch; a target ``weight`` (B,) multiplies rows, and the mean stays over B.

    Args:
        logits: the student's, (B, K) float; under vectors its D outputs.
        targets: as a label kind gives them.
        recipe: that kind's.

    Raises:
        InputError: a loss that this version does not know.
    """
    loss = recipe["loss"]
    if loss == "cross-entropy":
        if targets.keys() & {"mixed", "weight"}:
            return _mean(mixed_cross_entropy(logits, targets), targets)
        return F.cross_entropy(logits, targets["class"])
    if loss == "soft-cross-entropy":
        wanted = targets["logits"].to(logits)
        return soft_cross_entropy(
            logits, wanted, recipe["temperature"], recipe["tau_squared"], weight=targets.get("weight")
        )
    if loss == "kl":
        wanted = targets["logits"].to(logits)
        return _mean(kl_divergence(logits, wanted, recipe["temperature"], recipe["tau_squared"]), targets)
    if loss == "mse":
        return _mean(_by_logits(logits, targets, recipe), targets)
    if loss == "two-distances":
        return _mean(_by_distances(logits, targets, recipe), targets)
    raise InputError(
        f"labels ask for the loss {loss!r}, which this ddcore does not know ({', '.join(LOSSES)}): upgrade ddcore-torch"
    )


def as_told(
    targets: Mapping[str, Tensor], recipe: Mapping[str, Any], *, of_classes: bool = True
) -> Tensor | dict[str, Tensor]:
    """Targets as somebody else's loop gets them: in one tensor if it holds all that the loss needs, else all by name.

    Returns:
        Class ids (B,) int64 for cross entropy; probabilities (B, K), softened by the temperature, for soft labels
        without weights; what an ``mse`` without ``hard`` and weights compares outputs with, (B, D), where labels are no
        classes; else the targets as they are.

    Raises:
        InputError: the loss needs a target that is not among them.
    """
    need = needed(recipe)
    if need not in targets:
        raise InputError(
            f"the loss {recipe['loss']!r} needs {need!r}, and there is none for single images: take batches"
        )
    if need == "class" and not targets.keys() & {"mixed", "weight"}:
        return targets["class"]
    if recipe["loss"] in ("soft-cross-entropy", "kl") and "weight" not in targets:
        return softened(targets["logits"], recipe)
    if not of_classes and "weight" not in targets and _gap_alone(recipe):
        return targets[need]
    return dict(targets)


def _gap_alone(recipe: Mapping[str, Any]) -> bool:
    return recipe["loss"] == "mse" and not float(recipe.get("hard", 0))


def softened(logits: Tensor, recipe: Mapping[str, Any]) -> Tensor:
    """Probabilities (B, K) of logits at the recipe's temperature, 1 where it names none."""
    temperature = float(recipe.get("temperature", 1.0))
    return (logits / temperature).softmax(1)


def loss_of_told(outputs: Tensor, targets: Tensor | Mapping[str, Tensor], recipe: Mapping[str, Any]) -> Tensor:
    """``student_loss`` of what ``as_told`` gives: the same number, bit for bit; targets may lie on another device.

    Raises:
        InputError: targets that are not those of this loss.
    """
    if isinstance(targets, Mapping):
        return student_loss(outputs, {name: value.to(outputs.device) for name, value in targets.items()}, recipe)
    targets, loss = targets.to(outputs.device), recipe["loss"]
    if loss == "cross-entropy" and targets.dim() == 1 and not targets.is_floating_point():
        return student_loss(outputs, {"class": targets.long()}, recipe)
    if _gap_alone(recipe) and targets.shape == outputs.shape:
        return student_loss(outputs, {needed(recipe): targets}, recipe)
    if loss not in ("soft-cross-entropy", "kl") or targets.shape != outputs.shape:
        got = f"{str(targets.dtype).removeprefix('torch.')} of shape {tuple(targets.shape)}"
        raise InputError(
            f"the loss {loss!r} of outputs {tuple(outputs.shape)} was given targets {got}: give those that the loader gave"
        )
    numbers = float(recipe["temperature"]), bool(recipe["tau_squared"])
    probabilities = targets.to(outputs)
    if loss == "kl":
        return _kl_of(outputs, probabilities, *numbers).mean()
    return _soft_of(outputs, probabilities, *numbers)


def soft_cross_entropy(
    logits: Tensor,
    target_logits: Tensor,
    temperature: float = 1.0,
    tau_squared: bool = False,
    weight: Tensor | None = None,
) -> Tensor:
    """-sum_c softmax(z / tau)_c log softmax(f / tau)_c, mean over the batch.

    Args:
        logits: the student's f, (B, K) float.
        target_logits: z, (B, K) float.
        weight: (B,) multiplies rows; the mean stays over B.

    Returns:
        Scalar; the target's entropy where the two agree.

    >>> soft_cross_entropy(torch.zeros(1, 4), torch.zeros(1, 4)).exp()
    tensor(4.)
    """
    return _soft_of(logits, (target_logits / temperature).softmax(1), temperature, tau_squared, weight)


def _soft_of(
    logits: Tensor, told: Tensor, temperature: float, tau_squared: bool, weight: Tensor | None = None
) -> Tensor:
    if weight is None:
        loss = F.cross_entropy(logits / temperature, told)
    else:
        loss = (weight.to(logits) * F.cross_entropy(logits / temperature, told, reduction="none")).mean()
    return loss * temperature**2 if tau_squared else loss


def kl_divergence(logits: Tensor, target_logits: Tensor, temperature: float = 1.0, tau_squared: bool = False) -> Tensor:
    """KL(softmax(z / tau) || softmax(f / tau)) of each row (SRe2L, arXiv:2306.13092, without tau^2 on ImageNet and
    CIFAR).

    Its mean over B rows has the gradient (softmax(f / tau) - softmax(z / tau)) / (tau B) in f.

    Args:
        logits: the student's f, (B, K) float.
        target_logits: z, (B, K) float; -inf for classes of probability 0.

    Returns:
        (B,), at least 0, and 0 where the two agree.
    """
    return _kl_of(logits, (target_logits / temperature).softmax(1), temperature, tau_squared)


def _kl_of(logits: Tensor, told: Tensor, temperature: float, tau_squared: bool) -> Tensor:
    rows = F.kl_div((logits / temperature).log_softmax(1), told, reduction="none").sum(1)
    return rows * temperature**2 if tau_squared else rows


def mixed_cross_entropy(logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
    """lam CE(f, class) + (1 - lam) CE(f, mixed) of each row, (B,); CE(f, class) where nothing is mixed."""
    own = F.cross_entropy(logits, targets["class"], reduction="none")
    if "mixed" not in targets:
        return own
    lam = targets["lam"].to(logits)
    return lam * own + (1 - lam) * F.cross_entropy(logits, targets["mixed"], reduction="none")


def distances(logits: Tensor, own: Tensor, mixed: Tensor, temperature: float = 1.0) -> Tensor:
    """-log softmax(z / tau) at the own and at the mixed-in class (NRR-DD, arXiv:2503.18267): cross entropies of
    one-hots.

    Args:
        logits: z, (B, K) float.
        own, mixed: (B,) int64.

    Returns:
        (B, 2), at least 0; 0 for a perfect answer, log K for a uniform one.
    """
    log_p = (logits / temperature).log_softmax(1)
    return -log_p.gather(1, torch.stack([own, mixed], 1))


def distance_gap(student: Tensor, teacher: Tensor, norm: str = "squared") -> Tensor:
    """How far two pairs of distances (B, 2) lie apart: the mean of both squares or absolute values, (B,)."""
    gap = student - teacher
    return (gap.square() if norm == "squared" else gap.abs()).mean(1)


def logit_gap(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Mean over the classes, or the numbers of a vector, of (f - z)^2 of each row, (B,); both are (B, K) or (B, D).

    Raises:
        InputError: they differ in width.
    """
    if logits.shape != target_logits.shape:
        raise InputError(
            f"outputs of shape {tuple(logits.shape)} are compared with targets of shape {tuple(target_logits.shape)}: "
            "give the network as many outputs as the labels are wide"
        )
    return (logits - target_logits).square().mean(1)


def _by_logits(logits: Tensor, targets: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> Tensor:
    """MSE of logits + beta CE (HeLlO, arXiv:2408.08201, step 5); of vectors without CE."""
    gap, hard = logit_gap(logits, targets[needed(recipe)].to(logits)), float(recipe.get("hard", 0))
    return gap + hard * mixed_cross_entropy(logits, targets) if hard else gap


def _by_distances(logits: Tensor, targets: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> Tensor:
    own = targets["class"]
    student = distances(logits, own, targets.get("mixed", own), recipe["temperature"])
    gap = distance_gap(student, targets["distance"].to(logits), recipe["norm"])
    return mixed_cross_entropy(logits, targets) + float(recipe["weight"]) * gap


def _mean(rows: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
    return (rows * targets["weight"].to(rows)).mean() if "weight" in targets else rows.mean()
