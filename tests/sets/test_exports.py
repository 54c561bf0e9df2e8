import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddcore.cli.app import invoke
from ddcore.data.normalisation import ZCA, Identity, MeanStd
from ddcore.data.parquet_images import read
from ddcore.errors import InputError
from ddcore.labels import HardLabels, SoftLabels, StaticMixedLabels
from ddcore.sets.artifact import Artifact, save_artifact
from ddcore.sets.exports import describe, export, folder_names, inspect, left_out
from ddcore.storage.places import Place

NAMES = ("cat", "dog/wolf", "tree frog")
CLASSES = torch.tensor([0, 0, 1, 1, 2, 2])
LEVELS = torch.randint(0, 256, (6, 3, 4, 4), generator=torch.Generator().manual_seed(0))
LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
MEAN_STD = MeanStd((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def save(place, channels: int = 3, labels=None, normalisation=None, **changed) -> Artifact:
    normalisation = normalisation or MeanStd(MEAN_STD.mean[:channels], MEAN_STD.std[:channels])
    contents = {
        "tensors": {"pixels": normalisation.apply(LEVELS[:, :channels] / 255)},
        "decoder": [{"op": "rows", "tensor": "pixels"}],
        "labels": labels or HardLabels(CLASSES, 3),
        "classes": NAMES,
        "normalisation": normalisation,
        "recipe": {"protocol": "quick", "rate": 0.0123456, "learned_rate": None},
        "provenance": {"method": "pull + turn", "seed": 3},
        "source": {"name": "pets", "licence": "CC0", "origin": "folder:pets"},
    }
    return save_artifact(place, **(contents | changed))


@pytest.fixture
def artifact(tmp_path) -> Artifact:
    return save(tmp_path / "set")


@pytest.fixture
def softly_labelled(tmp_path) -> Artifact:
    return save(tmp_path / "set", labels=SoftLabels(LOGITS, CLASSES))


@pytest.mark.parametrize("channels", [1, 3])
def test_folders_hold_the_pixels_as_png_by_class(tmp_path, channels):
    export(save(tmp_path / "set", channels), "folder", tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert facts["classes"] == list(NAMES) and [s["class"] for s in facts["samples"]] == CLASSES.tolist()
    for sample, levels, cls in zip(facts["samples"], LEVELS[:, :channels], CLASSES.tolist(), strict=True):
        assert sample["file"].startswith(facts["folders"][cls] + "/")
        pixels = np.asarray(Image.open(tmp_path / "out" / sample["file"])).reshape(4, 4, channels)
        assert (pixels == levels.permute(1, 2, 0).numpy()).all()


ZCA_OF = ZCA(torch.full((48,), 0.5), 2 * torch.eye(48), torch.eye(48) / 2)
BEYOND = {"tensors": {"pixels": 3 * torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(7))}}
REAL = {
    "tensors": {"pixels": LEVELS.to(torch.uint8)},
    "decoder": [{"op": "normalise", "tensor": "pixels", "mean": list(MEAN_STD.mean), "std": list(MEAN_STD.std)}],
    "real": {"rows": [5, 4, 3, 2, 1, 0], "unchanged": True},
}
MIXED = StaticMixedLabels(LOGITS, CLASSES, (4, 4))


def read_without_us(folder) -> tuple[np.ndarray, np.ndarray]:
    """Images and targets of an exported folder, by Pillow, numpy and json alone."""
    facts = json.loads((folder / "labels.json").read_text())
    arrays = np.load(folder / "training.npz")
    if facts["images"] != "png":
        return arrays["images"], arrays["targets"]
    shown = [np.asarray(Image.open(folder / s["file"])).reshape(4, 4, -1) for s in facts["samples"]]
    unit = np.stack(shown).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    if facts["normalisation"]["kind"] == "none":
        return unit, arrays["targets"]
    mean, std = (np.array(facts["normalisation"][k], np.float32)[:, None, None] for k in ("mean", "std"))
    return (unit - mean) / std, arrays["targets"]


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (REAL, "png"),
        (BEYOND, "training.npz"),
        ({"storage_dtype": "uint8"}, None),
        ({"storage_dtype": "float16", **BEYOND}, "training.npz"),
        ({"normalisation": Identity(), "tensors": {"pixels": LEVELS / 255}}, "png"),
        ({"normalisation": ZCA_OF}, "training.npz"),
    ],
)
@pytest.mark.parametrize(
    "labels", [None, SoftLabels(LOGITS, CLASSES, temperature=4.0), SoftLabels(LOGITS.half(), CLASSES), MIXED]
)
def test_a_folder_read_without_us_gives_the_very_tensors_and_targets_of_the_artifact(tmp_path, content, form, labels):
    artifact = save(tmp_path / "set", labels=labels, **content)
    export(artifact, "folder", tmp_path / "out")
    images, targets = read_without_us(tmp_path / "out")
    assert images.dtype == np.float32 and np.array_equal(images, artifact.images().numpy())
    assert np.array_equal(targets, torch.stack([target for _, target in artifact]).numpy())
    facts = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert form is None or facts["images"] == form
    assert facts["classes"] == list(NAMES) and facts["licence"] == "CC0"
    assert facts["normalisation"] == {**facts["normalisation"], **artifact.normalisation.header()}
    assert facts["labels"] == {"kind": artifact.labels.kind, **artifact.labels.recipe}


