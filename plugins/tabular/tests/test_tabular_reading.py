"""Tables read from files: columns, labels, parts, and what is refused."""

import pyarrow
import pyarrow.parquet
import pytest
import torch
from ddcore_tabular import Tabular
from ddcore_tabular.sources import TableSource

from ddcore import InputError
from ddcore.data.checking import examine
from ddcore.errors import OptionError
from ddcore.scoring.validation import carve
from ddcore.storage import Place

HEAD = "age,town,member,since,class\n"
LINES = [
    "20,rome,true,2020-01-01,no",
    "40,oslo,false,2020-01-03,yes",
    ",rome,TRUE,2020-01-05,no",
    "60,?,false,2020-01-07,yes",
    "30,oslo,true,2020-01-09,no",
    "50,rome,false,2020-01-11,yes",
]


def read(path, split=None, skip_broken=False, **options) -> TableSource:
    given = {"data_root": None, "split": split, "resize": None, "skip_broken": skip_broken}
    return Tabular(**options).ddcore_data("table", str(path), given)


@pytest.fixture
def write(tmp_path):
    def written(lines, name="few.csv", head=HEAD):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(head + "".join(f"{line}\n" for line in lines))
        return tmp_path / name

    return written


@pytest.fixture
def parts(write, tmp_path):
    write(LINES, "both/train.csv")
    write(["40,paris,,2020-01-06,yes", "40,rome,true,2020-01-06,no"], "both/dev.csv")
    return tmp_path / "both"


def test_numbers_categories_truth_values_and_dates_by_hand(parts):
    source = read(parts)
    assert (source.classes, source.modality, source.dense, source.shape) == (("no", "yes"), "table", True, (7,))
    assert source.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    # age: 20 40 60 30 50, mean 40, deviation sqrt(200); missing gives 0 and 1
    torch.testing.assert_close(source.train.stored[0, :2], torch.tensor([-20 / 200**0.5, 0]))
    assert source.train.stored[2, :2].tolist() == [0, 1]
    # town: oslo, rome, missing ("?")
    assert source.train.stored[:, 2:5].argmax(1).tolist() == [1, 0, 1, 2, 0, 1]
    # member: three of six
    assert source.train.stored[:, 5].tolist() == [1, -1, 1, -1, 1, -1]
    # since: 0 2 4 6 8 10 days, mean 5
    torch.testing.assert_close(source.train.stored[0, 6], torch.tensor(-5 / (35 / 3) ** 0.5))
    # a number and its missing bit, a code of a byte, a bit, a date: 33 + 8 + 1 + 32 bits
    assert source.price == source.row_bytes == 10
    assert "dates are taken as numbers, days since 1970: since" in source.notes


def test_what_the_train_rows_lack_is_counted(parts):
    source = read(parts)
    assert source.test.stored[0, 2:5].tolist() == [0, 0, 0]
    assert "1 test cells of column 'town' are of categories without train rows" in source.notes
    assert "1 test cells of column 'member' are missing, and no train cell is" in source.notes


def test_test_rows_teach_the_encoding_nothing(parts, write):
    before = read(parts).encoding
    write(["9999,paris,true,2031-01-01,yes"] * 9, "both/dev.csv")
    assert read(parts).encoding == before


def test_a_table_becomes_rows_and_a_table_again(parts):
    source = read(parts)
    table = source.encoding.decoded(source.train.stored)
    assert table["age"] == [20, 40, None, 60, 30, 50]
    assert table["town"] == ["rome", "oslo", "rome", None, "oslo", "rome"]
    assert table["member"] == [True, False] * 3
    assert table["since"][:2] == ["2020-01-01", "2020-01-03"]


def test_parquet_keeps_its_types_and_text_that_looks_like_numbers_is_words(tmp_path, parts):
    same = {
        "age": [20.0, 40, None, 60, 30, 50],
        "town": pyarrow.array(["rome", "oslo", "rome", None, "oslo", "rome"]).dictionary_encode(),
        "member": [True, False] * 3,
        "zip": ["007", "008", "007", "9", "9", "9"],
        "class": ["no", "yes"] * 3,
    }
    pyarrow.parquet.write_table(pyarrow.table(same), tmp_path / "x.parquet")
    source = read(tmp_path / "x.parquet", split="0.7")
    assert [column.words.partition(":")[2] for column in source.encoding.columns][3] == " 3 categories"
    assert read(parts, drop="since").train.stored.shape[1] == 6


