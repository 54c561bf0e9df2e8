"""Rounds of random subsets: sizes, disjointness, visiting counts, control arms, the same bits after a stop."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from ddcore_rs2 import RS2, dealt, drawn, taken

from ddcore.cli.app import invoke
from ddcore.composing import answers
from ddcore.kit.contract import check_plugin
from ddcore.storage.places import Place, load_tensors
from ddcore.testing import resume_to_end, stop_often
from ddcore.training.protocols import protocol
from ddcore.training.students import descent_of


def gen(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(sum(n * 1000**at for at, n in enumerate(key)))


def samples(*counts: int) -> SimpleNamespace:
    return SimpleNamespace(labels=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)))


def rounds(plugin: RS2, among, count: int, seed: int = 0) -> list[list[int]]:
    state, rows = {}, torch.arange(len(among.labels))
    return [plugin.ddcore_student_rows(rows, among, e, state, gen(seed, e)).tolist() for e in range(count)]


# ---- rounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", [RS2(share=0.3), RS2(share=0.3, replacement=True), RS2(share=0.3, stratified=True)])
@pytest.mark.parametrize("n", [10, 11, 30])
def test_check_a_round_has_k_rows_and_none_twice(plugin, n):
    for rows in rounds(plugin, samples(n), 12):
        assert len(rows) == len(set(rows)) == round(0.3 * n)
        assert set(rows) <= set(range(n))


@pytest.mark.parametrize(("n", "share"), [(12, 0.25), (10, 0.3), (7, 0.3), (9, 1 / 3)])
def test_check_without_replacement_the_rounds_of_an_order_are_disjoint(n, share):
    found = rounds(RS2(share=share), samples(n), n // round(share * n))
    seen = [row for rows in found for row in rows]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("replacement", [False, True])
def test_check_a_share_of_one_is_an_ordinary_epoch(replacement):
    assert rounds(RS2(share=1.0, replacement=replacement), samples(9), 3) == [list(range(9))] * 3


def test_check_half_of_the_rows_for_200_rounds_visits_each_100_times():
    found = rounds(RS2(share=0.5), samples(14), 200)
    assert torch.bincount(torch.tensor(found).flatten()).tolist() == [100] * 14


@pytest.mark.parametrize(("n", "k"), [(10, 3), (7, 5), (11, 4), (5, 1), (6, 6)])
def test_no_row_comes_again_before_all_others_did_even_where_k_does_not_divide_n(n, k):
    counts, order, at = torch.zeros(n, dtype=torch.int64), torch.randperm(n, generator=gen(1)), 0
    for e in range(3 * n):
        rows, order, at = dealt(order, at, k, gen(2, e))
        assert sorted(order.tolist()) == list(range(n))
        counts[rows] += 1
        assert int(counts.max()) - int(counts.min()) <= 1
    assert counts.tolist() == [3 * k] * n


def test_a_round_of_what_is_left_goes_on_with_a_new_order():
    rows, order, at = dealt(torch.arange(10), 9, 3, gen(0))
    assert rows[0] == 9
    assert at == 2 and order[:2].tolist() == rows[1:].tolist()
    assert order.tolist() != list(range(10))


def test_with_replacement_every_row_is_as_likely_and_rounds_know_nothing_of_each_other():
    counts = torch.zeros(8)
    both = 0
    for e in range(2000):
        first, second = drawn(8, 2, gen(3, e)), drawn(8, 2, gen(4, e))
        counts[first] += 1
        both += len(set(first.tolist()) & set(second.tolist()))
    assert (counts - 500).abs().max() < 4 * math.sqrt(2000 * 0.25 * 0.75)
    assert both / 2000 == pytest.approx(2 * 2 / 8, abs=0.05)


@pytest.mark.parametrize("replacement", [False, True])
def test_a_class_keeps_its_share_and_a_row_at_least(replacement):
    among = samples(20, 10, 2)
    for rows in rounds(RS2(share=0.2, stratified=True, replacement=replacement), among, 6):
        assert torch.bincount(among.labels[rows], minlength=3).tolist() == [4, 2, 1]


def test_a_fixed_subset_is_the_first_rounds_for_ever():
    found = rounds(RS2(share=0.3, fixed=True), samples(20), 5)
    assert found == [rounds(RS2(share=0.3), samples(20), 1)[0]] * 5


@pytest.mark.parametrize("plugin", [RS2(), RS2(replacement=True)])
def test_check_a_seed_says_all_and_another_differs_in_each_round(plugin):
    among = samples(200)
    assert rounds(plugin, among, 6) == rounds(plugin, among, 6)
    assert all(a != b for a, b in zip(rounds(plugin, among, 6), rounds(plugin, among, 6, seed=1), strict=True))
    first = rounds(plugin, among, 6)
    assert len({tuple(rows) for rows in first}) == 6


def test_rows_that_another_plugin_chose_are_all_there_is():
    state, among = {}, samples(20)
    for epoch, size in enumerate((10, 10, 6)):
        rows = torch.arange(size) * 2
        found = RS2(share=0.5).ddcore_student_rows(rows, among, epoch, state, gen(epoch))
        assert len(found) == size // 2 and set(found.tolist()) <= set(rows.tolist())


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.01}, {"share": math.nan}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError):
        RS2(**wrong)


# ---- the schedule ----------------------------------------------------------------------------------------------------


def test_check_the_schedule_is_as_long_as_the_steps_and_passes_the_middle_at_half():
    plugin, recipe = RS2(share=0.1), protocol("rs2-20")
    schedule = recipe.schedule(plugin.visited(5000))
    assert schedule.steps == 20 * math.ceil(500 / 128)
    descent = descent_of(recipe, schedule, recipe.rate)
    assert descent.rate_at(schedule.steps) == pytest.approx(1e-4)
    assert descent.rate_at(schedule.steps - 1) == pytest.approx(1e-4, abs=1e-4)
    assert descent.rate_at(schedule.steps // 2) == pytest.approx((0.1 + 1e-4) / 2)
    assert len({descent.rate_at(step) for step in range(schedule.steps)}) == schedule.steps


# ---- in a run --------------------------------------------------------------------------------------------------------

QUICK = ["--student=convnet2-w4", "--protocol=rs2-4", "--eval-seeds=2", "--threads=1", "--data=digits"]


def train(out, *words):
    return invoke(["train", "--plugin=rs2", *QUICK, f"--out={out}", "--per-class=12", *words])


def rows_of(out):
    return {row["set"]: row for row in json.loads((out / "scores.json").read_text())["rows"]}


def test_the_contract_is_kept():
    check_plugin("rs2")


def test_a_share_of_one_is_the_plain_student_bit_for_bit(tmp_path):
    assert train(tmp_path / "a", "--rs2.share=1") == 0
    rows = rows_of(tmp_path / "a")
    assert rows["student"]["accuracy"] == rows["plain"]["accuracy"]
    one, other = (
        load_tensors(Place.at(tmp_path / "a" / "students" / f"{arm}-1.safetensors")) for arm in ("student", "plain")
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_check_as_many_rows_are_seen_as_rounds_have_and_the_plain_student_makes_the_same_steps(tmp_path, monkeypatch):
    seen, real = [], answers.rows_of

    def counted(answer, *more):
        seen.append(len(answer))
        return real(answer, *more)

    monkeypatch.setattr(answers, "rows_of", counted)
    assert train(tmp_path / "a", "--rs2.share=0.25") == 0
    assert seen == [30] * 4 * 2
    assert {row["steps"] for row in rows_of(tmp_path / "a").values()} == {4}


@pytest.mark.parametrize("words", [[], ["--rs2.replacement", "--rs2.stratified"], ["--rs2.fixed"]])
def test_a_stopped_student_goes_on_with_its_order(tmp_path, monkeypatch, words):
    words = [*words, "--rs2.share=0.3", "--no-plain", "--eval-seeds=1"]
    assert train(tmp_path / "whole", *words) == 0
    stop_often(monkeypatch)
    assert train(tmp_path / "cut", *words) == 3
    assert resume_to_end(tmp_path / "cut") == 0
    one, cut = (load_tensors(Place.at(tmp_path / n / "students" / "student-0.safetensors")) for n in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in one.items())


def test_sentences_have_rounds_too(tmp_path):
    pytest.importorskip("ddcore_text")
    words = ["--plugin=text", "--data=sentences", "--student=transformer1-w16", "--protocol=text-2", "--no-plain"]
    words += ["--eval-seeds=1", "--threads=1", f"--out={tmp_path / 'a'}"]
    assert invoke(["train", "--plugin=rs2", "--rs2.share=0.25", *words]) == 0
    assert rows_of(tmp_path / "a")["student"]["steps"] == 2 * math.ceil(100 / 64)


def test_share_is_rounded():
    assert [taken(1000, r) for r in (0.01, 0.0006, 0.0004, 1.0)] == [10, 1, 1, 1000]
