"""Stores in runs: teachers are asked once, students learn from them, artifacts give them back."""

import json

import pytest
import torch
from ddcore_ferkd import CropLabels

import ddcore.commands.train
from ddcore import load_artifact
from ddcore.cli.app import invoke
from ddcore.kit.contract import check_plugin, stage
from ddcore.storage.places import Place, load_tensors

TRAIN = ["train", "--plugin=ferkd", "--labels=ferkd", "--data=digits", "--student=convnet2-w4", "--protocol=kd-3"]
TRAIN += ["--per-class=5", "--eval-seeds=1", "--threads=1", "--teacher=convnet1-bn-w4", "--teachers.epochs=1"]
TRAIN += ["--teachers.no-check", "--ferkd.crops=6"]
LOOSE = ["--ferkd.low=0.11", "--ferkd.middle=0.13", "--ferkd.high=0.9"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def student(cache, out, *words):
    assert invoke([*TRAIN, f"--cache={cache}", f"--out={out}", *words]) == 0
    return load_tensors(Place.at(out / "students" / "student-0.safetensors"))


def test_the_contract_is_kept():
    check_plugin("ferkd")


def test_students_learn_from_a_store_and_the_regions_are_logged(cache, tmp_path):
    one = student(cache, tmp_path / "a", *LOOSE)
    two = student(cache, tmp_path / "b", *LOOSE)
    fkd = student(cache, tmp_path / "c", "--ferkd.no-calibrate", "--ferkd.mix=self-box", "--ferkd.together=2")
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert any(not torch.equal(tensor, fkd[name]) for name, tensor in one.items())
    logged = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    shares = next(line for line in logged if line["event"] == "ferkd")
    assert sum(shares[name] for name in ("low", "hard", "important", "high")) == pytest.approx(1)
    (row,) = [r for r in json.loads((tmp_path / "a" / "scores.json").read_text())["rows"] if r["set"] == "student"]
    assert row["labels"] == "ferkd" and row["bytes"]["labels"] == shares["bytes"]


def test_check_no_teacher_is_asked_while_a_student_trains(cache, tmp_path, monkeypatch):
    asked, during = [], []
    plain = ddcore.commands.train.train_and_test

    def watched(run, *given, **named):
        handles = [
            run.teachers.network(n).register_forward_hook(lambda *_: asked.append(1)) for n in range(len(run.teachers))
        ]
        before = len(asked)
        found = plain(run, *given, **named)
        during.append(len(asked) - before)
        for handle in handles:
            handle.remove()
        return found

    monkeypatch.setattr(ddcore.commands.train, "train_and_test", watched)
    student(cache, tmp_path / "a", "--ferkd.no-calibrate")
    assert during == [0]


def test_thresholds_out_of_order_are_one_sentence(cache, tmp_path, capsys):
    words = [f"--cache={cache}", f"--out={tmp_path / 'a'}", "--ferkd.low=0.9"]
    assert invoke([*TRAIN, *words]) == 2
    assert "give low <= middle <= high" in capsys.readouterr().err


def test_a_finished_set_keeps_its_store_and_takes_another(cache, tmp_path):
    probe = tmp_path / "probe.py"
    probe.write_text((stage.HERE / "probe.py").read_text())
    out, teachers = (
        tmp_path / "set",
        ["--teachers.networks=convnet1-bn-w4", "--teachers.epochs=1", "--teachers.no-check"],
    )
    words = ["--plugin-path", str(probe), "--plugin=ferkd", "--labels=ferkd", "--ferkd.no-calibrate", *teachers]
    words += [
        "--ipc=1",
        "--steps=1",
        "--network=convnet2-w4",
        "--protocol=quick-3",
        "--eval-seeds=1",
        "--full-epochs=1",
    ]
    words += ["--threads=1", "--preset=none", "--init=real", "--ferkd.crops=4", f"--cache={cache}", f"--out={out}"]
    assert invoke(["run", *words]) == 0
    made = load_artifact(out / "artifact")
    assert isinstance(made.labels, CropLabels) and made.labels.crops == 4
    images, targets = next(iter(made.loader(batch_size=4)))
    assert images.shape == (4, 1, 8, 8)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    relabel = ["relabel", str(out / "artifact"), "--plugin=ferkd", "--labels=ferkd", "--ferkd.crops=5", *teachers]
    relabel += ["--ferkd.no-calibrate", "--ferkd.compression=hard", f"--cache={cache}", f"--out={tmp_path / 'other'}"]
    assert invoke([*relabel, "--threads=1", "--protocol=quick-3"]) == 0
    other = load_artifact(tmp_path / "other")
    assert other.labels.crops == 5 and other.labels.values is None and torch.equal(other.images(), made.images())