def test_one_table_is_cut_by_class_and_always_alike(write):
    path = write(LINES * 5)
    one, two = read(path), read(path)
    assert one.fingerprint == two.fingerprint and (one.counts(), one.counts(one.test)) == ([12, 12], [3, 3])
    assert "0.8 of the rows of each class train and the others test, drawn once and for all" in one.notes
    assert read(path, split="0.6").counts() == [9, 9]


def test_a_second_file_and_a_column_say_the_parts(write):
    path, other = write(LINES), write(LINES[:2], "other.csv")
    assert len(read(path, test=str(other)).test) == 2
    words = ["test", "test", "train", "train", "train", "train"]
    marked = write([f"{line},{word}" for line, word in zip(LINES, words, strict=True)], "m.csv", HEAD[:-1] + ",Split\n")
    source = read(marked)
    assert (len(source.train), len(source.test)) == (4, 2)
    assert "Split" not in [column.name for column in source.encoding.columns]
    assert len(read(marked, split="test:train").train) == 2


def test_semicolons_tabs_and_plus_signs_are_read(write, tmp_path):
    tabs = write(["+1\tno", "2.5e1\tyes"] * 6, "x.tsv", "x\ty\n")
    assert read(tabs).encoding.columns[0].words == "x: number"
    semicolons = write(["1;no", "3;yes"] * 6, "s.csv", "x;label\n")
    assert read(semicolons).encoding.columns[0].mean == 2


def test_a_column_of_numbers_can_be_categories(write):
    path = write(["1,no", "2,yes"] * 6, head="code,label\n")
    assert read(path, categorical="code").encoding.columns[0].words == "code: 2 categories"


def test_rows_without_a_label_are_left_out_and_counted(write):
    source = read(write([*LINES * 2, "20,rome,true,2020-01-01,", "20,rome,true,2020-01-01,NA"]))
    assert len(source.train) + len(source.test) == 12
    assert any("2 of 14 labels are missing" in note for note in source.notes)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"gone": [None] * 12}, "columns of one value in all train rows (empty), left out: gone"),
        ({"same": [3] * 12}, "columns of one value in all train rows (constant), left out: same"),
        ({"same": ["a"] * 12}, "columns of one value in all train rows (constant), left out: same"),
        ({"far": [1.0, float("inf")] * 6}, "cells of column 'far' are no numbers, or not finite: taken for missing"),
    ],
)
def test_columns_that_say_nothing_are_left_out_with_a_note(columns, said, tmp_path):
    table = pyarrow.table({"x": list(range(12)), **columns, "label": ["a", "b"] * 6})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    source = read(tmp_path / "x.parquet")
    assert any(said in note for note in source.notes)
    assert torch.isfinite(source.train.stored).all()


def test_ten_thousand_categories_take_as_many_places_as_they_may(write):
    source = read(write([f"w{at},{at % 7},{'ab'[at % 2]}" for at in range(10_000)], head="id,x,label\n"))
    assert source.shape == (65,)
    assert any("of more than 64 categories" in note and "id (8,000)" in note for note in source.notes)
    assert source.train.stored[:, :64].sum(1).eq(1).all() and source.row_bytes == 5


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", {}, "is empty: it has to begin with a line of column names"),
        ("x,label\n", {}, "has columns and no rows"),
        ("x,x,label\n1,2,a\n", {}, "has two columns 'x'"),
        ("x,label\n1,a\n1,2,3\n", {}, "cannot be read as a table"),
        ("x,z\n1,a\n2,b\n", {}, "has no column of labels: name it by --tabular.label, one of x, z"),
        ("x,y,class\n1,a,b\n2,b,a\n", {}, "several columns that may be the label, y, class"),
        ("x,label\n1,a\n2,b\n", {"label": "labell"}, "has no column 'labell' (--tabular.label): did you mean 'label'"),
        ("x,label\n1,a\n2,a\n3,b\n", {}, "class 'b' of table:PATH has one row"),
        ("x,label\n1,0.5\n2,1.5\n", {}, "are floats, not integers"),
        ("x,label\n1,\n2,\n", {}, "has no labels"),
        ("label\na\nb\na\nb\n", {}, "no column of the table tells rows apart"),
        ("x,label\n1,a\n1,a\n1,b\n1,b\n", {}, "no column of the table tells rows apart"),
        ("x,label\n1,a\n2,a\n", {}, "has one label only, 'a'"),
        ("x,label\n1,a\n2,b\n3,a\n4,b\n", {"drop": "w"}, "has no column 'w' (--tabular.drop)"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(text, options, said, tmp_path):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "x.csv", **options)
    assert said in str(caught.value).replace(str(tmp_path / "x.csv"), "PATH") and "\n" not in str(caught.value)


