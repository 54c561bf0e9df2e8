"""Protocols are contracts with published tables: epochs, rate drop, batches, names."""

from itertools import pairwise
from types import SimpleNamespace

import attrs
import pytest
from torch import nn

from ddcore.errors import OptionError
from ddcore.images.views import RESIZED, SHIFTED
from ddcore.training.loop import rate_at
from ddcore.training.protocols import PROTOCOLS, Protocol, Schedule, auto_protocol, protocol
from ddcore.training.students import descent_of

DECOUPLED = [
    p.name for p in PROTOCOLS.values() if not p.extra_epoch and p.schedule_name == "cosine" and not p.each_step
]


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "augment", "learned_rate"),
    [
        ("dc", 300, 256, "none", False),
        ("dc-mnist", 1000, 256, "mnist", False),
        ("dsa", 1000, 256, "dsa", False),
        ("mtt", 1000, 256, "dsa", True),
        ("datm", 1000, 128, "dsa", True),
        ("fyi", 1000, 256, "fyi", True),
    ],
)
def test_protocols_are_the_published_ones(name, epochs, batch, augment, learned_rate):
    p = PROTOCOLS[name]
    assert (p.epochs, p.batch, p.augment, p.learned_rate) == (epochs, batch, augment, learned_rate)
    assert (p.rate, p.momentum, p.weight_decay, p.drop) == (0.01, 0.9, 5e-4, 0.1)


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "optimizer", "rate", "decay", "stretch", "mix", "crop"),
    [
        ("sre2l", 300, 1024, "adamw", 1e-3, 0.01, 1, "cutmix", (0.08, 1)),
        ("cda", 300, 128, "adamw", 1e-3, 0.01, 1, "cutmix", (0.08, 1)),
        ("sre2l-cifar", 400, 128, "adamw", 1e-3, 0.01, 1, "mixup", "shifted"),
        ("sre2l-tiny", 100, 256, "sgd", 0.2, 1e-4, 1, "none", (0.08, 1)),
        ("rded", 300, 100, "adamw", 1e-3, 0.01, 2, "cutmix", (0.5, 1)),
        ("rded-small", 300, 100, "adamw", 1e-3, 0.01, 2, "cutmix", "none"),
        ("cv-dd", 300, 16, "adamw", 1e-3, 0.01, 2, "cutmix", (0.08, 1)),
        ("cv-dd-cifar", 300, 16, "adamw", 1e-3, 0.01, 1, "cutmix", (0.08, 1)),
        ("infer", 400, 64, "adamw", 1e-3, 0.01, 1, "mixup", "shifted"),
        ("hard", 300, 1024, "adamw", 1e-3, 0.01, 1, "none", (0.08, 1)),
        ("hard-cifar", 400, 128, "adamw", 1e-3, 0.01, 1, "none", "shifted"),
    ],
)
def test_protocols_of_decoupled_methods_are_the_published_ones(
    name, epochs, batch, optimizer, rate, decay, stretch, mix, crop
):
    p = PROTOCOLS[name]
    assert (p.epochs, p.epochs_run, p.batch, p.optimizer, p.rate) == (epochs, epochs, batch, optimizer, rate)
    assert (p.weight_decay, p.schedule_name, p.stretch, p.augment) == (decay, "cosine", stretch, "none")
    assert p.decay_biases == (optimizer == "sgd") and p.momentum == (0.9 if optimizer == "sgd" else 0)
    assert p.views.mix == mix and p.views.flip == 0.5
    assert crop == (p.views.scale if p.views.crop == "resized" else p.views.crop)


def test_the_numbers_that_only_one_of_them_has():
    assert (PROTOCOLS["cv-dd"].group, PROTOCOLS["sre2l"].group) == (8, None)
    assert (PROTOCOLS["rded"].views.shuffle, PROTOCOLS["rded-small"].views.shuffle) == (2, 1)
    assert (PROTOCOLS["sre2l-tiny"].warmup, PROTOCOLS["sre2l"].warmup) == (5, 0)
    assert PROTOCOLS["sre2l"].views == RESIZED and PROTOCOLS["infer"].views == SHIFTED
    assert (SHIFTED.pad, SHIFTED.beta, RESIZED.beta) == (4, 0.8, 1)


