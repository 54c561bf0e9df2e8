"""``report.html``: what stands in it, for runs of every kind, and that all of it comes from the run's own files."""

import base64
import io
import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from ddcore.cli.app import invoke
from ddcore.errors import InputError
from ddcore.images.preview import sheet_png
from ddcore.pages import report
from ddcore.pages.report import command_text, gallery, loss_plot, matrix, options_of, score_plots, student_plots
from ddcore.sets.artifact import load_artifact
from ddcore.storage.places import Place
from ddcore.testing import PROBE

DISTILLED, LARGER, TRAINED = "distilled", "larger", "trained"


@pytest.fixture
def run(hostile_runs, tmp_path):
    """A copy of the distillation, to be changed."""
    return Place.at(shutil.copytree(hostile_runs / DISTILLED, tmp_path / "run"))


def decoded(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


class Tags(HTMLParser):
    """The names of a page's elements and attributes, and the addresses in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.attributes, self.addresses = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses |= {value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")}


def test_a_page_asks_the_network_for_nothing_and_runs_nothing(hostile_runs):
    for page in (f"{DISTILLED}/report.html", f"{TRAINED}/report.html", "comparison.html"):
        text = (hostile_runs / page).read_text()
        head, tags = text.partition("</head>")[0], Tags(text)
        assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in head
        assert head.index("Content-Security-Policy") < head.index("<style")
        assert not tags.elements & {"script", "iframe", "object", "embed", "form", "base", "audio", "video"}
        assert not [name for name in tags.attributes if name.startswith("on")]
        assert {re.match("#|data:|$", address).group() for address in tags.addresses} <= {"#", "data:"}
        assert set(re.findall(r"url\((#|data:image/png|[^)]{0,40})", text)) <= {"#", "data:image/png"}
        assert "@import" not in text


def test_names_of_classes_are_escaped_and_whole(hostile_runs):
    text = (hostile_runs / DISTILLED / "report.html").read_text()
    for name in json.loads((hostile_runs / DISTILLED / "run.json").read_text())["data"]["classes"]:
        assert f"<bdi>{name}</bdi>" in unescape(text), name
        assert name in text or any(letter in name for letter in "<>&\"'")
    assert "{{ 7 * 7 }}" in unescape(text) and "<script>document" not in text


def test_the_sheet_holds_every_image_at_the_place_that_its_button_shows(hostile_runs):
    artifact = load_artifact(hostile_runs / DISTILLED / "artifact")
    shown = gallery(artifact)
    sheet, side = decoded(shown["sheet"]), 8
    columns, lines = (round(float(part.rstrip("%")) / 100) for part in shown["size"].split())
    assert sheet.shape == (lines * side, columns * side, 3)
    pixels = (artifact.pixels() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for number, of in enumerate(shown["classes"]):
        own = (artifact.labels.classes == number).nonzero()[:, 0]
        assert len(of["at"]) == of["count"] == len(own) == 2
        for at, row in zip(of["at"], own, strict=True):
            # CSS: p % of (sheet - cell) lies left of a cell, as columns - 1 cells are 100 %
            x, y = (float(part.rstrip("%")) / 100 for part in at.split())
            left, top = round(x * (columns - 1)) * side, round(y * (lines - 1)) * side
            np.testing.assert_array_equal(sheet[top : top + side, left : left + side], pixels[row])


def test_what_does_not_fit_the_sheet_is_counted(hostile_runs, monkeypatch):
    artifact = load_artifact(hostile_runs / LARGER / "artifact")
    monkeypatch.setattr(report, "MOST_IMAGES", 12)  # of 5 classes of 4: 2 each
    assert [(len(c["at"]), c["count"]) for c in gallery(artifact)["classes"]] == [(2, 4)] * 5
    monkeypatch.setattr(report, "MOST_PIXELS", 3 * 64)
    few = gallery(artifact)
    assert [len(c["at"]) for c in few["classes"]] == [1, 1, 1] and few["left"] == 2


def test_images_on_the_way_are_kept_at_quarters_and_begin_with_the_initial_ones(hostile_runs):
    kept = report.evolution(Place.at(hostile_runs / DISTILLED))
    assert [step for step, _, _ in kept] == [0, 1, 2, 3, 4]
    strips = [decoded(url) for _, url, _ in kept]
    assert all(strip.shape == (8, 80, 3) for strip in strips)
    assert all(np.any(a != b) for a, b in zip(strips, strips[1:], strict=False))
    artifact = load_artifact(hostile_runs / DISTILLED / "artifact")
    order = torch.tensor([0, 2, 4, 6, 8, 1, 3, 5, 7, 9])
    last = np.asarray(Image.open(io.BytesIO(sheet_png(artifact.pixels(order), 10))))
    assert np.abs(last.astype(int) - strips[-1].astype(int)).max() <= 1


def test_keeping_images_on_the_way_changes_no_bit_of_the_set(hostile_runs, tmp_path, monkeypatch):
    record = json.loads((hostile_runs / DISTILLED / "run.json").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddcore.runs.loop.keep_snapshot", lambda *arguments: None)
    assert invoke(["run", *rest_of(record), "--out=again", "--full-epochs=1"]) == 0
    assert not (tmp_path / "again" / "snapshots").exists()
    for name in ("images.safetensors", "labels.safetensors"):
        first, again = (folder / "artifact" / name for folder in (hostile_runs / DISTILLED, tmp_path / "again"))
        assert first.read_bytes() == again.read_bytes()


def rest_of(record) -> list[str]:
    """The options of the runs of ``hostile_runs``."""
    config = record["config"]
    names = ("dataset", "ipc", "steps", "network", "eval_seeds", "threads", "cache")
    given = [f"--{name.replace('_', '-')}={config[name]}" for name in names]
    return [*PROBE, *given, f"--protocol={config['protocol'][0]}"]


def test_the_losses_of_students_are_in_the_log_and_nothing_of_the_test_set(hostile_runs):
    for name, students in ((DISTILLED, 8), (TRAINED, 2)):  # the four rows but full, of two seeds; full is one of 2 more
        log = [event for event in report.events(Place.at(hostile_runs / name)) if event["event"] == "epoch"]
        assert len({event["task"] for event in log}) >= students
        assert all(
            set(event) == {"event", "time", "task", "protocol", "network", "epoch", "steps", "loss"} for event in log
        )
        for task in {event["task"] for event in log}:
            steps = [event["steps"] for event in log if event["task"] == task]
            assert steps == sorted(steps) and len(steps) <= 51


def test_of_long_trainings_about_fifty_epochs_are_kept_the_last_among_them():
    from ddcore.training.loop import Epoch
    from ddcore.training.students import CURVE, curve

    class Log:
        def __init__(self):
            self.steps = []

        def log(self, event, **fields):
            self.steps.append(fields["steps"])

    log = Log()
    say = curve(log, of=1001 * 4, task="t")
    for n in range(1001):
        say(Epoch(n, 4 * (n + 1), 0.01, 1.0))
    assert len(log.steps) == CURVE + 1 and (log.steps[0], log.steps[-1]) == (4, 4004)


def test_every_kind_of_run_has_a_report(hostile_runs, tmp_path, capsys):
    trained = (hostile_runs / TRAINED / "report.html").read_text()
    for words in (
        "convnet2-w4, trained on",
        "Training with ddcore",
        "Students:",
        "Accuracy on the test set",
        "per_class",
    ):
        assert words in trained, words
    assert "The synthetic images" not in trained and "Storage" not in trained
    given = ("--eval-seeds=1", "--threads=1", "--full-epochs=1", "--out", str(tmp_path / "again"))
    assert invoke(["evaluate", str(hostile_runs / DISTILLED / "artifact"), *given]) == 0
    capsys.readouterr()
    assert invoke(["report", str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"].endswith("report.html")
    assert "evaluated on" in (tmp_path / "again" / "report.html").read_text()


def test_a_set_that_cannot_be_opened_here_is_shown_by_its_preview(run):
    manifest = (run / "artifact" / "manifest.json").read_json()
    (run / "artifact" / "manifest.json").write_json({**manifest, "labels": {"kind": "of a plugin that is not here"}})
    text = report.render(run)
    preview = base64.b64encode((run / "artifact" / "preview.png").read_bytes()).decode()
    assert preview in text and "popovertarget" not in text


def test_a_line_of_the_log_that_was_cut_short_and_old_runs_without_snapshots_do_no_harm(run):
    log = (run / "log.jsonl").read_bytes()
    (run / "log.jsonl").write_bytes(log + b'{"event": "step", "lo')
    for name in (run / "snapshots").names():
        (run / "snapshots" / name).remove()
    assert "On the way" not in report.render(run)
    (run / "log.jsonl").remove()
    assert "Matching loss" not in report.render(run)


def test_an_unfinished_or_damaged_run_is_refused_in_a_sentence(run, capsys, tmp_path):
    scores = (run / "scores.json").read_json()
    (run / "scores.json").write_json({"rows": [{"set": "distilled"}]})
    with pytest.raises(InputError, match="damaged, its run.json or scores.json lacks 'protocol'"):
        report.open_finished(run)
    (run / "scores.json").write_json(scores)
    (run / "scores.json").remove()
    assert invoke(["report", run.url]) == 2
    assert f"finish the run with `ddcore resume {run.url}`" in capsys.readouterr().err
    assert invoke(["report", str(tmp_path / "nowhere")]) == 2


def test_addresses_lose_their_credentials_in_the_command_and_the_options():
    record = {
        "command": ["ddcore", "run", "--data-root", "s3://key:secret@bucket/a b"],
        "config": {"data_root": "s3://key:secret@bucket/a", "steps": 5},
        "options": {"pull": {"rate": 1.0}},
        "sources": {"data_root": "command line", "steps": "default", "pull.rate": "file x.toml"},
    }
    assert command_text(record) == "ddcore run --data-root 's3://bucket/a b'"
    assert options_of(record) == {
        "set": [("data_root", "s3://bucket/a", "command line"), ("pull.rate", 1.0, "file x.toml")],
        "default": [("steps", 5, "default")],
    }


def row(name, network="convnet3", protocol="augmented", mean=0.5, **more):
    accuracy = {"mean": mean, "std": 0.0, "values": [mean]}
    return {"set": name, "labels": "hard", "network": network, "protocol": protocol, "accuracy": accuracy, **more}


def test_scores_have_a_plot_and_a_column_for_each_protocol_network_and_metric_with_the_teachers_in_each():
    rows = [row("teacher", "resnet", "its own"), row("distilled"), row("random"), row("distilled", "mlp", mean=0.25)]
    made = matrix(rows)
    assert made["headings"] == ["convnet3, augmented", "mlp, augmented"]
    cells = [(line["name"], [cell and cell["mean"] for cell in line["cells"]]) for line in made["lines"]]
    assert cells == [("distilled (hard)", [0.5, 0.25]), ("random (hard)", [0.5, None])]
    assert matrix(rows[:3]) is None
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    plots = score_plots(rows)
    assert [heading for heading, _ in plots] == [
        "accuracy: convnet3, protocol augmented",
        "accuracy: mlp, protocol augmented",
    ]
    assert all("teacher (resnet)" in svg for _, svg in plots)


def test_many_tasks_are_drawn_as_their_mean_and_range_and_a_resumed_step_counts_once():
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    log = [{"event": "step", "task": f"t{n}", "step": s, "loss": n + s} for n in range(9) for s in range(3)]
    assert "mean of 9 tasks" not in loss_plot(log[:12]) and "t1" in loss_plot(log[:12])
    line = report._together([{0: 1.0, 1: 2.0}, {1: 4.0}], "x")
    assert (line.across, line.up, line.low, line.high) == ([0, 1], [1, 3], [1, 2], [1, 4])
    assert loss_plot([*log[:3], {**log[2], "loss": 50}]) != loss_plot(log[:3])
    assert loss_plot(log[:1]) == "" and student_plots(log) == []


def test_without_matplotlib_a_report_has_tables_and_says_how_to_get_plots(run, monkeypatch):
    monkeypatch.setattr(report, "available", lambda: False)
    text = report.render(run)
    assert "ddcore-torch[report]" in text and "<svg" not in text and "0." in text


def test_the_core_and_its_report_need_no_matplotlib():
    import subprocess
    import sys

    script = (
        "import sys; sys.modules['matplotlib'] = None\nimport ddcore.pages.report, ddcore.pages.compare, ddcore.cli"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_accuracy_in_each_class_is_the_mean_of_seeds_of_one_protocol_and_network():
    rows = [row("a", class_accuracy=[[0.0, 1.0], [0.5, None]]), row("b", "mlp", class_accuracy=[[1.0, 1.0]]), row("c")]
    made = report.by_class(rows, ["cat", "dog"])
    assert made["headings"] == ["a (hard)"] and made["lines"] == [("cat", [0.25]), ("dog", [1.0])]
    assert report.by_class(rows[2:], ["cat", "dog"]) is None and report.by_class(rows, ["cat"]) is None


def test_scores_of_validation_images_say_so_and_their_accuracies_have_curves(run):
    scores, said = (run / "scores.json").read_json(), "validation, 0.2 of the train images"
    (run / "scores.json").write_json({**scores, "rows": [{**row, "on": said} for row in scores["rows"]]})
    assert f"Accuracy on {said}</h2>" in report.render(run)
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    epoch = {
        "event": "epoch",
        "task": "train-stepwise-student-0",
        "protocol": "stepwise",
        "network": "mlp",
        "loss": 1.0,
    }
    log = [{**epoch, "steps": n, **({"validation": n / 9} if n > 1 else {})} for n in range(1, 5)]
    plots = student_plots(log)
    assert [heading for heading, _ in plots] == ["mlp, protocol stepwise", "mlp, protocol stepwise, accuracy"]
    assert "validation accuracy" in plots[1][1] and "loss on the training rows" in plots[0][1]
