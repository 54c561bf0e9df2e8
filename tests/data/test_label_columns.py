"""Labels as words, categories, truth values, whole floats and one-hot rows; from 1 on; missing ones; in every format."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddcore.data.columns import classes_of, one_hot_columns, sorted_names
from ddcore.data.sources import open_source
from ddcore.errors import InputError

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
WORDS = {"train": ["dog", "cat", "owl", "cat"], "test": ["owl", "cat"]}


def picture(seed=0):
    file = io.BytesIO()
    pixels = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_table(path, columns, metadata=None):
    """A parquet file of as many pictures as labels; ``columns`` may be a list of labels."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = columns if isinstance(columns, dict) else {"label": columns}
    count = len(next(iter(columns.values())))
    image = pa.array([{"bytes": picture(n), "path": None} for n in range(count)])
    table = pa.table({"image": image, **{name: pa.array(cells) for name, cells in columns.items()}})
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(table.replace_schema_metadata(metadata), path)


def as_parquet(folder, labels):
    for part, cells in labels.items():
        write_table(folder / f"{part}.parquet", cells)
    return f"parquet:{folder}"


def as_npz(folder, labels):
    arrays = {}
    for part, cells in labels.items():
        arrays[f"y_{part}"] = np.array(cells)
        arrays[f"x_{part}"] = np.arange(len(cells) * 16, dtype=np.uint8).reshape(-1, 4, 4)
    np.savez(folder / "x.npz", **arrays)
    return f"npz:{folder}/x.npz"


both = pytest.mark.parametrize("write", [as_parquet, as_npz])


@both
def test_words_are_numbered_by_their_sorted_names(tmp_path, write):
    source = open_source(write(tmp_path, WORDS))
    assert source.classes == ("cat", "dog", "owl")
    assert source.train.labels.tolist() == [1, 0, 2, 0] and source.test.labels.tolist() == [2, 0]


@both
def test_a_word_that_is_only_tested_is_refused_by_name(tmp_path, write):
    with pytest.raises(InputError, match=r"has classes without train images \(ant\)"):
        open_source(write(tmp_path, {"train": ["cat", "dog"], "test": ["ant", "dog"]}))


@both
def test_names_that_are_whole_numbers_are_in_the_order_of_numbers(tmp_path, write):
    source = open_source(write(tmp_path, {"train": ["10", "9", "2"], "test": ["10"]}))
    assert source.classes == ("2", "9", "10") and source.train.labels.tolist() == [2, 1, 0]


