"""The game by hand, by its dual and by all sets; draws; rounds of questions inside a training."""

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch
from ddcore_rad import RAD, drawn, entropy, gains, inclusion, query, robust, systematic, wrong_share

from ddcore import Progress, Vote
from ddcore.api.types import Seen
from ddcore.cli.app import invoke
from ddcore.kit.contract import check_plugin
from ddcore.storage.places import Place, load_tensors
from ddcore.testing import resume_to_end, stop_often
from ddcore.training.teaching import Teaching


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn_gains(n, seed=0):
    return torch.rand(n, generator=gen(seed), dtype=torch.float64) * 0.98 + 0.02


def worst(p, g, wrong):
    """The least gain over all sets of so many wrong rows."""
    each = (p * g).tolist()
    return sum(each) - max(sum(chosen) for chosen in itertools.combinations(each, wrong))


# ---- the game --------------------------------------------------------------------------------------------------------


def test_check_four_gains_by_hand():
    g = torch.tensor([1, 0.8, 0.5, 0.2], dtype=torch.float64)
    # H = 1, 2.25, 4.25, 9.25: V = 0, 1 / 2.25, 2 / 4.25, 3 / 9.25
    p, value = robust(g, 1)
    torch.testing.assert_close(p, torch.tensor([1, 1.25, 2, 0], dtype=torch.float64) / 4.25)
    assert value == pytest.approx(2 / 4.25) == pytest.approx(0.4706, abs=5e-5)


def test_check_a_teacher_without_errors_is_asked_about_the_best_row():
    p, value = robust(torch.tensor([0.8, 1, 0.5, 0.2]), 0)
    assert (p.tolist(), value) == ([0, 1, 0, 0], 1)


@pytest.mark.parametrize("c", [1.0, 0.3, 1 / 3, 0.1])
@pytest.mark.parametrize("wrong", [0, 1, 5])
def test_check_equal_gains_get_equal_probabilities(c, wrong):
    p, value = robust(torch.full((7,), c, dtype=torch.float64), wrong)
    torch.testing.assert_close(p, torch.full((7,), 1 / 7, dtype=torch.float64))
    assert value == pytest.approx(c * (7 - wrong) / 7)


def test_check_the_largest_of_equally_good_supports():
    # V(2) = 1 / 2, and g_3 = 1 / 2 leaves it there: the third row joins
    p, value = robust(torch.tensor([1.0, 1.0, 0.5]), 1)
    assert value == pytest.approx(0.5)
    torch.testing.assert_close(p, torch.tensor([1, 1, 2], dtype=torch.float64) / 4)


@pytest.mark.parametrize("n", [8, 12, 20])
def test_check_probabilities_add_up_and_their_gains_are_level_and_the_dual_is_as_large(n):
    # the adversary's best mix errs on row i with q_i = 1 - V / g_i on the support: if these are probabilities that add
    # up to m and no row then pays more than V, no p can do better than V
    for seed, wrong in itertools.product(range(5), range(1, n)):
        g = drawn_gains(n, seed)
        p, value = robust(g, wrong)
        support = p > 0
        assert float(p.sum()) == pytest.approx(1)
        torch.testing.assert_close((p * g)[support], (p * g)[support].mean().expand(int(support.sum())))
        q = torch.where(support, 1 - value / g, 0.0)
        assert q.min() >= -1e-12 and q.max() <= 1 and float(q.sum()) == pytest.approx(wrong)
        assert float(((1 - q) * g).max()) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("wrong", [1, 3, 6])
def test_check_against_every_set_of_wrong_rows_it_gains_its_value_and_others_gain_less(wrong):
    g = drawn_gains(8, 3)
    p, value = robust(g, wrong)
    assert worst(p, g, wrong) == pytest.approx(value)
    support = (p > 0).nonzero()[:, 0].tolist()
    each = (p * g).tolist()
    for chosen in itertools.combinations(range(8), wrong):
        realised = sum(each) - sum(each[i] for i in chosen)
        assert realised >= value - 1e-12
        if set(chosen) <= set(support):
            assert realised == pytest.approx(value)
    for seed in range(300):
        step = torch.randn(8, generator=gen(seed), dtype=torch.float64) * 0.02
        other = (p + step).clamp(min=0)
        assert worst(other / other.sum(), g, wrong) <= value + 1e-12


def test_check_the_unit_of_gains_and_the_order_of_rows_do_not_matter():
    g, order = drawn_gains(12), torch.randperm(12, generator=gen(9))
    p, value = robust(g, 4)
    for c in (7.0, 1e-4):
        torch.testing.assert_close(robust(c * g, 4)[0], p)
        assert robust(c * g, 4)[1] == pytest.approx(c * value)
    torch.testing.assert_close(robust(g[order], 4)[0], p[order])


def test_check_more_errors_cost_value_and_widen_the_support():
    for seed in range(10):
        found = [robust(drawn_gains(15, seed), wrong) for wrong in range(15)]
        values, widths = [value for _, value in found], [int((p > 0).sum()) for p, _ in found]
        assert values == sorted(values, reverse=True)
        assert widths == sorted(widths)
        assert widths[-1] == 15


