"""Patches: torchvision's crops, scores by hand, selection and stitching against slow twins, four outcomes of a shuffle."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddcore.images.patches import RANKS, crop_boxes, cut, fittest, padded, patch_losses, ranked, stitch, unstitch
from ddcore.images.views import cells, shuffled, strip_orders
from ddcore.networks.vision import import_torchvision
from ddcore.networks.zoo import build

SCALE = (0.08, 1.0)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=drawn(seed), dtype=dtype)


def teacher(seed: int = 0, size: int = 8, channels: int = 3) -> torch.nn.Module:
    """A BatchNorm network whose running statistics are not those it was born with."""
    network = build("convnet2-bn-w8", channels, size, 4, drawn(seed))
    assert network is not None
    network.double()
    network(seeded(16, channels, size, size, seed=seed + 1))
    return network.eval().requires_grad_(False)


def state_of(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


# ---- cutting ---------------------------------------------------------------------------------------------------------


def test_boxes_are_square_inside_the_image_and_of_the_areas_asked_for():
    boxes = crop_boxes(200, 5, (32, 32), (0.25, 0.5), drawn())
    top, left, high, wide = boxes.flatten(0, 1).T
    assert boxes.shape == (200, 5, 4) and torch.equal(high, wide)
    assert top.min() >= 0 and (top + high).max() <= 32 and left.min() >= 0 and (left + wide).max() <= 32
    assert set(high.tolist()) == set(range(16, 24))  # sqrt(0.25) 32 = 16, sqrt(0.5) 32 = 22.6
    assert (top + high).max() == 32 and top.min() == 0


def test_crops_of_one_image_differ_and_fewer_crops_are_the_first_of_more():
    five, three = (crop_boxes(6, crops, (32, 32), SCALE, drawn(3)) for crops in (5, 3))
    assert torch.equal(five[:, :3], three)
    assert len({tuple(box) for box in five[0].tolist()}) == 5
    assert torch.equal(five, crop_boxes(6, 5, (32, 32), SCALE, drawn(3)))


@pytest.mark.parametrize("side", [3, 5, 12])
def test_a_patch_is_torchvisions_resized_crop_bit_for_bit(side):
    import_torchvision()
    from torchvision.transforms.v2.functional import resized_crop

    images, boxes = seeded(3, 3, 9, 9, dtype=torch.float32), crop_boxes(3, 4, (9, 9), SCALE, drawn())
    found = cut(images, boxes, side)
    for image, own, patches_of in zip(images, boxes.tolist(), found, strict=True):
        for box, patch in zip(own, patches_of, strict=True):
            assert torch.equal(patch, resized_crop(image, *box, size=[side, side], antialias=True))


def test_a_box_of_the_patch_s_own_size_is_cut_out_and_left_as_it_is():
    images = seeded(2, 3, 6, 6)
    boxes = torch.tensor([[[1, 2, 3, 3]], [[3, 0, 3, 3]]])
    found = cut(images, boxes, 3)
    assert torch.equal(found[0, 0], images[0, :, 1:4, 2:5]) and torch.equal(found[1, 0], images[1, :, 3:6, 0:3])
    assert torch.equal(cut(images, torch.tensor([[[0, 0, 6, 6]]] * 2), 6)[:, 0], images)


def test_shrinking_averages_what_it_leaves_out():
    # antialiasing weighs every pixel: a lone bright one between the sampled points still counts
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 3, 4] = 1.0
    assert cut(image, torch.tensor([[[0, 0, 8, 8]]]), 2).sum() > 0.03


# ---- judging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side, first", [(4, 2), (3, 2), (8, 0)])
def test_padding_puts_the_patch_in_the_middle_of_zeros(side, first):
    patch = seeded(2, 3, side, side)
    found = padded(patch, 8)
    assert found.shape == (2, 3, 8, 8) and torch.equal(found.sum((2, 3)), found[:, :, first : first + side].sum((2, 3)))
    assert torch.equal(found[:, :, first : first + side, first : first + side], patch)
    assert int((found != 0).sum()) == patch.numel()


def test_losses_are_minus_the_log_probability_of_the_true_class():
    network, x, classes = teacher(), seeded(3, 2, 3, 4, 4), torch.tensor([2, 0, 3])
    found = patch_losses(x, classes, [network], size=8)
    for image in range(3):
        for crop in range(2):
            shown = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
            shown[0, :, 2:6, 2:6] = x[image, crop]
            probability = network(shown).softmax(1)[0, classes[image]]
            assert math.isclose(found[image, crop], -math.log(probability), rel_tol=1e-9)
    assert (found >= 0).all()


def test_padding_changes_the_score_and_a_patch_of_full_size_has_none():
    network, image, classes = teacher(), seeded(1, 1, 3, 8, 8), torch.tensor([1])
    small = F.interpolate(image[0], (4, 4), mode="bilinear", antialias=True)[None]
    stretched = patch_losses(F.interpolate(small[0], (8, 8))[None], classes, [network], size=8)
    assert not torch.isclose(patch_losses(small, classes, [network], size=8), stretched).any()
    whole = F.cross_entropy(network(image[0]), classes)
    torch.testing.assert_close(patch_losses(image, classes, [network], size=8)[0, 0], whole)


def test_very_wrong_patches_have_a_large_loss_where_the_logarithm_of_a_probability_is_infinite():
    class Sure(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.0, 2000.0]]).expand(len(x), 2)

    assert patch_losses(torch.zeros(1, 1, 1, 2, 2), torch.tensor([0]), [Sure()], size=2).item() == 2000


def test_networks_vote_by_their_weights_and_alike_unless_told():
    networks, x, classes = [teacher(0), teacher(1)], seeded(2, 3, 3, 4, 4), torch.tensor([0, 3])
    one, other = (patch_losses(x, classes, [n], size=8) for n in networks)
    assert not torch.allclose(one, other)
    torch.testing.assert_close(patch_losses(x, classes, networks, size=8), (one + other) / 2)
    torch.testing.assert_close(patch_losses(x, classes, networks, [0.9, 0.1], size=8), 0.9 * one + 0.1 * other)
    torch.testing.assert_close(patch_losses(x, classes, [networks[0]] * 2, size=8), one)


def test_scores_depend_on_no_chunk_and_on_no_other_patch():
    network, x, classes = teacher(), seeded(5, 3, 3, 4, 4), torch.tensor([0, 1, 2, 3, 0])
    whole = patch_losses(x, classes, [network], size=8)
    torch.testing.assert_close(patch_losses(x, classes, [network], size=8, chunk=2), whole)
    torch.testing.assert_close(patch_losses(x[2:3, 1:2], classes[2:3], [network], size=8)[0, 0], whole[2, 1])


def test_no_gradient_is_needed_and_the_teacher_stays_as_it_was():
    network, x = teacher(), seeded(4, 2, 3, 4, 4)
    network.requires_grad_(True)
    before = state_of(network)
    found = patch_losses(x.requires_grad_(), torch.arange(4), [network], size=8)
    after = network.state_dict()
    assert not found.requires_grad and all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in network.parameters())


# ---- choosing --------------------------------------------------------------------------------------------------------


def slow_selection(losses: Tensor, count: int) -> list[tuple[int, int]]:
    """RDED's selector in plain loops: (image, crop) by rank."""
    minima = []
    for image, row in enumerate(losses.tolist()):
        crop = min(range(len(row)), key=row.__getitem__)
        minima.append((row[crop], image, crop))
    return [(image, crop) for _, image, crop in sorted(minima)[:count]]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_kept_is_the_exact_n_smallest_of_the_per_image_minima(seed):
    losses = seeded(30, 5, seed=seed)
    lowest, best = fittest(losses)
    kept = ranked(lowest, 8, "lowest")
    assert list(zip(kept.tolist(), best[kept].tolist(), strict=True)) == slow_selection(losses, 8)
    left = [i for i in range(30) if i not in kept.tolist()]
    assert losses[kept].min(1).values.max() < losses[left].min(1).values.min()


