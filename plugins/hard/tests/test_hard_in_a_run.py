"""Learned changes inside a training: neutral weights change nothing, students differ, stopped ones go on, seeds repeat."""

import json

import pytest
import torch

from ddcore.cli.app import invoke
from ddcore.kit.contract import check_plugin
from ddcore.storage.places import Place, load_tensors
from ddcore.testing import resume_to_end, stop_often

QUICK = ["--data=digits", "--per-class=5", "--student=convnet2-w4", "--protocol=kd-6", "--eval-seeds=1", "--threads=1"]
TEACHER = ["--teacher=convnet1-w4", "--teachers.epochs=1", "--teachers.no-check", "--plugin=hard"]
EAGER = ["--hard.every=1", "--hard.warmup=0"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(tmp_path, cache):
    def run(name, *words, code=0):
        out = tmp_path / name
        assert invoke(["train", *QUICK, *TEACHER, f"--cache={cache}", f"--out={out}", *words]) == code
        return out

    return run


def weights(out, row="student"):
    return load_tensors(Place.at(out / "students" / f"{row}-0.safetensors"))


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_contract_is_kept():
    check_plugin("hard")


def test_neutral_weights_are_the_plain_student_bit_for_bit(train):
    out = train("a", "--hard.weight=0", "--hard.hard-share=0")
    assert same(weights(out), weights(out, "plain"))


@pytest.mark.parametrize("legitimacy", ["penalty", "consistency", "gate"])
def test_every_form_trains_and_a_seed_repeats_it(train, legitimacy):
    words = [
        "--no-plain",
        *EAGER,
        f"--hard.legitimacy={legitimacy}",
        "--hard.tau=0.1",
        "--hard.changes=affine_flow_colour",
    ]
    out = train("a", *words)
    assert same(weights(out), weights(train("b", *words)))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["event"] == "hard"]
    assert [line["step"] for line in lines] == list(range(6))
    assert lines[0]["edit"] == 0 and all(line["edit"] > 1e-4 for line in lines[1:])
    assert not same(weights(out), weights(train("c", "--no-plain", "--hard.hard-share=0")))


def test_batch_norms_whitened_data_and_mixed_precision_go_along(train):
    white = train("a", "--no-plain", *EAGER, "--student=resnet8", "--protocol=kd-2", "--normalise=zca")
    mixed = train("b", "--no-plain", *EAGER, "--student=convnet1-bn-w4", "--protocol=kd-2", "--amp")
    assert all(torch.isfinite(tensor).all() for out in (white, mixed) for tensor in weights(out).values())


def test_a_stopped_student_keeps_its_augmentor(train, monkeypatch):
    words = ["--no-plain", *EAGER, "--hard.rate=0.01"]
    whole = train("whole", *words)
    stop_often(monkeypatch)
    cut = train("cut", *words, code=3)
    assert resume_to_end(cut) == 0
    assert same(weights(whole), weights(cut))
