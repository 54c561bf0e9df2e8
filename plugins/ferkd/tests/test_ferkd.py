"""Labels of crops: what is kept and recovered, what confidence makes of them, and how students draw from them."""

import pytest
import torch
from attrs import evolve
from ddcore_ferkd import CropLabels, Crops, FerKD, Kept, label_crops, store_bytes, together
from ddcore_ferkd.calibration import (
    COMPRESSIONS,
    Calibration,
    calibrated,
    compressed,
    recovered,
    regions,
    self_mixed,
    smoothed,
)
from ddcore_ferkd.store import SELF_MIX, Use
from torch import nn
from torch.nn import functional as F

from ddcore import InputError
from ddcore.images.views import Draw, drawn
from ddcore.labels import student_loss
from ddcore.training.loop import batch_of

N, R, K, SIZE = 6, 8, 5, 12


def seeded(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Watching(nn.Module):
    """A linear teacher that remembers what it was shown."""

    def __init__(self, seed, scale=1.0):
        super().__init__()
        self.weight, self.shown = scale * seeded(3 * SIZE * SIZE, K, seed=seed, dtype=torch.float32) / 8, []

    def forward(self, images):
        self.shown.append(images)
        return images.flatten(1) @ self.weight


IMAGES = seeded(N, 3, SIZE, SIZE, seed=3, dtype=torch.float32)
CLASSES = torch.tensor([0, 1, 2, 3, 4, 0])
P = seeded(7, K, seed=1).softmax(1)


def store(teachers=None, **changes):
    kept = {"half": False, "k": 3, **changes}
    given = {name: kept.pop(name) for name in ("weights", "use") if name in kept}
    teachers, crops = teachers or [Watching(1).eval()], Crops(R, Draw(mix="none"))
    return label_crops(IMAGES, teachers, generator(), classes=CLASSES, crops=crops, kept=Kept(**kept), **given)


def rounds(labels, epoch=0, batch=4, seed=1):
    return list(labels.views(epoch, len(labels), batch, generator(seed)))


# ---- compression -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("k", [1, 2, K])
def test_check_recovered_labels_sum_to_one(compression, k):
    label = recovered(*compressed(P, compression, k), K, compression)
    torch.testing.assert_close(label.sum(1), torch.ones(7, dtype=P.dtype), rtol=0, atol=1e-14)
    assert torch.equal(label.argmax(1), P.argmax(1)) and (label >= 0).all()


def test_rounded_values_that_add_up_to_more_than_one_stay_probabilities():
    label = recovered(torch.tensor([[0.75, 0.2502]]), torch.tensor([[1, 0]]), K, "marginal-smoothing")
    assert label.min() == 0 and float(label.sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("compression", ["marginal-smoothing", "marginal-renorm"])
def test_check_all_classes_kept_lose_nothing(compression):
    torch.testing.assert_close(recovered(*compressed(P, compression, K), K, compression), P)


def test_check_one_class_of_marginal_smoothing_is_smoothing():
    one = recovered(*compressed(P, "marginal-smoothing", 1), K, "marginal-smoothing")
    assert torch.equal(one, recovered(*compressed(P, "smoothing", 1), K, "smoothing"))


def test_recovered_by_hand():
    # kept 0.5 of class 2 and 0.3 of class 0; 0.2 is missing for the other two classes, or 0.5 and 0.3 are scaled by 1 / 0.8
    values, ids = torch.tensor([[0.5, 0.3]]), torch.tensor([[2, 0]])
    smooth, scaled = (recovered(values, ids, 4, f"marginal-{name}") for name in ("smoothing", "renorm"))
    torch.testing.assert_close(smooth, torch.tensor([[0.3, 0.1, 0.5, 0.1]]))
    torch.testing.assert_close(scaled, torch.tensor([[0.375, 0, 0.625, 0]]))


@pytest.mark.parametrize("k", [1, 3])
def test_a_slow_twin_recovers_the_same(k):
    values, ids = compressed(P, "marginal-smoothing", k)
    for row, label in enumerate(recovered(values, ids, K, "marginal-smoothing")):
        kept = {int(c): float(v) for c, v in zip(ids[row], values[row], strict=True)}
        due = [kept.get(c, (1 - sum(kept.values())) / (K - k)) for c in range(K)]
        torch.testing.assert_close(label, torch.tensor(due, dtype=P.dtype))


def test_check_an_unknown_type_raises():
    with pytest.raises(InputError, match="'marginal_renorm_k5': choose one of hard, smoothing"):
        recovered(*compressed(P, "hard", 1), K, "marginal_renorm_k5")


def test_check_hard_labels_of_true_classes_are_plain_cross_entropy():
    labels = store(compression="hard")
    truth = CLASSES[:, None, None, None].expand(N, R, 1, 1).to(torch.uint8)
    (view, *_), logits = rounds(evolve(labels, ids=truth)), seeded(4, K, seed=9, dtype=torch.float32)
    told = evolve(labels, ids=truth).targets(view)
    torch.testing.assert_close(student_loss(logits, told, labels.recipe), F.cross_entropy(logits, CLASSES[view.index]))


# ---- calibration -----------------------------------------------------------------------------------------------------


def test_regions_by_hand():
    confidence = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.5, 0.9, 0.95])
    found = regions(confidence, Calibration(low=0.1, middle=0.3, high=0.9))
    assert found.tolist() == [0, 1, 1, 2, 2, 2, 3]


