"""Whether mirror images keep their class: known, measured, guessed by names, or as a person says."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ddcore.data.sources import open_source
from ddcore.data.symmetry import decided, recognised, written
from ddcore.errors import OptionError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared real data are not beside this repository")
GREY, COLOUR = torch.zeros(2, 1, 4, 4), torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def glyph(name, seed, mode="L"):
    """One of b, d, p, q: a stem at one side and a bowl, moved by up to two pixels."""
    right, down = np.random.Generator(np.random.PCG64(seed)).integers(-2, 3, 2).tolist()
    image = Image.new("L", (16, 16), 255)
    draw = ImageDraw.Draw(image)
    stem = 5 if name in "bp" else 10
    draw.line((stem + right, 3 + down, stem + right, 12 + down), 0, 2)
    top = 7 if name in "bd" else 3
    draw.ellipse((5 + right, top + down, 10 + right, top + 5 + down), outline=0)
    return image.convert(mode)


def save(root, tree):
    for name, image in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name)


def textures(seed):
    """Colour noise around one of ten hues: its mirror image looks alike."""
    generator = np.random.Generator(np.random.PCG64(seed))
    hue = np.random.Generator(np.random.PCG64(seed % 10)).integers(0, 256, 3)
    return Image.fromarray((hue + generator.integers(-50, 50, (8, 8, 3))).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_letters_are_told_by_their_mirror_images_whatever_their_names(tmp_path, mode):
    names = {"b": "one", "d": "two", "p": "three", "q": "four"}
    save(tmp_path, {f"{names[c]}/{n}.png": glyph(c, n + 9 * ord(c), mode) for c in "bdpq" for n in range(12)})
    source = open_source(f"folder:{tmp_path}", split="0.7")
    assert not source.mirror_symmetric and source.mirror.startswith("measured: neighbours tell")
    assert source.summary()["mirror_symmetric"] is False and source.summary()["mirror"] == source.mirror


def test_pictures_in_folders_of_digits_are_told_by_their_mirror_images(tmp_path):
    save(tmp_path, {f"{n % 10}/{n}.png": textures(n) for n in range(200)})
    source = open_source(f"folder:{tmp_path}", split="0.8")
    assert source.mirror_symmetric and source.mirror.startswith("measured")


def some(place, count):
    """As many pictures of each of ten classes, the first of a table."""
    parquet = pytest.importorskip("pyarrow.parquet")
    found = {cls: [] for cls in range(10)}
    for part in parquet.ParquetFile(place).iter_batches(200):
        for row in part.to_pylist():
            found[row["label"]].append(row["image"]["bytes"])
        if min(map(len, found.values())) >= count:
            break
    return {cls: [Image.open(io.BytesIO(content)) for content in contents[:count]] for cls, contents in found.items()}


@shared
def test_cifar_in_folders_of_digits_is_mirrored_and_mnist_without_its_name_is_not(tmp_path):
    for name, symmetric in (("cifar10-jpeg", True), ("mnist", False)):
        folder = tmp_path / f"things{symmetric}"
        for cls, pictures in some(SHARED / name / "train.parquet", 50).items():
            save(folder, {f"{cls}/{n}.png": picture for n, picture in enumerate(pictures)})
        found = open_source(f"folder:{folder}", split="0.8")
        assert found.mirror_symmetric is symmetric and found.mirror.startswith("measured"), found.mirror


def test_a_person_has_the_last_word(tmp_path):
    save(tmp_path, {f"{c}/{n}.png": glyph(c, n + 9 * ord(c)) for c in "bd" for n in range(8)})
    for word, symmetric in (("yes", True), ("no", False)):
        source = open_source(f"folder:{tmp_path}", split="0.7", mirror=word)
        assert source.mirror_symmetric is symmetric and source.mirror == f"as --mirror {word} says"
    assert open_source("digits", mirror="yes").mirror_symmetric


def test_of_sets_with_a_name_it_is_known():
    assert (open_source("digits").mirror_symmetric, open_source("digits").mirror) == (False, "known of this set")


@pytest.mark.parametrize(
    ("name", "classes", "images", "signs"),
    [
        ("mnist", (), COLOUR, True),
        ("fashion-mnist", (), GREY, False),
        ("x", tuple("bdpq"), GREY, True),
        ("x", tuple("bdpq"), GREY.repeat(1, 3, 1, 1), True),
        ("x", tuple("0123456789"), GREY, True),
        ("x", tuple("0123456789"), COLOUR, False),
        ("x", tuple("01"), GREY, False),
        ("x", (), GREY, False),
        ("x", ("b", "deer"), GREY, False),
    ],
)
def test_names_decide_where_nothing_can_be_measured(name, classes, images, signs):
    assert bool(written(name, classes, images)) is signs


def test_little_recognised_says_nothing_and_much_lost_says_no():
    assert decided(0.5, 0.5, 0, 2) is None and decided(0.6, 0.2, 20, 2) is None
    assert decided(1.0, 0.0, 12, 4) is False and decided(0.9, 0.85, 400, 10) is True
    assert decided(0.9, 0.5, 400, 10) is False


def test_neighbours_by_hand():
    # two arrows: each class is the other's mirror image, so all are told apart and no mirror image is
    left = torch.tensor([[[[9.0, 1.0], [9.0, 1.0]]]])
    noise = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    images = torch.cat([left + noise[:3], left.flip(3) + noise[3:]]) / 10
    assert recognised(images, torch.tensor([0, 0, 0, 1, 1, 1]), 2) == (1.0, 0.0, 6)
    assert recognised(images[:3], torch.tensor([0, 1, 2]), 3) == (0.0, 0.0, 0)


def test_a_mode_without_a_size_is_refused():
    with pytest.raises(OptionError, match="--resize-mode pad says how .*: give --resize N too"):
        open_source("digits", resize_mode="pad")
    with pytest.raises(OptionError, match="--resize-mode 'crip' is not known.*crop"):
        open_source("digits", resize=8, resize_mode="crip")
