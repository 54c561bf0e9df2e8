"""CDA's schedule: the values of the paper's code, its limits and joints, and what its areas mean for the crops that are drawn."""

import math
from itertools import pairwise

import pytest
import torch
from ddcore_cda import CDA, MODES, crop_scale

from ddcore.api.types import Progress
from ddcore.composing.discovery import load_class
from ddcore.composing.plan import refusal
from ddcore.images.views import Draw, drawn

T = 4000


def lows(total: int = T, **given) -> list[float]:
    return [crop_scale(step, total, **given)[0] for step in range(total)]


@pytest.mark.parametrize(
    ("mode", "step", "due"),
    [
        *(("cosine", t, lo) for t, lo in ((0, 1.0), (1000, 0.8653), (2000, 0.54), (3000, 0.2147), (3999, 0.0800))),
        *(("linear", t, lo) for t, lo in ((0, 1.0), (1000, 0.77), (2000, 0.54), (3000, 0.31))),
        *(("step", t, 1.0) for t in (0, 2000, 3999)),
    ],
)
def test_check_the_values_of_the_schedules_over_4000_steps(mode, step, due):
    assert crop_scale(step, T, mode=mode) == (pytest.approx(due, abs=5e-5), 1.0)


def test_by_hand():
    # s = 0.2, K = 0.5 * 8 = 4, t = 1: linear 0.2 + 0.8 * 3/4 = 0.8; cosine 0.2 + 0.8 * (1 + sqrt(1/2)) / 2
    assert crop_scale(1, 8, mode="linear", milestone=0.5, least=0.2)[0] == pytest.approx(0.8)
    assert crop_scale(1, 8, milestone=0.5, least=0.2)[0] == pytest.approx(0.2 + 0.4 * (1 + math.sqrt(0.5)))
    assert crop_scale(3, 8, mode="step", milestone=0.5, least=0.2)[0] == 1.0
    assert crop_scale(4, 8, mode="step", milestone=0.5, least=0.2)[0] == 0.2


def slow_low(t: int, total: int, mode: str, m: float, least: float) -> float:
    """The spec's cases, one by one."""
    k = m * total
    if t >= k:
        return least
    if mode == "step":
        return 1.0
    if mode == "linear":
        return least + (1 - least) * (1 - t / k)
    return least + (1 - least) * (1 + math.cos(math.pi * t / k)) / 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("total", [1, 7, 250])
@pytest.mark.parametrize("m", [0.0, 0.1, 1 / 3, 0.5, 1.0])
@pytest.mark.parametrize("least", [0.08, 0.3, 1.0])
def test_slow_twin(mode, total, m, least):
    due = [slow_low(t, total, mode, m, least) for t in range(total)]
    assert lows(total, mode=mode, milestone=m, least=least) == pytest.approx(due, abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("m", [0.0, 0.37, 1.0])
def test_check_the_bound_stays_within_its_ends_and_never_rises_and_the_upper_one_is_1(mode, m):
    found = [crop_scale(step, T, mode=mode, milestone=m) for step in range(T)]
    assert all(0.08 <= low <= 1 for low, _ in found)
    assert {high for _, high in found} == {1.0}
    assert all(later <= before for (before, _), (later, _) in pairwise(found))


def test_check_milestone_0_is_the_matchers_own_bound_in_every_step():
    for mode in MODES:
        assert set(lows(mode=mode, milestone=0.0)) == {0.08}


@pytest.mark.parametrize("m", [0.25, 0.5, 0.9])
def test_check_cosine_and_linear_meet_the_matchers_bound_at_the_milestone_and_step_jumps(m):
    last = math.ceil(m * T) - 1
    for mode in ("cosine", "linear"):
        assert crop_scale(last, T, mode=mode, milestone=m)[0] == pytest.approx(0.08, abs=2 / (m * T))
    assert crop_scale(last, T, mode="step", milestone=m)[0] == 1.0
    assert {crop_scale(last + 1, T, mode=mode, milestone=m)[0] for mode in MODES} == {0.08}


def test_check_half_a_milestone_is_the_matcher_from_half_the_steps_on():
    found = lows(milestone=0.5)
    assert found[T // 2 - 1] > 0.08
    assert set(found[T // 2 :]) == {0.08}


def test_the_curriculum_is_on_unless_it_is_switched_off():
    """The default of the authors' code is milestone 0, which is SRe2L without a word."""
    assert (CDA().milestone, CDA().mode) == (1.0, "cosine")
    assert lows() == lows(mode="cosine", milestone=1.0)
    assert crop_scale(0, T)[0] == 1.0


@pytest.mark.parametrize("step", [0, 1000, 2000, 4000])
def test_check_the_mean_area_of_a_steps_crops_is_half_way_between_its_bounds(step):
    low, high = crop_scale(step, T)
    draw = Draw(scale=(low, high), ratio=(1.0, 1.0), mix="none")  # of squares none is refused for its aspect
    boxes = drawn(draw, 4000, (512, 512), torch.Generator().manual_seed(0)).crop
    areas = boxes[:, 2] * boxes[:, 3]
    assert float(areas.mean()) == pytest.approx((low + 1) / 2, abs=0.01)
    assert float(areas.min()) >= low - 0.01


def test_the_first_views_are_almost_the_whole_image_whatever_their_aspect():
    low, high = crop_scale(1, T)
    boxes = drawn(Draw(scale=(low, high), mix="none"), 500, (32, 32), torch.Generator().manual_seed(0)).crop
    assert float((boxes[:, 2] * boxes[:, 3]).min()) > 0.9
    assert float((boxes[:, 2:] == 1).all(1).float().mean()) > 0.9


def test_an_unknown_mode_is_refused_by_name():
    with pytest.raises(ValueError, match="no curriculum is named 'reverse': choose among cosine, linear, step"):
        crop_scale(0, 10, mode="reverse")
    with pytest.raises(ValueError, match="reverse"):
        CDA(mode="reverse")


@pytest.mark.parametrize("milestone", [-0.1, 1.1])
def test_a_milestone_is_a_share(milestone):
    with pytest.raises(ValueError, match="milestone"):
        CDA(milestone=milestone)


def test_the_hook_changes_the_matchers_own_bound():
    asked = CDA(mode="linear").ddcore_setting
    assert asked(value=0.08, progress=Progress(1000, T)) == pytest.approx(0.77)
    assert asked(value=0.5, progress=Progress(1000, T)) == pytest.approx(0.875)
    off = CDA(milestone=0.0).ddcore_setting
    assert [off(value=v, progress=Progress(0, T)) for v in (0.08, 0.123456789)] == [0.08, 0.123456789]


def test_matchers_without_crops_are_refused():
    matcher = load_class("dm")[0]
    assert "changes setting:match.crop_scale" in (refusal(CDA(), "cda", matcher(), "dm") or "")