def test_check_thresholds_that_drop_and_adapt_nothing_are_fkd():
    plain = store()
    free = store(calibration=Calibration(low=0, middle=0, high=1))
    rows = torch.arange(N * R)
    assert torch.equal(plain.told(rows), free.told(rows)) and bool(free.kept.all())
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(rounds(plain), rounds(free), strict=True))


def test_check_thresholds_that_keep_nothing_are_pure_label_smoothing():
    sure = store(
        teachers=[Watching(1, scale=100).eval()], calibration=Calibration(low=0, middle=1, high=1, smoothing=0.2)
    )
    assert float(sure.sureness.max()) == 1
    rows = torch.arange(N * R)
    assert torch.equal(sure.told(rows), smoothed(CLASSES.repeat_interleave(R), K, 0.2))
    assert bool(sure.kept.all())


def test_check_shares_of_regions_sum_to_one():
    low, middle, high = store().sureness.flatten().quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    shares = store(calibration=Calibration(low=low, middle=middle, high=high)).shares()
    assert set(shares) == {"low", "hard", "important", "high"} and sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == pytest.approx([0.25] * 4)


def test_doubtful_crops_alone_get_the_smoothed_class():
    soft, own = P[:3], torch.tensor([4, 4, 4])
    label = calibrated(soft, torch.tensor([1, 2, 1]), own, 0.1)
    due = torch.tensor([0.025, 0.025, 0.025, 0.025, 0.9], dtype=P.dtype)
    torch.testing.assert_close(label[0], due, rtol=1e-15, atol=0)
    assert torch.equal(label[1], soft[1]) and torch.equal(label[2], label[0])


def test_confidence_is_the_largest_probability_of_the_teachers_mean():
    one, two = Watching(1).eval(), Watching(2).eval()
    labels = store(teachers=[one, two], calibration=Calibration(low=0, middle=0, high=1))
    seen = torch.cat(one.shown).flatten(1)
    mean = ((seen @ one.weight).softmax(1) + (seen @ two.weight).softmax(1)) / 2
    torch.testing.assert_close(labels.sureness.flatten(), mean.amax(1))


def test_a_store_is_calibrated_again_without_teachers():
    labels = evolve(store(), calibration=Calibration(low=0.25, middle=0.4, high=0.7))
    again = store(calibration=Calibration(low=0.25, middle=0.4, high=0.7))
    assert torch.equal(labels.region, again.region)
    with pytest.raises(InputError, match="confidence was not stored"):
        evolve(store(compression="hard"), calibration=Calibration())


def test_thresholds_out_of_order_are_refused():
    with pytest.raises(InputError, match=r"0\.5, 0\.3 and 0\.9: give low <= middle <= high"):
        Calibration(low=0.5, middle=0.3, high=0.9)
    with pytest.raises(InputError, match="every stored crop lies outside"):
        store(calibration=Calibration(low=1, middle=1, high=1))


