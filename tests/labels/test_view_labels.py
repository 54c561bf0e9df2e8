"""Labels for views: replay bit for bit, bytes by formula, and every check of the specs on label stores."""

import math

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore import randomness
from ddcore.errors import InputError
from ddcore.images.views import RESIZED, SHIFTED, Draw, changed, drawn
from ddcore.labels import (
    KINDS,
    DrawnViews,
    Labels,
    PerViewLabels,
    SoftLabels,
    StaticMixedLabels,
    StoredViews,
    TopKLabels,
    TwoDistanceLabels,
    View,
    batches_of,
    distances,
    draw_views,
    label_bytes,
    label_parts,
    make_per_view,
    mean_logits,
    spread,
    student_loss,
)
from ddcore.labels.making import make_averaged, make_static_mixed, make_top_k, make_two_distances
from ddcore.labels.per_view import kept_logits
from ddcore.storage.places import sha256_of
from ddcore.training.loop import Descent, batch_of, train_student

GIB = 2**30
N, K, E, B = 10, 5, 3, 4
CLASSES = torch.arange(N) % K


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(N, 1, 8, 8, generator=seeded())


def network(seed: int = 1) -> nn.Module:
    with randomness.drawing_from(seeded(seed)):
        layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, K)
        return nn.Sequential(*layers)


def teacher(seed: int = 1) -> nn.Module:
    found = network(seed).train()
    with torch.no_grad():
        for _ in range(5):
            found(torch.randn(20, 1, 8, 8, generator=seeded(seed)))
    return found.eval()


def labelled(make, images, *, seeded=False, compact=False, draw=RESIZED, generator=2, **options):
    """Labels of a teacher for drawn views, whose seed is kept or what was drawn from it."""
    views = draw_views(images, E, B, torch.Generator().manual_seed(generator), draw)
    labels = make(images, teacher(), views, classes=CLASSES, **options)
    return labels if seeded else labels.stored(compact=compact)


def per_view(images: Tensor, **options) -> PerViewLabels:
    return labelled(make_per_view, images, **options)


def top_k(images: Tensor, k: int = 2, **options) -> TopKLabels:
    return labelled(make_top_k, images, k=k, **options)


def two_distances(images: Tensor, **options) -> TwoDistanceLabels:
    return labelled(make_two_distances, images, **{"seeded": True, **options})


def again(labels: Labels) -> Labels:
    return KINDS[labels.kind].load(labels.header(), labels.tensors())


def every_batch(labels: Labels, images: Tensor, epochs: int = E) -> list[tuple[Tensor, dict[str, Tensor]]]:
    found = []
    for epoch in range(epochs):
        for view in labels.views(epoch, N, 99, seeded(epoch)):
            batch = batch_of(images, labels, view)
            found.append((batch.inputs, {**batch.targets, "index": batch.index}))
    return found


def assert_same_batches(ours: Labels, theirs: Labels, images: Tensor, epochs: int = E) -> None:
    pairs = zip(every_batch(ours, images, epochs), every_batch(theirs, images, epochs), strict=True)
    for (x, told), (y, same) in pairs:
        assert torch.equal(x, y) and set(told) == set(same)
        assert all(torch.equal(told[name], same[name]) for name in told)


# ---- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
@pytest.mark.parametrize("crop", ["resized", "shifted", "none"])
def test_sre2l_saved_seeded_and_drawn_views_are_bit_identical(images, crop, mix):
    draw = Draw(crop=crop, mix=mix)
    seeded_views, saved, compact = (
        per_view(images, draw=draw, **how) for how in ({"seeded": True}, {}, {"compact": True})
    )
    for labels in (saved, compact, again(seeded_views), again(saved), again(compact)):
        assert_same_batches(labels, seeded_views, images)


def test_sre2l_stored_logits_are_the_teachers_for_the_very_view_that_is_replayed(images):
    labels = again(per_view(images))
    for x, told in every_batch(labels, images):
        with torch.no_grad():
            exact = teacher()(x)
        # fp16 logits round-trip error
        assert (told["logits"] - exact).abs().max() < 1e-2


def test_soft_labels_fp16_round_trip_changes_the_target_at_temperature_20_by_less_than_a_thousandth(images):
    for x, told in every_batch(per_view(images), images):
        exact = mean_logits(x, teacher())
        assert ((told["logits"] / 20).softmax(1) - (exact / 20).softmax(1)).abs().max() < 1e-3


