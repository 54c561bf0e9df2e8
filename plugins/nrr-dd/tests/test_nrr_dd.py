"""NRR-DD's initialiser by hand and in plain loops, and the checks of its two distances on the core's labels."""

import math

import ddcore_nrr_dd
import pytest
import torch
from ddcore_nrr_dd import NRRDD, Look, critical_boxes, discover
from ddcore_nrr_dd.maps import class_maps
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore import Batch, Vote
from ddcore.composing.discovery import checked
from ddcore.images.patches import crop_boxes
from ddcore.images.views import Draw, Drawn, Mixed
from ddcore.labels import DrawnViews, TwoDistanceLabels, distance_gap, distances, label_parts, student_loss
from ddcore.networks.zoo import build

K, SIZE, N, M = 3, 8, 7, 4
OWN, MIXED = torch.tensor([0, 2, 1, 1]), torch.tensor([1, 2, 0, 2])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def convnet(seed: int = 0) -> nn.Module:
    return build("convnet2-bn-w4", 2, SIZE, K, seeded(seed)).double().eval().requires_grad_(False)


def test_it_is_an_enhancement_that_leaves_labels_to_the_user():
    assert checked(NRRDD, "NRRDD") is NRRDD and NRRDD.role == "enhancement"
    assert NRRDD.suggests_labels is None and not NRRDD.labellers


# ---- CIDD ------------------------------------------------------------------------------------------------------------


def test_critical_boxes_are_those_that_hold_most_of_the_class_and_of_equals_the_first():
    maps = torch.zeros(1, 4, 4)
    maps[0, 0, 0], maps[0, 3, 3] = 0.25, 1.0
    corners = [[0, 0, 2, 2], [2, 2, 2, 2], [1, 1, 3, 3], [3, 3, 1, 1]]
    boxes = torch.tensor([corners])
    assert critical_boxes(maps, boxes, 2)[0].tolist() == [corners[1], corners[2]]
    assert critical_boxes(maps, boxes, 3, "mean")[0].tolist() == [corners[3], corners[1], corners[2]]


@pytest.fixture
def pool() -> tuple[Tensor, Tensor, list[Vote]]:
    boxes = crop_boxes(N, M, (SIZE, SIZE), (0.1, 1.0), seeded())
    return noise(N, 2, SIZE, SIZE), boxes, [Vote(convnet(0), 0.75), Vote(convnet(1), 0.25)]


def found_in(pool: tuple[Tensor, Tensor, list[Vote]], **options) -> dict[str, Tensor]:
    images, boxes, votes = pool
    rows = 10 + torch.arange(N)
    return discover(
        lambda some: images[some - 10], rows, boxes, 1, 5, votes, Look(**{"keep": 2, "side": 8, "size": 8, **options})
    )


