"""CV-DD's votes: the paper's numbers, limits, what must not matter, who takes turns; patches of medium difficulty."""

import math

import pytest
import torch
from ddcore_cv_dd import CVDD, drawn, groups_in_order, highest, middle_patches, mosaics, vote_weights, way_of
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore import Vote
from ddcore.composing.presets import presets_of
from ddcore.images.patches import crop_boxes, cut, stitch
from ddcore.training.loop import rate_at
from ddcore.training.protocols import protocol

COMMITTEE = ("R18", "R50", "SV2", "MBV2", "D121")
PRIORS = {
    "cifar10": (63.0, 65.3, 68.5, 67.6, 67.4),
    "cifar100": (64.0, 60.6, 51.6, 59.4, 56.4),
    "tinyimagenet": (46.5, 28.3, 43.6, 44.8, 41.5),
    "imagenette": (62.4, 52.0, 57.2, 54.0, 60.8),
    "imagenet": (56.4, 42.3, 52.5, 44.2, 40.6),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(*priors: float, temperature: float = 5.0) -> Tensor:
    return vote_weights(torch.tensor(priors, dtype=torch.float64), temperature)


def of(data: str, *names: str) -> list[float]:
    return [PRIORS[data][COMMITTEE.index(name)] for name in names]


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "names", "due"),
    [("cifar100", ("R18", "SV2"), (0.9227, 0.0773)), ("imagenet", ("R18", "D121"), (0.9593, 0.0407))],
)
def test_check_weights_of_the_papers_pairs_in_recovery(data, names, due):
    assert weights(*of(data, *names)).tolist() == pytest.approx(due, abs=5e-5)


def test_check_weights_of_the_whole_committee_for_labels():
    due = (0.4128, 0.1008, 0.2795, 0.1219, 0.0850)
    assert weights(*PRIORS["imagenet"], temperature=10.0).tolist() == pytest.approx(due, abs=5e-5)


@pytest.mark.parametrize("data", PRIORS)
@pytest.mark.parametrize("temperature", [0.5, 5.0, 10.0])
def test_slow_twin(data, temperature):
    powers = [math.exp(prior / temperature) for prior in PRIORS[data]]
    due = [power / sum(powers) for power in powers]
    assert weights(*PRIORS[data], temperature=temperature).tolist() == pytest.approx(due, rel=1e-12)


@pytest.mark.parametrize("data", PRIORS)
def test_check_weights_sum_to_one(data):
    for temperature in (1e-6, 0.1, 5.0, 1e9):
        assert float(weights(*PRIORS[data], temperature=temperature).sum()) == pytest.approx(1, abs=1e-12)


def test_check_an_infinite_temperature_makes_all_weigh_the_same():
    assert weights(*PRIORS["imagenet"], temperature=math.inf).tolist() == pytest.approx([0.2] * 5, abs=1e-15)
    assert weights(*PRIORS["imagenet"], temperature=1e7).tolist() == pytest.approx([0.2] * 5, abs=1e-6)


def test_a_temperature_near_zero_leaves_the_best_alone():
    assert weights(*PRIORS["imagenet"], temperature=0.1).tolist() == pytest.approx([1, 0, 0, 0, 0], abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_check_equal_priors_make_all_weigh_the_same(count):
    for prior in (0.0, 12.5, 100.0):
        assert weights(*[prior] * count).tolist() == [1 / count] * count


def test_check_a_constant_added_to_all_priors_changes_nothing():
    for constant in (-40.0, 1.0, 1e4):
        moved = [prior + constant for prior in PRIORS["tinyimagenet"]]
        torch.testing.assert_close(weights(*moved), weights(*PRIORS["tinyimagenet"]), rtol=1e-9, atol=0)


def test_permuting_teachers_permutes_weights():
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = [PRIORS["imagenette"][j] for j in order]
    torch.testing.assert_close(weights(*moved), weights(*PRIORS["imagenette"])[order])


def test_weights_keep_the_type_of_the_priors_and_agree_across_types():
    single = vote_weights(torch.tensor(PRIORS["imagenet"]), 5.0)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), weights(*PRIORS["imagenet"]), rtol=1e-5, atol=0)


