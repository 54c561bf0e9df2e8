"""What ``tests/test_stand_in_device.py`` does on a device that is not there, on one that is: ``make cuda``."""

import json

import pytest
import torch
from on_devices import ALONE, HERE, KINDS, PROBE, SMALL, TRAINED, a_set, command, relabelled, told, trained, whole_run
from on_devices import words_of as words_on

from ddcore import devices
from ddcore.cli.app import invoke
from ddcore.randomness import drawing_from
from ddcore.testing import resume_to_end, stop_often

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.usefixtures("probes"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return a_set(tmp_path_factory.mktemp("finished"))


def check_like(there, here):
    """Tensors of the same names and shapes, all finite; rows of the same sets; accuracies that are ones."""
    assert {n: (t.shape, t.dtype) for n, t in there[0].items()} == {n: (t.shape, t.dtype) for n, t in here[0].items()}
    assert all(torch.isfinite(tensor).all() for tensor in there[0].values() if tensor.is_floating_point())
    assert [row[:3] for row in there[1]] == [row[:3] for row in here[1]]
    assert all(0 <= value <= 1 for *_, values in (row[:4] for row in there[1]) for value in values)


def both(tmp_path, make):
    return make(tmp_path / "there", "cuda"), make(tmp_path / "here", "cpu")


@pytest.mark.parametrize("name", ALONE)
def test_a_whole_run_of_every_plugin(name, tmp_path):
    check_like(*both(tmp_path, lambda folder, device: whole_run(name, folder, device)))


@pytest.mark.skipif(not {"fyi", "datm"} <= set(HERE), reason="ddcore-fyi and ddcore-datm are not installed")
def test_the_headline_run(tmp_path):
    check_like(
        *both(tmp_path, lambda folder, device: whole_run("datm", folder, device, "--plugin", "fyi", init="real"))
    )


@pytest.mark.parametrize("rule", KINDS)
def test_every_kind_of_labels(rule, finished, tmp_path):
    check_like(*both(tmp_path, relabelled(rule, finished)))


@pytest.mark.parametrize("what", TRAINED)
def test_students(what, finished, tmp_path):
    check_like(*both(tmp_path, trained(what, finished)))


def test_a_run_that_is_stopped_often_goes_on(tmp_path, monkeypatch):
    words = ["run", *PROBE, *SMALL, "--probe.experts", "--experts.count=1", "--experts.epochs=2"]
    whole = command(*words)(tmp_path / "whole", "cuda")
    stop_often(monkeypatch)
    assert invoke(words_on(*words, device="cuda", folder=tmp_path, out="stopped")) == 3
    assert resume_to_end(tmp_path / "stopped") == 0
    check_like(told(tmp_path / "stopped"), whole)


def test_two_workers_share_the_device(tmp_path):
    words = ["run", *PROBE, *SMALL, "--jobs=2"]
    found = command(*words)(tmp_path / "two", "cuda")
    check_like(found, command(*words[:-1])(tmp_path / "one", "cuda"))
    record = json.loads((tmp_path / "two" / "run" / "run.json").read_text())
    assert record["environment"]["device"] == f"cuda: {devices.names()[0]}"


def test_the_devices_own_generator_draws_from_the_runs():
    device = devices.chosen("cuda")

    def drawn(seed):
        with drawing_from(torch.Generator().manual_seed(seed), device):
            return torch.nn.functional.dropout(torch.ones(64, device=device)).cpu()

    before = torch.cuda.get_rng_state()
    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_autocast_gives_bfloat16():
    device = devices.chosen("cuda")
    with devices.autocast(device):
        assert (torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)).dtype == torch.bfloat16
