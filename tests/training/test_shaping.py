"""What plugins make of a student: which rows an epoch visits, the network around it, modules with a rate of their own."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ddcore.cli.app import invoke
from ddcore.labels import HardLabels
from ddcore.networks.zoo import build
from ddcore.storage.places import Place, load_tensors, read_metadata
from ddcore.testing import resume_to_end, stop_often
from ddcore.training.loop import Beside, Changes, Descent, train_student
from ddcore.training.shaping import student_identity, student_name, student_network

HALF = """
from typing import ClassVar
import torch
from attrs import frozen
from ddcore import Plugin, Term, hookimpl, option

@frozen(kw_only=True, eq=False)
class Half(Plugin):
    summary: ClassVar[str] = "new rows each epoch and a critic of its own, for tests"
    role: ClassVar[str] = "student"
    whole_batches: ClassVar[bool] = True
    share: float = option(0.5, help="of the rows")
    rate: float = option(0.5, help="of the critic")

    def visited(self, count):
        return round(self.share * count)

    @hookimpl
    def ddcore_student_rows(self, rows, samples, epoch, state, generator, network):
        assert not network.training and len(samples.labels) == len(rows)
        state["visited"] = [*state.get("visited", []), epoch]
        assert state["visited"] == list(range(epoch + 1))
        return rows[torch.randperm(len(rows), generator=generator)[: self.visited(len(rows))]]

    @hookimpl
    def ddcore_student_modules(self, seen):
        return torch.nn.Linear(seen.logits.shape[1], 1)

    def module_optimizer(self, modules, rate):
        return torch.optim.Adam(modules.parameters(), lr=self.rate * rate)

    @hookimpl
    def ddcore_student_loss(self, output, modules, batch):
        assert len(batch) in (20, 5), len(batch)
        return Term("critic", modules(output).square().mean())
"""
AROUND = """
from typing import ClassVar
import torch
from attrs import frozen
from torch import nn
from ddcore import Plugin, hookimpl

class Around(nn.Module):
    def __init__(self, inner, classes):
        super().__init__()
        self.inner, self.last = inner, nn.Linear(classes, classes)

    def embed(self, images):
        return self.inner(images)

    def forward(self, images):
        return self.last(self.embed(images))

@frozen(kw_only=True, eq=False)
class Wrapping(Plugin):
    summary: ClassVar[str] = "one more layer, for tests"
    role: ClassVar[str] = "student"

    @hookimpl
    def ddcore_adapt_student(self, network, seen):
        return Around(network, seen.logits.shape[1])