@pytest.mark.parametrize("wrong", [(torch.tensor([1.0, 0.0]), 0), (torch.ones(3), 3), (torch.ones(3), -1)])
def test_games_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="wrong rows are due"):
        robust(*wrong)


# ---- gains -----------------------------------------------------------------------------------------------------------


def test_a_gain_is_one_where_two_classes_are_level_and_never_zero():
    z = torch.tensor([[0.0, 0, -50], [800, 0, 0], [math.log(3), 0, -1e4]])
    torch.testing.assert_close(gains(z), torch.tensor([1, 1e-6, 0.5], dtype=torch.float64))
    assert robust(gains(z), 0)[0].isfinite().all()


def test_entropy_by_hand():
    z = torch.tensor([[0.0, 0, 0], [900, 0, 0]])
    torch.testing.assert_close(entropy(z), torch.tensor([math.log(3), 0], dtype=torch.float64))
    ruled_out = torch.tensor([[0.0, 0.0, -math.inf], [0.0, -math.inf, -math.inf]])
    torch.testing.assert_close(entropy(ruled_out), torch.tensor([math.log(2), 0], dtype=torch.float64))


# ---- draws -----------------------------------------------------------------------------------------------------------


def test_check_one_row_is_drawn_as_often_as_its_probability_says():
    p = robust(drawn_gains(6), 2)[0]
    order = torch.arange(6)
    counts = torch.zeros(6)
    generator = gen(1)
    for _ in range(10_000):
        counts[drawn(p, order, 1, generator)] += 1
    error = (p * (1 - p) / 10_000).sqrt()
    assert ((counts / 10_000 - p).abs() <= 3 * error).all()


def test_several_rows_are_drawn_with_the_capped_probabilities_and_none_twice():
    p = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
    due, counts, generator = inclusion(p, 3), torch.zeros(5), gen(2)
    for _ in range(5000):
        found = systematic(due, 3, generator)
        assert len(set(found.tolist())) == 3
        counts[found] += 1
    assert counts[0] == 5000
    assert ((counts / 5000 - due).abs() <= 4 * (due * (1 - due) / 5000).sqrt()).all()


def test_water_is_filled_up_to_one_and_spread_over_the_rest():
    # b p = 1.5, 0.6, 0.45, 0.3, 0.15: the first is sure, and two rows are left for 0.5 = 0.2 + 0.15 + 0.1 + 0.05
    p = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
    torch.testing.assert_close(inclusion(p, 3), torch.tensor([1, 0.8, 0.6, 0.4, 0.2], dtype=torch.float64))
    torch.testing.assert_close(inclusion(p, 5), torch.ones(5, dtype=torch.float64))
    for count in range(1, 6):
        assert float(inclusion(p, count).sum()) == pytest.approx(count)
    with pytest.raises(ValueError, match="3 different rows asked of 1"):
        inclusion(torch.tensor([1.0, 0, 0]), 3)


def test_many_rows_are_drawn_without_a_slip_at_the_end_of_the_ruler():
    for seed in range(50):
        p = robust(drawn_gains(2000, seed), 700)[0]
        found = drawn(p, torch.arange(2000), 501, gen(seed))
        assert len(found.unique()) == 501 and (p[found] > 0).all()


def test_where_too_few_have_a_probability_the_next_by_gain_are_taken():
    z = torch.tensor([[3.0, 0], [0.1, 0], [9, 0], [0.2, 0], [1, 0]])
    assert query("margin", z, 0, 3, gen()).tolist() == [1, 3, 4]
    assert query("rad", z, 0, 3, gen()).tolist() == [1, 3, 4]
    assert query("entropy", z, 0, 2, gen()).tolist() == [1, 3]
    assert query("rad", z, 4, 5, gen()).tolist() == list(range(5))


def test_a_robust_choice_asks_less_of_the_least_sure_rows_than_margins_do():
    z = torch.cat([torch.full((5, 1), 0.05), torch.full((45, 1), 1.0)]).mul(torch.tensor([[1.0, -1.0]]))
    asked = [int((query("rad", z, 20, 10, gen(seed)) < 5).sum()) for seed in range(40)]
    assert int((query("margin", z, 20, 10, gen()) < 5).sum()) == 5
    assert 0 < sum(asked) / 40 < 2


# ---- rounds ----------------------------------------------------------------------------------------------------------


class Samples:
    def __init__(self, n=50, seed=5):
        self.table, self.labels = torch.randn(n, 2, generator=gen(seed)), torch.arange(n) % 2

    def __len__(self):
        return len(self.table)

    def inputs(self, rows):
        return self.table[rows]


LOG = SimpleNamespace(log=lambda *a, **b: None, source=SimpleNamespace(classes=("a", "b")))


def asked(plugin, samples, steps):
    state, rows, teachers = {}, torch.arange(len(samples)), [Vote(torch.nn.Identity())]
    found = []
    for step in steps:
        given = [samples, torch.nn.Identity(), teachers, Progress(step, 100), state, gen(step), LOG]
        found.append(plugin.ddcore_student_rows(rows, *given).tolist())
    return found, state


