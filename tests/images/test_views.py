"""Crops, mirrors and mixes: torchvision's numbers, replay, gradients, and draws from a generator alone."""

import math
import os

import pytest
import torch
from torch import Tensor

from ddcore.errors import InputError
from ddcore.images.views import (
    RESIZED,
    SHIFTED,
    Draw,
    View,
    beta,
    changed,
    crop_resize,
    cutmix,
    cutmix_box,
    drawn,
    mixup,
    resized_crops,
    shuffled,
)
from ddcore.labels import HardLabels
from ddcore.networks.vision import import_torchvision
from ddcore.training.loop import batch_of

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 4, size: tuple[int, int] = (9, 7), dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 2, *size, generator=seeded(), dtype=dtype)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


def boxes(count: int, size: tuple[int, int] = (9, 7), seed: int = 0) -> Tensor:
    return resized_crops(uniform(10, count, 2, seed=seed), uniform(count, 2, seed=seed + 1), size, SCALE, RATIO)


def fractions(pixels: Tensor, size: tuple[int, int] = (9, 7)) -> Tensor:
    return pixels / torch.tensor([*size, *size])


# ---- operations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("antialias", [True, False])
def test_a_crop_is_torchvisions_bit_for_bit(antialias):
    import_torchvision()
    from torchvision.transforms.v2.functional import resized_crop

    x, pixels = images(6), boxes(6)
    ours = crop_resize(x, fractions(pixels), antialias)
    theirs = [resized_crop(a, *p, size=[9, 7], antialias=antialias) for a, p in zip(x, pixels.tolist(), strict=True)]
    assert torch.equal(ours, torch.stack(theirs))


def test_antialiasing_is_on_unless_the_view_says_otherwise():
    # a box larger than the image shrinks, where antialiasing counts
    op = {"box": torch.tensor([[0.0, 0.0, 2.0, 2.0]]).repeat(4, 1)}
    pinned, rough = ({**op, "antialias": torch.tensor(value)} for value in (True, False))
    silent, smooth, coarse = (
        changed(View(torch.arange(4), (("crop-resize", p),)), images()) for p in (op, pinned, rough)
    )
    assert torch.equal(silent, smooth) and not torch.equal(smooth, coarse)


def test_the_whole_image_as_a_crop_changes_no_bit():
    assert torch.equal(crop_resize(images(), torch.tensor([[0.0, 0, 1, 1]]).repeat(4, 1)), images())


def test_a_full_sized_box_that_begins_outside_is_a_shift_with_zeros():
    x = torch.arange(1.0, 10).view(1, 1, 3, 3)
    shifted = crop_resize(x, torch.tensor([[-1 / 3, 1 / 3, 1, 1]]))
    assert shifted.squeeze().tolist() == [[0, 0, 0], [2, 3, 0], [5, 6, 0]]


def test_fractions_name_whole_pixels_also_in_float16_up_to_1024_pixels():
    for side in (32, 224, 1024):
        pixels = torch.arange(side + 1)
        assert torch.equal(((pixels / side).half().double() * side).round().long(), pixels)


def test_cutmix_takes_the_partners_pixels_inside_the_box_only():
    x = torch.arange(2.0)[:, None, None, None].expand(2, 1, 4, 4)
    mixed = cutmix(x, torch.tensor([1, 0]), torch.tensor([1, 0, 3, 2]))
    assert mixed[0, 0].tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert torch.equal(mixed[1], 1 - mixed[0])


def test_mixup_is_its_formula_in_a_loop():
    x, partner, share = images(), torch.tensor([2, 0, 1, 3]), uniform(4).float()
    slow = torch.stack([share[i] * x[i] + (1 - share[i]) * x[partner[i]] for i in range(4)])
    torch.testing.assert_close(mixup(x, partner, share), slow)


def test_mixing_with_share_one_or_an_empty_box_is_the_identity():
    assert torch.equal(mixup(images(), torch.tensor([1, 0, 3, 2]), torch.ones(4)), images())
    assert torch.equal(cutmix(images(), torch.tensor([1, 0, 3, 2]), torch.zeros(4).long()), images())