@both
@pytest.mark.parametrize("cells", [[0.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
def test_whole_floats_are_whole_numbers(tmp_path, write, cells):
    source = open_source(write(tmp_path, {"train": cells, "test": cells}))
    assert source.train.labels.tolist() == [0, 2, 1]


@both
def test_truth_values_are_two_classes(tmp_path, write):
    source = open_source(write(tmp_path, {"train": [True, False, True], "test": [False]}))
    assert source.classes == ("False", "True") and source.train.labels.tolist() == [1, 0, 1]


@both
def test_labels_from_one_on_are_counted_from_zero_and_keep_their_names(tmp_path, write):
    source = open_source(write(tmp_path, {"train": [3, 1, 2], "test": [2]}))
    assert source.classes == ("1", "2", "3") and source.test.labels.tolist() == [1]
    assert any("labels run from 1 to 3" in note for note in source.notes)


@both
@pytest.mark.parametrize("parts", [{"train": [1, 2, 2], "test": [0]}, {"train": [1, 3, 3, 3], "test": [1]}])
def test_labels_that_only_look_as_if_they_ran_from_one_are_not_moved(tmp_path, write, parts):
    with pytest.raises(InputError, match="has no train images of class 0"):
        open_source(write(tmp_path, parts))


@both
@pytest.mark.parametrize("cast", [int, float, bool])
def test_one_hot_rows_are_read(tmp_path, write, cast):
    rows = [[cast(n == cls) for n in range(3)] for cls in (2, 0, 1)]
    source = open_source(write(tmp_path, {"train": rows, "test": rows[:2]}))
    assert source.train.labels.tolist() == [2, 0, 1] and source.test.labels.tolist() == [2, 0]
    assert any("one-hot" in note for note in source.notes)


@both
def test_rows_of_several_classes_are_refused(tmp_path, write):
    rows = [[1, 1, 0], [0, 1, 0]]
    with pytest.raises(InputError, match="not one-hot.*one class"):
        open_source(write(tmp_path, {"train": rows, "test": rows}))


@both
def test_missing_labels_are_counted_and_their_images_left_out(tmp_path, write):
    cells = {"train": ["cat", "N/A", "dog", "nan", ""], "test": ["dog"]}
    source = open_source(write(tmp_path, cells))
    assert source.train.labels.tolist() == [0, 1] and len(source.train.stored) == 2
    whole = open_source(write(tmp_path, {"train": ["cat", "ant", "dog", "ant", "ant"], "test": ["dog"]}))
    assert not (source.train.stored.int() - whole.train.stored[[0, 2]].int()).any()
    assert any("3 of 5 labels are missing" in note for note in source.notes)


@both
@pytest.mark.parametrize("unlabelled", [[-1, -1], [float("nan")] * 2, [-1.0, -1.0], ["-1", "-1"]])
@pytest.mark.parametrize("name", ["validation", "val"])
def test_an_unlabelled_test_part_beside_a_labelled_one_says_which_to_take(tmp_path, write, unlabelled, name):
    parts = {"train": [0, 1, 1], name: [1, 0], "test": unlabelled}
    address = write(tmp_path, parts)
    with pytest.raises(InputError, match=f"the test part of .* has no labels .*: give --split train:{name}"):
        open_source(address)
    assert open_source(address, split=f"train:{name}").test.labels.tolist() == [1, 0]


@both
def test_an_unlabelled_test_part_alone_says_what_can_be_done(tmp_path, write):
    with pytest.raises(InputError, match="the test part .* has no labels .all 2 are -1.: .*--split 0.8"):
        open_source(write(tmp_path, {"train": [0, 1], "test": [-1, -1]}))


def test_words_beside_numbers_are_compared_as_names(tmp_path):
    address = as_parquet(tmp_path, {"train": ["0", "1", "10"], "test": [10, 1]})
    assert open_source(address).test.labels.tolist() == [2, 1]
    address = as_parquet(tmp_path, {"train": ["cat", "dog"], "test": [0, 1]})
    with pytest.raises(InputError, match=r"classes without train images \(0, 1\)"):
        open_source(address)


def test_categories_are_what_they_stand_for_in_any_order(tmp_path):
    pa = pytest.importorskip("pyarrow")
    codes = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 1], pa.int8()), pa.array(["owl", "cat", "ant"]))
    write_table(tmp_path / "train.parquet", {"label": codes})
    write_table(tmp_path / "test.parquet", ["cat", "owl"])
    source = open_source(f"parquet:{tmp_path}")
    assert source.classes == ("ant", "cat", "owl") and source.train.labels.tolist() == [2, 1, 0, 1]


def test_labels_of_several_values_are_refused(tmp_path):
    for part in ("train", "test"):
        write_table(tmp_path / f"{part}.parquet", [{"a": 1}, {"a": 0}])
    with pytest.raises(InputError, match="column 'label' of .* are of type dict: a sample has to have one class"):
        open_source(f"parquet:{tmp_path}")


def test_notes_hold_no_path(tmp_path):
    address = as_npz(tmp_path, {"train": [[1, 0], [0, 1]], "test": [[1, 0], [0, 1]]})
    assert not any(str(tmp_path) in note for note in open_source(address).notes)


