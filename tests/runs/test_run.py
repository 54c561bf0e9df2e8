"""A run as a function of (configuration, seed): the same bits twice, after a kill, in worker processes; and its loop's rules."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from attrs import evolve, frozen

from ddcore import Learn, Loss, Plugin, PluginError, Progress, Segment, Task, hookimpl
from ddcore.cli.app import invoke
from ddcore.composing.asking import Hooks
from ddcore.composing.discovery import manager
from ddcore.errors import InputError
from ddcore.runs.loop import outer_step
from ddcore.runs.opened import Opened
from ddcore.training.experts import expert_shapers

COMMON = [
    "--eval-seeds",
    "1",
    "--protocol",
    "quick-3",
    "--network",
    "convnet2-w4",
    "--preset",
    "none",
    "--threads",
    "1",
]
pytestmark = pytest.mark.usefixtures("probes")
PULL = ["--plugin", "pull", "--plugin", "shake", "--plugin", "turn", "--pull.rate", "0.25", "--steps", "30"]
RIVAL = ["--plugin", "rival", "--plugin", "turn", "--plugin", "shake", "--steps", "12"]
RIVAL += ["--experts.count", "2", "--experts.epochs", "4"]
METHODS = {"pull": PULL, "rival": RIVAL}


def bits(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (run / "artifact").glob("*.safetensors")}


def accuracies(run: Path) -> list[list[float]]:
    return [row["accuracy"]["values"] for row in json.loads((run / "scores.json").read_text())["rows"]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, probes):
    """Each method run once, with a cache of its own."""
    folder = tmp_path_factory.mktemp("whole")
    done = {}
    for name, words in METHODS.items():
        run = folder / name
        assert invoke(["run", *words, *COMMON, "--cache", str(folder / f"cache-{name}"), "--out", str(run)]) == 0
        done[name] = run
    return done


@pytest.mark.parametrize("name", METHODS)
def test_the_same_run_twice_gives_the_same_bits_whatever_the_order_of_plugins(name, uninterrupted, tmp_path):
    words = METHODS[name]
    pairs = [words[i : i + 2] for i in range(0, len(words), 2)]
    turned = [word for pair in reversed(pairs) for word in pair]
    cache = ["--cache", str(tmp_path / "cache")]
    assert invoke(["run", *turned, *COMMON, *cache, "--out", str(tmp_path / "run")]) == 0
    assert bits(tmp_path / "run") == bits(uninterrupted[name])
    assert accuracies(tmp_path / "run") == accuracies(uninterrupted[name])


def start(arguments: list[str], **environment: str) -> subprocess.Popen:
    code = "import sys; from ddcore.cli import invoke; sys.exit(invoke(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command, env={**os.environ, "DDCORE_CHECKPOINT_SECONDS": "0", **environment}, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path, process: subprocess.Popen, words: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and words in path.read_text():
            return
        time.sleep(0.01)


@pytest.mark.parametrize(("name", "moment"), [("pull", '"step": 4'), ("rival", '"epoch": 2'), ("rival", '"step": 5')])
def test_a_killed_run_resumes_to_the_same_bits(name, moment, uninterrupted, tmp_path):
    run = tmp_path / "run"
    words = ["run", *METHODS[name], *COMMON, "--cache", str(tmp_path / "cache"), "--out", str(run)]
    process = start(words)
    wait_for(run / "log.jsonl", process, moment)
    process.kill()
    process.communicate()
    assert not (run / "artifact" / "manifest.json").exists()
    assert invoke(["resume", str(run)]) == 0
    assert bits(run) == bits(uninterrupted[name])
    assert accuracies(run) == accuracies(uninterrupted[name])


def test_a_terminated_run_stops_cleanly_and_says_how_to_go_on(uninterrupted, tmp_path):
    run = tmp_path / "run"
    process = start(["run", *PULL, *COMMON, "--steps", "30", "--cache", str(tmp_path / "cache"), "--out", str(run)])
    wait_for(run / "log.jsonl", process, '"step": 2')
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 3, said
    assert f"ddcore resume {run}" in said
    assert invoke(["resume", str(run)]) == 0
    assert bits(run) == bits(uninterrupted["pull"])


def test_worker_processes_give_the_same_bits(uninterrupted, tmp_path, workers_are_spawned):
    words = ["run", *RIVAL, *COMMON, "--jobs", "2", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    assert invoke(words) == 0
    assert bits(tmp_path / "run") == bits(uninterrupted["rival"])
    assert accuracies(tmp_path / "run") == accuracies(uninterrupted["rival"])


def test_float64_runs_and_agrees_with_float32_at_first(tmp_path):
    firsts = []
    for dtype in ("float32", "float64"):
        run = tmp_path / dtype
        words = [
            *PULL[:-2],
            "--steps",
            "1",
            *COMMON,
            "--dtype",
            dtype,
            "--cache",
            str(tmp_path / "cache"),
            "--out",
            str(run),
        ]
        assert invoke(["run", *words]) == 0
        events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        firsts.append(next(e["loss"] for e in events if e["event"] == "step"))
    assert firsts[0] == pytest.approx(firsts[1], rel=1e-4)


# ---- the loop's rules, on a matcher of two numbers -------------------------------------------------------------------


def two_tensors() -> Learn:
    first, second = torch.tensor(1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    optimizers = {"a": torch.optim.SGD([first], lr=0.1, momentum=0.9), "b": torch.optim.SGD([second], lr=0.1)}
    return Learn({"first": first, "second": second}, optimizers)


def run_of(losses) -> SimpleNamespace:
    def matching_loss(task, step, learn, run):
        return losses(learn.tensors)

    hooks = SimpleNamespace(matching_loss=matching_loss, projects=False)
    plan, device = SimpleNamespace(matcher="m"), torch.device("cpu")
    return SimpleNamespace(hooks=hooks, matcher_name="'m'", plan=plan, device=device)


def values(learn: Learn) -> list[float]:
    return [round(float(t.detach()), 6) for t in learn.tensors.values()]


def test_losses_without_update_accumulate_and_all_optimisers_step_once_at_the_end():
    def losses(t):
        yield Loss(2 * t["first"])
        assert float(t["first"].detach()) == 1.0
        yield Loss(3 * t["first"] + 5 * t["second"])

    learn = two_tensors()
    assert outer_step(Task("distil", "t", 1), 0, learn, run_of(losses)) == pytest.approx(10.0)
    assert values(learn) == [0.5, 0.5]


def test_a_loss_with_update_steps_its_optimiser_at_once_and_gives_no_gradient_to_others():
    def losses(t):
        yield Loss(2 * t["first"] + 7 * t["second"], update=("a",))
        assert float(t["first"].detach()) == pytest.approx(0.8)
        yield Loss(5 * t["second"], update=("b",))

    learn = two_tensors()
    outer_step(Task("distil", "t", 1), 0, learn, run_of(losses))
    assert values(learn) == [0.8, 0.5]


def test_yielding_nothing_moves_nothing_momentum_included():
    learn = two_tensors()
    outer_step(Task("distil", "t", 1), 0, learn, run_of(lambda t: iter([Loss(2 * t["first"])])))
    before = values(learn)
    assert outer_step(Task("distil", "t", 1), 1, learn, run_of(lambda t: iter([]))) is None
    assert values(learn) == before


def test_one_optimiser_used_in_both_ways_in_one_step_is_refused():
    def losses(t):
        yield Loss(2 * t["first"])
        yield Loss(2 * t["first"], update=("a",))

    with pytest.raises(PluginError, match="steps optimiser 'a' at once and also accumulates"):
        outer_step(Task("distil", "t", 1), 0, two_tensors(), run_of(losses))


def test_yielding_inside_no_grad_is_refused():
    def losses(t):
        with torch.no_grad():
            yield Loss(2 * t["first"])

    with pytest.raises(PluginError, match="yielded inside no_grad at step 0"):
        outer_step(Task("distil", "t", 1), 0, two_tensors(), run_of(losses))


def test_something_that_is_no_loss_is_refused():
    with pytest.raises(PluginError, match="yielded Tensor at step 0: yield Loss"):
        outer_step(Task("distil", "t", 1), 0, two_tensors(), run_of(lambda t: iter([t["first"]])))


# ---- what enhancements change of experts and of unrolled students ----------------------------------------------------


@frozen(kw_only=True, eq=False)
class Adds(Plugin):
    """Adds to an expert's loss, unless it adds nothing."""

    amount: float = 1.0
    shown: str = ""

    def expert_options(self):
        return {"amount": self.amount} if self.amount else None

    @hookimpl
    def ddcore_expert_loss(self, value):
        return value + self.amount


