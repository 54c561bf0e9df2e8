"""The loop's services to enhancements: state that survives a stop, a look at every step, a last word on what is handed on."""

from types import SimpleNamespace

import pytest
import torch
from attrs import frozen

from ddcore import Companion, Learn, Loss, Plugin, PluginError, Task, hookimpl
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


def along(companion):
    """A plugin whose tasks have a companion of this class."""

    @frozen(kw_only=True, eq=False)
    class Along(Plugin):
        @hookimpl
        def ddcore_companion(self, learn):
            return companion(learn)

    return Along()


class Keeper(Companion):
    """Remembers every value, and hands on their sum."""

    def __init__(self, learn):
        super().__init__(seen=[], sum=torch.zeros(1))
        self.learn = learn

    def after_step(self, step, loss):
        assert not torch.is_grad_enabled()
        self.state["seen"] = [*self.state["seen"], [step, loss]]
        self.state["sum"] += self.learn.tensors["pixels"].detach()

    def finish(self, tensors):
        assert not tensors["pixels"].requires_grad and not torch.is_grad_enabled()
        return {"pixels": tensors["pixels"] * 0 + self.state["sum"]}


class Plain(Companion):
    """Keeps nothing, does nothing."""

    def __init__(self, learn):
        super().__init__()


class Doubler(Plain):
    """Has no state; changes what came before it."""

    def finish(self, tensors):
        return {name: 2 * t for name, t in tensors.items()}


class Stand:
    """The services of a run that the loop uses."""

    matcher_name = "'m'"
    plan = SimpleNamespace(matcher="m")
    device = torch.device("cpu")
    config = SimpleNamespace(stop_diverged=True)
    of_images = False

    def __init__(self, folder, stop_after=None, **plugins):
        self.plugins = {"m": Matcher(), **plugins}
        self.matcher = self.plugins["m"]
        made = manager(self.plugins, {})
        self.hooks, self.checkpoints = Hooks(made, {}), Checkpoints(Place.at(folder), 1e9)
        self.progress, self.stop_after, self.stopping = Reporter(quiet=True).progress, stop_after, False

    def log(self, event, *, step, **fields):
        self.stopping = step == self.stop_after

    def warn(self, text):
        self.warned = [*getattr(self, "warned", []), text]

    def check_stop(self):
        if self.stopping:
            raise Interrupted("stopped")


def finished(stand, steps=3):
    return distil_task(Task("distil", "t", steps), stand)[0]["pixels"].tolist()


def test_without_such_plugins_the_last_tensors_are_handed_on(tmp_path):
    assert finished(Stand(tmp_path)) == pytest.approx([0.7])


def test_a_plugin_sees_every_step_and_has_the_last_word(tmp_path):
    # 0.9 + 0.8 + 0.7
    assert finished(Stand(tmp_path, keeper=along(Keeper))) == pytest.approx([2.4])


def test_finishing_folds_in_command_line_order(tmp_path):
    assert finished(Stand(tmp_path / "a", keeper=along(Keeper), doubler=along(Doubler))) == pytest.approx([4.8])
    assert finished(Stand(tmp_path / "b", doubler=along(Doubler), keeper=along(Keeper))) == pytest.approx([2.4])


def test_a_skipped_step_is_told_as_such(tmp_path):
    losses = []

    class Listener(Plain):
        def after_step(self, step, loss):
            losses.append(loss)

    finished(Stand(tmp_path, m=Matcher(skipped=(1,)), listener=along(Listener)))
    assert losses == [pytest.approx(1.0), None, pytest.approx(0.9)]


def test_a_plugins_state_survives_a_stop(tmp_path):
    whole = finished(Stand(tmp_path / "whole", keeper=along(Keeper)))
    with pytest.raises(Interrupted):
        finished(Stand(tmp_path / "cut", stop_after=1, keeper=along(Keeper)))
    steps = []

    class Telling(Keeper):
        def finish(self, tensors):
            steps.extend(step for step, _ in self.state["seen"])
            return super().finish(tensors)

    assert finished(Stand(tmp_path / "cut", keeper=along(Telling))) == whole
    assert steps == [0, 1, 2]


def test_finishing_with_other_tensors_is_refused_by_name(tmp_path):
    class Loser(Plain):
        def finish(self, tensors):
            return {}

    with pytest.raises(PluginError, match="Companion.finish of 'loser' returned other tensors than were learned"):
        finished(Stand(tmp_path, loser=along(Loser)))


def test_finishing_with_a_nan_is_refused(tmp_path):
    class Broken(Plain):
        def finish(self, tensors):
            return {name: t / 0 for name, t in tensors.items()}

    with pytest.raises(NonFiniteLoss, match="pixels became NaN or infinite"):
        finished(Stand(tmp_path, broken=along(Broken)))


def test_a_companion_that_does_nothing_changes_nothing(tmp_path):
    assert finished(Stand(tmp_path, plain=along(Plain))) == pytest.approx([0.7])


def test_what_is_no_companion_is_refused_by_name(tmp_path):
    class Bare(Companion):
        def __init__(self, learn):
            """Without the base's."""

    with pytest.raises(
        PluginError, match="ddcore_companion of 'bare' returned a companion without a state: call super"
    ):
        finished(Stand(tmp_path / "bare", bare=along(Bare)))
    with pytest.raises(PluginError, match="ddcore_companion of 'none' returned dict where a Companion is due"):
        finished(Stand(tmp_path / "none", none=along(lambda learn: {})))


def test_projections_are_handed_their_own_plugins_companion(tmp_path):
    @frozen(kw_only=True, eq=False)
    class Holder(Plugin):
        name: str

        @hookimpl
        def ddcore_companion(self):
            return Companion(owner=self.name)

        @hookimpl
        def ddcore_project(self, after, companion):
            assert companion.state == {"owner": self.name}

    @frozen(kw_only=True, eq=False)
    class Lone(Plugin):
        @hookimpl
        def ddcore_project(self, after, companion):
            assert companion is None

    plugins = {"a": Holder(name="a"), "b": Holder(name="b"), "c": Lone()}
    assert finished(Stand(tmp_path, **plugins)) == pytest.approx([0.7])


def test_an_error_in_a_companion_says_whose_it_is(tmp_path):
    class Failing(Plain):
        def after_step(self, step, loss):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        finished(Stand(tmp_path, f=along(Failing)))
    assert error.value.__notes__ == ["in Companion.after_step of 'f'"]