def pool_in_loops(pool: tuple[Tensor, Tensor, list[Vote]], side: int) -> list[tuple[float, int, list[int]]]:
    """Loss, row and box of the two patches of each image that hold most of class 1."""
    images, boxes, votes = pool
    cls, made = torch.tensor([1]), []
    for n in range(N):
        own = images[n : n + 1]
        seen = sum(v.weight * class_maps(v.network, own, cls)[0] for v in votes)
        shares = [float(seen[t : t + h, x : x + w].sum() / seen.sum()) for t, x, h, w in boxes[n].tolist()]
        for m in sorted(range(M), key=lambda m, shares=shares: -shares[m])[:2]:
            t, x, h, w = boxes[n, m].tolist()
            patch = F.interpolate(own[:, :, t : t + h, x : x + w], (side, side), mode="bilinear", antialias=True)
            shown = F.pad(patch, [(8 - side) // 2] * 4)
            made.append(
                (float(sum(v.weight * F.cross_entropy(v.network(shown), cls) for v in votes)), 10 + n, [t, x, h, w])
            )
    return made


@pytest.mark.parametrize("side", [8, 4])
def test_discovery_in_plain_loops_keeps_the_least_confident_of_the_critical_patches(pool, side):
    due = sorted(pool_in_loops(pool, side), key=lambda patch: -patch[0])[:5]
    found = found_in(pool, side=side)
    assert found["rows"].tolist() == [row for _, row, _ in due]
    assert found["boxes"].tolist() == [box for *_, box in due]
    torch.testing.assert_close(found["losses"].tolist(), [loss for loss, *_ in due], rtol=1e-9, atol=0)


def test_the_other_end_of_confidence_is_the_other_end_of_the_losses(pool):
    every = sorted(loss for loss, *_ in pool_in_loops(pool, 8))
    assert found_in(pool, ranks="lowest")["losses"].tolist() == pytest.approx(every[:5])
    assert sorted(found_in(pool, ranks="median")["losses"].tolist()) == pytest.approx(every[4:9])


def test_how_many_images_are_held_and_how_large_weights_are_changes_nothing(pool, monkeypatch):
    whole = found_in(pool)
    monkeypatch.setattr(ddcore_nrr_dd, "IMAGES_AT_ONCE", 2)
    images, boxes, votes = pool
    parts = found_in((images, boxes, [Vote(v.network, 10 * v.weight) for v in votes]))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor)


def test_one_patch_an_image_gives_no_image_twice(pool):
    assert len(set(found_in(pool, keep=1)["rows"].tolist())) == 5


# ---- two distances in the place of a soft label (the core's) -----------------------------------------------------------


def test_check_a_distance_is_minus_log_p_never_negative_zero_when_perfect_and_log_k_when_uniform():
    logits = 3 * noise(4, K)
    pairs = distances(logits, OWN, MIXED)
    for row, (own, mixed) in enumerate(zip(OWN, MIXED, strict=True)):
        p = logits[row].softmax(0)
        torch.testing.assert_close(pairs[row], -torch.stack([p[own], p[mixed]]).log())
    assert (pairs >= 0).all()
    assert (distances(1000 * F.one_hot(OWN, K).double(), OWN, OWN) == 0).all()
    assert distances(torch.zeros(4, K), OWN, MIXED).tolist() == [pytest.approx([math.log(K)] * 2)] * 4


def test_check_of_a_student_that_is_the_teacher_the_term_and_its_gradient_are_zero():
    student = noise(4, K).requires_grad_()
    gap = distance_gap(distances(student, OWN, MIXED), distances(student.detach(), OWN, MIXED), "squared").mean()
    assert float(gap.detach()) == 0 and (torch.autograd.grad(gap, student)[0] == 0).all()


@pytest.mark.parametrize("norm", ["squared", "absolute"])
def test_check_the_gradient_is_softmax_less_one_hot_and_adds_up_to_zero_over_classes(norm):
    student = noise(4, K).requires_grad_()
    (of_d,) = torch.autograd.grad(distances(student, OWN, MIXED)[:, 0].sum(), student)
    torch.testing.assert_close(of_d, student.detach().softmax(1) - F.one_hot(OWN, K))
    gap = distance_gap(distances(student, OWN, MIXED), distances(noise(4, K, seed=1), OWN, MIXED), norm).mean()
    (of_gap,) = torch.autograd.grad(gap, student)
    torch.testing.assert_close(of_gap.sum(1), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(
        lambda z: distance_gap(distances(z, OWN, MIXED), torch.ones(4, 2).double(), norm), student
    )


def test_check_of_an_empty_box_the_second_class_is_the_first():
    draw = Draw(crop="none", flip=0.0, mix="cutmix")
    partner = torch.tensor([3, 2, 1, 0])
    for box, due in (([2, 2, 2, 2], OWN), ([0, 0, 4, 4], OWN[partner])):
        share = 1 - (box[2] - box[0]) * (box[3] - box[1]) / 64
        parameters = Drawn(torch.zeros(4, 4), torch.zeros(4).bool(), partner, torch.tensor(share), torch.tensor(box))
        seen = Mixed(draw, parameters)(Batch(noise(4, 2, SIZE, SIZE), {"class": OWN}, torch.arange(4)))
        assert torch.equal(seen.targets["mixed"], due)
        assert distances(noise(4, K), seen.targets["class"], seen.targets["mixed"]).isfinite().all()


def test_check_a_view_costs_four_bytes_or_eight():
    of = {"images": 6, "classes": K, "epochs": 5, "batch": 3, "seeded": True}
    sizes = [label_parts("two-distances", **of, float_bytes=width)["answers"] for width in (2, 4)]
    assert sizes == [4 * 6 * 5, 8 * 6 * 5]


def test_check_a_distance_beyond_float16_is_its_largest_number():
    record = DrawnViews(images=1, epochs=1, batch=1, size=(2, 2), draw=Draw(), seed=0)
    labels = TwoDistanceLabels(torch.tensor([[math.inf, 1.0]]).half(), torch.tensor([0]), 2, record)
    assert labels.distance[0].tolist() == [65504.0, 1.0]


def test_the_students_loss_is_the_mixed_cross_entropy_and_the_weighted_gap():
    student, teacher, lam = noise(4, K), noise(4, K, seed=1), torch.tensor([1.0, 0.25, 0.5, 0.0], dtype=torch.float64)
    targets = {"class": OWN, "mixed": MIXED, "lam": lam, "distance": distances(teacher, OWN, MIXED)}
    recipe = {"loss": "two-distances", "weight": 10.0, "norm": "squared", "temperature": 1.0}
    due = 0.0
    for row in range(4):
        log_s, log_t = student[row].log_softmax(0), teacher[row].log_softmax(0)
        pair = [int(OWN[row]), int(MIXED[row])]
        due += float(-lam[row] * log_s[pair[0]] - (1 - lam[row]) * log_s[pair[1]]) / 4
        due += 10 * sum(float(log_s[c] - log_t[c]) ** 2 for c in pair) / 2 / 4
    assert float(student_loss(student, targets, recipe)) == pytest.approx(due)
