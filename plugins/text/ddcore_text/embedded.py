"""Sentences as vectors, which gradients reach: a set of such rows is distilled as one of images is.

A word's vector comes from the words beside it in the training part: positive pointwise mutual information of pairs at
most ``WINDOW`` places apart, cut to E dimensions by a singular value decomposition (Levy and Goldberg, *Neural Word
Embedding as Implicit Matrix Factorization*, NeurIPS 2014). A sentence is its words' vectors in order, (E, L), zeros
after its end. Shape letters: B sentences, L places, E numbers a word, D width, V words, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from ddcore import InputError

WINDOW = 5
ITERATIONS = 6
EXTRA = 8
GRID = 256
"""Values are whole multiples of 1 / GRID, so that two processors' last digits give the same rows."""
CONVOLUTION = re.compile(r"textcnn(-w(?P<width>\d+))?")
WIDTHS = (3, 4, 5)
CONVOLUTION_WIDTH = 64


def pairs_of(sentences: Sequence[Sequence[int]], words: int, window: int = WINDOW) -> Tensor:
    """How often two words stand at most ``window`` places apart, (V, V) sparse float64, symmetric.

    >>> pairs_of([[0, 1, 0]], 2, window=1).to_dense().tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    places = [torch.empty(2, 0, dtype=torch.int64)]
    flat = torch.tensor([word for sentence in sentences for word in sentence], dtype=torch.int64)
    of = torch.repeat_interleave(torch.arange(len(sentences)), torch.tensor([len(s) for s in sentences]))
    for apart in range(1, window + 1):
        together = of[apart:] == of[:-apart]
        left, right = flat[:-apart][together], flat[apart:][together]
        places += [torch.stack([left, right]), torch.stack([right, left])]
    index = torch.cat(places, 1)
    counts = torch.ones(index.shape[1], dtype=torch.float64)
    return torch.sparse_coo_tensor(index, counts, (words, words), check_invariants=False).coalesce()


def mutual_information(pairs: Tensor) -> Tensor:
    """Positive pointwise mutual information max(0, log(n_ab n / (n_a n_b))) of counts (V, V), sparse."""
    index, counts = pairs.indices(), pairs.values()
    each = torch.zeros(pairs.shape[0], dtype=counts.dtype).index_add_(0, index[0], counts)
    values = (counts.log() + counts.sum().log() - each[index[0]].log() - each[index[1]].log()).clamp(min=0)
    return torch.sparse_coo_tensor(index, values, pairs.shape, check_invariants=False).coalesce()


def factors(matrix: Tensor, dimensions: int, generator: Generator) -> Tensor:
    """Rows (V, E) whose products come nearest to a symmetric sparse (V, V) by its E largest singular values: U sqrt(S).

    By subspace iteration from random directions; of each column the sign is such that its cubes sum up to something
    positive. A matrix of lower rank leaves zeros.
    """
    count = min(matrix.shape[0], dimensions + EXTRA)
    basis = torch.randn(matrix.shape[0], count, generator=generator, dtype=matrix.dtype)
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(torch.sparse.mm(matrix, basis)).Q
    small = basis.T @ torch.sparse.mm(matrix, basis)
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    order = values.abs().argsort(descending=True)[:dimensions]
    found = basis @ vectors[:, order] * values[order].abs().sqrt()
    found = found * torch.where(found.pow(3).sum(0) < 0, -1.0, 1.0)
    return torch.nn.functional.pad(found, (0, dimensions - found.shape[1]))


def vectors_of(sentences: Sequence[Sequence[int]], words: int, dimensions: int, seed: int = 0) -> Tensor:
    """A vector (E,) of each of V words, float32, from the sentences that hold them, of mean square 1 over all that is
    not zero.

    Args:
        sentences: ids 0 .. V - 1.
        seed: of the directions from which the decomposition begins.
    """
    found = factors(mutual_information(pairs_of(sentences, words)), dimensions, torch.Generator().manual_seed(seed))
    there = found.abs().sum(1) > 0
    scale = found[there].square().mean().sqrt() if bool(there.any()) else found.new_ones(())
    return ((found / scale * GRID).round() / GRID).float()


def rows_of(sentences: Sequence[Sequence[int]], vectors: Tensor, length: int) -> Tensor:
    """(N, E, L) float32: the vectors of a sentence's words, cut after L, zeros after its end."""
    padded = torch.full((len(sentences), length), len(vectors), dtype=torch.int64)
    for row, sentence in zip(padded, sentences, strict=True):
        known = torch.tensor(list(sentence[:length]), dtype=torch.int64)
        row[: len(known)] = known
    table = torch.cat([vectors, torch.zeros(1, vectors.shape[1])])
    return table[padded].transpose(1, 2).contiguous()


class TextConvolution(nn.Module):
    """Convolutions over 3, 4 and 5 places, each ReLU's largest value over all places, a linear layer (Kim, EMNLP 2014,
    arXiv:1408.5882, without dropout).

    Args:
        dimensions: E.
        length: L, at least 1.
        width: channels of each convolution.
    """

    def __init__(self, dimensions: int, length: int, classes: int, width: int) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            nn.Conv1d(dimensions, width, kernel, padding=max(0, kernel - length)) for kernel in WIDTHS
        )
        self.classifier = nn.Linear(len(WIDTHS) * width, classes)

    def embed(self, rows: Tensor) -> Tensor:
        """The classifier's input (B, 3 width) for rows (B, E, L)."""
        return torch.cat([layer(rows).relu().amax(2) for layer in self.features], 1)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.classifier(self.embed(rows))  # type: ignore[no-any-return]


def network_of_rows(name: str, shape: tuple[int, ...], classes: int) -> nn.Module | None:
    """``textcnn-wN``, for rows (E, L); None for another name.

    Raises:
        InputError: samples of another shape.
    """
    found = CONVOLUTION.fullmatch(name)
    if found is None:
        return None
    if len(shape) != 2:
        raise InputError(f"network {name!r} is of rows (E, L), and samples here are {shape}: give embedded-text: data")
    return TextConvolution(*shape, classes, int(found["width"] or CONVOLUTION_WIDTH))
