"""The maths of compensators: budgets by hand, the loss against a slow twin, what its gradient sums, what it reduces to."""

import hashlib
from types import SimpleNamespace

import pytest
import torch
from ddcore_infer import (
    INFER,
    base_count,
    decoded_classes,
    decoded_count,
    matching_loss,
    pairs,
    stored_bytes,
    stored_count,
    stored_tensors,
)
from torch import nn
from torch.nn import functional as F

from ddcore import Task, Vote
from ddcore.data.normalisation import MeanStd
from ddcore.images.shared_view import SharedView
from ddcore.labels import StaticMixedLabels, View, label_bytes
from ddcore.networks.batch_statistics import layers_of
from ddcore.networks.zoo import build
from ddcore.randomness import generator
from ddcore.sets.decoders import Decoder
from ddcore.training.loop import rate_at

SUM = {"op": "sum", "bases": "bases", "added": "compensators", "pairs": "pairs", "least": "least", "most": "most"}


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def teacher(name="convnet2-bn-w4", shape=(3, 8, 8), classes=3):
    """A small network whose BatchNorm layers remember something, in eval mode, float64."""
    network = build(name, shape[0], shape[1], classes, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for step in range(3):
            network(seeded(16, *shape, seed=step + 1))
    return network.eval().requires_grad_(False)


def digest(network):
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in network.state_dict().values())).hexdigest()


# ---- budget ----------------------------------------------------------------------------------------------------------

PAPER = [  # classes, networks, ipc; n0, images stored, images decoded a class
    (10, 4, 10, 7, 98, 35),
    (10, 4, 50, 35, 490, 175),
    (100, 4, 10, 9, 936, 45),
    (100, 4, 50, 48, 4992, 240),
    (100, 4, 100, 96, 9984, 480),
    (200, 4, 10, 9, 1836, 45),
    (200, 4, 50, 49, 9996, 245),
    (1000, 3, 10, 9, 9027, 36),
    (1000, 3, 50, 49, 49147, 196),
]


@pytest.mark.parametrize(("classes", "networks", "ipc", "bases", "stored", "decoded"), PAPER)
def test_the_budget_is_the_papers_and_never_overdrawn(classes, networks, ipc, bases, stored, decoded):
    assert base_count(ipc, classes, networks) == bases
    assert stored_count(bases, classes, networks) == stored <= ipc * classes
    assert decoded_count(bases, classes, networks) == decoded * classes


def test_one_more_slot_would_overdraw_the_budget():
    for ipc in range(1, 60):
        for classes, networks in [(1, 1), (2, 5), (3, 1), (10, 4), (49, 7)]:
            count = base_count(ipc, classes, networks)
            assert count == int(ipc / (1 + networks / classes) + 1e-9)
            assert stored_count(count, classes, networks) <= ipc * classes < stored_count(count + 1, classes, networks)


def slow_pairs(bases, classes, networks):
    found, of = [], []
    for cls in range(classes):
        for slot in range(bases):
            for added in [-1, *range(networks)]:
                found.append([cls * bases + slot, -1 if added < 0 else slot * networks + added])
                of.append(cls)
    return found, of


@pytest.mark.parametrize("extent", [(1, 1, 1), (2, 3, 2), (3, 2, 1), (7, 10, 4), (60, 10, 4)])
def test_pairs_and_classes_equal_plain_loops(extent):
    found, of = slow_pairs(*extent)
    assert pairs(*extent).tolist() == found
    assert decoded_classes(*extent).tolist() == of
    assert len(found) == decoded_count(*extent)


def test_pairs_are_of_the_smallest_signed_type_that_holds_them():
    types = [pairs(*extent).dtype for extent in [(12, 10, 4), (13, 10, 4), (9, 1000, 3), (49, 1000, 3), (49, 2, 3)]]
    assert types == [torch.int8, torch.int16, torch.int16, torch.int32, torch.int16]


