"""Broken plugins in a run: one sentence that names hook, plugin, distribution and version; whoever does not select them is
not touched."""

import json

import pytest

from ddcore.cli.app import invoke
from ddcore.testing import PROBE, tiny_words

VIEW = "view_phases = ('match',)\n        @hookimpl\n        def ddcore_view(self, batch): "
AUGMENT = "augment_phases = ('match',)\n        @hookimpl\n        def ddcore_augment(self, transform): "
SETTING = "settings = ('student_step.batch',)\n        @hookimpl\n        def ddcore_setting(self, value): "
PROJECT = "@hookimpl\n        def ddcore_project(self, after): "
LABEL = "labellers = ('l',)\n        @hookimpl\n        def ddcore_label(self, name, images): "
START = "initializers = ('i',)\n        @hookimpl\n        def ddcore_initialize(self, name, classes): "
EVALUATE = "@hookimpl\n        def ddcore_evaluate(self, run): "
STUDENT = "@hookimpl\n        def ddcore_student_loss(self, output): "
DATA = "datasets = ('mine',)\n        @hookimpl\n        def ddcore_data(self, name): "
NETWORK = "networks = ('net',)\n        @hookimpl\n        def ddcore_network(self, name): "
EXECUTOR = "executors = ('exe',)\n        @hookimpl\n        def ddcore_executor(self, name): "


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))


def refused(capsys, *words: str) -> str:
    code = invoke(["run", *PROBE, *tiny_words(), "--steps", "1", *words])
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said, said
    return next(line for line in said.splitlines() if line.startswith("error: "))


@pytest.mark.parametrize(
    ("hook", "body", "words", "sentence"),
    [
        ("ddcore_view", VIEW + "return batch.inputs", [], "returned Tensor where the batch it was given"),
        ("ddcore_view", VIEW + "return batch.with_inputs(batch.inputs[..., 1:])", [], "images of shape (3, 8, 7) where (3, 8, 8)"),
        ("ddcore_view", VIEW + "return batch.with_inputs(batch.inputs[1:])", [], "changed rows without their targets"),
        ("ddcore_view", VIEW + "return batch.with_inputs(batch.inputs * float('nan'))", [], "NaN or infinite"),
        ("ddcore_augment", AUGMENT + "return 3", [], "returned int where a transform is due"),
        ("ddcore_augment", AUGMENT + "return lambda batch: batch.joined(batch)", [], "turned 6 rows into 12"),
        ("ddcore_augment", AUGMENT + "return lambda batch: batch.inputs", [], "returned Tensor where"),
        ("ddcore_setting", SETTING + "return 'many'", [], "turned 6 into 'many'"),
        ("ddcore_project", PROJECT + "return after[0]", [], "where (6, 3, 8, 8) torch.float32 is due"),
        ("ddcore_project", PROJECT + "return after / 0", [], "NaN or infinite"),
        ("ddcore_project", PROJECT + "return after.double()", [], "torch.float64 where"),
        ("ddcore_label", LABEL + "return images", ["--labels", "l"], "returned Tensor where labels is due"),
        ("ddcore_label", LABEL + "from ddcore.labels import HardLabels; import torch; return HardLabels(torch.zeros(2).long(), 3)", ["--labels", "l"], "2 labels of 3 classes where 6 of 3"),
        ("ddcore_initialize", START + "return classes", ["--init", "i"], "images of shape (6,) where (6, 3, 8, 8)"),
        ("ddcore_initialize", START + "import torch; return torch.full((6, 3, 8, 8), torch.nan)", ["--init", "i"], "NaN or infinite"),
        ("ddcore_evaluate", EVALUATE + "return 3", [], "returned int where a list of rows is due"),
        ("ddcore_evaluate", EVALUATE + "return [3]", [], "returned int where a Row is due"),
        ("ddcore_evaluate", EVALUATE + "from ddcore import Row; return [Row('random', 'p', 'convnet2-w4', 'hard', 1, {}, (0.5,), 0, 0)]", [], "calls a row 'random'"),
        ("ddcore_evaluate", EVALUATE + "from ddcore import Row; return [Row('mine', 'p', 'n', 'hard', 1, {}, (0.5,), 0, 0)]", [], "does not say what 'mine' costs"),
        ("ddcore_evaluate", EVALUATE + "from ddcore import Row; return [Row('mine', 'p', 'n', 'hard', 1, {'total': 1}, (50.0,), 0, 0)]", [], "fractions in [0, 1]"),
        ("ddcore_student_loss", STUDENT + "return output.mean()", [], "returned Tensor where a Term is due"),
        ("ddcore_student_loss", STUDENT + "from ddcore import Term; return Term('t', output)", [], "no scalar tensor"),
        ("ddcore_data", DATA + "return 3 if name == 'mine' else None", ["--dataset", "mine"], "returned int where the data"),
        ("ddcore_network", NETWORK + "import torch; return torch.nn.ReLU() if name == 'net' else None", ["--network", "net"], "without embed(images)"),
        ("ddcore_executor", EXECUTOR + "return 3 if name == 'exe' else None", ["--executor", "exe"], "returned int where an executor is due"),
    ],
)  # fmt: skip
def test_a_hook_that_returns_the_wrong_thing_is_named(hook, body, words, sentence, site, capsys, tmp_path):
    site.plugin("odd", body, distribution="acme-odd", version="0.7")
    said = refused(capsys, "--plugin", "odd", *words, "--out", str(tmp_path / "run"))
    assert f"{hook} of 'odd' (acme-odd 0.7)" in said and sentence in said


