"""Readers of IDX and .npz files, local and remote, and what they say of bad input."""

import gzip
import io
import uuid
import zipfile

import numpy as np
import pytest
import torch

from ddcore.data.sources import open_source
from ddcore.errors import InputError
from ddcore.storage.places import Place


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return str(tmp_path / "toys") if request.param == "local" else f"memory://{uuid.uuid4().hex}/toys"


# ---- IDX ------------------------------------------------------------------------------------------------------------


def idx_bytes(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_idx(root, counts=(6, 4), *, packed=True, dots=False, test="t10k"):
    for part, count in zip(("train", test), counts, strict=True):
        images = np.arange(count * 9, dtype=np.uint8).reshape(count, 3, 3)
        for what, array in (("images", images), ("labels", np.arange(count) % 2)):
            name = f"{part}-{what}{'.' if dots else '-'}idx{array.ndim}-ubyte"
            data = gzip.compress(idx_bytes(array)) if packed else idx_bytes(array)
            (Place.at(root) / (name + (".gz" if packed else ""))).write_bytes(data)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dots", [True, False])
def test_idx_files_are_read_packed_or_plain(root, packed, dots):
    write_idx(root, packed=packed, dots=dots)
    source = open_source(f"idx:{root}")
    assert torch.equal(source.train.stored.flatten(), torch.arange(54, dtype=torch.uint8))
    assert source.train.labels.tolist() == [0, 1] * 3 and source.test.stored.shape == (4, 1, 3, 3)


def test_idx_parts_may_have_other_names(tmp_path):
    write_idx(tmp_path, test="test")
    assert len(open_source(f"idx:{tmp_path}").test) == 4
    assert len(open_source(f"idx:{tmp_path}", split="test:train").test) == 6


def test_a_torchvision_name_finds_its_idx_files_with_class_names(tmp_path):
    # packed, which torchvision's own reader does not take
    for part in ("train", "t10k"):
        labels = np.arange(20) % 10
        Place.at(tmp_path / f"KMNIST/raw/{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
        images = np.arange(180).reshape(20, 3, 3)
        Place.at(tmp_path / f"KMNIST/raw/{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
    source = open_source("kmnist", data_root=str(tmp_path))
    assert source.classes[:3] == ("o", "ki", "su") and not source.mirror_symmetric
    assert source.name == "kmnist" and source.licence == "CC BY-SA 4.0" and len(source.train) == 20


def test_written_signs_are_told_by_the_name_of_their_folder(tmp_path):
    for name, symmetric in (("mnist", False), ("fashion-mnist", True), ("SVHN", False), ("x", True)):
        write_idx(tmp_path / name)
        assert open_source(f"idx:{tmp_path}/{name}").mirror_symmetric is symmetric, name


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data[:-5], "damaged or truncated gzip"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-1]), "53 bytes of values where its header says 54"),
        (lambda data: gzip.compress(gzip.decompress(data)[:7]), "truncated or altered"),
        (lambda data: gzip.compress(b"\0\0\x0d\x03" + gzip.decompress(data)[4:]), "00000d03 where 00000803"),
        (lambda data: b"", "begins with  where 00000803"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, change, sentence):
    write_idx(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InputError, match=f"train-images-idx3-ubyte.gz .*{sentence}"):
        open_source(f"idx:{tmp_path}")


def test_missing_idx_files_and_unequal_lengths_are_named(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros(3))))
    with pytest.raises(InputError, match="4 t10k images but 3 labels"):
        open_source(f"idx:{tmp_path}")
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="exactly one file named like t10k-labels-idx1-ubyte.*found none"):
        open_source(f"idx:{tmp_path}")


# ---- .npz -----------------------------------------------------------------------------------------------------------


