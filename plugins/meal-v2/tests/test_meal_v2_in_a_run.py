"""Tuning inside a training: neutral weights change nothing, every mode trains, stopped ones go on, teachers stay as they are."""

import json

import ddcore_meal_v2
import pytest
import torch

from ddcore.cli.app import invoke
from ddcore.kit.contract import check_plugin
from ddcore.storage.places import Place, load_tensors
from ddcore.testing import resume_to_end, stop_often
from ddcore.training.loop import rate_at
from ddcore.training.protocols import protocol

QUICK = [
    "--data=digits",
    "--per-class=5",
    "--student=convnet2-w4",
    "--protocol=meal-v2-3",
    "--eval-seeds=1",
    "--threads=1",
]
TEACHERS = ["--teacher=convnet1-w4", "--teacher=convnet1-w8", "--teachers.epochs=1", "--teachers.no-check"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(tmp_path, cache):
    def run(name, *words, code=0):
        out = tmp_path / name
        line = ["train", *QUICK, *TEACHERS, "--plugin=meal-v2", f"--cache={cache}", f"--out={out}", *words]
        assert invoke(line) == code
        return out

    return run


def weights(out, row="student"):
    return load_tensors(Place.at(out / "students" / f"{row}-0.safetensors"))


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_contract_is_kept():
    check_plugin("meal-v2")


def test_neutral_weights_are_the_plain_student_bit_for_bit(train):
    out = train("a", "--meal-v2.weight=0", "--meal-v2.label-weight=1")
    assert same(weights(out), weights(out, "plain"))
    rows = json.loads((out / "scores.json").read_text())["rows"]
    assert [row["set"] for row in rows] == ["teacher", "teacher", "student", "plain"]


@pytest.mark.parametrize("mode", ["joint", "reversed"])
def test_a_discriminator_moves_the_student_and_a_detached_one_does_not(train, mode, monkeypatch):
    class Alive(ddcore_meal_v2.Discriminator):
        """No ReLU begins where its gradient is 0, which two of a width of 2 do in one of a few draws."""

        def __init__(self, classes):
            super().__init__(classes)
            for layer in self.layers[::2]:
                torch.nn.init.ones_(layer.bias)
                layer.weight.data.abs_()

    monkeypatch.setattr(ddcore_meal_v2, "Discriminator", Alive)
    off = train("off", "--no-plain")
    one = train("a", "--no-plain", f"--meal-v2.discriminator={mode}")
    two = train("b", "--no-plain", "--meal-v2.discriminator=detached")
    assert not same(weights(off), weights(one))
    assert same(weights(off), weights(two))


def test_it_tunes_what_a_file_holds(train):
    begun = train("a", "--no-plain")
    file = begun / "students" / "student-0.safetensors"
    assert same(weights(train("b", "--protocol=meal-v2-0", f"--from={file}")), weights(begun))


def test_labels_of_views_answer_for_the_teachers_and_passes_may_be_in_mixed_precision(train):
    told = train("a", "--no-plain", "--labels=per-view", "--views.epochs=1", "--protocol=sre2l-cifar-1")
    mixed = train("b", "--no-plain", "--amp", "--meal-v2.discriminator=joint")
    assert all(torch.isfinite(tensor).all() for out in (told, mixed) for tensor in weights(out).values())


def test_a_stopped_student_keeps_its_discriminator(train, monkeypatch):
    words = ["--no-plain", "--meal-v2.discriminator=joint", "--meal-v2.discriminator-rate=0.01"]
    whole = train("whole", *words)
    stop_often(monkeypatch)
    cut = train("cut", *words, code=3)
    assert resume_to_end(cut) == 0
    assert same(weights(whole), weights(cut))


def test_its_protocol_has_no_decay_and_drops_after_a_hundred_of_its_epochs():
    recipe = protocol("meal-v2")
    assert (recipe.rate, recipe.momentum, recipe.weight_decay, recipe.epochs_run) == (0.01, 0.9, 0, 180)
    schedule = recipe.schedule(640)
    rates = [
        rate_at(step, recipe.rate, schedule.steps, schedule="steps", drops=schedule.drops)
        for step in (0, 999, 1000, 1799)
    ]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])
