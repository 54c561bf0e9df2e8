"""Distillation inside an evaluation: neutral weights change nothing, teachers stay as they are, every feature loss trains."""

import json

import pytest
import torch

from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.kit.contract import check_plugin
from ddcore.runs.run import Run
from ddcore.storage.places import Place
from ddcore.training.teachers import state_hash

TEACHERS = ["--teachers.networks=resnet8", "--teachers.epochs=2", "--teachers.no-check"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    from ddcore.kit.contract import stage

    place = tmp_path_factory.mktemp("probe") / "probe.py"
    place.write_text((stage.HERE / "probe.py").read_text())
    return str(place)


def rows(cache, probe, out, *words):
    quick = ["--ipc=2", "--steps=1", "--network=resnet8", "--protocol=quick-3", "--eval-seeds=1", "--full-epochs=1"]
    quick += ["--threads=1", "--preset=none", "--init=real", f"--cache={cache}", f"--out={out}"]
    assert invoke(["run", "--plugin-path", probe, *quick, *words]) == 0
    found = json.loads((out / "scores.json").read_text())["rows"]
    return {(row["set"], row["labels"]): row["accuracy"]["values"] for row in found}


def test_the_contract_is_kept():
    check_plugin("kd")


def test_check_without_weight_training_is_the_plain_one_bit_for_bit(cache, probe, tmp_path):
    plain = rows(cache, probe, tmp_path / "a")
    off = ["--plugin=kd", *TEACHERS, "--kd.weight=0", "--kd.label-weight=1"]
    assert rows(cache, probe, tmp_path / "b", *off) == plain
    assert rows(cache, probe, tmp_path / "c", "--plugin=kd", *TEACHERS) != plain


@pytest.mark.parametrize("feature", ["fitnet", "at", "at --kd.at-unpooled --kd.at-places=stage", "rkd"])
def test_every_feature_loss_trains_students(cache, probe, tmp_path, feature):
    words = ["--plugin=kd", *TEACHERS, *f"--kd.feature={feature}".split(), "--kd.feature-weight=0.1"]
    assert all(
        0 <= value <= 1 for values in rows(cache, probe, tmp_path / feature, *words).values() for value in values
    )


def test_check_no_teacher_gets_a_gradient_and_its_statistics_stay(cache, probe, tmp_path):
    words = ["--plugin-path", probe, "--plugin", "kd", "--preset", "none"]
    given = {"threads": 1, "ipc": 2, "steps": 1, "network": "resnet8", "init": "real", "cache": str(cache)}
    given |= {"teachers__networks": ("resnet8",), "teachers__epochs": 2, "teachers__check": False}
    given |= {"protocol": ("quick-3",), "eval_seeds": 1, "full_epochs": 1}
    from ddcore.runs.assembly import claim
    from ddcore.runs.distil import distil
    from ddcore.runs.record import write_record

    run = Run(setup_from(select(words, {}), given, {}), Place.at(tmp_path / "run"))
    claim(run.place)
    write_record(run, ["test"])
    before = state_hash(run.teachers.network(0))
    distil(run)
    teacher = run.teachers.network(0)
    assert state_hash(teacher) == before
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())


def test_full_data_rows_are_kept_under_their_teachers(probe, tmp_path):
    cache = tmp_path / "cache"
    longer = [*TEACHERS[:1], "--teachers.epochs=3", TEACHERS[2]]
    for number, words in enumerate((TEACHERS, longer, TEACHERS)):
        rows(cache, probe, tmp_path / str(number), "--plugin=kd", *words)
    assert len(list((cache / "full").iterdir())) == 2


def test_a_student_without_the_stages_is_told_so(cache, probe, tmp_path, capsys):
    words = [
        "--plugin-path",
        probe,
        "--plugin=kd",
        *TEACHERS,
        "--kd.feature=at",
        "--network=mlp",
        "--ipc=1",
        "--steps=1",
    ]
    assert (
        invoke(["run", *words, "--preset=none", "--protocol=quick-1", f"--cache={cache}", f"--out={tmp_path / 'o'}"])
        == 2
    )
    assert "has no module or tap 'stage*'" in capsys.readouterr().err


def test_grey_images_and_a_convnet_have_stages(cache):
    from ddcore.networks.zoo import build

    net = build("convnet3", 1, 28, 10, torch.Generator().manual_seed(0))
    assert [tap for tap in net.taps if tap.startswith("stage")] == ["stage1", "stage2", "stage3"]
    assert [tap for tap in net.taps if tap.startswith("unpooled")] == ["unpooled1", "unpooled2", "unpooled3"]


def test_a_finished_set_is_evaluated_with_teachers(cache, probe, tmp_path):
    plain = rows(cache, probe, tmp_path / "set")
    words = ["--plugin-path", probe, "--plugin=kd", *TEACHERS, f"--cache={cache}", "--eval-seeds=1", "--full-epochs=1"]
    out = ["--out", str(tmp_path / "scores"), "--protocol=quick-3", "--threads=1"]
    assert invoke(["evaluate", str(tmp_path / "set" / "artifact"), *words, *out]) == 0
    found = json.loads((tmp_path / "scores" / "scores.json").read_text())["rows"]
    taught = {(row["set"], row["labels"]): row["accuracy"]["values"] for row in found}
    assert list(taught) == list(plain)
    assert taught != plain
