"""Networks in another order of classes: matched by name where a file lists names, found out by the images where not."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.data import Split
from ddcore.data.source import Source
from ddcore.errors import InputError
from ddcore.networks.passes import logits
from ddcore.networks.zoo import build
from ddcore.runs.run import Run
from ddcore.storage.places import Place, load_tensors, read_metadata, save_tensors
from ddcore.training.class_order import KEY, assignment, matching, names_in, put_in_order, refuse_other_order

pytestmark = pytest.mark.usefixtures("probes")
NETWORK = "convnet2-bn-w8"


@pytest.fixture(scope="module")
def place(tmp_path_factory, probes):
    """Embedded digits as classes '0'..'9' and as words in the order of the alphabet, with a trained network of the first."""
    folder = tmp_path_factory.mktemp("order")
    run = opened(folder, {})
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    made = {}
    for part, split in (("train", run.source.train), ("test", run.source.test)):
        images = (split.stored.float() * (255 if split.stored.is_floating_point() else 1)).round().byte().numpy()[:, 0]
        labels = split.labels.numpy()
        made |= {f"x_{part}": images, f"y_{part}": labels}
        for order in ("other", "same"):
            at = np.argsort(np.argsort(words)) if order == "other" else np.arange(10)
            made |= {f"y_{part}_{order}": at[labels]}
    for order in ("same", "other"):
        arrays = {name: made[name] for name in ("x_train", "x_test")}
        np.savez(folder / f"{order}.npz", **arrays, **{f"y_{p}": made[f"y_{p}_{order}"] for p in ("train", "test")})
    words_of = ["train", "--data", f"npz:{folder}/same.npz", "--student", NETWORK, "--protocol", "stepwise-8"]
    out = folder / "teacher"
    assert invoke([*words_of, "--eval-seeds", "1", "--threads", "1", "--out", str(out), "--cache", str(out)]) == 0
    return folder


def opened(folder, given, dataset="digits"):
    quick = {"threads": 1, "network": NETWORK, "cache": str(folder / "cache"), "dataset": dataset, "labels": "averaged"}
    words = ["--plugin", "pull"]
    return Run(setup_from(select([*words, "--preset", "none"], {}), {**quick, **given}, {}), Place.at(folder / "run"))


def trained(place):
    return place / "teacher" / "students" / "student-0.safetensors"


def asking(place, file, dataset):
    given = {"teachers__networks": (NETWORK,), "teachers__weights": (str(file),)}
    return opened(place, given, dataset=dataset)


def bare(place, name, change=lambda t: t, facts=None):
    file = place / f"{name}.safetensors"
    save_tensors(Place.at(file), change(load_tensors(Place.at(trained(place)))), facts)
    return file


def turned(tensors, order):
    """The outputs in another order."""
    return {n: t[torch.tensor(order)] if n.startswith("classifier.") else t for n, t in tensors.items()}


def test_files_that_ddcore_writes_list_their_classes(place):
    assert json.loads(read_metadata(Place.at(trained(place)))[KEY]) == [str(n) for n in range(10)]
    run = opened(place, {"teachers__epochs": 1, "teachers__check": False})
    run.teachers.network(0)
    (file,) = (place / "cache" / "teachers").glob("*/weights.safetensors")
    assert json.loads(read_metadata(Place.at(file))[KEY]) == list(run.source.classes)


def test_outputs_are_put_in_the_order_of_the_names(place):
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    names = json.dumps([str(n) for n in order])
    file = bare(place, "named", lambda t: turned(t, order), {KEY: names})
    run = asking(place, file, f"npz:{place}/same.npz")
    plain = build(NETWORK, 1, 8, 10, torch.Generator().manual_seed(0))
    plain.load_state_dict(load_tensors(Place.at(trained(place))))
    images = run.real.test.inputs(torch.arange(9))
    assert torch.allclose(logits(run.teachers.network(0), images), logits(plain.eval(), images), atol=1e-5)
    assert run.teachers.accuracies[0] > 0.6
    with pytest.raises(InputError, match="'0' of these data is not among them"):
        asking(place, bare(place, "more", facts={KEY: json.dumps([str(n) for n in range(1, 11)])}), "digits").teachers  # noqa: B018


def test_another_order_without_names_is_refused_and_named(place):
    file = bare(place, "nameless")
    with pytest.raises(InputError) as refusal:
        asking(place, file, f"npz:{place}/other.npz").teachers  # noqa: B018
    # zero is the last of the words in order, one the sixth, ...
    assert "stand for 9, 4, 8, 7, 2, 1, 6, 5, 0, 3: its classes are in another order than the data's (0, 1, 2" in str(
        refusal.value
    )
    assert "\n" not in str(refusal.value)
    assert len(asking(place, file, f"npz:{place}/same.npz").teachers) == 1


@pytest.mark.parametrize("kept", [8, 6, 2])
def test_a_few_classes_that_changed_places_are_enough(place, kept):
    order = [*range(kept), *reversed(range(kept, 10))]
    file = bare(place, f"kept-{kept}", lambda t: turned(t, order))
    with pytest.raises(InputError, match="its classes are in another order"):
        asking(place, file, f"npz:{place}/same.npz").teachers  # noqa: B018


@pytest.mark.parametrize("kind", ["teacher", "from"])
def test_train_refuses_teachers_and_beginnings_alike(place, kind, capsys):
    file = bare(place, "nameless")
    ways = {"teacher": ["--teacher", f"{NETWORK}={file}", "--plugin", "heed"], "from": ["--from", str(file)]}
    student = "mlp" if kind == "teacher" else NETWORK
    words = ["train", "--data", f"npz:{place}/other.npz", "--student", student, *ways[kind], "--eval-seeds", "1"]
    out = [
        "--protocol",
        "stepwise-1",
        "--threads",
        "1",
        "--out",
        str(place / f"run-{kind}"),
        "--cache",
        str(place / "cache"),
    ]
    assert invoke([*words, *out]) == 2
    assert "its classes are in another order than the data's (0, 1, 2, 3" in capsys.readouterr().err
    assert not (place / f"run-{kind}" / "scores.json").exists()


def test_a_student_begins_with_named_outputs_in_order(place):
    order = [9, *range(9)]
    file = bare(place, "begin", lambda t: turned(t, order), {KEY: json.dumps([str(n) for n in order])})
    scores = {}
    for name, start in (("plain", trained(place)), ("turned", file)):
        words = ["train", "--data", f"npz:{place}/same.npz", "--student", NETWORK, "--from", str(start)]
        words += ["--eval-seeds", "1", "--protocol", "stepwise-1", "--threads", "1", "--cache", str(place / "cache")]
        assert invoke([*words, "--out", str(place / f"begin-{name}")]) == 0
        rows = json.loads((place / f"begin-{name}" / "scores.json").read_text())["rows"]
        scores[name] = rows[0]["accuracy"]["mean"]
    assert scores["turned"] == pytest.approx(scores["plain"], abs=0.02)


class Odd(nn.Module):
    """Its last layer gives no logits."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head(images.flatten(1)).flip(1)


