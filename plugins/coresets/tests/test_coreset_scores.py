"""Scores by hand, by limits and by slow twins."""

import math

import pytest
import torch
from ddcore_coresets import scores
from torch import nn
from torch.nn.functional import cross_entropy

from ddcore.networks.zoo import build


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(count: int, classes: int) -> torch.Tensor:
    return torch.arange(count) % classes


# ---- EL2N ------------------------------------------------------------------------------------------------------------


def test_el2n_by_hand():
    # p = (3, 1) / 4, y = 1: the error is (3/4, -3/4), of length 3 sqrt 2 / 4
    logits = torch.tensor([[math.log(3.0), 0.0]])
    torch.testing.assert_close(scores.el2n(logits, torch.tensor([1])), torch.tensor([3 * math.sqrt(2) / 4]))


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_el2n_of_uniform_probabilities_is_sqrt_of_1_minus_1_over_c(classes):
    found = scores.el2n(torch.zeros(classes, classes, dtype=torch.float64), torch.arange(classes))
    torch.testing.assert_close(found, torch.full_like(found, math.sqrt(1 - 1 / classes)))


def test_el2n_lies_between_0_where_p_is_the_label_and_sqrt_2_where_it_is_another_class():
    y = labels(60, 3)
    found = scores.el2n(20 * seeded(60, 3), y)
    assert found.min() >= 0 and found.max() <= math.sqrt(2)
    sure = 1000 * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(scores.el2n(sure, torch.arange(3)), torch.zeros(3, dtype=torch.float64))
    wrong = scores.el2n(sure, torch.tensor([1, 2, 0]))
    torch.testing.assert_close(wrong, torch.full_like(wrong, math.sqrt(2)))


def test_networks_are_averaged_by_score_and_not_by_probability():
    z, y, h = seeded(4, 6, 3), labels(6, 3), seeded(4, 6, 5, seed=1)
    torch.testing.assert_close(scores.el2n(z, y), torch.stack([scores.el2n(own, y) for own in z]).mean(0))
    each = torch.stack([scores.grand_last_layer(a, y, b) for a, b in zip(z, h, strict=True)])
    torch.testing.assert_close(scores.grand_last_layer(z, y, h), each.mean(0))


# ---- GraNd -----------------------------------------------------------------------------------------------------------


def test_last_layer_gradient_equals_el2n_times_sqrt_of_1_plus_h_squared_and_autograd():
    h, y, layer = seeded(7, 5), labels(7, 3), nn.Linear(5, 3).double()
    z = layer(h).detach()
    found = scores.grand_last_layer(z, y, h)
    torch.testing.assert_close(found, scores.el2n(z, y) * (1 + h.square().sum(1)).sqrt())
    for i in range(7):
        gradients = torch.autograd.grad(cross_entropy(layer(h[i : i + 1]), y[i : i + 1]), list(layer.parameters()))
        torch.testing.assert_close(found[i], torch.cat([g.flatten() for g in gradients]).norm())


@pytest.mark.parametrize("name", ["convnet2-w4", "mlp", "convnet2-bn-w4", "convnet2-ln-w4-max"])
@pytest.mark.parametrize("at_once", [2**21, 1])
def test_full_gradient_norms_equal_one_backward_a_sample(name, at_once, monkeypatch):
    monkeypatch.setattr(scores, "GRADIENTS_AT_ONCE", at_once)
    network = build(name, 1, 8, 3, torch.Generator().manual_seed(0)).double().eval()
    x, y = seeded(3, 1, 8, 8), labels(3, 3)
    with torch.no_grad():
        found = scores.gradient_norms(network, x, y)
    for i in range(3):
        gradients = torch.autograd.grad(cross_entropy(network(x[i : i + 1]), y[i : i + 1]), list(network.parameters()))
        torch.testing.assert_close(found[i], torch.cat([g.flatten() for g in gradients]).norm())


def test_grand_of_a_linear_classifier_is_its_last_layer_form():
    layer = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double().eval()
    x, y = seeded(6, 1, 2, 2), labels(6, 3)
    full = scores.gradient_norms(layer, x, y)
    torch.testing.assert_close(full, scores.grand_last_layer(layer(x).detach(), y, x.flatten(1)))


def test_gradient_directions_multiply_to_the_cosines_of_written_out_gradients():
    z, y, h = seeded(6, 3), labels(6, 3), seeded(6, 4, seed=1)
    first, second = scores.gradient_directions(z, y, h)
    error = scores.errors(z, y)
    written = torch.cat([error, torch.einsum("nk,nd->nkd", error, h).flatten(1)], dim=1)
    written = written / written.norm(dim=1, keepdim=True)
    torch.testing.assert_close((first @ first.T) * (second @ second.T), written @ written.T)


# ---- margins, AUM, forgetting ----------------------------------------------------------------------------------------


