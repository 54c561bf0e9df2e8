"""DisWOT's score of a student for a teacher, both untrained: how alike they see one batch.

    M_r = -1/B^2 sum (G'_t - G'_s)^2                        G = A A^T of the last feature map, rows of length 1
    M_s = -1/(D K) sum_k sum (Q_t,k - Q_s,k)^2              Q_k = g_k g_k^T of the classifier's gradient, rows likewise
    score = M_r + M_s                                        at most 0; higher is better

Shape letters: B images, C H W of a feature map, K classes, D inputs of the classifier.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Literal

import torch
from attrs import frozen
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ddcore import InputError
from ddcore.randomness import drawing_from, generator
from ddcore.training import last_linear, still_statistics

Used = Literal["both", "relation", "semantic"]
Init = Literal["normal", "own"]
Make = Callable[[Generator], nn.Module]
"""From a generator to a fresh network."""


# ---- the maths -------------------------------------------------------------------------------------------------------


def relations(features: Tensor) -> Tensor:
    """Similarities of images, (B, B): A A^T of the flattened features A, each row of length 1; rows of nothing stay 0.

    Args:
        features: (B, ...) float, of any shape behind B.
    """
    flat = _level(features.flatten(1), (0, 1))
    return _unit_rows(flat @ flat.T)


def relation_similarity(teacher: Tensor, student: Tensor) -> Tensor:
    """M_r = -1/B^2 times the sum of squared differences of ``relations``; a scalar in [-4 / B, 0], 0 for equal
    relations.

    Args:
        teacher, student: features (B, ...) of the same images; what stands behind B may differ.

    References:
        Dong, Li and Wei, CVPR 2023, arXiv:2303.15678: the loss of similarity-preserving distillation
        (arXiv:1907.09682), negative.
    """
    return -(relations(teacher) - relations(student)).square().mean()


def semantic_similarity(teacher: Tensor, student: Tensor) -> Tensor:
    """M_s = -1/(D K) sum over classes of the squared difference of g g^T with rows of length 1; a scalar in [-4, 0].

    A row i of g g^T has length |g_i| ||g||, so it becomes sign(g_i) g / ||g||, and for each class

        1/D sum (Q_t - Q_s)^2 = mean_i [ s_t,i^2 + s_s,i^2 - 2 cos(g_t, g_s) s_t,i s_s,i ],    s = sign(g)

    which takes D numbers instead of D^2. Signs are never differentiated.

    Args:
        teacher, student: gradients (K, D) of the classifiers' weights.

    Raises:
        InputError: they have different D, so that maps cannot be subtracted, or different K.

    References:
        arXiv:2303.15678. A row of g g^T that is 0 stays 0, however small the others are; the authors' code divides rows
        shorter than 1e-12 by 1e-12.
    """
    if teacher.shape != student.shape:
        both = f"{tuple(student.shape)} where the teacher's has {tuple(teacher.shape)}"
        raise InputError(
            f"the student's classifier has {both} (classes, inputs): choose a last stage as wide as the teacher's, or --use relation"
        )
    signs_t, signs_s = teacher.sign(), student.sign()
    cosines = (_unit_rows(teacher) * _unit_rows(student)).sum(1, keepdim=True)
    return -(signs_t.square() + signs_s.square() - 2 * cosines * signs_t * signs_s).mean()


def classifier_gradient(embedding: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
    """The gradient (K, D) of the mean cross entropy in the classifier's weights: 1/B (softmax(z) - onehot(y))^T x.

    Args:
        embedding: x (B, D), the classifier's input.
        logits: z (B, K).
        classes: y (B,) int64.
    """
    return (logits.softmax(1) - F.one_hot(classes, logits.shape[1])).T @ embedding / len(classes)


def _unit_rows(matrix: Tensor) -> Tensor:
    level = _level(matrix, (1,))
    length: Tensor = level.norm(dim=1, keepdim=True).clamp(min=1)  # shorter than 1 are rows of nothing alone
    return level / length


def _level(matrix: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The matrix, or each of its rows, over the largest absolute number in it, so that no square over- or underflows;
    0 stays 0."""
    most = matrix.detach().abs().amax(axes, keepdim=True)
    return matrix / torch.where(most > 0, most, torch.ones_like(most))


