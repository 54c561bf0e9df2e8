"""The loop's services to enhancements: state that survives a stop, a look at every step, a last word on what is handed on."""

from types import SimpleNamespace

import pytest
import torch
from attrs import frozen

from ddcore import Learn, Loss, Plugin, PluginError, Task, hookimpl
from ddcore.composing.asking import Hooks
from ddcore.composing.discovery import manager
from ddcore.errors import Interrupted, NonFiniteLoss
from ddcore.runs.loop import distil_task
from ddcore.storage.checkpoints import Checkpoints
from ddcore.storage.places import Place
from ddcore.storage.progress import Reporter


@frozen(kw_only=True, eq=False)
class Matcher(Plugin):
    """One number that falls by a tenth a step; steps in ``skipped`` yield nothing."""

    skipped: tuple[int, ...] = ()

    @hookimpl
    def ddcore_learn(self, images):
        number = torch.tensor([1.0], requires_grad=True)
        return Learn({"pixels": number}, {"pixels": torch.optim.SGD([number], lr=0.1)}, roles={"pixels": "pixels"})

    @hookimpl
    def ddcore_matching_loss(self, step, learn):
        if step not in self.skipped:
            yield Loss(learn.tensors["pixels"].sum())


@frozen(kw_only=True, eq=False)
class Keeper(Plugin):
    """Remembers every value, and hands on their sum."""

    @hookimpl
    def ddcore_state(self, learn):
        return {"seen": [], "sum": torch.zeros(1)}

    @hookimpl
    def ddcore_step_end(self, step, learn, state, loss):
        assert not torch.is_grad_enabled()
        state["seen"] = [*state["seen"], [step, loss]]
        state["sum"] += learn.tensors["pixels"].detach()

    @hookimpl
    def ddcore_finish(self, tensors, state):
        assert not tensors["pixels"].requires_grad
        return {"pixels": tensors["pixels"] * 0 + state["sum"]}


@frozen(kw_only=True, eq=False)
class Doubler(Plugin):
    """Has no state; changes what came before it."""

    @hookimpl
    def ddcore_finish(self, tensors, state):
        assert state == {}
        return {name: 2 * t for name, t in tensors.items()}


class Stand:
    """The services of a run that the loop uses."""

    matcher_name = "'m'"
    plan = SimpleNamespace(matcher="m")
    device = torch.device("cpu")

    def __init__(self, folder, stop_after=None, **plugins):
        self.plugins = {"m": Matcher(), **plugins}
        made = manager(self.plugins, {})
        self.hooks, self.checkpoints = Hooks(made, {}), Checkpoints(Place.at(folder), 1e9)
        self.progress, self.stop_after, self.stopping = Reporter(quiet=True).progress, stop_after, False

    def log(self, event, *, step, **fields):
        self.stopping = step == self.stop_after

    def check_stop(self):
        if self.stopping:
            raise Interrupted("stopped")


def finished(stand, steps=3):
    return distil_task(Task("distil", "t", steps), stand)[0]["pixels"].tolist()


def test_without_such_plugins_the_last_tensors_are_handed_on(tmp_path):
    assert finished(Stand(tmp_path)) == pytest.approx([0.7])


def test_a_plugin_sees_every_step_and_has_the_last_word(tmp_path):
    # 0.9 + 0.8 + 0.7
    assert finished(Stand(tmp_path, keeper=Keeper())) == pytest.approx([2.4])


def test_finishing_folds_in_command_line_order(tmp_path):
    assert finished(Stand(tmp_path / "a", keeper=Keeper(), doubler=Doubler())) == pytest.approx([4.8])
    assert finished(Stand(tmp_path / "b", doubler=Doubler(), keeper=Keeper())) == pytest.approx([2.4])


def test_a_skipped_step_is_told_as_such(tmp_path):
    losses = []

    @frozen(kw_only=True, eq=False)
    class Listener(Plugin):
        @hookimpl
        def ddcore_step_end(self, loss, state):
            losses.append(loss)
            assert state == {}

    finished(Stand(tmp_path, m=Matcher(skipped=(1,)), listener=Listener()))
    assert losses == [pytest.approx(1.0), None, pytest.approx(0.9)]


def test_a_plugins_state_survives_a_stop(tmp_path):
    whole = finished(Stand(tmp_path / "whole", keeper=Keeper()))
    with pytest.raises(Interrupted):
        finished(Stand(tmp_path / "cut", stop_after=1, keeper=Keeper()))
    steps = []

    @frozen(kw_only=True, eq=False)
    class Telling(Keeper):
        @hookimpl
        def ddcore_finish(self, tensors, state):
            steps.extend(step for step, _ in state["seen"])
            return {"pixels": tensors["pixels"] * 0 + state["sum"]}

    assert finished(Stand(tmp_path / "cut", keeper=Telling())) == whole
    assert steps == [0, 1, 2]


def test_finishing_with_other_tensors_is_refused_by_name(tmp_path):
    @frozen(kw_only=True, eq=False)
    class Loser(Plugin):
        @hookimpl
        def ddcore_finish(self, tensors):
            return {}

    with pytest.raises(PluginError, match="ddcore_finish of 'loser' returned other tensors than were learned"):
        finished(Stand(tmp_path, loser=Loser()))


def test_finishing_with_a_nan_is_refused(tmp_path):
    @frozen(kw_only=True, eq=False)
    class Broken(Plugin):
        @hookimpl
        def ddcore_finish(self, tensors):
            return {name: t / 0 for name, t in tensors.items()}

    with pytest.raises(NonFiniteLoss, match="pixels became NaN or infinite"):
        finished(Stand(tmp_path, broken=Broken()))