def test_classes_may_be_any_integers_and_large_features_in_half_precision_do_not_overflow():
    logits, classes, features = seeded(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), 300 * seeded(6, 3, seed=1)
    for dtype in (torch.uint8, torch.int32):
        assert torch.equal(scores.el2n(logits, classes.to(dtype)), scores.el2n(logits, classes))
        assert torch.equal(scores.margins(logits, classes.to(dtype)), scores.margins(logits, classes))
    half = scores.grand_last_layer(logits.half(), classes, features.half()).double()
    torch.testing.assert_close(half, scores.grand_last_layer(logits, classes, features), rtol=5e-3, atol=0)


def test_aum_of_two_equal_epochs_by_hand_and_logits_shifted_by_a_constant():
    # z_y = 2, the others 1 and 0: the margin is 1 in both epochs
    z, y = torch.tensor([[[2.0, 1.0, 0.0]], [[2.0, 1.0, 0.0]]]), torch.tensor([0])
    torch.testing.assert_close(scores.aum(z, y), torch.tensor([1.0]))
    torch.testing.assert_close(scores.aum(z + 7, y), torch.tensor([1.0]))
    torch.testing.assert_close(scores.aum(z, torch.tensor([2])), torch.tensor([-2.0]))


def test_aum_is_a_mean_over_epochs_of_logits_and_not_of_probabilities():
    # margins 4 and -1; probabilities would saturate
    z = torch.tensor([[[4.0, 0.0]], [[0.0, 1.0]]])
    torch.testing.assert_close(scores.aum(z, torch.tensor([0])), torch.tensor([1.5]))


def test_a_margin_is_positive_exactly_where_the_class_is_predicted():
    z, y = seeded(50, 4), labels(50, 4)
    assert torch.equal(scores.margins(z, y) > 0, z.argmax(1) == y)


def test_forgetting_counts_falls_and_puts_never_learned_above_all():
    histories = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]).bool().T
    torch.testing.assert_close(scores.forgetting(histories), torch.tensor([2.0, 4.0, 0.0, 0.0, 1.0]))


def test_forgetting_of_all_histories_of_six_looks_equals_a_loop_and_is_averaged_over_networks():
    histories = torch.tensor([[n >> t & 1 for n in range(64)] for t in range(6)]).bool()
    due = []
    for history in histories.T.tolist():
        falls = sum(a and not b for a, b in zip(history, history[1:], strict=False))
        due.append(6.0 if not any(history) else float(falls))
    torch.testing.assert_close(scores.forgetting(histories), torch.tensor(due))
    assert scores.forgetting(histories).argmax() == 0
    twice = torch.stack([histories, histories.flip(1)])
    torch.testing.assert_close(scores.forgetting(twice), (torch.tensor(due) + torch.tensor(due).flip(0)) / 2)


# ---- uncertainty -----------------------------------------------------------------------------------------------------


def test_uncertainty_by_hand():
    # p = (1/2, 1/4, 1/4)
    z = torch.tensor([[0.5, 0.25, 0.25]]).log()
    torch.testing.assert_close(scores.least_confidence(z), torch.tensor([0.5]))
    torch.testing.assert_close(scores.entropy(z), torch.tensor([1.5 * math.log(2)]))
    torch.testing.assert_close(scores.confidence_margin(z), torch.tensor([0.25]))


def test_uncertainty_points_from_sure_to_undecided():
    z = torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.equal(scores.least_confidence(z).argsort(), torch.arange(3))
    assert torch.equal(scores.entropy(z).argsort(), torch.arange(3))
    assert torch.equal(scores.confidence_margin(z).argsort(descending=True), torch.arange(3))


def test_entropy_of_a_certain_network_is_zero_and_finite():
    torch.testing.assert_close(scores.entropy(torch.tensor([[1000.0, 0.0]])), torch.tensor([0.0]))


# ---- moderate --------------------------------------------------------------------------------------------------------


def test_distance_to_the_class_median_by_hand():
    # class 0: 0, 1, 8 has median 1; class 1: 10, 20 has the mean of the middle two, 15
    h, y = torch.tensor([[0.0], [10.0], [1.0], [20.0], [8.0]]), torch.tensor([0, 1, 0, 1, 0])
    torch.testing.assert_close(scores.distance_to_median(h, y), torch.tensor([1.0, 5.0, 0.0, 5.0, 7.0]))


def test_the_median_is_taken_feature_by_feature_as_numpy_takes_it():
    import numpy as np

    for count in (5, 6):
        h = seeded(count, 3)
        due = np.linalg.norm(h.numpy() - np.median(h.numpy(), axis=0), axis=1)
        found = scores.distance_to_median(h, torch.zeros(count, dtype=torch.int64))
        torch.testing.assert_close(found, torch.from_numpy(due))


def test_scores_in_float32_equal_those_in_float64():
    z, y, h = seeded(5, 20, 4), labels(20, 4), seeded(5, 20, 6, seed=1)
    for function, more in ((scores.el2n, ()), (scores.aum, ()), (scores.grand_last_layer, (h,))):
        low = function(z.float(), y, *(m.float() for m in more))
        torch.testing.assert_close(low.double(), function(z, y, *more), rtol=1e-5, atol=1e-6)