# ---- networks --------------------------------------------------------------------------------------------------------


@frozen(eq=False)
class Seen:
    """What an untrained network makes of a batch.

    Attributes:
        features: its last feature map before pooling.
        gradient: (K, D) of its classifier's weights.
    """

    features: Tensor
    gradient: Tensor


@frozen
class Score:
    """M_r and M_s, means over seeds."""

    relation: float
    semantic: float

    def value(self, use: Used) -> float:
        """What candidates are ranked by."""
        return {"both": self.relation + self.semantic, "relation": self.relation, "semantic": self.semantic}[use]


def gaussian(network: nn.Module, drawn: Generator) -> nn.Module:
    """The network with weights of convolutions and linear layers drawn from N(0, 1) and their biases 0,
    as the authors' rank study."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, generator=drawn)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


@torch.no_grad()
def look(network: nn.Module, images: Tensor, classes: Tensor) -> Seen:
    """What it makes of one batch, by the batch's own statistics; weights, gradients,
    statistics and mode stay as they were."""
    found: dict[str, Tensor] = {}
    linear = network.get_submodule(last_linear(network))

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            found["map" if output.shape[2] * output.shape[3] > 1 else "pixel"] = output

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    hooks.append(linear.register_forward_pre_hook(lambda _module, given: found.__setitem__("embedding", given[0])))
    try:
        with _by_the_batch(network):
            logits = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    features = found.get("map", found.get("pixel"))
    if features is None:
        raise InputError(
            f"{type(network).__name__} has no feature map, so it cannot be scored: choose a network of images"
        )
    return Seen(features, classifier_gradient(found["embedding"], logits, classes))


@contextmanager
def _by_the_batch(network: nn.Module) -> Iterator[None]:
    """In train mode; batch norms do not remember."""
    modes = {module: module.training for module in network.modules()}
    network.train()
    try:
        with still_statistics(network):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def alike(teacher: Seen, student: Seen, use: Used = "both") -> Score:
    """M_r and M_s of two networks; M_s is nan where only relations are asked for."""
    semantic = float("nan") if use == "relation" else float(semantic_similarity(teacher.gradient, student.gradient))
    return Score(float(relation_similarity(teacher.features, student.features)), semantic)


class Judge:
    """Scores candidates against one teacher: for each seed its weights and the batch are the same for all of them.

    Args:
        teacher: makes it.
        batches: images (B, C, H, W) and classes (B,) of each seed.
        init: ``normal`` draws weights from N(0, 1); ``own`` leaves the network's initialisation.
        use: which parts of the score are wanted.
        first: number of the first seed.
    """

    def __init__(
        self,
        teacher: Make,
        batches: Sequence[tuple[Tensor, Tensor]],
        init: Init = "normal",
        use: Used = "both",
        first: int = 0,
    ) -> None:
        self._batches = {first + number: batch for number, batch in enumerate(batches)}
        self._init, self._use = init, use
        self._teachers = {seed: self._seen(teacher, seed, "teacher") for seed in self._batches}

    def score(self, student: Make) -> Score:
        """Means over seeds.

        Raises:
            InputError: its classifier's input is not as wide as the teacher's.
        """
        found = [
            alike(teacher, self._seen(student, seed, "student"), self._use) for seed, teacher in self._teachers.items()
        ]
        return Score(fmean(s.relation for s in found), fmean(s.semantic for s in found))

    def _seen(self, make: Make, seed: int, who: str) -> Seen:
        drawn = generator(seed, "diswot", who)
        network = make(drawn)
        if self._init == "normal":
            network = gaussian(network, drawn)
        images, classes = self._batches[seed]
        with drawing_from(drawn, images.device):
            return look(network.to(images.device), images, classes)
