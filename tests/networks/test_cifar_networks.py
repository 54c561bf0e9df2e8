"""The networks of the distillation tables: the published parameter counts, features where they are said to be, any image size."""

import pytest
import torch
from torch import nn

from ddcore.networks.cifar_networks import NAMES, maker
from ddcore.networks.zoo import build

COUNTS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn-16-1": 180_916,
    "wrn-16-2": 703_284,
    "wrn-40-1": 569_780,
    "wrn-40-2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
    "mobilenetv2": 812_836,
    "shufflenetv1": 949_258,
    "shufflenetv2": 1_355_528,
}
"""At 3 channels and 100 classes, in RepDistiller's code."""


def built(name, channels=3, size=32, classes=100):
    return build(name, channels, size, classes, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_as_many_as_published(name):
    assert sum(p.numel() for p in built(name).parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_classifier_of_the_features(name):
    network = built(name, classes=7).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(network(images), network.classifier(network.embed(images)), atol=1e-6)
    assert network(images).shape == (2, 7)


@pytest.mark.parametrize("name", NAMES)
def test_taps_are_modules_whose_maps_shrink(name):
    network = built(name, classes=7).eval()
    sides = {}
    for tap, path in network.taps.items():
        network.get_submodule(path).register_forward_hook(
            lambda _m, _i, out, tap=tap: sides.update({tap: out.shape[2]})
        )
    network(torch.zeros(1, 3, 32, 32))
    found = [sides[tap] for tap in network.taps]
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0]


@pytest.mark.parametrize("name", ["resnet20", "wrn-16-2", "mobilenetv2", "shufflenetv2"])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 64)])
def test_any_channels_and_sizes_are_taken(name, channels, size):
    assert built(name, channels, size, 5).eval()(torch.zeros(2, channels, size, size)).shape == (2, 5)


@pytest.mark.parametrize("name", ["wrn-15-2", "wrn-4-1", "resnet21", "resnet8x3", "vgg9"])
def test_what_is_no_such_network_is_none(name):
    assert maker(name) is None


def test_a_wide_resnet_ends_in_batch_norm_and_its_stages_in_sums():
    network = built("wrn-16-1", classes=10).eval()
    seen = []
    network.stages[2].register_forward_hook(lambda _m, _i, out: seen.append(out))
    network(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert (seen[0] < 0).any()
    assert isinstance(network.end[0], nn.BatchNorm2d)
