"""Normalisations against closed forms, their exact inverses, and their description in headers and tensors."""

import pytest
import torch

from ddcore.data import normalisation
from ddcore.data.normalisation import ZCA, Identity, MeanStd, Normalisation, fit, fit_zca
from ddcore.data.source import Source, Split
from ddcore.errors import InputError
from ddcore.images.statistics import mean_and_covariance, mean_and_deviation
from ddcore.storage.places import Place


def drawn(count, channels=3, size=4):
    """Correlated uint8 images."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randint(0, 128, (count, channels, size, size), generator=generator)
    return (noise + noise.roll(1, -1)).to(torch.uint8)


def source(stored, **given):
    labels = torch.arange(len(stored)) % 2
    return Source(name="x", train=Split(stored, labels), test=Split(stored, labels), classes=("a", "b"), **given)


def test_mean_and_deviation_by_hand():
    # channel 0: 0 and 255 -> mean 1/2, deviation 1/2; channel 1: 51 everywhere -> mean 0.2, deviation 0
    stored = torch.tensor([[[[0]], [[51]]], [[[255]], [[51]]]], dtype=torch.uint8)
    mean, std = mean_and_deviation(stored)
    assert mean == pytest.approx((0.5, 0.2)) and std == pytest.approx((0.5, 0.0))


def test_statistics_in_chunks_equal_those_of_the_whole(monkeypatch):
    stored = drawn(37)
    whole = stored.double() / 255
    monkeypatch.setattr("ddcore.images.statistics.VALUES_AT_ONCE", 5 * 48)
    monkeypatch.setattr("ddcore.images.statistics.PRODUCT_ROWS", 7)
    mean, std = mean_and_deviation(stored)
    assert mean == pytest.approx(whole.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(whole.std((0, 2, 3), unbiased=False).tolist())
    _, covariance = mean_and_covariance(stored)
    torch.testing.assert_close(covariance, torch.cov(whole.flatten(1).T), rtol=1e-5, atol=1e-7)


def test_mean_std_by_hand():
    # (0.75 - 0.5) / 0.25 = 1, (0.2 - 0.1) / 0.4 = 0.25
    images = torch.tensor([0.75, 0.2]).reshape(1, 2, 1, 1)
    normalised = MeanStd((0.5, 0.1), (0.25, 0.4)).apply(images)
    torch.testing.assert_close(normalised.flatten(), torch.tensor([1.0, 0.25]))


def test_normalised_train_images_have_mean_0_and_deviation_1_per_channel():
    stored = drawn(50)
    normalised = fit("mean-std", source(stored)).apply(stored / 255)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3), unbiased=False), torch.ones(3))


def test_numbers_that_a_source_gives_are_kept():
    given = fit("mean-std", source(drawn(8), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)))
    assert given == MeanStd((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_constant_channel_does_not_divide_by_zero():
    stored = drawn(6)
    stored[:, 1] = 7
    fitted = fit("mean-std", source(stored))
    assert fitted.std[1] == 1.0 and torch.isfinite(fitted.apply(stored / 255)).all()


@pytest.mark.parametrize("kind", ["mean-std", "zca", "none"])
def test_the_inverse_undoes_apply_also_outside_the_unit_range(kind):
    fitted = fit(kind, source(drawn(60)))
    images = torch.linspace(-0.5, 1.5, 2 * 48).reshape(2, 3, 4, 4)
    torch.testing.assert_close(fitted.inverse(fitted.apply(images)), images, atol=2e-6, rtol=0)
    torch.testing.assert_close(fitted.apply(fitted.inverse(images)), images, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", ["mean-std", "zca", "none"])
def test_header_and_tensors_describe_the_map_completely(kind):
    import json

    fitted, images = fit(kind, source(drawn(20))), drawn(3) / 255
    again = Normalisation.load(json.loads(json.dumps(fitted.header())), fitted.tensors())
    assert fitted.header()["kind"] == kind and type(again) is type(fitted)
    assert torch.equal(again.apply(images), fitted.apply(images))
    assert torch.equal(again.inverse(images), fitted.inverse(images))


@pytest.mark.parametrize("kind", ["mean-std", "zca", "none"])
def test_gradients_pass_and_the_float_type_is_kept(kind):
    fitted = fit(kind, source(drawn(20, 1, 2)))
    images = torch.rand(2, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(fitted.apply, images) and torch.autograd.gradcheck(fitted.inverse, images)


def test_zca_whitens_to_the_spectrum_of_its_definition():
    stored = drawn(200, 1, 4)
    whole = stored.double().flatten(1) / 255
    spectrum, basis = torch.linalg.eigh(torch.cov(whole.T))
    whitened = fit_zca(stored).apply(stored.double() / 255).flatten(1)
    due = (basis * (spectrum / (spectrum + 0.1))) @ basis.T
    torch.testing.assert_close(torch.cov(whitened.T), due, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(whitened.mean(0), torch.zeros(16, dtype=torch.float64), atol=1e-6, rtol=0)


def test_zca_equals_the_formula_written_out():
    stored = drawn(30, 3, 2)
    x = stored.double().flatten(1) / 255
    m = sum(x) / 30
    covariance = sum(torch.outer(row - m, row - m) for row in x) / 29
    u, s, _ = torch.linalg.svd(covariance)
    due = (x - m) @ (u @ torch.diag((s + 0.1) ** -0.5) @ u.T)
    got = fit_zca(stored).apply(stored.double() / 255).flatten(1)
    torch.testing.assert_close(got, due, atol=1e-6, rtol=1e-5)


def test_zca_of_identical_images_maps_them_to_zero():
    stored = drawn(1, 1, 3).expand(4, -1, -1, -1)
    fitted = fit_zca(stored)
    torch.testing.assert_close(fitted.apply(stored / 255), torch.zeros(4, 1, 3, 3), atol=1e-6, rtol=0)
    # no variance at all: W = 0.1^-1/2 I
    torch.testing.assert_close(fitted.whiten, torch.eye(9) / 0.1**0.5)


def test_a_cached_zca_is_not_fitted_again_and_is_the_same(tmp_path, monkeypatch):
    data, images = source(drawn(20)), drawn(2) / 255
    first = fit("zca", data, Place.at(tmp_path))
    monkeypatch.setattr(normalisation, "fit_zca", lambda stored: pytest.fail("fitted again"))
    again = fit("zca", data, Place.at(tmp_path))
    assert isinstance(again, ZCA) and torch.equal(first.apply(images), again.apply(images))


def test_other_data_do_not_get_a_cached_zca(tmp_path):
    first, other = (fit("zca", source(drawn(count)), Place.at(tmp_path)) for count in (20, 30))
    assert not torch.equal(first.tensors()["whiten"], other.tensors()["whiten"])


def test_none_changes_nothing():
    images = drawn(2) / 255
    assert fit("none", source(drawn(2))).apply(images) is images and Identity().header() == {"kind": "none"}


def test_an_unknown_kind_gets_a_near_match():
    with pytest.raises(InputError, match="normalisation 'zcaa' is not known: did you mean 'zca'"):
        fit("zcaa", source(drawn(2)))
    with pytest.raises(InputError, match="'whitening' is not known here: choose one of mean-std, none, zca"):
        Normalisation.load({"kind": "whitening"}, {})


def test_a_header_that_lacks_something_is_refused():
    with pytest.raises(InputError, match="'zca' lacks its 'mean'"):
        Normalisation.load({"kind": "zca"}, {})
    with pytest.raises(InputError, match="'mean-std' lacks its 'std'"):
        Normalisation.load({"kind": "mean-std", "mean": [0.5]}, {})


def test_mean_and_std_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="as long as each other and std above 0"):
        MeanStd((0.5,), (0.0,))
    with pytest.raises(InputError, match="3 channels where this normalisation has 1"):
        MeanStd((0.5,), (1.0,)).apply(torch.zeros(2, 3, 4, 4))
