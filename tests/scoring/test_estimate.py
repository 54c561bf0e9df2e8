"""The first estimate of time and memory."""

import pytest
import torch
from torch import nn

from ddcore.cli.app import invoke
from ddcore.scoring.estimate import _activations

pytestmark = pytest.mark.usefixtures("probes")


def test_activations_of_a_network_are_the_sum_of_its_leaves_outputs():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    assert _activations(network, torch.zeros(1, 1, 4, 4)) == 32 + 32 + 32 + 5


def test_one_image_suffices_for_batch_statistics_and_the_network_stays_as_it_is():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3))
    assert _activations(network, torch.zeros(1, 1, 4, 4)) == 16 + 3 + 3
    assert network.training and all(module.training for module in network.modules())
    assert network[2].num_batches_tracked == 0


def test_a_plan_with_a_network_whose_maps_shrink_to_a_pixel_is_estimated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        invoke(["run", "--plugin", "pull", "--network", "torchvision:mobilenet_v2", "--plan-only", "--threads", "1"])
        == 0
    )
    assert "estimate" in capsys.readouterr().out
