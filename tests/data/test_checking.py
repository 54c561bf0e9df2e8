"""``ddcore data check``: each finding in data that have just this, and none in data that have not."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddcore.cli.app import invoke
from ddcore.data.checking import NOTE, OK, WARNING, examine
from ddcore.data.repeats import near_images, repeats, warnings_about
from ddcore.data.source import Source, Split

CLASSES = ("ant", "bee")


def images(count, seed, size=16):
    shape = (count, 3, size, size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def smooth(count, seed):
    """Images of large spots of little colour, as photographs have them."""
    spots = images(count, seed, 4).float()
    spots = 0.8 * spots[:, :1] + 0.2 * spots
    return torch.nn.functional.interpolate(spots, size=16, mode="bilinear").round().to(torch.uint8)


def source_of(train=None, test=None, labels=None, tested=None, classes=CLASSES, **other):
    train, test = images(40, 0) if train is None else train, images(24, 1) if test is None else test
    labels = torch.arange(len(train)) % 2 if labels is None else torch.tensor(labels)
    tested = torch.arange(len(test)) % 2 if tested is None else torch.tensor(tested)
    return Source(name="x", train=Split(train, labels), test=Split(test, tested), classes=classes, **other)


def found(source, check, status=None):
    return [f for f in examine(source) if f.check == check and (status is None or f.status == status)]


def test_sound_data_have_no_warning_and_every_check_says_what_it_saw():
    findings = examine(source_of())
    assert {f.status for f in findings} == {OK}, [f.line for f in findings]
    due = ["sizes", "classes", "labels", "duplicates", "near duplicates", "constant images", "range", "mean and std"]
    assert {*due, "channels", "image size", "mirror symmetric"} == {f.check for f in findings}
    assert all("\n" not in f.line for f in findings)


def test_equal_images_within_train_are_counted():
    train = images(40, 0)
    train[7] = train[9] = train[3].clone()
    train[12] = train[4]
    source = source_of(train, labels=[at % 2 for at in range(40)][:12] + [0] + [at % 2 for at in range(13, 40)])
    got = repeats(source)
    assert [*got.groups] == [(3, 7, 9), (4, 12)] and got.within == 3 and not got.across and not got.conflicts
    (finding,) = found(source, "duplicates", NOTE)
    assert "3 of 40 train images (7.5%)" in finding.said and "train 3 = train 7 = train 9" in finding.said
    assert finding.numbers["within"] == 3 and not warnings_about(source)


def test_test_images_that_are_train_images_are_counted_and_runs_say_so():
    train, test = images(40, 0), images(24, 1)
    test[5], test[6] = train[11], train[1]
    source = source_of(train, test)
    assert [*repeats(source).across] == [(11, 5), (1, 6)] and [*repeats(source).crossed] == [(1, 6)]
    (finding,) = found(source, "duplicates", WARNING)
    assert "2 of 24 test images (8.3%) are train images too (test 5 = train 11, test 6 = train 1)" in finding.said
    assert warnings_about(source) == (f"{finding.said}: {finding.way_out}",)
    (conflict,) = found(source, "label conflicts")
    assert conflict.numbers == {"within": 0, "across": 1} and "train 1 = test 6" in conflict.said


def test_equal_images_with_two_labels_are_a_conflict():
    train = images(40, 0)
    train[8] = train[3]
    (conflict,) = found(source_of(train), "label conflicts")
    assert (
        conflict.status == WARNING
        and "1 equal images have another label than the first (train 3 = train 8)" in conflict.said
    )


def test_classes_that_are_not_tested_are_named_and_runs_say_so():
    source = source_of(labels=[at % 3 for at in range(40)], classes=("ant", "bee", "cow"))
    (finding,) = found(source, "classes", WARNING)
    assert "1 of 3 classes have no test images (cow)" in finding.said and finding.numbers == {"without_test": ["cow"]}
    assert warnings_about(source) == (f"{finding.said}: {finding.way_out}",)


@pytest.mark.parametrize(("first", "status"), [(20, None), (25, NOTE), (38, WARNING)])
def test_uneven_classes(first, status):
    source = source_of(labels=[0] * first + [1] * (40 - first))
    assert [f.status for f in found(source, "imbalance")] == ([status] if status else [])
    if status:
        assert f"'ant' has {first} train images and 'bee' {40 - first}" in found(source, "imbalance")[0].said


def test_images_of_one_colour_are_counted():
    train = images(40, 0)
    train[4], train[6, 0], train[6, 1:] = 9, 1, 2
    (finding,) = found(source_of(train), "constant images")
    assert finding.status == WARNING and "2 train and 0 test" in finding.said and "train 4, train 6" in finding.said


def test_images_that_were_stored_again_are_near_and_others_are_not():
    train, test = smooth(40, 0), smooth(24, 1)
    file = io.BytesIO()
    Image.fromarray(train[7].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=85)
    test[2] = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    train[30] = (train[12].int() + 2).clamp(max=255).to(torch.uint8)
    train[31] = train[13]
    source = source_of(train, test)
    assert near_images(source) == {"within": [(12, 30)], "across": [(7, 2)]}
    (finding,) = found(source, "near duplicates")
    assert finding.status == NOTE and "1 train and 1 test images" in finding.said and "test 2 ~ train 7" in finding.said


def test_images_that_were_scaled_twice_are_nearly_black():
    (finding,) = found(source_of(images(40, 0).float() / 255 / 255, images(24, 1).float() / 255), "range", WARNING)
    assert finding.said.startswith("train images are nearly black") and "scaled twice" in finding.way_out
    assert found(source_of(images(40, 0).float() / 255 / 255, images(24, 1).float() / 255), "mean and std", WARNING)


def test_grey_images_in_colour_and_sides_that_are_unusual():
    grey = source_of(images(40, 0)[:, :1].repeat(1, 3, 1, 1), images(24, 1)[:, :1].repeat(1, 3, 1, 1))
    assert found(grey, "channels", NOTE)
    assert found(source_of(images(40, 0, 10), images(24, 1, 10)), "image size", NOTE)


@pytest.mark.parametrize(
    ("classes", "what"),
    [
        (("nan", "x"), "stand for no label"),
        (("Cat", "cat "), "differ in capitals or space only"),
        (("train", "test"), "are names of parts"),
        ((".ipynb_checkpoints", "x"), "are hidden or left by a tool"),
    ],
)
def test_class_names_that_are_none(classes, what):
    (finding,) = found(source_of(classes=classes), "labels")
    assert finding.status == WARNING and what in finding.said


def test_few_test_images_of_a_class():
    assert "class 'bee' has 4 test images" in found(source_of(tested=[0] * 20 + [1] * 4), "sizes", NOTE)[0].said


def test_what_the_reader_changed_is_said():
    assert found(source_of(notes=("3 files were left out",)), "reader")[0].said == "3 files were left out"


# ---- other data than images -----------------------------------------------------------------------------------------


def table(values, modality="table"):
    return source_of(values, values[:24] + 0.5, modality=modality)


@pytest.mark.parametrize("modality", ["table", "features"])
def test_tables_are_shown_and_checked(modality):
    values = torch.rand(40, 5, generator=torch.Generator().manual_seed(0))
    values[3] = values[1]
    values[7, 2] = torch.nan
    values[:, 4] = 1
    source = table(values, modality)
    summary = source.summary()
    assert summary["shape"] == [5] and summary["mean"] == []
    lines = [f.line for f in examine(source)]
    assert any("1 of 40 train" in line and "train 1 = train 3" in line for line in lines)
    assert any("1 train rows hold NaN" in line for line in lines)
    assert any("1 of 5 features are the same in all train rows (columns 4)" in line for line in lines)


def test_samples_that_are_no_tensors_are_said_not_to_be_compared():
    source = source_of(modality="sounds")
    object.__setattr__(source.train, "stored", ["la"] * 40)
    assert found(source, "duplicates")[0].said.startswith("not looked for: x holds sounds")
    assert source.shape == ()
    object.__setattr__(source.train, "labels", torch.arange(40) % 2)
    assert warnings_about(source) == ()


def test_labels_and_scalars_of_any_shape_are_compared():
    scalars = torch.arange(40.0)
    scalars[5] = 3
    assert repeats(source_of(scalars, scalars[:24] + 100, modality="table")).within == 1


# ---- the command ----------------------------------------------------------------------------------------------------


def write_npz(path, source):
    arrays = {
        f"{x}_{part}": getattr(split, name).numpy()
        for part, split in source.parts.items()
        for x, name in (("x", "stored"), ("y", "labels"))
    }
    np.savez(path, **arrays)


def test_the_command_prints_lines_or_json_and_exits_0_with_findings_and_2_without_data(tmp_path, capsys):
    train, test = images(40, 0), images(24, 1)
    test[5] = train[11]
    write_npz(tmp_path / "x.npz", source_of(train, test))
    assert invoke(["data", "check", f"npz:{tmp_path}/x.npz"]) == 0
    out = capsys.readouterr().out
    assert "warning  duplicates" in out and "1 of 24 test images" in out
    assert invoke(["data", "check", f"npz:{tmp_path}/x.npz", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["data"]["train"] == 40
    (leak,) = [f for f in answer["findings"] if f["status"] == "warning"]
    assert leak["numbers"]["pairs"] == [[11, 5]] and leak["way_out"]
    assert invoke(["data", "check", f"npz:{tmp_path}/none.npz"]) == 2


PLUGIN = """
import torch
from attrs import frozen
from ddcore import Plugin, hookimpl
from ddcore.data import Source, Split


