"""Partial mixup and standardised logits: closed forms, invariances, ceilings, fractions that are what they say."""

import math

import pytest
import torch
from ddcore_mixup_kd import MixupKD, PartialMixup, divergence, mix, mixed_cross_entropy, shares, standardised
from torch.nn import functional as F

from ddcore import Batch, InputError, Vote
from ddcore.api.types import Seen
from ddcore.training.teaching import Teaching


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


S, T = seeded(6, 5), seeded(6, 5, seed=1)
CLASSES, MIXED = torch.tensor([0, 4, 2, 2, 1, 3]), torch.tensor([1, 1, 0, 2, 4, 4])
SHARE = torch.tensor([0.9, 0.5, 1.0, 0.2, 0.0, 0.6], dtype=torch.float64)


def whole(student, teacher=T, share=SHARE):
    return 0.1 * mixed_cross_entropy(student, CLASSES, MIXED, share) + 0.9 * divergence(student, teacher)


# ---- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_by_hand():
    # logits (0, 2): deviation sqrt(2), so (0, sqrt 2); the teacher's (4, 0) is (2 sqrt 2, 0) over 2 sqrt 2 ... (sqrt 2, 0)
    student, teacher = torch.tensor([[0.0, 2.0]]).double(), torch.tensor([[4.0, 0.0]]).double()
    e = math.exp(math.sqrt(2))
    log_own, log_other = math.log(1 / (1 + e)), math.log(e / (1 + e))
    due = -(0.25 * log_own + 0.75 * log_other)
    ids = torch.tensor([0]), torch.tensor([1])
    assert float(mixed_cross_entropy(student, *ids, torch.tensor([0.25]).double())) == pytest.approx(due)
    sure, rest = e / (1 + e), 1 / (1 + e)
    kl = sure * (math.log(sure) - log_own) + rest * (math.log(rest) - log_other)
    assert float(divergence(student, teacher)) == pytest.approx(kl)


def test_the_loss_is_a_slow_twins():
    total = torch.zeros((), dtype=torch.float64)
    for z_s, z_t, own, other, share in zip(S, T, CLASSES, MIXED, SHARE, strict=True):
        s, t = (z / ((z - z.mean()).square().sum() / 4).sqrt() for z in (z_s, z_t))
        told = share * F.one_hot(own, 5) + (1 - share) * F.one_hot(other, 5)
        p_s, p_t = s.softmax(0), t.softmax(0)
        total += 0.1 * -(told * p_s.log()).sum() + 0.9 * (p_t * (p_t / p_s).log()).sum()
    torch.testing.assert_close(whole(S), total / 6)


@pytest.mark.parametrize("scale", [0.01, 37.0])
def test_check_scales_and_constants_of_a_row_change_nothing_on_either_network(scale):
    moved = scale * seeded(6, 1, seed=2).abs() * S + seeded(6, 1, seed=3)
    torch.testing.assert_close(whole(moved), whole(S))
    torch.testing.assert_close(whole(S, scale * T + seeded(6, 1, seed=4)), whole(S))


def test_check_the_gradient_is_orthogonal_to_centred_logits_and_to_ones():
    student = S.clone().requires_grad_()
    whole(student).backward()
    centred = S - S.mean(1, keepdim=True)
    assert student.grad.abs().max() > 1e-3
    assert (student.grad * centred).sum(1).abs().max() < 1e-12
    assert student.grad.sum(1).abs().max() < 1e-12


def test_check_a_share_of_one_is_the_clean_loss_of_a_permuted_batch():
    order, ones = torch.randperm(6, generator=generator()), torch.ones(6, dtype=torch.float64)
    clean = 0.1 * F.cross_entropy(standardised(S), CLASSES) + 0.9 * divergence(S, T)
    permuted = mixed_cross_entropy(S[order], CLASSES[order], MIXED, ones)
    torch.testing.assert_close(0.1 * permuted + 0.9 * divergence(S[order], T[order]), clean)


def test_check_equal_logits_diverge_by_nothing():
    assert float(divergence(T, 3 * T + 1)) == pytest.approx(0, abs=1e-14)
    assert divergence(S, T) > 0.01


