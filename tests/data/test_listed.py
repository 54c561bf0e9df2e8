"""Pictures whose labels stand in a table beside them."""

import io
import uuid

import numpy as np
import pytest
import torch
from PIL import Image

from ddcore.data.sources import open_source
from ddcore.errors import InputError
from ddcore.storage.places import Place

LABELS = ["dog", "cat", "owl", "cat", "dog", "owl"]


def picture(seed):
    file = io.BytesIO()
    pixels = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return str(tmp_path / "toys") if request.param == "local" else f"memory://{uuid.uuid4().hex}/toys"


def write(root, tables, pictures):
    for name, text in tables.items():
        (Place.at(root) / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    for at, name in enumerate(pictures):
        (Place.at(root) / name).write_bytes(picture(at))


def table(names, labels=LABELS, head="file,label\n", mark=","):
    return head + "".join(f"{name}{mark}{label}\n" for name, label in zip(names, labels, strict=False))


FILES = [f"{n}.png" for n in range(6)]


@pytest.mark.parametrize("name", ["labels.csv", "annotations.csv", "train.csv"])
@pytest.mark.parametrize("folder", ["", "images/", "deep/er/"])
@pytest.mark.parametrize("cells", [FILES, [f.removesuffix(".png") for f in FILES]])
def test_a_folder_of_pictures_takes_its_labels_from_the_table_beside_it(root, name, folder, cells):
    write(root, {name: table(cells[::-1]), "notes.csv": "a,b\n1,2\n"}, [folder + file for file in FILES])
    source = open_source(f"folder:{root}", split="0.5")
    assert source.classes == ("cat", "dog", "owl") and source.counts() == [1, 1, 1] and len(source.test) == 3
    from_file = open_source(f"csv:{root}/{name}", split="0.5")
    assert from_file.fingerprint == source.fingerprint == open_source(f"csv:{root}", split="0.5").fingerprint


def test_each_picture_has_the_label_of_its_line(tmp_path):
    write(tmp_path, {"labels.csv": table(FILES[::-1])}, FILES)
    source = open_source(f"folder:{tmp_path}", split="0.5")
    for name in FILES:
        (tmp_path / "in_folders" / LABELS[5 - int(name[0])]).mkdir(parents=True, exist_ok=True)
        (tmp_path / name).rename(tmp_path / "in_folders" / LABELS[5 - int(name[0])] / name)
    other = open_source(f"folder:{tmp_path}/in_folders", split="0.5")
    both = [torch.cat([s.train.stored, s.test.stored]) for s in (source, other)]
    labels = [torch.cat([s.train.labels, s.test.labels]).tolist() for s in (source, other)]
    pixels = [
        {tuple(image.flatten().tolist()): label for image, label in zip(*p, strict=True)}
        for p in zip(both, labels, strict=True)
    ]
    assert pixels[0] == pixels[1] and len(pixels[0]) == 6


def test_parts_with_a_table_each(root):
    tables = {
        "train.csv": table(FILES),
        "test.csv": table(FILES[:3]),
        "sample_submission.csv": table(FILES, ["cat"] * 6),
    }
    write(root, tables, [f"{part}/{file}" for part in ("train", "test") for file in FILES])
    source = open_source(f"folder:{root}")
    assert (len(source.train), len(source.test)) == (6, 3) and source.test.labels.tolist() == [1, 0, 2]
    assert any("3 of 12 pictures" in note for note in source.notes)


@pytest.mark.parametrize("tested", [None, "id\n0\n1\n", "id,width\n0,4\n1,4\n"])
def test_a_competitions_test_pictures_without_labels_are_not_read(tmp_path, tested):
    tables = {"train.csv": table([f[0] for f in FILES], head="id,breed\n")} | ({"test.csv": tested} if tested else {})
    write(tmp_path, tables, [f"{part}/{file}" for part in ("train", "test") for file in FILES])
    with pytest.raises(InputError, match="give --split 0.8"):
        open_source(f"folder:{tmp_path}")
    source = open_source(f"folder:{tmp_path}", split="0.5")
    assert len(source.train) + len(source.test) == 6
    train = open_source(f"csv:{tmp_path}/train.csv", split="0.5")
    assert train.fingerprint == source.fingerprint


def test_a_validation_table_is_tested_on_where_the_test_table_has_no_labels(tmp_path):
    tables = {"train.csv": table(FILES), "val.csv": table(FILES[:3]), "test.csv": table(FILES[:2], [-1, -1])}
    write(tmp_path, tables, [f"{part}/{file}" for part in ("train", "val", "test") for file in FILES])
    with pytest.raises(InputError, match="the test part .* has no labels .all 2 are -1.: give --split train:val"):
        open_source(f"folder:{tmp_path}")
    assert len(open_source(f"folder:{tmp_path}", split="train:val").test) == 3


def test_a_column_may_say_the_part(tmp_path):
    lines = "".join(
        f"{f},{c},{p}\n" for f, c, p in zip(FILES, LABELS, ["train"] * 3 + ["test"] * 2 + ["x"], strict=True)
    )
    write(tmp_path, {"all.csv": "file,class,split\n" + lines}, FILES)
    source = open_source(f"folder:{tmp_path}")
    assert source.train.labels.tolist() == [1, 0, 2] and source.test.labels.tolist() == [0, 1]


def test_numbers_that_are_files_and_labels_are_told_apart(tmp_path):
    write(tmp_path, {"labels.csv": table([0, 1, 0, 1, 2, 2], range(6), "label,id\n")}, FILES)
    source = open_source(f"csv:{tmp_path}", split="0.5")
    assert source.classes == ("0", "1", "2") and source.counts() == [1, 1, 1]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("head", [True, False])
def test_other_marks_and_no_header(tmp_path, mark, head):
    write(tmp_path, {"labels.csv": "\ufeff" + table(FILES, head=f"f{mark}l\n" if head else "", mark=mark)}, FILES)
    assert open_source(f"folder:{tmp_path}", split="0.5").counts() == [1, 1, 1]


def test_a_column_for_each_class(tmp_path):
    rows = "".join(
        f"{f},{int(c == 'cat')}.0,{int(c == 'dog')}.0,{int(c == 'owl')}.0\n" for f, c in zip(FILES, LABELS, strict=True)
    )
    write(tmp_path, {"labels.csv": "image,cat,dog,owl\n" + rows}, FILES)
    source = open_source(f"folder:{tmp_path}", split="0.5")
    assert source.classes == ("cat", "dog", "owl") and any("one-hot" in note for note in source.notes)


def test_missing_labels_are_left_out_with_their_pictures(tmp_path):
    write(tmp_path, {"labels.csv": table(FILES, ["dog", "", "cat", "NaN", "dog", "cat"])}, FILES)
    source = open_source(f"folder:{tmp_path}", split="0.5")
    assert source.counts() == source.counts(source.test) == [1, 1]
    assert any("2 of 6 labels are missing" in note for note in source.notes)
    kept = [FILES[at] for at in (0, 2, 4, 5)]
    write(tmp_path, {"labels.csv": table(kept, ["dog", "cat", "dog", "cat"])}, FILES)
    assert source.fingerprint == open_source(f"folder:{tmp_path}", split="0.5").fingerprint


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (table([*FILES[:5], "gone.png"]), "1 of 6 pictures that .*labels.csv names are not there, first 'gone.png'"),
        (table([*FILES, "0.png"], [*LABELS, "owl"]), "0.png has two labels in .*labels.csv, line 8"),
        ("file,a,b\n" + "".join(f"{f},1,2\n" for f in FILES), "columns a, b besides 'file': name the column"),
        ("file\n" + "".join(f"{f}\n" for f in FILES), "no column besides 'file'"),
        (table(FILES) + "5.png\n", "line 8 of .*labels.csv has 1 cells where the first has 2"),
        (b"file,label\n0.png,\xff\n", "is no table in UTF-8"),
        ("file,label\nx.png,cat\n", r"no column of .*labels.csv \(file, label\) names pictures of"),
        ("", r"no column of .*labels.csv \(none\) names pictures of"),
        (table(FILES, [0.5, 1, 2, 0.5, 1, 2]), "are floats, not integers, with 0.5"),
    ],
)
def test_tables_that_do_not_fit_are_one_sentence(tmp_path, text, sentence):
    write(tmp_path, {"labels.csv": text}, FILES)
    with pytest.raises(InputError, match=sentence):
        open_source(f"csv:{tmp_path}/labels.csv", split="0.5")


