"""Protocols are contracts with published tables: epochs, rate drop, batches, names."""

from itertools import pairwise

import attrs
import pytest
from torch import nn

from ddcore import Subject
from ddcore.composing import discovery
from ddcore.errors import OptionError, PluginError
from ddcore.images.views import RESIZED, SHIFTED
from ddcore.training.loop import rate_at
from ddcore.training.protocols import PROTOCOLS, Protocol, Schedule, auto_protocol, protocol, stem_of
from ddcore.training.students import descent_of

EVERY = sorted({*PROTOCOLS, *discovery.installed_protocols()})
DECOUPLED = [
    p.name for p in map(protocol, EVERY) if not p.extra_epoch and p.schedule_name == "cosine" and not p.each_step
]


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "augment", "learned_rate"),
    [
        ("plain", 300, 256, "none", False),
        ("augmented", 1000, 256, "operation", False),
        ("learned-rate", 1000, 256, "operation", True),
        ("quick", 300, 256, "operation", True),
        ("dc", 300, 256, "none", False),
        ("dc-mnist", 1000, 256, "geometric", False),
        ("dc-bn", 1000, 256, "jitter", False),
        ("dsa", 1000, 256, "operation", False),
        ("mtt", 1000, 256, "operation", True),
        ("datm", 1000, 128, "operation", True),
        ("fyi", 1000, 256, "operation", True),
    ],
)
def test_protocols_are_the_published_ones(name, epochs, batch, augment, learned_rate):
    p = protocol(name)
    assert (p.epochs, p.batch, p.augment, p.learned_rate) == (epochs, batch, augment, learned_rate)
    assert (p.rate, p.momentum, p.weight_decay, p.drop) == (0.01, 0.9, 5e-4, 0.1)
    assert p.flip_first == (name == "fyi") and p.name == name


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "optimizer", "rate", "decay", "stretch", "mix", "crop"),
    [
        ("views", 300, 1024, "adamw", 1e-3, 0.01, 1, "cutmix", (0.08, 1)),
        ("views-small", 400, 128, "adamw", 1e-3, 0.01, 1, "mixup", "shifted"),
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
    p = protocol(name)
    assert (p.epochs, p.epochs_run, p.batch, p.optimizer, p.rate) == (epochs, epochs, batch, optimizer, rate)
    assert (p.weight_decay, p.schedule_name, p.stretch, p.augment) == (decay, "cosine", stretch, "none")
    assert p.decay_biases == (optimizer == "sgd") and p.momentum == (0.9 if optimizer == "sgd" else 0)
    assert p.views.mix == mix and p.views.flip == 0.5
    assert crop == (p.views.scale if p.views.crop == "resized" else p.views.crop)


def test_the_numbers_that_only_one_of_them_has():
    assert (protocol("cv-dd").group, protocol("sre2l").group) == (8, None)
    assert (protocol("rded").views.shuffle, protocol("rded-small").views.shuffle) == (2, 1)
    assert (protocol("sre2l-tiny").warmup, protocol("sre2l").warmup) == (5, 0)
    assert protocol("sre2l").views == RESIZED and protocol("infer").views == SHIFTED
    assert (SHIFTED.pad, SHIFTED.beta, RESIZED.beta) == (4, 0.8, 1)


@pytest.mark.parametrize("name", DECOUPLED)
def test_decoupled_methods_run_as_many_epochs_as_their_name_says(name):
    # 200 images
    a_pass = -(-200 // protocol(name).batch)
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
    assert base.scaled(1000) == Schedule(1000, None, 100, 50)
    assert base.scaled(100) == base


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
    assert base.scaled(1000) == Schedule(1000, 600)
    assert base.scaled(50) == Schedule(50, 30)
    assert Schedule(steps=100, epoch=10, drops=(40, 80)).scaled(4) == Schedule(4, None, 1, 0, (2, 3))
    assert Schedule(steps=0).scaled(7) == Schedule(7)


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


def test_of_what_is_installed_everything_listed_is_answered_under_a_name_that_is_listed():
    for name in discovery.installed_protocols():
        cls, _ = discovery.protocol_class(name)
        assert name in cls.protocols and protocol(name).name in cls.protocols, name
        assert set(cls.protocols) <= set(discovery.installed_protocols()), cls


@pytest.mark.parametrize(
    ("name", "stem"), [("quick", "quick"), ("bare-mtt-3", "mtt"), ("sre2l-cifar-2-5", "sre2l-cifar"), ("-5", "-5")]
)
def test_a_stem_is_what_plugins_are_asked_for(name, stem):
    assert stem_of(name) == stem


def nothing_installed(monkeypatch):
    monkeypatch.setattr(discovery, "_offered", lambda group: {})


@pytest.mark.parametrize(
    ("name", "plugin"),
    [("mtt", "mtt"), ("dsa-3", "dsa"), ("bare-sre2l-cifar-2", "sre2l"), ("cv-dd-cifar", "cv-dd"), ("kd3", "kd3")],
)
def test_without_its_plugin_one_sentence_says_what_to_install(name, plugin, monkeypatch):
    nothing_installed(monkeypatch)
    with pytest.raises(OptionError, match=f"plugin '{plugin}', which may bring it, .*: pip install ddcore-{plugin}$"):
        protocol(name)


def test_without_plugins_the_core_has_its_own(monkeypatch):
    nothing_installed(monkeypatch)
    assert {protocol(name).name for name in PROTOCOLS} == set(PROTOCOLS)
    with pytest.raises(OptionError, match="no protocol is named 'of-nobody': choose one of .*stepwise"):
        protocol("of-nobody")


def test_two_distributions_with_one_protocol_are_an_error(monkeypatch):
    both = [discovery.Offer("twice", f"dist-{n}", "1.0", "nowhere:X") for n in (1, 2)]
    monkeypatch.setattr(discovery, "_offered", lambda group: {"twice": both})
    with pytest.raises(PluginError, match="dist-1 1.0 and dist-2 1.0 both bring a protocol named 'twice'"):
        protocol("twice-3")


class Answering:
    """Hooks of one selected plugin."""

    def __init__(self, answer):
        self.answer = answer

    def protocol(self, name):
        return self.answer if name == "its-own" else PROTOCOLS.get(name)

    def protocols(self):
        return ["its-own"]


def test_a_selected_plugin_is_asked_first_and_what_it_brings_stands_among_the_names():
    made = Protocol(name="its-own", summary="", epochs=5)
    assert protocol("its-own-3", Answering(made)).epochs == 3
    assert protocol("quick", Answering(made)) == PROTOCOLS["quick"]
    assert protocol("mtt", Answering(made)).name == "mtt"
    with pytest.raises(OptionError, match="'its-own'"):
        protocol("its-owm", Answering(made))
    with pytest.raises(PluginError, match="is of type Subject: return a ddcore.training.Protocol"):
        protocol("its-own", Answering(Subject("images", 8)))


class Suggesting:
    def __init__(self, name):
        self.name = name

    def suggests_protocol(self, subject):
        return self.name


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (Subject("images", 8, learned_rate=True, learned_labels=True), "quick"),
        (Subject("images", 16), "augmented"),
        (Subject("images", 32, "soft", learned_labels=True), "augmented"),
        (Subject("images", 32, learned_rate=True), "learned-rate"),
        (Subject("images", 224, "per-view", True), "views"),
        (Subject("images", 64, "top-k", True), "views"),
        (Subject("images", 8, "two-distances", True), "views-small"),
        (Subject("images", 32, "static-mixed"), "views-small"),
    ],
)
def test_auto_is_a_neutral_rule_unless_a_plugin_suggests_one(subject, name):
    assert auto_protocol(subject) == auto_protocol(subject, [Suggesting(None)]) == name
    assert auto_protocol(subject, [Suggesting(None), Suggesting("x"), Suggesting("y")]) == "x"


