"""FTD in runs: it is MTT when it is switched off, its experts are kept apart and are flatter, and it survives a kill."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from torch.nn import functional as F

from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.runs.run import Run
from ddcore.storage.places import Place, load_tensors
from ddcore.training import experts

EXPERTS = {"experts__count": 1, "experts__epochs": 3, "experts__batch": 64, "experts__lr": 0.05}
WORDS = ["--dataset", "digits", "--ipc", "1", "--network", "convnet2-w4", "--steps", "3", "--preset", "none"]
WORDS += [
    "--threads",
    "1",
    "--eval-seeds",
    "1",
    "--protocol",
    "quick-3",
    "--experts.count",
    "1",
    "--experts.epochs",
    "3",
]
MTT = ["--plugin", "mtt", "--mtt.student-steps", "3", "--mtt.expert-epochs", "1", "--mtt.lr-img", "10"]
DATM = ["--plugin", "datm", "--datm.student-steps", "3", "--datm.expert-epochs", "1", "--datm.max-start-epoch", "2"]


def opened(cache: object, place: object, *plugins: str, **given: object) -> Run:
    words = [word for plugin in plugins for word in ("--plugin", plugin)]
    shared = {"plugins": plugins, "cache": str(cache), "threads": 1, "ipc": 1, "network": "convnet2-w4", "steps": 3}
    return Run(
        setup_from(select([*words, "--preset", "none"], {}), {**shared, **EXPERTS, **given}, {}), Place.at(place)
    )


def artifact(run) -> dict[str, torch.Tensor]:
    found = [load_tensors(Place.at(p)) for p in sorted((run / "artifact").glob("*.safetensors"))]
    return {name: tensor for tensors in found for name, tensor in tensors.items()}


def done(tmp_path, name: str, *words: str):
    place = tmp_path / name
    assert invoke(["run", *WORDS, *words, "--cache", str(tmp_path / "cache"), "--out", str(place)]) == 0
    return place


def test_check_with_plain_experts_and_no_average_it_is_mtt_bit_for_bit(tmp_path):
    plain = artifact(done(tmp_path, "mtt", *MTT))
    off = artifact(done(tmp_path, "off", *MTT, "--plugin", "ftd", "--ftd.rho", "0", "--ftd.ema", "0"))
    flat = artifact(done(tmp_path, "flat", *MTT, "--plugin", "ftd", "--ftd.rho", "0.1", "--ftd.ema", "0"))
    assert set(plain) == set(off)
    assert all(torch.equal(plain[name], off[name]) for name in plain)
    assert any(not torch.equal(plain[name], flat[name]) for name in plain)
    assert len(list((tmp_path / "cache" / "experts").iterdir())) == 2  # plain ones, shared, and flat ones


def test_the_average_lags_behind_the_last_pixels_and_moves_nothing_else(tmp_path):
    words = ["--plugin", "ftd", "--ftd.rho", "0", *MTT]
    found = {ema: artifact(done(tmp_path, ema, *words, "--ftd.ema", ema)) for ema in ("0", "0.5", "1")}
    first, half, last = (found[ema]["pixels"] for ema in ("1", "0.5", "0"))
    assert 0 < (half - first).norm() < (last - first).norm()
    assert step_losses(tmp_path / "0") == step_losses(tmp_path / "1")


def step_losses(run) -> list[float]:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "step"]


@pytest.mark.parametrize("matcher", [MTT, DATM], ids=["mtt", "datm"])
def test_a_run_end_to_end_with_other_enhancements(matcher, tmp_path):
    run = done(tmp_path, "run", "--plugin", "ftd", "--plugin", "dsa", *matcher)
    assert torch.isfinite(artifact(run)["pixels"]).all()
    plan = json.loads((run / "run.json").read_text())["plan"]
    stages = {stage["name"]: stage["changed_by"] for stage in plan["stages"]}
    assert stages["experts"] == ["ftd", "dsa"] and stages["companion"] == ["ftd"]
    assert {row["set"] for row in json.loads((run / "scores.json").read_text())["rows"]} >= {"distilled", "random"}


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    words = ["--plugin", "ftd", "--ftd.ema", "0.9", "--experts.momentum", "0.9", *MTT, "--steps", "4"]
    whole = artifact(done(tmp_path, "whole", *words))
    monkeypatch.setenv("DDCORE_CHECKPOINT_SECONDS", "0")
    for event, number in (("expert", 2), ("step", 1)):
        log, place = Run.log, tmp_path / event

        def stopping(self, name, *, event=event, number=number, log=log, **fields):
            log(self, name, **fields)
            self.stopping = name == event and fields.get("epoch", fields.get("step")) == number

        monkeypatch.setattr(Run, "log", lambda self, event, _stop=stopping, **f: _stop(self, event, **f))
        cache = ["--cache", str(tmp_path / f"cache-{event}"), "--out", str(place)]
        assert invoke(["run", *WORDS, *words, *cache]) == 3
        monkeypatch.setattr(Run, "log", log)
        assert invoke(["resume", str(place)]) == 0
        assert all(torch.equal(artifact(place)[name], tensor) for name, tensor in whole.items())


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    words = ["--plugin", "ftd", "--ftd.ema", "0.9", *MTT, "--steps", "12"]
    whole, place = artifact(done(tmp_path, "whole", *words)), tmp_path / "cut"
    code = "import sys; from ddcore.cli import invoke; sys.exit(invoke(sys.argv[1:]))"
    given = ["run", *WORDS, *words, "--cache", str(tmp_path / "cache"), "--out", str(place)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *given], env={**os.environ, "DDCORE_CHECKPOINT_SECONDS": "0"}
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not log_says(place, '"step": 3'):
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (place / "artifact" / "manifest.json").exists()
    assert invoke(["resume", str(place)]) == 0
    assert all(torch.equal(artifact(place)[name], tensor) for name, tensor in whole.items())


def log_says(run, words: str) -> bool:
    return (run / "log.jsonl").exists() and words in (run / "log.jsonl").read_text()


def test_experts_are_kept_by_what_shapes_them(tmp_path):
    def digest(*plugins: str, **given: object) -> str:
        return experts.digest(opened(tmp_path / "cache", tmp_path / "run", *plugins, **given))

    flat = digest("mtt", "ftd")
    assert digest("mtt", "ftd", ftd__ema=0.5) == flat == digest("datm", "ftd")
    changes: tuple[dict[str, object], ...] = ({"ftd__rho": 0.02}, {"ftd__alpha": 0.3}, {"ftd__adaptive": False})
    assert len({flat, digest("mtt"), *(digest("mtt", "ftd", **change) for change in changes)}) == 5
    assert digest("mtt", "ftd", ftd__rho=0.0) == digest("mtt")


def test_flat_experts_bear_noise_better(tmp_path):
    rises = {}
    for name, plugins in (("plain", ("mtt",)), ("flat", ("mtt", "ftd"))):
        given = {"ftd__rho": 0.3, "ftd__adaptive": False, "ftd__alpha": 0.0} if name == "flat" else {}
        run = opened(tmp_path / "cache", tmp_path / name, *plugins, **given, experts__epochs=12)
        rises[name] = rise(run)
    assert rises["flat"] < 0.9 * rises["plain"], rises  # 0.31 of it, deviation 0.07 over seeds


def rise(run: Run) -> float:
    """How much the training loss grows, in units of itself, when noise of a fixed length is added to an expert's weights."""
    network, real = run.trajectories.network(run, 0), run.real.train
    images, classes = real.inputs(torch.arange(512)), real.labels[:512]

    @torch.no_grad()
    def loss() -> float:
        return F.cross_entropy(network(images), classes).item()

    start, grown = loss(), []
    kept = [p.detach().clone() for p in network.parameters()]
    for number in range(10):
        g = run.generator("noise", number)
        noise = [torch.randn(p.shape, generator=g) for p in kept]
        length = sum(n.square().sum() for n in noise).sqrt()
        for p, w, n in zip(network.parameters(), kept, noise, strict=True):
            p.data.copy_(w + n / length)
        grown.append(loss() - start)
    return sum(grown) / len(grown)


def test_a_matcher_without_experts_is_refused(tmp_path, capsys):
    assert invoke(["run", "--plugin", "dm", "--plugin", "ftd", "--dataset", "digits", "--out", str(tmp_path)]) != 0
    assert "'ftd' needs expert_optimizer, which 'dm' does not offer" in capsys.readouterr().err


def test_presets_belong_to_ftd_and_its_matcher():
    from ddcore_ftd import FTD

    from ddcore.composing.presets import presets_of

    presets = presets_of("ftd", FTD)
    assert len(presets) == 9
    for preset in presets.values():
        assert set(preset.tables["plugin"]) == {"ftd", "mtt"}
        FTD(**preset.tables["plugin"]["ftd"])
