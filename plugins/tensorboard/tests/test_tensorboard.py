"""What TensorBoard reads back is what the run logged."""

import builtins
import json

import pytest

from ddcore.testing import check_plugin, ddcore_cli, distilled, tiny_run  # noqa: F401  fixtures

pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install tensorboard")
WORDS = ("--plugin", "dm", "--plugin", "tensorboard", "--steps", 3)


def curves(folder):
    """Names to points (step, value), of all processes that wrote there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for file in sorted(folder.glob("events.*")):
        read = EventAccumulator(str(file)).Reload()
        for name in read.Tags()["scalars"]:
            found.setdefault(name, []).extend((point.step, point.value) for point in read.Scalars(name))
    return found


def test_the_contract():
    check_plugin("tensorboard")


def test_losses_and_scores_are_those_of_the_log(ddcore_cli, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    answer = ddcore_cli("run", *ddcore_cli.tiny, *WORDS, "--out", out, "--json")
    assert answer.code == 0 and answer.json["warnings"] == [], answer.err
    shown = curves(out / "tensorboard")
    steps, losses = zip(*shown["step/distil-000/loss"], strict=True)
    assert steps == (0, 1, 2) and losses == pytest.approx(logged_losses(out), rel=1e-6)
    rows = {f"{r['set']}/{r['labels']}": r["accuracy"]["mean"] for r in answer.json["rows"]}
    for name, value in rows.items():
        ((step, seen),) = shown[f"accuracy/{name}/convnet2-w4/quick-1"]
        assert step == 0 and seen == pytest.approx(value)


def logged_losses(out):
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in logged if line["event"] == "step"]


def test_a_worker_process_writes_beside_the_driver(tiny_run):  # noqa: F811
    run = tiny_run("--plugin", "tensorboard", steps=2, executor="processes")
    distilled(run)
    folder = run.place.local_path()
    steps, losses = zip(*curves(folder / "tensorboard")["step/distil-000/loss"], strict=True)
    assert steps == (0, 1) and losses == pytest.approx(logged_losses(folder), rel=1e-6)


def test_without_tensorboard_the_run_says_what_to_install_and_goes_on(ddcore_cli, tmp_path, monkeypatch):  # noqa: F811
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    answer = ddcore_cli("run", *ddcore_cli.tiny, *WORDS, "--out", tmp_path / "run", "--json")
    assert answer.code == 0
    (warning,) = answer.json["warnings"]
    assert "ddcore-tensorboard[tensorboard]" in warning and "goes on without it" in warning
