"""The contract kit: every check lets good plugins pass, and each is failed by a plugin that breaks just that."""

import json
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import pytest
import torch

from ddcore.api.types import SETTINGS
from ddcore.cli.app import invoke
from ddcore.composing.discovery import FIRST_PARTY, installed
from ddcore.composing.plan import CORE_ASKS
from ddcore.kit.contract import behaviour, check_plugin, examine
from ddcore.kit.contract.checks import ENTRIES, Broken, declarations_and_hooks_agree
from ddcore.kit.contract.probe import Probe
from ddcore.kit.contract.stage import PROBE, TINY, first_party
from ddcore.kit.contract.tiny import RENAMED, tiny_images
from ddcore.pages import plots

HEAD = """
    from collections.abc import Iterator, Mapping
    from typing import Any, ClassVar
    import multiprocessing, time
    import attrs, torch
    from attrs import frozen
    from ddcore import Batch, Learn, Loss, Plugin, Row, Task, hookimpl, option
    from ddcore.training import Protocol
"""
VIEW = """
    @frozen(kw_only=True, eq=False)
    class Mine(Plugin):
        api = "2.0"
        summary = "changes the view"
        view_phases = ("match", "inner", "student_step")
        neutral = {"strength": 1.0}
        strength: float = option(0.5, help="factor")

        @hookimpl
        def ddcore_view(self, batch: Batch, run: Any) -> Batch:
            return batch.with_inputs(batch.inputs * self.strength)
"""
MATCHER = """
    @frozen(kw_only=True, eq=False)
    class Mine(Plugin):
        api = "2.0"
        summary = "pulls pixels to class means"
        role = "matcher"
        steps = 4
        learns = ("pixels",)
        asks = ("initialize", "setting:match.variance_weight")

        @hookimpl
        def ddcore_learn(self, images: torch.Tensor) -> Learn:
            pixels = images.requires_grad_()
            optimizers = {"pixels": torch.optim.SGD([pixels], lr=0.5)}
            return Learn({"pixels": pixels}, optimizers, {"pixels": "pixels"}, fixed={"seen": []})

        @hookimpl
        def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: Any) -> Iterator[Loss]:
            for cls in task.classes.unique().tolist():
                real = run.real.sample(cls, 4, run.generator("mine", step, cls)).mean(0)
                own = learn.tensors["pixels"][task.classes == cls]
                weight = 1.0
                weight = weight * run.setting("match.variance_weight", 1.0)
                yield Loss(weight * (own.mean(0) - real).square().sum())
"""
EVALUATOR = """
    @frozen(kw_only=True, eq=False)
    class Mine(Plugin):
        api = "2.0"
        summary = "adds a row"
        role = "evaluator"

        @hookimpl
        def ddcore_evaluate(self, run: Any) -> list[Row]:
            return [Row("mine", "none", "none", "hard", 1, run.artifact.nbytes, (0.5,), 0, 0.0)]
"""
GRAPHS = """
    from ddcore import Synthetic
    from ddcore.data import Source, Split
    from ddcore import Synthetic

    @frozen(eq=False, kw_only=True)
    class Counted(Source):
        modality: str = "graphs"
        channels = size = 1
        def summary(self) -> dict:
            return {"name": self.name, "fingerprint": self.fingerprint}

    @frozen(kw_only=True, eq=False)
    class Mine(Plugin):
        api = "2.0"
        summary = "keeps the mean number of nodes of each class"
        role = "matcher"
        modality = frozenset({"graphs"})
        steps = 0
        datasets = ("counted",)
        networks = ("threshold",)

        @hookimpl
        def ddcore_data(self, name: str) -> "Source | None":
            nodes, labels = torch.tensor([3.0, 4.0, 8.0, 9.0]), torch.tensor([0, 0, 1, 1])
            part = Split(nodes, labels)
            return Counted(name="counted", train=part, test=part, classes=("a", "b")) if name == "counted" else None

        @hookimpl
        def ddcore_network(self, name: str) -> "torch.nn.Module | None":
            made = torch.nn.Linear(1, 1)
            made.embed = torch.nn.Identity()
            return made if name == "threshold" else None

        @hookimpl
        def ddcore_tasks(self, run: Any) -> list[Task]:
            return [Task("distil", f"mean-{cls}", 0, index=cls, options={"class": cls}) for cls in (0, 1)]

        @hookimpl
        def ddcore_learn(self, task: Task, run: Any) -> Learn:
            seen = run.__dict__.setdefault("seen", [])
            mine = run.source.train.stored[run.source.train.labels == task.options["class"]]
            noise = 0.0
            return Learn({"mean": mine.mean() + noise}, {}, decoder=[{"op": "rows", "tensor": "means"}])

        @hookimpl
        def ddcore_assemble(self, tasks: Any, results: Any) -> Synthetic:
            means = torch.stack([result["mean"] for result in results])
            return Synthetic({"means": means}, {}, [{"op": "rows", "tensor": "means"}], torch.tensor([0, 1]))

        @hookimpl
        def ddcore_evaluate(self, run: Any) -> list[Row]:
            means, test = run.packed.tensors["means"], run.source.test
            right = float(((test.stored > means.mean()) == test.labels.bool()).double().mean())
            score = (right,)
            return [Row(s, "p", "threshold", "hard", 1, {"total": 8}, score, 0, 0.0) for s in ("distilled", "full")]
"""
MIXED = """
    @frozen(kw_only=True, eq=False)
    class Mine(Plugin):
        api = "2.0"
        summary = "class-mixed batches in features of a network with 32 outputs"
        role = "matcher"
        steps = 4
        learns = ("pixels",)
        asks = ("initialize",)

        @hookimpl
        def ddcore_learn(self, images: torch.Tensor) -> Learn:
            pixels = images.requires_grad_()
            return Learn({"pixels": pixels}, {"pixels": torch.optim.SGD([pixels], lr=0.5)}, {"pixels": "pixels"})

        @hookimpl
        def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: Any) -> Iterator[Loss]:
            network = run.network(run.generator("mine", "network", step), classes=32)
            index = torch.randperm(len(run.real.train), generator=run.generator("mine", "rows", step))[:12]
            real = network(run.real.train.inputs(index)).mean(0)
            yield Loss((network(learn.tensors["pixels"]).mean(0) - real).square().sum())
"""
PROTOCOL = (
    VIEW
    + """
        protocols = ("mine", "mine-small")

        def suggests_protocol(self, subject: Any) -> str | None:
            return "mine-small" if subject.size < 32 else "augmented"

        @hookimpl
        def ddcore_protocol(self, name: str) -> Protocol | None:
            return Protocol(name=name, summary="", epochs=7) if name in self.protocols else None
"""
)
RETURN = "return batch.with_inputs(batch.inputs * self.strength)"
BREAKS = {
    "api": (VIEW, 'api = "2.0"', "pass", "does not say which hook API"),
    "hooks": (VIEW, "batch: Batch, run: Any) -> Batch", "batch, run: Any) -> Batch", "has no type for batch"),
    "declarations": (
        VIEW,
        'view_phases = ("match", "inner", "student_step")',
        "pass",
        "one is there without the other",
    ),
    "protocols": (
        PROTOCOL,
        '"mine-small" if',
        '"of-others" if',
        "is 'of-others', which is neither its own nor the core's",
    ),
    "immutable": (VIEW, "@frozen(", "@attrs.define(", "'strength' can be set"),
    "public": (
        VIEW,
        "@frozen(",
        "from ddcore.storage.checkpoints import flatten\n    @frozen(",
        "imports ddcore.storage.checkpoints",
    ),
    "options": (VIEW, '"factor")', '"factor")\n        more: dict = option({"a": 1}, help="x")', "more"),
    "inputs": (VIEW, RETURN, "batch.inputs.mul_(self.strength); return batch", "wrote into the batch"),
    "shapes": (
        VIEW,
        RETURN,
        RETURN.replace("batch.inputs * self.strength", "(batch.inputs * self.strength).float()"),
        "turned torch.float64 into",
    ),
    "gradient": (VIEW, RETURN, RETURN.replace("batch.inputs *", "batch.inputs.detach() *"), "cuts the gradient off"),
    "seed": (VIEW, "* self.strength", "* (1 + time.time_ns() % 1000)", "two runs of one seed differ: tensor 'pixels'"),
    "global-randomness": (VIEW, "* self.strength", "* torch.rand(1)", "global generator of torch"),
    "resume": (
        MATCHER,
        "weight = 1.0",
        "learn.fixed['seen'].append(1); weight = len(learn.fixed['seen'])",
        "'pixels' differs",
    ),
    "workers": (
        VIEW,
        "* self.strength",
        "* (1 if multiprocessing.parent_process() else 2)",
        "worker process ends elsewhere",
    ),
    "device": (
        VIEW,
        "* self.strength",
        "* torch.full((8,), self.strength)",
        "found at least two devices, cuda:0 and cpu",
    ),
    "row-order": (MATCHER, "own.mean(0)", "own[0]", "depends on the order of the synthetic rows"),
    "class-names": (MATCHER, "weight = 1.0", "weight = 1.0 + cls", "depends on which number a class has"),
    "settings": (
        MATCHER,
        'run.setting("match.variance_weight", 1.0)',
        "1.0",
        "asks for setting:match.variance_weight and does the same under 1.0 and 11.0",
    ),
    "neutral": (VIEW, "* self.strength", "* (self.strength + 0.1)", "on the probe with {'strength': 1.0}"),
    "composition": (VIEW, RETURN, "assert run.plan.matcher == 'probe'; " + RETURN, "AssertionError"),
    "opens": (
        MATCHER,
        'fixed={"seen": []})',
        'fixed={"seen": []}, decoder=[{"op": "own", "tensor": "pixels"}])',
        "no decoder operation is named 'own'",
    ),
    "whole-run": (EVALUATOR, '[Row("mine"', '[][:0] and [Row("mine"', "gave no row of its own"),
}