@pytest.mark.parametrize(
    ("subject", "found"),
    [
        (Subject("images", 32), {"dsa": "dsa"}),
        (Subject("images", 8), {}),
        (Subject("images", 32, learned_rate=True), {"mtt": "mtt"}),
        (Subject("images", 32, "soft", learned_rate=True, learned_labels=True), {"mtt": "mtt", "datm": "datm"}),
        (Subject("images", 8, learned_rate=True, learned_labels=True), {}),
        (Subject("images", 64, "per-view", True), {"sre2l": "sre2l"}),
        (Subject("images", 32, "top-k", True, learned_rate=True, learned_labels=True), {"sre2l": "sre2l-cifar"}),
        (Subject("images", 32, "static-mixed"), {"infer": "infer"}),
        (Subject("images", 32, "projector"), {"hello": "hello-small"}),
        (Subject("text", 8), {"text": "text"}),
    ],
)
def test_plugins_suggest_what_such_sets_were_published_under(subject, found):
    plugins = {
        name: discovery.load_class(name)[0]() for name in ("dsa", "mtt", "datm", "sre2l", "infer", "hello", "text")
    }
    said = {name: plugin.suggests_protocol(subject) for name, plugin in plugins.items()}
    assert {name: one for name, one in said.items() if one} == found


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
