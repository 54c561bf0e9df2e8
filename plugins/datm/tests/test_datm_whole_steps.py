"""Whole steps of datm, with dsa and fyi too, beside the usual loop: learned labels, three SGDs, a window, a gate."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ddcore import Batch, Progress
from ddcore.testing import check_whole_steps, descended

EXPERTS, EPOCHS, STUDENT_STEPS, AHEAD = 2, 5, 4, 2
GIVEN = {"dtype": "float64", "steps": 4, "ipc": 2, "experts__count": EXPERTS, "experts__epochs": EPOCHS}
GIVEN |= {"datm__student_steps": STUDENT_STEPS, "datm__expert_epochs": AHEAD, "datm__rate": 0.05}
GIVEN |= {"datm__lr_img": 20.0, "datm__lr_y": 3.0, "datm__lr_lr": 1e-3, "datm__max_start_epoch": 3}
STACKS = [("datm",), ("datm", "dsa"), ("datm", "fyi"), ("datm", "dsa", "fyi")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the experts of all these runs lie."""
    return str(tmp_path_factory.mktemp("cache"))


def usual_loop(
    run, task, tensors, *, batch=6, uppers=(3, 3, 3, 3), low=0, threshold=100.0, momentum=0.5, momentum_y=0.9
) -> Iterator[float | None]:
    pixels, logits, rate = tensors["pixels"], tensors["labels"], tensors["rate"]
    assert rate.item() == 0.05
    optimizers = (
        torch.optim.SGD([pixels], lr=20.0, momentum=momentum),
        torch.optim.SGD([logits], lr=3.0, momentum=momentum_y),
        torch.optim.SGD([rate], lr=1e-3, momentum=momentum),
    )
    network = run.network(run.generator("datm", "network"))
    batch = batch // 2 if "fyi" in run.plugins else batch
    for step, upper in enumerate(uppers):
        order = torch.randperm(EXPERTS, generator=run.generator("datm", "experts", task.slot, step // EXPERTS))
        expert = int(order[step % EXPERTS])
        epoch = int(torch.randint(low, upper, (), generator=run.generator("datm", "start", task.slot, step)))
        start, target = run.trajectories.weights(expert, epoch), run.trajectories.weights(expert, epoch + AHEAD)
        shuffle, chunks = run.generator("datm", "batches", task.slot, step), []

        def batches(step=step, shuffle=shuffle, chunks=chunks) -> Iterator[tuple[Tensor, Tensor]]:
            for inner in range(STUDENT_STEPS):
                chunks = chunks or list(torch.randperm(len(pixels), generator=shuffle).split(batch))
                index = chunks.pop()
                images, labels = pixels[index], logits[index]
                if "fyi" in run.plugins:
                    images, labels = torch.cat([images, images.flip(3)]), torch.cat([labels, labels])
                key, index = ("datm", "augment", task.slot, step, inner), torch.arange(len(images))
                draw = run.draw("student_step", key=key, count=len(images), progress=Progress(step, task.steps))
                yield draw(Batch(images, {"class": labels.argmax(1)}, index)).inputs, labels.softmax(1)

        landed = descended(network, start, batches(), rate)
        loss = ((landed - target) ** 2).sum() / ((start - target) ** 2).sum()
        if loss > threshold:
            yield None
            continue
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            rate.clamp_(min=1e-6)
        yield loss.item()


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("plugins", STACKS, ids="+".join)
def test_images_labels_and_rate_move_as_under_the_usual_loop(plugins, batch, cache, tiny_run):
    words = [word for plugin in plugins for word in ("--plugin", plugin)]
    run = tiny_run(*words, **GIVEN, cache=cache, datm__batch=batch)
    check_whole_steps(run, lambda *at: usual_loop(*at, batch=batch or 6))


def test_each_momentum_is_the_one_asked_for(cache, tiny_run):
    run = tiny_run("--plugin", "datm", **GIVEN, cache=cache, datm__momentum=0.7, datm__momentum_y=0.2)
    check_whole_steps(run, lambda *at: usual_loop(*at, momentum=0.7, momentum_y=0.2))


def test_start_epochs_come_from_a_window_that_widens(cache, tiny_run):
    # T- = 1, T = 2, T+ = 4, E = 4: u_k = 2 + floor(2 k / 4)
    window = {"min_start_epoch": 1, "start_epoch": 2, "max_start_epoch": 4, "expansion_end": 4}
    run = tiny_run(
        "--plugin", "datm", **GIVEN | {f"datm__{name}": value for name, value in window.items()}, cache=cache
    )
    check_whole_steps(run, lambda *at: usual_loop(*at, low=1, uppers=(2, 2, 3, 3)))


def test_steps_above_the_threshold_move_nothing_momentum_included(cache, tiny_run):
    seen = []

    def watched(*at) -> Iterator[float | None]:
        for loss in usual_loop(*at, threshold=0.7):
            seen.append(loss is None)
            yield loss

    run = tiny_run("--plugin", "datm", **GIVEN, cache=cache, seed=1, datm__threshold=0.7)
    check_whole_steps(run, watched)
    assert {*seen} == {True, False}