def test_shards_of_words_are_numbered_together(tmp_path):
    write_table(tmp_path / "train-0.parquet", ["owl", "cat"])
    write_table(tmp_path / "train-1.parquet", ["ant", "cat"])
    write_table(tmp_path / "test.parquet", ["ant"])
    source = open_source(f"parquet:{tmp_path}")
    assert source.train.labels.tolist() == [2, 1, 0, 1] and source.classes == ("ant", "cat", "owl")


def test_a_column_for_each_class_is_one_hot(tmp_path):
    columns = {"owl": [0, 1, 0], "cat": [1, 0, 0], "ant": [0, 0, 1]}
    for part in ("train", "test"):
        write_table(tmp_path / f"{part}.parquet", columns)
    source = open_source(f"parquet:{tmp_path}")
    assert source.classes == ("ant", "cat", "owl") and source.train.labels.tolist() == [1, 2, 0]
    write_table(tmp_path / "test.parquet", {"width": [4, 4], "height": [4, 4]})
    with pytest.raises(InputError, match="has no label column among image, width, height"):
        open_source(f"parquet:{tmp_path}")


def test_class_names_of_the_format_go_with_labels_from_one_on(tmp_path):
    features = {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}
    for part in ("train", "test"):
        write_table(tmp_path / f"{part}.parquet", [1, 2], {"huggingface": json.dumps({"info": {"features": features}})})
    source = open_source(f"parquet:{tmp_path}")
    assert source.classes == ("ant", "bee") and source.train.labels.tolist() == [0, 1]


def test_a_column_by_hand():
    found = classes_of(["1.0", " 1", "0", None, "NA", 0.0, "1e0"], "x")
    assert found.names == ("0", "1") and found.numbers.tolist() == [1, 1, 0, 0, 1]
    assert found.labelled.tolist() == [True, True, True, False, False, True, True]
    assert classes_of(["007", "7", "8"], "x").names == ("7", "8")
    assert classes_of(["007", "8"], "x").names == ("007", "8")
    assert classes_of([b"dog", "cat"], "x").names == ("cat", "dog")
    assert len(classes_of(["90071992547409931", "90071992547409932"], "x").names) == 2
    assert sorted_names(["b10", "b9"]) == ("b10", "b9")
    for bad in (["0.5", "1"], ["1e300", "1"]):
        with pytest.raises(InputError, match="x are floats, not integers"):
            classes_of(bad, "x")
    with pytest.raises(InputError, match="is no UTF-8 text"):
        classes_of([b"\xff"], "x")


def test_columns_that_are_not_one_hot_are_none():
    assert one_hot_columns({"a": ["1", "1"], "b": ["1", "0"]}) is None
    assert one_hot_columns({"a": ["1", "x"], "b": ["0", "1"]}) is None
    assert one_hot_columns({"a": ["1", "1"]}) is None


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this repository")
def test_the_case_of_words_in_a_table():
    source = open_source(f"parquet:{CASES}/text-labels/data")
    assert source.classes == ("cat", "dog", "owl") and source.train.labels[0] == 1
    assert source.counts() == [4, 4, 4] and source.counts(source.test) == [2, 2, 2]


def test_bytes_are_text(tmp_path):
    cells = np.array([b"dog", b"cat", b"nan"])
    np.savez(
        tmp_path / "x.npz",
        x_train=np.arange(48, dtype=np.uint8).reshape(3, 4, 4),
        y_train=cells,
        x_test=np.arange(48, dtype=np.uint8).reshape(3, 4, 4),
        y_test=cells,
    )
    source = open_source(f"npz:{tmp_path}/x.npz")
    assert source.classes == ("cat", "dog") and source.train.labels.tolist() == [1, 0]


def test_idx_labels_from_one_on_are_counted_from_zero(tmp_path):
    for part in ("train", "t10k"):
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (4, 2, 2))
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(head + bytes(range(16)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 4, 2, 1, 2, 1]))
    source = open_source(f"idx:{tmp_path}")
    assert source.classes == ("1", "2") and source.test.labels.tolist() == [1, 0, 1, 0]
