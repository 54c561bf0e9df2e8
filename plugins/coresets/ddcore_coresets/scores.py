"""Scores: one number for each sample, from what networks say about it. Every docstring tells the direction.

Wherever a score is a mean over networks or over epochs, they are leading axes and any number of them may stand there.

Shape letters: R networks, T epochs, N samples, K classes, D features.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy, normalize, one_hot

from ddcore.devices import at_once

GRADIENTS_AT_ONCE = 2**21
"""Numbers in the per-sample gradients that are held at once on a CPU, whose cache should hold them; off it,
64 times as many."""


def errors(logits_NK: Tensor, classes_N: Tensor) -> Tensor:
    """softmax(z) - e_y, the gradient of the cross entropy in the logits.

    Args:
        logits_NK: (..., N, K), any float dtype.
        classes_N: whole numbers in [0, K).

    Returns:
        (..., N, K) in [-1, 1]; each row sums to 0.
    """
    return logits_NK.softmax(-1) - one_hot(classes_N.long(), logits_NK.shape[-1]).to(logits_NK)


def el2n(logits_RNK: Tensor, classes_N: Tensor) -> Tensor:
    """Length of the error vector, ||softmax(z) - e_y||_2, mean over the networks. High = hard.

    Args:
        logits_RNK: (..., N, K), of several networks early in training.
        classes_N: int64.

    Returns:
        (N,) in [0, sqrt 2]: 0 when certain and right, sqrt(1 - 1/K) when undecided, sqrt 2 when certain and wrong.

    References:
        Paul et al., NeurIPS 2021, arXiv:2107.07075, the EL2N score.

    >>> logits = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    >>> [round(float(s), 4) for s in el2n(logits, torch.tensor([0, 0, 0]))]
    [0.7071, 0.0, 1.4142]
    """
    return _mean_of_leading(errors(logits_RNK, classes_N).norm(dim=-1))


def grand_last_layer(logits_RNK: Tensor, classes_N: Tensor, features_RND: Tensor) -> Tensor:
    """Length of the loss's gradient in the last linear layer alone, mean over the networks. High = hard.

    With weights and bias that gradient is (p - e_y) (h, 1)^T, so its length is ||p - e_y|| sqrt(1 + ||h||^2).

    Args:
        logits_RNK: (..., N, K).
        classes_N: int64.
        features_RND: (..., N, D), the last layer's input.

    Returns:
        (N,) >= 0, at least float32.

    References:
        The usual stand-in for ``gradient_norms``, as in DeepCore (arXiv:2204.08499).
    """
    lengths = errors(logits_RNK, classes_N).norm(dim=-1)
    wide = features_RND.to(torch.promote_types(features_RND.dtype, torch.float32))  # squares overflow in half precision
    return _mean_of_leading(lengths * (1 + wide.square().sum(-1)).sqrt())


def gradient_norms(network: nn.Module, images_NCHW: Tensor, classes_N: Tensor) -> Tensor:
    """GraNd of one network: length of the gradient of each sample's cross entropy in all parameters. High = hard.

    Args:
        network: in eval mode, so that samples do not mix; average the scores of several networks early in training.
        images_NCHW: float.
        classes_N: int64 on the same device.

    Returns:
        (N,) >= 0.

    References:
        Paul et al., NeurIPS 2021, arXiv:2107.07075, the GraNd score.
    """
    weights = {name: weight.detach() for name, weight in network.named_parameters()}

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(network, weights, (image[None],)), label[None])

    of_each = vmap(grad(loss), in_dims=(None, 0, 0))
    most = GRADIENTS_AT_ONCE * at_once(images_NCHW.device, 1, elsewhere=64)
    rows = max(1, most // sum(weight.numel() for weight in weights.values()))
    norms = []
    for images, classes in zip(images_NCHW.split(rows), classes_N.split(rows), strict=True):
        gradients = of_each(weights, images, classes).values()
        norms.append(torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt())
    return torch.cat(norms)


def margins(logits_NK: Tensor, classes_N: Tensor) -> Tensor:
    """How far the own class's logit is above the largest other one, z_y - max_{k != y} z_k. Low = hard or mislabelled.

    Args:
        logits_NK: (..., N, K), logits and not probabilities, in which margins saturate.
        classes_N: int64.

    Returns:
        (..., N); positive exactly where the classifier is right; a constant added to all logits changes nothing.
    """
    own = one_hot(classes_N.long(), logits_NK.shape[-1]).bool()
    others = logits_NK.masked_fill(own, -torch.inf).amax(-1)
    return logits_NK.masked_fill(~own, 0).sum(-1) - others


def aum(logits_TNK: Tensor, classes_N: Tensor) -> Tensor:
    """Area under the margin: the mean of ``margins`` over epochs (and networks). Low = hard or mislabelled.

    Args:
        logits_TNK: (..., N, K), one set of logits an epoch.
        classes_N: int64.

    Returns:
        (N,).

    References:
        Pleiss et al., NeurIPS 2020, arXiv:2001.10528, section 3.

    >>> aum(torch.tensor([[[2.0, 1.0, 0.0]], [[2.0, 1.0, 0.0]]]), torch.tensor([0]))
    tensor([1.])
    """
    return _mean_of_leading(margins(logits_TNK, classes_N))


def forgetting(correct_TN: Tensor) -> Tensor:
    """How often a sample was right at one look and wrong at the next, mean over the networks. High = hard.

    A sample that a network never got right counts as forgotten T times, which is more than any other can reach.

    Args:
        correct_TN: (..., T, N) bool or 0 and 1, in the order of training.

    Returns:
        (N,) float32 in [0, T].

    References:
        Toneva et al., ICLR 2019, arXiv:1812.05159, section 3; the authors' code adds runs up instead.

    >>> forgetting(torch.tensor([[1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]]).bool())
    tensor([2., 4., 0.])
    """
    correct_TN = correct_TN.bool()
    forgotten = (correct_TN[..., :-1, :] & ~correct_TN[..., 1:, :]).sum(-2)
    never = ~correct_TN.any(-2)
    return _mean_of_leading(torch.where(never, correct_TN.shape[-2], forgotten).float())


def least_confidence(logits_NK: Tensor) -> Tensor:
    """1 - max_k p_k, with p the softmax of the logits. High = uncertain.

    Returns:
        (N,) in [0, 1 - 1/K].
    """
    return 1 - logits_NK.softmax(-1).amax(-1)


def entropy(logits_NK: Tensor) -> Tensor:
    """-sum_k p_k log p_k in nats. High = uncertain.

    Returns:
        (N,) in [0, log K].
    """
    log_p = logits_NK.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def confidence_margin(logits_NK: Tensor) -> Tensor:
    """The largest probability minus the second largest, whatever the label. Low = uncertain.

    Returns:
        (N,) in [0, 1].
    """
    first, second = logits_NK.softmax(-1).topk(2, dim=-1).values.unbind(-1)
    return first - second


def distance_to_median(features_ND: Tensor, classes_N: Tensor) -> Tensor:
    """Distance of each sample's features from its class's median vector. Low = typical; moderate keeps the middle.

    The median is taken feature by feature; of an even number of samples it is the mean of the middle two.

    Args:
        features_ND: any float dtype.
        classes_N: int64.

    Returns:
        (N,) >= 0.

    References:
        Xia et al., ICLR 2023, "Moderate Coreset", section 3.
    """
    distances = features_ND.new_empty(len(features_ND))
    for cls in classes_N.unique():
        own = classes_N == cls
        ordered = features_ND[own].sort(0).values
        median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        distances[own] = (features_ND[own] - median).norm(dim=1)
    return distances


def gradient_directions(logits_NK: Tensor, classes_N: Tensor, features_ND: Tensor) -> tuple[Tensor, Tensor]:
    """The direction of each sample's last-layer gradient, as two factors, so that it is never written out.

    The gradient is the outer product of p - e_y and (1, h), and so the cosine of two gradients is the product of the
    cosines of their factors: ``(errors @ errors.T) * (inputs @ inputs.T)``.

    Returns:
        errors (N, K) and inputs (N, D + 1), their rows of length 1; a sample without error has a row of zeros.
    """
    ones = features_ND.new_ones(len(features_ND), 1)
    return normalize(errors(logits_NK, classes_N), dim=1), normalize(torch.cat([ones, features_ND], 1), dim=1)


def _mean_of_leading(scores: Tensor) -> Tensor:
    """(..., N) to (N,)."""
    return scores.reshape(-1, scores.shape[-1]).mean(0)
