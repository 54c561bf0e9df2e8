"""For tests of plugins: ``pytest_plugins = ["ddcore.testing"]`` in the package's ``conftest.py`` brings the fixtures below.

from ddcore.testing import check_plugin

def test_the_contract():
    check_plugin("mirror")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from torch import Tensor, nn

from ddcore.cli.app import invoke
from ddcore.data.source import Source
from ddcore.kit.contract import Result, check_plugin, examine
from ddcore.kit.contract.stage import PROBE, QUICK, TINY, distilled, has_matcher, staged
from ddcore.kit.contract.tiny import tiny_images as _tiny_images
from ddcore.runs.run import Run
from ddcore.runs.tasks import Tasks

__all__ = [
    "Answer",
    "FakeTeacher",
    "PROBE",
    "Result",
    "TinyGraph",
    "check_plugin",
    "ddcore_cli",
    "distilled",
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
    """From here on runs of this process save wherever they may, and are told to stop at every other such place, so many times in all.

    A command that is stopped ends with exit code 3: go on with ``resume_to_end``, and compare with one that nothing stopped.
    """
    stops, plain = chain([False, True] * times, repeat(False)), Tasks.check_stop

    def check_stop(tasks: Tasks) -> None:
        tasks.stopping = tasks.stopping or next(stops)
        plain(tasks)

    monkeypatch.setenv("DDCORE_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr(Tasks, "check_stop", check_stop)


def resume_to_end(run_folder: object) -> int:
    """``ddcore resume`` as often as a run is stopped; the exit code of the last one."""
    while (code := invoke(["resume", str(run_folder)])) == 3:
        pass
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

    A matcher of other data, such as ``mirage``, gets the data that it offers first. Without a matcher among the words, the
    contract kit's probe, which asks for every view and augmentation, matches.
    """
    count = 0

    def make(*words: str, **given: Any) -> Run:
        nonlocal count
        count += 1
        folder = tmp_path / f"run-{count}"
        cache: Mapping[str, Any] = {"cache": str(tmp_path / "cache")}
        return staged([*(() if has_matcher(words) else PROBE), *words], folder, {**cache, **given})

    return make
