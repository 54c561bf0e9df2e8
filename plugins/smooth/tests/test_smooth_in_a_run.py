"""AST in runs: switched off it is MTT, its experts are smoother and kept apart, its images are representative."""

import json

import pytest
import torch
from ddcore_smooth import Smooth, representative

from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.runs.cutting import distillation_task
from ddcore.runs.loop import begin
from ddcore.runs.run import Run
from ddcore.storage.places import Place, load_tensors
from ddcore.training import experts

EXPERTS = {"experts__count": 2, "experts__epochs": 4, "experts__batch": 64, "experts__lr": 0.05}
WORDS = ["--dataset", "digits", "--ipc", "2", "--network", "convnet2-w4", "--steps", "3", "--preset", "none"]
WORDS += [
    "--threads",
    "1",
    "--eval-seeds",
    "1",
    "--protocol",
    "quick-3",
    "--experts.count",
    "2",
    "--experts.epochs",
    "4",
]
MTT = ["--plugin", "mtt", "--mtt.student-steps", "5", "--mtt.expert-epochs", "2", "--mtt.lr-img", "10"]
DATM = ["--plugin", "datm", "--datm.student-steps", "5", "--datm.expert-epochs", "2", "--datm.max-start-epoch", "2"]
OFF = ["--plugin", "smooth", "--smooth.ramp-epochs", "0", "--smooth.penalty", "0", "--smooth.perturb", "0"]
OFF += ["--smooth.student-momentum", "0", "--smooth.no-balance", "--smooth.intermediate", "none", "--init", "real"]


def opened(cache: object, place: object, *plugins: str, **given: object) -> Run:
    words = [word for plugin in plugins for word in ("--plugin", plugin)]
    shared = {"plugins": plugins, "cache": str(cache), "threads": 1, "ipc": 3, "network": "convnet2-w4", "steps": 3}
    return Run(
        setup_from(select([*words, "--preset", "none"], {}), {**shared, **EXPERTS, **given}, {}), Place.at(place)
    )


def done(tmp_path, name: str, *words: str) -> dict[str, torch.Tensor]:
    place = tmp_path / name
    assert invoke(["run", *WORDS, *words, "--cache", str(tmp_path / "cache"), "--out", str(place)]) == 0
    return artifact(place)


def artifact(run) -> dict[str, torch.Tensor]:
    found = [load_tensors(Place.at(p)) for p in sorted((run / "artifact").glob("*.safetensors"))]
    return {name: tensor for tensors in found for name, tensor in tensors.items()}


def test_check_all_switches_off_is_mtt_bit_for_bit_with_its_experts(tmp_path):
    plain, off = done(tmp_path, "mtt", *MTT), done(tmp_path, "off", *MTT, *OFF)
    assert set(plain) == set(off) and all(torch.equal(plain[name], off[name]) for name in plain)
    assert len(list((tmp_path / "cache" / "experts").iterdir())) == 1


@pytest.mark.parametrize(
    "switch",
    [
        ["--smooth.penalty", "2"],
        ["--smooth.ramp-epochs", "3"],
        ["--smooth.perturb", "1"],
        ["--smooth.student-momentum", "0.5"],
        ["--smooth.balance"],
        ["--smooth.intermediate", "adaptive"],
        ["--init", "representative"],
    ],
    ids=lambda words: words[0],
)
def test_each_switch_alone_changes_the_result(switch, tmp_path_factory, reference):
    cache, off = reference
    place = tmp_path_factory.mktemp("switch") / "run"
    words = ["run", *WORDS, *MTT, *OFF, *switch, "--cache", cache, "--out", str(place)]
    assert invoke(words) == 0
    assert not torch.equal(artifact(place)["pixels"], off["pixels"])


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return str(folder / "cache"), done(folder, "off", *MTT, *OFF)


@pytest.mark.parametrize("matcher", [MTT, DATM], ids=["mtt", "datm"])
def test_a_run_end_to_end_with_other_enhancements(matcher, tmp_path):
    words = ["--plugin", "smooth", "--plugin", "ftd", "--plugin", "dsa", *matcher, "--experts.momentum", "0.9"]
    found = done(tmp_path, "run", *words, "--experts.drop-epoch", "3", "--experts.drop", "0.6")
    assert torch.isfinite(found["pixels"]).all()
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    stages = {stage["name"]: stage["changed_by"] for stage in plan["stages"]}
    assert plan["initializer"] == "representative"
    assert stages["experts"] == ["smooth", "ftd", "dsa"] and stages["segment"] == ["smooth"]


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    words = ["--plugin", "smooth", *MTT, "--experts.momentum", "0.9", "--experts.drop-epoch", "3"]
    whole = done(tmp_path, "whole", *words)
    monkeypatch.setenv("DDCORE_CHECKPOINT_SECONDS", "0")
    for event, number in (("expert", 3), ("step", 1)):
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


