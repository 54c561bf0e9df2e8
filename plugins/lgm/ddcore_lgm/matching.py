"""The method's mathematics: gradients of a linear classifier, their distance, and images as sums of levels.

Shape letters: B rows, N images, D features, K classes, C H W pixels, L levels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""Square root of the covariance of natural images' channels (Olah et al., Feature Visualization, 2017)."""
BETAS, EPSILON = (0.9, 0.999), 1e-8
EDGE = 0.01
"""How far from black and white an image is taken to be before it becomes a latent one."""


def linear_gradient(features_BD: Tensor, classes_B: Tensor, weight_KD: Tensor, bias_K: Tensor) -> Tensor:
    """Gradient of a linear classifier's cross entropy, a mean over the rows, with respect to its weight and bias.

    With p = softmax(W z + b) it is the mean of (p - y) z^T, and of p - y: differentiable in the features, without a
    second backward pass.

    Returns:
        (K D + K,), the weight's row by row, then the bias's.
    """
    gap_BK = (features_BD @ weight_KD.T + bias_K).softmax(1) - F.one_hot(classes_B, len(bias_K)).to(features_BD)
    gap_BK = gap_BK / len(features_BD)
    return torch.cat([(gap_BK.T @ features_BD).flatten(), gap_BK.sum(0)])


def gradient_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """1 - cos of two flat gradients, a scalar in [0, 2]; 0 where one is a positive multiple of the other."""
    return 1 - F.cosine_similarity(real, synthetic, dim=0)


def colour_matrix(like: Tensor) -> Tensor:
    """(3, 3): independent channels to those of natural images, its longest column of length 1."""
    root = torch.tensor(COLOURS).to(like)
    scaled: Tensor = root / root.norm(dim=0).max()
    return scaled


def shown(levels: Sequence[Tensor], size: int) -> Tensor:
    """Images (N, C, H, W) in (0, 1): the sigmoid of twice the sum of levels, each enlarged bilinearly; three channels
    are made of independent ones (``colour_matrix``)."""
    whole = [F.interpolate(level, (size, size), mode="bilinear") for level in levels]
    total = torch.stack(whole).sum(0)
    if total.shape[1] == 3:
        total = torch.einsum("dc,nchw->ndhw", colour_matrix(total), total)
    return (2 * total).sigmoid()


def latent(images: Tensor) -> Tensor:
    """The level that alone shows images (N, C, H, W) in [0, 1]; what is nearer than ``EDGE`` to an end goes there."""
    total = images.clamp(EDGE, 1 - EDGE).logit() / 2
    if total.shape[1] == 3:
        total = torch.einsum("dc,nchw->ndhw", colour_matrix(total).inverse(), total)
    return total


def sides(size: int, pyramid: bool) -> list[int]:
    """Pixels a side of each level: powers of 2, the last the images' own.

    >>> sides(28, True), sides(28, False)
    ([1, 2, 4, 8, 16, 28], [28])
    """
    return [*(2**n for n in range(size.bit_length()) if 2**n < size), size] if pyramid else [size]


class LevelAdam(Optimizer):
    """Adam on the levels behind images; the images are what it is handed, and what it writes.

    A gradient of the images becomes one of the levels. ``every`` steps another level comes, until there is one of each
    side: those before shrink by L / (L + 1), the new one is noise of deviation 1 / (L + 1), and Adam begins anew. All
    of it is in the state, so that a training that goes on gives the same images.
    """

    def __init__(
        self,
        images: Tensor,
        show: Callable[[Sequence[Tensor]], Tensor],
        noise: Callable[[int], Tensor],
        levels: int,
        *,
        lr: float,
        every: int,
    ) -> None:
        """Write the first images.

        Args:
            images: (N, C, H, W), a leaf.
            show: levels to images as they are learned.
            noise: the level of a number, from 0, at deviation 1: the same at every call.
            levels: how many there will be.
        """
        super().__init__([images], {"lr": lr})
        self._show, self._noise, self._most, self._every = show, noise, levels, every
        self.state[images] = {"taken": torch.zeros(()), **self._fresh([noise(0)])}
        with torch.no_grad():
            images.copy_(show(self.levels(images)))

    def levels(self, images: Tensor) -> list[Tensor]:
        """Those there are, coarse to fine."""
        state = self.state[images]
        return [state[f"level-{n}"] for n in range(self._most) if f"level-{n}" in state]

    @staticmethod
    def _fresh(levels: Sequence[Tensor]) -> dict[str, Tensor]:
        state = {"step": torch.zeros(())}
        for n, level in enumerate(levels):
            state |= {f"level-{n}": level, f"mean-{n}": torch.zeros_like(level), f"square-{n}": torch.zeros_like(level)}
        return state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of Adam, and the images that it leads to."""
        for group in self.param_groups:
            for images in group["params"]:
                if images.grad is not None:
                    self._move(images, group["lr"])
                    images.copy_(self._show(self.levels(images)))

    def _move(self, images: Tensor, rate: float) -> None:
        state, levels = self.state[images], self.levels(images)
        with torch.enable_grad():
            leaves = [level.detach().requires_grad_() for level in levels]
            gradients = torch.autograd.grad(self._show(leaves), leaves, images.grad)
        state["step"] += 1
        first, second = (1 - beta ** float(state["step"]) for beta in BETAS)
        for n, (level, gradient) in enumerate(zip(levels, gradients, strict=True)):
            mean = state[f"mean-{n}"].lerp_(gradient, 1 - BETAS[0])
            square = state[f"square-{n}"].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            level.addcdiv_(mean, (square / second).sqrt() + EPSILON, value=-rate / first)
        state["taken"] += 1
        taken = int(state["taken"])
        if taken > 1 and (taken - 1) % self._every == 0 and len(levels) < self._most:
            count = len(levels)
            grown = [level * count / (count + 1) for level in levels]
            state.update(self._fresh([*grown, self._noise(count) / (count + 1)]))
