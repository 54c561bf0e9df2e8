import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddcore.api.types import Synthetic
from ddcore.errors import InputError
from ddcore.images import tiled
from ddcore.sets.decoders import Decoder, quantise, several

ROWS = [{"op": "rows", "tensor": "pixels"}]
LEVELS = [{"op": "dequantise", "tensor": "pixels", "scale": "scale", "offset": "offset"}]


def ramp(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=dtype).view(shape)


class Repeat:
    """Every sample before it, ``times`` times: what a later operation that combines rows has to be able to do."""

    def count(self, tensors, spec, before: int | None) -> int:
        return spec["times"] * before

    def sample(self, tensors, spec, index: Tensor, before: Callable[[Tensor], Tensor]) -> Tensor:
        return before(index // spec["times"])


def test_rows_are_the_rows_at_any_index_in_any_order():
    pixels = ramp(4, 3, 2, 2)
    decoder = Decoder(ROWS)
    assert decoder.count({"pixels": pixels}) == 4
    assert torch.equal(decoder.sample({"pixels": pixels}, torch.tensor([3, 0, 3])), pixels[[3, 0, 3]])


def test_gradients_reach_the_stored_rows_and_no_others():
    pixels = torch.zeros(3, 1, 1, 1, requires_grad=True)
    Decoder(ROWS).sample({"pixels": pixels}, torch.tensor([2, 0, 2])).sum().backward()
    assert pixels.grad.flatten().tolist() == [1, 0, 2]


def test_dequantise_by_hand():
    # channel 0: 2 * level + 1, channel 1: 10 * level - 5
    tensors = {
        "pixels": torch.tensor([0, 255, 1, 2], dtype=torch.uint8).view(2, 2, 1, 1),
        "scale": torch.tensor([2.0, 10]),
        "offset": torch.tensor([1.0, -5]),
    }
    assert Decoder(LEVELS).count(tensors) == 2
    assert Decoder(LEVELS).sample(tensors, torch.tensor([1, 0])).flatten().tolist() == [3, 15, 1, 2545]


def test_dequantise_is_differentiable_in_scale_and_offset():
    levels = ramp(2, 3, 2, 2, dtype=torch.int64).to(torch.uint8)
    leaves = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def decode(scale: Tensor, offset: Tensor) -> Tensor:
        return Decoder(LEVELS).sample({"pixels": levels, "scale": scale, "offset": offset}, torch.arange(2))

    assert torch.autograd.gradcheck(decode, leaves)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_quantised_images_come_back_within_half_a_level(seed, spread):
    images = spread * torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    low, high = images.amin((0, 2, 3)), images.amax((0, 2, 3))
    levels, scale, offset = quantise(images, low, high)
    back = Decoder(LEVELS).sample({"pixels": levels, "scale": scale, "offset": offset}, torch.arange(3))
    assert levels.dtype == torch.uint8 and levels.amin() == 0 and levels.amax() == 255
    assert ((back - images).abs() <= 0.501 * scale[:, None, None]).all()


def test_a_channel_of_one_value_survives_quantising():
    images = torch.full((2, 1, 2, 2), 0.3)
    levels, scale, offset = quantise(images, images.amin((0, 2, 3)), images.amax((0, 2, 3)))
    assert torch.equal(
        Decoder(LEVELS).sample({"pixels": levels, "scale": scale, "offset": offset}, torch.arange(2)), images
    )


def test_values_outside_the_range_become_its_ends():
    levels, _, _ = quantise(torch.tensor([-1.0, 0.5, 2.0]).view(1, 1, 1, 3), torch.zeros(1), torch.ones(1))
    assert levels.flatten().tolist() == [0, 128, 255]


def test_an_operation_may_ask_the_one_before_it_for_any_sample():
    decoder = Decoder([*ROWS, {"op": "repeat", "times": 3}], {"repeat": Repeat()})
    tensors = {"pixels": ramp(2)}
    assert decoder.count(tensors) == 6
    assert decoder.sample(tensors, torch.arange(6)).tolist() == [0, 0, 0, 1, 1, 1]
    assert decoder.sample(tensors, torch.tensor([5])).tolist() == [1]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ([], "without operations"),
        ([{"op": "row", "tensor": "pixels"}], "named 'row': did you mean 'rows'"),
        (
            [{"op": "mosaic", "distribution": "ddcore-elsewhere"}],
            "'mosaic' of ddcore-elsewhere.*pip install ddcore-elsewhere",
        ),
        ([{"op": "rows", "tensor": "pixel"}], "'pixel', which is not stored: did you mean 'pixels'"),
        ([{"op": "rows"}], "'rows' names no tensor"),
        ([{"op": "dequantise", "tensor": "pixels", "scale": "pixels"}], "'dequantise' names no offset"),
    ],
)
def test_what_cannot_be_decoded_is_refused_in_one_sentence(spec, words):
    tensors = {"pixels": ramp(2, 1, 1, 1)}
    with pytest.raises(InputError, match=words):
        Decoder(spec).sample(tensors, torch.arange(Decoder(spec).count(tensors)))


BROUGHT = """
class Negative:
    def count(self, tensors, spec, before):
        return before

    def sample(self, tensors, spec, index, before):
        return -before(index)
"""
NEGATIVE = [*ROWS, {"op": "negative", "distribution": "ddcore-brought"}]


