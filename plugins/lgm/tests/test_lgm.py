"""lgm's pieces: the closed form of a linear layer's gradient, images as levels, encoders by name, probes."""

import sys

import pytest
import torch
from ddcore_lgm import LGM, Probe, appearance, nearest, reshuffled
from ddcore_lgm.encoders import AT_ONCE, Encoder, encoder_of, fitting, place_of
from ddcore_lgm.matching import LevelAdam, gradient_distance, latent, linear_gradient, shown, sides
from torch import nn
from torch.nn import functional as F

from ddcore.errors import InputError, OptionError
from ddcore.kit.contract.stage import staged
from ddcore.networks import build
from ddcore.storage import save_tensors
from ddcore.storage.places import Place


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_linear_layer_s_gradient_is_autograd_s():
    features, classes = seeded(7, 5).requires_grad_(), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    weight, bias = seeded(3, 5, seed=1).requires_grad_(), seeded(3, seed=2).requires_grad_()
    due = torch.autograd.grad(F.cross_entropy(features @ weight.T + bias, classes), [weight, bias])
    torch.testing.assert_close(
        linear_gradient(features, classes, weight, bias), torch.cat([part.flatten() for part in due])
    )
    real = seeded(18, seed=3)
    assert torch.autograd.gradcheck(
        lambda z: gradient_distance(real, linear_gradient(z, classes, weight.detach(), bias.detach())), [features]
    )


def test_a_gradient_by_hand():
    # zero weights: p = (1/2, 1/2); z = (2, 4) of class 0: p - y = (-1/2, 1/2)
    found = linear_gradient(torch.tensor([[2.0, 4.0]]), torch.tensor([0]), torch.zeros(2, 2), torch.zeros(2))
    assert found.tolist() == [-1.0, -2.0, 1.0, 2.0, -0.5, 0.5]


def test_gradients_that_point_alike_are_at_distance_zero_and_opposite_ones_at_two():
    one = seeded(9)
    for factor, due in ((1, 0.0), (7, 0.0), (-3, 2.0)):
        torch.testing.assert_close(gradient_distance(one, factor * one), torch.tensor(due, dtype=torch.float64))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_an_image_s_level_shows_is_the_image(channels):
    images = seeded(2, channels, 6, 6).sigmoid()
    torch.testing.assert_close(shown([latent(images)], 6), images.clamp(0.01, 0.99))
    assert sides(6, True) == [1, 2, 4, 6] and sides(8, True) == [1, 2, 4, 8] and sides(1, True) == [1]


def usual_pyramid(images, show, noise, sizes, rate, every, gradients):
    """The same with torch's Adam, made anew whenever a level comes."""
    levels = [noise(0).clone().requires_grad_()]
    optimizer = torch.optim.Adam(levels, lr=rate)
    for taken, gradient in enumerate(gradients, 1):
        optimizer.zero_grad()
        show(levels).backward(gradient)
        optimizer.step()
        if taken > 1 and (taken - 1) % every == 0 and len(levels) < len(sizes):
            old, new = len(levels), len(levels) + 1
            levels = [(p.detach() * old / new).requires_grad_() for p in levels]
            levels.append((noise(old) / new).requires_grad_())
            optimizer = torch.optim.Adam(levels, lr=rate)
        yield show(levels).detach()


def test_levels_move_as_under_torch_s_adam_that_begins_anew_with_each_level_and_a_resumed_one_goes_on():
    sizes, gradients = sides(6, True), [seeded(2, 3, 6, 6, seed=n) for n in range(9)]
    start = seeded(2, 3, 6, 6, seed=99)

    def noise(number):
        return reshuffled(start, sizes[number], torch.Generator().manual_seed(number))

    def show(levels):
        return 3 * shown(levels, 6) - 1

    def fresh():
        images = start.clone().requires_grad_()
        return images, LevelAdam(images, show, noise, len(sizes), lr=0.1, every=2)

    images, optimizer = fresh()
    torch.testing.assert_close(images.detach(), show([noise(0)]))
    for step, due in enumerate(usual_pyramid(images, show, noise, sizes, 0.1, 2, gradients)):
        if step == 5:
            kept, state = images.detach().clone(), optimizer.state_dict()
            images, optimizer = fresh()
            optimizer.load_state_dict(state)
            with torch.no_grad():
                images.copy_(kept)
        images.grad = gradients[step].clone()
        optimizer.step()
        torch.testing.assert_close(images.detach(), due)
    assert len(optimizer.levels(images)) == 4


def test_noise_is_each_image_s_own_and_keeps_its_deviation():
    noise = seeded(50, 3, 8, 8)
    made = reshuffled(noise, 8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.flatten(1).abs().sort(1).values, noise.flatten(1).abs().sort(1).values)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    small, turned = (reshuffled(n, 2, torch.Generator().manual_seed(3)) for n in (noise, noise[order]))
    torch.testing.assert_close(turned, small[order])
    assert small.shape == (50, 3, 2, 2)


def test_classes_are_ranked_by_where_they_first_appear():
    assert appearance(torch.tensor([2, 0, 2, 1, 0]), 4).tolist() == [1, 2, 0, 3]


def test_the_nearest_to_the_mean_come_first():
    assert nearest(torch.tensor([[0.0], [10.0], [4.0], [6.0]])).tolist() == [2, 3, 0, 1]
    assert nearest(torch.tensor([[0.0], [10.0], [4.0]])).tolist() == [2, 0, 1]


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.passed = 0

    def embed(self, images):
        self.passed += len(images)
        return 2 * images.flatten(1)


