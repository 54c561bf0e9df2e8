"""Labels that a projector computes: low rank by hand, who gets a gradient, bytes, what is stored and what only named, refusals."""

import json
import subprocess
import sys
from types import SimpleNamespace

import attrs
import pytest
import torch
from ddcore_hello import HeLlO
from ddcore_hello.projector import (
    ProjectorLabels,
    adaptable,
    as_weight,
    factor_floats,
    fresh_factors,
    matrix_shape,
    merged,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore import Subject, load_artifact
from ddcore.data.normalisation import ZCA, MeanStd
from ddcore.errors import InputError
from ddcore.images.views import RESIZED, transform
from ddcore.labels import (
    Encoder,
    HardLabels,
    Prompts,
    Public,
    View,
    encoders,
    feature_tensors,
    label_parts,
    last_layer,
    student_loss,
)
from ddcore.labels.encoders import ClipTowers
from ddcore.networks.zoo import build
from ddcore.sets.artifact import save_artifact
from ddcore.storage.places import save_tensors
from ddcore.training.loop import Changes, Descent, train_student
from ddcore.training.protocols import auto_protocol, protocol

N, K, SIZE = 6, 3, 8
CLASSES = torch.arange(N) % K
NAME = "convnet2-bn-w8"
NAMES = ("cat", "dog", "tree frog")
OURS, THEIRS = MeanStd((0.5,), (0.25,)), MeanStd((0.4,), (0.2,))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def network(name: str = NAME, size: int = SIZE) -> nn.Module:
    """Frozen, with batch statistics and affine weights that are not those of an initialisation."""
    found = build(name, 1, size, K, seeded(1))
    assert found is not None
    for module in found.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data.copy_(noise(len(tensor), seed=2))
            module.running_var.copy_(noise(len(module.running_var), seed=3).exp())
    return found.eval().requires_grad_(False)


def labels(head: Tensor | None = None, trained: bool = True, ranks: int = 2, **more) -> ProjectorLabels:
    encoder = more.pop("encoder", None) or Encoder.of(NAME, network(), 1, SIZE)
    head = F.normalize(noise(K, 32, seed=4), dim=1) if head is None else head
    shapes = {**adaptable(encoder.built()), "head": tuple(head.shape)}
    factors = fresh_factors(shapes, dict.fromkeys(shapes, ranks), seeded(5))
    if trained:
        factors = {name: (noise(*a.shape, seed=6) / 4, b) for name, (a, b) in factors.items()}
    given = {"classes": CLASSES, "encoder": encoder, "head": head, "factors": factors, "scale": 7.0}
    return ProjectorLabels(**(given | more))


def images(count: int = N, size: int = SIZE) -> Tensor:
    return noise(count, 1, size, size, seed=9)


def zero_shot(shown: Tensor, head: Tensor) -> Tensor:
    """s cos(E(x), v) a pair at a time."""
    features = network().embed(shown)
    return torch.tensor([[7.0 * float(f @ v / f.norm()) for v in head] for f in features])


def save(place, made: ProjectorLabels):
    return save_artifact(
        place,
        tensors={"pixels": images()},
        decoder=[{"op": "rows", "tensor": "pixels"}],
        labels=made,
        classes=NAMES,
        normalisation=OURS,
        recipe={"protocol": "quick"},
        provenance={"method": "dm + hello"},
        source={"name": "pets", "fingerprint": "f" * 64},
    )


# ---- low rank --------------------------------------------------------------------------------------------------------


def test_a_kernel_is_a_matrix_of_rows_by_columns_of_the_kernel():
    shape = (2, 3, 4, 5)
    matrix = noise(*matrix_shape(shape))
    weight = as_weight(matrix, shape)
    for o, c, i, j in torch.cartesian_prod(*(torch.arange(n) for n in shape)).tolist():
        assert weight[o, c, i, j] == matrix[o * 4 + i, c * 5 + j]
    assert matrix_shape((7, 5)) == (7, 5)
    assert as_weight(matrix, (8, 15)) is matrix


def test_merging_adds_the_product():
    weight, a, b = noise(2, 3, 2, 2), noise(4, 2, seed=1), noise(2, 6, seed=2)
    due = weight.clone()
    for o, c, i, j in torch.cartesian_prod(*(torch.arange(n) for n in (2, 3, 2, 2))).tolist():
        due[o, c, i, j] += sum(a[o * 2 + i, r] * b[r, c * 2 + j] for r in range(2))
    torch.testing.assert_close(merged(weight, a, b), due)


def test_merging_is_differentiable_in_all_three():
    given = [t.double().requires_grad_() for t in (noise(2, 3, 2, 2), noise(4, 2, seed=1), noise(2, 6, seed=2))]
    assert torch.autograd.gradcheck(merged, given)


def test_factors_begin_with_a_product_of_zero_and_are_no_larger_than_their_matrix():
    made = fresh_factors(
        {"x": (4, 2, 3, 3), "head": (3, 32), "y": (4, 2, 3, 3)}, {"x": 2, "head": 64, "y": 0}, seeded()
    )
    assert {name: (tuple(a.shape), tuple(b.shape)) for name, (a, b) in made.items()} == {
        "x": ((12, 2), (2, 6)),
        "head": ((3, 3), (3, 32)),
    }
    assert all(not (a @ b).any() and b.any() for a, b in made.values())


def test_the_papers_ledger_for_imagenet():
    # published: 1.0 M the head alone, 1.5 M with factors of rank 8 of the encoder, 0.8 M when the head is of rank 128 instead
    convolutions = [(out, into, k, k) for out, into, k in clip_convolutions()]
    encoder, head = factor_floats(convolutions, 8), factor_floats([(1000, 1024)], 128)
    assert (encoder, head) == (517_704, 259_072)
    assert round((1000 * 1024 + encoder) / 1e6, 1) == 1.5
    assert round((encoder + head) / 1e6, 1) == 0.8
    for out_by, in_by in ((1, 9), (1, 1)):  # other readings of a 3 x 3 kernel fit at most one of the two
        other = 8 * sum((o + i) if k == 1 else out_by * o + in_by * i for o, i, k in clip_convolutions())
        rounded = round((1000 * 1024 + other) / 1e6, 1), round((other + head) / 1e6, 1)
        assert rounded != (1.5, 0.8)


# ---- what it answers -------------------------------------------------------------------------------------------------


def test_a_product_of_zero_is_zero_shot_and_so_is_rank_zero():
    made, shown = labels(trained=False), images()
    due = zero_shot(shown, made.head)
    torch.testing.assert_close(made.logits(shown), due)
    torch.testing.assert_close(attrs.evolve(made, factors={}).logits(shown), due)


def test_full_rank_on_the_head_alone_is_any_linear_probe():
    probe, start = noise(K, 32, seed=11), labels(trained=False)
    u, s, v = torch.linalg.svd(probe - start.head, full_matrices=False)
    made = attrs.evolve(start, factors={"head": (u * s, v)})
    features = F.normalize(network().embed(images()), dim=1)
    torch.testing.assert_close(made.logits(images()), 7 * features @ probe.T)


def test_answers_are_those_of_the_factors_that_were_trained():
    made = labels()
    training = made.projector(made.encoder.built())
    torch.testing.assert_close(made.logits(images()), training(images()))
    assert not torch.allclose(made.logits(images()), zero_shot(images(), made.head), atol=0.1)
    for name in made.factors:  # every pair of factors matters
        rest = {other: pair for other, pair in made.factors.items() if other != name}
        assert not torch.allclose(attrs.evolve(made, factors=rest).logits(images()), made.logits(images()), atol=1e-3)


def test_the_same_view_twice_has_the_same_label_whatever_stands_beside_it():
    made, shown = labels(), images(5)
    first = made.logits(shown)
    state = {name: t.clone() for name, t in made._built[(shown.device, shown.dtype)]._embedding[0].state_dict().items()}
    made.logits(images(40) * 3)
    assert torch.equal(made.logits(shown), first)
    torch.testing.assert_close(made.logits(shown[[3, 0]]), first[[3, 0]])
    for index in (torch.tensor([0, 1, 2, 3, 4]), torch.tensor([5, 5, 5, 5, 5])):  # no state of an image
        assert torch.equal(made.targets(View(index), shown)["logits"], first)
    now = made._built[(shown.device, shown.dtype)]._embedding[0].state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in state.items())


