"""Learning that goes wrong without a NaN is said while it happens, and kept; a rate that stays on its floor ends the run."""

from types import SimpleNamespace

import pytest
import torch
from attrs import frozen
from two_classes import ran

from ddcore import Learn, Loss, Plugin, Task, hookimpl
from ddcore.composing.asking import Hooks
from ddcore.composing.discovery import manager
from ddcore.errors import Diverged, Interrupted
from ddcore.runs.divergence import MANY, notes_of
from ddcore.runs.loop import distil_task
from ddcore.storage.checkpoints import Checkpoints
from ddcore.storage.places import Place
from ddcore.storage.progress import Reporter


@frozen(kw_only=True, eq=False)
class Learner(Plugin):
    """A number and a rate that follow given gradients; steps of which nothing is given are skipped."""

    lr_img: float = 0.5
    rate_of_rates: float = 2.0
    pixels: tuple = (0.0,) * 400
    rates: tuple = (0.0,) * 400
    floor: float | None = 1e-3

    @hookimpl
    def ddcore_learn(self):
        number, rate = torch.zeros(3, requires_grad=True), torch.tensor(0.1, requires_grad=True)
        optimizers = {"x": torch.optim.SGD([number], self.lr_img), "rate": torch.optim.SGD([rate], self.rate_of_rates)}
        return Learn({"x": number, "rate": rate}, optimizers, roles={"x": "pixels", "rate": "rate"})

    @hookimpl
    def ddcore_matching_loss(self, step, learn):
        if self.pixels[step] is not None:
            yield Loss(learn.tensors["x"].sum() * self.pixels[step] + learn.tensors["rate"] * self.rates[step])

    @hookimpl
    def ddcore_project(self, after, role):
        return after.clamp(min=self.floor) if role == "rate" and self.floor is not None else None


class Stand:
    """The services of a run that the loop uses."""

    matcher_name, plan, device, of_images = "'m'", SimpleNamespace(matcher="m"), torch.device("cpu"), False

    def __init__(self, folder, matcher, stops=True, stop_after=None):
        self.plugins, self.matcher = {"m": matcher}, matcher
        self.hooks, self.checkpoints = Hooks(manager(self.plugins, {}), {}), Checkpoints(Place.at(folder), 1e9)
        self.config, self.progress = SimpleNamespace(stop_diverged=stops), Reporter(quiet=True).progress
        self.warned, self.stop_after, self.stopping, self.steps = [], stop_after, False, []

    def log(self, event, *, step, **fields):
        self.steps.append(step)
        self.stopping = step == self.stop_after

    def warn(self, text):
        self.warned.append((len(self.steps), text))

    def check_stop(self):
        if self.stopping:
            raise Interrupted("stopped")


def did(stand, steps):
    return distil_task(Task("distil", "t", steps), stand)


def moving(steps):
    return tuple((-1.0) ** n for n in range(steps))


def test_what_goes_well_is_not_spoken_of(tmp_path):
    stand = Stand(tmp_path, Learner(pixels=moving(50), rates=moving(50), rate_of_rates=0.01))
    assert "watched" not in did(stand, 50)[1] and not stand.warned


def test_a_rate_on_its_floor_is_said_once_with_numbers_while_it_happens(tmp_path):
    stand = Stand(tmp_path, Learner(pixels=moving(20), rates=(1.0, *[0.01] * 19)))
    header = did(stand, 20)[1]
    ((step, text),) = stand.warned
    assert step == 3
    assert text == (
        "'m': the learned rate has lain on its floor of 0.001 for 3 steps by step 2 (it began as 0.1), and students learn "
        "nothing at such a rate; lower --m.rate-of-rates, which is 2"
    )
    assert header["watched"] == {"rate low": text}


def test_a_rate_without_a_floor_counts_when_it_is_none(tmp_path):
    stand = Stand(tmp_path, Learner(pixels=moving(20), rates=(1.0, *[0.01] * 19), floor=None))
    did(stand, 20)
    assert "the learned rate has lain on its floor of -" in stand.warned[0][1]


