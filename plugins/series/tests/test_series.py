"""Files of series become rows of one shape, networks take them, and methods run on them from labels to comparison."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from ddcore_series import Series
from ddcore_series.networks import NAMES, build, usual_depth
from ddcore_series.preview import heights, preview_png
from ddcore_series.sources import Shape, read, z_normalised
from ddcore_series.waves import waves
from PIL import Image
from torch.autograd import gradcheck

from ddcore import InputError, load_artifact
from ddcore.cli.app import invoke
from ddcore.data import Wanted
from ddcore.errors import OptionError
from ddcore.kit.contract import check_plugin
from ddcore.storage import Place

HEADER = "#made up\n@problemName waves\n@timeStamps false\n@missing false\n@univariate true\n@equalLength true\n"
TRAIN = HEADER + "@seriesLength 4\n@classLabel true up down\n@data\n0,1,2,3:up\n3,2,1,0:down\n1,2,3,4:up\n"
TEST = HEADER + "@seriesLength 4\n@classLabel true up down\n@data\n4,3,2,1:down\n2,3,4,5:up\n"
LOOSE = "@problemName waves\n@univariate {}\n@equalLength false\n@classLabel true up down\n@data\n"


def written(folder, train=TRAIN, test=TEST, name="waves", end=".ts"):
    folder.mkdir(exist_ok=True)
    for part, text in (("TRAIN", train), ("TEST", test)):
        if text is not None:
            (folder / f"{name}_{part}{end}").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "waves")


def source_at(path, split=None, **shape):
    return read(Wanted("ts", str(path), None, split), Shape(**shape))


def test_the_contract_is_kept():
    check_plugin("series")


@pytest.mark.parametrize("end", ["", "/waves", "/waves_TRAIN.ts", "/waves_TEST.ts"])
def test_a_pair_is_found_by_folder_prefix_and_either_file(folder, end):
    source = source_at(str(folder) + end)
    assert source.train.stored.tolist() == [[[0, 1, 2, 3]], [[3, 2, 1, 0]], [[1, 2, 3, 4]]]
    assert source.classes == ("down", "up") and source.train.labels.tolist() == [1, 0, 1]
    assert source.test.labels.tolist() == [0, 1] and source.test.stored.dtype == torch.float32
    assert (source.name, source.shape, source.dense, source.row_bytes, source.notes) == ("waves", (1, 4), True, 16, ())


@pytest.mark.parametrize(
    ("end", "train", "test"),
    [
        (".tsv", "1\t0\t1.5\n-1\t1\t0\n", "-1\t2e0\t0\n"),
        (".txt", "   1.0000000e+00  0  1.5\n  -1.0000000e+00  1  0\n", "-1.0  2  0\n"),
        (".txt", "1,0,1.5\n-1,1,0\n", "-1,2,0\n"),
    ],
)
def test_tables_have_the_label_first(tmp_path, end, train, test):
    source = source_at(written(tmp_path, train, test, end=end))
    assert source.classes == ("-1", "1") and source.train.labels.tolist() == [1, 0]
    assert source.train.stored.tolist() == [[[0, 1.5]], [[1, 0]]] and source.test.stored.tolist() == [[[2, 0]]]


def test_of_one_set_in_two_forms_ts_is_read_and_a_named_file_is_read_itself(folder):
    written(folder, "up\t9\t9\ndown\t8\t8\n", None, end=".tsv")
    assert source_at(folder).shape == (1, 4)
    assert source_at(folder / "waves_TRAIN.tsv").train.stored[:, 0, 0].tolist() == [9, 8]


def test_gaps_are_filled_in_between_and_at_the_ends_and_said(tmp_path):
    text = LOOSE.format("true") + "?,1,?,3:up\n0,NaN,?,6:down\n"
    source = source_at(written(tmp_path, text, text))
    assert source.train.stored.tolist() == [[[1, 1, 2, 3]], [[0, 2, 4, 6]]]
    assert source.notes == ("8 missing values are interpolated between their neighbours in time",)


UNEQUAL = LOOSE.format("false") + "0,1,2,3:0,2,4,6:up\n0,2:1,5:down\n"


@pytest.mark.parametrize(
    ("shape", "second", "words"),
    [
        ({}, [[0, 2, 2, 2], [1, 5, 5, 5]], "2 of 4 series, of 2 to 4 values, are filled up by their last value to 4"),
        ({"lengths": "resample", "length": 3}, [[0, 1, 2], [1, 3, 5]], "4 of 4 series.*resampled to 3"),
        ({"lengths": "cut"}, [[0, 2], [1, 5]], "2 of 4 series, of 2 to 4 values, are cut to 2"),
        ({"lengths": "cut", "length": 3}, [[0, 2, 2], [1, 5, 5]], r"cut to 3 \(shorter ones filled up"),
        ({"length": 3}, [[0, 2, 2], [1, 5, 5]], r"to 3 \(longer ones cut\)"),
    ],
)
def test_unequal_lengths_are_made_equal_and_said(tmp_path, shape, second, words):
    source = source_at(written(tmp_path, UNEQUAL, UNEQUAL), **shape)
    assert source.train.stored[1].tolist() == second
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(source.notes[0])


def test_what_fills_a_series_up_costs_nothing(tmp_path):
    # two channels of float32: the first series has 4 values, the second 2
    assert source_at(written(tmp_path, UNEQUAL, UNEQUAL)).row_bytes == 2 * 4 * 3


def test_a_table_whose_lines_end_early_has_series_of_unequal_length(tmp_path):
    source = source_at(written(tmp_path, "a\t1\t2\t3\nb\t4\t5\tNaN\n", "a\t1\t2\t3\n", end=".tsv"))
    assert source.train.stored[1].tolist() == [[4, 5, 5]] and source.row_bytes == 10


def test_z_normalisation_is_of_each_channel_of_each_series(folder):
    rows = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(0)) * 7 + 3
    done = z_normalised(rows)
    torch.testing.assert_close(done.mean(-1), torch.zeros(3, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(done.std(-1, unbiased=False), torch.ones(3, 2))
    torch.testing.assert_close(z_normalised(5 * rows - 2), done, atol=1e-4, rtol=1e-4)
    source = source_at(folder, z_normalise=True)
    torch.testing.assert_close(source.train.stored[0], source.train.stored[2])  # (0 1 2 3) and (1 2 3 4)
    assert "mean 0 and deviation 1" in source.notes[-1]


def test_time_stamps_are_dropped_colons_and_all(tmp_path):
    head = "@problemName t\n@timestamps true\n@univariate true\n@classLabel true 1 2\n@data\n"
    text = head + "(2007-01-01 00:00:00,2.5),(2007-01-01 00:01:00,?),(2007-01-01 00:02:00,3.5):1\n(0,1),(1,2),(2,3):2\n"
    source = source_at(written(tmp_path, text, text))
    assert source.train.stored.tolist() == [[[2.5, 3, 3.5]], [[1, 2, 3]]]
    assert "time stamps are dropped" in source.notes[0]


def test_series_without_a_class_are_left_out_and_a_class_without_series_too(tmp_path):
    text = TRAIN.replace("true up down", "true up down aside") + "7,7,7,7:?\n"
    source = source_at(written(tmp_path, text, TEST))
    assert len(source.train) == 3 and source.classes == ("down", "up")
    assert "1 of 6 labels are missing" in source.notes[0] and "left out: class aside" in source.notes[1]


def test_one_file_is_cut_by_its_share_in_each_class(tmp_path):
    rows = "".join(f"{n},{n},1,0:{'up' if n % 2 else 'down'}\n" for n in range(20))
    (tmp_path / "all.ts").write_text(TRAIN.partition("0,1")[0] + rows)
    source = source_at(tmp_path / "all.ts", "0.8")
    assert source.counts() == [8, 8] and source.counts(source.test) == [2, 2] and source.name == "all"
    whole = torch.cat([source.train.stored, source.test.stored])[:, 0, 0]
    assert sorted(whole.tolist()) == [*range(20)] and "cut by --split 0.8" in source.notes[0]
    again = source_at(tmp_path / "all.ts", "0.8")
    assert torch.equal(again.train.stored, source.train.stored)


def test_parts_may_be_named(folder):
    source = source_at(folder, "TEST:TRAIN")
    assert (len(source.train), len(source.test)) == (2, 3)


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ("", r"waves_TRAIN.ts is empty"),
        (" \n", r"is empty"),
        (TRAIN.partition("@data")[0], "has no line @data"),
        (TRAIN.partition("0,1")[0], "a header and no series"),
        (TRAIN.replace("@univariate true", "@univariate maybe"), "@univariate maybe: true or false"),
        (TRAIN.replace("@univariate true", "@univariate"), "line 5: tag @univariate has no value"),
        (TRAIN.replace("@univariate true", "univariate true"), "line 5, is no tag"),
        (TRAIN.replace("@seriesLength 4", "@seriesLength four"), "@seriesLength four|@serieslength four"),
        (TRAIN.replace("@seriesLength 4", "@seriesLength 5"), "line 10, has 4 values, and the header says .* 5"),
        (TRAIN.replace("@univariate true", "@dimensions 2"), "line 10, has 1 channels, .*@dimensions 2"),
        (TRAIN.replace("0,1,2,3:up", "0,1,2,3:1,2,3,4:up"), "has 2 channels, .*@univariate true"),
        (TRAIN.replace("@classLabel true up down", "@classLabel false"), "has no classes"),
        (TRAIN.replace("@classLabel true up down", "@classLabel yes up"), "@classLabel yes: true and the names"),
        (TRAIN.replace("@classLabel true up down", "@targetLabel true"), "numbers to predict"),
        (TRAIN.replace(":down", ":dwon"), "line 11, is of class 'dwon'.*did you mean 'down'"),
        (TRAIN.replace(":down", ""), "line 11, has no colon"),
        (TRAIN.replace("3,2,1,0", "3,two,1,0"), "line 11, has 'two' where a number is due"),
        (TRAIN.replace("3,2,1,0", "3,inf,1,0"), "line 11, has 'inf', which is not finite"),
        (TRAIN.replace("3,2,1,0", "3,1e39,1,0"), "line 11, has '1e39', which is not finite"),
        (TRAIN.replace("3,2,1,0", "?,?,?,?"), "train series 1, has no value in channel 0"),
        (TRAIN.replace("3,2,1,0:down\n", ""), "no train series of class down"),
        (TRAIN.replace(":up", ":?").replace(":down", ":?"), "no train series of waves has a class"),
        (TRAIN.encode().replace(b"up", b"\xff\xfe"), "label that is not UTF-8|lacks"),
        (TRAIN.replace("@timeStamps false", "@timeStamps true"), "is not of pairs"),
        (LOOSE.format("false") + "1,2:3,4:up\n1,2:down\n", "series of 1 and of 2 channels"),
        (LOOSE.format("false") + "1,2:3,4:up\n1,2:3,4:down\n", "2 channels in train series and 1 in test"),
        (LOOSE.format("true") + "1,2:up\n?,?:down\n", "line 7, has a class and no values"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, train, sentence):
    with pytest.raises(InputError, match=sentence) as refused:
        source_at(written(tmp_path / "waves", train))
    assert "\n" not in str(refused.value)


def test_places_without_a_pair_are_one_sentence(folder, tmp_path):
    (folder / "waves_TEST.ts").unlink()
    with pytest.raises(InputError, match="has waves_TRAIN.ts and no TEST file"):
        source_at(folder)
    with pytest.raises(InputError, match="one file without its twin|no TEST file"):
        source_at(folder / "waves_TRAIN.ts")
    written(folder)
    with pytest.raises(OptionError, match="--split 0.8 cuts one file"):
        source_at(folder, "0.8")
    written(folder, name="more")
    with pytest.raises(InputError, match="holds 2 sets, more, waves: say which, ts:.*/more"):
        source_at(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no NAME_TRAIN.ts"):
        source_at(tmp_path / "empty")
    with pytest.raises(InputError, match="there is nothing at"):
        source_at(tmp_path / "nowhere")
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(InputError, match="is no .ts, .tsv or .txt file"):
        source_at(tmp_path / "x.csv")


def test_sets_inside_the_package_aeon_are_found_without_importing_it(tmp_path, monkeypatch, capsys):
    data = tmp_path / "aeon/datasets/data"
    data.mkdir(parents=True)
    (tmp_path / "aeon/__init__.py").write_text("raise ImportError('imported')")
    written(data / "Waves", name="Waves")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "aeon", raising=False)
    assert invoke(["data", "show", "aeon:Waves", "--plugin", "series"]) == 0
    assert invoke(["data", "check", "aeon:Waves", "--plugin", "series"]) == 0
    assert "3 train and 2 test series of 1 x 4" in capsys.readouterr().out
    assert invoke(["data", "show", "aeon:Wave", "--plugin", "series"]) == 2
    assert "aeon has no set of series 'Wave': did you mean 'Waves'?" in capsys.readouterr().err


def test_without_the_package_aeon_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'ddcore-series\[aeon\]'"):
        read(Wanted("aeon", "GunPoint"), Shape())


def test_the_real_sets_of_aeon_are_read():
    try:
        source = read(Wanted("aeon", "BasicMotions"), Shape())
    except InputError:
        pytest.skip("the package aeon is not installed")
    assert source.shape == (6, 100) and (len(source.train), len(source.test)) == (40, 40)
    assert source.classes == ("Badminton", "Running", "Standing", "Walking")
    assert read(Wanted("aeon", "JapaneseVowels"), Shape()).row_bytes == 760


def test_a_folder_of_series_is_recognised(folder, tmp_path, capsys):
    assert Series().recognises(Place.at(folder)) == "ts" == Series().recognises(Place.at(folder / "waves_TEST.ts"))
    tables = written(tmp_path / "t", "1\t0.5\t-1e-3\n", "1\t0\t0\n", end=".tsv")
    assert Series().recognises(Place.at(tables)) == "ts"
    (tmp_path / "code.ts").write_text("export const x = 1;\n")
    words = written(tmp_path / "w", "sentence\tlabel\na\t1\n", None, end=".tsv")
    assert Series().recognises(Place.at(tmp_path / "code.ts")) is None is Series().recognises(Place.at(words))
    assert invoke(["data", "show", str(folder), "--plugin", "series"]) == 0
    assert "1, 4" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*NAMES, "convnet1d2-bn-w8-k5", "convnet1d1-nonorm-w8", "inception-time2-w4"])
@pytest.mark.parametrize("shape", [(1, 24), (6, 100)])
def test_networks_take_series_and_embed_is_what_their_last_layer_sees(name, shape):
    torch.manual_seed(0)
    net = build(name, shape, 5)
    rows = torch.randn(4, *shape)
    logits = net(rows)
    assert logits.shape == (4, 5) and logits.isfinite().all()
    net.eval()
    torch.testing.assert_close(net.classifier(net.embed(rows)), net(rows))
    assert list(net.taps)[0] == "stage1" and all(net.get_submodule(path) for path in net.taps.values())
    assert all(p.grad is not None for p in net.parameters() if net(rows).sum().backward() is None)


def test_the_field_s_convnet_in_one_dimension_by_hand():
    # 16 values, halved twice: 4 of width 8, so 32 numbers; weights: 8 of 1x3 and bias, norm; 8 of 8x3 and bias, norm; 32 to 2
    net = build("convnet1d-w8", (1, 16), 2)
    assert net.classifier.in_features == 32
    assert sum(p.numel() for p in net.parameters()) == (24 + 8 + 16) + (192 + 8 + 16) + (64 + 2)
    rows = torch.randn(2, 1, 16)
    torch.testing.assert_close(net.embed(3 * rows[:1]), net.embed(torch.cat([3 * rows[:1], rows[1:]]))[:1])


def test_instance_norm_is_of_each_channel_alone():
    torch.manual_seed(0)
    net, rows = build("convnet1d-w8", (1, 64), 2).double(), torch.randn(2, 1, 64).double()
    before = net.embed(rows)
    with torch.no_grad():
        net.features[0][0].weight[3] *= 7
        net.features[0][0].bias[3] *= 7
    torch.testing.assert_close(net.embed(rows), before, atol=1e-3, rtol=1e-3)


def test_every_convolution_of_an_inception_module_keeps_the_length_and_the_gradient():
    torch.manual_seed(0)
    net = build("inception-time1-w2", (2, 12), 2).double().eval()
    assert net.features[0](torch.randn(1, 2, 12).double()).shape == (1, 8, 12)
    assert gradcheck(lambda x: build_logits(net, x), torch.randn(2, 2, 12, dtype=torch.float64, requires_grad=True))


def build_logits(net, rows):
    return net(rows).sum(0)


def test_shortcuts_stand_over_three_modules_and_depth_follows_length():
    assert [type(m).__name__ for m in build("inception-time5", (1, 50), 2).features] == [
        "Residual",
        "Stage",
        "AdaptiveAvgPool1d",
    ]
    assert [usual_depth(n) for n in (8, 32, 65, 10_000)] == [2, 2, 2, 7]


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("convnet1d9", (1, 24), "cannot take series of 24 values"),
        ("resnet1d-bn", (1, 24), "a resnet1d has no norm to choose"),
        ("convnet1d", (3, 8, 8), r"is of series \(C, L\)"),
    ],
)
def test_networks_that_cannot_be_are_one_sentence(name, shape, sentence):
    with pytest.raises(InputError, match=sentence):
        build(name, shape, 2)
    assert build("convnet", (1, 24), 2) is None


def test_computed_waves_are_the_same_each_time_and_told_apart_by_a_network():
    one, two = waves(), waves()
    assert one.fingerprint == two.fingerprint and one.shape == (1, 48) and one.counts() == [30, 30, 30]
    square = one.train.stored[1, 0]
    assert square.abs().sub(1).abs().mean() < 0.3


def test_a_picture_has_a_row_for_each_class_and_counts_what_does_not_fit():
    rows, classes = torch.arange(44.0).reshape(11, 1, 4), torch.tensor([0] * 10 + [2])
    names = ("first", "without series", "third")
    one = preview_png(rows, classes, names, "title")
    assert one == preview_png(rows, classes, names, "title")
    size = Image.open(io.BytesIO(one)).size
    taller = Image.open(io.BytesIO(preview_png(rows, torch.tensor([0] * 9 + [1, 2]), names, "title"))).size
    assert taller[1] - size[1] == 78 and size[0] > 8 * 160
    nine, ten = (preview_png(torch.tensor([[[0.0, 1.0]]] * n), torch.zeros(n).long(), ("a", "b"), "") for n in (9, 10))
    assert nine != ten  # +1 more, +2 more
    assert heights(torch.full((2, 1, 3), 4.0)).unique().tolist() == [0.5]


def test_a_method_runs_on_series_from_labels_to_comparison(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    for part, count in (("TRAIN", 20), ("TEST", 12)):
        lines = []
        for n in range(count):
            wave = torch.sin(torch.arange(32) * (0.3 if n % 2 else 0.9)) + 0.1 * torch.randn(32, generator=generator)
            lines.append(",".join(f"{v:.4f}" for v in wave) + f":{'slow' if n % 2 else 'fast'}")
        head = "@problemName waves\n@univariate true\n@classLabel true slow fast\n@data\n"
        (tmp_path / f"waves_{part}.ts").write_text(head + "\n".join(lines) + "\n")
    data = ["--plugin", "series", "--dataset", f"ts:{tmp_path}/waves", "--cache", str(tmp_path / "c"), "--threads", "1"]
    few = ["--network", "convnet1d2-w8", "--protocol", "series-20", "--eval-seeds", "1", "--full-epochs", "5"]
    out, other = str(tmp_path / "dm"), str(tmp_path / "herding")
    assert invoke(["run", "--plugin", "dm", *data, *few, "--ipc", "2", "--steps", "3", "--out", out]) == 0
    pixels = ["--coresets.method", "herding", "--coresets.features", "pixels"]
    assert invoke(["run", "--plugin", "coresets", *pixels, *data, *few, "--ipc", "2", "--out", other]) == 0
    rows = {row["set"]: row for row in json.loads((tmp_path / "dm/scores.json").read_text())["rows"]}
    assert set(rows) == {"distilled", "random", "kcenter", "random-bytes", "full"}
    assert rows["random"]["bytes"]["images"] == 4 * 128 and rows["full"]["accuracy"]["mean"] > 0.9
    made = load_artifact(Path(out) / "artifact")
    assert made.images().shape == (4, 1, 32) and made.manifest["kind"] == "series"
    chosen = load_artifact(Path(other) / "artifact").pixels()
    source = source_at(tmp_path / "waves")
    assert all((source.train.stored - one).abs().amax((1, 2)).min() < 1e-5 for one in chosen)
    picture = preview_png(made.pixels(), made.labels.classes, made.classes, "waves: 4 series")
    assert (Path(out) / "artifact/preview.png").read_bytes() == picture
    assert invoke(["compare", out, other]) == 0
    assert (
        invoke(["evaluate", f"{out}/artifact", *data, *few[2:], "--eval-network", "resnet1d-w4", "--out", f"{out}2"])
        == 0
    )
    capsys.readouterr()


def test_what_is_of_images_is_refused_by_name(folder, tmp_path, capsys):
    data = ["run", "--plugin", "dm", "--plugin", "series", "--dataset", f"ts:{folder}", "--out", str(tmp_path / "no")]
    assert invoke([*data, "--plugin", "dsa"]) == 2
    assert "works on images, and" in capsys.readouterr().err
    assert invoke([*data, "--network", "convnet"]) == 2
    assert "is of square images" in capsys.readouterr().err
