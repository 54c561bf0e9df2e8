"""Similarity metrics and heads: closed forms, ceilings, invariances, slow twins."""

import math

import pytest
import torch
from ddcore_distill_weighted.heads import chosen_l2, fit, folds_of, head_on
from ddcore_distill_weighted.similarity import (
    cka,
    dds,
    h_score,
    leep,
    linear_probe,
    nce,
    nearest_neighbour,
    one_hot,
    parc,
    principal,
    ranks,
    rsa,
    spearman,
    standardised,
)
from torch.nn import functional as F

from ddcore import InputError


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def separable(classes, each, noise=0.01, seed=0):
    labels = torch.arange(classes).repeat(each)
    return F.one_hot(labels).double() + noise * seeded(len(labels), classes, seed=seed), labels


X, Y = seeded(40, 6), torch.arange(40) % 4
METRICS = {
    "parc": parc,
    "cka": lambda x, y: cka(x, one_hot(y, x)),
    "hscore": h_score,
    "1nn": nearest_neighbour,
    "leep": lambda x, y: leep(x.softmax(1), y),
    "nce": lambda x, y: nce(x.argmax(1), y),
    "rsa": lambda x, y: rsa(x, x[:, :3] + one_hot(y, x)[:, :3]),
    "dds": lambda x, y: dds(x, x[:, :3] + one_hot(y, x)[:, :3]),
}


# ---- ranks -----------------------------------------------------------------------------------------------------------


