"""For tests of plugins: ``pytest_plugins = ["ddcore.testing"]`` in the package's ``conftest.py`` brings the fixtures
below.

from ddcore.testing import check_plugin

def test_the_contract():
    check_plugin("mirror")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ddcore.api.types import Task
from ddcore.cli.app import invoke
from ddcore.data.source import Source
from ddcore.kit.contract import Result, check_plugin, examine
from ddcore.kit.contract.stage import PROBE, QUICK, TINY, distilled, has_matcher, staged
from ddcore.kit.contract.tiny import tiny_images as _tiny_images
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.loop import begin, outer_step
from ddcore.runs.run import Run
from ddcore.runs.tasks import Tasks

__all__ = [
    "Answer",
    "FakeTeacher",
    "PROBE",
    "Result",
    "TinyGraph",
    "check_plugin",
    "check_whole_steps",
    "ddcore_cli",
    "descended",
    "distilled",
    "entropy_and_statistics",
    "examine",
    "fake_teacher",
    "resume_to_end",
    "stop_often",
    "tiny_graphs",
    "tiny_images",
    "tiny_run",
]


@frozen
class Answer:
    """What one command line gave.

    Attributes:
        code: exit code.
        json: what ``--json`` printed; None without it.
        out, err: everything printed.
    """

    code: int
    json: Any
    out: str
    err: str


@frozen(eq=False)
class TinyGraph:
    """A small graph: node features x (V, 3) float32, both directions of each edge (2, E) int64, and its class."""

    x: Tensor
    edge_index: Tensor
    label: int


class FakeTeacher(nn.Module):
    """A classifier that is right without training: the nearest class mean of the images it was made from.

    Logits are -||x - mean_c||^2 / D; ``embed`` gives flat pixels (B, D).
    """

    def __init__(self, images: Tensor, labels: Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.stack([images[labels == c].flatten(1).mean(0) for c in range(classes)]))

    def embed(self, images: Tensor) -> Tensor:
        """Flat pixels (B, D)."""
        return images.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        means: Tensor = self.means  # type: ignore[assignment]
        return -(self.embed(images)[:, None] - means.to(images)).square().mean(2)


UsualLoop = Callable[[Run, Task, dict[str, Tensor]], Iterable[float | None]]


def check_whole_steps(run: Run, usual: UsualLoop, *, number: int = 0, rtol: float = 1e-8) -> dict[str, Tensor]:
    """All steps of a distillation task as a run makes them, beside a method's usual loop written out plainly.

    Args:
        run: in float64, not begun.
        usual: ``usual(run, task, tensors)`` makes the same steps: a generator that moves ``tensors``, leaves with the
            values that the task begins with, in place, and yields each step's loss, or None where a step moves nothing.
            It draws from the generators that the plugin draws from, and should use nothing else of the plugin.
        number: of the task among the run's.
        rtol: relative, of losses and of every entry of a tensor's move since the start; a hundredth of it, of the
            largest entry of that move, is allowed to small ones.

    Returns:
        The learned tensors after the last step, by name, detached.

    Raises:
        AssertionError: names the step, and the loss or the tensor that is another; or the tensor that asks for a
            gradient and never moved; or says that the usual loop ended early.
    """
    task = distillation_tasks(run)[number]
    learn = begin(task, run)
    start = {name: tensor.detach().clone() for name, tensor in learn.tensors.items()}
    own = {name: start[name].clone().requires_grad_(t.requires_grad) for name, t in learn.tensors.items()}
    made = 0
    for step, due in enumerate(usual(run, task, own)):
        got = outer_step(task, step, learn, run)
        assert (got is None) == (due is None), f"step {step}: the run's loss is {got}, the usual loop's {due}"
        assert due is None or got == pytest.approx(due, rel=rtol), (
            f"step {step}: loss {got}, under the usual loop {due}"
        )
        for name, begun in start.items():
            moves = (learn.tensors[name].detach() - begun, own[name].detach() - begun)
            _require_close(*moves, rtol, f"step {step}: {name!r} moved otherwise than under the usual loop")
        made += 1
    assert made == task.steps, f"the usual loop made {made} of {task.steps} steps"
    for name, tensor in learn.tensors.items():
        assert not tensor.requires_grad or not torch.equal(tensor.detach(), start[name]), f"{name!r} never moved"
    return {name: tensor.detach() for name, tensor in learn.tensors.items()}


def _require_close(got: Tensor, due: Tensor, rtol: float, what: str) -> None:
    atol = rtol * float(due.abs().max()) / 100
    torch.testing.assert_close(got, due, rtol=rtol, atol=atol, msg=lambda why: f"{what}\n{why}")


def descended(network: nn.Module, start_P: Tensor, batches: Iterable[tuple[Tensor, Tensor]], rate: Tensor) -> Tensor:
    """Where plain SGD on the mean cross entropy leads from flat weights, by the textbook's loop, all steps in one
    graph.

    Args:
        network: gives the architecture.
        start_P: weights (P,) in ``parameters()`` order.
        batches: of each step, images (B, C, H, W) and class ids (B,) or probabilities (B, K).
        rate: scalar tensor.

    Returns:
        Weights (P,), differentiable in images, probabilities and rate.
    """
    names, shapes = zip(*((name, p.shape) for name, p in network.named_parameters()), strict=True)
    theta_P = start_P.detach().clone().requires_grad_()
    for images, targets in batches:
        pieces = theta_P.split([shape.numel() for shape in shapes])  # type: ignore[no-untyped-call]
        weights = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        loss = F.cross_entropy(functional_call(network, weights, (images,)), targets)
        (gradient_P,) = torch.autograd.grad(loss, theta_P, create_graph=True)
        theta_P = theta_P - rate * gradient_P
    return theta_P


def entropy_and_statistics(
    network: nn.Module, images: Tensor, classes: Tensor, *, bn: float, first: float = 10.0, variance: float = 1.0
) -> Tensor:
    """The loss that images are recovered by, written out plainly: mean cross entropy, and gaps of batch statistics.

    Of each ``BatchNorm2d``'s input the L2 norms, over channels, of how far means and (population) variances are from
    those that the layer remembers.

    Args:
        network: in eval mode.
        images: (B, C, H, W); classes: (B,) int64.
        bn: weight of the statistics.
        first: weight of the first layer's, of the others' 1.
        variance: weight of the variances', of the means' 1.
    """
    layers, inputs = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)], []
    hooks = [layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for layer in layers]
    loss = F.cross_entropy(network(images), classes)
    for at, (layer, x, hook) in enumerate(zip(layers, inputs, hooks, strict=True)):
        hook.remove()
        means = x.mean((0, 2, 3))
        variances = (x - means[:, None, None]).square().mean((0, 2, 3))
        gap_of_means = (means - layer.running_mean).square().sum().sqrt()
        gap_of_variances = (variances - layer.running_var).square().sum().sqrt()
        loss = loss + bn * (first if at == 0 else 1.0) * (gap_of_means + variance * gap_of_variances)
    return loss


@pytest.fixture
def tiny_images() -> Source:
    """Three classes of 8x8 colour images, 12 for training and 6 for testing each; always the same."""
    return _tiny_images()


@pytest.fixture
def tiny_graphs() -> list[TinyGraph]:
    """Twelve graphs of 4 to 7 nodes: rings (class 0) and stars (class 1); node features are one, degree, position."""
    graphs = []
    for number in range(12):
        nodes, label = 4 + number // 2 % 4, number % 2
        around = [(i, (i + 1) % nodes) for i in range(nodes)]
        edges = around if label == 0 else [(0, i) for i in range(1, nodes)]
        both = torch.tensor(edges + [(b, a) for a, b in edges]).T.contiguous()
        degree = torch.bincount(both[0], minlength=nodes).float()
        x = torch.stack([torch.ones(nodes), degree, torch.arange(nodes) / nodes], dim=1)
        graphs.append(TinyGraph(x, both, label))
    return graphs


@pytest.fixture
def ddcore_cli(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Answer]:
    """``ddcore_cli("run", "--plugin", "dm", "--json")`` runs a command line in this process and returns an ``Answer``.

    The cache is a scratch folder. For 8x8 images without a file: ``*ddcore_cli.tiny``.
    """
    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))

    def call(*arguments: object) -> Answer:
        code = invoke([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Answer(code, json.loads(out) if "--json" in arguments and out else None, out, err)

    call.tiny = tiny_words()  # type: ignore[attr-defined]
    return call


def stop_often(monkeypatch: pytest.MonkeyPatch, times: int = 2) -> None:
    """From here on runs of this process save wherever they may, and are told to stop at every other such place, so many
    times in all.

    A command that is stopped ends with exit code 3: go on with ``resume_to_end``, and compare with one that nothing
    stopped.
    """
    stops, plain = chain([False, True] * times, repeat(False)), Tasks.check_stop

    def check_stop(tasks: Tasks) -> None:
        tasks.stopping = tasks.stopping or next(stops)
        plain(tasks)

    monkeypatch.setenv("DDCORE_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr(Tasks, "check_stop", check_stop)


def resume_to_end(run_folder: object) -> int:
    """``ddcore resume`` as often as a run is stopped, a thousand times at most; the exit code of the last one."""
    for _ in range(1000):
        if (code := invoke(["resume", str(run_folder)])) != 3:
            break
    return code


def tiny_words() -> list[str]:
    """Command-line words for a run of seconds on the tiny images."""
    words = [*TINY]
    for name, value in QUICK.items():
        for item in value if isinstance(value, tuple) else (value,):
            words += [f"--{name.replace('_', '-')}", str(item)]
    return [*words, "--preset", "none"]


@pytest.fixture
def fake_teacher(tiny_run: Callable[..., Run]) -> FakeTeacher:
    """A teacher of the normalised tiny images that is always right on them."""
    run = tiny_run()
    train = run.real.train
    return FakeTeacher(train.inputs(torch.arange(len(train))), train.labels, len(run.source.classes)).eval()


@pytest.fixture
def tiny_run(tmp_path: Path) -> Callable[..., Run]:
    """``tiny_run("--plugin", "dm", ipc=1, dm__lr_img=2.0)``: a run on the tiny images that has not begun.

    A matcher of other data, such as ``mirage``, gets the data that it offers first. Without a matcher among the words,
    the contract kit's probe, which asks for every view and augmentation, matches.
    """
    count = 0

    def make(*words: str, **given: Any) -> Run:
        nonlocal count
        count += 1
        folder = tmp_path / f"run-{count}"
        cache: Mapping[str, Any] = {"cache": str(tmp_path / "cache")}
        return staged([*(() if has_matcher(words) else PROBE), *words], folder, {**cache, **given})

    return make
