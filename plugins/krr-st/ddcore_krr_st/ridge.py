"""Kernel ridge regression to a target model's representations, and the loss of Barlow Twins: tensors in, tensors out,
any float dtype.

Shape letters: B real images, M synthetic images, Q features, D numbers of a target, E of a projection.
"""

import torch
from torch import Tensor

RIDGE = 1e-6
OFF_DIAGONAL = 5e-3


def with_ones(features: Tensor) -> Tensor:
    """Features (B, Q) with a last column of ones, (B, Q + 1)."""
    return torch.cat([features, features.new_ones(len(features), 1)], 1)


def ridge_of(kernel: Tensor, share: float = RIDGE) -> Tensor:
    """lambda: ``share`` of the trace of a kernel (M, M), without gradient; a scalar."""
    return share * kernel.detach().trace()


def predictor(real: Tensor, synthetic: Tensor, ridge: Tensor | None = None) -> Tensor:
    """A = K_rs (K_ss + lambda I)^-1, which turns synthetic targets into predictions for real images.

    Args:
        real, synthetic: features (B, Q) and (M, Q), without the column of ones.
        ridge: lambda; None: ``ridge_of`` the kernel.

    Returns:
        (B, M).
    """
    real, synthetic = with_ones(real), with_ones(synthetic)
    kernel = synthetic @ synthetic.T
    ridge = ridge_of(kernel) if ridge is None else ridge
    damped = kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    found: Tensor = torch.linalg.solve(damped, synthetic @ real.T)
    return found.T


def predicted(real: Tensor, synthetic: Tensor, targets: Tensor, ridge: Tensor | None = None) -> Tensor:
    """Predictions (B, D) from synthetic targets (M, D) by the dual form: one solve with D right-hand sides."""
    real, synthetic = with_ones(real), with_ones(synthetic)
    kernel = synthetic @ synthetic.T
    ridge = ridge_of(kernel) if ridge is None else ridge
    damped = kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    found: Tensor = torch.linalg.solve(damped, targets)
    return (real @ synthetic.T) @ found


def krr_loss(real: Tensor, real_targets: Tensor, synthetic: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of the predictions, over B D entries.

    Args:
        real, real_targets: (B, Q) features and (B, D) representations of real images, without gradient.
        synthetic, targets: (M, Q) and (M, D), differentiable.

    References:
        Lee et al., ICLR 2024, arXiv:2310.06511, section 3.3; lambda 1e-6 tr(K_ss) as in the authors' code.
    """
    return (predicted(real, synthetic, targets) - real_targets).square().mean()


def twins_loss(first: Tensor, second: Tensor, off: float = OFF_DIAGONAL) -> Tensor:
    """Barlow Twins (Zbontar et al., ICML 2021, arXiv:2103.03230): sum_i (1 - C_ii)^2 + off sum_{i != j} C_ij^2.

    Args:
        first, second: projections (B, E) of two views; C is their cross-correlation over the batch, columns with
            deviation 0 counting as uncorrelated.
    """
    one, two = (
        (z - z.mean(0)) / z.std(0, correction=0).clamp(min=torch.finfo(z.dtype).eps ** 0.5) for z in (first, second)
    )
    correlation = one.T @ two / len(first)
    on = (1 - correlation.diagonal()).square().sum()
    return on + off * (correlation.square().sum() - correlation.diagonal().square().sum())


def due_rate(step: int, steps: int, rate: float, last: float = 1e-3) -> float:
    """Linear from ``rate`` at step 0 to ``last * rate`` after all steps.

    >>> [due_rate(step, 10, 1.0, 0.0) for step in (0, 5, 10)]
    [1.0, 0.5, 0.0]
    """
    return rate * (1 + (last - 1) * min(1.0, step / max(1, steps)))


def aged(age: int, limit: int, *, reset: bool = True) -> tuple[int, bool]:
    """Age of a pool's network after it was picked, and whether it is made anew now.

    With ``reset`` the age returns to 0; without, as in the authors' code, it stays at the limit, so that from then on
    every pick makes the network anew.

    >>> aged(3, 5), aged(5, 5), aged(5, 5, reset=False)
    ((4, False), (0, True), (5, True))
    """
    if age < limit:
        return age + 1, False
    return (0, True) if reset else (age, True)