def test_every_epoch_visits_every_sample_once_in_an_order_of_its_own(images):
    labels = per_view(images)
    orders = [torch.cat([v.index for v in labels.views(e, N, 99, seeded())]).tolist() for e in range(E)]
    assert all(sorted(order) == list(range(N)) for order in orders) and len({tuple(o) for o in orders}) == E
    assert [len(v.index) for v in labels.views(0, N, 99, seeded())] == [4, 4, 2]


def test_a_longer_training_begins_again_with_the_first_stored_epoch(images):
    labels = per_view(images)
    first, later = (every_batch(labels, images, e) for e in (1, E + 1))
    for (x, told), (y, same) in zip(first, later[-3:], strict=True):
        assert torch.equal(x, y) and torch.equal(told["logits"], same["logits"])


def test_mixed_classes_and_shares_follow_the_partner(images):
    labels = per_view(images)
    for view in labels.views(0, N, 99, seeded()):
        told, (partner, share) = labels.targets(view), view.mix
        assert told["class"].tolist() == CLASSES[view.index].tolist()
        own_if_unseen = torch.where(share < 1, CLASSES[view.index[partner]], CLASSES[view.index])
        assert torch.equal(told["mixed"], own_if_unseen) and torch.equal(told["lam"], share)


def test_nrr_dd_an_empty_box_mixes_in_the_own_class(images):
    labels = two_distances(images)
    view = View(torch.arange(4), mix=(torch.tensor([1, 2, 3, 0]), torch.ones(4)))
    assert labels.targets(view)["mixed"].tolist() == labels.targets(view)["class"].tolist()


def test_the_same_generator_gives_the_same_labels_and_no_other_generator_is_touched(images):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert_same_batches(per_view(images), per_view(images), images)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = per_view(images, generator=3)
    assert not torch.equal(other.logits, per_view(images).logits)


def test_a_torch_that_draws_otherwise_is_noticed_when_labels_are_read(images):
    labels = per_view(images, seeded=True)
    header = labels.header()
    header["views"] |= {"first": "0" * 16, "torch": "1.0"}
    with pytest.raises(InputError, match=r"drawn again from their seed, are other ones \(made by torch 1.0.*install"):
        PerViewLabels.load(header, labels.tensors())


# ---- bytes -----------------------------------------------------------------------------------------------------------

TOY = {"images": N, "classes": K, "epochs": E, "batch": B}
HOW = [{}, {"seeded": True}, {"compact": True}]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("keep", [1.0, 0.5, 0.01])
@pytest.mark.parametrize(("kind", "make"), [("per-view", per_view), ("top-k", top_k), ("two-distances", two_distances)])
def test_bytes_by_formula_are_what_is_stored(images, kind, make, keep, how):
    labels = make(images, **{"seeded": False, **how}).pruned(keep, seeded(4))
    k = {"k": 2} if kind == "top-k" else {}
    assert label_bytes(kind, **TOY, keep=keep, **how, **k) == labels.payload_bytes == again(labels).payload_bytes


@pytest.mark.parametrize(("count", "batch"), [(300, 400), (300, 7), (10, 300)])
def test_bytes_of_larger_sets_and_batches_fit_too(count, batch):
    logits, classes = torch.zeros(2 * count, 300).half(), torch.zeros(count).long()
    record = DrawnViews(images=count, epochs=2, batch=batch, size=(4, 4), draw=Draw(), seed=0)
    for compact in (False, True):
        labels = PerViewLabels(logits, classes, record).stored(compact=compact)
        assert labels.payload_bytes == label_bytes("per-view", count, 300, 2, batch, compact=compact)
        assert again(labels).payload_bytes == labels.payload_bytes


def test_bytes_of_labels_for_each_sample_fit_too(images):
    soft, static = (make(images, teacher(), classes=CLASSES) for make in (make_averaged, make_static_mixed))
    assert soft.payload_bytes == label_bytes("averaged", N, K) == label_bytes("soft", N, K) == N * K * 4 + N
    assert static.payload_bytes == label_bytes("static-mixed", N, K) == N * K * 4 + N
    half = make_averaged(images, teacher(), classes=CLASSES, half=True)
    assert half.payload_bytes == label_bytes("soft", N, K, float_bytes=2)
    assert label_bytes("hard", N, K) == N and label_bytes("hard", N, 1000) == 2 * N