def test_parquet_has_whole_pixels_and_targets_where_pictures_would_clip(tmp_path):
    import pyarrow.parquet

    artifact = save(tmp_path / "set", labels=SoftLabels(LOGITS, CLASSES, temperature=4.0), **BEYOND)
    table = pyarrow.parquet.read_table(export(artifact, "parquet", tmp_path / "mine.parquet").address)
    pixels = np.array(table["pixels"].to_pylist(), np.float32).reshape(6, 3, 4, 4)
    assert np.array_equal(pixels, artifact.images().numpy())
    assert np.array_equal(
        np.array(table["target"].to_pylist(), np.float32), torch.stack([t for _, t in artifact]).numpy()
    )
    facts = json.loads(table.schema.metadata[b"ddcore"])
    assert facts["images"] == "pixels" and facts["normalisation"]["mean"] == list(MEAN_STD.mean)
    own = read([Place.at(tmp_path / "mine.parquet")])
    assert own.classes == NAMES and torch.equal(own.labels, CLASSES)


def test_what_is_left_out_or_rounded_is_said_with_numbers(tmp_path, capsys):
    artifact = save(tmp_path / "set", labels=MIXED, **BEYOND)
    pixels = artifact.normalisation.inverse(artifact.images())
    share = f"{float(((pixels < 0) | (pixels > 1)).float().mean()):.1%}"
    assert invoke(["export", str(tmp_path / "set"), "--to", "folder", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"{share} of these lie outside black to white and are clipped; train on images in training.npz" in said
    assert "mixes that a loader draws" in said and "folders have numbers before names" in said
    assert json.loads((tmp_path / "out" / "labels.json").read_text())["left_out"] == left_out(artifact, "folder")
    assert left_out(save(tmp_path / "real", classes=("a", "b", "c"), **REAL), "folder") == []


@pytest.mark.parametrize(
    ("classes", "own"),
    [
        (("Katze", "Straße"), True),
        (("0", "1", "2"), True),
        (("b", "a"), False),
        (("a", "A"), False),
        (("nul", "x"), False),
        ((".hidden", "x"), False),
        (("labels.json", "x"), False),
        (("cafe\u0301", "x"), False),
        (("a ", "b"), False),
        (("a\u202eb", "c"), False),
        (("x" * 300, "y"), False),
    ],
)
def test_folders_have_the_classes_names_where_these_are_safe_and_sort_alike(classes, own):
    names = folder_names(classes)
    assert (names == list(classes)) == own and names == sorted(names) and len(set(names)) == len(classes)


def test_class_folders_sort_in_class_order_and_stay_inside():
    names = folder_names((*(str(n) for n in range(9)), "../up", "", "a\\b", "x" * 200))
    assert names == sorted(names) and len(set(names)) == 13
    assert names[9:12] == ["09-___up", "10-", "11-a_b"] and len(names[12]) < 80


def test_soft_labels_lie_beside_the_folders(tmp_path, softly_labelled):
    export(softly_labelled, "folder", tmp_path / "out")
    samples = json.loads((tmp_path / "out" / "labels.json").read_text())["samples"]
    torch.testing.assert_close(torch.tensor([s["logits"] for s in samples]), LOGITS)


def test_parquet_is_what_our_own_reader_of_hugging_face_files_reads(tmp_path, artifact):
    assert export(artifact, "parquet", tmp_path / "out").name == "train.parquet"
    loaded = read([Place.at(tmp_path / "out" / "train.parquet")])
    assert torch.equal(loaded.images.values.long(), LEVELS) and torch.equal(loaded.labels, CLASSES)
    assert loaded.classes == NAMES and loaded.licence == "CC0"


def test_parquet_has_soft_labels_in_a_column_of_their_own(tmp_path, softly_labelled):
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(export(softly_labelled, "parquet", tmp_path / "mine.parquet").address)
    assert torch.equal(torch.tensor(table["logits"].to_pylist()), LOGITS)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert set(features) == set(table.column_names) == {"image", "label", "logits", "target"}
    assert features["label"]["names"] == list(NAMES)


def test_pt_loses_nothing_and_loads_without_trusting_it(tmp_path):
    zca = ZCA(torch.zeros(48), 2 * torch.eye(48), torch.eye(48) / 2)
    artifact = save(tmp_path / "set", normalisation=zca, labels=SoftLabels(LOGITS, CLASSES))
    content = torch.load(export(artifact, "pt", tmp_path / "mine.pt").address, weights_only=True)
    assert torch.equal(content["images"], artifact.images()) and torch.equal(content["labels"], CLASSES)
    assert torch.equal(content["labels.logits"], LOGITS) and content["classes"] == list(NAMES)
    assert torch.equal(content["normalisation.unwhiten"], zca.unwhiten)
    assert json.loads(content["normalisation"]) == zca.header() and json.loads(content["recipe"])["protocol"] == "quick"


@pytest.mark.parametrize("to", ["folder", "parquet", "pt"])
def test_an_export_overwrites_nothing(tmp_path, artifact, to):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for taken in ("out", "out/mine.txt"):
        with pytest.raises(InputError, match=f"{taken} exists already: give --out"):
            export(artifact, to, tmp_path / taken)


def test_formats_and_images_that_do_not_fit_are_refused(tmp_path, artifact):
    with pytest.raises(InputError, match="named 'parket': did you mean 'parquet'"):
        export(artifact, "parket", tmp_path / "out")
    with pytest.raises(InputError, match="PNG holds 1 or 3 channels.*2: export --to pt"):
        export(save(tmp_path / "two", 2), "folder", tmp_path / "out")


def test_without_pyarrow_parquet_says_what_to_install(tmp_path, artifact, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'ddcore-torch\[parquet\]'"):
        export(artifact, "parquet", tmp_path / "out")


def test_inspect_is_the_manifest_and_what_follows_from_it(artifact):
    facts = json.loads(json.dumps(inspect(artifact), allow_nan=False))
    assert {name: facts[name] for name in artifact.manifest} == artifact.manifest
    assert facts["samples"] == 6 and facts["samples_per_class"] == [2, 2, 2] and facts["ipc"] == 2
    # 6 x 3 x 4 x 4 float32 pixels and 6 label bytes
    assert facts["payload_bytes"] == 6 * 48 * 4 + 6 and facts["altered"] == []
    assert facts["tensors"] == {"pixels": {"shape": [6, 3, 4, 4], "dtype": "float32"}}


def test_describe_says_it_in_lines(artifact):
    lines = dict(line.split(maxsplit=1) for line in describe(artifact).splitlines())
    assert lines["set"] == "6 images of 3 classes (2 per class), 3 x 4 x 4"
    assert lines["bytes"].startswith(f"{artifact.nbytes['total']:,} (images ")
    assert lines["method"] == "pull + turn, seed 3" and lines["source"] == "pets, folder:pets, CC0"
    assert lines["train"] == "with   protocol quick, rate 0.01235" and "altered" not in lines


def test_describe_warns_of_a_changed_card(artifact):
    (artifact.place / "README.md").write_bytes(b"mine")
    assert "README.md: no longer as written" in describe(artifact)