@pytest.mark.parametrize("extent", [(1, 1, 1), (7, 10, 4), (13, 10, 4), (2, 3, 200)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_bytes_are_those_of_the_tensors(extent, dtype):
    bases, classes, networks = extent
    images = torch.zeros(classes * bases, 3, 4, 5, dtype=dtype)
    added = torch.zeros(bases * networks, 3, 4, 5, dtype=dtype)
    stored = stored_tensors(images, added, pairs(*extent), MeanStd((0.5,) * 3, (0.25,) * 3))
    found = sum(t.numel() * t.element_size() for t in stored.values())
    assert found == stored_bytes(*extent, (3, 4, 5), dtype.itemsize)


def test_static_labels_at_paper_sizes_are_one_vector_a_decoded_image():
    # ImageNet-1K: 36 and 196 decoded images a class, 1000 numbers of float32 and a 2-byte class each
    assert label_bytes("static-mixed", decoded_count(9, 1000, 3), 1000) == 36_000 * 4002
    assert label_bytes("static-mixed", decoded_count(49, 1000, 3), 1000) == 196_000 * 4002
    # the paper's 3.6% of its images' bytes is one such vector for each of the 10,000 images of the budget
    assert label_bytes("static-mixed", 10_000, 1000) / 10_000 / 0.036 == pytest.approx(111_000, rel=0.01)


def test_labels_of_views_at_paper_sizes_are_five_times_the_images():
    # 300 / (M + 1) epochs of 36,000 images, 1000 numbers of float16: 481% of 10,000 images of 111 kB
    answers = label_bytes("per-view", 36_000, 1000, epochs=75, batch=64, seeded=True)
    assert answers / (10_000 * 111_000) == pytest.approx(4.81, rel=0.02)


# ---- what is decoded -------------------------------------------------------------------------------------------------


def decoded(bases, compensators, extent):
    stored = stored_tensors(bases, compensators, pairs(*extent), MeanStd((0.5, 0.4), (0.25, 0.5)))
    return Decoder([SUM]).sample(stored, torch.arange(decoded_count(*extent)))


def slow_decoded(bases, compensators, extent):
    count, classes, networks = extent
    images = []
    for cls in range(classes):
        for slot in range(count):
            base = bases[cls * count + slot]
            images.append(base)
            for number in range(networks):
                added = base + compensators[slot * networks + number]
                black, white = ([-2.0, -0.8], [2.0, 1.2])
                images.append(torch.stack([added[c].clamp(black[c], white[c]) for c in range(2)]))
    return torch.stack(images)


def test_decoding_equals_plain_loops_and_keeps_sums_within_the_pixels_that_exist():
    extent = (3, 2, 2)
    bases, compensators = seeded(6, 2, 3, 3).clamp(-0.8, 1.2), 3 * seeded(6, 2, 3, 3, seed=1)
    torch.testing.assert_close(decoded(bases, compensators, extent), slow_decoded(bases, compensators, extent))


def test_bases_come_back_untouched_beside_their_sums():
    extent = (3, 2, 2)
    bases = seeded(6, 2, 3, 3).clamp(-0.8, 1.2)
    assert torch.equal(decoded(bases, seeded(6, 2, 3, 3, seed=1), extent)[::3], bases)


def test_compensators_of_zero_repeat_each_base_once_and_once_a_network():
    extent = (3, 2, 2)
    bases = seeded(6, 2, 3, 3).clamp(-0.8, 1.2)
    assert torch.equal(decoded(bases, torch.zeros(6, 2, 3, 3).double(), extent), bases.repeat_interleave(3, 0))


# ---- labels ----------------------------------------------------------------------------------------------------------


def mixed(share):
    labels = StaticMixedLabels(torch.tensor([[4.0, 0, -1], [0, 3, 0]]), torch.tensor([0, 1]), (8, 8))
    view = View(torch.tensor([0, 1]), (), (torch.tensor([1, 0]), torch.full((2,), share)))
    return labels, labels.targets(view)["logits"]


def test_a_share_of_one_gives_the_plain_label():
    labels, found = mixed(1.0)
    assert torch.equal(found, labels.logits)


def test_labels_are_mixed_before_the_softmax_which_is_not_the_mix_of_softmaxes():
    labels, found = mixed(0.3)
    torch.testing.assert_close(found, 0.3 * labels.logits + 0.7 * labels.logits.flip(0))
    after = 0.3 * labels.logits.softmax(1) + 0.7 * labels.logits.flip(0).softmax(1)
    assert (found.softmax(1) - after).abs().max() > 0.01


# ---- loss ------------------------------------------------------------------------------------------------------------


def slow_loss(network, images, classes, bn, first, variance, skip):
    """Modules one after the other; means, population variances, norms and cross entropy written out."""
    total, x, at = 0.0, images, 0
    for module in network.features:
        if isinstance(module, nn.BatchNorm2d):
            channels = [x[:, c].flatten() for c in range(x.shape[1])]
            means = torch.stack([sum(v) / len(v) for v in channels])
            spreads = torch.stack([((v - m) ** 2).sum() / len(v) for v, m in zip(channels, means, strict=True)])
            gap = ((module.running_mean - means) ** 2).sum().sqrt()
            gap = gap + variance * ((module.running_var - spreads) ** 2).sum().sqrt()
            total = total + (0 if at in skip else first if at == 0 else 1) * gap
            at += 1
        x = module(x)
    logits = network.classifier(x.flatten(1))
    entropy = sum(logits[i].exp().sum().log() - logits[i, c] for i, c in enumerate(classes)) / len(images)
    return entropy + bn * total


@pytest.mark.parametrize(
    ("first", "variance", "skip"), [(10.0, 1.0, ()), (1.0, 11.0, ()), (10.0, 1.0, (1,)), (10.0, 1.0, (0,))]
)
def test_the_loss_equals_a_slow_twin(first, variance, skip):
    network, images, classes = teacher(), seeded(5, 3, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    got = matching_loss(network, images, classes, bn=0.3, first=first, variance=variance, skip=skip)
    due = slow_loss(network, images, classes, 0.3, first, variance, skip)
    torch.testing.assert_close(got, due, rtol=1e-12, atol=1e-12)


def test_without_statistics_only_the_cross_entropy_is_left():
    network, images, classes = teacher(), seeded(3, 3, 8, 8), torch.arange(3)
    assert matching_loss(network, images, classes, bn=0) == F.cross_entropy(network(images), classes)


def test_the_compensators_gradient_is_the_sum_of_the_images_gradients_and_bases_get_none():
    network, bases, classes = teacher(), seeded(3, 3, 8, 8), torch.arange(3)
    compensator = (0.1 * seeded(1, 3, 8, 8, seed=1)).requires_grad_()
    view = SharedView((1, 3), (1, 0, 6, 7), True)
    matching_loss(network, view(bases + compensator), classes, bn=0.5).backward()
    images = (bases + compensator.detach()).requires_grad_()
    matching_loss(network, view(images), classes, bn=0.5).backward()
    torch.testing.assert_close(compensator.grad[0], images.grad.sum(0))
    assert bases.grad is None
    assert images.grad.flatten(1).abs().sum(1).all()


def test_the_order_of_classes_does_not_matter():
    network, images, classes = teacher(), seeded(4, 3, 8, 8), torch.tensor([2, 0, 1, 0])
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(
        matching_loss(network, images, classes, bn=0.5), matching_loss(network, images[order], classes[order], bn=0.5)
    )


def test_the_gradient_is_that_of_finite_differences():
    network, bases, classes = teacher("convnet2-bn-w2", (2, 4, 4)), seeded(3, 2, 4, 4), torch.arange(3)
    view = SharedView((2, 1), (0, 1, 3, 3), True)
    compensator = (0.1 * seeded(1, 2, 4, 4, seed=2)).requires_grad_()

    def loss(u):
        return matching_loss(network, view(bases + u), classes, bn=0.5, variance=2.0)

    assert torch.autograd.gradcheck(loss, compensator, atol=1e-5)


def test_nothing_of_the_network_changes_and_no_hook_stays():
    network, compensator = teacher(), torch.zeros(1, 3, 8, 8).double().requires_grad_()
    before = digest(network)
    matching_loss(network, seeded(3, 3, 8, 8) + compensator, torch.arange(3), bn=1).backward()
    assert digest(network) == before
    assert all(p.grad is None for p in network.parameters())
    assert not any(layer._forward_pre_hooks for layer in layers_of(network))


def adam(parameter, images_of, network, steps):
    """Steps of SRe2L's recovery of one image of one class, whatever its parameter is."""
    optimizer = torch.optim.Adam([parameter], lr=0.25, betas=(0.5, 0.9), eps=1e-8)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate_at(step, 0.25, steps, schedule="cosine")
        optimizer.zero_grad()
        slow_loss(network, images_of(parameter), torch.tensor([0]), 0.01, 10.0, 1.0, ()).backward()
        optimizer.step()
    return images_of(parameter).detach()


def test_one_network_and_one_class_reduce_to_sre2l_from_a_real_image():
    network, base = teacher(classes=1), seeded(1, 3, 8, 8)
    of_pixels = adam(base.clone().requires_grad_(), lambda x: x, network, 6)
    compensator = torch.zeros_like(base).requires_grad_()
    optimizer = torch.optim.Adam([compensator], lr=0.25, betas=(0.5, 0.9), eps=1e-8)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = rate_at(step, 0.25, 6, schedule="cosine")
        optimizer.zero_grad()
        matching_loss(network, base + compensator, torch.tensor([0]), bn=0.01).backward()
        optimizer.step()
    torch.testing.assert_close((base + compensator).detach(), of_pixels, rtol=1e-9, atol=1e-9)
    assert (of_pixels - base).abs().max() > 0.1


# ---- views -----------------------------------------------------------------------------------------------------------


def viewing(size, **options):
    """Settings that a view of images of this size asks for, and the images it makes of a ramp."""
    asked = {}
    run = SimpleNamespace(
        source=SimpleNamespace(size=size, mirror_symmetric=True),
        generator=lambda *key: generator(0, *key),
        setting=lambda name, value, progress: asked.setdefault(name, value),
        view=lambda batch, phase: batch,
        draw=lambda phase, **given: lambda batch: batch,
    )
    images = torch.arange(float(size * size)).view(1, 1, size, size)
    batch = INFER(**options).viewed(images, torch.tensor([0]), Task("distil", "t", 10), 3, run)
    return asked, images, batch.inputs


@pytest.mark.parametrize(("size", "asked"), [(32, {}), (64, {"match.crop_scale": 0.08})])
def test_images_are_cropped_from_64_pixels_on_by_a_share_that_enhancements_may_change(size, asked):
    found, images, seen = viewing(size)
    assert found == asked
    assert torch.equal(seen.flatten().sort().values, images.flatten()) == (not asked)


def test_crops_can_be_switched_on_and_off_and_rolls_too():
    assert viewing(32, crop="resized", scale=0.5)[0] == {"match.crop_scale": 0.5}
    asked, images, seen = viewing(64, crop="none", roll=0)
    assert not asked
    assert torch.equal(images, seen)


def test_only_efficientnets_lose_their_second_layer_and_only_if_asked():
    networks = [
        Vote(nn.Identity(), name=name) for name in ("torchvision:efficientnet_b0 (IMAGENET1K_V1)", "resnet18-bn")
    ]
    assert [INFER().skipped(vote) for vote in networks] == [(), ()]
    assert [INFER(skip_efficientnet=True).skipped(vote) for vote in networks] == [(1,), ()]
