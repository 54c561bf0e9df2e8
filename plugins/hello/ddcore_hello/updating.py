"""Pixels of patches that were scaled down, changed so that an encoder sees in them what it sees in the original.

    min over p_s of  MSE(E(up(p_s)), E(p))

p is a patch at the encoder's resolution, p_s what is stored of it, up a bilinear resize. Where nothing was scaled down,
p = up(p_s) and the loss is 0. Shape letters: n patches, S their side as stored, R the encoder's, D features.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

AT_ONCE = 64
"""Patches of one pass."""


def enlarged(patches: Tensor, size: int) -> Tensor:
    """Patches (n, C, S, S) at R pixels a side, bilinear; those of that size as they are."""
    if patches.shape[2:] == (size, size):
        return patches
    return F.interpolate(patches, (size, size), mode="bilinear", align_corners=False)


def feature_gaps(patches: Tensor, features: Tensor, encode: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """Mean over features of (E(up(p_s)) - E(p))^2, of each patch.

    Args:
        patches: p_s, (n, C, S, S).
        features: E(p), (n, D), without gradient.
        encode: E, images (n, C, R, R) to (n, D); its weights get no gradient.
        size: R.

    Returns:
        (n,), at least 0; 0 where S = R and p_s = p.
    """
    return (encode(enlarged(patches, size)) - features).square().mean(1)


def updated(
    patches: Tensor,
    originals: Tensor,
    encode: Callable[[Tensor], Tensor],
    *,
    steps: int,
    rate: float,
    clamp: Callable[[Tensor], Tensor] = lambda patches: patches,
) -> Tensor:
    """Patches after ``steps`` of Adam on ``feature_gaps``, each put back into the images that exist by ``clamp``.

    Args:
        patches: (n, C, S, S), not modified.
        originals: (n, C, R, R).

    Returns:
        (n, C, S, S), detached: of each patch the pixels of its step of lowest loss, the first of equals.
    """
    done = []
    for part, full in zip(patches.split(AT_ONCE), originals.split(AT_ONCE), strict=True):
        with torch.no_grad():
            features = encode(full)
        moving = part.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([moving], lr=rate)
        best, least = part.detach().clone(), torch.full((len(part),), torch.inf, dtype=part.dtype, device=part.device)
        for step in range(steps + 1):
            with torch.enable_grad():
                gaps = feature_gaps(moving, features, encode, full.shape[2])
                total = gaps.sum()
            better = gaps.detach() < least
            best[better], least[better] = moving.detach()[better], gaps.detach()[better]
            if step < steps:
                (moving.grad,) = torch.autograd.grad(total, moving)
                optimizer.step()
                with torch.no_grad():
                    moving.copy_(clamp(moving))
        done.append(best)
    return torch.cat(done)