def write_npz(root, **arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    Place.at(root).write_bytes(file.getvalue())


RAMP = (np.arange(6 * 4 * 4 * 3) % 256).astype(np.uint8).reshape(6, 4, 4, 3)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("names", [("x_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_npz_parts_are_read_with_their_class_names(root, names):
    images, labels = names
    parts = {images.format(part): RAMP for part in ("train", "test")}
    parts |= {labels.format(part): LABELS for part in ("train", "test")}
    write_npz(f"{root}.npz", **parts, classes=np.array(["c", "a", "b"]))
    source = open_source(f"npz:{root}.npz")
    assert torch.equal(source.train.stored, torch.from_numpy(RAMP).permute(0, 3, 1, 2))
    assert (source.name, source.classes) == ("toys", ("c", "a", "b"))
    assert source.test.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("array", "shape"),
    [(RAMP[..., 0], (1, 4, 4)), (RAMP.transpose(0, 3, 1, 2), (3, 4, 4)), (RAMP[..., :1].astype(np.int64), (1, 4, 4))],
)
def test_npz_layouts_all_become_channels_first(tmp_path, array, shape):
    write_npz(tmp_path / "x.npz", images=array, labels=LABELS[:, None])
    source = open_source(f"npz:{tmp_path}/x.npz", split="0.5")
    assert source.train.stored.dtype == torch.uint8 and source.train.stored.shape[1:] == shape


def test_npz_floats_stay_floats(tmp_path):
    write_npz(tmp_path / "x.npz", images=(RAMP / 255), labels=LABELS)
    source = open_source(f"npz:{tmp_path}/x.npz", split="0.5")
    assert source.train.stored.dtype == torch.float32 and source.train.stored.max() <= 1


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"images": RAMP / 255 * np.nan, "labels": LABELS}, "hold NaN or infinite pixels"),
        ({"images": RAMP / 255 - 0.5, "labels": LABELS}, "reach from -0.5 to .* floats in"),
        ({"images": RAMP.astype(np.int64) - 1, "labels": LABELS}, "holds int64 pixels"),
        (
            {"images": RAMP, "labels": LABELS / 2},
            "labels in labels of .* are floats, not integers, with 0.5 among them",
        ),
        ({"images": RAMP, "labels": LABELS[:4]}, "6 images but 4 labels"),
        ({"images": RAMP[:, 0, 0, 0], "labels": LABELS}, r"has shape \(6,\) where images are due"),
        ({"x": RAMP[..., 0, 0] * np.nan, "y": LABELS}, "not finite, first in row 0"),
        ({"x": RAMP[..., 0, 0].astype(str), "y": LABELS}, r"features \(N, D\) have to be numbers"),
        (
            {"x_train": RAMP[..., 0, 0], "y_train": LABELS, "x_test": RAMP, "y_test": LABELS},
            r"one part .* holds features \(N, D\) and the other images",
        ),
        ({"images": RAMP[:, :2], "labels": LABELS}, "2x4 pixels .*square"),
        ({"pictures": RAMP, "labels": LABELS}, "holds the arrays pictures, labels: name them x_train"),
        ({"images": np.array([None, {}]), "labels": LABELS}, "no readable .npz file without pickles"),
    ],
)
def test_unfit_npz_files_are_refused(tmp_path, arrays, sentence):
    write_npz(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=sentence):
        open_source(f"npz:{tmp_path}/x.npz", split=None if "x_train" in arrays else "0.5")


def test_arrays_of_features_are_dense_rows(tmp_path):
    values = np.arange(24.0).reshape(6, 4) - 10
    write_npz(tmp_path / "x.npz", images=values, labels=LABELS)
    source = open_source(f"npz:{tmp_path}/x.npz", split="0.5")
    assert (source.modality, source.dense, source.samples) == ("features", True, "rows")
    assert (source.shape, source.price) == ((4,), 16)
    assert sorted(torch.cat([source.train.stored, source.test.stored]).flatten().tolist()) == values.flatten().tolist()
    with pytest.raises(InputError, match="--resize is of images"):
        open_source(f"npz:{tmp_path}/x.npz", split="0.5", resize=8)


def test_a_truncated_or_foreign_npz_file_is_named(tmp_path):
    write_npz(tmp_path / "x.npz", images=RAMP, labels=LABELS)
    content = (tmp_path / "x.npz").read_bytes()
    npy = io.BytesIO()
    np.save(npy, RAMP)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("images.npy", "not an array")
    for bad in (content[:-40], b"", b"text", npy.getvalue(), zipped.getvalue()):
        (tmp_path / "x.npz").write_bytes(bad)
        with pytest.raises(InputError, match="x.npz"):
            open_source(f"npz:{tmp_path}/x.npz", split="0.5")
