"""The core answers hooks as a plugin would: each by name, and None for names that are not its own."""

from types import SimpleNamespace

import pytest
import torch

from ddcore import Task
from ddcore.data.normalisation import fit
from ddcore.data.source import Real
from ddcore.data.sources import open_source
from ddcore.errors import InputError
from ddcore.labels import HardLabels
from ddcore.runs.builtin import Core, for_each_class
from ddcore.storage.places import Place

NOTHING = {"data_root": None, "split": None, "resize": None}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> SimpleNamespace:
    source = open_source("digits")
    what = {
        "source": source,
        "real": Real(source, fit("mean-std", source)),
        "cache": Place.at(tmp_path_factory.mktemp("cache")),
    }
    where = {"device": torch.device("cpu"), "dtype": torch.float32, "warn": pytest.fail}
    return SimpleNamespace(**what, **where, plan=SimpleNamespace(needs=()), plugins={})


def test_ddcore_data_knows_digits_and_leaves_other_names_alone():
    assert Core().ddcore_data(name="digits", rest="", options=NOTHING).classes[3] == "3"
    assert Core().ddcore_data(name="smiles", rest="bbbp.csv", options=NOTHING) is None


def test_ddcore_network_draws_from_the_generator_it_is_given():
    of = {"channels": 1, "size": 8, "classes": 10, "shape": (1, 8, 8)}

    def weights(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        built = Core().ddcore_network(name="convnet2-w4", **of, generator=generator)
        return torch.cat([p.detach().flatten() for p in built.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    assert Core().ddcore_network(name="mine", **of, generator=torch.Generator()) is None


def test_of_rows_the_core_has_its_mlp_and_refuses_networks_of_images():
    of = {"channels": 2, "size": 5, "classes": 3, "shape": (2, 5), "generator": torch.Generator().manual_seed(0)}
    assert Core().ddcore_network(name="mlp", **of)(torch.zeros(4, 2, 5)).shape == (4, 3)
    assert Core().ddcore_network(name="mine", **of) is None
    with pytest.raises(InputError, match="is of square images"):
        Core().ddcore_network(name="convnet", **of)


def test_ddcore_executor_knows_here_and_processes():
    assert Core().ddcore_executor(name="here") is not None
    assert Core().ddcore_executor(name="processes") is not None
    assert Core().ddcore_executor(name="ray") is None


@pytest.mark.parametrize("name", ["real", "noise", "kcenter"])
def test_ddcore_initialize_gives_an_image_for_each_class_asked_for_in_any_order(name, run):
    classes = torch.tensor([3, 0, 3, 9, 3])
    given = {"name": name, "classes": classes, "task": Task("distil", "t", 1), "run": run}
    images = Core().ddcore_initialize(generator=torch.Generator().manual_seed(0), **given)
    again = Core().ddcore_initialize(generator=torch.Generator().manual_seed(0), **given)
    assert images.shape == (5, 1, 8, 8)
    assert torch.equal(images, again)
    assert len({tuple(i.flatten().tolist()) for i in images}) == 5
    if name != "noise":
        train = run.real.train
        for image, cls in zip(images, classes.tolist(), strict=True):
            own = train.inputs(train.of_class(cls))
            assert (own == image).flatten(1).all(1).any()


def test_ddcore_initialize_leaves_other_names_alone(run):
    given = {"classes": torch.tensor([1]), "task": Task("distil", "t", 1), "generator": torch.Generator(), "run": run}
    assert Core().ddcore_initialize(name="correct", **given) is None


def test_ddcore_label_gives_hard_labels(run):
    labels = Core().ddcore_label(name="hard", images=torch.zeros(2, 1, 8, 8), classes=torch.tensor([4, 2]), run=run)
    assert isinstance(labels, HardLabels) and labels.classes.tolist() == [4, 2] and labels.class_count == 10
    assert Core().ddcore_label(name="experts", images=torch.zeros(1), classes=torch.tensor([1]), run=run) is None


def test_images_made_class_by_class_come_back_in_the_order_asked():
    made = for_each_class(torch.tensor([2, 1, 2]), lambda c, n: torch.arange(n).float()[:, None, None, None] + 10 * c)
    assert made.flatten().tolist() == [20.0, 10.0, 21.0]


def test_ddcore_evaluate_of_the_core_is_the_honest_rows(monkeypatch):

    monkeypatch.setattr("ddcore.runs.builtin.evaluate_artifact", lambda run: ["rows", run])
    images, graphs = (SimpleNamespace(dense=dense, source=SimpleNamespace(labelled=True)) for dense in (True, False))
    assert Core().ddcore_evaluate(run=images) == ["rows", images]
    assert Core().ddcore_evaluate(run=graphs) == []