def test_a_rate_that_stays_on_its_floor_ends_the_run_and_the_state_before_is_kept(tmp_path):
    rates = (*[0.001] * 10, 1.0, *[0.01] * 300)
    stand = Stand(tmp_path, Learner(pixels=moving(300), rates=rates))
    with pytest.raises(
        Diverged, match=f"floor of 0.001 for {MANY} steps by step 39 .*checkpoints/t.safetensors: lower --m"
    ):
        did(stand, 300)
    state = Stand(tmp_path, Learner(pixels=moving(300), rates=rates), stop_after=8)
    with pytest.raises(Interrupted):
        did(state, 300)
    assert state.steps == [8]  # from the last state that was saved before step 10
    on = Stand(tmp_path / "on", Learner(pixels=moving(300), rates=rates), stops=False)
    assert float(did(on, 300)[0]["rate"]) == pytest.approx(1e-3)
    assert list(did(Stand(tmp_path / "on", on.matcher, stops=False), 300)[1]["watched"]) == ["rate low"]


def test_a_rate_that_comes_back_from_its_floor_ends_nothing(tmp_path):
    rates = [1.0, *[0.01] * (MANY - 5), -1.0, *[0.0] * 3] * 4
    did(Stand(tmp_path, Learner(pixels=moving(len(rates)), rates=tuple(rates))), len(rates))


def test_a_rate_in_the_hundreds_is_said(tmp_path):
    stand = Stand(tmp_path, Learner(pixels=moving(5), rates=(-100.0, *[0.0] * 4)))
    did(stand, 5)
    assert stand.warned[0][1].startswith(
        "'m': the learned rate is 200.1 after step 0, no rate to train with; lower --m.rate"
    )


def test_numbers_that_grow_without_bounds_are_said(tmp_path):
    stand = Stand(tmp_path, Learner(pixels=(*moving(5), 1e5, *moving(5)), rates=moving(20), rate_of_rates=0.01))
    did(stand, 11)
    assert stand.warned == [
        (6, "'m': x reaches 5e+04 after step 5, and began with 0 at most; lower --m.lr-img, which is 0.5")
    ]


@pytest.mark.parametrize("nothing", [None, 0.0])
def test_steps_that_move_nothing_are_said_when_they_are_most(tmp_path, nothing):
    stand = Stand(tmp_path, Learner(pixels=(1.0, *[nothing] * 40), rates=(0.0,) * 40))
    did(stand, 40)
    counts = "9 were skipped, 0 changed" if nothing is None else "0 were skipped, 9 changed"
    assert stand.warned[0] == (
        10,
        f"'m': 9 of 10 steps moved nothing ({counts} no number); give smaller or larger rates: --m.lr-img, which is 0.5 or "
        "--m.rate-of-rates, which is 2",
    )


def test_a_stop_changes_nothing_of_what_is_said(tmp_path):
    learner = Learner(pixels=(1.0, *[None] * 40), rates=(0.0,) * 40)
    whole = did(Stand(tmp_path / "whole", learner), 40)[1]["watched"]
    with pytest.raises(Interrupted):
        did(Stand(tmp_path / "cut", learner, stop_after=5), 40)
    assert did(Stand(tmp_path / "cut", learner), 40)[1]["watched"] == whole


def test_what_several_tasks_were_warned_of_is_one_note():
    headers = [{"watched": {"range": "pixels"}}, {"roles": {}}, {"watched": {"range": "x", "idle": "still"}}]
    assert notes_of(headers) == ["pixels (and so in 1 more task)", "still"]


# ---- whole runs ------------------------------------------------------------------------------------------------------


def test_pixels_are_watched_for_any_matcher(two, capsys, probes):
    assert ran(two, "far", "--plugin", "pull", "--steps", "2", "--pull.rate", "1e9") == 0
    assert "lower --pull.rate, which is 1e+09" in capsys.readouterr().err
    assert ran(two, "well", "--plugin", "pull", "--steps", "5") == 0
    assert "warning" not in capsys.readouterr().err
