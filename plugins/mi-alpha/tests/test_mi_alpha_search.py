"""The search over pipelines: the grid, the regression, the ranking, tries that are made once."""

import json

import pytest
import torch
from click.testing import CliRunner
from ddcore_mi_alpha.search import (
    GRID,
    Finished,
    Task,
    candidates,
    encoded,
    main,
    ranked,
    read,
    ridge,
    search,
    table,
    tried,
)

from ddcore import InputError
from ddcore.storage.places import Place, canonical, sha256_of

TASK = Task(1000, 10)
SMALL = {"intermediate": ("mi", "mse"), "alpha": ("0.1", "0.9"), "logits": ("ce", "mse")}


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_grid_has_each_pipeline_once_and_alpha_only_with_mi():
    found = candidates(SMALL)
    assert len(found) == 2 * 2 + 2 and len({json.dumps(c) for c in found}) == 6
    assert all(("alpha" in c) == (c["intermediate"] == "mi") for c in found)


def test_choices_become_ones_and_sizes_their_logarithms():
    assert encoded({"intermediate": "mse", "logits": "ce"}, TASK, SMALL).tolist() == [0, 1, 0, 0, 1, 0, 3, 1]
    assert len(encoded({}, TASK)) == sum(len(values) for values in GRID.values()) + 2


def test_ridge_equals_least_squares_with_rows_that_hold_the_penalty():
    rows, values, penalty = seeded(9, 3), seeded(9, seed=1), 0.7
    with_one = torch.cat([rows, torch.ones(9, 1, dtype=rows.dtype)], 1)
    held = torch.cat([penalty**0.5 * torch.eye(3, dtype=rows.dtype), torch.zeros(3, 1, dtype=rows.dtype)], 1)
    due = torch.linalg.lstsq(torch.cat([with_one, held]), torch.cat([values, torch.zeros(3).double()])).solution
    weights, intercept = ridge(rows, values, penalty)
    torch.testing.assert_close(torch.cat([weights, intercept[None]]), due)


def test_a_great_penalty_predicts_the_mean_and_none_to_speak_of_what_was_seen():
    rows, values = seeded(4, 6), seeded(4, seed=1)
    weights, intercept = ridge(rows, values, 1e12)
    torch.testing.assert_close(rows @ weights + intercept, values.mean().expand(4), atol=1e-9, rtol=0)
    weights, intercept = ridge(rows, values, 1e-9)
    torch.testing.assert_close(rows @ weights + intercept, values, atol=1e-6, rtol=0)


def test_one_try_predicts_itself_everywhere():
    assert {ratio for ratio, _ in ranked([Finished(candidates(SMALL)[0], TASK, 0.5)], TASK, SMALL)} == {0.5}


def test_a_ranking_finds_the_parts_that_made_ratios_high_in_pipelines_nobody_tried():
    def ratio(choices):
        good = {"intermediate": "mi", "alpha": "0.9", "logits": "mse"}
        return 0.7 + 0.1 * sum(choices.get(name) == value for name, value in good.items())

    every = candidates(SMALL)
    best = {"intermediate": "mi", "alpha": "0.9", "logits": "mse"}
    finished = [Finished(c, TASK, ratio(c)) for c in every if c != best]
    ranking = ranked(finished, TASK, SMALL, penalty=0.01)
    assert ranking[0][1] == best and ranking[0][0] > max(one.ratio for one in finished)
    assert [r for r, _ in ranking] == sorted((r for r, _ in ranking), reverse=True)


def test_tries_of_other_tasks_and_their_sizes_count():
    small, large = (Finished(candidates(SMALL)[0], Task(n, 10), ratio) for n, ratio in ((100, 0.6), (10_000, 0.9)))
    low, high = (ranked([small, large], Task(n, 10), SMALL, 0.1)[0][0] for n in (200, 5000))
    assert 0.6 < low < high < 0.9