PROTOCOL_BREAKS = {
    "not answered": (
        "if name in self.protocols",
        'if name == "mine"',
        "returned NoneType where an evaluation protocol is due",
    ),
    "another name": ("name=name", 'name="other"', "is named 'other', which protocols does not list"),
    "no protocol": (
        'Protocol(name=name, summary="", epochs=7)',
        "3",
        "returned int where an evaluation protocol is due",
    ),
    "the core's name": ('"mine-small")', '"mine-small", "quick")', "'quick' has a name that is the core's"),
    "a number of epochs": ('"mine-small")', '"mine-small", "mine-3")', "'mine-3' has a name that is the core's"),
    "any name": ("if name in self.protocols", "if name", "answers 'of-nobody', which protocols does not list"),
}


OF_GRAPHS = {
    "seed": ("score = (right,)", "score = (time.time_ns() % 997 / 997,)", "'distilled by threshold' differs"),
    "global-randomness": ("noise = 0.0", "noise = torch.rand(())", "global generator of torch"),
    "resume": ("noise = 0.0", "seen.append(1); noise = len(seen)", "'means' differs"),
    "workers": ("noise = 0.0", "noise = 1.0 * bool(multiprocessing.parent_process())", "worker process ends elsewhere"),
    "whole-run": ('("distilled", "full")', '("mine", "full")', "no row 'distilled' with another to compare it with"),
    "declarations": ("steps = 0", "steps = 1", "needs ddcore_matching_loss, the class attribute learns"),
}
"""What breaks a plugin on graphs, which brings its own data, networks and rows."""


