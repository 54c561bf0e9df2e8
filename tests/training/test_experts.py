"""Experts: their snapshots, their digest, their resumption, and that two runs share them."""

import json
import os
import shutil
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from attrs import evolve, frozen
from torch.nn import functional as F

from ddcore import Plugin, randomness
from ddcore.api.types import Sequential
from ddcore.composing.recipes import Experts
from ddcore.data.normalisation import fit
from ddcore.data.source import Real, Source, Split
from ddcore.errors import InputError, Interrupted, NonFiniteLoss
from ddcore.labels import HardLabels
from ddcore.networks.passes import lay_out
from ddcore.networks.unroll import flat_weights
from ddcore.networks.zoo import build
from ddcore.storage.checkpoints import Checkpoints
from ddcore.storage.places import Place, read_metadata, save_tensors
from ddcore.training import experts
from ddcore.training.experts import Trajectories, digest, missing, snapshot_place, train_expert, trajectories
from ddcore.training.loop import accuracy


def a_source(train=60, test=30):
    """Three classes of 8x8 images that differ in brightness."""
    g = randomness.generator(0, "source")

    def split(count):
        labels = torch.arange(count) % 3
        images = labels[:, None, None, None] * 80 + torch.randint(0, 60, (count, 1, 8, 8), generator=g)
        return Split(images.to(torch.uint8), labels)

    return Source(name="toy", train=split(train), test=split(test), classes=("a", "b", "c"))


def shaped(plugins, shapers):
    """Plugins by name: those given, and some that shape experts by one hook, which is their name, or by both."""

    def shaper(name, own):
        hooks = [name] if name in experts.EXPERT_HOOKS else experts.EXPERT_HOOKS
        return type("Shaper", (Plugin,), {**dict.fromkeys(hooks), "expert_options": lambda self: own})()

    return {**dict(plugins), **{name: shaper(name, own) for name, own in shapers}}


class Stand:
    """The services of a run that experts use."""

    def __init__(self, folder, cache=None, network="mlp", seed=0, source=None, plugins=(), shapers=(), **options):
        self.source = source or a_source()
        self.config = SimpleNamespace(dtype="float32")
        self.options = {"experts": Experts(**{"count": 2, "epochs": 3, "lr": 0.05, "batch": 25, **options})}
        self.seed, self.network_name, self.device = seed, network, torch.device("cpu")
        self.real = Real(self.source, fit("mean-std", self.source), self.device)
        self.place, self.cache = Place.at(folder), Place.at(cache or folder / "cache")
        self.checkpoints = Checkpoints(self.place / "checkpoints")
        self.generator = partial(randomness.generator, seed)
        self.plugins, self.stopping, self.said, self.events, self.done = shaped(plugins, shapers), False, [], [], []
        self.say, self.asked = self.said.append, []
        self.hooks = SimpleNamespace(expert_loss=self.expert_loss, expert_optimizer=self.expert_optimizer)
        self.warnings = []
        self.warn = self.warnings.append

    def network(self, generator, name=None):
        real = self.real
        return lay_out(build(name or self.network_name, real.channels, real.size, len(real.classes), generator))

    def draw(self, phase, *, key, count, progress):
        return Sequential()

    def expert_loss(self, value, network, batch, clean, progress):
        self.asked.append(progress.step)
        return value / 2

    def expert_optimizer(self, base, progress):
        return torch.optim.SGD(base.param_groups[0]["params"], lr=0.0)

    def log(self, event, **fields):
        self.events.append((event, fields))

    def check_stop(self):
        if self.stopping:
            raise Interrupted("stopped")

    def map(self, tasks, label="", unit=""):
        for task in tasks:
            if not self.checkpoints.finished(task.key):
                self.done.append(task.key)
                self.checkpoints.finish(task.key, train_expert(task, self), {})


@pytest.fixture
def run(tmp_path):
    return Stand(tmp_path)


def test_snapshots_are_copies_not_the_living_weights(run):
    found = trajectories(run)
    weights = [found.weights(0, epoch) for epoch in range(4)]
    assert torch.equal(weights[0], flat_weights(run.network(run.generator("expert", 0, "init"))))
    for a, b in zip(weights, weights[1:], strict=False):
        assert (a - b).norm() > 1e-3
    assert torch.equal(found.weights(0, -1), weights[3])
    assert weights[0].dtype == torch.float32 and weights[0].dim() == 1