def test_an_image_gives_one_patch_however_good_its_others_are():
    # image 1 holds the two best crops of all, and is kept once
    losses = torch.tensor([[5.0, 4.0], [0.1, 0.2], [3.0, 9.0]])
    lowest, best = fittest(losses)
    assert ranked(lowest, 2, "lowest").tolist() == [1, 2] and best.tolist() == [1, 0, 0]


def test_more_crops_never_raise_the_score_of_an_image():
    network, images, classes = teacher(), seeded(12, 3, 8, 8), torch.arange(12) % 4
    previous = torch.full((12,), torch.inf, dtype=torch.float64)
    for crops in (1, 2, 4, 6):
        boxes = crop_boxes(12, crops, (8, 8), SCALE, drawn(5))
        now, _ = fittest(patch_losses(cut(images, boxes, 4), classes, [network], size=8))
        assert (now <= previous).all()
        previous = now


def test_ranks_by_hand():
    losses = torch.tensor([0.3, 0.1, 0.5, 0.2, 0.4, 0.6])
    assert ranked(losses, 3, "lowest").tolist() == [1, 3, 0]
    assert ranked(losses, 3, "highest").tolist() == [5, 2, 4]
    assert ranked(losses, 2, "median").tolist() == [0, 4]
    assert ranked(losses, 3, "median").tolist() == [3, 0, 4]  # one below, two above
    assert all(sorted(ranked(losses, 6, ranks).tolist()) == list(range(6)) for ranks in RANKS)


