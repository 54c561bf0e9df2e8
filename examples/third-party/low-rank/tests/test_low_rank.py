"""Low rank: the sum by hand, factors that give images back, a set that opens unselected, and the contract."""

import json

import pytest
import torch
from low_rank import LowRankImages, factors

from ddcore import load_artifact
from ddcore.testing import check_plugin

SPEC = {"op": "low-rank", "codes": "a", "bases": "b"}


def test_a_sample_by_hand():
    tensors = {"a": torch.tensor([[1.0, 0.0], [2.0, -1.0]]), "b": torch.tensor([3.0, 5.0]).reshape(2, 1, 1, 1)}
    assert LowRankImages().count(tensors, SPEC, None) == 2
    assert LowRankImages().sample(tensors, SPEC, torch.tensor([1, 0, 1]), None).flatten().tolist() == [1.0, 3.0, 1.0]


def test_enough_bases_give_every_image_back_and_fewer_the_nearest_sum():
    images = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def error(rank: int) -> float:
        codes, bases = factors(images, rank)
        back = LowRankImages().sample({"a": codes, "b": bases}, SPEC, torch.arange(4), None)
        return float((back - images).square().sum())

    sizes = torch.linalg.svdvals(images.flatten(1)).square()
    assert error(4) < 1e-20
    assert error(2) == pytest.approx(float(sizes[2:].sum()))


def test_the_gradient_in_float64():
    codes = torch.linspace(-1, 1, 4, dtype=torch.float64).reshape(2, 2).requires_grad_()
    bases = torch.linspace(0, 1, 8, dtype=torch.float64).reshape(2, 1, 2, 2).sin().requires_grad_()
    index = torch.tensor([0, 1, 1])
    assert torch.autograd.gradcheck(
        lambda a, b: LowRankImages().sample({"a": a, "b": b}, SPEC, index, None), (codes, bases)
    )


def test_a_set_opens_where_the_plugin_is_not_selected(ddcore_cli, tmp_path):
    words = ["--plugin", "low-rank", "--steps", "2", *ddcore_cli.tiny, "--out", tmp_path / "run"]
    done = ddcore_cli("run", *words, "--json")
    assert done.code == 0, done.err
    artifact = load_artifact(tmp_path / "run" / "artifact")
    assert {*artifact.tensors} == {"codes", "bases"} and artifact.images().shape[1:] == (3, 8, 8)
    inspected = ddcore_cli("inspect", tmp_path / "run" / "artifact", "--json")
    assert inspected.code == 0 and "low-rank" in json.dumps(inspected.json)


def test_the_contract():
    check_plugin("low-rank")
