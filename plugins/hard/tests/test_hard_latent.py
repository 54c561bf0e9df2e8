"""Changes by an autoencoder's codes: the bound it is trained by, what it learns, files, identity, bounds, a training that uses it."""

import pytest
import torch
from click.testing import CliRunner
from ddcore_hard import HARD
from ddcore_hard.augmentor import Augmentor, Bounds
from ddcore_hard.autoencoder import Autoencoder, fit, left_out, main, negative_elbo, pixels_of, read
from torch.distributions import Normal, kl_divergence

from ddcore import InputError
from ddcore.cli.app import invoke
from ddcore.data.sources import open_source
from ddcore.storage.places import Place, load_tensors, save_tensors

BOUNDS = {
    "rotation": 30.0,
    "shift": 0.25,
    "scale": 1.4,
    "shear": 0.0,
    "flow_shift": 0.1,
    "gain": 1.5,
    "colour_shift": 0.2,
}


def seeded(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coder(channels=2, size=9, latent=5, width=4):
    torch.manual_seed(0)
    return Autoencoder(channels, size, latent, width).double()


IMAGES = seeded(6, 2, 9, 9)


# ---- the autoencoder -------------------------------------------------------------------------------------------------


def test_the_bound_is_that_of_torchs_distributions_without_the_constant():
    mean, log_variance = seeded(6, 5, seed=1) - 0.5, seeded(6, 5, seed=2) - 0.5
    decoded = seeded(6, 2, 9, 9, seed=3)
    said = Normal(decoded, 0.1).log_prob(IMAGES) - Normal(IMAGES, 0.1).log_prob(IMAGES)
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    apart = kl_divergence(Normal(mean, (log_variance / 2).exp()), prior)
    due = (-said.flatten(1).sum(1) + apart.sum(1)).mean()
    torch.testing.assert_close(negative_elbo(IMAGES, decoded, mean, log_variance), due)


@pytest.mark.parametrize("size", [4, 7, 8, 9, 14])
def test_codes_and_images_have_the_shapes_that_are_due(size):
    network, images = coder(size=size), seeded(3, 2, size, size)
    mean, log_variance = network.encode(images)
    assert mean.shape == log_variance.shape == (3, 5)
    decoded = network.decode(mean)
    assert decoded.shape == images.shape and decoded.min() > 0 and decoded.max() < 1


def test_it_learns_what_images_have_in_common_and_a_seed_repeats_it():
    source, losses = open_source("digits"), []
    images, other = source.train.stored, source.test.stored
    made = fit(images, 8, width=8, epochs=6, batch=16, rate=3e-3, seed=1, told=lambda epoch, loss: losses.append(loss))
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.6 * losses[0]
    spread = float((pixels_of(other) - pixels_of(images).mean(0)).square().double().mean().sqrt())
    assert left_out(made, other) < 0.8 * spread
    log_variance = made.encode(pixels_of(other))[1].mean(0)
    assert log_variance.min() < -1  # without noise on codes only the prior pulls, to 0
    weights = fit(images[:200], 8, width=8, epochs=1, seed=1).state_dict()
    again, third = (fit(images[:200], 8, width=8, epochs=1, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())
    assert not torch.equal(weights["mean.weight"], third["mean.weight"])
    first, other = (fit(images[:1], 8, width=8, epochs=0, seed=seed).mean.weight for seed in (1, 2))
    assert not torch.equal(first, other)


def test_what_is_left_out_is_a_root_of_a_mean_square():
    network = coder()
    decoded = network.decode(network.encode(IMAGES)[0]).detach()
    assert left_out(network, IMAGES, batch=4) == pytest.approx(float((decoded - IMAGES).square().mean().sqrt()))


def test_a_file_gives_back_the_same_network_held_fixed(tmp_path):
    network = Autoencoder(2, 9, 5, 4)
    network.write(Place.at(tmp_path / "a.safetensors"))
    back = read(str(tmp_path / "a.safetensors"), 2, 9)
    assert torch.equal(back.decode(seeded(2, 5).float()), network.decode(seeded(2, 5).float()))
    assert not any(parameter.requires_grad for parameter in back.parameters())
    with pytest.raises(InputError, match="2 channels and 9 pixels, and these have 1 and 9"):
        read(str(tmp_path / "a.safetensors"), 1, 9)


def test_files_that_hold_something_else_are_refused(tmp_path):
    good, bad = Place.at(tmp_path / "good.safetensors"), Place.at(tmp_path / "bad.safetensors")
    Autoencoder(2, 9, 5, 4).write(good)
    metadata = {"kind": "ddcore-hard autoencoder", "shape": '{"channels": 2, "size": 9, "latent": 6, "width": 4}'}
    for tensors, about in (
        ({"x": torch.ones(2)}, {}),
        (load_tensors(good), metadata),
        (load_tensors(good), {**metadata, "shape": "3"}),
    ):
        save_tensors(bad, tensors, about, sealed=True)
        with pytest.raises(InputError, match="holds no autoencoder"):
            read(bad.url, 2, 9)
    save_tensors(bad, load_tensors(good), {**metadata, "shape": metadata["shape"].replace("6", "5")})
    with pytest.raises(InputError):
        read(bad.url, 2, 9)
    altered = bytearray((tmp_path / "good.safetensors").read_bytes())
    altered[-3] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(altered)
    with pytest.raises(InputError):
        read(bad.url, 2, 9)


# ---- changes ---------------------------------------------------------------------------------------------------------


def augmentor(kinds=("latent",), far=1.0, spread=0.0):
    torch.manual_seed(1)
    made = Augmentor(2, Bounds(kinds=frozenset(kinds), code_shift=far, **BOUNDS), spread, coder().requires_grad_(False))
    return made.double()


def test_it_begins_with_the_very_images_however_poor_the_reconstruction():
    made = augmentor()
    noise = made.noise(IMAGES, torch.Generator().manual_seed(1))
    values = made.values(IMAGES, noise)
    assert values.shape == (6, 5) and noise.shape == (6, 13)
    torch.testing.assert_close(made(IMAGES, values), IMAGES, atol=1e-15, rtol=0)
    assert left_out(made.autoencoder, IMAGES) > 0.1


def test_codes_move_by_the_values_times_their_bound():
    made, values = augmentor(far=0.7), 2 * seeded(6, 5, seed=4) - 1
    code = made.autoencoder.encode(IMAGES)[0]
    due = IMAGES + made.autoencoder.decode(code + 0.7 * values) - made.autoencoder.decode(code)
    torch.testing.assert_close(made(IMAGES, values), due.clamp(0, 1))
    assert not torch.allclose(due, IMAGES)


def test_codes_come_first_and_other_changes_keep_their_own_values():
    kinds, values = ("affine", "colour", "latent"), 2 * seeded(6, 6 + 4 + 5, seed=4) - 1
    both, alone = augmentor(kinds), augmentor()
    plain = Bounds(kinds=frozenset({"affine", "colour"}), **BOUNDS)
    torch.testing.assert_close(
        both(IMAGES, values), plain.changed(alone(IMAGES, values[:, 10:]), values[:, :10]).clamp(0, 1)
    )


def test_the_augmentor_sees_the_code_and_is_moved_through_it_while_the_autoencoder_stays():
    made = augmentor()
    torch.nn.init.normal_(made.last.weight)
    noise = torch.zeros(6, 13).double()
    values = made.values(IMAGES, noise)
    # two images of the same small picture, and of other codes
    made.body[0].weight.data[:, : 2 * 49] = 0
    seen = made.values(IMAGES, noise)
    assert seen.std(0).min() > 0 and values.abs().max() <= 1
    made(IMAGES, values).square().sum().backward()
    assert made.last.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in made.autoencoder.parameters())


def test_an_autoencoder_and_its_changes_belong_together():
    for wrong in ({"changes": "latent"}, {"autoencoder": "a.safetensors"}):
        with pytest.raises(ValueError, match="belong together"):
            HARD(**wrong)


# ---- as users do it ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    file = tmp_path_factory.mktemp("coder") / "coder.safetensors"
    said = CliRunner().invoke(main, ["--data=digits", f"--out={file}", "--latent=6", "--width=8", "--epochs=3"])
    assert said.exit_code == 0 and "leave out 0." in said.output
    return file


def test_students_learn_from_images_with_changed_codes_and_a_seed_repeats_them(trained, tmp_path):
    quick = [
        "--data=digits",
        "--per-class=5",
        "--student=convnet1-w4",
        "--protocol=kd-6",
        "--eval-seeds=1",
        "--threads=1",
    ]
    quick += ["--teacher=convnet1-w4", "--teachers.epochs=1", "--teachers.no-check", f"--cache={tmp_path / 'cache'}"]
    quick += ["--plugin=hard", "--hard.every=1", "--hard.warmup=0", "--no-plain"]
    latent = ["--hard.changes=latent", f"--hard.autoencoder={trained}"]
    for name, words in (("a", latent), ("b", latent), ("c", ["--hard.hard-share=0"])):
        assert invoke(["train", *quick, *words, f"--out={tmp_path / name}"]) == 0
    one, again, plain = (load_tensors(Place.at(tmp_path / name / "students/student-0.safetensors")) for name in "abc")
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    assert not all(torch.equal(tensor, plain[name]) for name, tensor in one.items())


def test_data_without_square_images_and_missing_data_are_said_in_a_sentence(tmp_path):
    import numpy as np

    images = np.zeros((8, 6, 5, 1), np.uint8)
    labels = np.arange(8) % 2
    np.savez(tmp_path / "flat.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    for data in (f"npz:{tmp_path / 'flat.npz'}", f"npz:{tmp_path / 'none.npz'}"):
        said = CliRunner().invoke(main, [f"--data={data}", f"--out={tmp_path / 'x.safetensors'}"])
        assert said.exit_code == 1 and said.output.startswith("Error: ") and said.output.count("\n") == 1
    assert not (tmp_path / "x.safetensors").exists()
