"""The mean probability of teachers and a discriminator of logits: closed forms, limits, whose gradient reaches whom."""

import math

import pytest
import torch
from ddcore_meal_v2 import MEALV2, Discriminator, averaged, separation, shown, similarity
from torch import nn
from torch.nn import functional as F

from ddcore import Vote
from ddcore.api.types import Seen
from ddcore.labels import HardLabels
from ddcore.networks.zoo import build
from ddcore.training.loop import Beside, Changes, Descent, train_student
from ddcore.training.teaching import Teaching


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


S, T = seeded(6, 16), seeded(6, 16, seed=1)
OTHER = 5 * seeded(6, 16, seed=2)
LOG2 = math.log(2)


def critic(classes=16, seed=0):
    torch.manual_seed(seed)
    made = Discriminator(classes).double()
    nn.init.constant_(made.layers[-2].bias, 0.5)
    return made


# ---- the similarity loss ---------------------------------------------------------------------------------------------


def test_the_loss_by_hand():
    # teachers say (3/4, 1/4) and (1/4, 3/4): the mean is (1/2, 1/2); a student of (1/5, 4/5) loses -(log 0.2 + log 0.8) / 2
    teachers = [torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log()]
    student = torch.tensor([[1.0, 4.0]]).log()
    assert float(similarity(student, averaged(teachers))) == pytest.approx(-(math.log(0.2) + math.log(0.8)) / 2)


def test_check_rows_of_the_mean_probability_sum_to_one():
    torch.testing.assert_close(averaged([T, OTHER], [0.3, 0.7]).sum(1), torch.ones(6).double())


def test_check_the_mean_of_probabilities_is_not_that_of_logits():
    gap = averaged([T, OTHER]) - ((T + OTHER) / 2).softmax(1)
    assert gap.abs().max() > 0.05


def test_check_equal_teachers_are_one_teacher():
    torch.testing.assert_close(similarity(S, averaged([T, T, T])), similarity(S, averaged([T])))


def test_check_the_loss_is_at_least_the_entropy_and_that_where_both_agree():
    p = averaged([T, OTHER])
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(similarity(p.log(), p), entropy)
    for seed in range(20):
        assert similarity(seeded(6, 16, seed=seed), p) > entropy


def test_check_the_gradient_is_the_gap_of_probabilities_over_rows():
    student, p = S.clone().requires_grad_(), averaged([T, OTHER])
    similarity(student, p).backward()
    torch.testing.assert_close(student.grad, (S.softmax(1) - p) / 6)


def test_check_a_sure_mean_is_cross_entropy():
    classes = torch.tensor([0, 3, 5, 5, 15, 1])
    torch.testing.assert_close(similarity(S, F.one_hot(classes, 16).double()), F.cross_entropy(S, classes))


def test_the_loss_is_a_slow_twins():
    total = sum(-(t.softmax(0) + o.softmax(0)) / 2 @ s.log_softmax(0) for s, t, o in zip(S, T, OTHER, strict=True))
    torch.testing.assert_close(similarity(S, averaged([T, OTHER])), total / 6)


# ---- the discriminator -----------------------------------------------------------------------------------------------


def test_its_widths_are_the_authors_for_a_thousand_classes():
    widths = [layer.out_features for layer in Discriminator(1000).layers if isinstance(layer, nn.Linear)]
    assert widths == [125, 15, 2]
    assert [layer.out_features for layer in Discriminator(10).layers[::2]] == [2, 2, 2]


def test_it_is_three_convolutions_of_one_pixel_with_a_relu_after_each():
    made = critic()
    x = S[:, :, None, None]
    for layer in made.layers[::2]:
        x = F.conv2d(x, layer.weight[:, :, None, None], layer.bias).clamp(min=0)
    torch.testing.assert_close(made(S), x[:, :, 0, 0])
    assert (made(100 * S) >= 0).all()


def test_check_answers_of_nothing_lose_the_logarithm_of_two():
    zeros = torch.zeros(5, 2, dtype=torch.float64)
    assert float(separation(zeros, zeros)) == pytest.approx(LOG2)


def test_check_perfect_answers_that_cannot_be_negative_lose_half_of_it():
    sure = torch.zeros(5, 2, dtype=torch.float64)
    sure[:, 0] = 1e4
    assert float(separation(sure, sure.flip(1))) == pytest.approx(LOG2 / 2)
    assert separation(sure.flip(1), sure) > 1000


def test_its_loss_is_a_mean_over_rows_and_answers_of_both():
    a, b = seeded(3, 2), seeded(3, 2, seed=1)
    pairs = [(a, (1.0, 0.0)), (b, (0.0, 1.0))]
    each = [
        -math.log(torch.sigmoid(x if y else -x)) for z, due in pairs for row in z for x, y in zip(row, due, strict=True)
    ]
    assert float(separation(a, b)) == pytest.approx(sum(each) / 12)


