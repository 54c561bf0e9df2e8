"""Wrapped checkpoints: the same bits as the plain file's, whatever other programs put around them."""

import argparse
import io
import itertools
import json
from collections import OrderedDict

import numpy as np
import pytest
import torch

from ddcore.cli.app import invoke
from ddcore.errors import InputError
from ddcore.labels import Encoder, Public
from ddcore.networks.zoo import build
from ddcore.storage.places import Place, save_tensors
from ddcore.storage.weights import load_weights
from ddcore.storage.wrappers import COUNTER, fitted

NETWORK = "convnet2-bn-w4"


def network(seed=0):
    return build(NETWORK, 1, 8, 3, torch.Generator().manual_seed(seed))


def state(seed=0):
    made = network(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return {
        n: torch.rand(t.shape, generator=generator) if t.is_floating_point() else torch.tensor(7)
        for n, t in made.state_dict().items()
    }


def below(prefix, tensors=None):
    return {prefix + name: tensor for name, tensor in (tensors or state()).items()}


def within(word, tensors=None):
    """The word after the first part of each name, as where a part of a network alone is wrapped."""
    return {
        name.replace(".", f".{word}.", 1) if name.startswith("features") else name: tensor
        for name, tensor in (tensors or state()).items()
    }


FLAT = {
    "compiled": below("_orig_mod."),
    "parallel": below("module."),
    "compiled below parallel": below("module._orig_mod."),
    "parallel below compiled": below("_orig_mod.module."),
    "sharded": below("_fsdp_wrapped_module."),
    "a part compiled": within("_orig_mod"),
    "a part parallel": within("module"),
    "a part of a part": below("model.", within("module._orig_mod")),
    "lightning": {**below("model."), "criterion.weight": torch.ones(3)},
    "lightning compiled": below("model._orig_mod."),
    "compiled lightning": below("_orig_mod.model."),
    "self-supervised": {**below("backbone."), "projector.weight": torch.ones(3, 3)},
    "a name nobody knows": below("lit.my_student_net2.inner."),
    "an average beside": {**below("model."), **below("ema_model.", state(5))},
    "an average alone": below("ema_model.module."),
    "averaged": {"n_averaged": torch.tensor(4), **below("module.")},
    "plain and average": {**state(), **below("teacher.", state(5))},
    "without counters": {n: t for n, t in state().items() if COUNTER not in n},
    "wrapped without counters": {n: t for n, t in below("net.module.").items() if COUNTER not in n},
}
NESTED = {
    **{key: {key: state(), "epoch": 3} for key in ("state_dict", "model_state_dict", "model", "net", "network")},
    "ema": {"ema": state(), "lr": 0.1},
    "student": {"student": OrderedDict(below("module.")), "step": 1},
    "teacher": {"teacher": state()},
    "two levels": {"checkpoint": {"model": {"state_dict": below("_orig_mod.")}}, "best": 0.5},
    "plain before average": {
        "model_ema": state(5),
        "model": state(),
        "optimizer": {"state": {0: {"a": torch.ones(1)}}},
    },
    "optimiser": {
        "net": below("module.model."),
        "optim": torch.optim.Adam([torch.nn.Parameter(torch.ones(3))]).state_dict(),
        "args": {"lr": 0.1, "names": ["a"]},
    },
    "a name nobody knows": {"my_run": {"weights_of_it": state()}},
}


def filled(file) -> dict:
    made = network(9)
    load_weights(Place.at(file), made)
    return made.state_dict()


def same(found, counters=True):
    due = state()
    assert set(found) == set(due)
    for name, tensor in due.items():
        assert torch.equal(found[name], tensor if counters or COUNTER not in name else torch.tensor(0)), name


@pytest.mark.parametrize("end", ["pt", "legacy", "protocol 4", "safetensors"])
@pytest.mark.parametrize("kind", FLAT)
def test_words_before_and_within_names_are_seen_through_in_every_format(tmp_path, kind, end):
    file = tmp_path / f"w.{'safetensors' if end == 'safetensors' else 'pt'}"
    if end == "safetensors":
        save_tensors(Place.at(file), FLAT[kind])
    else:
        more = {"pickle_protocol": 4} if end == "protocol 4" else {}
        torch.save(FLAT[kind], file, _use_new_zipfile_serialization=end != "legacy", **more)
    same(filled(file), counters="without counters" not in kind)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", NESTED)
def test_dicts_in_dicts_are_seen_through(tmp_path, kind, protocol):
    torch.save(NESTED[kind], tmp_path / "w.pt", pickle_protocol=protocol)
    same(filled(tmp_path / "w.pt"))


def test_wrappers_may_stand_in_any_order():
    due = state()
    for words in itertools.permutations(("model", "module", "_orig_mod", "backbone")):
        found = fitted(below(".".join(words) + "."), due, "x")
        assert set(found) == set(due) and all(torch.equal(found[name], due[name]) for name in due), words


@pytest.mark.parametrize(
    "made",
    [
        {"student": state(), "teacher": state(5)},
        {"generator": state(), "other": state(5)},
        {**below("student."), **below("teacher.", state(5))},
    ],
    ids=["two dicts", "two names", "two prefixes"],
)
def test_of_two_networks_that_fit_alike_none_is_guessed(tmp_path, made):
    torch.save(made, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"holds several networks, '\w+' and '\w+' among them: save the state_dict"):
        filled(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ({n: t for n, t in below("model.").items() if "classifier.bias" not in n}, "lack 'classifier.bias'"),
        ({**below("model."), "model.classifier.more": torch.ones(1)}, "'classifier.more', which the network has not"),
        ({**state(), "classifier.more": torch.ones(1)}, "'classifier.more', which the network has not"),
        (below("model.", {**state(), "classifier.weight": torch.ones(5, 1)}), "other classes or images"),
    ],
)
def test_another_network_is_still_refused(tmp_path, made, sentence):
    torch.save(made, tmp_path / "w.pt")
    with pytest.raises(InputError, match=sentence):
        filled(tmp_path / "w.pt")


