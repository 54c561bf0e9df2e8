"""MI-alpha: closed forms, limits, invariances, a slow twin, gradients; the pipeline's other losses, maps, edits and modules."""

import math
from collections import Counter
from itertools import permutations
from types import SimpleNamespace

import attrs
import pytest
import torch
from ddcore_mi_alpha import (
    Critic,
    MIAlpha,
    earth_mover_flow,
    edited,
    interpolated_bound,
    layer_map,
    logit_mse,
    of_features,
    others_log_mean,
    pooled,
    soft_cross_entropy,
    stages,
)
from torch import nn
from torch.nn import functional as F

from ddcore import InputError, Vote
from ddcore.api.types import Seen
from ddcore.cli.app import invoke
from ddcore.kit.contract import check_plugin
from ddcore.storage.places import Place, load_tensors
from ddcore.testing import resume_to_end, stop_often
from ddcore.training.teaching import Teaching, seen_of, tapped


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SCORES, BASELINE = 2 * seeded(6, 6), seeded(6, seed=1)
ALPHAS = [0.0, 0.1, 0.5, 0.9, 1.0]


def slowly(scores, baseline, alpha):
    rows = range(len(scores))
    apart = [(i, j) for i in rows for j in rows if i != j]
    others = [[math.fsum(math.exp(scores[i][k]) for k in rows if k != j) / (len(rows) - 1) for j in rows] for i in rows]
    between = [[math.log(alpha * others[i][j] + (1 - alpha) * math.exp(baseline[i])) for j in rows] for i in rows]
    joint = math.fsum(scores[i][i] - between[i][j] for i, j in apart) / len(apart)
    return 1 + joint - math.fsum(math.exp(scores[i][j] - between[i][i]) for i, j in apart) / len(apart)


