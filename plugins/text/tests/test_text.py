"""Sentences become token ids, transformers ignore what fills them up, students and teachers train on them."""

import json
from pathlib import Path

import pytest
import torch
from ddcore_text import CLS, EMPTY, UNKNOWN, Text, Transformer, encode, vocabulary_of

from ddcore import InputError
from ddcore.cli.app import invoke
from ddcore.kit.contract import check_plugin
from ddcore.storage import Place

SST2 = Path("../shared/data/sst2")
LINES = 'sentence\tlabel\na fine film\t1\na bad " film\t0\na fine , fine day\t1\nbad bad\t0\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.tsv").write_text(LINES)
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nfine\t1\nunheard of\t0\n")
    return tmp_path


def network(layers=1, length=6):
    torch.manual_seed(0)
    return Transformer(9, length, 2, layers, 16, 2).double()


def test_the_contract_is_kept():
    check_plugin("text")


def test_sentences_become_ids_cut_and_filled_up(folder):
    source = Text(length=4).ddcore_data("text", str(folder), {})
    assert source.vocabulary == 3 + len({"a", "bad", "film", "fine"})
    assert source.train.stored[0].tolist()[0] == CLS
    assert source.train.stored[3].tolist()[3] == EMPTY
    assert source.test.stored.tolist()[1] == [CLS, UNKNOWN, UNKNOWN, EMPTY]
    assert (source.classes, source.size) == (("0", "1"), 4)
    assert source.notes == ("tested on dev.tsv",)


def test_the_test_part_has_no_say_in_the_vocabulary():
    words = vocabulary_of(["x y", "x z z"], least=1, most=5)
    assert words == {"x": 3, "z": 4}
    assert encode(["y q"], words, 3).tolist() == [[CLS, UNKNOWN, UNKNOWN]]


def test_what_fills_a_sentence_up_changes_nothing():
    net = network().eval()
    short = torch.tensor([[CLS, 4, 5, 0, 0, 0]])
    with torch.no_grad():
        net.words.weight[EMPTY] += 7
        before = net(short)
        net.places[3:] += 5 * torch.randn(3, 16)
        assert torch.allclose(net(short), before, atol=1e-12)
        net.places[2] += torch.randn(16)
        assert not torch.allclose(net(short), before, atol=1e-3)


def test_a_sentences_logits_do_not_depend_on_its_batch_and_layers_differ():
    net = network(layers=2)
    tokens = torch.tensor([[CLS, 4, 5, 6, 0, 0], [CLS, 8, 0, 0, 0, 0]])
    assert torch.allclose(net(tokens)[1:], net(tokens[1:]), atol=1e-12)
    first, second = (layer.linear1.weight for layer in net.encoder.layers)
    assert not torch.equal(first, second)
    assert list(net.taps) == ["stage1", "stage2"]
    assert torch.equal(net.classifier(net.embed(tokens)), net(tokens))


def test_students_learn_computed_sentences_and_two_runs_are_the_same_bits(tmp_path):
    words = ["train", "--plugin=text", "--data=sentences", "--student=transformer1-w16", "--protocol=text-30"]
    words += ["--eval-seeds=1", "--threads=1"]
    found = []
    for name in ("a", "b"):
        assert invoke([*words, f"--out={tmp_path / name}"]) == 0
        row = json.loads((tmp_path / name / "scores.json").read_text())["rows"][0]
        found.append(row["accuracy"]["mean"])
        assert row["bytes"]["images"] == 400 * 32 * 4
    assert found[0] == found[1] > 0.9


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: (f / "dev.tsv").unlink(), "no test table among train.tsv"),
        (lambda f: (f / "train.tsv").write_text("words\tlabel\nx\t1\n"), "no column 'text'"),
        (lambda f: (f / "train.tsv").write_text("sentence\tlabel\nx\n"), "line 2, has no sentence or no label"),
        (lambda f: (f / "train.tsv").write_bytes(b"sentence\tlabel\n\xff\t1\n"), "is not UTF-8 text"),
        (lambda f: (f / "train.tsv").write_text("sentence\tlabel\n"), "no sentences"),
    ],
)
def test_bad_tables_are_one_sentence(folder, change, sentence):
    change(folder)
    with pytest.raises(InputError, match=sentence):
        Text().ddcore_data("text", str(folder), {})


