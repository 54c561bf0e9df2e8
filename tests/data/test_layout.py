"""How parts, configurations, copies, leftovers and broken files are told: each as an input that went wrong without a word."""

import numpy as np
import pytest
import torch
from data_trees import FIRST, SECOND, TESTED, grey, jpeg, pictures, shard, tree

from ddcore.data.part_names import part_of, stem, visible
from ddcore.data.sources import open_source
from ddcore.errors import InputError, OptionError

# ---- class names of shards ------------------------------------------------------------------------------------------


def test_shards_are_numbered_by_their_own_class_names(tmp_path):
    shard(tmp_path / "train-00000-of-00002.parquet", FIRST, ["a", "b", "c"])
    shard(tmp_path / "train-00001-of-00002.parquet", SECOND, ["c", "a", "b"])
    shard(tmp_path / "test-00000-of-00001.parquet", TESTED, ["b", "c", "a"])
    source = open_source(f"parquet:{tmp_path}")
    for part in (source.train, source.test):
        assert part.labels.tolist() == [int(value) // 100 for value in part.stored[:, 0, 0, 0]]
    assert source.classes == ("a", "b", "c") and len(source.train) == 10


def test_a_later_shard_may_name_a_class_more(tmp_path):
    shard(tmp_path / "train-0.parquet", [0, 100], ["b", "a"])
    shard(tmp_path / "train-1.parquet", [200, 1], ["c", "a"])
    shard(tmp_path / "test.parquet", TESTED, ["a", "b", "c"])
    source = open_source(f"parquet:{tmp_path}")
    assert source.classes == ("b", "a", "c") and source.train.labels.tolist() == [1, 0, 2, 1]
    assert source.test.labels.tolist() == [1, 0, 2]


def test_shards_with_and_without_class_names_are_refused(tmp_path):
    shard(tmp_path / "train-0.parquet", FIRST, ["c", "b", "a"])
    shard(tmp_path / "train-1.parquet", SECOND)
    shard(tmp_path / "test.parquet", TESTED, ["a", "b", "c"])
    with pytest.raises(InputError, match="train-0.parquet names its classes and train-1.parquet does not"):
        open_source(f"parquet:{tmp_path}")


def test_a_part_with_and_one_without_class_names_are_refused(tmp_path):
    shard(tmp_path / "train.parquet", FIRST, ["c", "b", "a"])
    shard(tmp_path / "test.parquet", TESTED)
    with pytest.raises(InputError, match="the train part alone names its classes"):
        open_source(f"parquet:{tmp_path}")


def test_npz_files_of_two_parts_are_numbered_by_their_own_class_names(tmp_path):
    for part, values, names in (("Train", FIRST, "abc"), ("TEST", TESTED, "cab")):
        images = np.stack([np.full((8, 8), value, np.uint8) for value in values])
        labels = [names.index("abc"[value // 100]) for value in values]
        np.savez(tmp_path / f"{part}.npz", images=images, labels=labels, classes=list(names))
    source = open_source(f"npz:{tmp_path}")
    assert source.classes == ("a", "b", "c")
    assert source.train.labels.tolist() == [0, 1, 2, 0, 1, 2] and source.test.labels.tolist() == [0, 1, 2]


# ---- configurations and copies --------------------------------------------------------------------------------------


def test_configurations_are_refused_and_one_of_them_is_read(tmp_path):
    for name, values in (("small", FIRST), ("large", FIRST + SECOND)):
        shard(tmp_path / name / "train-00000-of-00001.parquet", values)
        shard(tmp_path / name / "test-00000-of-00001.parquet", TESTED)
    for split in (None, "0.8", "train:test"):
        with pytest.raises((InputError, OptionError), match="large|two parts") as caught:
            open_source(f"parquet:{tmp_path}", split=split)
    with pytest.raises(InputError, match=f"in large/, small/, .*parquet:{tmp_path}/large or parquet:{tmp_path}/small"):
        open_source(f"parquet:{tmp_path}")
    assert len(open_source(f"parquet:{tmp_path}/small").train) == 6 and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("twin", "sentence"),
    [
        ("backup/train-0.parquet", "in the folder itself, backup/"),
        ("train copy.parquet", "the train part more than once"),
        ("train (1).parquet", "the train part more than once"),
        ("mnist_train.parquet", "the train part more than once"),
        ("train-00001.parquet", "train-0.parquet and train-00001.parquet .*hold the same rows"),
    ],
)
def test_copies_of_a_part_are_refused(tmp_path, twin, sentence):
    for name in ("train-0.parquet", twin):
        shard(tmp_path / name, FIRST)
    shard(tmp_path / "test.parquet", TESTED)
    with pytest.raises(InputError, match=sentence):
        open_source(f"parquet:{tmp_path}")


def test_sets_whose_names_differ_in_a_number_are_no_shards(tmp_path):
    for name in ("cifar10", "cifar100"):
        shard(tmp_path / f"{name}_train.parquet", FIRST)
        shard(tmp_path / f"{name}_test.parquet", TESTED)
    with pytest.raises(InputError, match="more than once, cifar100_train, cifar10_train"):
        open_source(f"parquet:{tmp_path}")
    assert len(open_source(f"parquet:{tmp_path}", split="cifar10_train:cifar10_test").train) == 6


def test_parts_from_two_configurations_are_not_paired(tmp_path):
    shard(tmp_path / "small/train.parquet", FIRST)
    shard(tmp_path / "large/test.parquet", TESTED)
    with pytest.raises(InputError, match="lie apart, train in small and test in large"):
        open_source(f"parquet:{tmp_path}")


def test_one_piece_in_several_folders_is_refused(tmp_path):
    shard(tmp_path / "a/0.parquet", FIRST)
    shard(tmp_path / "b/0.parquet", SECOND)
    with pytest.raises(InputError, match="several sets, in a/, b/, which are not added up"):
        open_source(f"parquet:{tmp_path}", split="0.5")


def test_two_ways_of_dividing_a_part_are_refused_and_missing_shards_are_said(tmp_path):
    shard(tmp_path / "train-00000-of-00003.parquet", FIRST)
    shard(tmp_path / "test.parquet", TESTED)
    assert "1 of 3 shards are there: train-00000-of-00003.parquet" in open_source(f"parquet:{tmp_path}").notes
    shard(tmp_path / "train-00000-of-00001.parquet", SECOND)
    with pytest.raises(InputError, match="divided into 1 and into 3 shards"):
        open_source(f"parquet:{tmp_path}")


def test_hashes_and_folders_of_shards_are_one_part(tmp_path):
    shard(tmp_path / "plain/train/0000.parquet", FIRST)
    shard(tmp_path / "plain/train/0001.parquet", SECOND)
    shard(tmp_path / "plain/test/0000.parquet", TESTED)
    assert len(open_source(f"parquet:{tmp_path}").train) == 10
    shard(tmp_path / "x/train-00000-of-00002-a09b74b3ef9c3b56.parquet", FIRST)
    shard(tmp_path / "x/train-00001-of-00002-0123456789abcdef.parquet", SECOND)
    shard(tmp_path / "x/test-00000-of-00001-a19b74b3ef9c3b57.parquet", TESTED)
    assert len(open_source(f"parquet:{tmp_path}/x").train) == 10


def test_configurations_of_class_folders_are_refused(tmp_path):
    tree(tmp_path, pictures("small/train", "small/test", "large/train", "large/test"))
    for split in (None, "0.8"):
        with pytest.raises(InputError, match=f"folder:{tmp_path}/large or folder:{tmp_path}/small"):
            open_source(f"folder:{tmp_path}", split=split)


def test_a_copy_among_class_folders_is_no_class(tmp_path):
    tree(tmp_path, pictures("", "backup"))
    with pytest.raises(InputError, match="backup/ in .* would be a class, and holds a folder 'cat'"):
        open_source(f"folder:{tmp_path}", split="0.5")
    (tmp_path / "backup").rename(tmp_path / ".backup")
    assert open_source(f"folder:{tmp_path}", split="0.5").classes == ("cat", "dog")


# ---- names of parts --------------------------------------------------------------------------------------------------

SPELLINGS = [
    ("Training", "Testing"),
    ("TRAIN", "TEST"),
    ("Train", "val"),
    ("cifar_train", "cifar_test"),
    ("my-train-data", "my-test-data"),
    ("train set", "valid set"),
    ("x.training", "x.Validation"),
    ("trainset", "testset"),
    ("imagesTrain", "imagesTest"),
    ("train2017", "val2017"),
]


@pytest.mark.parametrize(("train", "test"), SPELLINGS)
def test_parts_are_told_by_a_word_in_any_case(tmp_path, train, test):
    folder = tree(tmp_path / "pictures", pictures(train, each=3) | pictures(test))
    source = open_source(f"folder:{folder}")
    assert (len(source.train), len(source.test), source.classes) == (6, 4, ("cat", "dog"))
    with pytest.raises(OptionError, match=f"leave it out, or give --split {train}:{test}"):
        open_source(f"folder:{folder}", split="0.8")
    shard(tmp_path / "tables" / f"{train}.parquet", FIRST)
    shard(tmp_path / "tables" / f"{test}.PARQUET", TESTED)
    for split in (None, f"{train}:{test}"):
        source = open_source(f"parquet:{tmp_path}/tables", split=split)
        assert (len(source.train), len(source.test)) == (6, 3)
    with pytest.raises(OptionError, match="has two parts"):
        open_source(f"parquet:{tmp_path}/tables", split="0.8")


@pytest.mark.parametrize(
    "names",
    ["X_train y_train X_test y_test", "trainX trainY testX testY", "TRAIN_IMAGES TRAIN_LABELS VAL_IMAGES VAL_LABELS",
     "x-training y-training x-testing y-testing", "Xtrain ytrain Xtest ytest"],
)  # fmt: skip
def test_arrays_of_parts_are_told_in_any_case(tmp_path, names):
    images, labels = np.arange(4, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2), np.array([0, 1, 0, 1])
    arrays = dict(zip(names.split(), (images, labels, images[:2], labels[:2]), strict=True))
    np.savez(tmp_path / "x.npz", **arrays)
    source = open_source(f"npz:{tmp_path}/x.npz")
    assert (len(source.train), len(source.test)) == (4, 2)
    with pytest.raises(OptionError, match="has two parts"):
        open_source(f"npz:{tmp_path}/x.npz", split="0.5")


def test_arrays_that_could_both_be_meant_are_refused(tmp_path):
    images, labels = np.arange(2, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2), np.array([0, 1])
    np.savez(tmp_path / "x.npz", x_train=images, X_Train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(InputError, match="has images in both x_train and X_Train"):
        open_source(f"npz:{tmp_path}/x.npz")


def test_folders_of_the_same_classes_are_parts_of_other_names(tmp_path):
    tree(tmp_path, pictures("Lernen", "Pruefen"))
    for split in (None, "0.8"):
        with pytest.raises(InputError, match=r"hold the same class folders \(cat, dog\).*--split Lernen:Pruefen"):
            open_source(f"folder:{tmp_path}", split=split)
    assert len(open_source(f"folder:{tmp_path}", split="Lernen:pruefen").train) == 4


def test_files_of_other_names_are_no_one_piece(tmp_path):
    shard(tmp_path / "flowers_train.parquet", FIRST)
    shard(tmp_path / "flowers_holdout.parquet", TESTED)
    with pytest.raises(InputError, match="--split flowers_train:flowers_holdout") as caught:
        open_source(f"parquet:{tmp_path}")
    assert "0.8" not in str(caught.value)
    assert len(open_source(f"parquet:{tmp_path}", split="flowers_train:flowers_holdout").test) == 3
    shard(tmp_path / "other/a.parquet", FIRST)
    shard(tmp_path / "other/b.parquet", TESTED)
    with pytest.raises(InputError, match="several sets, a, b.* --split a:b"):
        open_source(f"parquet:{tmp_path}/other", split="0.8")


def test_parts_without_class_folders_are_no_classes(tmp_path):
    tree(tmp_path, {f"{part}/{n}.png": grey(n) for part in ("train", "test") for n in range(4)})
    with pytest.raises(InputError, match="test, train of .* hold no class folders"):
        open_source(f"folder:{tmp_path}", split="0.8")


def test_a_test_part_alone_is_said(tmp_path):
    tree(tmp_path, pictures("Testing"))
    for split in (None, "0.8"):
        with pytest.raises(InputError, match="has the test part Testing and no train part: .*Testing --split 0.8"):
            open_source(f"folder:{tmp_path}", split=split)


def test_parts_one_folder_deeper_are_found(tmp_path):
    tree(tmp_path, pictures("archive/seg_train/seg_train", "archive/seg_test/seg_test"))
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ("cat", "dog") and "its parts lie in archive" in source.notes


def test_a_part_that_is_there_twice_is_refused(tmp_path):
    tree(tmp_path, pictures("train", "train_small", "test"))
    with pytest.raises(InputError, match="has the train part more than once, train, train_small"):
        open_source(f"folder:{tmp_path}")
    assert len(open_source(f"folder:{tmp_path}", split="train:test").train) == 4


@pytest.mark.parametrize("name", ["trainer", "latest", "restraint", "train_test", "evaluator", "contest", "bus"])
def test_words_with_other_meanings_are_no_parts(name):
    assert part_of(name) is None


# ---- what nobody meant ----------------------------------------------------------------------------------------------

LEFTOVERS = [
    *(".ipynb_checkpoints/0-checkpoint.png", "._0.png", "__MACOSX/._0.png", "__MACOSX/0.png", ".0.png"),
    *(".Trash/cat/0.png", "Thumbs.db", "desktop.ini", "@eaDir/0.png", ".hidden/0.png"),
]


@pytest.mark.parametrize("name", LEFTOVERS)
@pytest.mark.parametrize("where", ["", "train/", "train/cat/"])
def test_leftovers_are_left_alone_among_pictures(tmp_path, where, name):
    tree(tmp_path, pictures("train", "test") | {where + name: grey(7)})
    source = open_source(f"folder:{tmp_path}")
    assert (len(source.train), len(source.test), source.classes) == (4, 4, ("cat", "dog"))


def test_leftovers_are_left_alone_among_tables_and_arrays(tmp_path):
    for folder in ("", ".cache/", "__MACOSX/", "._"):
        shard(tmp_path / f"{folder}train.parquet", FIRST)
        shard(tmp_path / f"{folder}test.parquet", TESTED)
    (tmp_path / "._train-1.parquet").write_bytes(b"\0\5\x16\7")
    assert len(open_source(f"parquet:{tmp_path}").train) == 6
    for part, count in (("train", 4), ("t10k", 2)):
        for kind, magic, values in (("images-idx3", 0x803, (count, 4, 4)), ("labels-idx1", 0x801, (count,))):
            head = b"".join(number.to_bytes(4, "big") for number in (magic, *values))
            data = head + bytes([n % (251 if len(values) > 1 else 2) for n in range(int(np.prod(values)))])
            tree(tmp_path / "idx", {f"{part}-{kind}-ubyte": data, f"._{part}-{kind}-ubyte": b"\0\5\x16\7"})
    assert len(open_source(f"idx:{tmp_path}/idx").test) == 2


def test_leftovers_in_an_archive_are_left_alone(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for name, data in pictures("train", "test").items():
            packed.writestr(name, data)
            packed.writestr(f"__MACOSX/{name.replace('/', '/._', 1)}", b"\0\5\x16\7")
            packed.writestr(f"{name.rpartition('/')[0]}/._{name.rpartition('/')[2]}", b"\0\5\x16\7")
    assert len(open_source(f"folder:zip://::{tmp_path}/x.zip").train) == 4


def test_an_empty_hidden_folder_is_no_class(tmp_path):
    tree(tmp_path, pictures("train", "test"))
    for name in (".git", "__MACOSX", ".ipynb_checkpoints"):
        (tmp_path / "train" / name).mkdir()
    assert open_source(f"folder:{tmp_path}").classes == ("cat", "dog")


def test_names_by_hand():
    assert visible([".a/b", "a/.b", "a/b", "A/THUMBS.DB"]) == ["a/b"]
    assert [stem(f"d/{name}.parquet") for name in ("train-0", "a_1 test", "0000", "x.v2")] == [
        "train",
        "a_test",
        "",
        "x.v2",
    ]


# ---- broken files ---------------------------------------------------------------------------------------------------


def broken_folder(root):
    files = pictures("train", "test", each=3)
    whole = jpeg()
    files |= {"train/cat/9.jpg": whole[: len(whole) // 2], "train/dog/8.png": b"", "test/cat/7.gif": b"no picture"}
    files |= {"train/cat/4.jpg": whole[:-40] + bytes(40)}
    return tree(root, files)


BROKEN = ["train/cat/4.jpg", "train/cat/9.jpg", "train/dog/8.png", "test/cat/7.gif"]


def test_all_broken_pictures_are_listed_at_once_and_can_be_left_out(tmp_path):
    folder = broken_folder(tmp_path)
    with pytest.raises(InputError, match="4 pictures or files of .* cannot be decoded") as caught:
        open_source(f"folder:{folder}")
    assert all(name in str(caught.value) for name in BROKEN) and "--skip-broken" in str(caught.value)
    source = open_source(f"folder:{folder}", skip_broken=True)
    assert source.counts() == [3, 3] and source.counts(source.test) == [3, 3]
    assert torch.equal(source.train.stored[:, 0, 0, 0], torch.tensor([0, 1, 2, 3, 4, 5], dtype=torch.uint8))
    (note,) = [note for note in source.notes if "4 left out as broken" in note]
    assert all(name in note for name in BROKEN) and str(tmp_path) not in note
    assert note in source.summary()["notes"]


def test_of_many_broken_pictures_ten_are_named(tmp_path):
    tree(tmp_path, pictures("train", "test") | {f"train/cat/x{n:02}.png": b"" for n in range(13)})
    with pytest.raises(InputError, match=r"13 pictures or files .*x09.png \([^)]*\); and 3 more") as caught:
        open_source(f"folder:{tmp_path}")
    assert "x10" not in str(caught.value)


def test_broken_rows_and_files_of_shards_are_listed_and_can_be_left_out(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for part, data in (("train-0", [grey(0), b"", grey(1), grey(2)[:40]]), ("test", [grey(3), None, grey(4)])):
        table = pa.table({"image": pa.array(data, pa.binary()), "label": pa.array([0, 0, 1, 1][: len(data)])})
        pq.write_table(table, tmp_path / f"{part}.parquet")
    (tmp_path / "train-1.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="4 pictures or files") as caught:
        open_source(f"parquet:{tmp_path}")
    for name in ("row 1 of train-0.parquet", "row 3 of train-0.parquet", "train-1.parquet", "row 1 of test.parquet"):
        assert name in str(caught.value)
    source = open_source(f"parquet:{tmp_path}", skip_broken=True)
    assert source.train.stored[:, 0, 0, 0].tolist() == [0, 1] and source.train.labels.tolist() == [0, 1]
    assert source.test.labels.tolist() == [0, 1]


def test_a_part_of_which_nothing_is_left_is_refused(tmp_path):
    tree(tmp_path, pictures("train") | {"test/cat/0.png": b"", "test/dog/0.png": b""})
    for skip in (False, True):
        with pytest.raises(InputError, match="nothing of a part of .* can be decoded"):
            open_source(f"folder:{tmp_path}", skip_broken=skip)


def test_what_ends_in_zeros_after_its_end_is_whole(tmp_path):
    tree(
        tmp_path,
        {f"{cls}/{n}.jpg": jpeg(10 * at + n) + bytes(16) for at, cls in enumerate(("cat", "dog")) for n in range(2)},
    )
    assert len(open_source(f"folder:{tmp_path}", split="0.5").train) == 2