# ---- the bound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_bound_equals_a_slow_twin(alpha):
    due = slowly(SCORES.tolist(), BASELINE.tolist(), alpha)
    assert float(interpolated_bound(SCORES, BASELINE, alpha)) == pytest.approx(due, rel=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_check_scores_and_baseline_of_0_say_nothing(alpha):
    assert float(interpolated_bound(torch.zeros(7, 7), torch.zeros(7), alpha)) == pytest.approx(0, abs=1e-6)


def test_check_at_alpha_1_the_bound_is_at_most_log_of_the_others_and_the_last_mean_is_1():
    for scores in (SCORES, 50 * SCORES, 100 * torch.eye(6, dtype=torch.float64)):
        joint = scores.diagonal().mean() - others_log_mean(scores)[~torch.eye(6, dtype=torch.bool)].mean()
        bound = interpolated_bound(scores, BASELINE, 1.0)
        torch.testing.assert_close(bound, joint)
        assert bound <= math.log(5) + 1e-12


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_check_a_sure_critic_of_16_rows_reaches_log_of_15_over_alpha(alpha, dtype):
    got = float(interpolated_bound(20 * torch.eye(16, dtype=dtype), torch.zeros(16, dtype=dtype), alpha))
    assert got == pytest.approx(math.log(15 / alpha), abs=2e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_check_a_constant_added_to_scores_and_baseline_changes_nothing(alpha):
    torch.testing.assert_close(
        interpolated_bound(SCORES + 3.7, BASELINE + 3.7, alpha), interpolated_bound(SCORES, BASELINE, alpha)
    )


def test_check_alpha_1_ignores_the_baseline_and_alpha_0_the_other_scores():
    torch.testing.assert_close(interpolated_bound(SCORES, 5 * BASELINE, 1.0), interpolated_bound(SCORES, BASELINE, 1.0))
    apart = ~torch.eye(6, dtype=torch.bool)
    due = 1 + (SCORES.diagonal() - BASELINE).mean() - (SCORES - BASELINE[:, None])[apart].exp().mean()
    torch.testing.assert_close(interpolated_bound(SCORES, BASELINE, 0.0), due)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_check_pairs_may_come_in_any_order(alpha):
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        interpolated_bound(SCORES[order][:, order], BASELINE[order], alpha), interpolated_bound(SCORES, BASELINE, alpha)
    )


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_check_pairs_that_do_not_belong_together_drop_the_bound_below_0(alpha):
    s = seeded(64, 4)
    t = s + 0.3 * seeded(64, 4, seed=1)
    wrong = t[torch.randperm(64, generator=torch.Generator().manual_seed(2))]
    baseline = (t.square().sum(1) / 2).sqrt()
    assert interpolated_bound(s @ t.T, baseline, alpha) > 0.3
    assert interpolated_bound(s @ wrong.T, baseline, alpha) <= 0


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_check_two_rows_in_single_precision_are_finite_at_both_ends(alpha):
    scores = torch.tensor([[30.0, -20], [4, 90]], requires_grad=True)
    baseline = torch.tensor([50.0, 80], requires_grad=True)
    bound = interpolated_bound(scores, baseline, alpha)
    bound.backward()
    assert all(torch.isfinite(x).all() for x in (bound.detach(), scores.grad, baseline.grad))


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_without_a_baseline_the_last_mean_is_1_over_alpha_and_the_first_at_most_log_of_the_others_over_alpha(alpha):
    for scores in (SCORES, 9 * SCORES):
        joint = scores.diagonal().mean() - others_log_mean(scores)[~torch.eye(6, dtype=torch.bool)].mean()
        got = interpolated_bound(scores, torch.full((6,), -1e4, dtype=torch.float64), alpha)
        torch.testing.assert_close(got, 1 + joint - math.log(alpha) - 1 / alpha)
        assert joint - math.log(alpha) <= math.log(5 / alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradients_are_those_of_finite_differences(alpha):
    given = (SCORES.clone().requires_grad_(), BASELINE.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda f, a: interpolated_bound(f, a, alpha), given)


def test_others_of_a_dominating_score_keep_their_digits_in_single_precision():
    scores = torch.tensor([[40.0, 1, 2], [0, 30, -1], [5, 5, 5]])
    exact = torch.stack([scores.double()[:, [k for k in range(3) if k != j]].logsumexp(1) for j in range(3)], 1)
    torch.testing.assert_close(others_log_mean(scores), (exact - math.log(2)).float())


def test_one_row_is_refused():
    with pytest.raises(ValueError, match="1 rows has nobody"):
        interpolated_bound(torch.zeros(1, 1), torch.zeros(1), 0.5)


def test_half_precision_is_taken_to_single():
    got = interpolated_bound(20 * torch.eye(16).half(), torch.zeros(16).half(), 0.1)
    assert got.dtype == torch.float32 and float(got) == pytest.approx(math.log(150), abs=1e-4)


def test_a_critic_scores_each_student_with_each_teacher_and_its_baseline_sees_the_teacher():
    torch.manual_seed(0)
    critic = Critic(4, 3, 8, 5).double()
    s, t = seeded(6, 4), seeded(6, 3, seed=1)
    scores, baseline = critic(s, t)
    torch.testing.assert_close(scores[1, 4], critic.student(s[1]) @ critic.teacher(t[4]))
    torch.testing.assert_close(baseline[2], critic.baseline(t[2])[0])


def gaussian(rho, seed, rows=64, dims=4):
    s = seeded(rows, dims, seed=seed)
    return s.float(), (rho * s + math.sqrt(1 - rho**2) * seeded(rows, dims, seed=seed + 10_000)).float()


def test_a_critic_that_is_trained_finds_information_where_there_is_some():
    torch.manual_seed(0)
    critics = {rho: Critic(4, 4, 32, 8) for rho in (0.0, 0.95)}
    last = {}
    for rho, critic in critics.items():
        optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
        for step in range(150):
            optimizer.zero_grad()
            bound = interpolated_bound(*critic(*gaussian(rho, step)), 0.5)
            (-bound).backward()
            optimizer.step()
        with torch.no_grad():
            fresh = [interpolated_bound(*critic(*gaussian(rho, 1000 + n)), 0.5) for n in range(10)]
        last[rho] = float(torch.stack(fresh).mean())
    assert last[0.95] > 0.7 and last[0.0] < 0.1


# ---- the other parts -------------------------------------------------------------------------------------------------

S, T = seeded(5, 4), seeded(5, 4, seed=1)


def test_features_are_compared_as_their_kind_says():
    cosine = torch.stack([(s @ t) / (s.norm() * t.norm()) for s, t in zip(S, T, strict=True)])
    torch.testing.assert_close(of_features(S, T, "mse"), ((S - T) ** 2).sum() / 20)
    torch.testing.assert_close(of_features(S, T, "cos"), (1 - cosine).mean())
    torch.testing.assert_close(of_features(S, T, "pkd"), (2 - 2 * cosine).mean())
    torch.testing.assert_close(of_features(S, T, "ce"), -(T.softmax(1) * S.softmax(1).log()).sum() / 5)
    with pytest.raises(ValueError, match="not by 'mi'"):
        of_features(S, T, "mi")


def test_cosines_of_short_rows_are_those_of_torchs_loss():
    # s = (1e-6, 0), t = (3, 4): s . t = 3e-6, squared lengths 1e-12 + 1e-12 and 25: 1 - 3e-6 / sqrt(50e-12)
    student, teacher = torch.tensor([[[1e-6, 0.0]], [[3.0, 4.0]]], dtype=torch.float64)
    got = of_features(student, teacher, "cos")
    assert float(got) == pytest.approx(1 - 3 / math.sqrt(50), rel=1e-8)


def test_lengths_do_not_matter_to_pkd_and_nothing_is_far_from_everything():
    torch.testing.assert_close(of_features(1e-20 * S, 1e20 * T, "pkd"), of_features(S, T, "pkd"))
    nothing = torch.zeros_like(S).requires_grad_()
    loss = of_features(nothing, T, "pkd")
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1) and nothing.grad.abs().max() < 10


@pytest.mark.parametrize("kind", ["mse", "cos", "pkd"])
def test_equal_features_cost_nothing(kind):
    assert float(of_features(S, S, kind)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", ["mse", "cos", "ce", "pkd"])
def test_gradients_of_features_are_those_of_finite_differences(kind):
    assert torch.autograd.gradcheck(lambda s: of_features(s, T, kind), S.clone().requires_grad_())


def test_losses_of_logits_have_no_factor_of_the_temperature():
    torch.testing.assert_close(soft_cross_entropy(S, T, 3.0), F.cross_entropy(S / 3, (T / 3).softmax(1)))
    torch.testing.assert_close(logit_mse(S, T, 3.0), F.mse_loss(S, T) / 9)


def test_skip_maps_the_last_layer_to_the_last_and_last_the_last_ones():
    assert layer_map(6, 12, "skip") == [(n, 2 * n) for n in range(1, 7)]
    assert layer_map(4, 6, "skip") == [(1, 1), (2, 3), (3, 4), (4, 6)]
    assert layer_map(2, 4, "last") == [(1, 3), (2, 4)]
    with pytest.raises(ValueError, match="no last 3"):
        layer_map(3, 2, "last")


@pytest.mark.parametrize("sign", [1, -1])
def test_an_earth_mover_between_equally_many_layers_finds_the_best_assignment(sign):
    costs = sign * seeded(5, 5, seed=4).abs()
    best = min(permutations(range(5)), key=lambda order: sum(float(costs[i, j]) for i, j in enumerate(order)))
    torch.testing.assert_close(earth_mover_flow(costs), torch.eye(5, dtype=costs.dtype)[list(best)] / 5)


def test_an_earth_mover_between_other_numbers_of_layers_is_as_good_as_an_assignment_of_their_copies():
    costs = seeded(2, 3, seed=4)
    flow = earth_mover_flow(costs)
    torch.testing.assert_close(flow.sum(1), torch.full((2,), 1 / 2, dtype=costs.dtype))
    torch.testing.assert_close(flow.sum(0), torch.full((3,), 1 / 3, dtype=costs.dtype))
    copies = costs.repeat_interleave(3, 0).repeat_interleave(2, 1)
    best = min(sum(float(copies[i, j]) for i, j in enumerate(order)) for order in permutations(range(6))) / 6
    assert float((flow * costs).sum()) == pytest.approx(best)
    assert bool((flow >= 0).all())
    torch.testing.assert_close(earth_mover_flow(costs.T), flow.T)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_flow_does_not_depend_on_the_scale_and_the_level_of_costs(scale):
    costs = seeded(4, 12, seed=4)
    torch.testing.assert_close(earth_mover_flow(scale * costs), earth_mover_flow(costs))
    torch.testing.assert_close(earth_mover_flow(costs - 7), earth_mover_flow(costs))
    assert float(earth_mover_flow(torch.full((2, 3), scale)).sum()) == pytest.approx(1)


def test_a_projection_begins_small_and_without_bias():
    torch.manual_seed(0)
    (made,) = MIAlpha(intermediate="mse").bridges([(torch.zeros(1, 64), torch.zeros(1, 128))])
    assert not made.bias.any() and float(made.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_a_pair_costs_the_same_by_any_map_where_each_has_one_layer():
    own, teaching = seen(S, 3), answered(seen(T, 3, seed=9))
    values = [value_of(MIAlpha(intermediate="mse", layers=how), own, teaching) for how in ("skip", "last", "emd")]
    assert len({float(value) for value in values}) == 1


def test_all_pairs_are_weighted_by_the_flow_which_has_no_gradient():
    own, teaching = seen(S, 3, 3), answered(seen(T, 3, 3, 3, seed=9))
    own.features["stage1"].requires_grad_()
    plugin = MIAlpha(intermediate="mse", layers="emd", logit_weight=0.0)
    costs = torch.stack([torch.stack([F.mse_loss(s, t) for t in stages(teaching.seen[0])]) for s in stages(own)])
    flow = earth_mover_flow(costs)
    modules = modules_of(plugin, own, teaching)
    assert len(modules[0]) == 6
    value = plugin.ddcore_student_loss(range(5), None, own, teaching, modules, None).value
    torch.testing.assert_close(value, (flow * costs).sum())
    (one,), (other,) = (torch.autograd.grad(v, own.features["stage1"]) for v in (value, (flow * costs).sum()))
    torch.testing.assert_close(one, other)
    own.features["stage1"].requires_grad_(False)


# ---- edits -----------------------------------------------------------------------------------------------------------

SENTENCES = torch.tensor([[2, 10, 11, 12, 13, 14, 15, 16], [2, 20, 21, 22, 0, 0, 0, 0], [2, 30, 0, 0, 0, 0, 0, 0]])


def drawn(edit, share=0.4, seed=0, tokens=SENTENCES):
    return edited(tokens, share, edit, torch.Generator().manual_seed(seed))


def words_of(row):
    return [word for word in row.tolist()[1:] if word]


def test_swaps_move_words_to_their_neighbours_and_lose_none():
    for seed in range(30):
        made = drawn("swap", seed=seed)
        assert torch.equal(made.sort(1).values, SENTENCES.sort(1).values) and torch.equal(made[2], SENTENCES[2])
        assert torch.equal(made == 0, SENTENCES == 0) and torch.equal(made[:, 0], SENTENCES[:, 0])
        moved = [at for at, word in enumerate(words_of(made[1])) if word != 20 + at]
        assert moved in ([0, 1], [1, 2])
    firsts = Counter(tuple(words_of(drawn("swap", seed=seed)[1])) for seed in range(900))
    share = {order: count / 900 for order, count in firsts.items()}
    assert set(share) == {(21, 20, 22), (20, 22, 21)}
    assert all(abs(found - 0.5) < 0.07 for found in share.values())


def test_deleted_words_are_as_many_as_the_share_says_and_the_rest_moves_up():
    for share, left in ((0.4, 5), (0.05, 6), (0.999, 1), (1.0, 1)):
        made = drawn("delete", share)
        found = words_of(made[0])
        assert len(found) == left and found == sorted(found) and set(found) <= set(range(10, 17))
        assert made[0].tolist() == [2, *found, *[0] * (7 - left)]
    gone = Counter(
        word for seed in range(700) for word in set(range(10, 17)) - set(words_of(drawn("delete", 0.2, seed)[0]))
    )
    assert sum(gone.values()) == 700 and all(abs(gone[word] - 100) < 40 for word in range(10, 17))


def test_no_more_than_ten_words_are_edited():
    long = torch.arange(1, 42)[None]
    assert len(words_of(drawn("delete", 1.0, tokens=long)[0])) == 30


def test_substitutes_are_words_of_the_batch_as_often_as_they_are_there():
    tokens = torch.tensor([[2, 5, 5, 5], [2, 5, 5, 9]])
    found = Counter(word for seed in range(600) for word in words_of(drawn("substitute", 1.0, seed, tokens)[0]))
    assert sum(found.values()) == 1800 and set(found) == {5, 9}
    assert abs(found[9] / 1800 - 1 / 6) < 0.03


def test_edits_are_the_generators_and_keep_the_kind_of_tokens():
    for edit in ("swap", "delete", "substitute"):
        one, again, other = (drawn(edit, seed=seed, tokens=SENTENCES.int()) for seed in (0, 0, 3))
        assert torch.equal(one, again) and not torch.equal(one, other) and one.dtype == torch.int32


class Sentences(nn.Module):
    """Two stages of two units, and logits of three classes."""

    taps = {"stage1": "stage1", "stage2": "stage2"}

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.words = nn.Embedding(40, 2)
        self.stage1, self.stage2 = nn.Linear(2, 2), nn.Linear(2, 2)
        self.last = nn.Linear(2, 3)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1], dtype=torch.float64)[:, None]
        hidden = self.stage2(self.stage1(self.words(tokens).cos() * (1 + places)).cos())
        return self.last(hidden[:, 0] + hidden.mean(1))


@pytest.mark.parametrize("intermediate", ["mi", "mse"])
def test_a_copy_with_edited_words_counts_as_further_rows_of_the_batch(intermediate):
    plugin = MIAlpha(intermediate=intermediate, hidden=4, edit_share=0.4, label_weight=0.3, pseudo_weight=0.2)
    student, teacher = (Sentences(seed).double() for seed in (1, 2))
    votes, classes = [Vote(teacher, 1.0, "t")], torch.tensor([0, 1, 2])
    both = torch.cat([SENTENCES, drawn("swap", seed=5)])

    def asked(tokens):
        with torch.no_grad(), tapped(student, plugin.taps()) as found:
            own = seen_of(student(tokens), found)
        return own, Teaching(votes, tokens, plugin.taps())

    own, teaching = asked(SENTENCES)
    torch.manual_seed(0)
    text = SimpleNamespace(source=SimpleNamespace(modality="text"))
    modules = plugin.ddcore_student_modules(own, teaching, text).double()
    batch = SimpleNamespace(inputs=SENTENCES, targets={"class": classes})
    generator = torch.Generator().manual_seed(5)
    found = plugin.ddcore_student_loss(batch, student, own, teaching, modules, generator).value.detach()
    labels = plugin.label_factor() * F.cross_entropy(own.logits, classes)
    due = value_of(attrs.evolve(plugin, edit_share=0.0), *asked(both), modules)
    due = due + 0.3 * F.cross_entropy(asked(both)[0].logits, classes.repeat(2))
    torch.testing.assert_close(found + labels.detach(), due)


def test_edits_are_of_text_alone():
    images = SimpleNamespace(source=SimpleNamespace(modality="images"))
    with pytest.raises(InputError, match="edits words, and these are images"):
        MIAlpha(edit_share=0.1).ddcore_student_modules(seen(S, 3), answered(seen(T, 3)), images)


def test_stages_are_pooled_and_in_order():
    maps, rows = seeded(2, 3, 4, 4), seeded(2, 5, 3)
    features = {"stage10": rows, "embedding": rows[:, 0], "stage2": maps, "stage1": rows[:, 1]}
    first, second, third = stages(Seen(S, features))
    torch.testing.assert_close(second, maps.flatten(2).mean(2))
    assert torch.equal(third, rows[:, 0]) and torch.equal(first, pooled(rows[:, 1]))


# ---- the plugin ------------------------------------------------------------------------------------------------------


def seen(logits, *widths, seed=3):
    return Seen(logits, {f"stage{n + 1}": seeded(5, width, seed=seed + n) for n, width in enumerate(widths)})


def answered(*others):
    teaching = Teaching([Vote(nn.Identity(), 1 / len(others), f"t{n}") for n in range(len(others))], None)
    teaching.__dict__["seen"] = others
    return teaching


def modules_of(plugin, own, teaching):
    torch.manual_seed(0)
    made = plugin.ddcore_student_modules(own, teaching, None)
    return None if made is None else made.double()


def value_of(plugin, own, teaching, modules=None):
    modules = modules_of(plugin, own, teaching) if modules is None else modules
    term = plugin.ddcore_student_loss(range(len(own.logits)), None, own, teaching, modules, None)
    return None if term is None else term.weight * term.value.detach()


def test_the_formula_is_the_sum_of_its_weighted_parts():
    own, teaching = seen(S, 3, 3), answered(seen(T, 3, 3, seed=9))
    given = {"intermediate": "pkd", "weight": 0.3, "logits": "ce", "logit_weight": 0.7, "temperature": 2.0}
    pairs = zip(stages(own), stages(teaching.seen[0]), strict=True)
    due = 0.7 * soft_cross_entropy(S, T, 2.0) + 0.3 * sum(of_features(s, t, "pkd") for s, t in pairs)
    torch.testing.assert_close(value_of(MIAlpha(**given), own, teaching), due)
    due = due + 0.2 * F.cross_entropy(S, T.argmax(1))
    torch.testing.assert_close(value_of(MIAlpha(**given, pseudo_weight=0.2), own, teaching), due)


def test_the_published_script_is_the_default():
    plugin = MIAlpha(hidden=4)
    own, teaching = seen(S, 3), answered(seen(T, 6, 7, seed=9))
    modules = modules_of(plugin, own, teaching)
    scores, baseline = modules[0][0](stages(own)[0], stages(teaching.seen[0])[1])
    torch.testing.assert_close(
        value_of(plugin, own, teaching, modules),
        (F.mse_loss(S, T) - interpolated_bound(scores, baseline, 0.9)).detach(),
    )
    assert plugin.label_factor() == 0 and plugin.taps() == ("stage*",)


def test_rows_may_be_the_teachers():
    own, teaching = seen(S, 3), answered(seen(T, 6, seed=9))
    plugin = MIAlpha(hidden=4, rows="teacher", logit_weight=0.0, alpha=0.3)
    modules = modules_of(plugin, own, teaching)
    scores, baseline = modules[0][0](stages(own)[0], stages(teaching.seen[0])[0])
    torch.testing.assert_close(
        value_of(plugin, own, teaching, modules), -interpolated_bound(scores.T, baseline, 0.3).detach()
    )
    student = value_of(MIAlpha(hidden=4, logit_weight=0.0, alpha=0.3), own, teaching, modules)
    assert not torch.allclose(student, value_of(plugin, own, teaching, modules))


def test_layers_of_several_teachers_are_weighted():
    one, other = seen(T, 3, seed=9), seen(T, 3, seed=12)
    plugin = MIAlpha(intermediate="mse", logit_weight=0.0)
    both = value_of(plugin, seen(S, 3), answered(one, other))
    alone = [value_of(plugin, seen(S, 3), answered(teacher)) for teacher in (one, other)]
    torch.testing.assert_close(both, sum(alone) / 2)


def test_projections_stand_where_widths_differ():
    made = MIAlpha(intermediate="mse").ddcore_student_modules(seen(S, 3, 4), answered(seen(T, 3, 6)), None)
    assert isinstance(made[0][0], nn.Identity) and made[0][1].weight.shape == (6, 4)


def test_critics_are_one_for_each_pair_or_one_for_all():
    own, teaching = seen(S, 3, 3), answered(seen(T, 6, 6))
    each, one = (MIAlpha(hidden=4, critics=how).ddcore_student_modules(own, teaching, None) for how in ("each", "one"))
    assert len(list(each.parameters())) == 2 * len(list(one.parameters()))
    assert one[0][0] is one[0][1]
    with pytest.raises(InputError, match="widths 3 and 6, 4 and 6"):
        MIAlpha(critics="one").ddcore_student_modules(seen(S, 3, 4), teaching, None)


def test_last_layers_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="3 layers and its teacher t0 2"):
        MIAlpha(layers="last").ddcore_student_modules(seen(S, 3, 3, 3), answered(seen(T, 3, 3)), None)


