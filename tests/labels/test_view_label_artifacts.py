"""Labels for views in an artifact: read with no plugin, delivered by the loader, exported, evaluated from the command line."""

import json
import random
from types import SimpleNamespace

import attrs
import pytest
import torch
from mutating import mutated
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ddcore import Plugin, randomness
from ddcore.cli.app import invoke
from ddcore.data.normalisation import MeanStd
from ddcore.errors import DdcoreError, InputError
from ddcore.images.views import changed
from ddcore.labels import KINDS, HardLabels, Labels, SoftLabels, draw_views, label_bytes, make_per_view, student_loss
from ddcore.labels.making import make_static_mixed, make_top_k, make_two_distances
from ddcore.scoring import evaluate
from ddcore.sets.artifact import Artifact, load_artifact, save_artifact
from ddcore.sets.exports import describe, export, inspect
from ddcore.training.protocols import protocol
from ddcore.training.students import augmentation

pytestmark = pytest.mark.usefixtures("probes")

N, K, E, B = 6, 3, 2, 4
CLASSES = torch.arange(K).repeat_interleave(2)
SMALL = ["--steps", "2", "--eval-seeds", "1", "--network", "convnet2-w8", "--preset", "none", "--threads", "1"]
AGAIN = ["--eval-seeds", "1", "--protocol", "quick-10", "--rows", "distilled"]
KIND_NAMES = ("per-view", "seeded", "pruned", "top-k", "two-distances", "static-mixed")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(channels: int = 3) -> Tensor:
    return torch.randn(N, channels, 4, 4, generator=seeded())


def teacher(pixels: int, classes: int) -> nn.Module:
    with randomness.drawing_from(seeded(1)):
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).eval()


def labels_of(kind: str, x: Tensor, classes: Tensor, count: int) -> Labels:
    mine = teacher(x[0].numel(), count)
    if kind == "static-mixed":
        return make_static_mixed(x, mine, classes=classes)
    given = (x, mine, draw_views(x, E, B, seeded(2)))
    if kind == "top-k":
        return make_top_k(*given, classes=classes, k=2).stored()
    if kind == "two-distances":
        return make_two_distances(*given, classes=classes)
    labels = make_per_view(*given, classes=classes)
    if kind == "seeded":
        return labels
    return labels.stored().pruned(0.5, seeded(3)) if kind == "pruned" else labels.stored()


