"""Students chosen by a validation part: which epoch, which students, and never by the test part."""

from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from ddcore_graphs import rows as rows_module
from ddcore_graphs.choosing import BestEpoch, Regime, identity
from ddcore_graphs.graphs import joined, one_graph
from ddcore_graphs.rings import rings
from ddcore_graphs.training import Descent, Samples, train
from torch import nn

from ddcore import InputError

CURVE = [0.4, 0.7, 0.6, 0.9, 0.9, 0.5]


def pairs(count=5):
    graphs = joined([one_graph(torch.tensor([[at], [at + 1]]), torch.tensor([[0, 1], [1, 0]])) for at in range(count)])
    return Samples(graphs, torch.arange(count) % 2, torch.ones(count, dtype=torch.float64), 1)


class Sum(nn.Module):
    """Logits from the sum of a graph's labels."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(1, 2).double()

    def forward(self, graphs):
        pooled = torch.zeros(len(graphs), 1, dtype=torch.float64)
        return self.map(pooled.index_add(0, graphs.graph_of, graphs.nodes.double()))


def test_the_first_best_of_a_planted_curve_is_kept_and_its_weights_come_back():
    network = nn.Linear(1, 1)
    planted = iter(CURVE)
    best = BestEpoch(network, lambda _: next(planted))
    for step in range(len(CURVE)):
        nn.init.constant_(network.weight, step)
        best(step)
    assert (best.step, best.score) == (3, 0.9)
    assert network.weight.item() == 5
    best.restore()
    assert network.weight.item() == 3


def test_an_epoch_of_each_takes_every_sample_once_whatever_its_weight():
    descent = Descent(7, 2, 0.1, 0.0, each=True)
    batches = list(islice(descent.batches(torch.tensor([9.0, 1, 1, 1, 1]), torch.Generator().manual_seed(0)), 6))
    assert [len(batch) for batch in batches] == [2, 2, 1, 2, 2, 1] and descent.epoch(5) == 3
    for epoch in (batches[:3], batches[3:]):
        assert sorted(torch.cat(epoch).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("each", [True, False])
def test_training_is_a_plain_loop_in_float64(each):
    """Adam with an L2 term, written out, on the batches that the descent draws."""
    samples, descent = pairs(), Descent(4, 2, 0.05, 0.1, each)
    torch.manual_seed(0)
    network = Sum()
    twin = [p.detach().clone() for p in network.parameters()]
    seen = []
    train(network, samples, descent, torch.Generator().manual_seed(1), seen.append)
    assert seen == [0, 3, 4]
    batches = islice(descent.batches(samples.weights, torch.Generator().manual_seed(1)), 4)
    first, second = ([torch.zeros_like(p) for p in twin] for _ in range(2))
    for step, index in enumerate(batches, 1):
        weight, bias = (p.requires_grad_() for p in twin)
        loss = 0
        for at in index.tolist():
            logits = weight[:, 0] * (2 * at + 1) + bias
            loss = loss - logits.log_softmax(0)[at % 2] / len(index)
        grads = torch.autograd.grad(loss, twin)
        moved = []
        for k, (p, grad) in enumerate(zip(twin, grads, strict=True)):
            g = grad + 0.1 * p.detach()
            first[k] = 0.9 * first[k] + 0.1 * g
            second[k] = 0.999 * second[k] + 0.001 * g * g
            scale = (second[k] / (1 - 0.999**step)).sqrt() + 1e-8
            moved.append(p.detach() - 0.05 * first[k] / (1 - 0.9**step) / scale)
        twin = moved
    for own, slow in zip(network.parameters(), twin, strict=True):
        torch.testing.assert_close(own.detach(), slow, rtol=1e-10, atol=1e-12)


RESULTS = [
    {"validation": torch.tensor(v), "score": torch.tensor(float(at))}
    for at, v in enumerate([0.5, 0.9, 0.5, 0.8, 0.1, 0.7, 0.6, 0.2, 0.3, 0.4])
]


def test_best_five_of_ten_are_those_of_the_validation_part():
    regime = Regime(select="validation", average="best-five-of-ten")
    assert [int(result["score"]) for result in regime.counted(RESULTS)] == [1, 3, 5, 6, 0]
    assert regime.shown("adam-29") == "adam-29-validation-best5of10"
    every = Regime(select="validation")
    assert every.counted(RESULTS) == RESULTS and every.shown("adam-29") == "adam-29-validation"
    assert Regime().shown("adam-29") == "adam-29"


@pytest.mark.parametrize(
    ("regime", "students", "validation", "words"),
    [
        (Regime(average="best-five-of-ten"), 10, True, "add --mine.select validation"),
        (Regime(select="validation", average="best-five-of-ten"), 5, True, "give --eval-seeds 10"),
        (Regime(select="validation"), 5, None, "give --split train:test"),
    ],
)
def test_what_does_not_fit_is_refused(regime, students, validation, words):
    with pytest.raises(InputError, match=words):
        regime.check(SimpleNamespace(validation=validation, name="toy"), students, "--mine")


def test_what_a_score_depends_on_counts_the_validation_part_only_where_it_is_looked_at():
    source = rings()
    other = SimpleNamespace(validation=source.test)
    chosen = Regime(select="validation")
    assert identity(Regime(), source) == "" and identity(chosen, source) != identity(chosen, other)


def test_the_validation_part_of_rings_is_neither_train_nor_test():
    source = rings()
    parts = [{*source.bytes_of(part)} for part in (source.train, source.test, source.validation)]
    assert len(source.validation) == 50 and source.validation.labels.sum() == 25
    assert parts[2] - parts[0] - parts[1]


def test_the_test_part_is_scored_twice_only_after_all_is_chosen(monkeypatch):
    """Once after the last step, once with the chosen weights; never while training."""
    source, order = rings(), []
    run = SimpleNamespace(
        source=source,
        device=torch.device("cpu"),
        config=SimpleNamespace(full_epochs=None),
        generator=lambda *key: torch.Generator().manual_seed(0),
        network=lambda generator, name: Sum().float(),
    )
    pack = SimpleNamespace(student_steps=4, batch=4, rate=0.1, weight_decay=0.0, metric="roc-auc")
    planted = iter(CURVE)

    def scored(plugin, run, part, student):
        order.append(part)
        return next(planted) if part == "validation" else float(order.count("test")) / 10

    monkeypatch.setattr(rows_module, "pack_of", lambda run: pack)
    monkeypatch.setattr(rows_module, "_score", scored)
    monkeypatch.setattr(Sum, "forward", lambda self, graphs: self.map(torch.zeros(len(graphs), 1)))
    monkeypatch.setattr(
        rows_module, "train", lambda net, samples, descent, generator, watch: [watch(s) for s in range(6)]
    )
    result = rows_module._student(run, "distilled", "sum", 0, pairs(), Regime(select="validation", epochs=5))
    assert order == ["validation"] * 6 + ["test"] * 2
    assert (float(result["last"]), float(result["score"]), int(result["picked"])) == (0.1, 0.2, 3)
    assert int(result["steps"]) == 10
