"""Class activation maps and masks: closed forms for pooled and flattened heads, slow twins, limits, and an object that is found."""

import pytest
import torch
from ddcore_nrr_dd.maps import (
    activation_ratios,
    cam,
    class_maps,
    enlarged,
    feature_layer,
    features_and_gradients,
    grad_cam,
    mean_maps,
    moved,
    non_critical,
    normalised,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore import InputError, Vote, randomness
from ddcore.networks.zoo import build

K, SIZE = 3, 8
CLASSES = torch.tensor([0, 2, 1, 2])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


class Pooled(nn.Module):
    """Two convolutions, global average pooling, one linear layer."""

    def __init__(self, width: int = 5, inplace: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace))
        self.deep = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, K)
        self.inplace = inplace

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.deep(self.body(images)), inplace=self.inplace)
        return self.head(features.mean((2, 3)))


def pooled(seed: int = 0, **options) -> Pooled:
    with randomness.drawing_from(seeded(seed)):
        return Pooled(**options).double().eval().requires_grad_(False)


def convnet(name: str = "convnet2-bn-w4", size: int = SIZE, seed: int = 0) -> nn.Module:
    return build(name, 2, size, K, seeded(seed)).double().eval().requires_grad_(False)


def taken(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    layer = feature_layer(network, images[:1])
    return features_and_gradients(network, layer, images, CLASSES[: len(images)])


# ---- maps ------------------------------------------------------------------------------------------------------------


def test_a_pooled_head_gives_the_class_activation_map_of_its_linear_layer():
    network, images = pooled(), noise(4, 2, SIZE, SIZE)
    features = F.relu(network.deep(network.body(images)))
    theirs = torch.einsum("bd,bdij->bij", network.head.weight[CLASSES], features)
    torch.testing.assert_close(cam(*taken(network, images)), theirs / 16)
    torch.testing.assert_close(cam(features, network.head.weight[CLASSES]), theirs)
    due = F.interpolate(normalised(theirs)[:, None], (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(class_maps(network, images, CLASSES), due)


def test_of_a_flattened_linear_head_the_map_adds_up_to_the_logit_less_its_bias():
    network, images = convnet(), noise(4, 2, SIZE, SIZE)
    rows = torch.arange(4)
    logits = (network(images) - network.classifier.bias)[rows, CLASSES]
    torch.testing.assert_close(cam(*taken(network, images)).sum((1, 2)), logits)


def test_grad_cam_in_plain_loops():
    features, gradients = noise(2, 3, 2, 4), noise(2, 3, 2, 4, seed=1)
    due = torch.zeros(2, 2, 4, dtype=torch.float64)
    for b in range(2):
        for i in range(2):
            for j in range(4):
                for d in range(3):
                    weight = sum(gradients[b, d, p, q] for p in range(2) for q in range(4)) / 8
                    due[b, i, j] += weight * features[b, d, i, j]
    torch.testing.assert_close(grad_cam(features, gradients), due.clamp(min=0))


def test_grad_cam_of_a_pooled_head_is_what_speaks_for_the_class_in_cam():
    features, gradients = taken(convnet("convnet3-bn-w4"), noise(4, 2, SIZE, SIZE))
    torch.testing.assert_close(grad_cam(features, gradients), cam(features, gradients).clamp(min=0))


@pytest.mark.parametrize("network", [pooled(), convnet()], ids=["pooled", "flattened"])
def test_gradients_are_those_of_the_logits_by_finite_differences(network):
    images = noise(2, 2, SIZE, SIZE)
    features, gradients = taken(network, images)

    def own_logit(features: Tensor, row: int) -> Tensor:
        if isinstance(network, Pooled):
            return network.head(F.relu(features).mean((2, 3)))[row, CLASSES[row]]
        return network.classifier(features.flatten(1))[row, CLASSES[row]]

    step = 1e-6
    for place in ((0, 0, 1, 1), (1, 3, 0, 1)):
        shift = torch.zeros_like(features)
        shift[place] = step
        slope = (own_logit(features + shift, place[0]) - own_logit(features - shift, place[0])) / (2 * step)
        torch.testing.assert_close(slope, gradients[place], atol=1e-8, rtol=1e-6)


def test_maps_are_differentiable_in_features_and_weights_in_float64():
    features, weights = noise(2, 3, 2, 2).requires_grad_(), noise(2, 3, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(cam, (features, weights))
    assert torch.autograd.gradcheck(lambda a, w: cam(a, w[:, :, 0, 0]), (features, weights))
    assert torch.autograd.gradcheck(grad_cam, (features, weights))


def test_the_features_are_the_last_ones_of_more_than_a_pixel():
    network = convnet("convnet3-bn-w4")  # 8, 4, 2, 1 pixels: the last pooling is a global one
    features, gradients = taken(network, noise(2, 2, SIZE, SIZE))
    assert features.shape == (2, 4, 2, 2)
    torch.testing.assert_close(gradients, gradients.mean((2, 3), keepdim=True).expand_as(gradients))


def test_what_follows_may_work_in_place():
    images = noise(4, 2, SIZE, SIZE)
    torch.testing.assert_close(cam(*taken(pooled(inplace=True), images)), cam(*taken(pooled(), images)))


def test_resnets_have_maps_too():
    maps = class_maps(convnet("resnet18-bn", 16), noise(2, 2, 16, 16), CLASSES[:2])
    assert maps.shape == (2, 16, 16) and float(maps.min()) == 0 and float(maps.amax((1, 2)).min()) > 0.5


def test_a_network_without_feature_maps_is_refused():
    with pytest.raises(InputError, match="teacher flat has no feature maps .*: choose one with convolutions"):
        class_maps(convnet("mlp"), noise(1, 2, SIZE, SIZE), CLASSES[:1], name="flat")


def test_a_map_does_not_depend_on_the_rest_of_the_batch_and_is_the_class_s_own():
    network, images = convnet(), noise(600, 2, SIZE, SIZE)
    classes = torch.arange(600) % K
    maps = class_maps(network, images, classes)
    torch.testing.assert_close(maps[[599, 3]], class_maps(network, images[[599, 3]], classes[[599, 3]]))
    assert not torch.allclose(maps, class_maps(network, images, (classes + 1) % K))


def test_looking_at_a_network_leaves_it_as_it_was():
    network = pooled()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    with torch.no_grad():
        class_maps(network, noise(4, 2, SIZE, SIZE), CLASSES)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert not any(m._forward_hooks for m in network.modules()) and not network.training
    assert all(p.grad is None for p in network.parameters())


def test_no_hook_stays_behind_when_a_pass_fails():
    network = pooled()
    with pytest.raises(RuntimeError):
        class_maps(network, noise(1, 3, SIZE, SIZE), CLASSES[:1])
    assert not any(m._forward_hooks for m in network.modules())


def test_maps_are_in_float32_what_they_are_in_float64():
    network, images = convnet(), noise(4, 2, SIZE, SIZE)
    wide = class_maps(network, images, CLASSES)
    narrow = class_maps(network.float(), images.float(), CLASSES)
    torch.testing.assert_close(narrow.double(), wide, atol=1e-4, rtol=0)  # a division by a span of rounded numbers


# ---- to [0, 1] -------------------------------------------------------------------------------------------------------


def test_normalised_maps_reach_from_zero_to_one_and_do_not_see_scale_or_offset():
    maps = noise(3, 2, 4)
    ours = normalised(maps)
    assert ours.amin((1, 2)).tolist() == [0.0] * 3 and ours.amax((1, 2)).tolist() == [1.0] * 3
    torch.testing.assert_close(normalised(5 * maps - 7), ours)
    torch.testing.assert_close(normalised(5 * maps, "peak"), normalised(maps, "peak"))


def test_peak_leaves_out_what_speaks_against_the_class():
    ours = normalised(torch.tensor([[[-4.0, 2.0, 8.0]]]), "peak")
    assert ours.tolist() == [[[0.0, 0.25, 1.0]]]


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_a_constant_map_tells_nothing_so_it_is_zero(value):
    assert (normalised(torch.full((2, 3, 3), value)) == 0).all()


def test_enlarging_by_hand():
    # pixels as areas: centres of four pixels lie at 0.25 and 0.75 of the way between the two, and beyond them
    row = enlarged(torch.tensor([[[0.0, 1.0]]]), (1, 4))
    assert row.tolist() == [[[0.0, 0.25, 0.75, 1.0]]]


def test_teachers_maps_are_averaged_by_their_weights():
    votes = [Vote(pooled(), 3.0, "one"), Vote(convnet(), 1.0, "other")]
    images = noise(4, 2, SIZE, SIZE)
    one, other = (class_maps(vote.network, images, CLASSES) for vote in votes)
    torch.testing.assert_close(mean_maps(votes, images, CLASSES), 0.75 * one + 0.25 * other)
    torch.testing.assert_close(mean_maps(votes[:1], images, CLASSES), one)


# ---- the mask --------------------------------------------------------------------------------------------------------


def test_check_threshold_zero_masks_everything_and_a_zero_map_nothing_more_than_the_threshold():
    maps = noise(2, 4, 4).abs()
    assert (non_critical(maps, 0.0) == 0).all()
    assert (non_critical(torch.zeros(2, 4, 4), 0.25) == 0.25).all()


def test_check_pixels_at_the_threshold_never_move_and_the_others_the_further_below_the_more():
    maps = torch.linspace(0, 1, 16, dtype=torch.float64).view(1, 4, 4)
    before = noise(1, 3, 4, 4)
    change = moved(before - 0.1, before, non_critical(maps, 0.5)) - before
    frozen = (maps >= 0.5).expand(3, 4, 4)
    assert (change[0][frozen] == 0).all() and (change[0][~frozen] != 0).all()
    sizes = change[0, 0].abs().flatten()[:8]
    assert (sizes.diff() < 0).all()
    torch.testing.assert_close(sizes, 0.1 * (0.5 - maps.flatten()[:8]))


def test_the_mask_is_the_same_for_all_channels_and_carries_no_gradient():
    maps = noise(2, 4, 4).abs().requires_grad_()
    mask = non_critical(maps, 0.5)
    assert mask.shape == (2, 1, 4, 4) and not mask.requires_grad
    change = moved(noise(2, 3, 4, 4) + 1, noise(2, 3, 4, 4), mask) - noise(2, 3, 4, 4)
    torch.testing.assert_close(change, mask.expand_as(change))


def test_masks_of_zero_and_one_give_before_and_after_to_the_bit():
    before, after = noise(1, 3, 8, 8), 1e3 * noise(1, 3, 8, 8, seed=1)
    for wanted, value in ((before, 0.0), (after, 1.0)):
        assert torch.equal(moved(after, before, torch.full((1, 1, 8, 8), value)), wanted)


def test_a_masked_step_of_gradient_descent_is_the_papers_equation():
    before, gradient, mask = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1), non_critical(noise(2, 4, 4).abs(), 0.5)
    torch.testing.assert_close(moved(before - 0.3 * gradient, before, mask), before - mask * 0.3 * gradient)


def test_adam_would_divide_a_mask_on_the_gradient_out_again():
    gradient, mask = noise(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.01)

    def step(masked_gradient: Tensor) -> Tensor:
        pixels = torch.zeros(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
        pixels.grad = masked_gradient
        torch.optim.Adam([pixels], lr=0.1, eps=1e-12).step()
        return pixels.detach()

    torch.testing.assert_close(step(mask * gradient), step(gradient))
    torch.testing.assert_close(moved(step(gradient), torch.zeros_like(gradient), mask), 0.01 * step(gradient))


# ---- what lies in a box ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", ["share", "mean"])
def test_activation_ratios_in_plain_loops(ratio):
    maps = noise(2, 5, 6).abs()
    boxes = torch.tensor([[[0, 0, 5, 6], [1, 2, 3, 4], [4, 5, 1, 1]], [[0, 3, 2, 3], [2, 0, 1, 6], [0, 0, 1, 1]]])
    for b in range(2):
        for m, (top, left, height, width) in enumerate(boxes[b].tolist()):
            inside = sum(maps[b, i, j] for i in range(top, top + height) for j in range(left, left + width))
            due = inside / (height * width if ratio == "mean" else maps[b].sum())
            torch.testing.assert_close(
                activation_ratios(maps / maps.max(), boxes, ratio)[b, m], due / (maps.max() if ratio == "mean" else 1)
            )


def test_activation_ratios_at_their_limits():
    maps = torch.zeros(2, 4, 4)
    maps[0, 1:3, 1:3] = 1.0
    boxes = torch.tensor([[0, 0, 4, 4], [1, 1, 2, 2], [1, 1, 1, 1], [0, 0, 1, 4]]).expand(2, 4, 4)
    assert activation_ratios(maps, boxes, "share").tolist() == [[1.0, 1.0, 0.25, 0.0], [0.0] * 4]
    assert activation_ratios(maps, boxes, "mean").tolist() == [[0.25, 1.0, 1.0, 0.0], [0.0] * 4]


# ---- what maps find --------------------------------------------------------------------------------------------------


def toy(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (count, 2, 16, 16) of noise with a cross, a square or a ring of 5 pixels somewhere; classes; boxes' corners."""
    shapes = torch.zeros(K, 5, 5)
    shapes[0, 2], shapes[0, :, 2] = 1, 1
    shapes[1, 1:4, 1:4] = 1
    shapes[2] = 1 - F.pad(torch.ones(3, 3), (1, 1, 1, 1))
    generator = seeded(seed)
    images = 0.3 * torch.randn(count, 2, 16, 16, generator=generator)
    corners = torch.randint(0, 12, (count, 2), generator=generator)
    classes = torch.arange(count) % K
    for image, cls, (top, left) in zip(images, classes.tolist(), corners.tolist(), strict=True):
        image[:, top : top + 5, left : left + 5] += 2 * shapes[cls]
    return images, classes, corners


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    with randomness.drawing_from(seeded(7)):
        network = Pooled(width=16)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(120):
        images, classes, _ = toy(96, 100 + step)
        optimizer.zero_grad()
        F.cross_entropy(network(images), classes).backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["cam", "grad-cam"])
def test_the_map_of_a_trained_network_lies_on_the_object(trained, kind):
    images, classes, corners = toy(60, 0)
    right = trained(images).argmax(1) == classes
    assert right.float().mean() > 0.9
    maps = class_maps(trained, images, classes, kind=kind)[right]
    boxes = torch.cat([corners, torch.full_like(corners, 5)], 1)[right][:, None]
    inside = activation_ratios(maps, boxes, "mean")[:, 0]
    assert (inside > 2 * maps.mean((1, 2))).float().mean() > 0.9