def test_check_representative_images_are_distinct_and_of_their_class(tmp_path):
    run = opened(tmp_path / "cache", tmp_path / "run", "mtt", "smooth")
    task = distillation_task(run)
    images = run.initialize(task.classes, task)
    real = run.real.train.inputs(torch.arange(len(run.real.train)))
    where = torch.cdist(images.flatten(1), real.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(where.amin(1), torch.zeros(30))
    assert torch.equal(run.real.train.labels[where.argmin(1)], task.classes)
    assert len({tuple(image.flatten().tolist()) for image in images}) == 30
    assert torch.equal(run.initialize(task.classes, task), images)


def test_of_more_representative_images_than_a_class_has_all_come_and_then_again(tmp_path):
    run = opened(tmp_path / "cache", tmp_path / "run", "mtt", "smooth")
    network = run.network(run.generator("test"))
    rows = representative(run, network, 0, 400, run.generator("test"))
    every = run.real.train.of_class(0)
    assert torch.equal(rows[: len(every)], every) and torch.equal(rows[len(every) :], rows[: 400 - len(every)])


def test_the_exact_gradients_agree_with_every_switch_on(tmp_path):
    gradients = []
    for mode in ("adjoint", "full"):
        given = {"mtt__student_steps": 5, "mtt__unroll": mode, "mtt__rate": 0.002, "dtype": "float64"}
        run = opened(tmp_path / "cache", tmp_path / mode, "mtt", "smooth", "dsa", **given)
        task = distillation_task(run)
        learn = begin(task, run)
        (loss,) = run.hooks.one("ddcore_matching_loss", task=task, step=0, learn=learn, run=run)
        gradients.append((loss.value.detach(), *torch.autograd.grad(loss.value, list(learn.tensors.values()))))
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-10)


def test_experts_are_kept_by_what_shapes_them(tmp_path):
    def digest(*plugins: str, **given: object) -> str:
        return experts.digest(opened(tmp_path / "cache", tmp_path / "run", *plugins, **given))

    ours = digest("mtt", "smooth")
    assert digest("mtt", "smooth", smooth__perturb=0.0, smooth__intermediate="none", smooth__balance=False) == ours
    others = {digest("mtt", "smooth", smooth__penalty=1.0), digest("mtt", "smooth", smooth__ramp_epochs=4)}
    others |= {digest("mtt"), digest("mtt", "smooth", "ftd"), ours}
    assert len(others) == 5
    assert digest("mtt", "smooth", smooth__penalty=0.0, smooth__ramp_epochs=0) == digest("mtt")


def test_the_ramp_begins_strong_experts_at_half_their_rate(tmp_path):
    # half a loss is half a gradient, which the momentum adds up like the whole one
    strong = {"experts__momentum": 0.9, "experts__count": 1}
    ramped = {"smooth__ramp_epochs": 10, "smooth__penalty": 0.0, "experts__lr": 0.02}
    smooth = opened(tmp_path / "cache", tmp_path / "smooth", "mtt", "smooth", **strong, **ramped).trajectories
    half = opened(tmp_path / "cache", tmp_path / "half", "mtt", **strong, experts__lr=0.01).trajectories
    start = smooth.weights(0, 0)
    assert torch.equal(start, half.weights(0, 0))
    torch.testing.assert_close(smooth.weights(0, 1) - start, half.weights(0, 1) - start, rtol=1e-3, atol=1e-6)
    assert (smooth.weights(0, 2) - half.weights(0, 2)).abs().max() > 1e-5  # 0.55 of the loss in the second epoch


def test_a_matcher_without_unrolling_is_refused(tmp_path, capsys):
    assert invoke(["run", "--plugin", "dm", "--plugin", "smooth", "--dataset", "digits", "--out", str(tmp_path)]) != 0
    assert "needs expert_loss, segment, which 'dm' does not offer" in capsys.readouterr().err


def test_presets_belong_to_smooth_and_its_matcher():
    from ddcore.composing.presets import presets_of

    presets = presets_of("smooth", Smooth)
    assert len(presets) == 7
    for preset in presets.values():
        assert set(preset.tables["plugin"]) <= {"smooth", "mtt"}
        Smooth(**preset.tables["plugin"].get("smooth", {}))
