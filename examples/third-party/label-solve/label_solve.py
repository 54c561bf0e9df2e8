"""Label Solve (Nguyen, Chen and Lee, ICLR 2021, arXiv:2011.00050, section 3), on random features.

Kernel ridge regression from S support images predicts for T target images

    f(X_t) = A y_s,   A = K_ts (K_ss + lambda I)^-1,   K = Phi Phi^T / D

so for given images the labels that predict the real data best are a least-squares problem with a closed form:

    y_s = argmin_y || A y - y_t ||^2 = A^+ y_t

Phi are features of a few untrained networks, as in random feature approximations of the network's kernel; y_t are centred
one-hot vectors. Shape letters: S support images, T target images, D features, K classes.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from attrs import frozen
from attrs.validators import ge, gt
from torch import Tensor
from torch.nn import functional as F

from ddcore import Plugin, hookimpl, option
from ddcore.labels import Labels, SoftLabels
from ddcore.networks import features

if TYPE_CHECKING:
    from ddcore import Run


def predictor(support_SD: Tensor, target_TD: Tensor, ridge: float) -> Tensor:
    """The matrix A (T, S) that turns support labels into predictions.

    Args:
        support_SD, target_TD: features of any float dtype.
        ridge: lambda as a share of the support kernel's mean diagonal.
    """
    width = support_SD.shape[1]
    kernel_SS = support_SD @ support_SD.T / width
    damped = kernel_SS + ridge * kernel_SS.diagonal().mean() * torch.eye(len(kernel_SS)).to(kernel_SS)
    return torch.linalg.solve(damped, support_SD @ target_TD.T / width).T


def centred(classes_N: Tensor, count: int) -> Tensor:
    """One-hot vectors minus their mean 1 / K, (N, K) float64; rows sum to 0."""
    return F.one_hot(classes_N, count).double() - 1 / count


def solve_labels(support_SD: Tensor, target_TD: Tensor, targets_TK: Tensor, ridge: float) -> Tensor:
    """The support labels (S, K) whose kernel regression predicts the targets best, of least norm where several do."""
    return torch.linalg.pinv(predictor(support_SD, target_TD, ridge)) @ targets_TK


@frozen(kw_only=True, eq=False)
class LabelSolve(Plugin):
    """Offer the rule ``label-solve`` for ``--labels``."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "the labels that predict the real data best by kernel regression, in closed form"
    paper: ClassVar[str] = "Dataset Meta-Learning from Kernel Ridge-Regression, ICLR 2021, arXiv:2011.00050"
    role: ClassVar[str] = "labels"
    labellers: ClassVar[tuple[str, ...]] = ("label-solve",)

    count: int = option(4, help="untrained networks whose features are joined", validator=ge(1))
    targets: int = option(
        100, help="real images of a class to predict", symbol="|T| / K", unit="images", validator=ge(1)
    )
    ridge: float = option(
        1e-3, help="ridge, as a share of the kernel's mean diagonal", symbol="lambda", validator=gt(0)
    )
    sharpness: float = option(8.0, help="what the solved labels are multiplied by to be logits", validator=gt(0))

    @hookimpl
    def ddcore_label(self, name: str, images: Tensor, classes: Tensor, run: "Run") -> Labels | None:
        """``label-solve``: the same random features and real images for whatever images are to be labelled."""
        if name != "label-solve":
            return None
        real, truth = self._targets(run)
        support_SD, target_TD = [], []
        for number in range(self.count):
            network = run.network(run.generator("label-solve", "network", number)).eval()
            support_SD.append(features(network, images).double())
            target_TD.append(features(network, real).double())
        count = len(run.source.classes)
        wanted = centred(truth, count).to(images.device)
        solved = solve_labels(torch.cat(support_SD, 1), torch.cat(target_TD, 1), wanted, self.ridge)
        return SoftLabels((self.sharpness * solved).float().cpu(), classes.cpu())

    def _targets(self, run: "Run") -> tuple[Tensor, Tensor]:
        """Up to ``targets`` random real images of each class, and their classes."""
        images, classes = [], []
        for cls, available in enumerate(run.real.counts()):
            chosen = run.real.sample(cls, min(self.targets, available), run.generator("label-solve", "real", cls))
            images.append(chosen)
            classes.append(torch.full((len(chosen),), cls))
        return torch.cat(images), torch.cat(classes)
