"""INFER as users run it: slots and networks as tasks, what is stored and what it costs, labels, jobs, refusals."""

import subprocess
import sys

import pytest
import torch
from ddcore_infer import base_count, decoded_count, matching_loss, stored_bytes, stored_count
from torch.nn import functional as F

from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.kit.contract import check_plugin
from ddcore.kit.contract.stage import distilled, staged
from ddcore.labels import StaticMixedLabels, label_bytes
from ddcore.networks.batch_statistics import capture
from ddcore.networks.passes import logits
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.loop import begin, outer_step
from ddcore.runs.opening import open_run
from ddcore.runs.run import Run
from ddcore.sets.artifact import load_artifact
from ddcore.storage.places import Place

NETWORKS = ("convnet2-bn-w8", "convnet2-bn-w4")
QUICK = {
    "threads": 1,
    "dataset": "digits",
    "ipc": 3,
    "network": "convnet2-bn-w8",
    "teachers__epochs": 6,
    "steps": 4,
}
SLOTS, CLASSES, PIXELS = 2, 10, 64


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def opened(cache, place, *words, **given):
    selection = select(["--plugin", "infer", *words, "--preset", "none"], {})
    given = {**QUICK, "teachers__networks": NETWORKS, "cache": cache, **given}
    return Run(setup_from(selection, given, {}), Place.at(place))


def command(cache, out, *words, networks=NETWORKS):
    flags = [f"--{name.replace('__', '.')}={value}" for name, value in QUICK.items()]
    flags += [f"--teachers.networks={name}" for name in networks]
    quick = ["--protocol=infer-3", "--eval-seeds=1", "--full-epochs=1", "--preset=none", f"--cache={cache}"]
    return ["run", "--plugin=infer", *flags, *quick, f"--out={out}", *words]


def artifact_of(cache, out, *words):
    assert invoke(command(cache, out, *words)) == 0
    return load_artifact(out / "artifact")


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    return artifact_of(cache, out), out


def test_the_contract_is_kept():
    check_plugin("infer")


# ---- tasks and what they start from ----------------------------------------------------------------------------------


def test_each_slot_and_network_is_a_task(cache, tmp_path):
    tasks = distillation_tasks(opened(cache, tmp_path))
    assert [(t.slot, t.options["network"]) for t in tasks] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len({t.key for t in tasks}) == 4


def test_tasks_of_a_slot_share_bases_and_slots_do_not(cache, tmp_path):
    run = opened(cache, tmp_path)
    bases = [begin(task, run).fixed["bases"] for task in distillation_tasks(run)]
    assert torch.equal(bases[0], bases[1])
    assert torch.equal(bases[2], bases[3])
    assert not any(torch.equal(*pair) for pair in zip(bases[0], bases[2], strict=True))


@pytest.mark.parametrize("initializer", ["real", "kcenter"])
def test_all_bases_of_a_class_are_different_real_images_of_it(initializer, cache, tmp_path):
    run = opened(cache, tmp_path, init=initializer, ipc=12)
    bases = run.matcher.bases(run)
    assert bases.shape[:2] == (10, 10)
    for cls, images in enumerate(bases):
        real = run.real.train.inputs(run.real.train.of_class(cls))
        assert all((real == image).flatten(1).all(1).any() for image in images)
        assert len(images.flatten(1).unique(dim=0)) == len(images)


def test_each_compensator_is_of_its_own_network_and_all_classes_are_one_batch(cache, tmp_path):
    run = opened(cache, tmp_path, infer__roll=0, dtype="float64")
    for task in distillation_tasks(run):
        learn = begin(task, run)
        network = run.teachers.network(task.options["network"])
        due = matching_loss(network, learn.fixed["bases"], torch.arange(10), bn=1.0)
        assert learn.tensors["compensator"].shape == (1, 1, 8, 8)
        assert outer_step(task, 0, learn, run) == pytest.approx(float(due), rel=1e-12)


def test_the_first_step_follows_the_sum_of_the_images_gradients(cache, tmp_path):
    run = opened(cache, tmp_path, dtype="float64")
    task = distillation_tasks(run)[0]
    learn = begin(task, run)
    images = learn.fixed["bases"].clone().requires_grad_()
    batch = run.matcher.viewed(images, learn.fixed["classes"], task, 0, run)
    matching_loss(learn.fixed["vote"].network, batch.inputs, batch.targets["class"], bn=1.0).backward()
    outer_step(task, 0, learn, run)
    moved = learn.tensors["compensator"].detach()[0]
    gradient = images.grad.sum(0)
    torch.testing.assert_close(moved, -0.25 * gradient / (gradient.abs() + 1e-8), rtol=1e-9, atol=1e-12)


