"""How similar a source's features are to a target task: the metrics that choose and weight sources, higher is better.

Shape letters: n images of the target, d features, C target classes, Z source classes. All are invariant to the order of
images; PARC, RSA, DDS, 1-NN and the linear probe are in percent, as their authors report them.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ddcore import InputError
from ddcore_distill_weighted.heads import accuracy_held_out

DECIMALS = 6
LEAST = 1e-12


# ---- features --------------------------------------------------------------------------------------------------------


def principal(features: Tensor, count: int) -> Tensor:
    """The ``count`` directions of largest variance, (n, k), k = count or as many as the features have; exact, up to
    sign.

    Args:
        features: (n, d) float.
    """
    centred = features - features.mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    kept = min(count, _rank(values, features))
    components: Tensor = left[:, :kept] * values[:kept]
    return components


def standardised(features: Tensor) -> Tensor:
    """Columns of mean 0 and deviation 1 (divided by n); those that do not vary are left out.

    Raises:
        InputError: fewer than two columns vary, so that no two images can be correlated.
    """
    deviation = features.std(0, correction=0)
    varies = deviation > 10 * torch.finfo(features.dtype).eps * features.abs().amax(0)
    if int(varies.sum()) < 2:
        raise InputError("features of a source hardly differ between images, so it tells nothing: leave it out")
    return ((features - features.mean(0)) / deviation)[:, varies]


def _rank(values: Tensor, matrix: Tensor) -> int:
    """Singular values (descending) that are not rounding, by the usual tolerance."""
    return int((values > values[:1] * max(matrix.shape) * torch.finfo(matrix.dtype).eps).sum())


def _distances(features: Tensor, decimals: int | None) -> Tensor:
    """1 minus Pearson's correlation of every two rows, (n (n - 1) / 2,);
    a row without variation correlates with none."""
    rows = standardised(features)
    ways = F.normalize(rows - rows.mean(1, keepdim=True), dim=1, eps=LEAST)
    far = _pairs(1 - ways @ ways.T)
    return far if decimals is None else far.round(decimals=decimals)


def _pairs(square: Tensor) -> Tensor:
    """What stands above the diagonal."""
    row, column = torch.triu_indices(square.shape[0], square.shape[1], offset=1, device=square.device)
    return square[row, column]


# ---- ranks -----------------------------------------------------------------------------------------------------------


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1 on, float64; equal values share the mean of theirs.

    >>> ranks(torch.tensor([3.0, 1.0, 3.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    shared: Tensor = (counts.cumsum(0) - (counts - 1) / 2).double()[place]
    return shared


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation of ranks, a scalar in [-1, 1]; 0 where one is constant."""
    both = [r - r.mean() for r in (ranks(one), ranks(other))]
    found: Tensor = (both[0] @ both[1]) / (both[0].norm() * both[1].norm()).clamp(min=LEAST)
    return found


# ---- metrics ---------------------------------------------------------------------------------------------------------


def parc(features: Tensor, classes: Tensor, decimals: int | None = DECIMALS) -> float:
    """100 times the rank correlation between distances of features and of labels, over all pairs of images.

    Distances are 1 - Pearson of standardised features and of one-hot labels. Labels have two distances only, so that it
    reaches 100 sqrt(3 q (1 - q)) at best where features of a class differ at all, with q the share of pairs of one
    class.

    Args:
        features: (n, d) float.
        classes: (n,) int64, two or more of them.
        decimals: that distances are rounded to, so that rounding breaks no ties; None: not rounded.

    Raises:
        InputError: one class only, or features that hardly vary.

    References:
        Bolya, Mittapalli and Hoffman, NeurIPS 2021, arXiv:2111.06977. One-hot labels of any number of classes have the
        same ranks as "of one class or not".
    """
    _refuse_one_class(classes)
    apart = _pairs((classes[:, None] != classes[None, :]).double())
    return 100 * float(spearman(_distances(features, decimals), apart))


def rsa(features: Tensor, reference: Tensor, decimals: int | None = DECIMALS) -> float:
    """PARC with the features (n, any) of a network that was trained on the target in the place of labels.

    References:
        Dwivedi and Roig, CVPR 2019, arXiv:1904.11740.
    """
    return 100 * float(spearman(_distances(features, decimals), _distances(reference, decimals)))


def cka(features: Tensor, other: Tensor) -> float:
    """||F^T Y||^2 / (||F^T F|| ||Y^T Y||) of column-centred (n, d) and (n, c), Frobenius norms; in [0, 1].

    References:
        Kornblith et al., ICML 2019, arXiv:1905.00414, linear kernel; biased upward where n is not much more than d.
    """
    one, two = (x - x.mean(0) for x in (features, other))
    return _aligned(one @ one.T, two @ two.T)