@pytest.mark.parametrize("strategy", ["rad", "margin", "entropy", "random"])
def test_rows_that_were_asked_about_stay_and_rounds_add_their_part(strategy):
    found, state = asked(RAD(share=0.4, rounds=4, strategy=strategy), Samples(), (0, 10, 25, 50, 99, 99))
    assert [len(rows) for rows in found] == [5, 5, 10, 15, 20, 20]
    assert all(set(a) <= set(b) and b == sorted(set(b)) for a, b in itertools.pairwise(found))
    assert not set(found[-1]) & set(state["pool"].tolist())
    assert len(state["pool"]) == 50 - 5 - 20


def test_errors_are_counted_on_rows_that_are_never_asked_about():
    samples = Samples()
    plugin = RAD(share=1.0, rounds=2, held=0.3)
    found, state = asked(plugin, samples, (0, 60))
    held = sorted(set(range(50)) - set(found[-1]))
    assert len(held) == 15 and len(state["pool"]) == 0
    wrong = (samples.table[held].argmax(1) != samples.labels[held]).double().mean()
    assert state["error"] == pytest.approx(float(wrong))
    # m comes of the pool that was left: 35 rows less the 18 of the first round
    assert state["wrong"] == min(16, round(state["error"] * 17))


def test_several_teachers_are_wrong_together():
    samples = Samples()
    votes = [Vote(torch.nn.Identity(), 3.0), Vote(torch.nn.Linear(2, 2, bias=False), 1.0)]
    with torch.no_grad():
        votes[1].network.weight.copy_(-torch.eye(2))
    assert wrong_share(torch.arange(50), samples, votes) == wrong_share(torch.arange(50), samples, votes[:1])


def test_teachers_say_all_and_labels_nothing():
    teaching = Teaching([Vote(torch.nn.Identity())], None)
    s, t = torch.randn(4, 3, generator=gen(1)), torch.randn(4, 3, generator=gen(2))
    teaching.__dict__["seen"] = (Seen(t, {}),)
    term = RAD().ddcore_student_loss(s, teaching)
    due = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(term.weight * term.value, due)
    assert RAD().label_factor() == term.labels == 0
    silent = RAD(weight=0.0, label_weight=0.5).ddcore_student_loss(s, teaching)
    assert (float(silent.weight * silent.value), silent.labels) == (0, 0.5)


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"rounds": 0}, {"held": 1.0}, {"held": 0.0}, {"error": 1.1}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        RAD(**wrong)


# ---- in a run --------------------------------------------------------------------------------------------------------

QUICK = ["--student=convnet2-w4", "--protocol=kd-6", "--eval-seeds=1", "--threads=1", "--data=digits", "--per-class=20"]
TEACHER = ["--teacher=resnet8", "--teachers.epochs=2", "--teachers.no-check", "--rad.rounds=3", "--rad.share=0.4"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def train(cache, out, *words):
    return invoke(["train", "--plugin=rad", *QUICK, *TEACHER, f"--cache={cache}", f"--out={out}", *words])


def weights(out, arm="student"):
    return load_tensors(Place.at(out / "students" / f"{arm}-0.safetensors"))


def events(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "rad"]


def test_the_contract_is_kept():
    check_plugin("rad")


@pytest.mark.parametrize("strategy", ["rad", "margin"])
def test_a_student_asks_in_rounds_and_says_what(cache, tmp_path, strategy):
    assert train(cache, tmp_path / "a", f"--rad.strategy={strategy}") == 0
    lines = events(tmp_path / "a")
    assert [line["asked"] for line in lines] == [27, 53, 80]
    assert all(sum(line["classes"]) == len(line["rows"]) for line in lines)
    assert all(0 <= line["right"] <= 1 for line in lines)
    rows = json.loads((tmp_path / "a" / "scores.json").read_text())["rows"]
    assert {row["set"]: row["steps"] for row in rows} == {"teacher": 0, "student": 12, "plain": 12}


def test_all_rows_at_once_without_weight_are_the_plain_student(cache, tmp_path):
    words = ["--rad.share=1", "--rad.rounds=1", "--rad.held=0", "--rad.strategy=random"]
    assert train(cache, tmp_path / "a", *words, "--rad.weight=0", "--rad.label-weight=1") == 0
    one, other = weights(tmp_path / "a"), weights(tmp_path / "a", "plain")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_stopped_student_keeps_what_it_asked(cache, tmp_path, monkeypatch):
    assert train(cache, tmp_path / "whole", "--no-plain") == 0
    stop_often(monkeypatch, times=3)
    assert train(cache, tmp_path / "cut", "--no-plain") == 3
    assert resume_to_end(tmp_path / "cut") == 0
    one, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(tensor, cut[name]) for name, tensor in one.items())
    for line, other in zip(events(tmp_path / "whole"), events(tmp_path / "cut"), strict=True):
        assert line["rows"] == other["rows"]
