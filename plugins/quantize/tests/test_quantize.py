"""Fewer bits: what is stored, what is said about it, and what the rest of a run makes of it."""

import json

import pytest
import torch
from ddcore_quantize import error_of

from ddcore import load_artifact
from ddcore.data.normalisation import Identity
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.distil import assemble, label
from ddcore.sets.decoders import Decoder
from ddcore.sets.levels import to_levels
from ddcore.testing import check_plugin, ddcore_cli, tiny_run  # noqa: F401  fixtures

ROWS = [{"op": "rows", "tensor": "pixels"}]


def test_the_contract():
    check_plugin("quantize")


def test_the_error_is_that_of_what_is_decoded_in_any_number_of_parts(monkeypatch):
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    tensors, decoder = to_levels({"pixels": images}, ROWS, Identity(), 2)
    back = Decoder(decoder).sample(tensors, torch.arange(5))
    found = error_of((Decoder(ROWS), {"pixels": images}), (Decoder(decoder), tensors), Identity())
    off = (back - images).double()
    assert found.largest == pytest.approx(float(off.abs().max()))
    assert found.psnr == pytest.approx(float(10 * torch.log10(1 / off.square().mean())))
    monkeypatch.setattr("ddcore_quantize.AT_ONCE", 2)
    parts = error_of((Decoder(ROWS), {"pixels": images}), (Decoder(decoder), tensors), Identity())
    assert parts.psnr == pytest.approx(found.psnr)


def test_six_decibels_a_bit():
    # uniform pixels: mean squared error step^2 / 12, so that twice as many levels are 6.02 dB
    images = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    psnr = {}
    for bits in (8, 4, 2):
        tensors, decoder = to_levels({"pixels": images}, ROWS, Identity(), bits)
        psnr[bits] = error_of((Decoder(ROWS), {"pixels": images}), (Decoder(decoder), tensors), Identity()).psnr
        assert psnr[bits] == pytest.approx(10 * torch.log10(torch.tensor(12 * (2**bits - 1) ** 2)).item(), abs=0.5)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_run_stores_few_bits_says_the_error_and_opens_without_the_plugin(bits, ddcore_cli, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    words = ["--plugin", "dm", "--plugin", "quantize", "--quantize.bits", bits, "--steps", 2, "--out", out]
    answer = ddcore_cli("run", *ddcore_cli.tiny, *words, "--json")
    assert answer.code == 0, answer.err
    artifact = load_artifact(out / "artifact")
    assert artifact.tensors["pixels"].nbytes == 6 * 192 * bits // 8 and len(artifact) == 6
    (note,) = [note for note in artifact.manifest["notes"] if "bits" in note]
    assert f"{bits} bits: PSNR " in note and note in answer.err
    assert artifact.manifest["storage_dtype"] == f"uint{bits}"
    rows = json.loads((out / "scores.json").read_text())["rows"]
    assert rows[0]["bytes"]["images"] == artifact.nbytes["images"]


def test_labels_are_made_of_the_images_as_stored(tiny_run):  # noqa: F811
    seen = []
    run = tiny_run("--plugin", "quantize", quantize__bits=2, steps=1)
    run.label = lambda images, classes: seen.append(images)
    tasks = distillation_tasks(run)
    run.map(tasks)
    label(run, assemble(run, tasks))
    assert all(len(channel.unique()) <= 4 for channel in seen[0].transpose(0, 1))


def test_other_numbers_of_bits_are_refused(ddcore_cli):  # noqa: F811
    words = ["run", *ddcore_cli.tiny, "--plugin", "dm", "--plugin", "quantize", "--quantize.bits", 3]
    answer = ddcore_cli(*words)
    assert answer.code == 2 and "--quantize.bits" in answer.err and "(8, 4, 2)" in answer.err
