"""Images without classes: pictures in a folder, and other data whose labels are left out."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ddcore import InputError
from ddcore.cli.app import invoke
from ddcore.data.sources import open_source


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{number:02}.png")
    return tmp_path


def test_pictures_in_a_folder_are_of_one_class_nine_in_ten_for_training(pictures):
    source = open_source(f"unlabelled:{pictures}")
    assert (len(source.train), len(source.test), source.classes) == (18, 2, ("unlabelled",))
    assert not source.labelled and source.summary()["labelled"] is False
    both = torch.cat([source.train.stored, source.test.stored])
    files = torch.stack(
        [torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1) for f in sorted(pictures.iterdir())]
    )
    assert sorted(row.flatten().tolist() for row in both) == sorted(row.flatten().tolist() for row in files)
    assert len(open_source(f"unlabelled:{pictures}", split="0.5").train) == 10


def test_a_broken_picture_is_named_or_left_out(pictures):
    (pictures / "03.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"03\.png"):
        open_source(f"unlabelled:{pictures}")
    source = open_source(f"unlabelled:{pictures}", skip_broken=True)
    assert len(source.train) + len(source.test) == 19 and source.broken[0][0] == "03.png"


def test_labels_of_other_data_are_left_out_and_nothing_else():
    whole, source = open_source("digits"), open_source("unlabelled:digits")
    assert torch.equal(source.train.stored, whole.train.stored) and int(source.train.labels.max()) == 0
    assert (source.name, source.counts(), source.fingerprint == whole.fingerprint) == (
        "unlabelled-digits",
        [1437],
        False,
    )


def test_class_folders_are_read_as_they_are_elsewhere(pictures):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (pictures / part / name).mkdir(parents=True)
            for number in range(2):
                shutil.copy(pictures / f"{number:02}.png", pictures / part / name)
    for file in pictures.glob("*.png"):
        file.unlink()
    source = open_source(f"unlabelled:{pictures}")
    assert (len(source.train), len(source.test), source.labelled) == (4, 4, False)


@pytest.mark.parametrize(
    ("name", "said"), [("unlabelled", "needs data after its colon"), ("unlabelled:nowhere", "nowhere")]
)
def test_nothing_there_is_one_sentence(name, said):
    with pytest.raises(InputError, match=said):
        open_source(name)


def test_who_learns_from_classes_is_refused_by_name(probes, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert invoke(["run", "--plugin", "pull", "--dataset", "unlabelled:digits", "--out", out]) == 2
    assert "learns from classes, and 'unlabelled:digits' has none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_student_of_classes_has_none_to_learn(tmp_path, capsys):
    words = ["train", "--data", "unlabelled:digits", "--student", "mlp", "--out", str(tmp_path / "out")]
    assert invoke(words) == 2
    assert "has none" in capsys.readouterr().err
