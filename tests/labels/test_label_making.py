"""How teachers make labels: weights, batch statistics, what is asked and what is not, and the pitfalls of the specs."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ddcore import randomness
from ddcore.errors import InputError
from ddcore.images.views import Draw, View, changed
from ddcore.labels import agreement, answers, asking, draw_views, label_bytes, label_parts, make_per_view, mean_logits
from ddcore.labels.making import make_averaged, make_static_mixed, make_top_k, make_two_distances
from ddcore.training.loop import batch_of

N, K, E, B = 20, 4, 3, 16
CLASSES = torch.arange(N) * K // N
GIB = 2**30


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(N, 1, 8, 8, generator=seeded())


def teacher(seed: int = 1, dropout: float = 0.0) -> nn.Module:
    with randomness.drawing_from(seeded(seed)):
        body = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout)
        found = nn.Sequential(*body, nn.Linear(6 * 36, K), nn.BatchNorm1d(K)).train()
        with torch.no_grad():
            for _ in range(5):
                found(2 * torch.randn(30, 1, 8, 8) + 1)
    return found.eval()


def state(network: nn.Module) -> list[bytes]:
    modes = [str([module.training for module in network.modules()]).encode()]
    tracked = [str([getattr(m, "track_running_stats", None) for m in network.modules()]).encode()]
    return [t.numpy().tobytes() for t in network.state_dict().values()] + modes + tracked


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_logits_are_averaged_by_weight(images):
    each = [mean_logits(images, teacher(seed)) for seed in (1, 2, 3)]
    due = 0.5 * each[0] + 0.3 * each[1] + 0.2 * each[2]
    every = [teacher(seed) for seed in (1, 2, 3)]
    torch.testing.assert_close(mean_logits(images, every, weights=[0.5, 0.3, 0.2]), due)
    torch.testing.assert_close(mean_logits(images, every, weights=[5, 3, 2]), due)
    torch.testing.assert_close(mean_logits(images, every), sum(each) / 3)


def test_a_teacher_of_weight_zero_has_no_say(images):
    labels = make_averaged(images, [teacher(1), teacher(2)], classes=CLASSES, weights=[1, 0])
    assert torch.equal(labels.logits, mean_logits(images, teacher(1)))


def test_cv_dd_a_committee_of_two_copies_of_one_teacher_answers_as_one(images):
    for how in ({}, {"statistics": "batch"}):
        two = mean_logits(images, [teacher(), teacher()], weights=[0.25, 0.75], **how)
        torch.testing.assert_close(two, mean_logits(images, teacher(), **how))


@pytest.mark.parametrize("make", [make_per_view, make_top_k, make_two_distances])
def test_every_label_of_views_heeds_weights(images, make):
    k = {"k": 2} if make is make_top_k else {}
    given = (images, [teacher(1), teacher(2)], draw_views(images, E, B, seeded()))
    kinds = [make(*given, classes=CLASSES, weights=w, **k) for w in ((1, 3), (3, 1), (2, 6))]
    own = [getattr(labels, labels.answers[0]) for labels in kinds]
    assert torch.equal(own[0], own[2]) and not torch.equal(own[0], own[1])


@pytest.mark.parametrize("weights", [[1.0], [1.0, -0.5], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_do_not_fit_are_refused(images, weights):
    with pytest.raises(InputError, match=r"2 teachers have weights .*: give one of at least 0 for each"):
        mean_logits(images, [teacher(1), teacher(2)], weights=weights)


# ---- batch statistics (CV-DD's batch-specific soft labels) -----------------------------------------------------------


def slow_batch_logits(images: Tensor, network: nn.Module, sizes: list[int]) -> Tensor:
    """Each group through a copy in training mode: mean and biased variance of the group."""
    with torch.no_grad():
        return torch.cat([copy.deepcopy(network).train()(group) for group in images.split(sizes)])


def test_cv_dd_labels_by_batch_statistics_are_those_of_training_mode_in_groups_of_eight(images):
    found = mean_logits(images, teacher(), statistics="batch")
    torch.testing.assert_close(found, slow_batch_logits(images, teacher(), [8, 8, 4]))
    assert (found - mean_logits(images, teacher())).abs().max() > 0.1
    assert (found - slow_batch_logits(images, teacher(), [N])).abs().max() > 1e-2


def test_cv_dd_the_variance_is_biased():
    # two values -1 and 1: mean 0, biased variance 1, so that they stay as they are; unbiased, 2: they shrink by sqrt(2)
    norm = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1, eps=1e-12)).eval()
    pair = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(mean_logits(pair, norm, statistics="batch"), pair.flatten(1))


def test_cv_dd_permuting_images_inside_a_group_permutes_labels(images):
    order = torch.cat([torch.randperm(8, generator=seeded(3)), torch.arange(8, N)])
    found, moved = (mean_logits(x, teacher(), statistics="batch") for x in (images, images[order]))
    torch.testing.assert_close(moved, found[order])


def test_cv_dd_moving_an_image_to_another_group_changes_its_label(images):
    order = torch.arange(N)
    order[[0, 8]] = order[[8, 0]]
    found, moved = (mean_logits(x, teacher(), statistics="batch") for x in (images, images[order]))
    assert (moved[8] - found[0]).abs().max() > 1e-3
    clean, same = (mean_logits(x, teacher()) for x in (images, images[order]))
    torch.testing.assert_close(same, clean[order])


@pytest.mark.parametrize("how", [{}, {"statistics": "batch"}, {"statistics": "batch", "dropout": True}])
def test_making_labels_drifts_no_buffer_of_the_teacher_and_leaves_its_modes(images, how):
    mine = teacher(dropout=0.2)
    before, random = state(mine), torch.random.get_rng_state()
    how = {**how, "dropout": seeded(5)} if "dropout" in how else how
    make_per_view(images, mine, draw_views(images, E, B, seeded()), classes=CLASSES, **how)
    assert state(mine) == before and torch.equal(torch.random.get_rng_state(), random)


def test_dropout_is_off_unless_asked_for_and_then_its_generators(images):
    mine, sure = teacher(dropout=0.5), teacher()
    assert torch.equal(mean_logits(images, mine, statistics="batch"), mean_logits(images, sure, statistics="batch"))
    asked = [mean_logits(images, mine, statistics="batch", dropout=seeded(s)) for s in (1, 1, 2)]
    assert torch.equal(asked[0], asked[1]) and not torch.equal(asked[0], asked[2])
    assert not torch.equal(asked[0], mean_logits(images, mine, statistics="batch"))


def test_dropout_leaves_running_statistics_where_they_are_asked_for(images):
    found = mean_logits(images, teacher(), dropout=seeded())
    assert torch.equal(found, mean_logits(images, teacher()))


def test_a_teacher_without_batch_norm_does_not_care_for_groups(images):
    plain = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, K)).eval()
    torch.testing.assert_close(mean_logits(images, plain, statistics="batch", group=3), mean_logits(images, plain))


def test_a_lone_last_image_joins_the_group_before_and_one_image_alone_is_refused(images):
    found = mean_logits(images[:17], teacher(), statistics="batch")
    torch.testing.assert_close(found, slow_batch_logits(images[:17], teacher(), [8, 9]))
    with pytest.raises(InputError, match="statistics of 1 image were asked for: give 2 or more"):
        mean_logits(images[:1], teacher(), statistics="batch")


def test_groups_of_labels_of_views_are_consecutive_rows_of_each_mixed_batch(images):
    record = draw_views(images, E, B, seeded())
    found = answers(images, teacher(), record, statistics="batch")
    for number in range(record.batches):
        view = record.view(number)
        sizes = [8, 8] if len(view.index) == 16 else [4]
        due = slow_batch_logits(changed(view, images[view.index]), teacher(), sizes)
        torch.testing.assert_close(found[view.rows], due)


def test_clean_labels_by_batch_statistics_mix_the_classes_of_a_set_that_lies_class_by_class(images):
    shifted = images + 5 * CLASSES[:, None, None, None]
    labels = make_averaged(shifted, teacher(), classes=CLASSES, statistics="batch", group=10)
    rows = torch.cat([torch.arange(0, N, 2), torch.arange(1, N, 2)])
    due = slow_batch_logits(shifted[rows], teacher(), [10, 10])[rows.argsort()]
    torch.testing.assert_close(labels.logits, due)


# ---- what is asked ---------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A teacher that counts the images it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.seen = teacher(), 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.inner(images)


@pytest.mark.parametrize("keep", [0.3, 0.67])
@pytest.mark.parametrize("seeded_views", [True, False])
def test_labels_that_are_not_kept_are_not_asked_for(images, keep, seeded_views):
    counting, g, h = Counting().eval(), seeded(), seeded()
    few = make_per_view(images, counting, draw_views(images, E, B, g, keep=keep), classes=CLASSES)
    due = make_per_view(images, teacher(), draw_views(images, E, B, h), classes=CLASSES).pruned(keep, h)
    few, due = (few, due) if seeded_views else (few.stored(), due.stored())
    assert counting.seen == len(few.logits) == few.record.batches * B
    assert few.tensors().keys() == due.tensors().keys()
    assert all(torch.equal(tensor, due.tensors()[name]) for name, tensor in few.tensors().items())


def test_top_k_and_distances_are_what_whole_logits_give(images):
    given = (images, [teacher(1), teacher(2)], draw_views(images, E, B, seeded()))
    whole = make_per_view(*given, classes=CLASSES)
    few = make_top_k(*given, classes=CLASSES, k=2)
    assert all(torch.equal(t, whole.top(2).tensors()[name]) for name, t in few.tensors().items())
    pair = make_two_distances(*given, classes=CLASSES)
    for view in pair.views(0, N, B, seeded()):
        told = pair.targets(view)
        log_p = -whole.targets(view)["logits"].log_softmax(1)
        due = torch.stack([log_p[torch.arange(len(log_p)), told[name]] for name in ("class", "mixed")], 1)
        torch.testing.assert_close(told["distance"], due, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_labels_are_of_mixed_images_whatever_the_mix(images, mix):
    # CV-DD's code labels a tensor that CutMix changes in place and MixUp does not: its MixUp labels are of un-mixed images
    labels = make_per_view(images, teacher(), draw_views(images, E, B, seeded(), Draw(mix=mix)), classes=CLASSES)
    (view, *_) = labels.views(0, N, B, seeded())
    told = labels.targets(view)["logits"]
    torch.testing.assert_close(told, mean_logits(changed(view, images[view.index]), teacher()), rtol=1e-2, atol=1e-2)
    unmixed = mean_logits(changed(View(view.index, view.ops), images[view.index]), teacher())
    assert (told - unmixed).abs().max() > 0.1


def test_what_is_told_about_a_view_does_not_hang_on_how_a_student_visits_it(images):
    # FKD replays crops by the DataLoader's seed, workers and batch size: change one and labels are of other images
    labels = make_per_view(images, teacher(), draw_views(images, E, B, seeded()), classes=CLASSES)
    torch.manual_seed(1)
    ours = [batch_of(images, labels, view) for view in labels.views(1, N, 99, seeded(7))]
    torch.manual_seed(2)
    theirs = [batch_of(images, labels, view) for view in labels.views(1, N, 3, seeded(8))]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.inputs, other.inputs) and torch.equal(one.targets["logits"], other.targets["logits"])
        exact = mean_logits(one.inputs, teacher())
        torch.testing.assert_close(one.targets["logits"], exact, rtol=1e-2, atol=1e-2)


def test_static_labels_may_be_stored_in_float16_and_weighted(images):
    every = [teacher(1), teacher(2)]
    labels = make_static_mixed(images, every, classes=CLASSES, half=True, weights=[1, 3])
    due = (mean_logits(images, every[0]) + 3 * mean_logits(images, every[1])) / 4
    assert labels.logits.dtype == torch.float16 and labels.payload_bytes == label_bytes(
        "static-mixed", N, K, float_bytes=2
    )
    torch.testing.assert_close(labels.logits.float(), due, rtol=1e-2, atol=1e-2)


def test_asking_gives_a_function_of_images_alone(images):
    ask = asking([teacher(1), teacher(2)], weights=[1, 2], statistics="batch", group=4)
    assert torch.equal(ask(images), ask(images)) and not ask(images).requires_grad


# ---- how well teachers know what they label --------------------------------------------------------------------------


class Brightness(nn.Module):
    """Whether most of an image is bright: exactly the class of the larger part of a mix of black and white images."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean((1, 2, 3))
        return torch.stack([1 - bright, bright], 1)


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_agreement_is_the_share_of_views_whose_larger_part_the_teacher_names(mix):
    classes, mine = torch.arange(N) % 2, Brightness().eval()
    plain = classes[:, None, None, None].expand(N, 1, 8, 8).float()
    assert agreement(plain, mine, classes) == 1 and agreement(plain, mine, 1 - classes) == 0
    record = draw_views(plain, 20, N, seeded(), Draw(crop="none", flip=0, mix=mix))
    shares = torch.stack([record.view(number).mix[1][0] for number in range(20)])
    assert (shares < 0.5).any() and (shares > 0.5).any()
    assert agreement(plain, mine, classes, record) == 1 and agreement(plain, mine, 1 - classes, record) == 0


