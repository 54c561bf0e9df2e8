"""Frozen body: what is trained, what is told, and the contract."""

import json

import pytest
import torch
from frozen_body import FrozenBody

from ddcore import InputError
from ddcore.networks import build
from ddcore.storage import Place, save_tensors
from ddcore.testing import check_plugin


def student(seed):
    return build("convnet2-w4", 3, 8, 3, torch.Generator().manual_seed(seed))


@pytest.fixture
def body(tmp_path):
    save_tensors(Place.at(str(tmp_path / "body.safetensors")), dict(student(1).state_dict()), {})
    return str(tmp_path / "body.safetensors")


def test_the_body_is_the_file_s_and_only_the_last_layer_learns(body):
    network = FrozenBody(weights=body).ddcore_adapt_student(student(2))
    assert torch.equal(network.features[0].weight, student(1).features[0].weight)
    assert torch.equal(network.classifier.weight, student(2).classifier.weight)
    assert [n for n, p in network.named_parameters() if p.requires_grad] == ["classifier.weight", "classifier.bias"]
    with pytest.raises(InputError, match="give a file of such a student"):
        FrozenBody(weights=body).ddcore_adapt_student(build("mlp", 3, 8, 3, torch.Generator()))


def test_rows_tell_its_students_from_others(ddcore_cli, tmp_path, body):
    words = ["train", "--student", "convnet2-w4", "--data", "digits", "--per-class", "3", "--protocol", "quick-1"]
    words += ["--eval-seeds", "1", "--plugin", "frozen-body", "--out", tmp_path / "run", "--json"]
    done = ddcore_cli(*words)
    assert done.code == 0, done.err
    rows = {row["set"]: row for row in json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]}
    assert rows["student"]["student"].startswith("frozen-body #") and "student" not in rows["plain"]
    told = [FrozenBody(weights=where).student_identity(None) for where in ("", body)]
    assert told[0] != told[1] and body not in str(told)


def test_the_contract():
    check_plugin("frozen-body")
