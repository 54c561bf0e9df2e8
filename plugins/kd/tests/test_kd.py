"""Losses of distillation: closed forms, limits, identities, slow twins, gradients by finite differences."""

import math

import pytest
import torch
from ddcore_kd import (
    KD,
    Regressor,
    attention,
    attention_loss,
    decoupled,
    hint,
    hinton,
    relations,
    stages,
)
from torch.nn import functional as F

from ddcore import InputError, Progress, Vote
from ddcore.api.types import Seen
from ddcore.networks import build
from ddcore.training import Teaching, seen_of, tapped


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


S, T = seeded(6, 5), seeded(6, 5, seed=1)
CLASSES = torch.tensor([0, 4, 2, 2, 1, 3])


# ---- logits ----------------------------------------------------------------------------------------------------------


def test_check_equal_logits_cost_nothing_and_have_no_gradient():
    student = T.clone().requires_grad_()
    loss = hinton(student, T, 4.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert student.grad.abs().max() < 1e-12


def test_check_constants_of_a_row_change_nothing_and_the_loss_is_positive():
    shift = seeded(6, 1, seed=2)
    assert torch.allclose(hinton(S + shift, T, 4.0), hinton(S, T, 4.0))
    assert torch.allclose(hinton(S, T + shift, 4.0), hinton(S, T, 4.0))
    assert hinton(S, T, 4.0) > 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_check_the_gradient_is_temperature_over_batch_times_the_gap_of_probabilities(temperature):
    student = S.clone().requires_grad_()
    hinton(student, T, temperature).backward()
    due = temperature / 6 * ((S / temperature).softmax(1) - (T / temperature).softmax(1))
    torch.testing.assert_close(student.grad, due)


def test_check_at_great_temperature_the_gradient_is_the_gap_of_centred_logits():
    student = S.clone().requires_grad_()
    hinton(student, T, 1e4).backward()
    gap = (S - S.mean(1, keepdim=True)) - (T - T.mean(1, keepdim=True))
    torch.testing.assert_close(student.grad, gap / (6 * 5), atol=4e-5, rtol=0)


def test_check_a_sure_teacher_at_temperature_one_is_cross_entropy():
    sure = torch.zeros_like(T).scatter(1, CLASSES[:, None], 1e4)
    torch.testing.assert_close(hinton(S, sure, 1.0), F.cross_entropy(S, CLASSES))


def test_check_the_mean_is_over_rows_and_not_over_elements():
    elementwise = F.kl_div(S.log_softmax(1), T.softmax(1), reduction="none").mean()
    torch.testing.assert_close(hinton(S, T, 1.0), 5 * elementwise)


def test_check_decoupled_parts_make_up_the_whole():
    p_t = T.softmax(1)
    own = p_t.gather(1, CLASSES[:, None])[:, 0]
    target = decoupled(S, T, CLASSES, 1.0, 1.0, 0.0)
    others = torch.stack([decoupled(S[[i]], T[[i]], CLASSES[[i]], 1.0, 0.0, 1.0) for i in range(6)])
    torch.testing.assert_close(hinton(S, T, 1.0), target + ((1 - own) * others).mean(), rtol=0, atol=3e-16 * 10)


def test_decoupled_parts_are_those_of_two_and_of_the_other_classes():
    total = 0.0
    for z_s, z_t, y in zip(S / 2, T / 2, CLASSES, strict=True):
        p_s, p_t = z_s.softmax(0), z_t.softmax(0)
        b_s, b_t = (torch.stack([p[y], 1 - p[y]]) for p in (p_s, p_t))
        rest = [c for c in range(5) if c != y]
        q_s, q_t = z_s[rest].softmax(0), z_t[rest].softmax(0)
        total = total + 3.0 * (b_t * (b_t / b_s).log()).sum() + 7.0 * (q_t * (q_t / q_s).log()).sum()
    torch.testing.assert_close(decoupled(S, T, CLASSES, 2.0, 3.0, 7.0), 4 * total / 6)


def test_extreme_logits_stay_finite_in_the_decoupled_loss():
    sure = torch.zeros(1, 5, dtype=torch.float64)
    sure[0, 2] = 2000.0
    wrong = -sure
    for student, teacher in ((sure, wrong), (wrong, sure), (sure, sure)):
        assert torch.isfinite(decoupled(student, teacher, torch.tensor([2]), 1.0, 1.0, 8.0))


def test_a_class_that_the_teacher_rules_out_weighs_nothing():
    # T = 1, y = 0, alpha = beta = 1: b_t = (1/3, 2/3), q_t = (1, 0); student (0, log 2, log 3): b_s = (1/6, 5/6), q_s = (2/5, 3/5)
    teacher = torch.tensor([[0.0, math.log(2), -math.inf]]).double()
    student = torch.tensor([[1.0, 2.0, 3.0]]).double().log().requires_grad_()
    loss = decoupled(student, teacher, torch.tensor([0]), 1.0, 1.0, 1.0)
    due = math.log(2) / 3 + 2 / 3 * math.log((2 / 3) / (5 / 6)) - math.log(2 / 5)
    assert float(loss.detach()) == pytest.approx(due)
    loss.backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_to_single_in_the_decoupled_loss(dtype):
    got = decoupled(S.to(dtype), T.to(dtype), CLASSES, 4.0, 1.0, 8.0)
    exact = decoupled(S.to(dtype).double(), T.to(dtype).double(), CLASSES, 4.0, 1.0, 8.0)
    torch.testing.assert_close(got, exact.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", [lambda s: hinton(s, T, 3.0), lambda s: decoupled(s, T, CLASSES, 3.0, 1.0, 8.0)])
def test_gradients_are_those_of_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, S.clone().requires_grad_())


# ---- features --------------------------------------------------------------------------------------------------------


def test_check_attention_does_not_see_the_scale_of_a_map():
    features = seeded(3, 4, 5, 5)
    torch.testing.assert_close(attention(features), attention(7.5 * features))
    assert attention_loss(features, 2 * features) < 1e-30


def test_attention_is_a_unit_vector_of_mean_squares():
    features = seeded(2, 3, 2, 2)
    flat = (features**2).mean(1).reshape(2, 4)
    due = flat / flat.norm(dim=1, keepdim=True)
    torch.testing.assert_close(attention(features), due)
    other = seeded(2, 6, 2, 2, seed=3)
    torch.testing.assert_close(attention_loss(features, other), ((due - attention(other)) ** 2).sum() / (2 * 4))


def test_the_larger_map_is_pooled_to_the_smaller():
    large, small = seeded(2, 3, 8, 8), seeded(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(attention_loss(large, small), attention_loss(F.avg_pool2d(large, 2), small))
    torch.testing.assert_close(attention_loss(small, large), attention_loss(small, F.avg_pool2d(large, 2)))


def slow_relations(x, y):
    def distances(z):
        d = torch.zeros(len(z), len(z), dtype=z.dtype)
        for i in range(len(z)):
            for j in range(len(z)):
                if i != j:
                    d[i, j] = (z[i] - z[j]).norm()
        return d / d[d > 0].mean()

    def angles(z):
        n = len(z)
        a = torch.zeros(n, n, n, dtype=z.dtype)
        for i in range(n):
            for j in range(n):
                for k in range(n):
                    u, v = z[j] - z[i], z[k] - z[i]
                    a[i, j, k] = 0 if i in (j, k) else (u / u.norm()) @ (v / v.norm())
        return a

    return 25 * F.smooth_l1_loss(distances(x), distances(y)) + 50 * F.smooth_l1_loss(angles(x), angles(y))


def test_relations_equal_a_slow_twin():
    x, y = seeded(5, 3), seeded(5, 7, seed=1)
    torch.testing.assert_close(relations(x, y), slow_relations(x, y), rtol=1e-9, atol=1e-9)


def test_check_relations_do_not_see_scale_and_place():
    x = seeded(5, 3)
    moved = 4.0 * x + seeded(1, 3, seed=2)
    torch.testing.assert_close(relations(x, moved), torch.zeros((), dtype=x.dtype), atol=1e-9, rtol=0)


def test_relations_of_one_row_are_0():
    x = seeded(1, 3).requires_grad_()
    loss = relations(x, seeded(1, 7, seed=1))
    loss.backward()
    assert float(loss.detach()) == 0 and not x.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_relations_keep_their_digits_in_half_precision_and_under_autocast(dtype):
    x, y = ((1 + 0.05 * seeded(8, 16, seed=seed)).to(dtype) for seed in (0, 1))
    exact = relations(x.double(), y.double()).float()
    torch.testing.assert_close(relations(x, y), exact, rtol=1e-3, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(relations(x.float(), y.float()), exact, rtol=1e-3, atol=0)


def test_relations_give_the_teacher_no_gradient():
    teacher = seeded(5, 3, seed=1).requires_grad_()
    relations(seeded(5, 3).requires_grad_(), teacher).backward()
    assert teacher.grad is None


def test_relations_of_equal_rows_have_a_finite_gradient():
    x = seeded(2, 3).repeat(2, 1).requires_grad_()
    relations(x, seeded(4, 3, seed=4)).backward()
    assert torch.isfinite(x.grad).all()


def test_gradients_of_features_are_those_of_finite_differences():
    other = seeded(4, 3, seed=5)
    assert torch.autograd.gradcheck(lambda x: relations(x, other), seeded(4, 3).requires_grad_(), atol=1e-4)
    maps = seeded(2, 3, 4, 4, seed=6)
    assert torch.autograd.gradcheck(lambda x: attention_loss(x, maps), seeded(2, 2, 4, 4).requires_grad_())


@pytest.mark.parametrize(
    ("size", "due"), [((8, 8), (8, 8)), ((8, 8), (4, 4)), ((4, 4), (8, 8)), ((7, 7), (5, 5)), ((7, 9), (5, 4))]
)
def test_a_regressor_brings_maps_to_the_teachers_shape(size, due):
    made = Regressor((2, 3, *size), (2, 5, *due)).double()(seeded(2, 3, *size))
    assert made.shape == (2, 5, *due)


@pytest.mark.parametrize(("size", "due"), [((4, 4), (7, 7)), ((8, 6), (7, 7))])
def test_a_map_that_is_too_small_is_refused(size, due):
    with pytest.raises(InputError, match="{}x{} cannot be brought to the teacher's {}x{}".format(*size, *due)):
        Regressor((2, 3, *size), (2, 5, *due))


def test_a_hint_is_a_mean_over_elements():
    x, y = seeded(2, 3, 4, 4), seeded(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(hint(x, y), ((x - y) ** 2).sum() / x.numel())


# ---- the plugin ------------------------------------------------------------------------------------------------------


def answered(*logits):
    teaching = Teaching([Vote(torch.nn.Identity(), 1 / len(logits), f"t{n}") for n in range(len(logits))], None)
    teaching.__dict__["seen"] = tuple(Seen(z, {"embedding": z, "stage2": z[:, :, None, None]}) for z in logits)
    return teaching


class Rows:
    targets = {"class": CLASSES}
    inputs = torch.zeros(6, 3, 32, 32)


def term(plugin, student, teaching, modules=None, step=0):
    return plugin.ddcore_student_loss(
        Rows, Progress(step, 10), Seen(student, {"embedding": student}), teaching, modules, None
    )


def test_weights_say_what_they_weight():
    assert float(term(KD(weight=0.5, temperature=2.0), S, answered(T)).value) == pytest.approx(
        float(0.5 * hinton(S, T, 2.0))
    )
    assert KD(label_weight=0.3).label_factor() == 0.3


def test_two_equal_teachers_are_one():
    torch.testing.assert_close(term(KD(), S, answered(T, T)).value, term(KD(), S, answered(T)).value)


def test_several_teachers_vote_by_their_mean_of_logits():
    other = seeded(6, 5, seed=9)
    torch.testing.assert_close(term(KD(weight=1.0), S, answered(T, other)).value, hinton(S, (T + other) / 2, 4.0))


def test_relations_of_several_teachers_are_weighted():
    other = seeded(6, 5, seed=9)
    plugin = KD(weight=0.0, feature="rkd", feature_weight=2.0)
    due = 2.0 * (relations(S, T) + relations(S, other)) / 2
    torch.testing.assert_close(term(plugin, S, answered(T, other)).value, due)


def test_attention_is_summed_over_all_stages_that_both_networks_have():
    own = {f"stage{n}": seeded(6, 3, 4, 4, seed=n) for n in (10, 2, 1, 3, 4)}
    others = {f"stage{n}": seeded(6, 5, 4, 4, seed=20 + n) for n in (1, 2, 3, 4)}
    teaching = answered(T)
    teaching.__dict__["seen"] = (Seen(T, {**others, "embedding": T}),)
    plugin = KD(weight=0.0, feature="at")
    got = plugin.ddcore_student_loss(Rows, Progress(0, 10), Seen(S, {**own, "stage1.0": S}), teaching, None, None).value
    due = sum(attention_loss(own[f"stage{n}"], others[f"stage{n}"]) for n in (1, 2, 3, 4))
    torch.testing.assert_close(got, 1000 * due)
    assert plugin.taps() == ("stage*",)


def apart(count, side):
    """Maps of a student and a teacher that look at different places: their attention has no place in common."""
    one, other = torch.zeros(2, count, 3, side, side, dtype=torch.float64)
    one[:, :, 0, 0], other[:, :, -1, -1] = 2.0, 5.0
    return one, other


@pytest.mark.parametrize("side", [2, 4, 8, 32])
def test_maps_that_have_nothing_in_common_cost_two_over_the_places(side):
    one, other = apart(6, side)
    assert float(attention_loss(one, other)) == pytest.approx(2 / side**2)
    assert float(attention_loss(one, other, 64)) == pytest.approx(2 / 64)  # whatever their size


@pytest.mark.parametrize(
    ("places", "image", "sides", "due"),
    [
        ("own", 32, (32, 16, 8), 2 / 1024 + 2 / 256 + 2 / 64),
        ("image", 32, (32, 16, 8), 2 / 1024 + 2 / 256 + 2 / 64),
        ("stage", 32, (32, 16, 8), 2 / 1024 + 2 / 256 + 2 / 64),
        ("image", 32, (16, 8, 4, 4), 2 / 256 + 2 / 64 + 2 / 16 + 2 / 16),  # a VGG network's, of the published pairs
        ("stage", 32, (16, 8, 4, 4), 2 / 1024 + 2 / 256 + 2 / 64 + 2 / 16),
        ("own", 16, (16, 8, 4), 2 / 256 + 2 / 64 + 2 / 16),
        ("image", 16, (16, 8, 4), 2 / 1024 + 2 / 256 + 2 / 64),
        ("stage", 16, (16, 8, 4), 2 / 1024 + 2 / 256 + 2 / 64),
        ("own", 16, (8, 4, 2), 2 / 64 + 2 / 16 + 2 / 4),
        ("image", 16, (8, 4, 2), 2 / 256 + 2 / 64 + 2 / 16),  # behind pooling, as the same network on 32 pixels
        ("stage", 16, (8, 4, 2), 2 / 1024 + 2 / 256 + 2 / 64),
        ("image", 64, (64, 32, 16), 2 / 1024 + 2 / 256 + 2 / 64),
    ],
)
def test_attention_weighs_as_much_at_every_geometry(places, image, sides, due):
    both = [apart(6, side) for side in sides]
    own, other = ({f"stage{n}": pair[at] for n, pair in enumerate(both, 1)} for at in (0, 1))
    teaching = answered(T)
    teaching.__dict__["seen"] = (Seen(T, other),)
    rows = Rows()
    rows.inputs = torch.zeros(6, 3, image, image)
    plugin = KD(weight=0.0, feature="at", at_places=places)
    term = plugin.ddcore_student_loss(rows, Progress(0, 10), Seen(S, own), teaching, None, None)
    assert float(term.value) == pytest.approx(1000 * due)


def test_attention_before_pooling_takes_those_maps_of_networks_that_pool_and_the_stages_of_others():
    convnet, resnet = (
        build(name, 3, 16, 5, torch.Generator().manual_seed(0)).eval() for name in ("convnet3-w4", "resnet8")
    )
    plugin, images = KD(weight=0.0, feature="at", at_unpooled=True, at_places="own"), torch.rand(6, 3, 16, 16)
    assert plugin.taps() == ("unpooled*",) and KD(at_unpooled=True).taps() == ()
    seen = []
    for network in (convnet, resnet):
        with torch.no_grad(), tapped(network, plugin.taps()) as found:
            seen.append(seen_of(network(images), found))
    assert [*seen[0].features] == ["unpooled1", "unpooled2", "unpooled3"]
    assert [*seen[1].features] == ["stage1", "stage2", "stage3"]
    maps = [[m.shape[2] for m in stages(each, unpooled=True)] for each in seen]
    assert maps == [[16, 8, 4]] * 2
    with torch.no_grad(), tapped(convnet, ["stage*"]) as pooled:
        convnet(images)
    for n in (1, 2, 3):
        torch.testing.assert_close(pooled[f"stage{n}"], F.avg_pool2d(seen[0].features[f"unpooled{n}"], 2))
    both = Seen(seen[0].logits, {**pooled, **seen[0].features})  # where another plugin reads the stages too
    assert [m.shape[2] for m in stages(both, unpooled=True)] == [16, 8, 4]
    assert [m.shape[2] for m in stages(both)] == [8, 4, 2]
    due = sum(attention_loss(seen[0].features[f"unpooled{n}"], seen[1].features[f"stage{n}"]) for n in (1, 2, 3))
    torch.testing.assert_close(plugin.of_features(both, told(seen[1]), None, images), due)


def told(seen):
    """One teacher, who has answered."""
    teaching = answered(T)
    teaching.__dict__["seen"] = (seen,)
    return teaching


@pytest.mark.parametrize(("feature", "whole"), [("none", False), ("at", False), ("fitnet", True), ("rkd", True)])
def test_batches_are_passed_whole_where_rows_are_compared(feature, whole):
    assert KD(feature=feature).whole_batches is whole


def test_the_warmup_rises_over_its_share():
    plugin = KD(warmup=0.4, weight=1.0)
    values = [float(term(plugin, S, answered(T), step=step).value) for step in range(10)]
    whole = float(hinton(S, T, 4.0))
    assert values[:5] == pytest.approx([0, whole / 4, whole / 2, 3 * whole / 4, whole])
    assert values[5:] == pytest.approx([whole] * 5)


def test_dkd_takes_the_place_of_the_weighted_loss():
    plugin = KD(dkd=True, alpha=1.0, beta=2.0, weight=0.0)
    torch.testing.assert_close(term(plugin, S, answered(T)).value, decoupled(S, T, CLASSES, 4.0, 1.0, 2.0))


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"weight": -1.0}, {"feature_weight": math.nan}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        KD(**wrong)
