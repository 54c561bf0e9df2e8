"""DATM's checks that need experts: its limit is MTT, its gate, its initial images and labels, FYI's batch under it."""

import pytest
import torch
from ddcore_datm import expert_logits, final_networks

from ddcore.api.types import Unroll
from ddcore.composing.selection import select, setup_from
from ddcore.networks.passes import logits
from ddcore.runs.cutting import distillation_task
from ddcore.runs.loop import begin, outer_step
from ddcore.runs.run import Run
from ddcore.storage.places import Place
from ddcore.training.trajectory import student_batches

EXPERTS = {"experts__count": 2, "experts__epochs": 4, "experts__batch": 64, "experts__lr": 0.05}
UNROLL = {"student_steps": 3, "expert_epochs": 1, "max_start_epoch": 2, "lr_img": 5.0, "rate": 0.02}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def opened(cache: str, place: object, *plugins: str, **given: object) -> Run:
    words = [word for plugin in plugins for word in ("--plugin", plugin)]
    shared = {"plugins": plugins, "cache": cache, "threads": 1, "ipc": 2, "network": "convnet2-w4", "steps": 4}
    selection = select([*words, "--preset", "none"], {})
    return Run(setup_from(selection, {**shared, **EXPERTS, **given}, {}), Place.at(place))


def options(name: str, **more: object) -> dict[str, object]:
    return {f"{name}__{key}": value for key, value in {**UNROLL, **more}.items()}


def test_sharp_fixed_labels_an_open_window_and_no_gate_make_it_mtt(cache, tmp_path):
    runs = {
        "datm": opened(cache, tmp_path / "a", "datm", init="real", **options("datm", lr_y=0.0, threshold=1e9)),
        "mtt": opened(cache, tmp_path / "b", "mtt", **options("mtt")),
    }
    pixels, batches = {}, {}
    for name, run in runs.items():
        task = distillation_task(run)
        learn = begin(task, run)
        if name == "datm":
            with torch.no_grad():
                sharp = 1e4 * torch.nn.functional.one_hot(task.classes, 10).float()
                learn.tensors["labels"].copy_(sharp)
        unroll = Unroll("same", 3, 5, "adjoint", None)
        batches[name] = student_batches(run, unroll, task, 0, learn)(1)[0].detach()
        run.generator = lambda *key, run=run: Run.generator(run, *("same" if k in ("datm", "mtt") else k for k in key))
        for step in range(3):
            assert outer_step(task, step, learn, run) is not None
        pixels[name] = learn.tensors["pixels"].detach()
    torch.testing.assert_close(pixels["datm"], pixels["mtt"], rtol=1e-4, atol=1e-5)
    assert torch.equal(batches["datm"], batches["mtt"])


def test_a_loss_above_the_threshold_moves_nothing(cache, tmp_path):
    run = opened(cache, tmp_path / "run", "datm", **options("datm", threshold=1e-6))
    task = distillation_task(run)
    learn = begin(task, run)
    before = {name: tensor.detach().clone() for name, tensor in learn.tensors.items()}
    assert outer_step(task, 0, learn, run) is None
    for name, tensor in learn.tensors.items():
        assert torch.equal(tensor.detach(), before[name]), name
    assert all(not optimizer.state for optimizer in learn.optimizers.values())


def test_initial_images_are_right_under_an_expert_and_their_labels_name_their_class(cache, tmp_path):
    run = opened(cache, tmp_path / "run", "datm", **options("datm"))
    task = distillation_task(run)
    learn = begin(task, run)
    images = learn.tensors["pixels"].detach()
    right = torch.stack([logits(network, images).argmax(1) == task.classes for network in final_networks(run)])
    assert right.any(0).all()
    assert torch.equal(learn.tensors["labels"].detach().argmax(1), task.classes)


@pytest.mark.parametrize(
    ("given", "first"),
    [({"init": "real"}, True), ({}, False), ({"datm__start_labels": "first"}, True), ({"init": "real", "datm__start_labels": "right"}, False)],
)  # fmt: skip
def test_under_real_images_labels_begin_as_one_experts_logits_right_or_wrong(given, first, cache, tmp_path):
    run = opened(cache, tmp_path / "run", "datm", **options("datm"), **given)
    task = distillation_task(run)
    learn = begin(task, run)
    images, labels = learn.tensors["pixels"].detach(), learn.tensors["labels"].detach()
    due = logits(next(final_networks(run)), images) if first else expert_logits(run, images, task.classes)
    torch.testing.assert_close(labels, due)
    assert not torch.allclose(logits(next(final_networks(run)), images), expert_logits(run, images, task.classes))


def test_an_outer_step_moves_pixels_labels_and_rate(cache, tmp_path):
    run = opened(cache, tmp_path / "run", "datm", **options("datm", threshold=1e9, lr_y=1.0, lr_lr=1e-3))
    task = distillation_task(run)
    learn = begin(task, run)
    before = {name: tensor.detach().clone() for name, tensor in learn.tensors.items()}
    outer_step(task, 0, learn, run)
    for name, tensor in learn.tensors.items():
        assert not torch.equal(tensor.detach(), before[name]), name
    row_sums = (learn.tensors["labels"].detach() - before["labels"]).sum(1)
    torch.testing.assert_close(row_sums, torch.zeros(20), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["adjoint", "full"])
def test_the_exact_gradients_agree_in_a_run(cache, tmp_path, mode):
    gradients = []
    for number, chosen in enumerate((mode, "full")):
        run = opened(
            cache, tmp_path / str(number), "datm", "dsa", "fyi", **options("datm", unroll=chosen, threshold=1e9)
        )
        task = distillation_task(run)
        learn = begin(task, run)
        for loss in run.hooks.one("ddcore_matching_loss", task=task, step=0, learn=learn, run=run):
            gradients.append(torch.autograd.grad(loss.value, list(learn.tensors.values())))
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


def test_fyi_shows_as_many_images_of_which_half_are_distinct(cache, tmp_path):
    sizes = {}
    for name, plugins in (("base", ("datm",)), ("fyi", ("datm", "fyi"))):
        run = opened(cache, tmp_path / name, *plugins, **options("datm"))
        task = distillation_task(run)
        learn = begin(task, run)
        images, targets = student_batches(run, Unroll("datm", 3, 8, "adjoint", None), task, 0, learn)(0)
        sizes[name] = (len(images), len(targets), len({tuple(i.flatten().tolist()) for i in images.detach()}))
        if name == "fyi":
            assert torch.equal(images[4:], images[:4].flip(3))
            assert torch.equal(targets[4:], targets[:4])
        assert len(learn.tensors["pixels"]) == 20
    # 20 rows in batches of 8 leave 4, and in batches of 4 none: the short batch comes first
    assert sizes == {"base": (4, 4, 4), "fyi": (8, 8, 8)}
