"""Changes of images: identity, bounds, what a shift, a turn and a colour are, gradients by finite differences."""

import math

import pytest
import torch
from ddcore_hard.augmentor import Augmentor, Bounds
from ddcore_hard.changes import AFFINE, GRID, affine_matrices, flow_field, recoloured, warped

WIDE = {
    "rotation": 30.0,
    "shift": 0.25,
    "scale": 1.4,
    "shear": 0.2,
    "flow_shift": 0.1,
    "gain": 1.5,
    "colour_shift": 0.2,
}
ALL = frozenset({"affine", "flow", "colour"})
KINDS = [{"affine"}, {"flow"}, {"colour"}, {"affine", "colour"}, ALL]


def seeded(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IMAGES = seeded(3, 2, 8, 8)
LIMITS = {name: WIDE[name] for name in ("rotation", "shift", "scale", "shear")}


def values(at, size, count=1):
    found = torch.zeros(count, AFFINE, dtype=torch.float64)
    found[:, at] = size
    return affine_matrices(found, **LIMITS)


def test_no_change_is_none():
    for kinds in KINDS:
        bounds = Bounds(kinds=frozenset(kinds), **WIDE)
        none = torch.zeros(3, sum(bounds.counts(2)), dtype=torch.float64)
        torch.testing.assert_close(bounds.changed(IMAGES, none), IMAGES, atol=1e-12, rtol=0)


def test_an_augmentor_begins_with_no_change_and_moves_from_there():
    torch.manual_seed(0)
    augmentor = Augmentor(2, Bounds(kinds=ALL, **WIDE)).double()
    noise = augmentor.noise(IMAGES, torch.Generator().manual_seed(1))
    far = augmentor.values(IMAGES, noise)
    assert noise.shape == (3, 8 + far.shape[1]) and far.shape == (3, AFFINE + 2 * GRID**2 + 4)
    assert torch.equal(far, torch.zeros_like(far))
    augmentor(IMAGES, far).square().sum().backward()
    assert augmentor.last.weight.grad.abs().sum() > 0


def test_a_spread_is_a_random_part_of_every_change_in_bounds():
    torch.manual_seed(0)
    augmentor = Augmentor(2, Bounds(kinds=ALL, **WIDE), spread=0.5).double()
    noise = augmentor.noise(IMAGES, torch.Generator().manual_seed(1))
    torch.testing.assert_close(augmentor.values(IMAGES, noise), (0.5 * noise[:, 8:]).tanh())


def test_a_shift_by_whole_pixels_takes_those_pixels():
    # 1/4 of 8 pixels is 2: the changed image shows what was 2 pixels to the right
    moved = warped(IMAGES, values(1, 1.0, 3))
    torch.testing.assert_close(moved[..., :6], IMAGES[..., 2:], atol=1e-12, rtol=0)
    down = warped(IMAGES, values(2, -1.0, 3))
    torch.testing.assert_close(down[:, :, 2:], IMAGES[:, :, :6], atol=1e-12, rtol=0)


def test_pitfall_outside_is_a_mirror_image_and_not_black():
    moved = warped(IMAGES, values(1, 1.0, 3))
    torch.testing.assert_close(moved[..., 6:], IMAGES[..., 6:].flip(3), atol=1e-12, rtol=0)
    white = torch.ones(2, 1, 6, 6, dtype=torch.float64)
    for at in range(AFFINE):
        torch.testing.assert_close(warped(white, values(at, 1.0, 2)), white)


def test_a_turn_by_a_right_angle_is_a_turned_array():
    quarter = affine_matrices(torch.tensor([[1.0, 0, 0, 0, 0, 0]]).double(), 90, 0, 1, 0)
    torch.testing.assert_close(warped(IMAGES[:1], quarter), IMAGES[:1].rot90(1, (2, 3)), atol=1e-12, rtol=0)


def test_scales_are_factors_of_places_and_their_inverses():
    matrix = values(3, 1.0)[0]
    torch.testing.assert_close(matrix, torch.tensor([[1.4, 0, 0], [0, 1, 0]]).double())
    torch.testing.assert_close(values(4, -1.0)[0], torch.tensor([[1, 0, 0], [0, 1 / 1.4, 0]]).double())
    torch.testing.assert_close(values(5, 0.5)[0], torch.tensor([[1, 0.1, 0], [0, 1, 0]]).double())


def test_a_flow_that_is_the_same_everywhere_is_a_shift():
    far = torch.zeros(3, 2, GRID**2, dtype=torch.float64)
    far[:, 0] = 1.0
    identity = values(0, 0.0, 3)
    moved = warped(IMAGES, identity, flow_field(far.flatten(1), (8, 8), 0.25))
    torch.testing.assert_close(moved, warped(IMAGES, values(1, 1.0, 3)))


def test_colours_are_scaled_and_shifted_channel_by_channel():
    far = torch.tensor([[1.0, -1.0, 0.0, 0.5]]).double()
    made = recoloured(IMAGES[:1], far, 1.5, 0.2)
    torch.testing.assert_close(made[:, 0], IMAGES[:1, 0] * 1.5)
    torch.testing.assert_close(made[:, 1], IMAGES[:1, 1] / 1.5 + 0.1)


@pytest.mark.parametrize("kinds", KINDS)
def test_check_values_stay_in_bounds_and_images_in_their_range(kinds):
    torch.manual_seed(0)
    bounds = Bounds(kinds=frozenset(kinds), **WIDE)
    augmentor = Augmentor(2, bounds).double()
    torch.nn.init.normal_(augmentor.last.weight, std=100.0)
    far = augmentor.values(IMAGES, augmentor.noise(IMAGES, torch.Generator().manual_seed(1)))
    assert far.abs().max() <= 1 and far.abs().max() > 0.9
    made = augmentor(IMAGES, far)
    assert made.min() >= 0 and made.max() <= 1 and made.shape == IMAGES.shape


def test_check_the_ends_of_the_bounds_are_what_the_options_say():
    ends = affine_matrices(torch.tensor([[1.0, 1, -1, 0, 0, 0]]).double(), **LIMITS)[0]
    assert math.degrees(math.atan2(float(ends[1, 0]), float(ends[0, 0]))) == pytest.approx(30)
    assert ends[:, 2].tolist() == [0.5, -0.5]
    flow = flow_field(torch.ones(1, 2 * GRID**2).double(), (8, 8), 0.1)
    torch.testing.assert_close(flow, torch.full((1, 8, 8, 2), 0.2).double())


def test_gradients_are_those_of_finite_differences():
    far = 0.3 * (seeded(2, AFFINE, seed=3) - 0.5)
    smooth = seeded(2, 1, 4, 4, seed=4)
    assert torch.autograd.gradcheck(
        lambda v, x: warped(x, affine_matrices(v, **LIMITS)), (far.requires_grad_(), smooth.requires_grad_())
    )
    flow = (0.3 * (seeded(2, 2 * GRID**2, seed=5) - 0.5)).requires_grad_()
    none = affine_matrices(torch.zeros(2, AFFINE).double(), **LIMITS)
    assert torch.autograd.gradcheck(lambda v: warped(smooth, none, flow_field(v, (4, 4), 0.1)), flow)
    colour = seeded(2, 2, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: recoloured(smooth, v, 1.5, 0.2), colour)
