"""Whole sets of pictures: read alike by every reader, equal ones refused, what was done to them said."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.data.source import constant_classes
from ddcore.data.sources import open_source
from ddcore.errors import InputError
from ddcore.runs.assembly import begin
from ddcore.runs.opening import open_run
from ddcore.storage.places import Place

CASE = Path(__file__).resolve().parents[3] / "shared" / "cases" / "constant-images"
NAMES = [(part, cls, n) for part in ("train", "test") for cls in ("cat", "dog") for n in range(3)]


@pytest.fixture
def ddcore(capsys, probes):
    """The command line: exit code, what it printed, what it complained of."""

    def run(*words):
        code = invoke([str(word) for word in words])
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


def low(cls, n):
    """16-bit grey of 0 to 255: Pillow's upper byte of it is black."""
    generator = np.random.Generator(np.random.PCG64(n + ord(cls[0])))
    return Image.fromarray(generator.integers(0, 256, (8, 8), np.uint16))


def alpha(cls, n):
    """A black shape on nothing."""
    array = np.zeros((8, 8, 4), np.uint8)
    array[1 + n :, 2:6] = (0, 0, 0, 255)
    return Image.fromarray(array if cls == "cat" else array[::-1].copy())


def white(cls, n):
    """A white shape on nothing."""
    array = np.asarray(alpha(cls, n)).copy()
    array[..., :3] = 255
    return Image.fromarray(array)


def write(root, picture):
    for part, cls, n in NAMES:
        (root / part / cls).mkdir(parents=True, exist_ok=True)
        picture(cls, n).save(root / part / cls / f"{n}.png")
    return f"folder:{root}"