def test_a_line_that_comes_twice_counts_once(tmp_path):
    write(tmp_path, {"labels.csv": table([*FILES, "0.png"], [*LABELS, "dog"])}, FILES)
    source = open_source(f"folder:{tmp_path}", split="0.5")
    assert len(source.train) + len(source.test) == 6 and any(
        "1 lines name a picture once more" in n for n in source.notes
    )


def test_several_tables_that_fit_are_named(tmp_path):
    write(tmp_path, {"a.csv": table(FILES), "b.csv": table(FILES)}, FILES)
    with pytest.raises(InputError, match="several tables of its pictures, a.csv, b.csv: name one"):
        open_source(f"folder:{tmp_path}", split="0.5")


def test_class_folders_are_read_as_before_unless_a_table_of_labels_disagrees(tmp_path):
    files = [f"{label}/{file}" for label, file in zip(LABELS, FILES, strict=True)]
    write(tmp_path, {"broken.csv": b"\xff", "train.csv": "x,y,z\n1\n"}, files)
    plain = open_source(f"folder:{tmp_path}", split="0.5")
    write(tmp_path, {"labels.csv": table(files)}, [])
    assert open_source(f"folder:{tmp_path}", split="0.5").fingerprint == plain.fingerprint
    write(tmp_path, {"labels.csv": table(files, LABELS[::-1])}, [])
    with pytest.raises(InputError, match="labels.csv says other classes: give csv:.* to take the table's"):
        open_source(f"folder:{tmp_path}", split="0.5")
    assert open_source(f"csv:{tmp_path}/labels.csv", split="0.5").classes == plain.classes