def written(folder, body: str) -> str:
    (folder / "mine.py").write_text(dedent(HEAD) + dedent(body))
    return str(folder / "mine.py")


def test_every_check_has_a_plugin_that_breaks_it():
    assert behaviour.STEPS and set(BREAKS) == {entry.name for entry in ENTRIES}
    assert all(entry.remedy and "\n" not in entry.remedy for entry in ENTRIES)


@pytest.mark.parametrize("name", BREAKS)
def test_a_plugin_that_breaks_it_fails_the_check_with_reason_and_remedy(name, tmp_path):
    if name == "composition" and not {"dm", "mtt"} <= set(installed()):
        pytest.skip("needs dm installed")
    body, old, new, words = BREAKS[name]
    assert old in body
    (result,) = examine(written(tmp_path, body.replace(old, new)), only=[name])
    assert result.status == "failed" and words in result.detail, result
    assert result.remedy


def test_a_crash_says_so_and_where_in_the_plugin(tmp_path):
    body = VIEW.replace(RETURN, "return batch.with_inputs(batch.inputs * self.nothing)")
    (result,) = examine(written(tmp_path, body), only=["inputs"])
    assert result.detail.startswith("it crashed in mine.py:") and "ddcore_view: AttributeError" in result.detail
    assert result.remedy.startswith("mend it in mine.py:") and "write into" not in result.remedy


def test_a_check_that_a_method_opts_out_of_is_listed_with_the_reason(tmp_path):
    body, old, new, _ = BREAKS["class-names"]
    exempt = body.replace(old, new).replace(
        "steps = 4", 'steps = 4\n        exempt = {"class-names": "classes weigh by number"}'
    )
    (result,) = examine(written(tmp_path, exempt), only=["class-names"])
    assert (result.status, result.detail) == ("skipped", "it opts out: classes weigh by number")
    (result,) = examine(written(tmp_path, exempt.replace('"class-names"', '"seed"')), only=["declarations"])
    assert result.status == "failed" and "only for row-order or class-names" in result.detail


