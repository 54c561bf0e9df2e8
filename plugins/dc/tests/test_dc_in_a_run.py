"""DC in a run: a network's whole step beside the field's loop, alone and with dsa and fyi; counts, momentum, kill and resume."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ddcore_dc import DC, gradient_distance
from ddcore_dc.student import Student
from torch.nn import functional as F

from ddcore import Batch, InputError
from ddcore.api.types import Progress
from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.runs.cutting import distillation_task
from ddcore.runs.loop import begin, outer_step
from ddcore.runs.run import Run
from ddcore.storage.places import Place
from ddcore.testing import check_whole_steps

pytestmark = pytest.mark.filterwarnings("ignore:fyi assumes")
LOOPS = {"dc__outer_loops": 3, "dc__inner_epochs": 2, "dc__batch_real": 20, "dc__batch_train": 13}
STACKS = [("dc",), ("dc", "dsa"), ("dc", "fyi"), ("dc", "dsa", "fyi")]


def opened(place: Path, *plugins: str, **given: object) -> Run:
    words = [word for plugin in plugins for word in ("--plugin", plugin)]
    shared = {"plugins": plugins, "threads": 1, "ipc": 2, "network": "convnet2-w4", "steps": 4, "dtype": "float64"}
    selection = select([*words, "--preset", "none"], {})
    return Run(setup_from(selection, {**shared, **LOOPS, **given}, {}), Place.at(place))


def usual_step(run: Run, task, step: int, pixels: torch.Tensor, optimizer: torch.optim.Optimizer) -> list[float]:
    """The field's loop with the plugin's draws: a module with SGD, every class's loss with its graph, one backward of the sum."""
    options, classes, progress = run.plugins["dc"], task.classes, Progress(step, task.steps)
    network = run.network(run.generator("dc", "network", 0, step))
    weights, losses = list(network.parameters()), []
    sgd = torch.optim.SGD(weights, lr=options.lr_net)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]

    def real(cls: int, count: int, what: str) -> torch.Tensor:
        return run.real.sample(cls, count, run.generator("dc", what, 0, step, o, cls))

    for o in range(options.outer_loops):
        if norms:
            network.train()
            network(torch.cat([real(c, 16, "statistics") for c in range(10)]))
            [norm.eval() for norm in norms]
        total = torch.zeros((), dtype=torch.float64)
        for c in range(10):
            transform = run.draw("match", key=("dc", "augment", 0, step, o, c), shared=True, progress=progress)
            images, where = real(c, options.batch_real, "real"), (classes == c).nonzero()[:, 0]
            index = torch.arange(len(images))
            batch = transform(Batch(images, {"class": torch.full_like(index, c)}, index))
            target = torch.autograd.grad(F.cross_entropy(network(batch.inputs), batch.targets["class"]), weights)
            shown = transform(run.view(Batch(pixels[where], {"class": classes[where]}, where), "match"))
            loss = F.cross_entropy(network(shown.inputs), shown.targets["class"])
            own = torch.autograd.grad(loss, weights, create_graph=True)
            total = total + gradient_distance(target, own, options.distance)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
        if o + 1 == options.outer_loops:
            break
        network.train()
        for epoch in range(options.inner_epochs):
            order = torch.randperm(len(pixels), generator=run.generator("dc", "order", 0, step, o, epoch))
            for number, index in enumerate(order.split(options.batch_train)):
                shown = run.view(Batch(pixels.detach()[index], {"class": classes[index]}, index), "inner")
                key = ("dc", "inner", 0, step, o, epoch, number)
                shown = run.draw("inner", key=key, count=len(shown), progress=progress)(shown)
                sgd.zero_grad()
                F.cross_entropy(network(shown.inputs), shown.targets["class"]).backward()
                sgd.step()
    return losses


@pytest.mark.parametrize("distance", ["ours", "mse", "cos"])
@pytest.mark.parametrize(
    ("plugins", "network"), [*((stack, "convnet2-w4") for stack in STACKS), (("dc",), "convnet2-bn-w4")]
)
def test_class_by_class_and_by_slopes_the_images_move_as_under_the_usual_loops_summed_backward(
    plugins, network, distance, tmp_path
):
    def usual_loop(run, task, tensors):
        optimizer = torch.optim.SGD([tensors["pixels"]], lr=0.1, momentum=0.5)
        for step in range(task.steps):
            yield sum(usual_step(run, task, step, tensors["pixels"], optimizer))

    check_whole_steps(opened(tmp_path, *plugins, network=network, dc__distance=distance, steps=2), usual_loop)


