"""Rows (D,) and series (C, L) of a modality that nobody knows: which plugins work on them, and what a pack says of
its data."""

import json
from pathlib import Path

import pytest
import torch

from ddcore import load_artifact
from ddcore.cli.app import invoke
from ddcore.composing.discovery import installed, load_class

PACK = """
import io
import torch
from PIL import Image
from attrs import frozen
from torch import nn
from ddcore import Plugin, hookimpl
from ddcore.data import Source, Split

SHAPES = {"rows": (6,), "waves": (2, 16)}

class Waves(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv1d(channels, 8, 3, padding=1), nn.GroupNorm(8, 8), nn.ReLU(), nn.MaxPool1d(2)),
            *(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        )
        self.out = nn.Linear(8, classes)

    def embed(self, x):
        return self.body(x)

    def forward(self, x):
        return self.out(self.embed(x))

@frozen(kw_only=True, eq=False)
class Probe(Plugin):
    role = "data"
    modality = frozenset({"probe", "dense"})
    datasets = tuple(SHAPES)
    networks = ("waves",)
    suggests_network = "mlp"
    metrics = {"balanced": "larger", "gap": "smaller", "absent": "larger"}

    def suggests_protocol(self, subject):
        return "plain-2" if subject.modality == "probe" else None

    def preview(self, samples, classes, run):
        held = io.BytesIO()
        Image.new("L", (len(samples), int(classes.max()) + 1)).save(held, format="PNG")
        return held.getvalue()

    @hookimpl
    def ddcore_data(self, name, rest, options):
        if name not in SHAPES:
            return None
        generator = torch.Generator().manual_seed(0)
        centres = 3 * torch.randn(3, *SHAPES[name], generator=generator)
        def part(count):
            labels = torch.arange(count) % 3
            return Split(centres[labels] + torch.randn(count, *SHAPES[name], generator=generator), labels)
        return Source(name=name, train=part(60), test=part(30), classes=("a", "b", "c"), modality="probe",
                      dense=True, row_bytes=12, mirror_symmetric=False)

    @hookimpl
    def ddcore_network(self, name, channels, size, classes, generator, shape):
        return Waves(channels, classes) if name == "waves" else None

    @hookimpl
    def ddcore_examine(self, answers):
        of_class = [(answers.classes[answers.labels == c] == c).double().mean() for c in range(3)]
        sure = answers.logits.softmax(1).amax(1).double()
        assert torch.allclose(sure.float(), answers.confidence, atol=1e-6)
        return {"balanced": sum(of_class) / 3, "gap": (sure.mean() - answers.accuracy).abs(), "sure": sure.mean()}
"""
NETWORKS = {"rows": "mlp", "waves": "waves"}
EXPERTS = ["--experts.count", "1", "--experts.epochs", "2"]
UNROLL = {"student-steps": "2", "expert-epochs": "1", "max-start-epoch": "1"}


def of(plugin: str, **options: str) -> list[str]:
    return ["--plugin", plugin, *(w for n, v in options.items() for w in (f"--{plugin}.{n.replace('_', '-')}", v))]


MTT = [*of("mtt", student_steps="2", expert_epochs="1", max_start_epoch="1"), *EXPERTS]
DATM = [*of("datm", student_steps="2", expert_epochs="1", max_start_epoch="1"), *EXPERTS]
MADE: dict[str, list[str]] = {
    "dm": of("dm"),
    "dc": of("dc", outer_loops="2", inner_epochs="1"),
    "mtt": MTT,
    "mtt tesla": [*MTT, "--mtt.unroll", "tesla", "--mtt.batch", "3"],
    "datm": DATM,
    "ftd on datm": [*DATM, *of("ftd")],
    "quantize on dm": [*of("dm"), *of("quantize", bits="4")],
    "herding": [*of("coresets", features="pixels"), "--preset", "none"],
    "k-center": of("coresets", method="k-center", features="random"),
    "el2n": [*of("coresets", method="el2n"), *EXPERTS],
    "forgetting": [*of("coresets", method="forgetting"), *EXPERTS],
    "grand": [*of("coresets", method="grand"), *EXPERTS],
    "graph-cut": [*of("coresets", method="graph-cut"), *EXPERTS],
    "herding for dm": [*of("dm"), *of("coresets", features="pixels"), "--init", "coreset"],
}
COMMON = ["--threads", "1", "--ipc", "2", "--protocol", "plain-2", "--eval-seeds", "1", "--rows", "distilled,random"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("modalities")
    (folder / "probe.py").write_text(PACK)
    return folder


def words(folder: Path, data: str) -> list[str]:
    return ["--plugin-path", str(folder / "probe.py"), "--dataset", data, "--cache", str(folder / "cache")]


def rows_of(place: Path) -> list[dict]:
    return json.loads((place / "scores.json").read_text())["rows"]


@pytest.mark.parametrize("data", NETWORKS)
@pytest.mark.parametrize("how", MADE)
def test_what_no_shape_matters_to_makes_a_set_and_it_is_evaluated(how, data, folder, tmp_path, capsys):
    steps = [] if "coresets" in MADE[how][:2] else ["--steps", "2"]
    asked = [*MADE[how], *steps, *words(folder, data), "--network", NETWORKS[data], *COMMON]
    assert invoke(["run", *asked, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    made = load_artifact(tmp_path / "run" / "artifact")
    assert made.images().shape == (6, *({"rows": (6,), "waves": (2, 16)}[data]))
    assert {row["set"] for row in rows_of(tmp_path / "run")} == {"distilled", "random"}
    assert (made.real_count == 6) is (not steps)
    capsys.readouterr()