@pytest.mark.parametrize("draw", [RESIZED, SHIFTED, Draw(mix="mixup", antialias=False)])
def test_views_are_differentiable_in_the_images(draw):
    view = drawn(draw, 2, (5, 4), seeded(3)).view(draw, torch.arange(2))
    x = images(2, (5, 4), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: changed(view, x), (x,))


@pytest.mark.parametrize("draw", [RESIZED, SHIFTED, Draw(crop="none", mix="none")])
def test_views_keep_dtype_and_shape_and_leave_their_input_alone(draw):
    x = images(4, dtype=torch.float64)
    view = drawn(draw, 4, (9, 7), seeded()).view(draw, torch.arange(4))
    after = changed(view, x)
    assert after.dtype == x.dtype and after.shape == x.shape and torch.equal(x, images(4, dtype=torch.float64))


def test_operations_come_in_their_order_crop_mirror_then_mix():
    draw = Draw(crop="none", flip=1.0)
    view = drawn(draw, 4, (9, 7), seeded(2)).view(draw, torch.arange(4))
    box = dict(view.ops)["cutmix"]["box"]
    assert torch.equal(changed(view, images()), cutmix(images().flip(3), view.mix[0], box))


def test_a_view_without_operations_gives_the_very_images():
    x = images()
    assert changed(View(torch.arange(4)), x) is x


def test_training_batches_are_changed_and_mixed_as_the_view_says():
    draw, x = Draw(), images(6)
    index = torch.tensor([5, 1, 3])
    view = drawn(draw, 3, (9, 7), seeded(5)).view(draw, index)
    batch = batch_of(x, HardLabels(torch.arange(6), 6), view)
    assert torch.equal(batch.inputs, changed(view, x[index])) and not torch.equal(batch.inputs, x[index])
    assert batch.targets["class"].tolist() == [5, 1, 3] == batch.index.tolist()


def test_an_unknown_operation_is_refused():
    with pytest.raises(InputError, match="change 'flop' of images: did you mean 'flip'"):
        changed(View(torch.arange(4), (("flop", {}),)), images())


# ---- draws -----------------------------------------------------------------------------------------------------------


def slow_crop(attempts: Tensor, place: Tensor, size, scale, ratio) -> tuple[int, int, int, int]:
    """torchvision's ``RandomResizedCrop.get_params`` on given uniform numbers."""
    height, width = size
    for u, v in attempts.tolist():
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u)
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * v)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(place[0] * (height - h + 1)), int(place[1] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < min(ratio):
        h = round(width / min(ratio))
    elif width / height > max(ratio):
        w = round(height * max(ratio))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(32, 32), (9, 7), (4, 20), (20, 4), (1, 1)])
@pytest.mark.parametrize(("scale", "ratio"), [(SCALE, RATIO), ((1.0, 1.0), RATIO), ((0.5, 1.0), (1.0, 1.0))])
def test_crops_are_torchvisions_algorithm_in_plain_loops(size, scale, ratio):
    attempts, place = uniform(10, 50, 2), uniform(50, 2, seed=1)
    slow = [slow_crop(attempts[:, i], place[i], size, scale, ratio) for i in range(50)]
    assert resized_crops(attempts, place, size, scale, ratio).tolist() == [list(box) for box in slow]


def test_crops_have_the_distribution_of_torchvisions():
    import_torchvision()
    from torchvision.transforms import RandomResizedCrop

    from ddcore.randomness import drawing_from

    with drawing_from(seeded(1)):
        theirs = torch.tensor([RandomResizedCrop.get_params(torch.zeros(1, 32, 32), SCALE, RATIO) for _ in range(3000)])
    ours = boxes(3000, (32, 32))
    # deviations of a mean of 3000: position 8 / 55 = 0.15, side 6.5 / 55 = 0.12; four of them
    assert ((ours - theirs).float().mean(0).abs() < torch.tensor([0.8, 0.8, 0.7, 0.7])).all()
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= 32).all()


def test_the_box_of_cutmix_by_hand():
    # 10 x 20, share 0.75: sides 5 and 10, so 2 and 5 to either side of the centre (9, 4): rows 7 to 11, cut at 10
    assert cutmix_box(0.75, (10, 20), torch.tensor([0.95, 0.2])).tolist() == [7, 0, 10, 9]
    assert cutmix_box(1.0, (10, 20), torch.tensor([0.5, 0.5])).tolist() == [5, 10, 5, 10]