def asked_of(**plugins: Plugin) -> Hooks:
    return Hooks(manager(plugins, {}), {})


def a_loss(hooks: Hooks) -> float:
    value = torch.tensor(2.0, requires_grad=True)
    return hooks.expert_loss(value, None, None, None, Progress(0, 1)).item()


def test_experts_are_shaped_in_command_line_order_by_the_options_that_plugins_say():
    plugins = {"a": Adds(amount=3.0, shown="x"), "idle": Adds(amount=0.0), "b": Adds()}
    assert expert_shapers(plugins) == [("a", {"amount": 3.0}), ("b", {"amount": 1.0})]
    assert expert_shapers(plugins, "ddcore_expert_optimizer") == []
    hooks = asked_of(**plugins)
    assert a_loss(hooks) == 6.0
    assert hooks.asked == {"a": 1, "b": 1}


@pytest.mark.parametrize("answer", [torch.tensor(1.0), torch.ones(2, requires_grad=True), 3.0])
def test_an_expert_loss_that_is_no_scalar_with_a_gradient_is_refused(answer):
    @frozen(kw_only=True, eq=False)
    class Wrong(Plugin):
        @hookimpl
        def ddcore_expert_loss(self, value):
            return answer

    with pytest.raises(PluginError, match="ddcore_expert_loss of 'wrong' returned no scalar with a gradient"):
        a_loss(asked_of(wrong=Wrong()))


