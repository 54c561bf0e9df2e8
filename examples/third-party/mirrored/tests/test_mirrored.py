"""Mirrored: samples by hand, any index as all at once, counts of a set, and the contract."""

import torch
from mirrored import Mirrors, with_mirrored

from ddcore import load_artifact
from ddcore.sets import Decoder
from ddcore.testing import PROBE, check_plugin

ROWS = {"op": "rows", "tensor": "pixels"}


def test_each_image_is_followed_by_its_mirror_image():
    images = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 1, 1, 2)
    assert with_mirrored(images).flatten().tolist() == [1, 2, 2, 1, 3, 4, 4, 3]
    assert with_mirrored(images, "height").flatten().tolist() == [1, 2, 1, 2, 3, 4, 3, 4]


def test_samples_at_any_index_are_those_of_all_at_once():
    pixels = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    decoder = Decoder([ROWS, {"op": "mirrored", "axis": "width"}], {"mirrored": Mirrors()})
    assert decoder.count({"pixels": pixels}) == 6
    some = torch.tensor([5, 0, 3, 3])
    assert torch.equal(decoder.sample({"pixels": pixels}, some), with_mirrored(pixels)[some])


def test_a_set_has_twice_as_many_samples_as_it_stores(ddcore_cli, tmp_path):
    words = [*PROBE, "--plugin", "mirrored", "--steps", "1", *ddcore_cli.tiny, "--out", tmp_path / "run"]
    done = ddcore_cli("run", *words, "--json")
    assert done.code == 0, done.err
    artifact = load_artifact(tmp_path / "run" / "artifact")
    images, stored = artifact.images(), artifact.tensors["pixels"]
    assert len(artifact) == 2 * len(stored)
    assert torch.equal(images, with_mirrored(stored))
    assert artifact.labels.classes.tolist() == [c for c in (0, 1, 2) for _ in range(2 * len(stored) // 3)]


def test_the_contract():
    check_plugin("mirrored")