def test_broken_lines_are_listed_at_once_and_can_be_left_out(folder):
    (folder / "train.tsv").write_text("sentence\tlabel\nfine\t1\nx\nbad\t0\ny\nz\t\n")
    with pytest.raises(InputError, match="lines 3, 5, have no sentence or no label.*--skip-broken"):
        Text().ddcore_data("text", str(folder), {})
    source = Text().ddcore_data("text", str(folder), {"skip_broken": True})
    assert len(source.train) == 2 and "2 left out as broken (--skip-broken): train.tsv, lines 3, 5" in source.notes[2]
    assert source.notes[1].startswith("1 of 5 labels are missing")


def test_parts_are_told_by_a_word_in_any_case_and_leftovers_are_left_alone(folder):
    for old, new in (("train", "SST2_Train"), ("dev", "sst2-Dev")):
        (folder / f"{old}.tsv").rename(folder / f"{new}.TSV")
    (folder / "._train.tsv").write_bytes(b"\0\5\x16\7")
    source = Text().ddcore_data("text", str(folder), {})
    assert (len(source.train), len(source.test), source.notes) == (4, 2, ("tested on sst2-Dev.TSV",))
    assert Text().recognises(Place.at(folder)) == "text" and Text().recognises(Place.at(folder / "x.csv")) is None
    (folder / "other_train.tsv").write_text(LINES)
    with pytest.raises(InputError, match="several train tables, SST2_Train.TSV, other_train.tsv.* --split TRAIN:TEST"):
        Text().ddcore_data("text", str(folder), {})


def test_labels_are_numbered_by_sorted_name_and_numbers_compared_as_numbers(folder):
    (folder / "train.tsv").write_text("sentence\tlabel\na\t10\nb\t9.0\nc\t9\nd\t10.0\n")
    (folder / "dev.tsv").write_text("sentence\tlabel\na\t9\n")
    source = Text().ddcore_data("text", str(folder), {})
    assert source.classes == ("9", "10") and source.train.labels.tolist() == [1, 0, 0, 1]
    assert source.test.labels.tolist() == [0]


def test_missing_labels_are_left_out_and_counted(folder):
    words = ["yes", "nan", "NaN", "no", "NA", "N/A", "None", "", "no"]
    lines = "".join(f"w{at} w\t{word}\n" for at, word in enumerate(words))
    (folder / "train.tsv").write_text("sentence\tlabel\n" + lines)
    (folder / "dev.tsv").write_text("sentence\tlabel\nx\tyes\ny\tnan\n")
    source = Text(least=1).ddcore_data("text", str(folder), {})
    assert source.classes == ("no", "yes") and source.train.labels.tolist() == [1, 0, 0]
    assert (len(source.train.stored), len(source.test)) == (3, 1)
    assert any(note.startswith("7 of 11 labels are missing") for note in source.notes)


@pytest.mark.parametrize("column", ["label\nx\t-1\ny\t-1\n", "label\nx\tnan\ny\t\n", "index\nx\t1\n"])
def test_a_test_table_without_labels_beside_one_with_says_which_to_take(folder, column):
    (folder / "dev.tsv").rename(folder / "validation.tsv")
    (folder / "test.tsv").write_text("sentence\t" + column)
    with pytest.raises(InputError, match="test.tsv .*: give --split train:validation"):
        Text().ddcore_data("text", str(folder), {})
    assert len(Text().ddcore_data("text", str(folder), {"split": "train:validation"}).test) == 2
    (folder / "validation.tsv").unlink()
    with pytest.raises(InputError, match="test.tsv .*: add its labels"):
        Text().ddcore_data("text", str(folder), {})


def test_parts_may_be_named(folder):
    source = Text().ddcore_data("text", str(folder), {"split": "dev:train"})
    assert (len(source.train), len(source.test)) == (2, 4)


def test_heads_have_to_divide_the_width():
    with pytest.raises(InputError, match="10, which 4 heads do not divide"):
        Text().ddcore_network("transformer1-w10", 9, 6, 2, torch.Generator(), (6,))


def test_text_is_not_for_students_of_images(tmp_path, capsys):
    code = invoke(["train", "--data=sentences", "--plugin=text", "--student=mlp", f"--out={tmp_path / 'o'}"])
    assert code == 2
    assert "network 'mlp' cannot take text" in capsys.readouterr().err


@pytest.mark.skipif(not SST2.is_dir(), reason="the real sentences are not here")
def test_real_sentences_are_read():
    source = Text().ddcore_data("text", str(SST2), {})
    assert (len(source.train), len(source.test)) == (60_614, 6_735)
    assert source.classes == ("0", "1")
    assert 5_000 < source.vocabulary < 20_000
