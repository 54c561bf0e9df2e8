"""Rows (D,) and series (C, L) of a modality that nobody knows: which plugins work on them, and what a pack says of
its data."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddcore import load_artifact
from ddcore.cli.app import invoke
from ddcore.composing.discovery import FIRST_PARTY, installed, load_class
from ddcore.data.normalisation import Identity
from ddcore.sets.decoders import Decoder
from ddcore.sets.levels import to_levels

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


RUNS = frozenset(
    {
        *("dm", "dc", "mtt", "datm", "coresets", "quantize"),
        *("kd", "kd-pruning", "meal-v2", "nd", "rad", "rs2", "sinkd"),
        *("ray", "submitit", "mlflow", "tensorboard"),
        *("series", "tabular", "text"),  # packs, whose data these are not
    }
)
"""What works on rows (D,) as it is; everything else says why not."""


def alone(name: str) -> list[str]:
    """A run of a plugin as cheap as it calls itself, beside dm if it is no matcher."""
    cls = load_class(name)[0]
    words = of(name) if cls.role == "matcher" else [*of("dm"), *of(name)]
    for option, value in cls.tiny.items():
        flag = f"--{name}.{'no-' if value is False else ''}{option.replace('_', '-')}"
        words += [flag] if isinstance(value, bool) else [flag, str(value)]
    trained = "trajectories" in (*cls.needs, *cls.may_need)
    return [
        *words,
        *(EXPERTS if trained else []),
        *([] if name == "coresets" else ["--steps", "1"]),
        "--preset",
        "none",
    ]


@pytest.mark.parametrize("name", sorted(set(installed()) & {*FIRST_PARTY}))
def test_every_plugin_runs_on_rows_or_says_in_a_sentence_that_it_does_not(name, folder, tmp_path, capsys):
    code = invoke(["run", *alone(name), *words(folder, "rows"), *COMMON, "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err.strip().splitlines()
    assert code == (0 if name in RUNS else 2), said
    assert not any("Traceback" in line for line in said)
    if name not in RUNS:
        assert said[-1].startswith("error: ") and repr(name) in said[-1] or name == "mi-alpha", said


STUDENTS = {
    "kd": of("kd"),
    "kd-pruning": of("kd-pruning", share="0.5", select="el2n", epochs="1"),
    "meal-v2": of("meal-v2"),
    "mi-alpha": of("mi-alpha", weight="0"),
    "nd": of("nd"),
    "rad": of("rad"),
    "sinkd": of("sinkd"),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_students_that_teachers_teach_learn_from_series_too(name, folder, tmp_path, capsys):
    teachers = ["--teachers.epochs", "1", "--teachers.no-check"]
    asked = [*of("dm"), *STUDENTS[name], *teachers, *words(folder, "waves"), "--network", "waves", *COMMON]
    assert invoke(["run", *asked, "--steps", "1", "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    capsys.readouterr()


def test_what_a_pack_says_of_its_data_is_what_is_done(folder, tmp_path, capsys):
    """No word of a network or a protocol: ``mlp`` and ``plain-2`` are what the pack suggests; so are rows and picture."""
    run = tmp_path / "run"
    small = ["--threads", "1", "--ipc", "2", "--steps", "1", "--eval-seeds", "2", "--rows", "distilled,random"]
    assert invoke(["run", *of("dm"), *words(folder, "rows"), *small, "--out", str(run)]) == 0
    out = capsys.readouterr()
    assert (
        "network mlp (auto for probe)" in out.err and "verdict on distilled (hard, mlp, plain-2, balanced)" in out.out
    )
    found = [(row["set"], row.get("metric", "accuracy"), row.get("better", "larger")) for row in rows_of(run)]
    assert found == [
        *(("distilled", "accuracy", "larger"), ("random", "accuracy", "larger")),
        *(("distilled", "balanced", "larger"), ("random", "balanced", "larger")),
        *(("distilled", "gap", "smaller"), ("random", "gap", "smaller")),
    ]
    first, balanced = rows_of(run)[0], rows_of(run)[2]
    assert balanced["accuracy"]["values"] == pytest.approx(first["accuracy"]["values"])  # as many of each class
    assert len(first["probe.sure"]) == 2 and "probe.sure" not in balanced and "class_accuracy" not in balanced
    with Image.open(run / "artifact" / "preview.png") as picture:
        assert picture.size == (6, 3)
    assert invoke(["report", str(run)]) == 0
    other = ["--plugin-path", str(folder / "probe.py"), "--dataset", "rows", "--eval-seeds", "1", "--full-epochs", "1"]
    assert invoke(["evaluate", str(run / "artifact"), *other, "--out", str(tmp_path / "again")]) == 0
    assert invoke(["compare", str(run), str(tmp_path / "again")]) == 0
    compared = capsys.readouterr().out
    assert "balanced: mlp, protocol plain-2" in compared and "gap: mlp, protocol plain-2" in compared


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            ("sure.mean()}", 'sure.mean(), "absent": 7 * sure.mean()}'),
            "measures 'absent' as (",
        ),
        (("return held.getvalue()", "return b'a picture'"), "preview of 'probe' (probe.py"),
    ],
)
def test_what_a_pack_says_wrongly_is_refused_by_name(wrong, said, tmp_path, capsys):
    assert PACK.count(wrong[0]) == 1
    (tmp_path / "probe.py").write_text(PACK.replace(*wrong))
    small = [*COMMON, "--steps", "1", "--rows", "distilled"]
    assert invoke(["run", *of("dm"), *words(tmp_path, "rows"), *small, "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err


def test_values_of_rows_keep_their_fineness_in_eight_bits():
    """Numbers within a hundredth are no pixels, which 256 levels from 0 to 1 would keep."""
    rows = torch.linspace(0, 0.01, 40).reshape(10, 4)
    tensors, decoder = to_levels({"pixels": rows}, [{"op": "rows", "tensor": "pixels"}], Identity(), 8)
    back = Decoder(decoder).sample(tensors, torch.arange(10))
    assert float((back - rows).abs().max()) <= 0.01 / 255 / 2 * 1.01
