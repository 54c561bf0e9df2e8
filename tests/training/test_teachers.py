"""Teachers: trained once and shared, loaded without pickle, refused when they know no more than chance."""

import io
import os
import pickle
import shutil

import pytest
import torch

from ddcore import Vote
from ddcore.composing.selection import select, setup_from
from ddcore.errors import InputError, PluginError
from ddcore.labels import mean_logits
from ddcore.networks.passes import logits
from ddcore.runs.run import Run
from ddcore.storage.places import Place, save_tensors
from ddcore.storage.weights import read_state
from ddcore.training import teachers
from ddcore.training.loop import accuracy, train_student
from ddcore.training.teachers import folder, members_of, refuse_chance, snapshot_epochs, with_batch_norm

NEEDS = """
from typing import ClassVar
import torch
from attrs import frozen
from ddcore import Learn, Loss, Plugin, hookimpl

@frozen(kw_only=True, eq=False)
class Pupil(Plugin):
    summary: ClassVar[str] = "needs teachers, for tests"
    role: ClassVar[str] = "matcher"
    steps: ClassVar[int] = 1
    learns: ClassVar[tuple] = ("pixels",)
    needs: ClassVar[tuple] = ("teachers",)
    asks: ClassVar[tuple] = ("initialize", "adapt_teacher")

    @hookimpl
    def ddcore_learn(self, task, images, run):
        images.requires_grad_()
        return Learn({"pixels": images}, {"pixels": torch.optim.SGD([images], 0.1)}, roles={"pixels": "pixels"})

    @hookimpl
    def ddcore_matching_loss(self, task, step, learn, run):
        for vote in run.votes("match", task):
            yield Loss(vote.weight * vote.network(learn.tensors["pixels"]).square().mean())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture(scope="module")
def pupil(place):
    (place / "pupil.py").write_text(NEEDS)
    return ["--plugin-path", str(place / "pupil.py")]


def opened(place, words, out="run", **given):
    quick = {
        "threads": 1,
        "network": "convnet2-w8",
        "teachers__epochs": 6,
        "cache": str(place / "cache"),
        "labels": "hard",
    }
    selection = select([*words, "--preset", "none"], {})
    return Run(setup_from(selection, {**quick, **given}, {}), Place.at(place / out))


def state(network):
    return {name: t.clone() for name, t in network.state_dict().items()}


def test_the_default_teacher_is_the_runs_network_with_batch_norm(place, pupil):
    run = opened(place, pupil)
    assert run.teachers.names == ("convnet2-bn-w8",)
    network = run.teachers.network(0)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert run.teachers.network(0) is network
    assert run.teachers.accuracies[0] > 0.25  # 0.9 with a deviation of 0.015 over seeds
    assert run.teachers.accuracies[0] == accuracy(network, run.real.train, index=_probe(run))


def _probe(run):
    return torch.linspace(0, len(run.real.train) - 1, 1000).long()


def test_a_teacher_is_trained_once_for_all_runs_and_committees(place, pupil):
    first = opened(place, pupil, "a", teachers__networks=("convnet2-bn-w8",))
    weights = state(first.teachers.network(0))
    both = opened(place, pupil, "b", teachers__networks=("convnet1-bn-w4", "convnet2-bn-w8"))
    assert all(torch.equal(t, weights[name]) for name, t in both.teachers.network(1).state_dict().items())
    keys = [path.name for path in (place / "b" / "checkpoints").iterdir()]
    assert len(keys) == 1


def test_two_of_one_architecture_differ(place, pupil):
    run = opened(place, pupil, "twins", teachers__networks=("convnet1-bn-w4", "convnet1-bn-w4"))
    one, other = (state(run.teachers.network(n)) for n in (0, 1))
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("option", [{"teachers__epochs": 7}, {"teachers__mix": "mixup"}, {"seed": 1}])
def test_what_shapes_a_teacher_gives_it_another_place(place, pupil, option):
    plain, other = opened(place, pupil, "x"), opened(place, pupil, "y", **option)
    assert folder(members_of(plain)[0], plain).url != folder(members_of(other)[0], other).url


def test_what_does_not_shape_it_does_not(place, pupil):
    plain = opened(place, pupil, "x")
    other = opened(place, pupil, "y", teachers__check=False, teachers__normalise="imagenet", ipc=3)
    assert folder(members_of(plain)[0], plain).url == folder(members_of(other)[0], other).url


def test_a_stopped_training_ends_in_the_same_bits(place, pupil, monkeypatch):
    from ddcore.errors import Interrupted

    whole = state(opened(place, pupil, "whole").teachers.network(0))
    monkeypatch.setenv("DDCORE_CHECKPOINT_SECONDS", "0")
    run = opened(place, pupil, "cut", cache=str(place / "other"))
    for _ in range(3):
        run.stopping = True
        with pytest.raises(Interrupted):
            run.teachers  # noqa: B018
        run = opened(place, pupil, "cut", cache=str(place / "other"))
    assert all(torch.equal(t, whole[name]) for name, t in run.teachers.network(0).state_dict().items())


def test_snapshots_are_the_teacher_as_it_was_evenly_along_the_way(place, pupil, monkeypatch):
    after = {}

    def watched(network, *given, on_epoch, **more):
        def keep(epoch):
            after[epoch.number + 1] = state(network)
            on_epoch(epoch)

        return train_student(network, *given, on_epoch=keep, **more)

    monkeypatch.setattr(teachers, "train_student", watched)
    run = opened(place, pupil, "snap", teachers__snapshots=2, teachers__epochs=12)
    found = [state(network) for network in (*run.teachers.snapshots(0), run.teachers.network(0))]
    assert snapshot_epochs(12, 2) == [4, 8]
    for own, epoch in zip(found, (4, 8, 12), strict=True):
        assert all(torch.equal(tensor, after[epoch][name]) for name, tensor in own.items()), epoch
    assert not torch.equal(next(iter(after[4].values())), next(iter(after[8].values())))


def test_more_snapshots_than_epochs_are_all_there(place, pupil):
    run = opened(place, pupil, "many", teachers__snapshots=5, teachers__epochs=2)
    assert len(run.teachers.snapshots(0)) == 5


def test_snapshots_that_were_not_kept_are_an_error_that_says_so(place, pupil):
    with pytest.raises(InputError, match="--teachers.snapshots is 0"):
        opened(place, pupil).teachers.snapshots(0)


def test_votes_are_equal_and_sum_to_one(place, pupil):
    run = opened(place, pupil, "b", teachers__networks=("convnet1-bn-w4", "convnet2-bn-w8"))
    votes = run.votes("label")
    assert [vote.weight for vote in votes] == [0.5, 0.5]
    images = run.real.test.inputs(torch.arange(5))
    due = (logits(votes[0].network, images) + logits(votes[1].network, images)) / 2
    assert torch.allclose(mean_logits(images, [v.network for v in votes]), due, atol=1e-6)


@pytest.mark.parametrize("wrapped", ["plain", "module.", "state_dict", "safetensors"])
def test_weights_come_from_a_file(place, pupil, wrapped):
    trained = opened(place, pupil)
    tensors = state(trained.teachers.network(0))
    if wrapped == "safetensors":
        file = place / "w.safetensors"
        save_tensors(Place.at(file), {n: t.contiguous() for n, t in tensors.items()})
    else:
        file = place / f"{wrapped}.pth"
        kept = {f"module.{n}": t for n, t in tensors.items()} if wrapped == "module." else tensors
        torch.save({"state_dict": kept, "epoch": 3} if wrapped == "state_dict" else kept, file)
    run = opened(place, pupil, "l", teachers__networks=("convnet2-bn-w8",), teachers__weights=(str(file),))
    images = trained.real.test.inputs(torch.arange(7))
    assert torch.equal(logits(run.teachers.network(0), images), logits(trained.teachers.network(0), images))


def test_a_file_that_only_unpickling_would_read_is_refused(place):
    class Trap:
        def __reduce__(self):
            return (print, ("this must never run",))

    (place / "trap.pth").write_bytes(pickle.dumps(Trap()))
    buffer = io.BytesIO()
    torch.save({"state_dict": {"w": Trap()}}, buffer)
    (place / "trap2.pth").write_bytes(buffer.getvalue())
    for name in ("trap.pth", "trap2.pth"):
        with pytest.raises(InputError, match="cannot be read as tensors alone"):
            read_state(Place.at(place / name))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: {**t, "classifier.weight": torch.zeros(3, 32)}, "for other classes or images"),
        (lambda t: {n: v for n, v in t.items() if n != "classifier.bias"}, "lack 'classifier.bias'"),
        (lambda t: {**t, "classifier.extra": torch.zeros(1)}, "which the network has not"),
    ],
)
def test_weights_of_another_network_are_refused(place, pupil, change, sentence):
    tensors = state(opened(place, pupil).teachers.network(0))
    save_tensors(Place.at(place / "wrong.safetensors"), change(tensors))
    run = opened(
        place, pupil, "w", teachers__networks=("convnet2-bn-w8",), teachers__weights=(str(place / "wrong.safetensors"),)
    )
    with pytest.raises(InputError, match=sentence):
        run.teachers  # noqa: B018


def test_a_teacher_whose_classes_are_in_another_order_is_refused(place, pupil):
    tensors = state(opened(place, pupil).teachers.network(0))
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name].roll(1, 0)
    save_tensors(Place.at(place / "turned.safetensors"), tensors)
    given = {"teachers__networks": ("convnet2-bn-w8",), "teachers__weights": (str(place / "turned.safetensors"),)}
    with pytest.raises(InputError, match="its classes are in another order"):
        opened(place, pupil, "t", **given).teachers  # noqa: B018
    assert len(opened(place, pupil, "t", teachers__check=False, **given).teachers) == 1


def test_chance_is_three_standard_errors():
    refuse_chance("net", 0.13, 10, 10_000)
    with pytest.raises(InputError, match="chance is 10.0%"):
        refuse_chance("net", 0.13, 10, 100)


def test_weights_that_want_other_images_get_them(place, pupil):
    trained = opened(place, pupil)
    save_tensors(Place.at(place / "w3.safetensors"), state(trained.teachers.network(0)))
    given = {"teachers__networks": ("convnet2-bn-w8",), "teachers__weights": (str(place / "w3.safetensors"),)}
    run = opened(place, pupil, "n", teachers__check=False, **given)
    ours, images = run.normalisation, run.real.test.inputs(torch.arange(3))
    from ddcore.training.teachers import Renormalised

    double = Renormalised(run.teachers.network(0), ours, ours)
    assert torch.allclose(double(images), run.teachers.network(0)(images), atol=1e-4)
    assert torch.allclose(double.embed(images), run.teachers.network(0).embed(images), atol=1e-4)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("[]", "votes that weigh nothing"),
        ("None or 3", "returned int where a list of votes is due"),
        ("[Vote(run.network(run.generator('x')))]", "in training mode"),
    ],
)
def test_wrong_votes_are_named(place, pupil, answer, sentence):
    (place / "chooser.py").write_text(
        "from typing import ClassVar\nfrom attrs import frozen\nfrom ddcore import Plugin, Vote, hookimpl\n"
        "@frozen(kw_only=True, eq=False)\nclass Chooser(Plugin):\n    @hookimpl\n"
        f"    def ddcore_teachers(self, purpose, task, run):\n        return {answer}\n"
    )
    run = opened(place, [*pupil, "--plugin-path", str(place / "chooser.py")], "c")
    with pytest.raises(PluginError, match=sentence):
        run.votes("label")


def test_a_plugin_may_choose_and_another_may_change_a_copy(place, pupil):
    (place / "both.py").write_text(
        "import copy\nfrom attrs import frozen\nfrom ddcore import Plugin, Vote, hookimpl\n"
        "@frozen(kw_only=True, eq=False)\nclass Both(Plugin):\n"
        "    @hookimpl\n    def ddcore_teachers(self, purpose, run):\n"
        "        return [Vote(run.teachers.network(0), 0.25, 'quarter')] if purpose == 'match' else None\n"
        "    @hookimpl\n    def ddcore_adapt_teacher(self, network, batch):\n"
        "        made = copy.deepcopy(network)\n        made.classifier.bias.add_(batch.inputs.mean())\n        return made\n"
    )
    run = opened(place, [*pupil, "--plugin-path", str(place / "both.py")], "d")
    assert [v.weight for v in run.votes("label")] == [1.0]
    (plain,) = run.votes("match")
    assert (plain.weight, plain.name) == (0.25, "quarter")
    from ddcore import Batch, Task

    batch = Batch(torch.ones(2, 1, 8, 8), {"class": torch.tensor([0, 1])}, torch.arange(2))
    (changed,) = run.votes("match", Task("distil", "t", 1), batch)
    assert isinstance(changed, Vote)
    shift = changed.network.classifier.bias - run.teachers.network(0).classifier.bias
    assert torch.allclose(shift, torch.ones(10))


def test_networks_of_the_zoo_get_batch_norm():
    assert with_batch_norm("convnet-w32-sigmoid-max") == "convnet-bn-w32-sigmoid-max"
    assert with_batch_norm("convnet3-bn") == "convnet3-bn"
    assert with_batch_norm("torchvision:resnet18") == "torchvision:resnet18"


# ---- files that are not what they have to be --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory, pupil):
    """A cache with two teachers and a weaker copy of each, and their states."""
    place = tmp_path_factory.mktemp("two")
    run = brief(place, pupil)
    return (
        place,
        [state(run.teachers.network(n)) for n in (0, 1)],
        [state(run.teachers.snapshots(n)[0]) for n in (0, 1)],
    )


def brief(place, pupil, **given):
    options = {"networks": ("convnet2-bn-w4", "convnet2-bn-w6"), "epochs": 2, "snapshots": 1, "check": False}
    named = {f"teachers__{name}": value for name, value in options.items()}
    return opened(place, pupil, cache=str(place / "cache"), network="convnet2-w4", **named, **given)


def shortened(path):
    path.write_bytes(path.read_bytes()[:-1])


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def exchanged(path):
    other = next(p for p in path.parent.parent.glob(f"*/{path.name}") if p != path)
    aside = path.with_name("aside")
    path.rename(aside), other.rename(path), aside.rename(other)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
@pytest.mark.parametrize("change", [shortened, pipe, exchanged, os.unlink], ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["weights", "snapshot-000", "teacher.done"])
def test_a_wrong_file_of_a_teacher_is_made_again(two, tmp_path, pupil, change, name):
    shutil.copytree(two[0] / "cache", tmp_path / "cache")
    run = brief(tmp_path, pupil)
    change(folder(members_of(run)[0], run).local_path() / f"{name}.safetensors")
    found = [state(run.teachers.network(n)) for n in (0, 1)], [state(run.teachers.snapshots(n)[0]) for n in (0, 1)]
    for kind, due in zip(found, two[1:], strict=True):
        assert all(torch.equal(kind[n][key], due[n][key]) for n in (0, 1) for key in due[n])
    words = 2 if change is exchanged else 0 if (change, name) == (os.unlink, "teacher.done") else 1
    assert len(run.tasks.reporter.warnings) == words and all("again" in said for said in run.tasks.reporter.warnings)


def test_teachers_of_other_threads_are_other_teachers(tmp_path, pupil):
    names = []
    for count in (1, 2):
        run = brief(tmp_path, pupil, threads=count)
        names.append(folder(members_of(run)[0], run).name)
    torch.set_num_threads(1)
    assert names[0] != names[1]
