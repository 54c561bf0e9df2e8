"""DSA's checks as a plugin: what is shared, what is drawn from, what leaves everything as it was.

The operations' own checks (identity points, means, Jacobians, frequencies) stand with them, in the core's test_augment.
"""

from collections import Counter

import pytest
import torch
from ddcore_dsa import DSA
from torch import Tensor

from ddcore import Batch, Sequential, Transform
from ddcore.composing.discovery import checked

COLOUR = {"color", "crop", "cutout", "flip", "scale", "rotate"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def batch_of(images: Tensor) -> Batch:
    return Batch(images, {"class": torch.arange(len(images))}, torch.arange(len(images)))


class Halved:
    """What a plugin before drew."""

    def __call__(self, batch: Batch) -> Batch:
        return batch.with_inputs(batch.inputs / 2)


def drawn(plugin: DSA, before: Transform | None = None, **how) -> Transform | None:
    asked = {"count": 1, "size": (8, 8), "shared": True, "symmetric": True, "generator": seeded(), **how}
    return plugin.ddcore_augment(transform=before or Sequential(), **asked)


def names(plugin: DSA, draws: int, **how) -> Counter:
    """How often each operation was drawn."""
    generator = seeded()
    made = [drawn(plugin, generator=generator, **how) for _ in range(draws)]
    return Counter(name for transform in made for name, _ in transform.transforms[1].operations)


def test_it_is_a_plugin_for_matching_inner_training_students_and_experts_not_for_evaluation():
    assert checked(DSA, "DSA") is DSA
    assert DSA.augment_phases == ("match", "inner", "student_step", "expert")


def test_one_shared_draw_treats_real_and_synthetic_batches_as_it_treats_them_together():
    real, synthetic = noise(5, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    for seed in range(12):
        transform = drawn(DSA(), generator=seeded(seed))
        together = transform(batch_of(torch.cat([real, synthetic]))).inputs
        apart = torch.cat([transform(batch_of(real)).inputs, transform(batch_of(synthetic)).inputs])
        torch.testing.assert_close(together, apart)


def test_shared_equal_images_stay_equal_and_otherwise_become_different():
    images = batch_of(noise(1, 3, 8, 8).expand(16, 3, 8, 8))
    alone = drawn(DSA(), shared=False, count=16)(images).inputs
    alike = drawn(DSA())(images).inputs
    assert any(not torch.equal(alone[0], other) for other in alone)
    assert all(torch.equal(alike[0], other) for other in alike)


def test_auto_leaves_the_flip_out_where_a_mirror_image_changes_the_class():
    assert set(names(DSA(), 200)) == COLOUR
    assert set(names(DSA(), 200, symmetric=False)) == COLOUR - {"flip"}


def test_a_strategy_that_was_asked_for_is_kept_whatever_the_data():
    assert set(names(DSA(strategy="flip_crop"), 60, symmetric=False)) == {"flip", "crop"}


def test_flip_first_mirrors_before_one_of_the_other_operations():
    seen = names(DSA(flip_first=True), 100)
    assert seen["flip"] == 100 and sum(seen.values()) == 200
    assert sum(names(DSA(flip_first=True), 100, symmetric=False).values()) == 100


def test_mode_all_draws_every_operation():
    assert names(DSA(mode="all"), 3) == Counter(dict.fromkeys(COLOUR, 3))


def test_it_comes_after_the_plugins_before():
    images = batch_of(noise(2, 3, 8, 8))
    after = drawn(DSA(strategy="color"), Halved())(images).inputs
    alone = drawn(DSA(strategy="color"))(Halved()(images)).inputs
    other_order = Halved()(drawn(DSA(strategy="color"))(images)).inputs
    assert torch.equal(after, alone) and not torch.allclose(after, other_order)


def test_the_same_generator_draws_the_same_again():
    images = batch_of(noise(4, 3, 8, 8))
    for seed in range(6):
        first, again = (drawn(DSA(), shared=False, count=4, generator=seeded(seed))(images).inputs for _ in range(2))
        assert torch.equal(first, again)


def test_strategy_none_leaves_everything_bit_for_bit_and_draws_nothing():
    generator = seeded(3)
    assert drawn(DSA(**DSA.neutral), Halved(), generator=generator) is None
    assert torch.equal(generator.get_state(), seeded(3).get_state())


def test_the_gradient_reaches_the_pixels_through_every_operation():
    for name in sorted(COLOUR):
        transform = drawn(DSA(strategy=name), shared=False, count=2, size=(4, 4))
        images = noise(2, 3, 4, 4).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, t=transform: t(batch_of(x)).inputs, images)


def test_unknown_operations_and_modes_are_refused():
    with pytest.raises(ValueError, match="'blur'"):
        DSA(strategy="color_blur")
    with pytest.raises(ValueError, match="single"):
        DSA(mode="some")
