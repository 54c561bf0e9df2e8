"""Readers of parquet files and class folders, local and remote, and of pictures; what they say of bad input."""

import io
import json
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddcore.data import parquet_images
from ddcore.data.sources import open_source
from ddcore.errors import InputError, OptionError
from ddcore.images.framing import Resize
from ddcore.images.pictures import decode, from_array, stack
from ddcore.storage.places import Place

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared real data are not beside this repository")


def picture(seed=0, size=(4, 4), mode="RGB", kind="PNG"):
    """One encoded picture of noise; ``size`` is width, height."""
    generator = np.random.Generator(np.random.PCG64(seed))
    image = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def pixels(data):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)


# ---- parquet --------------------------------------------------------------------------------------------------------


def write_parquet(place, pictures, labels, *, names=None, columns=("image", "label"), group=3, licence=None):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    layout = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    image = pa.array([{"bytes": p, "path": None} for p in pictures], layout)
    table = pa.table({columns[0]: image, columns[1]: pa.array(labels)})
    if names:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": names, "_type": "ClassLabel"}}
        info = {"info": {"features": features, "license": licence}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=group)
    Place.at(place).write_bytes(file.getvalue())


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return str(tmp_path / "toys") if request.param == "local" else f"memory://{uuid.uuid4().hex}/toys"


def test_parquet_keeps_pixels_labels_and_class_names_in_order(root):
    pictures = [picture(n) for n in range(7)]
    names = ["zebra", "ape", "mole"]
    write_parquet(f"{root}/train.parquet", pictures, [0, 1, 2, 2, 1, 0, 1], names=names, licence="mit")
    write_parquet(f"{root}/test.parquet", pictures[:3], [2, 1, 0], names=names)
    source = open_source(f"parquet:{root}")
    assert torch.equal(source.train.stored, torch.stack([pixels(p) for p in pictures]))
    assert source.train.labels.tolist() == [0, 1, 2, 2, 1, 0, 1] and source.test.labels.tolist() == [2, 1, 0]
    assert source.classes == ("zebra", "ape", "mole") and (source.name, source.licence) == ("toys", "mit")


def test_shards_are_read_in_order_and_other_splits_left_alone(root):
    pictures = [picture(n) for n in range(5)]
    write_parquet(f"{root}/data/train-00000-of-00002.parquet", pictures[:2], [0, 1], columns=("img", "fine_label"))
    write_parquet(f"{root}/data/train-00001-of-00002.parquet", pictures[2:4], [1, 0], columns=("img", "fine_label"))
    write_parquet(f"{root}/data/validation-00000-of-00001.parquet", pictures[4:], [1], columns=("img", "fine_label"))
    source = open_source(f"parquet:{root}")
    assert torch.equal(source.train.stored, torch.stack([pixels(p) for p in pictures[:4]]))
    assert source.train.labels.tolist() == [0, 1, 1, 0] and source.classes == ("0", "1") and len(source.test) == 1


def test_named_parts_are_the_ones_that_are_read(root):
    for part, count in (("train", 2), ("test", 3), ("extra", 4)):
        write_parquet(f"{root}/{part}.parquet", [picture(n) for n in range(count)], [0, 1, 0, 1][:count])
    source = open_source(f"parquet:{root}", split="extra:test")
    assert (len(source.train), len(source.test)) == (4, 3)
    with pytest.raises(InputError, match="has no parts 'extra' and 'dev'.*--split extra:dev"):
        open_source(f"parquet:{root}", split="extra:dev")
    with pytest.raises(OptionError, match="would test on the train part"):
        open_source(f"parquet:{root}", split="test:test")
    with pytest.raises(OptionError, match="cuts data in one piece, but .* has two"):
        open_source(f"parquet:{root}", split="0.5")


def test_one_file_is_cut_the_same_way_every_time_class_by_class(root):
    write_parquet(f"{root}/all.parquet", [picture(n) for n in range(15)], [0] * 10 + [1] * 5)
    once, again = (open_source(f"parquet:{root}/all.parquet", split="0.8") for _ in range(2))
    assert once.counts() == [8, 4] and once.counts(once.test) == [2, 1]
    assert once.fingerprint == again.fingerprint and "cut by --split 0.8" in once.notes[0]
    both = torch.cat([once.train.stored, once.test.stored]).flatten(1)
    assert len(torch.unique(both, dim=0)) == 15