def test_check_without_teachers_and_mixes_it_is_the_cross_entropy_of_standardised_logits():
    ones = torch.ones(6, dtype=torch.float64)
    due = F.cross_entropy(S / S.std(1, keepdim=True), CLASSES)
    torch.testing.assert_close(mixed_cross_entropy(S, CLASSES, MIXED, ones), due)


@pytest.mark.parametrize(("classes", "most", "least"), [(100, 0.9955, 0.0045), (10, 0.724, 0.323), (2, 0.804, 0.218)])
def test_check_no_probability_is_above_the_ceiling(classes, most, least):
    sure = torch.zeros(1, classes, dtype=torch.float64)
    sure[0, 0] = 1e5
    top = float(standardised(sure).softmax(1)[0, 0])
    root = math.exp(math.sqrt(classes))
    assert top == pytest.approx(root / (root + classes - 1))
    assert top == pytest.approx(most, abs=5e-4)
    zero, one = torch.tensor([0]), torch.ones(1, dtype=torch.float64)
    assert float(mixed_cross_entropy(sure, zero, zero, one)) == pytest.approx(least, abs=5e-4)
    others = standardised(seeded(200, classes)).softmax(1).max()
    assert float(others) <= top + 1e-12


def test_check_mixed_targets_sum_to_one():
    told = mix(F.one_hot(CLASSES, 5).double(), torch.randperm(6), torch.randperm(6), SHARE)
    torch.testing.assert_close(told.sum(1), torch.ones(6).double())


def test_pitfall_rows_of_equal_logits_have_a_finite_loss_and_gradient():
    student = torch.full((2, 5), 3.0, dtype=torch.float64).requires_grad_()
    loss = mixed_cross_entropy(student, CLASSES[:2], MIXED[:2], SHARE[:2]) + divergence(student, T[:2])
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


def test_pitfall_the_deviation_has_the_divisor_of_a_sample():
    torch.testing.assert_close(standardised(S).std(1, correction=1), torch.ones(6).double())


def test_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(whole, S.clone().requires_grad_())


def test_float32_gives_float64s_numbers():
    torch.testing.assert_close(whole(S.float(), T.float(), SHARE.float()).double(), whole(S), atol=1e-6, rtol=1e-5)


# ---- the mix ---------------------------------------------------------------------------------------------------------


def batch_of(count=6, **more):
    images = seeded(count, 3, 4, 4)
    return Batch(images, {"class": torch.arange(count) % 5, **more}, torch.arange(count) + 100)


def drawn(plugin, count=6, seed=0, shared=False):
    return plugin.ddcore_augment(lambda batch: batch, count, shared, generator(seed))


def test_mixed_rows_are_the_papers_in_another_order():
    batch, first, second = batch_of(), torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([1, 2, 4, 0, 3, 5])
    out = PartialMixup(first, second, SHARE)(batch)
    due = mix(batch.inputs, first, second, SHARE)
    torch.testing.assert_close(out.inputs[first], due)
    for at in range(6):
        i, j, share = int(first[at]), int(second[at]), float(SHARE[at])
        torch.testing.assert_close(due[at], share * batch.inputs[i] + (1 - share) * batch.inputs[j])
        assert (int(out.targets["class"][i]), float(out.targets["lam"][i])) == (i % 5, share)
        assert int(out.targets["mixed"][i]) == (j % 5 if share < 1 else i % 5)
    assert torch.equal(out.index, batch.index)


def test_logits_of_labels_follow_the_mix():
    logits = seeded(6, 5, seed=8)
    first, second = torch.randperm(6, generator=generator(1)), torch.randperm(6, generator=generator(2))
    out = PartialMixup(first, second, SHARE)(batch_of(logits=logits))
    torch.testing.assert_close(out.targets["logits"][first], mix(logits, first, second, SHARE))


def test_both_orders_are_random():
    pairs = [drawn(MixupKD(mixed_fraction=1.0), seed=seed).transforms[1] for seed in range(40)]
    identity = torch.arange(6)
    assert not any(torch.equal(p.first, identity) for p in pairs)
    assert len({tuple(p.first.tolist()) for p in pairs}) > 30
    # in a cyclic roll or an identity beside a permutation, where the second image comes from would be known
    gaps = torch.stack([p.second[p.first.argsort()] - identity for p in pairs])
    assert len({tuple(gap.tolist()) for gap in gaps}) > 30


