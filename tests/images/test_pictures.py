"""What a picture holds is what is read: orientation, transparency, 16 bits, floats; one rule for a whole set."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ddcore.images.framing import Resize
from ddcore.images.pictures import CLEAR, FLOAT, TURNED, WIDE, Pictures, decode, from_array, stack
from ddcore.images.ranges import one_range

CORNER = np.array([[250, 10, 10], [10, 10, 10]], np.uint8)
"""Bright at the upper left."""


def encoded(image, kind="PNG", **more):
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def png16(array, alpha=False):
    """A PNG of 16 bits a colour, which Pillow does not write."""
    kind = {2: 4, 3: 2, 4: 6}[array.shape[2]]

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff16(array, order):
    """An uncompressed TIFF of 16-bit colours, ``order`` ``<`` or ``>``."""
    height, width, channels = array.shape
    data = array.astype(order + "u2").tobytes()
    end = 8 + len(data) + 2 + 12 * 9 + 4
    longs = {256: width, 257: height, 273: 8, 278: height, 279: len(data)}
    entries = [struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in longs.items()]
    entries += [struct.pack(order + "HHII", 258, 3, channels, end)]
    entries += [struct.pack(order + "HHIHH", tag, 3, 1, v, 0) for tag, v in {259: 1, 262: 2, 277: channels}.items()]
    entries.sort(key=lambda entry: struct.unpack(order + "H", entry[:2]))
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8 + len(data))
    tail = struct.pack(order + "I", 0) + struct.pack(order + "H", 16) * channels
    return head + data + struct.pack(order + "H", len(entries)) + b"".join(entries) + tail


def read(*pictures, resize=None):
    return stack(list(pictures), len(pictures), str, resize)


def ranged(*train, test=None):
    first = read(*train)
    return one_range(first, first if test is None else read(*test))


# ---- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_picture_is_turned_as_its_orientation_says(kind, orientation):
    back = {2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud, 5: lambda a: a.T, 6: np.rot90}
    back |= {7: lambda a: a[::-1, ::-1].T, 8: lambda a: np.rot90(a, -1)}
    upright = np.kron(CORNER, np.ones((16, 16), np.uint8))
    as_taken = np.ascontiguousarray(back.get(orientation, lambda a: a)(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encoded(Image.fromarray(as_taken), kind, exif=exif))
    pixels = found.pixels if found.pixels.ndim == 2 else found.pixels[..., 0]
    assert pixels.shape == upright.shape and np.abs(pixels.astype(int) - upright).mean() < 12
    assert (found.marks == TURNED) == (orientation > 1)


def test_deep_and_transparent_pictures_are_turned_too_and_before_they_are_cropped():
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000
    assert np.array_equal(decode(encoded(Image.fromarray(deep), exif=exif)).pixels, np.rot90(deep, -1))
    clear = np.zeros((2, 3, 4), np.uint8)
    clear[0, 0, 3] = 255
    found = decode(encoded(Image.fromarray(clear), exif=exif))
    assert found.opaque.argmax() == 1 and found.marks == CLEAR | TURNED
    assert decode(encoded(Image.fromarray(deep), exif=exif), Resize(2, "pad")).pixels.shape == (2, 2)


def test_an_orientation_that_makes_no_sense_is_none():
    exif = Image.Exif()
    exif[0x0112] = 77
    assert decode(encoded(Image.fromarray(CORNER), exif=exif)).marks == 0


def test_turned_pictures_are_counted():
    exif = Image.Exif()
    exif[0x0112] = 3
    plain, turned = encoded(Image.fromarray(CORNER[:, :2])), encoded(Image.fromarray(CORNER[:, :2]), exif=exif)
    notes = ranged(plain, turned, turned, test=[plain])[2]
    assert notes == ("2 pictures turned upright, as EXIF orientation says",)


# ---- more than 8 bits ------------------------------------------------------------------------------------------------


def grey16(*values):
    return encoded(Image.fromarray(np.array(values, np.uint16).reshape(2, 2)))


def test_sixteen_bits_keep_all_their_bits():
    train, _, notes = ranged(grey16(0, 255, 256, 65535), grey16(1, 2, 3, 4))
    due = torch.tensor([[0, 255, 256, 65535], [1, 2, 3, 4]]) / 65535
    torch.testing.assert_close(train.flatten(1), due)
    assert notes == ("pixels of more than 8 bits divided by 65,535, the range of their type",)


def test_values_that_plainly_lie_below_are_divided_by_the_largest_of_the_train_part():
    train, test, notes = ranged(grey16(0, 1000, 2000, 4095), grey16(5, 5, 5, 6), test=[grey16(0, 4095, 8190, 1)])
    assert train.max() == 1 and train[1].max() == pytest.approx(6 / 4095)
    torch.testing.assert_close(test.flatten(), torch.tensor([0, 1, 1, 1 / 4095]))
    assert "divided by 4,095, the largest value of the train images" in notes[0]
    assert notes[1] == "1 picture of the test part reach beyond that and are cut there"


def test_bytes_in_sixteen_bits_are_bytes():
    train, _, notes = ranged(grey16(0, 100, 200, 255), grey16(1, 2, 3, 4))
    assert train.dtype == torch.uint8 and train.flatten().tolist() == [0, 100, 200, 255, 1, 2, 3, 4]
    assert "hold 0 to 255 only: taken for 8-bit ones" in notes[0]


def test_small_values_in_sixteen_bits_are_not_black():
    train, _, _ = ranged(grey16(0, 10, 20, 40), grey16(1, 2, 3, 4))
    assert train.max() == 1


@pytest.mark.parametrize("make", [png16, lambda a: tiff16(a, "<"), lambda a: tiff16(a, ">")])
def test_sixteen_bit_colours_keep_their_lower_bytes(make):
    array = np.random.Generator(np.random.PCG64(0)).integers(0, 65536, (5, 5, 3), dtype=np.uint16)
    found = decode(make(array))
    assert found.marks == WIDE and np.array_equal(found.pixels, array.astype(np.float32))


def test_dark_sixteen_bit_colours_are_not_black():
    array = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (5, 5, 3), dtype=np.uint16)
    train, _, _ = ranged(png16(array), png16(array // 2))
    assert torch.equal(train[0], torch.from_numpy(array.astype(np.uint8)).permute(2, 0, 1))


def test_sixteen_bits_with_transparency_are_refused_and_without_they_are_read():
    array = np.full((2, 2, 4), 60000, np.uint16)
    with pytest.raises(OSError, match="16-bit colours and transparency"):
        decode(png16(array))
    array[..., 3] = 65535
    assert decode(png16(array)).pixels.shape == (2, 2, 3)
    with pytest.raises(OSError, match=r"LA;16B, whose lower 8 would be lost: store it as 16-bit PNG"):
        decode(png16(array[..., :2]))


def test_a_colour_ppm_of_more_than_8_bits_is_refused_and_a_grey_one_read():
    with pytest.raises(OSError, match="lower 8 would be lost"):
        decode(b"P6 1 1 65535\n" + bytes(6))
    assert decode(b"P5 2 1 65535\n" + bytes([0, 1, 255, 255])).pixels.tolist() == [[1, 65535]]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_tiffs_of_whole_numbers_and_floats_are_scaled_by_the_set(kind):
    images = [np.arange(4).reshape(2, 2) * 100_000, np.ones((2, 2))]
    pictures = [encoded(Image.fromarray(image.astype(kind)), "TIFF") for image in images]
    train, _, notes = ranged(*pictures)
    torch.testing.assert_close(train.flatten(1), torch.tensor([[0, 1 / 3, 2 / 3, 1], [1 / 300_000] * 4]))
    assert "the largest value of the train images" in notes[0]


def test_floats_in_0_to_1_stay_what_they_are():
    image = np.array([[0, 0.25], [0.5, 0.75]], np.float32)
    train, _, notes = ranged(encoded(Image.fromarray(image), "TIFF"))
    assert torch.equal(train[0, 0], torch.from_numpy(image)) and notes == ()


@pytest.mark.parametrize(
    ("value", "why"), [(-1, "reach down to -1"), (np.nan, "NaN or infinite"), (np.inf, "infinite")]
)
def test_pixels_without_a_range_are_refused(value, why):
    with pytest.raises(OSError, match=why):
        decode(encoded(Image.fromarray(np.array([[0, value]], np.float32)), "TIFF"))


def test_eight_and_sixteen_bits_in_one_set_are_both_in_their_range():
    eight = encoded(Image.fromarray(np.array([[0, 255], [51, 0]], np.uint8)))
    train, test, _ = ranged(eight, grey16(0, 65535, 13107, 0), test=[eight])
    torch.testing.assert_close(train[0], train[1])
    torch.testing.assert_close(test[0], train[1])
    assert test.dtype == train.dtype == torch.float32


def test_resizing_deep_pictures_does_not_leave_their_range():
    board = (np.indices((9, 9)).sum(0) % 2 * 60000).astype(np.uint16)
    for side in (4, 20):
        pixels = decode(encoded(Image.fromarray(board)), Resize(side)).pixels
        assert pixels.min() >= 0 and pixels.max() <= 60000 and pixels.shape == (side, side)


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_arrays_are_scaled_like_pictures(kind):
    values = np.array([0, 1000, 2000, 4095] * 2, kind).reshape(2, 2, 2)
    found = from_array(values, "x")
    train, _, _ = one_range(found, found)
    theirs = ranged(*(grey16(*image.flatten()) for image in values))[0]
    assert torch.equal(train, theirs) and (found.marks == WIDE).all()


def test_arrays_of_bytes_in_wider_types_of_truth_values_and_of_floats():
    wide = from_array(np.array([0, 255, 7, 8]).reshape(1, 2, 2), "x")
    assert one_range(wide, wide)[0].flatten().tolist() == [0, 255, 7, 8]
    assert from_array(np.eye(2, dtype=bool)[None], "x").values.flatten().tolist() == [255, 0, 0, 255]
    floats = from_array(np.array([0, 51.0, 204, 255]).reshape(1, 2, 2), "x")
    train, _, notes = one_range(floats, floats)
    torch.testing.assert_close(train.flatten(), torch.tensor([0, 0.2, 0.8, 1]))
    assert (floats.marks == FLOAT).all() and notes == (
        "float pixels divided by 255, the largest value of the train images",
    )


def test_floats_of_the_test_part_beyond_the_train_part_are_cut_and_said():
    train, test = (from_array(np.array([[[0, top]] * 2]), "x") for top in (255.0, 300.0))
    _, found, notes = one_range(train, test)
    assert found.max() == 1 and "1 picture of the test part" in notes[-1]


# ---- transparency ----------------------------------------------------------------------------------------------------


def clear(colour, mode="RGBA"):
    """A square of a colour in the middle of nothing."""
    array = np.zeros((4, 4, 4), np.uint8)
    array[1:3, 1:3] = (*colour, 255)
    return Image.fromarray(array).convert(mode)


def as_palette():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 200, 30, 30])
    palette.paste(1, (1, 1, 3, 3))
    return palette


def by_key(mode):
    image = Image.new(mode, (4, 4), 0)
    image.paste((200, 200, 200) if mode == "RGB" else 200, (1, 1, 3, 3))
    return image


PICTURES = {
    "RGBA": lambda: encoded(clear((200, 30, 30))),
    "LA": lambda: encoded(clear((200, 200, 200), "LA")),
    "palette": lambda: encoded(as_palette(), transparency=0),
    "palette with bytes": lambda: encoded(as_palette(), transparency=bytes([0, 255])),
    "GIF": lambda: encoded(as_palette(), "GIF", transparency=0),
    "WebP": lambda: encoded(clear((200, 30, 30)), "WEBP", lossless=True),
    "key in RGB": lambda: encoded(by_key("RGB"), transparency=(0, 0, 0)),
    "key in grey": lambda: encoded(by_key("L"), transparency=0),
}


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_transparent_is_white(name):
    train, _, notes = ranged(PICTURES[name]())
    assert (train[0, :, 0, 0] == 255).all() and train[0, 0, 1, 1] == 200
    assert train.shape[1] == (1 if name in ("LA", "key in grey") else 3)
    assert notes == ("2 pictures with transparency put on white",)


def test_black_shapes_are_seen_on_white_and_white_ones_on_black():
    black, _, notes = ranged(encoded(clear((0, 0, 0))))
    assert black[0, 0, 0, 0] == 255 and black[0, 0, 1, 1] == 0 and "on white" in notes[0]
    white, _, notes = ranged(encoded(clear((255, 255, 255))), encoded(clear((250, 250, 250))))
    assert white[0, 0, 0, 0] == 0 and white[0, 0, 1, 1] == 255 and "on black, since white would hide" in notes[0]


def test_one_ground_serves_the_whole_set_as_the_train_part_says():
    dark, light = encoded(clear((0, 0, 0))), encoded(clear((255, 255, 255)))
    train, test, _ = ranged(light, test=[dark])
    assert train[0, 0, 0, 0] == test[0, 0, 0, 0] == 0
    train, test, _ = ranged(dark, test=[light])
    assert train[0, 0, 0, 0] == test[0, 0, 0, 0] == 255


def test_half_transparent_pixels_are_mixed_on_either_ground():
    array = np.full((2, 2, 4), 255, np.uint8)
    array[..., 3] = [[0, 51], [102, 255]]
    train, _, _ = ranged(encoded(Image.fromarray(array)))
    assert train[0, 0].tolist() == [[0, 51], [102, 255]]  # white on black
    array[..., :3] = 0
    train, _, _ = ranged(encoded(Image.fromarray(array)))
    assert train[0, 0].tolist() == [[255, 204], [153, 0]]  # black on white


def test_wholly_opaque_pictures_are_not_put_anywhere_and_wholly_transparent_ones_are_counted():
    opaque, empty = Image.new("RGBA", (4, 4), (9, 9, 9, 255)), Image.new("RGBA", (4, 4), (9, 9, 9, 0))
    train, _, notes = ranged(encoded(opaque))
    assert notes == () and (train == 9).all()
    notes = ranged(encoded(opaque), encoded(empty), encoded(clear((0, 0, 0))), test=[encoded(opaque)])[2]
    assert notes == ("2 pictures with transparency put on white", "1 picture wholly transparent")


def test_a_padded_picture_stands_on_the_ground_of_its_transparency():
    wide = Image.new("RGBA", (4, 2), (255, 255, 255, 0))
    wide.paste((255, 255, 255, 255), (1, 0, 3, 2))
    black = one_range(*[read(encoded(wide), resize=Resize(4, "pad"))] * 2)[0]
    assert (black[0, :, 0] == 0).all() and (black[0, :, 1, 1] == 255).all()


def test_rows_and_opacity_stay_together():
    found = read(encoded(clear((0, 0, 0))), encoded(Image.new("RGB", (4, 4), 3)))
    some = found[torch.tensor([False, True])]
    assert isinstance(some, Pictures) and len(some) == 1 and (some.opaque == 255).all() and some.marks.tolist() == [0]


@pytest.mark.parametrize(("mode", "channels"), [("CMYK", 3), ("1", 1), ("YCbCr", 3)])
def test_other_modes_are_brought_to_grey_or_colour(mode, channels):
    image = Image.fromarray(np.kron(CORNER[:, :2], np.ones((8, 8), np.uint8))).convert("RGB").convert(mode)
    kind = "TIFF" if mode != "1" else "PNG"
    found = read(encoded(image, kind)).values
    assert found.shape == (1, channels, 16, 16) and found[0, 0, 0, 0] > 200 and found[0, 0, 15, 0] < 60
