"""One crop, mirror and roll for a whole batch: where they may fall, and torchvision's numbers."""

import torch

from ddcore.images.shared_view import SharedView, draw_view


def seeded(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_rolls_go_from_zero_to_the_reach_and_both_are_reached():
    views = [draw_view(8, 4, torch.Generator().manual_seed(seed)) for seed in range(300)]
    for axis in (0, 1):
        assert {view.roll[axis] for view in views} == {0, 1, 2, 3, 4}
    assert not any(view.box or view.mirrored for view in views)


def test_centred_rolls_go_both_ways():
    views = [draw_view(8, 2, torch.Generator().manual_seed(seed), centred=True) for seed in range(200)]
    assert {view.roll[0] for view in views} == {-2, -1, 0, 1, 2}


def test_crops_lie_inside_and_half_of_them_are_mirrored():
    views = [draw_view(32, 4, torch.Generator().manual_seed(s), least=0.3, mirror=0.5) for s in range(200)]
    for view in views:
        top, left, height, width = view.box
        assert 0 <= top <= top + height <= 32
        assert 0 <= left <= left + width <= 32
        assert height * width >= 0.3 * 32 * 32 * 0.9
        assert 0.7 <= width / height <= 1.43
    assert 70 <= sum(view.mirrored for view in views) <= 130


def test_one_view_serves_the_whole_batch():
    images = seeded(1, 3, 8, 8).expand(4, 3, 8, 8)
    seen = SharedView((3, 1), (1, 2, 5, 6), True)(images)
    assert all(torch.equal(seen[0], row) for row in seen)


def test_a_whole_box_without_mirror_and_roll_is_the_identity():
    images = seeded(2, 3, 8, 8)
    assert torch.equal(SharedView((0, 0), (0, 0, 8, 8))(images), images)


def test_a_roll_wraps_around():
    images = torch.arange(16.0).view(1, 1, 4, 4)
    assert SharedView((1, 2))(images)[0, 0, 0].tolist() == [14.0, 15.0, 12.0, 13.0]


def test_a_crop_is_torchvisions_then_mirrored_then_rolled():
    from ddcore.networks.vision import import_torchvision

    import_torchvision()
    from torchvision.transforms.functional import hflip, resized_crop

    images = seeded(2, 3, 16, 16).float()
    due = hflip(resized_crop(images, 2, 3, 7, 9, [16, 16], antialias=False)).roll((2, 5), (2, 3))
    torch.testing.assert_close(SharedView((2, 5), (2, 3, 7, 9), True)(images), due)