@pytest.mark.parametrize("name", DECOUPLED)
def test_decoupled_methods_run_as_many_epochs_as_their_name_says(name):
    # 200 images
    a_pass = -(-200 // PROTOCOLS[name].batch)
    assert protocol(f"{name}-7").schedule(200) == Schedule(
        7 * a_pass, None, a_pass, protocol(f"{name}-7").warmup * a_pass
    )
    assert protocol(f"{name}-0").schedule(200).steps == 0


def test_rs2_is_a_cosine_of_each_step_that_ends_at_its_floor():
    p = protocol("rs2-10")
    assert (p.rate, p.momentum, p.nesterov, p.weight_decay, p.batch) == (0.1, 0.9, True, 5e-4, 128)
    schedule = p.schedule(500)
    assert schedule == Schedule(40)
    descent = descent_of(p, schedule, p.rate)
    rates = [descent.rate_at(step) for step in range(41)]
    assert rates[0] == 0.1 and rates[-1] == pytest.approx(1e-4)
    assert rates[20] == pytest.approx((0.1 + 1e-4) / 2)
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert descent.build(nn.Linear(1, 1), 0).param_groups[0]["nesterov"]


def test_a_shorter_protocol_is_the_same_curve_in_fewer_epochs():
    assert [protocol(f"sre2l-tiny-{e}").warmup for e in (100, 40, 20, 3)] == [5, 2, 1, 0]
    short, whole = (protocol(name).schedule(64) for name in ("rded-30", "rded"))
    for share in (0, 0.5, 1):
        rates = [
            rate_at(int(share * s.steps), 1e-3, s.steps, schedule="cosine", stretch=2, per_epoch=s.epoch)
            for s in (short, whole)
        ]
        assert rates[0] == pytest.approx(rates[1]) == pytest.approx({0: 1e-3, 0.5: 0.854e-3, 1: 5e-4}[share], rel=1e-3)


def test_a_longer_cosine_warms_up_and_stands_still_for_the_same_shares_of_its_steps():
    base = Schedule(steps=100, epoch=10, warmup=5)
    assert base.stretched(1000) == Schedule(1000, None, 100, 50)
    assert base.stretched(100) == base


def test_one_epoch_more_than_the_name_says_is_run():
    # the field's loops count from 0 to E
    assert protocol("dsa-0").schedule(10).steps == 1
    assert protocol("dsa-7").schedule(10).steps == 8


def test_the_last_short_batch_is_a_step_of_its_own():
    # 600 images in batches of 256: 256, 256, 88
    assert protocol("dsa-1").schedule(600).steps == 2 * 3


@pytest.mark.parametrize(("epochs", "full_rate_epochs"), [(0, 2), (1, 2), (2, 3), (7, 5), (1000, 502)])
def test_the_rate_drops_after_epoch_half_plus_one(epochs, full_rate_epochs):
    # epochs 0 ... floor(E/2) + 1 have the full rate: floor(E/2) + 2 of them
    assert protocol(f"dsa-{epochs}").schedule(300).drop_at == full_rate_epochs * 2


def test_a_longer_schedule_drops_at_the_same_share_of_its_steps():
    base = Schedule(steps=100, drop_at=60)
    assert base.stretched(1000) == Schedule(1000, 600)
    assert base.stretched(50) == base


@pytest.mark.parametrize(
    ("asked", "name", "epochs"), [("A", "dc", 300), ("D-20", "datm-20", 20), ("dc-mnist-5", "dc-mnist-5", 5)]
)
def test_letters_and_epochs_name_protocols(asked, name, epochs):
    found = protocol(asked)
    assert (found.name, found.epochs) == (name, epochs)
    assert protocol(found.name) == found


@pytest.mark.parametrize(
    ("asked", "hint"), [("dsaa", "did you mean 'dsa'"), ("convnet3-1000", "choose one of"), ("-5", "")]
)
def test_an_unknown_protocol_is_refused_with_what_there_is(asked, hint):
    with pytest.raises(OptionError, match=f"no protocol is named.*{hint}"):
        protocol(asked)


@pytest.mark.parametrize(
    ("size", "rate", "labels", "name"),
    [
        (8, True, True, "quick"),
        (32, False, False, "dsa"),
        (32, True, False, "mtt"),
        (32, True, True, "datm"),
        (32, False, True, "dsa"),
    ],
)
def test_auto_follows_what_was_learned(size, rate, labels, name):
    assert (
        auto_protocol(SimpleNamespace(modality="images", size=size), learned_rate=rate, learned_labels=labels) == name
    )


@pytest.mark.parametrize(
    ("size", "labels", "name"),
    [
        (224, "per-view", "sre2l"),
        (64, "top-k", "sre2l"),
        (32, "two-distances", "sre2l-cifar"),
        (8, "per-view", "sre2l-cifar"),
        (32, "static-mixed", "infer"),
        (224, "soft", "dsa"),
    ],
)
def test_auto_follows_labels_of_views(size, labels, name):
    found = auto_protocol(
        SimpleNamespace(modality="images", size=size), learned_rate=False, learned_labels=True, labels=labels
    )
    assert found == name


WRONG = [
    {"epochs": -1},
    {"batch": 0},
    {"rate": 0.0},
    {"augment": "cutmix"},
    {"optimizer": "lion"},
    {"stretch": 0.5},
    {"group": 0},
    {"views": "cutmix"},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_impossible_protocols_cannot_be_made(wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        Protocol(name="x", summary="", **wrong)


def test_a_protocol_is_written_down_in_full():
    assert set(protocol("dsa").as_json()) == {f.name for f in attrs.fields(Protocol)}