"""
LOST = AROUND.replace("return Around(network, seen.logits.shape[1])", "return type(network)(nn.Flatten(), 64, 10)")
FAR = HALF.replace("return rows[torch", "return rows + 1 if self.share == 0.75 else rows[torch")
QUICK = [
    "--student=convnet2-w4",
    "--protocol=stepwise-4",
    "--eval-seeds=1",
    "--threads=1",
    "--data=digits",
    "--per-class=9",
]


@pytest.fixture
def plugin(tmp_path):
    def written(text):
        place = tmp_path / "half.py"
        place.write_text(text)
        return ["--plugin-path", str(place)]

    return written


def train(out, *words):
    return invoke(["train", *QUICK, f"--out={out}", *words])


def rows_of(out):
    return {row["set"]: row for row in json.loads((out / "scores.json").read_text())["rows"]}


def test_epochs_become_steps_by_the_rows_they_visit_for_plain_students_too(tmp_path, plugin):
    assert train(tmp_path / "a", *plugin(HALF.replace("(20, 5)", "(45,)"))) == 0
    rows = rows_of(tmp_path / "a")
    assert {row["steps"] for row in rows.values()} == {4}
    assert rows["student"]["images"] == 90
    log = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    losses = {line["task"]: line["loss"] for line in log if line["event"] == "epoch"}
    assert len(losses) == len(set(losses.values())) == 2, losses


def test_a_stopped_student_keeps_the_plugins_state_modules_and_their_optimiser(tmp_path, plugin, monkeypatch):
    words = plugin(HALF.replace("(20, 5)", "(45,)"))
    assert train(tmp_path / "whole", *words, "--no-plain") == 0
    stop_often(monkeypatch)
    assert train(tmp_path / "cut", *words, "--no-plain") == 3
    assert resume_to_end(tmp_path / "cut") == 0
    one, cut = (load_tensors(Place.at(tmp_path / n / "students" / "student-0.safetensors")) for n in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in one.items())


def test_labels_of_views_visit_what_they_were_made_for(tmp_path, plugin, capsys):
    words = ["--labels=per-view", "--teachers.networks=convnet1-bn-w4", "--teachers.epochs=1", "--teachers.no-check"]
    assert train(tmp_path / "a", *plugin(HALF), *words, f"--cache={tmp_path / 'cache'}") == 2
    assert "chooses the rows of students' epochs, which labels of views say already" in capsys.readouterr().err


def test_rows_that_are_not_there_are_refused(tmp_path, plugin, capsys):
    assert train(tmp_path / "a", *plugin(FAR), "--half.share=0.75") == 2
    assert "ddcore_student_rows of 'half'" in (err := capsys.readouterr().err)
    assert "rows 1 to 90 of 90" in err


def test_a_network_around_a_student_is_trained_tested_and_kept(tmp_path, plugin):
    assert train(tmp_path / "a", *plugin(AROUND)) == 0
    kept = load_tensors(Place.at(tmp_path / "a" / "students" / "student-0.safetensors"))
    assert kept["last.weight"].shape == (10, 10)
    plain = load_tensors(Place.at(tmp_path / "a" / "students" / "plain-0.safetensors"))
    assert {f"inner.{name}" for name in plain} == {name for name in kept if name.startswith("inner.")}


def test_a_network_without_the_student_is_refused(tmp_path, plugin, capsys):
    assert train(tmp_path / "a", *plugin(LOST)) == 2
    assert "does not hold the student it was given" in capsys.readouterr().err


def test_students_begin_with_weights_from_a_file_the_plain_ones_too(tmp_path, plugin, capsys):
    assert train(tmp_path / "a", "--protocol=stepwise-1") == 0
    file = tmp_path / "a" / "students" / "student-0.safetensors"
    assert train(tmp_path / "b", "--protocol=stepwise-0", f"--from={file}") == 0
    begun = load_tensors(Place.at(tmp_path / "b" / "students" / "student-0.safetensors"))
    assert all(torch.equal(tensor, begun[name]) for name, tensor in load_tensors(Place.at(file)).items())
    assert train(tmp_path / "c", "--student=mlp", f"--from={file}") == 2
    assert "lack" in capsys.readouterr().err


def test_modules_keep_a_rate_of_their_own_under_the_students_schedule():
    seen: list[float] = []
    module = nn.Linear(2, 2)
    own = torch.optim.SGD(module.parameters(), lr=0.3)
    beside = Beside({"critic": module}, {"critic": own})
    network = build("mlp", 1, 8, 10, torch.Generator().manual_seed(0))
    descent = Descent(steps=4, batch=5, rate=0.1, schedule="steps", drops=(2,), drop=0.1)

    def reshape(value, output, network, batch, clean, step):
        return value + module(output[:, :2]).square().mean()

    train_student(
        network,
        torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(1)),
        HardLabels(torch.arange(10), 10),
        descent,
        generator=lambda *key: torch.Generator().manual_seed(0),
        changes=Changes(reshape=reshape, also=beside),
        on_epoch=lambda epoch: seen.append(own.param_groups[0]["lr"]),
    )
    assert seen == pytest.approx([0.3, 0.03])
    assert len(beside.joined()) == 0


def test_passes_in_mixed_precision_train_and_say_so(tmp_path):
    assert train(tmp_path / "a", "--amp", "--protocol=stepwise-20") == 0
    assert train(tmp_path / "b", "--protocol=stepwise-20") == 0
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["config"]["amp"] is True
    weights = [load_tensors(Place.at(tmp_path / n / "students" / "student-0.safetensors")) for n in ("a", "b")]
    assert all(tensor.dtype == weights[1][name].dtype for name, tensor in weights[0].items())
    assert any(not torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert read_metadata(Place.at(tmp_path / "a" / "students" / "student-0.safetensors"))["network"] == "convnet2-w4"


def test_a_trained_row_says_whose_students_it_is_of_and_plain_ones_do_not(tmp_path, plugin):
    half = plugin(HALF.replace("(20, 5)", "(45,)"))
    assert train(tmp_path / "a", *half) == 0
    assert train(tmp_path / "b", *half, "--half.rate=0.25") == 0
    first, second = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    assert first["student"]["student"].startswith("half #") and "student" not in first["plain"]
    assert first["student"]["student"] != second["student"]["student"]


def test_scores_recipe_and_cached_rows_tell_students_of_other_plugins_apart(tmp_path, plugin, probes, capsys):
    half = plugin(HALF.replace("in (20, 5)", "> 0"))
    words = ["--plugin=pull", "--dataset=digits", "--ipc=1", "--steps=1", "--network=mlp", "--protocol=stepwise-2"]
    words += ["--eval-seeds=1", "--threads=1", "--full-epochs=1", f"--cache={tmp_path / 'cache'}"]
    found = {}
    for name, more in (("plain", []), ("half", half), ("more", [*half, "--half.rate=0.25"])):
        assert invoke(["run", *words, *more, f"--out={tmp_path / name}"]) == 0, capsys.readouterr().err
        recipe = json.loads((tmp_path / name / "artifact" / "manifest.json").read_text())["recipe"]
        found[name] = rows_of(tmp_path / name), recipe, len(list((tmp_path / "cache" / "full").iterdir()))
    assert "student" not in found["plain"][0]["full"] and "students" not in found["plain"][1]
    names = {n: {row["student"] for row in found[n][0].values()} for n in ("half", "more")}
    assert all(len(of) == 1 for of in names.values()) and names["half"] != names["more"]
    students = found["half"][1]["students"]
    assert {students["name"]} == names["half"] and students["plugins"] == {"half": {"share": 0.5, "rate": 0.5}}
    assert [found[n][2] for n in ("plain", "half", "more")] == [1, 2, 3], "none was taken for another's"


def test_an_identity_has_no_secrets_no_neutral_plugins_and_names_what_stands_in_for_the_network():
    from attrs import frozen

    from ddcore import Plugin, hookimpl, option

    @frozen(kw_only=True, eq=False)
    class Lending(Plugin):
        neutral = {"weight": 0.0}
        weight: float = option(0.5, help="x")
        token: str = option("hidden", help="x", secret=True)

        @hookimpl
        def ddcore_adapt_student(self, network):
            return network

    run = SimpleNamespace(plugins={"lending": Lending()})
    assert student_identity(run) == {"plugins": {"lending": {"weight": 0.5}}}
    assert student_identity(SimpleNamespace(plugins={"lending": Lending(weight=0.0)})) == {}
    assert student_name({}) == "" and student_network(student_identity(run), "mlp") == "mlp"
    assert student_network({"plugins": {"lending": {"network": "an encoder"}}}, "mlp") == "an encoder"