def test_an_expert_makes_the_moves_of_plain_sgd(run):
    found = trajectories(run)
    network = run.network(run.generator("expert", 1, "init"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    labels = run.real.train.labels
    for epoch in range(3):
        for view in HardLabels(labels, 3).views(epoch, 60, 25, run.generator("expert", 1, "order", epoch)):
            optimizer.zero_grad()
            F.cross_entropy(network(run.real.train.inputs(view.index)), labels[view.index]).backward()
            optimizer.step()
    start = found.weights(1, 0)
    torch.testing.assert_close(found.weights(1, 3) - start, flat_weights(network) - start, rtol=1e-3, atol=1e-6)


def test_experts_differ_and_learn(run):
    found = trajectories(run)
    assert not torch.equal(found.weights(0, 0), found.weights(1, 0))
    scores = [fields for event, fields in run.events if event == "expert" and fields["expert"] == 0]
    losses = [score["loss"] for score in scores]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.85 * losses[0]  # 0.68 of it, deviation 0.01


def test_the_recorded_accuracy_is_that_of_the_stored_network(run):
    network = trajectories(run).network(run, 0)
    recorded = read_metadata(snapshot_place(experts.folder(run), 0, 3))
    assert not network.training
    assert accuracy(network, run.real.test) == float(recorded["accuracy"])
    assert recorded["epoch"] == "3"


def test_batch_statistics_come_back_with_a_network(tmp_path):
    run = Stand(tmp_path, network="convnet-bn-w8", count=1)
    network = trajectories(run).network(run, 0)
    recorded = float(read_metadata(snapshot_place(experts.folder(run), 0, 3))["accuracy"])
    assert accuracy(network, run.real.test) == recorded
    assert any(name.endswith("running_mean") and value.abs().sum() > 0 for name, value in network.named_buffers())


@frozen(eq=False)
class Augmenter(Plugin):
    strength: float = 1.0
    augment_phases: ClassVar = ("expert",)

    def ddcore_augment(self, transform): ...


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.06},
        {"epochs": 4},
        {"momentum": 0.5},
        {"batch": 30},
        {"seed": 1},
        {"network": "convnet-w8"},
        {"source": a_source(train=63)},
        {"plugins": (("x", Augmenter()),)},
        {"shapers": (("x", {}),)},
        {"drop_epoch": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_shapes_experts_is_in_their_digest(tmp_path, run, change):
    assert digest(Stand(tmp_path / "other", **change)) != digest(run)


def test_an_augmenters_options_are_in_the_digest_and_the_count_is_not(tmp_path, run):
    weak = Stand(tmp_path / "a", plugins=(("x", Augmenter(1.0)),))
    strong = Stand(tmp_path / "b", plugins=(("x", Augmenter(2.0)),))
    assert digest(weak) != digest(strong)
    assert digest(Stand(tmp_path / "c", count=7)) == digest(run)
    assert json.loads(json.dumps(experts.recipe(run))) == experts.recipe(run)


def test_runs_share_experts_and_train_only_those_that_are_missing(tmp_path):
    first = Stand(tmp_path / "1", tmp_path / "cache")
    assert missing(first) == [0, 1]
    trajectories(first)
    second = Stand(tmp_path / "2", tmp_path / "cache", count=3)
    assert missing(second) == [2]
    assert trajectories(second).count == 3
    assert len(first.done) == 2 and len(second.done) == 1


def test_experts_removed_from_the_cache_are_trained_again(run):
    before = trajectories(run).weights(0, 3)
    run.cache.remove()
    assert experts.at_hand(run) is None
    assert torch.equal(trajectories(run).weights(0, 3), before)


def stopped_after(run, epochs):
    """Train expert 0 and stop the run after so many epochs."""
    log = run.log

    def stopping(event, **fields):
        log(event, **fields)
        run.stopping = fields["epoch"] == epochs

    run.log = stopping
    with pytest.raises(Interrupted):
        trajectories(run)
    run.log, run.stopping = log, False


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_stopped_expert_goes_on_bit_for_bit_in_another_run(tmp_path, momentum):
    whole = trajectories(Stand(tmp_path / "whole", momentum=momentum))
    first = Stand(tmp_path / "first", tmp_path / "cache", momentum=momentum)
    stopped_after(first, 2)
    second = Stand(tmp_path / "second", tmp_path / "cache", momentum=momentum)
    again = trajectories(second)
    for epoch in range(4):
        assert torch.equal(again.weights(0, epoch), whole.weights(0, epoch))
    assert [f["epoch"] for _, f in second.events if f["expert"] == 0] == [3]


def test_weights_are_readable_while_the_expert_is_still_training(run):
    seen = []
    place = experts.folder(run)
    run.log = lambda event, **f: seen.append(Trajectories(place, 2, 3).weights(f["expert"], f["epoch"]))
    found = trajectories(run)
    assert torch.equal(seen[1], found.weights(0, 2))


def test_a_segment_joins_two_epochs_and_ends_at_the_last_step(run):
    found = trajectories(run)
    segment = found.segment(1, 1, 2)
    target, share = segment.targets[-1]
    assert torch.equal(segment.start, found.weights(1, 1)) and torch.equal(target, found.weights(1, 3))
    assert (share, segment.expert, segment.epoch) == (1.0, 1, 1)


@pytest.mark.parametrize(("epoch", "ahead"), [(2, 2), (-1, 1), (4, 0)])
def test_a_segment_past_the_end_is_refused(run, epoch, ahead):
    with pytest.raises(InputError, match="--experts.epochs"):
        Trajectories(run.cache, 2, 3).segment(0, epoch, ahead)


@pytest.mark.parametrize(("expert", "epoch"), [(2, 0), (0, 4), (0, -2)])
def test_an_expert_or_epoch_that_is_not_there_is_refused(run, expert, epoch):
    with pytest.raises(InputError, match="there is no epoch"):
        Trajectories(run.cache, 2, 3).weights(expert, epoch)


def test_an_expert_that_diverges_names_its_rate(tmp_path):
    with pytest.raises(NonFiniteLoss, match="lower --experts.lr, which is 1e\\+20"):
        trajectories(Stand(tmp_path, lr=1e20))


def test_one_process_at_a_time_trains_an_expert(run, tmp_path):
    place = Place.at(tmp_path / "expert-000")
    place.make_folder()
    with experts.sole_trainer(place, run):
        run.stopping = True
        with pytest.raises(Interrupted), experts.sole_trainer(place, run):
            pass
    assert "waiting for another process" in run.said[0]
    with experts.sole_trainer(place, run):
        pass


@pytest.mark.parametrize("wrong", [{"count": 0}, {"epochs": 0}, {"lr": 0}, {"batch": 0}, {"momentum": -1}])
def test_impossible_recipes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        evolve(Experts(), **wrong)


def test_what_shapes_experts_is_in_the_digest_with_its_options_and_in_order(tmp_path):
    def of(*shapers):
        return digest(Stand(tmp_path / "run", shapers=shapers))

    kinds = [
        of(),
        of(("a", {"x": 1})),
        of(("a", {"x": 2})),
        of(("a", {"x": 1}), ("b", {})),
        of(("b", {}), ("a", {"x": 1})),
    ]
    assert len(set(kinds)) == 5
    assert of(("a", {"x": 1})) == kinds[1]


def test_a_drop_that_never_comes_shapes_nothing(tmp_path, run):
    assert digest(Stand(tmp_path / "a", drop=0.3)) == digest(run)
    assert "drop" not in experts.recipe(run)["experts"] and "shaped_by" not in experts.recipe(run)
    assert digest(Stand(tmp_path / "b", drop=0.3, drop_epoch=2)) != digest(Stand(tmp_path / "c", drop_epoch=2))


def test_the_rate_drops_from_its_epoch_on(tmp_path, run):
    plain, dropped = trajectories(run), trajectories(Stand(tmp_path / "b", drop_epoch=2, drop=0.5))
    for epoch in (1, 2):
        assert torch.equal(plain.weights(0, epoch), dropped.weights(0, epoch))
    assert not torch.equal(plain.weights(0, 3), dropped.weights(0, 3))


def test_an_experts_loss_and_optimiser_are_asked_of_those_that_shape_them(tmp_path, run):
    plain = trajectories(run)
    halved = Stand(tmp_path / "b", count=1, lr=0.1, shapers=(("ddcore_expert_loss", {}),))
    found = trajectories(halved)
    torch.testing.assert_close(found.weights(0, 3), plain.weights(0, 3), rtol=1e-4, atol=1e-6)
    assert sorted(set(halved.asked)) == [0, 1, 2]
    still = trajectories(Stand(tmp_path / "c", count=1, shapers=(("ddcore_expert_optimizer", {}),)))
    assert torch.equal(still.weights(0, 3), still.weights(0, 0))


def test_a_segment_knows_how_long_it_is(run):
    assert trajectories(run).segment(0, 1, 2).ahead == 2


# ---- files that are not what they have to be --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run's folder, and the weights of its experts by number and epoch."""
    folder = tmp_path_factory.mktemp("whole")
    run = Stand(folder)
    found = trajectories(run)
    return folder, {(e, n): found.weights(e, n) for e in range(2) for n in range(4)}


@pytest.fixture
def damaged(whole, tmp_path):
    """A run on a copy of that cache, the folder of its experts, and a check that it hands out the very weights, with words."""
    shutil.copytree(whole[0] / "cache", tmp_path / "cache")
    run = Stand(tmp_path)

    def check(*words):
        found = trajectories(run)
        for (expert, epoch), due in whole[1].items():
            assert torch.equal(found.weights(expert, epoch), due)
        assert len(run.warnings) == len(words), run.warnings
        for word, said in zip(words, run.warnings, strict=True):
            assert word in said and "again" in said and str(tmp_path) not in said
        run.warnings.clear()
        for key, due in whole[1].items():
            assert torch.equal(trajectories(run).weights(*key), due)
        assert run.warnings == []

    return run, experts.folder(run).local_path(), check


def exchange(one, other):
    aside = one.with_name("aside")
    one.rename(aside), other.rename(one), aside.rename(other)


def test_experts_that_were_exchanged_are_trained_again(damaged):
    run, place, check = damaged
    exchange(place / "expert-000", place / "expert-001")
    check("expert 0", "expert 1")
    assert len(run.done) == 2


def test_kinds_of_experts_that_were_exchanged_are_trained_again(damaged, tmp_path):
    _, place, check = damaged
    other = Stand(tmp_path / "other", tmp_path / "cache", lr=0.1)
    trajectories(other)
    exchange(place, experts.folder(other).local_path())
    check("expert 0", "expert 1")


def test_epochs_that_were_exchanged_are_trained_again(damaged):
    _, place, check = damaged
    exchange(place / "expert-001/epoch-001.safetensors", place / "expert-001/epoch-003.safetensors")
    check("expert-001/epoch-001.safetensors")


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def gone(path):
    path.unlink()


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def folder(path):
    path.unlink()
    path.mkdir()


def narrower(path):
    """A sealed file of the right key, of a network of another shape; of another task, if it is no snapshot."""
    facts = read_metadata(Place.at(path)) | ({} if path.name.startswith("epoch") else {"task": "other"})
    save_tensors(Place.at(path), {"weights": torch.zeros(3)}, facts, sealed=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
@pytest.mark.parametrize("change", [cut, gone, pipe, folder, narrower], ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["epoch-002.safetensors", "expert.done.safetensors"])
def test_a_damaged_file_of_an_expert_is_made_again(damaged, change, name):
    run, place, check = damaged
    change(place / "expert-001" / name)
    words = ["expert-001/" + name] if name.startswith("epoch") else ["expert 1"] * (change is not gone)
    check(*words)


def test_things_in_the_place_of_folders_and_locks_are_renamed(damaged):
    run, place, check = damaged
    shutil.rmtree(place / "expert-001")
    (place / "expert-001").write_text("mine")
    (place / "expert-000" / "expert.done.safetensors").unlink()
    (place / "expert-000" / "lock").unlink(missing_ok=True)
    (place / "expert-000" / "lock").mkdir()
    trajectories(run)
    assert next(place.glob("expert-001.aside-*")).read_text() == "mine"
    assert "is no folder" in run.warnings.pop()
    check()


def test_unfinished_experts_that_were_exchanged_or_damaged_begin_again(tmp_path, whole):
    first = Stand(tmp_path)
    stopped_after(first, 2)
    place = experts.folder(first).local_path()
    shutil.copytree(place / "expert-000", place / "expert-001")
    left = place / "expert-000" / "expert.safetensors"
    left.write_bytes(left.read_bytes()[:-1])
    found = trajectories(first)
    assert all(torch.equal(found.weights(*key), due) for key, due in whole[1].items())
    assert ["cut short" in first.warnings[0], "of task" in first.warnings[1], len(first.warnings)] == [True, True, 2]


def test_a_cache_that_one_thread_filled_changes_nothing_for_two(tmp_path):
    def weights(folder, cache, count):
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            run = Stand(folder, cache, network="convnet-w16", source=a_source(120), epochs=1, count=1)
            return digest(run), trajectories(run).weights(0, 1)
        finally:
            torch.set_num_threads(before)

    one, _ = weights(tmp_path / "one", tmp_path / "cache", 1)
    two, filled = weights(tmp_path / "two", tmp_path / "cache", 2)
    _, alone = weights(tmp_path / "alone", tmp_path / "empty", 2)
    assert one != two and torch.equal(filled, alone)


def test_a_recipe_names_no_module_of_the_core(tmp_path):
    assert "ddcore" not in json.dumps(experts.recipe(Stand(tmp_path, plugins=(("x", Augmenter()),))))
