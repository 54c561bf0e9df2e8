"""The one training loop: against plain torch, its rate trace, its resumption, its accuracy."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddcore import randomness
from ddcore.api.types import Sequential
from ddcore.errors import Interrupted
from ddcore.labels import HardLabels, SoftLabels
from ddcore.storage.checkpoints import Checkpoints
from ddcore.storage.places import Place
from ddcore.training.loop import Changes, Descent, Keeper, accuracy, is_finite, rate_at, train_student
from ddcore.training.protocols import protocol

CLASSES = torch.arange(10) % 3
HARD = HardLabels(CLASSES, 3)
KEY = partial(randomness.generator, 0)


@pytest.fixture
def images():
    return (
        torch.randn(10, 1, 4, 4, generator=randomness.generator(1), dtype=torch.float64) + CLASSES[:, None, None, None]
    )


def a_network(dtype=torch.float64):
    with randomness.drawing_from(randomness.generator(2)):
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).to(
            dtype
        )


def descent(epochs=6, batch=4, rate=0.05, images=10, **changes):
    p = protocol(f"augmented-{epochs}")
    steps, drop_at = (epochs + 1) * -(-images // batch), (epochs // 2 + 2) * -(-images // batch)
    settings = {"momentum": p.momentum, "weight_decay": p.weight_decay, "drop_at": drop_at, **changes}
    return Descent(steps=steps, batch=batch, rate=rate, **settings)


def trained(images, labels=HARD, settings=None, **more):
    network = more.pop("network", None) or a_network(images.dtype)
    return train_student(network, images, labels, settings or descent(), generator=KEY, **more)


def plain(images, epochs=6, batch=4, rate=0.05, new_optimizer=True):
    """The field's loop as its code has it, whole batches, on the same orders."""
    network = a_network(images.dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    for epoch in range(epochs + 1):
        for view in HARD.views(epoch, len(images), batch, KEY("order", epoch)):
            optimizer.zero_grad()
            F.cross_entropy(network(images[view.index]), CLASSES[view.index]).backward()
            optimizer.step()
        if epoch == epochs // 2 + 1:
            rate *= 0.1
            if new_optimizer:
                optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
            optimizer.param_groups[0]["lr"] = rate
    return network


def moves(network, start):
    return torch.cat(
        [(a - b).flatten().detach() for a, b in zip(network.parameters(), start.parameters(), strict=True)]
    )


def test_it_makes_the_moves_of_the_plain_loop(images):
    torch.testing.assert_close(moves(trained(images), a_network()), moves(plain(images), a_network()))


def test_the_rate_drop_empties_the_momentum(images):
    keeping = moves(plain(images, new_optimizer=False), a_network())
    assert (moves(trained(images), a_network()) - keeping).abs().max() > 1e-4


def test_the_rate_trace_is_the_protocols(images):
    seen = []
    trained(images, on_epoch=lambda e: seen.append(e.rate))
    # E = 6: epochs 0 ... 4 at the full rate, 5 and 6 at a tenth
    assert seen == pytest.approx([0.05] * 5 + [0.005] * 2)


def test_dropout_draws_from_the_generator_and_moves_nobody_elses(images):
    def ends(seed):
        network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), a_network()[-1])
        generator = partial(randomness.generator, seed, "student")
        train_student(network, images, HARD, descent(epochs=1), generator=generator)
        return network[-1].weight.detach()

    before = torch.random.get_rng_state()
    first = ends(0)
    torch.manual_seed(7)
    assert torch.equal(ends(0), first) and not torch.equal(ends(1), first)
    torch.random.set_rng_state(before)
    trained(images)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_last_short_batch_is_kept_and_every_image_is_seen_once_an_epoch(images):
    seen = []

    def augment(count, step):
        def keep(batch):
            seen.append(batch.index)
            return batch

        return keep

    trained(images, settings=descent(epochs=1), changes=Changes(augment=augment))
    assert [len(i) for i in seen] == [4, 4, 2, 4, 4, 2]
    assert torch.cat(seen[:3]).sort().values.tolist() == list(range(10))
    assert torch.cat(seen[:3]).tolist() != torch.cat(seen[3:]).tolist()


def test_augmentation_is_drawn_once_for_each_mini_batch(images):
    drawn = []

    def augment(count, step):
        drawn.append((count, step))
        return Sequential()

    trained(images, settings=descent(epochs=0, batch=8), changes=Changes(augment=augment))
    assert drawn == [(8, 0), (2, 1)]


