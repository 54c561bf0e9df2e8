"""SRe2L as users run it: slots and blocks as tasks, teachers that stay as they are, refusals, jobs."""

import pytest
import torch

from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.errors import InputError
from ddcore.kit.contract import check_plugin
from ddcore.networks.passes import logits
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.distil import assemble
from ddcore.runs.loop import begin, outer_step
from ddcore.runs.run import Run
from ddcore.sets.artifact import load_artifact
from ddcore.storage.checkpoints import Checkpoints
from ddcore.storage.places import Place

QUICK = {
    "threads": 1,
    "ipc": 2,
    "network": "convnet2-bn-w8",
    "teachers__epochs": 6,
    "steps": 4,
    "labels": "hard",
    "sre2l__block": 4,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def opened(cache, place, *words, **given):
    selection = select(["--plugin", "sre2l", *words, "--preset", "none"], {})
    return Run(setup_from(selection, {**QUICK, "cache": cache, **given}, {}), Place.at(place))


def command(cache, out, *words):
    flags = [f"--{name.replace('__', '.').replace('_', '-')}={value}" for name, value in QUICK.items()]
    quick = ["--protocol=quick-3", "--eval-seeds=1", "--full-epochs=1", "--preset=none", f"--cache={cache}"]
    return ["run", "--plugin=sre2l", *flags, *quick, f"--out={out}", *words]


def test_the_contract_is_kept():
    check_plugin("sre2l")


def test_slots_and_blocks_are_tasks_that_hold_each_class_once(cache, tmp_path):
    tasks = distillation_tasks(opened(cache, tmp_path))
    assert [(t.slot, t.classes.tolist()) for t in tasks] == [
        (slot, block) for slot in (0, 1) for block in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9])
    ]
    assert len({t.key for t in tasks}) == 6


def test_a_run_ends_in_images_of_every_class_within_the_pixels_that_exist(cache, tmp_path):
    assert invoke(command(cache, tmp_path / "run")) == 0
    artifact = load_artifact(tmp_path / "run" / "artifact")
    assert artifact.labels.classes.tolist() == sorted([*range(10)] * 2)
    pixels = artifact.pixels()
    assert float(pixels.min()) >= -1e-6
    assert float(pixels.max()) <= 1 + 1e-6


def test_two_jobs_give_the_bits_of_one(cache, tmp_path):
    assert invoke(command(cache, tmp_path / "one")) == 0
    assert invoke(command(cache, tmp_path / "two", "--jobs=2")) == 0
    one, two = (load_artifact(tmp_path / name / "artifact").tensors["pixels"] for name in ("one", "two"))
    assert torch.equal(one, two)


def test_recovery_falls_and_the_teacher_recognises_what_it_made(cache, tmp_path):
    run = opened(cache, tmp_path, steps=200, sre2l__block=10, ipc=1, teachers__epochs=15)
    (task,) = distillation_tasks(run)
    learn = begin(task, run)
    network = learn.fixed["votes"][0].network
    losses = [outer_step(task, step, learn, run) for step in range(task.steps)]
    assert losses[-1] < 0.25 * losses[0]
    assert (logits(network, learn.tensors["pixels"].detach()).argmax(1) == task.classes).float().mean() >= 0.9


def test_a_task_leaves_teacher_weights_and_buffers_as_they_were(cache, tmp_path):
    run = opened(cache, tmp_path)
    task = distillation_tasks(run)[0]
    learn = begin(task, run)
    network = learn.fixed["votes"][0].network
    before = {name: t.clone() for name, t in network.state_dict().items()}
    outer_step(task, 0, learn, run)
    assert not network.training
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_the_learning_rate_of_each_step_is_the_cosines(cache, tmp_path):
    run = opened(cache, tmp_path, sre2l__rate=0.5)
    task = distillation_tasks(run)[0]
    learn = begin(task, run)
    seen = []
    for step in range(task.steps):
        outer_step(task, step, learn, run)
        seen.append(learn.optimizers["pixels"].param_groups[0]["lr"])
    assert seen == pytest.approx([0.5, 0.5 * (1 + 0.5**0.5) / 2, 0.25, 0.5 * (1 - 0.5**0.5) / 2])


def test_two_equal_teachers_make_the_loss_of_one(cache, tmp_path):
    alone = opened(cache, tmp_path / "a", dtype="float64")
    task = distillation_tasks(alone)[0]
    vote = alone.votes("match", task)[0]
    half = type(vote)(vote.network, 0.5)
    losses = []
    for votes in ([vote], [half, half]):
        learn = begin(task, alone)
        learn.fixed["votes"][:] = votes
        losses.append(outer_step(task, 0, learn, alone))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_teacher_without_batch_norm_is_refused_by_name(cache, tmp_path, capsys):
    words = ["--teachers.networks=convnet2-w4", "--teachers.no-check"]
    assert invoke(command(cache, tmp_path / "run", *words)) == 2
    assert "the teacher convnet2-w4 has no BatchNorm layers" in capsys.readouterr().err


def test_an_initialiser_without_noise_starts_from_real_images(cache, tmp_path):
    run = opened(cache, tmp_path, init="real")
    task = distillation_tasks(run)[0]
    start = begin(task, run).tensors["pixels"].detach()
    real = run.real.train.inputs(torch.arange(len(run.real.train)))
    assert all((real == image).flatten(1).all(1).any() for image in start)


def test_finished_tasks_are_joined_class_by_class(cache, tmp_path):
    run = opened(cache, tmp_path)
    tasks = distillation_tasks(run)
    kept = Checkpoints(run.place / "checkpoints")
    for task in tasks:
        images = (task.classes * 10 + task.slot).float()[:, None, None, None].expand(-1, 1, 8, 8).clone()
        kept.finish(
            task.key,
            {"pixels": images},
            {"roles": {"pixels": "pixels"}, "decoder": [{"op": "rows", "tensor": "pixels"}]},
        )
    made = assemble(run, tasks)
    assert made.tensors["pixels"][:, 0, 0, 0].tolist() == [10.0 * c + s for c in range(10) for s in (0, 1)]
    assert made.classes.tolist() == sorted([*range(10)] * 2)


def test_unknown_weights_are_refused_before_any_work(cache, tmp_path):
    with pytest.raises(InputError, match="names 2 files for 1 networks"):
        opened(cache, tmp_path, teachers__weights=("a.pth", "b.pth")).teachers  # noqa: B018
