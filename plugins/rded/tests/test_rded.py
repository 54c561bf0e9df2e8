"""RDED's selection and slots: against the authors' steps in plain loops, and the checks of the paper."""

import itertools

import pytest
import torch
from ddcore_rded import RDED, Look, select
from ddcore_rded import images_of as made
from torch import Tensor, nn

from ddcore.images.patches import crop_boxes, of_slot, unstitch
from ddcore.networks.vision import import_torchvision
from ddcore.networks.zoo import build

SIZE, POOL, CROPS, CLS = 8, 14, 4, 2
SCALE = (0.08, 1.0)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def real(count: int = 20) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=drawn(7), dtype=torch.float64)


def teacher(seed: int = 0) -> nn.Module:
    network = build("convnet2-bn-w8", 3, SIZE, 4, drawn(seed))
    assert network is not None
    return network.double().eval().requires_grad_(False)


def pool(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of 20 real images, and where to cut them."""
    rows = torch.randperm(20, generator=drawn(seed))[:POOL]
    return rows, crop_boxes(POOL, CROPS, (SIZE, SIZE), SCALE, drawn(seed + 1))


def authors(images: Tensor, rows: Tensor, boxes: Tensor, network: nn.Module, ipc: int, factor: int) -> Tensor:
    """The published steps: crop, pad, score, argmin over crops, sort, stitch; a patch at a time."""
    import_torchvision()
    from torchvision.transforms.v2.functional import resized_crop

    side = SIZE // factor
    before = (SIZE - side) // 2
    best = []
    for row, own in zip(rows.tolist(), boxes.tolist(), strict=True):
        tried = []
        for box in own:
            patch = resized_crop(images[row], *box, size=[side, side], antialias=True)
            shown = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.float64)
            shown[0, :, before : before + side, before : before + side] = patch
            tried.append((-float(network(shown).log_softmax(1)[0, CLS]), patch))
        best.append(min(tried, key=lambda pair: pair[0]))
    patches = [patch for _, patch in sorted(best, key=lambda pair: pair[0])[: ipc * factor**2]]
    mosaics = torch.zeros(ipc, 3, SIZE, SIZE, dtype=torch.float64)
    for cell, (down, right) in enumerate(itertools.product(range(factor), repeat=2)):
        for image in range(ipc):
            where = slice(down * side, (down + 1) * side), slice(right * side, (right + 1) * side)
            mosaics[image, :, where[0], where[1]] = patches[cell * ipc + image]
    return mosaics


@pytest.mark.parametrize("ipc, factor, seed", [(3, 1, 0), (3, 2, 0), (2, 2, 1), (14, 1, 2), (1, 2, 3)])
def test_the_images_are_those_of_the_authors_steps(ipc, factor, seed):
    images, network, (rows, boxes) = real(), teacher(seed), pool(seed)
    side = SIZE // factor
    found = select(images.__getitem__, rows, boxes, CLS, ipc * factor**2, [network], look=Look(side, SIZE))
    stitched = made(found, images.__getitem__, ipc, torch.arange(ipc), side, SIZE)
    torch.testing.assert_close(stitched, authors(images, rows, boxes, network, ipc, factor), rtol=1e-12, atol=1e-12)


def test_patches_are_of_different_images_by_rising_loss_and_none_left_out_is_better():
    images, network, (rows, boxes) = real(), teacher(), pool()
    whole = select(images.__getitem__, rows, boxes, CLS, POOL, [network], look=Look(4, SIZE))
    kept = select(images.__getitem__, rows, boxes, CLS, 6, [network], look=Look(4, SIZE))
    assert sorted(whole.rows.tolist()) == sorted(rows.tolist())
    assert torch.equal(whole.losses, whole.losses.sort().values)
    assert torch.equal(kept.rows, whole.rows[:6]) and torch.equal(kept.boxes, whole.boxes[:6])


def test_the_other_ranks_are_the_other_end_and_the_middle():
    images, network, (rows, boxes) = real(), teacher(), pool()
    by = {
        ranks: select(images.__getitem__, rows, boxes, CLS, 4, [network], look=Look(4, SIZE, ranks)).losses
        for ranks in ("lowest", "median", "highest")
    }
    assert by["lowest"].max() < by["median"].min() and by["median"].max() < by["highest"].min()
    assert torch.equal(by["highest"], by["highest"].sort(descending=True).values)


def test_more_crops_never_raise_the_loss_of_an_image():
    images, network, (rows, boxes) = real(), teacher(), pool()
    known: dict[int, float] = {}
    for crops in range(1, CROPS + 1):
        found = select(images.__getitem__, rows, boxes[:, :crops], CLS, POOL, [network], look=Look(4, SIZE))
        now = dict(zip(found.rows.tolist(), found.losses.tolist(), strict=True))
        assert all(now[row] <= known.get(row, torch.inf) for row in now)
        known = now


def test_images_are_asked_for_some_at_a_time_and_the_choice_does_not_depend_on_it(monkeypatch):
    images, network, (rows, boxes) = real(), teacher(), pool()
    asked: list[int] = []

    def counted(index: Tensor) -> Tensor:
        asked.append(len(index))
        return images[index]

    whole = select(images.__getitem__, rows, boxes, CLS, 6, [network], look=Look(4, SIZE))
    monkeypatch.setattr("ddcore_rded.IMAGES_AT_ONCE", 4)
    parts = select(counted, rows, boxes, CLS, 6, [network], look=Look(4, SIZE))
    assert asked == [4, 4, 4, 2]
    assert torch.equal(parts.rows, whole.rows) and torch.equal(parts.boxes, whole.boxes)
    torch.testing.assert_close(parts.losses, whole.losses)


def test_teachers_are_weighed():
    images, (rows, boxes) = real(), pool()
    two = [teacher(0), teacher(1)]
    look = Look(4, SIZE)
    by = [select(images.__getitem__, rows, boxes, CLS, 6, two, w, look=look).rows.tolist() for w in ((1, 0), (0, 1))]
    alone = [select(images.__getitem__, rows, boxes, CLS, 6, [n], look=look).rows.tolist() for n in two]
    assert by == alone and by[0] != by[1]


def test_some_images_of_a_set_are_those_of_the_whole_set():
    images, network, (rows, boxes) = real(), teacher(), pool()
    found = select(images.__getitem__, rows, boxes, CLS, 12, [network], look=Look(4, SIZE))
    whole = made(found, images.__getitem__, 3, torch.arange(3), 4, SIZE)
    some = made(found, images.__getitem__, 3, torch.tensor([2, 0]), 4, SIZE)
    assert torch.equal(some, whole[[2, 0]])
    assert len({tuple(p.flatten().tolist()) for p in unstitch(whole, 2)}) == 12


def test_slots_of_one_image_share_a_set_and_together_ask_for_all_of_it():
    shares = [of_slot(1, slot, 5) for slot in range(5)]
    assert [total for total, _, _ in shares] == [5] * 5 and {draw for _, _, draw in shares} == {0}
    assert torch.cat([which for _, which, _ in shares]).tolist() == [0, 1, 2, 3, 4]
    assert of_slot(5, 0, 5)[2] == 0 and of_slot(5, 3, 5)[2] == 3  # whole sets: slot 0's is the shared one


def test_four_patches_share_a_large_image_and_small_ones_are_one_patch():
    class Run:
        def __init__(self, size: int) -> None:
            self.source = self
            self.size = size

    assert [RDED().patches_a_side(Run(size)) for size in (8, 32, 64, 96, 128, 224)] == [1, 1, 1, 2, 2, 2]
    assert RDED(factor=3).patches_a_side(Run(8)) == 3


def test_teachers_are_needed_where_they_judge():
    assert RDED().assets("rded") == ("teachers",) and RDED().assets(None) == () == RDED().assets("real")
    assert RDED(pick="random").assets("rded") == ()