def test_networks_of_other_widths_and_batches_that_mix_classes_are_no_dependence_on_numbers(tmp_path):
    for words in ("classes=32", "classes=3"):
        (result,) = examine(written(tmp_path, MIXED.replace("classes=32", words)), only=["class-names"])
        assert result.status == "passed", result


def test_a_whole_run_that_fails_is_told_the_words_that_select_the_plugin(tmp_path):
    body, old, new, _ = BREAKS["whole-run"]
    path = written(tmp_path, body.replace(old, new))
    (result,) = examine(path, only=["whole-run"])
    assert f"`ddcore run --plugin MATCHER --plugin-path {path} --dataset digits --steps 2`" in result.remedy


def test_presets_of_options_that_there_are_not_are_found(tmp_path, monkeypatch):
    package = tmp_path / "with_presets"
    package.mkdir()
    (package / "presets.toml").write_text('[a]\ndataset = "digits"\nipc = 1\n[a.plugin.mine]\nstrenght = 1.0\n')
    presets = VIEW.replace("neutral = ", 'presets = "presets.toml"\n        neutral = ')
    (package / "__init__.py").write_text(dedent(HEAD) + dedent(presets))
    monkeypatch.syspath_prepend(str(tmp_path))
    subject = SimpleNamespace(cls=__import__("with_presets").Mine, name="mine", is_matcher=False)
    with pytest.raises(Broken, match=r"preset mine/a names \['strenght'\], which are no options of it"):
        declarations_and_hooks_agree(subject)


@pytest.mark.parametrize("name", PROTOCOL_BREAKS)
def test_a_protocol_that_is_listed_is_answered_and_nothing_else_is(name, tmp_path):
    old, new, words = PROTOCOL_BREAKS[name]
    assert old in PROTOCOL
    (result,) = examine(written(tmp_path, PROTOCOL.replace(old, new)), only=["protocols"])
    assert result.status == "failed" and words in result.detail, result


def test_a_plugin_that_brings_nothing_but_a_protocol_keeps_the_contract(tmp_path):
    body = """
    @frozen(kw_only=True, eq=False)
    class Mine(Plugin):
        summary = "a recipe"
        role = "student"
        protocols = ("mine",)

        @hookimpl
        def ddcore_protocol(self, name: str) -> Protocol | None:
            return Protocol(name="mine", summary="", epochs=1, augment="none") if name == "mine" else None
"""
    names = ["hooks", "declarations", "protocols", "public", "seed", "workers", "composition", "whole-run"]
    assert all(result.status != "failed" for result in examine(written(tmp_path, body), only=names))


def test_a_plugin_with_protocols_of_its_own_passes(tmp_path):
    (result,) = examine(written(tmp_path, PROTOCOL), only=["protocols"])
    assert (result.status, result.detail) == ("passed", "mine, mine-small")


def test_a_recipe_of_other_epochs_or_with_a_probe_may_be_suggested(tmp_path):
    body = PROTOCOL.replace('"mine-small" if', '"mine-small-20" if').replace('"augmented"', '"probed-plain-50"')
    (result,) = examine(written(tmp_path, body), only=["protocols"])
    assert result.status == "passed", result


def test_a_matcher_is_not_to_ask_for_a_setting_that_there_is_not(tmp_path):
    asking = MATCHER.replace("setting:match.variance_weight", "setting:student.label_weight")
    (result,) = examine(written(tmp_path, asking), only=["settings"])
    assert result.status == "failed" and "student.label_weight, which is none of a matcher's steps" in result.detail


def test_every_setting_that_a_matcher_may_ask_for_is_tried_under_two_values():
    assert {f"setting:{name}" for name in SETTINGS} - set(CORE_ASKS) == {f"setting:{n}" for n in behaviour.TWO_VALUES}


@pytest.mark.parametrize("name", OF_GRAPHS)
def test_a_plugin_on_graphs_that_breaks_it_fails_the_check(name, tmp_path):
    old, new, words = OF_GRAPHS[name]
    assert old in GRAPHS
    (result,) = examine(written(tmp_path, GRAPHS.replace(old, new)), only=[name])
    assert result.status == "failed" and words in result.detail, result