def save(place, labels: Labels, x: Tensor | None = None, **changes) -> Artifact:
    contents = {
        "tensors": {"pixels": images() if x is None else x},
        "decoder": [{"op": "rows", "tensor": "pixels"}],
        "labels": labels,
        "classes": ("cat", "dog", "frog"),
        "normalisation": MeanStd((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
        "recipe": {"protocol": "quick", "learned_rate": None},
        "provenance": {"method": "pull", "seed": 3},
        "source": {"name": "pets", "licence": "CC0", "origin": "folder:pets"},
    }
    return save_artifact(place, **(contents | changes))


@pytest.fixture(params=KIND_NAMES)
def labels(request) -> Labels:
    return labels_of(request.param, images(), CLASSES, K)


def test_every_kind_is_read_again_with_no_plugin_and_costs_its_formula_plus_a_header(tmp_path, labels):
    save(tmp_path, labels)
    artifact = load_artifact(tmp_path)
    assert type(artifact.labels) is KINDS[labels.kind] and artifact.labels.recipe == labels.recipe
    packed = (tmp_path / "labels.safetensors").read_bytes()
    header = int.from_bytes(packed[:8], "little") + 8
    assert artifact.nbytes["labels"] == len(packed) == artifact.labels.payload_bytes + header
    for name, tensor in labels.tensors().items():
        assert torch.equal(artifact.labels.tensors()[name], tensor)


def test_two_saves_make_equal_files(tmp_path, labels):
    for name in "ab":
        save(tmp_path / name, labels)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_the_loader_gives_the_views_that_the_labels_were_made_for(tmp_path, labels):
    artifact = save(tmp_path, labels)
    got = list(artifact.loader(batch_size=B, seed=5, epochs=2))
    views = [v for e in range(2) for v in labels.views(e, N, B, randomness.generator(5, "order", e))]
    for (x, targets), view in zip(got, views, strict=True):
        assert torch.equal(x, changed(view, images()[view.index]))
        told = labels.targets(view, x)
        if "logits" in told:
            assert torch.equal(targets, (told["logits"] / labels.recipe["temperature"]).softmax(1))
            F.cross_entropy(torch.zeros(len(x), K), targets)
        else:
            assert {*targets} == {"class", "mixed", "lam", "distance"}
            assert all(torch.equal(targets[name], told[name]) for name in told)


@pytest.mark.parametrize("kind", [*KIND_NAMES, "hard", "soft", "soft-squared", "kl-squared", "half"])
def test_an_artifacts_loss_is_the_one_that_our_own_students_descend(tmp_path, kind):
    labels = other_labels(kind) if kind not in KIND_NAMES else labels_of(kind, images(), CLASSES, K)
    artifact = save(tmp_path, labels)
    outputs = 3 * torch.randn(N, K, generator=seeded(9))
    views = labels.views(0, N, B, randomness.generator(0, "order", 0))
    for (x, targets), view in zip(artifact.loader(batch_size=B), views, strict=True):
        own = student_loss(outputs[: len(x)], labels.targets(view, x), labels.recipe)
        assert torch.equal(artifact.loss(outputs[: len(x)], targets), own)
        halved = artifact.loss(outputs[: len(x)].half(), targets)
        torch.testing.assert_close(halved, own, rtol=2e-2, atol=2e-3)


def other_labels(kind: str) -> Labels:
    logits = 5 * torch.randn(N, K, generator=seeded(4))
    if kind == "hard":
        return HardLabels(CLASSES, K)
    if kind == "kl-squared":
        return attrs.evolve(labels_of("per-view", images(), CLASSES, K), temperature=4.0, tau_squared=True)
    squared = {"temperature": 3.0, "tau_squared": True} if kind == "soft-squared" else {}
    return SoftLabels(logits.half() if kind == "half" else logits, CLASSES, **squared)


def test_a_loss_of_other_targets_than_the_loaders_is_refused(tmp_path):
    softly, distances = save(tmp_path / "a", other_labels("soft")), labels_of("two-distances", images(), CLASSES, K)
    with pytest.raises(
        InputError, match=r"'soft-cross-entropy' of outputs \(6, 3\) was given targets int64.*loader gave"
    ):
        softly.loss(torch.zeros(N, K), CLASSES)
    with pytest.raises(InputError, match="'two-distances'.*give those that the loader gave"):
        save(tmp_path / "b", distances).loss(torch.zeros(N, K), torch.ones(N, K) / K)
    with pytest.raises(InputError, match=r"outputs have shape \(6, 4\) where \(batch, 3 classes\) is due"):
        softly.loss(torch.zeros(N, 4), CLASSES)


def test_single_items_are_refused_where_labels_say_nothing_of_them(tmp_path, labels):
    artifact = save(tmp_path, labels)
    if labels.kind == "static-mixed":
        ((x, targets),) = DataLoader(artifact, batch_size=N)
        assert torch.equal(x, images()) and torch.equal(targets, (labels.logits / 30).softmax(1))
        return
    with pytest.raises(InputError, match=f"{labels.kind} labels are of views of whole batches.*artifact.batches"):
        list(DataLoader(artifact, batch_size=N))


def test_labels_for_images_of_another_size_are_refused(tmp_path, labels):
    with pytest.raises(InputError, match=r"labels of views of \(4, 4\) where samples are \[3, 5, 5\]"):
        save(tmp_path, labels, torch.zeros(N, 3, 5, 5))


def test_inspect_describe_and_the_card_know_the_kind_and_its_bytes(tmp_path, labels):
    artifact = save(tmp_path, labels)
    facts = json.loads(json.dumps(inspect(artifact), allow_nan=False))
    assert facts["labels"]["kind"] == labels.kind
    assert facts["payload_bytes"] == N * 48 * 4 + labels.payload_bytes
    assert f"{labels.kind}, {labels.payload_bytes:,} bytes" in describe(artifact)
    assert f"{labels.kind} labels" in (tmp_path / "README.md").read_text()


def test_pt_holds_labels_whole_with_their_header(tmp_path, labels):
    content = torch.load(export(save(tmp_path / "set", labels), "pt", tmp_path / "out.pt").address, weights_only=True)
    header = json.loads(content["labels.header"])
    tensors = {
        n.removeprefix("labels."): t for n, t in content.items() if n.startswith("labels.") and n != "labels.header"
    }
    twin = KINDS[header["kind"]].load(header, tensors)
    assert twin.payload_bytes == labels.payload_bytes and twin.recipe == labels.recipe


@pytest.mark.parametrize("to", ["folder", "parquet"])
def test_other_exports_refuse_labels_of_views_or_leave_them_out_when_told_so(tmp_path, labels, to):
    artifact = save(tmp_path / "set", labels)
    if labels.kind == "static-mixed":
        export(artifact, to, tmp_path / "out")
        return
    with pytest.raises(
        InputError, match=f"{labels.kind} labels are of views.*--to pt.*or leave them out by --labels hard"
    ):
        export(artifact, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    out = export(artifact, to, tmp_path / "out", "hard")
    if to == "folder":
        facts = json.loads((tmp_path / "out" / "labels.json").read_text())
        assert [s["class"] for s in facts["samples"]] == CLASSES.tolist()
    else:
        import pyarrow.parquet

        facts = json.loads(pyarrow.parquet.read_table(out.address).schema.metadata[b"ddcore"])
    assert facts["recipe"]["labels"] == {"loss": "cross-entropy"} and facts["labels"]["kind"] == "hard"
    assert facts["left_out"][0].startswith(f"the {labels.kind} labels are left out")


# ---- fuzz ------------------------------------------------------------------------------------------------------------

VALUES = (
    None,
    True,
    -1,
    0,
    7,
    10**12,
    1e300,
    float("nan"),
    "",
    "x",
    [],
    [[]],
    ["a"],
    [0],
    [0, 0],
    {},
    {"kind": "drawn"},
)


def refused_or_read(folder) -> bool:
    try:
        artifact = load_artifact(folder)
        for x, targets in artifact.loader(batch_size=4, seed=0):
            told = list(targets.values()) if isinstance(targets, dict) else [targets]
            assert torch.isfinite(x).all() and all(len(t) == len(x) and torch.isfinite(t.float()).all() for t in told)
    except DdcoreError as error:
        assert str(error) and "\n" not in str(error)
        return True
    return False


def test_whatever_the_manifest_says_of_labels_nobody_gets_a_traceback(tmp_path, labels):
    save(tmp_path, labels)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    draw, refused = random.Random(1), []
    for _ in range(150):
        damaged = {**manifest, "labels": mutated(manifest["labels"], draw, VALUES, 0.85, 0.2)}
        (tmp_path / "manifest.json").write_text(json.dumps(damaged))
        refused.append(refused_or_read(tmp_path))
    assert sum(refused) > 40


def test_whatever_byte_is_damaged_the_file_is_refused(tmp_path, labels):
    save(tmp_path, labels)
    place, draw = tmp_path / "labels.safetensors", random.Random(0)
    content = place.read_bytes()
    for _ in range(20):
        at = draw.randrange(len(content))
        place.write_bytes(content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :])
        assert refused_or_read(tmp_path)


# ---- end to end ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory, probes):
    folder = tmp_path_factory.mktemp("run")
    short = ["--protocol", "quick-1", "--full-epochs", "1", *SMALL, "--out", str(folder / "mine")]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DDCORE_CACHE", str(folder / "cache"))
        assert invoke(["run", "--plugin", "pull", *short]) == 0
    return folder / "mine"


def relabelled(run, place, kind: str) -> Artifact:
    old = load_artifact(run / "artifact")
    held = {name: old.manifest[name] for name in ("decoder", "recipe", "provenance", "source", "notes")}
    labels = labels_of(kind, old.images(), old.labels.classes, len(old.classes))
    return save_artifact(
        place, tensors=old.tensors, labels=labels, classes=old.classes, normalisation=old.normalisation, **held
    )


@pytest.mark.parametrize("kind", ["per-view", "two-distances", "static-mixed"])
def test_evaluate_trains_students_on_the_labels_own_views(run, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))
    told, train = {}, evaluate.train_and_test

    def watched(own, course, data, generator, key, **more):
        told["-".join(key.split("-")[1:3])] = (data, result := train(own, course, data, generator, key, **more))
        return result

    monkeypatch.setattr(evaluate, "train_and_test", watched)
    artifact = relabelled(run, tmp_path / "set", kind)
    if kind == "per-view":
        assert artifact.labels.payload_bytes == label_bytes("per-view", 10, 10, E, B)
    assert invoke(["evaluate", str(tmp_path / "set"), *AGAIN, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    own, hard = ([r for r in rows if r["set"] == "distilled" and r["labels"] == name] for name in (kind, "hard"))
    assert len(own) == len(hard) == 1 and own[0]["bytes"]["labels"] == artifact.nbytes["labels"]
    assert "stand in for the protocol's augmentation" in own[0]["note"] and "stand in" not in hard[0]["note"]
    (soft, soft_result), (plain, plain_result) = told["distilled-soft"], told["distilled-hard"]
    assert (soft.labels.kind, plain.labels.kind) == (kind, "hard") and torch.equal(soft.images, plain.images)
    assert soft_result["loss"] != plain_result["loss"]


class Noise(Plugin):
    augment_phases = ("evaluate",)

    def ddcore_augment(self): ...


def test_a_plugin_that_changes_students_batches_is_refused_beside_labels_with_views():
    source = SimpleNamespace(mirror_symmetric=True)
    stand = SimpleNamespace(plugins={"noise": Noise()}, source=source, of_images=True)
    given = protocol("augmented"), stand, seeded, 1
    with pytest.raises(InputError, match="per-view labels were made for views that a plugin would change once more"):
        augmentation(*given, labels_of("per-view", images(), CLASSES, K))
    assert augmentation(*given, HardLabels(CLASSES, K)) is not None
    stand.plugins = {}
    assert augmentation(*given, labels_of("per-view", images(), CLASSES, K)) is None