def test_without_a_plugin_the_experts_optimiser_is_the_cores():
    base = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    assert asked_of().expert_optimizer(base, Progress(0, 1)) is base


@pytest.mark.parametrize("wrong", [{"start": torch.ones(2)}, {"targets": {-1: (torch.ones(3).double(), 1.0)}}, None])
def test_a_segment_of_other_weights_is_refused(wrong):
    @frozen(kw_only=True, eq=False)
    class Wrong(Plugin):
        @hookimpl
        def ddcore_segment(self, segment):
            return 7 if wrong is None else evolve(segment, **wrong)

    segment = Segment(torch.ones(3), {-1: (torch.zeros(3), 1.0)})
    with pytest.raises(
        PluginError, match=r"ddcore_segment of 'wrong' returned (weights of another shape|int where the segment)"
    ):
        asked_of(wrong=Wrong()).segment(segment, None, None, Task("distil", "t", 1), Progress(0, 1), None)
    assert asked_of().segment(segment, None, None, Task("distil", "t", 1), Progress(0, 1), None) is segment


# ---- decoders of selected plugins ------------------------------------------------------------------------------------


class Backwards:
    """A decoder operation: the samples before it, last first."""

    def count(self, tensors, spec, before):
        return before

    def sample(self, tensors, spec, index, before):
        return before(-1 - index)


def decoded(**plugins) -> list[int]:
    made = {name: SimpleNamespace(decoders=decoders) for name, decoders in plugins.items()}
    run = SimpleNamespace(plugins=made, hooks=SimpleNamespace(who=repr))
    decoder = Opened.decoder(run, [{"op": "rows", "tensor": "x"}, {"op": "backwards"}])
    return decoder.sample({"x": torch.arange(3)}, torch.arange(3)).tolist()


def test_a_selected_local_file_brings_an_operation_by_an_attribute_of_its_class():
    assert decoded(mine={"backwards": Backwards}, other={}) == [2, 1, 0]
    with pytest.raises(InputError, match="no decoder operation is named 'backwards'"):
        decoded(other={})


def test_operations_that_two_plugins_bring_or_that_are_none_are_refused():
    with pytest.raises(PluginError, match="'b' and another plugin both bring decoder 'backwards': keep one"):
        decoded(a={"backwards": Backwards}, b={"backwards": Backwards})
    with pytest.raises(PluginError, match=r"decoders\['backwards'\] of 'a' gives dict where an operation is due"):
        decoded(a={"backwards": dict})