@pytest.mark.parametrize(("mode", "factor"), [("joint", 1.0), ("detached", 0.0), ("reversed", -1.0)])
def test_check_whose_gradient_reaches_the_student(mode, factor):
    made, teacher = critic(), T.clone().requires_grad_()
    straight, student = S.clone().requires_grad_(), S.clone().requires_grad_()
    separation(made(straight), made(T)).backward()
    due = straight.grad
    own = [p.grad.clone() for p in made.parameters()]
    made.zero_grad()
    assert torch.equal(shown(student, mode), student)
    separation(made(shown(student, mode)), made(teacher.detach())).backward()
    assert due.abs().max() > 1e-5
    torch.testing.assert_close(torch.zeros_like(S) if student.grad is None else student.grad, factor * due)
    assert all(torch.equal(p.grad, g) for p, g in zip(made.parameters(), own, strict=True))
    assert teacher.grad is None


def test_gradients_are_those_of_finite_differences():
    p, made = averaged([T, OTHER]), critic()
    assert torch.autograd.gradcheck(lambda s: similarity(s, p), S.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda s: separation(made(s), made(T)), S.clone().requires_grad_())


def test_float32_gives_float64s_numbers():
    loose = similarity(S.float(), averaged([T.float(), OTHER.float()])).double()
    torch.testing.assert_close(loose, similarity(S, averaged([T, OTHER])), atol=1e-6, rtol=1e-5)


# ---- the plugin ------------------------------------------------------------------------------------------------------


def answered(*logits, told=None, weights=None):
    weights = weights or [1 / len(logits)] * len(logits)
    teaching = Teaching([Vote(nn.Identity(), w) for w in weights], None, told=told)
    if logits:
        teaching.__dict__["seen"] = tuple(Seen(z, {}) for z in logits)
    return teaching


def term(plugin, student, teaching, modules=None):
    return plugin.ddcore_student_loss(Seen(student, {}), teaching, modules).value


def test_the_loss_is_the_similarity_alone_by_default():
    torch.testing.assert_close(term(MEALV2(), S, answered(T, OTHER)), similarity(S, averaged([T, OTHER])))
    due = similarity(S, 0.25 * T.softmax(1) + 0.75 * OTHER.softmax(1))
    torch.testing.assert_close(term(MEALV2(), S, answered(T, OTHER, weights=[0.25, 0.75])), due)
    assert MEALV2().ddcore_student_modules(Seen(S, {})) is None


def test_the_discriminator_tells_the_student_from_the_mean_of_logits():
    made = critic()
    plugin = MEALV2(discriminator="joint", weight=0.0, discriminator_weight=3.0)
    due = 3 * separation(made(S), made((T + OTHER) / 2))
    torch.testing.assert_close(term(plugin, S, answered(T, OTHER), made), due)


def test_logits_that_labels_bring_are_the_teachers_only_answer():
    told = answered(told=T, weights=[0.5, 0.5])
    torch.testing.assert_close(term(MEALV2(), S, told), similarity(S, T.softmax(1)))


def test_the_labels_own_loss_is_left_out_unless_asked_for():
    assert MEALV2().label_factor() == 0
    assert MEALV2(label_weight=0.5).label_factor() == 0.5


def test_check_student_and_discriminator_keep_their_own_rates_under_a_schedule():
    plugin = MEALV2(discriminator="joint", discriminator_rate=1e-4)
    made = plugin.ddcore_student_modules(Seen(torch.zeros(1, 10), {}))
    own, seen = plugin.module_optimizer(made, 0.01), []
    assert own.param_groups[0]["weight_decay"] == 0 and own.param_groups[0]["momentum"] == 0.9

    def reshape(value, output, network, batch, clean, step):
        return value + separation(made(output), made(output.detach()))

    train_student(
        build("mlp", 1, 8, 10, torch.Generator().manual_seed(0)),
        seeded(10, 1, 8, 8).float(),
        HardLabels(torch.arange(10), 10),
        Descent(steps=4, batch=5, rate=0.01, schedule="steps", drops=(2,)),
        generator=lambda *key: torch.Generator().manual_seed(0),
        changes=Changes(reshape=reshape, also=Beside({"meal-v2": made}, {"meal-v2": own})),
        on_epoch=lambda epoch: seen.append((epoch.rate, own.param_groups[0]["lr"])),
    )
    assert seen == [(pytest.approx(0.01), pytest.approx(1e-4)), (pytest.approx(0.001), pytest.approx(1e-5))]


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"discriminator_rate": 0.0}, {"label_weight": math.nan}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        MEALV2(**wrong)