def test_check_a_fraction_of_nothing_is_no_mixup():
    source = generator()
    assert MixupKD(mixed_fraction=0.0).ddcore_augment(None, 6, False, source) is None
    assert torch.equal(source.get_state(), generator().get_state())
    assert (shares(50, 0.0, 1.0, generator()) == 1).all()


def test_check_a_fraction_of_one_mixes_all():
    assert (shares(50, 1.0, 1.0, generator()) < 1).all()


@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.5])
@pytest.mark.parametrize("count", [64, 7])
def test_check_the_fraction_that_is_mixed_is_the_one_asked_for(fraction, count):
    source, batches = generator(3), 10_000 // count
    mixed = [(shares(count, fraction, 1.0, source) < 1).sum() for _ in range(batches)]
    assert float(torch.stack(mixed).sum()) / (count * batches) == pytest.approx(fraction, abs=0.01)


@pytest.mark.parametrize(("fraction", "due"), [(0.1, (1 - 1 / 64) ** 57), (0.5, (1 - 1 / 64) ** 32)])
def test_pitfall_the_authors_draw_mixes_more_than_it_says(fraction, due):
    source = generator(5)
    mixed = [(shares(64, fraction, 1.0, source, legacy=True) < 1).float().mean() for _ in range(156)]
    assert float(torch.stack(mixed).mean()) == pytest.approx(due, abs=0.015)
    assert due == pytest.approx({0.1: 0.408, 0.5: 0.604}[fraction], abs=1e-3)


@pytest.mark.parametrize("shape", [0.2, 1.0, 4.0])
def test_shares_have_the_betas_mean_and_variance(shape):
    drawn = shares(4000, 1.0, shape, generator(2))
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(drawn.var()) == pytest.approx(1 / (4 * (2 * shape + 1)), rel=0.06)


def test_the_same_generator_mixes_the_same_again():
    one, other = (drawn(MixupKD(mixed_fraction=0.5), seed=4)(batch_of()) for _ in range(2))
    assert torch.equal(one.inputs, other.inputs) and torch.equal(one.targets["lam"], other.targets["lam"])


def test_one_draw_for_all_batches_cannot_mix_rows():
    assert drawn(MixupKD(), count=1, shared=True) is None


def test_a_batch_that_is_mixed_already_is_refused():
    again = batch_of(mixed=CLASSES, lam=SHARE)
    with pytest.raises(InputError, match="choose a --protocol without mixes"):
        drawn(MixupKD(mixed_fraction=1.0))(again)


# ---- the plugin ------------------------------------------------------------------------------------------------------


def term(plugin, targets, teachers=(T,)):
    votes = [Vote(torch.nn.Identity(), 1 / len(teachers)) for _ in teachers]
    teaching = Teaching(votes, None, told=seeded(6, 5, seed=20))
    teaching.__dict__["seen"] = tuple(Seen(z, {}) for z in teachers)
    return plugin.ddcore_student_loss(Batch(S, targets, torch.arange(6)), Seen(S, {}), teaching)


def test_the_weights_are_the_formulas():
    targets = {"class": CLASSES, "mixed": MIXED, "lam": SHARE}
    torch.testing.assert_close(term(MixupKD(), targets).value, whole(S))
    other = seeded(6, 5, seed=9)
    due = divergence(S, (T + other) / 2)
    torch.testing.assert_close(term(MixupKD(weight=1.0, hard_weight=0.0), targets, (T, other)).value, due)


def test_rows_that_nobody_mixed_have_their_own_class():
    due = F.cross_entropy(standardised(S), CLASSES)
    torch.testing.assert_close(term(MixupKD(weight=0.0, hard_weight=1.0), {"class": CLASSES}).value, due)


def test_the_labels_own_loss_is_left_out_unless_asked_for():
    assert MixupKD().label_factor() == 0
    assert MixupKD(label_weight=0.5).label_factor() == 0.5


@pytest.mark.parametrize("wrong", [{"mixed_fraction": 1.5}, {"beta": 0.0}, {"beta": 11.0}, {"weight": -1.0}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError):
        MixupKD(**wrong)
