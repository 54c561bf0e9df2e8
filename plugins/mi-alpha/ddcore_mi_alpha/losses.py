"""The losses of a pipeline, as functions of tensors. Shape letters: B rows, D width of a feature, K classes."""

import math
from typing import Literal

import torch
from scipy.optimize import linprog
from torch import Tensor
from torch.nn import functional as F

from ddcore.networks import unit_rows, wide

Intermediate = Literal["mi", "mse", "cos", "ce", "pkd"]
Map = Literal["skip", "last", "emd"]


def interpolated_bound(scores: Tensor, baseline: Tensor, alpha: float) -> Tensor:
    """I_alpha, a bound on the mutual information of what gives the scores' rows and columns; a scalar, in nats.

        n_ij = log mean over k != j of exp f_ik            b_ij = log(alpha exp n_ij + (1 - alpha) exp a_i)
        I = 1 + mean over i != j of (f_ii - b_ij) - mean over i != j of exp(f_ij - b_ii)

    For alpha = 1 the last mean is 1 and I is at most log(B - 1) (InfoNCE, one row left out): steady, and it saturates.
    For alpha = 0 it is 1 + mean (f_ii - a_i) - mean over i != j of exp(f_ij - a_i) (TUBA): it does not saturate, and it
    scatters. In between the means are at most log((B - 1) / alpha) and 1 / alpha. A constant added to all f and a
    changes nothing.

    Args:
        scores: f (B, B) of a critic, B >= 2; pairs that belong together are on the diagonal. Below float32 taken to
            float32.
        baseline: a (B,), a learned logarithm for each row.
        alpha: in [0, 1].

    Raises:
        ValueError: fewer than two rows.

    References:
        Poole et al., ICML 2019, arXiv:1905.06922, section 2.3; as used by Distiller, arXiv:2109.11105. It is a bound
        where the baseline sees what the rows stand for; see the option ``rows``.

    >>> float(interpolated_bound(torch.zeros(3, 3), torch.zeros(3), 0.5))
    0.0
    """
    rows = len(scores)
    if rows < 2:
        raise ValueError(f"a bound of {rows} rows has nobody to compare with: 2 or more are due")
    scores, baseline = wide(scores), wide(baseline)
    own = torch.eye(rows, dtype=torch.bool, device=scores.device)
    others = others_log_mean(scores)
    between = torch.logaddexp(_log(alpha) + others, _log(1 - alpha) + baseline[:, None].expand_as(others))
    joint = (scores.diagonal()[:, None] - between)[~own].mean()
    marginal = (scores - between.diagonal()[:, None])[~own].logsumexp(0) - math.log(rows * (rows - 1))
    return 1 + joint - marginal.exp()


def others_log_mean(scores: Tensor) -> Tensor:
    """n (B, B): log of the mean over k != j of exp f_ik.

    The sum without j is the whole less one part, which loses all digits only where that part is most of the whole;
    there, at a row's largest score, it is added up anew.
    """
    largest = F.one_hot(scores.argmax(1), scores.shape[1]).bool()
    anew = scores.masked_fill(largest, -math.inf).logsumexp(1, keepdim=True)
    less = scores.logsumexp(1, keepdim=True) + torch.log1p(-scores.softmax(1).masked_fill(largest, 0))
    return torch.where(largest, anew, less) - math.log(scores.shape[1] - 1)


def _log(share: float) -> float:
    return math.log(share) if share else -math.inf


def of_features(student: Tensor, teacher: Tensor, kind: Intermediate) -> Tensor:
    """What two features (B, D) of one width differ by; a scalar.

    ``mse``: mean over all elements of squares. ``cos``: mean over rows of one minus the cosine, as torch's loss has it,
    which adds 1e-12 to squared lengths. ``ce``: mean over rows of the cross entropy of their softmaxes over the D
    units. ``pkd``: mean over rows of the squared distance of the rows scaled to length 1 (arXiv:1908.09355); a row of
    length 0 stays 0.

    Raises:
        ValueError: another kind.
    """
    student, teacher = wide(student), wide(teacher)
    if kind == "mse":
        return F.mse_loss(student, teacher)
    if kind == "cos":
        return F.cosine_embedding_loss(student, teacher, student.new_ones(len(student)))
    if kind == "ce":
        return soft_cross_entropy(student, teacher, 1.0)
    if kind == "pkd":
        return (unit_rows(student) - unit_rows(teacher)).square().sum(1).mean()
    raise ValueError(f"features are compared by mse, cos, ce or pkd, not by {kind!r}")


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean over rows of - sum softmax(z_t / T) log softmax(z_s / T), a scalar; without a factor T^2."""
    student, teacher = wide(student) / temperature, wide(teacher) / temperature
    return -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()


def logit_mse(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean over all elements of squared differences of logits (B, K) divided by T, a scalar; without a factor T^2."""
    return F.mse_loss(wide(student) / temperature, wide(teacher) / temperature)


def layer_map(student: int, teacher: int, how: Map) -> list[tuple[int, int]]:
    """Which of the teacher's layers each of the student's learns from, counted from 1.

    ``skip``: layer i from the whole part of i L_t / L_s, at least the first. ``last``: from L_t - L_s + i. ``emd``:
    from all, see ``earth_mover_flow``; the pairs of the student's first layer come first.

    >>> layer_map(3, 12, "skip"), layer_map(3, 12, "last"), layer_map(3, 2, "skip")
    ([(1, 4), (2, 8), (3, 12)], [(1, 10), (2, 11), (3, 12)], [(1, 1), (2, 1), (3, 2)])

    Raises:
        ValueError: the student has more layers than the last ones of the teacher.
    """
    if how == "skip":
        return [(i, max(1, i * teacher // student)) for i in range(1, student + 1)]
    if how == "emd":
        return [(i, j) for i in range(1, student + 1) for j in range(1, teacher + 1)]
    if student > teacher:
        raise ValueError(f"a teacher of {teacher} layers has no last {student}")
    return [(i, teacher - student + i) for i in range(1, student + 1)]


def earth_mover_flow(costs: Tensor) -> Tensor:
    """The flow (S, T) that carries 1/S from each of S layers and 1/T to each of T at the least sum of flow times cost.

    Costs may be negative, as those of mi are. An exact solution of the linear program (BERT-EMD, arXiv:2010.06133),
    without gradient.

    Args:
        costs: (S, T) finite, float.

    >>> earth_mover_flow(torch.tensor([[0.0, 2.0], [1.0, 0.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    own, theirs = costs.shape
    rows = torch.eye(own, dtype=torch.float64).repeat_interleave(theirs, 1)
    columns = torch.eye(theirs, dtype=torch.float64).repeat(1, own)
    sums = torch.cat([torch.full((own,), 1 / own), torch.full((theirs,), 1 / theirs)]).double()
    cost = costs.detach().cpu().double().flatten()
    cost = cost - cost.min()
    cost = cost / cost.max().clamp(min=torch.finfo(cost.dtype).tiny)  # the solver takes what is under 1e-7 for nothing
    found = linprog(cost.numpy(), A_eq=torch.cat([rows, columns]).numpy(), b_eq=sums.numpy(), method="highs")
    return torch.from_numpy(found.x).clamp(min=0).abs().view(own, theirs).to(costs)  # without -0