def test_dropped_crops_are_never_drawn_and_an_image_without_others_stays_away():
    labels = store(calibration=Calibration(low=0.4, middle=0.4, high=1), use=Use(together=3, single_from=None))
    confidence = labels.sureness.clone()
    confidence[2] = 0
    labels = evolve(labels, confidence=confidence)
    assert 0 < labels.shares()["low"] < 1
    for epoch in range(5):
        drawn = torch.cat([view.rows for view in rounds(labels, epoch)])
        assert len(drawn) == N and bool(labels.kept.flatten()[drawn].all()) and not bool((drawn // R == 2).any())


@pytest.mark.parametrize("mix", ["none", "self", "mixup"])
def test_dropped_crops_that_are_weighed_count_nothing(mix):
    labels = store(calibration=Calibration(low=0.4, middle=0.4, high=1), use=Use(dropped="weighed", mix=mix))
    kept, seen = labels.kept.flatten().float(), set()
    for view in (view for epoch in range(5) for view in rounds(labels, epoch)):
        others = dict(view.ops)[SELF_MIX]["rows"] if mix == "self" else view.rows
        others = view.rows[view.mix[0]] if mix == "mixup" else others
        weight = labels.targets(view)["weight"]
        assert torch.equal(weight, kept[view.rows] * kept[others])
        seen |= set(weight.tolist())
    assert seen == {0.0, 1.0}


# ---- what is stored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", ["none", "self", "cutmix"])
def test_check_stored_crops_are_what_the_teacher_saw_bit_for_bit(mix):
    teacher = Watching(1).eval()
    labels = store(teachers=[teacher], use=Use(mix="none"))
    seen = torch.cat(teacher.shown)
    for rows in (torch.arange(N * R), torch.tensor([9, 3, 41])):
        view = labels.view(rows, generator())
        assert torch.equal(labels.changed(view, IMAGES[view.index]), seen[rows])
    mixing = evolve(labels, use=Use(mix=mix))
    (view, *_) = rounds(mixing)
    if mix == "self":
        other = dict(view.ops)[SELF_MIX]
        due = self_mixed(seen[view.rows], seen[other["rows"]], other["share"], other["cut"])
        assert torch.equal(mixing.changed(view, IMAGES[view.index]), due)


def test_boxes_are_whole_pixels_of_every_size():
    for size in (7, 28, 32, 224, 255, 333):
        boxes = torch.randint(1, size + 1, (200, 4), generator=generator())
        back = (boxes / torch.tensor([size] * 4, dtype=torch.float64) * size).round().long()
        assert torch.equal(back, boxes)


def test_check_one_fresh_crop_uncalibrated_is_soft_label_distillation():
    teacher = Watching(1).eval()
    labels = store(teachers=[teacher], compression="marginal-smoothing", k=K, use=Use(together=1))
    student = seeded(3 * SIZE * SIZE, K, seed=5, dtype=torch.float32) / 8
    for view in rounds(labels):
        batch = batch_of(IMAGES, labels, view)
        logits = batch.inputs.flatten(1) @ student
        loss = student_loss(logits, batch.targets, labels.recipe)
        due = F.cross_entropy(logits, (batch.inputs.flatten(1) @ teacher.weight).softmax(1))
        torch.testing.assert_close(loss, due)


def test_the_temperature_softens_teachers_and_students():
    teacher = Watching(1).eval()
    labels = store(teachers=[teacher], k=K, temperature=3.0)
    view = rounds(labels)[0]
    batch, logits = batch_of(IMAGES, labels, view), seeded(4, K, seed=9, dtype=torch.float32)
    due = F.cross_entropy(logits / 3, (batch.inputs.flatten(1) @ teacher.weight / 3).softmax(1))
    torch.testing.assert_close(student_loss(logits, batch.targets, labels.recipe), due)


def test_the_loss_has_the_right_gradient_where_classes_have_no_probability():
    labels = store(compression="marginal-renorm", k=2)
    view = rounds(labels)[0]
    told = {name: value.double() if name == "logits" else value for name, value in labels.targets(view).items()}
    logits = seeded(4, K, seed=9).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: student_loss(z, told, labels.recipe), (logits,))


def test_teachers_share_their_crops_and_their_recovered_labels_are_averaged():
    one, two = Watching(1).eval(), Watching(2).eval()
    both, first, second = store([one, two]), store([one]), store([two])
    rows = torch.arange(N * R)
    torch.testing.assert_close(both.told(rows), (first.told(rows) + second.told(rows)) / 2)
    assert torch.equal(torch.cat(one.shown[:1]), torch.cat(two.shown[:1]))
    joined = together(first, second)
    assert torch.equal(joined.told(rows), both.told(rows)) and joined.weights == (0.5, 0.5)
    torch.testing.assert_close(together(joined, second).told(rows), (first.told(rows) + 2 * second.told(rows)) / 3)


def test_stores_of_other_crops_or_labels_are_not_put_together():
    other = label_crops(
        IMAGES,
        [Watching(2).eval()],
        generator(7),
        classes=CLASSES,
        crops=Crops(R, Draw(mix="none")),
        kept=Kept(half=False),
    )
    with pytest.raises(InputError, match="not of the same crops"):
        together(store(), other)
    with pytest.raises(InputError, match="keep other labels"):
        together(store(), store(k=2))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("teachers", [1, 2])
@pytest.mark.parametrize("half", [True, False])
def test_bytes_are_those_of_the_formula_and_nothing_is_lost(compression, teachers, half):
    calibration = Calibration(low=0, middle=0.4, high=1)
    labels = store(
        [Watching(n).eval() for n in range(teachers)], compression=compression, half=half, calibration=calibration
    )
    confidence = compression == "hard" or teachers == 2
    kept = Kept(compression, 3, half=half)
    assert labels.payload_bytes == store_bytes(N, K, R, SIZE, kept=kept, teachers=teachers, confidence=confidence)
    again = CropLabels.load(labels.header(), labels.tensors())
    assert again.use == labels.use and again.calibration == labels.calibration
    assert torch.equal(again.told(torch.arange(N * R)), labels.told(torch.arange(N * R)))


# ---- how students draw -----------------------------------------------------------------------------------------------


def test_m_epochs_go_through_all_images_once_with_m_distinct_crops_each():
    labels = store(use=Use(together=3))
    seen = [torch.cat([view.rows for view in rounds(labels, epoch)]) for epoch in range(3)]
    assert all(len(rows) == N and len(rows.unique()) == N for rows in seen)
    assert sorted((torch.cat(seen) // R).tolist()) == sorted(list(range(N)) * 3)
    assert all(len((rows // R).unique()) == N / 3 for rows in seen)
    assert torch.equal(seen[0], torch.cat([view.rows for view in rounds(labels, 0)]))
    assert not torch.equal(seen[0], torch.cat([view.rows for view in rounds(labels, 0, seed=2)]))


def test_the_last_epochs_take_one_crop_of_each_image():
    labels = store(use=Use(together=3, single_from=6))
    assert len((torch.cat([view.rows for view in rounds(labels, 6)]) // R).unique()) == N


def test_batches_are_as_many_as_the_protocol_counts():
    labels = store(use=Use(together=4))
    assert [len(view.index) for view in rounds(labels, batch=4)] == [4, 2]


def test_every_kept_crop_comes_up():
    labels = store(use=Use(together=2))
    seen = torch.cat([view.rows for epoch in range(200) for view in rounds(labels, epoch, seed=epoch)])
    assert len(seen.unique()) == N * R


@pytest.mark.parametrize("mix", ["self", "self-box"])
def test_check_self_mix_of_share_one_is_the_identity_and_parents_share_the_image(mix):
    labels = store(use=Use(mix=mix))
    view = rounds(labels)[0]
    second = dict(view.ops)[SELF_MIX]
    assert torch.equal(second["rows"] // R, view.index) and not bool((second["rows"] == view.rows).any())
    first, other = seeded(4, 3, SIZE, SIZE), seeded(4, 3, SIZE, SIZE, seed=1)
    nothing = torch.empty(0, dtype=torch.int64) if mix == "self" else torch.zeros(4, dtype=torch.int64)
    assert torch.equal(self_mixed(first, other, torch.ones(()), nothing), first)


@pytest.mark.parametrize("mix", ["self", "self-box", "mixup", "cutmix", "both"])
def test_labels_follow_the_mix_by_its_actual_share(mix):
    labels = store(use=Use(mix=mix))
    for view in rounds(labels):
        told, one = labels.targets(view)["logits"].softmax(1), labels.told(view.rows)
        if mix.startswith("self"):
            second = dict(view.ops)[SELF_MIX]
            share, other, box = second["share"], labels.told(second["rows"]), second["cut"]
        else:
            share, other, box = (
                view.mix[1][0],
                one[view.mix[0]],
                dict(view.ops).get("cutmix", {"box": torch.empty(0)})["box"],
            )
        torch.testing.assert_close(told, share * one + (1 - share) * other)
        if box.numel():
            assert float(share) == pytest.approx(1 - float((box[2] - box[0]) * (box[3] - box[1])) / SIZE**2)


def test_self_mix_by_a_box_takes_the_seconds_pixels_inside_it():
    first, second = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    mixed = self_mixed(first, second, torch.tensor(0.5), torch.tensor([1, 0, 3, 2]))
    assert mixed[:, 0, 1:3, :2].eq(1).all() and float(mixed.sum()) == 8


def test_more_crops_than_are_stored_are_refused():
    with pytest.raises(InputError, match="9 crops of an image are to lie in a batch and 8 are stored"):
        store(use=Use(together=9))


@pytest.mark.parametrize(("size", "least"), [(224, 0.08 * 224**2), (40, 128), (32, 128), (16, 128), (8, 64)])
def test_no_crop_is_smaller_than_what_a_teacher_can_tell_something_of(size, least):
    share = FerKD().least_share(size)
    assert share * size**2 == pytest.approx(least)
    assert FerKD(least_pixels=0).least_share(size) == FerKD().scale and FerKD(scale=0.9).least_share(224) == 0.9
    boxes = drawn(Draw(scale=(share, 1.0), mix="none"), 200, (size, size), torch.Generator().manual_seed(0)).crop
    areas = (boxes.double() * size).round()[:, 2:].prod(1)
    assert float(areas.min()) >= 0.9 * least  # sides are whole pixels
    assert size == 8 or float(areas.min()) < 1.3 * least