def test_an_image_that_was_seen_is_not_passed_again():
    network = Doubling()
    encoder = Encoder("x", "y", network, 12)
    images = torch.randn(5, 3, 2, 2)
    torch.testing.assert_close(encoder.features(images), 2 * images.flatten(1))
    assert network.passed == AT_ONCE
    again = torch.cat([images[3:], images[:1], images[:1]])
    torch.testing.assert_close(
        encoder.features(again.contiguous(memory_format=torch.channels_last)), 2 * again.flatten(1)
    )
    assert network.passed == AT_ONCE
    encoder.features(torch.randn(1, 3, 2, 2))
    assert network.passed == 2 * AT_ONCE


def test_features_do_not_depend_on_the_images_beside_them():
    network = build("convnet2-w8", 3, 16, 5, torch.Generator().manual_seed(0)).eval()
    images = torch.randn(40, 3, 16, 16)
    together = Encoder("x", "y", network, 128).features(images)
    alone = torch.cat([Encoder("x", "y", network, 128).features(image[None]) for image in images])
    assert torch.equal(together, alone)


def test_memory_is_emptied_when_it_is_full(monkeypatch):
    monkeypatch.setattr("ddcore_lgm.encoders.MOST", 3 * 12 * 4)
    encoder = Encoder("x", "y", Doubling(), 12)
    images = torch.randn(3, 3, 2, 2)
    encoder.features(images)
    more = torch.cat([images[:1], torch.randn(1, 3, 2, 2)])
    torch.testing.assert_close(encoder.features(more), 2 * more.flatten(1))


def test_a_probe_trains_a_linear_layer_and_nothing_else():
    encoder = Encoder("x", "y", Doubling(), 12)
    probe = Probe(nn.Linear(2, 2), encoder, 4)
    assert [name for name, p in probe.named_parameters() if p.requires_grad] == ["linear.weight", "linear.bias"]
    images = torch.randn(3, 3, 2, 2, requires_grad=True)
    probe(images).sum().backward()
    assert images.grad is not None and "network" not in " ".join(probe.state_dict())


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Weights of a small encoder in a file, and in a package."""
    network = build("convnet2-bn-w4", 3, 8, 5, torch.Generator().manual_seed(3))
    state = {name: t.clone() for name, t in network.state_dict().items()}
    save_tensors(Place.at(str(tmp_path / "encoder.safetensors")), state, {})
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    torch.save({f"net_{n}": t for n, t in enumerate(state.values())}, package / "theirs.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "encoder.safetensors"


def run_of(tmp_path, **more):
    given = {
        "lgm__encoder": "convnet2-bn-w4",
        "lgm__classes": 5,
        "ipc": 1,
        "steps": 3,
        "cache": str(tmp_path / "cache"),
    }
    return staged(
        ["--plugin", "lgm"], tmp_path / f"run-{len(list(tmp_path.iterdir()))}-{sorted(more)}", {**given, **more}
    )


def test_an_encoder_is_the_same_from_a_file_and_a_package_which_is_not_imported(weights, tmp_path):
    runs = [
        run_of(tmp_path, lgm__weights=word)
        for word in (str(weights), "package:some_weights", "package:some_weights/theirs.pth")
    ]
    found = [encoder_of(run.matcher, run) for run in runs]
    assert len({encoder.digest for encoder in found}) == 1 and "some_weights" not in sys.modules
    assert found[0].name == "convnet2-bn-w4" and not any(p.requires_grad for p in found[0].network.parameters())


def test_students_are_named_by_the_encoder_and_not_by_how_the_set_is_made(weights, tmp_path):
    one, other, third = (
        run_of(tmp_path, lgm__weights=str(weights), **more)
        for more in ({}, {"lgm__rate": 0.5}, {"lgm__normalise": "imagenet"})
    )
    told = [run.matcher.student_identity(run) for run in (one, other, third)]
    assert told[0] == told[1] != told[2]
    assert told[0]["network"] == "probe of convnet2-bn-w4" and str(weights) not in str(told[0])


def test_refusals_say_what_to_give(weights, tmp_path):
    for more, error, words in (
        ({}, OptionError, "has no weights, and a random encoder knows nothing"),
        ({"lgm__weights": "package:no_such_thing"}, InputError, "no package 'no_such_thing' is installed"),
        ({"lgm__weights": str(weights), "lgm__classes": 6}, InputError, "its classes by --lgm.classes"),
        (
            {"lgm__weights": str(weights), "dataset": "tiny:grey", "lgm__normalise": "half"},
            InputError,
            "take data|is due",
        ),
    ):
        run = run_of(tmp_path, **more)
        with pytest.raises(error, match=words):
            encoder_of(run.matcher, run)
    (tmp_path / "some_weights" / "more.pth").write_bytes(b"")
    with pytest.raises(InputError, match="no one file of weights"):
        place_of("x", "package:some_weights")
    with pytest.raises(InputError, match="'a' lacking"):
        fitting({"b": torch.zeros(1), "c": torch.zeros(1)}, {"a": torch.zeros(1)}, "x")


def test_teachers_are_asked_for_only_where_one_is_the_encoder():
    assert LGM().assets(None) == ("teachers",) and LGM(encoder="mlp").assets(None) == ()
