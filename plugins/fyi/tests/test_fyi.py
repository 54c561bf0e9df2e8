"""FYI's checks (see the plugin's README): invariance under mirroring any image, the symmetrised gradient, batch sizes."""

import torch
from ddcore_fyi import FYI, mirrored, with_mirror_images

from ddcore import Batch, Progress


def ramp(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape) / 10


def batch_of(images: torch.Tensor) -> Batch:
    index = torch.arange(len(images)) + 5
    return Batch(images, {"class": index % 2, "logits": ramp(len(images), 3)}, index)


def test_originals_come_first_then_mirrors_along_the_width():
    images = torch.tensor([[[[1.0, 2, 3], [4, 5, 6]]]])
    doubled = with_mirror_images(batch_of(images)).inputs
    assert doubled[0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert doubled[1, 0].tolist() == [[3, 2, 1], [6, 5, 4]]


def test_every_target_and_the_index_follow_their_image():
    batch = batch_of(ramp(3, 1, 2, 2))
    doubled = with_mirror_images(batch)
    assert doubled.index.tolist() == [5, 6, 7, 5, 6, 7]
    for name, target in batch.targets.items():
        assert torch.equal(doubled.targets[name], torch.cat([target, target]))


def test_a_mean_loss_does_not_see_which_images_were_mirrored_before():
    images, weights = ramp(4, 1, 3, 3).sin(), ramp(9, 5).cos()

    def loss(x: torch.Tensor) -> torch.Tensor:
        return (with_mirror_images(batch_of(x)).inputs.flatten(1) @ weights).tanh().mean(0).square().sum()

    some_mirrored = torch.cat([mirrored(images[:2]), images[2:]])
    torch.testing.assert_close(loss(some_mirrored), loss(images))
    without = (some_mirrored.flatten(1) @ weights).tanh().mean(0).square().sum()
    assert not torch.allclose(without, (images.flatten(1) @ weights).tanh().mean(0).square().sum())


def test_symmetric_images_give_the_base_loss_and_the_symmetrised_gradient():
    half = ramp(2, 1, 3, 2).sin()
    images = torch.cat([half, mirrored(half)], dim=3).requires_grad_()
    weights = ramp(12, 5).cos()

    def loss(x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ weights).tanh().mean(0).square().sum()

    base, doubled = loss(images), loss(with_mirror_images(batch_of(images)).inputs)
    torch.testing.assert_close(doubled, base)
    (base_gradient,) = torch.autograd.grad(base, images)
    (gradient,) = torch.autograd.grad(doubled, images)
    torch.testing.assert_close(gradient, (base_gradient + mirrored(base_gradient)) / 2)


def test_gradient_reaches_the_pixels_in_float64():
    images = ramp(2, 1, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: with_mirror_images(batch_of(x)).inputs.sin(), images)


def test_twice_gives_four_times_the_rows():
    assert len(with_mirror_images(with_mirror_images(batch_of(ramp(3, 1, 2, 2))))) == 12


def test_the_student_step_sees_half_as_many_distinct_images_and_at_least_one():
    halves = [FYI().ddcore_setting(n, "student_step.batch", Progress(0, 1)) for n in (10, 7, 1)]
    assert halves == [5, 3, 1]
    assert FYI(halve_batch=False).ddcore_setting(10, "student_step.batch", Progress(0, 1)) is None
    assert FYI().ddcore_setting(10, "match.crop_low", Progress(0, 1)) is None