def test_steps_may_end_within_an_epoch(images):
    seen = []
    trained(images, settings=Descent(steps=4, batch=4, rate=0.1), on_epoch=lambda e: seen.append((e.number, e.steps)))
    assert seen == [(0, 3), (1, 4)]


def test_the_reported_loss_is_the_mean_over_images_before_each_step(images):
    seen = []
    network = a_network()
    due = F.cross_entropy(network(images), CLASSES).item()
    trained(images, settings=descent(epochs=0, batch=10), network=network, on_epoch=lambda e: seen.append(e.loss))
    assert seen == pytest.approx([due])


@pytest.mark.parametrize("hot", [60.0, 1e3])
def test_hard_labels_and_large_one_hot_logits_give_the_same_curve(images, hot):
    soft = SoftLabels(hot * F.one_hot(CLASSES, 3).float(), CLASSES)
    curves = {"hard": [], "soft": []}
    trained(images, HARD, on_epoch=lambda e: curves["hard"].append(e.loss))
    trained(images, soft, on_epoch=lambda e: curves["soft"].append(e.loss))
    assert curves["soft"] == pytest.approx(curves["hard"], rel=1e-6)
    assert all(a > b for a, b in pairwise(curves["hard"]))


def test_batches_cut_into_parts_make_the_same_moves_as_whole_ones():
    images = torch.randn(90, 1, 4, 4, generator=randomness.generator(1), dtype=torch.float64)
    classes = torch.arange(90) % 3
    settings = descent(epochs=2, batch=90, images=90)
    network = trained(images, HardLabels(classes, 3), settings)
    twin = a_network()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(twin(images), classes).backward()
        optimizer.step()
    torch.testing.assert_close(moves(network, a_network()), moves(twin, a_network()))


