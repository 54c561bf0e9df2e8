"""A validation part: which images it holds, that nothing else is scored on, and what a run says about it."""

import json

import attrs
import pytest
import torch
from torch import nn

from ddcore.cli.app import invoke
from ddcore.data.source import Source, Split, decoded_key, keep_decoded, load_decoded
from ddcore.data.sources import open_source
from ddcore.errors import InputError
from ddcore.runs.opening import open_run
from ddcore.runs.run import Run
from ddcore.scoring.validation import carve
from ddcore.storage.places import Place
from ddcore.testing import PROBE, TINY, ddcore_cli, resume_to_end, stop_often  # noqa: F401  a fixture
from ddcore.training.loop import Epoch
from ddcore.training.watching import LOOKS, Watch

DIGITS = open_source("digits")
TRAIN = ["train", "--data=digits", "--student=convnet2-w4", "--protocol=stepwise-3", "--eval-seeds=1", "--threads=1"]


def numbered(*counts):
    """A source whose every pixel of an image is its number; class c has ``counts[c]`` train images."""
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    test = Split(torch.full((2, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([0, 1]))
    return Source(name="numbered", train=Split(pixels, labels), test=test, classes=tuple(map(str, range(len(counts)))))


def test_a_share_of_each_class_is_carved_and_no_image_lost_or_doubled():
    source = numbered(10, 4, 2)
    made = carve(source, 0.25, 0)
    # round(2.5) = 2, round(1) = 1, round(0.5) = 0, but one at least
    assert made.counts(made.test) == [2, 1, 1] and made.counts() == [8, 3, 1]
    both = torch.cat([made.train.stored, made.test.stored])[:, 0, 0, 0]
    assert both.sort().values.tolist() == list(range(16))
    for part in (made.train, made.test):
        assert torch.equal(part.labels, source.train.labels[part.stored[:, 0, 0, 0].long()])
        assert (part.stored[:, 0, 0, 0].diff() > 0).all()
    assert made.fingerprint != source.fingerprint and made.carved == (0.25, 0)


def test_the_seed_says_which_images():
    one, two, other = (carve(DIGITS, 0.2, seed) for seed in (0, 0, 1))
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert one.counts(one.test) == other.counts(other.test)


def test_a_large_share_leaves_an_image_to_train_on_and_one_image_cannot_be_shared():
    assert carve(numbered(3, 2), 0.99, 0).counts() == [1, 1]
    tokens = Split(torch.arange(12).view(6, 2), torch.tensor([0, 1] * 3))
    text = Source(name="t", train=tokens, test=tokens, classes=("a", "b"), modality="text", vocabulary=12)
    assert carve(text, 0.34, 0).test.stored.shape == (2, 2)
    with pytest.raises(InputError, match="class '1' has 1 train image"):
        carve(numbered(3, 1), 0.5, 0)
    graphs = attrs.evolve(numbered(3, 3), modality="graphs", dense=False)
    with pytest.raises(InputError, match="holds graphs"):
        carve(graphs, 0.5, 0)


def test_workers_get_what_was_carved(tmp_path):
    made = carve(DIGITS, 0.2, 3)
    keep_decoded(made, Place.at(tmp_path), pytest.fail)
    found = load_decoded(Place.at(tmp_path), decoded_key(made.summary()), pytest.fail)
    assert found.carved == (0.2, 3) and found.fingerprint == made.fingerprint


class Right(nn.Module):
    """Answers the class with probability ``share`` of being right, always the same way."""

    def __init__(self, labels, share):
        super().__init__()
        self.answers = torch.where(torch.arange(len(labels)) < share * len(labels), labels, 1 - labels)

    def forward(self, images):
        return nn.functional.one_hot(self.answers[images[:, 0, 0, 0].long()], 2).float()


class Few:
    labels = torch.arange(10) % 2

    def __len__(self):
        return 10

    def inputs(self, index):
        return index.float()[:, None, None, None]


def test_about_fifty_epochs_and_the_last_are_looked_at():
    watch = Watch(Few(), 503)
    looked = [n for n in range(1, 504) if watch.look(Right(Few.labels, 0.5), Epoch(n, n, 0.1, 0.0)) is not None]
    assert looked[-1] == 503 and abs(len(looked) - LOOKS) <= 1
    assert watch.tensors()["watched.steps"].tolist() == looked
    seconds = watch.tensors()["watched.seconds"]
    assert (seconds.diff() >= 0).all() and float(seconds[-1]) <= watch.kept["total"]


def test_what_is_seen_is_the_accuracy_and_the_last_epoch_is_seen_once():
    watch = Watch(Few(), 4)
    assert [watch.look(Right(Few.labels, s), Epoch(n, 2 * n, 0.1, 0.0)) for n, s in ((1, 0.3), (2, 0.8), (2, 0.8))] == [
        pytest.approx(0.3),
        pytest.approx(0.8),
        None,
    ]


def scores(folder):
    return json.loads((folder / "scores.json").read_text())


def test_a_run_is_scored_on_it_and_every_row_says_so(ddcore_cli, tmp_path):  # noqa: F811
    words = [*ddcore_cli.tiny, *PROBE, "--steps", 1, "--init", "real"]
    answer = ddcore_cli("run", *words, "--validation", 0.25, "--out", tmp_path / "a")
    assert answer.code == 0, answer.err
    found = scores(tmp_path / "a")
    assert {row["on"] for row in found["rows"]} == {"validation, 0.25 of the train images"}
    assert any("not of the test set" in warning for warning in found["warnings"])
    assert "scored on validation, 0.25 of the train images, not on the test set" in answer.out
    assert (found["dataset"]["train"], found["dataset"]["test"]) == (27, 9)
    full = found["rows"][-1]
    assert full["set"] == "full" and full["images"] == 27
    for row in found["rows"]:
        assert row["time_to_accuracy"]["steps"][0] <= row["steps"]
        assert all(9 * value == pytest.approx(round(9 * value)) for value in row["accuracy"]["values"])
    artifact = [tmp_path / "a" / "artifact", *TINY, "--full-epochs", 1, "--eval-seeds", 1]
    # the set's own split is inherited; another seed's is warned of, and none scores on the test set
    for name, more, warned in (("b", [], False), ("c", ["--seed", 7], True)):
        assert ddcore_cli("evaluate", *artifact, *more, "--out", tmp_path / name).code == 0
        again = scores(tmp_path / name)
        assert {row.get("on") for row in again["rows"]} == {full["on"]}
        assert any("made from other train images" in w for w in again["warnings"]) == warned
    assert ddcore_cli("evaluate", *artifact, "--validation", "none", "--out", tmp_path / "d").code == 0
    plain = scores(tmp_path / "d")
    assert plain["dataset"]["train"] == 36 and not any("on" in row for row in plain["rows"])
    assert not any("time_to_accuracy" in row for row in plain["rows"])


def test_no_test_image_is_touched(ddcore_cli, tmp_path):  # noqa: F811
    run = open_run(_begun(ddcore_cli, tmp_path))
    held = {tuple(image.flatten().tolist()) for image in run.source.test.stored}
    plain = attrs.evolve(run.setup.config, validation=None)
    whole = Run(attrs.evolve(run.setup, resolved=attrs.evolve(run.setup.resolved, config=plain)), run.place).source
    rows = {tuple(image.flatten().tolist()) for image in whole.test.stored}
    assert not held & rows and held <= {tuple(image.flatten().tolist()) for image in whole.train.stored}


def _begun(ddcore_cli, tmp_path):  # noqa: F811
    words = [*ddcore_cli.tiny, *PROBE, "--steps", 1, "--validation", 0.25, "--out", tmp_path / "run"]
    assert ddcore_cli("run", *words).code == 0
    return str(tmp_path / "run")


def test_a_student_is_watched_on_it_with_the_same_bits_also_after_stops(tmp_path, monkeypatch):
    line = [*TRAIN, "--per-class=5", f"--cache={tmp_path / 'cache'}", "--validation=0.3"]
    assert invoke([*line, f"--out={tmp_path / 'whole'}"]) == 0
    stop_often(monkeypatch, times=3)
    code = invoke([*line, f"--out={tmp_path / 'cut'}"])
    assert code == 3 and resume_to_end(tmp_path / "cut") == 0
    one, two = (scores(tmp_path / name)["rows"][0] for name in ("whole", "cut"))
    assert one["accuracy"] == two["accuracy"] and one["class_accuracy"] == two["class_accuracy"]
    assert one["time_to_accuracy"]["steps"] == two["time_to_accuracy"]["steps"]
    log = [json.loads(text) for text in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    seen = [line["validation"] for line in log if line["event"] == "epoch"]
    assert len(seen) == 3 and seen[-1] == pytest.approx(one["accuracy"]["values"][0])


def test_students_of_a_set_are_scored_on_the_split_that_it_was_made_with(tmp_path):
    words = [
        *PROBE,
        "--ipc=2",
        "--steps=1",
        "--init=real",
        "--network=convnet2-w4",
        "--protocol=quick-2",
        "--preset=none",
    ]
    small = ["--eval-seeds=1", "--full-epochs=1", "--threads=1", f"--cache={tmp_path / 'cache'}"]
    assert invoke(["run", *words, *small, "--seed=3", "--validation=0.25", f"--out={tmp_path / 'set'}"]) == 0
    line = ["train", f"--data={tmp_path / 'set' / 'artifact'}", *TRAIN[2:], f"--cache={tmp_path / 'cache'}"]
    for name, more, warned in (("same", [], False), ("other", ["--seed=4"], True)):
        assert invoke([*line, *more, f"--out={tmp_path / name}"]) == 0
        found = scores(tmp_path / name)
        assert {row["on"] for row in found["rows"]} == {"validation, 0.25 of the train images"}
        assert any("made from other train images" in w for w in found["warnings"]) == warned
    same, made = (json.loads((tmp_path / n / "run.json").read_text()) for n in ("same", "set"))
    assert same["data"]["fingerprint"] == made["data"]["fingerprint"]


@pytest.mark.parametrize("share", ["0", "1", "-0.5"])
def test_shares_outside_of_0_to_1_are_refused(share, tmp_path, capsys):
    assert invoke([*TRAIN, f"--validation={share}", f"--out={tmp_path / 'o'}"]) == 2
    assert "--validation" in capsys.readouterr().err