def test_what_is_of_images_does_not_concern_a_plugin_on_graphs_and_the_reason_is_said(tmp_path):
    found = {result.name: result for result in check_plugin(written(tmp_path, GRAPHS))}
    skipped = {name for name, result in found.items() if result.status == "skipped"}
    own = skipped - {"composition"}  # with plugins for all data, such as trackers, it is tried
    assert own == {"inputs", "shapes", "gradient", "row-order", "class-names", "settings", "neutral"}
    assert all(found[name].detail for name in skipped)


def test_a_view_of_graphs_is_not_tried_on_images(tmp_path):
    of_graphs = VIEW.replace("neutral = ", 'modality = frozenset({"graphs"})\n        neutral = ')
    (result,) = examine(written(tmp_path, of_graphs), only=["inputs"])
    assert (result.status, result.detail) == ("skipped", "the kit has batches of images only")


def test_what_works_on_data_of_no_matcher_here_is_told_so(tmp_path):
    of_sounds = VIEW.replace("neutral = ", 'modality = frozenset({"sounds"})\n        neutral = ')
    (result,) = examine(written(tmp_path, of_sounds), only=["seed"])
    assert result.status == "failed" and "no first-party matcher of sounds is installed" in result.detail


@pytest.mark.parametrize("body", [VIEW, MATCHER, EVALUATOR], ids=["view", "matcher", "evaluator"])
def test_the_plugins_that_were_broken_above_keep_the_contract_as_they_stand(body, tmp_path):
    results = check_plugin(written(tmp_path, body), only=[e.name for e in ENTRIES if e.name != "workers"])
    assert sum(r.status == "passed" for r in results) >= 9


@pytest.mark.skipif(not plots.available(), reason="matplotlib is not installed")
def test_the_kits_whole_run_draws_the_plots_of_its_report(tmp_path, monkeypatch):
    drawn, draw = [], plots._svg
    monkeypatch.setattr(plots, "_svg", lambda *given: drawn.append(given[-1]) or draw(*given))
    (result,) = examine(written(tmp_path, MATCHER), only=["whole-run"])
    assert result.status == "passed" and "Matching loss over the steps" in drawn


def checked_by_its_own_tests(name):
    own = (Path(__file__).parents[2] / "plugins" / name / "tests").glob("*.py")
    return any(f'check_plugin("{name}")' in path.read_text() for path in own)


@pytest.mark.parametrize("name", [n for n in FIRST_PARTY if n in installed() and not checked_by_its_own_tests(n)])
def test_first_party_plugins_keep_the_contract(name):
    check_plugin(name)


def test_check_plugin_lists_what_failed_and_what_to_do(tmp_path):
    body, old, new, _ = BREAKS["inputs"]
    with pytest.raises(AssertionError, match="inputs: .*wrote into.*\n    return new tensors"):
        check_plugin(written(tmp_path, body.replace(old, new)), only=["inputs", "hooks"])


def test_plugins_check_prints_a_list_and_its_exit_code_says_whether_all_passed(tmp_path, capsys):
    path = written(tmp_path, VIEW)
    assert invoke(["plugins", "check", path, "--only", "hooks", "--only", "inputs"]) == 0
    said = capsys.readouterr().out
    assert "ok     hooks" in said and "2 passed, 0 failed" in said
    body, old, new, _ = BREAKS["inputs"]
    path = written(tmp_path, body.replace(old, new))
    assert invoke(["plugins", "check", path, "--only", "inputs", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["passed"] is False and answer["checks"][0]["remedy"].startswith("return new tensors")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing-here"], "no plugin named 'nothing-here' is installed"),
        (["gone.py"], "gone.py does not exist"),
        (["{mine}", "--only", "imputs"], "no check is named 'imputs': did you mean 'inputs'"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence(words, sentence, tmp_path, capsys):
    mine = written(tmp_path, VIEW)
    assert invoke(["plugins", "check", *(w.format(mine=mine) for w in words)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_class_is_examined_through_its_file():
    assert [r.status for r in examine(Probe, only=["hooks", "declarations", "settings"])] == ["passed"] * 3


def test_the_tiny_images_are_always_the_same_and_the_renamed_ones_differ_in_names_only():
    assert tiny_images().fingerprint == tiny_images().fingerprint
    copies, renamed = tiny_images("copies"), tiny_images("renamed")
    assert torch.equal(copies.train.stored, renamed.train.stored)
    assert torch.equal(torch.tensor(RENAMED)[copies.train.labels], renamed.train.labels)
    assert all(len(copies.train.stored[copies.train.labels == c].unique(dim=0)) == 1 for c in range(3))
    assert PROBE[1] != TINY[1] and set(first_party()) <= set(FIRST_PARTY)