class Stored:
    """Real samples: fetched by index."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def inputs(self, index):
        return self.images[index]


def test_samples_fetched_by_index_train_like_a_tensor(images):
    stored = train_student(a_network(), Stored(images, CLASSES), HARD, descent(), generator=KEY)
    held = trained(images)
    assert torch.equal(moves(stored, a_network()), moves(held, a_network()))


DROP = descent()
COSINE = Descent(
    steps=21, batch=4, rate=0.01, optimizer="adamw", weight_decay=0.1, schedule="cosine", decay_biases=False
)
WARM_UP = Descent(
    steps=21, batch=4, rate=0.05, momentum=0.9, schedule="cosine", stretch=2, per_epoch=3, warmup=6, group=3
)


@pytest.mark.parametrize("stop_after", [1, 5])
@pytest.mark.parametrize("settings", [DROP, COSINE, WARM_UP])
def test_a_stopped_training_goes_on_bit_for_bit(images, tmp_path, stop_after, settings):
    # the rate drops between epochs 4 and 5, so that both optimisers are met on the way
    told = {"stop": False}

    def check_stop():
        if told["stop"]:
            raise Interrupted("stopped")

    def stop_at(epoch):
        told["stop"] = epoch.number + 1 == stop_after

    keeper = Keeper(Checkpoints(Place.at(tmp_path)), "student", lambda: told["stop"], check_stop)
    with pytest.raises(Interrupted):
        trained(images, settings=settings, keeper=keeper, on_epoch=stop_at)
    told["stop"] = False
    epochs = []
    resumed = trained(images, settings=settings, keeper=keeper, on_epoch=lambda e: epochs.append(e.number))
    assert epochs == list(range(stop_after, 7))
    assert torch.equal(moves(resumed, a_network()), moves(trained(images, settings=settings), a_network()))


def test_a_student_that_diverges_is_trained_to_the_end_and_known_by_its_weights(images):
    assert is_finite(trained(images))
    lost = trained(images, settings=descent(rate=1e300))
    assert not is_finite(lost)
    assert 0 <= accuracy(lost, Stored(images, CLASSES)) <= 1


def test_accuracy_by_hand():
    # logits are the first two pixels: rows say 0, 1, 1, 0 where 0, 1, 0, 0 is right
    images = torch.tensor([[2.0, 1], [0, 3], [1, 2], [5, 4]]).view(4, 1, 1, 2)
    network = nn.Flatten().train()
    samples = Stored(images, torch.tensor([0, 1, 0, 0]))
    assert accuracy(network, samples) == 0.75
    assert accuracy(network, samples, index=torch.tensor([2])) == 0.0
    assert network.training


def test_constant_images_teach_nothing(images):
    blank = torch.zeros(9, 1, 4, 4, dtype=torch.float64)
    labels = torch.arange(9) % 3
    network = trained(blank, HardLabels(labels, 3), descent(images=9))
    # three equal classes: whatever one answer it gives to the blank image is right for a third of them
    assert accuracy(network, Stored(blank, labels)) == pytest.approx(1 / 3)


def test_batch_normalisation_sees_whole_batches():
    images = torch.randn(60, 1, 4, 4, generator=randomness.generator(3), dtype=torch.float64)
    classes = torch.arange(60) % 3

    def network():
        with randomness.drawing_from(randomness.generator(4)):
            return nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
            ).double()

    ours = trained(images, HardLabels(classes, 3), Descent(steps=2, batch=60, rate=0.1), network=network())
    twin = network()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(twin(images), classes).backward()
        optimizer.step()
    torch.testing.assert_close(moves(ours, network()), moves(twin, network()))
    torch.testing.assert_close(ours[1].running_mean, twin[1].running_mean)


def test_testing_changes_no_batch_statistics():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten())
    accuracy(network, Stored(torch.ones(2, 1, 1, 2), torch.zeros(2, dtype=torch.int64)))
    assert network[0].running_mean.tolist() == [0] and network.training


# What enhancements change of an expert's training


@pytest.mark.parametrize("count", [10, 90])
def test_a_reshaped_loss_that_is_the_same_gives_the_same_bits(count):
    images = torch.randn(count, 1, 4, 4, generator=randomness.generator(1))
    labels = HardLabels(torch.arange(count) % 3, 3)
    settings = descent(epochs=1, batch=80, images=count)
    plain = trained(images, labels, settings)
    reshaped = trained(images, labels, settings, changes=Changes(reshape=lambda value, *_: value))
    assert torch.equal(moves(plain, a_network(torch.float32)), moves(reshaped, a_network(torch.float32)))


def test_a_halved_loss_makes_half_the_move_and_is_reported_whole(images):
    settings = Descent(steps=1, batch=10, rate=0.1)
    seen = []
    plain = trained(images, settings=settings, on_epoch=lambda e: seen.append(e.loss))
    half = trained(
        images, settings=settings, changes=Changes(reshape=lambda v, *_: v / 2), on_epoch=lambda e: seen.append(e.loss)
    )
    torch.testing.assert_close(moves(half, a_network()), moves(plain, a_network()) / 2)
    assert seen[0] == pytest.approx(seen[1])


def test_a_loss_of_parts_adds_up_to_the_batchs_and_sees_clean_rows_beside_augmented_ones():
    images = torch.randn(90, 1, 32, 32, generator=randomness.generator(1), dtype=torch.float64)
    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16, 3)).double()
    parts = []

    def augment(count, step):
        return lambda batch: batch.with_inputs(-batch.inputs)

    def reshape(value, output, network, batch, clean, step):
        parts.append(len(batch))
        torch.testing.assert_close(output, network(batch.inputs))
        assert torch.equal(batch.inputs, -clean.inputs) and torch.equal(batch.index, clean.index)
        assert torch.equal(clean.inputs, images[clean.index]) and step == 0
        return value + network(clean.inputs).square().mean()

    start = [p.detach().clone() for p in network.parameters()]
    classes = torch.arange(90) % 3
    due = F.cross_entropy(network(-images), classes) + network(images).square().mean()
    gradients = torch.autograd.grad(due, list(network.parameters()))
    more = {"changes": Changes(augment=augment, reshape=reshape), "network": network}
    trained(images, HardLabels(classes, 3), Descent(steps=1, batch=90, rate=0.1), **more)
    assert len(parts) > 1 and sum(parts) == 90
    for p, before, gradient in zip(network.parameters(), start, gradients, strict=True):
        torch.testing.assert_close(p.detach() - before, -0.1 * gradient)


def test_an_optimiser_may_be_replaced_and_is_made_anew_when_the_rate_drops(images):
    made = []

    def replace(base, step):
        made.append((step, base.param_groups[0]["lr"]))
        return torch.optim.SGD(base.param_groups[0]["params"], lr=0.0)

    still = trained(images, changes=Changes(replace=replace))
    assert not moves(still, a_network()).any()
    assert made == [(0, 0.05), (15, pytest.approx(0.005))]


class Twice(torch.optim.SGD):
    """Looks at each batch twice, and steps on the second look."""

    def step(self, closure):
        self.losses = [closure(), closure()]
        super().step()
        return self.losses[1] * 0


def test_a_second_look_sees_the_same_batch_and_moves_no_batch_statistics():
    images = torch.randn(12, 1, 4, 4, generator=randomness.generator(3), dtype=torch.float64)
    labels, settings = HardLabels(torch.arange(12) % 3, 3), Descent(steps=3, batch=12, rate=0.1)

    def network():
        with randomness.drawing_from(randomness.generator(4)):
            return nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
            ).double()

    looked, seen = [], []

    def replace(base, step):
        looked.append(Twice(base.param_groups, lr=0.1))
        return looked[0]

    ours = trained(
        images,
        labels,
        settings,
        network=network(),
        changes=Changes(replace=replace),
        on_epoch=lambda e: seen.append(e.loss),
    )
    plain = trained(images, labels, settings, network=network())
    assert torch.equal(moves(ours, network()), moves(plain, network()))
    for name, value in plain.named_buffers():
        assert torch.equal(dict(ours.named_buffers())[name], value), name
    assert looked[0].losses[0] == looked[0].losses[1] and seen[-1] == pytest.approx(looked[0].losses[0].item())
    assert ours[1].track_running_stats


# Optimisers, rates and groups of the methods whose labels come from teachers


def cosine(step, steps=300, **more):
    return rate_at(step, 1.0, steps, schedule="cosine", **more)


def test_a_half_cosine_ends_at_half_the_rate():
    # RDED and CV-DD, eta 2 over 300 epochs: (1 + cos(pi / 4)) / 2 = 0.8536
    assert cosine(0, stretch=2) == 1 and cosine(150, stretch=2) == pytest.approx(0.8536, abs=5e-5)
    assert cosine(300, stretch=2) == pytest.approx(0.5)


def test_a_whole_cosine_is_at_half_the_rate_in_the_middle_and_above_zero_in_its_last_step():
    assert cosine(0) == 1 and cosine(150) == pytest.approx(0.5)
    assert 0 < cosine(299) < 1e-4 and cosine(300) == 0
    assert all(a > b for a, b in pairwise(cosine(t) for t in range(300)))


def test_without_a_cosine_the_rate_is_constant_and_drops_once():
    assert [rate_at(t, 0.2, 4) for t in range(4)] == [0.2] * 4
    dropping = Descent(steps=4, batch=1, rate=0.5, drop_at=2, drop=0.1)
    assert [dropping.rate_at(t) for t in range(4)] == [0.5, 0.5, 0.05, 0.05]


def test_a_rate_by_epochs_is_that_of_the_epochs_first_step():
    by_epoch, by_step = [[cosine(t, 12, **m) for t in range(12)] for m in ({"per_epoch": 4}, {})]
    assert by_epoch == [by_step[t - t % 4] for t in range(12)] and len(set(by_step)) == 12


@pytest.mark.parametrize("warmup", [0, 5])
def test_warm_up_and_cosine_are_torchs_schedulers(warmup):
    # torchvision's reference training, which made SRe2L's students on Tiny-ImageNet: 100 epochs
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.2)
    late = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100 - warmup)
    if warmup:
        early = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
        late = torch.optim.lr_scheduler.SequentialLR(optimizer, [early, late], [warmup])
    for epoch in range(100):
        ours = rate_at(epoch * 7 + 3, 0.2, 700, schedule="cosine", per_epoch=7, warmup=warmup * 7)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch
        optimizer.step()
        late.step()


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_and_adamw_make_torchs_moves_step_by_step(images, name):
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    twin = a_network()
    matrices, vectors = ([p for p in twin.parameters() if (p.dim() > 1) == large] for large in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    theirs = kind(groups, lr=0.02, betas=(0.9, 0.999), eps=1e-8)
    checked = []

    def check(epoch):
        theirs.param_groups[0]["lr"] = theirs.param_groups[1]["lr"] = cosine(epoch.number, 6) * 0.02
        theirs.zero_grad()
        F.cross_entropy(twin(images), CLASSES).backward()
        theirs.step()
        torch.testing.assert_close(moves(network, a_network()), moves(twin, a_network()))
        assert epoch.rate == theirs.param_groups[0]["lr"]
        checked.append(epoch.number)

    more = {"schedule": "cosine", "decay_biases": False, "weight_decay": 0.3}
    network = a_network()
    trained(
        images, settings=Descent(steps=6, batch=10, rate=0.02, optimizer=name, **more), network=network, on_epoch=check
    )
    assert checked == list(range(6))


def test_biases_and_norms_decay_unless_told_otherwise(images):
    for decays in (True, False):
        settings = Descent(steps=1, batch=10, rate=0.1, optimizer="adamw", weight_decay=0.5, decay_biases=decays)
        network = trained(images, settings=settings, changes=Changes(reshape=lambda value, *_: value * 0))
        # no gradient at all: what is left is the decay, 1 - 0.1 * 0.5
        for before, after in zip(a_network().parameters(), network.parameters(), strict=True):
            share = 0.95 if decays or before.dim() > 1 else 1.0
            torch.testing.assert_close(after, before * share)


def with_batch_norm():
    with randomness.drawing_from(randomness.generator(4)):
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)]
        return nn.Sequential(*layers).double()


@pytest.mark.parametrize("reshape", [None, lambda value, *_: value])
@pytest.mark.parametrize("sizes", [[8, 8], [8, 8, 4], [8, 9]])
def test_groups_pass_one_after_the_other_and_their_gradients_are_averaged(sizes, reshape):
    rows = sum(sizes)
    images = torch.randn(rows, 1, 4, 4, generator=randomness.generator(3), dtype=torch.float64)
    classes = torch.arange(rows) % 3
    settings = Descent(steps=2, batch=rows, rate=0.1, group=8)
    ours = trained(
        images, HardLabels(classes, 3), settings, network=with_batch_norm(), changes=Changes(reshape=reshape)
    )
    slow = with_batch_norm()
    optimizer = torch.optim.SGD(slow.parameters(), lr=0.1)
    for epoch in range(2):
        order = next(HARD.views(epoch, rows, rows, KEY("order", epoch))).index
        optimizer.zero_grad()
        for group in order.split(sizes):
            (F.cross_entropy(slow(images[group]), classes[group]) * len(group) / rows).backward()
        optimizer.step()
    torch.testing.assert_close(moves(ours, with_batch_norm()), moves(slow, with_batch_norm()))
    # each group moved the running statistics once; a lone last row is of the group before it, as when labels are made
    for name, value in slow.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], value)
    assert int(ours[1].num_batches_tracked) == 2 * len(sizes)


def test_batch_statistics_are_those_of_a_group_and_not_of_the_batch():
    images = torch.randn(16, 1, 4, 4, generator=randomness.generator(3), dtype=torch.float64)
    seen, network = [], with_batch_norm()
    network[1].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    for group, due in ((8, [8, 8]), (None, [16]), (64, [16])):
        seen.clear()
        trained(
            images,
            HardLabels(torch.arange(16) % 3, 3),
            Descent(steps=1, batch=16, rate=0.1, group=group),
            network=network,
        )
        assert seen == due


def test_a_replaced_optimiser_keeps_its_share_of_a_moving_rate(images):
    seen = []

    def replace(base, step):
        assert base.param_groups[0]["lr"] == 0.1
        return torch.optim.SGD(base.param_groups[0]["params"], lr=0.05)

    settings = Descent(steps=4, batch=10, rate=0.1, schedule="cosine")
    trained(images, settings=settings, changes=Changes(replace=replace), on_epoch=lambda e: seen.append(e.rate))
    assert seen == pytest.approx([0.05 * cosine(t, 4) for t in range(4)])


def test_a_descent_of_no_steps_trains_nothing(images):
    assert not moves(
        trained(images, settings=Descent(steps=0, batch=4, rate=0.1, schedule="cosine")), a_network()
    ).any()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"schedule": "cosine", "drop_at": 3}, "the schedule 'cosine' has no step drop_at"),
        ({"per_epoch": True}, "bool"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"stretch": 0.5}, "stretch"),
        ({"group": 0}, "group"),
        ({"warmup": -1}, "warmup"),
    ],
)
def test_descents_that_mean_nothing_are_refused(wrong, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Descent(steps=4, batch=4, rate=0.1, **wrong)
