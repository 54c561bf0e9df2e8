"""The zoo: parameter counts and layers of the field's tables, sizes that work and sentences for those that do not."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ddcore.errors import InputError
from ddcore.networks.zoo import build, mixes_samples, network_names, unknown_network, usual_depth

FIXED = (
    "mlp",
    "lenet",
    "alexnet",
    "alexnet-bn",
    "vgg11",
    "vgg11-bn",
    "resnet18",
    "resnet18-bn",
    "resnet18ap",
    "resnet18ap-bn",
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(name: str, channels: int = 3, size: int = 32, classes: int = 10, seed: int = 0) -> nn.Module:
    network = build(name, channels, size, classes, seeded(seed))
    assert network is not None, name
    return network


def images(count: int, channels: int, size: int, seed: int = 9) -> Tensor:
    return torch.randn(count, channels, size, size, generator=seeded(seed))


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# ---- definitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("convnet", 320_010),
        ("convnet3", 320_010),
        ("convnet3-bn", 320_010),
        ("mlp", 411_146),
        ("lenet", 62_006),
        ("alexnet", 1_872_202),
        ("alexnet-bn", 1_872_202 + 2 * (128 + 192 + 256 + 192 + 192)),
        ("vgg11", 9_231_114),
        ("resnet18", 11_173_962),
    ],
)
def test_parameter_counts_at_32_pixels_3_channels_10_classes(name, count):
    assert parameters(made(name)) == count


def test_vgg11_at_64_pixels_keeps_every_other_pixel_of_the_last_map():
    network = made("vgg11", 3, 64, 10)
    images = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).sin()
    whole = network.features[:-1](images)
    assert whole.shape[2:] == (2, 2)
    torch.testing.assert_close(network.embed(images), whole[:, :, ::2, ::2].flatten(1))


def test_parameter_count_of_the_convnet_for_tiny_imagenet():
    assert parameters(made("convnet", 3, 64, 200)) == 857_160


def test_parameter_counts_by_hand():
    # width 8 at 8x8, 2 channels, 3 classes: conv 2*9*8+8, norm 16; conv 8*9*8+8, norm 16; linear 2*2*8*3+3
    assert parameters(made("convnet2-w8", 2, 8, 3)) == (152 + 16) + (584 + 16) + 99
    # without norm 32 fewer; layer norm has one pair a place: 2*8*64 and 2*8*16
    assert parameters(made("convnet2-nonorm-w8", 2, 8, 3)) == 152 + 584 + 99
    assert parameters(made("convnet2-ln-w8", 2, 8, 3)) == 152 + 1024 + 584 + 256 + 99
    # without pooling the linear layer sees all 8x8 places
    assert parameters(made("convnet2-w8-nopool", 2, 8, 3)) == (152 + 16) + (584 + 16) + 8 * 64 * 3 + 3


@pytest.mark.parametrize(("name", "channels", "size"), [("convnet", 3, 32), ("convnet", 1, 28), ("convnet", 3, 64)])
def test_the_convnet_embeds_into_2048_features(name, channels, size):
    assert made(name, channels, size).embed(images(2, channels, size)).shape == (2, 2048)


def test_the_depth_follows_the_size():
    assert [usual_depth(size) for size in (8, 15, 16, 28, 32, 64, 128)] == [2, 2, 3, 3, 3, 4, 5]
    for size, depth in ((8, 2), (32, 3), (64, 4)):
        assert sum(isinstance(m, nn.Conv2d) for m in made("convnet-w4", 3, size).modules()) == depth


NORMS = {
    "in": lambda x: F.instance_norm(x),
    "bn": lambda x: F.batch_norm(x, None, None, training=True),
    "ln": lambda x: F.layer_norm(x, x.shape[1:]),
    "gn": lambda x: F.group_norm(x, 4),
    "nonorm": lambda x: x,
}
ACTIVATIONS = {"relu": F.relu, "sigmoid": torch.sigmoid, "leaky": lambda x: F.leaky_relu(x, 0.01), "swish": F.silu}
POOLINGS = {"avg": lambda x: F.avg_pool2d(x, 2), "max": lambda x: F.max_pool2d(x, 2), "nopool": lambda x: x}
VARIANTS = [
    *[(norm, "relu", "avg") for norm in NORMS],
    *[("in", activation, "avg") for activation in ACTIVATIONS],
    *[("in", "relu", pooling) for pooling in POOLINGS],
]


@pytest.mark.parametrize(("norm", "activation", "pooling"), VARIANTS)
def test_every_variant_of_the_convnet_is_convolution_norm_activation_pooling(norm, activation, pooling):
    network = made(f"convnet2-{norm}-w8-{activation}-{pooling}", 3, 8, 5).double()
    x = features = images(4, 3, 8).double()
    for conv in [m for m in network.modules() if isinstance(m, nn.Conv2d)]:
        features = F.conv2d(features, conv.weight, conv.bias, padding=1)
        features = POOLINGS[pooling](ACTIVATIONS[activation](NORMS[norm](features)))
    torch.testing.assert_close(network.embed(x), features.flatten(1))


def test_the_suffixes_defaults_are_the_field_s():
    plain, spelt = made("convnet"), made("convnet3-in-w128-relu-avg")
    assert torch.equal(plain(images(2, 3, 32)), spelt(images(2, 3, 32)))


def test_the_resnet_is_its_paper_s_with_a_small_stem():
    network = made("resnet18").double()
    convolutions = iter([m for m in network.modules() if isinstance(m, nn.Conv2d)])

    def normed(x: Tensor, stride: int = 1) -> Tensor:
        conv = next(convolutions)
        return F.instance_norm(F.conv2d(x, conv.weight, None, stride, conv.kernel_size[0] // 2))

    x = images(2, 3, 32).double()
    out = F.relu(normed(x))
    for stage in range(4):
        for stride in (1 if stage == 0 else 2, 1):
            inner = normed(F.relu(normed(out, stride)))
            out = F.relu(inner + (out if stride == 1 else normed(out, stride)))
    torch.testing.assert_close(network.embed(x), F.avg_pool2d(out, 4).flatten(1))


def test_the_pooled_resnet_halves_by_averages_and_keeps_4x4_places():
    network = made("resnet18ap")
    assert all(m.stride == (1, 1) for m in network.modules() if isinstance(m, nn.Conv2d))
    assert network.embed(images(2, 3, 32)).shape == (2, 512 * 4 * 4)
    assert made("resnet18ap", 1, 28).embed(images(2, 1, 28)).shape == (2, 512 * 3 * 3)


@pytest.mark.parametrize(("name", "width"), [("lenet", 84), ("alexnet", 3072), ("vgg11", 512), ("resnet18", 512)])
@pytest.mark.parametrize("size", [32, 64])
def test_64_pixels_are_halved_once_more_so_that_features_stay_as_many(name, width, size):
    network = made(name, 3, size)
    assert network.embed(images(2, 3, size)).shape == (2, width)
    assert parameters(network) == parameters(made(name))


def test_grey_28_pixels_are_padded_to_32():
    assert made("convnet", 1, 28).features[0].padding == (3, 3)
    assert parameters(made("convnet", 1, 28)) == 320_010 - 2 * 9 * 128
    for name, padding in (("vgg11", 3), ("alexnet", 4), ("lenet", 2)):
        first = next(m for m in made(name, 1, 28).modules() if isinstance(m, nn.Conv2d))
        assert first.padding == (padding, padding)


# ---- what every network keeps to -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["convnet", *FIXED])
def test_embed_is_the_input_of_the_last_linear_layer(name):
    network, x = made(name).eval(), images(2, 3, 32)
    last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    features, logits = network.embed(x), network(x)
    assert features.shape == (2, last.in_features) and logits.shape == (2, 10)
    torch.testing.assert_close(last(features), logits)


@pytest.mark.parametrize(
    ("channels", "size"), [(1, 8), (3, 8), (1, 16), (3, 20), (1, 28), (3, 32), (1, 40), (1, 60), (3, 64)]
)
def test_every_network_either_takes_a_size_or_says_that_it_does_not(channels, size):
    for name in ("convnet-w8", "convnet3-ln-w8", "mlp", "lenet", "vgg11-bn", "resnet18"):
        try:
            network = made(name, channels, size)
        except InputError as refusal:
            assert repr(name) in str(refusal) and f"{size}x{size}" in str(refusal)
            assert not name.startswith("convnet")
        else:
            features = network.embed(images(2, channels, size))
            assert features.shape[1] == [m for m in network.modules() if isinstance(m, nn.Linear)][-1].in_features
            assert not torch.allclose(features[0], features[1], atol=1e-4)


@pytest.mark.parametrize("name", ["lenet", "vgg11", "resnet18", "resnet18ap", "convnet4"])
def test_images_that_are_too_small_are_refused_by_name_and_size(name):
    with pytest.raises(InputError, match=f"'{name}' cannot take images of 8x8 pixels.*--resize"):
        made(name, 3, 8)


def test_initialisation_draws_from_the_generator_alone_and_moves_it_on():
    before, generator = torch.random.get_rng_state(), seeded(3)
    first = build("convnet-w8", 3, 32, 10, generator)
    second = build("convnet-w8", 3, 32, 10, generator)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = made("convnet-w8", seed=3)
    for p, same, other in zip(first.parameters(), again.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, same)
        assert p.dim() == 1 or not torch.equal(p, other)


def test_initialisation_is_pytorch_s_default():
    with torch.random.fork_rng():
        torch.random.set_rng_state(seeded(5).get_state())
        conv, linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 16 * 16, 4)
    network = made("convnet1-w8", 3, 32, 4, seed=5)
    assert torch.equal(network.features[0].weight, conv.weight)
    assert torch.equal(network.classifier.weight, linear.weight)


def test_networks_start_in_train_mode_in_float32():
    network = made("convnet-w8")
    assert network.training and {p.dtype for p in network.parameters()} == {torch.float32}


def test_only_batchnorm_mixes_samples():
    x = images(4, 3, 32)
    for name in ("convnet-bn-w8", "convnet-w8", "convnet-ln-w8", "convnet-gn-w8", "vgg11-bn", "resnet18", "lenet"):
        network = made(name).double()
        with torch.no_grad():
            alone, together = network(x[:2].double()), network(x.double())[:2]
        assert mixes_samples(network) == (not torch.allclose(alone, together)) == name.count("-bn"), name


def test_instance_norm_mixes_nothing_and_batch_norm_anywhere_does():
    assert not mixes_samples(nn.Sequential(nn.InstanceNorm2d(3), nn.GroupNorm(1, 3)))
    assert mixes_samples(nn.Sequential(nn.Sequential(nn.BatchNorm1d(3))))


def test_channels_last_gives_the_same_logits():
    network, x = made("convnet-w8").double(), images(2, 3, 32).double()
    expected = network(x)
    changed = copy.deepcopy(network).to(memory_format=torch.channels_last)
    torch.testing.assert_close(changed(x.to(memory_format=torch.channels_last)), expected)


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "convnett", "convnet0", "convnet-w0", "convnet-w8-bn", "convnet3-", "vgg16"])
def test_unknown_names_are_nobody_s(name):
    assert build(name, 3, 32, 10, seeded()) is None


def test_a_misspelt_name_gets_a_near_match():
    assert "did you mean 'resnet18'" in unknown_network("resnt18")


def test_every_listed_name_can_be_built():
    for name in network_names():
        assert ":" in name or build(name, 3, 32, 2, seeded()) is not None, name


def test_group_norm_wants_a_width_of_four_groups():
    with pytest.raises(InputError, match="multiple of 4, not 6"):
        made("convnet-gn-w6")


# ---- torchvision's ---------------------------------------------------------------------------------------------------


def test_torchvision_s_networks_by_name():
    network, x = made("torchvision:resnet18", 1, 32, 7).eval(), images(2, 1, 32)
    assert network.network.conv1.in_channels == 1 and network.network.conv1.bias is None
    with torch.no_grad():
        features, logits = network.embed(x), network(x)
        torch.testing.assert_close(network.network.fc(features), logits)
        assert features.shape == (2, 512) and logits.shape == (2, 7)
        weights = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
        assert functional_call(network, weights, (x,)).abs().max() == 0
    assert mixes_samples(network) and all(m.training for m in made("torchvision:resnet18").modules())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("torchvision:resnet19", "torchvision has no classifier named 'resnet19': did you mean 'resnet1"),
        ("torchvision:squeezenet1_0", "no last linear layer"),
        ("torchvision:alexnet", "'torchvision:alexnet' cannot take images of 32x32 pixels.*--resize"),
        ("torchvision:vit_b_16", "cannot take images of 32x32 pixels .*224"),
    ],
)
def test_torchvision_s_networks_that_cannot_be(name, sentence):
    with pytest.raises(InputError, match=sentence):
        made(name)


def test_torchvision_is_imported_once_and_whole():
    from ddcore.networks.vision import import_torchvision

    torchvision = import_torchvision()
    assert torchvision is import_torchvision()
    assert torchvision.models.resnet18 and torchvision.datasets.CIFAR10