def test_bases_and_networks_stay_as_they_are(cache, tmp_path):
    run = opened(cache, tmp_path)
    task = distillation_tasks(run)[0]
    learn = begin(task, run)
    network, bases = learn.fixed["vote"].network, learn.fixed["bases"].clone()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    for step in range(3):
        outer_step(task, step, learn, run)
    assert torch.equal(learn.fixed["bases"], bases)
    assert not network.training
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_the_learning_rate_of_each_step_is_the_cosines(cache, tmp_path):
    run = opened(cache, tmp_path, infer__rate=0.5)
    task = distillation_tasks(run)[0]
    learn = begin(task, run)
    seen = []
    for step in range(task.steps):
        outer_step(task, step, learn, run)
        seen.append(learn.optimizers["compensator"].param_groups[0]["lr"])
    assert seen == pytest.approx([0.5, 0.5 * (1 + 0.5**0.5) / 2, 0.25, 0.5 * (1 - 0.5**0.5) / 2])
    assert learn.optimizers["compensator"].defaults["betas"] == (0.5, 0.9)


def test_the_compensator_is_never_bounded_and_only_what_is_decoded_is_clamped(cache, tmp_path):
    artifact = artifact_of(cache, tmp_path / "run", "--infer.rate=20")
    least, most = artifact.tensors["least"], artifact.tensors["most"]
    assert float(artifact.tensors["compensators"].abs().max()) > float(most - least)
    images = artifact.images()
    assert float(images.min()) >= float(least)
    assert float(images.max()) <= float(most)
    assert float(artifact.pixels().min()) >= 0
    assert float(artifact.pixels().max()) <= 1


def test_the_loss_falls_and_the_network_knows_the_sums_better_than_the_bases(cache, tmp_path):
    run = opened(cache, tmp_path, steps=60, infer__roll=0, infer__rate=0.05, infer__bn=0.1)
    task = distillation_tasks(run)[0]
    learn = begin(task, run)
    losses = [outer_step(task, step, learn, run) for step in range(task.steps)]
    assert losses[-1] < 0.8 * losses[0]
    bases, network = learn.fixed["bases"], learn.fixed["vote"].network
    entropies = [
        float(F.cross_entropy(logits(network, images), torch.arange(10)))
        for images in (bases, bases + learn.tensors["compensator"].detach())
    ]
    assert entropies[1] < entropies[0]


def test_a_skipped_layer_leaves_the_loss_of_an_efficientnet_only(cache, tmp_path):
    run = opened(cache, tmp_path, infer__skip_efficientnet=True, infer__roll=0, dtype="float64")
    task = distillation_tasks(run)[0]
    learn = begin(task, run)
    vote, bases = learn.fixed["vote"], learn.fixed["bases"]
    with capture(vote.network) as layers:
        vote.network(bases)
    learn.fixed["vote"] = type(vote)(vote.network, 1.0, "torchvision:efficientnet_b0")
    less = outer_step(task, 0, learn, run)
    whole = outer_step(task, 0, begin(task, run), run)
    assert whole - less == pytest.approx(float(sum(layers[1].gaps())), rel=1e-9)


# ---- what is stored --------------------------------------------------------------------------------------------------


def test_what_is_stored_fits_the_budget_and_its_bytes_are_the_formulas(finished):
    artifact, _ = finished
    assert base_count(3, CLASSES, len(NETWORKS)) == SLOTS
    stored = len(artifact.tensors["bases"]) + len(artifact.tensors["compensators"])
    assert stored == stored_count(SLOTS, CLASSES, 2) == 24 <= 30
    assert len(artifact) == decoded_count(SLOTS, CLASSES, 2) == 60
    due = stored_bytes(SLOTS, CLASSES, 2, (1, 8, 8), base=1)  # real digits are levels of a byte
    images = sum(t.numel() * t.element_size() for t in artifact.tensors.values())
    assert images == due
    assert artifact.payload_bytes == due + label_bytes("static-mixed", 60, 10)
    assert artifact.payload_bytes <= artifact.nbytes["total"] <= artifact.payload_bytes + 2000


def test_half_precision_halves_the_images(cache, tmp_path):
    artifact = artifact_of(cache, tmp_path / "run", "--storage-dtype=float16")
    images = sum(t.numel() * t.element_size() for t in artifact.tensors.values())
    assert images == stored_bytes(SLOTS, CLASSES, 2, (1, 8, 8), 2, base=1)


def test_levels_take_a_byte_a_number_and_keep_images_within_a_level(cache, tmp_path, finished):
    artifact, whole = artifact_of(cache, tmp_path / "run", "--storage-dtype=uint8"), finished[0]
    images = sum(t.numel() * t.element_size() for t in artifact.tensors.values())
    assert images == stored_bytes(SLOTS, CLASSES, 2, (1, 8, 8), 1, base=1)
    levels = max(float(scale.max()) for name, scale in artifact.tensors.items() if name.endswith(".scale"))
    assert float((artifact.images() - whole.images()).abs().max()) <= 1.01 * levels


def test_bases_stand_beside_their_sums_class_by_class_untouched(finished):
    artifact, out = finished
    run = open_run(str(out))
    images, classes = artifact.images(), artifact.labels.classes
    assert classes.tolist() == sorted([*range(10)] * 6)
    bases = run.matcher.bases(run).flatten(0, 1)
    assert torch.equal(images[::3], bases)
    least, most = artifact.tensors["least"], artifact.tensors["most"]
    for at, (base, row) in enumerate(zip(bases, images.view(-1, 3, 1, 8, 8), strict=True)):
        for number in range(2):
            added = artifact.tensors["compensators"][at % SLOTS * 2 + number]
            assert torch.equal(row[1 + number], torch.minimum(torch.maximum(base + added, least), most))