def test_sre2l_record_of_a_view_is_two_bytes_a_class_and_25(images):
    parts = label_parts("per-view", **TOY)
    assert parts["answers"] + parts["views"] + parts["order"] == N * E * (2 * K + 25)
    assert parts["mixes"] == E * 3 * 20 and parts["classes"] == N
    assert label_bytes("pruned", **TOY, keep=0.5) == label_bytes("per-view", **TOY, keep=0.5)
    assert label_bytes("seeded", **TOY) == N * E * 2 * K + N == label_bytes("per-view", **TOY, seeded=True)


def test_sre2l_50_images_a_class_for_300_epochs_in_batches_of_1024_are_14700_batches():
    record = DrawnViews(images=50_000, epochs=300, batch=1024, size=(224, 224), draw=Draw(), seed=0)
    assert record.batches == 14_700 == 300 * batches_of(50_000, 1024)


@pytest.mark.parametrize(("ipc", "due"), [(10, 5.658), (50, 28.29), (200, 113.16)])
def test_soft_labels_paper_sizes_of_fkd(ipc, due):
    digits = 3 if ipc == 10 else 2
    assert round(label_bytes("per-view", 1000 * ipc, 1000, epochs=300, batch=1024) / GIB, digits) == due


@pytest.mark.parametrize(("ipc", "due"), [(1, 0.559), (200, 111.8)])
def test_soft_labels_paper_sizes_of_logits_only(ipc, due):
    found = label_bytes("seeded", 1000 * ipc, 1000, epochs=300, batch=1024) / GIB
    assert found == pytest.approx(due, rel=5e-4)


@pytest.mark.parametrize(("ipc", "due"), [(10, 0.141), (50, 0.707), (200, 2.83)])
def test_soft_labels_paper_sizes_of_labels_pruned_forty_times(ipc, due):
    found = label_bytes("pruned", 1000 * ipc, 1000, epochs=300, batch=100, keep=1 / 40) / GIB
    assert found == pytest.approx(due, rel=4e-3)


@pytest.mark.parametrize(("ipc", "due"), [(10, 0.115), (50, 0.573), (200, 2.29)])
def test_soft_labels_paper_sizes_of_top_100_pruned_ten_times(ipc, due):
    # batches of 125 of the paper's 128, so that none is short: the paper's formula has no batches
    parts = label_parts("top-k", 1000 * ipc, 1000, epochs=300, batch=125, k=100, keep=0.1, compact=True)
    assert (parts["answers"] + parts["views"]) / GIB == pytest.approx(due, rel=5e-3)


def test_soft_labels_paper_size_of_two_distances_and_with_stored_views():
    sizes = [label_bytes("two-distances", 200_000, 1000, 300, 1024, seeded=seeded) / GIB for seeded in (True, False)]
    assert round(sizes[0], 3) == 0.224 and round(sizes[1], 2) == 1.62


def test_soft_labels_paper_size_of_one_static_vector_an_image():
    for ipc, due in ((10, 0.04), (50, 0.19)):
        assert round(label_bytes("static-mixed", 1000 * ipc, 1000) / GIB, 2) == due


def test_soft_labels_ladd_with_one_sub_image_doubles_the_label():
    assert label_parts("dense", N, K, k=1)["answers"] == 2 * label_parts("soft", N, K)["answers"]
    assert label_parts("dense", N, K, k=3)["answers"] == N * (1 + 9) * K * 4


def test_nrr_dd_payload_of_a_view_is_four_bytes_or_eight():
    sizes = [label_parts("two-distances", **TOY, seeded=True, float_bytes=b)["answers"] for b in (None, 4)]
    assert sizes == [4 * N * E, 8 * N * E]


# ---- pruned ----------------------------------------------------------------------------------------------------------


def test_soft_labels_pruning_nothing_equals_fkd(images):
    labels = per_view(images)
    assert_same_batches(labels.pruned(1.0, seeded()), labels, images)
    assert label_bytes("pruned", **TOY, keep=1.0) == label_bytes("per-view", **TOY)


