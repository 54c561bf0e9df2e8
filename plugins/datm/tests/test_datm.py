"""DATM's checks: the window, the gate, the labels."""

import pytest
import torch
from ddcore_datm import mean_of_correct, window


def test_window_grows_from_t_to_t_plus_and_stays():
    uppers = [window(step, 0, 10, 20, 1000)[1] for step in (0, 99, 100, 500, 999, 1000, 9999)]
    assert uppers == [10, 10, 11, 15, 19, 20, 20]


def test_window_without_sequential_generation_is_open_from_the_start():
    assert window(0, 40, None, 60, 1000) == (40, 60)


@pytest.mark.parametrize(
    ("interval", "start", "high", "end"), [(100, 10, 20, 1000), (100, 20, 40, 2000), (400, 15, 20, 2000)]
)
def test_expansion_end_is_pads_interval_times_the_growth(interval, start, high, end):
    grown = [window(step, 0, start, high, end)[1] for step in range(0, end + 1, interval)]
    assert grown == list(range(start, high + 1))


def test_labels_are_the_mean_over_the_networks_that_are_right():
    # image 0 of class 0: networks 0 and 2 are right; image 1 of class 1: only network 1; image 2 of class 2: none
    logits = torch.tensor(
        [
            [[3.0, 1, 0], [2, 1, 0], [1, 0, 0]],
            [[0.0, 5, 0], [1, 7, 0], [0, 3, 1]],
            [[1.0, 0, 0], [4, 1, 0], [2, 0, 0]],
        ]
    )
    mean = mean_of_correct(logits, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(mean, torch.tensor([[2.0, 0.5, 0], [1, 7, 0], [1, 1, 1 / 3]]))


def test_mean_of_correct_logits_keeps_the_class_on_top():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 40, 5, generator=generator, dtype=torch.float64)
    classes = torch.randint(5, (40,), generator=generator)
    some_right = (logits.argmax(2) == classes).any(0)
    assert 0 < some_right.sum() < 40
    assert torch.equal(mean_of_correct(logits, classes).argmax(1)[some_right], classes[some_right])


def test_a_constant_added_to_a_row_of_logits_changes_no_target():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    weights = torch.arange(12, dtype=torch.float64).reshape(4, 3).cos()
    loss = -(logits.softmax(1) * weights.log_softmax(1)).sum(1).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(4, dtype=torch.float64))