def test_without_factors_and_with_its_own_head_it_is_the_teacher():
    teacher = network()
    weight, bias = last_layer(teacher, 1, SIZE)
    made = labels(head=weight, bias=bias, factors={}, unit=False, scale=1.0)
    torch.testing.assert_close(made.logits(images()), teacher(images()))
    numbers = sum(t.numel() for name, t in teacher.state_dict().items() if not name.endswith("num_batches_tracked"))
    assert made.payload_bytes + made.model_bytes == 4 * numbers + N


def test_images_are_brought_to_the_encoders_normalisation_and_size():
    encoder = Encoder.of(NAME, network(size=16), 1, 16)
    made = labels(encoder=encoder, head=noise(K, 128), factors={}, scale=1.0, ours=OURS, theirs=THEIRS)
    pixels = images() * 0.25 + 0.5
    shown = F.interpolate((pixels - 0.4) / 0.2, (16, 16), mode="bilinear", align_corners=False, antialias=True)
    due = F.normalize(network(size=16).embed(shown), dim=1) @ made.head.T
    torch.testing.assert_close(made.logits(images()), due)


def test_torchvisions_networks_serve_as_encoders():
    encoder = build("torchvision:resnet18", 1, 32, K, seeded()).eval().requires_grad_(False)
    described = Encoder.of("torchvision:resnet18", encoder, 1, 32)
    assert not any(".fc." in name for name in described.weights)
    again, shown = described.built(), images(2, 32)
    torch.testing.assert_close(again.embed(shown), encoder.embed(shown))
    made = labels(encoder=described, head=noise(K, 512))
    training = made.projector(again)
    assert len(training.names) == 21
    torch.testing.assert_close(made.logits(shown), training(shown), rtol=1e-4, atol=1e-5)