@pytest.mark.parametrize("kind", ["lightning compiled", "a part parallel", "wrapped without counters"])
def test_encoders_of_public_weights_are_unwrapped_alike(tmp_path, monkeypatch, kind):
    save_tensors(Place.at(tmp_path / "w.safetensors"), FLAT[kind])
    monkeypatch.setenv("DDCORE_WEIGHTS", str(tmp_path))
    encoder = Encoder(NETWORK, 1, 8, public=Public.at(str(tmp_path / "w.safetensors")))
    plain = network()
    plain.load_state_dict(state())
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder.built().embed(images), plain.eval().embed(images))


FOREIGN = {
    "argparse.Namespace": argparse.Namespace(lr=0.1),
    "numpy._core.multiarray.scalar": np.float64(0.5),
    "torch.nn.modules.linear.Linear": torch.nn.Linear(2, 2),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_class_is_named_in_a_whole_sentence(tmp_path, name, protocol):
    buffer = io.BytesIO()
    torch.save({"state_dict": state(), "more": FOREIGN[name]}, buffer, pickle_protocol=protocol)
    (tmp_path / "w.pt").write_bytes(buffer.getvalue())
    with pytest.raises(InputError) as refusal:
        filled(tmp_path / "w.pt")
    said = str(refusal.value)
    assert f"(it wants {name} to be run, and nothing that a file names is run here): save the state_dict" in said
    assert said.endswith("best as safetensors") and "\n" not in said


def test_a_student_begins_with_a_wrapped_file(tmp_path):
    """The case ``checkpoint-wrappers``, by ``--from``: the scores are those of the plain file."""
    scores = {}
    made = build("convnet2-bn-w4", 1, 8, 10, torch.Generator().manual_seed(0)).state_dict()
    torch.save(made, tmp_path / "plain.pt")
    torch.save({"model_state_dict": below("module._orig_mod.", made), "epoch": 3}, tmp_path / "wrapped.pt")
    for name in ("plain", "wrapped"):
        words = ["train", "--data", "digits", "--student", NETWORK, "--from", str(tmp_path / f"{name}.pt")]
        words += ["--protocol", "stepwise-1", "--eval-seeds", "1", "--threads", "1", "--out", str(tmp_path / name)]
        assert invoke([*words, "--cache", str(tmp_path / "cache")]) == 0
        rows = json.loads((tmp_path / name / "scores.json").read_text())["rows"]
        scores[name] = [row["accuracy"]["values"] for row in rows]
    assert scores["plain"] == scores["wrapped"]
