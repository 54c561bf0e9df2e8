import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddcore.errors import InputError
from ddcore.labels import KINDS, HardLabels, Labels, SoftLabels, View, smallest_type, student_loss

CLASSES = torch.tensor([0, 1, 2, 0, 1])
SOFT = {"loss": "soft-cross-entropy", "temperature": 1.0, "tau_squared": False}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def soft(dtype: torch.dtype = torch.float32, **options: object) -> SoftLabels:
    return SoftLabels(torch.randn(5, 3, generator=seeded()).to(dtype), CLASSES, **options)


def again(labels: Labels) -> Labels:
    return KINDS[labels.kind].load(labels.header(), labels.tensors())


def test_an_epoch_visits_every_sample_once_and_keeps_the_short_last_batch():
    views = list(HardLabels(CLASSES, 3).views(0, 5, 2, seeded()))
    assert [len(view.index) for view in views] == [2, 2, 1]
    assert sorted(torch.cat([view.index for view in views]).tolist()) == [0, 1, 2, 3, 4]


def test_the_order_of_an_epoch_is_its_generators():
    orders = [[view.index.tolist() for view in soft().views(0, 5, 5, seeded(seed))] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_targets_follow_the_index_of_a_view():
    view = View(torch.tensor([4, 0, 4]))
    assert HardLabels(CLASSES, 3).targets(view)["class"].tolist() == [1, 0, 1]
    targets = soft().targets(view)
    assert torch.equal(targets["logits"], soft().logits[[4, 0, 4]]) and targets["class"].tolist() == [1, 0, 1]


@pytest.mark.parametrize(("classes", "bytes_each"), [(256, 1), (257, 2), (32768, 2), (32769, 4)])
def test_hard_labels_cost_the_smallest_type_that_holds_every_class(classes, bytes_each):
    labels = HardLabels(torch.tensor([0, classes - 1]), classes)
    assert labels.payload_bytes == 2 * bytes_each
    assert again(labels).classes.tolist() == [0, classes - 1]
    assert torch.iinfo(smallest_type(classes)).max >= classes - 1


@pytest.mark.parametrize(("dtype", "bytes_each"), [(torch.float16, 2), (torch.float32, 4), (torch.float64, 4)])
def test_soft_labels_cost_their_logits_and_a_class_id(dtype, bytes_each):
    # N = 5 samples, K = 3: N K b for the logits, one byte a sample for its class
    assert soft(dtype).payload_bytes == 5 * 3 * bytes_each + 5


@pytest.mark.parametrize(
    "labels", [HardLabels(CLASSES, 7), soft(), soft(torch.float16, temperature=20.0, tau_squared=True)]
)
def test_a_header_and_tensors_make_the_same_labels_again(labels):
    twin, view = again(labels), View(torch.arange(5))
    assert type(twin) is type(labels) and twin.recipe == labels.recipe and twin.class_count == labels.class_count
    torch.testing.assert_close(twin.targets(view, None), labels.targets(view, None), rtol=0, atol=0)


def test_labels_do_not_hold_on_to_the_graph_they_were_learned_in():
    learned = torch.zeros(5, 3, requires_grad=True)
    assert not SoftLabels(learned * 2, CLASSES).logits.requires_grad


def test_float16_logits_reach_the_student_as_float32_with_hardly_a_change_at_temperature_20():
    exact = 10 * torch.randn(5, 3, generator=seeded())
    halved = SoftLabels(exact.half(), CLASSES, 20.0).targets(View(torch.arange(5)))["logits"]
    assert halved.dtype == torch.float32
    assert ((halved / 20).softmax(1) - (exact / 20).softmax(1)).abs().max() < 1e-3


def test_hard_loss_is_the_mean_cross_entropy():
    # two equal logits: log 2; logits (0, log 3) for class 1: -log(3/4)
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])
    loss = student_loss(logits, {"class": torch.tensor([0, 1])}, {"loss": "cross-entropy"})
    torch.testing.assert_close(loss, torch.tensor((math.log(2) + math.log(4 / 3)) / 2))


def slow_soft_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    total = torch.zeros((), dtype=logits.dtype)
    for f, z in zip(logits / temperature, target / temperature, strict=True):
        p, q = z.exp() / z.exp().sum(), f.exp() / f.exp().sum()
        total = total - sum(p[c] * q[c].log() for c in range(len(p)))
    return total / len(logits)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_loss_is_its_formula_in_plain_loops(temperature):
    logits, target = (torch.randn(4, 3, generator=seeded(s), dtype=torch.float64) for s in (1, 2))
    recipe = {**SOFT, "temperature": temperature}
    torch.testing.assert_close(
        student_loss(logits, {"logits": target}, recipe), slow_soft_loss(logits, target, temperature)
    )


def test_soft_loss_has_the_gradient_of_torch_kl_div_times_tau_squared():
    logits = torch.randn(4, 3, generator=seeded(), dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 3, generator=seeded(1), dtype=torch.float64)
    recipe = {**SOFT, "temperature": 4.0, "tau_squared": True}
    divergence = F.kl_div((logits / 4).log_softmax(1), (target / 4).softmax(1), reduction="batchmean") * 4**2
    ours, theirs = (
        torch.autograd.grad(loss, logits)[0] for loss in (student_loss(logits, {"logits": target}, recipe), divergence)
    )
    torch.testing.assert_close(ours, theirs)


def test_very_confident_soft_labels_reduce_to_hard_ones():
    logits = torch.randn(5, 3, generator=seeded())
    hard = student_loss(logits, {"class": CLASSES}, {"loss": "cross-entropy"})
    confident = 1000 * F.one_hot(CLASSES, 3).float()
    torch.testing.assert_close(student_loss(logits, {"logits": confident}, SOFT), hard)


def test_soft_loss_is_differentiable_in_the_students_logits_and_in_the_labels():
    leaves = [torch.randn(2, 3, generator=seeded(s), dtype=torch.float64, requires_grad=True) for s in (1, 2)]
    assert torch.autograd.gradcheck(lambda f, z: student_loss(f, {"logits": z}, {**SOFT, "temperature": 2.0}), leaves)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HardLabels(torch.tensor([0, 3]), 3), "class 3 where there are 3"),
        (lambda: HardLabels(torch.tensor([-1]), 3), "class -1 where there are 3"),
        (lambda: HardLabels(torch.zeros(2, 2).long(), 3), r"shape \(2, 2\)"),
        (lambda: HardLabels(torch.zeros(2), 3), "torch.float32 where integers are due"),
        (lambda: SoftLabels(torch.zeros(4, 3), CLASSES), r"shape \(4, 3\) where \(5 samples"),
        (lambda: SoftLabels(torch.zeros(5), CLASSES), r"shape \(5,\)"),
        (lambda: SoftLabels(torch.zeros(5, 2), CLASSES), "class 2 where there are 2"),
        (lambda: soft(temperature=0.0), "temperature 0.0"),
        (
            lambda: HardLabels.load({"classes": 3}, {"klass": CLASSES}),
            "lack their tensor 'class': did you mean 'klass'",
        ),
        (lambda: student_loss(torch.zeros(1, 2), {}, {"loss": "contrast"}), "contrast.*upgrade"),
    ],
)
def test_what_cannot_be_labels_is_refused_in_one_sentence(make, words):
    with pytest.raises(InputError, match=words):
        make()