@pytest.mark.parametrize("how", HOW, ids=str)
def test_pruning_keeps_a_random_share_of_whole_batches_with_their_own_answers(images, how):
    labels = per_view(images, **how)
    kept = labels.pruned(0.5, seeded(4))
    # 3 epochs of 4 + 4 + 2: six whole batches, of which three are kept
    assert kept.record.batches == 3 and len(kept.logits) == 12
    every = [(x, told["logits"]) for x, told in every_batch(labels, images)]
    for labels_again in (kept, again(kept)):
        for x, told in every_batch(labels_again, images, 2):
            assert any(torch.equal(x, y) and torch.equal(told["logits"], z) for y, z in every if len(z) == 4)


def test_pruned_batches_are_used_in_cycles(images):
    kept = per_view(images).pruned(0.5, seeded(4))
    rows = [int(view.rows[0]) for epoch in range(3) for view in kept.views(epoch, N, 99, seeded())]
    assert rows == [0, 4, 8, 0, 4, 8]


def test_pruning_twice_is_pruning(images):
    for how in HOW:
        twice = per_view(images, **how).pruned(0.5, seeded(4)).pruned(0.4, seeded(5))
        assert twice.record.batches == 1 and len(twice.logits) == 4
        ((x, told), *_) = every_batch(twice, images, 1)
        every = every_batch(per_view(images, **how), images)
        assert any(
            torch.equal(x, y) and torch.equal(told["logits"], same["logits"]) for y, same in every if len(y) == 4
        )
        assert_same_batches(again(twice), twice, images)


def test_which_batches_are_kept_is_the_generators(images):
    labels = per_view(images)
    chosen = [labels.pruned(0.5, seeded(s)).record.index.tolist() for s in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]


# ---- top-k -----------------------------------------------------------------------------------------------------------


def probabilities(batches):
    return torch.cat([(targets["logits"] / 20).softmax(1) for _, targets in batches])


@pytest.mark.parametrize("make", [lambda x, k: top_k(x, k, rest="shared"), lambda x, k: per_view(x).top(k, "shared")])
@pytest.mark.parametrize("k", [1, 2, K - 1, K])
def test_shared_top_k_keeps_the_k_probabilities_and_shares_what_they_lack(images, make, k):
    full, few = probabilities(every_batch(per_view(images), images)), make(images, k)
    made = probabilities(every_batch(again(few), images))
    best = few.ids.long()
    torch.testing.assert_close(made.gather(1, best), full.gather(1, best), rtol=2e-3, atol=0)
    for p, q, ids in zip(made, full, best, strict=True):
        rest = [c for c in range(K) if c not in ids]
        torch.testing.assert_close(p[rest], (1 - q[ids].sum()).expand(len(rest)) / max(1, len(rest)), rtol=0, atol=1e-3)
    plain = top_k(images, k)
    assert torch.equal(few.ids, plain.ids) and few.payload_bytes == plain.payload_bytes
    if k < K:  # nearer to the whole label than a softmax over the k: exact on the k
        missed = probabilities(every_batch(plain, images))
        assert ((made - full).abs().sum(1) < (missed - full).abs().sum(1)).all()


def test_two_of_ten_at_temperature_20_are_no_coin_toss_when_the_rest_is_shared():
    """Two logits that lead by 10: of ten classes at temperature 20 they have 0.29 and not 1 of the probability."""
    logits = torch.tensor([[10.0, 10.0, *[0.0] * 8]])
    values, ids = kept_logits(logits, 2, "shared", 20.0)
    made = (spread(values, ids, 10, "shared", 20.0) / 20).softmax(1)
    torch.testing.assert_close(made, (logits / 20).softmax(1))
    assert float(made[0, :2].sum()) == pytest.approx(2 / (2 + 8 * math.exp(-0.5)))
    assert kept_logits(logits, 2, "zero", 20.0)[0].tolist() == [[10.0, 10.0]]


def test_shared_values_that_are_no_probabilities_are_refused(images):
    with pytest.raises(InputError, match="give temperature times logarithms of them"):
        evolve(top_k(images, K), rest="shared")


def test_kept_values_that_round_to_more_than_1_leave_nothing_to_share():
    values, ids = torch.tensor([[math.log(0.7), math.log(0.31)]]), torch.tensor([[1, 0]])
    assert spread(values, ids, 3, "shared")[0, 2] == -math.inf


@pytest.mark.parametrize("rest", ["zero", "least"])
def test_soft_labels_top_k_with_every_class_equals_the_full_label(images, rest):
    full = per_view(images)
    assert_same_batches(evolve(top_k(images, K), rest=rest), full, images)