def encoded(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def as_parquet(root, picture):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for part in ("train", "test"):
        rows = [(cls, n) for p, cls, n in NAMES if p == part]
        image = pa.array([{"bytes": encoded(picture(*row)), "path": None} for row in rows])
        file = io.BytesIO()
        pq.write_table(pa.table({"image": image, "label": [int(cls == "dog") for cls, _ in rows]}), file)
        Place.at(root / f"{part}.parquet").write_bytes(file.getvalue())
    return f"parquet:{root}"


@pytest.mark.parametrize("picture", [low, alpha, white])
def test_sets_that_were_black_or_white_are_neither(tmp_path, picture):
    source = open_source(write(tmp_path, picture))
    mean, std = source.statistics
    assert 0.2 < mean[0] < 0.8 and std[0] > 0.2


@pytest.mark.skipif(not CASE.is_dir(), reason="the shared cases are not beside this repository")
@pytest.mark.parametrize("name", ["low16", "alpha"])
def test_the_case_of_constant_images(name, ddcore):
    code, out, _ = ddcore("data", "show", f"folder:{CASE / name}", "--json")
    assert code == 0 and '"mean"' in out
    source = open_source(f"folder:{CASE / name}")
    assert source.statistics[0][0] > 0.3 and source.statistics[1][0] > 0.1


@pytest.mark.parametrize("picture", [low, alpha, white])
def test_folders_and_parquet_files_read_the_same(tmp_path, picture):
    folder, parquet = open_source(write(tmp_path / "a", picture)), open_source(as_parquet(tmp_path / "b", picture))
    assert torch.equal(folder.train.stored, parquet.train.stored) and folder.notes == parquet.notes


def test_arrays_and_pictures_of_sixteen_bits_read_the_same(tmp_path):
    images = {p: np.stack([np.asarray(low(c, n)) * 9 for part, c, n in NAMES if part == p]) for p in ("train", "test")}
    labels = np.array([0, 0, 0, 1, 1, 1])
    np.savez(tmp_path / "x.npz", x_train=images["train"], y_train=labels, x_test=images["test"], y_test=labels)
    arrays = open_source(f"npz:{tmp_path}/x.npz")
    folder = open_source(write(tmp_path / "x", lambda c, n: Image.fromarray(np.asarray(low(c, n)) * 9)))
    assert torch.equal(arrays.train.stored, folder.train.stored) and arrays.train.stored.max() == 1
    assert any("the largest value of the train images" in note for note in arrays.notes)


def test_train_images_that_are_all_equal_are_refused_by_every_command(tmp_path, ddcore):
    data = write(tmp_path / "same", lambda cls, n: Image.new("L", (8, 8), 7))
    for words in (
        ("data", "show", data),
        ("run", "--plugin", "pull", "--dataset", data, "--steps", "1"),
        ("train", "--student", "convnet", "--data", data),
    ):
        code, out, err = ddcore(*words)
        assert code == 2 and "all 6 train images of same are equal" in err + out and "Traceback" not in err


def test_what_makes_them_equal_is_said(tmp_path):
    empty = Image.new("RGBA", (8, 8), (1, 2, 3, 0))
    with pytest.raises(InputError, match=r"are equal.*put on white; 12 pictures wholly transparent: look at"):
        open_source(write(tmp_path, lambda cls, n: empty))


def test_a_class_of_equal_images_is_warned_of(tmp_path, ddcore):
    data = write(tmp_path / "x", lambda cls, n: Image.new("L", (8, 8), 7) if cls == "dog" else low(cls, n))
    assert constant_classes(open_source(data)) == ("dog",)
    code, out, err = ddcore("run", "--plugin", "pull", "--dataset", data, "--steps", "1", "--plan-only")
    assert code == 0 and "all train images of class dog are equal" in out + err


def test_a_resize_says_how_and_its_way_is_part_of_the_data(tmp_path):
    def wide(cls, n):
        return Image.fromarray(np.concatenate([np.asarray(low(cls, n).convert("I")).astype(np.uint8)] * 2, axis=1))

    data, found = write(tmp_path, wide), {}
    for mode in ("crop", "pad", "squash"):
        source = found[mode] = open_source(data, resize=8, resize_mode=mode)
        assert source.summary()["resize_mode"] == mode and any(f"({mode}: " in note for note in source.notes)
    assert len({source.fingerprint for source in found.values()}) == 3
    assert open_source(data, resize=8).fingerprint == found["crop"].fingerprint
    assert (found["pad"].train.stored[:, :, 0] == 0).all() and not (found["crop"].train.stored[:, :, 0] == 0).all()


def test_the_plan_and_the_record_say_what_was_done(tmp_path, ddcore):
    data, run = write(tmp_path / "x", alpha), tmp_path / "run"
    words = ["--plugin", "pull", "--dataset", data, "--resize", "4", "--resize-mode", "pad", "--mirror", "no"]
    code, out, err = ddcore("run", *words, "--plan-only")
    for line in (
        "mirror images change their class (as --mirror no says)",
        "data: 12 pictures with transparency put on white",
        "data: resized to 4x4 (pad: ",
    ):
        assert code == 0 and line in out + err, line
    begin(setup_of([*words, "--out", str(run)]), plan_only=False, command=[])
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["mirror_symmetric"] is False and record["data"]["resize_mode"] == "pad"
    assert (record["config"]["mirror"], record["config"]["resize_mode"]) == ("no", "pad")
    assert "12 pictures with transparency put on white" in record["data"]["notes"]


def test_a_run_of_before_goes_on_with_squashed_images_and_its_own_symmetry(tmp_path, probes):
    data = write(tmp_path / "x", lambda cls, n: low(cls, n).convert("RGB").resize((16, 8)))
    words = ["--plugin", "pull", "--dataset", data, "--resize", "8", "--resize-mode", "squash", "--mirror", "no"]
    begun = begin(setup_of([*words, "--out", str(tmp_path / "run")]), plan_only=False, command=[])
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text())
    for name in ("resize_mode", "mirror"):
        del record["config"][name]
    file.write_text(json.dumps(record))
    again = open_run(str(tmp_path / "run"), trust=True)
    assert again.source.fingerprint == begun.source.fingerprint and again.source.mirror_symmetric is False
    assert (again.config.resize_mode, again.config.mirror) == ("squash", "no")


def setup_of(words):
    given = {
        name.removeprefix("--").replace("-", "_"): word for name, word in zip(words[::2], words[1::2], strict=True)
    }
    del given["plugin"]
    return setup_from(select(words, {}), {**given, "resize": int(given["resize"])}, {})


def test_pictures_of_mixed_sizes_become_one_size(tmp_path):
    sizes = iter([(8, 8), (16, 8), (8, 24), (9, 7), (40, 8), (8, 9)] * 2)
    data = write(tmp_path, lambda cls, n: low(cls, n).convert("RGB").resize(next(sizes)))
    for mode in ("crop", "pad", "squash"):
        assert open_source(data, resize=8, resize_mode=mode).train.stored.shape == (6, 3, 8, 8)


def test_broken_pictures_of_sixteen_bits_are_named(tmp_path):
    data = write(tmp_path, low)
    file = tmp_path / "train/cat/1.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(InputError, match=r"train/cat/1.png cannot be decoded"):
        open_source(data)
