"""Calibration, classes and time to accuracy by hand, in limits and against slow twins."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddcore.training.scores import Arrival, arrival, calibration_error, class_accuracy

RIGHT = torch.tensor([True, True, False, False])


def slow_calibration_error(confidence, right, bins):
    """Guo et al., equation 3, bin by bin."""
    total = 0.0
    for i in range(1, bins + 1):
        held = [n for n, c in enumerate(confidence) if (i - 1) / bins < c <= i / bins or (i == 1 and c == 0)]
        if held:
            accuracy = sum(right[n] for n in held) / len(held)
            mean = sum(confidence[n] for n in held) / len(held)
            total += len(held) / len(confidence) * abs(accuracy - mean)
    return total


def test_calibration_by_hand():
    # two bins: (0, 0.5] holds 0.2 and 0.4, one right: |1/2 - 0.3| = 0.2; (0.5, 1] holds 0.8 and 1.0: |1/2 - 0.9| = 0.4
    confidence, right = torch.tensor([0.2, 0.4, 0.8, 1.0]), torch.tensor([True, False, True, False])
    assert calibration_error(confidence, right, 2) == pytest.approx(0.5 * 0.2 + 0.5 * 0.4)


def test_calibration_in_its_limits():
    assert calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool)) == 0
    assert calibration_error(torch.ones(3), torch.zeros(3, dtype=torch.bool)) == 1
    assert calibration_error(torch.zeros(3), torch.zeros(3, dtype=torch.bool)) == 0
    assert math.isnan(calibration_error(torch.tensor([math.nan, 0.5]), RIGHT[:2]))


def test_an_edge_belongs_to_the_bin_below_it():
    # 0.5 and 0.6 in bins of a half: apart, |1 - 0.5| / 2 + |0 - 0.6| / 2; together it would be |0.5 - 0.55|
    assert calibration_error(torch.tensor([0.5, 0.6]), torch.tensor([True, False]), 2) == pytest.approx(0.55)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("bins", [3, 6, 10, 15, 49])
def test_every_edge_belongs_to_the_bin_below_it_in_any_float_type(dtype, bins):
    edge = (torch.arange(1, bins, dtype=torch.float64) / bins).to(dtype)
    below = torch.nextafter(edge, torch.zeros((), dtype=dtype))  # of the same bin, wrong where the edge is right
    for one, other in zip(edge, below, strict=True):
        together = calibration_error(torch.stack([one, other]), torch.tensor([True, False]), bins)
        assert together == pytest.approx(abs(1 - float(one) - float(other)) / 2, abs=1e-9)


@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=30), st.sampled_from([1, 4, 16])
)
def test_calibration_is_its_slow_twin(answers, bins):
    # bins whose edges are exact, so that both put each value on the same side
    confidence, right = [c for c, _ in answers], [r for _, r in answers]
    ours = calibration_error(torch.tensor(confidence), torch.tensor(right), bins)
    assert ours == pytest.approx(slow_calibration_error(confidence, right, bins), abs=1e-9)
    assert 0 <= ours <= 1


def test_calibration_has_fifteen_bins_and_any_float_type():
    generator = torch.Generator().manual_seed(0)
    confidence, right = torch.rand(200, generator=generator), torch.rand(200, generator=generator) < 0.5
    due = slow_calibration_error(confidence.tolist(), right.tolist(), 15)
    assert calibration_error(confidence, right) == pytest.approx(due)
    assert calibration_error(confidence.double(), right) == pytest.approx(due)
    assert calibration_error(confidence.half(), right) == pytest.approx(due, abs=0.02)  # halves may cross an edge


@pytest.mark.parametrize("shape", [(0,), (3,)])
def test_calibration_of_nothing_or_of_unlike_lengths_is_refused(shape):
    with pytest.raises(ValueError, match="one of each"):
        calibration_error(torch.zeros(shape), torch.zeros(0, dtype=torch.bool))


def test_class_accuracies_weighted_by_their_counts_are_the_accuracy():
    generator = torch.Generator().manual_seed(0)
    labels, predicted = (torch.randint(0, 4, (50,), generator=generator) for _ in range(2))
    of_class = class_accuracy(predicted, labels, 5)
    assert math.isnan(of_class[4])
    counts = torch.bincount(labels, minlength=4)
    for c in range(4):
        assert float(of_class[c]) == pytest.approx(float((predicted[labels == c] == c).double().mean()))
    assert float((of_class[:4] * counts).sum() / 50) == pytest.approx(float((predicted == labels).double().mean()))


def test_arrival_is_the_first_epoch_within_a_point_of_the_last():
    steps, seconds = [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]
    assert arrival([0.1, 0.58, 0.595, 0.6], steps, seconds) == Arrival(3, 0.3)
    assert arrival([0.9, 0.1, 0.2, 0.6], steps, seconds) == Arrival(1, 0.1)
    assert arrival([0.1, 0.2, 0.3, 0.4], steps, seconds) == Arrival(4, 0.4)
    assert arrival([0.1, 0.2, 0.3, 0.4], steps, seconds, margin=1.0) == Arrival(1, 0.1)
    with pytest.raises(ValueError, match="no epoch"):
        arrival([], [], [])
    with pytest.raises(ValueError, match="zip"):
        arrival([0.5, 0.1], [1], [0.1, 0.2])