def test_one_file_without_a_share_says_what_to_give(root):
    write_parquet(f"{root}/all.parquet", [picture(), picture()], [0, 1])
    with pytest.raises(InputError, match="comes in one piece: give --split 0.8"):
        open_source(f"parquet:{root}/all.parquet")
    with pytest.raises(InputError, match="leaves no image of .* to test on"):
        open_source(f"parquet:{root}/all.parquet", split="0.9")


def test_parquet_without_its_columns_names_those_there_are(tmp_path):
    write_parquet(tmp_path / "all.parquet", [picture()], [0], columns=("photo", "label"))
    with pytest.raises(InputError, match="all.parquet has no image column among photo, label: name it 'image'"):
        open_source(f"parquet:{tmp_path}/all.parquet", split="0.5")
    write_parquet(tmp_path / "all.parquet", [picture()], [0], columns=("image", "kind"))
    with pytest.raises(InputError, match="no label column among image, kind: name it 'label'"):
        open_source(f"parquet:{tmp_path}/all.parquet", split="0.5")


def test_an_undecodable_picture_is_named_by_file_and_row(tmp_path):
    for number in (0, 1):
        pictures = [picture(n) for n in range(5)]
        pictures[3] = b"no picture" if number else pictures[3]
        write_parquet(tmp_path / f"train-{number}.parquet", pictures, [0, 1, 0, 1, 0])
    with pytest.raises(InputError, match=r"row 3 of .*train-1.parquet cannot be decoded \(no picture"):
        open_source(f"parquet:{tmp_path}", split="0.5")


@pytest.mark.parametrize(("kind", "keep"), [("PNG", 60), ("JPEG", 300)])
def test_a_truncated_picture_is_named(tmp_path, kind, keep):
    write_parquet(tmp_path / "all.parquet", [picture(1, kind=kind), picture(2, kind=kind)[:keep]], [0, 1])
    with pytest.raises(InputError, match="row 1 of .* cannot be decoded"):
        open_source(f"parquet:{tmp_path}/all.parquet", split="0.5")


