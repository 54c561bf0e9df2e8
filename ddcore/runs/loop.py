"""One distillation task: from initial images to finished tensors. The loop never knows a batch: the matcher does.

A resumed task builds everything again from the *initial* images, then loads the checkpoint, so that what is derived
from them (adapted teachers, masks) comes out the same; from there on it equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ddcore.api.types import Companion, Learn, Task
from ddcore.composing import answers
from ddcore.composing.dispatch import ALONE, PerPlugin
from ddcore.composing.plan import refuse_idle
from ddcore.errors import NonFiniteLoss, PluginError
from ddcore.runs.divergence import Put, Watcher, unseen
from ddcore.runs.snapshots import keep_snapshot

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run


def distil_task(task: Task, run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run every step that is left of a task.

    Returns:
        The learned tensors, detached on the CPU; and ``roles`` and ``decoder`` to go with them.

    Raises:
        NonFiniteLoss: a loss or a learned tensor became NaN or infinite; the last good checkpoint stays.
        Diverged: a learned rate stays on its floor; the checkpoint from before that stays.
        Interrupted: the run was told to stop; the checkpoint is saved, or a good one of before.
    """
    learn = begin(task, run)
    companions = run.hooks.companions(task, learn, run)
    state: dict[str, Any] = {"tensors": learn.tensors, "optimizers": learn.optimizers, "matcher": learn.state}
    state |= {"plugins": {name: one.state for name, one in companions.items()}} if companions else {}
    watcher = Watcher(task, learn, run)
    state["watched"] = watcher.kept
    first = run.checkpoints.load(task.key, state)
    if watcher.keeps(first) and not first:
        run.checkpoints.save(task.key, 0, state)
    keep_snapshot(task, first, learn, run)
    with run.progress("distil", task.steps, "steps") as tick:
        tick(first)
        for step in range(first, task.steps):
            start = time.perf_counter()
            loss = outer_step(task, step, learn, run, PerPlugin(companions.get), watcher.put)
            with torch.no_grad():
                run.hooks.after_step(companions, step, loss)
            run.log("step", task=task.key, step=step, loss=loss, seconds=round(time.perf_counter() - start, 4))
            keep_snapshot(task, step + 1, learn, run)
            tick(1, "skipped" if loss is None else f"loss {loss:.4g}")
            if step == first:
                refuse_idle(run.hooks, run.plugins, run.plan.matcher)
            watcher.after(step, loss)
            if run.stopping or run.checkpoints.due() or watcher.keeps(step + 1):
                require_finite(learn.tensors, step, run)
                if watcher.may_keep:
                    run.checkpoints.save(task.key, step + 1, state)
                run.check_stop()
    watcher.warn_if_idle()
    require_finite(learn.tensors, task.steps - 1, run)
    tensors = finish(task, learn, companions, run)
    header = {"roles": dict(learn.roles), "decoder": [dict(op) for op in learn.decoder]}
    return tensors, {**header, **watcher.header()}


def finish(task: Task, learn: Learn, companions: Mapping[str, Companion], run: Run) -> dict[str, Tensor]:
    """What the task hands on: copies of the learned tensors on the CPU, as companions change them."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in learn.tensors.items()}
    with torch.no_grad():
        changed = run.hooks.finish(companions, tensors)
    require_finite(changed, task.steps - 1, run)
    return changed


def begin(task: Task, run: Run) -> Learn:
    """What the task learns, made from its initial images; the same at its start and at each resume."""
    images = None if task.classes is None else run.initialize(task.classes, task)
    return run.hooks.learn(task, images, run)


def outer_step(
    task: Task, step: int, learn: Learn, run: Run, companions: PerPlugin = ALONE, put: Put = unseen
) -> float | None:
    """One outer step: move the synthetic set along every loss that the matcher yields.

    Args:
        companions: by plugin.
        put: is told of each tensor that moved, and of what plugins made of it.

    Returns:
        The sum of the losses; None if the matcher yielded nothing, and so nothing moved.
    """
    pending: set[str] = set()
    moved: set[str] = set()
    total: float | None = None
    every = list(learn.optimizers)
    _clear(learn.optimizers.values())
    for loss in run.hooks.matching_loss(task, step, learn, run):
        value = answers.yielded(loss, f"ddcore_matching_loss of {run.matcher_name}", run.plan.matcher, step, run.device)
        total = value if total is None else total + value
        names = list(loss.update) or every
        backward(loss.value, [learn.optimizers[name] for name in names])
        if loss.update:
            moved.update(names)
            move(learn, names, task, run, companions, put)
        else:
            pending.update(names)
        if both := pending & moved:
            way_out = "yield all of an optimiser's losses with update=..., or none"
            raise PluginError(
                f"{run.matcher_name} steps optimiser {sorted(both)[0]!r} at once and also accumulates into it: {way_out}"
            )
    move(learn, [name for name in every if name in pending], task, run, companions, put)
    return total


def backward(value: Tensor, optimizers: Iterable[Optimizer]) -> None:
    """Add the gradient of ``value`` to the optimisers' parameters, and to nothing else."""
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def move(
    learn: Learn, names: Iterable[str], task: Task, run: Run, companions: PerPlugin = ALONE, put: Put = unseen
) -> None:
    """Step optimisers, then let plugins put what moved back where it belongs."""
    for name in names:
        optimizer = learn.optimizers[name]
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        moved = {n: t for n, t in learn.tensors.items() if id(t) in held}
        before = {n: t.detach().clone() for n, t in moved.items()} if run.hooks.projects else {}
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for tensor_name, old in before.items():
            with torch.no_grad():
                tensor = moved[tensor_name]
                role = learn.roles.get(tensor_name, "")
                about = {"before": old, "name": tensor_name, "role": role, "task": task, "run": run}
                about["companion"] = companions
                kept = run.hooks.project(tensor.detach(), run.matcher, **about)
                put(tensor_name, role, tensor.detach(), kept)
                tensor.copy_(kept)


def _clear(optimizers: Iterable[Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)


def require_finite(tensors: dict[str, Tensor], step: int, run: Run) -> None:
    """Keep a tensor that has gone bad out of the checkpoint.

    Raises:
        NonFiniteLoss: naming tensor and step.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteLoss(
                f"{name} became NaN or infinite by step {step} under {run.matcher_name}; the last good checkpoint is kept: "
                f"try a smaller learning rate, then run again into a new --out"
            )