def test_other_files_folders_and_options_are_refused(write, tmp_path, parts):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "bytes.csv").write_bytes(b"x,label\n\xff,a\n")
    lists = pyarrow.table({"x": [[1], [2]] * 2, "label": ["a", "b"] * 2})
    pyarrow.parquet.write_table(lists, tmp_path / "lists.parquet")
    cases = {
        "x.parquet": "is no Parquet file",
        "bytes.csv": "is not UTF-8 text",
        "lists.parquet": "column 'x' of table:",
        "none.csv": "there is nothing at",
    }
    for name, said in cases.items():
        with pytest.raises(InputError, match=said):
            read(tmp_path / name)
    with pytest.raises(InputError, match="is no table: give a file that ends in"):
        read(write(LINES, "x.txt"))
    with pytest.raises(OptionError, match="has two parts"):
        read(parts, split="0.5")
    with pytest.raises(InputError, match="no column split, part, subset"):
        read(write(LINES), split="a:b")
    with pytest.raises(InputError, match=r"--tabular.fitted 'oak' is none of decision-tree"):
        Tabular(fitted="oak")


def test_parts_that_do_not_fit_are_refused(write, tmp_path):
    write(["1,a", "2,b"], "p/train.csv", "x,label\n")
    write(["1,c"], "p/test.csv", "x,label\n")
    with pytest.raises(InputError, match=r"classes without train rows \(c\)"):
        read(tmp_path / "p")
    write(["1,a"], "p/test.csv", "z,label\n")
    with pytest.raises(InputError, match="has no column 'x', which the train table has"):
        read(tmp_path / "p")
    (tmp_path / "p" / "test.csv").unlink()
    write(["1,a"], "p/other.csv", "x,label\n")
    with pytest.raises(InputError, match="has no test table among other.csv, train.csv"):
        read(tmp_path / "p")


def test_broken_lines_are_left_out_if_asked(write):
    source = read(write([*LINES * 2, "1,2"]), skip_broken=True)
    assert any("1 lines of few.csv" in note for note in source.notes)


def test_validation_carves_and_keeps_the_encoding(write):
    carved = carve(read(write(LINES * 5)), 0.25, 3)
    assert isinstance(carved, TableSource) and carved.carved == (0.25, 3) and carved.encoding.width == 7


@pytest.mark.parametrize("name", ["breast-cancer", "wine", "iris", "applicants"])
def test_built_in_tables_are_read_by_either_name(name):
    options = {"data_root": None, "split": None, "resize": None}
    one, two = (Tabular().ddcore_data(*words, options) for words in ((name, ""), ("table", name)))
    assert one.fingerprint == two.fingerprint and one.name == name
    assert [finding for finding in examine(one) if finding.status == "warning"] in ([], [one]) or name == "iris"


def test_a_path_alone_is_recognised(parts, write, tmp_path):
    pack = Tabular()
    assert pack.recognises(Place.at(parts)) == pack.recognises(Place.at(write(LINES))) == "table"
    assert pack.recognises(Place.at(write(["a,b"], "s.csv", "sentence,label\n"))) is None
    assert pack.recognises(Place.at(tmp_path / "few.csv").parent / "none") is None
