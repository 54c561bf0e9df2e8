"""Whole steps of dm, with dsa and fyi too, beside the usual loop: all classes at once, one backward, SGD with momentum."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ddcore import Batch, Progress
from ddcore.testing import check_whole_steps

CLASSES = 3
GIVEN = {"dtype": "float64", "steps": 3, "ipc": 2}
STACKS = [("dm",), ("dm", "dsa"), ("dm", "fyi"), ("dm", "dsa", "fyi")]


def usual_loop(run, task, tensors, *, rate=1.0, momentum=0.5, batch_real=5) -> Iterator[float]:
    pixels = tensors["pixels"]
    optimizer = torch.optim.SGD([pixels], lr=rate, momentum=momentum)
    for step in range(task.steps):
        network = run.network(run.generator("dm", "network", task.slot, step))
        real, synthetic = [], []
        for c in range(CLASSES):
            key = ("dm", "augment", task.slot, step, c)
            transform = run.draw("match", key=key, shared=True, progress=Progress(step, task.steps))

            def augmented(images: Tensor, c=c, transform=transform) -> Tensor:
                index = torch.arange(len(images))
                return transform(Batch(images, {"class": torch.full_like(index, c)}, index)).inputs

            images = run.real.sample(c, batch_real, run.generator("dm", "real", task.slot, step, c))
            own = pixels[task.classes == c]
            own = torch.cat([own, own.flip(3)]) if "fyi" in run.plugins else own
            real.append(augmented(images))
            synthetic.append(augmented(own))
        with torch.no_grad():
            targets = network.embed(torch.cat(real)).unflatten(0, (CLASSES, -1)).mean(1)
        means = network.embed(torch.cat(synthetic)).unflatten(0, (CLASSES, -1)).mean(1)
        loss = ((targets - means) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield float(loss.detach())


def words(plugins: tuple[str, ...]) -> list[str]:
    return [word for plugin in plugins for word in ("--plugin", plugin)]


@pytest.mark.parametrize("network", ["convnet2-w4", "convnet2-bn-w4"])
@pytest.mark.parametrize("plugins", STACKS, ids="+".join)
def test_images_move_as_under_the_usual_loop(plugins, network, tiny_run):
    run = tiny_run(*words(plugins), **GIVEN, network=network, dm__batch_real=5)
    check_whole_steps(run, usual_loop)


@pytest.mark.parametrize("network", ["convnet2-w4", "convnet2-bn-w4"])
def test_in_groups_of_classes_too_and_batch_norm_still_sees_all_of_them_at_once(network, tiny_run, monkeypatch):
    monkeypatch.setattr("ddcore_dm.ROWS_A_PASS", 1)
    run = tiny_run("--plugin", "dm", **GIVEN, network=network, dm__batch_real=5)
    check_whole_steps(run, usual_loop)


def test_rate_momentum_and_real_images_are_those_asked_for(tiny_run):
    given = {"dm__lr_img": 3.0, "dm__momentum": 0.9, "dm__batch_real": 100}
    run = tiny_run("--plugin", "dm", **GIVEN, **given)
    check_whole_steps(run, lambda *at: usual_loop(*at, rate=3.0, momentum=0.9, batch_real=12))