def test_the_stored_compensators_are_those_after_the_last_step(finished):
    artifact, out = finished
    run = open_run(str(out))
    results = [run.checkpoints.result(task.key)["compensator"] for task in distillation_tasks(run)]
    assert torch.equal(artifact.tensors["compensators"], torch.cat(results))


def test_an_artifact_gives_its_images_and_targets_without_the_plugin(finished):
    _, out = finished
    script = f"""
import sys
from ddcore import load_artifact
artifact = load_artifact({str(out / "artifact")!r})
images, targets = next(iter(artifact.loader(batch_size=32, seed=0)))
assert images.shape == (32, 1, 8, 8) and targets.shape == (32, 10), (images.shape, targets.shape)
assert not any(name.startswith("ddcore_infer") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_steps_the_set_and_its_labels_are_each_base_repeated(cache, tmp_path):
    artifact = artifact_of(cache, tmp_path / "run", "--steps=0")
    assert not artifact.tensors["compensators"].any()
    images, told = artifact.images(), artifact.labels.logits
    assert torch.equal(images, images[::3].repeat_interleave(3, 0))
    torch.testing.assert_close(told, told[::3].repeat_interleave(3, 0))


# ---- labels and rows -------------------------------------------------------------------------------------------------


def test_static_labels_are_the_networks_mean_logits_of_the_clean_stored_images(cache, tmp_path):
    artifact = artifact_of(cache, tmp_path / "run", "--storage-dtype=float16")
    run = open_run(str(tmp_path / "run"))
    images = artifact.images()
    mean = sum(logits(run.teachers.network(n), images) for n in range(2)) / 2
    assert isinstance(artifact.labels, StaticMixedLabels)
    assert artifact.labels.temperature == 30
    assert (artifact.labels.draw.mix, artifact.labels.draw.beta) == ("mixup", 0.8)
    torch.testing.assert_close(artifact.labels.logits, mean)


def test_rows_make_equal_steps_and_random_ones_at_equal_bytes_follow_what_is_stored(finished):
    artifact, out = finished
    rows = (Place.at(out) / "scores.json").read_json()["rows"]
    assert {row["steps"] for row in rows if row["set"] != "full"} == {3}
    by = {(row["set"], row["labels"]): row for row in rows}
    own = by["distilled", "static-mixed"]
    assert own["ipc"] == by["random", "static-mixed"]["ipc"] == 6
    assert own["bytes"]["images"] == artifact.nbytes["images"]
    assert own["bytes"]["total"] == artifact.nbytes["total"]
    assert by["random-bytes", "hard"]["images"] == artifact.nbytes["total"] // (PIXELS + 1)


def test_bases_are_known_as_real_and_stored_as_their_data_hold_them(finished):
    artifact, out = finished
    run = open_run(str(out))
    rows = artifact.source_rows
    assert (rows >= 0).tolist() == [True, False, False] * (SLOTS * CLASSES)  # a bare base, then its sums
    assert torch.equal(artifact.images()[rows >= 0], run.real.train.inputs(rows[rows >= 0]))
    assert artifact.tensors["bases"].dtype == torch.uint8 and artifact.manifest["real"]["unchanged"]
    assert "60 images, 40 synthetic and 20 real ones" in (out / "artifact" / "README.md").read_text()


def test_labels_of_views_are_the_dynamic_variant(cache, tmp_path):
    artifact = artifact_of(cache, tmp_path / "run", "--labels=per-view")
    assert artifact.labels.kind == "per-view"
    assert artifact.labels.record.draw.mix == "mixup"
    assert len(artifact) == 60


def test_two_jobs_give_the_bits_of_one(tmp_path):
    given = {"teachers__networks": ("convnet2-bn-w4",) * 2, "teachers__check": False, "ipc": 4, "steps": 2}
    given["cache"] = str(tmp_path / "cache")
    one, two = (
        distilled(staged(["--plugin", "infer"], tmp_path / str(jobs), {**given, "jobs": jobs})) for jobs in (1, 2)
    )
    assert len(one["compensators"]) == 4
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ipc=1"], "--ipc 1 buys infer no image a class beside 2 that serve all 10: give --ipc 2 or more"),
        (["--normalise=zca"], "which --normalise zca has not: use mean-std"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(words, said, cache, tmp_path, capsys):
    assert invoke(command(cache, tmp_path / "run", *words)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_network_without_batch_norm_is_refused_by_name(cache, tmp_path, capsys):
    words = ["--teachers.no-check"]
    assert invoke(command(cache, tmp_path / "run", *words, networks=("convnet2-w4",))) == 2
    assert "the teacher convnet2-w4 has no BatchNorm layers" in capsys.readouterr().err