def test_equals_go_in_order_of_position():
    assert ranked(torch.ones(5), 3, "lowest").tolist() == [0, 1, 2] == ranked(torch.ones(5), 3, "highest").tolist()
    assert fittest(torch.ones(2, 300))[1].tolist() == [0, 0]


def test_more_patches_than_images_and_unknown_ranks_are_refused():
    with pytest.raises(ValueError, match="9 patches asked of 8 images, one of each"):
        ranked(torch.zeros(8), 9, "lowest")
    with pytest.raises(ValueError, match="no ranks are called 'best'"):
        ranked(torch.zeros(8), 1, "best")


# ---- stitching -------------------------------------------------------------------------------------------------------


def slow_stitch(given: Tensor, count: int, size: int) -> Tensor:
    """Patch j count + k into cell j of image k, pixel by pixel; a longer cell repeats its patch's first row and column."""
    factor = math.isqrt(len(given) // count)
    side, longer = divmod(size, factor)
    mosaics = torch.full((count, given.shape[1], size, size), torch.nan, dtype=given.dtype)
    for image in range(count):
        top = 0
        for row in range(factor):
            left, high = 0, side + (row < longer)
            for column in range(factor):
                wide = side + (column < longer)
                patch = given[(row * factor + column) * count + image]
                for y, x in itertools.product(range(high), range(wide)):
                    from_y, from_x = max(0, y - (high - side)), max(0, x - (wide - side))
                    mosaics[image, :, top + y, left + x] = patch[:, from_y, from_x]
                left += wide
            top += high
    return mosaics


@pytest.mark.parametrize("factor, size", [(1, 8), (2, 8), (3, 9), (2, 7), (3, 8), (3, 7), (4, 15), (7, 7)])
def test_stitching_is_the_slow_twin_s_and_unstitching_returns_every_patch_once(factor, size):
    given = seeded(3 * factor**2, 2, size // factor, size // factor)
    mosaics = stitch(given, 3, size)
    assert torch.equal(mosaics, slow_stitch(given, 3, size))
    assert torch.equal(unstitch(mosaics, factor), given)


def test_cell_j_of_the_first_image_is_patch_j_times_the_number_of_images():
    # patches 0..11 are constant: 3 images of 2 x 2 cells
    given = torch.arange(12.0)[:, None, None, None].expand(12, 1, 4, 4)
    mosaics = stitch(given, 3, 8)
    assert mosaics[0, 0, ::4, ::4].tolist() == [[0, 3], [6, 9]]
    assert mosaics[2, 0, ::4, ::4].tolist() == [[2, 5], [8, 11]]
    assert [int(mosaic[0, 0, 0]) for mosaic in mosaics] == [0, 1, 2]  # the first cells hold the best


def test_one_cell_is_the_identity():
    given = seeded(5, 3, 8, 8)
    assert torch.equal(stitch(given, 5, 8), given) and torch.equal(unstitch(given, 1), given)


@pytest.mark.parametrize("size", [2, 31, 32, 33, 224, 225, 226])
def test_cells_fill_the_image_and_differ_by_a_pixel_at_most(size):
    for factor in range(1, min(size, 12)):
        sides = cells(size, factor)
        assert sum(sides) == size and len(sides) == factor
        assert max(sides) - min(sides) <= 1 and sides == sorted(sides, reverse=True)


@pytest.mark.parametrize("size", [113, 225, 1025])
def test_a_longer_cell_loses_nothing_at_the_sizes_of_photographs(size):
    given = seeded(4, 1, size // 2, size // 2)
    assert torch.equal(unstitch(stitch(given, 1, size), 2), given)


def test_what_cannot_be_stitched_is_refused_with_its_numbers():
    with pytest.raises(ValueError, match="6 patches do not fill 2 images of f x f"):
        stitch(seeded(6, 1, 4, 4), 2, 8)
    with pytest.raises(ValueError, match="3 patches do not fill 4 images"):
        stitch(seeded(3, 1, 4, 4), 4, 8)
    with pytest.raises(ValueError, match="8 pixels cannot be cut into 9 cells: 1 to 8"):
        cells(8, 9)


def test_a_crop_of_every_image_is_what_is_left_when_there_is_nothing_to_choose():
    # m = 1, f = 1, as many images as patches: the crops themselves, in another order
    network, images, classes = teacher(), seeded(6, 3, 8, 8), torch.zeros(6, dtype=torch.int64)
    boxes = crop_boxes(6, 1, (8, 8), SCALE, drawn())
    crops = cut(images, boxes, 8)
    losses, best = fittest(patch_losses(crops, classes, [network], size=8))
    kept = ranked(losses, 6, "lowest")
    found = stitch(cut(images[kept], boxes[kept, best[kept]][:, None], 8)[:, 0], 6, 8)
    assert sorted(kept.tolist()) == list(range(6)) and torch.equal(found, crops[kept, 0])


# ---- shuffling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor, size", [(2, 8), (3, 9), (3, 8), (2, 7), (5, 8)])
def test_shuffling_keeps_every_pixel(factor, size):
    images = seeded(4, 3, size, size)
    found = shuffled(images, strip_orders(4, factor, drawn()))
    assert torch.equal(found.flatten(2).sort(2).values, images.flatten(2).sort(2).values)
    assert not torch.equal(found, images)


def test_shuffling_is_columns_then_rows_of_strips():
    # strips of columns in the order 1, 0, then strips of rows in the order 1, 2, 0; 3 columns are cut 2 and 1
    image = torch.arange(12.0).view(1, 1, 4, 3)
    orders = torch.tensor([[[1, 0], [1, 0]]])
    assert shuffled(image, orders)[0, 0].tolist() == [[8, 6, 7], [11, 9, 10], [2, 0, 1], [5, 3, 4]]


def test_one_strip_is_the_identity():
    images = seeded(3, 2, 8, 8)
    assert torch.equal(shuffled(images, strip_orders(3, 1, drawn())), images)


def test_two_strips_have_four_outcomes_each_with_probability_one_quarter():
    given = torch.arange(4.0)[:, None, None, None].expand(4, 1, 4, 4)
    mosaics = stitch(given, 1, 8).expand(4000, 1, 8, 8)
    found = Counter(
        tuple(m.flatten().tolist()) for m in shuffled(mosaics, strip_orders(4000, 2, drawn()))[:, 0, ::4, ::4]
    )
    assert set(found) == {(0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0)}
    assert all(abs(times - 1000) < 4 * math.sqrt(4000 * 0.25 * 0.75) for times in found.values())


def test_cells_move_whole_and_every_order_of_three_strips_comes_up():
    orders = strip_orders(3000, 3, drawn())
    times = Counter(tuple(order) for order in orders[:, 0].tolist())
    assert len(times) == 6 and all(abs(n - 500) < 4 * math.sqrt(3000 / 6 * 5 / 6) for n in times.values())
    given = torch.arange(9.0)[:, None, None, None].expand(9, 1, 3, 3)
    cell = unstitch(shuffled(stitch(given, 1, 9), orders[:1]), 3)
    assert all(len(c.unique()) == 1 for c in cell) and sorted(cell[:, 0, 0, 0].tolist()) == list(range(9))


def test_images_are_shuffled_each_in_its_own_way_and_gradients_pass():
    images = seeded(1, 1, 4, 4).expand(16, 1, 4, 4).clone().requires_grad_()
    found = shuffled(images, strip_orders(16, 2, drawn()))
    assert len({tuple(f.flatten().tolist()) for f in found.detach()}) == 4
    (gradient,) = torch.autograd.grad(found.sum(), images)
    assert torch.equal(gradient, torch.ones_like(images))


def test_nothing_moves_the_global_generator():
    before = torch.get_rng_state()
    crop_boxes(3, 2, (8, 8), SCALE, drawn())
    strip_orders(3, 2, drawn())
    patch_losses(seeded(2, 2, 3, 4, 4), torch.tensor([0, 1]), [teacher()], size=8)
    assert torch.equal(before, torch.get_rng_state())
