"""The command line as people meet it: what it prints, its exit codes, and one sentence for every wrong input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ddcore.cli.app import invoke
from ddcore.runs.opening import open_run
from ddcore.scoring import evaluate
from ddcore.storage.places import Place, load_tensors, read_metadata

pytestmark = pytest.mark.usefixtures("probes")
SMALL = [
    "--steps",
    "2",
    "--eval-seeds",
    "1",
    "--protocol",
    "quick-2",
    "--network",
    "convnet2-w8",
    "--preset",
    "none",
    "--threads",
    "1",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ddcore(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        code = invoke([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def check_refused(result: tuple[int, str, str], *words: str) -> None:
    code, _, err = result
    last = [line for line in err.splitlines() if not line.startswith("warning:")][-1]
    assert code == 2, err
    assert last.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in last, (word, last)


def npz(path: Path, images: np.ndarray | None = None, labels: np.ndarray | None = None) -> str:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8) if images is None else images
    labels = np.arange(len(images)) % 4 if labels is None else labels
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return f"npz:{path}"


def test_a_whole_run_leaves_what_the_contract_says(ddcore, tmp_path):
    code, out, err = ddcore("run", "--plugin", "pull", "--plugin", "turn", *SMALL, "--out", tmp_path / "run", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if p.name != ".lock") == [
        *("artifact", "checkpoints", "log.jsonl", "report.html", "run.json", "scores.json", "snapshots")
    ]
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    assert answer["rows"] == rows
    assert {row["set"] for row in rows} == {"distilled", "random", "kcenter", "random-bytes", "full"}
    for row in rows:
        assert set(row) >= {"set", "protocol", "network", "labels", "ipc", "bytes", "accuracy", "steps", "seconds"}
        assert set(row["bytes"]) >= {"images", "labels", "models", "total"}
        assert 0 <= row["accuracy"]["mean"] <= 1
    assert any("mirror" in warning for warning in answer["warnings"])
    events = [json.loads(line)["event"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert events.count("step") == 2


def test_a_baseline_is_a_row_of_its_own_with_as_many_images_in_run_and_evaluate(ddcore, tmp_path, monkeypatch):
    run, shown, train = tmp_path / "run", {}, evaluate.train_and_test

    def watched(own, course, data, generator, key, **more):
        shown.setdefault(key.split("-")[1], data.images)
        return train(own, course, data, generator, key, **more)

    monkeypatch.setattr(evaluate, "train_and_test", watched)
    options = ("--protocol", "quick-20", "--baseline", "noise", "--out", run, "--json")
    code, out, err = ddcore("run", "--plugin", "pull", *SMALL, *options)
    assert code == 0, err
    rows = {row["set"]: row for row in json.loads(out)["rows"] if row["protocol"] == "quick-20"}
    assert rows["noise"]["images"] == rows["random"]["images"] and "uint8" in rows["noise"]["note"]
    train_images = open_run(str(run)).real.train
    real = {image.numpy().tobytes() for image in train_images.inputs(torch.arange(len(train_images)))}
    assert all(image.numpy().tobytes() in real for image in shown["random"])
    assert not any(image.numpy().tobytes() in real for image in shown["noise"])
    code, out, _ = ddcore("evaluate", run / "artifact", "--baseline", "noise", "--eval-seeds", "1", "--json")
    assert code == 0 and "noise" in {row["set"] for row in json.loads(out)["rows"]}


def test_the_order_of_plugins_does_not_change_the_bits(ddcore, tmp_path):
    for name, plugins in (("one", ["turn", "pull", "shake"]), ("two", ["shake", "pull", "turn"])):
        chosen = [word for plugin in plugins for word in ("--plugin", plugin)]
        assert ddcore("run", *chosen, *SMALL, "--out", tmp_path / name)[0] == 0
    one, two = ((tmp_path / name / "artifact" / "images.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_plan_only_and_explain_write_nothing(ddcore, tmp_path):
    code, out, _ = ddcore("run", "--plugin", "pull", "--plan-only", *SMALL)
    assert code == 0 and "match" in out and "estimate" in out
    code, out, _ = ddcore("run", "--plugin", "pull", "--pull.rate", "3", "--explain", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (rows["--pull.rate"]["value"], rows["--pull.rate"]["source"]) == (3.0, "command line")
    assert rows["--ipc"]["source"] in ("default", "preset pull/digits-ipc1")
    assert not list(tmp_path.glob("runs/*"))


def test_evaluate_inspect_and_export_read_what_run_wrote(ddcore, tmp_path):
    assert ddcore("run", "--plugin", "pull", *SMALL, "--out", tmp_path / "run")[0] == 0
    artifact = tmp_path / "run" / "artifact"
    code, out, _ = ddcore("inspect", artifact, "--json")
    assert code == 0 and json.loads(out)["samples"] == 10
    code, out, _ = ddcore("inspect", artifact)
    assert code == 0 and "10 images of 10 classes" in out
    code, out, err = ddcore("evaluate", artifact, "--eval-seeds", "1", "--protocol", "quick-1", "--json")
    assert code == 0, err
    assert len(json.loads(out)["rows"]) == 5
    for to in ("folder", "parquet", "pt"):
        assert ddcore("export", artifact, "--to", to, "--out", tmp_path / to)[0] == 0
    held = torch.load(tmp_path / "pt" / "distilled.pt", weights_only=True)
    assert held["images"].shape == (10, 1, 8, 8)
    check_refused(ddcore("export", artifact, "--to", "pt", "--out", tmp_path / "pt"), "exists already", "--out")


def test_data_list_and_show(ddcore):
    code, out, _ = ddcore("data", "list")
    assert code == 0 and "digits" in out and "parquet:" in out
    code, out, _ = ddcore("data", "show", "digits", "--json")
    shown = json.loads(out)
    assert shown["shape"] == [1, 8, 8] and len(shown["classes"]) == 10 and "CC BY 4.0" in shown["licence"]


def test_plugins_and_show(ddcore):
    code, out, _ = ddcore("plugins", "--json")
    found = {row["name"]: row for row in json.loads(out)}
    assert {"pull", "rival", "turn", "shake"} <= set(found)
    assert found["turn"]["role"] == "enhancement" and "ddcore_view" in found["turn"]["hooks"]
    code, out, _ = ddcore("plugins", "show", "pull")
    assert code == 0 and "2401.00001" in out and "--pull.rate" in out and "pull/digits-ipc1" in out


def test_a_config_file_does_what_the_command_line_does(ddcore, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'plugins = ["pull"]\nsteps = 2\neval_seeds = 1\nprotocol = ["quick-2"]\nthreads = 1\n[plugin.pull]\nrate = 0.5\n'
    )
    code, out, _ = ddcore("run", "--config", file, "--explain", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert (rows["--pull.rate"]["value"], rows["--pull.rate"]["source"]) == (0.5, f"file {file}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plugin", "rivl"], ["'rivl'", "did you mean 'rival'"]),
        (["--plugin", "pull", "--dataset", "digit"], ["'digit'", "did you mean 'digits'"]),
        (["--plugin", "pull", "--network", "convet3"], ["'convet3'", "did you mean 'convnet3'"]),
        (["--plugin", "pull", "--protocol", "quik"], ["'quik'", "did you mean"]),
        (["--plugin", "pull", "--plugin", "rival"], ["'pull'", "'rival'", "keep one"]),
        (["--plugin", "turn"], ["no selected plugin is a matcher", "--plugin turn --plugin"]),
        ([], ["no selected plugin is a matcher"]),
        (["--plugin", "pull", "--turn.both"], ["'--turn.both'", "add --plugin turn"]),
        (["--plugin", "pull", "--pull.rate", "-1"], ["--pull.rate", "-1"]),
        (["--plugin", "pull", "--pull.rate", "fast"], ["--pull.rate", "'fast'", "a number"]),
        (["--plugin", "pull", "--ipc", "0"], ["--ipc", "0"]),
        (["--plugin", "pull", "--init", "rael"], ["--init 'rael'", "did you mean 'real'"]),
        (["--plugin", "pull", "--preset", "pull/digit-ipc1"], ["--preset", "pull/digits-ipc1"]),
        (["--plugin", "pull", "--plugin", "pull"], ["'pull'", "twice"]),
        (["--plugin", "pull", "--experts.count", "3"], ["--experts.count", "leave it out"]),
        (["--plugin", "pull", "--dataset", "s4://bucket/x"], ["s4"]),
        (["--plugin", "pull", "--executor", "rya"], ["rya"]),
        (["--plugin", "pull", "--stepps", "3"], ["--stepps"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_on_the_command_line(ddcore, tmp_path, arguments, words):
    given = [word for word in SMALL if word not in arguments]
    if "--network" in arguments or "--protocol" in arguments or "--preset" in arguments:
        given = ["--steps", "2", "--eval-seeds", "1"]
    check_refused(ddcore("run", *given, *arguments, "--out", tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_in_a_file(ddcore, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("ipcc = 3\n")
    check_refused(ddcore("run", "--plugin", "pull", "--config", file), "run.toml", "'ipcc'", "did you mean 'ipc'")
    file.write_text("[plugin.pull]\nratte = 3\n")
    check_refused(ddcore("run", "--plugin", "pull", "--config", file), "[plugin.pull]", "did you mean 'rate'")
    file.write_text("ipc = \n")
    check_refused(ddcore("run", "--plugin", "pull", "--config", file), "not TOML")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(ddcore):
    check_refused(ddcore("run", "--plugin", "pull", "--device", "cuda"), "--device cuda", "--device cpu")


def test_a_folder_in_use_is_left_alone(ddcore, tmp_path):
    assert ddcore("run", "--plugin", "pull", *SMALL, "--out", tmp_path / "run")[0] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    check_refused(ddcore("run", "--plugin", "pull", *SMALL, "--out", tmp_path / "run"), "another run", "ddcore resume")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    check_refused(ddcore("run", "--plugin", "pull", *SMALL, "--out", tmp_path / "mine"), "not empty")
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    check_refused(ddcore("resume", tmp_path / "mine"), "run.json")


def test_data_that_cannot_be_used(ddcore, tmp_path):
    def run(dataset: str) -> tuple[int, str, str]:
        return ddcore("run", "--plugin", "pull", *SMALL, "--dataset", dataset, "--out", tmp_path / "run")

    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    check_refused(run(npz(tmp_path / "a.npz", labels=np.full(40, 0.5))), "a.npz", "not integers")
    bad = (images / 255.0).astype(np.float32)
    bad[7, 0, 0, 0] = np.nan
    check_refused(run(npz(tmp_path / "b.npz", images=bad)), "NaN")
    check_refused(run(f"npz:{tmp_path / 'none.npz'}"), "none.npz")
    (tmp_path / "one" / "train" / "cat").mkdir(parents=True)
    check_refused(run(f"folder:{tmp_path / 'one'}"), "one")
    check_refused(run(f"parquet:{tmp_path / 'nowhere'}"), "nowhere")
    assert not (tmp_path / "run").exists()


def test_a_driver_that_is_not_installed_is_named(ddcore):
    check_refused(ddcore("inspect", "abfs://container/artifact"), "pip install")


def test_artifacts_that_cannot_be_used(ddcore, tmp_path):
    assert ddcore("run", "--plugin", "pull", *SMALL, "--out", tmp_path / "run")[0] == 0
    artifact = tmp_path / "run" / "artifact"
    check_refused(ddcore("inspect", tmp_path / "run"), "is no artifact", "run/artifact")
    images = (artifact / "images.safetensors").read_bytes()
    (artifact / "images.safetensors").write_bytes(images[:-20])
    check_refused(ddcore("inspect", artifact), "images.safetensors")
    (artifact / "images.safetensors").write_bytes(images[:-1] + bytes([images[-1] ^ 1]))
    check_refused(ddcore("inspect", artifact), "images.safetensors")
    (artifact / "images.safetensors").write_bytes(images)
    manifest = Place.at(artifact / "manifest.json").read_json()
    Place.at(artifact / "manifest.json").write_json({**manifest, "schema": 99})
    check_refused(ddcore("evaluate", artifact), "schema 99", "upgrade")
    (artifact / "manifest.json").unlink()
    check_refused(ddcore("inspect", artifact), "manifest.json")


EXPLODES = """
import torch
from attrs import frozen
from ddcore import Learn, Loss, Plugin, hookimpl

