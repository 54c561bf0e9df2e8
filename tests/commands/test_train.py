"""``ddcore train``: students with and without plugins, on data and on finished sets; teachers from names and files."""

import json

import pytest
import torch

from ddcore.cli.app import invoke
from ddcore.commands.train import TrainingRun, teacher_of
from ddcore.errors import InputError
from ddcore.runs.run import Run
from ddcore.storage.places import Place, load_tensors, read_metadata, save_tensors
from ddcore.testing import resume_to_end, stop_often
from ddcore.training.loop import rate_at
from ddcore.training.protocols import protocol

TERM = """
from typing import ClassVar
import torch
from attrs import frozen
from ddcore import Plugin, Term, hookimpl, option

@frozen(kw_only=True, eq=False)
class Quiet(Plugin):
    summary: ClassVar[str] = "students whose logits stay small, for tests"
    role: ClassVar[str] = "student"
    weight: float = option(0.1, help="weight of squared logits")

    @hookimpl
    def ddcore_student_loss(self, output):
        return Term("quiet", output.square().mean(), self.weight)
"""
QUICK = ["--student=convnet2-w4", "--protocol=stepwise-3", "--eval-seeds=2", "--threads=1"]
pytestmark = pytest.mark.usefixtures("probes")


@pytest.fixture
def quiet(tmp_path):
    (tmp_path / "quiet.py").write_text(TERM)
    return ["--plugin-path", str(tmp_path / "quiet.py")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def train(tmp_path, cache, *words, name="run"):
    code = invoke(
        ["train", "--data=digits", "--per-class=5", *QUICK, f"--cache={cache}", f"--out={tmp_path / name}", *words]
    )
    assert code == 0
    return rows_of(tmp_path / name)


def rows_of(folder):
    return {row["set"]: row for row in json.loads((folder / "scores.json").read_text())["rows"]}


def test_a_student_stands_beside_the_same_one_without_plugins(tmp_path, cache, quiet):
    rows = train(tmp_path, cache, *quiet)
    assert list(rows) == ["student", "plain"]
    assert rows["student"]["steps"] == rows["plain"]["steps"] == 3
    assert (
        rows["student"]["bytes"] == rows["plain"]["bytes"] == {"images": 3200, "labels": 50, "models": 0, "total": 3250}
    )
    alone = train(tmp_path, cache, name="alone")
    assert list(alone) == ["student"]
    assert alone["student"]["accuracy"] == rows["plain"]["accuracy"]
    zero = train(tmp_path, cache, *quiet, "--quiet.weight=0", name="zero")
    assert zero["student"]["accuracy"] == zero["plain"]["accuracy"]


def test_it_leaves_a_report_that_can_be_written_again(tmp_path, cache):
    train(tmp_path, cache)
    written = (tmp_path / "run" / "report.html").read_text()
    assert "convnet2-w4, trained on digits" in written
    assert invoke(["report", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").read_text() == written


def test_weights_are_kept_and_differ_by_what_the_plugin_does(tmp_path, cache, quiet):
    train(tmp_path, cache, *quiet, "--no-plain")
    kept = sorted(path.name for path in (tmp_path / "run" / "students").iterdir())
    assert kept == ["student-0.safetensors", "student-1.safetensors"]
    facts = read_metadata(Place.at(tmp_path / "run" / "students" / kept[0]))
    assert json.loads(facts.pop("normalisation"))["kind"] == "mean-std"
    assert json.loads(facts.pop("class_names")) == [str(n) for n in range(10)]
    assert facts == {"network": "convnet2-w4", "dataset": "digits", "classes": "10", "channels": "1", "size": "8"}


def test_a_finished_set_is_trained_on_beside_random_images_of_the_same_count(tmp_path, cache, quiet):
    from ddcore.kit.contract import stage

    probe = ["--plugin-path", str(stage.HERE / "probe.py")]
    made = ["run", *probe, "--ipc=3", "--steps=1", "--init=real", "--network=convnet2-w4", "--protocol=quick-2"]
    made += ["--eval-seeds=1", "--full-epochs=1", "--threads=1", "--preset=none", f"--cache={cache}"]
    assert invoke([*made, f"--out={tmp_path / 'set'}"]) == 0
    words = [f"--data={tmp_path / 'set' / 'artifact'}", *QUICK, f"--cache={cache}", f"--out={tmp_path / 'run'}", *quiet]
    assert invoke(["train", *words]) == 0
    rows = rows_of(tmp_path / "run")
    assert list(rows) == ["student", "plain", "random", "random, plain"]
    assert {row["images"] for row in rows.values()} == {30}
    assert {row["steps"] for row in rows.values()} == {3}
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert config["dataset"] == "digits"


def test_a_stopped_training_goes_on_in_the_same_bits_and_two_jobs_give_them_too(tmp_path, cache, quiet, monkeypatch):
    whole = train(tmp_path, cache, *quiet, name="whole")
    both = train(tmp_path, cache, *quiet, "--jobs=2", name="both")
    stop_often(monkeypatch, times=3)
    words = ["--data=digits", "--per-class=5", *QUICK, f"--cache={cache}", *quiet]
    code = invoke(["train", *words, f"--out={tmp_path / 'cut'}"])
    assert code == 3 and resume_to_end(tmp_path / "cut") == 0
    for other in (both, rows_of(tmp_path / "cut")):
        assert {name: row["accuracy"] for name, row in other.items()} == {n: r["accuracy"] for n, r in whole.items()}
    one, cut = (load_tensors(Place.at(tmp_path / n / "students" / "student-1.safetensors")) for n in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in one.items())


def test_a_student_becomes_the_next_ones_teacher(tmp_path, cache):
    first = train(tmp_path, cache, name="first")
    file = tmp_path / "first" / "students" / "student-0.safetensors"
    rows = train(tmp_path, cache, "--plugin=heed", f"--teacher={file}", "--teachers.no-check", name="second")
    assert rows["teacher"]["accuracy"]["values"] == first["student"]["accuracy"]["values"][:1]
    second = load_tensors(Place.at(tmp_path / "second" / "students" / "student-0.safetensors"))
    assert any(not torch.equal(tensor, second[name]) for name, tensor in load_tensors(Place.at(file)).items())


def test_labels_by_teachers_are_made_for_real_images_too(tmp_path, cache):
    words = [
        "--teacher=convnet1-bn-w4",
        "--teachers.epochs=2",
        "--teachers.no-check",
        "--labels=averaged",
        "--plugin=heed",
    ]
    rows = train(tmp_path, cache, *words)
    assert rows["student"]["labels"] == rows["plain"]["labels"] == "averaged"
    assert rows["student"]["bytes"]["labels"] == 50 * 10 * 4 + 50


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--teacher=resnet8"], "no plugin asks teachers"),
        (["--per-class=9999"], "--per-class 9999 asks for more images than class"),
        (["--student=resnet21"], "no network is named 'resnet21'"),
        (["--protocol=qick"], "no protocol is named 'qick'"),
        (["--data=digitz"], "no data set is named 'digitz'"),
        (["--ipc=3"], "No such option"),
    ],
)
def test_what_cannot_work_is_one_sentence(tmp_path, cache, words, sentence, capsys):
    code = invoke(["train", "--data=digits", *QUICK, f"--cache={cache}", f"--out={tmp_path / 'o'}", *words])
    assert code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_matcher_does_nothing_for_a_student_and_is_refused(tmp_path, cache, capsys):
    assert invoke(["train", "--data=digits", *QUICK, "--plugin=pull", f"--out={tmp_path / 'o'}"]) == 2
    assert "does nothing where a student is trained: leave out --plugin pull" in capsys.readouterr().err


def test_teachers_are_names_files_or_both(tmp_path):
    assert teacher_of("resnet56") == ("resnet56", "train")
    assert teacher_of("resnet56=w.pth") == ("resnet56", "w.pth")
    file = tmp_path / "w.safetensors"
    save_tensors(Place.at(file), {"a": torch.zeros(1)}, {"network": "mlp"})
    assert teacher_of(str(file)) == ("mlp", str(file))
    save_tensors(Place.at(file), {"a": torch.zeros(1)})
    with pytest.raises(InputError, match="does not say which network it is of"):
        teacher_of(str(file))


def test_the_protocol_drops_the_rate_three_times_with_one_optimiser():
    schedule = protocol("stepwise").schedule(50_000)
    a_pass = 782
    assert (schedule.steps, schedule.drops) == (240 * a_pass, (150 * a_pass, 180 * a_pass, 210 * a_pass))
    rates = [rate_at(t, 0.05, 240, schedule="steps", drops=(150, 180, 210)) for t in (0, 149, 150, 180, 210, 239)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 5e-4, 5e-5, 5e-5])
    assert protocol("stepwise-8").schedule(640).drops == (50, 60, 70)
    assert TrainingRun.network_name.fget is not Run.network_name.fget


def test_the_example_of_ones_own_network_trains_by_its_own_command(tmp_path, cache):
    import re
    import shlex
    from pathlib import Path

    file = Path(__file__).parents[2] / "examples" / "own_network.py"
    (line,) = re.findall(r"ddcore (train .*)", file.read_text())
    line = re.sub(r"--plugin \w+", "--plugin heed", line)
    words = shlex.split(line.replace("examples/own_network.py", str(file)))
    quick = ["--teachers.epochs=3", "--protocol=stepwise-2", "--eval-seeds=1", "--per-class=20", "--threads=1"]
    assert invoke([*words, *quick, f"--cache={cache}", f"--out={tmp_path / 'run'}"]) == 0
    assert set(rows_of(tmp_path / "run")) == {"teacher", "student", "plain"}