def test_top_k_is_a_softmax_over_the_k_largest_and_zero_elsewhere(images):
    full, few = per_view(images), top_k(images, 2)
    for (_, whole), (_, part) in zip(every_batch(full, images), every_batch(few, images), strict=True):
        soft = (part["logits"] / 20).softmax(1)
        for p, z in zip(soft, whole["logits"], strict=True):
            best = z.topk(2).indices
            torch.testing.assert_close(p[best], (z[best] / 20).softmax(0))
            assert (p > 0).sum() == 2


def test_the_rest_may_have_the_least_kept_logit_instead():
    values, ids = torch.tensor([[5.0, 3.0]]), torch.tensor([[2, 0]], dtype=torch.int16)
    assert spread(values, ids, 4, "least").tolist() == [[3, 3, 5, 3]]
    assert spread(values, ids, 4).tolist() == [[3, -math.inf, 5, -math.inf]]


@pytest.mark.parametrize(("classes", "dtype"), [(32768, torch.int16), (32769, torch.int32)])
def test_ids_of_kept_classes_have_two_bytes_or_four(classes, dtype):
    logits = torch.arange(classes, dtype=torch.float32)[None]
    record = DrawnViews(images=1, epochs=1, batch=1, size=(2, 2), draw=Draw(), seed=0)
    labels = PerViewLabels(logits, torch.tensor([0]), record).top(1)
    assert labels.ids.dtype == dtype and int(labels.ids[0, 0]) == classes - 1


# ---- two distances ---------------------------------------------------------------------------------------------------


def test_soft_labels_two_distances_equal_minus_log_p_at_the_two_ids(images):
    labels = again(two_distances(images))
    for x, told in every_batch(labels, images):
        log_p = mean_logits(x, teacher()).log_softmax(1)
        for row, pair in enumerate(told["distance"]):
            ids = [int(told["class"][row]), int(told["mixed"][row])]
            torch.testing.assert_close(pair, -log_p[row, ids], rtol=1e-3, atol=1e-4)


def test_nrr_dd_distances_beyond_float16_are_its_largest_number():
    record = DrawnViews(images=1, epochs=1, batch=1, size=(2, 2), draw=Draw(), seed=0)
    for distance in (torch.tensor([[math.inf, 1e6]]), torch.tensor([[math.inf, 1.0]]).half()):
        labels = TwoDistanceLabels(distance, torch.tensor([0]), 2, record)
        assert labels.distance[0, 0] == 65504 and labels.distance.isfinite().all()


def test_the_teachers_own_answers_leave_only_the_mixed_cross_entropy(images):
    labels = two_distances(images)
    exact = TwoDistanceLabels(labels.distance.float(), CLASSES, K, labels.record)
    for x, told in every_batch(exact, images):
        out = mean_logits(x, teacher()).double()
        told["distance"] = distances(out, told["class"], told["mixed"])
        entropy = student_loss(out, told, {"loss": "cross-entropy"})
        torch.testing.assert_close(student_loss(out, told, exact.recipe), entropy)


# ---- one label a sample ----------------------------------------------------------------------------------------------


def test_infer_static_labels_interpolate_logits_not_probabilities(images):
    labels = make_static_mixed(images, [teacher(1), teacher(2)], classes=CLASSES)
    (view, *_) = labels.views(0, N, N, seeded())
    partner, share = view.mix
    z, lam = labels.logits[view.index], share[:, None]
    mixed = labels.targets(view)["logits"]
    torch.testing.assert_close(mixed, lam * z + (1 - lam) * z[partner])
    probabilities = lam * z.softmax(1) + (1 - lam) * z[partner].softmax(1)
    assert (mixed.softmax(1) - probabilities).abs().max() > 1e-3


def test_soft_labels_interpolation_with_share_one_equals_the_plain_label(images):
    labels = make_static_mixed(images, teacher(), classes=CLASSES)
    plain = labels.targets(View(torch.arange(N)))["logits"]
    view = View(torch.arange(N), mix=(torch.arange(N).roll(1), torch.ones(N)))
    assert torch.equal(labels.targets(view)["logits"], plain) and torch.equal(plain, labels.logits)