@frozen(kw_only=True, eq=False)
class Rows(Plugin):
    api = "2.0"
    summary = "rows of numbers"
    paper = "none"
    role = "data"
    modality = frozenset({"rows"})
    datasets = ("rows",)

    @hookimpl
    def ddcore_data(self, name, rest, options):
        if name != "rows":
            return None
        part = Split(torch.rand(6, 3), torch.arange(6) % 2)
        return Source(name="rows", train=part, test=part, classes=("a", "b"), modality="rows")
"""


@pytest.mark.parametrize("action", ["show", "check"])
def test_a_plugins_rows_of_numbers_are_shown_and_checked(tmp_path, capsys, action):
    (tmp_path / "rows.py").write_text(PLUGIN)
    words = ["data", action, "rows", f"--plugin-path={tmp_path}/rows.py"]
    assert invoke(words) == 0
    out = capsys.readouterr().out
    assert (
        "6 of 6 test rows (100.0%) are train rows too" in out if action == "check" else "modality           rows" in out
    )
    assert invoke([*words, "--json"]) == 0
    json.loads(capsys.readouterr().out)


def test_a_run_warns_of_what_scores_do_not_say(tmp_path, capsys, probes):
    train, test = images(40, 0, 8), images(24, 1, 8)
    test[5] = train[11]
    write_npz(tmp_path / "x.npz", source_of(train, test))
    words = [f"--out={tmp_path / 'r'}", "--student=mlp", "--eval-seeds=1", "--protocol=quick-1", "--no-plain"]
    assert invoke(["train", f"--data=npz:{tmp_path}/x.npz", *words]) == 0
    assert "1 of 24 test images (4.2%) are train images too" in capsys.readouterr().err
    scores = json.loads((tmp_path / "r/scores.json").read_text())
    assert any("are train images too" in warning for warning in scores["warnings"])
    plan = ["run", "--plugin=pull", f"--dataset=npz:{tmp_path}/x.npz", "--ipc=1", "--plan-only"]
    assert invoke(plan) == 0
    assert "1 of 24 test images (4.2%) are train images too" in capsys.readouterr().err