def test_a_row_without_a_picture_is_named(tmp_path):
    write_parquet(tmp_path / "all.parquet", [picture(), None], [0, 1])
    with pytest.raises(InputError, match=r"row 1 of all.parquet cannot be decoded \(it holds no image bytes\)"):
        open_source(f"parquet:{tmp_path}/all.parquet", split="0.5")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0.5, 1.0], "column 'label' of .* are floats, not integers, with 0.5 among them"),
        ([None, None], "has no labels .all are missing.: give labels"),
        ([-1, -1], "has no labels .all 2 are -1.: give labels"),
        ([[1, 1], [1, 0]], "are lists and not one-hot"),
        ([2**60, 0], "is out of range|reach from 0 to"),
        ([0, 7], "label 7 in .* is out of range for 2 images"),
        ([0, -1], "label -1 .* out of range"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(tmp_path, labels, sentence):
    write_parquet(tmp_path / "all.parquet", [picture(), picture()], labels)
    with pytest.raises(InputError, match=sentence):
        open_source(f"parquet:{tmp_path}/all.parquet", split="0.99")


def test_a_label_beyond_the_class_names_is_refused(tmp_path):
    write_parquet(tmp_path / "train.parquet", [picture(n) for n in range(3)], [0, 1, 2], names=["ape", "bee"])
    write_parquet(tmp_path / "test.parquet", [picture()], [0], names=["ape", "bee"])
    with pytest.raises(InputError, match="label 2 of image 2 in the train part .*0 to 1 are due"):
        open_source(f"parquet:{tmp_path}")


def test_a_truncated_parquet_file_is_named(tmp_path):
    write_parquet(tmp_path / "all.parquet", [picture(), picture()], [0, 1])
    content = (tmp_path / "all.parquet").read_bytes()
    (tmp_path / "all.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"all.parquet \(truncated or no parquet file\): get it again"):
        open_source(f"parquet:{tmp_path}/all.parquet", split="0.5")


def test_damaged_pages_of_a_parquet_file_are_noticed(tmp_path):
    write_parquet(tmp_path / "all.parquet", [picture(n) for n in range(9)], [0, 1, 0] * 3)
    content = bytearray((tmp_path / "all.parquet").read_bytes())
    content[4:200] = b"\xff" * 196
    (tmp_path / "all.parquet").write_bytes(content)
    with pytest.raises(InputError, match="all.parquet (is damaged|cannot be decoded)"):
        open_source(f"parquet:{tmp_path}/all.parquet", split="0.5")


def test_a_train_part_alone_or_no_parquet_at_all_is_refused(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(InputError, match="holds no .parquet file"):
        open_source(f"parquet:{tmp_path}")
    write_parquet(tmp_path / "train.parquet", [picture(), picture()], [0, 1])
    with pytest.raises(InputError, match="has no test part: add one"):
        open_source(f"parquet:{tmp_path}")


@shared
def test_real_parquet_data_are_read_exactly():
    import pyarrow.parquet as pq

    part = parquet_images.read([Place.at(SHARED / "mnist/test.parquet")])
    pixels_read = part.images.values
    table = pq.read_table(SHARED / "mnist/test.parquet")
    for row in (0, 1023, 1024, 9999):
        due = np.asarray(Image.open(io.BytesIO(table["image"][row]["bytes"].as_py())))
        assert np.array_equal(pixels_read[row, 0].numpy(), due)
        assert part.labels[row] == table["label"][row].as_py()
    published = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.bincount(part.labels).tolist() == published and pixels_read.shape == (10000, 1, 28, 28)


@shared
def test_real_colour_data_with_some_grey_pictures_become_colour():
    part = parquet_images.read([Place.at(SHARED / "tiny-imagenet-50/test.parquet")])
    assert part.images.shape == (2500, 3, 64, 64) and part.classes[:2] == ("goldfish", "American alligator")
    grey = (part.images.values[:, 0] == part.images.values[:, 1]).flatten(1).all(1)
    assert 0 < grey.sum() < 250


# ---- class folders --------------------------------------------------------------------------------------------------


def write_folders(root, tree):
    for name, data in tree.items():
        (Place.at(root) / name).write_bytes(data)


def test_class_folders_are_classes_in_sorted_order(root):
    names = [(part, cls, n) for part in ("train", "val") for cls in ("bee", "ape") for n in (0, 1)]
    files = {f"{part}/{cls}/{n}.png": picture(n + ord(cls[0])) for part, cls, n in names}
    write_folders(root, {**files, "train/bee/deep/2.JPG": picture(kind="JPEG"), "train/ape/notes.txt": b"no picture"})
    source = open_source(f"folder:{root}")
    assert source.classes == ("ape", "bee") and source.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert torch.equal(source.train.stored[1], pixels(picture(1 + ord("a")))) and len(source.test) == 4


def test_folders_without_parts_are_cut_even_if_a_class_is_called_train(root):
    write_folders(root, {f"{cls}/{n}.png": picture(n) for cls in ("bus", "train") for n in range(4)})
    source = open_source(f"folder:{root}", split="0.5")
    assert source.classes == ("bus", "train") and source.counts() == source.counts(source.test) == [2, 2]


def test_a_folder_with_one_class_is_refused(tmp_path):
    write_folders(tmp_path, {f"ape/{n}.png": picture(n) for n in range(3)})
    with pytest.raises(InputError, match=r"has 1 class folder \(ape\): give a folder with one folder"):
        open_source(f"folder:{tmp_path}", split="0.5")


def test_an_empty_class_folder_is_named(tmp_path):
    write_folders(tmp_path, {f"{part}/{cls}/0.png": picture() for part in ("train", "test") for cls in ("ape", "bee")})
    (tmp_path / "train/cow").mkdir()
    with pytest.raises(InputError, match="has no train images of class cow"):
        open_source(f"folder:{tmp_path}")


def test_a_test_class_without_train_images_is_named(tmp_path):
    write_folders(tmp_path, {f"train/{cls}/0.png": picture() for cls in ("ape", "bee")})
    write_folders(tmp_path, {f"test/{cls}/0.png": picture() for cls in ("bee", "cow")})
    with pytest.raises(InputError, match=r"classes without train images \(cow\)"):
        open_source(f"folder:{tmp_path}")


def test_test_labels_follow_the_train_classes_when_a_class_is_not_tested(tmp_path):
    write_folders(tmp_path, {f"train/{cls}/0.png": picture(len(cls)) for cls in ("ape", "goat", "horse")})
    write_folders(tmp_path, {f"test/{cls}/0.png": picture() for cls in ("goat", "horse")})
    assert open_source(f"folder:{tmp_path}").test.labels.tolist() == [1, 2]


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "ape").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        open_source(f"folder:{tmp_path}", split="0.5")


def test_mixed_sizes_name_the_picture_and_the_option_that_helps(tmp_path):
    tree = {f"{cls}/{n}.png": picture(n) for cls in ("ape", "bee") for n in range(3)}
    write_folders(tmp_path, {**tree, "bee/1.png": picture(1, (6, 6))})
    with pytest.raises(InputError, match=r"bee/1.png is 6x6 pixels where 4x4 came before: give --resize 4"):
        open_source(f"folder:{tmp_path}", split="0.5")
    source = open_source(f"folder:{tmp_path}", split="0.7", resize=5)
    assert source.size == 5 and any(note.startswith("resized to 5x5 (crop: ") for note in source.notes)


def test_pictures_that_are_not_square_are_refused_or_resized(tmp_path):
    write_folders(tmp_path, {f"{cls}/{n}.png": picture(n, (6, 4)) for cls in ("ape", "bee") for n in range(4)})
    with pytest.raises(InputError, match=r"is 4x6 pixels \(height x width\) .*square: give --resize 4"):
        open_source(f"folder:{tmp_path}", split="0.5")
    assert open_source(f"folder:{tmp_path}", split="0.5", resize=4).train.stored.shape == (4, 3, 4, 4)


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_all_grey_pictures_give_one_channel_and_any_colour_three(tmp_path):
    tree = {f"{cls}/{n}.png": picture(n + ord(cls[0]), mode="L") for cls in ("ape", "bee") for n in range(2)}
    write_folders(tmp_path, tree)
    grey = open_source(f"folder:{tmp_path}", split="0.5")
    assert grey.channels == 1
    write_folders(tmp_path, {"bee/1.png": picture(1)})
    mixed = open_source(f"folder:{tmp_path}", split="0.5")
    assert mixed.channels == 3 and torch.equal(mixed.train.stored[0], grey.train.stored[0].expand(3, -1, -1))


def test_a_grey_test_part_is_widened_to_a_colour_train_part(tmp_path):
    write_folders(tmp_path, {f"train/{cls}/0.png": picture(ord(cls[0])) for cls in ("ape", "bee")})
    write_folders(tmp_path, {f"test/{cls}/0.png": picture(mode="L") for cls in ("ape", "bee")})
    source = open_source(f"folder:{tmp_path}")
    assert source.test.stored.shape == (2, 3, 4, 4) and "widened" in source.notes[0]


@pytest.mark.parametrize(("mode", "rank"), [("L", 2), ("1", 2), ("LA", 2), ("RGB", 3), ("RGBA", 3), ("P", 3)])
def test_every_mode_becomes_grey_or_colour(mode, rank):
    data = picture(mode=mode)
    got = decode(data).pixels
    due = np.asarray(Image.open(io.BytesIO(data)).convert("L" if rank == 2 else "RGB"))
    assert got.dtype == np.uint8 and np.array_equal(got, due)


def test_shrinking_averages_instead_of_skipping_pixels():
    # a checkerboard of 0 and 255 averages to grey wherever the filter is wide enough
    board = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(board).save(file, "PNG")
    decoded = decode(file.getvalue(), Resize(4)).pixels
    assert np.abs(decoded.astype(int) - 127).max() <= 2
    small = from_array(board[None], "x", Resize(4)).values
    assert torch.equal(small[0, 0], torch.from_numpy(decoded.copy()))
    floats = from_array(board[None].astype(np.float32) / 255, "x", Resize(4)).values
    torch.testing.assert_close(floats, small / 255, atol=1 / 255, rtol=0)


def test_large_pictures_are_decoded_by_threads_in_order(monkeypatch):
    monkeypatch.setattr("ddcore.images.pictures.LARGE", 1)
    monkeypatch.setattr("ddcore.images.pictures.AT_ONCE", 3)
    pictures = [picture(n) for n in range(10)]
    assert torch.equal(stack(pictures, 10, str).values, torch.stack([pixels(data) for data in pictures]))
    with pytest.raises(InputError, match="^7 cannot be decoded"):
        stack([*pictures[:7], b"bad", *pictures[8:]], 10, str)
