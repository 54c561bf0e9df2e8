"""Sources, what a run sees of them, and what is said when data are not what they have to be."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ddcore.data.normalisation import Identity, fit
from ddcore.data.source import Real, Source, Split
from ddcore.data.sources import known_sources, knows, open_source
from ddcore.errors import DdcoreError, InputError, OptionError


def ramp(count, channels=3, size=4, start=0):
    values = torch.arange(start, start + count * channels * size * size) % 251
    return values.reshape(count, channels, size, size).to(torch.uint8)


def a_source(labels=(0, 1, 0, 1, 1), test_labels=(1, 0), **given):
    train = Split(ramp(len(labels)), torch.tensor(labels))
    test = Split(ramp(len(test_labels), start=7), torch.tensor(test_labels))
    return Source(**{"name": "toy", "train": train, "test": test, "classes": ("ape", "bee"), **given})


# ---- the embedded digits --------------------------------------------------------------------------------------------


def test_digits_are_the_1797_known_ones():
    source = open_source("digits")
    assert (len(source.train), len(source.test), source.channels, source.size) == (1437, 360, 1, 8)
    counts = torch.tensor(source.counts()) + torch.tensor(source.counts(source.test))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as UCI's description states
    assert (torch.tensor(source.counts(source.test)) - counts / 5).abs().max() < 1
    levels = torch.cat([source.train.stored, source.test.stored]) * 16
    assert torch.equal(levels, levels.round()) and levels.min() == 0 and levels.max() == 16
    # mean grey level of scikit-learn's load_digits().images: 4.884164579855314
    assert levels.double().mean().item() == pytest.approx(4.884164579855314, rel=1e-6)


def test_digits_say_that_mirror_images_are_no_digits_and_who_made_them():
    summary = open_source("digits").summary()
    assert summary["mirror_symmetric"] is False and "CC BY 4.0" in summary["licence"]
    assert summary["classes"] == list("0123456789") and summary["shape"] == [1, 8, 8]


def test_digits_are_always_the_same():
    assert open_source("digits").fingerprint == open_source("digits").fingerprint


def test_digits_can_be_resized():
    source = open_source("digits", resize=16)
    assert source.train.stored.shape == (1437, 1, 16, 16) and source.train.stored.min() >= 0
    assert "resized" not in source.summary()["origin"] and source.train.stored.max() <= 1


@pytest.mark.parametrize(("name", "options"), [("digits:x", {}), ("digits", {"split": "0.5"})])
def test_digits_take_neither_path_nor_split(name, options):
    with pytest.raises(DdcoreError, match="digits"):
        open_source(name, **options)


# ---- a source -------------------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_every_part_of_the_data():
    base = a_source()
    other_pixel = ramp(5)
    other_pixel[4, 2, 3, 3] += 1
    changed = [
        a_source(train=Split(other_pixel, base.train.labels)),
        a_source(labels=(0, 1, 0, 1, 0)),
        a_source(test_labels=(1, 1)),
        a_source(classes=("ape", "bees")),
        a_source(train=Split(base.train.stored.flip(1), base.train.labels)),
        a_source(
            train=Split(base.train.stored.reshape(5, 12, 2, 2), base.train.labels),
            test=Split(base.test.stored.reshape(2, 12, 2, 2), base.test.labels),
        ),
    ]
    prints = [base.fingerprint, *(source.fingerprint for source in changed)]
    assert len(set(prints)) == len(prints) and a_source(name="other").fingerprint == base.fingerprint


def test_a_summary_is_plain_json_with_the_facts():
    import json

    summary = json.loads(json.dumps(a_source(licence="MIT", origin="here").summary()))
    assert (summary["train"], summary["test"], summary["shape"]) == (5, 2, [3, 4, 4])
    assert summary["train_per_class"] == [2, 3] and summary["licence"] == "MIT" and len(summary["mean"]) == 3


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"labels": (0, 1, 2, 0, 0)}, "label 2 of image 2 in the train part of toy is out of range: 0 to 1 are due"),
        ({"test_labels": (0, -1)}, "label -1 of image 1 in the test part of toy is out of range"),
        ({"labels": (0, 0, 0)}, "toy has no train images of class bee"),
        ({"classes": ("ape",), "labels": (0, 0), "test_labels": (0,)}, "toy has 1 class .*at least 2 are needed"),
        ({"train": Split(ramp(2), torch.tensor([0.0, 1.0]))}, "labels of toy are torch.float32 .*whole numbers"),
        ({"train": Split(ramp(3), torch.tensor([0, 1]))}, "train labels of toy .*3 whole numbers"),
        ({"test": Split(ramp(2, size=5), torch.tensor([0, 1]))}, "differ in shape .*--resize"),
        ({"test": Split(ramp(0), torch.zeros(0, dtype=torch.int64))}, r"test images of toy have shape \(0, 3, 4, 4\)"),
        ({"train": Split(ramp(2).double(), torch.tensor([0, 1]))}, "train images of toy are torch.float64"),
        ({"train": Split(ramp(2).float(), torch.tensor([0, 1]))}, "reach from 0 to 95: store uint8"),
    ],
)
def test_a_source_refuses_what_does_not_fit(given, sentence):
    with pytest.raises(InputError, match=sentence):
        a_source(**given)


def test_nan_pixels_are_found_and_their_image_named():
    images = ramp(1500, 1, 2).float() / 255
    images[1300, 0, 1, 1] = math.nan
    with pytest.raises(InputError, match="train images of toy hold NaN .*first in image 1300"):
        a_source(train=Split(images, torch.arange(1500) % 2), test=Split(images[:2], torch.tensor([0, 1])))


# ---- what plugins see -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mean-std", "zca", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_the_normalised_stored_images(kind, dtype):
    source = a_source()
    real = Real(source, fit(kind, source), "cpu", dtype)
    index = torch.tensor([4, 0, 0])
    got = real.train.inputs(index)
    due = real.normalisation.apply(source.train.stored[index].to(dtype) / 255)
    assert got.dtype == dtype and got.shape == (3, 3, 4, 4)
    torch.testing.assert_close(got, due)
    due = real.normalisation.apply(source.test.stored[1:].to(dtype) / 255)
    torch.testing.assert_close(real.test.inputs(torch.tensor([1])), due)


def test_classes_are_found_with_ascending_indices():
    real = Real(a_source(labels=(1, 0, 1, 1, 0)), Identity())
    assert [real.train.of_class(c).tolist() for c in (0, 1, 2)] == [[1, 4], [0, 2, 3], []]
    assert real.counts() == [2, 3] and len(real.train) == 5 and real.train.labels.tolist() == [1, 0, 1, 1, 0]
    assert (real.classes, real.channels, real.size) == (("ape", "bee"), 3, 4)


def test_a_sample_is_distinct_of_its_class_and_repeatable():
    real = Real(a_source(labels=(1, 0) * 10), Identity())
    chosen = real.choose(1, 6, torch.Generator().manual_seed(3))
    assert len(set(chosen.tolist())) == 6 and (real.train.labels[chosen] == 1).all()
    again = real.sample(1, 6, torch.Generator().manual_seed(3))
    assert torch.equal(again, real.train.inputs(chosen))


def test_a_small_class_is_repeated_evenly():
    real = Real(a_source(labels=(1, 0, 1, 1, 0)), Identity())
    chosen = real.choose(0, 5, torch.Generator().manual_seed(0))
    assert len(chosen) == 5 and sorted(chosen[:2].tolist()) == sorted(chosen[2:4].tolist()) == [1, 4]


def test_every_image_of_a_class_is_drawn_equally_often():
    real = Real(a_source(labels=(0, 0, 0, 0, 1)), Identity())
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([real.choose(0, 2, generator) for _ in range(1000)])
    # each of 4 is in a pair with probability 1/2; 5 standard deviations of a binomial count are 79
    assert (torch.bincount(drawn) - 500).abs().max() < 79


# ---- names ----------------------------------------------------------------------------------------------------------


def test_every_listed_name_is_known():
    names = [name for name, what in known_sources() if what]
    assert {"digits", "parquet", "folder", "idx", "npz", "mnist", "cifar10", "svhn"} <= set(names)
    assert all(knows(name) for name in names) and knows("CIFAR10") and knows("Fashion-MNIST") and not knows("cifr10")


def test_an_unknown_name_gets_a_near_match():
    with pytest.raises(InputError, match="no data set is named 'cifr10': did you mean 'cifar10'"):
        open_source("cifr10")


def test_a_reader_without_a_path_says_what_to_write():
    with pytest.raises(InputError, match="parquet: needs a path or URL after the colon"):
        open_source("parquet")


@pytest.mark.parametrize("reader", ["parquet", "folder", "idx", "npz"])
def test_a_missing_path_is_named(reader, tmp_path):
    with pytest.raises(InputError, match="there is nothing at .*none: check the path"):
        open_source(f"{reader}:{tmp_path}/none")


def test_a_missing_driver_is_named():
    with pytest.raises(InputError, match="no file system is called 'nofs'"):
        open_source("parquet:nofs://bucket/data")


@pytest.mark.parametrize("split", ["train", "1.5", "0", ":test"])
def test_a_split_that_is_neither_names_nor_a_share_is_refused(split, tmp_path):
    np.savez(tmp_path / "x.npz", images=ramp(4).numpy(), labels=np.arange(4) % 2)
    with pytest.raises(OptionError, match=f"--split '{split}' is neither"):
        open_source(f"npz:{tmp_path}/x.npz", split=split)


@pytest.fixture
def torchvision_with(monkeypatch):
    """torchvision's CIFAR10 replaced: its own reader only takes the authors' files, by their checksums."""

    def replaced(make):
        module = SimpleNamespace(datasets=SimpleNamespace(CIFAR10=make))
        monkeypatch.setattr("ddcore.data.torchvision_sets.import_torchvision", lambda: module)

    return replaced


def test_a_torchvision_set_is_read_from_its_arrays(torchvision_with, tmp_path):
    images = ramp(4).permute(0, 2, 3, 1).numpy()

    def cifar10(root, train, download):
        assert root == str(tmp_path) and download is False
        count = 4 if train else 2
        return SimpleNamespace(data=images[:count], targets=[0, 1, 0, 1][:count], classes=["a", "b"])

    torchvision_with(cifar10)
    source = open_source("CIFAR-10", data_root=str(tmp_path))
    assert torch.equal(source.train.stored, ramp(4)) and source.test.labels.tolist() == [0, 1]
    assert (source.name, source.classes, source.mirror_symmetric) == ("cifar10", ("a", "b"), True)
    assert source.statistics == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # the field's constants


def test_a_torchvision_set_without_arrays_is_read_picture_by_picture(torchvision_with, tmp_path):
    images = ramp(4).permute(0, 2, 3, 1).numpy()
    torchvision_with(lambda **_: [(Image.fromarray(pixels), at % 2) for at, pixels in enumerate(images)])
    source = open_source("cifar10", data_root=str(tmp_path), resize=4)
    assert torch.equal(source.train.stored, ramp(4)) and source.test.labels.tolist() == [0, 1, 0, 1]


def test_broken_pictures_of_a_torchvision_set_are_listed_at_once_or_left_out(torchvision_with, tmp_path):
    images = ramp(4).permute(0, 2, 3, 1).numpy()

    class Some(list):
        def __getitem__(self, at):
            if at in (1, 2):
                raise OSError("cannot identify image file")
            return super().__getitem__(at)

    torchvision_with(lambda train, **_: Some((Image.fromarray(p), at % 2) for at, p in enumerate(images)))
    with pytest.raises(InputError, match="4 pictures or files .*image 1 of the train part .*image 2 .*--skip-broken"):
        open_source("cifar10", data_root=str(tmp_path))
    source = open_source("cifar10", data_root=str(tmp_path), skip_broken=True)
    assert source.train.labels.tolist() == [0, 1] and torch.equal(source.train.stored, ramp(4)[[0, 3]])


def test_torchvision_sets_that_are_not_there_say_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.delenv("DDCORE_DOWNLOAD", raising=False)
    with pytest.raises(InputError, match="files of CIFAR10 are not in .*nothing is downloaded.*DDCORE_DOWNLOAD=1"):
        open_source("cifar10", data_root=str(tmp_path))
    with pytest.raises(InputError, match=r"files of MNIST are not in .*MNIST/raw"):
        open_source("MNIST", data_root=str(tmp_path))