def test_whatever_features_depend_on_is_kept_and_nothing_else_of_the_network_is_touched():
    encoder = build(NAME, 1, SIZE, K, seeded())
    encoder.get_parameter("classifier.bias").requires_grad_(False)
    before = {name: p.requires_grad for name, p in encoder.named_parameters()}
    kept = feature_tensors(encoder, 1, SIZE)
    assert {name.partition(".")[0] for name in kept} == {"features"}
    assert not any("num_batches" in name for name in kept)
    assert {name: p.requires_grad for name, p in encoder.named_parameters()} == before
    assert encoder.training
    assert all(int(m.num_batches_tracked) == 0 for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))


# ---- who gets a gradient ---------------------------------------------------------------------------------------------


def test_fitting_moves_the_factors_and_nothing_else():
    made = labels(trained=False)
    encoder = made.encoder.built()
    projector = made.projector(encoder).train()
    before = {name: t.clone() for name, t in encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(projector.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        projector(images()).square().mean().backward()
        optimizer.step()
    assert {name.partition(".")[0] for name, _ in projector.named_parameters()} == {"a", "b"}
    assert all(p.grad.abs().sum() > 0 for p in projector.parameters())
    assert all(p.grad is None for p in encoder.parameters())
    assert not encoder.training
    assert all(torch.equal(encoder.state_dict()[name], tensor) for name, tensor in before.items())
    assert torch.equal(projector.head, made.head)


def test_the_projectors_gradients_are_right():
    made = labels(ranks=1)
    projector = made.projector(made.encoder.built().double()).double()
    shown = images(2).double()

    def answer(*factors: Tensor) -> Tensor:
        names = [name for name, _ in projector.named_parameters()]
        return torch.func.functional_call(projector, dict(zip(names, factors, strict=True)), (shown,))

    assert torch.autograd.gradcheck(answer, tuple(p.detach().requires_grad_() for p in projector.parameters()))


def test_students_move_and_labels_stay():
    made, student = labels(), build("convnet2-w4", 1, SIZE, K, seeded(3))
    before = {name: t.clone() for name, t in {**made.tensors(), **made.models()}.items()}
    old = student.classifier.weight.detach().clone()
    train_student(student, images(), made, Descent(steps=3, batch=4, rate=0.1), generator=lambda *key: seeded())
    assert not torch.equal(student.classifier.weight, old)
    assert all(torch.equal({**made.tensors(), **made.models()}[name], t) for name, t in before.items())


def test_students_are_told_what_the_projector_says_to_what_they_see():
    made, seen = labels(), []

    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(K))

        def forward(self, shown: Tensor) -> Tensor:
            seen.append(shown.detach().clone())
            return self.weight.expand(len(shown), K)

    told = []

    def reshape(value, output, network, batch, clean, step):
        told.append(batch)
        return value

    draw = lambda count, step: transform(RESIZED, count, (SIZE, SIZE), seeded(step))  # noqa: E731
    descent = Descent(steps=2, batch=N, rate=0.1)
    train_student(
        Student(),
        images(),
        made,
        descent,
        generator=lambda *k: seeded(),
        changes=Changes(augment=draw, reshape=reshape),
    )
    for batch in told:
        assert not torch.equal(batch.inputs, images()[batch.index])
        assert torch.equal(batch.targets["logits"], made.logits(batch.inputs))
        assert {"class", "mixed", "lam"} <= batch.targets.keys()
    assert torch.equal(torch.cat(seen), torch.cat([batch.inputs for batch in told]))


def test_hard_labels_are_cheaper_to_ask_and_say_the_same_as_before():
    hard = HardLabels(CLASSES, K)
    assert not hard.online and hard.models() == {} and hard.model_bytes == 0
    batch = SimpleNamespace()
    assert hard.answered(batch) is batch


# ---- the student's loss ----------------------------------------------------------------------------------------------


def test_the_loss_by_hand():
    # gaps (1, 2) and (0, 2): means 5/2 and 2, mean 9/4; cross entropies of equal logits: log 2
    told = {"logits": torch.tensor([[1.0, 2.0], [0.0, -2.0]]), "class": torch.tensor([0, 1])}
    loss = student_loss(torch.zeros(2, 2), told, {"loss": "mse", "hard": 0.5})
    torch.testing.assert_close(loss, torch.tensor(9 / 4 + 0.5 * 0.6931471805599453))


def test_the_hard_part_follows_the_mix_and_is_left_out_at_weight_zero():
    f = noise(2, K)
    told = {
        "logits": f,
        "class": torch.tensor([0, 1]),
        "mixed": torch.tensor([2, 0]),
        "lam": torch.tensor([0.75, 0.25]),
    }
    due = sum(
        lam * F.cross_entropy(f[i : i + 1], torch.tensor([own]))
        + (1 - lam) * F.cross_entropy(f[i : i + 1], torch.tensor([other]))
        for i, (own, other, lam) in enumerate(((0, 2, 0.75), (1, 0, 0.25)))
    )
    torch.testing.assert_close(student_loss(f, told, {"loss": "mse", "hard": 2.0}), due)
    assert student_loss(f, told, {"loss": "mse", "hard": 0.0}) == 0


def test_kl_is_the_loss_of_stored_labels_of_views():
    made, f = labels(loss="kl", temperature=4.0), noise(N, K)
    told = made.targets(View(torch.arange(N)), images())
    due = F.kl_div((f / 4).log_softmax(1), (told["logits"] / 4).softmax(1), reduction="batchmean")
    torch.testing.assert_close(student_loss(f, told, made.recipe), due)
    assert labels(hard=0.3).recipe == {"loss": "mse", "hard": 0.3, "temperature": 1.0}


def test_the_losss_gradient_is_right():
    f, told = noise(3, K).double().requires_grad_(), {"logits": noise(3, K, seed=1).double(), "class": CLASSES[:3]}
    assert torch.autograd.gradcheck(lambda x: student_loss(x, told, {"loss": "mse", "hard": 0.3}), f)


# ---- bytes and storage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_bytes_follow_the_formula_and_do_not_hang_on_images_or_epochs(tmp_path, dtype):
    made = labels()
    made = attrs.evolve(made, factors={name: (a.to(dtype), b.to(dtype)) for name, (a, b) in made.factors.items()})
    convolutions = list(adaptable(network()).values())
    numbers = factor_floats([*convolutions, (K, 32)], 2)
    assert numbers == 2 * (8 * 3 + 1 * 3) + 2 * (8 * 3 + 8 * 3) + 2 * (K + 32)
    assert made.factor_bytes == numbers * dtype.itemsize
    many = attrs.evolve(made, classes=torch.arange(100 * K) % K)
    assert many.factor_bytes == made.factor_bytes and many.model_bytes == made.model_bytes
    assert many.payload_bytes - made.payload_bytes == 100 * K - N  # the class of each image
    head = made.head.numel() * 4
    assert made.payload_bytes == N + numbers * dtype.itemsize + head
    artifact = save(tmp_path, made)
    for part, payload in (("labels", made.payload_bytes), ("models", made.model_bytes)):
        assert 0 < artifact.nbytes[part] - payload < 2000  # the containers' headers
    assert artifact.nbytes["models"] == (tmp_path / "models.safetensors").stat().st_size
    assert artifact.nbytes["total"] == sum(artifact.nbytes[part] for part in ("images", "labels", "models"))


@pytest.mark.parametrize("loss", [{}, {"loss": "kl", "temperature": 3.0}])
def test_a_loaded_artifact_answers_with_the_same_bits(tmp_path, loss):
    made = labels(bias=noise(K), ours=OURS, theirs=THEIRS, unit=False, hard=0.25, **loss)
    save(tmp_path, made)
    loaded = load_artifact(tmp_path).labels
    assert torch.equal(loaded.logits(images()), made.logits(images()))
    assert loaded.recipe == made.recipe and torch.equal(loaded.classes, CLASSES)
    assert {n: t.dtype for n, t in loaded.tensors().items()} == {n: t.dtype for n, t in made.tensors().items()}


@pytest.mark.parametrize("loss", [{}, {"loss": "kl", "temperature": 3.0}])
def test_a_loader_gives_what_the_projectors_loss_needs(tmp_path, loss):
    made = labels(**loss)
    artifact = save(tmp_path, made)
    for shown, told in artifact.loader(batch_size=4):
        own, outputs = made.logits(shown), noise(len(shown), K)
        due = {"logits": own, "class": told["class"]} if not loss else {"logits": own}
        if loss:
            torch.testing.assert_close(told, (own / 3.0).softmax(1))
        else:
            torch.testing.assert_close(told["logits"], own)
        torch.testing.assert_close(artifact.loss(outputs, told), student_loss(outputs, due, made.recipe))


def test_it_loads_and_trains_where_its_plugin_is_installed_and_not_selected(tmp_path):
    save(tmp_path, labels())
    code = (
        "import sys, torch\n"
        "from ddcore import load_artifact\nfrom ddcore.training.loop import Descent, train_student\n"
        "from ddcore.networks.zoo import build\n"
        f"a = load_artifact({str(tmp_path)!r})\n"
        "g = lambda *k: torch.Generator().manual_seed(0)\n"
        "net = build('convnet2-w4', 1, 8, 3, g())\n"
        "train_student(net, a.images(), a.labels, Descent(steps=2, batch=4, rate=0.1), generator=g)\n"
        "print(a.labels.kind, a.labels.distribution)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["projector", "ddcore-hello"], done.stderr


def test_where_its_plugin_is_not_installed_one_sentence_says_which_it_is(tmp_path, monkeypatch):
    save(tmp_path, labels())
    monkeypatch.setattr("ddcore.sets.brought.metadata.entry_points", lambda **_: ())
    with pytest.raises(InputError, match="kind 'projector', which ddcore-hello reads: pip install ddcore-hello"):
        load_artifact(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["labels"]["distribution"]  # as sets of before 0.2 have it
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="upgrade ddcore-torch, or install the plugin that made them"):
        load_artifact(tmp_path)


def test_relabelling_by_hand_leaves_no_models_behind(tmp_path):
    save(tmp_path, labels())
    save(tmp_path, HardLabels(CLASSES, K))
    assert not (tmp_path / "models.safetensors").exists()
    assert load_artifact(tmp_path).nbytes["models"] == 0


# ---- refusals --------------------------------------------------------------------------------------------------------


def rewritten(folder, name: str, edit) -> None:
    """A damaged file whose checksum was made to fit, as a careless tool would leave it."""
    from ddcore.storage.places import Place, load_tensors, sha256_of

    tensors = load_tensors(Place.at(folder / name))
    edit(tensors)
    save_tensors(Place.at(folder / name), tensors)
    manifest = json.loads((folder / "manifest.json").read_text())
    content = (folder / name).read_bytes()
    part = name.partition(".")[0]
    manifest["bytes"]["total"] += len(content) - manifest["bytes"][part]
    manifest["bytes"][part] = len(content)
    manifest["files"][name] = {"bytes": len(content), "sha256": sha256_of(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


FIRST = "features.0.weight"


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        (
            "labels.safetensors",
            lambda t: t.update({f"a.{FIRST}": t[f"a.{FIRST}"][:-1]}),
            r"shapes \(23, 2\) and \(2, 3\)",
        ),
        (
            "labels.safetensors",
            lambda t: t.update({f"b.{FIRST}": t[f"b.{FIRST}"][:1]}),
            r"shapes \(24, 2\) and \(1, 3\)",
        ),
        ("labels.safetensors", lambda t: t.pop(f"b.{FIRST}"), f"lack their tensor 'b.{FIRST}'"),
        ("labels.safetensors", lambda t: t.update({"a.x": t["a.head"], "b.x": t["b.head"]}), "factors of 'x', which"),
        ("labels.safetensors", lambda t: t["a.head"].fill_(torch.nan), "'a.head' has values that are no finite"),
        ("labels.safetensors", lambda t: t.pop("head"), "lack their tensor 'head'"),
        ("labels.safetensors", lambda t: t.update(head=t["head"][:, :5]), "factors of 'head' of shapes"),
        ("models.safetensors", lambda t: t.pop(f"encoder.{FIRST}"), f"factors of '{FIRST}', which"),
        ("models.safetensors", lambda t: t.pop("encoder.features.1.running_mean"), "lack 'features.1.running_mean'"),
        ("models.safetensors", lambda t: t["encoder.features.1.bias"].fill_(torch.inf), "no finite real"),
    ],
)
def test_corrupt_factors_and_encoders_are_refused_in_one_sentence(tmp_path, name, edit, words):
    save(tmp_path, labels())
    rewritten(tmp_path, name, edit)
    with pytest.raises(InputError, match=words) as raised:
        load_artifact(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["labels.safetensors", "models.safetensors"])
def test_altered_bytes_are_found_by_their_checksum(tmp_path, name):
    save(tmp_path, labels())
    content = bytearray((tmp_path / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is altered or cut short"):
        load_artifact(tmp_path)


def test_another_architecture_than_the_weights_is_refused(tmp_path):
    save(tmp_path, labels())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["labels"]["encoder"]["network"] = "convnet2-bn-w16"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"shape \(8, 1, 3, 3\) where \(16, 1, 3, 3\) is due"):
        load_artifact(tmp_path)


def test_what_does_not_fit_together_is_refused():
    made = labels()
    with pytest.raises(InputError, match="whitened"):
        eye = torch.eye(64)
        attrs.evolve(made, ours=ZCA(torch.zeros(64), eye, eye), theirs=THEIRS)
    with pytest.raises(InputError, match="either its weights or the name"):
        Encoder(NAME, 1, SIZE)
    with pytest.raises(InputError, match="bias of a projector"):
        attrs.evolve(made, bias=torch.zeros(K + 1))
    with pytest.raises(InputError, match="head of a projector"):
        attrs.evolve(made, head=torch.zeros(K))
    with pytest.raises(InputError, match="no network is named"):
        Encoder("convnex2", 1, SIZE, {"x": torch.zeros(1)}).built()
    with pytest.raises(InputError, match="class 2 where there are 2"):
        attrs.evolve(made, head=made.head[:2], factors={})
    with pytest.raises(InputError, match="no single last linear layer"):
        two = network()
        two.more = nn.Linear(2, 2)
        last_layer(two, 1, SIZE)


# ---- public weights --------------------------------------------------------------------------------------------------


@pytest.fixture
def public(tmp_path, monkeypatch) -> Public:
    from ddcore.storage.places import Place

    folder = tmp_path / "weights"
    folder.mkdir()
    save_tensors(Place.at(folder / "tower.safetensors"), network().state_dict())
    monkeypatch.setenv("DDCORE_WEIGHTS", str(folder))
    return Public.at(str(folder / "tower.safetensors"))


def test_public_weights_are_named_and_not_stored(tmp_path, public):
    made = labels(encoder=Encoder(NAME, 1, SIZE, public=public))
    torch.testing.assert_close(made.logits(images()), labels().logits(images()))
    artifact = save(tmp_path / "set", made)
    assert artifact.nbytes["models"] == 0 and not (tmp_path / "set" / "models.safetensors").exists()
    told = artifact.manifest["labels"]["encoder"]["public"]
    assert told == {"name": "tower.safetensors", "sha256": public.sha256, "nbytes": public.nbytes, "url": ""}
    assert public.nbytes == (tmp_path / "weights" / "tower.safetensors").stat().st_size
    assert str(tmp_path) not in json.dumps(artifact.manifest["labels"])
    assert torch.equal(load_artifact(tmp_path / "set").labels.logits(images()), made.logits(images()))


def test_without_public_weights_the_images_load_and_labels_say_what_is_missing(tmp_path, public, monkeypatch):
    save(tmp_path / "set", labels(encoder=Encoder(NAME, 1, SIZE, public=public)))
    monkeypatch.delenv("DDCORE_WEIGHTS")
    artifact = load_artifact(tmp_path / "set")
    assert torch.equal(artifact.images(), images())
    with pytest.raises(InputError, match=r"public weights that are not here \(tower.safetensors.*DDCORE_WEIGHTS"):
        artifact.labels.logits(images())


def test_other_public_weights_of_that_name_are_refused(tmp_path, public):
    made = attrs.evolve(labels(), encoder=Encoder(NAME, 1, SIZE, public=attrs.evolve(public, sha256="0" * 64)))
    with pytest.raises(InputError, match="another SHA-256"):
        made.logits(images())


def test_a_public_address_is_kept_and_asked(public, tmp_path, monkeypatch):
    content = (tmp_path / "weights" / "tower.safetensors").read_bytes()
    asked = []
    monkeypatch.setattr(encoders, "fetched", lambda url, *, most, trust: asked.append((url, most, trust)) or content)
    monkeypatch.delenv("DDCORE_WEIGHTS")
    url = "https://example.org/tower.safetensors"
    made = labels(encoder=Encoder(NAME, 1, SIZE, public=attrs.evolve(public, url=url)))
    torch.testing.assert_close(made.logits(images()), labels().logits(images()))
    assert set(asked) == {(url, public.nbytes, False)}


def test_an_address_of_another_protocol_is_followed_for_who_trusts_it(public, tmp_path, monkeypatch):
    import fsspec

    content = (tmp_path / "weights" / "tower.safetensors").read_bytes()
    fsspec.filesystem("memory").pipe("/public/tower.safetensors", content)
    monkeypatch.delenv("DDCORE_WEIGHTS")
    found = Public.at("memory://public/tower.safetensors")
    assert (found.url, found.sha256) == ("memory://public/tower.safetensors", public.sha256)
    with pytest.raises(InputError, match="no public address"):
        found.state()
    assert set(found.state(trust=True)) == set(network().state_dict())


# ---- CLIP, with a stand-in for the package ---------------------------------------------------------------------------


class TinyClip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.words = nn.Embedding(50, 4)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.words(tokens).sum(1)


@pytest.fixture
def clip(monkeypatch, tmp_path) -> Public:
    from ddcore.storage.places import Place

    stand_in = SimpleNamespace(
        list_models=lambda: ["RN50"],
        create_model=lambda name, pretrained: TinyClip(),
        get_tokenizer=lambda name: lambda texts: torch.tensor([[len(t), ord(t[13]) % 50] for t in texts]),
    )
    monkeypatch.setitem(sys.modules, "open_clip", stand_in)
    torch.manual_seed(0)
    save_tensors(Place.at(tmp_path / "clip.safetensors"), TinyClip().state_dict())
    monkeypatch.setenv("DDCORE_WEIGHTS", str(tmp_path))
    return Public.at(str(tmp_path / "clip.safetensors"))


def of_clip(clip: Public, **more) -> ProjectorLabels:
    encoder = Encoder("open_clip:RN50", 3, 16, public=clip)
    return ProjectorLabels(classes=CLASSES, encoder=encoder, head=Prompts(NAMES), scale=5.0, **more)


def test_class_names_make_the_head_again_so_that_it_costs_nothing(clip):
    made, shown = of_clip(clip), noise(2, 3, 16, 16)
    towers = made.encoder.built()
    assert isinstance(towers, ClipTowers)
    head = towers.text(["a photo of a cat.", "a photo of a dog.", "a photo of a tree frog."])
    torch.testing.assert_close(head.norm(dim=1), torch.ones(K))
    torch.testing.assert_close(made.logits(shown), 5 * F.normalize(towers.embed(shown), dim=1) @ head.T)
    assert set(made.tensors()) == {"class"} and made.models() == {}
    again = ProjectorLabels.load(made.header(), made.tensors())
    assert torch.equal(again.logits(shown), made.logits(shown))


def test_factors_adapt_the_tower_and_the_sentences(clip):
    start = of_clip(clip)
    shapes = {**adaptable(start.encoder.built()), "head": (K, 4)}
    assert list(shapes) == ["visual.0.weight", "head"]
    factors = {n: (a + 0.1, b) for n, (a, b) in fresh_factors(shapes, dict.fromkeys(shapes, 2), seeded()).items()}
    made, shown = attrs.evolve(start, factors=factors), noise(2, 3, 16, 16)
    torch.testing.assert_close(made.logits(shown), made.projector(made.encoder.built())(shown))
    assert not torch.allclose(made.logits(shown), start.logits(shown), atol=1e-3)


def test_without_open_clip_one_sentence_says_what_to_install(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match=r"pip install 'ddcore-hello\[clip\]'"):
        of_clip(clip).logits(noise(1, 3, 16, 16))


def test_other_models_and_other_weights_of_clip_are_refused(clip, public):
    with pytest.raises(InputError, match="no model named 'RN5'"):
        Encoder("open_clip:RN5", 3, 16, public=clip).built()
    with pytest.raises(InputError, match="holds no weights of open_clip:RN50"):
        Encoder("open_clip:RN50", 3, 16, public=public).built()
    with pytest.raises(InputError, match="give their file"):
        Encoder("open_clip:RN50", 3, 16, {"x": torch.zeros(1)}).built()
    with pytest.raises(InputError, match="only encoders of CLIP know sentences"):
        attrs.evolve(labels(), head=Prompts(NAMES), factors={}).logits(images())


# ---- the recipe ------------------------------------------------------------------------------------------------------


RDED = {"batch": 100, "stretch": 2.0, "optimizer": "adamw", "rate": 1e-3, "epochs": 300}


@pytest.mark.parametrize(
    ("size", "due"), [(8, "hello-small"), (32, "hello-small"), (64, "hello-small"), (224, "hello")]
)
def test_the_students_recipe_is_rdeds(size, due):
    assert auto_protocol(Subject("images", size, "projector"), [HeLlO()]) == due
    assert HeLlO().suggests_protocol(Subject("images", size, "soft")) is None
    found = protocol(due).as_json()
    assert found.items() >= RDED.items()
    assert found["views"]["shuffle"] == (2 if due == "hello" else 1)


# ---- the paper's sizes -----------------------------------------------------------------------------------------------


def clip_convolutions():
    """(out, in, kernel) of the convolutions of CLIP's RN50 image encoder, in order."""
    yield from ((32, 3, 3), (32, 32, 3), (64, 32, 3))
    into = 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            yield from ((planes, into, 1), (planes, planes, 3), (4 * planes, planes, 1))
            if block == 0:
                yield 4 * planes, into, 1
            into = 4 * planes


def imagenet_bytes() -> int:
    """Of float16 factors for ImageNet-1K: rank 8 on every convolution of CLIP's RN50, rank 128 on the head of 1,024 x 1,000."""
    shapes = [(out, into, kernel, kernel) for out, into, kernel in clip_convolutions()]
    return 2 * (factor_floats(shapes, 8) + factor_floats([(1000, 1024)], 128))


def test_bytes_of_imagenet_labels():
    assert round(imagenet_bytes() / 2e6, 1) == 0.8
    assert round(imagenet_bytes() / 2**30, 4) == 0.0014 and round(2 * imagenet_bytes() / 2**30, 3) == 0.003


@pytest.mark.parametrize(("ipc", "percent"), [(1, 0.27), (10, 0.027), (50, 0.0053), (200, 0.0013)])
def test_share_of_what_full_labels_take(ipc, percent):
    full = label_parts("per-view", 1000 * ipc, 1000, 300, 1024)["answers"]
    assert 100 * imagenet_bytes() / full == pytest.approx(percent, rel=0.05)
