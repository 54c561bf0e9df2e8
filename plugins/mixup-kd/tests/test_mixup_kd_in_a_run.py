"""Partial mixup inside a training: neutral options change nothing, students differ, mixes of others are refused."""

import json

import pytest
import torch

from ddcore.cli.app import invoke
from ddcore.kit.contract import check_plugin
from ddcore.storage.places import Place, load_tensors

QUICK = ["--data=digits", "--per-class=5", "--student=convnet2-w4", "--protocol=kd-3", "--eval-seeds=1", "--threads=1"]
TEACHER = ["--teacher=convnet1-w4", "--teachers.epochs=1", "--teachers.no-check", "--plugin=mixup-kd"]
NEUTRAL = [
    "--mixup-kd.mixed-fraction=0",
    "--mixup-kd.weight=0",
    "--mixup-kd.hard-weight=0",
    "--mixup-kd.label-weight=1",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(tmp_path, cache):
    def run(name, *words):
        out = tmp_path / name
        assert invoke(["train", *QUICK, *TEACHER, f"--cache={cache}", f"--out={out}", *words]) == 0
        rows = {row["set"]: row for row in json.loads((out / "scores.json").read_text())["rows"]}
        return rows, load_tensors(Place.at(out / "students" / "student-0.safetensors")), out

    return run


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_contract_is_kept():
    check_plugin("mixup-kd")


def test_neutral_options_are_the_plain_student_bit_for_bit(train):
    _, student, out = train("a", *NEUTRAL)
    assert same(student, load_tensors(Place.at(out / "students" / "plain-0.safetensors")))


def test_students_learn_from_mixed_batches_and_the_same_seed_repeats_them(train):
    rows, student, _ = train("a")
    assert list(rows) == ["teacher", "student", "plain"]
    assert same(student, train("b")[1])
    assert not same(student, train("c", "--mixup-kd.mixed-fraction=1")[1])
    assert not same(student, train("d", "--mixup-kd.mixed-fraction=0")[1])


def test_soft_labels_are_mixed_too(train):
    rows, _, _ = train("a", "--labels=averaged", "--mixup-kd.mixed-fraction=1", "--mixup-kd.label-weight=1")
    assert 0 <= rows["student"]["accuracy"]["mean"] <= 1


def test_a_protocol_that_mixes_is_refused(tmp_path, cache, capsys):
    words = [*QUICK, *TEACHER, f"--cache={cache}", f"--out={tmp_path / 'a'}", "--protocol=infer-1"]
    assert invoke(["train", *words]) == 2
    assert "choose a --protocol without mixes, such as kd" in capsys.readouterr().err