def first_loss(run: Run, change=lambda pixels: None) -> tuple[float, torch.Tensor]:
    """The first match's loss and its pixel gradient."""
    task = distillation_task(run)
    learn = begin(task, run)
    pixels = learn.tensors["pixels"]
    with torch.no_grad():
        change(pixels)
    loss = next(run.hooks.one("ddcore_matching_loss", task=task, step=0, learn=learn, run=run))
    return float(loss.value.detach()), torch.autograd.grad(loss.value, pixels)[0]


def test_a_classs_gradient_comes_from_its_own_term_alone(tmp_path):
    def others_change(pixels: torch.Tensor) -> None:
        pixels[2:] += 1

    (base, plain), (changed, gradient) = (
        first_loss(opened(tmp_path / str(i), "dc"), change) for i, change in enumerate((lambda p: None, others_change))
    )
    assert base != pytest.approx(changed)
    assert torch.equal(gradient[:2], plain[:2]) and not torch.isclose(gradient[2:], plain[2:]).all()


def test_the_sum_over_classes_does_not_depend_on_how_many_are_held_at_once(tmp_path, monkeypatch):
    _, whole = first_loss(opened(tmp_path / "a", "dc"))
    monkeypatch.setattr("ddcore_dc.ROWS_AT_ONCE", 1)
    _, single = first_loss(opened(tmp_path / "b", "dc"))
    assert torch.equal(whole, single)


def test_with_one_match_the_network_is_never_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(Student, "descend", lambda *args: pytest.fail("trained"))
    seen = []
    monkeypatch.setattr(Student, "of", classmethod(lambda cls, net, of=Student.of: seen.append(of(net)) or seen[-1]))
    run = opened(tmp_path, "dc", ipc=1, dc__outer_loops=None, dc__inner_epochs=None)
    task = distillation_task(run)
    outer_step(task, 0, begin(task, run), run)
    network = run.network(run.generator("dc", "network", 0, 0))
    assert torch.equal(seen[0].theta_P, torch.cat([p.detach().reshape(-1) for p in network.parameters()]))


def test_a_run_moves_the_images_t_out_times_a_network_and_trains_one_time_less(tmp_path, monkeypatch):
    moves, epochs = [], []
    step, train = torch.optim.SGD.step, DC.train
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *a: moves.append(1) or step(self, *a))
    monkeypatch.setattr(DC, "train", lambda self, *args: epochs.append(args[-1]) or train(self, *args))
    run = opened(tmp_path, "dc")
    task = distillation_task(run)
    learn = begin(task, run)
    for number in range(task.steps):
        outer_step(task, number, learn, run)
    assert (len(moves), epochs) == (4 * 3, [2] * 4 * 2)


def test_momentum_goes_on_from_one_network_to_the_next(tmp_path):
    run = opened(tmp_path, "dc", dc__outer_loops=1)
    task = distillation_task(run)
    learn = begin(task, run)
    before = [learn.tensors["pixels"].detach().clone()]
    gradients = []
    for step in range(2):
        loss = next(run.hooks.one("ddcore_matching_loss", task=task, step=step, learn=learn, run=run))
        gradients.append(torch.autograd.grad(loss.value, learn.tensors["pixels"])[0])
        outer_step(task, step, learn, run)
        before.append(learn.tensors["pixels"].detach().clone())
    torch.testing.assert_close(before[2] - before[1], -0.1 * (gradients[1] + 0.5 * gradients[0]))


def test_dsa_with_the_empty_strategy_is_dc_bit_for_bit(tmp_path):
    found = []
    for name, plugins, given in (("a", ("dc",), {}), ("b", ("dc", "dsa"), {"dsa__strategy": "none"})):
        run = opened(tmp_path / name, *plugins, **given)
        task = distillation_task(run)
        learn = begin(task, run)
        outer_step(task, 0, learn, run)
        found.append(learn.tensors["pixels"].detach())
    assert torch.equal(*found)


def test_a_mirrored_stored_image_changes_the_loss_only_without_fyi(tmp_path):
    def mirror(pixels: torch.Tensor) -> None:
        pixels[::3] = pixels[::3].flip(-1)

    runs = {(p, m): opened(tmp_path / f"{len(p)}{m}", *p) for p in (("dc",), ("dc", "fyi")) for m in (False, True)}
    loss = {key: first_loss(run, mirror if key[1] else lambda p: None)[0] for key, run in runs.items()}
    assert loss[("dc", "fyi"), True] == pytest.approx(loss[("dc", "fyi"), False], rel=1e-9)
    assert loss[("dc",), True] != pytest.approx(loss[("dc",), False], rel=1e-4)