def test_agreement_looks_at_no_more_than_it_is_told(images):
    counting = Counting().eval()
    agreement(images, counting, CLASSES, draw_views(images, 50, B, seeded()), most=20)
    assert counting.seen == B + N - B
    agreement(images, counting, CLASSES, most=5)
    assert counting.seen == N + 5


# ---- the papers' sizes -----------------------------------------------------------------------------------------------


def imagenet(kind, ipc, batch=1024, **storage):
    """Parts of labels for ImageNet-1K, of views for 300 epochs."""
    return label_parts(kind, 1000 * ipc, 1000, 300, batch, **storage)


def infer_images(ipc, classes=1000, networks=3):
    """Images that INFER's set decodes to: n0 (1 + M) K, with n0 = floor(ipc / (1 + M / K)) bases a class and M networks."""
    return ipc * classes // (classes + networks) * (1 + networks) * classes


@pytest.mark.parametrize(("ipc", "slots", "decoded"), [(10, 0.04, 0.134), (50, 0.19, 0.730)])
def test_infer_bytes_of_imagenet_labels(ipc, slots, decoded):
    assert round(sum(imagenet("static-mixed", ipc).values()) / GIB, 2) == slots
    assert round(label_parts("static-mixed", infer_images(ipc), 1000)["answers"] / GIB, 3) == decoded


def test_infer_an_image_has_four_kilobytes_static_and_half_a_megabyte_dynamic():
    static = imagenet("static-mixed", 10)["answers"] / 10_000
    dynamic = imagenet("per-view", 10)["answers"] / 10_000
    # the paper's ratios 1.036 and 5.81 to the bytes of images alone: 3.6% and 481%
    assert static == 4000 and dynamic == 600_000 and dynamic / static == pytest.approx(481 / 3.6, rel=0.13)


def test_soft_labels_other_papers_sizes():
    assert round(sum(imagenet("per-view", 10).values()) / GIB, 2) == 5.66
    assert round(sum(imagenet("two-distances", 200, seeded=True).values()) / GIB, 3) == 0.224
    assert imagenet("per-view", 50, batch=16)["mixes"] // 20 == 937_500
    with pytest.raises(InputError, match="no label kind is named 'fkd'"):
        imagenet("fkd", 10)
