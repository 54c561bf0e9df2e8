"""Differentiable augmentation: each operation by hand, against plain loops and by its Jacobian; how draws are shared."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian

from ddcore.api.types import Batch
from ddcore.errors import OptionError
from ddcore.images import augment
from ddcore.images.augment import (
    DSA_COLOUR,
    DSA_DIGITS,
    MNIST_OPS,
    OPS,
    draw,
    draw_batchnorm,
    draw_mnist,
    parse_strategy,
)

ALL = "color_crop_cutout_flip_scale_rotate"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def one(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def whole(*values: int) -> Tensor:
    return torch.tensor(values)


# ---- operations ------------------------------------------------------------------------------------------------------


def test_every_operation_has_a_point_where_nothing_happens():
    images = noise(2, 3, 6, 6)
    still = [
        augment.brightness(images, one(0)),
        augment.saturation(images, one(1)),
        augment.contrast(images, one(1)),
        augment.crop(images, whole(0), whole(0)),
        augment.cutout(images, whole(3), whole(3), 0),
        augment.flip(images, torch.tensor([False])),
        augment.scale(images, one(1), one(1)),
        augment.rotate(images, one(0)),
    ]
    for after in still:
        torch.testing.assert_close(after, images, atol=1e-12, rtol=0)


def test_colour_by_hand():
    # one image, two channels, two pixels: channel 0 is (0, 2), channel 1 is (4, 6); pixel means 2, 4; image mean 3
    images = one(0, 2, 4, 6).view(1, 2, 1, 2)
    assert augment.brightness(images, one(0.5)).flatten().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert augment.saturation(images, one(0.5)).flatten().tolist() == [1, 3, 3, 5]
    assert augment.contrast(images, one(0.5)).flatten().tolist() == [1.5, 2.5, 3.5, 4.5]


def test_colour_keeps_the_means_it_should():
    images, s = noise(3, 3, 4, 5), one(0.0, 0.7, 1.9)
    saturated, contrasted = augment.saturation(images, s), augment.contrast(images, s)
    torch.testing.assert_close(saturated.mean(1), images.mean(1))
    torch.testing.assert_close(contrasted.mean((1, 2, 3)), images.mean((1, 2, 3)))
    torch.testing.assert_close(contrasted.std((1, 2, 3)), s * images.std((1, 2, 3)))
    torch.testing.assert_close(augment.brightness(images, s).mean((1, 2, 3)) - images.mean((1, 2, 3)), s)
    grey = noise(3, 1, 4, 5)
    torch.testing.assert_close(augment.saturation(grey, s), grey)


def test_crop_is_a_shift_by_rows_then_columns():
    images = torch.arange(9.0).view(1, 1, 3, 3)
    assert augment.crop(images, whole(1), whole(0))[0, 0].tolist() == [[3, 4, 5], [6, 7, 8], [0, 0, 0]]
    assert augment.crop(images, whole(0), whole(-1))[0, 0].tolist() == [[0, 0, 1], [0, 3, 4], [0, 6, 7]]


def test_crop_against_plain_loops():
    images, dx, dy = noise(5, 2, 4, 6), whole(-2, -1, 0, 1, 3), whole(5, -3, 0, 2, -1)
    expected = torch.zeros_like(images)
    for n in range(5):
        for i in range(4):
            for j in range(6):
                i_from, j_from = i + int(dx[n]), j + int(dy[n])
                if 0 <= i_from < 4 and 0 <= j_from < 6:
                    expected[n, :, i, j] = images[n, :, i_from, j_from]
    assert torch.equal(augment.crop(images, dx, dy), expected)


def test_crop_there_and_back_loses_only_the_border():
    images = noise(1, 2, 6, 6)
    back = augment.crop(augment.crop(images, whole(2), whole(-1)), whole(-2), whole(1))
    kept = torch.zeros(6, 6, dtype=torch.bool)
    kept[2:, :5] = True
    assert torch.equal(back, images * kept)


@pytest.mark.parametrize(
    ("centre", "side", "rows"),
    [(0, 4, [0, 1]), (8, 4, [6, 7]), (4, 4, [2, 3, 4, 5]), (0, 3, [0, 1]), (7, 3, [6, 7]), (4, 3, [3, 4, 5])],
)
def test_cutout_begins_half_a_side_before_its_centre_and_is_clipped(centre, side, rows):
    down = augment.cutout(torch.ones(1, 1, 8, 8), whole(centre), whole(4), side)
    across = augment.cutout(torch.ones(1, 1, 8, 8), whole(4), whole(centre), side)
    assert (down[0, 0] == 0).any(1).nonzero().flatten().tolist() == rows
    assert (across[0, 0] == 0).any(0).nonzero().flatten().tolist() == rows
    assert int((down == 0).sum()) == len(rows) * side


def test_cutout_may_be_wider_than_high_and_is_drawn_so_for_images_that_are():
    hole = augment.cutout(torch.ones(1, 1, 4, 8), whole(2), whole(4), 2, 4)[0, 0] == 0
    assert hole.nonzero().tolist() == [[row, column] for row in (1, 2) for column in (2, 3, 4, 5)]
    drawn = draw("cutout", 500, (7, 10), seeded(), shared=False).operations[0][1]
    assert (int(drawn["side"]), int(drawn["across"])) == (4, 5)
    assert set(drawn["cx"].tolist()) == set(range(8)) and set(drawn["cy"].tolist()) == set(range(10))


def test_a_parameter_may_be_a_number_or_have_the_shape_it_is_drawn_with_elsewhere():
    images, entries = noise(3, 2, 6, 6), one(0.7, 1.1, 0.9)
    for name in ("brightness", "saturation", "contrast", "rotate"):
        operation = getattr(augment, name)
        assert torch.equal(operation(images, 0.7), operation(images, one(0.7)))
        assert torch.equal(operation(images, entries.view(3, 1, 1, 1)), operation(images, entries))
    assert torch.equal(augment.crop(images, 1, -2), augment.crop(images, whole(1), whole(-2)))
    assert torch.equal(augment.flip(images, True), images.flip(3))
    assert torch.equal(augment.scale(images, 0.9, torch.tensor(1.1)), augment.scale(images, one(0.9), one(1.1).float()))
    assert torch.equal(augment.cutout(images, 3, 2, 4), augment.cutout(images, whole(3), whole(2), 4))
    with pytest.raises(ValueError, match="2 parameters for 3 images"):
        augment.brightness(images, one(1, 2))


def test_flip_mirrors_the_width_of_the_chosen_images_and_undoes_itself():
    images, where = noise(3, 2, 2, 4), torch.tensor([True, False, True])
    flipped = augment.flip(images, where)
    assert torch.equal(flipped[0], images[0][:, :, [3, 2, 1, 0]]) and torch.equal(flipped[1], images[1])
    assert torch.equal(augment.flip(flipped, where), images)


@pytest.mark.parametrize("side", [3, 4])
def test_flip_and_cutout_commute_up_to_the_mirrored_centre(side):
    images, where, cx, cy = noise(1, 2, 8, 8), torch.tensor([True]), whole(3), whole(1)
    mirrored = 8 - side % 2 - cy
    first = augment.flip(augment.cutout(images, cx, cy, side), where)
    assert torch.equal(first, augment.cutout(augment.flip(images, where), cx, mirrored, side))


def resampled(images: Tensor, matrix: list[list[float]]) -> Tensor:
    """Bilinear with zeros outside; the outermost pixels' centres lie at -1 and 1."""
    height, width = images.shape[2:]
    out = torch.zeros_like(images)
    for i in range(height):
        for j in range(width):
            x, y = 2 * j / (width - 1) - 1, 2 * i / (height - 1) - 1
            column = (matrix[0][0] * x + matrix[0][1] * y + 1) / 2 * (width - 1)
            row = (matrix[1][0] * x + matrix[1][1] * y + 1) / 2 * (height - 1)
            for r in (math.floor(row), math.floor(row) + 1):
                for c in (math.floor(column), math.floor(column) + 1):
                    if 0 <= r < height and 0 <= c < width:
                        out[:, :, i, j] += images[:, :, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return out


def test_scale_and_rotate_against_plain_loops():
    images = noise(1, 2, 5, 7)
    torch.testing.assert_close(augment.scale(images, one(0.83), one(1.2)), resampled(images, [[0.83, 0], [0, 1.2]]))
    cosine, sine = math.cos(0.26), math.sin(0.26)
    expected = resampled(images, [[cosine, -sine], [sine, cosine]])
    torch.testing.assert_close(augment.rotate(images, one(0.26)), expected)


def test_scale_above_one_zooms_out_of_a_zero_frame():
    # factor 2 on 5 pixels: places -1, -0.5, 0, 0.5, 1 read from -2, -1, 0, 1, 2, of which -1, 0, 1 are pixels 0, 2, 4
    row = torch.arange(1.0, 6).expand(5, 5)[None, None]
    assert augment.scale(row, one(2), one(1))[0, 0, 2].tolist() == [0, 1, 3, 5, 0]
    assert augment.scale(row.mT, one(1), one(2))[0, 0, :, 2].tolist() == [0, 1, 3, 5, 0]


def test_a_quarter_turn_moves_the_pixels():
    images = torch.arange(9.0, dtype=torch.float64).view(1, 1, 3, 3)
    turned = augment.rotate(images, one(math.pi / 2))
    # place (x, y) reads from (-y, x): the top left corner reads the top right one
    torch.testing.assert_close(turned[0, 0], one(2, 5, 8, 1, 4, 7, 0, 3, 6).view(3, 3))


# ---- gradients -------------------------------------------------------------------------------------------------------


def test_the_jacobian_of_cutout_is_its_mask():
    images = noise(1, 1, 4, 4)
    full = jacobian(lambda x: augment.cutout(x, whole(1), whole(2), 2), images).view(16, 16)
    mask = augment.cutout(torch.ones_like(images), whole(1), whole(2), 2).flatten()
    assert torch.equal(full, torch.diag(mask)) and int(mask.sum()) == 12


def test_the_jacobian_of_flip_is_a_permutation():
    full = jacobian(lambda x: augment.flip(x, torch.tensor([True])), noise(1, 1, 3, 4)).view(12, 12)
    assert set(full.unique().tolist()) == {0.0, 1.0}
    assert full.sum(0).tolist() == full.sum(1).tolist() == [1.0] * 12


@pytest.mark.parametrize("name", OPS)
def test_gradients_reach_the_pixels(name):
    transform = draw((name,), 2, (4, 4), seeded(1), shared=False)
    assert gradcheck(transform.images, noise(2, 2, 4, 4).requires_grad_())


# ---- draws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPS)
def test_a_shared_draw_treats_two_batches_as_it_treats_them_together(name):
    real, synthetic = noise(5, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    transform = draw((name,), 1, (8, 8), seeded(1), shared=True)
    together = transform.images(torch.cat([real, synthetic]))
    torch.testing.assert_close(together, torch.cat([transform.images(real), transform.images(synthetic)]))
    assert not torch.equal(together, torch.cat([real, synthetic]))


@pytest.mark.parametrize("name", OPS)
def test_without_sharing_equal_images_become_different_and_with_it_they_stay_equal(name):
    images = noise(1, 3, 8, 8).expand(16, 3, 8, 8)
    alone = draw((name,), 16, (8, 8), seeded(1), shared=False).images(images)
    alike = draw((name,), 16, (8, 8), seeded(1), shared=True).images(images)
    assert any(not torch.equal(alone[0], other) for other in alone)
    assert all(torch.equal(alike[0], other) for other in alike)


@pytest.mark.parametrize("name", OPS)
def test_row_i_uses_set_i_and_a_shorter_batch_the_first_sets(name):
    images = noise(6, 3, 8, 8)
    transform = draw((name,), 6, (8, 8), seeded(), shared=False)
    torch.testing.assert_close(transform.images(images[:4]), transform.images(images)[:4])


def test_more_rows_than_drawn_for_are_refused_unless_shared():
    for transform in (draw("crop", 2, (8, 8), seeded(), shared=False), draw_mnist(2, (8, 8), seeded())):
        with pytest.raises(ValueError, match="drawn for 2 rows cannot serve 3"):
            transform.images(noise(3, 1, 8, 8))
    assert len(draw("crop", 2, (8, 8), seeded(), shared=True).images(noise(3, 1, 8, 8))) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_dtype_and_axes_are_kept_and_the_batch_keeps_its_targets(name, dtype):
    batch = Batch(noise(3, 3, 8, 8).to(dtype), {"class": whole(0, 1, 2)}, whole(5, 6, 7))
    after = draw((name,), 3, (8, 8), seeded(), shared=False)(batch)
    assert after.inputs.dtype == dtype and after.inputs.shape == batch.inputs.shape
    assert after.targets is batch.targets and after.index is batch.index


@pytest.mark.parametrize("name", OPS)
def test_a_draw_can_be_replayed_and_leaves_its_input_and_the_global_generator_alone(name):
    images, state = noise(4, 3, 8, 8), torch.random.get_rng_state()
    before = images.clone()
    transform = draw((name,), 4, (8, 8), seeded(2), shared=False)
    again = draw((name,), 4, (8, 8), seeded(2), shared=False)
    assert torch.equal(transform.images(images), transform.images(images))
    assert torch.equal(transform.images(images), again.images(images))
    assert torch.equal(images, before) and torch.equal(torch.random.get_rng_state(), state)


def names_drawn(strategy: tuple[str, ...], draws: int, **how: bool) -> Counter:
    generator = seeded(0)
    made = [draw(strategy, 1, (8, 8), generator, shared=True, **how) for _ in range(draws)]
    return Counter(name for transform in made for name, _ in transform.operations)


@pytest.mark.parametrize("strategy", [DSA_COLOUR, DSA_DIGITS])
def test_one_operation_a_batch_uniformly(strategy):
    seen = names_drawn(strategy, 1200)
    assert sum(seen.values()) == 1200 and set(seen) == set(strategy)
    share = 1 / len(strategy)
    spread = 4 * math.sqrt(1200 * share * (1 - share))
    assert all(abs(count - 1200 * share) < spread for count in seen.values())


def flip_rate(**how: bool) -> float:
    generator, images = seeded(0), torch.arange(2.0).view(1, 1, 1, 2).repeat(1, 1, 2, 1)
    mirrored = 0
    for _ in range(600):
        transform = draw(DSA_COLOUR, 1, (2, 2), generator, shared=True, **how)
        flips = [parameters["where"] for name, parameters in transform.operations if name == "flip"]
        mirrored += sum(bool(augment.flip(images, where)[0, 0, 0, 0] == 1) for where in flips)
    return mirrored / 600


def test_mirrors_are_one_batch_in_twelve_and_one_in_two_when_the_flip_comes_first():
    assert abs(flip_rate() - 1 / 12) < 0.035
    assert abs(flip_rate(flip_first=True) - 1 / 2) < 0.08


def test_the_flip_that_comes_first_leaves_the_list():
    seen = names_drawn(DSA_COLOUR, 200, flip_first=True)
    assert seen["flip"] == 200 and sum(seen.values()) == 400
    assert draw(DSA_COLOUR, 1, (8, 8), seeded(), shared=True, flip_first=True).operations[0][0] == "flip"
    only = draw("flip", 1, (8, 8), seeded(), shared=True, flip_first=True)
    assert [name for name, _ in only.operations] == ["flip"]


def test_without_a_flip_in_the_strategy_flip_first_changes_nothing():
    images = noise(2, 1, 8, 8)
    for seed in range(6):
        plain, first = (draw(DSA_DIGITS, 2, (8, 8), seeded(seed), shared=False, flip_first=f) for f in (False, True))
        assert torch.equal(plain.images(images), first.images(images))


def test_mode_all_applies_every_operation_in_order():
    transform = draw(ALL, 2, (8, 8), seeded(), shared=False, mode="all")
    assert tuple(name for name, _ in transform.operations) == OPS
    images = expected = noise(2, 3, 8, 8)
    for name, p in transform.operations:
        if name == "color":
            expected = augment.brightness(expected, p["b"])
            expected = augment.contrast(augment.saturation(expected, p["s"]), p["k"])
        elif name == "cutout":
            expected = augment.cutout(expected, p["cx"], p["cy"], int(p["side"]))
        else:
            expected = getattr(augment, name)(expected, **p)
    assert torch.equal(transform.images(images), expected)


@pytest.mark.parametrize(
    ("side", "shift", "square"), [(8, 1, 4), (28, 4, 14), (32, 4, 16), (64, 8, 32), (7, 1, 4), (9, 1, 5)]
)
def test_shifts_and_squares_cover_the_authors_ranges(side, shift, square):
    crop = draw("crop", 3000, (side, side), seeded(), shared=False).operations[0][1]
    cutout = draw("cutout", 3000, (side, side), seeded(), shared=False).operations[0][1]
    for name in ("dx", "dy"):
        assert set(crop[name].tolist()) == set(range(-shift, shift + 1))
    assert int(cutout["side"]) == square
    last = side if square % 2 == 0 else side - 1
    for name in ("cx", "cy"):
        assert set(cutout[name].tolist()) == set(range(last + 1))


def test_continuous_parameters_are_uniform_over_the_authors_intervals():
    intervals = {
        "color": {"b": (-0.5, 0.5), "s": (0.0, 2.0), "k": (0.5, 1.5)},
        "scale": {"sx": (1 / 1.2, 1.2), "sy": (1 / 1.2, 1.2)},
        "rotate": {"theta": (-math.pi / 12, math.pi / 12)},
    }
    for name, parameters in intervals.items():
        drawn = draw(name, 4000, (8, 8), seeded(), shared=False).operations[0][1]
        assert set(drawn) == set(parameters)
        for parameter, (low, high) in parameters.items():
            unit = (drawn[parameter] - low) / (high - low)
            assert 0 <= unit.min() < 0.01 and 0.99 < unit.max() <= 1
            assert abs(unit.mean() - 0.5) < 0.02 and abs(unit.var() - 1 / 12) < 0.005


@pytest.mark.parametrize(
    ("name", "first", "second"), [("crop", "dx", "dy"), ("cutout", "cx", "cy"), ("scale", "sx", "sy")]
)
def test_the_two_directions_are_independent(name, first, second):
    drawn = draw(name, 4000, (32, 32), seeded(), shared=False).operations[0][1]
    together = torch.stack([drawn[first].double(), drawn[second].double()])
    assert abs(torch.corrcoef(together)[0, 1]) < 0.07


@pytest.mark.parametrize("nothing", ["none", "None", "", ()])
def test_no_strategy_is_the_identity(nothing):
    images = noise(2, 1, 8, 8)
    assert draw(nothing, 2, (8, 8), seeded(), shared=False).images(images) is images


def test_strategies_are_read_in_order_and_unknown_operations_refused():
    assert parse_strategy(ALL) == DSA_COLOUR == OPS
    assert parse_strategy("color_crop_cutout_scale_rotate") == DSA_DIGITS
    with pytest.raises(OptionError, match="'rotat'.*did you mean 'rotate'"):
        parse_strategy("color_rotat")
    with pytest.raises(OptionError, match="'blur'"):
        draw(("crop", "blur"), 1, (8, 8), seeded(), shared=True)


# ---- MNIST students of protocol A ------------------------------------------------------------------------------------


def mnist_reference(image: Tensor, op: str, own: dict[str, Tensor], colour: Tensor) -> Tensor:
    """One image (C, S, S) by padding, resizing and cutting, as the paper's code does it; turns are bilinear."""
    channels, side, _ = image.shape
    if op == "crop":
        padded = colour[:, None, None].expand(channels, side + 8, side + 8).clone()
        padded[:, 4 : 4 + side, 4 : 4 + side] = image
        top, left = int(own["dx"]) + 4, int(own["dy"]) + 4
        return padded[:, top : top + side, left : left + side]
    if op == "scale":
        high, wide = int(own["height"]), int(own["width"])
        square = max(high, wide, side)
        canvas = torch.zeros(channels, square, square, dtype=image.dtype)
        top, left = (square - high) // 2, (square - wide) // 2
        resized = torch.nn.functional.interpolate(image[None], [high, wide])[0]
        canvas[:, top : top + high, left : left + wide] = resized
        start = (square - side) // 2
        return canvas[:, start : start + side, start : start + side]
    cosine, sine = math.cos(own["theta"]), math.sin(own["theta"])
    turned = resampled(image[None] - colour.mean(), [[cosine, -sine], [sine, cosine]])
    return turned[0] + colour.mean()


def test_the_mnist_augmentation_against_its_paper_s_steps():
    images, transform = noise(40, 2, 9, 9) + 0.3, draw_mnist(40, (9, 9), seeded(4))
    augmented, colour = transform.images(images), images.mean((0, 2, 3))
    for i, image in enumerate(images):
        own = {name: value[i] for name, value in transform.parameters.items()}
        expected = mnist_reference(image, MNIST_OPS[int(transform.which[i])], own, colour)
        torch.testing.assert_close(augmented[i], expected)
    assert set(transform.which.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("side", [8, 28])
def test_resizing_is_the_library_s_nearest_neighbour_at_every_size(side):
    sizes = [(h, w) for h in range(int(0.8 * side), int(1.2 * side) + 1) for w in (int(0.8 * side), h, int(1.2 * side))]
    heights, widths = torch.tensor(sizes).unbind(1)
    image = noise(1, side, side)
    ours = augment.resized(image.expand(len(sizes), 1, side, side), heights, widths)
    for after, height, width in zip(ours, heights, widths, strict=True):
        expected = mnist_reference(image, "scale", {"height": height, "width": width}, torch.zeros(1))
        assert torch.equal(after, expected)


def test_mnist_draws_cover_the_paper_s_ranges():
    transform = draw_mnist(6000, (28, 28), seeded())
    p = transform.parameters
    assert set(p["dx"].tolist()) == set(p["dy"].tolist()) == set(range(-4, 4))
    assert set(p["height"].tolist()) == set(p["width"].tolist()) == set(range(22, 34))
    assert {round(math.degrees(t)) for t in p["theta"].tolist()} == set(range(-45, 45))
    assert all(abs(count - 2000) < 160 for count in transform.which.bincount().tolist())


def test_the_mnist_augmentation_is_differentiable():
    transform = draw_mnist(6, (4, 4), seeded(1))
    assert gradcheck(transform.images, noise(6, 1, 4, 4).requires_grad_())


def test_batchnorm_students_images_are_shifted_as_digits_are_or_get_a_little_noise():
    images, transform = noise(60, 3, 9, 9) + 0.3, draw_batchnorm(60, 3, (9, 9), seeded(2))
    got, colour = transform.images(images), images.mean((0, 2, 3))
    shifted = (transform.which == 0).nonzero().flatten()
    assert 15 < len(shifted) < 45
    for i in shifted.tolist():
        own = {name: value[i] for name, value in transform.parameters.items()}
        torch.testing.assert_close(got[i], mnist_reference(images[i], "crop", own, colour))
    noisy = (got - images)[transform.which == 1]
    assert abs(float(noisy.std()) - 0.001) < 1e-4 and float(noisy.abs().max()) < 0.01
    drawn = torch.stack([transform.parameters["dx"], transform.parameters["dy"]])
    assert (int(drawn.min()), int(drawn.max())) == (-4, 3)
