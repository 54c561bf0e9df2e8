"""A linear probe: what it is trained on, that it is a linear classifier of frozen features, and what its rows say."""

import json
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddcore import randomness
from ddcore.api.types import Subject
from ddcore.cli.app import invoke
from ddcore.data.normalisation import fit
from ddcore.data.source import Part
from ddcore.data.sources import open_source
from ddcore.errors import Interrupted, OptionError
from ddcore.networks.zoo import build
from ddcore.training import probing
from ddcore.training.loop import accuracy
from ddcore.training.probing import Standardised, probe_rows, probed
from ddcore.training.protocols import PROTOCOLS, Probe, auto_protocol, protocol, stem_of

DIGITS = open_source("digits")
REAL = Part(DIGITS.train, fit("mean-std", DIGITS), torch.device("cpu"), torch.float32)
HELD = Part(DIGITS.test, fit("mean-std", DIGITS), torch.device("cpu"), torch.float32)
GENERATOR = partial(randomness.generator, 0)


def network(name="convnet1-w4"):
    return build(name, 1, 8, 10, randomness.generator(3))


class Pixels(nn.Module):
    """Its features are the pixels; one of them never moves."""

    def embed(self, images):
        return F.pad(images.flatten(1), (0, 1), value=7.0)

    def forward(self, images):
        return self.embed(images)[:, :10]


def test_the_probe_names_a_protocol_in_front_and_keeps_its_recipe():
    plain, found = protocol("augmented-30"), protocol("probed-augmented-30")
    assert found.probe == Probe() and found.name == "probed-augmented-30" and plain.probe is None
    assert (found.epochs, found.rate, found.augment) == (plain.epochs, plain.rate, plain.augment)
    assert protocol("probed-bare-plain-2").augment == "none" and protocol("probed-bare-plain-2").probe
    assert stem_of("probed-bare-views-small-20") == "views-small" and "probed-quick" not in PROTOCOLS
    assert "probe" in found.as_json() and found.as_json()["probe"]["epochs"] == 100


def test_epochs_steps_and_images_by_hand():
    probe = Probe(epochs=3, batch=4, share=0.5)
    # of 7, 1 and 0 images of a class round(3.5), one at least, none; 5 images are 2 steps an epoch
    assert probe.images([7, 1, 0]) == [4, 1, 0] and probe.steps(5) == 6
    with pytest.raises(ValueError, match="share"):
        Probe(share=0.0)


def test_the_same_images_are_drawn_for_every_row_and_seed_and_more_of_them_hold_fewer():
    few, more = (probe_rows(REAL.labels, 10, Probe(share=share)) for share in (0.1, 0.4))
    assert torch.equal(few, probe_rows(REAL.labels, 10, Probe(share=0.1)))
    assert set(few.tolist()) < set(more.tolist()) and len(more.unique()) == len(more)
    assert probe_rows(REAL.labels, 10, Probe()).sort().values.tolist() == list(range(len(REAL)))
    counts = torch.bincount(REAL.labels[few], minlength=10)
    assert counts.tolist() == [round(0.1 * n) for n in torch.bincount(REAL.labels).tolist()]


def test_features_are_standardised_and_one_that_does_not_move_is_left_at_zero():
    found = Standardised(Pixels(), REAL, torch.arange(300)).inputs(torch.arange(300)).double()
    moving = found.std(0, correction=0) > 0
    torch.testing.assert_close(found.mean(0), torch.zeros(65).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, moving].std(0, correction=0), torch.ones(int(moving.sum())).double())
    assert not moving[-1] and not found[:, -1].any()


def test_test_images_are_seen_as_the_probe_was_trained_to_see_images():
    for net in (Pixels(), network()):
        found, _ = probed(net, REAL, 10, Probe(epochs=1), GENERATOR, lambda: None)
        seen = Standardised(net, REAL, probe_rows(REAL.labels, 10, Probe())).inputs(torch.arange(20))
        rows = probe_rows(REAL.labels, 10, Probe())[:20]
        torch.testing.assert_close(found.embed(REAL.inputs(rows)), seen, atol=1e-5, rtol=1e-4)


def test_features_made_anew_are_the_ones_that_are_kept(monkeypatch):
    probe, found = Probe(epochs=2, share=0.2), []
    for most in (probing.KEPT_BYTES, 0):
        monkeypatch.setattr(probing, "KEPT_BYTES", most)
        found.append(probed(network(), REAL, 10, probe, GENERATOR, lambda: None)[0])
    torch.testing.assert_close(found[0].head.weight, found[1].head.weight)