@frozen(kw_only=True, eq=False)
class Explodes(Plugin):
    role = "matcher"
    steps = 20
    learns = ("pixels",)
    asks = ("initialize",)

    @hookimpl
    def ddcore_learn(self, images):
        images.requires_grad_()
        return Learn({"pixels": images}, {"sgd": torch.optim.SGD([images], lr=0.1)}, roles={"pixels": "pixels"})

    @hookimpl
    def ddcore_matching_loss(self, step, learn):
        yield Loss(learn.tensors["pixels"].sum() * (float("nan") if step == 5 else 1.0))
"""


def test_a_loss_that_becomes_nan_stops_the_run_and_keeps_the_last_good_checkpoint(ddcore, tmp_path, monkeypatch):
    monkeypatch.setenv("DDCORE_CHECKPOINT_SECONDS", "0")
    (tmp_path / "explodes.py").write_text(EXPLODES)
    result = ddcore("run", "--plugin-path", tmp_path / "explodes.py", *SMALL[2:], "--out", tmp_path / "run")
    check_refused(result, "'explodes' (explodes.py", "nan at step 5", "smaller learning rate")
    checkpoint = Place.at(tmp_path / "run" / "checkpoints" / "distil-000.safetensors")
    assert read_metadata(checkpoint)["step"] == "5"
    assert all(torch.isfinite(t).all() for t in load_tensors(checkpoint).values())
    assert not (tmp_path / "run" / "artifact").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["plugins"][0]["sha256"]
