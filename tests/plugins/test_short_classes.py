"""More images a class than the smallest class has: learned ones begin again with the same, rows take what there is."""

import json

import numpy as np
import pytest
import torch

from ddcore.cli.app import invoke
from ddcore.sets.artifact import load_artifact

COUNTS = (12, 9, 7, 2)
QUICK = (
    "--threads",
    "1",
    "--network",
    "convnet1-w4",
    "--protocol",
    "quick-2",
    "--eval-seeds",
    "1",
    "--full-epochs",
    "1",
)
TEACHERS = ("--teachers.networks", "convnet1-bn-w4", "--teachers.epochs", "1", "--teachers.no-check")
EXPERTS = ("--experts.count", "1", "--experts.epochs", "2")
RUNS = {
    "from noise": ("dm", "--init", "noise", "--steps", "2"),
    "from real images": ("dm", "--steps", "2"),
    "from k-center": ("dm", "--init", "kcenter", "--steps", "2"),
    "beside noise and herding": (
        *("dm", "--plugin", "coresets", "--init", "noise", "--coresets.features", "pixels", "--steps", "1"),
        *("--baseline", "noise", "--baseline", "herding"),
    ),
    "trajectories": ("mtt", *EXPERTS, "--mtt.student-steps", "2", "--mtt.expert-epochs", "1", "--steps", "1"),
    "correct": (
        "datm",
        "--experts.count",
        "1",
        "--experts.epochs",
        "4",
        "--datm.student-steps",
        "1",
        "--datm.expert-epochs",
        "1",
        "--steps",
        "1",
    ),
    "patches": ("rded", *TEACHERS, "--rded.factor", "2", "--rded.crops", "2"),
    "random patches": ("rded", "--labels", "hard", "--rded.pick", "random", "--rded.factor", "2", "--rded.crops", "2"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four classes of noise about their own level, of which the last has two train images."""
    made, draw = tmp_path_factory.mktemp("short"), np.random.default_rng(0)
    arrays = {}
    for part, counts in (("train", COUNTS), ("test", (4,) * 4)):
        labels = np.repeat(np.arange(4), counts)
        noise = draw.integers(0, 40, (len(labels), 8, 8))
        arrays |= {f"x_{part}": (noise + 50 * labels[:, None, None]).astype(np.uint8), f"y_{part}": labels}
    np.savez(made / "uneven.npz", **arrays)
    return made


def did(folder, words, out, *more):
    plugin, *rest = words
    asked = ["run", "--plugin", plugin, *rest, "--dataset", f"npz:{folder}/uneven.npz", *QUICK, *more]
    assert invoke([*asked, "--out", str(folder / out), "--cache", str(folder / "cache")]) == 0
    return json.loads((folder / out / "scores.json").read_text()), load_artifact(str(folder / out / "artifact"))


@pytest.mark.parametrize("kind", RUNS)
def test_every_way_to_begin_gives_as_many_images_of_each_class(folder, kind):
    scores, artifact = did(folder, RUNS[kind], kind.replace(" ", "-"), "--ipc", "5")
    assert artifact.labels.classes.bincount().tolist() == [5, 5, 5, 5]
    said = [text for text in scores["warnings"] if "fewer train images than --ipc 5 ('3': 2)" in text]
    assert len(said) == 1 and said[0] in artifact.manifest["notes"]
    rows = {row["set"]: row for row in scores["rows"] if row["labels"] == "hard"}
    for name in {"random", "kcenter", "herding"} & set(rows):
        assert rows[name]["ipc"] == 17 / 4 and "all there are of classes" in rows[name]["note"], name
        assert "5, 5, 5, 2" in rows[name]["note"]
    assert rows["distilled"]["ipc"] == 5 and "all there are" not in rows["distilled"]["note"]
    assert "noise" not in rows or rows["noise"]["ipc"] == 5


def test_a_start_that_is_filled_up_has_the_real_images_again(folder):
    _, artifact = did(folder, ("dm", "--steps", "0"), "start", "--ipc", "5")
    assert artifact.labels.classes.bincount().tolist() == [5, 5, 5, 2]  # nothing is learned: each is there once
    _, artifact = did(folder, RUNS["from real images"], "again", "--ipc", "5")
    assert len(artifact.labels.classes) == 20


def test_sets_of_real_images_take_what_there_is(folder):
    words = ("coresets", "--coresets.method", "herding", "--coresets.features", "pixels")
    scores, artifact = did(folder, words, "coreset", "--ipc", "5")
    assert artifact.labels.classes.bincount().tolist() == [5, 5, 5, 2]
    assert len(artifact.images().unique(dim=0)) == 17
    assert {row["set"]: row["ipc"] for row in scores["rows"]}["random"] == 17 / 4


def test_more_than_any_class_has_works_alike(folder):
    _, artifact = did(folder, RUNS["from noise"], "many", "--ipc", "14")
    assert artifact.labels.classes.bincount().tolist() == [14] * 4


def test_a_budget_is_not_bounded_by_the_smallest_class(folder):
    _, artifact = did(folder, ("dm", "--init", "noise", "--steps", "1"), "bytes", "--bytes", "8kB")
    assert int(artifact.labels.classes.bincount().min()) > 2


def test_students_on_real_images_take_what_there_is(folder, capsys):
    words = ["train", "--data", f"npz:{folder}/uneven.npz", "--student", "mlp", "--protocol", "stepwise-1"]
    words += ["--eval-seeds", "1", "--threads", "1", "--cache", str(folder / "cache")]
    assert invoke([*words, "--per-class", "5", "--out", str(folder / "train")]) == 0
    scores = json.loads((folder / "train" / "scores.json").read_text())
    assert scores["rows"][0]["ipc"] == 17 / 4
    assert scores["warnings"] == ["1 of 4 classes have fewer images than --per-class 5: all of theirs are taken"]
    assert invoke([*words, "--per-class", "13", "--out", str(folder / "many")]) == 2
    assert "--per-class 13 asks for more images than class '0', the largest, has (12)" in capsys.readouterr().err


def test_random_rows_are_all_different(folder):
    _, artifact = did(folder, RUNS["from noise"], "different", "--ipc", "5")
    from ddcore.scoring.baselines import of_those_there

    class Of:
        class real:
            counts = staticmethod(lambda: list(COUNTS))

    classes = artifact.labels.classes
    assert torch.equal(of_those_there(Of, classes).bincount(), torch.tensor([5, 5, 5, 2]))
    assert torch.equal(of_those_there(Of, torch.tensor([3, 0, 3, 3, 0])), torch.tensor([3, 0, 3, 0]))