def test_weights_are_differentiable_in_the_priors():
    priors = torch.tensor(PRIORS["imagenet"], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda alpha: vote_weights(alpha, 5.0), priors)


# ---- percent ---------------------------------------------------------------------------------------------------------


def test_pitfall_fractions_in_the_exponent_would_make_all_weigh_the_same():
    assert weights(0.64, 0.516).tolist() == pytest.approx([0.506, 0.494], abs=1e-3)
    assert weights(64.0, 51.6).tolist() == pytest.approx([0.923, 0.077], abs=1e-3)


@pytest.mark.parametrize("priors", [(0.64, 0.516), (1.0, 0.2, 0.0), (1.0,)])
def test_pitfall_priors_given_as_fractions_are_refused(priors):
    with pytest.raises(ValueError, match="these are fractions, whose votes would all weigh the same: give percent"):
        CVDD(priors=priors)


@pytest.mark.parametrize("priors", [(64.0, -0.1), (100.1, 20.0), (float("nan"), 3.0)])
def test_priors_that_are_no_percentages_are_refused(priors):
    with pytest.raises(ValueError, match="from 0 to 100 percent"):
        CVDD(priors=priors)


def test_priors_of_a_hard_data_set_may_be_below_one():
    assert CVDD(priors=(0.4, 1.2)).priors == (0.4, 1.2)


def test_priors_that_are_asked_for_and_not_there_are_refused():
    with pytest.raises(ValueError, match="prior given needs --cv-dd.priors"):
        CVDD(prior="given")


# ---- turns -----------------------------------------------------------------------------------------------------------


def test_ten_slots_take_the_pairs_in_the_papers_order():
    due = "R18-R50 R18-SV2 R18-MBV2 R18-D121 R50-SV2 R50-MBV2 R50-D121 SV2-MBV2 SV2-D121 MBV2-D121"
    assert ["-".join(COMMITTEE[j] for j in pair) for pair in groups_in_order(5, 2)] == due.split()


@pytest.mark.parametrize(
    ("priors", "members", "due"),
    [((50.0, 70.0, 60.0), 2, (1, 2)), ((50.0, 50.0, 50.0), 2, (0, 1)), ((1.0, 2.0), 1, (1,)), ((3.0, 9.0), 2, (0, 1))],
)
def test_the_highest_priors_in_the_committees_order(priors, members, due):
    assert highest(priors, members) == due


def test_one_slot_is_fixed_as_many_as_pairs_take_turns_and_more_draw():
    assert [way_of("auto", slots, 10) for slots in (1, 2, 10, 11, 50)] == ["fixed", *["turns"] * 2, *["random"] * 2]
    assert [way_of(turns, 1, 10) for turns in ("fixed", "turns", "random")] == ["fixed", "turns", "random"]


def test_random_pairs_are_pairs_and_all_equally_likely():
    found = [drawn(5, 2, seeded(n)) for n in range(2000)]
    counts = {pair: found.count(pair) for pair in groups_in_order(5, 2)}
    assert sum(counts.values()) == 2000
    assert min(counts.values()) > 140 and max(counts.values()) < 260  # 200 each, four deviations of 13.4
    assert drawn(5, 2, seeded(7)) == drawn(5, 2, seeded(7))


# ---- the students' rate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eta", "epoch", "due"), [(1, 300, 0.0), (2, 150, 0.8536), (2, 300, 0.5), (1, 150, 0.5)])
def test_check_the_smoothed_cosine(eta, epoch, due):
    assert rate_at(epoch, 1.0, 300, schedule="cosine", stretch=eta) == pytest.approx(due, abs=5e-5)


def test_the_protocols_have_the_papers_numbers():
    for name, eta in (("cv-dd", 2), ("cv-dd-cifar", 1)):
        recipe = protocol(name)
        assert (recipe.stretch, recipe.batch, recipe.group, recipe.epochs_run) == (eta, 16, 8, 300)
        assert (recipe.optimizer, recipe.rate, recipe.weight_decay) == ("adamw", 1e-3, 0.01)
        assert recipe.views.mix == "cutmix"


# ---- patches of medium difficulty ------------------------------------------------------------------------------------


def judge(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(2 * 36, 3)).double().eval().requires_grad_(False)


