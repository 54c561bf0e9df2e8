import json
import random
import shutil

import pytest
import torch
from mutating import mutated
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ddcore.data.normalisation import ZCA, Identity, MeanStd
from ddcore.errors import DdcoreError, InputError
from ddcore.labels import HardLabels, Labels, SoftLabels
from ddcore.sets.artifact import Artifact, load_artifact, save_artifact
from ddcore.sets.exports import describe, inspect
from ddcore.storage.places import sha256_of

NAMES = ("cat", "dog", "tree frog")
CLASSES = torch.arange(3).repeat_interleave(2)
MEAN_STD = MeanStd((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
DATA_FILES = ("images.safetensors", "labels.safetensors")
SOURCE = {"name": "pets", "origin": "folder:pets", "licence": "CC0", "fingerprint": "f" * 64, "shape": [3, 2, 2]}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images() -> Tensor:
    return torch.randn(6, 3, 2, 2, generator=seeded())


def soft() -> SoftLabels:
    return SoftLabels(torch.randn(6, 3, generator=seeded(1)), CLASSES, temperature=2.0)


def save(place, pixels: Tensor | None = None, labels: Labels | None = None, **changed) -> Artifact:
    contents = {
        "tensors": {"pixels": images() if pixels is None else pixels},
        "decoder": [{"op": "rows", "tensor": "pixels"}],
        "labels": labels or HardLabels(CLASSES, 3),
        "classes": NAMES,
        "normalisation": MEAN_STD,
        "recipe": {"protocol": "quick", "learned_rate": 0.02},
        "provenance": {"method": "pull + turn", "seed": 3},
        "source": SOURCE,
        "notes": ("frogs look like cats",),
    }
    return save_artifact(place, **(contents | changed))


def change(folder, edit) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


# ---- what is saved is what is loaded ---------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [HardLabels(CLASSES, 3), soft()])
def test_a_loaded_artifact_is_the_saved_one(tmp_path, labels):
    saved, loaded = save(tmp_path, labels=labels), load_artifact(tmp_path)
    for artifact in (saved, loaded):
        assert torch.equal(artifact.images(), images()) and artifact.classes == NAMES and len(artifact) == 6
        assert artifact.labels.recipe == labels.recipe and torch.equal(artifact.labels.classes, CLASSES)
        assert artifact.normalisation == MEAN_STD and artifact.learned_rate == 0.02 and artifact.ipc == 2
    assert saved.manifest == loaded.manifest


def test_equal_contents_make_equal_files(tmp_path):
    for name in "ab":
        save(tmp_path / name, labels=soft())
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_it_lies_on_any_file_system(tmp_path):
    url = "memory://ddcore-artifact-test/set"
    assert torch.equal(save(url).images(), load_artifact(url).images())


def test_zca_comes_with_its_exact_inverse(tmp_path):
    basis, _ = torch.linalg.qr(torch.randn(12, 12, generator=seeded(2)))
    scales = torch.linspace(0.5, 2, 12)
    zca = ZCA(torch.rand(12, generator=seeded(3)), basis * scales @ basis.T, basis / scales @ basis.T)
    real = torch.rand(6, 3, 2, 2, generator=seeded(4))
    loaded = load_artifact(save(tmp_path, zca.apply(real), normalisation=zca).place)
    torch.testing.assert_close(loaded.pixels(), real)
    assert loaded.nbytes["normalisation"] == (tmp_path / "normalisation.safetensors").stat().st_size
    assert loaded.nbytes["total"] == loaded.nbytes["images"] + loaded.nbytes["labels"]


def test_pixels_are_the_images_without_normalisation_clipped(tmp_path):
    # mean 0.4, std 0.2: 1 becomes 0.6, 5 becomes 1.4 and is clipped, -3 becomes -0.2 and is clipped
    one = torch.tensor([1.0, 5, -3, 0]).view(1, 1, 2, 2)
    artifact = save(
        tmp_path, one, HardLabels(torch.tensor([0]), 1), classes=("a",), normalisation=MeanStd((0.4,), (0.2,))
    )
    torch.testing.assert_close(artifact.pixels().flatten(), torch.tensor([0.6, 1.0, 0.0, 0.4]))
    torch.testing.assert_close(torch.tensor(artifact.manifest["value_range"]["pixels"]), torch.tensor([-0.2, 1.4]))


def test_saving_again_leaves_nothing_of_the_artifact_before(tmp_path):
    zca = ZCA(torch.zeros(12), torch.eye(12), torch.eye(12))
    save(tmp_path, normalisation=zca)
    assert (tmp_path / "normalisation.safetensors").exists()
    save(tmp_path, images() + 1)
    assert torch.equal(load_artifact(tmp_path).images(), images() + 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", *DATA_FILES, "manifest.json", "preview.png"]


def test_a_save_that_was_interrupted_is_no_artifact(tmp_path, monkeypatch):
    save(tmp_path)
    monkeypatch.setattr("ddcore.sets.artifact.card", lambda artifact: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path, images() + 1)
    with pytest.raises(InputError, match=r"has no manifest\.json, so it is no finished artifact"):
        load_artifact(tmp_path)


# ---- storage types and bytes -----------------------------------------------------------------------------------------


def test_bytes_are_what_lies_on_the_disk_and_payload_leaves_out_only_headers(tmp_path):
    artifact = save(tmp_path, labels=soft())
    sizes = {
        part: (tmp_path / file).stat().st_size for part, file in zip(("images", "labels"), DATA_FILES, strict=True)
    }
    assert artifact.nbytes == {**sizes, "models": 0, "total": sum(sizes.values()), "normalisation": 0}
    headers = [int.from_bytes((tmp_path / file).read_bytes()[:8], "little") + 8 for file in DATA_FILES]
    # 6 x 3 x 2 x 2 float32 pixels; 6 x 3 float32 logits and 6 class ids of one byte
    assert artifact.payload_bytes == 6 * 12 * 4 + (6 * 3 * 4 + 6)
    assert artifact.nbytes["total"] == artifact.payload_bytes + sum(headers)


def test_equivalent_ipc_counts_real_images_with_a_label_byte_each(tmp_path):
    artifact = save(tmp_path)
    assert artifact.equivalent_ipc == artifact.nbytes["total"] / 13 / 3


@pytest.mark.parametrize(("dtype", "each"), [("float32", 4), ("float16", 2), ("uint8", 1)])
def test_storage_type_decides_the_bytes_of_pixels(tmp_path, dtype, each):
    artifact = save(tmp_path, storage_dtype=dtype)
    scales = 2 * 3 * 4 if dtype == "uint8" else 0
    assert artifact.payload_bytes == 6 * 12 * each + scales + 6
    assert artifact.images().dtype == torch.float32 and artifact.manifest["storage_dtype"] == dtype
    # half a level: of channels within [0, 1] 255 levels span 1 / std, at most 1 / 0.2; the others span less than 5 here
    tolerance = {"float32": 0, "float16": 2e-3, "uint8": 0.502 * 5 / 255}[dtype]
    torch.testing.assert_close(artifact.images(), images(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("normalisation", [MEAN_STD, Identity()])
def test_real_images_lose_nothing_as_uint8(tmp_path, normalisation):
    levels = torch.randint(0, 256, (6, 3, 2, 2), generator=seeded(5))
    artifact = save(tmp_path, normalisation.apply(levels / 255), normalisation=normalisation, storage_dtype="uint8")
    assert torch.equal((artifact.pixels() * 255).round().long(), levels)
    assert torch.equal(artifact.tensors["pixels"].long(), levels)


def test_a_run_in_float64_is_stored_as_float32(tmp_path):
    artifact = save(tmp_path, images().double(), SoftLabels(torch.zeros(6, 3).double(), CLASSES))
    assert artifact.tensors["pixels"].dtype == torch.float32 and artifact.labels.logits.dtype == torch.float32


# ---- a data set for training -----------------------------------------------------------------------------------------


def test_it_is_a_dataset_that_torch_collates(tmp_path):
    artifact = save(tmp_path)
    ((first, answers),) = DataLoader(artifact, batch_size=6)
    assert torch.equal(first, images()) and torch.equal(answers, CLASSES)
    assert torch.equal(artifact[-1][0], images()[5]) and int(artifact[-1][1]) == 2
    assert len(list(artifact)) == 6


def test_batches_carry_their_own_targets(tmp_path):
    answers = {tuple(image.flatten().tolist()): int(c) for image, c in zip(images(), CLASSES, strict=True)}
    batches = list(save(tmp_path).loader(batch_size=4, seed=0))
    assert [len(batch) for batch, _ in batches] == [4, 2]
    seen = {tuple(x.flatten().tolist()): int(y) for batch, ys in batches for x, y in zip(batch, ys, strict=True)}
    assert seen == answers


def test_targets_go_straight_into_torch_cross_entropy(tmp_path):
    labels = soft()
    artifact = save(tmp_path, labels=labels)
    batch, targets = next(iter(artifact.loader(batch_size=6, seed=0)))
    rows = [next(n for n in range(6) if torch.equal(images()[n], x)) for x in batch]
    torch.testing.assert_close(targets, (labels.logits[rows] / 2).softmax(1))
    F.cross_entropy(torch.zeros(6, 3), targets)
    torch.testing.assert_close(artifact[1][1], (labels.logits[1] / 2).softmax(0))


def order(loader) -> list[float]:
    return torch.cat([x for x, _ in loader]).flatten().tolist()


def test_every_loop_over_a_loader_is_the_next_epoch_whether_it_is_made_once_or_each_time(tmp_path):
    save(tmp_path)
    ours, theirs, at_once, other = (load_artifact(tmp_path) for _ in range(4))
    loader = ours.loader(batch_size=4, seed=0)
    one = [order(loader) for _ in range(3)]
    assert one == [order(theirs.loader(batch_size=4, seed=0)) for _ in range(3)]  # the obvious loop
    assert len({tuple(epoch) for epoch in one}) == 3
    assert order(at_once.loader(batch_size=4, seed=0, epochs=3)) == sum(one, [])
    mixed = [order(other.loader(4)), order(other.loader(4, seed=1)), order(other.loader(4))]
    assert mixed[0] == one[0] and mixed[2] == one[1] and mixed[1] != one[0]  # another seed is another sequence


def test_epochs_can_be_asked_for_by_number(tmp_path):
    artifact = save(tmp_path)
    one = [order(artifact.loader(4)) for _ in range(3)]
    again = artifact.loader(4, first=1)
    assert [order(again), order(again)] == one[1:] and order(artifact.loader(4, first=0)) == one[0]
    assert [order(DataLoader(artifact.batches(4, first=n), batch_size=None)) for n in range(3)] == one
    assert order(artifact.batches(4, epochs=2, first=1)) == one[1] + one[2]
    with pytest.raises(ValueError, match="first is -1: give at least 1, 1 and 0"):
        artifact.loader(first=-1)


def test_an_artifact_says_what_it_is_and_what_to_do_next(tmp_path):
    artifact = save(tmp_path, labels=soft())
    what, how, then = repr(artifact).splitlines()
    assert what == "<Artifact: 6 images of 3 classes, 3 x 2 x 2, soft labels, by pull + turn from pets"
    assert "in artifact.loader(batch_size=64, seed=0): artifact.loss(network(images), targets)" in how
    assert then == "  no recipe is given; test images: artifact.normalisation.apply(pixels in [0, 1])>"
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    for images, targets in artifact.loader(batch_size=64, seed=0):
        artifact.loss(network(images), targets).backward()
    assert network[1].weight.grad.abs().sum() > 0


# ---- a folder that explains itself -----------------------------------------------------------------------------------


def test_the_manifest_says_what_is_there_and_has_a_checksum_of_every_other_file(tmp_path):
    save(tmp_path, labels=soft())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["schema"] == 1 and manifest["kind"] == "images" and manifest["classes"] == list(NAMES)
    assert manifest["shape"] == [3, 2, 2] and manifest["labels"]["kind"] == "soft"
    assert manifest["normalisation"] == MEAN_STD.header() and manifest["provenance"]["seed"] == 3
    written = {p.name: sha256_of(p.read_bytes()) for p in tmp_path.iterdir() if p.name != "manifest.json"}
    assert {name: file["sha256"] for name, file in manifest["files"].items()} == written
    assert set(written) == {*DATA_FILES, "preview.png", "README.md"}


def test_the_card_names_source_licence_method_use_and_gaps(tmp_path):
    save(tmp_path)
    text = (tmp_path / "README.md").read_text()
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert {k: json.loads(v) for k, _, v in (line.partition(": ") for line in head.splitlines())}["license"] == "cc0"
    for words in ("pets", "folder:pets", "CC0", "pull + turn", "tree frog", "Intended use", "frogs look like cats"):
        assert words in body
    with Image.open(tmp_path / "preview.png") as preview:
        preview.verify()


def test_a_card_that_somebody_edited_is_told_but_keeps_nobody_from_training(tmp_path):
    save(tmp_path)
    assert load_artifact(tmp_path).altered() == []
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "preview.png").unlink()
    assert load_artifact(tmp_path).altered() == ["preview.png", "README.md"]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.update(schema=3), "schema 3, and this ddcore reads schemas up to 2: pip install --upgrade"),
        (lambda m: m.pop("schema"), "no schema version"),
        (lambda m: m.update(kind="graphs"), "holds graphs, and this ddcore reads images"),
        (lambda m: m["labels"].update(kind="riddles", distribution="ddcore-riddles"), "pip install ddcore-riddles"),
        (lambda m: m["labels"].update(kind="riddles"), "kind 'riddles', which this ddcore does not read"),
        (
            lambda m: m.update(decoder=[{"op": "add", "distribution": "ddcore-elsewhere"}]),
            "pip install ddcore-elsewhere",
        ),
        (
            lambda m: m["files"].update({"../x": m["files"]["README.md"]}),
            "lists '../x', which is no file of its folder",
        ),
        (lambda m: m["files"].update({"/etc/x": {}}), "lists '/etc/x', which is no file of its folder"),
        (lambda m: m["files"].pop("images.safetensors"), "no checksum of images.safetensors"),
        (lambda m: m["files"]["labels.safetensors"].pop("sha256"), "no checksum of labels.safetensors"),
        (lambda m: m["classes"].pop(), "2 names for the 3 classes"),
        (lambda m: m.update(shape=[1, 2, 2]), r"samples of shape \(3, 2, 2\)"),
        (lambda m: m["bytes"].update(total=5), "bytes of the parts that are not those of the files"),
        (lambda m: m["normalisation"].update(std=[0.2]), "mean and std"),
        (lambda m: m["recipe"].update(learned_rate="fast"), "learned rate is no number"),
        (lambda m: m.pop("notes"), "its 'notes' is missing"),
    ],
)
def test_a_manifest_that_does_not_fit_gets_one_sentence(tmp_path, edit, words):
    save(tmp_path)
    change(tmp_path, edit)
    with pytest.raises(InputError, match=words) as raised:
        load_artifact(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", DATA_FILES)
def test_a_truncated_altered_or_missing_file_is_named(tmp_path, name):
    save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for damaged in (whole[:-1], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(InputError, match=f"{name} is altered or cut short"):
            load_artifact(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"nothing at .*{name}"):
        load_artifact(tmp_path)


def test_a_truncated_manifest_is_named(tmp_path):
    save(tmp_path)
    (tmp_path / "manifest.json").write_bytes((tmp_path / "manifest.json").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"manifest\.json is not valid JSON"):
        load_artifact(tmp_path)
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"manifest\.json"):
        load_artifact(tmp_path)


def test_a_place_without_an_artifact_is_told_from_a_run_that_has_one(tmp_path):
    with pytest.raises(InputError, match="nothing at"):
        load_artifact(tmp_path / "nowhere")
    save(tmp_path / "run" / "artifact")
    with pytest.raises(InputError, match=r"the run that made one: give .*run/artifact"):
        load_artifact(tmp_path / "run")


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"labels": HardLabels(CLASSES[:5], 3)}, "6 samples was given labels of 5"),
        ({"pixels": torch.full((6, 3, 2, 2), torch.nan)}, "'pixels' of the set has values that are not finite"),
        ({"pixels": torch.full((6, 3, 2, 2), 1e5), "storage_dtype": "float16"}, "not finite as float16: use float32"),
        ({"storage_dtype": "uint16"}, "no storage type is named 'uint16'"),
        ({"pixels": torch.zeros(6, 4), "storage_dtype": "uint8"}, "have 4 channels where this normalisation has 3"),
    ],
)
def test_what_cannot_be_an_artifact_is_not_written(tmp_path, contents, words):
    with pytest.raises(InputError, match=words):
        save(tmp_path / "set", **contents)
    assert not (tmp_path / "set").exists()


