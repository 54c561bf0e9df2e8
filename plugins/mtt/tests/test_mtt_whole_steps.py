"""Whole steps of mtt, with dsa and fyi too, beside the usual loop: a student with the graph of all its steps, two SGDs."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ddcore import Batch, Progress
from ddcore.testing import check_whole_steps, descended

EXPERTS = 2
STUDENT_STEPS, AHEAD, BELOW = 4, 2, 3
GIVEN = {"dtype": "float64", "steps": 4, "ipc": 2, "experts__count": EXPERTS, "experts__epochs": BELOW - 1 + AHEAD}
GIVEN |= {"mtt__student_steps": STUDENT_STEPS, "mtt__expert_epochs": AHEAD, "mtt__max_start_epoch": BELOW}
GIVEN |= {"mtt__lr_img": 20.0, "mtt__lr_lr": 1e-3, "mtt__rate": 0.05}
STACKS = [("mtt",), ("mtt", "dsa"), ("mtt", "fyi"), ("mtt", "dsa", "fyi")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the experts of all these runs lie."""
    return str(tmp_path_factory.mktemp("cache"))


def usual_loop(run, task, tensors, *, batch=6, momentum=0.5, floor=1e-6) -> Iterator[float]:
    pixels, rate = tensors["pixels"], tensors["rate"]
    assert rate.item() == 0.05
    of_images = torch.optim.SGD([pixels], lr=20.0, momentum=momentum)
    of_rate = torch.optim.SGD([rate], lr=1e-3, momentum=momentum)
    network = run.network(run.generator("mtt", "network"))
    batch = batch // 2 if "fyi" in run.plugins else batch
    for step in range(task.steps):
        order = torch.randperm(EXPERTS, generator=run.generator("mtt", "experts", task.slot, step // EXPERTS))
        expert = int(order[step % EXPERTS])
        epoch = int(torch.randint(0, BELOW, (), generator=run.generator("mtt", "start", task.slot, step)))
        start, target = run.trajectories.weights(expert, epoch), run.trajectories.weights(expert, epoch + AHEAD)
        shuffle, chunks = run.generator("mtt", "batches", task.slot, step), []

        def batches(step=step, shuffle=shuffle, chunks=chunks) -> Iterator[tuple[Tensor, Tensor]]:
            for inner in range(STUDENT_STEPS):
                chunks = chunks or list(torch.randperm(len(pixels), generator=shuffle).split(batch))
                index = chunks.pop()
                images, classes = pixels[index], task.classes[index]
                if "fyi" in run.plugins:
                    images, classes = torch.cat([images, images.flip(3)]), torch.cat([classes, classes])
                key = ("mtt", "augment", task.slot, step, inner)
                transform = run.draw("student_step", key=key, count=len(images), progress=Progress(step, task.steps))
                yield transform(Batch(images, {"class": classes}, torch.arange(len(images)))).inputs, classes

        landed = descended(network, start, batches(), rate)
        loss = ((landed - target) ** 2).sum() / ((start - target) ** 2).sum()
        of_images.zero_grad()
        of_rate.zero_grad()
        loss.backward()
        of_images.step()
        of_rate.step()
        with torch.no_grad():
            rate.clamp_(min=floor)
        yield float(loss.detach())


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("plugins", STACKS, ids="+".join)
def test_images_and_rate_move_as_under_the_usual_loop(plugins, batch, cache, tiny_run):
    words = [word for plugin in plugins for word in ("--plugin", plugin)]
    run = tiny_run(*words, **GIVEN, cache=cache, mtt__batch=batch)
    check_whole_steps(run, lambda *at: usual_loop(*at, batch=batch or 6))


@pytest.mark.parametrize(("mode", "micro_batch"), [("adjoint", None), ("adjoint", 4), ("full", None)])
def test_momentum_is_the_one_asked_for_of_images_and_of_the_rate(mode, micro_batch, cache, tiny_run):
    given = {"mtt__momentum": 0.8, "mtt__unroll": mode, "mtt__micro_batch": micro_batch}
    run = tiny_run("--plugin", "mtt", **GIVEN, **given, cache=cache)
    check_whole_steps(run, lambda *at: usual_loop(*at, momentum=0.8))


def test_the_rate_is_put_back_to_its_floor_after_each_step(cache, tiny_run):
    run = tiny_run("--plugin", "mtt", **GIVEN, cache=cache, mtt__rate_floor=0.5)
    learned = check_whole_steps(run, lambda *at: usual_loop(*at, floor=0.5))
    assert learned["rate"] == 0.5
