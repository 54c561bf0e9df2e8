"""Sets that are not images: saved, loaded, inspected, exported, damaged."""

import json

import pytest
import torch

from ddcore.api.types import Synthetic
from ddcore.cli.app import invoke
from ddcore.errors import InputError
from ddcore.sets.artifact import load_artifact
from ddcore.sets.exports import describe, export, inspect
from ddcore.sets.packed import Packed, load_either, load_packed, save_packed

TENSORS = {"nodes": torch.arange(6, dtype=torch.uint8).reshape(3, 2), "ends": torch.tensor([[0, 1], [1, 2]])}
SOURCE = {"name": "toy", "origin": "computed", "licence": "CC0", "fingerprint": "f", "train": 9, "shape": [2, 0]}


@pytest.fixture
def packed(tmp_path) -> Packed:
    made = Synthetic(
        TENSORS,
        {},
        [{"op": "trees", "distribution": "ddcore-trees"}],
        torch.tensor([0, 1, 1]),
        preview=b"png",
        notes=("a threshold was lowered",),
    )
    provenance = {"method": "miner", "seed": 3, "ddcore": "1.0"}
    return save_packed(
        tmp_path / "set", made, kind="graphs", classes=("a", "b"), provenance=provenance, source=SOURCE, notes=("rare",)
    )


def changed_manifest(packed, **changed):
    place = packed.place / "manifest.json"
    place.write_json({**place.read_json(), **changed})


def test_what_is_saved_is_what_is_loaded(packed):
    found = load_either(packed.place)
    assert isinstance(found, Packed) and (found.kind, found.method, found.classes) == ("graphs", "miner", ("a", "b"))
    assert (found.samples_per_class, found.manifest["shape"]) == ([1, 2], [2, 0])
    assert found.nbytes == {
        "graphs": len((packed.place / "graphs.safetensors").read_bytes()),
        "total": found.nbytes["graphs"],
    }
    assert all(torch.equal(TENSORS[name], tensor) for name, tensor in found.tensors.items())
    assert found.altered() == []


def test_inspect_says_what_it_holds_for_machines_and_for_people(packed, capsys):
    (packed.place / "README.md").write_bytes(b"mine now")
    assert invoke(["inspect", packed.place.url, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads(json.dumps(inspect(packed)))
    assert facts["tensors"] == {
        "nodes": {"shape": [3, 2], "dtype": "uint8"},
        "ends": {"shape": [2, 2], "dtype": "int64"},
    }
    assert (facts["samples"], facts["samples_per_class"], facts["altered"]) == (3, [1, 2], ["README.md"])
    said = describe(packed)
    assert "3 samples as graphs, of 2 classes (1, 2)" in said and "trees of ddcore-trees" in said
    assert "toy, computed, CC0" in said and "note         a threshold was lowered" in said and "README.md" in said


def test_pt_holds_every_tensor_and_is_read_without_pickle(packed, tmp_path):
    place = export(packed, "pt", tmp_path / "set.pt")
    content = torch.load(place.local_path(), weights_only=True)
    assert all(torch.equal(content[f"tensors.{name}"], tensor) for name, tensor in TENSORS.items())
    assert content["classes"] == ["a", "b"] and json.loads(content["decoder"]) == packed.manifest["decoder"]


@pytest.mark.parametrize("to", ["folder", "parquet"])
def test_formats_of_images_are_refused(packed, tmp_path, capsys, to):
    assert invoke(["export", packed.place.url, "--to", to, "--out", str(tmp_path / "out")]) == 2
    assert f"{to} is a format of images, and {packed.place.url} holds graphs: export --to pt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_each_loader_refuses_the_others_kind(packed):
    with pytest.raises(InputError, match="holds graphs"):
        load_artifact(packed.place)
    changed_manifest(packed, kind="images")
    with pytest.raises(InputError):
        load_packed(packed.place)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"samples_per_class": [1]}, "'samples_per_class' are no counts"),
        ({"samples_per_class": [1, -2]}, "'samples_per_class' are no counts"),
        ({"samples_per_class": None}, "'samples_per_class' are no counts"),
        ({"shape": None}, "'shape' is missing"),
        ({"files": {}}, "no checksum of graphs.safetensors"),
        ({"schema": 99}, "schema 99"),
        ({"classes": []}, "names no classes"),
    ],
)
def test_a_damaged_manifest_is_one_sentence(packed, changed, words):
    changed_manifest(packed, **changed)
    with pytest.raises(InputError, match=words):
        load_either(packed.place)


def test_a_set_that_was_cut_short_or_is_no_set_is_one_sentence(packed, tmp_path):
    file = packed.place / "graphs.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(InputError, match="graphs.safetensors"):
        load_either(packed.place)
    (packed.place / "manifest.json").write_bytes(b"{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_either(packed.place)
    with pytest.raises(InputError, match="there is nothing at"):
        load_either(tmp_path / "nowhere")
