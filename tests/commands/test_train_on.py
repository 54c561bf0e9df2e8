"""``ddcore train --on``: students see other images than the task's, and are tested on the task's."""

import json

import numpy as np
import pytest
import torch

from ddcore.cli.app import invoke
from ddcore.commands.train import data_for
from ddcore.runs.opening import open_run

pytestmark = pytest.mark.usefixtures("probes")
QUICK = ["train", "--data=digits", "--student=convnet2-w4", "--protocol=stepwise-2", "--eval-seeds=1", "--threads=1"]
TEACHER = ["--teacher=convnet2-bn-w4", "--teachers.epochs=1", "--teachers.no-check"]


def written(tmp_path, channels=1):
    drawn = np.random.default_rng(0)
    shape = (30, 12, 12) if channels == 1 else (30, 12, 12, channels)
    images, labels = drawn.integers(0, 255, shape, dtype=np.uint8), np.arange(30) % 3
    np.savez(tmp_path / "web.npz", x_train=images, y_train=labels, x_test=images[:6], y_test=labels[:6])
    return f"--on=npz:{tmp_path / 'web.npz'}"


def scores(out):
    found = json.loads((out / "scores.json").read_text())
    return {row["set"]: row for row in found["rows"]}, found


def test_students_see_the_other_images_at_the_tasks_size_and_no_labels(tmp_path):
    on, out = written(tmp_path), tmp_path / "a"
    words = ["--plugin=heed", "--heed.label-weight=0", *TEACHER, on, f"--cache={tmp_path / 'cache'}", f"--out={out}"]
    assert invoke([*QUICK, *words]) == 0
    rows, found = scores(out)
    assert set(rows) == {"teacher", "student"}
    assert (rows["student"]["images"], rows["student"]["steps"], rows["student"]["labels"]) == (30, 2, "none")
    assert rows["student"]["bytes"] == {"images": 30 * 64, "labels": 0, "models": 0, "total": 30 * 64}
    assert found["dataset"]["name"] == "digits" and found["on"]["train"] == 30
    data = data_for(open_run(str(out)), "student", 0)
    assert data.images.inputs(torch.arange(3)).shape == (3, 1, 8, 8)
    assert data.images.labels.unique().tolist() == [0]


def test_teachers_may_label_them(tmp_path):
    on, out = written(tmp_path), tmp_path / "a"
    words = ["--plugin=heed", "--labels=averaged", *TEACHER, on, f"--cache={tmp_path / 'cache'}", f"--out={out}"]
    assert invoke([*QUICK, *words]) == 0
    rows, _ = scores(out)
    assert set(rows) == {"teacher", "student", "plain"}
    assert rows["plain"]["labels"] == "averaged"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plugin=heed", *TEACHER], "and students would learn them"),
        (["--plugin=heed", "--heed.label-weight=0", *TEACHER, "--per-class=5"], "leave out --per-class"),
    ],
)
def test_labels_of_another_task_are_refused(tmp_path, capsys, words, said):
    assert invoke([*QUICK, *words, written(tmp_path), f"--out={tmp_path / 'a'}"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_other_channels_are_refused(tmp_path, capsys):
    words = ["--plugin=heed", "--heed.label-weight=0", *TEACHER, written(tmp_path, 3), f"--out={tmp_path / 'a'}"]
    assert invoke([*QUICK, *words]) == 2
    assert "holds images of 3 channels, and 'digits' images of 1" in capsys.readouterr().err