MATCHER = """
    from attrs import frozen
    import torch
    from ddcore import Learn, Loss, Plugin, hookimpl

    @frozen(kw_only=True, eq=False)
    class X(Plugin):
        role = "matcher"
        steps = 2
        learns = ("pixels",)

        @hookimpl
        def ddcore_learn(self, images):
            pixels = images.requires_grad_()
            return {learn}

        @hookimpl
        def ddcore_matching_loss(self, learn):
            {loss}
"""
GOOD = 'Learn({"pixels": pixels}, {"pixels": torch.optim.SGD([pixels], lr=0.1)}, {"pixels": "pixels"})'


@pytest.mark.parametrize(
    ("learn", "loss", "sentence"),
    [
        ("pixels", "yield Loss(learn)", "ddcore_learn of 'odd' (acme-odd 0.7) returned Tensor where Learn"),
        (GOOD, "yield learn.tensors['pixels']", "yielded Tensor at step 0: yield Loss(scalar)"),
        (GOOD, "yield Loss(learn.tensors['pixels'])", "yielded Loss at step 0: yield Loss(scalar)"),
        (GOOD, "yield Loss(learn.tensors['pixels'].sum() * float('nan'))", "became nan at step 0"),
    ],
)
def test_a_matcher_that_gives_the_wrong_thing_is_named(learn, loss, sentence, site, capsys, tmp_path):
    site.put("odd", MATCHER.format(learn=learn, loss=loss), distribution="acme-odd", version="0.7")
    code = invoke(["run", "--plugin", "odd", *tiny_words(), "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said
    assert "'odd' (acme-odd 0.7)" in said and sentence in said and "ddcore_" in said


def test_a_bug_in_a_hook_keeps_its_traceback_and_says_whose_hook_it_was(site, tmp_path):
    site.plugin("odd", VIEW + "return batch.nothing", distribution="acme-odd", version="0.7")
    with pytest.raises(AttributeError) as caught:
        invoke(["run", *PROBE, *tiny_words(), "--plugin", "odd", "--out", str(tmp_path / "run")])
    assert caught.value.__notes__ == ["in ddcore_view of 'odd' (acme-odd 0.7)"]


BROKEN = {
    "raises": ("raise RuntimeError('boom')", {}),
    "misspelt": ("{plugin}", {"body": "@hookimpl\n        def ddcore_veiw(self, batch): return batch"}),
    "signature": ("{plugin}", {"body": "@hookimpl\n        def ddcore_view(self, images): return images"}),
    "nothing": ("Y = 1", {}),
    "newer": ("{plugin}", {"body": "api = '9.0'"}),
    "wrapper": ("{plugin}", {"body": "@hookimpl(wrapper=True)\n        def ddcore_view(self, batch): return (yield)"}),
    "none": ("{plugin}", {"body": "pass", "value": "no_such_module:X"}),
}


@pytest.fixture
def broken(site):
    """Every broken plugin installed at once, and one name that two distributions offer."""
    for name, (source, more) in BROKEN.items():
        body, value = more.get("body", ""), more.get("value", "")
        site.put(name, site.source(body) if source == "{plugin}" else source, value=value)
    site.plugin("twice", distribution="one-twice")
    site.plugin("twice", distribution="other-twice")


@pytest.mark.parametrize("name", [*BROKEN, "twice"])
def test_selecting_a_broken_plugin_is_one_sentence_with_distribution_and_version(name, broken, capsys):
    said = refused(capsys, "--plugin", name)
    assert repr(name) in said and ("other-twice 1.2" if name == "twice" else f"(ddcore-{name} 1.2)") in said


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["plugins"], ["plugins", "matrix"], ["data", "list"]], ids=" ".join
)
def test_commands_that_do_not_select_them_keep_working(words, broken, capsys):
    assert invoke(words) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_an_unrelated_run_keeps_working(broken, tmp_path, capsys):
    assert invoke(["run", *PROBE, *tiny_words(), "--steps", "1", "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]


def test_each_is_a_row_of_the_listing_with_what_is_wrong(broken, capsys):
    assert invoke(["plugins", "--json"]) == 0
    rows = {row["name"]: row["status"] for row in json.loads(capsys.readouterr().out)}
    assert "broken" in rows["misspelt"] and "has no X" in rows["nothing"] and "clash" in rows["twice"]
    assert "no module named 'no_such_module'" in rows["none"]


def test_run_help_with_a_broken_plugin_selected_still_helps(broken, capsys):
    assert invoke(["run", "--plugin", "raises", "--help"]) == 0
    assert "--dataset" in capsys.readouterr().out