def test_infer_images_and_labels_are_mixed_alike_and_the_label_ignores_crop_and_mirror(images):
    labels = make_static_mixed(images, teacher(), classes=CLASSES, draw=Draw(crop="none", flip=0.0, mix="mixup"))
    moved = make_static_mixed(images, teacher(), classes=CLASSES)
    for view in labels.views(0, N, B, seeded()):
        partner, share = view.mix
        x = images[view.index]
        lam = share[:, None, None, None]
        torch.testing.assert_close(batch_of(images, labels, view).inputs, lam * x + (1 - lam) * x[partner])
    torch.testing.assert_close(moved.logits, labels.logits)


def test_infer_static_labels_of_repeated_images_repeat(images):
    twice = make_averaged(torch.cat([images, images]), teacher(), classes=CLASSES.repeat(2))
    torch.testing.assert_close(twice.logits[:N], twice.logits[N:])


def test_averaged_labels_are_the_mean_of_the_teachers_logits(images):
    labels = make_averaged(images, [teacher(1), teacher(2)], classes=CLASSES, temperature=4.0)
    each = [mean_logits(images, teacher(seed)) for seed in (1, 2)]
    torch.testing.assert_close(labels.logits, (each[0] + each[1]) / 2)
    assert isinstance(labels, SoftLabels) and labels.recipe["temperature"] == 4


def test_static_mixed_views_are_the_students_own_generators(images):
    labels = make_static_mixed(images, teacher(), classes=CLASSES)
    ours = [[changed(v, images[v.index]) for v in again(labels).views(0, N, B, seeded(s))] for s in (1, 1, 2)]
    assert all(map(torch.equal, ours[0], ours[1])) and not torch.equal(ours[0][0], ours[2][0])


# ---- teachers and students -------------------------------------------------------------------------------------------


def test_making_labels_changes_no_parameter_or_buffer_of_the_teacher(images):
    mine = teacher()

    def state() -> str:
        return sha256_of(b"".join(t.numpy().tobytes() for t in mine.state_dict().values()))

    before = state()
    make_per_view(images, mine, draw_views(images, E, B, seeded()), classes=CLASSES)
    assert state() == before and not mine.training


def test_a_teacher_in_training_mode_is_refused(images):
    with pytest.raises(InputError, match=r"a teacher is in training mode.*eval\(\)"):
        make_per_view(images, network().train(), draw_views(images, E, B, seeded()), classes=CLASSES)
    with pytest.raises(InputError, match="of no teacher"):
        make_averaged(images, [], classes=CLASSES)


@pytest.mark.parametrize(
    ("make", "momentum", "rate"), [(per_view, 0.9, 0.05), (top_k, 0.9, 0.05), (two_distances, 0.0, 0.01)]
)
def test_a_student_learns_from_its_batches_and_equal_labels_make_equal_students(images, make, momentum, rate):
    labels = make(images)
    students = []
    for own in (labels, again(labels)):
        losses = []
        student = network(9)
        settings = Descent(steps=60, batch=99, rate=rate, momentum=momentum)
        key = lambda *k: randomness.generator(0, *k)  # noqa: E731
        train_student(
            student, images, own, settings, generator=key, on_epoch=lambda e, seen=losses: seen.append(e.loss)
        )
        students.append(student)
    assert len(losses) == 20 and losses[-1] < 0.9 * losses[0]
    assert all(map(torch.equal, students[0].state_dict().values(), students[1].state_dict().values()))


def test_a_label_that_is_the_students_own_answer_costs_nothing(images):
    labels = per_view(images)
    for x, told in every_batch(labels, images):
        own = mean_logits(x, teacher())
        assert student_loss(own, told, labels.recipe) < 1e-7
        flat = student_loss(torch.zeros_like(own), told, labels.recipe)
        assert flat > student_loss(own, told, labels.recipe)


# ---- refusals --------------------------------------------------------------------------------------------------------


