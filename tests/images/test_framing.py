"""Pictures become squares: torchvision's crop, a padded whole, or both sides squashed."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddcore.images.framing import Resize, _window
from ddcore.images.pictures import from_array
from ddcore.networks.vision import import_torchvision


def stripes(width, height, parts=3):
    """Grey of 0, 100, 200 from left to right, in equal parts."""
    return np.repeat(np.arange(parts) * 100, width // parts)[None].repeat(height, 0).astype(np.uint8)


def framed(array, size, mode, fill=0):
    return np.asarray(Resize(size, mode).apply(Image.fromarray(array), fill))


def test_a_crop_keeps_the_centre_and_the_proportion():
    assert (framed(stripes(24, 8), 8, "crop") == 100).all()
    assert (framed(stripes(24, 8).T.copy(), 8, "crop") == 100).all()


def test_a_crop_is_torchvisions_resize_and_centre_crop():
    transforms = import_torchvision().transforms
    for size in ((37, 23), (23, 37), (30, 20), (9, 8), (100, 31)):
        noise = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (*size, 3), dtype=np.uint8)
        due = transforms.Compose([transforms.Resize(11, Image.Resampling.BICUBIC), transforms.CenterCrop(11)])
        assert np.array_equal(framed(noise, 11, "crop"), np.asarray(due(Image.fromarray(noise)))), size


def test_of_a_very_long_picture_the_same_centre_is_kept_without_scaling_the_rest():
    long = np.random.Generator(np.random.PCG64(2)).integers(0, 256, (4, 400), dtype=np.uint8)
    (near,) = {framed(long, 8, "crop").shape}
    due = np.asarray(Image.fromarray(long).resize((800, 8), Image.Resampling.BICUBIC))[:, 396:404]
    assert near == (8, 8) and np.abs(framed(long, 8, "crop").astype(int) - due).max() <= 1
    assert _window(Image.fromarray(long), (800, 8), (396, 0, 404, 8)).size == (8, 8)


def test_a_pad_keeps_all_of_it_on_a_ground():
    found = framed(np.full((4, 8), 200, np.uint8), 8, "pad", 7)
    assert (found[2:6] == 200).all() and (found[:2] == 7).all() and (found[6:] == 7).all()
    colours = framed(np.full((8, 4, 3), 200, np.uint8), 8, "pad")
    assert (colours[:, 2:6] == 200).all() and (colours[:, :2] == 0).all()


def test_a_squash_takes_both_sides():
    found = framed(stripes(24, 8), 8, "squash")
    assert found[0, 0] < 20 and abs(int(found[0, 4]) - 100) < 20 and found[0, 7] > 180


def test_a_square_is_the_same_in_every_mode():
    noise = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (9, 9), dtype=np.uint8)
    assert len({framed(noise, 5, mode).tobytes() for mode in ("crop", "pad", "squash")}) == 1


def test_arrays_are_framed_as_pictures_are():
    array = stripes(24, 8)
    for mode in ("crop", "pad", "squash"):
        values = from_array(array[None], "x", Resize(8, mode)).values
        assert torch.equal(values[0, 0], torch.from_numpy(framed(array, 8, mode).copy())), mode


def test_a_mode_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="mode"):
        Resize(8, "stretch")