def test_symmetric_images_have_the_same_loss_with_fyi_and_the_symmetrised_gradient(tmp_path):
    def symmetrise(pixels: torch.Tensor) -> None:
        pixels.copy_((pixels + pixels.flip(-1)) / 2)

    (base, plain), (doubled, gradient) = (
        first_loss(opened(tmp_path / "-".join(p), *p), symmetrise) for p in (("dc",), ("dc", "fyi"))
    )
    assert doubled == pytest.approx(base, rel=1e-9)
    torch.testing.assert_close(gradient, (plain + plain.flip(-1)) / 2, rtol=1e-7, atol=1e-9)


def test_the_networks_see_twice_the_images_with_fyi_and_as_many_are_stored(tmp_path, monkeypatch):
    seen = {"match": set(), "inner": set()}
    slope_gradient, descend = Student.slope_gradient, Student.descend
    monkeypatch.setattr(
        Student,
        "slope_gradient",
        lambda s, n, d, batch: seen["match"].add(len(batch)) or slope_gradient(s, n, d, batch),
    )
    monkeypatch.setattr(
        Student, "descend", lambda s, c, batch, rate: seen["inner"].add(len(batch)) or descend(s, c, batch, rate)
    )
    run = opened(tmp_path, "dc", "fyi", dc__batch_train=20)
    task = distillation_task(run)
    learn = begin(task, run)
    outer_step(task, 0, learn, run)
    assert seen == {"match": {4}, "inner": {40}} and len(learn.tensors["pixels"]) == 20


def test_views_are_asked_for_the_match_class_by_class_and_for_inner_training_batch_by_batch(tmp_path, monkeypatch):
    asked, view = [], Run.view
    monkeypatch.setattr(
        Run, "view", lambda run, batch, phase: asked.append((phase, len(batch))) or view(run, batch, phase)
    )
    run = opened(tmp_path, "dc", dc__outer_loops=2)
    task = distillation_task(run)
    outer_step(task, 0, begin(task, run), run)
    match, epoch = [("match", 2)] * 10, [("inner", 13), ("inner", 7)]
    assert asked == [*match, *epoch, *epoch, *match]


def test_a_class_with_few_images_is_used_whole(tmp_path):
    run = opened(tmp_path, "dc", dc__batch_real=2000)
    loss, gradient = first_loss(run)
    assert loss > 0 and gradient.isfinite().all()


def test_a_network_with_dropout_is_refused(tmp_path):
    run = opened(tmp_path, "dc", network="torchvision:mobilenet_v2")
    task = distillation_task(run)
    with pytest.raises(InputError, match="is a dropout, .*: match gradients with a --network without it"):
        outer_step(task, 0, begin(task, run), run)


# ---- from the command line -------------------------------------------------------------------------------------------

WORDS = ["--plugin", "dc", "--plugin", "dsa", "--plugin", "fyi", "--dc.batch-real", "16", "--dc.outer-loops", "2"]
WORDS += ["--dc.inner-epochs", "2", "--steps", "12", "--ipc", "2", "--eval-seeds", "1", "--protocol", "quick-3"]
WORDS += ["--network", "convnet2-w4", "--preset", "none", "--threads", "1", "--seed", "3"]


def bits(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (run / "artifact").glob("*.safetensors")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert invoke(["run", *WORDS, "--cache", str(folder / "cache"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_leaves_an_artifact_and_scores(uninterrupted):
    rows = json.loads((uninterrupted / "scores.json").read_text())["rows"]
    assert {"distilled", "random"} <= {row["set"] for row in rows}
    assert "pixels" in (uninterrupted / "artifact" / "manifest.json").read_text()


def test_the_same_run_twice_gives_the_same_bits(uninterrupted, tmp_path):
    assert invoke(["run", *WORDS, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]) == 0
    assert bits(tmp_path / "run") == bits(uninterrupted)


def test_a_killed_run_resumes_to_the_same_bits(uninterrupted, tmp_path):
    run = tmp_path / "run"
    arguments = ["run", *WORDS, "--cache", str(tmp_path / "cache"), "--out", str(run)]
    code = "import sys; from ddcore.cli import invoke; sys.exit(invoke(sys.argv[1:]))"
    environment = {**os.environ, "DDCORE_CHECKPOINT_SECONDS": "0"}
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, stderr=subprocess.DEVNULL)
    log, deadline = run / "log.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and '"step": 3' in log.read_text():
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (run / "artifact" / "manifest.json").exists()
    assert invoke(["resume", str(run)]) == 0
    assert bits(run) == bits(uninterrupted)
