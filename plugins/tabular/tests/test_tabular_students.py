"""Networks, trees and neighbours, and their scores."""

import pytest
import torch
from ddcore_tabular.networks import network
from ddcore_tabular.scores import area, balanced_accuracy, ranked_above
from ddcore_tabular.students import STUDENTS, Rows, answered, neighbours
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from ddcore import InputError


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blobs(count, seed, classes=3):
    labels = torch.arange(count) % classes
    return Rows(drawn(count, 4, seed=seed) + 4 * labels[:, None], labels, {})


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_those_of_scikit_learn(classes):
    scores, labels = drawn(60, classes).softmax(1).double(), torch.arange(60) % classes
    scores[:7] = scores[0]
    known = scores[:, 1] if classes == 2 else scores
    theirs = roc_auc_score(labels, known, multi_class="ovr")
    assert area(scores, labels) == pytest.approx(theirs)
    answers = scores.argmax(1)
    assert balanced_accuracy(answers, labels) == pytest.approx(balanced_accuracy_score(labels, answers))


def test_one_kind_of_row_has_no_area():
    assert ranked_above(torch.tensor([0.1, 0.2]), torch.tensor([True, True])) != ranked_above(
        torch.tensor([0.1, 0.2]), torch.tensor([True, True])
    )


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_learns_gives_probabilities_and_repeats_itself(name):
    train, test = blobs(30, 0), blobs(30, 1)
    told = answered(name, train, test.samples, 3, seed=5)
    assert torch.equal(told, answered(name, train, test.samples, 3, seed=5))
    torch.testing.assert_close(told.sum(1), torch.ones(30, dtype=torch.float64))
    assert float((told.argmax(1) == test.classes).double().mean()) > 0.8


@pytest.mark.parametrize("name", STUDENTS)
def test_a_row_a_class_is_enough_and_a_class_that_is_not_there_gets_nothing(name):
    test = blobs(30, 1)
    assert answered(name, blobs(3, 0), test.samples, 3, seed=0).shape == (30, 3)
    told = answered(name, Rows(drawn(4, 4), torch.tensor([0, 0, 2, 2]), {}), test.samples, 3, seed=0)
    assert told[:, 1].eq(0).all()
    alone = answered(name, Rows(drawn(2, 4), torch.tensor([1, 1]), {}), test.samples, 3, seed=0)
    assert alone.tolist() == [[0, 1, 0]] * 30


def test_as_many_neighbours_vote_as_a_class_has_rows():
    counts = [1, 2, 3, 4, 5, 9]
    assert [neighbours(torch.arange(2).repeat(count)) for count in counts] == [1, 1, 3, 3, 5, 5]


def test_the_network_of_tables():
    made = network("tab-mlp-d3-w8", (5,), 4)
    rows = drawn(6, 5)
    assert made(rows).shape == (6, 4) and made.embed(rows).shape == (6, 8)
    torch.testing.assert_close(made.classifier(made.embed(rows)), made(rows))
    assert sum(isinstance(part, torch.nn.Linear) for part in made.modules()) == 4
    assert network("mlp", (5,), 4) is None
    with pytest.raises(InputError, match="has no layers or no width"):
        network("tab-mlp-w0", (5,), 4)
    with pytest.raises(InputError, match="is of table rows"):
        network("tab-mlp", (3, 8, 8), 4)
