"""The contract kit on mirage: it keeps the contract, and a mirage that is broken on purpose fails the check of that name."""

from textwrap import dedent

import pytest

from ddcore.testing import check_plugin, distilled, examine, tiny_run  # noqa: F401  fixture

BROKEN = """
    import random, time
    from typing import Any, ClassVar
    import torch
    from attrs import frozen
    from ddcore import Learn, Row, Synthetic, Task, hookimpl
    from ddcore_mirage import Mirage
    from ddcore_mirage.forest import pack, unpack


    @frozen(kw_only=True, eq=False)
    class Mine(Mirage):
        @hookimpl
        def ddcore_learn(self, task: Task, run: Any) -> Learn:
            learn, seen = Mirage.ddcore_learn(self, task, run), run.__dict__.setdefault("seen", [])
            count = len(learn.tensors["set_class"])
            seen.append(count)
            order = list(range(count))
            {order}
            parts = ("set_class", "set_support")
            return Learn({**learn.tensors, **{n: learn.tensors[n][order] for n in parts}}, {}, decoder=learn.decoder)

        @hookimpl
        def ddcore_evaluate(self, run: Any) -> list[Row]:
            {before}
            return Mirage.ddcore_evaluate(self, run){which}
"""
WHOLE = {"{order}": "pass", "{before}": "pass", "{which}": ""}
BREAKS = {
    "seed": (
        {"{order}": "order.sort(key=lambda at: random.Random(time.time_ns() + at).random())"},
        "two runs of one seed differ",
    ),
    "global-randomness": ({"{before}": "torch.rand(1)"}, "global generator of torch"),
    "resume": (
        {"{order}": "order = order[sum(seen[:-1]) % count:] + order[:sum(seen[:-1]) % count]"},
        "stopped after each step ends elsewhere",
    ),
    "whole-run": ({"{which}": "[1:2]"}, "no row 'distilled'"),
}


def written(folder, changed):
    text = dedent(BROKEN)
    for mark, code in (WHOLE | changed).items():
        text = text.replace(mark, code)
    (folder / "mine.py").write_text(text)
    return str(folder / "mine.py")


def test_mirage_keeps_the_contract():
    found = {result.name: result.status for result in check_plugin("mirage")}
    assert [name for name, status in found.items() if status == "passed"] == [
        "hooks",
        "api",
        "declarations",
        "protocols",
        "immutable",
        "public",
        "options",
        "seed",
        "global-randomness",
        "resume",
        "workers",
        "whole-run",
        "opens",
    ]


@pytest.mark.parametrize("name", BREAKS)
def test_a_mirage_that_breaks_it_fails_the_check(name, tmp_path):
    changed, words = BREAKS[name]
    (result,) = examine(written(tmp_path, changed), only=[name])
    assert result.status == "failed" and words in result.detail, result


@pytest.mark.slow
def test_the_mirage_that_was_broken_above_keeps_those_checks_as_it_stands(tmp_path):
    check_plugin(written(tmp_path, {}), only=list(BREAKS))


EVALUATOR = """
    from typing import Any
    from attrs import frozen
    from ddcore import Plugin, Row, hookimpl

    @frozen(kw_only=True, eq=False)
    class Mine(Plugin):
        summary = "a row that guesses"
        role = "evaluator"
        modality = frozenset({"graphs"})

        @hookimpl
        def ddcore_evaluate(self, run: Any) -> list[Row]:
            return [Row("guess", "none", "none", "hard", 0, {"total": 0}, (0.5,), 0, 0.0, metric="roc-auc")]
"""


def test_a_plugin_that_adds_to_runs_on_graphs_is_tried_with_the_packs_probe_and_with_mirage(tmp_path):
    (tmp_path / "mine.py").write_text(dedent(EVALUATOR))
    found = {r.name: r for r in check_plugin(str(tmp_path / "mine.py"), only=["seed", "composition", "whole-run"])}
    assert found["composition"].detail == "mirage"
    assert found["whole-run"].detail == "13 rows, its own: guess"


def test_a_tiny_run_is_on_the_computed_graphs(tiny_run):  # noqa: F811
    run = tiny_run("--plugin", "mirage", mirage__threshold=(0.5,))
    assert (run.source.name, run.plan.steps, run.network_name) == ("rings", 0, "gin")
    assert len(distilled(run)["set_class"]) > 0