@pytest.fixture
def bring(tmp_path, monkeypatch):
    """Installs distributions that bring an operation ``negative``."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(distribution: str, body: str = BROUGHT, value: str = "") -> None:
        module = "fake_" + distribution.replace("-", "_")
        sys.modules.pop(module, None)
        (tmp_path / f"{module}.py").write_text(body)
        about = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (about / "entry_points.txt").write_text(f"[ddcore.decoders]\nnegative = {value or module + ':Negative'}\n")

    return put


def test_an_operation_of_an_installed_distribution_is_found_by_entry_point(bring):
    with pytest.raises(InputError, match="'negative' of ddcore-brought, which is not here: pip install ddcore-brought"):
        Decoder(NEGATIVE)
    bring("ddcore-brought")
    found = Decoder(NEGATIVE).sample({"pixels": ramp(2, 1, 1, 1)}, torch.tensor([1]))
    assert found.flatten().tolist() == [-1]


def test_two_distributions_with_one_operation_are_refused_by_name(bring):
    bring("ddcore-brought")
    bring("ddcore-other")
    with pytest.raises(InputError, match="ddcore-brought and ddcore-other both bring 'negative' of ddcore.decoders"):
        Decoder(NEGATIVE)


@pytest.mark.parametrize(
    ("body", "value", "words"),
    [
        ("raise OSError('no disk')", "", "cannot be imported .OSError: no disk.: upgrade or uninstall ddcore-brought"),
        (BROUGHT, "fake_ddcore_brought:Other", "cannot be imported .AttributeError"),
        ("class Negative: pass", "", "without count and sample"),
    ],
)
def test_a_broken_operation_is_one_sentence(bring, body, value, words):
    bring("ddcore-brought", body, value)
    with pytest.raises(InputError, match=words):
        Decoder(NEGATIVE)


@pytest.mark.parametrize("name", ["os:system", "json", "ddcore_local.x:Y", "../x", "", "fake_ddcore_brought:Negative"])
def test_a_name_in_a_manifest_imports_nothing_that_is_not_an_entry_point(bring, name, monkeypatch):
    bring("ddcore-brought", "raise AssertionError('imported')")
    with pytest.raises(InputError, match="no decoder operation is named"):
        Decoder([{"op": name}])


def test_given_operations_are_asked_before_installed_ones_and_never_for_the_cores(bring):
    bring("ddcore-brought", "raise AssertionError('imported')")
    kept = Decoder([*ROWS, {"op": "negative", "times": 2}], {"negative": Repeat(), "rows": Repeat()})
    assert kept.sample({"pixels": ramp(2, 1, 1, 1)}, torch.tensor([3])).flatten().tolist() == [1]


TILES = [{"op": "rows", "tensor": "pixels"}, {"op": "tiles", "factors": [1, 2], "fill": [0.5, 0.25]}]


def test_tiles_are_read_at_any_index_as_all_at_once():
    pixels = torch.randn(
        3, 2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True
    )
    decoder = Decoder(TILES)
    assert decoder.count({"pixels": pixels}) == 15
    every = decoder.sample({"pixels": pixels}, torch.arange(15))
    assert torch.equal(every, tiled(pixels, [1, 2], torch.tensor([0.5, 0.25])))
    some = torch.tensor([14, 0, 7, 7])
    assert torch.equal(decoder.sample({"pixels": pixels}, some), every[some])
    assert torch.autograd.gradcheck(lambda p: decoder.sample({"pixels": p}, some), (pixels,))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ([{"op": "tiles", "factors": [2]}], "begins with tiles"),
        ([TILES[0], {"op": "tiles"}], "a list of whole numbers"),
        ([TILES[0], {"op": "tiles", "factors": [0]}], "a list of whole numbers"),
        ([TILES[0], {"op": "tiles", "factors": [10**9]}], "a list of whole numbers"),
        ([TILES[0], {"op": "tiles", "factors": [6]}], "6 x 6 tiles do not fit into images of 5 pixels"),
        ([TILES[0], {"op": "tiles", "factors": [2], "fill": [1, 2, 3]}], "one value a channel"),
    ],
)
def test_tiles_that_cannot_be_are_refused(spec, words):
    with pytest.raises(InputError, match=words):
        decoder = Decoder(spec)
        decoder.count(held := {"pixels": torch.zeros(1, 2, 5, 5)})
        decoder.sample(held, torch.tensor([0]))


def test_samples_that_become_several_take_classes_and_learned_labels_along():
    roles = {"pixels": "pixels", "logits": "labels", "rate": "rate"}
    tensors = {"pixels": torch.zeros(2, 1, 4, 4), "logits": torch.eye(2), "rate": torch.tensor(0.1)}
    made = several(Synthetic(tensors, roles, TILES[:1], torch.tensor([0, 1])), {"op": "tiles", "factors": [2]}, 4)
    assert made.classes.tolist() == [0] * 4 + [1] * 4 and torch.equal(
        made.tensors["logits"], torch.eye(2).repeat_interleave(4, 0)
    )
    assert len(made.tensors["pixels"]) == 2 and Decoder(made.decoder).count(made.tensors) == 8
