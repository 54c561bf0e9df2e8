"""Word vectors from what stands beside a word, rows of them, and the convolutions that read these."""

import math
from pathlib import Path

import pytest
import torch
from ddcore_text import Text
from ddcore_text.embedded import (
    GRID,
    TextConvolution,
    factors,
    mutual_information,
    network_of_rows,
    pairs_of,
    rows_of,
    vectors_of,
)

from ddcore import InputError, Subject
from ddcore.cli.app import invoke

SENTENCES = [[0, 1, 2, 1], [2, 3], [], [0, 0, 3, 1, 2, 4]]
SST2 = Path("../shared/data/sst2")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_pairs_are_those_of_a_plain_count():
    wanted = torch.zeros(5, 5, dtype=torch.float64)
    for sentence in SENTENCES:
        for at, word in enumerate(sentence):
            for other in range(max(0, at - 2), min(len(sentence), at + 3)):
                wanted[word, sentence[other]] += other != at
    assert torch.equal(pairs_of(SENTENCES, 5, window=2).to_dense(), wanted)


def test_mutual_information_is_the_logarithm_of_the_share_above_chance_and_never_negative():
    counts = pairs_of(SENTENCES, 5)
    dense, found = counts.to_dense(), mutual_information(counts).to_dense()
    total = float(dense.sum())
    for a in range(5):
        for b in range(5):
            n = float(dense[a, b])
            wanted = max(0.0, math.log(n * total / float(dense[a].sum() * dense[b].sum()))) if n else 0.0
            assert float(found[a, b]) == pytest.approx(wanted, abs=1e-12)
    assert float(found.min()) == 0 < float(found.max())


def test_factors_are_those_of_the_whole_decomposition():
    root = torch.randn(40, 6, generator=seeded(), dtype=torch.float64)
    matrix = root @ torch.diag(torch.tensor([9.0, 7.0, 5.0, 3.0, 1.0, 0.5]).double()) @ root.T
    found = factors(matrix.to_sparse(), 4, seeded(1))
    left, values, _ = torch.linalg.svd(matrix)
    assert torch.allclose(found @ found.T, left[:, :4] * values[:4] @ left[:, :4].T, atol=1e-6)
    assert torch.allclose(found, factors(matrix.to_sparse(), 4, seeded(2)), atol=1e-6)


def test_a_matrix_of_few_words_leaves_zeros():
    found = factors(torch.eye(2, dtype=torch.float64).to_sparse(), 5, seeded())
    assert found.shape == (2, 5) and torch.equal(found[:, 2:], torch.zeros(2, 3).double())


def test_vectors_lie_on_a_grid_with_a_mean_square_of_one_and_words_in_one_place_are_alike():
    one, other = torch.tensor([3, 4]).tolist(), torch.tensor([5, 6]).tolist()
    sentences = [[0, one[n % 2], 1] for n in range(40)] + [[2, other[n % 2], 7] for n in range(40)]
    vectors = vectors_of(sentences, 8, 4)
    assert torch.equal(vectors * GRID, (vectors * GRID).round())
    assert float(vectors.square().mean()) == pytest.approx(1, abs=0.01)
    near = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=2)
    assert near[3, 4] > 0.95 and near[5, 6] > 0.95 and abs(near[3, 5]) < 0.1


def test_rows_are_the_words_vectors_in_order_cut_and_filled_up_with_zeros():
    vectors = torch.arange(6.0).reshape(3, 2)
    assert rows_of([[2, 0], [1, 1, 2, 0]], vectors, 3).tolist() == [
        [[4, 0, 0], [5, 1, 0]],
        [[2, 2, 4], [3, 3, 5]],
    ]


def test_a_convolution_is_blind_to_where_words_stand_and_embed_feeds_its_last_layer():
    torch.manual_seed(0)
    net = TextConvolution(3, 12, 2, 5).double()
    phrase = torch.randn(1, 3, 4, dtype=torch.float64)
    early, late = torch.zeros(2, 1, 3, 12, dtype=torch.float64)
    early[:, :, 4:8], late[:, :, 5:9] = phrase, phrase
    assert torch.allclose(net(early), net(late), atol=1e-12)
    assert torch.equal(net.classifier(net.embed(early)), net(early)) and net.embed(early).shape == (1, 15)


def test_a_convolution_reads_rows_shorter_than_it_is_wide():
    assert TextConvolution(3, 2, 4, 5)(torch.randn(6, 3, 2)).shape == (6, 4)


def test_data_hold_rows_their_price_is_that_of_ids_and_the_packs_protocol_is_theirs():
    pack = Text(length=7, dimensions=4, least=1)
    source = pack.ddcore_data("embedded-sentences", "", {})
    assert source.train.stored.shape == (400, 4, 7) and source.dense and source.modality == "embeddings"
    assert (source.price, source.statistics) == (14, ((0.0,) * 4, (1.0,) * 4))
    subject = Subject("embeddings", 7)
    assert pack.suggests_protocol(subject) == "embedded"


def test_the_test_part_has_no_say_in_the_vectors(tmp_path):
    train = "sentence\tlabel\n" + "a fine film\t1\na bad film\t0\n" * 3
    (tmp_path / "train.tsv").write_text(train)
    rows = []
    for words in ("fine film", "fine bad bad fine unheard"):
        (tmp_path / "dev.tsv").write_text(f"sentence\tlabel\n{words}\t1\nbad\t0\n")
        rows.append(Text(length=4, dimensions=2).ddcore_data("embedded-text", str(tmp_path), {}).train.stored)
    assert torch.equal(*rows)


def test_networks_are_of_what_they_are_of():
    assert network_of_rows("textcnn-w8", (3, 9), 2)(torch.zeros(2, 3, 9)).shape == (2, 2)
    assert network_of_rows("convnet3", (3, 9), 2) is None
    with pytest.raises(InputError, match=r"rows \(E, L\), and samples here are \(3, 8, 8\)"):
        network_of_rows("textcnn", (3, 8, 8), 2)
    with pytest.raises(InputError, match="is of token ids"):
        Text().ddcore_network("transformer2", 3, 9, 2, seeded(), (3, 9))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "embedded-sentences", "--text.least", "9999"], "no word of embedded-sentences is there 9999"),
        (["--dataset", "embedded-text:nowhere"], "nowhere"),
    ],
)
def test_what_cannot_work_is_one_sentence(words, said, capsys):
    assert invoke(["train", "--student", "textcnn", "--plugin", "text", "--data", *words[1:]]) == 2
    assert said in capsys.readouterr().err