def test_the_share_of_cutmix_is_that_of_the_pixels_outside_the_box():
    for seed in range(20):
        found = drawn(RESIZED, 4, (9, 7), seeded(seed))
        x = torch.tensor([0.0, 1]).view(2, 1, 1, 1).expand(2, 1, 9, 7)
        inside = cutmix(x, torch.tensor([1, 0]), found.box)[0].mean()
        torch.testing.assert_close(1 - inside, found.share)


@pytest.mark.parametrize("shape", [0.8, 1.0, 4.0])
def test_shares_have_the_moments_of_a_beta_distribution(shape):
    generator = seeded()
    draws = torch.stack([beta(shape, generator) for _ in range(2000)])
    # variance 1 / (4 (2 shape + 1)); the mean of 2000 deviates by at most 0.3 / 45
    assert abs(float(draws.mean()) - 0.5) < 0.03 and draws.min() >= 0 and draws.max() <= 1
    assert float(draws.var()) == pytest.approx(1 / (4 * (2 * shape + 1)), rel=0.12)


def test_a_batch_shares_one_mix_and_each_image_has_a_crop_and_a_mirror_of_its_own():
    found = drawn(RESIZED, 64, (32, 32), seeded())
    assert len({tuple(c) for c in found.crop.tolist()}) > 50 and 15 < int(found.flip.sum()) < 49
    assert sorted(found.partner.tolist()) == list(range(64)) and found.share.shape == () and found.box.shape == (4,)


def test_shifts_are_whole_pixels_up_to_the_pad():
    found = drawn(SHIFTED, 500, (32, 32), seeded())
    pixels = found.crop * 32
    assert set(pixels[:, :2].flatten().tolist()) == set(range(-4, 5)) and (found.crop[:, 2:] == 1).all()


def test_draws_come_from_the_generator_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    ours = [drawn(RESIZED, 8, (9, 7), seeded(7)) for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    for name in ("crop", "flip", "partner", "share", "box"):
        assert torch.equal(getattr(ours[0], name), getattr(ours[1], name))


@pytest.mark.skipif(os.environ.get("DDCORE_TEST_SEED_SHIFT", "0") != "0", reason="of one seed, by value")
def test_draws_by_value_so_that_a_torch_that_draws_otherwise_is_noticed():
    found = drawn(RESIZED, 2, (32, 32), seeded(0))
    assert (found.crop * 32).long().tolist() == [[2, 0, 24, 29], [9, 2, 20, 26]]
    assert (found.flip.tolist(), found.partner.tolist(), found.box.tolist()) == (
        [False, True],
        [0, 1],
        [16, 12, 32, 32],
    )


@pytest.mark.parametrize(
    "wrong",
    [{"crop": "round"}, {"scale": (0.5, 2.0)}, {"ratio": (0, 1)}, {"scale": (0.1,)}, {"flip": 2.0}, {"beta": 0}]
    + [{"beta": 1e9}, {"pad": -1}, {"mix": "blend"}, {"antialias": 1}],
)
def test_numbers_that_cannot_be_drawn_from_are_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        Draw(**wrong)


def test_a_header_makes_the_same_draw_again():
    assert Draw(**SHIFTED.header()) == SHIFTED != RESIZED


def test_patches_move_first_and_by_the_drawn_orders():
    draw = Draw(crop="none", flip=0.0, mix="none", shuffle=2)
    images = torch.arange(2 * 64.0).view(2, 1, 8, 8)
    parameters = drawn(draw, 2, (8, 8), torch.Generator().manual_seed(1))
    view = parameters.view(draw, torch.arange(2))
    assert [name for name, _ in view.ops] == ["shuffle-patches"]
    assert torch.equal(changed(view, images), shuffled(images, parameters.strips))


def test_without_shuffled_patches_the_draws_are_what_they_were():
    one, other = (drawn(Draw(shuffle=f), 3, (8, 8), torch.Generator().manual_seed(5)) for f in (1, 2))
    assert one.strips.numel() == 0
    assert all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("crop", "flip", "partner", "share", "box")
    )
