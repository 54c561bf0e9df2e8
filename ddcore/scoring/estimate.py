"""A first estimate of time and memory, before heavy work: a measured forward pass, scaled by what the plan will do.

It is meant to tell minutes from days. A pass with gradients is counted as 3 forward passes, one of second order as 9.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen

from ddcore import devices
from ddcore.api.types import VECTORS, Cost
from ddcore.composing.plan import TRAJECTORIES
from ddcore.networks.passes import CHUNK, logits
from ddcore.randomness import drawing_from
from ddcore.scoring.evaluate import full_schedule, pairs_of
from ddcore.scoring.rows import FULL, RANDOM_BYTES, UNTRAINED
from ddcore.storage.progress import duration
from ddcore.training.experts import missing
from ddcore.training.protocols import HARD, Protocol, resolved_protocols

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run

BASE_BYTES = 350_000_000
ACTIVATIONS_KEPT = 6
MEASURED = 250
"""Images of the measured pass."""
DENSER = 4
"""Real images of a byte a pixel that fit the bytes of a learned one, of float32."""


def forward_passes(cost: Cost) -> int:
    """What a step costs, in units of one image forward."""
    return cost.forward + 3 * cost.backward + 9 * cost.second_order


@frozen
class Estimate:
    """Seconds by stage and peak bytes, roughly.

    Attributes:
        rate: images a second through the network, forward, measured.
    """

    rate: float
    experts: float
    distil: float
    evaluate: float
    peak_bytes: float

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, rounded."""
        names = ("rate", "experts", "distil", "evaluate", "peak_bytes")
        return {name: round(getattr(self, name), 1) for name in names}

    def sentence(self) -> str:
        """For people."""
        if not self.rate:
            return "estimate: none, passes are measured on rows of one shape only"
        stages = {"experts": self.experts, "distilling": self.distil, "evaluation": self.evaluate}
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in stages.items() if seconds)
        return f"estimate: {parts}; about {self.peak_bytes / 1e9:.1f} GB of memory ({self.rate:,.0f} samples/s forward, measured)"


def estimate(run: Run) -> Estimate:
    """Measure a pass through the run's network and scale it; on data that are not dense nothing is measured."""
    if not run.dense:
        return Estimate(0.0, 0.0, 0.0, 0.0, BASE_BYTES)
    network = run.network(run.generator("estimate")).requires_grad_(False)
    parameters = sum(p.numel() for p in network.parameters())
    images = run.real.train.inputs(torch.arange(min(MEASURED, len(run.real.train))))
    with drawing_from(run.generator("estimate", "dropout"), run.device):
        rate = measured_rate(network, images)
    rows = len(run.source.classes) * run.config.ipc
    cost: Cost = run.matcher.cost(run)
    experts = 0.0
    if TRAJECTORIES in run.plan.needs:
        recipe: Any = run.options["experts"]
        experts = len(missing(run)) * recipe.epochs * 3 * len(run.real.train) / rate
    evaluated = evaluation_images(run, rows)
    activation = 4 * ACTIVATIONS_KEPT * _activations(network, images[:1]) * CHUNK
    held = run.source.train.stored.nbytes + run.source.test.stored.nbytes + 4 * parameters * cost.weights_kept
    return Estimate(
        rate, experts, run.plan.steps * forward_passes(cost) / rate, evaluated / rate, BASE_BYTES + activation + held
    )


def measured_rate(network: torch.nn.Module, images: torch.Tensor) -> float:
    """Images a second through ``network`` without gradients: the better of two passes after a warm-up."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        logits(network, images)
        devices.wait(images.device)
        seconds.append(time.perf_counter() - start)
    return len(images) / max(1e-9, min(seconds[1:]))


def evaluation_images(run: Run, rows: int) -> float:
    """Forward passes of single images that the evaluation of this run costs, at most: what is cached costs nothing.

    Args:
        rows: images of the set.
    """
    if not run.source.labelled:
        return 0.0
    soft = run.labeller != HARD or (bool({"labels", VECTORS} & set(run.matcher.learns)) and run.config.labels is None)
    tested = len(run.real.test) + sum(len(other.samples) for other in run.elsewhere)
    once = 0.0
    for recipe in resolved_protocols(run):
        probe = 0 if recipe.probe is None else sum(recipe.probe.images(run.real.counts()))
        once += sum(3 * _seen(run, recipe, name, rows) + probe + tested for name, _ in pairs_of(run, recipe, soft=soft))
    return once * max(1, len(run.config.eval_network)) * run.config.eval_seeds


def _seen(run: Run, recipe: Protocol, name: str, rows: int) -> int:
    """Images that a student of a row sees in training."""
    if name == UNTRAINED:
        return 0
    if name == FULL:
        return full_schedule(run, recipe).steps * min(recipe.batch, len(run.real.train))
    images = rows * (DENSER if name == RANDOM_BYTES else 1)
    return recipe.schedule(rows).steps * min(recipe.batch, images)


def _activations(network: torch.nn.Module, image: torch.Tensor) -> int:
    sizes: list[int] = []
    hooks = [
        module.register_forward_hook(
            lambda _m, _i, out: sizes.append(out.numel()) if isinstance(out, torch.Tensor) else None
        )
        for module in network.modules()
        if not list(module.children())
    ]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(image)  # batch statistics of one image would be none
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return sum(sizes)