def test_a_network_whose_rows_cannot_be_moved_is_refused_by_name(place):
    run = opened(place, {})
    with pytest.raises(InputError, match="order 1, 2, 3.* is not one whose rows can be moved"):
        put_in_order(Odd(), [str(n) for n in (*range(1, 10), 0)], run, "it")
    assert not put_in_order(Odd(), [f"word {n}" for n in range(10)], run, "it")


def test_experts_of_another_order_are_other_experts():
    images, labels = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 0, 1])
    splits = {"train": Split(images, labels), "test": Split(images, labels)}
    one, other = (Source(name="x", classes=names, **splits) for names in (("a", "b"), ("b", "a")))
    assert one.fingerprint != other.fingerprint


def test_matching_by_hand():
    due = torch.arange(4).repeat(25)
    found = matching(torch.tensor([1, 0, 2, 3])[due], due, 4)
    assert (found.order, found.plain, found.best, found.is_other) == ((1, 0, 2, 3), 0.5, 1.0, True)
    weak = torch.where(torch.arange(100) % 3 == 0, due, 1)  # right on a third, else it says 1
    assert not matching(weak, due, 4).is_other
    one_sided = torch.zeros_like(due)
    assert matching(one_sided, due, 4).order == (0, 1, 2, 3)
    assert not matching(one_sided, due, 4).is_other
    few = torch.arange(4)
    assert not matching(few.flip(0), few, 4).is_other  # one image of each: nothing to see it by


def test_chance_is_no_other_order():
    generator = torch.Generator().manual_seed(0)
    for classes, count in ((2, 200), (10, 500), (100, 1000), (1000, 2000)):
        due = torch.arange(classes).repeat(-(-count // classes))
        answered = torch.randint(classes, (len(due),), generator=generator)
        assert not matching(answered, due, classes).is_other, classes


def test_without_scipy_the_order_is_found_too(monkeypatch):
    gains = torch.eye(5)[[2, 0, 1, 4, 3]] * 20 + torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    assert assignment(gains) == [2, 0, 1, 4, 3]
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    assert assignment(gains) == [2, 0, 1, 4, 3]


@pytest.mark.parametrize("text", ["", "cat", "{}", "[]", "[1, 2]", '["a", "a"]', "[" * 10_000])
def test_metadata_that_list_no_names_tell_nothing(text):
    assert names_in({KEY: text}) is None


def test_text_networks_are_looked_at_alike(place):
    """Nothing in the look is of images: any samples do."""
    run = opened(place, {})
    with pytest.raises(InputError, match="another order"):
        refuse_other_order(Turned(run), run, "it")


class Turned(nn.Module):
    """Knows each training image by heart, and says the class after its own."""

    def __init__(self, run):
        super().__init__()
        self.images, self.labels = run.real.train.inputs(torch.arange(len(run.real.train))), run.real.train.labels

    def forward(self, images):
        nearest = torch.cdist(images.flatten(1), self.images.flatten(1)).argmin(1)
        return nn.functional.one_hot((self.labels[nearest] + 1) % 10, 10).float()
