"""A whole step beside the usual loop, what falls, and what a run stores and scores."""

import json

import pytest
import torch
from ddcore_krr_st.ridge import krr_loss
from ddcore_krr_st.target import target_network
from torch.nn import functional as F

from ddcore import load_artifact
from ddcore.errors import InputError
from ddcore.labels import VectorLabels
from ddcore.networks import features
from ddcore.runs.cutting import distillation_task
from ddcore.runs.loop import begin, outer_step
from ddcore.scoring.budget import budget_of
from ddcore.testing import ddcore_cli, tiny_run  # noqa: F401  fixtures

PLUGIN = ("--plugin", "krr-st")
SMALL = {
    "krr_st__batch": 12,
    "krr_st__pool": 2,
    "krr_st__online": 3,
    "krr_st__target_epochs": 1,
    "krr_st__target_batch": 12,
}


def small(tiny_run, **more):  # noqa: F811
    given = {name.replace("krr_st__", "krr-st__"): value for name, value in {**SMALL, **more}.items()}
    return tiny_run(*PLUGIN, dtype="float64", network="convnet2-bn-w8", **given)


def test_a_step_is_the_usual_loops(tiny_run):  # noqa: F811
    run = small(tiny_run, steps=4)
    task = distillation_task(run)
    ours, theirs = begin(task, run), begin(task, run)
    plugin = run.plugins["krr-st"]
    plugin._begin(task, theirs, run)
    x, y = theirs.tensors["pixels"], theirs.tensors["vectors"]
    descent = torch.optim.AdamW([x, y], lr=plugin.lr, weight_decay=0.0)
    for step in range(3):
        loss = outer_step(task, step, ours, run)
        # the paper's step, written out
        number = int(torch.randint(2, (), generator=run.generator("krr-st", "pick", task.slot, step)))
        member = theirs.state["members"][str(number)].eval()
        images = plugin._real(task, step, run)
        due = krr_loss(features(member, images), features(theirs.fixed["target"], images), member.embed(x), y)
        descent.param_groups[0]["lr"] = plugin.lr * (1 - (1 - 1e-3) * step / 4)
        descent.zero_grad()
        due.backward()
        descent.step()
        plugin._update(number, step, task, theirs, run)
        assert loss == pytest.approx(float(due.detach()))
        torch.testing.assert_close(ours.tensors["pixels"], x)
        torch.testing.assert_close(ours.tensors["vectors"], y)
    assert all(p.grad is None or not p.requires_grad for m in ours.state["members"].values() for p in m.parameters())


def test_vectors_begin_as_the_target_models_and_the_loss_falls(tiny_run):  # noqa: F811
    more = {"krr_st__batch": 128, "krr_st__target_batch": 128, "krr_st__online": 20, "krr_st__lr": 0.01}
    run = small(tiny_run, steps=100, dataset="digits", ipc=2, krr_st__target_epochs=3, **more)
    task, target = distillation_task(run), target_network(run.plugins["krr-st"], run)
    learn = begin(task, run)
    torch.testing.assert_close(learn.tensors["vectors"].detach(), features(target, learn.tensors["pixels"].detach()))
    real = run.real.test.inputs(torch.arange(len(run.real.test)))

    def loss():
        fresh = run.plugins["krr-st"]._member(run, learn.tensors["vectors"].shape[1], task, 99, 0)
        shown = features(fresh, learn.tensors["pixels"].detach())
        return float(krr_loss(features(fresh, real), features(target, real), shown, learn.tensors["vectors"].detach()))

    before = loss()
    for step in range(100):
        outer_step(task, step, learn, run)
    assert loss() < 0.8 * before


def test_vectors_can_stay(tiny_run):  # noqa: F811
    run = small(tiny_run, steps=2, krr_st__learn_vectors=False)
    task = distillation_task(run)
    learn = begin(task, run)
    before = learn.tensors["vectors"].clone()
    outer_step(task, 0, learn, run)
    assert torch.equal(learn.tensors["vectors"], before) and not learn.tensors["vectors"].requires_grad


def test_a_run_stores_vectors_and_scores_probes_beside_real_images_with_their_targets(ddcore_cli, tmp_path):  # noqa: F811
    flags = [f"--krr-st.{name.removeprefix('krr_st__').replace('_', '-')}={value}" for name, value in SMALL.items()]
    words = [*ddcore_cli.tiny, *PLUGIN, *flags, "--steps=2", "--protocol=pretrain-probe-2"]
    answer = ddcore_cli("run", *words, "--out", tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    artifact = load_artifact(tmp_path / "run" / "artifact")
    assert isinstance(artifact.labels, VectorLabels)
    images, target = artifact[0]
    assert target.shape == (artifact.labels.width,) and torch.isfinite(target).all()
    _, targets = next(iter(artifact.loader(batch_size=2)))
    assert artifact.loss(targets, targets) == 0
    with pytest.raises(InputError, match="numbers\\) is due"):
        artifact.loss(targets[:, :3], targets)
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    kinds = {(row["set"], row["labels"]) for row in rows}
    assert {("distilled", "vectors"), ("random", "vectors"), ("random", "hard"), ("full", "hard")} <= kinds
    assert all(("linear probe" in row["note"]) == (row["protocol"] == "pretrain-probe-2") for row in rows)
    assert {row["labels"] for row in rows if row["protocol"] == "quick-1"} == {"hard"}
    assert "tell no classes, and protocol 'quick-1'" in answer.err


def test_bytes_count_the_vectors_to_the_byte(tiny_run):  # noqa: F811
    run = small(tiny_run, steps=1)
    width = features(target_network(run.plugins["krr-st"], run), run.real.train.inputs(torch.arange(1))).shape[1]
    found = budget_of(run, 10**9)
    count = 3 * found.ipc
    assert 0 <= found.labels - count * (4 * width + 1) < 256


def test_real_images_get_the_target_models_vectors(tiny_run):  # noqa: F811
    run = small(tiny_run)
    images, classes = run.real.train.inputs(torch.arange(4)), run.real.train.labels[:4]
    labels = run.label(images, classes)
    told = features(target_network(run.plugins["krr-st"], run), images)
    torch.testing.assert_close(labels.vectors, told.float())
    assert labels.recipe["loss"] == "mse"
    assert F.mse_loss(labels.vectors, told.float()) < 1e-6
