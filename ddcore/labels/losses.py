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
        told = targets["logits"].to(logits)
        return soft_cross_entropy(
            logits, told, recipe["temperature"], recipe["tau_squared"], weight=targets.get("weight")
        )
    if loss == "kl":
        told = targets["logits"].to(logits)
        return _mean(kl_divergence(logits, told, recipe["temperature"], recipe["tau_squared"]), targets)
    if loss == "mse":
        return _mean(_by_logits(logits, targets, recipe), targets)
    if loss == "two-distances":
        return _mean(_by_distances(logits, targets, recipe), targets)
    raise InputError(
        f"labels ask for the loss {loss!r}, which this ddcore does not know ({', '.join(LOSSES)}): upgrade ddcore-torch"
    )


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
    told = (target_logits / temperature).softmax(1)
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
    told = (target_logits / temperature).softmax(1)
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
