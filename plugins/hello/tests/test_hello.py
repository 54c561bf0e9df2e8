"""HeLlO's pieces: prototypes, the scale, weak teachers, patches whose features are kept."""

import pytest
import torch
from ddcore_hello.projecting import WeakAnswers, fitted_scale, prototypes
from ddcore_hello.updating import enlarged, feature_gaps, updated
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore.api.types import Batch
from ddcore.errors import InputError
from ddcore.labels import View
from ddcore.networks.zoo import build
from ddcore.training.loop import Descent, batch_of, train_student

K, SIZE = 3, 8


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def network(seed: int = 0, size: int = SIZE) -> nn.Module:
    found = build("convnet2-bn-w8", 1, size, K, seeded(seed))
    assert found is not None
    return found.double().eval().requires_grad_(False)


# ---- the head --------------------------------------------------------------------------------------------------------


def test_prototypes_are_unit_means_of_unit_features_less_their_mean():
    features, classes = noise(7, 4), torch.tensor([0, 1, 2, 0, 0, 2, 1])
    rows = []
    for cls in range(K):
        mean = torch.stack([f / f.norm() for f, c in zip(features, classes.tolist(), strict=True) if c == cls]).mean(0)
        rows.append(mean / mean.norm())
    due = torch.stack(rows)
    torch.testing.assert_close(prototypes(features, classes, K), due - due.mean(0))


def test_prototypes_do_not_hang_on_the_length_of_features_or_their_order():
    features, classes = noise(6, 4), torch.arange(6) % K
    made = prototypes(features, classes, K)
    order = torch.randperm(6, generator=seeded())
    torch.testing.assert_close(prototypes((features * torch.arange(1, 7)[:, None])[order], classes[order], K), made)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_prototypes_of_half_precision_are_those_of_float64_even_where_a_feature_is_zero(dtype):
    features, classes = (noise(9, 4) / 100).to(dtype), torch.arange(9) % K
    features[3] = 0
    made = prototypes(features, classes, K)
    assert made.dtype == dtype
    torch.testing.assert_close(made.double(), prototypes(features.double(), classes, K), atol=5e-3, rtol=0)


def test_taking_the_mean_away_changes_no_decision():
    features, classes, seen = noise(30, 4).relu(), torch.arange(30) % K, noise(50, 4, seed=1)
    sums = torch.stack([F.normalize(features, dim=1)[classes == cls].sum(0) for cls in range(K)])
    plain = seen @ F.normalize(sums, dim=1).T
    assert torch.equal((seen @ prototypes(features, classes, K).T).argmax(1), plain.argmax(1))


def test_the_scale_is_the_least_squares_one_and_ignores_what_all_classes_share():
    own, wanted = noise(9, K), noise(9, K, seed=1)
    wanted += 4 * own
    scale = fitted_scale(own, wanted)

    def gap(s: float) -> float:
        centred = (wanted - wanted.mean(1, keepdim=True)) - s * (own - own.mean(1, keepdim=True))
        return float(centred.square().sum())

    assert gap(scale) < min(gap(scale * 1.001), gap(scale * 0.999))
    assert fitted_scale(own + noise(9, 1), wanted + 100) == pytest.approx(scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_scale_of_half_precision_has_room_for_the_sums(dtype):
    # own is +-16 and wanted 3 times that, so that the squares add up to 512 * 2 * 256, four times what float16 holds
    own = torch.tensor([16.0, -16.0]).expand(512, 2).to(dtype)
    assert fitted_scale(own, 3 * own) == 3.0
    assert fitted_scale(own, -own) == 1.0
    assert fitted_scale(torch.zeros(2, K), torch.ones(2, K)) == 1.0


# ---- weak teachers ---------------------------------------------------------------------------------------------------


def answers(weak: str = "mean", **more: object) -> WeakAnswers:
    return WeakAnswers(torch.arange(9) % K, K, [network(seed) for seed in range(3)], weak=weak, **more)


def test_weak_teachers_are_averaged_by_their_weights():
    shown = noise(2, 1, SIZE, SIZE)
    batch = Batch(shown, {"class": torch.tensor([0, 1])}, torch.arange(2))
    every = torch.stack([network(seed)(shown) for seed in range(3)])
    torch.testing.assert_close(answers().answered(batch).targets["logits"], every.mean(0))
    weighed = answers(weights=[0.5, 0.25, 0.25]).answered(batch).targets["logits"]
    torch.testing.assert_close(weighed, torch.einsum("m,mbk->bk", torch.tensor([0.5, 0.25, 0.25]).double(), every))


def test_each_in_turn_is_one_teacher_a_batch_and_the_same_again_for_the_same_epoch():
    images, turns = noise(9, 1, SIZE, SIZE), []
    own = answers("each")
    for view in own.views(0, 9, 1, seeded(4)):
        batch = own.answered(batch_of(images, own, view))
        every = [network(seed)(batch.inputs) for seed in range(3)]
        turns.append(next(n for n, z in enumerate(every) if torch.allclose(z, batch.targets["logits"])))
    again = []
    for _ in own.views(0, 9, 1, seeded(4)):
        again.append(own._turn)
    assert turns == again and set(turns) == {0, 1, 2}


def test_weak_teachers_in_training_mode_are_refused():
    own = answers()
    own.teachers[1].train()
    with pytest.raises(InputError, match="training mode"):
        own.answered(Batch(noise(2, 1, SIZE, SIZE), {}, torch.arange(2)))


def test_fitting_minimises_mse_plus_lambda_cross_entropy():
    images = noise(4, 1, SIZE, SIZE)
    own = WeakAnswers(torch.tensor([0, 1, 2, 0]), K, [network()], hard=0.7)

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(K, dtype=torch.float64))

        def forward(self, shown: Tensor) -> Tensor:
            return self.weight.expand(len(shown), K)

    def loss(weight: Tensor) -> Tensor:
        f = weight.expand(4, K)
        return F.mse_loss(f, network()(images)) + 0.7 * F.cross_entropy(f, own.classes)

    start = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(start), start)
    fitted = Constant()
    train_student(fitted, images, own, Descent(steps=1, batch=4, rate=0.1), generator=lambda *key: seeded())
    torch.testing.assert_close(fitted.weight.detach(), -0.1 * gradient)