def test_a_batch_of_one_row_is_compared_with_nobody():
    own, other = (Seen(z[:1], {"stage1": z[:1]}) for z in (S, T))
    torch.testing.assert_close(value_of(MIAlpha(hidden=4), own, answered(other)), F.mse_loss(S[:1], T[:1]))


def test_without_weights_the_term_is_zero():
    plugin = MIAlpha(**MIAlpha.neutral)
    assert float(value_of(plugin, seen(S, 3), answered(seen(T, 3)))) == 0 and plugin.label_factor() == 1
    assert plugin.ddcore_student_modules(seen(S, 3), answered(seen(T, 3)), None) is None and plugin.taps() == ()


@pytest.mark.parametrize("wrong", [{"alpha": 1.1}, {"alpha": -0.1}, {"weight": -1.0}, {"temperature": 0.0}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError):
        MIAlpha(**wrong)


def test_the_contract_is_kept():
    check_plugin("mi-alpha")


# ---- in training -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def begun(cache, out, *words):
    quick = ["--data=digits", "--per-class=5", "--student=convnet2-w4", "--protocol=kd-3", "--eval-seeds=1"]
    quick += ["--threads=1", "--plugin=mi-alpha", "--mi-alpha.hidden=16", "--teachers.epochs=1", "--teachers.no-check"]
    return invoke(["train", *quick, "--teacher=resnet8", f"--cache={cache}", f"--out={out}", *words])


def weights(out, name="student"):
    return load_tensors(Place.at(out / "students" / f"{name}-0.safetensors"))


@pytest.mark.parametrize("kind", ["mi", "mse", "cos", "ce", "pkd"])
def test_students_learn_by_every_loss_from_teachers_with_more_stages(cache, tmp_path, kind):
    words = [f"--mi-alpha.intermediate={kind}", "--mi-alpha.layers=last", "--mi-alpha.label-weight=1", "--no-plain"]
    assert begun(cache, tmp_path / "a", *words) == 0
    without = [*words, "--mi-alpha.weight=0"]
    assert begun(cache, tmp_path / "b", *without) == 0
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert all(torch.isfinite(tensor).all() for tensor in one.values())


def test_without_weights_students_are_the_plain_ones(cache, tmp_path):
    off = ["--mi-alpha.weight=0", "--mi-alpha.logit-weight=0", "--mi-alpha.label-weight=1"]
    assert begun(cache, tmp_path / "a", "--student=resnet8", *off) == 0
    one, plain = weights(tmp_path / "a"), weights(tmp_path / "a", "plain")
    assert all(torch.equal(tensor, plain[name]) for name, tensor in one.items())


def test_a_stopped_student_goes_on_in_the_same_bits(cache, tmp_path, monkeypatch):
    assert begun(cache, tmp_path / "whole", "--no-plain") == 0
    stop_often(monkeypatch)
    assert begun(cache, tmp_path / "cut", "--no-plain") == 3 and resume_to_end(tmp_path / "cut") == 0
    one, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(tensor, cut[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    "further",
    [["--mi-alpha.critics=each"], ["--mi-alpha.critics=one", "--mi-alpha.layers=emd", "--mi-alpha.edit-share=0.3"]],
)
def test_students_of_text_learn_too(tmp_path, further):
    words = ["--plugin=text", "--plugin=mi-alpha", "--data=sentences", "--student=transformer1-w8-h2", "--per-class=20"]
    words += ["--teacher=transformer2-w16-h2", "--teachers.epochs=1", "--teachers.no-check", "--protocol=text-1"]
    words += ["--eval-seeds=1", "--threads=1", f"--cache={tmp_path / 'cache'}", "--amp"]
    assert invoke(["train", *words, *further, f"--out={tmp_path / 'out'}"]) == 0
