import io

import numpy as np
import torch
from PIL import Image

from ddcore.images import preview
from ddcore.images.preview import GAP, MARGIN, pictures_of, preview_png


def sheet(images, classes, names, title="a title") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(preview_png(images, classes, names, title))))


def find(page: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The box (top, bottom, left, right) of all pixels of exactly this colour."""
    rows, columns = (page == colour).all(2).nonzero()
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def plain(*colours: tuple[float, float, float], side: int = 8) -> torch.Tensor:
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, side, side)


RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def test_images_are_in_rows_by_class_whatever_their_order():
    page = sheet(plain(GREEN, RED, BLUE), torch.tensor([1, 0, 1]), ("cat", "dog"))
    red, green, blue = (find(page, tuple(int(255 * v) for v in colour)) for colour in (RED, GREEN, BLUE))
    assert green[:2] == blue[:2] and red[2:] == green[2:]
    assert red[1] + GAP == green[0] and green[3] + GAP == blue[2]


def test_small_images_are_enlarged_by_a_whole_number_without_smoothing():
    image = torch.tensor([[0.0, 1.0], [0.6, 0.2]]).expand(1, 1, 2, 2)
    page = sheet(image, torch.tensor([0]), ("",), title="")
    top, bottom, left, right = find(page, (153, 153, 153))
    # 2 pixels become 56: each one a square of 28
    assert (bottom - top, right - left) == (28, 28)
    shown = page[top - 28 : bottom, left : right + 28, 0]
    assert set(np.unique(shown)) == {0, 51, 153, 255}
    assert (shown == np.kron(np.array([[0, 255], [153, 51]]), np.ones((28, 28)))).all()


def test_every_row_has_its_class_name_and_the_sheet_a_title():
    page = sheet(plain(RED, GREEN), torch.tensor([0, 1]), ("cat", "dog"))
    top, bottom, left, _ = find(page, (255, 0, 0))
    name, title = page[top:bottom, :left], page[: top - 1]
    assert (name < 128).any() and (title < 128).any()
    assert (sheet(plain(RED, GREEN), torch.tensor([0, 1]), ("", ""), title="")[: top - 1] == 255).all()


def test_what_does_not_fit_is_counted_not_squeezed():
    names = [f"class {n}" for n in range(50)]
    many = sheet(torch.zeros(100, 1, 8, 8), torch.zeros(100, dtype=torch.int64), names)
    few = sheet(torch.zeros(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64), names)
    assert many.shape[0] == few.shape[0] and few.shape[1] < many.shape[1] < preview.WIDEST + 150
    assert (many[:, preview.WIDEST :] < 200).any()
    rows = [sheet(torch.zeros(n, 1, 8, 8), torch.arange(n), names).shape[0] for n in (40, 41, 50)]
    assert rows[0] < rows[1] == rows[2]


def test_a_class_without_images_takes_no_room():
    images, names = plain(RED, GREEN), ("cat", "x", "dog")
    assert sheet(images, torch.tensor([0, 2]), names).shape == sheet(images, torch.tensor([0, 1]), ("cat", "dog")).shape


def test_colours_outside_the_range_are_clipped_and_two_channels_are_shown_as_grey():
    page = sheet(plain((1.5, -0.5, 2.0)), torch.tensor([0]), ("",), title="")
    assert find(page, (255, 0, 255))[2] >= MARGIN
    assert find(sheet(torch.tensor([0.2, 0.6]).view(1, 2, 1, 1), torch.tensor([0]), ("",)), (102, 102, 102))


def test_long_names_in_any_script_do_not_break_the_picture():
    page = sheet(plain(RED), torch.tensor([0]), ("\u732b\u3068\u72ac " * 30,), title="\u00e9t\u00e9 \u732b")
    assert page.shape[1] < 600


def test_equal_arguments_give_equal_bytes():
    arguments = (torch.rand(4, 3, 8, 8), torch.tensor([0, 0, 1, 1]), ("cat", "dog"), "t")
    assert preview_png(*arguments) == preview_png(*arguments)


def test_rows_are_bars_as_high_as_their_numbers():
    pictures = pictures_of(torch.tensor([[0.0, 5.0], [10.0, 5.0], [5.0, 6.0]]))
    assert pictures.shape == (3, 1, preview.SIDE, preview.SIDE)
    dark = (pictures[:, 0] < 0.5).double().mean(1)
    half = preview.SIDE // 2
    expected = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([dark[:, 0], dark[:, -1]], 1), expected, atol=0.02, rtol=0)
    assert bool((dark[:, :half] == dark[:, :1]).all())
    assert pictures_of(torch.randn(2, 500)).shape == pictures_of(torch.ones(2, 3)).shape == (2, *pictures.shape[1:])


def test_each_channel_of_a_series_has_a_connected_line_in_a_strip_of_its_own():
    up = torch.linspace(-3, 7, 20)
    dark = pictures_of(torch.stack([up, -up])[None])[0, 0] < 0.5
    first, second = dark[: preview.SIDE // 2], dark[preview.SIDE // 2 :]
    assert bool(first.any(0).all()) and bool(second.any(0).all())
    assert int(first[:, 0].nonzero()[-1]) > int(first[:, -1].nonzero()[0])
    assert int(second[:, 0].nonzero()[-1]) < int(second[:, -1].nonzero()[0])
    assert pictures_of(torch.randn(2, 9, 30)).shape == (2, 1, preview.SIDE, preview.SIDE)
    assert pictures_of(torch.randn(2, 3, 4, 5)).shape == (2, 1, 8, 8)