@pytest.fixture
def pool() -> tuple[Tensor, Tensor]:
    """Twelve images of 6 x 6 and four boxes in each."""
    images = torch.randn(12, 2, 6, 6, generator=seeded(1), dtype=torch.float64)
    return images, crop_boxes(12, 4, (6, 6), (0.08, 1.0), seeded(2))


def test_slow_twin_of_the_middle_of_the_ranking(pool):
    images, boxes = pool
    votes = [Vote(judge(1), 0.7), Vote(judge(2), 0.3)]
    best = []
    for row, own in enumerate(boxes):
        crops = [cut(images[row : row + 1], box[None, None], 3)[0] for box in own]
        shown = [F.pad(crop, (1, 2, 1, 2)) for crop in crops]
        losses = [float(sum(v.weight * -v.network(x).log_softmax(1)[0, 1] for v in votes)) for x in shown]
        best.append((min(losses), row, losses.index(min(losses))))
    middle = sorted(best)[4:8]
    found = middle_patches(lambda rows: images[rows], torch.arange(12), boxes, 1, 4, votes, side=3, size=6)
    assert found["rows"].tolist() == [row for _, row, _ in middle]
    assert found["losses"].tolist() == pytest.approx([loss for loss, _, _ in middle])
    assert torch.equal(found["boxes"], torch.stack([boxes[row, crop] for _, row, crop in middle]))


def test_the_pool_is_looked_at_in_parts_that_do_not_matter(pool, monkeypatch):
    images, boxes = pool
    given = (lambda rows: images[rows], torch.arange(12), boxes, 1, 4, [Vote(judge(1))])
    whole = middle_patches(*given, side=3, size=6)
    monkeypatch.setattr("ddcore_cv_dd.medium.IMAGES_AT_ONCE", 5)
    parts = middle_patches(*given, side=3, size=6)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_mosaics_of_some_slots_are_those_of_all(pool):
    images, boxes = pool
    patches = {"rows": torch.arange(8), "boxes": boxes[:8, 0], "losses": torch.zeros(8)}
    every = mosaics(patches, lambda rows: images[rows], 2, torch.arange(2), side=3, size=6)
    assert torch.equal(every, stitch(cut(images[:8], boxes[:8, :1], 3)[:, 0], 2, 6))
    for slot in range(2):
        assert torch.equal(
            mosaics(patches, lambda rows: images[rows], 2, torch.tensor([slot]), side=3, size=6), every[slot : slot + 1]
        )


# ---- presets ---------------------------------------------------------------------------------------------------------


def test_presets_carry_the_papers_priors_and_the_baseline_has_one_teacher():
    presets = presets_of("cv-dd", CVDD)
    assert len(presets) == 30
    for key, preset in presets.items():
        base, own = (
            key.startswith("sre2l++"),
            CVDD(**{k: as_tuple(v) for k, v in preset.tables["plugin"]["cv-dd"].items()}),
        )
        assert own.priors == (() if base else PRIORS[preset.dataset])
        assert len(preset.tables["teachers"]["networks"]) == (1 if base else 5)
        assert preset.auto != base and preset.plugins == ("cv-dd", "sre2l")
        assert preset.tables["plugin"]["sre2l"]["crop"] == "resized"  # on all data sets, CIFAR too
        assert protocol(preset.tables["protocol"][0]).group == 8


def test_the_pairs_of_one_image_a_class_are_the_authors():
    presets = presets_of("cv-dd", CVDD)
    fixed = {
        p.dataset: p.tables["plugin"]["cv-dd"].get("fixed") for k, p in presets.items() if k.endswith("ipc1") and p.auto
    }
    pairs = {data: [COMMITTEE[n - 1] for n in numbers] for data, numbers in fixed.items() if numbers}
    assert pairs == {"cifar10": ["MBV2", "D121"], "imagenette": ["MBV2", "D121"], "cifar100": ["SV2", "MBV2"]}
    assert [COMMITTEE[j] for j in highest(PRIORS["imagenet"], 2)] == ["R18", "SV2"]
    assert [COMMITTEE[j] for j in highest(PRIORS["tinyimagenet"], 2)] == ["R18", "MBV2"]


def as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