def dds(features: Tensor, reference: Tensor, debiased: bool = True) -> float:
    """100 times the alignment of centred cosine dissimilarities of standardised features, in [-100, 100].

    Args:
        reference: (n, any) features of a network that was trained on the target.
        debiased: centre without the diagonal, as for an unbiased HSIC.

    Raises:
        InputError: fewer than four images.

    References:
        Dwivedi et al., ECCV 2020, arXiv:2008.02107.
    """
    if len(features) < 4:
        raise InputError(
            f"dds wants four labelled images or more, and there are {len(features)}: choose another metric"
        )
    kernels = []
    for x in (features, reference):
        ways = F.normalize(standardised(x), dim=1, eps=LEAST)
        kernels.append(_centred(1 - ways @ ways.T, debiased))
    return 100 * _aligned(*kernels)


def leep(probabilities: Tensor, classes: Tensor) -> float:
    """Mean over images of log sum_z P(y_i | z) theta_iz, at most 0, with theta (n, Z) the source's class probabilities.

    P(y | z) is the share of z's probability that lies on images of class y.

    References:
        Nguyen et al., ICML 2020, arXiv:2002.12462, equation 2.
    """
    joint = one_hot(classes, probabilities).T @ probabilities
    given = joint / probabilities.sum(0).clamp(min=torch.finfo(probabilities.dtype).tiny)
    return float((given[classes] * probabilities).sum(1).log().mean())


def nce(assigned: Tensor, classes: Tensor) -> float:
    """-H(Y | Z), at most 0, of target classes and the source's most likely classes ``assigned`` (n,), natural
    logarithm.

    References:
        Tran, Nguyen and Hassner, ICCV 2019, arXiv:1908.08142. 0 log 0 is 0, where the code of PARC adds 1e-5 to every
        share.
    """
    pairs = torch.zeros(int(classes.max()) + 1, int(assigned.max()) + 1, dtype=torch.float64)
    pairs.index_put_((classes.cpu(), assigned.cpu()), torch.ones(len(classes), dtype=torch.float64), accumulate=True)
    joint, marginal = pairs / len(classes), pairs.sum(0, keepdim=True) / len(classes)
    return float((torch.xlogy(joint, joint) - torch.xlogy(joint, marginal)).sum())


def h_score(features: Tensor, classes: Tensor) -> float:
    """Trace of pinv(Cov F) Cov(class means of F), in [0, C - 1]: how much of the features' space tells classes apart.

    It is ||P U||^2 with U an orthonormal basis of the centred features and P the projection on class means, and so the
    same for features under any invertible linear map; C - 1 for any features of n - 1 dimensions.

    References:
        Bao et al., ICIP 2019.
    """
    centred = features - features.mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    basis = left[:, : _rank(values, features)]
    member = one_hot(classes, features)
    means = (member.T @ basis) / member.sum(0).clamp(min=1)[:, None]
    return float(means[classes].square().sum())


def nearest_neighbour(features: Tensor, classes: Tensor) -> float:
    """Percent of images whose nearest other image (Euclidean, the first of equally near ones) has their class."""
    far = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(float("inf"))
    return 100 * float((classes[far.argmin(1)] == classes).double().mean())


def linear_probe(features: Tensor, classes: Tensor, l2: float, folds: int = 5) -> float:
    """Percent of images that a logistic regression on the other folds gets right; see ``heads``."""
    return 100 * accuracy_held_out(features, classes, int(classes.max()) + 1, l2, folds)


def one_hot(classes: Tensor, like: Tensor) -> Tensor:
    """(n, C) in the type of ``like``, C the largest class and one."""
    return F.one_hot(classes).to(like)


def _centred(kernel: Tensor, debiased: bool) -> Tensor:
    """Rows and columns of mean 0; ``debiased``: without the diagonal (Szekely and Rizzo, Annals of Statistics 2014)."""
    if not debiased:
        means = kernel.mean(0)
        return kernel - means[:, None] - means[None, :] + means.mean()
    count = len(kernel)
    off = kernel - kernel.diagonal().diag()
    means = off.sum(0) / (count - 2)
    means = means - means.sum() / (2 * (count - 1))
    return (off - means[:, None] - means[None, :]).fill_diagonal_(0)


def _aligned(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()).clamp(min=torch.finfo(one.dtype).tiny))


def _refuse_one_class(classes: Tensor) -> None:
    if len(classes.unique()) < 2:
        raise InputError("all labelled images are of one class, so no source can be judged: label more of them")