def test_weak_answers_say_nothing_before_images_are_as_they_are_seen():
    own = answers()
    assert set(own.targets(View(torch.arange(2)), None)) == {"class"}
    assert own.online and own.tensors() == {}


# ---- pixels ----------------------------------------------------------------------------------------------------------


def encode(images: Tensor) -> Tensor:
    return network(size=16).embed(images)


def test_nothing_scaled_down_is_nothing_lost():
    patches = noise(3, 1, 16, 16)
    gaps = feature_gaps(patches, encode(patches), encode, 16)
    assert torch.equal(gaps, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(updated(patches, patches, encode, steps=3, rate=0.1), patches)


def test_the_gap_is_the_mean_over_features_of_each_patch():
    patches, originals = noise(2, 1, 8, 8), noise(2, 1, 16, 16, seed=1)
    up = F.interpolate(patches, (16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(enlarged(patches, 16), up)
    due = [F.mse_loss(encode(up[i : i + 1]), encode(originals[i : i + 1])) for i in range(2)]
    torch.testing.assert_close(feature_gaps(patches, encode(originals), encode, 16), torch.stack(due))


def test_the_gradient_reaches_pixels_alone_and_is_right():
    originals, weights = noise(1, 1, 8, 8, seed=1), network(size=8)
    features = weights.embed(originals).detach()
    smooth = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Flatten()).double()
    features = smooth(originals).detach()
    pixels = noise(1, 1, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: feature_gaps(p, features, smooth, 8), pixels)
    frozen = network(size=16)
    before = {name: t.clone() for name, t in frozen.state_dict().items()}
    updated(noise(2, 1, 8, 8), noise(2, 1, 16, 16, seed=2), frozen.embed, steps=2, rate=0.1)
    assert all(torch.equal(frozen.state_dict()[name], t) for name, t in before.items())
    assert all(p.grad is None for p in frozen.parameters())


def test_updating_brings_features_closer_and_never_further():
    originals = noise(5, 1, 16, 16, seed=1)
    patches = F.interpolate(originals, (8, 8), mode="bilinear", antialias=True)
    before = feature_gaps(patches, encode(originals), encode, 16)
    kept = patches.clone()
    moved = updated(patches, originals, encode, steps=30, rate=0.05)
    after = feature_gaps(moved, encode(originals), encode, 16)
    assert (after < 0.8 * before).all()
    assert torch.equal(patches, kept)
    wild = feature_gaps(updated(patches, originals, encode, steps=3, rate=50.0), encode(originals), encode, 16)
    assert (wild <= before).all()
    assert torch.equal(updated(patches, originals, encode, steps=0, rate=0.1), patches)


def test_updated_pixels_stay_among_the_images_that_exist():
    originals = 3 * noise(2, 1, 16, 16, seed=1)
    moved = updated(
        torch.zeros(2, 1, 8, 8).double(), originals, encode, steps=9, rate=0.5, clamp=lambda p: p.clamp(-1, 1)
    )
    assert moved.abs().max() <= 1 and moved.any()
