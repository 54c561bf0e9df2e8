"""Whole steps of sre2l, with dwa and cv-dd too, beside the usual loop: views, votes, Adam under a cosine, a clamp."""

import math
from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore import Batch, Progress
from ddcore.images.shared_view import draw_view
from ddcore.testing import check_whole_steps, entropy_and_statistics

NETWORKS = ("convnet2-bn-w4", "convnet2-bn-w6", "convnet2-bn-w5")
PRIORS = (64.0, 40.0, 61.0)
GIVEN = {"dtype": "float64", "steps": 4, "ipc": 2, "teachers__networks": NETWORKS, "teachers__epochs": 5}
GIVEN |= {"teachers__check": False, "sre2l__crop": "resized", "sre2l__block": 2}
OPTIONS = {
    "dwa": {"dwa__rho": 0.3, "dwa__ascent_steps": 3, "dwa__variance": 11.0},
    "cv-dd": {"cv-dd__fixed": (1, 3), "cv-dd__priors": PRIORS},
}
STACKS = [("dwa",), ("cv-dd",), ("dwa", "cv-dd"), ("dsa",), ("fyi",), ("fyi", "dsa", "dwa")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the teachers of all these runs lie."""
    return str(tmp_path_factory.mktemp("cache"))


def seen(run, task, pixels, step: int, *, least: float | None, reach: int, centred: bool) -> tuple[Tensor, Tensor]:
    """Images and classes under the step's crop, mirror and roll, which are the same for the whole block."""
    images, classes = pixels, task.classes
    if "fyi" in run.plugins:
        images, classes = torch.cat([images, images.flip(3)]), torch.cat([classes, classes])
    generator = run.generator("sre2l", "view", task.key, step)
    mirror = 0.0 if least is None else 0.5
    view = draw_view(8, reach, generator, least=least, mirror=mirror, centred=centred)
    if view.box is not None:
        top, left, height, width = view.box
        images = images[:, :, top : top + height, left : left + width]
        images = F.interpolate(images, (8, 8), mode="bilinear", align_corners=False)
    images = images.flip(3) if view.mirrored else images
    images = images.roll(view.roll[0], 2).roll(view.roll[1], 3)
    transform = run.draw("match", key=("sre2l", task.key, step), shared=True, progress=Progress(step, task.steps))
    return transform(Batch(images, {"class": classes}, torch.arange(len(images)))).inputs, classes


def unlearned(network: nn.Module, images: Tensor, classes: Tensor, *, rho: float, steps: int) -> nn.Module:
    """DWA's copy of a teacher: so many steps of length rho / steps up the cross entropy."""
    network = deepcopy(network).requires_grad_(True)
    for _ in range(steps):
        network.zero_grad()
        F.cross_entropy(network(images), classes).backward()
        norm = sum(p.grad.square().sum() for p in network.parameters()).sqrt()
        with torch.no_grad():
            for p in network.parameters():
                p += rho / steps * p.grad / (norm + 1e-12)
    return network.requires_grad_(False)


def teachers(run, images: Tensor, classes: Tensor) -> list[tuple[float, nn.Module]]:
    """Who votes, and how much that weighs."""
    numbers, weights = (0, 1, 2), (1 / 3, 1 / 3, 1 / 3)
    if "cv-dd" in run.plugins:
        powers = [math.exp(PRIORS[j] / 5) for j in (0, 2)]
        numbers, weights = (0, 2), [power / sum(powers) for power in powers]
    networks = [run.teachers.network(number) for number in numbers]
    if "dwa" in run.plugins:
        networks = [unlearned(n, images.detach(), classes, rho=0.3, steps=3) for n in networks]
    return list(zip(weights, networks, strict=True))


def total_variation(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    total = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = images[:, :, : height - down, max(0, -right) : width - max(0, right)]
        there = images[:, :, down:, max(0, right) : width + min(0, right)]
        total = total + ((here - there) ** 2).sum().sqrt()
    return total


def usual_loop(
    run, task, tensors, *, rate=0.25, bn=0.01, first=10.0, tv=0.0, l2=0.0, least=0.08, reach=4, centred=False
) -> Iterator[float]:
    pixels = tensors["pixels"]
    adam = torch.optim.Adam([pixels], lr=rate, betas=(0.5, 0.9), eps=1e-8)
    view = {"least": least, "reach": reach, "centred": centred}
    voting = teachers(run, *seen(run, task, pixels, 0, **view))
    variance = 11.0 if "dwa" in run.plugins else 1.0
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (run.normalisation.mean, run.normalisation.std)
    )
    for step in range(task.steps):
        adam.param_groups[0]["lr"] = 0.5 * rate * (1 + math.cos(math.pi * step / task.steps))
        images, classes = seen(run, task, pixels, step, **view)
        loss = tv * total_variation(images) + l2 * sum(image.norm() for image in images) / len(images)
        for weight, network in voting:
            given = {"bn": bn, "first": first, "variance": variance}
            loss = loss + weight * entropy_and_statistics(network, images, classes, **given)
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            pixels.copy_(torch.maximum(torch.minimum(pixels, (1 - mean) / std), -mean / std))
        yield loss.item()


def words(*plugins: str) -> list[str]:
    return [word for plugin in ("sre2l", *plugins) for word in ("--plugin", plugin)]


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("plugins", [(), *STACKS], ids="+".join)
def test_images_of_a_block_move_as_under_the_usual_loop(plugins, number, cache, tiny_run):
    options = {name: value for plugin in plugins for name, value in OPTIONS.get(plugin, {}).items()}
    options |= {"init": "real"} if {"dwa", "cv-dd"} <= {*plugins} else {}  # each suggests its own
    run = tiny_run(*words(*plugins), **GIVEN, **options, cache=cache)
    check_whole_steps(run, usual_loop, number=number)


@pytest.mark.parametrize(
    ("options", "usually"),
    [
        ({"rate": 0.1, "bn": 1.0, "first": 2.0}, {"rate": 0.1, "bn": 1.0, "first": 2.0}),
        ({"tv": 0.03, "l2": 0.2}, {"tv": 0.03, "l2": 0.2}),
        ({"scale": 0.6, "roll": 1}, {"least": 0.6, "reach": 1}),
        ({"crop": "none", "centred": True}, {"least": None, "centred": True}),
    ],
)
def test_every_option_does_what_it_says(options, usually, cache, tiny_run):
    given = GIVEN | {f"sre2l__{name}": value for name, value in options.items()}
    check_whole_steps(tiny_run(*words(), **given, cache=cache), lambda *at: usual_loop(*at, **usually))
