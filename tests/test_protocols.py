"""Protocols are contracts with published tables: epochs, rate drop, batches, names."""

from types import SimpleNamespace

import attrs
import pytest

from ddcore.errors import OptionError
from ddcore.protocols import PROTOCOLS, Protocol, Schedule, auto_protocol, protocol


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
    assert auto_protocol(SimpleNamespace(size=size), learned_rate=rate, learned_labels=labels) == name


@pytest.mark.parametrize("wrong", [{"epochs": -1}, {"batch": 0}, {"rate": 0.0}, {"augment": "cutmix"}])
def test_impossible_protocols_cannot_be_made(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Protocol(name="x", summary="", **wrong)


def test_a_protocol_is_written_down_in_full():
    assert set(protocol("dsa").as_json()) == {f.name for f in attrs.fields(Protocol)}