# ---- fuzz ------------------------------------------------------------------------------------------------------------


def read_everything(folder) -> None:
    artifact = load_artifact(folder)
    for batch, targets in artifact.loader(batch_size=4, seed=0):
        assert torch.isfinite(batch).all() and len(batch) == len(targets)
    json.dumps(inspect(artifact))
    assert describe(artifact) and torch.isfinite(artifact.pixels()).all()


def refused_or_read(folder) -> bool:
    try:
        read_everything(folder)
    except DdcoreError as error:
        assert str(error) and "\n" not in str(error)
        return True
    return False


@pytest.mark.parametrize("labels", [HardLabels(CLASSES, 3), soft()])
def test_whatever_byte_is_damaged_nobody_gets_a_traceback_or_wrong_data(tmp_path, labels):
    save(tmp_path / "whole", labels=labels, storage_dtype="uint8")
    draw = random.Random(0)
    for name in [p.name for p in (tmp_path / "whole").iterdir()]:
        content = (tmp_path / "whole" / name).read_bytes()
        refused = []
        for _ in range(12):
            at = draw.randrange(len(content))
            flipped = content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
            shutil.copytree(tmp_path / "whole", tmp_path / "one")
            (tmp_path / "one" / name).write_bytes(draw.choice([flipped, content[:at]]))
            refused.append(refused_or_read(tmp_path / "one"))
            shutil.rmtree(tmp_path / "one")
        assert all(refused) or name in ("manifest.json", "README.md", "preview.png")


VALUES = (None, True, -1, 0, 7, 10**12, 1e300, float("nan"), "", "x", "../x", [], [[]], ["a"], [0], {}, {"op": "rows"})


@pytest.mark.parametrize("labels", [HardLabels(CLASSES, 3), soft()])
def test_whatever_the_manifest_says_nobody_gets_a_traceback(tmp_path, labels):
    zca = ZCA(torch.zeros(12), torch.eye(12), torch.eye(12))
    draw = random.Random(1)
    refused = []
    for normalisation in (MEAN_STD, zca):
        save(tmp_path, labels=labels, normalisation=normalisation, storage_dtype="uint8")
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        for _ in range(150):
            (tmp_path / "manifest.json").write_text(json.dumps(mutated(manifest, draw, VALUES, 0.8, 0.3)))
            refused.append(refused_or_read(tmp_path))
    assert sum(refused) > 150