def test_the_probe_of_pixels_is_logistic_regression():
    found, used = probed(Pixels(), REAL, 10, Probe(epochs=100, rate=0.02), GENERATOR, lambda: None)
    assert used == {"images": 1437, "steps": 100 * 6}
    # written out: the same features, all at once, second order
    inputs, labels = found.embed(REAL.inputs(torch.arange(1437))).double(), REAL.labels
    weight = torch.zeros(10, 65, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=40)

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(inputs @ weight.T, labels)
        value.backward()
        return value

    optimizer.step(loss)
    tested = (found.embed(HELD.inputs(torch.arange(len(HELD)))).double() @ weight.T).argmax(1)
    due = float((tested == HELD.labels).double().mean())
    assert accuracy(found, HELD) == pytest.approx(due, abs=0.02) and due > 0.9


def test_the_network_stays_as_it_was_trained():
    net = network("convnet1-bn-w4").train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found, _ = probed(net, REAL, 10, Probe(epochs=1, share=0.1), GENERATOR, lambda: None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    images = REAL.inputs(torch.arange(4))
    assert found.head.weight.abs().max() > 0 and not torch.equal(found(images), net(images))


def test_a_run_that_is_told_to_stop_stops_within_a_probe():
    def stop():
        raise Interrupted("stopped as asked")

    with pytest.raises(Interrupted):
        probed(network(), REAL, 10, Probe(epochs=2, share=0.1), GENERATOR, stop)


@pytest.mark.usefixtures("probes")
def test_rows_under_a_probe_say_what_it_cost_and_an_untrained_network_stands_beside_them(tmp_path):
    words = ("--plugin=pull", "--steps=1", "--protocol=quick-2", "--protocol=probed-quick-2", "--network=convnet1-w4")
    words += ("--eval-seeds=1", "--threads=1", "--full-epochs=1", "--preset=none", f"--cache={tmp_path / 'cache'}")
    assert invoke(["run", *words, "--evaluate-on=digits", f"--out={tmp_path / 'run'}"]) == 0
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    plain, under, again = (
        {row["set"]: row for row in rows if (row["protocol"], row.get("on", "")[:6]) == key}
        for key in (("quick-2", ""), ("probed-quick-2", ""), ("probed-quick-2", "digits"))
    )
    assert [*under] == [*plain, "untrained"] and "untrained" not in plain
    for name, row in under.items():
        before = plain[name]["steps"] if name in plain else 0
        assert row["steps"] == before + 100 * 6 and row["probe"] == {"images": 1437, "steps": 600, "bytes": 1437 * 65}
        assert "linear probe" in row["note"] and again[name]["accuracy"] == row["accuracy"]
        assert again[name]["probe"] == row["probe"]
        assert row["bytes"] == (plain[name]["bytes"] if name in plain else dict.fromkeys(row["bytes"], 0))
    assert under["distilled"]["accuracy"]["mean"] > plain["distilled"]["accuracy"]["mean"] + 0.2
    assert (under["untrained"]["images"], under["untrained"]["ipc"]) == (0, 0)
    one = ["run", *words, "--protocol=probed-quick-2", f"--out={tmp_path / 'one'}"]
    assert invoke([*one, "--rows=full,untrained"]) == 0
    scores = json.loads((tmp_path / "one" / "scores.json").read_text())["rows"]
    assert {r["set"]: r["accuracy"] for r in scores if r["protocol"] != "quick-2"} == {
        name: under[name]["accuracy"] for name in ("full", "untrained")
    }


@pytest.mark.usefixtures("probes")
def test_a_set_says_that_a_probe_is_part_of_its_recipe_and_is_evaluated_by_it(tmp_path, capsys):
    words = ("--plugin=pull", "--steps=1", "--protocol=probed-quick-1", "--network=convnet1-w4", "--preset=none")
    words += ("--eval-seeds=1", "--threads=1", "--rows=distilled", "--validation=0.2")
    assert invoke(["run", *words, f"--out={tmp_path / 'run'}", f"--cache={tmp_path / 'cache'}"]) == 0
    manifest = json.loads((tmp_path / "run" / "artifact" / "manifest.json").read_text())
    assert manifest["recipe"]["protocol"] == "probed-quick-1" and manifest["recipe"]["probe"]["epochs"] == 100
    capsys.readouterr()
    words = ["evaluate", str(tmp_path / "run" / "artifact"), "--rows=distilled", "--eval-seeds=1", "--json"]
    assert invoke(words) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["protocol"] == "probed-quick-1" and row["probe"]["images"] < 1437 and "time_to_accuracy" not in row


def test_a_probe_of_nothing_that_is_known_is_refused():
    with pytest.raises(OptionError, match="no protocol is named 'quik'"):
        protocol("probed-quik")


def test_vectors_are_pretrained_on_and_probed_unless_told_otherwise():
    assert auto_protocol(Subject("images", 32, "vectors")) == "pretrain-probe"
    assert protocol("pretrain-probe-7").probe == Probe() and protocol("probed-pretrain-probe").probe == Probe()