def test_spearman_by_hand():
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, deviations sqrt(4.5) and sqrt(5)
    one, other = torch.tensor([0.0, 5.0, 5.0, 9.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert ranks(one).tolist() == [1, 2.5, 2.5, 4]
    assert float(spearman(one, other)) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert float(spearman(one, torch.ones(4))) == 0


# ---- PARC and its kin ------------------------------------------------------------------------------------------------


def slow_parc(features, labels):
    x = features[:, features.std(0) > 0]
    x = (x - x.mean(0)) / x.std(0, correction=0)
    y = F.one_hot(labels).double()
    far = []
    for z in (x, y):
        far.append([1 - float(torch.corrcoef(z[[i, j]])[0, 1]) for i in range(len(z)) for j in range(i + 1, len(z))])
    placed = []
    for values in far:
        values = [round(v, 6) for v in values]
        placed.append([sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values])
    return 100 * float(torch.corrcoef(torch.tensor(placed, dtype=torch.float64))[0, 1])


def test_parc_equals_a_slow_twin():
    assert parc(X[:15], Y[:15]) == pytest.approx(slow_parc(X[:15], Y[:15]), abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_check_samples_may_be_permuted_jointly(name):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert METRICS[name](X[order], Y[order]) == pytest.approx(METRICS[name](X, Y), abs=1e-9)


def test_check_parc_is_invariant_to_permuted_and_positively_rescaled_features():
    scale = torch.tensor([0.1, 3.0, 1.0, 70.0, 2.0, 0.5], dtype=torch.float64)
    assert parc(X[:, torch.tensor([3, 0, 5, 1, 4, 2])], Y) == pytest.approx(parc(X, Y), abs=1e-9)
    assert parc(X * scale + 5, Y) == pytest.approx(parc(X, Y), abs=1e-6)


def test_check_parc_of_random_features_is_nothing():
    values = [parc(seeded(500, 16, seed=s), torch.arange(500) % 5) for s in range(3)]
    assert all(abs(value) < 2 for value in values)


@pytest.mark.parametrize(("classes", "due"), [(5, 69), (2, 86.6)])
def test_check_parc_of_separable_features_reaches_its_ceiling_and_no_more(classes, due):
    labels = torch.arange(classes).repeat(300 // classes)
    features = F.one_hot(labels).double() @ seeded(classes, 12, seed=2) + 0.01 * seeded(len(labels), 12)
    count, each = len(labels), 300 // classes
    share = classes * each * (each - 1) / (count * (count - 1))
    assert parc(features, labels) == pytest.approx(100 * math.sqrt(3 * share * (1 - share)), abs=0.1)
    assert parc(features, labels) == pytest.approx(due, abs=1)


@pytest.mark.parametrize("classes", [5, 50])
def test_check_exact_one_hot_features_score_a_hundred_because_distances_are_rounded(classes):
    features = F.one_hot(torch.arange(classes).repeat(200 // classes)).double()
    assert parc(features, torch.arange(classes).repeat(200 // classes)) == pytest.approx(100)


def test_check_columns_that_do_not_vary_are_left_out():
    still = torch.cat([X, torch.full((40, 2), 7.3, dtype=X.dtype)], 1)
    assert standardised(still).shape == (40, 6)
    assert parc(still, Y) == pytest.approx(parc(X, Y))
    with pytest.raises(InputError, match="hardly differ between images"):
        parc(torch.ones(10, 4), torch.arange(10) % 2)


def test_check_targets_of_one_class_are_refused():
    with pytest.raises(InputError, match="of one class"):
        parc(X, torch.zeros(40, dtype=torch.int64))


def test_parc_of_the_wrong_sign_is_negative():
    # images of other classes are nearer than those of the own one
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    features = torch.tensor([[1.0, 0.1], [1.1, 0.0], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [0.0, 1.1]])
    assert parc(features.double(), labels) < 0


def test_rsa_is_parc_with_a_reference_and_a_hundred_for_itself():
    assert rsa(X, X) == pytest.approx(100)
    labels = torch.arange(4).repeat(10)
    assert rsa(X, F.one_hot(labels).double()) == pytest.approx(parc(X, labels), abs=1e-9)


def test_check_cka_of_itself_is_one_and_sees_neither_rotation_nor_scale():
    turn = torch.linalg.qr(seeded(6, 6, seed=3))[0]
    assert cka(X, X) == pytest.approx(1)
    other = seeded(40, 3, seed=5)
    assert cka(X, 4 * X @ turn + 2) == pytest.approx(1)
    assert cka(7 * X @ turn, other) == pytest.approx(cka(X, other))
    assert 0 <= cka(X, other) <= 1


def test_cka_is_the_formula_of_covariances():
    other = seeded(40, 3, seed=5)
    x, y = X - X.mean(0), other - other.mean(0)
    due = (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert cka(X, other) == pytest.approx(float(due))


def slow_dds(one, other, debiased):
    kernels = []
    for x in (one, other):
        x = (x - x.mean(0)) / x.std(0, correction=0)
        kernels.append(torch.stack([torch.stack([1 - F.cosine_similarity(a, b, dim=0) for b in x]) for a in x]))
    n = len(one)
    out = []
    for k in kernels:
        c = torch.zeros_like(k)
        for i in range(n):
            for j in range(n):
                if debiased and i != j:
                    c[i, j] = k[i, j] - k[i].sum() / (n - 2) - k[:, j].sum() / (n - 2) + k.sum() / ((n - 1) * (n - 2))
                elif not debiased:
                    c[i, j] = k[i, j] - k[i].mean() - k[:, j].mean() + k.mean()
        out.append(c)
    return 100 * float((out[0] * out[1]).sum() / (out[0].norm() * out[1].norm()))


@pytest.mark.parametrize("debiased", [True, False])
def test_dds_equals_a_slow_twin(debiased):
    other = seeded(12, 3, seed=5)
    assert dds(X[:12], other, debiased) == pytest.approx(slow_dds(X[:12], other, debiased))
    assert dds(X, X, debiased) == pytest.approx(100)
    with pytest.raises(InputError, match="four labelled images"):
        dds(X[:3], other[:3])


# ---- metrics of a source's own classes -------------------------------------------------------------------------------


def test_leep_and_nce_by_hand():
    # z = 0 for both images of class 0 and one of class 1; z = 1 for the other one of class 1
    labels, assigned = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])
    sure = F.one_hot(assigned).double()
    # P(0 | 0) = 2/3, P(1 | 0) = 1/3, P(1 | 1) = 1
    due = (2 * math.log(2 / 3) + math.log(1 / 3) + 0) / 4
    assert leep(sure, labels) == pytest.approx(due)
    assert nce(assigned, labels) == pytest.approx(due)


def test_leep_equals_a_slow_twin_and_ignores_classes_of_no_probability():
    theta = seeded(10, 4).softmax(1)
    labels, total = torch.arange(10) % 3, 0.0
    for i in range(10):
        inner = 0.0
        for z in range(4):
            share = theta[labels == labels[i], z].sum() / theta[:, z].sum()
            inner = inner + share * theta[i, z]
        total = total + inner.log()
    assert leep(theta, labels) == pytest.approx(float(total) / 10)
    wider = torch.cat([theta, torch.zeros(10, 2, dtype=theta.dtype)], 1)
    assert leep(wider, labels) == pytest.approx(leep(theta, labels))


# ---- the others ------------------------------------------------------------------------------------------------------


def test_h_score_is_the_trace_and_is_full_where_there_are_few_images():
    means = torch.stack([X[c == Y].mean(0) for c in range(4)])[Y]
    due = torch.trace(torch.linalg.pinv(torch.cov(X.T)) @ torch.cov(means.T))
    assert h_score(X, Y) == pytest.approx(float(due))
    assert h_score(X @ seeded(6, 6, seed=4) + 3, Y) == pytest.approx(h_score(X, Y))
    assert h_score(seeded(20, 64), torch.arange(20) % 4) == pytest.approx(3)


def test_check_one_nearest_neighbour_of_separable_data_is_a_hundred():
    assert nearest_neighbour(*separable(5, 10)) == 100
    # an equal image of another class is the nearest, and an image is not its own neighbour
    assert nearest_neighbour(torch.tensor([[0.0], [0.0], [5.0]]), torch.tensor([0, 1, 1])) == 0


def test_a_linear_probe_is_right_on_separable_data_and_at_chance_on_noise():
    assert linear_probe(*separable(4, 10), l2=1e-2) == 100
    assert linear_probe(seeded(900, 3), torch.arange(900) % 2, l2=1e-2) < 60  # six deviations of chance


def test_check_many_dimensions_do_not_help_a_probe_on_held_out_images():
    noise, labels = seeded(240, 800), torch.arange(240) % 3
    head = head_on(noise, labels, 3, 1e-3)
    assert (head(noise).argmax(1) == labels).all()
    assert linear_probe(noise, labels, l2=1e-3) < 55  # seven deviations over chance


def test_principal_directions_keep_the_distances_they_can_keep():
    low = seeded(30, 3) @ seeded(3, 9, seed=1)
    kept = principal(low, 5)
    assert kept.shape == (30, 3)
    torch.testing.assert_close(kept @ kept.T, (low - low.mean(0)) @ (low - low.mean(0)).T)
    assert principal(X, 2).var(0)[0] > principal(X, 2).var(0)[1]


# ---- heads -----------------------------------------------------------------------------------------------------------


def test_a_head_is_the_minimum_and_its_bias_is_not_penalised():
    weight, bias = fit(X, Y, 4, 0.1)
    rest = (F.linear(X, weight, bias).softmax(1) - F.one_hot(Y)) / 40
    torch.testing.assert_close(rest.T @ X + 0.1 * weight, torch.zeros_like(weight), atol=3e-7, rtol=0)
    torch.testing.assert_close(rest.sum(0), torch.zeros_like(bias), atol=3e-7, rtol=0)
    assert float(bias.sum()) == pytest.approx(0, abs=1e-12)


def test_a_strong_penalty_leaves_the_shares_of_the_classes():
    labels = torch.tensor([0] * 30 + [1] * 10)
    weight, bias = fit(X, labels, 2, 1e6)
    assert weight.abs().max() < 1e-5
    torch.testing.assert_close(bias.softmax(0), torch.tensor([0.75, 0.25], dtype=X.dtype), atol=1e-6, rtol=0)


def test_a_head_is_fitted_under_no_grad_and_sees_no_scale():
    with torch.no_grad():
        one, other = head_on(X, Y, 4, 0.1), head_on(50 * X - 3, Y, 4, 0.1)
    torch.testing.assert_close(one(X), other(50 * X - 3), atol=1e-6, rtol=1e-6)
    assert not list(one.parameters())


def test_folds_hold_every_class_in_turn():
    fold = folds_of(Y, 5)
    assert fold.bincount().tolist() == [8] * 5
    assert all((Y[fold == f].bincount(minlength=4) == 2).all() for f in range(5))
    assert folds_of(torch.tensor([0, 1, 2]), 5).tolist() == [0, 1, 2]


def test_noise_wants_a_stronger_penalty_than_signal():
    clear, labels = separable(3, 20)
    assert chosen_l2(clear, labels, 3) < chosen_l2(seeded(60, 20), labels, 3)
