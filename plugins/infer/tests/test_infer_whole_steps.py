"""Whole steps of infer, with dwa too, beside the usual loop: one image added to those of all classes, under Adam."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ddcore import Batch, Progress
from ddcore.images.shared_view import draw_view
from ddcore.testing import check_whole_steps, entropy_and_statistics

NETWORKS = ("convnet2-bn-w4", "convnet2-bn-w6")
GIVEN = {"dtype": "float64", "steps": 4, "ipc": 4, "teachers__networks": NETWORKS, "teachers__epochs": 5}
GIVEN |= {"teachers__check": False, "infer__crop": "resized"}
DWA = {"dwa__rho": 0.3, "dwa__ascent_steps": 3, "dwa__variance": 11.0}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the teachers of all these runs lie."""
    return str(tmp_path_factory.mktemp("cache"))


def seen(run, task, images, step: int, *, least: float | None, reach: int) -> tuple[Tensor, Tensor]:
    """The images of all classes under one crop, mirror and roll."""
    classes = torch.arange(3)
    if "fyi" in run.plugins:
        images, classes = torch.cat([images, images.flip(3)]), torch.cat([classes, classes])
    generator = run.generator("infer", "view", task.key, step)
    images = draw_view(8, reach, generator, least=least, mirror=0.0 if least is None else 0.5)(images)
    transform = run.draw("match", key=("infer", task.key, step), shared=True, progress=Progress(step, task.steps))
    return transform(Batch(images, {"class": classes}, torch.arange(len(images)))).inputs, classes


def usual_loop(run, task, tensors, *, rate=0.25, bn=1.0, first=10.0, least=0.08, reach=4) -> Iterator[float]:
    added = tensors["compensator"]
    assert added.shape == (1, 3, 8, 8) and not added.any()
    adam = torch.optim.Adam([added], lr=rate, betas=(0.5, 0.9), eps=1e-8)
    bases, network = run.matcher.bases(run)[:, task.slot], run.teachers.network(task.options["network"])
    variance = 1.0
    if "dwa" in run.plugins:
        first_seen, classes = seen(run, task, bases, 0, least=least, reach=reach)
        batch = Batch(first_seen, {"class": classes}, torch.arange(len(classes)))
        network = run.plugins["dwa"].ddcore_adapt_teacher(network, batch)  # held against a plain loop by sre2l's tests
        variance = 11.0
    for step in range(task.steps):
        adam.param_groups[0]["lr"] = 0.5 * rate * (1 + math.cos(math.pi * step / task.steps))
        images, classes = seen(run, task, bases + added, step, least=least, reach=reach)
        loss = entropy_and_statistics(network, images, classes, bn=bn, first=first, variance=variance)
        adam.zero_grad()
        loss.backward()
        adam.step()
        yield loss.item()


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("plugins", [(), ("dwa",), ("dsa", "fyi"), ("dsa", "fyi", "dwa")], ids="+".join)
def test_a_slots_compensator_moves_as_under_the_usual_loop(plugins, number, cache, tiny_run):
    words = [word for plugin in ("infer", *plugins) for word in ("--plugin", plugin)]
    run = tiny_run(*words, **GIVEN, **(DWA if "dwa" in plugins else {}), cache=cache)
    check_whole_steps(run, usual_loop, number=number)


@pytest.mark.parametrize(
    ("options", "usually"),
    [
        ({"rate": 0.1, "bn": 0.05, "first": 2.0}, {"rate": 0.1, "bn": 0.05, "first": 2.0}),
        ({"scale": 0.6, "roll": 1}, {"least": 0.6, "reach": 1}),
        ({"crop": "none"}, {"least": None}),
    ],
)
def test_every_option_does_what_it_says(options, usually, cache, tiny_run):
    given = GIVEN | {f"infer__{name}": value for name, value in options.items()}
    run = tiny_run("--plugin", "infer", **given, cache=cache)
    check_whole_steps(run, lambda *at: usual_loop(*at, **usually))
