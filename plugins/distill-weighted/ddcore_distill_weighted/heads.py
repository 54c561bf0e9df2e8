"""Linear heads on frozen features: multinomial logistic regression with an L2 penalty, whose strength may be
cross-validated.

    min over W, b of   mean_i CE(W x_i + b, y_i) + (l2 / 2) ||W||^2

Convex, so that nothing is random: L-BFGS from zero in float64. Shape letters: n images, d features, C classes.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths that cross-validation chooses from."""
STEPS = 200


def fit(features: Tensor, classes: Tensor, class_count: int, l2: float) -> tuple[Tensor, Tensor]:
    """The minimiser of the formula above; the bias is not penalised.

    Args:
        features: (n, d) float; standardised, as ``head_on`` makes them: others may not get there in 200 steps.
        classes: (n,) int64.
        l2: > 0.

    Returns:
        Weights (C, d) and biases (C,) float64; biases sum to 0, which fixes what the loss does not.
    """
    x = features.double()
    weight = torch.zeros(class_count, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(class_count, dtype=x.dtype, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=STEPS,
        tolerance_grad=1e-7,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), classes) + l2 / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[arg-type]
    return weight.detach(), (bias - bias.mean()).detach()


class Head(nn.Module):
    """Standardise, then a linear map; nothing in it is trained."""

    def __init__(self, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        for name, tensor in {"mean": mean, "scale": scale, "weight": weight, "bias": bias}.items():
            self.register_buffer(name, tensor)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, d)."""
        standard = (features.to(self.get_buffer("mean")) - self.get_buffer("mean")) / self.get_buffer("scale")
        return F.linear(standard, self.get_buffer("weight"), self.get_buffer("bias"))


def head_on(features: Tensor, classes: Tensor, class_count: int, l2: float) -> Head:
    """A head fitted on standardised features (n, d), float64; columns that do not vary are only centred."""
    x = features.double()
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    return Head(mean, scale, *fit((x - mean) / scale, classes, class_count, l2))


def folds_of(classes: Tensor, folds: int) -> Tensor:
    """The fold (n,) of each image: those of a class are dealt out in turn, each class beginning one further.

    >>> folds_of(torch.tensor([0, 0, 0, 1, 1]), 2).tolist()
    [0, 1, 0, 1, 0]
    """
    found = torch.empty_like(classes)
    for at, cls in enumerate(classes.unique()):
        rows = (classes == cls).nonzero()[:, 0]
        found[rows] = (torch.arange(len(rows), device=classes.device) + at) % folds
    return found


def held_out(
    features: Tensor, classes: Tensor, class_count: int, l2: float, folds: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each fold its logits by a head fitted on the others, and its classes."""
    fold = folds_of(classes, folds)
    for number in fold.unique():
        out = fold == number
        if not out.all():
            head = head_on(features[~out], classes[~out], class_count, l2)
            yield head(features[out]), classes[out]


def accuracy_held_out(features: Tensor, classes: Tensor, class_count: int, l2: float, folds: int = 5) -> float:
    """Share of held-out images that are right, in [0, 1]; nan without any."""
    right = [z.argmax(1) == y for z, y in held_out(features, classes, class_count, l2, folds)]
    return float(torch.cat(right).double().mean()) if right else float("nan")


def chosen_l2(
    features: Tensor, classes: Tensor, class_count: int, folds: int = 5, grid: Sequence[float] = GRID
) -> float:
    """The strength of least held-out cross entropy, the larger of equally good ones."""

    def loss(l2: float) -> float:
        pairs = list(held_out(features, classes, class_count, l2, folds))
        return float(sum(F.cross_entropy(z, y, reduction="sum") for z, y in pairs))

    return min(sorted(grid, reverse=True), key=loss)