QUICK = ["--per-class=3", "--protocol=kd-1", "--eval-seeds=1", "--threads=1", "--teachers.epochs=1"]
QUICK += ["--teachers.no-check", "--mi-alpha.hidden=8"]
TINY = {"intermediate": ("mi", "mse"), "alpha": ("0.9",), "label-weight": ("1",)}


def words(cache):
    return ["--data=digits", "--student=convnet1-w4", "--teacher=convnet2-bn-w4", *QUICK, f"--cache={cache}"]


def test_a_search_tries_each_pipeline_once_and_ranks_all(tmp_path):
    place = Place.at(tmp_path / "search")
    finished, ranking = search(words(tmp_path / "cache"), place, tries=5, grid=TINY)
    assert {one.choices["intermediate"] for one in finished} == {"mi", "mse"} == {c["intermediate"] for _, c in ranking}
    assert all(one.task == Task(30, 10) and one.ratio > 0 for one in finished)
    record = json.loads(next((tmp_path / "search").glob("try-*/run.json")).read_text())
    assert "mi-alpha" in record["options"] and record["config"]["network"] == "convnet1-w4"
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "search").glob("try-*/scores.json")}
    assert search(words(tmp_path / "cache"), place, tries=5, grid=TINY) == (finished, ranking)
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "search").glob("try-*/scores.json")}
    assert read(place.url + "/tries.json") == finished
    lines = table(finished, ranking).splitlines()
    assert len(lines) == 3 and f"{finished[0].ratio:.3f}" in lines[1] + lines[2]


def test_the_command_prints_a_ranking_and_learns_from_other_searches(tmp_path):
    task = {"examples": 30, "classes": 10}
    ratios = {"cos": 1000.0, "mse": 1.0}
    known = [{"choices": {"intermediate": name}, "task": task, "ratio": ratio} for name, ratio in ratios.items()]
    (tmp_path / "known.json").write_text(json.dumps(known))
    given = [*words(tmp_path / "cache"), "--tries=1", f"--out={tmp_path / 'out'}", "--show=3", "--penalty=0.1"]
    done = CliRunner().invoke(main, [*given, "--known", str(tmp_path / "known.json")])
    assert done.exit_code == 0, done.output
    ranking = [line for line in done.output.splitlines() if line.strip()[:1].isdigit() and "--mi-alpha." in line]
    assert len(ranking) == 3 and "intermediate=cos" in ranking[0]
    assert "choose on a part of the training data" in done.output


def test_a_run_that_fails_and_a_file_without_tries_are_said_in_a_sentence(tmp_path):
    wrong = ["--data=digits", "--student=nothing", "--teacher=resnet8", f"--out={tmp_path / 'out'}"]
    done = CliRunner().invoke(main, wrong)
    assert done.exit_code == 1 and "ended with exit code 2" in done.output
    (tmp_path / "known.json").write_text('{"a": 1}')
    done = CliRunner().invoke(main, [*wrong, "--known", str(tmp_path / "known.json")])
    assert done.exit_code == 1 and "holds no tries" in done.output


def scored(folder, *teachers):
    rows = [{"set": "teacher", "accuracy": {"mean": mean}} for mean in teachers]
    rows.append({"set": "student", "accuracy": {"mean": 0.6}, "images": 50})
    place = Place.at(folder) / f"try-{sha256_of(canonical([['a'], {}]))[:12]}"
    (place / "scores.json").write_json({"rows": rows, "dataset": {"classes": ["no", "yes"]}})
    return tried({}, ["a"], Place.at(folder))


def test_a_ratio_is_to_the_teachers_mean(tmp_path):
    found = scored(tmp_path, 0.7, 0.9)
    assert found.ratio == pytest.approx(0.75) and found.task == Task(50, 2)


def test_teachers_that_are_never_right_are_no_measure(tmp_path):
    with pytest.raises(InputError, match="nothing is a share of them"):
        scored(tmp_path, 0.0)
