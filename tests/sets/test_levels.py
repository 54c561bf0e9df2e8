"""Pixels as few levels: by hand, packed into bits and back, and through an artifact that needs no plugin to be read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddcore.data.normalisation import Identity
from ddcore.errors import InputError
from ddcore.labels import HardLabels
from ddcore.sets.artifact import as_stored, load_artifact, save_artifact
from ddcore.sets.decoders import Decoder
from ddcore.sets.levels import Quality, clipped_ends, pack, quality, quantise, to_levels, unpack

ROWS = [{"op": "rows", "tensor": "pixels"}]
SUM = {"op": "sum", "bases": "bases", "added": "added", "pairs": "pairs", "least": "least", "most": "most"}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_four_levels_by_hand():
    # from -1 to 2 in 4 levels: -1, 0, 1, 2
    images = torch.tensor([-1.0, 0.4, 0.6, 1.4, 2.0, 9.0]).view(1, 1, 1, 6)
    levels, scale, offset = quantise(images, torch.tensor([-1.0]), torch.tensor([2.0]), bits=2)
    assert levels.flatten().tolist() == [0, 1, 2, 2, 3, 3] and (scale.item(), offset.item()) == (1.0, -1.0)


def test_bits_are_packed_first_pixel_lowest_and_each_sample_begins_at_a_byte():
    levels = torch.tensor([[3, 0, 1, 2, 1], [0, 0, 0, 0, 3]], dtype=torch.uint8)
    # 3 + 0*4 + 1*16 + 2*64 = 147, then 1 alone; 0, then 3
    assert pack(levels, 2).tolist() == [[147, 1], [0, 3]]
    # 2 + 15*16 = 242
    assert pack(torch.tensor([[2, 15, 7]], dtype=torch.uint8), 4).tolist() == [[242, 7]]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([2, 4]), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
def test_packed_levels_come_back_at_any_index(bits, count, channels, side, seed):
    levels = torch.randint(0, 2**bits, (count, channels, side, side), generator=seeded(seed)).to(torch.uint8)
    packed = pack(levels, bits)
    assert packed.shape == (count, -(-channels * side * side * bits // 8)) and packed.dtype == torch.uint8
    index = torch.randint(0, count, (6,), generator=seeded(seed))
    assert torch.equal(unpack(packed[index], bits, levels.shape[1:]), levels[index])


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_what_is_decoded_is_within_half_a_level_and_costs_so_many_bits(bits):
    images = torch.randn(5, 3, 4, 4, generator=seeded(0))
    tensors, decoder = to_levels({"pixels": images}, ROWS, Identity(), bits)
    back = Decoder(decoder).sample(tensors, torch.tensor([4, 1]))
    half = tensors["pixels.scale"][:, None, None] / 2
    assert ((back - images[[4, 1]]).abs() <= 1.002 * half).all()
    assert tensors["pixels"].nbytes == 5 * 48 * bits // 8 and Decoder(decoder).count(tensors) == 5


def test_eight_bits_are_what_storage_type_uint8_stores():
    images = torch.rand(5, 3, 4, 4, generator=seeded(0))
    ours = to_levels({"pixels": images}, ROWS, Identity(), 8)
    theirs = as_stored({"pixels": images}, ROWS, "uint8", Identity())
    assert ours[1] == theirs[1] and all(torch.equal(ours[0][n], t) for n, t in theirs[0].items())


def test_sums_keep_both_parts_in_few_bits():
    tensors = {
        "bases": torch.rand(2, 1, 2, 2, generator=seeded(0)),
        "added": torch.randn(3, 1, 2, 2, generator=seeded(1)) / 10,
        "pairs": torch.tensor([[0, -1], [0, 2], [1, 0]]),
        "least": torch.zeros(1),
        "most": torch.ones(1),
    }
    stored, decoder = to_levels(tensors, [SUM], Identity(), 4)
    assert stored["bases"].shape == (2, 2) and stored["added"].shape == (3, 2)
    exact = Decoder([SUM]).sample(tensors, torch.arange(3))
    off = (Decoder(decoder).sample(stored, torch.arange(3)) - exact).abs().max()
    assert 0 < off <= (stored["bases.scale"] + stored["added.scale"]).item() / 2 + 1e-6


def test_what_is_added_has_no_black_and_white_and_spans_its_own_values():
    tensors = {"bases": torch.full((1, 1, 2, 2), 0.5), "added": torch.linspace(0, 0.1, 4).view(1, 1, 2, 2)}
    stored, _ = to_levels(tensors, [SUM], Identity(), 8)
    assert stored["bases.scale"].item() == pytest.approx(1 / 255)
    assert stored["added.scale"].item() == pytest.approx(0.1 / 255)


def test_clipping_leaves_out_the_same_share_at_each_end():
    images = torch.arange(100.0).view(4, 1, 5, 5)
    assert [float(end) for end in clipped_ends(images, 0.0)] == [0, 99]
    assert [float(end) for end in clipped_ends(images, 0.05)] == [5, 94]
    two = torch.cat([images, 10 * images], 1)
    assert torch.stack(clipped_ends(two, 0.05)).tolist() == [[5, 50], [94, 940]]


def test_quality_by_hand():
    # errors 0.1 and 0.3: mean square (0.01 + 0.09) / 2 = 0.05, PSNR = 10 log10(1 / 0.05) = 13.01 dB
    exact, stored = torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.2])
    found = quality([(exact, stored)])
    assert found.psnr == pytest.approx(13.0103, abs=1e-4) and found.largest == pytest.approx(0.3)
    assert quality([(exact[:1], stored[:1]), (exact[1:], stored[1:])]) == found
    assert "13.0 dB" in str(found) and "0.3" in str(found)
    assert str(Quality(None, 0.0)) == "no error"


def test_an_artifact_of_packed_bits_opens_without_a_plugin(tmp_path):
    images, classes = torch.rand(4, 3, 5, 5, generator=seeded(0)), torch.tensor([0, 0, 1, 1])
    tensors, decoder = to_levels({"pixels": images}, ROWS, Identity(), 2)
    for dtype in ("float32", "float16", "uint8"):  # levels stay levels, and what they stand for stays exact
        save_artifact(
            tmp_path / dtype,
            tensors=tensors,
            decoder=decoder,
            labels=HardLabels(classes, 2),
            classes=("a", "b"),
            normalisation=Identity(),
            recipe={},
            provenance={},
            source={},
            storage_dtype=dtype,
        )
        loaded = load_artifact(tmp_path / dtype)
        assert torch.equal(loaded.images(), Decoder(decoder).sample(tensors, torch.arange(4)))
        assert loaded.manifest["storage_dtype"] == "uint2" and loaded.tensors["pixels"].shape == (4, 19)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"bits": 3}, "8, 4 or 2 bits"), ({"shape": [3, 5, 6]}, "23 bytes"), ({"shape": "no"}, "shape")],
)
def test_a_decoder_that_does_not_fit_its_bits_is_refused(changes, words):
    tensors, decoder = to_levels({"pixels": torch.rand(2, 3, 5, 5)}, ROWS, Identity(), 2)
    with pytest.raises((InputError, ValueError), match=words):
        Decoder([{**decoder[0], **changes}]).sample(tensors, torch.tensor([0]))


def test_what_is_no_image_is_refused():
    with pytest.raises(InputError, match="decodes by 'trees'"):
        to_levels({"pixels": torch.rand(2, 4)}, [{"op": "trees", "tensor": "pixels"}], Identity(), 4)
    with pytest.raises(InputError, match="3 bits"):
        to_levels({"pixels": torch.rand(2, 1, 2, 2)}, ROWS, Identity(), 3)
