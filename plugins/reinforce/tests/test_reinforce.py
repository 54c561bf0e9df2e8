"""Recorded augmentations: what is drawn is what is replayed, labels are sparse probabilities, stores know their images."""

import math

import pytest
import torch
from attrs import evolve
from ddcore_reinforce import (
    Records,
    ReinforcedLabels,
    mean_probabilities,
    merged,
    randaugment,
    record_bytes,
    reinforced,
)
from ddcore_reinforce.chain import Chain, betas, cut_boxes, draw, erased_boxes, mixed, mixing, replay
from ddcore_reinforce.store import CLOSE, densify, fingerprints
from torch import nn
from torch.nn import functional as F

from ddcore import InputError
from ddcore.data.normalisation import MeanStd
from ddcore.data.sources import open_source
from ddcore.images.views import cutmix_box
from ddcore.labels import kl_divergence, student_loss, top_k
from ddcore.networks.vision import import_torchvision
from ddcore.training.loop import batch_of

N, S, K, SIZE = 6, 5, 7, 12
SPACE = MeanStd((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
MIXES = {"mixup": 0.5, "cutmix": 0.5}
AUGMENTS = {"operations": 2, "erase": 0.5}
CHAINS = {"rrc": {}, "mix": MIXES, "ra-re": AUGMENTS, "all": {**MIXES, **AUGMENTS}}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seeded(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


class Watching(nn.Module):
    """A linear teacher that remembers what it was shown."""

    def __init__(self, seed=1):
        super().__init__()
        self.weight, self.shown = seeded(3 * SIZE * SIZE, K, seed=seed, dtype=torch.float32) / 16, []

    def forward(self, images):
        self.shown.append(images)
        return images.flatten(1) @ self.weight


PIXELS = torch.randint(0, 256, (N, 3, SIZE, SIZE), generator=generator(3), dtype=torch.uint8)
IMAGES = SPACE.apply(PIXELS / 255)
CLASSES = torch.tensor([0, 1, 2, 3, 4, 6])
Q = seeded(9, K, seed=1).softmax(1)


def chain(**links):
    return Chain(size=(SIZE, SIZE), **links)


def store(teachers=None, links="all", seed=0, **changes):
    teachers = teachers or [Watching().eval()]
    given = {"classes": CLASSES, "class_count": K, "chain": chain(**CHAINS[links]), "samples": S, "k": 3}
    given |= {"half": False, "normalisation": SPACE, "probability": 1.0, **changes}
    records = Records(**{name: given.pop(name) for name in ("chain", "samples", "k", "half", "normalisation")})
    return reinforced(IMAGES, teachers, generator(seed), records=records, **given)


def views(labels, epoch=0, batch=4, seed=1):
    return list(labels.views(epoch, len(labels), batch, generator(seed)))


# ---- records ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", CHAINS)
def test_check_a_replay_is_bit_equal_to_what_the_teacher_saw(links):
    teacher = Watching().eval()
    labels = store([teacher], links)
    seen, nobody = torch.cat(teacher.shown), torch.zeros(1, dtype=torch.bool)
    for rows in (torch.arange(N * S), torch.tensor([7, 28, 3, 3]), *torch.arange(N * S)[:, None]):
        view = labels.view(rows // S, rows, nobody.expand(len(rows)), generator())
        assert torch.equal(labels.changed(view, IMAGES[view.fetched]), seen[rows])


def test_check_other_seeds_draw_other_records():
    one, other = store(), store(seed=1)
    assert all(not torch.equal(values, other.records[name]) for name, values in one.records.items())
    again = store()
    assert all(torch.equal(values, again.records[name]) for name, values in one.records.items())


def test_records_are_of_the_types_and_shapes_that_are_said():
    for links in CHAINS.values():
        own = chain(**links)
        record = draw(own, torch.arange(40) % N, N, generator())
        assert {name: (t.shape[1:], t.dtype) for name, t in record.items()} == {
            name: (torch.Size(shape), dtype) for name, (shape, dtype) in own.parameters(N).items()
        }


def test_partners_are_other_images_and_a_quarter_of_the_records_has_none():
    record = draw(chain(**MIXES), torch.arange(4000) % N, N, generator())
    assert not bool((record["partner"] == torch.arange(4000) % N).any())
    alone = 1 - float(mixing(record).float().mean())
    empty = float(((record["cut"][:, 2:] - record["cut"][:, :2]).prod(1) == 0).float().mean())
    assert alone == pytest.approx(0.5 * empty, abs=0.03) and 0.25 < alone < 0.4
    assert float(record["share"].min()) >= 0.5 and float((record["share"] < 1).float().mean()) == pytest.approx(
        0.5, abs=0.03
    )
    assert float(record["share"][record["share"] < 1].mean()) == pytest.approx(0.75, abs=0.02)


def test_both_mixes_by_hand():
    # 0.75 * 0 + 0.25 * 4 = 1 outside the box, the partner's own 4 inside it
    image, partner = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 4.0)
    found = mixed(image, partner, torch.tensor([0.75]), torch.tensor([[0, 1, 2, 2]]))
    assert found[0, 0].tolist() == [[1, 4], [1, 4]]


@pytest.mark.parametrize("links", ["mix", "all"])
def test_a_slow_twin_mixes_images_and_partners_that_went_through_their_own_links(links):
    own = chain(**CHAINS[links])
    alone = evolve(own, mixup=0.0, cutmix=0.0)
    record = draw(own, torch.arange(N), N, generator(4))
    found = replay(own, IMAGES, IMAGES[record["partner"][mixing(record)].long()], record, SPACE)
    for n in range(N):
        mine = {name: record[name][[n]] for name in alone.parameters(N)}
        theirs = {name: record[f"partner.{name}"][[n]] for name in alone.parameters(N)}
        image = replay(alone, IMAGES[[n]], IMAGES[:0], mine, SPACE)
        other = replay(alone, IMAGES[[int(record["partner"][n])]], IMAGES[:0], theirs, SPACE)
        due = record["share"][n] * image + (1 - record["share"][n]) * other
        top, left, bottom, right = record["cut"][n].tolist()
        due[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        torch.testing.assert_close(found[[n]], due)


def test_a_share_of_one_and_an_empty_box_are_the_image():
    assert torch.equal(mixed(IMAGES, IMAGES.flip(0), torch.ones(N), torch.zeros(N, 4, dtype=torch.uint8)), IMAGES)


def test_boxes_are_those_of_the_core_one_by_one():
    share, centre = (
        torch.rand(50, generator=generator(), dtype=torch.float64),
        torch.rand(2, 50, generator=generator(1)),
    )
    for row, box in enumerate(cut_boxes(share, (12, 20), centre)):
        assert torch.equal(box, cutmix_box(float(share[row]), (12, 20), centre[:, row]))


@pytest.mark.parametrize(("shape", "deviation"), [(1.0, math.sqrt(1 / 12)), (0.2, math.sqrt(0.25 / 1.4))])
def test_shares_have_the_moments_of_beta(shape, deviation):
    found = betas(shape, 20_000, generator())
    assert float(found.mean()) == pytest.approx(0.5, abs=0.01) and float(found.std()) == pytest.approx(
        deviation, abs=0.01
    )


def test_erased_boxes_lie_inside_and_have_the_area_and_the_probability_that_is_due():
    boxes = erased_boxes(4000, (32, 48), 0.25, generator()).double()
    erased = boxes[boxes[:, 2] > 0]
    assert len(erased) / 4000 == pytest.approx(0.25, abs=0.03)
    assert (erased[:, :2] >= 0).all() and (erased[:, :2] + erased[:, 2:] <= torch.tensor([32, 48])).all()
    area = erased[:, 2] * erased[:, 3] / (32 * 48)
    assert float(area.min()) > 0.01 and float(area.max()) < 0.36
    assert float((erased[:, 2] / erased[:, 3]).min()) > 0.25 and float((erased[:, 2] / erased[:, 3]).max()) < 4


def test_erasing_makes_black_and_not_the_mean():
    own = chain(erase=1.0, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    record = draw(own, torch.arange(N), N, generator())
    pixels = SPACE.inverse(replay(own, IMAGES, IMAGES[:0], record, SPACE))
    for image, plain, (top, left, high, wide) in zip(pixels, PIXELS / 255, record["erased"].tolist(), strict=True):
        due = plain.clone()
        due[:, top : top + high, left : left + wide] = 0
        torch.testing.assert_close(image, due, atol=1e-6, rtol=0)
        assert high * wide > 0


# ---- RandAugment -----------------------------------------------------------------------------------------------------


def test_operations_are_torchvisions_at_its_magnitudes():
    import_torchvision()
    from torchvision.transforms import v2

    known = v2.RandAugment(num_ops=1, magnitude=9)
    names = list(known._AUGMENTATION_SPACE)
    strengths = randaugment.magnitudes(9, (SIZE, SIZE))
    for number, (name, (levels, signed)) in enumerate(known._AUGMENTATION_SPACE.items()):
        due = levels(31, SIZE, SIZE)
        due = 0.0 if due is None else float(due[9])
        assert float(strengths[number]) == pytest.approx(due) and signed == (number in randaugment.SIGNED)
        for magnitude in {due, -due} if signed else {due}:
            theirs = known._apply_image_or_video_transform(
                PIXELS, name, magnitude, interpolation=known.interpolation, fill={}
            )
            which, strength = torch.full((N, 1), number), torch.full((N, 1), magnitude, dtype=torch.float64)
            assert torch.equal(randaugment.replay(PIXELS, which, strength), theirs), name
    assert len(names) == len(randaugment.NAMES)


@pytest.mark.parametrize("size", [(32, 32), (20, 331)])
def test_magnitudes_are_torchvisions_to_the_last_bit_at_every_level(size):
    import_torchvision()
    from torchvision.transforms import v2

    spaces = [levels(31, *size) for levels, _ in v2.RandAugment._AUGMENTATION_SPACE.values()]
    for level in range(31):
        due = [0.0 if space is None else float(space[level]) for space in spaces]
        assert randaugment.magnitudes(level, size).tolist() == due


def test_all_operations_and_both_signs_come_up():
    which, strength = randaugment.draw(2000, 2, 9, (SIZE, SIZE), generator())
    assert set(which.flatten().tolist()) == set(range(14))
    signed = strength[(which >= 1) & (which <= 9)]
    assert float((signed < 0).float().mean()) == pytest.approx(0.5, abs=0.04)
    assert float(strength[(which < 1) | (which > 9)].min()) >= 0


def test_other_channels_than_colours_are_refused():
    with pytest.raises(InputError, match="images have 2 channels"):
        randaugment.replay(PIXELS[:, :2], torch.ones(N, 1), torch.ones(N, 1))
    grey, which = PIXELS[:, :1], torch.arange(14)[:, None]
    assert (
        randaugment.replay(
            grey[:1].expand(14, 1, SIZE, SIZE), which, randaugment.magnitudes(9, (SIZE, SIZE))[which]
        ).shape[1]
        == 1
    )


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, K])
def test_check_dense_labels_sum_to_one_and_keep_the_stored_values(k):
    values, ids = top_k(Q, k)
    dense = densify(values, ids, K)
    torch.testing.assert_close(dense.sum(1), torch.ones(9, dtype=Q.dtype), rtol=0, atol=1e-6)
    torch.testing.assert_close(dense.gather(1, ids.long()), values)
    assert (values.diff(dim=1) <= 0).all()
    if k == K:
        torch.testing.assert_close(dense, Q)


def test_check_one_value_of_one_is_one_hot():
    assert torch.equal(densify(torch.ones(1, 1), torch.tensor([[4]]), K), F.one_hot(torch.tensor([4]), K).float())


def test_check_a_sure_label_stays_sure_where_a_softmax_of_probabilities_would_not():
    # the authors' other mode makes e^0.9 / (e^0.9 + 9 e^(0.1/9)) = 0.213 of a top value of 0.9 among 10
    values, ids = torch.tensor([[0.9, *[0.1 / 9] * 9]]), torch.arange(10)[None]
    assert float(densify(values, ids, 100)[0, 0]) == pytest.approx(0.9)
    assert float(values.softmax(1)[0, 0]) == pytest.approx(0.213, abs=1e-3)


def test_values_that_rounding_made_too_large_stay_probabilities():
    dense = densify(torch.tensor([[0.9, 0.102]]), torch.tensor([[1, 0]]), K)
    assert float(dense.min()) == 0 and float(dense.sum()) == pytest.approx(1)


def test_check_the_mean_of_identical_teachers_is_one_of_them():
    one, two = Watching().eval(), Watching(2).eval()
    single = mean_probabilities(IMAGES, [one])
    torch.testing.assert_close(mean_probabilities(IMAGES, [one] * 4), single)
    torch.testing.assert_close(
        mean_probabilities(IMAGES, [one, two], [3, 1]), 0.75 * single + 0.25 * mean_probabilities(IMAGES, [two])
    )
    torch.testing.assert_close(single, (IMAGES.flatten(1) @ one.weight).softmax(1))


@pytest.mark.parametrize("links", CHAINS)
def test_the_loss_is_the_divergence_from_the_teachers_answer_to_what_the_student_sees(links):
    teacher = Watching().eval()
    labels = store([teacher], links, k=K)
    for view in views(labels):
        batch = batch_of(IMAGES, labels, view)
        logits = seeded(len(view.index), K, seed=8, dtype=torch.float32)
        due = kl_divergence(logits, batch.inputs.flatten(1) @ teacher.weight).mean()
        torch.testing.assert_close(student_loss(logits, batch.targets, labels.recipe), due)


def test_the_gradient_is_right_where_classes_have_no_probability():
    labels = store(k=K, probability=0.0)
    told = labels.targets(views(labels)[0])
    told["logits"] = told["logits"].double()
    logits = seeded(4, K, seed=9).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: student_loss(z, told, labels.recipe), (logits,))


# ---- how students draw -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", CHAINS)
def test_check_without_records_images_are_plain_and_their_loss_is_cross_entropy(links):
    labels, plain = store(links=links, probability=0.0), store(links="rrc", probability=0.0)
    for view, alone in zip(views(labels), views(plain), strict=True):
        batch, other = batch_of(IMAGES, labels, view), batch_of(IMAGES, plain, alone)
        logits = seeded(len(view.index), K, seed=8, dtype=torch.float32)
        torch.testing.assert_close(
            student_loss(logits, batch.targets, labels.recipe), F.cross_entropy(logits, CLASSES[view.index])
        )
        assert view.also is None or not len(view.also)
        assert batch.inputs.shape == other.inputs.shape == (len(view.index), 3, SIZE, SIZE)
    one, two = (batch_of(IMAGES, labels, views(labels, seed=seed)[0]).inputs for seed in (1, 2))
    assert not torch.equal(one, two)


def test_check_one_record_always_is_a_fixed_data_set():
    labels = store(samples=1)

    def seen(epoch):
        batches = [batch_of(IMAGES, labels, view) for view in views(labels, epoch, seed=epoch)]
        order = torch.cat([b.index for b in batches]).argsort()
        return torch.cat([b.inputs for b in batches])[order], torch.cat([b.targets["logits"] for b in batches])[order]

    assert all(torch.equal(a, b) for a, b in zip(seen(0), seen(5), strict=True))


def test_an_epoch_visits_every_image_once_and_every_record_comes_up():
    labels = store(links="rrc")
    epochs = [torch.cat([view.rows for view in views(labels, seed=seed)]) for seed in range(60)]
    assert all(sorted((rows // S).tolist()) == list(range(N)) for rows in epochs)
    assert len(torch.cat(epochs).unique()) == N * S


def test_the_share_of_plain_images_is_what_is_asked_for():
    labels = store(links="rrc", probability=0.75)
    plain = torch.cat([view.rows < 0 for seed in range(300) for view in views(labels, seed=seed)])
    assert float(plain.float().mean()) == pytest.approx(0.25, abs=0.03)


# ---- stores ----------------------------------------------------------------------------------------------------------


def test_check_merged_stores_have_all_records_and_none_twice():
    one, other = store(samples=3), store(samples=4, seed=1)
    both = merged(one, other)
    assert both.samples == 7
    every = torch.cat(
        [
            values.flatten(2) if values.dim() > 2 else values[:, :, None]
            for values in map(torch.Tensor.double, both.records.values())
        ],
        2,
    )
    assert all(len(image.unique(dim=0)) == 7 for image in every)
    rows = torch.tensor([0, 3])
    view = both.view(torch.zeros(2, dtype=torch.int64), rows, torch.zeros(2, dtype=torch.bool), generator())
    halves = [s.view(rows[:1] * 0, rows[:1] * 0, torch.zeros(1, dtype=torch.bool), generator()) for s in (one, other)]
    due = torch.cat([s.changed(v, IMAGES[v.fetched]) for s, v in zip((one, other), halves, strict=True)])
    assert torch.equal(both.changed(view, IMAGES[view.fetched]), due)
    labels = torch.cat([s.targets(v)["logits"] for s, v in zip((one, other), halves, strict=True)])
    assert torch.equal(both.targets(view)["logits"], labels)


def test_check_merging_the_same_draws_or_other_images_raises():
    with pytest.raises(InputError, match="hold the same records: make the second with another --seed"):
        merged(store(), store())
    with pytest.raises(InputError, match="other links"):
        merged(store(), store(links="mix", seed=1))
    with pytest.raises(InputError, match="not of the same images in the same order"):
        merged(store(), evolve(store(seed=1), prints=fingerprints(IMAGES.flip(0))))


@pytest.mark.parametrize("links", ["rrc", "all"])
def test_check_images_in_another_order_raise(links):
    labels = store(links=links)
    view = views(labels)[0]
    labels.changed(view, IMAGES[view.fetched])
    with pytest.raises(InputError, match="is not the one that was reinforced under this number"):
        labels.changed(view, IMAGES.roll(1, 0)[view.fetched])


def test_fingerprints_tell_real_images_apart_and_survive_rounding():
    images = open_source("digits").train.stored[:400].double()
    images = (images / images.max()).unique(dim=0)
    prints = fingerprints(images)
    apart = torch.pdist(prints.double(), float("inf"))
    assert float((apart < CLOSE).double().mean()) < 1e-4
    assert ((fingerprints(images * (1 + 1e-6)) - prints).abs() < 1e-5).all()
    torch.testing.assert_close(fingerprints(images.float()), prints)


@pytest.mark.parametrize("links", CHAINS)
@pytest.mark.parametrize("half", [True, False])
def test_check_bytes_are_those_of_the_formula_and_a_reader_gets_the_same(links, half):
    labels = store(links=links, half=half)
    fixed = N * (1 + 8)
    assert labels.payload_bytes == fixed + N * S * record_bytes(labels.chain, N, K, 3, half)
    again = ReinforcedLabels.load(labels.header(), labels.tensors())
    one, other = views(labels)[0], views(again)[0]
    assert torch.equal(labels.targets(one)["logits"], again.targets(other)["logits"])
    assert torch.equal(labels.changed(one, IMAGES[one.fetched]), again.changed(other, IMAGES[other.fetched]))
    assert again.chain == labels.chain and again.probability == labels.probability


def test_damaged_stores_and_missing_pixels_are_refused():
    labels = store()
    with pytest.raises(InputError, match=r"'flip' of shape \(6, 4\) where \(6, 5\) is due"):
        evolve(labels, records={**labels.records, "flip": labels.records["flip"][:, 1:]})
    with pytest.raises(InputError, match="give the images' normalisation"):
        store(normalisation=None)
