"""DM's checks: zero for equal batches, closed form for linear features, class-wise equals joint, permutations."""

import torch
from ddcore_dm import by_class, class_means, distribution_distance

from ddcore import Batch


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_distance_by_hand():
    # classes 0 and 1; real means (1, 0) and (0, 3), synthetic (1, 2) and (1, 0): 0 + 4 + 1 + 9 = 14
    real = torch.tensor([[1.0, 0], [0, 3]])
    synthetic = torch.tensor([[1.0, 2], [1, 0]])
    torch.testing.assert_close(distribution_distance(real, synthetic), torch.tensor(14.0))


def test_class_means_by_hand_whatever_the_order():
    features = torch.tensor([[1.0, 2], [10, 20], [3, 4], [30, 40], [5, 6]])
    means = class_means(features, torch.tensor([0, 1, 0, 1, 0]), 3)
    torch.testing.assert_close(means, torch.tensor([[3.0, 4], [20, 30], [0, 0]]))


def test_half_precision_is_added_up_in_float32_and_classes_may_be_small_integers():
    features, classes = torch.full((4000, 1), 20.0, dtype=torch.float16), torch.zeros(4000, dtype=torch.uint8)
    assert class_means(features, classes, 1).tolist() == [[20.0]]


def test_equal_batches_are_at_distance_zero_and_permuting_them_changes_nothing():
    features, classes = seeded(8, 5), torch.arange(8) % 2
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    means = class_means(features, classes, 2)
    torch.testing.assert_close(
        distribution_distance(means, class_means(features[order], classes[order], 2)),
        torch.zeros((), dtype=torch.float64),
    )


def test_copies_leave_the_loss_and_halve_the_gradient_of_each():
    real, images = seeded(1, 5), seeded(3, 5, seed=1).requires_grad_()
    once = distribution_distance(real, class_means(images, torch.zeros(3, dtype=torch.int64), 1))
    copies = torch.cat([images.detach(), images.detach()]).requires_grad_()
    twice = distribution_distance(real, class_means(copies, torch.zeros(6, dtype=torch.int64), 1))
    torch.testing.assert_close(once, twice)
    (gradient,) = torch.autograd.grad(once, images)
    (half,) = torch.autograd.grad(twice, copies)
    torch.testing.assert_close(half[:3], gradient / 2)


def test_linear_features_have_the_closed_form_gradient():
    # psi(x) = W x, one image: gradient is 2 W^T W (s - mean(x))
    weights, real, image = seeded(5, 7), seeded(9, 7, seed=1), seeded(1, 7, seed=2).requires_grad_()
    zero = torch.zeros(1, dtype=torch.int64)
    loss = distribution_distance(
        class_means(real @ weights.T, zero.expand(9), 1), class_means(image @ weights.T, zero, 1)
    )
    (gradient,) = torch.autograd.grad(loss, image)
    torch.testing.assert_close(gradient[0], 2 * weights.T @ weights @ (image.detach()[0] - real.mean(0)))


def test_gradient_in_float64():
    real, classes = seeded(2, 4), torch.tensor([0, 1, 0])
    images = seeded(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distribution_distance(real, class_means(x.tanh(), classes, 2)), images)


def test_each_class_goes_through_its_own_transform_and_rows_stay_with_their_targets():
    index = torch.arange(6)
    batch = Batch(seeded(6, 1, 2, 2), {"class": index % 3}, index)
    scale = {c: (lambda b, c=c: b.with_inputs(b.inputs * (c + 1))) for c in range(3)}
    out = by_class(batch, [0, 1, 2], scale)
    for row, original in enumerate(out.index.tolist()):
        assert out.targets["class"][row] == original % 3
        torch.testing.assert_close(out.inputs[row], batch.inputs[original] * (original % 3 + 1))