def altered(labels: Labels, name: str, change) -> Labels:
    tensors = labels.tensors()
    tensors[name] = change(tensors[name])
    return type(labels).load(labels.header(), tensors)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("view.index", lambda t: t + N, "name samples that are not among the 10"),
        ("view.index", lambda t: t[:-1], r"'index' of shape \(29,\) where \(30,\) is due"),
        ("view.partner", lambda t: t + 1, "rows that are not in their batch"),
        ("view.flip", lambda t: t.float(), "mirrors that are no truth values"),
        ("view.crop", lambda t: t * 0, "crops or boxes that lie outside"),
        ("view.box", lambda t: t + 9, "crops or boxes that lie outside"),
        ("view.share", lambda t: t - 2, "shares outside"),
        ("view.share", lambda t: t[:-1], "8 batches where 9 are due"),
        ("logits", lambda t: t[:-1], r"shape \(29, 5\) where \(30 views"),
        ("class", lambda t: t + K, "class 9 where there are 5|class 5 where there are 5"),
    ],
)
def test_a_damaged_store_is_refused_in_one_sentence(images, name, change, words):
    with pytest.raises(InputError, match=words):
        altered(per_view(images), name, change)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: per_view(x, temperature=0.0), "temperature 0.0"),
        (lambda x: per_view(x).pruned(0.0, seeded()), "keep 0.0 of their batches"),
        (lambda x: per_view(x).top(K + 1), "keep 6 of 5 classes"),
        (lambda x: altered(top_k(x), "ids", lambda t: t + K), "where there are 5"),
        (lambda x: altered(top_k(x), "ids", lambda t: t[:, :1]), "give the class of each logit"),
        (lambda x: altered(two_distances(x), "distance", lambda t: -t - 1), "two numbers of at least 0"),
        (lambda x: label_bytes("fkd", 1, 1), "no label kind is named 'fkd'"),
        (lambda x: label_bytes("top-k", 1, 1), "depends on k"),
        (
            lambda x: altered(per_view(x, seeded=True).pruned(0.5, seeded()), "view.number", lambda t: t + 99),
            "among the 9",
        ),
        (lambda x: StaticMixedLabels(torch.zeros(3, 2), CLASSES, (8, 8)), r"shape \(3, 2\) where \(10 samples"),
    ],
)
def test_what_cannot_be_such_labels_is_refused_in_one_sentence(images, make, words):
    with pytest.raises(InputError, match=words):
        make(images)


def test_an_unknown_kind_of_views_names_the_way_out(images):
    labels = per_view(images)
    header = labels.header()
    header["views"]["kind"] = "streamed"
    with pytest.raises(InputError, match="'streamed', which this ddcore does not read: upgrade"):
        PerViewLabels.load(header, labels.tensors())


def test_draws_of_a_record_depend_on_the_seed_and_the_batch_only():
    record = draw_views(torch.zeros(N, 1, 8, 8), E, B, seeded())
    one, other = (record.view(4) for _ in range(2))
    assert torch.equal(one.index, other.index) and torch.equal(one.mix[0], other.mix[0])
    own = drawn(SHIFTED, 4, (8, 8), seeded())
    assert own.crop.shape == (4, 4) and F.one_hot(CLASSES).shape == (N, K)


@pytest.mark.parametrize("compact", [False, True])
def test_shuffled_patches_are_stored_and_cost_two_bytes_a_strip(compact):
    draw = Draw(crop="none", shuffle=3)
    record = DrawnViews(images=5, epochs=2, batch=2, size=(9, 9), draw=draw, seed=3)
    kept = record.store(compact=compact)
    for number in range(record.batches):
        drawn_again, stored_one = record.view(number), kept.view(number)
        for (name, one), (other_name, other) in zip(drawn_again.ops, stored_one.ops, strict=True):
            assert name == other_name
            assert all(torch.equal(one[key].to(other[key]), other[key]) for key in one)
    plain = DrawnViews(images=5, epochs=2, batch=2, size=(9, 9), draw=Draw(crop="none"), seed=3).store(compact=compact)
    size = {r: sum(t.numel() * t.element_size() for t in r.tensors().values()) for r in (kept, plain)}
    assert size[kept] - size[plain] == 10 * 2 * 3
    parts = label_parts("per-view", 5, 4, 2, 2, compact=compact, shuffle=3)
    assert sum(parts[p] for p in ("views", "order", "mixes")) == size[kept]
    again = StoredViews.load(5, kept.header(), kept.tensors())
    assert torch.equal(again.view(1).ops[0][1]["orders"], kept.view(1).ops[0][1]["orders"])


def test_strips_that_are_no_order_are_refused():
    draw = Draw(crop="none", shuffle=2)
    kept = DrawnViews(images=4, epochs=1, batch=2, size=(8, 8), draw=draw, seed=3).store()
    wrong = {**kept.tensors(), "view.strips": torch.zeros_like(kept.strips)}
    with pytest.raises(InputError, match="shuffle patches by what is no order"):
        StoredViews.load(4, kept.header(), wrong)
